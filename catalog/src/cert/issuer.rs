//! An organisation's root names an issuer, which signs in its place, so that the root can stay offline.
//!
//! The certificate of an issuer stands inside everything that the issuer signs: a node certificate or a grant is one byte
//! string that leads to the organisation's root by itself. What an issuer signs begins while the issuer is in force; a node
//! certificate ends with it, too. Who steals an issuer's key can sign until it ends, and afterwards grants that pretend to be
//! older: a revocation list that names the key stops both.

use ed25519_dalek::SigningKey;

use super::{CertError, Grant, NodeCert, Opened, check_now};
use crate::envelope::{self, Typ};
use crate::id::OrgId;
use crate::wire::wire_map;

/// Longest life of an issuer: 90 days. A longer one is refused.
pub const ISSUER_LIFE_MS_MAX: u64 = 90 * 24 * 3600 * 1000;
/// Largest signed certificate of an issuer: two keys and three numbers, with the envelope.
pub const ISSUER_LEN_MAX: usize = 256;
const WHAT: &str = "the issuer's certificate";

/// The organisation `org` says that `key` signs for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerCert {
    /// The organisation, whose root key signs.
    pub org: OrgId,
    /// The issuer's Ed25519 public key.
    pub key: [u8; 32],
    /// Begin of validity, Unix milliseconds.
    pub not_before_ms: u64,
    /// End of validity, Unix milliseconds, at most [`ISSUER_LIFE_MS_MAX`] after the begin.
    pub not_after_ms: u64,
    /// Number that revocation lists name it by, unique in the organisation.
    pub serial: u64,
}

wire_map!(IssuerCert, "an issuer's certificate", {
    1 must org,
    2 must key,
    3 must not_before_ms,
    4 must not_after_ms,
    5 must serial,
});

impl IssuerCert {
    /// Signs with the organisation's root key.
    #[must_use]
    pub fn sign(&self, root: &SigningKey) -> Vec<u8> {
        envelope::sign(root, Typ::Issuer, self.to_map().encode())
    }

    /// Reads a certificate by signature and form only.
    ///
    /// # Errors
    /// See [`CertError`]; never one about time.
    pub fn verify_at_any_time(bytes: &[u8]) -> Result<Self, CertError> {
        let opened = Opened::new(bytes, Typ::Issuer, WHAT, ISSUER_LEN_MAX)?;
        let cert = opened.read(Self::from_map)?;
        let life_ms = cert.not_after_ms.saturating_sub(cert.not_before_ms);
        if life_ms == 0 || life_ms > ISSUER_LIFE_MS_MAX {
            return Err(CertError::Window { what: WHAT, life_ms, max_ms: ISSUER_LIFE_MS_MAX });
        }
        opened.verify(cert.org)?;
        Ok(cert)
    }

    /// Checks the window against `now_ms`.
    ///
    /// # Errors
    /// [`CertError::Early`] or [`CertError::Expired`].
    pub fn check_in_force(&self, now_ms: u64) -> Result<(), CertError> {
        check_now(WHAT, self.not_before_ms, self.not_after_ms, now_ms)
    }
}

/// The key of the issuer in a certificate that was verified before; `None` when the root signed itself.
pub(super) fn key_of(issuer: Option<&Vec<u8>>) -> Option<[u8; 32]> {
    Some(IssuerCert::verify_at_any_time(issuer?).ok()?.key)
}

/// A key that signs for an organisation: its root, or an issuer that the root named.
#[derive(Clone)]
pub struct Authority {
    org: OrgId,
    key: SigningKey,
    issuer: Option<(Vec<u8>, IssuerCert)>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_root = self.is_root();
        f.debug_struct("Authority").field("org", &self.org).field("is_root", &is_root).finish()
    }
}

impl From<SigningKey> for Authority {
    fn from(root: SigningKey) -> Self {
        Self::root(root)
    }
}

impl Authority {
    /// The organisation's root itself.
    #[must_use]
    pub fn root(key: SigningKey) -> Self {
        Self { org: key.verifying_key().into(), key, issuer: None }
    }

    /// An issuer with its certificate.
    ///
    /// # Errors
    /// See [`CertError`]; [`CertError::OtherKey`] when the certificate is not that of `key`. Time is not looked at.
    pub fn issuer(key: SigningKey, cert: Vec<u8>) -> Result<Self, CertError> {
        let read = IssuerCert::verify_at_any_time(&cert)?;
        if read.key != key.verifying_key().to_bytes() {
            return Err(CertError::OtherKey { what: WHAT });
        }
        Ok(Self { org: read.org, key, issuer: Some((cert, read)) })
    }

    /// For whom it signs.
    #[must_use]
    pub const fn org(&self) -> OrgId {
        self.org
    }

    /// Whether it is the root: only that can name issuers, revoke, and vouch for images of disks.
    #[must_use]
    pub const fn is_root(&self) -> bool {
        self.issuer.is_none()
    }

    /// The root's key.
    #[must_use]
    pub fn root_key(&self) -> Option<&SigningKey> {
        self.is_root().then_some(&self.key)
    }

    /// The issuer's certificate.
    #[must_use]
    pub fn issuer_cert(&self) -> Option<&IssuerCert> {
        self.issuer.as_ref().map(|(_, cert)| cert)
    }

    /// Until when what it signs is believed, Unix milliseconds; the root has no end.
    #[must_use]
    pub fn until_ms(&self) -> u64 {
        self.issuer_cert().map_or(u64::MAX, |cert| cert.not_after_ms)
    }

    /// Signs a node certificate in the organisation's name. Its window is cut to the issuer's. What breaks a bound is signed
    /// too, and refused by every reader: call [`NodeCert::check`] first.
    #[must_use]
    pub fn certify(&self, cert: NodeCert) -> (NodeCert, Vec<u8>) {
        let mut cert = NodeCert { org: self.org, issuer: None, ..cert };
        if let Some((bytes, issuer)) = &self.issuer {
            cert.not_before_ms = cert.not_before_ms.max(issuer.not_before_ms);
            cert.not_after_ms = cert.not_after_ms.min(issuer.not_after_ms);
            cert.issuer = Some(bytes.clone());
        }
        let bytes = cert.sign(&self.key);
        (cert, bytes)
    }

    /// Signs a grant in the organisation's name. Its begin is moved into the issuer's window.
    #[must_use]
    pub fn grant(&self, grant: Grant) -> Vec<u8> {
        let mut grant = Grant { issuer: self.org, issuer_cert: None, ..grant };
        if let Some((bytes, issuer)) = &self.issuer {
            grant.not_before_ms =
                grant.not_before_ms.clamp(issuer.not_before_ms, issuer.not_after_ms);
            grant.issuer_cert = Some(bytes.clone());
        }
        grant.sign(&self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Role;
    use super::*;
    use crate::id::RealmId;
    use proptest::prelude::*;

    const DAY: u64 = 24 * 3600 * 1000;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn issuer(root: u8, issuer: u8) -> IssuerCert {
        IssuerCert {
            org: key(root).verifying_key().into(),
            key: key(issuer).verifying_key().to_bytes(),
            not_before_ms: 100 * DAY,
            not_after_ms: 190 * DAY,
            serial: 3,
        }
    }

    fn authority() -> Authority {
        Authority::issuer(key(2), issuer(1, 2).sign(&key(1))).unwrap()
    }

    fn node_cert(not_before_ms: u64, not_after_ms: u64) -> NodeCert {
        NodeCert {
            org: key(1).verifying_key().into(),
            org_name: "Acme".to_owned(),
            name: "rack-7".to_owned(),
            node: key(3).verifying_key().into(),
            generation: 1,
            roles: vec![],
            realms: vec![],
            not_before_ms,
            not_after_ms,
            serial: 9,
            issuer: None,
            successions: None,
        }
    }

    #[test]
    fn what_an_issuer_signs_leads_to_the_root_by_itself() {
        let (cert, bytes) = authority().certify(node_cert(150 * DAY, 180 * DAY));
        let read = NodeCert::verify(&bytes, 160 * DAY).unwrap();
        assert_eq!(read, cert);
        assert_eq!(read.org, OrgId::from(key(1).verifying_key()));
        assert_eq!(read.issuer_key(), Some(key(2).verifying_key().to_bytes()));
        assert_eq!(authority().org(), read.org);
    }

    #[test]
    fn a_certificate_does_not_outlive_its_issuer() {
        let (cert, _) = authority().certify(node_cert(170 * DAY, 199 * DAY));
        assert_eq!(cert.not_after_ms, 190 * DAY, "it is cut");
        let long = NodeCert {
            issuer: Some(issuer(1, 2).sign(&key(1))),
            ..node_cert(170 * DAY, 190 * DAY + 1)
        };
        assert!(matches!(
            NodeCert::verify_at_any_time(&long.sign(&key(2))),
            Err(CertError::OutsideIssuer { .. })
        ));
        let early = NodeCert { not_before_ms: 100 * DAY - 1, not_after_ms: 120 * DAY, ..long };
        assert!(matches!(
            NodeCert::verify_at_any_time(&early.sign(&key(2))),
            Err(CertError::OutsideIssuer { .. })
        ));
    }

    #[test]
    fn an_issuer_of_another_organisation_or_with_another_key_signs_nothing() {
        let foreign = Authority::issuer(key(2), issuer(5, 2).sign(&key(5))).unwrap();
        let (_, bytes) = foreign.certify(node_cert(150 * DAY, 180 * DAY));
        assert_eq!(
            NodeCert::verify_at_any_time(&bytes).unwrap().org,
            OrgId::from(key(5).verifying_key()),
            "it speaks for its own organisation only"
        );
        let stolen = NodeCert {
            issuer: Some(issuer(5, 2).sign(&key(5))),
            ..node_cert(150 * DAY, 180 * DAY)
        };
        assert_eq!(
            NodeCert::verify_at_any_time(&stolen.sign(&key(2))),
            Err(CertError::IssuerOfOther { what: "the node certificate" })
        );
        assert!(matches!(
            Authority::issuer(key(4), issuer(1, 2).sign(&key(1))),
            Err(CertError::OtherKey { .. })
        ));
        let forged = issuer(1, 2).sign(&key(2));
        assert!(matches!(Authority::issuer(key(2), forged), Err(CertError::Envelope { .. })));
        let long = IssuerCert { not_after_ms: 191 * DAY, ..issuer(1, 2) };
        assert!(matches!(
            IssuerCert::verify_at_any_time(&long.sign(&key(1))),
            Err(CertError::Window { .. })
        ));
    }

    #[test]
    fn an_issuer_admits_for_its_organisation() {
        let grant = Grant {
            realm: RealmId::from_bytes([1; 16]),
            founder_nonce: None,
            issuer: key(1).verifying_key().into(),
            member: key(6).verifying_key().into(),
            member_name: "Guest".to_owned(),
            role: Role::Peer,
            not_before_ms: 150 * DAY,
            not_after_ms: 900 * DAY,
            serial: 1,
            issuer_cert: None,
        };
        let bytes = authority().grant(grant.clone());
        let read = Grant::verify(&bytes, 600 * DAY).unwrap();
        assert_eq!(read.issuer, grant.issuer, "it holds when the issuer has ended");
        let late = Grant {
            not_before_ms: 191 * DAY,
            issuer_cert: Some(issuer(1, 2).sign(&key(1))),
            ..grant
        };
        assert!(matches!(
            Grant::verify_at_any_time(&late.sign(&key(2))),
            Err(CertError::OutsideIssuer { .. })
        ));
    }

    #[test]
    fn the_largest_certificate_of_an_issuer_fits() {
        let wide = IssuerCert {
            not_before_ms: u64::MAX - ISSUER_LIFE_MS_MAX,
            not_after_ms: u64::MAX,
            serial: u64::MAX,
            ..issuer(1, 2)
        };
        assert!(wide.sign(&key(1)).len() <= ISSUER_LEN_MAX);
    }

    proptest! {
        #[test]
        fn a_chain_holds_exactly_when_every_link_does(
            root in 1u8..4, named in 1u8..4, signs in 1u8..4, claims in 1u8..4, from in 90u64..200, days in 1u64..31,
        ) {
            let cert = NodeCert {
                org: key(claims).verifying_key().into(),
                issuer: Some(issuer(root, named).sign(&key(root))),
                ..node_cert(from * DAY, (from + days) * DAY)
            };
            let is_good = claims == root && signs == named && from >= 100 && from + days <= 190 && days <= 30;
            prop_assert_eq!(NodeCert::verify_at_any_time(&cert.sign(&key(signs))).is_ok(), is_good);
        }

        #[test]
        fn no_bytes_panic_the_reader(bytes in any::<Vec<u8>>()) {
            let _ = IssuerCert::verify_at_any_time(&bytes);
        }
    }
}
