//! Consumers that ask and never take: what an offer reserves is nobody else's, so whoever only asks would keep everybody from
//! a node for nothing.
//!
//! An offer that nobody answers, or that is declined when half of its time is over or after it was taken, counts against its
//! consumer; an agreement speaks for it. From [`LAPSES_MAX`] of them on, each bars the consumer from further offers for
//! [`BARRED_MS`], until none has come for [`FORGIVEN_MS`]. So a consumer that only asks has what is free for one lease in
//! seven, and one that loses an answer here and there never notices.

use std::collections::BTreeMap;

use catalog::NodeId;

/// Offers of one consumer that may lapse; from then on each further one bars it for a while.
pub const LAPSES_MAX: u32 = 16;
/// How long one lapse too many bars: questions are refused as full.
pub const BARRED_MS: u64 = 60_000;
/// After this time without another lapse all of a consumer's are forgotten.
pub const FORGIVEN_MS: u64 = 600_000;
/// How many lapses one agreement makes good.
const AGREEMENT_WORTH: u32 = 4;
/// Consumers whose lapses are remembered; at the bound the one whose last lapse is the oldest is forgotten.
const CONSUMERS_MAX: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Lapse {
    count: u32,
    last_ms: u64,
}

/// The lapses of all consumers.
#[derive(Clone, Debug)]
pub(super) struct Lapses(BTreeMap<NodeId, Lapse>);

impl Lapses {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// An offer came to nothing at its end.
    pub(super) fn note(&mut self, consumer: NodeId, now_ms: u64) {
        if !self.0.contains_key(&consumer) && self.0.len() >= CONSUMERS_MAX {
            let oldest = self.0.iter().min_by_key(|(_, lapse)| lapse.last_ms).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.0.remove(&oldest);
            }
        }
        let lapse = self.0.entry(consumer).or_insert(Lapse { count: 0, last_ms: now_ms });
        if now_ms.saturating_sub(lapse.last_ms) >= FORGIVEN_MS {
            lapse.count = 0;
        }
        lapse.count = lapse.count.saturating_add(1).min(LAPSES_MAX);
        lapse.last_ms = now_ms;
    }

    /// An offer became an agreement.
    pub(super) fn note_agreed(&mut self, consumer: NodeId) {
        if let Some(lapse) = self.0.get_mut(&consumer) {
            lapse.count = lapse.count.saturating_sub(AGREEMENT_WORTH);
            if lapse.count == 0 {
                self.0.remove(&consumer);
            }
        }
    }

    /// For how long the consumer gets no offer, if it gets none.
    pub(super) fn barred_ms(&self, consumer: NodeId, now_ms: u64) -> Option<u64> {
        let lapse = self.0.get(&consumer).filter(|lapse| lapse.count >= LAPSES_MAX)?;
        lapse.last_ms.saturating_add(BARRED_MS).checked_sub(now_ms).filter(|left| *left > 0)
    }
}
