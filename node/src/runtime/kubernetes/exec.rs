//! Commands in the containers of a pod, by the API's `exec`: the only way between the node and its pods. Nothing in the
//! cluster has to reach the node, and the node needs no way to the cluster's machines.

use std::io;
use std::pin::pin;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::site::{ANSWER_TIMEOUT, chain, said};
use crate::runtime::{HostFault, Stream, bounded};

/// Bytes on their way between a command and the node, for each stream; then the command waits.
const PIPE_BYTES: usize = 256 << 10;
/// Longest complaint of a command that is kept, in bytes.
const COMPLAINT_LEN_MAX: usize = 4_096;
/// How long a command may say how it ended after its output has.
const STATUS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long what is left of its output may take when the way has broken: it is in memory.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a command did not do what it should.
#[derive(Debug)]
pub(super) enum ExecError {
    /// It was not started: the API, the machine or the container did not take it.
    Refused(String),
    /// The way to it broke.
    Broken(String),
    /// It failed, and said this.
    Failed(String),
    /// What it is given cannot be read, or what it gives cannot be written, here.
    Local(io::Error),
}

impl ExecError {
    /// The end of an answer was lost on its way.
    pub(super) fn early() -> Self {
        Self::Broken("its answer ended early".to_owned())
    }

    /// The same as a fault of the host.
    pub(super) fn fault(&self, action: &'static str) -> HostFault {
        let detail = match self {
            Self::Refused(detail) => format!("the pod takes no command: {detail}"),
            Self::Broken(detail) => format!("the way to the pod broke: {detail}"),
            Self::Failed(detail) => format!("the command failed: {detail}"),
            Self::Local(error) => error.to_string(),
        };
        HostFault::Kubernetes { action, detail: bounded(detail) }
    }
}

/// Takes what a command writes. An error ends the command's way.
pub(super) trait Taker: Send {
    /// Takes the next bytes of a stream.
    fn take(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()>;
}

impl<F: FnMut(Stream, &[u8]) -> io::Result<()> + Send> Taker for F {
    fn take(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        self(stream, bytes)
    }
}

/// One container of one pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Container<'a> {
    pub(super) pods: &'a Api<Pod>,
    pub(super) pod: &'a str,
    pub(super) name: &'static str,
}

impl Container<'_> {
    /// Runs a command to its end. The end of its output can be lost on its way, also where it is told to have succeeded
    /// as releases up to the newest do under load, so whoever needs all of it has to look. Not cancel-safe: the way to a command that is not awaited is cut, and what it
    /// does then is up to it.
    pub(super) async fn run(
        &self,
        command: &[&str],
        input: Option<File>,
        taker: &mut dyn Taker,
    ) -> Result<(), ExecError> {
        let params = AttachParams {
            container: Some(self.name.to_owned()),
            // Also without input: some sandboxes end a command that has none after its first output.
            stdin: true,
            max_stdin_buf_size: Some(PIPE_BYTES),
            max_stdout_buf_size: Some(PIPE_BYTES),
            max_stderr_buf_size: Some(PIPE_BYTES),
            ..AttachParams::default()
        };
        let begin = self.pods.exec(self.pod, command.iter().copied(), &params);
        let mut process = match timeout(ANSWER_TIMEOUT, begin).await {
            Ok(begun) => begun.map_err(|error| ExecError::Refused(said(&error)))?,
            Err(_) => {
                let detail = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
                return Err(ExecError::Refused(detail));
            }
        };
        let (stdin, status) = (process.stdin(), process.take_status());
        let (stdout, stderr) = (process.stdout(), process.stderr());
        let feed = async {
            // Kept until the command ends: it knows how much it is to read, so its input need not end, which older clusters
            // cannot tell it.
            let Some(mut stdin) = stdin else { return Ok(()) };
            if let Some(mut file) = input {
                tokio::io::copy(&mut file, &mut stdin).await?;
                stdin.flush().await?;
            }
            std::future::pending::<io::Result<()>>().await
        };
        let mut complaint = Vec::new();
        let (moved, told) = {
            let mut hand_on = |stream: Stream, bytes: &[u8]| -> io::Result<()> {
                if stream == Stream::Stderr && complaint.len() < COMPLAINT_LEN_MAX {
                    let room = COMPLAINT_LEN_MAX - complaint.len();
                    complaint.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
                taker.take(stream, bytes)
            };
            let (mut taking, mut status) =
                (pin!(pump(stdout, stderr, &mut hand_on)), pin!(of(status)));
            tokio::select! {
                taken = &mut taking => {
                    (taken, timeout(STATUS_TIMEOUT, status).await.ok().flatten())
                }
                told = &mut status => match told {
                    Some(told) => (taking.await, Some(told)),
                    // When the way breaks, the client lets the streams go without an end.
                    None => (timeout(DRAIN_TIMEOUT, taking).await.unwrap_or(Ok(())), None),
                },
                Err(error) = feed => (Err(error), None),
            }
        };
        moved.map_err(ExecError::Local)?;
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        match told {
            Some(told) => ended(told, &complaint),
            None => Err(ExecError::Broken(match timeout(STATUS_TIMEOUT, process.join()).await {
                Ok(Err(error)) => chain(&error),
                Ok(Ok(())) | Err(_) => "it ended without a word".to_owned(),
            })),
        }
    }

    /// Runs a script to its end and gives what it printed, cut to `len_max` bytes.
    pub(super) async fn ask(&self, script: &str, len_max: usize) -> Result<String, ExecError> {
        let mut answer = Vec::new();
        let mut taker = |stream: Stream, bytes: &[u8]| -> io::Result<()> {
            if stream == Stream::Stdout {
                let room = len_max - answer.len();
                answer.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Ok(())
        };
        self.run(&["sh", "-c", script], None, &mut taker).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// What the API tells at the end, if it does.
async fn of(status: Option<impl Future<Output = Option<Status>>>) -> Option<Status> {
    status?.await
}

/// How a command ended, as the API tells it.
fn ended(told: Status, complaint: &str) -> Result<(), ExecError> {
    if told.status.as_deref() == Some("Success") {
        return Ok(());
    }
    let why = told.message.unwrap_or_default();
    let sep = if complaint.is_empty() { "" } else { ": " };
    Err(ExecError::Failed(bounded(format!("{why}{sep}{complaint}"))))
}

/// Hands on both streams until both end.
async fn pump(
    stdout: Option<impl AsyncRead + Unpin>,
    stderr: Option<impl AsyncRead + Unpin>,
    take: &mut (dyn FnMut(Stream, &[u8]) -> io::Result<()> + Send),
) -> io::Result<()> {
    let (mut stdout, mut stderr) = (stdout, stderr);
    let (mut out, mut err) = (vec![0; 64 << 10], vec![0; 16 << 10]);
    while stdout.is_some() || stderr.is_some() {
        tokio::select! {
            n = read(stdout.as_mut(), &mut out), if stdout.is_some() => match n? {
                0 => stdout = None,
                n => take(Stream::Stdout, &out[..n])?,
            },
            n = read(stderr.as_mut(), &mut err), if stderr.is_some() => match n? {
                0 => stderr = None,
                n => take(Stream::Stderr, &err[..n])?,
            },
        }
    }
    Ok(())
}

async fn read(
    stream: Option<&mut (impl AsyncRead + Unpin)>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    match stream {
        Some(stream) => stream.read(buffer).await,
        None => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_failed_says_why() {
        let told = |status: &str, message: &str| Status {
            status: Some(status.to_owned()),
            message: Some(message.to_owned()),
            ..Status::default()
        };
        assert!(ended(told("Success", ""), "a remark").is_ok());
        let failed = ended(told("Failure", "exit code 1"), "no room").unwrap_err();
        assert!(failed.fault("do it").to_string().ends_with("exit code 1: no room"));
        assert!(ended(Status::default(), "").is_err());
    }

    #[test]
    fn both_streams_are_taken_to_their_ends() {
        let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut taken = [Vec::new(), Vec::new()];
        let (out, err) = (vec![1_u8; 300_000], vec![2_u8; 70_000]);
        tokio
            .block_on(pump(Some(&out[..]), Some(&err[..]), &mut |stream, bytes| {
                taken[usize::from(stream == Stream::Stderr)].extend_from_slice(bytes);
                Ok(())
            }))
            .unwrap();
        assert!(taken[0] == out && taken[1] == err);
        let none = None::<&[u8]>;
        let full = tokio.block_on(pump(Some(&out[..]), none, &mut |_, _| {
            Err(io::ErrorKind::StorageFull.into())
        }));
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
