//! The papers of an author: its certificate and its organisation's membership, in one piece that heads name by hash.
//!
//! Papers are four times as large as a head and change once in days, so they travel when they are new: in the first gossip
//! message that names them, and in answer to whoever says that it holds others. Nothing signs them as a whole: certificate
//! and grants are signed each, and the author's signed head names the hash of exactly these bytes.

use crate::cbor::{self, CborError, MapReader, MapWriter};
use crate::cert::{
    CERT_LEN_MAX, GRANT_LEN_MAX, MEMBERSHIP_GRANTS_MAX, Membership, NodeCert, Revocations,
};
use crate::id::NodeId;

/// Largest papers: certificate and membership at their bounds, with their frame. Larger ones are not read.
pub const PAPERS_LEN_MAX: usize = CERT_LEN_MAX + MEMBERSHIP_GRANTS_MAX * (GRANT_LEN_MAX + 3) + 64;

/// What an author shows to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Papers {
    /// Whose they are.
    pub author: NodeId,
    /// The signed node certificate.
    pub cert: Vec<u8>,
    /// The membership of the author's organisation.
    pub membership: Membership,
}

impl Papers {
    /// The bytes that a head names by hash.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        MapWriter::new()
            .put(1, &self.author)
            .put(2, &self.cert)
            .put(3, &self.membership.grants)
            .encode()
    }

    /// Reads papers; what they say is checked by [`crate::log::check_author`].
    ///
    /// # Errors
    /// When the bytes are no papers, or too many.
    pub fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        let value = cbor::decode(bytes, PAPERS_LEN_MAX)?;
        let mut map = MapReader::new(&value)?;
        let papers = Self {
            author: map.take(1)?,
            cert: map.take(2)?,
            membership: Membership { grants: map.take(3)? },
        };
        map.finish()?;
        Ok(papers)
    }
}

/// How a head names papers: BLAKE3 of their bytes.
#[must_use]
pub fn papers_hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// Papers that were found good.
#[derive(Clone, Debug)]
pub(crate) struct HeldPapers {
    /// The exact bytes.
    pub(crate) bytes: Vec<u8>,
    pub(crate) hash: [u8; 32],
    pub(crate) cert: NodeCert,
    /// When certificate or membership end.
    pub(crate) until_ms: u64,
}

impl HeldPapers {
    /// Whether a list takes the certificate back, or a grant that the membership stands on.
    pub(crate) fn is_revoked(&self, list: &Revocations) -> bool {
        let of = |org| (org == list.org).then_some(list);
        list.revokes(&self.cert) || self.membership().is_some_and(|m| m.revoked_by(of).is_some())
    }

    /// The membership that was shown.
    pub(crate) fn membership(&self) -> Option<Membership> {
        Some(Papers::decode(&self.bytes).ok()?.membership)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn papers_read_back() {
        let papers = Papers {
            author: NodeId::from_bytes([7; 32]),
            cert: vec![1; CERT_LEN_MAX],
            membership: Membership { grants: vec![vec![2; GRANT_LEN_MAX]; MEMBERSHIP_GRANTS_MAX] },
        };
        assert_eq!(Papers::decode(&papers.encode()), Ok(papers));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader(bytes in any::<Vec<u8>>()) {
            let _ = Papers::decode(&bytes);
        }
    }
}
