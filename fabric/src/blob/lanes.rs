//! How many blobs are fetched from one peer at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::key::PeerKey;

/// Streams of blobs from one peer at once; further ones wait here. As many as a peer serves to one, by default: it would say
/// that it is busy.
const STREAMS: usize = 4;

/// The places for streams, by peer. Only peers with a stream, or with one that waits, take room.
#[derive(Debug, Default)]
pub(crate) struct Lanes(Mutex<BTreeMap<PeerKey, Arc<Semaphore>>>);

impl Lanes {
    /// The places of one peer.
    pub(super) fn of(&self, peer: PeerKey) -> Arc<Semaphore> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        Arc::clone(lanes.entry(peer).or_insert_with(|| Arc::new(Semaphore::new(STREAMS))))
    }

    /// How many streams a peer has; more than four are not told apart.
    pub(crate) fn load(&self, peer: PeerKey) -> usize {
        let lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.get(&peer).map_or(0, |lane| STREAMS - lane.available_permits().min(STREAMS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_own_places_and_idle_peers_are_forgotten() {
        let lanes = Lanes::default();
        let (one, other) = (PeerKey::from_bytes([1; 32]), PeerKey::from_bytes([2; 32]));
        let places: Vec<_> =
            (0..STREAMS).map(|_| lanes.of(one).try_acquire_owned().unwrap()).collect();
        assert!(lanes.of(one).try_acquire_owned().is_err());
        assert_eq!((lanes.load(one), lanes.load(other)), (STREAMS, 0));
        assert!(lanes.of(other).try_acquire_owned().is_ok());
        drop(places);
        assert_eq!(lanes.load(one), 0);
        drop(lanes.of(other));
        assert_eq!(lanes.0.lock().unwrap().len(), 1);
    }
}
