//! The simulated shell: feeds an engine, commits what it wants durable, performs its effects, and cuts a step off in the middle
//! now and then. Tasks are not run: they take time, are metered and end as the workload says.

use accounting::{Counters, Dimension};
use catalog::{Digest, NodeId, replica};
use node::engine::{Blob, Effect, Effects, Engine, FetchJob, Input, Verdict};
use node::store::batch::{Batch, Table};
use scheduler::copies::Proof;
use scheduler::negotiate::Outcome;
use scheduler::run::{Event as RunEvent, EventBody};
use scheduler::task::{AttemptId, Failure, FailureClass, RunId, TaskSpec};

use super::workload::{below, chance};
use super::{Task, What, World, invariants, workload};

/// How often a running task is metered.
const METER_MS: u64 = 1_000;

impl World {
    /// One step of one engine, recorded in the trace and checked.
    pub(super) fn think(&mut self, at: usize, input: Input) -> Result<Effects, String> {
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

    pub(super) fn handle(&mut self, at: usize, input: Input) -> Result<(), String> {
        if self.nodes[at].engine.is_none() {
            return Ok(());
        }
        let effects = self.think(at, input)?;
        let cut = self.cut_point(at, &effects);
        self.finish(at, effects, cut)
    }

    /// Rarely the process dies in the middle of a step: before its commit (0), or after so many effects.
    pub(super) fn cut_point(&mut self, _at: usize, effects: &Effects) -> Option<usize> {
        let is_cut = self.has_faults && !effects.batch.is_empty() && chance(&mut self.rng, 2);
        is_cut.then(|| {
            usize::try_from(below(&mut self.rng, effects.list.len() as u64 + 2)).unwrap_or(0)
        })
    }

    pub(super) fn finish(
        &mut self,
        at: usize,
        effects: Effects,
        cut: Option<usize>,
    ) -> Result<(), String> {
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
    pub(super) fn apply(&mut self, at: usize, effects: Effects, most: usize) {
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

    pub(super) fn remember_event(&mut self, key: &[u8], value: &[u8], at: usize) {
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
            Effect::Greet { token, reply, .. } => self.greet(at, token, reply),
            Effect::Admit { peer, .. } => self.link(at, peer),
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
                self.nodes[at].open_to.remove(&digest);
                self.nodes[at].open.insert(digest);
            }
            Effect::OpenTo { digest, peers } => {
                self.nodes[at].open.remove(&digest);
                self.nodes[at].open_to.insert(digest, peers);
            }
            Effect::Close { digest } => {
                self.nodes[at].open_to.remove(&digest);
                self.nodes[at].open.remove(&digest);
            }
            Effect::Keep { blobs } => {
                self.nodes[at].blobs.extend(blobs.iter().map(|b| Digest::of(b)))
            }
            Effect::Fetch { job, from, blobs, .. } => self.fetch(at, job, from, &blobs),
            Effect::Start { attempt, spec, .. } => self.start_task(at, attempt, *spec),
            Effect::Stop { attempt } => self.stop_task(at, attempt),
            Effect::Prove { at: keeper, blob, .. } => self.prove(at, keeper, blob.digest),
            Effect::SetHello { .. }
            | Effect::Subscribe { .. }
            | Effect::Notice { .. }
            | Effect::Decided { .. }
            // Nodes of the simulation keep their keys.
            | Effect::Rotate
            | Effect::ForgetKey { .. }
            // Owners of the simulation decide nothing about each other.
            | Effect::Bar { .. }
            | Effect::Terms { .. }
            | Effect::Penalize { .. }
            | Effect::Discard { .. }
            | Effect::RunEvent { .. }
            | Effect::RunLog { .. } => {}
        }
    }

    fn greet(&mut self, at: usize, token: u64, reply: Vec<u8>) {
        if let Some(dialer) = self.nodes[at].hellos.remove(&token) {
            let peer = self.id(at);
            let delay = self.delay();
            self.deliver(dialer, delay, Input::ConnectEnded { peer, result: Ok(reply) });
        }
    }

    /// A copy is there or is not, as far as its keeper can be reached.
    fn prove(&mut self, at: usize, keeper: NodeId, digest: Digest) {
        let holder = self.index.get(&keeper).copied();
        let reached = holder
            .filter(|holder| self.is_linked(at, *holder) && self.nodes[*holder].engine.is_some());
        let proof = match reached {
            None => Proof::None,
            Some(holder) if self.nodes[holder].blobs.contains(&digest) => Proof::Good,
            Some(_) => Proof::Bad,
        };
        let delay = 5 + below(&mut self.rng, 300);
        self.deliver(at, delay, Input::Proven { at: keeper, digest, proof });
    }

    fn fetch(&mut self, at: usize, job: FetchJob, from: NodeId, blobs: &[Blob]) {
        let blobs: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
        let me = self.id(at);
        let holder = self.index.get(&from).copied();
        let is_given = holder.is_some_and(|h| {
            let node = &self.nodes[h];
            let may = |d: &Digest| {
                node.open.contains(d)
                    || node.open_to.get(d).is_some_and(|peers| peers.contains(&me))
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
        let task = Task { spec, begun_ms: self.now_ms, counters: Counters::default(), outcome };
        self.nodes[at].tasks.insert(attempt, task);
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

    pub(super) fn meter(&mut self, at: usize, life: u64, attempt: AttemptId) -> Result<(), String> {
        if self.nodes[at].life != life {
            return Ok(());
        }
        let Some(task) = self.nodes[at].tasks.get_mut(&attempt) else {
            return Ok(());
        };
        let cpu = task.counters.get(Dimension::Cpu) + METER_MS * 900;
        task.counters.set(Dimension::Cpu, cpu);
        task.hold_cores(self.now_ms);
        let counters = task.counters;
        self.schedule(METER_MS, What::Meter { at, life, attempt });
        self.handle(at, Input::Metered { attempt, counters })
    }

    pub(super) fn end(&mut self, at: usize, life: u64, attempt: AttemptId) -> Result<(), String> {
        if self.nodes[at].life != life {
            return Ok(());
        }
        let Some(mut task) = self.nodes[at].tasks.remove(&attempt) else {
            return Ok(());
        };
        task.hold_cores(self.now_ms);
        if let Outcome::Done { outputs } = &task.outcome {
            let mut blobs = Vec::new();
            outputs.values().for_each(|value| value.blobs(&mut blobs));
            self.nodes[at].blobs.extend(blobs.into_iter().map(|(digest, _)| digest));
        }
        self.handle(at, Input::Ended { attempt, outcome: task.outcome, counters: task.counters })
    }
}

impl Task {
    /// Counts its cores, which it has held since it began.
    fn hold_cores(&mut self, now_ms: u64) {
        let held = (now_ms - self.begun_ms) * self.spec.needs.cpu_milli;
        self.counters.set(Dimension::VcpuAlloc, held);
    }
}
