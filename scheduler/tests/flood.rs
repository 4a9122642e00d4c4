//! Consumers that ask and ask: what a provider gives them, and what is left for the others.

use std::collections::BTreeMap;

use catalog::{Digest, NodeId};
use scheduler::capacity::{Amounts, Capacity, QUOTE_LEASE_MS};
use scheduler::negotiate::RequestId;
use scheduler::provider::{
    Abilities, Action, BARRED_MS, FORGIVEN_MS, LAPSES_MAX, No, OFFERS_MAX, Provider,
};
use scheduler::task::{
    AttemptId, Needs, Program, RunId, RuntimeKind, SPEC_LEN_MAX, TaskId, TaskSpec,
};
use scheduler::value::FileRef;

const FLOODER: NodeId = NodeId::from_bytes([6; 32]);
const HONEST: NodeId = NodeId::from_bytes([7; 32]);
const TASKS_MAX: u32 = 4;

fn provider(tasks_max: u32) -> Provider {
    let whole =
        Amounts { cpu_milli: 1 << 40, memory_bytes: 1 << 50, disk_bytes: 1 << 50, tasks_max };
    let abilities = Abilities {
        arch: "x86_64".to_owned(),
        runtimes: [RuntimeKind::Wasi].into(),
        services: [].into(),
        network: false,
    };
    Provider::new(NodeId::from_bytes([1; 32]), abilities, Capacity::new(whole))
}

fn spec() -> TaskSpec {
    let module = FileRef { digest: Digest::of(b"m"), size: 1, name: "m.wasm".to_owned() };
    TaskSpec {
        program: Program::Wasi { module, fuel: false },
        argv: Vec::new(),
        env: BTreeMap::new(),
        stdin: None,
        inputs: BTreeMap::new(),
        mounts: BTreeMap::new(),
        outputs: BTreeMap::new(),
        needs: Needs::default(),
        timeout_ms: 1_000,
        service: None,
        area: None,
    }
}

/// Questions of one consumer, each with another number.
struct Asker {
    id: NodeId,
    asked: u32,
}

impl Asker {
    const fn new(id: NodeId) -> Self {
        Self { id, asked: 0 }
    }

    fn attempt(&self) -> AttemptId {
        let task = TaskId { step: 0, index: self.asked };
        AttemptId { run: RunId::from_bytes([self.id.as_bytes()[0]; 16]), task, number: 1 }
    }

    /// Asks something new; the name of the question, and whether it got an offer.
    fn ask(&mut self, provider: &mut Provider, now_ms: u64) -> (RequestId, bool) {
        self.asked += 1;
        let mut request = [self.id.as_bytes()[0]; 16];
        request[..4].copy_from_slice(&self.asked.to_be_bytes());
        provider.handle_request(self.id, request, self.attempt(), spec(), now_ms);
        let mut answers = provider.drain_actions();
        assert_eq!(answers.len(), 1, "one answer to one question: {answers:?}");
        match answers.remove(0) {
            Action::Quote { .. } => (request, true),
            Action::Refuse { no: No::Full { .. }, .. } => (request, false),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn offers_are_bounded_whatever_is_asked() {
    let mut provider = provider(u32::MAX);
    let mut flooder = Asker::new(FLOODER);
    let given = (0..20_000).filter(|_| flooder.ask(&mut provider, 1_000).1).count();
    assert_eq!(given, OFFERS_MAX);
    // An offer that nobody takes is nobody's after its lease.
    provider.poll(1_000 + QUOTE_LEASE_MS);
    assert_eq!(provider.capacity().free(), provider.capacity().total());
    assert!(Asker::new(HONEST).ask(&mut provider, 1_000 + QUOTE_LEASE_MS).1);
}

/// A hundred questions a second for ten minutes, against one honest question a second.
fn honest_offers(answer: impl Fn(&mut Provider, RequestId, u64)) -> u32 {
    let mut provider = provider(TASKS_MAX);
    let (mut flooder, mut honest) = (Asker::new(FLOODER), Asker::new(HONEST));
    let mut held: Vec<(RequestId, u64)> = Vec::new();
    let mut offers = 0;
    for second in 0..600 {
        let now_ms = 1_000 * second;
        for _ in 0..100 {
            let (request, is_offered) = flooder.ask(&mut provider, now_ms);
            held.extend(is_offered.then_some((request, now_ms)));
        }
        held.retain(|(request, since_ms)| {
            let is_late = now_ms - since_ms >= QUOTE_LEASE_MS - 1_000;
            if is_late {
                answer(&mut provider, *request, now_ms);
                provider.drain_actions();
            }
            !is_late
        });
        let (request, is_offered) = honest.ask(&mut provider, now_ms);
        offers += u32::from(is_offered);
        provider.handle_decline(HONEST, request, now_ms);
    }
    offers
}

#[test]
fn who_only_asks_does_not_keep_the_others_away() {
    // It lets every offer lapse, or declines it when it is nearly over, or takes it and then does not want it.
    let lapses = honest_offers(|_, _, _| ());
    let late =
        honest_offers(|provider, request, now| provider.handle_decline(FLOODER, request, now));
    let fickle = honest_offers(|provider, request, now| {
        provider.handle_accept(FLOODER, request, now);
        provider.handle_decline(FLOODER, request, now);
    });
    for offers in [lapses, late, fickle] {
        assert!(offers > 400, "{offers} of 600 honest questions got an offer");
    }
}

#[test]
fn who_works_may_lose_an_answer_here_and_there() {
    let mut provider = provider(TASKS_MAX);
    let mut busy = Asker::new(HONEST);
    let mut now_ms = 1_000;
    // Four of five offers become work for a thousand tasks; every fifth answer is lost.
    for n in 0..1_000 {
        let (request, is_offered) = busy.ask(&mut provider, now_ms);
        assert!(is_offered, "task {n}");
        if n % 5 == 0 {
            now_ms += QUOTE_LEASE_MS;
            provider.poll(now_ms);
        } else {
            let attempt = busy.attempt();
            provider.handle_accept(HONEST, request, now_ms);
            assert!(provider.handle_agreed(attempt, now_ms));
            provider.handle_cancel(HONEST, attempt);
            let failure = scheduler::task::Failure {
                class: scheduler::task::FailureClass::Cancelled,
                exit_code: None,
                detail: String::new(),
            };
            let outcome = scheduler::negotiate::Outcome::Failed(failure);
            provider.handle_ended(attempt, outcome, now_ms);
            provider.handle_collected(HONEST, attempt);
        }
        provider.drain_actions();
    }
}

#[test]
fn a_lapse_is_forgiven() {
    let mut provider = provider(TASKS_MAX);
    let mut flooder = Asker::new(FLOODER);
    let mut now_ms = 1_000;
    let mut given = 0;
    while flooder.ask(&mut provider, now_ms).1 {
        given += 1;
        now_ms += QUOTE_LEASE_MS;
    }
    assert_eq!(given, LAPSES_MAX);
    assert!(!flooder.ask(&mut provider, now_ms + BARRED_MS - 1).1);
    // One that lapses bars it again, until it has been quiet for long.
    assert!(flooder.ask(&mut provider, now_ms + BARRED_MS).1);
    now_ms += BARRED_MS + QUOTE_LEASE_MS;
    assert!(!flooder.ask(&mut provider, now_ms).1);
    now_ms += FORGIVEN_MS;
    assert!(flooder.ask(&mut provider, now_ms).1);
    now_ms += QUOTE_LEASE_MS;
    assert!(flooder.ask(&mut provider, now_ms).1);
    // What is too long to be a task is refused, however often it is asked.
    let long = TaskSpec { argv: vec!["x".repeat(SPEC_LEN_MAX)], ..spec() };
    for n in 0..100 {
        provider.handle_request(FLOODER, [n; 16], flooder.attempt(), long.clone(), now_ms);
    }
    let refused = |action: &Action| matches!(action, Action::Refuse { no: No::TooBig, .. });
    assert!(provider.drain_actions().iter().all(refused));
}
