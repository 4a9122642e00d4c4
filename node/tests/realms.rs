//! Realms in a row, at the level of engines: who links with whom, what passes, and what does not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use accounting::PricePlan;
use catalog::ask::{AskMessage, Question};
use catalog::cert::armour::{self, Kind};
use catalog::cert::{Authority, Grant, HelloReply, RefuseCode, Request, Revocations, Role, Terms};
use catalog::cert::{GATEWAY_ROLE, Hello, LinkTicket, Membership, NodeCert, realm_id};
use catalog::index::{RealmDigest, Source};
use catalog::papers::Papers as ShownPapers;
use catalog::record::{
    ComputeDetail, Detail, Kinds, Maturity, Resource, ServiceDetail, Visibility,
};
use catalog::{Catalog, Digest, Filter, Limits, NodeId, OrgId, RealmId};
use ed25519_dalek::SigningKey;
use node::engine::command::{Command, CommandError, Response};
use node::engine::message::{Bytes, FenceMessage, LedgerMessage, NodeMessage, TrustMessage};
use node::engine::ports::Offers;
use node::engine::realms::{
    self, Answer, ERRAND_MS, LinkView, RealmView, RealmsError, RealmsMessage, ToldView,
};
use node::engine::{Effect, Engine, Input, Papers, Settings, Stored, Verdict};
use node::store::batch::Table;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;
use scheduler::task::{AttemptId, RunId, TaskId};

const MINUTE_MS: u64 = 60_000;
const START_MS: u64 = 1_800_000_000_000;

fn org_key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn node_key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed | 0x80; 32])
}

fn id(seed: u8) -> NodeId {
    node_key(seed).verifying_key().into()
}

fn org(seed: u8) -> OrgId {
    org_key(seed).verifying_key().into()
}

fn settings(seed: u8, is_gateway: bool) -> Settings {
    Settings {
        papers: Papers::root(org_key(seed)),
        node_key: node_key(seed),
        former: Vec::new(),
        light: None,
        org_name: format!("Org {seed}"),
        node_name: format!("node-{seed}"),
        price_plan: PricePlan::default(),
        compute: ComputeDetail {
            arch: "x86_64".to_owned(),
            runtimes: vec!["wasi".to_owned()],
            cpu_milli: 8_000,
            memory_bytes: 8 << 30,
            disk_bytes: 8 << 30,
            region: "eu".to_owned(),
            ..ComputeDetail::default()
        },
        tasks_max: 8,
        blocked: BTreeSet::new(),
        revocations: None,
        offers: Offers { is_gateway, ..Offers::default() },
    }
}

type Disk = BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>;

struct Peer {
    engine: Engine,
    settings: Settings,
    rng: ChaCha8Rng,
    disk: Disk,
}

/// Nodes by seed, and the wires between them.
struct World {
    nodes: BTreeMap<u8, Peer>,
    wires: BTreeSet<(u8, u8)>,
    /// Who does not answer dials and drops what it gets.
    dead: BTreeSet<u8>,
    queue: VecDeque<(u8, Effect)>,
    log: Vec<(u8, Effect)>,
    now_ms: u64,
}

fn commit(disk: &mut Disk, effects: &node::engine::Effects) {
    for op in &effects.batch.ops {
        let rows = disk.entry(op.table).or_default();
        match &op.value {
            Some(value) => rows.insert(op.key.clone(), value.clone()),
            None => rows.remove(&op.key),
        };
    }
}

fn pair(a: u8, b: u8) -> (u8, u8) {
    (a.min(b), a.max(b))
}

impl World {
    /// A node for each seed; those of `gateways` were started as such. Each founds a realm.
    fn new(seeds: &[u8], gateways: &[u8]) -> Self {
        let mut world = Self {
            nodes: BTreeMap::new(),
            wires: BTreeSet::new(),
            dead: BTreeSet::new(),
            queue: VecDeque::new(),
            log: Vec::new(),
            now_ms: START_MS,
        };
        seeds.iter().for_each(|seed| world.start(*seed, gateways.contains(seed)));
        world
    }

    fn start(&mut self, seed: u8, is_gateway: bool) {
        self.start_as(seed, settings(seed, is_gateway));
    }

    fn start_as(&mut self, seed: u8, settings: Settings) {
        let disk = self.nodes.remove(&seed).map(|peer| peer.disk).unwrap_or_default();
        let rows = |rows: &BTreeMap<Vec<u8>, Vec<u8>>| {
            rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let tables = disk.iter().map(|(table, of)| (*table, rows(of))).collect();
        let stored = Stored { tables, is_set_back: false };
        let mut rng = ChaCha8Rng::seed_from_u64(u64::from(seed));
        let (engine, effects) =
            Engine::recover(settings.clone(), &stored, self.now_ms, &mut rng).unwrap();
        let mut peer = Peer { engine, settings, rng, disk };
        commit(&mut peer.disk, &effects);
        self.queue.extend(effects.list.into_iter().map(|effect| (seed, effect)));
        self.nodes.insert(seed, peer);
        self.handle(seed, Input::Listening { addresses: vec![format!("/sim/{seed}")] });
        self.run();
    }

    fn handle(&mut self, seed: u8, input: Input) -> Vec<Effect> {
        let peer = self.nodes.get_mut(&seed).unwrap();
        let effects = peer.engine.handle(self.now_ms, &mut peer.rng, input);
        commit(&mut peer.disk, &effects);
        self.queue.extend(effects.list.iter().map(|effect| (seed, effect.clone())));
        effects.list
    }

    fn seed_of(&self, node: NodeId) -> Option<u8> {
        self.nodes.keys().copied().find(|seed| id(*seed) == node)
    }

    fn run(&mut self) {
        while let Some((seed, effect)) = self.queue.pop_front() {
            self.log.push((seed, effect.clone()));
            match effect {
                Effect::Connect { peer, hello, .. } => self.dial(seed, peer, hello),
                Effect::Send { to, payload } => {
                    let to = self.seed_of(to).filter(|to| self.wires.contains(&pair(seed, *to)));
                    if let Some(to) = to.filter(|to| !self.dead.contains(to)) {
                        self.handle(to, Input::Message { from: id(seed), payload });
                    }
                }
                Effect::Disconnect { peer } => {
                    if let Some(other) = self.seed_of(peer) {
                        self.cut(seed, other);
                    }
                }
                _ => {}
            }
        }
    }

    fn cut(&mut self, a: u8, b: u8) {
        if self.wires.remove(&pair(a, b)) {
            self.handle(a, Input::Disconnected { peer: id(b) });
            self.handle(b, Input::Disconnected { peer: id(a) });
        }
    }

    fn dial(&mut self, from: u8, peer: NodeId, hello: Option<Vec<u8>>) {
        let to = self.seed_of(peer).filter(|to| !self.dead.contains(to));
        let Some(to) = to else {
            let result = Err("nobody is there".to_owned());
            self.handle(from, Input::ConnectEnded { peer, result });
            return;
        };
        let payload = hello.unwrap_or_else(|| self.nodes[&from].engine.hello());
        let (is_welcome, reply) = self.greet(to, from, payload);
        let effects = self.handle(from, Input::ConnectEnded { peer, result: Ok(reply) });
        let is_admitted = effects.iter().any(|effect| matches!(effect, Effect::Admit { .. }));
        if is_welcome && is_admitted && self.wires.insert(pair(from, to)) {
            self.handle(from, Input::Connected { peer });
            self.handle(to, Input::Connected { peer: id(from) });
        }
    }

    fn greet(&mut self, to: u8, from: u8, payload: Vec<u8>) -> (bool, Vec<u8>) {
        let effects = self.handle(to, Input::Hello { token: 1, peer: id(from), payload });
        let found = effects.into_iter().find_map(|effect| match effect {
            Effect::Greet { is_welcome, reply, .. } => Some((is_welcome, reply)),
            _ => None,
        });
        found.unwrap()
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        for seed in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.handle(seed, Input::Tick);
        }
        self.run();
    }

    /// Gives an order, lets everything come of it, and gives the answer if there is one.
    fn order(&mut self, seed: u8, command: Command) -> Option<Result<Response, CommandError>> {
        self.log.clear();
        self.handle(seed, Input::Command { id: 7, command });
        self.run();
        self.answer(seed)
    }

    fn answer(&mut self, seed: u8) -> Option<Result<Response, CommandError>> {
        let at = self.log.iter().position(|(by, effect)| {
            *by == seed && matches!(effect, Effect::Reply { id: 7, .. })
        })?;
        match self.log.remove(at).1 {
            Effect::Reply { result, .. } => Some(result),
            _ => None,
        }
    }

    fn realms(&mut self, seed: u8, command: realms::Command) -> Result<Answer, CommandError> {
        match self.order(seed, Command::Realms(command)).unwrap()? {
            Response::Realms(answer) => Ok(answer),
            other => panic!("{other:?}"),
        }
    }

    fn view(&mut self, seed: u8) -> RealmView {
        match self.realms(seed, realms::Command::Show).unwrap() {
            Answer::Realm(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    fn ticket(&mut self, seed: u8) -> LinkTicket {
        let command = realms::Command::Invite { valid_ms: 10 * MINUTE_MS, is_asking: false };
        match self.realms(seed, command).unwrap() {
            Answer::Ticket(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn link(&mut self, from: u8, to: u8) -> LinkView {
        let ticket = self.ticket(to);
        match self.realms(from, realms::Command::Link { ticket }).unwrap() {
            Answer::Linked(view) => view,
            other => panic!("{other:?}"),
        }
    }

    /// Why a link is not made.
    fn no_link(&mut self, from: u8, ticket: LinkTicket) -> RealmsError {
        match self.realms(from, realms::Command::Link { ticket }).unwrap_err() {
            CommandError::Realms(error) => error,
            other => panic!("{other:?}"),
        }
    }

    /// Node `seed` becomes a member of the realm of node `of`.
    fn join(&mut self, seed: u8, of: u8) {
        let command = Command::Invite { valid_ms: 10 * MINUTE_MS, is_asking: false };
        let Some(Ok(Response::Ticket(ticket))) = self.order(of, command) else { panic!() };
        self.order(seed, Command::Join { ticket }).unwrap().unwrap();
        self.pass(1_000);
    }

    fn publish(&mut self, seed: u8, name: &str, visibility: Visibility) {
        let detail = ServiceDetail {
            protocol: "http".to_owned(),
            version: String::new(),
            interface: None,
            region: "de".to_owned(),
            maturity: Maturity::Stable,
            reach: None,
        };
        let resource = Resource {
            key: format!("service/{}", name.to_lowercase()),
            name: name.to_owned(),
            short: String::new(),
            long: String::new(),
            logo: None,
            licence: None,
            terms: None,
            price: None,
            detail: Detail::Service(detail),
        };
        let resource = Box::new(resource);
        self.order(seed, Command::Publish { resource, visibility }).unwrap().unwrap();
    }

    fn realm(&mut self, seed: u8) -> RealmId {
        self.view(seed).realm
    }

    fn search(&mut self, seed: u8, filter: &str) -> Option<ToldView> {
        let filter = filter.to_owned();
        let command = realms::Command::Search { filter, limit: 100 };
        self.order(seed, Command::Realms(command)).map(|result| told(result.unwrap()))
    }

    /// What a node makes of a message of a peer.
    fn tell(&mut self, to: u8, from: NodeId, message: &NodeMessage) -> Vec<Effect> {
        let effects = self.handle(to, Input::Message { from, payload: message.encode() });
        self.queue.clear();
        effects
    }
}

fn told(response: Response) -> ToldView {
    match response {
        Response::Realms(Answer::Found(told)) => *told,
        other => panic!("{other:?}"),
    }
}

fn names(told: &ToldView) -> Vec<&str> {
    told.resources.iter().map(|found| found.resource.resource.name.as_str()).collect()
}

fn is_penalized(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Penalize { .. }))
}

/// Realms 1, 2 and 3 in a row; node 4 is a member of the first.
fn row() -> World {
    let mut world = World::new(&[1, 2, 3, 4], &[1, 2, 3]);
    world.publish(3, "Tides", Visibility::Public);
    world.publish(3, "Wrecks", Visibility::Restricted(vec![org(1), org(2)]));
    world.join(4, 1);
    let link = world.link(1, 2);
    assert_eq!((link.org, link.gateways[0].id), (Some(org(2)), id(2)));
    assert!(world.view(1).links[0].gateways[0].connected);
    world.link(2, 3);
    world
}

#[test]
fn a_leaf_finds_what_is_public_two_realms_away() {
    let mut world = row();
    let (first, far) = (world.realm(1), world.realm(3));
    let view = world.view(1);
    let held: Vec<_> = view.digests.iter().map(|held| (held.digest.gateway, held.hops)).collect();
    assert_eq!(held.iter().copied().collect::<BTreeMap<_, _>>(), [(id(2), 0), (id(3), 1)].into());
    let of_far = view.digests.iter().find(|held| held.digest.realm == far).unwrap();
    assert_eq!((of_far.digest.resources, of_far.digest.org), (2, org(3)));
    assert!(of_far.bytes <= 4_096);
    let told = world.search(4, "name = Tides").unwrap();
    assert_eq!(names(&told), ["Tides"]);
    assert_eq!((told.resources[0].realm, told.resources[0].resource.org), (far, org(3)));
    let whom: Vec<_> = told.realms.iter().map(|r| (r.realm, r.gateway, r.org)).collect();
    assert_eq!(whom, [(far, id(3), org(3))]);
    assert_eq!((told.ruled_out, told.is_all), (1, true));
    assert!(told.silent.is_empty() && told.silent_gateways.is_empty());
    // Nothing of it is in the realm, and nothing of the realm shows another realm's name.
    let Some(Ok(Response::Catalog(own))) = world.order(
        4,
        Command::Catalog { filter: String::new(), limit: 100, after: None, is_asking: false },
    ) else {
        panic!()
    };
    assert!(own.iter().all(|view| view.resource.name != "Tides"));
    let there = world.search(3, "kind = compute").unwrap();
    assert_eq!(there.resources.len(), 3, "two machines of the first realm, one of the second");
    assert!(there.resources.iter().any(|found| found.realm == first));
}

#[test]
fn what_is_restricted_is_not_found_and_not_counted() {
    let mut world = row();
    // Even where the gateway's own organisation may see it.
    for filter in ["", "name = Wrecks", "kind = service", "restricted = true"] {
        for seeker in [1, 2, 4] {
            let told = world.search(seeker, filter).unwrap();
            assert!(!names(&told).contains(&"Wrecks"), "{filter}");
        }
    }
    let log = format!("{:?}", world.view(2).digests);
    assert!(!log.contains("Wrecks"));
}

#[test]
fn who_does_not_answer_is_named() {
    let mut world = row();
    let far = world.realm(3);
    world.dead.insert(3);
    assert!(world.search(4, "kind = service").is_none(), "it waits for the far realm");
    world.pass(ERRAND_MS);
    world.pass(5_000);
    let Some(Ok(answer)) = world.answer(4) else { panic!("{:?}", world.log) };
    let told = told(answer);
    assert_eq!((names(&told).len(), told.silent), (0, vec![far]));
    // Without its own gateway a leaf waits a little longer, and says so.
    world.dead.insert(1);
    assert!(world.search(4, "").is_none());
    world.pass(10_000);
    let Some(Ok(answer)) = world.answer(4) else { panic!() };
    assert_eq!(told_gateways(answer), [id(1)]);
    world.cut(4, 1);
    world.queue.clear();
    let error = world.realms(4, realms::Command::Search { filter: String::new(), limit: 1 });
    assert!(matches!(error, Err(CommandError::Realms(RealmsError::NobodyToAsk))));
}

fn told_gateways(response: Response) -> Vec<NodeId> {
    told(response).silent_gateways
}

/// One of each kind of message that members send.
fn of_members(realm: RealmId) -> Vec<NodeMessage> {
    let catalog = Catalog::new(id(9), realm, Limits::default());
    let digest = Digest::from_bytes([1; 32]);
    let question = Question { filter: Filter::default(), kinds: Kinds::ALL };
    let ledger =
        LedgerMessage { channel: digest, have: 0, quotes: Vec::new(), entries: Vec::new() };
    vec![
        NodeMessage::Catalog(catalog.start_sync()),
        NodeMessage::Ledger(ledger),
        NodeMessage::Fence(FenceMessage::SetBack { token: [1; 16] }),
        NodeMessage::Trust(TrustMessage::Renew),
        NodeMessage::Copies(scheduler::copies::Message::Kept { digest }),
        NodeMessage::Task(scheduler::negotiate::Message::Cancel {
            attempt: AttemptId {
                run: RunId::from_bytes([1; 16]),
                task: TaskId { step: 0, index: 0 },
                number: 1,
            },
        }),
        NodeMessage::Ask(AskMessage::Ask(question.ask(1, realm, None))),
        NodeMessage::Realms(RealmsMessage::Everywhere { id: 1, filter: String::new(), limit: 9 }),
        NodeMessage::Realms(RealmsMessage::Asked { id: 1, silent: Vec::new(), ruled_out: 0 }),
        NodeMessage::Realms(RealmsMessage::LetSpeak { grants: Vec::new() }),
    ]
}

#[test]
fn a_guest_that_asks_for_anything_else_is_refused_and_gets_nothing() {
    let mut world = row();
    let realm = world.realm(1);
    for message in of_members(realm) {
        let effects = world.tell(1, id(2), &message);
        assert!(is_penalized(&effects), "{message:?}");
        assert!(!effects.iter().any(|e| matches!(e, Effect::Send { .. })), "{message:?}");
        // A stranger is not even heard.
        assert!(world.tell(1, id(9), &message).is_empty(), "{message:?}");
    }
    let gossip = Input::Gossip { token: 3, from: id(2), payload: vec![0; 10] };
    let effects = world.handle(1, gossip);
    assert!(matches!(effects[..], [Effect::Verdict { verdict: Verdict::Ignore, .. }]));
    let garbage = world.handle(1, Input::Message { from: id(2), payload: vec![0xff; 9] });
    assert!(is_penalized(&garbage));
    // In half an hour of life, nothing but what this page names went to a guest, and it is no peer.
    world.queue.clear();
    world.log.clear();
    for _ in 0..60 {
        world.pass(30_000);
    }
    let sent = world.log.iter().filter_map(|(by, effect)| match effect {
        Effect::Send { to, payload } if *by == 1 && *to == id(2) => {
            Some(NodeMessage::decode(payload).unwrap())
        }
        _ => None,
    });
    let sent: Vec<_> = sent.collect();
    assert!(!sent.is_empty());
    for message in sent {
        assert!(matches!(message, NodeMessage::Realms(RealmsMessage::Digest { .. })));
    }
    let Some(Ok(Response::Peers(peers))) = world.order(1, Command::Peers) else { panic!() };
    assert!(peers.iter().all(|peer| peer.id != id(2)));
}

#[test]
fn a_ticket_for_links_links_once_and_admits_nobody() {
    let mut world = World::new(&[1, 2, 3, 5], &[1, 2, 3]);
    let ticket = world.ticket(2);
    // As an invitation it is worth nothing.
    let hello = Hello { secret: Some(ticket.0.secret), ..member_hello(&world, 1) };
    let joining = Hello { membership: Membership::default(), ..hello };
    let (is_welcome, reply) = world.greet(2, 1, joining.encode());
    assert!(!is_welcome);
    assert!(matches!(HelloReply::decode(&reply), Ok(HelloReply::Refused { .. })));
    world.queue.clear();
    assert!(matches!(world.no_link(5, ticket.clone()), RealmsError::NoGateway));
    assert!(matches!(world.no_link(2, ticket.clone()), RealmsError::SameRealm));
    world.realms(1, realms::Command::Link { ticket: ticket.clone() }).unwrap();
    assert_eq!(world.view(2).links.len(), 1);
    let error = world.no_link(3, ticket.clone());
    assert!(error.to_string().contains("used"), "{error}");
    world.now_ms += 11 * MINUTE_MS;
    assert!(matches!(world.no_link(3, ticket), RealmsError::Expired));
    // A ticket for members links nothing.
    let command = Command::Invite { valid_ms: MINUTE_MS, is_asking: false };
    let Some(Ok(Response::Ticket(plain))) = world.order(2, command) else { panic!() };
    let error = world.no_link(3, LinkTicket(plain));
    assert!(matches!(error, RealmsError::Refused { .. }), "{error}");
}

fn member_hello(world: &World, seed: u8) -> Hello {
    Hello::decode(&world.nodes[&seed].engine.hello()).unwrap()
}

#[test]
fn an_owner_who_wants_to_be_asked_decides() {
    let mut world = World::new(&[1, 2], &[1, 2]);
    let command = realms::Command::Invite { valid_ms: 10 * MINUTE_MS, is_asking: true };
    let Ok(Answer::Ticket(ticket)) = world.realms(2, command) else { panic!() };
    let error = world.no_link(1, ticket.clone());
    assert!(matches!(error, RealmsError::Pending { .. }), "{error}");
    assert!(world.view(2).links.is_empty());
    let decide = node::engine::trust::Command::Decide { org: org(1), is_admitted: true };
    world.order(2, Command::Trust(decide)).unwrap().unwrap();
    world.realms(1, realms::Command::Link { ticket }).unwrap();
    assert_eq!(world.view(2).links.len(), 1);
}

#[test]
fn unlinking_ends_it_for_both_and_the_ticket_with_it() {
    let mut world = World::new(&[1, 2], &[1, 2]);
    let ticket = world.ticket(2);
    world.realms(1, realms::Command::Link { ticket: ticket.clone() }).unwrap();
    let realm = world.realm(1);
    world.realms(2, realms::Command::Unlink { realm }).unwrap();
    assert!(world.wires.is_empty());
    let view = world.view(2);
    assert!(view.links.is_empty() && view.digests.is_empty());
    world.pass(10_000);
    assert!(world.wires.is_empty(), "the other one dials, and is refused");
    let error = world.view(1).links[0].gateways[0].last_error.clone().unwrap();
    assert!(error.contains(&RefuseCode::WrongRealm.to_string()), "{error}");
    let error = world.no_link(1, ticket);
    assert!(matches!(error, RealmsError::Refused { .. }), "{error}");
    let missing = world.realms(2, realms::Command::Unlink { realm });
    assert!(matches!(missing, Err(CommandError::Realms(RealmsError::NotLinked { .. }))));
}

#[test]
fn a_link_outlives_a_restart_of_a_gateway_and_ends_with_the_role() {
    let mut world = World::new(&[1, 2], &[1, 2]);
    world.link(1, 2);
    world.cut(1, 2);
    world.start(1, true);
    world.pass(5_000);
    assert!(world.wires.contains(&(1, 2)));
    assert_eq!(world.view(1).digests.len(), 1);
    world.cut(1, 2);
    world.start(1, false);
    world.pass(200_000);
    assert!(world.wires.is_empty(), "without its owner's word it is none");
    assert!(world.view(1).no_gateway.is_some());
}

#[test]
fn a_blocked_organisation_is_put_out_though_it_is_linked() {
    let mut world = World::new(&[1, 2], &[1, 2]);
    world.link(1, 2);
    let change = node::engine::relations::RelationChange {
        stance: Some(node::engine::relations::Stance::Blocked),
        ..Default::default()
    };
    let relate = node::engine::trust::Command::Relate { org: org(2), change };
    world.order(1, Command::Trust(relate)).unwrap().unwrap();
    assert!(world.wires.is_empty() && world.view(1).digests.is_empty());
    world.pass(60_000);
    assert!(world.wires.is_empty());
}

#[test]
fn a_member_speaks_when_the_realm_lets_it() {
    let mut world = World::new(&[1, 2, 4], &[1, 2, 4]);
    world.join(4, 1);
    let ticket = world.ticket(2);
    assert!(matches!(world.no_link(4, ticket.clone()), RealmsError::NotLet { .. }));
    let stranger = world.realms(1, realms::Command::LetSpeak { org: org(2) });
    assert!(matches!(stranger, Err(CommandError::Realms(RealmsError::NoMember { .. }))));
    world.realms(1, realms::Command::LetSpeak { org: org(4) }).unwrap();
    assert_eq!(world.view(4).no_gateway, None);
    world.realms(4, realms::Command::Link { ticket }).unwrap();
    let view = world.view(2);
    assert_eq!((view.links[0].org, view.digests.len()), (Some(org(4)), 1));
    // It keeps what it was given.
    world.start(4, true);
    assert_eq!(world.view(4).no_gateway, None);
}

/// A gateway of a realm that nobody of the world is in, and what it says.
fn invented(seed: u8, number: u64, now_ms: u64) -> RealmsMessage {
    let nonce = [seed; 16];
    let realm = realm_id(org(seed), &nonce);
    let grant = Grant {
        realm,
        founder_nonce: Some(nonce),
        issuer: org(seed),
        member: org(seed),
        member_name: "Anybody".to_owned(),
        role: Role::Peer,
        not_before_ms: now_ms - MINUTE_MS,
        not_after_ms: now_ms + 1_000 * MINUTE_MS,
        serial: 1,
        issuer_cert: None,
    };
    let cert = NodeCert {
        org: org(seed),
        org_name: "Anybody".to_owned(),
        name: "gate".to_owned(),
        node: id(seed),
        generation: 1,
        roles: vec![GATEWAY_ROLE.to_owned()],
        realms: Vec::new(),
        not_before_ms: now_ms - MINUTE_MS,
        not_after_ms: now_ms + 1_000 * MINUTE_MS,
        serial: 1,
        issuer: None,
        successions: None,
    };
    let papers = ShownPapers {
        author: id(seed),
        cert: cert.sign(&org_key(seed)),
        membership: Membership { grants: vec![grant.sign(&org_key(seed))] },
    };
    let catalog = Catalog::new(id(seed), realm, Limits::default());
    let source = Source { gateway: id(seed), number, addresses: &[], now_ms };
    let signed = RealmDigest::build(&catalog, source).sign(&node_key(seed));
    RealmsMessage::Digest { signed: Bytes(signed), papers: Bytes(papers.encode()), hops: 3 }
}

fn passed_on(effects: &[Effect]) -> usize {
    let is_told = |effect: &&Effect| match effect {
        Effect::Send { payload, .. } => !matches!(
            NodeMessage::decode(payload),
            Ok(NodeMessage::Realms(RealmsMessage::AskLists { .. }))
        ),
        _ => false,
    };
    effects.iter().filter(is_told).count()
}

#[test]
fn a_liar_forges_nothing_replays_nothing_and_floods_its_own_link_alone() {
    let mut world = row();
    let now_ms = world.now_ms;
    let first = invented(20, 5, now_ms);
    // Taken, and passed on to the one other link; once.
    let effects = world.tell(2, id(1), &NodeMessage::Realms(first.clone()));
    assert_eq!((passed_on(&effects), is_penalized(&effects)), (1, false));
    assert_eq!(passed_on(&world.tell(2, id(1), &NodeMessage::Realms(first.clone()))), 0);
    // An older one brings nothing, a newer one not at once.
    for (number, later_ms, taken) in [(4, 61_000, 0), (6, 1_000, 0), (6, 61_000, 1)] {
        world.now_ms = now_ms + later_ms;
        let next = NodeMessage::Realms(invented(20, number, world.now_ms));
        assert_eq!(passed_on(&world.tell(2, id(1), &next)), taken, "{number} {later_ms}");
    }
    // Another realm's name on it, or another gateway's papers: a lie.
    let RealmsMessage::Digest { signed, .. } = invented(21, 1, world.now_ms) else { panic!() };
    let RealmsMessage::Digest { papers, .. } = first else { panic!() };
    let forged = RealmsMessage::Digest { signed, papers, hops: 0 };
    assert!(is_penalized(&world.tell(2, id(1), &NodeMessage::Realms(forged))));
    // Sixty-four places for each link: the flood drives out what came the same way.
    let far = world.realm(3);
    for seed in 22..120 {
        world.tell(2, id(1), &NodeMessage::Realms(invented(seed, 1, world.now_ms)));
    }
    let view = world.view(2);
    assert_eq!(view.digests.len(), 64 + 1);
    assert!(view.digests.iter().any(|held| held.digest.realm == far));
    assert!(view.digests.iter().any(|held| held.digest.gateway == id(1)), "the nearest stays");
    // And all that was invented is over within the hour.
    world.queue.clear();
    world.pass(60 * MINUTE_MS);
    let left = world.view(2).digests;
    assert!(left.iter().all(|held| [id(1), id(3)].contains(&held.digest.gateway)), "{left:?}");
}

#[test]
fn an_answer_that_nobody_asked_for_is_left_alone() {
    let mut world = row();
    let far = world.realm(3);
    let told = realms::Told {
        id: 1,
        realm: far,
        pushes: vec![Bytes(vec![1; 100])],
        is_all: true,
        digest: Bytes(Vec::new()),
        papers: Bytes(Vec::new()),
    };
    let message = NodeMessage::Realms(RealmsMessage::Told(told));
    assert!(world.tell(1, id(2), &message).is_empty());
    assert!(world.tell(4, id(1), &message).is_empty());
    // Questions beyond fifty in ten seconds go unanswered. What the two told each other when they met counts, too.
    world.now_ms += 11_000;
    let second = world.realm(2);
    let ask = |id| {
        let filter = String::new();
        NodeMessage::Realms(RealmsMessage::Ask { id, realm: second, filter, limit: 9, hops: 0 })
    };
    let answers = (0..60).map(|n| passed_on(&world.tell(2, id(1), &ask(n)))).sum::<usize>();
    assert_eq!(answers, 50);
}

/// A list by which an organisation takes back a node.
fn revoking(owner: u8, node: u8) -> Vec<u8> {
    let list = Revocations::empty(org(owner)).with([*id(node).as_bytes()]).unwrap();
    list.sign(&org_key(owner))
}

impl World {
    fn install(&mut self, seed: u8, list: &[u8]) {
        let text = armour::write(Kind::Revocations, list);
        let install = node::engine::trust::Command::Install { text };
        self.order(seed, Command::Trust(install)).unwrap().unwrap();
    }

    /// Whose gateways a node holds digests of.
    fn digests(&mut self, seed: u8) -> BTreeSet<NodeId> {
        self.view(seed).digests.iter().map(|held| held.digest.gateway).collect()
    }
}

/// Two realms: of 1, and of 2 with 4, which it lets speak. A third one, of 3, is behind that of 1.
fn two_gateways() -> World {
    let mut world = World::new(&[1, 2, 3, 4], &[1, 2, 3, 4]);
    world.join(4, 2);
    world.realms(2, realms::Command::LetSpeak { org: org(4) }).unwrap();
    world.link(1, 4);
    world.link(3, 1);
    world
}

#[test]
fn a_gateway_that_was_revoked_is_put_out_by_the_realms_that_know_it() {
    let mut world = two_gateways();
    world.link(1, 2);
    assert_eq!(world.digests(3), BTreeSet::from([id(1), id(2), id(4)]));
    world.install(2, &revoking(4, 4));
    assert!(!world.wires.contains(&pair(1, 4)), "it is put out");
    assert_eq!(world.digests(1), BTreeSet::from([id(2), id(3)]));
    assert_eq!(world.digests(3), BTreeSet::from([id(1), id(2)]), "and so it is a link farther");
    // For good.
    world.start(1, true);
    world.pass(60_000);
    assert!(!world.wires.contains(&pair(1, 4)));
}

#[test]
fn a_list_that_was_missed_is_asked_for_when_another_gateway_comes() {
    let mut world = two_gateways();
    world.install(2, &revoking(4, 4));
    assert!(world.wires.contains(&pair(1, 4)), "nobody has told it");
    world.link(1, 2);
    assert!(!world.wires.contains(&pair(1, 4)));
    assert_eq!(world.digests(1), BTreeSet::from([id(2), id(3)]));
}

#[test]
fn lists_across_a_link_are_of_those_who_gave_papers_to_gateways_and_not_forged() {
    let mut world = row();
    let lists =
        |list: Vec<u8>| NodeMessage::Realms(RealmsMessage::Lists { lists: vec![Bytes(list)] });
    let rows = |world: &World| world.nodes[&1].disk[&Table::Members].len();
    let before = rows(&world);
    // Of an organisation that nobody has heard of: nothing is kept.
    let effects = world.tell(1, id(2), &lists(revoking(77, 78)));
    assert!(effects.is_empty() && rows(&world) == before, "{effects:?}");
    let mut forged = revoking(2, 2);
    *forged.last_mut().unwrap() ^= 1;
    assert!(is_penalized(&world.tell(1, id(2), &lists(forged))));
    assert!(world.wires.contains(&pair(1, 2)));
    // And a member has no lists of other realms to tell.
    assert!(is_penalized(&world.tell(1, id(4), &lists(revoking(2, 2)))));
}

#[test]
fn a_node_that_was_enrolled_by_file_is_a_gateway_by_its_papers_and_its_owners_word() {
    let mut world = World::new(&[2], &[2]);
    for (is_asked, is_started) in [(true, true), (true, false), (false, true)] {
        let request = Request {
            node: id(5),
            name: "gate".to_owned(),
            generation: 1,
            issuer: None,
            made_ms: START_MS,
            successions: None,
            gateway: is_asked.then_some(true),
        };
        let terms = Terms {
            org_name: "Org 5".to_owned(),
            life_ms: 1_000 * MINUTE_MS,
            now_ms: START_MS,
            nonce: [5; 16],
            serial: 5,
        };
        let answer = request.answer(&Authority::root(org_key(5)), &terms).unwrap();
        let papers = Papers::Enrolled(Box::new(answer));
        world.nodes.remove(&5);
        world.start_as(5, Settings { papers, ..settings(5, is_started) });
        let ticket = world.ticket(2);
        match (is_asked, is_started) {
            (true, true) => {
                world.realms(5, realms::Command::Link { ticket }).unwrap();
                assert_eq!((world.view(5).no_gateway, world.digests(2).len()), (None, 1));
                let ours = world.realm(5);
                world.realms(2, realms::Command::Unlink { realm: ours }).unwrap();
            }
            (_, false) => assert!(matches!(world.no_link(5, ticket), RealmsError::NoGateway)),
            (false, _) => assert!(matches!(world.no_link(5, ticket), RealmsError::NoKey)),
        }
    }
}

#[test]
fn settings_of_a_gateway_show_in_its_certificate() {
    let world = World::new(&[1, 2], &[1]);
    let roles = |seed| NodeCert::verify(&member_hello(&world, seed).cert, START_MS).unwrap().roles;
    assert_eq!((roles(1), roles(2)), (vec![GATEWAY_ROLE.to_owned()], Vec::new()));
    assert!(world.nodes[&1].settings.offers.is_gateway);
}
