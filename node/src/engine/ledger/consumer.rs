//! The consumer's side: quotes taken, channels accepted, what providers claim checked and signed for.

use accounting::body::{AckCode, AckException, Caps};
use accounting::channel::Channel;
use accounting::entry::Side;
use accounting::lane::{Answer, LaneState};
use accounting::{Counters, Dimension, Quote};
use catalog::{Amount, Digest, NodeId};
use scheduler::negotiate::RequestId;

use super::replay::entry_key;
use super::{Ledger, QUOTES_MAX};
use crate::store::batch::Table;

/// Processor time a consumer accepts beyond what the agreed cores could have used since it signed: start-up and clocks.
const SLACK_US: u64 = 2_000_000;

impl Ledger {
    /// Checks a quote that came from `provider` and says what the task would cost there, were it to use all it may for as
    /// long as estimated.
    pub(in crate::engine) fn check_quote(
        &self,
        provider: NodeId,
        bytes: &[u8],
        expected: &Counters,
    ) -> Option<(Quote, Amount)> {
        let quote = Quote::open(bytes, &provider).ok().filter(|q| q.consumer == self.me)?;
        let estimate = quote.estimate(expected)?;
        Some((quote, estimate))
    }

    /// Keeps a quote until its provider's agreement arrives.
    pub(in crate::engine) fn hold_quote(&mut self, request: RequestId, bytes: Vec<u8>) {
        while self.received.len() >= QUOTES_MAX {
            self.received.pop_first();
        }
        self.received.insert(request, bytes);
    }

    /// A provider opens a channel with us. False when it may not.
    pub(super) fn accept(&mut self, from: NodeId, id: Digest, bytes: &[u8], now_ms: u64) -> bool {
        let opened = Channel::accept(&self.key, self.me, bytes, now_ms);
        let (channel, own) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.offence(from, error.to_string());
                return false;
            }
        };
        if Digest::from_bytes(*channel.id()) != id || channel.provider() != from {
            self.offence(from, "a channel of others".to_owned());
            return false;
        }
        if self.pairs.contains_key(&(from, self.me)) {
            // An honest provider that was set back may have begun one before it heard of the first.
            return false;
        }
        self.restore(channel);
        let peer_entry = bytes.to_vec();
        self.batch.put(Table::LedgerEntries, entry_key(id, Side::Provider, 1), peer_entry);
        for entry in own {
            self.store(id, &entry);
        }
        true
    }

    /// The coordinator's word on a proposed agreement: acknowledged, or refused.
    pub(in crate::engine) fn answer(&mut self, id: Digest, lane: u64, is_wanted: bool) {
        if !is_wanted {
            let refusal = AckException { lane, last_ok_lane_seq: 0, code: AckCode::Declined };
            self.ack_due.entry(id).or_default().push(refusal);
        }
    }

    /// Signs for what arrived in this step: everything of the partner's log that is held, except refused agreements and
    /// receipts that cannot be true. True when something was signed.
    pub(in crate::engine) fn acknowledge_due(&mut self, now_ms: u64) -> bool {
        let due = std::mem::take(&mut self.ack_due);
        let is_busy = !due.is_empty();
        for (id, mut exceptions) in due {
            let Some(channel) = self.channels.get_mut(&id) else {
                continue;
            };
            let implausible = channel
                .lanes()
                .map(|(_, lane)| lane)
                .filter(|lane| lane.state() == LaneState::Active && lane.claimed != lane.earned)
                .filter(|lane| {
                    // This node's own clock, as it signed for the lane.
                    let since_ms = match lane.answer {
                        Some(Answer::Agreed { wall_ms, .. }) => wall_ms,
                        _ => 0,
                    };
                    let elapsed_ms = now_ms.saturating_sub(since_ms);
                    !is_plausible(&lane.counters, &lane.agreement.caps, elapsed_ms)
                })
                .map(|lane| AckException {
                    lane: lane.agreement.lane,
                    last_ok_lane_seq: lane.acked_lane_seq,
                    code: AckCode::Usage,
                });
            exceptions.extend(implausible);
            exceptions.sort_unstable_by_key(|e| e.lane);
            if let Ok(Some(entry)) = channel.ack(&self.key, now_ms, &exceptions) {
                self.store(id, &entry);
            }
            self.flush(id);
        }
        is_busy
    }
}

/// Whether counters can be true for a lane signed `elapsed_ms` ago on the consumer's clock.
fn is_plausible(counters: &Counters, caps: &Caps, elapsed_ms: u64) -> bool {
    let elapsed_us = elapsed_ms.saturating_mul(1_000);
    let cpu_max = elapsed_us.saturating_mul(caps.cpu_milli.max(1_000)) / 1_000;
    let gpu_max = elapsed_us.saturating_add(SLACK_US).saturating_mul(caps.devices);
    let mem_max = (elapsed_ms / 1_000 + 2).saturating_mul(caps.memory_bytes / 1_024 + 1);
    counters.get(Dimension::Cpu) <= cpu_max.saturating_add(cpu_max / 10).saturating_add(SLACK_US)
        && counters.get(Dimension::Gpu) <= gpu_max.saturating_add(gpu_max / 10)
        && counters.get(Dimension::Mem) <= mem_max.saturating_add(mem_max / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_paid_for_as_many_and_as_long_as_they_can_have_been_held() {
        let claim = |us| Counters::default().with(Dimension::Gpu, us);
        for (us, devices, elapsed_ms, expected) in [
            (0, 0, 0, true),
            (1, 0, 1_000_000, false),
            (10_000_000, 1, 10_000, true),
            (13_200_000, 1, 10_000, true),
            (13_200_001, 1, 10_000, false),
            (20_000_000, 1, 10_000, false),
            (20_000_000, 2, 10_000, true),
            (u64::MAX, 32, u64::MAX, true),
        ] {
            let caps = Caps { cpu_milli: 1_000, memory_bytes: 0, disk_bytes: 0, devices };
            let said = is_plausible(&claim(us), &caps, elapsed_ms);
            assert_eq!(said, expected, "{us} of {devices} in {elapsed_ms}");
        }
    }
}
