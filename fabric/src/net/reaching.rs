//! What the network task does for [`crate::reach`]: tells it what happens, and does what it says.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::core::ConnectedPoint;
use libp2p::core::transport::{ListenerId, PortUse};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, FromSwarm, NetworkBehaviour as _, NewExternalAddrCandidate};
use libp2p::{Multiaddr, identify, relay as circuit, upnp};
use tokio::sync::{mpsc, oneshot};

use super::actor::{Actor, Command};
use super::probe;
use super::streams::Opener;
use crate::event::{Event, Verdict};
use crate::key::PeerKey;
use crate::peers::{Entry, LISTEN_ADDRESSES_MAX};
use crate::reach::address::{self, Scope};
use crate::reach::{AddressSource, Effect, OwnAddress, Reach, Reachability, Wishes};
use crate::relay::{HOP, Relay};

/// Addresses of itself that a relay gives with a reservation.
const RELAY_ADDRESSES_MAX: usize = 4;
/// Addresses that this node publishes. Further ones, which are the worst, are left out.
const OWN_ADDRESSES_MAX: usize = 8;
/// Longest address that it publishes, in bytes: records and tickets take no longer ones. Longer ones are left out.
const OWN_ADDRESS_LEN_MAX: usize = 128;
/// How long a reason may be that is kept, in characters.
const WHY_CHARS_MAX: usize = 200;

/// What the network task has for it.
pub(crate) struct Reaching {
    reach: Reach,
    began: Instant,
    /// Listeners at relays.
    listeners: HashMap<ListenerId, PeerKey>,
    relay: Option<Arc<Relay>>,
    streams: Opener,
    /// Relayed connections that were opened to punch once more. One for each peer at most.
    tries: HashMap<PeerKey, ConnectionId>,
    /// The addresses that the application has.
    told: Vec<String>,
}

/// How tasks beside the network task ask it something. It does not keep the network alive.
#[derive(Clone)]
pub(crate) struct Asking(mpsc::WeakSender<Command>);

impl Asking {
    pub(crate) fn new(commands: &mpsc::Sender<Command>) -> Self {
        Self(commands.downgrade())
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.upgrade()?.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    pub(crate) async fn is_admitted(&self, peer: PeerKey) -> bool {
        self.ask(|reply| Command::IsAdmitted(peer, reply)).await.unwrap_or(false)
    }

    /// Where this node, as a relay, is reached by whom the peer wants to be reached; empty when it is not.
    pub(crate) async fn relay_addresses(&self, peer: PeerKey) -> Vec<Vec<u8>> {
        self.ask(|reply| Command::RelayAddresses(peer, reply)).await.unwrap_or_default()
    }

    /// From where the peer is connected directly.
    pub(crate) async fn remote_ips(&self, peer: PeerKey) -> Vec<IpAddr> {
        self.ask(|reply| Command::RemoteIps(peer, reply)).await.unwrap_or_default()
    }
}

impl Reaching {
    pub(super) fn new(wishes: Wishes, relay: Option<Arc<Relay>>, streams: Opener) -> Self {
        Self {
            reach: Reach::new(wishes),
            began: Instant::now(),
            listeners: HashMap::new(),
            tries: HashMap::new(),
            relay,
            streams,
            told: Vec::new(),
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.reach.next_ms().map(|ms| self.at(ms))
    }

    pub(super) fn at(&self, ms: u64) -> Instant {
        self.began + Duration::from_millis(ms)
    }

    /// There is another swarm: what was told to the old one is to be told again.
    pub(super) fn renew(&mut self) {
        self.listeners.clear();
        self.tries.clear();
        self.reach.handle_renewed(self.now_ms());
    }

    /// What this node relayed from and to the peer today.
    pub(super) fn relayed_for(&self, peer: PeerKey) -> u64 {
        self.relay.as_ref().map_or(0, |relay| relay.used(peer))
    }
}

/// The way of a connection: the relay's name where it is known, and whether it leads through one.
pub(super) fn is_relayed(endpoint: &ConnectedPoint) -> bool {
    match endpoint {
        ConnectedPoint::Dialer { address, .. } => address::is_relayed(address),
        ConnectedPoint::Listener { local_addr, .. } => address::is_relayed(local_addr),
    }
}

impl Actor {
    /// The relay that a connection leads through, if it does and the relay is known.
    pub(super) fn relay_of(&self, endpoint: &ConnectedPoint) -> Option<PeerKey> {
        let address = match endpoint {
            ConnectedPoint::Dialer { address, .. } => address,
            ConnectedPoint::Listener { local_addr, .. } => local_addr,
        };
        address::relay_of(address).or_else(|| self.reaching.reach.relay_at(address))
    }

    /// Does what there is to do now, and tells the application of new addresses.
    pub(super) fn on_reach(&mut self) {
        let now_ms = self.reaching.now_ms();
        for effect in self.reaching.reach.poll(now_ms) {
            self.perform_reach(effect);
        }
        for address in self.reaching.reach.take_candidates() {
            let candidate = NewExternalAddrCandidate { addr: &address };
            let punch = &mut self.swarm.behaviour_mut().gate.inner.punch;
            punch.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
        }
        let is_dialled = self.reaching.reach.is_dialled(now_ms);
        self.swarm.behaviour_mut().gate.inner.dht.serve(is_dialled);
        let addresses = self.listen_addresses();
        if self.listening.is_settled() && addresses != self.reaching.told {
            self.reaching.told.clone_from(&addresses);
            if self.events.offer(Event::Listening { addresses }).is_err() {
                tracing::debug!("the application is too far behind to hear of new addresses");
            }
        }
    }

    fn perform_reach(&mut self, effect: Effect) {
        match effect {
            Effect::Probe { by, addresses } => {
                let (control, to) = (self.reaching.streams.control(), self.verdicts_to.clone());
                tokio::spawn(async move {
                    let results = probe::ask(control, by, addresses).await;
                    // Lost when the task is too far behind; it asks again.
                    let _lost = to.try_send(Verdict::Probed { by, results });
                });
            }
            Effect::Confirm(address) => self.swarm.add_external_address(address),
            Effect::Expire(address) => self.swarm.remove_external_address(&address),
            Effect::Reserve { relay, at } => self.reserve(relay, at),
            Effect::Release { relay } => {
                let ids = self.reaching.listeners.iter().filter(|(_, of)| **of == relay);
                let ids: Vec<ListenerId> = ids.map(|(id, _)| *id).collect();
                for id in ids {
                    self.reaching.listeners.remove(&id);
                    self.swarm.remove_listener(id);
                }
            }
            // A stranger has nobody dialled.
            Effect::Dial { peer, .. } if !self.peers.is_admitted(peer) => {}
            Effect::Dial { peer, addresses } => {
                let opts = DialOpts::peer_id(peer.to_peer_id())
                    .addresses(addresses)
                    .condition(PeerCondition::Always);
                if let Err(error) = self.swarm.dial(opts.build()) {
                    tracing::debug!(%peer, %error, "a relayed peer is not dialled directly");
                }
            }
            Effect::CloseRelayed { peer } => self.close_relayed(peer),
            Effect::Punch { peer } => self.punch(peer),
            Effect::EndPunch { peer } => self.end_punch(peer),
        }
    }

    fn reserve(&mut self, relay: PeerKey, at: Multiaddr) {
        let address = at.with(Protocol::P2p(relay.to_peer_id())).with(Protocol::P2pCircuit);
        match self.swarm.listen_on(address) {
            Ok(id) => {
                self.reaching.listeners.insert(id, relay);
            }
            Err(error) => {
                let now_ms = self.reaching.now_ms();
                self.reaching.reach.handle_relay_lost(now_ms, relay, error.to_string());
            }
        }
    }

    /// Opens a second relayed connection, at whose other end libp2p begins to punch.
    fn punch(&mut self, peer: PeerKey) {
        let conns = self.peers.get(peer).filter(|entry| entry.is_announced).map(|e| &e.conns);
        let mut own = conns.into_iter().flat_map(|conns| conns.values());
        // The other side knows no way back through the relay: it waits for this one.
        let way = own.find(|conn| conn.is_relayed && !conn.inbound);
        let Some(address) = way.and_then(|conn| conn.address.parse::<Multiaddr>().ok()) else {
            return;
        };
        let opts = DialOpts::peer_id(peer.to_peer_id())
            .addresses(vec![address])
            .condition(PeerCondition::Always)
            .build();
        tracing::debug!(%peer, "a connection is punched once more");
        self.reaching.tries.insert(peer, opts.connection_id());
        if let Err(error) = self.swarm.dial(opts) {
            tracing::debug!(%peer, %error, "it is not punched");
        }
    }

    /// Closes the second relayed connection, if it came about and is not the only one left.
    fn end_punch(&mut self, peer: PeerKey) {
        let Some(id) = self.reaching.tries.remove(&peer) else {
            return;
        };
        let is_second = |entry: &Entry| entry.conns.len() > 1 && entry.conns.contains_key(&id);
        if self.peers.get(peer).is_some_and(is_second) {
            self.swarm.close_connection(id);
        }
    }

    fn close_relayed(&mut self, peer: PeerKey) {
        let Some(entry) = self.peers.get(peer) else {
            return;
        };
        // Only while a direct one is still there.
        if entry.conns.values().all(|conn| conn.is_relayed) {
            return;
        }
        let relayed = entry.conns.iter().filter(|(_, conn)| conn.is_relayed);
        let ids: Vec<ConnectionId> = relayed.map(|(id, _)| *id).collect();
        for id in ids {
            tracing::debug!(%peer, "a relayed connection gives way to a direct one");
            self.swarm.close_connection(id);
        }
    }

    /// Whether a listener at a relay it was, which is dealt with then.
    pub(super) fn on_relay_listening(&mut self, id: ListenerId, address: &Multiaddr) -> bool {
        let Some(relay) = self.reaching.listeners.get(&id).copied() else {
            return false;
        };
        // Whoever dials knows whom; the relay's id alone makes the address long.
        self.reaching.reach.handle_reserved(relay, address::bare(address.clone()));
        self.on_reach();
        true
    }

    /// The same for its end.
    pub(super) fn on_relay_lost(&mut self, id: ListenerId, why: Option<String>) -> bool {
        let Some(relay) = self.reaching.listeners.remove(&id) else {
            return false;
        };
        let why = why.unwrap_or_else(|| "the connection with it ended".into());
        tracing::debug!(%relay, why, "a relay no longer leads here");
        let why = why.chars().take(WHY_CHARS_MAX).collect();
        let now_ms = self.reaching.now_ms();
        self.reaching.reach.handle_relay_lost(now_ms, relay, why);
        self.on_reach();
        true
    }

    /// Where this node listens may have changed.
    pub(super) fn on_listening(&mut self) {
        let direct: BTreeSet<Multiaddr> =
            self.swarm.listeners().filter(|a| !address::is_relayed(a)).cloned().collect();
        let now_ms = self.reaching.now_ms();
        self.reaching.reach.handle_listening(now_ms, direct);
        self.on_reach();
        self.answer_address_waiters();
    }

    /// A connection was made or closed.
    pub(super) fn on_path(&mut self, peer: PeerKey) {
        let now_ms = self.reaching.now_ms();
        let conns = self.peers.get(peer).map(|entry| entry.conns.values());
        let count = |is_relayed| {
            conns.clone().into_iter().flatten().filter(|c| c.is_relayed == is_relayed).count()
        };
        let (n_relayed, n_direct) = (count(true), count(false));
        if n_direct > 0 || n_relayed == 0 {
            self.reaching.reach.handle_not_relayed(peer);
            self.reaching.tries.remove(&peer);
        }
        if n_direct == 0 {
            self.reaching.reach.handle_gone(now_ms, peer);
        } else if n_relayed > 0 {
            self.reaching.reach.handle_punched(now_ms, peer);
        } else if self.peers.is_admitted(peer) {
            self.reaching.reach.handle_admitted(now_ms, peer);
        }
        self.on_reach();
    }

    pub(super) fn on_identified(&mut self, peer: PeerKey, id: ConnectionId, info: &identify::Info) {
        let Some(entry) = self.peers.get_mut(peer) else {
            return;
        };
        let listens = info.listen_addrs.iter().take(LISTEN_ADDRESSES_MAX);
        entry.listens = listens.map(ToString::to_string).collect();
        let now_ms = self.reaching.now_ms();
        let Some(conn) = entry.conns.get(&id).filter(|conn| !conn.is_relayed) else {
            if entry.conns.values().all(|conn| conn.is_relayed) {
                let direct = info.listen_addrs.iter().filter(|a| !address::is_relayed(a));
                let direct = direct.take(LISTEN_ADDRESSES_MAX).cloned().map(address::bare);
                let (pair, direct) = ((self.me, peer), direct.collect());
                self.reaching.reach.handle_relayed(now_ms, pair, direct);
                self.on_reach();
            }
            return;
        };
        let remote = conn.address.parse::<Multiaddr>().ok().map(address::bare);
        let relays_at = remote.filter(|_| info.protocols.contains(&HOP)).and_then(|remote| {
            if !conn.inbound {
                return Some(remote);
            }
            let ip = address::ip(&remote);
            let mut listens = info.listen_addrs.iter().take(LISTEN_ADDRESSES_MAX);
            let same = |a: &&Multiaddr| !address::is_relayed(a) && address::ip(a) == ip;
            listens.find(same).cloned().map(address::bare)
        });
        // From a fresh port, what the peer sees says nothing about the ports that this node listens on.
        let seen = Some(&info.observed_addr).filter(|_| !conn.is_fresh_port);
        self.reaching.reach.handle_seen(now_ms, peer, seen, relays_at);
        self.on_reach();
    }

    pub(super) fn on_probed(&mut self, by: PeerKey, results: Vec<(Multiaddr, Option<bool>)>) {
        let now_ms = self.reaching.now_ms();
        self.reaching.reach.handle_probed(now_ms, by, results);
        self.on_reach();
    }

    pub(super) fn on_upnp(&mut self, event: upnp::Event) {
        let now_ms = self.reaching.now_ms();
        match event {
            upnp::Event::NewExternalAddr { external_addr, .. } => {
                tracing::info!(address = %external_addr, "the router has opened a port");
                self.reaching.reach.handle_mapped(now_ms, address::bare(external_addr), true);
            }
            upnp::Event::ExpiredExternalAddr { external_addr, .. } => {
                self.reaching.reach.handle_mapped(now_ms, address::bare(external_addr), false);
            }
            upnp::Event::GatewayNotFound => {
                tracing::warn!("no router here opens ports (UPnP)");
            }
            upnp::Event::NonRoutableGateway => {
                tracing::warn!("the router that opens ports is itself behind another one");
            }
        }
        self.on_reach();
    }

    pub(super) fn on_circuit(&mut self, event: &circuit::client::Event) {
        match event {
            circuit::client::Event::ReservationReqAccepted { relay_peer_id, renewal, .. } => {
                tracing::debug!(relay = %relay_peer_id, renewal, "a relay leads here");
            }
            circuit::client::Event::OutboundCircuitEstablished { relay_peer_id, .. } => {
                tracing::debug!(relay = %relay_peer_id, "a circuit leads out");
            }
            circuit::client::Event::InboundCircuitEstablished { src_peer_id, .. } => {
                tracing::debug!(from = %src_peer_id, "a circuit leads in");
            }
        }
    }

    /// The addresses that lead here, the best first.
    pub(super) fn listen_addresses(&self) -> Vec<String> {
        self.own_addresses().into_iter().map(|own| own.address).collect()
    }

    fn own_addresses(&self) -> Vec<OwnAddress> {
        let me = self.swarm.local_peer_id();
        let mut all = self.reaching.reach.addresses(self.reaching.now_ms());
        for own in &mut all {
            if own.source != AddressSource::Relay && !own.address.ends_with(&format!("/p2p/{me}")) {
                own.address.push_str(&format!("/p2p/{me}"));
            }
        }
        let plain =
            |own: &OwnAddress| own.source == AddressSource::Listening && own.reached_by.is_empty();
        all.sort_by_key(|own| plain(own).then(|| own.address.clone()));
        all.retain(|own| own.address.len() <= OWN_ADDRESS_LEN_MAX);
        all.truncate(OWN_ADDRESSES_MAX);
        all
    }

    pub(super) fn reachability(&self) -> Reachability {
        let now_ms = self.reaching.now_ms();
        let reach = &self.reaching.reach;
        let mut addresses = self.own_addresses();
        addresses.extend(reach.missed(now_ms));
        Reachability {
            standing: reach.standing(now_ms),
            addresses,
            relays: reach.relays(),
            relaying: self.reaching.relay.as_ref().map(|relay| relay.in_use()),
            renewal: self.island.renewal(now_ms),
        }
    }

    pub(super) fn remote_ips(&self, peer: PeerKey) -> Vec<IpAddr> {
        let conns = self.peers.get(peer).map(|entry| entry.conns.values());
        let direct = conns.into_iter().flatten().filter(|conn| !conn.is_relayed);
        let parsed = direct.filter_map(|conn| conn.address.parse::<Multiaddr>().ok());
        parsed.filter_map(|address| address::ip(&address)).collect()
    }

    pub(super) fn relay_addresses(&self, peer: PeerKey) -> Vec<Vec<u8>> {
        let now_ms = self.reaching.now_ms();
        if self.reaching.reach.wants_relay(now_ms) {
            // Nobody could come here.
            return Vec::new();
        }
        let near: BTreeSet<Scope> = self.remote_ips(peer).into_iter().map(address::scope).collect();
        let me = *self.swarm.local_peer_id();
        let all = self.reaching.reach.addresses(now_ms);
        let parsed = all.iter().filter_map(|own| own.address.parse::<Multiaddr>().ok());
        let fit = parsed.filter(|address| {
            let scope = address::ip(address).map(address::scope);
            // A name is an address that the owner announced.
            scope.is_none_or(|scope| scope == Scope::Public || near.contains(&scope))
        });
        fit.take(RELAY_ADDRESSES_MAX)
            .map(|address| address::bare(address).with(Protocol::P2p(me)).to_vec())
            .collect()
    }
}

/// Whether a connection left from a port that nothing listens on.
pub(super) fn is_fresh_port(endpoint: &ConnectedPoint) -> bool {
    matches!(endpoint, ConnectedPoint::Dialer { port_use: PortUse::New, .. })
}
