//! Price plans: what a provider asks for each dimension, and the terms under which it serves.

mod human;

use catalog::cbor::{CborError, Field, Item, ListItem, MapReader, MapWriter};
use catalog::{Amount, Currency};

use crate::dimension::{Counters, Dimension};
use crate::quote::Meter;

pub use human::PricePlanError;

/// What a dimension's counter holds under a plan.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// What was granted, times the time it was held, used or not.
    Allocated = 0,
    /// What was measured.
    Used = 1,
    /// The larger of both.
    Max = 2,
}

impl Basis {
    fn from_number(number: u64) -> Option<Self> {
        [Self::Allocated, Self::Used, Self::Max].into_iter().find(|b| *b as u64 == number)
    }
}

/// The price of one dimension: `amount_nano` nano-units for `per` base units, an exact rational.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriceRow {
    /// What is counted.
    pub dimension: Dimension,
    /// What its counter holds.
    pub basis: Basis,
    /// Nano-units of the currency; never negative.
    pub amount_nano: i64,
    /// Base units of the dimension that cost `amount_nano`; at least 1.
    pub per: u64,
}

impl Field for PriceRow {
    const EXPECTED: &'static str = "a price row";
    fn write(&self, out: &mut Vec<u8>) {
        let map = MapWriter::new()
            .put(1, &(self.dimension.index() as u64))
            .put(2, &(self.basis as u64))
            .put(3, &self.amount_nano)
            .put(4, &self.per);
        map.finish().write(out);
    }
    fn read(item: Item<'_>) -> Option<Self> {
        let mut map = MapReader::new(&item).ok()?;
        let row = Self {
            dimension: Dimension::from_index(map.take(1).ok()?)?,
            basis: Basis::from_number(map.take(2).ok()?)?,
            amount_nano: map.take(3).ok()?,
            per: map.take(4).ok()?,
        };
        map.finish().ok().map(|()| row)
    }
}

impl ListItem for PriceRow {}

/// Prices and terms of service, as a node's owner sets them and every quote repeats them.
///
/// In JSON and YAML amounts are decimal units (`"0.02"`), and `per` is a number of base units or the name of a unit
/// (`core-hour`, `GiB-hour`, `GB`); see [`PricePlan::from_json`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PricePlan {
    /// The currency of every amount here.
    pub currency: Currency,
    /// At most one row per dimension, in the order of [`Dimension::ALL`]; a dimension without a row is free.
    pub rows: Vec<PriceRow>,
    /// Due with the first receipt of a lane.
    pub fixed: Amount,
    /// Least amount of a lane that had a receipt, applied when it closes.
    pub minimum: Amount,
    /// Allocated rows are billed in whole multiples of this many milliseconds, applied when a lane closes; 0 or 1 for none.
    pub granularity_ms: u64,
    /// A receipt is due this often, in milliseconds.
    pub interval_ms: u64,
    /// Without an acknowledgement for so many milliseconds the provider stops serving.
    pub ack_timeout_ms: u64,
    /// The provider stops serving when more than this is claimed and not acknowledged.
    pub max_unacked: Amount,
    /// Acknowledged and unpaid amount up to which the provider takes new work.
    pub credit_limit: Amount,
    /// Seconds after a lane's close in which its receipts may be disputed.
    pub dispute_window_s: u64,
}

/// Shortest receipt interval: below it signatures cost more than most tasks.
pub const INTERVAL_MS_MIN: u64 = 1_000;
/// Longest receipt interval: an hour of unacknowledged service.
pub const INTERVAL_MS_MAX: u64 = 3_600_000;
/// Longest acknowledgement timeout and granularity: a day.
pub const TERM_MS_MAX: u64 = 86_400_000;
/// Longest dispute window: a year of 366 days.
pub const DISPUTE_WINDOW_S_MAX: u64 = 366 * 86_400;

impl Default for PricePlan {
    /// Small prices in euro: 0.02 per core-hour, 0.003 per GiB-hour of memory, 0.0001 per GiB-hour of storage, 0.02 per
    /// GB sent, 0.50 per hour of a device held and 0.02 per hour of set-up; a receipt every 10 s, three unacknowledged intervals at most, ten euro of credit, a week to dispute.
    fn default() -> Self {
        let row =
            |dimension, basis, amount_nano, per| PriceRow { dimension, basis, amount_nano, per };
        Self {
            rows: vec![
                row(Dimension::Cpu, Basis::Used, 20_000_000, 3_600_000_000),
                row(Dimension::Mem, Basis::Max, 3_000_000, 3_600 << 20),
                row(Dimension::Storage, Basis::Allocated, 100_000, 3_600 << 20),
                row(Dimension::NetOut, Basis::Used, 20_000_000, 1_000_000_000),
                row(Dimension::Gpu, Basis::Used, 500_000_000, 3_600_000_000),
                row(Dimension::SetUp, Basis::Used, 20_000_000, 3_600_000_000),
            ],
            max_unacked: Amount::from_nano(500_000_000),
            credit_limit: Amount::from_nano(10_000_000_000),
            ..Self::free()
        }
    }
}

impl PricePlan {
    /// Everything at no price, in euro: what a node asks of its own organisation. Usage is still receipted.
    #[must_use]
    pub fn free() -> Self {
        Self {
            currency: Currency::EUR,
            rows: Vec::new(),
            fixed: Amount::ZERO,
            minimum: Amount::ZERO,
            granularity_ms: 1,
            interval_ms: 10_000,
            ack_timeout_ms: 30_000,
            max_unacked: Amount::MAX,
            credit_limit: Amount::MAX,
            dispute_window_s: 7 * 86_400,
        }
    }

    /// The row of a dimension; `None` when it is free.
    #[must_use]
    pub fn row(&self, dimension: Dimension) -> Option<&PriceRow> {
        self.rows.iter().find(|row| row.dimension == dimension)
    }

    /// The counters a receipt states under this plan: per dimension what its row's basis says. A free dimension states what
    /// was used.
    #[must_use]
    pub fn billable(&self, used: &Counters, allocated: &Counters) -> Counters {
        Dimension::ALL.into_iter().fold(Counters::default(), |out, d| {
            let value = match self.row(d).map_or(Basis::Used, |row| row.basis) {
                Basis::Allocated => allocated.get(d),
                Basis::Used => used.get(d),
                Basis::Max => allocated.get(d).max(used.get(d)),
            };
            out.with(d, value)
        })
    }

    /// Checks the bounds that a plan must keep, whoever made it.
    ///
    /// # Errors
    /// [`PricePlanError`] naming the field.
    pub fn check(&self) -> Result<(), PricePlanError> {
        for (path, amount) in [
            ("fixed", self.fixed),
            ("minimum", self.minimum),
            ("max_unacked", self.max_unacked),
            ("credit_limit", self.credit_limit),
        ] {
            if amount.is_negative() {
                return Err(PricePlanError::Negative { path: path.to_owned() });
            }
        }
        for (path, value, min, max) in [
            ("granularity_ms", self.granularity_ms, 0, TERM_MS_MAX),
            ("interval_ms", self.interval_ms, INTERVAL_MS_MIN, INTERVAL_MS_MAX),
            ("ack_timeout_ms", self.ack_timeout_ms, self.interval_ms, TERM_MS_MAX),
            ("dispute_window_s", self.dispute_window_s, 0, DISPUTE_WINDOW_S_MAX),
        ] {
            if value < min || value > max {
                return Err(PricePlanError::Range { path: path.to_owned(), min, max });
            }
        }
        for (index, row) in self.rows.iter().enumerate() {
            if row.amount_nano < 0 {
                return Err(PricePlanError::Negative { path: format!("rows[{index}].amount") });
            }
            if row.per == 0 {
                let path = format!("rows[{index}].per");
                return Err(PricePlanError::Range { path, min: 1, max: u64::MAX });
            }
        }
        match self.rows.windows(2).position(|pair| pair[0].dimension >= pair[1].dimension) {
            Some(index) => Err(PricePlanError::RowOrder {
                path: format!("rows[{}].dimension", index.saturating_add(1)),
            }),
            None => Ok(()),
        }
    }

    /// Writes the plan as fields 5 to 16 of a quote, without the meters (11), which stand between.
    pub(crate) fn write(&self, map: MapWriter, meters: &Vec<Meter>) -> MapWriter {
        map.put(5, &self.currency)
            .put(6, &SCALE)
            .put(7, &self.rows)
            .put(8, &self.fixed)
            .put(9, &self.minimum)
            .put(10, &self.granularity_ms)
            .put(11, meters)
            .put(12, &self.interval_ms)
            .put(13, &self.ack_timeout_ms)
            .put(14, &self.max_unacked)
            .put(15, &self.credit_limit)
            .put(16, &self.dispute_window_s)
    }

    /// Reads fields 5 to 16 of a quote; the meters (11) come back beside the plan.
    pub(crate) fn read(map: &mut MapReader<'_>) -> Result<(Self, Vec<Meter>), CborError> {
        let currency = map.take(5)?;
        read_scale(map, 6)?;
        let rows = map.take(7)?;
        let (fixed, minimum, granularity_ms) = (map.take(8)?, map.take(9)?, map.take(10)?);
        let meters = map.take(11)?;
        let plan = Self {
            currency,
            rows,
            fixed,
            minimum,
            granularity_ms,
            interval_ms: map.take(12)?,
            ack_timeout_ms: map.take(13)?,
            max_unacked: map.take(14)?,
            credit_limit: map.take(15)?,
            dispute_window_s: map.take(16)?,
        };
        Ok((plan, meters))
    }
}

/// Decimals of every amount on the wire: nano-units.
pub(crate) const SCALE: u64 = 9;

/// Reads the scale, which must be [`SCALE`].
pub(crate) fn read_scale(map: &mut MapReader<'_>, key: u64) -> Result<(), CborError> {
    match map.take::<u64>(key)? {
        SCALE => Ok(()),
        _ => Err(CborError::Field { key, expected: "the scale 9" }),
    }
}
