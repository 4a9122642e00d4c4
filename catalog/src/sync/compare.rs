//! Finding the authors in which two replicas differ: down the trie, then leaf by leaf.

use std::collections::BTreeMap;

use super::{Bytes, Group, Leaf, PROOFS_MAX, Proof, Short, SyncMessage, TrieNode, Want, some};
use crate::id::{NodeId, OrgId};
use crate::log::RootSum;
use crate::replica::{Catalog, PushError};
use crate::trie::{DEPTH_MAX, EMPTY, FANOUT, child};

/// A node with at most this many authors below is described by naming them: that saves a level and half a round trip.
const LEAVES_FEW: usize = 8;
/// Most trie nodes in one message, a full level of two nibbles; further ones differ still in the next round.
pub(super) const NODES_MAX: usize = 256;
/// Bytes of a fingerprint that stand for it in [`SyncMessage::Root`]. A difference that they hide is found when it is the
/// only one left.
const TOP_LEN: usize = 2;

impl Catalog {
    /// The beginnings of the fingerprints below the root.
    pub(super) fn top(&self) -> Bytes {
        let starts = (0..FANOUT).flat_map(|n| {
            let fingerprint = self.trie.fingerprint(&[n]);
            fingerprint.into_iter().take(TOP_LEN)
        });
        Bytes(starts.collect())
    }

    pub(super) fn compare(
        &self,
        from_org: OrgId,
        root: Short,
        top: &Bytes,
    ) -> Result<Vec<SyncMessage>, PushError> {
        if top.0.len() != TOP_LEN * usize::from(FANOUT) {
            return Err(PushError::Sync { field: "top" });
        }
        let sum = self.entitled_sum(from_org);
        let restricted =
            if sum == RootSum::default() { Vec::new() } else { sum.to_bytes().to_vec() };
        let restricted = Bytes(restricted);
        if root == Short::of_print(&self.trie.root()) {
            return Ok(vec![SyncMessage::Compared { restricted, nodes: Vec::new() }]);
        }
        let theirs = (0..FANOUT).zip(top.0.chunks_exact(TOP_LEN));
        let differing = theirs
            .filter(|(n, theirs)| !self.trie.fingerprint(&[*n]).starts_with(theirs))
            .map(|(n, _)| vec![n]);
        let (mut nodes, groups) = self.open(differing);
        if nodes.is_empty() && groups.is_empty() {
            nodes.push(self.trie_node(&[]));
        }
        let leaves = SyncMessage::Leaves { groups, is_answer: false };
        let compared = SyncMessage::Compared { restricted, nodes };
        Ok(std::iter::once(compared).chain(some(leaves)).collect())
    }

    fn trie_node(&self, prefix: &[u8]) -> TrieNode {
        let (mut mask, mut children) = (0, Vec::new());
        for n in 0..FANOUT {
            let fingerprint = self.trie.fingerprint(&child(prefix, n));
            if fingerprint != EMPTY {
                mask |= 1 << n;
                children.extend_from_slice(&Short::of_print(&fingerprint).0);
            }
        }
        TrieNode { prefix: Bytes(prefix.to_vec()), mask, children: Bytes(children) }
    }

    /// Describes nodes that differ: by the authors below when they are few, else by their children.
    pub(super) fn open(
        &self,
        prefixes: impl Iterator<Item = Vec<u8>>,
    ) -> (Vec<TrieNode>, Vec<Group>) {
        let (mut nodes, mut groups) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            let is_few = self.trie.below(&prefix).nth(LEAVES_FEW).is_none();
            if is_few || nodes.len() == NODES_MAX || prefix.len() >= DEPTH_MAX {
                groups.push(self.group(&prefix));
            } else {
                nodes.push(self.trie_node(&prefix));
            }
        }
        (nodes, groups)
    }

    /// Goes one level down where the peer's fingerprints differ from the own.
    pub(super) fn descend(&self, theirs: &[TrieNode]) -> Result<Vec<SyncMessage>, PushError> {
        check_order(theirs.iter().map(|node| &node.prefix))?;
        let mut differing = Vec::new();
        for node in theirs.iter().take(NODES_MAX) {
            // A node has children, so it stands above the last level.
            check_prefix(&node.prefix.0, DEPTH_MAX - 1)?;
            for (n, theirs) in (0..FANOUT).zip(children_of(node)?) {
                let prefix = child(&node.prefix.0, n);
                if Short::of_print(&self.trie.fingerprint(&prefix)) != theirs {
                    differing.push(prefix);
                }
            }
        }
        let (nodes, groups) = self.open(differing.into_iter());
        let leaves = SyncMessage::Leaves { groups, is_answer: false };
        Ok(some(SyncMessage::Nodes(nodes)).into_iter().chain(some(leaves)).collect())
    }

    pub(super) fn group(&self, prefix: &[u8]) -> Group {
        let leaves = self.trie.below(prefix).filter_map(|author| self.leaf(author)).collect();
        Group { prefix: Bytes(prefix.to_vec()), leaves }
    }

    fn leaf(&self, id: NodeId) -> Option<Leaf> {
        let author = self.authors.get(&id)?;
        let head = &author.head.as_ref()?.head;
        Some(Leaf {
            author: Short::of(id),
            version: head.version,
            lease_until_s: head.lease_until_ms / 1000,
            fingerprint: Short::of_print(&author.leaf()?),
            is_complete: author.is_settled(),
        })
    }

    /// Asks for authors of whom the peer may have more, gives it what it lacks, and names what only it can judge.
    pub(super) fn compare_leaves(
        &self,
        groups: &[Group],
        is_answer: bool,
    ) -> Result<Vec<SyncMessage>, PushError> {
        let mut found = Found::default();
        check_order(groups.iter().map(|group| &group.prefix))?;
        for group in groups.iter().take(NODES_MAX * usize::from(FANOUT)) {
            check_prefix(&group.prefix.0, DEPTH_MAX)?;
            self.compare_group(group, is_answer, &mut found);
        }
        let Found { wants, gives, answer, mut proofs } = found;
        proofs.truncate(PROOFS_MAX);
        let answer = SyncMessage::Leaves { groups: answer, is_answer: true };
        let messages = [SyncMessage::Proofs(proofs), SyncMessage::Want(wants), answer];
        Ok(messages.into_iter().filter_map(some).chain(self.serve(&gives)).collect())
    }

    fn compare_group(&self, group: &Group, is_answer: bool, found: &mut Found) {
        let mut theirs: BTreeMap<Short, &Leaf> =
            group.leaves.iter().map(|leaf| (leaf.author, leaf)).collect();
        let mut better = Vec::new();
        for id in self.trie.below(&group.prefix.0) {
            let Some(mine) = self.leaf(id) else { continue };
            let theirs = theirs.remove(&mine.author);
            // In an answer, what is not named is not missing: it is what both sides agree on.
            if is_answer && theirs.is_none() {
                continue;
            }
            let verdict = weigh(&mine, theirs);
            if verdict.is_wanted && id != self.me && found.wants.len() < self.limits.authors {
                found.wants.push(self.want(mine.author));
            }
            if !verdict.is_offered || is_answer {
                continue;
            }
            match theirs {
                None => found.gives.push(Want { author: mine.author, ..Want::EVERYTHING }),
                // Whoever has all of an older version says by that what it lacks. Its papers are likely the same; if not
                // it asks for them.
                Some(leaf) if leaf.is_complete && !verdict.is_wanted => {
                    let papers = self.want(mine.author).papers;
                    found.gives.push(Want { author: mine.author, since: leaf.version, papers });
                }
                Some(_) => better.push(mine),
            }
        }
        for author in theirs.into_keys() {
            match self.quarantined(author) {
                Some(proof) => found.proofs.push(Proof {
                    first: Bytes(proof.first.clone()),
                    second: Bytes(proof.second.clone()),
                }),
                None if author == Short::of(self.me) => {}
                None if found.wants.len() < self.limits.authors => {
                    found.wants.push(self.want(author));
                }
                None => {}
            }
        }
        if !better.is_empty() {
            found.answer.push(Group { prefix: group.prefix.clone(), leaves: better });
        }
    }
}

/// What a comparison of leaves calls for.
#[derive(Debug, Default)]
struct Found {
    wants: Vec<Want>,
    gives: Vec<Want>,
    answer: Vec<Group>,
    proofs: Vec<Proof>,
}

/// What two nodes' leaves of one author call for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verdict {
    /// The peer may have more.
    is_wanted: bool,
    /// This node may have more.
    is_offered: bool,
}

fn weigh(mine: &Leaf, theirs: Option<&Leaf>) -> Verdict {
    let Some(theirs) = theirs else {
        return Verdict { is_wanted: false, is_offered: true };
    };
    if mine.fingerprint == theirs.fingerprint {
        return Verdict::default();
    }
    let rank = |leaf: &Leaf| (leaf.version, leaf.lease_until_s);
    match rank(mine).cmp(&rank(theirs)) {
        std::cmp::Ordering::Less => Verdict { is_wanted: true, is_offered: false },
        std::cmp::Ordering::Greater => Verdict { is_wanted: false, is_offered: true },
        // Both complete: the heads differ, and either the hash decides or one of them proves a lie.
        std::cmp::Ordering::Equal => {
            let is_wanted = !mine.is_complete || theirs.is_complete;
            let is_offered = !theirs.is_complete || mine.is_complete;
            Verdict { is_wanted, is_offered }
        }
    }
}

/// Checks that trie nodes come in order and none lies below another, as an honest descent leaves them: then no message makes
/// this node look at an author twice.
pub(super) fn check_order<'a>(
    prefixes: impl Iterator<Item = &'a Bytes> + Clone,
) -> Result<(), PushError> {
    let is_good = prefixes
        .clone()
        .zip(prefixes.skip(1))
        .all(|(before, after)| before.0 < after.0 && !after.0.starts_with(&before.0));
    if is_good { Ok(()) } else { Err(PushError::Sync { field: "order of prefixes" }) }
}

pub(super) fn check_prefix(prefix: &[u8], len_max: usize) -> Result<(), PushError> {
    let is_good = prefix.len() <= len_max && prefix.iter().all(|nibble| *nibble < FANOUT);
    if is_good { Ok(()) } else { Err(PushError::Sync { field: "prefix" }) }
}

/// The sixteen fingerprints of a node's children.
pub(super) fn children_of(node: &TrieNode) -> Result<Vec<Short>, PushError> {
    let (given, []) = node.children.0.as_chunks::<8>() else {
        return Err(PushError::Sync { field: "fingerprint" });
    };
    let mut given = given.iter();
    let mut children = Vec::with_capacity(usize::from(FANOUT));
    for n in 0..FANOUT {
        let is_empty = node.mask & (1 << n) == 0;
        let fingerprint = if is_empty { Some(&[0; 8]) } else { given.next() };
        children.push(Short(*fingerprint.ok_or(PushError::Sync { field: "mask" })?));
    }
    if given.next().is_some() {
        return Err(PushError::Sync { field: "mask" });
    }
    Ok(children)
}
