//! Finding the authors in which two replicas differ: down the trie, then leaf by leaf.

use std::collections::{BTreeMap, BTreeSet};

use super::{Bytes, Group, Leaf, PROOFS_MAX, Proof, SyncMessage, TrieNode, Want, some};
use crate::id::{NodeId, OrgId};
use crate::replica::{Catalog, PushError};
use crate::trie::{DEPTH_MAX, EMPTY, FANOUT, Fingerprint, child, is_below};

/// A node with at most this many authors below is described by naming them: a level of the trie costs about as much.
const LEAVES_FEW: usize = 4;
/// Most trie nodes in one message, a full level of two nibbles; further ones differ still in the next round.
const NODES_MAX: usize = 256;

impl Catalog {
    pub(super) fn compare(&self, from_org: OrgId, root: &Bytes) -> SyncMessage {
        let is_equal = root.0 == self.trie.root();
        SyncMessage::Compared {
            author: self.me,
            restricted: Bytes(self.entitled_sum(from_org).to_bytes().to_vec()),
            nodes: if is_equal { Vec::new() } else { vec![self.trie_node(&[])] },
        }
    }

    fn trie_node(&self, prefix: &[u8]) -> TrieNode {
        let (mut mask, mut children) = (0, Vec::new());
        for n in 0..FANOUT {
            let fingerprint = self.trie.fingerprint(&child(prefix, n));
            if fingerprint != EMPTY {
                mask |= 1 << n;
                children.extend_from_slice(&fingerprint);
            }
        }
        TrieNode { prefix: Bytes(prefix.to_vec()), mask, children: Bytes(children) }
    }

    /// Goes one level down where the peer's fingerprints differ from the own.
    pub(super) fn descend(&self, theirs: &[TrieNode]) -> Result<Vec<SyncMessage>, PushError> {
        let (mut nodes, mut groups) = (Vec::new(), Vec::new());
        check_order(theirs.iter().map(|node| &node.prefix))?;
        for node in theirs.iter().take(NODES_MAX) {
            // A node has children, so it stands above the last level.
            check_prefix(&node.prefix.0, DEPTH_MAX - 1)?;
            let children = children_of(node)?;
            for (n, theirs) in (0..FANOUT).zip(children) {
                let prefix = child(&node.prefix.0, n);
                if self.trie.fingerprint(&prefix) == theirs {
                    continue;
                }
                let is_few = self.trie.below(&prefix).nth(LEAVES_FEW).is_none();
                if is_few || nodes.len() == NODES_MAX || prefix.len() >= DEPTH_MAX {
                    groups.push(self.group(&prefix));
                } else {
                    nodes.push(self.trie_node(&prefix));
                }
            }
        }
        let leaves = SyncMessage::Leaves { groups, is_answer: false };
        Ok(some(SyncMessage::Nodes(nodes)).into_iter().chain(some(leaves)).collect())
    }

    fn group(&self, prefix: &[u8]) -> Group {
        let leaves = self.trie.below(prefix).filter_map(|author| self.leaf(author)).collect();
        Group { prefix: Bytes(prefix.to_vec()), leaves }
    }

    fn leaf(&self, id: NodeId) -> Option<Leaf> {
        let author = self.authors.get(&id)?;
        let head = &author.head.as_ref()?.head;
        Some(Leaf {
            author: id,
            version: head.version,
            lease_until_ms: head.lease_until_ms,
            fingerprint: Bytes(author.leaf()?.to_vec()),
            is_complete: author.is_complete(),
        })
    }

    /// Asks for authors of whom the peer may have more, and names those of whom this node has.
    pub(super) fn compare_leaves(
        &self,
        groups: &[Group],
        is_answer: bool,
    ) -> Result<Vec<SyncMessage>, PushError> {
        let (mut wants, mut answer, mut proofs) = (Vec::new(), Vec::new(), Vec::new());
        check_order(groups.iter().map(|group| &group.prefix))?;
        for group in groups.iter().take(NODES_MAX * usize::from(FANOUT)) {
            let prefix = &group.prefix.0;
            check_prefix(prefix, DEPTH_MAX)?;
            let theirs: BTreeMap<NodeId, &Leaf> =
                group.leaves.iter().map(|leaf| (leaf.author, leaf)).collect();
            if theirs.keys().any(|author| !is_below(*author, prefix)) {
                return Err(PushError::Sync { field: "leaf" });
            }
            // In an answer, what is not named is not missing: it is what both sides agree on.
            let mine = self.trie.below(prefix).filter(|id| !is_answer || theirs.contains_key(id));
            let ids: BTreeSet<NodeId> = theirs.keys().copied().chain(mine).collect();
            let mut better = Vec::new();
            for id in ids {
                if let Some(proof) = self.quarantined(id) {
                    proofs.push(Proof {
                        first: Bytes(proof.first.clone()),
                        second: Bytes(proof.second.clone()),
                    });
                    continue;
                }
                let verdict = weigh(self.leaf(id).as_ref(), theirs.get(&id).copied());
                if verdict.is_wanted && id != self.me && wants.len() < self.limits.authors {
                    wants.push(Want { author: id, since: self.complete_at(id) });
                }
                if verdict.is_offered && !is_answer {
                    better.extend(self.leaf(id));
                }
            }
            if !better.is_empty() {
                answer.push(Group { prefix: group.prefix.clone(), leaves: better });
            }
        }
        proofs.truncate(PROOFS_MAX);
        let answer = SyncMessage::Leaves { groups: answer, is_answer: true };
        let messages = [SyncMessage::Proofs(proofs), SyncMessage::Want(wants), answer];
        Ok(messages.into_iter().filter_map(some).collect())
    }
}

/// What two nodes' leaves of one author call for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verdict {
    /// The peer may have more.
    is_wanted: bool,
    /// This node may have more.
    is_offered: bool,
}

fn weigh(mine: Option<&Leaf>, theirs: Option<&Leaf>) -> Verdict {
    let rank = |leaf: &Leaf| (leaf.version, leaf.lease_until_ms);
    match (mine, theirs) {
        (Some(mine), Some(theirs)) if mine.fingerprint == theirs.fingerprint => Verdict::default(),
        (Some(mine), Some(theirs)) => match rank(mine).cmp(&rank(theirs)) {
            std::cmp::Ordering::Less => Verdict { is_wanted: true, is_offered: false },
            std::cmp::Ordering::Greater => Verdict { is_wanted: false, is_offered: true },
            // Both complete: the heads differ, and either the hash decides or one of them proves a lie.
            std::cmp::Ordering::Equal => {
                let is_wanted = !mine.is_complete || theirs.is_complete;
                let is_offered = !theirs.is_complete || mine.is_complete;
                Verdict { is_wanted, is_offered }
            }
        },
        (mine, theirs) => Verdict { is_wanted: theirs.is_some(), is_offered: mine.is_some() },
    }
}

/// Checks that trie nodes come in order and none lies below another, as an honest descent leaves them: then no message makes
/// this node look at an author twice.
fn check_order<'a>(prefixes: impl Iterator<Item = &'a Bytes> + Clone) -> Result<(), PushError> {
    let is_good = prefixes
        .clone()
        .zip(prefixes.skip(1))
        .all(|(before, after)| before.0 < after.0 && !after.0.starts_with(&before.0));
    if is_good { Ok(()) } else { Err(PushError::Sync { field: "order of prefixes" }) }
}

fn check_prefix(prefix: &[u8], len_max: usize) -> Result<(), PushError> {
    let is_good = prefix.len() <= len_max && prefix.iter().all(|nibble| *nibble < FANOUT);
    if is_good { Ok(()) } else { Err(PushError::Sync { field: "prefix" }) }
}

/// The sixteen fingerprints of a node's children.
fn children_of(node: &TrieNode) -> Result<Vec<Fingerprint>, PushError> {
    let (given, []) = node.children.0.as_chunks::<16>() else {
        return Err(PushError::Sync { field: "fingerprint" });
    };
    let mut given = given.iter();
    let mut children = Vec::with_capacity(usize::from(FANOUT));
    for n in 0..FANOUT {
        let fingerprint = if node.mask & (1 << n) == 0 { Some(&EMPTY) } else { given.next() };
        children.push(*fingerprint.ok_or(PushError::Sync { field: "mask" })?);
    }
    if given.next().is_some() {
        return Err(PushError::Sync { field: "mask" });
    }
    Ok(children)
}
