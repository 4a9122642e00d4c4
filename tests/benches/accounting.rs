//! What the ledger costs: co-signing, checking and replaying receipts, on one core.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[path = "support/figure.rs"]
mod figure;
#[path = "support/measured.rs"]
mod measured;

use accounting::price::PriceRow;
use accounting::quote::Meter;
use accounting::{
    Basis, Caps, Channel, Counters, Dimension, ExposurePolicy, Manifest, NewAgreement, OpenTerms,
    PricePlan, Quote, Reading, Received, Side, Verdict, WorkId, export, verify,
};
use catalog::cert::NodeCert;
use catalog::{Amount, Currency, Digest, NodeId, OrgId};
use criterion::{BatchSize, Criterion};
use ed25519_dalek::SigningKey;

const NOW: u64 = 1_800_000_000_000;
/// Time between two receipts, milliseconds.
const PERIOD_MS: u64 = 10_000;
/// Pairs of a receipt and its acknowledgement in the log that is checked and replayed.
const PAIRS: u32 = 5_000;
/// Eight of the dimensions, as a container's receipt has them.
const METERED: usize = 8;

const CO_SIGN: &str = "accounting co-sign";
const VERIFY: &str = "accounting offline verify";
const REPLAY: &str = "accounting replay";

struct Party {
    key: SigningKey,
    org: SigningKey,
    name: &'static str,
}

impl Party {
    fn new(seed: u8, name: &'static str) -> Self {
        let key = |seed| SigningKey::from_bytes(&[seed; 32]);
        Self { key: key(seed), org: key(seed + 100), name }
    }

    fn node(&self) -> NodeId {
        self.key.verifying_key().into()
    }

    fn org(&self) -> OrgId {
        self.org.verifying_key().into()
    }

    fn cert(&self) -> Vec<u8> {
        let cert = NodeCert {
            org: self.org(),
            org_name: self.name.to_owned(),
            name: self.name.to_owned(),
            node: self.node(),
            generation: 1,
            roles: Vec::new(),
            realms: Vec::new(),
            not_before_ms: NOW - 3_600_000,
            not_after_ms: NOW + 20 * 86_400_000,
            serial: 1,
        };
        cert.sign(&self.org)
    }
}

/// Both sides of a channel with one agreed lane.
struct Pair {
    parties: [Party; 2],
    provider: Channel,
    consumer: Channel,
    lane: u64,
    counters: Counters,
}

impl Pair {
    fn new() -> Self {
        let parties = [Party::new(1, "provider"), Party::new(2, "consumer")];
        let [p, c] = &parties;
        let terms = OpenTerms {
            consumer: c.node(),
            provider_cert: p.cert(),
            consumer_cert: c.cert(),
            currency: Currency::EUR,
            nonce: [5; 16],
        };
        let (mut provider, open) = Channel::open(&p.key, terms, NOW).unwrap();
        let (mut consumer, own) = Channel::accept(&c.key, c.node(), &open.bytes, NOW).unwrap();
        for entry in own {
            deliver(&mut provider, &entry.bytes);
        }
        let quote = quote(p, c).sign(&p.key);
        consumer.learn_quote(&quote).unwrap();
        let agreement = agreement();
        let work = agreement.work;
        let proposed = provider.propose(&p.key, NOW, agreement, quote).unwrap();
        deliver(&mut consumer, &proposed.bytes);
        let ack = consumer.ack(&c.key, NOW, &[]).unwrap().unwrap();
        deliver(&mut provider, &ack.bytes);
        let lane = provider.lane_of(&work).unwrap();
        Self { parties, provider, consumer, lane, counters: Counters::default() }
    }

    /// One receipt, from its counters to its acknowledgement held by the provider. Returns the bytes of both entries.
    fn co_sign(&mut self) -> usize {
        for dimension in Dimension::ALL.into_iter().take(METERED) {
            let more = 1_000_003 + dimension.index() as u64;
            self.counters.set(dimension, self.counters.get(dimension) + more);
        }
        let reading = Reading {
            counters: self.counters,
            period_ms: PERIOD_MS,
            is_final: false,
            reset: false,
            estimated: false,
        };
        let [p, c] = &self.parties;
        let receipt = self.provider.receipt(&p.key, NOW, self.lane, reading).unwrap();
        deliver(&mut self.consumer, &receipt.bytes);
        let ack = self.consumer.ack(&c.key, NOW, &[]).unwrap().unwrap();
        deliver(&mut self.provider, &ack.bytes);
        receipt.bytes.len() + ack.bytes.len()
    }

    fn log(&self, side: Side) -> Vec<Vec<u8>> {
        self.provider.entries(side, 0).map(|entry| entry.bytes.to_vec()).collect()
    }
}

fn deliver(to: &mut Channel, bytes: &[u8]) {
    let received = to.handle_entry(bytes, NOW);
    assert!(matches!(received, Ok(Received::New { .. })), "{received:?}");
}

fn quote(provider: &Party, consumer: &Party) -> Quote {
    let row = |dimension, basis, amount_nano, per| PriceRow { dimension, basis, amount_nano, per };
    Quote {
        offer_id: [3; 16],
        provider: provider.node(),
        provider_org: provider.org(),
        consumer: consumer.node(),
        plan: PricePlan {
            rows: vec![
                row(Dimension::Cpu, Basis::Used, 7, 1_000_000),
                row(Dimension::VcpuAlloc, Basis::Allocated, 3, 1_000_000),
                row(Dimension::NetOut, Basis::Used, 1, 3_000),
            ],
            fixed: Amount::from_nano(100),
            minimum: Amount::from_nano(5_000),
            granularity_ms: 1_000,
            ..PricePlan::default()
        },
        meters: vec![Meter { dimension: Dimension::Cpu, id: "cgroup".to_owned() }],
        valid_until_ms: NOW + 60_000,
        volume: 1,
        salt: [3; 16],
        spec: Digest::of(b"the task"),
        request: [3; 16],
    }
}

fn agreement() -> NewAgreement {
    NewAgreement {
        work: WorkId { run: [9; 16], step: 1, index: 2, attempt: 1 },
        spec: Digest::of(b"the task"),
        // Above what is metered, so that no receipt is cut.
        caps: Caps { cpu_milli: 64_000, memory_bytes: 1 << 40, disk_bytes: 1 << 40 },
        max_amount: Amount::from_nano(1_000_000_000_000_000),
        max_duration_ms: 100 * 365 * 86_400_000,
        exposure: ExposurePolicy::Stop,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes of a bench are small")]
fn main() {
    let (measured, mut criterion) = measured::Measured::begin();
    let mut pair = Pair::new();
    let bytes = (0..PAIRS).map(|_| pair.co_sign() as f64).collect();
    measure(&mut criterion, &pair);
    if !figure::is_asked_to_measure() {
        return;
    }
    if let Some(s) = measured.seconds(CO_SIGN) {
        let rate = format!("{:.0} receipts/s", 1.0 / s);
        figure::figure("accounting: co-sign, both sides in process", &rate, ">= 4000 /s");
    }
    if let Some(s) = measured.seconds(VERIFY) {
        let rate = format!("{:.0} pairs/s", f64::from(PAIRS) / s);
        figure::figure("accounting: offline verify", &rate, ">= 7000 /s");
    }
    if let Some(s) = measured.seconds(REPLAY) {
        let million = figure::time(s * 1e6 / f64::from(PAIRS));
        let name = format!("accounting: replay without signatures, 1e6 receipts from {PAIRS}");
        figure::figure(&name, &million, "<= 10 s");
    }
    let each = figure::median(bytes);
    let name = format!("accounting: bytes of a co-signed receipt, {METERED} dimensions");
    figure::figure(&name, &format!("{each:.0} B"), "<= 400 B");
}

fn measure(criterion: &mut Criterion, pair: &Pair) {
    let mut fresh = Pair::new();
    criterion.bench_function(CO_SIGN, |b| b.iter(|| fresh.co_sign()));
    let me = pair.provider.provider();
    let bundle = export(Manifest { exported_ms: NOW, by: me }, &[&pair.provider]);
    criterion.bench_function(VERIFY, |b| {
        b.iter(|| assert_eq!(verify(&bundle).verdict, Verdict::Valid));
    });
    let quotes: Vec<_> = pair.provider.used_quotes().map(|(_, bytes)| bytes.to_vec()).collect();
    let logs = || (quotes.clone(), pair.log(Side::Provider), pair.log(Side::Consumer));
    criterion.bench_function(REPLAY, |b| {
        b.iter_batched(
            logs,
            |(quotes, own, peer)| Channel::replay(me, quotes, own, peer).unwrap(),
            BatchSize::LargeInput,
        );
    });
}
