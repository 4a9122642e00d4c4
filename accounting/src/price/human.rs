//! The form of a price plan that people write, and the errors that tell them where it is wrong.

use catalog::Amount;
use catalog::amount::AmountError;
use serde_json::{Map, Value};

use super::{Basis, PricePlan, PriceRow};
use crate::dimension::{DIMENSIONS, Dimension};

/// Why a price plan is refused; every variant names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PricePlanError {
    /// A field that must be there is not.
    #[error("price plan: `{path}` is missing")]
    Missing {
        /// The field.
        path: String,
    },
    /// A field that no plan has.
    #[error("price plan: `{path}` is unknown, known are {known}")]
    Unknown {
        /// The field.
        path: String,
        /// What may stand there.
        known: &'static str,
    },
    /// A value of another type.
    #[error("price plan: `{path}` must be {expected}")]
    Type {
        /// The field.
        path: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// A value that is not an amount or a currency.
    #[error("price plan: `{path}` is not right")]
    Amount {
        /// The field.
        path: String,
        /// What is wrong with it.
        #[source]
        source: AmountError,
    },
    /// A unit that the dimension does not have.
    #[error(
        "price plan: `{path}` is `{unit}`, but {dimension} is priced per {known} (or a number of {base})"
    )]
    Unit {
        /// The field.
        path: String,
        /// The unit given, cut to 40 characters.
        unit: String,
        /// The row's dimension.
        dimension: Dimension,
        /// The units it has.
        known: String,
        /// Its base unit.
        base: &'static str,
    },
    /// A number outside its bounds.
    #[error("price plan: `{path}` must be from {min} to {max}")]
    Range {
        /// The field.
        path: String,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A price or an amount below zero.
    #[error("price plan: `{path}` must not be negative")]
    Negative {
        /// The field.
        path: String,
    },
    /// Two rows of one dimension, or rows out of order in a signed quote.
    #[error("price plan: `{path}` stands twice or out of order: give each dimension one row")]
    RowOrder {
        /// The field.
        path: String,
    },
}

impl PricePlanError {
    /// The field that is wrong, like `rows[0].per`.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Missing { path }
            | Self::Unknown { path, .. }
            | Self::Type { path, .. }
            | Self::Amount { path, .. }
            | Self::Unit { path, .. }
            | Self::Range { path, .. }
            | Self::Negative { path }
            | Self::RowOrder { path } => path,
        }
    }
}

/// Named units of a dimension and their size in base units. A month has 30 days.
const fn units(dimension: Dimension) -> &'static [(&'static str, u64)] {
    const HOUR: u64 = 3_600;
    const MICROS: u64 = 1_000_000;
    match dimension {
        Dimension::Cpu | Dimension::VcpuAlloc => {
            &[("core-hour", HOUR * MICROS), ("core-minute", 60 * MICROS), ("core-second", MICROS)]
        }
        Dimension::Mem | Dimension::Storage => &[
            ("GiB-month", (720 * HOUR) << 20),
            ("GiB-hour", HOUR << 20),
            ("GiB-second", 1 << 20),
            ("MiB-hour", HOUR << 10),
        ],
        Dimension::NetIn | Dimension::NetOut | Dimension::Io => {
            &[("GB", 1_000_000_000), ("GiB", 1 << 30), ("MB", 1_000_000), ("MiB", 1 << 20)]
        }
        Dimension::Gpu => &[("gpu-hour", HOUR * MICROS), ("gpu-second", MICROS)],
        Dimension::Fuel => &[("gigafuel", 1_000_000_000), ("megafuel", 1_000_000)],
        Dimension::Energy => &[("kWh", 3_600_000_000), ("Wh", 3_600_000), ("J", 1_000)],
        Dimension::Requests => &[("million-requests", 1_000_000), ("request", 1)],
        Dimension::SetUp => &[("hour", HOUR * MICROS), ("minute", 60 * MICROS), ("second", MICROS)],
    }
}

const PLAN_FIELDS: &str = "currency, rows, fixed, minimum, granularity_ms, interval_ms, ack_timeout_ms, \
    max_unacked, credit_limit, dispute_window_s";
const ROW_FIELDS: &str = "dimension, basis, amount, per";
const DIMENSION_WORDS: &str =
    "cpu, vcpu_alloc, mem, storage, net_in, net_out, gpu, fuel, io, energy, requests, set_up";

impl PricePlan {
    /// Reads the form that people write. `currency` and `rows` must be there, the rest has the defaults of
    /// [`PricePlan::default`]. A row is `{dimension, basis, amount, per}`: `basis` is `allocated`, `used` (default) or `max`,
    /// `amount` is a decimal number or text, `per` a unit's name or a number of base units.
    ///
    /// # Errors
    /// [`PricePlanError`] naming the field by its path.
    pub fn from_json(json: &Value) -> Result<Self, PricePlanError> {
        let fields = object(json, "plan", "a map of fields")?;
        known(fields, "", PLAN_FIELDS)?;
        let default = Self::default();
        let mut plan = Self {
            currency: currency(fields)?,
            rows: rows(fields)?,
            fixed: amount_or(fields, "fixed", default.fixed)?,
            minimum: amount_or(fields, "minimum", default.minimum)?,
            granularity_ms: number_or(fields, "granularity_ms", default.granularity_ms)?,
            interval_ms: number_or(fields, "interval_ms", default.interval_ms)?,
            ack_timeout_ms: number_or(fields, "ack_timeout_ms", default.ack_timeout_ms)?,
            max_unacked: amount_or(fields, "max_unacked", default.max_unacked)?,
            credit_limit: amount_or(fields, "credit_limit", default.credit_limit)?,
            dispute_window_s: number_or(fields, "dispute_window_s", default.dispute_window_s)?,
        };
        plan.rows.sort_by_key(|row| row.dimension);
        plan.check()?;
        Ok(plan)
    }

    /// The form that [`Self::from_json`] reads.
    #[must_use]
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "currency": self.currency,
            "rows": self.rows.iter().map(row_to_json).collect::<Vec<_>>(),
            "fixed": self.fixed.to_string(),
            "minimum": self.minimum.to_string(),
            "granularity_ms": self.granularity_ms,
            "interval_ms": self.interval_ms,
            "ack_timeout_ms": self.ack_timeout_ms,
            "max_unacked": self.max_unacked.to_string(),
            "credit_limit": self.credit_limit.to_string(),
            "dispute_window_s": self.dispute_window_s,
        })
    }
}

impl serde::Serialize for PricePlan {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(s)
    }
}

impl<'de> serde::Deserialize<'de> for PricePlan {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::from_json(&Value::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

fn row_to_json(row: &PriceRow) -> Value {
    let unit = units(row.dimension).iter().find(|(_, size)| *size == row.per);
    let per = unit.map_or_else(|| Value::from(row.per), |(name, _)| Value::from(*name));
    serde_json::json!({
        "dimension": row.dimension,
        "basis": row.basis,
        "amount": Amount::from_nano(row.amount_nano).to_string(),
        "per": per,
    })
}

fn object<'a>(
    json: &'a Value,
    path: &str,
    expected: &'static str,
) -> Result<&'a Map<String, Value>, PricePlanError> {
    json.as_object().ok_or_else(|| PricePlanError::Type { path: path.to_owned(), expected })
}

fn known(
    fields: &Map<String, Value>,
    prefix: &str,
    known: &'static str,
) -> Result<(), PricePlanError> {
    match fields.keys().find(|key| !known.split(", ").any(|k| k == key.as_str())) {
        Some(key) => {
            let key: String = key.chars().take(40).collect();
            Err(PricePlanError::Unknown { path: format!("{prefix}{key}"), known })
        }
        None => Ok(()),
    }
}

fn required<'a>(
    fields: &'a Map<String, Value>,
    key: &str,
    path: &str,
) -> Result<&'a Value, PricePlanError> {
    fields.get(key).ok_or_else(|| PricePlanError::Missing { path: path.to_owned() })
}

fn currency(fields: &Map<String, Value>) -> Result<catalog::Currency, PricePlanError> {
    let path = || "currency".to_owned();
    let text = required(fields, "currency", "currency")?
        .as_str()
        .ok_or_else(|| PricePlanError::Type { path: path(), expected: "text, like `EUR`" })?;
    text.parse().map_err(|source| PricePlanError::Amount { path: path(), source })
}

fn rows(fields: &Map<String, Value>) -> Result<Vec<PriceRow>, PricePlanError> {
    let list = required(fields, "rows", "rows")?
        .as_array()
        .filter(|rows| rows.len() <= DIMENSIONS)
        .ok_or_else(|| PricePlanError::Type {
            path: "rows".to_owned(),
            expected: "a list with at most one row for each of the 12 dimensions",
        })?;
    list.iter().enumerate().map(|(index, json)| row(json, &format!("rows[{index}]"))).collect()
}

fn row(json: &Value, path: &str) -> Result<PriceRow, PricePlanError> {
    let fields = object(json, path, "a map with dimension, amount and per")?;
    known(fields, &format!("{path}."), ROW_FIELDS)?;
    let at = |key: &str| format!("{path}.{key}");
    let word = required(fields, "dimension", &at("dimension"))?;
    let dimension = Dimension::ALL
        .into_iter()
        .find(|d| Some(d.as_str()) == word.as_str())
        .ok_or_else(|| PricePlanError::Unknown { path: at("dimension"), known: DIMENSION_WORDS })?;
    let basis = match fields.get("basis").map_or(Some("used"), Value::as_str) {
        Some("allocated") => Basis::Allocated,
        Some("used") => Basis::Used,
        Some("max") => Basis::Max,
        _ => {
            return Err(PricePlanError::Unknown {
                path: at("basis"),
                known: "allocated, used, max",
            });
        }
    };
    let amount_nano = amount(required(fields, "amount", &at("amount"))?, &at("amount"))?.nano();
    let per = per(required(fields, "per", &at("per"))?, dimension, &at("per"))?;
    Ok(PriceRow { dimension, basis, amount_nano, per })
}

fn per(json: &Value, dimension: Dimension, path: &str) -> Result<u64, PricePlanError> {
    if let Some(number) = json.as_u64() {
        return Ok(number);
    }
    let unit = json.as_str().ok_or_else(|| PricePlanError::Type {
        path: path.to_owned(),
        expected: "the name of a unit or a whole number of base units",
    })?;
    let found = units(dimension).iter().find(|(name, _)| *name == unit);
    found.map(|(_, size)| *size).ok_or_else(|| PricePlanError::Unit {
        path: path.to_owned(),
        unit: unit.chars().take(40).collect(),
        dimension,
        known: units(dimension).iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
        base: dimension.unit(),
    })
}

/// A decimal number: text, or a JSON number in its shortest printed form, which is what was written.
fn amount(json: &Value, path: &str) -> Result<Amount, PricePlanError> {
    let text = match json {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => {
            let expected = "a decimal number, like `0.02`";
            return Err(PricePlanError::Type { path: path.to_owned(), expected });
        }
    };
    text.parse().map_err(|source| PricePlanError::Amount { path: path.to_owned(), source })
}

fn amount_or(fields: &Map<String, Value>, key: &str, or: Amount) -> Result<Amount, PricePlanError> {
    fields.get(key).map_or(Ok(or), |json| amount(json, key))
}

fn number_or(fields: &Map<String, Value>, key: &str, or: u64) -> Result<u64, PricePlanError> {
    fields.get(key).map_or(Ok(or), |json| {
        json.as_u64().ok_or_else(|| PricePlanError::Type {
            path: key.to_owned(),
            expected: "a whole number that is not negative",
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plans_read_back_from_their_printed_form() {
        for plan in [PricePlan::default(), PricePlan::free()] {
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<PricePlan>(&text).unwrap(), plan);
        }
    }

    #[test]
    fn a_short_plan_is_enough_and_rows_may_come_in_any_order() {
        let plan = PricePlan::from_json(&json!({
            "currency": "USD",
            "rows": [
                {"dimension": "net_out", "amount": "0.08", "per": "GB"},
                {"dimension": "cpu", "amount": 0.036, "per": "core-hour"},
            ],
        }))
        .unwrap();
        assert_eq!(plan.rows[0].dimension, Dimension::Cpu);
        assert_eq!(plan.rows[0].amount_nano, 36_000_000);
        assert_eq!(plan.rows[0].per, 3_600_000_000);
        assert_eq!(plan.interval_ms, 10_000);
    }

    #[test]
    fn errors_name_the_field_and_what_may_stand_there() {
        let row = |row: Value| json!({"currency": "EUR", "rows": [row]});
        for (json, part) in [
            (json!([]), "`plan` must be"),
            (json!({"rows": []}), "`currency` is missing"),
            (json!({"currency": "euro", "rows": []}), "`currency` is not right"),
            (json!({"currency": "EUR"}), "`rows` is missing"),
            (json!({"currency": "EUR", "rows": [], "intervall": 1}), "`intervall` is unknown"),
            (
                json!({"currency": "EUR", "rows": [], "interval_ms": 5}),
                "`interval_ms` must be from",
            ),
            (
                json!({"currency": "EUR", "rows": [], "ack_timeout_ms": 5000}),
                "`ack_timeout_ms` must be",
            ),
            (json!({"currency": "EUR", "rows": [], "fixed": "-1"}), "`fixed` must not be negative"),
            (
                row(json!({"dimension": "ram", "amount": 1, "per": 1})),
                "`rows[0].dimension` is unknown",
            ),
            (
                row(json!({"dimension": "cpu", "amount": 1, "per": "GB"})),
                "`rows[0].per` is `GB`, but cpu",
            ),
            (
                row(json!({"dimension": "cpu", "amount": 1, "per": 0})),
                "`rows[0].per` must be from 1",
            ),
            (
                row(json!({"dimension": "cpu", "amount": "x", "per": 1})),
                "`rows[0].amount` is not right",
            ),
            (row(json!({"dimension": "cpu", "amount": -1, "per": 1})), "`rows[0].amount` must not"),
            (row(json!({"dimension": "cpu", "per": 1})), "`rows[0].amount` is missing"),
        ] {
            let error = PricePlan::from_json(&json).unwrap_err().to_string();
            assert!(error.contains(part), "{error} / {part}");
        }
        let twice = json!({"dimension": "cpu", "amount": 1, "per": 1});
        let error =
            PricePlan::from_json(&json!({"currency": "EUR", "rows": [twice, twice]})).unwrap_err();
        assert_eq!(error, PricePlanError::RowOrder { path: "rows[1].dimension".to_owned() });
    }
}
