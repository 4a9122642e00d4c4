//! Light nodes: small boards that hold everybody's heads and the records of some kinds, and ask for the rest
//! ([`crate::ask`]).
//!
//! # Messages
//!
//! ```text
//!  light                                    full
//!  LightRoot ─────────────────────────────►     as a Root; nobody takes it for what the sender could give
//!       ◄──────────────── Compared, Leaves      the full node's trie below the root, where the two differ
//!  Open ──────────────────────────────────►     what is below these?
//!       ◄─────────────────── Nodes, Leaves      until authors are named
//!  WantKinds ─────────────────────────────►     what is newer of these authors, records of these kinds alone
//!       ◄────────────────────────── Deltas      with the keys of newer records of other kinds, which are left out
//!
//!  full                                     light
//!  Root ──────────────────────────────────►
//!       ◄──────────────── Compared, Leaves      as if the two were equal; and the light node's own head
//!  Want ──────────────────────────────────►     of the light node's own records it gives all
//! ```
//!
//! It listens to no gossip: a thousand heads renewed every quarter of an hour come to it a few dozen at a time, once each,
//! instead of as four copies and their announcements. Every 30 seconds, half to one and a half of it, it compares with one
//! full node ([`super::pace::Pace::light`]), so a change is known to it 15 seconds later on average and 45 at the latest.
//! What it publishes it gossips like everybody, so others know it at once.
//!
//! # States
//!
//! Of each author whether everything of the chosen kinds was given up to the head. The author's signed root sums up all its
//! records, so a light node cannot check that: who gave them says so. Its trie stands for heads alone then, and is equal to a
//! full node's when all heads are. Beyond a number of records and bytes it keeps none of an author ([`Catalog::kinds`] tells
//! that more has to be asked).
//!
//! # Invariant
//!
//! It gives nothing but its own records, and its trie reaches nobody who would compare with it: no full node takes a light
//! one's silence for an agreement about others. What it shows is signed and current by the rules of [`crate::replica`].
//!
//! # What a liar can do
//!
//! A full node can withhold a record of a chosen kind, until its author changes something and another one tells of it. It can
//! name a key as of another kind, which then is not shown. Both hide and neither forges: who needs to be sure asks two
//! ([`crate::ask`]). A light node can lie to nobody but about itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::compare::{NODES_MAX, check_order, check_prefix, children_of};
use super::{Bytes, Delta, Group, Short, SyncMessage, Synced, TrieNode, Want, some, version_of};
use crate::author::{Author, Class, Held};
use crate::id::{NodeId, OrgId};
use crate::log::{RootSum, Version};
use crate::replica::{
    Catalog, LIGHT_BYTES, LIGHT_RECORDS, LIGHT_TOTAL_BYTES, Parts, PushError, Pushed,
};
use crate::trie::{DEPTH_MAX, FANOUT, child, path};

impl Catalog {
    /// Takes in a message at a light node; gives back those that are the same for all.
    pub(super) fn handle_light(
        &mut self,
        now_ms: u64,
        from_org: OrgId,
        msg: SyncMessage,
        synced: &mut Synced,
    ) -> Result<Option<SyncMessage>, PushError> {
        match msg {
            SyncMessage::Root { realm, .. } | SyncMessage::LightRoot { realm, .. } => {
                if realm != self.realm {
                    return Err(PushError::Realm { expected: self.realm, found: realm });
                }
                synced.replies = self.tell_of_itself(from_org);
                Ok(None)
            }
            SyncMessage::Compared { restricted, nodes } => {
                synced.replies.extend(self.ask_below(&nodes)?);
                Ok(Some(SyncMessage::Compared { restricted, nodes: Vec::new() }))
            }
            SyncMessage::Nodes(nodes) => {
                synced.replies.extend(self.ask_below(&nodes)?);
                Ok(None)
            }
            SyncMessage::Leaves { groups, .. } => {
                synced.replies.extend(self.want_newer(&groups)?);
                Ok(None)
            }
            SyncMessage::Deltas { parts, rest } => {
                self.take_chosen(now_ms, parts, &rest, synced);
                Ok(None)
            }
            SyncMessage::Want(wants) => Ok(Some(SyncMessage::Want(self.own_alone(wants)))),
            SyncMessage::WantKinds { wants, kinds } => {
                Ok(Some(SyncMessage::WantKinds { wants: self.own_alone(wants), kinds }))
            }
            SyncMessage::List(author) => {
                Ok((author == self.me).then_some(SyncMessage::List(author)))
            }
            SyncMessage::Fetch { author, hashes } => {
                Ok((author == self.me).then_some(SyncMessage::Fetch { author, hashes }))
            }
            SyncMessage::Open(_) | SyncMessage::Listing { .. } | SyncMessage::Records { .. } => {
                Ok(None)
            }
            SyncMessage::WantRestricted
            | SyncMessage::Restricted { .. }
            | SyncMessage::Proofs(_) => Ok(Some(msg)),
        }
    }

    fn own_alone(&self, mut wants: Vec<Want>) -> Vec<Want> {
        wants.retain(|want| want.author == Short::of(self.me));
        wants
    }

    /// Answers whoever compares: nothing to look for here, but for the own head and restricted records.
    fn tell_of_itself(&self, from_org: OrgId) -> Vec<SyncMessage> {
        let sum = self.entitled_sum(from_org);
        let is_none = sum == RootSum::default();
        let restricted = Bytes(if is_none { Vec::new() } else { sum.to_bytes().to_vec() });
        let compared = SyncMessage::Compared { restricted, nodes: Vec::new() };
        let group = self.group(&path(self.me));
        // An answer, so that authors it does not name are not taken for missing.
        let leaves = (!group.leaves.is_empty())
            .then(|| SyncMessage::Leaves { groups: vec![group], is_answer: true });
        std::iter::once(compared).chain(leaves).collect()
    }

    /// Asks what is below the nodes in which a full node's trie differs.
    fn ask_below(&self, theirs: &[TrieNode]) -> Result<Option<SyncMessage>, PushError> {
        check_order(theirs.iter().map(|node| &node.prefix))?;
        let mut differing = Vec::new();
        for node in theirs.iter().take(NODES_MAX) {
            check_prefix(&node.prefix.0, DEPTH_MAX - 1)?;
            for (n, theirs) in (0..FANOUT).zip(children_of(node)?) {
                let prefix = child(&node.prefix.0, n);
                let is_empty = theirs == Short::default();
                if !is_empty && Short::of_print(&self.trie.fingerprint(&prefix)) != theirs {
                    differing.push(Bytes(prefix));
                }
            }
        }
        Ok((!differing.is_empty()).then_some(SyncMessage::Open(differing)))
    }

    /// Says what is below nodes, for a light node that asks.
    pub(super) fn opened(&self, prefixes: &[Bytes]) -> Result<Vec<SyncMessage>, PushError> {
        check_order(prefixes.iter())?;
        let prefixes = prefixes.iter().take(NODES_MAX * usize::from(FANOUT));
        for prefix in prefixes.clone() {
            check_prefix(&prefix.0, DEPTH_MAX)?;
        }
        let (nodes, groups) = self.open(prefixes.map(|prefix| prefix.0.clone()));
        let leaves = SyncMessage::Leaves { groups, is_answer: true };
        Ok(some(SyncMessage::Nodes(nodes)).into_iter().chain(some(leaves)).collect())
    }

    /// Asks for what a full node has newer.
    fn want_newer(&self, groups: &[Group]) -> Result<Option<SyncMessage>, PushError> {
        check_order(groups.iter().map(|group| &group.prefix))?;
        let mut wants = BTreeMap::new();
        for leaf in groups.iter().flat_map(|group| &group.leaves).take(self.limits.authors) {
            let mine = self.authors_of(leaf.author).next().and_then(|(_, author)| {
                let head = &author.head.as_ref()?.head;
                let is_settled = author.is_settled();
                Some((head.version, head.lease_until_ms / 1000, is_settled))
            });
            let is_newer = mine.is_none_or(|(version, lease_s, is_settled)| {
                (leaf.version, leaf.lease_until_s) > (version, lease_s)
                    || (leaf.version == version && !is_settled)
            });
            if is_newer && self.quarantined(leaf.author).is_none() {
                wants.insert(leaf.author, self.want(leaf.author));
            }
        }
        Ok(self.want_kinds(wants))
    }

    fn want_kinds(&self, wants: BTreeMap<Short, Want>) -> Option<SyncMessage> {
        let wants: Vec<Want> = wants.into_values().collect();
        (!wants.is_empty()).then_some(SyncMessage::WantKinds { wants, kinds: self.kinds })
    }

    fn take_chosen(&mut self, now_ms: u64, parts: Vec<Delta>, rest: &[Short], synced: &mut Synced) {
        let mut wants: BTreeMap<Short, Want> = BTreeMap::new();
        for part in parts.into_iter().take(self.limits.authors) {
            self.forget_unproven(&part);
            let papers = part.papers.as_ref().map(|papers| papers.0.as_slice());
            let signed = Parts { head: &part.head.0, papers, class: Class::Public };
            match self.take(now_ms, signed, &part.records, synced) {
                Ok(author) => {
                    if let Some(want) = self.advance(author, &part, synced) {
                        wants.insert(want.author, want);
                    }
                }
                Err(PushError::Papers { author }) if papers.is_none() => {
                    wants.insert(Short::of(author), self.want(Short::of(author)));
                }
                Err(fault) => synced.faults.push(fault),
            }
        }
        let brought = !synced.store.is_empty();
        for author in rest.iter().take(self.limits.authors).filter(|_| brought) {
            wants.entry(*author).or_insert_with(|| self.want(*author));
        }
        synced.replies.extend(self.want_kinds(wants));
    }

    /// What a cache gave back of an author may be gone since: everything is asked for, and takes its place.
    fn forget_unproven(&mut self, part: &Delta) {
        if part.since > Version::ZERO {
            return;
        }
        let Ok(head) = crate::log::Head::peek(&part.head.0) else { return };
        let id = head.content.author;
        let is_unproven = |author: &&mut Author| author.complete_at() == Version::ZERO;
        if id != self.me
            && let Some(author) = self.authors.get_mut(&id).filter(is_unproven)
            && author.count() > 0
        {
            author.forget_public();
        }
    }

    /// Notes how far the records of an author are given now, and asks for the next page.
    fn advance(&mut self, id: NodeId, part: &Delta, synced: &mut Synced) -> Option<Want> {
        if id == self.me {
            return None;
        }
        let author = self.authors.get_mut(&id)?;
        let head = author.head.as_ref().filter(|held| held.bytes == part.head.0)?;
        // A page that begins later than what is held ends leaves a gap.
        if author.is_settled() || part.since > author.complete_at() {
            return None;
        }
        if part.since > Version::ZERO && head.head.gc_floor > part.since {
            // Deletes between are forgotten by everybody.
            author.forget_public();
            let author = Short::of(id);
            return Some(Want { since: Version::ZERO, ..self.want(author) });
        }
        for key in &part.passed {
            if author.held(Class::Public, key).is_some() {
                author.remove(Class::Public, key);
                synced.news.push((id, key.clone()));
            }
        }
        let last = part.records.last().and_then(|bytes| version_of(&bytes.0));
        let want = match last {
            Some(last) if part.has_more && last > part.since => {
                author.given_to(last);
                Some(self.want(Short::of(id)))
            }
            _ => {
                author.assume();
                None
            }
        };
        self.settle(id);
        want
    }

    /// Of verified records those that are kept here; what others stand in place of is removed.
    pub(crate) fn choose(
        &mut self,
        id: NodeId,
        fresh: &mut Vec<(String, Arc<Held>)>,
        pushed: &mut Pushed,
    ) {
        let mut total: usize = self.authors.values().map(Author::bytes).sum();
        let kinds = self.kinds;
        let Some(author) = self.authors.get_mut(&id) else { return };
        let (mut count, mut bytes) = (author.count(), author.bytes());
        let is_cut = &mut self.is_cut;
        fresh.retain(|(key, held)| {
            let is_chosen = held.resource.as_ref().is_some_and(|r| kinds.contains(r.kind()));
            let len = held.bytes.len();
            let has_room = count < LIGHT_RECORDS
                && bytes + len <= LIGHT_BYTES
                && total + len <= LIGHT_TOTAL_BYTES;
            if is_chosen && has_room {
                (count, bytes, total) = (count + 1, bytes + len, total + len);
                return true;
            }
            *is_cut |= is_chosen;
            if author.held(Class::Public, key).is_some_and(|old| old.version < held.version) {
                author.remove(Class::Public, key);
                pushed.news.push((id, key.clone()));
                // So that a cache does not give the old one back.
                pushed.store.push(held.bytes.clone());
            }
            false
        });
    }
}
