//! What is counted while a machine runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::TaskControl;
use super::drive::Lines;
use super::process::vitals;
use super::qmp::{self, Qmp};
use super::stage::Staged;
use crate::runtime::cgroup;

/// How often QEMU is asked what its disks have moved.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// What is counted while a machine runs.
pub(super) struct Gauge<'a> {
    pub(super) begun: Instant,
    last: Instant,
    /// Memory over time, in KiB microseconds.
    kib_us: u128,
    pid: u32,
    staged: &'a Staged,
    /// Bytes of the output streams, and of the disks.
    moved: Arc<AtomicU64>,
    disks: Arc<AtomicU64>,
    /// Asks for the latter.
    pub(super) asking: JoinHandle<()>,
}

impl<'a> Gauge<'a> {
    pub(super) fn new(begun: Instant, pid: u32, staged: &'a Staged, lines: &Lines) -> Self {
        let disks = Arc::new(AtomicU64::new(0));
        let (qmp, counted) = (Arc::clone(&lines.qmp), Arc::clone(&disks));
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
        let moved = Arc::clone(&lines.moved);
        Self { begun, last: begun, kib_us: 0, pid, staged, moved, disks, asking }
    }

    /// Asks what the disks have moved in all.
    pub(super) async fn ask_last(&self, qmp: &Mutex<Qmp>) {
        // Without an answer the last one counts.
        if let Ok(stats) = qmp.lock().await.execute("query-blockstats").await {
            self.disks.fetch_max(qmp::disk_bytes(&stats), Ordering::Relaxed);
        }
    }

    /// Takes a reading.
    pub(super) fn read(&mut self, control: &TaskControl) {
        let vitals = vitals(self.pid);
        let counted = self.staged.cgroup.as_ref().and_then(|own| own.cgroup().read());
        let now = Instant::now();
        if let Some(vitals) = vitals {
            self.kib_us += u128::from(vitals.memory_bytes / 1_024) * (now - self.last).as_micros();
        }
        self.last = now;
        let io_bytes =
            self.moved.load(Ordering::Relaxed).saturating_add(self.disks.load(Ordering::Relaxed));
        let storage_bytes = self.staged.storage_bytes();
        if self.staged.nic.as_ref().is_some_and(|nic| nic.has_outside) {
            count_traffic(control, cgroup::network_of_process(i64::from(self.pid)));
        }
        control.change_meters(|meters| {
            meters.elapsed_us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            meters.memory_kib_s = u64::try_from(self.kib_us / 1_000_000).unwrap_or(u64::MAX);
            meters.io_bytes = meters.io_bytes.max(io_bytes);
            meters.storage_bytes = meters.storage_bytes.max(storage_bytes);
            // The cgroup's counter outlives the process.
            let cpu_us =
                counted.map(|reading| reading.cpu_us).or(vitals.map(|vitals| vitals.cpu_us));
            meters.cpu_us = meters.cpu_us.max(cpu_us.unwrap_or(0));
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
