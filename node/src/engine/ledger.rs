//! The ledger of this node: its channels with every partner, the quotes it gave and took, and the meters of running work.
//!
//! Provider side: a quote, then in the channel's log the agreement, a receipt each interval, a last one, and the lane's
//! close. Consumer side: the peer's entries are checked and acknowledged. Entries are handed out to be stored before they
//! are sent, and what was stored is sent again, byte for byte, until the other side says that it has it.

use std::collections::BTreeMap;

use accounting::body::{AckCode, AckException, Body, Caps, CloseReason, ExposurePolicy, WorkId};
use accounting::channel::{
    Channel, Event as ChannelEvent, NewAgreement, OpenTerms, Reading, Received, StoredEntry,
};
use accounting::entry::{Side, SignedEntry};
use accounting::lane::LaneState;
use accounting::{Counters, Dimension, PricePlan, Quote};
use catalog::{Amount, Digest, NodeId, OrgId};
use ed25519_dalek::SigningKey;
use scheduler::negotiate::RequestId;
use scheduler::provider::LaneEnd;
use scheduler::task::{AttemptId, RunId, TaskId, TaskSpec};

use super::message::{Bytes, LedgerMessage};
use crate::store::batch::{Batch, Table};

/// Entries in one message.
const ENTRIES_PER_MESSAGE: usize = 64;
/// Quotes kept while their questions are open; the oldest leave first.
const QUOTES_MAX: usize = 4_096;
/// Agreements that wait for one consumer to open its log; at the bound its further offers lapse.
const UNOPENED_MAX: usize = 1_024;
/// How often unconfirmed entries are sent again.
const RESEND_MS: u64 = 3_000;
/// Processor time a consumer accepts beyond what the agreed cores could have used since it signed: start-up and clocks.
const SLACK_US: u64 = 2_000_000;

/// What the ledger wants of the engine.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Send to the partner.
    Send { to: NodeId, message: LedgerMessage },
    /// A provider signed an agreement: ask the coordinator, then call [`Ledger::answer`].
    Proposed { channel: Digest, provider: NodeId, lane: u64, attempt: AttemptId, spec: Digest },
    /// A consumer signed our agreement: the work may start.
    Agreed { attempt: AttemptId },
    /// A consumer refused our agreement.
    Disagreed { attempt: AttemptId },
    /// Too much is unacknowledged: stop serving.
    Unpaid { attempt: AttemptId },
    /// The partner sent something that no honest node sends.
    Offence { peer: NodeId, detail: String },
}

/// A quote this node gave, kept until its agreement or its end.
#[derive(Clone, Debug)]
struct Given {
    bytes: Vec<u8>,
    quote: Quote,
}

/// Running work of a lane this node provides.
#[derive(Clone, Debug)]
struct Work {
    channel: Digest,
    lane: u64,
    /// What the runtime measured.
    used: Counters,
    caps: Caps,
    plan: PricePlan,
    started_ms: u64,
    last_receipt_ms: u64,
    receipt_at_ms: u64,
    unacked_since_ms: Option<u64>,
}

impl Work {
    /// What the lane is billed for so far: per dimension what was used, or what was set aside for it.
    fn billable(&self, now_ms: u64) -> Counters {
        let elapsed_ms = now_ms.saturating_sub(self.started_ms);
        let over_time = |amount: u64, per: u64| {
            u64::try_from(u128::from(amount) * u128::from(elapsed_ms) / u128::from(per))
        };
        let allocated = Counters::default()
            .with(Dimension::VcpuAlloc, over_time(self.caps.cpu_milli, 1).unwrap_or(u64::MAX))
            .with(Dimension::Mem, over_time(self.caps.memory_bytes, 1_024_000).unwrap_or(u64::MAX));
        self.plan.billable(&self.used, &allocated)
    }
}

/// See the module's documentation.
pub(super) struct Ledger {
    key: SigningKey,
    me: NodeId,
    org: OrgId,
    plan: PricePlan,
    channels: BTreeMap<Digest, Channel>,
    /// Provider, consumer → channel.
    pairs: BTreeMap<(NodeId, NodeId), Digest>,
    partner_have: BTreeMap<Digest, u64>,
    given: BTreeMap<RequestId, Given>,
    received: BTreeMap<RequestId, Vec<u8>>,
    work: BTreeMap<AttemptId, Work>,
    agreed_ms: BTreeMap<(Digest, u64), u64>,
    /// Agreements that wait until the consumer has opened its log too, at most [`UNOPENED_MAX`] a channel.
    unopened: BTreeMap<Digest, Vec<(NewAgreement, Vec<u8>)>>,
    /// Channels whose partner's new entries wait for our signature, with the lanes we refuse.
    ack_due: BTreeMap<Digest, Vec<AckException>>,
    resend_at_ms: u64,
    batch: Batch,
    actions: Vec<Action>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("channels", &self.channels.len()).finish_non_exhaustive()
    }
}

pub(super) fn work_id(attempt: AttemptId) -> WorkId {
    WorkId {
        run: *attempt.run.as_bytes(),
        step: attempt.task.step,
        index: attempt.task.index,
        attempt: attempt.number,
    }
}

pub(super) fn attempt_of(work: &WorkId) -> AttemptId {
    AttemptId {
        run: RunId::from_bytes(work.run),
        task: TaskId { step: work.step, index: work.index },
        number: work.attempt,
    }
}

impl Ledger {
    pub(super) fn new(key: SigningKey, org: OrgId, plan: PricePlan) -> Self {
        Self {
            me: key.verifying_key().into(),
            key,
            org,
            plan,
            channels: BTreeMap::new(),
            pairs: BTreeMap::new(),
            partner_have: BTreeMap::new(),
            given: BTreeMap::new(),
            received: BTreeMap::new(),
            work: BTreeMap::new(),
            agreed_ms: BTreeMap::new(),
            unopened: BTreeMap::new(),
            ack_due: BTreeMap::new(),
            resend_at_ms: 0,
            batch: Batch::default(),
            actions: Vec::new(),
        }
    }

    pub(super) fn restore(&mut self, channel: Channel) {
        let id = Digest::from_bytes(*channel.id());
        self.pairs.insert((channel.provider(), channel.consumer()), id);
        self.partner_have.insert(id, 0);
        self.channels.insert(id, channel);
    }

    pub(super) fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.channels.values()
    }

    pub(super) fn plan(&self) -> &PricePlan {
        &self.plan
    }

    /// Prices a task and signs the offer.
    pub(super) fn quote(
        &mut self,
        to: NodeId,
        request: RequestId,
        spec: &TaskSpec,
        valid_until_ms: u64,
        random: ([u8; 16], [u8; 16]),
    ) -> Vec<u8> {
        if let Some(given) = self.given.get(&request) {
            return given.bytes.clone();
        }
        while self.given.len() >= QUOTES_MAX {
            let oldest =
                self.given.iter().min_by_key(|(_, g)| g.quote.valid_until_ms).map(|(id, _)| *id);
            oldest.and_then(|id| self.given.remove(&id));
        }
        let quote = Quote {
            offer_id: random.0,
            provider: self.me,
            provider_org: self.org,
            consumer: to,
            plan: self.plan.clone(),
            meters: Vec::new(),
            valid_until_ms,
            volume: 1,
            salt: random.1,
            spec: spec.digest(),
            request,
        };
        let bytes = quote.sign(&self.key);
        self.given.insert(request, Given { bytes: bytes.clone(), quote });
        bytes
    }

    /// Checks a quote that came from `provider` and says what the task would cost there, were it to use all it may for as
    /// long as estimated.
    pub(super) fn check_quote(
        &self,
        provider: NodeId,
        bytes: &[u8],
        expected: &Counters,
    ) -> Option<(Quote, Amount)> {
        let quote = Quote::open(bytes, &provider).ok().filter(|q| q.consumer == self.me)?;
        let estimate = quote.estimate(expected)?;
        Some((quote, estimate))
    }

    /// Keeps a quote until its provider's agreement arrives.
    pub(super) fn hold_quote(&mut self, request: RequestId, bytes: Vec<u8>) {
        while self.received.len() >= QUOTES_MAX {
            self.received.pop_first();
        }
        self.received.insert(request, bytes);
    }

    /// Signs the agreement for an accepted quote, opening the channel first when there is none.
    pub(super) fn propose(
        &mut self,
        consumer: NodeId,
        request: RequestId,
        (attempt, spec): (AttemptId, &TaskSpec),
        certs: (Vec<u8>, Vec<u8>),
        now_ms: u64,
        nonce: [u8; 16],
    ) -> bool {
        let Some(given) = self.given.remove(&request) else {
            return false;
        };
        let id = match self.pairs.get(&(self.me, consumer)) {
            Some(id) => *id,
            None => match self.open(consumer, certs, now_ms, nonce) {
                Some(id) => id,
                None => return false,
            },
        };
        let terms = NewAgreement {
            work: work_id(attempt),
            spec: spec.digest(),
            caps: Caps {
                cpu_milli: spec.needs.cpu_milli,
                memory_bytes: spec.needs.memory_bytes,
                disk_bytes: spec.needs.disk_bytes,
            },
            max_amount: given.quote.plan.credit_limit,
            max_duration_ms: spec.timeout_ms,
            exposure: ExposurePolicy::Stop,
        };
        let waiting = self.unopened.entry(id).or_default();
        if waiting.len() >= UNOPENED_MAX {
            return false;
        }
        waiting.push((terms, given.bytes));
        self.propose_waiting(id, now_ms);
        self.flush(id);
        true
    }

    /// Signs the agreements that wait for the channel, once both sides have opened it.
    fn propose_waiting(&mut self, id: Digest, now_ms: u64) {
        if !self.channels.get(&id).is_some_and(Channel::is_open) {
            return;
        }
        for (terms, quote) in self.unopened.remove(&id).unwrap_or_default() {
            let Some(channel) = self.channels.get_mut(&id) else {
                return;
            };
            match channel.propose(&self.key, now_ms, terms, quote) {
                Ok(entry) => self.store(id, &entry),
                Err(error) => {
                    tracing::warn!(channel = %id, %error, "an agreement cannot be written");
                    self.actions.push(Action::Disagreed { attempt: attempt_of(&terms.work) });
                }
            }
        }
    }

    fn open(
        &mut self,
        consumer: NodeId,
        (provider_cert, consumer_cert): (Vec<u8>, Vec<u8>),
        now_ms: u64,
        nonce: [u8; 16],
    ) -> Option<Digest> {
        let terms = OpenTerms {
            consumer,
            provider_cert,
            consumer_cert,
            currency: self.plan.currency,
            nonce,
        };
        let (channel, entry) = Channel::open(&self.key, terms, now_ms).ok()?;
        let id = Digest::from_bytes(*channel.id());
        self.restore(channel);
        self.store(id, &entry);
        Some(id)
    }

    /// Entries of a partner's log arrived.
    pub(super) fn handle_message(&mut self, from: NodeId, message: LedgerMessage, now_ms: u64) {
        let id = message.channel;
        if message.entries.len() > ENTRIES_PER_MESSAGE || message.quotes.len() > ENTRIES_PER_MESSAGE
        {
            return self.offence(from, "too many entries in one message".to_owned());
        }
        let mut entries = message.entries.iter();
        if !self.channels.contains_key(&id) {
            let Some(first) = entries.next() else { return };
            if !self.accept(from, id, &first.0, now_ms) {
                return;
            }
        }
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        if channel.provider() != from && channel.consumer() != from {
            return self.offence(from, "entries of a channel of others".to_owned());
        }
        for quote in message.quotes {
            // A quote that does not verify leaves the agreement that names it without one, and that is refused.
            let hash = catalog::envelope::hash(&quote.0);
            let is_known = channel.quote_bytes(&hash).is_some();
            if !is_known && channel.learn_quote(&quote.0).is_ok() {
                self.batch.put(Table::Quotes, [id.as_bytes().as_slice(), &hash].concat(), quote.0);
            }
        }
        let n_entries = message.entries.len();
        let mut n_new = 0;
        for bytes in entries {
            match self.handle_entry(id, from, &bytes.0, now_ms) {
                Some(true) => n_new += 1,
                Some(false) => {}
                None => return,
            }
        }
        let have = self.partner_have.entry(id).or_default();
        *have = (*have).max(message.have);
        if n_new > 0 {
            self.ack_due.entry(id).or_default();
        } else if n_entries > 0 {
            // It repeats itself, so it lacks what we answered.
            self.resend(id, message.have);
        } else if self.channels.get(&id).is_some_and(|c| c.own_head().0 > message.have) {
            self.resend(id, message.have);
        }
    }

    /// A provider opens a channel with us. False when it may not.
    fn accept(&mut self, from: NodeId, id: Digest, bytes: &[u8], now_ms: u64) -> bool {
        let opened = Channel::accept(&self.key, self.me, bytes, now_ms);
        let (channel, own) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.offence(from, error.to_string());
                return false;
            }
        };
        if Digest::from_bytes(*channel.id()) != id
            || channel.provider() != from
            || self.pairs.contains_key(&(from, self.me))
        {
            self.offence(from, "a second channel, or one of others".to_owned());
            return false;
        }
        self.restore(channel);
        let peer_entry = bytes.to_vec();
        self.batch.put(Table::LedgerEntries, entry_key(id, Side::Provider, 1), peer_entry);
        for entry in own {
            self.store(id, &entry);
        }
        true
    }

    /// One entry. `None` stops the message (the partner misbehaved), otherwise whether it was new.
    fn handle_entry(
        &mut self,
        id: Digest,
        from: NodeId,
        bytes: &[u8],
        now_ms: u64,
    ) -> Option<bool> {
        let channel = self.channels.get_mut(&id)?;
        match channel.handle_entry(bytes, now_ms) {
            Ok(Received::New { entry, event }) => {
                let have = self.partner_have.entry(id).or_default();
                *have = (*have).max(entry.entry.peer_seq);
                self.store(id, &entry);
                self.handle_event(id, from, event, now_ms);
                Some(true)
            }
            Ok(Received::Duplicate | Received::Gap { .. }) => Some(false),
            Err(error) => {
                self.offence(from, error.to_string());
                None
            }
        }
    }

    fn handle_event(&mut self, id: Digest, from: NodeId, event: ChannelEvent, now_ms: u64) {
        match event {
            ChannelEvent::Opened => {
                self.propose_waiting(id, now_ms);
                self.flush(id);
            }
            ChannelEvent::Proposed { lane } => {
                let Some(found) = self.channels.get(&id).and_then(|c| c.lane(lane)) else {
                    return;
                };
                let (attempt, spec) = (attempt_of(found.work()), found.agreement.spec);
                self.actions.push(Action::Proposed {
                    channel: id,
                    provider: from,
                    lane,
                    attempt,
                    spec,
                });
            }
            ChannelEvent::Acked { lanes_agreed, lanes_refused, .. } => {
                for lane in lanes_agreed {
                    self.begin(id, lane, now_ms);
                }
                for (lane, _) in lanes_refused {
                    if let Some(found) = self.channels.get(&id).and_then(|c| c.lane(lane)) {
                        self.actions.push(Action::Disagreed { attempt: attempt_of(found.work()) });
                    }
                }
                self.note_acks(id);
            }
            _ => {}
        }
    }

    fn begin(&mut self, id: Digest, lane: u64, now_ms: u64) {
        let Some(channel) = self.channels.get(&id) else {
            return;
        };
        let Some(found) = channel.lane(lane) else {
            return;
        };
        let attempt = attempt_of(found.work());
        let terms = &found.agreement;
        let plan =
            channel.quote(&terms.quote).map_or_else(|| self.plan.clone(), |q| q.plan.clone());
        let work = Work {
            channel: id,
            lane,
            used: Counters::default(),
            caps: terms.caps,
            started_ms: now_ms,
            last_receipt_ms: now_ms,
            receipt_at_ms: now_ms + plan.interval_ms,
            unacked_since_ms: None,
            plan,
        };
        self.work.insert(attempt, work);
        self.actions.push(Action::Agreed { attempt });
    }

    fn note_acks(&mut self, id: Digest) {
        let Some(channel) = self.channels.get(&id) else {
            return;
        };
        for work in self.work.values_mut().filter(|w| w.channel == id) {
            if channel.lane(work.lane).is_some_and(|l| l.lane_seq == l.acked_lane_seq) {
                work.unacked_since_ms = None;
            }
        }
    }

    /// The coordinator's word on a proposed agreement: acknowledged, or refused.
    pub(super) fn answer(&mut self, id: Digest, lane: u64, is_wanted: bool, now_ms: u64) {
        if is_wanted {
            self.agreed_ms.insert((id, lane), now_ms);
        } else {
            let refusal = AckException { lane, last_ok_lane_seq: 0, code: AckCode::Declined };
            self.ack_due.entry(id).or_default().push(refusal);
        }
    }

    /// Signs for what arrived in this step: everything of the partner's log that is held, except refused agreements and
    /// receipts that cannot be true. True when something was signed.
    pub(super) fn acknowledge_due(&mut self, now_ms: u64) -> bool {
        let due = std::mem::take(&mut self.ack_due);
        let is_busy = !due.is_empty();
        for (id, mut exceptions) in due {
            let Some(channel) = self.channels.get_mut(&id) else {
                continue;
            };
            let implausible = channel
                .lanes()
                .map(|(_, lane)| lane)
                .filter(|lane| lane.state() == LaneState::Active && lane.claimed != lane.earned)
                .filter(|lane| {
                    let since =
                        self.agreed_ms.get(&(id, lane.agreement.lane)).copied().unwrap_or(0);
                    !is_plausible(
                        &lane.counters,
                        &lane.agreement.caps,
                        now_ms.saturating_sub(since),
                    )
                })
                .map(|lane| AckException {
                    lane: lane.agreement.lane,
                    last_ok_lane_seq: lane.acked_lane_seq,
                    code: AckCode::Usage,
                });
            exceptions.extend(implausible);
            exceptions.sort_unstable_by_key(|e| e.lane);
            if let Ok(Some(entry)) = channel.ack(&self.key, now_ms, &exceptions) {
                self.store(id, &entry);
            }
            self.flush(id);
        }
        is_busy
    }

    /// What the running task used so far.
    pub(super) fn meter(&mut self, attempt: AttemptId, counters: Counters) {
        if let Some(work) = self.work.get_mut(&attempt) {
            for dimension in Dimension::ALL {
                let highest = work.used.get(dimension).max(counters.get(dimension));
                work.used.set(dimension, highest);
            }
        }
    }

    /// Bills finally and closes the lane. Work that the provider failed at gets no further receipt.
    pub(super) fn settle(&mut self, attempt: AttemptId, end: LaneEnd, now_ms: u64) {
        let found = match self.work.remove(&attempt) {
            Some(work) => Some((work.channel, work.lane, Some(work))),
            None => self.lane_of(attempt).map(|(id, lane)| (id, lane, None)),
        };
        let Some((id, lane, work)) = found else {
            return;
        };
        if let (Some(mut work), false) = (work, end == LaneEnd::ProviderFault) {
            self.write_receipt(&mut work, true, now_ms);
        }
        let reason = match end {
            LaneEnd::Completed => CloseReason::Completed,
            LaneEnd::Failed => CloseReason::Failed,
            LaneEnd::ProviderFault => CloseReason::ProviderFault,
            LaneEnd::Cancelled => CloseReason::Cancelled,
        };
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        if let Ok(entry) = channel.close_lane(&self.key, now_ms, lane, reason) {
            self.store(id, &entry);
        }
        self.flush(id);
    }

    fn lane_of(&self, attempt: AttemptId) -> Option<(Digest, u64)> {
        let work = work_id(attempt);
        self.channels
            .iter()
            .filter(|(_, c)| c.provider() == self.me)
            .find_map(|(id, c)| c.lane_of(&work).map(|lane| (*id, lane)))
    }

    fn write_receipt(&mut self, work: &mut Work, is_final: bool, now_ms: u64) {
        let Some(channel) = self.channels.get_mut(&work.channel) else {
            return;
        };
        let reading = Reading {
            counters: work.billable(now_ms),
            period_ms: now_ms.saturating_sub(work.last_receipt_ms),
            is_final,
            reset: false,
            estimated: false,
        };
        if let Ok(entry) = channel.receipt(&self.key, now_ms, work.lane, reading) {
            work.last_receipt_ms = now_ms;
            self.store(work.channel, &entry);
        }
    }

    /// Receipts that are due, work that nobody acknowledges, entries to repeat.
    pub(super) fn poll(&mut self, now_ms: u64, is_connected: &dyn Fn(NodeId) -> bool) {
        let due: Vec<AttemptId> =
            self.work.iter().filter(|(_, w)| now_ms >= w.receipt_at_ms).map(|(a, _)| *a).collect();
        for attempt in due {
            let Some(mut work) = self.work.remove(&attempt) else {
                continue;
            };
            work.receipt_at_ms = now_ms + work.plan.interval_ms;
            self.write_receipt(&mut work, false, now_ms);
            let unacked = self
                .channels
                .get(&work.channel)
                .and_then(|c| c.lane(work.lane))
                .map_or(Amount::ZERO, accounting::lane::Lane::unacked);
            let since = *work.unacked_since_ms.get_or_insert(now_ms);
            if unacked > work.plan.max_unacked
                || now_ms.saturating_sub(since) > work.plan.ack_timeout_ms
            {
                self.actions.push(Action::Unpaid { attempt });
            }
            let id = work.channel;
            self.work.insert(attempt, work);
            self.flush(id);
        }
        if now_ms >= self.resend_at_ms {
            self.resend_at_ms = now_ms + RESEND_MS;
            self.resend_all(is_connected);
        }
    }

    fn resend_all(&mut self, is_connected: &dyn Fn(NodeId) -> bool) {
        let behind: Vec<(Digest, u64)> = self
            .channels
            .iter()
            .filter(|(_, c)| is_connected(partner(c, self.me)))
            .map(|(id, c)| (*id, c.own_head().0, self.partner_have.get(id).copied().unwrap_or(0)))
            .filter(|(_, head, have)| head > have)
            .map(|(id, _, have)| (id, have))
            .collect();
        for (id, have) in behind {
            self.resend(id, have);
        }
    }

    /// A partner is reachable again: it gets what it may lack, and hears what we hold.
    pub(super) fn handle_connected(&mut self, peer: NodeId) {
        let shared: Vec<Digest> = self
            .channels
            .iter()
            .filter(|(_, c)| partner(c, self.me) == peer)
            .map(|(id, _)| *id)
            .collect();
        for id in shared {
            let have = self.partner_have.get(&id).copied().unwrap_or(0);
            self.resend(id, have);
        }
    }

    /// Sends own entries after `have`.
    fn resend(&mut self, id: Digest, have: u64) {
        let Some(channel) = self.channels.get(&id) else {
            return;
        };
        let to = partner(channel, self.me);
        let entries: Vec<StoredEntry<'_>> =
            channel.own_entries_after(have).take(ENTRIES_PER_MESSAGE).collect();
        let last = entries.last().map_or(have, |entry| entry.seq);
        let quotes = channel
            .lanes()
            .filter(|(_, lane)| {
                channel.side() == Side::Provider
                    && lane.proposed_seq > have
                    && lane.proposed_seq <= last
            })
            .filter_map(|(_, lane)| channel.quote_bytes(&lane.agreement.quote))
            .map(|bytes| Bytes(bytes.to_vec()))
            .collect();
        let message = LedgerMessage {
            channel: id,
            have: channel.peer_head().0,
            quotes,
            entries: entries.iter().map(|entry| Bytes(entry.bytes.to_vec())).collect(),
        };
        self.actions.push(Action::Send { to, message });
    }

    /// Sends what the partner is not known to have.
    fn flush(&mut self, id: Digest) {
        let have = self.partner_have.get(&id).copied().unwrap_or(0);
        self.resend(id, have);
    }

    pub(super) fn poll_timeout(&self) -> Option<u64> {
        let receipt = self.work.values().map(|w| w.receipt_at_ms).min();
        let behind = self
            .channels
            .iter()
            .any(|(id, c)| c.own_head().0 > self.partner_have.get(id).copied().unwrap_or(0));
        [receipt, behind.then_some(self.resend_at_ms)].into_iter().flatten().min()
    }

    fn store(&mut self, id: Digest, entry: &SignedEntry) {
        if let Body::Agreement(agreement) = &entry.entry.body {
            let quote = self.channels.get(&id).and_then(|c| c.quote_bytes(&agreement.quote));
            if let Some(bytes) = quote {
                let key = [id.as_bytes().as_slice(), &agreement.quote].concat();
                self.batch.put(Table::Quotes, key, bytes.to_vec());
            }
        }
        let key = entry_key(id, entry.entry.writer, entry.entry.seq);
        self.batch.put(Table::LedgerEntries, key, entry.bytes.clone());
    }

    fn offence(&mut self, peer: NodeId, detail: String) {
        self.actions.push(Action::Offence { peer, detail });
    }

    pub(super) fn drain(&mut self) -> (Batch, Vec<Action>) {
        (std::mem::take(&mut self.batch), std::mem::take(&mut self.actions))
    }
}

fn partner(channel: &Channel, me: NodeId) -> NodeId {
    if channel.provider() == me { channel.consumer() } else { channel.provider() }
}

/// Whether counters can be true for a lane signed `elapsed_ms` ago on the consumer's clock.
fn is_plausible(counters: &Counters, caps: &Caps, elapsed_ms: u64) -> bool {
    let elapsed_us = elapsed_ms.saturating_mul(1_000);
    let cpu_max = elapsed_us.saturating_mul(caps.cpu_milli.max(1_000)) / 1_000;
    let mem_max = (elapsed_ms / 1_000 + 2).saturating_mul(caps.memory_bytes / 1_024 + 1);
    counters.get(Dimension::Cpu) <= cpu_max.saturating_add(cpu_max / 10).saturating_add(SLACK_US)
        && counters.get(Dimension::Mem) <= mem_max.saturating_add(mem_max / 10)
}

fn entry_key(channel: Digest, side: Side, seq: u64) -> Vec<u8> {
    let side = u8::from(side == Side::Consumer);
    [channel.as_bytes().as_slice(), &[side], &seq.to_be_bytes()].concat()
}

/// Channels out of the stored quotes and entries.
///
/// # Errors
/// The channel whose stored logs do not fold, with the reason.
pub(super) fn replay(
    me: NodeId,
    quotes: Vec<(Vec<u8>, Vec<u8>)>,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
) -> Result<Vec<Channel>, super::RecoverError> {
    type Logs = (Vec<Vec<u8>>, [Vec<Vec<u8>>; 2]);
    let mut logs: BTreeMap<[u8; 32], Logs> = BTreeMap::new();
    let bad = |table| super::RecoverError::Row { table };
    for (key, bytes) in quotes {
        let id: [u8; 32] =
            key.get(..32).and_then(|k| k.try_into().ok()).ok_or(bad(Table::Quotes))?;
        logs.entry(id).or_default().0.push(bytes);
    }
    for (key, bytes) in entries {
        let id: [u8; 32] =
            key.get(..32).and_then(|k| k.try_into().ok()).ok_or(bad(Table::LedgerEntries))?;
        let side = key.get(32).copied().filter(|s| *s < 2).ok_or(bad(Table::LedgerEntries))?;
        logs.entry(id).or_default().1[usize::from(side)].push(bytes);
    }
    logs.into_iter()
        .filter(|(_, (_, sides))| sides.iter().any(|s| !s.is_empty()))
        .map(|(id, (quotes, [provider, consumer]))| {
            Channel::replay(me, quotes, provider, consumer).map_err(|source| {
                super::RecoverError::Channel {
                    channel: Digest::from_bytes(id),
                    source: Box::new(source),
                }
            })
        })
        .collect()
}
