//! Places: how many streams of a protocol are served at once, in all, to each peer, and to each group of peers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::key::PeerKey;
use crate::terms::{TermsBook, of_group};

/// The places of one protocol. At any of the bounds a stream gets a place only to be told "busy"; there are as many of those
/// again, and beyond them streams are dropped without a word.
#[derive(Debug)]
pub(crate) struct Places {
    all: u32,
    each: u32,
    /// Who is of which group.
    terms: Arc<TermsBook>,
    /// Peers with at least one place.
    taken: Mutex<BTreeMap<PeerKey, Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    group: Option<[u8; 32]>,
    serving: u32,
    refusing: u32,
    period: CancellationToken,
}

/// One taken place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    peer: PeerKey,
    refused_at: Option<u32>,
    period: CancellationToken,
}

impl Places {
    /// At most `all` places, and `each` of them for one peer.
    pub(crate) fn new(all: u32, each: u32) -> Arc<Self> {
        Self::shared(all, each, Arc::default())
    }

    /// The same, of which the peers of one group may have as many as [`of_group`] says.
    pub(crate) fn shared(all: u32, each: u32, terms: Arc<TermsBook>) -> Arc<Self> {
        Arc::new(Self { all, each, terms, taken: Mutex::default() })
    }

    pub(crate) fn take(self: &Arc<Self>, peer: PeerKey) -> Option<Place> {
        let mut map = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let serving: u32 = map.values().map(|taken| taken.serving).sum();
        let refusing: u32 = map.values().map(|taken| taken.refusing).sum();
        let (own_serving, own_refusing) =
            map.get(&peer).map_or((0, 0), |own| (own.serving, own.refusing));
        let group = self.terms.group(peer);
        let same = || map.values().filter(|taken| group.is_some() && taken.group == group);
        let of_group = of_group(self.all, self.each);
        let refused_at = if serving >= self.all {
            Some(self.all)
        } else if same().map(|taken| taken.serving).sum::<u32>() >= of_group {
            Some(of_group)
        } else {
            Some(self.each).filter(|each| own_serving >= *each)
        };
        let is_refusal = refused_at.is_some();
        let group_refusing: u32 = same().map(|taken| taken.refusing).sum();
        if is_refusal
            && (refusing >= self.all || own_refusing >= self.each || group_refusing >= of_group)
        {
            return None;
        }
        let own = map.entry(peer).or_default();
        own.group = group;
        if is_refusal {
            own.refusing += 1;
        } else {
            own.serving += 1;
        }
        let period = own.period.clone();
        Some(Place { places: Arc::clone(self), peer, refused_at, period })
    }

    /// The peer is gone: tells it to everything that has one of its places now.
    pub(crate) fn end(&self, peer: PeerKey) {
        let mut map = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = map.get_mut(&peer) {
            std::mem::take(&mut own.period).cancel();
        }
    }

    /// All are gone.
    pub(crate) fn end_all(&self) {
        let mut map = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for own in map.values_mut() {
            std::mem::take(&mut own.period).cancel();
        }
    }
}

impl Place {
    /// Whose it is.
    pub(crate) fn peer(&self) -> PeerKey {
        self.peer
    }

    /// Whether it is only good for saying "busy".
    pub(crate) fn is_refusal(&self) -> bool {
        self.refused_at.is_some()
    }

    /// The bound that was met, where it is only good for saying so.
    pub(crate) fn refused_at(&self) -> Option<u32> {
        self.refused_at
    }

    /// Resolves when the peer is gone.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        self.period.clone().cancelled_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut map = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = map.get_mut(&self.peer) else {
            return;
        };
        if self.is_refusal() {
            own.refusing -= 1;
        } else {
            own.serving -= 1;
        }
        if own.serving == 0 && own.refusing == 0 {
            map.remove(&self.peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PeerKey {
        PeerKey::from_bytes([n; 32])
    }

    #[test]
    fn no_peer_takes_more_than_its_share_and_places_come_back() {
        let places = Places::new(3, 2);
        let serves = |n| places.take(peer(n)).filter(|place| !place.is_refusal());
        let first = serves(1).unwrap();
        let _second = serves(1).unwrap();
        assert!(serves(1).is_none());
        let _third = serves(2).unwrap();
        assert!(serves(2).is_none());
        drop(first);
        assert!(serves(2).is_some());
    }

    #[test]
    fn a_group_leaves_places_for_others_however_many_peers_it_has() {
        let terms = Arc::new(TermsBook::default());
        let ours = crate::Terms { group: Some([7; 32]), ..crate::Terms::default() };
        (1..9).for_each(|n| terms.set(peer(n), ours));
        let places = Places::shared(8, 2, Arc::clone(&terms));
        let taken: Vec<Place> = (1..9).filter_map(|n| places.take(peer(n))).collect();
        let served = taken.iter().filter(|place| !place.is_refusal()).count();
        assert_eq!((taken.len(), served), (8, 6));
        assert_eq!(taken[7].refused_at(), Some(6));
        let other = places.take(peer(20)).unwrap();
        assert!(!other.is_refusal(), "a quarter is for those of other groups, and of none");
        drop(taken);
        assert!(!places.take(peer(8)).unwrap().is_refusal());
    }

    #[test]
    fn refusals_have_places_of_their_own_and_no_more() {
        let places = Places::new(2, 1);
        let _served = places.take(peer(1)).unwrap();
        let refused = places.take(peer(1)).unwrap();
        assert_eq!((refused.is_refusal(), refused.refused_at()), (true, Some(1)));
        assert!(places.take(peer(1)).is_none());
        assert!(!places.take(peer(2)).unwrap().is_refusal(), "a refusal takes nobody's place");
        drop(refused);
        assert!(places.take(peer(1)).unwrap().is_refusal());
    }

    #[tokio::test]
    async fn who_goes_is_told_to_its_places_and_to_no_later_ones() {
        let places = Places::new(9, 9);
        let (here, other) = (places.take(peer(1)).unwrap(), places.take(peer(2)).unwrap());
        places.end(peer(1));
        here.ended().await;
        let later = places.take(peer(1)).unwrap();
        assert!(!later.period.is_cancelled() && !other.period.is_cancelled());
        drop((here, later, other));
        assert!(places.taken.lock().unwrap().is_empty());
    }
}
