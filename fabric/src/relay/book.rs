//! What a relay has promised and given: reservations, circuits, bytes. It decides and never acts; time is an argument.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::RelayLimits;
use super::wire::Status;
use crate::key::PeerKey;
use crate::terms::{GROUP_RATE, TermsBook, of_group};

/// The time that a daily allowance is for.
const DAY_MS: u64 = 24 * 3_600_000;
/// Peers whose use is remembered for the day. At the bound the one that used least is forgotten.
const USES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, Default)]
struct Use {
    since_ms: u64,
    bytes: u64,
}

/// The book of a relay.
#[derive(Debug)]
pub(crate) struct Book {
    limits: RelayLimits,
    /// Who is of which group.
    terms: Arc<TermsBook>,
    /// Until when, by peer.
    reservations: BTreeMap<PeerKey, u64>,
    /// Circuits that a peer is an end of, by peer.
    circuits: BTreeMap<PeerKey, u32>,
    n_circuits: u32,
    uses: BTreeMap<PeerKey, Use>,
    bytes: u64,
}

impl Book {
    pub(crate) fn new(limits: RelayLimits, terms: Arc<TermsBook>) -> Self {
        Self {
            limits,
            terms,
            reservations: BTreeMap::new(),
            circuits: BTreeMap::new(),
            n_circuits: 0,
            uses: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Makes or renews a reservation; until when it holds.
    pub(crate) fn reserve(&mut self, now_ms: u64, peer: PeerKey) -> Result<u64, Status> {
        self.reservations.retain(|_, until| *until > now_ms);
        let is_new = !self.reservations.contains_key(&peer);
        let same = self.reservations.keys().filter(|other| self.is_same_group(peer, **other));
        let is_full = self.reservations.len() >= self.limits.reservations as usize
            || same.count() >= of_group(self.limits.reservations, 1) as usize;
        if is_new && is_full {
            return Err(Status::LimitExceeded);
        }
        let until = now_ms.saturating_add(self.limits.reservation_ms());
        self.reservations.insert(peer, until);
        Ok(until)
    }

    /// Opens a circuit; every `Ok` needs its [`Self::close`].
    pub(crate) fn open(&mut self, now_ms: u64, from: PeerKey, to: PeerKey) -> Result<(), Status> {
        if from == to {
            return Err(Status::Refused);
        }
        if self.reservations.get(&to).is_none_or(|until| *until <= now_ms) {
            return Err(Status::NoReservation);
        }
        let count = |peer| self.circuits.get(&peer).copied().unwrap_or(0);
        let is_full = |peer| count(peer) >= self.limits.circuits_per_peer;
        let is_used_up = |peer| self.used(now_ms, peer) >= self.limits.daily_bytes;
        if self.n_circuits >= self.limits.circuits
            || [from, to]
                .into_iter()
                .any(|peer| is_full(peer) || is_used_up(peer) || self.is_group_full(now_ms, peer))
        {
            return Err(Status::LimitExceeded);
        }
        self.n_circuits += 1;
        for peer in [from, to] {
            *self.circuits.entry(peer).or_insert(0) += 1;
        }
        Ok(())
    }

    fn is_same_group(&self, peer: PeerKey, other: PeerKey) -> bool {
        let group = self.terms.group(peer);
        group.is_some() && self.terms.group(other) == group
    }

    /// Whether the peer's group has as many ends of circuits, or has moved as much today, as one may.
    fn is_group_full(&self, now_ms: u64, peer: PeerKey) -> bool {
        let same = |other: &PeerKey| self.is_same_group(peer, *other);
        let ends = self.circuits.iter().filter(|(other, _)| same(other)).map(|(_, n)| *n);
        let most = of_group(self.limits.circuits, self.limits.circuits_per_peer);
        let used = self.uses.keys().filter(|other| same(other));
        let bytes = used.fold(0, |sum: u64, other| sum.saturating_add(self.used(now_ms, *other)));
        ends.sum::<u32>() >= most
            || bytes >= self.limits.daily_bytes.saturating_mul(GROUP_RATE.into())
    }

    pub(crate) fn close(&mut self, from: PeerKey, to: PeerKey) {
        self.n_circuits = self.n_circuits.saturating_sub(1);
        for peer in [from, to] {
            if let Some(count) = self.circuits.get_mut(&peer) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.circuits.remove(&peer);
                }
            }
        }
    }

    /// Counts bytes of a circuit against both its ends; false when one of them has no more.
    pub(crate) fn spend(&mut self, now_ms: u64, ends: [PeerKey; 2], bytes: u64) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        let [one, other] = ends.map(|peer| self.charge(now_ms, peer, bytes));
        one.max(other) <= self.limits.daily_bytes
    }

    fn charge(&mut self, now_ms: u64, peer: PeerKey, bytes: u64) -> u64 {
        if !self.uses.contains_key(&peer) && self.uses.len() >= USES_MAX {
            let least = self.uses.iter().min_by_key(|(_, used)| used.bytes).map(|(peer, _)| *peer);
            least.and_then(|peer| self.uses.remove(&peer));
        }
        let used = self.uses.entry(peer).or_insert(Use { since_ms: now_ms, bytes: 0 });
        if now_ms.saturating_sub(used.since_ms) >= DAY_MS {
            *used = Use { since_ms: now_ms, bytes: 0 };
        }
        used.bytes = used.bytes.saturating_add(bytes);
        used.bytes
    }

    /// What was relayed from and to the peer in its present day.
    pub(crate) fn used(&self, now_ms: u64, peer: PeerKey) -> u64 {
        let fresh = |used: &&Use| now_ms.saturating_sub(used.since_ms) < DAY_MS;
        self.uses.get(&peer).filter(fresh).map_or(0, |used| used.bytes)
    }

    pub(crate) fn n_reservations(&self, now_ms: u64) -> u32 {
        let live = self.reservations.values().filter(|until| **until > now_ms).count();
        u32::try_from(live).unwrap_or(u32::MAX)
    }

    pub(crate) fn n_circuits(&self) -> u32 {
        self.n_circuits
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(n: u8) -> PeerKey {
        PeerKey::from_bytes([n; 32])
    }

    fn limits() -> RelayLimits {
        RelayLimits {
            reservations: 2,
            circuits: 3,
            circuits_per_peer: 2,
            daily_bytes: 1000,
            ..RelayLimits::default()
        }
    }

    #[test]
    fn a_circuit_leads_only_to_who_has_a_place() {
        let mut book = Book::new(limits(), Arc::default());
        assert_eq!(book.open(0, peer(1), peer(2)), Err(Status::NoReservation));
        let until = book.reserve(0, peer(2)).unwrap();
        assert_eq!(book.open(0, peer(1), peer(2)), Ok(()));
        assert_eq!(book.open(0, peer(2), peer(2)), Err(Status::Refused));
        assert_eq!(book.open(until, peer(3), peer(2)), Err(Status::NoReservation));
    }

    #[test]
    fn places_are_bounded_and_renewing_needs_none() {
        let mut book = Book::new(limits(), Arc::default());
        book.reserve(0, peer(1)).unwrap();
        book.reserve(5, peer(2)).unwrap();
        assert_eq!(book.reserve(6, peer(3)), Err(Status::LimitExceeded));
        let until = book.reserve(7, peer(1)).unwrap();
        assert_eq!(until, 7 + limits().reservation_ms());
        assert!(book.reserve(until - 1, peer(3)).is_ok(), "that of the second has ended");
    }

    #[test]
    fn a_group_leaves_reservations_and_circuits_for_others() {
        let terms = Arc::new(TermsBook::default());
        let ours = crate::Terms { group: Some([7; 32]), ..crate::Terms::default() };
        (1..9).for_each(|n| terms.set(peer(n), ours));
        let many = RelayLimits { reservations: 4, circuits: 4, circuits_per_peer: 1, ..limits() };
        let mut book = Book::new(many, Arc::clone(&terms));
        (1..4).for_each(|n| assert!(book.reserve(0, peer(n)).is_ok()));
        assert_eq!(book.reserve(0, peer(4)), Err(Status::LimitExceeded));
        assert!(book.reserve(0, peer(20)).is_ok() && book.reserve(1, peer(1)).is_ok());
        assert_eq!(book.open(2, peer(4), peer(1)), Ok(()));
        assert_eq!(book.open(2, peer(21), peer(20)), Ok(()));
        assert_eq!(book.open(2, peer(5), peer(2)), Ok(()));
        book.close(peer(21), peer(20));
        assert_eq!(book.open(2, peer(6), peer(3)), Err(Status::LimitExceeded), "four ends of four");
        assert_eq!(book.open(2, peer(21), peer(20)), Ok(()));
        book.close(peer(4), peer(1));
        for n in 1..9 {
            book.spend(3, [peer(n), peer(20)], 500);
        }
        assert_eq!(
            book.open(3, peer(6), peer(3)),
            Err(Status::LimitExceeded),
            "the day is used up"
        );
    }

    #[test]
    fn who_has_used_its_day_up_waits_for_the_next() {
        let mut book = Book::new(limits(), Arc::default());
        book.reserve(0, peer(2)).unwrap();
        assert!(book.spend(0, [peer(1), peer(2)], 1000));
        assert!(!book.spend(1, [peer(1), peer(3)], 1));
        assert_eq!(book.open(2, peer(1), peer(2)), Err(Status::LimitExceeded));
        book.reserve(DAY_MS, peer(2)).unwrap();
        assert_eq!(book.open(DAY_MS, peer(1), peer(2)), Ok(()));
        assert_eq!((book.used(2, peer(3)), book.bytes()), (1, 1001));
    }

    proptest! {
        #[test]
        fn circuits_never_pass_their_bounds(steps in proptest::collection::vec((0_u8..5, 0_u8..5, any::<bool>()), 0..80)) {
            let mut book = Book::new(RelayLimits { reservations: 9, ..limits() }, Arc::default());
            (0..5).for_each(|n| { book.reserve(0, peer(n)).unwrap(); });
            let mut open = Vec::new();
            for (from, to, is_open) in steps {
                if is_open {
                    if book.open(0, peer(from), peer(to)).is_ok() {
                        open.push((from, to));
                    }
                } else if let Some((from, to)) = open.pop() {
                    book.close(peer(from), peer(to));
                }
                prop_assert_eq!(book.n_circuits() as usize, open.len());
                prop_assert!(book.n_circuits() <= 3);
                for n in 0..5 {
                    prop_assert!(open.iter().filter(|(a, b)| *a == n || *b == n).count() <= 2);
                }
            }
            while let Some((from, to)) = open.pop() {
                book.close(peer(from), peer(to));
            }
            prop_assert!(book.circuits.is_empty());
        }
    }
}
