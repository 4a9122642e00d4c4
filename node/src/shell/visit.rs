//! The owner's way inside a task of a run of this node, wherever it runs: here, or at a peer through a tunnel.
//!
//! This node opens the session and passes its frames on, between the owner's program and the node of the task. It reads them on
//! the way, to note what was wanted and how it ended, and so that the owner's program is sent nothing that is no frame.

use std::time::Duration;

use catalog::NodeId;
use fabric::{PeerKey, TunnelDenied, TunnelEnd, TunnelError};
use scheduler::task::{AttemptId, RunId};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::timeout;

use super::doors::Request;
use super::handle::{CallError, Handle};
use super::sessions::BEGIN_TIMEOUT;
use crate::engine::command::{Command as EngineCommand, Response};
use crate::engine::sessions::{Answer, Command, Place, Which};
use crate::session::{Down, Input, Kind, ReadError, Receiver, Up, send, shown};

/// How long the owner's program may take to read the last frame.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why nobody gets inside a task.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum NotInside {
    /// The node answered no.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The task is at a peer, and there is no tunnel to it.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The task is here, and nobody is let in.
    #[error("{}", reason(.0))]
    Here(TunnelDenied),
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

/// A session inside a task that is open and has not begun.
pub(crate) struct Visit {
    handle: Handle,
    attempt: AttemptId,
    node: NodeId,
    kind: Kind,
    io: Box<dyn TunnelEnd>,
}

impl std::fmt::Debug for Visit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visit").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

impl Handle {
    /// Opens a session inside a task of a run of this node. Dropping the [`Visit`] ends it.
    ///
    /// # Errors
    /// See [`NotInside`].
    pub(crate) async fn visit(
        &self,
        run: RunId,
        which: Which,
        kind: Kind,
    ) -> Result<Visit, NotInside> {
        let find = EngineCommand::Session(Command::Find { run, which, kind });
        let Response::Session(Answer::Found(place)) = self.command(find).await? else {
            return Err(NotInside::Strange);
        };
        let Place { attempt, node, me } = place;
        let io: Box<dyn TunnelEnd> = if node == me {
            let (far, _) =
                self.ways.doors.inside(me, attempt, kind).await.map_err(NotInside::Here)?;
            Box::new(far)
        } else {
            let request = Request::Session { attempt, kind }.encode();
            let peer = PeerKey::from_bytes(*node.as_bytes());
            Box::new(self.ways.fabric.tunnel(peer, request).await?)
        };
        Ok(Visit { handle: self.clone(), attempt, node, kind, io })
    }
}

impl Visit {
    /// Passes frames on between the owner's program and the task, until either side ends or the node stops.
    pub(crate) async fn serve(
        self,
        program: impl AsyncRead + AsyncWrite + Unpin,
        mut stopping: watch::Receiver<bool>,
    ) {
        let Self { handle, attempt, node, kind, io } = self;
        let (from_user, mut to_user) = tokio::io::split(program);
        let (from_task, mut to_task) = tokio::io::split(io);
        let mut user = Input::new(from_user);
        let mut task = Receiver::<_, Down>::new(from_task);
        let begin = match timeout(BEGIN_TIMEOUT, user.next()).await {
            Ok(Ok(Some(Up::Begin(begin)))) => begin,
            Ok(Ok(None) | Err(ReadError::Cut(_))) => return,
            told => {
                let why = match told {
                    Ok(Err(error)) => error.to_string(),
                    _ => "a session begins with `begin`".to_owned(),
                };
                // The program may be gone.
                let _ = send(&mut to_user, &Down::Failed(why)).await;
                let _ = to_user.shutdown().await;
                return;
            }
        };
        let what = match kind {
            Kind::Exec => shown(&begin.argv),
            Kind::Console => kind.as_str().to_owned(),
        };
        tracing::info!(%attempt, %node, what, "a session inside a task of this node begins");
        let is_told = note(&handle, Command::Began { attempt, what }).await;
        let up = async {
            let mut frame = Up::Begin(begin);
            loop {
                if send(&mut to_task, &frame).await.is_err() {
                    // The other direction knows why.
                    return std::future::pending().await;
                }
                frame = match user.next().await {
                    Ok(Some(frame)) => frame,
                    Ok(None) | Err(ReadError::Cut(_)) => return "its user left".to_owned(),
                    Err(ReadError::Frame(error)) => return error.to_string(),
                };
            }
        };
        let down = async {
            loop {
                let (frame, last) = for_user(task.next().await);
                if send(&mut to_user, &frame).await.is_err() {
                    return "its user left".to_owned();
                }
                if let Some(last) = last {
                    let _ = to_user.shutdown().await;
                    return last;
                }
            }
        };
        let detail = tokio::select! {
            detail = up => detail,
            detail = down => detail,
            () = super::until_set(&mut stopping) => "this node stops".to_owned(),
        };
        // Until the program closes: what it still says would have its system drop what it has not read.
        let _ = timeout(LAST_WORDS, async { while let Ok(Some(_)) = user.next().await {} }).await;
        tracing::info!(%attempt, %node, detail, "a session inside a task of this node ended");
        if is_told {
            note(&handle, Command::Ended { attempt, detail }).await;
        }
    }
}

/// What the user's program is told of what came from the task, and how the session ends, if it does with that.
fn for_user(told: Result<Option<Down>, ReadError>) -> (Down, Option<String>) {
    let failed = |why: String| (Down::Failed(why.clone()), Some(why));
    match told {
        Ok(Some(Down::Exit(code))) => (Down::Exit(code), Some(format!("exit code {code}"))),
        Ok(Some(Down::Failed(why))) => failed(why),
        Ok(Some(frame)) => (frame, None),
        Ok(None) | Err(ReadError::Cut(_)) => {
            failed("the connection to the task's node was cut".to_owned())
        }
        Err(ReadError::Frame(error)) => {
            failed(format!("the task's node does not speak as it should: {error}"))
        }
    }
}

/// Has something written into the run's log, and says whether it was.
async fn note(handle: &Handle, command: Command) -> bool {
    match handle.command(EngineCommand::Session(command)).await {
        Ok(Response::Session(Answer::Noted(is_told))) => is_told,
        Ok(_) => false,
        Err(error) => {
            tracing::warn!(%error, "a session inside a task is not noted in the run's log");
            false
        }
    }
}
