//! Nodes that are killed, and their next lives.

use std::time::Duration;

use node::runtime::Exit;

use crate::conformance::kills::{kill_once, random_kills};
use crate::conformance::{Bench, KillPlan, Need};
use crate::harness::pause;

/// Tasks that are killed in the suite; the program `kills` does more.
const RUNS: usize = 40;

pub(in crate::conformance) fn tasks_of_a_killed_node_end(bench: &Bench) {
    let is_seen = bench.has(Need::SharedFiles);
    let file = kill_once(bench.subject().name(), &bench.path("killed"), is_seen);
    // Either they end with it, or the node's next life ends them. Opening the bench's own runtime has not: it is another owner's.
    let len = || std::fs::metadata(&file).ok().map(|meta| meta.len());
    let before = len();
    assert_eq!(before.is_some(), is_seen);
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
    let runs = u32::try_from(bench.tries(RUNS)).expect("there are few");
    let tally = random_kills(&KillPlan { runtime: engine, runs, seed: 1 });
    println!("{tally}");
    assert!(tally.is_clean(), "{tally}");
}
