//! A 16-ary hash trie over authors: two replicas compare roots and descend only where they differ.
//!
//! An author stands at the nibbles of BLAKE3 of its id, so positions are spread evenly whatever ids look like. A node's
//! fingerprint is zero when nothing stands below it, the leaf's own when one author does, and else the hash of its sixteen
//! children's: the shape depends on the set only, so equal sets have equal roots.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::id::NodeId;

/// A node's or leaf's fingerprint: 16 bytes, as chance collisions are all that is left to fear (a chosen one needs two
/// signed heads of one author, and hides a change of that author only).
pub(crate) type Fingerprint = [u8; 16];

/// Nothing below a node.
pub(crate) const EMPTY: Fingerprint = [0; 16];
/// Deepest level: two nibbles for each byte of the position.
pub(crate) const DEPTH_MAX: usize = 64;
/// Children of a node.
pub(crate) const FANOUT: u8 = 16;

type Position = [u8; 32];

/// The trie.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trie {
    leaves: BTreeMap<Position, (NodeId, Fingerprint)>,
    /// Fingerprints of nodes with two or more leaves below, by their nibbles.
    nodes: BTreeMap<Vec<u8>, Fingerprint>,
}

/// Where an author stands.
fn position(author: NodeId) -> Position {
    *blake3::hash(author.as_bytes()).as_bytes()
}

fn nibble(position: &Position, at: usize) -> u8 {
    let byte = position.get(at / 2).copied().unwrap_or_default();
    if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
}

/// Whether an author stands below a node.
pub(crate) fn is_below(author: NodeId, prefix: &[u8]) -> bool {
    let position = position(author);
    prefix.iter().enumerate().all(|(at, n)| nibble(&position, at) == *n)
}

/// The first and last position below a node.
fn range_of(prefix: &[u8]) -> (Position, Position) {
    let (mut low, mut high) = ([0; 32], [0xff; 32]);
    for (at, n) in prefix.iter().enumerate().take(DEPTH_MAX) {
        let (clear, value) = if at.is_multiple_of(2) { (0x0f, n << 4) } else { (0xf0, *n) };
        low[at / 2] = (low[at / 2] & clear) | value;
        high[at / 2] = (high[at / 2] & clear) | value;
    }
    (low, high)
}

/// The node below `prefix` in direction `n`.
pub(crate) fn child(prefix: &[u8], n: u8) -> Vec<u8> {
    let mut child = prefix.to_vec();
    child.push(n);
    child
}

impl Trie {
    /// Puts or replaces a leaf.
    pub(crate) fn set(&mut self, author: NodeId, fingerprint: Fingerprint) {
        let at = position(author);
        if self.leaves.insert(at, (author, fingerprint)) != Some((author, fingerprint)) {
            self.refresh(&at);
        }
    }

    /// Takes a leaf away.
    pub(crate) fn remove(&mut self, author: NodeId) {
        let at = position(author);
        if self.leaves.remove(&at).is_some() {
            self.refresh(&at);
        }
    }

    /// The fingerprint of the whole.
    pub(crate) fn root(&self) -> Fingerprint {
        self.fingerprint(&[])
    }

    /// The leaves below a node, in order.
    pub(crate) fn below(&self, prefix: &[u8]) -> impl Iterator<Item = NodeId> + '_ {
        let (low, high) = range_of(prefix);
        self.leaves
            .range((Bound::Included(low), Bound::Included(high)))
            .map(|(_, (author, _))| *author)
    }

    /// A node's fingerprint.
    pub(crate) fn fingerprint(&self, prefix: &[u8]) -> Fingerprint {
        let (low, high) = range_of(prefix);
        let mut leaves = self.leaves.range((Bound::Included(low), Bound::Included(high)));
        match (leaves.next(), leaves.next()) {
            (None, _) => EMPTY,
            (Some((_, (_, leaf))), None) => *leaf,
            _ => self.nodes.get(prefix).copied().unwrap_or(EMPTY),
        }
    }

    /// Recomputes the nodes above a position, deepest first.
    fn refresh(&mut self, at: &Position) {
        let path: Vec<u8> = (0..DEPTH_MAX).map(|depth| nibble(at, depth)).collect();
        let mut depth = 0;
        while depth < DEPTH_MAX && self.below(&path[..depth]).nth(1).is_some() {
            depth += 1;
        }
        // Below the deepest shared node nothing may stay from before a removal.
        for stale in depth..DEPTH_MAX {
            if self.nodes.remove(&path[..stale]).is_none() {
                break;
            }
        }
        for shared in (0..depth).rev() {
            let prefix = &path[..shared];
            let mut hasher = blake3::Hasher::new();
            for n in 0..FANOUT {
                hasher.update(&self.fingerprint(&child(prefix, n)));
            }
            self.nodes.insert(prefix.to_vec(), short(&hasher.finalize()));
        }
    }
}

/// The first 16 bytes of a hash.
pub(crate) fn short(hash: &blake3::Hash) -> Fingerprint {
    let mut short = EMPTY;
    short.copy_from_slice(&hash.as_bytes()[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn author(n: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    /// The definition, without any caching.
    fn naive(leaves: &BTreeMap<Position, (NodeId, Fingerprint)>, prefix: &[u8]) -> Fingerprint {
        let below: Vec<_> = leaves.values().filter(|(a, _)| is_below(*a, prefix)).collect();
        match below.as_slice() {
            [] => EMPTY,
            [(_, leaf)] => *leaf,
            _ => {
                let mut hasher = blake3::Hasher::new();
                for n in 0..FANOUT {
                    hasher.update(&naive(leaves, &child(prefix, n)));
                }
                short(&hasher.finalize())
            }
        }
    }

    proptest! {
        #[test]
        fn cached_fingerprints_are_those_of_the_definition(
            steps in proptest::collection::vec((0u16..40, proptest::option::of(1u8..4)), 0..60),
        ) {
            let mut trie = Trie::default();
            let mut model = BTreeMap::new();
            for (n, leaf) in steps {
                match leaf {
                    Some(leaf) => {
                        trie.set(author(n), [leaf; 16]);
                        model.insert(position(author(n)), (author(n), [leaf; 16]));
                    }
                    None => {
                        trie.remove(author(n));
                        model.remove(&position(author(n)));
                    }
                }
                prop_assert_eq!(trie.root(), naive(&model, &[]));
            }
            for n in 0..FANOUT {
                prop_assert_eq!(trie.fingerprint(&[n]), naive(&model, &[n]));
                let below: Vec<NodeId> = trie.below(&[n]).collect();
                prop_assert!(below.iter().all(|a| is_below(*a, &[n])));
            }
            prop_assert_eq!(trie.below(&[]).count(), model.len());
            let shared = trie.nodes.keys().all(|prefix| trie.below(prefix).nth(1).is_some());
            prop_assert!(shared, "a node with fewer than two leaves stayed");
        }
    }
}
