//! A run: an append-only log of events, and the state that is a fold over it.
//!
//! [`Run::apply`] is the only way the state changes, so a run read back from disk is the run that wrote it. What follows
//! from the state alone (a step opens, a step is skipped, the run ends) comes from [`Run::next`]; what depends on the world
//! (an attempt started, ended, committed) comes from the [coordinator](crate::coordinator). The caller makes each event
//! durable before it acts on it.
//!
//! Invariants: a task commits at most once, and only the attempt that is running can commit it; nothing changes after
//! [`EventBody::Finished`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use catalog::{NodeId, OrgId};

use crate::place::Strategy;
use crate::task::{Failure, RunId, Stage, TaskId};
use crate::value::Value;
use crate::workflow::{Diagnostics, EvalError, Materialised, ParamError, Scope, Workflow};

/// Provider faults one task may meet before it counts as failed. They do not use up the author's attempts.
pub const PROVIDER_FAULTS_MAX: u32 = 10;

/// What a user asks to run.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Submission {
    /// The workflow document's text.
    pub source: String,
    /// Parameters by name; text values are read as the declared type.
    pub params: BTreeMap<String, Value>,
    /// Files and directories the document names, by the path written there.
    pub assets: BTreeMap<String, Stage>,
    /// The binding document's text.
    pub binding: Option<String>,
    /// What placement optimises; the binding's own choice, else performance, when absent.
    pub strategy: Option<Strategy>,
}

/// Why a submission is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The workflow document has errors.
    #[error("the workflow is not valid:\n{0}")]
    Workflow(Diagnostics),
    /// The binding document has errors.
    #[error("the binding is not valid:\n{0}")]
    Binding(Diagnostics),
    /// Parameters are missing, unknown or of the wrong type.
    #[error("the parameters do not fit: {}", list(.0))]
    Params(Vec<ParamError>),
    /// Files the document names were not given.
    #[error("the workflow names files that were not given: {}", .0.join(", "))]
    Assets(Vec<String>),
}

fn list(errors: &[ParamError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

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
    fn new() -> Self {
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

/// One execution of a workflow.
#[derive(Clone, Debug)]
pub struct Run {
    id: RunId,
    workflow: Workflow,
    submission: Submission,
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
    trouble: Option<(Option<TaskId>, String)>,
    is_cancelling: bool,
    ending: Option<(u64, Ending, BTreeMap<String, Value>)>,
    events: u64,
    /// The least number of a new attempt.
    least_number: u32,
}

/// A log that is not one a run wrote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// No first event, or another than `Submitted`.
    #[error("the log of {run} does not begin with its submission")]
    NoSubmission {
        /// The run.
        run: RunId,
    },
    /// The stored document is no longer accepted.
    #[error("the stored submission of {run} is not valid")]
    Submission {
        /// The run.
        run: RunId,
        /// Why.
        #[source]
        source: SubmitError,
    },
}

impl Run {
    /// Checks a submission and makes the run with its first event.
    ///
    /// # Errors
    /// See [`SubmitError`]; everything wrong of one kind is reported at once.
    pub fn submit(
        id: RunId,
        mut submission: Submission,
        now_ms: u64,
    ) -> Result<(Self, Event), SubmitError> {
        let workflow = Workflow::parse(&submission.source).map_err(SubmitError::Workflow)?;
        if let Some(binding) = &submission.binding {
            crate::binding::Binding::parse(binding, &workflow).map_err(SubmitError::Binding)?;
        }
        let missing: Vec<String> = workflow
            .asset_paths()
            .into_iter()
            .map(|asset| asset.path)
            .filter(|path| !submission.assets.contains_key(path))
            .collect();
        if !missing.is_empty() {
            return Err(SubmitError::Assets(missing));
        }
        let given = std::mem::take(&mut submission.params);
        submission.params = workflow.bind_params(given).map_err(SubmitError::Params)?;
        let event =
            Event { at_ms: now_ms, body: EventBody::Submitted { submission: submission.clone() } };
        Ok((Self::new(id, workflow, submission, now_ms), event))
    }

    /// Folds a stored log.
    ///
    /// # Errors
    /// See [`ReplayError`].
    pub fn replay(id: RunId, events: impl IntoIterator<Item = Event>) -> Result<Self, ReplayError> {
        let mut events = events.into_iter();
        let Some(Event { at_ms, body: EventBody::Submitted { submission } }) = events.next() else {
            return Err(ReplayError::NoSubmission { run: id });
        };
        let workflow = Workflow::parse(&submission.source)
            .map_err(|e| ReplayError::Submission { run: id, source: SubmitError::Workflow(e) })?;
        let mut run = Self::new(id, workflow, submission, at_ms);
        for event in events {
            run.apply(&event);
        }
        Ok(run)
    }

    fn new(id: RunId, workflow: Workflow, submission: Submission, submitted_ms: u64) -> Self {
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
            submitted_ms,
            steps: vec![StepStatus::Waiting; n_steps],
            blockers,
            dependents,
            openable,
            unfinished: u32::try_from(n_steps).unwrap_or(u32::MAX),
            pending: BTreeSet::new(),
            running: BTreeSet::new(),
            running_per_step: vec![0; n_steps],
            trouble: None,
            is_cancelling: false,
            ending: None,
            events: 1,
            least_number: 1,
            workflow,
        }
    }

    /// What follows from the state alone. The caller records it and applies it, until there is nothing more.
    #[must_use]
    pub fn next(&self) -> Option<EventBody> {
        if self.ending.is_some() {
            return None;
        }
        if self.is_cancelling || self.trouble.is_some() {
            let ending = if self.is_cancelling { Ending::Cancelled } else { Ending::Failed };
            return self
                .running
                .is_empty()
                .then(|| EventBody::Finished { ending, outputs: BTreeMap::new() });
        }
        if let Some(&step) = self.openable.first() {
            return Some(self.open(step).unwrap_or_else(|e| EventBody::Failing {
                task: None,
                detail: format!("step {}: {e}", self.step_id(step)),
            }));
        }
        (self.unfinished == 0).then(|| {
            match self.with_scope(None, |scope| self.workflow.collect_outputs(scope)) {
                Ok(outputs) => EventBody::Finished { ending: Ending::Succeeded, outputs },
                Err(e) => EventBody::Failing { task: None, detail: format!("outputs: {e}") },
            }
        })
    }

    fn open(&self, step: u32) -> Result<EventBody, EvalError> {
        self.with_scope(None, |scope| {
            if !self.workflow.should_run(step, scope)? {
                return Ok(EventBody::StepSkipped { step });
            }
            let items = self.workflow.expand(step, scope)?;
            let skipped = self.skipped_items(step, items.as_deref().unwrap_or_default())?;
            Ok(EventBody::StepOpened { step, items, skipped })
        })
    }

    fn skipped_items(&self, step: u32, items: &[Value]) -> Result<Vec<u32>, EvalError> {
        let mut skipped = Vec::new();
        if self.workflow.steps[step as usize].is_skipped_by_item() {
            for (index, item) in (0..).zip(items) {
                let runs = self.with_scope(Some((index, item)), |scope| {
                    self.workflow.should_run(step, scope)
                })?;
                if !runs {
                    skipped.push(index);
                }
            }
        }
        Ok(skipped)
    }

    fn with_scope<T>(&self, item: Option<(u32, &Value)>, body: impl FnOnce(&Scope<'_>) -> T) -> T {
        let outputs = |step: u32, name: &str| self.output(step, name);
        body(&Scope {
            params: &self.submission.params,
            assets: &self.submission.assets,
            outputs: &outputs,
            item,
        })
    }

    /// A finished step's output: a list in index order when the step is mapped, null when it was skipped.
    #[must_use]
    pub fn output(&self, step: u32, name: &str) -> Option<Value> {
        let of = |task: &Task| match &task.status {
            TaskStatus::Committed { outputs, .. } => {
                Some(outputs.get(name).cloned().unwrap_or_default())
            }
            TaskStatus::Skipped => Some(Value::Null),
            TaskStatus::Pending { .. } | TaskStatus::Running { .. } | TaskStatus::Failed { .. } => {
                None
            }
        };
        match self.steps.get(step as usize)? {
            StepStatus::Waiting => None,
            StepStatus::Skipped => Some(Value::Null),
            StepStatus::Open { items: None, tasks, .. } => tasks.first().and_then(of),
            StepStatus::Open { items: Some(_), tasks, .. } => {
                tasks.iter().map(of).collect::<Option<Vec<_>>>().map(Value::List)
            }
        }
    }

    /// The frozen task for a provider.
    ///
    /// # Errors
    /// When a reference cannot be resolved with the values that are there.
    pub fn materialise(&self, task: TaskId) -> Result<Materialised, EvalError> {
        let item = match self.steps.get(task.step as usize) {
            Some(StepStatus::Open { items: Some(items), .. }) => {
                items.get(task.index as usize).map(|item| (task.index, item))
            }
            _ => None,
        };
        self.with_scope(item, |scope| self.workflow.materialise(task.step, scope))
    }

    /// Folds one event in. An event that does not fit the state (a second commit, a fenced attempt) changes nothing.
    pub fn apply(&mut self, event: &Event) {
        self.events += 1;
        if self.ending.is_some() {
            return;
        }
        match &event.body {
            EventBody::Submitted { .. } => {}
            EventBody::StepOpened { step, items, skipped } => {
                self.apply_opened(*step, items.clone(), skipped);
            }
            EventBody::StepSkipped { step } => {
                if self.openable.remove(step) {
                    self.steps[*step as usize] = StepStatus::Skipped;
                    self.step_done(*step);
                }
            }
            EventBody::AttemptStarted { task, number, node, org, lane } => {
                self.apply_started(*task, *number, (*node, *org), *lane, event.at_ms);
            }
            EventBody::AttemptEnded { task, number, failure, retry_at_ms } => {
                self.apply_ended(*task, *number, failure, *retry_at_ms, event.at_ms);
            }
            EventBody::TaskCommitted { task, number, outputs } => {
                self.apply_committed(*task, *number, outputs, event.at_ms);
            }
            EventBody::Failing { task, detail } => {
                self.trouble.get_or_insert_with(|| (*task, detail.clone()));
                self.pending.clear();
            }
            EventBody::CancelRequested => {
                self.is_cancelling = true;
                self.pending.clear();
            }
            EventBody::Finished { ending, outputs } => {
                self.pending.clear();
                self.ending = Some((event.at_ms, *ending, outputs.clone()));
            }
        }
    }

    fn apply_opened(&mut self, step: u32, items: Option<Vec<Value>>, skipped: &[u32]) {
        if !self.openable.remove(&step) {
            return;
        }
        let n_tasks = items.as_ref().map_or(1, Vec::len);
        let mut tasks = vec![Task::new(); n_tasks];
        for index in skipped {
            if let Some(task) = tasks.get_mut(*index as usize) {
                task.status = TaskStatus::Skipped;
            }
        }
        let mut done = 0;
        for (index, task) in (0..).zip(&tasks) {
            if task.status == TaskStatus::Skipped {
                done += 1;
            } else {
                self.pending.insert((0, TaskId { step, index }));
            }
        }
        self.steps[step as usize] = StepStatus::Open { items, tasks, done };
        if done as usize == n_tasks {
            self.step_done(step);
        }
    }

    fn apply_started(
        &mut self,
        id: TaskId,
        number: u32,
        (node, org): (NodeId, OrgId),
        lane: Option<u64>,
        at_ms: u64,
    ) {
        let Some(task) = task_mut(&mut self.steps, id) else {
            return;
        };
        let TaskStatus::Pending { not_before_ms } = task.status else {
            return;
        };
        self.pending.remove(&(not_before_ms, id));
        task.status = TaskStatus::Running { node, lane, since_ms: at_ms };
        task.attempts.push(AttemptRecord {
            number,
            node,
            org,
            started_ms: at_ms,
            failure: None,
            committed_ms: None,
        });
        self.running.insert(id);
        self.running_per_step[id.step as usize] += 1;
    }

    fn apply_ended(
        &mut self,
        id: TaskId,
        number: u32,
        failure: &Failure,
        retry: Option<u64>,
        at_ms: u64,
    ) {
        if !self.is_current(id, number) {
            return;
        }
        let is_ending = self.is_cancelling || self.trouble.is_some();
        self.running.remove(&id);
        self.running_per_step[id.step as usize] -= 1;
        let Some(task) = task_mut(&mut self.steps, id) else {
            return;
        };
        if failure.class.is_provider_fault() {
            task.provider_faults += 1;
        }
        if let Some(attempt) = task.attempts.last_mut() {
            attempt.failure = Some((at_ms, failure.clone()));
        }
        task.status = match retry {
            Some(not_before_ms) => TaskStatus::Pending { not_before_ms },
            None => TaskStatus::Failed { failure: failure.clone() },
        };
        if let (Some(not_before_ms), false) = (retry, is_ending) {
            self.pending.insert((not_before_ms, id));
        }
    }

    fn apply_committed(
        &mut self,
        id: TaskId,
        number: u32,
        outputs: &BTreeMap<String, Value>,
        at_ms: u64,
    ) {
        if !self.is_current(id, number) {
            return;
        }
        self.running.remove(&id);
        self.running_per_step[id.step as usize] -= 1;
        let Some(StepStatus::Open { tasks, done, .. }) = self.steps.get_mut(id.step as usize)
        else {
            return;
        };
        let task = &mut tasks[id.index as usize];
        if let Some(attempt) = task.attempts.last_mut() {
            attempt.committed_ms = Some(at_ms);
            task.status = TaskStatus::Committed { node: attempt.node, outputs: outputs.clone() };
        }
        *done += 1;
        if *done as usize == tasks.len() {
            self.step_done(id.step);
        }
    }

    fn step_done(&mut self, step: u32) {
        self.unfinished -= 1;
        for &dependent in &self.dependents[step as usize] {
            self.blockers[dependent as usize] -= 1;
            if self.blockers[dependent as usize] == 0 {
                self.openable.insert(dependent);
            }
        }
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

    /// Numbers new attempts from `least` on: a log that was put back from a backup does not know the newest ones, and a number
    /// must never name two attempts.
    pub const fn number_from(&mut self, least: u32) {
        self.least_number = least;
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

fn task_mut(steps: &mut [StepStatus], id: TaskId) -> Option<&mut Task> {
    match steps.get_mut(id.step as usize)? {
        StepStatus::Open { tasks, .. } => tasks.get_mut(id.index as usize),
        StepStatus::Waiting | StepStatus::Skipped => None,
    }
}
