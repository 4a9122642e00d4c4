//! Limits of memory, disk, processes, processor and time.

use std::time::Duration;

use node::runtime::Exit;

use crate::conformance::bench::{MIB, PATIENCE};
use crate::conformance::{Bench, Ended, Job, Need};

/// How long a task may go on after its time, on a busy machine.
const GRACE: Duration = Duration::from_secs(10);
/// Bytes by which a task may exceed its quota before that is noticed, at most: what a disk takes within some ticks.
const OVERSHOOT: u64 = 1_024 * MIB;

fn stored(ended: &Ended) -> u64 {
    let entries = std::fs::read_dir(&ended.work).expect("it is there");
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|meta| meta.len()).sum()
}

pub(in crate::conformance) fn a_memory_hog_is_ended(bench: &Bench) {
    let ended = bench.probe(&["hog", "4000", "0"]);
    assert_eq!(ended.exit, Exit::OutOfMemory);
    let peak = ended.meters.memory_peak_bytes;
    let most = 65 * MIB + bench.figures().memory_overhead_bytes;
    let least = if bench.has(Need::PromptMeters) { 40 * MIB } else { 0 };
    assert!((least..=most).contains(&peak), "{peak} bytes");
}

pub(in crate::conformance) fn memory_within_the_limit_is_given(bench: &Bench) {
    let mut job = bench.job(&["hog", "200", "0"]);
    job.memory_bytes = 256 * MIB;
    let ended = bench.run(&job).expect(0);
    let peak = ended.meters.memory_peak_bytes;
    let most = job.memory_bytes + bench.figures().memory_overhead_bytes;
    let least = if bench.has(Need::PromptMeters) { 200 * MIB } else { 0 };
    assert!((least..=most).contains(&peak), "{peak} bytes");
}

pub(in crate::conformance) fn memory_of_children_counts(bench: &Bench) {
    // Each alone has room.
    let ended = bench.probe(&["forkhog", "4", "30", "1000"]);
    assert_eq!(ended.exit, Exit::OutOfMemory);
    let _ = bench.probe(&["forkhog", "2", "10", "0"]).expect(0);
}

pub(in crate::conformance) fn files_in_memory_count(bench: &Bench) {
    for verbs in [&["memfile", "400"][..], &["write", "/dev/shm/hog", "400000000"]] {
        let mut job = bench.job(verbs);
        job.disk_bytes = 1_024 * MIB;
        let ended = bench.run(&job);
        assert!(!ended.exit.is_success(), "{ended:?}");
        let most = 65 * MIB + bench.figures().memory_overhead_bytes;
        assert!(ended.meters.memory_peak_bytes <= most, "{ended:?}");
    }
}

/// Fails unless a task that filled its disk has left as much as it might. A runtime that brings files in the end need not
/// bring those of a task that wrote too much.
fn assert_stored(bench: &Bench, ended: &Ended, least: u64) {
    let bytes = stored(ended);
    let least = if bench.has(Need::SharedFiles) { least } else { 0 };
    assert!((least..OVERSHOOT).contains(&bytes), "{bytes} bytes");
}

pub(in crate::conformance) fn a_disk_filler_is_ended(bench: &Bench) {
    let ended = bench.probe(&["filldisk"]);
    assert_eq!(ended.exit, Exit::DiskQuota);
    assert_stored(bench, &ended, 16 * MIB);
}

pub(in crate::conformance) fn many_files_fill_the_disk_too(bench: &Bench) {
    let ended = bench.probe(&["fillfiles"]);
    assert_eq!(ended.exit, Exit::DiskQuota);
    assert_stored(bench, &ended, 32 * MIB);
}

/// Has a task write 64 MiB, twice its quota, to where no directory shows it.
fn hide(bench: &Bench, verb: &str) {
    let mut job = bench.job(&[verb, &(8 * MIB).to_string(), &(64 * MIB).to_string()]);
    job.timeout = PATIENCE / 3;
    job.memory_bytes = 256 * MIB;
    assert_eq!(bench.run(&job).exit, Exit::DiskQuota);
}

pub(in crate::conformance) fn files_without_a_name_fill_the_disk_too(bench: &Bench) {
    hide(bench, "filldeleted");
}

pub(in crate::conformance) fn files_that_are_only_mapped_fill_the_disk_too(bench: &Bench) {
    hide(bench, "fillmapped");
}

pub(in crate::conformance) fn holes_fill_the_disk_too(bench: &Bench) {
    // Its length is what a node would have to send. The task is ended, or is refused its hole.
    let ended = bench.probe(&[
        "sparse",
        "hole",
        &(1_024 * 1_024 * MIB).to_string(),
        "then",
        "sleep",
        "60000",
    ]);
    match ended.exit {
        Exit::DiskQuota => {}
        Exit::Code(1) => assert_eq!(ended.file("hole").len(), 0),
        _ => panic!("{ended:?}"),
    }
    // Many holes, each within its own right.
    let mut verbs = Vec::new();
    for name in ["a", "b", "c"] {
        verbs.extend(["sparse", name, "30000000", "then"]);
    }
    let ended = bench.probe(&[&verbs[..], &["sleep", "60000"]].concat());
    assert_eq!(ended.exit, Exit::DiskQuota);
}

pub(in crate::conformance) fn a_fork_bomb_does_no_harm(bench: &Bench) {
    let mut job = bench.job(&["forkbomb"]);
    job.timeout = Duration::from_secs(3);
    let ended = bench.run(&job);
    assert!(matches!(ended.exit, Exit::Timeout | Exit::OutOfMemory), "{ended:?}");
    assert!(ended.elapsed < job.timeout + grace(bench), "{:?}", ended.elapsed);
    let _ = bench.probe(&["say", "well"]).expect(0);
}

pub(in crate::conformance) fn processes_are_bounded(bench: &Bench) {
    let mut job = bench.job(&["forkmany"]);
    job.memory_bytes = 256 * MIB;
    let n: i64 = bench.run(&job).expect(0).text().trim().parse().expect("a number");
    assert!((50..node::runtime::container::PIDS_MAX).contains(&n), "{n} processes");
}

pub(in crate::conformance) fn a_share_of_a_processor_is_kept(bench: &Bench) {
    let mut job = bench.job(&["spinforever"]);
    (job.cpu_milli, job.timeout) = (250, Duration::from_secs(12));
    let ended = bench.run(&job);
    assert_eq!(ended.exit, Exit::Timeout);
    let share = ended.meters.cpu_us as f64 / ended.meters.elapsed_us as f64;
    // Its processor time is counted from its first instruction, its time from when the node hears of that: long enough for
    // the difference not to count.
    assert!((0.1..0.3).contains(&share), "a quarter was given, {share:.3} was taken");
}

/// How long a task may go on after its time, with what its start took.
fn grace(bench: &Bench) -> Duration {
    GRACE + bench.figures().delay_max
}

fn must_time_out(bench: &Bench, mut job: Job) {
    job.timeout = Duration::from_secs(1);
    let ended = bench.run(&job);
    assert_eq!(ended.exit, Exit::Timeout);
    assert!(
        ended.elapsed >= job.timeout && ended.elapsed < job.timeout + grace(bench),
        "{:?}",
        ended.elapsed
    );
    let metered = Duration::from_micros(ended.meters.elapsed_us);
    assert!(metered >= job.timeout && metered <= ended.elapsed, "{metered:?}");
}

pub(in crate::conformance) fn whoever_computes_too_long_is_ended(bench: &Bench) {
    must_time_out(bench, bench.job(&["spinforever"]));
    if bench.has(Need::StreamedOutput) {
        must_time_out(bench, bench.job(&["flood", "1000000000000000"]));
    }
}

pub(in crate::conformance) fn whoever_sleeps_too_long_is_ended(bench: &Bench) {
    must_time_out(bench, bench.job(&["sleep", "600000"]));
}

pub(in crate::conformance) fn whoever_ignores_signals_is_ended(bench: &Bench) {
    must_time_out(bench, bench.job(&["ignoreterm", "then", "sleep", "600000"]));
}

pub(in crate::conformance) fn waiting_for_a_turn_takes_none_of_the_time(bench: &Bench) {
    let bench = bench.again(1);
    let mut job = bench.job(&["sleep", "2500"]);
    let first = bench.start(&job);
    job = bench.job(&["say", "well"]);
    job.timeout = Duration::from_secs(2);
    let second = bench.start(&job);
    let _ = first.end().expect(0);
    let ended = second.end().expect(0);
    let metered = Duration::from_micros(ended.meters.elapsed_us);
    assert!(metered < job.timeout + bench.figures().delay_max, "{ended:?}");
    bench.must_be_clean();
}
