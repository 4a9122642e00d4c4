//! This node's own papers: in whose name it speaks, and how its certificate is renewed.
//!
//! A node that holds a key of its organisation, the root or an issuer, makes its own certificate at every start and renews it
//! ten days before its end. One that was only enrolled shows what it was given; before that ends it asks a node of its
//! organisation that holds a key (`super::super::trust`), and its owner may always bring a new answer by file.

use catalog::cert::{Answer, AnswerError, Authority, Membership, NodeCert, Terms};
use catalog::{NodeId, OrgId, RealmId};

/// How long a node certificate is made for; the longest that peers accept.
pub(in crate::engine) const CERT_LIFE_MS: u64 = 30 * 24 * 3_600_000;
/// A certificate is renewed when less than this is left.
pub(in crate::engine) const CERT_RENEW_MS: u64 = 10 * 24 * 3_600_000;
/// Signed objects start this much in the past, for clocks that are a little behind.
pub(super) const BACKDATE_MS: u64 = 60_000;

/// In whose name a node speaks.
#[derive(Clone, Debug)]
pub enum Papers {
    /// It holds a key that signs for its organisation.
    Authority {
        /// The key.
        authority: Box<Authority>,
        /// Which of the node's keys this is, from 1.
        generation: u32,
        /// What the keys before it say of it, the newest first.
        successions: Vec<Vec<u8>>,
    },
    /// It holds what the organisation signed for it elsewhere.
    Enrolled(Box<Answer>),
}

impl Papers {
    /// Of a node whose organisation's root key is at hand.
    #[must_use]
    pub fn root(key: ed25519_dalek::SigningKey) -> Self {
        let authority = Box::new(Authority::root(key));
        Self::Authority { authority, generation: 1, successions: Vec::new() }
    }
}

/// What a node shows of itself, and what it can sign.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Standing {
    me: NodeId,
    org_name: String,
    node_name: String,
    papers: Papers,
    roles: Vec<String>,
    cert: NodeCert,
    cert_bytes: Vec<u8>,
}

impl Standing {
    pub(super) fn new(
        me: NodeId,
        (org_name, node_name): (String, String),
        (papers, roles): (Papers, Vec<String>),
        now_ms: u64,
    ) -> Result<Self, AnswerError> {
        let (cert, cert_bytes) = match &papers {
            Papers::Authority { authority, generation, successions } => {
                let key = (me, *generation, successions.as_slice());
                certify(authority, key, (&org_name, &node_name), &roles, now_ms)
            }
            Papers::Enrolled(answer) => {
                let cert = NodeCert::verify_at_any_time(&answer.cert)?;
                if cert.node != me {
                    return Err(AnswerError::OtherNode { expected: me, found: cert.node });
                }
                (cert, answer.cert.clone())
            }
        };
        let (org_name, node_name) = match &papers {
            Papers::Authority { .. } => (org_name, node_name),
            Papers::Enrolled(_) => (cert.org_name.clone(), cert.name.clone()),
        };
        Ok(Self { me, org_name, node_name, papers, roles, cert, cert_bytes })
    }

    /// Whether the owner wants the node to be used for this.
    pub(super) fn wants(&self, role: &str) -> bool {
        self.roles.iter().any(|own| own == role)
    }

    /// The root key of the organisation, when it is at hand.
    pub(in crate::engine) fn root_key(&self) -> Option<&ed25519_dalek::SigningKey> {
        self.authority()?.root_key()
    }

    pub(in crate::engine) fn authority(&self) -> Option<&Authority> {
        match &self.papers {
            Papers::Authority { authority, .. } => Some(authority),
            Papers::Enrolled(_) => None,
        }
    }

    /// A realm to begin in.
    pub(super) fn found(&self, now_ms: u64, nonce: [u8; 16]) -> (RealmId, Membership) {
        match &self.papers {
            Papers::Authority { authority, .. } => {
                let org_name = self.org_name.clone();
                let life_ms = CERT_LIFE_MS;
                authority.found(&Terms { org_name, life_ms, now_ms, nonce, serial: now_ms })
            }
            Papers::Enrolled(answer) => (answer.realm, answer.membership.clone()),
        }
    }

    /// Renews the certificate when it is due and can be. True when it changed.
    pub(super) fn renew(&mut self, now_ms: u64) -> bool {
        let Papers::Authority { authority, generation, successions } = &self.papers else {
            return false;
        };
        if now_ms < self.next_renewal_ms() {
            return false;
        }
        let names = (self.org_name.as_str(), self.node_name.as_str());
        let key = (self.me, *generation, successions.as_slice());
        (self.cert, self.cert_bytes) = certify(authority, key, names, &self.roles, now_ms);
        true
    }

    /// When the node renews its certificate by itself; never when nothing at hand could make it last longer.
    pub(super) fn next_renewal_ms(&self) -> u64 {
        match self.authority() {
            Some(authority) if authority.until_ms() > self.cert.not_after_ms => {
                self.cert.not_after_ms.saturating_sub(CERT_RENEW_MS) + 1
            }
            _ => u64::MAX,
        }
    }

    /// Takes a newer certificate of this node that was made elsewhere. False when it is not one.
    pub(super) fn take(&mut self, bytes: &[u8], now_ms: u64) -> bool {
        let Ok(cert) = NodeCert::verify(bytes, now_ms) else { return false };
        let fits = cert.node == self.me && cert.org == self.cert.org;
        if !fits || cert.not_after_ms <= self.cert.not_after_ms {
            return false;
        }
        (self.cert, self.cert_bytes) = (cert, bytes.to_vec());
        true
    }

    /// Makes a new certificate for a node of the own organisation that shows one that still holds: same name, same key.
    pub(super) fn renew_for(&self, cert: &NodeCert, now_ms: u64) -> Option<Vec<u8>> {
        let authority = self.authority().filter(|authority| authority.until_ms() > now_ms)?;
        if cert.org != authority.org() || cert.check_in_force(now_ms).is_err() {
            return None;
        }
        let not_before_ms = now_ms.saturating_sub(BACKDATE_MS);
        let (renewed, bytes) = authority.certify(NodeCert {
            not_before_ms,
            not_after_ms: not_before_ms + CERT_LIFE_MS,
            serial: now_ms,
            ..cert.clone()
        });
        (renewed.not_after_ms > cert.not_after_ms).then_some(bytes)
    }

    pub(in crate::engine) const fn cert(&self) -> &NodeCert {
        &self.cert
    }

    pub(in crate::engine) fn cert_bytes(&self) -> &[u8] {
        &self.cert_bytes
    }

    pub(super) const fn me(&self) -> NodeId {
        self.me
    }

    pub(super) const fn org(&self) -> OrgId {
        self.cert.org
    }

    pub(in crate::engine) fn org_name(&self) -> &str {
        &self.org_name
    }
}

fn certify(
    authority: &Authority,
    (me, generation, successions): (NodeId, u32, &[Vec<u8>]),
    (org_name, node_name): (&str, &str),
    roles: &[String],
    now_ms: u64,
) -> (NodeCert, Vec<u8>) {
    let not_before_ms = now_ms.saturating_sub(BACKDATE_MS);
    authority.certify(NodeCert {
        org: authority.org(),
        org_name: org_name.to_owned(),
        name: node_name.to_owned(),
        node: me,
        generation,
        roles: roles.to_vec(),
        realms: Vec::new(),
        not_before_ms,
        not_after_ms: not_before_ms + CERT_LIFE_MS,
        serial: now_ms,
        issuer: None,
        successions: (!successions.is_empty()).then(|| successions.to_vec()),
    })
}
