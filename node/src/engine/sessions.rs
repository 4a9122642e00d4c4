//! Sessions inside running tasks: which attempt the owner means and where it runs, and whether a peer may go inside one that
//! runs here.
//!
//! The provider's owner opens tasks (`up --exec`), and even then only the consumer of an attempt gets inside: the node that
//! signed its agreement and pays for it, if its organisation is trusted as much as the owner wants. The attempt's agreement
//! is all that is asked; no name or claim of the sender's counts.

use catalog::NodeId;
use catalog::record::Insiders;
use scheduler::place::Trust;
use scheduler::run::{Run, TaskStatus};
use scheduler::task::{AttemptId, RunId, RuntimeKind, TaskId};

use super::Engine;
use super::command::{CommandError, Response};
use crate::session::Kind;

/// How much of a name an error repeats, in characters.
const NAME_SHOWN: usize = 80;
/// Most names of steps that an error lists; the others are counted.
const STEPS_SHOWN: usize = 20;

/// A question or a note about sessions.
#[derive(Clone, Debug)]
pub enum Command {
    /// Which attempt is meant, and where it runs; the answer is [`Answer::Found`].
    Find {
        /// The run.
        run: RunId,
        /// The task in it.
        which: Which,
        /// What is wanted there.
        kind: Kind,
    },
    /// Whether a peer may go inside an attempt that runs here; the answer is [`Answer::Admitted`].
    Admit {
        /// Who, proved by the connection.
        peer: NodeId,
        /// Which.
        attempt: AttemptId,
        /// What is wanted there.
        kind: Kind,
    },
    /// A session began in an attempt of this node's run; the answer is [`Answer::Noted`].
    Began {
        /// Which.
        attempt: AttemptId,
        /// The command in one line, or `console`.
        what: String,
    },
    /// A session ended whose beginning was noted; the answer is [`Answer::Noted`].
    Ended {
        /// Which.
        attempt: AttemptId,
        /// How.
        detail: String,
    },
}

/// A task of a run.
#[derive(Clone, Debug)]
pub enum Which {
    /// By the step's name.
    Step {
        /// The step.
        step: String,
        /// The map index.
        index: u32,
        /// The attempt, which has to be the one that runs; that one when absent.
        attempt: Option<u32>,
    },
    /// The only one of a service's replica.
    Replica {
        /// The service.
        service: String,
    },
}

/// An answer.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// This attempt, which runs there.
    Found(Place),
    /// It may.
    Admitted,
    /// Whether the run's log tells of it.
    Noted(bool),
}

/// Where an attempt runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which.
    pub attempt: AttemptId,
    /// The provider.
    pub node: NodeId,
    /// This node.
    pub me: NodeId,
}

/// Why nobody gets inside a task.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The run has no such step.
    #[error("{run} has no step `{step}`; its steps are {known}")]
    NoStep {
        /// The run.
        run: RunId,
        /// As asked.
        step: String,
        /// Those it has.
        known: String,
    },
    /// The task does not run now.
    #[error("{task} of {run} does not run now: {state}")]
    NotRunning {
        /// The run.
        run: RunId,
        /// The task.
        task: String,
        /// Where it stands, and the way out.
        state: String,
    },
    /// Another attempt runs now.
    #[error("attempt {asked} of {task} does not run now: attempt {running} does")]
    OtherAttempt {
        /// The task.
        task: String,
        /// As asked.
        asked: u32,
        /// The one that runs.
        running: u32,
    },
    /// The task stands still.
    #[error("the task is suspended: `opencloud run resume {run} STEP` lets it go on")]
    Suspended {
        /// The run.
        run: RunId,
    },
    /// The run is no replica of the service.
    #[error("{run} is no replica of service `{service}` that runs now")]
    NoReplica {
        /// The run.
        run: RunId,
        /// As asked.
        service: String,
    },
    /// The runtime has nothing of the kind.
    #[error("{0}")]
    Unsuited(&'static str),
    /// A peer asks for what is not here or not for it; which of them it does not learn.
    #[error("no task runs here for you as this attempt")]
    Closed,
    /// The owner opens tasks to nobody, or not to this peer's organisation.
    #[error("{}", not_open(*.open))]
    NotOpen {
        /// To whom they are open.
        open: Option<Insiders>,
    },
}

fn not_open(open: Option<Insiders>) -> String {
    let whom = match open {
        None => "nobody, to you neither",
        Some(Insiders::Own) => "its own organisation alone",
        Some(Insiders::Partners) => "its own organisation and partners alone",
        // Whoever is refused even so is blocked.
        Some(Insiders::Realm) => "the organisations that it works for",
    };
    format!(
        "the owner of the node has opened tasks to {whom}: `opencloud up --exec` there opens them"
    )
}

/// What there is inside tasks of a runtime.
///
/// # Errors
/// Why not, and the way out.
pub fn suits(kind: Kind, runtime: RuntimeKind) -> Result<(), SessionError> {
    let why = match (kind, runtime) {
        (Kind::Exec, RuntimeKind::Container) | (Kind::Console, RuntimeKind::Vm) => return Ok(()),
        (Kind::Exec, RuntimeKind::Vm) => {
            "the task is a machine of its own, into which a node starts no commands: use `opencloud run console`"
        }
        (Kind::Console, RuntimeKind::Container) => {
            "the task is a container, which has no console: use `opencloud run exec` with --tty and a shell"
        }
        (_, RuntimeKind::Wasi) => {
            "the task is a WebAssembly module, which is one program alone with nothing inside: `opencloud run logs` shows what it writes"
        }
        (_, RuntimeKind::Slurm) => {
            "the task is a job of a cluster, whose scheduler alone reaches its machines: `opencloud run logs` shows what it writes"
        }
    };
    Err(SessionError::Unsuited(why))
}

/// Whether what is open to `open` is open to an organisation that is trusted so.
pub(super) const fn is_open_to(open: Option<Insiders>, trust: Trust) -> bool {
    match (open, trust) {
        (None, _) | (_, Trust::Blocked) => false,
        (Some(_), Trust::Own) | (Some(Insiders::Partners | Insiders::Realm), Trust::Partner) => {
            true
        }
        (Some(insiders), Trust::Partner | Trust::Peer) => matches!(insiders, Insiders::Realm),
    }
}

impl Engine {
    pub(super) fn handle_session_command(
        &mut self,
        command: Command,
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        let answer = match command {
            Command::Find { run, which, kind } => Answer::Found(self.find_place(run, which, kind)?),
            Command::Admit { peer, attempt, kind } => {
                self.admit_session(peer, attempt, kind)?;
                Answer::Admitted
            }
            Command::Began { attempt, what } => {
                Answer::Noted(self.coordinator.session_began(attempt, what, now_ms))
            }
            Command::Ended { attempt, detail } => {
                self.coordinator.session_ended(attempt, detail, now_ms);
                Answer::Noted(true)
            }
        };
        Ok(Response::Session(answer))
    }

    fn find_place(&self, id: RunId, which: Which, kind: Kind) -> Result<Place, CommandError> {
        let (place, runtime) = self.find_attempt(id, which)?;
        suits(kind, runtime)?;
        if self.coordinator.is_suspended(id, place.attempt.task) {
            return Err(SessionError::Suspended { run: id }.into());
        }
        Ok(place)
    }

    /// The attempt with which a task runs now, and what executes it.
    pub(super) fn find_attempt(
        &self,
        id: RunId,
        which: Which,
    ) -> Result<(Place, RuntimeKind), CommandError> {
        let run = self.coordinator.run(id).ok_or(CommandError::NoRun { run: id })?;
        let (task, asked) = match which {
            Which::Replica { service } => {
                let is_its = self.service_of_run(id).as_ref() == Some(&service);
                if !is_its {
                    let service = service.chars().take(NAME_SHOWN).collect();
                    return Err(SessionError::NoReplica { run: id, service }.into());
                }
                (TaskId { step: 0, index: 0 }, None)
            }
            Which::Step { step, index, attempt } => {
                if let Some(service) = self.service_of_run(id) {
                    return Err(CommandError::Replica { run: id, service });
                }
                (TaskId { step: step_of(run, &step)?, index }, attempt)
            }
        };
        let name = || format!("{}[{}]", run.step_id(task.step), task.index);
        let Some((number, node, spec)) = self.coordinator.runs_at(id, task) else {
            let state = why_not_running(run, task);
            return Err(SessionError::NotRunning { run: id, task: name(), state }.into());
        };
        if let Some(asked) = asked.filter(|asked| *asked != number) {
            let running = number;
            return Err(SessionError::OtherAttempt { task: name(), asked, running }.into());
        }
        let attempt = AttemptId { run: id, task, number };
        Ok((Place { attempt, node, me: self.me }, spec.program.runtime()))
    }

    /// Whether a peer may go inside an attempt that runs here.
    fn admit_session(
        &self,
        peer: NodeId,
        attempt: AttemptId,
        kind: Kind,
    ) -> Result<(), SessionError> {
        let record = self.provider.record(attempt);
        let record = record.filter(|r| r.ended.is_none() && r.consumer == peer);
        let record = record.ok_or(SessionError::Closed)?;
        let trust = match peer {
            peer if peer == self.me => Trust::Own,
            peer => {
                let known = self.admission.peer(peer).ok_or(SessionError::Closed)?;
                self.trust(known.cert.org)
            }
        };
        let open = self.settings.compute.exec;
        if !is_open_to(open, trust) {
            return Err(SessionError::NotOpen { open });
        }
        suits(kind, record.spec.program.runtime())
    }
}

/// Where a task stands that does not run, and the way out.
fn why_not_running(run: &Run, task: TaskId) -> String {
    let state = match run.task(task).map(|task| &task.status) {
        None if run.ending().is_none() && task.index == 0 => "its step has not begun",
        None => "the step has no task of this index",
        Some(TaskStatus::Pending { .. }) => "it waits for a node",
        Some(TaskStatus::Running { .. }) => "it has ended, and its outputs are on their way",
        Some(TaskStatus::Committed { .. }) => "it is done",
        Some(TaskStatus::Failed { .. }) => "it has failed",
        Some(TaskStatus::Skipped) => "it was skipped",
    };
    format!("{state}; `opencloud run show {}` shows which do", run.id())
}

fn step_of(run: &Run, name: &str) -> Result<u32, SessionError> {
    let steps = &run.workflow().steps;
    let found = (0_u32..).zip(steps).find(|(_, step)| step.id == name);
    found.map(|(position, _)| position).ok_or_else(|| {
        let known: Vec<String> = steps.iter().take(STEPS_SHOWN).map(|s| s.id.clone()).collect();
        SessionError::NoStep {
            run: run.id(),
            step: name.chars().take(NAME_SHOWN).collect(),
            known: super::command::named(&known, steps.len()),
        }
    })
}

impl From<SessionError> for CommandError {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_open_to_whom_the_owner_says_and_never_to_the_blocked() {
        let all = [Trust::Own, Trust::Partner, Trust::Peer, Trust::Blocked];
        for (open, expected) in [
            (None, [false, false, false, false]),
            (Some(Insiders::Own), [true, false, false, false]),
            (Some(Insiders::Partners), [true, true, false, false]),
            (Some(Insiders::Realm), [true, true, true, false]),
        ] {
            assert_eq!(all.map(|trust| is_open_to(open, trust)), expected, "{open:?}");
        }
    }

    #[test]
    fn each_runtime_has_one_way_inside_or_none_and_says_which() {
        for (runtime, exec, console) in [
            (RuntimeKind::Container, None, Some("run exec")),
            (RuntimeKind::Vm, Some("run console"), None),
            (RuntimeKind::Wasi, Some("run logs"), Some("run logs")),
            (RuntimeKind::Slurm, Some("run logs"), Some("run logs")),
        ] {
            for (kind, hint) in [(Kind::Exec, exec), (Kind::Console, console)] {
                let told = suits(kind, runtime).err().map(|error| error.to_string());
                assert_eq!(told.is_some(), hint.is_some(), "{kind:?} {runtime:?}");
                assert!(told.is_none_or(|told| told.contains(hint.unwrap_or("?"))));
            }
        }
    }
}
