//! Ranges of a blob in memory, and its size: for looks at data that is not to be fetched, and at whether a peer has it.

use std::ops::Range;
use std::sync::Arc;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::check::Check;
use super::error::FetchError;
use super::fetch::Ways;
use super::piece::{Piece, nodes};
use super::transfer::{Counted, exchange, open, timed};
use super::tree::{GROUP_BYTES, ranges, tree};
use super::{BUSY, DENIED, FOUND, NOT_FOUND, OUTSIDE};
use crate::event::Offence;
use crate::key::PeerKey;

/// Most bytes read at once; more are refused before anything is asked. As much as one reader may hold in memory.
pub const READ_MAX: u64 = 4 << 20;

/// What came of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where the bytes begin.
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
    /// The blob's size as the peer says it. Proven when the last group was among what came.
    pub(crate) size: u64,
}

/// The verified bytes of a range, as far as the blob has them.
pub(crate) async fn read(
    ways: Ways,
    peer: PeerKey,
    hash: [u8; 32],
    range: Range<u64>,
) -> Result<Vec<u8>, FetchError> {
    let wanted = range.end.saturating_sub(range.start);
    if wanted > READ_MAX {
        return Err(FetchError::RangeTooLong { bytes: wanted, max: READ_MAX });
    }
    if wanted == 0 {
        return Ok(Vec::new());
    }
    let part = judged(&ways, peer, part(&ways, peer, hash, range.clone()).await)?;
    let skip = usize::try_from(range.start - part.at).unwrap_or(usize::MAX);
    let len = usize::try_from(wanted).unwrap_or(usize::MAX);
    Ok(part.bytes.into_iter().skip(skip).take(len).collect())
}

/// The size of a blob, proven: its last bytes were verified.
pub(crate) async fn size(ways: Ways, peer: PeerKey, hash: [u8; 32]) -> Result<u64, FetchError> {
    let first = judged(&ways, peer, part(&ways, peer, hash, 0..1).await)?;
    if first.size > GROUP_BYTES {
        let last = part(&ways, peer, hash, first.size - 1..first.size).await;
        let last = judged(&ways, peer, last)?;
        if last.size != first.size {
            // Which of the two was the lie does not matter.
            let lie = FetchError::Malformed { peer, status: FOUND };
            return judged(&ways, peer, Err(lie));
        }
    }
    Ok(first.size)
}

/// Counts a lie against the peer.
fn judged<T>(ways: &Ways, peer: PeerKey, result: Result<T, FetchError>) -> Result<T, FetchError> {
    if let Err(error) = &result
        && error.is_peer_fault()
    {
        tracing::warn!(%peer, %error, "a peer gave a wrong blob");
        ways.moved.offence(peer, Offence::Malformed);
    }
    result
}

/// The groups in which a range lies.
async fn part(
    ways: &Ways,
    peer: PeerKey,
    hash: [u8; 32],
    range: Range<u64>,
) -> Result<Part, FetchError> {
    let places = (
        ways.lanes.of(peer).acquire_owned().await.expect("the semaphore is never closed"),
        Arc::clone(&ways.all).acquire_owned().await.expect("the semaphore is never closed"),
    );
    let from = range.start / GROUP_BYTES * GROUP_BYTES;
    let to = range.end.checked_next_multiple_of(GROUP_BYTES).unwrap_or(u64::MAX);
    let mut stream = open(ways.control.clone(), peer).await?;
    let mut counted = Counted { moved: ways.moved.clone(), peer, bytes: 0 };
    let asked = Asked { hash, from, to, first: range.start };
    let part = take(&mut stream, peer, asked, &mut counted.bytes).await;
    drop(places);
    part
}

/// What is asked of one stream.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) hash: [u8; 32],
    /// The first byte of the first group, and the one after the last group.
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The first byte that somebody wants.
    pub(crate) first: u64,
}

/// Asks on a stream, and takes the verified groups; counts what came.
pub(crate) async fn take(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    peer: PeerKey,
    Asked { hash, from, to, first }: Asked,
    came: &mut u64,
) -> Result<Part, FetchError> {
    let (status, size) = exchange(stream, peer, (hash, from, to)).await?;
    match status {
        FOUND if from == 0 || from < size => {}
        OUTSIDE if size <= from => {
            return Err(FetchError::Outside { peer, size, from: first });
        }
        NOT_FOUND => return Err(FetchError::NotFound { peer }),
        DENIED => return Err(FetchError::Denied { peer }),
        BUSY => return Err(FetchError::Busy),
        status => return Err(FetchError::Malformed { peer, status }),
    }
    let (shape, ranges) = (tree(size), ranges(from, to, size));
    let mut rest = nodes(&shape, &ranges).peekable();
    let (mut check, mut piece, mut bytes) = (Check::new(peer, hash), Piece::default(), Vec::new());
    while piece.refill(&mut rest, u64::MAX) {
        let at = from + bytes.len() as u64;
        let mut n = 0;
        while n < piece.bytes.len() {
            let more = timed(peer, at, stream.read(&mut piece.bytes[n..])).await?;
            if more == 0 {
                let source = std::io::ErrorKind::UnexpectedEof.into();
                return Err(FetchError::Cut { peer, at, source });
            }
            n += more;
            *came += more as u64;
        }
        let (good, verdict) = check.verify(&piece, at, &mut Vec::new());
        verdict?;
        good.iter().for_each(|group| bytes.extend_from_slice(group));
    }
    Ok(Part { at: from, bytes, size })
}
