//! What the commands report when something is wrong, and with which exit code.

use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::image::ImportError;
use crate::api::{Problem, chain};
use crate::engine::command::named;
use crate::shell::{HomeError, StartError, StopReason};

/// Exit code when everything is as it should be.
pub(crate) const OK: u8 = 0;
/// Exit code when something failed.
pub(crate) const FAILED: u8 = 1;
/// Exit code when no command ran inside a task whose code could be passed on, as of other programs that run commands elsewhere.
pub(crate) const NOT_INSIDE: u8 = 125;
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
    /// Nobody could be asked.
    #[error("{question} Nobody can answer here: give --yes if so")]
    Unconfirmed {
        /// What was to be asked.
        question: String,
    },
    /// The owner said no.
    #[error("nothing was done")]
    Declined,
    /// No directory for the home is known.
    #[error("there is no home directory to keep a node in")]
    NoHome,
    /// The node cannot start.
    #[error("the node cannot start")]
    Start(#[source] Box<StartError>),
    /// Containers are to be offered, and no engine is there.
    #[error(
        "no container engine listens on {}",
        sockets.iter().map(|socket| socket.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoEngine {
        /// Where it was looked for.
        sockets: Vec<PathBuf>,
    },
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
    /// Nothing can be served over TLS.
    #[error(transparent)]
    Tls(#[from] crate::api::TlsError),
    /// The node's answer is an error.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// The image registry's answer is an error.
    #[error("{message}")]
    Registry {
        /// What it says.
        message: String,
    },
    /// An image cannot be brought in.
    #[error("{} cannot be brought in", path.display())]
    Import {
        /// The directory or archive.
        path: PathBuf,
        /// Why.
        source: Box<ImportError>,
    },
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
    /// What came is what was asked for, and not what its owner says of it.
    #[error("the content has {found}, and its owner says {wanted}")]
    Sha256 {
        /// As it is said.
        wanted: catalog::record::Sha256,
        /// As it is.
        found: catalog::record::Sha256,
    },
    /// A file is not the image of a disk that is taken.
    #[error("{} is not taken", path.display())]
    Inspect {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<crate::runtime::vm::ConvertError>,
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
    /// A document has problems.
    #[error("{} has {} problem{}", path.display(), places.len(), if places.len() == 1 { "" } else { "s" })]
    Document {
        /// The document.
        path: PathBuf,
        /// All of them, in the order of the text.
        places: Vec<Place>,
    },
    /// An exported ledger cannot be read. The other exit codes of its check say verdicts.
    #[error("cannot use {}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Parameters of a run are wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Params(Vec<scheduler::workflow::ParamError>),
    /// Nothing has an id that begins so.
    #[error("no {what} has an id that begins with `{prefix}`")]
    NoMatch {
        /// What was looked for: a run, data.
        what: &'static str,
        /// As given.
        prefix: String,
    },
    /// A workspace has no such thing.
    #[error("workspace `{workspace}` has no {what} `{name}`")]
    NotInWorkspace {
        /// The workspace.
        workspace: String,
        /// What was looked for: a resource, a search.
        what: &'static str,
        /// As given.
        name: String,
    },
    /// The beginning of an id fits several things, or is empty.
    #[error(
        "`{prefix}` may mean {count} {what}{}: {}",
        if *count == 1 { "" } else { "s" },
        named(candidates, *count)
    )]
    Ambiguous {
        /// What was looked for: a run, data.
        what: &'static str,
        /// As given.
        prefix: String,
        /// How many fit.
        count: usize,
        /// The first of them.
        candidates: Vec<String>,
    },
    /// A run that was waited for failed.
    #[error("{id} failed: {detail}")]
    RunFailed {
        /// The run.
        id: scheduler::task::RunId,
        /// Why.
        detail: String,
    },
    /// A run that was waited for was cancelled.
    #[error("{id} was cancelled")]
    RunCancelled {
        /// The run.
        id: scheduler::task::RunId,
    },
    /// A service that was waited for will not become as it was asked.
    #[error("service `{name}` did not get healthy: {detail}")]
    ServiceStopped {
        /// The service.
        name: String,
        /// Why.
        detail: String,
    },
    /// A replica of a service that was waited for ended, and no other takes its place.
    #[error(
        "service `{name}` cannot get healthy: replica {replica} ended for good: {detail}; its restart policy starts no other"
    )]
    ServiceEnded {
        /// The service.
        name: String,
        /// The replica.
        replica: String,
        /// How it ended.
        detail: String,
    },
    /// Steps of a plan can run nowhere.
    #[error("no node can run {}", steps.join(", "))]
    Unplaceable {
        /// The steps.
        steps: Vec<String>,
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
    /// There is no session inside a task, or it did not come to its end.
    #[error("the session inside the task failed: {detail}")]
    Session {
        /// Why.
        detail: String,
    },
    /// Any of these that keeps the user out of a task: the exit code says that it is not that of a command inside.
    #[error(transparent)]
    Inside(Box<CliError>),
    /// Someone pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// One problem of a document, as programs get it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Place {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// Keys that lead there; empty for the document itself.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl CliError {
    /// The exit code.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } | Self::Bundle { .. } => USAGE,
            Self::Interrupted | Self::RunCancelled { .. } => CANCELLED,
            Self::Inside(error) if matches!(**error, Self::Interrupted) => CANCELLED,
            Self::Inside(_) => NOT_INSIDE,
            _ => FAILED,
        }
    }

    /// One word for programs; it never changes its meaning. Errors of the node have the codes of its API.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::NoNode { .. } => "no_node",
            Self::NodeThere { .. } => "node_there",
            Self::NotRunning => "not_running",
            Self::Home(_) | Self::NoHome => "home",
            Self::Start(_) => "start",
            Self::NoEngine { .. } => "no_engine",
            Self::Stopped(_) => "stopped",
            Self::Listen { .. } => "listen",
            Self::Tls(_) => "tls",
            Self::Problem(problem) => &problem.code,
            Self::Registry { .. } => "registry",
            Self::Import { .. } => "import",
            Self::NotANode { .. } => "not_a_node",
            Self::Http(_) | Self::Stream { .. } => "connection",
            Self::Io { .. } | Self::BadPath { .. } | Self::Bundle { .. } => "file",
            Self::Exists { .. } => "exists",
            Self::Mismatch { .. } | Self::Sha256 { .. } => "mismatch",
            Self::Inspect { .. } => "disk_refused",
            Self::Manifest { .. } => "not_a_directory",
            Self::Changed { .. } => "changed",
            Self::Document { .. } => "document",
            Self::Params(_) => "params",
            Self::NoMatch { .. } | Self::NotInWorkspace { .. } => "no_match",
            Self::Ambiguous { .. } => "ambiguous",
            Self::RunFailed { .. } => "run_failed",
            Self::RunCancelled { .. } => "run_cancelled",
            Self::ServiceStopped { .. } => "service_stopped",
            Self::ServiceEnded { .. } => "service_ended",
            Self::Unplaceable { .. } => "unplaceable",
            Self::Usage { .. } => "usage",
            Self::Demo { .. } => "demo",
            Self::Session { .. } => "session",
            Self::Inside(error) => error.code(),
            Self::Interrupted => "interrupted",
            Self::Unconfirmed { .. } => "unconfirmed",
            Self::Declined => "declined",
        }
    }

    /// The way out, when the message does not say it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoNode { .. } => "make one with `opencloud init --org NAME`",
            Self::NodeThere { .. } => "choose another directory with --home DIR",
            Self::NotRunning => "start it with `opencloud up`",
            Self::NoEngine { .. } => {
                "start Docker or `podman system service`, let this user use its socket, or name it with --containers=SOCKET"
            }
            Self::NoHome => "name a directory with --home DIR or OPENCLOUD_HOME",
            Self::Listen { .. } => {
                "choose another address with --api ADDR; port 0 takes a free one"
            }
            Self::Tls(_) => {
                "give both files in PEM form, or --tls for a certificate of the node's own"
            }
            Self::Problem(problem) => return problem_hint(&problem.code).map(str::to_owned),
            Self::NotANode { .. } => {
                "another program may have this node's old address: start the node with `opencloud up`"
            }
            Self::Http(_) | Self::Stream { .. } => "`opencloud status` says whether the node runs",
            Self::Io { source, .. } | Self::Bundle { source, .. } => return file_hint(source),
            Self::Exists { .. } => "choose another place, or remove it first",
            Self::Mismatch { .. } | Self::Changed { .. } => "try it again",
            Self::Params(_) => {
                "values are given with `--param NAME=VALUE`, files with `--input NAME=PATH`"
            }
            Self::NoMatch { what: "replica", .. } => "`opencloud service show NAME` shows them",
            Self::NoMatch { what: "organisation", .. } => "`opencloud peers orgs` shows them",
            Self::NoMatch { what: "run", .. } => "`opencloud run list` shows them",
            Self::NoMatch { .. } => "`opencloud catalog list` shows what is published",
            Self::NotInWorkspace { workspace, .. } => {
                return Some(format!("`opencloud workspace show {workspace}` shows what it has"));
            }
            Self::Ambiguous { .. } => "write more of it",
            Self::RunFailed { id, .. } => {
                return Some(format!("`opencloud run logs {id}` shows what the tasks wrote"));
            }
            Self::ServiceStopped { name, .. } => {
                return Some(format!(
                    "`opencloud service show {name}` says what happened, `opencloud service logs {name}` what it wrote"
                ));
            }
            Self::ServiceEnded { name, replica, .. } => {
                return Some(format!(
                    "`opencloud service logs {name} --replica {replica}` shows what it wrote; deploy what mends it, or have the same started again with `opencloud service scale {name} 0` and then the number that you want"
                ));
            }
            Self::Unplaceable { .. } => {
                "the reasons stand with each node; `opencloud peers` shows who is there"
            }
            Self::Usage { .. } => "`--help` shows the forms",
            Self::Inside(error) => return error.hint(),
            Self::Demo { .. } => {
                "try `opencloud demo --keep` and look at the `up.log` of each home it names"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// The error as programs get it: problem details (RFC 9457) with the hint and the exit code, and the places when it is
    /// about a document.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let code = self.code();
        let mut json = json!({
            "type": format!("urn:opencloud:problem:{code}"),
            "code": code,
            "detail": self.message(),
            "hint": self.hint(),
            "exit_code": self.exit_code(),
        });
        match self {
            Self::Problem(problem) => {
                json["title"] = problem.title.as_str().into();
                json["status"] = problem.status.into();
                if let Some(refusal) = &problem.refusal {
                    json["refusal"] = json!(refusal);
                }
                if let Some(quota) = &problem.quota {
                    json["quota"] = json!(quota);
                }
            }
            Self::Document { places, .. } => {
                json["problems"] = json!(places);
                json["hint"] = json!(places.iter().find_map(|place| place.hint.as_ref()));
            }
            Self::Ambiguous { candidates, .. } => json["candidates"] = json!(candidates),
            _ => {}
        }
        json
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

    pub(crate) fn import(path: impl Into<PathBuf>) -> impl FnOnce(ImportError) -> Self {
        let path = path.into();
        |source| Self::Import { path, source: Box::new(source) }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::Usage { what: what.into() }
    }
}

/// The way out of a problem that the node tells, when its detail does not say it.
fn problem_hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "token" => {
            "another program may have this node's old address: is the node of this home running?"
        }
        "filter_invalid" => "`opencloud catalog search --help` shows the form of filters",
        "ticket_invalid" => {
            "give the whole line that the other node printed: `opencloud invite`, or `opencloud realm invite` for a link of realms"
        }
        "join_unreachable" => {
            "is the other node up, and can this machine reach an address of its `opencloud status`?"
        }
        "no_disk" => {
            "`opencloud image disk list` shows those of this node, `opencloud catalog search 'kind = disk'` the others"
        }
        "no_image" => "`opencloud image list` shows them",
        "no_run" => "`opencloud run list` shows them",
        "inside_refused" => {
            "the owner of the task's node decides: `opencloud run exec --help` says what it takes"
        }
        "no_workspace" => "`opencloud workspace list` shows them",
        "no_service" => "`opencloud service list` shows them",
        "no_room" | "storage" => "make room on the disk of the node's home",
        "timeout" | "stopping" => "`opencloud status` says whether the node answers",
        _ => return None,
    })
}

fn file_hint(error: &io::Error) -> Option<String> {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "check who owns it and who may use it",
        io::ErrorKind::StorageFull => "make room on the disk",
        io::ErrorKind::IsADirectory => "name a file",
        _ => return None,
    };
    Some(hint.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_as_json_says_what_the_text_says() {
        let error = CliError::Ambiguous {
            what: "run",
            prefix: "ab".to_owned(),
            count: 3,
            candidates: vec!["run-aba".to_owned(), "run-abb".to_owned()],
        };
        assert_eq!(error.message(), "`ab` may mean 3 runs: run-aba, run-abb and 1 more");
        let json = error.to_json();
        assert_eq!(json["type"], "urn:opencloud:problem:ambiguous");
        assert_eq!(json["detail"], error.message());
        assert_eq!(json["hint"], "write more of it");
        assert_eq!(json["exit_code"], 1);
        assert_eq!(json["candidates"][1], "run-abb");
        let place = Place {
            line: 3,
            column: 7,
            path: "rows[0]".to_owned(),
            problem: "wrong".to_owned(),
            hint: None,
        };
        let error = CliError::Document { path: "a.yaml".into(), places: vec![place] };
        assert_eq!(error.message(), "a.yaml has 1 problem");
        assert_eq!(error.to_json()["problems"][0]["line"], 3);
    }
}
