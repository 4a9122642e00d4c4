//! The provider's side: quotes, reserves, runs and reports attempts for consumers (this node among them).
//!
//! Per attempt: offered (a short lease) → proposed (agreement signed by us) → fetching → running → ended → forgotten.
//! From `fetching` on the attempt is durable; a restart ends it as the provider's fault, which is not billed. One that runs may
//! be suspended and resumed, see `suspend`.
//!
//! Invariants: nothing is fetched or started before the consumer's signature on the agreement; reserved capacity is never
//! above what the node has; an ended attempt's outcome never changes and is repeated until collected or too old.

use std::collections::{BTreeMap, BTreeSet};

use catalog::NodeId;

use crate::capacity::{Capacity, ReservationId};
use crate::device;
use crate::negotiate::{ATTEMPTS_PER_MESSAGE, Message, Outcome, Phase, RequestId, Wish};
use crate::service::Health;
use crate::ssh;
use crate::task::{AttemptId, Failure, FailureClass, Program, RuntimeKind, TaskSpec};

mod action;
mod lapses;
mod offers;
mod suspend;

use offers::Offer;

pub use action::{Action, LaneEnd, No};
pub use lapses::{BARRED_MS, FORGIVEN_MS, LAPSES_MAX};
pub use suspend::{NoTurn, SUSPENDED_MAX, SUSPENDED_MS_MAX};

/// How long a signed agreement waits for the consumer's signature.
pub const PROPOSAL_LEASE_MS: u64 = 15_000;
/// How often consumers hear about their attempts.
pub const STATUS_MS: u64 = 3_000;
/// How soon consumers hear of a change in a service's health. Changes within this time are one report.
pub const HEALTH_MS: u64 = 500;
/// A consumer silent for this long has its running attempts stopped.
pub const CONSUMER_SILENT_MS: u64 = 120_000;
/// How long an outcome that nobody collects is kept.
pub const UNCOLLECTED_MS: u64 = 24 * 3_600_000;
/// Offers held at once; at the bound new questions are refused as full.
pub const OFFERS_MAX: usize = 1_024;
/// Longest pause between two repeats of an outcome.
const REPEAT_MAX_MS: u64 = 60_000;
/// When a full node suggests to ask again.
pub const FULL_RETRY_MS: u64 = 500;

/// What kind of tasks a node can run at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Its machine architecture, such as `x86_64`.
    pub arch: String,
    /// What executes tasks on it.
    pub runtimes: BTreeSet<RuntimeKind>,
    /// Those of them that also run services: whose ports it can reach and probe.
    pub services: BTreeSet<RuntimeKind>,
    /// Whether tasks that ask for it reach the network.
    pub network: bool,
}

impl Abilities {
    fn suit(&self, spec: &TaskSpec) -> bool {
        let has_arch = spec.needs.arch.as_ref().is_none_or(|arch| *arch == self.arch);
        let runtime = spec.program.runtime();
        let has_network = !spec.needs.network || self.network;
        let is_able = spec
            .service
            .as_ref()
            .is_none_or(|service| self.services.contains(&runtime) && service.check().is_ok());
        let has_good_keys = match &spec.program {
            Program::Vm { ssh_keys, .. } => {
                ssh_keys.len() <= ssh::KEYS_MAX
                    && ssh_keys.iter().all(|key| ssh::check(key).is_ok())
            }
            _ => true,
        };
        // Whether there are any of that name, and free, the capacity says.
        let devices = &spec.needs.devices;
        let has_good_devices =
            devices.is_empty() || runtime == RuntimeKind::Container && device::is_sound(devices);
        // Receipts tell by its cores for how long a task has run.
        let is_good = has_good_keys && has_good_devices && spec.needs.cpu_milli > 0;
        has_arch && has_network && is_able && is_good && self.runtimes.contains(&runtime)
    }
}

/// The durable state of an attempt under agreement.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// The attempt.
    pub attempt: AttemptId,
    /// For whom.
    pub consumer: NodeId,
    /// The task.
    pub spec: TaskSpec,
    /// How and when (Unix ms) it ended, if it did.
    pub ended: Option<(u64, Outcome)>,
}

#[derive(Clone, Debug)]
struct Job {
    record: Record,
    reservation: Option<ReservationId>,
    phase: Phase,
    /// Of a service, what the last probes found.
    health: Option<Health>,
    is_stopping: Option<FailureClass>,
    /// What its runtime is about to do at the consumer's wish.
    turning: Option<Wish>,
    /// Since when it is suspended, if it is (Unix ms).
    suspended_ms: Option<u64>,
    heard_ms: u64,
    repeat_at_ms: u64,
    repeats: u32,
}

/// What a consumer is told of one of its attempts.
type Report = (AttemptId, Phase, Option<Health>);

/// The provider's side of every attempt on this node.
#[derive(Debug)]
pub struct Provider {
    me: NodeId,
    abilities: Abilities,
    capacity: Capacity,
    offers: BTreeMap<RequestId, Offer>,
    proposed: BTreeMap<AttemptId, RequestId>,
    jobs: BTreeMap<AttemptId, Job>,
    /// Of other nodes; this node may ask itself as it likes.
    lapses: lapses::Lapses,
    status_at_ms: u64,
    actions: Vec<Action>,
}

impl Provider {
    /// With nothing running.
    #[must_use]
    pub const fn new(me: NodeId, abilities: Abilities, capacity: Capacity) -> Self {
        Self {
            me,
            abilities,
            capacity,
            offers: BTreeMap::new(),
            proposed: BTreeMap::new(),
            jobs: BTreeMap::new(),
            lapses: lapses::Lapses::new(),
            status_at_ms: 0,
            actions: Vec::new(),
        }
    }

    /// Takes an attempt back from disk after a restart. One that had not ended did not survive: it ends as this node's
    /// fault.
    pub fn restore(&mut self, record: Record, now_ms: u64) {
        let attempt = record.attempt;
        let ended = record.ended.clone();
        let job = Job {
            record,
            reservation: None,
            phase: Phase::Running,
            health: None,
            is_stopping: None,
            turning: None,
            suspended_ms: None,
            heard_ms: now_ms,
            repeat_at_ms: now_ms,
            repeats: 0,
        };
        self.jobs.insert(attempt, job);
        match ended {
            Some((_, outcome)) => self.announce(attempt, &outcome),
            None => {
                self.handle_ended(attempt, Outcome::Failed(infra("the provider restarted")), now_ms)
            }
        }
    }

    /// The inputs are here, or could not be had.
    pub fn handle_fetched(&mut self, attempt: AttemptId, result: Result<(), Failure>, now_ms: u64) {
        let Some(job) = self.jobs.get_mut(&attempt).filter(|j| j.phase == Phase::Fetching) else {
            return;
        };
        if let Some(class) = job.is_stopping {
            return self.handle_ended(attempt, Outcome::Failed(stopped(class)), now_ms);
        }
        match result {
            Ok(()) => {
                job.phase = Phase::Running;
                let spec = Box::new(job.record.spec.clone());
                let devices = job.reservation.map(|id| self.capacity.devices_of(id));
                let devices = devices.unwrap_or_default();
                self.actions.push(Action::Start { attempt, spec, devices });
            }
            Err(failure) => self.handle_ended(attempt, Outcome::Failed(failure), now_ms),
        }
    }

    /// The runtime makes the task's program ready, or is done with that. The consumer hears of it with the next status.
    pub fn handle_preparing(&mut self, attempt: AttemptId, is_preparing: bool) {
        if let Some(job) = self.jobs.get_mut(&attempt)
            && matches!(job.phase, Phase::Running | Phase::Preparing)
        {
            job.phase = if is_preparing { Phase::Preparing } else { Phase::Running };
        }
    }

    /// A probe of a service changed what is known of its health, or its program runs and there is nothing to probe. The
    /// consumer hears of a change within [`HEALTH_MS`].
    pub fn handle_health(&mut self, attempt: AttemptId, health: Health, now_ms: u64) {
        if let Some(job) = self.jobs.get_mut(&attempt)
            && job.record.spec.service.is_some()
            && matches!(job.phase, Phase::Running | Phase::Preparing)
            && job.health != Some(health)
        {
            job.health = Some(health);
            self.status_at_ms = self.status_at_ms.min(now_ms.saturating_add(HEALTH_MS));
        }
    }

    /// The runtime ended the task and its outputs, if any, are in the blob store.
    pub fn handle_ended(&mut self, attempt: AttemptId, outcome: Outcome, now_ms: u64) {
        let Some(job) = self.jobs.get_mut(&attempt).filter(|j| j.phase != Phase::Ended) else {
            return;
        };
        let outcome = match (outcome, job.is_stopping) {
            (Outcome::Failed(failure), Some(class)) if failure.class == FailureClass::Cancelled => {
                Outcome::Failed(stopped(class))
            }
            (outcome, _) => outcome,
        };
        job.phase = Phase::Ended;
        job.record.ended = Some((now_ms, outcome.clone()));
        job.repeat_at_ms = now_ms + STATUS_MS;
        let consumer = job.record.consumer;
        if let Some(reservation) = job.reservation.take() {
            self.capacity.release(reservation);
        }
        let record = Box::new(job.record.clone());
        self.actions.push(Action::Persist { record });
        let end = match &outcome {
            Outcome::Done { .. } => LaneEnd::Completed,
            Outcome::Failed(f) if f.class.is_provider_fault() => LaneEnd::ProviderFault,
            Outcome::Failed(f) if f.class == FailureClass::Cancelled => LaneEnd::Cancelled,
            Outcome::Failed(_) => LaneEnd::Failed,
        };
        self.actions.push(Action::Settle { consumer, attempt, end });
        self.announce(attempt, &outcome);
    }

    fn announce(&mut self, attempt: AttemptId, outcome: &Outcome) {
        let Some(job) = self.jobs.get_mut(&attempt) else {
            return;
        };
        job.phase = Phase::Ended;
        let consumer = job.record.consumer;
        if let Outcome::Done { outputs } = outcome {
            let mut blobs = Vec::new();
            outputs.values().for_each(|value| value.blobs(&mut blobs));
            let blobs = blobs.into_iter().map(|(digest, _)| digest).collect();
            self.actions.push(Action::Grant { peer: consumer, attempt, blobs });
        }
        let message = Message::Finished { attempt, outcome: outcome.clone() };
        self.actions.push(Action::Send { to: consumer, message });
    }

    /// The consumer has what it wants.
    pub fn handle_collected(&mut self, from: NodeId, attempt: AttemptId) {
        let Some(job) = self.jobs.get(&attempt).filter(|j| j.record.consumer == from) else {
            return;
        };
        if job.phase == Phase::Ended {
            self.forget(attempt);
        } else {
            // The consumer gave this try up (it counts as lost there) while it still runs here.
            self.stop(attempt, FailureClass::Cancelled);
        }
    }

    fn forget(&mut self, attempt: AttemptId) {
        if let Some(job) = self.jobs.remove(&attempt) {
            self.actions.push(Action::Erase { attempt });
            self.actions.push(Action::Discard { peer: job.record.consumer, attempt });
        }
    }

    /// The consumer wants it stopped.
    pub fn handle_cancel(&mut self, from: NodeId, attempt: AttemptId) {
        if self
            .proposed
            .get(&attempt)
            .and_then(|r| self.offers.get(r))
            .is_some_and(|o| o.consumer == from)
        {
            return self.handle_disagreed(attempt);
        }
        if self.jobs.get(&attempt).is_some_and(|j| j.record.consumer == from) {
            self.stop(attempt, FailureClass::Cancelled);
        }
    }

    /// Stops an attempt for a reason of this node, such as receipts that nobody acknowledges.
    pub fn stop(&mut self, attempt: AttemptId, why: FailureClass) {
        let Some(job) = self.jobs.get_mut(&attempt) else {
            return;
        };
        if job.phase != Phase::Ended && job.is_stopping.is_none() {
            job.is_stopping = Some(why);
            self.actions.push(Action::Stop { attempt });
        }
    }

    /// The consumer still wants these. Those this node does not know are answered, so that it can try again at once.
    pub fn handle_renew(&mut self, from: NodeId, attempts: &[AttemptId], now_ms: u64) {
        for attempt in attempts.iter().take(ATTEMPTS_PER_MESSAGE) {
            match self.jobs.get_mut(attempt) {
                Some(job) if job.record.consumer == from => job.heard_ms = now_ms,
                Some(_) => {}
                None if self.proposed.contains_key(attempt) => {}
                None => {
                    let outcome = Outcome::Failed(infra("the provider does not know this attempt"));
                    let message = Message::Finished { attempt: *attempt, outcome };
                    self.actions.push(Action::Send { to: from, message });
                }
            }
        }
    }

    /// Does what is due: reports, repeats, expiries.
    pub fn poll(&mut self, now_ms: u64) {
        self.expire(now_ms);
        if now_ms < self.status_at_ms {
            return;
        }
        self.status_at_ms = now_ms + STATUS_MS;
        let mut reports: BTreeMap<NodeId, Vec<Report>> = BTreeMap::new();
        let (mut silent, mut overdue) = (Vec::new(), Vec::new());
        let mut repeat = BTreeSet::new();
        let mut stale = Vec::new();
        for (attempt, job) in &mut self.jobs {
            let is_own = job.record.consumer == self.me;
            match &job.record.ended {
                Some((at, _)) if now_ms.saturating_sub(*at) > UNCOLLECTED_MS => {
                    stale.push(*attempt)
                }
                Some(_) if now_ms >= job.repeat_at_ms => {
                    job.repeats = job.repeats.saturating_add(1);
                    let pause =
                        STATUS_MS.saturating_mul(1 << job.repeats.min(5)).min(REPEAT_MAX_MS);
                    job.repeat_at_ms = now_ms + pause;
                    repeat.insert(*attempt);
                }
                Some(_) => {}
                None => {
                    let report = (*attempt, job.phase, job.health);
                    reports.entry(job.record.consumer).or_default().push(report);
                    if !is_own && now_ms.saturating_sub(job.heard_ms) > CONSUMER_SILENT_MS {
                        silent.push(*attempt);
                    }
                    if job.is_overdue(now_ms) {
                        overdue.push(*attempt);
                    }
                }
            }
        }
        self.report(reports);
        for attempt in silent {
            self.stop(attempt, FailureClass::Cancelled);
        }
        for attempt in overdue {
            self.stop(attempt, FailureClass::Timeout);
        }
        for attempt in stale {
            self.forget(attempt);
        }
        for attempt in repeat {
            if let Some((_, outcome)) = self.jobs.get(&attempt).and_then(|j| j.record.ended.clone())
            {
                self.announce(attempt, &outcome);
            }
        }
    }

    /// Tells consumers how their attempts are.
    fn report(&mut self, reports: BTreeMap<NodeId, Vec<Report>>) {
        for (to, attempts) in reports {
            for chunk in attempts.chunks(ATTEMPTS_PER_MESSAGE) {
                let health = chunk.iter().filter(|(_, phase, _)| *phase == Phase::Running);
                let health = health.filter_map(|(a, _, health)| health.map(|health| (*a, health)));
                let message = Message::Status {
                    attempts: chunk.iter().map(|(attempt, phase, _)| (*attempt, *phase)).collect(),
                    health: health.collect(),
                };
                self.actions.push(Action::Send { to, message });
            }
        }
    }

    /// A consumer is reachable again: outcomes it has not collected are repeated at once.
    pub fn handle_connected(&mut self, peer: NodeId) {
        let ended: Vec<(AttemptId, Outcome)> = self
            .jobs
            .iter()
            .filter(|(_, j)| j.record.consumer == peer)
            .filter_map(|(a, j)| j.record.ended.as_ref().map(|(_, outcome)| (*a, outcome.clone())))
            .collect();
        for (attempt, outcome) in ended {
            self.announce(attempt, &outcome);
        }
    }

    fn expire(&mut self, now_ms: u64) {
        for id in self.capacity.expire(now_ms) {
            if let Some(offer) = self.offers.get(id.as_bytes()).filter(|o| o.consumer != self.me) {
                self.lapses.note(offer.consumer, now_ms);
            }
            self.drop_offer(*id.as_bytes());
        }
    }

    /// When [`Self::poll`] has to be called next, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let status = (!self.jobs.is_empty()).then_some(self.status_at_ms);
        [status, self.capacity.next_expiry()].into_iter().flatten().min()
    }

    /// What is to be done, in order.
    pub fn drain_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// What is free and what there is.
    #[must_use]
    pub const fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// Attempts under agreement that have not ended, with their consumers.
    pub fn active(&self) -> impl Iterator<Item = (AttemptId, NodeId)> + '_ {
        self.jobs
            .iter()
            .filter(|(_, j)| j.phase != Phase::Ended)
            .map(|(a, j)| (*a, j.record.consumer))
    }

    /// Every attempt that is known here: from its agreement until its outputs were collected or given up.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.jobs.values().map(|j| &j.record)
    }

    /// The attempt's task and consumer, while it is known.
    #[must_use]
    pub fn record(&self, attempt: AttemptId) -> Option<&Record> {
        self.jobs.get(&attempt).map(|j| &j.record)
    }
}

fn infra(detail: &str) -> Failure {
    Failure { class: FailureClass::Infra, exit_code: None, detail: detail.to_owned() }
}

fn stopped(class: FailureClass) -> Failure {
    let detail = match class {
        FailureClass::Cancelled => "stopped at the consumer's wish",
        FailureClass::Spent => {
            "it costs as much as its agreement allows: the provider's price plan says so as its credit_limit"
        }
        FailureClass::Timeout => "it was suspended for longer than the 7 days that a node keeps it",
        _ => "stopped by the provider",
    };
    Failure { class, exit_code: None, detail: detail.to_owned() }
}
