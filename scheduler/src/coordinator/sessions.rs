//! Sessions inside running tasks: where the task runs that its owner wants to go into, and what the run's log tells of it.
//! Whether anybody may is the provider's to say.

use catalog::NodeId;

use crate::run::{EventBody, Run};
use crate::task::{AttemptId, RunId, TaskId, TaskSpec};

use super::{Coordinator, Live, Stage};

/// Sessions that the log of one run tells of. Of further ones the node's own log tells alone: a run's log is kept for good,
/// and a program may look into a task every second.
const SESSIONS_TOLD_MAX: u32 = 256;

impl Coordinator {
    /// The number of the attempt with which a task runs now, where that is, and what it does.
    #[must_use]
    pub fn runs_at(&self, run: RunId, task: TaskId) -> Option<(u32, NodeId, &TaskSpec)> {
        match self.live.get(&(run, task))? {
            Live { number, spec, stage: Stage::Running { node }, .. } => {
                Some((*number, *node, spec))
            }
            _ => None,
        }
    }

    /// Writes into the run's log that a session began, unless enough of them stand there. Returns whether it was written; only
    /// then its end is worth telling.
    pub fn session_began(&mut self, attempt: AttemptId, what: String, now_ms: u64) -> bool {
        let AttemptId { run, task, number } = attempt;
        let is_told = self.is_open(attempt)
            && self.run(run).is_some_and(|run| run.sessions() < SESSIONS_TOLD_MAX);
        if is_told {
            self.record(run, EventBody::SessionBegan { task, number, what }, now_ms);
        }
        is_told
    }

    /// Writes into the run's log how a session ended, if the run still goes on.
    pub fn session_ended(&mut self, attempt: AttemptId, detail: String, now_ms: u64) {
        let AttemptId { run, task, number } = attempt;
        if self.is_open(attempt) {
            self.record(run, EventBody::SessionEnded { task, number, detail }, now_ms);
        }
    }

    /// Whether the run goes on and knows the attempt.
    fn is_open(&self, attempt: AttemptId) -> bool {
        let knows = |run: &Run| {
            let task = run.task(attempt.task);
            run.ending().is_none()
                && task.is_some_and(|t| t.attempts.iter().any(|a| a.number == attempt.number))
        };
        self.run(attempt.run).is_some_and(knows)
    }
}
