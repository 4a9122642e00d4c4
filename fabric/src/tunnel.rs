//! Tunnels: byte streams between a peer and something behind this node (a service's port, a console, logs), and the protocol
//! `/opencloud/tunnel/1` that carries them.
//!
//! # Messages
//!
//! One stream per tunnel, opened by the one who wants it. All integers are big endian.
//!
//! | from | message | form |
//! |---|---|---|
//! | opener | request | length, 2 bytes, at most 1024; as many bytes of the application's words |
//! | acceptor | verdict | status, 1 byte; after status 1 also the length of the reason, 1 byte, and the reason in UTF-8 |
//! | both, after status 0 | end | 0, 1 byte; 0, 2 bytes: this direction is complete |
//! | both, after status 0 | chunk | 1, 1 byte; length, 2 bytes, not 0; as many bytes of the tunnel |
//! | both, after status 0 | credit | 2, 1 byte; number, 2 bytes, not 0: as many KiB more may be sent to me |
//!
//! Status: 0 open, 1 refused, 2 busy, 3 the request is too long. After any but 0 the stream ends.
//!
//! The stream closes when both directions are complete. Chunks exist for the sake of the end: QUIC finishes a stream that is
//! dropped in the middle, and yamux does so in one of its states, so that without an explicit end half an answer would look
//! like a whole one. Credit, and nothing else, goes on after the sender's own end. Who waits for credit reads on and finds
//! what else is sent then; who does not has no reason to read, and what is still under way when the stream closes is of no
//! interest.
//!
//! # Bytes in flight
//!
//! Each side may send 64 KiB of chunks, their heads included, and then as much as it has credit for. A side gives credit for what its application has
//! read, when that is half the window, and doubles the window of a tunnel that is read fast, out of what
//! [`crate::Limits::tunnel_window_bytes`] gives to all tunnels with the peer; one has a quarter of it at most. So a tunnel
//! that nobody reads holds no more than its window, wherever it is on the way. A QUIC connection has room for the windows of
//! all tunnels with a peer and half as much again as a stream may have: however many of them stand still, messages, blobs and
//! other tunnels go on. Without credit two of them would stop everything that goes the same way, the pings included.
//!
//! # States
//!
//! `Asked → Decided → Open → Ended`, and in `Open` each direction for itself: `Flowing → Ended` or `Flowing → Cut`. A cut of
//! one direction cuts the other. The acceptor cuts a tunnel in which nothing has moved for [`crate::Limits::tunnel_idle`], one
//! whose far end fails, one that its application gives up ([`FarEnd::cut`]), and all tunnels of a peer when its last
//! connection closes; dead connections are found within a minute. The opener cuts a tunnel by dropping it.
//!
//! # Invariant
//!
//! A reader is told that a direction ended only if its writer ended it; then it has got every byte, in order. Everything else
//! is an error. No byte of a tunnel moves in either direction before the acceptor's application has said yes to this peer.
//!
//! # Bounds
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | tunnels that peers have opened, one peer and all | [`crate::Limits::tunnels_in_per_peer`], [`crate::Limits::tunnels_in`] | "busy"; as many again are told so, further streams are dropped |
//! | tunnels that this node has opened, to one peer and all | [`crate::Limits::tunnels_out_per_peer`], [`crate::Limits::tunnels_out`] | an error at once |
//! | request, reason | 1024, 255 bytes | not read and an offence; cut |
//! | bytes in flight | 64 KiB for each tunnel, [`crate::Limits::tunnel_window_bytes`] more for those with a peer | writers wait |
//! | buffers of a tunnel | 200 KiB | writers wait |
//! | request, decision, taking the verdict | 10 s, [`crate::Limits::tunnel_decision`], 30 s | cut, "busy", cut |
//! | standing still | [`crate::Limits::tunnel_idle`] | cut by the acceptor |
//!
//! # What a liar can do
//!
//! - An opener may ask for anything; [`TunnelSource`] decides for each peer and request. It may hold one of its places by
//!   doing nothing: for 10 s without a request, for the idle bound after. It may announce a request that is too long: this is
//!   not read, and is an offence.
//! - An acceptor may say yes and be somebody else's echo: what stands at the far end is proven by nobody but the peer's key.
//!   It may refuse with any text; at most 255 bytes of it are taken, without control characters. It may never answer: the
//!   opener waits twice [`crate::Limits::tunnel_decision`].
//! - Either may send chunks of one byte, which costs it as much as its partner, or stop reading, which holds one window.
//! - Either may send without credit, more than credit after its end, or something that is none of the three: where it is read
//!   it is an offence and cuts the tunnel, and nothing behind it is taken for frames. An end that came before it stands. What was
//!   sent without credit is not read unless there is room for it, and fills the liar's own connection at most.
//! - Either may give credit for more than it reads: what it does not read waits in the other's buffers, at most two chunks and
//!   what the transport takes.

mod accept;
mod open;
mod tally;
mod window;
mod wire;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libp2p::StreamProtocol;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

pub(crate) use accept::{Acceptor, accept, read_request};
pub(crate) use open::{Asked, open, read_reason};
pub use open::{Tunnel, TunnelError};
pub(crate) use tally::Tally;
pub(crate) use window::{Pools, WINDOW_BYTES, Window};
pub(crate) use wire::Wire;

use crate::key::PeerKey;

pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new("/opencloud/tunnel/1");
/// Longest request, in bytes.
pub const TUNNEL_REQUEST_MAX: usize = 1 << 10;
/// Longest reason of a refusal, in bytes; what is longer is cut.
pub const TUNNEL_REASON_MAX: usize = u8::MAX as usize;
/// How long either side waits for the other to take or give the bytes of request and verdict.
const STALL: Duration = Duration::from_secs(30);

const OPEN: u8 = 0;
const REFUSED: u8 = 1;
const BUSY: u8 = 2;
const TOO_LONG: u8 = 3;

/// What can stand at the far end of a tunnel: a socket, a pipe. Its end of reading ends the direction to the peer, and its
/// writing side is shut down when the peer ends the other; where the tunnel is cut it is dropped without a shutdown.
pub trait TunnelEnd: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> TunnelEnd for T {}

/// What an application connects a peer with, and what it keeps hold of it by.
pub struct FarEnd {
    /// Where the bytes go to and come from.
    pub io: Box<dyn TunnelEnd>,
    /// Counts while they move. The application keeps a clone; several tunnels may share one. `io` is dropped after the
    /// tunnel's last byte was counted.
    pub bytes: TunnelBytes,
    /// Cuts the tunnel at once when it is cancelled.
    pub cut: CancellationToken,
}

impl FarEnd {
    /// A far end with a count and a way to cut of its own.
    #[must_use]
    pub fn new(io: Box<dyn TunnelEnd>) -> Self {
        Self { io, bytes: TunnelBytes::default(), cut: CancellationToken::new() }
    }
}

impl fmt::Debug for FarEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FarEnd").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// How many bytes of a tunnel this node has sent and received; what carries them is not counted. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct TunnelBytes(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    sent: AtomicU64,
    received: AtomicU64,
}

impl TunnelBytes {
    /// Bytes given to the network for the peer. When a tunnel is cut, the peer may have got fewer.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// Bytes that came from the peer.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    fn add(&self, sent: u64, received: u64) {
        self.0.sent.fetch_add(sent, Ordering::Relaxed);
        self.0.received.fetch_add(received, Ordering::Relaxed);
    }
}

/// Why a tunnel is not opened. A stranger should not learn from the answer what exists.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelDenied {
    /// The peer may not, or there is no such thing.
    #[error("the tunnel is refused: {reason}")]
    Refused {
        /// For the peer's people; at most [`TUNNEL_REASON_MAX`] bytes of it are sent.
        reason: String,
    },
    /// Not at the moment.
    #[error("too many tunnels are open: try again later")]
    Busy,
}

/// Where tunnels lead, and who may have which.
pub trait TunnelSource: Send + Sync + 'static {
    /// Decides whether `peer` may have the tunnel that `request` asks for (at most [`TUNNEL_REQUEST_MAX`] bytes, not looked
    /// into), and connects it. Called once for each request, outside of the task that moves the network; may wait up to
    /// [`crate::Limits::tunnel_decision`], then the peer is told "busy" and the future is dropped.
    fn open(
        &self,
        peer: PeerKey,
        request: Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = Result<FarEnd, TunnelDenied>> + Send>>;
}

/// A source that refuses everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTunnels;

impl TunnelSource for NoTunnels {
    fn open(
        &self,
        _: PeerKey,
        _: Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = Result<FarEnd, TunnelDenied>> + Send>> {
        let reason = "this node opens no tunnels".to_owned();
        Box::pin(std::future::ready(Err(TunnelDenied::Refused { reason })))
    }
}
