//! The sync protocol: two nodes bring their copies of a realm's catalogue together.
//!
//! # Messages
//!
//! ```text
//!  A                                        B
//!  Root ──────────────────────────────────►     equal: only the restricted sum comes back
//!       ◄──────────────── Compared, Leaves      B's trie below the root, where the beginnings in Root differ
//!  Nodes, Leaves ─────────────────────────►     descend where fingerprints differ; few authors: name them
//!       ◄──── Nodes, Leaves, Want, Deltas ┈     B asks for what A has newer, and gives what A has older
//!  Deltas, Want ──────────────────────────►     pages of at most 256 KiB, oldest first, until nothing is left
//!       ◄──────────────────────────── Deltas
//!  List ──────────────────────────────────►     the records do not sum up to the signed root: compare them all
//!       ◄─────────────────────────── Listing
//!  Fetch ─────────────────────────────────►
//!       ◄─────────────────────────── Records
//! ```
//!
//! Eight bytes stand for an author or a fingerprint in a comparison. Two that begin alike by chance hide a difference until
//! anything else below the same node changes; who looks for such a pair (2^32 signed heads) delays one pull by minutes.
//!
//! Papers ([`crate::papers`]) come beside a head when the other side holds none or others. A head whose papers are missing
//! is asked for again, with them.
//!
//! # States
//!
//! None. Every message says all that is needed to answer it, so a lost one ends the round and the next round, 15 seconds
//! later, starts again from the roots. A node asks again only after an answer that brought something, so no two nodes can
//! keep each other busy with nothing.
//!
//! # Invariant
//!
//! Only signed bytes change anything, by the rules of [`crate::replica`]: the highest version of a key, the highest rank of a
//! head. Those rules forget order and repetition, so nodes that exchange all they have hold the same. A record is dropped
//! only when a listing proves, by its sum, to be what the author's signed root stands for.
//!
//! # Restricted records
//!
//! They stand in no trie and no delta. Only their author gives them, to the organisations that may see them: it tells each
//! one the sum of its current ones, and sends them all when the other side's sum differs. Withdrawals are signed deletes.
//! Nobody else learns that there are any: they change no head, no version of the log and no answer to others. Each
//! organisation gets records of its own, signed for it alone, so that two may be shown different things under one key and
//! neither can tell; how their versions differ, so that this is no lie, stands in `publish/audience.rs`.
//!
//! # What a liar can do
//!
//! - *A peer* can withhold: then another peer gives it. It can claim differences that are not there: each costs one answer
//!   of bounded size. It cannot forge, alter, delete or bring back a record. It can replay old ones: a replica that was once
//!   complete knows them to be dead. It can lie about restricted sums: that costs a message.
//! - *An author* can write nonsense under its own keys, within its quota. If it signs two contents for one version, the two
//!   are a portable proof ([`crate::replica::Equivocation`]): who holds both drops the author and hands the proof on. If its
//!   root is that of no set of records, its replicas list it once in each round and keep what it signed.

mod compare;
pub mod light;
mod message;
pub mod pace;

pub use message::{Bytes, Delta, Group, Leaf, Proof, Short, SyncMessage, TrieNode, Want};

use std::collections::{BTreeMap, BTreeSet};

use crate::author::{Author, Class};
use crate::id::{NodeId, OrgId};
use crate::log::{RootSum, Version};
use crate::record::{Kinds, Resource};
use crate::replica::{Catalog, Equivocation, Parts, PushError, Pushed};

/// Bytes of records and heads in one message; what does not fit is asked for again.
pub const PAGE_LEN_MAX: usize = 256 * 1024;
/// Most hashes in one request, what a page of small records holds; further ones are asked for after the answer.
const FETCH_MAX: usize = 1024;
/// Most proofs in one message; further ones go in the next round.
const PROOFS_MAX: usize = 16;

/// Most keys of other kinds named to a light node; if it holds one beyond them it shows it until it starts again.
const PASSED_MAX: usize = 1024;

/// What a sync message led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Messages for the peer it came from.
    pub replies: Vec<SyncMessage>,
    /// Keys that changed.
    pub news: Vec<(NodeId, String)>,
    /// Signed bytes worth keeping in a cache, as [`Pushed::store`].
    pub store: Vec<Vec<u8>>,
    /// Parts that were refused while others were taken.
    pub faults: Vec<PushError>,
}

impl Synced {
    /// Whether the two sides differed, in what is replicated: then there is likely more to find.
    #[must_use]
    pub fn is_find(&self) -> bool {
        let gives = |reply: &SyncMessage| matches!(reply, SyncMessage::Deltas { .. });
        !self.store.is_empty() || self.replies.iter().any(gives)
    }
}

impl Catalog {
    /// The message that opens a round with a peer: every 15 seconds with a random one, and at once on a new connection.
    #[must_use]
    pub fn start_sync(&self) -> SyncMessage {
        let (realm, root, top) = (self.realm, Short::of_print(&self.trie.root()), self.top());
        if self.is_light() {
            SyncMessage::LightRoot { realm, root, top }
        } else {
            SyncMessage::Root { realm, root, top }
        }
    }

    /// Takes in a sync message from the node `from` of `from_org`, which the connection has proven.
    ///
    /// # Errors
    /// See [`PushError`]; parts refused beside others that were taken are in [`Synced::faults`].
    pub fn handle_sync(
        &mut self,
        now_ms: u64,
        (from, from_org): (NodeId, OrgId),
        msg: SyncMessage,
    ) -> Result<Synced, PushError> {
        let mut synced = Synced::default();
        let msg = if self.is_light() {
            self.handle_light(now_ms, from_org, msg, &mut synced)?
        } else {
            Some(msg)
        };
        if let Some(msg) = msg {
            self.handle_any(now_ms, (from, from_org), msg, &mut synced)?;
        }
        Ok(synced)
    }

    fn handle_any(
        &mut self,
        now_ms: u64,
        (from, from_org): (NodeId, OrgId),
        msg: SyncMessage,
        synced: &mut Synced,
    ) -> Result<(), PushError> {
        match msg {
            SyncMessage::Root { realm, root, top }
            | SyncMessage::LightRoot { realm, root, top } => {
                if realm != self.realm {
                    return Err(PushError::Realm { expected: self.realm, found: realm });
                }
                synced.replies.extend(self.compare(from_org, root, &top)?);
            }
            SyncMessage::Open(prefixes) => synced.replies.extend(self.opened(&prefixes)?),
            SyncMessage::WantKinds { wants, kinds } => {
                synced.replies.extend(self.serve_kinds(&wants, kinds));
            }
            SyncMessage::Compared { restricted, nodes } => {
                let held = restricted_sum(self.authors.get(&from));
                let is_same = match restricted.0.as_slice() {
                    [] => held == RootSum::default(),
                    sum => sum == held.to_bytes(),
                };
                if !is_same {
                    synced.replies.push(SyncMessage::WantRestricted);
                }
                synced.replies.extend(self.descend(&nodes)?);
            }
            SyncMessage::Nodes(nodes) => synced.replies.extend(self.descend(&nodes)?),
            SyncMessage::Leaves { groups, is_answer } => {
                synced.replies.extend(self.compare_leaves(&groups, is_answer)?);
            }
            SyncMessage::Want(wants) => synced.replies.extend(self.serve(&wants)),
            SyncMessage::Deltas { parts, rest } => {
                self.take_deltas(now_ms, parts, &rest, synced);
            }
            SyncMessage::List(author) => synced.replies.extend(self.listing(author)),
            SyncMessage::Listing { head, hashes } => {
                self.take_listing(now_ms, &head.0, &hashes.0, synced)?;
            }
            SyncMessage::Fetch { author, hashes } => {
                synced.replies.extend(self.fetched(author, &hashes.0)?);
            }
            SyncMessage::Records { head, records } => {
                let parts = Parts { head: &head.0, papers: None, class: Class::Public };
                let taken = self.take(now_ms, parts, &records, synced)?;
                if !synced.news.is_empty() && self.is_behind(taken, &head) {
                    synced.replies.push(SyncMessage::List(taken));
                }
            }
            SyncMessage::WantRestricted => {
                let head = self.authors.get(&self.me).and_then(|own| own.head.as_ref());
                let records = self.entitled(from_org);
                synced.replies = head.map_or_else(Vec::new, |head| {
                    restricted_messages(&head.bytes, &head.papers.bytes, &records)
                });
            }
            SyncMessage::Restricted { head, papers, records } => {
                let (head, papers) = (head.0.as_slice(), Some(papers.0.as_slice()));
                let parts = Parts { head, papers, class: Class::Restricted };
                self.take(now_ms, parts, &records, synced)?;
            }
            SyncMessage::Proofs(proofs) => self.take_proofs(&proofs, synced),
        }
        Ok(())
    }

    /// The authors whose ids begin so: one, unless somebody looked for a twin.
    fn authors_of(&self, author: Short) -> impl Iterator<Item = (&NodeId, &Author)> {
        let from = NodeId::from_bytes(author.start());
        self.authors.range(from..).take_while(move |(id, _)| Short::of(**id) == author)
    }

    /// Asks for what is missing here of an author.
    pub(super) fn want(&self, author: Short) -> Want {
        let held = self.authors_of(author).next().map(|(_, author)| author);
        let papers = held.and_then(|held| held.head.as_ref()).map(|held| held.papers.hash);
        Want {
            author,
            since: held.map_or(Version::ZERO, Author::complete_at),
            papers: papers.map_or(Short::default(), |hash| Short::first(&hash)),
        }
    }

    /// Answers wants with as many deltas as fit into a page.
    pub(super) fn serve(&self, wants: &[Want]) -> Option<SyncMessage> {
        self.serve_kinds(wants, Kinds::ALL)
    }

    /// The same with records of some kinds alone.
    fn serve_kinds(&self, wants: &[Want], kinds: Kinds) -> Option<SyncMessage> {
        let (mut parts, mut rest, mut size) = (Vec::new(), Vec::new(), 0);
        let mut seen = BTreeSet::new();
        for want in wants.iter().filter(|want| seen.insert(want.author)) {
            for (_, author) in self.authors_of(want.author) {
                let Some(held) = author.head.as_ref() else { continue };
                if size >= PAGE_LEN_MAX {
                    rest.push(want.author);
                    continue;
                }
                let is_known = Short::first(&held.papers.hash) == want.papers;
                let papers = (!is_known).then(|| Bytes(held.papers.bytes.clone()));
                size += held.bytes.len() + papers.as_ref().map_or(0, |papers| papers.0.len());
                let (mut records, mut has_more, mut passed) = (Vec::new(), false, Vec::new());
                for (key, record) in author.since(want.since) {
                    let is_wanted = |r: &Resource| kinds.contains(r.kind());
                    if !record.resource.as_ref().is_none_or(is_wanted) {
                        // Who asks for everything holds nothing that it could stand in place of.
                        let is_told = want.since > Version::ZERO && passed.len() < PASSED_MAX;
                        passed.extend(is_told.then(|| key.clone()));
                        continue;
                    }
                    // At least one record, so that every page gets further.
                    if size + record.bytes.len() > PAGE_LEN_MAX && !records.is_empty() {
                        has_more = true;
                        break;
                    }
                    size += record.bytes.len();
                    records.push(Bytes(record.bytes.clone()));
                }
                let head = Bytes(held.bytes.clone());
                size += passed.iter().map(String::len).sum::<usize>();
                parts.push(Delta { head, papers, since: want.since, records, has_more, passed });
            }
        }
        (!parts.is_empty()).then_some(SyncMessage::Deltas { parts, rest })
    }

    fn take_deltas(&mut self, now_ms: u64, parts: Vec<Delta>, rest: &[Short], synced: &mut Synced) {
        let mut wants: BTreeMap<Short, Want> = BTreeMap::new();
        let mut lists: BTreeSet<NodeId> = BTreeSet::new();
        for part in parts.into_iter().take(self.limits.authors) {
            let papers = part.papers.as_ref().map(|papers| papers.0.as_slice());
            let signed = Parts { head: &part.head.0, papers, class: Class::Public };
            let author = match self.take(now_ms, signed, &part.records, synced) {
                Ok(author) => author,
                // Asked for once more, with what is held; papers that came and do not fit are not asked for again.
                Err(PushError::Papers { author }) if papers.is_none() => {
                    wants.insert(Short::of(author), self.want(Short::of(author)));
                    continue;
                }
                Err(fault) => {
                    synced.faults.push(fault);
                    continue;
                }
            };
            if !self.is_behind(author, &part.head) {
                continue;
            }
            let last = part.records.last().and_then(|bytes| version_of(&bytes.0));
            match last {
                // A page that ends no later than it began would be asked for again and again.
                Some(last) if part.has_more && last > part.since => {
                    let author = Short::of(author);
                    wants.insert(author, Want { since: last, ..self.want(author) });
                }
                _ => {
                    lists.insert(author);
                }
            }
        }
        let brought = !synced.store.is_empty();
        for author in rest.iter().take(self.limits.authors).filter(|_| brought) {
            wants.entry(*author).or_insert_with(|| self.want(*author));
        }
        let wants = wants.into_values().collect();
        synced.replies.extend(some(SyncMessage::Want(wants)));
        synced.replies.extend(lists.into_iter().map(SyncMessage::List));
    }

    /// Takes in signed parts, and returns their author.
    fn take(
        &mut self,
        now_ms: u64,
        parts: Parts<'_>,
        records: &[Bytes],
        synced: &mut Synced,
    ) -> Result<NodeId, PushError> {
        let mut pushed = Pushed::default();
        let records = records.iter().map(|bytes| bytes.0.as_slice());
        let taken = self.apply(now_ms, parts, records, &mut pushed);
        synced.news.append(&mut pushed.news);
        synced.store.append(&mut pushed.store);
        // Who gives what a liar signed does not know yet that it lied.
        let proof = taken.as_ref().ok().and_then(|author| self.quarantined(Short::of(*author)));
        if let Some(proof) = proof {
            let (first, second) = (proof.first.clone().into(), proof.second.clone().into());
            synced.replies.push(SyncMessage::Proofs(vec![Proof { first, second }]));
        }
        taken
    }

    /// Whether records of this very head are missing here.
    fn is_behind(&self, author: NodeId, head: &Bytes) -> bool {
        self.authors.get(&author).is_some_and(|author| {
            !author.is_settled() && author.head.as_ref().is_some_and(|held| held.bytes == head.0)
        })
    }

    fn listing(&self, id: NodeId) -> Option<SyncMessage> {
        let author = self.authors.get(&id)?;
        let head = Bytes(author.head.as_ref()?.bytes.clone());
        let mut hashes: Vec<[u8; 32]> = author.live().map(|(_, held)| held.hash).collect();
        hashes.sort_unstable();
        Some(SyncMessage::Listing { head, hashes: Bytes(hashes.concat()) })
    }

    /// Compares a peer's listing with what is held: asks for what is missing, and drops what a proven listing does not name.
    fn take_listing(
        &mut self,
        now_ms: u64,
        head: &[u8],
        hashes: &[u8],
        synced: &mut Synced,
    ) -> Result<(), PushError> {
        let (chunks, []) = hashes.as_chunks::<32>() else {
            return Err(PushError::Sync { field: "hash" });
        };
        let listed: BTreeSet<[u8; 32]> = chunks.iter().copied().collect();
        if listed.len() > self.limits.records_per_author {
            return Err(PushError::Sync { field: "number of hashes" });
        }
        let head = Bytes(head.to_vec());
        let parts = Parts { head: &head.0, papers: None, class: Class::Public };
        let id = self.take(now_ms, parts, &[], synced)?;
        if !self.is_behind(id, &head) {
            return Ok(());
        }
        let Some(author) = self.authors.get_mut(&id) else {
            return Ok(());
        };
        let sum = listed.iter().fold(RootSum::default(), RootSum::plus);
        let count = u64::try_from(listed.len()).unwrap_or(u64::MAX);
        let is_proven = author
            .head
            .as_ref()
            .is_some_and(|h| h.head.root == sum.to_bytes() && h.head.live_count == count);
        let held: BTreeMap<[u8; 32], String> =
            author.live().map(|(key, held)| (held.hash, key.clone())).collect();
        if is_proven {
            author.doubt();
            let gone: Vec<&String> =
                held.iter().filter(|(hash, _)| !listed.contains(*hash)).map(|(_, k)| k).collect();
            for key in gone {
                author.remove(Class::Public, key);
                synced.news.push((id, key.clone()));
            }
        }
        let missing = listed.iter().filter(|hash| !held.contains_key(*hash));
        let missing: Vec<[u8; 32]> = missing.take(FETCH_MAX).copied().collect();
        if !missing.is_empty() {
            let hashes = Bytes(missing.concat());
            synced.replies.push(SyncMessage::Fetch { author: id, hashes });
        }
        self.settle(id);
        Ok(())
    }

    fn fetched(&self, id: NodeId, hashes: &[u8]) -> Result<Option<SyncMessage>, PushError> {
        let (chunks, []) = hashes.as_chunks::<32>() else {
            return Err(PushError::Sync { field: "hash" });
        };
        let wanted: BTreeSet<[u8; 32]> = chunks.iter().take(FETCH_MAX).copied().collect();
        let author = self.authors.get(&id);
        let Some((author, held)) = author.and_then(|a| Some((a, a.head.as_ref()?))) else {
            return Ok(None);
        };
        let mut size = held.bytes.len();
        let records: Vec<Bytes> = author
            .live()
            .filter(|(_, held)| wanted.contains(&held.hash))
            .map(|(_, held)| Bytes(held.bytes.clone()))
            .take_while(|bytes| {
                size += bytes.0.len();
                size <= PAGE_LEN_MAX
            })
            .collect();
        Ok(Some(SyncMessage::Records { head: Bytes(held.bytes.clone()), records }))
    }

    /// Believes a proof against an author held here. Others are ignored: anyone can make a key and have it contradict itself.
    fn take_proofs(&mut self, proofs: &[Proof], synced: &mut Synced) {
        for proof in proofs.iter().take(PROOFS_MAX) {
            let (first, second) = (&proof.first.0, &proof.second.0);
            let Some(proven) = Equivocation::prove(self.realm, first, second) else {
                synced.faults.push(PushError::Sync { field: "proof" });
                continue;
            };
            if proven.author != self.me && self.authors.contains_key(&proven.author) {
                let keys = self.authors.get(&proven.author).into_iter().flat_map(Author::keys);
                synced.news.extend(keys.map(|key| (proven.author, key.clone())));
                self.quarantine(proven.author, proven.version, proven.first, proven.second);
            }
        }
    }
}

/// A message that says something.
fn some(message: SyncMessage) -> Option<SyncMessage> {
    let is_empty = match &message {
        SyncMessage::Nodes(nodes) => nodes.is_empty(),
        SyncMessage::Leaves { groups, .. } => groups.is_empty(),
        SyncMessage::Want(wants) => wants.is_empty(),
        SyncMessage::Proofs(proofs) => proofs.is_empty(),
        _ => false,
    };
    (!is_empty).then_some(message)
}

fn restricted_sum(author: Option<&Author>) -> RootSum {
    author
        .into_iter()
        .flat_map(Author::restricted)
        .fold(RootSum::default(), |sum, (_, held)| sum.plus(&held.hash))
}

fn version_of(record: &[u8]) -> Option<Version> {
    Some(crate::log::Record::peek(record).ok()?.content.version)
}

/// Packs restricted records into messages of at most [`PAGE_LEN_MAX`] bytes; none when there are none.
pub(crate) fn restricted_messages(
    head: &[u8],
    papers: &[u8],
    records: &[&Vec<u8>],
) -> Vec<SyncMessage> {
    let message = |records| SyncMessage::Restricted {
        head: Bytes(head.to_vec()),
        papers: Bytes(papers.to_vec()),
        records,
    };
    let mut messages = Vec::new();
    let mut page: Vec<Bytes> = Vec::new();
    let start = head.len() + papers.len();
    let mut size = start;
    for record in records {
        if size + record.len() > PAGE_LEN_MAX && !page.is_empty() {
            messages.push(message(std::mem::take(&mut page)));
            size = start;
        }
        size += record.len();
        page.push(Bytes((*record).clone()));
    }
    if !page.is_empty() {
        messages.push(message(page));
    }
    messages
}
