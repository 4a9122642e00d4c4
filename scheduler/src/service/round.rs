//! One round: from what is wanted and what is there to what is to be done. The order matters: who leaves makes room for who
//! comes, and both see what is given up.

use super::machine::Effect;
use super::record::{
    EventBody, Key, Leaving, Replica, ReplicaOf, Rollout, StopReason, Trouble, Why,
};
use super::spec::Health;
use super::state::{Member, Service};
use super::{DOUBT_PAUSE_MS, PUBLISH_MS, ROLLOUT_CRASHES_MAX, RestartPolicy};
use crate::run::{Submission, Submitter};
use crate::task::RunId;

impl Service {
    /// Does what is due and says when something is due again.
    pub(super) fn round(
        &mut self,
        now_ms: u64,
        entropy: &mut dyn FnMut() -> u64,
        out: &mut Vec<Effect>,
    ) {
        if self.head.is_removing {
            let all: Vec<RunId> = self.members.keys().copied().collect();
            for run in all {
                self.leave(run, Why::Removed, now_ms);
            }
        } else {
            self.give_up(now_ms);
            self.judge(now_ms);
            self.retire(now_ms);
            self.start_missing(now_ms, entropy, out);
            self.publish(now_ms, out);
        }
        self.cancel_drained(now_ms, out);
        self.due_ms = self.next_due_ms(now_ms);
    }

    /// Lets a replica leave. It drains when users may be connected to it, unless it failed or everything is to end; one that
    /// drains already may have to hurry.
    fn leave(&mut self, run: RunId, why: Why, now_ms: u64) {
        let drain_ms = self.update().drain_ms;
        let Some(member) = self.members.get_mut(&run) else { return };
        let drain_ms = if member.is_available() && why != Why::Removed { drain_ms } else { 0 };
        let cancel_at_ms = now_ms.saturating_add(drain_ms);
        match &mut member.record.leaving {
            Some(leaving) if leaving.is_cancelled || leaving.cancel_at_ms <= cancel_at_ms => {
                return;
            }
            Some(leaving) if why == Why::Removed => leaving.cancel_at_ms = now_ms,
            Some(_) => return,
            leaving @ None => *leaving = Some(Leaving { why, cancel_at_ms, is_cancelled: false }),
        }
        self.note_leaving(run, why, now_ms);
    }

    fn cancel_drained(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        for (run, member) in &mut self.members {
            if let Some(leaving) = &mut member.record.leaving
                && !leaving.is_cancelled
                && leaving.cancel_at_ms <= now_ms
            {
                leaving.is_cancelled = true;
                self.dirty.insert(Key::Replica(*run));
                out.push(Effect::Cancel { run: *run });
            }
        }
    }

    /// Gives up replicas that are of no use: unhealthy for too long, or not to be connected to.
    fn give_up(&mut self, now_ms: u64) {
        // Another could not be started yet, and this one may still recover.
        let may_replace = now_ms >= self.head.trouble.not_before_ms;
        let useless: Vec<RunId> = self
            .members
            .iter()
            .filter(|(_, m)| may_replace && !m.is_leaving() && self.is_kept_up(m))
            .filter(|(_, m)| self.give_up_at_ms(m).is_some_and(|at| at <= now_ms))
            .map(|(run, _)| *run)
            .collect();
        for run in useless {
            let Some(member) = self.members.get(&run).cloned() else { continue };
            self.leave(run, Why::Unhealthy, now_ms);
            // Of a provider that never said a word nothing is known but that.
            match member.health {
                Some(_) => self.blame_program(&member, now_ms),
                None => self.blame_provider(&member, now_ms),
            }
        }
        if now_ms >= self.doubt_at_ms {
            let doubted = self.members.values().find(|m| m.is_doubted() && !m.is_leaving());
            if let Some(member) = doubted.cloned() {
                self.doubt_at_ms = now_ms.saturating_add(DOUBT_PAUSE_MS);
                self.leave(member.record.run, Why::Unreachable, now_ms);
                self.blame_provider(&member, now_ms);
            }
        }
    }

    fn is_kept_up(&self, member: &Member) -> bool {
        let document = self.document_of(member.record.revision);
        document.is_some_and(|document| document.restart.policy != RestartPolicy::Never)
    }

    /// Whether an update is over, one way or the other.
    fn judge(&mut self, now_ms: u64) {
        if self.head.replicas == 0 {
            return;
        }
        let target = self.head.target;
        let is_new = |m: &Member| m.record.revision == target;
        let ready = self.count(|m| is_new(m) && m.is_available());
        let old = self.count(|m| !is_new(m) && !m.is_leaving());
        let is_complete = ready >= self.desired() && old == 0;
        match &self.head.rollout {
            Rollout::Done => {}
            // What is stable again does not make good what failed: that stays reported.
            Rollout::Stopped { revision, .. } if *revision != target => {}
            Rollout::Rolling { .. } | Rollout::Stopped { .. } if is_complete => {
                self.head.rollout = Rollout::Done;
                self.head.stable = Some(target);
                self.note(now_ms, EventBody::RolledOut { revision: target });
                self.forget_revisions();
            }
            Rollout::Stopped { .. } => {}
            Rollout::Rolling { crashes, crashed_on, .. } => {
                let is_sure = crashed_on.len() > 1 || *crashes >= 2 * ROLLOUT_CRASHES_MAX;
                if *crashes >= ROLLOUT_CRASHES_MAX && is_sure {
                    self.stop(StopReason::Crashing, now_ms);
                } else if self.deadline_ms().is_some_and(|at| at <= now_ms) {
                    let is_placed = self.count(|m| is_new(m) && m.record.place.is_some()) > 0;
                    let is_crashing = *crashes > 0;
                    let reason = match (is_placed, is_crashing) {
                        (true, _) => StopReason::NotHealthy,
                        (false, true) => StopReason::Crashing,
                        (false, false) => StopReason::NotPlaced,
                    };
                    self.stop(reason, now_ms);
                }
            }
        }
    }

    /// What an update that stops goes back to.
    pub(super) fn back_to(&self) -> Option<u32> {
        let is_other = |stable: &u32| *stable != self.head.target;
        self.head.stable.filter(|stable| is_other(stable) && self.revisions.contains_key(stable))
    }

    /// Stops an update: what was stable is wanted again.
    pub(super) fn stop(&mut self, reason: StopReason, now_ms: u64) {
        let revision = self.head.target;
        let back_to = self.back_to();
        if let Some(stable) = back_to {
            self.head.target = stable;
            self.head.begin_again();
            self.head.trouble = Trouble::default();
        }
        self.head.rollout = Rollout::Stopped { revision, at_ms: now_ms, reason };
        self.note(now_ms, EventBody::Stopped { revision, reason, back_to });
    }

    /// Lets those leave that are outdated, due or too many: freely those nobody is sent to, the others as far as enough stay.
    fn retire(&mut self, now_ms: u64) {
        let update = self.update();
        let desired = self.desired();
        let surplus = self.count(|m| self.is_current(m, now_ms)).saturating_sub(desired);
        let mut victims: Vec<(bool, u8, std::cmp::Reverse<u64>, RunId, Why)> = Vec::new();
        for (run, member) in self.members.iter().filter(|(_, m)| !m.is_leaving()) {
            let (rank, why) = if self.is_outdated(member) {
                (0, Why::Outdated)
            } else if self.is_due(member, now_ms) {
                (1, Why::Renewed)
            } else {
                (2, Why::Surplus)
            };
            // Of those that are too many the newest goes, of the others it does not matter.
            let age = std::cmp::Reverse(member.record.started_ms);
            victims.push((member.is_available(), rank, age, *run, why));
        }
        victims.sort_unstable_by_key(|(is_available, rank, age, run, _)| {
            (*is_available, *rank, *age, *run)
        });
        let (mut surplus, mut available) = (surplus, self.available());
        for (is_available, _, _, run, why) in victims {
            let slack = match why {
                // Nobody asked for a renewal: it costs no availability as long as there may be one more meanwhile.
                Why::Renewed if update.max_surge > 0 => 0,
                _ => update.max_unavailable,
            };
            if why == Why::Surplus {
                if surplus == 0 {
                    continue;
                }
                surplus -= 1;
            }
            if is_available {
                if available.saturating_sub(1) < desired.saturating_sub(slack) || available == 0 {
                    continue;
                }
                available -= 1;
            }
            self.leave(run, why, now_ms);
        }
    }

    fn start_missing(
        &mut self,
        now_ms: u64,
        entropy: &mut dyn FnMut() -> u64,
        out: &mut Vec<Effect>,
    ) {
        let trouble = &mut self.head.trouble;
        if now_ms >= trouble.not_before_ms && trouble.owed > 0 {
            trouble.owed = 0;
            self.dirty.insert(Key::Head);
        }
        let held_back = self.head.trouble.owed;
        let current = self.count(|m| self.is_current(m, now_ms));
        let missing = self.desired().saturating_sub(current);
        let bound = self.desired().saturating_add(self.update().max_surge);
        let room = bound.saturating_sub(self.count(|_| true));
        let due = self
            .members
            .iter()
            .filter(|(_, m)| !m.is_leaving() && !self.is_outdated(m) && self.is_due(m, now_ms));
        let due: Vec<RunId> = due.map(|(run, _)| *run).collect();
        for nth in 0..missing.min(room).saturating_sub(held_back) {
            let replaces = due.get(nth as usize).copied();
            let Some((submission, by)) = self.submission(replaces, now_ms) else { return };
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&entropy().to_le_bytes());
            bytes[8..].copy_from_slice(&entropy().to_le_bytes());
            let run = RunId::from_bytes(bytes);
            if self.members.contains_key(&run) {
                continue;
            }
            let revision = self.head.target;
            let record = Replica {
                run,
                revision,
                started_ms: now_ms,
                place: None,
                was_ready: false,
                leaving: None,
            };
            self.add(record, now_ms);
            out.push(Effect::Start { run, submission: Box::new(submission), by });
        }
    }

    fn submission(
        &self,
        replaces: Option<RunId>,
        now_ms: u64,
    ) -> Option<(Submission, Option<Box<Submitter>>)> {
        let (revision, document) = self.revisions.get(&self.head.target)?;
        let avoid = self.avoid.iter().filter(|(_, until_ms)| **until_ms > now_ms);
        let content = revision.content.clone();
        let submission = Submission {
            source: content.source,
            params: std::collections::BTreeMap::new(),
            assets: content.assets,
            binding: content.binding,
            strategy: content.strategy,
            area: None,
            replica: Some(ReplicaOf {
                service: self.name.clone(),
                revision: revision.number,
                spread: document.spread,
                replaces,
                avoid: avoid.map(|(node, _)| *node).collect(),
            }),
        };
        Some((submission, revision.by.clone()))
    }

    fn publish(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let endpoints = self.endpoints();
        let is_news = match &self.published {
            None => true,
            Some((published, at_ms)) => {
                *published != endpoints && at_ms.saturating_add(PUBLISH_MS) <= now_ms
            }
        };
        if is_news {
            self.published = Some((endpoints.clone(), now_ms));
            let (service, endpoints) = (self.name.clone(), Box::new(endpoints));
            out.push(Effect::Publish { service, endpoints });
        }
    }

    /// When time alone changes something. What is past and was not acted on waits for something else to happen.
    fn next_due_ms(&self, now_ms: u64) -> u64 {
        let mut due = vec![self.head.trouble.not_before_ms];
        for member in self.members.values() {
            match member.record.leaving {
                Some(leaving) if leaving.is_cancelled => {}
                Some(leaving) => due.push(leaving.cancel_at_ms),
                None => {
                    due.extend(self.renew_at_ms(member));
                    due.extend(self.give_up_at_ms(member));
                    if member.is_doubted() {
                        due.push(self.doubt_at_ms);
                    }
                }
            }
        }
        due.extend(self.deadline_ms());
        if let Some((published, at_ms)) = &self.published
            && *published != self.endpoints()
        {
            due.push(at_ms.saturating_add(PUBLISH_MS));
        }
        due.into_iter().filter(|at| *at > now_ms).min().unwrap_or(u64::MAX)
    }
}

impl Member {
    /// One word for tables: `waiting`, `placed`, `starting`, `healthy`, `unhealthy`, `unreachable`, `draining`, `ending`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match (self.record.leaving, self.record.place, self.health) {
            (Some(leaving), ..) if leaving.is_cancelled => "ending",
            (Some(_), ..) => "draining",
            (None, None, _) => "waiting",
            (None, Some(_), _) if self.is_doubted() => "unreachable",
            (None, Some(_), None) => "placed",
            (None, Some(_), Some(Health::Starting)) => "starting",
            (None, Some(_), Some(health)) => health.as_str(),
        }
    }
}
