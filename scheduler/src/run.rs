//! A run: an append-only log of events, and the state that is a fold over it.
//!
//! [`Run::apply`] is the only way the state changes, so a run read back from disk is the run that wrote it. What follows
//! from the state alone (a step opens, a step is skipped, the run ends) comes from [`Run::next`]; what depends on the world
//! (an attempt started, ended, committed) comes from the [coordinator](crate::coordinator). The caller makes each event
//! durable before it acts on it.
//!
//! This file holds the state and what can be asked of it; `submission` makes a run, `event` names what can happen to one,
//! `replay` folds, `next` says what follows, and `status` is where steps and tasks stand.
//!
//! Invariants: a task commits at most once, and only the attempt that is running can commit it; nothing changes after
//! [`EventBody::Finished`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::task::{RunId, TaskId};
use crate::value::Value;
use crate::workflow::Workflow;

mod event;
mod next;
mod replay;
mod status;
mod submission;

pub use event::{Ending, Event, EventBody};
pub use replay::ReplayError;
pub use status::{AttemptRecord, StepStatus, Task, TaskStatus};
pub use submission::{Submission, SubmitError, Submitter};

/// Provider faults one task may meet before it counts as failed. They do not use up the author's attempts.
pub const PROVIDER_FAULTS_MAX: u32 = 10;

/// One execution of a workflow.
#[derive(Clone, Debug)]
pub struct Run {
    id: RunId,
    workflow: Workflow,
    submission: Submission,
    by: Option<Box<Submitter>>,
    submitted_ms: u64,
    steps: Vec<StepStatus>,
    /// Unfinished dependencies per step.
    blockers: Vec<u32>,
    dependents: Vec<Vec<u32>>,
    /// Steps whose dependencies are done and that are neither open nor skipped.
    openable: BTreeSet<u32>,
    unfinished: u32,
    /// Tasks that wait for a node, by earliest start.
    pending: BTreeSet<(u64, TaskId)>,
    running: BTreeSet<TaskId>,
    running_per_step: Vec<u32>,
    /// Those of `running` that stand still at their owner's wish.
    suspended: BTreeSet<TaskId>,
    trouble: Option<(Option<TaskId>, String)>,
    is_cancelling: bool,
    ending: Option<(u64, Ending, BTreeMap<String, Value>)>,
    events: u64,
    /// Sessions that its log tells of.
    sessions: u32,
    /// How often a task of it was suspended.
    suspensions: u32,
    /// The least number of a new attempt.
    least_number: u32,
}

impl Run {
    fn new(
        id: RunId,
        workflow: Workflow,
        (submission, by): (Submission, Option<Box<Submitter>>),
        submitted_ms: u64,
    ) -> Self {
        let n_steps = workflow.steps.len();
        let mut dependents = vec![Vec::new(); n_steps];
        let mut blockers = vec![0; n_steps];
        let mut openable = BTreeSet::new();
        for (index, step) in (0..).zip(&workflow.steps) {
            blockers[index as usize] = u32::try_from(step.deps.len()).unwrap_or(u32::MAX);
            if step.deps.is_empty() {
                openable.insert(index);
            }
            for &dep in &step.deps {
                dependents[dep as usize].push(index);
            }
        }
        Self {
            id,
            submission,
            by,
            submitted_ms,
            steps: vec![StepStatus::Waiting; n_steps],
            blockers,
            dependents,
            openable,
            unfinished: u32::try_from(n_steps).unwrap_or(u32::MAX),
            pending: BTreeSet::new(),
            running: BTreeSet::new(),
            running_per_step: vec![0; n_steps],
            suspended: BTreeSet::new(),
            trouble: None,
            is_cancelling: false,
            ending: None,
            events: 1,
            sessions: 0,
            suspensions: 0,
            least_number: 1,
            workflow,
        }
    }

    /// Numbers new attempts from `least` on: a log that was put back from a backup does not know the newest ones, and a number
    /// must never name two attempts.
    pub const fn number_from(&mut self, least: u32) {
        self.least_number = least;
    }

    /// Whether this try is the one that runs now: the only one that may end or commit the task.
    #[must_use]
    pub fn is_current(&self, id: TaskId, number: u32) -> bool {
        self.task(id).is_some_and(|task| {
            matches!(task.status, TaskStatus::Running { .. })
                && task.attempts.last().is_some_and(|a| a.number == number)
        })
    }

    /// The next task after `cursor` that may start now, with its earliest start (Unix ms); tasks under negotiation are
    /// among them. Begin with `None`; to go past a step, give its last possible index.
    #[must_use]
    pub fn startable_after(
        &self,
        cursor: Option<(u64, TaskId)>,
        now_ms: u64,
    ) -> Option<(u64, TaskId)> {
        let from = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.pending.range((from, Bound::Unbounded)).next();
        next.copied().filter(|(at, _)| *at <= now_ms)
    }

    /// When the next waiting task may start.
    #[must_use]
    pub fn next_start_ms(&self) -> Option<u64> {
        self.pending.first().map(|(at, _)| *at)
    }

    /// How many more tasks of the step may run beside the running ones.
    #[must_use]
    pub fn parallel_room(&self, step: u32) -> u32 {
        let running = self.running_per_step.get(step as usize).copied().unwrap_or(0);
        let max = self.workflow.steps[step as usize].map.as_ref().and_then(|m| m.max_parallel);
        max.unwrap_or(u32::MAX).saturating_sub(running)
    }

    /// The number the task's next attempt gets.
    #[must_use]
    pub fn next_number(&self, id: TaskId) -> u32 {
        let next = self.task(id).and_then(|t| t.attempts.last()).map_or(1, |a| a.number + 1);
        next.max(self.least_number)
    }

    /// The task, once its step is open.
    #[must_use]
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        match self.steps.get(id.step as usize)? {
            StepStatus::Open { tasks, .. } => tasks.get(id.index as usize),
            StepStatus::Waiting | StepStatus::Skipped => None,
        }
    }

    /// Tasks under agreement.
    #[must_use]
    pub const fn running(&self) -> &BTreeSet<TaskId> {
        &self.running
    }

    /// The run's id.
    #[must_use]
    pub const fn id(&self) -> RunId {
        self.id
    }

    /// The parsed document.
    #[must_use]
    pub const fn workflow(&self) -> &Workflow {
        &self.workflow
    }

    /// What was asked.
    #[must_use]
    pub const fn submission(&self) -> &Submission {
        &self.submission
    }

    /// For whom; nobody of the owner and of this node itself.
    #[must_use]
    pub fn by(&self) -> Option<&Submitter> {
        self.by.as_deref()
    }

    /// When it was submitted (Unix ms).
    #[must_use]
    pub const fn submitted_ms(&self) -> u64 {
        self.submitted_ms
    }

    /// Every step's status, in document order.
    #[must_use]
    pub fn steps(&self) -> &[StepStatus] {
        &self.steps
    }

    /// The step's name in the document.
    #[must_use]
    pub fn step_id(&self, step: u32) -> &str {
        self.workflow.steps.get(step as usize).map_or("?", |s| s.id.as_str())
    }

    /// When and how it ended, and its outputs.
    #[must_use]
    pub const fn ending(&self) -> Option<&(u64, Ending, BTreeMap<String, Value>)> {
        self.ending.as_ref()
    }

    /// Why it cannot succeed, once that is known.
    #[must_use]
    pub const fn trouble(&self) -> Option<&(Option<TaskId>, String)> {
        self.trouble.as_ref()
    }

    /// Whether it is being cancelled or failing: nothing new starts.
    #[must_use]
    pub const fn is_winding_down(&self) -> bool {
        self.is_cancelling || self.trouble.is_some()
    }

    /// Events so far: the sequence number of the next one.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// Sessions inside its tasks that its log tells of.
    #[must_use]
    pub const fn sessions(&self) -> u32 {
        self.sessions
    }

    /// Whether a task under agreement stands still at its owner's wish.
    #[must_use]
    pub fn is_suspended(&self, id: TaskId) -> bool {
        self.suspended.contains(&id)
    }

    /// How often a task of it was suspended.
    #[must_use]
    pub const fn suspensions(&self) -> u32 {
        self.suspensions
    }

    /// One word for tables: `running`, `cancelling`, `failing`, `succeeded`, `failed`, `cancelled`.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match (&self.ending, self.is_cancelling, &self.trouble) {
            (Some((_, Ending::Succeeded, _)), _, _) => "succeeded",
            (Some((_, Ending::Failed, _)), _, _) => "failed",
            (Some((_, Ending::Cancelled, _)), _, _) => "cancelled",
            (None, true, _) => "cancelling",
            (None, false, Some(_)) => "failing",
            (None, false, None) => "running",
        }
    }
}
