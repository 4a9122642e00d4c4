//! A seeded simulator of a whole mesh: a thousand catalogues that gossip, pull, lose messages, fail and are cut apart.
//!
//! Every node has the real [`Catalog`] and the real [`Pace`] of pulls. What lies below them is a model: `gossip` of
//! gossipsub as the fabric sets it up, `network` of regions, delays, losses and connections. Each byte is counted by node,
//! direction and purpose ([`tally`]), what the transport adds to it included. Events stand in one queue by virtual
//! microseconds, so a seed gives the same trace each time ([`World::trace`]). [`gates`] are the measured scenarios.
//!
//! Signatures would take most of the time, each of them checked a thousand times. The catalogues of a world share a
//! [`Memo`], so each is checked once.

pub mod gates;
mod gossip;
mod network;
mod setup;
pub mod tally;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use catalog::log::Version;
use catalog::memo::Memo;
use catalog::sync::SyncMessage;
use catalog::sync::pace::Pace;
use catalog::{Catalog, Change, Identity, NodeId, OrgId};
use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use gossip::Gossip;
use network::Link;
use tally::{Purpose, Tally};

/// Virtual time at which every world starts: a Unix time in milliseconds.
const START_MS: u64 = 1_800_000_000_000;
/// Microseconds of a millisecond and of a second.
const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;

/// What a world is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Names the world.
    pub seed: u64,
    /// Nodes, and authors.
    pub nodes: u32,
    /// Records of each.
    pub records: u32,
    /// Connections that each node opens; it has about twice as many.
    pub dials: usize,
    /// Gossip frames lost, of a thousand.
    pub loss: u64,
    /// Every how many nodes one is light; none when 0.
    pub light: u32,
}

impl Plan {
    /// A thousand nodes with 24 connections each.
    #[must_use]
    pub const fn thousand(seed: u64) -> Self {
        Self { seed, nodes: 1_000, records: 1, dials: 12, loss: 50, light: 0 }
    }
}

/// What happens. Small, for millions of them wait in one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Push { to: u32, from: u32, text: u32 },
    Have { to: u32, from: u32, text: u32 },
    Mail { to: u32, from: u32, slot: u32 },
    Beat { at: u32 },
    Round { at: u32 },
    Renew { at: u32 },
    Silent { a: u32, b: u32 },
    Dial { at: u32 },
    Redial { at: u32, to: u32, tries: u32 },
}

/// One simulated node.
#[derive(Debug)]
struct Node {
    id: NodeId,
    org: OrgId,
    key: SigningKey,
    identity: Identity,
    catalog: Catalog,
    pace: Pace,
    region: usize,
    is_up: bool,
    /// Which side of a partition it is on.
    side: u8,
    links: Vec<Link>,
    gossip: Gossip,
    tally: Tally,
}

/// A gossip message.
#[derive(Debug)]
struct Text {
    payload: Vec<u8>,
    /// Times at which live nodes got it first.
    reached_us: Vec<u64>,
    /// Copies that arrived.
    copies: u64,
}

/// A whole simulated mesh.
#[derive(Debug)]
pub struct World {
    plan: Plan,
    now_us: u64,
    rng: ChaCha8Rng,
    nodes: Vec<Node>,
    index: BTreeMap<NodeId, u32>,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    seq: u64,
    texts: Vec<Text>,
    mail: Vec<Option<SyncMessage>>,
    free: Vec<u32>,
    trace: u64,
    n_events: u64,
}

impl World {
    /// A world in agreement: every node holds what every other has published.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let mut world = Self {
            plan,
            now_us: 0,
            rng: ChaCha8Rng::seed_from_u64(plan.seed),
            nodes: Vec::new(),
            index: BTreeMap::new(),
            queue: BinaryHeap::new(),
            seq: 0,
            texts: Vec::new(),
            mail: Vec::new(),
            free: Vec::new(),
            trace: plan.seed,
            n_events: 0,
        };
        setup::populate(&mut world, &Memo::default());
        world
    }

    fn below(&mut self, n: u64) -> u64 {
        self.rng.next_u64() % n.max(1)
    }

    /// Whether a node is a light one: it keeps some kinds of records, and hears no gossip.
    const fn is_light(&self, at: u32) -> bool {
        self.plan.light != 0 && at % self.plan.light == 1
    }

    const fn now_ms(&self) -> u64 {
        START_MS + self.now_us / MS
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    fn schedule(&mut self, delay_us: u64, event: Event) {
        self.seq += 1;
        self.queue.push(Reverse((self.now_us + delay_us, self.seq, event)));
    }

    /// Lets virtual seconds pass.
    pub fn run_for(&mut self, seconds: u64) {
        self.run_until(self.now_us + seconds * SECOND);
    }

    fn run_until(&mut self, end: u64) {
        while let Some(Reverse((at, _, _))) = self.queue.peek() {
            if *at > end {
                break;
            }
            if let Some(Reverse((at, _, event))) = self.queue.pop() {
                self.now_us = at;
                self.n_events += 1;
                self.note(at);
                self.handle(event);
            }
        }
        self.now_us = end;
    }

    fn note(&mut self, value: u64) {
        self.trace = (self.trace.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Push { to, from, text } => self.on_push(to, from, text),
            Event::Have { to, from, text } => self.on_have(to, from, text),
            Event::Mail { to, from, slot } => self.on_mail(to, from, slot),
            Event::Beat { at } => self.on_beat(at),
            Event::Round { at } => self.on_round(at),
            Event::Renew { at } => self.on_renew(at),
            Event::Silent { a, b } => self.on_silent(a, b),
            Event::Dial { at } => self.on_dial(at),
            Event::Redial { at, to, tries } => self.on_redial(at, to, tries),
        }
    }

    /// Names everything that happened so far and everything that the nodes hold.
    #[must_use]
    pub fn trace(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.trace.to_le_bytes());
        for node in &self.nodes {
            hasher.update(&node.catalog.fingerprint());
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        u64::from_le_bytes(first)
    }

    /// How many events there were.
    #[must_use]
    pub const fn n_events(&self) -> u64 {
        self.n_events
    }

    /// Has a node publish a new record; with gossip, or so that it alone has it.
    fn publish(&mut self, at: u32, is_gossiped: bool) -> (NodeId, Version) {
        let now_ms = self.now_ms();
        let name = format!("v{}", self.now_us);
        let node = self.node_mut(at);
        let change = setup::data("data/0", &name);
        let published = node
            .catalog
            .publish(
                &node.key,
                &node.identity,
                now_ms,
                vec![Change::Put(change, catalog::record::Visibility::Public)],
            )
            .expect("a simulated node may publish");
        let mark = (node.id, node.catalog.own_version());
        for push in published.push.into_iter().filter(|_| is_gossiped) {
            self.originate(at, push);
        }
        mark
    }

    fn on_renew(&mut self, at: u32) {
        let now_ms = self.now_ms();
        let node = self.node_mut(at);
        let push =
            if node.is_up { node.catalog.renew(&node.key, &node.identity, now_ms) } else { None };
        let next_ms = node.catalog.next_renewal_ms().max(now_ms + 1_000);
        if let Some(push) = push {
            self.originate(at, push);
        }
        self.schedule((next_ms - now_ms) * MS, Event::Renew { at });
    }

    fn on_round(&mut self, at: u32) {
        let now_ms = self.now_ms();
        if now_ms < self.node(at).pace.next_ms() {
            return;
        }
        let peers = self.node(at).links.iter().map(|link| link.peer);
        let (light, full): (Vec<u32>, Vec<u32>) = peers.partition(|peer| self.is_light(*peer));
        let ids = |peers: Vec<u32>| -> Vec<NodeId> {
            peers.into_iter().map(|peer| self.node(peer).id).collect()
        };
        let (light, full) = (ids(light), ids(full));
        let mut rng = std::mem::replace(&mut self.rng, ChaCha8Rng::seed_from_u64(0));
        let node = self.node_mut(at);
        node.catalog.expire(now_ms);
        let peer = node.pace.begin(now_ms, &full, &light, || rng.next_u64());
        let next_ms = node.pace.next_ms();
        self.rng = rng;
        if let Some(peer) = peer.filter(|_| self.node(at).is_up) {
            let to = self.index[&peer];
            self.open_round(at, to);
        }
        self.schedule((next_ms - now_ms) * MS, Event::Round { at });
    }

    fn open_round(&mut self, at: u32, to: u32) {
        let message = self.node(at).catalog.start_sync();
        self.send_mail(at, to, message);
    }

    fn on_mail(&mut self, to: u32, from: u32, slot: u32) {
        let Some(message) = self.mail[slot as usize].take() else {
            return;
        };
        self.free.push(slot);
        let (now_ms, random) = (self.now_ms(), self.rng.next_u64());
        let sender = (self.node(from).id, self.node(from).org);
        let node = self.node_mut(to);
        if !node.is_up
            || (matches!(message, SyncMessage::Root { .. } | SyncMessage::LightRoot { .. })
                && !node.pace.is_free(now_ms, sender.0))
        {
            return;
        }
        let synced = node
            .catalog
            .handle_sync(now_ms, sender, message)
            .unwrap_or_else(|error| panic!("an honest message is refused: {error}"));
        assert_eq!(synced.faults, [], "an honest peer is never at fault");
        node.pace.note(now_ms, sender.0, &synced.replies);
        if synced.is_find() {
            node.pace.found(now_ms, random);
            let delay = node.pace.next_ms().saturating_sub(now_ms) * MS;
            self.schedule(delay, Event::Round { at: to });
        }
        for reply in synced.replies {
            self.send_mail(to, from, reply);
        }
    }

    fn send_mail(&mut self, from: u32, to: u32, message: SyncMessage) {
        let bytes = tally::mail_len(&message);
        self.node_mut(from).tally.sent(Purpose::Pull, bytes);
        if !self.can_reach(from, to) {
            return;
        }
        self.node_mut(to).tally.got(Purpose::Pull, bytes);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.mail.push(None);
            u32::try_from(self.mail.len() - 1).expect("fewer messages than addresses")
        });
        self.mail[slot as usize] = Some(message);
        let delay = self.delay(from, to);
        self.schedule(delay, Event::Mail { to, from, slot });
    }
}
