//! An organisation vouches for a node.

use ed25519_dalek::SigningKey;

use super::issuer::key_of;
use super::succession::check_chain;
use super::{
    CertError, ISSUER_LEN_MAX, NAME_LEN_MAX, Opened, SUCCESSION_LEN_MAX, SUCCESSIONS_MAX,
    Succession, check_count, check_now,
};
use crate::envelope::{self, Typ};
use crate::id::{NodeId, OrgId, RealmId};
use crate::text::check_name;
use crate::wire::wire_map;

/// Longest life of a certificate: 30 days. Short life is the main means of revocation.
pub const CERT_LIFE_MS_MAX: u64 = 30 * 24 * 3600 * 1000;
/// Largest signed certificate: names, roles and realms at their bounds, with issuer, successions and envelope.
pub const CERT_LEN_MAX: usize =
    2560 + ISSUER_LEN_MAX + SUCCESSIONS_MAX * (SUCCESSION_LEN_MAX + 3) + 7;
/// Most roles in one certificate.
const ROLES_MAX: usize = 8;
/// Longest role, in characters.
const ROLE_LEN_MAX: usize = 32;
/// The role of a node that its organisation lets speak for a realm to other realms.
pub const GATEWAY_ROLE: &str = "gateway";
/// Most realms in one certificate.
const REALMS_MAX: usize = 16;
const WHAT: &str = "the node certificate";

/// A node certificate: the organisation `org` says that the key `node` is its node `name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCert {
    /// The organisation, which signs.
    pub org: OrgId,
    /// Its name for people; not unique, the id is.
    pub org_name: String,
    /// The node's stable name, kept when its key changes.
    pub name: String,
    /// The node's key.
    pub node: NodeId,
    /// Counts the keys this node has had, from 1.
    pub generation: u32,
    /// What the organisation uses the node for; free words, of which [`GATEWAY_ROLE`] means something to others.
    pub roles: Vec<String>,
    /// Realms the node may speak in; empty means every realm of its organisation.
    pub realms: Vec<RealmId>,
    /// Begin of validity, Unix milliseconds.
    pub not_before_ms: u64,
    /// End of validity, Unix milliseconds, at most [`CERT_LIFE_MS_MAX`] after the begin.
    pub not_after_ms: u64,
    /// Number that revocation lists name it by, unique in the organisation.
    pub serial: u64,
    /// The certificate of the issuer that signed; absent when the organisation's root did.
    pub issuer: Option<Vec<u8>>,
    /// What the keys before this one say of it, signed by each, the newest first; absent for a node's first key.
    pub successions: Option<Vec<Vec<u8>>>,
}

wire_map!(NodeCert, "a node certificate", {
    1 must org,
    2 must org_name,
    3 must name,
    4 must node,
    5 must generation,
    6 must roles,
    7 must realms,
    8 must not_before_ms,
    9 must not_after_ms,
    10 must serial,
    11 may issuer,
    12 may successions,
});

impl NodeCert {
    /// Signs with the organisation's root key, or with that of the issuer in it. What breaks a bound is signed too, and
    /// refused by every reader: call [`Self::check`] first.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        envelope::sign(key, Typ::NodeCert, self.to_map().encode())
    }

    /// Checks the bounds of names, lists and the window.
    ///
    /// # Errors
    /// [`CertError::Text`], [`CertError::Count`] or [`CertError::Window`].
    pub fn check(&self) -> Result<(), CertError> {
        check_name("the organisation's name", &self.org_name, NAME_LEN_MAX)?;
        check_name("the node's name", &self.name, NAME_LEN_MAX)?;
        check_count("roles", self.roles.len(), ROLES_MAX)?;
        check_count("realms", self.realms.len(), REALMS_MAX)?;
        self.roles.iter().try_for_each(|role| check_name("a role", role, ROLE_LEN_MAX))?;
        let life_ms = self.not_after_ms.saturating_sub(self.not_before_ms);
        if life_ms == 0 || life_ms > CERT_LIFE_MS_MAX {
            return Err(CertError::Window { what: WHAT, life_ms, max_ms: CERT_LIFE_MS_MAX });
        }
        Ok(())
    }

    /// Reads a certificate that must be in force at `now_ms`, give or take [`super::CLOCK_SKEW_MS`].
    ///
    /// # Errors
    /// See [`CertError`].
    pub fn verify(bytes: &[u8], now_ms: u64) -> Result<Self, CertError> {
        let cert = Self::verify_at_any_time(bytes)?;
        cert.check_in_force(now_ms)?;
        Ok(cert)
    }

    /// Reads a certificate by signature and form only, as one does with the records of a past time.
    ///
    /// # Errors
    /// See [`CertError`]; never one about time.
    pub fn verify_at_any_time(bytes: &[u8]) -> Result<Self, CertError> {
        let opened = Opened::new(bytes, Typ::NodeCert, WHAT, CERT_LEN_MAX)?;
        let cert = opened.read(Self::from_map)?;
        cert.check()?;
        cert.check_successions()?;
        opened.verify_chain(
            cert.org,
            cert.issuer.as_ref(),
            &[cert.not_before_ms, cert.not_after_ms],
        )?;
        Ok(cert)
    }

    /// Checks the window against `now_ms`.
    ///
    /// # Errors
    /// [`CertError::Early`] or [`CertError::Expired`].
    pub fn check_in_force(&self, now_ms: u64) -> Result<(), CertError> {
        check_now(WHAT, self.not_before_ms, self.not_after_ms, now_ms)
    }

    fn check_successions(&self) -> Result<(), CertError> {
        match &self.successions {
            None => Ok(()),
            // One form for one meaning.
            Some(none) if none.is_empty() => Err(CertError::Chain { what: WHAT }),
            Some(all) => check_chain(all, (self.node, self.generation), Some(self.org)).map(|_| ()),
        }
    }

    /// The keys that the node had before, the newest first, as a verified certificate names them.
    #[must_use]
    pub fn predecessors(&self) -> Vec<NodeId> {
        let all = self.successions.iter().flatten();
        all.map_while(|bytes| Some(Succession::verify(bytes).ok()?.old)).collect()
    }

    /// The key of the issuer that signed; `None` when the organisation's root did.
    #[must_use]
    pub fn issuer_key(&self) -> Option<[u8; 32]> {
        key_of(self.issuer.as_ref())
    }

    /// Whether its organisation lets it speak for a realm to other realms. Whether the realm does, its membership says.
    #[must_use]
    pub fn is_gateway(&self) -> bool {
        self.roles.iter().any(|role| role == GATEWAY_ROLE)
    }

    /// Whether the node may speak in `realm`.
    #[must_use]
    pub fn allows(&self, realm: RealmId) -> bool {
        self.realms.is_empty() || self.realms.contains(&realm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::CLOCK_SKEW_MS;

    const DAY: u64 = 24 * 3600 * 1000;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn cert() -> NodeCert {
        NodeCert {
            org: key(1).verifying_key().into(),
            org_name: "Acme".to_owned(),
            name: "rack-7".to_owned(),
            node: key(2).verifying_key().into(),
            generation: 1,
            roles: vec!["edge".to_owned()],
            realms: vec![],
            not_before_ms: 100 * DAY,
            not_after_ms: 130 * DAY,
            serial: 7,
            issuer: None,
            successions: None,
        }
    }

    /// As many as there may be, up to the key 2.
    fn successions(generation: u32) -> Vec<Vec<u8>> {
        let step = |n: u8| {
            let word = Succession {
                old: key(3 + n).verifying_key().into(),
                new: key(2 + n).verifying_key().into(),
                org: cert().org,
                generation: generation - u32::from(n),
                made_ms: u64::MAX,
            };
            word.sign(&key(3 + n))
        };
        (0..3).map(step).collect()
    }

    #[test]
    fn a_certificate_reads_back_while_it_is_in_force() {
        let bytes = cert().sign(&key(1));
        for (now, good) in [
            (100 * DAY - CLOCK_SKEW_MS, true),
            (100 * DAY - CLOCK_SKEW_MS - 1, false),
            (130 * DAY + CLOCK_SKEW_MS, true),
            (130 * DAY + CLOCK_SKEW_MS + 1, false),
        ] {
            let read = NodeCert::verify(&bytes, now);
            assert_eq!(read.is_ok(), good, "{now}");
            assert!(read.is_ok_and(|c| c == cert()) || !good);
        }
        assert_eq!(NodeCert::verify_at_any_time(&bytes), Ok(cert()));
    }

    #[test]
    fn only_the_named_organisation_can_sign_it() {
        let bytes = cert().sign(&key(2));
        assert!(matches!(NodeCert::verify(&bytes, 110 * DAY), Err(CertError::Envelope { .. })));
    }

    #[test]
    fn long_names_and_long_lives_are_refused() {
        let long = NodeCert { name: "n".repeat(65), ..cert() };
        assert!(matches!(
            NodeCert::verify_at_any_time(&long.sign(&key(1))),
            Err(CertError::Text(_))
        ));
        let old = NodeCert { not_after_ms: 130 * DAY + 1, ..cert() };
        assert!(matches!(
            NodeCert::verify_at_any_time(&old.sign(&key(1))),
            Err(CertError::Window { .. })
        ));
        let none = NodeCert { not_after_ms: 1, ..cert() };
        assert!(matches!(none.check(), Err(CertError::Window { life_ms: 0, .. })));
    }

    #[test]
    fn the_largest_certificate_fits() {
        let wide = NodeCert {
            org_name: "\u{1f600}".repeat(64),
            name: "\u{1f600}".repeat(64),
            roles: vec!["\u{1f600}".repeat(32); 8],
            realms: vec![RealmId::from_bytes([9; 16]); 16],
            generation: u32::MAX,
            serial: u64::MAX,
            successions: Some(successions(u32::MAX)),
            ..cert()
        };
        assert!(wide.sign(&key(1)).len() + ISSUER_LEN_MAX <= CERT_LEN_MAX);
        assert_eq!(NodeCert::verify_at_any_time(&wide.sign(&key(1))), Ok(wide));
    }
}
