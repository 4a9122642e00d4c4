//! What tests and the simulator look at.

use std::collections::BTreeSet;

use catalog::NodeId;
use scheduler::capacity::Capacity;
use scheduler::run::Run;
use scheduler::task::AttemptId;

use super::Engine;

/// A read-only view for tests and the simulator's invariants.
#[derive(Clone, Copy, Debug)]
pub struct Inspect<'a> {
    pub(super) engine: &'a Engine,
}

impl<'a> Inspect<'a> {
    /// Every run.
    pub fn runs(self) -> impl Iterator<Item = &'a Run> {
        self.engine.coordinator.runs()
    }

    /// Every channel.
    pub fn channels(self) -> impl Iterator<Item = &'a accounting::channel::Channel> {
        self.engine.ledger.channels()
    }

    /// What is free and what there is.
    #[must_use]
    pub const fn capacity(self) -> &'a Capacity {
        self.engine.provider.capacity()
    }

    /// Attempts this node works on, with their consumers.
    pub fn active(self) -> impl Iterator<Item = (AttemptId, NodeId)> + 'a {
        self.engine.provider.active()
    }

    /// Resources known, own ones included.
    #[must_use]
    pub fn n_resources(self, now_ms: u64) -> usize {
        self.engine.catalog.resources(now_ms).count()
    }

    /// Peers connected and admitted.
    #[must_use]
    pub const fn connected(self) -> &'a BTreeSet<NodeId> {
        &self.engine.connected
    }

    /// Peers whose addresses are known.
    pub fn dialled(self) -> impl Iterator<Item = NodeId> + 'a {
        self.engine.directory.peers()
    }
}
