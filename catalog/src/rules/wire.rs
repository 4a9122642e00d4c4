//! A rule book as deterministic CBOR.

use super::{BOOK_LEN_MAX, PriceUnit, RULES_MAX, Rule, RuleBook, RuleKind, RulesError};
use crate::amount::Amount;
use crate::cbor::{self, CborError, Field, Item, ListItem, MapReader, MapWriter};

const RESIDENCY: u64 = 1;
const LICENCES: u64 = 2;
const PERSONAL: u64 = 3;
const ORGANISATIONS: u64 = 4;
const PRICE: u64 = 5;
const RUNTIMES: u64 = 6;

impl RuleBook {
    /// The bytes in a record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        MapWriter::new().put(1, &self.rules).encode()
    }

    /// Reads what [`Self::encode`] wrote, and nothing else.
    ///
    /// # Errors
    /// See [`RulesError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RulesError> {
        let value = cbor::decode(bytes, BOOK_LEN_MAX)?;
        let mut map = MapReader::new(&value)?;
        let list = map.item(1)?;
        let count = list.as_list().map(|items| items.n_left());
        if let Some(count) = count.filter(|count| *count > RULES_MAX) {
            return Err(RulesError::Count { count });
        }
        let rules = Vec::read(list).ok_or(CborError::Field { key: 1, expected: "rules" })?;
        map.finish()?;
        let book = Self::new(rules)?;
        if book.encode() == bytes { Ok(book) } else { Err(CborError::NotDeterministic.into()) }
    }
}

impl Field for RuleBook {
    const EXPECTED: &'static str = "a rule book";
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.encode());
    }
    fn read(item: Item<'_>) -> Option<Self> {
        Self::decode(item.encoded()).ok()
    }
}

impl ListItem for Rule {}

impl Field for Rule {
    const EXPECTED: &'static str = "a rule of a known kind";
    fn write(&self, out: &mut Vec<u8>) {
        let map = |code: u64| MapWriter::new().put(1, &self.name).put(2, &code);
        let map = match &self.kind {
            RuleKind::Residency(words) => map(RESIDENCY).put(3, words),
            RuleKind::Licences(words) => map(LICENCES).put(3, words),
            RuleKind::PersonalStays => map(PERSONAL),
            RuleKind::Organisations(orgs) => map(ORGANISATIONS).put(4, orgs),
            RuleKind::PriceCap { unit, max, currency } => {
                map(PRICE).put(5, unit).put(6, max).put(7, currency)
            }
            RuleKind::Runtimes(words) => map(RUNTIMES).put(3, words),
        };
        map.finish().write(out);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        read(&item).ok()
    }
}

fn read(item: &Item<'_>) -> Result<Rule, CborError> {
    let mut map = MapReader::new(item)?;
    let name = map.take(1)?;
    let kind = match map.take(2)? {
        RESIDENCY => RuleKind::Residency(map.take(3)?),
        LICENCES => RuleKind::Licences(map.take(3)?),
        PERSONAL => RuleKind::PersonalStays,
        ORGANISATIONS => RuleKind::Organisations(map.take(4)?),
        PRICE => {
            let (unit, max): (PriceUnit, Amount) = (map.take(5)?, map.take(6)?);
            RuleKind::PriceCap { unit, max, currency: map.take(7)? }
        }
        RUNTIMES => RuleKind::Runtimes(map.take(3)?),
        _ => return Err(CborError::Field { key: 2, expected: Rule::EXPECTED }),
    };
    map.finish()?;
    Ok(Rule { name, kind })
}
