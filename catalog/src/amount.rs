//! Money: integer nano-units of a currency. No float ever touches it.

use std::fmt;
use std::str::FromStr;

/// Nano-units in one unit: the scale of every amount and price (9 decimals).
pub const NANO_PER_UNIT: i64 = 1_000_000_000;

/// A sum of money in nano-units (10⁻⁹ of the currency's unit). Arithmetic is checked; overflow is `None`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Amount {
    nano: i64,
}

impl Amount {
    /// No money.
    pub const ZERO: Self = Self { nano: 0 };
    /// The largest sum.
    pub const MAX: Self = Self { nano: i64::MAX };

    /// From nano-units.
    #[must_use]
    pub const fn from_nano(nano: i64) -> Self {
        Self { nano }
    }

    /// In nano-units.
    #[must_use]
    pub const fn nano(self) -> i64 {
        self.nano
    }

    /// Sum, or `None` on overflow.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.nano.checked_add(other.nano) {
            Some(nano) => Some(Self { nano }),
            None => None,
        }
    }

    /// Difference, or `None` on overflow.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.nano.checked_sub(other.nano) {
            Some(nano) => Some(Self { nano }),
            None => None,
        }
    }

    /// Sum that stops at the largest or smallest value.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self { nano: self.nano.saturating_add(other.nano) }
    }

    /// Whether it is below zero.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.nano < 0
    }
}

impl fmt::Display for Amount {
    /// Decimal units, without trailing zeros but with at least two decimals: `0.0125`, `3.00`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = self.nano.unsigned_abs() / NANO_PER_UNIT.unsigned_abs();
        let fraction = format!("{:09}", self.nano.unsigned_abs() % NANO_PER_UNIT.unsigned_abs());
        let kept = fraction.trim_end_matches('0').len().max(2);
        let sign = if self.nano < 0 { "-" } else { "" };
        f.pad(&format!("{sign}{units}.{}", &fraction[..kept]))
    }
}

/// Why a text is not an amount or a currency.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AmountError {
    /// Not a decimal number with at most nine decimals.
    #[error(
        "`{text}` is not an amount: write a decimal number with at most nine decimals, like `0.0125`"
    )]
    Decimal {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// The number does not fit.
    #[error("`{text}` is larger than the largest amount, 9223372036.854775807")]
    Range {
        /// The text, cut to 80 characters.
        text: String,
    },
    /// Not three upper-case letters.
    #[error("`{text}` is not a currency: write its three letters of ISO 4217, like `EUR`")]
    Currency {
        /// The text, cut to 80 characters.
        text: String,
    },
}

impl FromStr for Amount {
    type Err = AmountError;
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let cut = || text.chars().take(80).collect::<String>();
        let bad = || AmountError::Decimal { text: cut() };
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (units, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(units) || !all_digits(fraction) || fraction.len() > 9 {
            return Err(bad());
        }
        let number: i128 = format!("{units}{fraction:0<9}")
            .parse()
            .map_err(|_| AmountError::Range { text: cut() })?;
        let signed = if negative { -number } else { number };
        i64::try_from(signed).map(Self::from_nano).map_err(|_| AmountError::Range { text: cut() })
    }
}

/// A currency: three upper-case ASCII letters (ISO 4217, or a code the parties agree on).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

impl Currency {
    /// The euro, the default of a new node's price plan.
    pub const EUR: Self = Self(*b"EUR");

    /// The three letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a currency holds three ASCII letters")
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Currency {
    type Err = AmountError;
    fn from_str(text: &str) -> Result<Self, AmountError> {
        <[u8; 3]>::try_from(text.as_bytes())
            .ok()
            .filter(|b| b.iter().all(u8::is_ascii_uppercase))
            .map(Self)
            .ok_or_else(|| AmountError::Currency { text: text.chars().take(80).collect() })
    }
}

impl serde::Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn printed_amounts_parse_back(nano in any::<i64>()) {
            let amount = Amount::from_nano(nano);
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
        }
    }

    #[test]
    fn amounts_print_as_people_write_them() {
        for (nano, text) in
            [(0, "0.00"), (12_500_000, "0.0125"), (3_000_000_000, "3.00"), (-1, "-0.000000001")]
        {
            assert_eq!(Amount::from_nano(nano).to_string(), text);
        }
    }

    #[test]
    fn bad_amounts_and_currencies_are_refused() {
        for text in ["", ".", "1.", "1.0000000001", "1e3", "+1", "99999999999", "1,5"] {
            assert!(text.parse::<Amount>().is_err(), "{text}");
        }
        for text in ["", "eur", "EURO", "€"] {
            assert!(text.parse::<Currency>().is_err(), "{text}");
        }
    }
}
