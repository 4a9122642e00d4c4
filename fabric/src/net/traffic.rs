//! Messages and gossip of admitted peers.

use std::time::Instant;

use libp2p::PeerId;
use libp2p::gossipsub::{self, IdentTopic, MessageId, TopicHash};
use libp2p::request_response::{Event as RpcEvent, Message, OutboundFailure, ResponseChannel};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::actor::{Actor, answer};
use super::codec::Frame;
use super::gossip::topic_params;
use crate::error::{PublishError, SendError};
use crate::event::{Event, GossipVerdict, Held, Offence};
use crate::handle::GOSSIP_MAX;
use crate::key::PeerKey;

/// Messages to one peer that are on their way; callers beyond it are told so.
const SENDING_PER_PEER: usize = 48;
/// Messages on their way in total, 1 MiB each at most.
const SENDING_MAX: usize = 1024;
/// Topics that this node listens to.
const TOPICS_MAX: usize = 64;

const TAKEN: u8 = 0;
const BUSY: u8 = 1;
const TOO_LARGE: u8 = 2;

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(super) to: PeerKey,
    bytes: u64,
    pub(super) reply: oneshot::Sender<Result<(), SendError>>,
}

impl Actor {
    pub(super) fn on_send(
        &mut self,
        to: PeerKey,
        payload: Vec<u8>,
        reply: oneshot::Sender<Result<(), SendError>>,
    ) {
        if !self.peers.get(to).is_some_and(|e| e.is_announced) {
            return answer(reply, Err(SendError::NotConnected { peer: to }));
        }
        let n_same = self.sending.values().filter(|s| s.to == to).count();
        if n_same >= SENDING_PER_PEER || self.sending.len() >= SENDING_MAX {
            return answer(reply, Err(SendError::Backlog { peer: to }));
        }
        let bytes = payload.len() as u64;
        let messages = &mut self.swarm.behaviour_mut().talk.inner;
        let request = messages.send_request(&to.to_peer_id(), Frame::new(payload));
        self.sending.insert(request, Sending { to, bytes, reply });
    }

    pub(super) fn on_messages(&mut self, event: RpcEvent<Frame, Frame>) {
        match event {
            RpcEvent::Message { peer, message, .. } => match message {
                Message::Request { request, channel, .. } => {
                    self.on_message(&peer, request, channel);
                }
                Message::Response { request_id, response } => {
                    if let Some(sending) = self.sending.remove(&request_id) {
                        self.on_taken(sending, &response);
                    }
                }
            },
            RpcEvent::OutboundFailure { request_id, error, .. } => {
                let Some(sending) = self.sending.remove(&request_id) else {
                    return;
                };
                let peer = sending.to;
                tracing::debug!(%peer, %error, "a message may not have arrived");
                let error = match error {
                    OutboundFailure::Timeout => SendError::Timeout { peer },
                    OutboundFailure::DialFailure => SendError::NotConnected { peer },
                    _ => SendError::Lost { peer },
                };
                answer(sending.reply, Err(error));
            }
            RpcEvent::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "the sender of a message did not get its answer");
            }
            RpcEvent::ResponseSent { .. } => {}
        }
    }

    fn on_taken(&mut self, sending: Sending, response: &Frame) {
        let Sending { to: peer, bytes, reply } = sending;
        let code = match response {
            Frame::Whole { bytes, .. } => bytes.first(),
            _ => None,
        };
        let result = match code {
            Some(&TAKEN) => Ok(()),
            Some(&BUSY) => Err(SendError::Busy { peer }),
            _ => Err(SendError::Malformed { peer }),
        };
        if result.is_ok() {
            self.peers.count(peer, 0, bytes);
        }
        answer(reply, result);
    }

    fn on_message(&mut self, id: &PeerId, request: Frame, to: ResponseChannel<Frame>) {
        let Some(from) = PeerKey::from_peer_id(id).filter(|p| self.is_let_through(*p)) else {
            return;
        };
        let code = match request {
            Frame::Whole { bytes, held } => self.take_message(from, bytes, held),
            Frame::NoRoom => BUSY,
            Frame::Oversized { bytes } => {
                tracing::warn!(peer = %from, bytes, "a message is too large");
                self.penalize(from, Offence::Oversized);
                TOO_LARGE
            }
        };
        let messages = &mut self.swarm.behaviour_mut().talk.inner;
        if messages.send_response(to, Frame::new(vec![code])).is_err() {
            tracing::debug!(peer = %from, "the sender did not wait for its answer");
        }
    }

    fn take_message(
        &mut self,
        from: PeerKey,
        payload: Vec<u8>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> u8 {
        if !self.peers.may_send_message(Instant::now(), from, self.terms.group(from)) {
            return BUSY;
        }
        let bytes = payload.len() as u64;
        let memory = self.config.limits.message_memory_bytes;
        let Some(waiting) = self.room.take(from, bytes) else {
            return BUSY;
        };
        let Some(holding) = self.terms.hold(from, bytes, memory) else {
            return BUSY;
        };
        let held = Held::new(permit, waiting, holding);
        if self.events.offer(Event::Message { from, payload, held }).is_err() {
            return BUSY;
        }
        self.peers.count(from, bytes, 0);
        TAKEN
    }

    /// Whether the peer is admitted. The first thing that comes from a peer whose confirmation is
    /// on its way says as much as the confirmation.
    fn is_let_through(&mut self, peer: PeerKey) -> bool {
        let Some(entry) = self.peers.get(peer) else {
            return false;
        };
        let (is_admitted, is_announced) = (entry.is_admitted, entry.is_announced);
        if is_admitted && !is_announced {
            self.settled(peer, None);
        }
        is_admitted
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let gossipsub::Message { data, topic, .. } = message;
                self.on_gossip_message(propagation_source, message_id, data, &topic);
            }
            gossipsub::Event::SlowPeer { peer_id, .. } => {
                tracing::debug!(peer = %peer_id, "a peer is too slow for its gossip");
            }
            gossipsub::Event::GossipsubNotSupported { peer_id } => {
                tracing::debug!(peer = %peer_id, "a peer speaks no gossip");
            }
            gossipsub::Event::Subscribed { .. } | gossipsub::Event::Unsubscribed { .. } => {}
        }
    }

    fn on_gossip_message(
        &mut self,
        source: PeerId,
        id: MessageId,
        payload: Vec<u8>,
        topic: &TopicHash,
    ) {
        // Whatever path is taken below, dropping this says "ignore" at the least.
        let verdict = GossipVerdict::new(id, source, self.verdicts_to.clone());
        let Some(from) = PeerKey::from_peer_id(&source).filter(|p| self.is_let_through(*p)) else {
            return;
        };
        let Some(name) = topic.as_str().strip_prefix(&self.config.topic_prefix) else {
            return;
        };
        let name = name.to_owned();
        if payload.len() > GOSSIP_MAX {
            tracing::warn!(peer = %from, bytes = payload.len(), "a gossip message is too large");
            verdict.reject();
            return self.penalize(from, Offence::Oversized);
        }
        if !self.peers.may_gossip(Instant::now(), from, self.terms.group(from)) {
            return;
        }
        self.peers.count(from, payload.len() as u64, 0);
        drop(self.events.offer(Event::Gossip { topic: name, from, payload, verdict }));
    }

    pub(super) fn on_subscribe(&mut self, topic: String) {
        if self.topics.contains(&topic) {
            return;
        }
        if self.topics.len() >= TOPICS_MAX {
            tracing::warn!(topic, "too many topics: this one is left");
            return;
        }
        let name = IdentTopic::new(format!("{}{topic}", self.config.topic_prefix));
        let gossip = &mut self.swarm.behaviour_mut().gate.inner.gossip;
        if let Err(error) = gossip.set_topic_params(name.clone(), topic_params()) {
            tracing::warn!(topic, error, "a topic is not scored");
        }
        match gossip.subscribe(&name) {
            Ok(_) => {
                self.topics.insert(topic);
            }
            Err(error) => tracing::warn!(topic, %error, "cannot listen to a topic"),
        }
    }

    pub(super) fn on_publish(
        &mut self,
        topic: String,
        payload: Vec<u8>,
    ) -> Result<(), PublishError> {
        let bytes = payload.len();
        let name = IdentTopic::new(format!("{}{topic}", self.config.topic_prefix));
        match self.swarm.behaviour_mut().gate.inner.gossip.publish(name, payload) {
            Ok(_) | Err(gossipsub::PublishError::Duplicate) => Ok(()),
            Err(gossipsub::PublishError::NoPeersSubscribedToTopic) => {
                Err(PublishError::NobodyListens { topic })
            }
            Err(gossipsub::PublishError::MessageTooLarge) => Err(PublishError::TooLarge { bytes }),
            Err(error) => {
                tracing::debug!(topic, %error, "gossip did not go out");
                Err(PublishError::Busy)
            }
        }
    }
}
