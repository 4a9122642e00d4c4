//! Who is let in: this node's own papers, the tickets it gave out, and the peers whose papers it has checked.
//!
//! A realm has one founder. Every member organisation holds a chain of grants from the founder to itself; whoever presents
//! a certificate of a member organisation and its chain is a peer. A ticket's secret buys an organisation one new grant, and a
//! node of the inviting organisation itself the membership that it has. What a revocation list takes back counts no longer,
//! whatever the papers say.

mod error;
mod guests;
mod heirs;
mod known;
mod lists;
mod papers;
mod tickets;

use std::collections::{BTreeMap, BTreeSet};

use catalog::cert::{
    Hello, HelloReply, Membership, NodeCert, RefuseCode, Revocations, Role, Ticket,
};
use catalog::{NodeId, OrgId, RealmId};

pub use self::error::JoinError;
use self::heirs::Heirs;
pub use self::known::Peer;
use self::lists::Lists;
pub use self::papers::Papers;
pub(super) use self::papers::{CERT_RENEW_MS, Standing};
use self::tickets::StoredTicket;

use super::message::encode;
use super::realms::{Guest, Realms};
use super::relations::{Relations, Stance};
use crate::store::batch::{Batch, Table};

/// How long a membership grant holds.
const GRANT_LIFE_MS: u64 = 5 * 365 * 24 * 3_600_000;
const REALM_KEY: &[u8] = b"realm";
const CERT_KEY: &[u8] = b"cert";

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct StoredRealm {
    realm: RealmId,
    grants: Vec<Vec<u8>>,
}

/// What else counts at the door: the owner's decisions, and who is here already.
pub(super) struct Door<'a> {
    pub relations: &'a Relations,
    pub connected: &'a BTreeSet<NodeId>,
    pub realms: &'a Realms,
}

/// How a greeting was taken.
#[derive(Debug)]
pub(super) enum Greeting {
    /// Its sender is a member.
    Member(Option<Membership>),
    /// It is a gateway of another realm.
    Guest(Box<Guest>),
}

/// See the module's documentation.
pub(super) struct Admission {
    standing: Standing,
    realm: RealmId,
    membership: Membership,
    tickets: BTreeMap<[u8; 32], StoredTicket>,
    peers: BTreeMap<NodeId, Peer>,
    lists: Lists,
    heirs: Heirs,
    batch: Batch,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("realm", &self.realm).finish_non_exhaustive()
    }
}

/// The names and papers this node speaks with.
#[derive(Clone)]
pub(super) struct Identity {
    pub me: NodeId,
    pub papers: Papers,
    pub org_name: String,
    pub node_name: String,
    /// What its certificate says that it is used for, when it makes that itself.
    pub roles: Vec<String>,
}

impl Admission {
    /// From what is stored; founds a realm of its own when nothing is.
    pub(super) fn recover(
        who: Identity,
        members: &[(Vec<u8>, Vec<u8>)],
        tickets: &[(Vec<u8>, Vec<u8>)],
        now_ms: u64,
        nonce: [u8; 16],
    ) -> Result<Self, super::RecoverError> {
        let row = |table| super::RecoverError::Row { table };
        let names = (who.org_name, who.node_name);
        let mut standing = Standing::new(who.me, names, (who.papers, who.roles), now_ms)?;
        let value = |key| members.iter().find(|(k, _)| k == key).map(|(_, value)| value);
        if let Some(renewed) = value(CERT_KEY) {
            // An older one than the home's counts no more.
            standing.take(renewed, now_ms);
        }
        let stored = value(REALM_KEY).map(|value| {
            ciborium::from_reader::<StoredRealm, _>(&value[..]).map_err(|_| row(Table::Members))
        });
        let mut batch = Batch::default();
        let (realm, membership) = match stored.transpose()? {
            Some(stored) => (stored.realm, Membership { grants: stored.grants }),
            None => {
                let (realm, membership) = standing.found(now_ms, nonce);
                batch.put(Table::Members, REALM_KEY, stored_realm(realm, &membership));
                (realm, membership)
            }
        };
        let mut known = BTreeMap::new();
        for (key, value) in tickets {
            let hash = key.as_slice().try_into().map_err(|_| row(Table::Tickets))?;
            let ticket = ciborium::from_reader(&value[..]).map_err(|_| row(Table::Tickets))?;
            known.insert(hash, ticket);
        }
        Ok(Self {
            standing,
            realm,
            membership,
            tickets: known,
            peers: BTreeMap::new(),
            lists: Lists::recover(members)?,
            heirs: Heirs::recover(members)?,
            batch,
        })
    }

    /// Renews the certificate when it is due. True when the hello changed.
    pub(super) fn renew(&mut self, now_ms: u64) -> bool {
        self.standing.renew(now_ms)
    }

    pub(super) fn next_renewal_ms(&self) -> u64 {
        self.standing.next_renewal_ms()
    }

    /// Takes a newer certificate of this node. True when it is one: then the hello changed.
    pub(super) fn take_cert(&mut self, bytes: &[u8], now_ms: u64) -> bool {
        let is_newer = self.standing.take(bytes, now_ms);
        if is_newer {
            self.batch.put(Table::Members, CERT_KEY, bytes.to_vec());
        }
        is_newer
    }

    /// A new certificate for an admitted node of this organisation, if this one can make any.
    pub(super) fn renew_for(&self, peer: NodeId, now_ms: u64) -> Option<Vec<u8>> {
        self.standing.renew_for(&self.peers.get(&peer)?.cert, now_ms)
    }

    /// Takes in a revocation list when it is newer than the one known, and returns the peers that it puts out.
    pub(super) fn revoke(&mut self, list: Revocations, bytes: &[u8]) -> Option<Vec<NodeId>> {
        if !self.lists.take(list.clone(), bytes, &mut self.batch) {
            return None;
        }
        self.heirs.unlearn(&list, &mut self.batch);
        let is_out = |peer: &Peer| self.lists.against(&peer.cert, &peer.membership).is_some();
        let out: Vec<NodeId> =
            self.peers.iter().filter(|(_, peer)| is_out(peer)).map(|(id, _)| *id).collect();
        out.iter().for_each(|id| drop(self.peers.remove(id)));
        Some(out)
    }

    /// Why peers no longer let this node in, as far as it knows.
    pub(super) fn revoked(&self) -> Option<String> {
        self.lists.against(self.standing.cert(), &self.membership)
    }

    pub(super) fn lists(&self) -> impl Iterator<Item = &Revocations> {
        self.lists.all()
    }

    pub(super) fn list_of(&self, org: OrgId) -> Option<&[u8]> {
        self.lists.bytes_of(org)
    }

    /// What this node presents on new connections.
    pub(super) fn hello(&self, secret: Option<[u8; 16]>) -> Hello {
        Hello {
            cert: self.cert_bytes().to_vec(),
            realm: self.realm,
            membership: self.membership.clone(),
            secret,
        }
    }

    /// Answers a greeting, and says how it was taken when the peer is let in.
    pub(super) fn greet(
        &mut self,
        peer: NodeId,
        payload: &[u8],
        door: &Door<'_>,
        now_ms: u64,
    ) -> (Option<Greeting>, Vec<u8>) {
        match self.examine(peer, payload, door, now_ms) {
            Ok(greeting) => {
                let granted = match &greeting {
                    Greeting::Member(granted) => granted.clone(),
                    Greeting::Guest(_) => None,
                };
                let reply = HelloReply::Accepted { hello: self.hello(None), granted };
                (Some(greeting), reply.encode())
            }
            Err((code, detail)) => (None, HelloReply::Refused { code, detail }.encode()),
        }
    }

    fn examine(
        &mut self,
        peer: NodeId,
        payload: &[u8],
        door: &Door<'_>,
        now_ms: u64,
    ) -> Result<Greeting, (RefuseCode, String)> {
        let hello = Hello::decode(payload).map_err(|e| (RefuseCode::Malformed, e.to_string()))?;
        let cert = NodeCert::verify(&hello.cert, now_ms)
            .map_err(|e| (RefuseCode::BadCert, e.to_string()))?;
        if cert.node != peer {
            return Err((RefuseCode::BadCert, "the certificate is another node's".to_owned()));
        }
        self.check_door(peer, cert.org, door)?;
        let is_here = hello.realm == self.realm;
        if let Some(detail) = self.lists.against(&cert, &hello.membership) {
            return Err((RefuseCode::Revoked, detail));
        }
        if let Some(detail) = self.heirs.against(peer, now_ms) {
            return Err((RefuseCode::Succeeded, detail));
        }
        let is_link = hello.secret.is_some_and(|secret| self.is_link_secret(&secret));
        if !is_here && (is_link || hello.secret.is_none()) {
            let guest = self.examine_guest(&hello, &cert, door, now_ms)?;
            // A node is in one realm: if it was in this one, it is no more.
            self.peers.remove(&peer);
            return Ok(Greeting::Guest(Box::new(guest)));
        }
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
        let leaver = self.leaver(peer, cert.org, door)?;
        self.learn_heir(&cert, now_ms).map_err(|old| {
            let detail =
                format!("another key has come after {old}, which this one names before it");
            (RefuseCode::Succeeded, detail)
        })?;
        let membership = granted.clone().unwrap_or(hello.membership);
        let known = Peer {
            cert_bytes: hello.cert,
            cert,
            membership,
            role,
            seen_ms: now_ms,
            has_lied: false,
        };
        self.meet(peer, known, leaver);
        Ok(Greeting::Member(granted))
    }

    /// What the owner and the room there is say of a peer.
    fn check_door(
        &self,
        peer: NodeId,
        org: OrgId,
        door: &Door<'_>,
    ) -> Result<(), (RefuseCode, String)> {
        self.leaver(peer, org, door)?;
        if org == self.org() {
            return Ok(());
        }
        let relation = door.relations.of(org);
        if relation.stance == Stance::Blocked {
            return Err((RefuseCode::Blocked, "this organisation is blocked here".to_owned()));
        }
        let is_other = |node: &&NodeId| {
            **node != peer && self.peers.get(*node).is_some_and(|known| known.cert.org == org)
        };
        let max = relation.nodes();
        if door.connected.iter().filter(is_other).take(max).count() >= max {
            let detail =
                format!("{max} nodes of this organisation are connected, no more are taken");
            return Err((RefuseCode::Full, detail));
        }
        Ok(())
    }

    /// Reads the answer to our greeting. With a ticket it makes this node a member of the ticket's realm (true); without
    /// one it only admits the peer (false).
    pub(super) fn handle_reply(
        &mut self,
        peer: NodeId,
        reply: &[u8],
        ticket: Option<&Ticket>,
        door: &Door<'_>,
        now_ms: u64,
    ) -> Result<bool, JoinError> {
        let bad = |detail: String| JoinError::BadReply { detail };
        let (hello, granted) = match HelloReply::decode(reply).map_err(|e| bad(e.to_string()))? {
            HelloReply::Accepted { hello, granted } => (hello, granted),
            HelloReply::Refused { code: RefuseCode::Pending, detail } => {
                return Err(JoinError::Pending { detail });
            }
            HelloReply::Refused { code, detail } => {
                return Err(JoinError::Refused { code: code.to_string(), detail });
            }
        };
        let cert = NodeCert::verify(&hello.cert, now_ms).map_err(|e| bad(e.to_string()))?;
        let realm = ticket.map_or(self.realm, |t| t.realm);
        if cert.node != peer
            || hello.realm != realm
            || door.relations.of(cert.org).stance == Stance::Blocked
        {
            return Err(bad(
                "it comes from another node, realm or a blocked organisation".to_owned()
            ));
        }
        if let Some(detail) = self.lists.against(&cert, &hello.membership) {
            return Err(JoinError::Revoked { detail });
        }
        if ticket.is_some_and(|t| t.org != cert.org) {
            return Err(bad("it comes from another organisation than the ticket's".to_owned()));
        }
        if let Some(detail) = self.heirs.against(peer, now_ms) {
            return Err(bad(detail));
        }
        let member =
            hello.membership.verify(realm, cert.org, now_ms).map_err(|e| bad(e.to_string()))?;
        let leaver = self.leaver(peer, cert.org, door).map_err(|(_, detail)| bad(detail))?;
        let learned = self.learn_heir(&cert, now_ms);
        learned
            .map_err(|old| bad(format!("it names {old} before it, which has another successor")))?;
        let has_joined = match (ticket, granted) {
            (Some(ticket), Some(membership)) => {
                membership
                    .verify(ticket.realm, self.org(), now_ms)
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
        let (cert_bytes, membership) = (hello.cert, hello.membership);
        let role = member.role;
        let known = Peer { cert_bytes, cert, membership, role, seen_ms: now_ms, has_lied: false };
        self.meet(peer, known, leaver);
        Ok(has_joined)
    }

    /// Takes in what a peer's papers say of the keys before its own.
    ///
    /// # Errors
    /// The key that another one came after already.
    pub(super) fn learn_heir(&mut self, cert: &NodeCert, now_ms: u64) -> Result<(), NodeId> {
        self.heirs.learn(cert, now_ms, &mut self.batch)
    }

    pub(super) const fn heirs(&self) -> &Heirs {
        &self.heirs
    }

    /// The pairs of older and newer keys that were learned since this was last called.
    pub(super) fn take_successions(&mut self) -> Vec<(NodeId, NodeId)> {
        self.heirs.take_news()
    }

    /// Whether a key is not let in any more, for another one has come after it.
    pub(super) fn is_over(&self, node: NodeId, now_ms: u64) -> bool {
        self.heirs.against(node, now_ms).is_some()
    }

    pub(super) fn identity(&self) -> catalog::Identity {
        let (cert, membership) = (self.cert_bytes().to_vec(), self.membership.clone());
        catalog::Identity { cert, membership }
    }

    pub(super) fn cert_bytes(&self) -> &[u8] {
        self.standing.cert_bytes()
    }

    pub(super) const fn standing(&self) -> &Standing {
        &self.standing
    }

    pub(super) const fn realm(&self) -> RealmId {
        self.realm
    }

    pub(super) const fn org(&self) -> OrgId {
        self.standing.org()
    }

    pub(super) fn take_batch(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }
}

fn stored_realm(realm: RealmId, membership: &Membership) -> Vec<u8> {
    encode(&StoredRealm { realm, grants: membership.grants.clone() })
}
