//! How a node gets its papers without ever meeting its organisation's key: a request and an answer, carried as files.
//!
//! The node signs the request with its own key, so that nobody asks for papers of a key that is not theirs. The answer needs
//! no signature of its own: the node certificate, the issuer's certificate and the grant in it lead to the organisation's root,
//! each by itself, and name the node, the issuer and the organisation. What a carrier can do is to withhold an answer, or to
//! bring one of another organisation; so whoever installs one is shown the organisation's key first.

use ed25519_dalek::SigningKey;

use super::succession::check_chain;
use super::{
    Authority, CERT_LEN_MAX, CertError, GATEWAY_ROLE, GRANT_LEN_MAX, Grant, ISSUER_LEN_MAX,
    ISSUER_LIFE_MS_MAX, IssuerCert, MEMBERSHIP_GRANTS_MAX, Membership, MembershipError,
    NAME_LEN_MAX, NodeCert, Opened, Role, SUCCESSION_LEN_MAX, SUCCESSIONS_MAX, realm_id,
};
use crate::cbor::{self, CborError};
use crate::envelope::{self, Typ};
use crate::id::{NodeId, OrgId, RealmId};
use crate::text::check_name;
use crate::wire::wire_map;

/// Largest signed request: a name at its bound, two keys and what older keys say, with the envelope.
pub const REQUEST_LEN_MAX: usize = 512 + SUCCESSIONS_MAX * (SUCCESSION_LEN_MAX + 3) + 2;
/// Largest answer: certificates and membership at their bounds.
pub const ANSWER_LEN_MAX: usize =
    CERT_LEN_MAX + ISSUER_LEN_MAX + MEMBERSHIP_GRANTS_MAX * (GRANT_LEN_MAX + 8) + 128;
/// How long the grant holds with which an organisation founds a realm: 20 years.
const FOUNDING_LIFE_MS: u64 = 20 * 365 * 24 * 3600 * 1000;
/// Signed objects start this much in the past, for clocks that are a little behind.
const BACKDATE_MS: u64 = 60_000;
const WHAT: &str = "the request";

/// A node asks its organisation for papers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The node, which signs.
    pub node: NodeId,
    /// The stable name it wants.
    pub name: String,
    /// Which of its keys this is, from 1.
    pub generation: u32,
    /// A key that is to sign for the organisation, when the node is to be able to renew its papers and to admit others.
    pub issuer: Option<[u8; 32]>,
    /// When it was made, Unix milliseconds, by the node's clock; for people.
    pub made_ms: u64,
    /// What the keys that the node had before say of this one, signed by each, the newest first.
    pub successions: Option<Vec<Vec<u8>>>,
    /// Whether the node is to be a gateway ([`GATEWAY_ROLE`]); absent of requests of older programs.
    pub gateway: Option<bool>,
}

wire_map!(Request, "a request", {
    1 must node,
    2 must name,
    3 must generation,
    4 may issuer,
    5 must made_ms,
    6 may successions,
    7 may gateway,
});

/// What an organisation gives a node beyond its name and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The organisation's name for people.
    pub org_name: String,
    /// How long the node certificate holds; cut to what is allowed.
    pub life_ms: u64,
    /// The clock.
    pub now_ms: u64,
    /// Makes the realm that is founded for the node unique.
    pub nonce: [u8; 16],
    /// Number of the first certificate, unique in the organisation; the next ones follow.
    pub serial: u64,
}

impl Request {
    /// Signs with the node's key.
    #[must_use]
    pub fn sign(&self, node_key: &SigningKey) -> Vec<u8> {
        envelope::sign(node_key, Typ::Request, self.to_map().encode())
    }

    /// Reads a request.
    ///
    /// # Errors
    /// See [`CertError`].
    pub fn verify(bytes: &[u8]) -> Result<Self, CertError> {
        let opened = Opened::new(bytes, Typ::Request, WHAT, REQUEST_LEN_MAX)?;
        let request = opened.read(Self::from_map)?;
        check_name("the node's name", &request.name, NAME_LEN_MAX)?;
        opened.verify(OrgId::from_bytes(*request.node.as_bytes()))?;
        let older = request.successions.as_deref().unwrap_or_default();
        check_chain(older, (request.node, request.generation), None)?;
        Ok(request)
    }

    /// Whether the node is to be a gateway.
    #[must_use]
    pub fn is_gateway(&self) -> bool {
        self.gateway == Some(true)
    }

    /// Grants it. An issuer is named only when the request asks for one and `authority` is the root.
    ///
    /// # Errors
    /// [`CertError`] when the certificate would be refused, by its names or because the issuer that signs has ended.
    pub fn answer(&self, authority: &Authority, terms: &Terms) -> Result<Answer, CertError> {
        let not_before_ms = terms.now_ms.saturating_sub(BACKDATE_MS);
        let life_ms = terms.life_ms.min(super::CERT_LIFE_MS_MAX);
        let (cert, bytes) = authority.certify(NodeCert {
            org: authority.org(),
            org_name: terms.org_name.clone(),
            name: self.name.clone(),
            node: self.node,
            generation: self.generation,
            roles: if self.is_gateway() { vec![GATEWAY_ROLE.to_owned()] } else { Vec::new() },
            realms: Vec::new(),
            not_before_ms,
            not_after_ms: not_before_ms.saturating_add(life_ms),
            serial: terms.serial,
            issuer: None,
            successions: self.successions.clone(),
        });
        cert.check()?;
        NodeCert::verify(&bytes, terms.now_ms)?;
        let issuer = self.issuer.zip(authority.root_key()).map(|(key, root)| {
            let not_after_ms = not_before_ms.saturating_add(ISSUER_LIFE_MS_MAX);
            let serial = terms.serial.saturating_add(1);
            IssuerCert { org: authority.org(), key, not_before_ms, not_after_ms, serial }.sign(root)
        });
        let (realm, membership) = authority.found(terms);
        Ok(Answer { cert: bytes, issuer, realm, membership })
    }
}

impl Authority {
    /// A realm whose only member is this organisation.
    #[must_use]
    pub fn found(&self, terms: &Terms) -> (RealmId, Membership) {
        let realm = realm_id(self.org(), &terms.nonce);
        let grant = self.grant(Grant {
            realm,
            founder_nonce: Some(terms.nonce),
            issuer: self.org(),
            member: self.org(),
            member_name: terms.org_name.clone(),
            role: Role::Partner,
            not_before_ms: terms.now_ms.saturating_sub(BACKDATE_MS),
            not_after_ms: terms.now_ms.saturating_add(FOUNDING_LIFE_MS),
            serial: terms.serial,
            issuer_cert: None,
        });
        (realm, Membership { grants: vec![grant] })
    }
}

/// The papers that an organisation gives a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The node certificate.
    pub cert: Vec<u8>,
    /// The certificate of the issuer that the node asked for.
    pub issuer: Option<Vec<u8>>,
    /// A realm to begin in.
    pub realm: RealmId,
    /// The organisation's membership there.
    pub membership: Membership,
}

/// Why an answer is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// It is none.
    #[error("the answer cannot be read")]
    Payload(#[from] CborError),
    /// A certificate in it is refused.
    #[error("a certificate in the answer is refused")]
    Cert(#[from] CertError),
    /// The organisation is no member of the realm in it.
    #[error("the answer's membership is refused")]
    Membership(#[from] MembershipError),
    /// It is another node's.
    #[error("the answer is for the node {found}, and this one is {expected}")]
    OtherNode {
        /// The node at hand.
        expected: NodeId,
        /// The node certified.
        found: NodeId,
    },
    /// The issuer in it is not the one that was asked for, or another organisation's.
    #[error("the answer names another issuer than the one that this node asked for")]
    OtherIssuer,
}

impl Answer {
    /// The bytes of a file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::MapWriter::new()
            .put(1, &self.cert)
            .put_opt(2, self.issuer.as_ref())
            .put(3, &self.realm)
            .put(4, &self.membership.grants)
            .encode()
    }

    /// Reads an answer. Nothing in it is verified here.
    ///
    /// # Errors
    /// [`AnswerError::Payload`].
    pub fn decode(bytes: &[u8]) -> Result<Self, AnswerError> {
        let value = cbor::decode(bytes, ANSWER_LEN_MAX)?;
        let mut map = cbor::MapReader::new(&value)?;
        let answer = Self {
            cert: map.take(1)?,
            issuer: map.take_opt(2)?,
            realm: map.take(3)?,
            membership: Membership { grants: map.take(4)? },
        };
        map.finish()?;
        Ok(answer)
    }

    /// Checks that all of it is for this node, from one organisation, and in force, and returns the node certificate.
    ///
    /// # Errors
    /// See [`AnswerError`].
    pub fn verify(
        &self,
        node: NodeId,
        issuer_key: Option<[u8; 32]>,
        now_ms: u64,
    ) -> Result<NodeCert, AnswerError> {
        let cert = NodeCert::verify(&self.cert, now_ms)?;
        if cert.node != node {
            return Err(AnswerError::OtherNode { expected: node, found: cert.node });
        }
        if let Some(issuer) = &self.issuer {
            let issuer = IssuerCert::verify_at_any_time(issuer)?;
            if issuer.org != cert.org || Some(issuer.key) != issuer_key {
                return Err(AnswerError::OtherIssuer);
            }
        }
        self.membership.verify(self.realm, cert.org, now_ms)?;
        Ok(cert)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 24 * 3600 * 1000;
    const NOW: u64 = 20_000 * DAY;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn request(issuer: Option<u8>) -> Request {
        Request {
            node: key(2).verifying_key().into(),
            name: "rack-7".to_owned(),
            generation: 1,
            issuer: issuer.map(|seed| key(seed).verifying_key().to_bytes()),
            made_ms: NOW,
            successions: None,
            gateway: None,
        }
    }

    fn terms(now_ms: u64) -> Terms {
        let org_name = "Acme".to_owned();
        Terms { org_name, life_ms: 30 * DAY, now_ms, nonce: [7; 16], serial: 5 }
    }

    #[test]
    fn a_node_that_asks_to_be_a_gateway_gets_the_role_and_no_other_does() {
        for (gateway, roles) in
            [(Some(true), vec![GATEWAY_ROLE.to_owned()]), (Some(false), vec![]), (None, vec![])]
        {
            let request = Request { gateway, ..request(None) };
            assert_eq!(Request::verify(&request.sign(&key(2))).unwrap(), request);
            let terms = Terms {
                org_name: "Acme".to_owned(),
                life_ms: DAY,
                now_ms: NOW,
                nonce: [1; 16],
                serial: 1,
            };
            let answer = request.answer(&Authority::root(key(1)), &terms).unwrap();
            assert_eq!(answer.verify(request.node, None, NOW).unwrap().roles, roles);
        }
    }

    #[test]
    fn a_request_is_answered_and_the_answer_fits_its_node_only() {
        let read = Request::verify(&request(Some(3)).sign(&key(2))).unwrap();
        assert_eq!(read, request(Some(3)));
        let answer = read.answer(&Authority::root(key(1)), &terms(NOW)).unwrap();
        let answer = Answer::decode(&answer.encode()).unwrap();
        let cert = answer.verify(read.node, read.issuer, NOW).unwrap();
        assert_eq!((cert.name.as_str(), cert.generation), ("rack-7", 1));
        assert!(matches!(
            answer.verify(key(9).verifying_key().into(), read.issuer, NOW),
            Err(AnswerError::OtherNode { .. })
        ));
        assert_eq!(answer.verify(read.node, None, NOW), Err(AnswerError::OtherIssuer));
        assert!(answer.verify(read.node, read.issuer, NOW + 31 * DAY).is_err());

        // What the root named can enrol the next one, but name nobody in its place.
        let issuer = Authority::issuer(key(3), answer.issuer.unwrap()).unwrap();
        let second = Request { node: key(4).verifying_key().into(), ..request(Some(5)) };
        let answer = second.answer(&issuer, &terms(NOW)).unwrap();
        assert_eq!(answer.issuer, None);
        assert_eq!(answer.verify(second.node, second.issuer, NOW).unwrap().org, cert.org);
        assert!(second.answer(&issuer, &terms(NOW + 91 * DAY)).is_err(), "it has ended");
    }

    #[test]
    fn nobody_asks_for_papers_of_a_key_that_is_not_theirs() {
        assert!(Request::verify(&request(None).sign(&key(9))).is_err());
        let unnamed = Request { name: " ".to_owned(), ..request(None) };
        assert!(matches!(Request::verify(&unnamed.sign(&key(2))), Err(CertError::Text(_))));
        let widest = Request {
            name: "\u{1f600}".repeat(NAME_LEN_MAX),
            generation: u32::MAX,
            made_ms: u64::MAX,
            ..request(Some(3))
        };
        assert_eq!(Request::verify(&widest.sign(&key(2))), Ok(widest));
    }

    #[test]
    fn parts_of_two_organisations_make_no_answer() {
        let request = request(Some(3));
        let ours = request.answer(&Authority::root(key(1)), &terms(NOW)).unwrap();
        let theirs = request.answer(&Authority::root(key(8)), &terms(NOW)).unwrap();
        let mixed = Answer { issuer: theirs.issuer, ..ours.clone() };
        assert_eq!(mixed.verify(request.node, request.issuer, NOW), Err(AnswerError::OtherIssuer));
        let mixed = Answer { realm: theirs.realm, membership: theirs.membership, ..ours };
        assert!(matches!(
            mixed.verify(request.node, request.issuer, NOW),
            Err(AnswerError::Membership(_))
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_readers(bytes in any::<Vec<u8>>()) {
            let _ = (Request::verify(&bytes), Answer::decode(&bytes));
        }
    }
}
