//! The one envelope of everything signed: `COSE_Sign1` (RFC 9052) with Ed25519 (−19, RFC 9864).
//!
//! The protected header holds the algorithm, a key hint and the explicit type (`typ`, RFC 9596), which separates domains: a
//! signature over a quote can never pass for one over a certificate. The unprotected header and the external AAD are empty.
//! Exact bytes are signed, stored and forwarded; nothing is ever re-encoded to verify it. As the header has one form only, an
//! envelope is read where it lies, byte for byte.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use crate::cbor::{self, Field as _, Item};

/// The protected header `{1: -19, 4: kid, 16: typ}` up to the eight bytes of its key hint.
const HEADER_START: [u8; 5] = [0xa3, 0x01, 0x32, 0x04, 0x48];
/// Key 16 of the header, after the hint: the explicit type (RFC 9596).
const TYP_KEY: u8 = 0x10;
/// Length of the key hint in bytes.
const HINT_LEN: usize = 8;
/// The array of four that a `COSE_Sign1` is.
const SIGN1_HEAD: u8 = 0x84;
/// The empty map that the unprotected header is.
const EMPTY_MAP: u8 = 0xa0;
/// What the signature is over begins like this (RFC 9052 §4.4): an array of four, the first of them its context.
const SIGNED_START: &[u8] = b"\x84\x6aSignature1";

/// What kind of statement an envelope holds; its text stands in the protected header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Typ {
    /// An organisation vouches for a node.
    NodeCert,
    /// A member organisation admits another into a realm.
    Grant,
    /// An invitation, as a ticket carries it.
    Ticket,
    /// A catalogue record.
    Record,
    /// An author's head.
    Head,
    /// An organisation's list of revoked certificates.
    Revocations,
    /// A provider's priced offer.
    Quote,
    /// A provider's no.
    Refusal,
    /// An entry of a channel's log.
    Entry,
    /// An organisation vouches for the image of a disk.
    Disk,
    /// An organisation's root names a key that signs for it.
    Issuer,
    /// A node asks its organisation for papers.
    Request,
    /// A node's key names the one that comes after it.
    Succession,
    /// A gateway sums up what is public in its realm.
    RealmDigest,
    /// A node says for whom it acts.
    Assertion,
}

impl Typ {
    /// The `typ` header's text: a media type without `application/`, as RFC 9596 §2 shortens it. Short, for it stands in every
    /// entry of a ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NodeCert => "oc-cert",
            Self::Grant => "oc-grant",
            Self::Ticket => "oc-ticket",
            Self::Record => "oc-record",
            Self::Head => "oc-head",
            Self::Revocations => "oc-revocations",
            Self::Quote => "oc-quote",
            Self::Refusal => "oc-refusal",
            Self::Entry => "oc-entry",
            Self::Disk => "oc-disk",
            Self::Issuer => "oc-issuer",
            Self::Request => "oc-request",
            Self::Succession => "oc-succession",
            Self::RealmDigest => "oc-realm-digest",
            Self::Assertion => "oc-assertion",
        }
    }
}

/// Why an envelope is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Longer than allowed.
    #[error("signed object of {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Length given.
        len: usize,
        /// Length allowed.
        max: usize,
    },
    /// Not a `COSE_Sign1` with exactly our headers in the deterministic encoding.
    #[error("not a COSE_Sign1 with the expected headers")]
    Malformed,
    /// Signed as another kind of statement.
    #[error("signed as another type than `{expected}`")]
    WrongType {
        /// The `typ` that was expected.
        expected: &'static str,
    },
    /// The signature is not the key's.
    #[error("the signature does not verify")]
    BadSignature,
}

/// Hash of an envelope's exact bytes (SHA-256), as entries, quotes and certificates name each other.
#[must_use]
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The hint that stands as `kid`: the first 8 bytes of SHA-256 of the public key. Never trusted, only looked up.
#[must_use]
pub fn key_hint(key: &VerifyingKey) -> [u8; HINT_LEN] {
    let digest = Sha256::digest(key.as_bytes());
    let mut hint = [0; HINT_LEN];
    hint.copy_from_slice(&digest[..HINT_LEN]);
    hint
}

fn header(typ: Typ, hint: [u8; HINT_LEN]) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    out.extend_from_slice(&HEADER_START);
    out.extend_from_slice(&hint);
    out.push(TYP_KEY);
    cbor::write_text(&mut out, typ.as_str());
    out
}

/// What the signature is over: `["Signature1", protected, h'', payload]`.
fn signed(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(SIGNED_START.len() + protected.len() + payload.len() + 16);
    out.extend_from_slice(SIGNED_START);
    cbor::write_bytes(&mut out, protected);
    cbor::write_bytes(&mut out, &[]);
    cbor::write_bytes(&mut out, payload);
    out
}

/// Signs `payload` and returns the bytes of the envelope.
#[must_use]
pub fn sign(key: &SigningKey, typ: Typ, payload: Vec<u8>) -> Vec<u8> {
    let protected = header(typ, key_hint(&key.verifying_key()));
    let signature = key.sign(&signed(&protected, &payload)).to_bytes();
    let mut out = Vec::with_capacity(protected.len() + payload.len() + signature.len() + 16);
    out.push(SIGN1_HEAD);
    cbor::write_bytes(&mut out, &protected);
    out.push(EMPTY_MAP);
    cbor::write_bytes(&mut out, &payload);
    signature.write(&mut out);
    out
}

/// An envelope taken apart but **not yet verified**.
#[derive(Clone, Copy, Debug)]
pub struct Unverified<'a> {
    protected: &'a [u8],
    hint: &'a [u8],
    payload: &'a [u8],
    signature: &'a [u8],
}

/// Takes an envelope of at most `max` bytes apart and checks its form and type, not its signature.
///
/// # Errors
/// See [`EnvelopeError`].
pub fn open(bytes: &[u8], typ: Typ, max: usize) -> Result<Unverified<'_>, EnvelopeError> {
    if bytes.len() > max {
        return Err(EnvelopeError::TooLong { len: bytes.len(), max });
    }
    let Some((protected, payload, signature)) = parts(bytes) else {
        return Err(EnvelopeError::Malformed);
    };
    let rest = protected.strip_prefix(&HEADER_START).ok_or(EnvelopeError::Malformed)?;
    let (hint, rest) = rest.split_at_checked(HINT_LEN).ok_or(EnvelopeError::Malformed)?;
    let found = rest.strip_prefix(&[TYP_KEY]).and_then(|text| cbor::decode(text, text.len()).ok());
    match found.and_then(Item::as_text) {
        None => Err(EnvelopeError::Malformed),
        Some(found) if found == typ.as_str() => {
            Ok(Unverified { protected, hint, payload, signature })
        }
        Some(_) => Err(EnvelopeError::WrongType { expected: typ.as_str() }),
    }
}

/// Protected header, payload and signature of a `COSE_Sign1` with an empty unprotected header and nothing after it.
fn parts(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let string = |bytes| {
        let (item, rest) = cbor::split_first(bytes).ok()?;
        Some((item.as_bytes()?, rest))
    };
    let (protected, rest) = string(bytes.strip_prefix(&[SIGN1_HEAD])?)?;
    let (payload, rest) = string(rest.strip_prefix(&[EMPTY_MAP])?)?;
    let (signature, rest) = string(rest)?;
    rest.is_empty().then_some((protected, payload, signature))
}

impl<'a> Unverified<'a> {
    /// The payload, to find out whose key should verify it. Trust nothing in it before [`Self::verify`].
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether the key hint fits `key`.
    #[must_use]
    pub fn hints_at(&self, key: &VerifyingKey) -> bool {
        self.hint == key_hint(key)
    }

    /// Checks the signature strictly (no small-order keys, canonical encodings only) and returns the payload.
    ///
    /// # Errors
    /// [`EnvelopeError::BadSignature`], also when the key hint names another key.
    pub fn verify(&self, key: &VerifyingKey) -> Result<&'a [u8], EnvelopeError> {
        if !self.hints_at(key) {
            return Err(EnvelopeError::BadSignature);
        }
        let signature =
            Signature::from_slice(self.signature).map_err(|_| EnvelopeError::BadSignature)?;
        let message = signed(self.protected, self.payload);
        key.verify_strict(&message, &signature).map_err(|_| EnvelopeError::BadSignature)?;
        Ok(self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coset::{CborSerializable as _, CoseSign1, CoseSign1Builder, Header, Label, iana};
    use proptest::prelude::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    #[test]
    fn a_signed_payload_verifies_with_its_key_only() {
        let bytes = sign(&key(1), Typ::Quote, vec![1, 2, 3]);
        let opened = open(&bytes, Typ::Quote, 1024).unwrap();
        assert_eq!(opened.verify(&key(1).verifying_key()).unwrap(), [1, 2, 3]);
        assert_eq!(opened.verify(&key(2).verifying_key()), Err(EnvelopeError::BadSignature));
    }

    #[test]
    fn another_type_and_too_many_bytes_are_refused() {
        let bytes = sign(&key(1), Typ::Quote, vec![1]);
        assert_eq!(
            open(&bytes, Typ::Entry, 1024).unwrap_err(),
            EnvelopeError::WrongType { expected: Typ::Entry.as_str() }
        );
        assert!(matches!(open(&bytes, Typ::Quote, 10), Err(EnvelopeError::TooLong { .. })));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = sign(&key(1), Typ::Entry, b"payload".to_vec());
        for at in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[at / 8] ^= 1 << (at % 8);
            let verdict = open(&bad, Typ::Entry, 1024)
                .and_then(|o| o.verify(&key(1).verifying_key()).map(<[u8]>::to_vec));
            assert!(verdict.is_err(), "bit {at}");
        }
    }

    #[test]
    fn a_general_cose_library_reads_the_same_and_writes_the_same_bytes() {
        let (key, payload) = (key(3), vec![7; 300]);
        let bytes = sign(&key, Typ::Entry, payload.clone());
        let sign1 = CoseSign1::from_slice(&bytes).unwrap();
        assert_eq!(sign1.payload.as_deref(), Some(&payload[..]));
        sign1
            .verify_signature(&[], |signature, message| {
                key.verifying_key()
                    .verify_strict(message, &Signature::from_slice(signature).unwrap())
            })
            .unwrap();
        let header = Header {
            alg: Some(coset::Algorithm::Assigned(iana::Algorithm::Ed25519)),
            key_id: key_hint(&key.verifying_key()).to_vec(),
            rest: vec![(Label::Int(16), ciborium::Value::Text("oc-entry".to_owned()))],
            ..Header::default()
        };
        let again = CoseSign1Builder::new()
            .protected(header)
            .payload(payload)
            .create_signature(&[], |message| key.sign(message).to_bytes().to_vec())
            .build();
        assert_eq!(again.to_vec().unwrap(), bytes);
    }

    #[test]
    fn another_form_of_the_same_envelope_is_refused() {
        let bytes = sign(&key(1), Typ::Entry, b"payload".to_vec());
        let header = header(Typ::Entry, key_hint(&key(1).verifying_key()));
        assert_eq!(bytes[1], 0x40 | 23, "a type of 8 letters keeps the header in 23 bytes");
        let with = |protected: &[u8], unprotected: &[u8]| {
            let mut out = vec![SIGN1_HEAD];
            cbor::write_bytes(&mut out, protected);
            out.extend(unprotected);
            out.extend(&bytes[1 + 1 + header.len() + 1..]);
            out
        };
        assert_eq!(with(&header, &[EMPTY_MAP]), bytes);
        let long_typ = [&header[..14], &[0x78, 8], &header[15..]].concat();
        let number = [&header[..14], &[0x05][..]].concat();
        let other_algorithm = [&[0xa3, 0x01, 0x27][..], &header[3..]].concat();
        for (bad, why) in [
            (with(&header, &[0xa1, 0x01, 0x00]), "an unprotected header"),
            (with(&header, &[0xb8, 0x00]), "a long form of the empty map"),
            (with(&long_typ, &[EMPTY_MAP]), "a long form of the type"),
            (with(&number, &[EMPTY_MAP]), "a type that is a number"),
            (with(&other_algorithm, &[EMPTY_MAP]), "another algorithm"),
            (with(&header[..header.len() - 1], &[EMPTY_MAP]), "a cut header"),
            (with(&[&header[..], &[0]].concat(), &[EMPTY_MAP]), "more in the header"),
            ([&bytes[..], &[0]].concat(), "a byte after it"),
            ([&[0xd2][..], &bytes[..]].concat(), "a tag before it"),
        ] {
            assert_eq!(
                open(&bad, Typ::Entry, 1024).unwrap_err(),
                EnvelopeError::Malformed,
                "{why}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_opener(bytes in any::<Vec<u8>>()) {
            let _ = open(&bytes, Typ::Entry, 1024);
        }
    }
}
