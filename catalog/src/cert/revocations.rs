//! An organisation's list of certificates and grants that no longer count.

use ed25519_dalek::SigningKey;

use super::{CertError, Opened, check_count};
use crate::envelope::{self, Typ};
use crate::id::OrgId;
use crate::wire::wire_map;

/// Most serials in one list. Certificates live 30 days at most, so serials of expired ones can leave the list.
pub const REVOKED_MAX: usize = 4096;
/// Largest signed list: [`REVOKED_MAX`] serials of at most 9 bytes, with the envelope.
const REVOCATIONS_LEN_MAX: usize = 40 * 1024;
const WHAT: &str = "the revocation list";

/// Serials that an organisation has revoked. The list with the highest serial of its own counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocations {
    /// The organisation, which signs.
    pub org: OrgId,
    /// Number of this list; grows with every change.
    pub serial: u64,
    /// Revoked serials, ascending.
    pub revoked: Vec<u64>,
}

wire_map!(Revocations, "a revocation list", {
    1 must org,
    2 must serial,
    3 must revoked,
});

impl Revocations {
    /// Signs with the organisation's root key.
    #[must_use]
    pub fn sign(&self, org_key: &SigningKey) -> Vec<u8> {
        envelope::sign(org_key, Typ::Revocations, self.to_map().encode())
    }

    /// Reads a list. It has no end of validity: a newer one supersedes it.
    ///
    /// # Errors
    /// See [`CertError`].
    pub fn verify(bytes: &[u8]) -> Result<Self, CertError> {
        let opened = Opened::new(bytes, Typ::Revocations, WHAT, REVOCATIONS_LEN_MAX)?;
        let list = opened.read(Self::from_map)?;
        check_count("revoked serials", list.revoked.len(), REVOKED_MAX)?;
        if !list.revoked.is_sorted_by(|a, b| a < b) {
            return Err(CertError::Order { field: "revoked serials" });
        }
        opened.verify(list.org)?;
        Ok(list)
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_lists_supersede_earlier_ones_of_the_same_organisation() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let org: OrgId = key.verifying_key().into();
        let list = |serial, revoked: &[u64]| Revocations { org, serial, revoked: revoked.to_vec() };
        let read = Revocations::verify(&list(2, &[3, 9]).sign(&key)).unwrap();
        assert!(read.supersedes(&list(1, &[3])) && !read.supersedes(&read));
        assert!(read.contains(9) && !read.contains(4));
        let other = OrgId::from_bytes([4; 32]);
        assert!(!read.supersedes(&Revocations { org: other, ..list(1, &[]) }));
        assert!(matches!(
            Revocations::verify(&list(2, &[9, 3]).sign(&key)),
            Err(CertError::Order { .. })
        ));
        assert!(
            Revocations::verify(&list(2, &[]).sign(&SigningKey::from_bytes(&[2; 32]))).is_err()
        );
    }
}
