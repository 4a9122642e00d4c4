//! Sessions inside tasks that run here: what stands at the far end of a peer's tunnel, or of this node's own API, and speaks
//! [`crate::session`].
//!
//! Whoever is let in (see [`super::doors`]) gets a pipe; one task of this node serves its other end. It starts what is asked
//! for, passes frames both ways, and ends everything that it started when the user leaves, the task ends, or nothing moves.
//!
//! ```text
//!  Begin ─► command ─┬─► it ended ──────► kill what it left ─► exit
//!                    ├─► the user left ─► kill it
//!                    └─► task over, idle, nonsense ─► kill it ─► failed
//! ```

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use catalog::NodeId;
use futures::{FutureExt as _, StreamExt as _};
use scheduler::task::AttemptId;
use tokio::io::{AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::places::Place;
use crate::held::Held;
use crate::runtime::container::{self, Started};
use crate::runtime::{HostFault, Inside, Stream, vm};
use crate::session::{Begin, Down, FrameError, Input, Kind, ReadError, Up, send, shown};

/// Bytes that wait in each direction between a session and its tunnel.
const PIPE_BYTES: usize = 64 << 10;
/// How long a user may take to say what is wanted.
pub(super) const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may move, in either direction, before a session is ended.
const IDLE: Duration = Duration::from_secs(30 * 60);
/// How often the other side is told that this one is alive.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// How long the rest of a command's output may take to arrive after its end.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the last frame may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Frames that wait to be written.
const QUEUE: usize = 2;
/// What ends input at a terminal (Ctrl-D).
const END_OF_INPUT: &[u8] = b"\x04";

/// A session's other end, to speak with it. Dropped, the session is over.
pub(super) type Far = Held<DuplexStream, DropGuard>;

/// Who is inside what.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) peer: NodeId,
    pub(super) attempt: AttemptId,
    pub(super) place: Place,
    /// Cancelled when the task has ended.
    pub(super) task_ended: CancellationToken,
}

/// How a session ended.
#[derive(Debug)]
enum End {
    /// The command ended by itself.
    Exit(i32),
    /// The user is gone.
    Left,
    /// The task is over.
    TaskEnded,
    /// Nothing moved.
    Idle,
    /// The user said what makes no sense.
    Nonsense(FrameError),
    /// What was asked for cannot be.
    Refused(String),
    /// The host failed.
    Fault(HostFault),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Left => f.write_str("its user left"),
            Self::TaskEnded => f.write_str("the task has ended"),
            Self::Idle => write!(f, "nothing moved in it for {} min", IDLE.as_secs() / 60),
            Self::Nonsense(error) => write!(f, "{error}"),
            Self::Refused(why) => f.write_str(why),
            Self::Fault(fault) => write!(f, "{fault}"),
        }
    }
}

/// Opens a session inside a task; what is asked for is said through the pipe.
pub(super) fn open(visit: Visit, inside: Inside) -> Far {
    let (near, pipe) = tokio::io::duplex(PIPE_BYTES);
    let gone = CancellationToken::new();
    let session = Session { visit, gone: gone.clone(), moved: Pulse::new() };
    tokio::spawn(session.serve(near, inside));
    Held::new(pipe, gone.drop_guard())
}

/// When something moved last.
#[derive(Debug)]
struct Pulse(Mutex<Instant>);

impl Pulse {
    fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns when nothing has moved for so long.
    async fn stops_for(&self, idle: Duration) {
        loop {
            let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let quiet = last.elapsed();
            if quiet >= idle {
                return;
            }
            tokio::time::sleep(idle - quiet).await;
        }
    }
}

struct Session {
    visit: Visit,
    /// Cancelled when nobody holds the other end any more.
    gone: CancellationToken,
    moved: Pulse,
}

type Words = mpsc::Sender<Down>;

impl Session {
    async fn serve(self, near: DuplexStream, inside: Inside) {
        let (from, to) = tokio::io::split(near);
        let (words, queue) = mpsc::channel(QUEUE);
        let mut input = Input::new(from);
        let begun = Instant::now();
        let (kind, end) = {
            let mut writing = pin!(write(to, queue).fuse());
            let (kind, end) = match inside {
                Inside::Container(inside) => {
                    let exec = self.exec(&mut input, &words, inside, writing.as_mut());
                    (Kind::Exec, Box::pin(exec).await)
                }
                Inside::Machine(console) => {
                    let watching = self.console(&mut input, &words, &console);
                    let end = tokio::select! {
                        end = watching => end,
                        () = &mut writing => End::Left,
                    };
                    (Kind::Console, end)
                }
            };
            let end = match end {
                // What goes wrong then is no fault.
                End::Fault(_) if self.visit.task_ended.is_cancelled() => End::TaskEnded,
                end => end,
            };
            let last = match &end {
                End::Left => None,
                End::Exit(code) => Some(Down::Exit(*code)),
                // A console is there as long as its machine.
                End::TaskEnded if kind == Kind::Console => Some(Down::Exit(0)),
                why => Some(Down::Failed(why.to_string())),
            };
            if let Some(last) = last {
                let ending = async {
                    // Nobody may be left to hear it. Without more words the writing ends.
                    let _ = words.send(last).await;
                    drop(words);
                };
                // Until the other side closes: what it still says would meet a closed pipe, and cut the tunnel before it has read.
                let hearing = async { while let Ok(Some(_)) = input.next().await {} };
                let _ = timeout(LAST_WORDS, async { tokio::join!(ending, writing, hearing) }).await;
            }
            (kind, end)
        };
        let Visit { peer, attempt, place, .. } = self.visit;
        drop(place);
        let (kind, seconds) = (kind.as_str(), begun.elapsed().as_secs());
        tracing::info!(%peer, %attempt, kind, seconds, %end, "a session inside a task ended");
    }

    /// What is wanted, or why that is not known.
    async fn wanted(&self, input: &mut Input<ReadHalf<DuplexStream>>) -> Result<Begin, End> {
        match timeout(BEGIN_TIMEOUT, input.next()).await {
            Ok(Ok(Some(Up::Begin(begin)))) => Ok(begin),
            Ok(Ok(Some(_))) => Err(End::Refused("a session begins with `begin`".to_owned())),
            Ok(Err(ReadError::Frame(error))) => Err(End::Nonsense(error)),
            Ok(Ok(None) | Err(ReadError::Cut(_))) => Err(End::Left),
            Err(_) => {
                let after_s = BEGIN_TIMEOUT.as_secs();
                Err(End::Refused(format!("nothing was asked for within {after_s} s")))
            }
        }
    }

    fn note_begun(&self, kind: Kind, what: &str) {
        let Visit { peer, attempt, .. } = &self.visit;
        tracing::info!(%peer, %attempt, kind = kind.as_str(), what, "a session inside a task begins");
    }

    /// A command from its start to its end, and the end of what it left behind.
    async fn exec(
        &self,
        input: &mut Input<ReadHalf<DuplexStream>>,
        words: &Words,
        inside: container::Inside,
        mut writing: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> End {
        let begin = match self.wanted(input).await {
            Ok(begin) => begin,
            Err(end) => return end,
        };
        if begin.argv.is_empty() {
            return End::Refused("name a command to run inside the task".to_owned());
        }
        self.note_begun(Kind::Exec, &shown(&begin.argv));
        let has_tty = begin.tty.is_some();
        // Not given up half-way: what was started has to be known to be ended.
        let started = match inside.exec(begin.argv, begin.tty).await {
            Ok(started) => started,
            Err(fault) => return End::Fault(fault),
        };
        let (output, to, exec) = match started {
            Started::Runs { output, input, exec } => (output, input, exec),
            Started::NoProgram { code, why } => {
                let said = async {
                    words.send(Down::Begun).await?;
                    words.send(Down::ErrorOutput(Bytes::from(format!("{why}\n")))).await
                };
                tokio::select! {
                    said = said => return if said.is_ok() { End::Exit(code) } else { End::Left },
                    () = writing => return End::Left,
                }
            }
        };
        let drained = CancellationToken::new();
        let end = {
            let feed = self.feed(input, to, &exec, has_tty);
            let mut pass = pin!(self.pass(output, words, &drained));
            let until = async {
                let code = exec.ended(&drained).await;
                code.map_or_else(End::Fault, End::Exit)
            };
            let end = tokio::select! {
                () = self.gone.cancelled() => End::Left,
                () = self.visit.task_ended.cancelled() => End::TaskEnded,
                () = self.moved.stops_for(IDLE) => End::Idle,
                () = writing.as_mut() => End::Left,
                end = feed => end,
                end = until => end,
                () = &mut pass => End::Left,
            };
            if matches!(end, End::Exit(_)) {
                // What it left running may hold its output open.
                let _ = timeout(DRAIN, async {
                    tokio::select! {
                        () = drained.cancelled() => {}
                        () = pass => {}
                        () = self.gone.cancelled() => {}
                        () = writing => {}
                    }
                })
                .await;
            }
            end
        };
        exec.kill().await;
        end
    }

    /// Passes on what the user says; returns why there is no more of it.
    async fn feed(
        &self,
        input: &mut Input<ReadHalf<DuplexStream>>,
        mut to: container::Input,
        exec: &container::Exec,
        has_tty: bool,
    ) -> End {
        loop {
            let frame = match input.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) | Err(ReadError::Cut(_)) => return End::Left,
                Err(ReadError::Frame(error)) => return End::Nonsense(error),
            };
            self.moved.beat();
            // A command need not read its input, and may have ended.
            match frame {
                Up::Input(bytes) => _ = to.write_all(&bytes).await,
                Up::InputEnds if has_tty => _ = to.write_all(END_OF_INPUT).await,
                Up::InputEnds => _ = to.shutdown().await,
                Up::Resize(window) => {
                    if let Err(fault) = exec.resize(window).await {
                        tracing::debug!(%fault, "a terminal keeps its size");
                    }
                }
                Up::Begin(_) => return End::Refused("a session begins once".to_owned()),
            }
            _ = to.flush().await;
        }
    }

    /// Passes on what a command writes, and tells when all of it is passed on; says now and then that this node is alive. Ends
    /// when nobody takes it any more.
    async fn pass(
        &self,
        mut output: container::Output,
        words: &Words,
        drained: &CancellationToken,
    ) {
        if words.send(Down::Begun).await.is_err() {
            return;
        }
        let mut alive = tokio::time::interval(ALIVE_EVERY);
        let mut is_open = true;
        loop {
            let frame = tokio::select! {
                piece = output.next(), if is_open => match piece {
                    Some((Stream::Stdout, bytes)) => Down::Output(bytes),
                    Some((Stream::Stderr, bytes)) => Down::ErrorOutput(bytes),
                    None => {
                        is_open = false;
                        drained.cancel();
                        continue;
                    }
                },
                _ = alive.tick() => Down::Alive,
            };
            if !matches!(frame, Down::Alive) {
                self.moved.beat();
            }
            if words.send(frame).await.is_err() {
                return;
            }
        }
    }

    /// The console of a machine, until the user leaves or the machine is gone.
    async fn console(
        &self,
        input: &mut Input<ReadHalf<DuplexStream>>,
        words: &Words,
        console: &vm::Console,
    ) -> End {
        match self.wanted(input).await {
            Ok(begin) if begin.argv.is_empty() => {}
            Ok(_) => return End::Refused("a console takes no command".to_owned()),
            Err(end) => return end,
        }
        self.note_begun(Kind::Console, "console");
        tokio::select! {
            () = self.gone.cancelled() => End::Left,
            () = self.visit.task_ended.cancelled() => End::TaskEnded,
            () = self.moved.stops_for(IDLE) => End::Idle,
            () = self.show(console, words) => End::Left,
            end = self.type_in(input, console) => end,
        }
    }

    /// Passes on what a console says, from the end of what it has said.
    async fn show(&self, console: &vm::Console, words: &Words) {
        let (before, mut live) = console.watch();
        let mut alive = tokio::time::interval(ALIVE_EVERY);
        let mut frame = Down::Begun;
        let mut before = Some(before).filter(|before| !before.is_empty());
        loop {
            if words.send(frame).await.is_err() {
                return;
            }
            frame = match before.take() {
                Some(before) => Down::Output(before),
                None => tokio::select! {
                    said = live.recv() => match said {
                        Ok(bytes) => Down::Output(bytes),
                        Err(RecvError::Lagged(_)) => {
                            Down::Output(Bytes::from_static(b"\r\n[the console was faster]\r\n"))
                        }
                        // Its machine is gone, which is told soon.
                        Err(RecvError::Closed) => std::future::pending().await,
                    },
                    _ = alive.tick() => Down::Alive,
                },
            };
            if !matches!(frame, Down::Alive) {
                self.moved.beat();
            }
        }
    }

    async fn type_in(
        &self,
        input: &mut Input<ReadHalf<DuplexStream>>,
        console: &vm::Console,
    ) -> End {
        loop {
            match input.next().await {
                Ok(Some(Up::Input(bytes))) => {
                    self.moved.beat();
                    if console.say(&bytes).await.is_err() {
                        return End::TaskEnded;
                    }
                }
                // A serial line has no size and no end.
                Ok(Some(Up::Resize(_) | Up::InputEnds)) => {}
                Ok(Some(Up::Begin(_))) => {
                    return End::Refused("a session begins once".to_owned());
                }
                Ok(None) | Err(ReadError::Cut(_)) => return End::Left,
                Err(ReadError::Frame(error)) => return End::Nonsense(error),
            }
        }
    }
}

/// Writes frames, one after the other, until there are no more or nobody reads them.
async fn write(mut to: WriteHalf<DuplexStream>, mut queue: mpsc::Receiver<Down>) {
    while let Some(frame) = queue.recv().await {
        if send(&mut to, &frame).await.is_err() {
            return;
        }
    }
    // The other end may be gone.
    let _ = to.shutdown().await;
}
