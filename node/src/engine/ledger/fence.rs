//! What a home that was put back from a backup, copied or rolled back does about its ledgers, and what it does for partners
//! in that state. The protocol of one channel and its proof stand in [`accounting::channel::fence`].
//!
//! # After a restore
//!
//! A home that was set back asks every partner, once, which channels the two share: there may be some that the backup does not
//! know. Until a partner has told, nothing of the ledger goes to or comes from it, and no channel with it is opened. Every
//! channel that is known or told is fenced: asked for at each connection and then by timer, at most every
//! [`ASK_PAUSE_MAX_MS`], until its partner's copy is adopted, in one batch. Tokens and who has told are stored, so a crash in
//! between goes on where it stood. Only the partner can end it; a partner that never comes back costs its channel.
//!
//! What becomes of work that the backup does not know:
//!
//! - As provider: nothing of it runs here any more. Lanes that are open after the adoption are closed as this node's fault,
//!   which costs the consumer nothing, whatever was acknowledged before.
//! - As consumer: a lane without an answer is answered as if it had just come, which is a refusal unless the run log knows it.
//!   A lane that this node had agreed to and its run log does not know is left to its provider: it is told to stop as soon as
//!   it reports, and closes the lane. What it used until then is owed, once; its results are not fetched. Attempts that the
//!   runs start from then on have numbers above every one used before ([`scheduler::run::Run::number_from`]), so none is
//!   taken for an earlier one, neither in a bill nor in a commit.
//!
//! A store that was set back without a trace (a rolled back machine) is noticed when a partner shows or names more than is
//! held: that channel is fenced then. What was signed before the partner spoke may be proof against this node.
//!
//! A copy that runs beside its original is taken for a restored home, and so is the original as soon as it hears of the copy's
//! fence: the two fence each other out in turn, at the latest when a channel has
//! [`FENCES_MAX`](accounting::channel::fence::FENCES_MAX) fences, and neither gets on. That is no fraud, but no node either: one
//! of them has to be stopped for good.
//!
//! # Fraud
//!
//! An equivocation is stored before the channel is frozen on it. A frozen channel stays frozen: nothing is signed in it, its
//! running work is stopped, and its partner gets no new work in either direction.

use std::collections::{BTreeMap, BTreeSet};

use accounting::body::CloseReason;
use accounting::channel::fence::{FenceAnswer, FenceError, FenceRequest, Fencing, Progress};
use accounting::channel::{Channel, ChannelError, ChannelState};
use accounting::entry::{EquivocationProof, Side, SignedEntry};
use accounting::lane::LaneState;
use catalog::{Digest, Fault, NodeId};
use scheduler::task::AttemptId;

use super::super::message::{Bytes, FenceMessage};
use super::super::{RecoverError, Row};
use super::keys;
use super::replay::entry_key;
use super::{Action, ENTRIES_PER_MESSAGE, Ledger, attempt_of};
use crate::store::batch::Table;

/// The first pause between two questions to one partner; it doubles.
const ASK_PAUSE_MS: u64 = 1_000;
/// The longest pause.
const ASK_PAUSE_MAX_MS: u64 = 60_000;
/// Most channels that are fenced with one partner, of those the store does not know; at the bound further ones are not
/// believed. Two nodes share two at most.
const UNKNOWN_MAX: usize = 4;

/// The token of the newest restore of this home.
const SET_BACK_KEY: &[u8] = b"ledger/set-back";
/// Before a partner's id: it has told which channels are shared.
const HEARD_PREFIX: &[u8] = b"ledger/heard/";
/// Before a channel's id: it is being fenced; the value is the token and the partner.
const FENCE_PREFIX: &[u8] = b"ledger/fence/";
/// Before a channel's id: the proof it is frozen on.
const FROZEN_PREFIX: &[u8] = b"ledger/frozen/";

/// What waits for fences.
#[derive(Debug, Default)]
pub(super) struct Fences {
    set_back: Option<[u8; 16]>,
    heard: BTreeSet<NodeId>,
    restores: BTreeMap<Digest, Restore>,
    asks: BTreeMap<NodeId, Ask>,
}

#[derive(Debug)]
struct Restore {
    fencing: Fencing,
    /// The partner cannot fence: its store was set back too.
    is_stuck: bool,
}

/// When a connected partner is asked next.
#[derive(Clone, Copy, Debug)]
struct Ask {
    at_ms: u64,
    pause_ms: u64,
}

impl Fences {
    /// Whether the partner has told what is shared, if it had to.
    fn has_told(&self, peer: NodeId) -> bool {
        self.set_back.is_none() || self.heard.contains(&peer)
    }

    fn ask_now(&mut self, peer: NodeId) {
        self.asks.insert(peer, Ask { at_ms: 0, pause_ms: ASK_PAUSE_MS });
    }

    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.asks.values().map(|ask| ask.at_ms).min()
    }
}

fn key_of(prefix: &[u8], name: &[u8]) -> Vec<u8> {
    [prefix, name].concat()
}

/// One token per channel out of that of the home.
fn token_for(set_back: [u8; 16], channel: Digest) -> [u8; 16] {
    let hash = catalog::envelope::hash(&[&set_back[..], channel.as_bytes()].concat());
    let mut token = [0; 16];
    token.copy_from_slice(&hash[..16]);
    token
}

impl Ledger {
    /// Takes back what is stored about fences and frozen channels, after the channels themselves. With a new random token the
    /// home was set back just now: everything is fenced anew.
    pub(in crate::engine) fn restore_fences(
        &mut self,
        meta: &[Row],
        set_back: Option<[u8; 16]>,
    ) -> Result<(), RecoverError> {
        let damaged = || RecoverError::Row { table: Table::Meta };
        let named = |prefix: &'static [u8]| {
            meta.iter().filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value)))
        };
        for (id, value) in named(FROZEN_PREFIX) {
            let id = Digest::from_bytes(id.try_into().map_err(|_| damaged())?);
            let proof = EquivocationProof::decode(value).map_err(|_| damaged())?;
            if let Some(channel) = self.channels.get_mut(&id) {
                channel.freeze(proof).map_err(|_| damaged())?;
            }
        }
        let stored = meta.iter().find(|(key, _)| key == SET_BACK_KEY).map(|(_, token)| token);
        let stored: Option<[u8; 16]> =
            stored.map(|t| t.as_slice().try_into().map_err(|_| damaged())).transpose()?;
        self.fences.set_back = set_back.or(stored);
        for (node, _) in named(HEARD_PREFIX) {
            if set_back.is_some() {
                self.batch.delete(Table::Meta, key_of(HEARD_PREFIX, node));
            } else {
                let node = NodeId::from_bytes(node.try_into().map_err(|_| damaged())?);
                self.fences.heard.insert(node);
            }
        }
        for (id, value) in named(FENCE_PREFIX) {
            let id = Digest::from_bytes(id.try_into().map_err(|_| damaged())?);
            let (token, peer) = value.split_at_checked(16).ok_or_else(damaged)?;
            let token = token.try_into().map_err(|_| damaged())?;
            let peer = NodeId::from_bytes(peer.try_into().map_err(|_| damaged())?);
            self.begin_fencing(id, peer, set_back.map_or(token, |fresh| token_for(fresh, id)));
        }
        if let Some(token) = set_back {
            self.batch.put(Table::Meta, SET_BACK_KEY, token);
            let open: Vec<(Digest, NodeId)> = self
                .channels
                .iter()
                .filter(|(_, c)| c.state() == ChannelState::Open)
                .map(|(id, c)| (*id, c.peer()))
                .collect();
            for (id, peer) in open {
                self.begin_fencing(id, peer, token_for(token, id));
            }
        }
        Ok(())
    }

    fn is_fencing(&self, peer: NodeId) -> bool {
        let mut waiting = self.fences.restores.values();
        waiting.any(|restore| self.heirs.is_behind(restore.fencing.peer(), peer))
    }

    /// Whether new work may be agreed on with a node: its channels, those of its former keys among them, are neither frozen
    /// nor waiting for a fence.
    pub(in crate::engine) fn may_work_with(&self, node: NodeId) -> bool {
        let is_good = |provider, consumer| {
            let id = self.pairs.get(&(provider, consumer));
            id.and_then(|id| self.channels.get(id)).is_none_or(|channel| {
                matches!(channel.state(), ChannelState::Open | ChannelState::Opening)
            })
        };
        let theirs = self.heirs.behind(node);
        let with = |mine| theirs.iter().all(|one| is_good(mine, *one) && is_good(*one, mine));
        self.fences.has_told(node) && !self.is_fencing(node) && self.keys.ids().all(with)
    }

    /// What can be done with a channel now, and why nothing can.
    pub(in crate::engine) fn state_of(&self, channel: &Channel) -> (ChannelState, Option<String>) {
        let state = channel.state();
        let id = Digest::from_bytes(*channel.id());
        let reason = match state {
            ChannelState::Opening | ChannelState::Open => None,
            ChannelState::Fencing if self.fences.restores.get(&id).is_some_and(|r| r.is_stuck) => {
                Some(ChannelError::Fencing.to_string())
            }
            ChannelState::Fencing => Some(
                "this store was set back: waiting for the partner's copy of the log".to_owned(),
            ),
            ChannelState::Frozen => channel.frozen().map(|proof| match proof.verify() {
                Ok((_, side, incarnation, seq)) => format!(
                    "the {side} signed entry {seq} of incarnation {incarnation} of its log twice; \
                     the proof is in the export"
                ),
                Err(_) => "a party signed one place of its log twice".to_owned(),
            }),
        };
        (state, reason)
    }

    /// Whether a message about a channel of `from` is heard at all now.
    pub(super) fn hears(&self, id: Digest, from: NodeId) -> bool {
        self.fences.has_told(from) && !self.fences.restores.contains_key(&id)
    }

    /// Stops a channel until its partner's copy of both logs is here.
    pub(super) fn begin_fencing(&mut self, id: Digest, peer: NodeId, token: [u8; 16]) {
        if self.channels.get(&id).is_some_and(|c| c.frozen().is_some() || c.was_fenced(&token)) {
            return;
        }
        let held = self.channels.get_mut(&id);
        if held.is_none()
            && self.fences.restores.values().filter(|r| r.fencing.peer() == peer).count()
                >= UNKNOWN_MAX
        {
            return;
        }
        let held = held.map(|channel| {
            channel.begin_fencing();
            &*channel
        });
        // A channel stays one of the keys it was opened with, whoever has come after them.
        let (me, peer) = held.map_or((self.me, peer), |c| (keys::own(c), c.peer()));
        let fencing = Fencing::new((me, peer), *id.as_bytes(), token, held);
        let row = [&token[..], peer.as_bytes()].concat();
        self.batch.put(Table::Meta, key_of(FENCE_PREFIX, id.as_bytes()), row);
        self.fences.restores.insert(id, Restore { fencing, is_stuck: false });
        self.fences.ask_now(self.heirs.now(peer));
    }

    /// The partner shows, or says that it holds, more of this node's log than is held here.
    pub(super) fn notice_set_back(&mut self, id: Digest, peer: NodeId, token: [u8; 16]) {
        if self.fences.restores.contains_key(&id) {
            return;
        }
        let detail = format!(
            "the store was set back unnoticed: {} holds more of channel {id}",
            peer.short()
        );
        self.actions.push(Action::Notice { detail });
        self.begin_fencing(id, peer, token);
    }

    pub(super) fn fence_connected(&mut self, peer: NodeId) {
        if !self.fences.has_told(peer) || self.is_fencing(peer) {
            self.fences.ask_now(peer);
        }
    }

    pub(in crate::engine) fn handle_disconnected(&mut self, peer: NodeId) {
        self.fences.asks.remove(&peer);
    }

    /// Asks partners that are due.
    pub(super) fn poll_fences(&mut self, now_ms: u64, is_connected: &dyn Fn(NodeId) -> bool) {
        let due: Vec<NodeId> =
            self.fences.asks.iter().filter(|(_, a)| now_ms >= a.at_ms).map(|(p, _)| *p).collect();
        for peer in due {
            let is_needed = !self.fences.has_told(peer) || self.is_fencing(peer);
            if !is_needed || !is_connected(peer) {
                self.fences.asks.remove(&peer);
                continue;
            }
            if let Some(ask) = self.fences.asks.get_mut(&peer) {
                ask.at_ms = now_ms.saturating_add(ask.pause_ms);
                ask.pause_ms = ask.pause_ms.saturating_mul(2).min(ASK_PAUSE_MAX_MS);
            }
            if let (Some(token), false) = (self.fences.set_back, self.fences.has_told(peer)) {
                self.tell(peer, FenceMessage::SetBack { token });
            }
            let ids: Vec<Digest> = self.fences.restores.keys().copied().collect();
            for id in ids {
                self.ask(id, peer);
            }
        }
    }

    fn tell(&mut self, to: NodeId, message: FenceMessage) {
        self.actions.push(Action::Fence { to, message });
    }

    fn ask(&mut self, id: Digest, peer: NodeId) {
        let restore = self.fences.restores.get(&id);
        let restore = restore.filter(|r| self.heirs.is_behind(r.fencing.peer(), peer));
        if let Some(FenceRequest { token, own, peer: theirs, .. }) =
            restore.map(|r| r.fencing.request())
        {
            self.tell(peer, FenceMessage::Request { channel: id, token, own, peer: theirs });
        }
    }

    /// A partner's store or ours was set back.
    pub(in crate::engine) fn handle_fence(
        &mut self,
        from: NodeId,
        message: FenceMessage,
        now_ms: u64,
    ) {
        match message {
            FenceMessage::SetBack { token } => {
                let channels = self
                    .channels
                    .iter()
                    .filter(|(_, c)| self.heirs.is_behind(c.peer(), from) && c.peer_head().0 > 0)
                    .map(|(id, _)| *id)
                    .collect();
                self.tell(from, FenceMessage::Shared { token, channels });
            }
            FenceMessage::Shared { token, channels } => self.handle_shared(from, token, &channels),
            FenceMessage::Request { channel, token, own, peer } => {
                let request = FenceRequest { channel: *channel.as_bytes(), token, own, peer };
                self.answer_fence(from, channel, &request, now_ms);
            }
            FenceMessage::Answer { channel, fence, quotes, own, peer } => {
                let bytes = |list: Vec<Bytes>| list.into_iter().map(|b| b.0).collect();
                let answer = FenceAnswer {
                    channel: *channel.as_bytes(),
                    fence: fence.0,
                    quotes: bytes(quotes),
                    own: bytes(own),
                    peer: bytes(peer),
                };
                self.handle_answer(from, channel, &answer, now_ms);
            }
            FenceMessage::Unable { channel } => {
                let restore = self.fences.restores.get_mut(&channel);
                if let Some(restore) =
                    restore.filter(|r| self.heirs.is_behind(r.fencing.peer(), from))
                {
                    restore.is_stuck = true;
                }
            }
        }
    }

    fn handle_shared(&mut self, from: NodeId, token: [u8; 16], channels: &[Digest]) {
        if self.fences.set_back != Some(token) || !self.fences.heard.insert(from) {
            return;
        }
        self.batch.put(Table::Meta, key_of(HEARD_PREFIX, from.as_bytes()), Vec::new());
        for id in channels.iter().take(UNKNOWN_MAX) {
            let held = self.channels.get(id);
            let is_ours = held.is_none_or(|c| self.heirs.is_behind(c.peer(), from));
            if is_ours && !self.fences.restores.contains_key(id) {
                self.begin_fencing(*id, from, token_for(token, *id));
            }
        }
        self.handle_connected(from);
    }

    /// Fences a partner's log at its request.
    fn answer_fence(&mut self, from: NodeId, id: Digest, request: &FenceRequest, now_ms: u64) {
        let heirs = &self.heirs;
        let channel = self.channels.get_mut(&id).filter(|c| heirs.is_behind(c.peer(), from));
        let Some(channel) = channel else {
            let restore = self.fences.restores.get(&id);
            if restore.is_some_and(|restore| self.heirs.is_behind(restore.fencing.peer(), from)) {
                // This node lost the channel altogether, and waits for the same partner's copy.
                self.tell(from, FenceMessage::Unable { channel: id });
            }
            return;
        };
        let Some(key) = self.keys.of_channel(channel) else { return };
        match channel.answer_fence(key, now_ms, request) {
            Ok((entry, answer)) => {
                if let Some(entry) = entry {
                    self.store(id, &entry);
                    let detail =
                        format!("{} was set back: channel {id} is fenced for it", from.short());
                    self.actions.push(Action::Notice { detail });
                }
                let bytes = |list: Vec<Vec<u8>>| list.into_iter().map(Bytes).collect();
                let message = FenceMessage::Answer {
                    channel: id,
                    fence: Bytes(answer.fence),
                    quotes: bytes(answer.quotes),
                    own: bytes(answer.own),
                    peer: bytes(answer.peer),
                };
                self.tell(from, message);
            }
            Err(ChannelError::Fencing) => self.tell(from, FenceMessage::Unable { channel: id }),
            Err(error) => {
                let detail = format!("channel {id} cannot be fenced for {}: {error}", from.short());
                self.actions.push(Action::Notice { detail });
            }
        }
    }

    fn handle_answer(&mut self, from: NodeId, id: Digest, answer: &FenceAnswer, now_ms: u64) {
        if [&answer.quotes, &answer.own, &answer.peer]
            .iter()
            .any(|l| l.len() > 2 * ENTRIES_PER_MESSAGE)
        {
            let detail = "too many entries in one message".to_owned();
            return self.blame(from, Fault::TooMuch, detail);
        }
        let heirs = &self.heirs;
        let restore = self.fences.restores.get_mut(&id);
        let Some(restore) = restore.filter(|r| heirs.is_behind(r.fencing.peer(), from)) else {
            return;
        };
        match restore.fencing.handle_answer(answer) {
            Ok(Progress::Stale) => {}
            Ok(Progress::More) => {
                restore.is_stuck = false;
                self.ask(id, from);
            }
            Ok(Progress::Adopted(channel)) => self.adopt(id, from, *channel, now_ms),
            Err(FenceError::Equivocation(proof)) => self.freeze(id, from, *proof),
            Err(error) if error.is_peer_fault() => self.offence(from, error.to_string()),
            Err(error) => {
                let detail = format!("channel {id} with {}: {error}", from.short());
                self.actions.push(Action::Notice { detail });
            }
        }
    }

    /// Puts the adopted logs in the place of what was held, in the store and here, and goes on with them.
    fn adopt(&mut self, id: Digest, from: NodeId, channel: Channel, now_ms: u64) {
        self.fences.restores.remove(&id);
        self.batch.delete(Table::Meta, key_of(FENCE_PREFIX, id.as_bytes()));
        let before = self.channels.remove(&id);
        for side in Side::BOTH {
            self.replace_log(id, side, before.as_ref(), &channel);
        }
        for (hash, quote) in channel.used_quotes() {
            if before.as_ref().is_none_or(|c| c.quote_bytes(hash).is_none()) {
                let key = [id.as_bytes().as_slice(), hash].concat();
                self.batch.put(Table::Quotes, key, quote.to_vec());
            }
        }
        self.drop_unanswered(id, &channel);
        let (have, side) = (channel.own_head().0, channel.side());
        self.restore(channel);
        self.partner_have.insert(id, have);
        let detail = format!("channel {id} goes on from the copy of {}", from.short());
        self.actions.push(Action::Notice { detail });
        match side {
            Side::Provider => self.close_forgotten(id, now_ms),
            Side::Consumer => self.answer_forgotten(id),
        }
        self.propose_waiting(id, now_ms);
        self.flush(id);
    }

    /// Writes what differs and deletes what is no more.
    fn replace_log(&mut self, id: Digest, side: Side, before: Option<&Channel>, after: &Channel) {
        let old: Vec<_> =
            before.map(|c| c.entries(side, 0).map(|e| *e.hash).collect()).unwrap_or_default();
        let mut n_entries = 0;
        for (entry, old) in
            after.entries(side, 0).zip(old.iter().map(Some).chain(std::iter::repeat(None)))
        {
            n_entries = entry.seq;
            if old != Some(entry.hash) {
                let key = entry_key(id, side, entry.seq);
                self.batch.put(Table::LedgerEntries, key, entry.bytes.to_vec());
            }
        }
        for seq in n_entries.saturating_add(1)..=old.len() as u64 {
            self.batch.delete(Table::LedgerEntries, entry_key(id, side, seq));
        }
    }

    /// A channel that this node began with the same partner, and that the partner never answered, gives way to the one the
    /// partner holds.
    fn drop_unanswered(&mut self, id: Digest, adopted: &Channel) {
        let pair = (adopted.provider(), adopted.consumer());
        let other = self.pairs.get(&pair).copied().filter(|other| *other != id);
        let Some(other) = other else {
            return;
        };
        if self.channels.get(&other).is_some_and(|c| c.state() == ChannelState::Opening) {
            self.channels.remove(&other);
            self.partner_have.remove(&other);
            self.batch.delete(Table::LedgerEntries, entry_key(other, Side::Provider, 1));
            if let Some(waiting) = self.unopened.remove(&other) {
                self.unopened.entry(id).or_default().extend(waiting);
            }
        }
    }

    /// Closes the lanes that nothing runs for here, and stops what runs without one.
    fn close_forgotten(&mut self, id: Digest, now_ms: u64) {
        let Some(channel) = self.channels.get(&id) else {
            return;
        };
        let runs = |lane: u64, attempt| {
            self.work.get(&attempt).is_some_and(|w| w.channel == id && w.lane == lane)
        };
        let forgotten: Vec<u64> = channel
            .lanes()
            .filter(|(number, lane)| {
                let is_open = lane.end.is_none() && lane.state() != LaneState::Refused;
                is_open && !runs(*number, attempt_of(lane.work()))
            })
            .map(|(number, _)| number)
            .collect();
        let homeless: Vec<AttemptId> = self
            .work
            .iter()
            .filter(|(attempt, work)| {
                let lane = channel.lane(work.lane).filter(|l| attempt_of(l.work()) == **attempt);
                work.channel == id && lane.is_none_or(|l| l.state() != LaneState::Active)
            })
            .map(|(attempt, _)| *attempt)
            .collect();
        for lane in forgotten {
            let Some(channel) = self.channels.get_mut(&id) else {
                return;
            };
            let Some(key) = self.keys.of_channel(channel) else { return };
            match channel.close_lane(key, now_ms, lane, CloseReason::ProviderFault) {
                Ok(entry) => self.store(id, &entry),
                Err(error) => {
                    let detail = format!("lane {lane} of channel {id} cannot be closed: {error}");
                    self.actions.push(Action::Notice { detail });
                }
            }
        }
        for attempt in homeless {
            self.work.remove(&attempt);
            self.actions.push(Action::Unpaid { attempt });
        }
    }

    /// Answers what the provider proposed and nobody here remembers an answer to.
    fn answer_forgotten(&mut self, id: Digest) {
        let Some(channel) = self.channels.get(&id) else {
            return;
        };
        let lanes = channel.lanes().filter(|(_, lane)| lane.answer.is_none());
        let proposed: Vec<_> = lanes.map(|(lane, found)| (lane, found.agreement)).collect();
        let provider = channel.provider();
        for (lane, terms) in proposed {
            self.ask_about(id, provider, lane, Box::new(terms));
        }
        self.ack_due.entry(id).or_default();
    }

    /// Stops a channel for good, the proof stored first.
    pub(super) fn freeze(&mut self, id: Digest, from: NodeId, proof: EquivocationProof) {
        let key = key_of(FROZEN_PREFIX, id.as_bytes());
        let bytes = proof.encode();
        let Some(channel) = self.channels.get_mut(&id) else {
            return self.offence(from, "it signed one place of its log twice".to_owned());
        };
        if channel.frozen().is_none() && channel.freeze(proof).is_ok() {
            self.batch.put(Table::Meta, key, bytes);
            let running: Vec<AttemptId> =
                self.work.iter().filter(|(_, w)| w.channel == id).map(|(a, _)| *a).collect();
            for attempt in running {
                self.actions.push(Action::Unpaid { attempt });
            }
        }
        self.offence(
            from,
            "it signed one place of its log twice: the channel is frozen".to_owned(),
        );
    }

    /// Whether the first bytes about a channel that is not known here say that it should be: the partner goes on in it.
    pub(super) fn is_forgotten(&self, from: NodeId, first: &[u8]) -> bool {
        self.heirs.behind(from).iter().any(|key| {
            SignedEntry::open(first, key)
                .is_ok_and(|signed| signed.entry.writer == Side::Consumer || signed.entry.seq > 1)
        })
    }
}
