//! What an acknowledgement accepts.
//!
//! An acknowledgement covers the provider's log up to its peer link. Of each lane it accepts every claim up to there, or, for a
//! lane among its exceptions, the receipts up to `last_ok_lane_seq` and not the close. A lane without an answer is agreed by
//! it, or refused for good when it is excepted with 0.

use std::collections::BTreeMap;

use catalog::Amount;

use super::{Change, State, Violation};
use crate::body::{Ack, AckCode, AckException};
use crate::channel::Event;
use crate::entry::Entry;
use crate::lane::{Answer, End, Lane};

/// What an acknowledgement does to one lane.
#[derive(Clone, Debug)]
struct LaneEffect {
    lane: u64,
    /// An answer to the proposal, when it had none.
    answer: Option<Result<(), AckCode>>,
    /// How many pending claims are accepted.
    accepted: usize,
    earned: Amount,
    exception: Option<AckCode>,
}

/// What an acknowledgement does, computed before anything changes.
#[derive(Clone, Debug)]
pub(crate) struct AckEffect {
    up_to_seq: u64,
    lanes: Vec<LaneEffect>,
    /// The new sum of what is earned.
    pub(crate) total: Amount,
}

impl State {
    pub(super) fn validate_ack(&self, entry: &Entry, ack: &Ack) -> Result<Change, Violation> {
        let effect = self.ack_effect(entry.peer_seq, &ack.exceptions)?;
        if effect.total == ack.accepted_total {
            Ok(Change::Acked(effect))
        } else {
            Err(Violation::AckTotal { expected: effect.total, found: ack.accepted_total })
        }
    }

    /// What acknowledging the provider's log up to `up_to_seq` with these exceptions does.
    pub(crate) fn ack_effect(
        &self,
        up_to_seq: u64,
        exceptions: &[AckException],
    ) -> Result<AckEffect, Violation> {
        let mut excepted = BTreeMap::new();
        for exception in exceptions {
            let lane = exception.lane;
            let found = self.lanes.get(&lane).filter(|l| l.proposed_seq <= up_to_seq);
            check_exception(found.ok_or(Violation::UnknownLane { lane })?, exception, up_to_seq)?;
            excepted.insert(lane, exception);
        }
        let mut effects = Vec::new();
        let mut total = self.earned;
        for lane in
            self.unsettled.iter().chain(excepted.keys().filter(|l| !self.unsettled.contains(l)))
        {
            let Some(found) = self.lanes.get(lane).filter(|l| l.proposed_seq <= up_to_seq) else {
                continue;
            };
            let effect = lane_effect(*lane, found, up_to_seq, excepted.get(lane).copied());
            total = total
                .checked_sub(found.earned)
                .and_then(|sum| sum.checked_add(effect.earned))
                .ok_or(Violation::TotalOverflow)?;
            effects.push(effect);
        }
        Ok(AckEffect { up_to_seq, lanes: effects, total })
    }

    pub(super) fn commit_ack(&mut self, seq: u64, wall_ms: u64, effect: AckEffect) -> Event {
        let (mut agreed, mut refused, mut settled) = (Vec::new(), Vec::new(), Vec::new());
        for change in &effect.lanes {
            let Some(lane) = self.lanes.get_mut(&change.lane) else {
                continue;
            };
            match change.answer {
                Some(Ok(())) => {
                    lane.answer = Some(Answer::Agreed { seq, wall_ms });
                    agreed.push(change.lane);
                }
                Some(Err(code)) => {
                    self.live_lanes = self.live_lanes.saturating_sub(usize::from(lane.is_live()));
                    lane.answer = Some(Answer::Refused { code });
                    refused.push((change.lane, code));
                }
                None => {}
            }
            for claim in lane.pending.drain(..change.accepted) {
                match (claim.lane_seq, lane.end) {
                    (Some(lane_seq), _) => lane.acked_lane_seq = lane_seq,
                    (None, Some(end)) => {
                        lane.end = Some(End { acked: true, ..end });
                        settled.push(change.lane);
                    }
                    (None, None) => {}
                }
            }
            lane.earned = change.earned;
            lane.exception = change.exception;
            if !lane.is_unsettled() {
                self.unsettled.remove(&change.lane);
            } else {
                self.unsettled.insert(change.lane);
            }
        }
        self.earned = effect.total;
        self.acked_seq = effect.up_to_seq;
        Event::Acked {
            up_to_seq: effect.up_to_seq,
            lanes_agreed: agreed,
            lanes_refused: refused,
            lanes_settled: settled,
            earned: effect.total,
        }
    }

    /// The exceptions in force, as the newest acknowledgement stated them.
    pub(crate) fn has_exceptions(&self, exceptions: &[AckException]) -> bool {
        let in_force = self.unsettled.iter().filter_map(|lane| {
            let found = self.lanes.get(lane)?;
            found.exception.map(|code| AckException {
                lane: *lane,
                last_ok_lane_seq: found.acked_lane_seq,
                code,
            })
        });
        in_force.eq(exceptions.iter().copied())
    }

    /// What an acknowledgement of everything would be up to now.
    pub(crate) fn ack_end(&self) -> u64 {
        self.log(crate::entry::Side::Provider).len()
    }
}

fn check_exception(lane: &Lane, exception: &AckException, up_to_seq: u64) -> Result<(), Violation> {
    let bad = Err(Violation::Exception { lane: exception.lane });
    let ok = exception.last_ok_lane_seq;
    match (lane.answer, lane.end) {
        (Some(Answer::Refused { .. }), _) | (_, Some(End { acked: true, .. })) => bad,
        (None, _) if ok != 0 => bad,
        _ if ok < lane.acked_lane_seq => bad,
        _ if ok == lane.acked_lane_seq => Ok(()),
        _ if lane.pending.iter().any(|c| c.lane_seq == Some(ok) && c.seq <= up_to_seq) => Ok(()),
        _ => bad,
    }
}

fn lane_effect(
    number: u64,
    lane: &Lane,
    up_to_seq: u64,
    exception: Option<&AckException>,
) -> LaneEffect {
    let refuses = lane.answer.is_none() && exception.is_some();
    let accepted = lane
        .pending
        .iter()
        .take_while(|claim| {
            claim.seq <= up_to_seq
                && match (exception, claim.lane_seq) {
                    // A refused lane has no receipts; its close, when it is covered, costs nothing.
                    _ if refuses => true,
                    (None, _) => true,
                    (Some(exception), Some(lane_seq)) => lane_seq <= exception.last_ok_lane_seq,
                    (Some(_), None) => false,
                }
        })
        .count();
    let last = accepted.checked_sub(1).and_then(|index| lane.pending.get(index));
    LaneEffect {
        lane: number,
        answer: lane.answer.is_none().then(|| exception.map_or(Ok(()), |e| Err(e.code))),
        accepted,
        earned: last.map_or(lane.earned, |claim| claim.amount),
        exception: exception.filter(|_| !refuses).map(|e| e.code),
    }
}
