//! The roll of an area: who is in, who may come in, and which rule book is in force.

use std::collections::BTreeSet;

use crate::cbor::MapWriter;
use crate::id::{Digest, OrgId};
use crate::record::{
    AREA_MEMBERS_MAX, AREA_WISHES_MAX, AreaStatement, BookRef, Passed, RollChange, is_mask,
};

/// What the members have agreed on, as one of the states that follow each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Roll {
    /// How many there were before.
    pub(super) number: u64,
    /// Who is in.
    pub(super) members: BTreeSet<OrgId>,
    /// Who may come in by its own word.
    pub(super) granted: BTreeSet<OrgId>,
    /// The rule book in force.
    pub(super) book: Option<BookRef>,
}

impl Roll {
    /// Its number and hash.
    pub(super) fn passed(&self) -> Passed {
        let list = |set: &BTreeSet<OrgId>| set.iter().copied().collect::<Vec<OrgId>>();
        let map = MapWriter::new()
            .put(1, &self.number)
            .put(2, &list(&self.members))
            .put(3, &list(&self.granted))
            .put_opt(4, self.book.as_ref());
        Passed { number: self.number, digest: Digest::of(&map.encode()) }
    }

    /// The roll that a statement holds; `None` of last words to one that was put out.
    pub(super) fn of(statement: &AreaStatement) -> Option<Self> {
        let AreaStatement { number, members, admits, granted, book, .. } = statement;
        let granted = admits.iter().zip(0..).filter(|(_, bit)| granted >> bit & 1 == 1);
        Some(Self {
            number: *number,
            members: members.iter().copied().collect(),
            granted: granted.map(|(org, _)| *org).collect(),
            book: book.clone(),
        })
        .filter(|roll| !roll.members.is_empty())
    }

    /// The roll that follows by a change; `None` when the change does not fit, or goes beyond a bound.
    pub(super) fn next(&self, change: &RollChange) -> Option<Self> {
        let RollChange { lets, ins, drops, outs, book } = change;
        let fits = is_mask(*ins | *drops, self.granted.len()) && is_mask(*outs, self.members.len());
        let is_known = |org: &OrgId| self.members.contains(org) || self.granted.contains(org);
        if !fits || change.is_empty() || lets.iter().any(is_known) {
            return None;
        }
        let (mut members, mut granted) = (self.members.clone(), self.granted.clone());
        for org in chosen(&self.members, *outs) {
            members.remove(&org);
        }
        for org in chosen(&self.granted, *ins | *drops) {
            granted.remove(&org);
        }
        members.extend(chosen(&self.granted, *ins & !*drops));
        granted.extend(lets);
        let number = self.book.as_ref().map_or(0, |book| book.number).saturating_add(1);
        let book = book.map_or_else(|| self.book.clone(), |d| Some(BookRef { number, digest: d }));
        let is_bounded = !members.is_empty()
            && members.len() <= AREA_MEMBERS_MAX
            && granted.len() <= AREA_WISHES_MAX;
        let number = self.number.checked_add(1)?;
        is_bounded.then_some(Self { number, members, granted, book })
    }

    /// Whether it is one of the members' orders that this one goes.
    pub(super) fn puts_out(&self, change: &RollChange, org: OrgId) -> bool {
        chosen(&self.members, change.outs).contains(&org)
    }
}

/// Those of a set whose bits are set.
fn chosen(set: &BTreeSet<OrgId>, mask: u64) -> BTreeSet<OrgId> {
    let bits = set.iter().zip(0u32..64).filter(|(_, bit)| mask >> bit & 1 == 1);
    bits.map(|(org, _)| *org).collect()
}

/// The bits of those of a set that hold.
pub(super) fn mask<'a>(
    set: impl IntoIterator<Item = &'a OrgId>,
    holds: impl Fn(&OrgId) -> bool,
) -> u64 {
    let bits = set.into_iter().zip(0u32..64).filter(|(org, _)| holds(org));
    bits.fold(0, |mask, (_, bit)| mask | 1 << bit)
}
