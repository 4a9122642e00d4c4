//! One channel between two honest parties, and everything a lying one may send.

use crate::common::*;
use accounting::body::{Ack, Body, CloseReason, LaneClose, Receipt};
use accounting::{
    AckCode, AckException, Channel, ChannelError, Counters, Dimension, Entry, EntryError, Event,
    LaneState, Received, Side, Violation,
};
use catalog::{Amount, Digest};

fn exception(lane: u64, last_ok_lane_seq: u64, code: AckCode) -> AckException {
    AckException { lane, last_ok_lane_seq, code }
}

fn amount(nano: i64) -> Amount {
    Amount::from_nano(nano)
}

/// The next entry of the provider's log, as the consumer would take it.
fn next_of_provider(pair: &Pair, body: Body) -> Entry {
    let (len, prev) = pair.provider.own_head();
    let (peer_seq, peer_head) = pair.provider.peer_head();
    let channel = *pair.provider.id();
    let writer = Side::Provider;
    Entry {
        channel,
        writer,
        incarnation: 0,
        seq: len + 1,
        prev,
        peer_seq,
        peer_head,
        wall_ms: NOW + 20,
        body,
    }
}

/// What the consumer says to a body that the provider signs next, whether or not it is true.
fn refused(pair: &mut Pair, body: Body) -> Violation {
    let before = pair.consumer.state_hash();
    let bytes = forge(&next_of_provider(pair, body), PROVIDER);
    let error = pair.consumer.handle_entry(&bytes, NOW).unwrap_err();
    assert!(error.is_peer_fault() || error.is_retryable(), "{error:?}");
    assert_eq!(pair.consumer.state_hash(), before, "a refused entry changes nothing");
    match error {
        EntryError::Violation { source, .. } => source,
        other => panic!("{other:?}"),
    }
}

fn receipt_of(pair: &Pair, lane: u64, cpu: u64) -> Receipt {
    let found = pair.provider.lane(lane).unwrap();
    let counters = found.counters.with(Dimension::Cpu, cpu);
    let plan = &pair.provider.quote(&found.agreement.quote).unwrap().plan;
    Receipt {
        lane,
        lane_seq: found.lane_seq + 1,
        period_ms: 10_000,
        counters,
        amount: accounting::rate::rate(plan, &counters).unwrap(),
        is_final: false,
        reset: false,
        estimated: false,
    }
}

#[test]
fn a_lane_goes_from_proposal_to_a_closed_and_earned_amount() {
    let mut pair = Pair::new();
    let lane = pair.propose(1);
    assert_eq!(pair.provider.lane(lane).unwrap().state(), LaneState::Proposed);
    pair.ack(&[]);
    assert_eq!(pair.provider.lane(lane).unwrap().state(), LaneState::Active);

    pair.receipt(lane, reading(1_000_000, 300, false));
    let claimed = amount(100 + 7_000 + 3_000 + 100);
    assert_eq!(pair.consumer.claimed(), claimed);
    assert_eq!(pair.consumer.earned(), Amount::ZERO);
    assert_eq!(pair.provider.unacked(), claimed);
    pair.ack(&[]);
    assert_eq!(pair.provider.earned(), claimed);

    pair.receipt(lane, reading(2_000_000, 301, true));
    assert_eq!(pair.provider.lane(lane).unwrap().state(), LaneState::Closing);
    pair.close(lane, CloseReason::Completed);
    pair.ack(&[]);
    let found = pair.provider.lane(lane).unwrap();
    assert_eq!(found.state(), LaneState::Closed);
    assert_eq!(found.earned, amount(100 + 14_000 + 6_000 + 100));
    assert_eq!(pair.provider.unacked(), Amount::ZERO);
    assert_eq!(pair.consumer.ack(&key(CONSUMER), NOW, &[]), Ok(None), "nothing is new");
}

#[test]
fn events_tell_what_an_entry_did() {
    let mut pair = Pair::new();
    let bytes = quote(1).sign(&key(PROVIDER));
    pair.consumer.learn_quote(&bytes).unwrap();
    let proposed = pair.provider.propose(&key(PROVIDER), NOW, agreement(1), bytes).unwrap();
    let Ok(Received::New { event, .. }) = pair.consumer.handle_entry(&proposed.bytes, NOW) else {
        panic!("the proposal is new")
    };
    assert_eq!(event, Event::Proposed { lane: 1 });
    let ack = pair.consumer.ack(&key(CONSUMER), NOW, &[]).unwrap().unwrap();
    let Ok(Received::New { event, .. }) = pair.provider.handle_entry(&ack.bytes, NOW) else {
        panic!("the acknowledgement is new")
    };
    let expected = Event::Acked {
        up_to_seq: 2,
        lanes_agreed: vec![1],
        lanes_refused: vec![],
        lanes_settled: vec![],
        earned: Amount::ZERO,
    };
    assert_eq!(event, expected);
}

#[test]
fn a_refused_lane_takes_no_receipt_and_costs_nothing() {
    let mut pair = Pair::new();
    let lane = pair.propose(1);
    pair.ack(&[exception(lane, 0, AckCode::Declined)]);
    assert_eq!(pair.provider.lane(lane).unwrap().state(), LaneState::Refused);
    let error = pair.provider.receipt(&key(PROVIDER), NOW, lane, reading(1, 0, false));
    assert_eq!(error.unwrap_err(), ChannelError::Rule(Violation::NotAgreed { lane }));
    pair.close(lane, CloseReason::LostLease);
    pair.ack(&[]);
    assert_eq!(pair.provider.lane(lane).unwrap().state(), LaneState::Refused);
    assert_eq!(pair.provider.claimed(), Amount::ZERO);
}

#[test]
fn no_work_is_claimed_before_both_signed() {
    let mut pair = Pair::new();
    let lane = pair.propose(1);
    let error = pair.provider.receipt(&key(PROVIDER), NOW, lane, reading(1, 0, false));
    assert_eq!(error.unwrap_err(), ChannelError::Rule(Violation::NotAgreed { lane }));
    let receipt = receipt_of(&pair, lane, 5);
    assert_eq!(refused(&mut pair, Body::Receipt(receipt)), Violation::NotAgreed { lane });
}

#[test]
fn an_exception_freezes_one_lane_only_and_can_be_lifted() {
    let mut pair = Pair::new();
    let (a, b) = (pair.agree(1), pair.agree(2));
    pair.receipt(a, reading(1_000_000, 0, false));
    pair.receipt(b, reading(1_000_000, 0, false));
    pair.ack(&[]);
    let before = pair.provider.lane(a).unwrap().earned;
    pair.receipt(a, reading(2_000_000, 0, false));
    pair.receipt(a, reading(3_000_000, 0, false));
    pair.receipt(b, reading(2_000_000, 0, false));
    pair.ack(&[exception(a, 1, AckCode::Usage)]);
    assert_eq!(pair.provider.lane(a).unwrap().earned, before);
    assert_eq!(pair.provider.lane(a).unwrap().exception, Some(AckCode::Usage));
    assert_eq!(pair.provider.lane(b).unwrap().unacked(), Amount::ZERO);
    assert_eq!(
        pair.consumer.ack(&key(CONSUMER), NOW, &[exception(a, 1, AckCode::Usage)]),
        Ok(None)
    );

    pair.ack(&[exception(a, 2, AckCode::Usage)]);
    assert_eq!(pair.provider.lane(a).unwrap().acked_lane_seq, 2);
    for back in [0, 1, 4] {
        let ack = pair.consumer.ack(&key(CONSUMER), NOW, &[exception(a, back, AckCode::Usage)]);
        assert_eq!(ack, Err(ChannelError::Rule(Violation::Exception { lane: a })), "{back}");
    }
    pair.ack(&[]);
    assert_eq!(pair.provider.unacked(), Amount::ZERO);
    assert_eq!(pair.provider.lane(a).unwrap().exception, None);
}

#[test]
fn a_providers_fault_is_not_billed_even_after_acknowledged_receipts() {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    pair.receipt(lane, reading(1_000_000, 0, false));
    pair.ack(&[]);
    assert!(pair.provider.earned() > Amount::ZERO);
    pair.close(lane, CloseReason::ProviderFault);
    assert_eq!(pair.provider.claimed(), Amount::ZERO);
    assert_eq!(pair.provider.unacked(), Amount::ZERO);
    pair.ack(&[]);
    assert_eq!(pair.provider.earned(), Amount::ZERO);
}

#[test]
fn the_close_applies_granularity_and_minimum_once() {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    let short = accounting::Reading { period_ms: 1_500, ..reading(150, 0, true) };
    pair.receipt(lane, short);
    // floor(150 * 7 / 1000) + floor(200 * 3 / 1000) + 100 lies below the minimum.
    pair.close(lane, CloseReason::Completed);
    pair.ack(&[]);
    assert_eq!(pair.provider.earned(), amount(5_000));
    let unused = pair.agree(2);
    pair.close(unused, CloseReason::Cancelled);
    pair.ack(&[]);
    assert_eq!(pair.provider.earned(), amount(5_000), "a lane without receipt costs nothing");
}

#[test]
fn use_beyond_the_caps_and_the_maximum_is_cut_off() {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    // Two cores for 10 s and a second of slack, widened by a tenth.
    pair.receipt(lane, reading(u64::MAX, 0, false));
    let found = pair.consumer.lane(lane).unwrap();
    assert_eq!(found.counters.get(Dimension::Cpu), 24_200_000);
    assert_eq!(found.counters.get(Dimension::Mem), 65_536 * 11 * 11 / 10);
    let over = receipt_of(&pair, lane, 1_000_000_000);
    let expected = Violation::OverCap {
        lane,
        dimension: Dimension::Cpu,
        limit: 46_200_000,
        found: 1_000_000_000,
    };
    assert_eq!(refused(&mut pair, Body::Receipt(over)), expected);

    pair.receipt(lane, reading(u64::MAX, u64::MAX, false));
    assert_eq!(pair.consumer.lane(lane).unwrap().claimed, agreement(1).max_amount);
    pair.close(lane, CloseReason::Completed);
    pair.ack(&[]);
    assert_eq!(pair.provider.earned(), agreement(1).max_amount);
}

#[test]
fn false_receipts_are_refused() {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    pair.receipt(lane, reading(1_000_000, 0, false));
    let good = receipt_of(&pair, lane, 2_000_000);
    let mut check = |receipt: Receipt, expected: Violation| {
        assert_eq!(refused(&mut pair, Body::Receipt(receipt)), expected);
    };
    let more = amount(good.amount.nano() + 1);
    check(
        Receipt { amount: more, ..good },
        Violation::Amount { lane, expected: good.amount, found: more },
    );
    check(Receipt { lane_seq: 3, ..good }, Violation::LaneSeq { lane, expected: 2, found: 3 });
    check(Receipt { lane: 7, ..good }, Violation::UnknownLane { lane: 7 });
    check(Receipt { period_ms: u64::MAX, ..good }, Violation::Period { lane });
    let fallen = Receipt { counters: Counters::default(), ..good };
    check(fallen, Violation::CounterFell { lane, dimension: Dimension::Cpu });
}

#[test]
fn nothing_follows_the_final_receipt_or_the_close() {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    pair.receipt(lane, reading(1_000_000, 0, true));
    let late = receipt_of(&pair, lane, 2_000_000);
    assert_eq!(refused(&mut pair, Body::Receipt(late)), Violation::LaneEnded { lane });
    let mut close = LaneClose {
        lane,
        reason: CloseReason::Completed,
        last_receipt: [1; 32],
        lane_seq: 1,
        amount: pair.provider.claimed(),
    };
    assert_eq!(refused(&mut pair, Body::LaneClose(close)), Violation::CloseReceipt { lane });
    close.last_receipt = pair.provider.own_head().1;
    close.amount = amount(1);
    assert!(matches!(refused(&mut pair, Body::LaneClose(close)), Violation::Amount { .. }));
    pair.close(lane, CloseReason::Completed);
    assert_eq!(refused(&mut pair, Body::LaneClose(close)), Violation::LaneEnded { lane });
    assert_eq!(refused(&mut pair, Body::Receipt(late)), Violation::LaneEnded { lane });
}

#[test]
fn an_agreement_needs_a_fitting_unused_quote_in_its_lease() {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    let first = pair.provider.lane(lane).unwrap().agreement;
    let mut check = |change: &dyn Fn(&mut accounting::Agreement), expected: Violation| {
        let mut agreement = accounting::Agreement { lane: 2, ..first };
        change(&mut agreement);
        assert_eq!(refused(&mut pair, Body::Agreement(agreement)), expected);
    };
    check(&|_| {}, Violation::QuoteUsedUp { quote: first.quote, volume: 1 });
    check(&|a| a.lane = 1, Violation::LaneOrder { last: 1, found: 1 });
    check(&|a| a.quote = [7; 32], Violation::UnknownQuote { quote: [7; 32] });
    check(&|a| a.max_amount = amount(-1), Violation::NegativeMax { lane: 2 });
    let other = Violation::QuoteMismatch { lane: 2, field: "spec" };
    check(&|a| a.spec = Digest::of(b"another"), other);

    for (change, field) in [
        ((|q| q.consumer = node(9)) as fn(&mut accounting::Quote), "consumer"),
        (|q| q.provider_org = org(9), "organisation"),
        (|q| q.plan.currency = "USD".parse().unwrap(), "currency"),
    ] {
        let mut quote = quote(3);
        change(&mut quote);
        let bytes = quote.sign(&key(PROVIDER));
        let error = pair.provider.propose(&key(PROVIDER), NOW, agreement(3), bytes).unwrap_err();
        assert_eq!(error, ChannelError::Rule(Violation::QuoteMismatch { lane: 2, field }));
    }
    let late = pair.provider.propose(
        &key(PROVIDER),
        NOW + 60_001,
        agreement(4),
        quote(4).sign(&key(PROVIDER)),
    );
    assert!(matches!(late, Err(ChannelError::Rule(Violation::QuoteExpired { .. }))));
}

/// A pair with one receipt that is not acknowledged, and the acknowledgement that would be right.
fn unacknowledged() -> (Pair, Ack) {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    pair.receipt(lane, reading(1_000_000, 0, false));
    let accepted_total = pair.provider.claimed();
    (pair, Ack { accepted_total, exceptions: vec![] })
}

/// The next entry of the consumer's log.
fn next_of_consumer(pair: &Pair, body: Body) -> Entry {
    let (len, prev) = pair.consumer.own_head();
    let (peer_seq, peer_head) = pair.consumer.peer_head();
    Entry {
        channel: *pair.consumer.id(),
        writer: Side::Consumer,
        incarnation: 0,
        seq: len + 1,
        prev,
        peer_seq,
        peer_head,
        wall_ms: NOW,
        body,
    }
}

/// The provider refuses what the consumer signed, for this reason, and nothing changes.
fn check_refused(pair: &mut Pair, entry: &Entry, expected: Violation) {
    let before = pair.provider.state_hash();
    let error = pair.provider.handle_entry(&forge(entry, CONSUMER), NOW).unwrap_err();
    assert_eq!(error, EntryError::Violation { seq: entry.seq, source: expected });
    assert_eq!(pair.provider.state_hash(), before);
}

#[test]
fn false_acknowledgements_are_refused() {
    let (mut pair, good) = unacknowledged();
    let (expected, found) = (good.accepted_total, amount(1));
    let less = next_of_consumer(&pair, Body::Ack(Ack { accepted_total: found, ..good.clone() }));
    check_refused(&mut pair, &less, Violation::AckTotal { expected, found });
    let other = Entry { peer_seq: 2, ..next_of_consumer(&pair, Body::Ack(good.clone())) };
    check_refused(&mut pair, &other, Violation::PeerHead { seq: 2 });
    let close = LaneClose {
        lane: 1,
        reason: CloseReason::Completed,
        last_receipt: pair.consumer.peer_head().1,
        lane_seq: 1,
        amount: good.accepted_total,
    };
    let close = next_of_consumer(&pair, Body::LaneClose(close));
    check_refused(&mut pair, &close, Violation::Writer { number: 15, writer: Side::Consumer });
    let stranger = forge(&next_of_consumer(&pair, Body::Ack(good)), 9);
    assert!(matches!(pair.provider.handle_entry(&stranger, NOW), Err(EntryError::Form(_))));
}

#[test]
fn false_links_are_refused() {
    let (mut pair, good) = unacknowledged();
    let right = next_of_consumer(&pair, Body::Ack(good));
    let back = Entry { peer_seq: 1, peer_head: [0; 32], ..right.clone() };
    check_refused(&mut pair, &back, Violation::PeerBack { before: 2, found: 1 });
    let head = Entry { peer_head: [3; 32], ..right.clone() };
    check_refused(&mut pair, &head, Violation::PeerHead { seq: 3 });
    check_refused(&mut pair, &Entry { prev: [3; 32], ..right.clone() }, Violation::Prev);
    let incarnation = Entry { incarnation: 1, ..right.clone() };
    check_refused(&mut pair, &incarnation, Violation::Incarnation { expected: 0, found: 1 });
    let received = pair.provider.handle_entry(&forge(&right, CONSUMER), NOW);
    assert!(matches!(received, Ok(Received::New { .. })), "the right one is taken");
}

#[test]
fn repeated_early_and_foreign_entries_are_told_apart() {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    let first = pair.receipt(lane, reading(1_000, 0, false));
    assert_eq!(pair.consumer.handle_entry(&first.bytes, NOW), Ok(Received::Duplicate));
    let hash = pair.consumer.state_hash();
    let second = pair.provider.receipt(&key(PROVIDER), NOW, lane, reading(2_000, 0, false));
    let third = pair.provider.receipt(&key(PROVIDER), NOW, lane, reading(3_000, 0, false)).unwrap();
    assert_eq!(pair.consumer.handle_entry(&third.bytes, NOW), Ok(Received::Gap { next_seq: 4 }));
    assert_eq!(pair.consumer.state_hash(), hash);
    pair.deliver(&second.unwrap());
    pair.deliver(&third);
    assert_eq!(
        pair.provider.handle_entry(&third.bytes, NOW),
        Err(EntryError::OwnLog { seq: third.entry.seq })
    );
    let mut terms = terms();
    terms.nonce = [6; 16];
    let (_, other) = Channel::open(&key(PROVIDER), terms, NOW).unwrap();
    assert!(matches!(
        pair.consumer.handle_entry(&other.bytes, NOW),
        Err(EntryError::OtherChannel { .. })
    ));
}

#[test]
fn a_peer_that_holds_more_of_my_log_than_i_do_is_reported() {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    let (own, peer, quotes) = stored(&pair.provider);
    pair.receipt(lane, reading(1_000, 0, false));
    let ack = pair.consumer.ack(&key(CONSUMER), NOW, &[]).unwrap().unwrap();
    let mut set_back = Channel::replay(node(PROVIDER), quotes, own, peer).unwrap();
    assert_eq!(
        set_back.handle_entry(&ack.bytes, NOW),
        Err(EntryError::AheadOfMe { peer_seq: 3, mine: 2 })
    );
}

#[test]
fn signing_one_place_twice_is_proven_and_freezes_the_channel() {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    let mut twin = pair.provider.clone();
    pair.receipt(lane, reading(1_000, 0, false));
    let other = twin.receipt(&key(PROVIDER), NOW, lane, reading(2_000, 0, false)).unwrap();
    let Err(EntryError::Equivocation(proof)) = pair.consumer.handle_entry(&other.bytes, NOW) else {
        panic!("two entries at one place are proof")
    };
    assert_eq!(proof.signer, node(PROVIDER));
    assert_eq!(proof.verify(), Ok((*pair.consumer.id(), Side::Provider, 0, 3)));
    let again = accounting::EquivocationProof::decode(&proof.encode()).unwrap();
    assert_eq!(again, *proof);
    pair.consumer.freeze(*proof).unwrap();
    assert_eq!(pair.consumer.ack(&key(CONSUMER), NOW, &[]), Err(ChannelError::Frozen));
    let next = pair.provider.receipt(&key(PROVIDER), NOW, lane, reading(3_000, 0, false)).unwrap();
    assert_eq!(pair.consumer.handle_entry(&next.bytes, NOW), Err(EntryError::Frozen));
}

#[test]
fn only_the_right_side_with_the_right_key_signs() {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    let wrong = pair.provider.receipt(&key(CONSUMER), NOW, lane, reading(1, 0, false));
    assert_eq!(wrong.unwrap_err(), ChannelError::Key { expected: node(PROVIDER) });
    assert_eq!(
        pair.provider.ack(&key(PROVIDER), NOW, &[]),
        Err(ChannelError::Side { side: Side::Consumer })
    );
    let (mut fresh, _) = Channel::open(&key(PROVIDER), terms(), NOW).unwrap();
    let early = fresh.propose(&key(PROVIDER), NOW, agreement(1), quote(1).sign(&key(PROVIDER)));
    assert_eq!(early.unwrap_err(), ChannelError::NotOpen);
}

#[test]
fn an_open_needs_two_parties_with_their_own_valid_certificates() {
    let open = |change: fn(&mut accounting::OpenTerms), now_ms| {
        let mut terms = terms();
        change(&mut terms);
        Channel::open(&key(PROVIDER), terms, now_ms).map(|_| ()).unwrap_err()
    };
    assert!(matches!(
        open(|t| t.consumer_cert = cert(7), NOW),
        ChannelError::Rule(Violation::Party(_))
    ));
    assert!(matches!(
        open(|t| t.provider_cert.clear(), NOW),
        ChannelError::Rule(Violation::Party(_))
    ));
    assert!(matches!(open(|_| {}, NOW + 40 * 86_400_000), ChannelError::Rule(Violation::Party(_))));
    let myself = |t: &mut accounting::OpenTerms| {
        t.consumer = node(PROVIDER);
        t.consumer_cert = cert(PROVIDER);
    };
    assert_eq!(open(myself, NOW), ChannelError::Rule(Violation::OneParty));

    let (_, entry) = Channel::open(&key(PROVIDER), terms(), NOW).unwrap();
    let stranger = Channel::accept(&key(9), node(9), &entry.bytes, NOW).map(|_| ());
    assert_eq!(stranger, Err(EntryError::NotForMe { consumer: node(CONSUMER) }));
    let mut moved = entry.entry;
    moved.channel = [1; 32];
    let forged = forge(&moved, PROVIDER);
    let error = Channel::accept(&key(CONSUMER), node(CONSUMER), &forged, NOW).map(|_| ());
    assert!(matches!(
        error,
        Err(EntryError::Violation { seq: 1, source: Violation::Channel { .. } })
    ));
}

#[test]
fn expired_quotes_that_no_lane_names_are_forgotten() {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    let unused = pair.consumer.learn_quote(&quote(2).sign(&key(PROVIDER))).unwrap();
    let used = pair.consumer.lane(lane).unwrap().agreement.quote;
    pair.consumer.forget_quotes(NOW);
    assert!(pair.consumer.quote(&unused).is_some());
    pair.consumer.forget_quotes(NOW + 60_001);
    assert!(pair.consumer.quote(&unused).is_none());
    assert!(pair.consumer.quote(&used).is_some());
}

#[test]
fn a_co_signed_receipt_takes_at_most_400_bytes() {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    let mut counters = Counters::default();
    for dimension in Dimension::ALL.into_iter().take(8) {
        counters.set(dimension, 20_000_000);
    }
    // One acknowledgement for eight lanes is what an ordinary interval of a busy pair makes.
    let per_ack = 8;
    let mut receipts = 0;
    for n in 1..=per_ack {
        let reading = accounting::Reading {
            counters: Counters::from_array(counters.as_array().map(|c| c * n)),
            ..reading(0, 0, false)
        };
        receipts += pair.receipt(lane, reading).bytes.len();
    }
    let ack = pair.ack(&[]).bytes.len();
    let each = (receipts + ack).div_ceil(per_ack as usize);
    println!(
        "receipt {} B, ack {ack} B, together {each} B per receipt",
        receipts / per_ack as usize
    );
    assert!(each <= 400, "{each} bytes");
}

#[test]
fn a_long_log_replays_to_the_same_state_and_verifies() {
    let mut pair = Pair::new();
    let lane = pair.agree(1);
    for n in 1..=4_000u64 {
        pair.receipt(lane, reading(n * 10_000, n * 7, false));
        if n % 8 == 0 {
            pair.ack(&[]);
        }
    }
    let (own, peer, quotes) = stored(&pair.provider);
    let entries = own.len() + peer.len();
    let start = std::time::Instant::now();
    let again = Channel::replay(node(PROVIDER), quotes, own, peer).unwrap();
    let replayed = start.elapsed();
    assert_eq!(again.state_hash(), pair.provider.state_hash());
    let bundle = accounting::export(manifest(), &[&again]);
    let start = std::time::Instant::now();
    let report = accounting::verify(&bundle);
    let verified = start.elapsed();
    assert_eq!(report.verdict, accounting::Verdict::Valid);
    println!("{entries} entries, {} bytes: replay {replayed:?}, verify {verified:?}", bundle.len());
}
