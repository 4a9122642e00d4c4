//! Two parties of a channel with fixed keys, and what tests do with them.

use accounting::price::PriceRow;
use accounting::quote::Meter;
use accounting::{
    Basis, Caps, Channel, Counters, Dimension, Entry, ExposurePolicy, Manifest, NewAgreement,
    OpenTerms, PricePlan, Quote, Reading, Received, SignedEntry, WorkId,
};
use catalog::cert::NodeCert;
use catalog::envelope::{self, Typ};
use catalog::{Amount, Currency, Digest, NodeId, OrgId};
use ed25519_dalek::SigningKey;

/// The tests' moment, Unix milliseconds.
pub(crate) const NOW: u64 = 1_800_000_000_000;

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn node(seed: u8) -> NodeId {
    key(seed).verifying_key().into()
}

pub(crate) fn org(seed: u8) -> OrgId {
    key(seed.wrapping_add(100)).verifying_key().into()
}

/// The certificate of node `seed`, whose organisation's key has the seed 100 above.
pub(crate) fn cert(seed: u8) -> Vec<u8> {
    let cert = NodeCert {
        org: org(seed),
        org_name: format!("Org {seed}"),
        name: format!("node-{seed}"),
        node: node(seed),
        generation: 1,
        roles: Vec::new(),
        realms: Vec::new(),
        not_before_ms: NOW - 3_600_000,
        not_after_ms: NOW + 20 * 86_400_000,
        serial: u64::from(seed),
        issuer: None,
        successions: None,
    };
    cert.sign(&key(seed.wrapping_add(100)))
}

pub(crate) const PROVIDER: u8 = 1;
pub(crate) const CONSUMER: u8 = 2;

pub(crate) fn plan() -> PricePlan {
    let row = |dimension, basis, amount_nano, per| PriceRow { dimension, basis, amount_nano, per };
    PricePlan {
        rows: vec![
            row(Dimension::Cpu, Basis::Used, 7, 1_000),
            row(Dimension::VcpuAlloc, Basis::Allocated, 3, 1_000),
            row(Dimension::NetOut, Basis::Used, 1, 3),
        ],
        fixed: Amount::from_nano(100),
        minimum: Amount::from_nano(5_000),
        granularity_ms: 1_000,
        ..PricePlan::default()
    }
}

pub(crate) fn spec() -> Digest {
    Digest::of(b"the task")
}

/// A quote of the provider for the consumer, told apart by its salt.
pub(crate) fn quote(salt: u8) -> Quote {
    Quote {
        offer_id: [salt; 16],
        provider: node(PROVIDER),
        provider_org: org(PROVIDER),
        consumer: node(CONSUMER),
        plan: plan(),
        meters: vec![Meter { dimension: Dimension::Cpu, id: "thread".to_owned() }],
        valid_until_ms: NOW + 60_000,
        volume: 1,
        salt: [salt; 16],
        spec: spec(),
        request: [salt; 16],
    }
}

pub(crate) fn agreement(attempt: u32) -> NewAgreement {
    NewAgreement {
        work: WorkId { run: [9; 16], step: 1, index: 2, attempt },
        spec: spec(),
        caps: Caps { cpu_milli: 2_000, memory_bytes: 64 << 20, disk_bytes: 1 << 30, devices: 0 },
        max_amount: Amount::from_nano(1_000_000_000),
        max_duration_ms: 3_600_000,
        exposure: ExposurePolicy::Stop,
    }
}

pub(crate) fn reading(cpu: u64, net_out: u64, is_final: bool) -> Reading {
    let counters = Counters::default()
        .with(Dimension::Cpu, cpu)
        .with(Dimension::VcpuAlloc, cpu)
        .with(Dimension::Mem, cpu / 1_000)
        .with(Dimension::NetOut, net_out);
    Reading { counters, period_ms: 10_000, is_final, reset: false, estimated: false }
}

/// Both sides of one channel.
pub(crate) struct Pair {
    pub(crate) provider: Channel,
    pub(crate) consumer: Channel,
}

pub(crate) fn terms() -> OpenTerms {
    OpenTerms {
        consumer: node(CONSUMER),
        provider_cert: cert(PROVIDER),
        consumer_cert: cert(CONSUMER),
        currency: Currency::EUR,
        nonce: [5; 16],
    }
}

impl Pair {
    /// A channel that both sides opened.
    pub(crate) fn new() -> Self {
        let (mut provider, open) = Channel::open(&key(PROVIDER), terms(), NOW).unwrap();
        let (consumer, own) =
            Channel::accept(&key(CONSUMER), node(CONSUMER), &open.bytes, NOW + 1).unwrap();
        for entry in own {
            assert!(matches!(
                provider.handle_entry(&entry.bytes, NOW + 2),
                Ok(Received::New { .. })
            ));
        }
        Self { provider, consumer }
    }

    /// Proposes a lane on a fresh quote; the consumer takes it, without acknowledging.
    pub(crate) fn propose(&mut self, salt: u8) -> u64 {
        let bytes = quote(salt).sign(&key(PROVIDER));
        self.consumer.learn_quote(&bytes).unwrap();
        let entry = self
            .provider
            .propose(&key(PROVIDER), NOW + 10, agreement(u32::from(salt)), bytes)
            .unwrap();
        self.deliver(&entry);
        self.provider.lane_of(&agreement(u32::from(salt)).work).unwrap()
    }

    /// An agreed lane.
    pub(crate) fn agree(&mut self, salt: u8) -> u64 {
        let lane = self.propose(salt);
        self.ack(&[]);
        lane
    }

    pub(crate) fn receipt(&mut self, lane: u64, reading: Reading) -> SignedEntry {
        let entry = self.provider.receipt(&key(PROVIDER), NOW + 20, lane, reading).unwrap();
        self.deliver(&entry);
        entry
    }

    pub(crate) fn close(&mut self, lane: u64, reason: accounting::CloseReason) -> SignedEntry {
        let entry = self.provider.close_lane(&key(PROVIDER), NOW + 30, lane, reason).unwrap();
        self.deliver(&entry);
        entry
    }

    pub(crate) fn ack(&mut self, exceptions: &[accounting::AckException]) -> SignedEntry {
        let entry = self.consumer.ack(&key(CONSUMER), NOW + 40, exceptions).unwrap().unwrap();
        let received = self.provider.handle_entry(&entry.bytes, NOW + 41);
        assert!(matches!(received, Ok(Received::New { .. })), "{received:?}");
        self.assert_mirrored();
        entry
    }

    pub(crate) fn deliver(&mut self, entry: &SignedEntry) {
        let received = self.consumer.handle_entry(&entry.bytes, NOW + 11);
        assert!(matches!(received, Ok(Received::New { .. })), "{received:?}");
    }

    /// Equal heads, equal state.
    pub(crate) fn assert_mirrored(&self) {
        assert_eq!(self.provider.own_head(), self.consumer.peer_head());
        assert_eq!(self.provider.peer_head(), self.consumer.own_head());
        assert_eq!(self.provider.state_hash(), self.consumer.state_hash());
        assert_eq!(self.provider.unacked(), self.consumer.unacked());
    }
}

/// What a lying party would send: any entry, signed.
pub(crate) fn forge(entry: &Entry, seed: u8) -> Vec<u8> {
    envelope::sign(&key(seed), Typ::Entry, entry.encode())
}

pub(crate) fn manifest() -> Manifest {
    Manifest { exported_ms: NOW + 100, by: node(PROVIDER) }
}

/// Stored envelopes.
type Stored = Vec<Vec<u8>>;

/// The stored bytes of a side: its own log, its peer's, and the quotes.
pub(crate) fn stored(channel: &Channel) -> (Stored, Stored, Stored) {
    let log = |side| channel.entries(side, 0).map(|e| e.bytes.to_vec()).collect::<Vec<_>>();
    let quotes = channel.used_quotes().map(|(_, bytes)| bytes.to_vec()).collect();
    (log(channel.side()), log(channel.side().other()), quotes)
}
