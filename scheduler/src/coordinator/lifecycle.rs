//! A run comes and goes: it is submitted or taken back from its log, cancelled or wound down, followed to its end, and
//! forgotten when there are too many and it is the oldest finished one. No task is placed here; what a stage has under way
//! is stopped through that stage.

use crate::binding::Binding;
use crate::negotiate::Message;
use crate::run::{EventBody, Run, Submission, SubmitError, Submitter};
use crate::task::{AttemptId, RunId, TaskId};

use super::{Action, Coordinator, Key, LEASE_MS, Live, Stage, cancelled};

/// Runs kept in memory; the oldest finished ones leave first.
const RUNS_MAX: usize = 10_000;

impl Coordinator {
    /// Takes a run back from its log after a restart: attempts under agreement get a fresh lease, and what their providers
    /// may fetch is granted again.
    pub fn restore(&mut self, run: Run, now_ms: u64) {
        let id = run.id();
        self.keep_binding(&run);
        if run.ending().is_none() {
            self.active.insert(id);
            self.join_group(&run);
            for &task in run.running() {
                let Some((node, number)) = run
                    .task(task)
                    .and_then(|t| t.attempts.last())
                    .map(|attempt| (attempt.node, attempt.number))
                else {
                    continue;
                };
                let Ok(made) = run.materialise(task) else {
                    continue;
                };
                let spec = made.spec;
                let attempt = AttemptId { run: id, task, number };
                self.grant(node, attempt, &spec);
                let is_suspended = run.is_suspended(task);
                if !is_suspended {
                    self.take_cpu(node, spec.needs.cpu_milli);
                }
                let live = Live {
                    number,
                    digest: spec.digest(),
                    spec,
                    deadline_ms: now_ms + 2 * LEASE_MS,
                    stage: Stage::Running { node },
                    estimate: None,
                    is_suspended,
                };
                self.put((id, task), live);
            }
        }
        self.runs.insert(id, run);
        self.is_dirty = true;
    }

    /// Starts a run, for a person or for the owner.
    ///
    /// # Errors
    /// See [`SubmitError`]. Nothing is kept of a refused submission.
    pub fn submit(
        &mut self,
        id: RunId,
        submission: Submission,
        by: Option<Box<Submitter>>,
        now_ms: u64,
    ) -> Result<(), SubmitError> {
        let (run, event) = Run::submit(id, submission, by, now_ms)?;
        self.actions.push(Action::Record { run: id, seq: 0, event: Box::new(event) });
        self.keep_binding(&run);
        self.join_group(&run);
        self.runs.insert(id, run);
        self.active.insert(id);
        self.is_dirty = true;
        self.forget_oldest();
        Ok(())
    }

    /// Asks a run to stop. Returns whether there is such a run that had not ended.
    pub fn cancel(&mut self, id: RunId, now_ms: u64) -> bool {
        let Some(run) = self.runs.get(&id) else {
            return false;
        };
        if run.ending().is_some() {
            return false;
        }
        if !run.is_winding_down() {
            self.record(id, EventBody::CancelRequested, now_ms);
            self.wind_down(id, now_ms);
        }
        true
    }

    /// Stops what a run has under way: unanswered questions are withdrawn, running attempts are told to stop.
    pub(super) fn wind_down(&mut self, id: RunId, now_ms: u64) {
        let keys: Vec<Key> = self.keys_of(id);
        for key in keys {
            let Some(live) = self.live.get(&key) else {
                continue;
            };
            let attempt = AttemptId { run: key.0, task: key.1, number: live.number };
            match &live.stage {
                Stage::Asking { .. } | Stage::Accepted { .. } => self.withdraw(key),
                Stage::Running { node } => {
                    let to = *node;
                    self.send(to, Message::Cancel { attempt });
                }
                Stage::Collecting { .. } => {
                    self.end_attempt(key, cancelled(), now_ms, &mut || 0);
                }
            }
        }
        self.is_dirty = true;
    }

    /// Records what follows from a run's state alone.
    pub(super) fn follow(&mut self, id: RunId, now_ms: u64) {
        while let Some(body) = self.runs.get(&id).and_then(Run::next) {
            let is_end = matches!(body, EventBody::Finished { .. });
            let is_trouble = matches!(body, EventBody::Failing { .. });
            self.record(id, body, now_ms);
            if is_trouble {
                self.wind_down(id, now_ms);
            }
            if is_end {
                self.active.remove(&id);
                self.leave_group(id);
                self.barred.retain(|(run, _), _| *run != id);
                let first = (id, TaskId { step: 0, index: 0 });
                while let Some((&key, _)) =
                    self.plans.range(first..).next().filter(|(key, _)| key.0 == id)
                {
                    self.plans.remove(&key);
                }
                return;
            }
        }
    }

    /// Forgets a run that has ended. Returns how many events its log has, so that the caller can remove them; `None` of a run
    /// that is not there or goes on.
    pub fn forget(&mut self, id: RunId) -> Option<u64> {
        let events = self.runs.get(&id).filter(|run| run.ending().is_some())?.events();
        self.runs.remove(&id);
        self.bindings.remove(&id);
        Some(events)
    }

    fn keep_binding(&mut self, run: &Run) {
        let binding = run.submission().binding.as_deref();
        if let Some(Ok(binding)) = binding.map(|text| Binding::parse(text, run.workflow())) {
            self.bindings.insert(run.id(), binding);
        }
    }

    fn forget_oldest(&mut self) {
        while self.runs.len() > RUNS_MAX {
            let oldest = self
                .runs
                .values()
                .filter(|r| r.ending().is_some())
                .min_by_key(|r| r.submitted_ms());
            let Some(id) = oldest.map(Run::id) else {
                return;
            };
            self.runs.remove(&id);
            self.bindings.remove(&id);
        }
    }

    fn keys_of(&self, id: RunId) -> Vec<Key> {
        let first = (id, TaskId { step: 0, index: 0 });
        let last = (id, TaskId { step: u32::MAX, index: u32::MAX });
        self.live.range(first..=last).map(|(key, _)| *key).collect()
    }
}
