//! Who is there: peers that were met, and nodes that only their records tell of.

use catalog::NodeId;

use super::Engine;
use super::command::PeerView;
use super::directory::COMPUTE_KEY;

impl Engine {
    /// The peers whose papers were checked, and the nodes that publish where they are and were never met.
    pub(super) fn peer_list(&self, now_ms: u64) -> Vec<PeerView> {
        let met = self.admission.peers().map(|(id, peer)| PeerView {
            id: *id,
            name: peer.cert.name.clone(),
            org: peer.cert.org,
            org_name: peer.cert.org_name.clone(),
            generation: peer.cert.generation,
            former_until_ms: self.former_until(*id, now_ms),
            trust: self.trust(peer.cert.org).as_str().to_owned(),
            connected: self.connected.contains(id),
            addresses: self.directory.addresses(*id),
            last_error: self.directory.last_error(*id),
        });
        let unmet = self.catalog.resources(now_ms).filter(|entry| {
            entry.author != self.me
                && entry.key == COMPUTE_KEY
                && self.admission.peer(entry.author).is_none()
        });
        let unmet = unmet.map(|entry| PeerView {
            id: entry.author,
            name: entry.node_name.to_owned(),
            org: entry.org,
            org_name: entry.org_name.to_owned(),
            generation: self.catalog.node_cert(entry.author).map_or(1, |cert| cert.generation),
            former_until_ms: self.former_until(entry.author, now_ms),
            trust: self.trust(entry.org).as_str().to_owned(),
            connected: false,
            addresses: self.directory.addresses(entry.author),
            last_error: self.directory.last_error(entry.author),
        });
        met.chain(unmet).collect()
    }

    /// Until when the key, if another one has come after it, or the one before it is let in.
    fn former_until(&self, node: NodeId, now_ms: u64) -> Option<u64> {
        let heirs = self.admission.heirs();
        let own = heirs.of(node).map(|known| known.until_ms());
        let before = heirs.all().filter(|(_, known)| known.heir == node);
        own.or_else(|| before.map(|(_, known)| known.until_ms()).filter(|at| *at > now_ms).max())
    }
}
