//! Many tasks, beside and after each other.

use node::runtime::Exit;

use crate::conformance::Bench;
use crate::conformance::bench::PATIENCE;
use crate::harness::wait_until;

pub(in crate::conformance) fn tasks_beside_each_other_do_not_mix(bench: &Bench) {
    let bench = bench.again(bench.tries(8));
    let tasks = i32::try_from(bench.tries(16)).expect("there are few");
    let jobs: Vec<_> = (0..tasks)
        .map(|n| {
            let (word, code) = (format!("task {n}"), n.to_string());
            let job = bench.job(&[
                "say", &word, "then", "append", "f", &word, "then", "sleep", "100", "then", "exit",
                &code,
            ]);
            (n, word, job)
        })
        .collect();
    let handles: Vec<_> = jobs.iter().map(|(_, _, job)| bench.start(job)).collect();
    for ((n, word, _), handle) in jobs.iter().zip(handles) {
        let ended = handle.end().expect(*n);
        assert_eq!(ended.text(), format!("{word}\n"));
        assert_eq!(ended.file("f"), word.as_bytes());
    }
    bench.must_be_clean();
}

pub(in crate::conformance) fn further_tasks_wait_for_their_turn(bench: &Bench) {
    let bench = bench.again(2);
    let sleeper = || bench.start(&bench.job(&["say", "up", "then", "sleep", "60000"]));
    let (first, second, third) = (sleeper(), sleeper(), sleeper());
    let all = [&first, &second, &third];
    let n_up = || all.iter().filter(|handle| !handle.logs.is_empty()).count();
    wait_until(PATIENCE, "two run", || n_up() == 2);
    let waiting = all.iter().filter(|handle| handle.running.started_in().is_none()).count();
    assert_eq!((waiting, n_up()), (1, 2));
    let running = all.iter().find(|handle| !handle.logs.is_empty()).expect("two run");
    running.running.cancel();
    wait_until(PATIENCE, "the third runs", || n_up() == 3);
    for handle in [first, second, third] {
        handle.running.cancel();
        assert_eq!(handle.end().exit, Exit::Cancelled);
    }
    bench.must_be_clean();
}

pub(in crate::conformance) fn after_bad_tasks_a_good_one_runs(bench: &Bench) {
    let all = [
        &["hog", "4000", "0"][..],
        &["filldisk"],
        &["trap"],
        &["recurse", "0"],
        &["openmany", "4000"],
        &["no such verb"],
    ];
    for bad in bench.some(&all) {
        let ended = bench.probe(bad);
        assert!(!ended.exit.is_success() && !matches!(ended.exit, Exit::Host(_)), "{ended:?}");
    }
    assert_eq!(bench.probe(&["say", "well"]).expect(0).text(), "well\n");
}
