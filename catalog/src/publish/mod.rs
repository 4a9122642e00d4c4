//! The own log: publishing, withdrawing, renewing.
//!
//! Every change takes the next version. What was signed is persisted before it is sent, and after every start the epoch is
//! higher than before, so no version is ever signed twice with different content.

mod stored;

pub use stored::{RestoreError, stored_key};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
/// Most organisations that a key's withdrawal is kept for. Beyond that the withdrawal reaches the others by the lease.
const FORMER_MAX: usize = 1024;
/// Bytes that key, numbers and envelope add to a body, when the log's size is estimated before signing.
const RECORD_OVERHEAD: usize = RECORD_LEN_MAX - crate::record::BODY_LEN_MAX;

/// A change to the own log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a handful exist at once, and most are puts")]
pub enum Change {
    /// Describes a resource, in place of what its key held.
    Put(Resource, Visibility),
    /// Withdraws the resource with this key.
    Delete(String),
}

impl Change {
    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(resource, _) => &resource.key,
            Self::Delete(key) => key,
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

/// Who sees a restricted resource, and who no longer does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Audience {
    current: BTreeSet<OrgId>,
    former: BTreeSet<OrgId>,
    /// The signed delete for those in `former`.
    farewell: Option<Vec<u8>>,
    /// The last number that a restricted record of the key had in this epoch. Each key counts by itself, so that who sees one
    /// learns nothing of the others.
    seq: u64,
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
}

impl Pen<'_> {
    fn sign(&self, key: &str, version: Version, body: Option<Vec<u8>>, class: Class) -> Vec<u8> {
        let (realm, author) = (self.realm, self.author);
        let is_restricted = class == Class::Restricted;
        let not_after_ms = NO_END_MS;
        let key = key.to_owned();
        Record { realm, author, version, key, not_after_ms, body, is_restricted }.sign(self.key)
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
        check_author(self.me, self.realm, cert, membership, now_ms)?;
        self.check_changes(&changes)?;
        let pen = Pen { key, realm: self.realm, author };
        let mut touched: BTreeSet<String> = BTreeSet::new();
        let mut public: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for change in changes {
            let key = change.key().to_owned();
            let (did_change, record) = self.write(&pen, change);
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
            direct: self.direct(&touched, &head),
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
        self.own.audiences.keys().filter_map(|key| self.entitled_to(key, org)).collect()
    }

    /// The sum of the current restricted records that an organisation is to hold.
    pub(crate) fn entitled_sum(&self, org: OrgId) -> RootSum {
        let is_home = self.is_home(org);
        let Some(own) = self.authors.get(&self.me) else {
            return RootSum::default();
        };
        self.own
            .audiences
            .iter()
            .filter(|(_, audience)| is_home || audience.current.contains(&org))
            .filter_map(|(key, _)| own.held(Class::Restricted, key))
            .fold(RootSum::default(), |sum, held| sum.plus(&held.hash))
    }

    /// The restricted records of this node that an organisation may see, by key.
    pub(crate) fn shown_to(&self, org: OrgId) -> impl Iterator<Item = (&String, &Arc<Held>)> {
        let is_home = self.is_home(org);
        let may_see = move |audience: &Audience| is_home || audience.current.contains(&org);
        self.own.audiences.iter().filter(move |(_, audience)| may_see(audience)).filter_map(
            |(key, _)| {
                let held = self.authors.get(&self.me)?.held(Class::Restricted, key)?;
                held.resource.is_some().then_some((key, held))
            },
        )
    }

    /// What one key's audience gives an organisation. The own organisation's other nodes see everything.
    fn entitled_to(&self, key: &str, org: OrgId) -> Option<&Vec<u8>> {
        let audience = self.own.audiences.get(key)?;
        let current = self.authors.get(&self.me)?.held(Class::Restricted, key);
        match current {
            Some(held) if audience.current.contains(&org) || self.is_home(org) => Some(&held.bytes),
            _ if audience.former.contains(&org) || self.is_home(org) => audience.farewell.as_ref(),
            _ => None,
        }
    }

    /// The own papers; nothing before the first head.
    pub(crate) fn own_papers(&self) -> Vec<u8> {
        let held = self.authors.get(&self.me).and_then(|own| own.head.as_ref());
        held.map_or_else(Vec::new, |held| held.papers.bytes.clone())
    }

    fn is_home(&self, org: OrgId) -> bool {
        self.node_cert(self.me).is_some_and(|cert| cert.org == org)
    }

    /// Checks all changes against their bounds, as if they had happened in order.
    fn check_changes(&self, changes: &[Change]) -> Result<(), PublishError> {
        let own = self.authors.get(&self.me);
        let mut live: BTreeSet<&str> =
            own.into_iter().flat_map(|own| own.keys()).map(String::as_str).collect();
        let mut bytes = own.map_or(0, |own| own.bytes());
        for change in changes {
            let of = |source| PublishError::Resource { key: change.key().to_owned(), source };
            match change {
                Change::Put(resource, visibility) => {
                    bytes += resource.encode().map_err(of)?.len() + RECORD_OVERHEAD;
                    let count = match visibility {
                        Visibility::Restricted(orgs) => orgs.len(),
                        Visibility::Public => 0,
                    };
                    if count > AUDIENCE_MAX {
                        return Err(of(ResourceError::Audience { count }));
                    }
                    live.insert(&resource.key);
                }
                Change::Delete(key) if live.remove(key.as_str()) => {}
                Change::Delete(key) => return Err(PublishError::Unknown { key: key.clone() }),
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

    /// Writes one checked change; tells whether it changed anything, and the public record it took.
    fn write(&mut self, pen: &Pen<'_>, change: Change) -> (bool, Option<Vec<u8>>) {
        match change {
            Change::Put(resource, Visibility::Public) => {
                if self.is_live(Class::Public, &resource.key, Some(&resource)) {
                    return (false, None);
                }
                self.withdraw(pen, &resource.key, &BTreeSet::new());
                (true, Some(self.put(pen, Class::Public, resource)))
            }
            Change::Put(resource, Visibility::Restricted(orgs)) => {
                let orgs: BTreeSet<OrgId> = orgs.into_iter().collect();
                let key = resource.key.clone();
                let audience = self.own.audiences.get(&key);
                let same_audience = audience.is_some_and(|audience| audience.current == orgs);
                if same_audience && self.is_live(Class::Restricted, &key, Some(&resource)) {
                    return (false, None);
                }
                let public = self.delete_public(pen, &key);
                self.withdraw(pen, &key, &orgs);
                self.put(pen, Class::Restricted, resource);
                let audience = self.own.audiences.entry(key).or_default();
                audience.former.retain(|org| !orgs.contains(org));
                audience.current = orgs;
                (true, public)
            }
            Change::Delete(key) => {
                self.withdraw(pen, &key, &BTreeSet::new());
                (true, self.delete_public(pen, &key))
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

    /// The next version of a restricted record.
    fn next_private(&mut self, key: &str) -> Version {
        let audience = self.own.audiences.entry(key.to_owned()).or_default();
        audience.seq += 1;
        Version { epoch: self.own.version.epoch, seq: audience.seq }
    }

    /// Signs and keeps a record that holds something.
    fn put(&mut self, pen: &Pen<'_>, class: Class, resource: Resource) -> Vec<u8> {
        let key = resource.key.clone();
        let version = match class {
            Class::Public => self.next_version(),
            Class::Restricted => self.next_private(&key),
        };
        let body = resource.encode().expect("the changes were checked");
        let bytes = pen.sign(&key, version, Some(body), class);
        self.hold(class, key, &bytes, version, Some(resource));
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

    /// Takes a restricted record from those who are not in `keep`; from everyone when that is empty.
    fn withdraw(&mut self, pen: &Pen<'_>, key: &str, keep: &BTreeSet<OrgId>) {
        let is_live = self.is_live(Class::Restricted, key, None);
        let Some(audience) = self.own.audiences.get(key) else {
            return;
        };
        let leaves = audience.current.iter().any(|org| !keep.contains(org));
        if !is_live || (!leaves && !keep.is_empty()) {
            return;
        }
        let version = self.next_private(key);
        let farewell = pen.sign(key, version, None, Class::Restricted);
        let audience = self.own.audiences.entry(key.to_owned()).or_default();
        let current = std::mem::take(&mut audience.current);
        audience.former.extend(current.into_iter().filter(|org| !keep.contains(org)));
        while audience.former.len() > FORMER_MAX {
            audience.former.pop_first();
        }
        audience.farewell = Some(farewell);
        if let Some(own) = self.authors.get_mut(&self.me) {
            own.remove(Class::Restricted, key);
        }
    }

    fn slot(&self, key: &str) -> Slot {
        let own = self.authors.get(&self.me);
        let bytes = |class| own.and_then(|own| own.held(class, key)).map(|held| held.bytes.clone());
        Slot {
            key: key.to_owned(),
            public: bytes(Class::Public),
            restricted: bytes(Class::Restricted),
            audience: self.own.audiences.get(key).cloned().unwrap_or_default(),
        }
    }

    /// The messages that bring changed restricted records to those concerned.
    fn direct(&self, touched: &BTreeSet<String>, head: &[u8]) -> Vec<(OrgId, SyncMessage)> {
        let papers = self.own_papers();
        let audiences: Vec<(&String, &Audience)> =
            touched.iter().filter_map(|key| self.own.audiences.get_key_value(key)).collect();
        let mut orgs: BTreeSet<OrgId> = audiences
            .iter()
            .flat_map(|(_, audience)| audience.current.iter().chain(&audience.former).copied())
            .collect();
        let home = self.node_cert(self.me).map(|cert| cert.org);
        orgs.extend(home.filter(|_| !audiences.is_empty()));
        let of = |org: OrgId| -> Vec<&Vec<u8>> {
            audiences.iter().filter_map(|(key, _)| self.entitled_to(key, org)).collect()
        };
        orgs.into_iter()
            .flat_map(|org| {
                restricted_messages(head, &papers, &of(org))
                    .into_iter()
                    .map(move |message| (org, message))
            })
            .collect()
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
