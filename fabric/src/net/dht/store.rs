//! Who provides what, as peers said of themselves.

use std::borrow::Cow;
use std::collections::HashMap;
use std::iter::{Empty, empty};
use std::time::{Duration, Instant};

use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Length of a key. Records of others are not kept.
pub(super) const KEY_LEN: usize = 32;
/// Records of other nodes. More are not kept.
const RECORDS_MAX: usize = 8_192;
/// Keys of one other node. More are not kept, so that no node takes all the room.
const KEYS_PER_PEER: usize = 256;
/// Nodes kept for one key. More are not kept: those that are there are as good.
const PROVIDERS_PER_KEY: usize = 20;
/// How often at most all records are looked through for those that are too old.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);

/// The records of one node. No values, no addresses: who wants a provider knows where members are.
pub(crate) struct Store {
    me: PeerId,
    keys: HashMap<RecordKey, Vec<ProviderRecord>>,
    /// How many keys each other node has here.
    counts: HashMap<PeerId, usize>,
    n_records: usize,
    swept: Option<Instant>,
}

/// What stands for the addresses of a peer, of which none travels.
pub(super) fn nowhere(peer: PeerId) -> Multiaddr {
    Multiaddr::empty().with(Protocol::P2p(peer))
}

impl Store {
    pub(super) fn new(me: PeerId) -> Self {
        Self { me, keys: HashMap::new(), counts: HashMap::new(), n_records: 0, swept: None }
    }

    /// Records of other nodes.
    pub(super) fn n_records(&self) -> usize {
        self.n_records
    }

    /// Keeps what a peer said of itself, or not.
    pub(super) fn take(&mut self, now: Instant, record: ProviderRecord) {
        if record.key.as_ref().len() != KEY_LEN || record.provider == self.me {
            return;
        }
        self.make_room(now, &record);
        let record = ProviderRecord { addresses: vec![nowhere(record.provider)], ..record };
        // The sender is not told; it says it again in time.
        let _at_the_bound = self.add_provider(record);
    }

    fn make_room(&mut self, now: Instant, record: &ProviderRecord) {
        let own = self.counts.get(&record.provider).copied().unwrap_or(0);
        let is_full = own >= KEYS_PER_PEER
            || self.n_records >= RECORDS_MAX
            || self.keys.get(&record.key).is_some_and(|all| all.len() >= PROVIDERS_PER_KEY);
        let may_sweep =
            self.swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP_PAUSE);
        if is_full && may_sweep {
            self.swept = Some(now);
            self.retain(|record| !record.is_expired(now));
        }
    }

    /// Forgets what a peer said.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        if self.counts.contains_key(peer) {
            self.retain(|record| record.provider != *peer);
        }
    }

    fn retain(&mut self, is_kept: impl Fn(&ProviderRecord) -> bool) {
        self.counts.clear();
        self.n_records = 0;
        let (me, counts, n_records) = (self.me, &mut self.counts, &mut self.n_records);
        self.keys.retain(|_, records| {
            records.retain(|record| record.provider == me || is_kept(record));
            for record in records.iter().filter(|record| record.provider != me) {
                *counts.entry(record.provider).or_default() += 1;
                *n_records += 1;
            }
            !records.is_empty()
        });
    }
}

impl RecordStore for Store {
    type RecordsIter<'a> = Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        let is_own = record.provider == self.me;
        let known = self.keys.get_mut(&record.key);
        let same = known.and_then(|all| all.iter_mut().find(|r| r.provider == record.provider));
        if let Some(same) = same {
            *same = record;
            return Ok(());
        }
        let own = self.counts.get(&record.provider).copied().unwrap_or(0);
        let there = self.keys.get(&record.key).map_or(0, Vec::len);
        let is_full =
            own >= KEYS_PER_PEER || self.n_records >= RECORDS_MAX || there >= PROVIDERS_PER_KEY;
        if is_full && !is_own {
            return Err(Error::MaxProvidedKeys);
        }
        if !is_own {
            *self.counts.entry(record.provider).or_default() += 1;
            self.n_records += 1;
        }
        self.keys.entry(record.key.clone()).or_default().push(record);
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        self.keys.get(key).cloned().unwrap_or_default()
    }

    /// Nothing: this node says itself when it tells again what it provides.
    fn provided(&self) -> Self::ProvidedIter<'_> {
        empty()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        let Some(records) = self.keys.get_mut(key) else {
            return;
        };
        let before = records.len();
        records.retain(|record| record.provider != *provider);
        let n_removed = before - records.len();
        if records.is_empty() {
            self.keys.remove(key);
        }
        if *provider == self.me || n_removed == 0 {
            return;
        }
        self.n_records -= n_removed;
        if let Some(count) = self.counts.get_mut(provider) {
            *count -= n_removed;
            if *count == 0 {
                self.counts.remove(provider);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PeerKey;

    fn peer(n: u16) -> PeerId {
        let mut seed = [7; 32];
        seed[..2].copy_from_slice(&n.to_be_bytes());
        let key = libp2p::identity::Keypair::ed25519_from_bytes(seed).unwrap();
        let id = key.public().to_peer_id();
        assert!(PeerKey::from_peer_id(&id).is_some());
        id
    }

    fn key(n: usize) -> RecordKey {
        let mut bytes = [0; KEY_LEN];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        RecordKey::new(&bytes)
    }

    fn record(n: usize, provider: PeerId, expires: Instant) -> ProviderRecord {
        let addresses = vec!["/ip4/198.51.100.9/tcp/1".parse().unwrap(); 40];
        ProviderRecord { key: key(n), provider, expires: Some(expires), addresses }
    }

    #[test]
    fn nobody_takes_all_the_room_and_no_address_stays() {
        let (now, late) = (Instant::now(), Instant::now() + Duration::from_secs(900));
        let mut store = Store::new(peer(0));
        for n in 0..2 * KEYS_PER_PEER {
            store.take(now, record(n, peer(1), late));
        }
        assert_eq!((store.n_records(), store.keys.len()), (KEYS_PER_PEER, KEYS_PER_PEER));
        store.take(now, record(5, peer(2), late));
        let found = store.providers(&key(5));
        assert_eq!(found.iter().map(|r| r.provider).collect::<Vec<_>>(), [peer(1), peer(2)]);
        assert!(found.iter().all(|r| r.addresses == [nowhere(r.provider)]));
        // Saying it again takes no more room.
        store.take(now, record(5, peer(2), late));
        assert_eq!(store.n_records(), KEYS_PER_PEER + 1);
        store.forget(&peer(1));
        assert_eq!((store.n_records(), store.keys.len(), store.counts.len()), (1, 1, 1));
        store.remove_provider(&key(5), &peer(2));
        assert_eq!((store.n_records(), store.keys.len(), store.counts.len()), (0, 0, 0));
    }

    #[test]
    fn what_is_too_old_makes_room_and_no_key_has_too_many() {
        let (now, soon) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut store = Store::new(peer(0));
        for n in 0..30 {
            store.take(now, record(1, peer(n), soon));
        }
        assert_eq!(store.providers(&key(1)).len(), PROVIDERS_PER_KEY);
        let later = now + 2 * SWEEP_PAUSE;
        store.take(later, record(1, peer(99), later + SWEEP_PAUSE));
        let left: Vec<PeerId> = store.providers(&key(1)).iter().map(|r| r.provider).collect();
        assert_eq!(left, [peer(99)]);
    }

    #[test]
    fn keys_of_another_length_and_records_in_this_nodes_name_are_not_kept() {
        let (now, late) = (Instant::now(), Instant::now() + Duration::from_secs(900));
        let mut store = Store::new(peer(0));
        let long = RecordKey::new(&[0; KEY_LEN + 1]);
        store.take(now, ProviderRecord { key: long, ..record(1, peer(1), late) });
        store.take(now, record(1, peer(0), late));
        assert_eq!(store.n_records(), 0);
        // Its own are no matter of the bounds, and stay.
        for n in 0..KEYS_PER_PEER + 1 {
            store.add_provider(record(n, peer(0), late)).unwrap();
        }
        store.retain(|_| false);
        assert_eq!((store.keys.len(), store.n_records()), (KEYS_PER_PEER + 1, 0));
    }
}
