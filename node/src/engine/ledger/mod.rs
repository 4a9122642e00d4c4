//! The ledger of this node: its channels with every partner, the quotes it gave and took, and the meters of running work.
//!
//! Provider side: a quote, then in the channel's log the agreement, a receipt each interval, a last one, and the lane's
//! close. Consumer side: the peer's entries are checked and acknowledged. Entries are handed out to be stored before they
//! are sent, and what was stored is sent again, byte for byte, until the other side says that it has it.
//!
//! | room | holds |
//! |---|---|
//! | `provider` | quotes given, agreements, receipts, closes |
//! | `consumer` | quotes taken, channels accepted, acknowledgements |
//! | `fence` | stores that were set back, and channels that are frozen |
//! | `keys` | the keys this node signs with, and partners that have come to others |
//! | `replay` | channels out of the store |

mod consumer;
mod fence;
mod keys;
mod provider;
mod replay;

use std::collections::{BTreeMap, BTreeSet};

use accounting::body::{AckException, Agreement, Body, Caps, ExposurePolicy, WorkId};
use accounting::channel::{
    Channel, EntryError, Event as ChannelEvent, NewAgreement, Received, StoredEntry,
};
use accounting::entry::{Side, SignedEntry};
use accounting::{Lane, PricePlan, Quote};
use catalog::{Amount, Digest, Fault, NodeId, OrgId};
use scheduler::device;
use scheduler::negotiate::RequestId;
use scheduler::task::{AttemptId, RunId, TaskId, TaskSpec};

use self::fence::Fences;
pub(super) use self::keys::Keys as LedgerKeys;
use self::keys::{Heirs, Keys};
use self::provider::Work;
use self::replay::entry_key;
pub(super) use self::replay::replay;
use super::message::{Bytes, FenceMessage, LedgerMessage};
use crate::store::batch::{Batch, Table};

/// Entries in one message.
const ENTRIES_PER_MESSAGE: usize = 64;
/// Quotes kept while their questions are open; the oldest leave first.
const QUOTES_MAX: usize = 4_096;
/// Agreements that wait for one consumer to open its log; at the bound its further offers lapse.
const UNOPENED_MAX: usize = 1_024;
/// How often unconfirmed entries are sent again.
const RESEND_MS: u64 = 3_000;

/// What the ledger wants of the engine.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Send to the partner.
    Send { to: NodeId, message: LedgerMessage },
    /// Send to a partner, one of the two having been set back.
    Fence { to: NodeId, message: FenceMessage },
    /// A provider signed an agreement: ask the coordinator, then call [`Ledger::answer`].
    Proposed { channel: Digest, provider: NodeId, lane: u64, terms: Box<Agreement> },
    /// A consumer signed our agreement: the work may start.
    Agreed { attempt: AttemptId },
    /// A consumer refused our agreement.
    Disagreed { attempt: AttemptId },
    /// Too much is unacknowledged: stop serving.
    Unpaid { attempt: AttemptId },
    /// What was used costs as much as the agreement allows: more would be for nothing.
    Spent { attempt: AttemptId },
    /// The partner sent something that no honest node of this version sends.
    Offence { peer: NodeId, fault: Fault, detail: String },
    /// The owner should know.
    Notice { detail: String },
}

/// A quote this node gave, kept until its agreement or its end.
#[derive(Clone, Debug)]
struct Given {
    bytes: Vec<u8>,
    quote: Quote,
}

/// See the module's documentation.
pub(super) struct Ledger {
    keys: Keys,
    heirs: Heirs,
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
    /// Agreements that wait until the consumer has opened its log too, at most [`UNOPENED_MAX`] a channel.
    unopened: BTreeMap<Digest, Vec<(NewAgreement, Vec<u8>)>>,
    /// Channels whose partner's new entries wait for our signature, with the lanes we refuse.
    ack_due: BTreeMap<Digest, Vec<AckException>>,
    resend_at_ms: u64,
    fences: Fences,
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

/// What a task may use at most, by what it asks for.
fn caps(spec: &TaskSpec) -> Caps {
    Caps {
        cpu_milli: spec.needs.cpu_milli,
        memory_bytes: spec.needs.memory_bytes,
        disk_bytes: spec.needs.disk_bytes,
        devices: device::total(&spec.needs.devices),
    }
}

/// Whether the caps and the time of the agreement are those of the task: receipts are held to them. What it may cost at most is
/// not looked at here.
pub(super) fn is_as_asked(terms: &Agreement, spec: &TaskSpec) -> bool {
    terms.caps == caps(spec)
        && terms.max_duration_ms == spec.timeout_ms
        && terms.exposure == ExposurePolicy::Stop
}

impl Ledger {
    pub(super) fn new(keys: Keys, org: OrgId, plan: PricePlan) -> Self {
        Self {
            me: keys.me(),
            keys,
            heirs: Heirs::default(),
            org,
            plan,
            channels: BTreeMap::new(),
            pairs: BTreeMap::new(),
            partner_have: BTreeMap::new(),
            given: BTreeMap::new(),
            received: BTreeMap::new(),
            work: BTreeMap::new(),
            unopened: BTreeMap::new(),
            ack_due: BTreeMap::new(),
            resend_at_ms: 0,
            fences: Fences::default(),
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

    /// Entries of a partner's log arrived. `token` is random, for a fence in case they show that the store was set back.
    pub(super) fn handle_message(
        &mut self,
        from: NodeId,
        message: LedgerMessage,
        now_ms: u64,
        token: [u8; 16],
    ) {
        let id = message.channel;
        if message.entries.len() > ENTRIES_PER_MESSAGE || message.quotes.len() > ENTRIES_PER_MESSAGE
        {
            let detail = "too many entries in one message".to_owned();
            return self.blame(from, Fault::TooMuch, detail);
        }
        if !self.hears(id, from) {
            return;
        }
        let mut entries = message.entries.iter();
        if !self.channels.contains_key(&id) {
            let Some(first) = entries.next() else { return };
            if self.is_forgotten(from, &first.0) {
                return self.notice_set_back(id, from, token);
            }
            if !self.accept(from, id, &first.0, now_ms) {
                return;
            }
        }
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        if !self.heirs.is_behind(channel.peer(), from) {
            return self.offence(from, "entries of a channel of others".to_owned());
        }
        if message.have > channel.own_head().0 {
            return self.notice_set_back(id, from, token);
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
            match self.handle_entry(id, from, &bytes.0, now_ms, token) {
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

    /// One entry. `None` stops the message (the partner misbehaved), otherwise whether it was new.
    fn handle_entry(
        &mut self,
        id: Digest,
        from: NodeId,
        bytes: &[u8],
        now_ms: u64,
        token: [u8; 16],
    ) -> Option<bool> {
        let channel = self.channels.get_mut(&id)?;
        match channel.handle_entry(bytes, now_ms) {
            Ok(Received::New { entry, event }) => {
                let have = self.partner_have.entry(id).or_default();
                *have = (*have).max(entry.entry.peer_seq);
                self.store(id, &entry);
                self.handle_event(id, event, now_ms);
                Some(true)
            }
            Ok(Received::Duplicate | Received::Gap { .. }) => Some(false),
            // Under way since before a fence: the partner hears of it by what is sent again.
            Err(EntryError::OldIncarnation { .. }) => Some(false),
            Err(EntryError::AheadOfMe { .. } | EntryError::FencedUnasked) => {
                self.notice_set_back(id, from, token);
                None
            }
            Err(EntryError::Equivocation(proof)) => {
                self.freeze(id, from, *proof);
                None
            }
            Err(EntryError::Frozen | EntryError::Fencing) => None,
            Err(error) => {
                if let Some(fault) = error.fault() {
                    self.blame(from, fault, error.to_string());
                }
                None
            }
        }
    }

    /// Asks the coordinator about an agreement, unless it would cost more than its quote said.
    fn ask_about(&mut self, id: Digest, provider: NodeId, lane: u64, terms: Box<Agreement>) {
        let quote = self.channels.get(&id).and_then(|channel| channel.quote(&terms.quote));
        if quote.is_some_and(|quote| terms.max_amount <= quote.plan.credit_limit) {
            self.actions.push(Action::Proposed { channel: id, provider, lane, terms });
        } else {
            self.answer(id, lane, false);
        }
    }

    fn handle_event(&mut self, id: Digest, event: ChannelEvent, now_ms: u64) {
        match event {
            ChannelEvent::Opened => {
                self.propose_waiting(id, now_ms);
                self.flush(id);
            }
            ChannelEvent::Proposed { lane } => {
                let Some(channel) = self.channels.get(&id) else { return };
                let Some(found) = channel.lane(lane) else { return };
                // Under whatever key it speaks now: the work was asked of the one that signs here.
                let (provider, terms) = (channel.provider(), Box::new(found.agreement));
                self.ask_about(id, provider, lane, terms);
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

    /// Receipts that are due, work that nobody acknowledges, entries to repeat.
    pub(super) fn poll(&mut self, now_ms: u64, is_connected: &dyn Fn(NodeId) -> bool) {
        let due: Vec<AttemptId> =
            self.work.iter().filter(|(_, w)| now_ms >= w.receipt_at_ms).map(|(a, _)| *a).collect();
        let mut billed = BTreeSet::new();
        for attempt in due {
            let Some(mut work) = self.work.remove(&attempt) else {
                continue;
            };
            work.receipt_at_ms = provider::next_receipt_ms(now_ms, &work.plan);
            self.write_receipt(&mut work, false, now_ms);
            let lane = self.channels.get(&work.channel).and_then(|c| c.lane(work.lane));
            if lane.is_some_and(|lane| is_spent(&work.plan, lane)) {
                self.actions.push(Action::Spent { attempt });
            }
            let unacked = lane.map_or(Amount::ZERO, Lane::unacked);
            let since = *work.unacked_since_ms.get_or_insert(now_ms);
            if unacked > work.plan.max_unacked
                || now_ms.saturating_sub(since) > work.plan.ack_timeout_ms
            {
                self.actions.push(Action::Unpaid { attempt });
            }
            billed.insert(work.channel);
            self.work.insert(attempt, work);
        }
        // Once for all lanes of a channel: a message begins with the oldest that the partner is not known to have.
        billed.into_iter().for_each(|id| self.flush(id));
        self.poll_fences(now_ms, is_connected);
        if now_ms >= self.resend_at_ms {
            self.resend_at_ms = now_ms + RESEND_MS;
            self.resend_all(is_connected);
        }
    }

    fn resend_all(&mut self, is_connected: &dyn Fn(NodeId) -> bool) {
        let behind: Vec<(Digest, u64)> = self
            .channels
            .iter()
            .map(|(id, c)| (id, c, self.heirs.now(c.peer())))
            .filter(|(_, c, partner)| is_connected(*partner) && c.frozen().is_none())
            .filter(|(id, _, partner)| self.hears(**id, *partner))
            .map(|(id, c, _)| {
                (*id, c.own_head().0, self.partner_have.get(id).copied().unwrap_or(0))
            })
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
            .filter(|(id, c)| self.heirs.is_behind(c.peer(), peer) && self.hears(**id, peer))
            .map(|(id, _)| *id)
            .collect();
        self.fence_connected(peer);
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
        let to = self.heirs.now(channel.peer());
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
        [receipt, behind.then_some(self.resend_at_ms), self.fences.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
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

    /// Counts a proven lie.
    fn offence(&mut self, peer: NodeId, detail: String) {
        self.blame(peer, Fault::Forged, detail);
    }

    /// Counts a fault of this kind.
    fn blame(&mut self, peer: NodeId, fault: Fault, detail: String) {
        self.actions.push(Action::Offence { peer, fault, detail });
    }

    pub(super) fn drain(&mut self) -> (Batch, Vec<Action>) {
        (std::mem::take(&mut self.batch), std::mem::take(&mut self.actions))
    }
}

/// Whether a lane's use costs more than its agreement allows.
fn is_spent(plan: &PricePlan, lane: &Lane) -> bool {
    accounting::rate::rate(plan, &lane.counters)
        .map_or(true, |amount| amount > lane.agreement.max_amount)
}

#[cfg(test)]
mod tests {
    use scheduler::task::{Needs, Program};
    use scheduler::value::FileRef;

    use super::*;

    #[test]
    fn an_agreement_that_would_bill_more_than_was_asked_for_is_not_wanted() {
        let module = FileRef { digest: Digest::of(b"module"), size: 6, name: String::new() };
        let spec = TaskSpec {
            program: Program::Wasi { module, fuel: false },
            argv: Vec::new(),
            env: BTreeMap::new(),
            stdin: None,
            inputs: BTreeMap::new(),
            mounts: BTreeMap::new(),
            outputs: BTreeMap::new(),
            needs: Needs::default(),
            timeout_ms: 60_000,
            service: None,
            area: None,
        };
        let terms = Agreement {
            lane: 1,
            quote: [0; 32],
            work: WorkId { run: [0; 16], step: 0, index: 0, attempt: 1 },
            spec: spec.digest(),
            caps: caps(&spec),
            max_amount: Amount::ZERO,
            max_duration_ms: spec.timeout_ms,
            exposure: ExposurePolicy::Stop,
        };
        assert!(is_as_asked(&terms, &spec));
        let more = |change: &dyn Fn(&mut Agreement)| {
            let mut terms = terms;
            change(&mut terms);
            !is_as_asked(&terms, &spec)
        };
        assert!(more(&|terms| terms.caps.cpu_milli += 1));
        assert!(more(&|terms| terms.caps.memory_bytes += 1));
        assert!(more(&|terms| terms.caps.disk_bytes += 1));
        assert!(more(&|terms| terms.caps.devices += 1));
        assert!(more(&|terms| terms.max_duration_ms += 1));
        assert!(more(&|terms| terms.exposure = ExposurePolicy::AtRisk));
    }
}
