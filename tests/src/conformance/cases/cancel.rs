//! Cancelling, in every phase of a task.

use std::time::{Duration, Instant};

use node::runtime::{Exit, Meters};

use crate::conformance::Bench;
use crate::conformance::bench::PATIENCE;
use crate::harness::{pause, wait_until};

/// How long a cancelled task may take to end, on a busy machine.
const END_MAX: Duration = Duration::from_secs(10);

pub(in crate::conformance) fn a_task_that_waits_for_its_turn_is_cancelled(bench: &Bench) {
    let bench = bench.again(1);
    let first = bench.start(&bench.job(&["say", "up", "then", "sleep", "60000"]));
    first.until_heard();
    let second = bench.start(&bench.job(&["append", "ran", "x"]));
    second.running.cancel();
    let ended = second.end();
    assert_eq!((&ended.exit, ended.meters), (&Exit::Cancelled, Meters::default()));
    assert!(!ended.work.join("ran").exists());
    first.running.cancel();
    assert_eq!(first.end().exit, Exit::Cancelled);
    bench.must_be_clean();
}

pub(in crate::conformance) fn a_task_is_cancelled_at_once(bench: &Bench) {
    for _ in 0..bench.tries(5) {
        let handle = bench.start(&bench.job(&["sleep", "60000"]));
        handle.running.cancel();
        let ended = handle.end();
        assert_eq!(ended.exit, Exit::Cancelled);
        assert!(ended.elapsed < END_MAX + bench.figures().delay_max, "{ended:?}");
    }
}

pub(in crate::conformance) fn a_running_task_is_cancelled_whatever_it_does(bench: &Bench) {
    let all = [
        &["say", "up", "then", "sleep", "600000"][..],
        &["spinforever"],
        &["say", "up", "then", "hog", "30", "600000"],
        &["flood", "1000000000000000"],
    ];
    for verbs in bench.some(&all) {
        let handle = bench.start(&bench.job(verbs));
        handle.until_heard();
        let begun = Instant::now();
        handle.running.cancel();
        handle.running.cancel();
        let ended = handle.end();
        assert_eq!(ended.exit, Exit::Cancelled, "{verbs:?}");
        assert!(begun.elapsed() < END_MAX + bench.figures().delay_max, "{verbs:?}: {ended:?}");
    }
}

pub(in crate::conformance) fn a_task_is_cancelled_at_any_moment(bench: &Bench) {
    let verbs = ["write", "f", "3000000", "then", "sleep", "100"];
    // The moments are spread over what a task takes from its start to its end.
    let whole = bench.probe(&verbs).expect(0).elapsed;
    let tries = u32::try_from(bench.tries(24)).expect("there are few");
    let mut n_cancelled = 0;
    for n in 0..tries {
        let job = bench.job(&verbs);
        let handle = bench.start(&job);
        pause(whole * n / tries);
        handle.running.cancel();
        let ended = handle.end();
        match ended.exit {
            Exit::Cancelled => n_cancelled += 1,
            Exit::Code(0) => assert_eq!(ended.file("f").len(), 3_000_000),
            _ => panic!("{ended:?}"),
        }
    }
    println!("{n_cancelled} of {tries} were cancelled");
    assert!(n_cancelled > 0);
}

pub(in crate::conformance) fn a_task_that_has_ended_stays_as_it_ended(bench: &Bench) {
    let job = bench.job(&["append", "f", "x", "then", "exit", "9"]);
    let mut handle = bench.start(&job);
    let first = bench.wait(&mut handle);
    handle.running.cancel();
    let ended = handle.end().expect(9);
    assert_eq!((first.0, first.1), (ended.exit, ended.meters));
}

pub(in crate::conformance) fn a_task_whose_handle_is_dropped_ends(bench: &Bench) {
    let job = bench.job(&["say", "up", "then", "sleep", "2000", "then", "append", "f", "x"]);
    let handle = bench.start(&job);
    handle.until_heard();
    drop(handle);
    wait_until(PATIENCE, "nothing is left", || bench.left().is_empty());
    pause(Duration::from_millis(2_500));
    assert!(!job.work.join("f").exists(), "the task has gone on");
}
