//! Quotas: how much of this node the people of its organisation may take.
//!
//! The owner sets limits of a **subject**: one person, all people of a group together, all people of this organisation together,
//! or each person by itself (`user:*`). Programs act for a person and count for it. What somebody else than the owner submits or
//! publishes is held against every quota that applies to it before anything is done (`check_work`, `handle_by`);
//! one that is used up refuses it, and says which one, how much is used, and from when on there is room. What the owner does
//! counts for nobody. How much other organisations may take is said elsewhere ([`super::relations`]).
//!
//! Replicas of a service are runs of whoever deployed it.
//!
//! A run counts with the core time of its attempts and with what the nodes that worked on it have claimed. In a period counts
//! the share of it that its time has in the period, so that work slides out of the period bit by bit. A run that is let in may
//! go beyond a quota, since nobody knows before what it takes; no further one is let in then.
//!
//! **Invariant**: what counts is stored in the batch in which it happens: a run that goes on is counted from its log, one that has
//! ended by its line in the book, which is written with its end. A restart forgets nothing.

mod book;
#[cfg(test)]
mod engine_tests;
mod terms;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use accounting::entry::Side;
use catalog::{Amount, Currency};
use rand_core::Rng;
use scheduler::run::{Run, Submitter};
use scheduler::service::Content;
use scheduler::task::RunId;

pub(super) use self::book::Quotas;
use self::book::{Counted, Spent, Tally};
pub use self::terms::{
    Command, EACH, Limits, Measure, Over, PERIOD_MS, PERIOD_MS_MAX, PERIOD_MS_MIN, QUOTAS_MAX,
    QuotaError, QuotaView, Used,
};
use self::terms::{names_of, subject_of};
use super::command::{Command as Order, CommandError, Response};
use super::ledger::attempt_of;
use super::people::check_submitter;
use super::query::tasks_of;
use super::{CommandId, Effect, Engine, services, variants};

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

/// When a run began to take something: with its first attempt.
fn from_ms(run: &Run) -> u64 {
    let attempts = tasks_of(run).flat_map(|(_, task)| &task.attempts);
    attempts.map(|attempt| attempt.started_ms).min().unwrap_or_else(|| run.submitted_ms())
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
            let (from_ms, core_ms) = (from_ms(run), core_ms(run, now_ms));
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

    /// Whether somebody may have a service as it wants it. Those replicas count for whoever deployed the revision, as long as they
    /// run; when one takes another's place both do for a while.
    pub(super) fn check_service(
        &self,
        command: &services::Command,
        by: &Submitter,
        now_ms: u64,
    ) -> Result<(), CommandError> {
        let document = |content: &Content| content.document().ok();
        let (name, wanted) = match command {
            services::Command::Deploy { content } => match document(content) {
                Some(document) => (document.name, document.replicas),
                // Whoever deploys it says what is wrong with it.
                None => return Ok(()),
            },
            services::Command::Update { name, content } => {
                (name.clone(), document(content).and_then(|document| document.replicas))
            }
            services::Command::Scale { name, replicas } => (name.clone(), Some(*replicas)),
            _ => return Ok(()),
        };
        check_submitter(by)?;
        let service = self.services.service(&name);
        let before = service.map_or(1, |service| service.head().replicas);
        let wanted = wanted.unwrap_or(before);
        if matches!(command, services::Command::Scale { .. }) && wanted <= before {
            return Ok(());
        }
        let there = service.map_or(0, |service| service.members().count()) as u64;
        Ok(self.check_work(by, u64::from(wanted).saturating_sub(there), now_ms)?)
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
        if let Order::Service(command) = order {
            let result = self.handle_service_command(command, Some(by), now_ms);
            return self.out.list.push(Effect::Reply { id, result });
        }
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
        let (from_ms, core_ms) = (from_ms(run), core_ms(run, *ended_ms));
        let spent = Spent { who, from_ms, to_ms: *ended_ms, core_ms };
        self.quotas.count(id, spent, &mut self.out.batch);
    }
}
