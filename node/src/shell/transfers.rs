//! What this node is fetching and has just fetched, for its owner to see.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::{Digest, NodeId};

use super::Clock;
use crate::schema;

/// Fetches remembered that have ended; the oldest goes first.
const ENDED_MAX: usize = 64;

/// How a fetch stands.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum TransferState {
    /// Bytes are coming, or are waited for.
    Fetching,
    /// It is here.
    Done,
    /// Nobody gave it, or it was given up.
    Failed,
    /// Bytes are going to a peer.
    Serving,
}

/// Content on its way.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Transfer {
    /// Which content.
    #[schema(value_type = schema::Digest)]
    pub digest: Digest,
    /// How it stands.
    pub state: TransferState,
    /// From whom it comes, or to whom it goes.
    #[schema(value_type = Vec<schema::NodeId>)]
    pub peers: Vec<NodeId>,
    /// Those of them that no record names: they said that they have content of this hash.
    #[serde(default)]
    #[schema(value_type = Vec<schema::NodeId>, required)]
    pub found: Vec<NodeId>,
    /// Bytes that are there; of what is served, the network has taken so many.
    pub bytes: u64,
    /// Bytes in all, when they are known; of what is served, those of the stretch that was asked for.
    #[schema(required)]
    pub total: Option<u64>,
    /// Bytes that this fetch brought: not those that were there from an earlier one.
    pub fetched: u64,
    /// When it began (Unix ms); nothing is known of it for what is served.
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub began_ms: Option<u64>,
    /// When it ended (Unix ms).
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub ended_ms: Option<u64>,
}

#[derive(Debug)]
struct Kept {
    digest: Digest,
    peers: Vec<NodeId>,
    found: Arc<Mutex<Vec<NodeId>>>,
    began_ms: u64,
    now: Arc<Progressed>,
}

/// How far a fetch is.
#[derive(Debug, Default)]
struct Progressed {
    /// What was there before it.
    before: AtomicU64,
    bytes: AtomicU64,
    total: AtomicU64,
    /// 0 while it goes on.
    ended_ms: AtomicU64,
    is_done: std::sync::atomic::AtomicBool,
}

impl Kept {
    fn view(&self) -> Transfer {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let bytes = self.now.bytes.load(Ordering::Relaxed);
        let ended_ms = Some(self.now.ended_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0);
        let is_done = self.now.is_done.load(Ordering::Relaxed);
        Transfer {
            digest: self.digest,
            state: match (ended_ms, is_done) {
                (None, _) => TransferState::Fetching,
                (Some(_), true) => TransferState::Done,
                (Some(_), false) => TransferState::Failed,
            },
            peers: self.peers.iter().chain(&found).copied().collect(),
            found,
            bytes,
            total: Some(self.now.total.load(Ordering::Relaxed)).filter(|n| *n > 0),
            fetched: bytes.saturating_sub(self.now.before.load(Ordering::Relaxed)),
            began_ms: Some(self.began_ms),
            ended_ms,
        }
    }
}

/// The fetches that are under way, and the last that have ended. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Transfers {
    clock: Clock,
    all: Arc<Mutex<VecDeque<Kept>>>,
}

impl Transfers {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, all: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fetch begins. Dropping the answer ends it, as failed unless it was [`Underway::done`].
    pub(super) fn begin(&self, digest: Digest, peers: &[NodeId]) -> Underway {
        let now = Arc::<Progressed>::default();
        let began_ms = self.clock.now_ms();
        let found = Arc::<Mutex<Vec<NodeId>>>::default();
        let (peers, shown) = (peers.to_vec(), Arc::clone(&found));
        let kept = Kept { digest, peers, found: shown, began_ms, now: Arc::clone(&now) };
        let mut all = self.lock();
        let is_ended = |kept: &Kept| kept.now.ended_ms.load(Ordering::Relaxed) > 0;
        // Those under way are bounded by whoever fetches.
        if all.iter().filter(|kept| is_ended(kept)).count() >= ENDED_MAX
            && let Some(oldest) = all.iter().position(is_ended)
        {
            all.remove(oldest);
        }
        all.push_back(kept);
        Underway { clock: self.clock, now, found }
    }

    /// All, the newest first.
    pub(super) fn now(&self) -> Vec<Transfer> {
        self.lock().iter().rev().map(Kept::view).collect()
    }
}

/// A fetch that is under way.
#[derive(Debug)]
pub(super) struct Underway {
    clock: Clock,
    now: Arc<Progressed>,
    found: Arc<Mutex<Vec<NodeId>>>,
}

impl Underway {
    /// So many bytes are there, of so many when that is known.
    pub(super) fn progress(&self, bytes: u64, total: u64) {
        let before = self.now.bytes.swap(bytes, Ordering::Relaxed);
        if total == 0 || bytes < before {
            // It begins, or begins anew: what is there now it did not bring.
            self.now.before.store(bytes, Ordering::Relaxed);
        }
        self.now.total.store(total, Ordering::Relaxed);
    }

    /// These were found besides.
    pub(super) fn found(&self, peers: &[NodeId]) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = peers.to_vec();
    }

    pub(super) fn done(self) {
        self.now.is_done.store(true, Ordering::Relaxed);
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.now.ended_ms.store(self.clock.now_ms().max(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetches_are_shown_while_they_go_on_and_a_while_after() {
        let transfers = Transfers::new(Clock::start());
        let digest = Digest::of(b"one");
        let one = transfers.begin(digest, &[NodeId::from_bytes([1; 32])]);
        one.progress(100, 0);
        one.progress(100, 400);
        one.progress(250, 400);
        let seen = transfers.now();
        assert_eq!((seen[0].state, seen[0].bytes), (TransferState::Fetching, 250));
        assert_eq!((seen[0].fetched, seen[0].total), (150, Some(400)));
        one.done();
        for n in 0..2 * ENDED_MAX {
            drop(transfers.begin(Digest::of(&n.to_be_bytes()), &[]));
            if n == 0 {
                let states: Vec<_> = transfers.now().into_iter().map(|one| one.state).collect();
                assert_eq!(states, [TransferState::Failed, TransferState::Done]);
            }
        }
        let seen = transfers.now();
        assert!(seen.len() <= ENDED_MAX + 1 && seen.iter().all(|one| one.digest != digest));
    }
}
