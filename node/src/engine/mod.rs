//! The pure heart of a node: composes admission, catalogue, ledger, coordinator and provider, and routes between them.
//!
//! [`Engine::handle`] takes the time, randomness and one [`Input`], and returns [`Effects`]: a batch that must be durable
//! before anything else of the step happens, then what to do, in order. There is no file, socket, clock or thread in here.
//! The same inputs, times and seed give the same effects, byte for byte; the simulator relies on it.
//!
//! The engine decides nothing that one of its sub-machines could decide: it translates what one wants into what another
//! offers. A node is a peer of itself: what it sends to itself is handled within the same step.

mod admission;
pub mod command;
mod directory;
mod explain;
mod ledger;
pub mod message;
pub mod pins;
mod query;
mod route;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use accounting::{Counters, PricePlan};
use catalog::Catalog;
use catalog::cert::Ticket;
use catalog::record::{ComputeDetail, Resource};
use catalog::{Digest, NodeId, OrgId};
use ed25519_dalek::SigningKey;
use rand_core::Rng;
use scheduler::capacity::{Amounts, Capacity};
use scheduler::coordinator::Coordinator;
use scheduler::negotiate::{Outcome, Stream};
use scheduler::provider::Provider;
use scheduler::run::{Event, Run};
use scheduler::task::{AttemptId, Failure, RunId, TaskSpec};

use admission::{Admission, Papers};
pub use admission::{JoinError, Peer};
use command::{Command, CommandError, Response};
use ledger::Ledger;
use message::{NodeMessage, encode};

use crate::store::batch::{Batch, Table};

/// Names a command until its answer.
pub type CommandId = u64;
/// Names an inbound greeting or gossip message until its verdict.
pub type Token = u64;

/// Steps of internal routing in one call; reaching it means two sub-machines talk in a circle.
const ROUTING_MAX: usize = 100_000;

/// Who this node is and what it offers.
#[derive(Clone)]
pub struct Settings {
    /// The organisation's root key.
    pub org_key: SigningKey,
    /// The node's key.
    pub node_key: SigningKey,
    /// The organisation's name for people.
    pub org_name: String,
    /// The node's stable name within its organisation.
    pub node_name: String,
    /// Prices.
    pub price_plan: PricePlan,
    /// What it offers to run tasks with.
    pub compute: ComputeDetail,
    /// Most tasks at once.
    pub tasks_max: u32,
    /// Organisations that are refused.
    pub blocked: BTreeSet<OrgId>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("node_name", &self.node_name).finish_non_exhaustive()
    }
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// What the durable store holds, by table.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Rows in key order.
    pub tables: BTreeMap<Table, Vec<Row>>,
    /// Whether the store was put back from a backup or copied, and this is the first start since.
    pub is_set_back: bool,
}

impl Stored {
    fn rows(&self, table: Table) -> &[(Vec<u8>, Vec<u8>)] {
        self.tables.get(&table).map_or(&[], Vec::as_slice)
    }
}

/// Why a node cannot start from what is stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// A row that this program did not write.
    #[error("a row of table {} cannot be read: the store is damaged or of another version", table.name())]
    Row {
        /// Where.
        table: Table,
    },
    /// A channel's logs do not fold.
    #[error("the logs of channel {channel} do not fit together")]
    Channel {
        /// Which.
        channel: Digest,
        /// Why.
        #[source]
        source: Box<accounting::channel::ReplayError>,
    },
    /// A run's log does not fold.
    #[error("a run's log does not fit together")]
    Run(#[from] scheduler::run::ReplayError),
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed.
    Tick,
    /// The owner wants something.
    Command {
        /// Comes back with the answer.
        id: CommandId,
        /// What.
        command: Command,
    },
    /// The fabric listens here.
    Listening {
        /// Multiaddrs with the node's id.
        addresses: Vec<String>,
    },
    /// A peer greets us.
    Hello {
        /// Comes back with the answer.
        token: Token,
        /// Who, proved by the connection.
        peer: NodeId,
        /// Its greeting.
        payload: Vec<u8>,
    },
    /// A node was seen on the local network.
    Discovered {
        /// Who.
        peer: NodeId,
        /// Where.
        addresses: Vec<String>,
    },
    /// An attempt to connect ended.
    ConnectEnded {
        /// To whom.
        peer: NodeId,
        /// Its reply to our greeting, or why there is none.
        result: Result<Vec<u8>, String>,
    },
    /// Both sides let each other in.
    Connected {
        /// Who.
        peer: NodeId,
    },
    /// The last connection to a peer ended.
    Disconnected {
        /// Who.
        peer: NodeId,
    },
    /// A message of an admitted peer.
    Message {
        /// From whom.
        from: NodeId,
        /// The bytes.
        payload: Vec<u8>,
    },
    /// A catalogue push.
    Gossip {
        /// Comes back with the verdict.
        token: Token,
        /// Who passed it on.
        from: NodeId,
        /// The bytes.
        payload: Vec<u8>,
    },
    /// A fetch ended.
    Fetched {
        /// Which.
        job: FetchJob,
        /// How.
        result: Result<(), Failure>,
    },
    /// A task's program is being made ready, or is ready.
    Preparing {
        /// Which attempt.
        attempt: AttemptId,
        /// Whether it has begun, or is over.
        is_preparing: bool,
    },
    /// A task used so much so far.
    Metered {
        /// Which.
        attempt: AttemptId,
        /// Cumulative.
        counters: Counters,
    },
    /// A task wrote something.
    Wrote {
        /// Which.
        attempt: AttemptId,
        /// Where.
        stream: Stream,
        /// Position of the first byte.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A task ended and its outputs are in the blob store.
    Ended {
        /// Which.
        attempt: AttemptId,
        /// How.
        outcome: Outcome,
        /// What it used in all.
        counters: Counters,
    },
}

/// Why blobs are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FetchJob {
    /// The inputs of an attempt this node provides.
    Inputs(AttemptId),
    /// The outputs of an attempt this node asked for.
    Outputs(AttemptId),
}

/// A blob to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blob {
    /// Its name; of a directory, its manifest's.
    pub digest: Digest,
    /// Whether the files of the manifest are wanted too.
    pub is_dir: bool,
    /// Announced length: of a file, or of all files of a directory.
    pub size: u64,
}

/// The verdict on a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New and true: pass it on.
    Accept,
    /// Known or stale.
    Ignore,
    /// A lie: count it against the sender.
    Reject,
}

/// Something to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Answer a command.
    Reply {
        /// Which.
        id: CommandId,
        /// The answer.
        result: Result<Response, CommandError>,
    },
    /// Answer a greeting.
    Greet {
        /// Which.
        token: Token,
        /// Whether the peer is let in.
        is_welcome: bool,
        /// The reply's bytes.
        reply: Vec<u8>,
    },
    /// Present this on new connections.
    SetHello {
        /// The greeting.
        hello: Vec<u8>,
    },
    /// Take part in a gossip topic, and leave the one before.
    Subscribe {
        /// Its name.
        topic: String,
    },
    /// Connect; [`Input::ConnectEnded`] answers.
    Connect {
        /// To whom.
        peer: NodeId,
        /// Where it may be.
        addresses: Vec<String>,
        /// The greeting, when it is a special one.
        hello: Option<Vec<u8>>,
    },
    /// The peer's reply to our greeting is good: let it in. Without this the connection is closed.
    Admit {
        /// Whom.
        peer: NodeId,
    },
    /// End every connection to a peer.
    Disconnect {
        /// Whose.
        peer: NodeId,
    },
    /// Count an offence.
    Penalize {
        /// Whose.
        peer: NodeId,
        /// What, for the log.
        detail: String,
    },
    /// Keep signed heads and records of others for the next start, where the newest of a key replaces the others
    /// ([`catalog::replica::cache_key`]). Losing them costs a synchronisation.
    CacheReplicas {
        /// Each as its author signed it.
        items: Vec<Vec<u8>>,
    },
    /// Keep nothing more of an author.
    ForgetReplica {
        /// Who.
        author: NodeId,
    },
    /// Tell the owner, in the log.
    Notice {
        /// What.
        detail: String,
    },
    /// Remember where a peer is, for the next start.
    Remember {
        /// Who.
        peer: NodeId,
        /// Where.
        addresses: Vec<String>,
    },
    /// Send a message.
    Send {
        /// To whom.
        to: NodeId,
        /// The bytes.
        payload: Vec<u8>,
    },
    /// Push to the gossip topic.
    Gossip {
        /// The bytes.
        payload: Vec<u8>,
    },
    /// Say what to do with a gossip message.
    Verdict {
        /// Which.
        token: Token,
        /// What.
        verdict: Verdict,
    },
    /// Fetch blobs that are not here; [`Input::Fetched`] answers.
    Fetch {
        /// Why.
        job: FetchJob,
        /// From whom.
        from: NodeId,
        /// What.
        blobs: Vec<Blob>,
    },
    /// Store these bytes as blobs, before the effects that follow.
    Keep {
        /// The bytes of each.
        blobs: Vec<Vec<u8>>,
    },
    /// Let a peer fetch blobs.
    Grant {
        /// Whom.
        peer: NodeId,
        /// Ends with this attempt.
        attempt: AttemptId,
        /// Directories by manifest, with their files.
        blobs: Vec<Digest>,
    },
    /// Withdraw a grant.
    Revoke {
        /// Whose.
        peer: NodeId,
        /// Which.
        attempt: AttemptId,
    },
    /// Let every admitted peer fetch a blob.
    Open {
        /// Which; a directory by its manifest.
        digest: Digest,
    },
    /// Run a task; [`Input::Metered`], [`Input::Wrote`] and [`Input::Ended`] answer.
    Start {
        /// Which.
        attempt: AttemptId,
        /// What.
        spec: Box<TaskSpec>,
    },
    /// Stop a task, or the fetch before it.
    Stop {
        /// Which.
        attempt: AttemptId,
    },
    /// Remove a task's working files.
    Discard {
        /// Which.
        attempt: AttemptId,
    },
    /// A run made progress: tell whoever watches.
    RunEvent {
        /// Which.
        run: RunId,
        /// Position in its log.
        seq: u64,
        /// What.
        event: Box<Event>,
    },
    /// A task of a run wrote something: keep it and tell whoever watches.
    RunLog {
        /// Which.
        attempt: AttemptId,
        /// Where.
        stream: Stream,
        /// Position of the first byte.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
}

/// What one step wants.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Durable before the first of `list`.
    pub batch: Batch,
    /// In order.
    pub list: Vec<Effect>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Engine {
    me: NodeId,
    settings: Settings,
    admission: Admission,
    catalog: Catalog,
    ledger: Ledger,
    coordinator: Coordinator,
    provider: Provider,
    connected: BTreeSet<NodeId>,
    addresses: Vec<String>,
    directory: directory::Directory,
    own_resources: BTreeMap<String, Resource>,
    epoch: u32,
    joining: Option<(CommandId, Ticket)>,
    mailbox: VecDeque<scheduler::negotiate::Message>,
    /// Blobs known to be at a node because it worked with them.
    held: BTreeMap<NodeId, BTreeSet<Digest>>,
    next_sync_ms: u64,
    next_dial_ms: u64,
    out: Effects,
}

impl Engine {
    /// A node as it was when its last batch became durable. The effects put it back to work.
    ///
    /// # Errors
    /// See [`RecoverError`]: nothing that was promised is silently left out.
    pub fn recover(
        settings: Settings,
        stored: &Stored,
        now_ms: u64,
        rng: &mut dyn Rng,
    ) -> Result<(Self, Effects), RecoverError> {
        let me: NodeId = settings.node_key.verifying_key().into();
        let papers = Papers {
            me,
            org_key: settings.org_key.clone(),
            org_name: settings.org_name.clone(),
            node_name: settings.node_name.clone(),
            blocked: settings.blocked.clone(),
        };
        let admission = Admission::recover(
            papers,
            stored.rows(Table::Members),
            stored.rows(Table::Tickets),
            now_ms,
            random(rng),
        )?;
        let mut ledger =
            Ledger::new(settings.node_key.clone(), admission.org(), settings.price_plan.clone());
        let (quotes, entries) = (stored.rows(Table::Quotes), stored.rows(Table::LedgerEntries));
        for channel in ledger::replay(me, quotes.to_vec(), entries.to_vec())? {
            ledger.restore(channel);
        }
        let set_back = stored.is_set_back.then(|| random(rng));
        ledger.restore_fences(stored.rows(Table::Meta), set_back)?;
        let capacity = Capacity::new(Amounts {
            cpu_milli: settings.compute.cpu_milli,
            memory_bytes: settings.compute.memory_bytes,
            disk_bytes: settings.compute.disk_bytes,
            tasks_max: settings.tasks_max,
        });
        let mut engine = Self {
            me,
            catalog: Catalog::new(me, admission.realm(), catalog::Limits::default()),
            admission,
            ledger,
            coordinator: Coordinator::new(me),
            provider: Provider::new(me, capacity),
            connected: BTreeSet::new(),
            addresses: Vec::new(),
            directory: directory::Directory::default(),
            own_resources: BTreeMap::new(),
            epoch: 0,
            joining: None,
            mailbox: VecDeque::new(),
            held: BTreeMap::new(),
            next_sync_ms: now_ms,
            next_dial_ms: now_ms,
            out: Effects::default(),
            settings,
        };
        engine.restore(stored, now_ms)?;
        engine.enter_realm(now_ms);
        engine.settle(now_ms, rng);
        let effects = engine.take();
        Ok((engine, effects))
    }

    fn restore(&mut self, stored: &Stored, now_ms: u64) -> Result<(), RecoverError> {
        let row = |table| RecoverError::Row { table };
        let epoch = stored.rows(Table::Meta).iter().find(|(key, _)| key == EPOCH_KEY);
        let epoch = match epoch {
            Some((_, value)) => {
                u32::from_be_bytes(value.as_slice().try_into().map_err(|_| row(Table::Meta))?)
            }
            None => 0,
        };
        // An author never uses an epoch twice, so a sequence number lost in a crash is never given to another record.
        // A store that was set back does not know the epochs since; seconds are above any count of starts.
        let seconds = u32::try_from(now_ms / 1_000).unwrap_or(u32::MAX);
        let least = if stored.is_set_back { seconds } else { 0 };
        self.epoch = epoch.max(least).saturating_add(1);
        self.out.batch.put(Table::Meta, EPOCH_KEY, self.epoch.to_be_bytes());
        for (_, value) in stored.rows(Table::OwnRecords) {
            let resource: Resource =
                ciborium::from_reader(&value[..]).map_err(|_| row(Table::OwnRecords))?;
            self.own_resources.insert(resource.key.clone(), resource);
        }
        for (_, value) in stored.rows(Table::Attempts) {
            let record = ciborium::from_reader(&value[..]).map_err(|_| row(Table::Attempts))?;
            self.provider.restore(record, now_ms);
        }
        let attempts_from = self.attempts_from(stored, seconds)?;
        let mut logs: BTreeMap<[u8; 16], Vec<Event>> = BTreeMap::new();
        for (key, value) in stored.rows(Table::RunEvents) {
            let id = key.get(..16).and_then(|k| k.try_into().ok()).ok_or(row(Table::RunEvents))?;
            let event = ciborium::from_reader(&value[..]).map_err(|_| row(Table::RunEvents))?;
            logs.entry(id).or_default().push(event);
        }
        for (id, events) in logs {
            let mut run = Run::replay(RunId::from_bytes(id), events)?;
            if run.submitted_ms() / 1_000 <= u64::from(attempts_from) {
                run.number_from(attempts_from);
            }
            self.coordinator.restore(run, now_ms);
        }
        Ok(())
    }

    /// The least number of a new attempt of runs from before the newest restore, and the time of that restore: attempts
    /// that were made since the backup have lower numbers. 0 when there was none.
    fn attempts_from(&mut self, stored: &Stored, seconds: u32) -> Result<u32, RecoverError> {
        if stored.is_set_back {
            self.out.batch.put(Table::Meta, ATTEMPTS_KEY, seconds.to_be_bytes());
            return Ok(seconds);
        }
        let row = stored.rows(Table::Meta).iter().find(|(key, _)| key == ATTEMPTS_KEY);
        row.map_or(Ok(0), |(_, value)| {
            let bytes = value.as_slice().try_into();
            bytes.map(u32::from_be_bytes).map_err(|_| RecoverError::Row { table: Table::Meta })
        })
    }

    /// Handles one input.
    pub fn handle(&mut self, now_ms: u64, rng: &mut dyn Rng, input: Input) -> Effects {
        self.dispatch(now_ms, rng, input);
        self.settle(now_ms, rng);
        self.take()
    }

    fn dispatch(&mut self, now_ms: u64, rng: &mut dyn Rng, input: Input) {
        match input {
            Input::Tick => {}
            Input::Command { id, command } => self.handle_command(id, command, now_ms, rng),
            Input::Listening { addresses } => {
                self.addresses = addresses;
                self.publish_compute(now_ms);
            }
            Input::Hello { token, peer, payload } => {
                let (is_welcome, reply) = self.admission.greet(peer, &payload, now_ms);
                self.out.list.push(Effect::Greet { token, is_welcome, reply });
            }
            Input::Discovered { peer, addresses } => {
                self.learn_peer(peer, addresses);
                self.dial_due(now_ms);
            }
            Input::ConnectEnded { peer, result } => self.handle_connect_ended(peer, result, now_ms),
            Input::Connected { peer } => self.handle_connected(peer, now_ms),
            Input::Disconnected { peer } => {
                self.connected.remove(&peer);
                self.ledger.handle_disconnected(peer);
                self.directory.handle_disconnected(peer, now_ms);
            }
            Input::Message { from, payload } => self.handle_message(from, &payload, now_ms, rng),
            Input::Gossip { token, from, payload } => {
                self.handle_gossip(token, from, &payload, now_ms)
            }
            Input::Fetched { job: FetchJob::Inputs(attempt), result } => {
                self.provider.handle_fetched(attempt, result, now_ms);
            }
            Input::Fetched { job: FetchJob::Outputs(attempt), result } => {
                self.coordinator.handle_collected(attempt, result, now_ms, &mut || rng.next_u64());
            }
            Input::Metered { attempt, counters } => self.ledger.meter(attempt, counters),
            Input::Preparing { attempt, is_preparing } => {
                self.provider.handle_preparing(attempt, is_preparing);
            }
            Input::Wrote { attempt, stream, offset, bytes } => {
                self.pass_log(attempt, stream, offset, bytes);
            }
            Input::Ended { attempt, outcome, counters } => {
                self.ledger.meter(attempt, counters);
                self.provider.handle_ended(attempt, outcome, now_ms);
            }
        }
    }

    /// Starts over in the realm this node is in now: catalogue, topic and greeting.
    fn enter_realm(&mut self, now_ms: u64) {
        self.catalog = Catalog::new(self.me, self.admission.realm(), catalog::Limits::default());
        let empty = self.catalog.restore_own(self.epoch, Vec::new());
        debug_assert!(empty.is_ok(), "an empty log can be restored");
        let hello = self.admission.hello(None).encode();
        self.out.list.push(Effect::SetHello { hello });
        let topic = format!("/opencloud/1/{}/catalog", self.admission.realm());
        self.out.list.push(Effect::Subscribe { topic });
        for resource in self.own_resources.values().cloned().collect::<Vec<_>>() {
            self.announce(resource, now_ms);
        }
        self.publish_compute(now_ms);
    }

    fn handle_connect_ended(&mut self, peer: NodeId, result: Result<Vec<u8>, String>, now_ms: u64) {
        let joining = self.joining.take_if(|(_, ticket)| ticket.node == peer);
        let ticket = joining.as_ref().map(|(_, ticket)| ticket);
        let outcome = match result {
            Ok(reply) => self.admission.handle_reply(peer, &reply, ticket, now_ms),
            Err(detail) => Err(JoinError::Unreachable { detail }),
        };
        self.directory.handle_connect_ended(peer, outcome.is_ok(), now_ms);
        let is_member = matches!(outcome, Ok(true));
        if is_member {
            self.enter_realm(now_ms);
        }
        match &outcome {
            Ok(_) => self.out.list.push(Effect::Admit { peer }),
            Err(JoinError::Unreachable { .. }) => {}
            Err(_) => self.out.list.push(Effect::Disconnect { peer }),
        }
        if let Some((id, ticket)) = joining {
            let result = outcome
                .map(|_| Response::Joined { realm: ticket.realm, org: ticket.org })
                .map_err(CommandError::Join);
            self.out.list.push(Effect::Reply { id, result });
            self.directory.learn(peer, ticket.addresses.clone());
            if is_member {
                self.out.list.push(Effect::Remember { peer, addresses: ticket.addresses });
            }
        }
        if self.connected.contains(&peer) && self.admission.peer(peer).is_some() {
            self.greet_connected(peer);
        }
    }

    fn handle_connected(&mut self, peer: NodeId, now_ms: u64) {
        self.connected.insert(peer);
        self.directory.handle_connected(peer, now_ms);
        if self.admission.peer(peer).is_some() {
            self.greet_connected(peer);
        }
    }

    /// What a peer that is connected and admitted gets first.
    fn greet_connected(&mut self, peer: NodeId) {
        let sync = self.catalog.start_sync();
        self.send(peer, &NodeMessage::Catalog(sync));
        self.ledger.handle_connected(peer);
        self.provider.handle_connected(peer);
    }

    fn handle_message(&mut self, from: NodeId, payload: &[u8], now_ms: u64, rng: &mut dyn Rng) {
        let Some(org) = self.admission.peer(from).map(|p| p.cert.org) else {
            return;
        };
        match NodeMessage::decode(payload) {
            Err(error) => self.penalize(from, error.to_string()),
            Ok(NodeMessage::Catalog(message)) => {
                match self.catalog.handle_sync(now_ms, org, message) {
                    Ok(synced) => {
                        for reply in synced.replies {
                            self.send(from, &NodeMessage::Catalog(reply));
                        }
                        self.cache_replicas(synced.store);
                        if let Some(fault) = synced.faults.iter().find(|f| f.is_peer_fault()) {
                            self.penalize(from, fault.to_string());
                        }
                        self.learn_addresses(now_ms);
                    }
                    Err(error) if error.is_peer_fault() => self.penalize(from, error.to_string()),
                    Err(_) => {}
                }
            }
            Ok(NodeMessage::Task(message)) => self.handle_task_message(from, message, now_ms, rng),
            Ok(NodeMessage::Ledger(message)) => {
                self.ledger.handle_message(from, message, now_ms, random(rng));
            }
            Ok(NodeMessage::Fence(message)) => self.ledger.handle_fence(from, message, now_ms),
        }
    }

    fn handle_gossip(&mut self, token: Token, from: NodeId, payload: &[u8], now_ms: u64) {
        let verdict = if self.admission.peer(from).is_none() {
            Verdict::Ignore
        } else {
            match self.catalog.handle_push(now_ms, payload) {
                Ok(pushed) if pushed.news.is_empty() => Verdict::Ignore,
                Ok(pushed) => {
                    self.cache_replicas(pushed.store);
                    self.learn_addresses(now_ms);
                    Verdict::Accept
                }
                Err(error) if error.is_peer_fault() => {
                    self.penalize(from, error.to_string());
                    Verdict::Reject
                }
                Err(_) => Verdict::Ignore,
            }
        };
        self.out.list.push(Effect::Verdict { token, verdict });
    }

    fn penalize(&mut self, peer: NodeId, detail: String) {
        self.out.list.push(Effect::Penalize { peer, detail });
    }

    fn send(&mut self, to: NodeId, message: &NodeMessage) {
        self.out.list.push(Effect::Send { to, payload: message.encode() });
    }

    /// Routes until every sub-machine is at rest.
    fn settle(&mut self, now_ms: u64, rng: &mut dyn Rng) {
        self.poll(now_ms, rng);
        for _ in 0..ROUTING_MAX {
            let mut is_quiet = true;
            if let Some(message) = self.mailbox.pop_front() {
                is_quiet = false;
                self.handle_task_message(self.me, message, now_ms, rng);
            }
            is_quiet &= !self.route_coordinator(now_ms, rng);
            is_quiet &= !self.route_provider(now_ms, rng);
            is_quiet &= !self.route_ledger(now_ms);
            if is_quiet {
                if self.coordinator.poll_timeout().is_some_and(|at| at <= now_ms) {
                    self.poll_coordinator(now_ms, rng);
                    if !self.coordinator.has_actions() {
                        return;
                    }
                } else {
                    return;
                }
            }
        }
        debug_assert!(false, "two sub-machines talk in a circle");
    }

    fn poll(&mut self, now_ms: u64, rng: &mut dyn Rng) {
        if self.admission.renew(now_ms) {
            let hello = self.admission.hello(None).encode();
            self.out.list.push(Effect::SetHello { hello });
        }
        self.poll_catalog(now_ms, rng);
        self.poll_coordinator(now_ms, rng);
        if self.provider.poll_timeout().is_some_and(|at| at <= now_ms) {
            self.provider.poll(now_ms);
        }
        if self.ledger.poll_timeout().is_some_and(|at| at <= now_ms) {
            let connected = &self.connected;
            self.ledger.poll(now_ms, &|node| connected.contains(&node));
        }
    }

    fn poll_coordinator(&mut self, now_ms: u64, rng: &mut dyn Rng) {
        if self.coordinator.poll_timeout().is_some_and(|at| at <= now_ms) {
            let mut coordinator =
                std::mem::replace(&mut self.coordinator, Coordinator::new(self.me));
            // Nobody with whom nothing can be signed gets new work.
            let mut candidates = || {
                let mut all = self.candidates(now_ms);
                all.retain(|c| c.node == self.me || self.ledger.may_work_with(c.node));
                all
            };
            coordinator.poll(now_ms, &mut candidates, &mut || rng.next_u64());
            self.coordinator = coordinator;
        }
    }

    /// When [`Input::Tick`] is due, if nothing happens before (Unix ms).
    #[must_use]
    pub fn poll_timeout(&self) -> u64 {
        [
            self.coordinator.poll_timeout(),
            self.provider.poll_timeout(),
            self.ledger.poll_timeout(),
            Some(self.next_sync_ms),
            Some(self.next_dial_ms),
            Some(self.catalog.next_renewal_ms()),
            Some(self.admission.next_renewal_ms()),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(u64::MAX)
    }

    fn take(&mut self) -> Effects {
        let mut effects = std::mem::take(&mut self.out);
        let mut admission = self.admission.take_batch();
        effects.batch.ops.append(&mut admission.ops);
        effects
    }

    /// This node's id.
    #[must_use]
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// What this node presents on new connections.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        self.admission.hello(None).encode()
    }

    /// The state that matters to tests: runs, channels and capacity.
    #[must_use]
    pub fn inspect(&self) -> Inspect<'_> {
        Inspect { engine: self }
    }
}

/// A read-only view for tests and the simulator's invariants.
#[derive(Clone, Copy, Debug)]
pub struct Inspect<'a> {
    engine: &'a Engine,
}

impl<'a> Inspect<'a> {
    /// Every run.
    pub fn runs(self) -> impl Iterator<Item = &'a Run> {
        self.engine.coordinator.runs()
    }

    /// Every channel.
    pub fn channels(self) -> impl Iterator<Item = &'a accounting::channel::Channel> {
        self.engine.ledger.channels()
    }

    /// What is free and what there is.
    #[must_use]
    pub const fn capacity(self) -> &'a Capacity {
        self.engine.provider.capacity()
    }

    /// Attempts this node works on, with their consumers.
    pub fn active(self) -> impl Iterator<Item = (AttemptId, NodeId)> + 'a {
        self.engine.provider.active()
    }

    /// Resources known, own ones included.
    #[must_use]
    pub fn n_resources(self, now_ms: u64) -> usize {
        self.engine.catalog.resources(now_ms).count()
    }

    /// Peers connected and admitted.
    #[must_use]
    pub const fn connected(self) -> &'a BTreeSet<NodeId> {
        &self.engine.connected
    }
}

const EPOCH_KEY: &[u8] = b"epoch";
const ATTEMPTS_KEY: &[u8] = b"attempts-from";

fn random<const N: usize>(rng: &mut dyn Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

pub(crate) fn run_event_key(run: RunId, seq: u64) -> Vec<u8> {
    [run.as_bytes().as_slice(), &seq.to_be_bytes()].concat()
}

pub(crate) fn stored<T: serde::Serialize>(value: &T) -> Vec<u8> {
    encode(value)
}
