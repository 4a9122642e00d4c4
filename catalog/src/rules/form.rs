//! A rule book as people and the API write it: `{"rules": [{"residency": ["de"], "name": "home"}]}`.

use super::{PriceUnit, Rule, RuleBook, RuleKind, RulesError};
use crate::amount::{Amount, Currency};
use crate::id::OrgId;

/// A book as JSON.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BookForm {
    rules: Vec<RuleForm>,
}

/// A rule as JSON: a name when it has one of its own, and one of the kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuleForm {
    /// What it is called; left out when it is called after its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Regions in which data is kept and work runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residency: Option<Vec<String>>,
    /// SPDX ids of licences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licences: Option<Vec<String>>,
    /// `stays`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personal: Option<Stays>,
    /// Organisations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organisations: Option<Vec<OrgId>>,
    /// The most that something may cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<CapForm>,
    /// Runtimes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtimes: Option<Vec<String>>,
}

/// What personal data does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stays {
    /// It stays with the organisation that published it.
    Stays,
}

/// A price cap: `{"per": "cpu_hour", "max": "0.10 EUR"}`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapForm {
    /// What is counted.
    pub per: PriceUnit,
    /// An amount and a currency.
    pub max: MoneyForm,
}

/// `0.10 EUR`
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MoneyForm(pub Amount, pub Currency);

impl TryFrom<String> for MoneyForm {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let read = |text: &str| {
            let (amount, currency) = text.split_once(' ')?;
            Some(Self(amount.parse().ok()?, currency.parse().ok()?))
        };
        read(&text).ok_or_else(|| {
            let text: String = text.chars().take(80).collect();
            format!("`{text}` is not a price: write an amount and a currency, as in `0.05 EUR`")
        })
    }
}

impl From<MoneyForm> for String {
    fn from(MoneyForm(amount, currency): MoneyForm) -> Self {
        format!("{amount} {currency}")
    }
}

impl TryFrom<BookForm> for RuleBook {
    type Error = RulesError;
    fn try_from(form: BookForm) -> Result<Self, RulesError> {
        let read = |(at, rule): (usize, RuleForm)| {
            Rule::try_from(rule).map_err(|NotOne| RulesError::OneOf { at: at + 1 })
        };
        Self::new(form.rules.into_iter().enumerate().map(read).collect::<Result<_, _>>()?)
    }
}

impl From<RuleBook> for BookForm {
    fn from(book: RuleBook) -> Self {
        Self { rules: book.rules.into_iter().map(RuleForm::from).collect() }
    }
}

/// A form of no kind, or of more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("exactly one kind of rule has to be written")]
pub struct NotOne;

impl TryFrom<RuleForm> for Rule {
    type Error = NotOne;
    fn try_from(form: RuleForm) -> Result<Self, NotOne> {
        let cap = |CapForm { per: unit, max: MoneyForm(max, currency) }| RuleKind::PriceCap {
            unit,
            max,
            currency,
        };
        let kinds = [
            form.residency.map(RuleKind::Residency),
            form.licences.map(RuleKind::Licences),
            form.personal.map(|Stays::Stays| RuleKind::PersonalStays),
            form.organisations.map(RuleKind::Organisations),
            form.price.map(cap),
            form.runtimes.map(RuleKind::Runtimes),
        ];
        let mut kinds = kinds.into_iter().flatten();
        let (Some(kind), None) = (kinds.next(), kinds.next()) else { return Err(NotOne) };
        let rule = Self::new(kind);
        Ok(Self { name: form.name.unwrap_or(rule.name), kind: rule.kind })
    }
}

impl From<Rule> for RuleForm {
    fn from(rule: Rule) -> Self {
        let Rule { name, kind } = rule;
        let Rule { name: usual, kind } = Rule::new(kind);
        let name = (name != usual).then_some(name);
        let form = Self { name, ..Self::default() };
        match kind {
            RuleKind::Residency(words) => Self { residency: Some(words), ..form },
            RuleKind::Licences(words) => Self { licences: Some(words), ..form },
            RuleKind::PersonalStays => Self { personal: Some(Stays::Stays), ..form },
            RuleKind::Organisations(orgs) => Self { organisations: Some(orgs), ..form },
            RuleKind::PriceCap { unit, max, currency } => {
                Self { price: Some(CapForm { per: unit, max: MoneyForm(max, currency) }), ..form }
            }
            RuleKind::Runtimes(words) => Self { runtimes: Some(words), ..form },
        }
    }
}
