//! Engines of one realm, all connected, whose messages a test carries.

use std::collections::{BTreeSet, VecDeque};

use accounting::PricePlan;
use catalog::ask::{Ask, AskMessage};
use catalog::record::{
    ComputeDetail, DataDetail, Detail, Kinds, Maturity, Resource, ServiceDetail, Visibility,
};
use catalog::{Digest, NodeId, RealmId};
use ed25519_dalek::SigningKey;
use node::engine::command::{Command, CommandError, Response};
use node::engine::message::NodeMessage;
use node::engine::{Effect, Effects, Engine, Input, Papers, Settings, Stored};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

const NOW_MS: u64 = 1_800_000_000_000;

struct Peer {
    engine: Engine,
    rng: ChaCha8Rng,
    reply: Option<Result<Response, CommandError>>,
}

/// Messages on their way: from, to, bytes.
type Mail = VecDeque<(NodeId, NodeId, Vec<u8>)>;

/// See the module.
pub(crate) struct Realm {
    peers: Vec<Peer>,
    mail: Mail,
    now_ms: u64,
}

/// What of a step's effects concerns another node.
pub(crate) trait Sent {
    /// The messages to one node.
    fn sent_to(&self, to: NodeId) -> Vec<NodeMessage>;
}

impl Sent for Effects {
    fn sent_to(&self, wanted: NodeId) -> Vec<NodeMessage> {
        let sent = self.list.iter().filter_map(|effect| match effect {
            Effect::Send { to, payload } if *to == wanted => NodeMessage::decode(payload).ok(),
            _ => None,
        });
        sent.collect()
    }
}

pub(crate) fn penalties(effects: &Effects) -> usize {
    effects.list.iter().filter(|e| matches!(e, Effect::Penalize { .. })).count()
}

pub(crate) fn service(key: &str, name: &str) -> Resource {
    Resource {
        key: key.to_owned(),
        name: name.to_owned(),
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
            region: "eu".to_owned(),
            maturity: Maturity::Stable,
            reach: None,
        }),
    }
}

pub(crate) fn data(key: &str, name: &str) -> Resource {
    let detail = DataDetail {
        media_type: "text/plain".to_owned(),
        digest: Digest::of(name.as_bytes()),
        size: 1,
        directory: false,
        quality: String::new(),
        personal: false,
        anonymised: false,
        open: true,
        update_s: None,
        residency: vec![],
    };
    Resource { detail: Detail::Data(detail), ..service(key, name) }
}

fn settings(seed: u8) -> Settings {
    Settings {
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
    }
}

impl Realm {
    /// So many nodes of as many organisations; the first one founded the realm.
    pub(crate) fn of(nodes: u8) -> Self {
        let mut realm = Self { peers: Vec::new(), mail: Mail::new(), now_ms: NOW_MS };
        for seed in 1..=nodes {
            realm.add(settings(seed));
        }
        realm
    }

    /// One more node, a light one.
    pub(crate) fn add_light(&mut self, kinds: Kinds) -> usize {
        let at = self.peers.len();
        let seed = u8::try_from(at + 1).unwrap();
        self.add(Settings { light: Some(kinds), ..settings(seed) });
        at
    }

    /// Lets a node open a round of comparison with another, and carries it.
    pub(crate) fn compare(&mut self, from: usize, to: usize) {
        let (a, b) = (self.id(from), self.id(to));
        for (at, peer) in [(to, a), (from, b)] {
            // A new connection begins with one.
            self.handle(at, Input::Connected { peer });
        }
        self.pump();
    }

    /// One more node, that joins and is connected to all.
    fn add(&mut self, settings: Settings) {
        let at = self.peers.len();
        let mut rng = ChaCha8Rng::seed_from_u64(at as u64);
        let addresses = vec![format!("/sim/{at}")];
        let (engine, _) =
            Engine::recover(settings, &Stored::default(), self.now_ms, &mut rng).unwrap();
        self.peers.push(Peer { engine, rng, reply: None });
        self.handle(at, Input::Listening { addresses });
        if at > 0 {
            let invite = Command::Invite { valid_ms: 60_000, is_asking: false };
            let Ok(Response::Ticket(ticket)) = self.run(0, invite) else { panic!("no ticket") };
            let effects = self.start(at, Command::Join { ticket });
            let hello = effects.into_iter().find_map(|effect| match effect {
                Effect::Connect { hello: Some(hello), .. } => Some(hello),
                _ => None,
            });
            self.connect(at, 0, hello.unwrap());
        }
        for other in 1..at {
            let hello = self.peers[at].engine.hello();
            self.connect(at, other, hello);
        }
        self.pump();
    }

    fn connect(&mut self, from: usize, to: usize, hello: Vec<u8>) {
        let (a, b) = (self.id(from), self.id(to));
        let effects = self.handle(to, Input::Hello { token: 1, peer: a, payload: hello });
        let reply = effects.list.into_iter().find_map(|effect| match effect {
            Effect::Greet { is_welcome: true, reply, .. } => Some(reply),
            _ => None,
        });
        self.handle(from, Input::ConnectEnded { peer: b, result: Ok(reply.unwrap()) });
        self.handle(to, Input::Connected { peer: a });
        self.handle(from, Input::Connected { peer: b });
        self.pump();
    }

    pub(crate) fn id(&self, at: usize) -> NodeId {
        self.peers[at].engine.me()
    }

    pub(crate) fn realm(&mut self) -> RealmId {
        match self.run(0, Command::Status) {
            Ok(Response::Status(status)) => status.realm,
            other => panic!("{other:?}"),
        }
    }

    /// One step of a node; its messages wait to be carried.
    pub(crate) fn handle(&mut self, at: usize, input: Input) -> Effects {
        let from = self.id(at);
        let peer = &mut self.peers[at];
        let effects = peer.engine.handle(self.now_ms, &mut peer.rng, input);
        for effect in &effects.list {
            match effect {
                Effect::Send { to, payload } => self.mail.push_back((from, *to, payload.clone())),
                Effect::Reply { result, .. } => peer.reply = Some(result.clone()),
                _ => {}
            }
        }
        effects
    }

    /// Carries every message until nothing moves.
    pub(crate) fn pump(&mut self) {
        for _ in 0..10_000 {
            let Some((from, to, payload)) = self.mail.pop_front() else { return };
            if let Some(at) = (0..self.peers.len()).find(|at| self.id(*at) == to) {
                self.handle(at, Input::Message { from, payload });
            }
        }
        panic!("engines talk without end");
    }

    /// Loses every message on its way.
    pub(crate) fn drop_mail(&mut self) {
        self.mail.clear();
    }

    /// Loses the messages on their way to a node.
    pub(crate) fn drop_mail_to(&mut self, to: NodeId) {
        self.mail.retain(|(_, addressee, _)| *addressee != to);
    }

    /// The question that is on its way to a node.
    pub(crate) fn ask_to(&self, to: NodeId) -> Option<Ask> {
        self.mail.iter().filter(|(_, addressee, _)| *addressee == to).find_map(|(.., payload)| {
            match NodeMessage::decode(payload) {
                Ok(NodeMessage::Ask(AskMessage::Ask(ask))) => Some(ask),
                _ => None,
            }
        })
    }

    /// Lets time pass for all.
    pub(crate) fn later(&mut self, ms: u64) {
        self.now_ms += ms;
        for at in 0..self.peers.len() {
            self.handle(at, Input::Tick);
        }
    }

    /// Gives a command, and carries nothing.
    pub(crate) fn start(&mut self, at: usize, command: Command) -> Vec<Effect> {
        self.peers[at].reply = None;
        self.handle(at, Input::Command { id: 1, command }).list
    }

    /// The answer to the command last given.
    pub(crate) fn reply(&mut self, at: usize) -> Option<Result<Response, CommandError>> {
        self.peers[at].reply.take()
    }

    /// Gives a command and carries messages until it is answered.
    pub(crate) fn run(&mut self, at: usize, command: Command) -> Result<Response, CommandError> {
        self.start(at, command);
        self.pump();
        self.reply(at).unwrap()
    }

    /// Publishes a resource that nobody else hears of by gossip.
    pub(crate) fn publish(&mut self, at: usize, resource: Resource) {
        let publish =
            Command::Publish { resource: Box::new(resource), visibility: Visibility::Public };
        self.run(at, publish).unwrap();
    }
}
