//! The virtual network: the queue that everything happens out of, messages and gossip with their delays, losses and
//! duplicates, connections and who can reach whom. What is meant for a node's earlier life is dropped when it falls due.

use std::cmp::Reverse;

use catalog::{Digest, NodeId};
use node::engine::{Engine, Input};

use super::workload::{below, chance};
use super::{What, World};

impl World {
    pub(super) fn schedule(&mut self, delay_ms: u64, what: What) {
        self.seq += 1;
        self.queue.push(Reverse((self.now_ms + delay_ms, self.seq)));
        self.events.insert(self.seq, what);
    }

    pub(super) fn deliver(&mut self, to: usize, delay_ms: u64, input: Input) {
        let life = self.nodes[to].life;
        self.schedule(delay_ms, What::Deliver { to, life, input: Box::new(input) });
    }

    pub(super) fn id(&self, at: usize) -> NodeId {
        self.nodes[at].settings.node_key.verifying_key().into()
    }

    /// Nodes on the same side of the cut reach each other.
    pub(super) fn can_reach(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&a) == self.cut.contains(&b)
    }

    pub(super) fn is_linked(&self, a: usize, b: usize) -> bool {
        self.links.contains(&(a.min(b), a.max(b)))
    }

    /// 1 to 40 ms, now and then a second.
    pub(super) fn delay(&mut self) -> u64 {
        if self.has_faults && chance(&mut self.rng, 10) {
            return 200 + below(&mut self.rng, 1_500);
        }
        1 + below(&mut self.rng, 40)
    }

    pub(super) fn send(&mut self, at: usize, to: NodeId, payload: Vec<u8>) {
        let Some(other) = self.index.get(&to).copied() else {
            return;
        };
        if !self.is_linked(at, other) {
            return;
        }
        let from = self.id(at);
        let copies = if self.has_faults && chance(&mut self.rng, self.plan.loss) {
            0
        } else if self.has_faults && chance(&mut self.rng, self.plan.duplicates) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let delay = self.delay();
            self.deliver(other, delay, Input::Message { from, payload: payload.clone() });
        }
    }

    pub(super) fn gossip(&mut self, at: usize, payload: &[u8]) {
        self.nodes[at].gossiped.insert(Digest::of(payload));
        let from = self.id(at);
        let hash = Digest::of(payload);
        for other in 0..self.nodes.len() {
            let is_wanted = other != at
                && self.is_linked(at, other)
                && self.nodes[other].engine.is_some()
                && self.nodes[other].gossiped.insert(hash);
            if !is_wanted || (self.has_faults && chance(&mut self.rng, self.plan.loss)) {
                continue;
            }
            let token = self.next_token();
            self.nodes[other].gossip_tokens.insert(token, payload.to_vec());
            let delay = self.delay();
            self.deliver(other, delay, Input::Gossip { token, from, payload: payload.to_vec() });
        }
    }

    pub(super) fn connect(&mut self, at: usize, peer: NodeId, hello: Option<Vec<u8>>) {
        let other = self.index.get(&peer).copied();
        let reachable = other.filter(|o| self.can_reach(at, *o) && self.nodes[*o].engine.is_some());
        let delay = self.delay();
        let Some(other) = reachable else {
            let result = Err("unreachable".to_owned());
            return self.deliver(at, 1_000 + delay, Input::ConnectEnded { peer, result });
        };
        let from = self.id(at);
        let token = self.next_token();
        let payload = hello.unwrap_or_else(|| self.hello_of(at));
        self.nodes[other].hellos.insert(token, at);
        self.deliver(other, delay, Input::Hello { token, peer: from, payload });
        // A connection whose other side dies in the middle fails by itself.
        let life = self.nodes[at].life;
        let input = Box::new(Input::ConnectEnded { peer, result: Err("timeout".to_owned()) });
        self.schedule(10_000, What::Deliver { to: at, life, input });
    }

    fn hello_of(&mut self, at: usize) -> Vec<u8> {
        self.nodes[at].engine.as_ref().map(Engine::hello).unwrap_or_default()
    }

    pub(super) fn link(&mut self, at: usize, peer: NodeId) {
        let Some(other) = self.index.get(&peer).copied() else {
            return;
        };
        if self.nodes[other].engine.is_none() || !self.can_reach(at, other) {
            return;
        }
        if self.links.insert((at.min(other), at.max(other))) {
            let me = self.id(at);
            self.deliver(at, 0, Input::Connected { peer });
            let delay = self.delay();
            self.deliver(other, delay, Input::Connected { peer: me });
        }
    }

    pub(super) fn disconnect(&mut self, a: usize, b: usize) {
        if self.links.remove(&(a.min(b), a.max(b))) {
            for (to, peer) in [(a, b), (b, a)] {
                let peer = self.id(peer);
                let delay = 1 + below(&mut self.rng, 500);
                self.deliver(to, delay, Input::Disconnected { peer });
            }
        }
    }
}
