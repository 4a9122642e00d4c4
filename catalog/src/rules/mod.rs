//! Rule books: what has to hold in a collaborative area, in a form that machines check.
//!
//! A [`RuleBook`] is a short list of named rules that the members of an area agreed on. It is looked at three times, each
//! time by a node that decides for itself: when something is shared ([`RuleBook::check_resource`]), when a step is placed
//! and when its provider is asked for an agreement ([`RuleBook::check_placement`]). A refusal is a [`RuleBreak`]: it names
//! the rule, the thing that broke it, and the way out.
//!
//! In a record a book is deterministic CBOR of at most [`BOOK_LEN_MAX`] bytes, `{1: [rule, …]}`, where a rule is
//! `{1: name, 2: kind, ?3: [word, …], ?4: [organisation, …], ?5: unit, ?6: nano-units, ?7: currency}`: kinds 1 (residency), 2
//! (licences) and 6 (runtimes) have words, kind 3 (personal data stays) has nothing, kind 4 has organisations, kind 5 (a
//! price cap) has unit, nano-units and currency. Lists are sorted without repetition, so that the same rules in the same
//! order are the same bytes. A kind that this version does not know makes the whole book unreadable: whoever cannot check a
//! rule must not act as if it held. In the API a book is JSON, and people write the same as YAML (crate `scheduler`,
//! `rules`):
//!
//! ```
//! use catalog::rules::RuleBook;
//!
//! let text = r#"{"rules": [{"residency": ["de", "fr"]}, {"personal": "stays"}]}"#;
//! let book: RuleBook = serde_json::from_str(text)?;
//! assert_eq!(book.rules()[0].to_string(), "residency: data is kept and work runs in de, fr");
//! assert_eq!(RuleBook::decode(&book.encode())?, book);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod form;
mod licence;
mod wire;

pub use check::{InputFacts, Offence, Placement, RuleBreak};
pub use form::{CapForm, MoneyForm, NotOne, RuleForm, Stays};

use crate::amount::{Amount, Currency};
use crate::cbor::CborError;
use crate::id::{Digest, OrgId};
use crate::text::{TextError, check_name};
use crate::wire::word_enum;

/// Longest encoded book in bytes; a longer one is refused. It rides in each member's record of at most 4 KiB.
pub const BOOK_LEN_MAX: usize = 1536;
/// Most rules of a book; more are refused.
pub const RULES_MAX: usize = 16;
/// Most regions, licences, runtimes or organisations of one rule; more are refused.
pub const RULE_LIST_MAX: usize = 32;
/// Longest name of a rule in characters; a longer one is refused.
pub const RULE_NAME_LEN_MAX: usize = 32;
/// Longest region, licence or runtime in a rule, in characters; a longer one is refused.
const WORD_LEN_MAX: usize = 64;

word_enum!(
    /// What a price cap counts.
    PriceUnit, "what a price cap is for",
    {
        /// A whole run.
        Run = 1 "run",
        /// One core for one hour, allocated and used together.
        CpuHour = 2 "cpu_hour",
        /// One GiB of memory for one hour.
        MemoryGibHour = 3 "memory_gib_hour",
        /// One GiB kept for one hour.
        StorageGibHour = 4 "storage_gib_hour",
        /// One GiB brought to a provider or away from it, each way by itself.
        NetGib = 5 "net_gib",
        /// One device held for one hour.
        DeviceHour = 6 "device_hour",
    }
);

/// What a rule asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// Regions in which data is kept and work runs: `eu` allows `eu` and `eu-fr`, not `europe`.
    Residency(Vec<String>),
    /// SPDX ids of licences that what is used may be under.
    Licences(Vec<String>),
    /// Data marked `personal` is worked on only at nodes of the organisation that published it, and never fetched by another.
    PersonalStays,
    /// Organisations that may publish what is used and do work.
    Organisations(Vec<OrgId>),
    /// The most that one of a unit may cost. A price in another currency than the cap's breaks it, unless it is nothing.
    PriceCap {
        /// What is counted.
        unit: PriceUnit,
        /// The most it may cost; not negative.
        max: Amount,
        /// In this currency.
        currency: Currency,
    },
    /// Runtimes that may be used, such as `wasi`.
    Runtimes(Vec<String>),
}

impl RuleKind {
    /// The key in documents, which is also what a rule without a name is called.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Residency(_) => "residency",
            Self::Licences(_) => "licences",
            Self::PersonalStays => "personal",
            Self::Organisations(_) => "organisations",
            Self::PriceCap { .. } => "price",
            Self::Runtimes(_) => "runtimes",
        }
    }

    /// Sorts lists, and leaves out repetitions.
    fn sort(&mut self) {
        match self {
            Self::Residency(words) | Self::Licences(words) | Self::Runtimes(words) => {
                words.sort_unstable();
                words.dedup();
            }
            Self::Organisations(orgs) => {
                orgs.sort_unstable();
                orgs.dedup();
            }
            Self::PersonalStays | Self::PriceCap { .. } => {}
        }
    }
}

/// One rule of a book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What people and refusals call it: a small letter, then small letters, digits and `-`, at most [`RULE_NAME_LEN_MAX`].
    /// No two rules of a book have the same.
    pub name: String,
    /// What it asks.
    pub kind: RuleKind,
}

impl Rule {
    /// A rule that is called what it is: `residency`, `price-cpu-hour`.
    #[must_use]
    pub fn new(kind: RuleKind) -> Self {
        let name = match &kind {
            RuleKind::PriceCap { unit, .. } => format!("price-{}", unit.as_str().replace('_', "-")),
            kind => kind.as_str().to_owned(),
        };
        Self { name, kind }
    }
}

impl std::fmt::Display for Rule {
    /// `residency: data is kept and work runs in de, fr`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.name)?;
        match &self.kind {
            RuleKind::Residency(regions) => {
                write!(f, "data is kept and work runs in {}", regions.join(", "))
            }
            RuleKind::Licences(ids) => write!(f, "what is used is under {}", ids.join(" or ")),
            RuleKind::PersonalStays => f.write_str("personal data stays with who published it"),
            RuleKind::Organisations(orgs) => {
                let orgs: Vec<String> = orgs.iter().map(OrgId::to_string).collect();
                write!(f, "shared and worked on by {} only", orgs.join(", "))
            }
            RuleKind::PriceCap { unit, max, currency } => {
                write!(f, "one {unit} costs at most {max} {currency}")
            }
            RuleKind::Runtimes(words) => write!(f, "programs run with {}", words.join(" or ")),
        }
    }
}

/// Why rules are no rule book.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// More rules than a book may have.
    #[error("{count} rules, at most {RULES_MAX} are allowed: put them together")]
    Count {
        /// Rules given.
        count: usize,
    },
    /// A name that no rule may have.
    #[error(
        "rule {at}: `{name}` is no name: begin with a small letter, then small letters, digits and `-`, at most \
         {RULE_NAME_LEN_MAX}"
    )]
    Name {
        /// The rule, from 1.
        at: usize,
        /// The name, cut to 80 characters.
        name: String,
    },
    /// Two rules of one name.
    #[error("rule {at}: another is called `{name}` already: give one of them a `name` of its own")]
    Twice {
        /// The later rule, from 1.
        at: usize,
        /// The name.
        name: String,
    },
    /// A list without an entry, which nothing would meet.
    #[error("rule {at}: the list is empty: name what is allowed, or leave the rule out")]
    Empty {
        /// The rule, from 1.
        at: usize,
    },
    /// A list that is too long.
    #[error("rule {at}: {count} entries, at most {RULE_LIST_MAX} are allowed")]
    List {
        /// The rule, from 1.
        at: usize,
        /// Entries given.
        count: usize,
    },
    /// A region, licence or runtime that is refused.
    #[error("rule {at}: {source}")]
    Text {
        /// The rule, from 1.
        at: usize,
        /// Why.
        source: TextError,
    },
    /// A cap below zero.
    #[error("rule {at}: the price is below zero")]
    Negative {
        /// The rule, from 1.
        at: usize,
    },
    /// A rule of no kind, or of more than one.
    #[error(
        "rule {at}: write one of `residency`, `licences`, `personal`, `organisations`, `price` or `runtimes`, and no second"
    )]
    OneOf {
        /// The rule, from 1.
        at: usize,
    },
    /// All rules are within their bounds, but not all together.
    #[error("the rule book has {len} bytes, at most {BOOK_LEN_MAX} are allowed: shorten a list")]
    TooLong {
        /// Bytes encoded.
        len: usize,
    },
    /// The bytes are not a rule book that this version knows.
    #[error("the rule book cannot be read; a newer version may have written it")]
    Payload(#[from] CborError),
}

impl RulesError {
    /// The rule that it is about, from 0, when it is about one.
    #[must_use]
    pub const fn rule(&self) -> Option<usize> {
        match self {
            Self::Name { at, .. }
            | Self::Twice { at, .. }
            | Self::Empty { at }
            | Self::List { at, .. }
            | Self::Text { at, .. }
            | Self::Negative { at }
            | Self::OneOf { at } => Some(at.saturating_sub(1)),
            Self::Count { .. } | Self::TooLong { .. } | Self::Payload(_) => None,
        }
    }
}

/// The rules of an area, in their order. Without a rule everything is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "form::BookForm", into = "form::BookForm")]
pub struct RuleBook {
    rules: Vec<Rule>,
}

impl RuleBook {
    /// A book of these rules, with their lists sorted.
    ///
    /// # Errors
    /// See [`RulesError`].
    pub fn new(mut rules: Vec<Rule>) -> Result<Self, RulesError> {
        if rules.len() > RULES_MAX {
            return Err(RulesError::Count { count: rules.len() });
        }
        for at in 0..rules.len() {
            let (before, rest) = rules.split_at_mut(at);
            let Some(rule) = rest.first_mut() else { break };
            rule.kind.sort();
            check_rule(at + 1, rule)?;
            if before.iter().any(|other| other.name == rule.name) {
                return Err(RulesError::Twice { at: at + 1, name: rule.name.clone() });
            }
        }
        let book = Self { rules };
        match book.encode().len() {
            len if len > BOOK_LEN_MAX => Err(RulesError::TooLong { len }),
            _ => Ok(book),
        }
    }

    /// The rules, in their order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether everything is allowed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What names the book: the digest of its encoding.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }
}

/// Whether a text can name a rule.
#[must_use]
pub fn is_rule_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= RULE_NAME_LEN_MAX
        && bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn check_rule(at: usize, rule: &Rule) -> Result<(), RulesError> {
    let (name, kind) = (&rule.name, &rule.kind);
    if !is_rule_name(name) {
        return Err(RulesError::Name { at, name: name.chars().take(80).collect() });
    }
    match kind {
        RuleKind::Residency(words) => check_words(at, "a region", words),
        RuleKind::Licences(words) => check_words(at, "a licence", words),
        RuleKind::Runtimes(words) => check_words(at, "a runtime", words),
        RuleKind::Organisations(orgs) => check_len(at, orgs.len()),
        RuleKind::PriceCap { max, .. } if max.is_negative() => Err(RulesError::Negative { at }),
        RuleKind::PriceCap { .. } | RuleKind::PersonalStays => Ok(()),
    }
}

fn check_words(at: usize, field: &'static str, words: &[String]) -> Result<(), RulesError> {
    check_len(at, words.len())?;
    let check = |word: &String| check_name(field, word, WORD_LEN_MAX);
    words.iter().try_for_each(check).map_err(|source| RulesError::Text { at, source })
}

const fn check_len(at: usize, count: usize) -> Result<(), RulesError> {
    match count {
        0 => Err(RulesError::Empty { at }),
        count if count > RULE_LIST_MAX => Err(RulesError::List { at, count }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
