//! The gate: what keeps un-admitted peers away from everything but the hello.
//!
//! It wraps the behaviours of admitted life. There are two: one before messages, which opens to guests and members, and one
//! before everything else (gossip, blobs, tunnels, relays), which opens to members alone. On a connection whose peer
//! is not admitted their handlers are not polled, so nothing goes out, and streams that the peer
//! opens are parked unread, at most [`PARKED_STREAMS`] of them. Parking instead of refusing
//! matters: the two sides never open their gates at the same instant, and gossipsub takes one
//! refused stream for "this peer speaks no gossip" for the rest of the connection.
//!
//! An open gate also keeps its connection alive; a closed one does not.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use crate::event::RefusedWhy;
use crate::key::PeerKey;

/// Streams of an un-admitted peer that wait on one connection. One gossip stream and a few early
/// messages are normal; further ones are reset.
const PARKED_STREAMS: usize = 16;
/// Bans remembered. At the bound the one that ends first makes room.
const BANS_MAX: usize = 1024;
/// Refusals that wait to be reported. At the bound further ones are only counted by their loss:
/// they are advice.
const REFUSALS_MAX: usize = 64;

/// What the gate tells.
#[derive(Debug)]
pub(crate) enum GateEvent<E> {
    /// A connection was turned away.
    Refused { peer: PeerKey, why: RefusedWhy },
    /// An event of the guarded behaviours.
    Inner(E),
}

/// Why a connection was denied; only for the logs of the swarm.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("the peer's key is not Ed25519")]
    Key,
    #[error("the peer is banned")]
    Banned,
    #[error("too many connections wait for their hello")]
    Probation,
    #[error("the peer has as many connections as it may")]
    Many,
}

/// Where probation connections are counted together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Network {
    V4([u8; 3]),
    V6([u8; 7]),
}

struct Conn {
    id: ConnectionId,
    inbound: bool,
    network: Option<Network>,
}

#[derive(Default)]
struct Door {
    open: bool,
    /// Admitted elsewhere, so that its connections are on no probation here.
    is_acquitted: bool,
    conns: Vec<Conn>,
}

/// A behaviour behind a gate that is opened peer by peer.
pub(crate) struct Gate<B> {
    pub(crate) inner: B,
    doors: HashMap<PeerId, Door>,
    banned: HashMap<PeerId, Instant>,
    probation: u32,
    probation_per_network: u32,
    /// Connections of one peer; the only bound for one whose connections the limits do not count.
    per_peer: usize,
    to_open: VecDeque<(PeerId, ConnectionId)>,
    refusals: VecDeque<(PeerKey, RefusedWhy)>,
}

impl<B> Gate<B> {
    pub(crate) fn new(inner: B, probation: u32, probation_per_network: u32) -> Self {
        Self {
            inner,
            doors: HashMap::new(),
            banned: HashMap::new(),
            probation,
            probation_per_network,
            per_peer: usize::MAX,
            to_open: VecDeque::new(),
            refusals: VecDeque::new(),
        }
    }

    /// With a bound on the connections of one peer. More are refused.
    pub(crate) fn bounded(mut self, per_peer: u32) -> Self {
        self.per_peer = per_peer as usize;
        self
    }

    /// Lets the peer through on all its present and coming connections, until the last of them
    /// closes.
    pub(crate) fn open(&mut self, peer: &PeerId) {
        let Some(door) = self.doors.get_mut(peer) else {
            return;
        };
        if !door.open {
            door.open = true;
            self.to_open.extend(door.conns.iter().map(|c| (*peer, c.id)));
        }
    }

    /// Keeps the gate closed to the peer, and counts its connections no longer among those that wait for their hello.
    pub(crate) fn acquit(&mut self, peer: &PeerId) {
        if let Some(door) = self.doors.get_mut(peer) {
            door.is_acquitted = true;
        }
    }

    /// Denies the peer any connection until then. Present ones are for the caller to close.
    pub(crate) fn ban(&mut self, peer: PeerId, until: Instant, now: Instant) {
        self.banned.retain(|_, end| *end > now);
        if self.banned.len() >= BANS_MAX {
            let first = self.banned.iter().min_by_key(|(_, end)| **end).map(|(id, _)| *id);
            if let Some(id) = first {
                self.banned.remove(&id);
            }
        }
        self.banned.insert(peer, until);
    }

    /// Goes on with the bans of the gate that this one stands in for.
    pub(crate) fn inherit_bans(&mut self, from: &mut Self) {
        self.banned = std::mem::take(&mut from.banned);
    }

    fn is_banned(&self, peer: &PeerId) -> bool {
        self.banned.get(peer).is_some_and(|until| *until > Instant::now())
    }

    fn refuse(&mut self, peer: PeerKey, why: RefusedWhy, denied: Denied) -> ConnectionDenied {
        if self.refusals.len() < REFUSALS_MAX {
            self.refusals.push_back((peer, why));
        }
        ConnectionDenied::new(denied)
    }

    fn check(&mut self, peer: &PeerId) -> Result<PeerKey, ConnectionDenied> {
        let key = PeerKey::from_peer_id(peer).ok_or_else(|| ConnectionDenied::new(Denied::Key))?;
        if self.is_banned(peer) {
            return Err(self.refuse(key, RefusedWhy::Banned, Denied::Banned));
        }
        if self.doors.get(peer).is_some_and(|door| door.conns.len() >= self.per_peer) {
            return Err(ConnectionDenied::new(Denied::Many));
        }
        Ok(key)
    }

    fn check_probation(&mut self, key: PeerKey, from: &Multiaddr) -> Result<(), ConnectionDenied> {
        let network = network_of(from);
        let on_probation = |door: &&Door| !door.open && !door.is_acquitted;
        let waiting = || {
            self.doors.values().filter(on_probation).flat_map(|d| &d.conns).filter(|c| c.inbound)
        };
        let all = waiting().count();
        let near = waiting().filter(|c| c.network.is_some() && c.network == network).count();
        if all >= self.probation as usize || near >= self.probation_per_network as usize {
            return Err(self.refuse(key, RefusedWhy::ProbationFull, Denied::Probation));
        }
        Ok(())
    }

    fn is_open(&self, peer: &PeerId) -> bool {
        self.doors.get(peer).is_some_and(|d| d.open)
    }

    fn on_established(&mut self, event: &ConnectionEstablished<'_>) {
        let conn = Conn {
            id: event.connection_id,
            inbound: event.endpoint.is_listener(),
            network: network_of(event.endpoint.get_remote_address()),
        };
        self.doors.entry(event.peer_id).or_default().conns.push(conn);
    }

    fn on_closed(&mut self, event: &ConnectionClosed<'_>) {
        let Some(door) = self.doors.get_mut(&event.peer_id) else {
            return;
        };
        door.conns.retain(|c| c.id != event.connection_id);
        if door.conns.is_empty() {
            self.doors.remove(&event.peer_id);
        }
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Gate<B> {
    type ConnectionHandler = GateHandler<THandler<B>>;
    type ToSwarm = GateEvent<B::ToSwarm>;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let key = self.check(&peer)?;
        let open = self.is_open(&peer);
        if !open && !self.doors.get(&peer).is_some_and(|door| door.is_acquitted) {
            self.check_probation(key, remote)?;
        }
        let inner = self.inner.handle_established_inbound_connection(id, peer, local, remote)?;
        Ok(GateHandler { inner, open, parked: Vec::new() })
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if peer.is_some_and(|p| self.is_banned(&p)) {
            return Err(ConnectionDenied::new(Denied::Banned));
        }
        self.inner.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(&peer)?;
        let open = self.is_open(&peer);
        let inner =
            self.inner.handle_established_outbound_connection(id, peer, address, role, port)?;
        Ok(GateHandler { inner, open, parked: Vec::new() })
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::ConnectionEstablished(e) => self.on_established(e),
            FromSwarm::ConnectionClosed(e) => self.on_closed(e),
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, conn)) = self.to_open.pop_front() {
            let handler = NotifyHandler::One(conn);
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event: GateIn::Open });
        }
        if let Some((peer, why)) = self.refusals.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(GateEvent::Refused { peer, why }));
        }
        self.inner.poll(cx).map(|to| to.map_out(GateEvent::Inner).map_in(GateIn::Inner))
    }
}

/// What the gate says to one of its handlers.
#[derive(Debug)]
pub(crate) enum GateIn<E> {
    Open,
    Inner(E),
}

/// One connection's side of the gate.
pub(crate) struct GateHandler<H: ConnectionHandler> {
    inner: H,
    open: bool,
    parked: Vec<FullyNegotiatedInbound<H::InboundProtocol, H::InboundOpenInfo>>,
}

impl<H: ConnectionHandler> ConnectionHandler for GateHandler<H> {
    type FromBehaviour = GateIn<H::FromBehaviour>;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.open
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        // No waker is lost here: what opens the gate is an event, and the connection polls its
        // handler after each event.
        if self.open { self.inner.poll(cx) } else { Poll::Pending }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {
            GateIn::Inner(event) => self.inner.on_behaviour_event(event),
            GateIn::Open => {
                self.open = true;
                for stream in self.parked.drain(..) {
                    self.inner.on_connection_event(ConnectionEvent::FullyNegotiatedInbound(stream));
                }
            }
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(stream) if !self.open => {
                if self.parked.len() < PARKED_STREAMS {
                    self.parked.push(stream);
                }
            }
            event => self.inner.on_connection_event(event),
        }
    }
}

fn network_of(address: &Multiaddr) -> Option<Network> {
    match address.iter().next()? {
        Protocol::Ip4(ip) if is_public_v4(ip) => {
            let [a, b, c, _] = ip.octets();
            Some(Network::V4([a, b, c]))
        }
        Protocol::Ip6(ip) if is_public_v6(ip) => {
            let [a, b, c, d, e, f, g, ..] = ip.octets();
            Some(Network::V6([a, b, c, d, e, f, g]))
        }
        _ => None,
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    !(ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified())
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_counted_together_only_when_public() {
        let of = |text: &str| network_of(&text.parse().unwrap());
        assert!(of("/ip4/127.0.0.1/tcp/1").is_none());
        assert!(of("/ip4/192.168.3.4/tcp/1").is_none());
        assert!(of("/ip6/fe80::1/tcp/1").is_none());
        assert!(of("/ip4/8.8.8.1/tcp/1") == of("/ip4/8.8.8.200/udp/5/quic-v1"));
        assert!(of("/ip4/8.8.8.1/tcp/1") != of("/ip4/8.8.9.1/tcp/1"));
        assert!(of("/ip6/2001:db8:1:200::1/tcp/1") == of("/ip6/2001:db8:1:2ff::9/tcp/1"));
        assert!(of("/ip6/2001:db8:1:200::1/tcp/1") != of("/ip6/2001:db8:1:300::1/tcp/1"));
    }
}
