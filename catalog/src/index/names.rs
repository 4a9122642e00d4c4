//! A set of names that is looked into but not read: a Golomb-Rice coded set, as small as a set that errs so seldom can be.
//!
//! Each name is hashed to a number below `range`, which is the count of names times `2^bits`. The numbers are sorted, and the
//! gaps between them written: the high part in unary, the low `bits` as they are. A name that is in the set is always found;
//! one that is not is found by mistake at most once in `2^bits` times.

use std::collections::BTreeSet;

use crate::cbor::{Field, Item};
use crate::id::RealmId;
use crate::wire::wire_map;

/// Fewest bits of a name: one in 8 that is not there seems to be. With fewer the set is left out.
pub const NAME_BITS_MIN: u32 = 3;
/// Most bits of a name: one in 128 that is not there seems to be.
pub const NAME_BITS_MAX: u32 = 7;
/// Names that a set may claim: more than fit into a digest at the fewest bits.
const NAMES_MAX: u64 = 1 << 14;

/// A set of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Names that went in.
    names: u64,
    /// Different numbers that came of them; at most as many.
    numbers: u64,
    /// See the module's documentation.
    bits: u32,
    /// The gaps, from the highest bit of each byte on; what is left of the last byte is zero.
    gaps: Vec<u8>,
}

/// As it stands on the wire, unchecked.
struct Raw {
    names: u64,
    numbers: u64,
    bits: u32,
    gaps: Vec<u8>,
}

wire_map!(Raw, "a set of names", {
    1 must names,
    2 must numbers,
    3 must bits,
    4 must gaps,
});

impl Field for Names {
    const EXPECTED: &'static str = "a set of names";
    fn write(&self, out: &mut Vec<u8>) {
        let Self { names, numbers, bits, gaps } = self.clone();
        Raw { names, numbers, bits, gaps }.write(out);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        let Raw { names, numbers, bits, gaps } = Raw::read(item)?;
        let set = Self { names, numbers, bits, gaps };
        set.is_sound().then_some(set)
    }
}

/// One spelling for what people take for one name.
fn spelling(name: &str) -> String {
    name.trim().to_lowercase()
}

fn number(realm: RealmId, name: &str, range: u64) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("opencloud 2026-11 name in a realm digest");
    hasher.update(realm.as_bytes()).update(spelling(name).as_bytes());
    let mut hash = [0; 8];
    hasher.finalize_xof().fill(&mut hash);
    let scaled = (u128::from(u64::from_le_bytes(hash)) * u128::from(range)) >> 64;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

impl Names {
    /// The set of these names in at most `room` bytes, with as few mistakes as fit; nothing when even the fewest bits do not.
    #[must_use]
    pub fn build<'a>(
        realm: RealmId,
        names: impl Iterator<Item = &'a str>,
        room: usize,
    ) -> Option<Self> {
        let names: BTreeSet<String> = names.map(spelling).collect();
        let count = u64::try_from(names.len()).ok().filter(|count| *count <= NAMES_MAX)?;
        (NAME_BITS_MIN..=NAME_BITS_MAX).rev().find_map(|bits| {
            let range = count << bits;
            let numbers: BTreeSet<u64> =
                names.iter().map(|name| number(realm, name, range)).collect();
            let gaps = write_gaps(&numbers, bits);
            let numbers = numbers.len() as u64;
            (gaps.len() <= room).then_some(Self { names: count, numbers, bits, gaps })
        })
    }

    /// How many names went in.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.names
    }

    /// Whether none did.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.names == 0
    }

    /// Of how many names that are not in the set one seems to be, at the most.
    #[must_use]
    pub const fn one_mistake_in(&self) -> u64 {
        1 << self.bits
    }

    /// Whether a name may be in the set; case and spaces around it do not matter.
    #[must_use]
    pub fn may_contain(&self, realm: RealmId, name: &str) -> bool {
        let wanted = number(realm, name, self.names << self.bits);
        self.numbers().any(|found| found == wanted)
    }

    fn numbers(&self) -> Gaps<'_> {
        Gaps { bytes: &self.gaps, at: 0, bits: self.bits, left: self.numbers, last: None }
    }

    /// Whether it is what [`Self::build`] writes: one form for one set.
    fn is_sound(&self) -> bool {
        let has_bounds = (NAME_BITS_MIN..=NAME_BITS_MAX).contains(&self.bits)
            && self.names <= NAMES_MAX
            && self.numbers <= self.names;
        if !has_bounds {
            return false;
        }
        let range = self.names << self.bits;
        let numbers: BTreeSet<u64> = self.numbers().take_while(|n| *n < range).collect();
        // Ascending by the coding, so that nothing was lost in the set; and nothing stands behind the last.
        numbers.len() as u64 == self.numbers && write_gaps(&numbers, self.bits) == self.gaps
    }
}

fn write_gaps(numbers: &BTreeSet<u64>, bits: u32) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0u32);
    let mut push = |bit: bool| {
        if at == 0 {
            out.push(0);
        }
        if let Some(last) = out.last_mut() {
            *last |= u8::from(bit) << (7 - at);
        }
        at = (at + 1) % 8;
    };
    let mut last = None;
    for number in numbers {
        // The set has each number once, so a gap of nothing needs no code.
        let gap = last.map_or(*number, |last: u64| number - last - 1);
        (0..gap >> bits).for_each(|_| push(true));
        push(false);
        (0..bits).rev().for_each(|bit| push(gap >> bit & 1 == 1));
        last = Some(*number);
    }
    out
}

/// Reads the numbers back; ends where the bytes do.
struct Gaps<'a> {
    bytes: &'a [u8],
    at: usize,
    bits: u32,
    left: u64,
    last: Option<u64>,
}

impl Gaps<'_> {
    fn bit(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }
}

impl Iterator for Gaps<'_> {
    type Item = u64;
    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let mut high = 0u64;
        while self.bit()? {
            high += 1;
        }
        let mut gap = high << self.bits;
        for bit in (0..self.bits).rev() {
            gap |= u64::from(self.bit()?) << bit;
        }
        let number = match self.last {
            Some(last) => last.checked_add(gap)?.checked_add(1)?,
            None => gap,
        };
        self.last = Some(number);
        Some(number)
    }
}
