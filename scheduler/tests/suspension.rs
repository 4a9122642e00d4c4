//! Attempts that are suspended and resumed: what a provider allows and holds, and what its consumer makes of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use catalog::{Digest, NodeId, OrgId};
use scheduler::capacity::{Amounts, Capacity};
use scheduler::negotiate::{Message, Outcome, Phase, Wish};
use scheduler::provider::{
    Abilities, Action, NoTurn, Provider, Record, SUSPENDED_MAX, SUSPENDED_MS_MAX,
};
use scheduler::run::{Event, EventBody, Run, Submission};
use scheduler::task::{
    AttemptId, Boot, Failure, FailureClass, Needs, Program, RunId, RuntimeKind, Stage, TaskId,
    TaskSpec,
};
use scheduler::value::{DirRef, FileRef};

const CONSUMER: NodeId = NodeId::from_bytes([2; 32]);
const OTHER: NodeId = NodeId::from_bytes([3; 32]);
const NOW_MS: u64 = 1_000;
const GIB: u64 = 1 << 30;

fn machine() -> Program {
    let dir = DirRef { digest: Digest::of(b"k"), size: 1, name: "kernel".to_owned() };
    let boot = Boot::Kernel { dir, append: String::new() };
    Program::Vm { boot, user_data: None, ssh_keys: Vec::new() }
}

fn spec(program: Program) -> TaskSpec {
    TaskSpec {
        program,
        argv: Vec::new(),
        env: BTreeMap::new(),
        stdin: None,
        inputs: BTreeMap::new(),
        mounts: BTreeMap::new(),
        outputs: BTreeMap::new(),
        needs: Needs { cpu_milli: 1_000, memory_bytes: GIB, disk_bytes: GIB, ..Needs::default() },
        timeout_ms: 1_000,
        service: None,
        area: None,
    }
}

/// A provider with so many cores, a GiB of memory for each, and more disk than that.
struct Host {
    provider: Provider,
    n_asked: u32,
}

impl Host {
    fn new(n_cores: u32) -> Self {
        let whole = Amounts {
            cpu_milli: u64::from(n_cores) * 1_000,
            memory_bytes: u64::from(n_cores) * GIB,
            disk_bytes: 1_000 * GIB,
            tasks_max: n_cores,
        };
        let abilities = Abilities {
            arch: "x86_64".to_owned(),
            runtimes: RuntimeKind::ALL.into(),
            services: BTreeSet::new(),
            network: false,
        };
        let me = NodeId::from_bytes([1; 32]);
        Self { provider: Provider::new(me, abilities, Capacity::new(whole)), n_asked: 0 }
    }

    /// Has an attempt agreed; `None` when the node is full.
    fn agree(&mut self, program: Program) -> Option<AttemptId> {
        self.n_asked += 1;
        let mut request = [0; 16];
        request[..4].copy_from_slice(&self.n_asked.to_be_bytes());
        let task = TaskId { step: 0, index: self.n_asked };
        let attempt = AttemptId { run: RunId::from_bytes([3; 16]), task, number: 1 };
        self.provider.handle_request(CONSUMER, request, attempt, spec(program), NOW_MS);
        self.provider.handle_accept(CONSUMER, request, NOW_MS);
        self.provider.handle_agreed(attempt, NOW_MS).then_some(attempt)
    }

    fn start(&mut self, program: Program) -> Option<AttemptId> {
        let attempt = self.agree(program)?;
        self.provider.handle_fetched(attempt, Ok(()), NOW_MS);
        Some(attempt)
    }

    fn wish(&mut self, attempt: AttemptId, wish: Wish) -> Result<(), NoTurn> {
        self.provider.handle_wish(CONSUMER, attempt, wish)
    }

    fn suspend(&mut self, attempt: AttemptId, now_ms: u64) {
        self.wish(attempt, Wish::Suspend).unwrap();
        assert!(self.provider.handle_turned(attempt, Wish::Suspend, true, now_ms));
    }

    fn free(&self) -> Amounts {
        self.provider.capacity().free()
    }

    /// What the consumer is told of its attempts.
    fn told(&mut self, now_ms: u64) -> Vec<(AttemptId, Phase)> {
        let _ = self.provider.drain_actions();
        self.provider.poll(now_ms);
        let said = self.provider.drain_actions().into_iter().filter_map(|action| match action {
            Action::Send { message: Message::Status { attempts, .. }, .. } => Some(attempts),
            _ => None,
        });
        said.flatten().collect()
    }
}

#[test]
fn a_suspended_attempt_holds_its_disk_alone_and_asks_again_for_the_rest() {
    let mut host = Host::new(1);
    let first = host.start(machine()).unwrap();
    assert!(host.start(machine()).is_none(), "the node is full");
    let _ = host.told(NOW_MS);
    host.wish(first, Wish::Suspend).unwrap();
    // Until the runtime has done it, the machine has all of it.
    assert_eq!(host.free().cpu_milli, 0);
    assert!(host.provider.handle_turned(first, Wish::Suspend, true, NOW_MS + 1));
    let whole = host.provider.capacity().total();
    assert_eq!(host.free(), Amounts { disk_bytes: whole.disk_bytes - GIB, ..whole });
    // The consumer hears of it at once.
    assert_eq!(host.provider.poll_timeout(), Some(NOW_MS + 1));
    assert_eq!(host.told(NOW_MS + 1), [(first, Phase::Suspended)]);

    let second = host.start(machine()).unwrap();
    let full = host.wish(first, Wish::Resume).unwrap_err();
    assert!(matches!(full, NoTurn::Full(_)), "{full}");
    assert_eq!(host.told(NOW_MS + 10_000).first(), Some(&(first, Phase::Suspended)));
    host.provider.handle_ended(second, Outcome::Done { outputs: BTreeMap::new() }, NOW_MS);
    host.wish(first, Wish::Resume).unwrap();
    // What it needs is its own before it goes on.
    assert!(host.start(machine()).is_none());
    assert!(host.provider.handle_turned(first, Wish::Resume, true, NOW_MS + 20_000));
    assert_eq!(host.told(NOW_MS + 20_000), [(first, Phase::Running)]);
    host.provider.handle_ended(first, Outcome::Done { outputs: BTreeMap::new() }, NOW_MS);
    assert_eq!(host.free(), whole);
}

#[test]
fn a_wish_that_cannot_be_fulfilled_changes_nothing() {
    let mut host = Host::new(1);
    let attempt = host.start(machine()).unwrap();
    let before = host.free();
    host.wish(attempt, Wish::Suspend).unwrap();
    assert_eq!(host.wish(attempt, Wish::Resume), Err(NoTurn::Turning(Wish::Suspend)));
    assert!(!host.provider.handle_turned(attempt, Wish::Suspend, false, NOW_MS));
    assert_eq!((host.free(), host.told(NOW_MS)), (before, vec![(attempt, Phase::Running)]));
    // What nobody wished is not heard.
    assert!(!host.provider.handle_turned(attempt, Wish::Suspend, true, NOW_MS));
    host.suspend(attempt, NOW_MS);
    let suspended = host.free();
    host.wish(attempt, Wish::Resume).unwrap();
    assert_eq!(host.free(), before);
    assert!(!host.provider.handle_turned(attempt, Wish::Resume, false, NOW_MS));
    assert_eq!(host.free(), suspended);
    assert_eq!(host.told(NOW_MS + 10_000), [(attempt, Phase::Suspended)]);
}

#[test]
fn who_may_not_and_what_cannot_be_suspended_is_told_why() {
    let mut host = Host::new(8);
    let attempt = host.start(machine()).unwrap();
    let unknown = AttemptId { number: 2, ..attempt };
    for (from, attempt) in [(OTHER, attempt), (CONSUMER, unknown)] {
        let no = host.provider.handle_wish(from, attempt, Wish::Suspend);
        assert_eq!(no, Err(NoTurn::Closed));
    }
    let module = FileRef { digest: Digest::of(b"m"), size: 1, name: "m.wasm".to_owned() };
    let module = host.start(Program::Wasi { module, fuel: false }).unwrap();
    assert_eq!(host.wish(module, Wish::Suspend), Err(NoTurn::Unsuited(RuntimeKind::Wasi)));
    let fetching = host.agree(machine()).unwrap();
    assert_eq!(host.wish(fetching, Wish::Suspend), Err(NoTurn::NotYet));
    host.provider.handle_fetched(fetching, Ok(()), NOW_MS);
    host.provider.handle_preparing(fetching, true);
    assert_eq!(host.wish(fetching, Wish::Suspend), Err(NoTurn::NotYet));
    assert_eq!(host.wish(attempt, Wish::Resume), Err(NoTurn::NotSuspended));
    host.suspend(attempt, NOW_MS);
    assert_eq!(host.wish(attempt, Wish::Suspend), Err(NoTurn::Suspended));
    // A late word of the runtime does not wake it.
    host.provider.handle_preparing(attempt, false);
    assert_eq!(host.wish(attempt, Wish::Suspend), Err(NoTurn::Suspended));
    host.provider.handle_cancel(CONSUMER, attempt);
    assert_eq!(host.wish(attempt, Wish::Resume), Err(NoTurn::Stopping));
}

#[test]
fn no_more_are_suspended_than_may_be() {
    let mut host = Host::new(1);
    let mut attempts = Vec::new();
    for _ in 0..SUSPENDED_MAX {
        let attempt = host.start(machine()).unwrap();
        host.suspend(attempt, NOW_MS);
        attempts.push(attempt);
    }
    let more = host.start(machine()).unwrap();
    assert_eq!(host.wish(more, Wish::Suspend), Err(NoTurn::TooMany));
    // One that has ended counts no more, though its outcome waits for its consumer.
    host.provider.handle_ended(attempts[0], Outcome::Done { outputs: BTreeMap::new() }, NOW_MS);
    host.suspend(more, NOW_MS);
}

#[test]
fn a_suspended_attempt_ends_as_any_other() {
    let failed = |class| {
        let detail = "the runtime's".to_owned();
        Outcome::Failed(Failure { class, exit_code: None, detail })
    };
    // At its consumer's wish, also while it is about to go on.
    let mut host = Host::new(1);
    let whole = host.free();
    let attempt = host.start(machine()).unwrap();
    host.suspend(attempt, NOW_MS);
    host.wish(attempt, Wish::Resume).unwrap();
    host.provider.handle_cancel(CONSUMER, attempt);
    assert!(host.provider.drain_actions().contains(&Action::Stop { attempt }));
    host.provider.handle_ended(attempt, failed(FailureClass::Cancelled), NOW_MS);
    assert!(!host.provider.handle_turned(attempt, Wish::Resume, false, NOW_MS));
    assert_eq!(host.free(), whole);
    // After a time, as one that took too long.
    let attempt = host.start(machine()).unwrap();
    host.suspend(attempt, NOW_MS);
    let late_ms = NOW_MS + SUSPENDED_MS_MAX + 1;
    host.provider.handle_renew(CONSUMER, &[attempt], late_ms);
    let _ = host.provider.drain_actions();
    host.provider.poll(late_ms - 1);
    assert!(!host.provider.drain_actions().contains(&Action::Stop { attempt }));
    host.provider.poll(late_ms + 10_000);
    assert!(host.provider.drain_actions().contains(&Action::Stop { attempt }));
    host.provider.handle_ended(attempt, failed(FailureClass::Cancelled), late_ms);
    let ended = host.provider.record(attempt).unwrap().ended.clone();
    let Some((_, Outcome::Failed(failure))) = ended else { panic!("{ended:?}") };
    assert_eq!(failure.class, FailureClass::Timeout);
    // With its node: nothing of it is left there.
    let record = Record { attempt, consumer: CONSUMER, spec: spec(machine()), ended: None };
    let mut next = Host::new(1);
    next.provider.restore(record, NOW_MS);
    assert_eq!(next.wish(attempt, Wish::Resume), Err(NoTurn::Closed));
}

#[test]
fn a_run_remembers_what_stands_still_and_forgets_it_with_the_attempt() {
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
    let (mut run, _) = Run::submit(RunId::from_bytes([7; 16]), submission, None, NOW_MS).unwrap();
    let task = TaskId { step: 0, index: 0 };
    let apply = |run: &mut Run, body| run.apply(&Event { at_ms: NOW_MS, body });
    let opened = run.next().unwrap();
    apply(&mut run, opened);
    let started = |number| {
        let (node, org) = (NodeId::from_bytes([1; 32]), OrgId::from_bytes([2; 32]));
        EventBody::AttemptStarted { task, number, node, org, lane: None }
    };
    apply(&mut run, started(1));
    apply(&mut run, EventBody::Suspended { task, number: 2 });
    assert!(!run.is_suspended(task), "that attempt is not the current one");
    for _ in 0..2 {
        apply(&mut run, EventBody::Suspended { task, number: 1 });
    }
    assert!(run.is_suspended(task) && run.running().contains(&task));
    apply(&mut run, EventBody::Resumed { task, number: 1 });
    assert!(!run.is_suspended(task));
    apply(&mut run, EventBody::Suspended { task, number: 1 });
    assert_eq!(run.suspensions(), 2);
    let failure =
        Failure { class: FailureClass::Infra, exit_code: None, detail: "lost".to_owned() };
    let ended = EventBody::AttemptEnded { task, number: 1, failure, retry_at_ms: Some(NOW_MS) };
    apply(&mut run, ended);
    assert!(!run.is_suspended(task));
    apply(&mut run, started(2));
    assert!(!run.is_suspended(task));
    // What is stored comes back as it was.
    let body = EventBody::Suspended { task, number: 2 };
    let json = serde_json::to_value(&body).unwrap();
    assert_eq!(json["event"], "suspended");
    assert_eq!(serde_json::from_value::<EventBody>(json).unwrap(), body);
}
