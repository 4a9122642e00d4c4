//! Two sides over a network that loses, repeats and reorders, with crashes: they converge, mirror each other, and replay.

use crate::common::*;
use accounting::body::Body;
use accounting::{
    AckCode, AckException, Channel, CloseReason, DIMENSIONS, Entry, EntryError, Received, Side,
    Verdict, export, verify,
};
use proptest::prelude::*;

/// What happens next; numbers select among what there is.
#[derive(Clone, Debug)]
enum Action {
    Propose,
    Receipt { lane: u8, cpu: u32, is_final: bool },
    Close { lane: u8, reason: u8 },
    Ack { except: Option<(u8, u8)> },
    Deliver { message: u8, keep: bool },
    Drop { message: u8 },
    Resend { provider: bool },
    Crash { provider: bool },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => Just(Action::Propose),
        4 => (any::<u8>(), 0..5_000_000u32, prop::bool::weighted(0.1))
            .prop_map(|(lane, cpu, is_final)| Action::Receipt { lane, cpu, is_final }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(lane, reason)| Action::Close { lane, reason }),
        4 => prop::option::weighted(0.2, any::<(u8, u8)>())
            .prop_map(|except| Action::Ack { except }),
        10 => (any::<u8>(), any::<bool>())
            .prop_map(|(message, keep)| Action::Deliver { message, keep }),
        1 => any::<u8>().prop_map(|message| Action::Drop { message }),
        1 => any::<bool>().prop_map(|provider| Action::Resend { provider }),
        1 => any::<bool>().prop_map(|provider| Action::Crash { provider }),
    ]
}

/// Most messages under way; the oldest is lost beyond it.
const NETWORK_MAX: usize = 40;

struct World {
    pair: Pair,
    network: Vec<(Side, Vec<u8>)>,
    salt: u8,
}

impl World {
    fn new() -> Self {
        Self { pair: Pair::new(), network: Vec::new(), salt: 0 }
    }

    fn send(&mut self, to: Side, bytes: Vec<u8>) {
        if self.network.len() == NETWORK_MAX {
            self.network.remove(0);
        }
        self.network.push((to, bytes));
    }

    fn side(&mut self, side: Side) -> &mut Channel {
        match side {
            Side::Provider => &mut self.pair.provider,
            Side::Consumer => &mut self.pair.consumer,
        }
    }

    /// One of the provider's lanes, if there is any.
    fn lane(&self, select: u8) -> Option<u64> {
        let n = self.pair.provider.lanes().count();
        let (lane, _) = self.pair.provider.lanes().nth(usize::from(select) % n.max(1))?;
        Some(lane)
    }

    fn apply(&mut self, action: &Action) {
        let now = NOW + 50;
        match *action {
            Action::Propose if self.salt < 12 => {
                self.salt += 1;
                let bytes = quote(self.salt).sign(&key(PROVIDER));
                self.pair.consumer.learn_quote(&bytes).unwrap();
                let terms = agreement(u32::from(self.salt));
                let entry = self.pair.provider.propose(&key(PROVIDER), now, terms, bytes).unwrap();
                self.send(Side::Consumer, entry.bytes);
            }
            Action::Receipt { lane, cpu, is_final } => {
                let Some(lane) = self.lane(lane) else { return };
                let before = self.pair.provider.lane(lane).unwrap().counters.as_array()[0];
                let reading = reading(before + u64::from(cpu), 0, is_final);
                let entry = self.pair.provider.receipt(&key(PROVIDER), now, lane, reading);
                // Not every lane is agreed, and some had their last receipt.
                if let Ok(entry) = entry {
                    self.send(Side::Consumer, entry.bytes);
                }
            }
            Action::Close { lane, reason } => {
                let Some(lane) = self.lane(lane) else { return };
                let reasons =
                    [CloseReason::Completed, CloseReason::ProviderFault, CloseReason::NoAck];
                let reason = reasons[usize::from(reason) % reasons.len()];
                if let Ok(entry) = self.pair.provider.close_lane(&key(PROVIDER), now, lane, reason)
                {
                    self.send(Side::Consumer, entry.bytes);
                }
            }
            Action::Ack { except } => self.ack(except),
            Action::Deliver { message, keep } => self.deliver(message, keep),
            Action::Drop { message } if !self.network.is_empty() => {
                self.network.remove(usize::from(message) % self.network.len());
            }
            Action::Resend { provider } => self.resend(side_of(provider)),
            Action::Crash { provider } => self.crash(side_of(provider)),
            Action::Propose | Action::Drop { .. } => {}
        }
    }

    fn ack(&mut self, except: Option<(u8, u8)>) {
        let lane = except.and_then(|(lane, seq)| Some((self.lane(lane)?, seq)));
        let exceptions: Vec<_> = lane
            .filter(|(lane, _)| self.pair.consumer.lane(*lane).is_some())
            .map(|(lane, seq)| {
                let found = self.pair.consumer.lane(lane).unwrap();
                let open = found.lane_seq - found.acked_lane_seq + 1;
                let last_ok_lane_seq = found.acked_lane_seq + u64::from(seq) % open;
                AckException { lane, last_ok_lane_seq, code: AckCode::Usage }
            })
            .into_iter()
            .collect();
        // An exception on a refused or settled lane is an error and signs nothing.
        if let Ok(Some(entry)) = self.pair.consumer.ack(&key(CONSUMER), NOW + 60, &exceptions) {
            self.send(Side::Provider, entry.bytes);
        }
    }

    fn deliver(&mut self, message: u8, keep: bool) {
        if self.network.is_empty() {
            return;
        }
        let index = usize::from(message) % self.network.len();
        let (to, bytes) = self.network[index].clone();
        if !keep {
            self.network.remove(index);
        }
        let before = self.side(to).state_hash();
        match self.side(to).handle_entry(&bytes, NOW + 70).unwrap() {
            Received::New { .. } => {
                assert_eq!(self.side(to).handle_entry(&bytes, NOW), Ok(Received::Duplicate));
            }
            Received::Duplicate | Received::Gap { .. } => {
                assert_eq!(self.side(to).state_hash(), before);
            }
        }
    }

    fn resend(&mut self, from: Side) {
        let channel = self.side(from);
        let known = channel.known_to_peer();
        let again: Vec<_> = channel.own_entries_after(known).map(|e| e.bytes.to_vec()).collect();
        again.into_iter().take(NETWORK_MAX / 2).for_each(|bytes| self.send(from.other(), bytes));
    }

    /// Loses everything that is not stored. Quotes of proposals under way are learned again, as negotiation keeps them.
    fn crash(&mut self, side: Side) {
        let channel = self.side(side);
        let (own, peer, quotes) = stored(channel);
        let me = if side == Side::Provider { node(PROVIDER) } else { node(CONSUMER) };
        let again = Channel::replay(me, quotes, own, peer).unwrap();
        assert_eq!(again.state_hash(), channel.state_hash());
        assert_eq!(again.claimed(), channel.claimed());
        *channel = again;
        for salt in 1..=self.salt {
            let bytes = quote(salt).sign(&key(PROVIDER));
            self.side(side).learn_quote(&bytes).unwrap();
        }
    }

    /// What one side has of the other's log is a prefix of it, and what it acknowledged is there.
    fn check(&self) {
        let (p, c) = (&self.pair.provider, &self.pair.consumer);
        for (writer, reader) in [(p, c), (c, p)] {
            let (seq, hash) = reader.peer_head();
            let own = writer.own_entries_after(seq.saturating_sub(1)).next();
            assert!(seq == 0 || own.is_some_and(|e| (e.seq, *e.hash) == (seq, hash)));
        }
        assert!(p.acked_seq() <= c.acked_seq() && c.acked_seq() <= p.own_head().0);
        for channel in [p, c] {
            let lanes = channel.lanes().fold((0, 0), |(claimed, earned), (_, lane)| {
                (claimed + lane.claimed.nano(), earned + lane.earned.nano())
            });
            assert_eq!(lanes, (channel.claimed().nano(), channel.earned().nano()));
        }
    }

    /// The network heals: everything arrives and is acknowledged.
    fn heal(&mut self) {
        for _ in 0..4 {
            for from in Side::BOTH {
                let known = self.side(from.other()).peer_head().0;
                let channel = self.side(from);
                let again: Vec<_> =
                    channel.own_entries_after(known).map(|e| e.bytes.to_vec()).collect();
                for bytes in again {
                    let received = self.side(from.other()).handle_entry(&bytes, NOW + 80);
                    assert!(matches!(received, Ok(Received::New { .. })), "{received:?}");
                }
            }
            let _ = self.pair.consumer.ack(&key(CONSUMER), NOW + 90, &[]).unwrap();
        }
        self.pair.assert_mirrored();
        assert_eq!(self.pair.provider.claimed(), self.pair.provider.earned());
    }
}

const fn side_of(provider: bool) -> Side {
    if provider { Side::Provider } else { Side::Consumer }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn both_sides_converge_whatever_the_network_does(
        actions in prop::collection::vec(action(), 1..150),
    ) {
        let mut world = World::new();
        for action in &actions {
            world.apply(action);
            world.check();
        }
        for side in Side::BOTH {
            let report = verify(&export(manifest(), &[world.side(side)]));
            prop_assert!(
                matches!(report.verdict, Verdict::Valid | Verdict::ValidWithTail),
                "{:?}", report.findings
            );
            prop_assert_eq!(report.channels[0].claimed, world.side(side).claimed());
            prop_assert_eq!(report.channels[0].earned, world.side(side).earned());
        }
        world.heal();
        let report = verify(&export(manifest(), &[&world.pair.consumer]));
        prop_assert_eq!(report.verdict, Verdict::Valid);
    }

    #[test]
    fn every_prefix_of_the_stored_logs_replays_to_a_state_that_verifies(
        actions in prop::collection::vec(action(), 1..60),
    ) {
        let mut world = World::new();
        let mut hashes = std::collections::BTreeMap::new();
        let heads = |c: &Channel| (c.own_head().0, c.peer_head().0);
        hashes.insert(heads(&world.pair.provider), world.pair.provider.state_hash());
        for action in &actions {
            world.apply(action);
            hashes.insert(heads(&world.pair.provider), world.pair.provider.state_hash());
        }
        let (own, peer, quotes) = stored(&world.pair.provider);
        for ((own_len, peer_len), hash) in hashes {
            let own = own[..usize::try_from(own_len).unwrap()].to_vec();
            let peer = peer[..usize::try_from(peer_len).unwrap()].to_vec();
            let again = Channel::replay(node(PROVIDER), quotes.clone(), own, peer).unwrap();
            prop_assert_eq!(again.state_hash(), hash);
        }
    }

    #[test]
    fn every_second_signature_at_a_place_is_proven(at in 0..6usize, wall_ms in any::<u64>()) {
        let mut pair = Pair::new();
        let lane = pair.agree(1);
        for n in 1..=5 {
            pair.receipt(lane, reading(n * 1_000, 0, false));
        }
        let bytes = pair.provider.entries(Side::Provider, 0).nth(at).unwrap().bytes.to_vec();
        let signed = accounting::SignedEntry::open(&bytes, &node(PROVIDER)).unwrap();
        let other = forge(&Entry { wall_ms, ..signed.entry }, PROVIDER);
        prop_assume!(other != bytes);
        let Err(EntryError::Equivocation(proof)) = pair.consumer.handle_entry(&other, NOW) else {
            panic!("it is proof")
        };
        prop_assert_eq!(proof.signer, node(PROVIDER));
        pair.consumer.freeze(*proof).unwrap();
        let report = verify(&export(manifest(), &[&pair.consumer]));
        prop_assert_eq!(report.verdict, Verdict::Equivocation);
    }

    #[test]
    fn entries_decode_to_what_was_encoded(
        seq in 1..=u64::MAX, peer_seq in any::<u64>(), wall_ms in any::<u64>(),
        hashes in any::<[[u8; 32]; 3]>(), incarnation in any::<u32>(), body in body(),
    ) {
        let [channel, prev, peer_head] = hashes;
        let writer = Side::BOTH[usize::from(seq % 2 == 0)];
        let entry = Entry { channel, writer, incarnation, seq, prev, peer_seq, peer_head, wall_ms, body };
        let bytes = entry.encode();
        prop_assert_eq!(Entry::decode(&bytes).unwrap(), entry);
        let mut longer = bytes;
        longer.push(0);
        prop_assert!(Entry::decode(&longer).is_err());
    }

    #[test]
    fn no_bytes_panic_the_readers(bytes in any::<Vec<u8>>()) {
        let mut pair = Pair::new();
        prop_assert!(pair.consumer.handle_entry(&bytes, NOW).is_err());
        prop_assert_eq!(verify(&bytes).verdict, Verdict::Invalid);
        prop_assert!(Entry::decode(&bytes).is_err());
        prop_assert!(Channel::accept(&key(CONSUMER), node(CONSUMER), &bytes, NOW).is_err());
    }
}

/// Bodies as a liar may make them too: every field at any value of its type.
fn body() -> impl Strategy<Value = Body> {
    use accounting::body::{Ack, LaneClose, Receipt};
    use catalog::Amount;
    let receipt = (any::<[u64; 4]>(), any::<i64>(), any::<[u64; DIMENSIONS]>(), any::<[bool; 3]>())
        .prop_map(
            |([lane, lane_seq, period_ms, _], amount, counters, [is_final, reset, estimated])| {
                let counters = accounting::Counters::from_array(counters);
                let amount = Amount::from_nano(amount);
                Body::Receipt(Receipt {
                    lane,
                    lane_seq,
                    period_ms,
                    counters,
                    amount,
                    is_final,
                    reset,
                    estimated,
                })
            },
        );
    let ack = (any::<i64>(), prop::collection::btree_set(any::<u64>(), 0..5)).prop_map(
        |(total, lanes)| {
            let exceptions = lanes
                .into_iter()
                .map(|lane| AckException { lane, last_ok_lane_seq: lane / 2, code: AckCode::Time })
                .collect();
            Body::Ack(Ack { accepted_total: Amount::from_nano(total), exceptions })
        },
    );
    let close = (any::<[u64; 2]>(), any::<[u8; 32]>(), any::<i64>()).prop_map(
        |([lane, lane_seq], last_receipt, amount)| {
            let amount = Amount::from_nano(amount);
            Body::LaneClose(LaneClose {
                lane,
                reason: CloseReason::NoAck,
                last_receipt,
                lane_seq,
                amount,
            })
        },
    );
    prop_oneof![receipt, ack, close]
}
