//! The rules an entry can break.

use catalog::Amount;
use catalog::id::to_hex;

use crate::channel::fence::FENCES_MAX;
use crate::dimension::Dimension;
use crate::entry::{Hash, Side};
use crate::party::PartyError;

/// The rule of the channel that an entry breaks, by whoever signed it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The channel id is not the one that the provider's Open defines.
    #[error("the channel id is not {}, the one the provider's open defines", to_hex(expected))]
    Channel {
        /// The right id.
        expected: Hash,
    },
    /// Open missing, repeated, unequal on the two sides, or not opened by the provider.
    #[error("each log begins with one open, the same on both sides, the provider's first")]
    NotOpen,
    /// Provider and consumer are the same node.
    #[error("provider and consumer are the same node: a channel needs two")]
    OneParty,
    /// A certificate inside the Open.
    #[error("a certificate in the open is not right")]
    Party(#[from] PartyError),
    /// Another incarnation than the log is in.
    #[error("incarnation {found}, expected {expected}")]
    Incarnation {
        /// The log's.
        expected: u32,
        /// The entry's.
        found: u32,
    },
    /// An entry of the new incarnation that does not know the fence it goes on from.
    #[error(
        "the peer link names entry {found}, before the fence {fence} that began the incarnation"
    )]
    BeforeFence {
        /// The fence's place in the other log.
        fence: u64,
        /// Where the link goes.
        found: u64,
    },
    /// The fence names another entry than its own peer link.
    #[error("the fence at entry {seq} does not match its own peer link")]
    FenceLink {
        /// The entry it names.
        seq: u64,
    },
    /// The fenced log goes on in its old incarnation.
    #[error("the fence ends a log at entry {found} that has {len}")]
    FenceEnd {
        /// Entries of the log.
        len: u64,
        /// Where the fence ends it.
        found: u64,
    },
    /// The fence raises the incarnation by more or less than one.
    #[error("the fence begins incarnation {found}, expected {expected}")]
    FenceIncarnation {
        /// The next one.
        expected: u32,
        /// The fence's.
        found: u32,
    },
    /// A second fence for one request, or too many.
    #[error("the request of this fence was answered before, or the log has {FENCES_MAX} fences")]
    FenceAgain,
    /// Not the next sequence number.
    #[error("sequence number {found}, expected {expected}")]
    Seq {
        /// The next one.
        expected: u64,
        /// The entry's.
        found: u64,
    },
    /// The hash link to the previous entry is wrong.
    #[error("the link to the writer's previous entry is wrong")]
    Prev,
    /// The peer link goes back.
    #[error("the peer link goes back from entry {before} to {found}")]
    PeerBack {
        /// Where it stood.
        before: u64,
        /// Where it goes.
        found: u64,
    },
    /// The peer link names an entry that the other log does not have.
    #[error("the peer link names entry {found} of a log with {len} entries")]
    PeerMissing {
        /// Entries of the other log.
        len: u64,
        /// The entry named.
        found: u64,
    },
    /// The peer link has the wrong hash.
    #[error("the peer link has another hash than entry {seq} of the other log")]
    PeerHead {
        /// The entry named.
        seq: u64,
    },
    /// A record type that this side does not write.
    #[error("record type {number} is not written by the {writer}")]
    Writer {
        /// The type's number.
        number: u64,
        /// Who wrote it.
        writer: Side,
    },
    /// Lane numbers ascend.
    #[error("lane {found} after lane {last}: lane numbers ascend")]
    LaneOrder {
        /// The newest lane.
        last: u64,
        /// The proposed one.
        found: u64,
    },
    /// A maximum below zero.
    #[error("lane {lane}: the maximum amount is negative")]
    NegativeMax {
        /// The lane.
        lane: u64,
    },
    /// The agreement names a quote that is not known.
    #[error("quote {} is not known: learn it first", to_hex(quote))]
    UnknownQuote {
        /// Its hash.
        quote: Hash,
    },
    /// The quote is for someone or something else.
    #[error("lane {lane}: the quote is for another {field}")]
    QuoteMismatch {
        /// The lane.
        lane: u64,
        /// What differs.
        field: &'static str,
    },
    /// No agreement is left on the quote.
    #[error(
        "quote {} allows {volume} agreements and all are made: ask for a new one",
        to_hex(quote)
    )]
    QuoteUsedUp {
        /// Its hash.
        quote: Hash,
        /// Agreements it allows.
        volume: u64,
    },
    /// The quote's lease ran out before the agreement.
    #[error(
        "the quote was valid until {valid_until_ms} and the agreement is of {wall_ms}: ask for a new one"
    )]
    QuoteExpired {
        /// End of the lease, Unix milliseconds.
        valid_until_ms: u64,
        /// The agreement's time.
        wall_ms: u64,
    },
    /// No such lane.
    #[error("lane {lane} does not exist")]
    UnknownLane {
        /// The lane.
        lane: u64,
    },
    /// The consumer's agreement was not in the provider's hands.
    #[error("lane {lane} is not agreed by the consumer")]
    NotAgreed {
        /// The lane.
        lane: u64,
    },
    /// The lane is closed or had its final receipt.
    #[error("lane {lane} is closed or had its final receipt")]
    LaneEnded {
        /// The lane.
        lane: u64,
    },
    /// Not the lane's next receipt.
    #[error("lane {lane}: receipt {found}, expected {expected}")]
    LaneSeq {
        /// The lane.
        lane: u64,
        /// The next one.
        expected: u64,
        /// The receipt's.
        found: u64,
    },
    /// A cumulative counter fell.
    #[error("lane {lane}: the counter {dimension} fell, but counters are cumulative")]
    CounterFell {
        /// The lane.
        lane: u64,
        /// Which.
        dimension: Dimension,
    },
    /// A counter above what the caps allow in the time.
    #[error("lane {lane}: {found} {} of {dimension}, the caps allow {limit}", dimension.unit())]
    OverCap {
        /// The lane.
        lane: u64,
        /// Which.
        dimension: Dimension,
        /// What the caps allow.
        limit: u64,
        /// What is stated.
        found: u64,
    },
    /// The periods do not fit in 64 bits.
    #[error("lane {lane}: the sum of the periods is too large")]
    Period {
        /// The lane.
        lane: u64,
    },
    /// The amount is not the rating of the counters.
    #[error("lane {lane}: the amount is {found}, the counters and prices give {expected}")]
    Amount {
        /// The lane.
        lane: u64,
        /// Recomputed.
        expected: Amount,
        /// Stated.
        found: Amount,
    },
    /// The sum over the lanes does not fit.
    #[error("the channel's total is larger than the largest amount")]
    TotalOverflow,
    /// The close names another last receipt.
    #[error("lane {lane}: the close does not name the lane's last receipt")]
    CloseReceipt {
        /// The lane.
        lane: u64,
    },
    /// The acknowledged total is not the recomputed one.
    #[error("the acknowledged total is {found}, the lanes give {expected}")]
    AckTotal {
        /// Recomputed.
        expected: Amount,
        /// Stated.
        found: Amount,
    },
    /// An exception that takes back what was acknowledged, or names a receipt that is not there.
    #[error("lane {lane}: the exception takes back an acknowledgement or names no receipt")]
    Exception {
        /// The lane.
        lane: u64,
    },
}
