//! What is durable of a service, as records that each change on their own: what is wanted, the revisions, the replicas, the
//! last events. A record is written when it changed; there is no log to fold, for a service has no end.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{NodeId, OrgId};

use super::document::Document;
use super::spec::{Health, Spread};
use crate::place::Strategy;
use crate::run::Submitter;
use crate::task::{Failure, RunId, Stage};
use crate::workflow::Diagnostics;

/// Names a record among those of its service.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// What is wanted.
    Head,
    /// A revision by its number.
    Revision(u32),
    /// A replica by its run.
    Replica(RunId),
    /// An event by its place among the last [`super::EVENTS_MAX`] ones.
    Event(u32),
}

/// A durable record.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// What is wanted.
    Head(Head),
    /// A revision.
    Revision(Revision),
    /// A replica that has not ended.
    Replica(Replica),
    /// Something that happened.
    Event(Event),
}

/// What is wanted of a service, and how far that has come.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Head {
    /// The revision that every replica should be of.
    pub target: u32,
    /// The last revision of which all replicas were healthy at once: what a failed update goes back to.
    pub stable: Option<u32>,
    /// The number of the next revision.
    pub next_revision: u32,
    /// How many replicas there should be.
    pub replicas: u32,
    /// How many of them ended by themselves for good.
    pub finished: u32,
    /// One of those: the last that failed, or else the last that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_word: Option<LastWord>,
    /// How the last change of the revision goes.
    pub rollout: Rollout,
    /// What keeps replicas from being started.
    pub trouble: Trouble,
    /// Whether all are to end and nothing is to be left.
    pub is_removing: bool,
    /// Events so far: the number of the next one.
    pub events: u64,
}

impl Head {
    /// A replica ended, and its restart policy wants no other in its place.
    pub(super) fn finish(&mut self, run: RunId, node: Option<NodeId>, end: End) {
        self.finished = self.finished.saturating_add(1);
        // What failed says more than what was done.
        let has_failed = self.last_word.as_ref().is_some_and(LastWord::is_failure);
        let word = LastWord { run, node, end };
        if word.is_failure() || !has_failed {
            self.last_word = Some(word);
        }
    }

    /// As many as are asked for are wanted again, whatever ended before.
    pub(super) fn begin_again(&mut self) {
        self.finished = 0;
        self.last_word = None;
    }
}

/// A replica that ended for good: its service's restart policy starts no other in its place.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LastWord {
    /// Which.
    pub run: RunId,
    /// Where it ran.
    pub node: Option<NodeId>,
    /// How it ended.
    pub end: End,
}

impl LastWord {
    /// Whether it ended otherwise than with code 0.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        !matches!(self.end, End::Done)
    }
}

/// How the last change of the revision goes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rollout {
    /// Every replica is of the wanted revision.
    Done,
    /// Replicas are replaced.
    Rolling {
        /// Since when (Unix ms).
        since_ms: u64,
        /// When it last came further (Unix ms).
        progress_ms: u64,
        /// Replicas of the new revision that ended before they were healthy.
        crashes: u32,
        /// Where.
        crashed_on: BTreeSet<NodeId>,
    },
    /// The revision never got healthy. What was stable before is wanted again, if anything was.
    Stopped {
        /// The revision that failed.
        revision: u32,
        /// When (Unix ms).
        at_ms: u64,
        /// Why.
        reason: StopReason,
    },
}

/// Why an update stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Its replicas ended before they were healthy, again and again.
    Crashing,
    /// Its replicas run and do not get healthy.
    NotHealthy,
    /// No node takes its replicas.
    NotPlaced,
}

impl StopReason {
    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Crashing => "its replicas ended before they were healthy",
            Self::NotHealthy => "its replicas did not get healthy",
            Self::NotPlaced => "no node took its replicas",
        }
    }
}

/// Failures in a row, and the pause they cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Trouble {
    /// Rounds of replicas in a row that ended through their own fault.
    pub crashes: u32,
    /// When the last of them ended (Unix ms).
    pub crashed_ms: u64,
    /// Rounds in a row that ended through a provider's fault.
    pub faults: u32,
    /// When the last of them ended (Unix ms).
    pub faulted_ms: u64,
    /// Before this time (Unix ms) nothing is started in place of those.
    pub not_before_ms: u64,
    /// How many starts that holds back.
    pub owed: u32,
}

/// What was deployed, unchanged for good.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Revision {
    /// From 1.
    pub number: u32,
    /// When it was deployed (Unix ms).
    pub deployed_ms: u64,
    /// What was asked.
    pub content: Content,
    /// For whom; nobody of the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Box<Submitter>>,
}

/// What a user asks to run as a service.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Content {
    /// The service document's text.
    pub source: String,
    /// Files and directories the document names, by the path or digest written there.
    pub assets: BTreeMap<String, Stage>,
    /// The binding document's text; the one step is called [`super::STEP`].
    pub binding: Option<String>,
    /// What placement optimises; the binding's own choice, else performance, when absent.
    pub strategy: Option<Strategy>,
    /// What the service is called, when not as its document says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Content {
    /// The document, under the name that the service has.
    ///
    /// # Errors
    /// Every problem of the document.
    pub fn document(&self) -> Result<Document, Diagnostics> {
        let mut document = Document::parse(&self.source)?;
        if let Some(name) = &self.name {
            document.name.clone_from(name);
        }
        Ok(document)
    }
}

/// A replica that has not ended: a run of one step.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Replica {
    /// Its run.
    pub run: RunId,
    /// Its revision.
    pub revision: u32,
    /// When it was started (Unix ms).
    pub started_ms: u64,
    /// Where it is, once both sides signed.
    pub place: Option<Place>,
    /// Whether it ever was healthy.
    pub was_ready: bool,
    /// Why and when it is to end.
    pub leaving: Option<Leaving>,
}

/// Where a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// Its organisation.
    pub org: OrgId,
    /// Number of the attempt under agreement.
    pub number: u32,
    /// Since when (Unix ms): the agreement's beginning.
    pub since_ms: u64,
}

/// A replica that is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Leaving {
    /// Why.
    pub why: Why,
    /// When it is told to end (Unix ms); until then it keeps the connections it has.
    pub cancel_at_ms: u64,
    /// Whether it was told.
    pub is_cancelled: bool,
}

/// Why a replica is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It is of another revision than the wanted one.
    Outdated,
    /// Its agreement ends soon, and others took over.
    Renewed,
    /// There are more than wanted.
    Surplus,
    /// Its provider says that it is unhealthy, or does not get healthy.
    Unhealthy,
    /// Connections to it fail, whatever its provider says.
    Unreachable,
    /// The service is removed.
    Removed,
}

impl Why {
    /// The word in events and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outdated => "outdated",
            Self::Renewed => "renewed",
            Self::Surplus => "surplus",
            Self::Unhealthy => "unhealthy",
            Self::Unreachable => "unreachable",
            Self::Removed => "removed",
        }
    }
}

/// How a replica ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The program ended with code 0.
    Done,
    /// The attempt failed.
    Failed(Failure),
    /// It was cancelled before or while it ran.
    Cancelled,
    /// It could not even be asked for.
    Refused {
        /// Why, for people.
        detail: String,
    },
}

/// Something that happened to a service, for its owner.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// Its number, from 0.
    pub seq: u64,
    /// When (Unix ms).
    pub at_ms: u64,
    /// What.
    pub body: EventBody,
}

/// What can happen to a service.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum EventBody {
    /// A revision is wanted: a new one, or an older one again.
    Targeted {
        /// Its number.
        revision: u32,
    },
    /// Another number of replicas is wanted.
    Scaled {
        /// How many.
        replicas: u32,
    },
    /// A replica was asked for.
    Started {
        /// Its run.
        run: RunId,
        /// Its revision.
        revision: u32,
    },
    /// Both sides signed for a replica.
    Placed {
        /// Its run.
        run: RunId,
        /// Where.
        node: NodeId,
    },
    /// What the provider says of a replica changed.
    Health {
        /// Its run.
        run: RunId,
        /// To this.
        health: Health,
    },
    /// A replica is to end.
    Leaving {
        /// Its run.
        run: RunId,
        /// Why.
        why: Why,
    },
    /// A replica ended.
    Ended {
        /// Its run.
        run: RunId,
        /// How.
        end: End,
    },
    /// Every replica is of the wanted revision and healthy.
    RolledOut {
        /// The revision.
        revision: u32,
    },
    /// An update stopped.
    Stopped {
        /// The revision that failed.
        revision: u32,
        /// Why.
        reason: StopReason,
        /// The revision that is wanted instead.
        back_to: Option<u32>,
    },
    /// The service is to be removed.
    Removing,
}

/// Of which service a run is a replica, and from what it should keep away. It is part of the run's submission.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ReplicaOf {
    /// The service's name.
    pub service: String,
    /// The revision.
    pub revision: u32,
    /// What replicas keep away from each other by.
    pub spread: Spread,
    /// The replica that this one is to replace, whose node is as good as a free one.
    pub replaces: Option<RunId>,
    /// Nodes that disappointed lately: asked when nobody else takes it.
    pub avoid: BTreeSet<NodeId>,
}
