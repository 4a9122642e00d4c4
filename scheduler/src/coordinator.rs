//! The consumer's side: drives every run of this node from submission to its last commit.
//!
//! Per task: waiting → asking (quotes) → accepted (one offer taken) → running (both signed; durable) → collecting (outputs
//! fetched) → committed. Only `running` onward is in the run's log; before that nothing is owed and a crash simply asks again.
//!
//! This file holds the state, the clock's entry ([`Coordinator::poll`]) and what every stage changes it through; each stage
//! has its own: `lifecycle` (a run comes and goes), `placement` (waiting → asking), `spread` (replicas of a service keep away
//! from each other), `negotiation` (asking → running), `running` (running → committed), `suspension` (running stands still) and
//! `deadlines` (what happens when nothing happens).
//!
//! Invariants: an attempt's number is used by one agreement at most; results of any attempt but the current one are
//! answered with `Collected` and dropped; every waiting state has a deadline.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{Amount, Currency, Digest, NodeId, OrgId};

use crate::binding::Binding;
use crate::negotiate::{Message, RequestId};
use crate::place::{Candidate, Cost, Plan, Rejection, Ruling};
use crate::run::{Event, EventBody, Run};
use crate::task::{AttemptId, Failure, FailureClass, RunId, TaskId, TaskSpec};
use crate::value::Value;

mod deadlines;
mod lifecycle;
mod negotiation;
mod placement;
mod running;
mod sessions;
mod spread;
mod suspension;

pub use suspension::SUSPENSIONS_MAX;

/// Tasks this node negotiates at once; further ones wait their turn.
pub const NEGOTIATING_MAX: usize = 256;
/// How long a candidate may think about a quote.
pub const QUOTE_TIMEOUT_MS: u64 = 3_000;
/// How long a provider may take from `Accept` to its signed agreement.
pub const AGREE_TIMEOUT_MS: u64 = 10_000;
/// An attempt without a word for this long is lost.
pub const LEASE_MS: u64 = 15_000;
/// How often the consumer tells providers that it still wants their attempts.
pub const RENEW_MS: u64 = 5_000;
/// How long a node that did not answer or failed is not asked.
const SILENT_MS: u64 = 5_000;

/// What the coordinator wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Append to the run's log; durable before anything after it.
    Record {
        /// The run.
        run: RunId,
        /// Position in the log.
        seq: u64,
        /// The event.
        event: Box<Event>,
    },
    /// Tell a node (itself included).
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Store these bytes as blobs before anything after it: inputs that the document itself gives.
    Keep {
        /// The bytes of each.
        blobs: Vec<Vec<u8>>,
    },
    /// Let the provider fetch these from us while the attempt lasts.
    Grant {
        /// The provider.
        peer: NodeId,
        /// The attempt.
        attempt: AttemptId,
        /// Blobs, directories by their manifest.
        blobs: Vec<Digest>,
    },
    /// No longer.
    Revoke {
        /// The provider.
        peer: NodeId,
        /// The attempt.
        attempt: AttemptId,
    },
    /// Fetch the outputs; answer with [`Coordinator::handle_collected`].
    Collect {
        /// The attempt.
        attempt: AttemptId,
        /// Who has them.
        from: NodeId,
        /// What.
        outputs: BTreeMap<String, Value>,
    },
}

/// A quote after its signature and terms were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Who offers.
    pub provider: NodeId,
    /// The question it answers.
    pub request: RequestId,
    /// The task it prices.
    pub spec: Digest,
    /// Expected price.
    pub estimate: Amount,
    /// In which currency.
    pub currency: Currency,
    /// Until when it holds (Unix ms).
    pub valid_until_ms: u64,
}

/// What the provider's agreement entry says, for [`Coordinator::check_agreement`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Who proposes.
    pub provider: NodeId,
    /// Its organisation.
    pub org: OrgId,
    /// The attempt.
    pub attempt: AttemptId,
    /// The task.
    pub spec: Digest,
    /// The lane that will bill it; absent on the own node.
    pub lane: Option<u64>,
}

type Key = (RunId, TaskId);

/// A task that is to be placed, for those who know the rules that hold for it.
#[derive(Clone, Copy, Debug)]
pub struct ToPlace<'a> {
    /// Its run.
    pub run: RunId,
    /// What its step is called.
    pub step: &'a str,
    /// What is to be done.
    pub spec: &'a TaskSpec,
}

/// Says what the rules of areas ask of a task. It is asked each time that a task is placed.
pub type Judge<'a> = dyn FnMut(ToPlace<'_>, &[Candidate]) -> Ruling + 'a;

#[derive(Clone, Debug)]
enum Stage {
    Asking { asked: BTreeMap<RequestId, NodeId>, offers: Vec<Offer> },
    Accepted { node: NodeId, request: RequestId },
    Running { node: NodeId },
    Collecting { node: NodeId, outputs: BTreeMap<String, Value> },
}

#[derive(Clone, Debug)]
struct Live {
    number: u32,
    spec: TaskSpec,
    digest: Digest,
    deadline_ms: u64,
    stage: Stage,
    /// What its provider's offer says that it costs, once one is taken.
    estimate: Option<Cost>,
    /// Whether it stands still, by its provider's last word; then it takes none of that node's processor.
    is_suspended: bool,
}

/// What the coordinator learnt of a node.
#[derive(Clone, Copy, Debug, Default)]
struct Experience {
    inflight_cpu_milli: u64,
    refused_until_ms: u64,
    faults: u32,
}

/// The consumer's side of every run.
#[derive(Debug)]
pub struct Coordinator {
    me: NodeId,
    runs: BTreeMap<RunId, Run>,
    bindings: BTreeMap<RunId, Binding>,
    /// Runs that are not finished.
    active: BTreeSet<RunId>,
    live: BTreeMap<Key, Live>,
    deadlines: BTreeSet<(u64, Key)>,
    questions: BTreeMap<RequestId, Key>,
    experience: BTreeMap<NodeId, Experience>,
    plans: BTreeMap<Key, Plan>,
    /// Nodes that are not asked for a step of a run before a time, and why: they said no to this work, not to any.
    barred: BTreeMap<(RunId, u32), BTreeMap<NodeId, (u64, Rejection)>>,
    /// Runs that are replicas of services and have not ended, by service.
    groups: BTreeMap<String, BTreeSet<RunId>>,
    /// Running tasks whose provider says that it still makes the program ready.
    preparing: BTreeSet<Key>,
    negotiating: usize,
    renew_at_ms: u64,
    replan_at_ms: u64,
    is_dirty: bool,
    actions: Vec<Action>,
}

impl Coordinator {
    /// Without runs.
    #[must_use]
    pub const fn new(me: NodeId) -> Self {
        Self {
            me,
            runs: BTreeMap::new(),
            bindings: BTreeMap::new(),
            active: BTreeSet::new(),
            live: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            questions: BTreeMap::new(),
            experience: BTreeMap::new(),
            plans: BTreeMap::new(),
            barred: BTreeMap::new(),
            groups: BTreeMap::new(),
            preparing: BTreeSet::new(),
            negotiating: 0,
            renew_at_ms: 0,
            replan_at_ms: 0,
            is_dirty: false,
            actions: Vec::new(),
        }
    }

    /// Does what is due: follows up on what the runs' states imply, starts negotiations, enforces deadlines, renews leases.
    /// `candidates` is asked for only when a task has to be placed.
    pub fn poll(
        &mut self,
        now_ms: u64,
        candidates: &mut dyn FnMut() -> Vec<Candidate>,
        entropy: &mut dyn FnMut() -> u64,
    ) {
        self.poll_judged(now_ms, candidates, &mut |_, _| Ruling::default(), entropy);
    }

    /// As [`Self::poll`], where rules say who may have which task.
    pub fn poll_judged(
        &mut self,
        now_ms: u64,
        candidates: &mut dyn FnMut() -> Vec<Candidate>,
        judge: &mut Judge<'_>,
        entropy: &mut dyn FnMut() -> u64,
    ) {
        self.enforce_deadlines(now_ms, entropy);
        if now_ms >= self.renew_at_ms {
            self.renew(now_ms);
        }
        if self.is_dirty || now_ms >= self.replan_at_ms {
            self.is_dirty = false;
            self.replan_at_ms = u64::MAX;
            let mut asked: Option<Vec<Candidate>> = None;
            for id in self.active.clone() {
                self.follow(id, now_ms);
                self.start_tasks(id, now_ms, (candidates, &mut asked), judge, entropy);
            }
        }
    }

    /// When [`Self::poll`] has to be called next, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        if self.is_dirty {
            return Some(0);
        }
        let renew = (!self.live.is_empty()).then_some(self.renew_at_ms);
        let replan =
            (self.replan_at_ms != u64::MAX && !self.active.is_empty()).then_some(self.replan_at_ms);
        [self.deadlines.first().map(|(at, _)| *at), renew, replan].into_iter().flatten().min()
    }

    /// What is to be done, in order.
    pub fn drain_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Whether something is to be done.
    #[must_use]
    pub const fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    /// A run.
    #[must_use]
    pub fn run(&self, id: RunId) -> Option<&Run> {
        self.runs.get(&id)
    }

    /// Every run this node knows.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.values()
    }

    /// The last placement of a task, for `run explain`.
    #[must_use]
    pub fn plan_of(&self, run: RunId, task: TaskId) -> Option<&Plan> {
        self.plans.get(&(run, task))
    }

    /// The task that a question for a quote is about, while it is open.
    #[must_use]
    pub fn spec_asked(&self, request: RequestId) -> Option<&TaskSpec> {
        self.live.get(self.questions.get(&request)?).map(|live| &live.spec)
    }

    /// The program that the task's node makes ready before it can run it, by its last word.
    #[must_use]
    pub fn preparing(&self, run: RunId, task: TaskId) -> Option<&str> {
        let key = (run, task);
        let live =
            self.live.get(&key).filter(|live| matches!(live.stage, Stage::Running { .. }))?;
        self.preparing.contains(&key).then_some(live.spec.program.name())
    }

    /// Whether the task is being negotiated, and with whom.
    #[must_use]
    pub fn negotiating_with(&self, run: RunId, task: TaskId) -> Vec<NodeId> {
        match self.live.get(&(run, task)).map(|live| &live.stage) {
            Some(Stage::Asking { asked, .. }) => asked.values().copied().collect(),
            Some(Stage::Accepted { node, .. }) => vec![*node],
            _ => Vec::new(),
        }
    }

    fn record(&mut self, id: RunId, body: EventBody, now_ms: u64) {
        let Some(run) = self.runs.get_mut(&id) else {
            return;
        };
        let event = Event { at_ms: now_ms, body };
        let seq = run.events();
        run.apply(&event);
        self.actions.push(Action::Record { run: id, seq, event: Box::new(event) });
        self.is_dirty = true;
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.actions.push(Action::Send { to, message });
    }

    fn put(&mut self, key: Key, live: Live) {
        self.deadlines.insert((live.deadline_ms, key));
        self.live.insert(key, live);
    }

    fn update(&mut self, key: Key, deadline_ms: u64, change: impl FnOnce(&mut Stage)) {
        if let Some(live) = self.live.get_mut(&key) {
            self.deadlines.remove(&(live.deadline_ms, key));
            live.deadline_ms = deadline_ms;
            change(&mut live.stage);
            self.deadlines.insert((deadline_ms, key));
        }
    }

    fn remove(&mut self, key: Key) -> Option<Live> {
        let live = self.live.remove(&key)?;
        self.deadlines.remove(&(live.deadline_ms, key));
        self.preparing.remove(&key);
        if matches!(live.stage, Stage::Asking { .. } | Stage::Accepted { .. }) {
            self.negotiating -= 1;
        }
        Some(live)
    }

    fn take_cpu(&mut self, node: NodeId, cpu_milli: u64) {
        let known = self.experience.entry(node).or_default();
        known.inflight_cpu_milli = known.inflight_cpu_milli.saturating_add(cpu_milli);
    }

    fn release_cpu(&mut self, node: NodeId, cpu_milli: u64) {
        let known = self.experience.entry(node).or_default();
        known.inflight_cpu_milli = known.inflight_cpu_milli.saturating_sub(cpu_milli);
    }
}

fn cancelled() -> Failure {
    Failure {
        class: FailureClass::Cancelled,
        exit_code: None,
        detail: "the run was stopped".to_owned(),
    }
}
