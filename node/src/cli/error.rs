//! What the commands report when something is wrong, and with which exit code.

use std::io;
use std::path::PathBuf;

use crate::api::{Problem, chain};
use crate::shell::{HomeError, StartError, StopReason};

/// Exit code when everything is as it should be.
pub(crate) const OK: u8 = 0;
/// Exit code when something failed.
pub(crate) const FAILED: u8 = 1;
/// Exit code of a wrong command line, as in `sysexits.h`.
pub(crate) const USAGE: u8 = 64;
/// Exit code of what was cancelled, as shells report Ctrl-C.
pub(crate) const CANCELLED: u8 = 130;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// There is no node in the directory.
    #[error("there is no node in {}", dir.display())]
    NoNode {
        /// The directory.
        dir: PathBuf,
    },
    /// There is a node in the directory already.
    #[error("{} holds a node already", dir.display())]
    NodeThere {
        /// The directory.
        dir: PathBuf,
    },
    /// The node is not running.
    #[error("the node is not running")]
    NotRunning,
    /// The home cannot be used.
    #[error(transparent)]
    Home(HomeError),
    /// No directory for the home is known.
    #[error("there is no home directory to keep a node in")]
    NoHome,
    /// The node cannot start.
    #[error("the node cannot start")]
    Start(#[source] Box<StartError>),
    /// The node stopped by itself.
    #[error(transparent)]
    Stopped(#[from] StopReason),
    /// The API cannot listen.
    #[error("the API cannot listen on {address}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The node's answer is an error.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// The answer is not one of a node.
    #[error("the answer of {url} is not one of this program's API (status {status})")]
    NotANode {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The connection failed.
    #[error("the connection to the node failed")]
    Http(#[source] reqwest::Error),
    /// A stream of events ended too early or holds something else.
    #[error("the stream of events from the node is not right: {what}")]
    Stream {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A file cannot be used.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A path that cannot be uploaded.
    #[error("{} cannot be used: {reason}", path.display())]
    BadPath {
        /// The path.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// Something stands where the result should go.
    #[error("{} is there already", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// What came is not what was asked for.
    #[error("what the node sent for {wanted} is {found}")]
    Mismatch {
        /// Asked for.
        wanted: catalog::Digest,
        /// Got.
        found: catalog::Digest,
    },
    /// Content that should be a directory is none.
    #[error("{digest} is not a directory")]
    Manifest {
        /// The content.
        digest: catalog::Digest,
        /// Why.
        source: scheduler::value::ManifestError,
    },
    /// A file changed while it was uploaded.
    #[error("{} changed while it was uploaded", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A document has problems; they have been printed.
    #[error("{} has {count} problem{}", path.display(), if *count == 1 { "" } else { "s" })]
    Document {
        /// The document.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// A price plan has a problem.
    #[error("{} is not a price plan", path.display())]
    PricePlan {
        /// The file.
        path: PathBuf,
        /// Why.
        source: accounting::PricePlanError,
    },
    /// A price plan is not JSON.
    #[error("{} is not JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Parameters of a run are wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Params(Vec<scheduler::workflow::ParamError>),
    /// No run, or several, have an id that starts so.
    #[error("{found} runs have an id that starts with `{prefix}`")]
    RunPrefix {
        /// As given.
        prefix: String,
        /// How many.
        found: usize,
    },
    /// The command line is wrong in a way only the command itself can see.
    #[error("{what}")]
    Usage {
        /// What is wrong.
        what: String,
    },
    /// The demo did not come out as it should.
    #[error("the demo failed at this step: {step}: {detail}")]
    Demo {
        /// What was being done.
        step: &'static str,
        /// What happened.
        detail: String,
    },
    /// Someone pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl CliError {
    /// The exit code.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => USAGE,
            Self::Interrupted => CANCELLED,
            _ => FAILED,
        }
    }

    /// The way out, when the message does not say it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoNode { .. } => "make one with `opencloud init --org NAME`",
            Self::NodeThere { .. } => "choose another directory with --home DIR",
            Self::NotRunning => "start it with `opencloud up`",
            Self::NoHome => "name a directory with --home DIR or OPENCLOUD_HOME",
            Self::Listen { .. } => {
                "choose another address with --api ADDR; port 0 takes a free one"
            }
            Self::Problem(problem) if problem.code == "token" => {
                "another program may have this node's old address: is the node of this home running?"
            }
            Self::NotANode { .. } => {
                "another program may have this node's old address: start the node with `opencloud up`"
            }
            Self::Exists { .. } => "choose another place, or remove it first",
            Self::Mismatch { .. } | Self::Changed { .. } => "try it again",
            Self::RunPrefix { found: 0, .. } => "`opencloud run list` shows them",
            Self::RunPrefix { .. } => "write more of it; `opencloud run list` shows them",
            Self::Usage { .. } => "`--help` shows the forms",
            Self::Json { .. } => {
                "write the plan as JSON; docs of the fields: `opencloud up --help`"
            }
            Self::Demo { .. } => {
                "try `opencloud demo --keep` and look at the `up.log` of each home it names"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// The message with all its causes.
    #[must_use]
    pub fn message(&self) -> String {
        chain(self)
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Io { path, source }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::Usage { what: what.into() }
    }
}

impl From<HomeError> for CliError {
    fn from(error: HomeError) -> Self {
        match error {
            HomeError::NotInitialised { dir } => Self::NoNode { dir },
            HomeError::Initialised { dir } => Self::NodeThere { dir },
            HomeError::NotRunning { .. } => Self::NotRunning,
            error => Self::Home(error),
        }
    }
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        Self::Start(Box::new(error))
    }
}

impl From<reqwest::Error> for CliError {
    fn from(error: reqwest::Error) -> Self {
        // The address names a port of this machine, so nobody listening means that the node is not there.
        if error.is_connect() { Self::NotRunning } else { Self::Http(error.without_url()) }
    }
}
