//! Signed records and heads: the two things an author writes.
//!
//! A **record** says what one key holds from one version on, or that it holds nothing. A **head** says which version the
//! author has reached, how many public keys are live, what their records sum up to, and until when all of that counts. It
//! names the author's papers (certificate and membership, [`crate::papers`]) by hash: about 250 bytes, whatever they hold.

use std::fmt;

use ed25519_dalek::SigningKey;

use crate::cbor::{self, CborError, MapReader, MapWriter};
use crate::cert::{CertError, Membership, MembershipError, NodeCert};
use crate::envelope::{self, EnvelopeError, Typ, Unverified};
use crate::id::{IdError, NodeId, OrgId, RealmId};
use crate::record::{BODY_LEN_MAX, ResourceError, check_key};

/// Largest signed record: body and key at their bounds, with numbers and envelope.
pub const RECORD_LEN_MAX: usize = BODY_LEN_MAX + 512;
/// Largest signed head: ids, hashes and numbers, with the envelope.
pub const HEAD_LEN_MAX: usize = 320;
/// How long a head's lease runs: 40 minutes, so that two renewals may be lost before a live author vanishes.
pub const LEASE_MS: u64 = 40 * 60 * 1000;
/// How often a head is renewed: every 15 minutes.
pub const RENEW_MS: u64 = 15 * 60 * 1000;
/// The end of a record that lives as long as its author's lease does.
pub const NO_END_MS: u64 = u64::MAX;

/// A point in an author's log. The epoch grows with every start of the author, the sequence number with every record, so no
/// two records of an honest author share a version.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Version {
    /// The author's start.
    #[serde(rename = "e")]
    pub epoch: u32,
    /// Number of the record in the epoch; 0 before the first.
    #[serde(rename = "s")]
    pub seq: u64,
}

impl Version {
    /// Before everything.
    pub const ZERO: Self = Self { epoch: 0, seq: 0 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}

/// Which of the two an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A record.
    Record,
    /// A head.
    Head,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Record => "the record",
            Self::Head => "the head",
        })
    }
}

/// Why a record or head is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The envelope is not one, or not signed by the author it names.
    #[error("{item} is refused")]
    Envelope {
        /// Record or head.
        item: Item,
        /// Why.
        source: EnvelopeError,
    },
    /// The payload is not one of this kind.
    #[error("{item} cannot be read")]
    Payload {
        /// Record or head.
        item: Item,
        /// Why.
        source: CborError,
    },
    /// The author's id is no usable key.
    #[error("the author of {item} has no usable key")]
    Key {
        /// Record or head.
        item: Item,
        /// Why.
        source: IdError,
    },
    /// The description in a record is refused.
    #[error("the record {version} is refused")]
    Resource {
        /// The record's version.
        version: Version,
        /// Why.
        source: ResourceError,
    },
}

/// Something signed and read, whose signature is not checked yet.
#[derive(Debug)]
pub(crate) struct Unchecked<'a, T> {
    /// What it says, if it is true.
    pub(crate) content: T,
    unverified: Unverified<'a>,
    item: Item,
}

impl<'a, T> Unchecked<'a, T> {
    fn open(
        bytes: &'a [u8],
        (item, typ, max): (Item, Typ, usize),
        read: fn(&mut MapReader<'_>) -> Result<T, CborError>,
    ) -> Result<Self, LogError> {
        let unverified = envelope::open(bytes, typ, max)
            .map_err(|source| LogError::Envelope { item, source })?;
        let payload = |source| LogError::Payload { item, source };
        let value = cbor::decode(unverified.payload(), max).map_err(payload)?;
        let mut map = MapReader::new(&value).map_err(payload)?;
        let content = read(&mut map).map_err(payload)?;
        map.finish().map_err(payload)?;
        Ok(Self { content, unverified, item })
    }

    /// Checks the signature by `author`.
    pub(crate) fn verify(&self, author: NodeId) -> Result<(), LogError> {
        let item = self.item;
        let key = author.verifying_key().map_err(|source| LogError::Key { item, source })?;
        match self.unverified.verify(&key) {
            Ok(_) => Ok(()),
            Err(source) => Err(LogError::Envelope { item, source }),
        }
    }
}

/// What one key of one author holds from one version on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The realm.
    pub realm: RealmId,
    /// Who writes, and signs.
    pub author: NodeId,
    /// Where it stands in the author's log.
    pub version: Version,
    /// The key it is about.
    pub key: String,
    /// Its own end, Unix milliseconds; [`NO_END_MS`] when the lease alone decides.
    pub not_after_ms: u64,
    /// The encoded [`crate::record::Resource`]; `None` when the key is deleted.
    pub body: Option<Vec<u8>>,
    /// Whether only some organisations may see it. Such records are not counted in the head and not passed on.
    pub is_restricted: bool,
}

impl Record {
    /// Signs with the author's node key.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        let payload = MapWriter::new()
            .put(1, &self.realm)
            .put(2, &self.author)
            .put(3, &self.version.epoch)
            .put(4, &self.version.seq)
            .put(5, &self.key)
            .put(6, &self.not_after_ms)
            .put_opt(7, self.body.as_ref())
            .put_opt(8, self.is_restricted.then_some(&true));
        envelope::sign(key, Typ::Record, payload.encode())
    }

    fn read(map: &mut MapReader<'_>) -> Result<Self, CborError> {
        let record = Self {
            realm: map.take(1)?,
            author: map.take(2)?,
            version: Version { epoch: map.take(3)?, seq: map.take(4)? },
            key: map.take(5)?,
            not_after_ms: map.take(6)?,
            body: map.take_opt(7)?,
            is_restricted: map.take_opt(8)?.unwrap_or(false),
        };
        match check_key(&record.key) {
            Ok(()) => Ok(record),
            Err(_) => Err(CborError::Field { key: 5, expected: "a key of visible ASCII" }),
        }
    }

    pub(crate) fn peek(bytes: &[u8]) -> Result<Unchecked<'_, Self>, LogError> {
        Unchecked::open(bytes, (Item::Record, Typ::Record, RECORD_LEN_MAX), Self::read)
    }

    /// Reads a record and checks its author's signature. Whether the author may speak is the head's matter.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn verify(bytes: &[u8]) -> Result<Self, LogError> {
        let unchecked = Self::peek(bytes)?;
        unchecked.verify(unchecked.content.author)?;
        Ok(unchecked.content)
    }
}

/// An author's state in one realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The realm.
    pub realm: RealmId,
    /// Who writes, and signs.
    pub author: NodeId,
    /// The hash of the author's papers, see [`crate::papers`].
    pub papers: [u8; 32],
    /// The version reached; every record's version is at most this one.
    pub version: Version,
    /// How many public keys hold something.
    pub live_count: u64,
    /// The sum of the public live records, see [`RootSum`].
    pub root: [u8; 32],
    /// Until when author and records count, Unix milliseconds.
    pub lease_until_ms: u64,
    /// Deletes up to this version may have been forgotten by the author.
    pub gc_floor: Version,
}

impl Head {
    /// Signs with the author's node key.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        let payload = MapWriter::new()
            .put(1, &self.realm)
            .put(2, &self.author)
            .put(3, &self.papers)
            .put(4, &self.version.epoch)
            .put(5, &self.version.seq)
            .put(6, &self.live_count)
            .put(7, &self.root)
            .put(8, &self.lease_until_ms)
            .put(9, &self.gc_floor.epoch)
            .put(10, &self.gc_floor.seq);
        envelope::sign(key, Typ::Head, payload.encode())
    }

    fn read(map: &mut MapReader<'_>) -> Result<Self, CborError> {
        Ok(Self {
            realm: map.take(1)?,
            author: map.take(2)?,
            papers: map.take(3)?,
            version: Version { epoch: map.take(4)?, seq: map.take(5)? },
            live_count: map.take(6)?,
            root: map.take(7)?,
            lease_until_ms: map.take(8)?,
            gc_floor: Version { epoch: map.take(9)?, seq: map.take(10)? },
        })
    }

    pub(crate) fn peek(bytes: &[u8]) -> Result<Unchecked<'_, Self>, LogError> {
        Unchecked::open(bytes, (Item::Head, Typ::Head, HEAD_LEN_MAX), Self::read)
    }

    /// Reads a head and checks its author's signature. The papers it names are checked by [`check_author`].
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn verify(bytes: &[u8]) -> Result<Self, LogError> {
        let unchecked = Self::peek(bytes)?;
        unchecked.verify(unchecked.content.author)?;
        Ok(unchecked.content)
    }

    /// Whether two heads of one author cannot both be honest: one version, two contents. A renewal repeats the content with
    /// a later lease and perhaps newer papers.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool {
        self.version == other.version
            && (self.root, self.live_count, self.gc_floor)
                != (other.root, other.live_count, other.gc_floor)
    }
}

/// Why a node may not write in a realm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorError {
    /// Its certificate is refused.
    #[error("the author's certificate is refused")]
    Cert(#[from] CertError),
    /// Its organisation is no member.
    #[error("the author's organisation is no member of the realm")]
    Membership(#[from] MembershipError),
    /// The certificate is another node's.
    #[error("the certificate is that of {found}, not of {author}")]
    OtherNode {
        /// The author.
        author: NodeId,
        /// The node certified.
        found: NodeId,
    },
    /// The certificate does not allow the realm.
    #[error("the certificate of {author} does not allow {realm}")]
    Realm {
        /// The author.
        author: NodeId,
        /// The realm.
        realm: RealmId,
    },
    /// The organisation has revoked the certificate.
    #[error("{org} has revoked certificate {serial}")]
    Revoked {
        /// The organisation.
        org: OrgId,
        /// The certificate's serial.
        serial: u64,
    },
    /// Whoever admitted its organisation has taken that back.
    #[error("{by} has taken back what made the author's organisation a member")]
    GrantRevoked {
        /// Who.
        by: OrgId,
    },
}

impl AuthorError {
    /// Whether a clock, a forgotten renewal or a revocation still on its way explains it, so that who forwarded it is not
    /// to blame.
    #[must_use]
    pub const fn is_about_time(&self) -> bool {
        match self {
            Self::Cert(error) => error.is_about_time(),
            Self::Membership(error) => error.is_about_time(),
            Self::Revoked { .. } | Self::GrantRevoked { .. } => true,
            Self::OtherNode { .. } | Self::Realm { .. } => false,
        }
    }
}

/// Checks that `author` may write in `realm` at `now_ms`, and returns its certificate with the time at which that ends.
///
/// # Errors
/// See [`AuthorError`]; [`AuthorError::Revoked`] is not looked for here.
pub fn check_author(
    author: NodeId,
    realm: RealmId,
    cert: &[u8],
    membership: &Membership,
    now_ms: u64,
) -> Result<(NodeCert, u64), AuthorError> {
    let cert = NodeCert::verify(cert, now_ms)?;
    if cert.node != author {
        return Err(AuthorError::OtherNode { author, found: cert.node });
    }
    if !cert.allows(realm) {
        return Err(AuthorError::Realm { author, realm });
    }
    let member = membership.verify(realm, cert.org, now_ms)?;
    let until_ms = cert.not_after_ms.min(member.not_after_ms);
    Ok((cert, until_ms.saturating_add(crate::cert::CLOCK_SKEW_MS)))
}

/// The 256-bit sum (modulo 2^256) of the BLAKE3 hashes of signed records. Order does not matter and a record leaves as
/// easily as it comes. Only the author could look for two sets with one sum, and would deceive its own readers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootSum([u64; 4]);

impl RootSum {
    /// With one more record.
    #[must_use]
    pub fn plus(self, hash: &[u8; 32]) -> Self {
        let mut carry = false;
        let mut sum = self.0;
        for (limb, add) in sum.iter_mut().zip(limbs(hash)) {
            let (a, first) = limb.overflowing_add(add);
            let (b, second) = a.overflowing_add(u64::from(carry));
            *limb = b;
            carry = first || second;
        }
        Self(sum)
    }

    /// With one record less.
    #[must_use]
    pub fn minus(self, hash: &[u8; 32]) -> Self {
        let mut borrow = false;
        let mut sum = self.0;
        for (limb, sub) in sum.iter_mut().zip(limbs(hash)) {
            let (a, first) = limb.overflowing_sub(sub);
            let (b, second) = a.overflowing_sub(u64::from(borrow));
            *limb = b;
            borrow = first || second;
        }
        Self(sum)
    }

    /// The sum as it stands in a head: little-endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, limb) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&limb.to_le_bytes());
        }
        bytes
    }
}

fn limbs(hash: &[u8; 32]) -> impl Iterator<Item = u64> + '_ {
    hash.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("chunks of 8 bytes")))
}

/// The hash that counts in a [`RootSum`] and names a record in a listing: BLAKE3 of the exact signed bytes.
#[must_use]
pub fn record_hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[1; 32])
    }

    fn record() -> Record {
        Record {
            realm: RealmId::from_bytes([2; 16]),
            author: key().verifying_key().into(),
            version: Version { epoch: 3, seq: 9 },
            key: "data/dem".to_owned(),
            not_after_ms: NO_END_MS,
            body: Some(vec![1, 2]),
            is_restricted: false,
        }
    }

    #[test]
    fn records_and_heads_read_back_and_only_their_author_can_sign_them() {
        for record in [
            record(),
            Record { body: None, ..record() },
            Record { is_restricted: true, ..record() },
        ] {
            assert_eq!(Record::verify(&record.sign(&key())), Ok(record.clone()));
            assert!(Record::verify(&record.sign(&SigningKey::from_bytes(&[2; 32]))).is_err());
        }
        let head = Head {
            realm: RealmId::from_bytes([2; 16]),
            author: key().verifying_key().into(),
            papers: [8; 32],
            version: Version { epoch: 3, seq: 9 },
            live_count: 4,
            root: [5; 32],
            lease_until_ms: 6,
            gc_floor: Version::ZERO,
        };
        let bytes = head.sign(&key());
        assert!(bytes.len() < 256, "{} bytes", bytes.len());
        assert_eq!(Head::verify(&bytes), Ok(head.clone()));
        assert!(Record::verify(&bytes).is_err());
        assert!(head.contradicts(&Head { live_count: 5, ..head.clone() }));
        assert!(!head.contradicts(&Head { lease_until_ms: 7, ..head.clone() }));
    }

    #[test]
    fn a_key_with_a_space_is_refused() {
        let bad = Record { key: "a b".to_owned(), ..record() };
        assert!(matches!(Record::verify(&bad.sign(&key())), Err(LogError::Payload { .. })));
    }

    proptest! {
        #[test]
        fn sums_forget_the_order_and_what_left(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
            let zero = RootSum::default();
            prop_assert_eq!(zero.plus(&a).plus(&b), zero.plus(&b).plus(&a));
            prop_assert_eq!(zero.plus(&a).plus(&b).minus(&a), zero.plus(&b));
            prop_assert_eq!(zero.plus(&a).minus(&a), zero);
        }

        #[test]
        fn no_bytes_panic_the_readers(bytes in any::<Vec<u8>>()) {
            let _ = (Record::verify(&bytes), Head::verify(&bytes));
        }
    }

    #[test]
    fn the_sum_carries_across_limbs() {
        let one = {
            let mut b = [0; 32];
            b[0] = 1;
            b
        };
        let all = RootSum::default().minus(&one);
        assert_eq!(all.to_bytes(), [0xff; 32]);
        assert_eq!(all.plus(&one), RootSum::default());
    }
}
