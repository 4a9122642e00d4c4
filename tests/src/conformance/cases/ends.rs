//! How a task ends, and what the node is told.

use node::runtime::Exit;

use crate::conformance::Bench;
use crate::conformance::bench::PATIENCE;
use crate::harness::{pause, wait_until};

/// Ended by the sandbox or by a signal, which a process tells by a code above 128.
fn is_crash(exit: &Exit) -> bool {
    matches!(exit, Exit::Trap(_) | Exit::Code(129..=255))
}

pub(in crate::conformance) fn an_exit_code_is_told(bench: &Bench) {
    for &code in bench.some(&[0, 1, 2, 42, 125, 126, 127, 128, 200, 255]) {
        let _ = bench.probe(&["exit", &code.to_string()]).expect(code);
    }
}

pub(in crate::conformance) fn a_crash_is_told(bench: &Bench) {
    for &verb in bench.some(&["trap", "abort"]) {
        let ended = bench.probe(&[verb]);
        assert!(is_crash(&ended.exit), "{verb}: {ended:?}");
    }
}

pub(in crate::conformance) fn output_before_a_crash_is_kept(bench: &Bench) {
    let ended = bench.probe(&["say", "so far", "then", "append", "left", "here", "then", "trap"]);
    assert!(is_crash(&ended.exit), "{ended:?}");
    assert_eq!(ended.text(), "so far\n");
    assert_eq!(ended.file("left"), b"here");
}

pub(in crate::conformance) fn endless_recursion_ends(bench: &Bench) {
    let ended = bench.probe(&["recurse", "0"]);
    assert!(is_crash(&ended.exit), "{ended:?}");
}

pub(in crate::conformance) fn a_signal_is_told_by_its_number(bench: &Bench) {
    for &(signal, code) in bench.some(&[("9", 137), ("15", 143), ("1", 129)]) {
        let _ = bench.probe(&["raise", signal]).expect(code);
    }
}

pub(in crate::conformance) fn processes_in_the_background_end_with_the_task(bench: &Bench) {
    let ended = bench.probe(&["orphan", "then", "sleep", "500"]).expect(0);
    assert!(!ended.file("orphan").is_empty(), "the process in the background has not worked");
    let len = ended.file("orphan").len();
    // It would write every 5 ms.
    pause(std::time::Duration::from_millis(300));
    assert_eq!(ended.file("orphan").len(), len, "it goes on after the end of its task");
}

pub(in crate::conformance) fn a_task_killed_from_outside_has_not_succeeded(bench: &Bench) {
    let job = bench.job(&["say", "up", "then", "sleep", "60000"]);
    let handle = bench.start(&job);
    handle.until_heard();
    wait_until(PATIENCE, "it is killed", || bench.subject().kill_from_outside(&job));
    let ended = handle.end();
    assert!(matches!(ended.exit, Exit::Code(137) | Exit::Host(_)), "{ended:?}");
}
