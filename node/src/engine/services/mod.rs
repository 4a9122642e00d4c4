//! The services that run from this node: what `scheduler::service` wants of them becomes runs, rows and catalogue records.
//!
//! The machine decides which replicas should exist. Here its effects are carried out within the step that made them, so
//! that a replica's record, its run and the catalogue never tell different stories: rows go into the step's batch, runs to
//! the coordinator, and where a service can be reached into the record `service/NAME`, which is seen by those who may
//! connect. What happens to a replica's run comes back with every event of it.
//!
//! Replicas are runs, but not their owner's: lists of runs leave them out, and nobody cancels one by itself.

mod rows;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;

use catalog::record::{
    AUDIENCE_MAX, Detail, Maturity, Resource, ServiceDetail, ServiceEndpoint, ServicePort,
    ServiceReach, Visibility,
};
use catalog::{Change, NodeId};
use rand_core::Rng;
use scheduler::run::{Run, Submitter};
use scheduler::service::{
    Access, Content, DeployError, Deployed, Effect as Wish, End, Endpoint, Endpoints, Observed,
    Probe, RollbackError, ScaleError, Service, UnknownService,
};
use scheduler::task::{AttemptId, RunId};

pub use self::view::run_of;
pub use self::view::{ReplicaView, RevisionView, ServiceSummary, ServiceView};
use super::command::{CANDIDATES_MAX, CommandError, Response, named};
use super::contract::Stored;
use super::directory::OwnResource;
use super::pins::Pins;
use super::{Effect, Engine, RecoverError, run_event_key, stored};
use crate::store::batch::Table;

/// How much of a name an error repeats, in characters.
const NAME_SHOWN: usize = 80;
/// How the keys of services' records begin.
const KEY_PREFIX: &str = "service/";

/// A question or an order about services.
#[derive(Clone, Debug)]
pub enum Command {
    /// Deploy a service, or another revision of one; the answer is [`Answer::Deployed`].
    Deploy {
        /// What.
        content: Box<Content>,
    },
    /// Deploy another revision of a service that has to be there; the answer is [`Answer::Deployed`].
    Update {
        /// Which.
        name: String,
        /// What. Its document may have another name.
        content: Box<Content>,
    },
    /// Every service; the answer is [`Answer::List`].
    List,
    /// One service; the answer is [`Answer::Service`].
    Show {
        /// Which.
        name: String,
    },
    /// Want another number of replicas; the answer is [`Answer::Done`].
    Scale {
        /// Of which.
        name: String,
        /// How many.
        replicas: u32,
    },
    /// Want an earlier revision again; the answer is [`Answer::Targeted`].
    Rollback {
        /// Of which.
        name: String,
        /// The revision; the one before when absent.
        revision: Option<u32>,
    },
    /// End every replica and forget the service; the answer is [`Answer::Done`].
    Remove {
        /// Which.
        name: String,
    },
    /// Where a service can be reached, one of this node or of the catalogue; the answer is [`Answer::Reached`].
    Reach {
        /// Its name, or the id of its record.
        name: String,
    },
    /// Whether a peer may connect to a replica that runs here; the answer is [`Answer::Port`].
    Admit {
        /// Who, proved by the connection.
        peer: NodeId,
        /// The replica.
        attempt: AttemptId,
        /// The port's name.
        port: String,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Done, nothing to say.
    Done,
    /// A deployment's.
    Deployed(Deployed),
    /// The revision that is wanted now.
    Targeted(u32),
    /// Every service.
    List(Vec<ServiceSummary>),
    /// One service.
    Service(Box<ServiceView>),
    /// Where it can be reached.
    Reached(Reached),
    /// It may, and this is the port's number in the replica.
    Port(u16),
}

/// Where a service can be reached now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// This node.
    pub me: NodeId,
    /// Its ports by name.
    pub ports: BTreeMap<String, u16>,
    /// Its healthy replicas, as their owner last said.
    pub endpoints: Vec<Endpoint>,
}

/// Why a command about services failed. Nothing has changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// It cannot be deployed.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// It cannot be scaled.
    #[error(transparent)]
    Scale(#[from] ScaleError),
    /// It cannot go back.
    #[error(transparent)]
    Rollback(#[from] RollbackError),
    /// There is no such service.
    #[error(transparent)]
    Unknown(#[from] UnknownService),
    /// Neither here nor in the catalogue.
    #[error(
        "no service `{name}` runs from this node, and the catalogue has none that this node may see"
    )]
    Nowhere {
        /// As asked.
        name: String,
    },
    /// Several nodes have a service of this name.
    #[error("several nodes have a service `{name}`, name one of them: {}", named(candidates, *count))]
    Ambiguous {
        /// As asked.
        name: String,
        /// How many.
        count: usize,
        /// The ids of the first [`CANDIDATES_MAX`] of their records.
        candidates: Vec<String>,
    },
    /// A peer asks for what is not here or not for it; which of them it does not learn.
    #[error("no replica of a service with this port is here for you")]
    Closed,
}

impl Engine {
    /// Takes the services back from what is stored, and tells them where their runs stand.
    pub(super) fn restore_services(
        &mut self,
        stored: &Stored,
        now_ms: u64,
    ) -> Result<(), RecoverError> {
        let services = rows::read(stored.rows(Table::Services));
        let services = services.ok_or(RecoverError::Row { table: Table::Services })?;
        for (name, records) in services {
            self.services.restore(&name, records, now_ms)?;
        }
        let members = self.services.services().flat_map(Service::members);
        let mut runs: Vec<RunId> = members.map(|member| member.record.run).collect();
        runs.extend(self.coordinator.runs().filter(|run| is_replica(run)).map(Run::id));
        runs.sort_unstable();
        runs.dedup();
        for run in runs {
            self.tell_of_replica(run, now_ms);
        }
        Ok(())
    }

    /// Tells the services where a run stands, if it is a replica's.
    pub(super) fn tell_of_replica(&mut self, run: RunId, now_ms: u64) {
        let observed = match self.coordinator.run(run) {
            Some(found) if is_replica(found) => Observed::of(found),
            Some(_) => return,
            None => Observed::Ended(End::Cancelled),
        };
        self.services.handle_replica(run, &observed, now_ms);
    }

    /// True when there was something to route.
    pub(super) fn route_services(&mut self, now_ms: u64, rng: &mut dyn Rng) -> bool {
        self.services.poll(now_ms, &mut || rng.next_u64());
        if !self.services.has_effects() {
            return false;
        }
        for wish in self.services.drain_effects() {
            self.fulfil(wish, now_ms);
        }
        true
    }

    fn fulfil(&mut self, wish: Wish, now_ms: u64) {
        match wish {
            Wish::Persist { service, key, record } => {
                let key = rows::row_key(&service, key);
                self.out.batch.put(Table::Services, key, stored(&*record));
            }
            Wish::Erase { service, key } => {
                self.out.batch.delete(Table::Services, rows::row_key(&service, key));
            }
            Wish::Start { run, submission, by } => {
                if let Err(error) = self.coordinator.submit(run, *submission, by, now_ms) {
                    let end = End::Refused { detail: error.to_string() };
                    self.services.handle_replica(run, &Observed::Ended(end), now_ms);
                }
            }
            Wish::Cancel { run } => {
                if !self.coordinator.cancel(run, now_ms) {
                    // It has ended, and that was said already, or nobody knows it.
                    self.tell_of_replica(run, now_ms);
                }
            }
            Wish::Forget { run } => {
                let events = self.coordinator.forget(run).unwrap_or(0);
                for seq in 0..events {
                    self.out.batch.delete(Table::RunEvents, run_event_key(run, seq));
                }
            }
            Wish::Publish { service, endpoints } => {
                self.publish_service(&service, &endpoints, now_ms);
            }
            Wish::Withdraw { service } => {
                if self.service_records.remove(&service).is_some()
                    && let Some(detail) = self.change(Change::Delete(record_key(&service)), now_ms)
                {
                    self.note_unpublished(&service, &detail);
                }
            }
        }
    }

    fn publish_service(&mut self, name: &str, endpoints: &Endpoints, now_ms: u64) {
        let Some(own) = self.services.service(name).and_then(|s| describe(s, endpoints)) else {
            return;
        };
        self.service_records.insert(name.to_owned(), own.clone());
        if let Some(detail) = self.announce(own, now_ms) {
            self.note_unpublished(name, &detail);
        }
    }

    /// The record is not what the log must keep, so the owner hears of it and the service goes on.
    fn note_unpublished(&mut self, name: &str, detail: &str) {
        let detail = format!("where service `{name}` is cannot be published: {detail}");
        self.out.list.push(Effect::Notice { detail });
    }

    /// Puts the records of all services into a catalogue that has none of them.
    pub(super) fn announce_services(&mut self, now_ms: u64) {
        for (name, own) in self.service_records.clone() {
            if let Some(detail) = self.announce(own, now_ms) {
                self.note_unpublished(&name, &detail);
            }
        }
    }

    /// The service whose record has this key.
    pub(super) fn service_of_record(&self, key: &str) -> Option<&Service> {
        key.strip_prefix(KEY_PREFIX).and_then(|name| self.services.service(name))
    }

    /// The service of which a run is a replica.
    pub(super) fn service_of_run(&self, run: RunId) -> Option<String> {
        let replica = self.coordinator.run(run)?.submission().replica.as_ref()?;
        Some(replica.service.clone())
    }

    pub(super) fn handle_service_command(
        &mut self,
        command: Command,
        by: Option<&Submitter>,
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        if let Some(by) = by {
            self.check_service(&command, by, now_ms)?;
        }
        let answer = self.answer_service(command, by, now_ms);
        answer.map(Response::Service).map_err(CommandError::Service)
    }

    fn answer_service(
        &mut self,
        command: Command,
        by: Option<&Submitter>,
        now_ms: u64,
    ) -> Result<Answer, ServiceError> {
        let by = || by.cloned().map(Box::new);
        Ok(match command {
            Command::Deploy { content } => {
                Answer::Deployed(self.services.deploy(*content, by(), now_ms)?)
            }
            Command::Update { name, content } => {
                let content = Content { name: Some(name), ..*content };
                Answer::Deployed(self.services.update(content, by(), now_ms)?)
            }
            Command::List => {
                Answer::List(self.services.services().map(ServiceSummary::of).collect())
            }
            Command::Show { name } => Answer::Service(Box::new(self.service_view(&name)?)),
            Command::Scale { name, replicas } => {
                self.services.scale(&name, replicas, now_ms)?;
                Answer::Done
            }
            Command::Rollback { name, revision } => {
                Answer::Targeted(self.services.rollback(&name, revision, now_ms)?)
            }
            Command::Remove { name } => {
                self.services.remove(&name, now_ms)?;
                Answer::Done
            }
            Command::Reach { name } => Answer::Reached(self.reach(&name, now_ms)?),
            Command::Admit { peer, attempt, port } => {
                Answer::Port(self.admit(peer, attempt, &port).ok_or(ServiceError::Closed)?)
            }
        })
    }

    /// Where a service can be reached: one of this node as its machine knows it, another as its record says.
    fn reach(&self, name: &str, now_ms: u64) -> Result<Reached, ServiceError> {
        let me = self.me;
        if let Some(service) = self.services.service(name) {
            let Endpoints { ports, replicas } = service.endpoints();
            return Ok(Reached { me, ports, endpoints: replicas });
        }
        let key = record_key(name);
        let fitting: Vec<_> = self
            .catalog
            .resources(now_ms)
            .filter(|entry| *entry.key == key || format!("{}/{}", entry.author, entry.key) == name)
            .filter_map(|entry| match &entry.resource.detail {
                Detail::Service(detail) => Some((entry.author, detail.reach.clone()?)),
                _ => None,
            })
            .collect();
        let name = || name.chars().take(NAME_SHOWN).collect();
        match &fitting[..] {
            [] => Err(ServiceError::Nowhere { name: name() }),
            [(_, reach)] => {
                Ok(Reached { me, ports: ports_of(reach), endpoints: endpoints_of(reach) })
            }
            several => {
                let ids = several.iter().take(CANDIDATES_MAX);
                let candidates = ids.map(|(author, _)| format!("{author}/{key}")).collect();
                Err(ServiceError::Ambiguous { name: name(), count: several.len(), candidates })
            }
        }
    }

    /// The number of a port of a replica that runs here, if the peer may connect to it. Both organisations are those of
    /// certificates.
    fn admit(&self, peer: NodeId, attempt: AttemptId, port: &str) -> Option<u16> {
        let record = self.provider.record(attempt).filter(|record| record.ended.is_none())?;
        let spec = record.spec.service.as_ref()?;
        let org_of = |node: NodeId| match node {
            node if node == self.me => Some(self.admission.org()),
            node => self.admission.peer(node).map(|peer| peer.cert.org),
        };
        let (owner, caller) = (org_of(record.consumer)?, org_of(peer)?);
        let may = spec.access.allows(owner, caller)
            && self.trust(caller) != scheduler::place::Trust::Blocked;
        may.then(|| spec.ports.get(port).copied()).flatten()
    }

    /// Adds the content that the kept revisions name, and the logs of replicas that are there or are told of.
    pub(super) fn pin_services(&self, pins: &mut Pins) {
        for service in self.services.services() {
            for (revision, _) in service.revisions() {
                revision.content.assets.values().for_each(|stage| pins.add_stage(stage));
            }
            pins.logs.extend(service.members().map(|member| member.record.run));
            pins.logs.extend(service.events().filter_map(|event| run_of(&event.body)));
        }
    }
}

/// Whether a run belongs to a service.
pub(super) fn is_replica(run: &Run) -> bool {
    run.submission().replica.is_some()
}

fn ports_of(reach: &ServiceReach) -> BTreeMap<String, u16> {
    let port = |port: &ServicePort| Some((port.name.clone(), u16::try_from(port.port).ok()?));
    reach.ports.iter().filter_map(port).collect()
}

/// Those of a record's endpoints that are named as this program names them.
fn endpoints_of(reach: &ServiceReach) -> Vec<Endpoint> {
    let endpoint = |found: &ServiceEndpoint| {
        Some(Endpoint { node: found.node, attempt: found.attempt.parse().ok()? })
    };
    reach.endpoints.iter().filter_map(endpoint).collect()
}

pub(super) fn record_key(service: &str) -> String {
    format!("{KEY_PREFIX}{service}")
}

/// A service as the catalogue has it, for those who may connect.
fn describe(service: &Service, endpoints: &Endpoints) -> Option<OwnResource> {
    let document = service.document()?;
    let is_http = matches!(&document.spec.health, Some(h) if matches!(h.probe, Probe::Http { .. }))
        || document.spec.ports.keys().any(|name| name.starts_with("http"));
    let line = document.description.as_deref().and_then(|text| text.lines().next());
    let short: String =
        line.unwrap_or_default().chars().filter(|c| !c.is_control()).take(SHORT_MAX).collect();
    let detail = ServiceDetail {
        protocol: if is_http { "http" } else { "tcp" }.to_owned(),
        version: service.head().target.to_string(),
        interface: None,
        region: String::new(),
        maturity: Maturity::Stable,
        reach: Some(endpoints.reach()),
    };
    let resource = Resource {
        key: record_key(service.name()),
        name: service.name().to_owned(),
        short,
        long: String::new(),
        logo: None,
        licence: None,
        terms: None,
        price: None,
        detail: Detail::Service(detail),
    };
    let visibility = match &document.spec.access {
        Access::Owner => Visibility::Restricted(Vec::new()),
        Access::Realm => Visibility::Public,
        // Those beyond may connect, and have to be told where.
        Access::Orgs(orgs) => {
            Visibility::Restricted(orgs.iter().copied().take(AUDIENCE_MAX).collect())
        }
    };
    Some(OwnResource { resource, visibility })
}

/// How much of a description stands in a record, in characters.
const SHORT_MAX: usize = catalog::record::SHORT_LEN_MAX;
