//! Who is there: peers that were met, and nodes that only their records tell of.

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
            trust: self.trust(entry.org).as_str().to_owned(),
            connected: false,
            addresses: self.directory.addresses(entry.author),
            last_error: self.directory.last_error(entry.author),
        });
        met.chain(unmet).collect()
    }
}
