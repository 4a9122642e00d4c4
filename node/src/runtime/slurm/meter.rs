//! What a job has used: the cluster's readings, the node's clock, and the job's own word where nothing better is known.

use std::time::{Duration, Instant};

use super::watch::Counted;
use crate::runtime::Meters;

/// When something happened, as far as it was seen: not before the first, and not after the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Between(pub(super) Instant, pub(super) Instant);

/// What a job says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Claim {
    /// Processor time of the program and of those that it waited for, in microseconds.
    pub(super) cpu_us: Option<u64>,
    /// From the program's start to its end.
    pub(super) elapsed: Option<Duration>,
}

/// The meters of one job.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    /// Whether a reading counts all that the job has used, also by processes that have ended.
    is_exact: bool,
    begun: Option<Between>,
    /// When the program ended, or the node ended it.
    stopped: Option<Between>,
    /// When memory was last added up.
    last: Option<Instant>,
    counted: Counted,
    /// Whether a reading was made after the program had ended.
    is_read: bool,
    claim: Claim,
    memory_peak_bytes: u64,
    /// Memory over time, in KiB microseconds.
    kib_us: u128,
    /// Bytes of standard output and error.
    output_bytes: u64,
}

impl Meter {
    /// With nothing counted.
    pub(super) fn new(is_exact: bool) -> Self {
        Self { is_exact, ..Self::default() }
    }

    /// The program has been started. Only the first time counts.
    pub(super) fn begin(&mut self, when: Between) {
        self.begun.get_or_insert(when);
    }

    /// The program has ended, by the job's own word.
    pub(super) fn close(&mut self, when: Between, claim: Claim) {
        self.add_memory(when.1);
        self.stopped.get_or_insert(when);
        self.claim = claim;
    }

    /// No more time is counted.
    pub(super) fn stop(&mut self, now: Instant) {
        self.add_memory(now);
        self.stopped.get_or_insert(Between(now, now));
    }

    /// Takes a reading of the cluster.
    pub(super) fn count(&mut self, now: Instant, counted: Counted) {
        self.add_memory(now);
        let used = counted.used;
        self.memory_peak_bytes =
            self.memory_peak_bytes.max(used.memory_peak_bytes).max(used.memory_bytes);
        self.is_read |= counted.n_asked > 0 && counted.is_fresh;
        self.counted = counted;
        if self.is_read && used.memory_bytes > 0 && self.kib_us == 0 {
            // It ended before it was read while it ran: then its most is all that is known.
            self.kib_us =
                u128::from(self.memory_peak_bytes / 1_024) * self.elapsed(now).as_micros();
        }
    }

    /// The kernel refused it more memory than this: so it had it, whatever was seen.
    pub(super) fn met_limit(&mut self, bytes: u64) {
        self.memory_peak_bytes = self.memory_peak_bytes.max(bytes);
    }

    /// Adds bytes of output.
    pub(super) fn output(&mut self, bytes: u64) {
        self.output_bytes = self.output_bytes.saturating_add(bytes);
    }

    /// When the program was seen to have been started.
    pub(super) fn begun(&self) -> Option<Instant> {
        self.begun.map(|begun| begun.1)
    }

    pub(super) fn memory_peak_bytes(&self) -> u64 {
        self.memory_peak_bytes
    }

    /// Whether an ended job need not be kept: it has been read, or was waited for long enough.
    pub(super) fn may_close(&self, now: Instant, timeout: Duration) -> bool {
        let is_late = self.stopped.is_some_and(|stopped| now.duration_since(stopped.1) >= timeout);
        self.counted.n_asked > 0 || is_late
    }

    /// Adds what it is known to hold, for the time since.
    fn add_memory(&mut self, now: Instant) {
        let Some(begun) = self.begun() else { return };
        let until = self.stopped.map_or(now, |stopped| stopped.1);
        let since = until.saturating_duration_since(self.last.unwrap_or(begun));
        self.kib_us += u128::from(self.counted.used.memory_bytes / 1_024) * since.as_micros();
        self.last = Some(until);
    }

    /// The time that the program has taken. Where the node looked too seldom to know, the job's word counts.
    fn elapsed(&self, now: Instant) -> Duration {
        let Some(begun) = self.begun else { return Duration::ZERO };
        let stopped = self.stopped.unwrap_or(Between(now, now));
        let least = stopped.0.saturating_duration_since(begun.1);
        let most = stopped.1.saturating_duration_since(begun.0);
        let seen = stopped.1.saturating_duration_since(begun.1);
        self.claim.elapsed.unwrap_or(seen).clamp(least, most)
    }

    /// Processor time in microseconds. The cluster's reading stands up to its last printed place; below that the job's word
    /// counts. Without an exact reading after the end the word counts if it is more: who lies there harms only himself.
    fn cpu_us(&self) -> u64 {
        let read = self.counted.used;
        match self.claim.cpu_us {
            Some(claimed) if self.is_read && self.is_exact => {
                let most = read.cpu_us.saturating_add(read.cpu_place_us.saturating_sub(1));
                claimed.clamp(read.cpu_us, most)
            }
            Some(claimed) => claimed.max(read.cpu_us),
            None => read.cpu_us,
        }
    }

    /// Shows all in a task's meters, where counters only grow.
    pub(super) fn show(&self, now: Instant, meters: &mut Meters) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let kib_s = u64::try_from(self.kib_us / 1_000_000).unwrap_or(u64::MAX);
        meters.cpu_us = meters.cpu_us.max(self.cpu_us());
        meters.elapsed_us = meters.elapsed_us.max(micros(self.elapsed(now)));
        meters.memory_peak_bytes = meters.memory_peak_bytes.max(self.memory_peak_bytes);
        meters.memory_kib_s = meters.memory_kib_s.max(kib_s);
        meters.io_bytes = meters.io_bytes.max(self.counted.used.io_bytes).max(self.output_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::Usage;
    use super::*;

    const S: u64 = 1_000_000;

    fn reading(n_asked: u64, cpu_us: u64, memory_bytes: u64) -> Counted {
        let used =
            Usage { cpu_us, cpu_place_us: S, memory_bytes, io_bytes: 10, ..Usage::default() };
        Counted { n_asked, is_fresh: true, used }
    }

    fn shown(meter: &Meter, now: Instant) -> Meters {
        let mut meters = Meters::default();
        meter.show(now, &mut meters);
        meters
    }

    fn claim(cpu_us: Option<u64>) -> Claim {
        Claim { cpu_us, elapsed: None }
    }

    #[test]
    fn a_job_is_believed_only_below_the_last_second() {
        let now = Instant::now();
        for (claimed, cpu_us) in [
            (Some(2_345_678), 2_345_678),
            (Some(0), 2 * S),
            (Some(1_999_999), 2 * S),
            (Some(9 * S), 3 * S - 1),
            (None, 2 * S),
        ] {
            let mut meter = Meter::new(true);
            meter.begin(Between(now, now));
            meter.close(Between(now, now), claim(claimed));
            meter.count(now, reading(1, 2 * S, 0));
            assert_eq!(shown(&meter, now).cpu_us, cpu_us, "{claimed:?}");
        }
    }

    #[test]
    fn without_a_last_reading_the_larger_number_counts() {
        let now = Instant::now();
        for (claimed, cpu_us) in [(Some(5 * S), 5 * S), (Some(1), 2 * S), (None, 2 * S)] {
            let mut meter = Meter::new(true);
            meter.begin(Between(now, now));
            meter.count(now, reading(0, 2 * S, 0));
            meter.close(Between(now, now), claim(claimed));
            meter.count(now, Counted { n_asked: 1, is_fresh: false, ..reading(0, 2 * S, 0) });
            assert_eq!(shown(&meter, now).cpu_us, cpu_us, "{claimed:?}");
        }
    }

    #[test]
    fn where_ended_processes_are_not_counted_the_larger_number_counts() {
        let now = Instant::now();
        for (claimed, cpu_us) in [(Some(5 * S), 5 * S), (Some(1), 2 * S), (None, 2 * S)] {
            let mut meter = Meter::new(false);
            meter.begin(Between(now, now));
            meter.close(Between(now, now), claim(claimed));
            meter.count(now, reading(1, 2 * S, 0));
            assert_eq!(shown(&meter, now).cpu_us, cpu_us, "{claimed:?}");
        }
    }

    #[test]
    fn a_jobs_own_time_counts_only_where_the_node_did_not_look() {
        let now = Instant::now();
        let at = |ms: u64| now + Duration::from_millis(ms);
        for (claimed_ms, elapsed_ms) in
            [(Some(250), 250), (Some(0), 200), (Some(9_000), 400), (None, 300)]
        {
            let mut meter = Meter::new(true);
            meter.begin(Between(at(0), at(100)));
            let elapsed = claimed_ms.map(Duration::from_millis);
            meter.close(Between(at(300), at(400)), Claim { cpu_us: None, elapsed });
            assert_eq!(shown(&meter, at(9_000)).elapsed_us, elapsed_ms * 1_000, "{claimed_ms:?}");
        }
    }

    #[test]
    fn time_and_memory_stop_with_the_program() {
        let now = Instant::now();
        let at = |s: u64| now + Duration::from_secs(s);
        let mut meter = Meter::new(true);
        meter.begin(Between(at(1), at(1)));
        meter.begin(Between(at(2), at(2)));
        meter.count(at(2), reading(0, 0, 1 << 20));
        meter.count(at(3), reading(0, 0, 2 << 20));
        meter.count(at(5), reading(0, 0, 1 << 20));
        meter.close(Between(at(6), at(6)), Claim::default());
        meter.count(at(9), reading(1, 0, 1 << 20));
        let meters = shown(&meter, at(20));
        assert_eq!(meters.elapsed_us, 5 * S);
        assert_eq!(meters.memory_peak_bytes, 2 << 20);
        assert_eq!(meters.memory_kib_s, 1_024 + 2 * 2_048 + 1_024);
    }

    #[test]
    fn a_job_that_was_read_only_at_its_end_held_its_most() {
        let now = Instant::now();
        let at = |s: u64| now + Duration::from_secs(s);
        let mut meter = Meter::new(true);
        meter.begin(Between(at(0), at(0)));
        meter.close(Between(at(4), at(4)), Claim::default());
        let mut counted = reading(1, 0, 1_024);
        counted.used.memory_peak_bytes = 1 << 20;
        meter.count(at(5), counted);
        assert_eq!(shown(&meter, at(5)).memory_kib_s, 4 * 1_024);
    }

    #[test]
    fn an_ended_job_is_kept_until_it_is_read_or_too_late() {
        let now = Instant::now();
        let mut meter = Meter::new(true);
        meter.begin(Between(now, now));
        meter.close(Between(now, now), Claim::default());
        assert!(!meter.may_close(now, Duration::from_secs(1)));
        assert!(meter.may_close(now + Duration::from_secs(1), Duration::from_secs(1)));
        meter.count(now, reading(1, 0, 0));
        assert!(meter.may_close(now, Duration::from_secs(1)));
    }
}
