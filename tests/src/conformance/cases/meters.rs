//! Meters against loads that are known.

use std::time::{Duration, Instant};

use node::runtime::{Exit, Meters};

use crate::conformance::bench::MIB;
use crate::conformance::{Bench, Ended};
use crate::harness::pause;

/// What the start of one task may need more of processor time than the start of another, in microseconds.
const SPREAD_US: f64 = 60_000.0;

/// Processor time that the runtime needs to start and end a task, in microseconds. Where that happens in the task's own
/// processes it is in the task's meter: an engine sets a container up from inside.
fn start_us(bench: &Bench) -> f64 {
    let starts = (0..3).map(|_| bench.probe(&["say", "well"]).expect(0).meters.cpu_us);
    starts.max().expect("three of them") as f64
}

/// Fails unless `metered` is `own` within a twentieth, apart from what the start needs.
fn assert_is_right(own: f64, metered: f64, start: f64) {
    assert!(
        metered >= own * 0.95 && metered <= own * 1.05 + start + SPREAD_US,
        "own count {own} us, metered {metered} us, of a start {start} us"
    );
}

/// Processor time by the task's own count, in microseconds.
fn own_count(ended: &Ended) -> f64 {
    ended.text().lines().map(|line| line.parse::<f64>().expect("a number")).sum()
}

pub(in crate::conformance) fn processor_time_is_right_within_a_twentieth(bench: &Bench) {
    let start = start_us(bench);
    let ended = bench.probe(&["spin", "2500"]).expect(0);
    let (own, metered) = (own_count(&ended), ended.meters.cpu_us as f64);
    assert!(own >= 2_500_000.0, "{own}");
    assert_is_right(own, metered, start);
}

pub(in crate::conformance) fn processor_time_of_children_counts(bench: &Bench) {
    let start = start_us(bench);
    // A child that computes, and a parent that waits for it.
    let ended = bench.probe(&["forkspin", "3", "700"]).expect(0);
    let (own, metered) = (own_count(&ended), ended.meters.cpu_us as f64);
    assert!(own >= 2_100_000.0, "{own}");
    assert_is_right(own, metered, start);
}

pub(in crate::conformance) fn memory_is_right(bench: &Bench) {
    let ended = bench.probe(&["hog", "40", "2000"]).expect(0);
    let Meters { memory_peak_bytes: peak, memory_kib_s, elapsed_us, .. } = ended.meters;
    let overhead = bench.figures().memory_overhead_bytes;
    assert!((40 * MIB..56 * MIB + overhead).contains(&peak), "{peak} bytes at most");
    let held = 40 * 1_024 * 2;
    let around = overhead / 1_024 * elapsed_us / 1_000_000;
    assert!(
        (held * 9 / 10..held * 16 / 10 + around).contains(&memory_kib_s),
        "{memory_kib_s} KiB s for at least {held}"
    );
}

pub(in crate::conformance) fn storage_is_right(bench: &Bench) {
    let bytes = 10 * MIB;
    let job = bench.job(&[
        "write",
        "f",
        &bytes.to_string(),
        "then",
        "write",
        "/tmp/f",
        &bytes.to_string(),
    ]);
    // What was staged is not the task's.
    std::fs::write(job.work.join("staged"), vec![1; 3_000_000]).expect("there is room");
    let stored = bench.run(&job).expect(0).meters.storage_bytes;
    assert!((2 * bytes..2 * bytes + MIB).contains(&stored), "{stored} bytes");
    // The most that there was, also when it is gone.
    let ended = bench
        .probe(&["write", "f", &bytes.to_string(), "then", "sleep", "700", "then", "unlink", "f"])
        .expect(0);
    let stored = ended.meters.storage_bytes;
    assert!((bytes..bytes + MIB).contains(&stored), "{stored} bytes");
}

pub(in crate::conformance) fn rest_costs_time_and_nothing_else(bench: &Bench) {
    let start = start_us(bench);
    let ended = bench.probe(&["sleep", "1500"]).expect(0);
    let elapsed = Duration::from_micros(ended.meters.elapsed_us);
    assert!(
        elapsed >= Duration::from_millis(1_500) && elapsed <= ended.elapsed,
        "{elapsed:?}: {ended:?}"
    );
    let rest = ended.meters.cpu_us as f64;
    assert!(rest <= start + SPREAD_US, "{rest} us of processor time, of a start {start} us");
    assert_eq!(ended.meters.storage_bytes, 0);
}

pub(in crate::conformance) fn meters_can_be_read_while_it_runs_and_only_grow(bench: &Bench) {
    let handle = bench.start(&bench.job(&["hog", "10", "0", "then", "spinforever"]));
    handle.until_heard();
    let mut last = Meters::default();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        let now = handle.running.meters();
        let grows = now.cpu_us >= last.cpu_us
            && now.elapsed_us >= last.elapsed_us
            && now.memory_peak_bytes >= last.memory_peak_bytes
            && now.memory_kib_s >= last.memory_kib_s
            && now.io_bytes >= last.io_bytes;
        assert!(grows, "{last:?} and then {now:?}");
        last = now;
        pause(Duration::from_millis(50));
    }
    assert!(
        last.cpu_us > 200_000 && last.elapsed_us > 1_000_000 && last.memory_peak_bytes > 10 * MIB,
        "{last:?}"
    );
    handle.running.cancel();
    let ended = handle.end();
    assert_eq!(ended.exit, Exit::Cancelled);
    assert!(ended.meters.cpu_us >= last.cpu_us, "{ended:?} after {last:?}");
}
