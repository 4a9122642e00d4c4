//! Fair shares: who of the peers that are served gets its next piece first, and how fast.
//!
//! Peers share, not streams: whoever opens four streams gets no more than who opens one, and the peers of a group share as one. A piece that is wanted gets a place
//! in virtual time behind the last one of its peer, and the earliest place is served first (start-time fair queueing), so that
//! between two peers that both wait all the time, what each gets never differs by more than two pieces. A peer that did not
//! wait for a while begins at the present and saves nothing up. Two token buckets may bound the pace, one for all peers and one
//! for each.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::key::PeerKey;

/// Pieces that are put together at once; further ones wait their turn. More would only make a disk seek.
const FILLS: u32 = 4;
/// Least bytes per second that a bound may be: with all places taken, every stream still gets its piece well before its peer
/// takes it for stalled. A lower bound is taken for this one.
pub const RATE_MIN: u64 = 512 << 10;
/// What may go at once after a pause, as a part of what goes in a second.
const BURST_PART: u64 = 4;

/// Bytes per second, a second's part of which may go at once. A debt is paid before more goes.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: u64,
    /// Thousandths of bytes that may go.
    level: i64,
    at_ms: u64,
}

impl Bucket {
    fn new(rate: u64, now_ms: u64) -> Self {
        let mut bucket = Self { rate: rate.max(RATE_MIN), level: 0, at_ms: now_ms };
        bucket.level = bucket.full();
        bucket
    }

    fn full(&self) -> i64 {
        i64::try_from(self.rate.saturating_mul(1_000 / BURST_PART)).unwrap_or(i64::MAX)
    }

    fn pass(&mut self, now_ms: u64) {
        let came = self.rate.saturating_mul(now_ms.saturating_sub(self.at_ms));
        let came = i64::try_from(came).unwrap_or(i64::MAX);
        self.level = self.level.saturating_add(came).min(self.full());
        self.at_ms = self.at_ms.max(now_ms);
    }

    fn take(&mut self, bytes: u64) {
        let thousandths = i64::try_from(bytes.saturating_mul(1_000)).unwrap_or(i64::MAX);
        self.level = self.level.saturating_sub(thousandths);
    }

    /// When something may go, at the earliest.
    fn due_ms(&self) -> u64 {
        let missing = 1_i64.saturating_sub(self.level);
        match u64::try_from(missing) {
            Ok(missing) if missing > 0 => self.at_ms.saturating_add(missing.div_ceil(self.rate)),
            _ => self.at_ms,
        }
    }

    fn is_full(&self) -> bool {
        self.level >= self.full()
    }
}

/// What a peer waits for.
#[derive(Debug)]
struct Own {
    /// Its place in virtual time, in bytes.
    finish: u64,
    bucket: Option<Bucket>,
    waiting: VecDeque<(u64, u64)>,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It is the turn of this one.
    Turn(u64),
    /// Somebody's turn comes then.
    At(u64),
    /// Nobody waits, or for the end of another's turn.
    Nothing,
}

/// The order, without a clock.
#[derive(Debug)]
struct Order {
    /// Of each peer.
    rate: Option<u64>,
    all: Option<Bucket>,
    /// The present in virtual time.
    now: u64,
    running: u32,
    peers: BTreeMap<PeerKey, Own>,
    n_tickets: u64,
}

impl Order {
    fn new(all: Option<u64>, each: Option<u64>, now_ms: u64) -> Self {
        let all = all.map(|rate| Bucket::new(rate, now_ms));
        Self { rate: each, all, now: 0, running: 0, peers: BTreeMap::new(), n_tickets: 0 }
    }

    /// A peer wants to be sent so many bytes.
    fn ask(&mut self, peer: PeerKey, bytes: u64, now_ms: u64) -> u64 {
        let (rate, present) = (self.rate, self.now);
        self.peers.retain(|_, own| {
            let is_paid = own.bucket.as_mut().is_none_or(|bucket| {
                bucket.pass(now_ms);
                bucket.is_full()
            });
            !own.waiting.is_empty() || own.finish > present || !is_paid
        });
        let own = self.peers.entry(peer).or_insert_with(|| {
            let bucket = rate.map(|rate| Bucket::new(rate, now_ms));
            Own { finish: present, bucket, waiting: VecDeque::new() }
        });
        if own.waiting.is_empty() {
            own.finish = own.finish.max(present);
        }
        self.n_tickets += 1;
        own.waiting.push_back((self.n_tickets, bytes));
        self.n_tickets
    }

    /// Nobody waits for this one any more.
    fn forget(&mut self, ticket: u64) {
        for own in self.peers.values_mut() {
            own.waiting.retain(|(waiting, _)| *waiting != ticket);
        }
    }

    fn ended(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// To be asked until it gives nobody a turn.
    fn next(&mut self, now_ms: u64) -> Next {
        if self.running >= FILLS {
            return Next::Nothing;
        }
        if let Some(all) = &mut self.all {
            all.pass(now_ms);
            if all.level <= 0 {
                let is_waiting = self.peers.values().any(|own| !own.waiting.is_empty());
                return if is_waiting { Next::At(all.due_ms()) } else { Next::Nothing };
            }
        }
        let mut due: Option<u64> = None;
        let mut first: Option<(u64, PeerKey)> = None;
        for (peer, own) in self.peers.iter_mut().filter(|(_, own)| !own.waiting.is_empty()) {
            if let Some(bucket) = &mut own.bucket {
                bucket.pass(now_ms);
                if bucket.level <= 0 {
                    due = Some(due.unwrap_or(u64::MAX).min(bucket.due_ms()));
                    continue;
                }
            }
            if first.is_none_or(|(finish, _)| own.finish < finish) {
                first = Some((own.finish, *peer));
            }
        }
        let own = first.and_then(|(_, peer)| self.peers.get_mut(&peer));
        let Some((own, (ticket, bytes))) =
            own.and_then(|own| own.waiting.pop_front().map(|next| (own, next)))
        else {
            return due.map_or(Next::Nothing, Next::At);
        };
        self.now = self.now.max(own.finish);
        own.finish = own.finish.saturating_add(bytes);
        if let Some(bucket) = &mut own.bucket {
            bucket.take(bytes);
        }
        if let Some(all) = &mut self.all {
            all.take(bytes);
        }
        self.running += 1;
        Next::Turn(ticket)
    }
}

#[derive(Debug)]
struct Waiting {
    order: Order,
    tell: BTreeMap<u64, oneshot::Sender<()>>,
    /// Whether somebody looks again when the next turn is due.
    is_armed: bool,
}

/// The shares of all that blobs are served to: a peer's key stands for it, and a group's for all of its peers.
#[derive(Debug)]
pub(crate) struct Shares {
    begun: Instant,
    waiting: Mutex<Waiting>,
}

impl Shares {
    /// At most `all` bytes per second, and at most `each` of them to one peer.
    pub(crate) fn new(all: Option<u64>, each: Option<u64>) -> Arc<Self> {
        let order = Order::new(all, each, 0);
        let waiting = Waiting { order, tell: BTreeMap::new(), is_armed: false };
        Arc::new(Self { begun: Instant::now(), waiting: Mutex::new(waiting) })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Each change under this lock is a single step, so a panic elsewhere leaves it usable.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits until it is the peer's turn to be sent so many bytes; the turn ends when the answer is dropped.
    pub(super) async fn turn(self: &Arc<Self>, peer: PeerKey, bytes: u64) -> Turn {
        let (tell, told) = oneshot::channel();
        let ticket = {
            let mut waiting = self.lock();
            let ticket = waiting.order.ask(peer, bytes, self.now_ms());
            waiting.tell.insert(ticket, tell);
            ticket
        };
        let mut turn = Turn { shares: Arc::clone(self), ticket: Some(ticket) };
        self.pump();
        if told.await.is_ok() {
            turn.ticket = None;
        }
        turn
    }

    /// Gives turns to those whose turn it is, and sees to it that the next one gets its.
    fn pump(self: &Arc<Self>) {
        let mut waiting = self.lock();
        loop {
            match waiting.order.next(self.now_ms()) {
                Next::Turn(ticket) => {
                    let tell = waiting.tell.remove(&ticket);
                    if tell.is_none_or(|tell| tell.send(()).is_err()) {
                        waiting.order.ended();
                    }
                }
                Next::At(due_ms) if !waiting.is_armed => {
                    // Without a runtime the program ends, and nobody waits.
                    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
                    waiting.is_armed = true;
                    let (shares, pause) = (Arc::clone(self), due_ms.saturating_sub(self.now_ms()));
                    runtime.spawn(async move {
                        tokio::time::sleep(Duration::from_millis(pause.max(1))).await;
                        shares.lock().is_armed = false;
                        shares.pump();
                    });
                    return;
                }
                Next::At(_) | Next::Nothing => return,
            }
        }
    }
}

/// A peer's turn, or its place in the queue.
#[derive(Debug)]
pub(super) struct Turn {
    shares: Arc<Shares>,
    /// While it waits.
    ticket: Option<u64>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut waiting = self.shares.lock();
            match self.ticket {
                // Nobody was told: it still waits.
                Some(ticket) if waiting.tell.remove(&ticket).is_some() => {
                    waiting.order.forget(ticket);
                }
                _ => waiting.order.ended(),
            }
        }
        self.shares.pump();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 256 << 10;

    fn peer(n: u8) -> PeerKey {
        PeerKey::from_bytes([n; 32])
    }

    /// Serves until `until_ms`, a tick a millisecond, with `n_streams` of each peer that always want more; gives what each got.
    fn serve(mut order: Order, n_streams: &[u8], until_ms: u64) -> Vec<u64> {
        let mut owner = BTreeMap::new();
        let mut got = vec![0; n_streams.len()];
        for (n, streams) in (0..).zip(n_streams) {
            for _ in 0..*streams {
                owner.insert(order.ask(peer(n), PIECE, 0), n);
            }
        }
        for now_ms in 0..until_ms {
            // As fast as a disk that fills one piece in a millisecond.
            let Next::Turn(ticket) = order.next(now_ms) else { continue };
            let n = owner.remove(&ticket).unwrap();
            got[usize::from(n)] += PIECE;
            order.ended();
            owner.insert(order.ask(peer(n), PIECE, now_ms), n);
        }
        got
    }

    #[test]
    fn peers_get_the_same_however_many_streams_they_have() {
        let got = serve(Order::new(None, None, 0), &[1, 4, 2], 300);
        assert_eq!(got.iter().sum::<u64>(), 300 * PIECE);
        assert!(got.iter().all(|bytes| bytes.abs_diff(100 * PIECE) <= 2 * PIECE), "{got:?}");
    }

    #[test]
    fn the_bounds_hold_for_all_and_for_each() {
        const MIB: u64 = 1 << 20;
        let seconds = 10;
        let got = serve(Order::new(Some(8 * MIB), None, 0), &[1, 4], seconds * 1_000);
        let most = 8 * MIB * seconds + 8 * MIB / BURST_PART + PIECE;
        let all: u64 = got.iter().sum();
        assert!(all <= most && all >= 8 * MIB * seconds, "{all}");
        assert!(got[0].abs_diff(got[1]) <= 2 * PIECE, "{got:?}");
        // Whoever is bound does not hold up who is not: the second peer's share is the other's rest.
        let got = serve(Order::new(None, Some(2 * MIB), 0), &[4, 1], seconds * 1_000);
        let most = 2 * MIB * seconds + 2 * MIB / BURST_PART + PIECE;
        assert!(got.iter().all(|bytes| (2 * MIB * seconds..=most).contains(bytes)), "{got:?}");
    }

    #[test]
    fn a_pause_saves_nothing_up_and_a_debt_is_not_forgotten() {
        let mut order = Order::new(None, None, 0);
        for _ in 0..100 {
            order.ask(peer(1), PIECE, 0);
            assert!(matches!(order.next(0), Next::Turn(_)));
            order.ended();
        }
        // Another peer comes late: it waits behind nobody, and gets no hundred pieces ahead either.
        let late: Vec<u64> = (0..4).map(|_| order.ask(peer(2), PIECE, 0)).collect();
        let own = order.ask(peer(1), PIECE, 0);
        let turns: Vec<Next> = (0..3).map(|_| order.next(0)).collect();
        assert_eq!(turns[0], Next::Turn(late[0]));
        assert!(turns.contains(&Next::Turn(own)), "{turns:?}");

        let mut order = Order::new(None, Some(RATE_MIN), 0);
        let ticket = order.ask(peer(1), 4 * RATE_MIN, 0);
        assert_eq!(order.next(0), Next::Turn(ticket));
        order.ended();
        // It left, and is back: it owes almost four seconds.
        order.ask(peer(2), PIECE, 1);
        let _ = order.next(1);
        order.ended();
        let ticket = order.ask(peer(1), PIECE, 10);
        assert!(matches!(order.next(10), Next::At(due) if due > 3_000), "{:?}", order.next(10));
        assert_eq!(order.next(4_000), Next::Turn(ticket));
        order.ended();
        // In the end nothing is remembered of anybody.
        order.ask(peer(3), 1, 60_000);
        assert!(order.peers.len() <= 2, "{:?}", order.peers);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_its_place_to_others() {
        let shares = Shares::new(None, None);
        let mut turns = Vec::new();
        for _ in 0..FILLS {
            turns.push(shares.turn(peer(1), PIECE).await);
        }
        let gone = tokio::spawn({
            let shares = Arc::clone(&shares);
            async move { shares.turn(peer(2), PIECE).await }
        });
        while shares.lock().tell.is_empty() {
            tokio::task::yield_now().await;
        }
        gone.abort();
        assert!(gone.await.is_err());
        assert!(shares.lock().tell.is_empty());
        turns.pop();
        let _turn = shares.turn(peer(3), PIECE).await;
        assert_eq!(shares.lock().order.running, FILLS);
    }

    #[tokio::test]
    async fn a_turn_comes_when_it_is_due() {
        let shares = Shares::new(Some(RATE_MIN), None);
        let begun = Instant::now();
        for _ in 0..4 {
            drop(shares.turn(peer(1), PIECE / 2).await);
        }
        // The first is within the burst, the debt of the others takes time.
        assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    }
}
