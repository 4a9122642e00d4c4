//! The owner's policies for the API: changed on disk, then held, then told to the engine; asked; and the log of what they decided.

use std::sync::Arc;

use catalog::{NodeId, OrgId};
use tokio::sync::Mutex;

use super::handle::{CallError, Handle};
use super::org::now_ms;
use crate::engine::Engine;
use crate::engine::command::{Command, Response};
use crate::engine::policy::{Answer, Command as PolicyCommand};
use crate::identity::Caller;
use crate::policy::{Decision, KeepError, Keeper, Log, Page, Policies, Principal, Request, Stance};

/// Policies, their log, and whose they are.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub keeper: Arc<Keeper>,
    pub log: Arc<Log>,
    pub me: NodeId,
    pub org: OrgId,
    /// Of the home.
    dir: std::path::PathBuf,
    /// One change at a time, so that the engine is told of the last one last.
    changing: Arc<Mutex<()>>,
}

impl Desk {
    /// The policies of a home. The engine is told of them before anybody is there to be decided about.
    pub(super) fn open(home: &super::Home, engine: &mut Engine) -> Self {
        let keeper = Arc::new(Keeper::open(home.dir()));
        if let Some(because) = keeper.now().is_closed() {
            tracing::error!(%because, "the policies are refused: nobody but the owner may do anything until they are mended");
        }
        engine.set_policies(keeper.now());
        Self {
            keeper,
            log: Arc::new(Log::open(home.dir())),
            me: home.node_id(),
            org: home.org_id(),
            dir: home.dir().to_owned(),
            changing: Arc::default(),
        }
    }
}

/// A change of policies.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Write a file.
    Put {
        /// Its name.
        file: String,
        /// What is to stand in it.
        text: String,
        /// The mark of the text that it replaces.
        replaces: Option<String>,
    },
    /// Remove a file.
    Remove {
        /// Its name.
        file: String,
        /// The mark of the text that goes.
        replaces: Option<String>,
    },
    /// Read the files again.
    Reload,
}

/// Why policies were not changed, or the engine not told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotChanged {
    /// They are as they were.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// They are changed, and the engine does not know.
    #[error(
        "the files are changed, but not in force for peers yet: `opencloud policy reload` tries it again"
    )]
    Call(#[source] CallError),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

impl Handle {
    /// This node.
    pub(crate) const fn me(&self) -> NodeId {
        self.desk.me
    }

    /// Its organisation.
    pub(crate) const fn org(&self) -> OrgId {
        self.desk.org
    }

    /// The policies that hold now.
    pub(crate) fn policies(&self) -> Arc<Policies> {
        self.desk.keeper.now()
    }

    /// Changes policies; when that is told they are on disk and hold everywhere in the node.
    pub(crate) async fn change_policies(
        &self,
        change: Change,
    ) -> Result<Arc<Policies>, NotChanged> {
        let _turn = self.desk.changing.lock().await;
        let keeper = Arc::clone(&self.desk.keeper);
        let changed = tokio::task::spawn_blocking(move || match change {
            Change::Put { file, text, replaces } => keeper.put(&file, text, replaces.as_deref()),
            Change::Remove { file, replaces } => keeper.remove(&file, replaces.as_deref()),
            Change::Reload => keeper.reload(),
        });
        let policies = changed.await.map_err(|_| NotChanged::Stopped)??;
        let set = PolicyCommand::Set(Arc::clone(&policies));
        self.command(Command::Policy(set)).await.map_err(NotChanged::Call)?;
        Ok(policies)
    }

    /// What an organisation is to this node.
    pub(crate) async fn stance(&self, org: OrgId) -> Result<Stance, CallError> {
        if org == self.desk.org {
            return Ok(Stance::Own);
        }
        match self.command(Command::Policy(PolicyCommand::Org(org))).await? {
            Response::Policy(Answer::Known(Some((_, stance)))) => Ok(stance),
            _ => Ok(Stance::Stranger),
        }
    }

    /// Who asks, with what this node knows of it.
    pub(crate) async fn principal(&self, caller: &Caller) -> Result<Principal, CallError> {
        Ok(match caller {
            Caller::Owner => Principal::Owner,
            Caller::Person(person) => {
                Principal::Person { person: person.clone(), stance: self.stance(person.org).await? }
            }
        })
    }

    /// Decides, and writes it down. The owner is above policies, and nothing is written down of it.
    pub(crate) fn decide(&self, request: &Request) -> Decision {
        let decision = self.policies().decide(request);
        if request.principal != Principal::Owner {
            self.desk.log.note(request, &decision, now_ms());
        }
        decision
    }

    /// Gives the organisation another name; the node has it from its next start on.
    ///
    /// # Errors
    /// See [`super::HomeError`].
    pub(crate) async fn rename(&self, org_name: String) -> Result<(), super::HomeError> {
        let dir = self.desk.dir.clone();
        let file = dir.clone();
        let renamed =
            tokio::task::spawn_blocking(move || super::Home::rename(&dir, &org_name)).await;
        renamed.unwrap_or_else(|error| {
            Err(super::HomeError::Io { path: file, source: std::io::Error::other(error) })
        })
    }

    /// A page of the log of decisions.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) async fn decisions(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Page, CallError> {
        let log = Arc::clone(&self.desk.log);
        let read = tokio::task::spawn_blocking(move || log.read(before, limit)).await;
        let failed =
            |e: std::io::Error| CallError::Storage { detail: format!("the log of decisions: {e}") };
        read.map_err(|_| CallError::Stopped)?.map_err(failed)
    }
}
