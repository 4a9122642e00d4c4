//! How many bytes a tunnel's reader has asked for: what bounds the bytes in flight.
//!
//! Each tunnel has a window of [`WINDOW_BYTES`] from the beginning. One that is read fast gets a larger one, out of what all
//! tunnels with the same peer share; it keeps that until it ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::key::PeerKey;

/// Bytes that the other side of a tunnel may send before anything was read.
pub(crate) const WINDOW_BYTES: u32 = 64 << 10;
/// What credit is counted in.
pub(super) const UNIT_BYTES: u64 = 1 << 10;
/// One tunnel gets at most this part of what those with a peer share.
const SHARE: u64 = 4;
/// A window of which half is read within this time is doubled: on a path with half as long a round trip it was too small.
const HASTE: Duration = Duration::from_millis(250);

/// What the tunnels with each peer may have beyond their first windows.
#[derive(Debug)]
pub(crate) struct Pools {
    each: u64,
    /// Peers that have some of theirs.
    used: Mutex<BTreeMap<PeerKey, u64>>,
}

impl Pools {
    /// So many bytes for the tunnels with each peer.
    pub(crate) fn new(each: u32) -> Arc<Self> {
        Arc::new(Self { each: each.into(), used: Mutex::default() })
    }

    /// A new tunnel's share, which is nothing yet.
    pub(crate) fn share(self: &Arc<Self>, peer: PeerKey) -> Share {
        Share { pools: Arc::clone(self), peer, held: 0 }
    }
}

/// What one tunnel has of a pool; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    pools: Arc<Pools>,
    peer: PeerKey,
    held: u64,
}

impl Share {
    /// All or nothing.
    fn grow(&mut self, by: u64) -> bool {
        let each = self.pools.each;
        let mut used = self.pools.used.lock().unwrap_or_else(PoisonError::into_inner);
        let now = used.get(&self.peer).copied().unwrap_or(0);
        if self.held + by > each / SHARE || now + by > each {
            return false;
        }
        used.insert(self.peer, now + by);
        self.held += by;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut used = self.pools.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = used.get_mut(&self.peer) {
            *now = now.saturating_sub(self.held);
            if *now == 0 {
                used.remove(&self.peer);
            }
        }
    }
}

/// What the peer may send. Its bytes are in one of three places: not here yet, here and unread, or read and not asked for
/// anew; together they are never more than the window.
#[derive(Debug)]
pub(crate) struct Window {
    bytes: u64,
    /// What the peer may still send.
    room: u64,
    /// Read, and not asked for anew.
    read: u64,
    /// When bytes were last asked for.
    asked: Instant,
    share: Share,
}

impl Window {
    pub(crate) fn new(share: Share, now: Instant) -> Self {
        let bytes = u64::from(WINDOW_BYTES);
        Self { bytes, room: bytes, read: 0, asked: now, share }
    }

    /// So many bytes are on their way; false when the peer may not send as many.
    pub(super) fn take(&mut self, n: u64) -> bool {
        match self.room.checked_sub(n) {
            Some(room) => {
                self.room = room;
                true
            }
            None => false,
        }
    }

    /// So many bytes were read; gives the units that the peer may send more, if it is time to say so.
    pub(super) fn read(&mut self, n: u64, now: Instant) -> Option<u16> {
        self.read += n;
        if self.read < self.bytes / 2 {
            return None;
        }
        if now.saturating_duration_since(self.asked) < HASTE && self.share.grow(self.bytes) {
            self.read += self.bytes;
            self.bytes *= 2;
        }
        self.asked = now;
        let units = u16::try_from(self.read / UNIT_BYTES).unwrap_or(u16::MAX);
        let bytes = u64::from(units) * UNIT_BYTES;
        self.read -= bytes;
        self.room += bytes;
        Some(units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    fn peer(n: u8) -> PeerKey {
        PeerKey::from_bytes([n; 32])
    }

    /// Reads as much as may come, again and again, with such a pause in between; gives the window at the end.
    fn after(window: &mut Window, mut now: Instant, pause: Duration) -> u64 {
        for _ in 0..100 {
            let room = window.room;
            assert!(room <= window.bytes && window.take(room) && !window.take(1));
            now += pause;
            let asked = window.read(room, now).unwrap();
            assert_eq!(window.room, u64::from(asked) * KIB);
        }
        window.bytes
    }

    #[test]
    fn a_window_is_never_overrun_and_asks_at_half() {
        let pools = Pools::new(0);
        let now = Instant::now();
        let mut window = Window::new(pools.share(peer(1)), now);
        assert!(window.take(64 * KIB) && !window.take(1));
        assert_eq!(window.read(32 * KIB - 1, now), None);
        assert_eq!(window.read(2, now), Some(32));
        assert!(window.take(32 * KIB) && !window.take(1));
        // The odd byte is not lost.
        assert_eq!(window.read(32 * KIB - 2, now), None);
        assert_eq!(window.read(1, now), Some(32));
    }

    #[test]
    fn a_window_grows_for_who_reads_fast_up_to_its_share() {
        let pools = Pools::new(8 << 20);
        let now = Instant::now();
        let mut slow = Window::new(pools.share(peer(1)), now);
        assert_eq!(after(&mut slow, now, HASTE), 64 * KIB);
        let mut fast = Window::new(pools.share(peer(1)), now);
        assert_eq!(after(&mut fast, now, HASTE / 2), 2048 * KIB);
    }

    #[test]
    fn the_windows_with_one_peer_share_a_pool_and_give_it_back() {
        let pools = Pools::new(1 << 20);
        let now = Instant::now();
        let grown = |n| {
            let mut window = Window::new(pools.share(peer(n)), now);
            let bytes = after(&mut window, now, HASTE / 2);
            (window, bytes)
        };
        let mut held: Vec<_> = (0..8).map(|_| grown(1)).collect();
        let all: u64 = held.iter().map(|(_, bytes)| bytes - 64 * KIB).sum();
        assert!(all <= 1 << 20 && all > (1 << 20) - 64 * KIB, "{all}");
        assert_eq!(held[7].1, 64 * KIB, "who comes last has its first window all the same");
        assert_eq!(grown(2).1, 256 * KIB, "other peers are not touched");
        held.clear();
        assert_eq!(grown(1).1, 256 * KIB);
        assert!(pools.used.lock().unwrap().is_empty());
    }
}
