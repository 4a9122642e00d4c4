//! A 16-ary hash trie over authors: two replicas compare roots and descend only where they differ.
//!
//! An author stands at the nibbles of BLAKE3 of its id, so positions are spread evenly whatever ids look like. A node's
//! fingerprint is zero when nothing stands below it, the leaf's own when one author does, and else the hash of its sixteen
//! children's: the shape depends on the set only, so equal sets have equal roots.

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

/// What stands in one place: an author alone, or a node above two and more.
#[derive(Clone, Debug)]
enum Place {
    Leaf(Box<Leaf>),
    Inner(Box<Inner>),
}

#[derive(Clone, Debug)]
struct Leaf {
    at: Position,
    author: NodeId,
    fingerprint: Fingerprint,
}

#[derive(Clone, Debug)]
struct Inner {
    children: [Option<Place>; FANOUT as usize],
    /// Those of the children, side by side, so that a change reads no other child.
    prints: [Fingerprint; FANOUT as usize],
    /// The hash of `prints`.
    fingerprint: Fingerprint,
}

/// The trie. A change costs one hash of 256 bytes for each level above the author.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trie {
    root: Option<Place>,
}

/// Where an author stands.
fn position(author: NodeId) -> Position {
    *blake3::hash(author.as_bytes()).as_bytes()
}

fn nibble(position: &Position, at: usize) -> u8 {
    let byte = position.get(at / 2).copied().unwrap_or_default();
    if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
}

fn is_at_below(position: &Position, prefix: &[u8]) -> bool {
    prefix.iter().enumerate().all(|(at, n)| nibble(position, at) == *n)
}

/// The way to an author: one nibble a byte.
pub(crate) fn path(author: NodeId) -> Vec<u8> {
    let position = position(author);
    (0..DEPTH_MAX).map(|at| nibble(&position, at)).collect()
}

/// The node below `prefix` in direction `n`.
pub(crate) fn child(prefix: &[u8], n: u8) -> Vec<u8> {
    let mut child = prefix.to_vec();
    child.push(n);
    child
}

impl Place {
    const fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Leaf(leaf) => leaf.fingerprint,
            Self::Inner(inner) => inner.fingerprint,
        }
    }
}

impl Inner {
    fn new(children: [Option<Place>; FANOUT as usize]) -> Box<Self> {
        let mut prints = [EMPTY; FANOUT as usize];
        for (print, child) in prints.iter_mut().zip(&children) {
            *print = fingerprint_of(child);
        }
        Box::new(Self { children, prints, fingerprint: digest(&prints) })
    }

    /// After a change of one child.
    fn refresh(&mut self, n: usize) {
        self.prints[n] = fingerprint_of(&self.children[n]);
        self.fingerprint = digest(&self.prints);
    }
}

fn fingerprint_of(place: &Option<Place>) -> Fingerprint {
    place.as_ref().map_or(EMPTY, Place::fingerprint)
}

fn digest(prints: &[Fingerprint; FANOUT as usize]) -> Fingerprint {
    short(&blake3::hash(prints.as_flattened()))
}

/// Puts a leaf into a place at `depth`; `false` when it stood there already.
fn put(place: &mut Option<Place>, leaf: Leaf, depth: usize) -> bool {
    match place {
        None => *place = Some(Place::Leaf(Box::new(leaf))),
        Some(Place::Leaf(held)) if held.at == leaf.at => {
            if held.fingerprint == leaf.fingerprint {
                return false;
            }
            held.fingerprint = leaf.fingerprint;
        }
        Some(Place::Leaf(held)) => {
            let (old, mut children) = (nibble(&held.at, depth), [const { None }; FANOUT as usize]);
            children[usize::from(old)] = place.take();
            put(&mut children[usize::from(nibble(&leaf.at, depth))], leaf, depth + 1);
            *place = Some(Place::Inner(Inner::new(children)));
        }
        Some(Place::Inner(inner)) => {
            let n = usize::from(nibble(&leaf.at, depth));
            if !put(&mut inner.children[n], leaf, depth + 1) {
                return false;
            }
            inner.refresh(n);
        }
    }
    true
}

/// Takes the leaf at a position out of a place at `depth`; `false` when there is none.
fn take(place: &mut Option<Place>, at: &Position, depth: usize) -> bool {
    match place {
        Some(Place::Leaf(held)) if held.at == *at => *place = None,
        Some(Place::Inner(inner)) => {
            let n = usize::from(nibble(at, depth));
            if !take(&mut inner.children[n], at, depth + 1) {
                return false;
            }
            let mut left = inner.children.iter_mut().filter(|child| child.is_some());
            match (left.next(), left.next()) {
                // A leaf that is alone moves up; a node with two and more below stays where it is.
                (Some(only @ Some(Place::Leaf(_))), None) => *place = only.take(),
                _ => inner.refresh(n),
            }
        }
        _ => return false,
    }
    true
}

impl Trie {
    /// Puts or replaces a leaf.
    pub(crate) fn set(&mut self, author: NodeId, fingerprint: Fingerprint) {
        put(&mut self.root, Leaf { at: position(author), author, fingerprint }, 0);
    }

    /// Takes a leaf away.
    pub(crate) fn remove(&mut self, author: NodeId) {
        take(&mut self.root, &position(author), 0);
    }

    /// The fingerprint of the whole.
    pub(crate) fn root(&self) -> Fingerprint {
        self.fingerprint(&[])
    }

    /// What stands at a prefix: a node there, or the only leaf below it.
    fn find(&self, prefix: &[u8]) -> Option<&Place> {
        let mut place = self.root.as_ref()?;
        for n in prefix {
            match place {
                Place::Leaf(leaf) => return is_at_below(&leaf.at, prefix).then_some(place),
                Place::Inner(inner) => {
                    place = inner.children.get(usize::from(*n))?.as_ref()?;
                }
            }
        }
        match place {
            Place::Leaf(leaf) if !is_at_below(&leaf.at, prefix) => None,
            _ => Some(place),
        }
    }

    /// The authors below a node, in order.
    pub(crate) fn below(&self, prefix: &[u8]) -> impl Iterator<Item = NodeId> + '_ {
        let mut open: Vec<&Place> = self.find(prefix).into_iter().collect();
        std::iter::from_fn(move || {
            loop {
                match open.pop()? {
                    Place::Leaf(leaf) => return Some(leaf.author),
                    Place::Inner(inner) => open.extend(inner.children.iter().rev().flatten()),
                }
            }
        })
    }

    /// A node's fingerprint.
    pub(crate) fn fingerprint(&self, prefix: &[u8]) -> Fingerprint {
        self.find(prefix).map_or(EMPTY, Place::fingerprint)
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
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    fn is_below(author: NodeId, prefix: &[u8]) -> bool {
        is_at_below(&position(author), prefix)
    }

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

    /// Whether every node has two leaves below it.
    fn is_shared(place: &Place) -> bool {
        let Place::Inner(inner) = place else {
            return true;
        };
        let children: Vec<&Place> = inner.children.iter().flatten().collect();
        let is_alone = matches!(children.as_slice(), [] | [Place::Leaf(_)]);
        !is_alone && children.into_iter().all(is_shared)
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
            prop_assert!(trie.root.iter().all(is_shared), "a node with fewer than two leaves stayed");
        }
    }
}
