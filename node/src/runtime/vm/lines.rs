//! The connections of a machine's QEMU, and what is heard by them from the machine's start to its end. A machine that was
//! suspended comes back with another QEMU and other connections; what is heard goes on where it was.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::args::SOCKETS;
use super::chan::{self, Console};
use super::life::Word;
use super::process::Process;
use super::qmp::Qmp;
use super::stage::Staged;
use super::{VmTask, fault};
use crate::runtime::{HostFault, Stream};

/// How long QEMU may take to come to its sockets.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the last output may take to arrive after the machine has said all.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the machine's own end of its control port may take to have room for a line.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// The connections of one QEMU, but for those that are only read.
pub(super) struct Lines {
    pub(super) qmp: Arc<Mutex<Qmp>>,
    control: OwnedWriteHalf,
}

impl Lines {
    /// Says something to the machine. One that does not listen misses it.
    pub(super) async fn tell(&mut self, line: &str) {
        let telling = self.control.write_all(line.as_bytes());
        if !matches!(tokio::time::timeout(TELL_TIMEOUT, telling).await, Ok(Ok(()))) {
            tracing::debug!(line, "a machine was not told");
        }
    }
}

/// Where the connections of the next QEMU go.
struct Next {
    control: mpsc::Sender<OwnedReadHalf>,
    stdout: mpsc::Sender<UnixStream>,
    stderr: mpsc::Sender<UnixStream>,
}

/// What is heard of one machine.
pub(super) struct Ears {
    pub(super) console: Console,
    reading_console: Option<JoinHandle<()>>,
    pub(super) words: mpsc::Receiver<Word>,
    /// Those that have not ended yet.
    streams: Vec<JoinHandle<()>>,
    /// Bytes of the output streams.
    pub(super) moved: Arc<AtomicU64>,
    /// None when no QEMU comes any more.
    next: Option<Next>,
}

impl Ears {
    pub(super) fn new(task: &VmTask, staged: &Staged) -> Self {
        let moved = Arc::new(AtomicU64::new(0));
        let pass = |stream| {
            let (send, connections) = mpsc::channel(chan::NEXT);
            let (logs, moved) = (Arc::clone(&task.base.logs), Arc::clone(&moved));
            (send, chan::pass(connections, &staged.token, stream, logs, moved))
        };
        let (control, words) = mpsc::channel(chan::NEXT);
        let ((stdout, out), (stderr, err)) = (pass(Stream::Stdout), pass(Stream::Stderr));
        Self {
            console: Console::default(),
            reading_console: None,
            words: chan::words(words),
            streams: vec![out, err],
            moved,
            next: Some(Next { control, stdout, stderr }),
        }
    }

    /// Takes the connections of the QEMU that runs the machine from here on.
    pub(super) async fn listen(
        &mut self,
        staged: &Staged,
        process: &mut Process,
    ) -> Result<Lines, HostFault> {
        let taking = async {
            tokio::select! {
                biased;
                taken = tokio::time::timeout(START_TIMEOUT, self.take(staged)) => {
                    let late = || format!("no sign of it within {} s", START_TIMEOUT.as_secs());
                    taken.unwrap_or_else(|_| Err(late()))
                }
                _ = process.wait() => Err("it ended at once".to_owned()),
            }
        };
        match taking.await {
            Ok(lines) => Ok(lines),
            Err(detail) => Err(died("start qemu", process, detail).await),
        }
    }

    async fn take(&mut self, staged: &Staged) -> Result<Lines, String> {
        let mut taken = Vec::with_capacity(SOCKETS.len());
        for listener in &staged.listeners {
            let listener = listener.try_clone().and_then(UnixListener::from_std);
            let listener = listener.map_err(|error| error.to_string())?;
            let (stream, _) = listener.accept().await.map_err(|error| error.to_string())?;
            taken.push(stream);
        }
        let [qmp, console, control, stdout, stderr]: [UnixStream; 5] =
            taken.try_into().map_err(|_| "qemu has not come to all of its sockets".to_owned())?;
        let qmp = Qmp::begin(qmp).await.map_err(|error| error.to_string())?;
        let (words, control) = control.into_split();
        if let Some(next) = &self.next {
            // A stream that has ended takes no more.
            let _ = next.control.send(words).await;
            let _ = next.stdout.send(stdout).await;
            let _ = next.stderr.send(stderr).await;
        }
        self.last_words().await;
        self.reading_console = Some(self.console.begin(console).await);
        Ok(Lines { qmp: Arc::new(Mutex::new(qmp)), control })
    }

    /// No QEMU comes any more: what the last one has said is all.
    pub(super) fn close(&mut self) {
        self.next = None;
    }

    /// Waits for the end of both streams. A machine that does not end them has lost what is missing.
    pub(super) async fn drain(&mut self) {
        self.close();
        for mut stream in self.streams.drain(..) {
            if tokio::time::timeout(DRAIN_TIMEOUT, &mut stream).await.is_err() {
                stream.abort();
            }
        }
    }

    /// Waits for the last words of a QEMU's console, which explain its end.
    pub(super) async fn last_words(&mut self) {
        if let Some(reading) = self.reading_console.take() {
            let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
        }
    }
}

/// What went wrong with a QEMU that is of no use any more, in its own words if it has any. Ends it.
pub(super) async fn died(action: &'static str, process: &mut Process, detail: String) -> HostFault {
    process.kill().await;
    let said = process.said().await;
    fault(action, if said.is_empty() { detail } else { said })
}
