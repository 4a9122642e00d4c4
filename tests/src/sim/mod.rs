//! A seeded discrete-event simulator. It runs the real [`Engine`] of every node over a virtual network with delay, loss,
//! duplication, reordering, partitions, crashes and restarts, and checks the invariants as it goes.
//!
//! One [`World`] is one seed. Nothing in it depends on the machine: same seed, same trace, byte for byte, which
//! [`World::trace`] proves. A crash keeps exactly what was committed: the simulated disk takes a step's batch whole or not at
//! all, and the effects of the step may be cut off anywhere after it.
//!
//! Here stand the world, its plan and its one loop. What happens in it: `network` carries, `faults` breaks and heals,
//! `effects` stands for the shell, `owners` for the people. [`invariants`] says what must hold, [`workload`] what is run.

mod effects;
mod faults;
pub mod invariants;
mod network;
mod owners;
pub mod workload;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use accounting::{Counters, PricePlan};
use catalog::record::ComputeDetail;
use catalog::{Digest, NodeId};
use ed25519_dalek::SigningKey;
use node::engine::{Engine, GoodPeer, Input, Papers, Settings};
use node::store::batch::Table;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use scheduler::negotiate::Outcome;
use scheduler::provider::{CONSUMER_SILENT_MS, STATUS_MS};
use scheduler::run::{Event as RunEvent, EventBody};
use scheduler::task::{AttemptId, RunId, TaskSpec};

use workload::below;

/// Virtual time at which every world starts: a Unix time in milliseconds.
const START_MS: u64 = 1_800_000_000_000;
/// How long anything may go on for runs that have all ended, healing included: the longest that a provider works on for a
/// consumer that wants nothing more, until its next look. Nothing else that keeps an attempt or a lane waits for longer; a
/// world that is not at rest by then has failed.
const REST_MS: u64 = CONSUMER_SILENT_MS + 2 * STATUS_MS;

/// What happens in a world.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Names the world.
    pub seed: u64,
    /// Nodes.
    pub nodes: usize,
    /// Runs submitted.
    pub runs: usize,
    /// Virtual time with faults, in milliseconds; healing follows.
    pub chaos_ms: u64,
    /// Virtual time everything may take after healing, in milliseconds.
    pub heal_ms: u64,
    /// Messages lost, of a thousand.
    pub loss: u64,
    /// Messages doubled, of a thousand.
    pub duplicates: u64,
    /// Crashes in the whole time of faults.
    pub crashes: u64,
    /// Partitions in the whole time of faults.
    pub partitions: u64,
    /// Stores put back from an older backup in the whole time of faults, one node at a time.
    pub restores: u64,
}

impl Plan {
    /// The world that CI runs for a seed.
    #[must_use]
    pub const fn ci(seed: u64) -> Self {
        Self {
            seed,
            nodes: 50,
            runs: 20,
            chaos_ms: 90_000,
            heal_ms: 900_000,
            loss: 30,
            duplicates: 30,
            crashes: 15,
            partitions: 6,
            restores: 3,
        }
    }
}

#[derive(Debug)]
enum What {
    Deliver { to: usize, life: u64, input: Box<Input> },
    Wake { to: usize, life: u64 },
    Meter { at: usize, life: u64, attempt: AttemptId },
    End { at: usize, life: u64, attempt: AttemptId },
    Crash { at: usize },
    Restart { at: usize },
    Backup { at: usize },
    Restore { at: usize },
    Partition { cut: BTreeSet<usize>, until_ms: u64 },
    Heal { cut: BTreeSet<usize> },
    Submit { at: usize },
    Join { at: usize },
}

#[derive(Debug)]
struct Task {
    spec: TaskSpec,
    begun_ms: u64,
    counters: Counters,
    outcome: Outcome,
}

/// A copy of a node's stores at some moment.
#[derive(Clone, Debug)]
struct Backup {
    disk: BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>,
    blobs: BTreeSet<Digest>,
}

/// One simulated node.
#[derive(Debug)]
pub struct Node {
    settings: Settings,
    disk: BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>,
    blobs: BTreeSet<Digest>,
    engine: Option<Engine>,
    rng: ChaCha8Rng,
    /// Counts restarts; what was meant for an earlier life is dropped.
    life: u64,
    wake_ms: u64,
    granted: BTreeMap<(NodeId, AttemptId), BTreeSet<Digest>>,
    open: BTreeSet<Digest>,
    open_to: BTreeMap<Digest, BTreeSet<NodeId>>,
    tasks: BTreeMap<AttemptId, Task>,
    gossiped: BTreeSet<Digest>,
    hellos: BTreeMap<u64, usize>,
    gossip_tokens: BTreeMap<u64, Vec<u8>>,
    addresses: BTreeMap<NodeId, Vec<String>>,
    good: BTreeMap<NodeId, GoodPeer>,
    replicas: BTreeMap<Vec<u8>, Vec<u8>>,
    has_joined: bool,
    is_joining: bool,
    backup: Option<Backup>,
    /// The next start is the first since the store was put back.
    is_set_back: bool,
}

/// Everything of one seed.
#[derive(Debug)]
pub struct World {
    plan: Plan,
    rng: ChaCha8Rng,
    now_ms: u64,
    seq: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, What>,
    nodes: Vec<Node>,
    index: BTreeMap<NodeId, usize>,
    /// Pairs that are connected, smaller index first.
    links: BTreeSet<(usize, usize)>,
    /// Nodes cut off from the others.
    cut: BTreeSet<usize>,
    has_faults: bool,
    token: u64,
    trace: blake3::Hasher,
    /// Durable history of every run: events in order.
    history: BTreeMap<RunId, Vec<RunEvent>>,
    submitted: Vec<(usize, RunId)>,
    pending_submissions: BTreeMap<u64, usize>,
    n_steps: u64,
    n_restores: u64,
    /// When every run was first seen to have ended, after healing.
    ended_ms: Option<u64>,
}

impl World {
    /// A world before its first event.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
        let mut nodes = Vec::new();
        let mut index = BTreeMap::new();
        for i in 0..plan.nodes {
            let settings = settings(&mut rng, i);
            index.insert(NodeId::from(settings.node_key.verifying_key()), i);
            nodes.push(Node::new(settings, rng.next_u64()));
        }
        let mut world = Self {
            plan,
            rng,
            now_ms: START_MS,
            seq: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            nodes,
            index,
            links: BTreeSet::new(),
            cut: BTreeSet::new(),
            has_faults: true,
            token: 1,
            trace: blake3::Hasher::new(),
            history: BTreeMap::new(),
            submitted: Vec::new(),
            pending_submissions: BTreeMap::new(),
            n_steps: 0,
            n_restores: 0,
            ended_ms: None,
        };
        world.prepare();
        world
    }

    /// Schedules the joins, the runs and the faults.
    fn prepare(&mut self) {
        for at in 0..self.plan.nodes {
            self.start(at);
            if at > 0 {
                let delay = 10 + below(&mut self.rng, 2_000);
                self.schedule(delay, What::Join { at });
            }
        }
        for _ in 0..self.plan.runs {
            let at = self.pick();
            let delay = 3_000 + below(&mut self.rng, self.plan.chaos_ms / 2);
            self.schedule(delay, What::Submit { at });
        }
        for _ in 0..self.plan.crashes {
            let at = self.pick();
            let delay = 2_000 + below(&mut self.rng, self.plan.chaos_ms);
            self.schedule(delay, What::Crash { at });
        }
        for _ in 0..self.plan.restores {
            let at = self.pick();
            let backup = 4_000 + below(&mut self.rng, self.plan.chaos_ms / 3);
            let restore = backup + 5_000 + below(&mut self.rng, self.plan.chaos_ms / 3);
            self.schedule(backup, What::Backup { at });
            self.schedule(restore, What::Restore { at });
        }
        for _ in 0..self.plan.partitions {
            let size = 1 + below(&mut self.rng, self.plan.nodes as u64 / 3);
            let cut = (0..size).map(|_| self.pick()).collect();
            let delay = 5_000 + below(&mut self.rng, self.plan.chaos_ms);
            let until_ms = 2_000 + below(&mut self.rng, 30_000);
            self.schedule(delay, What::Partition { cut, until_ms });
        }
    }

    fn pick(&mut self) -> usize {
        usize::try_from(below(&mut self.rng, self.plan.nodes as u64)).unwrap_or(0)
    }

    /// Runs the faults, heals, and runs on until every run has ended and nothing is left of them but what they cost. Says
    /// what is wrong, if anything is.
    ///
    /// # Errors
    /// The first broken invariant, what has not ended in time, or what still goes on for runs that have.
    pub fn run(&mut self) -> Result<(), String> {
        let heal_at = START_MS + self.plan.chaos_ms;
        let end = heal_at + self.plan.heal_ms;
        while let Some(Reverse((at, seq))) = self.queue.pop() {
            if at > end {
                break;
            }
            self.now_ms = at;
            if self.has_faults && at >= heal_at {
                self.heal_all();
            }
            let what = self.events.remove(&seq).expect("every queued event is kept");
            self.step(what)?;
            if !self.has_faults && self.n_steps.is_multiple_of(64) && self.is_over()? {
                return invariants::at_rest(self);
            }
        }
        self.unfinished()
    }

    /// Whether every run has ended, nothing is left running and the books are even.
    fn is_over(&mut self) -> Result<bool, String> {
        if !self.have_all_ended() {
            return Ok(false);
        }
        let since_ms = *self.ended_ms.get_or_insert(self.now_ms);
        let left = invariants::left_running(self);
        if !left.is_empty() && self.now_ms - since_ms > REST_MS {
            let after = REST_MS / 1_000;
            return Err(format!("{after} s after the last run ended: {}", left.join("; ")));
        }
        Ok(left.is_empty() && invariants::are_books_even(self))
    }

    fn unfinished(&mut self) -> Result<(), String> {
        if self.is_over()? {
            return invariants::at_rest(self);
        }
        let stuck: Vec<String> = self
            .submitted
            .iter()
            .filter(|(_, run)| !self.has_ended(*run))
            .map(|(at, run)| {
                format!("{run} at node {at}: {:?}", self.history.get(run).and_then(|h| h.last()))
            })
            .collect();
        let books = if invariants::are_books_even(self) { "" } else { "; books are not even" };
        let left = invariants::left_running(self).join("; ");
        let (have, want) = (self.submitted.len(), self.plan.runs);
        let after = self.plan.heal_ms / 1_000;
        Err(format!(
            "{after} s after healing: {have} of {want} runs submitted{books}; not ended: {}; still running: {left}",
            stuck.join("; ")
        ))
    }

    fn has_ended(&self, run: RunId) -> bool {
        let last = self.history.get(&run).and_then(|h| h.last());
        matches!(last.map(|e| &e.body), Some(EventBody::Finished { .. }))
    }

    fn have_all_ended(&self) -> bool {
        self.submitted.len() == self.plan.runs
            && self.submitted.iter().all(|(_, run)| self.has_ended(*run))
    }

    /// The hash of everything that happened.
    #[must_use]
    pub fn trace(&self) -> Digest {
        Digest::from_bytes(*self.trace.finalize().as_bytes())
    }

    /// How many stores were put back from a backup.
    #[must_use]
    pub const fn n_restores(&self) -> u64 {
        self.n_restores
    }

    /// How many engine steps there were.
    #[must_use]
    pub const fn n_steps(&self) -> u64 {
        self.n_steps
    }

    fn step(&mut self, what: What) -> Result<(), String> {
        match what {
            What::Deliver { to, life, input } => {
                if self.nodes[to].life == life {
                    self.handle(to, *input)?;
                }
            }
            What::Wake { to, life } => {
                if self.nodes[to].life == life && self.nodes[to].wake_ms <= self.now_ms {
                    self.nodes[to].wake_ms = u64::MAX;
                    self.handle(to, Input::Tick)?;
                }
            }
            What::Meter { at, life, attempt } => self.meter(at, life, attempt)?,
            What::End { at, life, attempt } => self.end(at, life, attempt)?,
            What::Crash { at } => {
                if self.has_faults && self.nodes[at].engine.is_some() {
                    self.crash(at);
                }
            }
            What::Restart { at } => {
                if self.nodes[at].engine.is_none() {
                    self.start(at);
                }
            }
            What::Backup { at } => self.back_up(at),
            What::Restore { at } => self.restore(at),
            What::Partition { cut, until_ms } => {
                if self.has_faults {
                    self.cut_off(&cut);
                    self.schedule(until_ms, What::Heal { cut });
                }
            }
            What::Heal { cut } => self.cut.retain(|at| !cut.contains(at)),
            What::Submit { at } => self.submit(at)?,
            What::Join { at } => self.join(at)?,
        }
        Ok(())
    }
}

impl Node {
    fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            disk: BTreeMap::new(),
            blobs: BTreeSet::new(),
            engine: None,
            rng: ChaCha8Rng::seed_from_u64(seed),
            life: 0,
            wake_ms: u64::MAX,
            granted: BTreeMap::new(),
            open: BTreeSet::new(),
            open_to: BTreeMap::new(),
            tasks: BTreeMap::new(),
            gossiped: BTreeSet::new(),
            hellos: BTreeMap::new(),
            gossip_tokens: BTreeMap::new(),
            addresses: BTreeMap::new(),
            good: BTreeMap::new(),
            replicas: BTreeMap::new(),
            has_joined: false,
            is_joining: false,
            backup: None,
            is_set_back: false,
        }
    }
}

fn settings(rng: &mut ChaCha8Rng, at: usize) -> Settings {
    let mut key = || {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        SigningKey::from_bytes(&seed)
    };
    let (org_key, node_key) = (key(), key());
    let cores = 1 + below(rng, 4);
    Settings {
        papers: Papers::root(org_key),
        node_key,
        former: Vec::new(),
        org_name: format!("Org {at}"),
        node_name: format!("node-{at}"),
        price_plan: PricePlan::default(),
        compute: ComputeDetail {
            arch: "x86_64".to_owned(),
            runtimes: vec!["wasi".to_owned()],
            cpu_milli: cores * 1_000,
            memory_bytes: 1 << 30,
            disk_bytes: 1 << 30,
            ..ComputeDetail::default()
        },
        tasks_max: 8,
        blocked: BTreeSet::new(),
        revocations: None,
        offers: node::engine::ports::Offers::default(),
        light: None,
    }
}
