//! The own log: publishing, withdrawing, renewing.
//!
//! Every change takes the next version. What was signed is persisted before it is sent, and after every start the epoch is
//! higher than before, so no version is ever signed twice with different content.

mod audience;
mod stored;

pub use stored::{RestoreError, stored_key};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use audience::Audience;
use ed25519_dalek::SigningKey;
use stored::Slot;

use crate::author::{Class, Held, HeldHead};
use crate::id::{NodeId, OrgId, RealmId};
use crate::log::{
    AuthorError, Head, LEASE_MS, NO_END_MS, RECORD_LEN_MAX, RENEW_MS, Record, RootSum, Version,
    check_author, record_hash,
};
use crate::papers::{HeldPapers, Papers, papers_hash};
use crate::record::{AUDIENCE_MAX, Resource, ResourceError, Visibility};
use crate::replica::{Catalog, Identity, Limits, pack};
use crate::sync::{SyncMessage, restricted_messages};

/// Renewals are spread over this many milliseconds before they are due, so that a realm that started at one moment does not
/// renew at one moment.
const RENEW_SPREAD_MS: u64 = 3 * 60 * 1000;
/// When a renewal failed because certificate or membership is not in force, the next try is after a minute.
const RENEW_RETRY_MS: u64 = 60 * 1000;
/// Bytes that key, numbers and envelope add to a body, when the log's size is estimated before signing.
const RECORD_OVERHEAD: usize = RECORD_LEN_MAX - crate::record::BODY_LEN_MAX;

/// A change to the own log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Describes a resource, in place of what its key held.
    Put(Resource, Visibility),
    /// Withdraws the resource with this key, from everybody.
    Delete(String),
    /// Describes a resource to some organisations otherwise than [`Self::Put`] does to the rest, to whom it may say nothing.
    /// In place of what its key held for them. No organisation learns that others see something else.
    PutFor(Resource, Vec<OrgId>),
    /// Shows these organisations what the rest is shown.
    DeleteFor(String, Vec<OrgId>),
}

impl Change {
    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(resource, _) | Self::PutFor(resource, _) => &resource.key,
            Self::Delete(key) | Self::DeleteFor(key, _) => key,
        }
    }
}

/// What a publication produced. Persist first, then send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// To be stored durably under the key that [`stored_key`] tells, replacing what stands there.
    pub records: Vec<Vec<u8>>,
    /// Keys whose stored record can be removed: deletes so old that nobody needs them.
    pub forget: Vec<String>,
    /// Gossip messages, each of at most [`crate::replica::PUSH_LEN_MAX`] bytes; none when nothing changed.
    pub push: Vec<Vec<u8>>,
    /// Restricted records for connected peers of these organisations, and nobody else.
    pub direct: Vec<(OrgId, SyncMessage)>,
}

/// Why a publication is refused. Nothing of it has happened then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Certificate or membership would make every peer refuse it.
    #[error("this node may not publish: renew its certificate or join the realm")]
    Author(#[from] AuthorError),
    /// The signing key is not this node's.
    #[error("the key is that of {found}, not of {expected}")]
    Key {
        /// This node.
        expected: NodeId,
        /// The key's node.
        found: NodeId,
    },
    /// A description is refused.
    #[error("`{key}` is refused")]
    Resource {
        /// Its key.
        key: String,
        /// Why.
        source: ResourceError,
    },
    /// A delete of what is not there.
    #[error("there is no `{key}` to delete")]
    Unknown {
        /// The key.
        key: String,
    },
    /// More keys than peers keep.
    #[error("{records} resources, peers keep at most {max}: delete some first")]
    Records {
        /// Keys that would be live.
        records: usize,
        /// Keys allowed.
        max: usize,
    },
    /// More bytes than peers keep.
    #[error("about {bytes} bytes of records, peers keep at most {max}: delete or shorten some")]
    Bytes {
        /// Bytes that would be held.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
}

/// What only the author of a log needs to know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    version: Version,
    gc_floor: Version,
    renew_at_ms: u64,
    audiences: BTreeMap<String, Audience>,
    seen: Version,
    /// The papers that gossip has carried since the start.
    told_papers: Option<[u8; 32]>,
}

impl Own {
    /// Notes the version of a head of this node that came from elsewhere.
    pub(crate) fn note_seen(&mut self, version: Version) {
        self.seen = self.seen.max(version);
    }
}

/// What signing needs.
struct Pen<'a> {
    key: &'a SigningKey,
    realm: RealmId,
    author: NodeId,
    /// The author's organisation, whose other nodes see what any restricted record says to all of its audience.
    home: OrgId,
    epoch: u32,
    now_ms: u64,
    /// What nobody else can tell.
    secret: [u8; 32],
}

impl Pen<'_> {
    fn sign(&self, key: &str, version: Version, body: Option<Vec<u8>>, class: Class) -> Vec<u8> {
        let (realm, author) = (self.realm, self.author);
        let is_restricted = class == Class::Restricted;
        let not_after_ms = NO_END_MS;
        let key = key.to_owned();
        Record { realm, author, version, key, not_after_ms, body, is_restricted }.sign(self.key)
    }

    /// A number as if by chance, for a record of `key` for `org`; another one for each try.
    fn chance(&self, key: &str, org: OrgId, tries: u32) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(&self.now_ms.to_be_bytes()).update(&tries.to_be_bytes());
        hasher.update(org.as_bytes()).update(key.as_bytes());
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        u64::from_be_bytes(bytes)
    }
}

impl Catalog {
    /// Signs changes to the own log: all of them, or none. A put that changes nothing costs nothing.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn publish(
        &mut self,
        key: &SigningKey,
        identity: &Identity,
        now_ms: u64,
        changes: Vec<Change>,
    ) -> Result<Published, PublishError> {
        let author = NodeId::from(key.verifying_key());
        if author != self.me {
            return Err(PublishError::Key { expected: self.me, found: author });
        }
        let Identity { cert, membership } = identity;
        let (cert, _) = check_author(self.me, self.realm, cert, membership, now_ms)?;
        self.check_changes(&changes)?;
        let secret = blake3::derive_key("opencloud 2026 restricted records", key.as_bytes());
        let (home, epoch) = (cert.org, self.own.version.epoch);
        let pen = Pen { key, realm: self.realm, author, home, epoch, now_ms, secret };
        let mut touched: BTreeSet<String> = BTreeSet::new();
        let mut public: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut news: BTreeMap<OrgId, BTreeSet<String>> = BTreeMap::new();
        for change in changes {
            let key = change.key().to_owned();
            let (did_change, record) = self.write(&pen, change, &mut news);
            public.extend(record.map(|bytes| (key.clone(), bytes)));
            if did_change {
                touched.insert(key);
            }
        }
        if touched.is_empty() {
            return Ok(Published::default());
        }
        let own = self.authors.entry(self.me).or_default();
        let (forget, floor) = own.forget_deletes().unwrap_or_default();
        let held = own.head.as_ref().map(|held| held.bytes.clone());
        self.own.gc_floor = self.own.gc_floor.max(floor);
        let push: Vec<Vec<u8>> = public.into_values().collect();
        // Of a change that only some may see nobody else is to notice anything, not even a new head.
        let (head, pushes) = match held {
            Some(head) if push.is_empty() => (head, Vec::new()),
            _ => {
                let head = self.sign_head(key, identity, now_ms)?;
                let pushes = self.pack(&head, &push);
                (head, pushes)
            }
        };
        let forget: Vec<String> =
            forget.into_iter().filter(|key| !self.own.audiences.contains_key(key)).collect();
        let kept = touched.iter().filter(|key| !forget.contains(key));
        Ok(Published {
            records: kept.map(|key| self.slot(key).encode()).collect(),
            forget,
            push: pushes,
            direct: self.direct(&news, &head),
        })
    }

    /// Signs a new head when the last one is due, or when certificate or membership have changed, and returns the gossip
    /// message. `None` also while certificate or membership are not in force: no peer would accept the head.
    pub fn renew(&mut self, key: &SigningKey, identity: &Identity, now_ms: u64) -> Option<Vec<u8>> {
        let held = self.authors.get(&self.me).and_then(|author| author.head.as_ref());
        let is_same = held.is_some_and(|held| held.papers.bytes == self.papers(identity));
        if (is_same && now_ms < self.own.renew_at_ms)
            || NodeId::from(key.verifying_key()) != self.me
        {
            return None;
        }
        match self.sign_head(key, identity, now_ms) {
            Ok(head) => self.pack(&head, &[]).pop(),
            Err(_) => {
                self.own.renew_at_ms = now_ms.saturating_add(RENEW_RETRY_MS);
                None
            }
        }
    }

    fn papers(&self, identity: &Identity) -> Vec<u8> {
        let Identity { cert, membership } = identity.clone();
        Papers { author: self.me, cert, membership }.encode()
    }

    /// Packs the own head and records for gossip, with the papers when it has not carried these before.
    fn pack(&mut self, head: &Vec<u8>, records: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let held = self.authors.get(&self.me).and_then(|own| own.head.as_ref());
        let papers = held.map(|held| held.papers.clone());
        let news = papers.as_ref().filter(|papers| self.own.told_papers != Some(papers.hash));
        let pushes = pack(head, news.map(|papers| &papers.bytes), records);
        self.own.told_papers = papers.map(|papers| papers.hash);
        pushes
    }

    /// When [`Self::renew`] should be called next, Unix milliseconds; 0 before the first head.
    #[must_use]
    pub const fn next_renewal_ms(&self) -> u64 {
        self.own.renew_at_ms
    }

    /// The version that the own log has reached.
    #[must_use]
    pub const fn own_version(&self) -> Version {
        self.own.version
    }

    /// The version of a head of this node that peers hold although this node has not come that far: its store was restored
    /// from an old backup, or its key runs twice. Restart it with a higher epoch than this one's.
    #[must_use]
    pub fn seen_ahead(&self) -> Option<Version> {
        (self.own.seen > self.own.version).then_some(self.own.seen)
    }

    /// The signed restricted records that an organisation is to hold: the current ones, and deletes of those it may no
    /// longer see.
    pub(crate) fn entitled(&self, org: OrgId) -> Vec<&Vec<u8>> {
        let told = self.own.audiences.values().filter_map(|audience| audience.told.get(&org));
        told.map(|told| &told.held.bytes).collect()
    }

    /// The sum of the current restricted records that an organisation is to hold.
    pub(crate) fn entitled_sum(&self, org: OrgId) -> RootSum {
        let told = self.own.audiences.values().filter_map(|audience| audience.told.get(&org));
        told.filter(|told| told.of.is_some())
            .fold(RootSum::default(), |sum, told| sum.plus(&told.held.hash))
    }

    /// The restricted records that an organisation sees here, by key.
    pub(crate) fn restricted_for(&self, org: OrgId) -> impl Iterator<Item = (&String, &Arc<Held>)> {
        self.own.audiences.iter().filter_map(move |(key, audience)| {
            let told = audience.told.get(&org)?;
            told.held.resource.is_some().then_some((key, &told.held))
        })
    }

    /// What this node shows an organisation under one of its keys.
    #[must_use]
    pub fn offered_to(&self, key: &str, org: OrgId) -> Option<&Resource> {
        let home = self.node_cert(self.me).map(|cert| cert.org);
        let special = self.own.audiences.get(key).and_then(|audience| audience.wanted(org, home));
        special.or_else(|| {
            let own = self.authors.get(&self.me)?;
            own.held(Class::Public, key)?.resource.as_ref()
        })
    }

    /// The own papers; nothing before the first head.
    pub(crate) fn own_papers(&self) -> Vec<u8> {
        let held = self.authors.get(&self.me).and_then(|own| own.head.as_ref());
        held.map_or_else(Vec::new, |held| held.papers.bytes.clone())
    }

    /// Checks all changes against their bounds, as if they had happened in order.
    fn check_changes(&self, changes: &[Change]) -> Result<(), PublishError> {
        let own = self.authors.get(&self.me);
        let mut live: BTreeSet<&str> =
            own.into_iter().flat_map(|own| own.keys()).map(String::as_str).collect();
        let mut bytes = own.map_or(0, |own| own.bytes());
        live.extend(
            self.own.audiences.iter().filter(|(_, a)| a.is_live()).map(|(key, _)| key.as_str()),
        );
        let mut special: BTreeMap<&str, BTreeSet<OrgId>> = BTreeMap::new();
        for change in changes {
            let of = |source| PublishError::Resource { key: change.key().to_owned(), source };
            let unknown = || PublishError::Unknown { key: change.key().to_owned() };
            let of_own = |key: &str| -> BTreeSet<OrgId> {
                let audience = self.own.audiences.get(key);
                audience.map(|audience| audience.special().copied().collect()).unwrap_or_default()
            };
            let count = match change {
                Change::Put(_, Visibility::Restricted(orgs)) => orgs.len(),
                Change::PutFor(resource, orgs) => {
                    let key = resource.key.as_str();
                    let all = special.entry(key).or_insert_with(|| of_own(key));
                    all.extend(orgs);
                    all.len()
                }
                _ => 0,
            };
            if count > AUDIENCE_MAX {
                return Err(of(ResourceError::Audience { count }));
            }
            match change {
                Change::Put(resource, _) | Change::PutFor(resource, _) => {
                    bytes += resource.encode().map_err(of)?.len() + RECORD_OVERHEAD;
                    live.insert(&resource.key);
                }
                Change::Delete(key) if live.remove(key.as_str()) => {}
                Change::DeleteFor(key, orgs) => {
                    let all = special.entry(key).or_insert_with(|| of_own(key));
                    let before = all.len();
                    all.retain(|org| !orgs.contains(org));
                    if all.len() == before {
                        return Err(unknown());
                    }
                }
                Change::Delete(_) => return Err(unknown()),
            }
        }
        let Limits { records_per_author, bytes_per_author, .. } = self.limits;
        if live.len() > records_per_author {
            return Err(PublishError::Records { records: live.len(), max: records_per_author });
        }
        if bytes > bytes_per_author {
            return Err(PublishError::Bytes { bytes, max: bytes_per_author });
        }
        Ok(())
    }

    /// Writes one checked change; tells whether it changed anything, and the public record it took. Whom it concerns besides
    /// goes into `news`.
    fn write(
        &mut self,
        pen: &Pen<'_>,
        change: Change,
        news: &mut BTreeMap<OrgId, BTreeSet<String>>,
    ) -> (bool, Option<Vec<u8>>) {
        let key = change.key().to_owned();
        let before = self.own.audiences.get(&key).cloned().unwrap_or_default();
        let mut audience = before.clone();
        let public = match change {
            Change::Put(resource, Visibility::Public) => {
                (audience.general, audience.current) = (None, BTreeSet::new());
                let is_same = self.is_live(Class::Public, &key, Some(&resource));
                (!is_same).then(|| self.put(pen, resource))
            }
            Change::Put(resource, Visibility::Restricted(orgs)) => {
                audience.general = Some(resource);
                audience.current = orgs.into_iter().collect();
                self.delete_public(pen, &key)
            }
            Change::Delete(_) => {
                let Audience { told, used, .. } = audience;
                audience = Audience { told, used, ..Audience::default() };
                self.delete_public(pen, &key)
            }
            Change::PutFor(resource, orgs) => {
                audience.set_variant(&orgs.into_iter().collect(), resource);
                None
            }
            Change::DeleteFor(_, orgs) => {
                audience.remove_variants(&orgs.into_iter().collect());
                None
            }
        };
        for org in audience.settle(pen, &key) {
            news.entry(org).or_default().insert(key.clone());
        }
        let did_change = public.is_some() || audience != before;
        self.show_own(pen, &key, &audience);
        if audience != Audience::default() {
            self.own.audiences.insert(key, audience);
        }
        (did_change, public)
    }

    /// Keeps what the own organisation sees of a key where queries of this node find it.
    fn show_own(&mut self, pen: &Pen<'_>, key: &str, audience: &Audience) {
        match audience.told.get(&pen.home).filter(|told| told.of.is_some()) {
            Some(told) => {
                let own = self.authors.entry(self.me).or_default();
                own.insert(Class::Restricted, key.to_owned(), Arc::clone(&told.held));
            }
            None => {
                if let Some(own) = self.authors.get_mut(&self.me) {
                    own.remove(Class::Restricted, key);
                }
            }
        }
    }

    fn is_live(&self, class: Class, key: &str, resource: Option<&Resource>) -> bool {
        let held = self.authors.get(&self.me).and_then(|own| own.held(class, key));
        let found = held.and_then(|held| held.resource.as_ref());
        found.is_some() && resource.is_none_or(|resource| found == Some(resource))
    }

    fn next_version(&mut self) -> Version {
        self.own.version.seq += 1;
        self.own.version
    }

    /// Signs and keeps a public record that holds something.
    fn put(&mut self, pen: &Pen<'_>, resource: Resource) -> Vec<u8> {
        let (key, version) = (resource.key.clone(), self.next_version());
        let body = resource.encode().expect("the changes were checked");
        let bytes = pen.sign(&key, version, Some(body), Class::Public);
        self.hold(Class::Public, key, &bytes, version, Some(resource));
        bytes
    }

    /// Signs a delete of a live public record.
    fn delete_public(&mut self, pen: &Pen<'_>, key: &str) -> Option<Vec<u8>> {
        if !self.is_live(Class::Public, key, None) {
            return None;
        }
        let version = self.next_version();
        let bytes = pen.sign(key, version, None, Class::Public);
        self.hold(Class::Public, key.to_owned(), &bytes, version, None);
        Some(bytes)
    }

    fn hold(
        &mut self,
        class: Class,
        key: String,
        bytes: &[u8],
        version: Version,
        resource: Option<Resource>,
    ) {
        let hash = record_hash(bytes);
        let held = Held { bytes: bytes.to_vec(), hash, version, not_after_ms: NO_END_MS, resource };
        let held = Arc::new(held);
        self.authors.entry(self.me).or_default().insert(class, key, held);
    }

    fn slot(&self, key: &str) -> Slot {
        let own = self.authors.get(&self.me);
        Slot {
            key: key.to_owned(),
            public: own.and_then(|own| own.held(Class::Public, key)).map(|held| held.bytes.clone()),
            audience: self.own.audiences.get(key).cloned().unwrap_or_default(),
        }
    }

    /// The messages that bring changed restricted records to those concerned.
    fn direct(
        &self,
        news: &BTreeMap<OrgId, BTreeSet<String>>,
        head: &[u8],
    ) -> Vec<(OrgId, SyncMessage)> {
        let papers = self.own_papers();
        let of = |org: &OrgId, keys: &BTreeSet<String>| -> Vec<&Vec<u8>> {
            let audiences = keys.iter().filter_map(|key| self.own.audiences.get(key));
            audiences.filter_map(|audience| Some(&audience.told.get(org)?.held.bytes)).collect()
        };
        let messages = |(org, keys): (&OrgId, &BTreeSet<String>)| {
            let all = restricted_messages(head, &papers, &of(org, keys));
            all.into_iter().map(|message| (*org, message)).collect::<Vec<_>>()
        };
        news.iter().flat_map(messages).collect()
    }

    /// Signs a head over the log as it stands, keeps and returns it.
    fn sign_head(
        &mut self,
        key: &SigningKey,
        identity: &Identity,
        now_ms: u64,
    ) -> Result<Vec<u8>, AuthorError> {
        let Identity { cert, membership } = identity;
        let (node_cert, until_ms) = check_author(self.me, self.realm, cert, membership, now_ms)?;
        let papers = self.papers(identity);
        let author = self.authors.entry(self.me).or_default();
        let (root, live_count) = author.root();
        let papers = Arc::new(HeldPapers {
            hash: papers_hash(&papers),
            bytes: papers,
            cert: node_cert,
            until_ms,
        });
        let head = Head {
            realm: self.realm,
            author: self.me,
            papers: papers.hash,
            version: self.own.version,
            live_count,
            root: root.to_bytes(),
            lease_until_ms: now_ms.saturating_add(LEASE_MS),
            gc_floor: self.own.gc_floor,
        };
        let bytes = head.sign(key);
        let hash = record_hash(&bytes);
        author.head = Some(Arc::new(HeldHead { bytes: bytes.clone(), hash, head, papers }));
        let spread_ms = u64::from(self.me.as_bytes()[0]) * RENEW_SPREAD_MS / 256;
        self.own.renew_at_ms = now_ms.saturating_add(RENEW_MS - spread_ms);
        self.settle(self.me);
        Ok(bytes)
    }
}
