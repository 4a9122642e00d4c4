//! Who fetches which part of a blob next: decisions only, without a clock, a stream or a file.
//!
//! A blob is counted in groups of [`GROUP_BYTES`]. Each peer works on one stretch of groups after another. The first is asked
//! for everything; what it says of the size lets the others in. A peer without work takes a stretch that nobody works on,
//! else a part of what another still has before it: as much as lets both end at the same time by the pace that they have
//! shown, and everything from one that is stuck or much slower. So nothing is divided in advance, and the end of the blob
//! does not wait for the slowest.
//!
//! # Invariants
//!
//! No group is in the stretches of two peers. Each group that is not there yet is in one stretch, or in none and taken next.
//! A peer loses its whole stretch at most [`CUTS_MAX`] times, so that peers that are all slow still get on.

use std::collections::BTreeMap;

use super::tree::GROUP_BYTES;

/// The end of a stretch while nobody has said how long the blob is.
pub(super) const OPEN: u64 = u64::MAX;
/// Groups of the smallest stretch that is taken from a peer that works on it: 1 MiB, beside which two round trips are little.
const STRETCH: u64 = (1 << 20) / GROUP_BYTES;
/// Groups of the smallest blob that is fetched from several peers at once: 4 MiB.
const SPLIT: u64 = 4 * STRETCH;
/// A peer that has moved nothing for so long, in milliseconds, loses its stretch to one without work.
const STUCK_MS: u64 = 2_000;
/// How often a peer may lose its whole stretch; after that it keeps what it has until it ends or fails.
const CUTS_MAX: u32 = 3;
/// Over how long the pace of a peer is measured, in milliseconds.
const PACE_MS: u64 = 1_000;

/// A set of groups, as ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups(BTreeMap<u64, u64>);

impl Groups {
    /// The first `n`.
    pub(super) fn first(n: u64) -> Self {
        let mut groups = Self::default();
        groups.insert(0, n);
        groups
    }

    /// Adds those from `from` to before `to`.
    pub(super) fn insert(&mut self, mut from: u64, mut to: u64) {
        if from >= to {
            return;
        }
        while let Some((&start, &end)) = self.0.range(..=to).next_back() {
            if end < from {
                break;
            }
            self.0.remove(&start);
            (from, to) = (from.min(start), to.max(end));
        }
        self.0.insert(from, to);
    }

    /// The ranges in order, each as its first group and the one after its last.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(from, to)| (*from, *to))
    }

    /// The one after the last; 0 when there is none.
    fn end(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(_, to)| *to)
    }

    /// How many there are from the first one on without a gap.
    fn unbroken(&self) -> u64 {
        self.0.get(&0).copied().unwrap_or(0)
    }

    /// How many there are, when they are the first ones.
    pub(super) fn prefix(&self) -> Option<u64> {
        (self.end() == self.unbroken()).then(|| self.end())
    }

    fn count(&self) -> u64 {
        self.ranges().map(|(from, to)| to - from).sum()
    }

    /// The first range before `end` that is not in it.
    fn gap(&self, end: u64) -> Option<(u64, u64)> {
        let mut at = 0;
        for (from, to) in self.ranges() {
            if from > at {
                return (at < end).then_some((at, from.min(end)));
            }
            at = to;
        }
        (at < end).then_some((at, end))
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Ask the peer for the groups from `from` to before `to`, which may be [`OPEN`].
    Ask { peer: usize, from: u64, to: u64 },
    /// Stop what the peer does; [`Plan::handle_end`] is told when it has.
    Stop { peer: usize },
}

/// What follows from the size that a peer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Go on with its bytes.
    Good,
    /// What is there is more than the blob has: it is something else.
    TooShort,
    /// Another peer said something else, and it is not known yet who is right: leave it.
    Other,
    /// It is known to be wrong.
    Lie,
}

/// How fast a peer is.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    since_ms: u64,
    /// When something came, or the stretch began.
    moved_ms: u64,
    /// Groups since then.
    n: u64,
    /// Groups in 1000 s, as last measured.
    last: Option<u64>,
}

impl Pace {
    fn begin(&mut self, now_ms: u64) {
        (self.since_ms, self.moved_ms, self.n) = (now_ms, now_ms, 0);
    }

    fn add(&mut self, n: u64, now_ms: u64) {
        self.n += n;
        self.moved_ms = now_ms;
        if now_ms.saturating_sub(self.since_ms) >= PACE_MS {
            self.end(now_ms);
            self.begin(now_ms);
        }
    }

    fn measured(&self, now_ms: u64) -> u64 {
        self.n.saturating_mul(1_000_000) / now_ms.saturating_sub(self.since_ms).max(1)
    }

    fn end(&mut self, now_ms: u64) {
        self.last = Some(self.measured(now_ms));
    }

    /// Of a peer that works.
    fn now(&self, now_ms: u64) -> Option<u64> {
        let is_long = now_ms.saturating_sub(self.since_ms) >= PACE_MS;
        if is_long { Some(self.measured(now_ms)) } else { self.last }
    }

    fn is_stuck(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.moved_ms) >= STUCK_MS
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// Has what lies before `at`, and fetches up to `end`. At its end until it says that it has stopped.
    Works {
        at: u64,
        end: u64,
    },
    /// Says another size.
    Parked,
    Gone,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    state: State,
    pace: Pace,
    n_cuts: u32,
}

/// See the module's documentation. Peers are named by their place in the caller's list.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Bytes of the blob.
    size: Option<u64>,
    /// Whether the size is proven: the last group was verified.
    is_proven: bool,
    there: Groups,
    peers: Vec<Peer>,
    is_resumed: bool,
    is_sparse: bool,
}

/// How many groups a blob has. One at least: nothing is verified, too.
fn groups_of(size: u64) -> u64 {
    size.div_ceil(GROUP_BYTES).max(1)
}

impl Plan {
    /// Of a blob of which `there` is in the file already, as the file says. Without its last group at least: there has to be
    /// something to ask for.
    pub(super) fn new(n_peers: usize, there: Groups) -> Self {
        let fresh = Peer { state: State::Idle, pace: Pace::default(), n_cuts: 0 };
        let is_resumed = there != Groups::default();
        let is_sparse = there.prefix().is_none();
        let peers = vec![fresh; n_peers];
        Self { size: None, is_proven: false, there, peers, is_resumed, is_sparse }
    }

    /// What to do now. To be asked until it says nothing, after everything that happened and from time to time.
    pub(super) fn next(&mut self, now_ms: u64) -> Option<Order> {
        if self.is_whole() {
            return None;
        }
        let idle = |(_, peer): &(usize, &Peer)| peer.state == State::Idle;
        let peers = self.peers.iter().enumerate().filter(idle);
        let (peer, _) = peers.min_by_key(|(_, peer)| peer.n_cuts)?;
        let Some(size) = self.size else {
            return self.open(peer, now_ms);
        };
        let mut taken = self.there.clone();
        for (_, at, end) in self.working() {
            taken.insert(at, end);
        }
        match taken.gap(groups_of(size)) {
            Some((from, to)) => Some(self.ask(peer, (from, to), now_ms)),
            None => self.take_over(peer, groups_of(size), now_ms),
        }
    }

    /// A peer says the blob's size.
    pub(super) fn handle_size(&mut self, peer: usize, size: u64) -> Said {
        let n = groups_of(size);
        match self.size {
            Some(known) if known == size => return Said::Good,
            Some(_) if self.is_proven => return Said::Lie,
            Some(_) => {
                self.peers[peer].state = State::Parked;
                return Said::Other;
            }
            None => {}
        }
        let is_before = |peer: &Peer| !matches!(peer.state, State::Works { at, .. } if at >= n);
        if self.there.end() > n || !is_before(&self.peers[peer]) {
            return Said::TooShort;
        }
        self.size = Some(size);
        for peer in &mut self.peers {
            if let State::Works { at, end } = &mut peer.state {
                (*at, *end) = ((*at).min(n), (*end).min(n));
            }
        }
        Said::Good
    }

    /// The groups from `from` to before `to` were verified and are in the file.
    pub(super) fn handle_written(&mut self, peer: usize, from: u64, to: u64, now_ms: u64) {
        self.there.insert(from, to);
        self.is_proven |= self.size.is_some_and(|size| to == groups_of(size));
        let peer = &mut self.peers[peer];
        peer.pace.add(to - from, now_ms);
        if let State::Works { at, end } = &mut peer.state {
            *at = to.min(*end);
        }
    }

    /// A peer has come to the end of its stretch, or was stopped.
    pub(super) fn handle_end(&mut self, peer: usize, now_ms: u64) {
        let peer = &mut self.peers[peer];
        if let State::Works { .. } = peer.state {
            peer.pace.end(now_ms);
            peer.state = State::Idle;
        }
    }

    /// A peer gives nothing any more.
    pub(super) fn handle_failed(&mut self, peer: usize) {
        self.peers[peer].state = State::Gone;
    }

    /// Whether those who say another size than the one that was believed are all who are left: then theirs counts, and what
    /// was verified until now has to be read again at the end.
    pub(super) fn reopen(&mut self) -> bool {
        let is_over = |peer: &Peer| matches!(peer.state, State::Gone | State::Parked);
        let is_parked = |peer: &Peer| peer.state == State::Parked;
        if !self.peers.iter().all(is_over) || !self.peers.iter().any(is_parked) || self.is_proven {
            return false;
        }
        self.forget_size();
        self.is_resumed = true;
        true
    }

    /// What is there is not this blob: from nothing once more, with the peers that are not gone.
    pub(super) fn restart(&mut self) {
        self.there = Groups::default();
        self.forget_size();
        (self.is_resumed, self.is_sparse) = (false, false);
    }

    fn forget_size(&mut self) {
        (self.size, self.is_proven) = (None, false);
        for peer in self.peers.iter_mut().filter(|peer| peer.state != State::Gone) {
            peer.state = State::Idle;
        }
    }

    /// The group before which a peer stops; it may come nearer while the peer works.
    pub(super) fn end_of(&self, peer: usize) -> u64 {
        match self.peers[peer].state {
            State::Works { end, .. } => end,
            State::Idle | State::Parked | State::Gone => 0,
        }
    }

    /// Whether everything is there.
    pub(super) fn is_whole(&self) -> bool {
        self.size.is_some_and(|size| self.there.unbroken() >= groups_of(size))
    }

    /// Whether something of it was not verified in this fetch, so that the whole file has to be.
    pub(super) fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// Whether the file may have gaps, so that its length does not tell what is there.
    pub(super) fn is_sparse(&self) -> bool {
        self.is_sparse
    }

    /// Whether a peer waits for something to do.
    pub(super) fn has_idle(&self) -> bool {
        self.peers.iter().any(|peer| peer.state == State::Idle)
    }

    /// What is there.
    pub(super) fn there(&self) -> &Groups {
        &self.there
    }

    /// The blob's size, as it is believed.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Bytes that are there.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = self.there.count().saturating_mul(GROUP_BYTES);
        bytes.min(self.size.unwrap_or(u64::MAX))
    }

    /// The peers that have something before them: which, from where, to where.
    fn working(&self) -> impl Iterator<Item = (usize, u64, u64)> + '_ {
        self.peers.iter().enumerate().filter_map(|(i, peer)| match peer.state {
            State::Works { at, end } if at < end => Some((i, at, end)),
            _ => None,
        })
    }

    /// The first question, by which the size becomes known.
    fn open(&mut self, peer: usize, now_ms: u64) -> Option<Order> {
        let asked = self.working().next();
        if let Some((asked, ..)) = asked {
            return self.stop_stuck(asked, now_ms);
        }
        let stretch = self.there.gap(self.there.end()).unwrap_or((self.there.end(), OPEN));
        Some(self.ask(peer, stretch, now_ms))
    }

    fn ask(&mut self, peer: usize, (from, to): (u64, u64), now_ms: u64) -> Order {
        self.is_sparse |= from > self.there.unbroken();
        let asked = &mut self.peers[peer];
        asked.pace.begin(now_ms);
        asked.state = State::Works { at: from, end: to };
        Order::Ask { peer, from, to }
    }

    fn stop_stuck(&mut self, peer: usize, now_ms: u64) -> Option<Order> {
        let found = &self.peers[peer];
        (found.pace.is_stuck(now_ms) && found.n_cuts < CUTS_MAX).then(|| self.stop(peer))
    }

    fn stop(&mut self, peer: usize) -> Order {
        let stopped = &mut self.peers[peer];
        stopped.n_cuts += 1;
        if let State::Works { at, end } = &mut stopped.state {
            *end = *at;
        }
        Order::Stop { peer }
    }

    /// Has a peer without work take a part of another's, from the one who would end last.
    fn take_over(&mut self, thief: usize, n: u64, now_ms: u64) -> Option<Order> {
        let own = self.peers[thief].pace.last;
        let is_alive = own != Some(0);
        let mut last: Option<(u128, usize, u64, u64, u64)> = None;
        for (peer, at, end) in self.working() {
            let found = &self.peers[peer];
            let rest = end - at;
            let (pace, own) = match (found.pace.now(now_ms), own) {
                (Some(pace), Some(own)) => (pace, own),
                // Whoever is not known yet is taken to be as fast as the other.
                (pace, own) => (pace.or(own).unwrap_or(1), own.or(pace).unwrap_or(1)),
            };
            let may_stop = found.n_cuts < CUTS_MAX;
            let keeps = match may_stop && is_alive && found.pace.is_stuck(now_ms) {
                true => Some(0),
                false if n >= SPLIT => share(rest, pace, own, may_stop),
                false => None,
            };
            let time = u128::from(rest) * 1_000_000 / u128::from(pace.max(1));
            if let Some(keeps) = keeps
                && last.is_none_or(|(longest, ..)| time > longest)
            {
                last = Some((time, peer, at + keeps, end, keeps));
            }
        }
        let (_, peer, cut, end, keeps) = last?;
        if keeps == 0 {
            return Some(self.stop(peer));
        }
        if let State::Works { end, .. } = &mut self.peers[peer].state {
            *end = cut;
        }
        Some(self.ask(thief, (cut, end), now_ms))
    }
}

/// How many of its `rest` groups a peer keeps when another of pace `other` has nothing to do; `None` when dividing it is not
/// worth it.
fn share(rest: u64, pace: u64, other: u64, may_stop: bool) -> Option<u64> {
    let both = u128::from(pace) + u128::from(other);
    let keeps = u128::from(rest) * u128::from(pace) / both.max(1);
    let keeps = u64::try_from(keeps).unwrap_or(rest).min(rest);
    if rest - keeps < STRETCH {
        None
    } else if keeps >= STRETCH {
        Some(keeps)
    } else if may_stop && pace.saturating_mul(2) < other {
        Some(0)
    } else {
        (rest >= 2 * STRETCH).then_some(STRETCH)
    }
}

#[cfg(test)]
mod tests;
