//! The provider's side: quotes, reserves, runs and reports attempts for consumers (this node among them).
//!
//! Per attempt: offered (a short lease) → proposed (agreement signed by us) → fetching → running → ended → forgotten.
//! From `fetching` on the attempt is durable; a restart ends it as the provider's fault, which is not billed. One that runs may
//! be suspended and resumed, see `suspend`.
//!
//! Invariants: nothing is fetched or started before the consumer's signature on the agreement; reserved capacity is never
//! above what the node has; an ended attempt's outcome never changes and is repeated until collected or too old.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{Digest, NodeId};

use crate::capacity::{Capacity, QUOTE_LEASE_MS, ReservationId};
use crate::device;
use crate::negotiate::{ATTEMPTS_PER_MESSAGE, Message, Outcome, Phase, RequestId, Wish};
use crate::service::Health;
use crate::ssh;
use crate::task::{AttemptId, Failure, FailureClass, Program, RuntimeKind, SPEC_LEN_MAX, TaskSpec};

mod lapses;
mod suspend;

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

/// Why a question is refused; the caller signs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum No {
    /// Everything is reserved; ask again after this many milliseconds.
    Full {
        /// Milliseconds.
        retry_after_ms: u64,
    },
    /// This node is too small for the task, whenever asked, or the task's description is too long.
    TooBig,
    /// This node has not the runtime, the architecture, the network or the devices that the task needs, or the task asks for what no node
    /// gives, or for no processor at all.
    Unsupported,
}

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

/// How a lane ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneEnd {
    /// The task did what it should.
    Completed,
    /// The task failed; the work is billed.
    Failed,
    /// The provider failed; nothing more is billed.
    ProviderFault,
    /// The consumer stopped it; the work so far is billed.
    Cancelled,
}

/// What the provider wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Price the task, sign the quote, send it.
    Quote {
        /// To whom.
        to: NodeId,
        /// The question.
        request: RequestId,
        /// The attempt.
        attempt: AttemptId,
        /// The task.
        spec: Box<TaskSpec>,
        /// Until when the offer holds (Unix ms).
        valid_until_ms: u64,
    },
    /// Sign a refusal and send it.
    Refuse {
        /// To whom.
        to: NodeId,
        /// The question.
        request: RequestId,
        /// Why.
        no: No,
    },
    /// Write the agreement into the channel's log and send it.
    Propose {
        /// The consumer.
        consumer: NodeId,
        /// The question whose quote it is under.
        request: RequestId,
        /// The attempt.
        attempt: AttemptId,
        /// The task.
        spec: Box<TaskSpec>,
    },
    /// Make the attempt's state durable.
    Persist {
        /// What.
        record: Box<Record>,
    },
    /// Remove the attempt's durable state.
    Erase {
        /// The attempt.
        attempt: AttemptId,
    },
    /// Get the inputs from the consumer; answer with [`Provider::handle_fetched`].
    Fetch {
        /// The attempt.
        attempt: AttemptId,
        /// Who has them.
        from: NodeId,
        /// The task.
        spec: Box<TaskSpec>,
    },
    /// Run it; answer with [`Provider::handle_ended`].
    Start {
        /// The attempt.
        attempt: AttemptId,
        /// The task.
        spec: Box<TaskSpec>,
        /// The devices that are its own until [`Provider::handle_ended`].
        devices: device::Held,
    },
    /// Stop fetching or running it; [`Provider::handle_ended`] follows.
    Stop {
        /// The attempt.
        attempt: AttemptId,
    },
    /// Bill it finally and close its lane.
    Settle {
        /// The consumer.
        consumer: NodeId,
        /// The attempt.
        attempt: AttemptId,
        /// How it ended.
        end: LaneEnd,
    },
    /// Let the consumer fetch the outputs.
    Grant {
        /// The consumer.
        peer: NodeId,
        /// The attempt.
        attempt: AttemptId,
        /// Blobs, directories by their manifest.
        blobs: Vec<Digest>,
    },
    /// The attempt is over: withdraw grants, remove its working files.
    Discard {
        /// The consumer.
        peer: NodeId,
        /// The attempt.
        attempt: AttemptId,
    },
    /// Tell a node.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
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
struct Offer {
    consumer: NodeId,
    attempt: AttemptId,
    spec: TaskSpec,
    is_proposed: bool,
    expires_ms: u64,
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

    /// A consumer asks what a task would cost. The caller has checked that it may ask.
    pub fn handle_request(
        &mut self,
        from: NodeId,
        request: RequestId,
        attempt: AttemptId,
        spec: TaskSpec,
        now_ms: u64,
    ) {
        self.expire(now_ms);
        let valid_until_ms = now_ms + QUOTE_LEASE_MS;
        if let Some(offer) = self.offers.get(&request) {
            if offer.consumer == from && !offer.is_proposed {
                let (spec, valid_until_ms) = (Box::new(offer.spec.clone()), offer.expires_ms);
                self.actions.push(Action::Quote {
                    to: from,
                    request,
                    attempt,
                    spec,
                    valid_until_ms,
                });
            }
            return;
        }
        let too_long = serde_json::to_vec(&spec).map_or(true, |json| json.len() > SPEC_LEN_MAX);
        let no = if too_long {
            Some(No::TooBig)
        } else if !self.abilities.suit(&spec) {
            Some(No::Unsupported)
        } else if self.offers.len() >= OFFERS_MAX {
            Some(No::Full { retry_after_ms: FULL_RETRY_MS })
        } else if let Some(retry_after_ms) = self.lapses.barred_ms(from, now_ms) {
            Some(No::Full { retry_after_ms })
        } else {
            let id = ReservationId::from_bytes(request);
            match self.capacity.reserve(id, &spec.needs, valid_until_ms) {
                Ok(()) => None,
                Err(e) if e.is_lasting() => Some(No::TooBig),
                Err(_) => Some(No::Full { retry_after_ms: FULL_RETRY_MS }),
            }
        };
        if let Some(no) = no {
            return self.actions.push(Action::Refuse { to: from, request, no });
        }
        let offer = Offer {
            consumer: from,
            attempt,
            spec: spec.clone(),
            is_proposed: false,
            expires_ms: valid_until_ms,
        };
        self.offers.insert(request, offer);
        self.actions.push(Action::Quote {
            to: from,
            request,
            attempt,
            spec: Box::new(spec),
            valid_until_ms,
        });
    }

    /// The consumer takes the offer: our signature on the agreement goes out.
    pub fn handle_accept(&mut self, from: NodeId, request: RequestId, now_ms: u64) {
        self.expire(now_ms);
        let Some(offer) = self.offers.get_mut(&request).filter(|o| o.consumer == from) else {
            return;
        };
        if offer.is_proposed || self.jobs.contains_key(&offer.attempt) {
            return;
        }
        let lease = now_ms + PROPOSAL_LEASE_MS;
        if self.capacity.renew(ReservationId::from_bytes(request), lease).is_err() {
            return;
        }
        offer.is_proposed = true;
        offer.expires_ms = lease;
        let attempt = offer.attempt;
        let spec = Box::new(offer.spec.clone());
        self.proposed.insert(attempt, request);
        self.actions.push(Action::Propose { consumer: from, request, attempt, spec });
    }

    /// The consumer does not want the offer.
    pub fn handle_decline(&mut self, from: NodeId, request: RequestId, now_ms: u64) {
        let Some(offer) = self.offers.get(&request).filter(|o| o.consumer == from) else {
            return;
        };
        let left_ms = offer.expires_ms.saturating_sub(now_ms);
        if from != self.me && (offer.is_proposed || left_ms < QUOTE_LEASE_MS / 2) {
            self.lapses.note(from, now_ms);
        }
        self.drop_offer(request);
    }

    fn drop_offer(&mut self, request: RequestId) {
        if let Some(offer) = self.offers.remove(&request) {
            self.capacity.release(ReservationId::from_bytes(request));
            if self.proposed.get(&offer.attempt) == Some(&request) {
                self.proposed.remove(&offer.attempt);
            }
        }
    }

    /// Both signatures are durable: the work may begin. Returns false when the offer is gone, so that the caller closes the
    /// lane as this node's fault.
    pub fn handle_agreed(&mut self, attempt: AttemptId, now_ms: u64) -> bool {
        let Some(request) = self.proposed.remove(&attempt) else {
            return self.jobs.contains_key(&attempt);
        };
        let Some(offer) = self.offers.remove(&request) else {
            return false;
        };
        let reservation = ReservationId::from_bytes(request);
        if self.capacity.confirm(reservation).is_err() {
            return false;
        }
        self.lapses.note_agreed(offer.consumer);
        let record = Record { attempt, consumer: offer.consumer, spec: offer.spec, ended: None };
        self.actions.push(Action::Persist { record: Box::new(record.clone()) });
        let spec = Box::new(record.spec.clone());
        self.actions.push(Action::Fetch { attempt, from: record.consumer, spec });
        let job = Job {
            record,
            reservation: Some(reservation),
            phase: Phase::Fetching,
            health: None,
            is_stopping: None,
            turning: None,
            suspended_ms: None,
            heard_ms: now_ms,
            repeat_at_ms: u64::MAX,
            repeats: 0,
        };
        self.jobs.insert(attempt, job);
        true
    }

    /// The consumer refused to sign.
    pub fn handle_disagreed(&mut self, attempt: AttemptId) {
        if let Some(request) = self.proposed.get(&attempt).copied() {
            self.drop_offer(request);
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
