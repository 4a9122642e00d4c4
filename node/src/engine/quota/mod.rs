//! Quotas: how much of this node the people of its organisation may take.
//!
//! The owner sets limits of a **subject**: one person, all people of a group together, all people of this organisation together,
//! or each person by itself (`user:*`). Programs act for a person and count for it. What somebody else than the owner submits or
//! publishes is held against every quota that applies to it before anything is done ([`Engine::check_work`], [`Engine::handle_by`]);
//! one that is used up refuses it, and says which one, how much is used, and from when on there is room. What the owner does
//! counts for nobody. How much other organisations may take is said elsewhere ([`super::relations`]).
//!
//! A run counts with the core time of its attempts and with what the nodes that worked on it have claimed. In a period counts
//! the share of it that its time has in the period, so that work slides out of the period bit by bit. A run that is let in may
//! go beyond a quota, since nobody knows before what it takes; no further one is let in then.
//!
//! **Invariant**: what counts is stored in the batch in which it happens: a run that goes on is counted from its log, one that has
//! ended by its line in the book ([`book`]), which is written with its end. A restart forgets nothing.

mod book;
#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use accounting::entry::Side;
use catalog::{Amount, Currency, OrgId};
use rand_core::Rng;
use scheduler::run::{Run, Submitter};
use scheduler::task::RunId;

pub(super) use self::book::Quotas;
use self::book::{Counted, Spent, Tally};
use super::command::{Command as Order, CommandError, Response};
use super::ledger::attempt_of;
use super::query::tasks_of;
use super::{CommandId, Effect, Engine, variants};
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
        (_, None) => "no waiting helps while its runs go on".to_owned(),
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
fn names_of(by: &Submitter, org: OrgId) -> Vec<String> {
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
fn subject_of(text: &str, own: OrgId) -> Result<String, QuotaError> {
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

/// Core milliseconds of a run's attempts so far.
fn core_ms(run: &Run, now_ms: u64) -> u64 {
    tasks_of(run).fold(0_u64, |sum, (id, task)| {
        let needs = run.workflow().step(id.step).map_or(1_000, |step| step.needs.cpu_milli);
        let took = task.attempts.iter().fold(0_u64, |sum, attempt| {
            let failed = attempt.failure.as_ref().map(|(at, _)| *at);
            let ended = failed.or(attempt.committed_ms).unwrap_or(now_ms);
            sum.saturating_add(ended.saturating_sub(attempt.started_ms))
        });
        sum.saturating_add(took.saturating_mul(needs) / 1_000)
    })
}

/// What is published under a key, when a command publishes something.
fn published(order: &Order) -> Option<&str> {
    match order {
        Order::Publish { resource, .. }
        | Order::Variant(variants::Command::Put { resource, .. }) => Some(&resource.key),
        _ => None,
    }
}

impl Engine {
    pub(super) fn handle_quota_command(
        &mut self,
        command: Command,
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        let own = self.admission.org();
        let views = match command {
            Command::Set { subject, limits } => {
                let subject = subject_of(&subject, own)?;
                self.quotas.set(subject, limits, &mut self.out.batch)?;
                return Ok(Response::Done);
            }
            Command::Remove { subject } => {
                let subject = subject_of(&subject, own)?;
                self.quotas.remove(subject, &mut self.out.batch)?;
                return Ok(Response::Done);
            }
            Command::List => {
                let all = self.quotas.all().map(|(subject, limits)| (subject, subject, limits));
                self.quota_views(all, now_ms)
            }
            Command::Of(who) => self.quota_views(self.quotas.applying(&who), now_ms),
        };
        Ok(Response::Quotas(views))
    }

    /// By subject, the name that counts, and limits.
    fn quota_views<'a>(
        &'a self,
        quotas: impl Iterator<Item = (&'a str, &'a str, &'a Limits)>,
        now_ms: u64,
    ) -> Vec<QuotaView> {
        let active = self.active_runs(now_ms);
        let view = |(subject, counted, limits): (&str, &str, &Limits)| QuotaView {
            subject: subject.to_owned(),
            name: None,
            limits: limits.clone(),
            used: self.tally(counted, limits, &active, now_ms).used(now_ms),
        };
        quotas.map(view).collect()
    }

    /// Runs of people that go on, with whom they count for.
    fn active_runs(&self, now_ms: u64) -> Vec<Counted> {
        let org = self.admission.org();
        let runs = self.coordinator.runs().filter(|run| run.ending().is_none());
        runs.filter_map(|run| {
            let who = names_of(run.by()?, org).into_iter().collect();
            let (from_ms, core_ms) = (run.submitted_ms(), core_ms(run, now_ms));
            let spent = Spent { who, from_ms, to_ms: now_ms, core_ms };
            Some(Counted { run: run.id(), is_active: true, spent })
        })
        .collect()
    }

    /// What somebody has taken under a name.
    fn tally(&self, counted: &str, limits: &Limits, active: &[Counted], now_ms: u64) -> Tally {
        let since = now_ms.saturating_sub(limits.period());
        let mine = active.iter().filter(|run| run.spent.who.contains(counted)).cloned();
        let runs: Vec<Counted> = mine.chain(self.quotas.ended(counted, since)).collect();
        let claims = match limits.spend {
            Some(_) => self.claims(&runs, limits.money()),
            None => BTreeMap::new(),
        };
        let records = self.quotas.records(counted).filter(|key| self.is_published(key)).count();
        Tally { period_ms: limits.period(), runs, claims, records: records as u64 }
    }

    /// What other nodes have claimed for some runs. It looks through every channel, as the bill of a run does.
    fn claims(&self, runs: &[Counted], currency: Currency) -> BTreeMap<RunId, Amount> {
        let meant: BTreeSet<RunId> = runs.iter().map(|counted| counted.run).collect();
        let mut claims: BTreeMap<RunId, Amount> = BTreeMap::new();
        let channels = self.ledger.channels();
        let consumed = channels.filter(|c| c.side() == Side::Consumer && c.currency() == currency);
        for (_, lane) in consumed.flat_map(|channel| channel.lanes()) {
            let run = attempt_of(lane.work()).run;
            if meant.contains(&run) {
                let sum = claims.entry(run).or_default();
                *sum = sum.saturating_add(lane.claimed);
            }
        }
        claims
    }

    fn is_published(&self, key: &str) -> bool {
        self.own_resources.contains_key(key) || !self.variants.orgs(key).is_empty()
    }

    /// Whether somebody may have this many more runs.
    pub(super) fn check_work(
        &self,
        by: &Submitter,
        more: u64,
        now_ms: u64,
    ) -> Result<(), QuotaError> {
        let who = names_of(by, self.admission.org());
        let mut applying = self.quotas.applying(&who).peekable();
        if applying.peek().is_none() {
            return Ok(());
        }
        let active = self.active_runs(now_ms);
        for (subject, counted, limits) in applying {
            self.tally(counted, limits, &active, now_ms).check(subject, limits, more, now_ms)?;
        }
        Ok(())
    }

    /// Whether somebody may publish something under a key. What replaces a record is none more.
    fn check_record(&self, who: &[String], key: &str) -> Result<(), QuotaError> {
        if self.is_published(key) {
            return Ok(());
        }
        for (subject, counted, limits) in self.quotas.applying(who) {
            let Some(max) = limits.records else { continue };
            let used = self.quotas.records(counted).filter(|key| self.is_published(key)).count();
            if used as u64 >= max {
                return Err(QuotaError::Over(Box::new(Over {
                    subject: subject.to_owned(),
                    measure: Measure::Records,
                    limit: max.to_string(),
                    used: used.to_string(),
                    period_ms: None,
                    wait_ms: None,
                })));
            }
        }
        Ok(())
    }

    /// Does for somebody else than the owner what no quota forbids.
    pub(super) fn handle_by(
        &mut self,
        id: CommandId,
        (by, order): (&Submitter, Order),
        now_ms: u64,
        rng: &mut dyn Rng,
    ) {
        let Some(key) = published(&order).map(str::to_owned) else {
            return self.handle_command(id, order, now_ms, rng);
        };
        let who = names_of(by, self.admission.org());
        if let Err(error) = self.check_record(&who, &key) {
            return self.out.list.push(Effect::Reply { id, result: Err(error.into()) });
        }
        let was_there = self.is_published(&key);
        self.handle_command(id, order, now_ms, rng);
        if !was_there && self.is_published(&key) {
            self.quotas.take_record(key, who, &mut self.out.batch);
        }
    }

    /// Counts nothing more for whoever published what is withdrawn now.
    pub(super) fn release_record(&mut self, key: &str) {
        if !self.is_published(key) {
            self.quotas.release_record(key, &mut self.out.batch);
        }
    }

    /// Writes down what a run took that has just ended.
    pub(super) fn count_ended(&mut self, id: RunId) {
        let Some(run) = self.coordinator.run(id) else { return };
        let (Some(by), Some((ended_ms, ..))) = (run.by(), run.ending()) else { return };
        let who = names_of(by, self.admission.org()).into_iter().collect();
        let (from_ms, core_ms) = (run.submitted_ms(), core_ms(run, *ended_ms));
        let spent = Spent { who, from_ms, to_ms: *ended_ms, core_ms };
        self.quotas.count(id, spent, &mut self.out.batch);
    }
}
