//! The greeting: what two nodes tell each other before anything else.

use std::fmt;

use super::{MEMBERSHIP_GRANTS_MAX, Membership};
use crate::cbor::{self, CborError, MapReader, MapWriter};
use crate::id::RealmId;
use crate::text::{TextError, check_line};
use crate::wire::word_enum;

/// Largest encoded greeting or reply in bytes; a longer one is refused unread.
pub const HELLO_LEN_MAX: usize = 16 * 1024;
/// Longest explanation of a refusal, in characters; a longer one is cut.
pub const REFUSAL_DETAIL_MAX: usize = 200;

/// What a node presents on a new connection. It is not signed: the connection proves the key, the certificate names it.
#[derive(Clone, PartialEq, Eq)]
pub struct Hello {
    /// The node's signed certificate.
    pub cert: Vec<u8>,
    /// The realm it speaks in.
    pub realm: RealmId,
    /// Its organisation's membership; empty when it comes with a ticket.
    pub membership: Membership,
    /// The ticket's one-time secret, when it comes with one.
    pub secret: Option<[u8; 16]>,
}

word_enum!(
    /// Why a greeting is refused.
    RefuseCode, "a refusal code",
    {
        /// The certificate is not valid.
        BadCert = 1 "bad_cert",
        /// The organisation is no member of the realm.
        NotMember = 2 "not_member",
        /// This node is not in that realm.
        WrongRealm = 3 "wrong_realm",
        /// The secret is not one this node gave out.
        BadTicket = 4 "bad_ticket",
        /// The ticket's time is over.
        ExpiredTicket = 5 "expired_ticket",
        /// The ticket was used before.
        UsedTicket = 6 "used_ticket",
        /// The owner has blocked this organisation or node.
        Blocked = 7 "blocked",
        /// No more peers are taken.
        Full = 8 "full",
        /// The greeting cannot be read.
        Malformed = 9 "malformed",
        /// The node's organisation has revoked it, or whoever admitted its organisation has taken that back.
        Revoked = 10 "revoked",
        /// The owner has not said yet whether the organisation may come in.
        Pending = 11 "pending",
        /// Another key has come after the node's, and its time is over.
        Succeeded = 12 "succeeded",
    }
);

/// The answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloReply {
    /// Come in.
    Accepted {
        /// The answering node's own greeting.
        hello: Hello,
        /// The caller's new membership, when its ticket was accepted.
        granted: Option<Membership>,
    },
    /// Stay out.
    Refused {
        /// The reason, for programs.
        code: RefuseCode,
        /// The reason, for people; at most [`REFUSAL_DETAIL_MAX`] characters.
        detail: String,
    },
}

/// Why bytes are not a greeting or reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// The payload is refused.
    #[error("the greeting cannot be read")]
    Payload(#[from] CborError),
    /// More grants than a membership may have.
    #[error("{grants} grants in a membership, at most {MEMBERSHIP_GRANTS_MAX} are allowed")]
    Grants {
        /// Grants given.
        grants: usize,
    },
    /// The explanation is refused.
    #[error("the refusal's explanation cannot be shown")]
    Text(#[from] TextError),
}

impl Hello {
    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        MapWriter::new()
            .put(1, &self.cert)
            .put(2, &self.realm)
            .put(3, &self.membership.grants)
            .put_opt(4, self.secret.as_ref())
            .encode()
    }

    /// Reads a greeting. Its certificate and membership are not verified here.
    ///
    /// # Errors
    /// See [`HelloError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let value = cbor::decode(bytes, HELLO_LEN_MAX)?;
        let mut map = MapReader::new(&value)?;
        let hello = Self {
            cert: map.take(1)?,
            realm: map.take(2)?,
            membership: membership(map.take(3)?)?,
            secret: map.take_opt(4)?,
        };
        map.finish()?;
        Ok(hello)
    }
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("realm", &self.realm)
            .field("grants", &self.membership.grants.len())
            .field("has_ticket", &self.secret.is_some())
            .finish_non_exhaustive()
    }
}

impl HelloReply {
    /// The bytes to send. A refusal's explanation is cut to its bound.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Accepted { hello, granted } => MapWriter::new()
                .put(1, &hello.encode())
                .put_opt(2, granted.as_ref().map(|m| &m.grants))
                .encode(),
            Self::Refused { code, detail } => {
                let cut: String = detail.chars().take(REFUSAL_DETAIL_MAX).collect();
                MapWriter::new().put(3, code).put(4, &cut).encode()
            }
        }
    }

    /// Reads a reply. Certificates and memberships are not verified here.
    ///
    /// # Errors
    /// See [`HelloError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let value = cbor::decode(bytes, HELLO_LEN_MAX)?;
        let mut map = MapReader::new(&value)?;
        let reply = match map.take_opt::<Vec<u8>>(1)? {
            Some(hello) => Self::Accepted {
                hello: Hello::decode(&hello)?,
                granted: map.take_opt(2)?.map(membership).transpose()?,
            },
            None => {
                let (code, detail) = (map.take(3)?, map.take::<String>(4)?);
                check_line("the explanation", &detail, REFUSAL_DETAIL_MAX)?;
                Self::Refused { code, detail }
            }
        };
        map.finish()?;
        Ok(reply)
    }
}

fn membership(grants: Vec<Vec<u8>>) -> Result<Membership, HelloError> {
    if grants.len() > MEMBERSHIP_GRANTS_MAX {
        return Err(HelloError::Grants { grants: grants.len() });
    }
    Ok(Membership { grants })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello {
            cert: vec![1, 2, 3],
            realm: RealmId::from_bytes([7; 16]),
            membership: Membership { grants: vec![vec![4], vec![5, 6]] },
            secret: Some([0xcd; 16]),
        }
    }

    #[test]
    fn greetings_and_replies_read_back() {
        assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
        for granted in [None, Some(Membership { grants: vec![vec![1]] })] {
            let reply = HelloReply::Accepted { hello: hello(), granted };
            assert_eq!(HelloReply::decode(&reply.encode()), Ok(reply));
        }
        for code in RefuseCode::ALL {
            let reply = HelloReply::Refused { code: *code, detail: "no".to_owned() };
            assert_eq!(HelloReply::decode(&reply.encode()), Ok(reply));
        }
    }

    #[test]
    fn long_explanations_are_cut_and_secrets_do_not_print() {
        let reply = HelloReply::Refused { code: RefuseCode::Full, detail: "x".repeat(900) };
        let HelloReply::Refused { detail, .. } = HelloReply::decode(&reply.encode()).unwrap()
        else {
            panic!("a refusal stays one");
        };
        assert_eq!(detail.len(), REFUSAL_DETAIL_MAX);
        assert!(!format!("{:?}", hello()).contains("205"));
    }

    #[test]
    fn too_many_grants_and_bytes_are_refused() {
        let crowd = Hello { membership: Membership { grants: vec![vec![]; 9] }, ..hello() };
        assert_eq!(Hello::decode(&crowd.encode()), Err(HelloError::Grants { grants: 9 }));
        let heavy = Hello { cert: vec![0; HELLO_LEN_MAX], ..hello() };
        assert!(Hello::decode(&heavy.encode()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoders(bytes in any::<Vec<u8>>()) {
            let _ = (Hello::decode(&bytes), HelloReply::decode(&bytes));
        }
    }
}
