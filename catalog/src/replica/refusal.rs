//! Why a message of a peer is refused, and whether the peer is to blame.

use crate::cbor::CborError;
use crate::fault::Fault;
use crate::id::{NodeId, RealmId};
use crate::log::{AuthorError, LogError, Version};

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The message itself cannot be read.
    #[error("the message cannot be read")]
    Malformed(#[from] CborError),
    /// A field of a sync message is impossible.
    #[error("the sync message has an impossible {field}")]
    Sync {
        /// The field.
        field: &'static str,
    },
    /// A record or head is refused.
    #[error("a signed part of the message is refused")]
    Log(#[from] LogError),
    /// The author may not write here.
    #[error("{author} may not write here")]
    Author {
        /// The author.
        author: NodeId,
        /// Why.
        source: AuthorError,
    },
    /// A head whose papers are not known here. The next comparison with a peer brings them.
    #[error("the papers of {author} are not known here yet")]
    Papers {
        /// The author.
        author: NodeId,
    },
    /// Papers that are not those of the head they came with. Whoever put the two together is to blame, and neighbours who
    /// pass them on, as they look before.
    #[error("papers other than those that the head of {author} names")]
    OtherPapers {
        /// The author.
        author: NodeId,
    },
    /// Something of another realm.
    #[error("{found} instead of {expected}")]
    Realm {
        /// This catalogue's realm.
        expected: RealmId,
        /// The realm named.
        found: RealmId,
    },
    /// A record of another author than the head beside it.
    #[error("a record of {found} beside the head of {expected}")]
    OtherAuthor {
        /// The head's author.
        expected: NodeId,
        /// The record's author.
        found: NodeId,
    },
    /// A restricted record among public ones, or the reverse.
    #[error("record {version} of {author} stands among those of the other visibility")]
    Misplaced {
        /// The author.
        author: NodeId,
        /// The record's version.
        version: Version,
    },
    /// A record that its author's head does not cover.
    #[error("record {version} of {author} is newer than the head {head}")]
    Uncovered {
        /// The author.
        author: NodeId,
        /// The record's version.
        version: Version,
        /// The head's version.
        head: Version,
    },
    /// A lease that ends later than any honest one: a clock is wrong, here or there.
    #[error(
        "the lease of {author} runs until {until_ms} ms, at most {max_ms} is believed: check the clocks"
    )]
    Lease {
        /// The author.
        author: NodeId,
        /// End of the lease.
        until_ms: u64,
        /// The latest end believed.
        max_ms: u64,
    },
    /// More records or bytes of one author than are kept.
    #[error("{author} has more than {records} records or {bytes} bytes")]
    Quota {
        /// The author.
        author: NodeId,
        /// Records allowed.
        records: usize,
        /// Bytes allowed.
        bytes: usize,
    },
    /// The realm has more authors than are kept.
    #[error("the realm has more than {max} authors")]
    TooManyAuthors {
        /// Authors allowed.
        max: usize,
    },
}

impl PushError {
    /// Whether this version of the program would not have sent or forwarded this; [`Self::fault`] says what it is.
    #[must_use]
    pub const fn is_peer_fault(&self) -> bool {
        self.fault().is_some()
    }

    /// What kind of fault it is to send or forward this; `None` when an honest peer may well have done so.
    #[must_use]
    pub const fn fault(&self) -> Option<Fault> {
        match self {
            Self::Malformed(source) => Some(source.fault()),
            Self::Log(source) => Some(source.fault()),
            Self::Sync { .. } | Self::Realm { .. } => Some(Fault::Broken),
            Self::Quota { .. } => Some(Fault::TooMuch),
            Self::OtherPapers { .. }
            | Self::OtherAuthor { .. }
            | Self::Misplaced { .. }
            | Self::Uncovered { .. } => Some(Fault::Forged),
            Self::Author { source, .. } if source.is_about_time() => None,
            Self::Author { source, .. } => Some(source.fault()),
            Self::Lease { .. } | Self::TooManyAuthors { .. } | Self::Papers { .. } => None,
        }
    }
}
