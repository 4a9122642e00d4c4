//! The own log on disk: one stored record for each key, and the way back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Audience, Own};
use crate::author::{Author, Class, Held};
use crate::cbor::{self, CborError, MapReader, MapWriter};
use crate::id::{NodeId, OrgId, RealmId};
use crate::log::{LogError, RECORD_LEN_MAX, Record, Version, record_hash};
use crate::record::Resource;
use crate::replica::Catalog;

/// Largest stored record: three signed ones and two lists of organisations.
const SLOT_LEN_MAX: usize = 3 * RECORD_LEN_MAX + 64 * 1024;

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
    pub(super) restricted: Option<Vec<u8>>,
    pub(super) audience: Audience,
}

impl Slot {
    pub(super) fn encode(&self) -> Vec<u8> {
        let list = |orgs: &BTreeSet<OrgId>| orgs.iter().copied().collect::<Vec<_>>();
        MapWriter::new()
            .put(1, &self.key)
            .put_opt(2, self.public.as_ref())
            .put_opt(3, self.restricted.as_ref())
            .put(4, &list(&self.audience.current))
            .put(5, &list(&self.audience.former))
            .put_opt(6, self.audience.farewell.as_ref())
            .encode()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        let value = cbor::decode(bytes, SLOT_LEN_MAX)?;
        let mut map = MapReader::new(&value)?;
        let (key, public, restricted) = (map.take(1)?, map.take_opt(2)?, map.take_opt(3)?);
        let (current, former): (Vec<OrgId>, Vec<OrgId>) = (map.take(4)?, map.take(5)?);
        let farewell = map.take_opt(6)?;
        map.finish()?;
        let (current, former) = (current.into_iter().collect(), former.into_iter().collect());
        Ok(Self {
            key,
            public,
            restricted,
            audience: Audience { current, former, farewell, seq: 0 },
        })
    }
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
            let slot =
                Slot::decode(stored).map_err(|source| RestoreError::Slot { index, source })?;
            for (class, bytes) in
                [(Class::Public, &slot.public), (Class::Restricted, &slot.restricted)]
            {
                let Some(bytes) = bytes else { continue };
                let held = self.read_own(index, bytes)?;
                newest = newest.max(held.version);
                author.insert(class, slot.key.clone(), Arc::new(held));
            }
            if let Some(bytes) = &slot.audience.farewell {
                newest = newest.max(self.read_own(index, bytes)?.version);
            }
            if slot.audience != Audience::default() {
                audiences.insert(slot.key, slot.audience);
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
