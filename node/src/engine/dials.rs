//! Where peers are and when to dial them.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use catalog::{NodeId, OrgId};

/// First pause after a failed dial; it doubles.
const DIAL_PAUSE_MS: u64 = 2_000;
/// Longest pause between two dials.
const DIAL_PAUSE_MAX_MS: u64 = 120_000;
/// Peers dialled in one round.
const DIALS_MAX: usize = 16;
/// Peers whose addresses are remembered. At the bound one is forgotten that is away, that the owner did not name and that is neither of
/// this organisation nor a partner's: of the organisation that has most of them, the one that was not seen for longest. When
/// all must stay, nothing is learnt about further ones.
const PEERS_MAX: usize = 2_000;
/// Peers of one organisation, but for the own one, whose addresses are remembered. At the bound one of its own that is away is forgotten.
/// Those of which nobody knows whose they are count as one organisation.
pub(super) const ORG_PEERS_MAX: usize = 500;

#[derive(Clone, Debug, Default)]
struct Known {
    /// Whose it is, as its papers say; absent while none were seen.
    org: Option<OrgId>,
    addresses: Vec<String>,
    /// Given by the owner: tried beside what the peer publishes, whatever that is.
    given: Vec<String>,
    /// Why the last dial failed.
    last_error: Option<String>,
    failures: u32,
    dial_at_ms: u64,
    is_dialling: bool,
    /// When it was last connected; zero for never.
    seen_ms: u64,
}

/// Addresses of peers and when to dial them.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    known: BTreeMap<NodeId, Known>,
}

impl Directory {
    /// Where a peer is. The caller has made room for it.
    pub(super) fn learn(&mut self, peer: NodeId, org: Option<OrgId>, addresses: Vec<String>) {
        if addresses.is_empty() || (self.is_full() && !self.known.contains_key(&peer)) {
            return;
        }
        let known = self.known.entry(peer).or_default();
        known.org = org.or(known.org);
        if known.addresses != addresses {
            known.addresses = addresses;
            known.failures = 0;
        }
    }

    /// Whose a peer is that is known, if its papers were seen.
    pub(super) fn org(&self, peer: NodeId) -> Option<Option<OrgId>> {
        self.known.get(&peer).map(|known| known.org)
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.known.keys().copied()
    }

    /// Whether one has to be forgotten before anything is learnt about another.
    pub(super) fn is_full(&self) -> bool {
        self.known.len() >= PEERS_MAX
    }

    /// How many are known of an organisation.
    pub(super) fn count(&self, org: Option<OrgId>) -> usize {
        self.known.values().filter(|known| known.org == org).count()
    }

    /// Its papers say whose it is.
    pub(super) fn note_org(&mut self, peer: NodeId, org: OrgId) {
        if let Some(known) = self.known.get_mut(&peer) {
            known.org = Some(org);
        }
    }

    pub(super) fn note_seen(&mut self, peer: NodeId, seen_ms: u64) {
        if let Some(known) = self.known.get_mut(&peer) {
            known.seen_ms = known.seen_ms.max(seen_ms);
        }
    }

    /// Peers that the owner did not name and that are not being dialled: whose they are, and when they were last connected.
    pub(super) fn forgettable(&self) -> impl Iterator<Item = (NodeId, Option<OrgId>, u64)> {
        let free =
            self.known.iter().filter(|(_, known)| known.given.is_empty() && !known.is_dialling);
        free.map(|(peer, known)| (*peer, known.org, known.seen_ms))
    }

    /// Dials a peer no more until it is learnt again.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.known.remove(&peer);
    }

    /// A peer has come to another key, and is where it was.
    pub(super) fn succeed(&mut self, old: NodeId, new: NodeId) {
        let Some(before) = self.known.remove(&old) else { return };
        before.given.into_iter().for_each(|address| self.give(new, address));
        if self.known.get(&new).is_none_or(|known| known.addresses.is_empty()) {
            self.learn(new, before.org, before.addresses);
        }
    }

    pub(super) fn addresses(&self, peer: NodeId) -> Vec<String> {
        self.known.get(&peer).map(|k| k.addresses.clone()).unwrap_or_default()
    }

    pub(super) fn handle_connected(&mut self, peer: NodeId) {
        if let Some(known) = self.known.get_mut(&peer) {
            known.failures = 0;
            known.is_dialling = false;
            known.last_error = None;
        }
    }

    /// Addresses of a peer that the owner gave.
    pub(super) fn give(&mut self, peer: NodeId, address: String) {
        let known = self.known.entry(peer).or_default();
        if !known.given.contains(&address) {
            known.given.push(address);
        }
    }

    /// Why the peer was not reached the last time, when it was not.
    pub(super) fn last_error(&self, peer: NodeId) -> Option<String> {
        self.known.get(&peer)?.last_error.clone()
    }

    pub(super) fn handle_disconnected(&mut self, peer: NodeId, now_ms: u64) {
        if let Some(known) = self.known.get_mut(&peer) {
            known.is_dialling = false;
            known.seen_ms = now_ms;
            known.dial_at_ms = now_ms + DIAL_PAUSE_MS;
        }
    }

    pub(super) fn handle_connect_ended(
        &mut self,
        peer: NodeId,
        error: Option<String>,
        now_ms: u64,
    ) {
        if let Some(known) = self.known.get_mut(&peer) {
            known.is_dialling = false;
            let is_failed = error.is_some();
            known.last_error = error;
            if is_failed {
                known.failures = known.failures.saturating_add(1);
                let pause = DIAL_PAUSE_MS.saturating_mul(1 << known.failures.min(6));
                known.dial_at_ms = now_ms + pause.min(DIAL_PAUSE_MAX_MS);
            }
        }
    }

    /// Whom to dial now. When they are too many for one round, each organisation has its turn, those that come first before the
    /// others: its nodes that did not fail before those that did, and what was seen last before what was not.
    pub(super) fn due(
        &mut self,
        now_ms: u64,
        is_wanted: impl Fn(NodeId, Option<OrgId>) -> bool,
        is_first: impl Fn(OrgId) -> bool,
    ) -> Vec<(NodeId, Vec<String>)> {
        let is_due = |(peer, known): &(&NodeId, &Known)| {
            !known.is_dialling && now_ms >= known.dial_at_ms && is_wanted(**peer, known.org)
        };
        let mut found: Vec<(&NodeId, &Known)> = self.known.iter().filter(is_due).collect();
        let mut due: Vec<NodeId> = found.iter().map(|(peer, _)| **peer).collect();
        if due.len() > DIALS_MAX {
            found.sort_by_key(|(_, known)| (known.failures, Reverse(known.seen_ms)));
            let mut turns: BTreeMap<Option<OrgId>, u32> = BTreeMap::new();
            let mut ranked: Vec<(u32, bool, NodeId)> = Vec::with_capacity(found.len());
            for (peer, known) in found {
                let turn = turns.entry(known.org).or_default();
                *turn += 1;
                ranked.push((*turn, !known.org.is_some_and(&is_first), *peer));
            }
            ranked.sort_unstable();
            due = ranked.into_iter().take(DIALS_MAX).map(|(_, _, peer)| peer).collect();
        }
        let mut dialled = Vec::new();
        for peer in due {
            if let Some(known) = self.known.get_mut(&peer) {
                known.is_dialling = true;
                let mut addresses = known.given.clone();
                addresses.extend(known.addresses.iter().cloned());
                dialled.push((peer, addresses));
            }
        }
        dialled
    }

    /// The usual wait for the other side to dial first is left out.
    pub(super) fn hurry(&mut self, peer: NodeId, now_ms: u64) {
        if let Some(known) = self.known.get_mut(&peer).filter(|known| known.failures == 0) {
            known.dial_at_ms = known.dial_at_ms.min(now_ms);
        }
    }

    pub(super) fn delay(&mut self, peer: NodeId, until_ms: u64) {
        if let Some(known) = self.known.get_mut(&peer) {
            known.dial_at_ms = known.dial_at_ms.max(until_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn in_a_round_of_dials_each_organisation_has_its_turn() {
        let node = |n: u16| {
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            NodeId::from_bytes(bytes)
        };
        let org = |n: u8| Some(OrgId::from_bytes([n; 32]));
        let at = || vec!["/ip4/192.0.2.1/tcp/1".to_owned()];
        let mut directory = Directory::default();
        (0..300).for_each(|n| directory.learn(node(n), org(1), at()));
        (300..320).for_each(|n| directory.learn(node(n), None, at()));
        for n in 0..20_u8 {
            directory.learn(node(400 + u16::from(n)), org(n + 10), at());
        }
        directory.learn(node(500), org(29), at());
        directory.note_seen(node(500), 7);
        // One round has room for sixteen of the twenty-two: of each organisation one, of those first that come first.
        let is_first = |org: OrgId| (14..=29).contains(&org.as_bytes()[0]);
        let mut dialled = directory.due(0, |_, _| true, is_first);
        dialled.sort();
        let expected = (404..419).chain([500]).map(|n| (node(n), at()));
        assert_eq!(dialled, expected.collect::<Vec<_>>(), "of two the one that was seen before");
        // The others have their turn in the next round, and are fewer than it has room for.
        let next: BTreeSet<NodeId> =
            directory.due(0, |_, _| true, is_first).into_iter().map(|(peer, _)| peer).collect();
        let expected = [0, 300, 400, 401, 402, 403].map(node);
        assert!(next.len() == DIALS_MAX && expected.iter().all(|peer| next.contains(peer)));
        assert!(next.contains(&node(419)), "a second one of an organisation after the first ones");
    }
}
