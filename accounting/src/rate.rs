//! Rating: from counters to money, in integers only.
//!
//! `amount = fixed + Σ floor(counter * amount_nano / per)` over the plan's rows, one floor per dimension on the **cumulative**
//! counter, so the total rounding loss stays below one nano-unit per dimension however many receipts there are. Granularity
//! and minimum are applied once, when a lane closes. Everything is `i128` and checked.

use catalog::Amount;

use crate::dimension::{Counters, Dimension};
use crate::price::{Basis, PricePlan};

/// Why counters cannot be rated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RateError {
    /// The amount does not fit in 64 bits of nano-units.
    #[error(
        "the amount is larger than the largest amount: close the lane and continue under a new one"
    )]
    Overflow,
}

/// The running amount of cumulative counters, as every receipt states it.
///
/// # Errors
/// [`RateError::Overflow`].
pub fn rate(plan: &PricePlan, counters: &Counters) -> Result<Amount, RateError> {
    to_amount(rated(plan, counters))
}

/// What each row of a plan comes to for cumulative counters: [`rate`] without what is fixed. An amount that does not fit is the
/// largest.
pub fn rate_rows(
    plan: &PricePlan,
    counters: &Counters,
) -> impl Iterator<Item = (Dimension, Amount)> {
    plan.rows.iter().map(|row| {
        let product = i128::from(counters.get(row.dimension)) * i128::from(row.amount_nano);
        let nano = product.checked_div_euclid(i128::from(row.per)).unwrap_or(i128::MAX);
        (row.dimension, Amount::from_nano(i64::try_from(nano).unwrap_or(i64::MAX)))
    })
}

/// The final amount of a lane, as its close states it: time-allocated rows are scaled up to whole multiples of the plan's
/// granularity, and at least the minimum is due. `elapsed_ms` is the sum of the receipts' periods.
///
/// # Errors
/// [`RateError::Overflow`].
pub fn rate_closed(
    plan: &PricePlan,
    counters: &Counters,
    elapsed_ms: u64,
) -> Result<Amount, RateError> {
    to_amount(rated(plan, &rounded_up(plan, counters, elapsed_ms)))
        .map(|amount| amount.max(plan.minimum))
}

/// [`rate`], cut to the agreement's maximum: what lies above it is the provider's loss.
#[must_use]
pub fn rate_capped(plan: &PricePlan, counters: &Counters, max: Amount) -> Amount {
    // Prices and counters are not negative, so an overflow lies above every maximum.
    rate(plan, counters).map_or(max, |amount| amount.min(max))
}

/// [`rate_closed`], cut to the agreement's maximum.
#[must_use]
pub fn rate_closed_capped(
    plan: &PricePlan,
    counters: &Counters,
    elapsed_ms: u64,
    max: Amount,
) -> Amount {
    rate_closed(plan, counters, elapsed_ms).map_or(max, |amount| amount.min(max))
}

/// The exact sum, or `None` when it does not even fit in 128 bits.
fn rated(plan: &PricePlan, counters: &Counters) -> Option<i128> {
    plan.rows.iter().try_fold(i128::from(plan.fixed.nano()), |sum, row| {
        // A u64 times an i64 always fits in an i128.
        let product = i128::from(counters.get(row.dimension)) * i128::from(row.amount_nano);
        sum.checked_add(product.checked_div_euclid(i128::from(row.per))?)
    })
}

fn to_amount(nano: Option<i128>) -> Result<Amount, RateError> {
    nano.and_then(|n| i64::try_from(n).ok()).map(Amount::from_nano).ok_or(RateError::Overflow)
}

/// Scales the counters of allocated rows from the elapsed time to the next multiple of the granularity.
fn rounded_up(plan: &PricePlan, counters: &Counters, elapsed_ms: u64) -> Counters {
    let elapsed = u128::from(elapsed_ms);
    let step = u128::from(plan.granularity_ms);
    if step <= 1 || elapsed % step == 0 {
        return *counters;
    }
    let billed = elapsed.div_ceil(step) * step;
    let scale = |n: u64| {
        let scaled = u128::from(n).checked_mul(billed).map(|product| product / elapsed);
        scaled.and_then(|s| u64::try_from(s).ok()).unwrap_or(u64::MAX)
    };
    let allocated = |d: &Dimension| plan.row(*d).is_some_and(|row| row.basis == Basis::Allocated);
    Dimension::ALL
        .into_iter()
        .filter(allocated)
        .fold(*counters, |out, d| out.with(d, scale(counters.get(d))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dimension::DIMENSIONS;
    use crate::price::PriceRow;
    use proptest::prelude::*;

    fn plan(rows: Vec<PriceRow>) -> PricePlan {
        PricePlan { rows, ..PricePlan::free() }
    }

    fn row(dimension: Dimension, basis: Basis, amount_nano: i64, per: u64) -> PriceRow {
        PriceRow { dimension, basis, amount_nano, per }
    }

    proptest! {
        #[test]
        fn rating_is_monotone_and_never_panics(
            a in any::<[u64; DIMENSIONS]>(), b in any::<[u64; DIMENSIONS]>(), price in 0..=i64::MAX, per in 1..=u64::MAX,
        ) {
            let rows = Dimension::ALL.map(|d| row(d, Basis::Used, price, per)).to_vec();
            let plan = plan(rows);
            let low = Counters::from_array(std::array::from_fn(|i| a[i].min(b[i])));
            let high = Counters::from_array(std::array::from_fn(|i| a[i].max(b[i])));
            let max = Amount::MAX;
            prop_assert!(rate_capped(&plan, &low, max) <= rate_capped(&plan, &high, max));
        }

        #[test]
        fn splitting_an_interval_does_not_change_the_final_amount(
            parts in proptest::collection::vec(0..1_000_000u64, 1..20), price in 0..1_000_000i64, per in 1..1_000_000u64,
        ) {
            let plan = plan(vec![row(Dimension::Cpu, Basis::Used, price, per)]);
            let total = parts.iter().sum::<u64>();
            let mut running = 0;
            let mut last = Amount::ZERO;
            for part in parts {
                running += part;
                last = rate(&plan, &Counters::default().with(Dimension::Cpu, running)).unwrap();
            }
            prop_assert_eq!(last, rate(&plan, &Counters::default().with(Dimension::Cpu, total)).unwrap());
            let exact = i128::from(total) * i128::from(price);
            prop_assert!(exact - i128::from(last.nano()) * i128::from(per) < i128::from(per));
        }

        #[test]
        fn counters_up_to_2_to_the_62_rate_at_ordinary_prices(n in 0..=1u64 << 62) {
            let counters = Counters::from_array([n; DIMENSIONS]);
            let plan = plan(vec![row(Dimension::Cpu, Basis::Used, 20_000_000, 3_600_000_000)]);
            prop_assert!(rate(&plan, &counters).is_ok());
        }

        #[test]
        fn a_closed_lane_never_costs_less_than_its_last_receipt(
            n in 0..1u64 << 40, elapsed in 0..10_000_000u64, step in 0..100_000u64,
        ) {
            let rows = vec![row(Dimension::VcpuAlloc, Basis::Allocated, 7, 3)];
            let plan = PricePlan { granularity_ms: step, ..plan(rows) };
            let counters = Counters::default().with(Dimension::VcpuAlloc, n);
            prop_assert!(rate_closed(&plan, &counters, elapsed).unwrap() >= rate(&plan, &counters).unwrap());
        }
    }

    #[test]
    fn one_floor_per_dimension() {
        let plan = plan(vec![
            row(Dimension::Cpu, Basis::Used, 1, 3),
            row(Dimension::Mem, Basis::Used, 1, 3),
        ]);
        let counters = Counters::default().with(Dimension::Cpu, 5).with(Dimension::Mem, 5);
        assert_eq!(rate(&plan, &counters), Ok(Amount::from_nano(2)));
        let rows = [(Dimension::Cpu, Amount::from_nano(1)), (Dimension::Mem, Amount::from_nano(1))];
        assert!(rate_rows(&plan, &counters).eq(rows));
    }

    #[test]
    fn granularity_scales_allocated_rows_only_and_the_minimum_is_due_at_the_close() {
        let plan = PricePlan {
            granularity_ms: 1000,
            minimum: Amount::from_nano(100),
            ..plan(vec![
                row(Dimension::Cpu, Basis::Used, 1, 1),
                row(Dimension::VcpuAlloc, Basis::Allocated, 1, 1),
            ])
        };
        let counters = Counters::default().with(Dimension::Cpu, 5).with(Dimension::VcpuAlloc, 150);
        assert_eq!(rate_closed(&plan, &counters, 1500), Ok(Amount::from_nano(5 + 200)));
        assert_eq!(rate_closed(&plan, &Counters::default(), 0), Ok(Amount::from_nano(100)));
    }

    #[test]
    fn overflow_is_an_error_and_a_cap_cuts_it() {
        let plan = plan(vec![row(Dimension::Cpu, Basis::Used, i64::MAX, 1)]);
        let counters = Counters::default().with(Dimension::Cpu, u64::MAX);
        assert_eq!(rate(&plan, &counters), Err(RateError::Overflow));
        assert_eq!(rate_capped(&plan, &counters, Amount::from_nano(7)), Amount::from_nano(7));
    }
}
