//! Running → collecting → committed: hears from the provider of an attempt, fetches its outputs and commits them, or
//! records the failure and decides about the next try. Whatever the end, the provider is told that nothing more is wanted
//! and may no longer fetch the inputs.

use catalog::NodeId;

use crate::negotiate::{ATTEMPTS_PER_MESSAGE, Message, Outcome, Phase};
use crate::run::{EventBody, PROVIDER_FAULTS_MAX, Run};
use crate::service::Health;
use crate::task::{AttemptId, Failure, FailureClass, TaskSpec};

use super::{Action, Coordinator, Key, LEASE_MS, Live, SILENT_MS, Stage, cancelled};

/// How long outputs may take to arrive without any success.
const COLLECT_MS: u64 = 120_000;

impl Coordinator {
    /// The provider is alive and works on these attempts. Attempts that are not current are cancelled there.
    pub fn handle_status(&mut self, from: NodeId, attempts: &[(AttemptId, Phase)], now_ms: u64) {
        for (attempt, phase) in attempts.iter().take(ATTEMPTS_PER_MESSAGE) {
            let key = (attempt.run, attempt.task);
            match self.live.get(&key) {
                Some(Live { number, stage: Stage::Running { node }, .. })
                    if *number == attempt.number && *node == from =>
                {
                    self.update(key, now_ms + LEASE_MS, |_| {});
                    if *phase == Phase::Preparing {
                        self.preparing.insert(key);
                    } else {
                        self.preparing.remove(&key);
                    }
                    self.note_phase(*attempt, *phase, now_ms);
                    if self.runs.get(&key.0).is_some_and(Run::is_winding_down) {
                        self.send(from, Message::Cancel { attempt: *attempt });
                    }
                }
                // The Ack may still be on its way to a provider that already reports.
                Some(Live {
                    stage: Stage::Accepted { node, .. } | Stage::Collecting { node, .. },
                    ..
                }) if *node == from => {}
                _ if *phase != Phase::Ended => {
                    self.send(from, Message::Cancel { attempt: *attempt })
                }
                _ => {}
            }
        }
    }

    /// What the provider says of the health of replicas, as far as they are current attempts of this node that run there;
    /// the rest is not its business.
    #[must_use]
    pub fn check_health(
        &self,
        from: NodeId,
        health: &[(AttemptId, Health)],
    ) -> Vec<(AttemptId, Health)> {
        let is_its = |attempt: &AttemptId| {
            let live = self.live.get(&(attempt.run, attempt.task));
            live.is_some_and(|live| {
                live.number == attempt.number
                    && live.spec.service.is_some()
                    && matches!(live.stage, Stage::Running { node } if node == from)
            })
        };
        let said = health.iter().take(ATTEMPTS_PER_MESSAGE);
        said.filter(|(attempt, _)| is_its(attempt)).copied().collect()
    }

    /// The provider says how the attempt ended.
    pub fn handle_finished(
        &mut self,
        from: NodeId,
        attempt: AttemptId,
        outcome: Outcome,
        now_ms: u64,
        entropy: &mut dyn FnMut() -> u64,
    ) {
        let key = (attempt.run, attempt.task);
        let current = self.live.get(&key).filter(|live| live.number == attempt.number);
        match current.map(|live| &live.stage) {
            Some(Stage::Running { node }) if *node == from => {}
            // Still fetching: the provider repeats itself.
            Some(Stage::Collecting { node, .. }) if *node == from => return,
            _ => return self.send(from, Message::Collected { attempt }),
        }
        self.experience.entry(from).or_default().refused_until_ms = 0;
        let is_winding_down = self.runs.get(&key.0).is_some_and(Run::is_winding_down);
        match outcome {
            Outcome::Done { outputs } if !is_winding_down => {
                self.update(key, now_ms + COLLECT_MS, |stage| {
                    *stage = Stage::Collecting { node: from, outputs: outputs.clone() };
                });
                self.actions.push(Action::Collect { attempt, from, outputs });
            }
            Outcome::Done { .. } => self.end_attempt(key, cancelled(), now_ms, entropy),
            Outcome::Failed(failure) => self.end_attempt(key, failure, now_ms, entropy),
        }
    }

    /// The outputs are here, or could not be had.
    pub fn handle_collected(
        &mut self,
        attempt: AttemptId,
        result: Result<(), Failure>,
        now_ms: u64,
        entropy: &mut dyn FnMut() -> u64,
    ) {
        let key = (attempt.run, attempt.task);
        let Some(live) = self.live.get(&key).filter(|live| live.number == attempt.number) else {
            return;
        };
        let Stage::Collecting { node, outputs, .. } = &live.stage else {
            return;
        };
        let (node, outputs) = (*node, outputs.clone());
        match result {
            Ok(()) => {
                let task = key.1;
                self.record(
                    key.0,
                    EventBody::TaskCommitted { task, number: attempt.number, outputs },
                    now_ms,
                );
                self.let_go(key, node);
            }
            Err(failure) => self.end_attempt(key, failure, now_ms, entropy),
        }
    }

    /// Records a failure, decides about the next try and lets the provider go.
    pub(super) fn end_attempt(
        &mut self,
        key: Key,
        failure: Failure,
        now_ms: u64,
        entropy: &mut dyn FnMut() -> u64,
    ) {
        let Some(live) = self.live.get(&key) else {
            return;
        };
        let number = live.number;
        let node = match &live.stage {
            Stage::Running { node }
            | Stage::Collecting { node, .. }
            | Stage::Accepted { node, .. } => *node,
            Stage::Asking { .. } => return,
        };
        if failure.class.is_provider_fault() {
            let known = self.experience.entry(node).or_default();
            known.faults = known.faults.saturating_add(1);
            known.refused_until_ms = now_ms + SILENT_MS;
        }
        let retry_at_ms = self.retry_at(key, &failure, now_ms, entropy);
        let task = key.1;
        let detail = format!(
            "{}[{}]: {} ({})",
            self.runs.get(&key.0).map_or("?", |r| r.step_id(task.step)),
            task.index,
            failure.detail,
            failure.class.as_str()
        );
        let is_final = retry_at_ms.is_none();
        self.record(key.0, EventBody::AttemptEnded { task, number, failure, retry_at_ms }, now_ms);
        self.let_go(key, node);
        if is_final && !self.runs.get(&key.0).is_some_and(Run::is_winding_down) {
            self.record(key.0, EventBody::Failing { task: Some(task), detail }, now_ms);
            self.wind_down(key.0, now_ms);
        }
    }

    fn retry_at(
        &self,
        key: Key,
        failure: &Failure,
        now_ms: u64,
        entropy: &mut dyn FnMut() -> u64,
    ) -> Option<u64> {
        let run = self.runs.get(&key.0)?;
        if run.is_winding_down() || failure.class == FailureClass::Cancelled {
            return None;
        }
        let task = run.task(key.1)?;
        let step = run.workflow().steps.get(key.1.step as usize)?;
        if step.service.is_some() {
            // Whether and when another replica takes its place is not this run's to say.
            return None;
        }
        let retry = &step.retry;
        if failure.class.is_provider_fault() {
            return (task.provider_faults + 1 < PROVIDER_FAULTS_MAX).then_some(now_ms);
        }
        let failed = task.own_faults() + 1;
        (retry.on.contains(&failure.class) && failed < retry.attempts).then(|| {
            now_ms + retry.backoff.delay_ms(failed, u32::try_from(entropy() >> 32).unwrap_or(0))
        })
    }

    /// Forgets a live attempt that started, and tells its provider that nothing more is wanted.
    fn let_go(&mut self, key: Key, node: NodeId) {
        let Some(live) = self.remove(key) else { return };
        let attempt = AttemptId { run: key.0, task: key.1, number: live.number };
        if !live.is_suspended {
            self.release_cpu(node, live.spec.needs.cpu_milli);
        }
        self.send(node, Message::Collected { attempt });
        if node != self.me {
            self.actions.push(Action::Revoke { peer: node, attempt });
        }
        self.is_dirty = true;
    }

    pub(super) fn grant(&mut self, peer: NodeId, attempt: AttemptId, spec: &TaskSpec) {
        if peer != self.me {
            let blobs = spec.blobs().into_iter().map(|(digest, _)| digest).collect();
            self.actions.push(Action::Grant { peer, attempt, blobs });
        }
    }
}
