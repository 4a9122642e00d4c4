//! What is being served at the moment, for whoever wants to see it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::key::PeerKey;

/// A stretch of a blob that is on its way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// To whom.
    pub peer: PeerKey,
    /// Of which blob.
    pub hash: [u8; 32],
    /// The blob's size in bytes.
    pub size: u64,
    /// The first byte of the stretch.
    pub from: u64,
    /// The byte after its last.
    pub to: u64,
    /// Bytes that the network has taken so far, of which some 0.4 % are hashes.
    pub sent: u64,
}

/// All stretches; as many as there are places.
#[derive(Debug, Default)]
pub(crate) struct Served {
    next: AtomicU64,
    all: Mutex<BTreeMap<u64, (Serving, Arc<AtomicU64>)>>,
}

impl Served {
    /// Shows a stretch until the answer is dropped.
    pub(super) fn show(self: &Arc<Self>, about: Serving) -> Shown {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let sent = Arc::<AtomicU64>::default();
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(number, (about, Arc::clone(&sent)));
        Shown { served: Arc::clone(self), number, sent }
    }

    /// What is shown now, the oldest first.
    pub(crate) fn now(&self) -> Vec<Serving> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let now = all.values();
        now.map(|(about, sent)| Serving { sent: sent.load(Ordering::Relaxed), ..*about }).collect()
    }
}

/// A stretch that is shown.
#[derive(Debug)]
pub(super) struct Shown {
    served: Arc<Served>,
    number: u64,
    sent: Arc<AtomicU64>,
}

impl Shown {
    pub(super) fn add(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.served.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}
