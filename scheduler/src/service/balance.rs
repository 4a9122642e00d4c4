//! Which replica a connection goes to. Every node that connects to a service has a [`Balancer`] of its own; it believes the
//! endpoints it was given, and its own experience more.
//!
//! A connection goes where `(connections + 1) × (round trip + floor)` is least: near replicas get more, and a crowd makes a
//! near one as far as another. Below the floor all are equally near, so within one site the fewest connections decide, and
//! after them the turn.
//!
//! All replicas are compared, not two of them by chance: there are few, and both numbers are this node's own and exact. Chance would
//! help where many choose by the same old report of a load, and there is none.
//!
//! After [`EJECT_AFTER`] failures in a row a replica is *ejected*: it gets nothing for a time that doubles from
//! [`EJECT_MIN_MS`] to [`EJECT_MAX_MS`]. Then one connection is let through as a trial (*half-open*), before others are
//! considered; if it is made the replica is as good as any, if not it is ejected for longer.

use std::collections::BTreeMap;

use crate::task::AttemptId;

/// Failures in a row after which a replica is ejected.
pub const EJECT_AFTER: u32 = 3;
/// How long a replica is ejected the first time, in milliseconds.
pub const EJECT_MIN_MS: u64 = 1_000;
/// How long a replica is ejected at most, in milliseconds.
pub const EJECT_MAX_MS: u64 = 60_000;
/// Round trips below this count as this, in microseconds.
pub const RTT_FLOOR_US: u64 = 5_000;

/// What is known of one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Round trip to its node in microseconds.
    pub rtt_us: u64,
    /// Connections that are open or being made.
    pub connections: u32,
    /// Failures since the last connection that was made.
    pub failures: u32,
    /// How often it was ejected since the last connection that was made.
    pub ejections: u32,
    /// Until when it gets nothing (Unix ms); 0 when it is not ejected.
    pub ejected_until_ms: u64,
    /// Whether the trial after an ejection is under way.
    pub is_on_trial: bool,
    /// Which choice was the last to fall on it, counted over all replicas; 0 before the first.
    pub turn: u64,
}

impl Backend {
    /// Whether it gets connections; `Err` with the time when it will, when that is known.
    fn admits(&self, now_ms: u64) -> Result<(), Option<u64>> {
        match (self.ejected_until_ms, self.is_on_trial) {
            (0, _) => Ok(()),
            (_, true) => Err(None),
            (until_ms, false) if until_ms > now_ms => Err(Some(until_ms)),
            _ => Ok(()),
        }
    }

    /// Lower is better; a trial that is due comes first, for otherwise a busy service would never find out. Among equals it
    /// is the turn of the one that waited longest.
    fn rank(&self) -> (bool, u128, u64) {
        let rtt_us = u128::from(self.rtt_us.max(RTT_FLOOR_US));
        (self.ejected_until_ms == 0, (u128::from(self.connections) + 1) * rtt_us, self.turn)
    }
}

/// Why there is no replica to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// No replica is healthy.
    #[error("no replica of the service is healthy now")]
    NoReplica,
    /// Connections to every replica failed lately.
    #[error("connections to every replica failed: try again in {retry_after_ms} ms")]
    Ejected {
        /// When to try again, in milliseconds.
        retry_after_ms: u64,
    },
}

/// The replicas of one service, as one node that connects to them sees them.
#[derive(Clone, Debug, Default)]
pub struct Balancer {
    backends: BTreeMap<AttemptId, Backend>,
    turns: u64,
}

impl Balancer {
    /// Without replicas.
    #[must_use]
    pub const fn new() -> Self {
        Self { backends: BTreeMap::new(), turns: 0 }
    }

    /// These replicas are healthy, with round trips in microseconds. What is known of those that stay, stays.
    pub fn set(&mut self, replicas: impl IntoIterator<Item = (AttemptId, u64)>) {
        let mut before = std::mem::take(&mut self.backends);
        for (attempt, rtt_us) in replicas {
            let known = before.remove(&attempt).unwrap_or_default();
            self.backends.insert(attempt, Backend { rtt_us, ..known });
        }
    }

    /// The replica that the next connection goes to, which then counts as being made there. Afterwards exactly one of
    /// [`Self::made`] and [`Self::failed`] is to be told, and after a made one [`Self::closed`].
    ///
    /// # Errors
    /// See [`Unavailable`].
    pub fn choose(&mut self, now_ms: u64) -> Result<AttemptId, Unavailable> {
        let open = self.backends.iter().filter(|(_, backend)| backend.admits(now_ms).is_ok());
        let best = open.min_by_key(|(attempt, backend)| (backend.rank(), **attempt));
        let Some(attempt) = best.map(|(attempt, _)| *attempt) else {
            return Err(self.why(now_ms));
        };
        self.turns += 1;
        if let Some(backend) = self.backends.get_mut(&attempt) {
            backend.turn = self.turns;
            backend.connections = backend.connections.saturating_add(1);
            backend.is_on_trial = backend.ejected_until_ms != 0;
        }
        Ok(attempt)
    }

    fn why(&self, now_ms: u64) -> Unavailable {
        if self.backends.is_empty() {
            return Unavailable::NoReplica;
        }
        let times = self.backends.values().filter_map(|b| b.admits(now_ms).err().flatten());
        // While only trials are under way, their end is not known.
        let until_ms = times.min().unwrap_or(now_ms + EJECT_MIN_MS);
        Unavailable::Ejected { retry_after_ms: until_ms.saturating_sub(now_ms) }
    }

    /// The connection was made: the replica is as good as any.
    pub fn made(&mut self, attempt: AttemptId) {
        if let Some(backend) = self.backends.get_mut(&attempt) {
            *backend = Backend {
                rtt_us: backend.rtt_us,
                connections: backend.connections,
                turn: backend.turn,
                ..Backend::default()
            };
        }
    }

    /// The connection could not be made.
    pub fn failed(&mut self, attempt: AttemptId, now_ms: u64) {
        let Some(backend) = self.backends.get_mut(&attempt) else { return };
        backend.connections = backend.connections.saturating_sub(1);
        backend.failures = backend.failures.saturating_add(1);
        // One that was asked before the ejection and fails after it says nothing new.
        let is_ejected = backend.ejected_until_ms != 0 && !backend.is_on_trial;
        if backend.failures >= EJECT_AFTER && !is_ejected {
            let pause_ms = EJECT_MIN_MS.saturating_mul(1 << backend.ejections.min(16));
            backend.ejections = backend.ejections.saturating_add(1);
            backend.ejected_until_ms = now_ms.saturating_add(pause_ms.min(EJECT_MAX_MS));
            backend.is_on_trial = false;
        }
    }

    /// A connection that was made has ended.
    pub fn closed(&mut self, attempt: AttemptId) {
        if let Some(backend) = self.backends.get_mut(&attempt) {
            backend.connections = backend.connections.saturating_sub(1);
        }
    }

    /// What is known of each replica.
    pub fn backends(&self) -> impl Iterator<Item = (AttemptId, &Backend)> {
        self.backends.iter().map(|(attempt, backend)| (*attempt, backend))
    }
}
