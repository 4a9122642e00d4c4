//! Running tasks that stand still at their owner's wish. The wish goes to the provider by another way; here it is heard what has
//! become of it, with the provider's next report, and told in the run's log.

use crate::negotiate::Phase;
use crate::run::{EventBody, Run};
use crate::task::{AttemptId, RunId, TaskId};

use super::{Coordinator, Live, Stage};

/// Suspensions that the log of one run tells of. Of further ones it is silent, and whoever wishes one is refused: a run's log is
/// kept for good, and it is others who report.
pub const SUSPENSIONS_MAX: u32 = 256;

impl Coordinator {
    /// Whether a further suspension of its tasks would be told in the log of a run that there is.
    #[must_use]
    pub fn may_be_suspended(&self, run: RunId) -> bool {
        self.run(run).is_some_and(|run| run.suspensions() < SUSPENSIONS_MAX)
    }

    /// Whether a task stands still, by its provider's last word.
    #[must_use]
    pub fn is_suspended(&self, run: RunId, task: TaskId) -> bool {
        let live = self.live.get(&(run, task));
        live.is_some_and(|live| live.is_suspended && matches!(live.stage, Stage::Running { .. }))
    }

    /// Takes a provider's word about a current attempt that runs there.
    pub(super) fn note_phase(&mut self, attempt: AttemptId, phase: Phase, now_ms: u64) {
        let AttemptId { run, task, number } = attempt;
        let is_suspended = phase == Phase::Suspended;
        let Some(Live { stage: Stage::Running { node }, spec, is_suspended: was, .. }) =
            self.live.get_mut(&(run, task))
        else {
            return;
        };
        if std::mem::replace(was, is_suspended) == is_suspended {
            return;
        }
        let (node, cpu_milli) = (*node, spec.needs.cpu_milli);
        if is_suspended {
            self.release_cpu(node, cpu_milli);
        } else {
            self.take_cpu(node, cpu_milli);
        }
        let is_told = self.run(run).is_some_and(|known: &Run| known.is_suspended(task));
        if is_suspended && !is_told && self.may_be_suspended(run) {
            self.record(run, EventBody::Suspended { task, number }, now_ms);
        } else if !is_suspended && is_told {
            self.record(run, EventBody::Resumed { task, number }, now_ms);
        }
    }
}
