//! The book of quotas: limits by subject, what ended runs took, who published what; and how it adds up.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use catalog::Amount;
use scheduler::task::RunId;

use super::{
    EACH, Limits, Measure, Over, PERIOD_MS_MAX, PERIOD_MS_MIN, QUOTAS_MAX, QuotaError, Used,
};
use crate::engine::stored;
use crate::store::batch::{Batch, Table};

/// Ended runs that are counted; with more, the one that ended longest ago counts no more. Nobody gets round an own quota by that:
/// whoever is above it starts no run that could push another one out.
pub(super) const SPENT_MAX: usize = 50_000;

const LIMIT: &[u8] = b"limit/";
const RUN: &[u8] = b"run/";
const RECORD: &[u8] = b"record/";

/// What a run took.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Spent {
    /// For whom it counts.
    pub who: BTreeSet<String>,
    /// When its first attempt began (Unix ms).
    pub from_ms: u64,
    /// When it ended (Unix ms); now, of one that goes on.
    pub to_ms: u64,
    pub core_ms: u64,
}

impl Spent {
    /// The share of an amount that falls into the time since a moment, when the amount is spread over the run's time.
    fn share(&self, of: u64, since_ms: u64) -> u64 {
        if self.to_ms <= since_ms {
            return 0;
        }
        let whole = self.to_ms.saturating_sub(self.from_ms);
        let part = self.to_ms - since_ms.max(self.from_ms).min(self.to_ms);
        if whole == 0 || part == whole {
            return of;
        }
        let share = u128::from(of) * u128::from(part) / u128::from(whole);
        u64::try_from(share).unwrap_or(of)
    }
}

/// A run as it counts.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    pub run: RunId,
    pub is_active: bool,
    pub spent: Spent,
}

/// What somebody has taken, of which sums can be asked at any time from now on.
pub(super) struct Tally {
    pub period_ms: u64,
    pub runs: Vec<Counted>,
    pub claims: BTreeMap<RunId, Amount>,
    pub records: u64,
}

impl Tally {
    fn sum(&self, of: impl Fn(&Counted) -> u64, at_ms: u64) -> u64 {
        let since_ms = at_ms.saturating_sub(self.period_ms);
        self.runs.iter().fold(0, |sum: u64, counted| {
            sum.saturating_add(counted.spent.share(of(counted), since_ms))
        })
    }

    fn core_ms(&self, at_ms: u64) -> u64 {
        self.sum(|counted| counted.spent.core_ms, at_ms)
    }

    /// In nano-units.
    fn claimed(&self, at_ms: u64) -> u64 {
        let of = |counted: &Counted| {
            let claim = self.claims.get(&counted.run).map_or(0, |claim| claim.nano());
            u64::try_from(claim).unwrap_or(0)
        };
        self.sum(of, at_ms)
    }

    fn active(&self) -> u64 {
        self.runs.iter().filter(|counted| counted.is_active).count() as u64
    }

    pub(super) fn used(&self, now_ms: u64) -> Used {
        Used {
            runs: self.active(),
            cpu_s: self.core_ms(now_ms) / 1_000,
            spend: amount(self.claimed(now_ms)),
            records: self.records,
        }
    }

    /// How long it takes until a sum is below a limit when nothing is added; `None` when that is not within a period or runs
    /// that go on add to it.
    fn wait_ms(&self, sum: impl Fn(u64) -> u64, limit: u64, now_ms: u64) -> Option<u64> {
        let (mut over, mut below) = (now_ms, now_ms.saturating_add(self.period_ms));
        if self.active() > 0 || sum(below) >= limit {
            return None;
        }
        while below - over > 1 {
            let middle = over + (below - over) / 2;
            if sum(middle) >= limit { over = middle } else { below = middle }
        }
        Some(below - now_ms)
    }

    /// Whether a subject with these limits may have this many more runs.
    pub(super) fn check(
        &self,
        subject: &str,
        limits: &Limits,
        more: u64,
        now_ms: u64,
    ) -> Result<(), QuotaError> {
        let over = |measure, limit: String, used: String, wait: Option<Option<u64>>| {
            let (period_ms, wait_ms) = (wait.map(|_| self.period_ms), wait.flatten());
            let subject = subject.to_owned();
            let over = Over { subject, measure, limit, used, period_ms, wait_ms };
            Err(QuotaError::Over(Box::new(over)))
        };
        let active = self.active();
        if let Some(max) = limits.runs.filter(|max| active.saturating_add(more) > *max) {
            return over(Measure::Runs, max.to_string(), active.to_string(), None);
        }
        let core_ms = self.core_ms(now_ms);
        let max_ms = limits.cpu_s.map(|max| (max, max.saturating_mul(1_000)));
        if let Some((max, max_ms)) = max_ms.filter(|(_, max_ms)| core_ms >= *max_ms) {
            let wait = self.wait_ms(|at| self.core_ms(at), max_ms, now_ms);
            return over(Measure::CpuS, max.to_string(), (core_ms / 1_000).to_string(), Some(wait));
        }
        let claimed = self.claimed(now_ms);
        let nano = limits.spend.map(|max| (max, max.nano().unsigned_abs()));
        if let Some((max, nano)) = nano.filter(|(_, nano)| claimed >= *nano) {
            let wait = self.wait_ms(|at| self.claimed(at), nano, now_ms);
            let money = limits.money();
            return over(
                Measure::Spend,
                format!("{max} {money}"),
                format!("{} {money}", amount(claimed)),
                Some(wait),
            );
        }
        Ok(())
    }
}

fn amount(nano: u64) -> Amount {
    Amount::from_nano(i64::try_from(nano).unwrap_or(i64::MAX))
}

/// Quotas, and what counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Quotas {
    limits: BTreeMap<String, Limits>,
    /// What ended runs took, the one that ended first in front.
    spent: BTreeMap<(u64, RunId), Spent>,
    /// The keys of `spent` by whom they count for.
    spent_by: BTreeMap<String, BTreeSet<(u64, RunId)>>,
    /// For whom a published record counts, by key.
    records: BTreeMap<String, BTreeSet<String>>,
}

/// A row that this program did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of the quotas cannot be read")]
pub(in crate::engine) struct BadRow;

fn row_key(kind: &[u8], name: &[u8]) -> Vec<u8> {
    [kind, name].concat()
}

fn run_key((ended_ms, run): (u64, RunId)) -> Vec<u8> {
    [RUN, &ended_ms.to_be_bytes(), run.as_bytes()].concat()
}

impl Quotas {
    /// As the rows say.
    pub(in crate::engine) fn recover(rows: &[(Vec<u8>, Vec<u8>)]) -> Result<Self, BadRow> {
        fn read<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T, BadRow> {
            ciborium::from_reader(value).map_err(|_| BadRow)
        }
        let text = |name: &[u8]| String::from_utf8(name.to_vec()).map_err(|_| BadRow);
        let mut quotas = Self::default();
        for (key, value) in rows {
            if let Some(name) = key.strip_prefix(LIMIT) {
                quotas.limits.insert(text(name)?, read(value)?);
            } else if let Some(key) = key.strip_prefix(RUN) {
                let (ended_ms, run) = key.split_first_chunk().ok_or(BadRow)?;
                let run = RunId::from_bytes(run.try_into().map_err(|_| BadRow)?);
                quotas.add((u64::from_be_bytes(*ended_ms), run), read(value)?);
            } else if let Some(name) = key.strip_prefix(RECORD) {
                quotas.records.insert(text(name)?, read(value)?);
            } else {
                return Err(BadRow);
            }
        }
        Ok(quotas)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Limits)> {
        self.limits.iter().map(|(subject, limits)| (subject.as_str(), limits))
    }

    pub(super) fn set(
        &mut self,
        subject: String,
        limits: Limits,
        batch: &mut Batch,
    ) -> Result<(), QuotaError> {
        let Limits { runs, cpu_s, spend, records, period_ms, .. } = &limits;
        if let Some(given) = period_ms.filter(|ms| !(PERIOD_MS_MIN..=PERIOD_MS_MAX).contains(ms)) {
            return Err(QuotaError::Period { given });
        }
        if let Some(given) = spend.filter(|amount| *amount < Amount::ZERO) {
            return Err(QuotaError::Negative { given });
        }
        if runs.or(*cpu_s).or(*records).is_none() && spend.is_none() {
            return Err(QuotaError::Nothing);
        }
        if self.limits.len() >= QUOTAS_MAX && !self.limits.contains_key(&subject) {
            return Err(QuotaError::Full);
        }
        batch.put(Table::Quotas, row_key(LIMIT, subject.as_bytes()), stored(&limits));
        self.limits.insert(subject, limits);
        Ok(())
    }

    pub(super) fn remove(&mut self, subject: String, batch: &mut Batch) -> Result<(), QuotaError> {
        if self.limits.remove(&subject).is_none() {
            return Err(QuotaError::Unknown { subject });
        }
        batch.delete(Table::Quotas, row_key(LIMIT, subject.as_bytes()));
        Ok(())
    }

    /// Those that apply to somebody by these names, each with the name under which that counts.
    pub(super) fn applying<'a>(
        &'a self,
        who: &'a [String],
    ) -> impl Iterator<Item = (&'a str, &'a str, &'a Limits)> {
        self.limits.iter().filter_map(move |(subject, limits)| {
            let counted = match subject == EACH {
                true => who.iter().find(|name| name.starts_with("user:"))?,
                false => who.iter().find(|name| *name == subject)?,
            };
            Some((&**subject, &**counted, limits))
        })
    }

    /// Runs of somebody that ended after a moment.
    pub(super) fn ended(&self, counted: &str, since_ms: u64) -> impl Iterator<Item = Counted> {
        let first = (since_ms, RunId::from_bytes([0; 16]));
        let of = self.spent_by.get(counted);
        let keys = of
            .into_iter()
            .flat_map(move |keys| keys.range((Bound::Included(first), Bound::Unbounded)));
        keys.filter_map(|key| {
            let spent = self.spent.get(key)?.clone();
            Some(Counted { run: key.1, is_active: false, spent })
        })
    }

    /// Keys that somebody published something under.
    pub(super) fn records(&self, counted: &str) -> impl Iterator<Item = &str> {
        let of = self.records.iter().filter(move |(_, who)| who.contains(counted));
        of.map(|(key, _)| key.as_str())
    }

    fn add(&mut self, key: (u64, RunId), spent: Spent) {
        for name in &spent.who {
            self.spent_by.entry(name.clone()).or_default().insert(key);
        }
        self.spent.insert(key, spent);
    }

    /// Counts a run that has ended, and forgets those that no period reaches any more.
    pub(super) fn count(&mut self, run: RunId, spent: Spent, batch: &mut Batch) {
        let now_ms = spent.to_ms;
        while let Some((key, _)) = self.spent.first_key_value()
            && (self.spent.len() >= SPENT_MAX || key.0.saturating_add(PERIOD_MS_MAX) < now_ms)
        {
            let key = *key;
            batch.delete(Table::Quotas, run_key(key));
            for name in self.spent.remove(&key).into_iter().flat_map(|spent| spent.who) {
                if let Some(keys) = self.spent_by.get_mut(&name) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        self.spent_by.remove(&name);
                    }
                }
            }
        }
        batch.put(Table::Quotas, run_key((now_ms, run)), stored(&spent));
        self.add((now_ms, run), spent);
    }

    pub(super) fn take_record(&mut self, key: String, who: Vec<String>, batch: &mut Batch) {
        let who: BTreeSet<String> = who.into_iter().collect();
        batch.put(Table::Quotas, row_key(RECORD, key.as_bytes()), stored(&who));
        self.records.insert(key, who);
    }

    pub(super) fn release_record(&mut self, key: &str, batch: &mut Batch) {
        if self.records.remove(key).is_some() {
            batch.delete(Table::Quotas, row_key(RECORD, key.as_bytes()));
        }
    }
}
