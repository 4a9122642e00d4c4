//! Who is who: issuers, node certificates, realms and their members, invitations, the greeting, revocations.
//!
//! An organisation's root key, or an issuer that it named, signs certificates for the organisation's nodes and grants for
//! organisations it admits into a realm. Nothing here decides whom to trust: it says what a key holder stated, and whether the
//! statement is well-formed and in force.

pub mod armour;
mod assertion;
mod enrolment;
mod grant;
mod hello;
mod issuer;
mod node_cert;
mod revocations;
mod succession;
mod ticket;

pub use assertion::{
    ASSERTION_GROUPS_MAX, ASSERTION_LEN_MAX, ASSERTION_MS_MAX, Assertion, REPLAYS_MAX,
    REPLAYS_OF_ONE_MAX, ReplayError, Replays,
};
pub use enrolment::{ANSWER_LEN_MAX, Answer, AnswerError, REQUEST_LEN_MAX, Request, Terms};
pub use grant::{
    GRANT_LEN_MAX, Grant, MEMBERSHIP_GRANTS_MAX, Membership, MembershipError, Role,
    VerifiedMembership, realm_id,
};
pub use hello::{HELLO_LEN_MAX, Hello, HelloError, HelloReply, REFUSAL_DETAIL_MAX, RefuseCode};
pub use issuer::{Authority, ISSUER_LEN_MAX, ISSUER_LIFE_MS_MAX, IssuerCert};
pub use node_cert::{CERT_LEN_MAX, CERT_LIFE_MS_MAX, GATEWAY_ROLE, NodeCert};
pub use revocations::{REVOCATIONS_LEN_MAX, REVOKED_KEYS_MAX, REVOKED_SERIALS_MAX, Revocations};
pub use succession::{SUCCESSION_LEN_MAX, SUCCESSIONS_MAX, Succession};
pub use ticket::{LinkTicket, TICKET_ADDRESSES_MAX, TICKET_LEN_MAX, Ticket, TicketError};

use ed25519_dalek::VerifyingKey;

use crate::cbor::{CborError, Item};
use crate::envelope::{self, EnvelopeError, Typ, Unverified};
use crate::id::{IdError, OrgId};
use crate::text::TextError;

/// Longest name of an organisation or node, in characters.
pub const NAME_LEN_MAX: usize = 64;
/// How far another machine's clock may be off before its statements count as early or expired: 5 minutes, the bound that
/// Kerberos and most TLS deployments live with.
pub const CLOCK_SKEW_MS: u64 = 5 * 60 * 1000;

/// Why a certificate, grant or revocation list is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertError {
    /// The envelope is not one, or not signed by the key it names.
    #[error("{what} is refused")]
    Envelope {
        /// What was read.
        what: &'static str,
        /// Why.
        source: EnvelopeError,
    },
    /// The payload is not one of this kind.
    #[error("{what} cannot be read")]
    Payload {
        /// What was read.
        what: &'static str,
        /// Why.
        source: CborError,
    },
    /// The signer's id is no usable key.
    #[error("the signer of {what} has no usable key")]
    Key {
        /// What was read.
        what: &'static str,
        /// Why.
        source: IdError,
    },
    /// A text in it is too long, empty or unprintable.
    #[error("a text is refused")]
    Text(#[from] TextError),
    /// A list in it is too long.
    #[error("{count} {field}, at most {max} are allowed")]
    Count {
        /// The list.
        field: &'static str,
        /// Items given.
        count: usize,
        /// Items allowed.
        max: usize,
    },
    /// The list is not in ascending order without repetition.
    #[error("the list of {field} is not ascending")]
    Order {
        /// The list.
        field: &'static str,
    },
    /// It ends before it begins, or lives too long.
    #[error("{what} is valid for {life_ms} ms, it must be between 1 and {max_ms}")]
    Window {
        /// What was read.
        what: &'static str,
        /// Its life; 0 when it ends before it begins.
        life_ms: u64,
        /// The longest life.
        max_ms: u64,
    },
    /// It names an issuer of another organisation.
    #[error("the issuer that signed {what} is another organisation's")]
    IssuerOfOther {
        /// What was read.
        what: &'static str,
    },
    /// It begins or ends when its issuer may not sign.
    #[error("{what} is not within the time of the issuer that signed it")]
    OutsideIssuer {
        /// What was read.
        what: &'static str,
    },
    /// What old keys say does not lead to the key at hand.
    #[error("{what} does not lead to the node's key")]
    Chain {
        /// What was read.
        what: &'static str,
    },
    /// It is about another key than the one at hand.
    #[error("{what} is that of another key")]
    OtherKey {
        /// What was read.
        what: &'static str,
    },
    /// Not in force yet, beyond the clock skew allowed.
    #[error(
        "{what} is valid from {not_before_ms} ms, and the clock says {now_ms}: check both clocks"
    )]
    Early {
        /// What was read.
        what: &'static str,
        /// Begin of validity.
        not_before_ms: u64,
        /// The reader's clock.
        now_ms: u64,
    },
    /// No longer in force.
    #[error("{what} expired at {not_after_ms} ms, and the clock says {now_ms}: renew it")]
    Expired {
        /// What was read.
        what: &'static str,
        /// End of validity.
        not_after_ms: u64,
        /// The reader's clock.
        now_ms: u64,
    },
}

impl CertError {
    /// Whether only the time is wrong: then a clock or a forgotten renewal is to blame, not a forger.
    #[must_use]
    pub const fn is_about_time(&self) -> bool {
        matches!(self, Self::Early { .. } | Self::Expired { .. })
    }
}

/// A signed statement taken apart, its signature not checked yet.
struct Opened<'a> {
    what: &'static str,
    unverified: Unverified<'a>,
    payload: Item<'a>,
}

impl<'a> Opened<'a> {
    fn new(bytes: &'a [u8], typ: Typ, what: &'static str, max: usize) -> Result<Self, CertError> {
        let unverified = envelope::open(bytes, typ, max)
            .map_err(|source| CertError::Envelope { what, source })?;
        let payload = crate::cbor::decode(unverified.payload(), max)
            .map_err(|source| CertError::Payload { what, source })?;
        Ok(Self { what, unverified, payload })
    }

    fn read<T>(&self, from: fn(&Item<'_>) -> Result<T, CborError>) -> Result<T, CertError> {
        from(&self.payload).map_err(|source| CertError::Payload { what: self.what, source })
    }

    fn verify(&self, signer: OrgId) -> Result<(), CertError> {
        let what = self.what;
        let key: VerifyingKey =
            signer.verifying_key().map_err(|source| CertError::Key { what, source })?;
        self.verify_with(&key)
    }

    /// Checks that `org` signed, or an issuer of it that was in force during all of `times`.
    fn verify_chain(
        &self,
        org: OrgId,
        issuer: Option<&Vec<u8>>,
        times: &[u64],
    ) -> Result<(), CertError> {
        let Some(issuer) = issuer else {
            return self.verify(org);
        };
        let what = self.what;
        let issuer = IssuerCert::verify_at_any_time(issuer)?;
        if issuer.org != org {
            return Err(CertError::IssuerOfOther { what });
        }
        let window = issuer.not_before_ms..=issuer.not_after_ms;
        if !times.iter().all(|at| window.contains(at)) {
            return Err(CertError::OutsideIssuer { what });
        }
        // An organisation's id is a key like any other, and gives the same checks for points that are weak.
        self.verify(OrgId::from_bytes(issuer.key))
    }

    fn verify_with(&self, key: &VerifyingKey) -> Result<(), CertError> {
        let what = self.what;
        match self.unverified.verify(key) {
            Ok(_) => Ok(()),
            Err(source) => Err(CertError::Envelope { what, source }),
        }
    }
}

/// Checks that `now_ms` lies in the window, give or take [`CLOCK_SKEW_MS`].
fn check_now(
    what: &'static str,
    not_before_ms: u64,
    not_after_ms: u64,
    now_ms: u64,
) -> Result<(), CertError> {
    if now_ms.saturating_add(CLOCK_SKEW_MS) < not_before_ms {
        Err(CertError::Early { what, not_before_ms, now_ms })
    } else if now_ms > not_after_ms.saturating_add(CLOCK_SKEW_MS) {
        Err(CertError::Expired { what, not_after_ms, now_ms })
    } else {
        Ok(())
    }
}

fn check_count(field: &'static str, count: usize, max: usize) -> Result<(), CertError> {
    if count > max { Err(CertError::Count { field, count, max }) } else { Ok(()) }
}
