//! Every service of a node: what comes in, what goes out, what is written down.

use std::collections::BTreeMap;

use super::document::Document;
use super::observe::Observed;
use super::record::{End, EventBody, Key, Record, Replica, Revision, Rollout, StopReason, Why};
use super::spec::Health;
use super::state::{Member, Service};
use super::{
    AVOID_MAX, AVOID_MS, Endpoints, FAULT_PAUSE_MS, HEALTH_EVENT_MS, ROLLOUT_CRASHES_MAX,
    RestartPolicy, STEADY_MS,
};
use crate::run::{Submission, Submitter};
use crate::task::{AttemptId, Failure, FailureClass, RunId};
use crate::workflow::Diagnostics;

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make a record durable, before anything after it.
    Persist {
        /// The service.
        service: String,
        /// The record's key in it.
        key: Key,
        /// The record.
        record: Box<Record>,
    },
    /// Remove a record.
    Erase {
        /// The service.
        service: String,
        /// The record's key in it.
        key: Key,
    },
    /// Submit a run; [`Services::handle_replica`] answers, at once when it is refused.
    Start {
        /// The run.
        run: RunId,
        /// What is run.
        submission: Box<Submission>,
        /// For whom: whoever deployed the revision.
        by: Option<Box<Submitter>>,
    },
    /// Cancel a run.
    Cancel {
        /// The run.
        run: RunId,
    },
    /// The run has ended and nobody asks for it any more: its log may go. It may be said twice of a run.
    Forget {
        /// The run.
        run: RunId,
    },
    /// Say in the catalogue where the service can be reached.
    Publish {
        /// The service.
        service: String,
        /// Where.
        endpoints: Box<Endpoints>,
    },
    /// Take the service out of the catalogue.
    Withdraw {
        /// The service.
        service: String,
    },
}

/// Records that are not those of a service.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// What is wanted is not among them, or the wanted revision is not.
    #[error("the records of service `{service}` are not complete")]
    Incomplete {
        /// The service.
        service: String,
    },
    /// A stored document is no longer accepted.
    #[error("revision {revision} of service `{service}` is not valid")]
    Document {
        /// The service.
        service: String,
        /// The revision.
        revision: u32,
        /// Why.
        #[source]
        source: Diagnostics,
    },
}

/// Every service of this node: which replicas of each should exist.
///
/// Inputs change what is known and what is wanted; [`Self::poll`] then acts. Call it after every input, and when
/// [`Self::poll_timeout`] says so.
#[derive(Debug, Default)]
pub struct Services {
    pub(super) services: BTreeMap<String, Service>,
    /// The service of each replica that has not ended.
    pub(super) runs: BTreeMap<RunId, String>,
    pub(super) effects: Vec<Effect>,
}

impl Services {
    /// Without services.
    #[must_use]
    pub const fn new() -> Self {
        Self { services: BTreeMap::new(), runs: BTreeMap::new(), effects: Vec::new() }
    }

    /// Takes a service back from its records after a restart. Then the state of each of its runs has to be told to
    /// [`Self::handle_replica`]: of one that is not known, that it ended.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub fn restore(
        &mut self,
        name: &str,
        records: impl IntoIterator<Item = Record>,
        now_ms: u64,
    ) -> Result<(), RestoreError> {
        let (mut head, mut revisions) = (None, BTreeMap::new());
        let (mut members, mut events) = (BTreeMap::new(), Vec::new());
        for record in records {
            match record {
                Record::Head(found) => head = Some(found),
                Record::Revision(found) => {
                    let entry = read(name, found)?;
                    revisions.insert(entry.0.number, entry);
                }
                Record::Replica(found) => {
                    members.insert(found.run, Member::new(found, now_ms));
                }
                Record::Event(found) => events.push(found),
            }
        }
        let incomplete = || RestoreError::Incomplete { service: name.to_owned() };
        let head = head.ok_or_else(incomplete)?;
        let has = |revision: &u32| revisions.contains_key(revision);
        if !has(&head.target) || !members.values().all(|m| has(&m.record.revision)) {
            return Err(incomplete());
        }
        events.sort_by_key(|event| event.seq);
        let mut service = Service::new(name.to_owned(), head);
        service.awake_ms = now_ms;
        service.revisions = revisions;
        service.events = events.into();
        for (run, member) in &members {
            self.runs.insert(*run, name.to_owned());
            if member.record.leaving.is_some_and(|leaving| leaving.is_cancelled) {
                self.effects.push(Effect::Cancel { run: *run });
            }
        }
        service.members = members;
        self.services.insert(name.to_owned(), service);
        Ok(())
    }

    /// The run of a replica stands so. Saying the same again changes nothing. Of a run that no service knows, what is left
    /// is ended.
    pub fn handle_replica(&mut self, run: RunId, observed: &Observed, now_ms: u64) {
        let service = self.runs.get(&run).and_then(|name| self.services.get_mut(name));
        match (service, observed) {
            (None, Observed::Ended(_)) => self.effects.push(Effect::Forget { run }),
            (None, _) => self.effects.push(Effect::Cancel { run }),
            (Some(_), Observed::Waiting) => {}
            (Some(service), Observed::Placed(place)) => {
                let Some(member) = service.members.get_mut(&run) else { return };
                if member.record.place != Some(*place) {
                    member.record.place = Some(*place);
                    (member.health, member.since_ms) = (None, now_ms);
                    service.dirty.insert(Key::Replica(run));
                    service.note(now_ms, EventBody::Placed { run, node: place.node });
                    service.due_ms = 0;
                }
            }
            (Some(service), Observed::Ended(end)) => {
                service.handle_ended(run, end, now_ms);
                self.runs.remove(&run);
                self.effects.push(Effect::Forget { run });
            }
        }
    }

    /// The provider of a replica says how it is. The caller has checked that it is the provider of that attempt.
    pub fn handle_health(&mut self, attempt: AttemptId, health: Health, now_ms: u64) {
        let name = self.runs.get(&attempt.run);
        if let Some(service) = name.and_then(|name| self.services.get_mut(name)) {
            service.handle_health(attempt, health, now_ms);
        }
    }

    /// A connection to a replica was made, or could not be made, by a tunnel of this node. What others say does not count.
    pub fn handle_connection(&mut self, run: RunId, is_made: bool) {
        let service = self.runs.get(&run).and_then(|name| self.services.get_mut(name));
        let Some(service) = service else { return };
        let Some(member) = service.members.get_mut(&run) else { return };
        let was_doubted = member.is_doubted();
        member.connect_failures =
            if is_made { 0 } else { member.connect_failures.saturating_add(1) };
        if member.is_doubted() != was_doubted {
            service.due_ms = 0;
        }
    }

    /// Does what is due; `entropy` names new runs.
    pub fn poll(&mut self, now_ms: u64, entropy: &mut dyn FnMut() -> u64) {
        let mut gone = Vec::new();
        for (name, service) in &mut self.services {
            if service.due_ms > now_ms {
                continue;
            }
            let known = service.members.len();
            service.round(now_ms, entropy, &mut self.effects);
            if service.members.len() > known {
                for run in service.members.keys() {
                    self.runs.entry(*run).or_insert_with(|| name.clone());
                }
            }
            if service.head.is_removing && service.members.is_empty() {
                gone.push(name.clone());
            }
        }
        for name in gone {
            self.erase(&name);
        }
    }

    /// Nothing is left of a removed service.
    fn erase(&mut self, name: &str) {
        let Some(service) = self.services.remove(name) else { return };
        let mut keys = service.keys();
        keys.extend(&service.dirty);
        let erase = |key| Effect::Erase { service: name.to_owned(), key };
        self.effects.extend(keys.into_iter().map(erase));
    }

    /// When [`Self::poll`] has to be called next, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        self.services.values().map(|service| service.due_ms).min().filter(|at| *at != u64::MAX)
    }

    /// What is to be done, in order: first what has to be durable.
    pub fn drain_effects(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (name, service) in &mut self.services {
            for key in std::mem::take(&mut service.dirty) {
                let service_name = name.clone();
                effects.push(match service.record(key) {
                    Some(record) => {
                        Effect::Persist { service: service_name, key, record: Box::new(record) }
                    }
                    None => Effect::Erase { service: service_name, key },
                });
            }
        }
        effects.append(&mut self.effects);
        effects
    }

    /// Whether something is to be done.
    #[must_use]
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty() || self.services.values().any(|s| !s.dirty.is_empty())
    }

    /// A service.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.get(name)
    }

    /// Every service, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// The service of a replica's run, while it has not ended.
    #[must_use]
    pub fn service_of(&self, run: RunId) -> Option<&Service> {
        self.services.get(self.runs.get(&run)?)
    }

    /// Everything that is durable, as it was or will be persisted.
    #[must_use]
    pub fn records(&self) -> BTreeMap<(String, Key), Record> {
        let mut all = BTreeMap::new();
        for (name, service) in &self.services {
            for key in service.keys() {
                all.extend(service.record(key).map(|record| ((name.clone(), key), record)));
            }
        }
        all
    }
}

fn read(service: &str, revision: Revision) -> Result<(Revision, Document), RestoreError> {
    match revision.content.document() {
        Ok(document) => Ok((revision, document)),
        Err(source) => {
            let (service, revision) = (service.to_owned(), revision.number);
            Err(RestoreError::Document { service, revision, source })
        }
    }
}

impl Service {
    fn handle_health(&mut self, attempt: AttemptId, health: Health, now_ms: u64) {
        let run = attempt.run;
        let Some(member) = self.members.get_mut(&run) else { return };
        if member.attempt() != Some(attempt) || member.health == Some(health) {
            return;
        }
        if member.health == Some(Health::Healthy) {
            let is_steady = now_ms.saturating_sub(member.since_ms) >= STEADY_MS;
            member.flaps = if is_steady { 1 } else { member.flaps.saturating_add(1) };
        }
        (member.health, member.since_ms) = (Some(health), now_ms);
        let is_first = health == Health::Healthy && !member.record.was_ready;
        let is_told = is_first || now_ms >= member.quiet_until_ms;
        if is_told {
            member.quiet_until_ms = now_ms.saturating_add(HEALTH_EVENT_MS);
        }
        let is_wanted = member.record.revision == self.head.target;
        if is_first {
            member.record.was_ready = true;
            self.dirty.insert(Key::Replica(run));
            self.head.trouble.faults = 0;
            self.dirty.insert(Key::Head);
            if let (true, Rollout::Rolling { progress_ms, .. }) =
                (is_wanted, &mut self.head.rollout)
            {
                *progress_ms = now_ms;
            }
        }
        if is_told {
            self.note(now_ms, EventBody::Health { run, health });
        }
        self.due_ms = 0;
    }

    /// A replica is no more. One that was to leave is not judged again.
    fn handle_ended(&mut self, run: RunId, end: &End, now_ms: u64) {
        let Some(member) = self.members.remove(&run) else { return };
        self.dirty.insert(Key::Replica(run));
        self.note(now_ms, EventBody::Ended { run, end: end.clone() });
        self.due_ms = 0;
        if member.is_leaving() {
            return;
        }
        let policy = self
            .document_of(member.record.revision)
            .map(|document| document.restart.policy)
            .unwrap_or_default();
        let is_last_word = match end {
            End::Done => policy != RestartPolicy::Always,
            End::Failed(_) if !is_programs(end) => false,
            End::Failed(failure) => {
                policy == RestartPolicy::Never && !self.is_term_over(&member, failure, now_ms)
            }
            End::Cancelled | End::Refused { .. } => false,
        };
        if is_last_word && !self.is_outdated(&member) {
            let node = member.record.place.map(|place| place.node);
            self.head.finish(run, node, end.clone());
            self.dirty.insert(Key::Head);
            // No other will get healthy in its place, and fewer must not be enough to end what ran before.
            let is_rolling = matches!(self.head.rollout, Rollout::Rolling { .. });
            if is_rolling && !member.record.was_ready && self.back_to().is_some() {
                self.stop(StopReason::Crashing, now_ms);
            }
            return;
        }
        match end {
            End::Failed(failure) if self.is_term_over(&member, failure, now_ms) => {}
            _ if is_programs(end) => self.blame_program(&member, now_ms),
            _ => self.blame_provider(&member, now_ms),
        }
    }

    /// Whether the end is that of the agreement, in time or money, which no successor prevented.
    fn is_term_over(&self, member: &Member, failure: &Failure, now_ms: u64) -> bool {
        match failure.class {
            FailureClass::Timeout => self.renew_at_ms(member).is_some_and(|at| at <= now_ms),
            FailureClass::Spent => true,
            _ => false,
        }
    }

    /// A replica ended through its own fault: the next ones wait, longer each time. Those that were started before the last
    /// such end are of the same round, and say nothing new.
    pub(super) fn blame_program(&mut self, member: &Member, now_ms: u64) {
        let record = &member.record;
        if let Some(place) = record.place {
            self.shun(place.node, now_ms);
        }
        if self.is_outdated(member) {
            return;
        }
        if let (Rollout::Rolling { crashes, crashed_on, .. }, false) =
            (&mut self.head.rollout, record.was_ready)
        {
            *crashes = crashes.saturating_add(1);
            if crashed_on.len() < ROLLOUT_CRASHES_MAX as usize {
                crashed_on.extend(record.place.map(|place| place.node));
            }
        }
        let backoff = self.document().map(|d| d.restart.backoff).unwrap_or_default();
        let trouble = &mut self.head.trouble;
        let is_steady = member.health == Some(Health::Healthy)
            && now_ms.saturating_sub(member.since_ms) >= STEADY_MS;
        if is_steady {
            trouble.crashes = 0;
        }
        trouble.owed = trouble.owed.saturating_add(1);
        if trouble.crashes == 0 || record.started_ms >= trouble.crashed_ms {
            trouble.crashes = trouble.crashes.saturating_add(1);
            trouble.crashed_ms = now_ms;
            let pause = backoff.delay_ms(trouble.crashes, member.chance());
            trouble.not_before_ms = trouble.not_before_ms.max(now_ms.saturating_add(pause));
        }
        self.dirty.insert(Key::Head);
    }

    /// A replica ended through a provider's fault. The first time another is started at once.
    pub(super) fn blame_provider(&mut self, member: &Member, now_ms: u64) {
        if let Some(place) = member.record.place {
            self.shun(place.node, now_ms);
        }
        let trouble = &mut self.head.trouble;
        let (first, longest) = FAULT_PAUSE_MS;
        if trouble.faults == 0 || member.record.started_ms >= trouble.faulted_ms {
            if trouble.faults > 0 {
                let pause = first.saturating_mul(1 << (trouble.faults - 1).min(16)).min(longest);
                trouble.not_before_ms = trouble.not_before_ms.max(now_ms.saturating_add(pause));
                trouble.owed = trouble.owed.saturating_add(1);
            }
            trouble.faults = trouble.faults.saturating_add(1);
            trouble.faulted_ms = now_ms;
        }
        self.dirty.insert(Key::Head);
    }

    fn shun(&mut self, node: catalog::NodeId, now_ms: u64) {
        self.avoid.retain(|_, until_ms| *until_ms > now_ms);
        if self.avoid.len() >= AVOID_MAX && !self.avoid.contains_key(&node) {
            let first = self.avoid.iter().min_by_key(|(_, until)| **until).map(|(node, _)| *node);
            first.and_then(|first| self.avoid.remove(&first));
        }
        self.avoid.insert(node, now_ms.saturating_add(AVOID_MS));
    }

    pub(super) fn add(&mut self, record: Replica, now_ms: u64) {
        let (run, revision) = (record.run, record.revision);
        self.members.insert(run, Member::new(record, now_ms));
        self.dirty.insert(Key::Replica(run));
        self.note(now_ms, EventBody::Started { run, revision });
    }

    pub(super) fn note_leaving(&mut self, run: RunId, why: Why, now_ms: u64) {
        self.dirty.insert(Key::Replica(run));
        self.note(now_ms, EventBody::Leaving { run, why });
    }
}

/// Whether the program, not its provider, is to blame.
const fn is_programs(end: &End) -> bool {
    match end {
        End::Done | End::Refused { .. } => true,
        // Nobody here cancelled it: its provider did.
        End::Failed(failure) => {
            !failure.class.is_provider_fault() && !matches!(failure.class, FailureClass::Cancelled)
        }
        End::Cancelled => false,
    }
}
