//! Who is let in: this node's own papers, the tickets it gave out, and the peers whose papers it has checked.
//!
//! A realm has one founder. Every member organisation holds a chain of grants from the founder to itself; whoever presents
//! a certificate of a member organisation and its chain is a peer. A ticket's secret buys an organisation one new grant, and a
//! node of the inviting organisation itself the membership that it has. What a revocation list takes back counts no longer,
//! whatever the papers say.

mod error;
mod lists;
mod papers;

use std::collections::{BTreeMap, BTreeSet};

use catalog::cert::{
    Authority, Grant, Hello, HelloReply, Membership, NodeCert, RefuseCode, Revocations, Role,
    Ticket,
};
use catalog::{NodeId, OrgId, RealmId};

pub use self::error::JoinError;
use self::lists::Lists;
use self::papers::BACKDATE_MS;
pub use self::papers::Papers;
pub(super) use self::papers::{CERT_RENEW_MS, Standing};

use super::good::worst;
use super::message::encode;
use super::relations::{Relations, Stance};
use crate::store::batch::{Batch, Table};

/// How long a membership grant holds.
const GRANT_LIFE_MS: u64 = 5 * 365 * 24 * 3_600_000;
/// Tickets that wait to be used; at the bound the one that expires first is dropped.
const TICKETS_MAX: usize = 256;
/// Peers remembered. At the bound one that is away and no partner is forgotten: of the organisation that has most of them, the one
/// that was not seen for longest. Further ones are refused as full when all must stay.
const PEERS_MAX: usize = 2_000;
/// Peers of one organisation that are remembered. At the bound one of its own that is away is forgotten.
const ORG_PEERS_MAX: usize = 500;

const REALM_KEY: &[u8] = b"realm";
const CERT_KEY: &[u8] = b"cert";

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
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct StoredRealm {
    realm: RealmId,
    grants: Vec<Vec<u8>>,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct StoredTicket {
    expires_ms: u64,
    used_by: Option<OrgId>,
    /// Whether the owner decides about whoever comes with it.
    #[serde(default)]
    is_asking: bool,
    /// The name of who came, while the owner has not decided.
    #[serde(default)]
    asker: Option<String>,
    /// What the owner has decided.
    #[serde(default)]
    verdict: Option<bool>,
}

/// What else counts at the door: the owner's decisions, and who is here already.
pub(super) struct Door<'a> {
    pub relations: &'a Relations,
    pub connected: &'a BTreeSet<NodeId>,
}

/// See the module's documentation.
pub(super) struct Admission {
    standing: Standing,
    realm: RealmId,
    membership: Membership,
    tickets: BTreeMap<[u8; 32], StoredTicket>,
    peers: BTreeMap<NodeId, Peer>,
    lists: Lists,
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
        let mut standing = Standing::new(who.me, names, who.papers, now_ms)?;
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
        if !self.lists.take(list, bytes, &mut self.batch) {
            return None;
        }
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

    /// Makes a ticket that one organisation can join with.
    pub(super) fn invite(
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
        let ticket =
            StoredTicket { expires_ms, used_by: None, is_asking, asker: None, verdict: None };
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

    /// Answers a greeting. True when the peer is let in.
    pub(super) fn greet(
        &mut self,
        peer: NodeId,
        payload: &[u8],
        door: &Door<'_>,
        now_ms: u64,
    ) -> (bool, Vec<u8>) {
        match self.examine(peer, payload, door, now_ms) {
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
        door: &Door<'_>,
        now_ms: u64,
    ) -> Result<Option<Membership>, (RefuseCode, String)> {
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
        let membership = granted.clone().unwrap_or(hello.membership);
        let leaver = self.leaver(peer, cert.org, door)?;
        let known = Peer { cert_bytes: hello.cert, cert, membership, role, seen_ms: now_ms };
        self.meet(peer, known, leaver);
        Ok(granted)
    }

    /// Who is forgotten so that there is room for a peer of an organisation; nobody while there is some.
    fn leaver(
        &self,
        peer: NodeId,
        org: OrgId,
        door: &Door<'_>,
    ) -> Result<Option<NodeId>, (RefuseCode, String)> {
        if self.peers.contains_key(&peer) {
            return Ok(None);
        }
        let is_its =
            self.peers.values().filter(|known| known.cert.org == org).count() >= ORG_PEERS_MAX;
        if !is_its && self.peers.len() < PEERS_MAX {
            return Ok(None);
        }
        let may_go = |(id, known): &(&NodeId, &Peer)| {
            let of = known.cert.org;
            let is_dear = of == self.org() || door.relations.of(of).stance == Stance::Partner;
            !door.connected.contains(*id) && (if is_its { of == org } else { !is_dear })
        };
        let away = self.peers.iter().filter(may_go);
        let worst = worst(away.map(|(id, known)| (*id, Some(known.cert.org), known.seen_ms)));
        let full = || (RefuseCode::Full, "no more peers are taken".to_owned());
        worst.map(Some).ok_or_else(full)
    }

    fn meet(&mut self, peer: NodeId, known: Peer, leaver: Option<NodeId>) {
        if let Some(leaver) = leaver {
            self.peers.remove(&leaver);
        }
        self.peers.insert(peer, known);
    }

    /// The peer's last connection is closed.
    pub(super) fn handle_disconnected(&mut self, peer: NodeId, now_ms: u64) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.seen_ms = now_ms;
        }
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
    pub(super) fn askers(&self) -> impl Iterator<Item = (OrgId, &str)> {
        self.tickets.values().filter_map(|t| Some((t.used_by?, t.asker.as_deref()?)))
    }

    /// The owner's word about an organisation that waits for it. False when it does not.
    pub(super) fn decide(&mut self, org: OrgId, is_admitted: bool) -> bool {
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

    /// Forgets the peers of an organisation and returns them.
    pub(super) fn drop_org(&mut self, org: OrgId) -> Vec<NodeId> {
        let of = self.peers.iter().filter(|(_, peer)| peer.cert.org == org);
        let gone: Vec<NodeId> = of.map(|(id, _)| *id).collect();
        gone.iter().for_each(|id| drop(self.peers.remove(id)));
        gone
    }

    /// Whether a ticket can be used here at all.
    pub(super) fn check_ticket(&self, ticket: &Ticket, now_ms: u64) -> Result<(), JoinError> {
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
        let member =
            hello.membership.verify(realm, cert.org, now_ms).map_err(|e| bad(e.to_string()))?;
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
        let leaver = self.leaver(peer, cert.org, door).map_err(|(_, detail)| bad(detail))?;
        let role = member.role;
        let known = Peer { cert_bytes, cert, membership, role, seen_ms: now_ms };
        self.meet(peer, known, leaver);
        Ok(has_joined)
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
