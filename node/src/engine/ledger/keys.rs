//! Under which keys this node and its partners sign, when one of them has changed its key.
//!
//! A channel is one of two keys, and stays it: what is signed in it after a rotation is signed with the key that opened it,
//! for as long as its secret is kept, and carried by connections of the key that came after it. New agreements open channels
//! of the new keys. The page is [`super::super::rotation`].

use std::collections::BTreeMap;

use accounting::channel::Channel;
use accounting::entry::Side;
use accounting::lane::LaneState;
use catalog::NodeId;
use ed25519_dalek::SigningKey;

use super::Ledger;

/// Steps from a key to the newest one after it; a chain that is longer is not followed to its end, and its channels rest.
const STEPS_MAX: usize = 64;

/// The keys of this node: the one it has, and those it had.
#[derive(Clone)]
pub(in crate::engine) struct Keys {
    me: NodeId,
    current: SigningKey,
    former: BTreeMap<NodeId, Option<SigningKey>>,
}

impl Keys {
    pub(in crate::engine) fn new(
        current: SigningKey,
        former: impl IntoIterator<Item = (NodeId, Option<SigningKey>)>,
    ) -> Self {
        Self { me: current.verifying_key().into(), current, former: former.into_iter().collect() }
    }

    pub(super) const fn me(&self) -> NodeId {
        self.me
    }

    pub(super) const fn current(&self) -> &SigningKey {
        &self.current
    }

    /// Whether this node has or had a key.
    pub(super) fn is_mine(&self, node: NodeId) -> bool {
        node == self.me || self.former.contains_key(&node)
    }

    /// The secret of one of this node's keys, while it is kept.
    pub(super) fn of(&self, node: NodeId) -> Option<&SigningKey> {
        if node == self.me { Some(&self.current) } else { self.former.get(&node)?.as_ref() }
    }

    /// What signs in a channel.
    pub(super) fn of_channel(&self, channel: &Channel) -> Option<&SigningKey> {
        self.of(own(channel))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> {
        std::iter::once(self.me).chain(self.former.keys().copied())
    }
}

/// This node's key in a channel.
pub(super) const fn own(channel: &Channel) -> NodeId {
    match channel.side() {
        Side::Provider => channel.provider(),
        Side::Consumer => channel.consumer(),
    }
}

/// Which key of a partner came after which.
#[derive(Clone, Debug, Default)]
pub(super) struct Heirs(BTreeMap<NodeId, NodeId>);

impl Heirs {
    /// A key and those that came after it, in order.
    fn line(&self, key: NodeId) -> impl Iterator<Item = NodeId> {
        std::iter::successors(Some(key), |key| self.0.get(key).copied()).take(STEPS_MAX)
    }

    /// Under which key a partner is to be reached.
    pub(super) fn now(&self, key: NodeId) -> NodeId {
        self.line(key).last().unwrap_or(key)
    }

    /// Whether whoever speaks as `from` speaks for the key `party`, too.
    pub(super) fn is_behind(&self, party: NodeId, from: NodeId) -> bool {
        self.line(party).any(|key| key == from)
    }

    /// The key itself, and those before it.
    pub(super) fn behind(&self, key: NodeId) -> Vec<NodeId> {
        let older = self.0.keys().copied().filter(|old| self.is_behind(*old, key));
        std::iter::once(key).chain(older).collect()
    }
}

impl Ledger {
    /// One key of a partner came after another: channels of the older are carried on with the newer.
    pub(in crate::engine) fn succeed(&mut self, old: NodeId, new: NodeId) {
        if old != new && !self.heirs.is_behind(new, old) {
            self.heirs.0.insert(old, new);
        }
    }

    /// Takes back all that is known of which key came after which: some of it may have been revoked.
    pub(in crate::engine) fn follow(&mut self, heirs: impl Iterator<Item = (NodeId, NodeId)>) {
        self.heirs = Heirs::default();
        heirs.for_each(|(old, new)| self.succeed(old, new));
    }

    /// Whether nothing more has to be signed with a former key: each lane of its channels has ended, and each side is known to
    /// hold what the other wrote.
    pub(in crate::engine) fn is_quiet(&self, former: NodeId) -> bool {
        self.channels.iter().filter(|(_, c)| own(c) == former).all(|(id, channel)| {
            let has_all =
                self.partner_have.get(id).copied().unwrap_or(0).max(channel.known_to_peer());
            let is_over = |state| matches!(state, LaneState::Closed | LaneState::Refused);
            let lanes_over = channel.lanes().all(|(_, lane)| is_over(lane.state()));
            channel.frozen().is_some() || (lanes_over && has_all >= channel.own_head().0)
        })
    }

    /// The lanes of a former key that have not ended, and entries that the partners are not known to hold.
    pub(in crate::engine) fn unsettled(&self, former: NodeId) -> u64 {
        let of = self.channels.iter().filter(|(_, c)| own(c) == former && c.frozen().is_none());
        of.map(|(id, channel)| {
            let has = self.partner_have.get(id).copied().unwrap_or(0).max(channel.known_to_peer());
            let is_live = |state| !matches!(state, LaneState::Closed | LaneState::Refused);
            let lanes = channel.lanes().filter(|(_, lane)| is_live(lane.state())).count();
            lanes as u64 + channel.own_head().0.saturating_sub(has)
        })
        .sum()
    }

    /// The secret of a former key is no more.
    pub(in crate::engine) fn forget_key(&mut self, former: NodeId) {
        if let Some(key) = self.keys.former.get_mut(&former) {
            *key = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn a_line_of_keys_is_followed_forward_only_and_never_in_a_circle() {
        let mut heirs = Heirs::default();
        heirs.0.extend([(id(1), id(2)), (id(2), id(3))]);
        assert_eq!((heirs.now(id(1)), heirs.now(id(3)), heirs.now(id(9))), (id(3), id(3), id(9)));
        assert!(heirs.is_behind(id(1), id(3)) && heirs.is_behind(id(1), id(2)));
        assert!(!heirs.is_behind(id(3), id(1)) && !heirs.is_behind(id(9), id(3)));
        assert_eq!(heirs.behind(id(3)), vec![id(3), id(1), id(2)]);
        // A circle, which no papers make, ends all the same.
        heirs.0.insert(id(3), id(1));
        assert!(heirs.is_behind(id(1), id(3)));
        let _ = heirs.now(id(1));
    }
}
