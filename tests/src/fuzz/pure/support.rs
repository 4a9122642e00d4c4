//! What targets share: fixed keys, a fixed moment, and ways to make bytes that get beyond a signature.

use catalog::cert::{Grant, Membership, NodeCert, Role, realm_id};
use catalog::envelope::{self, Typ};
use catalog::papers::Papers;
use catalog::{Identity, NodeId, OrgId, RealmId};
use ed25519_dalek::SigningKey;

/// The moment at which targets read, Unix milliseconds.
pub(super) const NOW_MS: u64 = 1_800_000_000_000;
const DAY_MS: u64 = 24 * 3600 * 1000;
const NONCE: [u8; 16] = [9; 16];

/// The key of organisation and node alike: one key signs whatever a target has to have signed, so that bytes from nowhere get
/// as far as those of a member who lies.
pub(super) fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// Another key: that of the reader, or of a ledger's other party.
pub(super) fn other_key() -> SigningKey {
    SigningKey::from_bytes(&[8; 32])
}

pub(super) fn node() -> NodeId {
    key().verifying_key().into()
}

pub(super) fn other_node() -> NodeId {
    other_key().verifying_key().into()
}

pub(super) fn org() -> OrgId {
    key().verifying_key().into()
}

/// The realm that [`org`] founded.
pub(super) fn realm() -> RealmId {
    realm_id(org(), &NONCE)
}

/// A certificate of [`org`] for `node`.
pub(super) fn cert(node: NodeId) -> NodeCert {
    NodeCert {
        org: org(),
        org_name: "Acme".to_owned(),
        name: "rack-7".to_owned(),
        node,
        generation: 1,
        roles: vec!["edge".to_owned()],
        realms: vec![realm()],
        not_before_ms: NOW_MS - DAY_MS,
        not_after_ms: NOW_MS + 20 * DAY_MS,
        serial: 7,
        issuer: None,
        successions: None,
    }
}

/// The founder's grant to itself.
pub(super) fn grant() -> Grant {
    Grant {
        realm: realm(),
        founder_nonce: Some(NONCE),
        issuer: org(),
        member: org(),
        member_name: "Acme".to_owned(),
        role: Role::Peer,
        not_before_ms: NOW_MS - DAY_MS,
        not_after_ms: NOW_MS + 300 * DAY_MS,
        serial: 3,
        issuer_cert: None,
    }
}

pub(super) fn identity() -> Identity {
    Identity {
        cert: cert(node()).sign(&key()),
        membership: Membership { grants: vec![grant().sign(&key())] },
    }
}

/// The papers of [`node()`], which its heads name by their hash.
pub(super) fn papers() -> Vec<u8> {
    let Identity { cert, membership } = identity();
    Papers { author: node(), cert, membership }.encode()
}

/// The payload of something signed: what a target signs again after it was mutated.
pub(super) fn payload(typ: Typ, signed: &[u8]) -> Vec<u8> {
    let opened = envelope::open(signed, typ, signed.len());
    opened.expect("a seed is signed as its target says").payload().to_vec()
}

/// Several byte strings as one: each with its length before it, in two bytes.
pub(super) fn join<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        let part = part.as_ref();
        let len = u16::try_from(part.len()).expect("parts of seeds are short");
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// What [`join`] joined. Any bytes are parts of something: a length beyond the end takes what is left.
pub(super) fn split(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(rest.len());
        let (part, rest) = rest.split_at(len);
        parts.push(part);
        bytes = rest;
    }
    parts
}

/// CBOR of plain data, as messages are written.
pub(super) fn to_cbor<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("writing CBOR to memory cannot fail");
    bytes
}

/// Reads CBOR as messages between nodes are read.
pub(super) fn from_cbor<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    ciborium::de::from_reader_with_recursion_limit(bytes, 64).ok()
}
