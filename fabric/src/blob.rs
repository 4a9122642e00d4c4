//! Blobs: bytes named by their BLAKE3 hash, and the protocol `/opencloud/blob/1` that moves them.
//!
//! # Messages
//!
//! One stream per fetch, opened by the one who wants the bytes. All integers are little endian.
//!
//! | from | message | form |
//! |---|---|---|
//! | fetcher | wanted | hash, 32 bytes; `from`, 8 bytes: the first byte wanted, a multiple of 16 KiB; `to`, 8 bytes: the one after the last, a multiple of 16 KiB or anything beyond the blob |
//! | server | head | status, 1 byte; size of the whole blob, 8 bytes |
//! | server | body, after status 0 | the BLAKE3 tree from `from` to before `to` in pre-order: 64 bytes for each inner node above 16 KiB groups, the bytes of each group |
//!
//! Status: 0 found, 1 not found, 2 denied, 3 busy, 4 `from` or `to` is not of the blob. The stream ends
//! after the body. The outboard that both sides keep is the same inner nodes of the whole tree in
//! pre-order, without a size.
//!
//! # States
//!
//! Of a stream: `Asked → Head → Body → Ended`. A fetcher asks up to four peers, each for another stretch of the blob, and takes
//! stretches from slow ones for fast ones; a stream whose stretch has become shorter is closed before its end. Which peer
//! fetches what is decided in `plan.rs`. Of a fetch: what is in the file grows until it is whole. A fetcher that loses all
//! streams keeps what it wrote, and what is there is told by the file's length or, when it has gaps, by a list beside it. A
//! fetcher whose file is longer than the blob starts again at 0. A range that is read without a file ([`crate::Fabric::read`])
//! is a stream of its own, from one peer.
//!
//! # Invariant
//!
//! Every byte written to the fetcher's file was verified against the wanted hash before it was
//! written, and [`Fetched`] is given only for a file that hashes to it: after a resume the
//! whole file is read again, because a file that lived through a crash proves nothing.
//!
//! # What a liar can do
//!
//! - A server that sends one wrong bit is found when the piece of 256 KiB with it has come, and
//!   neither that 16 KiB group nor anything after it in the stretch is written. It may refuse, stall or cut: it loses its
//!   stretch to another peer after 2 s, is left after 30 s, and the others go on. It may overstate the
//!   size up to the fetcher's limit: this is found at the first inner node that the false size
//!   changes, and until then only true bytes were written. Who says another size than the first waits until that one is
//!   proven or its peer is gone. Who reads a range alone learns the size for sure only with the last group.
//! - A fetcher may ask for anything; [`BlobSource`] decides for each peer and blob. It may hold a
//!   place by reading slowly: 30 s without progress free it, and no peer has more than its share
//!   of the places. Nor does it get more bytes by more streams: peers take turns (`shares.rs`).

mod check;
mod disk;
mod error;
mod fetch;
mod lanes;
mod parts;
mod piece;
mod plan;
mod read;
mod serve;
mod served;
mod shares;
mod transfer;
mod tree;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use libp2p::StreamProtocol;

pub use error::FetchError;
pub use fetch::{FETCH_PEERS_MAX, Fetched};
pub(crate) use fetch::{Wanted, Ways, fetch};
pub(crate) use lanes::Lanes;
pub use read::READ_MAX;
pub(crate) use read::{Asked, read, size, take};
pub(crate) use serve::Wanted as Request;
pub(crate) use serve::{Server, is_stretch, serve};
pub(crate) use served::Served;
pub use served::Serving;
pub use shares::RATE_MIN;
pub(crate) use shares::Shares;
pub use tree::{BlobHasher, GROUP_BYTES, hash_file, outboard_bytes};

use crate::key::PeerKey;

pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new("/opencloud/blob/1");
/// How long either side waits for the other to take or give the next bytes.
const STALL: Duration = Duration::from_secs(30);
/// Bytes of the message `wanted`.
pub(crate) const WANTED_BYTES: usize = 48;
/// Bytes of the message `head`.
const HEAD_BYTES: usize = 9;

const FOUND: u8 = 0;
const NOT_FOUND: u8 = 1;
const DENIED: u8 = 2;
const BUSY: u8 = 3;
const OUTSIDE: u8 = 4;

/// A blob that may be served.
#[derive(Clone, Debug)]
pub struct BlobFile {
    /// The file with exactly the blob's bytes.
    pub data: PathBuf,
    /// Its outboard, as [`hash_file`] or [`Fetched`] gave it.
    pub outboard: Bytes,
    /// Its size in bytes.
    pub size: u64,
}

/// Why a blob is not served. A stranger should not learn from the answer what exists: answer
/// `NotFound` where even that is nobody's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlobDenied {
    /// This node does not have it.
    #[error("the blob is not here")]
    NotFound,
    /// The peer may not have it.
    #[error("the peer may not have the blob")]
    Denied,
    /// Not at the moment.
    #[error("too many blobs are being served: try again later")]
    Busy,
}

/// Where served blobs come from, and who may have which.
pub trait BlobSource: Send + Sync + 'static {
    /// Decides whether `peer` may have the blob, and where its bytes are. Called once for each
    /// fetch, outside of the task that moves the network; may wait up to 15 s.
    fn open(
        &self,
        peer: PeerKey,
        hash: [u8; 32],
    ) -> Pin<Box<dyn Future<Output = Result<BlobFile, BlobDenied>> + Send>>;
}

/// A source that has nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBlobs;

impl BlobSource for NoBlobs {
    fn open(
        &self,
        _: PeerKey,
        _: [u8; 32],
    ) -> Pin<Box<dyn Future<Output = Result<BlobFile, BlobDenied>> + Send>> {
        Box::pin(std::future::ready(Err(BlobDenied::NotFound)))
    }
}
