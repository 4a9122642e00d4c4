//! The fence: how a side whose store was set back gets its log back without ever signing one place twice.
//!
//! A store that was restored from a backup, copied or rolled back may lack entries that its node signed and sent. Signing on
//! from there would put a second signature on places that have one, which is proof of fraud. The peer holds what it was
//! sent, so the peer decides where the log ends.
//!
//! # Messages
//!
//! - **Request** (from the side that was set back): channel, random token, and how much it holds of either log.
//! - **Answer** (from the peer): its [`Fence`] entry for this token, entries of the requester's own log and of the peer's log
//!   beyond what the request names, at most [`PAGE_ENTRIES`] each, and the quotes that agreements among them name. The next
//!   request names what was added; so a long log is fetched page by page.
//!
//! The fence is an entry of the peer's log: "your log in my hands ends at `seq` with `head`; from now on you write in
//! `incarnation`". It is made once per token, so a repeated request gets the same bytes, and is durable before it is sent.
//!
//! # States
//!
//! The requester is *fencing* from the moment it suspects its store ([`Channel::begin_fencing`]): it signs nothing in the
//! channel and takes nothing but answers. It checks its own old signatures and the peer's, collects both logs up to the
//! fence, and adopts them whole ([`Fencing::handle_answer`]): its own log is what the peer holds, its unacknowledged tail is
//! gone. Then it goes on in the new incarnation. Receipts are cumulative, so the next one of a lane states what a dropped
//! one did. The peer signs the fence and refuses, without blame, what still arrives of the old incarnation.
//!
//! When both sides were set back neither can fence: no copy is known to be whole. Both stay fencing, and say so. The way out
//! is to put back, on one side, the home as it was last, or to go on with a new node.
//!
//! # Invariant
//!
//! No honest node signs two entries for one (channel, writer, incarnation, seq), whatever it is restored from: in an old
//! incarnation it signs nothing after a restore, and a new incarnation exists only by the peer's fence, whose token is of
//! this restore alone and restores once ([`Channel::was_fenced`]). A fence with a token that is not asked for means that the store was set back unnoticed: fence again.
//! What the peer linked to is in its copy, so nothing acknowledged is lost.
//!
//! # What a liar can do
//!
//! As requester: drop what it signed and nobody had received, which is as if it had never been sent; ask for fences until
//! [`FENCES_MAX`], which ends the channel. As peer: forget what it received and never linked to, which is as if it had
//! never arrived (a claim is stated again, a consumer's answer is given again); refuse to fence, which is to refuse to go
//! on; demand a new fence, which delays its own channel. It cannot forget what it linked to, invent an entry of the
//! requester's log, or fence twice for one token: the second one is refused, and another entry at the same place is proof.

use std::collections::BTreeMap;

use catalog::NodeId;
use ed25519_dalek::SigningKey;

use super::{Channel, ChannelError, ReplayError};
use crate::body::{Body, Fence};
use crate::entry::{EquivocationProof, FormError, Hash, Side, SignedEntry};
use crate::quote::Quote;

/// Most entries of each log in one answer.
pub const PAGE_ENTRIES: usize = 64;
/// An answer takes no further entry once its entries and quotes have this many bytes, so that it fits in one message; it
/// exceeds it by at most one entry and its quote per log.
pub const PAGE_BYTES: usize = 512 << 10;
/// Most fences in one log; at the bound no request is answered and the channel cannot go on. Each stands for a restore.
pub const FENCES_MAX: usize = 1_000;
/// Most entries of each log, and most quotes, that one restore may fetch, so that they are adopted in one commit; at the bound the channel
/// stays fencing and a newer backup is needed. At an entry per lane and 10 s it is two days of one lane.
pub const FETCHED_ENTRIES_MAX: usize = 16_384;

/// What the side that was set back asks of its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceRequest {
    /// The channel.
    pub channel: Hash,
    /// Random, one per restore.
    pub token: [u8; 16],
    /// Entries it holds of its own log.
    pub own: u64,
    /// Entries it holds of the peer's log.
    pub peer: u64,
}

/// What the peer holds, page by page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceAnswer {
    /// The channel.
    pub channel: Hash,
    /// The peer's fence for the request's token.
    pub fence: Vec<u8>,
    /// Quotes that agreements among the entries name.
    pub quotes: Vec<Vec<u8>>,
    /// Entries of the requester's log, in order.
    pub own: Vec<Vec<u8>>,
    /// Entries of the peer's log, in order.
    pub peer: Vec<Vec<u8>>,
}

/// Why an answer is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// An entry's form or signature.
    #[error("the answer to the fence request: an entry's form or signature is not right")]
    Form(#[from] FormError),
    /// The entry that is shown as the fence is none, or not of this channel's peer.
    #[error("the answer to the fence request holds no fence of this channel")]
    NoFence,
    /// Another fence for the same token.
    #[error("the peer answers one fence request with two fences")]
    OtherFence,
    /// The logs do not lead to where the fence says they end.
    #[error("the {side}'s log does not lead to the entry {seq} that the fence names")]
    Broken {
        /// Whose log.
        side: Side,
        /// Where it should end.
        seq: u64,
    },
    /// The peer signed one place of its log twice.
    #[error("the peer signed one place of its log twice")]
    Equivocation(Box<EquivocationProof>),
    /// Too much is missing.
    #[error(
        "more than {FETCHED_ENTRIES_MAX} entries of a log, or quotes, are missing: put back a newer backup of this home"
    )]
    TooLong,
    /// The logs are signed and do not fold.
    #[error("the logs that the peer holds break the channel's rules")]
    Replay(#[from] ReplayError),
}

impl FenceError {
    /// Whether an honest peer cannot have caused it.
    #[must_use]
    pub const fn is_peer_fault(&self) -> bool {
        !matches!(self, Self::TooLong)
    }
}

/// What an answer led to.
#[derive(Clone, Debug)]
pub enum Progress {
    /// It belongs to another request.
    Stale,
    /// More is needed: send [`Fencing::request`] again.
    More,
    /// The channel as both sides hold it: store it whole, in place of what was stored.
    Adopted(Box<Channel>),
}

/// The restore of one side of one channel, from its first request to the adopted logs.
#[derive(Clone, Debug)]
pub struct Fencing {
    me: NodeId,
    peer: NodeId,
    channel: Hash,
    token: [u8; 16],
    quotes: BTreeMap<Hash, Vec<u8>>,
    /// How many of the quotes came from the peer.
    fetched_quotes: usize,
    own: Copied,
    theirs: Copied,
    /// The fence, once an answer came, with its own place.
    fence: Option<(Hash, u64, Fence)>,
}

/// One log as far as it is held.
#[derive(Clone, Debug, Default)]
struct Copied {
    entries: Vec<(Hash, Vec<u8>)>,
    /// How many came from the peer.
    fetched: usize,
    /// Whether what was held at first was given up, because it is not what the peer holds.
    is_fresh: bool,
}

impl Copied {
    fn of(channel: Option<&Channel>, side: Side) -> Self {
        let entries = channel
            .map(|c| c.entries(side, 0).map(|e| (*e.hash, e.bytes.to_vec())).collect())
            .unwrap_or_default();
        Self { entries, fetched: 0, is_fresh: channel.is_none() }
    }

    fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Begins from nothing; false when it had done so before.
    fn restart(&mut self) -> bool {
        self.entries.clear();
        !std::mem::replace(&mut self.is_fresh, true)
    }

    /// Adds what is next, up to entry `end`. False when the entries do not go on from what is held.
    fn extend(
        &mut self,
        channel: &Hash,
        writer: &NodeId,
        end: u64,
        page: &[Vec<u8>],
    ) -> Result<bool, FenceError> {
        for bytes in page {
            let signed = SignedEntry::open(bytes, writer)?;
            if signed.entry.seq != self.len().saturating_add(1) || signed.entry.seq > end {
                continue;
            }
            let prev = self.entries.last().map_or([0; 32], |(hash, _)| *hash);
            if signed.entry.prev != prev || signed.entry.channel != *channel {
                return Ok(false);
            }
            if self.fetched >= FETCHED_ENTRIES_MAX {
                return Err(FenceError::TooLong);
            }
            self.fetched = self.fetched.saturating_add(1);
            self.entries.push((signed.hash, signed.bytes));
        }
        Ok(true)
    }

    /// Cuts off what lies beyond `end`. Whether the log reaches it, and with this hash.
    fn ends(&mut self, end: u64, head: Hash) -> Option<bool> {
        self.entries.truncate(usize::try_from(end).unwrap_or(usize::MAX));
        (self.len() == end).then(|| self.entries.last().is_some_and(|(hash, _)| *hash == head))
    }

    fn into_bytes(self) -> Vec<Vec<u8>> {
        self.entries.into_iter().map(|(_, bytes)| bytes).collect()
    }
}

impl Fencing {
    /// Begins with what the store holds of the channel, if it knows it at all. The token must be random and of this restore;
    /// store it, so that a crash goes on with it.
    #[must_use]
    pub fn new(
        (me, peer): (NodeId, NodeId),
        channel: Hash,
        token: [u8; 16],
        held: Option<&Channel>,
    ) -> Self {
        let side = held.map_or(Side::Provider, Channel::side);
        let quotes = held.map(|c| c.quotes.clone()).unwrap_or_default();
        let (own, theirs) = (Copied::of(held, side), Copied::of(held, side.other()));
        Self { me, peer, channel, token, quotes, fetched_quotes: 0, own, theirs, fence: None }
    }

    /// Who can answer.
    #[must_use]
    pub const fn peer(&self) -> NodeId {
        self.peer
    }

    /// What to ask for now.
    #[must_use]
    pub fn request(&self) -> FenceRequest {
        FenceRequest {
            channel: self.channel,
            token: self.token,
            own: self.own.len(),
            peer: self.theirs.len(),
        }
    }

    /// Takes an answer of the peer. What is adopted replaces the channel; nothing may be signed before it is stored.
    ///
    /// # Errors
    /// [`FenceError`]; a later answer may still be right.
    pub fn handle_answer(&mut self, answer: &FenceAnswer) -> Result<Progress, FenceError> {
        if answer.channel != self.channel {
            return Ok(Progress::Stale);
        }
        let shown = SignedEntry::open(&answer.fence, &self.peer)?;
        let fence = match shown.entry.body {
            Body::Fence(fence) if shown.entry.channel == self.channel => fence,
            _ => return Err(FenceError::NoFence),
        };
        if fence.token != self.token {
            return Ok(Progress::Stale);
        }
        let (hash, place, fence) = *self.fence.get_or_insert((shown.hash, shown.entry.seq, fence));
        if hash != shown.hash {
            return Err(FenceError::OtherFence);
        }
        self.check_place(&shown)?;
        answer.quotes.iter().try_for_each(|quote| self.keep_quote(quote))?;
        let (own, theirs) = (&mut self.own, &mut self.theirs);
        let own_leads = own.extend(&self.channel, &self.me, fence.seq, &answer.own)?;
        let their_leads = theirs.extend(&self.channel, &self.peer, place, &answer.peer)?;
        let mut is_whole = true;
        for (log, leads, end, head, writer) in [
            (own, own_leads, fence.seq, fence.head, shown.entry.writer.other()),
            (theirs, their_leads, place, hash, shown.entry.writer),
        ] {
            // What was held may be a tail that an earlier fence dropped: then the peer's copy is fetched from its beginning.
            let reaches = log.ends(end, head);
            if (!leads || reaches == Some(false)) && !log.restart() {
                return Err(FenceError::Broken { side: writer, seq: end });
            }
            is_whole &= leads && reaches == Some(true);
        }
        if is_whole { self.adopt() } else { Ok(Progress::More) }
    }

    /// Keeps a quote that one of the two signed. Another one is nothing that an agreement could name.
    fn keep_quote(&mut self, bytes: &[u8]) -> Result<(), FenceError> {
        let hash = catalog::envelope::hash(bytes);
        let is_signed = || [&self.me, &self.peer].iter().any(|n| Quote::open(bytes, n).is_ok());
        if self.quotes.contains_key(&hash) || !is_signed() {
            return Ok(());
        }
        if self.fetched_quotes >= FETCHED_ENTRIES_MAX {
            return Err(FenceError::TooLong);
        }
        self.fetched_quotes = self.fetched_quotes.saturating_add(1);
        self.quotes.insert(hash, bytes.to_vec());
        Ok(())
    }

    /// A fence of this very incarnation at a place where the peer had signed something else is proof against the peer.
    fn check_place(&self, shown: &SignedEntry) -> Result<(), FenceError> {
        let index = shown.entry.seq.checked_sub(1).and_then(|i| usize::try_from(i).ok());
        let Some((hash, bytes)) = index.and_then(|i| self.theirs.entries.get(i)) else {
            return Ok(());
        };
        if *hash == shown.hash {
            return Ok(());
        }
        let proof = EquivocationProof {
            signer: self.peer,
            first: bytes.clone(),
            second: shown.bytes.clone(),
        };
        match proof.verify() {
            Ok(_) => Err(FenceError::Equivocation(Box::new(proof))),
            Err(_) => Ok(()),
        }
    }

    fn adopt(&mut self) -> Result<Progress, FenceError> {
        let quotes = self.quotes.values().cloned().collect();
        let (own, theirs) = (self.own.clone().into_bytes(), self.theirs.clone().into_bytes());
        Ok(Progress::Adopted(Box::new(Channel::replay(self.me, quotes, own, theirs)?)))
    }
}

impl Channel {
    /// Stops signing and taking entries: this side's store was set back, or is suspected to be. What [`Fencing`] adopts takes
    /// this channel's place.
    pub const fn begin_fencing(&mut self) {
        self.is_fencing = true;
    }

    /// Whether this side waits for its peer's fence.
    #[must_use]
    pub const fn is_fencing(&self) -> bool {
        self.is_fencing
    }

    /// Whether the peer's fence for this token is part of the channel already. A token restores once: what was signed since lies
    /// beyond its fence, and adopting that again would sign those places twice.
    #[must_use]
    pub fn was_fenced(&self, token: &[u8; 16]) -> bool {
        self.state.log(self.side.other()).fences.contains_key(token)
    }

    /// Fences the peer's log, once per token, and answers with what is held beyond the request. Store the new entry, if
    /// there is one, before the answer is sent.
    ///
    /// # Errors
    /// [`ChannelError`] when this side may not sign either, or [`FENCES_MAX`] fences were made.
    pub fn answer_fence(
        &mut self,
        key: &SigningKey,
        now_ms: u64,
        request: &FenceRequest,
    ) -> Result<(Option<SignedEntry>, FenceAnswer), ChannelError> {
        self.may_sign(key, self.side)?;
        let known = self.state.log(self.side).fences.get(&request.token).copied();
        let (signed, place) = match known {
            Some(place) => (None, place),
            None => {
                let (seq, head) = self.peer_head();
                let before = self.state.log(self.side.other()).incarnation;
                let incarnation = before.saturating_add(1);
                let fence = Fence { token: request.token, incarnation, seq, head };
                let signed = self.append(key, now_ms, Body::Fence(fence))?;
                let place = signed.entry.seq;
                (Some(signed), place)
            }
        };
        let answer = self.page(request, place);
        Ok((signed, answer))
    }

    /// The next entries of both logs, up to the fence at `place` of this side's log.
    fn page(&self, request: &FenceRequest, place: u64) -> FenceAnswer {
        let bytes_of = |side, seq: u64| {
            self.entries(side, seq.saturating_sub(1)).next().map(|e| e.bytes.to_vec())
        };
        let fence = bytes_of(self.side, place).unwrap_or_default();
        let mut answer = FenceAnswer {
            channel: self.state.id,
            fence,
            quotes: Vec::new(),
            own: Vec::new(),
            peer: Vec::new(),
        };
        let mut budget = PAGE_BYTES;
        for (side, after) in [(self.side, request.peer), (self.side.other(), request.own)] {
            let limit = if side == self.side { place } else { u64::MAX };
            let mut page = Vec::new();
            for entry in self.entries(side, after).take_while(|e| e.seq <= limit).take(PAGE_ENTRIES)
            {
                if budget == 0 {
                    break;
                }
                budget = budget.saturating_sub(entry.bytes.len());
                page.push(entry.bytes.to_vec());
                if let Some(quote) = self.quote_at(side, entry.seq) {
                    budget = budget.saturating_sub(quote.len());
                    answer.quotes.push(quote.to_vec());
                }
            }
            if side == self.side {
                answer.peer = page;
            } else {
                answer.own = page;
            }
        }
        answer
    }

    /// The quote that the agreement at this place of the provider's log names.
    fn quote_at(&self, side: Side, seq: u64) -> Option<&[u8]> {
        if side != Side::Provider {
            return None;
        }
        let lane = self.state.lanes.values().find(|lane| lane.proposed_seq == seq)?;
        self.quote_bytes(&lane.agreement.quote)
    }
}
