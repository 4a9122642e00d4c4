//! Why an operation, a peer's entry or a replay is refused.

use catalog::{Fault, NodeId};

use super::{OPEN_LANES_MAX, UNACKED_ENTRIES_MAX, UNUSED_QUOTES_MAX};
use crate::entry::{EquivocationProof, FormError, Hash, Side};
use crate::party::PartyError;
use crate::quote::QuoteError;
use crate::state::Violation;

/// Why this side cannot do something on its own channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The key is not this side's node key.
    #[error("the key is not that of node {expected}, which signs this log")]
    Key {
        /// Whose key is needed.
        expected: NodeId,
    },
    /// The other side does this.
    #[error("only the {side} of a channel can do this")]
    Side {
        /// Who can.
        side: Side,
    },
    /// The peer has not opened yet.
    #[error("the consumer has not answered the open yet: send it again")]
    NotOpen,
    /// Stopped for good.
    #[error("the channel is frozen: a party signed one place twice")]
    Frozen,
    /// This side waits for its peer's fence.
    #[error(
        "the store of this side was set back: nothing is signed in the channel before the peer's fence; when the peer's was \
         set back too, put the newest home back on one side, or go on with a new node"
    )]
    Fencing,
    /// Too much is not acknowledged.
    #[error("{UNACKED_ENTRIES_MAX} entries are not acknowledged: wait for the consumer")]
    Backlog,
    /// Too many lanes.
    #[error("{OPEN_LANES_MAX} lanes are open: close some first")]
    TooManyLanes,
    /// Too many quotes.
    #[error("{UNUSED_QUOTES_MAX} quotes are kept unused: forget expired ones first")]
    TooManyQuotes,
    /// The quote.
    #[error("the quote is not one of this channel's provider")]
    Quote(#[from] QuoteError),
    /// The entry would break a rule.
    #[error("the entry would break a rule of the channel")]
    Rule(#[from] Violation),
}

/// Why an entry of the peer is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Its form or signature.
    #[error("the entry's form or signature is not right")]
    Form(#[from] FormError),
    /// It belongs to another channel.
    #[error("the entry belongs to channel {}", catalog::id::to_hex(found))]
    OtherChannel {
        /// Which.
        found: Hash,
    },
    /// An Open for someone else.
    #[error("the open is for consumer {consumer}")]
    NotForMe {
        /// For whom.
        consumer: NodeId,
    },
    /// The peer shows an entry of this side's own log.
    #[error("entry {seq} is one of my own log")]
    OwnLog {
        /// Its place.
        seq: u64,
    },
    /// The peer holds more of this side's log than this side: the store was set back.
    #[error("the peer holds {peer_seq} entries of my log, I hold {mine}: my store was set back")]
    AheadOfMe {
        /// What the peer holds.
        peer_seq: u64,
        /// What this side holds.
        mine: u64,
    },
    /// The peer fenced this side's log, and this side did not ask for it: the store was set back since.
    #[error("the peer fenced my log at my own request, which I do not know: my store was set back")]
    FencedUnasked,
    /// An entry of an incarnation that a fence ended; it was under way when the peer's store was set back.
    #[error(
        "entry {seq} is of incarnation {found}, which ended with the fence that began {current}"
    )]
    OldIncarnation {
        /// Its place.
        seq: u64,
        /// Its incarnation.
        found: u32,
        /// The peer's log's.
        current: u32,
    },
    /// This side waits for its peer's fence.
    #[error("the store of this side was set back: nothing is taken before the peer's fence")]
    Fencing,
    /// It breaks a rule.
    #[error("entry {seq} breaks a rule of the channel")]
    Violation {
        /// Its place in the peer's log.
        seq: u64,
        /// The rule.
        #[source]
        source: Violation,
    },
    /// The peer signed one place of its log twice.
    #[error("the peer signed one place of its log twice")]
    Equivocation(Box<EquivocationProof>),
    /// Too much is not acknowledged.
    #[error(
        "{UNACKED_ENTRIES_MAX} entries after {acked_seq} are not acknowledged: acknowledge first"
    )]
    Backlog {
        /// The newest acknowledged entry.
        acked_seq: u64,
    },
    /// Stopped for good.
    #[error("the channel is frozen: a party signed one place twice")]
    Frozen,
}

impl EntryError {
    /// Whether an honest peer cannot have caused it.
    #[must_use]
    pub const fn is_peer_fault(&self) -> bool {
        match self {
            Self::Form(_) | Self::Equivocation(_) => true,
            Self::Violation { source: Violation::UnknownQuote { .. }, .. } => false,
            Self::Violation {
                source: Violation::Party(PartyError::Cert { source, .. }), ..
            } => !source.is_about_time(),
            Self::Violation { .. } => true,
            _ => false,
        }
    }

    /// What kind of fault it is to send the entry; `None` when an honest peer may well have done so.
    #[must_use]
    pub const fn fault(&self) -> Option<Fault> {
        match self {
            Self::Form(source) => Some(source.fault()),
            // Its quote came and could not be read, perhaps because it is of a newer version.
            Self::Violation { source: Violation::UnknownQuote { .. }, .. } => Some(Fault::Unknown),
            error if error.is_peer_fault() => Some(Fault::Forged),
            Self::OtherChannel { .. } | Self::NotForMe { .. } | Self::OwnLog { .. } => {
                Some(Fault::Forged)
            }
            _ => None,
        }
    }

    /// Whether the same entry may be taken later: after learning a quote, or after acknowledging.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Backlog { .. } | Self::Violation { source: Violation::UnknownQuote { .. }, .. }
        )
    }
}

/// Why stored bytes are not a channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// There is no provider's Open.
    #[error("stored channel: the provider's open is missing")]
    Empty,
    /// The node is no party of it.
    #[error("stored channel: {me} is no party of it")]
    NotParty {
        /// Who asked.
        me: NodeId,
    },
    /// A stored quote.
    #[error("stored channel: quote {index} is damaged")]
    Quote {
        /// Its index in the list.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: QuoteError,
    },
    /// A stored entry's form.
    #[error("stored channel: entry {index} of the {side}'s log is damaged")]
    Form {
        /// Whose log.
        side: Side,
        /// Its index in the list.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: FormError,
    },
    /// A stored entry that breaks a rule.
    #[error("stored channel: entry {index} of the {side}'s log breaks a rule")]
    Rule {
        /// Whose log.
        side: Side,
        /// Its index in the list.
        index: usize,
        /// The rule.
        #[source]
        source: Violation,
    },
}
