//! How others reach this node, for its owner.

use std::time::Duration;

use catalog::NodeId;
use fabric::{PeerInfo, Reachability, RelayLimits};

use super::handle::Handle;

/// How others reach a node, and what it does for them.
#[derive(Clone, Debug, Default)]
pub struct ReachConfig {
    /// Multiaddrs at which the owner says that others reach it.
    pub announce: Vec<String>,
    /// Peers to look for, and where they are.
    pub bootstrap: Vec<(NodeId, String)>,
    /// Relay for other members, within these bounds.
    pub relay: Option<RelayLimits>,
    /// Ask the router for an open port.
    pub upnp: bool,
    /// The largest blob that is fetched through a relay; the fabric's default when absent.
    pub relayed_blob_bytes: Option<u64>,
    /// How long nobody may be connected before it opens its listeners anew, and as long again before it builds its whole
    /// network anew; the fabric's defaults when absent.
    pub alone: Option<Duration>,
}

impl ReachConfig {
    pub(super) fn apply(&self, to: &mut fabric::Config) {
        to.announce.clone_from(&self.announce);
        to.relay = self.relay;
        to.upnp = self.upnp;
        if let Some(bytes) = self.relayed_blob_bytes {
            to.relayed_blob_bytes = bytes;
        }
        if let Some(time) = self.alone {
            (to.alone.reopen, to.alone.rebuild) = (time, time);
        }
    }
}

impl Handle {
    /// How others reach this node; nothing when it is stopping.
    pub async fn reachability(&self) -> Option<Reachability> {
        self.ways.fabric.reachability().await
    }

    /// The connections with other nodes.
    pub async fn links(&self) -> Vec<PeerInfo> {
        self.ways.fabric.peers().await
    }
}
