//! Price lists: integer nano-units per so many units of a metered dimension.

use crate::amount::{Amount, Currency};
use crate::cbor::ListItem;
use crate::text::{TextError, check_name};
use crate::wire::wire_map;

/// Most rows in a price list.
pub const PRICE_ROWS_MAX: usize = 16;
/// Longest name of a dimension, in characters.
const DIMENSION_LEN_MAX: usize = 32;

/// The price of one metered dimension: `amount_nano` for every `per` units, an exact rational.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceRow {
    /// What is metered, with its unit, such as `cpu_ms`.
    pub dimension: String,
    /// Nano-units of the list's currency; not negative.
    pub amount_nano: i64,
    /// For how many units of the dimension; at least 1.
    pub per: u64,
}

wire_map!(PriceRow, "a price row", {
    1 must dimension,
    2 must amount_nano,
    3 must per,
});
impl ListItem for PriceRow {}

/// What the use of a resource costs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceList {
    /// The currency of every amount.
    pub currency: Currency,
    /// Prices by dimension, each at most once; what is not listed is free.
    #[serde(default)]
    pub rows: Vec<PriceRow>,
    /// Due once per use, whatever is metered.
    #[serde(default)]
    pub fixed: Amount,
}

wire_map!(PriceList, "a price list", {
    1 must currency,
    2 must rows,
    3 must fixed,
});

/// Why a price list is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PriceError {
    /// More rows than a list may have.
    #[error("{rows} rows, at most {PRICE_ROWS_MAX} are allowed")]
    Rows {
        /// Rows given.
        rows: usize,
    },
    /// The dimension's name is refused.
    #[error("a dimension is refused")]
    Dimension(#[from] TextError),
    /// A dimension stands twice.
    #[error("dimension `{dimension}` stands twice: give it one price")]
    Twice {
        /// The dimension.
        dimension: String,
    },
    /// A price per nothing.
    #[error("the price of `{dimension}` is per 0 units: it must be at least 1")]
    PerZero {
        /// The dimension.
        dimension: String,
    },
    /// A price below zero.
    #[error("the price of `{of}` is below zero")]
    Negative {
        /// The dimension, or `fixed`.
        of: String,
    },
}

impl PriceList {
    /// A list that charges nothing.
    #[must_use]
    pub const fn free(currency: Currency) -> Self {
        Self { currency, rows: Vec::new(), fixed: Amount::ZERO }
    }

    /// Whether nothing is ever charged.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.fixed == Amount::ZERO && self.rows.iter().all(|row| row.amount_nano == 0)
    }

    /// The row of a dimension.
    #[must_use]
    pub fn row(&self, dimension: &str) -> Option<&PriceRow> {
        self.rows.iter().find(|row| row.dimension == dimension)
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// See [`PriceError`].
    pub fn check(&self) -> Result<(), PriceError> {
        if self.rows.len() > PRICE_ROWS_MAX {
            return Err(PriceError::Rows { rows: self.rows.len() });
        }
        if self.fixed.is_negative() {
            return Err(PriceError::Negative { of: "fixed".to_owned() });
        }
        for (at, row) in self.rows.iter().enumerate() {
            check_name("a dimension", &row.dimension, DIMENSION_LEN_MAX)?;
            let dimension = row.dimension.clone();
            if row.per == 0 {
                return Err(PriceError::PerZero { dimension });
            }
            if row.amount_nano < 0 {
                return Err(PriceError::Negative { of: dimension });
            }
            if self.rows.iter().take(at).any(|before| before.dimension == row.dimension) {
                return Err(PriceError::Twice { dimension });
            }
        }
        Ok(())
    }
}
