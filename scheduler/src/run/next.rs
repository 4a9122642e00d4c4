//! What follows from the state alone: the next step to open or skip, the end of the run, and a task with its references
//! resolved. Everything here reads the state and evaluates the document's expressions over it; nothing changes.

use std::collections::BTreeMap;

use crate::task::TaskId;
use crate::value::Value;
use crate::workflow::{EvalError, Materialised, Scope};

use super::{Ending, EventBody, Run, StepStatus, Task, TaskStatus};

impl Run {
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
        let mut made =
            self.with_scope(item, |scope| self.workflow.materialise(task.step, scope))?;
        made.spec.area = self.submission.area_id();
        Ok(made)
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
}
