//! What one node holds of one author: the newest head, and of each key the newest record.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::log::{Head, Record, RootSum, Version};
use crate::papers::HeldPapers;
use crate::record::Resource;
use crate::trie::{Fingerprint, short};

/// Deletes remembered of each author, so that a reader who missed them can catch up by delta. Older ones are forgotten; who
/// is further behind compares the full listing.
pub(crate) const DELETES_MAX: usize = 256;

/// Which of the two sets of an author's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Counted in the head and passed on to everyone.
    Public,
    /// For some organisations only: never counted, never passed on.
    Restricted,
}

/// A verified record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The exact signed bytes.
    pub(crate) bytes: Vec<u8>,
    pub(crate) hash: [u8; 32],
    pub(crate) version: Version,
    pub(crate) not_after_ms: u64,
    /// `None` for a delete.
    pub(crate) resource: Option<Resource>,
}

/// A verified record, with where it belongs.
#[derive(Debug)]
pub(crate) struct CheckedRecord {
    /// What it says; the body is in `held`.
    pub(crate) record: Record,
    pub(crate) held: Arc<Held>,
}

/// A verified head.
#[derive(Clone, Debug)]
pub(crate) struct HeldHead {
    /// The exact signed bytes.
    pub(crate) bytes: Vec<u8>,
    pub(crate) hash: [u8; 32],
    pub(crate) head: Head,
    pub(crate) papers: Arc<HeldPapers>,
}

impl HeldHead {
    /// Of two heads the one with the larger rank counts, whatever order they arrive in. The hash decides between two
    /// renewals of one millisecond.
    pub(crate) const fn rank(&self) -> Rank {
        Rank {
            version: self.head.version,
            lease_until_ms: self.head.lease_until_ms,
            hash: self.hash,
        }
    }

    /// Until when author and records count.
    pub(crate) fn valid_until_ms(&self) -> u64 {
        self.head.lease_until_ms.min(self.papers.until_ms)
    }
}

/// The order of heads, see [`HeldHead::rank`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) version: Version,
    pub(crate) lease_until_ms: u64,
    pub(crate) hash: [u8; 32],
}

/// What to do with a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Verify and keep it.
    Fresh,
    /// Known, superseded or deleted since.
    Stale,
    /// Another record has this version: these are its bytes.
    Conflict(Vec<u8>),
}

/// One author's records.
///
/// Invariant: `order` names exactly the records in `public`, `sum` and `live` are those of the live ones among them, and
/// `bytes` is the length of all, restricted ones too. Versions of restricted records count by key.
#[derive(Clone, Debug, Default)]
struct Records {
    public: BTreeMap<String, Arc<Held>>,
    restricted: BTreeMap<String, Arc<Held>>,
    order: BTreeMap<Version, String>,
    sum: RootSum,
    live: u64,
    bytes: usize,
}

/// One author's head and records. A copy shares both until one of the two changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Author {
    pub(crate) head: Option<Arc<HeldHead>>,
    records: Arc<Records>,
    /// The newest version at which the public records were exactly those of the head. A record up to it that is not held was
    /// superseded or deleted, so a replayed one is recognised without its delete being remembered.
    complete_at: Option<Version>,
    /// The head's version at which all records of the kinds that are kept here were given, where not all are.
    given_at: Option<Version>,
}

impl Records {
    fn slots(&self, class: Class) -> &BTreeMap<String, Arc<Held>> {
        match class {
            Class::Public => &self.public,
            Class::Restricted => &self.restricted,
        }
    }

    fn slots_mut(&mut self, class: Class) -> &mut BTreeMap<String, Arc<Held>> {
        match class {
            Class::Public => &mut self.public,
            Class::Restricted => &mut self.restricted,
        }
    }

    fn insert(&mut self, class: Class, key: String, held: Arc<Held>) {
        self.remove(class, &key);
        self.bytes += held.bytes.len();
        if class == Class::Public {
            self.order.insert(held.version, key.clone());
        }
        if class == Class::Public && held.resource.is_some() {
            self.sum = self.sum.plus(&held.hash);
            self.live += 1;
        }
        self.slots_mut(class).insert(key, held);
    }

    fn remove(&mut self, class: Class, key: &str) {
        let Some(held) = self.slots_mut(class).remove(key) else {
            return;
        };
        if class == Class::Public {
            self.order.remove(&held.version);
        }
        self.bytes -= held.bytes.len();
        if class == Class::Public && held.resource.is_some() {
            self.sum = self.sum.minus(&held.hash);
            self.live -= 1;
        }
    }
}

impl Author {
    /// What to do with a record of this author, by its place in the log and the hash of its bytes.
    pub(crate) fn judge(
        &self,
        class: Class,
        key: &str,
        version: Version,
        hash: &[u8; 32],
    ) -> Judgement {
        let key_at = match class {
            Class::Public => self.records.order.get(&version).map(String::as_str),
            Class::Restricted => Some(key),
        };
        let same = key_at.and_then(|key| self.records.slots(class).get(key));
        if let Some(held) = same.filter(|held| held.version == version) {
            let is_same = held.hash == *hash;
            return if is_same {
                Judgement::Stale
            } else {
                Judgement::Conflict(held.bytes.clone())
            };
        }
        let is_superseded =
            self.records.slots(class).get(key).is_some_and(|held| held.version > version);
        let is_dead = class == Class::Public && self.complete_at.is_some_and(|at| at >= version);
        if is_superseded || is_dead { Judgement::Stale } else { Judgement::Fresh }
    }

    /// Puts a record in place of what its key held.
    pub(crate) fn insert(&mut self, class: Class, key: String, held: Arc<Held>) {
        Arc::make_mut(&mut self.records).insert(class, key, held);
    }

    /// Forgets what a key holds.
    pub(crate) fn remove(&mut self, class: Class, key: &str) {
        if self.records.slots(class).contains_key(key) {
            Arc::make_mut(&mut self.records).remove(class, key);
        }
    }

    /// Whether the public records are exactly those of the head.
    pub(crate) fn is_complete(&self) -> bool {
        self.head.as_ref().is_some_and(|held| {
            held.head.live_count == self.records.live
                && held.head.root == self.records.sum.to_bytes()
        })
    }

    /// Notes that every record up to the head was given that is kept here, where not all are. Only the word of who gave
    /// them says so.
    pub(crate) fn assume(&mut self) {
        self.given_at = self.head.as_ref().map(|held| held.head.version);
        self.complete_at = self.given_at.max(self.complete_at);
    }

    /// Whether nothing is missing that is kept here.
    pub(crate) fn is_settled(&self) -> bool {
        let at = self.head.as_ref().map(|held| held.head.version);
        (at.is_some() && at == self.given_at) || self.is_complete()
    }

    /// Notes that every record up to a version was given that is kept here.
    pub(crate) fn given_to(&mut self, version: Version) {
        self.complete_at = self.complete_at.max(Some(version));
    }

    /// Forgets all public records, and that any were known.
    pub(crate) fn forget_public(&mut self) {
        let keys = self.public_keys_of(|_| true);
        keys.iter().for_each(|key| self.remove(Class::Public, key));
        self.complete_at = None;
        self.given_at = None;
    }

    /// Notes completeness, and then forgets deletes beyond [`DELETES_MAX`], oldest first. While records are missing, a
    /// forgotten delete could not be told from a missing record.
    pub(crate) fn settle(&mut self) {
        if self.is_complete() {
            self.complete_at = self.head.as_ref().map(|held| held.head.version);
            self.forget_deletes();
        }
    }

    /// Forgets deletes beyond [`DELETES_MAX`] and returns their keys with the version of the newest one.
    pub(crate) fn forget_deletes(&mut self) -> Option<(Vec<String>, Version)> {
        let Records { public, order, live, .. } = self.records.as_ref();
        let deletes = public.len() - usize::try_from(*live).unwrap_or(usize::MAX);
        let surplus = deletes.checked_sub(DELETES_MAX).filter(|n| *n > 0)?;
        let oldest: Vec<(Version, String)> = order
            .iter()
            .filter(|(_, key)| public.get(*key).is_some_and(|held| held.resource.is_none()))
            .take(surplus)
            .map(|(version, key)| (*version, key.clone()))
            .collect();
        oldest.iter().for_each(|(_, key)| self.remove(Class::Public, key));
        let newest = oldest.last().map(|(version, _)| *version)?;
        Some((oldest.into_iter().map(|(_, key)| key).collect(), newest))
    }

    /// After a proven listing showed other records than those once complete: nothing older is known to be dead any more.
    pub(crate) fn doubt(&mut self) {
        self.complete_at = None;
    }

    pub(crate) fn complete_at(&self) -> Version {
        self.complete_at.unwrap_or(Version::ZERO)
    }

    /// The leaf in the trie: the head's hash when complete, else a mark of what is held so far, so that replicas with the
    /// same head but other records still meet.
    pub(crate) fn leaf(&self) -> Option<Fingerprint> {
        let held = self.head.as_ref()?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&held.hash);
        if !self.is_settled() {
            hasher.update(&self.records.sum.to_bytes());
        }
        Some(short(&hasher.finalize()))
    }

    /// The public records after a version, oldest first, deletes among them.
    pub(crate) fn since(&self, version: Version) -> impl Iterator<Item = (&String, &Arc<Held>)> {
        let Records { public, order, .. } = self.records.as_ref();
        order
            .range((Bound::Excluded(version), Bound::Unbounded))
            .filter_map(|(_, key)| public.get_key_value(key))
    }

    /// The public records that hold something, by key.
    pub(crate) fn live(&self) -> impl Iterator<Item = (&String, &Arc<Held>)> {
        self.records.public.iter().filter(|(_, held)| held.resource.is_some())
    }

    /// Those of them whose keys come after one.
    pub(crate) fn live_after(
        &self,
        key: Option<&str>,
    ) -> impl Iterator<Item = (&String, &Arc<Held>)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        let after = self.records.public.range::<str, _>((from, Bound::Unbounded));
        after.filter(|(_, held)| held.resource.is_some())
    }

    /// The keys of the public records that are meant.
    pub(crate) fn public_keys_of(&self, is_meant: impl Fn(&&Arc<Held>) -> bool) -> Vec<String> {
        let records = self.records.public.iter();
        records.filter(|(_, held)| is_meant(held)).map(|(key, _)| key.clone()).collect()
    }

    /// The record of a key in one class.
    pub(crate) fn held(&self, class: Class, key: &str) -> Option<&Arc<Held>> {
        self.records.slots(class).get(key)
    }

    /// The restricted records that hold something.
    pub(crate) fn restricted(&self) -> impl Iterator<Item = (&String, &Arc<Held>)> {
        self.records.restricted.iter().filter(|(_, held)| held.resource.is_some())
    }

    /// What a key shows at `now_ms`: what its author shows to some only, when this node is among them, else what all see.
    pub(crate) fn shown(&self, key: &str, now_ms: u64) -> Option<&Arc<Held>> {
        let live = |class| {
            self.held(class, key).filter(|h| h.resource.is_some() && h.not_after_ms > now_ms)
        };
        live(Class::Restricted).or_else(|| live(Class::Public))
    }

    /// Every key that holds something in either class, each once, in order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &String> {
        let only_restricted = self
            .restricted()
            .map(|(key, _)| key)
            .filter(|key| self.held(Class::Public, key).is_none_or(|held| held.resource.is_none()));
        self.live().map(|(key, _)| key).chain(only_restricted)
    }

    /// Records held, deletes among them.
    pub(crate) fn count(&self) -> usize {
        self.records.order.len() + self.records.restricted.len()
    }

    /// Bytes of all records.
    pub(crate) fn bytes(&self) -> usize {
        self.records.bytes
    }

    /// Sum and number of the live public records, as a head names them.
    pub(crate) fn root(&self) -> (RootSum, u64) {
        (self.records.sum, self.records.live)
    }
}
