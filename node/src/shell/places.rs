//! Places for sessions inside tasks: how many may be open at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use catalog::NodeId;
use scheduler::task::AttemptId;

/// Sessions at once inside one task, for one peer, and in all; further ones are told so. Each holds a process in its task and
/// some hundred KiB here.
const PER_TASK_MAX: usize = 8;
const PER_PEER_MAX: usize = 16;
const ALL_MAX: usize = 64;

/// The sessions that are open here. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<BTreeMap<(AttemptId, NodeId), usize>>>);

/// One of them; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    key: (AttemptId, NodeId),
}

impl Places {
    /// A place for a peer inside a task, or which bound is met.
    pub(super) fn take(&self, attempt: AttemptId, peer: NodeId) -> Result<Place, String> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |is_meant: &dyn Fn(&(AttemptId, NodeId)) -> bool| -> usize {
            open.iter().filter(|(key, _)| is_meant(key)).map(|(_, n)| *n).sum()
        };
        for (n, most, whose) in [
            (count(&|key| key.0 == attempt), PER_TASK_MAX, "inside this task"),
            (count(&|key| key.1 == peer), PER_PEER_MAX, "for your node"),
            (count(&|_| true), ALL_MAX, "at this node"),
        ] {
            if n >= most {
                return Err(format!("{most} sessions are open {whose}, no more may be: end one"));
            }
        }
        let key = (attempt, peer);
        *open.entry(key).or_default() += 1;
        Ok(Place { places: self.clone(), key })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = open.get_mut(&self.key) {
            *n -= 1;
            if *n == 0 {
                open.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scheduler::task::{RunId, TaskId};

    fn attempt(n: u8) -> AttemptId {
        let task = TaskId { step: 0, index: 0 };
        AttemptId { run: RunId::from_bytes([n; 16]), task, number: 1 }
    }

    fn peer(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn places_are_bounded_by_task_by_peer_and_in_all_and_free_again() {
        let places = Places::default();
        let mut taken: Vec<Place> = Vec::new();
        for _ in 0..PER_TASK_MAX {
            taken.push(places.take(attempt(1), peer(1)).unwrap());
        }
        assert!(places.take(attempt(1), peer(2)).unwrap_err().contains("inside this task"));
        for _ in PER_TASK_MAX..PER_PEER_MAX {
            taken.push(places.take(attempt(2), peer(1)).unwrap());
        }
        assert!(places.take(attempt(3), peer(1)).unwrap_err().contains("for your node"));
        for n in 0..(ALL_MAX - PER_PEER_MAX) {
            let n = u8::try_from(n).unwrap();
            taken.push(places.take(attempt(100 + n), peer(100 + n)).unwrap());
        }
        assert!(places.take(attempt(9), peer(9)).unwrap_err().contains("at this node"));
        taken.truncate(1);
        assert!(places.take(attempt(1), peer(2)).is_ok());
        drop(taken);
        assert!(places.0.lock().unwrap().is_empty());
    }
}
