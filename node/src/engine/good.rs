//! Peers that were good to this node, for the next start; and those of other organisations that it keeps as neighbours.
//!
//! # Good peers
//!
//! A peer is good when it was connected and admitted, until a lie of it is proven or its organisation takes it back. The last
//! [`GOOD_MAX`] are kept on disk with where they are and when they were last seen: a node that starts dials them even when nobody
//! whom its owner named is there. At the bound the worst makes room: of the organisation that has most of them, the one that
//! was not seen for longest. So one organisation, however many nodes it runs, pushes out its own.
//!
//! What is read from the disk is checked as what comes from a peer, which most of it did: too many or too long addresses are left
//! out, and nobody was seen later than now.
//!
//! # Neighbours
//!
//! Whoever surrounds a node with its own nodes decides what it hears. So [`NEIGHBOURS`] connected nodes of other organisations,
//! each of another one where there are so many, are its neighbours, and a flood of others changes nothing about them. A place
//! is held for their connections, and while they are of fewer organisations, for good peers of others that are away: they get in,
//! and are dialled, also when all places are taken. When many peers have to be dialled, each organisation has its turn, and those
//! that have no neighbour yet come first.
//!
//! ## What a liar can do
//!
//! Be a good peer for long, and then lie: it is one neighbour of several, each of another organisation. An organisation
//! of thousands of nodes has one neighbour, its share of the good peers, and in each round of dials one turn as every other.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{NodeId, OrgId};

/// Good peers that are kept. At the bound the worst is forgotten.
const GOOD_MAX: usize = 200;
/// Neighbours of other organisations that are kept, while there are so many.
pub(super) const NEIGHBOURS: usize = 3;
/// Addresses kept of one. Further ones are left out.
const ADDRESSES_MAX: usize = 8;
/// Bytes of one address. A longer one is left out.
const ADDRESS_LEN_MAX: usize = 512;
/// How often a peer that stays is noted again.
const AGAIN_MS: u64 = 3_600_000;

/// A peer that was connected and admitted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GoodPeer {
    /// Whose it is.
    pub org: OrgId,
    /// Where it was.
    pub addresses: Vec<String>,
    /// When it was last connected (Unix ms).
    pub seen_ms: u64,
}

impl GoodPeer {
    /// What of this is kept; nothing when there is nowhere to dial.
    fn checked(mut self, now_ms: u64) -> Option<Self> {
        let is_sound = |address: &String| {
            (1..=ADDRESS_LEN_MAX).contains(&address.len()) && !address.contains(char::is_control)
        };
        self.addresses.retain(is_sound);
        self.addresses.truncate(ADDRESSES_MAX);
        self.seen_ms = self.seen_ms.min(now_ms);
        (!self.addresses.is_empty()).then_some(self)
    }
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Good {
    peers: BTreeMap<NodeId, GoodPeer>,
    neighbours: BTreeMap<NodeId, OrgId>,
    held: BTreeSet<NodeId>,
}

impl Good {
    /// From the disk, at the start. False when nothing of it can be used.
    pub(super) fn restore(&mut self, peer: NodeId, good: GoodPeer, now_ms: u64) -> bool {
        good.checked(now_ms).is_some_and(|good| {
            self.peers.insert(peer, good);
            true
        })
    }

    /// The peer is connected and admitted, or was until now. What is to be written of it, when there is news, and who is
    /// forgotten for it.
    pub(super) fn note(
        &mut self,
        peer: NodeId,
        org: OrgId,
        addresses: Vec<String>,
        now_ms: u64,
    ) -> (Option<GoodPeer>, Option<NodeId>) {
        let Some(good) = (GoodPeer { org, addresses, seen_ms: now_ms }).checked(now_ms) else {
            return (None, None);
        };
        let is_known = self.peers.get(&peer).is_some_and(|known| {
            known.org == org
                && known.addresses == good.addresses
                && now_ms < known.seen_ms.saturating_add(AGAIN_MS)
        });
        if is_known {
            return (None, None);
        }
        self.peers.insert(peer, good.clone());
        let out = self.evict();
        (Some(good).filter(|_| out != Some(peer)), out)
    }

    /// Nothing more is kept of it. What was.
    pub(super) fn forget(&mut self, peer: NodeId) -> Option<GoodPeer> {
        self.peers.remove(&peer)
    }

    pub(super) fn get(&self, peer: NodeId) -> Option<&GoodPeer> {
        self.peers.get(&peer)
    }

    /// The good peers of an organisation.
    pub(super) fn of(&self, org: OrgId) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.iter().filter(move |(_, good)| good.org == org).map(|(peer, _)| *peer)
    }

    /// Forgets the worst when there are too many.
    pub(super) fn evict(&mut self) -> Option<NodeId> {
        if self.peers.len() <= GOOD_MAX {
            return None;
        }
        let all = self.peers.iter().map(|(peer, good)| (*peer, Some(good.org), good.seen_ms));
        let worst = worst(all)?;
        self.peers.remove(&worst);
        Some(worst)
    }

    /// Chooses the neighbours among the connected nodes of other organisations, and for whom of those that are away a place
    /// is held, nobody of the own organisation. All for whom one is held, if they are others than before.
    pub(super) fn choose(
        &mut self,
        connected: &BTreeMap<NodeId, OrgId>,
        own: OrgId,
    ) -> Option<BTreeSet<NodeId>> {
        self.neighbours.retain(|peer, org| connected.get(peer) == Some(org));
        // Those of organisations that have none yet first.
        while self.neighbours.len() < NEIGHBOURS {
            let orgs = self.orgs();
            let left = connected.iter().filter(|(peer, _)| !self.neighbours.contains_key(*peer));
            let Some((peer, org)) = left.min_by_key(|(_, org)| orgs.contains(*org)) else { break };
            self.neighbours.insert(*peer, *org);
        }
        // A second one of an organisation gives way to the first one of another.
        while let Some((second, (peer, org))) = self.second().zip(self.missing(connected)) {
            self.neighbours.remove(&second);
            self.neighbours.insert(peer, org);
        }
        let held: BTreeSet<NodeId> =
            self.neighbours.keys().copied().chain(self.away(connected, own)).collect();
        (held != self.held).then(|| {
            self.held.clone_from(&held);
            held
        })
    }

    fn orgs(&self) -> BTreeSet<OrgId> {
        self.neighbours.values().copied().collect()
    }

    fn second(&self) -> Option<NodeId> {
        let mut seen = BTreeSet::new();
        self.neighbours.iter().find(|(_, org)| !seen.insert(**org)).map(|(peer, _)| *peer)
    }

    fn missing(&self, connected: &BTreeMap<NodeId, OrgId>) -> Option<(NodeId, OrgId)> {
        let orgs = self.orgs();
        let other = connected.iter().find(|(_, org)| !orgs.contains(*org));
        other.map(|(peer, org)| (*peer, *org))
    }

    /// Of each organisation without a neighbour the good peer that was seen last, while neighbours of so many are missing.
    fn away(&self, connected: &BTreeMap<NodeId, OrgId>, own: OrgId) -> Vec<NodeId> {
        let orgs = self.orgs();
        let mut last: BTreeMap<OrgId, (u64, NodeId)> = BTreeMap::new();
        for (peer, good) in &self.peers {
            if good.org != own && !orgs.contains(&good.org) && !connected.contains_key(peer) {
                let seen = (good.seen_ms, *peer);
                let last = last.entry(good.org).or_insert(seen);
                *last = (*last).max(seen);
            }
        }
        let mut last: Vec<(u64, NodeId)> = last.into_values().collect();
        last.sort_unstable_by(|a, b| b.cmp(a));
        last.into_iter().take(NEIGHBOURS.saturating_sub(orgs.len())).map(|(_, peer)| peer).collect()
    }

    /// Whether a node of this organisation may be a better neighbour than those there are.
    pub(super) fn may_take(&self, org: OrgId) -> bool {
        let orgs = self.orgs();
        self.neighbours.len() < NEIGHBOURS || (orgs.len() < NEIGHBOURS && !orgs.contains(&org))
    }

    /// Whether neighbours are missing, and this organisation has none among them.
    pub(super) fn is_missing(&self, org: OrgId) -> bool {
        let orgs = self.orgs();
        orgs.len() < NEIGHBOURS && !orgs.contains(&org)
    }

    pub(super) fn is_neighbour(&self, peer: NodeId) -> bool {
        self.neighbours.contains_key(&peer)
    }
}

/// Who of these (with its organisation, and when it was last seen) is forgotten first: of the organisation that has most of
/// them, the one that was not seen for longest. So nobody's nodes are pushed out by another's that are more.
pub(super) fn worst(all: impl Iterator<Item = (NodeId, Option<OrgId>, u64)>) -> Option<NodeId> {
    let mut of: BTreeMap<Option<OrgId>, Vec<(u64, NodeId)>> = BTreeMap::new();
    for (peer, org, seen_ms) in all {
        of.entry(org).or_default().push((seen_ms, peer));
    }
    let most = of.into_values().max_by_key(Vec::len)?;
    most.into_iter().min().map(|(_, peer)| peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: OrgId = OrgId::from_bytes([255; 32]);

    fn node(n: u16) -> NodeId {
        let [a, b] = n.to_be_bytes();
        let mut bytes = [0; 32];
        (bytes[0], bytes[1]) = (a, b);
        NodeId::from_bytes(bytes)
    }

    fn org(n: u8) -> OrgId {
        OrgId::from_bytes([n; 32])
    }

    fn at() -> Vec<String> {
        vec!["/ip4/192.0.2.1/tcp/1".to_owned()]
    }

    fn neighbours(good: &Good) -> Vec<OrgId> {
        good.neighbours.values().copied().collect()
    }

    #[test]
    fn at_the_bound_a_large_organisation_pushes_out_its_own() {
        let mut good = Good::default();
        assert_eq!(good.note(node(1), org(1), vec![], 5), (None, None), "nowhere to dial");
        assert!(good.note(node(1), org(1), at(), 5).0.is_some());
        assert_eq!(good.note(node(1), org(1), at(), 6), (None, None), "no news");
        assert!(good.note(node(1), org(1), at(), 5 + AGAIN_MS).0.is_some());
        let mut out = Vec::new();
        for n in 0..500 {
            out.extend(good.note(node(1000 + n), org(2), at(), 10 + u64::from(n)).1);
        }
        assert_eq!(good.peers.len(), GOOD_MAX);
        assert!(good.peers.contains_key(&node(1)), "the small organisation stays");
        assert_eq!(out, (0..301).map(|n| node(1000 + n)).collect::<Vec<_>>(), "the oldest go");
    }

    #[test]
    fn what_the_disk_says_is_cut_to_what_a_peer_may_say() {
        let mut good = Good::default();
        let mut addresses: Vec<String> = (0..100).map(|n| format!("/dns4/h{n}/tcp/1")).collect();
        addresses[0] = "x".repeat(ADDRESS_LEN_MAX + 1);
        addresses[1] = "/dns4/a\u{1b}[2J/tcp/1".to_owned();
        addresses[2] = String::new();
        let kept = addresses[3..3 + ADDRESSES_MAX].to_vec();
        let row = |addresses, seen_ms| GoodPeer { org: org(1), addresses, seen_ms };
        assert!(good.restore(node(1), row(addresses.clone(), u64::MAX), 9));
        assert_eq!(good.peers[&node(1)], row(kept, 9));
        assert!(!good.restore(node(2), row(addresses[..3].to_vec(), 9), 9), "nowhere to dial");
    }

    #[test]
    fn neighbours_stay_and_are_of_several_organisations() {
        let mut good = Good::default();
        let mut there: BTreeMap<NodeId, OrgId> = (0..50).map(|n| (node(n), org(1))).collect();
        assert!(good.choose(&there, OWN).is_some());
        assert_eq!(neighbours(&good), [org(1); 3], "of one organisation, while there is no other");
        there.insert(node(900), org(2));
        there.insert(node(901), org(2));
        there.insert(node(902), org(3));
        let held = good.choose(&there, OWN).unwrap();
        assert_eq!(good.orgs().len(), 3);
        there.extend((100..200).map(|n| (node(n), org(4))));
        assert_eq!(good.choose(&there, OWN), None, "a flood changes nothing");
        assert!(held.iter().all(|peer| good.is_neighbour(*peer)));
    }

    #[test]
    fn a_place_is_held_for_good_peers_that_are_away_while_neighbours_are_missing() {
        let mut good = Good::default();
        for (n, of) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (6, 255)] {
            good.note(node(n), org(of), at(), u64::from(n));
        }
        // Of each organisation but the own one the node that was seen last, of the last organisations.
        let held = good.choose(&BTreeMap::new(), OWN);
        assert_eq!(held, Some([3, 4, 5].map(node).into()));
        let mut there = BTreeMap::from([(node(7), org(1)), (node(8), org(1))]);
        assert_eq!(good.choose(&there, OWN), Some([4, 5, 7, 8].map(node).into()));
        assert!(!good.is_missing(org(1)) && good.is_missing(org(2)));
        there.extend([(node(3), org(2)), (node(5), org(4))]);
        assert_eq!(good.choose(&there, OWN).map(|held| held.len()), Some(NEIGHBOURS));
        assert!(!good.is_missing(org(3)));
    }

    proptest! {
        #[test]
        fn there_are_always_as_many_of_as_many_organisations_as_there_can_be(
            steps in prop::collection::vec(
                prop::collection::btree_map((0_u16..20).prop_map(node), (0_u8..5).prop_map(org), 0..12),
                1..20,
            )
        ) {
            let mut good = Good::default();
            for there in steps {
                good.choose(&there, OWN);
                let kept = &good.neighbours;
                prop_assert_eq!(kept.len(), there.len().min(NEIGHBOURS));
                let of = |peers: &mut dyn Iterator<Item = &NodeId>| {
                    peers.map(|peer| there[peer]).collect::<BTreeSet<_>>().len()
                };
                let all = of(&mut there.keys());
                prop_assert_eq!(of(&mut kept.keys()), all.min(NEIGHBOURS));
            }
        }
    }
}
