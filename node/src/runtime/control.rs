//! What a task's handle and its driver share, where a task is driven by an async task of the node.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::steer::Reins;
use super::{Control, Door, Inside, Meters, Prepared, Shut};

/// Written by the driver, read through [`super::Running`].
#[derive(Default)]
pub(super) struct TaskControl {
    meters: Mutex<Meters>,
    pub(super) cancel: CancellationToken,
    /// Set when it waits for its turn no longer.
    pub(super) begun: OnceLock<()>,
    pub(super) prepared: OnceLock<Prepared>,
    pub(super) started_in: OnceLock<Duration>,
    /// There while it runs, if its ports may be connected to.
    door: Mutex<Option<Door>>,
    /// Set when it runs, or at once where nobody can ever go inside.
    pub(super) inside: OnceLock<Result<Inside, Shut>>,
    /// Set when it runs, if it can be suspended.
    pub(super) reins: OnceLock<Reins>,
}

impl TaskControl {
    /// Of a task into which nobody can go, for this reason.
    pub(super) fn shut(why: Shut) -> Self {
        Self { inside: OnceLock::from(Err(why)), ..Self::default() }
    }

    pub(super) fn change_meters(&self, change: impl FnOnce(&mut Meters)) {
        change(&mut self.meters.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The way to its ports from here on.
    pub(super) fn set_door(&self, door: Option<Door>) {
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = door;
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
        self.door.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn inside(&self) -> Result<Inside, Shut> {
        self.inside.get().cloned().unwrap_or(Err(Shut::Starting))
    }

    fn reins(&self) -> Option<Reins> {
        self.reins.get().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fabric::tunnel::TUNNEL_REASON_MAX;
    use std::collections::BTreeSet;

    #[test]
    fn each_reason_for_which_nobody_gets_inside_has_a_text_of_its_own_that_arrives_whole() {
        let waits = TaskControl::default();
        assert_eq!(waits.inside().err(), Some(Shut::Starting));
        let all = [Shut::Starting, Shut::Pod, Shut::Job, Shut::Unseen, Shut::Nothing];
        let texts: BTreeSet<String> = all.map(|why| why.to_string()).into();
        assert_eq!(texts.len(), all.len());
        for text in texts {
            assert!(text.len() <= TUNNEL_REASON_MAX, "{} bytes: {text}", text.len());
        }
        for why in all {
            assert_eq!(TaskControl::shut(why).inside().err(), Some(why));
        }
        // What is known first stays.
        assert!(TaskControl::shut(Shut::Pod).inside.set(Err(Shut::Unseen)).is_err());
    }
}
