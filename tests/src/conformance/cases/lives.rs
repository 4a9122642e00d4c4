//! Nodes that are killed, and their next lives.

use std::time::Duration;

use node::runtime::Exit;

use crate::conformance::kills::{kill_once, random_kills};
use crate::conformance::{Bench, KillPlan};
use crate::harness::pause;

/// Tasks that are killed in the suite; the program `kills` does more.
const RUNS: u32 = 40;

pub(in crate::conformance) fn tasks_of_a_killed_node_end(bench: &Bench) {
    let file = kill_once(bench.subject().name(), &bench.path("killed"));
    // Either they end with it, or the node's next life ends them. Opening the bench's own runtime has not: it is another owner's.
    let len = || std::fs::metadata(&file).expect("the task has worked").len();
    let before = len();
    // It would write every 5 ms.
    pause(Duration::from_millis(300));
    assert_eq!(len(), before, "the task goes on");
}

pub(in crate::conformance) fn a_task_that_its_next_life_removed_is_lost_and_says_so(bench: &Bench) {
    let handle = bench.start(&bench.job(&["say", "up", "then", "sleep", "60000"]));
    handle.until_heard();
    let next = bench.next_life();
    bench.must_be_clean();
    let ended = handle.end();
    assert!(matches!(ended.exit, Exit::Code(137) | Exit::Host(_)), "{ended:?}");
    drop(next);
}

pub(in crate::conformance) fn random_kills_leave_nothing(bench: &Bench) {
    let engine = bench.subject().name().to_owned();
    let tally = random_kills(&KillPlan { runtime: engine, runs: RUNS, seed: 1 });
    println!("{tally}");
    assert!(tally.is_clean(), "{tally}");
}
