//! What the owner wants: deploy, scale, roll back, remove. A command changes what is wanted; the next round acts on it.

use std::collections::BTreeSet;

use super::document::Document;
use super::machine::{Effect, Services};
use super::record::{Content, EventBody, Head, Key, Revision, Rollout, Trouble};
use super::state::Service;
use super::{REPLICAS_MAX, SERVICES_MAX};
use crate::binding::Binding;
use crate::run::Submitter;
use crate::workflow::{Asset, DOCUMENT_NAME, Diagnostics, is_document_name};

/// What a deployment did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// The service.
    pub service: String,
    /// The revision that is wanted now.
    pub revision: u32,
    /// Whether it is a new one; the same content deployed again is not.
    pub is_new: bool,
}

/// Why a deployment is refused. Nothing is kept of it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DeployError {
    /// The service document has errors.
    #[error("the service is not valid:\n{0}")]
    Document(Diagnostics),
    /// The binding document has errors.
    #[error("the binding is not valid:\n{0}")]
    Binding(Diagnostics),
    /// It cannot be called so.
    #[error("`{name}` is no name for a service: {DOCUMENT_NAME}")]
    Name {
        /// The name, cut to 80 characters.
        name: String,
    },
    /// Files the document names were not given.
    #[error("the service names files that were not given: {}", .0.join(", "))]
    Assets(Vec<String>),
    /// It is being removed.
    #[error("service `{name}` is being removed: deploy it when it is gone, or under another name")]
    Removing {
        /// Its name.
        name: String,
    },
    /// [`SERVICES_MAX`] services are there.
    #[error("{SERVICES_MAX} services run from this node, no more are allowed: remove one first")]
    Full,
    /// Only an existing service was to be changed.
    #[error(transparent)]
    Unknown(#[from] UnknownService),
}

/// No service has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no service is called `{name}` here")]
pub struct UnknownService {
    /// The name, cut to 80 characters.
    pub name: String,
}

/// Why a service cannot be scaled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScaleError {
    /// No such service.
    #[error(transparent)]
    Unknown(#[from] UnknownService),
    /// It is being removed.
    #[error("service `{name}` is being removed")]
    Removing {
        /// Its name.
        name: String,
    },
    /// More than [`REPLICAS_MAX`].
    #[error("{replicas} replicas, at most {REPLICAS_MAX} are allowed")]
    TooMany {
        /// How many were wanted.
        replicas: u32,
    },
}

/// Why a service cannot go back to a revision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RollbackError {
    /// No such service.
    #[error(transparent)]
    Unknown(#[from] UnknownService),
    /// It is being removed.
    #[error("service `{name}` is being removed")]
    Removing {
        /// Its name.
        name: String,
    },
    /// The revision is not kept, or never was.
    #[error("service `{name}` has no revision {revision} to go back to: kept are {}", list(.kept))]
    NoRevision {
        /// Its name.
        name: String,
        /// The revision.
        revision: u32,
        /// Those there are.
        kept: Vec<u32>,
    },
    /// There is nothing before the wanted revision.
    #[error("service `{name}` has no earlier revision to go back to")]
    NothingBefore {
        /// Its name.
        name: String,
    },
}

fn list(numbers: &[u32]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn unknown(name: &str) -> UnknownService {
    UnknownService { name: name.chars().take(80).collect() }
}

impl Services {
    /// Deploys a service: the first revision of a new one, or another of one that is there, which is then updated. The same
    /// content again changes nothing, unless its update had stopped: that is tried again.
    ///
    /// # Errors
    /// See [`DeployError`].
    pub fn deploy(
        &mut self,
        content: Content,
        by: Option<Box<Submitter>>,
        now_ms: u64,
    ) -> Result<Deployed, DeployError> {
        let document = check(&content)?;
        let name = document.name.clone();
        let known = self.services.len();
        let service = match self.services.get_mut(&name) {
            Some(service) if service.head.is_removing => {
                return Err(DeployError::Removing { name });
            }
            Some(service) => service,
            None if known >= SERVICES_MAX => return Err(DeployError::Full),
            None => {
                let head = Head {
                    target: 0,
                    stable: None,
                    next_revision: 1,
                    replicas: 1,
                    finished: 0,
                    last_word: None,
                    rollout: Rollout::Done,
                    trouble: Trouble::default(),
                    is_removing: false,
                    events: 0,
                };
                self.services
                    .entry(name.clone())
                    .or_insert_with(|| Service::new(name.clone(), head))
            }
        };
        if let Some(replicas) = document.replicas {
            scale(service, replicas, now_ms);
        }
        let same =
            service.revisions.values().rev().find(|(r, _)| r.content == content && r.by == by);
        let (revision, is_new) = match same.map(|(revision, _)| revision.number) {
            Some(number) => (number, false),
            None => {
                let number = service.head.next_revision;
                service.head.next_revision = number.saturating_add(1);
                let revision = Revision { number, deployed_ms: now_ms, content, by };
                service.revisions.insert(number, (revision, document));
                service.dirty.insert(Key::Revision(number));
                (number, true)
            }
        };
        target(service, revision, now_ms);
        service.due_ms = 0;
        Ok(Deployed { service: name, revision, is_new })
    }

    /// As [`Self::deploy`], for a service that has to be there.
    ///
    /// # Errors
    /// See [`DeployError`].
    pub fn update(
        &mut self,
        content: Content,
        by: Option<Box<Submitter>>,
        now_ms: u64,
    ) -> Result<Deployed, DeployError> {
        let document = check(&content)?;
        if !self.services.contains_key(&document.name) {
            return Err(unknown(&document.name).into());
        }
        self.deploy(content, by, now_ms)
    }

    /// Wants another number of replicas.
    ///
    /// # Errors
    /// See [`ScaleError`].
    pub fn scale(&mut self, name: &str, replicas: u32, now_ms: u64) -> Result<(), ScaleError> {
        if replicas > REPLICAS_MAX {
            return Err(ScaleError::TooMany { replicas });
        }
        let service = self.services.get_mut(name).ok_or_else(|| unknown(name))?;
        if service.head.is_removing {
            return Err(ScaleError::Removing { name: name.to_owned() });
        }
        scale(service, replicas, now_ms);
        service.due_ms = 0;
        Ok(())
    }

    /// Wants an earlier revision again: the one named, or the newest before the wanted one. After an update that stopped and
    /// was taken back by itself, that is agreed to. Returns which.
    ///
    /// # Errors
    /// See [`RollbackError`].
    pub fn rollback(
        &mut self,
        name: &str,
        revision: Option<u32>,
        now_ms: u64,
    ) -> Result<u32, RollbackError> {
        let service = self.services.get_mut(name).ok_or_else(|| unknown(name))?;
        let name = name.to_owned();
        if service.head.is_removing {
            return Err(RollbackError::Removing { name });
        }
        let wanted = service.head.target;
        let before = || match service.head.rollout {
            // The update that failed was taken back already, and this is to agree.
            Rollout::Stopped { revision, .. } if revision != wanted => Some(wanted),
            _ => service.revisions.range(..wanted).next_back().map(|(number, _)| *number),
        };
        let Some(revision) = revision.or_else(before) else {
            return Err(RollbackError::NothingBefore { name });
        };
        if !service.revisions.contains_key(&revision) {
            let kept = service.revisions.keys().copied().collect();
            return Err(RollbackError::NoRevision { name, revision, kept });
        }
        target(service, revision, now_ms);
        service.due_ms = 0;
        Ok(revision)
    }

    /// Ends every replica and then forgets the service. Its name leaves the catalogue at once.
    ///
    /// # Errors
    /// [`UnknownService`]. Removing twice is no error.
    pub fn remove(&mut self, name: &str, now_ms: u64) -> Result<(), UnknownService> {
        let service = self.services.get_mut(name).ok_or_else(|| unknown(name))?;
        if !service.head.is_removing {
            service.head.is_removing = true;
            service.note(now_ms, EventBody::Removing);
            service.published = None;
            service.due_ms = 0;
            self.effects.push(Effect::Withdraw { service: name.to_owned() });
        }
        Ok(())
    }
}

/// Everything that can be known to be wrong before there is a replica.
fn check(content: &Content) -> Result<Document, DeployError> {
    let document = content.document().map_err(DeployError::Document)?;
    if !is_document_name(&document.name) {
        return Err(DeployError::Name { name: document.name.chars().take(80).collect() });
    }
    let workflow = document.workflow();
    if let Some(binding) = &content.binding {
        Binding::parse(binding, &workflow).map_err(DeployError::Binding)?;
    }
    let named = document.asset_paths().into_iter().map(|Asset { path, .. }| path);
    let blobs = workflow.blobs().into_keys().map(|digest| digest.to_string());
    let missing: Vec<String> =
        named.chain(blobs).filter(|path| !content.assets.contains_key(path)).collect();
    if missing.is_empty() { Ok(document) } else { Err(DeployError::Assets(missing)) }
}

fn scale(service: &mut Service, replicas: u32, now_ms: u64) {
    if service.head.replicas == replicas && service.head.events > 0 {
        return;
    }
    service.head.replicas = replicas;
    service.head.begin_again();
    // Time in which nothing was wanted is no time without progress.
    if let Rollout::Rolling { progress_ms, .. } = &mut service.head.rollout {
        *progress_ms = now_ms;
    }
    service.note(now_ms, EventBody::Scaled { replicas });
}

/// Wants a revision. Nothing happens when it is wanted already and its update did not stop.
fn target(service: &mut Service, revision: u32, now_ms: u64) {
    let is_stopped = matches!(service.head.rollout, Rollout::Stopped { .. });
    if service.head.target == revision && !is_stopped {
        return;
    }
    service.head.target = revision;
    service.head.begin_again();
    service.head.trouble = Trouble::default();
    service.head.rollout = Rollout::Rolling {
        since_ms: now_ms,
        progress_ms: now_ms,
        crashes: 0,
        crashed_on: BTreeSet::new(),
    };
    service.note(now_ms, EventBody::Targeted { revision });
    service.forget_revisions();
}
