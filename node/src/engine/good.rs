//! Peers that were good to this node, for the next start; and those of other organisations that it keeps as neighbours.
//!
//! # Good peers
//!
//! A peer is good when it was connected and admitted. The last [`GOOD_MAX`] are kept on disk with where they are and when they
//! were last seen: a node that starts dials them even when nobody whom its owner named is there. At the bound the worst
//! makes room: of the organisation that has most of them, the one that was not seen for longest. So one organisation, however many nodes it runs,
//! pushes out its own.
//!
//! # Neighbours
//!
//! Whoever surrounds a node with its own nodes decides what it hears. So [`NEIGHBOURS`] connected nodes of other organisations,
//! each of another one where there are so many, have a place that no flood of connections takes; while there are fewer,
//! nodes of organisations that are not among them are dialled before all others.
//!
//! ## What a liar can do
//!
//! Be a good peer for long, and then lie: it is one neighbour of several, each of another organisation.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{NodeId, OrgId};

/// Good peers that are kept. At the bound the worst is forgotten.
const GOOD_MAX: usize = 200;
/// Neighbours of other organisations that are kept, while there are so many.
pub(super) const NEIGHBOURS: usize = 3;
/// Addresses kept of one. Further ones are left out.
const ADDRESSES_MAX: usize = 8;
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

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Good {
    peers: BTreeMap<NodeId, GoodPeer>,
    neighbours: BTreeMap<NodeId, OrgId>,
}

impl Good {
    /// From the disk, at the start.
    pub(super) fn restore(&mut self, peer: NodeId, good: GoodPeer) {
        self.peers.insert(peer, good);
        self.evict();
    }

    /// The peer is connected and admitted, or was until now. What is to be written of it, when there is news, and who is
    /// forgotten for it.
    pub(super) fn note(
        &mut self,
        peer: NodeId,
        org: OrgId,
        addresses: &[String],
        now_ms: u64,
    ) -> (Option<GoodPeer>, Option<NodeId>) {
        if addresses.is_empty() {
            return (None, None);
        }
        let addresses = addresses.iter().take(ADDRESSES_MAX).cloned().collect();
        let good = GoodPeer { org, addresses, seen_ms: now_ms };
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

    /// Nothing more is kept of it. Whether anything was.
    pub(super) fn forget(&mut self, peer: NodeId) -> bool {
        self.peers.remove(&peer).is_some()
    }

    pub(super) fn org(&self, peer: NodeId) -> Option<OrgId> {
        self.peers.get(&peer).map(|good| good.org)
    }

    fn evict(&mut self) -> Option<NodeId> {
        if self.peers.len() <= GOOD_MAX {
            return None;
        }
        let all = self.peers.iter().map(|(peer, good)| (*peer, Some(good.org), good.seen_ms));
        let worst = worst(all)?;
        self.peers.remove(&worst);
        Some(worst)
    }

    /// Chooses the neighbours among the connected nodes of other organisations. Whether they are others than before.
    pub(super) fn choose(&mut self, connected: &BTreeMap<NodeId, OrgId>) -> bool {
        let mut kept = self.neighbours.clone();
        kept.retain(|peer, _| connected.contains_key(peer));
        // Those of organisations that have none yet first.
        while kept.len() < NEIGHBOURS {
            let orgs: BTreeSet<OrgId> = kept.values().copied().collect();
            let left = connected.iter().filter(|(peer, _)| !kept.contains_key(*peer));
            let Some((peer, org)) = left.min_by_key(|(_, org)| orgs.contains(*org)) else { break };
            kept.insert(*peer, *org);
        }
        // A second one of an organisation gives way to the first one of another.
        let mut seen = BTreeSet::new();
        let second = kept.iter().find(|(_, org)| !seen.insert(**org)).map(|(peer, _)| *peer);
        let other = connected.iter().find(|(_, org)| !kept.values().any(|own| own == *org));
        if let Some((second, (peer, org))) = second.zip(other) {
            kept.remove(&second);
            kept.insert(*peer, *org);
        }
        let is_changed = kept != self.neighbours;
        self.neighbours = kept;
        is_changed
    }

    /// Whether a node of this organisation, just connected, may be a better neighbour than those there are.
    pub(super) fn may_take(&self, org: OrgId) -> bool {
        let orgs: BTreeSet<&OrgId> = self.neighbours.values().collect();
        self.neighbours.len() < NEIGHBOURS || (orgs.len() < NEIGHBOURS && !orgs.contains(&org))
    }

    pub(super) fn neighbours(&self) -> &BTreeMap<NodeId, OrgId> {
        &self.neighbours
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

    #[test]
    fn at_the_bound_a_large_organisation_pushes_out_its_own() {
        let mut good = Good::default();
        assert_eq!(good.note(node(1), org(1), &[], 5), (None, None), "nowhere to dial");
        assert!(good.note(node(1), org(1), &at(), 5).0.is_some());
        assert_eq!(good.note(node(1), org(1), &at(), 6), (None, None), "no news");
        assert!(good.note(node(1), org(1), &at(), 5 + AGAIN_MS).0.is_some());
        let mut out = Vec::new();
        for n in 0..500 {
            out.extend(good.note(node(1000 + n), org(2), &at(), 10 + u64::from(n)).1);
        }
        assert_eq!(good.peers.len(), GOOD_MAX);
        assert!(good.peers.contains_key(&node(1)), "the small organisation stays");
        assert_eq!(out, (0..301).map(|n| node(1000 + n)).collect::<Vec<_>>(), "the oldest go");
    }

    #[test]
    fn neighbours_stay_and_are_of_several_organisations() {
        let mut good = Good::default();
        let mut there: BTreeMap<NodeId, OrgId> = (0..50).map(|n| (node(n), org(1))).collect();
        assert!(good.choose(&there));
        assert_eq!(good.neighbours().len(), 3, "of one organisation, while there is no other");
        there.insert(node(900), org(2));
        there.insert(node(901), org(2));
        assert!(good.choose(&there));
        there.insert(node(902), org(3));
        assert!(good.choose(&there));
        let orgs: BTreeSet<&OrgId> = good.neighbours().values().collect();
        assert_eq!(orgs.len(), 3);
        let before = good.neighbours().clone();
        (100..200).for_each(|n| drop(there.insert(node(n), org(4))));
        assert!(!good.choose(&there), "a flood changes nothing");
        assert_eq!(*good.neighbours(), before);
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
                // Each exchange brings one organisation more.
                (0..=NEIGHBOURS).for_each(|_| { good.choose(&there); });
                let kept = good.neighbours();
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
