//! When a node opens a round, and with whom.
//!
//! Every 15 seconds, half to one and a half of it, so that nodes keep out of step. After a round that found something the
//! next one follows within three seconds: what one node alone has then spreads like a rumour, doubling every few seconds,
//! and the tail alone waits for the ordinary pace. Partners are taken in a shuffled order, each once before any comes
//! again, so that no neighbour is forgotten for long, whoever of them gossip happens to use.
//!
//! While one peer hands over a lot, rounds of others are left unanswered: a node that joins would otherwise get everything
//! from each of its neighbours at once.

use std::collections::BTreeSet;

use crate::id::NodeId;

use super::SyncMessage;

/// Between two rounds, on average.
pub const SYNC_MS: u64 = 15_000;
/// Every how many rounds of a full node one is with a light one.
const LIGHT_TURN: u64 = 8;
/// Between two rounds of a light node, on average.
pub const LIGHT_SYNC_MS: u64 = 30_000;
/// From a round that found something to the next, at most; at least a third of it.
pub const QUICK_MS: u64 = 3_000;
/// Without a page for this long, a peer that handed over a lot is taken for gone or done.
const BULK_MS: u64 = 5_000;
/// From how many authors asked for on a node is handed a lot.
const BULK_AUTHORS: usize = 64;

/// The pace of one node.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    next_ms: u64,
    /// A light node's: slower, and no faster after a find.
    is_light: bool,
    /// Partners in this turn; emptied when it is over.
    had: BTreeSet<NodeId>,
    bulk: Option<(NodeId, u64)>,
}

impl Pace {
    /// A pace whose first round is due at some moment of the first 15 seconds, by a random number.
    #[must_use]
    pub const fn new(now_ms: u64, random: u64) -> Self {
        Self {
            next_ms: now_ms.saturating_add(random % SYNC_MS),
            is_light: false,
            had: BTreeSet::new(),
            bulk: None,
        }
    }

    /// The pace of a light node. As it hears no gossip each round finds something; another one after it would find little.
    #[must_use]
    pub const fn light(now_ms: u64, random: u64) -> Self {
        let next_ms = now_ms.saturating_add(random % LIGHT_SYNC_MS);
        Self { is_light: true, next_ms, had: BTreeSet::new(), bulk: None }
    }

    /// When the next round is due, Unix milliseconds.
    #[must_use]
    pub const fn next_ms(&self) -> u64 {
        self.next_ms
    }

    /// Begins a round with one of the peers, if there is one, and sets the time of the next. Light nodes have their own
    /// records alone, so a full node takes one of them in every eighth round only, and a light one never. `random` gives
    /// numbers.
    pub fn begin(
        &mut self,
        now_ms: u64,
        full: &[NodeId],
        light: &[NodeId],
        mut random: impl FnMut() -> u64,
    ) -> Option<NodeId> {
        let is_lights_turn = !light.is_empty()
            && !self.is_light
            && (full.is_empty() || random().is_multiple_of(LIGHT_TURN));
        let peers = if is_lights_turn { light } else { full };
        let every_ms = if self.is_light { LIGHT_SYNC_MS } else { SYNC_MS };
        self.next_ms = now_ms.saturating_add(every_ms / 2 + random() % every_ms);
        let left = peers.iter().filter(|peer| !self.had.contains(peer)).count();
        if left == 0 {
            peers.iter().for_each(|peer| {
                self.had.remove(peer);
            });
            self.had.retain(|had| full.contains(had) || light.contains(had));
        }
        let left: Vec<NodeId> =
            peers.iter().filter(|peer| !self.had.contains(peer)).copied().collect();
        let at = usize::try_from(random() % left.len().max(1) as u64).unwrap_or_default();
        let peer = left.get(at).copied()?;
        self.had.insert(peer);
        Some(peer)
    }

    /// A round with another node, whoever opened it, found a difference.
    pub fn found(&mut self, now_ms: u64, random: u64) {
        if self.is_light {
            return;
        }
        let quick = QUICK_MS / 3 + random % (QUICK_MS - QUICK_MS / 3);
        self.next_ms = self.next_ms.min(now_ms.saturating_add(quick));
    }

    /// Whether a message that opens a round is to be answered, or begun by a greeting.
    #[must_use]
    pub fn is_free(&self, now_ms: u64, peer: NodeId) -> bool {
        self.bulk.is_none_or(|(from, until_ms)| from == peer || now_ms >= until_ms)
    }

    /// Takes note of what a message of `peer` led to.
    pub fn note(&mut self, now_ms: u64, peer: NodeId, replies: &[SyncMessage]) {
        let is_bulk = replies.iter().any(|reply| match reply {
            SyncMessage::Want(wants) | SyncMessage::WantKinds { wants, .. } => {
                wants.len() >= BULK_AUTHORS
            }
            _ => false,
        });
        if is_bulk && self.is_free(now_ms, peer) {
            self.bulk = Some((peer, now_ms.saturating_add(BULK_MS)));
        } else if self.bulk.is_some_and(|(from, _)| from == peer) {
            self.bulk = replies
                .iter()
                .any(|reply| {
                    use SyncMessage::{Fetch, Want, WantKinds};
                    matches!(reply, Want(_) | WantKinds { .. } | Fetch { .. })
                })
                .then_some((peer, now_ms.saturating_add(BULK_MS)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Want;

    fn peer(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn every_peer_has_its_turn_before_one_comes_again() {
        let peers: Vec<NodeId> = (0..7).map(peer).collect();
        let (mut pace, mut n) = (Pace::default(), 0);
        let mut random = || {
            n += 7_919;
            n
        };
        for _ in 0..3 {
            let turn: BTreeSet<_> =
                peers.iter().filter_map(|_| pace.begin(0, &peers, &[], &mut random)).collect();
            assert_eq!(turn.len(), peers.len());
        }
        assert_eq!(pace.begin(0, &[], &[], random), None);
    }

    #[test]
    fn a_find_hastens_the_next_round_and_never_delays_it() {
        let mut pace = Pace::default();
        pace.begin(0, &[], &[], || 0);
        assert_eq!(pace.next_ms(), SYNC_MS / 2);
        pace.found(1_000, 1_999);
        assert_eq!(pace.next_ms(), 1_000 + 2_999);
        pace.found(3_900, 0);
        assert_eq!(pace.next_ms(), 3_999);
    }

    #[test]
    fn while_one_peer_hands_over_a_lot_others_wait() {
        let mut pace = Pace::default();
        let many = [SyncMessage::Want(vec![Want::EVERYTHING; BULK_AUTHORS])];
        pace.note(0, peer(1), &many);
        assert!(pace.is_free(1, peer(1)) && !pace.is_free(1, peer(2)));
        pace.note(4_000, peer(1), &[SyncMessage::Want(vec![Want::EVERYTHING])]);
        assert!(!pace.is_free(8_000, peer(2)));
        assert!(pace.is_free(9_000, peer(2)), "it went silent");
        pace.note(9_500, peer(1), &[]);
        assert!(pace.is_free(9_500, peer(2)), "it is done");
    }
}
