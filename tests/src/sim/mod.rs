//! A seeded discrete-event simulator. It runs the real [`Engine`] of every node over a virtual network with delay, loss,
//! duplication, reordering, partitions, crashes and restarts, and checks the invariants as it goes.
//!
//! One [`World`] is one seed. Nothing in it depends on the machine: same seed, same trace, byte for byte, which
//! [`World::trace`] proves. A crash keeps exactly what was committed: the simulated disk takes a step's batch whole or not at
//! all, and the effects of the step may be cut off anywhere after it.

pub mod invariants;
pub mod workload;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use accounting::{Counters, Dimension, PricePlan};
use catalog::record::ComputeDetail;
use catalog::replica;
use catalog::{Digest, NodeId};
use ed25519_dalek::SigningKey;
use node::engine::command::{Command, CommandError, Response};
use node::engine::{
    CommandId, Effect, Effects, Engine, FetchJob, Input, JoinError, Settings, Stored, Verdict,
};
use node::store::batch::{Batch, Table};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use scheduler::negotiate::Outcome;
use scheduler::run::{Event as RunEvent, EventBody};
use scheduler::task::{AttemptId, Failure, FailureClass, RunId, TaskSpec};

use workload::{below, chance};

/// Virtual time at which every world starts: a Unix time in milliseconds.
const START_MS: u64 = 1_800_000_000_000;
/// How often a running task is metered.
const METER_MS: u64 = 1_000;

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
    tasks: BTreeMap<AttemptId, Task>,
    gossiped: BTreeSet<Digest>,
    hellos: BTreeMap<u64, usize>,
    gossip_tokens: BTreeMap<u64, Vec<u8>>,
    addresses: BTreeMap<NodeId, Vec<String>>,
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

    fn schedule(&mut self, delay_ms: u64, what: What) {
        self.seq += 1;
        self.queue.push(Reverse((self.now_ms + delay_ms, self.seq)));
        self.events.insert(self.seq, what);
    }

    /// Runs the faults, heals, and runs on until every run has ended. Says what is wrong, if anything is.
    ///
    /// # Errors
    /// The first broken invariant, or what has not ended in time.
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
            if !self.has_faults && self.n_steps.is_multiple_of(64) && self.is_done() {
                return invariants::at_rest(self);
            }
        }
        self.unfinished()
    }

    fn unfinished(&self) -> Result<(), String> {
        if self.is_done() {
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
        let (have, want) = (self.submitted.len(), self.plan.runs);
        let after = self.plan.heal_ms / 1_000;
        Err(format!(
            "{after} s after healing: {have} of {want} runs submitted{books}; not ended: {}",
            stuck.join("; ")
        ))
    }

    fn has_ended(&self, run: RunId) -> bool {
        let last = self.history.get(&run).and_then(|h| h.last());
        matches!(last.map(|e| &e.body), Some(EventBody::Finished { .. }))
    }

    fn is_done(&self) -> bool {
        self.submitted.len() == self.plan.runs
            && self.submitted.iter().all(|(_, run)| self.has_ended(*run))
            && invariants::are_books_even(self)
    }

    fn heal_all(&mut self) {
        self.has_faults = false;
        self.cut.clear();
        for at in 0..self.nodes.len() {
            if self.nodes[at].engine.is_none() {
                self.start(at);
            }
        }
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

    fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.life += 1;
        let mut stored = Stored { is_set_back: node.is_set_back, ..Stored::default() };
        for (table, rows) in &node.disk {
            stored
                .tables
                .insert(*table, rows.iter().map(|(k, v)| (k.clone(), v.clone())).collect());
        }
        let (mut engine, effects) =
            Engine::recover(node.settings.clone(), &stored, self.now_ms, &mut node.rng)
                .expect("what was committed is read back");
        for (peer, addresses) in &node.addresses {
            engine.learn_peer(*peer, addresses.clone());
        }
        let replicas: Vec<Vec<u8>> = node.replicas.values().cloned().collect();
        engine.restore_replicas(self.now_ms, &replicas);
        node.engine = Some(engine);
        node.is_set_back = false;
        node.wake_ms = u64::MAX;
        let life = node.life;
        self.apply(at, effects, usize::MAX);
        let addresses = vec![format!("/sim/{at}")];
        let input = Box::new(Input::Listening { addresses });
        self.schedule(1, What::Deliver { to: at, life, input });
    }

    /// The process dies: memory, running tasks and connections are gone, the disk stays.
    fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.engine = None;
        node.life += 1;
        node.tasks.clear();
        node.granted.clear();
        node.open.clear();
        node.hellos.clear();
        node.gossip_tokens.clear();
        node.gossiped.clear();
        node.is_joining = false;
        for other in 0..self.nodes.len() {
            self.disconnect(at, other);
        }
        let delay = 500 + below(&mut self.rng, 20_000);
        self.schedule(delay, What::Restart { at });
    }

    /// Keeps a copy of a node's stores. Before everyone has joined it would know nothing worth losing.
    fn back_up(&mut self, at: usize) {
        if !self.nodes.iter().skip(1).all(|node| node.has_joined) {
            return self.schedule(2_000, What::Backup { at });
        }
        let node = &mut self.nodes[at];
        node.backup = Some(Backup { disk: node.disk.clone(), blobs: node.blobs.clone() });
    }

    /// The machine dies and its stores are put back as they were at the last backup. Not while another node still waits for
    /// a fence: of two that share a channel only one may be set back at a time.
    fn restore(&mut self, at: usize) {
        if !self.has_faults {
            return;
        }
        let is_quiet = self.nodes.iter().all(|node| {
            let channels = node.engine.as_ref().map(|e| e.inspect().channels());
            !node.is_set_back && channels.is_some_and(|mut all| all.all(|c| !c.is_fencing()))
        });
        let backup = self.nodes[at].backup.take_if(|_| is_quiet);
        let Some(Backup { disk, blobs }) = backup else {
            return self.schedule(100, What::Restore { at });
        };
        self.crash(at);
        self.n_restores += 1;
        self.trace.update(format!("{} restore {at}\n", self.now_ms).as_bytes());
        let node = &mut self.nodes[at];
        (node.disk, node.blobs, node.is_set_back) = (disk, blobs, true);
        // What the backup does not know of this node's runs has never been; their owner submits again.
        let rows = node.disk.get(&Table::RunEvents).cloned().unwrap_or_default();
        let mine: Vec<RunId> =
            self.submitted.iter().filter(|(owner, _)| *owner == at).map(|(_, run)| *run).collect();
        self.submitted.retain(|(owner, _)| *owner != at);
        for run in &mine {
            self.history.remove(run);
        }
        for (key, value) in &rows {
            self.remember_event(key, value, at);
        }
        let n_lost = mine.len() - self.submitted.iter().filter(|(owner, _)| *owner == at).count();
        for _ in 0..n_lost {
            self.schedule(25_000, What::Submit { at });
        }
    }

    fn cut_off(&mut self, cut: &BTreeSet<usize>) {
        self.cut.extend(cut);
        for at in cut {
            for other in 0..self.nodes.len() {
                if !self.can_reach(*at, other) {
                    self.disconnect(*at, other);
                }
            }
        }
    }

    /// Nodes on the same side of the cut reach each other.
    fn can_reach(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&a) == self.cut.contains(&b)
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        if self.links.remove(&(a.min(b), a.max(b))) {
            for (to, peer) in [(a, b), (b, a)] {
                let peer = self.id(peer);
                let delay = 1 + below(&mut self.rng, 500);
                self.deliver(to, delay, Input::Disconnected { peer });
            }
        }
    }

    fn id(&self, at: usize) -> NodeId {
        self.nodes[at].settings.node_key.verifying_key().into()
    }

    fn deliver(&mut self, to: usize, delay_ms: u64, input: Input) {
        let life = self.nodes[to].life;
        self.schedule(delay_ms, What::Deliver { to, life, input: Box::new(input) });
    }

    fn join(&mut self, at: usize) -> Result<(), String> {
        if self.nodes[at].has_joined {
            return Ok(());
        }
        let is_possible = self.nodes[at].engine.is_some()
            && self.nodes[0].engine.is_some()
            && !self.nodes[at].is_joining;
        if is_possible {
            let id = self.next_token();
            let effects = self.command(0, id, Command::Invite { valid_ms: 600_000 })?;
            let ticket = effects.list.iter().find_map(|effect| match effect {
                Effect::Reply { result: Ok(Response::Ticket(ticket)), .. } => Some(ticket.clone()),
                _ => None,
            });
            self.apply(0, effects, usize::MAX);
            let Some(ticket) = ticket else {
                return Err("no ticket for an invitation".to_owned());
            };
            self.nodes[at].is_joining = true;
            self.nodes[at].addresses.insert(ticket.node, ticket.addresses.clone());
            let id = self.next_token();
            let effects = self.command(at, id, Command::Join { ticket })?;
            self.apply(at, effects, usize::MAX);
        }
        self.schedule(5_000, What::Join { at });
        Ok(())
    }

    fn submit(&mut self, at: usize) -> Result<(), String> {
        if self.nodes[at].engine.is_none() || !self.nodes[at].has_joined && at != 0 {
            self.schedule(2_000, What::Submit { at });
            return Ok(());
        }
        let submission = Box::new(workload::submission(&mut self.rng));
        self.nodes[at].blobs.insert(workload::module());
        let id = self.next_token();
        self.pending_submissions.insert(id, at);
        let effects = self.command(at, id, Command::Submit { submission })?;
        let cut = self.cut_point(at, &effects);
        if cut == Some(0) {
            // Never durable, never acknowledged: its owner asks again.
            self.schedule(30_000, What::Submit { at });
        }
        self.finish(at, effects, cut)
    }

    fn next_token(&mut self) -> u64 {
        self.token += 1;
        self.token
    }

    fn command(&mut self, at: usize, id: u64, command: Command) -> Result<Effects, String> {
        self.think(at, Input::Command { id, command })
    }

    /// One step of one engine, recorded in the trace and checked.
    fn think(&mut self, at: usize, input: Input) -> Result<Effects, String> {
        self.n_steps += 1;
        self.trace.update(format!("{} {at} {input:?}\n", self.now_ms).as_bytes());
        let now_ms = self.now_ms;
        let node = &mut self.nodes[at];
        let Some(engine) = node.engine.as_mut() else {
            return Ok(Effects::default());
        };
        let effects = engine.handle(now_ms, &mut node.rng, input);
        self.trace.update(format!("{effects:?}\n").as_bytes());
        invariants::after_step(self, at, &effects)?;
        Ok(effects)
    }

    fn handle(&mut self, at: usize, input: Input) -> Result<(), String> {
        if self.nodes[at].engine.is_none() {
            return Ok(());
        }
        let effects = self.think(at, input)?;
        let cut = self.cut_point(at, &effects);
        self.finish(at, effects, cut)
    }

    /// Rarely the process dies in the middle of a step: before its commit (0), or after so many effects.
    fn cut_point(&mut self, _at: usize, effects: &Effects) -> Option<usize> {
        let is_cut = self.has_faults && !effects.batch.is_empty() && chance(&mut self.rng, 2);
        is_cut.then(|| {
            usize::try_from(below(&mut self.rng, effects.list.len() as u64 + 2)).unwrap_or(0)
        })
    }

    fn finish(&mut self, at: usize, effects: Effects, cut: Option<usize>) -> Result<(), String> {
        match cut {
            None => self.apply(at, effects, usize::MAX),
            Some(0) => self.crash(at),
            Some(after) => {
                self.apply(at, effects, after - 1);
                self.crash(at);
            }
        }
        Ok(())
    }

    /// Commits the batch, then performs at most `most` effects.
    fn apply(&mut self, at: usize, effects: Effects, most: usize) {
        self.commit(at, effects.batch);
        for effect in effects.list.into_iter().take(most) {
            self.perform(at, effect);
        }
        let Some(due) = self.nodes[at].engine.as_ref().map(Engine::poll_timeout) else {
            return;
        };
        if due < self.nodes[at].wake_ms {
            self.nodes[at].wake_ms = due;
            let life = self.nodes[at].life;
            let delay = due.saturating_sub(self.now_ms).max(1);
            self.nodes[at].wake_ms = self.now_ms + delay;
            self.schedule(delay, What::Wake { to: at, life });
        }
    }

    fn commit(&mut self, at: usize, batch: Batch) {
        for op in batch.ops {
            if op.table == Table::RunEvents
                && let Some(value) = &op.value
            {
                self.remember_event(&op.key, value, at);
            }
            let rows = self.nodes[at].disk.entry(op.table).or_default();
            match op.value {
                Some(value) => rows.insert(op.key, value),
                None => rows.remove(&op.key),
            };
        }
    }

    fn remember_event(&mut self, key: &[u8], value: &[u8], at: usize) {
        let run =
            RunId::from_bytes(key[..16].try_into().expect("a run event's key begins with the run"));
        let event: RunEvent = ciborium::from_reader(value).expect("an engine reads what it wrote");
        if matches!(event.body, EventBody::Submitted { .. }) {
            self.submitted.push((at, run));
        }
        self.history.entry(run).or_default().push(event);
    }

    fn perform(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Send { to, payload } => self.send(at, to, payload),
            Effect::Gossip { payload } => self.gossip(at, &payload),
            Effect::Verdict { token, verdict } => {
                if let (Some(payload), Verdict::Accept) =
                    (self.nodes[at].gossip_tokens.remove(&token), verdict)
                {
                    self.gossip(at, &payload);
                }
            }
            Effect::Connect { peer, hello, .. } => self.connect(at, peer, hello),
            Effect::Greet { token, reply, .. } => {
                if let Some(dialer) = self.nodes[at].hellos.remove(&token) {
                    let peer = self.id(at);
                    let delay = self.delay();
                    self.deliver(dialer, delay, Input::ConnectEnded { peer, result: Ok(reply) });
                }
            }
            Effect::Admit { peer } => self.link(at, peer),
            Effect::Disconnect { peer } => {
                if let Some(other) = self.index.get(&peer).copied() {
                    self.disconnect(at, other);
                }
            }
            Effect::Remember { peer, addresses } => {
                self.nodes[at].addresses.insert(peer, addresses);
            }
            Effect::CacheReplicas { items } => {
                let keyed = items.into_iter().filter_map(|i| Some((replica::cache_key(&i)?, i)));
                self.nodes[at].replicas.extend(keyed);
            }
            Effect::ForgetReplica { author } => {
                self.nodes[at].replicas.retain(|key, _| !key.starts_with(author.as_bytes()));
            }
            Effect::Reply { id, result } => self.take_reply(at, id, result),
            Effect::Grant { peer, attempt, blobs } => {
                self.nodes[at].granted.insert((peer, attempt), blobs.into_iter().collect());
            }
            Effect::Revoke { peer, attempt } => {
                self.nodes[at].granted.remove(&(peer, attempt));
            }
            Effect::Open { digest } => {
                self.nodes[at].open.insert(digest);
            }
            Effect::Keep { blobs } => {
                self.nodes[at].blobs.extend(blobs.iter().map(|bytes| Digest::of(bytes)));
            }
            Effect::Fetch { job, from, blobs } => {
                let digests: Vec<Digest> = blobs.iter().map(|b| b.digest).collect();
                self.fetch(at, job, from, &digests);
            }
            Effect::Start { attempt, spec } => self.start_task(at, attempt, *spec),
            Effect::Stop { attempt } => self.stop_task(at, attempt),
            Effect::SetHello { .. }
            | Effect::Subscribe { .. }
            | Effect::Notice { .. }
            | Effect::Penalize { .. }
            | Effect::Discard { .. }
            | Effect::RunEvent { .. }
            | Effect::RunLog { .. } => {}
        }
    }

    fn take_reply(&mut self, at: usize, id: CommandId, result: Result<Response, CommandError>) {
        // A node that died between joining and saying so finds itself a member.
        if matches!(
            result,
            Ok(Response::Joined { .. }) | Err(CommandError::Join(JoinError::Member { .. }))
        ) {
            self.nodes[at].has_joined = true;
        }
        self.nodes[at].is_joining = false;
        if self.pending_submissions.remove(&id).is_some() {
            result.expect("a generated workflow is accepted");
        }
    }

    /// 1 to 40 ms, now and then a second.
    fn delay(&mut self) -> u64 {
        if self.has_faults && chance(&mut self.rng, 10) {
            return 200 + below(&mut self.rng, 1_500);
        }
        1 + below(&mut self.rng, 40)
    }

    fn is_linked(&self, a: usize, b: usize) -> bool {
        self.links.contains(&(a.min(b), a.max(b)))
    }

    fn send(&mut self, at: usize, to: NodeId, payload: Vec<u8>) {
        let Some(other) = self.index.get(&to).copied() else {
            return;
        };
        if !self.is_linked(at, other) {
            return;
        }
        let from = self.id(at);
        let copies = if self.has_faults && chance(&mut self.rng, self.plan.loss) {
            0
        } else if self.has_faults && chance(&mut self.rng, self.plan.duplicates) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let delay = self.delay();
            self.deliver(other, delay, Input::Message { from, payload: payload.clone() });
        }
    }

    fn gossip(&mut self, at: usize, payload: &[u8]) {
        self.nodes[at].gossiped.insert(Digest::of(payload));
        let from = self.id(at);
        let hash = Digest::of(payload);
        for other in 0..self.nodes.len() {
            let is_wanted = other != at
                && self.is_linked(at, other)
                && self.nodes[other].engine.is_some()
                && self.nodes[other].gossiped.insert(hash);
            if !is_wanted || (self.has_faults && chance(&mut self.rng, self.plan.loss)) {
                continue;
            }
            let token = self.next_token();
            self.nodes[other].gossip_tokens.insert(token, payload.to_vec());
            let delay = self.delay();
            self.deliver(other, delay, Input::Gossip { token, from, payload: payload.to_vec() });
        }
    }

    fn connect(&mut self, at: usize, peer: NodeId, hello: Option<Vec<u8>>) {
        let other = self.index.get(&peer).copied();
        let reachable = other.filter(|o| self.can_reach(at, *o) && self.nodes[*o].engine.is_some());
        let delay = self.delay();
        let Some(other) = reachable else {
            let result = Err("unreachable".to_owned());
            return self.deliver(at, 1_000 + delay, Input::ConnectEnded { peer, result });
        };
        let from = self.id(at);
        let token = self.next_token();
        let payload = hello.unwrap_or_else(|| self.hello_of(at));
        self.nodes[other].hellos.insert(token, at);
        self.deliver(other, delay, Input::Hello { token, peer: from, payload });
        // A connection whose other side dies in the middle fails by itself.
        let life = self.nodes[at].life;
        let input = Box::new(Input::ConnectEnded { peer, result: Err("timeout".to_owned()) });
        self.schedule(10_000, What::Deliver { to: at, life, input });
    }

    fn hello_of(&mut self, at: usize) -> Vec<u8> {
        self.nodes[at].engine.as_ref().map(Engine::hello).unwrap_or_default()
    }

    fn link(&mut self, at: usize, peer: NodeId) {
        let Some(other) = self.index.get(&peer).copied() else {
            return;
        };
        if self.nodes[other].engine.is_none() || !self.can_reach(at, other) {
            return;
        }
        if self.links.insert((at.min(other), at.max(other))) {
            let me = self.id(at);
            self.deliver(at, 0, Input::Connected { peer });
            let delay = self.delay();
            self.deliver(other, delay, Input::Connected { peer: me });
        }
    }

    fn fetch(&mut self, at: usize, job: FetchJob, from: NodeId, blobs: &[Digest]) {
        let me = self.id(at);
        let holder = self.index.get(&from).copied();
        let is_given = holder.is_some_and(|h| {
            let node = &self.nodes[h];
            let may = |d: &Digest| {
                node.open.contains(d)
                    || node.granted.iter().any(|((peer, _), set)| *peer == me && set.contains(d))
            };
            self.is_linked(at, h)
                && node.engine.is_some()
                && blobs.iter().all(|d| may(d) && node.blobs.contains(d))
        });
        let result = if is_given {
            self.nodes[at].blobs.extend(blobs.iter().copied());
            Ok(())
        } else {
            Err(Failure {
                class: FailureClass::Infra,
                exit_code: None,
                detail: "simulated fetch".to_owned(),
            })
        };
        let delay = 5 + below(&mut self.rng, 300);
        self.deliver(at, delay, Input::Fetched { job, result });
    }

    fn start_task(&mut self, at: usize, attempt: AttemptId, spec: TaskSpec) {
        let duration = if chance(&mut self.rng, 100) {
            10_000 + below(&mut self.rng, 25_000)
        } else {
            20 + below(&mut self.rng, 4_000)
        };
        let outcome = workload::outcome(&mut self.rng, &spec, self.has_faults);
        self.nodes[at].tasks.insert(attempt, Task { spec, counters: Counters::default(), outcome });
        let life = self.nodes[at].life;
        self.schedule(METER_MS, What::Meter { at, life, attempt });
        self.schedule(duration, What::End { at, life, attempt });
    }

    fn stop_task(&mut self, at: usize, attempt: AttemptId) {
        let class = FailureClass::Cancelled;
        let failure = Failure { class, exit_code: None, detail: "stopped".to_owned() };
        if let Some(task) = self.nodes[at].tasks.get_mut(&attempt) {
            task.outcome = Outcome::Failed(failure);
            let life = self.nodes[at].life;
            self.schedule(10, What::End { at, life, attempt });
        } else {
            let job = FetchJob::Inputs(attempt);
            self.deliver(at, 10, Input::Fetched { job, result: Err(failure) });
        }
    }

    fn meter(&mut self, at: usize, life: u64, attempt: AttemptId) -> Result<(), String> {
        if self.nodes[at].life != life {
            return Ok(());
        }
        let Some(task) = self.nodes[at].tasks.get_mut(&attempt) else {
            return Ok(());
        };
        let cpu = task.counters.get(Dimension::Cpu) + METER_MS * 900;
        task.counters.set(Dimension::Cpu, cpu);
        let counters = task.counters;
        self.schedule(METER_MS, What::Meter { at, life, attempt });
        self.handle(at, Input::Metered { attempt, counters })
    }

    fn end(&mut self, at: usize, life: u64, attempt: AttemptId) -> Result<(), String> {
        if self.nodes[at].life != life {
            return Ok(());
        }
        let Some(task) = self.nodes[at].tasks.remove(&attempt) else {
            return Ok(());
        };
        if let Outcome::Done { outputs } = &task.outcome {
            let mut blobs = Vec::new();
            outputs.values().for_each(|value| value.blobs(&mut blobs));
            self.nodes[at].blobs.extend(blobs.into_iter().map(|(digest, _)| digest));
        }
        self.handle(at, Input::Ended { attempt, outcome: task.outcome, counters: task.counters })
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
            tasks: BTreeMap::new(),
            gossiped: BTreeSet::new(),
            hellos: BTreeMap::new(),
            gossip_tokens: BTreeMap::new(),
            addresses: BTreeMap::new(),
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
        org_key,
        node_key,
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
    }
}
