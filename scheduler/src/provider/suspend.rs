//! Attempts that stand still at their consumer's wish.
//!
//! ```text
//!              may it? is there room for the saved memory of one more?        the runtime has done it
//!  running ───────────────────────────────────────────────────► suspending ─────────────────────────► suspended
//!  suspended ─────────────────────────────────────────────────► resuming ───────────────────────────► running
//!              may it? is what it needs free again?                           the runtime has done it
//! ```
//!
//! A suspended attempt holds its disk and nothing else, is reported as any other, and ends as any other: at the consumer's
//! wish, when that is silent, at the limit of what it may cost, after [`SUSPENDED_MS_MAX`]. It has no process, and a restart of
//! this node ends it as it ends those that run.
//!
//! Invariants: what an attempt needs is reserved before its runtime is told to resume it, and given back only when the runtime
//! has suspended it; of one attempt one wish is fulfilled at a time.

use catalog::NodeId;

use crate::capacity::ReserveError;
use crate::negotiate::{Phase, Wish};
use crate::task::{AttemptId, RuntimeKind};

use super::{Job, Provider};

/// Most attempts that are suspended at a time, or about to be: each holds files of this node. Of more, consumers are refused.
pub const SUSPENDED_MAX: usize = 64;
/// How long an attempt may be suspended in milliseconds; then it ends as one that took too long. A week, because its disk is
/// billed up to its time limit only.
pub const SUSPENDED_MS_MAX: u64 = 7 * 24 * 3_600_000;

/// Why a wish is not fulfilled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoTurn {
    /// There is no such attempt, it has ended, or it is another's; which of them the peer does not learn.
    #[error("no task runs here for you as this attempt")]
    Closed,
    /// Its runtime knows no such thing.
    #[error("only tasks in virtual machines can be suspended, and this is one of `{}`", .0.as_str())]
    Unsuited(RuntimeKind),
    /// Its service would replace it.
    #[error(
        "a replica of a service is not suspended: its service would start another in its place"
    )]
    Replica,
    /// It does not run yet.
    #[error("the task is still starting: try again when it runs")]
    NotYet,
    /// It is being stopped.
    #[error("the task is about to end")]
    Stopping,
    /// Another wish is being fulfilled.
    #[error("the task is just about to {}: try again later", .0.as_str())]
    Turning(Wish),
    /// It stands still already.
    #[error("the task is suspended already")]
    Suspended,
    /// It does not stand still.
    #[error("the task is not suspended")]
    NotSuspended,
    /// As many are suspended as may be.
    #[error("{SUSPENDED_MAX} tasks are suspended at this node, and more may not be")]
    TooMany,
    /// Others have what it needs. It stays suspended.
    #[error("the task stays suspended, because its node is full: {0}; try again later")]
    Full(ReserveError),
}

impl Job {
    /// Whether it was suspended for too long.
    pub(super) fn is_overdue(&self, now_ms: u64) -> bool {
        self.suspended_ms.is_some_and(|at| now_ms.saturating_sub(at) > SUSPENDED_MS_MAX)
    }

    /// Why a wish makes no sense for it, if so.
    fn refuses(&self, wish: Wish) -> Option<NoTurn> {
        let spec = &self.record.spec;
        let runtime = spec.program.runtime();
        match (wish, self.phase) {
            (_, Phase::Ended) => Some(NoTurn::Closed),
            _ if self.is_stopping.is_some() => Some(NoTurn::Stopping),
            _ if runtime != RuntimeKind::Vm => Some(NoTurn::Unsuited(runtime)),
            _ if spec.service.is_some() => Some(NoTurn::Replica),
            (_, Phase::Fetching | Phase::Preparing) => Some(NoTurn::NotYet),
            _ if self.turning.is_some() => self.turning.map(NoTurn::Turning),
            (Wish::Suspend, Phase::Suspended) => Some(NoTurn::Suspended),
            (Wish::Resume, Phase::Running) => Some(NoTurn::NotSuspended),
            (Wish::Suspend, Phase::Running) | (Wish::Resume, Phase::Suspended) => None,
        }
    }
}

impl Provider {
    /// A consumer wants an attempt of its own suspended or resumed. When it may be, what that needs is reserved, the caller has
    /// the runtime do it, and answers with [`Self::handle_turned`] in any case.
    ///
    /// # Errors
    /// See [`NoTurn`]; nothing changes then.
    pub fn handle_wish(
        &mut self,
        from: NodeId,
        attempt: AttemptId,
        wish: Wish,
    ) -> Result<(), NoTurn> {
        let is_saved = |job: &Job| {
            job.phase != Phase::Ended
                && (job.suspended_ms.is_some() || job.turning == Some(Wish::Suspend))
        };
        let n_suspended = self.jobs.values().filter(|job| is_saved(job)).count();
        let job = self.jobs.get_mut(&attempt).filter(|job| job.record.consumer == from);
        let job = job.ok_or(NoTurn::Closed)?;
        if let Some(no) = job.refuses(wish) {
            return Err(no);
        }
        match (wish, job.reservation) {
            (Wish::Suspend, _) if n_suspended >= SUSPENDED_MAX => return Err(NoTurn::TooMany),
            (Wish::Suspend, _) => {}
            (Wish::Resume, Some(id)) => self.capacity.resume(id).map_err(NoTurn::Full)?,
            // What runs under agreement has a reservation.
            (Wish::Resume, None) => return Err(NoTurn::Closed),
        }
        job.turning = Some(wish);
        Ok(())
    }

    /// The runtime has suspended or resumed an attempt, or could not. Whether the attempt stands otherwise than before; the
    /// consumer hears of that at once. An attempt that has ended meanwhile is not changed.
    pub fn handle_turned(
        &mut self,
        attempt: AttemptId,
        wish: Wish,
        is_done: bool,
        now_ms: u64,
    ) -> bool {
        let Some(job) = self.jobs.get_mut(&attempt).filter(|job| job.turning == Some(wish)) else {
            return false;
        };
        job.turning = None;
        if job.phase == Phase::Ended {
            return false;
        }
        // One that could not be resumed gives back again what it was to have.
        let is_suspended = (wish == Wish::Suspend) == is_done;
        if is_suspended && let Some(id) = job.reservation {
            let held = self.capacity.suspend(id);
            debug_assert!(held.is_ok(), "what runs under agreement has a reservation");
        }
        if is_done {
            job.phase = if is_suspended { Phase::Suspended } else { Phase::Running };
            job.suspended_ms = is_suspended.then_some(now_ms);
            self.status_at_ms = self.status_at_ms.min(now_ms);
        }
        is_done
    }
}
