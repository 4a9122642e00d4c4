//! The room for received messages that wait for the application: how much of it one peer may have.
//!
//! All peers share the memory and the queue. Without a bound for each, one peer that sends faster than the application reads
//! would have both to itself, and everybody else would be told "busy".

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::key::PeerKey;

/// One peer may have this part of the memory, or one message of the largest size if that is more.
pub(crate) const SHARE: u32 = 4;
/// Messages of one peer that may wait. Beyond it the peer is told "busy".
const MESSAGES: u32 = 256;

#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    messages: u32,
    bytes: u64,
}

/// What waits of each peer.
#[derive(Debug)]
pub(crate) struct Room {
    bytes: u64,
    taken: Mutex<BTreeMap<PeerKey, Taken>>,
}

/// A message's part of it; free again when dropped.
#[derive(Debug)]
pub(crate) struct Waiting {
    room: Arc<Room>,
    peer: PeerKey,
    bytes: u64,
}

impl Room {
    /// At most so many bytes of one peer.
    pub(crate) fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { bytes, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<PeerKey, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a message; nothing when the peer has its part.
    pub(crate) fn take(self: &Arc<Self>, peer: PeerKey, bytes: u64) -> Option<Waiting> {
        let mut all = self.taken();
        let Taken { messages, bytes: waiting } = all.get(&peer).copied().unwrap_or_default();
        let after = Taken { messages: messages + 1, bytes: waiting.saturating_add(bytes) };
        if after.messages > MESSAGES || after.bytes > self.bytes {
            return None;
        }
        all.insert(peer, after);
        Some(Waiting { room: Arc::clone(self), peer, bytes })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut all = self.room.taken();
        let Some(own) = all.get_mut(&self.peer) else {
            return;
        };
        own.messages -= 1;
        own.bytes -= self.bytes;
        if own.messages == 0 {
            all.remove(&self.peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_fills_its_part_and_nobody_elses() {
        let room = Room::new(1000);
        let (greedy, other) = (PeerKey::from_bytes([1; 32]), PeerKey::from_bytes([2; 32]));
        let large = room.take(greedy, 900).unwrap();
        assert!(room.take(greedy, 101).is_none());
        let _here = room.take(other, 1000).unwrap();
        drop(large);
        let small: Vec<Waiting> = (0..MESSAGES).filter_map(|_| room.take(greedy, 1)).collect();
        assert_eq!(small.len(), 256);
        assert!(room.take(greedy, 0).is_none(), "it has as many as it may");
        drop(small);
        assert!(!room.taken().contains_key(&greedy), "nothing is kept of who has nothing");
    }
}
