//! The newest of a stream that may go on for ever: what a replica of a service writes, at the node that owns the service.
//!
//! Pieces are appended to `NAME.new`. When that is full it becomes `NAME.old`, in the place of the one before, so that
//! [`FILE_BYTES`] less a piece is kept at least, and twice as much at most. Each piece is a record that says when it came and where it stands:
//!
//! ```text
//! mark 2 | came at, Unix ms 8 | position 8 | length 4 | check 4 | bytes      all numbers big-endian
//! ```
//!
//! The check is the beginning of the BLAKE3 hash of all that is before and after it. Nothing waits for the disk: what a crash cuts
//! off in the middle fails its check and is passed over, up to the next record whose check holds.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use scheduler::negotiate::LOG_CHUNK_MAX;

use super::logs::Piece;

/// A file that would become longer by a piece is full; each piece counts with its [`HEAD`].
pub(super) const FILE_BYTES: u64 = 1 << 20;
/// How a record begins.
const MARK: [u8; 2] = [0xfe, 0x4c];
/// Bytes of a record before those of its piece.
const HEAD: usize = 26;
/// Where in a record its check stands.
const CHECK: std::ops::Range<usize> = 22..HEAD;

/// The two files of a stream.
fn files(path: &Path) -> (PathBuf, PathBuf) {
    let with = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    (with(".new"), with(".old"))
}

fn check(head: &[u8], bytes: &[u8]) -> [u8; 4] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head);
    hasher.update(bytes);
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    [a, b, c, d]
}

/// A record; of a piece of at most [`LOG_CHUNK_MAX`] bytes.
fn encode(piece: &Piece) -> Option<Vec<u8>> {
    let Piece { at_ms, offset, bytes } = piece;
    let len = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= LOG_CHUNK_MAX)?;
    let mut record = Vec::with_capacity(HEAD + bytes.len());
    record.extend_from_slice(&MARK);
    record.extend_from_slice(&at_ms.unwrap_or(0).to_be_bytes());
    record.extend_from_slice(&offset.to_be_bytes());
    record.extend_from_slice(&len.to_be_bytes());
    let check = check(&record, bytes);
    record.extend_from_slice(&check);
    record.extend_from_slice(bytes);
    Some(record)
}

/// The record that the bytes begin with, and how long it is; nothing when they do not begin with a whole one.
fn decode(from: &[u8]) -> Option<(Piece, usize)> {
    let (head, rest) = from.split_at_checked(HEAD)?;
    let number = |range: std::ops::Range<usize>| {
        head.get(range).map(|bytes| bytes.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte)))
    };
    let (at_ms, offset) = (number(2..10)?, number(10..18)?);
    let len = usize::try_from(number(18..22)?).ok().filter(|len| *len <= LOG_CHUNK_MAX)?;
    let bytes = rest.get(..len)?;
    let is_whole = head.starts_with(&MARK)
        && offset.checked_add(len as u64).is_some()
        && head.get(CHECK)? == check(head.get(..CHECK.start)?, bytes);
    let piece = || Piece { at_ms: Some(at_ms), offset, bytes: bytes.to_vec() };
    is_whole.then(|| (piece(), HEAD + len))
}

/// Every whole record.
fn records(mut bytes: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let skip = match decode(bytes) {
            Some((piece, len)) => {
                pieces.push(piece);
                len
            }
            // Where another may begin.
            None => {
                (1..bytes.len()).find(|at| bytes[*at..].starts_with(&MARK)).unwrap_or(bytes.len())
            }
        };
        bytes = &bytes[skip..];
    }
    pieces
}

/// Adds a piece to those of a stream. One that is too long, or whose end is no position, is dropped.
pub(super) fn append(path: &Path, piece: &Piece) -> io::Result<()> {
    let end = piece.offset.checked_add(piece.bytes.len() as u64);
    let is_placed = end.is_some() && !piece.bytes.is_empty();
    let Some(record) = encode(piece).filter(|_| is_placed) else { return Ok(()) };
    let (new, old) = files(path);
    let mut file = File::options().create(true).append(true).open(&new)?;
    let len = file.metadata()?.len();
    if len > 0 && len.saturating_add(record.len() as u64) > FILE_BYTES {
        fs::rename(&new, old)?;
        file = File::options().create(true).append(true).open(new)?;
    }
    file.write_all(&record)
}

/// Every piece that is kept of a stream, in no order; nothing when it is not kept like this.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<Piece>>> {
    let bytes = |path: &Path| match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        bytes => bytes.map(Some),
    };
    let (new, old) = files(path);
    // In this order: what becomes the old file between the two is read twice, and not missed.
    let (new, old) = (bytes(&new)?, bytes(&old)?);
    if new.is_none() && old.is_none() {
        return Ok(None);
    }
    let mut pieces = records(&old.unwrap_or_default());
    pieces.extend(records(&new.unwrap_or_default()));
    Ok(Some(pieces))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(at_ms: u64, offset: u64, bytes: &[u8]) -> Piece {
        Piece { at_ms: Some(at_ms), offset, bytes: bytes.to_vec() }
    }

    proptest! {
        #[test]
        fn what_was_appended_is_read_and_a_cut_takes_only_what_it_cuts(
            pieces in proptest::collection::vec(
                (any::<u64>(), 0..u64::MAX / 2, proptest::collection::vec(any::<u8>(), 1..50)),
                1..10,
            ),
            cut in any::<proptest::sample::Index>(),
            marks in 0_usize..40,
        ) {
            let pieces: Vec<Piece> = pieces.iter().map(|(at, o, b)| piece(*at, *o, b)).collect();
            let all: Vec<Vec<u8>> = pieces.iter().map(|piece| encode(piece).unwrap()).collect();
            prop_assert_eq!(&records(&all.concat()), &pieces);
            // A crash cuts off a record, of which the first part stays, and others follow.
            let which = cut.index(all.len());
            let mut torn = all;
            let len = torn[which].len();
            torn[which].truncate(cut.index(len));
            // What is in a torn piece may look like the beginnings of others.
            torn[which].extend(MARK.repeat(marks));
            let mut left = pieces;
            left.remove(which);
            prop_assert_eq!(records(&torn.concat()), left);
        }

        #[test]
        fn noise_is_no_record(noise in proptest::collection::vec(any::<u8>(), 0..500)) {
            prop_assert_eq!(records(&noise), Vec::new());
        }
    }

    #[test]
    fn the_newest_is_kept_within_the_bound_and_over_a_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.0.1.stdout");
        assert_eq!(read(&path).unwrap(), None);
        let (chunk, n) = (vec![b'x'; 10_000], 500_u64);
        for at in 0..n {
            if at == n - 3 {
                let mut file = File::options().append(true).open(files(&path).0).unwrap();
                file.write_all(&encode(&piece(1, 1, &chunk)).unwrap()[..5_000]).unwrap();
            }
            append(&path, &piece(at, at * 10_000, &chunk)).unwrap();
        }
        let kept = read(&path).unwrap().unwrap();
        let expected: Vec<u64> = (n - kept.len() as u64..n).collect();
        assert_eq!(kept.iter().map(|p| p.at_ms.unwrap()).collect::<Vec<_>>(), expected);
        assert!(kept.len() as u64 * 10_000 >= FILE_BYTES - 20_000, "{}", kept.len());
        let (new, old) = files(&path);
        let bytes = [new, old].map(|path| fs::metadata(path).unwrap().len());
        assert!(bytes.iter().all(|bytes| *bytes <= FILE_BYTES), "{bytes:?}");
    }

    #[test]
    fn what_cannot_stand_in_a_stream_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.0.1.stderr");
        append(&path, &piece(1, u64::MAX, b"beyond")).unwrap();
        append(&path, &piece(1, 0, &vec![0; LOG_CHUNK_MAX + 1])).unwrap();
        append(&path, &piece(1, 0, b"")).unwrap();
        assert_eq!(read(&path).unwrap(), None);
        append(&path, &piece(1, 0, &vec![0; LOG_CHUNK_MAX])).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().len(), 1);
    }
}
