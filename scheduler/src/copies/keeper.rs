//! The keeper's side: what this node keeps for others, and what it may.

use std::collections::BTreeMap;

use catalog::{Digest, NodeId};

use super::{
    Content, FULL_MS, IDLE_MS, KEPT_MAX, KeptKey, Message, NAME_LEN_MAX, NoKeep, POLICY_MS,
};

/// Between two looks at owners that were not heard of, in milliseconds: an hour.
const LOOK_MS: u64 = 3_600_000;
/// Before what was promised and could not be fetched is fetched again, in milliseconds.
const FETCH_AGAIN_MS: u64 = 30_000;
/// How often in a row a fetch may fail before the promise is taken back.
const FETCHES_MAX: u32 = 20;
/// How often it is stored that an owner was heard of, in milliseconds: a day.
const HEARD_MS: u64 = 24 * 3_600_000;

/// How much this node keeps for others. For whom is the caller's to say, of each message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Bytes of all that is kept; nothing is when it is 0. What was promised before stays.
    pub bytes: u64,
}

/// How what is kept stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptState {
    /// It is being fetched.
    Coming,
    /// It is here.
    Kept,
}

/// What is kept for an owner.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Keep {
    /// What.
    pub content: Content,
    /// How it stands.
    pub state: KeptState,
    /// Since when (Unix ms).
    pub since_ms: u64,
    /// When its owner was last heard of (Unix ms), as it was stored.
    pub heard_ms: u64,
    /// When it is to be fetched (Unix ms); nothing while it is being fetched.
    #[serde(skip)]
    fetch_ms: Option<u64>,
    #[serde(skip)]
    failures: u32,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeeperAction {
    /// Store that something is kept so, or is not any more. Before what follows.
    Persist {
        /// For whom, and what.
        key: KeptKey,
    },
    /// Tell an owner.
    Send {
        /// Whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Fetch from the owner and whoever else has it; [`Keeper::handle_fetched`] is told how that went.
    Fetch {
        /// For whom, and what.
        key: KeptKey,
        /// What.
        content: Content,
    },
    /// Something has become whole, or is kept for somebody no longer: who may fetch it changes.
    Changed {
        /// What.
        digest: Digest,
    },
}

/// What this node keeps for others.
#[derive(Clone, Debug, Default)]
pub struct Keeper {
    policy: Policy,
    all: BTreeMap<KeptKey, Keep>,
    look_ms: u64,
    actions: Vec<KeeperAction>,
}

impl Keeper {
    /// That keeps so much.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Takes back what was stored.
    pub fn restore(&mut self, owner: NodeId, mut keep: Keep, now_ms: u64) {
        keep.fetch_ms = (keep.state == KeptState::Coming).then_some(now_ms);
        self.all.insert((owner, keep.content.digest), keep);
    }

    /// An owner has come to another key: what is kept for it is kept for that one.
    pub fn succeed(&mut self, old: NodeId, new: NodeId) {
        let of_old = self.all.keys().filter(|(owner, _)| *owner == old).copied();
        for key in of_old.collect::<Vec<_>>() {
            let Some(keep) = self.all.remove(&key) else { continue };
            let digest = key.1;
            // What the new key had asked for itself already stands.
            self.all.entry((new, digest)).or_insert(keep);
            self.actions.push(KeeperAction::Persist { key });
            self.actions.push(KeeperAction::Persist { key: (new, digest) });
            self.actions.push(KeeperAction::Changed { digest });
        }
    }

    /// Everything by owner and content.
    pub fn iter(&self) -> impl Iterator<Item = (&KeptKey, &Keep)> {
        self.all.iter()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, key: &KeptKey) -> Option<&Keep> {
        self.all.get(key)
    }

    /// Bytes that are promised, each content once.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let each: BTreeMap<&Digest, u64> =
            self.all.values().map(|keep| (&keep.content.digest, keep.content.size)).collect();
        each.values().fold(0, |sum: u64, size| sum.saturating_add(*size))
    }

    /// An owner has said something. `is_welcome` says whether this node's owner lets it keep for that one.
    pub fn handle_message(
        &mut self,
        from: NodeId,
        message: Message,
        is_welcome: bool,
        now_ms: u64,
    ) {
        match message {
            Message::Keep { content } => self.handle_keep(from, content, is_welcome, now_ms),
            Message::Drop { digest } => {
                self.drop_one((from, digest));
                self.send(from, Message::Dropped { digest });
            }
            // For owners.
            Message::No { .. }
            | Message::Coming { .. }
            | Message::Kept { .. }
            | Message::Dropped { .. } => {}
        }
    }

    fn handle_keep(&mut self, from: NodeId, content: Content, is_welcome: bool, now_ms: u64) {
        let digest = content.digest;
        if let Some(keep) = self.all.get_mut(&(from, digest)) {
            // What is kept is kept, whoever is welcome now.
            if now_ms.saturating_sub(keep.heard_ms) >= HEARD_MS {
                keep.heard_ms = now_ms;
                self.actions.push(KeeperAction::Persist { key: (from, digest) });
            }
            let message = match keep.state {
                KeptState::Coming => Message::Coming { digest },
                KeptState::Kept => Message::Kept { digest },
            };
            return self.send(from, message);
        }
        let others = self.all.values().find(|keep| keep.content.digest == digest);
        let more = if others.is_some() { 0 } else { content.size };
        // Another owner's word for the size of a content that is here already is as good or as bad as the first one's.
        let is_other = others.is_some_and(|other| {
            (other.content.size, other.content.directory) != (content.size, content.directory)
        });
        let why = if !is_welcome || self.policy.bytes == 0 || content.name.len() > NAME_LEN_MAX {
            Some((NoKeep::Policy, POLICY_MS))
        } else if is_other
            || self.all.len() >= KEPT_MAX
            || self.bytes().saturating_add(more) > self.policy.bytes
        {
            Some((NoKeep::Full, FULL_MS))
        } else {
            None
        };
        if let Some((why, again_ms)) = why {
            return self.send(from, Message::No { digest, why, again_ms });
        }
        let keep = Keep {
            content,
            state: KeptState::Coming,
            since_ms: now_ms,
            heard_ms: now_ms,
            fetch_ms: Some(now_ms),
            failures: 0,
        };
        self.all.insert((from, digest), keep);
        self.actions.push(KeeperAction::Persist { key: (from, digest) });
        self.send(from, Message::Coming { digest });
    }

    /// What was to be fetched is here, or is not.
    pub fn handle_fetched(&mut self, key: KeptKey, is_here: bool, now_ms: u64) {
        let Some(keep) = self.all.get_mut(&key) else { return };
        let (owner, digest) = key;
        if is_here {
            if keep.state == KeptState::Coming {
                (keep.state, keep.since_ms) = (KeptState::Kept, now_ms);
                (keep.fetch_ms, keep.failures) = (None, 0);
                self.actions.push(KeeperAction::Persist { key });
                self.actions.push(KeeperAction::Changed { digest });
                self.send(owner, Message::Kept { digest });
            }
            return;
        }
        keep.failures += 1;
        if keep.failures < FETCHES_MAX {
            keep.fetch_ms = Some(now_ms.saturating_add(FETCH_AGAIN_MS));
        } else {
            self.lose(key);
        }
    }

    fn lose(&mut self, key: KeptKey) {
        self.drop_one(key);
        let (owner, digest) = key;
        self.send(owner, Message::No { digest, why: NoKeep::Lost, again_ms: FULL_MS });
    }

    fn drop_one(&mut self, key: KeptKey) {
        if self.all.remove(&key).is_some() {
            self.actions.push(KeeperAction::Persist { key });
            self.actions.push(KeeperAction::Changed { digest: key.1 });
        }
    }

    /// Does what is due.
    pub fn poll(&mut self, now_ms: u64) {
        for (key, keep) in &mut self.all {
            if keep.fetch_ms.is_some_and(|at_ms| now_ms >= at_ms) {
                keep.fetch_ms = None;
                let content = keep.content.clone();
                self.actions.push(KeeperAction::Fetch { key: *key, content });
            }
        }
        if now_ms >= self.look_ms {
            self.look_ms = now_ms.saturating_add(LOOK_MS);
            let is_idle = |keep: &Keep| now_ms.saturating_sub(keep.heard_ms) >= IDLE_MS;
            let idle = self.all.iter().filter(|(_, keep)| is_idle(keep)).map(|(key, _)| *key);
            let idle: Vec<KeptKey> = idle.collect();
            idle.into_iter().for_each(|key| self.drop_one(key));
        }
    }

    /// When [`Self::poll`] is due next (Unix ms).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let fetches = self.all.values().filter_map(|keep| keep.fetch_ms);
        let look = (!self.all.is_empty()).then_some(self.look_ms);
        fetches.chain(look).min()
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.actions.push(KeeperAction::Send { to, message });
    }

    /// What is to be done, in order.
    pub fn drain_actions(&mut self) -> Vec<KeeperAction> {
        std::mem::take(&mut self.actions)
    }
}
