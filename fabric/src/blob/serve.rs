//! The serving side of `/opencloud/blob/1`.

use std::fs::File;
use std::io::{self, IoSliceMut, Seek};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bao_tree::BaoTree;
use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::Stream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::piece::{Node, Piece, nodes, read_exact_vectored};
use super::served::{Served, Serving, Shown};
use super::shares::Shares;
use super::tree::{GROUP_BYTES, PAIR_BYTES, place, ranges, tree};
use super::{
    BUSY, BlobDenied, BlobFile, BlobSource, DENIED, FOUND, HEAD_BYTES, NOT_FOUND, OUTSIDE, STALL,
    WANTED_BYTES,
};
use crate::key::PeerKey;
use crate::net::{Incoming, Moved};
use crate::places::Places;
use crate::terms::TermsBook;

/// How long a fetcher has to say what it wants.
const WANTED_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the source may think.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// Who serves, what and how much.
pub(crate) struct Server {
    pub(crate) source: Arc<dyn BlobSource>,
    pub(crate) places: Arc<Places>,
    pub(crate) shares: Arc<Shares>,
    pub(crate) terms: Arc<TermsBook>,
    pub(crate) served: Arc<Served>,
    pub(crate) moved: Moved,
}

/// Serves every stream until the network ends. The loop itself only takes a place and spawns:
/// streams that arrive while it is busy are lost.
pub(crate) async fn serve(mut incoming: Incoming, server: Server) {
    let server = Arc::new(server);
    while let Some((peer, stream)) = incoming.next().await {
        let Some(place) = server.places.take(peer) else {
            continue;
        };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let peer = place.peer();
            if let Err(error) = answer(&server, peer, stream, place.is_refusal()).await {
                tracing::debug!(%peer, %error, "a blob was not served to its end");
            }
            drop(place);
        });
    }
}

async fn answer(server: &Server, peer: PeerKey, mut to: Stream, is_busy: bool) -> io::Result<()> {
    let mut wanted = [0; WANTED_BYTES];
    timeout(WANTED_TIMEOUT, to.read_exact(&mut wanted)).await??;
    if is_busy {
        return end(to, BUSY, 0).await;
    }
    let Wanted { hash, from, until } = Wanted::read(&wanted);
    let opened = timeout(OPEN_TIMEOUT, server.source.open(peer, hash)).await;
    let blob = match opened {
        Ok(Ok(blob)) => blob,
        Ok(Err(BlobDenied::NotFound)) => return end(to, NOT_FOUND, 0).await,
        Ok(Err(BlobDenied::Denied)) => return end(to, DENIED, 0).await,
        Ok(Err(BlobDenied::Busy)) | Err(_) => return end(to, BUSY, 0).await,
    };
    if !is_stretch(from, until, blob.size) {
        return end(to, OUTSIDE, blob.size).await;
    }
    let shape = tree(blob.size);
    if blob.outboard.len() as u64 != shape.outboard_size() {
        tracing::warn!(blob = %blake3::Hash::from(hash), "the outboard of a blob has a wrong size");
        return end(to, NOT_FOUND, 0).await;
    }
    head(&mut to, FOUND, blob.size).await?;
    let about = Serving { peer, hash, size: blob.size, from, to: until.min(blob.size), sent: 0 };
    let shown = server.served.show(about);
    let sent = body(
        &mut to,
        &shape,
        &blob,
        (from, until),
        (&server.shares, &shown, server.terms.party(peer)),
    )
    .await;
    server.moved.sent(peer, shown.sent());
    sent?;
    timeout(STALL, to.close()).await?
}

/// What a fetcher asks for.
pub(crate) struct Wanted {
    pub(crate) hash: [u8; 32],
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Wanted {
    pub(crate) fn read(bytes: &[u8; WANTED_BYTES]) -> Self {
        let (mut hash, mut from, mut until) = ([0; 32], [0; 8], [0; 8]);
        hash.copy_from_slice(&bytes[..32]);
        from.copy_from_slice(&bytes[32..40]);
        until.copy_from_slice(&bytes[40..]);
        Self { hash, from: u64::from_le_bytes(from), until: u64::from_le_bytes(until) }
    }
}

/// Whether a stretch of a blob of this size can be served.
pub(crate) fn is_stretch(from: u64, until: u64, size: u64) -> bool {
    let is_inside = from == 0 || from < size;
    let is_end = until >= size || (until > from && until.is_multiple_of(GROUP_BYTES));
    from.is_multiple_of(GROUP_BYTES) && is_inside && is_end
}

async fn head(to: &mut Stream, status: u8, size: u64) -> io::Result<()> {
    let mut bytes = [status; HEAD_BYTES];
    bytes[1..].copy_from_slice(&size.to_le_bytes());
    timeout(STALL, to.write_all(&bytes)).await?
}

async fn end(mut to: Stream, status: u8, size: u64) -> io::Result<()> {
    head(&mut to, status, size).await?;
    timeout(STALL, to.close()).await?
}

/// Sends the body: while one piece goes out, a disk thread fills the next.
async fn body(
    to: &mut (impl AsyncWrite + Unpin),
    shape: &BaoTree,
    blob: &BlobFile,
    (from, until): (u64, u64),
    (shares, shown, party): (&Arc<Shares>, &Shown, PeerKey),
) -> io::Result<()> {
    let ranges = ranges(from, until, blob.size);
    let mut rest = nodes(shape, &ranges).peekable();
    let mut reader = Some(Reader::new(shape, blob, from));
    let (mut coming, mut spare) = (None, Piece::default());
    loop {
        let ready = match coming.take() {
            Some(job) => {
                let (back, piece) = finished(job).await??;
                reader = Some(back);
                Some(piece)
            }
            None => None,
        };
        let mut next = std::mem::take(&mut spare);
        if next.refill(&mut rest, u64::MAX)
            && let Some(mut reader) = reader.take()
        {
            let shares = Arc::clone(shares);
            coming = Some(tokio::spawn(async move {
                // Others' turns come when the bytes are here, not when a slow peer has taken them.
                let turn = shares.turn(party, next.bytes.len() as u64).await;
                let filling = tokio::task::spawn_blocking(move || {
                    let _turn = turn;
                    reader.fill(&mut next)?;
                    io::Result::Ok((reader, next))
                });
                finished(filling).await?
            }));
        }
        let Some(piece) = ready else {
            if coming.is_none() {
                break;
            }
            continue;
        };
        let mut left = &piece.bytes[..];
        while !left.is_empty() {
            let n = timeout(STALL, to.write(left)).await??;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            left = &left[n..];
            shown.add(n as u64);
        }
        spare = piece;
    }
    timeout(STALL, to.flush()).await??;
    Ok(())
}

async fn finished<T>(job: JoinHandle<T>) -> io::Result<T> {
    job.await.map_err(io::Error::other)
}

/// Puts pieces together from the file and the outboard; blocks.
struct Reader {
    file: Option<File>,
    path: PathBuf,
    from: u64,
    outboard: Bytes,
    shape: BaoTree,
}

impl Reader {
    fn new(shape: &BaoTree, blob: &BlobFile, from: u64) -> Self {
        let (path, outboard) = (blob.data.clone(), blob.outboard.clone());
        Self { file: None, path, from, outboard, shape: *shape }
    }

    fn fill(&mut self, piece: &mut Piece) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let mut file = File::open(&self.path)?;
                file.seek(io::SeekFrom::Start(self.from))?;
                self.file.insert(file)
            }
        };
        let mut groups = Vec::with_capacity(piece.nodes.len());
        let mut rest = &mut piece.bytes[..];
        for node in &piece.nodes {
            let (bytes, after) = rest.split_at_mut(node.len());
            rest = after;
            match node {
                Node::Pair { node, .. } => {
                    let pair = place(&self.shape, *node)
                        .and_then(|at| self.outboard.get(at..at + PAIR_BYTES))
                        .ok_or(io::ErrorKind::InvalidData)?;
                    bytes.copy_from_slice(pair);
                }
                Node::Group { .. } => groups.push(IoSliceMut::new(bytes)),
            }
        }
        read_exact_vectored(file, &mut groups)
    }
}
