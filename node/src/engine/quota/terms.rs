//! What is said of quotas: limits, what is taken, refusals, and who counts under which names.

use std::collections::BTreeSet;

use catalog::{Amount, Currency, OrgId};
use scheduler::run::Submitter;

use crate::identity::Person;
use crate::policy::{Principal, Stance, Whom};

/// Quotas of one node; a further one is refused.
pub const QUOTAS_MAX: usize = 1_000;
/// The period when none is said: 30 days.
pub const PERIOD_MS: u64 = 30 * DAY_MS;
/// Longest period, a year: what is older is forgotten.
pub const PERIOD_MS_MAX: u64 = 366 * DAY_MS;
/// Shortest period, a minute: shorter ones say nothing of runs.
pub const PERIOD_MS_MIN: u64 = 60_000;
const DAY_MS: u64 = 24 * 3_600_000;
/// Each person by itself.
pub const EACH: &str = "user:*";

/// What a subject may take; what is absent has no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Runs that have not ended, at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<u64>,
    /// Core seconds of tasks in a period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_s: Option<u64>,
    /// What other nodes may claim for runs in a period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spend: Option<Amount>,
    /// The currency of that; EUR when absent. What is claimed in another one is not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
    /// Records that are published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// The period in milliseconds; 30 days when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_ms: Option<u64>,
}

impl Limits {
    /// The period.
    #[must_use]
    pub fn period(&self) -> u64 {
        self.period_ms.unwrap_or(PERIOD_MS)
    }

    /// The currency of what may be spent.
    #[must_use]
    pub fn money(&self) -> Currency {
        self.currency.unwrap_or(Currency::EUR)
    }
}

/// A quota, and what of it is taken.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct QuotaView {
    /// Whose: `user:ISSUER|SUBJECT`, `group:NAME`, `org:did:key:…`, or `user:*` of each person.
    pub subject: String,
    /// What a person is called, where the node knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it may take.
    pub limits: Limits,
    /// What it has taken; of `user:*` nothing, unless a person asks for its own.
    pub used: Used,
}

/// What somebody has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Used {
    /// Runs that have not ended.
    pub runs: u64,
    /// Core seconds in the period.
    pub cpu_s: u64,
    /// Claimed in the period, in the currency of the quota; nothing where the quota has no limit of it.
    pub spend: Amount,
    /// Records that are published.
    pub records: u64,
}

/// A question or an order about quotas.
#[derive(Clone, Debug)]
pub enum Command {
    /// All of them; the answer is [`QuotaView`]s.
    List,
    /// Those that apply to somebody who counts under these names ([`Principal::counts_for`]).
    Of(Vec<String>),
    /// Sets one; the answer is `Done`.
    Set {
        /// Whose.
        subject: String,
        /// What it may take.
        limits: Limits,
    },
    /// Takes one away; the answer is `Done`.
    Remove {
        /// Whose.
        subject: String,
    },
}

/// Of what somebody has taken too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Runs at once.
    Runs,
    /// Core seconds in a period.
    CpuS,
    /// Money in a period.
    Spend,
    /// Records.
    Records,
}

/// A quota that is used up.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Over {
    /// Whose.
    pub subject: String,
    /// Of what.
    pub measure: Measure,
    /// How much it may take.
    pub limit: String,
    /// How much it has taken.
    pub used: String,
    /// The period, of what is counted in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period_ms: Option<u64>,
    /// How long it takes until there is room again, when nothing more is done until then and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// Why something is not let in, or a quota not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuotaError {
    /// A quota is used up.
    #[error("{}", told(.0))]
    Over(Box<Over>),
    /// There are too many.
    #[error(
        "there are {QUOTAS_MAX} quotas, no more are taken: set one for a group or for `{EACH}`"
    )]
    Full,
    /// Nobody here is called so.
    #[error(
        "`{subject}` gets no quota: write user:NAME, user:ISSUER|SUBJECT, {EACH} for each person, group:NAME, or org: and this node's \
         organisation; `opencloud peers limit` is for other organisations"
    )]
    Subject {
        /// As given, its beginning.
        subject: String,
    },
    /// The period is none.
    #[error(
        "a period has between {PERIOD_MS_MIN} ms (a minute) and {PERIOD_MS_MAX} ms (366 days), not {given}"
    )]
    Period {
        /// As given.
        given: u64,
    },
    /// It limits nothing.
    #[error(
        "the quota limits nothing: say how many runs, core seconds or records, or how much money"
    )]
    Nothing,
    /// Money has no amount below zero.
    #[error("nobody spends less than nothing: {given} is no limit")]
    Negative {
        /// As given.
        given: Amount,
    },
    /// There is none.
    #[error("{subject} has no quota; `opencloud quota list` shows those that are set")]
    Unknown {
        /// Whose.
        subject: String,
    },
}

/// The sentence for people.
fn told(over: &Over) -> String {
    let Over { subject, measure, limit, used, period_ms, wait_ms } = over;
    let what = match measure {
        Measure::Runs => "runs at once",
        Measure::CpuS => "core seconds",
        Measure::Spend => "of spending",
        Measure::Records => "published records",
    };
    let period = period_ms.map(|ms| format!(" in {}", about(ms))).unwrap_or_default();
    let wait = match (measure, wait_ms) {
        (Measure::Runs, _) => "wait until a run has ended".to_owned(),
        (Measure::Records, _) => "withdraw one".to_owned(),
        (_, Some(ms)) => format!("there is room again in {}", about(*ms)),
        (_, None) => "waiting alone does not help".to_owned(),
    };
    format!(
        "the quota of {subject} is used up: {limit} {what}{period}, of which {used} are taken; {wait}, or ask the owner of this node for \
         more (`opencloud quota set`)"
    )
}

/// `5 days`, `3 hours`, rounded up.
fn about(ms: u64) -> String {
    let units = [(DAY_MS, "days"), (3_600_000, "hours"), (60_000, "minutes")];
    let found = units.into_iter().find(|(unit, _)| ms >= 2 * unit);
    let (unit, name) = found.unwrap_or((1_000, "seconds"));
    format!("{} {name}", ms.div_ceil(unit))
}

/// The names under which what somebody does here counts.
pub(super) fn names_of(by: &Submitter, org: OrgId) -> Vec<String> {
    let person = Person {
        org,
        issuer: by.issuer.clone(),
        subject: by.subject.clone(),
        name: by.name.clone(),
        groups: by.groups.clone(),
        roles: BTreeSet::new(),
    };
    Principal::Person { person: Box::new(person), stance: Stance::Own }.counts_for()
}

/// The subject as it counts, of what somebody has written.
pub(super) fn subject_of(text: &str, own: OrgId) -> Result<String, QuotaError> {
    if text == EACH {
        return Ok(text.to_owned());
    }
    let bad = || QuotaError::Subject { subject: text.chars().take(80).collect() };
    let is_own = |org: &Option<OrgId>| org.is_none_or(|org| org == own);
    let stance = Stance::Own;
    Ok(match text.parse::<Whom>().map_err(|_| bad())? {
        Whom::Person { org, issuer, subject } if is_own(&org) => {
            let none = BTreeSet::new;
            let name = subject.clone();
            let person = Person { org: own, issuer, subject, name, groups: none(), roles: none() };
            Principal::Person { person: Box::new(person), stance }.told()
        }
        Whom::Group { org, name } if is_own(&org) => {
            Principal::Group { org: own, stance, name }.told()
        }
        Whom::Org(org) if org == own => Principal::Org { org, stance }.told(),
        _ => return Err(bad()),
    })
}
