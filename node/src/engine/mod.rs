//! The pure heart of a node: composes admission, catalogue, ledger, coordinator and provider, and routes between them.
//!
//! [`Engine::handle`] takes the time, randomness and one [`Input`], and returns [`Effects`]: a batch that must be durable
//! before anything else of the step happens, then what to do, in order. There is no file, socket, clock or thread in here.
//! The same inputs, times and seed give the same effects, byte for byte; the simulator relies on it.
//!
//! The engine decides nothing that one of its sub-machines could decide: it translates what one wants into what another
//! offers. A node is a peer of itself: what it sends to itself is handled within the same step.

mod admission;
pub mod areas;
pub mod ask;
pub mod command;
mod contract;
pub mod copies;
pub mod data;
mod dials;
mod directory;
pub mod disks;
mod explain;
mod exposure;
pub mod figures;
mod good;
pub mod images;
mod inspect;
mod ledger;
pub mod message;
pub mod names;
mod openly;
mod peers;
mod people;
pub mod pins;
pub mod policy;
pub mod ports;
mod query;
pub mod quota;
pub mod realms;
mod recover;
pub mod relations;
pub mod rotation;
mod route;
pub mod rules;
pub mod services;
pub mod sessions;
pub mod steer;
pub mod trust;
pub mod variants;
pub mod workspaces;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use catalog::cert::Ticket;
use catalog::sync::pace::Pace;
use catalog::{Catalog, Digest, Fault, NodeId};
use rand_core::Rng;
use scheduler::coordinator::{Coordinator, ToPlace};
use scheduler::place::Candidate;
use scheduler::provider::Provider;
use scheduler::service::Services;
use scheduler::task::RunId;

use self::admission::{Admission, Door, Greeting};
pub use self::admission::{JoinError, Papers, Peer};
use self::command::{CommandError, Response};
pub use self::contract::{
    Blob, CommandId, Effect, Effects, FetchJob, Input, Row, Settings, Stored, Token, Verdict,
};
use self::directory::OwnResource;
pub use self::good::GoodPeer;
pub use self::inspect::Inspect;
use self::ledger::Ledger;
use self::message::{NodeMessage, encode};
use self::realms::Realms;
pub use self::recover::RecoverError;
use self::relations::Relations;

/// Steps of internal routing in one call; reaching it means two sub-machines talk in a circle.
const ROUTING_MAX: usize = 100_000;

/// See the module's documentation.
#[derive(Debug)]
pub struct Engine {
    me: NodeId,
    settings: Settings,
    admission: Admission,
    relations: Relations,
    judge: policy::Judge,
    books: rules::Books,
    /// What nodes said of the people for whom they ask, so that it counts once.
    heard: catalog::cert::Replays,
    realms: Realms,
    catalog: Catalog,
    asks: ask::Asks,
    ledger: Ledger,
    coordinator: Coordinator,
    provider: Provider,
    connected: BTreeSet<NodeId>,
    addresses: Vec<String>,
    directory: dials::Directory,
    good: good::Good,
    own_resources: BTreeMap<String, OwnResource>,
    variants: variants::Variants,
    images: images::Images,
    disks: disks::Disks,
    kept: data::Kept,
    workspaces: workspaces::Workspaces,
    areas: areas::Areas,
    quotas: quota::Quotas,
    copies: scheduler::copies::Copies,
    keeper: scheduler::copies::Keeper,
    services: Services,
    /// What the catalogue says of each service.
    service_records: BTreeMap<String, OwnResource>,
    epoch: u32,
    joining: Option<(CommandId, Ticket)>,
    mailbox: VecDeque<scheduler::negotiate::Message>,
    /// Blobs known to be at a node because it worked with them.
    held: BTreeMap<NodeId, BTreeSet<Digest>>,
    pace: Pace,
    next_dial_ms: u64,
    next_papers_ms: u64,
    rotation: rotation::Rotation,
    out: Effects,
}

impl Engine {
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
                self.handle_hello(token, peer, &payload, now_ms);
            }
            Input::Discovered { peer, addresses } => {
                self.learn_peer(peer, addresses);
                self.dial_due(now_ms);
            }
            Input::Wanted { peer } => self.dial_wanted(peer, now_ms),
            Input::ConnectEnded { peer, result } => self.handle_connect_ended(peer, result, now_ms),
            Input::Connected { peer } => self.handle_connected(peer, now_ms),
            Input::Disconnected { peer } => {
                self.note_good(peer, now_ms);
                self.realms.handle_disconnected(peer);
                self.connected.remove(&peer);
                self.unchoose(peer);
                self.admission.handle_disconnected(peer, now_ms);
                self.ledger.handle_disconnected(peer);
                self.copies.handle_disconnected(peer, now_ms);
                self.directory.handle_disconnected(peer, now_ms);
                self.forget_asked(peer, now_ms, rng);
                if self.admission.heirs().of(peer).is_some() {
                    self.admission.forget(peer);
                }
            }
            Input::Message { from, payload } => self.handle_message(from, &payload, now_ms, rng),
            Input::Gossip { token, from, payload } => {
                self.handle_gossip(token, from, &payload, now_ms, rng);
            }
            Input::Fetched { job: FetchJob::Inputs(attempt), result } => {
                self.provider.handle_fetched(attempt, result, now_ms);
            }
            Input::Fetched { job: FetchJob::Outputs(attempt), result } => {
                self.coordinator.handle_collected(attempt, result, now_ms, &mut || rng.next_u64());
            }
            Input::Fetched { job: FetchJob::Copy { owner, digest }, result } => {
                self.keeper.handle_fetched((owner, digest), result.is_ok(), now_ms);
            }
            Input::Fetched { job: FetchJob::Shared(digest), result } => {
                self.handle_shared(digest, result.is_ok(), now_ms);
            }
            Input::Proven { at, digest, proof } => {
                self.copies.handle_proof(at, digest, proof, now_ms, &mut || rng.next_u64());
            }
            Input::Metered { attempt, counters } => self.ledger.meter(attempt, counters),
            Input::Preparing { attempt, is_preparing } => {
                self.provider.handle_preparing(attempt, is_preparing);
            }
            Input::Connection { run, is_made } => self.services.handle_connection(run, is_made),
            Input::Health { attempt, health } => {
                self.provider.handle_health(attempt, health, now_ms);
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

    fn handle_hello(&mut self, token: Token, peer: NodeId, payload: &[u8], now_ms: u64) {
        let door =
            Door { relations: &self.relations, connected: &self.connected, realms: &self.realms };
        let (greeting, reply) = self.admission.greet(peer, payload, &door, now_ms);
        let (is_welcome, mut is_guest) = (greeting.is_some(), false);
        match greeting {
            Some(Greeting::Guest(guest)) => {
                is_guest = true;
                self.let_guest_in(peer, *guest, Vec::new(), now_ms);
            }
            Some(Greeting::Member(_)) => {
                self.realms.forget_guest(peer);
                self.tell_terms(peer);
            }
            None => {}
        }
        self.out.list.push(Effect::Greet { token, is_welcome, is_guest, reply });
        self.follow_successions(now_ms);
    }

    fn handle_connect_ended(&mut self, peer: NodeId, result: Result<Vec<u8>, String>, now_ms: u64) {
        if self.handle_guest_reply(peer, &result, now_ms) {
            return;
        }
        let joining = self.joining.take_if(|(_, ticket)| ticket.node == peer);
        let ticket = joining.as_ref().map(|(_, ticket)| ticket);
        let outcome = match result {
            Ok(reply) => {
                let door = Door {
                    relations: &self.relations,
                    connected: &self.connected,
                    realms: &self.realms,
                };
                self.admission.handle_reply(peer, &reply, ticket, &door, now_ms)
            }
            Err(detail) => Err(JoinError::Unreachable { detail }),
        };
        self.follow_successions(now_ms);
        let error = outcome.as_ref().err().map(ToString::to_string);
        self.directory.handle_connect_ended(peer, error, now_ms);
        let is_member = matches!(outcome, Ok(true));
        if is_member {
            self.enter_realm(now_ms);
        }
        match &outcome {
            Ok(_) => {
                self.tell_terms(peer);
                self.out.list.push(Effect::Admit { peer, is_guest: false });
            }
            Err(JoinError::Unreachable { .. }) => {}
            Err(_) => self.out.list.push(Effect::Disconnect { peer }),
        }
        if let Some((id, ticket)) = joining {
            let result = outcome
                .map(|_| Response::Joined { realm: ticket.realm, org: ticket.org })
                .map_err(CommandError::Join);
            self.out.list.push(Effect::Reply { id, result });
            self.learn(peer, ticket.addresses);
        }
        if self.connected.contains(&peer) && self.admission.peer(peer).is_some() {
            self.greet_connected(peer, now_ms);
        }
    }

    fn handle_connected(&mut self, peer: NodeId, now_ms: u64) {
        if self.realms.is_guest(peer) {
            return self.handle_guest_connected(peer, now_ms);
        }
        self.connected.insert(peer);
        self.directory.handle_connected(peer);
        if self.admission.peer(peer).is_some() {
            self.greet_connected(peer, now_ms);
        }
    }

    /// What a peer that is connected and admitted gets first.
    fn greet_connected(&mut self, peer: NodeId, now_ms: u64) {
        let sync = self.catalog.start_sync();
        self.send(peer, &NodeMessage::Catalog(sync));
        self.ledger.handle_connected(peer);
        self.provider.handle_connected(peer);
        self.tell_terms(peer);
        self.bar(peer);
        self.expose_to(peer);
        self.note_good(peer, now_ms);
        self.choose(peer);
        self.copies.handle_connected(peer, now_ms);
        self.tell_speaker(peer, now_ms);
    }

    fn handle_message(&mut self, from: NodeId, payload: &[u8], now_ms: u64, rng: &mut dyn Rng) {
        let Some(org) = self.admission.peer(from).map(|p| p.cert.org) else {
            // A stranger is not heard, a gateway of another realm on its own matters alone.
            if self.realms.is_guest(from) {
                match NodeMessage::decode(payload) {
                    Err(error) => self.blame(from, error.fault(), error.to_string()),
                    Ok(message) => self.handle_guest_message(from, message, now_ms),
                }
            }
            return;
        };
        match NodeMessage::decode(payload) {
            Err(error) => self.blame(from, error.fault(), error.to_string()),
            Ok(NodeMessage::Realms(message)) => self.handle_realms(from, message, now_ms),
            Ok(NodeMessage::Catalog(message)) => {
                let audience = self.audience(org);
                self.handle_sync((from, audience), message, now_ms, rng);
            }
            Ok(NodeMessage::Task(message)) => self.handle_task_message(from, message, now_ms, rng),
            Ok(NodeMessage::Ledger(message)) => {
                self.ledger.handle_message(from, message, now_ms, random(rng));
            }
            Ok(NodeMessage::Ask(message)) => {
                let audience = self.audience(org);
                self.handle_ask((from, audience), message, now_ms, rng);
            }
            Ok(NodeMessage::Copies(message)) => self.handle_copies_message(from, message, now_ms),
            Ok(NodeMessage::Fence(message)) => self.ledger.handle_fence(from, message, now_ms),
            Ok(NodeMessage::Trust(message)) => self.handle_trust(from, message, now_ms),
        }
    }

    fn handle_gossip(
        &mut self,
        token: Token,
        from: NodeId,
        payload: &[u8],
        now_ms: u64,
        rng: &mut dyn Rng,
    ) {
        let is_admitted = self.admission.peer(from).is_some();
        let verdict = if is_admitted {
            self.handle_push(from, payload, now_ms, rng)
        } else {
            Verdict::Ignore
        };
        self.out.list.push(Effect::Verdict { token, verdict });
    }

    /// Counts a proven lie.
    fn penalize(&mut self, peer: NodeId, detail: String) {
        self.blame(peer, Fault::Forged, detail);
    }

    /// Counts a fault of this kind.
    fn blame(&mut self, peer: NodeId, fault: Fault, detail: String) {
        if fault == Fault::Forged {
            self.admission.note_lie(peer);
            self.forget_good(peer);
        }
        self.out.list.push(Effect::Penalize { peer, fault, detail });
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
            is_quiet &= !self.route_services(now_ms, rng);
            is_quiet &= !self.route_copies(now_ms, rng);
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
        self.poll_papers(now_ms);
        self.poll_rotation(now_ms);
        self.poll_catalog(now_ms, rng);
        self.poll_realms(now_ms, rng);
        self.poll_asks(now_ms, rng);
        self.poll_areas(now_ms);
        self.poll_coordinator(now_ms, rng);
        if self.provider.poll_timeout().is_some_and(|at| at <= now_ms) {
            self.provider.poll(now_ms);
        }
        if self.ledger.poll_timeout().is_some_and(|at| at <= now_ms) {
            let connected = &self.connected;
            self.ledger.poll(now_ms, &|node| connected.contains(&node));
        }
        self.images.poll(now_ms, &mut self.out.batch);
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
            let mut judge = |task: ToPlace<'_>, of: &[Candidate]| self.ruling(task, of, now_ms);
            let entropy = &mut || rng.next_u64();
            coordinator.poll_judged(now_ms, &mut candidates, &mut judge, entropy);
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
            self.images.poll_timeout(),
            self.services.poll_timeout(),
            self.asks.poll_timeout(),
            Some(self.pace.next_ms()),
            self.copies.poll_timeout(),
            self.areas.poll_timeout(),
            self.keeper.poll_timeout(),
            Some(self.next_dial_ms),
            Some(self.catalog.next_renewal_ms()),
            Some(self.admission.next_renewal_ms()),
            Some(self.next_papers_ms),
            Some(self.rotation.poll_timeout()),
            self.realms_timeout(),
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
