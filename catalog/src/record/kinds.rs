//! Sets of kinds of resources.

use std::fmt;
use std::str::FromStr;

use super::Kind;

/// A set of kinds. As text its words with commas between, in messages a number; kinds that a newer program knows beside are
/// left out.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(from = "u16", into = "u16")]
pub struct Kinds(u16);

/// A word that is no kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is no kind of resource: there are {}", Kinds::ALL)]
pub struct KindsError {
    /// The word, cut to 80 characters.
    pub word: String,
}

impl Kinds {
    /// No kind.
    pub const NONE: Self = Self(0);
    /// Every kind.
    pub const ALL: Self = Self((1 << Kind::ALL.len()) - 1);

    /// One kind.
    #[must_use]
    pub const fn of(kind: Kind) -> Self {
        let place = match kind {
            Kind::Data => 0,
            Kind::Algorithm => 1,
            Kind::Compute => 2,
            Kind::Storage => 3,
            Kind::Workflow => 4,
            Kind::Service => 5,
            Kind::Disk => 6,
            Kind::Revocations => 7,
            Kind::Area => 8,
        };
        Self(1 << place)
    }

    /// Those of both sets.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those of this set alone.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether a kind is among them.
    #[must_use]
    pub const fn contains(self, kind: Kind) -> bool {
        self.0 & Self::of(kind).0 != 0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.iter().copied().filter(move |kind| self.contains(*kind))
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::NONE, |all, kind| all.or(Self::of(kind)))
    }
}

impl From<u16> for Kinds {
    fn from(bits: u16) -> Self {
        Self(bits).and(Self::ALL)
    }
}

impl From<Kinds> for u16 {
    fn from(kinds: Kinds) -> Self {
        kinds.0
    }
}

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, kind) in self.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{kind}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

impl FromStr for Kinds {
    type Err = KindsError;
    fn from_str(text: &str) -> Result<Self, KindsError> {
        text.split(',')
            .map(|word| {
                let word = word.trim();
                let error = || KindsError { word: word.chars().take(80).collect() };
                Kind::from_word(word).ok_or_else(error)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_place_and_word() {
        for kind in Kind::ALL {
            let alone = Kinds::of(*kind);
            assert_eq!(alone.iter().collect::<Vec<_>>(), [*kind]);
            assert_eq!(kind.as_str().parse(), Ok(alone));
            assert_eq!(Kinds::from(u16::from(alone)), alone);
        }
        assert_eq!(Kind::ALL.iter().copied().collect::<Kinds>(), Kinds::ALL);
        assert_eq!(Kinds::ALL.to_string().parse(), Ok(Kinds::ALL));
        assert_eq!(Kinds::from(u16::MAX), Kinds::ALL, "what is not known is left out");
        let error = "compute, sevice".parse::<Kinds>().unwrap_err();
        assert!(error.to_string().starts_with("`sevice` is no kind of resource: there are data,"));
    }
}
