//! Collaborative areas at the level of engines: organisations whose messages are carried by hand, and a store each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use accounting::PricePlan;
use catalog::area::Standing;
use catalog::record::{ComputeDetail, ShareKind};
use catalog::{Digest, NodeId, OrgId};
use ed25519_dalek::SigningKey;
use node::engine::areas::{self, Answer, AreaSummary, AreaView};
use node::engine::command::{Command, CommandError, Response};
use node::engine::workspaces::{self, Workspace};
use node::engine::{Effect, Engine, Input, Papers, Settings, Stored};
use node::store::batch::{Batch, Table};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

const START_MS: u64 = 1_800_000_000_000;

struct Peer {
    engine: Engine,
    rng: ChaCha8Rng,
    settings: Settings,
    disk: BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>,
    log: Vec<Effect>,
    seen: usize,
    blobs: BTreeSet<Digest>,
    open_to: BTreeMap<Digest, BTreeSet<NodeId>>,
    org: OrgId,
}

impl Peer {
    fn new(seed: u8) -> Self {
        let settings = Settings {
            papers: Papers::root(SigningKey::from_bytes(&[seed; 32])),
            node_key: SigningKey::from_bytes(&[seed | 0x80; 32]),
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
        let mut rng = ChaCha8Rng::seed_from_u64(u64::from(seed));
        let (engine, effects) =
            Engine::recover(settings.clone(), &Stored::default(), START_MS, &mut rng).unwrap();
        let (disk, log) = (BTreeMap::new(), effects.list);
        let (blobs, open_to) = (BTreeSet::new(), BTreeMap::new());
        let org = SigningKey::from_bytes(&[seed; 32]).verifying_key().into();
        let mut peer = Self { engine, rng, settings, disk, log, seen: 0, blobs, open_to, org };
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
        self.log.extend(effects.list);
        self.handle(now_ms, Input::Listening { addresses: vec!["/sim/again".to_owned()] });
    }

    fn id(&self) -> NodeId {
        self.engine.me()
    }

    fn org(&self) -> OrgId {
        self.org
    }

    fn handle(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        let effects = self.engine.handle(now_ms, &mut self.rng, input);
        self.commit(&effects.batch);
        self.log.extend(effects.list.iter().cloned());
        effects.list
    }

    fn ask(&mut self, now_ms: u64, command: Command) -> Result<Response, CommandError> {
        let effects = self.handle(now_ms, Input::Command { id: 1, command });
        let found = effects.into_iter().find_map(|effect| match effect {
            Effect::Reply { id: 1, result } => Some(result),
            _ => None,
        });
        found.unwrap()
    }

    fn order(&mut self, now_ms: u64, command: areas::Command) -> Result<AreaView, CommandError> {
        match self.ask(now_ms, Command::Area(command))? {
            Response::Area(Answer::One(view)) => Ok(*view),
            other => panic!("{other:?}"),
        }
    }

    fn areas(&mut self, now_ms: u64) -> Vec<AreaSummary> {
        match self.ask(now_ms, Command::Area(areas::Command::List)) {
            Ok(Response::Area(Answer::List(all))) => all,
            other => panic!("{other:?}"),
        }
    }
}

fn connect(guest: &mut Peer, host: &mut Peer, hello: Option<Vec<u8>>, now_ms: u64) {
    let (guest_id, host_id) = (guest.id(), host.id());
    let payload = hello.unwrap_or_else(|| guest.engine.hello());
    let effects = host.handle(now_ms, Input::Hello { token: 1, peer: guest_id, payload });
    let reply = effects.into_iter().find_map(|effect| match effect {
        Effect::Greet { is_welcome: true, reply, .. } => Some(reply),
        _ => None,
    });
    let result = Ok(reply.unwrap());
    guest.handle(now_ms, Input::ConnectEnded { peer: host_id, result });
    guest.handle(now_ms, Input::Connected { peer: host_id });
    host.handle(now_ms, Input::Connected { peer: guest_id });
}

fn join(guest: &mut Peer, host: &mut Peer) {
    let command = Command::Invite { valid_ms: 60_000, is_asking: false };
    let Ok(Response::Ticket(ticket)) = host.ask(START_MS, command) else { panic!() };
    let effects =
        guest.handle(START_MS, Input::Command { id: 9, command: Command::Join { ticket } });
    let hello = effects.into_iter().find_map(|effect| match effect {
        Effect::Connect { hello: Some(hello), .. } => Some(hello),
        _ => None,
    });
    connect(guest, host, hello, START_MS);
}

/// Nodes of one organisation each, all of them connected to all that are alive.
struct World {
    peers: Vec<Peer>,
    dead: BTreeSet<usize>,
    now_ms: u64,
}

impl World {
    fn new(n: u8) -> Self {
        let mut peers: Vec<Peer> = (1..=n).map(Peer::new).collect();
        for guest in 1..peers.len() {
            let (hosts, guests) = peers.split_at_mut(guest);
            join(&mut guests[0], &mut hosts[0]);
            for host in &mut hosts[1..] {
                connect(&mut guests[0], host, None, START_MS);
            }
        }
        let mut world = Self { peers, dead: BTreeSet::new(), now_ms: START_MS };
        world.pump();
        world
    }

    /// Carries messages, gossip and contents until nothing moves.
    fn pump(&mut self) {
        for _ in 0..500 {
            let mut moved = false;
            for from in 0..self.peers.len() {
                let at = self.peers[from].seen;
                let news: Vec<Effect> = self.peers[from].log[at..].to_vec();
                self.peers[from].seen = self.peers[from].log.len();
                if !self.dead.contains(&from) {
                    news.into_iter().for_each(|effect| moved |= self.carry(from, effect));
                }
            }
            if !moved {
                return;
            }
        }
        panic!("the nodes talk without end");
    }

    fn carry(&mut self, from: usize, effect: Effect) -> bool {
        let (sender, now_ms) = (self.peers[from].id(), self.now_ms);
        let dead = self.dead.clone();
        let others = self.peers.iter_mut().enumerate();
        let mut alive = others.filter(|(n, _)| *n != from && !dead.contains(n)).map(|(_, p)| p);
        match effect {
            Effect::Send { to, payload } => {
                let Some(peer) = alive.find(|peer| peer.id() == to) else { return false };
                peer.handle(now_ms, Input::Message { from: sender, payload });
            }
            Effect::Gossip { payload } => alive.for_each(|peer| {
                let payload = payload.clone();
                peer.handle(now_ms, Input::Gossip { token: 1, from: sender, payload });
            }),
            Effect::Keep { blobs } => {
                let digests = blobs.iter().map(|bytes| Digest::of(bytes));
                self.peers[from].blobs.extend(digests);
            }
            Effect::OpenTo { digest, peers } => {
                drop(self.peers[from].open_to.insert(digest, peers));
                return false;
            }
            Effect::Close { digest } => {
                self.peers[from].open_to.remove(&digest);
                return false;
            }
            Effect::Fetch { job, from: source, blobs, others } => {
                let digest = blobs[0].digest;
                let may = |peer: &&mut Peer| {
                    let named = peer.id() == source
                        || others.get(&digest).is_some_and(|all| all.contains(&peer.id()));
                    let open = peer.open_to.get(&digest).is_some_and(|to| to.contains(&sender));
                    named && open && peer.blobs.contains(&digest)
                };
                let result = if alive.any(|peer| may(&peer)) {
                    self.peers[from].blobs.insert(digest);
                    Ok(())
                } else {
                    Err(scheduler::task::Failure {
                        class: scheduler::task::FailureClass::Infra,
                        exit_code: None,
                        detail: "nobody gives it".to_owned(),
                    })
                };
                self.peers[from].handle(now_ms, Input::Fetched { job, result });
            }
            _ => return false,
        }
        true
    }

    fn order(&mut self, who: usize, command: areas::Command) -> AreaView {
        let view = self.peers[who].order(self.now_ms, command).unwrap();
        self.pump();
        view
    }

    fn show(&mut self, who: usize, id: Digest) -> AreaView {
        let now_ms = self.now_ms;
        self.peers[who].order(now_ms, areas::Command::Show { id }).unwrap()
    }

    fn org(&self, who: usize) -> OrgId {
        self.peers[who].org()
    }

    /// The first founds an area and invites all, who join.
    fn area(&mut self) -> Digest {
        let (name, about) = ("valley".to_owned(), "floods".to_owned());
        let view = self.order(0, areas::Command::Create { name, about, rules: None });
        let id: Digest = format!("blake3:{}", view.id).parse().unwrap();
        for who in 1..self.peers.len() {
            let org = self.org(who);
            self.order(0, areas::Command::Admit { id, org });
        }
        for who in 1..self.peers.len() {
            self.order(who, areas::Command::Join { id });
        }
        id
    }

    fn members(&mut self, who: usize, id: Digest) -> BTreeSet<OrgId> {
        self.show(who, id).members.into_iter().map(|member| member.org).collect()
    }

    fn share(&mut self, who: usize, id: Digest, name: &str, notes: &str) -> AreaView {
        let workspace = Workspace { notes: notes.to_owned(), ..Workspace::default() };
        let put = workspaces::Command::Put {
            name: name.to_owned(),
            version: 0,
            workspace: Box::new(workspace),
        };
        let now_ms = self.now_ms;
        self.peers[who].ask(now_ms, Command::Workspace(put)).unwrap();
        let (kind, name, document) = (ShareKind::Workspace, name.to_owned(), None);
        self.order(who, areas::Command::Share { id, kind, name, document })
    }
}

#[test]
fn members_share_and_go_on_without_the_founder() {
    let mut world = World::new(3);
    let id = world.area();
    let all: BTreeSet<OrgId> = (0..3).map(|who| world.org(who)).collect();
    for who in 0..3 {
        assert_eq!(world.members(who, id), all, "{who}");
    }
    world.share(0, id, "floods", "of the founder");
    let seen = world.show(2, id).shared;
    assert_eq!((seen.len(), &*seen[0].name, seen[0].here), (1, "floods", true));

    // The founder is gone for ever, and each of the others starts again.
    world.dead.insert(0);
    let now_ms = world.now_ms + 5_000;
    world.now_ms = now_ms;
    world.peers[1].restart(now_ms);
    world.peers[2].restart(now_ms);
    let (left, right) = world.peers.split_at_mut(2);
    connect(&mut right[0], &mut left[1], None, now_ms);
    world.pump();
    assert_eq!(world.members(1, id), all);
    assert_eq!(world.show(2, id).shared[0].name, "floods", "what it shared stays");

    world.share(1, id, "maps", "of the second");
    assert_eq!(world.show(2, id).shared.len(), 2);
    let rules = catalog::rules::RuleBook::default();
    world.order(1, areas::Command::Propose { id, rules });
    assert_eq!(world.show(2, id).rules.number, 0, "one of three is no majority");
    let org = world.org(1);
    world.order(2, areas::Command::Accept { id, org });
    assert_eq!((world.show(1, id).rules.number, world.show(2, id).rules.number), (1, 1));

    // Two of three put the founder out.
    let founder = world.org(0);
    world.order(1, areas::Command::Expel { id, org: founder });
    world.order(2, areas::Command::Expel { id, org: founder });
    for who in 1..3 {
        assert_eq!(world.members(who, id).len(), 2, "{who}");
        assert_eq!(world.show(who, id).shared.len(), 1, "its shares are gone");
    }
}

#[test]
fn who_is_put_out_sees_nothing_more_and_gets_nothing() {
    let mut world = World::new(3);
    let id = world.area();
    let shared = world.share(0, id, "floods", "old").shared.remove(0).digest;
    let (out, out_node) = (world.org(2), world.peers[2].id());
    assert!(world.peers[0].open_to[&shared].contains(&out_node));
    world.order(0, areas::Command::Expel { id, org: out });
    assert_eq!(world.show(2, id).expelling.len(), 1, "it sees that it is wanted out");
    world.order(1, areas::Command::Expel { id, org: out });

    let view = world.show(2, id);
    assert_eq!((view.standing, view.shared.len()), (Standing::Expelled, 0));
    assert!(view.members.is_empty(), "{:?}", view.members);
    assert!(!world.peers[0].open_to[&shared].contains(&out_node));
    world.share(0, id, "maps", "new");
    let digest = world.show(1, id).shared.iter().find(|s| s.name == "maps").unwrap().digest;
    assert!(!world.peers[2].blobs.contains(&digest));
    assert!(world.show(2, id).shared.is_empty());
    let (kind, name, document) = (ShareKind::Workspace, "floods".to_owned(), None);
    let refused = world.peers[2]
        .order(START_MS, areas::Command::Share { id, kind, name, document })
        .unwrap_err();
    assert!(refused.to_string().contains("no member"), "{refused}");

    // It may be invited anew.
    world.order(0, areas::Command::Admit { id, org: out });
    world.order(1, areas::Command::Admit { id, org: out });
    assert_eq!(world.show(2, id).standing, Standing::Invited);
    world.order(2, areas::Command::Join { id });
    assert_eq!(world.show(2, id).standing, Standing::Member);
    assert_eq!(world.show(2, id).shared.len(), 2);
}

#[test]
fn nobody_but_those_who_are_wanted_hears_of_an_area() {
    let mut world = World::new(3);
    let (name, about) = ("quiet".to_owned(), String::new());
    let view = world.order(0, areas::Command::Create { name, about, rules: None });
    let id: Digest = format!("blake3:{}", view.id).parse().unwrap();
    let org = world.org(1);
    world.order(0, areas::Command::Admit { id, org });
    assert_eq!(world.peers[1].areas(START_MS)[0].standing, Standing::Invited);
    assert!(world.peers[2].areas(START_MS).is_empty());
    let catalog =
        Command::Catalog { filter: String::new(), limit: 100, after: None, is_asking: false };
    let Ok(Response::Catalog(found)) = world.peers[1].ask(START_MS, catalog) else { panic!() };
    assert!(found.iter().all(|view| view.resource.kind().as_str() != "area"), "{found:?}");

    // Who declines sees it no more, until somebody invites anew.
    let forget = Command::Area(areas::Command::Forget { id });
    world.peers[1].ask(START_MS, forget).unwrap();
    world.pump();
    assert!(world.peers[1].areas(START_MS).is_empty());
    world.order(0, areas::Command::Expel { id, org });
    world.order(0, areas::Command::Admit { id, org });
    assert_eq!(world.peers[1].areas(START_MS).len(), 1);
    world.order(1, areas::Command::Join { id });
    world.order(0, areas::Command::Leave { id });
    assert_eq!(world.show(1, id).members.len(), 1, "the founder may leave");
    assert_eq!(world.show(0, id).standing, Standing::Left);
}
