//! What a node knows about how others reach it, as it is told to people.

use std::time::Duration;

use crate::island::Renewal;
use crate::key::PeerKey;
use crate::relay::RelayUse;

/// How a node stands in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// A public address of it was reached from outside, or its owner announces one.
    Public,
    /// It was reached within its own network; nobody has seen it from a public one.
    Private,
    /// What it sends comes out elsewhere with the same port, whoever it goes to: a direct connection can be punched.
    BehindNat,
    /// What it sends comes out with another port for each peer: a direct connection can hardly be punched.
    BehindSymmetricNat,
    /// Its address is its own, and nothing comes in.
    Firewalled,
    /// It listens nowhere.
    OutboundOnly,
    /// Nobody has told it yet.
    Unknown,
}

impl Standing {
    /// One word, for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::BehindNat => "nat",
            Self::BehindSymmetricNat => "symmetric-nat",
            Self::Firewalled => "firewalled",
            Self::OutboundOnly => "outbound-only",
            Self::Unknown => "unknown",
        }
    }

    /// A sentence, for people.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Self::Public => "reachable from anywhere",
            Self::Private => {
                "reached within this network; no peer has seen this node from a public one"
            }
            Self::BehindNat => {
                "behind a router that translates addresses; peers come by a relay, then directly where a connection can be punched"
            }
            Self::BehindSymmetricNat => {
                "behind a router that takes another port for each peer; peers come by a relay, and stay there unless they are reachable themselves"
            }
            Self::Firewalled => "a firewall lets nothing in; peers come by a relay",
            Self::OutboundOnly => "it listens nowhere; peers come by a relay",
            Self::Unknown => "no connected peer has tested it yet",
        }
    }
}

/// Where an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressSource {
    /// The node listens there.
    Listening,
    /// Its owner says so.
    Announced,
    /// Peers see it there.
    Observed,
    /// Its router opened a port for it.
    Mapped,
    /// A relay leads to it.
    Relay,
}

impl AddressSource {
    /// One word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::Announced => "announced",
            Self::Observed => "observed",
            Self::Mapped => "mapped",
            Self::Relay => "relay",
        }
    }
}

/// An address of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The multiaddress, with the node's id at its end where it is direct.
    pub address: String,
    /// Where it comes from.
    pub source: AddressSource,
    /// Peers that reached it.
    pub reached_by: Vec<PeerKey>,
    /// Peers that tried and did not.
    pub missed_by: Vec<PeerKey>,
    /// How long ago the last of them answered.
    pub tested: Option<Duration>,
}

/// A relay that this node uses or would use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayInfo {
    /// Who.
    pub peer: PeerKey,
    /// Whether it leads to this node now.
    pub is_reserved: bool,
    /// What stands in the way, where something does.
    pub why: Option<String>,
}

/// How others reach this node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reachability {
    /// How it stands.
    pub standing: Standing,
    /// Its addresses, the best first.
    pub addresses: Vec<OwnAddress>,
    /// Relays that it uses or asks.
    pub relays: Vec<RelayInfo>,
    /// What it does as a relay for others, if it is one.
    pub relaying: Option<RelayUse>,
    /// What it last did because nobody was connected, if it ever had to.
    pub renewal: Option<Renewal>,
}
