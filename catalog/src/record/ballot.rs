//! How an organisation votes on the next roll of an area, and which rolls it has held. What it is for is in [`crate::area`].

use super::area::AreaRecordError;
use crate::cbor::{Field, Item, ListItem, MapReader, MapWriter};
use crate::id::{Digest, OrgId};
use crate::wire::wire_map;

/// Most organisations that one change of the roll lets in. Further ones wait for the next.
pub const LETS_MAX: usize = 3;
/// Rolls that an organisation remembers having held. Who was away for longer finds its way back by the newest roll alone.
pub const TRAIL_MAX: usize = 16;

/// A rule book by its number and hash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BookRef {
    /// Which one it is of those that follow each other.
    pub number: u64,
    /// The hash of its content.
    pub digest: Digest,
}

wire_map!(BookRef, "a rule book by its hash", {
    1 must number,
    2 must digest,
});

/// A roll that an organisation has held.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct Passed {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub digest: Digest,
}

// By hand, as it is copied.
impl Field for Passed {
    const EXPECTED: &'static str = "a roll that was held";
    fn write(&self, out: &mut Vec<u8>) {
        MapWriter::new().put(1, &self.number).put(2, &self.digest).finish().write(out);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        let mut map = MapReader::new(&item).ok()?;
        let found = Self { number: map.take(1).ok()?, digest: map.take(2).ok()? };
        map.finish().ok()?;
        Some(found)
    }
}
impl ListItem for Passed {}

/// What makes the next roll out of one. Bits stand for the members, or those let in, of that one: the first is the lowest.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct RollChange {
    /// Who may come in from now on, by its own word, ascending.
    pub lets: Vec<OrgId>,
    /// Who of those let in becomes a member.
    pub ins: u64,
    /// Who of those let in no longer is.
    pub drops: u64,
    /// Which members go.
    pub outs: u64,
    /// The rule book that comes into force.
    pub book: Option<Digest>,
}

wire_map!(RollChange, "a change of a roll", {
    1 must lets,
    2 must ins,
    3 must drops,
    4 must outs,
    5 may book,
});

impl RollChange {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A change that an organisation has seen more than half choose in a round.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// In which.
    pub round: u64,
    /// It.
    pub change: RollChange,
}

wire_map!(Accepted, "an accepted change", {
    1 must round,
    2 must change,
});

/// How an organisation votes on the roll that follows the one it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ballot {
    /// The round that it is in, from 0: it accepts nothing in earlier ones.
    pub round: u64,
    /// What it chooses in this round.
    pub choice: Option<RollChange>,
    /// What it accepted last.
    pub accepted: Option<Accepted>,
}

wire_map!(Ballot, "a ballot", {
    1 must round,
    2 may choice,
    3 may accepted,
});

impl Ballot {
    pub(super) fn check(&self) -> Result<(), AreaRecordError> {
        let round = self.round;
        let error = |what| Err(AreaRecordError::Ballot { round, what });
        if self.accepted.as_ref().is_some_and(|accepted| accepted.round > round) {
            return error("has accepted a later one");
        }
        let accepted = self.accepted.iter().map(|accepted| &accepted.change);
        for change in self.choice.iter().chain(accepted) {
            let lets = &change.lets;
            if lets.len() > LETS_MAX || lets.windows(2).any(|pair| pair[0] >= pair[1]) {
                return error("lets in too many, or not in order");
            }
        }
        Ok(())
    }
}

/// Whether bits name nothing but what is there.
#[must_use]
pub const fn is_mask(mask: u64, len: usize) -> bool {
    len >= 64 || mask >> len == 0
}
