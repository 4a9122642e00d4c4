//! Waiting → asking: picks the tasks of a run that may start, ranks the candidates with what this coordinator learnt of
//! them, and asks the best for quotes. A task that nobody can take stays waiting and is planned again after a pause; the
//! plan is kept either way, so that `run explain` can say why.

use std::collections::{BTreeMap, BTreeSet};

use catalog::NodeId;

use crate::binding::Binding;
use crate::negotiate::{Message, RequestId};
use crate::place::{Budget, Candidate, Rejection, Request, Rule, Ruling, Strategy, plan_under};
use crate::run::{EventBody, Run};
use crate::task::{AttemptId, RunId, SERVICE_ESTIMATE_MS, TaskId, TaskSpec};
use crate::workflow::Materialised;

use super::{
    Action, Coordinator, Judge, Key, Live, NEGOTIATING_MAX, QUOTE_TIMEOUT_MS, Stage, ToPlace,
};

/// Pause after nobody could take a task.
const REPLAN_MS: u64 = 500;
/// How long a task is taken to run while nothing is known of it.
const ESTIMATE_MS: u64 = 1_000;
/// Steps without a taker after which one pass over a run stops.
const BARREN_MAX: u32 = 16;

impl Coordinator {
    pub(super) fn start_tasks(
        &mut self,
        id: RunId,
        now_ms: u64,
        (candidates, asked): (&mut dyn FnMut() -> Vec<Candidate>, &mut Option<Vec<Candidate>>),
        judge: &mut Judge<'_>,
        entropy: &mut dyn FnMut() -> u64,
    ) {
        let mut room: BTreeMap<u32, u32> = BTreeMap::new();
        let mut cursor = None;
        let mut barren = 0;
        while self.negotiating < NEGOTIATING_MAX && barren < BARREN_MAX {
            let Some(run) = self.runs.get(&id).filter(|r| !r.is_winding_down()) else { return };
            let Some((at_ms, task)) = run.startable_after(cursor, now_ms) else { break };
            cursor = Some((at_ms, task));
            // Tasks of one step need the same, so the first that finds no place stands for the rest.
            let past_step = Some((at_ms, TaskId { step: task.step, index: u32::MAX }));
            let left = room.entry(task.step).or_insert_with(|| run.parallel_room(task.step));
            if *left == 0 {
                cursor = past_step;
                continue;
            }
            if self.live.contains_key(&(id, task)) {
                *left -= 1;
                continue;
            }
            let needs_cpu = run.workflow().steps[task.step as usize].needs.cpu_milli;
            let pool = asked.get_or_insert_with(&mut *candidates);
            let may_fit =
                pool.iter().any(|c| self.has_room(c.node, c.cpu_milli, needs_cpu, now_ms));
            if may_fit && self.ask((id, task), now_ms, pool, judge, entropy) {
                *left -= 1;
            } else {
                cursor = past_step;
                barren += 1;
                self.replan_at_ms = self.replan_at_ms.min(now_ms + REPLAN_MS);
            }
        }
        let next_start = self.runs.get(&id).and_then(Run::next_start_ms).filter(|at| *at > now_ms);
        if let Some(at_ms) = next_start {
            self.replan_at_ms = self.replan_at_ms.min(at_ms);
        }
    }

    /// Whether a node can take one more task as far as this coordinator knows: it is not full of its tasks, and did not just
    /// say no. Asking it all the same would only be refused.
    fn has_room(&self, node: NodeId, cpu_milli: u64, needs_cpu_milli: u64, now_ms: u64) -> bool {
        self.experience.get(&node).is_none_or(|known| {
            known.refused_until_ms <= now_ms
                && known.inflight_cpu_milli.saturating_add(needs_cpu_milli) <= cpu_milli
        })
    }

    /// Asks the best candidates for quotes. False when there is none.
    fn ask(
        &mut self,
        key: Key,
        now_ms: u64,
        pool: &mut [Candidate],
        judge: &mut Judge<'_>,
        entropy: &mut dyn FnMut() -> u64,
    ) -> bool {
        let (id, task) = key;
        let Some(run) = self.runs.get(&id) else { return false };
        let Materialised { spec, blobs } = match run.materialise(task) {
            Ok(made) => made,
            Err(e) => {
                let detail = format!("{}[{}]: {e}", run.step_id(task.step), task.index);
                self.record(id, EventBody::Failing { task: Some(task), detail }, now_ms);
                self.wind_down(id, now_ms);
                return true;
            }
        };
        let number = run.next_number(task);
        let ruling = self.ruling(key, &spec, pool, judge);
        let best = self.place(key, &spec, pool, &ruling, now_ms);
        if best.is_empty() {
            return false;
        }
        if !blobs.is_empty() {
            self.actions.push(Action::Keep { blobs: blobs.into_values().collect() });
        }
        let attempt = AttemptId { run: id, task, number };
        let max_price = self.rule(key).max_price;
        let mut asked = BTreeMap::new();
        for node in best {
            let mut request = [0; 16];
            request[..8].copy_from_slice(&entropy().to_le_bytes());
            request[8..].copy_from_slice(&entropy().to_le_bytes());
            asked.insert(request, node);
            self.questions.insert(request, key);
            self.experience.entry(node).or_default().inflight_cpu_milli += spec.needs.cpu_milli;
            let spec = Box::new(spec.clone());
            self.send(
                node,
                Message::QuoteRequest { request, attempt, spec, max_price, person: None },
            );
        }
        let stage = Stage::Asking { asked, offers: Vec::new() };
        self.negotiating += 1;
        let digest = spec.digest();
        let deadline_ms = now_ms + QUOTE_TIMEOUT_MS;
        let (is_suspended, estimate) = (false, None);
        self.put(key, Live { number, spec, digest, deadline_ms, stage, estimate, is_suspended });
        true
    }

    /// What the rules say of a task, with what the run's attempts under way are taken to cost.
    fn ruling(
        &self,
        (id, task): Key,
        spec: &TaskSpec,
        pool: &[Candidate],
        judge: &mut Judge<'_>,
    ) -> Ruling {
        let step = self.runs.get(&id).map_or("", |run| run.step_id(task.step));
        let mut ruling = judge(ToPlace { run: id, step, spec }, pool);
        if let Some(budget) = &mut ruling.budget {
            self.expect((id, task), budget);
        }
        ruling
    }

    /// Counts what the run's other tasks under way are taken to cost: those with a provider what its offer said, those that
    /// are still being offered the most that anybody asks.
    fn expect(&self, (id, task): Key, budget: &mut Budget) {
        let first = (id, TaskId { step: 0, index: 0 });
        let live = self.live.range(first..).take_while(|((run, _), _)| *run == id);
        for ((_, other), live) in live.filter(|((_, other), _)| *other != task) {
            let offered = match &live.stage {
                Stage::Asking { offers, .. } => offers
                    .iter()
                    .max_by_key(|offer| offer.estimate)
                    .map(|o| (o.estimate, o.currency)),
                _ => None,
            };
            if let Some(estimate) = live.estimate.or(offered) {
                budget.expect((*other, live.number), estimate);
            }
        }
    }

    /// Counts what the other tasks of the run are taken to cost that a question for a quote is about.
    pub fn expect_others(&self, request: RequestId, budget: &mut Budget) {
        if let Some(key) = self.questions.get(&request) {
            self.expect(*key, budget);
        }
    }

    /// The few nodes to ask, best first; the whole plan is kept for `run explain`.
    fn place(
        &mut self,
        key: Key,
        spec: &TaskSpec,
        pool: &mut [Candidate],
        ruling: &Ruling,
        now_ms: u64,
    ) -> Vec<NodeId> {
        let faulty: BTreeSet<NodeId> = self
            .runs
            .get(&key.0)
            .and_then(|run| run.task(key.1))
            .into_iter()
            .flat_map(|task| &task.attempts)
            .filter(|a| a.failure.as_ref().is_some_and(|(_, f)| f.class.is_provider_fault()))
            .map(|a| a.node)
            .collect();
        let mut request = Request {
            runtime: spec.program.runtime(),
            is_service: spec.service.is_some(),
            needs: spec.needs.clone(),
            inputs: spec.blobs(),
            estimate_ms: if spec.service.is_some() { SERVICE_ESTIMATE_MS } else { ESTIMATE_MS },
            strategy: self.strategy(key.0),
            rule: self.rule(key),
            exclude: faulty,
        };
        let barred = self.barred.get(&(key.0, key.1.step));
        for candidate in pool.iter_mut() {
            let known = self.experience.get(&candidate.node).copied().unwrap_or_default();
            let barred_ms = barred.and_then(|b| b.get(&candidate.node)).map_or(0, |(ms, _)| *ms);
            candidate.inflight_cpu_milli = known.inflight_cpu_milli;
            candidate.refused_until_ms = known.refused_until_ms.max(barred_ms);
            candidate.failures = known.faults;
        }
        let mut found = plan_under(pool, &request, ruling, now_ms);
        if found.ranked.is_empty() && !request.exclude.is_empty() {
            request.exclude.clear();
            found = plan_under(pool, &request, ruling, now_ms);
        }
        let n_asked = match request.strategy {
            Strategy::Cost | Strategy::Weights { .. } => 3,
            Strategy::Sovereignty | Strategy::Performance => 1,
        };
        let size_of =
            |node: NodeId| pool.iter().find(|c| c.node == node).map_or(0, |c| c.cpu_milli);
        let apart = self.spread(key.0, pool);
        found.ranked.sort_by_key(|scored| apart.crowd(scored.node));
        let with_room: Vec<NodeId> = found
            .ranked
            .iter()
            .map(|scored| scored.node)
            .filter(|n| self.has_room(*n, size_of(*n), spec.needs.cpu_milli, now_ms))
            .collect();
        // Nobody more crowded is asked, however cheap.
        let crowd = with_room.first().map(|node| apart.crowd(*node));
        let best = with_room
            .into_iter()
            .take_while(|node| Some(apart.crowd(*node)) == crowd)
            .take(n_asked)
            .collect();
        for (node, why) in &mut found.rejected {
            let bar = barred.and_then(|barred| barred.get(&*node));
            if let Some((_, reason)) = bar.filter(|(until_ms, _)| *until_ms > now_ms)
                && matches!(why, Rejection::RefusedUntil { .. })
            {
                *why = reason.clone();
            }
        }
        self.plans.insert(key, found);
        best
    }

    pub(super) fn rule(&self, (run, task): Key) -> Rule {
        let step = self.runs.get(&run).map_or("", |r| r.step_id(task.step));
        self.bindings.get(&run).map(|b| b.rule(step)).unwrap_or_default()
    }

    pub(super) fn strategy(&self, run: RunId) -> Strategy {
        self.runs
            .get(&run)
            .and_then(|r| r.submission().strategy)
            .or_else(|| self.bindings.get(&run).and_then(Binding::strategy))
            .unwrap_or_default()
    }
}
