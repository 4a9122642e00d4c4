//! Keys that another key of the same node has come after: what the node shares under the new one counts alone.
//!
//! The papers of an author name the keys before it, by their own signed word ([`crate::cert::Succession`]). As soon as such
//! papers are held, nothing of the older keys is: no resource stands twice for longer than the new author's papers take to
//! arrive. Whoever took over an old key can no longer write under it where that is known. Of two authors that name the same
//! key the first one counts, and the second is passed over, without blame for who brought it: only a key that was used for
//! two successions leads there, and the organisation ends it by revoking one of the two.

use std::collections::BTreeMap;

use super::Catalog;
use crate::cert::{NodeCert, SUCCESSIONS_MAX};
use crate::id::NodeId;

/// What came after what.
#[derive(Clone, Debug, Default)]
pub(super) struct Heirs {
    /// Older key → the key that named it first.
    known: BTreeMap<NodeId, NodeId>,
    /// Those that were learned since they were last asked for.
    news: Vec<(NodeId, NodeId)>,
}

impl Catalog {
    /// Takes in that one key of a node came after another, as this node knows from elsewhere. What is held of the older is
    /// dropped, and nothing of it is taken in again. True when something was held.
    pub fn succeed(&mut self, old: NodeId, new: NodeId) -> bool {
        if old == self.me || !self.note_heir(old, new) {
            return false;
        }
        let was_held = self.authors.contains_key(&old);
        self.drop_author(old);
        was_held
    }

    /// The pairs of older and newer keys that papers have told since this was last called.
    pub fn take_successions(&mut self) -> Vec<(NodeId, NodeId)> {
        std::mem::take(&mut self.heirs.news)
    }

    /// Keys that were taken back came after nothing.
    pub(super) fn unlearn_heirs(&mut self, gone: &[NodeId]) {
        self.heirs.known.retain(|_, new| !gone.contains(new));
    }

    pub(super) fn is_succeeded(&self, author: NodeId) -> bool {
        self.heirs.known.contains_key(&author)
    }

    /// Takes in what an author's papers say of the keys before it. False when one of them has another successor already.
    pub(super) fn note_succession(&mut self, author: NodeId, cert: &NodeCert) -> bool {
        let older = cert.predecessors();
        let of_other = |old: &NodeId| {
            self.heirs.known.get(old).is_some_and(|new| !is_same(*new, author, &older))
        };
        if older.iter().any(of_other) {
            return false;
        }
        for old in older {
            let is_news = self.heirs.known.get(&old) != Some(&author);
            if old != self.me && is_news && self.note_heir(old, author) {
                self.heirs.news.push((old, author));
                self.drop_author(old);
            }
        }
        true
    }

    /// False when there is no room: then the older key's records end with their lease.
    fn note_heir(&mut self, old: NodeId, new: NodeId) -> bool {
        let is_full = self.heirs.known.len() >= self.limits.authors * SUCCESSIONS_MAX;
        if is_full && !self.heirs.known.contains_key(&old) {
            return false;
        }
        self.heirs.known.insert(old, new);
        true
    }
}

/// Whether the successor that is known is the author, or one of the keys before it.
fn is_same(known: NodeId, author: NodeId, older: &[NodeId]) -> bool {
    known == author || older.contains(&known)
}
