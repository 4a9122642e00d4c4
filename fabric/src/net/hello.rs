//! The hello, both sides of it. The page of the protocol is in the crate's docs.

use std::time::{Duration, Instant};

use libp2p::request_response::{
    Event as RpcEvent, InboundRequestId, Message, OutboundFailure, ResponseChannel,
};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use super::CONNECT_TIMEOUT;
use super::actor::{Actor, Peering, answer};
use super::codec::Frame;
use crate::error::ConnectError;
use crate::event::{Access, Event, HelloAnswer, HelloResponder, Offence};
use crate::handle::HELLO_MAX;
use crate::key::PeerKey;
use crate::reach::address::bare;

/// Connections being made at once; more are refused to their callers.
const INTRODUCTIONS_MAX: usize = 256;
/// Hellos of one peer that the application judges at once; more are answered "busy". Both may
/// dial at the same time, and a ticket may come beside the usual hello.
const ASKED_PER_PEER: usize = 4;

const PRESENT: u8 = 1;
const CONFIRM: u8 = 2;
const LEAVE: u8 = 3;
const ACCEPTED: u8 = 1;
const REFUSED: u8 = 2;
const BUSY: u8 = 3;
const CONFIRMED: u8 = 4;
const UNKNOWN: u8 = 5;

/// A hello that this node makes.
#[derive(Debug)]
pub(crate) struct Introduction {
    peer: PeerKey,
    stage: Stage,
    pub(super) deadline: Instant,
}

#[derive(Debug)]
enum Stage {
    Dialing {
        dial: ConnectionId,
        addresses: Vec<Multiaddr>,
        is_last_try: bool,
        hello: Vec<u8>,
        reply: oneshot::Sender<Result<Peering, ConnectError>>,
    },
    Presented {
        reply: oneshot::Sender<Result<Peering, ConnectError>>,
    },
    /// The application judges the peer's reply.
    Judging {
        theirs: u64,
    },
    Confirming {
        theirs: u64,
        reply: oneshot::Sender<Result<(), ConnectError>>,
    },
}

impl Stage {
    fn fail(self, error: ConnectError) {
        match self {
            Self::Dialing { reply, .. } | Self::Presented { reply } => answer(reply, Err(error)),
            Self::Confirming { reply, .. } => answer(reply, Err(error)),
            Self::Judging { .. } => {}
        }
    }
}

/// A hello that the application judges.
#[derive(Debug)]
pub(crate) struct Asked {
    peer: PeerKey,
    generation: u64,
    request: InboundRequestId,
    channel: ResponseChannel<Frame>,
}

impl Actor {
    pub(super) fn on_introduce(
        &mut self,
        peer: PeerKey,
        addresses: Vec<Multiaddr>,
        hello: Option<Vec<u8>>,
        reply: oneshot::Sender<Result<Peering, ConnectError>>,
    ) {
        let now = Instant::now();
        let hello = hello.unwrap_or_else(|| self.hello.clone());
        let is_connected = self.peers.get(peer).is_some();
        let refusal = if hello.len() > HELLO_MAX {
            Some(ConnectError::HelloTooLarge { bytes: hello.len() })
        } else if let Some(left) = self.peers.banned_for(now, peer) {
            Some(ConnectError::Banned { peer, left })
        } else if self.introductions.len() >= INTRODUCTIONS_MAX {
            Some(ConnectError::Backlog)
        } else if !is_connected && addresses.is_empty() {
            Some(ConnectError::NoAddress { peer })
        } else {
            None
        };
        if let Some(error) = refusal {
            return answer(reply, Err(error));
        }
        if is_connected {
            return self.present(peer, &hello, reply);
        }
        let opts = dial_opts(peer, addresses.clone(), false);
        let dial = opts.connection_id();
        if let Err(error) = self.swarm.dial(opts) {
            return answer(reply, Err(ConnectError::Dial { peer, source: error.into() }));
        }
        let stage = Stage::Dialing { dial, addresses, is_last_try: false, hello, reply };
        self.add(peer, stage, 2 * CONNECT_TIMEOUT);
    }

    fn add(&mut self, peer: PeerKey, stage: Stage, time: Duration) -> u64 {
        self.next_exchange += 1;
        let deadline = Instant::now() + time;
        self.introductions.insert(self.next_exchange, Introduction { peer, stage, deadline });
        self.next_exchange
    }

    /// A connection with the peer is there: who waited for one presents itself.
    pub(super) fn on_reached(&mut self, peer: PeerKey) {
        let waiting = self
            .introductions
            .iter()
            .filter(|(_, i)| i.peer == peer && matches!(i.stage, Stage::Dialing { .. }));
        let ids: Vec<u64> = waiting.map(|(id, _)| *id).collect();
        for id in ids {
            let taken = self.introductions.remove(&id).map(|i| i.stage);
            if let Some(Stage::Dialing { hello, reply, .. }) = taken {
                self.present(peer, &hello, reply);
            }
        }
    }

    fn present(
        &mut self,
        peer: PeerKey,
        hello: &[u8],
        reply: oneshot::Sender<Result<Peering, ConnectError>>,
    ) {
        let Some(entry) = self.peers.get(peer) else {
            return answer(reply, Err(ConnectError::Closed { peer }));
        };
        let frame = Frame::new(frame(PRESENT, Some(entry.generation), hello));
        self.peers.on_progress(Instant::now(), peer);
        let request = self.swarm.behaviour_mut().hello.send_request(&peer.to_peer_id(), frame);
        // The request has its own, shorter time; this one is for what the request forgets.
        let id = self.add(peer, Stage::Presented { reply }, 3 * self.config.limits.hello_timeout);
        self.presented.insert(request, id);
    }

    /// Two nodes that dial each other at once, each from the port it listens on, may meet in one
    /// TCP connection that both of them opened, and no handshake can tell who is who. So the
    /// second try leaves from a fresh port.
    pub(super) fn on_dial_failed(&mut self, failed: ConnectionId, error: DialError) {
        let found = self
            .introductions
            .iter()
            .find(|(_, i)| matches!(i.stage, Stage::Dialing { dial, .. } if dial == failed));
        let Some(id) = found.map(|(id, _)| *id) else {
            return;
        };
        // Somebody else is there now, perhaps the same node with a new key.
        if let DialError::WrongPeerId { obtained, address } = &error {
            self.on_discovered(vec![(*obtained, bare(address.clone()))]);
        }
        let Some(introduction) = self.introductions.get_mut(&id) else {
            return;
        };
        let peer = introduction.peer;
        let is_transport = matches!(error, DialError::Transport(_));
        if let Stage::Dialing { dial, addresses, is_last_try, .. } = &mut introduction.stage
            && is_transport
            && !*is_last_try
        {
            let opts = dial_opts(peer, addresses.clone(), true);
            *dial = opts.connection_id();
            *is_last_try = true;
            if self.swarm.dial(opts).is_ok() {
                return;
            }
        }
        self.island.handle_missed(self.reaching.now_ms());
        if let Some(introduction) = self.introductions.remove(&id) {
            introduction.stage.fail(ConnectError::Dial { peer, source: error.into() });
        }
    }

    /// The application accepts the peer's reply.
    pub(super) fn on_admit(
        &mut self,
        id: u64,
        (peer, access): (PeerKey, Access),
        reply: oneshot::Sender<Result<(), ConnectError>>,
    ) {
        let Some(Stage::Judging { theirs }) = self.introductions.remove(&id).map(|i| i.stage)
        else {
            return answer(reply, Err(ConnectError::Forgotten { peer }));
        };
        let Some(entry) = self.peers.get_mut(peer) else {
            return answer(reply, Err(ConnectError::Closed { peer }));
        };
        // From here on the peer is let through: it may send as soon as it has the confirmation.
        entry.is_admitted = true;
        entry.is_member |= access == Access::Member;
        let frame = Frame::new(frame(CONFIRM, Some(entry.generation), &[]));
        self.peers.on_progress(Instant::now(), peer);
        self.open_gates(peer);
        let hello = &mut self.swarm.behaviour_mut().hello;
        let request = hello.send_request(&peer.to_peer_id(), frame);
        let stage = Stage::Confirming { theirs, reply };
        let id = self.add(peer, stage, 3 * self.config.limits.hello_timeout);
        self.presented.insert(request, id);
    }

    pub(super) fn on_decline(&mut self, id: u64) {
        if let Some(introduction) = self.introductions.remove(&id) {
            self.let_go(introduction.peer);
        }
    }

    /// Closes what a failed hello leaves behind, unless the peer is admitted or another hello
    /// with it is under way.
    fn let_go(&mut self, peer: PeerKey) {
        let is_announced = self.peers.get(peer).is_some_and(|e| e.is_announced);
        let is_asked = self.asked.values().any(|a| a.peer == peer)
            || self.peers.get(peer).is_some_and(|e| e.offered.is_some());
        let is_introduced = self.introductions.values().any(|i| i.peer == peer);
        if !is_announced && !is_asked && !is_introduced {
            self.close_all(&peer.to_peer_id());
        }
    }

    pub(super) fn expire_introductions(&mut self, now: Instant) {
        let overdue = self.introductions.iter().filter(|(_, i)| i.deadline <= now);
        let ids: Vec<u64> = overdue.map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(Introduction { peer, stage, .. }) = self.introductions.remove(&id) {
                self.island.handle_missed(self.reaching.now_ms());
                stage.fail(ConnectError::Timeout { peer });
                self.let_go(peer);
            }
        }
    }

    /// All connections are gone at once: who waits for a hello is told so.
    pub(super) fn fail_hellos(&mut self) {
        self.presented.clear();
        self.asked.clear();
        for (_, Introduction { peer, stage, .. }) in std::mem::take(&mut self.introductions) {
            stage.fail(ConnectError::Closed { peer });
        }
    }

    pub(super) fn on_hello(&mut self, event: RpcEvent<Frame, Frame>) {
        match event {
            RpcEvent::Message { peer, message, .. } => match message {
                Message::Request { request_id, request, channel } => {
                    self.on_hello_request(&peer, request_id, request, channel);
                }
                Message::Response { request_id, response } => {
                    if let Some(id) = self.presented.remove(&request_id) {
                        self.on_hello_response(id, response);
                    }
                }
            },
            RpcEvent::OutboundFailure { request_id, error, .. } => {
                let id = self.presented.remove(&request_id);
                let Some(introduction) = id.and_then(|id| self.introductions.remove(&id)) else {
                    return;
                };
                let peer = introduction.peer;
                introduction.stage.fail(match error {
                    OutboundFailure::Timeout => ConnectError::Timeout { peer },
                    OutboundFailure::UnsupportedProtocols => ConnectError::Unsupported { peer },
                    _ => ConnectError::Closed { peer },
                });
                self.let_go(peer);
            }
            RpcEvent::InboundFailure { peer, request_id, error, .. } => {
                tracing::debug!(%peer, %error, "an answer to a hello did not go out");
                // The application may still answer; nobody waits for it.
                self.asked.retain(|_, a| a.request != request_id);
            }
            RpcEvent::ResponseSent { .. } => {}
        }
    }

    fn on_hello_response(&mut self, id: u64, response: Frame) {
        let Some(Introduction { peer, stage, .. }) = self.introductions.remove(&id) else {
            return;
        };
        let bytes = match response {
            Frame::Whole { bytes, .. } => bytes,
            _ => Vec::new(),
        };
        self.peers.on_progress(Instant::now(), peer);
        match (parse(&bytes), stage) {
            (Some((ACCEPTED, theirs, payload)), Stage::Presented { reply }) => {
                let time = self.config.limits.hello_timeout;
                let id = self.add(peer, Stage::Judging { theirs }, time);
                let peering = Peering { id, reply: payload.to_vec() };
                if reply.send(Ok(peering)).is_err() {
                    self.on_decline(id);
                }
            }
            (Some((REFUSED, _, payload)), stage @ Stage::Presented { .. }) => {
                stage.fail(ConnectError::Refused(payload.to_vec()));
                self.let_go(peer);
            }
            (Some((BUSY, ..)), stage) => {
                stage.fail(ConnectError::Busy { peer });
                self.let_go(peer);
            }
            (Some((CONFIRMED, ..)), Stage::Confirming { theirs, reply }) => {
                self.settled(peer, Some(theirs));
                answer(reply, Ok(()));
            }
            (Some((UNKNOWN, ..)), stage @ Stage::Confirming { .. }) => {
                stage.fail(ConnectError::Forgotten { peer });
                self.let_go(peer);
            }
            (_, stage) => {
                stage.fail(ConnectError::Malformed { peer });
                self.penalize(peer, Offence::Malformed);
                self.let_go(peer);
            }
        }
    }

    fn on_hello_request(
        &mut self,
        id: &PeerId,
        request_id: InboundRequestId,
        request: Frame,
        to: ResponseChannel<Frame>,
    ) {
        let Some(peer) = PeerKey::from_peer_id(id) else {
            return;
        };
        let bytes = match request {
            Frame::Whole { bytes, .. } => bytes,
            Frame::Oversized { bytes } => {
                tracing::warn!(%peer, bytes, "a hello is too large");
                return self.penalize(peer, Offence::Oversized);
            }
            Frame::NoRoom => Vec::new(),
        };
        match parse(&bytes) {
            Some((PRESENT, generation, payload)) if payload.len() <= HELLO_MAX => {
                let asked = Asked { peer, generation, request: request_id, channel: to };
                self.ask_application(asked, payload.to_vec());
            }
            Some((CONFIRM, generation, [])) => {
                let offered = self.peers.get(peer).and_then(|e| e.offered);
                if offered == Some(generation) {
                    self.settled(peer, Some(generation));
                    self.respond(to, frame(CONFIRMED, None, &[]));
                } else {
                    self.respond(to, frame(UNKNOWN, None, &[]));
                }
            }
            Some((LEAVE, _, [])) => {
                tracing::debug!(%peer, "a peer leaves");
                self.close_all(id);
            }
            _ => {
                tracing::warn!(%peer, "a hello makes no sense");
                self.penalize(peer, Offence::Malformed);
            }
        }
    }

    /// Asks the peer to close its connections with this node, where one of them is QUIC; false where closing them says it all.
    ///
    /// quinn holds the notice of a close back while unsent bytes fill its congestion window, and for good, because it counts
    /// no acknowledgement any more: the peer would hear of it after 30 s of silence.
    pub(super) fn leave(&mut self, id: &PeerId) -> bool {
        let entry = PeerKey::from_peer_id(id).and_then(|peer| self.peers.get(peer));
        let is_quic = entry.is_some_and(|e| e.conns.values().any(|c| c.address.contains("/quic")));
        if is_quic {
            let request = Frame::new(frame(LEAVE, None, &[]));
            self.swarm.behaviour_mut().hello.send_request(id, request);
        }
        is_quic
    }

    fn ask_application(&mut self, asked: Asked, payload: Vec<u8>) {
        let peer = asked.peer;
        let Some(entry) = self.peers.get(peer) else {
            return;
        };
        let address = entry.conns.values().next_back().map(|c| c.address.clone());
        self.peers.on_progress(Instant::now(), peer);
        if self.asked.values().filter(|a| a.peer == peer).count() >= ASKED_PER_PEER {
            return self.respond(asked.channel, frame(BUSY, None, &[]));
        }
        self.next_exchange += 1;
        let exchange = self.next_exchange;
        self.asked.insert(exchange, asked);
        let respond = HelloResponder::new(exchange, self.verdicts_to.clone());
        let address = address.unwrap_or_default();
        // Without room the event is dropped, and with it the responder, which answers "busy".
        drop(self.events.offer(Event::Hello { peer, address, payload, respond }));
    }

    /// The application has judged a hello, or forgotten it.
    pub(super) fn on_judged(&mut self, exchange: u64, judged: HelloAnswer) {
        let Some(asked) = self.asked.remove(&exchange) else {
            return;
        };
        let Asked { peer, generation, channel, .. } = asked;
        self.peers.on_progress(Instant::now(), peer);
        let Some(entry) = self.peers.get_mut(peer) else {
            return;
        };
        let out = match judged {
            HelloAnswer::Accept(access, reply) if reply.len() <= HELLO_MAX => {
                entry.offered = Some(generation);
                entry.is_member |= access == Access::Member;
                frame(ACCEPTED, Some(entry.generation), &reply)
            }
            HelloAnswer::Refuse(reply) if reply.len() <= HELLO_MAX => frame(REFUSED, None, &reply),
            HelloAnswer::Accept(_, reply) | HelloAnswer::Refuse(reply) => {
                tracing::warn!(%peer, bytes = reply.len(), "the reply to a hello is too large");
                frame(BUSY, None, &[])
            }
            HelloAnswer::None => frame(BUSY, None, &[]),
        };
        self.respond(channel, out);
    }

    fn respond(&mut self, to: ResponseChannel<Frame>, bytes: Vec<u8>) {
        if self.swarm.behaviour_mut().hello.send_response(to, Frame::new(bytes)).is_err() {
            tracing::debug!("the peer did not wait for the answer to its hello");
        }
    }
}

/// A kind, a generation (zero where it means nothing), a payload.
pub(crate) fn frame(kind: u8, generation: Option<u64>, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + payload.len());
    out.push(kind);
    out.extend_from_slice(&generation.unwrap_or(0).to_be_bytes());
    out.extend_from_slice(payload);
    out
}

pub(crate) fn parse(bytes: &[u8]) -> Option<(u8, u64, &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    let (generation, payload) = rest.split_first_chunk()?;
    Some((*kind, u64::from_be_bytes(*generation), payload))
}

fn dial_opts(peer: PeerKey, addresses: Vec<Multiaddr>, is_fresh_port: bool) -> DialOpts {
    let opts =
        DialOpts::peer_id(peer.to_peer_id()).addresses(addresses).condition(PeerCondition::Always);
    if is_fresh_port { opts.allocate_new_port().build() } else { opts.build() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_parses_back_and_a_short_one_does_not() {
        let bytes = frame(PRESENT, Some(7), b"x");
        assert_eq!(parse(&bytes), Some((PRESENT, 7, &b"x"[..])));
        for n in 0..9 {
            assert_eq!(parse(&bytes[..n]), None);
        }
    }
}
