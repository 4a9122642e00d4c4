//! Services as their owner sees them.

use std::collections::BTreeMap;

use catalog::{Digest, NodeId, OrgId};
use scheduler::service::{
    Access, Event, EventBody, LastWord, Member, Rollout, Service, StopReason, UnknownService,
};
use scheduler::task::{RunId, TaskId};

use crate::engine::Engine;
use crate::engine::command::CostView;
use crate::schema;

/// The one task of a replica's run.
const TASK: TaskId = TaskId { step: 0, index: 0 };

/// A line of `service list`.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct ServiceSummary {
    /// Its name.
    pub name: String,
    /// What it is for.
    #[schema(required)]
    pub description: Option<String>,
    /// `running`, `rolling`, `degraded`, `stopped`, `idle`, `removing`.
    #[schema(value_type = schema::ServiceState)]
    pub state: String,
    /// The revision that is wanted.
    pub revision: u32,
    /// Replicas that are wanted.
    pub replicas: u32,
    /// Replicas to which users are sent.
    pub available: u32,
    /// What runs it.
    pub runtime: String,
    /// Its ports by name.
    pub ports: BTreeMap<String, u16>,
    /// When the wanted revision was deployed (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub deployed_ms: u64,
}

/// A service with its revisions, replicas and last events.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Service)]
pub struct ServiceView {
    /// The summary.
    #[serde(flatten)]
    pub summary: ServiceSummary,
    /// Who may connect besides the owner.
    #[schema(value_type = schema::Access)]
    pub access: Access,
    /// The last revision that was seen to work.
    #[schema(required)]
    pub stable: Option<u32>,
    /// Length of each agreement in milliseconds.
    pub term_ms: u64,
    /// What is wrong, if anything is.
    #[schema(required)]
    pub trouble: Option<String>,
    /// Replicas that ended by themselves and are not replaced, by the restart policy.
    #[serde(default)]
    #[schema(required)]
    pub finished: u32,
    /// One of those: the last that failed, or else the last that ended.
    #[serde(default)]
    #[schema(value_type = Option<schema::LastWord>, required)]
    pub last_word: Option<LastWord>,
    /// Those that are kept, oldest first.
    pub revisions: Vec<RevisionView>,
    /// Those that have not ended.
    pub replicas_now: Vec<ReplicaView>,
    /// The last ones, oldest first.
    #[schema(value_type = Vec<schema::ServiceEvent>)]
    pub events: Vec<Event>,
    /// What the replicas that are there now cost at other organisations' nodes so far, by currency.
    pub costs: Vec<CostView>,
}

/// A revision of a service.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = ServiceRevision)]
pub struct RevisionView {
    /// From 1.
    pub number: u32,
    /// When it was deployed (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub deployed_ms: u64,
    /// Its document.
    #[schema(value_type = schema::Digest)]
    pub digest: Digest,
}

/// A replica of a service.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Replica)]
pub struct ReplicaView {
    /// Its run, which names it.
    #[schema(value_type = schema::RunId)]
    pub run: RunId,
    /// Its revision.
    pub revision: u32,
    /// `waiting`, `placed`, `starting`, `healthy`, `unhealthy`, `unreachable`, `draining`, `ending`.
    #[schema(value_type = schema::ReplicaState)]
    pub state: String,
    /// Number of the attempt under agreement.
    #[schema(required)]
    pub attempt: Option<u32>,
    /// The node.
    #[schema(value_type = Option<schema::NodeId>, required)]
    pub node: Option<NodeId>,
    /// Its organisation.
    #[schema(value_type = Option<schema::OrgId>, required)]
    pub org: Option<OrgId>,
    /// That organisation's name.
    #[schema(required)]
    pub org_name: Option<String>,
    /// When it was asked for (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub started_ms: u64,
    /// Since when the agreement holds (Unix ms).
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub agreed_ms: Option<u64>,
    /// Why it ends, or why it waits, in a sentence each.
    pub reasons: Vec<String>,
}

impl ServiceSummary {
    pub(super) fn of(service: &Service) -> Self {
        let document = service.document();
        let head = service.head();
        let wanted = service.revisions().find(|(revision, _)| revision.number == head.target);
        Self {
            name: service.name().to_owned(),
            description: document.and_then(|document| document.description.clone()),
            state: service.state().to_owned(),
            revision: head.target,
            replicas: head.replicas,
            available: service.available(),
            runtime: document.map(|d| d.run.runtime().as_str().to_owned()).unwrap_or_default(),
            ports: document.map(|document| document.spec.ports.clone()).unwrap_or_default(),
            deployed_ms: wanted.map_or(0, |(revision, _)| revision.deployed_ms),
        }
    }
}

impl Engine {
    pub(super) fn service_view(&self, name: &str) -> Result<ServiceView, UnknownService> {
        let unknown = || UnknownService { name: name.chars().take(80).collect() };
        let service = self.services.service(name).ok_or_else(unknown)?;
        let document = service.document();
        let revision = |(revision, document): (
            &scheduler::service::Revision,
            &scheduler::service::Document,
        )| {
            RevisionView {
                number: revision.number,
                deployed_ms: revision.deployed_ms,
                digest: document.digest,
            }
        };
        let runs: Vec<RunId> = service.members().map(|member| member.record.run).collect();
        Ok(ServiceView {
            summary: ServiceSummary::of(service),
            access: document.map(|document| document.spec.access.clone()).unwrap_or_default(),
            stable: service.head().stable,
            term_ms: document.map_or(0, |document| document.term_ms),
            trouble: trouble(service),
            finished: service.head().finished,
            last_word: service.head().last_word.clone(),
            revisions: service.revisions().map(revision).collect(),
            replicas_now: service.members().map(|member| self.replica_view(member)).collect(),
            events: service.events().cloned().collect(),
            costs: self.costs(|run| runs.contains(&run)),
        })
    }

    fn replica_view(&self, member: &Member) -> ReplicaView {
        let record = &member.record;
        let mut reasons: Vec<String> = record
            .leaving
            .map(|leaving| format!("it ends because it is {}", leaving.why.as_str()))
            .into_iter()
            .collect();
        if record.place.is_none() {
            match self.coordinator.plan_of(record.run, TASK) {
                Some(plan) => reasons.extend(plan.explain(&self.node_labels())),
                None => reasons.push("no node was looked for yet".to_owned()),
            }
        }
        ReplicaView {
            run: record.run,
            revision: record.revision,
            state: member.state().to_owned(),
            attempt: record.place.map(|place| place.number),
            node: record.place.map(|place| place.node),
            org: record.place.map(|place| place.org),
            org_name: record.place.and_then(|place| self.org_name(place.node)),
            started_ms: record.started_ms,
            agreed_ms: record.place.map(|place| place.since_ms),
            reasons,
        }
    }
}

/// What keeps a service from being as it should, in a sentence.
fn trouble(service: &Service) -> Option<String> {
    let head = service.head();
    if let Rollout::Stopped { revision, reason, .. } = &head.rollout {
        let why = StopReason::as_str(*reason);
        let now = match head.target {
            target if target == *revision => "it is tried again".to_owned(),
            target => format!("revision {target} is wanted again"),
        };
        return Some(format!("the update to revision {revision} stopped: {why}; {now}"));
    }
    if head.finished > 0 {
        return Some(format!("{} of its replicas ended and are not replaced", head.finished));
    }
    let rounds = head.trouble.crashes;
    (rounds > 0 && head.trouble.owed > 0)
        .then(|| format!("its replicas ended {rounds} times in a row; the next ones wait a while"))
}

/// The replica that an event is about.
#[must_use]
pub const fn run_of(body: &EventBody) -> Option<RunId> {
    match body {
        EventBody::Started { run, .. }
        | EventBody::Placed { run, .. }
        | EventBody::Health { run, .. }
        | EventBody::Leaving { run, .. }
        | EventBody::Ended { run, .. } => Some(*run),
        EventBody::Targeted { .. }
        | EventBody::Scaled { .. }
        | EventBody::RolledOut { .. }
        | EventBody::Stopped { .. }
        | EventBody::Removing => None,
    }
}
