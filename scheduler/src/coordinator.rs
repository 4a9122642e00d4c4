//! The consumer's side: drives every run of this node from submission to its last commit.
//!
//! Per task: waiting → asking (quotes) → accepted (one offer taken) → running (both signed; durable) → collecting (outputs
//! fetched) → committed. Only `running` onward is in the run's log; before that nothing is owed and a crash simply asks again.
//!
//! Invariants: an attempt's number is used by one agreement at most; results of any attempt but the current one are
//! answered with `Collected` and dropped; every waiting state has a deadline.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{Amount, Currency, Digest, NodeId, OrgId};

use crate::binding::Binding;
use crate::negotiate::{ATTEMPTS_PER_MESSAGE, Message, Outcome, Phase, RequestId};
use crate::place::{Candidate, Plan, Request, Rule, Strategy, plan};
use crate::run::{Event, EventBody, PROVIDER_FAULTS_MAX, Run, Submission, SubmitError};
use crate::task::{AttemptId, Failure, FailureClass, RunId, TaskId, TaskSpec};
use crate::value::Value;
use crate::workflow::Materialised;

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
/// Pause after nobody could take a task.
const REPLAN_MS: u64 = 500;
/// How long a node that did not answer or failed is not asked.
const SILENT_MS: u64 = 5_000;
/// How long outputs may take to arrive without any success.
const COLLECT_MS: u64 = 120_000;
/// How long a task is taken to run while nothing is known of it.
const ESTIMATE_MS: u64 = 1_000;
/// Runs kept in memory; the oldest finished ones leave first.
const RUNS_MAX: usize = 10_000;
/// Steps without a taker after which one pass over a run stops.
const BARREN_MAX: u32 = 16;

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
            preparing: BTreeSet::new(),
            negotiating: 0,
            renew_at_ms: 0,
            replan_at_ms: 0,
            is_dirty: false,
            actions: Vec::new(),
        }
    }

    /// Takes a run back from its log after a restart: attempts under agreement get a fresh lease, and what their providers
    /// may fetch is granted again.
    pub fn restore(&mut self, run: Run, now_ms: u64) {
        let id = run.id();
        self.keep_binding(&run);
        if run.ending().is_none() {
            self.active.insert(id);
            for &task in run.running() {
                let Some((node, number)) = run
                    .task(task)
                    .and_then(|t| t.attempts.last())
                    .map(|attempt| (attempt.node, attempt.number))
                else {
                    continue;
                };
                let Ok(made) = run.materialise(task) else {
                    continue;
                };
                let spec = made.spec;
                let attempt = AttemptId { run: id, task, number };
                self.grant(node, attempt, &spec);
                self.experience.entry(node).or_default().inflight_cpu_milli += spec.needs.cpu_milli;
                let live = Live {
                    number,
                    digest: spec.digest(),
                    spec,
                    deadline_ms: now_ms + 2 * LEASE_MS,
                    stage: Stage::Running { node },
                };
                self.put((id, task), live);
            }
        }
        self.runs.insert(id, run);
        self.is_dirty = true;
    }

    fn keep_binding(&mut self, run: &Run) {
        let binding = run.submission().binding.as_deref();
        if let Some(Ok(binding)) = binding.map(|text| Binding::parse(text, run.workflow())) {
            self.bindings.insert(run.id(), binding);
        }
    }

    /// Starts a run.
    ///
    /// # Errors
    /// See [`SubmitError`]. Nothing is kept of a refused submission.
    pub fn submit(
        &mut self,
        id: RunId,
        submission: Submission,
        now_ms: u64,
    ) -> Result<(), SubmitError> {
        let (run, event) = Run::submit(id, submission, now_ms)?;
        self.actions.push(Action::Record { run: id, seq: 0, event: Box::new(event) });
        self.keep_binding(&run);
        self.runs.insert(id, run);
        self.active.insert(id);
        self.is_dirty = true;
        self.forget_oldest();
        Ok(())
    }

    fn forget_oldest(&mut self) {
        while self.runs.len() > RUNS_MAX {
            let oldest = self
                .runs
                .values()
                .filter(|r| r.ending().is_some())
                .min_by_key(|r| r.submitted_ms());
            let Some(id) = oldest.map(Run::id) else {
                return;
            };
            self.runs.remove(&id);
            self.bindings.remove(&id);
        }
    }

    /// Asks a run to stop. Returns whether there is such a run that had not ended.
    pub fn cancel(&mut self, id: RunId, now_ms: u64) -> bool {
        let Some(run) = self.runs.get(&id) else {
            return false;
        };
        if run.ending().is_some() {
            return false;
        }
        if !run.is_winding_down() {
            self.record(id, EventBody::CancelRequested, now_ms);
            self.wind_down(id, now_ms);
        }
        true
    }

    /// Stops what a run has under way: unanswered questions are withdrawn, running attempts are told to stop.
    fn wind_down(&mut self, id: RunId, now_ms: u64) {
        let keys: Vec<Key> = self.keys_of(id);
        for key in keys {
            let Some(live) = self.live.get(&key) else {
                continue;
            };
            let attempt = AttemptId { run: key.0, task: key.1, number: live.number };
            match &live.stage {
                Stage::Asking { .. } | Stage::Accepted { .. } => self.withdraw(key, now_ms),
                Stage::Running { node } => {
                    let to = *node;
                    self.send(to, Message::Cancel { attempt });
                }
                Stage::Collecting { .. } => {
                    self.end_attempt(key, cancelled(), now_ms, &mut || 0);
                }
            }
        }
        self.is_dirty = true;
    }

    fn keys_of(&self, id: RunId) -> Vec<Key> {
        let first = (id, TaskId { step: 0, index: 0 });
        let last = (id, TaskId { step: u32::MAX, index: u32::MAX });
        self.live.range(first..=last).map(|(key, _)| *key).collect()
    }

    /// A checked offer arrived.
    pub fn handle_offer(&mut self, offer: Offer, now_ms: u64) {
        let Some(&key) = self.questions.get(&offer.request) else {
            return self.send(offer.provider, Message::Decline { request: offer.request });
        };
        let rule = self.rule(key);
        let Some(live) = self.live.get_mut(&key) else {
            return;
        };
        let spec = live.digest;
        let Stage::Asking { asked, offers, .. } = &mut live.stage else {
            return;
        };
        if asked.get(&offer.request) != Some(&offer.provider)
            || offers.iter().any(|o| o.request == offer.request)
        {
            return;
        }
        let too_dear = rule
            .max_price
            .is_some_and(|(max, currency)| currency != offer.currency || offer.estimate > max);
        if offer.spec != spec || offer.valid_until_ms <= now_ms || too_dear {
            let (provider, request) = (offer.provider, offer.request);
            self.send(provider, Message::Decline { request });
            return self.handle_no(request, provider, now_ms + SILENT_MS, now_ms);
        }
        offers.push(offer);
        if offers.len() == asked.len() {
            self.choose(key, now_ms);
        }
    }

    /// A candidate said no; it is not asked again before `until_ms`.
    pub fn handle_no(&mut self, request: RequestId, from: NodeId, until_ms: u64, now_ms: u64) {
        let Some(&key) = self.questions.get(&request) else {
            return;
        };
        let Some(live) = self.live.get_mut(&key) else {
            return;
        };
        let Stage::Asking { asked, offers, .. } = &mut live.stage else {
            return;
        };
        if asked.get(&request) != Some(&from) {
            return;
        }
        asked.remove(&request);
        self.questions.remove(&request);
        let (n_asked, n_offers) = (asked.len(), offers.len());
        let cpu = live.spec.needs.cpu_milli;
        let known = self.experience.entry(from).or_default();
        known.refused_until_ms = known.refused_until_ms.max(until_ms);
        known.inflight_cpu_milli = known.inflight_cpu_milli.saturating_sub(cpu);
        if n_asked == n_offers {
            self.choose(key, now_ms);
        }
    }

    /// Takes the best offer, or gives the task back to planning when there is none.
    fn choose(&mut self, key: Key, now_ms: u64) {
        let strategy = self.strategy(key.0);
        let Some(live) = self.live.get(&key) else {
            return;
        };
        let Stage::Asking { offers, .. } = &live.stage else {
            return;
        };
        let order: Vec<NodeId> = self
            .plans
            .get(&key)
            .map(|p| p.ranked.iter().map(|s| s.node).collect())
            .unwrap_or_default();
        let rank = |node: &NodeId| order.iter().position(|n| n == node).unwrap_or(usize::MAX);
        let best = match strategy {
            Strategy::Cost => offers.iter().min_by_key(|o| (o.estimate, rank(&o.provider))),
            Strategy::Sovereignty | Strategy::Performance | Strategy::Weights { .. } => {
                offers.iter().min_by_key(|o| rank(&o.provider))
            }
        };
        let Some(best) = best.cloned() else {
            self.remove(key);
            self.is_dirty = true;
            return;
        };
        let others: Vec<(NodeId, RequestId)> = match &live.stage {
            Stage::Asking { asked, .. } => asked
                .iter()
                .filter(|(id, _)| **id != best.request)
                .map(|(id, node)| (*node, *id))
                .collect(),
            _ => Vec::new(),
        };
        let cpu = live.spec.needs.cpu_milli;
        for (node, request) in others {
            self.questions.remove(&request);
            self.release_cpu(node, cpu);
            self.send(node, Message::Decline { request });
        }
        self.update(key, now_ms + AGREE_TIMEOUT_MS, |stage| {
            *stage = Stage::Accepted { node: best.provider, request: best.request };
        });
        self.send(best.provider, Message::Accept { request: best.request });
    }

    /// Whether the provider's signed agreement is the one this node took the offer for. If so the attempt is recorded as
    /// started, and the caller acknowledges the agreement in the same durable step; if not, the caller refuses it.
    pub fn check_agreement(&mut self, proposal: &Proposal, now_ms: u64) -> bool {
        let key = (proposal.attempt.run, proposal.attempt.task);
        let Some(live) = self.live.get(&key) else {
            return false;
        };
        let Stage::Accepted { node, request } = live.stage else {
            return false;
        };
        let fits = node == proposal.provider
            && live.number == proposal.attempt.number
            && live.digest == proposal.spec;
        if !fits {
            return false;
        }
        self.questions.remove(&request);
        let spec = live.spec.clone();
        self.negotiating -= 1;
        self.update(key, now_ms + LEASE_MS, |stage| *stage = Stage::Running { node });
        self.record(
            key.0,
            EventBody::AttemptStarted {
                task: key.1,
                number: proposal.attempt.number,
                node,
                org: proposal.org,
                lane: proposal.lane,
            },
            now_ms,
        );
        self.grant(node, proposal.attempt, &spec);
        true
    }

    fn grant(&mut self, peer: NodeId, attempt: AttemptId, spec: &TaskSpec) {
        if peer != self.me {
            let blobs = spec.blobs().into_iter().map(|(digest, _)| digest).collect();
            self.actions.push(Action::Grant { peer, attempt, blobs });
        }
    }

    /// The provider is alive and works on these attempts. Attempts that are not current are cancelled there.
    pub fn handle_status(&mut self, from: NodeId, attempts: &[(AttemptId, Phase)], now_ms: u64) {
        for (attempt, phase) in attempts.iter().take(ATTEMPTS_PER_MESSAGE) {
            let key = (attempt.run, attempt.task);
            match self.live.get(&key) {
                Some(Live { number, stage: Stage::Running { node }, .. })
                    if *number == attempt.number && *node == from =>
                {
                    self.update(key, now_ms + LEASE_MS, |_| {});
                    if *phase == Phase::Preparing {
                        self.preparing.insert(key);
                    } else {
                        self.preparing.remove(&key);
                    }
                    if self.runs.get(&key.0).is_some_and(Run::is_winding_down) {
                        self.send(from, Message::Cancel { attempt: *attempt });
                    }
                }
                // The Ack may still be on its way to a provider that already reports.
                Some(Live {
                    stage: Stage::Accepted { node, .. } | Stage::Collecting { node, .. },
                    ..
                }) if *node == from => {}
                _ if *phase != Phase::Ended => {
                    self.send(from, Message::Cancel { attempt: *attempt })
                }
                _ => {}
            }
        }
    }

    /// The provider says how the attempt ended.
    pub fn handle_finished(
        &mut self,
        from: NodeId,
        attempt: AttemptId,
        outcome: Outcome,
        now_ms: u64,
        entropy: &mut dyn FnMut() -> u64,
    ) {
        let key = (attempt.run, attempt.task);
        let current = self.live.get(&key).filter(|live| live.number == attempt.number);
        match current.map(|live| &live.stage) {
            Some(Stage::Running { node }) if *node == from => {}
            // Still fetching: the provider repeats itself.
            Some(Stage::Collecting { node, .. }) if *node == from => return,
            _ => return self.send(from, Message::Collected { attempt }),
        }
        self.experience.entry(from).or_default().refused_until_ms = 0;
        let is_winding_down = self.runs.get(&key.0).is_some_and(Run::is_winding_down);
        match outcome {
            Outcome::Done { outputs } if !is_winding_down => {
                self.update(key, now_ms + COLLECT_MS, |stage| {
                    *stage = Stage::Collecting { node: from, outputs: outputs.clone() };
                });
                self.actions.push(Action::Collect { attempt, from, outputs });
            }
            Outcome::Done { .. } => self.end_attempt(key, cancelled(), now_ms, entropy),
            Outcome::Failed(failure) => self.end_attempt(key, failure, now_ms, entropy),
        }
    }

    /// The outputs are here, or could not be had.
    pub fn handle_collected(
        &mut self,
        attempt: AttemptId,
        result: Result<(), Failure>,
        now_ms: u64,
        entropy: &mut dyn FnMut() -> u64,
    ) {
        let key = (attempt.run, attempt.task);
        let Some(live) = self.live.get(&key).filter(|live| live.number == attempt.number) else {
            return;
        };
        let Stage::Collecting { node, outputs, .. } = &live.stage else {
            return;
        };
        let (node, outputs) = (*node, outputs.clone());
        match result {
            Ok(()) => {
                let task = key.1;
                self.record(
                    key.0,
                    EventBody::TaskCommitted { task, number: attempt.number, outputs },
                    now_ms,
                );
                self.let_go(key, node);
            }
            Err(failure) => self.end_attempt(key, failure, now_ms, entropy),
        }
    }

    /// Records a failure, decides about the next try and lets the provider go.
    fn end_attempt(
        &mut self,
        key: Key,
        failure: Failure,
        now_ms: u64,
        entropy: &mut dyn FnMut() -> u64,
    ) {
        let Some(live) = self.live.get(&key) else {
            return;
        };
        let number = live.number;
        let node = match &live.stage {
            Stage::Running { node }
            | Stage::Collecting { node, .. }
            | Stage::Accepted { node, .. } => *node,
            Stage::Asking { .. } => return,
        };
        if failure.class.is_provider_fault() {
            let known = self.experience.entry(node).or_default();
            known.faults = known.faults.saturating_add(1);
            known.refused_until_ms = now_ms + SILENT_MS;
        }
        let retry_at_ms = self.retry_at(key, &failure, now_ms, entropy);
        let task = key.1;
        let detail = format!(
            "{}[{}]: {} ({})",
            self.runs.get(&key.0).map_or("?", |r| r.step_id(task.step)),
            task.index,
            failure.detail,
            failure.class.as_str()
        );
        let is_final = retry_at_ms.is_none();
        self.record(key.0, EventBody::AttemptEnded { task, number, failure, retry_at_ms }, now_ms);
        self.let_go(key, node);
        if is_final && !self.runs.get(&key.0).is_some_and(Run::is_winding_down) {
            self.record(key.0, EventBody::Failing { task: Some(task), detail }, now_ms);
            self.wind_down(key.0, now_ms);
        }
    }

    fn retry_at(
        &self,
        key: Key,
        failure: &Failure,
        now_ms: u64,
        entropy: &mut dyn FnMut() -> u64,
    ) -> Option<u64> {
        let run = self.runs.get(&key.0)?;
        if run.is_winding_down() || failure.class == FailureClass::Cancelled {
            return None;
        }
        let task = run.task(key.1)?;
        let retry = &run.workflow().steps.get(key.1.step as usize)?.retry;
        if failure.class.is_provider_fault() {
            return (task.provider_faults + 1 < PROVIDER_FAULTS_MAX).then_some(now_ms);
        }
        let failed = task.own_faults() + 1;
        (retry.on.contains(&failure.class) && failed < retry.attempts).then(|| {
            now_ms + retry.backoff.delay_ms(failed, u32::try_from(entropy() >> 32).unwrap_or(0))
        })
    }

    /// Forgets a live attempt that started, and tells its provider that nothing more is wanted.
    fn let_go(&mut self, key: Key, node: NodeId) {
        let Some(live) = self.remove(key) else { return };
        let attempt = AttemptId { run: key.0, task: key.1, number: live.number };
        self.release_cpu(node, live.spec.needs.cpu_milli);
        self.send(node, Message::Collected { attempt });
        if node != self.me {
            self.actions.push(Action::Revoke { peer: node, attempt });
        }
        self.is_dirty = true;
    }

    /// Gives up a negotiation before any agreement.
    fn withdraw(&mut self, key: Key, _now_ms: u64) {
        let Some(live) = self.remove(key) else { return };
        let cpu = live.spec.needs.cpu_milli;
        let asked = match live.stage {
            Stage::Asking { asked, .. } => asked.into_iter().collect(),
            Stage::Accepted { node, request } => vec![(request, node)],
            Stage::Running { .. } | Stage::Collecting { .. } => Vec::new(),
        };
        for (request, node) in asked {
            self.questions.remove(&request);
            self.release_cpu(node, cpu);
            self.send(node, Message::Decline { request });
        }
        self.is_dirty = true;
    }

    fn release_cpu(&mut self, node: NodeId, cpu_milli: u64) {
        let known = self.experience.entry(node).or_default();
        known.inflight_cpu_milli = known.inflight_cpu_milli.saturating_sub(cpu_milli);
    }

    /// Does what is due: follows up on what the runs' states imply, starts negotiations, enforces deadlines, renews leases.
    /// `candidates` is asked for only when a task has to be placed.
    pub fn poll(
        &mut self,
        now_ms: u64,
        candidates: &mut dyn FnMut() -> Vec<Candidate>,
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
                self.start_tasks(id, now_ms, candidates, &mut asked, entropy);
            }
        }
    }

    /// Records what follows from a run's state alone.
    fn follow(&mut self, id: RunId, now_ms: u64) {
        while let Some(body) = self.runs.get(&id).and_then(Run::next) {
            let is_end = matches!(body, EventBody::Finished { .. });
            let is_trouble = matches!(body, EventBody::Failing { .. });
            self.record(id, body, now_ms);
            if is_trouble {
                self.wind_down(id, now_ms);
            }
            if is_end {
                self.active.remove(&id);
                let first = (id, TaskId { step: 0, index: 0 });
                while let Some((&key, _)) =
                    self.plans.range(first..).next().filter(|(key, _)| key.0 == id)
                {
                    self.plans.remove(&key);
                }
                return;
            }
        }
    }

    fn start_tasks(
        &mut self,
        id: RunId,
        now_ms: u64,
        candidates: &mut dyn FnMut() -> Vec<Candidate>,
        asked: &mut Option<Vec<Candidate>>,
        entropy: &mut dyn FnMut() -> u64,
    ) {
        let mut room: BTreeMap<u32, u32> = BTreeMap::new();
        let mut cursor = None;
        let mut barren = 0;
        while self.negotiating < NEGOTIATING_MAX && barren < BARREN_MAX {
            let Some(run) = self.runs.get(&id).filter(|r| !r.is_winding_down()) else { return };
            let Some((at_ms, task)) = run.startable_after(cursor, now_ms) else { break };
            cursor = Some((at_ms, task));
            // Tasks of one step need the same, so the first that finds no place stands for the rest.
            let past_step = Some((at_ms, TaskId { step: task.step, index: u32::MAX }));
            let left = room.entry(task.step).or_insert_with(|| run.parallel_room(task.step));
            if *left == 0 {
                cursor = past_step;
                continue;
            }
            if self.live.contains_key(&(id, task)) {
                *left -= 1;
                continue;
            }
            let needs_cpu = run.workflow().steps[task.step as usize].needs.cpu_milli;
            let pool = asked.get_or_insert_with(&mut *candidates);
            let may_fit =
                pool.iter().any(|c| self.has_room(c.node, c.cpu_milli, needs_cpu, now_ms));
            if may_fit && self.ask(id, task, now_ms, pool, entropy) {
                *left -= 1;
            } else {
                cursor = past_step;
                barren += 1;
                self.replan_at_ms = self.replan_at_ms.min(now_ms + REPLAN_MS);
            }
        }
        let next_start = self.runs.get(&id).and_then(Run::next_start_ms).filter(|at| *at > now_ms);
        if let Some(at_ms) = next_start {
            self.replan_at_ms = self.replan_at_ms.min(at_ms);
        }
    }

    /// Whether a node can take one more task as far as this coordinator knows: it is not full of its tasks, and did not just
    /// say no. Asking it all the same would only be refused.
    fn has_room(&self, node: NodeId, cpu_milli: u64, needs_cpu_milli: u64, now_ms: u64) -> bool {
        self.experience.get(&node).is_none_or(|known| {
            known.refused_until_ms <= now_ms
                && known.inflight_cpu_milli.saturating_add(needs_cpu_milli) <= cpu_milli
        })
    }

    /// Asks the best candidates for quotes. False when there is none.
    fn ask(
        &mut self,
        id: RunId,
        task: TaskId,
        now_ms: u64,
        pool: &mut [Candidate],
        entropy: &mut dyn FnMut() -> u64,
    ) -> bool {
        let key = (id, task);
        let Some(run) = self.runs.get(&id) else { return false };
        let Materialised { spec, blobs } = match run.materialise(task) {
            Ok(made) => made,
            Err(e) => {
                let detail = format!("{}[{}]: {e}", run.step_id(task.step), task.index);
                self.record(id, EventBody::Failing { task: Some(task), detail }, now_ms);
                self.wind_down(id, now_ms);
                return true;
            }
        };
        let number = run.next_number(task);
        let best = self.place(key, &spec, pool, now_ms);
        if best.is_empty() {
            return false;
        }
        if !blobs.is_empty() {
            self.actions.push(Action::Keep { blobs: blobs.into_values().collect() });
        }
        let attempt = AttemptId { run: id, task, number };
        let max_price = self.rule(key).max_price;
        let mut asked = BTreeMap::new();
        for node in best {
            let mut request = [0; 16];
            request[..8].copy_from_slice(&entropy().to_le_bytes());
            request[8..].copy_from_slice(&entropy().to_le_bytes());
            asked.insert(request, node);
            self.questions.insert(request, key);
            self.experience.entry(node).or_default().inflight_cpu_milli += spec.needs.cpu_milli;
            let spec = Box::new(spec.clone());
            self.send(node, Message::QuoteRequest { request, attempt, spec, max_price });
        }
        let stage = Stage::Asking { asked, offers: Vec::new() };
        self.negotiating += 1;
        let digest = spec.digest();
        self.put(key, Live { number, spec, digest, deadline_ms: now_ms + QUOTE_TIMEOUT_MS, stage });
        true
    }

    /// The few nodes to ask, best first; the whole plan is kept for `run explain`.
    fn place(
        &mut self,
        key: Key,
        spec: &TaskSpec,
        pool: &mut [Candidate],
        now_ms: u64,
    ) -> Vec<NodeId> {
        let faulty: BTreeSet<NodeId> = self
            .runs
            .get(&key.0)
            .and_then(|run| run.task(key.1))
            .into_iter()
            .flat_map(|task| &task.attempts)
            .filter(|a| a.failure.as_ref().is_some_and(|(_, f)| f.class.is_provider_fault()))
            .map(|a| a.node)
            .collect();
        let mut request = Request {
            runtime: spec.runtime,
            needs: spec.needs.clone(),
            inputs: spec.blobs(),
            estimate_ms: ESTIMATE_MS,
            strategy: self.strategy(key.0),
            rule: self.rule(key),
            exclude: faulty,
        };
        for candidate in pool.iter_mut() {
            if let Some(known) = self.experience.get(&candidate.node) {
                candidate.inflight_cpu_milli = known.inflight_cpu_milli;
                candidate.refused_until_ms = known.refused_until_ms;
                candidate.failures = known.faults;
            }
        }
        let mut found = plan(pool, &request, now_ms);
        if found.ranked.is_empty() && !request.exclude.is_empty() {
            request.exclude.clear();
            found = plan(pool, &request, now_ms);
        }
        let n_asked = match request.strategy {
            Strategy::Cost | Strategy::Weights { .. } => 3,
            Strategy::Sovereignty | Strategy::Performance => 1,
        };
        let size_of =
            |node: NodeId| pool.iter().find(|c| c.node == node).map_or(0, |c| c.cpu_milli);
        let best = found
            .ranked
            .iter()
            .map(|scored| scored.node)
            .filter(|n| self.has_room(*n, size_of(*n), spec.needs.cpu_milli, now_ms))
            .take(n_asked)
            .collect();
        self.plans.insert(key, found);
        best
    }

    fn rule(&self, (run, task): Key) -> Rule {
        let step = self.runs.get(&run).map_or("", |r| r.step_id(task.step));
        self.bindings.get(&run).map(|b| b.rule(step)).unwrap_or_default()
    }

    fn strategy(&self, run: RunId) -> Strategy {
        self.runs
            .get(&run)
            .and_then(|r| r.submission().strategy)
            .or_else(|| self.bindings.get(&run).and_then(Binding::strategy))
            .unwrap_or_default()
    }

    fn enforce_deadlines(&mut self, now_ms: u64, entropy: &mut dyn FnMut() -> u64) {
        while let Some(&(at, key)) = self.deadlines.first() {
            if at > now_ms {
                return;
            }
            let Some(live) = self.live.get(&key) else {
                self.deadlines.pop_first();
                continue;
            };
            match live.stage.clone() {
                Stage::Asking { asked, offers, .. } => {
                    let silent: Vec<(RequestId, NodeId)> = asked
                        .into_iter()
                        .filter(|(id, _)| offers.iter().all(|o| o.request != *id))
                        .collect();
                    if silent.is_empty() {
                        self.choose(key, now_ms);
                    }
                    for (request, node) in silent {
                        self.send(node, Message::Decline { request });
                        self.handle_no(request, node, now_ms + SILENT_MS, now_ms);
                    }
                }
                Stage::Accepted { node, .. } => {
                    self.experience.entry(node).or_default().refused_until_ms = now_ms + SILENT_MS;
                    self.withdraw(key, now_ms);
                }
                Stage::Running { node } => {
                    let attempt = AttemptId { run: key.0, task: key.1, number: live.number };
                    self.send(node, Message::Cancel { attempt });
                    let detail = format!("no word from {} for {} s", node.short(), LEASE_MS / 1000);
                    let failure =
                        Failure { class: FailureClass::LostLease, exit_code: None, detail };
                    self.end_attempt(key, failure, now_ms, entropy);
                }
                Stage::Collecting { node, .. } => {
                    let detail = format!("the outputs did not arrive from {}", node.short());
                    let failure = Failure { class: FailureClass::Infra, exit_code: None, detail };
                    self.end_attempt(key, failure, now_ms, entropy);
                }
            }
        }
    }

    fn renew(&mut self, now_ms: u64) {
        self.renew_at_ms = now_ms + RENEW_MS;
        let mut wanted: BTreeMap<NodeId, Vec<AttemptId>> = BTreeMap::new();
        for (key, live) in &self.live {
            if let Stage::Running { node } | Stage::Collecting { node, .. } = &live.stage {
                let attempt = AttemptId { run: key.0, task: key.1, number: live.number };
                wanted.entry(*node).or_default().push(attempt);
            }
        }
        for (node, attempts) in wanted {
            for chunk in attempts.chunks(ATTEMPTS_PER_MESSAGE) {
                self.send(node, Message::Renew { attempts: chunk.to_vec() });
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

    /// The program that the task's node makes ready before it can run it, by its last word.
    #[must_use]
    pub fn preparing(&self, run: RunId, task: TaskId) -> Option<&str> {
        let key = (run, task);
        let live =
            self.live.get(&key).filter(|live| matches!(live.stage, Stage::Running { .. }))?;
        self.preparing.contains(&key).then_some(live.spec.module.name.as_str())
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
}

fn cancelled() -> Failure {
    Failure {
        class: FailureClass::Cancelled,
        exit_code: None,
        detail: "the run was stopped".to_owned(),
    }
}
