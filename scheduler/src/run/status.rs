//! Where steps and tasks stand: the part of a run's state that others may look at. Only the fold changes it.

use std::collections::BTreeMap;

use catalog::{NodeId, OrgId};

use crate::task::{Failure, TaskId};
use crate::value::Value;

/// Where a task stands.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskStatus {
    /// Waits for a node, not before this time (Unix ms).
    Pending {
        /// Earliest start.
        not_before_ms: u64,
    },
    /// An attempt is under agreement.
    Running {
        /// Where.
        node: NodeId,
        /// The lane that bills it.
        lane: Option<u64>,
        /// Since when (Unix ms).
        since_ms: u64,
    },
    /// Done.
    Committed {
        /// Where.
        node: NodeId,
        /// Outputs by name.
        outputs: BTreeMap<String, Value>,
    },
    /// Failed for good.
    Failed {
        /// The last failure.
        failure: Failure,
    },
    /// The `when` of this item was false.
    Skipped,
}

/// One attempt, for `run show` and retry decisions.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRecord {
    /// 1 for the first.
    pub number: u32,
    /// Where.
    pub node: NodeId,
    /// Whose node.
    pub org: OrgId,
    /// When it started (Unix ms).
    pub started_ms: u64,
    /// How and when it failed, if it did.
    pub failure: Option<(u64, Failure)>,
    /// When it committed (Unix ms), if it did.
    pub committed_ms: Option<u64>,
}

/// One task of an opened step.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Where it stands.
    pub status: TaskStatus,
    /// Its attempts in order.
    pub attempts: Vec<AttemptRecord>,
    /// Attempts that ended through a provider's fault.
    pub provider_faults: u32,
}

impl Task {
    pub(super) fn new() -> Self {
        Self {
            status: TaskStatus::Pending { not_before_ms: 0 },
            attempts: Vec::new(),
            provider_faults: 0,
        }
    }

    /// Attempts that ended through the task's own fault.
    #[must_use]
    pub fn own_faults(&self) -> u32 {
        let failed = self.attempts.iter().filter(|a| a.failure.is_some()).count();
        u32::try_from(failed).unwrap_or(u32::MAX).saturating_sub(self.provider_faults)
    }
}

/// Where a step stands.
#[derive(Clone, Debug, PartialEq)]
pub enum StepStatus {
    /// Waits for other steps.
    Waiting,
    /// Its `when` was false.
    Skipped,
    /// Its tasks are known.
    Open {
        /// The items of its map; absent without a map.
        items: Option<Vec<Value>>,
        /// One task per item, or one.
        tasks: Vec<Task>,
        /// How many committed or were skipped.
        done: u32,
    },
}

pub(super) fn task_mut(steps: &mut [StepStatus], id: TaskId) -> Option<&mut Task> {
    match steps.get_mut(id.step as usize)? {
        StepStatus::Open { tasks, .. } => tasks.get_mut(id.index as usize),
        StepStatus::Waiting | StepStatus::Skipped => None,
    }
}
