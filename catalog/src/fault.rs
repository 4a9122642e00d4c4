//! What kind of fault there is in what a peer sent.
//!
//! The kinds matter because what follows differs: who lies is thrown out, and who merely speaks a newer version of the
//! protocols, which this node cannot read, must not be, however much it says.

use crate::cbor::CborError;
use crate::cert::{CertError, MembershipError};
use crate::envelope::EnvelopeError;
use crate::log::{AuthorError, LogError};
use crate::record::ResourceError;

/// A kind of fault, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Well formed, but nothing that this version knows: an unknown kind or field, a value that has no meaning yet. A newer
    /// version may say it honestly. It is counted mildly and is never a reason for a ban by itself.
    Unknown,
    /// More or longer than is taken. Many of them are a ban.
    TooMuch,
    /// What no version writes: cut, badly encoded, against the protocol's own arithmetic. Some of them are a ban.
    Broken,
    /// A lie that the bytes prove: a signature that is not its signer's, something of somebody else. Two of them are a ban.
    Forged,
}

impl CborError {
    /// What kind of fault it is to send this.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::TooLong { .. } => Fault::TooMuch,
            Self::Malformed | Self::NotDeterministic => Fault::Broken,
            Self::Field { .. } | Self::UnknownField { .. } | Self::NotMap => Fault::Unknown,
        }
    }
}

impl EnvelopeError {
    /// What kind of fault it is to send this.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::TooLong { .. } => Fault::TooMuch,
            // Another algorithm or type of statement stands in the headers.
            Self::Malformed | Self::WrongType { .. } => Fault::Unknown,
            Self::BadSignature => Fault::Forged,
        }
    }
}

impl LogError {
    /// What kind of fault it is to send this.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Envelope { source, .. } => source.fault(),
            Self::Payload { source, .. } => source.fault(),
            Self::Key { .. } => Fault::Broken,
            Self::Resource { source, .. } => match source {
                ResourceError::Payload(source) => source.fault(),
                // Bounds may grow, and with them what a description may say.
                _ => Fault::Unknown,
            },
        }
    }
}

impl AuthorError {
    /// What kind of fault it is to show such papers; [`Self::is_about_time`] says when it is none.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Cert(source) | Self::Membership(MembershipError::Grant { source, .. }) => {
                source.fault()
            }
            Self::Membership(MembershipError::Length { .. }) => Fault::Unknown,
            Self::Membership(_) | Self::OtherNode { .. } | Self::Realm { .. } => Fault::Forged,
            Self::Revoked { .. } | Self::GrantRevoked { .. } => Fault::Unknown,
        }
    }
}

impl CertError {
    /// What kind of fault it is to send this. That a time has not come yet or is over is one only where nobody's clock can be to
    /// blame.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Envelope { source, .. } => source.fault(),
            Self::Payload { source, .. } => source.fault(),
            Self::Text(_) | Self::Count { .. } => Fault::Unknown,
            Self::Key { .. } | Self::Order { .. } => Fault::Broken,
            _ => Fault::Forged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_version_may_say_is_no_lie() {
        let unknown = [
            CborError::UnknownField { key: 9 },
            CborError::Field { key: 1, expected: "a kind" },
            CborError::NotMap,
        ];
        assert!(unknown.iter().all(|error| error.fault() == Fault::Unknown));
        assert_eq!(CborError::NotDeterministic.fault(), Fault::Broken);
        assert_eq!(EnvelopeError::WrongType { expected: "x" }.fault(), Fault::Unknown);
        assert_eq!(EnvelopeError::BadSignature.fault(), Fault::Forged);
        assert!(Fault::Unknown < Fault::Broken && Fault::Broken < Fault::Forged);
    }
}
