//! What a task has used: by what the kernel counts for its container, read from inside while it runs, and by its start's own
//! word after that.
//!
//! The cluster's own metrics (`metrics.k8s.io`) are not asked: they are not everywhere, up to a minute old, and forget a pod
//! with its end. Where a container shows no counters (some sandboxes), processor and memory count as they were allotted.

use std::time::{Duration, Instant};

use crate::runtime::Meters;

/// How long a task may go without being read before the time since counts as allotted: its own user could have stopped what
/// reads it, and the last word is its own.
const UNSEEN_MAX: Duration = Duration::from_secs(10);

/// What the kernel counts for a container. What it does not is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) cpu_us: u64,
    pub(super) memory_bytes: u64,
    pub(super) peak_bytes: u64,
    pub(super) oom_kills: u64,
    pub(super) io_bytes: u64,
}

/// Reads one line of the gauge; `None` when it counts no processor time.
pub(super) fn reading(line: &str) -> Option<Reading> {
    let field = |name: &str| {
        let found =
            line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.and_then(|value| value.parse().ok())
    };
    Some(Reading {
        cpu_us: field("cpu_us")?,
        memory_bytes: field("memory").unwrap_or(0),
        peak_bytes: field("peak").unwrap_or(0),
        oom_kills: field("oom_kills").unwrap_or(0),
        io_bytes: field("io").unwrap_or(0),
    })
}

/// What the task's start has noted of its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    pub(super) is_started: bool,
    pub(super) elapsed: Option<Duration>,
    pub(super) reading: Option<Reading>,
    /// KiB that the task's directories take.
    pub(super) kib: Option<u64>,
    /// Bytes of standard output and error.
    pub(super) output: [u64; 2],
    /// Whether nothing of the notes was lost.
    pub(super) is_whole: bool,
}

/// Reads the notes: the length of the output and a line of `du`, which are of the node's own container; behind an empty line
/// `started`, the uptime at begin and end and a line of the gauge, which are in the task's hands; and `whole`.
pub(super) fn notes(text: &str) -> Notes {
    let mut notes = Notes::default();
    let (own, tasks) = text.split_once("\n\n").unwrap_or((text, ""));
    for line in own.lines() {
        notes.output = output(line).unwrap_or(notes.output);
        notes.kib = storage_kib(line).or(notes.kib);
    }
    for line in tasks.lines() {
        if line == "started" {
            notes.is_started = true;
        } else if line.starts_with("cpu_us=") {
            notes.reading = reading(line);
        } else if let Some((begun, ended)) = line.split_once(' ') {
            let both = uptime(begun).zip(uptime(ended));
            notes.elapsed = both.and_then(|(begun, ended)| ended.checked_sub(begun));
        }
    }
    notes.is_whole = tasks.trim_end().lines().last() == Some("whole");
    notes
}

/// The bytes of both streams in `out=1 err=2`.
fn output(line: &str) -> Option<[u64; 2]> {
    let (out, err) = line.strip_prefix("out=")?.split_once(" err=")?;
    Some([out.trim().parse().ok()?, err.trim().parse().ok()?])
}

/// KiB in a line of `du -s -k`.
pub(super) fn storage_kib(line: &str) -> Option<u64> {
    let (kib, path) = line.split_once('\t')?;
    path.starts_with('/').then(|| kib.parse().ok())?
}

/// A number of seconds with hundredths, as `/proc/uptime` has it.
fn uptime(text: &str) -> Option<Duration> {
    let (seconds, hundredths) = text.split_once('.')?;
    let hundredths: u64 = hundredths.parse().ok().filter(|n| *n < 100)?;
    Some(Duration::from_secs(seconds.parse().ok()?) + Duration::from_millis(hundredths * 10))
}

/// The meters of one task.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    cpu_milli: u64,
    memory_bytes: u64,
    /// Bytes in the task's directories at its start, as `du` counts them; its first word.
    before_kib: Option<u64>,
    begun: Option<Instant>,
    last: Option<Instant>,
    /// When the node itself has read it last.
    seen: Option<Instant>,
    ended: Option<Duration>,
    reading: Option<Reading>,
    /// Memory over time, in KiB microseconds.
    kib_us: u128,
    peak_bytes: u64,
    storage_bytes: u64,
    output_bytes: u64,
}

impl Meter {
    /// Of a task that is allotted so much.
    pub(super) fn new(cpu_milli: u64, memory_bytes: u64) -> Self {
        Self {
            cpu_milli,
            memory_bytes,
            before_kib: None,
            begun: None,
            last: None,
            seen: None,
            ended: None,
            reading: None,
            kib_us: 0,
            peak_bytes: 0,
            storage_bytes: 0,
            output_bytes: 0,
        }
    }

    /// The task was seen to run. Only the first time counts.
    pub(super) fn begin(&mut self, now: Instant) {
        self.begun.get_or_insert(now);
        self.last.get_or_insert(now);
    }

    /// Takes a reading of a task that runs.
    pub(super) fn read(&mut self, now: Instant, new: Reading) {
        self.add_memory(now);
        self.keep(new);
        self.seen = Some(now);
    }

    /// Counts the time since the node has read it last as allotted, if that is long; says whether it is not. A task that was
    /// never read is left to [`Self::show`].
    fn is_seen_until(&mut self, end: Instant, elapsed: Duration) -> bool {
        let since = self.seen.or(self.begun);
        let unseen = since.map_or(elapsed, |since| end.saturating_duration_since(since));
        if unseen <= UNSEEN_MAX {
            return true;
        }
        if let (Some(seen), Some(old)) = (self.seen, self.reading) {
            let micros = u64::try_from(unseen.as_micros()).unwrap_or(u64::MAX);
            let cpu_us = old.cpu_us.saturating_add(micros.saturating_mul(self.cpu_milli) / 1_000);
            self.keep(Reading { cpu_us, memory_bytes: self.memory_bytes, ..old });
            self.last = Some(seen);
            self.add_memory(end);
        }
        false
    }

    fn keep(&mut self, new: Reading) {
        let old = self.reading.unwrap_or_default();
        self.peak_bytes = self.peak_bytes.max(new.peak_bytes).max(new.memory_bytes);
        self.reading = Some(Reading {
            cpu_us: old.cpu_us.max(new.cpu_us),
            oom_kills: old.oom_kills.max(new.oom_kills),
            io_bytes: old.io_bytes.max(new.io_bytes),
            ..new
        });
    }

    /// Adds what it was last seen to hold, for the time since.
    fn add_memory(&mut self, now: Instant) {
        let Some(last) = self.last else { return };
        let held = self.reading.map_or(0, |reading| reading.memory_bytes.min(self.memory_bytes));
        self.kib_us += u128::from(held / 1_024) * now.saturating_duration_since(last).as_micros();
        self.last = Some(now);
    }

    /// Takes the task's end, and what its start has noted. The cluster tells whole seconds: the start is believed within them.
    pub(super) fn end(&mut self, now: Instant, seconds: Option<u64>, notes: &Notes) {
        let elapsed = seconds.map(Duration::from_secs).or(notes.elapsed);
        let end =
            self.begun.zip(elapsed).map_or(now, |(begun, elapsed)| (begun + elapsed).min(now));
        let is_seen = self.is_seen_until(end, elapsed.unwrap_or_default());
        self.add_memory(end);
        if let Some(reading) = notes.reading.filter(|_| is_seen || self.reading.is_some()) {
            let first = self.reading.is_none();
            self.keep(reading);
            if first {
                // It ended before it was read: then its most is all that is known.
                let held = u128::from(reading.peak_bytes.min(self.memory_bytes) / 1_024);
                self.kib_us = held * notes.elapsed.unwrap_or_default().as_micros();
            }
        }
        let seen = self.begun.map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
        let told = seconds.map(|seconds| {
            let (least, most) = (seconds.saturating_sub(1), seconds.saturating_add(1));
            let (least, most) = (Duration::from_secs(least), Duration::from_secs(most));
            notes.elapsed.unwrap_or(Duration::from_secs(seconds)).clamp(least, most)
        });
        self.ended = Some(told.or(notes.elapsed).unwrap_or(seen));
        if let Some(kib) = notes.kib {
            self.storage(kib);
        }
    }

    /// The task was ended by the node, or its pod is gone.
    pub(super) fn cut(&mut self, now: Instant) {
        let _ = self.is_seen_until(now, Duration::ZERO);
        self.add_memory(now);
        let seen = self.begun.map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
        self.ended.get_or_insert(seen);
    }

    /// Takes what `du` says of the task's directories; gives by how many bytes they have grown.
    pub(super) fn storage(&mut self, kib: u64) -> u64 {
        let before = self.before_kib.unwrap_or(0);
        let grown = kib.saturating_sub(before).saturating_mul(1_024);
        self.storage_bytes = self.storage_bytes.max(grown);
        grown
    }

    /// What the task's directories hold before it begins.
    pub(super) fn before(&mut self, kib: u64) {
        self.before_kib.get_or_insert(kib);
    }

    /// Adds bytes of output.
    pub(super) fn output(&mut self, bytes: u64) {
        self.output_bytes = self.output_bytes.saturating_add(bytes);
    }

    /// Whether the task was seen to run.
    pub(super) const fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// Whether anything was counted.
    pub(super) const fn is_read(&self) -> bool {
        self.reading.is_some()
    }

    /// How often a process of it was killed for want of memory.
    pub(super) fn oom_kills(&self) -> u64 {
        self.reading.map_or(0, |reading| reading.oom_kills)
    }

    /// Shows all in a task's meters, where counters only grow.
    pub(super) fn show(&self, now: Instant, meters: &mut Meters) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let seen = self.begun.map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
        let elapsed_us = micros(self.ended.unwrap_or(seen));
        let (cpu_us, peak, kib_us) = match self.reading {
            Some(reading) => (reading.cpu_us, self.peak_bytes.min(self.memory_bytes), self.kib_us),
            // Nothing is counted until it is known that nothing will be.
            None if self.ended.is_none() => (0, 0, 0),
            None => (
                elapsed_us.saturating_mul(self.cpu_milli) / 1_000,
                self.memory_bytes,
                u128::from(self.memory_bytes / 1_024) * u128::from(elapsed_us),
            ),
        };
        let io = self.reading.map_or(0, |reading| reading.io_bytes);
        meters.cpu_us = meters.cpu_us.max(cpu_us);
        meters.elapsed_us = meters.elapsed_us.max(elapsed_us);
        meters.memory_peak_bytes = meters.memory_peak_bytes.max(peak);
        let kib_s = u64::try_from(kib_us / 1_000_000).unwrap_or(u64::MAX);
        meters.memory_kib_s = meters.memory_kib_s.max(kib_s);
        meters.storage_bytes = meters.storage_bytes.max(self.storage_bytes);
        meters.io_bytes = meters.io_bytes.max(io.saturating_add(self.output_bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;
    const MIB: u64 = 1 << 20;

    fn shown(meter: &Meter, now: Instant) -> Meters {
        let mut meters = Meters::default();
        meter.show(now, &mut meters);
        meters
    }

    #[test]
    fn a_line_of_the_gauge_is_read_and_nonsense_is_not() {
        let line = "cpu_us=123 memory=4096 peak=8192 oom_kills=1 io=77";
        let expected = Reading {
            cpu_us: 123,
            memory_bytes: 4_096,
            peak_bytes: 8_192,
            oom_kills: 1,
            io_bytes: 77,
        };
        assert_eq!(reading(line), Some(expected));
        assert_eq!(reading("cpu_us=5 memory= peak= oom_kills= io=0").unwrap().cpu_us, 5);
        for line in ["", "cpu_us=", "cpu_us=-1", "memory=1", "cpu_us=99999999999999999999999"] {
            assert_eq!(reading(line), None, "{line}");
        }
    }

    #[test]
    fn notes_are_read_line_by_line() {
        let text = "out=3 err=40\n12\t/stage/own\n\nstarted\n100.25 101.50\ncpu_us=7 memory=1 peak=2 oom_kills=0 io=0\n\nwhole\n";
        let found = notes(text);
        assert!(found.is_started);
        assert_eq!(found.elapsed, Some(Duration::from_millis(1_250)));
        assert_eq!(found.reading.map(|reading| reading.cpu_us), Some(7));
        assert_eq!(found.kib, Some(12));
        assert_eq!((found.output, found.is_whole), ([3, 40], true));
        assert!(!notes("out=3 err=4\n\nstarted\n").is_whole);
        let forged =
            notes("out=3 err=40\n12\t/stage/own\n\nout=9 err=9\n0\t/stage/own\nzzz\nwhole\n");
        assert_eq!(
            (forged.output, forged.kib),
            ([3, 40], Some(12)),
            "the node's own lines stand first"
        );
        for lie in ["5.0 1.0\n", "x y\n", "1 2\n", "-1.0 2.0\n"] {
            assert_eq!(
                notes(&format!("\n\n{lie}")).elapsed.filter(|time| *time > Duration::ZERO),
                None,
                "{lie}"
            );
        }
    }

    #[test]
    fn a_task_is_believed_within_the_seconds_that_the_cluster_tells() {
        let now = Instant::now();
        for (told_ms, elapsed_us) in
            [(Some(3_400), 3_400_000), (Some(0), 2 * S), (Some(60_000), 4 * S), (None, 3 * S)]
        {
            let mut meter = Meter::new(1_000, MIB);
            meter.begin(now);
            let notes = Notes { elapsed: told_ms.map(Duration::from_millis), ..Notes::default() };
            meter.end(now + Duration::from_secs(9), Some(3), &notes);
            assert_eq!(shown(&meter, now).elapsed_us, elapsed_us, "{told_ms:?}");
        }
    }

    #[test]
    fn counters_only_grow_and_memory_adds_up_over_time() {
        let now = Instant::now();
        let at = |s: u64| now + Duration::from_secs(s);
        let mut meter = Meter::new(1_000, 64 * MIB);
        meter.begin(now);
        let of = |cpu_us, mib| Reading { cpu_us, memory_bytes: mib * MIB, ..Reading::default() };
        meter.read(at(1), of(5, 1));
        meter.read(at(3), of(9, 2));
        meter.end(at(4), None, &Notes { reading: Some(of(4, 0)), ..Notes::default() });
        let meters = shown(&meter, at(9));
        assert_eq!(meters.cpu_us, 9);
        assert_eq!(meters.memory_kib_s, 2 * 1_024 + 2_048);
        assert_eq!(meters.memory_peak_bytes, 2 * MIB);
        assert_eq!(meters.elapsed_us, 4 * S);
    }

    #[test]
    fn time_in_which_nobody_has_looked_counts_as_allotted() {
        let now = Instant::now();
        let at = |s: u64| now + Duration::from_secs(s);
        let of = |cpu_us| Reading { cpu_us, memory_bytes: MIB, ..Reading::default() };
        let ended = |seconds: u64| {
            let mut meter = Meter::new(500, 8 * MIB);
            meter.begin(now);
            meter.read(at(2), of(7));
            // It says that it has done nothing since.
            let notes = Notes { reading: Some(of(7)), ..Notes::default() };
            meter.end(at(seconds + 4), Some(seconds), &notes);
            shown(&meter, at(seconds + 4))
        };
        assert_eq!(ended(11).cpu_us, 7, "nine seconds may pass");
        let meters = ended(22);
        assert_eq!(meters.cpu_us, 7 + 10 * S);
        assert!(meters.memory_kib_s >= 20 * 8 * 1_024, "{meters:?}");
    }

    #[test]
    fn where_nothing_is_counted_what_was_allotted_counts() {
        let now = Instant::now();
        let mut meter = Meter::new(500, 2 * MIB);
        meter.begin(now);
        assert_eq!(shown(&meter, now + Duration::from_secs(1)).cpu_us, 0);
        meter.end(now + Duration::from_secs(4), None, &Notes::default());
        let meters = shown(&meter, now);
        assert_eq!(meters.cpu_us, 2 * S);
        assert_eq!(meters.memory_kib_s, 4 * 2_048);
    }

    #[test]
    fn only_growth_is_the_tasks() {
        let mut meter = Meter::new(1, 1);
        meter.before(100);
        meter.before(1);
        assert_eq!(meter.storage(90), 0);
        assert_eq!(meter.storage(103), 3 * 1_024);
        assert_eq!(shown(&meter, Instant::now()).storage_bytes, 3 * 1_024);
    }
}
