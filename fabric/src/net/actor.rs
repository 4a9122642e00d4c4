//! The network task: one loop that owns the swarm. Nothing in it waits, verifies or touches a disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::ConnectedPoint;
use libp2p::request_response::OutboundRequestId;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, mdns, ping};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep_until, timeout};

use super::dht;
use super::gate::GateEvent;
use super::hello::{Asked, Introduction};
use super::listening::Listening;
use super::queue::Events;
use super::reaching::{self, Reaching};
use super::streams::Streams;
use super::traffic::Sending;
use super::{AdmittedEvent, Ground, Net, NetEvent};
use crate::config::Config;
use crate::error::{ConnectError, PublishError, SendError};
use crate::event::{Access, Event, Offence, Payload, PeerInfo, RefusedWhy, Verdict};
use crate::handle::MESSAGE_MAX;
use crate::island::Island;
use crate::key::PeerKey;
use crate::peers::{Entry, LISTEN_ADDRESSES_MAX, Peers, Settled};
use crate::places::Places;
use crate::reach::Reachability;
use crate::room::{self, Room};
use crate::terms::TermsBook;

/// How long peers may take at the end to close what this node cannot; see `leave`.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long closing all connections may take after that.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Callers who wait for the listeners to come up; more are answered at once.
const ADDRESS_WAITERS: usize = 64;
/// Peers that are held at once; further ones are counted as all others.
const HELD_MAX: usize = 16;
/// What gossipsub is to think of a banned peer.
const BANNED_SCORE: f64 = -1000.0;

type Reply<T> = oneshot::Sender<T>;

/// The first half of a connect: what [`crate::Introduced`] is made of.
#[derive(Debug)]
pub(crate) struct Peering {
    pub(crate) id: u64,
    pub(crate) reply: Vec<u8>,
}

/// What the handle asks for.
#[derive(Debug)]
pub(crate) enum Command {
    Addresses(Reply<Vec<String>>),
    SetHello(Vec<u8>),
    Introduce {
        peer: PeerKey,
        addresses: Vec<Multiaddr>,
        hello: Option<Vec<u8>>,
        reply: Reply<Result<Peering, ConnectError>>,
    },
    Admit {
        id: u64,
        peer: PeerKey,
        access: Access,
        reply: Reply<Result<(), ConnectError>>,
    },
    Decline {
        id: u64,
    },
    Send {
        to: PeerKey,
        payload: Vec<u8>,
        reply: Reply<Result<(), SendError>>,
    },
    Subscribe(String),
    Publish {
        topic: String,
        payload: Vec<u8>,
        reply: Reply<Result<(), PublishError>>,
    },
    Disconnect(PeerKey),
    Hold(Vec<PeerKey>),
    Penalize(PeerKey, Offence),
    Peers(Reply<Vec<PeerInfo>>),
    IsAdmitted(PeerKey, Reply<bool>),
    IsOnlyRelayed(PeerKey, Reply<bool>),
    Payload(Reply<Payload>),
    Reachability(Reply<Reachability>),
    RelayAddresses(PeerKey, Reply<Vec<Vec<u8>>>),
    RemoteIps(PeerKey, Reply<Vec<IpAddr>>),
    RoundTrips(Vec<PeerKey>, Reply<Vec<Option<u64>>>),
    Dht(dht::Ask),
    Shutdown(Reply<()>),
}

/// The task's state.
pub(crate) struct Actor {
    pub(super) swarm: Swarm<Net>,
    pub(super) listening: Listening,
    pub(super) streams: Streams,
    /// Shared by all received messages that wait for the application.
    pub(super) message_memory: Arc<Semaphore>,
    /// What each peer has of it.
    pub(super) room: Arc<Room>,
    pub(super) island: Island,
    pub(super) me: PeerKey,
    pub(super) config: Config,
    pub(super) peers: Peers,
    pub(super) events: Events,
    pub(super) verdicts_to: mpsc::Sender<Verdict>,
    /// Those of tunnels that peers have opened.
    pub(super) tunnels: Arc<Places>,
    pub(super) terms: Arc<TermsBook>,
    /// What this node presents.
    pub(super) hello: Vec<u8>,
    /// Hellos that this node makes, by number.
    pub(super) introductions: BTreeMap<u64, Introduction>,
    pub(super) presented: HashMap<OutboundRequestId, u64>,
    /// Hellos that the application judges, by number.
    pub(super) asked: BTreeMap<u64, Asked>,
    pub(super) next_exchange: u64,
    pub(super) sending: HashMap<OutboundRequestId, Sending>,
    pub(super) topics: BTreeSet<String>,
    /// Peers whose connections the limits do not count.
    pub(super) held: Vec<PeerKey>,
    pub(super) reaching: Reaching,
    commands: mpsc::Receiver<Command>,
    verdicts: mpsc::Receiver<Verdict>,
    address_waiters: Vec<Reply<Vec<String>>>,
}

impl Actor {
    pub(crate) fn new(
        ground: Ground,
        config: Config,
        (me, run): (PeerKey, u64),
        (tunnels, reaching, terms): (Arc<Places>, Reaching, Arc<TermsBook>),
        (commands, verdicts): (mpsc::Receiver<Command>, mpsc::Receiver<Verdict>),
        (verdicts_to, events): (mpsc::Sender<Verdict>, mpsc::Sender<Event>),
    ) -> Self {
        let Ground { swarm, listening, streams, message_memory } = ground;
        let share = u64::from(config.limits.message_memory_bytes / room::SHARE);
        let room = share.max(MESSAGE_MAX as u64);
        Self {
            peers: Peers::new(config.limits.clone(), run),
            island: Island::new(config.alone),
            room: Room::new(room),
            swarm,
            listening,
            streams,
            message_memory,
            me,
            config,
            events: Events::new(events),
            verdicts_to,
            tunnels,
            terms,
            hello: Vec::new(),
            introductions: BTreeMap::new(),
            presented: HashMap::new(),
            asked: BTreeMap::new(),
            next_exchange: 0,
            sending: HashMap::new(),
            topics: BTreeSet::new(),
            held: Vec::new(),
            reaching,
            commands,
            verdicts,
            address_waiters: Vec::new(),
        }
    }

    /// Runs until it is told to stop or the last handle is gone.
    pub(crate) async fn run(mut self) {
        let done = loop {
            let deadline = self.next_deadline();
            let is_behind = self.events.is_behind();
            tokio::select! {
                command = self.commands.recv() => match command {
                    None => break None,
                    Some(Command::Shutdown(reply)) => break Some(reply),
                    Some(command) => self.handle_command(command),
                },
                Some(verdict) = self.verdicts.recv() => self.handle_verdict(verdict),
                event = self.swarm.select_next_some() => self.handle_swarm(event),
                () = self.events.catch_up(), if is_behind => {}
                () = at(deadline) => self.handle_deadline(Instant::now()),
            }
        };
        Box::pin(self.close()).await;
        if let Some(reply) = done {
            // Whoever asked may have stopped waiting.
            let _nobody_waits = reply.send(());
        }
    }

    async fn close(mut self) {
        self.tunnels.end_all();
        for peer in self.connected() {
            if !self.leave(&peer) {
                self.close_all(&peer);
            }
        }
        if self.are_all_gone(LEAVE_TIMEOUT).await {
            return;
        }
        for peer in self.connected() {
            self.close_all(&peer);
        }
        if !self.are_all_gone(CLOSE_TIMEOUT).await {
            tracing::debug!("some connections did not close in time");
        }
    }

    fn connected(&self) -> Vec<PeerId> {
        self.swarm.connected_peers().copied().collect()
    }

    async fn are_all_gone(&mut self, within: Duration) -> bool {
        let closing = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        timeout(within, closing).await.is_ok()
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Addresses(reply) => self.on_addresses(reply),
            Command::SetHello(bytes) => self.hello = bytes,
            Command::Introduce { peer, addresses, hello, reply } => {
                self.on_introduce(peer, addresses, hello, reply);
            }
            Command::Admit { id, peer, access, reply } => {
                self.on_admit(id, (peer, access), reply);
            }
            Command::Decline { id } => self.on_decline(id),
            Command::Send { to, payload, reply } => self.on_send(to, payload, reply),
            Command::Subscribe(topic) => self.on_subscribe(topic),
            Command::Publish { topic, payload, reply } => {
                answer(reply, self.on_publish(topic, payload));
            }
            Command::Disconnect(peer) => self.on_disconnect(peer),
            Command::Hold(peers) => self.on_hold(peers),
            Command::Penalize(peer, offence) => self.penalize(peer, offence),
            Command::Peers(reply) => answer(reply, self.on_peers()),
            Command::Payload(reply) => answer(reply, self.peers.payload()),
            Command::IsAdmitted(peer, reply) => answer(reply, self.peers.is_admitted(peer)),
            Command::IsOnlyRelayed(peer, reply) => answer(reply, self.is_only_relayed(peer)),
            Command::Reachability(reply) => answer(reply, self.reachability()),
            Command::RelayAddresses(peer, reply) => answer(reply, self.relay_addresses(peer)),
            Command::RemoteIps(peer, reply) => answer(reply, self.remote_ips(peer)),
            Command::RoundTrips(peers, reply) => {
                let round_trips = peers.into_iter().map(|peer| self.peers.round_trip(peer));
                answer(reply, round_trips.collect());
            }
            Command::Dht(ask) => self.on_dht_ask(ask),
            Command::Shutdown(reply) => answer(reply, ()),
        }
    }

    fn handle_verdict(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Hello { exchange, answer } => self.on_judged(exchange, answer),
            Verdict::Gossip { id, from, acceptance } => {
                let gossip = &mut self.swarm.behaviour_mut().gate.inner.gossip;
                if !gossip.report_message_validation_result(&id, &from, acceptance) {
                    tracing::debug!("a verdict on gossip came too late");
                }
            }
            Verdict::Offence { peer, offence } => self.penalize(peer, offence),
            Verdict::Probed { by, results } => self.on_probed(by, results),
            Verdict::Moved { peer, sent, received } => {
                self.peers.count(peer, received, sent);
            }
        }
    }

    fn handle_swarm(&mut self, event: SwarmEvent<NetEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.handle_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                let Some(peer) = PeerKey::from_peer_id(&peer_id) else {
                    return;
                };
                self.on_established(peer, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                if let Some(error) = cause {
                    tracing::debug!(peer = %peer_id, %error, "a connection broke");
                }
                let Some(peer) = PeerKey::from_peer_id(&peer_id) else {
                    return;
                };
                if let Some(entry) = self.peers.on_closed(peer, connection_id) {
                    self.on_gone(peer, &entry);
                }
                self.on_path(peer);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.on_dial_failed(connection_id, error);
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                let is_at_relay = self.on_relay_listening(listener_id, &address);
                if !is_at_relay {
                    self.listening.on_address(listener_id, &address);
                    self.on_listening();
                }
            }
            SwarmEvent::ExpiredListenAddr { .. } => self.on_listening(),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                let why = reason.as_ref().err().map(ToString::to_string);
                let was_at_relay = self.on_relay_lost(listener_id, why);
                if !was_at_relay {
                    if self.listening.on_closed(listener_id, Instant::now()) {
                        tracing::warn!(?addresses, ?reason, "a listener closed by itself");
                    }
                    self.on_listening();
                }
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listener failed for a moment");
            }
            _ => {}
        }
    }

    fn handle_behaviour(&mut self, event: NetEvent) {
        match event {
            NetEvent::Hello(event) => self.on_hello(event),
            NetEvent::Talk(GateEvent::Inner(event)) => self.on_messages(event),
            NetEvent::Gate(GateEvent::Inner(AdmittedEvent::Gossip(event))) => {
                self.on_gossip(event);
            }
            NetEvent::Gate(GateEvent::Inner(AdmittedEvent::Dht(event))) => self.on_dht(event),
            NetEvent::Gate(GateEvent::Refused { peer, why })
            | NetEvent::Talk(GateEvent::Refused { peer, why }) => self.advise_refused(peer, why),
            NetEvent::Ping(event) => self.on_ping(&event),
            NetEvent::Identify(identify::Event::Received { peer_id, connection_id, info }) => {
                if let Some(peer) = PeerKey::from_peer_id(&peer_id) {
                    self.on_identified(peer, connection_id, &info);
                }
            }
            NetEvent::Gate(GateEvent::Inner(AdmittedEvent::Circuit(event))) => {
                self.on_circuit(&event);
            }
            NetEvent::Gate(GateEvent::Inner(AdmittedEvent::Punch(event))) => match event.result {
                Ok(_) => tracing::debug!(peer = %event.remote_peer_id, "a connection was punched"),
                Err(error) => {
                    tracing::debug!(peer = %event.remote_peer_id, %error, "no connection was punched");
                }
            },
            NetEvent::Mdns(mdns::Event::Discovered(found)) => self.on_discovered(found),
            NetEvent::Gate(GateEvent::Inner(AdmittedEvent::Streams(())))
            | NetEvent::Identify(_)
            | NetEvent::Mdns(mdns::Event::Expired(_)) => {}
            NetEvent::Upnp(event) => self.on_upnp(event),
            NetEvent::Limits(never) | NetEvent::Memory(never) => match never {},
        }
    }

    fn handle_deadline(&mut self, now: Instant) {
        for (peer, conn) in self.peers.overdue(now) {
            self.swarm.close_connection(conn);
            self.advise_refused(peer, RefusedWhy::HelloTimeout);
        }
        for (peer, conn) in self.peers.silent(now) {
            tracing::debug!(%peer, "a dead connection is closed");
            self.swarm.close_connection(conn);
        }
        self.expire_introductions(now);
        self.on_listening_due(now);
        self.on_island(now);
        self.on_reach();
    }

    fn on_established(&mut self, peer: PeerKey, id: ConnectionId, endpoint: &ConnectedPoint) {
        let (inbound, is_relayed) = (endpoint.is_listener(), reaching::is_relayed(endpoint));
        let address = match endpoint {
            // The other end of a circuit has no address but the relay's.
            ConnectedPoint::Listener { local_addr, .. } if is_relayed => local_addr,
            _ => endpoint.get_remote_address(),
        };
        let address = address.to_string();
        self.peers.on_established(Instant::now(), peer, id, inbound, address);
        let relay = if is_relayed { self.relay_of(endpoint) } else { None };
        let conn = self.peers.get_mut(peer).and_then(|entry| entry.conns.get_mut(&id));
        if let Some(conn) = conn {
            (conn.is_relayed, conn.relay) = (is_relayed, relay);
            conn.is_fresh_port = reaching::is_fresh_port(endpoint);
        }
        let is_full = self.is_group_full(peer);
        if is_full {
            self.advise_refused(peer, RefusedWhy::GroupFull);
        }
        if is_full || self.peers.get(peer).is_some_and(|e| e.is_leaving) {
            self.swarm.close_connection(id);
        }
        self.on_reached(peer);
        self.on_path(peer);
    }

    /// The last connection with a peer is closed.
    fn on_gone(&mut self, peer: PeerKey, entry: &Entry) {
        self.tunnels.end(peer);
        self.terms.forget(peer);
        if !entry.is_announced {
            return;
        }
        self.events.disconnected(peer);
        if self.peers.iter().any(|(_, other)| other.is_announced) {
            return;
        }
        let is_wanted = !entry.is_leaving && self.peers.banned_for(Instant::now(), peer).is_none();
        match is_wanted {
            true => self.island.handle_lost(self.reaching.now_ms()),
            false => self.island.handle_parted(),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let introductions = self.introductions.values().map(|i| i.deadline).min();
        let island = self.island.next_ms().map(|ms| self.reaching.at(ms));
        let listening = self.listening.deadline();
        [self.peers.next_deadline(), introductions, self.reaching.deadline(), island, listening]
            .into_iter()
            .flatten()
            .min()
    }

    /// The hello with the peer is settled on both sides.
    pub(super) fn settled(&mut self, peer: PeerKey, theirs: Option<u64>) {
        let is_new = self.peers.get(peer).is_some_and(|entry| !entry.is_announced);
        if is_new && self.is_group_full(peer) {
            self.advise_refused(peer, RefusedWhy::GroupFull);
            return self.close_all(&peer.to_peer_id());
        }
        let Some(settled) = self.peers.settle(peer, theirs) else {
            return;
        };
        self.open_gates(peer);
        if self.peers.is_admitted(peer) {
            let gossip = &mut self.swarm.behaviour_mut().gate.inner.gossip;
            gossip.set_application_score(&peer.to_peer_id(), super::gossip::MEMBER_SCORE);
        }
        self.on_path(peer);
        self.island.handle_company();
        match settled {
            Settled::First => self.events.connected(peer),
            Settled::Again => {}
            Settled::Restarted => {
                self.tunnels.end(peer);
                self.events.disconnected(peer);
                self.events.connected(peer);
            }
        }
    }

    /// Lets an admitted peer through: a guest to messages, a member to everything.
    pub(super) fn open_gates(&mut self, peer: PeerKey) {
        let (id, is_member) = (peer.to_peer_id(), self.peers.is_admitted(peer));
        let net = self.swarm.behaviour_mut();
        net.talk.open(&id);
        if is_member { net.gate.open(&id) } else { net.gate.acquit(&id) }
    }

    /// Notes an offence and acts on the ban that it may bring.
    pub(super) fn penalize(&mut self, peer: PeerKey, offence: Offence) {
        let now = Instant::now();
        let Some(until) = self.peers.penalize(now, peer, offence) else {
            return;
        };
        tracing::warn!(%peer, ?offence, "a peer is banned");
        let id = peer.to_peer_id();
        let gate = &mut self.swarm.behaviour_mut().gate;
        gate.ban(id, until, now);
        gate.inner.gossip.set_application_score(&id, BANNED_SCORE);
        gate.inner.dht.forget(&id);
        self.close_all(&id);
    }

    /// The period with the peer ends when the last connection has closed, also one that comes
    /// about meanwhile: else a dial under way would keep it for ever.
    fn on_disconnect(&mut self, peer: PeerKey) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.is_leaving = true;
            self.close_all(&peer.to_peer_id());
        }
    }

    /// Connections with these are beside the limits from now on, and with no others.
    pub(super) fn on_hold(&mut self, mut peers: Vec<PeerKey>) {
        peers.truncate(HELD_MAX);
        let limits = &mut self.swarm.behaviour_mut().limits;
        self.held.iter().for_each(|peer| limits.remove_peer_id(&peer.to_peer_id()));
        peers.iter().for_each(|peer| limits.bypass_peer_id(&peer.to_peer_id()));
        self.held = peers;
    }

    pub(super) fn close_all(&mut self, peer: &PeerId) {
        if self.swarm.disconnect_peer_id(*peer).is_err() {
            tracing::trace!(%peer, "there is nothing to close");
        }
    }

    fn advise_refused(&mut self, peer: PeerKey, why: RefusedWhy) {
        tracing::debug!(%peer, %why, "a peer is turned away");
        if self.events.offer(Event::Refused { peer, why }).is_err() {
            tracing::debug!("the application is too far behind to hear of it");
        }
    }

    fn on_ping(&mut self, event: &ping::Event) {
        let entry = PeerKey::from_peer_id(&event.peer).and_then(|p| self.peers.get_mut(p));
        let Some(conn) = entry.and_then(|e| e.conns.get_mut(&event.connection)) else {
            return;
        };
        match &event.result {
            Ok(rtt) => {
                let rtt_us = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
                conn.on_pong(Instant::now(), rtt_us);
            }
            Err(ping::Failure::Unsupported) => conn.heard = None,
            Err(error) => tracing::debug!(peer = %event.peer, %error, "a ping was lost"),
        }
    }

    pub(super) fn on_discovered(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        let mut by_peer: BTreeMap<PeerKey, Vec<String>> = BTreeMap::new();
        for (id, address) in found {
            let Some(peer) = PeerKey::from_peer_id(&id).filter(|p| *p != self.me) else {
                continue;
            };
            let addresses = by_peer.entry(peer).or_default();
            if addresses.len() < LISTEN_ADDRESSES_MAX {
                addresses.push(address.to_string());
            }
        }
        for (peer, addresses) in by_peer {
            if self.events.offer(Event::Discovered { peer, addresses }).is_err() {
                tracing::debug!(%peer, "the application is too far behind to hear of a neighbour");
            }
        }
    }

    fn on_addresses(&mut self, reply: Reply<Vec<String>>) {
        if self.listening.is_settled() || self.address_waiters.len() >= ADDRESS_WAITERS {
            answer(reply, self.listen_addresses());
        } else {
            self.address_waiters.push(reply);
        }
    }

    pub(super) fn answer_address_waiters(&mut self) {
        if self.listening.is_settled() {
            for reply in std::mem::take(&mut self.address_waiters) {
                answer(reply, self.listen_addresses());
            }
        }
    }
}

/// Answers a caller, who may have stopped waiting.
pub(super) fn answer<T>(reply: Reply<T>, value: T) {
    if reply.send(value).is_err() {
        tracing::trace!("the caller did not wait for its answer");
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
