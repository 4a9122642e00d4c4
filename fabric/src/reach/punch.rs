//! From a relay to a direct connection: when to dial a relayed peer, when to punch again, when to let the relay go.
//!
//! libp2p punches (DCUtR) when a relayed connection comes about, three times, with the addresses at which the two were seen
//! by then. Right after an address change those are the old ones: the relayed connection may be there before the first peer
//! says where it sees this node now. So another relayed connection is opened beside the first after a while, which makes
//! libp2p punch with what is known then, and closed again when that did not help. Only the side that dialled the first one
//! does so, for it knows the way.

use std::collections::BTreeMap;

use libp2p::Multiaddr;

use super::Effect;
use crate::key::PeerKey;

/// A relayed connection is closed so long after a direct one is there: what is under way on it should end first.
pub(super) const PUNCHED_MS: u64 = 3_000;
/// A peer that is reached through a relay is dialled directly so long after it has said where it listens; the one of the two
/// with the smaller key begins, because two nodes that dial each other at once may both fail.
pub(super) const DIRECT_MS: u64 = 500;
/// The other one waits so much longer.
pub(super) const DIRECT_GRACE_MS: u64 = 4_000;
/// It is tried again after this.
pub(super) const DIRECT_AGAIN_MS: u64 = 300_000;
/// It is punched again so long after it was first seen to be relayed; the pause doubles with each try.
const PUNCH_MS: u64 = 10_000;
/// Longest pause between two tries: what changes in the world is worth another one.
const PUNCH_MAX_MS: u64 = 600_000;
/// The second relayed connection of a try is closed after this: libp2p takes 10 s for each message of it.
const TRY_MS: u64 = 30_000;

/// A peer that is reached through a relay alone.
#[derive(Debug)]
struct Relayed {
    /// Where it says that it listens.
    addresses: Vec<Multiaddr>,
    dial_ms: u64,
    punch_ms: u64,
    punches: u32,
    /// When the try under way ends.
    ends_ms: Option<u64>,
}

impl Relayed {
    fn next_ms(&self) -> u64 {
        self.dial_ms.min(self.punch_ms).min(self.ends_ms.unwrap_or(u64::MAX))
    }

    /// Something has changed: it is tried anew, but never faster than in the beginning.
    fn again(&mut self, now_ms: u64) {
        self.punches = 0;
        self.punch_ms = self.punch_ms.min(now_ms.saturating_add(PUNCH_MS));
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Punches {
    relayed: BTreeMap<PeerKey, Relayed>,
    /// Peers with a direct and a relayed connection, and when the latter ends.
    punched: BTreeMap<PeerKey, u64>,
}

impl Punches {
    /// A peer that is reached through a relay alone says where it listens.
    pub(super) fn handle_relayed(
        &mut self,
        now_ms: u64,
        (me, peer): (PeerKey, PeerKey),
        mut addresses: Vec<Multiaddr>,
    ) {
        // It says them in any order.
        addresses.sort();
        let grace = if me < peer { 0 } else { DIRECT_GRACE_MS };
        let entry = self.relayed.entry(peer).or_insert_with(|| Relayed {
            addresses: addresses.clone(),
            dial_ms: now_ms + DIRECT_MS + grace,
            punch_ms: now_ms + PUNCH_MS,
            punches: 0,
            ends_ms: None,
        });
        if entry.addresses != addresses {
            entry.addresses = addresses;
            entry.again(now_ms);
        }
    }

    /// This node is seen elsewhere than before.
    pub(super) fn handle_moved(&mut self, now_ms: u64) {
        self.relayed.values_mut().for_each(|relayed| relayed.again(now_ms));
    }

    /// The peer is reached directly now, or not at all.
    pub(super) fn handle_not_relayed(&mut self, peer: PeerKey) {
        self.relayed.remove(&peer);
    }

    /// The peer has both a direct and a relayed connection.
    pub(super) fn handle_punched(&mut self, now_ms: u64, peer: PeerKey) {
        self.punched.entry(peer).or_insert(now_ms + PUNCHED_MS);
    }

    /// The last direct connection with the peer is closed.
    pub(super) fn handle_gone(&mut self, peer: PeerKey) {
        self.punched.remove(&peer);
    }

    pub(super) fn poll(&mut self, now_ms: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (peer, relayed) in &mut self.relayed {
            let peer = *peer;
            if relayed.dial_ms <= now_ms {
                relayed.dial_ms = now_ms + DIRECT_AGAIN_MS;
                if !relayed.addresses.is_empty() {
                    let addresses = relayed.addresses.clone();
                    effects.push(Effect::Dial { peer, addresses });
                }
            }
            if relayed.ends_ms.is_some_and(|ends_ms| ends_ms <= now_ms) {
                relayed.ends_ms = None;
                effects.push(Effect::EndPunch { peer });
            }
            if relayed.punch_ms <= now_ms && relayed.ends_ms.is_none() {
                relayed.punches = relayed.punches.saturating_add(1);
                let pause = PUNCH_MS.saturating_mul(1 << relayed.punches.min(16));
                relayed.ends_ms = Some(now_ms + TRY_MS);
                relayed.punch_ms = now_ms + pause.clamp(TRY_MS, PUNCH_MAX_MS);
                effects.push(Effect::Punch { peer });
            }
        }
        let is_due = |at: &u64| *at <= now_ms;
        let punched = self.punched.iter().filter(|(_, at)| is_due(at));
        effects.extend(punched.map(|(peer, _)| Effect::CloseRelayed { peer: *peer }));
        self.punched.retain(|_, at| !is_due(at));
        effects
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        let relayed = self.relayed.values().map(Relayed::next_ms);
        relayed.chain(self.punched.values().copied()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ME: PeerKey = PeerKey::from_bytes([1; 32]);
    const PEER: PeerKey = PeerKey::from_bytes([2; 32]);

    fn relayed() -> Punches {
        let mut punches = Punches::default();
        punches.handle_relayed(0, (ME, PEER), vec![]);
        punches
    }

    /// When it punches until then, with each try ended before the next.
    fn tries(punches: &mut Punches, until_ms: u64) -> Vec<u64> {
        let (mut tries, mut n_open) = (Vec::new(), 0);
        while let Some(now_ms) = punches.next_ms().filter(|at| *at <= until_ms) {
            for effect in punches.poll(now_ms) {
                match effect {
                    Effect::Punch { .. } => (tries.push(now_ms), n_open += 1).0,
                    Effect::EndPunch { .. } => n_open -= 1,
                    effect => panic!("{effect:?}"),
                }
                assert!(n_open <= 1);
            }
        }
        tries
    }

    #[test]
    fn it_is_punched_again_with_pauses_that_grow_and_at_once_when_something_changed() {
        let mut punches = relayed();
        assert_eq!(tries(&mut punches, 400_000), [10_000, 40_000, 80_000, 160_000, 320_000]);
        punches.handle_moved(400_000);
        assert_eq!(tries(&mut punches, 500_000), [410_000, 440_000, 480_000]);
        punches.handle_not_relayed(PEER);
        assert!(tries(&mut punches, u64::MAX).is_empty());
    }

    #[test]
    fn a_hard_pair_costs_no_more_than_one_try_in_ten_minutes() {
        let day = 24 * 3_600_000;
        assert!(tries(&mut relayed(), day).len() <= 8 + 144);
    }

    proptest! {
        #[test]
        fn changes_without_end_do_not_make_it_faster(
            changes in prop::collection::vec(1_u64..3_000, 1..200)
        ) {
            let mut punches = relayed();
            let (mut now, mut last) = (0, None);
            for after in changes {
                now += after;
                punches.handle_moved(now);
                for effect in punches.poll(now) {
                    if matches!(effect, Effect::Punch { .. }) {
                        prop_assert!(last.is_none_or(|last| now >= last + TRY_MS));
                        last = Some(now);
                    }
                }
            }
        }
    }
}
