//! The fold: how each event changes the state, live and when a stored log is read back. An event that does not fit the
//! state changes nothing but the count of events, which numbers the log and not what counted.

use std::collections::BTreeMap;

use catalog::{NodeId, OrgId};

use crate::task::{Failure, RunId, TaskId};
use crate::value::Value;

use super::status::task_mut;
use super::{AttemptRecord, Event, EventBody, Run, StepStatus, SubmitError, Task, TaskStatus};

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
    /// Folds a stored log.
    ///
    /// # Errors
    /// See [`ReplayError`].
    pub fn replay(id: RunId, events: impl IntoIterator<Item = Event>) -> Result<Self, ReplayError> {
        let mut events = events.into_iter();
        let Some(Event { at_ms, body: EventBody::Submitted { submission, by } }) = events.next()
        else {
            return Err(ReplayError::NoSubmission { run: id });
        };
        let workflow = submission
            .workflow()
            .map_err(|e| ReplayError::Submission { run: id, source: SubmitError::Workflow(e) })?;
        let mut run = Self::new(id, workflow, (submission, by), at_ms);
        for event in events {
            run.apply(&event);
        }
        Ok(run)
    }

    /// Folds one event in. An event that does not fit the state (a second commit, a fenced attempt) changes nothing.
    pub fn apply(&mut self, event: &Event) {
        self.events += 1;
        if self.ending.is_some() {
            return;
        }
        match &event.body {
            EventBody::Submitted { .. } | EventBody::SessionEnded { .. } => {}
            EventBody::SessionBegan { .. } => self.sessions = self.sessions.saturating_add(1),
            EventBody::Suspended { task, number } => {
                if self.is_current(*task, *number) && self.suspended.insert(*task) {
                    self.suspensions = self.suspensions.saturating_add(1);
                }
            }
            EventBody::Resumed { task, number } => {
                if self.is_current(*task, *number) {
                    self.suspended.remove(task);
                }
            }
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
        self.suspended.remove(&id);
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
        self.suspended.remove(&id);
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
}
