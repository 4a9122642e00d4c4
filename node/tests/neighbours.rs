//! Good peers, neighbours and the room there is for others, at the level of one engine among nodes that are carried by hand.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use accounting::PricePlan;
use catalog::cert::{Hello, HelloReply, Membership, NodeCert, RefuseCode, Ticket};
use catalog::record::ComputeDetail;
use catalog::{NodeId, OrgId, RealmId};
use ed25519_dalek::SigningKey;
use node::engine::command::{Command, PeerView, Response};
use node::engine::relations::{RelationChange, Stance};
use node::engine::trust;
use node::engine::{Effect, Engine, GoodPeer, Input, Papers, Settings, Stored};
use node::store::batch::Table;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

const START_MS: u64 = 1_800_000_000_000;
/// Nodes of one organisation that are connected at once, and known.
const CONNECTED: u16 = 128;
const KNOWN: usize = 500;
/// Nodes that come at once: a few more than get in.
const WAVE: u16 = CONNECTED + 2;

/// A node with what it has on its disk.
struct Host {
    engine: Engine,
    rng: ChaCha8Rng,
    now_ms: u64,
    settings: Settings,
    truth: BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>,
    good: BTreeMap<NodeId, GoodPeer>,
    /// For whom it holds a place.
    held: BTreeSet<NodeId>,
    /// What it gossiped last.
    gossip: Vec<u8>,
}

/// An organisation that has been admitted, with as many nodes as it likes.
struct Org {
    key: SigningKey,
    realm: RealmId,
    membership: Membership,
}

impl Org {
    fn id(&self) -> OrgId {
        self.key.verifying_key().into()
    }

    fn node(&self, n: u16) -> NodeId {
        self.node_key(n).verifying_key().into()
    }

    fn node_key(&self, n: u16) -> SigningKey {
        let mut seed = self.key.to_bytes();
        seed[30..].copy_from_slice(&(n + 1).to_be_bytes());
        SigningKey::from_bytes(&seed)
    }

    fn hello(&self, n: u16, secret: Option<[u8; 16]>) -> Vec<u8> {
        let cert = NodeCert {
            org: self.id(),
            org_name: "Org".to_owned(),
            name: format!("node-{n}"),
            node: self.node(n),
            generation: 1,
            roles: vec![],
            realms: vec![],
            not_before_ms: START_MS - 1,
            not_after_ms: START_MS + 20 * 24 * 3_600_000,
            serial: 1,
            issuer: None,
            successions: None,
        };
        let (realm, membership) = (self.realm, self.membership.clone());
        Hello { cert: cert.sign(&self.key), realm, membership, secret }.encode()
    }
}

impl Host {
    fn new() -> Self {
        let settings = Settings {
            papers: Papers::root(SigningKey::from_bytes(&[1; 32])),
            node_key: SigningKey::from_bytes(&[0x81; 32]),
            former: Vec::new(),
            org_name: "Host".to_owned(),
            node_name: "host".to_owned(),
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
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let (engine, effects) =
            Engine::recover(settings.clone(), &Stored::default(), START_MS, &mut rng).unwrap();
        let (truth, good, held) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let (now_ms, gossip) = (START_MS, Vec::new());
        let mut host = Self { engine, rng, now_ms, settings, truth, good, held, gossip };
        host.keep(effects.batch);
        host.handle(Input::Listening { addresses: vec!["/sim/host".to_owned()] });
        host
    }

    fn keep(&mut self, batch: node::store::batch::Batch) {
        for op in batch.ops {
            let rows = self.truth.entry(op.table).or_default();
            match op.value {
                Some(value) => rows.insert(op.key, value),
                None => rows.remove(&op.key),
            };
        }
    }

    fn handle(&mut self, input: Input) -> Vec<Effect> {
        self.now_ms += 1;
        let effects = self.engine.handle(self.now_ms, &mut self.rng, input);
        self.keep(effects.batch);
        for effect in &effects.list {
            match effect {
                Effect::Remember { peer, good } => drop(self.good.insert(*peer, good.clone())),
                Effect::Forget { peer } => drop(self.good.remove(peer)),
                Effect::Hold { peers } => self.held.clone_from(peers),
                Effect::Gossip { payload } => self.gossip.clone_from(payload),
                _ => {}
            }
        }
        assert!(self.good.len() <= 200);
        effects.list
    }

    /// The process dies, and begins again with what is on the disk. Nobody tells it of a peer.
    fn restart(&mut self) {
        let rows = |rows: &BTreeMap<Vec<u8>, Vec<u8>>| rows.clone().into_iter().collect();
        let tables = self.truth.iter().map(|(table, of)| (*table, rows(of))).collect();
        let stored = Stored { tables, is_set_back: false };
        self.now_ms += 5_000;
        let settings = self.settings.clone();
        let (engine, effects) =
            Engine::recover(settings, &stored, self.now_ms, &mut self.rng).unwrap();
        self.engine = engine;
        self.keep(effects.batch);
        let good = self.good.clone().into_iter().collect();
        for peer in self.engine.recall_peers(self.now_ms, good) {
            self.good.remove(&peer);
        }
    }

    fn ask(&mut self, command: Command) -> Response {
        let answered = self.handle(Input::Command { id: 1, command }).into_iter();
        let reply = answered.rev().find_map(|effect| match effect {
            Effect::Reply { result, .. } => Some(result),
            _ => None,
        });
        reply.unwrap().unwrap()
    }

    fn peers(&mut self) -> Vec<PeerView> {
        let Response::Peers(peers) = self.ask(Command::Peers) else { panic!("no peers") };
        peers
    }

    fn neighbours(&mut self) -> BTreeSet<NodeId> {
        self.peers().iter().filter(|peer| peer.is_neighbour).map(|peer| peer.id).collect()
    }

    /// Invites an organisation, which joins with a first node.
    fn admit(&mut self, seed: u8) -> Org {
        let invite = Command::Invite { valid_ms: 3_600_000, is_asking: false };
        let Response::Ticket(Ticket { realm, secret, .. }) = self.ask(invite) else {
            panic!("no ticket")
        };
        let key = SigningKey::from_bytes(&[seed; 32]);
        let org = Org { key, realm, membership: Membership { grants: Vec::new() } };
        match self.greet(org.node(0), org.hello(0, Some(secret))) {
            HelloReply::Accepted { granted, .. } => Org { membership: granted.unwrap(), ..org },
            refused @ HelloReply::Refused { .. } => panic!("{refused:?}"),
        }
    }

    fn greet(&mut self, peer: NodeId, hello: Vec<u8>) -> HelloReply {
        let done = self.handle(Input::Hello { token: 1, peer, payload: hello });
        let reply = done.into_iter().find_map(|effect| match effect {
            Effect::Greet { reply, .. } => Some(reply),
            _ => None,
        });
        HelloReply::decode(&reply.unwrap()).unwrap()
    }

    /// A node is found, greets and connects. Why it is not let in, if so.
    fn connect(&mut self, org: &Org, n: u16) -> Option<RefuseCode> {
        let (peer, addresses) = (org.node(n), address(org, n));
        self.handle(Input::Discovered { peer, addresses });
        match self.greet(peer, org.hello(n, None)) {
            HelloReply::Accepted { .. } => drop(self.handle(Input::Connected { peer })),
            HelloReply::Refused { code, .. } => {
                let result = Err("it refused".to_owned());
                self.handle(Input::ConnectEnded { peer, result });
                return Some(code);
            }
        }
        None
    }

    fn disconnect(&mut self, peer: NodeId) {
        self.handle(Input::Disconnected { peer });
    }

    /// Whom it dials in its next round.
    fn dials(&mut self) -> BTreeMap<NodeId, Vec<String>> {
        self.now_ms += 2_000;
        let dials = self.handle(Input::Tick).into_iter().filter_map(|effect| match effect {
            Effect::Connect { peer, addresses, .. } => Some((peer, addresses)),
            _ => None,
        });
        dials.collect()
    }
}

fn address(org: &Org, n: u16) -> Vec<String> {
    vec![format!("/dns4/n{n}.o{}.example/tcp/7", org.key.to_bytes()[0])]
}

#[test]
fn good_peers_are_dialled_after_a_restart_without_anybody_who_tells_of_them() {
    let mut host = Host::new();
    let orgs: Vec<Org> = (2..8).map(|seed| host.admit(seed)).collect();
    for org in &orgs {
        assert_eq!(host.connect(org, 0), None);
    }
    let (liar, blocked, orgs) = (&orgs[0], &orgs[1], &orgs[2..]);
    // A proven lie, and the owner's word, make an end of it.
    let mut forged = host.gossip.clone();
    // In the head, which comes first and is signed.
    forged[100] ^= 1;
    host.handle(Input::Gossip { token: 1, from: liar.node(0), payload: forged });
    host.disconnect(liar.node(0));
    let stance = Some(Stance::Blocked);
    let change = RelationChange { stance, ..RelationChange::default() };
    host.ask(Command::Trust(trust::Command::Relate { org: blocked.id(), change }));
    let good: BTreeSet<NodeId> = host.good.keys().copied().collect();
    assert_eq!(good, orgs.iter().map(|org| org.node(0)).collect());
    host.restart();
    let expected: BTreeMap<_, _> = orgs.iter().map(|org| (org.node(0), address(org, 0))).collect();
    assert_eq!(host.dials(), expected);
    assert_eq!(host.held.len(), 3, "and a place is held for some of them: {:?}", host.held);
    assert!(host.held.iter().all(|peer| expected.contains_key(peer)));
    // Whom it meets again is good again.
    host.now_ms += 2 * 3_600_000;
    assert_eq!(host.connect(&orgs[0], 0), None);
    let seen: BTreeSet<u64> = host.good.values().map(|good| good.seen_ms).collect();
    assert!(seen.last().is_some_and(|last| *last + 10 > host.now_ms), "{seen:?}");
}

#[test]
fn an_organisation_of_hundreds_of_nodes_fills_no_table_and_displaces_no_neighbour() {
    let mut host = Host::new();
    let flood = host.admit(66);
    // It is there first, and takes all the places that one organisation gets.
    let refused: Vec<RefuseCode> = (0..WAVE).filter_map(|n| host.connect(&flood, n)).collect();
    assert_eq!(refused, [RefuseCode::Full; 2]);
    assert_eq!(host.neighbours().len(), 3, "while there is nobody else");
    let orgs: Vec<Org> = (2..5).map(|seed| host.admit(seed)).collect();
    for org in &orgs {
        assert_eq!(host.connect(org, 0), None);
    }
    let of_others: BTreeSet<NodeId> = orgs.iter().map(|org| org.node(0)).collect();
    let neighbours = host.neighbours();
    assert_eq!(neighbours.intersection(&of_others).count(), 2, "one place is that of the flood");
    // Wave after wave of it, all with keys of their own.
    for wave in 1..5 {
        let first = wave * WAVE;
        (first - WAVE..first).for_each(|n| host.disconnect(flood.node(n)));
        assert!((first..first + CONNECTED).all(|n| host.connect(&flood, n).is_none()));
        assert_eq!(host.neighbours(), of_others, "wave {wave}");
    }
    let peers = host.peers();
    let of_flood = peers.iter().filter(|peer| peer.org == flood.id()).count();
    assert_eq!(of_flood, KNOWN, "of 640 that were let in");
    assert!(of_others.iter().all(|id| peers.iter().any(|peer| peer.id == *id && peer.connected)));
    let dialled: BTreeSet<NodeId> = host.engine.inspect().dialled().collect();
    assert!(dialled.len() <= 2 * KNOWN + of_others.len(), "{}", dialled.len());
    assert!(of_others.is_subset(&dialled));
    let good: BTreeSet<NodeId> = host.good.keys().copied().collect();
    assert!(good.len() == 200 && of_others.is_subset(&good));
    // While the others are away, they keep their places, and the flood has the one of an organisation.
    of_others.iter().for_each(|peer| host.disconnect(*peer));
    assert_eq!(host.held.intersection(&of_others).count(), 2, "{:?}", host.held);
    // After a restart each organisation has its turn in the first round of dials.
    host.restart();
    let dials: BTreeSet<NodeId> = host.dials().into_keys().collect();
    assert!(dials.len() <= 16 && of_others.is_subset(&dials), "{dials:?}");
}
