//! Papers, at the level of engines: who is enrolled, renewed and put out, as several nodes see it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "trust/people.rs"]
mod people;

use std::collections::{BTreeMap, BTreeSet};

use accounting::{PricePlan, Refusal, RefusalCode};
use catalog::cert::armour::{self, Kind};
use catalog::cert::{Answer, Authority, HelloReply, RefuseCode, Request, Revocations, Terms};
use catalog::record::{
    ComputeDetail, DataDetail, Detail, Maturity, Resource, ServiceDetail, Visibility,
};
use catalog::{NodeId, OrgId};
use ed25519_dalek::SigningKey;
use node::engine::command::{Command, CommandError, ResourceView, Response, StatusView};
use node::engine::message::NodeMessage;
use node::engine::relations::{OrgView, RelationChange, Stance};
use node::engine::trust::{self, InstalledView};
use node::engine::{Effect, Engine, Input, JoinError, Papers, Settings, Stored};
use node::store::batch::{Batch, Table};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;
use scheduler::negotiate;
use scheduler::task::{AttemptId, Needs, Program, RunId, TaskId, TaskSpec};
use scheduler::value::FileRef;

const DAY_MS: u64 = 24 * 3_600_000;
const START_MS: u64 = 20_000 * DAY_MS;

/// A node in a world of nodes that are carried by hand.
struct Peer {
    engine: Engine,
    rng: ChaCha8Rng,
    settings: Settings,
    disk: BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>,
    log: Vec<Effect>,
    seen: usize,
}

fn org_key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn node_key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed | 0x80; 32])
}

/// What the organisation of `org` answers to the node of `node`.
fn enrolled(org: u8, node: u8, now_ms: u64) -> Answer {
    let request = Request {
        node: node_key(node).verifying_key().into(),
        name: format!("node-{node}"),
        generation: 1,
        issuer: None,
        made_ms: now_ms,
        successions: None,
        gateway: None,
    };
    let org_name = format!("Org {org}");
    let terms = Terms { org_name, life_ms: 30 * DAY_MS, now_ms, nonce: [node; 16], serial: now_ms };
    request.answer(&Authority::root(org_key(org)), &terms).unwrap()
}

impl Peer {
    /// A node with its organisation's root key.
    fn root(seed: u8) -> Self {
        Self::new(seed, seed, Papers::root(org_key(seed)))
    }

    /// A node that its organisation enrolled by file.
    fn enrolled(org: u8, seed: u8) -> Self {
        Self::new(org, seed, Papers::Enrolled(Box::new(enrolled(org, seed, START_MS))))
    }

    fn new(org: u8, seed: u8, papers: Papers) -> Self {
        let settings = Settings {
            papers,
            node_key: node_key(seed),
            former: Vec::new(),
            org_name: format!("Org {org}"),
            node_name: format!("node-{seed}"),
            price_plan: PricePlan::default(),
            compute: ComputeDetail {
                arch: "x86_64".to_owned(),
                runtimes: vec!["wasi".to_owned()],
                cpu_milli: 8_000,
                memory_bytes: 8 << 30,
                disk_bytes: 8 << 30,
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
            Engine::recover(settings.clone(), &Stored::default(), START_MS, &mut rng).unwrap();
        let (disk, log) = (BTreeMap::new(), effects.list);
        let mut peer = Self { engine, rng, settings, disk, log, seen: 0 };
        peer.commit(&effects.batch);
        peer.handle(START_MS, Input::Listening { addresses: vec![format!("/sim/{seed}")] });
        peer
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

    fn restart(&mut self, now_ms: u64) {
        let rows = |rows: &BTreeMap<Vec<u8>, Vec<u8>>| {
            rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let tables = self.disk.iter().map(|(table, of)| (*table, rows(of))).collect();
        let stored = Stored { tables, is_set_back: false };
        let settings = self.settings.clone();
        let (engine, effects) = Engine::recover(settings, &stored, now_ms, &mut self.rng).unwrap();
        self.engine = engine;
        self.commit(&effects.batch);
        self.handle(now_ms, Input::Listening { addresses: vec!["/sim/again".to_owned()] });
    }

    fn id(&self) -> NodeId {
        self.engine.me()
    }

    fn handle(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        let effects = self.engine.handle(now_ms, &mut self.rng, input);
        self.commit(&effects.batch);
        self.log.extend(effects.list.iter().cloned());
        effects.list
    }

    fn ask(&mut self, now_ms: u64, command: Command) -> Result<Response, CommandError> {
        let effects = self.handle(now_ms, Input::Command { id: 7, command });
        let reply = effects.into_iter().find_map(|effect| match effect {
            Effect::Reply { id: 7, result } => Some(result),
            _ => None,
        });
        reply.unwrap()
    }

    fn status(&mut self, now_ms: u64) -> StatusView {
        match self.ask(now_ms, Command::Status) {
            Ok(Response::Status(status)) => *status,
            other => panic!("{other:?}"),
        }
    }

    fn install(&mut self, now_ms: u64, text: &str) -> Result<InstalledView, CommandError> {
        let command = trust::Command::Install { text: text.to_owned() };
        match self.ask(now_ms, Command::Trust(command))? {
            Response::Trust(trust::Answer::Installed(installed)) => Ok(installed),
            other => panic!("{other:?}"),
        }
    }

    fn catalogue(&mut self, now_ms: u64) -> Vec<ResourceView> {
        match self.ask(
            now_ms,
            Command::Catalog { filter: String::new(), limit: 100, after: None, is_asking: false },
        ) {
            Ok(Response::Catalog(found)) => found,
            other => panic!("{other:?}"),
        }
    }

    /// Whose machines it knows.
    fn machines(&mut self, now_ms: u64) -> BTreeSet<NodeId> {
        let all = self.catalogue(now_ms).into_iter();
        all.filter(|view| view.resource.key == "compute/main").map(|view| view.author).collect()
    }

    fn greet(&mut self, now_ms: u64, peer: NodeId, hello: Vec<u8>) -> (bool, HelloReply, Vec<u8>) {
        let effects = self.handle(now_ms, Input::Hello { token: 1, peer, payload: hello });
        let found = effects.into_iter().find_map(|effect| match effect {
            Effect::Greet { is_welcome, reply, .. } => Some((is_welcome, reply)),
            _ => None,
        });
        let (is_welcome, reply) = found.unwrap();
        (is_welcome, HelloReply::decode(&reply).unwrap(), reply)
    }

    fn orgs(&mut self, command: trust::Command) -> Result<Vec<OrgView>, CommandError> {
        match self.ask(START_MS, Command::Trust(command))? {
            Response::Trust(trust::Answer::Orgs(orgs)) => Ok(orgs),
            Response::Trust(trust::Answer::Org(org)) => Ok(vec![*org]),
            other => panic!("{other:?}"),
        }
    }

    fn relate(&mut self, org: OrgId, change: RelationChange) -> OrgView {
        self.orgs(trust::Command::Relate { org, change }).unwrap().remove(0)
    }

    fn stance_of(&mut self, org: OrgId) -> Option<String> {
        let orgs = self.orgs(trust::Command::Orgs).unwrap();
        orgs.into_iter().find(|view| view.org == org).map(|view| view.stance)
    }

    fn invite(&mut self, now_ms: u64) -> catalog::cert::Ticket {
        self.invite_asking(now_ms, false)
    }

    fn invite_asking(&mut self, now_ms: u64, is_asking: bool) -> catalog::cert::Ticket {
        match self.ask(now_ms, Command::Invite { valid_ms: 60_000, is_asking }) {
            Ok(Response::Ticket(ticket)) => ticket,
            other => panic!("{other:?}"),
        }
    }
}

/// `guest` joins with a ticket of `host`; both are connected when it may.
fn join(guest: &mut Peer, host: &mut Peer, now_ms: u64) -> Result<(), CommandError> {
    let ticket = host.invite(now_ms);
    join_with(guest, host, ticket, now_ms)
}

fn join_with(
    guest: &mut Peer,
    host: &mut Peer,
    ticket: catalog::cert::Ticket,
    now_ms: u64,
) -> Result<(), CommandError> {
    let effects = guest.handle(now_ms, Input::Command { id: 9, command: Command::Join { ticket } });
    let hello = effects.into_iter().find_map(|effect| match effect {
        Effect::Connect { hello: Some(hello), .. } => Some(hello),
        _ => None,
    });
    connect_with(guest, host, hello.unwrap(), now_ms)
}

fn connect(guest: &mut Peer, host: &mut Peer, now_ms: u64) -> bool {
    let hello = guest.engine.hello();
    let (is_welcome, _, reply) = host.greet(now_ms, guest.id(), hello);
    guest.handle(now_ms, Input::ConnectEnded { peer: host.id(), result: Ok(reply) });
    if is_welcome {
        guest.handle(now_ms, Input::Connected { peer: host.id() });
        host.handle(now_ms, Input::Connected { peer: guest.id() });
    }
    is_welcome
}

fn connect_with(
    guest: &mut Peer,
    host: &mut Peer,
    hello: Vec<u8>,
    now_ms: u64,
) -> Result<(), CommandError> {
    let (is_welcome, _, reply) = host.greet(now_ms, guest.id(), hello);
    let effects = guest.handle(now_ms, Input::ConnectEnded { peer: host.id(), result: Ok(reply) });
    if is_welcome {
        guest.handle(now_ms, Input::Connected { peer: host.id() });
        host.handle(now_ms, Input::Connected { peer: guest.id() });
    }
    let reply = effects.into_iter().find_map(|effect| match effect {
        Effect::Reply { id: 9, result } => Some(result.map(drop)),
        _ => None,
    });
    reply.unwrap()
}

/// Carries messages and gossip among all, as if everybody were connected to everybody, until nothing moves.
fn pump(peers: &mut [&mut Peer], now_ms: u64) {
    for _ in 0..200 {
        let mut moved = false;
        for from in 0..peers.len() {
            let at = peers[from].seen;
            let news: Vec<Effect> = peers[from].log[at..].to_vec();
            peers[from].seen = peers[from].log.len();
            let sender = peers[from].id();
            for effect in news {
                match effect {
                    Effect::Send { to, payload } => {
                        let found = peers.iter_mut().find(|peer| peer.id() == to);
                        let Some(peer) = found else { continue };
                        peer.handle(now_ms, Input::Message { from: sender, payload });
                        moved = true;
                    }
                    Effect::Gossip { payload } => {
                        for peer in peers.iter_mut().filter(|peer| peer.id() != sender) {
                            let payload = payload.clone();
                            peer.handle(now_ms, Input::Gossip { token: 1, from: sender, payload });
                            moved = true;
                        }
                    }
                    _ => {}
                }
            }
        }
        if !moved {
            return;
        }
    }
    panic!("the nodes talk without end");
}

/// A list of organisation 1 that takes the node of `seed` back.
fn list(serial: u64, seeds: &[u8]) -> String {
    let mut keys: Vec<[u8; 32]> =
        seeds.iter().map(|seed| node_key(*seed).verifying_key().to_bytes()).collect();
    keys.sort_unstable();
    let org = org_key(1).verifying_key().into();
    let list = Revocations { org, serial, revoked: vec![], keys };
    armour::write(Kind::Revocations, &list.sign(&org_key(1)))
}

/// Organisation 1 with a node that holds its key and an enrolled one, and organisation 2, all connected.
fn world() -> (Peer, Peer, Peer) {
    let (mut front, mut second, mut other) = (Peer::root(1), Peer::enrolled(1, 3), Peer::root(2));
    join(&mut other, &mut front, START_MS).unwrap();
    join(&mut second, &mut front, START_MS).unwrap();
    assert!(connect(&mut second, &mut other, START_MS));
    pump(&mut [&mut front, &mut second, &mut other], START_MS);
    (front, second, other)
}

#[test]
fn a_node_enrolled_by_file_is_a_full_member_of_its_organisation() {
    let (mut front, mut second, mut other) = world();
    let all = BTreeSet::from([front.id(), second.id(), other.id()]);
    for peer in [&mut front, &mut second, &mut other] {
        assert_eq!(peer.machines(START_MS), all);
    }
    assert_eq!(second.status(START_MS).papers.signs_with, "nothing");
    assert_eq!(second.status(START_MS).org, front.status(START_MS).org);
    // It cannot admit another organisation, and says why.
    let mut stranger = Peer::root(4);
    let Err(CommandError::Join(JoinError::Refused { code, detail })) =
        join(&mut stranger, &mut second, START_MS)
    else {
        panic!("it is refused")
    };
    assert_eq!(code, RefuseCode::BadTicket.as_str());
    assert!(detail.contains("no key of its organisation"), "{detail}");
}

#[test]
fn a_revoked_node_is_put_out_everywhere_and_its_records_go() {
    let (mut front, mut second, mut other) = world();
    let installed = front.install(START_MS, &list(1, &[3])).unwrap();
    assert!(installed.is_new);
    pump(&mut [&mut front, &mut second, &mut other], START_MS);
    for peer in [&mut front, &mut other] {
        assert!(!peer.machines(START_MS).contains(&second.id()));
        let is_ended =
            |e: &Effect| matches!(e, Effect::Disconnect { peer } if *peer == second.id());
        assert!(peer.log.iter().any(is_ended), "the connection is ended");
        let (is_welcome, reply, _) = peer.greet(START_MS, second.id(), second.engine.hello());
        assert!(!is_welcome);
        let HelloReply::Refused { code, detail } = reply else { panic!("{reply:?}") };
        assert_eq!(code, RefuseCode::Revoked);
        assert!(detail.contains("revoked this node"), "{detail}");
    }
    // Who learnt of it by the catalogue keeps it over a restart, and an older list changes nothing.
    other.restart(START_MS + 1_000);
    let known = other.install(START_MS + 1_000, &list(1, &[])).unwrap();
    assert!(!known.is_new);
    assert!(!connect(&mut second, &mut other, START_MS + 1_000));
    // The node itself has heard of it, and does not connect to those who have not, either.
    let warning = second.status(START_MS).papers.warning;
    assert!(warning.is_some_and(|text| text.contains("revoked")));
}

#[test]
fn nobody_but_the_root_takes_papers_back() {
    let (mut front, second, mut other) = world();
    let org = org_key(1).verifying_key().into();
    let forged = Revocations::empty(org).with([*second.id().as_bytes()]).unwrap();
    let text = armour::write(Kind::Revocations, &forged.sign(&org_key(2)));
    assert!(matches!(
        other.install(START_MS, &text),
        Err(CommandError::Trust(trust::TrustError::Cert(_)))
    ));
    // A list of another organisation counts for that one only.
    let own = Revocations::empty(org_key(2).verifying_key().into());
    let text = own.with([*second.id().as_bytes()]).unwrap().sign(&org_key(2));
    assert!(front.install(START_MS, &armour::write(Kind::Revocations, &text)).unwrap().is_new);
    assert!(front.machines(START_MS).contains(&second.id()));
}

#[test]
fn an_organisation_that_was_admitted_can_be_put_out() {
    let (mut front, mut second, mut other) = world();
    let org = org_key(1).verifying_key().into();
    let guest = org_key(2).verifying_key().to_bytes();
    let list = Revocations::empty(org).with([guest]).unwrap().sign(&org_key(1));
    front.install(START_MS, &armour::write(Kind::Revocations, &list)).unwrap();
    pump(&mut [&mut front, &mut second], START_MS);
    for peer in [&mut front, &mut second] {
        assert!(!connect(&mut other, peer, START_MS));
    }
    // A new ticket does not undo it.
    let mut again = Peer::root(2);
    let refused = join(&mut again, &mut front, START_MS);
    assert!(matches!(refused, Err(CommandError::Join(JoinError::Refused { .. }))), "{refused:?}");
}

#[test]
fn an_enrolled_node_has_its_papers_renewed_by_a_node_with_a_key() {
    let (mut front, mut second, mut other) = world();
    let before = second.status(START_MS).papers.until_ms;
    let later = START_MS + 21 * DAY_MS;
    for peer in [&mut front, &mut second, &mut other] {
        peer.handle(later, Input::Tick);
    }
    assert!(second.status(later).papers.warning.is_some(), "nothing has come yet");
    pump(&mut [&mut front, &mut second, &mut other], later);
    let after = second.status(later).papers;
    assert!(after.until_ms > before + 15 * DAY_MS, "{after:?}");
    assert_eq!(after.warning, None);
    // It is kept, and it is what the node shows from then on.
    second.restart(START_MS + 35 * DAY_MS);
    assert_eq!(second.status(START_MS + 35 * DAY_MS).papers.until_ms, after.until_ms);
    front.handle(START_MS + 35 * DAY_MS, Input::Tick);
    assert!(connect(&mut second, &mut front, START_MS + 35 * DAY_MS));
}

#[test]
fn a_node_that_nobody_renews_says_so_and_takes_newer_papers_by_file() {
    let mut alone = Peer::enrolled(1, 3);
    let later = START_MS + 31 * DAY_MS;
    alone.handle(later, Input::Tick);
    assert!(alone.engine.poll_timeout() > later, "it does not spin");
    assert!(alone.status(later).papers.warning.is_some_and(|text| text.contains("org request")));
    let text = armour::write(Kind::Answer, &enrolled(1, 3, later).encode());
    assert!(alone.install(later, &text).unwrap().is_new);
    assert_eq!(alone.status(later).papers.warning, None);
    let foreign = armour::write(Kind::Answer, &enrolled(2, 3, later).encode());
    assert!(matches!(
        alone.install(later, &foreign),
        Err(CommandError::Trust(trust::TrustError::OtherOrg { .. }))
    ));
    let others = armour::write(Kind::Answer, &enrolled(1, 5, later).encode());
    assert!(matches!(
        alone.install(later, &others),
        Err(CommandError::Trust(trust::TrustError::Answer(_)))
    ));
}

fn org(seed: u8) -> OrgId {
    org_key(seed).verifying_key().into()
}

fn stance(stance: Stance) -> RelationChange {
    RelationChange { stance: Some(stance), ..RelationChange::default() }
}

/// The question of this number what a small task would cost, with a word about a person.
fn question(number: u8, person: Option<Vec<u8>>) -> Vec<u8> {
    let file = FileRef { digest: catalog::Digest::of(b"m"), size: 1, name: "m".to_owned() };
    let spec = TaskSpec {
        program: Program::Wasi { module: file, fuel: false },
        argv: Vec::new(),
        env: BTreeMap::new(),
        stdin: None,
        inputs: BTreeMap::new(),
        mounts: BTreeMap::new(),
        outputs: BTreeMap::new(),
        needs: Needs::default(),
        timeout_ms: 1_000,
        service: None,
        area: None,
    };
    let task = TaskId { step: 0, index: 0 };
    let attempt = AttemptId { run: RunId::from_bytes([number; 16]), task, number: 1 };
    let (request, spec) = ([number; 16], Box::new(spec));
    let asked =
        negotiate::Message::QuoteRequest { request, attempt, spec, max_price: None, person };
    NodeMessage::Task(asked).encode()
}

/// What a node answers a peer that asks for a small task with this number; nothing when it gives a quote.
fn answer(host: &mut Peer, from: NodeId, number: u8) -> Option<RefusalCode> {
    let payload = question(number, None);
    let effects = host.handle(START_MS, Input::Message { from, payload });
    let id = host.id();
    let mut answers = effects.iter().filter_map(|effect| match effect {
        Effect::Send { payload, .. } => match NodeMessage::decode(payload) {
            Ok(NodeMessage::Task(negotiate::Message::Quote { .. })) => Some(None),
            Ok(NodeMessage::Task(negotiate::Message::Refusal { refusal, .. })) => {
                Some(Some(Refusal::open(&refusal, &id).unwrap().code))
            }
            _ => None,
        },
        _ => None,
    });
    answers.next().expect("it answers at once")
}

#[test]
fn what_an_organisation_is_here_the_owner_alone_says() {
    let (mut front, _, mut other) = world();
    // That it founded the realm, and says so in a signed grant, makes nobody a partner.
    assert_eq!(other.stance_of(org(1)).as_deref(), Some("peer"));
    assert_eq!(other.relate(org(1), stance(Stance::Partner)).stance, "partner");
    assert_eq!(front.stance_of(org(2)).as_deref(), Some("peer"), "the other owner has not");
    other.restart(START_MS + 1_000);
    assert!(connect(&mut other, &mut front, START_MS + 1_000));
    assert_eq!(other.stance_of(org(1)).as_deref(), Some("partner"), "it is kept");

    assert_eq!(front.relate(org(2), stance(Stance::Blocked)).stance, "blocked");
    let is_ended = |e: &Effect| matches!(e, Effect::Disconnect { peer } if *peer == other.id());
    assert!(front.log.iter().any(is_ended), "the connection is ended");
    let (is_welcome, reply, _) = front.greet(START_MS, other.id(), other.engine.hello());
    let HelloReply::Refused { code, .. } = reply else { panic!("{reply:?}") };
    assert_eq!((is_welcome, code), (false, RefuseCode::Blocked));
    front.relate(org(2), stance(Stance::Peer));
    assert!(connect(&mut other, &mut front, START_MS));
    let own = front.orgs(trust::Command::Relate { org: org(1), change: stance(Stance::Blocked) });
    assert!(matches!(own, Err(CommandError::Trust(trust::TrustError::Own))));
}

#[test]
fn rights_and_limits_hold_for_what_begins() {
    let (mut front, second, other) = world();
    let (guest, sibling) = (other.id(), second.id());
    assert_eq!(answer(&mut front, guest, 1), None);
    front.relate(org(2), RelationChange { ask: Some(false), ..RelationChange::default() });
    assert_eq!(answer(&mut front, guest, 2), Some(RefusalCode::Policy));
    assert_eq!(answer(&mut front, sibling, 3), None, "the own organisation is not limited");
    let again = RelationChange { ask: Some(true), nodes_max: Some(1), ..RelationChange::default() };
    front.relate(org(2), again);
    assert_eq!(answer(&mut front, guest, 4), None);

    // One node of the organisation is here, and no more are taken; it may come back itself.
    let more = Peer::new(2, 7, Papers::root(org_key(2)));
    let mut hello = catalog::cert::Hello::decode(&other.engine.hello()).unwrap();
    hello.cert = catalog::cert::Hello::decode(&more.engine.hello()).unwrap().cert;
    let (_, reply, _) = front.greet(START_MS, more.id(), hello.encode());
    assert!(matches!(reply, HelloReply::Refused { code: RefuseCode::Full, .. }), "{reply:?}");
    assert!(front.greet(START_MS, guest, other.engine.hello()).0);

    let barred = |effects: &[Effect]| {
        effects.iter().rev().find_map(|effect| match effect {
            Effect::Bar { peer, is_barred } if *peer == guest => Some(*is_barred),
            _ => None,
        })
    };
    assert_eq!(barred(&front.log), None);
    front.relate(org(2), RelationChange { fetch: Some(false), ..RelationChange::default() });
    assert_eq!(barred(&front.log), Some(true));
    front.log.clear();
    front.handle(START_MS, Input::Disconnected { peer: guest });
    front.handle(START_MS, Input::Connected { peer: guest });
    assert_eq!(barred(&front.log), Some(true), "also when it comes again");
    front.relate(org(2), RelationChange { fetch: Some(true), ..RelationChange::default() });
    assert_eq!(barred(&front.log), Some(false));
}

#[test]
fn the_policies_take_from_peers_what_the_owner_left_them_and_give_it_back() {
    use node::engine::policy::Command as PolicyCommand;
    use node::policy::Policies;

    let (mut front, second, other) = world();
    let (guest, sibling) = (other.id(), second.id());
    let set = |front: &mut Peer, text: &str| {
        let policies = Policies::read([("team".to_owned(), text.to_owned())].into()).unwrap();
        let command = Command::Policy(PolicyCommand::Set(std::sync::Arc::new(policies)));
        front.log.clear();
        front.handle(START_MS, Input::Command { id: 77, command });
    };
    let barred = |effects: &[Effect]| {
        effects.iter().rev().find_map(|effect| match effect {
            Effect::Bar { peer, is_barred } if *peer == guest => Some(*is_barred),
            _ => None,
        })
    };
    let decided = |effects: &[Effect]| {
        effects.iter().rev().find_map(|effect| match effect {
            Effect::Decided { request, decision } => {
                Some((request.action.as_str(), decision.allowed, decision.policies.clone()))
            }
            _ => None,
        })
    };
    assert_eq!(answer(&mut front, guest, 1), None);
    let by_default = vec!["default/nodes".to_owned()];
    assert_eq!(decided(&front.log), Some(("quote", true, by_default)));

    // By what the work is: no other runtime is touched.
    set(
        &mut front,
        "forbid (principal, action == Action::\"quote\", resource) when { context has runtime && context.runtime == \"vm\" };",
    );
    assert_eq!(answer(&mut front, guest, 2), None);
    let runtime = "@id(\"no-wasi\") forbid (principal, action == Action::\"quote\", resource) when { context has runtime && context.runtime == \"wasi\" };";
    set(&mut front, runtime);
    assert_eq!(answer(&mut front, guest, 3), Some(RefusalCode::Policy));
    assert_eq!(decided(&front.log), Some(("quote", false, vec!["team/no-wasi".to_owned()])));
    assert_eq!(answer(&mut front, sibling, 4), None, "the own organisation is not asked about");

    // By whose it is: its nodes may neither fetch nor see, also when they come again, until the policies say otherwise.
    set(&mut front, &format!("forbid (principal in Org::\"{}\", action, resource);", org(2)));
    assert_eq!(barred(&front.log), Some(true));
    assert_eq!(answer(&mut front, guest, 5), Some(RefusalCode::Policy));
    front.log.clear();
    front.handle(START_MS, Input::Disconnected { peer: guest });
    front.handle(START_MS, Input::Connected { peer: guest });
    assert_eq!(barred(&front.log), Some(true));
    front.relate(org(2), RelationChange { fetch: Some(true), ..RelationChange::default() });
    assert!(!front.log.iter().any(|e| matches!(e, Effect::Bar { is_barred: false, .. })));
    set(&mut front, "");
    assert_eq!(barred(&front.log), Some(false));
    assert_eq!(answer(&mut front, guest, 6), None);

    // Policies give nothing that the owner has taken.
    front.relate(org(2), RelationChange { ask: Some(false), ..RelationChange::default() });
    set(&mut front, "permit (principal, action == Action::\"quote\", resource);");
    assert_eq!(answer(&mut front, guest, 7), Some(RefusalCode::Policy));
}

#[test]
fn the_network_is_told_whose_a_peer_is_and_whether_it_is_relayed_before_it_is_let_in() {
    let (mut front, second, mut other) = world();
    let (guest, sibling) = (other.id(), second.id());
    let told = |log: &[Effect], node| {
        log.iter().rev().find_map(|effect| match effect {
            Effect::Terms { peer, group, may_relay } if *peer == node => Some((*group, *may_relay)),
            _ => None,
        })
    };
    assert_eq!(told(&front.log, guest), Some((Some(org(2)), true)));
    assert_eq!(
        told(&front.log, sibling),
        Some((None, true)),
        "the own organisation shares no bound"
    );
    front.log.clear();
    let view =
        front.relate(org(2), RelationChange { relay: Some(false), ..RelationChange::default() });
    assert!(!view.relay && view.fetch && view.ask && view.see);
    assert_eq!(told(&front.log, guest), Some((Some(org(2)), false)));
    front.log.clear();
    front.relate(org(2), RelationChange { fetch: Some(false), ..RelationChange::default() });
    assert_eq!(told(&front.log, guest), None, "what stays is not told again");

    // Either side of a hello, and after a restart.
    front.restart(START_MS);
    front.log.clear();
    assert!(connect(&mut other, &mut front, START_MS));
    let place = |log: &[Effect], is_it: &dyn Fn(&Effect) -> bool| log.iter().position(is_it);
    let terms =
        place(&front.log, &|effect| matches!(effect, Effect::Terms { may_relay: false, .. }));
    let greet =
        place(&front.log, &|effect| matches!(effect, Effect::Greet { is_welcome: true, .. }));
    assert!(terms.is_some() && terms < greet, "{:?}", front.log);
    front.log.clear();
    assert!(connect(&mut front, &mut other, START_MS));
    let terms =
        place(&front.log, &|effect| matches!(effect, Effect::Terms { may_relay: false, .. }));
    let admit = place(&front.log, &|effect| matches!(effect, Effect::Admit { .. }));
    assert!(terms.is_some() && terms < admit, "{:?}", front.log);
}

#[test]
fn who_may_not_see_gets_no_restricted_record_and_no_hint_of_one() {
    let (mut front, _, mut other) = world();
    let blind = RelationChange { see: Some(false), ..RelationChange::default() };
    front.relate(org(2), blind);
    let resource = Resource {
        key: "service/secret".to_owned(),
        name: "Secret".to_owned(),
        short: String::new(),
        long: String::new(),
        logo: None,
        licence: None,
        terms: None,
        price: None,
        detail: Detail::Service(ServiceDetail {
            protocol: "http".to_owned(),
            version: String::new(),
            interface: None,
            region: String::new(),
            maturity: Maturity::Stable,
            reach: None,
        }),
    };
    let visibility = Visibility::Restricted(vec![org(2)]);
    let resource = Box::new(resource);
    front.ask(START_MS, Command::Publish { resource, visibility }).unwrap();
    let sees = |front: &mut Peer, other: &mut Peer| {
        assert!(connect(other, front, START_MS));
        pump(&mut [&mut *front, &mut *other], START_MS);
        other.catalogue(START_MS).iter().any(|view| view.resource.key == "service/secret")
    };
    assert!(!sees(&mut front, &mut other));
    front.relate(org(2), RelationChange { see: Some(true), ..RelationChange::default() });
    assert!(sees(&mut front, &mut other));
}

#[test]
fn content_is_public_while_somebody_publishes_it_to_all_and_nobody_restricts_it() {
    let (mut front, _, mut other) = world();
    let digest = catalog::Digest::of(b"content");
    let publish = |peer: &mut Peer, key: &str, visibility: Visibility| {
        let detail = Detail::Data(DataDetail {
            media_type: "text/plain".to_owned(),
            digest,
            size: 7,
            directory: false,
            quality: String::new(),
            personal: false,
            anonymised: false,
            open: true,
            update_s: None,
            residency: Vec::new(),
        });
        let (key, name, text) = (key.to_owned(), "Data".to_owned(), String::new);
        let resource = Box::new(Resource {
            key,
            name,
            short: text(),
            long: text(),
            logo: None,
            licence: None,
            terms: None,
            price: None,
            detail,
        });
        peer.ask(START_MS, Command::Publish { resource, visibility }).unwrap();
    };
    let withdraw = |peer: &mut Peer, key: &str| {
        peer.ask(START_MS, Command::Withdraw { key: key.to_owned() }).unwrap();
    };
    let public = |front: &mut Peer, other: &mut Peer| {
        pump(&mut [&mut *front, &mut *other], START_MS);
        let among = Some(BTreeSet::from([digest, catalog::Digest::of(b"more")]));
        match front.ask(START_MS, Command::PublicContents { among }) {
            Ok(Response::Contents(found)) => found.contains_key(&digest),
            answer => panic!("{answer:?}"),
        }
    };
    let publishers = |front: &mut Peer| match front.ask(START_MS, Command::Publishers { digest }) {
        Ok(Response::Located(nodes)) => nodes,
        answer => panic!("{answer:?}"),
    };
    publish(&mut front, "data/own", Visibility::Public);
    assert!(!public(&mut front, &mut other), "what is its own it publishes itself");
    withdraw(&mut front, "data/own");
    publish(&mut other, "data/theirs", Visibility::Public);
    assert!(public(&mut front, &mut other));
    assert_eq!(publishers(&mut front), [other.id()]);
    publish(&mut front, "data/own", Visibility::Restricted(Vec::new()));
    assert!(!public(&mut front, &mut other), "whoever publishes the same");
    assert_eq!(publishers(&mut front), []);
    withdraw(&mut front, "data/own");
    assert!(public(&mut front, &mut other));
    publish(&mut other, "data/for-one", Visibility::Restricted(vec![org(1)]));
    assert!(!public(&mut front, &mut other), "a record that this node alone may see restricts it");
    withdraw(&mut other, "data/for-one");
    assert!(public(&mut front, &mut other));
    withdraw(&mut other, "data/theirs");
    assert!(!public(&mut front, &mut other));
}

#[test]
fn an_owner_who_asked_to_be_asked_decides_who_comes_in() {
    let (mut host, mut guest, mut thief) = (Peer::root(1), Peer::root(2), Peer::root(4));
    let ticket = host.invite_asking(START_MS, true);
    for _ in 0..2 {
        let waits = join_with(&mut guest, &mut host, ticket.clone(), START_MS);
        assert!(matches!(waits, Err(CommandError::Join(JoinError::Pending { .. }))), "{waits:?}");
    }
    assert_eq!(host.stance_of(org(2)).as_deref(), Some("asking"));
    let stolen = join_with(&mut thief, &mut host, ticket.clone(), START_MS);
    assert!(matches!(
        stolen,
        Err(CommandError::Join(JoinError::Refused { code, .. })) if code == "used_ticket"
    ));
    let decide = |org, is_admitted| trust::Command::Decide { org, is_admitted };
    assert!(matches!(
        host.orgs(decide(org(4), true)),
        Err(CommandError::Trust(trust::TrustError::NotAsking { .. }))
    ));
    host.restart(START_MS + 1_000);
    host.orgs(decide(org(2), true)).unwrap();
    join_with(&mut guest, &mut host, ticket, START_MS + 2_000).unwrap();
    assert_eq!(host.stance_of(org(2)).as_deref(), Some("peer"));

    let ticket = host.invite_asking(START_MS + 3_000, true);
    let _ = join_with(&mut thief, &mut host, ticket.clone(), START_MS + 3_000);
    host.orgs(decide(org(4), false)).unwrap();
    let refused = join_with(&mut thief, &mut host, ticket, START_MS + 3_000);
    assert!(matches!(
        refused,
        Err(CommandError::Join(JoinError::Refused { detail, .. })) if detail.contains("said no")
    ));
}
