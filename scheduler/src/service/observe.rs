//! What a replica's run says of the replica.

use super::record::{End, Place};
use super::state::TASK;
use crate::run::{Ending, Run, TaskStatus};

/// Where the run of a replica stands. It is a function of the run, so that it can be told again at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// No node has taken it.
    Waiting,
    /// Both sides signed.
    Placed(Place),
    /// Nothing of it is left.
    Ended(End),
}

impl Observed {
    /// What a run says.
    #[must_use]
    pub fn of(run: &Run) -> Self {
        let task = run.task(TASK);
        let last = task.and_then(|task| task.attempts.last());
        if let Some((_, ending, _)) = run.ending() {
            let failure = last.and_then(|attempt| attempt.failure.as_ref());
            return Self::Ended(match (ending, failure) {
                (Ending::Succeeded, _) => End::Done,
                (_, Some((_, failure))) => End::Failed(failure.clone()),
                (Ending::Cancelled, None) => End::Cancelled,
                (Ending::Failed, None) => {
                    let detail = run.trouble().map(|(_, detail)| detail.clone());
                    End::Refused { detail: detail.unwrap_or_default() }
                }
            });
        }
        match (task.map(|task| &task.status), last) {
            (Some(TaskStatus::Running { node, .. }), Some(attempt)) => Self::Placed(Place {
                node: *node,
                org: attempt.org,
                number: attempt.number,
                since_ms: attempt.started_ms,
            }),
            _ => Self::Waiting,
        }
    }
}
