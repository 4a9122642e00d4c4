//! What the rules of collaborative areas say of a task: which nodes may not have it, and what its run may still cost.

use std::collections::BTreeMap;

use catalog::rules::{RuleBook, RuleBreak};
use catalog::{Amount, Currency, NodeId};

use super::Rejection;
use crate::task::TaskId;

/// What one attempt costs.
pub type Cost = (Amount, Currency);

/// What the rules say of a task. The default forbids nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruling {
    /// Nodes that may not have it, each with the first rule that it breaks.
    pub barred: BTreeMap<NodeId, Rejection>,
    /// What the run may cost, when the rules cap it.
    pub budget: Option<Budget>,
}

impl Ruling {
    /// Why a candidate that would cost so much may not have the task.
    pub(super) fn bars(&self, node: NodeId, price: Option<Cost>) -> Option<Rejection> {
        if let Some(barred) = self.barred.get(&node) {
            return Some(barred.clone());
        }
        self.budget.as_ref()?.check(price).err().map(Rejection::Area)
    }
}

/// What a run has cost, and the rules that cap it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The rules.
    pub rules: RuleBook,
    /// What its attempts have cost, or are taken to cost.
    pub attempts: BTreeMap<(TaskId, u32), Cost>,
}

impl Budget {
    /// Counts an attempt that is under way with what it is taken to cost, when that is more than its bill so far.
    pub fn expect(&mut self, attempt: (TaskId, u32), estimate: Cost) {
        let cost = self.attempts.entry(attempt).or_insert(estimate);
        if cost.1 == estimate.1 && cost.0 < estimate.0 {
            *cost = estimate;
        }
    }

    /// Whether the run keeps to its caps with one more attempt of this price.
    ///
    /// # Errors
    /// The rule that it would break.
    pub fn check(&self, price: Option<Cost>) -> Result<(), RuleBreak> {
        let mut sums: BTreeMap<Currency, Amount> = BTreeMap::new();
        for (amount, currency) in self.attempts.values().copied().chain(price) {
            let sum = sums.entry(currency).or_default();
            *sum = sum.saturating_add(amount);
        }
        // Who asks no money is not kept from a run that has spent all: nothing is added.
        match price {
            None => Ok(()),
            Some((amount, _)) if amount == Amount::ZERO => Ok(()),
            Some(_) => sums.into_iter().try_for_each(|(of, sum)| self.rules.check_run(sum, of)),
        }
    }
}

#[cfg(test)]
mod tests {
    use catalog::rules::{PriceUnit, Rule, RuleKind};

    use super::*;

    #[test]
    fn what_is_under_way_counts_with_the_larger_of_bill_and_estimate() {
        let eur = |nano: i64| (Amount::from_nano(nano), Currency::EUR);
        let cap = |unit| RuleKind::PriceCap {
            unit,
            max: Amount::from_nano(100),
            currency: Currency::EUR,
        };
        let rules = RuleBook::new(vec![Rule::new(cap(PriceUnit::Run))]).unwrap();
        let task = |index| TaskId { step: 0, index };
        let mut budget = Budget { rules, attempts: BTreeMap::new() };
        budget.attempts.insert((task(0), 1), eur(40));
        budget.expect((task(0), 1), eur(30));
        budget.expect((task(1), 1), eur(20));
        assert_eq!(budget.check(Some(eur(40))), Ok(()), "40 and 20 and 40");
        assert_eq!(budget.check(Some(eur(41))).unwrap_err().rule, "price-run");
        budget.expect((task(1), 1), eur(61));
        assert!(budget.check(Some(eur(1))).is_err());
        assert_eq!((budget.check(None), budget.check(Some(eur(0)))), (Ok(()), Ok(())));
        let other = ("1".parse().unwrap(), "USD".parse().unwrap());
        budget.attempts.clear();
        assert!(budget.check(Some(other)).is_err(), "a cap in EUR is none in USD");
    }
}
