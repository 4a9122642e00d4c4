//! Whom a provider's no is for: this work, or any.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use catalog::{Digest, NodeId, OrgId};
use scheduler::coordinator::{Action, Coordinator};
use scheduler::negotiate::{Message, RequestId};
use scheduler::place::{Candidate, Rejection, Trust};
use scheduler::run::Submission;
use scheduler::task::{RunId, RuntimeKind, Stage, TaskId};
use scheduler::value::FileRef;

const REFUSED: RunId = RunId::from_bytes([1; 16]);
const OTHER: RunId = RunId::from_bytes([2; 16]);
const PROVIDER: NodeId = NodeId::from_bytes([9; 32]);
const FIRST: TaskId = TaskId { step: 0, index: 0 };
const UNTIL_MS: u64 = 6_000;

fn candidate() -> Candidate {
    Candidate {
        node: PROVIDER,
        org: OrgId::from_bytes([2; 32]),
        org_name: "org".to_owned(),
        node_name: "node".to_owned(),
        trust: Trust::Partner,
        arch: "x86_64".to_owned(),
        runtimes: vec![RuntimeKind::Wasi],
        services: Vec::new(),
        network: false,
        cpu_milli: 4_000,
        memory_bytes: 8 << 30,
        disk_bytes: 8 << 30,
        devices: BTreeMap::new(),
        region: String::new(),
        connected: true,
        inflight_cpu_milli: 0,
        rtt_us: 0,
        speed_milli: 1_000,
        price: None,
        failures: 0,
        refused_until_ms: 0,
        holds: BTreeSet::new(),
    }
}

fn submit(coordinator: &mut Coordinator, run: RunId, now_ms: u64) {
    let source = "opencloud: workflow/v1\nname: w\nsteps:\n  a: {run: {wasi: {module: m.wasm}}}\n";
    let module = FileRef { digest: Digest::of(b"m"), size: 1, name: "m.wasm".to_owned() };
    let submission = Submission {
        source: source.to_owned(),
        params: BTreeMap::new(),
        assets: BTreeMap::from([("m.wasm".to_owned(), Stage::File(module))]),
        binding: None,
        strategy: None,
        replica: None,
        area: None,
    };
    coordinator.submit(run, submission, None, now_ms).unwrap();
}

/// The runs for which the provider is asked now, with the questions.
fn asked(coordinator: &mut Coordinator, now_ms: u64, seed: &mut u64) -> Vec<(RunId, RequestId)> {
    let entropy = &mut || {
        *seed += 1;
        *seed
    };
    coordinator.poll(now_ms, &mut || vec![candidate()], entropy);
    let question = |action| match action {
        Action::Send { message: Message::QuoteRequest { request, attempt, .. }, .. } => {
            Some((attempt.run, request))
        }
        _ => None,
    };
    coordinator.drain_actions().into_iter().filter_map(question).collect()
}

/// A coordinator that has asked for [`REFUSED`].
fn asking() -> (Coordinator, RequestId, u64) {
    let mut coordinator = Coordinator::new(NodeId::from_bytes([1; 32]));
    let mut seed = 0;
    submit(&mut coordinator, REFUSED, 1_000);
    let questions = asked(&mut coordinator, 1_000, &mut seed);
    let [(REFUSED, request)] = questions[..] else { panic!("{questions:?}") };
    (coordinator, request, seed)
}

#[test]
fn a_no_to_one_run_keeps_no_other_from_the_node() {
    let (mut coordinator, request, mut seed) = asking();
    let why = Rejection::RefusedByPolicy;
    coordinator.handle_barred(request, PROVIDER, why.clone(), (UNTIL_MS, 1_001));
    submit(&mut coordinator, OTHER, 1_002);
    let questions = asked(&mut coordinator, 1_002, &mut seed);
    assert!(matches!(questions[..], [(OTHER, _)]), "{questions:?}");
    let plan = coordinator.plan_of(REFUSED, FIRST).unwrap();
    assert_eq!(plan.rejected, [(PROVIDER, why)]);
    // The first is asked for again when its time has come, and never before.
    assert_eq!(asked(&mut coordinator, UNTIL_MS - 1, &mut seed), []);
    let questions = asked(&mut coordinator, UNTIL_MS + 5_000, &mut seed);
    assert!(questions.iter().any(|(run, _)| *run == REFUSED), "{questions:?}");
}

#[test]
fn a_no_to_anything_is_for_all() {
    let (mut coordinator, request, mut seed) = asking();
    coordinator.handle_no(request, PROVIDER, UNTIL_MS, 1_001);
    submit(&mut coordinator, OTHER, 1_002);
    assert_eq!(asked(&mut coordinator, 1_002, &mut seed), []);
    let runs = |questions: Vec<(RunId, RequestId)>| -> BTreeSet<RunId> {
        questions.into_iter().map(|(run, _)| run).collect()
    };
    let questions = asked(&mut coordinator, UNTIL_MS + 5_000, &mut seed);
    assert_eq!(runs(questions), BTreeSet::from([REFUSED, OTHER]));
}
