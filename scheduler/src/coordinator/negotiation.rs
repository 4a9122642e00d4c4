//! Asking → accepted → running: collects checked offers and refusals, takes the best offer and declines the others, and
//! checks the provider's signed agreement against the offer that was taken. Nothing is owed before that agreement, so a
//! negotiation can be withdrawn at any time without a trace in the log.

use catalog::NodeId;

use crate::negotiate::{Message, RequestId};
use crate::place::{Rejection, Strategy};
use crate::run::EventBody;
use crate::task::{AttemptId, TaskSpec};

use super::{
    AGREE_TIMEOUT_MS, Coordinator, Key, LEASE_MS, Offer, Proposal, SILENT_MS, Stage, ToPlace,
};

impl Coordinator {
    /// A checked offer arrived.
    pub fn handle_offer(&mut self, offer: Offer, now_ms: u64) {
        let Some(&key) = self.questions.get(&offer.request) else {
            return self.send(offer.provider, Message::Decline { request: offer.request });
        };
        let rule = self.rule(key);
        let Some(live) = self.live.get_mut(&key) else {
            return;
        };
        let spec = live.digest;
        let Stage::Asking { asked, offers, .. } = &mut live.stage else {
            return;
        };
        if asked.get(&offer.request) != Some(&offer.provider)
            || offers.iter().any(|o| o.request == offer.request)
        {
            return;
        }
        let too_dear = rule
            .max_price
            .is_some_and(|(max, currency)| currency != offer.currency || offer.estimate > max);
        if offer.spec != spec || offer.valid_until_ms <= now_ms || too_dear {
            let (provider, request) = (offer.provider, offer.request);
            self.send(provider, Message::Decline { request });
            return self.handle_no(request, provider, now_ms + SILENT_MS, now_ms);
        }
        offers.push(offer);
        if offers.len() == asked.len() {
            self.choose(key, now_ms);
        }
    }

    /// A candidate said no to whatever it may be asked for: it is asked for nothing before `until_ms`.
    pub fn handle_no(&mut self, request: RequestId, from: NodeId, until_ms: u64, now_ms: u64) {
        let Some(key) = self.take_question(request, from) else {
            return;
        };
        let known = self.experience.entry(from).or_default();
        known.refused_until_ms = known.refused_until_ms.max(until_ms);
        self.go_on(key, now_ms);
    }

    /// A candidate said no to this work, or to whom it is for, or its answer breaks a rule: it is not asked for this step of this
    /// run before `until_ms`, and the plan says why. Other work is not meant.
    pub fn handle_barred(
        &mut self,
        request: RequestId,
        from: NodeId,
        why: Rejection,
        (until_ms, now_ms): (u64, u64),
    ) {
        let Some((run, task)) = self.take_question(request, from) else {
            return;
        };
        self.barred.entry((run, task.step)).or_default().insert(from, (until_ms, why));
        self.go_on((run, task), now_ms);
    }

    /// Takes back a question that a candidate will not be asked any more; `None` when it was not asked that.
    fn take_question(&mut self, request: RequestId, from: NodeId) -> Option<Key> {
        let key = *self.questions.get(&request)?;
        let live = self.live.get_mut(&key)?;
        let Stage::Asking { asked, .. } = &mut live.stage else {
            return None;
        };
        if asked.get(&request) != Some(&from) {
            return None;
        }
        asked.remove(&request);
        self.questions.remove(&request);
        let cpu = live.spec.needs.cpu_milli;
        let known = self.experience.entry(from).or_default();
        known.inflight_cpu_milli = known.inflight_cpu_milli.saturating_sub(cpu);
        Some(key)
    }

    /// Chooses among the offers once everybody else who was asked has said no.
    fn go_on(&mut self, key: Key, now_ms: u64) {
        let is_complete = self.live.get(&key).is_some_and(|live| {
            matches!(&live.stage, Stage::Asking { asked, offers } if asked.len() == offers.len())
        });
        if is_complete {
            self.choose(key, now_ms);
        }
    }

    /// What is asked for in a question for a quote, and what its step is called, while it is open.
    #[must_use]
    pub fn asked(&self, request: RequestId) -> Option<ToPlace<'_>> {
        let key = self.questions.get(&request)?;
        let live = self.live.get(key)?;
        let step = self.runs.get(&key.0)?.step_id(key.1.step);
        Some(ToPlace { run: key.0, step, spec: &live.spec })
    }

    /// What this node asks for in an attempt that is under way.
    #[must_use]
    pub fn spec(&self, attempt: AttemptId) -> Option<&TaskSpec> {
        let live = self.live.get(&(attempt.run, attempt.task))?;
        (live.number == attempt.number).then_some(&live.spec)
    }

    /// Whether the provider's signed agreement is the one this node took the offer for. If so the attempt is recorded as
    /// started, and the caller acknowledges the agreement in the same durable step; if not, the caller refuses it.
    pub fn check_agreement(&mut self, proposal: &Proposal, now_ms: u64) -> bool {
        let key = (proposal.attempt.run, proposal.attempt.task);
        let Some(live) = self.live.get(&key) else {
            return false;
        };
        let Stage::Accepted { node, request } = live.stage else {
            return false;
        };
        let fits = node == proposal.provider
            && live.number == proposal.attempt.number
            && live.digest == proposal.spec;
        if !fits {
            return false;
        }
        self.questions.remove(&request);
        let spec = live.spec.clone();
        self.negotiating -= 1;
        self.update(key, now_ms + LEASE_MS, |stage| *stage = Stage::Running { node });
        self.record(
            key.0,
            EventBody::AttemptStarted {
                task: key.1,
                number: proposal.attempt.number,
                node,
                org: proposal.org,
                lane: proposal.lane,
            },
            now_ms,
        );
        self.grant(node, proposal.attempt, &spec);
        true
    }

    /// Takes the best offer, or gives the task back to planning when there is none.
    pub(super) fn choose(&mut self, key: Key, now_ms: u64) {
        let strategy = self.strategy(key.0);
        let Some(live) = self.live.get(&key) else {
            return;
        };
        let Stage::Asking { offers, .. } = &live.stage else {
            return;
        };
        let order: Vec<NodeId> = self
            .plans
            .get(&key)
            .map(|p| p.ranked.iter().map(|s| s.node).collect())
            .unwrap_or_default();
        let rank = |node: &NodeId| order.iter().position(|n| n == node).unwrap_or(usize::MAX);
        let best = match strategy {
            Strategy::Cost => offers.iter().min_by_key(|o| (o.estimate, rank(&o.provider))),
            Strategy::Sovereignty | Strategy::Performance | Strategy::Weights { .. } => {
                offers.iter().min_by_key(|o| rank(&o.provider))
            }
        };
        let Some(best) = best.cloned() else {
            self.remove(key);
            self.is_dirty = true;
            return;
        };
        let others: Vec<(NodeId, RequestId)> = match &live.stage {
            Stage::Asking { asked, .. } => asked
                .iter()
                .filter(|(id, _)| **id != best.request)
                .map(|(id, node)| (*node, *id))
                .collect(),
            _ => Vec::new(),
        };
        let cpu = live.spec.needs.cpu_milli;
        for (node, request) in others {
            self.questions.remove(&request);
            self.release_cpu(node, cpu);
            self.send(node, Message::Decline { request });
        }
        self.update(key, now_ms + AGREE_TIMEOUT_MS, |stage| {
            *stage = Stage::Accepted { node: best.provider, request: best.request };
        });
        if let Some(live) = self.live.get_mut(&key) {
            live.estimate = Some((best.estimate, best.currency));
        }
        self.send(best.provider, Message::Accept { request: best.request });
    }

    /// Gives up a negotiation before any agreement.
    pub(super) fn withdraw(&mut self, key: Key) {
        let Some(live) = self.remove(key) else { return };
        let cpu = live.spec.needs.cpu_milli;
        let asked = match live.stage {
            Stage::Asking { asked, .. } => asked.into_iter().collect(),
            Stage::Accepted { node, request } => vec![(request, node)],
            Stage::Running { .. } | Stage::Collecting { .. } => Vec::new(),
        };
        for (request, node) in asked {
            self.questions.remove(&request);
            self.release_cpu(node, cpu);
            self.send(node, Message::Decline { request });
        }
        self.is_dirty = true;
    }
}
