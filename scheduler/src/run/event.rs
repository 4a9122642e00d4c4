//! What can happen to a run: the entries of its log. They are stored, so a change here has to read what older nodes wrote.

use std::collections::BTreeMap;

use catalog::{NodeId, OrgId};

use crate::task::{Failure, TaskId};
use crate::value::Value;

use super::{Submission, Submitter};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Every step committed or was skipped.
    Succeeded,
    /// A task failed for good.
    Failed,
    /// Its owner cancelled it.
    Cancelled,
}

/// One fact of a run's history.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// When the coordinator wrote it, Unix milliseconds; for people, order comes from the log.
    pub at_ms: u64,
    /// What happened.
    pub body: EventBody,
}

/// What can happen to a run.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum EventBody {
    /// The first event.
    Submitted {
        /// What was asked, with parameters bound.
        submission: Submission,
        /// By whom; absent of the owner and of this node itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Box<Submitter>>,
    },
    /// A step's inputs are there; its map, if any, is fixed to these items.
    StepOpened {
        /// The step.
        step: u32,
        /// The items of its map; absent without a map.
        items: Option<Vec<Value>>,
        /// Positions of the items whose `when` was false.
        skipped: Vec<u32>,
    },
    /// A step's `when` was false.
    StepSkipped {
        /// The step.
        step: u32,
    },
    /// Both sides signed for this try.
    AttemptStarted {
        /// The task.
        task: TaskId,
        /// Number of the try.
        number: u32,
        /// Where it runs.
        node: NodeId,
        /// Whose node that is.
        org: OrgId,
        /// The lane that bills it; absent on the coordinator's own node.
        lane: Option<u64>,
    },
    /// Somebody of the owner's went inside the task: with a command, or at its console.
    SessionBegan {
        /// The task.
        task: TaskId,
        /// Number of the try.
        number: u32,
        /// The command in one line, or `console`; what is long is cut.
        what: String,
    },
    /// And left again.
    SessionEnded {
        /// The task.
        task: TaskId,
        /// Number of the try.
        number: u32,
        /// How it ended, for people.
        detail: String,
    },
    /// A try stands still at its owner's wish: by its provider's word it holds its files and nothing else.
    Suspended {
        /// The task.
        task: TaskId,
        /// Number of the try.
        number: u32,
    },
    /// And goes on.
    Resumed {
        /// The task.
        task: TaskId,
        /// Number of the try.
        number: u32,
    },
    /// A try ended without result.
    AttemptEnded {
        /// The task.
        task: TaskId,
        /// Number of the try.
        number: u32,
        /// Why.
        failure: Failure,
        /// When the next try may start; absent when there is none.
        retry_at_ms: Option<u64>,
    },
    /// The outputs are here and count.
    TaskCommitted {
        /// The task.
        task: TaskId,
        /// Number of the try that made them.
        number: u32,
        /// Outputs by name.
        outputs: BTreeMap<String, Value>,
    },
    /// The run cannot succeed any more.
    Failing {
        /// The task that failed, when one did.
        task: Option<TaskId>,
        /// Why, for people.
        detail: String,
    },
    /// The owner asked to stop.
    CancelRequested,
    /// The last event.
    Finished {
        /// How.
        ending: Ending,
        /// The workflow's outputs, when it succeeded.
        outputs: BTreeMap<String, Value>,
    },
}
