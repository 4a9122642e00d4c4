//! Links: how they are made, kept and ended, and who comes in by them.

use catalog::cert::LinkTicket;
use catalog::{NodeId, OrgId, RealmId};

use super::{
    Answer, GATEWAYS_MAX, Guest, LINK_KEY, Link, Realms, RealmsError, RealmsMessage, SPEAKER_KEY,
};
use crate::engine::admission::JoinError;
use crate::engine::command::Response;
use crate::engine::message::Bytes;
use crate::engine::relations::Stance;
use crate::engine::{CommandId, Effect, Engine};
use crate::store::batch::Table;

/// Addresses in a ticket.
const TICKET_ADDRESSES: usize = 8;

impl Realms {
    pub(in crate::engine) fn handle_disconnected(&mut self, peer: NodeId) {
        self.connected.remove(&peer);
        self.windows.remove(&peer);
    }

    /// A node that is a member now is no guest.
    pub(in crate::engine) fn forget_guest(&mut self, peer: NodeId) {
        self.guests.remove(&peer);
        self.connected.remove(&peer);
        self.links.values_mut().for_each(|link| drop(link.gateways.remove(&peer)));
    }
}

impl Engine {
    pub(super) fn invite_gateway(
        &mut self,
        terms: (u64, bool),
        secret: [u8; 16],
        now_ms: u64,
    ) -> Result<Answer, RealmsError> {
        self.admission.check_speaks(now_ms)?;
        let addresses = self.addresses.iter().take(TICKET_ADDRESSES).cloned().collect();
        let ticket = self.admission.invite_gateway(addresses, terms, secret, now_ms);
        Ok(Answer::Ticket(LinkTicket(ticket)))
    }

    pub(super) fn link(
        &mut self,
        id: CommandId,
        ticket: LinkTicket,
        now_ms: u64,
    ) -> Result<(), RealmsError> {
        self.admission.check_speaks(now_ms)?;
        let LinkTicket(inner) = &ticket;
        if inner.is_expired(now_ms) {
            return Err(RealmsError::Expired);
        }
        if inner.realm == self.admission.realm() || inner.node == self.me {
            return Err(RealmsError::SameRealm);
        }
        if self.realms.linking.is_some() {
            return Err(RealmsError::Busy);
        }
        if self.realms.is_full() && !self.realms.has_link(inner.realm) {
            return Err(RealmsError::Full);
        }
        let hello = self.admission.hello(Some(inner.secret)).encode();
        let (peer, addresses) = (inner.node, inner.addresses.clone());
        self.realms.linking = Some((id, ticket));
        self.out.list.push(Effect::Connect { peer, addresses, hello: Some(hello) });
        Ok(())
    }

    /// The end of an attempt to connect, when it was one to a gateway of another realm. True when it was.
    pub(in crate::engine) fn handle_guest_reply(
        &mut self,
        peer: NodeId,
        result: &Result<Vec<u8>, String>,
        now_ms: u64,
    ) -> bool {
        let linking = self.realms.linking.take_if(|(_, ticket)| ticket.0.node == peer);
        let expected = match &linking {
            Some((_, LinkTicket(ticket))) => Some((ticket.realm, Some(ticket.org))),
            None => self.realms.realm_of(peer).map(|realm| (realm, None)),
        };
        let Some(expected) = expected else { return false };
        let relations = &self.relations;
        let outcome = match result {
            Ok(reply) => self.admission.read_guest_reply(peer, reply, expected, relations, now_ms),
            Err(detail) => Err(JoinError::Unreachable { detail: detail.clone() }),
        };
        let error = outcome.as_ref().err().map(ToString::to_string);
        self.directory.handle_connect_ended(peer, error, now_ms);
        let outcome = match outcome {
            Ok(guest) => {
                let addresses = linking.as_ref().map(|(_, ticket)| ticket.0.addresses.clone());
                self.let_guest_in(peer, guest, addresses.unwrap_or_default(), now_ms);
                self.out.list.push(Effect::Admit { peer, is_guest: true });
                Ok(())
            }
            Err(JoinError::Unreachable { detail }) => Err(RealmsError::Unreachable { detail }),
            Err(error) => {
                self.out.list.push(Effect::Disconnect { peer });
                Err(match error {
                    JoinError::Pending { detail } => RealmsError::Pending { detail },
                    error => RealmsError::Refused { detail: error.to_string() },
                })
            }
        };
        if let Some((id, LinkTicket(ticket))) = linking {
            let answer = outcome.map(|()| Answer::Linked(self.link_view(ticket.realm)));
            let result = answer.map(Response::Realms).map_err(Into::into);
            self.out.list.push(Effect::Reply { id, result });
        }
        true
    }

    /// Takes in a gateway whose papers were checked, and links its realm if it was not.
    pub(in crate::engine) fn let_guest_in(
        &mut self,
        peer: NodeId,
        guest: Guest,
        addresses: Vec<String>,
        now_ms: u64,
    ) {
        let (realm, org) = (guest.realm, guest.cert.org);
        let org_name = guest.cert.org_name.clone();
        let is_new = !self.realms.has_link(realm);
        let fresh = || Link { org, org_name, since_ms: now_ms, gateways: Default::default() };
        let link = self.realms.links.entry(realm).or_insert_with(fresh);
        let has_room = link.gateways.len() < GATEWAYS_MAX || link.gateways.contains_key(&peer);
        let is_changed = has_room
            && link
                .gateways
                .get(&peer)
                .is_none_or(|known| !addresses.is_empty() && *known != addresses);
        if is_changed {
            link.gateways.insert(peer, addresses.clone());
        }
        if is_new || is_changed {
            self.realms.store(realm, &mut self.out.batch);
        }
        self.realms.guests.insert(peer, guest);
        // So that the directory notes what becomes of it, and dials it again.
        self.learn(peer, addresses);
        if self.realms.is_connected(peer) {
            self.greet_guest(peer, now_ms);
        }
    }

    pub(in crate::engine) fn handle_guest_connected(&mut self, peer: NodeId, now_ms: u64) {
        self.realms.connected.insert(peer);
        self.directory.handle_connected(peer);
        self.greet_guest(peer, now_ms);
    }

    /// Puts out the gateways that a decision or a revocation list speaks against since they came in.
    pub(in crate::engine) fn put_out_guests(&mut self) {
        let is_out = |guest: &Guest| {
            self.relations.of(guest.cert.org).stance == Stance::Blocked
                || self.admission.against(&guest.cert, &guest.membership).is_some()
        };
        let guests = self.realms.guests.iter().filter(|(_, guest)| is_out(guest));
        let gone: Vec<NodeId> = guests.map(|(node, _)| *node).collect();
        for peer in gone {
            self.realms.guests.remove(&peer);
            self.realms.connected.remove(&peer);
            self.realms.digests.forget_way(peer);
            self.out.list.push(Effect::Disconnect { peer });
        }
    }

    /// Where a gateway of a linked realm says that it is.
    pub(super) fn learn_gateway(&mut self, realm: RealmId, gateway: NodeId, addresses: &[String]) {
        let Some(link) = self.realms.links.get_mut(&realm).filter(|_| !addresses.is_empty()) else {
            return;
        };
        let is_known = link.gateways.contains_key(&gateway);
        if (is_known || link.gateways.len() < GATEWAYS_MAX)
            && link.gateways.get(&gateway).is_none_or(|known| known != addresses)
        {
            link.gateways.insert(gateway, addresses.to_vec());
            self.realms.store(realm, &mut self.out.batch);
            self.learn(gateway, addresses.to_vec());
        }
    }

    /// After a start: gateways of linked realms are dialled as peers are.
    pub(in crate::engine) fn look_for_gateways(&mut self, now_ms: u64) {
        if self.admission.check_speaks(now_ms).is_err() {
            return;
        }
        let links = self.realms.links.values();
        let known: Vec<_> = links.flat_map(|link| link.gateways.clone()).collect();
        known.into_iter().for_each(|(node, addresses)| self.learn(node, addresses));
    }

    pub(super) fn unlink(&mut self, realm: RealmId, now_ms: u64) -> Result<Answer, RealmsError> {
        let link = self.realms.links.remove(&realm).ok_or(RealmsError::NotLinked { realm })?;
        self.out.batch.delete(Table::Members, [LINK_KEY, realm.as_bytes()].concat());
        self.admission.forget_links(realm);
        let mut gone: Vec<NodeId> = link.gateways.into_keys().collect();
        let guests = self.realms.guests.iter().filter(|(_, guest)| guest.realm == realm);
        gone.extend(guests.map(|(node, _)| *node));
        gone.sort_unstable();
        gone.dedup();
        for peer in gone {
            self.realms.forget_guest(peer);
            self.realms.digests.forget_way(peer);
            self.directory.forget(peer);
            self.out.list.push(Effect::Disconnect { peer });
        }
        self.realms.digests.forget_realm(realm);
        Ok(Answer::Realm(Box::new(self.realm_view(now_ms))))
    }

    /// Lets a member organisation speak for the realm, and tells its nodes.
    pub(super) fn let_speak(&mut self, org: OrgId, now_ms: u64) -> Result<Answer, RealmsError> {
        if org != self.admission.org() {
            let grant = self.admission.let_speak(org, now_ms)?;
            let key = [SPEAKER_KEY, org.as_bytes()].concat();
            self.out.batch.put(Table::Members, key, grant.clone());
            self.realms.speakers.insert(org, grant);
            let connected: Vec<NodeId> = self.connected.iter().copied().collect();
            connected.into_iter().for_each(|peer| self.tell_speaker(peer, now_ms));
        }
        Ok(Answer::Realm(Box::new(self.realm_view(now_ms))))
    }

    /// Gives a peer the grant by which its organisation speaks for the realm, when it has not shown one.
    pub(in crate::engine) fn tell_speaker(&mut self, peer: NodeId, now_ms: u64) {
        let Some(known) = self.admission.peer(peer) else { return };
        let Some(grant) = self.realms.speakers.get(&known.cert.org) else { return };
        let (org, realm) = (known.cert.org, self.admission.realm());
        let has_it =
            known.membership.verify(realm, org, now_ms).is_ok_and(|member| member.is_gateway);
        if !has_it {
            let membership = self.admission.extended(grant);
            let grants = membership.grants.into_iter().map(Bytes).collect();
            self.send_realms(peer, RealmsMessage::LetSpeak { grants });
        }
    }

    /// A new membership of this organisation: checked like any other, whoever brings it.
    pub(super) fn take_grants(&mut self, grants: Vec<Bytes>, now_ms: u64) {
        let grants = grants.into_iter().map(|grant| grant.0).collect();
        if self.admission.take_membership(grants, now_ms) {
            let hello = self.admission.hello(None).encode();
            self.out.list.push(Effect::SetHello { hello });
        }
    }
}
