//! What starting a WebAssembly task costs, with a module of one empty function.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[path = "support/figure.rs"]
mod figure;
#[path = "support/measured.rs"]
mod measured;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::Digest;
use criterion::Criterion;
use node::runtime::{Exit, LogSink, Meters, Stream, TaskBase, WasiRuntime, WasiTask};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// `(module (memory (export "memory") 1) (func (export "_start")))`
const MODULE: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x03\x01\0\x01\
    \x07\x13\x02\x06memory\x02\0\x06_start\0\0\x0a\x04\x01\x02\0\x0b";

const DISPATCH: &str = "wasi warm dispatch";
const INSTANTIATE: &str = "wasi instantiate";
const RUN: &str = "wasi set up, run and tear down";

#[derive(Debug)]
struct Nowhere;

impl LogSink for Nowhere {
    fn write(&self, _: Stream, _: &[u8]) {}
}

struct Bench {
    dir: TempDir,
    runtime: WasiRuntime,
    tokio: Runtime,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(figure::scratch()).unwrap();
        for name in ["work", "tmp"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("module"), MODULE).unwrap();
        let runtime = WasiRuntime::new(dir.path().join("cache"), 2).unwrap();
        let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { dir, runtime, tokio }
    }

    fn task(&self) -> WasiTask {
        WasiTask {
            base: TaskBase {
                name: "task".to_owned(),
                args: vec!["bench".to_owned()],
                env: BTreeMap::new(),
                stdin: None,
                work: self.dir.path().join("work"),
                tmp: self.dir.path().join("tmp"),
                mounts: Vec::new(),
                cpu_milli: 1_000,
                memory_bytes: 64 << 20,
                disk_bytes: 64 << 20,
                network: false,
                timeout: Duration::from_secs(60),
                logs: Arc::new(Nowhere),
            },
            module: self.dir.path().join("module"),
            digest: Digest::of(MODULE),
            fuel: false,
            serves: false,
        }
    }

    /// From the call that starts a task to the news of its end.
    fn dispatch(&self) -> (Meters, Duration) {
        let mut running = self.runtime.start(self.task());
        let (exit, meters) = self.tokio.block_on(running.wait());
        assert_eq!(exit, Exit::Code(0));
        (meters, running.started_in().unwrap())
    }
}

/// The first task on an empty cache, in seconds.
fn cold() -> f64 {
    let bench = Bench::new();
    let begun = Instant::now();
    bench.dispatch();
    begun.elapsed().as_secs_f64()
}

fn warm(criterion: &mut Criterion) {
    let bench = Bench::new();
    bench.dispatch();
    criterion.bench_function(DISPATCH, |b| b.iter(|| bench.dispatch()));
    // The runtime's own clocks: from an empty store to an instance, and from no store to the end of everything.
    criterion.bench_function(INSTANTIATE, |b| {
        b.iter_custom(|n| (0..n).map(|_| bench.dispatch().1).sum());
    });
    criterion.bench_function(RUN, |b| {
        b.iter_custom(|n| {
            (0..n).map(|_| Duration::from_micros(bench.dispatch().0.elapsed_us)).sum()
        });
    });
}

fn main() {
    let (measured, mut criterion) = measured::Measured::begin();
    warm(&mut criterion);
    if !figure::is_asked_to_measure() {
        return;
    }
    for (name, target) in [(DISPATCH, "<= 1 ms"), (INSTANTIATE, "<= 50 us"), (RUN, "")] {
        if let Some(seconds) = measured.seconds(name) {
            figure::figure(&name.replacen("wasi", "wasi:", 1), &figure::time(seconds), target);
        }
    }
    let colds = (0..5).map(|_| cold()).collect();
    figure::figure("wasi: first task, empty cache", &figure::time(figure::median(colds)), "");
}
