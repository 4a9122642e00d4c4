//! What the network tells the application, and how the application answers.

use std::fmt;
use std::time::Duration;

use libp2p::gossipsub::{MessageAcceptance, MessageId};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::key::PeerKey;
use crate::room::Waiting;
use crate::terms::Holding;

/// Something happened. Events come in the order in which the network task saw them.
///
/// The queue is bounded. When it is full, gossip is ignored, messages and hellos are answered
/// "busy" and advice (`Discovered`, `Wanted`, `Refused`) is lost; `Connected` and `Disconnected` are never
/// lost and keep their place.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A peer presents itself and wants to be admitted. See [`crate`] for the protocol.
    Hello {
        /// Who; proven by the handshake.
        peer: PeerKey,
        /// Where from.
        address: String,
        /// What it presents; at most [`crate::HELLO_MAX`] bytes, not looked into.
        payload: Vec<u8>,
        /// The answer.
        respond: HelloResponder,
    },
    /// The peer is admitted on both sides: messages, gossip, blobs and tunnels flow; of a guest messages alone. Exactly one
    /// for each admitted period, before everything else of that period.
    Connected {
        /// Who.
        peer: PeerKey,
    },
    /// The last connection of an admitted peer is closed, or the peer started afresh (then
    /// `Connected` follows at once).
    Disconnected {
        /// Who.
        peer: PeerKey,
    },
    /// A message from an admitted peer. Its sender has been told that this node took it.
    Message {
        /// Who.
        from: PeerKey,
        /// The bytes; at most [`crate::MESSAGE_MAX`].
        payload: Vec<u8>,
        /// The message's share of the memory for waiting messages; free again when dropped.
        held: Held,
    },
    /// A gossip message, not yet passed on.
    Gossip {
        /// Its topic, without the prefix.
        topic: String,
        /// The admitted neighbour who passed it here; not its author.
        from: PeerKey,
        /// The bytes; at most [`crate::GOSSIP_MAX`].
        payload: Vec<u8>,
        /// Whether it is passed on. Later than about 3 s the verdict has no effect.
        verdict: GossipVerdict,
    },
    /// Seen on the local network, or found where another was looked for. Whether to connect is the application's choice.
    Discovered {
        /// Who it says it is.
        peer: PeerKey,
        /// Where.
        addresses: Vec<String>,
    },
    /// A search for who has content comes to this peer, which is not connected; it waits some seconds. Whether to connect, and
    /// where to, is the application's choice: the name comes from peers, who may say anything.
    Wanted {
        /// Who.
        peer: PeerKey,
    },
    /// Others reach this node at other addresses than before; the best come first.
    Listening {
        /// As [`crate::Fabric::addresses`] gives them.
        addresses: Vec<String>,
    },
    /// The network turned a peer away without asking.
    Refused {
        /// Who.
        peer: PeerKey,
        /// Why.
        why: RefusedWhy,
    },
}

/// Why the network turned a peer away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusedWhy {
    /// It did not finish the hello in time.
    #[error("it did not finish its hello in time")]
    HelloTimeout,
    /// It is banned.
    #[error("it is banned")]
    Banned,
    /// Its group has as many connections as one may have.
    #[error("its group has too many connections")]
    GroupFull,
    /// Too many connections are waiting for their hello.
    #[error("too many connections wait for their hello")]
    ProbationFull,
}

/// Memory of a received message that waits for the application.
#[derive(Debug, Default)]
pub struct Held {
    #[expect(dead_code, reason = "it is only held")]
    of_all: Option<OwnedSemaphorePermit>,
    #[expect(dead_code, reason = "it is only held")]
    of_peer: Option<(Waiting, Holding)>,
}

impl Held {
    pub(crate) fn new(
        of_all: Option<OwnedSemaphorePermit>,
        of_peer: Waiting,
        of_group: Holding,
    ) -> Self {
        Self { of_all, of_peer: Some((of_peer, of_group)) }
    }
}

/// A decision that travels back to the network task.
#[derive(Debug)]
pub(crate) enum Verdict {
    Hello {
        exchange: u64,
        answer: HelloAnswer,
    },
    Gossip {
        id: MessageId,
        from: PeerId,
        acceptance: MessageAcceptance,
    },
    Moved {
        peer: PeerKey,
        sent: u64,
        received: u64,
    },
    Offence {
        peer: PeerKey,
        offence: Offence,
    },
    /// What a peer said of addresses that it was to dial.
    Probed {
        by: PeerKey,
        results: Vec<(Multiaddr, Option<bool>)>,
    },
}

/// What an admitted peer may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Messages, gossip, blobs, tunnels, relays.
    Member,
    /// Messages and nothing else: streams for anything else wait unread, as those of a peer that is not admitted do.
    Guest,
}

#[derive(Debug)]
pub(crate) enum HelloAnswer {
    Accept(Access, Vec<u8>),
    Refuse(Vec<u8>),
    /// The application dropped the question.
    None,
}

/// Verdicts that wait for the network task. At the bound a verdict is lost: gossip is then not
/// passed on, a hello runs into its deadline.
pub(crate) const VERDICT_QUEUE: usize = 1024;

fn tell(to: &mpsc::Sender<Verdict>, verdict: Verdict) {
    if let Err(mpsc::error::TrySendError::Full(verdict)) = to.try_send(verdict) {
        tracing::warn!(?verdict, "the network task is too far behind to take a verdict");
    }
}

/// Answers a hello. Dropped without an answer, the peer is told "busy".
pub struct HelloResponder {
    exchange: u64,
    to: mpsc::Sender<Verdict>,
    is_answered: bool,
}

impl HelloResponder {
    pub(crate) fn new(exchange: u64, to: mpsc::Sender<Verdict>) -> Self {
        Self { exchange, to, is_answered: false }
    }

    /// Admits the peer as far as this node is concerned; `reply` is what this node presents in
    /// turn (at most [`crate::HELLO_MAX`] bytes, or the peer is told "busy").
    pub fn accept(self, reply: Vec<u8>) {
        self.answer(HelloAnswer::Accept(Access::Member, reply));
    }

    /// Admits the peer to messages alone. One that is a member at the time stays one until its last connection closes.
    pub fn accept_guest(self, reply: Vec<u8>) {
        self.answer(HelloAnswer::Accept(Access::Guest, reply));
    }

    /// Turns the peer away; `reply` says why (at most [`crate::HELLO_MAX`] bytes).
    pub fn refuse(self, reply: Vec<u8>) {
        self.answer(HelloAnswer::Refuse(reply));
    }

    fn answer(mut self, answer: HelloAnswer) {
        self.is_answered = true;
        tell(&self.to, Verdict::Hello { exchange: self.exchange, answer });
    }
}

impl Drop for HelloResponder {
    fn drop(&mut self) {
        if !self.is_answered {
            let exchange = self.exchange;
            tell(&self.to, Verdict::Hello { exchange, answer: HelloAnswer::None });
        }
    }
}

impl fmt::Debug for HelloResponder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HelloResponder").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}

/// Says what becomes of a gossip message. Dropped without a word, it is ignored.
pub struct GossipVerdict {
    what: Option<(MessageId, PeerId)>,
    to: mpsc::Sender<Verdict>,
}

impl GossipVerdict {
    pub(crate) fn new(id: MessageId, from: PeerId, to: mpsc::Sender<Verdict>) -> Self {
        Self { what: Some((id, from)), to }
    }

    /// True and new: pass it on.
    pub fn accept(mut self) {
        self.say(MessageAcceptance::Accept);
    }

    /// Old, known or of no interest: let it rest; nobody is to blame.
    pub fn ignore(mut self) {
        self.say(MessageAcceptance::Ignore);
    }

    /// A lie or nonsense: let it rest and lower the score of the neighbour who passed it here,
    /// who should have seen it too.
    pub fn reject(mut self) {
        self.say(MessageAcceptance::Reject);
    }

    fn say(&mut self, acceptance: MessageAcceptance) {
        if let Some((id, from)) = self.what.take() {
            tell(&self.to, Verdict::Gossip { id, from, acceptance });
        }
    }
}

impl Drop for GossipVerdict {
    fn drop(&mut self) {
        self.say(MessageAcceptance::Ignore);
    }
}

impl fmt::Debug for GossipVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GossipVerdict").field("what", &self.what).finish_non_exhaustive()
    }
}

/// What a peer did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Offence {
    /// It signed or passed on a forgery: provable malice. Two of them are a ban.
    Forged,
    /// It sent bytes that do not decode. Five of them are a ban.
    Malformed,
    /// It sent more than is allowed at once. Five of them are a ban.
    Oversized,
    /// It sends too often. Twenty of them are a ban.
    Flood,
    /// It sent what this version cannot read and a newer one may well say. Its standing sinks a little and no further than
    /// half the way to a ban, so that these alone never bring one.
    Unknown,
}

/// How a peer is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Path {
    /// Not at all.
    None,
    /// By a connection of the two nodes alone.
    Direct,
    /// Through a relay.
    Relayed {
        /// Which, where it is known.
        by: Option<PeerKey>,
    },
}

/// Payload of messages, gossip, blobs and tunnels that all peers together have moved since the start, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// From them.
    pub received: u64,
    /// To them.
    pub sent: u64,
}

/// A peer as the network sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// Who.
    pub peer: PeerKey,
    /// Where: of its connections first, then where it says that it listens.
    pub addresses: Vec<String>,
    /// Whether it is admitted on both sides, as a member or as a guest.
    pub admitted: bool,
    /// How it is connected; direct as soon as one of its connections is.
    pub path: Path,
    /// Bytes that this node, as a relay, carried from and to it today.
    pub relayed_bytes: u64,
    /// Whether its oldest connection was opened by it.
    pub inbound: bool,
    /// The last measured round trip, the fastest of its connections, in microseconds.
    pub rtt_us: Option<u64>,
    /// Its standing: offences below zero, good gossip above.
    pub score: i64,
    /// How long it is still banned.
    pub banned: Option<Duration>,
    /// Payload bytes received since the peer connected: messages, gossip, blobs, tunnels.
    pub bytes_in: u64,
    /// Payload bytes sent since the peer connected: messages, blobs, tunnels.
    pub bytes_out: u64,
}
