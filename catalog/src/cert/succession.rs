//! A node's key says which key comes after it, so that the organisation alone cannot put another in its place.
//!
//! The statement is signed by the old key and stands inside the new key's certificate, which the organisation signs: both
//! had to agree, and every paper that shows the certificate (greeting, catalogue, ledger) shows the statement, too. Whoever
//! stole the old key can name a successor, and gets no certificate for it; whoever stole an issuer can sign a certificate,
//! and has no word of the old key. The statement has no end: what it says stays true.

use ed25519_dalek::SigningKey;

use super::{CertError, Opened, check_count};
use crate::envelope::{self, Typ};
use crate::id::{NodeId, OrgId};
use crate::wire::wire_map;

/// Largest signed statement: three keys and two numbers, with the envelope.
pub const SUCCESSION_LEN_MAX: usize = 256;
/// Most statements in one certificate, the newest first; older ones are left out then, and a partner that was away for as
/// many rotations no longer knows the node by its first key.
pub const SUCCESSIONS_MAX: usize = 3;
const WHAT: &str = "the succession of keys";

/// The key `old` says that `new` is the node's key from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    /// The key so far, which signs.
    pub old: NodeId,
    /// The key that comes after it.
    pub new: NodeId,
    /// The organisation whose node it is: a statement serves no other one.
    pub org: OrgId,
    /// Which of the node's keys the new one is, from 2.
    pub generation: u32,
    /// When it was made, Unix milliseconds, by the node's clock; for people.
    pub made_ms: u64,
}

wire_map!(Succession, "a succession", {
    1 must old,
    2 must new,
    3 must org,
    4 must generation,
    5 must made_ms,
});

impl Succession {
    /// Signs with the old key.
    #[must_use]
    pub fn sign(&self, old_key: &SigningKey) -> Vec<u8> {
        envelope::sign(old_key, Typ::Succession, self.to_map().encode())
    }

    /// Reads a statement, and checks that the old key signed it.
    ///
    /// # Errors
    /// See [`CertError`].
    pub fn verify(bytes: &[u8]) -> Result<Self, CertError> {
        let opened = Opened::new(bytes, Typ::Succession, WHAT, SUCCESSION_LEN_MAX)?;
        let read = opened.read(Self::from_map)?;
        opened.verify(OrgId::from_bytes(*read.old.as_bytes()))?;
        Ok(read)
    }
}

/// Checks that statements lead, newest first, to a node's key of a generation. With `org` they have to be of that organisation.
///
/// # Errors
/// See [`CertError`].
pub(super) fn check_chain(
    successions: &[Vec<u8>],
    (node, generation): (NodeId, u32),
    org: Option<OrgId>,
) -> Result<Vec<Succession>, CertError> {
    check_count("successions", successions.len(), SUCCESSIONS_MAX)?;
    let (mut to, mut number) = (node, generation);
    let mut chain = Vec::with_capacity(successions.len());
    for bytes in successions {
        let read = Succession::verify(bytes)?;
        let is_next = read.new == to && read.generation == number && number > 1;
        let returns = read.old == node || chain.iter().any(|s: &Succession| s.old == read.old);
        if !is_next || returns || org.is_some_and(|org| org != read.org) {
            return Err(CertError::Chain { what: WHAT });
        }
        (to, number) = (read.old, number - 1);
        chain.push(read);
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::super::NodeCert;
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 24 * 3600 * 1000;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn id(seed: u8) -> NodeId {
        key(seed).verifying_key().into()
    }

    fn step(old: u8, new: u8, generation: u32) -> Succession {
        let org = key(1).verifying_key().into();
        Succession { old: id(old), new: id(new), org, generation, made_ms: 100 * DAY }
    }

    fn cert(node: u8, generation: u32, successions: Vec<Vec<u8>>) -> NodeCert {
        NodeCert {
            org: key(1).verifying_key().into(),
            org_name: "Acme".to_owned(),
            name: "rack-7".to_owned(),
            node: id(node),
            generation,
            roles: vec![],
            realms: vec![],
            not_before_ms: 100 * DAY,
            not_after_ms: 130 * DAY,
            serial: 7,
            issuer: None,
            successions: Some(successions),
        }
    }

    fn read(cert: &NodeCert) -> Result<Vec<NodeId>, CertError> {
        NodeCert::verify(&cert.sign(&key(1)), 110 * DAY).map(|cert| cert.predecessors())
    }

    #[test]
    fn a_certificate_names_the_keys_before_it_by_their_own_word() {
        let (ab, bc) = (step(10, 11, 2).sign(&key(10)), step(11, 12, 3).sign(&key(11)));
        assert!(ab.len() <= SUCCESSION_LEN_MAX);
        assert_eq!(read(&cert(11, 2, vec![ab.clone()])), Ok(vec![id(10)]));
        assert_eq!(read(&cert(12, 3, vec![bc.clone(), ab.clone()])), Ok(vec![id(11), id(10)]));
        // Left out from the end, never from the front; nothing twice, and no generation but the next.
        assert_eq!(read(&cert(12, 3, vec![bc.clone()])), Ok(vec![id(11)]));
        for bad in [
            cert(12, 3, vec![ab.clone()]),
            cert(12, 3, vec![ab, bc.clone()]),
            cert(12, 4, vec![bc.clone()]),
            cert(12, 3, vec![bc.clone(), bc.clone()]),
            cert(13, 3, vec![bc.clone()]),
            cert(11, 3, vec![step(12, 11, 3).sign(&key(12)), step(11, 12, 2).sign(&key(11))]),
        ] {
            assert_eq!(read(&bad), Err(CertError::Chain { what: WHAT }), "{bad:?}");
        }
        let many = vec![bc; SUCCESSIONS_MAX + 1];
        assert!(matches!(read(&cert(12, 3, many)), Err(CertError::Count { .. })));
        assert!(matches!(read(&cert(12, 3, vec![])), Err(CertError::Chain { .. })));
    }

    #[test]
    fn neither_the_organisation_nor_a_thief_of_the_key_replaces_a_node_alone() {
        // The organisation's key signs in the place of the node's.
        let forged = step(10, 11, 2).sign(&key(1));
        assert!(matches!(read(&cert(11, 2, vec![forged])), Err(CertError::Envelope { .. })));
        // The node's key signs a certificate in the place of the organisation's.
        let stolen = cert(11, 2, vec![step(10, 11, 2).sign(&key(10))]).sign(&key(10));
        assert!(matches!(NodeCert::verify(&stolen, 110 * DAY), Err(CertError::Envelope { .. })));
        // A word that was given for another organisation.
        let other = Succession { org: key(9).verifying_key().into(), ..step(10, 11, 2) };
        let other = cert(11, 2, vec![other.sign(&key(10))]);
        assert_eq!(read(&other), Err(CertError::Chain { what: WHAT }));
    }

    #[test]
    fn the_widest_statement_fits() {
        let wide = Succession { generation: u32::MAX, made_ms: u64::MAX, ..step(10, 11, 2) };
        let bytes = wide.sign(&key(10));
        assert!(bytes.len() <= SUCCESSION_LEN_MAX, "{}", bytes.len());
        assert_eq!(Succession::verify(&bytes), Ok(wide));
    }

    proptest! {
        #[test]
        fn a_chain_holds_exactly_when_each_key_names_the_next(
            old in 10u8..13, new in 10u8..13, signs in 10u8..13, node in 10u8..13, generation in 1u32..4, claims in 1u32..4,
        ) {
            let word = step(old, new, generation).sign(&key(signs));
            let is_good = signs == old && new == node && old != node && generation == claims && claims > 1;
            prop_assert_eq!(read(&cert(node, claims, vec![word])).is_ok(), is_good);
        }

        #[test]
        fn no_bytes_panic_the_reader(bytes in any::<Vec<u8>>()) {
            let _ = Succession::verify(&bytes);
        }
    }
}
