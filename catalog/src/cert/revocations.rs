//! An organisation's list of what it no longer vouches for.

use ed25519_dalek::SigningKey;

use super::{CertError, Grant, NodeCert, Opened, check_count};
use crate::envelope::{self, Typ};
use crate::id::OrgId;
use crate::wire::wire_map;

/// Most keys in one list. Keys of nodes may leave it when their last certificate has ended; at the bound the root refuses to
/// revoke more until then.
pub const REVOKED_KEYS_MAX: usize = 96;
/// Most serials in one list.
pub const REVOKED_SERIALS_MAX: usize = 24;
/// Largest signed list. It fits into the body of a catalogue record with what stands around it there.
pub const REVOCATIONS_LEN_MAX: usize = 3840;
const WHAT: &str = "the revocation list";

/// What an organisation has taken back. The list with the highest serial counts, and only the root signs one: whoever steals
/// an issuer's key cannot make a list that the root could not replace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocations {
    /// The organisation, which signs.
    pub org: OrgId,
    /// Number of this list; grows with every change.
    pub serial: u64,
    /// Serials of certificates and grants, ascending.
    pub revoked: Vec<u64>,
    /// Keys that it vouched for and no longer does, ascending: of nodes, of issuers, and of organisations that it admitted.
    pub keys: Vec<[u8; 32]>,
}

wire_map!(Revocations, "a revocation list", {
    1 must org,
    2 must serial,
    3 must revoked,
    4 must keys,
});

impl Revocations {
    /// The list of an organisation that has revoked nothing yet.
    #[must_use]
    pub const fn empty(org: OrgId) -> Self {
        Self { org, serial: 0, revoked: Vec::new(), keys: Vec::new() }
    }

    /// Signs with the organisation's root key.
    #[must_use]
    pub fn sign(&self, org_key: &SigningKey) -> Vec<u8> {
        envelope::sign(org_key, Typ::Revocations, self.to_map().encode())
    }

    /// Checks bounds and order.
    ///
    /// # Errors
    /// [`CertError::Count`] or [`CertError::Order`].
    pub fn check(&self) -> Result<(), CertError> {
        check_count("revoked serials", self.revoked.len(), REVOKED_SERIALS_MAX)?;
        check_count("revoked keys", self.keys.len(), REVOKED_KEYS_MAX)?;
        if !self.revoked.is_sorted_by(|a, b| a < b) {
            return Err(CertError::Order { field: "revoked serials" });
        }
        if !self.keys.is_sorted_by(|a, b| a < b) {
            return Err(CertError::Order { field: "revoked keys" });
        }
        Ok(())
    }

    /// Reads a list. It has no end of validity: a newer one supersedes it.
    ///
    /// # Errors
    /// See [`CertError`].
    pub fn verify(bytes: &[u8]) -> Result<Self, CertError> {
        let opened = Opened::new(bytes, Typ::Revocations, WHAT, REVOCATIONS_LEN_MAX)?;
        let list = opened.read(Self::from_map)?;
        list.check()?;
        opened.verify(list.org)?;
        Ok(list)
    }

    /// The next list, with these keys on it, too.
    ///
    /// # Errors
    /// [`CertError::Count`] when there are too many.
    pub fn with(&self, keys: impl IntoIterator<Item = [u8; 32]>) -> Result<Self, CertError> {
        let mut next = Self { serial: self.serial.saturating_add(1), ..self.clone() };
        next.keys.extend(keys);
        next.keys.sort_unstable();
        next.keys.dedup();
        next.check()?;
        Ok(next)
    }

    /// Whether this list replaces `other`: same organisation, later serial.
    #[must_use]
    pub fn supersedes(&self, other: &Self) -> bool {
        self.org == other.org && self.serial > other.serial
    }

    /// Whether a serial is on the list.
    #[must_use]
    pub fn contains(&self, serial: u64) -> bool {
        self.revoked.binary_search(&serial).is_ok()
    }

    /// Whether a key is on the list.
    #[must_use]
    pub fn contains_key(&self, key: &[u8; 32]) -> bool {
        self.keys.binary_search(key).is_ok()
    }

    /// Whether the list takes a node certificate back: by its serial, its node or its issuer.
    #[must_use]
    pub fn revokes(&self, cert: &NodeCert) -> bool {
        cert.org == self.org
            && (self.contains(cert.serial)
                || self.contains_key(cert.node.as_bytes())
                || cert.issuer_key().is_some_and(|key| self.contains_key(&key)))
    }

    /// Whether the list takes a grant back: by its serial, its member or its issuer.
    #[must_use]
    pub fn revokes_grant(&self, grant: &Grant) -> bool {
        grant.issuer == self.org
            && (self.contains(grant.serial)
                || self.contains_key(grant.member.as_bytes())
                || grant.issuer_key().is_some_and(|key| self.contains_key(&key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BODY_LEN_MAX;
    use proptest::prelude::*;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[1; 32])
    }

    fn list(serial: u64, revoked: &[u64], keys: &[u8]) -> Revocations {
        let keys = keys.iter().map(|seed| [*seed; 32]).collect();
        let org = key().verifying_key().into();
        Revocations { org, serial, revoked: revoked.to_vec(), keys }
    }

    #[test]
    fn later_lists_supersede_earlier_ones_of_the_same_organisation() {
        let read = Revocations::verify(&list(2, &[3, 9], &[5]).sign(&key())).unwrap();
        assert!(read.supersedes(&list(1, &[3], &[])) && !read.supersedes(&read));
        assert!(read.contains(9) && !read.contains(4));
        assert!(read.contains_key(&[5; 32]) && !read.contains_key(&[6; 32]));
        let other = OrgId::from_bytes([4; 32]);
        assert!(!read.supersedes(&Revocations { org: other, ..list(1, &[], &[]) }));
        for bad in [list(2, &[9, 3], &[]), list(2, &[], &[7, 6]), list(2, &[], &[7, 7])] {
            assert!(matches!(Revocations::verify(&bad.sign(&key())), Err(CertError::Order { .. })));
        }
        let stranger = SigningKey::from_bytes(&[2; 32]);
        assert!(Revocations::verify(&list(2, &[], &[]).sign(&stranger)).is_err());
    }

    #[test]
    fn the_largest_list_fits_into_a_record() {
        let keys = (0..REVOKED_KEYS_MAX).map(|n| [u8::try_from(n).unwrap(); 32]).collect();
        let revoked = (0..REVOKED_SERIALS_MAX as u64).map(|n| u64::MAX - 100 + n).collect();
        let full = Revocations { revoked, keys, ..list(u64::MAX, &[], &[]) };
        let bytes = full.sign(&key());
        assert!(bytes.len() <= REVOCATIONS_LEN_MAX, "{}", bytes.len());
        const { assert!(REVOCATIONS_LEN_MAX + 200 <= BODY_LEN_MAX) };
        assert_eq!(Revocations::verify(&bytes), Ok(full.clone()));
        assert!(matches!(full.with([[0xff; 32]]), Err(CertError::Count { .. })));
    }

    proptest! {
        #[test]
        fn a_list_grows_and_never_forgets(steps in proptest::collection::vec(any::<[u8; 32]>(), 1..20)) {
            let mut at = Revocations::empty(key().verifying_key().into());
            for revoked in &steps {
                let next = at.with([*revoked]).unwrap();
                prop_assert!(next.supersedes(&at));
                prop_assert!(at.keys.iter().all(|key| next.contains_key(key)));
                prop_assert_eq!(Revocations::verify(&next.sign(&key())), Ok(next.clone()));
                at = next;
            }
            prop_assert!(steps.iter().all(|revoked| at.contains_key(revoked)));
        }

        #[test]
        fn no_bytes_panic_the_reader(bytes in any::<Vec<u8>>()) {
            let _ = Revocations::verify(&bytes);
        }
    }
}
