//! The fold over both logs of a channel, the same for each side and for a third party that verifies.
//!
//! [`State::validate`] decides whether an entry may come next and what it changes; [`State::commit`] applies that. Every rule
//! depends only on the entry's own log before it and on the other log up to the entry's peer link, so that any order in which
//! a side learns the two logs gives the same state.

mod ack;
mod violation;

use std::collections::{BTreeMap, BTreeSet};

use catalog::cbor::{MapWriter, Value};
use catalog::{Amount, OrgId};
use ed25519_dalek::VerifyingKey;

use crate::body::{Agreement, Body, CloseReason, Fence, LaneClose, Open, Receipt, WorkId};
use crate::channel::Event;
use crate::channel::fence::FENCES_MAX;
use crate::dimension::{Counters, Dimension};
use crate::entry::{Entry, Hash, Side};
use crate::lane::{Answer, Claim, End, Lane};
use crate::price::PricePlan;
use crate::quote::Quote;
use crate::rate;

pub(crate) use ack::AckEffect;
pub use violation::Violation;

/// One of the two logs: what the rules need of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(crate) hashes: Vec<Hash>,
    /// The incarnation of its next entry: the peer's newest fence began it.
    pub(crate) incarnation: u32,
    pub(crate) peer_seq: u64,
    /// The place in the other log of the fence that began the incarnation; 0 for the first incarnation.
    fenced_at: u64,
    /// The fences of this log, by token, with their places.
    pub(crate) fences: BTreeMap<[u8; 16], u64>,
}

impl Log {
    pub(crate) fn len(&self) -> u64 {
        self.hashes.len() as u64
    }

    /// Sequence number and hash of the newest entry; zeros when there is none.
    pub(crate) fn head(&self) -> (u64, Hash) {
        (self.len(), self.hashes.last().copied().unwrap_or_default())
    }

    /// Hash of the entry `seq`; zeros for 0, `None` when the log does not reach it.
    pub(crate) fn hash_at(&self, seq: u64) -> Option<Hash> {
        let Some(index) = seq.checked_sub(1) else {
            return Some([0; 32]);
        };
        usize::try_from(index).ok().and_then(|i| self.hashes.get(i)).copied()
    }
}

/// A quote and how many lanes were made on it.
#[derive(Clone, Debug)]
pub(crate) struct KnownQuote {
    pub(crate) quote: Quote,
    pub(crate) used: u64,
}

/// What a valid entry changes.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Opened,
    Proposed(Agreement),
    Receipt(Receipt),
    Acked(AckEffect),
    Fenced(Fence),
    Closed(LaneClose),
}

/// The state of a channel at the heads of its two logs.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) id: Hash,
    pub(crate) open: Open,
    orgs: [OrgId; 2],
    /// What each side signs with; `None` for an id that is no key.
    keys: [Option<VerifyingKey>; 2],
    pub(crate) logs: [Log; 2],
    pub(crate) lanes: BTreeMap<u64, Lane>,
    pub(crate) by_work: BTreeMap<WorkId, u64>,
    pub(crate) quotes: BTreeMap<Hash, KnownQuote>,
    /// Lanes that an acknowledgement could still change.
    pub(crate) unsettled: BTreeSet<u64>,
    pub(crate) acked_seq: u64,
    pub(crate) claimed: Amount,
    pub(crate) earned: Amount,
    pub(crate) receipts: u64,
    /// Lanes neither ended nor refused.
    pub(crate) live_lanes: usize,
    /// Quotes that an agreement names.
    pub(crate) used_quotes: usize,
}

impl State {
    /// The state before the provider's Open, which `first` must be. `orgs` are the organisations that the certificates
    /// inside name, provider first.
    pub(crate) fn new(first: &Entry, orgs: [OrgId; 2]) -> Result<Self, Violation> {
        let Body::Open(open) = &first.body else {
            return Err(Violation::NotOpen);
        };
        if first.writer != Side::Provider || open.opened_by != Side::Provider {
            return Err(Violation::NotOpen);
        }
        if open.provider == open.consumer {
            return Err(Violation::OneParty);
        }
        let id = first.channel_id();
        if first.channel != id {
            return Err(Violation::Channel { expected: id });
        }
        Ok(Self {
            id,
            open: (**open).clone(),
            orgs,
            keys: Side::BOTH.map(|side| open.node(side).verifying_key().ok()),
            logs: [Log::default(), Log::default()],
            lanes: BTreeMap::new(),
            by_work: BTreeMap::new(),
            quotes: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            acked_seq: 0,
            claimed: Amount::ZERO,
            earned: Amount::ZERO,
            receipts: 0,
            live_lanes: 0,
            used_quotes: 0,
        })
    }

    pub(crate) fn log(&self, side: Side) -> &Log {
        &self.logs[side.index()]
    }

    /// Whether both sides opened.
    pub(crate) fn is_open(&self) -> bool {
        Side::BOTH.iter().all(|side| self.log(*side).len() > 0)
    }

    pub(crate) fn org(&self, side: Side) -> OrgId {
        self.orgs[side.index()]
    }

    /// What a side signs with; `None` when its id is no key.
    pub(crate) const fn key(&self, side: Side) -> Option<&VerifyingKey> {
        self.keys[side.index()].as_ref()
    }

    /// Makes a quote known, so that an agreement may name it.
    pub(crate) fn learn(&mut self, hash: Hash, quote: Quote) {
        self.quotes.entry(hash).or_insert(KnownQuote { quote, used: 0 });
    }

    pub(crate) fn plan_of(&self, agreement: &Agreement) -> Result<&PricePlan, Violation> {
        let known = self.quotes.get(&agreement.quote);
        known.map(|k| &k.quote.plan).ok_or(Violation::UnknownQuote { quote: agreement.quote })
    }

    /// The header that the next entry of `writer` must have, with this body.
    pub(crate) fn next_entry(&self, writer: Side, wall_ms: u64, body: Body) -> Entry {
        let (len, prev) = self.log(writer).head();
        let (peer_seq, peer_head) = self.log(writer.other()).head();
        let incarnation = self.log(writer).incarnation;
        let seq = len.saturating_add(1);
        Entry {
            channel: self.id,
            writer,
            incarnation,
            seq,
            prev,
            peer_seq,
            peer_head,
            wall_ms,
            body,
        }
    }

    /// Checks that `entry` may come next in its log.
    pub(crate) fn validate(&self, entry: &Entry) -> Result<Change, Violation> {
        self.validate_header(entry)?;
        let first = entry.seq == 1;
        if first != matches!(entry.body, Body::Open(_)) {
            return Err(Violation::NotOpen);
        }
        match (&entry.body, entry.writer) {
            (Body::Open(open), _) => self.validate_open(entry, open),
            (Body::Agreement(agreement), Side::Provider) => {
                self.validate_agreement(entry, agreement)
            }
            (Body::Receipt(receipt), Side::Provider) => self.validate_receipt(entry, receipt),
            (Body::LaneClose(close), Side::Provider) => self.validate_close(close),
            (Body::Ack(ack), Side::Consumer) => self.validate_ack(entry, ack),
            (Body::Fence(fence), _) => self.validate_fence(entry, fence),
            (body, writer) => Err(Violation::Writer { number: body.type_number(), writer }),
        }
    }

    fn validate_header(&self, entry: &Entry) -> Result<(), Violation> {
        let (own, peer) = (self.log(entry.writer), self.log(entry.writer.other()));
        if entry.channel != self.id {
            return Err(Violation::Channel { expected: self.id });
        }
        if entry.incarnation != own.incarnation {
            let expected = own.incarnation;
            return Err(Violation::Incarnation { expected, found: entry.incarnation });
        }
        let (len, prev) = own.head();
        if entry.seq != len.saturating_add(1) {
            return Err(Violation::Seq { expected: len.saturating_add(1), found: entry.seq });
        }
        if entry.prev != prev {
            return Err(Violation::Prev);
        }
        if entry.peer_seq < own.peer_seq {
            return Err(Violation::PeerBack { before: own.peer_seq, found: entry.peer_seq });
        }
        if entry.peer_seq < own.fenced_at {
            return Err(Violation::BeforeFence { fence: own.fenced_at, found: entry.peer_seq });
        }
        match peer.hash_at(entry.peer_seq) {
            None => Err(Violation::PeerMissing { len: peer.len(), found: entry.peer_seq }),
            Some(hash) if hash != entry.peer_head => {
                Err(Violation::PeerHead { seq: entry.peer_seq })
            }
            Some(_) => Ok(()),
        }
    }

    fn validate_open(&self, entry: &Entry, open: &Open) -> Result<Change, Violation> {
        // The consumer signs what the provider opened with, so it must have seen it; the provider opens first.
        let seen = u64::from(entry.writer == Side::Consumer);
        if *open == self.open && entry.peer_seq == seen {
            Ok(Change::Opened)
        } else {
            Err(Violation::NotOpen)
        }
    }

    fn validate_fence(&self, entry: &Entry, fence: &Fence) -> Result<Change, Violation> {
        let (own, peer) = (self.log(entry.writer), self.log(entry.writer.other()));
        if entry.peer_seq == 0 {
            return Err(Violation::NotOpen);
        }
        if fence.seq != entry.peer_seq || fence.head != entry.peer_head {
            return Err(Violation::FenceLink { seq: fence.seq });
        }
        // Whatever goes on from the fence links to it, so at this point the other log ends there, in whichever order the two
        // are read, unless it went on in its old incarnation.
        if peer.len() != fence.seq {
            return Err(Violation::FenceEnd { len: peer.len(), found: fence.seq });
        }
        let expected = peer.incarnation.saturating_add(1);
        if fence.incarnation != expected {
            return Err(Violation::FenceIncarnation { expected, found: fence.incarnation });
        }
        if own.fences.contains_key(&fence.token) || own.fences.len() >= FENCES_MAX {
            return Err(Violation::FenceAgain);
        }
        Ok(Change::Fenced(*fence))
    }

    fn validate_agreement(
        &self,
        entry: &Entry,
        agreement: &Agreement,
    ) -> Result<Change, Violation> {
        if entry.peer_seq == 0 {
            return Err(Violation::NotOpen);
        }
        let last = self.lanes.last_key_value().map_or(0, |(lane, _)| *lane);
        if agreement.lane <= last {
            return Err(Violation::LaneOrder { last, found: agreement.lane });
        }
        if agreement.max_amount.is_negative() {
            return Err(Violation::NegativeMax { lane: agreement.lane });
        }
        let known = self.quotes.get(&agreement.quote);
        let known = known.ok_or(Violation::UnknownQuote { quote: agreement.quote })?;
        let quote = &known.quote;
        let mismatch = |field| Err(Violation::QuoteMismatch { lane: agreement.lane, field });
        if quote.provider != self.open.provider {
            return mismatch("provider");
        }
        if quote.provider_org != self.org(Side::Provider) {
            return mismatch("organisation");
        }
        if quote.consumer != self.open.consumer {
            return mismatch("consumer");
        }
        if quote.plan.currency != self.open.currency {
            return mismatch("currency");
        }
        if quote.spec != agreement.spec {
            return mismatch("spec");
        }
        if known.used >= quote.volume {
            return Err(Violation::QuoteUsedUp { quote: agreement.quote, volume: quote.volume });
        }
        if entry.wall_ms > quote.valid_until_ms {
            let (valid_until_ms, wall_ms) = (quote.valid_until_ms, entry.wall_ms);
            return Err(Violation::QuoteExpired { valid_until_ms, wall_ms });
        }
        Ok(Change::Proposed(*agreement))
    }

    /// The lane `lane`, which must not be closed.
    fn running(&self, lane: u64) -> Result<&Lane, Violation> {
        let found = self.lanes.get(&lane).ok_or(Violation::UnknownLane { lane })?;
        if found.end.is_some() { Err(Violation::LaneEnded { lane }) } else { Ok(found) }
    }

    fn validate_receipt(&self, entry: &Entry, receipt: &Receipt) -> Result<Change, Violation> {
        let lane = self.running(receipt.lane)?;
        let agreed =
            matches!(lane.answer, Some(Answer::Agreed { seq, .. }) if seq <= entry.peer_seq);
        if !agreed {
            return Err(Violation::NotAgreed { lane: receipt.lane });
        }
        if lane.is_final {
            return Err(Violation::LaneEnded { lane: receipt.lane });
        }
        let expected = lane.lane_seq.saturating_add(1);
        if receipt.lane_seq != expected {
            return Err(Violation::LaneSeq {
                lane: receipt.lane,
                expected,
                found: receipt.lane_seq,
            });
        }
        if let Some(dimension) = receipt.counters.fell_below(&lane.counters) {
            return Err(Violation::CounterFell { lane: receipt.lane, dimension });
        }
        let elapsed = self.elapsed(lane, receipt.period_ms)?;
        let terms = &lane.agreement;
        for dimension in Dimension::ALL {
            let found = receipt.counters.get(dimension);
            if let Some(limit) = terms.caps.limit(dimension, elapsed, terms.max_duration_ms)
                && found > limit
            {
                return Err(Violation::OverCap { lane: receipt.lane, dimension, limit, found });
            }
        }
        let expected = self.amount_of(lane, &receipt.counters)?;
        if receipt.amount != expected {
            return Err(Violation::Amount { lane: receipt.lane, expected, found: receipt.amount });
        }
        self.claimed_after(lane, expected)?;
        Ok(Change::Receipt(*receipt))
    }

    /// The lane's elapsed time after a further period.
    pub(crate) fn elapsed(&self, lane: &Lane, period_ms: u64) -> Result<u64, Violation> {
        let elapsed = lane.elapsed_ms.checked_add(period_ms);
        elapsed.ok_or(Violation::Period { lane: lane.agreement.lane })
    }

    /// The cumulative amount a receipt of the lane must state for these counters.
    pub(crate) fn amount_of(&self, lane: &Lane, counters: &Counters) -> Result<Amount, Violation> {
        let plan = self.plan_of(&lane.agreement)?;
        Ok(rate::rate_capped(plan, counters, lane.agreement.max_amount))
    }

    fn claimed_after(&self, lane: &Lane, amount: Amount) -> Result<Amount, Violation> {
        let others = self.claimed.checked_sub(lane.claimed);
        others.and_then(|sum| sum.checked_add(amount)).ok_or(Violation::TotalOverflow)
    }

    /// The close that the lane must have for this reason.
    pub(crate) fn close_of(&self, lane: u64, reason: CloseReason) -> Result<LaneClose, Violation> {
        let found = self.running(lane)?;
        let terms = &found.agreement;
        let amount = if reason == CloseReason::ProviderFault || found.lane_seq == 0 {
            Amount::ZERO
        } else {
            let plan = self.plan_of(terms)?;
            rate::rate_closed_capped(plan, &found.counters, found.elapsed_ms, terms.max_amount)
        };
        let (last_receipt, lane_seq) = (found.last_receipt, found.lane_seq);
        Ok(LaneClose { lane, reason, last_receipt, lane_seq, amount })
    }

    fn validate_close(&self, close: &LaneClose) -> Result<Change, Violation> {
        let expected = self.close_of(close.lane, close.reason)?;
        if close.last_receipt != expected.last_receipt || close.lane_seq != expected.lane_seq {
            return Err(Violation::CloseReceipt { lane: close.lane });
        }
        if close.amount != expected.amount {
            let (expected, found) = (expected.amount, close.amount);
            return Err(Violation::Amount { lane: close.lane, expected, found });
        }
        let lane = self.running(close.lane)?;
        self.claimed_after(lane, close.amount)?;
        Ok(Change::Closed(*close))
    }

    /// Applies what [`Self::validate`] found for this very entry.
    pub(crate) fn commit(&mut self, entry: &Entry, hash: Hash, change: Change) -> Event {
        let log = &mut self.logs[entry.writer.index()];
        log.hashes.push(hash);
        log.peer_seq = entry.peer_seq;
        match change {
            Change::Opened => {
                // The consumer's Open countersigns the provider's.
                self.acked_seq = self.acked_seq.max(entry.peer_seq);
                Event::Opened
            }
            Change::Proposed(agreement) => self.commit_agreement(agreement, entry.seq),
            Change::Receipt(receipt) => self.commit_receipt(&receipt, entry.seq, hash),
            Change::Acked(effect) => self.commit_ack(entry.seq, entry.wall_ms, effect),
            Change::Fenced(fence) => {
                self.logs[entry.writer.index()].fences.insert(fence.token, entry.seq);
                let fenced = &mut self.logs[entry.writer.other().index()];
                (fenced.incarnation, fenced.fenced_at) = (fence.incarnation, entry.seq);
                Event::Fenced { incarnation: fence.incarnation }
            }
            Change::Closed(close) => self.commit_close(&close, entry.seq),
        }
    }

    fn commit_agreement(&mut self, agreement: Agreement, seq: u64) -> Event {
        if let Some(known) = self.quotes.get_mut(&agreement.quote) {
            self.used_quotes = self.used_quotes.saturating_add(usize::from(known.used == 0));
            known.used = known.used.saturating_add(1);
        }
        self.live_lanes = self.live_lanes.saturating_add(1);
        let lane = agreement.lane;
        self.by_work.insert(agreement.work, lane);
        self.lanes.insert(lane, Lane::new(agreement, seq));
        self.unsettled.insert(lane);
        Event::Proposed { lane }
    }

    /// Sets the cumulative claim of a lane.
    fn claim(&mut self, lane: u64, claim: Claim) {
        let Some(found) = self.lanes.get_mut(&lane) else {
            return;
        };
        let others = self.claimed.checked_sub(found.claimed);
        self.claimed = others
            .and_then(|sum| sum.checked_add(claim.amount))
            .expect("validation refuses an entry whose total does not fit");
        found.claimed = claim.amount;
        found.pending.push_back(claim);
        self.unsettled.insert(lane);
    }

    fn commit_receipt(&mut self, receipt: &Receipt, seq: u64, hash: Hash) -> Event {
        let Receipt { lane, lane_seq, amount, is_final, .. } = *receipt;
        self.receipts = self.receipts.saturating_add(1);
        self.claim(lane, Claim { seq, lane_seq: Some(lane_seq), amount });
        if let Some(found) = self.lanes.get_mut(&lane) {
            found.lane_seq = lane_seq;
            found.elapsed_ms = found.elapsed_ms.saturating_add(receipt.period_ms);
            found.counters = receipt.counters;
            found.last_receipt = hash;
            found.is_final = is_final;
        }
        Event::Receipt { lane, lane_seq, amount, is_final }
    }

    fn commit_close(&mut self, close: &LaneClose, seq: u64) -> Event {
        let LaneClose { lane, reason, amount, .. } = *close;
        self.claim(lane, Claim { seq, lane_seq: None, amount });
        if let Some(found) = self.lanes.get_mut(&lane) {
            self.live_lanes = self.live_lanes.saturating_sub(usize::from(found.is_live()));
            found.end = Some(End { reason, acked: false });
        }
        Event::LaneClosed { lane, reason, amount }
    }

    /// Claimed and not acknowledged, over all lanes.
    pub(crate) fn unacked(&self) -> Amount {
        let lanes = self.unsettled.iter().filter_map(|lane| self.lanes.get(lane));
        lanes.fold(Amount::ZERO, |sum, lane| sum.saturating_add(lane.unacked()))
    }

    /// A hash over everything the two logs determine: equal heads give equal hashes, on both sides.
    pub(crate) fn hash(&self) -> Hash {
        let lane = |lane: &Lane| {
            let answer = match lane.answer {
                None => 0,
                Some(Answer::Agreed { seq, .. }) => seq,
                Some(Answer::Refused { .. }) => u64::MAX,
            };
            let end = lane.end.map_or(0, |end| 1 + u64::from(end.acked));
            MapWriter::new()
                .put(1, &lane.agreement.lane)
                .put(2, &answer)
                .put(3, &lane.lane_seq)
                .put(4, &lane.acked_lane_seq)
                .put(5, &lane.counters)
                .put(6, &lane.claimed)
                .put(7, &lane.earned)
                .put(8, &end)
                .put(9, &(lane.pending.len() as u64))
                .finish()
        };
        let head = |side: Side| {
            let (seq, hash) = self.log(side).head();
            let incarnation = self.log(side).incarnation;
            MapWriter::new().put(1, &seq).put(2, &hash).put(3, &incarnation).finish()
        };
        let lanes: Vec<Value> = self.lanes.values().map(lane).collect();
        let all = MapWriter::new()
            .put(1, &self.id)
            .put(2, &head(Side::Provider))
            .put(3, &head(Side::Consumer))
            .put(4, &self.claimed)
            .put(5, &self.earned)
            .put(6, &self.acked_seq)
            .put(7, &lanes);
        catalog::envelope::hash(&all.encode())
    }
}
