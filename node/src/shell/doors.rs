//! The ways to tasks that run here, for peers that may have them: the far ends of tunnels. Ports of the machine that its owner
//! opens are in [`super::ports`].
//!
//! A peer's request names an attempt, and a port by name or what is wanted inside. The engine says whether this peer may: of
//! ports the attempt's own agreement lists them and who may connect ([`Command::Admit`]), inside comes the consumer alone,
//! if the owner lets it ([`sessions::Command::Admit`]), and the consumer alone has a task stand still or go on. Then this node connects to the task itself and to nothing else. When
//! a task ends, so does every way to it. What they carried is metered as the task's network.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use catalog::NodeId;
use fabric::{FarEnd, PeerKey, TunnelBytes, TunnelDenied, TunnelSource};
use scheduler::negotiate::Wish;
use scheduler::task::AttemptId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::handle::Call;
use super::places::Places;
use super::ports::PortCounts;
use super::sessions::{self as inside, Far, Visit};
use crate::engine::command::{Command as EngineCommand, CommandError, Response};
use crate::engine::message::encode;
use crate::engine::services::{Answer, Command};
use crate::engine::sessions;
use crate::runtime::Doorway;
use crate::session::Kind;

/// Deepest nesting of a request: an enum in a map.
const DEPTH_MAX: usize = 8;
/// How long the engine may take to say whether a peer may connect. Less than what the peer waits.
pub(super) const DECISION: Duration = Duration::from_secs(5);

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
    /// A session inside a task: what then goes through the tunnel is [`crate::session`].
    Session {
        /// Which task.
        attempt: AttemptId,
        /// What is wanted there.
        kind: Kind,
    },
    /// A port of this machine that its owner opens.
    Port {
        /// Its name.
        name: String,
        /// Whether it is only asked whether it may be connected to.
        is_try: bool,
    },
    /// That a task stands still or goes on: what comes of it then goes through the tunnel, see [`super::steer`].
    Steer {
        /// Which task.
        attempt: AttemptId,
        /// What is wanted of it.
        wish: Wish,
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

/// A task that runs here.
#[derive(Clone, Debug)]
struct Room {
    doorway: Doorway,
    bytes: TunnelBytes,
    cut: CancellationToken,
}

/// The tasks that run here. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Doors {
    rooms: Arc<Mutex<BTreeMap<AttemptId, Room>>>,
    sessions: Places,
    pub(super) ports: PortCounts,
    calls: mpsc::Sender<Call>,
    next_id: Arc<AtomicU64>,
}

/// A task's entry. Dropped, there is no way to it any more and connections to it are cut.
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
    /// Without tasks. `calls` leads to the engine.
    pub(super) fn new(calls: mpsc::Sender<Call>, next_id: Arc<AtomicU64>) -> Self {
        let (rooms, sessions, ports) = (Arc::default(), Places::default(), PortCounts::default());
        Self { rooms, sessions, ports, calls, next_id }
    }

    /// The way to a task that runs here.
    pub(super) fn doorway(&self, attempt: AttemptId) -> Option<Doorway> {
        self.rooms().get(&attempt).map(|room| room.doorway.clone())
    }

    fn rooms(&self) -> MutexGuard<'_, BTreeMap<AttemptId, Room>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task begins.
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
        let admit = EngineCommand::Service(Command::Admit { peer, attempt, port });
        let Response::Service(Answer::Port(port)) = self.ask(admit).await? else {
            return Err(TunnelDenied::Busy);
        };
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

    /// Lets `peer` inside a task, if it may.
    pub(super) async fn inside(
        &self,
        peer: NodeId,
        attempt: AttemptId,
        kind: Kind,
    ) -> Result<(Far, TunnelBytes), TunnelDenied> {
        let refused = |reason: String| {
            tracing::info!(%peer, %attempt, kind = kind.as_str(), reason, "a session inside a task is refused");
            TunnelDenied::Refused { reason }
        };
        let admit = EngineCommand::Session(sessions::Command::Admit { peer, attempt, kind });
        match self.ask(admit).await {
            Ok(Response::Session(sessions::Answer::Admitted)) => {}
            Ok(_) => return Err(TunnelDenied::Busy),
            Err(TunnelDenied::Refused { reason }) => return Err(refused(reason)),
            Err(busy) => return Err(busy),
        }
        let room = self.rooms().get(&attempt).cloned();
        let Some(room) = room else { return Err(refused("the task has ended".to_owned())) };
        let inside = room.doorway.inside().map_err(|why| refused(why.to_string()))?;
        let place = self.sessions.take(attempt, peer).map_err(refused)?;
        let visit = Visit { peer, attempt, place, task_ended: room.cut };
        Ok((inside::open(visit, inside), room.bytes))
    }

    /// The engine's answer, however long that takes; `None` when the node stops.
    pub(super) async fn tell(
        &self,
        command: EngineCommand,
    ) -> Option<Result<Response, CommandError>> {
        let (reply, answer) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.calls.send(Call { id, command, reply }).await.ok()?;
        answer.await.ok()
    }

    /// The engine's answer, if it is none but yes.
    pub(super) async fn ask(&self, command: EngineCommand) -> Result<Response, TunnelDenied> {
        match tokio::time::timeout(DECISION, self.tell(command)).await {
            Ok(Some(Ok(response))) => Ok(response),
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
            let peer = NodeId::from_bytes(*peer.as_bytes());
            match Request::decode(&request) {
                Some(Request::Service { attempt, port }) => {
                    doors.connect(peer, attempt, port).await
                }
                Some(Request::Session { attempt, kind }) => {
                    let (far, bytes) = doors.inside(peer, attempt, kind).await?;
                    // It ends with the task by itself, and says so.
                    Ok(FarEnd { io: Box::new(far), bytes, cut: CancellationToken::new() })
                }
                Some(Request::Port { name, is_try }) => doors.port(peer, name, is_try).await,
                Some(Request::Steer { attempt, wish }) => {
                    let io = Box::new(doors.steer(peer, attempt, wish).await?);
                    let (bytes, cut) = (TunnelBytes::default(), CancellationToken::new());
                    Ok(FarEnd { io, bytes, cut })
                }
                None => {
                    let reason = "this version knows no such tunnel".to_owned();
                    Err(TunnelDenied::Refused { reason })
                }
            }
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
        let request = Request::Session { attempt, kind: Kind::Console };
        assert_eq!(Request::decode(&request.encode()), Some(request));
        let request = Request::Steer { attempt, wish: Wish::Suspend };
        assert_eq!(Request::decode(&request.encode()), Some(request));
        let request = Request::Port { name: "p".repeat(32), is_try: true };
        assert_eq!(Request::decode(&request.encode()), Some(request));
        for noise in [&b""[..], b"\xff", &[0x81; 1024]] {
            assert_eq!(Request::decode(noise), None);
        }
    }
}
