//! The nodes of the demo as processes.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use catalog::NodeId;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::{at, failed};
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::shell::Home;

/// How long a node may take to be ready: it compiles nothing yet, but a loaded machine starts processes slowly.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a node may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// Longest ready line in bytes.
const LINE_LEN_MAX: u64 = 64 << 10;
/// Bytes of a node's log that an error quotes.
const LOG_TAIL: usize = 600;

/// A running node of the demo. Dropping it kills the process.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) org: &'static str,
    pub(super) id: NodeId,
    pub(super) api: SocketAddr,
    pub(super) client: Client,
    child: Child,
}

#[derive(serde::Deserialize)]
struct Ready {
    id: NodeId,
    api: SocketAddr,
}

impl Node {
    pub(super) async fn start(temp: &Path, org: &'static str) -> Result<Self, CliError> {
        let dir = temp.join(super::file_name(org));
        let home = Home::init(&dir, org, Some(&format!("demo-{}", super::nonce())))?;
        let log = dir.join("up.log");
        let errors = File::create(&log).map_err(CliError::io(&log))?;
        let program = std::env::current_exe().map_err(CliError::io("this program"))?;
        let mut child = Command::new(&program)
            .arg("--home")
            .arg(&dir)
            .args([
                "--output",
                "json",
                "up",
                "--api",
                "127.0.0.1:0",
                "--listen",
                "/ip4/127.0.0.1/tcp/0",
            ])
            .args(["--no-mdns", "--cpu", "2", "--memory", "1GiB", "--stop-with-stdin"])
            // The node lives as long as this pipe: it ends even when this process is killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(CliError::io(program))?;
        let ready = match tokio::time::timeout(READY_TIMEOUT, ready(&mut child)).await {
            Ok(Some(ready)) => ready,
            Ok(None) => return Err(not_ready(org, &log, "ended before it was ready")),
            Err(_) => return Err(not_ready(org, &log, "was not ready in time")),
        };
        let client = Client::at(ready.api, home.api_token()?).map_err(at("start the nodes"))?;
        Ok(Self { org, id: ready.id, api: ready.api, client, child })
    }

    /// Ends the process, gently when it listens.
    pub(super) async fn stop(mut self) {
        drop(self.child.stdin.take());
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            // It has ended by itself in this moment, or there is nothing more to be done.
            let _ = self.child.kill().await;
        }
    }
}

/// The first line that the node prints.
async fn ready(child: &mut Child) -> Option<Ready> {
    let stdout = child.stdout.take()?;
    let mut reader = BufReader::new(stdout);
    let mut line = String::new();
    (&mut reader).take(LINE_LEN_MAX).read_line(&mut line).await.ok()?;
    child.stdout = Some(reader.into_inner());
    serde_json::from_str(&line).ok()
}

fn not_ready(org: &str, log: &PathBuf, what: &str) -> CliError {
    let text = std::fs::read(log).unwrap_or_default();
    let tail =
        String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_TAIL)..]).trim().to_owned();
    failed("start the nodes", format!("the node of {org} {what}: {tail}"))
}

/// Waits for Ctrl-C or SIGTERM.
pub(super) async fn told_to_stop() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
