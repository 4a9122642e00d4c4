//! The book of quotas against a naive one that remembers everything and counts minute by minute.

use catalog::OrgId;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

use super::book::SPENT_MAX;
use super::*;
use crate::store::batch::{Batch, Table};

const MINUTE: u64 = 60_000;
const PEOPLE: [&[&str]; 4] = [
    &["user:local|ada", "group:lab", "org:us"],
    &["user:local|ben", "group:lab", "group:night", "org:us"],
    &["user:local|eve", "org:us"],
    &["user:local|zoe", "group:night", "org:us"],
];
const SUBJECTS: [&str; 6] =
    ["user:local|ada", "user:local|ben", "group:lab", "group:night", "org:us", EACH];

fn who(person: usize) -> Vec<String> {
    PEOPLE[person].iter().map(|name| (*name).to_owned()).collect()
}

fn run_id(n: u64) -> RunId {
    let mut bytes = [7; 16];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    RunId::from_bytes(bytes)
}

/// A run of the naive book: its cores all the time, its money spread over it.
#[derive(Clone, Copy, Debug)]
struct Job {
    n: u64,
    person: usize,
    from: u64,
    /// Absent of one that goes on.
    to: Option<u64>,
    cores: u64,
    /// Nano-units for each minute.
    rate: u64,
}

impl Job {
    fn minutes(&self, now: u64) -> u64 {
        (self.to.unwrap_or(now) - self.from) / MINUTE
    }

    fn counted(&self, now: u64) -> Counted {
        let (from_ms, to_ms) = (self.from, self.to.unwrap_or(now));
        let core_ms = self.cores * (to_ms - from_ms);
        let spent = Spent { who: who(self.person).into_iter().collect(), from_ms, to_ms, core_ms };
        Counted { run: run_id(self.n), is_active: self.to.is_none(), spent }
    }
}

#[derive(Default)]
struct Naive {
    limits: BTreeMap<String, Limits>,
    jobs: Vec<Job>,
    records: BTreeMap<String, usize>,
}

impl Naive {
    /// The measures of which somebody has too much for one run more, by subject.
    fn over(&self, person: usize, now: u64) -> Vec<(String, Measure)> {
        let mut found = Vec::new();
        for (subject, limits) in &self.limits {
            let counts = |job: &Job| match &**subject == EACH {
                true => job.person == person,
                false => PEOPLE[job.person].contains(&&**subject),
            };
            if &**subject != EACH && !PEOPLE[person].contains(&&**subject) {
                continue;
            }
            let since = now.saturating_sub(limits.period());
            let (mut active, mut core_ms, mut nano) = (0, 0, 0);
            for job in self.jobs.iter().filter(|job| counts(job)) {
                active += u64::from(job.to.is_none());
                for minute in 0..job.minutes(now) {
                    if job.from + minute * MINUTE >= since {
                        core_ms += job.cores * MINUTE;
                        nano += job.rate;
                    }
                }
            }
            let max = limits.spend.map(|max| max.nano().unsigned_abs());
            let first = if limits.runs.is_some_and(|max| active >= max) {
                Some(Measure::Runs)
            } else if limits.cpu_s.is_some_and(|max| core_ms >= max * 1_000) {
                Some(Measure::CpuS)
            } else if max.is_some_and(|max| nano >= max) {
                Some(Measure::Spend)
            } else {
                None
            };
            found.extend(first.map(|measure| (subject.clone(), measure)));
        }
        found
    }
}

struct Both {
    book: Quotas,
    naive: Naive,
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    now: u64,
}

impl Both {
    fn write(&mut self, batch: Batch) {
        for op in batch.ops {
            assert_eq!(op.table, Table::Quotas);
            match op.value {
                Some(value) => self.disk.insert(op.key, value),
                None => self.disk.remove(&op.key),
            };
        }
    }

    fn tally(&self, counted: &str, limits: &Limits) -> Tally {
        let now = self.now;
        let active = self.naive.jobs.iter().filter(|job| job.to.is_none());
        let active = active.map(|job| job.counted(now));
        let active = active.filter(|run| run.spent.who.contains(counted));
        let since = now.saturating_sub(limits.period());
        let runs: Vec<Counted> = active.chain(self.book.ended(counted, since)).collect();
        let claim = |job: &Job| {
            let nano = i64::try_from(job.rate * job.minutes(now)).unwrap();
            (run_id(job.n), Amount::from_nano(nano))
        };
        let claims = self.naive.jobs.iter().map(claim).collect();
        Tally { period_ms: limits.period(), runs, claims, records: 0 }
    }

    fn step(&mut self, rng: &mut ChaCha8Rng, n: u64) {
        let mut draw = |below: u64| rng.next_u64() % below;
        let mut batch = Batch::default();
        match draw(12) {
            0 | 1 => {
                let subject = SUBJECTS[draw(6) as usize].to_owned();
                let mut maybe = |below: u64| (draw(2) == 0).then(|| draw(below));
                let (runs, cpu_s, records) = (maybe(4), maybe(20_000), maybe(4));
                let spend = maybe(5_000).map(|nano| Amount::from_nano(nano as i64));
                let period_ms = Some((1 + draw(300)) * MINUTE);
                let limits = Limits { runs, cpu_s, spend, records, period_ms, ..Limits::default() };
                let set = self.book.set(subject.clone(), limits.clone(), &mut batch);
                let limits_none = runs.or(cpu_s).or(records).is_none() && spend.is_none();
                assert_eq!(set.is_err(), limits_none);
                if set.is_ok() {
                    self.naive.limits.insert(subject, limits);
                }
            }
            2 => {
                let subject = SUBJECTS[draw(6) as usize].to_owned();
                let was_there = self.naive.limits.remove(&subject).is_some();
                assert_eq!(self.book.remove(subject, &mut batch).is_ok(), was_there);
            }
            3..=6 => {
                let person = draw(4) as usize;
                let (cores, rate) = (draw(4), draw(50));
                let job = Job { n, person, from: self.now, to: None, cores, rate };
                self.naive.jobs.push(job);
            }
            7 | 8 => {
                let going = self.naive.jobs.iter_mut().filter(|job| job.to.is_none());
                if let Some(job) = going.last() {
                    job.to = Some(self.now);
                    let counted = job.counted(self.now);
                    self.book.count(counted.run, counted.spent, &mut batch);
                }
            }
            9 => {
                let (key, person) = (format!("data/{}", draw(9)), draw(4) as usize);
                if self.naive.records.insert(key.clone(), person).is_none() {
                    self.book.take_record(key, who(person), &mut batch);
                } else {
                    self.naive.records.remove(&key);
                    self.book.release_record(&key, &mut batch);
                }
            }
            _ => self.now += draw(60) * MINUTE,
        }
        self.write(batch);
    }

    fn compare(&self, person: usize) -> (u64, u64) {
        let (who, now) = (who(person), self.now);
        let expected = self.naive.over(person, now);
        let mut found = Vec::new();
        let mut waits = 0;
        for (subject, counted, limits) in self.book.applying(&who) {
            let tally = self.tally(counted, limits);
            let Err(error) = tally.check(subject, limits, 1, now) else { continue };
            let QuotaError::Over(over) = error else { panic!("{error}") };
            if let Some(wait) = over.wait_ms {
                let after = |ms: u64| tally.check(subject, limits, 1, now + ms).err();
                let is_same = |error: QuotaError| matches!(error, QuotaError::Over(again) if again.measure == over.measure);
                assert!(after(wait - 1).is_some_and(is_same), "{over:?}");
                assert!(!after(wait).is_some_and(is_same), "{over:?}");
                waits += 1;
            }
            found.push((subject.to_owned(), over.measure));
        }
        assert_eq!(found, expected, "{now} {:?}", self.naive.limits);
        for name in PEOPLE.iter().flat_map(|names| names.iter()) {
            let mine = self.naive.records.values();
            let mine = mine.filter(|person| PEOPLE[**person].contains(name)).count();
            assert_eq!(self.book.records(name).count(), mine);
        }
        (found.len() as u64, waits)
    }
}

#[test]
fn the_book_agrees_with_one_that_remembers_everything() {
    let mut rng = ChaCha8Rng::seed_from_u64(42);
    let (mut refused, mut waited) = (0, 0);
    for _ in 0..30 {
        let now = 1_000_000 * MINUTE;
        let mut both =
            Both { book: Quotas::default(), naive: Naive::default(), disk: BTreeMap::new(), now };
        for n in 0..80 {
            both.step(&mut rng, n);
            let (over, waits) = both.compare((rng.next_u64() % 4) as usize);
            refused += over;
            waited += waits;
        }
        let rows: Vec<_> = both.disk.clone().into_iter().collect();
        assert_eq!(Quotas::recover(&rows).unwrap(), both.book, "what is stored is what is known");
    }
    assert!(refused > 100 && waited > 10, "{refused} {waited}");
}

#[test]
fn what_is_old_or_too_much_is_forgotten_and_the_index_with_it() {
    let spent = |to_ms: u64| {
        let who = BTreeSet::from([format!("user:local|{}", to_ms % 3), "org:us".to_owned()]);
        Spent { who, from_ms: 0, to_ms, core_ms: 1 }
    };
    let mut book = Quotas::default();
    let mut batch = Batch::default();
    for n in 0..=SPENT_MAX as u64 {
        book.count(run_id(n), spent(n), &mut batch);
    }
    assert_eq!(book.ended("org:us", 0).count(), SPENT_MAX);
    assert_eq!(book.ended("org:us", 0).next().unwrap().run, run_id(1));
    let late = PERIOD_MS_MAX + SPENT_MAX as u64;
    book.count(run_id(99), spent(late), &mut batch);
    assert_eq!(book.ended("org:us", 0).count(), 2, "one a year ago, and one now");
    let mut rows = BTreeMap::new();
    for op in batch.ops {
        match op.value {
            Some(value) => rows.insert(op.key, value),
            None => rows.remove(&op.key),
        };
    }
    let rows: Vec<_> = rows.into_iter().collect();
    assert_eq!(Quotas::recover(&rows).unwrap(), book);
    assert!(Quotas::recover(&[(b"what/".to_vec(), Vec::new())]).is_err());
}

#[test]
fn bad_quotas_are_refused_with_the_way_out() {
    let own = OrgId::from_bytes([2; 32]);
    for (text, whole) in [
        ("user:*", "user:*".to_owned()),
        ("user:ada", "user:local|ada".to_owned()),
        ("user:https://id.example|7", "user:https://id.example|7".to_owned()),
        ("group:lab", "group:lab".to_owned()),
        (&format!("org:{own}"), format!("org:{own}")),
    ] {
        assert_eq!(subject_of(text, own).unwrap(), whole);
    }
    let other = OrgId::from_bytes([3; 32]);
    for text in ["", "ada", "owner", "user:", &format!("org:{other}"), "node:x"] {
        let error = subject_of(text, own).unwrap_err();
        assert!(error.to_string().contains("group:NAME"), "{error}");
    }
    let mut book = Quotas::default();
    let mut set = |subject: String, limits| book.set(subject, limits, &mut Batch::default());
    let one = Limits { runs: Some(1), ..Limits::default() };
    for (bad, error) in [
        (Limits::default(), QuotaError::Nothing),
        (Limits { period_ms: Some(1), ..one.clone() }, QuotaError::Period { given: 1 }),
        (
            Limits { spend: Some(Amount::from_nano(-1)), ..Limits::default() },
            QuotaError::Negative { given: Amount::from_nano(-1) },
        ),
    ] {
        assert_eq!(set(EACH.to_owned(), bad).unwrap_err(), error);
    }
    for n in 0..QUOTAS_MAX {
        set(format!("group:{n}"), one.clone()).unwrap();
    }
    assert_eq!(set("group:more".to_owned(), one.clone()).unwrap_err(), QuotaError::Full);
    set("group:0".to_owned(), one).unwrap();
}

#[test]
fn a_refusal_names_quota_use_and_the_way_out() {
    let over = |measure, wait_ms| {
        let is_timed = matches!(measure, Measure::CpuS | Measure::Spend);
        let over = Over {
            subject: "group:lab".to_owned(),
            measure,
            limit: "7200".to_owned(),
            used: "7300".to_owned(),
            period_ms: is_timed.then_some(PERIOD_MS),
            wait_ms,
        };
        QuotaError::Over(Box::new(over)).to_string()
    };
    assert_eq!(
        over(Measure::CpuS, Some(3 * 3_600_000 - 1)),
        "the quota of group:lab is used up: 7200 core seconds in 30 days, of which 7300 are taken; there is room again in 3 hours, \
         or ask the owner of this node for more (`opencloud quota set`)"
    );
    assert!(over(Measure::Runs, None).contains("7200 runs at once, of which 7300 are taken; wait"));
    assert!(over(Measure::Records, None).contains("withdraw one, or ask the owner"));
    assert!(over(Measure::Spend, None).contains("waiting alone does not help"));
}
