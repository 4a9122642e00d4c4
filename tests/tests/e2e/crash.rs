//! Nodes that are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::harness::{
    Guest, Net, Node, Place, Run, sleep_ms, text, wait_until, workflow, write_file,
};

/// Within it a lost provider is noticed (its lease is 15 s), and the step done again.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
/// How many rounds of [`no_acknowledged_run_is_lost_in_many_crashes`], unless `CRASH_ROUNDS` says otherwise.
const CRASH_ROUNDS: u64 = 100;
/// How many rounds of [`the_ledgers_of_both_sides_stay_whole_in_many_crashes`].
const LEDGER_ROUNDS: usize = 8;
/// The rounds end early after this time, so that a slow machine does not run for ever.
const CRASH_TIME: Duration = Duration::from_secs(60);

const ONE_STEP: &str = "\
opencloud: workflow/v1
name: slow
steps:
  work:
    run: {wasi: {module: slow.wasm}}
    out: {result: {file: result.txt}}
    needs: {cpu: 1, memory: 64MiB, disk: 16MiB}
outputs:
  result: {from: work.result}
";

const FOUR_TASKS: &str = "\
opencloud: workflow/v1
name: slow
steps:
  first:
    run: {wasi: {module: slow.wasm}}
    map: {over: {range: [1, 4]}, as: n}
    out: {result: {file: result.txt}}
    needs: {cpu: 1, memory: 64MiB, disk: 16MiB}
  last:
    run: {wasi: {module: slow.wasm}}
    in: {all: {from: first.result}}
    out: {result: {file: result.txt}}
    needs: {cpu: 1, memory: 64MiB, disk: 16MiB}
outputs:
  result: {from: last.result}
";

fn slow(ms: u64) -> Guest {
    Guest::new(&[&sleep_ms(ms), &write_file("result.txt", "done")])
}

#[test]
fn a_step_whose_provider_is_killed_is_done_again_elsewhere() {
    let mut net = Net::new(3);
    let file = workflow(&net.place, ONE_STEP, &[("slow.wasm", &slow(3_000))]);
    let binding = net
        .place
        .file("binding.yaml", "opencloud: binding/v1\nsteps:\n  work: {orgs: [org-1, org-2]}\n");
    let id = net.nodes[0].submit(&file, &["--binding", &binding]);
    let running = net.nodes[0]
        .wait_for_run(&id, RETRY_TIMEOUT, "a task runs", |run| !run.in_state("running").is_empty());
    let first = running.in_state("running")[0]["org_name"].clone();
    let victim = net.nodes.iter_mut().find(|node| first == *node.org).unwrap();
    victim.kill9();
    let victim = victim.org.clone();
    wait_until(RETRY_TIMEOUT, "the loss of the provider is noticed", || {
        net.nodes[0].n_connected() == 1
    });
    // What came before the end has arrived by now; nothing else may ever be billed.
    let before = bill(&net.nodes[0], &victim);

    let run = net.nodes[0].wait_for_end(&id, RETRY_TIMEOUT);
    assert_eq!(run.state(), "succeeded", "{:#}", run.0);
    let committed = run.in_state("committed");
    assert_eq!(committed.len(), 1, "{:#}", run.0);
    assert_ne!(committed[0]["org_name"], first, "{:#}", run.0);
    let lost = &run.tasks()[0];
    assert_eq!((&lost["org_name"], &lost["attempt"]), (&first, &1.into()), "{:#}", run.0);

    let verified = net.nodes[0].verify_ledger();
    assert!([0, 3].contains(&verified.code), "{verified}");
    for (lane, (_, earned)) in bill(&net.nodes[0], &victim) {
        let (claimed, _) = before.get(&lane).copied().unwrap_or_default();
        assert!(earned <= claimed, "{lane}: {earned} is billed, {claimed} was claimed");
    }
}

/// What a provider claimed and what was acknowledged, in nano-units, by attempt.
fn bill(consumer: &Node, provider: &str) -> BTreeMap<String, (i128, i128)> {
    let channels = consumer.json(&["ledger", "show"]);
    let of_provider =
        channels.as_array().unwrap().iter().filter(|channel| channel["provider_org"] == provider);
    of_provider
        .flat_map(|channel| channel["lanes"].as_array().unwrap())
        .map(|lane| {
            let attempt = lane["attempt"].as_str().unwrap().to_owned();
            (attempt, (amount(&lane["claimed"]), amount(&lane["earned"])))
        })
        .collect()
}

/// An amount as the API gives it, in nano-units.
fn amount(value: &Value) -> i128 {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.parse().unwrap_or_else(|_| panic!("{value} is no amount"))
}

#[test]
fn a_run_whose_submitter_is_killed_goes_on_after_its_restart() {
    let mut net = Net::new(3);
    let file = workflow(&net.place, FOUR_TASKS, &[("slow.wasm", &slow(1_000))]);
    let id = net.nodes[0].submit(&file, &[]);
    let _ = net.nodes[0]
        .wait_for_run(&id, RETRY_TIMEOUT, "a task runs", |run| !run.in_state("running").is_empty());
    net.nodes[0].restart();
    let run = net.nodes[0].wait_for_end(&id, RETRY_TIMEOUT);
    assert_eq!(run.state(), "succeeded", "{:#}", run.0);
    committed_once(&run, 5);
    let verified = net.nodes[0].verify_ledger();
    assert!([0, 3].contains(&verified.code), "{verified}");
}

/// Asserts that `n` tasks are done, each once.
fn committed_once(run: &Run, n: usize) {
    let committed = run.in_state("committed");
    let tasks: BTreeSet<String> =
        committed.iter().map(|task| format!("{}.{}", task["step"], task["index"])).collect();
    assert_eq!((committed.len(), tasks.len()), (n, n), "{:#}", run.0);
}

#[test]
fn no_acknowledged_run_is_lost_in_many_crashes() {
    let rounds = std::env::var("CRASH_ROUNDS").ok();
    let rounds = rounds.map_or(CRASH_ROUNDS, |text| text.parse().unwrap());
    let place = Place::new();
    let mut node = place.node("org");
    let file = workflow(&place, ONE_STEP, &[("slow.wasm", &slow(1))]);
    let begun = Instant::now();
    let mut acknowledged = Vec::new();
    node.start();
    let mut n = 0;
    while n < rounds && begun.elapsed() < CRASH_TIME {
        acknowledged.push(node.submit(&file, &[]));
        // From at once to when most runs have ended, differently in each round.
        spin(Duration::from_millis(n * 37 % 120));
        node.restart();
        n += 1;
    }
    println!("{n} rounds in {:?}", begun.elapsed());
    wait_until(RETRY_TIMEOUT, "every run has succeeded", || {
        ended(&node).len() >= acknowledged.len()
    });
    let succeeded = ended(&node);
    for id in &acknowledged {
        assert!(succeeded.contains(id), "{id} is lost; there are {succeeded:?}");
    }
    assert_eq!(succeeded.len(), acknowledged.len(), "a run was made twice");
    committed_once(&node.run(&acknowledged[0]), 1);
    let verified = node.verify_ledger();
    assert!([0, 3].contains(&verified.code), "{verified}");
}

#[test]
fn the_ledgers_of_both_sides_stay_whole_in_many_crashes() {
    let mut net = Net::new(2);
    let file = workflow(&net.place, ONE_STEP, &[("slow.wasm", &slow(20))]);
    let binding =
        net.place.file("binding.yaml", "opencloud: binding/v1\nsteps:\n  work: {orgs: [org-1]}\n");
    let mut acknowledged = Vec::new();
    for n in 0..LEDGER_ROUNDS {
        acknowledged.push(net.nodes[0].submit(&file, &["--binding", &binding]));
        let victim = n % 2;
        wait_until(RETRY_TIMEOUT, "they are connected", || net.nodes[victim].n_connected() == 1);
        spin(Duration::from_millis(n as u64 * 37 % 120));
        net.nodes[victim].restart();
    }
    for id in &acknowledged {
        let run = net.nodes[0].wait_for_end(id, RETRY_TIMEOUT);
        assert_eq!(run.state(), "succeeded", "{:#}", run.0);
        committed_once(&run, 1);
    }
    for node in &net.nodes {
        let verified = node.verify_ledger();
        assert!([0, 3].contains(&verified.code), "{verified}");
        let channels = node.json(&["ledger", "show"]);
        assert_eq!(channels.as_array().map(Vec::len), Some(1), "{channels:#}");
    }
}

/// Lets a time pass in which there is nothing to wait for: it ends in the middle of something.
fn spin(window: Duration) {
    let until = Instant::now() + window;
    while Instant::now() < until {
        std::thread::yield_now();
    }
}

/// The runs that succeeded; no other end is possible here.
fn ended(node: &Node) -> BTreeSet<String> {
    let runs = node.json(&["run", "list"]);
    let runs = runs.as_array().unwrap();
    let bad = runs.iter().find(|run| run["state"] == "failed");
    if let Some(bad) = bad {
        let id = bad["id"].as_str().unwrap();
        panic!("{:#}", node.run(id).0);
    }
    runs.iter()
        .filter(|run| run["state"] == "succeeded")
        .map(|run| run["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_run_goes_on_when_the_only_node_that_may_serve_it_is_killed_and_restarted() {
    let mut net = Net::new(2);
    let file = workflow(&net.place, FOUR_TASKS, &[("slow.wasm", &slow(300))]);
    let binding =
        net.place.file("binding.yaml", "opencloud: binding/v1\ndefaults: {orgs: [org-1]}\n");
    let id = net.nodes[0].submit(&file, &["--binding", &binding]);
    let _ = net.nodes[0].wait_for_run(&id, RETRY_TIMEOUT, "a task is done", |run| {
        !run.in_state("committed").is_empty()
    });
    net.nodes[1].restart();
    let run = net.nodes[0].wait_for_end(&id, RETRY_TIMEOUT);
    assert_eq!(run.state(), "succeeded", "{:#}", run.0);
    committed_once(&run, 5);
    let bundles: Vec<String> = net.nodes.iter().map(|node| text(&node.export_ledger())).collect();
    for (node, bundle) in net.nodes.iter().zip(&bundles) {
        let verified = node.cli(&["ledger", "verify", bundle]);
        assert!([0, 3].contains(&verified.code), "{verified}");
    }
}
