//! The model of the network: five regions, connections that fail silently, and how they are made again.

use super::{Event, SECOND, World};

/// One-way delays between regions in milliseconds, as between data centres of the world.
const DELAYS_MS: [[u64; REGIONS]; REGIONS] = [
    [5, 20, 45, 110, 90],
    [20, 5, 50, 80, 105],
    [45, 50, 5, 70, 140],
    [110, 80, 70, 5, 60],
    [90, 105, 140, 60, 5],
];
/// Regions.
pub(super) const REGIONS: usize = 5;
/// A connection whose other side says nothing is given up after this long: the transport's idle timeout.
const SILENCE_US: u64 = 30 * SECOND;
/// Between two looks for somebody to dial, and the first and longest pause after a failed dial: as in the engine.
const DIAL_ROUND_US: u64 = 2 * SECOND;
const REDIAL_US: u64 = 2 * SECOND;
const REDIAL_MAX_US: u64 = 120 * SECOND;

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) peer: u32,
    /// Whether this end dialled.
    pub(super) is_own: bool,
}

impl World {
    pub(super) fn can_reach(&self, a: u32, b: u32) -> bool {
        let (a, b) = (self.node(a), self.node(b));
        a.is_up && b.is_up && a.side == b.side
    }

    /// One way, with up to a fifth of jitter.
    pub(super) fn delay(&mut self, from: u32, to: u32) -> u64 {
        let us = DELAYS_MS[self.node(from).region][self.node(to).region] * super::MS;
        us + self.below(us / 5 + 1)
    }

    pub(super) fn is_linked(&self, a: u32, b: u32) -> bool {
        self.node(a).links.iter().any(|link| link.peer == b)
    }

    pub(super) fn link(&mut self, from: u32, to: u32) {
        self.node_mut(from).links.push(Link { peer: to, is_own: true });
        self.node_mut(to).links.push(Link { peer: from, is_own: false });
    }

    fn unlink(&mut self, a: u32, b: u32) {
        for (at, peer) in [(a, b), (b, a)] {
            let node = self.node_mut(at);
            node.links.retain(|link| link.peer != peer);
            node.gossip.mesh.retain(|other| *other != peer);
        }
    }

    /// What happens at each end of every connection over which nothing comes any more.
    pub(super) fn expect_silence(&mut self) {
        for a in 0..self.plan.nodes {
            for link in self.node(a).links.clone() {
                if link.is_own && !self.can_reach(a, link.peer) {
                    let later = self.below(SILENCE_US / 3);
                    let event = Event::Silent { a, b: link.peer };
                    self.schedule(SILENCE_US - later, event);
                }
            }
        }
    }

    pub(super) fn on_silent(&mut self, a: u32, b: u32) {
        if self.can_reach(a, b) || !self.is_linked(a, b) {
            return;
        }
        self.unlink(a, b);
        for (at, to) in [(a, b), (b, a)] {
            let wait = self.below(DIAL_ROUND_US);
            self.schedule(wait, Event::Dial { at });
            self.schedule(wait + REDIAL_US, Event::Redial { at, to, tries: 1 });
        }
    }

    /// Dials somebody at random while there are fewer connections than planned.
    pub(super) fn on_dial(&mut self, at: u32) {
        if !self.node(at).is_up || self.node(at).links.len() >= 2 * self.plan.dials {
            return;
        }
        let to = u32::try_from(self.below(u64::from(self.plan.nodes))).unwrap_or_default();
        if !self.connect(at, to) {
            self.schedule(DIAL_ROUND_US, Event::Dial { at });
        }
    }

    /// Dials a peer that was lost, for as long as it is remembered.
    pub(super) fn on_redial(&mut self, at: u32, to: u32, tries: u32) {
        if !self.node(at).is_up || self.is_linked(at, to) || self.connect(at, to) {
            return;
        }
        let pause = (REDIAL_US << tries.min(6)).min(REDIAL_MAX_US);
        let later = self.below(DIAL_ROUND_US);
        self.schedule(pause + later, Event::Redial { at, to, tries: tries + 1 });
    }

    /// A connection, over which both sides compare catalogues at once.
    fn connect(&mut self, at: u32, to: u32) -> bool {
        if at == to || self.is_linked(at, to) || !self.can_reach(at, to) {
            return false;
        }
        self.link(at, to);
        self.open_round(at, to);
        self.open_round(to, at);
        true
    }

    /// Takes nodes down without a word.
    pub(super) fn kill(&mut self, count: u32) {
        let mut left = count;
        while left > 0 {
            let at = u32::try_from(self.below(u64::from(self.plan.nodes))).unwrap_or_default();
            if self.node(at).is_up {
                self.node_mut(at).is_up = false;
                left -= 1;
            }
        }
        self.expect_silence();
    }

    /// Cuts the mesh into two halves.
    pub(super) fn cut(&mut self) {
        for at in 0..self.plan.nodes {
            self.node_mut(at).side = u8::from(at % 2 == 0);
        }
        self.expect_silence();
    }

    pub(super) fn heal(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.side = 0);
    }
}
