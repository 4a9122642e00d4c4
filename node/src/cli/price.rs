//! Price plans: read from YAML or JSON with the place of what is wrong, and prices as people compare them.

use std::path::Path;

use accounting::{PricePlan, PricePlanError};
use catalog::Amount;
use catalog::record::PriceList;
use scheduler::workflow::{Plain, nearest};

use super::document::{places, read_text, refuse};
use super::error::{CliError, Place};
use crate::api::chain;

/// A plan with every common field, for help texts.
pub(super) const EXAMPLE: &str = "  currency: EUR
  rows:                     # a dimension without a row is free
    - {dimension: cpu, amount: 0.02, per: core-hour}
    - {dimension: mem, basis: max, amount: 0.003, per: GiB-hour}
    - {dimension: storage, basis: allocated, amount: 0.0001, per: GiB-hour}
  fixed: 0.0001             # for each attempt
  minimum: 0.0005           # least amount of an attempt
  interval_ms: 10000        # a receipt is due this often
  max_unacked: 0.50         # serve on while no more than this is unacknowledged";

/// Reads a price plan, YAML or JSON.
pub(super) fn read(file: &Path) -> Result<PricePlan, CliError> {
    let text = read_text(file)?;
    parse(&text).map_err(|places| refuse(file, places))
}

fn parse(text: &str) -> Result<PricePlan, Vec<Place>> {
    let plain = Plain::parse(text).map_err(places)?;
    PricePlan::from_json(&plain.json).map_err(|error| vec![place(&plain, &error)])
}

/// Where a plan is wrong, and what to do about it.
fn place(plain: &Plain, error: &PricePlanError) -> Place {
    let path = error.path();
    let name = path.rsplit('.').next().unwrap_or(path);
    let (line, column) = match error {
        PricePlanError::Unknown { .. } => plain.key_at(path),
        _ => plain.value_at(path),
    };
    let hint = match error {
        PricePlanError::Unknown { known, .. } => {
            let given = [plain.text_at(path), Some(name)].into_iter().flatten();
            let meant = given.filter_map(|given| nearest(given, known.split(", "))).next();
            meant.map(|meant| format!("did you mean `{meant}`?"))
        }
        PricePlanError::Missing { .. } | PricePlanError::Type { .. } => {
            Some("`opencloud up --help` shows a whole plan".to_owned())
        }
        _ => None,
    };
    let problem = chain(error);
    let problem = problem.strip_prefix("price plan: ").unwrap_or(&problem).to_owned();
    Place { line, column, path: path.to_owned(), problem, hint }
}

/// A line for each price, in units that people compare: `0.02 EUR per core-hour`.
pub(super) fn lines(price: &PriceList) -> Vec<String> {
    if price.is_free() {
        return vec!["free".to_owned()];
    }
    let rows = price.rows.iter().map(|row| {
        let (units, name) = unit(&row.dimension);
        let nano = i128::from(row.amount_nano) * i128::from(units) / i128::from(row.per.max(1));
        match i64::try_from(nano) {
            Ok(nano) => format!("{} {} per {name}", Amount::from_nano(nano), price.currency),
            // More than an amount can hold: as it is written.
            Err(_) => {
                let amount = Amount::from_nano(row.amount_nano);
                format!("{amount} {} per {} of {}", price.currency, row.per, row.dimension)
            }
        }
    });
    let fixed = (price.fixed != Amount::ZERO)
        .then(|| format!("{} {} for each attempt", price.fixed, price.currency));
    rows.chain(fixed).collect()
}

/// How many base units of a dimension people compare prices by, and what they call them.
fn unit(dimension: &str) -> (u64, &str) {
    const HOUR: u64 = 3_600;
    match dimension {
        "cpu" => (HOUR * 1_000_000, "core-hour used"),
        "vcpu_alloc" => (HOUR * 1_000_000, "core-hour reserved"),
        "mem" => (HOUR << 20, "GiB-hour of memory"),
        "storage" => (HOUR << 20, "GiB-hour of disk"),
        "net_in" => (1_000_000_000, "GB received"),
        "net_out" => (1_000_000_000, "GB sent"),
        "io" => (1_000_000_000, "GB read and written"),
        "gpu" => (HOUR * 1_000_000, "GPU-hour"),
        "fuel" => (1_000_000_000, "thousand million instructions"),
        "energy" => (3_600_000_000, "kWh"),
        "requests" => (1_000_000, "million requests"),
        "set_up" => (HOUR * 1_000_000, "hour of set-up"),
        other => (1, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use catalog::Currency;
    use catalog::record::PriceRow;

    #[test]
    fn the_example_is_a_plan_and_means_the_same_in_json() {
        let plan = parse(EXAMPLE).unwrap();
        assert_eq!(plan.rows.len(), 3);
        assert_eq!(plan.max_unacked, Amount::from_nano(500_000_000));
        assert_eq!(parse(&plan.to_json().to_string()).unwrap(), plan);
    }

    #[test]
    fn amounts_are_the_digits_that_stand_there() {
        let row = |amount: &str| {
            let text = format!(
                "currency: EUR\nrows: [{{dimension: cpu, amount: {amount}, per: core-hour}}]"
            );
            parse(&text).map(|plan| plan.rows[0].amount_nano)
        };
        assert_eq!(row("0.1"), Ok(100_000_000));
        assert_eq!(row("'0.123456789'"), Ok(123_456_789));
        assert_eq!(row("2"), Ok(2_000_000_000));
        assert!(row("0.1234567891").is_err());
        assert!(row("1e-3").is_err());
    }

    #[test]
    fn what_is_wrong_has_its_place_and_a_hint() {
        let head = "currency: EUR\nrows:\n";
        for (text, at, path, problem, hint) in [
            (
                "curency: EUR\nrows: []\n".to_owned(),
                (1, 1),
                "curency",
                "is unknown",
                Some("did you mean `currency`?"),
            ),
            (
                "currency: EUR\n".to_owned(),
                (1, 1),
                "rows",
                "is missing",
                Some("`opencloud up --help` shows a whole plan"),
            ),
            (
                format!("{head}  - {{dimension: cpus, amount: 1, per: core-hour}}\n"),
                (3, 6),
                "rows[0].dimension",
                "is unknown",
                Some("did you mean `cpu`?"),
            ),
            (
                format!("{head}  - {{dimension: cpu, amount: 1, per: hour}}\n"),
                (3, 38),
                "rows[0].per",
                "core-hour",
                None,
            ),
            (
                format!("{head}  - {{dimension: cpu, amount: -1, per: core-hour}}\n"),
                (3, 30),
                "rows[0].amount",
                "negative",
                None,
            ),
        ] {
            let found = parse(&text).unwrap_err();
            assert_eq!(found.len(), 1, "{text}");
            let found = &found[0];
            assert_eq!((found.line, found.column), at, "{text}: {found:?}");
            assert_eq!(found.path, path, "{text}");
            assert!(found.problem.contains(problem), "{text}: {found:?}");
            assert_eq!(found.hint.as_deref(), hint, "{text}");
        }
    }

    #[test]
    fn a_key_that_stands_twice_and_text_that_is_no_plan_are_refused() {
        let found = parse("currency: EUR\nrows: []\ncurrency: USD\n").unwrap_err();
        assert_eq!((found[0].line, found[0].column), (3, 1));
        assert_eq!(found[0].hint.as_deref(), Some("keep one of the two"));
        for text in ["", "prices: [", "just text", "- a\n- b\n"] {
            assert!(!parse(text).unwrap_err().is_empty(), "{text}");
        }
    }

    #[test]
    fn prices_are_told_in_units_that_people_compare() {
        let row = |dimension: &str, amount_nano, per| PriceRow {
            dimension: dimension.to_owned(),
            amount_nano,
            per,
        };
        let price = PriceList {
            rows: vec![
                row("cpu", 20_000_000, 3_600_000_000),
                row("mem", 1_500_000, 3_600 << 19),
                row("net_out", 20, 1_000),
                row("coffee", 7, 2),
                row("energy", i64::MAX, 1),
            ],
            fixed: Amount::from_nano(100_000),
            ..PriceList::free(Currency::EUR)
        };
        assert_eq!(
            lines(&price),
            [
                "0.02 EUR per core-hour used",
                "0.003 EUR per GiB-hour of memory",
                "0.02 EUR per GB sent",
                "0.000000003 EUR per coffee",
                "9223372036.854775807 EUR per 1 of energy",
                "0.0001 EUR for each attempt",
            ]
        );
        assert_eq!(lines(&PriceList::free(Currency::EUR)), ["free"]);
    }
}
