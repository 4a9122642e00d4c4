//! What a task that runs here writes, until it has been passed on to the node that runs the workflow.
//!
//! The output of a task that ends stands in two files, for its standard output may be one of its results; the first
//! [`LOG_TOTAL_MAX`] bytes of each travel while it runs, and in the end the length of what did not. A replica of a service may write
//! for ever, so nothing of it is on the disk: a [`Ring`] in memory holds the newest bytes of each stream. They travel as they come, as
//! fast as an [`Allowance`] lets them, and what the ring has lost by then is a gap in the offsets.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use scheduler::negotiate::{LOG_CHUNK_MAX, LOG_TOTAL_MAX, Stream};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::runtime::{LogSink, Stream as RuntimeStream};

/// Bytes of one stream of a replica that wait to travel; older ones are dropped first.
pub(super) const RING_BYTES: usize = 256 << 10;
/// Bytes of one stream of a replica that may travel with each reading in the long run. What is written faster waits in the ring.
const STEADY_BYTES: usize = LOG_CHUNK_MAX;
/// A replica's output is passed on with every so many readings of its meters: messages to one peer go one after the other, and
/// many replicas must not keep what is more important waiting.
const REPLICA_READINGS: u32 = 4;
/// How much of the end of standard error a failure quotes a line from, in bytes.
const STDERR_TAIL: usize = 2_000;

/// Takes a running task's output into two files. Beyond the bound the rest is dropped.
#[derive(Debug)]
pub(super) struct FileSink {
    files: [Mutex<(File, u64)>; 2],
    max: u64,
}

impl LogSink for FileSink {
    fn write(&self, stream: RuntimeStream, bytes: &[u8]) {
        let index = usize::from(stream == RuntimeStream::Stderr);
        let mut slot = self.files[index].lock().unwrap_or_else(PoisonError::into_inner);
        let (file, written) = &mut *slot;
        let room = self.max.saturating_sub(*written).min(bytes.len() as u64);
        let kept = &bytes[..usize::try_from(room).unwrap_or(bytes.len())];
        // A log that cannot be written must not stop the task; the disk's state is reported elsewhere.
        if file.write_all(kept).is_ok() {
            *written += room;
        }
    }
}

/// The newest bytes of a stream.
#[derive(Debug)]
struct Ring {
    bytes: VecDeque<u8>,
    /// Bytes that ever came: the position behind the last one.
    end: u64,
    max: usize,
}

impl Ring {
    const fn new(max: usize) -> Self {
        Self { bytes: VecDeque::new(), end: 0, max }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.end = self.end.saturating_add(bytes.len() as u64);
        let kept = &bytes[bytes.len().saturating_sub(self.max)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(self.max);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
    }

    /// Position of the first byte that is there.
    fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// What is there from a position on, or from the first byte there is: where that begins, and at most so many bytes.
    fn read(&self, from: u64, most: usize) -> Option<(u64, Vec<u8>)> {
        let at = from.max(self.start());
        let skipped = usize::try_from(at - self.start()).ok()?;
        let bytes: Vec<u8> = self.bytes.iter().skip(skipped).take(most).copied().collect();
        (!bytes.is_empty()).then_some((at, bytes))
    }

    fn tail(&self, most: usize) -> Vec<u8> {
        self.bytes.iter().skip(self.bytes.len().saturating_sub(most)).copied().collect()
    }
}

/// Takes a running replica's output into two rings.
#[derive(Debug)]
pub(super) struct RingSink {
    rings: [Mutex<Ring>; 2],
}

impl RingSink {
    fn new() -> Self {
        Self { rings: [(); 2].map(|()| Mutex::new(Ring::new(RING_BYTES))) }
    }

    fn ring(&self, stream: Stream) -> MutexGuard<'_, Ring> {
        let index = usize::from(stream == Stream::Stderr);
        self.rings[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogSink for RingSink {
    fn write(&self, stream: RuntimeStream, bytes: &[u8]) {
        let stream = match stream {
            RuntimeStream::Stdout => Stream::Stdout,
            RuntimeStream::Stderr => Stream::Stderr,
        };
        self.ring(stream).push(bytes);
    }
}

/// Where a task's output goes.
#[derive(Clone, Debug)]
pub(super) enum Output {
    /// Into files, whole up to a bound.
    Files {
        /// What fills them.
        sink: Arc<FileSink>,
        /// Standard output.
        stdout: PathBuf,
        /// Standard error.
        stderr: PathBuf,
    },
    /// Into rings that keep the newest bytes.
    Rings(Arc<RingSink>),
}

impl Output {
    /// Of a task that ends: files of at most `max` bytes.
    pub(super) fn files(stdout: &Path, stderr: &Path, max: u64) -> io::Result<Self> {
        let open = |path: &Path| File::create(path).map(|file| Mutex::new((file, 0)));
        let sink = Arc::new(FileSink { files: [open(stdout)?, open(stderr)?], max });
        Ok(Self::Files { sink, stdout: stdout.to_owned(), stderr: stderr.to_owned() })
    }

    /// Of a replica.
    pub(super) fn rings() -> Self {
        Self::Rings(Arc::new(RingSink::new()))
    }

    /// What takes it.
    pub(super) fn sink(&self) -> Arc<dyn LogSink> {
        match self {
            Self::Files { sink, .. } => Arc::<FileSink>::clone(sink),
            Self::Rings(sink) => Arc::<RingSink>::clone(sink),
        }
    }

    /// Both streams, to be passed on.
    pub(super) fn tails(&self) -> [Tail; 2] {
        match self {
            Self::Files { stdout, stderr, .. } => {
                [(Stream::Stdout, stdout), (Stream::Stderr, stderr)].map(|(stream, path)| {
                    let (path, offset, told) = (path.clone(), 0, 0);
                    Tail { stream, way: Way::File { path, offset, told } }
                })
            }
            Self::Rings(sink) => [Stream::Stdout, Stream::Stderr].map(|stream| {
                let (sink, allowance) = (Arc::clone(sink), Allowance::new());
                Tail { stream, way: Way::Ring { sink, next: 0, allowance, readings: 0 } }
            }),
        }
    }

    /// The last line of standard error in which something stands, without control characters.
    pub(super) async fn last_line(&self) -> Option<String> {
        let bytes = match self {
            Self::Files { stderr, .. } => end_of(stderr).await.ok()?,
            Self::Rings(sink) => sink.ring(Stream::Stderr).tail(STDERR_TAIL),
        };
        let text = String::from_utf8_lossy(&bytes);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        Some(line.chars().filter(|c| !c.is_control()).collect())
    }
}

async fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let most = STDERR_TAIL as u64;
    let mut file = tokio::fs::File::open(path).await?;
    let len = file.metadata().await?.len();
    file.seek(io::SeekFrom::Start(len.saturating_sub(most))).await?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// How much of a replica's stream may travel now: a full ring at first, then [`STEADY_BYTES`] more with each reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Allowance(usize);

impl Allowance {
    const fn new() -> Self {
        Self(RING_BYTES)
    }

    fn grow(&mut self) {
        self.0 = self.0.saturating_add(STEADY_BYTES).min(RING_BYTES);
    }

    /// The most that may travel in one piece.
    fn piece(self) -> usize {
        self.0.min(LOG_CHUNK_MAX)
    }

    const fn spend(&mut self, bytes: usize) {
        self.0 = self.0.saturating_sub(bytes);
    }
}

/// A growing stream, read from where reading stopped.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) stream: Stream,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Up to what may travel of it.
    File {
        path: PathBuf,
        offset: u64,
        /// The length that was said last, of a file that is longer than what travels.
        told: u64,
    },
    Ring {
        sink: Arc<RingSink>,
        next: u64,
        allowance: Allowance,
        readings: u32,
    },
}

impl Tail {
    /// A reading begins: [`Self::next`] is to be asked until there is nothing. The last one leaves nothing behind.
    pub(super) fn begin(&mut self, is_last: bool) {
        if let Way::Ring { allowance, readings, .. } = &mut self.way {
            *readings = readings.wrapping_add(1);
            if is_last {
                *allowance = Allowance::new();
            } else if readings.is_multiple_of(REPLICA_READINGS) {
                allowance.grow();
            }
        }
    }

    /// The next piece with its position; an empty one tells how long a stream is of which no more travels.
    pub(super) async fn next(&mut self, is_last: bool) -> Option<(u64, Vec<u8>)> {
        match &mut self.way {
            Way::File { path, offset, told } => {
                if let Some(piece) = next_of(path, offset).await {
                    return Some(piece);
                }
                if *offset < LOG_TOTAL_MAX || (*told > 0 && !is_last) {
                    return None;
                }
                let len = tokio::fs::metadata(&*path).await.ok()?.len();
                if len <= LOG_TOTAL_MAX || len == *told {
                    return None;
                }
                *told = len;
                Some((len, Vec::new()))
            }
            Way::Ring { sink, next, allowance, readings } => {
                if !is_last && !readings.is_multiple_of(REPLICA_READINGS) {
                    return None;
                }
                let (at, bytes) = sink.ring(self.stream).read(*next, allowance.piece())?;
                allowance.spend(bytes.len());
                *next = at + bytes.len() as u64;
                Some((at, bytes))
            }
        }
    }
}

async fn next_of(path: &Path, offset: &mut u64) -> Option<(u64, Vec<u8>)> {
    let room = LOG_TOTAL_MAX.checked_sub(*offset).filter(|room| *room > 0)?;
    let mut file = tokio::fs::File::open(path).await.ok()?;
    file.seek(io::SeekFrom::Start(*offset)).await.ok()?;
    let mut bytes = Vec::new();
    let most = room.min(LOG_CHUNK_MAX as u64);
    file.take(most).read_to_end(&mut bytes).await.ok().filter(|n| *n > 0)?;
    let at = *offset;
    *offset += bytes.len() as u64;
    Some((at, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_ring_holds_the_newest_bytes_and_knows_where_they_stand(
            max in 1_usize..64,
            writes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..20),
            from in 0_u64..2_000,
            most in 1_usize..100,
        ) {
            let mut ring = Ring::new(max);
            let mut all = Vec::new();
            for bytes in &writes {
                ring.push(bytes);
                all.extend_from_slice(bytes);
                prop_assert!(ring.bytes.len() <= max);
            }
            let newest = all.len().saturating_sub(max);
            prop_assert_eq!(ring.end, all.len() as u64);
            prop_assert_eq!(ring.start(), newest as u64);
            prop_assert_eq!(ring.tail(max), &all[newest..]);
            let at = newest.max(usize::try_from(from).unwrap());
            let expected = all.get(at..).filter(|rest| !rest.is_empty());
            let expected = expected.map(|rest| (at as u64, rest[..rest.len().min(most)].to_vec()));
            prop_assert_eq!(ring.read(from, most), expected);
        }
    }

    async fn drain(tail: &mut Tail, is_last: bool) -> Vec<(u64, Vec<u8>)> {
        let mut pieces = Vec::new();
        tail.begin(is_last);
        while let Some(piece) = tail.next(is_last).await {
            pieces.push(piece);
        }
        pieces
    }

    #[tokio::test]
    async fn a_replica_that_writes_faster_than_its_output_travels_loses_what_is_oldest() {
        let output = Output::rings();
        let mut tail = output.tails().into_iter().next().unwrap();
        let line = vec![b'x'; RING_BYTES / 4];
        let (mut written, mut taken, mut end) = (0, 0, 0);
        for _ in 0..40 {
            output.sink().write(RuntimeStream::Stdout, &line);
            written += line.len();
            for (at, bytes) in drain(&mut tail, false).await {
                assert!(at >= end && bytes.len() <= LOG_CHUNK_MAX);
                end = at + bytes.len() as u64;
                taken += bytes.len();
            }
        }
        // The first ring full and a piece for each reading that counts.
        let bound = RING_BYTES + 40 / REPLICA_READINGS as usize * STEADY_BYTES;
        assert!(taken <= bound && taken >= bound / 2, "{taken} of {bound}");
        output.sink().write(RuntimeStream::Stdout, b"the end");
        let last = drain(&mut tail, true).await;
        let (at, bytes) = last.last().unwrap();
        assert!(bytes.ends_with(b"the end"));
        assert_eq!(at + bytes.len() as u64, written as u64 + 7);
        assert!(drain(&mut tail, true).await.is_empty());
        assert_eq!(output.last_line().await, None);
        output.sink().write(RuntimeStream::Stderr, b"first\nno \x07such file\n\n");
        assert_eq!(output.last_line().await.as_deref(), Some("no such file"));
    }

    #[tokio::test]
    async fn of_a_task_the_first_part_travels_and_then_how_long_the_whole_is() {
        let dir = tempfile::tempdir().unwrap();
        let (stdout, stderr) = (dir.path().join("stdout"), dir.path().join("stderr"));
        let output = Output::files(&stdout, &stderr, 3 * LOG_TOTAL_MAX).unwrap();
        let [mut tail, mut other] = output.tails();
        let mebibyte = vec![b'x'; usize::try_from(LOG_TOTAL_MAX).unwrap()];
        output.sink().write(RuntimeStream::Stdout, &mebibyte);
        let pieces = drain(&mut tail, false).await;
        assert_eq!(pieces.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(), mebibyte.len());
        output.sink().write(RuntimeStream::Stdout, b"more");
        assert_eq!(drain(&mut tail, false).await, [(LOG_TOTAL_MAX + 4, Vec::new())]);
        for _ in 0..3 {
            output.sink().write(RuntimeStream::Stdout, &mebibyte);
        }
        assert!(drain(&mut tail, false).await.is_empty(), "only the last word is news again");
        assert_eq!(drain(&mut tail, true).await, [(3 * LOG_TOTAL_MAX, Vec::new())]);
        assert!(drain(&mut tail, true).await.is_empty());
        assert!(drain(&mut other, true).await.is_empty());
        output.sink().write(RuntimeStream::Stderr, b"it failed\n");
        assert_eq!(output.last_line().await.as_deref(), Some("it failed"));
    }
}
