//! The one envelope of everything signed: `COSE_Sign1` (RFC 9052) with Ed25519 (−19, RFC 9864).
//!
//! The protected header holds the algorithm, a key hint and the explicit type (`typ`, RFC 9596), which separates domains: a
//! signature over a quote can never pass for one over a certificate. The unprotected header and the external AAD are empty.
//! Exact bytes are signed, stored and forwarded; nothing is ever re-encoded to verify it.

use coset::{CborSerializable, CoseSign1, CoseSign1Builder, Header, Label, iana};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

/// Header label of the explicit type (RFC 9596).
const TYP_LABEL: i64 = 16;

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
}

impl Typ {
    /// The `typ` header's text: a media type without `application/`, as RFC 9596 §2 shortens it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NodeCert => "opencloud-cert+cose",
            Self::Grant => "opencloud-grant+cose",
            Self::Ticket => "opencloud-ticket+cose",
            Self::Record => "opencloud-record+cose",
            Self::Head => "opencloud-head+cose",
            Self::Revocations => "opencloud-revocations+cose",
            Self::Quote => "opencloud-quote+cose",
            Self::Refusal => "opencloud-refusal+cose",
            Self::Entry => "opencloud-entry+cose",
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
pub fn key_hint(key: &VerifyingKey) -> [u8; 8] {
    let digest = Sha256::digest(key.as_bytes());
    let mut hint = [0; 8];
    hint.copy_from_slice(&digest[..8]);
    hint
}

fn header(typ: Typ, hint: [u8; 8]) -> Header {
    Header {
        alg: Some(coset::Algorithm::Assigned(iana::Algorithm::Ed25519)),
        key_id: hint.to_vec(),
        rest: vec![(Label::Int(TYP_LABEL), ciborium::Value::Text(typ.as_str().to_owned()))],
        ..Header::default()
    }
}

/// Signs `payload` and returns the bytes of the envelope.
#[must_use]
pub fn sign(key: &SigningKey, typ: Typ, payload: Vec<u8>) -> Vec<u8> {
    CoseSign1Builder::new()
        .protected(header(typ, key_hint(&key.verifying_key())))
        .payload(payload)
        .create_signature(&[], |message| key.sign(message).to_bytes().to_vec())
        .build()
        .to_vec()
        .expect("a COSE_Sign1 made here encodes")
}

/// An envelope taken apart but **not yet verified**.
#[derive(Clone, Debug)]
pub struct Unverified {
    sign1: CoseSign1,
}

/// Takes an envelope of at most `max` bytes apart and checks its form and type, not its signature.
///
/// # Errors
/// See [`EnvelopeError`].
pub fn open(bytes: &[u8], typ: Typ, max: usize) -> Result<Unverified, EnvelopeError> {
    if bytes.len() > max {
        return Err(EnvelopeError::TooLong { len: bytes.len(), max });
    }
    let sign1 = CoseSign1::from_slice(bytes).map_err(|_| EnvelopeError::Malformed)?;
    let found = &sign1.protected.header;
    let hint: [u8; 8] = found.key_id.as_slice().try_into().map_err(|_| EnvelopeError::Malformed)?;
    if !sign1.unprotected.is_empty() || sign1.payload.is_none() {
        return Err(EnvelopeError::Malformed);
    }
    if *found != header(typ, hint) {
        let other = matches!(found.rest.as_slice(), [(Label::Int(TYP_LABEL), _)]);
        let expected = typ.as_str();
        return Err(if other {
            EnvelopeError::WrongType { expected }
        } else {
            EnvelopeError::Malformed
        });
    }
    let canonical = header(typ, hint).to_vec().map_err(|_| EnvelopeError::Malformed)?;
    let same_header = sign1.protected.original_data.as_ref().is_some_and(|data| *data == canonical);
    let same_bytes = sign1.clone().to_vec().is_ok_and(|again| again == bytes);
    if same_header && same_bytes { Ok(Unverified { sign1 }) } else { Err(EnvelopeError::Malformed) }
}

impl Unverified {
    /// The payload, to find out whose key should verify it. Trust nothing in it before [`Self::verify`].
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.sign1.payload.as_deref().unwrap_or_default()
    }

    /// Whether the key hint fits `key`.
    #[must_use]
    pub fn hints_at(&self, key: &VerifyingKey) -> bool {
        self.sign1.protected.header.key_id == key_hint(key)
    }

    /// Checks the signature strictly (no small-order keys, canonical encodings only) and returns the payload.
    ///
    /// # Errors
    /// [`EnvelopeError::BadSignature`], also when the key hint names another key.
    pub fn verify(&self, key: &VerifyingKey) -> Result<&[u8], EnvelopeError> {
        if !self.hints_at(key) {
            return Err(EnvelopeError::BadSignature);
        }
        self.sign1.verify_signature(&[], |signature, message| {
            let signature =
                Signature::from_slice(signature).map_err(|_| EnvelopeError::BadSignature)?;
            key.verify_strict(message, &signature).map_err(|_| EnvelopeError::BadSignature)
        })?;
        Ok(self.payload())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    proptest! {
        #[test]
        fn no_bytes_panic_the_opener(bytes in any::<Vec<u8>>()) {
            let _ = open(&bytes, Typ::Entry, 1024);
        }
    }
}
