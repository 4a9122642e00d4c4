//! The model of gossipsub as the fabric sets it up: a mesh of 3 to 8 peers, lazy gossip to six others, content-named
//! messages that are passed on after the application's verdict. Scores and IDONTWANT (for messages above 1000 bytes) are
//! left out: the one changes nothing among honest peers, the other only saves bytes.

use super::tally::{Purpose, control_len, push_len};
use super::{Event, MS, SECOND, Text, World};

/// Mesh peers: wanted, fewest, most; of them dialled by this side.
const MESH: usize = 4;
const MESH_LOW: usize = 3;
const MESH_HIGH: usize = 8;
const MESH_OWN: usize = 1;
/// Between two heartbeats.
const BEAT_US: u64 = SECOND;
/// Peers outside the mesh that hear of new messages at each heartbeat.
const LAZY: usize = 6;
/// Heartbeats for which a message is announced, and for which it can be asked for.
const HISTORY_TOLD: usize = 4;
const HISTORY: usize = 6;
/// A message asked for is not asked for again for this long.
const ASKED_US: u64 = SECOND;

/// What one node knows of gossip.
#[derive(Debug, Default)]
pub(super) struct Gossip {
    pub(super) mesh: Vec<u32>,
    seen: Vec<u64>,
    /// Messages by heartbeat, newest first.
    history: [Vec<u32>; HISTORY],
    asked: Vec<(u32, u64)>,
}

impl Gossip {
    fn has_seen(&self, text: u32) -> bool {
        let (at, bit) = (text as usize / 64, text % 64);
        self.seen.get(at).is_some_and(|word| word >> bit & 1 == 1)
    }

    /// Notes a message; `false` when it was known.
    fn see(&mut self, text: u32) -> bool {
        let (at, bit) = (text as usize / 64, text % 64);
        if self.seen.len() <= at {
            self.seen.resize(at + 1, 0);
        }
        let is_new = self.seen[at] >> bit & 1 == 0;
        self.seen[at] |= 1 << bit;
        is_new
    }
}

impl World {
    pub(super) fn first_beat(&mut self, at: u32) {
        let phase = self.below(BEAT_US);
        self.schedule(phase, Event::Beat { at });
    }

    /// Gossips a message of a node's own.
    pub(super) fn originate(&mut self, at: u32, payload: Vec<u8>) {
        let text = u32::try_from(self.texts.len()).expect("fewer messages than ids");
        self.texts.push(Text { payload, reached_us: Vec::new(), copies: 0 });
        self.node_mut(at).gossip.see(text);
        self.node_mut(at).gossip.history[0].push(text);
        let mut to = self.node(at).gossip.mesh.clone();
        if to.len() < MESH {
            let more = self.pick_outside(at, MESH - to.len());
            to.extend(more);
        }
        for to in to {
            self.send_push(at, to, text);
        }
    }

    fn send_push(&mut self, from: u32, to: u32, text: u32) {
        let bytes = push_len(self.texts[text as usize].payload.len());
        self.node_mut(from).tally.sent(Purpose::Push, bytes);
        if self.can_reach(from, to) && self.below(1_000) >= self.plan.loss {
            let delay = self.delay(from, to);
            self.schedule(delay, Event::Push { to, from, text });
        }
    }

    pub(super) fn on_push(&mut self, to: u32, from: u32, text: u32) {
        if !self.can_reach(from, to) {
            return;
        }
        let (now_us, now_ms) = (self.now_us, self.now_ms());
        let message = &mut self.texts[text as usize];
        message.copies += 1;
        let node = &mut self.nodes[to as usize];
        node.tally.got(Purpose::Push, push_len(message.payload.len()));
        if !node.gossip.see(text) {
            return;
        }
        let pushed = node.catalog.handle_push(now_ms, &message.payload);
        message.reached_us.push(now_us);
        match pushed {
            Ok(pushed) if pushed.is_new() => {}
            Ok(_) => return,
            Err(error) => {
                assert!(!error.is_peer_fault(), "an honest message is refused: {error}");
                return;
            }
        }
        node.gossip.history[0].push(text);
        for peer in node.gossip.mesh.clone() {
            if peer != from {
                self.send_push(to, peer, text);
            }
        }
    }

    pub(super) fn on_beat(&mut self, at: u32) {
        self.schedule(BEAT_US, Event::Beat { at });
        if !self.node(at).is_up || self.is_light(at) {
            return;
        }
        self.tend_mesh(at);
        self.tell_lazily(at);
        let (now_us, gossip) = (self.now_us, &mut self.node_mut(at).gossip);
        gossip.asked.retain(|(_, until_us)| *until_us > now_us);
        gossip.history.rotate_right(1);
        gossip.history[0].clear();
    }

    fn tend_mesh(&mut self, at: u32) {
        let mesh = self.node(at).gossip.mesh.len();
        if mesh < MESH_LOW {
            for peer in self.pick_outside(at, MESH - mesh) {
                self.graft(at, peer);
            }
        } else if mesh > MESH_HIGH {
            let mut keep = self.node(at).gossip.mesh.clone();
            while keep.len() > MESH {
                let n = self.below(keep.len() as u64);
                let peer = keep.swap_remove(usize::try_from(n).unwrap_or_default());
                self.prune(at, peer);
            }
        }
        let node = self.node(at);
        let is_own = |peer: &u32| node.links.iter().any(|l| l.peer == *peer && l.is_own);
        if node.gossip.mesh.iter().filter(|peer| is_own(peer)).count() < MESH_OWN {
            let outside: Vec<u32> = node
                .links
                .iter()
                .filter(|link| link.is_own && !node.gossip.mesh.contains(&link.peer))
                .filter(|link| !self.is_light(link.peer))
                .map(|link| link.peer)
                .collect();
            if !outside.is_empty() {
                let n = self.below(outside.len() as u64);
                self.graft(at, outside[usize::try_from(n).unwrap_or_default()]);
            }
        }
    }

    fn control(&mut self, from: u32, to: u32, ids: usize) -> bool {
        let bytes = control_len(ids);
        self.node_mut(from).tally.sent(Purpose::Control, bytes);
        let arrives = self.can_reach(from, to);
        if arrives {
            self.node_mut(to).tally.got(Purpose::Control, bytes);
        }
        arrives
    }

    fn graft(&mut self, at: u32, peer: u32) {
        if !self.control(at, peer, 0) {
            return self.node_mut(at).gossip.mesh.push(peer);
        }
        if self.node(peer).gossip.mesh.len() >= MESH_HIGH {
            self.control(peer, at, 0);
            return;
        }
        for (at, peer) in [(at, peer), (peer, at)] {
            let mesh = &mut self.node_mut(at).gossip.mesh;
            if !mesh.contains(&peer) {
                mesh.push(peer);
            }
        }
    }

    fn prune(&mut self, at: u32, peer: u32) {
        self.control(at, peer, 0);
        self.node_mut(at).gossip.mesh.retain(|other| *other != peer);
        self.node_mut(peer).gossip.mesh.retain(|other| *other != at);
    }

    /// Some peers outside the mesh, at random.
    fn pick_outside(&mut self, at: u32, count: usize) -> Vec<u32> {
        let node = self.node(at);
        let peers = node.links.iter().map(|link| link.peer);
        let mut outside: Vec<u32> = peers
            .filter(|peer| !node.gossip.mesh.contains(peer) && !self.is_light(*peer))
            .collect();
        for n in 0..count.min(outside.len()) {
            let other = n as u64 + self.below((outside.len() - n) as u64);
            outside.swap(n, usize::try_from(other).unwrap_or(n));
        }
        outside.truncate(count);
        outside
    }

    fn tell_lazily(&mut self, at: u32) {
        let told = |gossip: &Gossip| gossip.history[..HISTORY_TOLD].iter().map(Vec::len).sum();
        let count: usize = told(&self.node(at).gossip);
        if count == 0 {
            return;
        }
        for peer in self.pick_outside(at, LAZY) {
            if !self.control(at, peer, count) || self.below(1_000) < self.plan.loss {
                continue;
            }
            // What the peer knows now it will know then, so only what it lacks needs an event.
            let (mine, theirs) = (&self.node(at).gossip, &self.node(peer).gossip);
            let news: Vec<u32> = mine.history[..HISTORY_TOLD]
                .iter()
                .flatten()
                .copied()
                .filter(|text| !theirs.has_seen(*text))
                .collect();
            let delay = self.delay(at, peer);
            for text in news {
                self.schedule(delay, Event::Have { to: peer, from: at, text });
            }
        }
    }

    /// Asks for a message that a peer has.
    pub(super) fn on_have(&mut self, to: u32, from: u32, text: u32) {
        let until_us = self.now_us + ASKED_US;
        let gossip = &mut self.node_mut(to).gossip;
        if gossip.has_seen(text) || gossip.asked.iter().any(|(asked, _)| *asked == text) {
            return;
        }
        gossip.asked.push((text, until_us));
        if self.control(to, from, 1) && self.below(1_000) >= self.plan.loss {
            let bytes = push_len(self.texts[text as usize].payload.len());
            self.node_mut(from).tally.sent(Purpose::Push, bytes);
            let delay = self.delay(to, from) + self.delay(from, to) + MS;
            self.schedule(delay, Event::Push { to, from, text });
        }
    }
}
