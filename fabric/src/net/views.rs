//! What the network task tells of its peers.

use std::collections::BTreeMap;
use std::time::Instant;

use super::actor::Actor;
use crate::event::{Path, PeerInfo};
use crate::key::PeerKey;
use crate::peers::Entry;
use crate::terms::of_group;

impl Actor {
    pub(super) fn on_peers(&self) -> Vec<PeerInfo> {
        let now = Instant::now();
        let gossip = &self.swarm.behaviour().gate.inner.gossip;
        let score = |peer: PeerKey| {
            // Saturates; the score is a small number.
            let gossip = gossip.peer_score(&peer.to_peer_id()).unwrap_or(0.0).round() as i64;
            self.peers.points(now, peer).saturating_add(gossip)
        };
        let mut all: BTreeMap<PeerKey, PeerInfo> = BTreeMap::new();
        for (peer, entry) in self.peers.iter() {
            let conns = entry.conns.values();
            let info = PeerInfo {
                peer,
                addresses: conns
                    .clone()
                    .map(|c| &c.address)
                    .chain(&entry.listens)
                    .cloned()
                    .collect(),
                admitted: entry.is_announced,
                path: path(entry),
                relayed_bytes: self.reaching.relayed_for(peer),
                inbound: conns.clone().next().is_some_and(|c| c.inbound),
                rtt_us: conns.filter_map(|c| c.pings.last()).min(),
                score: score(peer),
                banned: self.peers.banned_for(now, peer),
                bytes_in: entry.bytes_in,
                bytes_out: entry.bytes_out,
            };
            all.insert(peer, info);
        }
        for (peer, left) in self.peers.banned(now) {
            all.entry(peer).or_insert_with(|| PeerInfo {
                peer,
                addresses: Vec::new(),
                admitted: false,
                path: Path::None,
                relayed_bytes: self.reaching.relayed_for(peer),
                inbound: false,
                rtt_us: None,
                score: score(peer),
                banned: Some(left),
                bytes_in: 0,
                bytes_out: 0,
            });
        }
        all.into_values().collect()
    }

    /// Whether the peer's group has more connections than one may have, this peer's among them.
    pub(super) fn is_group_full(&self, peer: PeerKey) -> bool {
        let Some(group) = self.terms.group(peer) else {
            return false;
        };
        let limits = &self.config.limits;
        let same = self.peers.iter().filter(|(peer, _)| self.terms.group(*peer) == Some(group));
        let conns: usize = same.map(|(_, entry)| entry.conns.len()).sum();
        conns > of_group(limits.established, limits.per_peer) as usize
    }

    /// Whether everything to the peer goes through a relay.
    pub(super) fn is_only_relayed(&self, peer: PeerKey) -> bool {
        self.peers.get(peer).is_some_and(|entry| matches!(path(entry), Path::Relayed { .. }))
    }
}

fn path(entry: &Entry) -> Path {
    let mut conns = entry.conns.values();
    if conns.clone().any(|conn| !conn.is_relayed) {
        return Path::Direct;
    }
    match conns.next() {
        Some(conn) => Path::Relayed { by: conn.relay },
        None => Path::None,
    }
}
