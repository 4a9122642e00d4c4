//! Devices that tasks hold alone, such as GPUs: what a task may ask for, and which of them each attempt has.
//!
//! An owner opens devices under a name; several of one name are alike, and told apart by their position, the unit. A task
//! asks for a number of them by name. A unit is held by one reservation from its quote on until it is released, so that no
//! two attempts ever have the same one.

use std::collections::{BTreeMap, BTreeSet};

use catalog::record::LIST_MAX;

/// Most devices of all names together that a task may ask for, and that a node may open: each is an entry of the node's
/// record. A task that asks for more is refused.
pub const DEVICES_MAX: u32 = 32;
const _: () = assert!(DEVICES_MAX as usize <= LIST_MAX, "a record lists every device");
/// Longest name of a device, in bytes.
pub const NAME_LEN_MAX: usize = 32;
/// What [`is_name`] asks, for people.
pub const NAME_RULE: &str =
    "begin with a small letter, then small letters, digits and `-`, at most 32";

/// How many devices of each name.
pub type Counts = BTreeMap<String, u32>;

/// Units by the name of their kind: what one attempt holds.
pub type Held = BTreeMap<String, BTreeSet<u32>>;

/// Whether devices can be called so.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= NAME_LEN_MAX
        && bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// How many there are of all names together.
#[must_use]
pub fn total(counts: &Counts) -> u64 {
    counts.values().map(|n| u64::from(*n)).sum()
}

/// Whether a task may ask for these: good names, at least one of each, not more than [`DEVICES_MAX`].
#[must_use]
pub fn is_sound(counts: &Counts) -> bool {
    counts.iter().all(|(name, n)| is_name(name) && *n > 0) && total(counts) <= DEVICES_MAX.into()
}

/// The devices that a record lists, one entry for each unit.
#[must_use]
pub fn listed(entries: &[String]) -> Counts {
    let mut counts = Counts::new();
    for name in entries {
        let n = counts.entry(name.clone()).or_insert(0_u32);
        *n = n.saturating_add(1);
    }
    counts
}

/// Fewer devices of a name than a task needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{need} of device `{name}` needed, {free} of {total} are free")]
pub struct Short {
    /// Which.
    pub name: String,
    /// What the task needs.
    pub need: u32,
    /// What is free.
    pub free: u32,
    /// What there is in all.
    pub total: u32,
}

impl Short {
    /// Whether the node has too few even when it is idle.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        self.need > self.total
    }
}

/// The devices of one node: those that are free, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    total: Counts,
    free: Held,
}

impl Pool {
    /// No devices at all.
    #[must_use]
    pub const fn empty() -> Self {
        Self { total: BTreeMap::new(), free: BTreeMap::new() }
    }

    /// So many devices of each name, all of them free.
    #[must_use]
    pub fn new(total: Counts) -> Self {
        let free = total.iter().map(|(name, n)| (name.clone(), (0..*n).collect())).collect();
        Self { total, free }
    }

    /// What is missing for a task that asks for these: for good if anything is, else for now.
    #[must_use]
    pub fn short(&self, wanted: &Counts) -> Option<Short> {
        let mut missing: Vec<Short> = wanted
            .iter()
            .map(|(name, need)| Short {
                name: name.clone(),
                need: *need,
                free: self.n_free(name),
                total: self.total.get(name).copied().unwrap_or(0),
            })
            .filter(|short| short.need > short.free)
            .collect();
        missing.sort_by_key(|short| !short.is_lasting());
        missing.into_iter().next()
    }

    /// Hands out units, those of the lowest positions.
    ///
    /// # Errors
    /// What is missing; nothing is handed out then.
    pub fn take(&mut self, wanted: &Counts) -> Result<Held, Short> {
        if let Some(short) = self.short(wanted) {
            return Err(short);
        }
        let mut held = Held::new();
        for (name, need) in wanted {
            let Some(free) = self.free.get_mut(name) else {
                continue;
            };
            let units: BTreeSet<u32> = free.iter().copied().take(*need as usize).collect();
            free.retain(|unit| !units.contains(unit));
            held.insert(name.clone(), units);
        }
        Ok(held)
    }

    /// Takes back what [`Self::take`] has handed out.
    pub fn give_back(&mut self, held: Held) {
        for (name, units) in held {
            self.free.entry(name).or_default().extend(units);
        }
    }

    /// How many of each name are free.
    #[must_use]
    pub fn free(&self) -> Counts {
        self.total.keys().map(|name| (name.clone(), self.n_free(name))).collect()
    }

    fn n_free(&self, name: &str) -> u32 {
        let n = self.free.get(name).map_or(0, BTreeSet::len);
        u32::try_from(n).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u32)]) -> Counts {
        of.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
    }

    #[test]
    fn a_device_has_a_short_plain_name() {
        for (name, expected) in [
            ("gpu", true),
            ("gpu-a100", true),
            ("g", true),
            ("", false),
            ("GPU", false),
            ("0gpu", false),
            ("-gpu", false),
            ("g_u", false),
            ("gpu/0", false),
            ("a2345678901234567890123456789012", true),
            ("a23456789012345678901234567890123", false),
        ] {
            assert_eq!(is_name(name), expected, "{name}");
        }
    }

    #[test]
    fn what_a_stranger_asks_for_is_bounded() {
        for (wanted, expected) in [
            (counts(&[]), true),
            (counts(&[("gpu", 1), ("fpga", 2)]), true),
            (counts(&[("gpu", DEVICES_MAX)]), true),
            (counts(&[("gpu", DEVICES_MAX), ("fpga", 1)]), false),
            (counts(&[("gpu", u32::MAX), ("fpga", u32::MAX)]), false),
            (counts(&[("gpu", 0)]), false),
            (counts(&[("../gpu", 1)]), false),
        ] {
            assert_eq!(is_sound(&wanted), expected, "{wanted:?}");
        }
    }

    #[test]
    fn units_go_out_once_and_come_back() {
        let mut pool = Pool::new(counts(&[("gpu", 3), ("fpga", 1)]));
        let first = pool.take(&counts(&[("gpu", 2)])).unwrap();
        let second = pool.take(&counts(&[("gpu", 1), ("fpga", 1)])).unwrap();
        assert_eq!(first["gpu"], BTreeSet::from([0, 1]));
        assert_eq!(second["gpu"], BTreeSet::from([2]));
        assert_eq!(pool.free(), counts(&[("gpu", 0), ("fpga", 0)]));
        pool.give_back(first);
        assert_eq!(pool.free(), counts(&[("gpu", 2), ("fpga", 0)]));
    }

    #[test]
    fn what_is_missing_for_good_is_told_before_what_is_missing_for_now() {
        let mut pool = Pool::new(counts(&[("a", 1), ("b", 1)]));
        let held = pool.take(&counts(&[("a", 1)])).unwrap();
        let busy = pool.take(&counts(&[("a", 1), ("b", 1)])).unwrap_err();
        assert_eq!(busy.to_string(), "1 of device `a` needed, 0 of 1 are free");
        assert!(!busy.is_lasting());
        let never = pool.take(&counts(&[("a", 1), ("z", 1)])).unwrap_err();
        assert_eq!(never.to_string(), "1 of device `z` needed, 0 of 0 are free");
        assert!(never.is_lasting());
        assert_eq!(pool.free(), counts(&[("a", 0), ("b", 1)]), "a refusal takes nothing");
        pool.give_back(held);
    }

    #[test]
    fn a_record_lists_each_unit() {
        let entries = ["gpu", "fpga", "gpu"].map(str::to_owned);
        assert_eq!(listed(&entries), counts(&[("fpga", 1), ("gpu", 2)]));
    }
}
