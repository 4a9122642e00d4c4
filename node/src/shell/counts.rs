//! What the shell has counted since it was started.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that only grow; read one by one, so two of them may be a moment apart.
#[derive(Debug, Default)]
pub struct Counts {
    turns: AtomicU64,
    inputs: AtomicU64,
    commits: AtomicU64,
    commit_failures: AtomicU64,
}

impl Counts {
    pub(super) fn turn(&self, inputs: usize) {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.inputs.fetch_add(inputs as u64, Ordering::Relaxed);
    }

    pub(super) fn committed(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn commit_failed(&self) {
        self.commit_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Turns of the engine, in each of which everything that waited was handled.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Inputs that the engine handled.
    #[must_use]
    pub fn inputs(&self) -> u64 {
        self.inputs.load(Ordering::Relaxed)
    }

    /// Transactions of the durable store.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Of those that failed and were tried again.
    #[must_use]
    pub fn commit_failures(&self) -> u64 {
        self.commit_failures.load(Ordering::Relaxed)
    }
}
