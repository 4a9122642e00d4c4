//! A side whose store was set back gets its log back from its peer, whatever the network does, and nobody signs twice.

use std::collections::BTreeMap;

use crate::common::*;
use accounting::body::{Body, Fence};
use accounting::channel::fence::{
    FETCHED_ENTRIES_MAX, FenceAnswer, FenceError, FenceRequest, Fencing, PAGE_ENTRIES, Progress,
};
use accounting::channel::{ChannelError, ChannelState};
use accounting::entry::Hash;
use accounting::{
    Channel, CloseReason, Entry, EntryError, Side, SignedEntry, Verdict, Violation, export, verify,
};
use proptest::prelude::*;

fn seed(side: Side) -> u8 {
    if side == Side::Provider { PROVIDER } else { CONSUMER }
}

fn me(side: Side) -> catalog::NodeId {
    node(seed(side))
}

/// The channel as a store of this moment would bring it back.
fn backup(channel: &Channel) -> Channel {
    let (own, peer, quotes) = stored(channel);
    Channel::replay(me(channel.side()), quotes, own, peer).unwrap()
}

fn fencing(channel: &Channel, token: u8) -> Fencing {
    let side = channel.side();
    Fencing::new((me(side), me(side.other())), *channel.id(), [token; 16], Some(channel))
}

/// Asks until the logs are adopted; how many answers it took.
fn restore(channel: &mut Channel, peer: &mut Channel, token: u8) -> usize {
    let mut fencing = fencing(channel, token);
    channel.begin_fencing();
    for n in 1..1_000 {
        let request = fencing.request();
        let key = key(seed(peer.side()));
        let (_, answer) = peer.answer_fence(&key, NOW + 100, &request).unwrap();
        if let Progress::Adopted(adopted) = fencing.handle_answer(&answer).unwrap() {
            *channel = *adopted;
            return n;
        }
    }
    panic!("the fence never ends")
}

/// A channel with a lane, two receipts acknowledged and one that is not.
fn busy() -> (Pair, u64) {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    pair.receipt(lane, reading(1_000, 0, false));
    pair.receipt(lane, reading(2_000, 0, false));
    pair.ack(&[]);
    pair.receipt(lane, reading(3_000, 0, false));
    (pair, lane)
}

#[test]
fn a_provider_set_back_goes_on_from_its_consumers_copy() {
    let mut pair = Pair::new();
    let mut old = backup(&pair.provider);
    let lane = pair.agree(1);
    pair.receipt(lane, reading(1_000, 0, false));
    pair.ack(&[]);
    let lost = pair.provider.receipt(&key(PROVIDER), NOW, lane, reading(2_000, 0, false)).unwrap();
    assert!(!old.was_fenced(&[7; 16]));
    restore(&mut old, &mut pair.consumer, 7);
    assert!(old.was_fenced(&[7; 16]), "a token restores once");
    pair.provider = old;
    pair.assert_mirrored();
    assert_eq!(pair.provider.lane(lane).unwrap().lane_seq, 1, "the tail nobody had is gone");
    let late = pair.consumer.handle_entry(&lost.bytes, NOW).unwrap_err();
    assert!(matches!(late, EntryError::OldIncarnation { found: 0, current: 1, .. }), "{late:?}");
    assert!(!late.is_peer_fault(), "it was honestly under way");
    let again = pair.receipt(lane, reading(2_000, 0, false));
    assert_eq!((again.entry.incarnation, again.entry.seq), (1, lost.entry.seq));
    let late = pair.consumer.handle_entry(&lost.bytes, NOW).unwrap_err();
    assert!(matches!(late, EntryError::OldIncarnation { .. }), "no proof against the honest");
    pair.ack(&[]);
    for channel in [&pair.provider, &pair.consumer] {
        assert_eq!(verify(&export(manifest(), &[channel])).verdict, Verdict::Valid);
    }
}

#[test]
fn a_consumer_set_back_to_before_it_knew_the_channel_gets_all_of_it() {
    let (mut pair, _) = busy();
    let id = *pair.provider.id();
    let mut fencing = Fencing::new((node(CONSUMER), node(PROVIDER)), id, [7; 16], None);
    let request = fencing.request();
    let (entry, answer) = pair.provider.answer_fence(&key(PROVIDER), NOW + 100, &request).unwrap();
    assert!(entry.is_some());
    let Progress::Adopted(adopted) = fencing.handle_answer(&answer).unwrap() else {
        panic!("all of it fits into one answer")
    };
    pair.consumer = *adopted;
    pair.assert_mirrored();
    pair.ack(&[]);
}

#[test]
fn quotes_that_come_with_a_fence_are_those_of_the_two_and_bounded() {
    let (mut pair, _) = busy();
    let id = *pair.provider.id();
    let mut fencing = Fencing::new((node(CONSUMER), node(PROVIDER)), id, [7; 16], None);
    let request = fencing.request();
    let (_, answer) = pair.provider.answer_fence(&key(PROVIDER), NOW + 100, &request).unwrap();
    let empty =
        FenceAnswer { quotes: Vec::new(), own: Vec::new(), peer: Vec::new(), ..answer.clone() };
    // Noise, however much of it, is neither kept nor in the way.
    for n in 0..20u32 {
        let quotes = (0..1_000u32).map(|m| [n.to_be_bytes(), m.to_be_bytes()].concat()).collect();
        let noise = FenceAnswer { quotes, ..empty.clone() };
        assert!(matches!(fencing.handle_answer(&noise), Ok(Progress::More)));
    }
    let mut flooded = fencing.clone();
    assert!(matches!(fencing.handle_answer(&answer), Ok(Progress::Adopted(_))));
    let signed = |n: usize| {
        let mut quote = quote(1);
        quote.salt[..8].copy_from_slice(&(n as u64).to_be_bytes());
        quote.sign(&key(PROVIDER))
    };
    let mut n_quotes = 0;
    let ended = loop {
        let quotes = (0..1_000).map(|m| signed(n_quotes + m)).collect();
        n_quotes += 1_000;
        match flooded.handle_answer(&FenceAnswer { quotes, ..empty.clone() }) {
            Ok(Progress::More) => {}
            ended => break ended,
        }
        assert!(n_quotes <= FETCHED_ENTRIES_MAX, "quotes are taken without end");
    };
    assert!(matches!(ended, Err(FenceError::TooLong)), "{ended:?}");
}

#[test]
fn a_consumer_set_back_to_before_its_open_signs_the_same_open() {
    let (_, open) = Channel::open(&key(PROVIDER), terms(), NOW).unwrap();
    let accept =
        |now_ms| Channel::accept(&key(CONSUMER), node(CONSUMER), &open.bytes, now_ms).unwrap().1;
    assert_eq!(accept(NOW + 1), accept(NOW + 500_000));
}

#[test]
fn one_token_has_one_fence_and_the_next_restore_the_next_incarnation() {
    let (mut pair, _) = busy();
    let mut old = backup(&pair.provider);
    let request = fencing(&old, 7).request();
    let (first, answer) = pair.consumer.answer_fence(&key(CONSUMER), NOW, &request).unwrap();
    let (second, again) = pair.consumer.answer_fence(&key(CONSUMER), NOW + 9, &request).unwrap();
    assert!(first.is_some() && second.is_none());
    assert_eq!(answer, again);
    restore(&mut old, &mut pair.consumer, 8);
    let entry = old.receipt(&key(PROVIDER), NOW, 1, reading(9_000, 0, false)).unwrap();
    assert_eq!(entry.entry.incarnation, 2);
}

#[test]
fn a_long_log_comes_page_by_page() {
    let mut pair = Pair::new();
    let mut old = backup(&pair.consumer);
    let lane = pair.agree(1);
    for n in 1..=300 {
        pair.receipt(lane, reading(n * 1_000, 0, false));
        if n % 3 == 0 {
            pair.ack(&[]);
        }
    }
    let pages = restore(&mut old, &mut pair.provider, 7);
    assert_eq!(pages, 301 / PAGE_ENTRIES + 1);
    pair.consumer = old;
    pair.assert_mirrored();
}

#[test]
fn nothing_is_signed_or_taken_while_fencing_and_two_such_sides_say_why() {
    let (mut pair, lane) = busy();
    let entry = pair.provider.receipt(&key(PROVIDER), NOW, lane, reading(4_000, 0, false)).unwrap();
    pair.consumer.begin_fencing();
    assert_eq!(pair.consumer.state(), ChannelState::Fencing);
    assert_eq!(pair.consumer.ack(&key(CONSUMER), NOW, &[]), Err(ChannelError::Fencing));
    assert_eq!(pair.consumer.handle_entry(&entry.bytes, NOW), Err(EntryError::Fencing));
    let request = fencing(&pair.provider, 7).request();
    pair.provider.begin_fencing();
    let refused = pair.consumer.answer_fence(&key(CONSUMER), NOW, &request).unwrap_err();
    assert_eq!(refused, ChannelError::Fencing);
    assert!(refused.to_string().contains("put the newest home back on one side"));
}

#[test]
fn a_tail_that_an_earlier_fence_dropped_is_replaced() {
    let (mut pair, lane) = busy();
    pair.provider.receipt(&key(PROVIDER), NOW, lane, reading(4_000, 0, false)).unwrap();
    let mut twice = backup(&pair.provider);
    restore(&mut pair.provider, &mut pair.consumer, 7);
    pair.receipt(lane, reading(5_000, 0, false));
    pair.receipt(lane, reading(6_000, 0, false));
    pair.ack(&[]);
    restore(&mut twice, &mut pair.consumer, 8);
    pair.provider = twice;
    pair.assert_mirrored();
    pair.receipt(lane, reading(7_000, 0, false));
    let signed_off = pair.ack(&[]);
    assert_eq!(signed_off.entry.incarnation, 0, "only the log that was set back begins anew");
    assert_eq!(verify(&export(manifest(), &[&pair.provider])).verdict, Verdict::Valid);
}

#[test]
fn a_fence_that_was_not_asked_for_means_that_the_store_was_set_back_unnoticed() {
    let (mut pair, _) = busy();
    let request = fencing(&pair.provider, 7).request();
    let (entry, _) = pair.consumer.answer_fence(&key(CONSUMER), NOW, &request).unwrap();
    let error = pair.provider.handle_entry(&entry.unwrap().bytes, NOW).unwrap_err();
    assert_eq!(error, EntryError::FencedUnasked);
    assert!(!error.is_peer_fault());
}

/// A fence of the consumer as a liar could make it, on the provider's log as it stands.
fn false_fence(pair: &Pair, change: impl Fn(&mut Entry, &mut Fence)) -> Vec<u8> {
    let (len, prev) = pair.consumer.own_head();
    let (seq, head) = pair.consumer.peer_head();
    let mut fence = Fence { token: [7; 16], incarnation: 1, seq, head };
    let mut entry = Entry {
        channel: *pair.consumer.id(),
        writer: Side::Consumer,
        incarnation: 0,
        seq: len + 1,
        prev,
        peer_seq: seq,
        peer_head: head,
        wall_ms: NOW,
        body: Body::Fence(fence),
    };
    change(&mut entry, &mut fence);
    entry.body = Body::Fence(fence);
    forge(&entry, CONSUMER)
}

fn answer_of(pair: &Pair, fence: Vec<u8>) -> FenceAnswer {
    FenceAnswer {
        channel: *pair.consumer.id(),
        peer: vec![fence.clone()],
        fence,
        quotes: Vec::new(),
        own: Vec::new(),
    }
}

#[test]
fn false_answers_are_refused() {
    let (pair, _) = busy();
    let check = |change: &dyn Fn(&mut Entry, &mut Fence)| {
        let mut fencing = fencing(&pair.provider, 7);
        let mut answer = answer_of(&pair, false_fence(&pair, change));
        let all = |side| pair.consumer.entries(side, 0).map(|e| e.bytes.to_vec());
        answer.own = all(Side::Provider).collect();
        answer.peer = all(Side::Consumer).chain([answer.fence.clone()]).collect();
        match fencing.handle_answer(&answer) {
            Ok(Progress::More) => fencing.handle_answer(&answer).unwrap_err(),
            Ok(other) => panic!("{other:?}"),
            Err(error) => error,
        }
    };
    // What the consumer acknowledged cannot be forgotten, and what the provider never signed not be invented.
    let forgets = check(&|entry, fence| {
        let third = pair.provider.entries(Side::Provider, 2).next().unwrap();
        (fence.seq, fence.head) = (third.seq, *third.hash);
        (entry.peer_seq, entry.peer_head) = (third.seq, *third.hash);
    });
    assert!(matches!(forgets, FenceError::Replay(_)), "{forgets:?}");
    let mut asking = fencing(&pair.provider, 7);
    let mut invents = answer_of(&pair, false_fence(&pair, |_, fence| fence.seq += 1));
    assert!(matches!(asking.handle_answer(&invents).unwrap(), Progress::More), "it has to show it");
    let entry = SignedEntry::open(
        pair.provider.entries(Side::Provider, asking.request().own - 1).next().unwrap().bytes,
        &node(PROVIDER),
    );
    let next = Entry { seq: asking.request().own + 1, ..entry.unwrap().entry };
    invents.own = vec![forge(&next, CONSUMER)];
    let error = asking.handle_answer(&invents).unwrap_err();
    assert!(matches!(error, FenceError::Form(_)), "{error:?}");
    let other_head = check(&|_, fence| fence.head = [3; 32]);
    assert!(matches!(other_head, FenceError::Broken { .. }), "{other_head:?}");
    let jumps = check(&|_, fence| fence.incarnation = 2);
    assert!(matches!(jumps, FenceError::Replay(_)), "{jumps:?}");
    let mut fencing = fencing(&pair.provider, 7);
    let no_fence = pair.consumer.entries(Side::Consumer, 1).next().unwrap().bytes.to_vec();
    let error = fencing.handle_answer(&answer_of(&pair, no_fence)).unwrap_err();
    assert_eq!(error, FenceError::NoFence);
    let first = answer_of(&pair, false_fence(&pair, |_, _| {}));
    assert!(matches!(fencing.handle_answer(&first).unwrap(), Progress::Adopted(_)));
    let second = answer_of(&pair, false_fence(&pair, |entry, _| entry.wall_ms += 1));
    assert_eq!(fencing.handle_answer(&second).unwrap_err(), FenceError::OtherFence);
}

#[test]
fn a_fence_over_what_the_peer_had_signed_is_proof_against_it() {
    let (pair, _) = busy();
    let mut held = backup(&pair.provider);
    held.begin_fencing();
    let over = false_fence(&pair, |entry, _| {
        let before = pair.consumer.entries(Side::Consumer, entry.seq - 3).next().unwrap();
        (entry.seq, entry.prev) = (entry.seq - 1, *before.hash);
    });
    let error = fencing(&held, 7).handle_answer(&answer_of(&pair, over)).unwrap_err();
    let FenceError::Equivocation(proof) = error else { panic!("{error:?}") };
    assert_eq!(proof.signer, node(CONSUMER));
    proof.verify().unwrap();
}

#[test]
fn an_incarnation_without_a_fence_does_not_verify() {
    let (mut pair, lane) = busy();
    pair.provider = {
        let mut old = backup(&pair.provider);
        restore(&mut old, &mut pair.consumer, 7);
        old
    };
    let entry = pair.receipt(lane, reading(9_000, 0, false)).entry;
    assert_eq!(verify(&export(manifest(), &[&pair.provider])).verdict, Verdict::ValidWithTail);
    let fence = pair.consumer.own_head();
    // The same entry, linked to before the fence.
    let before = pair.consumer.entries(Side::Consumer, fence.0 - 2).next().unwrap();
    let (peer_seq, peer_head) = (before.seq, *before.hash);
    let unfenced = Entry {
        peer_seq,
        peer_head,
        seq: entry.seq + 1,
        prev: pair.provider.own_head().1,
        ..entry
    };
    let error = pair.consumer.handle_entry(&forge(&unfenced, PROVIDER), NOW).unwrap_err();
    let EntryError::Violation { source, .. } = error else { panic!("{error:?}") };
    assert!(matches!(source, Violation::PeerBack { .. }), "{source:?}");
    let (mut pair, _) = busy();
    let (len, prev) = pair.provider.own_head();
    let raised = Entry { incarnation: 1, seq: len + 1, prev, ..unfenced };
    let raised = Entry { peer_seq: 3, peer_head: pair.consumer.own_head().1, ..raised };
    let error = pair.consumer.handle_entry(&forge(&raised, PROVIDER), NOW).unwrap_err();
    let expected = Violation::Incarnation { expected: 0, found: 1 };
    assert_eq!(error, EntryError::Violation { seq: len + 1, source: expected });
}

/// What happens next; numbers select among what there is.
#[derive(Clone, Debug)]
enum Action {
    Propose,
    Receipt { lane: u8, cpu: u32 },
    Close { lane: u8 },
    Ack,
    Deliver { message: u8, keep: bool },
    Drop { message: u8 },
    Resend { provider: bool },
    Crash { provider: bool },
    Backup { provider: bool },
    Restore { provider: bool },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => Just(Action::Propose),
        5 => (any::<u8>(), 0..5_000_000u32).prop_map(|(lane, cpu)| Action::Receipt { lane, cpu }),
        1 => any::<u8>().prop_map(|lane| Action::Close { lane }),
        4 => Just(Action::Ack),
        14 => (any::<u8>(), prop::bool::weighted(0.3))
            .prop_map(|(message, keep)| Action::Deliver { message, keep }),
        1 => any::<u8>().prop_map(|message| Action::Drop { message }),
        3 => any::<bool>().prop_map(|provider| Action::Resend { provider }),
        1 => any::<bool>().prop_map(|provider| Action::Crash { provider }),
        1 => any::<bool>().prop_map(|provider| Action::Backup { provider }),
        2 => any::<bool>().prop_map(|provider| Action::Restore { provider }),
    ]
}

#[derive(Clone, Debug)]
enum Message {
    Entry(Vec<u8>),
    Request(FenceRequest),
    Answer(FenceAnswer),
}

const NETWORK_MAX: usize = 40;

struct World {
    sides: [Channel; 2],
    restores: [Option<Fencing>; 2],
    backups: [Channel; 2],
    network: Vec<(Side, Message)>,
    /// Everything that was ever signed, by place.
    signed: BTreeMap<(Side, u32, u64), Hash>,
    salt: u8,
    token: u8,
    /// How many restores there were, for the proof that there are some.
    n_adopted: usize,
}

impl World {
    fn new() -> Self {
        let Pair { provider, consumer } = Pair::new();
        let backups = [provider.clone(), consumer.clone()];
        let mut world = Self {
            sides: [provider, consumer],
            restores: [None, None],
            backups,
            network: Vec::new(),
            signed: BTreeMap::new(),
            salt: 0,
            token: 0,
            n_adopted: 0,
        };
        for side in Side::BOTH {
            let entry = world.side(side).entries(side, 0).next().unwrap().bytes.to_vec();
            world.note(&SignedEntry::open(&entry, &me(side)).unwrap());
        }
        world
    }

    fn side(&mut self, side: Side) -> &mut Channel {
        &mut self.sides[side as usize]
    }

    /// No honest side ever signs two entries for one place.
    fn note(&mut self, signed: &SignedEntry) {
        let entry = &signed.entry;
        let place = (entry.writer, entry.incarnation, entry.seq);
        let before = self.signed.insert(place, signed.hash);
        assert!(before.is_none_or(|hash| hash == signed.hash), "{place:?} is signed twice");
    }

    fn publish(&mut self, signed: SignedEntry) {
        self.note(&signed);
        self.send(signed.entry.writer.other(), Message::Entry(signed.bytes));
    }

    fn send(&mut self, to: Side, message: Message) {
        if self.network.len() == NETWORK_MAX {
            self.network.remove(0);
        }
        self.network.push((to, message));
    }

    fn lane(&self, select: u8) -> Option<u64> {
        let n = self.sides[0].lanes().count();
        Some(self.sides[0].lanes().nth(usize::from(select) % n.max(1))?.0)
    }

    fn apply(&mut self, action: &Action) {
        let now = NOW + 50;
        let signed = match *action {
            Action::Propose if self.salt < 12 => {
                self.salt += 1;
                let bytes = quote(self.salt).sign(&key(PROVIDER));
                self.learn(Side::Consumer);
                self.sides[0].propose(&key(PROVIDER), now, agreement(u32::from(self.salt)), bytes)
            }
            Action::Receipt { lane, cpu } => {
                let Some(lane) = self.lane(lane) else { return };
                let before = self.sides[0].lane(lane).unwrap().counters.as_array()[0];
                let reading = reading(before + u64::from(cpu), 0, false);
                self.sides[0].receipt(&key(PROVIDER), now, lane, reading)
            }
            Action::Close { lane } => {
                let Some(lane) = self.lane(lane) else { return };
                self.sides[0].close_lane(&key(PROVIDER), now, lane, CloseReason::Completed)
            }
            Action::Ack => match self.sides[1].ack(&key(CONSUMER), now, &[]) {
                Ok(Some(signed)) => Ok(signed),
                _ => return,
            },
            Action::Deliver { message, keep } => return self.deliver(message, keep),
            Action::Drop { message } if !self.network.is_empty() => {
                self.network.remove(usize::from(message) % self.network.len());
                return;
            }
            Action::Resend { provider } => return self.resend(side_of(provider)),
            Action::Crash { provider } => return self.crash(side_of(provider)),
            Action::Backup { provider } => {
                let side = side_of(provider);
                if self.restores[side as usize].is_none() {
                    self.backups[side as usize] = backup(self.side(side));
                }
                return;
            }
            Action::Restore { provider } => return self.restore(side_of(provider)),
            Action::Propose | Action::Drop { .. } => return,
        };
        // Not every lane is agreed, some are closed, and a side that waits for its fence signs nothing.
        if let Ok(signed) = signed {
            self.publish(signed);
        }
    }

    /// Quotes of proposals under way are learned again, as negotiation keeps them.
    fn learn(&mut self, side: Side) {
        for salt in 1..=self.salt {
            let bytes = quote(salt).sign(&key(PROVIDER));
            self.side(side).learn_quote(&bytes).unwrap();
        }
    }

    fn crash(&mut self, side: Side) {
        let again = backup(self.side(side));
        assert_eq!(again.state_hash(), self.side(side).state_hash());
        *self.side(side) = again;
        self.learn(side);
        let index = side as usize;
        if let Some(restore) = &self.restores[index] {
            // The token is stored; what was fetched is not.
            let token = restore.request().token[0];
            self.restores[index] = Some(fencing(&self.sides[index], token));
            self.sides[index].begin_fencing();
        }
    }

    /// The store is put back as it was at the last backup. Not while the peer is in the same trouble.
    fn restore(&mut self, side: Side) {
        if self.restores[side.other() as usize].is_some() {
            return;
        }
        *self.side(side) = self.backups[side as usize].clone();
        self.learn(side);
        self.begin_fencing(side);
    }

    fn begin_fencing(&mut self, side: Side) {
        self.token += 1;
        let index = side as usize;
        self.restores[index] = Some(fencing(&self.sides[index], self.token));
        self.sides[index].begin_fencing();
        self.resend(side);
    }

    fn resend(&mut self, from: Side) {
        if let Some(restore) = &self.restores[from as usize] {
            let request = restore.request();
            return self.send(from.other(), Message::Request(request));
        }
        // As a partner says how much it holds.
        let known = self.side(from.other()).peer_head().0;
        let channel = self.side(from);
        let again: Vec<_> = channel.own_entries_after(known).map(|e| e.bytes.to_vec()).collect();
        for bytes in again.into_iter().take(NETWORK_MAX / 2) {
            self.send(from.other(), Message::Entry(bytes));
        }
    }

    fn deliver(&mut self, message: u8, keep: bool) {
        if self.network.is_empty() {
            return;
        }
        let index = usize::from(message) % self.network.len();
        let (to, message) = self.network[index].clone();
        if !keep {
            self.network.remove(index);
        }
        self.handle(to, message);
    }

    fn handle(&mut self, to: Side, message: Message) {
        match message {
            Message::Entry(bytes) => match self.side(to).handle_entry(&bytes, NOW + 70) {
                Err(EntryError::AheadOfMe { .. } | EntryError::FencedUnasked) => {
                    // A late request of an earlier restore was answered after a newer one.
                    if self.restores[to.other() as usize].is_none() {
                        self.begin_fencing(to);
                    }
                }
                Err(error) => assert!(!error.is_peer_fault(), "{error:?}"),
                Ok(_) => {}
            },
            Message::Request(request) => {
                let key = key(seed(to));
                // A side that waits for a fence itself gives none.
                if let Ok((signed, answer)) = self.side(to).answer_fence(&key, NOW + 75, &request) {
                    if let Some(signed) = signed {
                        self.publish(signed);
                    }
                    self.send(to.other(), Message::Answer(answer));
                }
            }
            Message::Answer(answer) => {
                let Some(restore) = &mut self.restores[to as usize] else { return };
                match restore.handle_answer(&answer).unwrap() {
                    Progress::Adopted(adopted) => {
                        self.restores[to as usize] = None;
                        self.sides[to as usize] = *adopted;
                        self.n_adopted += 1;
                        self.learn(to);
                    }
                    Progress::More => self.resend(to),
                    Progress::Stale => {}
                }
            }
        }
    }

    /// What one side has of the other's log is a prefix of it, what was acknowledged is there, equal heads mirror.
    fn check(&self) {
        if self.restores.iter().any(Option::is_some) {
            return;
        }
        let [p, c] = &self.sides;
        for (writer, reader) in [(p, c), (c, p)] {
            let (seq, hash) = reader.peer_head();
            let own = writer.own_entries_after(seq.saturating_sub(1)).next();
            assert!(own.is_some_and(|e| (e.seq, *e.hash) == (seq, hash)), "not a prefix");
        }
        assert!(p.acked_seq() <= c.acked_seq() && c.acked_seq() <= p.own_head().0);
        if p.own_head() == c.peer_head() && c.own_head() == p.peer_head() {
            assert_eq!(p.state_hash(), c.state_hash());
        }
    }

    /// The network heals: restores end, everything arrives and is acknowledged.
    fn heal(&mut self) {
        for _ in 0..20 {
            for from in Side::BOTH {
                self.network.clear();
                self.resend(from);
                while let Some((to, message)) = self.network.first().cloned() {
                    self.network.remove(0);
                    self.handle(to, message);
                }
            }
            self.apply(&Action::Ack);
        }
        let [p, c] = &self.sides;
        assert!(self.restores.iter().all(Option::is_none), "every restore ends");
        assert_eq!((p.own_head(), c.own_head()), (c.peer_head(), p.peer_head()));
        assert_eq!(p.state_hash(), c.state_hash());
        assert_eq!(p.claimed(), p.earned());
    }
}

const fn side_of(provider: bool) -> Side {
    if provider { Side::Provider } else { Side::Consumer }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn both_sides_converge_whatever_is_put_back_from_a_backup(
        actions in prop::collection::vec(action(), 1..200),
    ) {
        let mut world = World::new();
        let mut acked = 0;
        for action in &actions {
            world.apply(action);
            world.check();
            if world.restores.iter().all(Option::is_none) {
                // What the provider holds an acknowledgement of stays acknowledged on both sides.
                prop_assert!(world.sides[0].acked_seq() >= acked);
                acked = world.sides[0].acked_seq();
            }
        }
        for side in Side::BOTH.into_iter().filter(|s| world.restores[*s as usize].is_none()) {
            let report = verify(&export(manifest(), &[&world.sides[side as usize]]));
            prop_assert!(
                matches!(report.verdict, Verdict::Valid | Verdict::ValidWithTail),
                "{:?}", report.findings
            );
        }
        world.heal();
        prop_assert!(world.sides[0].acked_seq() >= acked);
        let report = verify(&export(manifest(), &[&world.sides[1]]));
        prop_assert_eq!(report.verdict, Verdict::Valid);
    }
}

#[test]
fn the_worlds_above_restore_indeed() {
    let mut world = World::new();
    let both = [true, false, true];
    for provider in both {
        for action in [Action::Propose, Action::Ack, Action::Restore { provider }] {
            world.apply(&action);
        }
        world.heal();
    }
    world.apply(&Action::Propose);
    world.heal();
    assert_eq!(world.n_adopted, both.len());
    assert!(world.signed.keys().any(|(_, incarnation, _)| *incarnation > 1));
}
