//! The consumer's side: quotes taken, channels accepted, what providers claim checked and signed for.

use accounting::body::{AckCode, AckException, Agreement};
use accounting::channel::{Channel, EntryError};
use accounting::entry::Side;
use accounting::lane::{Answer, LaneState};
use accounting::{Counters, Dimension, Quote};
use catalog::{Amount, Digest, NodeId};
use scheduler::negotiate::RequestId;

use super::replay::entry_key;
use super::{Ledger, QUOTES_MAX};
use crate::store::batch::Table;

/// Time a consumer accepts beyond what has passed since it signed: start-up and clocks.
const SLACK_MS: u64 = 2_000;

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
        let meant = Channel::parties(bytes).map(|[_, consumer]| consumer);
        let key = meant.and_then(|me| Some((self.keys.of(me)?, me)));
        // One that another node was meant for is refused by the key that everybody knows.
        let (key, me) = key.unwrap_or((self.keys.current(), self.me));
        let opened = Channel::accept(key, me, bytes, now_ms);
        let (channel, own) = match opened {
            Ok(opened) => opened,
            // Opened with a key whose time is over, and whose secret is no more: nothing was agreed there.
            Err(EntryError::NotForMe { consumer }) if self.keys.is_mine(consumer) => return false,
            Err(error) => {
                if let Some(fault) = error.fault() {
                    self.blame(from, fault, error.to_string());
                }
                return false;
            }
        };
        if Digest::from_bytes(*channel.id()) != id
            || !self.heirs.is_behind(channel.provider(), from)
        {
            self.offence(from, "a channel of others".to_owned());
            return false;
        }
        if self.pairs.contains_key(&(channel.provider(), channel.consumer())) {
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
                    !is_plausible(&lane.counters, &lane.agreement, elapsed_ms)
                })
                .map(|lane| AckException {
                    lane: lane.agreement.lane,
                    last_ok_lane_seq: lane.acked_lane_seq,
                    code: AckCode::Usage,
                });
            exceptions.extend(implausible);
            exceptions.sort_unstable_by_key(|e| e.lane);
            let key = self.keys.of_channel(channel);
            let signed = key.and_then(|key| channel.ack(key, now_ms, &exceptions).ok()?);
            if let Some(entry) = signed {
                self.store(id, &entry);
            }
            self.flush(id);
        }
        is_busy
    }
}

/// Whether counters can be true for a lane signed `elapsed_ms` ago on the consumer's clock, whatever periods the provider states.
fn is_plausible(counters: &Counters, terms: &Agreement, elapsed_ms: u64) -> bool {
    let elapsed_ms = elapsed_ms.saturating_add(SLACK_MS);
    Dimension::ALL.into_iter().all(|dimension| {
        let limit = terms.caps.limit(dimension, elapsed_ms, terms.max_duration_ms);
        limit.is_none_or(|limit| counters.get(dimension) <= limit)
    })
}

#[cfg(test)]
mod tests {
    use accounting::body::{Caps, ExposurePolicy, WorkId};

    use super::*;

    #[test]
    fn nothing_is_paid_for_that_cannot_have_been_used_by_now() {
        let caps =
            Caps { cpu_milli: 2_000, memory_bytes: 1 << 20, disk_bytes: 2 << 20, devices: 1 };
        let terms = Agreement {
            lane: 1,
            quote: [0; 32],
            work: WorkId { run: [0; 16], step: 0, index: 0, attempt: 1 },
            spec: Digest::of(b"spec"),
            caps,
            max_amount: Amount::ZERO,
            max_duration_ms: 60_000,
            exposure: ExposurePolicy::Stop,
        };
        // Seven seconds with two of slack here and one of the caps, widened by a tenth.
        for (dimension, most) in [
            (Dimension::Cpu, 22_000_000),
            (Dimension::VcpuAlloc, 22_000_000),
            (Dimension::Mem, 11 * 1_024),
            (Dimension::Storage, 11 * 2_048),
            (Dimension::Gpu, 11_000_000),
            (Dimension::SetUp, 11_000_000),
        ] {
            let claim = |n| is_plausible(&Counters::default().with(dimension, n), &terms, 7_000);
            assert!(claim(most), "{dimension:?}");
            assert!(!claim(most + 1), "{dimension:?}");
        }
        let fuel = Counters::default().with(Dimension::Fuel, u64::MAX);
        assert!(is_plausible(&fuel, &terms, 0), "it has no cap");
    }
}
