//! What the application says of a peer beside that it is admitted: whose it is, and whether this node carries for it.
//!
//! Peers of one group (an organisation, to the application) share what one group may take. A group is more than one peer and
//! may be very many, so its bounds stand above those of each peer: of every kind of place three quarters
//! ([`of_group`]), of every rate four times that of a peer ([`GROUP_RATE`]). So no organisation, however many nodes it has,
//! takes the last place or the whole of the time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::key::PeerKey;

/// A group's rates are so many times those of one peer. Beyond them its peers are answered as one that is alone too fast.
pub(crate) const GROUP_RATE: u32 = 4;
/// Peers whose terms are kept. Terms end with the last connection; at the bound, which connections do not reach, those of
/// the least key are forgotten.
const TERMS_MAX: usize = 16_384;

/// How much of so many places one group may have at once, where one peer may have `each`.
pub(crate) const fn of_group(all: u32, each: u32) -> u32 {
    let most = all - all / 4;
    if most > each { most } else { each }
}

/// What a peer is to this node, besides admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The group whose bounds it shares; none stands for itself alone.
    pub group: Option<[u8; 32]>,
    /// Whether this node, as a relay, carries from and to it.
    pub may_relay: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self { group: None, may_relay: true }
    }
}

/// The terms of all connected peers, and the bytes of messages that each group has waiting.
#[derive(Debug, Default)]
pub(crate) struct TermsBook {
    known: RwLock<BTreeMap<PeerKey, Terms>>,
    held: Mutex<BTreeMap<[u8; 32], u64>>,
}

impl TermsBook {
    pub(crate) fn set(&self, peer: PeerKey, terms: Terms) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= TERMS_MAX && !known.contains_key(&peer) {
            known.pop_first();
        }
        known.insert(peer, terms);
    }

    pub(crate) fn forget(&self, peer: PeerKey) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(&peer);
    }

    pub(crate) fn of(&self, peer: PeerKey) -> Terms {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&peer).copied().unwrap_or_default()
    }

    pub(crate) fn group(&self, peer: PeerKey) -> Option<[u8; 32]> {
        self.of(peer).group
    }

    /// Whose share it takes: its group's, or its own.
    pub(crate) fn party(&self, peer: PeerKey) -> PeerKey {
        self.group(peer).map_or(peer, PeerKey::from_bytes)
    }

    /// Counts bytes of a message that waits; `None` when the peer's group has as much waiting as one may.
    pub(crate) fn hold(self: &Arc<Self>, peer: PeerKey, bytes: u64, all: u32) -> Option<Holding> {
        let Some(group) = self.group(peer) else {
            return Some(Holding { of: None, bytes });
        };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = held.get(&group).copied().unwrap_or(0).saturating_add(bytes);
        if sum > u64::from(of_group(all, 0)) {
            return None;
        }
        held.insert(group, sum);
        Some(Holding { of: Some((Arc::clone(self), group)), bytes })
    }
}

/// Bytes that wait on behalf of a group; counted until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    of: Option<(Arc<TermsBook>, [u8; 32])>,
    bytes: u64,
}

impl Drop for Holding {
    fn drop(&mut self) {
        let Some((book, group)) = &self.of else {
            return;
        };
        let mut held = book.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sum) = held.get_mut(group) {
            *sum = sum.saturating_sub(self.bytes);
            if *sum == 0 {
                held.remove(group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_leaves_a_quarter_and_never_less_than_one_peer_has() {
        assert_eq!(
            [of_group(16, 4), of_group(4, 2), of_group(2, 2), of_group(1, 1)],
            [12, 3, 2, 1]
        );
        assert_eq!((of_group(0, 0), of_group(u32::MAX, 0)), (0, u32::MAX - u32::MAX / 4));
    }

    #[test]
    fn what_waits_is_counted_by_group_and_given_back() {
        let book = Arc::new(TermsBook::default());
        let peer = |n| PeerKey::from_bytes([n; 32]);
        let ours = Terms { group: Some([9; 32]), ..Terms::default() };
        (1..3).for_each(|n| book.set(peer(n), ours));
        assert_eq!((book.party(peer(1)), book.party(peer(3))), (peer(9), peer(3)));
        let first = book.hold(peer(1), 50, 100).unwrap();
        assert!(book.hold(peer(2), 26, 100).is_none(), "the group has three quarters");
        let second = book.hold(peer(2), 25, 100).unwrap();
        assert!(book.hold(peer(3), 1_000, 100).is_some(), "who is alone is bound otherwise");
        drop((first, second));
        assert!(book.held.lock().unwrap().is_empty());
        book.forget(peer(1));
        assert_eq!(book.of(peer(1)), Terms::default());
    }
}
