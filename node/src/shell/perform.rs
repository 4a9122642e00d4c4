//! Performs the engine's effects, and turns what the network says into its inputs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::{Digest, Fault, NodeId};
use fabric::{
    ConnectError, Event as FabricEvent, Fabric, GossipVerdict, HelloResponder, Introduced, Offence,
    PeerKey, Terms,
};
use scheduler::negotiate::Stream;
use scheduler::task::AttemptId;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::Clock;
use super::fetch::Fetcher;
use super::gate::Gate;
use super::handle::{Call, Progress};
use super::logs::{self, Piece};
use super::prove::Prover;
use super::tasks::Runner;
use crate::engine::command::{CommandError, Response};
use crate::engine::{Blob, Effect, FetchJob, Input, Token, Verdict};
use crate::policy::Log;
use crate::store::cache::{Cache, CacheError, Tree};

/// Messages that wait for one peer. At the bound further ones are dropped; every protocol repeats itself.
const OUTBOX: usize = 512;
/// How long a reason is that is told to people, in characters.
const REASON_CHARS_MAX: usize = 400;
/// Greetings and gossip messages that wait for a verdict; the engine answers each within its turn.
const PENDING_MAX: usize = 4_096;

struct Task {
    cancel: watch::Sender<bool>,
    job: JoinHandle<()>,
}

pub(super) struct Performer {
    fabric: Fabric,
    gate: Gate,
    fetcher: Fetcher,
    prover: Prover,
    runner: Runner,
    cache: Cache,
    progress: broadcast::Sender<Progress>,
    inputs: mpsc::Sender<Input>,
    logs: PathBuf,
    clock: Clock,
    decisions: Arc<Log>,
    replies: BTreeMap<u64, oneshot::Sender<Result<Response, CommandError>>>,
    hellos: BTreeMap<Token, HelloResponder>,
    gossip: BTreeMap<Token, GossipVerdict>,
    next_token: Token,
    /// Peers that answered our greeting and wait to be let in.
    introduced: Arc<Mutex<BTreeMap<NodeId, Introduced>>>,
    outboxes: BTreeMap<NodeId, mpsc::Sender<Vec<u8>>>,
    topic: Option<String>,
    tasks: BTreeMap<AttemptId, Task>,
    fetches: BTreeMap<FetchJob, JoinHandle<()>>,
}

fn key(node: NodeId) -> PeerKey {
    PeerKey::from_bytes(*node.as_bytes())
}

fn node(peer: PeerKey) -> NodeId {
    NodeId::from_bytes(*peer.as_bytes())
}

/// What an error says with its causes, in one line.
fn reason(error: &ConnectError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    one_line.chars().take(REASON_CHARS_MAX).collect()
}

/// Keeps signed records of others, the newest of each key.
pub(super) fn cache_replicas(cache: &Cache, items: &[Vec<u8>]) -> Result<(), CacheError> {
    for item in items {
        if let Some(key) = catalog::replica::cache_key(item) {
            cache.put(Tree::Replicas, &key, item)?;
        }
    }
    Ok(())
}

impl Performer {
    #[expect(
        clippy::too_many_arguments,
        reason = "everything the shell owns comes together here, once"
    )]
    pub(super) fn new(
        fabric: Fabric,
        gate: Gate,
        (fetcher, prover): (Fetcher, Prover),
        runner: Runner,
        cache: Cache,
        progress: broadcast::Sender<Progress>,
        inputs: mpsc::Sender<Input>,
        (logs, clock, decisions): (PathBuf, Clock, Arc<Log>),
    ) -> Self {
        Self {
            fabric,
            gate,
            fetcher,
            prover,
            runner,
            cache,
            progress,
            inputs,
            logs,
            clock,
            decisions,
            replies: BTreeMap::new(),
            hellos: BTreeMap::new(),
            gossip: BTreeMap::new(),
            next_token: 0,
            introduced: Arc::default(),
            outboxes: BTreeMap::new(),
            topic: None,
            tasks: BTreeMap::new(),
            fetches: BTreeMap::new(),
        }
    }

    pub(super) async fn addresses(&self) -> Vec<String> {
        self.fabric.addresses().await
    }

    /// Keeps the place for a command's answer.
    pub(super) fn admit(&mut self, call: Call) -> Input {
        self.replies.retain(|_, reply| !reply.is_closed());
        self.replies.insert(call.id, call.reply);
        Input::Command { id: call.id, command: call.command }
    }

    /// What the network said, as the engine hears it.
    pub(super) fn translate(&mut self, event: FabricEvent) -> Option<Input> {
        match event {
            FabricEvent::Hello { peer, payload, respond, .. } => {
                if self.hellos.len() >= PENDING_MAX {
                    return None;
                }
                let token = self.token();
                self.hellos.insert(token, respond);
                Some(Input::Hello { token, peer: node(peer), payload })
            }
            FabricEvent::Connected { peer } => Some(Input::Connected { peer: node(peer) }),
            FabricEvent::Disconnected { peer } => {
                self.outboxes.remove(&node(peer));
                Some(Input::Disconnected { peer: node(peer) })
            }
            FabricEvent::Message { from, payload, .. } => {
                Some(Input::Message { from: node(from), payload })
            }
            FabricEvent::Gossip { from, payload, verdict, .. } => {
                if self.gossip.len() >= PENDING_MAX {
                    return None;
                }
                let token = self.token();
                self.gossip.insert(token, verdict);
                Some(Input::Gossip { token, from: node(from), payload })
            }
            FabricEvent::Discovered { peer, addresses } => {
                tracing::debug!(%peer, "found on the local network");
                Some(Input::Discovered { peer: node(peer), addresses })
            }
            FabricEvent::Wanted { peer } => Some(Input::Wanted { peer: node(peer) }),
            FabricEvent::Listening { addresses } => Some(Input::Listening { addresses }),
            FabricEvent::Refused { peer, why } => {
                tracing::warn!(%peer, %why, "connection refused");
                None
            }
            _ => None,
        }
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        self.next_token
    }

    pub(super) async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.perform_one(effect).await;
        }
    }

    async fn perform_one(&mut self, effect: Effect) {
        match effect {
            Effect::Reply { id, result } => {
                if let Some(reply) = self.replies.remove(&id) {
                    // Whoever asked may have gone.
                    drop(reply.send(result));
                }
            }
            Effect::Greet { token, is_welcome, is_guest, reply } => {
                self.greet(token, (is_welcome, is_guest), reply);
            }
            Effect::Verdict { token, verdict } => match (self.gossip.remove(&token), verdict) {
                (Some(gossip), Verdict::Accept) => gossip.accept(),
                (Some(gossip), Verdict::Ignore) => gossip.ignore(),
                (Some(gossip), Verdict::Reject) => gossip.reject(),
                (None, _) => {}
            },
            Effect::Send { to, payload } => self.send(to, payload),
            Effect::SetHello { .. }
            | Effect::Subscribe { .. }
            | Effect::Connect { .. }
            | Effect::Admit { .. }
            | Effect::Disconnect { .. }
            | Effect::Notice { .. }
            | Effect::Decided { .. }
            | Effect::Penalize { .. }
            | Effect::Remember { .. }
            | Effect::CacheReplicas { .. }
            | Effect::ForgetReplica { .. }
            | Effect::Gossip { .. } => self.perform_network(effect).await,
            // The shell's own matter, done before this.
            Effect::Rotate | Effect::ForgetKey { .. } => {}
            Effect::Keep { blobs } => {
                for bytes in blobs {
                    if let Err(error) = self.runner.blobs.add_bytes(bytes).await {
                        // The attempt's fetch fails, and with it the attempt: it is tried again later.
                        tracing::error!(%error, "an input given in the document cannot be kept");
                    }
                }
            }
            Effect::Grant { peer, attempt, blobs } => self.gate.grant(peer, attempt, blobs),
            Effect::Revoke { peer, attempt } => self.gate.revoke(peer, attempt),
            Effect::Open { digest } => self.gate.open_to_all(digest),
            Effect::OpenTo { digest, peers } => self.gate.open_to(digest, peers),
            Effect::Close { digest } => self.gate.close_to_all(&digest),
            Effect::Bar { peer, is_barred } => self.gate.bar(peer, is_barred),
            Effect::Terms { peer, group, may_relay } => {
                let group = group.map(|org| *org.as_bytes());
                self.fabric.set_terms(key(peer), Terms { group, may_relay });
            }
            Effect::Prove { at, blob, seed } => self.prover.begin(at, blob, seed),
            Effect::Fetch { job, from, blobs, others } => self.fetch(job, from, blobs, others),
            Effect::Start { attempt, spec, devices } => {
                let (cancel, cancelled) = watch::channel(false);
                let job =
                    tokio::spawn(self.runner.clone().run(attempt, (*spec, devices), cancelled));
                self.tasks.retain(|_, task| !task.job.is_finished());
                self.tasks.insert(attempt, Task { cancel, job });
            }
            Effect::Stop { attempt } => self.stop_attempt(attempt),
            Effect::Discard { attempt } => self.discard(attempt),
            Effect::RunEvent { run, seq, event } => {
                // Nobody watching is fine.
                drop(self.progress.send(Progress::Event { run, seq, event: Arc::new(*event) }));
            }
            Effect::RunLog { attempt, stream, offset, bytes, is_replica } => {
                let at_ms = Some(self.clock.now_ms());
                self.keep_log((attempt, stream), Piece { at_ms, offset, bytes }, is_replica);
            }
        }
    }

    fn greet(&mut self, token: Token, (is_welcome, is_guest): (bool, bool), reply: Vec<u8>) {
        match self.hellos.remove(&token) {
            Some(respond) if is_welcome && is_guest => respond.accept_guest(reply),
            Some(respond) if is_welcome => respond.accept(reply),
            Some(respond) => respond.refuse(reply),
            None => {}
        }
    }

    /// Keeps what a task wrote, and tells whoever watches.
    fn keep_log(&self, (attempt, stream): (AttemptId, Stream), piece: Piece, is_replica: bool) {
        let kept = match is_replica {
            true => logs::keep_newest(&self.logs, attempt, stream, &piece),
            false => logs::keep(&self.logs, attempt, stream, piece.offset, &piece.bytes),
        };
        if let Err(error) = kept {
            tracing::warn!(%attempt, %error, "a task's output cannot be kept");
        }
        let Piece { offset, bytes, .. } = piece;
        // Nobody watching is fine.
        drop(self.progress.send(Progress::Log { attempt, stream, offset, bytes: bytes.into() }));
    }

    async fn perform_network(&mut self, effect: Effect) {
        match effect {
            Effect::SetHello { hello } => self.fabric.set_hello(hello).await,
            Effect::Subscribe { topic, is_listening } => {
                if is_listening {
                    self.fabric.subscribe(topic.clone()).await;
                }
                self.topic = Some(topic);
            }
            Effect::Connect { peer, addresses, hello } => self.introduce(peer, addresses, hello),
            Effect::Admit { peer, is_guest } => {
                let introduced = self.introductions().remove(&peer);
                if let Some(introduced) = introduced {
                    tokio::spawn(async move {
                        let admitted = match is_guest {
                            true => introduced.admit_guest().await,
                            false => introduced.admit().await,
                        };
                        if let Err(error) = admitted {
                            tracing::debug!(%peer, %error, "the connection ended before the peer was let in");
                        }
                    });
                }
            }
            Effect::Disconnect { peer } => {
                drop(self.introductions().remove(&peer));
                self.fabric.disconnect(key(peer)).await;
            }
            Effect::Notice { detail } => tracing::warn!("{detail}"),
            Effect::Decided { request, decision } => {
                self.decisions.note(&request, &decision, super::org::now_ms())
            }
            Effect::Penalize { peer, fault, detail } => {
                match fault {
                    Fault::Unknown => tracing::info!(%peer, %detail, "a peer is not understood"),
                    _ => tracing::warn!(%peer, %detail, "a peer misbehaved"),
                }
                self.fabric.penalize(key(peer), offence(fault)).await;
            }
            Effect::Remember { peer, addresses } => {
                let value = serde_json::to_vec(&addresses).expect("a list of texts is plain data");
                if let Err(error) = self.cache.put(Tree::Peers, peer.as_bytes(), &value) {
                    tracing::warn!(%error, "a peer's addresses cannot be remembered");
                }
            }
            Effect::CacheReplicas { items } => {
                if let Err(error) = cache_replicas(&self.cache, &items) {
                    tracing::warn!(%error, "records of others cannot be cached");
                }
            }
            Effect::ForgetReplica { author } => {
                if let Err(error) = self.cache.remove_all(Tree::Replicas, author.as_bytes()) {
                    tracing::warn!(%error, "an author's records cannot be removed from the cache");
                }
            }
            Effect::Gossip { payload } => {
                if let Some(topic) = self.topic.clone()
                    && let Err(error) = self.fabric.publish(topic, payload).await
                {
                    // Without listeners now, peers get it by the next comparison of catalogues.
                    tracing::debug!(%error, "not gossiped");
                }
            }
            _ => {}
        }
    }

    fn introductions(&self) -> MutexGuard<'_, BTreeMap<NodeId, Introduced>> {
        self.introduced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects and greets. The engine sees the reply before the peer is let in.
    fn introduce(&self, peer: NodeId, addresses: Vec<String>, hello: Option<Vec<u8>>) {
        let (fabric, inputs) = (self.fabric.clone(), self.inputs.clone());
        let introduced = Arc::clone(&self.introduced);
        tokio::spawn(async move {
            let result = match fabric.introduce(key(peer), addresses, hello).await {
                Ok(met) => {
                    let reply = met.reply.clone();
                    introduced.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, met);
                    Ok(reply)
                }
                Err(ConnectError::Refused(reply)) => Ok(reply),
                Err(error) => Err(reason(&error)),
            };
            drop(inputs.send(Input::ConnectEnded { peer, result }).await);
        });
    }

    fn send(&mut self, to: NodeId, payload: Vec<u8>) {
        let fabric = &self.fabric;
        let outbox = self.outboxes.entry(to).or_insert_with(|| {
            let (outbox, mut waiting) = mpsc::channel::<Vec<u8>>(OUTBOX);
            let fabric = fabric.clone();
            tokio::spawn(async move {
                while let Some(payload) = waiting.recv().await {
                    if let Err(error) = fabric.send(key(to), payload).await {
                        tracing::debug!(peer = %to, %error, "a message was not delivered");
                    }
                }
            });
            outbox
        });
        if outbox.try_send(payload).is_err() {
            tracing::debug!(peer = %to, "too many messages wait for a peer; one is dropped");
        }
    }

    fn fetch(
        &mut self,
        job: FetchJob,
        from: NodeId,
        blobs: Vec<Blob>,
        others: BTreeMap<Digest, Vec<NodeId>>,
    ) {
        let (fetcher, inputs) = (self.fetcher.clone(), self.inputs.clone());
        self.fetches.retain(|_, fetch| !fetch.is_finished());
        let running = tokio::spawn(async move {
            let result = match job {
                FetchJob::Copy { .. } => fetcher.fetch_copy(from, &others, &blobs).await,
                _ => fetcher.fetch_all(from, &others, &blobs).await,
            };
            if let Err(error) = &result {
                tracing::debug!(?job, %error, "a fetch failed");
            }
            let result = result.map_err(|error| error.as_failure());
            drop(inputs.send(Input::Fetched { job, result }).await);
        });
        self.fetches.insert(job, running);
    }

    fn stop_attempt(&mut self, attempt: AttemptId) {
        if let Some(task) = self.tasks.get(&attempt) {
            task.cancel.send_replace(true);
        } else if let Some(fetch) = self.fetches.remove(&FetchJob::Inputs(attempt)) {
            fetch.abort();
            let inputs = self.inputs.clone();
            tokio::spawn(async move {
                let job = FetchJob::Inputs(attempt);
                drop(inputs.send(Input::Fetched { job, result: Ok(()) }).await);
            });
        }
    }

    fn discard(&mut self, attempt: AttemptId) {
        self.tasks.remove(&attempt);
        let dirs = self.runner.directories(attempt);
        tokio::task::spawn_blocking(move || {
            for dir in dirs {
                if let Err(error) = std::fs::remove_dir_all(&dir)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    tracing::warn!(dir = %dir.display(), %error, "a finished task's directory cannot be removed");
                }
            }
        });
    }

    /// Stops everything that runs.
    pub(super) async fn stop(&mut self) {
        for task in self.tasks.values() {
            task.cancel.send_replace(true);
        }
        for fetch in self.fetches.values() {
            fetch.abort();
        }
    }
}

/// What the network counts for a fault.
const fn offence(fault: Fault) -> Offence {
    match fault {
        Fault::Unknown => Offence::Unknown,
        Fault::TooMuch => Offence::Flood,
        Fault::Broken => Offence::Malformed,
        Fault::Forged => Offence::Forged,
    }
}
