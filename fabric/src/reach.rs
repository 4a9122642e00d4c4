//! How this node is reached: which of its addresses were reached by whom, which relays lead to it, when to ask again.
//!
//! A machine without clock, socket or randomness: the network task tells it what happened and when (in milliseconds since
//! the task began) and does what [`Reach::poll`] says.
//!
//! # Tests of addresses: `/opencloud/probe/1`
//!
//! A peer that has seen this node at some IP address is asked to dial it there: at the ports this node listens on, and at
//! the port that the peer saw. It dials from other ports and with another identity, and only the IP address from which the
//! request came, so nobody can have it dial a third party. libp2p's AutoNAT v2 does the same but once: it never tests an
//! address again, whether it was reached or not (rust-libp2p#6203), so a port opened later stays unseen.
//!
//! An address counts as reached while a peer that reached it within [`VALID_MS`] says so and none has missed it since.
//!
//! # Relays
//!
//! Whoever is not reachable (see [`Reach::wants_relay`]) keeps reservations at up to [`RELAYS_MAX`] of the connected,
//! admitted peers that relay; a lost one is asked for again after 1 s, 2 s, up to [`RETRY_MAX_MS`]. When an address is
//! reached, reservations are given back.
//!
//! ## What a liar can do
//!
//! Say that it reached an address that nobody reaches: others then dial it in vain and come by the relay addresses that
//! were published before; say that it did not: this node asks others, and keeps a reservation that it does not need.

pub(crate) mod address;
mod punch;
mod standing;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use libp2p::Multiaddr;

use crate::key::PeerKey;
pub use address::AddressKind;
use address::{Scope, Transport, direct, ip, scope, transport};
use punch::Punches;
pub use view::{AddressSource, OwnAddress, Reachability, RelayInfo, Standing};

/// Relays that lead to this node at once.
const RELAYS_MAX: usize = 2;
/// Addresses under test. At the bound further ones are not tested.
const TESTS_MAX: usize = 16;
/// Addresses in one request. Further ones come with a later one.
pub(crate) const PROBE_ADDRESSES_MAX: usize = 4;
/// Peers that test one address at once.
const TESTERS: usize = 2;
/// An address that was reached is tested again after this.
const RETEST_MS: u64 = 600_000;
/// For so long one answer holds.
const VALID_MS: u64 = 3 * RETEST_MS;
/// An address that was missed is tested again after this; it doubles up to [`RETEST_MS`].
const MISSED_MS: u64 = 60_000;
/// A test without an answer is given up after this.
const ANSWER_MS: u64 = 60_000;
/// An address whose testers are all busy waits so long.
const BUSY_MS: u64 = 5_000;
/// First pause before a relay is asked again; it doubles.
const RETRY_MS: u64 = 1_000;
/// Longest pause before a relay is asked again.
const RETRY_MAX_MS: u64 = 300_000;
/// What the network task is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Ask a peer to dial these.
    Probe {
        by: PeerKey,
        addresses: Vec<Multiaddr>,
    },
    /// An address counts as reached from now on, or no longer.
    Confirm(Multiaddr),
    Expire(Multiaddr),
    /// Ask a relay, which is at this address.
    Reserve {
        relay: PeerKey,
        at: Multiaddr,
    },
    /// Give a reservation back.
    Release {
        relay: PeerKey,
    },
    /// Try these addresses of a peer that is reached through a relay.
    Dial {
        peer: PeerKey,
        addresses: Vec<Multiaddr>,
    },
    /// Open another relayed connection with a peer beside the one that there is, so that libp2p punches again, and close it.
    Punch {
        peer: PeerKey,
    },
    EndPunch {
        peer: PeerKey,
    },
    /// Close the relayed connections with a peer.
    CloseRelayed {
        peer: PeerKey,
    },
}

/// What the owner wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    /// Addresses that the owner vouches for.
    pub(crate) announced: Vec<Multiaddr>,
    /// Whether relays are asked at all.
    pub(crate) is_relayed: bool,
}

/// A directly connected peer.
#[derive(Debug, Default)]
struct Neighbour {
    is_admitted: bool,
    /// As what it sees this node, by the transport of the connection.
    sees: BTreeMap<Transport, (IpAddr, u16)>,
    relays_at: Option<Multiaddr>,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    at_ms: u64,
    is_reached: bool,
}

#[derive(Debug, Default)]
struct Test {
    answers: BTreeMap<PeerKey, Answer>,
    /// Who was asked, and has not answered.
    asked: BTreeSet<PeerKey>,
    due_ms: u64,
    missed: u32,
}

#[derive(Debug)]
enum Held {
    Asked,
    Reserved { addresses: Vec<Multiaddr> },
    Lost { until_ms: u64, why: String },
}

#[derive(Debug)]
struct Relay {
    held: Held,
    failures: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Reach {
    wishes: Wishes,
    listen: BTreeSet<Multiaddr>,
    mapped: BTreeSet<Multiaddr>,
    neighbours: BTreeMap<PeerKey, Neighbour>,
    tests: BTreeMap<Multiaddr, Test>,
    confirmed: BTreeSet<Multiaddr>,
    relays: BTreeMap<PeerKey, Relay>,
    punches: Punches,
    /// Addresses at which others may see this node, of which libp2p does not know yet: it punches with them. At most
    /// [`TESTS_MAX`] at once, as many as are under test.
    candidates: BTreeSet<Multiaddr>,
}

impl Reach {
    pub(crate) fn new(wishes: Wishes) -> Self {
        Self {
            wishes,
            listen: BTreeSet::new(),
            mapped: BTreeSet::new(),
            neighbours: BTreeMap::new(),
            tests: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            relays: BTreeMap::new(),
            punches: Punches::default(),
            candidates: BTreeSet::new(),
        }
    }

    /// The node listens at these direct addresses now. When they have changed, everything is tested anew.
    pub(crate) fn handle_listening(&mut self, now_ms: u64, addresses: BTreeSet<Multiaddr>) {
        if self.listen == addresses {
            return;
        }
        self.listen = addresses;
        for test in self.tests.values_mut() {
            test.due_ms = now_ms;
            test.missed = 0;
        }
        self.refresh(now_ms);
    }

    /// The router forwards a port to this node, or no longer.
    pub(crate) fn handle_mapped(&mut self, now_ms: u64, address: Multiaddr, is_there: bool) {
        if is_there {
            self.mapped.insert(address);
        } else {
            self.mapped.remove(&address);
        }
        self.refresh(now_ms);
    }

    /// A direct connection tells where the peer sees this node, and whether the peer relays.
    pub(crate) fn handle_seen(
        &mut self,
        now_ms: u64,
        by: PeerKey,
        at: Option<&Multiaddr>,
        relays_at: Option<Multiaddr>,
    ) {
        let neighbour = self.neighbours.entry(by).or_default();
        neighbour.relays_at = relays_at;
        if let Some((ip, (transport, port))) = at.and_then(|at| Some((ip(at)?, transport(at)?))) {
            let before = neighbour.sees.insert(transport, (ip, port));
            if before != Some((ip, port)) {
                self.punches.handle_moved(now_ms);
            }
        }
        self.refresh(now_ms);
    }

    /// The peer is admitted: it may be asked.
    pub(crate) fn handle_admitted(&mut self, now_ms: u64, peer: PeerKey) {
        self.neighbours.entry(peer).or_default().is_admitted = true;
        self.refresh(now_ms);
    }

    /// The last direct connection with the peer is closed.
    pub(crate) fn handle_gone(&mut self, now_ms: u64, peer: PeerKey) {
        self.neighbours.remove(&peer);
        self.punches.handle_gone(peer);
        let waiting: Vec<Multiaddr> = self
            .tests
            .iter()
            .filter(|(_, test)| test.asked.contains(&peer))
            .map(|(address, _)| address.clone())
            .collect();
        for address in waiting {
            self.settle(now_ms, &address, peer, None);
        }
        self.refresh(now_ms);
    }

    /// The network was built anew: everybody is gone, no relay leads here, no router has been asked for a port, and nothing
    /// counts as reached until [`Self::poll`] says so again. What was found out about addresses stays.
    pub(crate) fn handle_renewed(&mut self, now_ms: u64) {
        let peers: Vec<PeerKey> = self.neighbours.keys().copied().collect();
        self.relays.clear();
        self.punches = Punches::default();
        self.mapped.clear();
        self.confirmed.clear();
        self.candidates.extend(self.tests.keys().cloned());
        peers.into_iter().for_each(|peer| self.handle_gone(now_ms, peer));
    }

    /// A peer has dialled an address, or could not be asked (`None`).
    pub(crate) fn handle_probed(
        &mut self,
        now_ms: u64,
        by: PeerKey,
        results: Vec<(Multiaddr, Option<bool>)>,
    ) {
        for (address, is_reached) in results {
            self.settle(now_ms, &address, by, is_reached);
        }
    }

    fn settle(&mut self, now_ms: u64, address: &Multiaddr, by: PeerKey, is_reached: Option<bool>) {
        let Some(test) = self.tests.get_mut(address).filter(|test| test.asked.contains(&by)) else {
            return;
        };
        test.asked.remove(&by);
        if let Some(is_reached) = is_reached {
            test.answers.insert(by, Answer { at_ms: now_ms, is_reached });
        }
        if !test.asked.is_empty() {
            return;
        }
        if is_reached_now(test, now_ms) {
            test.missed = 0;
            test.due_ms = now_ms + RETEST_MS;
        } else {
            let pause = MISSED_MS.saturating_mul(1 << test.missed.min(8));
            test.missed = test.missed.saturating_add(1);
            test.due_ms = now_ms + pause.min(RETEST_MS);
        }
    }

    /// A relay leads to this node, at these addresses.
    pub(crate) fn handle_reserved(&mut self, relay: PeerKey, address: Multiaddr) {
        let Some(entry) = self.relays.get_mut(&relay) else {
            return;
        };
        match &mut entry.held {
            Held::Reserved { addresses } if !addresses.contains(&address) => {
                addresses.push(address)
            }
            held @ Held::Asked => *held = Held::Reserved { addresses: vec![address] },
            Held::Reserved { .. } => {}
            // Late: it is given up, and others may have been asked since.
            Held::Lost { .. } => return,
        }
        entry.failures = 0;
    }

    /// A relay refused, or a reservation is lost.
    pub(crate) fn handle_relay_lost(&mut self, now_ms: u64, relay: PeerKey, why: String) {
        let Some(entry) = self.relays.get_mut(&relay) else {
            return;
        };
        let pause = RETRY_MS.saturating_mul(1 << entry.failures.min(16)).min(RETRY_MAX_MS);
        entry.failures = entry.failures.saturating_add(1);
        entry.held = Held::Lost { until_ms: now_ms + pause, why };
    }

    /// A peer that is reached through a relay alone says where it listens.
    pub(crate) fn handle_relayed(
        &mut self,
        now_ms: u64,
        (me, peer): (PeerKey, PeerKey),
        addresses: Vec<Multiaddr>,
    ) {
        self.punches.handle_relayed(now_ms, (me, peer), addresses);
    }

    /// The peer is reached directly now, or not at all.
    pub(crate) fn handle_not_relayed(&mut self, peer: PeerKey) {
        self.punches.handle_not_relayed(peer);
    }

    /// The peer has both a direct and a relayed connection.
    pub(crate) fn handle_punched(&mut self, now_ms: u64, peer: PeerKey) {
        self.punches.handle_punched(now_ms, peer);
    }

    /// What to do now.
    pub(crate) fn poll(&mut self, now_ms: u64) -> Vec<Effect> {
        for test in self.tests.values_mut() {
            test.answers.retain(|_, answer| is_fresh(answer, now_ms));
        }
        let mut effects = self.probes(now_ms);
        let confirmed: BTreeSet<Multiaddr> = self
            .tests
            .iter()
            .filter(|(_, test)| is_reached_now(test, now_ms))
            .map(|(address, _)| address.clone())
            .chain(self.wishes.announced.iter().cloned())
            .collect();
        effects.extend(confirmed.difference(&self.confirmed).cloned().map(Effect::Confirm));
        effects.extend(self.confirmed.difference(&confirmed).cloned().map(Effect::Expire));
        self.confirmed = confirmed;
        effects.extend(self.reservations(now_ms));
        effects.extend(self.punches.poll(now_ms));
        effects
    }

    /// When [`Self::poll`] has something to do at the latest.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        let tests = self.tests.iter().filter(|(address, test)| {
            !test.asked.is_empty() || self.testers(address).next().is_some()
        });
        let valid = self.tests.values().flat_map(|test| test.answers.values());
        let valid = valid.filter(|answer| answer.is_reached).map(|answer| answer.at_ms + VALID_MS);
        let is_full = self.n_held() >= RELAYS_MAX;
        let relays = self.relays.values().filter_map(|relay| match relay.held {
            Held::Lost { until_ms, .. } if !is_full => Some(until_ms),
            _ => None,
        });
        let tests = tests.map(|(_, test)| test.due_ms);
        tests.chain(valid).chain(relays).chain(self.punches.next_ms()).min()
    }

    /// Takes up addresses to test, and drops those that nobody sees any more.
    fn refresh(&mut self, now_ms: u64) {
        let mut wanted: BTreeSet<Multiaddr> = self.mapped.clone();
        let ports: BTreeSet<(Transport, u16)> = self.listen.iter().filter_map(transport).collect();
        let admitted = self.neighbours.values().filter(|neighbour| neighbour.is_admitted);
        for (seen, (ip, port)) in admitted.flat_map(|neighbour| &neighbour.sees) {
            if scope(*ip) == Scope::Loopback {
                continue;
            }
            wanted.extend(ports.iter().map(|port| direct(*ip, *port)));
            if ports.iter().any(|(transport, _)| transport == seen) {
                wanted.insert(direct(*ip, (*seen, *port)));
            }
        }
        let is_confirmed = |address: &Multiaddr, test: &Test| {
            is_reached_now(test, now_ms) && self.listen.contains(address)
        };
        self.tests.retain(|address, test| wanted.contains(address) || is_confirmed(address, test));
        for address in wanted {
            if self.tests.len() >= TESTS_MAX {
                break;
            }
            if !self.tests.contains_key(&address) {
                self.candidates.insert(address.clone());
                self.tests.insert(address, Test { due_ms: now_ms, ..Test::default() });
            }
        }
        self.candidates.retain(|address| self.tests.contains_key(address));
    }

    /// What to punch with besides what was told before: every port that this node listens on, wherever it is seen. The peer sees
    /// one transport; a router that keeps ports keeps those of the others, and right after an address change the one that was
    /// used may be blocked by what the system still holds of the connection that broke.
    pub(crate) fn take_candidates(&mut self) -> BTreeSet<Multiaddr> {
        std::mem::take(&mut self.candidates)
    }

    /// Who can test an address: who sees this node at its IP.
    fn testers<'a>(&'a self, address: &Multiaddr) -> impl Iterator<Item = PeerKey> + 'a {
        let at = ip(address);
        self.neighbours
            .iter()
            .filter(move |(_, neighbour)| {
                neighbour.is_admitted && neighbour.sees.values().any(|(ip, _)| Some(*ip) == at)
            })
            .map(|(peer, _)| *peer)
    }

    fn probes(&mut self, now_ms: u64) -> Vec<Effect> {
        let mut by_peer: BTreeMap<PeerKey, Vec<Multiaddr>> = BTreeMap::new();
        let mut asked: Vec<(Multiaddr, Vec<PeerKey>)> = Vec::new();
        for (address, test) in &self.tests {
            if test.due_ms > now_ms {
                continue;
            }
            let mut testers: Vec<PeerKey> = self.testers(address).collect();
            // Those who were not heard yet first, then those who were heard long ago.
            testers.sort_by_key(|peer| test.answers.get(peer).map(|answer| answer.at_ms));
            let is_testable = !testers.is_empty();
            testers.retain(|peer| by_peer.get(peer).map_or(0, Vec::len) < PROBE_ADDRESSES_MAX);
            testers.truncate(TESTERS);
            for peer in &testers {
                by_peer.entry(*peer).or_default().push(address.clone());
            }
            if is_testable {
                asked.push((address.clone(), testers));
            }
        }
        for (address, testers) in asked {
            if let Some(test) = self.tests.get_mut(&address) {
                // Those who could test it have enough to do.
                let pause = if testers.is_empty() { BUSY_MS } else { ANSWER_MS };
                test.asked = testers.into_iter().collect();
                test.due_ms = now_ms + pause;
            }
        }
        by_peer.into_iter().map(|(by, addresses)| Effect::Probe { by, addresses }).collect()
    }

    /// Relays that lead here, or were asked.
    fn n_held(&self) -> usize {
        self.relays.values().filter(|relay| !matches!(relay.held, Held::Lost { .. })).count()
    }

    fn reservations(&mut self, now_ms: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        if !self.wants_relay(now_ms) {
            let held = self.relays.keys().map(|relay| Effect::Release { relay: *relay });
            effects.extend(held);
            self.relays.clear();
            return effects;
        }
        let neighbours = &self.neighbours;
        let is_there = |peer: &PeerKey| {
            neighbours.get(peer).is_some_and(|n| n.is_admitted && n.relays_at.is_some())
        };
        self.relays
            .retain(|peer, relay| !matches!(relay.held, Held::Lost { .. }) || is_there(peer));
        let mut n_held = self.n_held();
        for (peer, neighbour) in &self.neighbours {
            let Some(at) = neighbour.relays_at.clone().filter(|_| neighbour.is_admitted) else {
                continue;
            };
            let is_due = match self.relays.get(peer).map(|relay| &relay.held) {
                None => true,
                Some(Held::Lost { until_ms, .. }) => *until_ms <= now_ms,
                Some(Held::Asked | Held::Reserved { .. }) => false,
            };
            if is_due && n_held < RELAYS_MAX {
                n_held += 1;
                let failures = self.relays.get(peer).map_or(0, |relay| relay.failures);
                self.relays.insert(*peer, Relay { held: Held::Asked, failures });
                effects.push(Effect::Reserve { relay: *peer, at });
            }
        }
        effects
    }
}

fn is_fresh(answer: &Answer, now_ms: u64) -> bool {
    now_ms.saturating_sub(answer.at_ms) < VALID_MS
}

/// Whether the last that was heard of it, by each, is that it was reached by somebody.
fn is_reached_now(test: &Test, now_ms: u64) -> bool {
    let fresh = || test.answers.values().filter(|answer| is_fresh(answer, now_ms));
    let (reached, missed) = (fresh().filter(|a| a.is_reached), fresh().filter(|a| !a.is_reached));
    let last = |at: Option<&Answer>| at.map(|answer| answer.at_ms);
    let (reached, missed) =
        (last(reached.max_by_key(|a| a.at_ms)), last(missed.max_by_key(|a| a.at_ms)));
    // Two testers of one round may disagree; then who reached it is right.
    reached.is_some_and(|at| missed.is_none_or(|missed| missed <= at + ANSWER_MS))
}

#[cfg(test)]
#[path = "reach/tests.rs"]
mod tests;
