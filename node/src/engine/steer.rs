//! Tasks that are suspended and resumed: which attempt the owner means and where it runs, and what the consumer of one that runs
//! here may have done with it.
//!
//! Nobody gets inside a task by this, so the provider's owner need not have opened it: an attempt belongs to the node that signed
//! its agreement and pays for it. That node alone is obeyed, and no name or claim of a sender's counts.

use catalog::NodeId;
use scheduler::coordinator::SUSPENSIONS_MAX;
use scheduler::negotiate::Wish;
use scheduler::provider::NoTurn;
use scheduler::task::{AttemptId, RunId, RuntimeKind};

use super::Engine;
use super::command::{CommandError, Response};
use super::sessions::{Place, Which};

/// A question or a note about tasks that stand still.
#[derive(Clone, Debug)]
pub enum Command {
    /// Which attempt is meant, and where it runs; the answer is [`Answer::Found`].
    Find {
        /// The run.
        run: RunId,
        /// The task in it.
        which: Which,
        /// What is wanted of it.
        wish: Wish,
    },
    /// A peer wants something of an attempt that runs here; the answer is [`Answer::Admitted`]. Then the runtime is to do it.
    Admit {
        /// Who, proved by the connection.
        peer: NodeId,
        /// Which.
        attempt: AttemptId,
        /// What is wanted of it.
        wish: Wish,
    },
    /// The runtime has done what was admitted, or could not; the answer is [`Answer::Noted`].
    Turned {
        /// Which.
        attempt: AttemptId,
        /// What was wanted of it.
        wish: Wish,
        /// Whether that is done.
        is_done: bool,
    },
}

/// An answer.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// This attempt, which runs there.
    Found(Place),
    /// It may be done, and what it needs is reserved.
    Admitted,
    /// It is known.
    Noted,
}

/// Why a task is not suspended or resumed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SteerError {
    /// Its provider does not do it.
    #[error(transparent)]
    No(#[from] NoTurn),
    /// The run's log tells of as many suspensions as it may.
    #[error(
        "tasks of {run} were suspended {SUSPENSIONS_MAX} times, which is as often as those of one run may be"
    )]
    TooOften {
        /// Which.
        run: RunId,
    },
}

impl From<SteerError> for CommandError {
    fn from(error: SteerError) -> Self {
        Self::Steer(error)
    }
}

impl Engine {
    pub(super) fn handle_steer_command(
        &mut self,
        command: Command,
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        let answer = match command {
            Command::Find { run, which, wish } => {
                let (place, runtime) = self.find_attempt(run, which)?;
                if runtime != RuntimeKind::Vm {
                    return Err(SteerError::No(NoTurn::Unsuited(runtime)).into());
                }
                if wish == Wish::Suspend && !self.coordinator.may_be_suspended(run) {
                    return Err(SteerError::TooOften { run }.into());
                }
                Answer::Found(place)
            }
            Command::Admit { peer, attempt, wish } => {
                self.provider.handle_wish(peer, attempt, wish).map_err(SteerError::No)?;
                Answer::Admitted
            }
            Command::Turned { attempt, wish, is_done } => {
                if self.provider.handle_turned(attempt, wish, is_done, now_ms) {
                    self.ledger.turn(attempt, wish == Wish::Suspend, now_ms);
                }
                Answer::Noted
            }
        };
        Ok(Response::Steer(answer))
    }
}
