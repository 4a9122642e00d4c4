//! Who is let in as a gateway of another realm. The page is [`crate::engine::realms`].

use catalog::cert::{
    GATEWAY_ROLE, Grant, Hello, HelloReply, Membership, NodeCert, RefuseCode, Role, Ticket,
};
use catalog::index::check_gateway;
use catalog::papers::Papers;
use catalog::{NodeId, OrgId, RealmId};

use super::tickets::StoredTicket;
use super::{Admission, Door, GRANT_LIFE_MS, JoinError, stored_realm};
use crate::engine::message::encode;
use crate::engine::realms::{Guest, RealmsError};
use crate::engine::relations::{Relations, Stance};
use crate::store::batch::Table;

use super::REALM_KEY;
use super::papers::BACKDATE_MS;

impl Admission {
    /// Why this node does not speak for its realm to others, when it does not.
    pub(in crate::engine) fn check_speaks(&self, now_ms: u64) -> Result<(), RealmsError> {
        if !self.standing.wants(GATEWAY_ROLE) {
            return Err(RealmsError::NoGateway);
        }
        if !self.standing.cert().is_gateway() {
            return Err(RealmsError::NoKey);
        }
        if self.may_realm_speak(now_ms) {
            Ok(())
        } else {
            Err(RealmsError::NotLet { org: self.org() })
        }
    }

    fn may_realm_speak(&self, now_ms: u64) -> bool {
        let member = self.membership.verify(self.realm, self.org(), now_ms);
        member.is_ok_and(|member| member.is_gateway)
    }

    /// This node's papers, as other realms check them.
    pub(in crate::engine) fn own_papers(&self) -> Papers {
        let (cert, membership) = (self.cert_bytes().to_vec(), self.membership.clone());
        Papers { author: self.standing.me(), cert, membership }
    }

    /// What of this node's realm or of others speaks against a gateway whose papers are in force.
    pub(in crate::engine) fn against(
        &self,
        cert: &NodeCert,
        membership: &Membership,
    ) -> Option<String> {
        self.lists.against(cert, membership)
    }

    /// A greeting of another realm: a guest, when its realm is linked or it brings a ticket for links.
    pub(super) fn examine_guest(
        &mut self,
        hello: &Hello,
        cert: &NodeCert,
        door: &Door<'_>,
        now_ms: u64,
    ) -> Result<Guest, (RefuseCode, String)> {
        let wrong = |detail: String| (RefuseCode::WrongRealm, detail);
        let is_linked = door.realms.has_link(hello.realm);
        if !is_linked && hello.secret.is_none() {
            return Err(wrong(format!("this node is in {}", self.realm)));
        }
        if let Err(error) = self.check_speaks(now_ms) {
            return Err(wrong(error.to_string()));
        }
        if !is_linked && door.realms.is_full() {
            return Err((RefuseCode::Full, RealmsError::Full.to_string()));
        }
        let (author, membership) = (cert.node, hello.membership.clone());
        let papers = Papers { author, cert: hello.cert.clone(), membership };
        check_gateway(hello.realm, &papers, now_ms)
            .map_err(|error| (RefuseCode::NotMember, error.to_string()))?;
        if let Some(secret) = &hello.secret {
            self.redeem_link(cert, hello.realm, secret, now_ms)?;
        }
        let membership = papers.membership;
        Ok(Guest { realm: hello.realm, cert: cert.clone(), membership })
    }

    /// Whether a secret is that of a ticket for links.
    pub(super) fn is_link_secret(&self, secret: &[u8; 16]) -> bool {
        self.tickets.get(&catalog::envelope::hash(secret)).is_some_and(|ticket| ticket.is_link)
    }

    /// Takes a ticket's secret for a link. The same organisation may ask again for the same realm: its reply was lost.
    fn redeem_link(
        &mut self,
        cert: &NodeCert,
        realm: RealmId,
        secret: &[u8; 16],
        now_ms: u64,
    ) -> Result<(), (RefuseCode, String)> {
        let hash = catalog::envelope::hash(secret);
        let Some(ticket) = self.tickets.get_mut(&hash).filter(|ticket| ticket.is_link) else {
            return Err((RefuseCode::BadTicket, "no such ticket was given out".to_owned()));
        };
        if now_ms > ticket.expires_ms {
            return Err((RefuseCode::ExpiredTicket, "the ticket has expired".to_owned()));
        }
        let is_used = ticket.used_by.is_some_and(|org| org != cert.org)
            || ticket.linked.is_some_and(|linked| linked != realm);
        if is_used {
            let detail = "the ticket was used by another organisation or for another realm";
            return Err((RefuseCode::UsedTicket, detail.to_owned()));
        }
        (ticket.used_by, ticket.linked) = (Some(cert.org), Some(realm));
        let verdict = if ticket.is_asking { ticket.verdict } else { Some(true) };
        ticket.asker = verdict.is_none().then(|| cert.org_name.clone());
        self.batch.put(Table::Tickets, hash.to_vec(), encode(ticket));
        match verdict {
            Some(true) => Ok(()),
            Some(false) => Err((RefuseCode::Blocked, "the owner of this node said no".to_owned())),
            None => {
                let detail = "the owner of this node has been asked whether to link";
                Err((RefuseCode::Pending, detail.to_owned()))
            }
        }
    }

    /// Makes a ticket that one gateway of another realm can link with.
    pub(in crate::engine) fn invite_gateway(
        &mut self,
        addresses: Vec<String>,
        terms: (u64, bool),
        secret: [u8; 16],
        now_ms: u64,
    ) -> Ticket {
        let ticket = self.invite(addresses, terms, secret, now_ms);
        let hash = catalog::envelope::hash(&secret);
        if let Some(stored) = self.tickets.get_mut(&hash) {
            stored.is_link = true;
            self.batch.put(Table::Tickets, hash.to_vec(), encode(stored));
        }
        ticket
    }

    /// Forgets the tickets that linked a realm, so that none links it again.
    pub(in crate::engine) fn forget_links(&mut self, realm: RealmId) {
        let is_of = |ticket: &StoredTicket| ticket.linked == Some(realm);
        let gone: Vec<[u8; 32]> =
            self.tickets.iter().filter(|(_, t)| is_of(t)).map(|(hash, _)| *hash).collect();
        for hash in gone {
            self.tickets.remove(&hash);
            self.batch.delete(Table::Tickets, hash.to_vec());
        }
    }

    /// Reads the answer of a gateway of `realm` to our greeting, of the organisation of a ticket if there is one.
    pub(in crate::engine) fn read_guest_reply(
        &self,
        peer: NodeId,
        reply: &[u8],
        (realm, org): (RealmId, Option<OrgId>),
        relations: &Relations,
        now_ms: u64,
    ) -> Result<Guest, JoinError> {
        let bad = |detail: String| JoinError::BadReply { detail };
        let hello = match HelloReply::decode(reply).map_err(|e| bad(e.to_string()))? {
            HelloReply::Accepted { hello, granted: None } => hello,
            HelloReply::Accepted { .. } => {
                return Err(bad("it admits to the realm instead of linking it".to_owned()));
            }
            HelloReply::Refused { code: RefuseCode::Pending, detail } => {
                return Err(JoinError::Pending { detail });
            }
            HelloReply::Refused { code, detail } => {
                return Err(JoinError::Refused { code: code.to_string(), detail });
            }
        };
        if hello.realm != realm {
            return Err(bad(format!("it is from {}, not from {realm}", hello.realm)));
        }
        let papers = Papers { author: peer, cert: hello.cert, membership: hello.membership };
        let cert = check_gateway(realm, &papers, now_ms).map_err(|e| bad(e.to_string()))?;
        if org.is_some_and(|org| org != cert.org)
            || relations.of(cert.org).stance == Stance::Blocked
        {
            return Err(bad("it comes from another or a blocked organisation".to_owned()));
        }
        match self.lists.against(&cert, &papers.membership) {
            Some(detail) => Err(JoinError::Revoked { detail }),
            None => Ok(Guest { realm, cert, membership: papers.membership }),
        }
    }

    /// A grant that lets the organisation of a member speak for the realm, when this node can give it.
    pub(in crate::engine) fn let_speak(
        &self,
        org: OrgId,
        now_ms: u64,
    ) -> Result<Vec<u8>, RealmsError> {
        let authority = self.standing.authority().ok_or(RealmsError::CannotLet)?;
        if !self.may_realm_speak(now_ms) {
            return Err(RealmsError::CannotLet);
        }
        let known = self.peers.values().find(|peer| peer.cert.org == org);
        let member_name = known.ok_or(RealmsError::NoMember { org })?.cert.org_name.clone();
        Ok(authority.grant(Grant {
            realm: self.realm,
            founder_nonce: None,
            issuer: authority.org(),
            member: org,
            member_name,
            role: Role::Gateway,
            not_before_ms: now_ms.saturating_sub(BACKDATE_MS),
            not_after_ms: now_ms + GRANT_LIFE_MS,
            serial: now_ms,
            issuer_cert: None,
        }))
    }

    /// The own membership with one more grant.
    pub(in crate::engine) fn extended(&self, grant: &[u8]) -> Membership {
        self.membership.extend(grant.to_vec())
    }

    /// Takes a membership by which this organisation may speak for the realm. True when it is one and there was none.
    pub(in crate::engine) fn take_membership(&mut self, grants: Vec<Vec<u8>>, now_ms: u64) -> bool {
        let membership = Membership { grants };
        let member = membership.verify(self.realm, self.org(), now_ms);
        let is_better =
            member.is_ok_and(|member| member.is_gateway) && !self.may_realm_speak(now_ms);
        if is_better && membership.revoked_by(|org| self.lists.of(org)).is_none() {
            self.membership = membership;
            let row = stored_realm(self.realm, &self.membership);
            self.batch.put(Table::Members, REALM_KEY, row);
            return true;
        }
        false
    }
}
