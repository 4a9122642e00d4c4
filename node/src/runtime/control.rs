//! What a task's handle and its driver share, where a task is driven by an async task of the node.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Control, Door, Inside, Meters, Prepared};

/// Written by the driver, read through [`super::Running`].
#[derive(Default)]
pub(super) struct TaskControl {
    meters: Mutex<Meters>,
    pub(super) cancel: CancellationToken,
    /// Set when it waits for its turn no longer.
    pub(super) begun: OnceLock<()>,
    pub(super) prepared: OnceLock<Prepared>,
    pub(super) started_in: OnceLock<Duration>,
    /// Set when it runs, if its ports may be connected to.
    pub(super) door: OnceLock<Door>,
    /// Set when it runs, if somebody can go inside.
    pub(super) inside: OnceLock<Inside>,
}

impl TaskControl {
    pub(super) fn change_meters(&self, change: impl FnOnce(&mut Meters)) {
        change(&mut self.meters.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Control for TaskControl {
    fn meters(&self) -> Meters {
        *self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepared(&self) -> Option<Prepared> {
        self.prepared.get().copied()
    }

    fn started_in(&self) -> Option<Duration> {
        self.started_in.get().copied()
    }

    fn is_preparing(&self) -> bool {
        self.begun.get().is_some() && self.prepared.get().is_none()
    }

    fn cancel(&self) {
        self.cancel.cancel();
    }

    fn door(&self) -> Option<Door> {
        self.door.get().cloned()
    }

    fn inside(&self) -> Option<Inside> {
        self.inside.get().cloned()
    }
}
