//! What tasks wrote that run on behalf of this node, here or elsewhere: it arrives in pieces, which are kept per attempt below
//! `logs/`.
//!
//! Of a task that ends the first [`LOG_TOTAL_MAX`] bytes of each stream are kept, as one file, and beside it how long the stream
//! was, when it was longer. Of a replica of a service, which may write for ever, the newest is kept ([`journal`]).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use scheduler::negotiate::{LOG_TOTAL_MAX, Stream};
use scheduler::task::{AttemptId, RunId, TaskId};

use super::journal;

/// A piece of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// When it came, in Unix milliseconds; not known of a task that ends.
    pub at_ms: Option<u64>,
    /// Position of its first byte in the stream.
    pub offset: u64,
    /// What.
    pub bytes: Vec<u8>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes.len() as u64)
    }
}

/// What is kept of a stream, or of a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Where the part begins: 0 of the whole.
    pub start: u64,
    /// Where it ends: as much was written, as far as is known.
    pub end: u64,
    /// What is kept of it, in order; no two of them overlap, and none is empty.
    pub pieces: Vec<Piece>,
}

impl Kept {
    /// Puts pieces in order. Where two say something of the same place, the one that begins first counts.
    #[must_use]
    pub fn of(mut pieces: Vec<Piece>) -> Self {
        pieces.sort_by_key(|piece| piece.offset);
        let mut kept = Self::default();
        for mut piece in pieces {
            let known = usize::try_from(kept.end.saturating_sub(piece.offset));
            let known = known.unwrap_or(usize::MAX);
            if known >= piece.bytes.len() {
                continue;
            }
            piece.bytes.drain(..known);
            piece.offset = piece.offset.max(kept.end);
            kept.end = piece.end();
            kept.pieces.push(piece);
        }
        kept
    }

    /// Bytes of it that were written and are not kept.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let kept: u64 = self.pieces.iter().map(|piece| piece.bytes.len() as u64).sum();
        self.end.saturating_sub(self.start).saturating_sub(kept)
    }

    /// All that is kept, one after the other.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        self.pieces.iter().flat_map(|piece| &piece.bytes).copied().collect()
    }

    /// The part that came at this time (Unix ms) or later; pieces of which the time is not known are in it.
    #[must_use]
    pub fn since(mut self, since_ms: u64) -> Self {
        let is_new = |piece: &Piece| piece.at_ms.is_none_or(|at_ms| at_ms >= since_ms);
        let first = self.pieces.iter().position(is_new).unwrap_or(self.pieces.len());
        self.cut(first, 0);
        self
    }

    /// The part with the last lines; a last line that has not ended is one of them.
    #[must_use]
    pub fn tail(mut self, lines: u64) -> Self {
        if lines == 0 {
            self.cut(self.pieces.len(), 0);
            return self;
        }
        let (mut found, mut is_end) = (0, true);
        let from = 'found: {
            for (at, piece) in self.pieces.iter().enumerate().rev() {
                for (n, byte) in piece.bytes.iter().enumerate().rev() {
                    // What ends the last line begins no other.
                    let is_break = *byte == b'\n' && !is_end;
                    is_end = false;
                    found += u64::from(is_break);
                    if is_break && found == lines {
                        break 'found Some((at, n + 1));
                    }
                }
            }
            None
        };
        if let Some((at, n)) = from {
            self.cut(at, n);
        }
        self
    }

    /// Leaves out what is before a byte of a piece. Nothing changes when that is the first one that is kept.
    fn cut(&mut self, at: usize, n: usize) {
        if (at, n) == (0, 0) {
            return;
        }
        self.pieces.drain(..at);
        let Some(first) = self.pieces.first_mut() else {
            self.start = self.end;
            return;
        };
        self.start = first.offset.saturating_add(n as u64);
        first.bytes.drain(..n);
        first.offset = self.start;
        if first.bytes.is_empty() {
            self.pieces.remove(0);
        }
    }
}

/// Where an attempt's stream is kept at the node that runs the workflow.
fn log_path(logs: &Path, attempt: AttemptId, stream: Stream) -> PathBuf {
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    let task = attempt.task;
    logs.join(attempt.run.to_string())
        .join(format!("{}.{}.{}.{name}", task.step, task.index, attempt.number))
}

/// Where it stands how long a stream is of which only the first part is kept.
fn length_path(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".length");
    PathBuf::from(name)
}

/// The newest attempt of a replica's one task of which anything is kept.
pub(super) fn newest_replica(logs: &Path, run: RunId) -> io::Result<Option<AttemptId>> {
    let entries = match std::fs::read_dir(logs.join(run.to_string())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut newest = None;
    for entry in entries {
        let name = entry?.file_name();
        // As `log_path` makes it: step, index, number, stream.
        let number = name.to_str().and_then(|name| name.strip_prefix("0.0."));
        let number = number.and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
        newest = newest.max(number);
    }
    let task = TaskId { step: 0, index: 0 };
    Ok(newest.map(|number| AttemptId { run, task, number }))
}

fn path_to_write(logs: &Path, attempt: AttemptId, stream: Stream) -> io::Result<PathBuf> {
    let path = log_path(logs, attempt, stream);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    Ok(path)
}

/// Appends a piece at its offset; a piece that was kept already, or that leaves a gap after a loss, is put where it belongs.
pub(super) fn keep(
    logs: &Path,
    attempt: AttemptId,
    stream: Stream,
    offset: u64,
    bytes: &[u8],
) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    if bytes.is_empty() && offset > LOG_TOTAL_MAX {
        let path = path_to_write(logs, attempt, stream)?;
        return std::fs::write(length_path(&path), offset.to_string());
    }
    if offset.saturating_add(bytes.len() as u64) > LOG_TOTAL_MAX {
        return Ok(());
    }
    let path = path_to_write(logs, attempt, stream)?;
    File::options().create(true).truncate(false).write(true).open(path)?.write_all_at(bytes, offset)
}

/// Keeps a piece of what a replica wrote, and forgets the oldest when there is too much.
pub(super) fn keep_newest(
    logs: &Path,
    attempt: AttemptId,
    stream: Stream,
    piece: &Piece,
) -> io::Result<()> {
    let path = path_to_write(logs, attempt, stream)?;
    journal::append(&path, piece)
}

/// What is kept of a stream.
pub(super) fn read(logs: &Path, attempt: AttemptId, stream: Stream) -> io::Result<Kept> {
    let path = log_path(logs, attempt, stream);
    if let Some(pieces) = journal::read(&path)? {
        return Ok(Kept::of(pieces));
    }
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        bytes => bytes?,
    };
    let mut kept = Kept::of(vec![Piece { at_ms: None, offset: 0, bytes }]);
    // A length that a crash cut off in the middle is not known.
    let length = std::fs::read_to_string(length_path(&path)).ok();
    let length = length.and_then(|text| text.parse::<u64>().ok());
    kept.end = kept.end.max(length.unwrap_or(0));
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ATTEMPT: AttemptId = AttemptId {
        run: RunId::from_bytes([1; 16]),
        task: TaskId { step: 0, index: 0 },
        number: 1,
    };

    fn piece(at_ms: u64, offset: u64, text: &str) -> Piece {
        Piece { at_ms: Some(at_ms), offset, bytes: text.as_bytes().to_vec() }
    }

    fn text(kept: &Kept) -> String {
        String::from_utf8(kept.text()).unwrap()
    }

    #[test]
    fn the_newest_attempt_of_a_replica_is_found_by_its_files() {
        let home = tempfile::tempdir().unwrap();
        let run = ATTEMPT.run;
        assert_eq!(newest_replica(home.path(), run).unwrap(), None);
        for number in [9, 10, 2] {
            let attempt = AttemptId { number, ..ATTEMPT };
            keep_newest(home.path(), attempt, Stream::Stderr, &piece(1, 0, "up")).unwrap();
        }
        let found = newest_replica(home.path(), run).unwrap();
        assert_eq!(found, Some(AttemptId { number: 10, ..ATTEMPT }));
    }

    #[test]
    fn of_a_task_the_first_part_is_kept_and_how_long_the_whole_was() {
        let home = tempfile::tempdir().unwrap();
        let keep = |offset, bytes: &[u8]| {
            keep(home.path(), ATTEMPT, Stream::Stdout, offset, bytes).unwrap();
            read(home.path(), ATTEMPT, Stream::Stdout).unwrap()
        };
        assert_eq!(read(home.path(), ATTEMPT, Stream::Stdout).unwrap(), Kept::default());
        assert_eq!(text(&keep(4, b"two\n")), "\0\0\0\0two\n");
        let both = keep(0, b"one\n");
        assert_eq!((text(&both), both.dropped()), ("one\ntwo\n".to_owned(), 0));
        assert_eq!(keep(LOG_TOTAL_MAX, b"beyond"), both);
        let last = keep(LOG_TOTAL_MAX - 1, b".");
        assert_eq!((last.end, last.dropped()), (LOG_TOTAL_MAX, 0));
        let longer = keep(LOG_TOTAL_MAX + 77, b"");
        assert_eq!((longer.text(), longer.dropped()), (last.text(), 77));
        assert_eq!(longer.tail(1).dropped(), 77);
    }

    #[test]
    fn of_a_replica_pieces_are_put_in_order_and_gaps_are_counted() {
        let home = tempfile::tempdir().unwrap();
        for (at_ms, offset, text) in [
            (1, 100, "one\ntwo\n"),
            (2, 108, "three\n"),
            (2, 108, "three\n"),
            (4, 200, "five\nsi"),
            (3, 114, "four\n"),
            (5, 203, "e\nsix\n"),
        ] {
            let piece = piece(at_ms, offset, text);
            keep_newest(home.path(), ATTEMPT, Stream::Stdout, &piece).unwrap();
        }
        let kept = read(home.path(), ATTEMPT, Stream::Stdout).unwrap();
        assert_eq!(text(&kept), "one\ntwo\nthree\nfour\nfive\nsix\n");
        assert_eq!((kept.start, kept.end, kept.dropped()), (0, 209, 100 + 81));
        for (lines, expected, dropped) in [
            (0, "", 0),
            (1, "six\n", 0),
            (2, "five\nsix\n", 81),
            (3, "four\nfive\nsix\n", 81),
            (6, "one\ntwo\nthree\nfour\nfive\nsix\n", 181),
            (u64::MAX, "one\ntwo\nthree\nfour\nfive\nsix\n", 181),
        ] {
            let part = kept.clone().tail(lines);
            assert_eq!((text(&part).as_str(), part.dropped()), (expected, dropped), "{lines}");
        }
        for (since_ms, expected, dropped) in [
            (0, "one\ntwo\nthree\nfour\nfive\nsix\n", 181),
            (3, "four\nfive\nsix\n", 81),
            (5, "x\n", 0),
            (6, "", 0),
        ] {
            let part = kept.clone().since(since_ms);
            assert_eq!((text(&part).as_str(), part.dropped()), (expected, dropped), "{since_ms}");
        }
        assert_eq!(text(&kept.since(3).tail(2)), "five\nsix\n");
    }

    proptest! {
        #[test]
        fn a_part_is_an_end_of_the_whole_with_so_many_lines(
            pieces in proptest::collection::vec((0_u64..200, "[a\n]{0,20}"), 0..12),
            lines in 0_u64..30,
        ) {
            let pieces = pieces.iter().map(|(offset, text)| piece(0, *offset, text)).collect();
            let whole = Kept::of(pieces);
            let mut next = 0;
            for piece in &whole.pieces {
                prop_assert!(piece.offset >= next && !piece.bytes.is_empty());
                next = piece.end();
            }
            prop_assert_eq!(whole.end, next);
            prop_assert_eq!(whole.dropped() + whole.text().len() as u64, whole.end);
            let all = text(&whole);
            let part = whole.clone().tail(lines);
            prop_assert!(part.start >= whole.start && part.end == whole.end);
            let shown = text(&part);
            prop_assert!(all.ends_with(&shown));
            prop_assert_eq!(shown.lines().count(), all.lines().count().min(usize::try_from(lines).unwrap()));
            prop_assert!(part.dropped() <= whole.dropped());
        }
    }
}
