//! Who is let in: this node's own papers, the tickets it gave out, and the peers whose papers it has checked.
//!
//! A realm has one founder. Every member organisation holds a chain of grants from the founder to itself; whoever presents
//! a certificate of a member organisation and its chain is a peer. A ticket's secret buys an organisation one new grant.

use std::collections::{BTreeMap, BTreeSet};

use catalog::Identity;
use catalog::cert::{
    Grant, Hello, HelloReply, Membership, NodeCert, RefuseCode, Role, Ticket, realm_id,
};
use catalog::{NodeId, OrgId, RealmId};
use ed25519_dalek::SigningKey;
use scheduler::place::Trust;

use super::message::encode;
use crate::store::batch::{Batch, Table};

/// How long a node certificate is made for; the longest that peers accept.
const CERT_LIFE_MS: u64 = 30 * 24 * 3_600_000;
/// A certificate is renewed when less than this is left.
const CERT_RENEW_MS: u64 = 10 * 24 * 3_600_000;
/// How long a membership grant holds.
const GRANT_LIFE_MS: u64 = 5 * 365 * 24 * 3_600_000;
/// Signed objects start this much in the past, for clocks that are a little behind.
const BACKDATE_MS: u64 = 60_000;
/// Tickets that wait to be used; at the bound the one that expires first is dropped.
const TICKETS_MAX: usize = 256;
/// Peers remembered; further ones are refused as full.
const PEERS_MAX: usize = 2_000;

const REALM_KEY: &[u8] = b"realm";

/// A peer whose papers were checked.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its certificate's exact bytes.
    pub cert_bytes: Vec<u8>,
    /// What they say.
    pub cert: NodeCert,
    /// As what its organisation was admitted.
    pub role: Role,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct StoredRealm {
    realm: RealmId,
    grants: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct StoredTicket {
    expires_ms: u64,
    used_by: Option<OrgId>,
}

/// Why a node cannot join a realm.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The ticket's time is over.
    #[error("the ticket has expired: ask for a new one with `opencloud invite`")]
    Expired,
    /// The ticket is this node's own.
    #[error("the ticket was made by this node: use it on another one")]
    Own,
    /// Already there.
    #[error("this node is already a member of {realm}")]
    Member {
        /// The realm.
        realm: RealmId,
    },
    /// Others are in this node's realm, and a node keeps one catalogue.
    #[error(
        "this node is already in {realm} with other organisations; join with a node of a fresh home instead"
    )]
    OtherRealm {
        /// The realm it is in.
        realm: RealmId,
    },
    /// The other side said no.
    #[error("the inviting node refused: {detail} ({code})")]
    Refused {
        /// Why, for programs.
        code: String,
        /// Why, for people.
        detail: String,
    },
    /// What came back does not make this node a member.
    #[error("the inviting node's answer is not valid: {detail}")]
    BadReply {
        /// What is wrong.
        detail: String,
    },
    /// Nobody answered.
    #[error("cannot reach the inviting node: {detail}")]
    Unreachable {
        /// What happened.
        detail: String,
    },
}

/// See the module's documentation.
pub(super) struct Admission {
    me: NodeId,
    org: OrgId,
    org_key: SigningKey,
    org_name: String,
    node_name: String,
    cert: NodeCert,
    cert_bytes: Vec<u8>,
    realm: RealmId,
    membership: Membership,
    tickets: BTreeMap<[u8; 32], StoredTicket>,
    peers: BTreeMap<NodeId, Peer>,
    blocked: BTreeSet<OrgId>,
    batch: Batch,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("realm", &self.realm).finish_non_exhaustive()
    }
}

/// The names and keys this node speaks with.
#[derive(Clone)]
pub(super) struct Papers {
    pub me: NodeId,
    pub org_key: SigningKey,
    pub org_name: String,
    pub node_name: String,
    pub blocked: BTreeSet<OrgId>,
}

impl Admission {
    /// From what is stored; founds a realm of its own when nothing is.
    pub(super) fn recover(
        papers: Papers,
        members: &[(Vec<u8>, Vec<u8>)],
        tickets: &[(Vec<u8>, Vec<u8>)],
        now_ms: u64,
        nonce: [u8; 16],
    ) -> Result<Self, super::RecoverError> {
        let org: OrgId = papers.org_key.verifying_key().into();
        let row = |table| super::RecoverError::Row { table };
        let stored = match members.iter().find(|(key, _)| key == REALM_KEY) {
            Some((_, value)) => Some(
                ciborium::from_reader::<StoredRealm, _>(&value[..])
                    .map_err(|_| row(Table::Members))?,
            ),
            None => None,
        };
        let mut batch = Batch::default();
        let (realm, membership) = match stored {
            Some(stored) => (stored.realm, Membership { grants: stored.grants }),
            None => found(&papers, org, now_ms, nonce, &mut batch),
        };
        let mut known = BTreeMap::new();
        for (key, value) in tickets {
            let hash = key.as_slice().try_into().map_err(|_| row(Table::Tickets))?;
            let ticket = ciborium::from_reader(&value[..]).map_err(|_| row(Table::Tickets))?;
            known.insert(hash, ticket);
        }
        let (cert, cert_bytes) = certify(&papers, org, now_ms);
        Ok(Self {
            me: papers.me,
            org,
            org_key: papers.org_key,
            org_name: papers.org_name,
            node_name: papers.node_name,
            cert,
            cert_bytes,
            realm,
            membership,
            tickets: known,
            peers: BTreeMap::new(),
            blocked: papers.blocked,
            batch,
        })
    }

    /// Renews the certificate when it is due. True when the hello changed.
    pub(super) fn renew(&mut self, now_ms: u64) -> bool {
        if self.cert.not_after_ms.saturating_sub(now_ms) >= CERT_RENEW_MS {
            return false;
        }
        let papers = Papers {
            me: self.me,
            org_key: self.org_key.clone(),
            org_name: self.org_name.clone(),
            node_name: self.node_name.clone(),
            blocked: BTreeSet::new(),
        };
        (self.cert, self.cert_bytes) = certify(&papers, self.org, now_ms);
        true
    }

    pub(super) fn next_renewal_ms(&self) -> u64 {
        self.cert.not_after_ms.saturating_sub(CERT_RENEW_MS) + 1
    }

    /// What this node presents on new connections.
    pub(super) fn hello(&self, secret: Option<[u8; 16]>) -> Hello {
        Hello {
            cert: self.cert_bytes.clone(),
            realm: self.realm,
            membership: self.membership.clone(),
            secret,
        }
    }

    /// Makes a ticket that one organisation can join with.
    pub(super) fn invite(
        &mut self,
        addresses: Vec<String>,
        valid_ms: u64,
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
        let ticket = StoredTicket { expires_ms, used_by: None };
        let hash = catalog::envelope::hash(&secret);
        self.tickets.insert(hash, ticket);
        self.batch.put(Table::Tickets, hash.to_vec(), encode(&ticket));
        Ticket {
            node: self.me,
            org: self.org,
            org_name: self.org_name.clone(),
            realm: self.realm,
            addresses,
            secret,
            expires_ms,
        }
    }

    /// Answers a greeting. True when the peer is let in.
    pub(super) fn greet(&mut self, peer: NodeId, payload: &[u8], now_ms: u64) -> (bool, Vec<u8>) {
        match self.examine(peer, payload, now_ms) {
            Ok(granted) => {
                (true, HelloReply::Accepted { hello: self.hello(None), granted }.encode())
            }
            Err((code, detail)) => (false, HelloReply::Refused { code, detail }.encode()),
        }
    }

    fn examine(
        &mut self,
        peer: NodeId,
        payload: &[u8],
        now_ms: u64,
    ) -> Result<Option<Membership>, (RefuseCode, String)> {
        let hello = Hello::decode(payload).map_err(|e| (RefuseCode::Malformed, e.to_string()))?;
        let cert = NodeCert::verify(&hello.cert, now_ms)
            .map_err(|e| (RefuseCode::BadCert, e.to_string()))?;
        if cert.node != peer {
            return Err((RefuseCode::BadCert, "the certificate is another node's".to_owned()));
        }
        if self.blocked.contains(&cert.org) {
            return Err((RefuseCode::Blocked, "this organisation is blocked here".to_owned()));
        }
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            return Err((RefuseCode::Full, "no more peers are taken".to_owned()));
        }
        let is_here = hello.realm == self.realm;
        let (role, granted) = match (
            is_here.then(|| hello.membership.verify(self.realm, cert.org, now_ms)),
            hello.secret,
        ) {
            (Some(Ok(member)), _) => (member.role, None),
            (_, Some(secret)) => (Role::Peer, Some(self.redeem(&cert, &secret, now_ms)?)),
            (Some(Err(e)), None) => return Err((RefuseCode::NotMember, e.to_string())),
            (None, None) => {
                return Err((RefuseCode::WrongRealm, format!("this node is in {}", self.realm)));
            }
        };
        self.peers.insert(peer, Peer { cert_bytes: hello.cert, cert, role });
        Ok(granted)
    }

    /// Takes a ticket's secret and grants membership for it. The same organisation may ask again: its reply was lost.
    fn redeem(
        &mut self,
        cert: &NodeCert,
        secret: &[u8; 16],
        now_ms: u64,
    ) -> Result<Membership, (RefuseCode, String)> {
        let hash = catalog::envelope::hash(secret);
        let Some(ticket) = self.tickets.get_mut(&hash) else {
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
        ticket.used_by = Some(cert.org);
        self.batch.put(Table::Tickets, hash.to_vec(), encode(ticket));
        let grant = Grant {
            realm: self.realm,
            founder_nonce: None,
            issuer: self.org,
            member: cert.org,
            member_name: cert.org_name.clone(),
            role: Role::Peer,
            not_before_ms: now_ms.saturating_sub(BACKDATE_MS),
            not_after_ms: now_ms + GRANT_LIFE_MS,
            serial: now_ms,
        };
        Ok(self.membership.extend(grant.sign(&self.org_key)))
    }

    /// Whether a ticket can be used here at all.
    pub(super) fn check_ticket(&self, ticket: &Ticket, now_ms: u64) -> Result<(), JoinError> {
        if ticket.node == self.me {
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

    /// Reads the answer to our greeting. With a ticket it makes this node a member of the ticket's realm (true); without
    /// one it only admits the peer (false).
    pub(super) fn handle_reply(
        &mut self,
        peer: NodeId,
        reply: &[u8],
        ticket: Option<&Ticket>,
        now_ms: u64,
    ) -> Result<bool, JoinError> {
        let bad = |detail: String| JoinError::BadReply { detail };
        let (hello, granted) = match HelloReply::decode(reply).map_err(|e| bad(e.to_string()))? {
            HelloReply::Accepted { hello, granted } => (hello, granted),
            HelloReply::Refused { code, detail } => {
                return Err(JoinError::Refused { code: code.to_string(), detail });
            }
        };
        let cert = NodeCert::verify(&hello.cert, now_ms).map_err(|e| bad(e.to_string()))?;
        let realm = ticket.map_or(self.realm, |t| t.realm);
        if cert.node != peer || hello.realm != realm || self.blocked.contains(&cert.org) {
            return Err(bad(
                "it comes from another node, realm or a blocked organisation".to_owned()
            ));
        }
        if ticket.is_some_and(|t| t.org != cert.org) {
            return Err(bad("it comes from another organisation than the ticket's".to_owned()));
        }
        let member =
            hello.membership.verify(realm, cert.org, now_ms).map_err(|e| bad(e.to_string()))?;
        let has_joined = match (ticket, granted) {
            (Some(ticket), Some(membership)) => {
                membership
                    .verify(ticket.realm, self.org, now_ms)
                    .map_err(|e| bad(e.to_string()))?;
                self.realm = ticket.realm;
                self.membership = membership;
                self.batch.put(
                    Table::Members,
                    REALM_KEY,
                    stored_realm(self.realm, &self.membership),
                );
                true
            }
            (Some(_), None) => return Err(bad("it grants no membership".to_owned())),
            (None, _) => false,
        };
        self.peers.insert(peer, Peer { cert_bytes: hello.cert, cert, role: member.role });
        Ok(has_joined)
    }

    pub(super) fn trust(&self, org: OrgId) -> Trust {
        if org == self.org {
            Trust::Own
        } else if self.blocked.contains(&org) {
            Trust::Blocked
        } else if self.peers.values().any(|p| p.cert.org == org && p.role == Role::Partner) {
            Trust::Partner
        } else {
            Trust::Peer
        }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity { cert: self.cert_bytes.clone(), membership: self.membership.clone() }
    }

    pub(super) fn cert_bytes(&self) -> &[u8] {
        &self.cert_bytes
    }

    pub(super) const fn realm(&self) -> RealmId {
        self.realm
    }

    pub(super) const fn org(&self) -> OrgId {
        self.org
    }

    pub(super) fn peer(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(&node)
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = (&NodeId, &Peer)> {
        self.peers.iter()
    }

    pub(super) fn take_batch(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }
}

fn stored_realm(realm: RealmId, membership: &Membership) -> Vec<u8> {
    encode(&StoredRealm { realm, grants: membership.grants.clone() })
}

/// A realm whose only member is its founder.
fn found(
    papers: &Papers,
    org: OrgId,
    now_ms: u64,
    nonce: [u8; 16],
    batch: &mut Batch,
) -> (RealmId, Membership) {
    let realm = realm_id(org, &nonce);
    let grant = Grant {
        realm,
        founder_nonce: Some(nonce),
        issuer: org,
        member: org,
        member_name: papers.org_name.clone(),
        role: Role::Partner,
        not_before_ms: now_ms.saturating_sub(BACKDATE_MS),
        not_after_ms: now_ms + 4 * GRANT_LIFE_MS,
        serial: now_ms,
    };
    let membership = Membership { grants: vec![grant.sign(&papers.org_key)] };
    batch.put(Table::Members, REALM_KEY, stored_realm(realm, &membership));
    (realm, membership)
}

fn certify(papers: &Papers, org: OrgId, now_ms: u64) -> (NodeCert, Vec<u8>) {
    let not_before_ms = now_ms.saturating_sub(BACKDATE_MS);
    let cert = NodeCert {
        org,
        org_name: papers.org_name.clone(),
        name: papers.node_name.clone(),
        node: papers.me,
        generation: 1,
        roles: Vec::new(),
        realms: Vec::new(),
        not_before_ms,
        not_after_ms: not_before_ms + CERT_LIFE_MS,
        serial: now_ms,
    };
    let bytes = cert.sign(&papers.org_key);
    (cert, bytes)
}
