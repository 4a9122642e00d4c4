//! What the ledger costs: co-signing, checking, replaying and storing receipts, on one core.
//!
//! "Per node" means the provider's part of a channel, from the reading of its meter to the acknowledgement on its own disk; the
//! consumer's part is the same work with the two signatures exchanged, and happens on another machine.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[path = "support/figure.rs"]
mod figure;
#[path = "support/measured.rs"]
mod measured;

use std::time::{Duration, Instant};

use accounting::price::PriceRow;
use accounting::quote::Meter;
use accounting::{
    Basis, Caps, Channel, Counters, Dimension, ExposurePolicy, Manifest, NewAgreement, OpenTerms,
    PricePlan, Quote, Reading, Received, Side, SignedEntry, Verdict, WorkId, export, verify,
};
use catalog::cert::NodeCert;
use catalog::{Amount, Currency, Digest, NodeId, OrgId};
use criterion::{BatchSize, Criterion};
use ed25519_dalek::SigningKey;
use node::store::batch::{Batch, Table};
use node::store::truth::Truth;

const NOW: u64 = 1_800_000_000_000;
/// Time between two receipts, milliseconds.
const PERIOD_MS: u64 = 10_000;
/// Pairs of a receipt and its acknowledgement in the log that is checked and replayed.
const PAIRS: u32 = 5_000;
/// Eight of the dimensions, as a container's receipt has them.
const METERED: usize = 8;

/// Inputs that a node handles before it commits: receipts to write and acknowledgements that came. A shell takes up to 512.
const TURN: usize = 256;
/// Turns of a measurement with a disk.
const TURNS: usize = 40;
/// Receipts stored to see how large the store grows.
const STORED: usize = 100_000;
/// Lanes of the node whose metering is measured.
const LANES: u32 = 100;
/// Rounds of receipts over all of them; the middle one counts.
const ROUNDS: usize = 9;

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
            issuer: None,
            successions: None,
        };
        cert.sign(&self.org)
    }
}

/// Both sides of a channel with one agreed lane.
struct Pair {
    parties: [Party; 2],
    provider: Channel,
    consumer: Channel,
    lanes: Vec<u64>,
    counters: Counters,
}

impl Pair {
    /// With `n_lanes` agreed lanes.
    fn new(n_lanes: u32) -> Self {
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
        let quote = quote(p, c, n_lanes).sign(&p.key);
        consumer.learn_quote(&quote).unwrap();
        for index in 0..n_lanes {
            let proposed = provider.propose(&p.key, NOW, agreement(index), quote.clone()).unwrap();
            deliver(&mut consumer, &proposed.bytes);
        }
        let ack = consumer.ack(&c.key, NOW, &[]).unwrap().unwrap();
        deliver(&mut provider, &ack.bytes);
        let lanes = provider.lanes().map(|(lane, _)| lane).collect();
        Self { parties, provider, consumer, lanes, counters: Counters::default() }
    }

    /// The next receipt of a lane, by the provider.
    fn receipt(&mut self, lane: u64) -> SignedEntry {
        let [p, _] = &self.parties;
        let reading = Reading {
            counters: self.counters,
            period_ms: PERIOD_MS,
            is_final: false,
            reset: false,
            estimated: false,
        };
        self.provider.receipt(&p.key, NOW, lane, reading).unwrap()
    }

    /// Another period's use on the meters.
    fn use_more(&mut self) {
        for dimension in Dimension::ALL.into_iter().take(METERED) {
            let more = 1_000_003 + dimension.index() as u64;
            self.counters.set(dimension, self.counters.get(dimension) + more);
        }
    }

    /// The consumer takes a receipt.
    fn consume(&mut self, receipt: &SignedEntry) {
        deliver(&mut self.consumer, &receipt.bytes);
    }

    /// The consumer acknowledges all it has.
    fn ack(&mut self) -> SignedEntry {
        let [_, c] = &self.parties;
        self.consumer.ack(&c.key, NOW, &[]).unwrap().unwrap()
    }

    /// One receipt, from its counters to its acknowledgement held by the provider. Returns the bytes of both entries.
    fn co_sign(&mut self) -> usize {
        self.use_more();
        let receipt = self.receipt(self.lanes[0]);
        self.consume(&receipt);
        let ack = self.ack();
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

fn quote(provider: &Party, consumer: &Party, volume: u32) -> Quote {
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
        volume: volume.into(),
        salt: [3; 16],
        spec: Digest::of(b"the task"),
        request: [3; 16],
    }
}

fn agreement(index: u32) -> NewAgreement {
    NewAgreement {
        work: WorkId { run: [9; 16], step: 1, index, attempt: 1 },
        spec: Digest::of(b"the task"),
        // Above what is metered, so that no receipt is cut.
        caps: Caps { cpu_milli: 64_000, memory_bytes: 1 << 40, disk_bytes: 1 << 40, devices: 0 },
        max_amount: Amount::from_nano(1_000_000_000_000_000),
        max_duration_ms: 100 * 365 * 86_400_000,
        exposure: ExposurePolicy::Stop,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes of a bench are small")]
fn main() {
    let (measured, mut criterion) = measured::Measured::begin();
    let mut pair = Pair::new(1);
    let before = resident_bytes();
    let bytes = (0..PAIRS).map(|_| pair.co_sign() as f64).collect();
    // Each side holds both logs.
    let resident = (resident_bytes() - before) / 2.0 / f64::from(PAIRS);
    measure(&mut criterion, &pair);
    if !figure::is_asked_to_measure() {
        return;
    }
    if let Some(s) = measured.seconds(CO_SIGN) {
        let rate = format!("{:.0} receipts/s", 1.0 / s);
        figure::figure("accounting: co-sign, both sides in process", &rate, ">= 4000 /s");
    }
    for (per_ack, target) in [(1, ">= 3000 /s"), (16, ">= 10000 /s")] {
        durable(per_ack).report(per_ack, target);
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
    let name = format!("accounting: bytes of a receipt with its own ack, {METERED} dimensions");
    figure::figure(&name, &format!("{each:.0} B"), "<= 400 B");
    let name = "accounting: the same in memory, per side and with its index";
    figure::figure(name, &format!("{resident:.0} B"), "");
    report_sizes(&pair);
    for together in [1, 10] {
        if let Some(cores) = metering(together) {
            let name = format!("accounting: {LANES} lanes, stored receipts, {together} a commit");
            figure::figure(&name, &format!("{:.3} % of a core", cores * 100.0), "<= 0.5 %");
        }
    }
}

fn measure(criterion: &mut Criterion, pair: &Pair) {
    let mut fresh = Pair::new(1);
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

/// A provider's store, removed when the measurement ends.
struct Store {
    truth: Truth,
    _dir: tempfile::TempDir,
}

impl Store {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(figure::scratch()).unwrap();
        Self { truth: Truth::open(dir.path()).unwrap(), _dir: dir }
    }

    fn commit(&self, batch: Batch) {
        self.truth.commit(&[batch]).unwrap();
    }
}

/// Puts an entry where the engine does: channel, side, place.
fn put(batch: &mut Batch, channel: &[u8; 32], side: Side, seq: u64, bytes: &[u8]) {
    let side = [u8::from(side == Side::Consumer)];
    let key = [channel.as_slice(), &side, &seq.to_be_bytes()].concat();
    batch.put(Table::LedgerEntries, key, bytes);
}

fn put_entry(batch: &mut Batch, signed: &SignedEntry) {
    let entry = &signed.entry;
    put(batch, &entry.channel, entry.writer, entry.seq, &signed.bytes);
}

/// What a provider's part of co-signing costs with its store.
struct Durable {
    receipts: usize,
    spent: Duration,
    /// Each commit in seconds.
    commits: Vec<f64>,
}

impl Durable {
    #[expect(clippy::cast_precision_loss, reason = "counts of a bench are small")]
    fn report(self, per_ack: usize, target: &str) {
        let rate = self.receipts as f64 / self.spent.as_secs_f64();
        let name = format!("accounting: per node, durable, an ack per {per_ack}");
        let commit = figure::time(figure::median(self.commits));
        let value = format!("{rate:.0} receipts/s, commits of {commit}");
        figure::figure(&name, &value, target);
    }
}

/// Turns of a provider: new receipts are signed, acknowledgements of the last turn's are checked, and one commit makes both
/// durable before the receipts leave.
fn durable(per_ack: usize) -> Durable {
    let mut pair = Pair::new(1);
    let store = Store::new();
    let n_receipts = TURN * per_ack / (per_ack + 1);
    let mut out = Durable { receipts: 0, spent: Duration::ZERO, commits: Vec::new() };
    let mut acks: Vec<SignedEntry> = Vec::new();
    for _ in 0..TURNS {
        let begun = Instant::now();
        let mut batch = Batch::default();
        for ack in acks.drain(..) {
            deliver(&mut pair.provider, &ack.bytes);
            put_entry(&mut batch, &ack);
        }
        let mut receipts = Vec::new();
        for _ in 0..n_receipts {
            pair.use_more();
            let receipt = pair.receipt(pair.lanes[0]);
            put_entry(&mut batch, &receipt);
            receipts.push(receipt);
        }
        let before_commit = begun.elapsed();
        store.commit(batch);
        out.spent += begun.elapsed();
        out.commits.push((begun.elapsed() - before_commit).as_secs_f64());
        out.receipts += receipts.len();
        for some in receipts.chunks(per_ack) {
            some.iter().for_each(|receipt| pair.consume(receipt));
            acks.push(pair.ack());
        }
    }
    out
}

/// How large receipts are with an acknowledgement for 16 of them, and what a store of many of them takes.
#[expect(clippy::cast_precision_loss, reason = "bytes of a bench are small")]
fn report_sizes(pair: &Pair) {
    let middle = u64::from(PAIRS / 2);
    let len = |side| pair.provider.entries(side, middle).next().unwrap().bytes.len() as f64;
    let shared = len(Side::Provider) + len(Side::Consumer) / 16.0;
    let name = "accounting: bytes of a receipt with an ack per 16";
    figure::figure(name, &format!("{shared:.0} B"), "<= 400 B");
    for per_ack in [1, 16] {
        let name = format!("accounting: on disk with its index, an ack per {per_ack}");
        figure::figure(&name, &format!("{:.0} B", stored_bytes(pair, per_ack)), "<= 600 B");
    }
}

/// Bytes of the store's file for each of [`STORED`] receipts. The file grows in large steps, so this is the least over the
/// later half: what it is where the file is full.
#[expect(clippy::cast_precision_loss, reason = "counts and bytes of a bench are small")]
fn stored_bytes(pair: &Pair, per_ack: usize) -> f64 {
    let store = Store::new();
    let logs = Side::BOTH.map(|side| pair.log(side));
    // From the middle of the log on, where places and counters have their usual length.
    let bytes = |side: usize, index: usize| {
        let half = logs[side].len() / 2;
        &logs[side][half + index % half]
    };
    let (id, mut least) = (pair.provider.id(), f64::MAX);
    for begin in (0..STORED).step_by(TURN) {
        let mut batch = Batch::default();
        for index in begin..begin + TURN {
            put(&mut batch, id, Side::Provider, index as u64 + 1, bytes(0, index));
            if index % per_ack == 0 {
                put(&mut batch, id, Side::Consumer, index as u64 + 1, bytes(1, index));
            }
        }
        store.commit(batch);
        if begin > STORED / 2 {
            least = least.min(store.truth.size_bytes().unwrap() as f64 / (begin + TURN) as f64);
        }
    }
    least
}

/// The share of a core that writes receipts for [`LANES`] lanes, checks their acknowledgements and stores both, when as many
/// lanes as `together` fall into one commit. `None` where the system does not tell a thread's time.
fn metering(together: usize) -> Option<f64> {
    let mut pair = Pair::new(LANES);
    let store = Store::new();
    let rounds: Option<Vec<f64>> =
        (0..ROUNDS).map(|_| round(&mut pair, &store, together)).collect();
    #[expect(clippy::cast_precision_loss, reason = "ten seconds")]
    let period_s = PERIOD_MS as f64 / 1e3;
    rounds.map(|rounds| figure::median(rounds) / period_s)
}

/// Seconds of a processor for one receipt of every lane.
fn round(pair: &mut Pair, store: &Store, together: usize) -> Option<f64> {
    let mut busy = 0.0;
    pair.use_more();
    for lanes in pair.lanes.clone().chunks(together) {
        let begun = cpu_seconds()?;
        let receipts: Vec<SignedEntry> = lanes.iter().map(|lane| pair.receipt(*lane)).collect();
        commit_all(store, &receipts);
        busy += cpu_seconds()? - begun;
        receipts.iter().for_each(|receipt| pair.consume(receipt));
        let ack = pair.ack();
        let begun = cpu_seconds()?;
        deliver(&mut pair.provider, &ack.bytes);
        commit_all(store, &[ack]);
        busy += cpu_seconds()? - begun;
    }
    Some(busy)
}

fn commit_all(store: &Store, entries: &[SignedEntry]) {
    let mut batch = Batch::default();
    entries.iter().for_each(|entry| put_entry(&mut batch, entry));
    store.commit(batch);
}

/// Time that this thread was on a processor.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse::<f64>().ok().map(|ns| ns / 1e9)
}

/// Memory of this process that is in use; 0 where the system does not tell.
fn resident_bytes() -> f64 {
    const PAGE_LEN: f64 = 4096.0;
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok());
    pages.unwrap_or(0.0) * PAGE_LEN
}
