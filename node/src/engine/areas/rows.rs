//! How areas stand in the store: one row for each area, under its id, and one for what each organisation said last, under both.

use std::collections::BTreeMap;

use catalog::area::{Area, Said};
use catalog::{Digest, OrgId};

use super::Areas;
use crate::engine::stored;
use crate::store::batch::{Batch, Table};

/// A row that this program did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of the areas cannot be read")]
pub struct BadRow;

impl Areas {
    /// The areas as the rows say.
    ///
    /// # Errors
    /// `BadRow` for a row that this program did not write.
    pub fn recover(rows: &[(Vec<u8>, Vec<u8>)]) -> Result<Self, BadRow> {
        let mut areas = Self::default();
        for (key, value) in rows.iter().filter(|(key, _)| key.len() == 32) {
            let area: Area = ciborium::from_reader(&value[..]).map_err(|_| BadRow)?;
            if area.id().as_bytes() != key.as_slice() {
                return Err(BadRow);
            }
            areas.changes.insert(area.id(), 0);
            areas.all.insert(area.id(), area);
        }
        for (key, value) in rows.iter().filter(|(key, _)| key.len() != 32) {
            let (id, org) = key.split_at_checked(32).ok_or(BadRow)?;
            let id = Digest::from_bytes(id.try_into().map_err(|_| BadRow)?);
            let org = OrgId::from_bytes(org.try_into().map_err(|_| BadRow)?);
            let said: Said = ciborium::from_reader(&value[..]).map_err(|_| BadRow)?;
            areas.all.get_mut(&id).ok_or(BadRow)?.recall(org, said);
        }
        Ok(areas)
    }
}

/// Stores an area in place of what stood there before.
pub(super) fn keep(before: Option<&Area>, area: &Area, batch: &mut Batch) {
    let none = BTreeMap::new();
    let said = before.map_or(&none, Area::said);
    batch.put(Table::Areas, area.id().as_bytes().to_vec(), stored(area));
    for org in said.keys().filter(|org| !area.said().contains_key(*org)) {
        batch.delete(Table::Areas, said_key(area.id(), *org));
    }
    for (org, new) in area.said() {
        if said.get(org) != Some(new) {
            batch.put(Table::Areas, said_key(area.id(), *org), stored(new));
        }
    }
}

/// Removes an area.
pub(super) fn remove(area: &Area, batch: &mut Batch) {
    for org in area.said().keys() {
        batch.delete(Table::Areas, said_key(area.id(), *org));
    }
    batch.delete(Table::Areas, area.id().as_bytes().to_vec());
}

fn said_key(id: Digest, org: OrgId) -> Vec<u8> {
    [id.as_bytes().as_slice(), org.as_bytes()].concat()
}
