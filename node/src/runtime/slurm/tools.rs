//! Slurm's command-line tools: run one, bounded in time, output and number, and never through a shell.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::runtime::{HostFault, bounded};

/// How long a tool may take; then it is killed. Slurm's own limit for a message is 10 s, and tools try more than once.
const TOOL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer of a tool in bytes; a longer one is a failure of the tool.
const ANSWER_LEN_MAX: usize = 16 << 20;
/// Longest complaint of a tool in bytes; what is more is cut off.
const COMPLAINT_LEN_MAX: usize = 64 << 10;
/// Tools that run at one time; further ones wait. A controller serves its other users too.
const TOOLS_MAX: usize = 4;
/// Where tools are looked for, after the node's own path.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/opt/slurm/bin";

/// Why a tool gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// It cannot be started.
    #[error(
        "`{tool}` cannot be started ({kind}); install Slurm's client tools, and let the node's PATH lead to them"
    )]
    Missing {
        /// The tool.
        tool: &'static str,
        /// Why not.
        kind: io::ErrorKind,
    },
    /// It took too long.
    #[error("`{tool}` did not answer within {} s; is the cluster's controller up?", TOOL_TIMEOUT.as_secs())]
    TimedOut {
        /// The tool.
        tool: &'static str,
    },
    /// It answered more than is read.
    #[error("`{tool}` answered more than {ANSWER_LEN_MAX} bytes")]
    TooLong {
        /// The tool.
        tool: &'static str,
    },
    /// It failed.
    #[error("`{tool}` failed: {complaint}")]
    Failed {
        /// The tool.
        tool: &'static str,
        /// What it said, at most [`crate::runtime::DETAIL_LEN_MAX`] bytes.
        complaint: String,
    },
}

impl ToolError {
    /// The same as a fault of the host.
    pub(super) fn fault(&self, action: &'static str) -> HostFault {
        HostFault::Slurm { action, detail: bounded(self.to_string()) }
    }

    /// Whether the cluster understood and said no; otherwise nobody knows whether it did what it was asked.
    pub(super) fn is_answer(&self) -> bool {
        match self {
            Self::Missing { .. } => true,
            Self::Failed { complaint, .. } => {
                !complaint.contains("timed out") && !complaint.contains("Unable to contact")
            }
            Self::TimedOut { .. } | Self::TooLong { .. } => false,
        }
    }
}

/// Runs the tools of one cluster as one user.
#[derive(Debug)]
pub(super) struct Tools {
    /// `slurm.conf`, where it is not where the tools look.
    config: Option<PathBuf>,
    /// As whom, if not as the node itself.
    user: Option<(u32, u32)>,
    slots: Semaphore,
}

impl Tools {
    pub(super) fn new(config: Option<PathBuf>, user: Option<(u32, u32)>) -> Self {
        Self { config, user, slots: Semaphore::new(TOOLS_MAX) }
    }

    /// Runs a tool to its end and gives what it wrote. Not cancel-safe: a tool that is not awaited is killed.
    pub(super) async fn run<S: AsRef<str>>(
        &self,
        tool: &'static str,
        args: &[S],
        input: &str,
    ) -> Result<String, ToolError> {
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        let running = self.run_unbounded(tool, args, input);
        match tokio::time::timeout(TOOL_TIMEOUT, running).await {
            Ok(answer) => answer,
            Err(_) => Err(ToolError::TimedOut { tool }),
        }
    }

    async fn run_unbounded<S: AsRef<str>>(
        &self,
        tool: &'static str,
        args: &[S],
        input: &str,
    ) -> Result<String, ToolError> {
        let failed = |error: &io::Error| ToolError::Missing { tool, kind: error.kind() };
        let mut child = self.command(tool, args).spawn().map_err(|error| failed(&error))?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            let Some(mut stdin) = stdin else { return };
            // A tool may refuse before it has read all; its complaint says why.
            let _ = stdin.write_all(input.as_bytes()).await;
        };
        let ((), answer, complaint) =
            tokio::join!(feed, read(stdout, ANSWER_LEN_MAX), read(stderr, COMPLAINT_LEN_MAX));
        if answer.len() > ANSWER_LEN_MAX {
            return Err(ToolError::TooLong { tool });
        }
        let status = child.wait().await.map_err(|error| failed(&error))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if status.success() {
            return Ok(text(&answer));
        }
        let complaint = text(&complaint).trim().to_owned();
        let complaint = if complaint.is_empty() { status.to_string() } else { complaint };
        Err(ToolError::Failed { tool, complaint: bounded(complaint) })
    }

    fn command<S: AsRef<str>>(&self, tool: &'static str, args: &[S]) -> Command {
        let own = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(tool);
        // Variables such as SQUEUE_FORMAT or SBATCH_PARTITION would change what is asked.
        command.env_clear().env("PATH", format!("{own}:{PATH}")).env("LC_ALL", "C");
        if let Some(config) = &self.config {
            command.env("SLURM_CONF", config);
        }
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command.args(args.iter().map(AsRef::as_ref)).current_dir("/").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// Reads a stream to its end and keeps up to one byte more than `len_max`.
async fn read(stream: Option<impl AsyncRead + Unpin>, len_max: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let Some(stream) = stream else { return bytes };
    let mut some = stream.take(len_max as u64 + 1);
    // What is cut off, or cannot be read, is missing in the answer, which then does not parse.
    let _ = some.read_to_end(&mut bytes).await;
    // A tool that is not read would wait for ever, or die of it.
    if bytes.len() <= len_max {
        return bytes;
    }
    let mut rest = some.into_inner();
    let mut buffer = vec![0; 64 << 10];
    while matches!(rest.read(&mut buffer).await, Ok(1..)) {}
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_tokio<T>(run: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run)
    }

    #[test]
    fn a_tool_answers_complains_or_is_missing() {
        let tools = Tools::new(Some("/a conf".into()), None);
        let run = |script: &str| on_tokio(tools.run("sh", &["-c", script], "given"));
        assert_eq!(run("cat; echo $SLURM_CONF $HOME"), Ok("given/a conf\n".to_owned()));
        let complaint = "no such job".to_owned();
        assert_eq!(
            run("echo no such job >&2; exit 3"),
            Err(ToolError::Failed { tool: "sh", complaint })
        );
        let silent = run("exit 3").unwrap_err();
        assert!(silent.to_string().contains('3'), "{silent}");
        let missing = on_tokio(tools.run("no-such-tool", &[""; 0], "")).unwrap_err();
        assert!(matches!(missing, ToolError::Missing { .. }), "{missing}");
        assert!(missing.is_answer());
    }

    #[test]
    fn an_endless_answer_is_cut_and_complaints_are_kept_short() {
        let tools = Tools::new(None, None);
        let long = format!("head -c {} /dev/zero", ANSWER_LEN_MAX + 1);
        assert_eq!(
            on_tokio(tools.run("sh", &["-c", &long], "")),
            Err(ToolError::TooLong { tool: "sh" })
        );
        let fits = format!("head -c {ANSWER_LEN_MAX} /dev/zero");
        assert_eq!(
            on_tokio(tools.run("sh", &["-c", &fits], "")).map(|text| text.len()),
            Ok(ANSWER_LEN_MAX)
        );
        let loud = "head -c 9000000 /dev/zero | tr '\\0' x >&2; exit 1";
        let Err(ToolError::Failed { complaint, .. }) = on_tokio(tools.run("sh", &["-c", loud], ""))
        else {
            panic!("it failed");
        };
        assert_eq!(complaint.len(), crate::runtime::DETAIL_LEN_MAX);
    }

    #[test]
    fn a_controller_that_is_away_has_not_said_no() {
        let failed =
            |complaint: &str| ToolError::Failed { tool: "sbatch", complaint: complaint.to_owned() };
        assert!(
            failed("Batch job submission failed: Requested node configuration is not available")
                .is_answer()
        );
        assert!(
            !failed(
                "Batch job submission failed: Unable to contact slurm controller (connect failure)"
            )
            .is_answer()
        );
        assert!(
            !failed("Batch job submission failed: Socket timed out on send/recv operation")
                .is_answer()
        );
        assert!(!ToolError::TimedOut { tool: "sbatch" }.is_answer());
    }
}
