//! What a coordinator knows of a task whose provider still makes the program ready.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use catalog::{Amount, Currency, Digest, NodeId, OrgId};
use scheduler::capacity::{Amounts, Capacity};
use scheduler::coordinator::{self, Coordinator, Offer, Proposal};
use scheduler::negotiate::{Message, Outcome};
use scheduler::place::{Candidate, Trust};
use scheduler::provider::{self, Abilities, Provider};
use scheduler::run::Submission;
use scheduler::task::{AttemptId, RunId, RuntimeKind, Stage, TaskId};
use scheduler::value::FileRef;

const RUN: RunId = RunId::from_bytes([7; 16]);
const TASK: TaskId = TaskId { step: 0, index: 0 };
const ATTEMPT: AttemptId = AttemptId { run: RUN, task: TASK, number: 1 };
/// More than the time between two reports of a provider.
const REPORT_MS: u64 = 3_001;

/// A coordinator and a provider that are one node and tell each other everything at once.
struct Pair {
    me: NodeId,
    coordinator: Coordinator,
    provider: Provider,
    now_ms: u64,
    specs: BTreeMap<[u8; 16], Digest>,
    is_started: bool,
}

impl Pair {
    fn new() -> Self {
        let me = NodeId::from_bytes([1; 32]);
        let whole =
            Amounts { cpu_milli: 4_000, memory_bytes: 8 << 30, disk_bytes: 8 << 30, tasks_max: 8 };
        let abilities = Abilities {
            arch: "x86_64".to_owned(),
            runtimes: [RuntimeKind::Wasi].into(),
            services: BTreeSet::new(),
            network: false,
        };
        let (coordinator, provider) =
            (Coordinator::new(me), Provider::new(me, abilities, Capacity::new(whole)));
        Self { me, coordinator, provider, now_ms: 1_000, specs: BTreeMap::new(), is_started: false }
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            node: self.me,
            org: OrgId::from_bytes([2; 32]),
            org_name: "org".to_owned(),
            node_name: "node".to_owned(),
            trust: Trust::Own,
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

    fn submit(&mut self) {
        let source =
            "opencloud: workflow/v1\nname: w\nsteps:\n  a: {run: {wasi: {module: big.wasm}}}\n";
        let module = FileRef { digest: Digest::of(b"m"), size: 1, name: "big.wasm".to_owned() };
        let submission = Submission {
            source: source.to_owned(),
            params: BTreeMap::new(),
            assets: BTreeMap::from([("big.wasm".to_owned(), Stage::File(module))]),
            binding: None,
            strategy: None,
            replica: None,
            area: None,
        };
        self.coordinator.submit(RUN, submission, None, self.now_ms).unwrap();
    }

    /// Lets time pass and everything happen that then happens by itself.
    fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        self.provider.poll(self.now_ms);
        // Offer, acceptance, agreement, start: fewer rounds than these.
        for _ in 0..16 {
            let candidate = self.candidate();
            let mut n = 0;
            let entropy = &mut || {
                n += 1;
                n
            };
            self.coordinator.poll(self.now_ms, &mut || vec![candidate.clone()], entropy);
            for action in self.coordinator.drain_actions() {
                if let coordinator::Action::Send { message, .. } = action {
                    self.tell_provider(message);
                }
            }
            for action in self.provider.drain_actions() {
                self.perform(action);
            }
        }
    }

    fn tell_provider(&mut self, message: Message) {
        match message {
            Message::QuoteRequest { request, attempt, spec, .. } => {
                self.specs.insert(request, spec.digest());
                self.provider.handle_request(self.me, request, attempt, *spec, self.now_ms);
            }
            Message::Accept { request } => {
                self.provider.handle_accept(self.me, request, self.now_ms)
            }
            Message::Renew { attempts } => {
                self.provider.handle_renew(self.me, &attempts, self.now_ms);
            }
            _ => {}
        }
    }

    fn perform(&mut self, action: provider::Action) {
        match action {
            provider::Action::Quote { request, valid_until_ms, .. } => {
                let offer = Offer {
                    provider: self.me,
                    request,
                    spec: self.specs[&request],
                    estimate: Amount::ZERO,
                    currency: Currency::EUR,
                    valid_until_ms,
                };
                self.coordinator.handle_offer(offer, self.now_ms);
            }
            provider::Action::Propose { attempt, spec, .. } => {
                let org = OrgId::from_bytes([2; 32]);
                let spec = spec.digest();
                let proposal = Proposal { provider: self.me, org, attempt, spec, lane: None };
                assert!(self.coordinator.check_agreement(&proposal, self.now_ms));
                assert!(self.provider.handle_agreed(attempt, self.now_ms));
            }
            provider::Action::Fetch { attempt, .. } => {
                self.provider.handle_fetched(attempt, Ok(()), self.now_ms);
            }
            provider::Action::Start { .. } => self.is_started = true,
            provider::Action::Send { message: Message::Status { attempts, .. }, .. } => {
                self.coordinator.handle_status(self.me, &attempts, self.now_ms);
            }
            provider::Action::Send { message: Message::Finished { attempt, outcome }, .. } => {
                let entropy = &mut || 1;
                self.coordinator.handle_finished(self.me, attempt, outcome, self.now_ms, entropy);
            }
            _ => {}
        }
    }

    fn preparing(&self) -> Option<&str> {
        self.coordinator.preparing(RUN, TASK)
    }
}

#[test]
fn a_program_that_is_made_ready_is_named_until_it_is_ready() {
    let mut pair = Pair::new();
    pair.submit();
    pair.advance(1);
    assert!(pair.is_started);
    pair.advance(REPORT_MS);
    assert_eq!(pair.preparing(), None);
    pair.provider.handle_preparing(ATTEMPT, true);
    pair.advance(REPORT_MS);
    assert_eq!(pair.preparing(), Some("big.wasm"));
    pair.provider.handle_preparing(ATTEMPT, false);
    pair.advance(REPORT_MS);
    assert_eq!(pair.preparing(), None);
}

#[test]
fn a_task_that_ends_while_its_program_is_made_ready_is_no_longer_named() {
    let mut pair = Pair::new();
    pair.submit();
    pair.advance(1);
    pair.provider.handle_preparing(ATTEMPT, true);
    pair.advance(REPORT_MS);
    assert_eq!(pair.preparing(), Some("big.wasm"));
    let outcome = Outcome::Done { outputs: BTreeMap::new() };
    pair.provider.handle_ended(ATTEMPT, outcome, pair.now_ms);
    // A late word of the runtime changes nothing.
    pair.provider.handle_preparing(ATTEMPT, true);
    pair.advance(REPORT_MS);
    assert_eq!(pair.preparing(), None);
}
