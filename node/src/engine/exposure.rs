//! Which peers may fetch what this node publishes: those who may see that it is there.
//!
//! Content may be published several times, as data and as images of disks; whoever sees one of them may have it. What a peer
//! may fetch for an agreement is no matter of this.

use std::collections::{BTreeMap, BTreeSet};

use catalog::record::{Detail, Visibility};
use catalog::{Digest, NodeId, OrgId};

use super::{Effect, Engine};

/// To whom content is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Reach {
    is_public: bool,
    /// Some, besides this organisation's own nodes.
    orgs: Option<BTreeSet<OrgId>>,
    /// Some, and nobody besides.
    nodes: BTreeSet<NodeId>,
}

impl Reach {
    fn add(&mut self, visibility: &Visibility) {
        match visibility {
            Visibility::Public => self.is_public = true,
            Visibility::Restricted(orgs) => {
                self.orgs.get_or_insert_default().extend(orgs.iter().copied());
            }
        }
    }

    fn has(&self, (node, org): (NodeId, OrgId), own: OrgId) -> bool {
        let is_of = |orgs: &BTreeSet<OrgId>| org == own || orgs.contains(&org);
        self.is_public || self.nodes.contains(&node) || self.orgs.as_ref().is_some_and(is_of)
    }
}

impl Engine {
    /// To whom published content is open, of those that `is_meant`.
    fn reaches(&self, is_meant: impl Fn(&Digest) -> bool) -> BTreeMap<Digest, Reach> {
        let mut found: BTreeMap<Digest, Reach> = BTreeMap::new();
        let data =
            self.own_resources.values().filter_map(|own| Some((own.data()?, &own.visibility)));
        for (digest, visibility) in data.filter(|(digest, _)| is_meant(digest)) {
            found.entry(digest).or_default().add(visibility);
        }
        for (digest, org) in self.variants.content().filter(|(digest, _)| is_meant(digest)) {
            found.entry(digest).or_default().add(&Visibility::Restricted(vec![org]));
        }
        for (_, disk) in self.disks.iter().filter(|(_, disk)| is_meant(&disk.detail.digest)) {
            if let Some(visibility) = disk.visibility() {
                found.entry(disk.detail.digest).or_default().add(&visibility);
            }
        }
        for (digest, orgs) in self.reached_by_areas().into_iter().filter(|(d, _)| is_meant(d)) {
            found.entry(digest).or_default().add(&Visibility::Restricted(orgs));
        }
        for (digest, is_public, nodes) in self.reached_by_copies() {
            if is_meant(&digest) {
                let reach = found.entry(digest).or_default();
                reach.is_public |= is_public;
                reach.nodes.extend(nodes);
            }
        }
        if self.keeps_personal() {
            self.keep_personal(&mut found);
        }
        found
    }

    /// Leaves personal data to this organisation's own nodes, however else its content is published.
    fn keep_personal(&self, found: &mut BTreeMap<Digest, Reach>) {
        let own = self.admission.org();
        let is_own = |node: &NodeId| self.admission.peer(*node).is_some_and(|p| p.cert.org == own);
        for resource in self.own_resources.values() {
            let is_personal = matches!(&resource.resource.detail, Detail::Data(d) if d.personal);
            if let Some(reach) = resource.data().and_then(|digest| found.get_mut(&digest))
                && is_personal
            {
                reach.is_public = false;
                reach.orgs = Some(BTreeSet::new());
                reach.nodes.retain(is_own);
            }
        }
    }

    /// Lets those fetch content who may now, and nobody else.
    pub(super) fn expose(&mut self, digest: Digest) {
        let reach = self.reaches(|found| *found == digest).remove(&digest).unwrap_or_default();
        self.open(digest, &reach);
    }

    /// The same for all that is published.
    pub(super) fn expose_all(&mut self) {
        for (digest, reach) in self.reaches(|_| true) {
            self.open(digest, &reach);
        }
    }

    /// The same for what a peer that has just been admitted may see and others may not.
    pub(super) fn expose_to(&mut self, peer: NodeId) {
        let Some(org) = self.admission.peer(peer).map(|peer| peer.cert.org) else { return };
        let (own, org) = (self.admission.org(), self.audience(org));
        for (digest, reach) in self.reaches(|_| true) {
            if !reach.is_public && reach.has((peer, org), own) {
                self.open(digest, &reach);
            }
        }
    }

    fn open(&mut self, digest: Digest, reach: &Reach) {
        let own = self.admission.org();
        let effect = if reach.is_public {
            Effect::Open { digest }
        } else if reach.orgs.is_some() || !reach.nodes.is_empty() {
            let may = |id, org| reach.has((id, self.audience(org)), own);
            let peers = self.admission.peers().filter(|(id, peer)| may(**id, peer.cert.org));
            Effect::OpenTo { digest, peers: peers.map(|(id, _)| *id).collect() }
        } else {
            Effect::Close { digest }
        };
        self.out.list.push(effect);
    }
}
