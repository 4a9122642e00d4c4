//! Revocation lists across links, so that a gateway that was revoked is no guest of other realms either. The page is [`super`].

use std::collections::{BTreeMap, BTreeSet};

use catalog::cert::{Membership, NodeCert, Revocations};
use catalog::{NodeId, OrgId};

use super::{Realms, RealmsMessage};
use crate::engine::Engine;
use crate::engine::message::Bytes;

/// Organisations that one message asks about, and lists that one brings; further ones are left out. A list has less than four
/// kilobytes, so they fit into a message.
const LISTS_MAX: usize = 128;

/// The papers of a gateway, as far as lists are about them.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    cert: NodeCert,
    membership: Membership,
    /// Who can take something of them back.
    orgs: BTreeSet<OrgId>,
}

impl Shown {
    pub(super) fn new(cert: NodeCert, membership: Membership) -> Self {
        let orgs = orgs_in(&cert, &membership);
        Self { cert, membership, orgs }
    }

    pub(super) fn orgs(&self) -> BTreeSet<OrgId> {
        self.orgs.clone()
    }
}

fn orgs_in(cert: &NodeCert, membership: &Membership) -> BTreeSet<OrgId> {
    membership.members().into_iter().chain([cert.org]).collect()
}

impl Realms {
    /// Who can take back papers of gateways of other realms that are known here.
    pub(super) fn orgs_across(&self) -> BTreeSet<OrgId> {
        let guests = self.guests.values().flat_map(|guest| orgs_in(&guest.cert, &guest.membership));
        let held = self.digests.held.values().flat_map(|held| held.shown.orgs.iter().copied());
        guests.chain(held).collect()
    }
}

impl Engine {
    /// Whether papers of gateways that crossed a link, in this direction or in that one, hang on an organisation.
    pub(in crate::engine) fn is_shown_across(&self, org: OrgId) -> bool {
        if self.realms.connected.is_empty() {
            return false;
        }
        let own = self.admission.own_papers().membership.members().contains(&org);
        let mut gateways = self.admission.peers().filter(|(_, peer)| peer.cert.is_gateway());
        own || org == self.admission.org()
            || gateways.any(|(_, peer)| orgs_in(&peer.cert, &peer.membership).contains(&org))
            || self.realms.orgs_across().contains(&org)
    }

    /// Asks a guest for newer lists of these organisations.
    pub(super) fn ask_lists(&mut self, guest: NodeId, orgs: BTreeSet<OrgId>) {
        let lists: BTreeMap<OrgId, u64> =
            self.admission.lists().map(|list| (list.org, list.serial)).collect();
        let held: Vec<(OrgId, u64)> = orgs
            .into_iter()
            .take(LISTS_MAX)
            .map(|org| (org, lists.get(&org).copied().unwrap_or(0)))
            .collect();
        if !held.is_empty() {
            self.send_realms(guest, RealmsMessage::AskLists { held });
        }
    }

    /// Tells a guest of newer lists than it has.
    pub(super) fn answer_lists(&mut self, from: NodeId, held: &[(OrgId, u64)], now_ms: u64) {
        if !self.realms.count_ask(from, now_ms) || self.admission.check_speaks(now_ms).is_err() {
            return;
        }
        let newer = |(org, number): &(OrgId, u64)| {
            let known = self.admission.lists().find(|list| list.org == *org)?;
            (known.serial > *number).then(|| self.admission.list_of(*org))?
        };
        let lists: Vec<Bytes> = held
            .iter()
            .take(LISTS_MAX)
            .filter_map(newer)
            .map(|list| Bytes(list.to_vec()))
            .collect();
        if !lists.is_empty() {
            self.send_realms(from, RealmsMessage::Lists { lists });
        }
    }

    /// Lists that a guest brings. What is not about papers that are known here is left alone.
    pub(super) fn learn_lists_across(&mut self, from: NodeId, lists: &[Bytes], now_ms: u64) {
        if !self.realms.count_ask(from, now_ms) {
            return;
        }
        let about = self.realms.orgs_across();
        for bytes in lists.iter().take(LISTS_MAX) {
            let list = match Revocations::verify(&bytes.0) {
                Ok(list) => list,
                Err(error) => return self.penalize(from, error.to_string()),
            };
            if about.contains(&list.org) || self.admission.list_of(list.org).is_some() {
                // It was verified.
                drop(self.take_list(&bytes.0, now_ms));
            }
        }
    }

    /// Tells every guest of a list that was not known.
    pub(in crate::engine) fn tell_list(&mut self, bytes: &[u8], now_ms: u64) {
        if self.admission.check_speaks(now_ms).is_err() {
            return;
        }
        let guests: Vec<NodeId> = self.realms.connected.iter().copied().collect();
        for guest in guests {
            let lists = vec![Bytes(bytes.to_vec())];
            self.send_realms(guest, RealmsMessage::Lists { lists });
        }
    }

    /// Forgets the digests of gateways whose papers an organisation has taken back.
    pub(in crate::engine) fn forget_revoked_across(&mut self, org: OrgId) {
        let admission = &self.admission;
        self.realms.digests.held.retain(|_, held| {
            let shown = &held.shown;
            !shown.orgs.contains(&org)
                || admission.against(&shown.cert, &shown.membership).is_none()
        });
    }
}
