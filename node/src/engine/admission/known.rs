//! Which peers are remembered of those whose papers were checked, so that no organisation takes all the room.

use catalog::cert::{Membership, NodeCert, RefuseCode, Role};
use catalog::{NodeId, OrgId};

use super::{Admission, Door};
use crate::engine::good::worst;
use crate::engine::relations::Stance;

/// Peers remembered. At the bound one is forgotten that is away and neither of this organisation nor a partner's: of the organisation
/// that has most of them, the one that was not seen for longest. When all must stay, further ones are refused as full.
const PEERS_MAX: usize = 2_000;
/// Peers remembered of one organisation, but for the own one. At the bound the one of its own is forgotten that is away and was not
/// seen for longest; when all of them are connected, further ones are refused as full.
const ORG_PEERS_MAX: usize = 500;

/// A peer whose papers were checked.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its certificate's exact bytes.
    pub cert_bytes: Vec<u8>,
    /// What they say.
    pub cert: NodeCert,
    /// How its organisation is a member.
    pub membership: Membership,
    /// As what its organisation was admitted.
    pub role: Role,
    /// When it last came or went (Unix ms).
    pub seen_ms: u64,
    /// Whether a lie of it was proven since it was let in.
    pub has_lied: bool,
}

impl Admission {
    /// Who is forgotten so that there is room for a peer of an organisation; nobody while there is some.
    pub(super) fn leaver(
        &self,
        peer: NodeId,
        org: OrgId,
        door: &Door<'_>,
    ) -> Result<Option<NodeId>, (RefuseCode, String)> {
        if self.peers.contains_key(&peer) {
            return Ok(None);
        }
        let of_org = self.peers.values().filter(|known| known.cert.org == org);
        let is_its = org != self.org() && of_org.count() >= ORG_PEERS_MAX;
        if !is_its && self.peers.len() < PEERS_MAX {
            return Ok(None);
        }
        let may_go = |(id, known): &(&NodeId, &Peer)| {
            let of = known.cert.org;
            let is_dear = || of == self.org() || door.relations.of(of).stance == Stance::Partner;
            !door.connected.contains(*id) && if is_its { of == org } else { !is_dear() }
        };
        let away = self.peers.iter().filter(may_go);
        let worst = worst(away.map(|(id, known)| (*id, Some(known.cert.org), known.seen_ms)));
        let whose = if is_its { " of this organisation" } else { "" };
        let full = || (RefuseCode::Full, format!("no more peers{whose} are taken"));
        worst.map(Some).ok_or_else(full)
    }

    /// Remembers a peer, in the place of another one if that has to go.
    pub(super) fn meet(&mut self, peer: NodeId, known: Peer, leaver: Option<NodeId>) {
        if let Some(leaver) = leaver {
            self.peers.remove(&leaver);
        }
        self.peers.insert(peer, known);
    }

    /// A lie of the peer is proven.
    pub(in crate::engine) fn note_lie(&mut self, peer: NodeId) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.has_lied = true;
        }
    }

    /// The peer's last connection is closed.
    pub(in crate::engine) fn handle_disconnected(&mut self, peer: NodeId, now_ms: u64) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.seen_ms = now_ms;
        }
    }

    /// Forgets the peers of an organisation and returns them.
    pub(in crate::engine) fn drop_org(&mut self, org: OrgId) -> Vec<NodeId> {
        let of = self.peers.iter().filter(|(_, peer)| peer.cert.org == org);
        let gone: Vec<NodeId> = of.map(|(id, _)| *id).collect();
        gone.iter().for_each(|id| drop(self.peers.remove(id)));
        gone
    }

    pub(in crate::engine) fn forget(&mut self, peer: NodeId) {
        self.peers.remove(&peer);
    }

    pub(in crate::engine) fn peer(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(&node)
    }

    pub(in crate::engine) fn peers(&self) -> impl Iterator<Item = (&NodeId, &Peer)> {
        self.peers.iter()
    }
}
