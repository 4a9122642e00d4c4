//! Meters of one guest, readable from any thread while it runs.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::ResourceLimiter;

use crate::runtime::Meters;

/// Most elements in all tables of a guest; beyond it a table does not grow. A large interpreter has some 50 000.
const TABLE_ELEMENTS_MAX: u64 = 1 << 20;
/// Most core instances and tables of a guest; beyond it, it does not start. A converted module has about five.
const INSTANCES_MAX: usize = 256;
/// Most linear memories of a guest; beyond it, it does not start.
const MEMORIES_MAX: usize = 64;

/// Counts what a guest uses.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    begun: OnceLock<Begun>,
    ended: OnceLock<Meters>,
    started_in: OnceLock<Duration>,
    memory: Mutex<Memory>,
    is_memory_denied: AtomicBool,
    stdio_bytes: AtomicU64,
    storage_bytes: AtomicU64,
    fuel: AtomicU64,
    /// Largest readings so far, for when the kernel no longer knows the thread.
    cpu_us: AtomicU64,
    file_bytes: AtomicU64,
    /// Bytes that the guest's thread has read of its own counters, which are not the guest's.
    own_bytes: AtomicU64,
}

#[derive(Debug)]
struct Begun {
    at: Instant,
    thread: Option<ThreadFiles>,
    cpu_ns: u64,
    file_bytes: u64,
}

/// Linear memory over time.
#[derive(Debug, Default)]
struct Memory {
    bytes: u64,
    peak_bytes: u64,
    since: Option<Instant>,
    kib_us: u128,
}

impl Memory {
    fn advance(&mut self, now: Instant) {
        if let Some(since) = self.since {
            self.kib_us += u128::from(self.bytes / 1024) * (now - since).as_micros();
        }
        self.since = Some(now);
    }
}

/// The kernel's own counters of one thread.
#[derive(Debug)]
struct ThreadFiles {
    schedstat: String,
    io: String,
}

impl ThreadFiles {
    /// Of the calling thread.
    fn current() -> Option<Self> {
        // `/proc/thread-self` reads as `<pid>/task/<tid>`.
        let link = fs::read_link("/proc/thread-self").ok()?;
        let tid = link.file_name()?.to_str()?.to_owned();
        let of = |name: &str| format!("/proc/self/task/{tid}/{name}");
        Some(Self { schedstat: of("schedstat"), io: of("io") })
    }

    /// Nanoseconds on a processor.
    fn cpu_ns(&self) -> Option<u64> {
        fs::read_to_string(&self.schedstat).ok()?.split_whitespace().next()?.parse().ok()
    }

    fn io(&self) -> Option<Io> {
        let text = fs::read_to_string(&self.io).ok()?;
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        Some(Io { read: field("rchar:")?, written: field("wchar:")?, own: text.len() as u64 })
    }
}

/// Bytes that a thread has given to system calls.
struct Io {
    read: u64,
    written: u64,
    /// Length of the reading itself, which the kernel counts afterwards.
    own: u64,
}

impl Gauge {
    /// Begins to count what the calling thread does.
    pub(super) fn begin(&self) {
        let thread = ThreadFiles::current();
        let cpu_ns = thread.as_ref().and_then(ThreadFiles::cpu_ns).unwrap_or(0);
        let io = thread.as_ref().and_then(ThreadFiles::io);
        let file_bytes =
            io.map_or(0, |io| io.read.saturating_add(io.written).saturating_add(io.own));
        let begun = Begun { at: Instant::now(), thread, cpu_ns, file_bytes };
        self.begun.set(begun).ok();
    }

    /// Notes how long it took to instantiate the module.
    pub(super) fn note_started(&self, elapsed: Duration) {
        self.started_in.set(elapsed).ok();
    }

    pub(super) fn started_in(&self) -> Option<Duration> {
        self.started_in.get().copied()
    }

    /// Stops counting, on the same thread.
    pub(super) fn end(&self) {
        // The kernel books a thread's time when the thread gives up its processor, so it does that once.
        std::thread::park_timeout(Duration::from_micros(1));
        self.lock_memory().advance(Instant::now());
        self.ended.set(self.measure()).ok();
    }

    /// What has been used so far.
    pub(super) fn read(&self) -> Meters {
        self.ended.get().copied().unwrap_or_else(|| self.measure())
    }

    fn measure(&self) -> Meters {
        let Some(begun) = self.begun.get() else {
            return Meters::default();
        };
        let elapsed_us = micros(begun.at.elapsed());
        let (memory_peak_bytes, memory_kib_s) = {
            let mut memory = self.lock_memory();
            memory.advance(Instant::now());
            (memory.peak_bytes, u64::try_from(memory.kib_us / 1_000_000).unwrap_or(u64::MAX))
        };
        // Before the processor time, so that reading that is not counted.
        let io = begun.thread.as_ref().and_then(ThreadFiles::io);
        let before = begun.file_bytes.saturating_add(self.own_bytes.load(Ordering::Relaxed));
        let file_bytes =
            io.map_or(0, |io| io.read.saturating_add(io.written).saturating_sub(before));
        let cpu_us = match &begun.thread {
            Some(thread) => {
                let now_ns = thread.cpu_ns().unwrap_or(0);
                highest(&self.cpu_us, now_ns.saturating_sub(begun.cpu_ns) / 1000)
            }
            // Without the kernel's counters the guest is taken to have computed all the time.
            None => elapsed_us,
        };
        Meters {
            cpu_us,
            elapsed_us,
            memory_peak_bytes,
            memory_kib_s,
            storage_bytes: self.storage_bytes.load(Ordering::Relaxed),
            io_bytes: highest(&self.file_bytes, file_bytes)
                .saturating_add(self.stdio_bytes.load(Ordering::Relaxed)),
            fuel: self.fuel.load(Ordering::Relaxed),
            // A module cannot be suspended.
            suspended_us: 0,
            // wasmtime does not count it.
            net_in_bytes: 0,
            net_out_bytes: 0,
        }
    }

    /// Bytes that the guest's thread has given to writing system calls; 0 where the kernel does not count them. Only for
    /// the guest's thread.
    pub(super) fn written_bytes(&self) -> u64 {
        let thread = self.begun.get().and_then(|begun| begun.thread.as_ref());
        let Some(io) = thread.and_then(ThreadFiles::io) else {
            return 0;
        };
        self.own_bytes.fetch_add(io.own, Ordering::Relaxed);
        io.written
    }

    /// Adds bytes written to a standard stream; those read from one are in the kernel's count.
    pub(super) fn add_stdio(&self, bytes: usize) {
        self.stdio_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes by how much the guest's directories have grown.
    pub(super) fn see_storage(&self, bytes: u64) {
        self.storage_bytes.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Adds fuel that was used.
    pub(super) fn add_fuel(&self, fuel: u64) {
        self.fuel.fetch_add(fuel, Ordering::Relaxed);
    }

    /// Whether the guest was ever refused memory.
    pub(super) fn is_memory_denied(&self) -> bool {
        self.is_memory_denied.load(Ordering::Relaxed)
    }

    fn lock_memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so much more memory, unless that were more than `max` over all guests that share this gauge.
    fn take_memory(&self, bytes: u64, max: u64) -> bool {
        let mut memory = self.lock_memory();
        memory.advance(Instant::now());
        let sum = memory.bytes.saturating_add(bytes);
        if sum > max {
            return false;
        }
        memory.bytes = sum;
        memory.peak_bytes = memory.peak_bytes.max(sum);
        true
    }

    fn give_memory_back(&self, bytes: u64) {
        let mut memory = self.lock_memory();
        memory.advance(Instant::now());
        memory.bytes = memory.bytes.saturating_sub(bytes);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Raises a counter to a reading and answers the higher of the two.
fn highest(counter: &AtomicU64, reading: u64) -> u64 {
    counter.fetch_max(reading, Ordering::Relaxed).max(reading)
}

/// Holds a guest to its memory, over all its linear memories and those of the guests that share its gauge.
pub(super) struct Limits {
    gauge: std::sync::Arc<Gauge>,
    memory_max: u64,
    /// What this guest has of the gauge's memory.
    memory_bytes: u64,
    is_denied: bool,
    /// The last growth that was allowed, to be taken back if the operating system refuses it.
    last_growth: u64,
    table_elements: u64,
}

impl Limits {
    pub(super) const fn new(gauge: std::sync::Arc<Gauge>, memory_max: u64) -> Self {
        Self {
            gauge,
            memory_max,
            memory_bytes: 0,
            is_denied: false,
            last_growth: 0,
            table_elements: 0,
        }
    }

    /// Whether the guest was ever refused memory.
    pub(super) const fn is_denied(&self) -> bool {
        self.is_denied
    }

    fn deny(&mut self) {
        self.is_denied = true;
        self.gauge.is_memory_denied.store(true, Ordering::Relaxed);
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        self.gauge.give_memory_back(self.memory_bytes);
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.last_growth = 0;
        if maximum.is_some_and(|maximum| desired > maximum) {
            // The module's own limit, not the task's.
            return Ok(false);
        }
        let growth = desired.saturating_sub(current) as u64;
        if !self.gauge.take_memory(growth, self.memory_max) {
            self.deny();
            return Ok(false);
        }
        self.memory_bytes = self.memory_bytes.saturating_add(growth);
        self.last_growth = growth;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        if self.last_growth > 0 {
            self.deny();
            self.memory_bytes = self.memory_bytes.saturating_sub(self.last_growth);
            self.gauge.give_memory_back(self.last_growth);
            self.last_growth = 0;
        }
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current) as u64;
        let elements = self.table_elements.saturating_add(growth);
        if elements > TABLE_ELEMENTS_MAX {
            return Ok(false);
        }
        self.table_elements = elements;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        INSTANCES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn memory_counts_over_all_linear_memories_and_the_denial_is_remembered() {
        let gauge = Arc::new(Gauge::default());
        let mut limits = Limits::new(Arc::clone(&gauge), 3 << 16);
        assert!(limits.memory_growing(0, 1 << 16, None).unwrap());
        assert!(limits.memory_growing(0, 2 << 16, None).unwrap());
        assert!(!limits.memory_growing(1 << 16, 2 << 16, Some(1 << 16)).unwrap());
        assert!(!gauge.is_memory_denied());
        assert!(!limits.memory_growing(1 << 16, 2 << 16, None).unwrap());
        assert!(gauge.is_memory_denied());
        assert_eq!(gauge.lock_memory().peak_bytes, 3 << 16);
    }

    #[test]
    fn a_growth_that_the_system_refuses_is_taken_back_once() {
        let gauge = Arc::new(Gauge::default());
        let mut limits = Limits::new(gauge, 1 << 20);
        assert!(limits.memory_growing(0, 1 << 16, None).unwrap());
        limits.memory_grow_failed(wasmtime::format_err!("no")).unwrap();
        limits.memory_grow_failed(wasmtime::format_err!("no")).unwrap();
        assert_eq!(limits.memory_bytes, 0);
        assert!(limits.gauge.is_memory_denied());
    }

    #[test]
    fn tables_are_bounded_together() {
        let mut limits = Limits::new(Arc::default(), 0);
        let most = usize::try_from(TABLE_ELEMENTS_MAX).unwrap();
        assert!(limits.table_growing(0, most, None).unwrap());
        assert!(!limits.table_growing(0, 1, None).unwrap());
    }

    #[test]
    fn the_processor_time_of_a_thread_is_seen() {
        let gauge = Gauge::default();
        assert_eq!(gauge.read(), Meters::default());
        gauge.begin();
        let until = Instant::now() + Duration::from_millis(30);
        let mut spun: u64 = 0;
        while Instant::now() < until {
            spun = std::hint::black_box(spun.wrapping_add(1));
        }
        gauge.end();
        let meters = gauge.read();
        assert!(meters.cpu_us > 1_000 && meters.cpu_us <= meters.elapsed_us + 1_000, "{meters:?}");
        assert_eq!(gauge.read(), meters);
    }
}
