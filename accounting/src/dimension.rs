//! What is metered: a fixed list of dimensions, each in one integer base unit, and cumulative counters over them.

use std::fmt;

use catalog::cbor::{self, Field, Item};

/// One thing that is counted. The number is its index in the counter array; the list only ever grows at the end.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Dimension {
    /// Microseconds of CPU time.
    Cpu = 0,
    /// Microseconds times cores allocated, while the work runs.
    VcpuAlloc = 1,
    /// KiB times seconds of memory.
    Mem = 2,
    /// KiB times seconds of storage.
    Storage = 3,
    /// Bytes received for the task.
    NetIn = 4,
    /// Bytes sent for the task.
    NetOut = 5,
    /// Microseconds times GPUs, or other devices of the provider, that the work held alone.
    Gpu = 6,
    /// Fuel units of the WASM meter.
    Fuel = 7,
    /// Bytes read and written.
    Io = 8,
    /// Millijoules.
    Energy = 9,
    /// Requests served.
    Requests = 10,
    /// Microseconds of making the attempt's program ready to run: an image loaded, a module compiled, a machine booted.
    SetUp = 11,
}

/// How many dimensions there are.
pub const DIMENSIONS: usize = 12;

impl Dimension {
    /// Every dimension in the order of the counter array.
    pub const ALL: [Self; DIMENSIONS] = [
        Self::Cpu,
        Self::VcpuAlloc,
        Self::Mem,
        Self::Storage,
        Self::NetIn,
        Self::NetOut,
        Self::Gpu,
        Self::Fuel,
        Self::Io,
        Self::Energy,
        Self::Requests,
        Self::SetUp,
    ];

    /// Position in the counter array.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The dimension at a position, when this version knows it.
    #[must_use]
    pub fn from_index(index: u64) -> Option<Self> {
        usize::try_from(index).ok().and_then(|i| Self::ALL.get(i).copied())
    }

    /// The word in documents and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::VcpuAlloc => "vcpu_alloc",
            Self::Mem => "mem",
            Self::Storage => "storage",
            Self::NetIn => "net_in",
            Self::NetOut => "net_out",
            Self::Gpu => "gpu",
            Self::Fuel => "fuel",
            Self::Io => "io",
            Self::Energy => "energy",
            Self::Requests => "requests",
            Self::SetUp => "set_up",
        }
    }

    /// The base unit of the counter.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Cpu | Self::SetUp => "us",
            Self::VcpuAlloc => "us*vcpu",
            Self::Mem | Self::Storage => "KiB*s",
            Self::NetIn | Self::NetOut | Self::Io => "B",
            Self::Gpu => "us*gpu",
            Self::Fuel => "fuel",
            Self::Energy => "mJ",
            Self::Requests => "requests",
        }
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Cumulative counters of one lane, one per dimension, in base units since the lane began.
///
/// On the wire an array of unsigned integers in the order of [`Dimension::ALL`] without trailing zeros; in JSON a map of the
/// counters that are not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counters([u64; DIMENSIONS]);

impl Counters {
    /// From all counters in the order of [`Dimension::ALL`].
    #[must_use]
    pub const fn from_array(counters: [u64; DIMENSIONS]) -> Self {
        Self(counters)
    }

    /// All counters in the order of [`Dimension::ALL`].
    #[must_use]
    pub const fn as_array(&self) -> &[u64; DIMENSIONS] {
        &self.0
    }

    /// The counter of a dimension.
    #[must_use]
    pub const fn get(&self, dimension: Dimension) -> u64 {
        self.0[dimension.index()]
    }

    /// Sets the counter of a dimension.
    pub const fn set(&mut self, dimension: Dimension, value: u64) {
        self.0[dimension.index()] = value;
    }

    /// The same counters with one of them set.
    #[must_use]
    pub const fn with(mut self, dimension: Dimension, value: u64) -> Self {
        self.set(dimension, value);
        self
    }

    /// The first dimension in which `self` is below `earlier`: cumulative counters never fall.
    #[must_use]
    pub fn fell_below(&self, earlier: &Self) -> Option<Dimension> {
        Dimension::ALL.into_iter().find(|d| self.get(*d) < earlier.get(*d))
    }
}

impl Field for Counters {
    const EXPECTED: &'static str = "counters: at most 12 unsigned integers, the last one not zero";
    fn write(&self, out: &mut Vec<u8>) {
        let used = self.0.iter().rposition(|n| *n != 0).map_or(0, |last| last + 1);
        cbor::write_list_head(out, used);
        self.0.iter().take(used).for_each(|n| n.write(out));
    }
    fn read(item: Item<'_>) -> Option<Self> {
        let mut counters = [0; DIMENSIONS];
        let mut slots = counters.iter_mut();
        let mut last = None;
        for item in item.as_list()? {
            let n = item.as_u64()?;
            *slots.next()? = n;
            last = Some(n);
        }
        (last != Some(0)).then_some(Self(counters))
    }
}

impl serde::Serialize for Counters {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(
            Dimension::ALL.iter().filter(|d| self.get(**d) != 0).map(|d| (d, self.get(*d))),
        )
    }
}

impl<'de> serde::Deserialize<'de> for Counters {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let map = std::collections::BTreeMap::<Dimension, u64>::deserialize(d)?;
        Ok(map.into_iter().fold(Self::default(), |counters, (d, n)| counters.with(d, n)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counters_read_back_from_cbor_and_json(array in any::<[u64; DIMENSIONS]>(), keep in 0..=DIMENSIONS) {
            let mut counters = Counters::from_array(array);
            Dimension::ALL.iter().skip(keep).for_each(|d| counters.set(*d, 0));
            let bytes = cbor::encode(&counters);
            prop_assert_eq!(Counters::read(cbor::decode(&bytes, 128).unwrap()), Some(counters));
            let json = serde_json::to_string(&counters).unwrap();
            prop_assert_eq!(serde_json::from_str::<Counters>(&json).unwrap(), counters);
        }
    }

    #[test]
    fn indexes_and_words_are_fixed() {
        for (index, dimension) in Dimension::ALL.into_iter().enumerate() {
            assert_eq!(dimension.index(), index);
            assert_eq!(Dimension::from_index(index as u64), Some(dimension));
            assert_eq!(serde_json::to_value(dimension).unwrap(), dimension.as_str());
        }
        assert_eq!(Dimension::from_index(12), None);
    }

    #[test]
    fn trailing_zeros_and_unknown_dimensions_are_refused() {
        let read = |items: &[u64]| {
            let bytes = cbor::encode(&items.to_vec());
            Counters::read(cbor::decode(&bytes, 128).unwrap())
        };
        assert_eq!(read(&[1, 0]), None);
        assert_eq!(read(&[1; 13]), None);
        assert_eq!(read(&[]), Some(Counters::default()));
    }
}
