//! One service: its durable records, what is only known while this node runs, and what can be asked of both. Nothing here
//! decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use catalog::NodeId;

use super::document::{Document, Update};
use super::record::{Event, EventBody, Head, Key, Record, Replica, Revision, Rollout};
use super::spec::Health;
use super::{
    CONNECT_FAILURES_MAX, EVENTS_MAX, Endpoint, Endpoints, FLAPS_MAX, PATIENCE_MIN_MS,
    READY_MAX_MS, REVISIONS_MAX,
};
use crate::task::{AttemptId, RunId, TaskId};

/// The one task of a replica's run.
pub(super) const TASK: TaskId = TaskId { step: 0, index: 0 };

/// A service, as its owner's node knows it.
#[derive(Debug)]
pub struct Service {
    pub(super) name: String,
    pub(super) head: Head,
    pub(super) revisions: BTreeMap<u32, (Revision, Document)>,
    pub(super) members: BTreeMap<RunId, Member>,
    pub(super) events: VecDeque<Event>,
    /// Nodes that disappointed lately, and until when (Unix ms).
    pub(super) avoid: BTreeMap<NodeId, u64>,
    /// What was published last, and when (Unix ms).
    pub(super) published: Option<(Endpoints, u64)>,
    /// Before this time (Unix ms) no further replica is given up because connections fail.
    pub(super) doubt_at_ms: u64,
    /// Since when this node watches (Unix ms): time before is not held against an update.
    pub(super) awake_ms: u64,
    /// When something is due, if nothing happens before (Unix ms).
    pub(super) due_ms: u64,
    /// Records that changed and have not been written.
    pub(super) dirty: BTreeSet<Key>,
}

/// A replica that has not ended, and what its provider says of it.
#[derive(Clone, Debug)]
pub struct Member {
    /// What is durable of it.
    pub record: Replica,
    /// The last word of its provider.
    pub health: Option<Health>,
    /// Since when that is so (Unix ms).
    pub since_ms: u64,
    /// How often it went from healthy to something else, without a long time in health before.
    pub flaps: u32,
    /// Connections to it that failed since the last that did not.
    pub connect_failures: u32,
    /// Before this time (Unix ms) a change of its health is no event again.
    pub(super) quiet_until_ms: u64,
}

impl Member {
    pub(super) const fn new(record: Replica, now_ms: u64) -> Self {
        // What was healthy once and is still there is taken to be healthy until its provider says otherwise: a restart of
        // this node is no reason to send nobody to it.
        let is_up = record.was_ready && record.place.is_some();
        let health = if is_up { Some(Health::Healthy) } else { None };
        Self { record, health, since_ms: now_ms, flaps: 0, connect_failures: 0, quiet_until_ms: 0 }
    }

    /// Whether it is to end.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        self.record.leaving.is_some()
    }

    /// Whether connections to it are known to fail.
    #[must_use]
    pub const fn is_doubted(&self) -> bool {
        self.connect_failures >= CONNECT_FAILURES_MAX
    }

    /// Whether users are sent to it.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.health == Some(Health::Healthy) && !self.is_leaving() && !self.is_doubted()
    }

    /// The attempt that runs, once both sides signed.
    #[must_use]
    pub fn attempt(&self) -> Option<AttemptId> {
        let place = self.record.place?;
        Some(AttemptId { run: self.record.run, task: TASK, number: place.number })
    }

    /// The run's bytes as a number: chance that is the same whenever it is asked.
    pub(super) fn chance(&self) -> u32 {
        let [a, b, c, d, ..] = *self.record.run.as_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}

impl Service {
    pub(super) const fn new(name: String, head: Head) -> Self {
        Self {
            name,
            head,
            revisions: BTreeMap::new(),
            members: BTreeMap::new(),
            events: VecDeque::new(),
            avoid: BTreeMap::new(),
            published: None,
            doubt_at_ms: 0,
            awake_ms: 0,
            due_ms: 0,
            dirty: BTreeSet::new(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is wanted, and how far that has come.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The revisions that are kept, oldest first.
    pub fn revisions(&self) -> impl Iterator<Item = (&Revision, &Document)> {
        self.revisions.values().map(|(revision, document)| (revision, document))
    }

    /// The replicas that have not ended.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// The last events, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    /// One word for tables: `removing`, `stopped`, `rolling`, `degraded`, `running`, `idle`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match &self.head.rollout {
            _ if self.head.is_removing => "removing",
            Rollout::Stopped { .. } => "stopped",
            _ if self.desired() == 0 => "idle",
            Rollout::Rolling { .. } => "rolling",
            Rollout::Done if self.available() < self.desired() => "degraded",
            Rollout::Done => "running",
        }
    }

    /// Replicas that should be there now: those asked for without those that ended for good.
    #[must_use]
    pub const fn desired(&self) -> u32 {
        if self.head.is_removing {
            return 0;
        }
        self.head.replicas.saturating_sub(self.head.finished)
    }

    /// Replicas to which users are sent.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.count(Member::is_available)
    }

    /// Where the service is to be reached: replicas that are healthy and stay, as many as a record holds.
    #[must_use]
    pub fn endpoints(&self) -> Endpoints {
        let ports = self.document().map(|d| d.spec.ports.clone()).unwrap_or_default();
        let available = self.members.values().filter(|m| m.is_available());
        let replicas = available.filter_map(|m| {
            let (place, attempt) = (m.record.place?, m.attempt()?);
            Some(Endpoint { node: place.node, attempt })
        });
        Endpoints { ports, replicas: replicas.take(super::ENDPOINTS_MAX).collect() }
    }

    /// The document of the wanted revision.
    #[must_use]
    pub fn document(&self) -> Option<&Document> {
        self.document_of(self.head.target)
    }

    pub(super) fn document_of(&self, revision: u32) -> Option<&Document> {
        self.revisions.get(&revision).map(|(_, document)| document)
    }

    pub(super) fn update(&self) -> Update {
        self.document().map(|document| document.update).unwrap_or_default()
    }

    /// When an update that came no further stops.
    pub(super) fn deadline_ms(&self) -> Option<u64> {
        match self.head.rollout {
            Rollout::Rolling { progress_ms, .. } if self.head.replicas > 0 => {
                Some(progress_ms.max(self.awake_ms).saturating_add(self.update().deadline_ms))
            }
            _ => None,
        }
    }

    pub(super) fn count(&self, what: impl Fn(&Member) -> bool) -> u32 {
        u32::try_from(self.members.values().filter(|m| what(m)).count()).unwrap_or(u32::MAX)
    }

    /// Whether it has another revision than the wanted one.
    pub(super) const fn is_outdated(&self, member: &Member) -> bool {
        member.record.revision != self.head.target
    }

    /// When a successor for the replica is to be started: in the last quarter of its agreement, and not all at once.
    pub(super) fn renew_at_ms(&self, member: &Member) -> Option<u64> {
        let place = member.record.place?;
        let term = self.document_of(member.record.revision)?.term_ms;
        let spread = u64::from(member.chance()) * (term / 8) / u64::from(u32::MAX);
        Some(place.since_ms.saturating_add(term - term / 4).saturating_add(spread))
    }

    pub(super) fn is_due(&self, member: &Member, now_ms: u64) -> bool {
        self.renew_at_ms(member).is_some_and(|at| at <= now_ms)
    }

    /// Whether it counts toward the wanted number: of the wanted revision, staying, and not due for a successor.
    pub(super) fn is_current(&self, member: &Member, now_ms: u64) -> bool {
        !member.is_leaving() && !self.is_outdated(member) && !self.is_due(member, now_ms)
    }

    /// When a replica that is not healthy is given up; `None` while there is nothing to hold against it.
    pub(super) fn give_up_at_ms(&self, member: &Member) -> Option<u64> {
        let place = member.record.place?;
        let spec = &self.document_of(member.record.revision)?.spec;
        let (grace, patience) = spec.health.as_ref().map_or((0, 0), |health| {
            (health.grace_ms, (health.every_ms + health.timeout_ms) * u64::from(health.failures))
        });
        // Who is healthy only now and then is not waited for again.
        let is_flapping = member.flaps >= FLAPS_MAX;
        let patience = if is_flapping { 0 } else { patience.max(PATIENCE_MIN_MS) };
        match member.health {
            Some(Health::Healthy) => None,
            Some(Health::Unhealthy) => Some(member.since_ms.saturating_add(patience)),
            Some(Health::Starting) => Some(member.since_ms.saturating_add(grace + patience)),
            None => Some(place.since_ms.max(member.since_ms).saturating_add(READY_MAX_MS)),
        }
    }

    pub(super) fn note(&mut self, at_ms: u64, body: EventBody) {
        let seq = self.head.events;
        self.head.events += 1;
        self.events.push_back(Event { seq, at_ms, body });
        while self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
        self.dirty.insert(slot(seq));
        self.dirty.insert(Key::Head);
    }

    /// Drops the oldest revisions that nothing needs.
    pub(super) fn forget_revisions(&mut self) {
        while self.revisions.len() > REVISIONS_MAX {
            let is_needed = |number: &u32| {
                *number == self.head.target
                    || Some(*number) == self.head.stable
                    || self.members.values().any(|m| m.record.revision == *number)
            };
            let Some(oldest) = self.revisions.keys().copied().find(|n| !is_needed(n)) else {
                return;
            };
            self.revisions.remove(&oldest);
            self.dirty.insert(Key::Revision(oldest));
        }
    }

    /// The record of a key, when it is there.
    pub(super) fn record(&self, key: Key) -> Option<Record> {
        match key {
            Key::Head => Some(Record::Head(self.head.clone())),
            Key::Revision(number) => {
                self.revisions.get(&number).map(|(revision, _)| Record::Revision(revision.clone()))
            }
            Key::Replica(run) => {
                self.members.get(&run).map(|member| Record::Replica(member.record.clone()))
            }
            Key::Event(_) => {
                let event = self.events.iter().rev().find(|event| slot(event.seq) == key);
                event.map(|event| Record::Event(event.clone()))
            }
        }
    }

    /// The keys of every record that is there.
    pub(super) fn keys(&self) -> BTreeSet<Key> {
        let mut keys = BTreeSet::from([Key::Head]);
        keys.extend(self.revisions.keys().map(|number| Key::Revision(*number)));
        keys.extend(self.members.keys().map(|run| Key::Replica(*run)));
        keys.extend(self.events.iter().map(|event| slot(event.seq)));
        keys
    }
}

/// Where an event is kept: the place of one that is forgotten when it comes.
pub(super) fn slot(seq: u64) -> Key {
    Key::Event(u32::try_from(seq % EVENTS_MAX as u64).unwrap_or(0))
}
