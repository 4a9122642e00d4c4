//! The rule books of this node's areas, and where they hold: when a run is placed, when a quote is given and taken, when an
//! agreement is signed, and when data is opened to others.
//!
//! Each node decides for itself, by its own copy of the book and by what its own catalogue says of the data. The consumer
//! names the area in the task; both sign for it, because the agreement names the task's digest. Invariant: no agreement is
//! signed here, by either side, for a task that breaks a rule of an area that this node is in, as far as it can know.
//!
//! What a liar can do. A consumer that names no area, or another, gets no personal data of a member worked on: what is marked
//! as personal is looked for in every book here, whatever is named. A consumer that names an area which the provider is not
//! in, or is no member itself, is refused. A provider whose record promises what its quote does not keep is declined. Where
//! a machine really stands nobody can check from afar: a false region is a lie that its organisation signed in its record.
//! Data is recognised by the digest of what its publisher described; a part of it under another digest is not. What a step
//! makes of personal data is a result, and free to go: a workflow that copies its input breaks the rule, and only those who
//! let it run can see that.

use std::collections::{BTreeMap, BTreeSet};

use accounting::{PricePlan, Refusal, RefusalCode};
use catalog::record::{PriceList, PriceRow};
use catalog::rules::{InputFacts, Placement, RuleBook, RuleBreak, RuleKind};
use catalog::{Amount, Currency, Digest, NodeId, OrgId};
use scheduler::coordinator::ToPlace;
use scheduler::negotiate::RequestId;
use scheduler::place::{Budget, Candidate, Rejection, Ruling};
use scheduler::run::Submission;
use scheduler::task::{RunId, RuntimeKind, TaskId, TaskSpec};

use super::Engine;
use super::command::CommandError;
use super::directory::{COMPUTE_KEY, content_of};
use super::ledger::attempt_of;

/// An area of which this organisation is a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldRules {
    /// What it is called.
    pub name: String,
    /// Its members, this organisation among them.
    pub members: BTreeSet<OrgId>,
    /// The rule book in force, encoded; empty when there is none.
    pub rules: Vec<u8>,
}

/// The areas of this node with their books read.
#[derive(Clone, Debug, Default)]
pub(super) struct Books(BTreeMap<Digest, Book>);

#[derive(Clone, Debug)]
struct Book {
    name: String,
    members: BTreeSet<OrgId>,
    /// Why it cannot be read, if so: then nothing keeps to it.
    rules: Result<RuleBook, String>,
}

impl Book {
    /// Whether personal data of a member stays with it. A book that cannot be read may say so.
    fn keeps(&self, facts: &InputFacts, by: OrgId) -> Result<(), RuleBreak> {
        match &self.rules {
            Ok(rules) if self.members.contains(&facts.publisher) => rules.check_fetch(facts, by),
            _ => Ok(()),
        }
    }

    /// The facts that count in the area: what a member says of content goes before what others say of the same.
    fn inputs(&self, facts: &[Fact]) -> Vec<InputFacts> {
        let is_said = |facts: &InputFacts| self.members.contains(&facts.publisher);
        let said: BTreeSet<Digest> =
            facts.iter().filter(|(_, facts)| is_said(facts)).map(|(digest, _)| *digest).collect();
        let counts = facts.iter().filter(|(digest, of)| is_said(of) || !said.contains(digest));
        counts.map(|(_, facts)| facts.clone()).collect()
    }

    fn keeps_personal(&self) -> bool {
        self.rules.as_ref().map_or(true, |book| {
            book.rules().iter().any(|rule| rule.kind == RuleKind::PersonalStays)
        })
    }
}

/// What somebody says of content.
type Fact = (Digest, InputFacts);

/// Work that is looked at under the rules.
pub(super) struct Work<'a> {
    pub(super) run: RunId,
    pub(super) step: &'a str,
    /// Under whose rules, if any's.
    pub(super) area: Option<Digest>,
    pub(super) runtime: RuntimeKind,
    /// What it reads, as far as that is known.
    pub(super) blobs: BTreeSet<Digest>,
}

impl<'a> Work<'a> {
    pub(super) fn of(run: RunId, step: &'a str, spec: &TaskSpec) -> Self {
        let blobs = spec.blobs().into_iter().map(|(digest, _)| digest).collect();
        Self { run, step, area: spec.area, runtime: spec.program.runtime(), blobs }
    }

    fn placed(task: ToPlace<'a>) -> Self {
        Self::of(task.run, task.step, task.spec)
    }
}

/// Why a provider does not work by the rules that it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Objection {
    pub(super) code: RefusalCode,
    pub(super) rule: Option<String>,
}

impl Engine {
    /// This organisation is a member of an area, or its members or rules are others now.
    pub fn hold_rules(&mut self, id: Digest, area: HeldRules) {
        let rules = match area.rules.as_slice() {
            [] => Ok(RuleBook::default()),
            bytes => RuleBook::decode(bytes).map_err(|error| error.to_string()),
        };
        let book = Book { name: area.name, members: area.members, rules };
        let before = self.keeps_personal();
        self.books.0.insert(id, book);
        self.reopen(before);
    }

    /// This organisation is no member of an area any more.
    pub fn drop_rules(&mut self, id: Digest) {
        let before = self.keeps_personal();
        self.books.0.remove(&id);
        self.reopen(before);
    }

    fn reopen(&mut self, before: bool) {
        if self.keeps_personal() != before {
            self.expose_all();
        }
    }

    /// Whether personal data that this node publishes is for its own organisation alone.
    pub(super) fn keeps_personal(&self) -> bool {
        self.books.0.values().any(Book::keeps_personal)
    }

    /// Writes the id of the area into a submission in place of its name.
    pub(super) fn resolve_area(&self, submission: &mut Submission) -> Result<(), CommandError> {
        let Some(asked) = submission.area.clone() else { return Ok(()) };
        match self.area_called(&asked) {
            Ok(id) => {
                submission.area = Some(id.to_string());
                Ok(())
            }
            Err(detail) => {
                let asked: String = asked.chars().take(80).collect();
                let detail = format!("area `{asked}`: {detail}; `opencloud area list` shows them");
                Err(CommandError::Submission { detail })
            }
        }
    }

    /// The area of this organisation that a name or an id means, or why it means none.
    pub(super) fn area_called(&self, asked: &str) -> Result<Digest, &'static str> {
        let named = |(id, book): &(&Digest, &Book)| {
            book.name == asked || id.to_string() == asked || id.to_hex() == asked
        };
        let mut found = self.books.0.iter().filter(named).map(|(id, _)| *id);
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id),
            (Some(_), Some(_)) => Err("two areas are called that, use the id"),
            (None, _) => Err("this organisation is in no such area"),
        }
    }

    /// What is known of what a task reads.
    fn facts(&self, work: &Work<'_>, now_ms: u64) -> Vec<Fact> {
        let of = |entry: catalog::Entry<'_>| {
            let (digest, _) = content_of(&entry.resource.detail)?;
            let facts = || (digest, InputFacts::of(entry.resource, entry.org));
            work.blobs.contains(&digest).then(facts)
        };
        self.known(now_ms).filter_map(of).collect()
    }

    /// What the rules say of a task, and of each candidate for it.
    pub(super) fn ruling(
        &self,
        task: ToPlace<'_>,
        candidates: &[Candidate],
        now_ms: u64,
    ) -> Ruling {
        self.ruling_of(&Work::placed(task), candidates, now_ms)
    }

    pub(super) fn ruling_of(
        &self,
        work: &Work<'_>,
        candidates: &[Candidate],
        now_ms: u64,
    ) -> Ruling {
        if self.is_free(work) {
            return Ruling::default();
        }
        let facts = self.facts(work, now_ms);
        let prices = self.published_prices(now_ms);
        let barred = candidates.iter().filter_map(|candidate| {
            let price = prices.get(&candidate.node);
            let why = self.bars(work, candidate, &facts, price)?;
            Some((candidate.node, why))
        });
        Ruling { barred: barred.collect(), budget: self.budget(work) }
    }

    /// Whether there are no rules that could hold for it.
    fn is_free(&self, work: &Work<'_>) -> bool {
        self.books.0.is_empty() && work.area.is_none()
    }

    /// Why the rules keep a task from a candidate.
    fn bars(
        &self,
        work: &Work<'_>,
        candidate: &Candidate,
        facts: &[Fact],
        price: Option<&PriceList>,
    ) -> Option<Rejection> {
        if let Some(id) = work.area {
            let Some(book) = self.books.0.get(&id) else {
                let detail = "this organisation is no member".to_owned();
                return Some(Rejection::NoRules { area: id.to_string(), detail });
            };
            let area = || book.name.clone();
            let rules = match &book.rules {
                Ok(rules) => rules,
                Err(detail) => {
                    return Some(Rejection::NoRules { area: area(), detail: detail.clone() });
                }
            };
            if !book.members.contains(&candidate.org) {
                return Some(Rejection::NotMember { area: area() });
            }
            let placement = Placement {
                step: work.step,
                node: &candidate.node_name,
                org: candidate.org,
                region: &candidate.region,
                runtime: work.runtime.as_str(),
                inputs: &book.inputs(facts),
                price,
            };
            if let Err(broken) = rules.check_placement(&placement) {
                return Some(Rejection::Area(broken));
            }
        }
        self.keeps_from(facts, candidate.org).map(Rejection::Area)
    }

    /// The rule of any area here that keeps personal data from an organisation.
    fn keeps_from(&self, facts: &[Fact], org: OrgId) -> Option<RuleBreak> {
        let books = self.books.0.values();
        books
            .flat_map(|book| facts.iter().map(move |(_, facts)| book.keeps(facts, org)))
            .find_map(Result::err)
    }

    /// What a run has been billed, when the rules cap that.
    fn budget(&self, work: &Work<'_>) -> Option<Budget> {
        let rules = self.books.0.get(&work.area?)?.rules.as_ref().ok()?;
        rules.caps_runs().then(|| Budget { rules: rules.clone(), attempts: self.billed(work.run) })
    }

    fn billed(&self, run: RunId) -> BTreeMap<(TaskId, u32), (Amount, Currency)> {
        let mut billed = BTreeMap::new();
        let consumed = |channel: &&accounting::channel::Channel| {
            channel.side() == accounting::entry::Side::Consumer
        };
        for channel in self.ledger.channels().filter(consumed) {
            for (_, lane) in channel.lanes() {
                let attempt = attempt_of(lane.work());
                if attempt.run == run {
                    let cost = (lane.claimed.max(lane.earned), channel.currency());
                    billed.insert((attempt.task, attempt.number), cost);
                }
            }
        }
        billed
    }

    fn published_prices(&self, now_ms: u64) -> BTreeMap<NodeId, PriceList> {
        let offers = self.known(now_ms).filter(|entry| entry.key == COMPUTE_KEY);
        let priced = offers.filter(|entry| entry.author != self.me);
        priced.filter_map(|entry| Some((entry.author, entry.resource.price.clone()?))).collect()
    }

    /// Why an offer is not taken although its provider was asked: what it asks for is not what its record promises, or the
    /// run has come to cost as much as it may.
    pub(super) fn objects_to_quote(
        &self,
        request: RequestId,
        from: NodeId,
        (plan, estimate): (&PricePlan, Amount),
        now_ms: u64,
    ) -> Option<Rejection> {
        let work = &Work::placed(self.coordinator.asked(request)?);
        if self.is_free(work) {
            return None;
        }
        let candidates = self.candidates(now_ms);
        let candidate = candidates.iter().find(|candidate| candidate.node == from)?;
        let facts = self.facts(work, now_ms);
        let barred = self.bars(work, candidate, &facts, Some(&list_of(plan)));
        barred.or_else(|| {
            let mut budget = self.budget(work)?;
            self.coordinator.expect_others(request, &mut budget);
            budget.check(Some((estimate, plan.currency))).err().map(Rejection::Area)
        })
    }

    /// Whether an agreement that a provider proposes still keeps to the rules: they may have changed since it was asked.
    pub(super) fn still_allows(&self, work: &Work<'_>, provider: NodeId, now_ms: u64) -> bool {
        if self.is_free(work) {
            return true;
        }
        let candidates = self.candidates(now_ms);
        let candidate = candidates.iter().find(|candidate| candidate.node == provider);
        candidate.is_some_and(|candidate| {
            let prices = self.published_prices(now_ms);
            let facts = self.facts(work, now_ms);
            self.bars(work, candidate, &facts, prices.get(&provider)).is_none()
        })
    }

    /// Why this node does not do a task for another one, by its own copies of the rules and its own catalogue.
    pub(super) fn objects_to_work(
        &self,
        from: NodeId,
        spec: &TaskSpec,
        now_ms: u64,
    ) -> Option<Objection> {
        let work = &Work::of(RunId::from_bytes([0; 16]), "asked for", spec);
        if from == self.me || self.is_free(work) {
            return None;
        }
        let facts = self.facts(work, now_ms);
        let own = self.admission.org();
        if let Some(id) = spec.area {
            let consumer = self.admission.peer(from).map(|peer| peer.cert.org);
            let book = self.books.0.get(&id);
            let is_member = |book: &&Book| consumer.is_some_and(|org| book.members.contains(&org));
            let book = book.filter(is_member);
            let Some((book, rules)) = book.and_then(|book| Some((book, book.rules.as_ref().ok()?)))
            else {
                return Some(Objection { code: RefusalCode::Area, rule: None });
            };
            let price = list_of(&self.plan_for(from));
            let placement = Placement {
                step: work.step,
                node: &self.settings.node_name,
                org: own,
                region: &self.settings.compute.region,
                runtime: work.runtime.as_str(),
                inputs: &book.inputs(&facts),
                price: Some(&price),
            };
            if let Err(broken) = rules.check_placement(&placement) {
                return Some(Objection { code: RefusalCode::Rule, rule: Some(broken.rule) });
            }
        }
        // Who names no area may know nothing of rules, and of the codes for them: it hears that a policy is against it.
        let code = if spec.area.is_some() { RefusalCode::Rule } else { RefusalCode::Policy };
        let broken = self.keeps_from(&facts, own)?;
        Some(Objection { code, rule: spec.area.map(|_| broken.rule) })
    }
}

/// Why a node refused this work, when it may well take other work.
pub(super) fn refused_work(refusal: Refusal) -> Option<Rejection> {
    match refusal.code {
        RefusalCode::Rule | RefusalCode::Area => {
            Some(Rejection::RefusedByArea { rule: refusal.rule })
        }
        RefusalCode::Policy => Some(Rejection::RefusedByPolicy),
        RefusalCode::Unsupported => Some(Rejection::RefusedAsUnfit),
        _ => None,
    }
}

/// A plan as records have it.
fn list_of(plan: &PricePlan) -> PriceList {
    let row = |row: &accounting::PriceRow| PriceRow {
        dimension: row.dimension.as_str().to_owned(),
        amount_nano: row.amount_nano,
        per: row.per,
    };
    PriceList {
        currency: plan.currency,
        rows: plan.rows.iter().map(row).collect(),
        fixed: plan.fixed,
    }
}
