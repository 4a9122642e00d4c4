//! Who is there: peers that were met, and nodes that only their records tell of.

use catalog::{NodeId, OrgId};
use scheduler::place::Trust;

use super::command::PeerView;
use super::directory::COMPUTE_KEY;
use super::good::{GoodPeer, NEIGHBOURS, worst};
use super::{Effect, Engine};

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
            is_neighbour: self.good.neighbours().contains_key(id),
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
            is_neighbour: false,
        });
        met.chain(unmet).collect()
    }
}

impl Engine {
    /// A good peer of the last run of the program, to dial first.
    pub fn recall_peer(&mut self, peer: NodeId, good: GoodPeer) {
        if peer != self.me {
            self.learn(peer, good.addresses.clone());
            self.good.restore(peer, good);
        }
    }

    /// A peer is there. When too many are known, one that is away and neither of this organisation nor a partner's is forgotten.
    pub(super) fn learn(&mut self, peer: NodeId, addresses: Vec<String>) {
        let leaver = if self.directory.is_full_for(peer) { self.leaver() } else { None };
        if let Some(leaver) = leaver {
            self.directory.forget(leaver);
        }
        self.directory.learn(peer, addresses);
    }

    fn leaver(&self) -> Option<NodeId> {
        let about = self.directory.forgettable().filter_map(|(peer, seen_ms)| {
            let org = self.org_of(peer);
            let is_dear =
                org.is_some_and(|org| matches!(self.trust(org), Trust::Own | Trust::Partner));
            (!is_dear && !self.connected.contains(&peer)).then_some((peer, org, seen_ms))
        });
        worst(about)
    }

    fn org_of(&self, peer: NodeId) -> Option<OrgId> {
        let met = self.admission.peer(peer).map(|known| known.cert.org).or(self.good.org(peer));
        met.or_else(|| self.catalog.node_cert(peer).map(|cert| cert.org))
    }

    /// A peer is connected, or was until now: when it is admitted, it is a good one.
    pub(super) fn note_good(&mut self, peer: NodeId, now_ms: u64) {
        let Some(org) = self.admission.peer(peer).map(|known| known.cert.org) else {
            return;
        };
        let addresses = self.directory.addresses(peer);
        let (news, forgotten) = self.good.note(peer, org, &addresses, now_ms);
        self.out.list.extend(news.map(|good| Effect::Remember { peer, good }));
        self.out.list.extend(forgotten.map(|peer| Effect::Forget { peer }));
    }

    /// Nothing more is kept of a peer that was put out.
    pub(super) fn forget_good(&mut self, peer: NodeId) {
        self.directory.forget(peer);
        if self.good.forget(peer) {
            self.out.list.push(Effect::Forget { peer });
        }
    }

    /// Whether a peer that is away may become a neighbour that is missing: one of an organisation that has none among them.
    pub(super) fn may_be_neighbour(&self, peer: NodeId) -> bool {
        self.org_of(peer).is_some_and(|org| {
            org != self.admission.org()
                && self.good.neighbours().len() < NEIGHBOURS
                && !self.good.neighbours().values().any(|own| *own == org)
        })
    }

    /// A peer is connected: it may be a better neighbour than those there are.
    pub(super) fn choose(&mut self, peer: NodeId) {
        let org = self.admission.peer(peer).map(|known| known.cert.org);
        if org.is_some_and(|org| org != self.admission.org() && self.good.may_take(org)) {
            self.choose_neighbours();
        }
    }

    /// A peer is gone: another one takes its place, if it was a neighbour.
    pub(super) fn unchoose(&mut self, peer: NodeId) {
        if self.good.neighbours().contains_key(&peer) {
            self.choose_neighbours();
        }
    }

    fn choose_neighbours(&mut self) {
        let own = self.admission.org();
        let met = self.connected.iter();
        let met = met.filter_map(|id| Some((*id, self.admission.peer(*id)?.cert.org)));
        let others = met.filter(|(_, org)| *org != own).collect();
        if self.good.choose(&others) {
            let peers = self.good.neighbours().keys().copied().collect();
            self.out.list.push(Effect::Hold { peers });
        }
    }
}
