//! Nodes of a small realm, and a wire between two of them that counts what it carries.

use std::collections::VecDeque;

use catalog::cbor::{self, MapReader, MapWriter};
use catalog::cert::{Grant, Membership, NodeCert, Role, realm_id};
use catalog::papers::Papers;
use catalog::record::{Detail, Maturity, Resource, ServiceDetail, Visibility};
use catalog::replica::PUSH_LEN_MAX;
use catalog::sync::{SyncMessage, Synced};
use catalog::{Catalog, Change, Identity, Limits, NodeId, OrgId, RealmId};
use ed25519_dalek::SigningKey;

pub(crate) const NOW: u64 = 1_800_000_000_000;
pub(crate) const MINUTE: u64 = 60_000;
const NONCE: [u8; 16] = [9; 16];
const DAY: u64 = 24 * 60 * MINUTE;

pub(crate) fn key(kind: u8, seed: u16) -> SigningKey {
    let mut bytes = [kind; 32];
    bytes[..2].copy_from_slice(&seed.to_be_bytes());
    SigningKey::from_bytes(&bytes)
}

pub(crate) fn org_key(seed: u16) -> SigningKey {
    key(1, seed)
}

pub(crate) fn org(seed: u16) -> OrgId {
    org_key(seed).verifying_key().into()
}

/// The realm that organisation 0 founded.
pub(crate) fn realm() -> RealmId {
    realm_id(org(0), &NONCE)
}

pub(crate) fn grant(issuer: u16, member: u16) -> Vec<u8> {
    Grant {
        realm: realm(),
        founder_nonce: (issuer == member).then_some(NONCE),
        issuer: org(issuer),
        member: org(member),
        member_name: format!("Org {member}"),
        role: Role::Peer,
        not_before_ms: NOW - DAY,
        not_after_ms: NOW + 300 * DAY,
        serial: u64::from(member),
        issuer_cert: None,
    }
    .sign(&org_key(issuer))
}

pub(crate) fn membership(member: u16) -> Membership {
    let founder = Membership { grants: vec![grant(0, 0)] };
    if member == 0 { founder } else { founder.extend(grant(0, member)) }
}

pub(crate) fn cert(of_org: u16, node: NodeId, serial: u64) -> NodeCert {
    NodeCert {
        org: org(of_org),
        org_name: format!("Org {of_org}"),
        name: format!("node-{serial}"),
        node,
        generation: 1,
        roles: vec![],
        realms: vec![],
        not_before_ms: NOW - DAY,
        not_after_ms: NOW + 20 * DAY,
        serial,
        issuer: None,
        successions: None,
    }
}

pub(crate) struct Node {
    pub(crate) key: SigningKey,
    pub(crate) id: NodeId,
    pub(crate) org: OrgId,
    pub(crate) identity: Identity,
    pub(crate) catalog: Catalog,
}

impl Node {
    /// Node `seed` of the organisation of that number, in its first epoch.
    pub(crate) fn new(seed: u16) -> Self {
        Self::of(seed, seed)
    }

    pub(crate) fn of(of_org: u16, seed: u16) -> Self {
        let key = key(2, seed);
        let id: NodeId = key.verifying_key().into();
        let cert = cert(of_org, id, u64::from(seed)).sign(&org_key(of_org));
        let identity = Identity { cert, membership: membership(of_org) };
        let mut catalog = Catalog::new(id, realm(), Limits::default());
        catalog.restore_own(1, vec![]).unwrap();
        Self { key, id, org: org(of_org), identity, catalog }
    }

    pub(crate) fn publish(&mut self, changes: Vec<Change>) -> catalog::Published {
        self.publish_at(NOW, changes)
    }

    pub(crate) fn publish_at(&mut self, now_ms: u64, changes: Vec<Change>) -> catalog::Published {
        let mut published =
            self.catalog.publish(&self.key, &self.identity, now_ms, changes).unwrap();
        // So that a test may lose any of them. Without, the first carries them alone.
        published.push.iter_mut().for_each(|push| *push = with_papers(push, &self.papers()));
        published
    }

    pub(crate) fn papers(&self) -> Vec<u8> {
        let Identity { cert, membership } = self.identity.clone();
        Papers { author: self.id, cert, membership }.encode()
    }

    pub(crate) fn renew(&mut self, now_ms: u64) -> Option<Vec<u8>> {
        let push = self.catalog.renew(&self.key, &self.identity, now_ms)?;
        Some(with_papers(&push, &self.papers()))
    }

    /// What this node shows: author, key, name.
    pub(crate) fn shown(&self, now_ms: u64) -> Vec<(NodeId, String, String)> {
        self.catalog
            .resources(now_ms)
            .map(|e| (e.author, e.key.to_owned(), e.resource.name.clone()))
            .collect()
    }
}

/// A gossip message with papers beside the head.
pub(crate) fn with_papers(push: &[u8], papers: &Vec<u8>) -> Vec<u8> {
    let value = cbor::decode(push, PUSH_LEN_MAX).unwrap();
    let mut map = MapReader::new(&value).unwrap();
    let (head, records): (Vec<u8>, Vec<Vec<u8>>) = (map.take(1).unwrap(), map.take(2).unwrap());
    MapWriter::new().put(1, &head).put(2, &records).put(3, papers).encode()
}

pub(crate) fn service(key: &str, name: &str) -> Resource {
    Resource {
        key: key.to_owned(),
        name: name.to_owned(),
        short: String::new(),
        long: String::new(),
        logo: None,
        licence: None,
        terms: None,
        price: None,
        detail: Detail::Service(ServiceDetail {
            protocol: "http".to_owned(),
            version: String::new(),
            interface: None,
            region: "eu".to_owned(),
            maturity: Maturity::Stable,
            reach: None,
        }),
    }
}

pub(crate) fn put(key: &str, name: &str) -> Change {
    Change::Put(service(key, name), Visibility::Public)
}

pub(crate) fn put_for(key: &str, name: &str, orgs: &[u16]) -> Change {
    let orgs = orgs.iter().map(|seed| org(*seed)).collect();
    Change::Put(service(key, name), Visibility::Restricted(orgs))
}

pub(crate) fn delete(key: &str) -> Change {
    Change::Delete(key.to_owned())
}

/// What a round of sync cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// Sends a message through its encoding.
pub(crate) fn carried(message: &SyncMessage, cost: &mut Cost) -> SyncMessage {
    let mut bytes = Vec::new();
    ciborium::into_writer(message, &mut bytes).unwrap();
    cost.messages += 1;
    cost.bytes += bytes.len();
    assert!(bytes.len() <= 1 << 20, "a message of {} bytes", bytes.len());
    ciborium::from_reader(&bytes[..]).unwrap()
}

/// Lets `a` open a round with `b` and carries messages until both are silent.
pub(crate) fn sync(a: &mut Node, b: &mut Node, now_ms: u64) -> Cost {
    let mut cost = Cost::default();
    let mut queue = VecDeque::from([(false, a.catalog.start_sync())]);
    while let Some((to_a, message)) = queue.pop_front() {
        let message = carried(&message, &mut cost);
        assert!(cost.messages < 2000, "two nodes keep each other busy");
        let (to, from) = if to_a { (&mut *a, (b.id, b.org)) } else { (&mut *b, (a.id, a.org)) };
        let Synced { replies, faults, .. } = to.catalog.handle_sync(now_ms, from, message).unwrap();
        assert_eq!(faults, [], "an honest peer is never at fault");
        queue.extend(replies.into_iter().map(|reply| (!to_a, reply)));
    }
    cost
}

/// Delivers gossip messages; honest ones are never refused.
pub(crate) fn deliver(to: &mut Node, now_ms: u64, pushes: &[Vec<u8>]) {
    for push in pushes {
        to.catalog.handle_push(now_ms, push).unwrap();
    }
}
