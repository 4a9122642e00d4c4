//! Inside a task from the command line: standard input and output on the one side, [`crate::session`] on the other.

mod terminal;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, stderr, stdout};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use self::terminal::{Raw, keyboard, window};
use super::client::Client;
use super::error::{CliError, OK};
use super::output::note;
use crate::cli::Context;
use crate::session::{Begin, Down, ReadError, Receiver, Up, Window, send};

/// What leaves a console: Ctrl-], as of old.
const LEAVE: u8 = 0x1d;

/// What is wanted inside.
#[derive(Debug)]
pub(super) enum Wanted {
    /// A command, with a terminal of its own or without.
    Command { argv: Vec<String>, tty: bool },
    /// The console.
    Console,
}

impl Wanted {
    /// Whether it can be given here and now.
    pub(super) fn check(&self, context: &Context) -> Result<(), CliError> {
        if context.out.is_json() {
            let what = "what a task writes is passed on as it comes, which is no JSON: leave out --output json";
            return Err(CliError::usage(what));
        }
        match self {
            Self::Command { tty: true, .. } if window().is_none() => {
                let what =
                    "--tty wants a terminal on standard input: leave it out when there is none";
                Err(CliError::usage(what))
            }
            Self::Command { argv, .. } => {
                let begin = Begin { argv: argv.clone(), tty: None };
                begin.check().map_err(|error| CliError::usage(error.to_string()))
            }
            Self::Console => Ok(()),
        }
    }
}

/// Goes inside at an address of the API, and gives the exit code of what ended there. Whatever else goes wrong has a code of
/// its own.
pub(super) async fn enter(
    client: &Client,
    path: &str,
    query: &[(&str, &str)],
    wanted: Wanted,
) -> Result<u8, CliError> {
    let entered = async {
        let connection = client.upgrade(path, query).await?;
        Box::pin(carry(connection, wanted)).await
    };
    entered.await.map_err(|error| CliError::Inside(Box::new(error)))
}

/// What the terminal or the system tell while a session goes on.
struct Signals {
    resized: Signal,
    interrupted: Signal,
    terminated: Signal,
    hung_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(CliError::io("the signals of this process"));
        Ok(Self {
            resized: listen(SignalKind::window_change())?,
            interrupted: listen(SignalKind::interrupt())?,
            terminated: listen(SignalKind::terminate())?,
            hung_up: listen(SignalKind::hangup())?,
        })
    }

    async fn stop(interrupted: &mut Signal, terminated: &mut Signal, hung_up: &mut Signal) {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
            _ = hung_up.recv() => {}
        }
    }
}

async fn carry(
    connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    wanted: Wanted,
) -> Result<u8, CliError> {
    let signals = Signals::new()?;
    let Signals { resized, mut interrupted, mut terminated, mut hung_up } = signals;
    let (from, mut to) = tokio::io::split(connection);
    let mut task = Receiver::<_, Down>::new(from);
    let (begin, is_console) = match wanted {
        Wanted::Command { argv, tty } => (Begin { argv, tty: window().filter(|_| tty) }, false),
        Wanted::Console => (Begin::default(), true),
    };
    let has_tty = begin.tty.is_some();
    send(&mut to, &Up::Begin(begin)).await.map_err(|_| cut())?;
    match task.next().await {
        Ok(Some(Down::Begun)) => {}
        Ok(Some(Down::Failed(detail))) => return Err(CliError::Session { detail }),
        told => return Err(broken(told)),
    }
    if is_console {
        note("at the console; Ctrl-] leaves it");
    }
    // Dropped on every way out from here, it gives the terminal back.
    let raw = match has_tty || (is_console && window().is_some()) {
        true => Some(Raw::begin().map_err(CliError::io("the terminal"))?),
        false => None,
    };
    let typed = Typed { keys: keyboard(), resized, has_tty, leaves: is_console && raw.is_some() };
    let up = typed.pass(&mut to);
    let ended = tokio::select! {
        left = up => left.map(|()| OK),
        ended = show(&mut task) => ended,
        () = Signals::stop(&mut interrupted, &mut terminated, &mut hung_up) => {
            Err(CliError::Interrupted)
        }
    };
    drop(raw);
    if is_console && ended.is_ok() {
        note("");
    }
    ended
}

/// What goes to the task.
struct Typed {
    keys: mpsc::Receiver<Vec<u8>>,
    resized: Signal,
    has_tty: bool,
    /// Whether a key leaves.
    leaves: bool,
}

impl Typed {
    /// Passes on what is typed, until the user leaves. The end of the input is only the end of that.
    async fn pass(mut self, to: &mut (impl AsyncWrite + Unpin)) -> Result<(), CliError> {
        let mut is_open = true;
        loop {
            let frame = tokio::select! {
                keys = self.keys.recv(), if is_open => match keys {
                    Some(keys) => match leaving(&keys).filter(|_| self.leaves) {
                        Some(before) => {
                            // It may be gone already.
                            let _ = send(to, &Up::Input(before.to_vec().into())).await;
                            return Ok(());
                        }
                        None => Up::Input(keys.into()),
                    },
                    None => {
                        is_open = false;
                        Up::InputEnds
                    }
                },
                _ = self.resized.recv(), if self.has_tty => match window() {
                    Some(window) => Up::Resize(window),
                    None => continue,
                },
                else => std::future::pending().await,
            };
            if send(to, &frame).await.is_err() {
                // What comes from there tells why.
                return std::future::pending().await;
            }
        }
    }
}

/// What was typed before the key that leaves, if it was typed.
fn leaving(keys: &[u8]) -> Option<&[u8]> {
    keys.iter().position(|key| *key == LEAVE).map(|at| &keys[..at])
}

/// Shows what comes, and gives the exit code.
async fn show(task: &mut Receiver<impl AsyncRead + Unpin, Down>) -> Result<u8, CliError> {
    let (mut out, mut err) = (stdout(), stderr());
    loop {
        let shown = match task.next().await {
            Ok(Some(Down::Output(bytes))) => out.write_all(&bytes).await.and(out.flush().await),
            Ok(Some(Down::ErrorOutput(bytes))) => {
                err.write_all(&bytes).await.and(err.flush().await)
            }
            Ok(Some(Down::Alive | Down::Begun)) => Ok(()),
            // As shells report codes: the last eight bits.
            Ok(Some(Down::Exit(code))) => return Ok(code.to_le_bytes()[0]),
            Ok(Some(Down::Failed(detail))) => return Err(CliError::Session { detail }),
            told => return Err(broken(told)),
        };
        if shown.is_err() {
            // A reader that has gone away is no error, and wants no more.
            return Ok(OK);
        }
    }
}

fn cut() -> CliError {
    CliError::Session { detail: "the connection to the node was cut".to_owned() }
}

fn broken(told: Result<Option<Down>, ReadError>) -> CliError {
    match told {
        Err(ReadError::Frame(error)) => CliError::Session { detail: error.to_string() },
        Ok(None) | Err(ReadError::Cut(_)) => cut(),
        Ok(Some(_)) => CliError::Session { detail: "the node answered out of turn".to_owned() },
    }
}

/// `STEP` or `STEP[INDEX]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TaskName {
    pub(super) step: String,
    pub(super) index: u32,
}

impl TaskName {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (step, index) = match text.split_once('[') {
            None => (text, "0"),
            Some((step, rest)) => {
                (step, rest.strip_suffix(']').ok_or("the index stands in brackets: STEP[INDEX]")?)
            }
        };
        if step.is_empty() {
            return Err("write STEP or STEP[INDEX], like `fit[3]`");
        }
        let index = index.parse().map_err(|_| "the index is a number from 0")?;
        Ok(Self { step: step.to_owned(), index })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_named_by_its_step_and_maybe_an_index() {
        let name = |step: &str, index| Ok(TaskName { step: step.to_owned(), index });
        assert_eq!(TaskName::parse("fit"), name("fit", 0));
        assert_eq!(TaskName::parse("fit[12]"), name("fit", 12));
        for bad in ["", "[1]", "fit[", "fit[]", "fit[1", "fit[x]", "fit[-1]", "fit[1]x"] {
            assert!(TaskName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_key_that_leaves_is_found_wherever_it_stands() {
        assert_eq!(leaving(b"ls\n"), None);
        assert_eq!(leaving(b"ls\x1d\n"), Some(&b"ls"[..]));
        assert_eq!(leaving(b"\x1d"), Some(&b""[..]));
    }

    #[tokio::test]
    async fn an_exit_code_is_passed_on_and_a_cut_is_an_error() {
        let told = async |frames: &[Down]| {
            let (mut near, far) = tokio::io::duplex(1 << 16);
            for frame in frames {
                send(&mut near, frame).await.unwrap();
            }
            drop(near);
            show(&mut Receiver::new(far)).await
        };
        assert_eq!(told(&[Down::Alive, Down::Exit(7)]).await.unwrap(), 7);
        assert_eq!(told(&[Down::Exit(-1)]).await.unwrap(), 255);
        let error = told(&[Down::Alive]).await.unwrap_err();
        assert!(error.message().contains("the connection to the node was cut"));
        let error = told(&[Down::Failed("idle".to_owned())]).await.unwrap_err();
        assert!(error.message().contains("idle"));
    }
}
