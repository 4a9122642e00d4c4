//! The tickets that this node gave out: what their secrets buy, and how the owner decides about who brings one.

use catalog::cert::{Authority, Grant, Membership, NodeCert, RefuseCode, Role, Ticket};
use catalog::{OrgId, RealmId};

use super::papers::BACKDATE_MS;
use super::{Admission, GRANT_LIFE_MS, JoinError};
use crate::engine::message::encode;
use crate::store::batch::Table;

/// Tickets that wait to be used; at the bound the one that expires first is dropped.
const TICKETS_MAX: usize = 256;

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct StoredTicket {
    pub(super) expires_ms: u64,
    pub(super) used_by: Option<OrgId>,
    /// Whether the owner decides about whoever comes with it.
    #[serde(default)]
    pub(super) is_asking: bool,
    /// The name of who came, while the owner has not decided.
    #[serde(default)]
    pub(super) asker: Option<String>,
    /// What the owner has decided.
    #[serde(default)]
    pub(super) verdict: Option<bool>,
    /// Whether it links realms, and admits nobody.
    #[serde(default)]
    pub(super) is_link: bool,
    /// The realm that it linked.
    #[serde(default)]
    pub(super) linked: Option<RealmId>,
}

impl Admission {
    /// Makes a ticket that one organisation can join with.
    pub(in crate::engine) fn invite(
        &mut self,
        addresses: Vec<String>,
        (valid_ms, is_asking): (u64, bool),
        secret: [u8; 16],
        now_ms: u64,
    ) -> Ticket {
        self.tickets.retain(|_, t| t.expires_ms > now_ms);
        while self.tickets.len() >= TICKETS_MAX {
            let first =
                self.tickets.iter().min_by_key(|(_, t)| t.expires_ms).map(|(hash, _)| *hash);
            let Some(hash) = first else { break };
            self.tickets.remove(&hash);
            self.batch.delete(Table::Tickets, hash.to_vec());
        }
        let expires_ms = now_ms.saturating_add(valid_ms);
        let ticket = StoredTicket { expires_ms, is_asking, ..StoredTicket::default() };
        let hash = catalog::envelope::hash(&secret);
        self.batch.put(Table::Tickets, hash.to_vec(), encode(&ticket));
        self.tickets.insert(hash, ticket);
        Ticket {
            node: self.standing.me(),
            org: self.org(),
            org_name: self.standing.org_name().to_owned(),
            realm: self.realm,
            addresses,
            secret,
            expires_ms,
        }
    }

    /// Takes a ticket's secret and grants membership for it. The same organisation may ask again: its reply was lost.
    pub(super) fn redeem(
        &mut self,
        cert: &NodeCert,
        secret: &[u8; 16],
        now_ms: u64,
    ) -> Result<Membership, (RefuseCode, String)> {
        let hash = catalog::envelope::hash(secret);
        let Some(ticket) = self.tickets.get_mut(&hash).filter(|ticket| !ticket.is_link) else {
            return Err((RefuseCode::BadTicket, "no such ticket was given out".to_owned()));
        };
        if now_ms > ticket.expires_ms {
            return Err((RefuseCode::ExpiredTicket, "the ticket has expired".to_owned()));
        }
        if ticket.used_by.is_some_and(|org| org != cert.org) {
            return Err((
                RefuseCode::UsedTicket,
                "the ticket was used by another organisation".to_owned(),
            ));
        }
        if self.lists.of(self.standing.org()).is_some_and(|l| l.contains_key(cert.org.as_bytes())) {
            let detail = "this organisation was admitted here before, and that was taken back";
            return Err((RefuseCode::Revoked, detail.to_owned()));
        }
        let granted = if cert.org == self.standing.org() {
            self.membership.clone()
        } else {
            let Some(authority) = self.standing.authority() else {
                let detail = "the inviting node holds no key of its organisation, so it cannot admit another one";
                return Err((RefuseCode::BadTicket, detail.to_owned()));
            };
            self.membership.extend(admit(authority, self.realm, cert, now_ms))
        };
        ticket.used_by = Some(cert.org);
        let verdict = if ticket.is_asking && cert.org != self.standing.org() {
            ticket.verdict
        } else {
            Some(true)
        };
        ticket.asker = verdict.is_none().then(|| cert.org_name.clone());
        self.batch.put(Table::Tickets, hash.to_vec(), encode(ticket));
        match verdict {
            Some(true) => Ok(granted),
            Some(false) => Err((RefuseCode::Blocked, "the owner of this node said no".to_owned())),
            None => {
                let detail = "the owner of this node has been asked whether you may come in";
                Err((RefuseCode::Pending, detail.to_owned()))
            }
        }
    }

    /// Organisations that wait for the owner's word, with their names.
    pub(in crate::engine) fn askers(&self) -> impl Iterator<Item = (OrgId, &str)> {
        self.tickets.values().filter_map(|t| Some((t.used_by?, t.asker.as_deref()?)))
    }

    /// The owner's word about an organisation that waits for it. False when it does not.
    pub(in crate::engine) fn decide(&mut self, org: OrgId, is_admitted: bool) -> bool {
        let mut is_known = false;
        for (hash, ticket) in &mut self.tickets {
            if ticket.used_by == Some(org) && ticket.asker.take().is_some() {
                ticket.verdict = Some(is_admitted);
                self.batch.put(Table::Tickets, hash.to_vec(), encode(ticket));
                is_known = true;
            }
        }
        is_known
    }

    /// Whether a ticket can be used here at all.
    pub(in crate::engine) fn check_ticket(
        &self,
        ticket: &Ticket,
        now_ms: u64,
    ) -> Result<(), JoinError> {
        if ticket.node == self.standing.me() {
            return Err(JoinError::Own);
        }
        if ticket.is_expired(now_ms) {
            return Err(JoinError::Expired);
        }
        if ticket.realm == self.realm {
            return Err(JoinError::Member { realm: self.realm });
        }
        if self.membership.grants.len() > 1 || !self.peers.is_empty() || self.was_joined() {
            return Err(JoinError::OtherRealm { realm: self.realm });
        }
        Ok(())
    }

    fn was_joined(&self) -> bool {
        self.tickets.values().any(|t| t.used_by.is_some())
    }
}

/// The grant that admits the organisation of a certificate.
fn admit(authority: &Authority, realm: RealmId, cert: &NodeCert, now_ms: u64) -> Vec<u8> {
    authority.grant(Grant {
        realm,
        founder_nonce: None,
        issuer: authority.org(),
        member: cert.org,
        member_name: cert.org_name.clone(),
        role: Role::Peer,
        not_before_ms: now_ms.saturating_sub(BACKDATE_MS),
        not_after_ms: now_ms + GRANT_LIFE_MS,
        serial: now_ms,
        issuer_cert: None,
    })
}
