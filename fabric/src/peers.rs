//! The table of peers: who is connected, who is admitted, who misbehaved. It decides and never
//! acts: no socket, no clock of its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;

use crate::config::Limits;
use crate::event::{Offence, Payload};
use crate::key::PeerKey;
use crate::terms::GROUP_RATE;

/// Offences sum up to this for a ban.
const BAN_AT: i64 = -100;
/// The standing of a peer whose ban has ended: halfway to the next.
const AFTER_BAN: i64 = -50;
/// As far as a peer sinks by what this version cannot read. What it does besides adds to that.
const UNKNOWN_LEAST: i64 = -50;
/// A point is forgiven in this time.
const FORGIVE: Duration = Duration::from_secs(10);
/// The longest ban.
const BAN_MAX: Duration = Duration::from_secs(24 * 3600);
/// Peers whose misdeeds are remembered. At the bound the least bad is forgotten.
const STANDINGS_MAX: usize = 1024;
/// A connection on which no ping is answered for so long is dead, where TCP alone takes minutes to say so. One that stands still
/// for half of it lives on.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Round trips kept of a connection; the oldest is forgotten first. They are two minutes of pings, so that a longer path shows soon.
const PINGS_KEPT: usize = 4;
/// Addresses kept of what one peer says about itself.
pub(crate) const LISTEN_ADDRESSES_MAX: usize = 8;

/// Groups whose rates are remembered. At the bound the one that has most left is forgotten.
const GROUPS_MAX: usize = 1024;

/// A rate: so many at once, so many per second in the long run.
#[derive(Debug)]
struct Bucket {
    /// Thousandths of a token.
    milli: u64,
    filled: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant, per_s: u32, burst: u32) -> bool {
        let ms = u64::try_from(now.saturating_duration_since(self.filled).as_millis());
        let gained = ms.unwrap_or(u64::MAX).saturating_mul(per_s.into());
        if gained > 0 {
            self.filled = now;
        }
        self.milli = self.milli.saturating_add(gained).min(u64::from(burst) * 1000);
        let has = self.milli >= 1000;
        if has {
            self.milli -= 1000;
        }
        has
    }
}

/// What the peers of a group may still send, all together.
#[derive(Debug)]
struct Rates {
    messages: Bucket,
    gossip: Bucket,
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) inbound: bool,
    pub(crate) address: String,
    /// Through a relay, and through which where it is known.
    pub(crate) is_relayed: bool,
    pub(crate) relay: Option<PeerKey>,
    /// It left from a port that this node does not listen on.
    pub(crate) is_fresh_port: bool,
    pub(crate) since: Instant,
    pub(crate) pings: Pings,
    /// When it was made or last answered a ping; `None` when the peer answers none at all, as programs may that are not this one.
    pub(crate) heard: Option<Instant>,
    is_closing: bool,
}

impl Conn {
    /// The peer answered a ping.
    pub(crate) fn on_pong(&mut self, now: Instant, rtt_us: u64) {
        self.pings.push(rtt_us);
        self.heard = Some(now);
    }

    /// When it counts as dead, unless it is heard of before.
    fn dead_at(&self) -> Option<Instant> {
        self.heard.filter(|_| !self.is_closing).map(|heard| heard + SILENCE_MAX)
    }
}

/// The last round trips of a connection, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pings([Option<u64>; PINGS_KEPT]);

impl Pings {
    pub(crate) fn push(&mut self, rtt_us: u64) {
        self.0.rotate_right(1);
        self.0[0] = Some(rtt_us);
    }

    pub(crate) fn last(&self) -> Option<u64> {
        self.0[0]
    }

    /// What a busy host or path adds passes; the least is how far the peer is.
    pub(crate) fn least(&self) -> Option<u64> {
        self.0.iter().flatten().min().copied()
    }
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) conns: BTreeMap<ConnectionId, Conn>,
    /// This node lets the peer through, if only to messages.
    pub(crate) is_admitted: bool,
    /// To everything else, too. Once so, until the last connection closes.
    pub(crate) is_member: bool,
    /// The application knows of it.
    pub(crate) is_announced: bool,
    /// The application wants it gone. A dial that was under way may still bring a connection.
    pub(crate) is_leaving: bool,
    /// What this node calls the present period with the peer; new whenever the last connection
    /// has closed or the node restarted.
    pub(crate) generation: u64,
    /// What the peer calls its own.
    theirs: Option<u64>,
    /// The generation of the last hello of the peer that the application accepted. Confirming it
    /// twice is right: two hellos may run side by side.
    pub(crate) offered: Option<u64>,
    /// The last step of a hello.
    progress: Instant,
    pub(crate) listens: Vec<String>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    messages: Bucket,
    gossip: Bucket,
}

/// What became of a settled hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The peer is admitted from now on.
    First,
    /// It was already.
    Again,
    /// It was, but the peer has forgotten that: its period is a new one.
    Restarted,
}

#[derive(Debug)]
struct Standing {
    points: i64,
    since: Instant,
    banned_until: Option<Instant>,
    bans: u32,
}

impl Standing {
    fn points(&self, now: Instant) -> i64 {
        let forgiven = now.saturating_duration_since(self.since).as_secs() / FORGIVE.as_secs();
        self.points.saturating_add(i64::try_from(forgiven).unwrap_or(i64::MAX)).min(0)
    }
}

/// All peers.
#[derive(Debug)]
pub(crate) struct Peers {
    entries: BTreeMap<PeerKey, Entry>,
    standings: BTreeMap<PeerKey, Standing>,
    groups: BTreeMap<[u8; 32], Rates>,
    next_generation: u64,
    limits: Limits,
    payload: Payload,
}

impl Peers {
    /// `first_generation` must differ from run to run: the time will do.
    pub(crate) fn new(limits: Limits, first_generation: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            standings: BTreeMap::new(),
            groups: BTreeMap::new(),
            next_generation: first_generation,
            limits,
            payload: Payload::default(),
        }
    }

    pub(crate) fn on_established(
        &mut self,
        now: Instant,
        peer: PeerKey,
        id: ConnectionId,
        inbound: bool,
        address: String,
    ) {
        let next = &mut self.next_generation;
        let entry = self.entries.entry(peer).or_insert_with(|| {
            *next = next.wrapping_add(1);
            Entry {
                conns: BTreeMap::new(),
                is_admitted: false,
                is_member: false,
                is_announced: false,
                is_leaving: false,
                generation: *next,
                theirs: None,
                offered: None,
                progress: now,
                listens: Vec::new(),
                bytes_in: 0,
                bytes_out: 0,
                messages: Bucket { milli: u64::MAX, filled: now },
                gossip: Bucket { milli: u64::MAX, filled: now },
            }
        });
        let pings = Pings::default();
        let conn = Conn {
            inbound,
            address,
            is_relayed: false,
            relay: None,
            is_fresh_port: false,
            since: now,
            pings,
            heard: Some(now),
            is_closing: false,
        };
        entry.conns.insert(id, conn);
    }

    /// The entry of a peer that has no connection any more, when this was its last.
    pub(crate) fn on_closed(&mut self, peer: PeerKey, id: ConnectionId) -> Option<Entry> {
        let entry = self.entries.get_mut(&peer)?;
        entry.conns.remove(&id);
        if entry.conns.is_empty() { self.entries.remove(&peer) } else { None }
    }

    /// All connections are gone at once.
    pub(crate) fn take_all(&mut self) -> BTreeMap<PeerKey, Entry> {
        std::mem::take(&mut self.entries)
    }

    pub(crate) fn get(&self, peer: PeerKey) -> Option<&Entry> {
        self.entries.get(&peer)
    }

    pub(crate) fn get_mut(&mut self, peer: PeerKey) -> Option<&mut Entry> {
        self.entries.get_mut(&peer)
    }

    /// Counts payload that came from a peer and went to it, of those alone that are still connected.
    pub(crate) fn count(&mut self, peer: PeerKey, received: u64, sent: u64) {
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        entry.bytes_in = entry.bytes_in.saturating_add(received);
        entry.bytes_out = entry.bytes_out.saturating_add(sent);
        self.payload.received = self.payload.received.saturating_add(received);
        self.payload.sent = self.payload.sent.saturating_add(sent);
    }

    /// What all peers together have moved.
    pub(crate) const fn payload(&self) -> Payload {
        self.payload
    }

    /// How far a peer is, by the nearest of its connections, in microseconds.
    pub(crate) fn round_trip(&self, peer: PeerKey) -> Option<u64> {
        self.entries.get(&peer)?.conns.values().filter_map(|conn| conn.pings.least()).min()
    }

    /// Whether the peer is let through to everything, not only to messages.
    pub(crate) fn is_admitted(&self, peer: PeerKey) -> bool {
        self.entries.get(&peer).is_some_and(|e| e.is_admitted && e.is_member)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PeerKey, &Entry)> {
        self.entries.iter().map(|(k, e)| (*k, e))
    }

    /// The hello with the peer moves on; its deadline starts again.
    pub(crate) fn on_progress(&mut self, now: Instant, peer: PeerKey) {
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.progress = now;
        }
    }

    /// A hello was settled on both sides. `theirs` is the peer's name of its period, when known.
    pub(crate) fn settle(&mut self, peer: PeerKey, theirs: Option<u64>) -> Option<Settled> {
        let entry = self.entries.get_mut(&peer)?;
        entry.is_admitted = true;
        let was = entry.theirs;
        entry.theirs = theirs.or(was);
        if !entry.is_announced {
            entry.is_announced = true;
            return Some(Settled::First);
        }
        let is_new = matches!((was, theirs), (Some(was), Some(now)) if was != now);
        Some(if is_new { Settled::Restarted } else { Settled::Again })
    }

    /// Connections whose hello takes too long; each is named once, to be closed.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<(PeerKey, ConnectionId)> {
        let step = self.limits.hello_timeout;
        let mut out = Vec::new();
        for (peer, entry) in self.entries.iter_mut().filter(|(_, e)| !e.is_announced) {
            let progress = entry.progress;
            for (id, conn) in entry.conns.iter_mut().filter(|(_, c)| !c.is_closing) {
                if due(step, progress, conn) <= now {
                    conn.is_closing = true;
                    out.push((*peer, *id));
                }
            }
        }
        out
    }

    /// Connections that are dead. Each is named once.
    pub(crate) fn silent(&mut self, now: Instant) -> Vec<(PeerKey, ConnectionId)> {
        let mut out = Vec::new();
        for (peer, entry) in &mut self.entries {
            for (id, conn) in &mut entry.conns {
                if conn.dead_at().is_some_and(|at| at <= now) {
                    conn.is_closing = true;
                    out.push((*peer, *id));
                }
            }
        }
        out
    }

    /// When [`Self::overdue`] or [`Self::silent`] will next have something to say.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let step = self.limits.hello_timeout;
        let dead = self.entries.values().flat_map(|e| e.conns.values()).filter_map(Conn::dead_at);
        let waiting = self.entries.values().filter(|e| !e.is_announced);
        let conns = waiting.flat_map(|e| e.conns.values().map(|c| (e.progress, c)));
        let hello = conns.filter(|(_, c)| !c.is_closing).map(|(p, c)| due(step, p, c));
        hello.chain(dead).min()
    }

    /// Whether a message of the peer is taken, as its own rate and its group's are.
    pub(crate) fn may_send_message(
        &mut self,
        now: Instant,
        peer: PeerKey,
        group: Option<[u8; 32]>,
    ) -> bool {
        let (per_s, burst) = (self.limits.messages_per_s, self.limits.messages_burst);
        let of_group = |n: u32| n.saturating_mul(GROUP_RATE);
        let mut own = self.entries.get_mut(&peer).map(|entry| &mut entry.messages);
        own.as_mut().is_some_and(|own| own.take(now, per_s, burst))
            && group.is_none_or(|group| {
                self.rates(now, group).messages.take(now, of_group(per_s), of_group(burst))
            })
    }

    pub(crate) fn may_gossip(
        &mut self,
        now: Instant,
        peer: PeerKey,
        group: Option<[u8; 32]>,
    ) -> bool {
        let per_s = self.limits.gossip_per_s;
        let all = per_s.saturating_mul(GROUP_RATE);
        self.entries.get_mut(&peer).is_some_and(|e| e.gossip.take(now, per_s, per_s))
            && group.is_none_or(|group| self.rates(now, group).gossip.take(now, all, all))
    }

    fn rates(&mut self, now: Instant, group: [u8; 32]) -> &mut Rates {
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&group) {
            let left = |rates: &Rates| {
                (rates.messages.milli.min(rates.gossip.milli), rates.messages.filled)
            };
            let most = self.groups.iter().max_by_key(|(_, rates)| left(rates)).map(|(key, _)| *key);
            most.and_then(|key| self.groups.remove(&key));
        }
        let full = || Bucket { milli: u64::MAX, filled: now };
        self.groups.entry(group).or_insert_with(|| Rates { messages: full(), gossip: full() })
    }

    /// Notes an offence; the end of the ban that it brings, if it does.
    pub(crate) fn penalize(
        &mut self,
        now: Instant,
        peer: PeerKey,
        offence: Offence,
    ) -> Option<Instant> {
        let (cost, least) = match offence {
            Offence::Forged => (50, i64::MIN),
            Offence::Malformed | Offence::Oversized => (20, i64::MIN),
            Offence::Flood => (5, i64::MIN),
            Offence::Unknown => (1, UNKNOWN_LEAST),
        };
        if !self.standings.contains_key(&peer) && self.standings.len() >= STANDINGS_MAX {
            self.forget_one(now);
        }
        let first = Standing { points: 0, since: now, banned_until: None, bans: 0 };
        let standing = self.standings.entry(peer).or_insert(first);
        let before = standing.points(now);
        standing.points = (before - cost).max(least.min(before));
        standing.since = now;
        if standing.points > BAN_AT {
            return None;
        }
        let doubled = self.limits.ban.saturating_mul(1 << standing.bans.min(16)).min(BAN_MAX);
        standing.bans = standing.bans.saturating_add(1);
        standing.points = AFTER_BAN;
        // Nothing is forgiven while the ban lasts.
        standing.since = now + doubled;
        standing.banned_until = Some(now + doubled);
        standing.banned_until
    }

    fn forget_one(&mut self, now: Instant) {
        let best = self.standings.iter().max_by_key(|(_, s)| {
            let is_free = s.banned_until.is_none_or(|until| until <= now);
            (is_free, s.points(now))
        });
        if let Some(peer) = best.map(|(peer, _)| *peer) {
            self.standings.remove(&peer);
        }
    }

    /// Points of offences not yet forgiven; zero or less.
    pub(crate) fn points(&self, now: Instant, peer: PeerKey) -> i64 {
        self.standings.get(&peer).map_or(0, |s| s.points(now))
    }

    pub(crate) fn banned_for(&self, now: Instant, peer: PeerKey) -> Option<Duration> {
        let until = self.standings.get(&peer)?.banned_until?;
        until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// The peers under a ban.
    pub(crate) fn banned(&self, now: Instant) -> impl Iterator<Item = (PeerKey, Duration)> {
        self.standings.keys().filter_map(move |p| Some((*p, self.banned_for(now, *p)?)))
    }
}

/// Each step of a hello has its time, all three together have three times it.
fn due(step: Duration, progress: Instant, conn: &Conn) -> Instant {
    (progress.max(conn.since) + step).min(conn.since + 3 * step)
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
