//! One node's copy of a realm's catalogue: its own log and a replica of every other author.
//!
//! Only an author writes its keys. Of each key the record with the highest version counts, of each author the head with the
//! highest rank, so the order in which things arrive, and how often, makes no difference. An author counts until its head's
//! lease ends.

mod apply;
mod heirs;
mod refusal;

pub(crate) use apply::Parts;
pub use refusal::PushError;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::author::{Author, Class, Held, HeldHead};
use crate::cbor::{self, MapReader, MapWriter};
use crate::cert::{Membership, NodeCert, Revocations};
use crate::filter::Filter;
use crate::id::{Digest, NodeId, OrgId, RealmId};
use crate::log::{HEAD_LEN_MAX, Head, RECORD_LEN_MAX, Record, Version};
use crate::memo::Memo;
use crate::papers::{PAPERS_LEN_MAX, Papers};
use crate::publish::Own;
use crate::record::{AreaDetail, Detail, Kind, Kinds, Resource};
use crate::trie::Trie;

/// Largest gossip message in bytes.
pub const PUSH_LEN_MAX: usize = 32 * 1024;
/// Records that a peer may hold of an author beyond [`Limits::records_per_author`]: deletes on their way.
const DELETES_SLACK: usize = 1024;

/// Records of one author that a light node keeps; it asks for those beyond.
pub(crate) const LIGHT_RECORDS: usize = 256;
/// Their bytes.
pub(crate) const LIGHT_BYTES: usize = 256 * 1024;
/// Bytes of all records that a light node keeps.
pub(crate) const LIGHT_TOTAL_BYTES: usize = 32 * 1024 * 1024;

/// What a replica may hold. What goes beyond is refused, and nothing already held is given up for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Authors in the realm.
    pub authors: usize,
    /// Live keys of one author.
    pub records_per_author: usize,
    /// Bytes of one author's records.
    pub bytes_per_author: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { authors: 2000, records_per_author: 10_000, bytes_per_author: 8 * 1024 * 1024 }
    }
}

/// What a node shows to be believed: its signed certificate and its organisation's membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node certificate.
    pub cert: Vec<u8>,
    /// The organisation's membership in the realm.
    pub membership: Membership,
}

/// Proof that an author lied: two things it signed that cannot both be honest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equivocation {
    /// The author.
    pub author: NodeId,
    /// The version that has two contents.
    pub version: Version,
    /// The signed bytes held first.
    pub first: Vec<u8>,
    /// The signed bytes that contradict them.
    pub second: Vec<u8>,
}

impl Equivocation {
    /// Checks two signed records or heads, without any other knowledge: `None` when they prove nothing.
    #[must_use]
    pub fn prove(realm: RealmId, first: &[u8], second: &[u8]) -> Option<Self> {
        let (author, version) = match (Head::verify(first), Head::verify(second)) {
            (Ok(a), Ok(b)) => {
                let same = a.realm == realm && b.realm == realm && a.author == b.author;
                (same && a.contradicts(&b)).then_some((a.author, a.version))
            }
            _ => {
                let (a, b) = (Record::verify(first).ok()?, Record::verify(second).ok()?);
                let same = a.realm == realm && b.realm == realm && a.author == b.author;
                // Versions of public records count in the log, of restricted ones by key.
                let same_log =
                    a.is_restricted == b.is_restricted && (!a.is_restricted || a.key == b.key);
                let is_lie = same && same_log && a.version == b.version && first != second;
                is_lie.then_some((a.author, a.version))
            }
        }?;
        Some(Self { author, version, first: first.to_vec(), second: second.to_vec() })
    }
}

/// One resource as a query shows it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Entry<'a> {
    /// The node that shares it.
    pub author: NodeId,
    /// That node's organisation.
    pub org: OrgId,
    /// The organisation's name.
    pub org_name: &'a str,
    /// The node's stable name.
    pub node_name: &'a str,
    /// The resource's key among its author's.
    pub key: &'a str,
    /// The description.
    pub resource: &'a Resource,
    /// Epoch of its version.
    pub epoch: u32,
    /// Sequence number of its version.
    pub seq: u64,
    /// Whether only some organisations may see it.
    pub is_restricted: bool,
}

/// What a gossip message brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Keys that changed.
    pub news: Vec<(NodeId, String)>,
    /// Papers, signed heads and records worth keeping in a cache, each of at most [`PAPERS_LEN_MAX`] bytes.
    /// [`Catalog::restore`] takes them back.
    pub store: Vec<Vec<u8>>,
}

impl Pushed {
    /// Whether the message brought anything, be it only a longer lease: then it is worth passing on.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        !self.store.is_empty()
    }
}

/// Where a cache keeps an item of [`Pushed::store`]: what is kept under the same key later replaces it. It begins with the
/// author's id. `None` when the bytes are no papers, head or record.
#[must_use]
pub fn cache_key(item: &[u8]) -> Option<Vec<u8>> {
    let (author, place) = match Record::peek(item) {
        Ok(record) => {
            let Record { author, is_restricted, key, .. } = record.content;
            (
                author,
                [&[1 + u8::from(is_restricted)][..], Digest::of(key.as_bytes()).as_bytes()]
                    .concat(),
            )
        }
        Err(_) => match Head::peek(item) {
            Ok(head) => (head.content.author, vec![0]),
            Err(_) => (Papers::decode(item).ok()?.author, vec![3]),
        },
    };
    Some([author.as_bytes().as_slice(), &place].concat())
}

/// Signed records by version, newest first; restricted ones of several keys may share one.
type NewestFirst<'a> = BTreeMap<(Reverse<Version>, String), &'a Vec<u8>>;

/// One node's copy of a realm's catalogue.
#[derive(Clone, Debug)]
pub struct Catalog {
    pub(crate) me: NodeId,
    pub(crate) realm: RealmId,
    pub(crate) limits: Limits,
    /// Every author that has written, this node among them.
    pub(crate) authors: BTreeMap<NodeId, Author>,
    pub(crate) trie: Trie,
    pub(crate) own: Own,
    /// What is kept of others: all, or a light node's choice.
    pub(crate) kinds: Kinds,
    /// Whether there was more of these than is kept of one author.
    pub(crate) is_cut: bool,
    quarantined: BTreeMap<NodeId, Equivocation>,
    revocations: BTreeMap<OrgId, Revocations>,
    heirs: heirs::Heirs,
    /// No author ends before.
    look_again_ms: u64,
    memo: Option<Memo>,
}

impl Catalog {
    /// An empty catalogue of `realm` at the node `me`.
    #[must_use]
    pub fn new(me: NodeId, realm: RealmId, limits: Limits) -> Self {
        Self {
            me,
            realm,
            limits,
            authors: BTreeMap::new(),
            trie: Trie::default(),
            own: Own::default(),
            kinds: Kinds::ALL,
            is_cut: false,
            quarantined: BTreeMap::new(),
            revocations: BTreeMap::new(),
            heirs: heirs::Heirs::default(),
            look_again_ms: 0,
            memo: None,
        }
    }

    /// This catalogue as that of a light node, which keeps of others these kinds alone, and always what was taken back and
    /// what is said of areas. See
    /// [`crate::sync::light`].
    #[must_use]
    pub fn light(self, kinds: Kinds) -> Self {
        let kinds = kinds.or(Kinds::of(Kind::Revocations)).or(Kinds::of(Kind::Area));
        Self { kinds, ..self }
    }

    /// The kinds of which this node holds all that others publish.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        if self.is_cut { Kinds::NONE } else { self.kinds }
    }

    /// The kinds of which this node keeps what others publish.
    #[must_use]
    pub const fn kept(&self) -> Kinds {
        self.kinds
    }

    /// Whether some kinds are kept only.
    #[must_use]
    pub fn is_light(&self) -> bool {
        self.kinds != Kinds::ALL
    }

    /// This catalogue with verdicts that it shares with others in the process: for simulators only, see [`crate::memo`].
    #[must_use]
    pub fn sharing(self, memo: Memo) -> Self {
        Self { memo: Some(memo), ..self }
    }

    /// This catalogue as if it had taken in all that another one of the same realm holds, without checking it again: for
    /// simulators, whose worlds begin in agreement.
    #[must_use]
    pub fn with_replicas_of(mut self, other: &Self) -> Self {
        let own = self.authors.remove(&self.me);
        self.authors = other.authors.clone();
        self.trie = other.trie.clone();
        if self.is_light() {
            let unwanted = |held: &&Arc<Held>| {
                held.resource.as_ref().is_none_or(|r| !self.kinds.contains(r.kind()))
            };
            for author in self.authors.values_mut() {
                let keys = author.public_keys_of(unwanted);
                keys.iter().for_each(|key| author.remove(Class::Public, key));
                author.assume();
            }
        }
        self.drop_author(self.me);
        if let Some(own) = own {
            self.authors.insert(self.me, own);
            self.settle(self.me);
        }
        self.look_again_ms = 0;
        self
    }

    /// Takes in a gossip message. A stale or repeated one is fine and brings nothing.
    ///
    /// # Errors
    /// See [`PushError`]; [`PushError::fault`] says whether to reject or merely ignore the message.
    pub fn handle_push(&mut self, now_ms: u64, bytes: &[u8]) -> Result<Pushed, PushError> {
        let value = cbor::decode(bytes, PUSH_LEN_MAX)?;
        let mut map = MapReader::new(&value)?;
        let (head, records): (Vec<u8>, Vec<Vec<u8>>) = (map.take(1)?, map.take(2)?);
        let papers: Option<Vec<u8>> = map.take_opt(3)?;
        map.finish()?;
        let mut pushed = Pushed::default();
        let parts = Parts { head: &head, papers: papers.as_deref(), class: Class::Public };
        self.apply(now_ms, parts, records.iter().map(Vec::as_slice), &mut pushed)?;
        Ok(pushed)
    }

    /// Takes back what [`Pushed::store`] and [`crate::sync::Synced::store`] gave, in any order, and returns the items that
    /// are in use. Damaged, expired and refused ones are skipped: all of it can be had again from peers.
    pub fn restore(&mut self, now_ms: u64, items: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let heads = items.iter().filter_map(|bytes| {
            let head = Head::peek(bytes).ok()?.content;
            Some((head.author, bytes))
        });
        let heads: BTreeMap<NodeId, &Vec<u8>> = heads.collect();
        let papers: BTreeMap<NodeId, &Vec<u8>> = items
            .iter()
            .filter_map(|bytes| Some((Papers::decode(bytes).ok()?.author, bytes)))
            .collect();
        // Newest first, so that what a newer record replaces is not kept for a moment and counted.
        let mut records: BTreeMap<(NodeId, bool), NewestFirst<'_>> = BTreeMap::new();
        for bytes in items {
            let Ok(record) = Record::peek(bytes) else {
                continue;
            };
            let Record { author, is_restricted, version, key, .. } = record.content;
            let of_author = records.entry((author, is_restricted)).or_default();
            of_author.insert((Reverse(version), key), bytes);
        }
        let mut pushed = Pushed::default();
        for (author, head) in heads {
            let papers = papers.get(&author).map(|bytes| bytes.as_slice());
            for (class, is_restricted) in [(Class::Public, false), (Class::Restricted, true)] {
                let records = records.remove(&(author, is_restricted)).unwrap_or_default();
                let parts = Parts { head, papers, class };
                let one_by_one = records.values().map(|bytes| Some(bytes.as_slice()));
                for record in std::iter::once(None).chain(one_by_one) {
                    // A refused item is skipped: the cache holds nothing that peers do not have.
                    let _refused =
                        self.apply(now_ms, parts, record.into_iter(), &mut pushed).is_err();
                }
            }
        }
        pushed.store
    }

    /// Drops the authors whose lease, certificate or membership has ended, and returns them.
    pub fn expire(&mut self, now_ms: u64) -> Vec<NodeId> {
        if now_ms < self.look_again_ms {
            return Vec::new();
        }
        let ended = |author: &Author| {
            author.head.as_ref().is_none_or(|held| held.valid_until_ms() <= now_ms)
        };
        let gone: Vec<NodeId> = self
            .authors
            .iter()
            .filter(|(id, author)| **id != self.me && ended(author))
            .map(|(id, _)| *id)
            .collect();
        gone.iter().for_each(|id| self.drop_author(*id));
        let others = self.authors.iter().filter(|(id, _)| **id != self.me);
        let ends = others.filter_map(|(_, author)| Some(author.head.as_ref()?.valid_until_ms()));
        self.look_again_ms = ends.min().unwrap_or(u64::MAX);
        gone
    }

    /// Takes in an organisation's revocation list, drops the authors it revokes and returns them. An older list than the one
    /// held changes nothing.
    pub fn revoke(&mut self, list: Revocations) -> Vec<NodeId> {
        let is_known = self.revocations.contains_key(&list.org);
        let is_newer = self.revocations.get(&list.org).is_none_or(|held| list.supersedes(held));
        // At most one list for each organisation that could have an author here.
        if !is_newer || (!is_known && self.revocations.len() >= self.limits.authors) {
            return Vec::new();
        }
        let is_revoked =
            |author: &Author| author.head.as_ref().is_some_and(|h| h.papers.is_revoked(&list));
        let gone: Vec<NodeId> = self
            .authors
            .iter()
            .filter(|(id, author)| **id != self.me && is_revoked(author))
            .map(|(id, _)| *id)
            .collect();
        gone.iter().for_each(|id| self.drop_author(*id));
        self.unlearn_heirs(&gone);
        self.revocations.insert(list.org, list);
        gone
    }

    /// An empty catalogue of the same realm that refuses whom this one refuses: for what peers tell and this one does not
    /// keep, see [`crate::ask`].
    pub(crate) fn aside(&self, limits: Limits) -> Self {
        let mut aside = Self::new(self.me, self.realm, limits);
        aside.revocations = self.revocations.clone();
        aside.quarantined = self.quarantined.clone();
        aside
    }

    /// The realm.
    #[must_use]
    pub const fn realm(&self) -> RealmId {
        self.realm
    }

    /// The description that an author gives under a key, until [`Self::expire`] drops the author.
    #[must_use]
    pub fn get(&self, author: NodeId, key: &str) -> Option<&Resource> {
        self.authors.get(&author)?.shown(key, 0)?.resource.as_ref()
    }

    /// Every resource that counts at `now_ms`, this node's own among them, by author and key.
    pub fn resources(&self, now_ms: u64) -> impl Iterator<Item = Entry<'_>> {
        self.authors
            .iter()
            .filter_map(move |(id, author)| {
                let head = author.head.as_ref()?;
                (*id == self.me || head.valid_until_ms() > now_ms).then_some((*id, author, head))
            })
            .flat_map(move |(id, author, head)| {
                author.keys().filter_map(move |key| {
                    let held = author.shown(key, now_ms)?;
                    let public = author.held(Class::Public, key);
                    let is_restricted = public.is_none_or(|public| !Arc::ptr_eq(public, held));
                    entry_of(id, head, key, held, is_restricted)
                })
            })
    }

    /// Every resource that everybody in the realm may see at `now_ms`, as they see it: what is restricted, and that something
    /// is, changes nothing here.
    pub fn public(&self, now_ms: u64) -> impl Iterator<Item = Entry<'_>> {
        self.counting(now_ms).flat_map(move |(id, author, head)| {
            author
                .live()
                .filter(move |(_, held)| held.not_after_ms > now_ms)
                .filter_map(move |(key, held)| entry_of(id, head, key, held, false))
        })
    }

    /// The public resources that a filter lets through, for readers outside of the realm: gossip messages that
    /// [`Self::handle_push`] of a catalogue of this realm takes, with everything that is needed to check them. As many
    /// resources as `count` says and messages as fit into `bytes`, and whether that was all.
    #[must_use]
    pub fn told(
        &self,
        filter: &Filter,
        now_ms: u64,
        (count, bytes): (usize, usize),
    ) -> (Vec<Vec<u8>>, bool) {
        let (mut told, mut left, mut room) = (Vec::new(), count, bytes);
        for (id, author, head) in self.counting(now_ms) {
            let passes = |(key, held): &(&String, &Arc<Held>)| {
                held.not_after_ms > now_ms
                    && entry_of(id, head, key, held, false).is_some_and(|e| filter.matches(&e))
            };
            let mut found: Vec<Vec<u8>> = author
                .live()
                .filter(passes)
                .map(|(_, held)| held.bytes.clone())
                .take(left.saturating_add(1))
                .collect();
            let is_cut = found.len() > left;
            found.truncate(left);
            if found.is_empty() && !is_cut {
                continue;
            }
            left -= found.len();
            for push in pack(&head.bytes, Some(&head.papers.bytes), &found) {
                let Some(less) = room.checked_sub(push.len()) else { return (told, false) };
                room = less;
                told.push(push);
            }
            if is_cut {
                return (told, false);
            }
        }
        (told, true)
    }

    /// The authors that count at `now_ms`.
    fn counting(&self, now_ms: u64) -> impl Iterator<Item = (NodeId, &Author, &HeldHead)> {
        self.authors.iter().filter_map(move |(id, author)| {
            let head = author.head.as_deref()?;
            (*id == self.me || head.valid_until_ms() > now_ms).then_some((*id, author, head))
        })
    }

    /// The first `limit` resources that a filter lets through at `now_ms`.
    #[must_use]
    pub fn search(&self, filter: &Filter, now_ms: u64, limit: usize) -> Vec<Entry<'_>> {
        self.resources(now_ms).filter(|entry| filter.matches(entry)).take(limit).collect()
    }

    /// What others say to this node of areas, its organisation's other nodes among them, as long as their authors are held.
    pub fn areas(&self) -> impl Iterator<Item = (NodeId, OrgId, &AreaDetail)> {
        let others = self.authors.iter().filter(|(id, _)| **id != self.me);
        others.flat_map(|(id, author)| {
            let org = author.head.as_ref().map(|head| head.papers.cert.org);
            author.restricted().filter_map(move |(_, held)| match &held.resource.as_ref()?.detail {
                Detail::Area(detail) => Some((*id, org?, detail)),
                _ => None,
            })
        })
    }

    /// The certificate that an author shows.
    #[must_use]
    pub fn node_cert(&self, author: NodeId) -> Option<&NodeCert> {
        Some(&self.authors.get(&author)?.head.as_ref()?.papers.cert)
    }

    /// Whether everything of an author is held that it had published up to a version.
    #[must_use]
    pub fn has(&self, author: NodeId, version: Version) -> bool {
        let held = self.authors.get(&author);
        held.is_some_and(|author| {
            author.complete_at() >= version
                || author.head.as_ref().is_some_and(|held| held.head.version >= version)
                    && author.is_complete()
        })
    }

    /// The authors held, this node among them once it has a head.
    pub fn authors(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.authors.iter().filter(|(_, author)| author.head.is_some()).map(|(id, _)| *id)
    }

    /// Proofs against the authors that are quarantined: nothing of theirs is shown or taken in until this node restarts.
    pub fn equivocations(&self) -> impl Iterator<Item = &Equivocation> {
        self.quarantined.values()
    }

    /// The fingerprint of everything held that is replicated: equal at two nodes when their catalogues are.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 16] {
        self.trie.root()
    }
}

/// What a query shows of a record; nothing of a delete, nor of what is said of areas: that is no resource.
pub(crate) fn entry_of<'a>(
    author: NodeId,
    head: &'a HeldHead,
    key: &'a str,
    held: &'a Held,
    is_restricted: bool,
) -> Option<Entry<'a>> {
    let cert = &head.papers.cert;
    let resource = held.resource.as_ref().filter(|resource| resource.kind() != Kind::Area)?;
    Some(Entry {
        author,
        org: cert.org,
        org_name: &cert.org_name,
        node_name: &cert.name,
        key,
        resource,
        epoch: held.version.epoch,
        seq: held.version.seq,
        is_restricted,
    })
}

/// Packs a head and records into gossip messages of at most [`PUSH_LEN_MAX`] bytes, at least one; papers go into the first.
pub(crate) fn pack(head: &Vec<u8>, papers: Option<&Vec<u8>>, records: &[Vec<u8>]) -> Vec<Vec<u8>> {
    // A head, papers and the largest record always fit together; 16 bytes cover the framing of each part.
    const { assert!(HEAD_LEN_MAX + PAPERS_LEN_MAX + RECORD_LEN_MAX + 64 <= PUSH_LEN_MAX) };
    let size_of = |papers: Option<&Vec<u8>>| head.len() + papers.map_or(0, Vec::len) + 48;
    let mut size = size_of(papers);
    let mut papers = papers;
    let mut close = |batch: &mut Vec<Vec<u8>>| {
        let push = MapWriter::new().put(1, head).put(2, &std::mem::take(batch));
        push.put_opt(3, papers.take()).encode()
    };
    let (mut pushes, mut batch): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    for record in records {
        if size + record.len() + 16 > PUSH_LEN_MAX {
            pushes.push(close(&mut batch));
            size = size_of(None);
        }
        size += record.len() + 16;
        batch.push(record.clone());
    }
    if pushes.is_empty() || !batch.is_empty() {
        pushes.push(close(&mut batch));
    }
    pushes
}
