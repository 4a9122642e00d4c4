//! Who is there: peers that were met, and nodes that only their records tell of.

use catalog::{NodeId, OrgId};
use scheduler::place::Trust;

use super::command::PeerView;
use super::dials::ORG_PEERS_MAX;
use super::directory::COMPUTE_KEY;
use super::good::{GoodPeer, worst};
use super::{Effect, Engine};

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
            is_neighbour: self.good.is_neighbour(*id),
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
            is_neighbour: false,
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

impl Engine {
    /// The good peers of the last run of the program, to dial first. Those of which nothing is to be kept any more.
    pub fn recall_peers(&mut self, now_ms: u64, peers: Vec<(NodeId, GoodPeer)>) -> Vec<NodeId> {
        let mut out = Vec::new();
        for (peer, good) in peers {
            let latest = self.admission.heirs().latest(peer);
            if latest == self.me || self.trust(good.org) == Trust::Blocked {
                out.push(peer);
                continue;
            }
            let (org, seen_ms) = (good.org, good.seen_ms.min(now_ms));
            if latest != peer || !self.good.restore(peer, good.clone(), now_ms) {
                out.push(peer);
            }
            out.extend(self.good.evict());
            let addresses = self.good.get(peer).map_or(good.addresses, |g| g.addresses.clone());
            self.learn_of(latest, Some(org), addresses);
            self.directory.note_seen(latest, seen_ms);
        }
        self.choose_neighbours();
        out
    }

    /// A peer is there.
    pub(super) fn learn(&mut self, peer: NodeId, addresses: Vec<String>) {
        self.learn_of(peer, self.org_of(peer), addresses);
    }

    fn learn_of(&mut self, peer: NodeId, org: Option<OrgId>, addresses: Vec<String>) {
        let org = org.or_else(|| self.directory.org(peer).flatten());
        if !addresses.is_empty() && self.make_room(peer, org) {
            self.directory.learn(peer, org, addresses);
        }
    }

    /// When too many are known, or too many of the same organisation, one that is away is forgotten for this one: of the same
    /// organisation, or neither of this organisation nor a partner's. False when all must stay: then nothing is learnt.
    fn make_room(&mut self, peer: NodeId, org: Option<OrgId>) -> bool {
        let known = self.directory.org(peer);
        if known == Some(org) {
            return true;
        }
        let is_own = org == Some(self.admission.org());
        let is_its = !is_own && self.directory.count(org) >= ORG_PEERS_MAX;
        if !is_its && (known.is_some() || !self.directory.is_full()) {
            return true;
        }
        let leaver = self.leaver(is_its.then_some(org));
        leaver.is_some_and(|leaver| {
            self.directory.forget(leaver);
            true
        })
    }

    /// Who is forgotten first, of those of one organisation (or of those that nobody knows whose they are) if it is given.
    fn leaver(&self, of: Option<Option<OrgId>>) -> Option<NodeId> {
        let is_dear =
            |org: OrgId| of.is_none() && matches!(self.trust(org), Trust::Own | Trust::Partner);
        let may_go = |(peer, org, _): &(NodeId, Option<OrgId>, u64)| {
            of.is_none_or(|of| of == *org)
                && !org.is_some_and(is_dear)
                && !self.connected.contains(peer)
                && !self.realms.is_connected(*peer)
        };
        worst(self.directory.forgettable().filter(may_go))
    }

    fn org_of(&self, peer: NodeId) -> Option<OrgId> {
        let met = self.admission.peer(peer).map(|known| known.cert.org);
        let met = met.or_else(|| self.good.get(peer).map(|good| good.org));
        met.or_else(|| self.catalog.node_cert(peer).map(|cert| cert.org))
    }

    /// A peer is connected, or was until now: when it is admitted, it is a good one.
    pub(super) fn note_good(&mut self, peer: NodeId, now_ms: u64) {
        let Some((org, has_lied)) = self.admission.peer(peer).map(|p| (p.cert.org, p.has_lied))
        else {
            return;
        };
        if self.make_room(peer, Some(org)) {
            self.directory.note_org(peer, org);
        }
        if has_lied || self.admission.heirs().of(peer).is_some() {
            return;
        }
        let addresses = self.directory.addresses(peer);
        let (news, forgotten) = self.good.note(peer, org, addresses, now_ms);
        self.out.list.extend(news.map(|good| Effect::Remember { peer, good }));
        self.out.list.extend(forgotten.map(|peer| Effect::Forget { peer }));
    }

    /// Nothing more is kept of a peer that lied.
    pub(super) fn forget_good(&mut self, peer: NodeId) {
        let was_good = self.good.forget(peer).is_some();
        if was_good {
            self.out.list.push(Effect::Forget { peer });
        }
        if was_good || self.good.is_neighbour(peer) {
            self.choose_neighbours();
        }
    }

    /// Nothing more is kept of the peers of an organisation.
    pub(super) fn forget_good_of(&mut self, org: OrgId) {
        let of: Vec<NodeId> = self.good.of(org).collect();
        of.into_iter().for_each(|peer| self.forget_good(peer));
    }

    /// A peer has come to another key: what was good of the one before is good of it.
    pub(super) fn succeed_good(&mut self, old: NodeId, new: NodeId, now_ms: u64) {
        let Some(good) = self.good.forget(old) else { return };
        self.out.list.push(Effect::Forget { peer: old });
        if self.good.get(new).is_none() {
            let (news, forgotten) = self.good.note(new, good.org, good.addresses, now_ms);
            self.out.list.extend(news.map(|good| Effect::Remember { peer: new, good }));
            self.out.list.extend(forgotten.map(|peer| Effect::Forget { peer }));
        }
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
        if self.good.is_neighbour(peer) {
            self.choose_neighbours();
        }
    }

    fn choose_neighbours(&mut self) {
        let own = self.admission.org();
        let met = self.connected.iter();
        let met = met.filter_map(|id| Some((*id, self.admission.peer(*id)?)));
        let met = met.filter(|(_, peer)| peer.cert.org != own && !peer.has_lied);
        let others = met.map(|(id, peer)| (id, peer.cert.org)).collect();
        let held = self.good.choose(&others, own);
        self.out.list.extend(held.map(|peers| Effect::Hold { peers }));
    }
}
