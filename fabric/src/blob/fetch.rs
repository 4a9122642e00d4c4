//! The fetching side of `/opencloud/blob/1`.

use std::fs::File;
use std::future::pending;
use std::io::{self, IoSlice, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use libp2p_stream::{Control, OpenStreamError};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;

use super::piece::{Node, Piece, nodes, write_all_vectored};
use super::tree::{
    GROUP_BYTES, hash_file, leaf_hash, outboard_bytes, pair_hash, ranges, split, tree,
};
use super::{BUSY, DENIED, FOUND, HEAD_BYTES, NOT_FOUND, OUTSIDE, PROTOCOL, STALL, WANTED_BYTES};
use crate::key::PeerKey;

/// How long opening a stream to a connected peer may take. libp2p-stream waits for ever when the
/// peer is not connected any more.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

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
        /// Up to where the blob is verified and in the file.
        at: u64,
    },
    /// The stream ended early.
    #[error("the transfer from {peer} was cut at offset {at}")]
    Cut {
        /// Who.
        peer: PeerKey,
        /// Up to where the blob is verified and in the file.
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
        let outboard = self.take_body(size, on_progress).await?;
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

    /// Reads the body piece by piece; while one comes in, a disk thread verifies and writes the
    /// one before. Gives the pairs in the order they came, which for a whole blob is its outboard.
    async fn take_body(
        &mut self,
        size: u64,
        on_progress: &(impl Fn(u64, u64) + Sync),
    ) -> Result<Vec<u8>, FetchError> {
        let (shape, ranges) = (tree(size), ranges(self.from));
        let mut rest = nodes(&shape, &ranges);
        let mut disk = Disk::new(self.wanted, self.from);
        let mut piece = Piece::default();
        let mut reported = self.from;
        while piece.refill(&mut rest) {
            let read = self.fill(&mut piece, &mut disk).await;
            // Of a piece that was cut short, what came is worth keeping as far as it verifies.
            piece = disk.take(piece).await?;
            if disk.at > reported {
                reported = disk.at;
                on_progress(reported, size);
            }
            if let Err(error) = read {
                disk.settle().await?;
                return Err(error);
            }
        }
        disk.settle().await?;
        let pairs = disk.into_pairs();
        debug_assert!(self.from > 0 || pairs.len() as u64 == outboard_bytes(size));
        Ok(pairs)
    }

    /// Reads a piece's bytes. When that fails, the piece is as long as what came.
    async fn fill(&mut self, piece: &mut Piece, disk: &mut Disk) -> Result<(), FetchError> {
        let peer = self.wanted.peer;
        let mut n = 0;
        while n < piece.bytes.len() {
            let at = disk.at;
            let read = tokio::select! {
                biased;
                // Bytes that do not verify end the fetch at once, however slowly the next ones come.
                failure = disk.failure() => Err(failure),
                read = timed(peer, at, self.stream.read(&mut piece.bytes[n..])) => match read {
                    Ok(0) => {
                        let source = io::ErrorKind::UnexpectedEof.into();
                        Err(FetchError::Cut { peer, at, source })
                    }
                    read => read,
                },
            };
            match read {
                Ok(more) => {
                    n += more;
                    *self.received += more as u64;
                }
                Err(error) => {
                    piece.bytes.truncate(n);
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

type Job = JoinHandle<Result<(Sink, Piece), FetchError>>;

/// The sink, and the disk thread's work on one piece.
struct Disk {
    /// Up to here the blob is verified and in the file.
    at: u64,
    /// The sink and a piece to use again; absent while there is work, and after a failure.
    idle: Option<(Sink, Piece)>,
    work: Option<Job>,
    into: PathBuf,
}

impl Disk {
    fn new(wanted: Wanted<'_>, from: u64) -> Self {
        let sink = Sink::new(wanted, from);
        let idle = Some((sink, Piece::default()));
        Self { at: from, idle, work: None, into: wanted.into.to_owned() }
    }

    /// Begins work on a piece once the one before is done, and gives a piece to fill meanwhile.
    async fn take(&mut self, piece: Piece) -> Result<Piece, FetchError> {
        self.settle().await?;
        let Some((mut sink, spare)) = self.idle.take() else {
            return Ok(piece);
        };
        self.work = Some(tokio::task::spawn_blocking(move || {
            sink.take(&piece)?;
            Ok((sink, piece))
        }));
        Ok(spare)
    }

    /// Waits until nothing is being worked on.
    async fn settle(&mut self) -> Result<(), FetchError> {
        match self.work.take() {
            Some(work) => {
                let done = work.await;
                self.end(done)
            }
            None => Ok(()),
        }
    }

    /// Resolves when the work fails, and never otherwise. Cancel-safe.
    async fn failure(&mut self) -> FetchError {
        if let Some(work) = &mut self.work {
            let done = work.await;
            self.work = None;
            if let Err(error) = self.end(done) {
                return error;
            }
        }
        pending().await
    }

    fn end(
        &mut self,
        done: Result<Result<(Sink, Piece), FetchError>, JoinError>,
    ) -> Result<(), FetchError> {
        let source =
            |error| FetchError::Io { path: self.into.clone(), source: io::Error::other(error) };
        let (sink, piece) = done.map_err(source)??;
        self.at = sink.at;
        self.idle = Some((sink, piece));
        Ok(())
    }

    fn into_pairs(self) -> Vec<u8> {
        self.idle.map(|(sink, _)| sink.pairs).unwrap_or_default()
    }
}

/// Verifies pieces and only then writes them; blocks.
struct Sink {
    peer: PeerKey,
    into: PathBuf,
    /// Opened with the first piece.
    file: Option<File>,
    /// The hashes that the next elements must have, the next one last.
    expected: Vec<[u8; 32]>,
    pairs: Vec<u8>,
    at: u64,
}

impl Sink {
    fn new(wanted: Wanted<'_>, from: u64) -> Self {
        Self {
            peer: wanted.peer,
            into: wanted.into.to_owned(),
            file: None,
            expected: vec![wanted.hash],
            pairs: Vec::new(),
            at: from,
        }
    }

    /// Writes what verifies, as far as the piece's bytes go.
    fn take(&mut self, piece: &Piece) -> Result<(), FetchError> {
        let (mut good, verdict) = self.verify(piece);
        self.write(&mut good)
            .map_err(|source| FetchError::Io { path: self.into.clone(), source })?;
        verdict
    }

    /// The groups that verify, and what the first element is that does not.
    fn verify<'p>(&mut self, piece: &'p Piece) -> (Vec<IoSlice<'p>>, Result<(), FetchError>) {
        let mut good = Vec::with_capacity(piece.nodes.len());
        let mut at = self.at;
        let mut rest = &piece.bytes[..];
        for node in &piece.nodes {
            let Some((bytes, after)) = rest.split_at_checked(node.len()) else {
                break;
            };
            rest = after;
            let expected = self.expected.pop().expect("the tree's shape gives every node one hash");
            let found = match *node {
                Node::Pair { is_root, left, right, .. } => {
                    let (l, r) = split(bytes);
                    self.expected.extend(right.then_some(r));
                    self.expected.extend(left.then_some(l));
                    pair_hash(&l, &r, is_root)
                }
                Node::Group { start, is_root, .. } => leaf_hash(start, bytes, is_root),
            };
            if found != expected {
                return (good, Err(FetchError::Corrupt { peer: self.peer, at }));
            }
            match node {
                Node::Pair { .. } => self.pairs.extend_from_slice(bytes),
                Node::Group { .. } => {
                    good.push(IoSlice::new(bytes));
                    at += bytes.len() as u64;
                }
            }
        }
        (good, Ok(()))
    }

    fn write(&mut self, good: &mut [IoSlice<'_>]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(open_at(&self.into, self.at)?),
        };
        let bytes: u64 = good.iter().map(|group| group.len() as u64).sum();
        write_all_vectored(file, good)?;
        self.at += bytes;
        Ok(())
    }
}

/// Opens the file to go on at `from`; what lies beyond is cut off.
fn open_at(path: &Path, from: u64) -> io::Result<File> {
    let mut file = File::options().create(true).truncate(false).write(true).open(path)?;
    file.set_len(from)?;
    file.seek(io::SeekFrom::Start(from))?;
    Ok(file)
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
