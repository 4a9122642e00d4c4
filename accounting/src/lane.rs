//! A lane: one attempt inside a channel, from its proposal to its last acknowledged amount.

use std::collections::VecDeque;

use catalog::Amount;

use crate::body::{AckCode, Agreement, CloseReason, WorkId};
use crate::dimension::Counters;
use crate::entry::Hash;

/// Where a lane stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneState {
    /// The provider signed, the consumer has not answered.
    Proposed,
    /// Both signed; receipts may come.
    Active,
    /// The final receipt or the close is there, not yet acknowledged as closed.
    Closing,
    /// Closed, and the close is acknowledged.
    Closed,
    /// The consumer refused it; no receipt can come.
    Refused,
}

/// The consumer's answer to a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Agreed by this entry of the consumer's log.
    Agreed {
        /// The entry.
        seq: u64,
        /// The consumer's clock when it signed, Unix milliseconds.
        wall_ms: u64,
    },
    /// Refused.
    Refused {
        /// Why.
        code: AckCode,
    },
}

/// The end of a lane, as its close states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: CloseReason,
    /// Whether the consumer acknowledged it.
    pub acked: bool,
}

/// A claim that is not acknowledged yet: an entry of the provider's log that set the lane's cumulative amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The entry.
    pub(crate) seq: u64,
    /// The receipt's number in the lane; `None` for the close.
    pub(crate) lane_seq: Option<u64>,
    /// The cumulative amount from then on.
    pub(crate) amount: Amount,
}

/// A lane and its running totals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// What was proposed.
    pub agreement: Agreement,
    /// The proposal's place in the provider's log.
    pub proposed_seq: u64,
    /// The consumer's answer.
    pub answer: Option<Answer>,
    /// Number of the newest receipt; 0 before the first.
    pub lane_seq: u64,
    /// Number of the newest acknowledged receipt.
    pub acked_lane_seq: u64,
    /// Sum of the receipts' periods in milliseconds.
    pub elapsed_ms: u64,
    /// Counters of the newest receipt.
    pub counters: Counters,
    /// What the provider claims.
    pub claimed: Amount,
    /// What the consumer acknowledged.
    pub earned: Amount,
    /// Hash of the entry of the newest receipt; zeros before the first.
    pub last_receipt: Hash,
    /// Whether the newest receipt is the final one.
    pub is_final: bool,
    /// The close, when there is one.
    pub end: Option<End>,
    /// Why the newest acknowledgement does not accept the lane in full.
    pub exception: Option<AckCode>,
    pub(crate) pending: VecDeque<Claim>,
}

impl Lane {
    pub(crate) fn new(agreement: Agreement, proposed_seq: u64) -> Self {
        Self {
            agreement,
            proposed_seq,
            answer: None,
            lane_seq: 0,
            acked_lane_seq: 0,
            elapsed_ms: 0,
            counters: Counters::default(),
            claimed: Amount::ZERO,
            earned: Amount::ZERO,
            last_receipt: [0; 32],
            is_final: false,
            end: None,
            exception: None,
            pending: VecDeque::new(),
        }
    }

    /// The attempt it is for.
    #[must_use]
    pub const fn work(&self) -> &WorkId {
        &self.agreement.work
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> LaneState {
        match (self.answer, self.end) {
            (Some(Answer::Refused { .. }), _) => LaneState::Refused,
            (_, Some(End { acked: true, .. })) => LaneState::Closed,
            (_, Some(_)) => LaneState::Closing,
            (Some(Answer::Agreed { .. }), None) if self.is_final => LaneState::Closing,
            (Some(Answer::Agreed { .. }), None) => LaneState::Active,
            (None, None) => LaneState::Proposed,
        }
    }

    /// Claimed and not acknowledged; zero when a refund is under way.
    #[must_use]
    pub fn unacked(&self) -> Amount {
        self.claimed.checked_sub(self.earned).unwrap_or(Amount::ZERO).max(Amount::ZERO)
    }

    /// Whether it is neither ended nor refused.
    pub(crate) const fn is_live(&self) -> bool {
        self.end.is_none() && !matches!(self.answer, Some(Answer::Refused { .. }))
    }

    /// Whether an acknowledgement could still change it.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.answer.is_none() || self.exception.is_some() || !self.pending.is_empty()
    }
}
