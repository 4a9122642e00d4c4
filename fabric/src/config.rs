//! What a fabric is started with.

use std::fmt;
use std::time::Duration;

use crate::relay::RelayLimits;

/// What is fetched through a relay when nobody says otherwise: documents and small results, not data.
const RELAYED_BLOB_BYTES: u64 = 16 << 20;

/// How much one node gives to its peers before it says no. Every number is a hard bound; what
/// happens at it is said beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in handshake, each way. More are refused.
    pub pending: u32,
    /// Established connections that others opened. More are refused.
    pub established_in: u32,
    /// Established connections that this node opened. More are refused.
    pub established_out: u32,
    /// Established connections in total. More are refused.
    pub established: u32,
    /// Established connections with one peer. More are refused; two are needed while a relayed
    /// connection is replaced by a direct one.
    pub per_peer: u32,
    /// Inbound connections whose peer is not admitted yet. More are refused.
    pub probation: u32,
    /// The same, of one public /24 (IPv4) or /56 (IPv6) network. Private networks are only bound
    /// by `probation`, since a whole site may come back at once after an outage.
    pub probation_per_network: u32,
    /// Messages per second that one peer may send in the long run. Beyond it they are answered
    /// "busy". Catalogue sync and a fan-out of tasks are bursts of small messages, so the bound is
    /// above the 20/s that steady state needs.
    pub messages_per_s: u32,
    /// Messages that one peer may send at once. Beyond it they are answered "busy".
    pub messages_burst: u32,
    /// Gossip messages per second (and at once) that are judged for one peer. Beyond it they are
    /// ignored; anti-entropy repairs what is missed.
    pub gossip_per_s: u32,
    /// Bytes of received messages that wait for the application. Beyond it messages are answered
    /// "busy"; those of one peer beyond a quarter of it, and beyond 256 that wait.
    pub message_memory_bytes: u32,
    /// Blobs served at once, to all peers. Beyond it a fetch is answered "busy".
    pub blobs_served: u32,
    /// Blobs served at once to one peer. Beyond it a fetch is answered "busy".
    pub blobs_served_per_peer: u32,
    /// Bytes of blobs per second that are served to all peers together. Beyond it they wait, each for its share. No bound when
    /// absent; below [`crate::blob::RATE_MIN`] it is taken for that.
    pub blob_rate: Option<u64>,
    /// The same to each peer, and to all peers of a group together.
    pub blob_rate_per_peer: Option<u64>,
    /// Tunnels that peers have opened, in all. Beyond it a request is answered "busy". Each holds up to 200 KiB of buffers,
    /// and what is in flight to it.
    pub tunnels_in: u32,
    /// Tunnels that one peer has opened. Beyond it a request is answered "busy". Together with `tunnels_out_per_peer` far
    /// below the 256 streams each way that a QUIC connection carries.
    pub tunnels_in_per_peer: u32,
    /// Tunnels that this node has opened. Beyond it opening one is an error at once.
    pub tunnels_out: u32,
    /// Tunnels that this node has opened to one peer. Beyond it opening one is an error at once.
    pub tunnels_out_per_peer: u32,
    /// Bytes in flight to this node that are not read yet, in all tunnels with one peer, beyond the 64 KiB that each of them
    /// may have. One tunnel gets a quarter of it at most. Beyond it the peer's writers wait.
    pub tunnel_window_bytes: u32,
    /// How long the application may think about a peer's request for a tunnel before the peer is told "busy". This node
    /// waits twice as long for the answers of others.
    pub tunnel_decision: Duration,
    /// How long a tunnel that a peer opened may move nothing in either direction before it is cut. Consoles and
    /// subscriptions are idle for long; two hours are what TCP itself waits before it asks whether anybody is there.
    pub tunnel_idle: Duration,
    /// QUIC flow-control window of one stream in bytes; a connection's window is half as much
    /// again, and what all tunnels with a peer may hold unread besides. The worst case in memory is that times the number of
    /// connections.
    pub quic_stream_bytes: u32,
    /// Resident memory of the process above which new connections are refused.
    pub memory_bytes: Option<usize>,
    /// How long a connection has for each step of the hello before it is closed.
    pub hello_timeout: Duration,
    /// How long a first ban lasts; each further one doubles it, up to a day.
    pub ban: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending: 64,
            established_in: 256,
            established_out: 128,
            established: 384,
            per_peer: 4,
            probation: 32,
            probation_per_network: 4,
            messages_per_s: 100,
            messages_burst: 200,
            gossip_per_s: 200,
            message_memory_bytes: 64 << 20,
            blobs_served: 16,
            blobs_served_per_peer: 4,
            blob_rate: None,
            blob_rate_per_peer: None,
            tunnels_in: 256,
            tunnels_in_per_peer: 64,
            tunnels_out: 256,
            tunnels_out_per_peer: 64,
            tunnel_window_bytes: 8 << 20,
            tunnel_decision: Duration::from_secs(15),
            tunnel_idle: Duration::from_secs(2 * 3600),
            quic_stream_bytes: 10 << 20,
            memory_bytes: None,
            hello_timeout: Duration::from_secs(10),
            ban: Duration::from_secs(600),
        }
    }
}

impl Limits {
    /// Bounds for a board with 1 GiB of memory or less.
    #[must_use]
    pub fn small_board() -> Self {
        Self {
            established_in: 64,
            established_out: 48,
            established: 96,
            messages_per_s: 50,
            messages_burst: 100,
            gossip_per_s: 100,
            message_memory_bytes: 8 << 20,
            blobs_served: 4,
            blobs_served_per_peer: 2,
            tunnels_in: 64,
            tunnels_in_per_peer: 16,
            tunnels_out: 64,
            tunnels_out_per_peer: 16,
            tunnel_window_bytes: 2 << 20,
            quic_stream_bytes: 1 << 20,
            ..Self::default()
        }
    }
}

/// How patient a node is that has lost everybody, or reaches nobody whom it wants to reach. One that knows nobody waits
/// for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alone {
    /// How long it is alone before it opens its listeners anew.
    pub reopen: Duration,
    /// How long it waits then before it builds its whole network anew.
    pub rebuild: Duration,
    /// It does so again and again; the pauses double up to this.
    pub pause_max: Duration,
}

impl Default for Alone {
    fn default() -> Self {
        Self {
            reopen: Duration::from_secs(180),
            rebuild: Duration::from_secs(180),
            pause_max: Duration::from_secs(3600),
        }
    }
}

/// What a fabric is started with.
#[derive(Clone)]
pub struct Config {
    /// The Ed25519 seed of this node's identity. Never printed.
    pub secret: [u8; 32],
    /// Multiaddresses to listen on: `/ip4/0.0.0.0/tcp/4610`, `/ip4/0.0.0.0/udp/4610/quic-v1`; port
    /// 0 lets the system choose. Empty: this node only dials.
    pub listen: Vec<String>,
    /// Announce and look for peers on the local network.
    pub mdns: bool,
    /// Addresses at which the owner says that others reach this node. They are published as they are, and the node asks no
    /// relay to lead to it.
    pub announce: Vec<String>,
    /// Whether relays are asked to lead to this node when nothing else does.
    pub use_relays: bool,
    /// Relay for other members, with these bounds.
    pub relay: Option<RelayLimits>,
    /// The largest blob that is fetched from a peer that is only reached through a relay; zero for none.
    pub relayed_blob_bytes: u64,
    /// Ask the router for an open port.
    pub upnp: bool,
    /// Put before every topic on the wire; peers with another prefix share no gossip.
    pub topic_prefix: String,
    /// When it begins anew because nobody is connected.
    pub alone: Alone,
    /// The bounds.
    pub limits: Limits,
}

impl Config {
    /// A fabric with this identity that listens on `listen`, without mDNS, with default limits.
    #[must_use]
    pub fn new(secret: [u8; 32], listen: Vec<String>) -> Self {
        Self {
            secret,
            listen,
            mdns: false,
            upnp: false,
            announce: Vec::new(),
            use_relays: true,
            relay: None,
            relayed_blob_bytes: RELAYED_BLOB_BYTES,
            topic_prefix: "/opencloud/1/".into(),
            alone: Alone::default(),
            limits: Limits::default(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("secret", &"hidden")
            .field("listen", &self.listen)
            .field("mdns", &self.mdns)
            .field("upnp", &self.upnp)
            .field("announce", &self.announce)
            .field("use_relays", &self.use_relays)
            .field("relay", &self.relay)
            .field("relayed_blob_bytes", &self.relayed_blob_bytes)
            .field("topic_prefix", &self.topic_prefix)
            .field("alone", &self.alone)
            .field("limits", &self.limits)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_not_printed() {
        let text = format!("{:?}", Config::new([0xab; 32], vec![]));
        assert!(!text.contains("171") && !text.contains("ab, "), "{text}");
    }
}
