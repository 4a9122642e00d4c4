//! One stream of a fetch: asks one peer for one stretch of the blob, and follows where that stretch ends.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::Stream;
use libp2p_stream::{Control, OpenStreamError};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::error::FetchError;
use super::fetch::Shared;
use super::piece::{Piece, nodes};
use super::plan::{OPEN, Said};
use super::tree::{GROUP_BYTES, ranges, tree};
use super::{BUSY, DENIED, FOUND, HEAD_BYTES, NOT_FOUND, OUTSIDE, PROTOCOL, STALL, WANTED_BYTES};
use crate::key::PeerKey;
use crate::net::Moved;

/// How long opening a stream to a connected peer may take. libp2p-stream waits for ever when the
/// peer is not connected any more.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How a stream ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// At the end of its stretch, or stopped.
    Done,
    /// What is in the file is more than the blob has: it is something else.
    FileTooLong,
}

/// What one stream is for.
pub(super) struct Transfer {
    pub(super) shared: Arc<Shared>,
    /// The peer's place in the plan.
    pub(super) index: usize,
    pub(super) peer: PeerKey,
    /// The first group, and the one after the last as far as it is known.
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) control: Control,
    /// The places for streams to this peer, and for all.
    pub(super) lanes: [Arc<Semaphore>; 2],
    pub(super) stop: CancellationToken,
    pub(super) counted: Counted,
}

/// Counts what came of a peer, also when the fetch is dropped.
pub(super) struct Counted {
    pub(super) moved: Moved,
    pub(super) peer: PeerKey,
    pub(super) bytes: u64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.moved.received(self.peer, self.bytes);
    }
}

impl Transfer {
    pub(super) async fn run(mut self) -> Result<End, FetchError> {
        let [own, all] = self.lanes.clone();
        let stop = self.stop.clone();
        let asking = async {
            let places = (
                own.acquire_owned().await.expect("the semaphore is never closed"),
                all.acquire_owned().await.expect("the semaphore is never closed"),
            );
            let mut stream = open(self.control.clone(), self.peer).await?;
            let said = self.ask(&mut stream).await?;
            Ok::<_, FetchError>((places, stream, said))
        };
        let (_places, stream, said) = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(End::Done),
            asked = asking => asked?,
        };
        let Some(size) = said else {
            return Ok(End::FileTooLong);
        };
        let judged = self.shared.plan().handle_size(self.index, size);
        // Others may begin now.
        self.shared.wake.notify_one();
        match judged {
            Said::Good => self.take_body(stream, size).await,
            Said::TooShort => Ok(End::FileTooLong),
            Said::Other => Ok(End::Done),
            Said::Lie => Err(FetchError::Malformed { peer: self.peer, status: FOUND }),
        }
    }

    /// Says what is wanted; gives the blob's size, or `None` when the file is longer than that.
    async fn ask(&self, stream: &mut Stream) -> Result<Option<u64>, FetchError> {
        let (peer, limit) = (self.peer, self.shared.limit);
        let (from, to) = (self.from * GROUP_BYTES, self.to.saturating_mul(GROUP_BYTES));
        let end = if self.to == OPEN { u64::MAX } else { to };
        let (status, size) = exchange(stream, peer, (self.shared.hash, from, end)).await?;
        match status {
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

    /// Reads the body piece by piece; while one comes in, a disk thread verifies and writes the
    /// one before.
    async fn take_body(&mut self, mut stream: Stream, size: u64) -> Result<End, FetchError> {
        let from = self.from * GROUP_BYTES;
        let shape = tree(size);
        let ranges = ranges(from, self.to.saturating_mul(GROUP_BYTES), size);
        let mut rest = nodes(&shape, &ranges).peekable();
        let mut disk = Disk::new(Arc::clone(&self.shared), (self.index, self.peer), shape, from);
        let mut piece = Piece::default();
        while piece.refill(&mut rest, self.end()) {
            let read = self.fill(&mut stream, &mut piece, &mut disk).await;
            // Of a piece that was cut short, what came is worth keeping as far as it verifies.
            piece = disk.take(piece).await?;
            match read {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    disk.settle().await?;
                    return Err(error);
                }
            }
        }
        disk.settle().await?;
        Ok(End::Done)
    }

    /// The byte before which the stretch ends now.
    fn end(&self) -> u64 {
        self.shared.plan().end_of(self.index).saturating_mul(GROUP_BYTES)
    }

    /// Reads a piece's bytes; false when it was stopped. Then, and when it fails, the piece is as long as what came.
    async fn fill(
        &mut self,
        stream: &mut Stream,
        piece: &mut Piece,
        disk: &mut Disk,
    ) -> Result<bool, FetchError> {
        let peer = self.peer;
        let mut n = 0;
        while n < piece.bytes.len() {
            let at = disk.at();
            let read = tokio::select! {
                biased;
                // Bytes that do not verify end the fetch at once, however slowly the next ones come.
                failure = disk.failure() => Err(failure),
                () = self.stop.cancelled() => Ok(None),
                read = timed(peer, at, stream.read(&mut piece.bytes[n..])) => match read {
                    Ok(0) => {
                        let source = io::ErrorKind::UnexpectedEof.into();
                        Err(FetchError::Cut { peer, at, source })
                    }
                    read => read.map(Some),
                },
            };
            match read {
                Ok(Some(more)) => {
                    n += more;
                    self.counted.bytes += more as u64;
                }
                ended => {
                    piece.bytes.truncate(n);
                    return ended.map(|_| false);
                }
            }
        }
        Ok(true)
    }
}

/// Says which blob is wanted, from which byte to before which; gives status and size as the peer says them.
pub(super) async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    peer: PeerKey,
    (hash, from, to): ([u8; 32], u64, u64),
) -> Result<(u8, u64), FetchError> {
    let mut ask = [0; WANTED_BYTES];
    ask[..32].copy_from_slice(&hash);
    ask[32..40].copy_from_slice(&from.to_le_bytes());
    ask[40..].copy_from_slice(&to.to_le_bytes());
    let asking = async {
        stream.write_all(&ask).await?;
        stream.close().await
    };
    timed(peer, from, asking).await?;
    let mut head = [0; HEAD_BYTES];
    timed(peer, from, stream.read_exact(&mut head)).await?;
    let mut size = [0; 8];
    size.copy_from_slice(&head[1..]);
    Ok((head[0], u64::from_le_bytes(size)))
}

pub(super) async fn open(mut control: Control, peer: PeerKey) -> Result<Stream, FetchError> {
    match timeout(OPEN_TIMEOUT, control.open_stream(peer.to_peer_id(), PROTOCOL)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(OpenStreamError::UnsupportedProtocol(_))) => Err(FetchError::Unsupported { peer }),
        Ok(Err(_)) | Err(_) => Err(FetchError::NotConnected { peer }),
    }
}

pub(super) async fn timed<T>(
    peer: PeerKey,
    at: u64,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, FetchError> {
    match timeout(STALL, work).await {
        Ok(done) => done.map_err(|source| FetchError::Cut { peer, at, source }),
        Err(_) => Err(FetchError::Stalled { peer, after_s: STALL.as_secs(), at }),
    }
}
