//! What placement optimises, and its text form.

use std::fmt;
use std::str::FromStr;

/// Largest weight of a [`Strategy::Weights`]; larger ones are refused by the parser and count as this in a plan, so that no
/// score overflows.
pub const WEIGHT_MAX: u32 = 1000;

/// What placement optimises among the nodes that keep all hard constraints.
///
/// Text form: `sovereignty`, `performance`, `cost`, or weights such as `sovereignty=1,performance=2,cost=0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Own nodes first, then partners, then peers; within each as `Performance`.
    Sovereignty,
    /// Earliest finish: queue, transfer, speed.
    #[default]
    Performance,
    /// Lowest expected price; among equal ones as `Performance`.
    Cost,
    /// A weighted sum. For weights of 1, one step of trust counts as a minute and one unit of the currency as 1000 s.
    Weights {
        /// Weight of trust.
        sovereignty: u32,
        /// Weight of the expected finish.
        performance: u32,
        /// Weight of the expected price.
        cost: u32,
    },
}

/// Why a text is not a strategy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StrategyError {
    /// Neither a known word nor weights.
    #[error(
        "`{text}` is not a strategy: write `sovereignty`, `performance`, `cost`, or weights like \
         `sovereignty=1,performance=2,cost=0`"
    )]
    Form {
        /// The part that does not fit, cut to 80 characters.
        text: String,
    },
    /// The same weight given twice.
    #[error("the weight of `{name}` is given twice")]
    Repeated {
        /// Which.
        name: &'static str,
    },
    /// A weight out of range.
    #[error("the weight of `{name}` is {weight}, at most {WEIGHT_MAX} is allowed")]
    TooLarge {
        /// Which.
        name: &'static str,
        /// What was given.
        weight: u32,
    },
    /// Nothing to optimise.
    #[error("all weights are 0: give at least one")]
    AllZero,
}

const NAMES: [&str; 3] = ["sovereignty", "performance", "cost"];

impl Strategy {
    /// Weights of trust, finish and price.
    ///
    /// # Errors
    /// When one is above [`WEIGHT_MAX`] or all are 0.
    pub fn weights(sovereignty: u32, performance: u32, cost: u32) -> Result<Self, StrategyError> {
        let weights = [sovereignty, performance, cost];
        if let Some((name, weight)) = NAMES.iter().zip(weights).find(|(_, w)| *w > WEIGHT_MAX) {
            return Err(StrategyError::TooLarge { name, weight });
        }
        if weights == [0; 3] {
            return Err(StrategyError::AllZero);
        }
        Ok(Self::Weights { sovereignty, performance, cost })
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sovereignty => f.pad("sovereignty"),
            Self::Performance => f.pad("performance"),
            Self::Cost => f.pad("cost"),
            Self::Weights { sovereignty, performance, cost } => {
                f.pad(&format!("sovereignty={sovereignty},performance={performance},cost={cost}"))
            }
        }
    }
}

impl FromStr for Strategy {
    type Err = StrategyError;
    fn from_str(text: &str) -> Result<Self, StrategyError> {
        match text {
            "sovereignty" => Ok(Self::Sovereignty),
            "performance" => Ok(Self::Performance),
            "cost" => Ok(Self::Cost),
            _ => parse_weights(text),
        }
    }
}

/// `name=number` up to three times, in any order; what is not named weighs 0.
fn parse_weights(text: &str) -> Result<Strategy, StrategyError> {
    let mut given = [None; 3];
    for part in text.split(',') {
        let bad = || StrategyError::Form { text: part.trim().chars().take(80).collect() };
        let (name, weight) = part.split_once('=').ok_or_else(bad)?;
        let which = NAMES.iter().position(|known| *known == name.trim()).ok_or_else(bad)?;
        let weight: u32 = weight.trim().parse().map_err(|_| bad())?;
        if given[which].replace(weight).is_some() {
            return Err(StrategyError::Repeated { name: NAMES[which] });
        }
    }
    let [sovereignty, performance, cost] = given.map(Option::unwrap_or_default);
    Strategy::weights(sovereignty, performance, cost)
}

impl serde::Serialize for Strategy {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Strategy {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{Strategy, StrategyError, WEIGHT_MAX};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn printed_strategies_parse_back(s in 0..=WEIGHT_MAX, p in 0..=WEIGHT_MAX, c in 1..=WEIGHT_MAX) {
            let strategy = Strategy::weights(s, p, c).unwrap();
            prop_assert_eq!(strategy.to_string().parse(), Ok(strategy));
            let json = serde_json::to_string(&strategy).unwrap();
            prop_assert_eq!(serde_json::from_str::<Strategy>(&json).unwrap(), strategy);
        }

        #[test]
        fn no_text_panics_the_parser(text in "[a-z=,0-9 ]{0,60}|.{0,40}") {
            let _ = text.parse::<Strategy>();
        }
    }

    #[test]
    fn words_and_weights_in_any_order_are_strategies() {
        for (text, strategy) in [
            ("sovereignty", Strategy::Sovereignty),
            ("performance", Strategy::default()),
            ("cost", Strategy::Cost),
            (
                "cost=3, performance=1",
                Strategy::Weights { sovereignty: 0, performance: 1, cost: 3 },
            ),
        ] {
            assert_eq!(text.parse(), Ok(strategy), "{text}");
        }
    }

    #[test]
    fn what_is_no_strategy_is_refused_with_the_reason() {
        let check = |text: &str, expected: &str| {
            assert_eq!(text.parse::<Strategy>().unwrap_err().to_string(), expected, "{text}");
        };
        check("cost=1,cost=2", "the weight of `cost` is given twice");
        check("cost=1001", "the weight of `cost` is 1001, at most 1000 is allowed");
        check("cost=0", "all weights are 0: give at least one");
        for text in ["", "Cost", "cheap", "cost=", "cost=-1", "cost=1,", "price=1"] {
            assert!(matches!(text.parse::<Strategy>(), Err(StrategyError::Form { .. })), "{text}");
        }
    }
}
