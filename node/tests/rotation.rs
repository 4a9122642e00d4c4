//! A node that changes its key, as its partner sees it: the same node, the same books, no offer twice, no way back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "rotation/revoked.rs"]
mod revoked;

use std::collections::{BTreeMap, BTreeSet};

use accounting::{Counters, Dimension, PricePlan};
use catalog::cert::armour::{self, Kind};
use catalog::cert::{Authority, Hello, HelloReply, NodeCert, RefuseCode, Revocations, Succession};
use catalog::record::ComputeDetail;
use catalog::{Digest, NodeId};
use ed25519_dalek::SigningKey;
use node::engine::command::{Command, Response};
use node::engine::message::NodeMessage;
use node::engine::rotation::{Former, KEPT_MS, OVERLAP_MS};
use node::engine::trust;
use node::engine::{Effect, Effects, Engine, Input, Papers, Settings, Stored};
use node::store::batch::{Batch, Table};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;
use scheduler::negotiate::Outcome;
use scheduler::run::Submission;
use scheduler::task::{RunId, Stage};
use scheduler::value::FileRef;

const NOW_MS: u64 = 1_800_000_000_000;

struct Peer {
    engine: Engine,
    rng: ChaCha8Rng,
    now_ms: u64,
    log: Vec<Effect>,
    seen: usize,
    settings: Settings,
    disk: BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Ledger messages that it sends are lost from when a task of its has ended.
    is_cut: bool,
    has_ended: bool,
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

impl Peer {
    fn new(seed: u8) -> Self {
        let settings = Settings {
            papers: Papers::root(key(seed)),
            node_key: key(seed | 0x80),
            former: Vec::new(),
            org_name: format!("Org {seed}"),
            node_name: format!("node-{seed}"),
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
        let mut rng = ChaCha8Rng::seed_from_u64(u64::from(seed));
        let (engine, effects) =
            Engine::recover(settings.clone(), &Stored::default(), NOW_MS, &mut rng).unwrap();
        let (log, disk) = (effects.list, BTreeMap::new());
        let (is_cut, has_ended) = (false, false);
        let mut peer =
            Self { engine, rng, now_ms: NOW_MS, log, seen: 0, settings, disk, is_cut, has_ended };
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

    fn restart(&mut self) {
        let rows = |rows: &BTreeMap<Vec<u8>, Vec<u8>>| {
            rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let tables = self.disk.iter().map(|(table, of)| (*table, rows(of))).collect();
        self.now_ms += 5_000;
        let stored = Stored { tables, is_set_back: false };
        let settings = self.settings.clone();
        let (engine, effects) =
            Engine::recover(settings, &stored, self.now_ms, &mut self.rng).unwrap();
        self.engine = engine;
        self.commit(&effects.batch);
        self.log.extend(effects.list);
        self.handle(Input::Listening { addresses: vec![format!("/sim/{}", self.id())] });
    }

    /// The process starts again with the key of a seed in the place of its own.
    fn rotate(&mut self, seed: u8) {
        let org = self.org_key();
        let Papers::Authority { generation, successions, .. } = self.settings.papers.clone() else {
            panic!("it has its organisation's key");
        };
        let (old, new) = (self.settings.node_key.clone(), key(seed));
        let word = Succession {
            old: self.id(),
            new: new.verifying_key().into(),
            org: org.verifying_key().into(),
            generation: generation + 1,
            made_ms: self.now_ms,
        };
        let mut chain = vec![word.sign(&old)];
        chain.extend(successions);
        chain.truncate(catalog::cert::SUCCESSIONS_MAX);
        self.settings.papers = Papers::Authority {
            authority: Box::new(Authority::root(org)),
            generation: generation + 1,
            successions: chain,
        };
        let former = Former { node: self.id(), key: Some(old), since_ms: self.now_ms };
        self.settings.former.push(former);
        self.settings.node_key = new;
        self.restart();
    }

    fn org_key(&self) -> SigningKey {
        key(self.settings.org_name.strip_prefix("Org ").unwrap().parse().unwrap())
    }

    fn ask(&mut self, command: Command) -> Response {
        let effects = self.handle(Input::Command { id: 1, command });
        let found = effects.list.into_iter().find_map(|effect| match effect {
            Effect::Reply { id: 1, result } => Some(result.unwrap()),
            _ => None,
        });
        found.unwrap()
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

    fn machines(&mut self) -> BTreeSet<NodeId> {
        let filter = "kind = compute".to_owned();
        let Response::Catalog(found) =
            self.ask(Command::Catalog { filter, limit: 100, after: None, is_asking: false })
        else {
            panic!("it has a catalogue");
        };
        found.into_iter().map(|view| view.author).collect()
    }

    /// Each channel: what it stands at, how much is claimed, how much is acknowledged.
    fn books(&self) -> Vec<([u8; 32], i64, i64)> {
        let channels = self.engine.inspect().channels();
        channels.map(|c| (c.state_hash(), c.claimed().nano(), c.earned().nano())).collect()
    }

    fn offences(&self) -> usize {
        self.log.iter().filter(|effect| matches!(effect, Effect::Penalize { .. })).count()
    }

    fn install(&mut self, text: &str) {
        let _ = self.ask(Command::Trust(trust::Command::Install { text: text.to_owned() }));
    }
}

/// An organisation's list of that number, with these keys on it.
fn list(root: &SigningKey, serial: u64, keys: &[NodeId]) -> String {
    let list = Revocations::empty(root.verifying_key().into());
    let keys = keys.iter().map(|node| *node.as_bytes());
    let list = Revocations { serial, ..list.with(keys).unwrap() };
    armour::write(Kind::Revocations, &list.sign(root))
}

fn joined() -> [Peer; 2] {
    let (mut host, mut guest) = (Peer::new(1), Peer::new(2));
    let invited = host.ask(Command::Invite { valid_ms: 60_000, is_asking: false });
    let Response::Ticket(ticket) = invited else { panic!("a ticket") };
    let joining = guest.handle(Input::Command { id: 9, command: Command::Join { ticket } });
    let hello = joining.list.into_iter().find_map(|effect| match effect {
        Effect::Connect { hello: Some(hello), .. } => Some(hello),
        _ => None,
    });
    connect(&mut guest, &mut host, hello.unwrap());
    [host, guest]
}

fn connect(guest: &mut Peer, host: &mut Peer, hello: Vec<u8>) {
    let (is_welcome, reply) = host.greet(guest.id(), hello);
    assert!(is_welcome, "{reply:?}");
    guest.handle(Input::ConnectEnded { peer: host.id(), result: Ok(reply.encode()) });
    host.handle(Input::Connected { peer: guest.id() });
    guest.handle(Input::Connected { peer: host.id() });
    pump(host, guest);
}

/// The connections of former keys end, and those of the keys in use begin.
fn reconnect([host, guest]: &mut [Peer; 2]) {
    host.now_ms = host.now_ms.max(guest.now_ms);
    guest.now_ms = host.now_ms;
    let connected: Vec<NodeId> = host.engine.inspect().connected().iter().copied().collect();
    connected.into_iter().for_each(|peer| drop(host.handle(Input::Disconnected { peer })));
    let connected: Vec<NodeId> = guest.engine.inspect().connected().iter().copied().collect();
    connected.into_iter().for_each(|peer| drop(guest.handle(Input::Disconnected { peer })));
    connect(guest, host, guest.engine.hello());
}

fn pump(a: &mut Peer, b: &mut Peer) {
    for _ in 0..1_000 {
        if carry(a, b) + carry(b, a) == 0 {
            return;
        }
    }
    panic!("two engines talk without end");
}

/// Carries what is meant for the other by the key that it has now, and nothing else.
fn carry(from: &mut Peer, to: &mut Peer) -> usize {
    let news: Vec<Effect> = from.log[from.seen..].to_vec();
    from.seen = from.log.len();
    let sender = from.id();
    let mut moved = 0;
    for effect in news {
        moved += 1;
        match effect {
            Effect::Send { to: peer, payload } if peer == to.id() => {
                let message = NodeMessage::decode(&payload).unwrap();
                if !(from.is_cut && from.has_ended && matches!(message, NodeMessage::Ledger(_))) {
                    to.handle(Input::Message { from: sender, payload });
                }
            }
            Effect::Fetch { job, .. } => {
                from.handle(Input::Fetched { job, result: Ok(()) });
            }
            Effect::Start { attempt, .. } => {
                let outcome = Outcome::Done { outputs: BTreeMap::new() };
                from.has_ended = true;
                let counters = Counters::default().with(Dimension::Cpu, 40_000);
                from.handle(Input::Ended { attempt, outcome, counters });
            }
            _ => moved -= 1,
        }
    }
    moved
}

/// A run of one task that is bound to the guest.
fn run_at_the_guest([host, guest]: &mut [Peer; 2]) {
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
    let submitted = host.ask(Command::Submit { submission: Box::new(submission), by: None });
    let Response::Submitted(run) = submitted else { panic!("it is submitted") };
    pump(host, guest);
    assert_eq!(state_of(host, run), "succeeded");
}

fn state_of(host: &Peer, run: RunId) -> &'static str {
    host.engine.inspect().runs().find(|r| r.id() == run).unwrap().state()
}

#[test]
fn what_a_rotation_cuts_off_is_signed_and_acknowledged_under_the_new_connection() {
    // Which of the two changes its key, or both at once.
    for rotating in [[true, false], [false, true], [true, true]] {
        let mut both = joined();
        // The last receipt and the close never arrive.
        both[1].is_cut = true;
        run_at_the_guest(&mut both);
        assert_ne!(both[0].books(), both[1].books(), "something is under way");
        both[1].is_cut = false;
        let claimed = both[1].books()[0].1;
        assert!(claimed > 0);
        for (peer, seed) in
            both.iter_mut().zip([31, 32]).zip(rotating).filter(|(_, yes)| *yes).map(|(p, _)| p)
        {
            peer.rotate(seed);
        }
        reconnect(&mut both);
        let what = format!("{rotating:?}");
        assert_eq!(both[0].books(), both[1].books(), "{what}");
        assert_eq!(both[0].books()[0].2, claimed, "all of it is acknowledged: {what}");
        // The next work is agreed between the new keys.
        run_at_the_guest(&mut both);
        assert_eq!(both[0].books(), both[1].books(), "{what}");
        let ids = [both[0].id(), both[1].id()];
        let pairs: BTreeSet<[NodeId; 2]> =
            both[0].engine.inspect().channels().map(|c| [c.consumer(), c.provider()]).collect();
        assert_eq!(pairs.len(), 2, "{what}");
        assert!(pairs.contains(&ids), "{what}");
        // A crash on either side finds both channels whole, and nobody was blamed for anything.
        both.iter_mut().for_each(Peer::restart);
        reconnect(&mut both);
        assert_eq!(both[0].books(), both[1].books(), "{what}");
        run_at_the_guest(&mut both);
        assert_eq!([both[0].offences(), both[1].offences()], [0, 0], "{what}");
        assert_eq!(both[0].engine.inspect().channels().count(), 2, "{what}");
    }
}

#[test]
fn nothing_stands_twice_and_the_old_key_is_let_in_for_a_day_and_never_again() {
    let mut both = joined();
    let (old, old_hello) = (both[1].id(), both[1].engine.hello());
    both[1].rotate(32);
    let new = both[1].id();
    reconnect(&mut both);
    let [host, guest] = &mut both;
    assert_eq!(host.machines(), [host.id(), new].into());
    assert_eq!(guest.machines(), [host.id(), new].into());
    let Response::Peers(peers) = host.ask(Command::Peers) else { panic!("peers") };
    let seen: Vec<_> = peers.iter().map(|p| (p.id, p.name.as_str(), p.generation)).collect();
    assert_eq!(seen, [(new, "node-2", 2)]);
    assert_eq!(peers[0].former_until_ms, Some(host.now_ms + OVERLAP_MS));

    let (learned_ms, refused) = (host.now_ms, RefuseCode::Succeeded);
    let is_refused = |reply: &(bool, HelloReply)| matches!(reply, (false, HelloReply::Refused { code, .. }) if *code == refused);
    host.now_ms = learned_ms + OVERLAP_MS - 1_000;
    assert!(host.greet(old, old_hello.clone()).0, "both hold in the overlap");
    host.handle(Input::Connected { peer: old });
    // Neither the new key's greeting again nor a restart draws it out.
    assert!(host.greet(new, guest.engine.hello()).0);
    host.now_ms = learned_ms + OVERLAP_MS;
    let effects = host.handle(Input::Tick);
    let is_out = |e: &Effect| matches!(e, Effect::Disconnect { peer } if *peer == old);
    assert!(effects.list.iter().any(is_out), "its time is over");
    assert!(is_refused(&host.greet(old, old_hello.clone())));
    host.restart();
    assert!(is_refused(&host.greet(old, old_hello)));
    assert!(host.greet(new, guest.engine.hello()).0);
}

#[test]
fn a_second_successor_a_forged_one_and_a_way_back_are_refused() {
    let mut both = joined();
    let old = both[1].settings.node_key.clone();
    both[1].rotate(32);
    reconnect(&mut both);
    let new = both[1].id();
    let [host, guest] = &mut both;
    let hello = Hello::decode(&guest.engine.hello()).unwrap();
    let cert = NodeCert::verify(&hello.cert, host.now_ms).unwrap();
    let org = guest.org_key();
    let greeting = |seed: u8, generation: u32, by: &SigningKey| {
        let node: NodeId = key(seed).verifying_key().into();
        let word = Succession {
            old: old.verifying_key().into(),
            new: node,
            org: cert.org,
            generation,
            made_ms: 0,
        };
        let successions = Some(vec![word.sign(by)]);
        let cert = NodeCert { node, generation, successions, ..cert.clone() };
        (node, Hello { cert: cert.sign(&org), ..hello.clone() }.encode())
    };
    let code = |reply: (bool, HelloReply)| match reply {
        (false, HelloReply::Refused { code, .. }) => Some(code),
        _ => None,
    };
    // The organisation alone, and the organisation with the stolen old key.
    let (node, forged) = greeting(41, 2, &org);
    assert_eq!(code(host.greet(node, forged)), Some(RefuseCode::BadCert));
    let (node, second) = greeting(42, 2, &old);
    assert_eq!(code(host.greet(node, second.clone())), Some(RefuseCode::Succeeded));
    // The true successor's papers on another connection.
    assert_eq!(code(host.greet(node, guest.engine.hello())), Some(RefuseCode::BadCert));
    // Taking back the old key ends it at once, and leaves the new one alone.
    let old_id: NodeId = old.verifying_key().into();
    host.install(&list(&org, 1, &[old_id]));
    let old_cert = NodeCert { node: old_id, generation: 1, successions: None, ..cert.clone() };
    let way_back = Hello { cert: old_cert.sign(&org), ..hello.clone() }.encode();
    assert_eq!(code(host.greet(old_id, way_back)), Some(RefuseCode::Revoked));
    assert!(host.greet(new, guest.engine.hello()).0);
    assert_eq!(host.machines(), [host.id(), new].into());
    // Taking back the first successor makes room for another.
    host.install(&list(&org, 2, &[old_id, new]));
    assert!(host.greet(node, second).0);
}

#[test]
fn the_old_secret_leaves_when_its_channels_rest_and_at_the_latest_after_a_month() {
    for is_settled in [true, false] {
        let mut both = joined();
        both[1].is_cut = !is_settled;
        run_at_the_guest(&mut both);
        let old = both[1].id();
        both[1].rotate(32);
        if is_settled {
            reconnect(&mut both);
        }
        let guest = &mut both[1];
        let mut lets_go = |after_ms: u64| {
            guest.now_ms = guest.settings.former[0].since_ms + after_ms;
            let effects = guest.handle(Input::Tick);
            let is_gone = |e: &Effect| matches!(e, Effect::ForgetKey { node } if *node == old);
            effects.list.iter().any(is_gone)
        };
        assert!(!lets_go(OVERLAP_MS - 1), "not in the overlap");
        assert_eq!(lets_go(OVERLAP_MS + 3_600_000), is_settled);
        assert_eq!(lets_go(KEPT_MS + 3_600_000), !is_settled);
        let Response::Status(status) = guest.ask(Command::Status) else { panic!("a status") };
        let former = &status.papers.former[0];
        assert_eq!((former.node, former.is_kept, former.unsettled == 0), (old, false, is_settled));
    }
}

#[test]
fn a_change_waits_for_what_runs_and_not_for_ever() {
    let mut both = joined();
    let begin = |peer: &mut Peer, drain_ms: u64| match peer
        .ask(Command::Trust(trust::Command::Rotate { drain_ms }))
    {
        Response::Trust(trust::Answer::Rotating(view)) => view.running,
        other => panic!("{other:?}"),
    };
    let is_due = |peer: &Peer, from: usize| {
        peer.log[from..].iter().any(|effect| matches!(effect, Effect::Rotate))
    };
    let from = both[1].log.len();
    assert_eq!(begin(&mut both[1], 60_000), 0);
    assert!(is_due(&both[1], from), "nothing runs: at once");
    // An attempt that begins and does not end.
    let module = Digest::of(b"module");
    let source = format!(
        "opencloud: workflow/v1\nname: one\nsteps:\n  only:\n    run: {{wasi: {{module: \"{module}\"}}}}\n    needs: {{memory: 64MiB}}\n"
    );
    let file = FileRef { digest: module, size: 6, name: "module.wasm".to_owned() };
    let submission = Submission {
        source,
        params: BTreeMap::new(),
        assets: [(module.to_string(), Stage::File(file))].into(),
        binding: Some("opencloud: binding/v1\ndefaults: {orgs: [Org 1]}\n".to_owned()),
        strategy: None,
        replica: None,
        area: None,
    };
    let host = &mut both[0];
    let _ = host.ask(Command::Submit { submission: Box::new(submission), by: None });
    assert!(host.log.iter().any(|effect| matches!(effect, Effect::Start { .. })));
    let from = host.log.len();
    assert!(begin(host, 60_000) > 0);
    assert!(!is_due(host, from));
    host.now_ms += 61_000;
    host.handle(Input::Tick);
    assert!(is_due(host, from), "its time is over");
}
