//! What a tunnel moves, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::TunnelBytes;
use crate::event::Offence;
use crate::key::PeerKey;
use crate::net::Moved;

/// Bytes that move before the peer's count is told of them.
const REPORT_BYTES: u64 = 1 << 20;

/// Counts what a tunnel moves: for its application, for the peer's standing, and for the idle bound.
pub(crate) struct Tally {
    peer: PeerKey,
    bytes: TunnelBytes,
    moved: Moved,
    pulse: Arc<Pulse>,
    /// Not yet told of: sent, received.
    unreported: (u64, u64),
}

impl Tally {
    pub(crate) fn new(peer: PeerKey, bytes: TunnelBytes, moved: Moved) -> Self {
        Self { peer, bytes, moved, pulse: Arc::default(), unreported: (0, 0) }
    }

    pub(super) fn bytes(&self) -> &TunnelBytes {
        &self.bytes
    }

    pub(super) fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    pub(super) fn add(&mut self, sent: usize, received: usize) {
        let (sent, received) = (sent as u64, received as u64);
        self.bytes.add(sent, received);
        self.pulse.beat();
        self.unreported.0 += sent;
        self.unreported.1 += received;
        if self.unreported.0 + self.unreported.1 >= REPORT_BYTES {
            self.report();
        }
    }

    /// The peer broke the protocol.
    pub(super) fn offence(&self) {
        self.moved.offence(self.peer, Offence::Malformed);
    }

    /// What the network task has no room for is told with the next report.
    fn report(&mut self) {
        let (sent, received) = self.unreported;
        if self.moved.both(self.peer, sent, received) {
            self.unreported = (0, 0);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if self.unreported != (0, 0) {
            self.report();
        }
    }
}

/// When something moved last.
#[derive(Debug)]
pub(super) struct Pulse {
    begun: Instant,
    last_ms: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { begun: Instant::now(), last_ms: AtomicU64::new(0) }
    }
}

impl Pulse {
    fn beat(&self) {
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Resolves when nothing has moved for `bound`.
    pub(super) async fn stops_for(&self, bound: Duration) {
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let left = (last + bound).saturating_sub(self.begun.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}
