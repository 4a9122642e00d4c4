//! What the machine makes of what it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use libp2p::Multiaddr;

use super::address::{Scope, Transport, ip, scope, transport};
use super::{AddressSource, Held, OwnAddress, Reach, Relay, RelayInfo, Standing, is_reached_now};
use crate::key::PeerKey;

impl Reach {
    /// Whether others need a relay to come here.
    pub(crate) fn wants_relay(&self, now_ms: u64) -> bool {
        let standing = self.standing(now_ms);
        let needs_none =
            matches!(standing, Standing::Public | Standing::Private | Standing::Unknown);
        self.wishes.is_relayed && !needs_none
    }

    /// How this node stands.
    pub(crate) fn standing(&self, now_ms: u64) -> Standing {
        if !self.wishes.announced.is_empty() {
            return Standing::Public;
        }
        let seen: BTreeSet<IpAddr> = self.sightings().map(|(_, (ip, _))| ip).collect();
        let widest = seen.iter().map(|ip| scope(*ip)).max();
        let is_reached = |within: Scope| {
            self.tests.iter().any(|(address, test)| {
                is_reached_now(test, now_ms) && ip(address).map(scope) >= Some(within)
            })
        };
        if is_reached(Scope::Public) {
            return Standing::Public;
        }
        if self.listen.is_empty() {
            return Standing::OutboundOnly;
        }
        let Some(widest) = widest.filter(|widest| *widest != Scope::Loopback) else {
            return Standing::Unknown;
        };
        if widest == Scope::Private && is_reached(Scope::Private) {
            return Standing::Private;
        }
        let own: BTreeSet<IpAddr> = self.listen.iter().filter_map(ip).collect();
        let is_translated = seen.iter().any(|ip| scope(*ip) == widest && !own.contains(ip));
        if is_translated {
            return self.mapping();
        }
        let missed = self
            .tests
            .iter()
            .any(|(address, test)| ip(address).map(scope) == Some(widest) && test.missed > 0);
        if missed { Standing::Firewalled } else { Standing::Unknown }
    }

    /// Whether whoever knows of this node can dial it: from anywhere, or within the network where all its peers are. What
    /// leads to it through a relay does not count.
    pub(crate) fn is_dialled(&self, now_ms: u64) -> bool {
        match self.standing(now_ms) {
            Standing::Public | Standing::Private => true,
            Standing::Unknown => {
                let mut seen = self.sightings().map(|(_, (ip, _))| scope(ip)).peekable();
                seen.peek().is_some() && seen.all(|scope| scope == Scope::Loopback)
            }
            Standing::BehindNat
            | Standing::BehindSymmetricNat
            | Standing::Firewalled
            | Standing::OutboundOnly => false,
        }
    }

    fn sightings(&self) -> impl Iterator<Item = (Transport, (IpAddr, u16))> {
        let admitted = self.neighbours.values().filter(|neighbour| neighbour.is_admitted);
        admitted.flat_map(|neighbour| &neighbour.sees).map(|(by, at)| (*by, *at))
    }

    /// What kind of translation it is: whether a port of this node is the same for all peers, or the one it listens on.
    fn mapping(&self) -> Standing {
        let own: BTreeSet<(Transport, u16)> = self.listen.iter().filter_map(transport).collect();
        let mut ports: BTreeMap<(Transport, IpAddr), BTreeSet<u16>> = BTreeMap::new();
        let outside = self.sightings().filter(|(_, (seen, _))| {
            scope(*seen) != Scope::Loopback && !self.listen.iter().any(|l| ip(l) == Some(*seen))
        });
        for (transport, (ip, port)) in outside {
            ports.entry((transport, ip)).or_default().insert(port);
        }
        let is_kept = ports.iter().any(|((transport, _), seen)| {
            seen.iter().all(|port| own.contains(&(*transport, *port)))
        });
        let is_other = ports.values().any(|seen| seen.len() > 1);
        if is_other && !is_kept { Standing::BehindSymmetricNat } else { Standing::BehindNat }
    }

    /// The addresses that lead here, the best first: announced, reached, relayed, and where this node listens.
    pub(crate) fn addresses(&self, now_ms: u64) -> Vec<OwnAddress> {
        let mut all: Vec<OwnAddress> = Vec::new();
        let mut add = |address: &Multiaddr, source: AddressSource| {
            let text = address.to_string();
            if !all.iter().any(|known| known.address == text) {
                all.push(self.own_address(now_ms, address, text, source));
            }
        };
        self.wishes.announced.iter().for_each(|a| add(a, AddressSource::Announced));
        for address in &self.confirmed {
            add(address, self.source(address));
        }
        for relay in self.relays.values() {
            if let Held::Reserved { addresses } = &relay.held {
                addresses.iter().for_each(|a| add(a, AddressSource::Relay));
            }
        }
        self.listen.iter().for_each(|a| add(a, AddressSource::Listening));
        all
    }

    /// Addresses under test that do not count as leading here.
    pub(crate) fn missed(&self, now_ms: u64) -> Vec<OwnAddress> {
        let tests = self.tests.iter().filter(|(address, test)| {
            !test.answers.is_empty()
                && !self.confirmed.contains(*address)
                && !self.listen.contains(*address)
        });
        tests.map(|(a, _)| self.own_address(now_ms, a, a.to_string(), self.source(a))).collect()
    }

    fn source(&self, address: &Multiaddr) -> AddressSource {
        if self.listen.contains(address) {
            AddressSource::Listening
        } else if self.mapped.contains(address) {
            AddressSource::Mapped
        } else {
            AddressSource::Observed
        }
    }

    fn own_address(
        &self,
        now_ms: u64,
        address: &Multiaddr,
        text: String,
        source: AddressSource,
    ) -> OwnAddress {
        let answers = self.tests.get(address).map(|test| &test.answers);
        let answers = || answers.into_iter().flatten();
        let who = |is_reached: bool| {
            answers().filter(|(_, a)| a.is_reached == is_reached).map(|(peer, _)| *peer).collect()
        };
        let last = answers().map(|(_, answer)| answer.at_ms).max();
        OwnAddress {
            address: text,
            source,
            reached_by: who(true),
            missed_by: who(false),
            tested: last.map(|at| Duration::from_millis(now_ms.saturating_sub(at))),
        }
    }

    /// Relays that lead here or are asked.
    pub(crate) fn relays(&self) -> Vec<RelayInfo> {
        let info = |(peer, relay): (&PeerKey, &Relay)| RelayInfo {
            peer: *peer,
            is_reserved: matches!(relay.held, Held::Reserved { .. }),
            why: match &relay.held {
                Held::Reserved { .. } => None,
                Held::Asked => Some("it was asked and has not answered".into()),
                Held::Lost { why, .. } => Some(why.clone()),
            },
        };
        self.relays.iter().map(info).collect()
    }

    /// The relay at an IP address that leads to this node.
    pub(crate) fn relay_at(&self, at: &Multiaddr) -> Option<PeerKey> {
        let at = ip(at)?;
        let mut held = self.relays.iter().filter(|(_, r)| matches!(r.held, Held::Reserved { .. }));
        held.find(|(peer, _)| {
            let neighbour = self.neighbours.get(peer).and_then(|n| n.relays_at.as_ref());
            neighbour.and_then(ip) == Some(at)
        })
        .map(|(peer, _)| *peer)
    }
}
