//! Tasks that are suspended and resumed: the owner's way to a task of a run of this node, wherever that is, and what a peer's
//! wish about a task does that runs here.
//!
//! ```text
//!  owner ─► engine: where? ─► tunnel: Steer ─► engine: may it? reserves ─► runtime ─► engine: done, or not
//!                                   ◄── alive … ◄── exit 0, or failed and why ───────────┘
//! ```
//!
//! Through the tunnel come frames of [`crate::session`] in one direction: that the node is alive, now and then, and last what came
//! of it. What has been admitted is done to its end, whoever waits for that.

use std::time::Duration;

use catalog::NodeId;
use fabric::{PeerKey, TunnelDenied, TunnelEnd, TunnelError};
use scheduler::negotiate::Wish;
use scheduler::task::{AttemptId, RunId};
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::doors::{DECISION, Doors, Request};
use super::handle::{CallError, Handle};
use crate::engine::command::{Command as EngineCommand, Response};
use crate::engine::sessions::{Place, Which};
use crate::engine::steer::{Answer, Command};
use crate::runtime::SteerError;
use crate::session::{Down, Receiver, send};

/// Bytes that wait between a task and its tunnel: some frames.
const PIPE_BYTES: usize = 4 << 10;
/// How often whoever waits is told that this node is alive.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// How long a node may be silent; then its owner is told that it is.
const SILENT: Duration = Duration::from_secs(30);
/// How long it may take in all; then its owner is told so, and the task's state tells what comes of it. The largest memory
/// on a slow disk takes minutes.
const DONE_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Why a task was not suspended or resumed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum NotSteered {
    /// The node answered no.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The task is at a peer, and there is no tunnel to it.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The task is here, and it may not be.
    #[error("{}", reason(.0))]
    Here(TunnelDenied),
    /// Its node could not do it.
    #[error("{0}")]
    Failed(String),
    /// Its node says nothing any more.
    #[error(
        "the connection to the task's node was cut; `opencloud run show` tells whether it was done all the same"
    )]
    Cut,
    /// It takes too long.
    #[error("the task's node has not done it within {} s; `opencloud run show` tells when it has", DONE_TIMEOUT.as_secs())]
    Late,
    /// An answer of another kind: a defect.
    #[error("the node gave an answer to another question: report this as a bug")]
    Strange,
}

fn reason(denied: &TunnelDenied) -> String {
    match denied {
        TunnelDenied::Refused { reason } => reason.clone(),
        busy => busy.to_string(),
    }
}

impl Handle {
    /// Has a task of a run of this node suspended or resumed, wherever it runs, and waits until it is.
    ///
    /// # Errors
    /// See [`NotSteered`].
    pub(crate) async fn steer(
        &self,
        run: RunId,
        which: Which,
        wish: Wish,
    ) -> Result<AttemptId, NotSteered> {
        let find = EngineCommand::Steer(Command::Find { run, which, wish });
        let Response::Steer(Answer::Found(Place { attempt, node, me })) =
            self.command(find).await?
        else {
            return Err(NotSteered::Strange);
        };
        let told = if node == me {
            let far = self.ways.doors.steer(me, attempt, wish).await.map_err(NotSteered::Here)?;
            timeout(DONE_TIMEOUT, hear(far)).await
        } else {
            let request = Request::Steer { attempt, wish }.encode();
            let peer = PeerKey::from_bytes(*node.as_bytes());
            let far = self.ways.fabric.tunnel(peer, request).await?;
            timeout(DONE_TIMEOUT, hear(far)).await
        };
        told.unwrap_or(Err(NotSteered::Late)).map(|()| attempt)
    }
}

/// What comes of a wish.
async fn hear(far: impl TunnelEnd) -> Result<(), NotSteered> {
    let mut frames = Receiver::<_, Down>::new(far);
    loop {
        match timeout(SILENT, frames.next()).await {
            Ok(Ok(Some(Down::Alive))) => {}
            Ok(Ok(Some(Down::Exit(0)))) => return Ok(()),
            Ok(Ok(Some(Down::Failed(why)))) => return Err(NotSteered::Failed(why)),
            _ => return Err(NotSteered::Cut),
        }
    }
}

impl Doors {
    /// Has an attempt that runs here suspended or resumed, if `peer` may have it so. What comes of it is heard at the other end.
    pub(super) async fn steer(
        &self,
        peer: NodeId,
        attempt: AttemptId,
        wish: Wish,
    ) -> Result<DuplexStream, TunnelDenied> {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let (admitted, answer) = oneshot::channel();
        let doors = self.clone();
        // Asking and doing are one: what the engine has reserved is used or given back, even if nobody waits any more.
        tokio::spawn(async move {
            let admit = EngineCommand::Steer(Command::Admit { peer, attempt, wish });
            match doors.tell(admit).await {
                Some(Ok(Response::Steer(Answer::Admitted))) => {
                    drop(admitted.send(Ok(())));
                    doors.turn(peer, attempt, wish, near).await;
                }
                Some(Err(error)) => drop(admitted.send(Err(error.to_string()))),
                _ => {}
            }
        });
        match timeout(DECISION, answer).await {
            Ok(Ok(Ok(()))) => Ok(far),
            Ok(Ok(Err(reason))) => {
                tracing::info!(%peer, %attempt, wish = wish.as_str(), reason, "a wish about a task is refused");
                Err(TunnelDenied::Refused { reason })
            }
            _ => Err(TunnelDenied::Busy),
        }
    }

    async fn turn(self, peer: NodeId, attempt: AttemptId, wish: Wish, mut near: DuplexStream) {
        let turning = async {
            let turned = match (self.doorway(attempt), wish) {
                (None, _) => Err(SteerError::Ended),
                (Some(doorway), Wish::Suspend) => doorway.suspend().await,
                (Some(doorway), Wish::Resume) => doorway.resume().await,
            };
            let is_done = turned.is_ok();
            self.tell(EngineCommand::Steer(Command::Turned { attempt, wish, is_done })).await;
            turned
        };
        let mut turning = std::pin::pin!(turning);
        let mut alive = tokio::time::interval(ALIVE_EVERY);
        let mut is_heard = true;
        let turned = loop {
            tokio::select! {
                biased;
                turned = &mut turning => break turned,
                _ = alive.tick(), if is_heard => {
                    // Whoever waited may be gone, or slow; it is done all the same.
                    let saying = timeout(ALIVE_EVERY, send(&mut near, &Down::Alive));
                    is_heard = matches!(saying.await, Ok(Ok(())));
                }
            }
        };
        let wish = wish.as_str();
        let last = match turned {
            Ok(()) => {
                tracing::info!(%peer, %attempt, wish, "a task does as its consumer wishes");
                Down::Exit(0)
            }
            Err(error) => {
                tracing::info!(%peer, %attempt, wish, %error, "a task does not do as its consumer wishes");
                Down::Failed(error.to_string())
            }
        };
        let _ = timeout(ALIVE_EVERY, send(&mut near, &last)).await;
        let _ = near.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_came_of_a_wish_is_heard_and_a_cut_is_no_yes() {
        let told = async |frames: &[Down]| {
            let (mut near, far) = tokio::io::duplex(PIPE_BYTES);
            for frame in frames {
                send(&mut near, frame).await.unwrap();
            }
            drop(near);
            hear(far).await.map_err(|error| error.to_string())
        };
        assert_eq!(told(&[Down::Alive, Down::Alive, Down::Exit(0)]).await, Ok(()));
        let why = "it is full".to_owned();
        assert_eq!(told(&[Down::Alive, Down::Failed(why.clone())]).await, Err(why));
        for cut in [&[][..], &[Down::Alive], &[Down::Exit(1)], &[Down::Begun]] {
            assert!(told(cut).await.unwrap_err().contains("was cut"), "{cut:?}");
        }
    }
}
