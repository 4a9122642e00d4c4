//! The own log on disk: one stored record for each key, and the way back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Own;
use super::audience::{Audience, Told, Variant};
use crate::author::{Author, Class, Held};
use crate::cbor::{self, CborError, MapReader, MapWriter};
use crate::id::{NodeId, OrgId, RealmId};
use crate::log::{LogError, RECORD_LEN_MAX, Record, Version, record_hash};
use crate::record::{AUDIENCE_MAX, Resource};
use crate::replica::Catalog;

/// Largest stored record: a public one, one for each organisation that sees something, their descriptions, and withdrawals.
const SLOT_LEN_MAX: usize = (2 * AUDIENCE_MAX + 4) * 2 * RECORD_LEN_MAX + 1024 * 512;

/// Why stored records cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// A stored slot cannot be read.
    #[error("stored record {index} cannot be read")]
    Slot {
        /// Its position.
        index: usize,
        /// Why.
        source: CborError,
    },
    /// A stored record is refused.
    #[error("stored record {index} is refused")]
    Record {
        /// Its position.
        index: usize,
        /// Why.
        source: LogError,
    },
    /// A stored record is of another node or realm.
    #[error("stored record {index} was written by {author} in {realm}")]
    Foreign {
        /// Its position.
        index: usize,
        /// Its author.
        author: NodeId,
        /// Its realm.
        realm: RealmId,
    },
    /// The epoch is not above those used before: versions would be signed twice.
    #[error("epoch {epoch} was used before: start with at least {least}")]
    Epoch {
        /// The epoch given.
        epoch: u32,
        /// The least that will do.
        least: u32,
    },
}

/// The key of a stored record, under which the store keeps it; `None` when the bytes are no stored record.
#[must_use]
pub fn stored_key(stored: &[u8]) -> Option<String> {
    let value = cbor::decode(stored, SLOT_LEN_MAX).ok()?;
    MapReader::new(&value).ok()?.take(1).ok()
}

/// Everything kept for one key.
pub(super) struct Slot {
    pub(super) key: String,
    pub(super) public: Option<Vec<u8>>,
    pub(super) audience: Audience,
}

/// What is read of a slot, the signed records in it unread.
struct Raw {
    key: String,
    public: Option<Vec<u8>>,
    current: Vec<OrgId>,
    general: Option<Vec<u8>>,
    told: Vec<(OrgId, Vec<u8>)>,
    variants: Vec<(BTreeSet<OrgId>, Vec<u8>)>,
}

impl Slot {
    pub(super) fn encode(&self) -> Vec<u8> {
        let body = |resource: &Resource| resource.encode().expect("it was checked when it came");
        let Audience { general, current, variants, told, .. } = &self.audience;
        MapWriter::new()
            .put(1, &self.key)
            .put_opt(2, self.public.as_ref())
            .put(4, &current.iter().copied().collect::<Vec<OrgId>>())
            .put_opt(7, general.as_ref().map(body).as_ref())
            .put(8, &told.keys().copied().collect::<Vec<OrgId>>())
            .put(9, &told.values().map(|told| told.held.bytes.clone()).collect::<Vec<Vec<u8>>>())
            .put(10, &lists(variants.iter().map(|variant| variant.orgs.iter().copied())))
            .put(11, &variants.iter().map(|variant| body(&variant.resource)).collect::<Vec<_>>())
            .encode()
    }
}

/// Lists of organisations, each as the bytes of their ids one after the other.
fn lists(all: impl Iterator<Item = impl Iterator<Item = OrgId>>) -> Vec<Vec<u8>> {
    all.map(|orgs| orgs.flat_map(|org| *org.as_bytes()).collect()).collect()
}

impl Raw {
    fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        let value = cbor::decode(bytes, SLOT_LEN_MAX)?;
        let mut map = MapReader::new(&value)?;
        let (key, public) = (map.take(1)?, map.take_opt(2)?);
        // Of versions that told everybody the same: one restricted record, who was to see it no more, and one delete.
        let shared: Option<Vec<u8>> = map.take_opt(3)?;
        let current: Vec<OrgId> = map.take(4)?;
        let (former, farewell): (Option<Vec<OrgId>>, Option<Vec<u8>>) =
            (map.take_opt(5)?, map.take_opt(6)?);
        let general = map.take_opt(7)?;
        let (orgs, told): (Option<Vec<OrgId>>, Option<Vec<Vec<u8>>>) =
            (map.take_opt(8)?, map.take_opt(9)?);
        let of: Option<Vec<Vec<u8>>> = map.take_opt(10)?;
        let bodies: Option<Vec<Vec<u8>>> = map.take_opt(11)?;
        map.finish()?;
        let mut all: Vec<(OrgId, Vec<u8>)> =
            orgs.unwrap_or_default().into_iter().zip(told.unwrap_or_default()).collect();
        all.extend(current.iter().filter_map(|org| Some((*org, shared.clone()?))));
        all.extend(former.iter().flatten().filter_map(|org| Some((*org, farewell.clone()?))));
        let mut variants = Vec::new();
        for (list, body) in of.unwrap_or_default().into_iter().zip(bodies.unwrap_or_default()) {
            let (ids, []) = list.as_chunks::<32>() else {
                return Err(CborError::Field { key: 10, expected: "ids of organisations" });
            };
            variants.push((ids.iter().map(|id| OrgId::from_bytes(*id)).collect(), body));
        }
        let general = general.or_else(|| shared.as_ref().and_then(|bytes| body_of(bytes)));
        Ok(Self { key, public, current, general, told: all, variants })
    }
}

/// The body of a signed record.
fn body_of(bytes: &[u8]) -> Option<Vec<u8>> {
    Record::verify(bytes).ok()?.body
}

impl Catalog {
    /// Takes back the own log as it was stored, and starts a new epoch.
    ///
    /// `epoch` must be above every one used before, also by starts that published nothing: the caller counts them durably.
    ///
    /// # Errors
    /// See [`RestoreError`]; the own log is unchanged then.
    pub fn restore_own(
        &mut self,
        epoch: u32,
        records: Vec<Vec<u8>>,
    ) -> Result<usize, RestoreError> {
        let mut author = Author::default();
        let mut audiences = BTreeMap::new();
        let mut newest = Version::ZERO;
        for (index, stored) in records.iter().enumerate() {
            let raw = Raw::decode(stored).map_err(|source| RestoreError::Slot { index, source })?;
            if let Some(bytes) = &raw.public {
                let held = self.read_own(index, bytes)?;
                newest = newest.max(held.version);
                author.insert(Class::Public, raw.key.clone(), Arc::new(held));
            }
            let (key, audience) = self.read_audience(index, raw)?;
            // What the own organisation sees is what all of the audience do.
            let general = audience.general.as_ref().and_then(|resource| resource.encode().ok());
            let general = general.map(|body| *blake3::hash(&body).as_bytes());
            let shown = audience.told.values().find(|told| told.of.is_some() && told.of == general);
            if let Some(told) = shown {
                author.insert(Class::Restricted, key.clone(), Arc::clone(&told.held));
            }
            let told = audience.told.values().map(|told| told.held.version);
            newest = told.fold(newest, Version::max);
            if audience != Audience::default() {
                audiences.insert(key, audience);
            }
        }
        if newest.epoch >= epoch && newest != Version::ZERO {
            return Err(RestoreError::Epoch { epoch, least: newest.epoch.saturating_add(1) });
        }
        let gc_floor = author.forget_deletes().map_or(Version::ZERO, |(_, newest)| newest);
        self.own =
            Own { version: Version { epoch, seq: 0 }, gc_floor, audiences, ..Own::default() };
        self.authors.insert(self.me, author);
        self.trie.remove(self.me);
        Ok(records.len())
    }

    fn read_audience(&self, index: usize, raw: Raw) -> Result<(String, Audience), RestoreError> {
        let read = |body: &[u8]| {
            Resource::decode(&raw.key, body).map_err(|source| {
                let source = LogError::Resource { version: Version::ZERO, source };
                RestoreError::Record { index, source }
            })
        };
        let mut audience = Audience {
            general: raw.general.as_deref().map(read).transpose()?,
            current: raw.current.into_iter().collect(),
            ..Audience::default()
        };
        for (orgs, body) in raw.variants {
            audience.variants.push(Variant { orgs, resource: read(&body)? });
        }
        for (org, bytes) in raw.told {
            let held = self.read_own(index, &bytes)?;
            let body = held.resource.as_ref().and_then(|_| body_of(&bytes));
            let of = body.map(|body| *blake3::hash(&body).as_bytes());
            audience.told.insert(org, Told { held: Arc::new(held), of });
        }
        Ok((raw.key, audience))
    }

    fn read_own(&self, index: usize, bytes: &[u8]) -> Result<Held, RestoreError> {
        let record =
            Record::verify(bytes).map_err(|source| RestoreError::Record { index, source })?;
        let Record { author, realm, version, .. } = record;
        if author != self.me || realm != self.realm {
            return Err(RestoreError::Foreign { index, author, realm });
        }
        let resource = match &record.body {
            Some(body) => Some(Resource::decode(&record.key, body).map_err(|source| {
                RestoreError::Record { index, source: LogError::Resource { version, source } }
            })?),
            None => None,
        };
        let hash = record_hash(bytes);
        let not_after_ms = record.not_after_ms;
        Ok(Held { bytes: bytes.to_vec(), hash, version, not_after_ms, resource })
    }
}
