//! Data that the owner keeps here: what this node describes, and what is pinned though nobody describes it.
//!
//! A pin is the owner's word that content stays on this node's disk, whoever it comes from. It says nothing to others: nobody
//! may fetch what is only pinned.

use std::collections::BTreeMap;

use catalog::record::{Detail, Visibility};
use catalog::{Digest, OrgId};

use super::command::{CommandError, Response};
use super::pins::Pins;
use super::{Engine, stored};
use crate::schema;
use crate::store::batch::{Batch, Table};

/// Most pins; further ones are refused. Each takes some 150 bytes of memory and of disk.
pub const PINS_MAX: usize = 10_000;
/// Longest name of a pin in bytes; what is longer is cut.
const NAME_LEN_MAX: usize = 120;

/// A question or an order about data.
#[derive(Clone, Debug)]
pub enum Command {
    /// Everything that is kept here by name; the answer is [`Answer::List`].
    List,
    /// Keep content; the answer is [`Answer::Done`].
    Pin {
        /// Which; a directory by its manifest.
        digest: Digest,
        /// What is known of it.
        pin: Pin,
    },
    /// Keep it no longer for that; the answer is [`Answer::Done`], or an error when it was not pinned.
    Unpin {
        /// Which.
        digest: Digest,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To `List`.
    List(Vec<DataView>),
    /// It is so, and durable.
    Done,
}

/// What is pinned.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pin {
    /// For people; nothing when nobody describes it.
    pub name: String,
    /// Bytes of the file, or of all files of the directory.
    pub size: u64,
    /// Whether it is a directory.
    pub directory: bool,
}

/// Data that is kept here, and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = DataFacts)]
pub struct DataView {
    /// Its name; of a directory, its manifest's.
    #[schema(value_type = schema::Digest)]
    pub digest: Digest,
    /// For people.
    pub name: String,
    /// Bytes of the file, or of all files of the directory.
    pub size: u64,
    /// Whether it is a directory.
    pub directory: bool,
    /// Whether the owner pinned it.
    pub pinned: bool,
    /// Whether every member of the realm may fetch it from here.
    pub public: bool,
    /// Those that may fetch it besides this organisation's own nodes, when it is published for some alone.
    #[schema(value_type = Option<Vec<schema::OrgId>>, required)]
    pub only_for: Option<Vec<OrgId>>,
}

/// Why an order about data is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// There are too many.
    #[error("{PINS_MAX} contents are pinned, no more are taken: `opencloud data unpin` some")]
    TooMany,
    /// It is not.
    #[error("{digest} is not pinned; `opencloud data list` shows what is")]
    NotPinned {
        /// As asked.
        digest: Digest,
    },
}

/// A row that this program did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of the pins cannot be read")]
pub struct BadRow;

/// What is pinned here.
#[derive(Clone, Debug, Default)]
pub struct Kept(BTreeMap<Digest, Pin>);

impl Kept {
    /// The pins as the rows say.
    ///
    /// # Errors
    /// `BadRow` for a row that this program did not write.
    pub fn recover(rows: &[(Vec<u8>, Vec<u8>)]) -> Result<Self, BadRow> {
        let pin = |(key, value): &(Vec<u8>, Vec<u8>)| {
            let digest: [u8; 32] = key.as_slice().try_into().map_err(|_| BadRow)?;
            let pin = ciborium::from_reader(&value[..]).map_err(|_| BadRow)?;
            Ok((Digest::from_bytes(digest), pin))
        };
        rows.iter().map(pin).collect::<Result<_, _>>().map(Self)
    }

    fn pin(&mut self, digest: Digest, mut pin: Pin, batch: &mut Batch) -> Result<(), DataError> {
        if self.0.len() >= PINS_MAX && !self.0.contains_key(&digest) {
            return Err(DataError::TooMany);
        }
        pin.name.truncate(pin.name.floor_char_boundary(NAME_LEN_MAX));
        batch.put(Table::Pins, digest.as_bytes().to_vec(), stored(&pin));
        self.0.insert(digest, pin);
        Ok(())
    }

    fn unpin(&mut self, digest: Digest, batch: &mut Batch) -> Result<(), DataError> {
        if self.0.remove(&digest).is_none() {
            return Err(DataError::NotPinned { digest });
        }
        batch.delete(Table::Pins, digest.as_bytes().to_vec());
        Ok(())
    }

    /// What is pinned must stay.
    pub(super) fn add_to(&self, pins: &mut Pins) {
        for (digest, pin) in &self.0 {
            pins.add(*digest, pin.directory);
        }
    }
}

impl Engine {
    pub(super) fn handle_data_command(
        &mut self,
        command: Command,
    ) -> Result<Response, CommandError> {
        let answer = match command {
            Command::List => Answer::List(self.data_list()),
            Command::Pin { digest, pin } => {
                self.kept.pin(digest, pin, &mut self.out.batch)?;
                Answer::Done
            }
            Command::Unpin { digest } => {
                self.kept.unpin(digest, &mut self.out.batch)?;
                Answer::Done
            }
        };
        Ok(Response::Data(answer))
    }

    /// By digest: one content may be described and pinned, too.
    pub(super) fn data_list(&self) -> Vec<DataView> {
        let mut all: BTreeMap<Digest, DataView> = BTreeMap::new();
        for own in self.own_resources.values() {
            let Detail::Data(data) = &own.resource.detail else { continue };
            let view = DataView {
                digest: data.digest,
                name: own.resource.name.clone(),
                size: data.size,
                directory: data.directory,
                pinned: false,
                public: own.visibility == Visibility::Public,
                only_for: match &own.visibility {
                    Visibility::Public => None,
                    Visibility::Restricted(orgs) => Some(orgs.to_vec()),
                },
            };
            all.insert(data.digest, view);
        }
        for (digest, pin) in &self.kept.0 {
            let view = all.entry(*digest).or_insert_with(|| DataView {
                digest: *digest,
                name: pin.name.clone(),
                size: pin.size,
                directory: pin.directory,
                pinned: true,
                public: false,
                only_for: None,
            });
            view.pinned = true;
        }
        all.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_come_back_from_their_rows_and_are_bounded() {
        let (mut kept, mut batch) = (Kept::default(), Batch::default());
        let digest = |n: usize| Digest::of(&n.to_be_bytes());
        let pin = Pin { name: "é".repeat(100), size: 7, directory: true };
        for n in 0..PINS_MAX {
            kept.pin(digest(n), pin.clone(), &mut batch).unwrap();
        }
        let more = kept.pin(digest(PINS_MAX), pin.clone(), &mut batch);
        assert_eq!(more, Err(DataError::TooMany));
        // One that is there may be said anew.
        kept.pin(digest(1), Pin { name: "new".to_owned(), ..pin }, &mut batch).unwrap();
        kept.unpin(digest(2), &mut batch).unwrap();
        let digest_2 = digest(2);
        let again = kept.unpin(digest_2, &mut batch);
        assert_eq!(again, Err(DataError::NotPinned { digest: digest_2 }));
        let mut rows = BTreeMap::new();
        for op in batch.ops {
            match op.value {
                Some(value) => rows.insert(op.key, value),
                None => rows.remove(&op.key),
            };
        }
        let rows: Vec<_> = rows.into_iter().collect();
        let back = Kept::recover(&rows).unwrap();
        assert_eq!(back.0, kept.0);
        assert_eq!((back.0.len(), &*back.0[&digest(1)].name), (PINS_MAX - 1, "new"));
        assert_eq!(back.0[&digest(3)].name.len(), NAME_LEN_MAX);
        let mut pins = Pins::default();
        back.add_to(&mut pins);
        assert_eq!((pins.files.len(), pins.dirs.len()), (0, PINS_MAX - 1));
        assert!(Kept::recover(&[(vec![1], vec![])]).is_err());
    }
}
