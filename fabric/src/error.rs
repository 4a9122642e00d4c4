//! Why the network says no, by operation.

use std::time::Duration;

use crate::handle::{GOSSIP_MAX, HELLO_MAX, MESSAGE_MAX};
use crate::key::PeerKey;

/// Why a fabric does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Not called from within a tokio runtime.
    #[error("the network needs a tokio runtime: call `start` from within one")]
    NoRuntime,
    /// An address to listen on does not parse.
    #[error("`{text}` is no address to listen on: it should look like `/ip4/0.0.0.0/tcp/4610`")]
    Address {
        /// As configured.
        text: String,
    },
    /// No address to listen on works.
    #[error("cannot listen on any address; `{address}` failed")]
    Listen {
        /// The last one tried.
        address: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The network stack refused its configuration.
    #[error("the network stack does not start")]
    Network {
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why this node does not provide content, or looks for nobody who does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DhtError {
    /// It provides as much as it may.
    #[error("this node already tells of {limit} contents that it has: let go of one first")]
    Full {
        /// How many.
        limit: usize,
    },
    /// Too many searches are under way.
    #[error("this node already searches for {limit} contents: try again when one is found")]
    Busy {
        /// How many.
        limit: usize,
    },
    /// The network is shut down.
    #[error("the network is shut down")]
    Stopped,
}

/// Why no admitted connection to a peer came about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// An address does not parse, or names another peer.
    #[error("`{text}` is no address of this peer: it should look like `/ip4/192.0.2.7/tcp/4610`")]
    Address {
        /// As given.
        text: String,
    },
    /// No address is given and the peer is not connected.
    #[error("no address of {peer} is given")]
    NoAddress {
        /// Who.
        peer: PeerKey,
    },
    /// The peer is this node.
    #[error("that is this node itself")]
    Myself,
    /// This node has banned the peer.
    #[error("{peer} is banned for another {} s", left.as_secs())]
    Banned {
        /// Who.
        peer: PeerKey,
        /// For how long still.
        left: Duration,
    },
    /// The hello is larger than [`HELLO_MAX`].
    #[error("the hello has {bytes} bytes, the limit is {HELLO_MAX}")]
    HelloTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Too many connections are being made at once.
    #[error("too many connections are being made: try again later")]
    Backlog,
    /// No address answered as this peer.
    #[error("{peer} cannot be reached")]
    Dial {
        /// Who.
        peer: PeerKey,
        /// What each address said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The peer refuses this node; its reply says why.
    #[error("the peer refuses this node")]
    Refused(Vec<u8>),
    /// The peer has no time to judge.
    #[error("{peer} is too busy to admit anyone: try again later")]
    Busy {
        /// Who.
        peer: PeerKey,
    },
    /// The peer did not answer in time.
    #[error("{peer} did not answer in time")]
    Timeout {
        /// Who.
        peer: PeerKey,
    },
    /// The connection closed during the hello: the peer may have banned this node or be full.
    #[error("{peer} closed the connection during the hello")]
    Closed {
        /// Who.
        peer: PeerKey,
    },
    /// The peer does not speak this protocol.
    #[error("{peer} does not speak `/opencloud/hello/1`")]
    Unsupported {
        /// Who.
        peer: PeerKey,
    },
    /// The hello took so long that one side has forgotten it.
    #[error("the hello with {peer} took too long and is forgotten: connect again")]
    Forgotten {
        /// Who.
        peer: PeerKey,
    },
    /// The peer's answer makes no sense.
    #[error("{peer} answered the hello with nonsense")]
    Malformed {
        /// Who.
        peer: PeerKey,
    },
    /// The fabric is shut down.
    #[error("the network is shut down")]
    Stopped,
}

/// Why a message was not taken by the peer's node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The peer is not admitted at the moment.
    #[error("{peer} is not connected")]
    NotConnected {
        /// Who.
        peer: PeerKey,
    },
    /// The message is larger than [`MESSAGE_MAX`].
    #[error("the message has {bytes} bytes, the limit is {MESSAGE_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Too many messages to this peer are on their way.
    #[error("too many messages to {peer} are on their way: wait for some of them")]
    Backlog {
        /// Who.
        peer: PeerKey,
    },
    /// The peer's queue is full or this node sends too fast. The message was not taken.
    #[error("{peer} is too busy to take the message: try again later")]
    Busy {
        /// Who.
        peer: PeerKey,
    },
    /// No answer in time. The peer may or may not have taken the message.
    #[error("{peer} did not say in time that it took the message")]
    Timeout {
        /// Who.
        peer: PeerKey,
    },
    /// The connection closed before an answer. The peer may or may not have taken the message.
    #[error("the connection to {peer} closed before it said that it took the message")]
    Lost {
        /// Who.
        peer: PeerKey,
    },
    /// The peer's answer makes no sense.
    #[error("{peer} answered the message with nonsense")]
    Malformed {
        /// Who.
        peer: PeerKey,
    },
    /// The fabric is shut down.
    #[error("the network is shut down")]
    Stopped,
}

impl SendError {
    /// Whether the same message may well go through later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::TooLarge { .. } | Self::Malformed { .. } | Self::Stopped)
    }
}

/// Why a gossip message was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The payload is larger than [`GOSSIP_MAX`].
    #[error("the gossip message has {bytes} bytes, the limit is {GOSSIP_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// No admitted peer listens to the topic. Normal for a node alone.
    #[error("no connected peer listens to `{topic}`")]
    NobodyListens {
        /// The topic.
        topic: String,
    },
    /// The queues to all peers are full.
    #[error("the queues to all peers are full: try again later")]
    Busy,
    /// The fabric is shut down.
    #[error("the network is shut down")]
    Stopped,
}
