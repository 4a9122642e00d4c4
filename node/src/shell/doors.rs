//! Connections to the replicas of services that run here, for peers that may have them: the far ends of tunnels.
//!
//! A peer's request names an attempt and a port by name. The engine says whether this peer may ([`Command::Admit`]: the
//! attempt's own agreement lists the ports and who may connect); then this node connects to the replica itself and to
//! nothing else. When a replica ends, so do the connections to it. What they carried is metered as the replica's network.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use catalog::NodeId;
use fabric::{FarEnd, PeerKey, TunnelBytes, TunnelDenied, TunnelSource};
use scheduler::task::AttemptId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::handle::Call;
use crate::engine::command::{Command as EngineCommand, Response};
use crate::engine::message::encode;
use crate::engine::services::{Answer, Command};
use crate::runtime::Doorway;

/// Deepest nesting of a request: an enum in a map.
const DEPTH_MAX: usize = 8;
/// How long the engine may take to say whether a peer may connect. Less than what the peer waits.
const DECISION: Duration = Duration::from_secs(5);

/// What a peer asks a tunnel for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// A port of a service's replica.
    Service {
        /// Which replica.
        attempt: AttemptId,
        /// The port's name.
        port: String,
    },
}

impl Request {
    /// The bytes for the wire.
    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        ciborium::de::from_reader_with_recursion_limit(bytes, DEPTH_MAX).ok()
    }
}

/// A replica that runs here.
#[derive(Clone, Debug)]
struct Room {
    doorway: Doorway,
    bytes: TunnelBytes,
    cut: CancellationToken,
}

/// The replicas that run here. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Doors {
    rooms: Arc<Mutex<BTreeMap<AttemptId, Room>>>,
    calls: mpsc::Sender<Call>,
    next_id: Arc<AtomicU64>,
}

/// A replica's entry. Dropped, there is no way to it any more and connections to it are cut.
#[derive(Debug)]
pub(super) struct Entry {
    doors: Doors,
    attempt: AttemptId,
    bytes: TunnelBytes,
}

impl Entry {
    /// Bytes that came for it from elsewhere, and that it sent there.
    pub(super) fn moved(&self) -> (u64, u64) {
        (self.bytes.received(), self.bytes.sent())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(room) = self.doors.rooms().remove(&self.attempt) {
            room.cut.cancel();
        }
    }
}

impl Doors {
    /// Without replicas. `calls` leads to the engine.
    pub(super) fn new(calls: mpsc::Sender<Call>, next_id: Arc<AtomicU64>) -> Self {
        Self { rooms: Arc::default(), calls, next_id }
    }

    fn rooms(&self) -> MutexGuard<'_, BTreeMap<AttemptId, Room>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A replica begins.
    pub(super) fn open(&self, attempt: AttemptId, doorway: Doorway) -> Entry {
        let bytes = TunnelBytes::default();
        let room = Room { doorway, bytes: bytes.clone(), cut: CancellationToken::new() };
        self.rooms().insert(attempt, room);
        Entry { doors: self.clone(), attempt, bytes }
    }

    /// Connects `peer` to a port of a replica, if it may.
    pub(super) async fn connect(
        &self,
        peer: NodeId,
        attempt: AttemptId,
        port: String,
    ) -> Result<FarEnd, TunnelDenied> {
        let refused = |reason: &str| TunnelDenied::Refused { reason: reason.to_owned() };
        let port = self.ask(Command::Admit { peer, attempt, port }).await?;
        let room = self.rooms().get(&attempt).cloned();
        let Some(room) = room else { return Err(refused("the replica has ended")) };
        let Some(door) = room.doorway.door() else {
            return Err(refused("the replica is still starting"));
        };
        match door.connect(port).await {
            Ok(io) => Ok(FarEnd { io, bytes: room.bytes, cut: room.cut }),
            Err(error) => {
                tracing::debug!(%attempt, %error, "no connection to a replica");
                Err(refused("the replica does not take the connection"))
            }
        }
    }

    /// The number of the port, if the engine lets the peer in.
    async fn ask(&self, command: Command) -> Result<u16, TunnelDenied> {
        let (reply, answer) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let call = Call { id, command: EngineCommand::Service(command), reply };
        let asked = async {
            self.calls.send(call).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(DECISION, asked).await {
            Ok(Some(Ok(Response::Service(Answer::Port(port))))) => Ok(port),
            Ok(Some(Err(error))) => Err(TunnelDenied::Refused { reason: error.to_string() }),
            _ => Err(TunnelDenied::Busy),
        }
    }
}

impl TunnelSource for Doors {
    fn open(
        &self,
        peer: PeerKey,
        request: Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = Result<FarEnd, TunnelDenied>> + Send>> {
        let doors = self.clone();
        Box::pin(async move {
            let Some(Request::Service { attempt, port }) = Request::decode(&request) else {
                let reason = "this version knows no such tunnel".to_owned();
                return Err(TunnelDenied::Refused { reason });
            };
            let peer = NodeId::from_bytes(*peer.as_bytes());
            doors.connect(peer, attempt, port).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scheduler::task::{RunId, TaskId};

    #[test]
    fn a_request_comes_back_and_noise_is_none() {
        let run = RunId::from_bytes([1; 16]);
        let attempt = AttemptId { run, task: TaskId { step: 0, index: 0 }, number: 3 };
        let request = Request::Service { attempt, port: "http".to_owned() };
        assert!(request.encode().len() < 256, "of 1024 that a request may have");
        assert_eq!(Request::decode(&request.encode()), Some(request));
        for noise in [&b""[..], b"\xff", &[0x81; 1024]] {
            assert_eq!(Request::decode(noise), None);
        }
    }
}
