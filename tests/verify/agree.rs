//! That `verify.py`, which shares no code with us, says the same of every bundle as `accounting::verify`.
//!
//! One history with everything in it (receipts, exceptions, refusals, closes, a provider's fault, a tail) is changed in each entry and
//! each field, signed again with the right keys and linked again, so that not the signature but the rule in question decides. Both
//! verifiers must give the same verdict, the same totals, and find fault with the same entry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use accounting::channel::fence::{Fencing, Progress};
use accounting::entry::Hash;
use accounting::quote::Meter;
use accounting::{
    AckCode, AckException, Basis, Body, Caps, Channel, CloseReason, Counters, Dimension, Entry,
    ExposurePolicy, Manifest, NewAgreement, OpenTerms, PricePlan, PriceRow, Quote, Reading, Side,
    SignedEntry, WorkId, export, verify,
};
use catalog::cbor::{self, MapWriter};
use catalog::cert::{Authority, IssuerCert, NodeCert};
use catalog::envelope::{self, Typ};
use catalog::{Amount, Currency, Digest, NodeId};
use ed25519_dalek::SigningKey;

const NOW_MS: u64 = 1_790_000_000_000;
/// Kinds of items in a bundle, as `accounting::bundle` describes them.
const KIND_CHANNEL: u8 = 1;
const KIND_QUOTE: u8 = 2;
const KIND_LOGS: [u8; 2] = [3, 4];
const KIND_EVIDENCE: u8 = 5;
const KIND_SEAL: u8 = 9;
/// Length of the seal's item: two bytes, a header of two, the hash.
const SEAL_LEN: usize = 36;

#[test]
fn a_second_verifier_agrees_on_every_changed_entry() {
    let Some(python) = python() else { return };
    let history = History::new();
    let bundle = |log: &[(Side, Vec<u8>)]| history.bundle(&history.quote, log, &[]);
    let mut bundles = vec![("unchanged".to_owned(), bundle(&history.unchanged()))];
    for (index, (side, original)) in history.log.iter().enumerate() {
        let earlier = history.ack_of_less(index).map(|ack| ("one entry less acknowledged", ack));
        for (what, changed) in changes(&original.entry).into_iter().chain(earlier) {
            let log = history.with(index, &changed, key(*side));
            bundles.push((format!("entry {index}: {what}"), bundle(&log)));
        }
        let forged = history.with(index, &original.entry, &keys().stranger);
        bundles.push((format!("entry {index}: another's signature"), bundle(&forged)));
        let mut shorter = history.unchanged();
        shorter.remove(index);
        bundles.push((format!("entry {index}: left out"), bundle(&shorter)));
    }
    let verdicts = agree(&python, &bundles);
    assert_eq!(verdicts["unchanged"], 3);
    assert!(verdicts.values().filter(|code| **code == 1).count() > 200, "{verdicts:?}");
}

#[test]
fn a_second_verifier_agrees_on_quotes_frames_and_proofs_of_lying() {
    let Some(python) = python() else { return };
    let history = History::new();
    let (quote, log) = (&history.quote, history.unchanged());
    let mut bundles = vec![
        ("nothing".to_owned(), Vec::new()),
        ("as exported".to_owned(), history.exported.clone()),
        ("settled".to_owned(), history.settled.clone()),
        ("one channel twice".to_owned(), history.bundle_of(2, quote, &log, &[])),
        ("no channel".to_owned(), history.bundle_of(0, quote, &log, &[])),
        ("no entries".to_owned(), history.bundle(quote, &[], &[])),
        ("no open".to_owned(), history.bundle(quote, &log[1..], &[])),
        ("the provider lied".to_owned(), history.with_evidence(2, true)),
        ("the consumer lied".to_owned(), history.with_evidence(3, true)),
        ("evidence of nothing".to_owned(), history.with_evidence(2, false)),
    ];
    for (what, quote) in other_quotes() {
        bundles.push((format!("quote: {what}"), history.on(&quote)));
    }
    for at in (0..history.exported.len()).step_by(61) {
        let mut flipped = history.exported.clone();
        flipped[at] ^= 1 << (at % 8);
        bundles.push((format!("byte {at} changed, sealed again"), sealed_again(&flipped)));
        bundles.push((format!("byte {at} changed"), flipped));
        bundles.push((format!("cut at {at}"), history.exported[..at].to_vec()));
    }
    let verdicts = agree(&python, &bundles);
    assert_eq!((verdicts["settled"], verdicts["as exported"]), (0, 3));
    assert_eq!((verdicts["the provider lied"], verdicts["the consumer lied"]), (2, 2));
    assert_eq!(
        (verdicts["evidence of nothing"], verdicts["quote: a lease to the very end"]),
        (1, 3)
    );
}

#[test]
fn wrong_use_of_the_second_verifier_ends_with_64() {
    let Some(python) = python() else { return };
    for args in [&[][..], &["--json"], &["no/such/file"], &["a", "b"]] {
        let output = Command::new(&python).arg(script()).args(args).output();
        assert_eq!(output.expect("python starts").status.code(), Some(64), "{args:?}");
    }
}

/// Lets both verifiers check every bundle; returns the exit codes.
fn agree(python: &Path, bundles: &[(String, Vec<u8>)]) -> BTreeMap<String, u8> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (index, (_, bundle)) in bundles.iter().enumerate() {
        std::fs::write(dir.path().join(format!("{index:06}")), bundle).expect("room in /tmp");
    }
    // One process for all: the start of Python takes longer than a check.
    let code = "import contextlib, io, json, pathlib, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import verify
for path in sorted(pathlib.Path(sys.argv[2]).iterdir()):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = verify.main([str(path), '--json'])
    print(json.dumps([code, json.loads(out.getvalue())]))";
    let folder = script().parent().expect("a file has a folder").to_path_buf();
    let output = Command::new(python)
        .arg("-c")
        .arg(code)
        .arg(folder)
        .arg(dir.path())
        .output()
        .expect("python starts");
    let (said, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complaint}");
    assert_eq!(said.lines().count(), bundles.len(), "{complaint}");
    let mut verdicts = BTreeMap::new();
    for ((what, bundle), line) in bundles.iter().zip(said.lines()) {
        let (code, theirs): (u8, serde_json::Value) = serde_json::from_str(line).expect("JSON");
        let report = verify(bundle);
        let ours = serde_json::to_value(&report).expect("a report is plain data");
        assert_eq!(code, report.exit_code(), "{what}: {ours:#}\n{theirs:#}");
        for part in ["verdict", "manifest", "channels", "findings_omitted"] {
            assert_eq!(ours[part], theirs[part], "{what}: {part}");
        }
        assert_eq!(findings(&ours), findings(&theirs), "{what}");
        verdicts.insert(what.clone(), code);
    }
    verdicts
}

/// Where faults were found and of which kind; the sentences may differ.
fn findings(report: &serde_json::Value) -> Vec<String> {
    let list = report["findings"].as_array().expect("a list of findings");
    let mut places: Vec<String> = list
        .iter()
        .map(|f| {
            format!(
                "{} {} {} {} {}",
                f["item"], f["channel"], f["writer"], f["seq"], f["problem"]["kind"]
            )
        })
        .collect();
    places.sort();
    places
}

/// Every way in which one field of an entry is made wrong, or different.
fn changes(entry: &Entry) -> Vec<(&'static str, Entry)> {
    let mut out = Vec::new();
    let mut put = |what, change: &dyn Fn(&mut Entry)| {
        let mut changed = entry.clone();
        change(&mut changed);
        if changed != *entry && changed.seq > 0 {
            out.push((what, changed));
        }
    };
    put("seq up", &|e| e.seq += 1);
    put("seq down", &|e| e.seq -= 1);
    put("prev", &|e| e.prev[0] ^= 1);
    put("peer_seq up", &|e| e.peer_seq += 1);
    put("peer_seq far up", &|e| e.peer_seq += 1000);
    put("peer_seq down", &|e| e.peer_seq = e.peer_seq.saturating_sub(1));
    put("peer_head", &|e| e.peer_head[31] ^= 1);
    put("late", &|e| e.wall_ms += 1 << 40);
    put("incarnation", &|e| e.incarnation += 1);
    put("incarnation down", &|e| e.incarnation = e.incarnation.saturating_sub(1));
    put("channel", &|e| e.channel[5] ^= 1);
    put("writer", &|e| e.writer = e.writer.other());
    match &entry.body {
        Body::Open(_) => open_changes(&mut put),
        Body::Agreement(_) => agreement_changes(&mut put),
        Body::Receipt(_) => receipt_changes(&mut put),
        Body::Ack(_) => ack_changes(&mut put),
        Body::LaneClose(_) => close_changes(&mut put),
        Body::Fence(_) => fence_changes(&mut put),
        _ => unreachable!("the history has entries of six types"),
    }
    out
}

type Put<'a> = dyn FnMut(&'static str, &dyn Fn(&mut Entry)) + 'a;

macro_rules! put_body {
    ($put:expr, $kind:ident, $($what:literal => |$body:ident| $change:expr,)*) => {$(
        $put($what, &|entry: &mut Entry| if let Body::$kind($body) = &mut entry.body { $change });
    )*};
}

fn open_changes(put: &mut Put<'_>) {
    put_body!(put, Open,
        "another consumer" => |b| b.consumer = b.provider,
        "another certificate" => |b| b.provider_cert = b.consumer_cert.clone(),
        "a damaged certificate" => |b| b.consumer_cert[40] ^= 1,
        "another currency" => |b| b.currency = "USD".parse().expect("a currency"),
        "another nonce" => |b| b.nonce[0] ^= 1,
        "opened by the consumer" => |b| b.opened_by = Side::Consumer,
    );
}

fn agreement_changes(put: &mut Put<'_>) {
    put_body!(put, Agreement,
        "lane up" => |b| b.lane += 1,
        "lane down" => |b| b.lane -= 1,
        "another quote" => |b| b.quote[0] ^= 1,
        "another task" => |b| b.spec = Digest::of(b"other"),
        "a negative maximum" => |b| b.max_amount = Amount::from_nano(-1),
        "a small maximum" => |b| b.max_amount = Amount::from_nano(3),
        "no time" => |b| b.max_duration_ms = 0,
        "no CPU" => |b| b.caps.cpu_milli = 0,
        // Lane 1 uses 11 s of CPU in the first 10 s, to which the slack adds 1 s and the widening a tenth.
        "just enough CPU" => |b| b.caps.cpu_milli = 910,
        "just too little CPU" => |b| b.caps.cpu_milli = 909,
        "no memory" => |b| b.caps.memory_bytes = 0,
        "another attempt" => |b| b.work.attempt += 1,
    );
}

fn receipt_changes(put: &mut Put<'_>) {
    put_body!(put, Receipt,
        "lane up" => |b| b.lane += 1,
        "lane_seq up" => |b| b.lane_seq += 1,
        "lane_seq down" => |b| b.lane_seq -= 1,
        "an endless period" => |b| b.period_ms = u64::MAX,
        "no period" => |b| b.period_ms = 0,
        "a nano-unit more" => |b| b.amount = b.amount.saturating_add(Amount::from_nano(1)),
        "a nano-unit less" => |b| b.amount = b.amount.saturating_add(Amount::from_nano(-1)),
        "more CPU" => |b| b.counters = b.counters.with(Dimension::Cpu, b.counters.get(Dimension::Cpu) * 9),
        "no CPU" => |b| b.counters = b.counters.with(Dimension::Cpu, 0),
        "more of what is free" => |b| b.counters = b.counters.with(Dimension::Requests, 7),
        "final" => |b| b.is_final = true,
        "not final" => |b| b.is_final = false,
        "estimated" => |b| b.estimated = true,
    );
}

fn ack_changes(put: &mut Put<'_>) {
    let exception =
        |lane, last_ok_lane_seq| AckException { lane, last_ok_lane_seq, code: AckCode::Usage };
    put_body!(put, Ack,
        "a larger total" => |b| b.accepted_total = b.accepted_total.saturating_add(Amount::from_nano(1)),
        "a negative total" => |b| b.accepted_total = Amount::from_nano(-1),
        "without exceptions" => |b| b.exceptions.clear(),
        "an exception for no lane" => |b| b.exceptions = vec![exception(99, 0)],
        "all of lane 1 refused" => |b| b.exceptions = vec![exception(1, 0)],
        "lane 1 accepted to its first" => |b| b.exceptions = vec![exception(1, 1)],
        "lane 2 accepted to its first" => |b| b.exceptions = vec![exception(2, 1)],
        "lane 2 accepted too far" => |b| b.exceptions = vec![exception(2, 9)],
        "lane 3 refused" => |b| b.exceptions = vec![exception(3, 0)],
    );
}

fn close_changes(put: &mut Put<'_>) {
    put_body!(put, LaneClose,
        "lane up" => |b| b.lane += 1,
        "provider's fault" => |b| b.reason = CloseReason::ProviderFault,
        "completed" => |b| b.reason = CloseReason::Completed,
        "another receipt" => |b| b.last_receipt[0] ^= 1,
        "lane_seq up" => |b| b.lane_seq += 1,
        "a nano-unit more" => |b| b.amount = b.amount.saturating_add(Amount::from_nano(1)),
        "free" => |b| b.amount = Amount::ZERO,
    );
}

fn fence_changes(put: &mut Put<'_>) {
    put_body!(put, Fence,
        "another token" => |b| b.token[0] ^= 1,
        "the token of the first fence" => |b| b.token = [1; 16],
        "the same incarnation" => |b| b.incarnation -= 1,
        "an incarnation left out" => |b| b.incarnation += 1,
        "seq down" => |b| b.seq -= 1,
        "seq up" => |b| b.seq += 1,
        "head" => |b| b.head[7] ^= 1,
    );
}

struct Keys {
    orgs: [SigningKey; 2],
    nodes: [SigningKey; 2],
    stranger: SigningKey,
    issuer: SigningKey,
}

fn keys() -> &'static Keys {
    static KEYS: std::sync::OnceLock<Keys> = std::sync::OnceLock::new();
    let seed = |n| SigningKey::from_bytes(&[n; 32]);
    KEYS.get_or_init(|| Keys {
        orgs: [seed(1), seed(2)],
        nodes: [seed(3), seed(4)],
        stranger: seed(5),
        issuer: seed(6),
    })
}

fn key(side: Side) -> &'static SigningKey {
    &keys().nodes[usize::from(side == Side::Consumer)]
}

fn cert(index: usize) -> Vec<u8> {
    let name = |words: [&str; 2]| words[index].to_owned();
    let cert = NodeCert {
        org: keys().orgs[index].verifying_key().into(),
        org_name: name(["Forge", "Università"]),
        name: name(["rack-7", "laptop"]),
        node: keys().nodes[index].verifying_key().into(),
        generation: 1,
        roles: vec!["edge".to_owned()],
        realms: Vec::new(),
        not_before_ms: NOW_MS - 1000,
        not_after_ms: NOW_MS + 86_400_000,
        serial: 7,
        issuer: None,
        successions: None,
    };
    // One side has its certificate from the organisation's root, the other from an issuer.
    let authority = if index == 0 {
        Authority::root(keys().orgs[0].clone())
    } else {
        let issuer = IssuerCert {
            org: keys().orgs[1].verifying_key().into(),
            key: keys().issuer.verifying_key().to_bytes(),
            not_before_ms: NOW_MS - 2000,
            not_after_ms: NOW_MS + 2 * 86_400_000,
            serial: 1,
        };
        Authority::issuer(keys().issuer.clone(), issuer.sign(&keys().orgs[1]))
            .expect("the issuer is of this organisation")
    };
    authority.certify(cert).1
}

fn quote() -> Quote {
    let row = |dimension, basis, amount_nano, per| PriceRow { dimension, basis, amount_nano, per };
    Quote {
        offer_id: [1; 16],
        provider: key(Side::Provider).verifying_key().into(),
        provider_org: keys().orgs[0].verifying_key().into(),
        consumer: key(Side::Consumer).verifying_key().into(),
        plan: PricePlan {
            rows: vec![
                row(Dimension::Cpu, Basis::Used, 20_000_000, 3_600_000_003),
                row(Dimension::Mem, Basis::Allocated, 3_000_000, 3_600 << 10),
            ],
            fixed: Amount::from_nano(11),
            minimum: Amount::from_nano(1_000),
            granularity_ms: 7_000,
            ..PricePlan::default()
        },
        meters: Vec::new(),
        valid_until_ms: NOW_MS + 60_000,
        volume: 4,
        salt: [2; 16],
        spec: Digest::of(b"task"),
        request: [3; 16],
    }
}

/// What both sides of a channel signed, in the order in which they did.
struct History {
    id: Hash,
    quote: Vec<u8>,
    log: Vec<(Side, SignedEntry)>,
    exported: Vec<u8>,
    /// The bundle at a moment when everything was acknowledged.
    settled: Vec<u8>,
}

/// A channel in the making.
struct Pair {
    provider: Channel,
    consumer: Channel,
    quote: Vec<u8>,
    log: Vec<(Side, SignedEntry)>,
}

impl Pair {
    fn open(quote: Vec<u8>) -> Self {
        let terms = OpenTerms {
            consumer: key(Side::Consumer).verifying_key().into(),
            provider_cert: cert(0),
            consumer_cert: cert(1),
            currency: Currency::EUR,
            nonce: [9; 16],
        };
        let (mut provider, first) =
            Channel::open(key(Side::Provider), terms, NOW_MS).expect("opens");
        let me = key(Side::Consumer).verifying_key().into();
        let (mut consumer, answer) =
            Channel::accept(key(Side::Consumer), me, &first.bytes, NOW_MS).expect("accepts");
        provider.handle_entry(&answer[0].bytes, NOW_MS).expect("is answered");
        consumer.learn_quote(&quote).expect("a quote");
        let log = vec![(Side::Provider, first), (Side::Consumer, answer[0].clone())];
        Self { provider, consumer, quote, log }
    }

    fn provide(&mut self, entry: SignedEntry) {
        self.consumer.handle_entry(&entry.bytes, NOW_MS).expect("the consumer takes it");
        self.log.push((Side::Provider, entry));
    }

    fn propose(&mut self, index: u32) {
        let agreement = NewAgreement {
            work: WorkId { run: [6; 16], step: 2, index, attempt: 1 },
            spec: Digest::of(b"task"),
            caps: Caps { cpu_milli: 2000, memory_bytes: 64 << 20, disk_bytes: 1 << 20, devices: 2 },
            max_amount: Amount::from_nano(1_000_000),
            max_duration_ms: 60_000,
            exposure: ExposurePolicy::Stop,
        };
        let entry =
            self.provider.propose(key(Side::Provider), NOW_MS, agreement, self.quote.clone());
        self.provide(entry.expect("a proposal"));
    }

    fn receipt(&mut self, lane: u64, seconds: u64, is_final: bool) {
        let before = self.provider.lane(lane).expect("the lane").elapsed_ms;
        let counters = Counters::default()
            .with(Dimension::Cpu, before * 1100 + seconds * 1_100_000)
            .with(Dimension::Mem, (before / 1000 + seconds) * (64 << 10))
            .with(Dimension::NetOut, before * 3);
        let reading = Reading {
            counters,
            period_ms: seconds * 1000,
            is_final,
            reset: false,
            estimated: false,
        };
        let entry = self.provider.receipt(key(Side::Provider), NOW_MS, lane, reading);
        self.provide(entry.expect("a receipt"));
    }

    fn close(&mut self, lane: u64, reason: CloseReason) {
        let entry = self.provider.close_lane(key(Side::Provider), NOW_MS, lane, reason);
        self.provide(entry.expect("a close"));
    }

    fn ack(&mut self, exceptions: &[(u64, u64)]) {
        let exception = |&(lane, last_ok_lane_seq)| AckException {
            lane,
            last_ok_lane_seq,
            code: AckCode::Time,
        };
        let list: Vec<AckException> = exceptions.iter().map(exception).collect();
        let entry =
            self.consumer.ack(key(Side::Consumer), NOW_MS, &list).expect("an ack").expect("news");
        self.provider.handle_entry(&entry.bytes, NOW_MS).expect("the provider takes it");
        self.log.push((Side::Consumer, entry));
    }

    /// This side's store is put back from a backup that lacks nothing; its peer fences it.
    fn set_back(&mut self, side: Side, token: u8) {
        let (held, peer) = match side {
            Side::Provider => (&mut self.provider, &mut self.consumer),
            Side::Consumer => (&mut self.consumer, &mut self.provider),
        };
        let nodes = (peer.peer(), held.peer());
        let mut fencing = Fencing::new(nodes, *held.id(), [token; 16], Some(held));
        let request = fencing.request();
        let (fence, answer) =
            peer.answer_fence(key(side.other()), NOW_MS, &request).expect("a fence");
        let Ok(Progress::Adopted(adopted)) = fencing.handle_answer(&answer) else {
            panic!("one answer is enough")
        };
        *held = *adopted;
        self.log.push((side.other(), fence.expect("a new token")));
    }

    fn export(&self) -> Vec<u8> {
        let by = key(Side::Consumer).verifying_key().into();
        export(Manifest { exported_ms: NOW_MS, by }, &[&self.provider])
    }
}

impl History {
    fn new() -> Self {
        let mut pair = Pair::open(quote().sign(key(Side::Provider)));
        pair.propose(0);
        pair.ack(&[]);
        pair.receipt(1, 10, false);
        pair.set_back(Side::Provider, 1);
        pair.propose(1);
        pair.ack(&[]);
        pair.receipt(1, 3, true);
        pair.receipt(2, 10, false);
        pair.close(1, CloseReason::Completed);
        pair.ack(&[]);
        pair.propose(2);
        pair.set_back(Side::Consumer, 1);
        pair.ack(&[(3, 0)]);
        pair.set_back(Side::Provider, 2);
        pair.close(3, CloseReason::Superseded);
        pair.receipt(2, 10, false);
        pair.receipt(2, 10, false);
        pair.ack(&[(2, 2)]);
        pair.ack(&[]);
        pair.propose(3);
        pair.ack(&[]);
        pair.receipt(4, 1, false);
        pair.ack(&[]);
        pair.close(4, CloseReason::ProviderFault);
        pair.ack(&[]);
        let settled = pair.export();
        pair.receipt(2, 5, true);
        pair.close(2, CloseReason::Failed);
        let (id, exported) = (*pair.provider.id(), pair.export());
        Self { id, quote: pair.quote, log: pair.log, exported, settled }
    }

    /// The envelopes with the entry at `index` replaced and signed by `signer`, and everything after it linked to what then stands
    /// there.
    fn with(&self, index: usize, changed: &Entry, signer: &SigningKey) -> Vec<(Side, Vec<u8>)> {
        let mut hashes = BTreeMap::new();
        let mut log = Vec::new();
        for (at, (side, original)) in self.log.iter().enumerate() {
            let bytes = if at < index {
                original.bytes.clone()
            } else if at == index {
                sign(changed, signer)
            } else {
                sign(&linked(&original.entry, &hashes), key(*side))
            };
            hashes.insert(original.hash, envelope::hash(&bytes));
            log.push((*side, bytes));
        }
        log
    }

    /// The acknowledgement at `index`, but up to one entry before the one it names.
    fn ack_of_less(&self, index: usize) -> Option<Entry> {
        let mut entry = self.log[index].1.entry.clone();
        if !matches!(entry.body, Body::Ack(_)) {
            return None;
        }
        entry.peer_seq -= 1;
        let is_named = |(side, e): &&(Side, SignedEntry)| {
            *side == Side::Provider && e.entry.seq == entry.peer_seq
        };
        entry.peer_head = self.log.iter().find(is_named)?.1.hash;
        Some(entry)
    }

    fn unchanged(&self) -> Vec<(Side, Vec<u8>)> {
        self.log.iter().map(|(side, entry)| (*side, entry.bytes.clone())).collect()
    }

    /// A bundle that `export` would not write.
    fn bundle(&self, quote: &[u8], log: &[(Side, Vec<u8>)], evidence: &[Vec<u8>]) -> Vec<u8> {
        self.bundle_of(1, quote, log, evidence)
    }

    fn bundle_of(
        &self,
        times: u64,
        quote: &[u8],
        log: &[(Side, Vec<u8>)],
        evidence: &[Vec<u8>],
    ) -> Vec<u8> {
        let manifest = MapWriter::new()
            .put(1, &1u64)
            .put(2, &NOW_MS)
            .put(3, &NodeId::from(key(Side::Consumer).verifying_key()))
            .put(4, &times)
            .encode();
        let mut out = [&[0x82, 0][..], &manifest].concat();
        for _ in 0..times {
            push(&mut out, KIND_CHANNEL, &self.id);
            push(&mut out, KIND_QUOTE, quote);
            for side in Side::BOTH {
                let entries = log.iter().filter(|(writer, _)| *writer == side);
                entries.for_each(|(_, bytes)| {
                    push(&mut out, KIND_LOGS[usize::from(side == Side::Consumer)], bytes)
                });
            }
            evidence.iter().for_each(|bytes| push(&mut out, KIND_EVIDENCE, bytes));
        }
        seal(&mut out);
        out
    }

    /// Whether two entries of one place are in the bundle, and not the same one twice.
    fn with_evidence(&self, index: usize, is_another: bool) -> Vec<u8> {
        let (side, original) = &self.log[index];
        let mut entry = original.entry.clone();
        entry.wall_ms += u64::from(is_another);
        self.bundle(&self.quote, &self.unchanged(), &[sign(&entry, key(*side))])
    }

    /// The history on another quote, which its agreements name.
    fn on(&self, quote: &[u8]) -> Vec<u8> {
        let mut log: Vec<(Side, Vec<u8>)> = Vec::new();
        let mut hashes = BTreeMap::from([(envelope::hash(&self.quote), envelope::hash(quote))]);
        for (side, original) in &self.log {
            let bytes = sign(&linked(&original.entry, &hashes), key(*side));
            hashes.insert(original.hash, envelope::hash(&bytes));
            log.push((*side, bytes));
        }
        self.bundle(quote, &log, &[])
    }
}

fn sign(entry: &Entry, signer: &SigningKey) -> Vec<u8> {
    envelope::sign(signer, Typ::Entry, entry.encode())
}

/// The entry with every hash it names replaced by the one that stands for it.
fn linked(entry: &Entry, hashes: &BTreeMap<Hash, Hash>) -> Entry {
    let mut entry = entry.clone();
    let follow = |hash: &mut Hash| *hash = hashes.get(hash).copied().unwrap_or(*hash);
    follow(&mut entry.prev);
    follow(&mut entry.peer_head);
    match &mut entry.body {
        Body::Agreement(agreement) => follow(&mut agreement.quote),
        Body::Fence(fence) => follow(&mut fence.head),
        Body::LaneClose(close) => follow(&mut close.last_receipt),
        _ => {}
    }
    entry
}

fn push(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.extend([0x82, kind]);
    cbor::write_bytes(out, bytes);
}

fn seal(out: &mut Vec<u8>) {
    let hash = envelope::hash(out);
    push(out, KIND_SEAL, &hash);
}

/// The bundle with a right seal in place of its last item.
fn sealed_again(bundle: &[u8]) -> Vec<u8> {
    let mut out = bundle[..bundle.len() - SEAL_LEN].to_vec();
    seal(&mut out);
    out
}

/// Quotes that are wrong, or good for something else.
fn other_quotes() -> Vec<(&'static str, Vec<u8>)> {
    let mut out = Vec::new();
    let mut put = |what, change: &dyn Fn(&mut Quote)| {
        let mut changed = quote();
        change(&mut changed);
        out.push((what, changed.sign(key(Side::Provider))));
    };
    let meter = |dimension| Meter { dimension, id: "clock/1".to_owned() };
    put("the same with another salt", &|q| q.salt = [8; 16]);
    put("with meters", &|q| q.meters = vec![meter(Dimension::Cpu), meter(Dimension::Mem)]);
    put("meters out of order", &|q| q.meters = vec![meter(Dimension::Mem), meter(Dimension::Cpu)]);
    put("a meter with a long name", &|q| {
        q.meters = vec![Meter { dimension: Dimension::Cpu, id: "m".repeat(65) }];
    });
    put("another provider", &|q| q.provider = q.consumer);
    put("another organisation", &|q| q.provider_org = keys().orgs[1].verifying_key().into());
    put("another consumer", &|q| q.consumer = q.provider);
    put("another currency", &|q| q.plan.currency = "USD".parse().expect("a currency"));
    put("another task", &|q| q.spec = Digest::of(b"other"));
    put("a lease that ran out", &|q| q.valid_until_ms = NOW_MS - 1);
    put("a lease to the very end", &|q| q.valid_until_ms = NOW_MS);
    put("too small a volume", &|q| q.volume = 3);
    put("no volume", &|q| q.volume = 0);
    put("a negative base price", &|q| q.plan.fixed = Amount::from_nano(-1));
    put("a higher base price", &|q| q.plan.fixed = Amount::from_nano(12));
    put("a negative minimum", &|q| q.plan.minimum = Amount::from_nano(-1));
    put("another minimum", &|q| q.plan.minimum = Amount::from_nano(900_000));
    put("a negative price", &|q| q.plan.rows[0].amount_nano = -1);
    put("a price per nothing", &|q| q.plan.rows[0].per = 0);
    put("rows out of order", &|q| q.plan.rows.reverse());
    put("another basis", &|q| q.plan.rows[1].basis = Basis::Used);
    put("another granularity", &|q| q.plan.granularity_ms = 1);
    put("a granularity of two days", &|q| q.plan.granularity_ms = 2 * 86_400_000);
    put("a short interval", &|q| q.plan.interval_ms = 999);
    put("a timeout below the interval", &|q| q.plan.ack_timeout_ms = 9_999);
    put("a long window for disputes", &|q| q.plan.dispute_window_s = 31_622_401);
    out.push(("signed by another", quote().sign(&keys().stranger)));
    out
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("verify/verify.py")
}

/// A Python with the two libraries: the one that `tests/run` made, or the machine's. `None`, and a word about it, without.
fn python() -> Option<PathBuf> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/bin/python");
    let has_libraries = |python: &Path| {
        let import = Command::new(python).args(["-c", "import cbor2, cryptography"]).output();
        import.is_ok_and(|output| output.status.success())
    };
    let found = [made, PathBuf::from("python3")].into_iter().find(|python| has_libraries(python));
    if found.is_none() {
        println!("skipped: there is no Python with cbor2 and cryptography (tests/run makes one)");
    }
    found
}
