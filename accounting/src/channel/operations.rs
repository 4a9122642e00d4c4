//! What a side signs on its own channel.

use catalog::NodeId;
use ed25519_dalek::SigningKey;

use super::{Channel, ChannelError, NewAgreement, OPEN_LANES_MAX, Reading, UNACKED_ENTRIES_MAX};
use crate::body::{Ack, AckException, Agreement, Body, CloseReason, Receipt};
use crate::entry::{Side, SignedEntry};
use crate::state::Violation;

impl Channel {
    /// Proposes a lane on a quote of this provider. The lane is agreed once an acknowledgement covers it; the quote's bytes are
    /// kept for export and stored by the caller.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub fn propose(
        &mut self,
        key: &SigningKey,
        now_ms: u64,
        agreement: NewAgreement,
        quote_bytes: Vec<u8>,
    ) -> Result<SignedEntry, ChannelError> {
        self.ready(key, Side::Provider)?;
        if self.state.live_lanes >= OPEN_LANES_MAX {
            return Err(ChannelError::TooManyLanes);
        }
        let quote = self.learn_quote(&quote_bytes)?;
        let last = self.state.lanes.last_key_value().map_or(0, |(lane, _)| *lane);
        let NewAgreement { work, spec, caps, max_amount, max_duration_ms, exposure } = agreement;
        let lane = last.saturating_add(1);
        let agreement =
            Agreement { lane, quote, work, spec, caps, max_amount, max_duration_ms, exposure };
        self.append(key, now_ms, Body::Agreement(agreement))
    }

    /// States the usage of an agreed lane. Counters beyond the caps and amounts beyond the maximum are cut off.
    ///
    /// # Errors
    /// [`ChannelError`], also when the lane is not agreed, had its final receipt or is closed, or a counter fell.
    pub fn receipt(
        &mut self,
        key: &SigningKey,
        now_ms: u64,
        lane: u64,
        reading: Reading,
    ) -> Result<SignedEntry, ChannelError> {
        self.ready(key, Side::Provider)?;
        let found = self.state.lanes.get(&lane).ok_or(Violation::UnknownLane { lane })?;
        let elapsed_ms = self.state.elapsed(found, reading.period_ms)?;
        let terms = &found.agreement;
        let counters = terms.caps.cut(&reading.counters, elapsed_ms, terms.max_duration_ms);
        let receipt = Receipt {
            lane,
            lane_seq: found.lane_seq.saturating_add(1),
            period_ms: reading.period_ms,
            counters,
            amount: self.state.amount_of(found, &counters)?,
            is_final: reading.is_final,
            reset: reading.reset,
            estimated: reading.estimated,
        };
        self.append(key, now_ms, Body::Receipt(receipt))
    }

    /// Closes a lane: granularity and minimum are applied, a provider's fault costs nothing. State the final usage first.
    ///
    /// # Errors
    /// [`ChannelError`], also when the lane does not exist or is closed.
    pub fn close_lane(
        &mut self,
        key: &SigningKey,
        now_ms: u64,
        lane: u64,
        reason: CloseReason,
    ) -> Result<SignedEntry, ChannelError> {
        self.ready(key, Side::Provider)?;
        let close = self.state.close_of(lane, reason)?;
        self.append(key, now_ms, Body::LaneClose(close))
    }

    /// Acknowledges everything of the provider's log that is held, except what `exceptions` name: the whole list at this
    /// moment, in any order. `None` when nothing is new.
    ///
    /// # Errors
    /// [`ChannelError`], also when an exception takes back what was acknowledged.
    pub fn ack(
        &mut self,
        key: &SigningKey,
        now_ms: u64,
        exceptions: &[AckException],
    ) -> Result<Option<SignedEntry>, ChannelError> {
        self.ready(key, Side::Consumer)?;
        let mut exceptions = exceptions.to_vec();
        exceptions.sort_by_key(|exception| exception.lane);
        let twice = exceptions.windows(2).find(|pair| pair[0].lane == pair[1].lane);
        if let Some([first, _]) = twice {
            return Err(Violation::Exception { lane: first.lane }.into());
        }
        if let Some(beyond) = exceptions.get(crate::body::EXCEPTIONS_MAX) {
            return Err(Violation::Exception { lane: beyond.lane }.into());
        }
        let up_to_seq = self.state.ack_end();
        if up_to_seq == self.state.acked_seq && self.state.has_exceptions(&exceptions) {
            return Ok(None);
        }
        let accepted_total = self.state.ack_effect(up_to_seq, &exceptions)?.total;
        let ack = Ack { accepted_total, exceptions };
        self.append(key, now_ms, Body::Ack(ack)).map(Some)
    }

    /// Checks that this side may sign an ordinary entry now.
    fn ready(&self, key: &SigningKey, side: Side) -> Result<(), ChannelError> {
        self.may_sign(key, side)?;
        let unacked = self.own_head().0.saturating_sub(self.state.acked_seq);
        if side == Side::Provider && unacked >= UNACKED_ENTRIES_MAX {
            return Err(ChannelError::Backlog);
        }
        Ok(())
    }

    /// Checks that this side may sign at all.
    pub(super) fn may_sign(&self, key: &SigningKey, side: Side) -> Result<(), ChannelError> {
        if self.side != side {
            return Err(ChannelError::Side { side });
        }
        let expected = *self.state.open.node(side);
        if NodeId::from(key.verifying_key()) != expected {
            return Err(ChannelError::Key { expected });
        }
        if self.frozen.is_some() {
            return Err(ChannelError::Frozen);
        }
        if !self.state.is_open() {
            return Err(ChannelError::NotOpen);
        }
        if self.is_fencing {
            return Err(ChannelError::Fencing);
        }
        Ok(())
    }

    /// Validates, signs and applies this side's next entry; nothing is signed that would not be valid.
    pub(super) fn append(
        &mut self,
        key: &SigningKey,
        now_ms: u64,
        body: Body,
    ) -> Result<SignedEntry, ChannelError> {
        let entry = self.state.next_entry(self.side, now_ms, body);
        let change = self.state.validate(&entry)?;
        let signed = entry.sign(key);
        self.state.commit(&signed.entry, signed.hash, change);
        self.bytes[self.side.index()].push(signed.bytes.clone());
        Ok(signed)
    }
}
