//! The state machine of one side of a channel, from durably stored bytes to durably stored bytes.
//!
//! Messages are entries; there are no others. The provider opens, proposes lanes, states receipts and closes lanes; the
//! consumer answers the Open with its own and acknowledges. Every operation returns the bytes to store **before** they are
//! sent; what was stored is sent again until the peer's link names it, and is never signed anew.
//!
//! Invariant: at equal heads of the two logs both sides hold the same state ([`Channel::state_hash`]), and what one side has of
//! the other's log is a prefix of it.
//!
//! What a liar can do: refuse to go on (the provider stops at its exposure limit and keeps the claim), claim more than it
//! metered within the caps and prices (the consumer excepts the lane; the loss is bounded by the exposure), and sign one
//! place of its log twice, which is proof against it ([`EquivocationProof`]). It cannot change, remove or reorder what both
//! signed, state an amount that the prices do not give, bill a lane without agreement, or spend a quote twice.

mod error;
pub mod fence;
mod operations;
mod replay;

use std::collections::BTreeMap;

use catalog::{Amount, Currency, Digest, NodeId, OrgId};
use ed25519_dalek::SigningKey;

use crate::body::{AckCode, Body, Caps, CloseReason, ExposurePolicy, Open, WorkId};
use crate::dimension::Counters;
use crate::entry::{EquivocationProof, Hash, Opened, ProofError, Side, SignedEntry};
use crate::lane::Lane;
use crate::party;
use crate::quote::Quote;
use crate::state::{State, Violation};

pub use error::{ChannelError, EntryError, ReplayError};

/// Most provider entries beyond the newest acknowledgement: at the bound the provider does not sign and the consumer does not
/// take further ones until it has acknowledged. At an entry per lane and 10 s it is over a day of one lane.
pub const UNACKED_ENTRIES_MAX: u64 = 10_000;
/// Most lanes of a channel that are not closed or refused; at the bound the provider proposes no more.
pub const OPEN_LANES_MAX: usize = 10_000;
/// Most quotes a channel keeps that no agreement has named; at the bound none is learned until some are forgotten.
pub const UNUSED_QUOTES_MAX: usize = 10_000;

/// Who the parties of a new channel are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTerms {
    /// The node that will be served.
    pub consumer: NodeId,
    /// The opener's node certificate.
    pub provider_cert: Vec<u8>,
    /// The consumer's node certificate.
    pub consumer_cert: Vec<u8>,
    /// Currency of every amount.
    pub currency: Currency,
    /// Random.
    pub nonce: [u8; 16],
}

/// What a lane is for; its number and quote are the channel's to add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewAgreement {
    /// The attempt.
    pub work: WorkId,
    /// Digest of the task, the same as in the quote.
    pub spec: Digest,
    /// What the attempt may use at most.
    pub caps: Caps,
    /// The lane never costs more.
    pub max_amount: Amount,
    /// Time beyond it is not billed, in milliseconds.
    pub max_duration_ms: u64,
    /// What happens at the exposure limit.
    pub exposure: ExposurePolicy,
}

/// What the meter of a lane reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Cumulative counters since the lane began, by the plan's bases ([`crate::PricePlan::billable`]). What exceeds the caps is
    /// cut off before it is signed.
    pub counters: Counters,
    /// Milliseconds of the monotonic clock since the lane's previous receipt, or its start.
    pub period_ms: u64,
    /// No reading follows.
    pub is_final: bool,
    /// A source was reset since the previous receipt.
    pub reset: bool,
    /// Some counter was estimated.
    pub estimated: bool,
}

/// What a valid entry did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The peer opened its log.
    Opened,
    /// The provider proposes a lane; acknowledge to agree.
    Proposed {
        /// The lane.
        lane: u64,
    },
    /// The consumer acknowledged.
    Acked {
        /// The newest provider entry it covers.
        up_to_seq: u64,
        /// Lanes it agreed to.
        lanes_agreed: Vec<u64>,
        /// Lanes it refused.
        lanes_refused: Vec<(u64, AckCode)>,
        /// Lanes whose close it accepted.
        lanes_settled: Vec<u64>,
        /// The new sum of what is earned.
        earned: Amount,
    },
    /// The provider states usage.
    Receipt {
        /// The lane.
        lane: u64,
        /// Number of the receipt in the lane.
        lane_seq: u64,
        /// Cumulative amount.
        amount: Amount,
        /// Whether it is the last one.
        is_final: bool,
    },
    /// The peer began a new incarnation of this side's log.
    Fenced {
        /// The incarnation.
        incarnation: u32,
    },
    /// The provider closed a lane.
    LaneClosed {
        /// The lane.
        lane: u64,
        /// Why.
        reason: CloseReason,
        /// Its final amount.
        amount: Amount,
    },
}

/// What became of an entry of the peer.
#[expect(
    clippy::large_enum_variant,
    reason = "almost every value is the large one, and it is moved once"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// It is next: store it before anything else happens.
    New {
        /// The entry.
        entry: SignedEntry,
        /// What it did.
        event: Event,
    },
    /// It is already there.
    Duplicate,
    /// Entries before it are missing; ask for them from this one on.
    Gap {
        /// The first that is missing.
        next_seq: u64,
    },
}

/// An entry as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredEntry<'a> {
    /// Its place in its log.
    pub seq: u64,
    /// SHA-256 of the bytes.
    pub hash: &'a Hash,
    /// The envelope.
    pub bytes: &'a [u8],
}

/// What can be done with a channel now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelState {
    /// The consumer has not answered the Open.
    Opening,
    /// Both sides sign.
    Open,
    /// This side waits for its peer's fence and signs nothing.
    Fencing,
    /// Stopped for good.
    Frozen,
}

impl ChannelState {
    /// A word for views.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Fencing => "fencing",
            Self::Frozen => "frozen",
        }
    }
}

/// One side of a channel.
#[derive(Clone, Debug)]
pub struct Channel {
    side: Side,
    state: State,
    /// Exact bytes of both logs, by side.
    bytes: [Vec<Vec<u8>>; 2],
    /// Exact bytes of every known quote, by hash.
    quotes: BTreeMap<Hash, Vec<u8>>,
    frozen: Option<Box<EquivocationProof>>,
    /// Whether this side waits for its peer's fence.
    is_fencing: bool,
}

impl Channel {
    /// Opens a channel as its provider.
    ///
    /// # Errors
    /// [`ChannelError`] when a certificate is not right or both nodes are the same.
    pub fn open(
        key: &SigningKey,
        terms: OpenTerms,
        now_ms: u64,
    ) -> Result<(Self, SignedEntry), ChannelError> {
        let open = Open {
            provider: key.verifying_key().into(),
            consumer: terms.consumer,
            provider_cert: terms.provider_cert,
            consumer_cert: terms.consumer_cert,
            currency: terms.currency,
            nonce: terms.nonce,
            opened_by: Side::Provider,
        };
        let orgs = party::orgs(&open, Some(now_ms)).map_err(Violation::from)?;
        let mut first = crate::entry::Entry {
            channel: [0; 32],
            writer: Side::Provider,
            incarnation: 0,
            seq: 1,
            prev: [0; 32],
            peer_seq: 0,
            peer_head: [0; 32],
            wall_ms: now_ms,
            body: Body::Open(Box::new(open)),
        };
        first.channel = first.channel_id();
        let state = State::new(&first, orgs)?;
        let mut channel = Self::over(state, Side::Provider);
        let entry = first.sign(key);
        let change = channel.state.validate(&entry.entry)?;
        channel.state.commit(&entry.entry, entry.hash, change);
        channel.bytes[Side::Provider.index()].push(entry.bytes.clone());
        Ok((channel, entry))
    }

    /// Answers a provider's Open as its consumer `me`. Store the provider's bytes and the returned entries together.
    ///
    /// The answer is a function of the provider's bytes alone, with the provider's time in it: a consumer whose store was set
    /// back to before it answered signs the same bytes again.
    ///
    /// # Errors
    /// [`EntryError`] when the Open is not right or not for `me`.
    pub fn accept(
        key: &SigningKey,
        me: NodeId,
        provider_open: &[u8],
        now_ms: u64,
    ) -> Result<(Self, Vec<SignedEntry>), EntryError> {
        let opened = Opened::new(provider_open)?;
        let Body::Open(open) = opened.entry.body.clone() else {
            return Err(EntryError::Violation {
                seq: opened.entry.seq,
                source: Violation::NotOpen,
            });
        };
        opened.verify(open.provider.verifying_key().ok().as_ref())?;
        if open.consumer != me || NodeId::from(key.verifying_key()) != me {
            return Err(EntryError::NotForMe { consumer: open.consumer });
        }
        let broken = |source: Violation| EntryError::Violation { seq: 1, source };
        let orgs = party::orgs(&open, Some(now_ms)).map_err(|e| broken(e.into()))?;
        let opened_ms = opened.entry.wall_ms;
        let mut channel =
            Self::over(State::new(&opened.entry, orgs).map_err(broken)?, Side::Consumer);
        channel.take(opened.signed(provider_open))?;
        let own = channel.state.next_entry(Side::Consumer, opened_ms, Body::Open(open)).sign(key);
        let change = channel.state.validate(&own.entry).map_err(broken)?;
        channel.state.commit(&own.entry, own.hash, change);
        channel.bytes[Side::Consumer.index()].push(own.bytes.clone());
        Ok((channel, vec![own]))
    }

    fn over(state: State, side: Side) -> Self {
        Self {
            side,
            state,
            bytes: [Vec::new(), Vec::new()],
            quotes: BTreeMap::new(),
            frozen: None,
            is_fencing: false,
        }
    }

    /// Takes an entry of the peer. An entry that is refused changes nothing.
    ///
    /// # Errors
    /// [`EntryError`]; ask [`EntryError::is_peer_fault`] whether the peer is to blame.
    pub fn handle_entry(&mut self, bytes: &[u8], now_ms: u64) -> Result<Received, EntryError> {
        let peer = self.side.other();
        let opened = Opened::new(bytes)?;
        let entry = &opened.entry;
        if entry.channel != self.state.id {
            return Err(EntryError::OtherChannel { found: entry.channel });
        }
        if entry.writer != peer {
            return Err(EntryError::OwnLog { seq: entry.seq });
        }
        let log = self.state.log(peer);
        let next_seq = log.len().saturating_add(1);
        if log.hash_at(entry.seq) == Some(opened.hash) {
            return Ok(Received::Duplicate);
        }
        if self.is_fencing {
            return Err(EntryError::Fencing);
        }
        if entry.seq >= next_seq && entry.incarnation < log.incarnation {
            let (found, current) = (entry.incarnation, log.incarnation);
            return Err(EntryError::OldIncarnation { seq: entry.seq, found, current });
        }
        if entry.seq > next_seq {
            return Ok(Received::Gap { next_seq });
        }
        opened.verify(self.state.key(peer))?;
        if entry.seq < next_seq {
            return Err(self.conflict(&opened, bytes));
        }
        if self.frozen.is_some() {
            return Err(EntryError::Frozen);
        }
        let mine = self.state.log(self.side).len();
        if entry.peer_seq > mine {
            return Err(EntryError::AheadOfMe { peer_seq: entry.peer_seq, mine });
        }
        if matches!(entry.body, Body::Fence(_)) {
            return Err(EntryError::FencedUnasked);
        }
        if self.side == Side::Consumer
            && entry.seq.saturating_sub(self.state.acked_seq) > UNACKED_ENTRIES_MAX
        {
            return Err(EntryError::Backlog { acked_seq: self.state.acked_seq });
        }
        if self.side == Side::Provider && matches!(entry.body, Body::Open(_)) {
            // The certificates must still be in force when the consumer answers, however late its Open arrives.
            let checked = party::orgs(&self.state.open, Some(now_ms));
            checked.map_err(|e| EntryError::Violation { seq: entry.seq, source: e.into() })?;
        }
        self.take(opened.signed(bytes))
    }

    /// Validates and applies the peer's next entry, whose signature is known to be right.
    fn take(&mut self, entry: SignedEntry) -> Result<Received, EntryError> {
        let broken = |source| EntryError::Violation { seq: entry.entry.seq, source };
        let change = self.state.validate(&entry.entry).map_err(broken)?;
        let event = self.state.commit(&entry.entry, entry.hash, change);
        self.bytes[entry.entry.writer.index()].push(entry.bytes.clone());
        Ok(Received::New { entry, event })
    }

    /// A signed entry of the peer at a place where another one stands.
    fn conflict(&self, opened: &Opened<'_>, bytes: &[u8]) -> EntryError {
        let entry = &opened.entry;
        let log = &self.bytes[entry.writer.index()];
        let index = entry.seq.checked_sub(1).and_then(|i| usize::try_from(i).ok());
        let Some(stored) = index.and_then(|i| log.get(i)) else {
            return EntryError::Violation { seq: entry.seq, source: Violation::Prev };
        };
        let proof = EquivocationProof {
            signer: *self.state.open.node(entry.writer),
            first: stored.clone(),
            second: bytes.to_vec(),
        };
        match proof.verify() {
            Ok(_) => EntryError::Equivocation(Box::new(proof)),
            // One of the two belongs to an earlier incarnation. The late one is of a tail that a fence dropped.
            Err(_) => match Opened::new(stored).map(|stored| stored.entry.incarnation) {
                Ok(current) if entry.incarnation < current => {
                    EntryError::OldIncarnation { seq: entry.seq, found: entry.incarnation, current }
                }
                _ => EntryError::Violation { seq: entry.seq, source: Violation::Prev },
            },
        }
    }

    /// Stops the channel for good on a proof that one of its parties signed twice. Store the proof first.
    ///
    /// # Errors
    /// [`ProofError`] when it proves nothing about this channel.
    pub fn freeze(&mut self, proof: EquivocationProof) -> Result<(), ProofError> {
        let (channel, writer, ..) = proof.verify()?;
        if channel != self.state.id || *self.state.open.node(writer) != proof.signer {
            return Err(ProofError::Foreign);
        }
        self.frozen.get_or_insert(Box::new(proof));
        Ok(())
    }

    /// Makes a quote of the provider known, which an agreement may then name. Returns its hash.
    ///
    /// # Errors
    /// [`ChannelError`] when it is not one of this channel's provider, or too many are kept unused.
    pub fn learn_quote(&mut self, bytes: &[u8]) -> Result<Hash, ChannelError> {
        let quote = Quote::open(bytes, &self.state.open.provider)?;
        let hash = catalog::envelope::hash(bytes);
        if !self.quotes.contains_key(&hash) {
            let unused = self.state.quotes.len().saturating_sub(self.state.used_quotes);
            if unused >= UNUSED_QUOTES_MAX {
                return Err(ChannelError::TooManyQuotes);
            }
            self.keep_quote(hash, quote, bytes.to_vec());
        }
        Ok(hash)
    }

    fn keep_quote(&mut self, hash: Hash, quote: Quote, bytes: Vec<u8>) {
        self.state.learn(hash, quote);
        self.quotes.insert(hash, bytes);
    }

    /// Forgets the quotes whose lease ran out before `before_ms` and that no agreement names.
    pub fn forget_quotes(&mut self, before_ms: u64) {
        let known = &mut self.state.quotes;
        known.retain(|_, known| known.used > 0 || known.quote.valid_until_ms >= before_ms);
        self.quotes.retain(|hash, _| known.contains_key(hash));
    }

    /// The channel's id.
    #[must_use]
    pub const fn id(&self) -> &Hash {
        &self.state.id
    }

    /// Which side this is.
    #[must_use]
    pub const fn side(&self) -> Side {
        self.side
    }

    /// The node that serves.
    #[must_use]
    pub const fn provider(&self) -> NodeId {
        self.state.open.provider
    }

    /// The node that is served.
    #[must_use]
    pub const fn consumer(&self) -> NodeId {
        self.state.open.consumer
    }

    /// The other node.
    #[must_use]
    pub const fn peer(&self) -> NodeId {
        *self.state.open.node(self.side.other())
    }

    /// The organisation of a side.
    #[must_use]
    pub fn org(&self, side: Side) -> OrgId {
        self.state.org(side)
    }

    /// The currency of every amount.
    #[must_use]
    pub const fn currency(&self) -> Currency {
        self.state.open.currency
    }

    /// Whether both sides opened.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state.is_open()
    }

    /// What can be done with it now.
    #[must_use]
    pub fn state(&self) -> ChannelState {
        if self.frozen.is_some() {
            ChannelState::Frozen
        } else if self.is_fencing {
            ChannelState::Fencing
        } else if self.is_open() {
            ChannelState::Open
        } else {
            ChannelState::Opening
        }
    }

    /// The proof it was frozen on.
    #[must_use]
    pub fn frozen(&self) -> Option<&EquivocationProof> {
        self.frozen.as_deref()
    }

    /// Sequence number and hash of my newest entry.
    #[must_use]
    pub fn own_head(&self) -> (u64, Hash) {
        self.state.log(self.side).head()
    }

    /// Sequence number and hash of the peer's newest entry; zeros before its Open.
    #[must_use]
    pub fn peer_head(&self) -> (u64, Hash) {
        self.state.log(self.side.other()).head()
    }

    /// The newest entry of mine that an entry of the peer links to: what lies above may be lost and is sent again.
    #[must_use]
    pub fn known_to_peer(&self) -> u64 {
        self.state.log(self.side.other()).peer_seq
    }

    /// My entries above `seq`, oldest first: what to send again.
    pub fn own_entries_after(&self, seq: u64) -> impl Iterator<Item = StoredEntry<'_>> {
        self.entries(self.side, seq)
    }

    /// The entries of a log above `seq`, oldest first.
    pub fn entries(&self, side: Side, seq: u64) -> impl Iterator<Item = StoredEntry<'_>> {
        let hashes = self.state.log(side).hashes.iter();
        let stored = (1u64..).zip(hashes.zip(&self.bytes[side.index()]));
        let skipped = usize::try_from(seq).unwrap_or(usize::MAX);
        stored.skip(skipped).map(|(seq, (hash, bytes))| StoredEntry { seq, hash, bytes })
    }

    /// A lane.
    #[must_use]
    pub fn lane(&self, lane: u64) -> Option<&Lane> {
        self.state.lanes.get(&lane)
    }

    /// The newest lane of an attempt.
    #[must_use]
    pub fn lane_of(&self, work: &WorkId) -> Option<u64> {
        self.state.by_work.get(work).copied()
    }

    /// Every lane by its number.
    pub fn lanes(&self) -> impl Iterator<Item = (u64, &Lane)> {
        self.state.lanes.iter().map(|(lane, found)| (*lane, found))
    }

    /// The prices that were agreed for a lane.
    #[must_use]
    pub fn plan_of(&self, lane: &Lane) -> Option<&crate::PricePlan> {
        self.state.plan_of(&lane.agreement).ok()
    }

    /// What the provider claims, over all lanes.
    #[must_use]
    pub const fn claimed(&self) -> Amount {
        self.state.claimed
    }

    /// What the consumer acknowledged, over all lanes.
    #[must_use]
    pub const fn earned(&self) -> Amount {
        self.state.earned
    }

    /// Claimed and not acknowledged, over all lanes: the provider's exposure.
    #[must_use]
    pub fn unacked(&self) -> Amount {
        self.state.unacked()
    }

    /// The newest provider entry that is acknowledged.
    #[must_use]
    pub const fn acked_seq(&self) -> u64 {
        self.state.acked_seq
    }

    /// How many receipts there are.
    #[must_use]
    pub const fn receipts(&self) -> u64 {
        self.state.receipts
    }

    /// A hash over everything that the two logs determine; equal heads give equal hashes on both sides.
    #[must_use]
    pub fn state_hash(&self) -> Hash {
        self.state.hash()
    }

    /// The exact bytes of a quote that is known.
    #[must_use]
    pub fn quote_bytes(&self, hash: &Hash) -> Option<&[u8]> {
        self.quotes.get(hash).map(Vec::as_slice)
    }

    /// A known quote.
    #[must_use]
    pub fn quote(&self, hash: &Hash) -> Option<&Quote> {
        self.state.quotes.get(hash).map(|known| &known.quote)
    }

    /// The exact bytes of the quotes that agreements name, by hash.
    pub fn used_quotes(&self) -> impl Iterator<Item = (&Hash, &[u8])> {
        self.quotes
            .iter()
            .filter(|(hash, _)| self.state.quotes.get(*hash).is_some_and(|known| known.used > 0))
            .map(|(hash, bytes)| (hash, bytes.as_slice()))
    }
}
