//! Two engines and what a hostile peer may try on one of them: nothing is believed, the lie is named, the liar is counted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};

use accounting::{
    Counters, Dimension, Entry, PricePlan, Quote, Refusal, RefusalCode, Side, SignedEntry,
};
use catalog::cert::{Hello, HelloReply, NodeCert, RefuseCode};
use catalog::record::{
    AlgorithmDetail, ComputeDetail, Detail, Insiders, Maturity, Resource, Visibility,
};
use catalog::{Amount, Digest, Fault, NodeId, OrgId};
use ed25519_dalek::SigningKey;
use node::engine::command::{Command, Response};
use node::engine::message::{Bytes, FenceMessage, LedgerMessage, NodeMessage};
use node::engine::relations::{RelationChange, Stance};
use node::engine::trust;
use node::engine::variants;
use node::engine::{Effect, Effects, Engine, FetchJob, Input, Papers, Settings, Stored, Verdict};
use node::store::batch::{Batch, Table};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use scheduler::negotiate::{self, Outcome};
use scheduler::run::Submission;
use scheduler::task::{AttemptId, Needs, Program, RunId, Stage, TaskId, TaskSpec};
use scheduler::value::{DirRef, FileRef};

const NOW_MS: u64 = 1_800_000_000_000;

struct Peer {
    engine: Engine,
    rng: ChaCha8Rng,
    now_ms: u64,
    /// Everything it ever wanted done, in order.
    log: Vec<Effect>,
    settings: Settings,
    disk: Disk,
    /// What it says that each task has used.
    claims: Counters,
}

/// What a store holds, by table.
type Disk = BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>;

impl Peer {
    fn new(seed: u8) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(u64::from(seed));
        let settings = Settings {
            papers: Papers::root(SigningKey::from_bytes(&[seed; 32])),
            node_key: node_key(seed),
            former: Vec::new(),
            org_name: format!("Org {seed}"),
            node_name: "node-1".to_owned(),
            price_plan: PricePlan::default(),
            compute: ComputeDetail {
                arch: "x86_64".to_owned(),
                runtimes: vec!["wasi".to_owned()],
                cpu_milli: 2_000,
                memory_bytes: 4 << 30,
                disk_bytes: 4 << 30,
                ..ComputeDetail::default()
            },
            tasks_max: 8,
            blocked: BTreeSet::new(),
            revocations: None,
            offers: node::engine::ports::Offers::default(),
            light: None,
        };
        let (engine, effects) =
            Engine::recover(settings.clone(), &Stored::default(), NOW_MS, &mut rng).unwrap();
        let (log, disk) = (effects.list, Disk::new());
        let claims = Counters::default();
        let mut peer = Self { engine, rng, now_ms: NOW_MS, log, settings, disk, claims };
        peer.commit(&effects.batch);
        peer.handle(Input::Listening { addresses: vec![format!("/sim/{seed}")] });
        peer
    }

    fn id(&self) -> NodeId {
        self.engine.me()
    }

    fn handle(&mut self, input: Input) -> Effects {
        let effects = self.engine.handle(self.now_ms, &mut self.rng, input);
        self.commit(&effects.batch);
        self.log.extend(effects.list.iter().cloned());
        effects
    }

    fn commit(&mut self, batch: &Batch) {
        for op in &batch.ops {
            let rows = self.disk.entry(op.table).or_default();
            match &op.value {
                Some(value) => rows.insert(op.key.clone(), value.clone()),
                None => rows.remove(&op.key),
            };
        }
    }

    /// The process dies and starts again from this store, or from its own.
    fn restart(&mut self, backup: Option<Disk>) {
        let is_set_back = backup.is_some();
        self.disk = backup.unwrap_or_else(|| self.disk.clone());
        let rows = |rows: &BTreeMap<Vec<u8>, Vec<u8>>| {
            rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let tables = self.disk.iter().map(|(table, of)| (*table, rows(of))).collect();
        let stored = Stored { tables, is_set_back };
        self.now_ms += 5_000;
        let settings = self.settings.clone();
        let (engine, effects) =
            Engine::recover(settings, &stored, self.now_ms, &mut self.rng).unwrap();
        self.engine = engine;
        self.commit(&effects.batch);
        self.log.extend(effects.list);
        let addresses = vec![format!("/sim/{}", self.id())];
        self.handle(Input::Listening { addresses });
    }

    /// State and reason of its only channel, as `ledger show` has them.
    fn channel(&mut self) -> (String, Option<String>) {
        let shown = self.ask(Command::Ledger).into_iter().find_map(|effect| match effect {
            Effect::Reply { result: Ok(Response::Ledger(channels)), .. } => Some(channels),
            _ => None,
        });
        let [channel] = <[_; 1]>::try_from(shown.unwrap()).unwrap();
        (channel.state, channel.reason)
    }

    fn ask(&mut self, command: Command) -> Vec<Effect> {
        self.handle(Input::Command { id: 1, command }).list
    }

    fn greet(&mut self, peer: NodeId, hello: Vec<u8>) -> (bool, HelloReply) {
        let effects = self.handle(Input::Hello { token: 1, peer, payload: hello });
        let found = effects.list.into_iter().find_map(|effect| match effect {
            Effect::Greet { is_welcome, reply, .. } => Some((is_welcome, reply)),
            _ => None,
        });
        let (is_welcome, reply) = found.unwrap();
        (is_welcome, HelloReply::decode(&reply).unwrap())
    }
}

fn node_key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed | 0x80; 32])
}

fn penalties(effects: &Effects) -> usize {
    effects.list.iter().filter(|e| matches!(e, Effect::Penalize { .. })).count()
}

/// Two nodes of two organisations in one realm, connected.
fn joined() -> (Peer, Peer) {
    let (mut host, mut guest) = (Peer::new(1), Peer::new(2));
    let invited = host.ask(Command::Invite { valid_ms: 60_000, is_asking: false });
    let ticket = invited.into_iter().find_map(|effect| match effect {
        Effect::Reply { result: Ok(Response::Ticket(ticket)), .. } => Some(ticket),
        _ => None,
    });
    let joining = guest.ask(Command::Join { ticket: ticket.unwrap() });
    let hello = joining.into_iter().find_map(|effect| match effect {
        Effect::Connect { hello: Some(hello), .. } => Some(hello),
        _ => None,
    });
    let (is_welcome, reply) = host.greet(guest.id(), hello.unwrap());
    assert!(is_welcome, "{reply:?}");
    guest.handle(Input::ConnectEnded { peer: host.id(), result: Ok(reply.encode()) });
    let (host_id, guest_id) = (host.id(), guest.id());
    host.handle(Input::Connected { peer: guest_id });
    guest.handle(Input::Connected { peer: host_id });
    let mut seen = [0, 0];
    pump(&mut host, &mut guest, &mut seen);
    (host, guest)
}

/// Carries messages, fetches and tasks between the two until nothing moves.
fn pump(a: &mut Peer, b: &mut Peer, seen: &mut [usize; 2]) {
    for _ in 0..1_000 {
        let moved = carry(a, b, &mut seen[0]) + carry(b, a, &mut seen[1]);
        if moved == 0 {
            return;
        }
    }
    panic!("two engines talk without end");
}

fn carry(from: &mut Peer, to: &mut Peer, seen: &mut usize) -> usize {
    let news: Vec<Effect> = from.log[*seen..].to_vec();
    *seen = from.log.len();
    let sender = from.id();
    let mut moved = 0;
    for effect in news {
        moved += 1;
        match effect {
            Effect::Send { payload, .. } => {
                to.handle(Input::Message { from: sender, payload });
            }
            Effect::Fetch { job, .. } => {
                from.handle(Input::Fetched { job, result: Ok(()) });
            }
            Effect::Start { attempt, .. } => {
                let outcome = Outcome::Done { outputs: BTreeMap::new() };
                from.handle(Input::Ended { attempt, outcome, counters: from.claims });
            }
            _ => moved -= 1,
        }
    }
    moved
}

fn is_refused(reply: &(bool, HelloReply), expected: RefuseCode) -> bool {
    matches!(reply, (false, HelloReply::Refused { code, .. }) if *code == expected)
}

#[test]
fn a_certificate_of_another_node_lets_nobody_in() {
    let (mut host, guest) = joined();
    let stranger = Peer::new(3);
    let reply = host.greet(stranger.id(), guest.engine.hello());
    assert!(is_refused(&reply, RefuseCode::BadCert), "{reply:?}");
}

#[test]
fn a_certificate_that_its_organisation_did_not_sign_lets_nobody_in() {
    let (mut host, guest) = joined();
    let mut hello = Hello::decode(&guest.engine.hello()).unwrap();
    let mut cert = NodeCert::verify(&hello.cert, NOW_MS).unwrap();
    let thief = SigningKey::from_bytes(&[9; 32]);
    cert.node = node_key(9).verifying_key().into();
    hello.cert = cert.sign(&thief);
    let reply = host.greet(cert.node, hello.encode());
    assert!(is_refused(&reply, RefuseCode::BadCert), "{reply:?}");
}

#[test]
fn an_expired_certificate_a_stranger_and_noise_are_told_why() {
    let (mut host, guest) = joined();
    let stranger = Peer::new(3);
    let reply = host.greet(stranger.id(), stranger.engine.hello());
    assert!(is_refused(&reply, RefuseCode::WrongRealm), "{reply:?}");
    let reply = host.greet(stranger.id(), vec![0xff; 64]);
    assert!(is_refused(&reply, RefuseCode::Malformed), "{reply:?}");
    host.now_ms += 40 * 24 * 3_600_000;
    let reply = host.greet(guest.id(), guest.engine.hello());
    assert!(is_refused(&reply, RefuseCode::BadCert), "{reply:?}");
}

#[test]
fn a_forged_record_is_rejected_and_a_repeated_one_ignored() {
    let (mut host, guest) = joined();
    let from = guest.id();
    let push = guest.log.iter().rev().find_map(|effect| match effect {
        Effect::Gossip { payload } => Some(payload.clone()),
        _ => None,
    });
    let push = push.unwrap();
    let verdict = |effects: &Effects| {
        effects.list.iter().find_map(|effect| match effect {
            Effect::Verdict { verdict, .. } => Some(*verdict),
            _ => None,
        })
    };
    let again = host.handle(Input::Gossip { token: 1, from, payload: push.clone() });
    assert_eq!(verdict(&again), Some(Verdict::Ignore));
    let mut forged = push;
    // In the head, which comes first and is signed.
    forged[100] ^= 1;
    let effects = host.handle(Input::Gossip { token: 2, from, payload: forged });
    assert_eq!(verdict(&effects), Some(Verdict::Reject));
    assert_eq!(penalties(&effects), 1);
}

#[test]
fn noise_instead_of_a_message_is_counted_against_its_sender() {
    let (mut host, guest) = joined();
    let from = guest.id();
    let noise = [
        (vec![], Fault::Broken),
        (vec![0xff; 100], Fault::Broken),
        (vec![0; 2 << 20], Fault::TooMuch),
    ];
    for (payload, fault) in noise {
        let effects = host.handle(Input::Message { from, payload });
        assert_eq!(faults(&effects), BTreeSet::from([fault]));
        assert!(effects.batch.is_empty());
    }
    let stranger = Peer::new(3).id();
    let effects = host.handle(Input::Message { from: stranger, payload: vec![1] });
    assert!(effects.list.is_empty() && effects.batch.is_empty(), "strangers are not even heard");
}

/// The faults that were counted, each kind once.
fn faults(effects: &Effects) -> BTreeSet<Fault> {
    let fault = |effect: &Effect| match effect {
        Effect::Penalize { fault, .. } => Some(*fault),
        _ => None,
    };
    effects.list.iter().filter_map(fault).collect()
}

/// What a version to come may send in place of a message.
fn newer_messages() -> Vec<Vec<u8>> {
    use ciborium::value::Value;
    let text = |text: &str| Value::Text(text.to_owned());
    let values = [
        text("kind_of_tomorrow"),
        Value::Map(vec![(text("kind_of_tomorrow"), Value::Array(vec![Value::from(7)]))]),
        Value::Map(vec![(text("catalog"), text("sync_of_tomorrow"))]),
        Value::Map(vec![(text("task"), Value::Map(vec![(text("gift"), Value::Null)]))]),
        Value::Array(vec![Value::from(1), Value::from(2)]),
    ];
    let encode = |value: &Value| {
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes).unwrap();
        bytes
    };
    values.iter().map(encode).collect()
}

#[test]
fn a_peer_of_a_newer_version_is_never_banned() {
    let (mut host, guest) = joined();
    let from = guest.id();
    for payload in newer_messages() {
        let effects = host.handle(Input::Message { from, payload: payload.clone() });
        assert_eq!(faults(&effects), BTreeSet::from([Fault::Unknown]), "{payload:?}");
    }
    // A field that a head has one day, rightly signed, in a gossip that brings one more, too.
    let push = guest.log.iter().rev().find_map(|effect| match effect {
        Effect::Gossip { payload } => Some(payload.clone()),
        _ => None,
    });
    let push = push.unwrap();
    let mut longer: ciborium::value::Value = ciborium::from_reader(&push[..]).unwrap();
    longer.as_map_mut().unwrap().push((9.into(), true.into()));
    let mut payload = Vec::new();
    ciborium::into_writer(&longer, &mut payload).unwrap();
    let effects = host.handle(Input::Gossip { token: 1, from, payload });
    assert_eq!(faults(&effects), BTreeSet::from([Fault::Unknown]));
    let ignored =
        |effect: &Effect| matches!(effect, Effect::Verdict { verdict: Verdict::Ignore, .. });
    assert!(effects.list.iter().any(ignored), "who passes it on is not to blame");
}

#[test]
fn an_address_that_no_record_takes_is_left_out_and_reported() {
    let mut host = Peer::new(1);
    let (good, bad) = ("/ip4/10.0.0.1/tcp/1".to_owned(), format!("/dns/{}/tcp/1", "a".repeat(200)));
    let effects = host.handle(Input::Listening { addresses: vec![bad.clone(), good.clone()] });
    let is_told =
        |effect: &Effect| matches!(effect, Effect::Notice { detail } if detail.contains(&bad));
    assert!(effects.list.iter().any(is_told));
    let tells = |effect: &Effect| match effect {
        Effect::Gossip { payload } => {
            payload.windows(good.len()).any(|bytes| bytes == good.as_bytes())
        }
        _ => false,
    };
    assert!(effects.list.iter().any(tells), "the others are published");
}

/// A run of one task that is bound to the guest.
fn run_at_the_guest(host: &mut Peer, guest: &mut Peer) -> RunId {
    let module = Digest::of(b"module");
    let source = format!(
        "opencloud: workflow/v1\nname: one\nsteps:\n  only:\n    run: {{wasi: {{module: \"{module}\"}}}}\n    needs: {{memory: 64MiB}}\n"
    );
    let file = FileRef { digest: module, size: 6, name: "module.wasm".to_owned() };
    let submission = Submission {
        source,
        params: BTreeMap::new(),
        assets: [(module.to_string(), Stage::File(file))].into(),
        binding: Some("opencloud: binding/v1\ndefaults: {orgs: [Org 2]}\n".to_owned()),
        strategy: None,
        replica: None,
        area: None,
    };
    let mut seen = [host.log.len(), guest.log.len()];
    let effects = host.ask(Command::Submit { submission: Box::new(submission), by: None });
    let run = effects.iter().find_map(|effect| match effect {
        Effect::Reply { result: Ok(Response::Submitted(run)), .. } => Some(*run),
        _ => None,
    });
    pump(host, guest, &mut seen);
    run.unwrap()
}

#[test]
fn replayed_and_altered_ledger_entries_change_nothing() {
    let (mut host, mut guest) = joined();
    let from = guest.id();
    let run = run_at_the_guest(&mut host, &mut guest);
    let state = host.engine.inspect().runs().find(|r| r.id() == run).unwrap().state();
    assert_eq!(state, "succeeded");
    let money = |host: &Peer| {
        host.engine.inspect().channels().map(|c| (c.peer_head(), c.earned())).collect::<Vec<_>>()
    };
    let before = money(&host);
    assert_eq!(before.len(), 1);
    let messages: Vec<NodeMessage> = guest
        .log
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send { payload, .. } => NodeMessage::decode(payload).ok(),
            _ => None,
        })
        .filter(|message| matches!(message, NodeMessage::Ledger(l) if !l.entries.is_empty()))
        .collect();
    assert!(messages.len() >= 3, "open, agreement, receipt: {}", messages.len());
    for message in messages {
        let effects = host.handle(Input::Message { from, payload: message.encode() });
        assert!(effects.batch.is_empty(), "a repeated entry is not stored again");
        let NodeMessage::Ledger(mut ledger) = message else { unreachable!() };
        let last = ledger.entries.last_mut().unwrap();
        let at = last.0.len() - 1;
        last.0[at] ^= 1;
        let effects =
            host.handle(Input::Message { from, payload: NodeMessage::Ledger(ledger).encode() });
        assert_eq!(penalties(&effects), 1, "an altered entry is an offence");
        assert_eq!(money(&host), before);
    }
}

#[test]
fn a_provider_may_fetch_the_inputs_while_its_attempt_lasts() {
    let (mut host, mut guest) = joined();
    let run = run_at_the_guest(&mut host, &mut guest);
    let fetched = guest.log.iter().any(|effect| {
        matches!(effect, Effect::Fetch { job: FetchJob::Inputs(attempt), from, .. }
            if attempt.run == run && *from == host.id())
    });
    assert!(fetched, "inputs come from the coordinator");
    let granted = host.log.iter().any(
        |effect| matches!(effect, Effect::Grant { peer, attempt, .. } if *peer == guest.id() && attempt.run == run),
    );
    let revoked = host.log.iter().any(
        |effect| matches!(effect, Effect::Revoke { peer, attempt } if *peer == guest.id() && attempt.run == run),
    );
    assert!(granted && revoked, "and only while the attempt lasts");
}

/// The guest connects again, and what both want to say is said.
fn reconnect(host: &mut Peer, guest: &mut Peer) {
    let (host_id, guest_id) = (host.id(), guest.id());
    let mut seen = [host.log.len(), guest.log.len()];
    host.now_ms = host.now_ms.max(guest.now_ms);
    guest.now_ms = host.now_ms;
    host.handle(Input::Disconnected { peer: guest_id });
    guest.handle(Input::Disconnected { peer: host_id });
    let (is_welcome, reply) = host.greet(guest_id, guest.engine.hello());
    assert!(is_welcome, "{reply:?}");
    guest.handle(Input::ConnectEnded { peer: host_id, result: Ok(reply.encode()) });
    host.handle(Input::Connected { peer: guest_id });
    guest.handle(Input::Connected { peer: host_id });
    pump(host, guest, &mut seen);
}

fn books(peer: &Peer) -> Vec<([u8; 32], i64, i64)> {
    let channels = peer.engine.inspect().channels();
    channels.map(|c| (c.state_hash(), c.claimed().nano(), c.earned().nano())).collect()
}

fn offences(peer: &Peer) -> usize {
    peer.log.iter().filter(|effect| matches!(effect, Effect::Penalize { .. })).count()
}

#[test]
fn a_node_put_back_from_a_backup_gets_its_ledger_from_its_partner_and_works_on() {
    for (is_host, runs_before) in [(true, 0), (true, 1), (false, 0), (false, 1)] {
        let (mut host, mut guest) = joined();
        for _ in 0..runs_before {
            run_at_the_guest(&mut host, &mut guest);
        }
        let backup = if is_host { host.disk.clone() } else { guest.disk.clone() };
        run_at_the_guest(&mut host, &mut guest);
        let before = books(&host);
        assert_eq!(before, books(&guest));
        let back = if is_host { &mut host } else { &mut guest };
        back.restart(Some(backup));
        reconnect(&mut host, &mut guest);
        let what = format!("host {is_host}, {runs_before} runs before");
        assert_eq!(books(&host), books(&guest), "{what}");
        assert_eq!(books(&host)[0].2, before[0].2, "nothing that was acknowledged is lost: {what}");
        for peer in [&mut host, &mut guest] {
            assert_eq!(peer.channel(), ("open".to_owned(), None), "{what}");
            assert_eq!(offences(peer), 0, "{what}");
        }
        let run = run_at_the_guest(&mut host, &mut guest);
        let state = host.engine.inspect().runs().find(|r| r.id() == run).unwrap().state();
        assert_eq!(state, "succeeded", "{what}");
        assert_eq!(host.engine.inspect().channels().count(), 1, "{what}");
        // A crash afterwards finds the adopted logs whole.
        host.restart(None);
        guest.restart(None);
        assert_eq!(books(&host), books(&guest), "{what}");
    }
}

#[test]
fn a_node_that_lost_a_channel_and_waits_for_it_says_that_it_cannot_fence_it() {
    let (mut host, mut guest) = joined();
    let backup = host.disk.clone();
    run_at_the_guest(&mut host, &mut guest);
    let channel = Digest::from_bytes(*host.engine.inspect().channels().next().unwrap().id());
    let from = guest.id();
    host.restart(Some(backup));
    let (is_welcome, reply) = host.greet(from, guest.engine.hello());
    assert!(is_welcome, "{reply:?}");
    host.handle(Input::Connected { peer: from });
    host.now_ms += 5_000;
    host.handle(Input::Tick);
    let said = |peer: &Peer, since: usize| -> Vec<FenceMessage> {
        let messages = peer.log[since..].iter().filter_map(|effect| match effect {
            Effect::Send { payload, .. } => NodeMessage::decode(payload).ok(),
            _ => None,
        });
        messages
            .filter_map(|message| match message {
                NodeMessage::Fence(message) => Some(message),
                _ => None,
            })
            .collect()
    };
    let token = said(&host, 0).into_iter().find_map(|message| match message {
        FenceMessage::SetBack { token } => Some(token),
        _ => None,
    });
    let mut tell = |message: FenceMessage| {
        let since = host.log.len();
        host.handle(Input::Message { from, payload: NodeMessage::Fence(message).encode() });
        said(&host, since)
    };
    let request = FenceMessage::Request { channel, token: [9; 16], own: 1, peer: 1 };
    assert!(tell(request.clone()).is_empty(), "of a channel that it does not know it says nothing");
    tell(FenceMessage::Shared { token: token.unwrap(), channels: vec![channel] });
    assert!(tell(request).contains(&FenceMessage::Unable { channel }));
}

#[test]
fn a_proof_of_fraud_outlives_a_restart_and_ends_the_work_with_the_liar() {
    let (mut host, mut guest) = joined();
    run_at_the_guest(&mut host, &mut guest);
    let from = guest.id();
    let (channel, entry) = {
        let channel = host.engine.inspect().channels().next().unwrap();
        let newest = channel.entries(Side::Provider, channel.peer_head().0 - 1).next().unwrap();
        let signed = SignedEntry::open(newest.bytes, &from).unwrap();
        (Digest::from_bytes(*channel.id()), signed.entry)
    };
    let have = host.engine.inspect().channels().next().unwrap().own_head().0;
    let lie = Entry { wall_ms: entry.wall_ms + 1, ..entry };
    let bytes = catalog::envelope::sign(&node_key(2), catalog::envelope::Typ::Entry, lie.encode());
    let entries = vec![Bytes(bytes)];
    let message = LedgerMessage { channel, have, quotes: Vec::new(), entries };
    let payload = NodeMessage::Ledger(message).encode();
    let effects = host.handle(Input::Message { from, payload });
    assert_eq!(penalties(&effects), 1);
    assert!(effects.batch.ops.iter().any(|op| op.table == Table::Meta), "the proof is stored");
    let check = |host: &mut Peer| {
        let (state, reason) = host.channel();
        assert_eq!(state, "frozen");
        assert!(reason.unwrap().contains("the provider signed entry"));
    };
    check(&mut host);
    host.restart(None);
    check(&mut host);
    reconnect(&mut host, &mut guest);
    let sent = host.log.len();
    run_at_the_guest(&mut host, &mut guest);
    let is_asked = host.log[sent..].iter().any(|effect| match effect {
        Effect::Send { payload, .. } => {
            matches!(NodeMessage::decode(payload), Ok(NodeMessage::Task(_)))
        }
        _ => false,
    });
    assert!(!is_asked, "the liar gets no new work");
}

#[test]
fn content_that_two_resources_describe_is_open_until_neither_is_public() {
    let mut peer = Peer::new(1);
    let content = |n: u8| Digest::of(&[n]);
    let publish = |key: &str, n: u8, visibility| {
        let detail = Detail::Algorithm(AlgorithmDetail {
            runtime: "container".to_owned(),
            digest: content(n),
            size: 1,
            version: String::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            maturity: Maturity::Stable,
            manifest: None,
        });
        let text = String::new;
        let (key, name) = (key.to_owned(), key.to_owned());
        let resource = Resource {
            key,
            name,
            short: text(),
            long: text(),
            logo: None,
            licence: None,
            terms: None,
            price: None,
            detail,
        };
        Command::Publish { resource: Box::new(resource), visibility }
    };
    let mut change = |command| -> Vec<(Digest, bool)> {
        let changed = peer.ask(command).into_iter().filter_map(|effect| match effect {
            Effect::Open { digest } => Some((digest, true)),
            // To nobody, as long as there are no other nodes of this organisation.
            Effect::OpenTo { digest, peers } => Some((digest, !peers.is_empty())),
            Effect::Close { digest } => Some((digest, false)),
            _ => None,
        });
        changed.collect()
    };
    let (first, second) = ("image/tools:1", "image/tools:latest");
    assert_eq!(change(publish(first, 1, Visibility::Public)), [(content(1), true)]);
    assert_eq!(change(publish(second, 1, Visibility::Public)), [(content(1), true)]);
    assert_eq!(change(Command::Withdraw { key: first.to_owned() }), [(content(1), true)]);
    let moved = change(publish(second, 2, Visibility::Public));
    assert_eq!(moved, [(content(2), true), (content(1), false)]);
    let hidden = Visibility::Restricted(Vec::new());
    assert_eq!(change(publish(second, 2, hidden)), [(content(2), false)]);
}

// ---- devices

/// The guest opens two devices of containers from its next start on.
fn open_devices(host: &mut Peer, guest: &mut Peer, whom: Option<Insiders>) {
    let compute = &mut guest.settings.compute;
    compute.runtimes = vec!["wasi".to_owned(), "container".to_owned()];
    compute.accelerators = vec!["gpu".to_owned(); 2];
    compute.device_for = whom;
    guest.restart(None);
    reconnect(host, guest);
}

fn host_org() -> OrgId {
    SigningKey::from_bytes(&[1; 32]).verifying_key().into()
}

fn image() -> DirRef {
    DirRef { digest: Digest::of(b"image"), size: 5, name: "image".to_owned() }
}

/// What the guest sends when the host asks for so many devices, whatever its record says.
fn answers(host: &Peer, guest: &mut Peer, n_devices: u32) -> Vec<NodeMessage> {
    let devices = [("gpu".to_owned(), n_devices)].into_iter().filter(|(_, n)| *n > 0).collect();
    let spec = TaskSpec {
        program: Program::Container { image: image(), entrypoint: None },
        argv: Vec::new(),
        env: BTreeMap::new(),
        stdin: None,
        inputs: BTreeMap::new(),
        mounts: BTreeMap::new(),
        outputs: BTreeMap::new(),
        needs: Needs { devices, ..Needs::default() },
        timeout_ms: 1_000,
        service: None,
        area: None,
    };
    let task = TaskId { step: 0, index: n_devices };
    let attempt = AttemptId { run: RunId::from_bytes([9; 16]), task, number: 1 };
    let request = [u8::try_from(n_devices).unwrap(); 16];
    let spec = Box::new(spec);
    let asked =
        negotiate::Message::QuoteRequest { request, attempt, spec, max_price: None, person: None };
    let payload = NodeMessage::Task(asked).encode();
    let effects = guest.handle(Input::Message { from: host.id(), payload });
    let sent = effects.list.iter().filter_map(|effect| match effect {
        Effect::Send { payload, .. } => NodeMessage::decode(payload).ok(),
        _ => None,
    });
    sent.collect()
}

/// Why it refuses, if it does.
fn answer(host: &Peer, guest: &mut Peer, n_devices: u32) -> Option<RefusalCode> {
    let sent = answers(host, guest, n_devices).into_iter();
    let mut answers = sent.filter_map(|message| match message {
        NodeMessage::Task(negotiate::Message::Quote { .. }) => Some(None),
        NodeMessage::Task(negotiate::Message::Refusal { refusal, .. }) => {
            Some(Some(Refusal::open(&refusal, &guest.engine.me()).unwrap().code))
        }
        _ => None,
    });
    answers.next().expect("it answers at once")
}

#[test]
fn devices_go_to_those_alone_for_whom_they_are_open_whatever_they_were_told() {
    let (mut host, mut guest) = joined();
    for (whom, expected) in [
        (None, Some(RefusalCode::Policy)),
        (Some(Insiders::Own), Some(RefusalCode::Policy)),
        // That the host founded the realm makes it nobody's partner: the guest's owner has not said so.
        (Some(Insiders::Partners), Some(RefusalCode::Policy)),
        (Some(Insiders::Realm), None),
    ] {
        open_devices(&mut host, &mut guest, whom);
        assert_eq!(answer(&host, &mut guest, 1), expected, "{whom:?}");
        assert_eq!(answer(&host, &mut guest, 0), None, "{whom:?}: others may come in any case");
    }
    assert_eq!(answer(&host, &mut guest, 3), Some(RefusalCode::Unsupported), "there are two");
    let change = RelationChange { stance: Some(Stance::Partner), ..RelationChange::default() };
    let org = host_org();
    let _ = guest.ask(Command::Trust(trust::Command::Relate { org, change }));
    open_devices(&mut host, &mut guest, Some(Insiders::Partners));
    assert_eq!(answer(&host, &mut guest, 1), None, "the guest's owner took it for a partner");
}

/// What a run claims and what of it is signed for, when its step asks for a device and the guest says that it used so much.
fn billed(needs: &str, gpu_us: u64) -> (i64, i64) {
    let (mut host, mut guest) = joined();
    open_devices(&mut host, &mut guest, Some(Insiders::Realm));
    guest.claims = Counters::default().with(Dimension::Gpu, gpu_us);
    let image = image();
    let digest = image.digest;
    let source = format!(
        "opencloud: workflow/v1\nname: one\nsteps:\n  only:\n    run: {{container: {{image: \"{digest}\"}}}}\n    needs: {needs}\n"
    );
    let submission = Submission {
        source,
        params: BTreeMap::new(),
        assets: [(digest.to_string(), Stage::Dir(image))].into(),
        binding: Some("opencloud: binding/v1\ndefaults: {orgs: [Org 2]}\n".to_owned()),
        strategy: None,
        replica: None,
        area: None,
    };
    let mut seen = [host.log.len(), guest.log.len()];
    let _ = host.ask(Command::Submit { submission: Box::new(submission), by: None });
    pump(&mut host, &mut guest, &mut seen);
    let started = guest.log.iter().any(|effect| matches!(effect, Effect::Start { .. }));
    assert!(started, "the guest has run it");
    let [(_, claimed, earned)] = <[_; 1]>::try_from(books(&host)).unwrap();
    (claimed, earned)
}

#[test]
fn devices_are_paid_for_as_they_were_asked_for_and_not_otherwise() {
    const HOUR_US: u64 = 3_600_000_000;
    // Half a euro an hour; a second of it.
    let (claimed, earned) = billed("{memory: 64MiB, devices: {gpu: 1}}", 1_000_000);
    assert_eq!((claimed, earned), (138_888, 138_888));
    let (claimed, earned) = billed("{memory: 64MiB}", 1_000_000);
    assert_eq!((claimed, earned), (0, 0), "it asked for none");
    let (claimed, earned) = billed("{memory: 64MiB, devices: {gpu: 2}}", HOUR_US);
    assert!(claimed < 2_000_000, "it has not lasted an hour: {claimed}");
    assert_eq!(earned, claimed, "nor has the guest said so");
}

// ---- what some see otherwise than others

/// The guest's computing, at this price for each attempt.
fn priced(guest: &mut Peer, fixed_nano: i64) -> Box<Resource> {
    let found = guest.ask(Command::Catalog {
        filter: "kind = compute".to_owned(),
        limit: 9,
        after: None,
        is_asking: false,
    });
    let views = found.into_iter().find_map(|effect| match effect {
        Effect::Reply { result: Ok(Response::Catalog(views)), .. } => Some(views),
        _ => None,
    });
    let own = views.unwrap().into_iter().find(|view| view.author == guest.id()).unwrap();
    let mut resource = own.resource;
    let price = resource.price.as_mut().unwrap();
    price.fixed = Amount::from_nano(fixed_nano);
    Box::new(resource)
}

/// The price for each attempt by which the guest quotes the host; every time it is asked anew.
fn quoted(host: &Peer, guest: &mut Peer, ask: u32) -> i64 {
    let mut sent = answers(host, guest, ask).into_iter();
    let quote = sent.find_map(|message| match message {
        NodeMessage::Task(negotiate::Message::Quote { quote, .. }) => {
            Some(Quote::open(&quote, &guest.id()).unwrap())
        }
        _ => None,
    });
    quote.expect("it is quoted").plan.fixed.nano()
}

/// The price of the guest's computing as the host's catalogue has it.
fn seen(host: &mut Peer, guest: &Peer) -> i64 {
    let found = host.ask(Command::Catalog {
        filter: "kind = compute".to_owned(),
        limit: 9,
        after: None,
        is_asking: false,
    });
    let views = found.into_iter().find_map(|effect| match effect {
        Effect::Reply { result: Ok(Response::Catalog(views)), .. } => Some(views),
        _ => None,
    });
    let of_guest = views.unwrap().into_iter().find(|view| view.author == guest.id());
    of_guest.unwrap().resource.price.unwrap().fixed.nano()
}

#[test]
fn an_organisation_is_quoted_by_the_prices_that_it_sees() {
    let (mut host, mut guest) = joined();
    let mut seen_so_far = [host.log.len(), guest.log.len()];
    open_devices(&mut host, &mut guest, Some(Insiders::Realm));
    let common = seen(&mut host, &guest);
    assert_eq!(quoted(&host, &mut guest, 1), common);
    let resource = priced(&mut guest, common + 7);
    let other = SigningKey::from_bytes(&[9; 32]).verifying_key().into();
    let variant = |resource: &Resource, org: OrgId| {
        let (resource, orgs) = (Box::new(resource.clone()), vec![org]);
        Command::Variant(variants::Command::Put { resource, orgs })
    };
    // What somebody else sees is nothing that the host hears of.
    let sent = guest.ask(variant(&resource, other));
    assert!(
        !sent.iter().any(|e| matches!(e, Effect::Send { .. } | Effect::Gossip { .. })),
        "{sent:?}"
    );
    let sent = guest.ask(variant(&resource, host_org()));
    assert!(!sent.iter().any(|effect| matches!(effect, Effect::Gossip { .. })));
    seen_so_far[0] = host.log.len();
    pump(&mut host, &mut guest, &mut seen_so_far);
    assert_eq!((seen(&mut host, &guest), quoted(&host, &mut guest, 2)), (common + 7, common + 7));
    // It outlives a restart, and what this node can do is what it can do then.
    guest.settings.compute.cpu_milli = 3_000;
    guest.restart(None);
    reconnect(&mut host, &mut guest);
    assert_eq!((seen(&mut host, &guest), quoted(&host, &mut guest, 0)), (common + 7, common + 7));
    let withdraw =
        variants::Command::Delete { key: "compute/main".to_owned(), orgs: vec![host_org()] };
    guest.ask(Command::Variant(withdraw));
    reconnect(&mut host, &mut guest);
    assert_eq!(seen(&mut host, &guest), common);
    assert_eq!(quoted(&host, &mut guest, 1), common);
    // Prices in another currency would need another channel.
    let mut foreign = resource;
    foreign.price.as_mut().unwrap().currency = "USD".parse().unwrap();
    let refused = guest.ask(variant(&foreign, host_org()));
    assert!(matches!(refused.last(), Some(Effect::Reply { result: Err(_), .. })), "{refused:?}");
}
