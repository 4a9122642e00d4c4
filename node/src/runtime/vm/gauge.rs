//! What is counted while a machine runs, from its start to its end. It may be suspended in between: then its QEMU ends, and
//! what another one counts from nothing is added to what the ones before have counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::TaskControl;
use super::process::vitals;
use super::qmp::{self, Qmp};
use super::stage::Staged;
use crate::runtime::cgroup;

/// How often QEMU is asked what its disks have moved.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// How long a machine has run and how long it was suspended. Pure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// When it began to run, or to be suspended.
    since: Instant,
    is_suspended: bool,
    /// All of it before.
    ran: Duration,
    suspended: Duration,
}

impl Clock {
    pub(super) const fn new(now: Instant) -> Self {
        Self { since: now, is_suspended: false, ran: Duration::ZERO, suspended: Duration::ZERO }
    }

    /// It is suspended from here on, or runs again.
    pub(super) fn turn(&mut self, is_suspended: bool, now: Instant) {
        (self.ran, self.suspended) = (self.ran(now), self.suspended(now));
        (self.since, self.is_suspended) = (now, is_suspended);
    }

    pub(super) fn ran(&self, now: Instant) -> Duration {
        if self.is_suspended { self.ran } else { self.ran + now.duration_since(self.since) }
    }

    pub(super) fn suspended(&self, now: Instant) -> Duration {
        let on = if self.is_suspended { now.duration_since(self.since) } else { Duration::ZERO };
        self.suspended + on
    }
}

/// What one QEMU counts from nothing, and what those before it have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    before: u64,
    now: u64,
}

impl Count {
    /// The newest reading; an older one that comes late changes nothing.
    fn read(&mut self, count: u64) -> u64 {
        self.now = self.now.max(count);
        self.total()
    }

    const fn total(self) -> u64 {
        self.before.saturating_add(self.now)
    }

    /// The next one counts from nothing again.
    const fn next(&mut self) {
        *self = Self { before: self.total(), now: 0 };
    }
}

/// The QEMU that runs the machine now.
struct Engine {
    pid: u32,
    /// Bytes that its disks have moved.
    disks: Arc<AtomicU64>,
    /// Asks for the latter.
    asking: JoinHandle<()>,
}

/// What is counted while a machine runs.
pub(super) struct Gauge<'a> {
    clock: Clock,
    last: Instant,
    /// Memory over time, in KiB microseconds.
    kib_us: u128,
    cpu_us: Count,
    disks: Count,
    staged: &'a Staged,
    /// Bytes of the output streams.
    moved: Arc<AtomicU64>,
    engine: Option<Engine>,
}

impl<'a> Gauge<'a> {
    /// Of a machine that has just begun, before its QEMU.
    pub(super) fn new(begun: Instant, staged: &'a Staged, moved: &Arc<AtomicU64>) -> Self {
        Self {
            clock: Clock::new(begun),
            last: begun,
            kib_us: 0,
            cpu_us: Count::default(),
            disks: Count::default(),
            staged,
            moved: Arc::clone(moved),
            engine: None,
        }
    }

    /// A QEMU runs the machine from here on.
    pub(super) fn attach(&mut self, pid: u32, qmp: &Arc<Mutex<Qmp>>) {
        let disks = Arc::new(AtomicU64::new(0));
        let (qmp, counted) = (Arc::clone(qmp), Arc::clone(&disks));
        let asking = tokio::spawn(async move {
            loop {
                tokio::time::sleep(STATS_INTERVAL).await;
                let stats = qmp.lock().await.execute("query-blockstats").await;
                match stats {
                    Ok(stats) => counted.fetch_max(qmp::disk_bytes(&stats), Ordering::Relaxed),
                    // A QEMU that does not answer is ended by its time limit.
                    Err(_) => return,
                };
            }
        });
        if let Some(before) = self.engine.replace(Engine { pid, disks, asking }) {
            before.asking.abort();
        }
        self.last = Instant::now();
    }

    /// That QEMU is to end: it is asked nothing more.
    pub(super) fn hush(&self) {
        if let Some(engine) = &self.engine {
            engine.asking.abort();
        }
    }

    /// That QEMU has ended; the machine is suspended. The last of it was read.
    pub(super) fn detach(&mut self) {
        self.hush();
        self.engine = None;
        self.cpu_us.next();
        self.disks.next();
        self.clock.turn(true, Instant::now());
    }

    /// The machine runs again.
    pub(super) fn resume(&mut self) {
        self.clock.turn(false, Instant::now());
        self.last = Instant::now();
    }

    /// How long the machine has run.
    pub(super) fn ran(&self) -> Duration {
        self.clock.ran(Instant::now())
    }

    /// Asks what the disks have moved in all.
    pub(super) async fn ask_last(&self, qmp: &Mutex<Qmp>) {
        let Some(engine) = &self.engine else { return };
        // Without an answer the last one counts.
        if let Ok(stats) = qmp.lock().await.execute("query-blockstats").await {
            engine.disks.fetch_max(qmp::disk_bytes(&stats), Ordering::Relaxed);
        }
    }

    /// Takes a reading.
    pub(super) fn read(&mut self, control: &TaskControl) {
        let now = Instant::now();
        let vitals = self.engine.as_ref().and_then(|engine| vitals(engine.pid));
        let cgroup = self.staged.cgroup.as_ref().filter(|_| self.engine.is_some());
        let counted = cgroup.and_then(|own| own.cgroup().read());
        if let Some(vitals) = vitals {
            self.kib_us += u128::from(vitals.memory_bytes / 1_024) * (now - self.last).as_micros();
        }
        self.last = now;
        let disks = self.engine.as_ref().map_or(0, |engine| engine.disks.load(Ordering::Relaxed));
        let io_bytes = self.moved.load(Ordering::Relaxed).saturating_add(self.disks.read(disks));
        let of_processes = self.cpu_us.read(vitals.map_or(0, |vitals| vitals.cpu_us));
        // The cgroup's counter outlives the process, and the next one counts on in it.
        let cpu_us = counted.map_or(of_processes, |reading| reading.cpu_us);
        let storage_bytes = self.staged.storage_bytes();
        if let Some(engine) = &self.engine
            && self.staged.nic.as_ref().is_some_and(|nic| nic.has_outside)
        {
            count_traffic(control, cgroup::network_of_process(i64::from(engine.pid)));
        }
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        control.change_meters(|meters| {
            meters.elapsed_us = micros(self.clock.ran(now));
            meters.suspended_us = micros(self.clock.suspended(now));
            meters.memory_kib_s = u64::try_from(self.kib_us / 1_000_000).unwrap_or(u64::MAX);
            meters.io_bytes = meters.io_bytes.max(io_bytes);
            meters.storage_bytes = meters.storage_bytes.max(storage_bytes);
            meters.cpu_us = meters.cpu_us.max(cpu_us);
            // Files that the kernel keeps in memory are not the machine's, so the process is asked and not the cgroup.
            let peak = vitals.map_or(0, |vitals| vitals.memory_peak_bytes);
            meters.memory_peak_bytes = meters.memory_peak_bytes.max(peak);
        });
    }

    /// How often the host has killed for want of memory.
    pub(super) fn oom_kills(&self) -> u64 {
        let reading = self.staged.cgroup.as_ref().and_then(|own| own.cgroup().read());
        reading.map_or(0, |reading| reading.oom_kills)
    }
}

/// Takes a reading of the bytes that came in and went out.
pub(super) fn count_traffic(control: &TaskControl, traffic: Option<(u64, u64)>) {
    let (into, out) = traffic.unwrap_or_default();
    control.change_meters(|meters| {
        meters.net_in_bytes = meters.net_in_bytes.max(into);
        meters.net_out_bytes = meters.net_out_bytes.max(out);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_for_running_or_for_being_suspended_and_never_for_both() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let of = |clock: &Clock, seconds| {
            (clock.ran(at(seconds)).as_secs(), clock.suspended(at(seconds)).as_secs())
        };
        let mut clock = Clock::new(begun);
        assert_eq!(of(&clock, 7), (7, 0));
        clock.turn(true, at(10));
        assert_eq!(of(&clock, 1_010), (10, 1_000));
        clock.turn(false, at(1_010));
        assert_eq!(of(&clock, 1_015), (15, 1_000));
        clock.turn(true, at(1_020));
        clock.turn(false, at(1_021));
        assert_eq!(of(&clock, 1_021), (20, 1_001));
        for seconds in 1_021..1_030 {
            let (ran, suspended) = of(&clock, seconds);
            assert_eq!(ran + suspended, seconds);
        }
    }

    #[test]
    fn what_each_process_counts_from_nothing_is_added_up_and_never_falls() {
        let mut count = Count::default();
        assert_eq!((count.read(5), count.read(3), count.read(9)), (5, 5, 9));
        count.next();
        assert_eq!((count.total(), count.read(0), count.read(4)), (9, 9, 13));
        count.next();
        count.next();
        assert_eq!(count.read(u64::MAX), u64::MAX);
    }
}
