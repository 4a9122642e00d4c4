//! Why tasks run where they run, and where the steps of a workflow could.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{Amount, NodeId};
use scheduler::binding::Binding;
use scheduler::device;
use scheduler::place::{Candidate, Cost, Plan, Rejection, Request, plan_under};
use scheduler::run::{Event, EventBody, Run, StepStatus, Submission, TaskStatus};
use scheduler::task::{Needs, RunId, TaskId};

use super::Engine;
use super::command::{CommandError, Response, StepPlan, TaskExplanation};
use super::query::{TASKS_MAX, compiling, tasks_of};
use super::rules::Work;

impl Engine {
    pub(super) fn explain(&self, run: &Run) -> Vec<TaskExplanation> {
        let mut explained = Vec::new();
        for (index, status) in (0..).zip(run.steps()) {
            if matches!(status, StepStatus::Waiting) {
                let step = &run.workflow().steps[index as usize];
                let waits =
                    step.deps.iter().map(|dep| run.step_id(*dep)).collect::<Vec<_>>().join(", ");
                explained.push(TaskExplanation {
                    step: step.id.clone(),
                    index: 0,
                    state: "waiting".to_owned(),
                    reasons: vec![format!("waits for {waits}")],
                });
            }
        }
        for (id, task) in tasks_of(run).take(TASKS_MAX) {
            let mut reasons: Vec<String> = task
                .attempts
                .iter()
                .map(|a| match &a.failure {
                    Some((_, f)) => format!(
                        "attempt {} at {}: {} ({})",
                        a.number,
                        self.node_label(a.node),
                        f.detail,
                        f.class.as_str()
                    ),
                    None => format!("attempt {} at {}", a.number, self.node_label(a.node)),
                })
                .collect();
            reasons.extend(self.coordinator.preparing(run.id(), id).map(compiling));
            if task.attempts.is_empty() && self.coordinator.plan_of(run.id(), id).is_none() {
                reasons.push("waits until a node that could take it has room".to_owned());
            }
            if let Some(plan) = self.coordinator.plan_of(run.id(), id) {
                reasons.extend(plan.explain(&self.node_labels()));
            }
            let state = match &task.status {
                TaskStatus::Pending { .. } => "pending",
                TaskStatus::Running { .. } => "running",
                TaskStatus::Committed { .. } => "committed",
                TaskStatus::Failed { .. } => "failed",
                TaskStatus::Skipped => "skipped",
            };
            explained.push(TaskExplanation {
                step: run.step_id(id.step).to_owned(),
                index: id.index,
                state: state.to_owned(),
                reasons,
            });
        }
        explained
    }

    pub(super) fn plan_steps(
        &self,
        mut submission: Submission,
        estimate_ms: u64,
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        self.resolve_area(&mut submission)?;
        let strategy = submission.strategy;
        let binding_text = submission.binding.clone();
        let (mut run, _) = Run::submit(RunId::from_bytes([0; 16]), submission, None, now_ms)
            .map_err(|e| CommandError::Submission { detail: e.to_string() })?;
        // Steps without dependencies open now, so their width and inputs are known; what follows depends on results.
        while let Some(body @ (EventBody::StepOpened { .. } | EventBody::StepSkipped { .. })) =
            run.next()
        {
            run.apply(&Event { at_ms: now_ms, body });
        }
        let binding = binding_text.and_then(|text| Binding::parse(&text, run.workflow()).ok());
        let candidates = self.candidates(now_ms);
        let names = self.node_labels();
        let mut spent = BTreeMap::new();
        let steps = (0..)
            .zip(&run.workflow().steps)
            .map(|(index, step)| {
                let made = run.materialise(TaskId { step: index, index: 0 }).ok();
                let request = Request {
                    runtime: step.runtime(),
                    is_service: step.service.is_some(),
                    needs: step.needs.clone(),
                    inputs: made.as_ref().map(|made| made.spec.blobs()).unwrap_or_default(),
                    estimate_ms,
                    strategy: strategy
                        .or_else(|| binding.as_ref().and_then(Binding::strategy))
                        .unwrap_or_default(),
                    rule: binding.as_ref().map(|b| b.rule(&step.id)).unwrap_or_default(),
                    exclude: BTreeSet::new(),
                };
                let tasks = match &run.steps()[index as usize] {
                    StepStatus::Open { tasks, .. } => Some(tasks.len() as u64),
                    StepStatus::Skipped => Some(0),
                    StepStatus::Waiting => step.map.is_none().then_some(1),
                };
                let work = Work {
                    run: run.id(),
                    step: &step.id,
                    area: run.submission().area_id(),
                    runtime: step.runtime(),
                    blobs: request.inputs.iter().map(|(digest, _)| *digest).collect(),
                };
                let of = (TaskId { step: index, index: 0 }, tasks.unwrap_or(1));
                let found = self.plan_step(&work, of, (&candidates, &request), &mut spent, now_ms);
                StepPlan {
                    step: step.id.clone(),
                    after: step.deps.iter().map(|dep| run.step_id(*dep).to_owned()).collect(),
                    tasks,
                    estimate_ms,
                    counts_inputs: made.is_some(),
                    is_placeable: !found.ranked.is_empty(),
                    candidates: with_rates(&found, &names, &candidates, &step.needs),
                }
            })
            .collect();
        Ok(Response::Plan(steps))
    }
}

impl Engine {
    /// Where a step could run under the rules that hold for it. `spent` is what the steps before it are taken to cost; of its
    /// tasks all are counted, at the node that is best for one.
    fn plan_step(
        &self,
        work: &Work<'_>,
        (first, n_tasks): (TaskId, u64),
        (candidates, request): (&[Candidate], &Request),
        spent: &mut BTreeMap<(TaskId, u32), Cost>,
        now_ms: u64,
    ) -> Plan {
        let mut ruling = self.ruling_of(work, candidates, now_ms);
        if let Some(budget) = &mut ruling.budget {
            budget.attempts.clone_from(spent);
        }
        let mut found = plan_under(candidates, request, &ruling, now_ms);
        let Some(budget) = ruling.budget else { return found };
        let n_tasks = i64::try_from(n_tasks).unwrap_or(i64::MAX);
        let all = |(price, currency): Cost| {
            (Amount::from_nano(price.nano().saturating_mul(n_tasks)), currency)
        };
        for scored in std::mem::take(&mut found.ranked) {
            match budget.check(scored.price.map(all)) {
                Ok(()) => found.ranked.push(scored),
                Err(broken) => found.rejected.push((scored.node, Rejection::Area(broken))),
            }
        }
        if let Some(price) = found.ranked.first().and_then(|best| best.price) {
            spent.insert((first, 1), all(price));
        }
        found
    }
}

/// The plan's sentences; to each node that asks money, what it asks for an hour of such a task.
fn with_rates(
    plan: &Plan,
    names: &BTreeMap<NodeId, String>,
    candidates: &[Candidate],
    needs: &Needs,
) -> Vec<String> {
    let mut lines = plan.explain(names);
    for (line, scored) in lines.iter_mut().zip(&plan.ranked) {
        let candidate = candidates.iter().find(|candidate| candidate.node == scored.node);
        if let Some(rate) = candidate.and_then(|candidate| hourly(candidate, needs)) {
            line.push_str(&rate);
        }
    }
    lines
}

/// `, at 0.0232 EUR an hour and 0.0001 EUR for each attempt`, when the node asks money: for the cores and the memory that the task
/// needs, and for the devices that it holds.
fn hourly(candidate: &Candidate, needs: &Needs) -> Option<String> {
    let price = candidate.price.as_ref()?;
    let cpu = i128::from(price.cpu_nano_per_s) * i128::from(needs.cpu_milli) / 1_000;
    let memory =
        i128::from(price.memory_nano_per_gib_s) * i128::from(needs.memory_bytes) / (1 << 30);
    let devices = i128::from(price.device_nano_per_s) * i128::from(device::total(&needs.devices));
    let nano = i64::try_from((cpu + memory + devices).saturating_mul(3_600)).ok()?;
    let mut rate = format!(", at {} {} an hour", Amount::from_nano(nano), price.currency);
    if price.fixed > Amount::ZERO {
        rate.push_str(&format!(" and {} {} for each attempt", price.fixed, price.currency));
    }
    Some(rate)
}
