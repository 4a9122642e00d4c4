//! What a node's decisions cost: one engine, one run of mapped tasks that do nothing and end at once, every batch
//! committed to a real store in groups, as the shell does it.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[path = "support/figure.rs"]
mod figure;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use accounting::{Counters, PricePlan};
use catalog::Digest;
use catalog::record::ComputeDetail;
use ed25519_dalek::SigningKey;
use node::engine::command::Command;
use node::engine::{Effect, Engine, Input, Papers, Settings, Stored};
use node::store::batch::Batch;
use node::store::truth::Truth;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;
use scheduler::negotiate::Outcome;
use scheduler::run::{EventBody, Submission};
use scheduler::task::{FailureClass, Stage};
use scheduler::value::FileRef;

/// Tasks of the run.
const TASKS: usize = 10_000;
/// Inputs that one commit serves at most, as in the shell.
const TURN_MAX: usize = 512;
/// Where virtual time begins, Unix milliseconds. It goes as real time does, and jumps over waits.
const START_MS: u64 = 1_800_000_000_000;

fn main() {
    if !figure::is_asked_to_measure() {
        return;
    }
    // The third run leaves the coordinator no task that could be asked about without a place for it.
    for (slots, max_parallel) in [(8, None), (256, None), (8, Some(8))] {
        let scenario = match max_parallel {
            None => format!("{slots} slots"),
            Some(most) => format!("{slots} slots, max_parallel {most}"),
        };
        Bench::new(slots, max_parallel).run().report(&scenario);
    }
}

/// Where the time went.
#[derive(Debug, Default)]
struct Spent {
    whole: Duration,
    engine: Duration,
    /// Each commit in seconds.
    commits: Vec<f64>,
    /// By kind of input: time and how many.
    by_input: BTreeMap<&'static str, (Duration, u64)>,
    n_ops: usize,
    n_waits: u64,
    waited_ms: u64,
    /// Engine time of each tenth of the tasks.
    tenths: Vec<Duration>,
}

impl Spent {
    #[expect(clippy::cast_precision_loss, reason = "counts and times of a bench are small")]
    fn report(&self, scenario: &str) {
        let per_task = |spent: Duration| spent.as_secs_f64() * 1e3 / TASKS as f64;
        let name = |what: &str| format!("engine: {what}, {scenario}");
        let show =
            |what: &str, value: &str, target: &str| figure::figure(&name(what), value, target);
        show("decisions", &format!("{:.4} ms/task", per_task(self.engine)), "<= 0.1 ms/task");
        let (all, rate) = (per_task(self.whole), TASKS as f64 / self.whole.as_secs_f64());
        show("decisions and durable log", &format!("{all:.4} ms/task"), "");
        show("tasks", &format!("{rate:.0} /s"), ">= 10000 /s");
        let n_commits = self.commits.len();
        let each = figure::time(figure::median(self.commits.clone()));
        let tasks = TASKS as f64 / n_commits as f64;
        show("commits", &format!("{n_commits} of {each}, {tasks:.1} tasks per commit"), "");
        show("rows", &format!("{:.1} per task", self.n_ops as f64 / TASKS as f64), "");
        show(
            "waits for a timer",
            &format!("{} of {} ms in all", self.n_waits, self.waited_ms),
            "0",
        );
        let mut split = String::new();
        for (input, (spent, n)) in &self.by_input {
            let _ = write!(split, "{input} {n}x{:.1} µs; ", spent.as_secs_f64() * 1e6 / *n as f64);
        }
        show("inputs", split.trim_end_matches("; "), "");
        let tenths: Vec<String> =
            self.tenths.iter().map(|t| format!("{:.3}", per_task(*t * 10))).collect();
        show("ms/task by tenth of the run", &tenths.join(" "), "flat");
    }
}

/// A node without a network whose tasks end as soon as they start.
struct Bench {
    engine: Engine,
    truth: Truth,
    /// Removed when the bench ends.
    _dir: tempfile::TempDir,
    rng: ChaCha8Rng,
    begun: Instant,
    /// How far virtual time is ahead of real time.
    ahead_ms: u64,
    due: VecDeque<Input>,
    spent: Spent,
    n_ended: usize,
    is_finished: bool,
}

impl Bench {
    fn new(slots: u32, max_parallel: Option<u32>) -> Self {
        let dir = tempfile::tempdir_in(figure::scratch()).unwrap();
        let truth = Truth::open(dir.path()).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (engine, effects) =
            Engine::recover(settings(slots), &Stored::default(), START_MS, &mut rng).unwrap();
        truth.commit(std::slice::from_ref(&effects.batch)).unwrap();
        let listening = Input::Listening { addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned()] };
        let submit = Command::Submit { submission: Box::new(submission(max_parallel)), by: None };
        Self {
            engine,
            truth,
            _dir: dir,
            rng,
            begun: Instant::now(),
            ahead_ms: 0,
            due: VecDeque::from([listening, Input::Command { id: 1, command: submit }]),
            spent: Spent::default(),
            n_ended: 0,
            is_finished: false,
        }
    }

    fn now_ms(&self) -> u64 {
        let passed = u64::try_from(self.begun.elapsed().as_millis()).unwrap();
        START_MS + self.ahead_ms + passed
    }

    fn run(mut self) -> Spent {
        self.begun = Instant::now();
        let mut tenth = Duration::ZERO;
        while !self.is_finished {
            self.turn();
            if self.n_ended >= (self.spent.tenths.len() + 1) * TASKS / 10 {
                self.spent.tenths.push(self.spent.engine.saturating_sub(tenth));
                tenth = self.spent.engine;
            }
        }
        self.spent.whole = self.begun.elapsed();
        assert_eq!(self.n_ended, TASKS, "every task runs once");
        self.spent
    }

    /// Hands over what is due, commits once for all of it, then performs.
    fn turn(&mut self) {
        if self.due.is_empty() {
            let timeout = self.engine.poll_timeout();
            let wait = timeout.saturating_sub(self.now_ms());
            assert!(timeout != u64::MAX, "the engine waits for nothing and the run has not ended");
            self.ahead_ms += wait;
            self.spent.n_waits += u64::from(wait > 0);
            self.spent.waited_ms += wait;
            self.due.push_back(Input::Tick);
        }
        let mut batches: Vec<Batch> = Vec::new();
        let mut wanted = Vec::new();
        for _ in 0..self.due.len().min(TURN_MAX) {
            let input = self.due.pop_front().unwrap();
            let kind = kind(&input);
            let (now_ms, begun) = (self.now_ms(), Instant::now());
            let mut effects = self.engine.handle(now_ms, &mut self.rng, input);
            let took = begun.elapsed();
            self.spent.engine += took;
            let sum = self.spent.by_input.entry(kind).or_default();
            *sum = (sum.0 + took, sum.1 + 1);
            if !effects.batch.is_empty() {
                self.spent.n_ops += effects.batch.ops.len();
                batches.push(effects.batch);
            }
            wanted.append(&mut effects.list);
        }
        if !batches.is_empty() {
            let begun = Instant::now();
            self.truth.commit(&batches).unwrap();
            self.spent.commits.push(begun.elapsed().as_secs_f64());
        }
        for effect in wanted {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Start { attempt, .. } => {
                let outcome = Outcome::Done { outputs: BTreeMap::new() };
                self.n_ended += 1;
                self.due.push_back(Input::Ended {
                    attempt,
                    outcome,
                    counters: Counters::default(),
                });
            }
            Effect::Fetch { job, .. } => self.due.push_back(Input::Fetched { job, result: Ok(()) }),
            Effect::RunEvent { event, .. } => {
                if let EventBody::Finished { .. } = event.body {
                    self.is_finished = true;
                }
            }
            Effect::Reply { result, .. } => {
                result.unwrap();
            }
            Effect::Stop { attempt } => {
                panic!("{attempt:?} is stopped: {:?}", FailureClass::Cancelled)
            }
            _ => {}
        }
    }
}

const fn kind(input: &Input) -> &'static str {
    match input {
        Input::Tick => "tick",
        Input::Command { .. } => "submit",
        Input::Fetched { .. } => "fetched",
        Input::Ended { .. } => "ended",
        _ => "other",
    }
}

fn settings(slots: u32) -> Settings {
    Settings {
        papers: Papers::root(SigningKey::from_bytes(&[1; 32])),
        node_key: SigningKey::from_bytes(&[2; 32]),
        former: Vec::new(),
        org_name: "Bench".to_owned(),
        node_name: "bench".to_owned(),
        price_plan: PricePlan::default(),
        compute: ComputeDetail {
            arch: "x86_64".to_owned(),
            runtimes: vec!["wasi".to_owned()],
            cpu_milli: u64::from(slots) * 1_000,
            memory_bytes: 1 << 40,
            disk_bytes: 1 << 40,
            ..ComputeDetail::default()
        },
        tasks_max: slots,
        blocked: BTreeSet::new(),
        revocations: None,
        offers: node::engine::ports::Offers::default(),
        light: None,
    }
}

fn submission(max_parallel: Option<u32>) -> Submission {
    let max_parallel =
        max_parallel.map(|most| format!(", max_parallel: {most}")).unwrap_or_default();
    let module = Digest::of(b"a module that is never run");
    let source = format!(
        "opencloud: workflow/v1
name: bench
steps:
  work:
    run: {{wasi: {{module: \"{module}\", args: [x]}}}}
    map: {{over: {{range: [1, {TASKS}]}}, as: item{max_parallel}}}
    needs: {{cpu: 1, memory: 64MiB, disk: 64MiB}}
"
    );
    let file = FileRef { digest: module, size: 16, name: "bench.wasm".to_owned() };
    Submission {
        source,
        params: BTreeMap::new(),
        assets: BTreeMap::from([(module.to_string(), Stage::File(file))]),
        binding: None,
        strategy: None,
        replica: None,
        area: None,
    }
}
