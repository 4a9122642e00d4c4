//! How this node and its peers are reached, and why not.

use catalog::NodeId;
use fabric::{AddressKind, OwnAddress, Path, PeerInfo, PeerKey, Reachability, Standing};
use serde::{Deserialize, Serialize};

use crate::engine::command::{PeerView, StatusView};
use crate::schema;

/// This node, with how others reach it.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Status)]
pub(crate) struct StatusAnswer {
    #[serde(flatten)]
    pub(crate) status: StatusView,
    #[schema(required)]
    pub(crate) reach: Option<ReachView>,
}

/// How others reach this node.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Reach)]
pub(crate) struct ReachView {
    /// One word.
    #[schema(value_type = schema::Standing)]
    pub(crate) standing: String,
    /// A sentence.
    pub(crate) why: String,
    pub(crate) addresses: Vec<AddressView>,
    pub(crate) relays: Vec<RelayView>,
    #[schema(required)]
    pub(crate) relaying: Option<RelayingView>,
    #[schema(required)]
    pub(crate) renewal: Option<RenewalView>,
}

/// An address of this node.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Address)]
pub(crate) struct AddressView {
    /// A multiaddr.
    pub(crate) address: String,
    /// `listening`, `announced`, `observed`, `mapped` or `relay`.
    #[schema(value_type = schema::AddressSource)]
    pub(crate) source: String,
    #[schema(value_type = Vec<schema::NodeId>)]
    pub(crate) reached_by: Vec<NodeId>,
    #[schema(value_type = Vec<schema::NodeId>)]
    pub(crate) missed_by: Vec<NodeId>,
    /// Seconds since a peer last tested it.
    #[schema(required)]
    pub(crate) tested_s_ago: Option<u64>,
}

/// A relay that leads to this node, or is to.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Relay)]
pub(crate) struct RelayView {
    #[schema(value_type = schema::NodeId)]
    pub(crate) id: NodeId,
    /// Whether it leads to this node now.
    pub(crate) reserved: bool,
    /// What stands in the way.
    #[schema(required)]
    pub(crate) why: Option<String>,
}

/// What this node does as a relay.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Relaying)]
pub(crate) struct RelayingView {
    /// Peers that are reachable through this node.
    pub(crate) reservations: u32,
    /// Circuits open now.
    pub(crate) circuits: u32,
    /// Bytes carried since it started.
    pub(crate) bytes: u64,
}

/// What this node last did because nobody was connected.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Renewal)]
pub(crate) struct RenewalView {
    /// `listeners` or `everything`: what was opened or built anew.
    #[schema(value_type = schema::Renewed)]
    pub(crate) what: String,
    /// Seconds since then.
    pub(crate) s_ago: u64,
    /// How long nobody had been connected by then.
    pub(crate) alone_s: u64,
    /// How often everything was built anew since the node was started.
    pub(crate) rebuilds: u32,
}

/// A peer, with how it is connected or why it is not.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Peer)]
pub(crate) struct PeerAnswer {
    #[serde(flatten)]
    pub(crate) peer: PeerView,
    /// `direct`, `relayed` or `none`.
    #[schema(value_type = schema::PeerPath)]
    pub(crate) path: String,
    /// The relay between the two, where it is known.
    #[schema(value_type = Option<schema::NodeId>, required)]
    pub(crate) relay: Option<NodeId>,
    /// The last round trip, in microseconds.
    #[schema(required)]
    pub(crate) rtt_us: Option<u64>,
    /// What this node, as a relay, carried from and to it today.
    pub(crate) relayed_bytes: u64,
    /// What stands in the way, when it is not connected.
    #[schema(required)]
    pub(crate) why: Option<String>,
    /// What can be done about it.
    #[schema(required)]
    pub(crate) hint: Option<String>,
}

fn node(peer: PeerKey) -> NodeId {
    NodeId::from_bytes(*peer.as_bytes())
}

pub(super) fn reach_view(reach: Reachability) -> ReachView {
    let address = |own: OwnAddress| AddressView {
        address: own.address,
        source: own.source.as_str().to_owned(),
        reached_by: own.reached_by.into_iter().map(node).collect(),
        missed_by: own.missed_by.into_iter().map(node).collect(),
        tested_s_ago: own.tested.map(|ago| ago.as_secs()),
    };
    let relay = |relay: fabric::RelayInfo| RelayView {
        id: node(relay.peer),
        reserved: relay.is_reserved,
        why: relay.why,
    };
    ReachView {
        standing: reach.standing.as_str().to_owned(),
        why: why(reach.standing, reach.relays.iter().any(|relay| relay.is_reserved)),
        addresses: reach.addresses.into_iter().map(address).collect(),
        relays: reach.relays.into_iter().map(relay).collect(),
        relaying: reach.relaying.map(|relaying| RelayingView {
            reservations: relaying.reservations,
            circuits: relaying.circuits,
            bytes: relaying.bytes,
        }),
        renewal: reach.renewal.map(|renewal| RenewalView {
            what: renewal.what.as_str().to_owned(),
            s_ago: renewal.ago.as_secs(),
            alone_s: renewal.alone.as_secs(),
            rebuilds: renewal.rebuilds,
        }),
    }
}

fn why(standing: Standing, has_relay: bool) -> String {
    let needs = matches!(
        standing,
        Standing::BehindNat
            | Standing::BehindSymmetricNat
            | Standing::Firewalled
            | Standing::OutboundOnly
    );
    if needs && !has_relay {
        let how = "no relay leads here: connect to a member that runs `opencloud up --relay`, or open a port and name it with `--announce`";
        return format!("{}; {how}", standing.why());
    }
    standing.why().to_owned()
}

pub(super) fn peer_answer(peer: PeerView, links: &[PeerInfo]) -> PeerAnswer {
    let link = links.iter().find(|link| node(link.peer) == peer.id);
    let (path, relay) = match link.map_or(Path::None, |link| link.path) {
        Path::Direct => ("direct", None),
        Path::Relayed { by } => ("relayed", by.map(node)),
        _ => ("none", None),
    };
    let banned = link.and_then(|link| link.banned);
    let (why, hint) = match (peer.connected, banned) {
        (true, _) => (None, None),
        (false, Some(left)) => {
            let why = format!("it misbehaved and is banned for another {} s", left.as_secs());
            (Some(why), Some("it is let in again when that is over".to_owned()))
        }
        (false, None) => {
            let (why, hint) = unreached(&peer);
            (Some(why), Some(hint))
        }
    };
    PeerAnswer {
        path: path.to_owned(),
        relay,
        rtt_us: link.and_then(|link| link.rtt_us),
        relayed_bytes: link.map_or(0, |link| link.relayed_bytes),
        why,
        hint,
        peer,
    }
}

/// Why a peer is not connected, and the way out.
fn unreached(peer: &PeerView) -> (String, String) {
    let kinds: Vec<AddressKind> =
        peer.addresses.iter().filter_map(|address| AddressKind::of(address)).collect();
    let has = |kind| kinds.contains(&kind);
    let error = peer.last_error.clone();
    if kinds.is_empty() {
        let hint =
            "it has to connect to this node, or to a member that relays (`opencloud up --relay`)";
        return (error.unwrap_or_else(|| "it publishes no address".to_owned()), hint.to_owned());
    }
    let why = error.unwrap_or_else(|| "it is away, and will be dialled again".to_owned());
    let hint = if has(AddressKind::Public) {
        "look whether it runs (`opencloud status` there), and whether its port is open"
    } else if has(AddressKind::Relayed) {
        "only a relay leads to it: look whether it runs, and whether this node is connected to that relay"
    } else {
        "it has only addresses of a private network: connect it to a member that relays (`opencloud up --relay`), or open a port there and name it with `up --announce`"
    };
    (why, hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(addresses: &[&str], last_error: Option<&str>) -> PeerView {
        PeerView {
            id: NodeId::from_bytes([7; 32]),
            name: "a".to_owned(),
            org: catalog::OrgId::from_bytes([8; 32]),
            org_name: "b".to_owned(),
            generation: 1,
            former_until_ms: None,
            trust: "peer".to_owned(),
            connected: false,
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
            last_error: last_error.map(str::to_owned),
            is_neighbour: false,
        }
    }

    #[test]
    fn the_way_out_fits_the_addresses() {
        let hint = |addresses: &[&str]| peer_answer(peer(addresses, None), &[]).hint.unwrap();
        assert!(hint(&[]).contains("has to connect"));
        assert!(hint(&["/ip4/10.0.0.1/tcp/1"]).contains("--announce"));
        assert!(hint(&["/ip4/198.51.100.1/tcp/1"]).contains("port is open"));
        assert!(hint(&["/ip4/198.51.100.1/tcp/1/p2p-circuit"]).contains("only a relay"));
        let answer = peer_answer(peer(&["/ip4/10.0.0.1/tcp/1"], Some("refused")), &[]);
        assert_eq!((answer.path.as_str(), answer.why.as_deref()), ("none", Some("refused")));
    }

    #[test]
    fn who_needs_a_relay_and_has_none_is_told_how_to_get_one() {
        assert!(why(Standing::BehindNat, false).contains("--relay"));
        assert!(!why(Standing::BehindNat, true).contains("--relay"));
        assert!(!why(Standing::Public, false).contains("--relay"));
    }
}
