//! A channel in the hands of a party who lies: whatever entries it signs.

use std::sync::OnceLock;

use accounting::price::PriceRow;
use accounting::{
    AckCode, AckException, Basis, Caps, Channel, CloseReason, Counters, Dimension, Entry,
    ExposurePolicy, Manifest, NewAgreement, OpenTerms, PricePlan, Quote, Reading, Received, Side,
    SignedEntry, Verdict, WorkId, export, verify,
};
use catalog::envelope::{self, Typ};
use catalog::{Amount, Currency, Digest};

use super::super::support::{NOW_MS, cert, join, key, node, other_key, other_node, payload, split};
use super::quote;
use crate::fuzz::Target;

pub(super) fn targets() -> Vec<Target> {
    let target = |name, check, seeds| Target { name, check, seeds };
    vec![
        target("lying_provider", check_provider, provider_seeds),
        target("lying_consumer", check_consumer, consumer_seeds),
    ]
}

/// A channel of [`node()`], which provides, and of the other node, with one lane acknowledged and a second one under way; and
/// what both would honestly have written next.
struct Story {
    provider: Channel,
    consumer: Channel,
    /// The provider's entries from the first on.
    provided: Vec<Vec<u8>>,
    /// The consumer's.
    consumed: Vec<Vec<u8>>,
    /// The provider's entries after the two channels above.
    next_provided: Vec<Vec<u8>>,
    /// The consumer's.
    next_consumed: Vec<Vec<u8>>,
    bundle: Vec<u8>,
}

/// Both sides while the story is told.
struct Pair {
    provider: Channel,
    consumer: Channel,
    provided: Vec<Vec<u8>>,
    consumed: Vec<Vec<u8>>,
}

impl Pair {
    fn open() -> Self {
        let terms = OpenTerms {
            consumer: other_node(),
            provider_cert: cert(node()).sign(&key()),
            consumer_cert: cert(other_node()).sign(&key()),
            currency: Currency::EUR,
            nonce: [5; 16],
        };
        let (mut provider, open) = Channel::open(&key(), terms, NOW_MS).expect("good terms");
        let accepted = Channel::accept(&other_key(), other_node(), &open.bytes, NOW_MS);
        let (consumer, own) = accepted.expect("an honest opening");
        for entry in &own {
            provider.handle_entry(&entry.bytes, NOW_MS).expect("an honest answer");
        }
        let consumed = own.into_iter().map(|entry| entry.bytes).collect();
        Self { provider, consumer, provided: vec![open.bytes], consumed }
    }

    fn provided(&mut self, entry: SignedEntry) {
        self.consumer.handle_entry(&entry.bytes, NOW_MS).expect("an honest entry");
        self.provided.push(entry.bytes);
    }

    fn propose(&mut self, salt: u8) -> u64 {
        let quote = priced(salt).sign(&key());
        self.consumer.learn_quote(&quote).expect("an honest quote");
        let agreement = agreement(salt);
        let work = agreement.work;
        let entry = self.provider.propose(&key(), NOW_MS, agreement, quote);
        self.provided(entry.expect("an honest proposal"));
        self.provider.lane_of(&work).expect("it was just proposed")
    }

    fn receipt(&mut self, lane: u64, cpu: u64, is_final: bool) {
        let counters = Counters::default().with(Dimension::Cpu, cpu).with(Dimension::NetOut, cpu);
        let reading =
            Reading { counters, period_ms: 10_000, is_final, reset: false, estimated: false };
        let entry = self.provider.receipt(&key(), NOW_MS, lane, reading);
        self.provided(entry.expect("an honest receipt"));
    }

    fn close(&mut self, lane: u64) {
        let entry = self.provider.close_lane(&key(), NOW_MS, lane, CloseReason::Completed);
        self.provided(entry.expect("an honest close"));
    }

    fn ack(&mut self, exceptions: &[AckException]) {
        let entry = self.consumer.ack(&other_key(), NOW_MS, exceptions);
        let entry = entry.expect("an honest acknowledgement").expect("something is new");
        self.provider.handle_entry(&entry.bytes, NOW_MS).expect("an honest entry");
        self.consumed.push(entry.bytes);
    }
}

fn priced(salt: u8) -> Quote {
    let row = |dimension, basis, amount_nano, per| PriceRow { dimension, basis, amount_nano, per };
    let plan = PricePlan {
        rows: vec![
            row(Dimension::Cpu, Basis::Used, 7, 1_000),
            row(Dimension::VcpuAlloc, Basis::Allocated, 3, 1_000),
        ],
        minimum: Amount::from_nano(5_000),
        granularity_ms: 1_000,
        ..PricePlan::default()
    };
    Quote { plan, ..quote(salt) }
}

fn agreement(salt: u8) -> NewAgreement {
    NewAgreement {
        work: WorkId { run: [9; 16], step: 1, index: 2, attempt: u32::from(salt) },
        spec: Digest::of(b"the task"),
        caps: Caps { cpu_milli: 2_000, memory_bytes: 64 << 20, disk_bytes: 1 << 30, devices: 0 },
        max_amount: Amount::from_nano(1_000_000_000),
        max_duration_ms: 3_600_000,
        exposure: ExposurePolicy::Stop,
    }
}

fn story() -> &'static Story {
    static STORY: OnceLock<Story> = OnceLock::new();
    STORY.get_or_init(|| {
        let mut pair = Pair::open();
        let first = pair.propose(1);
        pair.ack(&[]);
        pair.receipt(first, 1_000_000, false);
        pair.ack(&[]);
        let second = pair.propose(2);
        for salt in [3, 4] {
            let bytes = priced(salt).sign(&key());
            pair.consumer.learn_quote(&bytes).expect("an honest quote");
        }
        let (provider, consumer) = (pair.provider.clone(), pair.consumer.clone());
        let (provided, consumed) = (pair.provided.len(), pair.consumed.len());
        pair.ack(&[]);
        pair.receipt(first, 2_000_000, true);
        pair.receipt(second, 3_000_000, false);
        pair.ack(&[AckException { lane: second, last_ok_lane_seq: 0, code: AckCode::Usage }]);
        pair.close(first);
        pair.ack(&[AckException { lane: second, last_ok_lane_seq: 0, code: AckCode::Usage }]);
        let third = pair.propose(3);
        pair.ack(&[
            AckException { lane: second, last_ok_lane_seq: 0, code: AckCode::Usage },
            AckException { lane: third, last_ok_lane_seq: 0, code: AckCode::Terms },
        ]);
        let manifest = Manifest { exported_ms: NOW_MS, by: node() };
        Story {
            bundle: export(manifest, &[&pair.provider]),
            next_provided: pair.provided[provided..].to_vec(),
            next_consumed: pair.consumed[consumed..].to_vec(),
            provider,
            consumer,
            provided: pair.provided,
            consumed: pair.consumed,
        }
    })
}

/// A bundle of a channel in which everything has happened once.
pub(super) fn bundle() -> Vec<u8> {
    story().bundle.clone()
}

pub(super) fn entry_seeds() -> Vec<Vec<u8>> {
    let all = story().provided.iter().chain(&story().consumed);
    all.map(|bytes| payload(Typ::Entry, bytes)).collect()
}

/// Two entries that [`node()`] signed for one place of its log.
pub(super) fn two_for_one_place() -> [Vec<u8>; 2] {
    let bytes = story().provided[1].clone();
    let mut entry = Entry::decode(&payload(Typ::Entry, &bytes)).expect("an honest entry");
    entry.wall_ms += 1;
    [bytes, envelope::sign(&key(), Typ::Entry, entry.encode())]
}

/// The first byte of a part that is put where it fits: its place in the log and the links to both logs are made right, so
/// that what is judged is what it says.
const FITTED: u8 = 1;
/// The first byte's bit that lets the reader acknowledge before the part arrives.
const ACKED: u8 = 2;

/// Hands `reader` what the other side says, one part after the other. Whether anything was taken.
fn tell(mut reader: Channel, bytes: &[u8]) -> bool {
    let reads = reader.side();
    let (liar, own) = match reads {
        Side::Consumer => (key(), other_key()),
        Side::Provider => (other_key(), key()),
    };
    let mut taken = false;
    for part in split(bytes).into_iter().take(32) {
        let Some((mode, payload)) = part.split_first() else {
            continue;
        };
        if mode & ACKED != 0 && reads == Side::Consumer {
            // Refused when the liar is caught: then there is nothing to acknowledge.
            let _refused = reader.ack(&own, NOW_MS, &[]).is_err();
        }
        let mut payload = payload.to_vec();
        if mode & FITTED != 0 {
            let Ok(entry) = Entry::decode(&payload) else {
                continue;
            };
            payload = fit(entry, &reader).encode();
        }
        let bytes = envelope::sign(&liar, Typ::Entry, payload);
        let before = reader.state_hash();
        match reader.handle_entry(&bytes, NOW_MS) {
            Ok(Received::New { .. }) => {
                taken = true;
                assert!(reader.unacked() >= Amount::ZERO);
                let again = reader.handle_entry(&bytes, NOW_MS);
                assert!(matches!(again, Ok(Received::Duplicate)), "{again:?}");
            }
            Ok(_) | Err(_) => assert_eq!(reader.state_hash(), before, "a refusal changes nothing"),
        }
    }
    // Whoever has neither node nor network agrees that all of it is right.
    let manifest = Manifest { exported_ms: NOW_MS, by: node() };
    let report = verify(&export(manifest, &[&reader]));
    let is_right = matches!(report.verdict, Verdict::Valid | Verdict::ValidWithTail);
    assert!(is_right, "{:?}: {:?}", report.verdict, report.findings);
    taken
}

/// The entry at the end of the log that `reader` holds of its peer.
fn fit(entry: Entry, reader: &Channel) -> Entry {
    let ((seq, prev), (peer_seq, peer_head)) = (reader.peer_head(), reader.own_head());
    let channel = *reader.id();
    Entry { channel, seq: seq + 1, prev, peer_seq, peer_head, ..entry }
}

fn check_provider(bytes: &[u8]) -> bool {
    tell(story().consumer.clone(), bytes)
}

fn check_consumer(bytes: &[u8]) -> bool {
    tell(story().provider.clone(), bytes)
}

fn told(entries: &[Vec<u8>], mode: u8) -> Vec<u8> {
    join(entries.iter().map(|bytes| [&[mode][..], &payload(Typ::Entry, bytes)].concat()))
}

fn provider_seeds() -> Vec<Vec<u8>> {
    let next = &story().next_provided;
    vec![told(next, FITTED | ACKED), told(next, FITTED), told(next, 0), told(&next[..1], FITTED)]
}

fn consumer_seeds() -> Vec<Vec<u8>> {
    let next = &story().next_consumed;
    vec![told(next, FITTED), told(&next[..1], 0), told(&next[..1], FITTED)]
}
