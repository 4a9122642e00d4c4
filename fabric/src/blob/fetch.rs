//! The fetching side of `/opencloud/blob/1`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bao_tree::iter::BaoChunk;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use libp2p_stream::{Control, OpenStreamError};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncSeekExt, AsyncWriteExt as _, BufWriter};
use tokio::time::timeout;

use super::tree::{
    GROUP_BYTES, PAIR_BYTES, hash_file, leaf_hash, outboard_bytes, pair_hash, ranges, split, tree,
};
use super::{BUSY, DENIED, FOUND, HEAD_BYTES, NOT_FOUND, OUTSIDE, PROTOCOL, STALL, WANTED_BYTES};
use crate::key::PeerKey;

/// How long opening a stream to a connected peer may take. libp2p-stream waits for ever when the
/// peer is not connected any more.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Write-behind to the file.
const WRITE_BYTES: usize = 256 << 10;
/// Verified bytes between two reports of progress.
const PROGRESS_BYTES: u64 = 256 << 10;

/// A blob that is whole in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its size in bytes.
    pub size: u64,
    /// Its outboard, as [`super::hash_file`] would give it.
    pub outboard: Vec<u8>,
}

/// Why a blob was not fetched. What was verified stays in the file for the next try.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The peer is not admitted at the moment.
    #[error("the peer {peer} is not connected")]
    NotConnected {
        /// Who.
        peer: PeerKey,
    },
    /// The peer does not serve blobs to us.
    #[error("the peer {peer} serves no blobs")]
    Unsupported {
        /// Who.
        peer: PeerKey,
    },
    /// The peer says that this node may not have it.
    #[error("the peer {peer} denies the blob")]
    Denied {
        /// Who.
        peer: PeerKey,
    },
    /// The peer does not have it.
    #[error("the peer {peer} does not have the blob")]
    NotFound {
        /// Who.
        peer: PeerKey,
    },
    /// The peer, or this node, moves too many blobs at the moment.
    #[error("too many blobs are on their way: try again later")]
    Busy,
    /// The peer sent bytes that are not the blob's. It is a liar or its disk is.
    #[error("the peer {peer} sent wrong bytes at offset {at}")]
    Corrupt {
        /// Who.
        peer: PeerKey,
        /// The first byte of the group or subtree that did not verify.
        at: u64,
    },
    /// The peer broke the protocol.
    #[error("the peer {peer} answered with status {status}, which has no meaning here")]
    Malformed {
        /// Who.
        peer: PeerKey,
        /// What it said.
        status: u8,
    },
    /// Nothing came for a while.
    #[error("the peer {peer} sent nothing for {after_s} s, at offset {at}")]
    Stalled {
        /// Who.
        peer: PeerKey,
        /// How long this node waited, in seconds.
        after_s: u64,
        /// The next byte to come.
        at: u64,
    },
    /// The stream ended early.
    #[error("the transfer from {peer} was cut at offset {at}")]
    Cut {
        /// Who.
        peer: PeerKey,
        /// The next byte to come.
        at: u64,
        /// What the stream said.
        source: io::Error,
    },
    /// The peer says that the blob is larger than the caller allows.
    #[error("the blob has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// As the peer says.
        size: u64,
        /// As the caller says.
        limit: u64,
    },
    /// The local file failed.
    #[error("cannot write {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl FetchError {
    /// Whether the peer lied or broke the protocol, so that it should be penalized.
    #[must_use]
    pub fn is_peer_fault(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Malformed { .. })
    }

    /// Whether the same peer may well succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::NotConnected { .. } | Self::Busy | Self::Stalled { .. } | Self::Cut { .. }
        )
    }
}

/// What to fetch.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) peer: PeerKey,
    pub(crate) hash: [u8; 32],
    pub(crate) limit: u64,
    pub(crate) into: &'a Path,
}

/// What one stream brought.
enum Turn {
    Whole {
        size: u64,
        outboard: Vec<u8>,
    },
    /// The file holds more than the blob has: it is something else.
    FileTooLong,
}

/// Fetches into the file, from where the file ends. Not cancelled at once but safe to drop: the
/// file then holds some verified prefix.
pub(crate) async fn fetch(
    control: Control,
    wanted: Wanted<'_>,
    on_progress: &(impl Fn(u64, u64) + Send + Sync),
    received: &mut u64,
) -> Result<Fetched, FetchError> {
    let failed = |source| FetchError::Io { path: wanted.into.to_owned(), source };
    let mut from = resume_at(wanted.into).await.map_err(failed)?;
    loop {
        let stream = open(control.clone(), wanted.peer).await?;
        let turn = Transfer { stream, wanted, from, received: &mut *received };
        match turn.run(on_progress).await? {
            Turn::Whole { size, outboard } if from == 0 => return Ok(Fetched { size, outboard }),
            Turn::Whole { size, .. } => {
                let path = wanted.into.to_owned();
                let hashed = tokio::task::spawn_blocking(move || hash_file(&path)).await;
                let hashed = hashed.map_err(io::Error::other).and_then(|r| r);
                let (hash, real_size, outboard) = hashed.map_err(failed)?;
                if hash == wanted.hash && real_size == size {
                    return Ok(Fetched { size, outboard });
                }
            }
            Turn::FileTooLong => {}
        }
        if from == 0 {
            return Err(FetchError::Malformed { peer: wanted.peer, status: OUTSIDE });
        }
        // The prefix was not this blob's: a crash, another program. Once more, from nothing.
        tracing::warn!(file = %wanted.into.display(), "a partial blob was damaged: starting again");
        from = 0;
    }
}

/// Where to go on: the last group of the file is always fetched again, so that there is something
/// to fetch.
async fn resume_at(path: &Path) -> io::Result<u64> {
    match tokio::fs::metadata(path).await {
        Ok(meta) => Ok(meta.len().saturating_sub(1) / GROUP_BYTES * GROUP_BYTES),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e),
    }
}

async fn open(mut control: Control, peer: PeerKey) -> Result<Stream, FetchError> {
    match timeout(OPEN_TIMEOUT, control.open_stream(peer.to_peer_id(), PROTOCOL)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(OpenStreamError::UnsupportedProtocol(_))) => Err(FetchError::Unsupported { peer }),
        Ok(Err(_)) | Err(_) => Err(FetchError::NotConnected { peer }),
    }
}

struct Transfer<'a> {
    stream: Stream,
    wanted: Wanted<'a>,
    from: u64,
    received: &'a mut u64,
}

impl Transfer<'_> {
    async fn run(mut self, on_progress: &(impl Fn(u64, u64) + Sync)) -> Result<Turn, FetchError> {
        let Some(size) = self.ask().await? else {
            return Ok(Turn::FileTooLong);
        };
        let path = self.wanted.into;
        let failed = |source| FetchError::Io { path: path.to_owned(), source };
        let mut file = create(path, self.from).await.map_err(failed)?;
        let taken = self.take_body(size, &mut file, on_progress).await;
        // What was verified before a failure is worth keeping.
        let flushed = file.flush().await.map_err(failed);
        let outboard = taken?;
        flushed?;
        on_progress(size, size);
        Ok(Turn::Whole { size, outboard })
    }

    /// Says what is wanted; gives the blob's size, or `None` when the file is longer than that.
    async fn ask(&mut self) -> Result<Option<u64>, FetchError> {
        let Wanted { peer, hash, limit, .. } = self.wanted;
        let mut ask = [0; WANTED_BYTES];
        ask[..32].copy_from_slice(&hash);
        ask[32..].copy_from_slice(&self.from.to_le_bytes());
        let from = self.from;
        let asking = async {
            self.stream.write_all(&ask).await?;
            self.stream.close().await
        };
        timed(peer, from, asking).await?;
        let mut head = [0; HEAD_BYTES];
        timed(peer, from, self.stream.read_exact(&mut head)).await?;
        let mut size = [0; 8];
        size.copy_from_slice(&head[1..]);
        let size = u64::from_le_bytes(size);
        match head[0] {
            FOUND if size > limit => Err(FetchError::TooLarge { size, limit }),
            FOUND if from != 0 && from >= size => Ok(None),
            FOUND => Ok(Some(size)),
            OUTSIDE if from != 0 => Ok(None),
            NOT_FOUND => Err(FetchError::NotFound { peer }),
            DENIED => Err(FetchError::Denied { peer }),
            BUSY => Err(FetchError::Busy),
            status => Err(FetchError::Malformed { peer, status }),
        }
    }

    /// Reads, verifies and only then writes, group by group; gives the pairs in the order they
    /// came, which for a whole blob is its outboard.
    async fn take_body(
        &mut self,
        size: u64,
        file: &mut BufWriter<File>,
        on_progress: &(impl Fn(u64, u64) + Sync),
    ) -> Result<Vec<u8>, FetchError> {
        let Wanted { peer, hash, into, .. } = self.wanted;
        let (shape, ranges) = (tree(size), ranges(self.from));
        let mut stack = vec![hash];
        let mut pairs = Vec::new();
        let mut group = vec![0; GROUP_BYTES as usize];
        let (mut at, mut reported) = (self.from, self.from);
        for chunk in shape.ranges_pre_order_chunks_iter_ref(&ranges, 0) {
            let expected = stack.pop().expect("the tree's shape gives every node one hash");
            match chunk {
                BaoChunk::Parent { is_root, left, right, .. } => {
                    let mut pair = [0; PAIR_BYTES];
                    self.read(at, &mut pair).await?;
                    let (l, r) = split(&pair);
                    if pair_hash(&l, &r, is_root) != expected {
                        return Err(FetchError::Corrupt { peer, at });
                    }
                    pairs.extend_from_slice(&pair);
                    stack.extend(right.then_some(r));
                    stack.extend(left.then_some(l));
                }
                BaoChunk::Leaf { start_chunk, size: len, is_root, .. } => {
                    let bytes = &mut group[..len];
                    self.read(at, bytes).await?;
                    if leaf_hash(start_chunk, bytes, is_root) != expected {
                        return Err(FetchError::Corrupt { peer, at });
                    }
                    let written = file.write_all(bytes).await;
                    written.map_err(|source| FetchError::Io { path: into.to_owned(), source })?;
                    at += len as u64;
                    if at - reported >= PROGRESS_BYTES {
                        reported = at;
                        on_progress(at, size);
                    }
                }
            }
        }
        debug_assert!(self.from > 0 || pairs.len() as u64 == outboard_bytes(size));
        Ok(pairs)
    }

    async fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), FetchError> {
        timed(self.wanted.peer, at, self.stream.read_exact(into)).await?;
        *self.received += into.len() as u64;
        Ok(())
    }
}

async fn create(path: &Path, from: u64) -> io::Result<BufWriter<File>> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(false).write(true).open(path).await?;
    file.set_len(from).await?;
    file.seek(io::SeekFrom::Start(from)).await?;
    Ok(BufWriter::with_capacity(WRITE_BYTES, file))
}

async fn timed<T>(
    peer: PeerKey,
    at: u64,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, FetchError> {
    match timeout(STALL, work).await {
        Ok(done) => done.map_err(|source| FetchError::Cut { peer, at, source }),
        Err(_) => Err(FetchError::Stalled { peer, after_s: STALL.as_secs(), at }),
    }
}
