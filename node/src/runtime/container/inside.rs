//! Commands inside a container that runs: beside its own program, as the same user, held by the same cgroup and limits.
//!
//! ```text
//!  create exec ─► start, attached ─► inspect: its process ─► … ─► inspect: its exit code
//! ```
//!
//! No engine ends such a command when whoever started it goes away, so the node does (see `kin`), and what the command leaves
//! running in the end, too. It therefore offers commands only inside of containers whose processes it sees.

use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as EngineError;
use bollard::models::{ExecConfig, ExecInspectResponse};
use bollard::query_parameters::ResizeExecOptions;
use futures::StreamExt as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::streams::{self, Input, Output};
use super::{ContainerRuntime, WORK_DIR, fault};
use crate::runtime::kin::{Kin, cgroup, dismiss_monitors};
use crate::runtime::{HostFault, bounded};
use crate::session::Window;

/// How long a command may take to have a process, and the pause between two looks.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const START_PAUSE: Duration = Duration::from_millis(10);
/// How often it is looked whether a command has ended that has not closed its output, and how often after it has.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_SOON: Duration = Duration::from_millis(20);
/// How long the engine may take to see the end of a command that was ended.
const SETTLE: Duration = Duration::from_secs(2);
/// Tries to give a new terminal its size: an engine may not have made it yet.
const RESIZE_TRIES: u32 = 20;
/// How long the first words of a command may take that has ended at once.
const FIRST_WORDS: Duration = Duration::from_secs(2);
/// Most bytes that an engine says about a command that it could not start.
const WORDS_MAX: usize = 1 << 10;
/// What a shell says of a program that is not there, or may not be executed.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// The variable in the environment of a command by which it is known with all that it starts; its value is random.
const MARK: &str = "OPENCLOUD_SESSION";

/// The way inside one container.
#[derive(Clone, Debug)]
pub(crate) struct Inside {
    runtime: ContainerRuntime,
    id: Arc<str>,
    /// Of the container's first process.
    cgroup: Vec<u8>,
}

/// A command that was started.
pub(crate) enum Started {
    /// It runs, or has ended by now.
    Runs {
        /// What it writes, up to the end of both streams.
        output: Output,
        /// What it reads.
        input: Input,
        /// The rest.
        exec: Exec,
    },
    /// There is no such program in the container, or it cannot be executed.
    NoProgram {
        /// As a shell would say it.
        code: i32,
        /// The engine's words.
        why: String,
    },
}

/// A command's process.
#[derive(Clone, Debug)]
pub(crate) struct Exec {
    docker: Docker,
    id: String,
    kin: Kin,
}

impl Inside {
    /// The way inside a container whose first process has this number; `None` when this node does not see it.
    pub(super) fn find(runtime: &ContainerRuntime, id: &str, pid: i64) -> Option<Self> {
        let cgroup = cgroup(u32::try_from(pid).ok()?)?;
        Some(Self { runtime: runtime.clone(), id: Arc::from(id), cgroup })
    }

    /// Starts a command. Not to be dropped before it has an answer: nobody would know the process.
    pub(crate) async fn exec(
        &self,
        argv: Vec<String>,
        tty: Option<Window>,
    ) -> Result<Started, HostFault> {
        let docker = &self.runtime.docker;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| HostFault::Container {
            action: "start a command in a container",
            detail: "the operating system gives no random bytes".to_owned(),
        })?;
        let mark = format!("{MARK}={}", catalog::id::to_hex(&random));
        let config = self.config(argv, tty.is_some(), mark.clone());
        let mut kin = Kin::new(self.cgroup.clone(), mark);
        let failed = |error: EngineError| fault("start a command in a container", &error);
        let id = docker.create_exec(&self.id, config).await.map_err(failed)?.id;
        let starting = streams::start(&self.runtime.engine.socket, &id, tty.is_some());
        let started = match timeout(START_TIMEOUT, starting).await {
            Ok(Ok(streams)) => Ok(streams),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", START_TIMEOUT.as_secs())),
        };
        let (mut output, input) = match started {
            Ok(streams) => streams,
            Err(detail) => {
                // It may have a process even so.
                kill(kin).await;
                let detail = bounded(detail);
                return Err(HostFault::Container {
                    action: "start a command in a container",
                    detail,
                });
            }
        };
        let code = self.process(&id, &mut kin).await;
        let code = match code {
            Ok(code) => code,
            Err(fault) => {
                kill(kin).await;
                return Err(fault);
            }
        };
        let exec = Exec { docker: docker.clone(), id, kin };
        if matches!(code, Some(NOT_FOUND | NOT_EXECUTABLE)) {
            let first = timeout(FIRST_WORDS, output.next()).await.ok().flatten();
            if let Some(why) = first.as_ref().and_then(|(_, bytes)| engines_words(bytes)) {
                let is_there = why.contains("permission denied");
                let code = if is_there { NOT_EXECUTABLE } else { NOT_FOUND };
                exec.kill().await;
                return Ok(Started::NoProgram { code, why });
            }
            output = Box::pin(futures::stream::iter(first).chain(output));
        }
        if let Some(window) = tty {
            exec.resize_soon(window).await;
        }
        Ok(Started::Runs { output, input, exec })
    }

    /// As the task's own program, whatever the engine thinks.
    fn config(&self, argv: Vec<String>, has_tty: bool, mark: String) -> ExecConfig {
        let (uid, gid) = self.runtime.engine.user.inside;
        ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(has_tty),
            user: Some(format!("{uid}:{gid}")),
            privileged: Some(false),
            working_dir: Some(WORK_DIR.to_owned()),
            env: Some(vec![mark]),
            cmd: Some(argv),
            ..Default::default()
        }
    }

    /// Finds the process of a command; gives its exit code when it has ended at once.
    async fn process(&self, id: &str, kin: &mut Kin) -> Result<Option<i32>, HostFault> {
        let looking = async {
            loop {
                let found = inspect(&self.runtime.docker, id).await?;
                let pid = found.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
                if pid.is_some_and(|pid| kin.lead(pid)) {
                    return Ok(None);
                }
                if let Some(code) = code_of(&found) {
                    return Ok(Some(code));
                }
                tokio::time::sleep(START_PAUSE).await;
            }
        };
        let late = || HostFault::Container {
            action: "start a command in a container",
            detail: format!("no process of it within {} s", START_TIMEOUT.as_secs()),
        };
        timeout(START_TIMEOUT, looking).await.unwrap_or_else(|_| Err(late()))
    }
}

impl Exec {
    /// Gives the terminal another size.
    pub(crate) async fn resize(&self, window: Window) -> Result<(), HostFault> {
        let (w, h) = (i32::from(window.columns), i32::from(window.rows));
        let resized = self.docker.resize_exec(&self.id, ResizeExecOptions { w, h }).await;
        resized.map_err(|error| fault("resize a terminal", &error))
    }

    async fn resize_soon(&self, window: Window) {
        for _ in 0..RESIZE_TRIES {
            if self.resize(window).await.is_ok() {
                return;
            }
            tokio::time::sleep(START_PAUSE).await;
        }
        // It has ended, or its size is the engine's usual one.
        tracing::debug!(exec = %self.id, "a terminal did not get its size");
    }

    /// Waits until the command has ended, and gives its exit code. As a rule it has when its output has, which `drained` tells.
    pub(crate) async fn ended(&self, drained: &CancellationToken) -> Result<i32, HostFault> {
        let (mut pause, mut is_drained) = (LOOK_EVERY, false);
        loop {
            tokio::select! {
                () = drained.cancelled(), if !is_drained => (is_drained, pause) = (true, LOOK_SOON),
                () = tokio::time::sleep(pause) => pause = (2 * pause).min(LOOK_EVERY),
            }
            if let Some(code) = code_of(&inspect(&self.docker, &self.id).await?) {
                return Ok(code);
            }
        }
    }

    /// Ends the command, unless it has ended, and whatever it has left running.
    pub(crate) async fn kill(&self) {
        kill(self.kin.clone()).await;
        let over = CancellationToken::new();
        over.cancel();
        // Whoever watches over it has to have seen its end.
        if timeout(SETTLE, self.ended(&over)).await.is_ok() {
            let id = self.id.clone();
            if tokio::task::spawn_blocking(move || dismiss_monitors(&id)).await.is_err() {
                tracing::warn!("the monitors of a command inside a container were not looked for");
            }
        }
    }
}

async fn kill(kin: Kin) {
    let killing = tokio::task::spawn_blocking(move || kin.kill());
    if !killing.await.unwrap_or(false) {
        tracing::warn!(
            "something that a command left inside a container stays until the container ends"
        );
    }
}

async fn inspect(docker: &Docker, id: &str) -> Result<ExecInspectResponse, HostFault> {
    let found = docker.inspect_exec(id).await;
    found.map_err(|error| fault("inspect a command in a container", &error))
}

/// The exit code of a command that has ended.
fn code_of(found: &ExecInspectResponse) -> Option<i32> {
    let code = found.exit_code.filter(|_| found.running == Some(false))?;
    Some(i32::try_from(code).unwrap_or(i32::MAX))
}

/// What an engine says about a program that it could not start, which it puts where the program's own words would be; nothing
/// when these are that.
fn engines_words(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(&said[..said.len().min(WORDS_MAX)]);
    let is_engines = text.contains("OCI runtime") && text.contains("exec failed");
    is_engines.then(|| text.chars().filter(|c| !c.is_control()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_own_words_are_told_apart_from_a_commands() {
        for engines in [
            "OCI runtime exec failed: exec failed: unable to start container process: exec: \"x\": executable file not found in $PATH: unknown\r\n",
            "Error: runc: exec failed: unable to start container process: exec: \"x\": executable file not found in $PATH: OCI runtime attempted to invoke a command that was not found",
        ] {
            assert!(engines_words(engines.as_bytes()).is_some(), "{engines}");
        }
        assert_eq!(engines_words(b"sh: x: not found\n"), None);
    }

    #[test]
    fn a_command_has_an_exit_code_when_it_runs_no_more() {
        let found = |running, exit_code| ExecInspectResponse {
            running: Some(running),
            exit_code,
            ..Default::default()
        };
        // Podman says 0 while it runs, Docker nothing.
        assert_eq!(code_of(&found(true, Some(0))), None);
        assert_eq!(code_of(&found(true, None)), None);
        assert_eq!(code_of(&found(false, Some(7))), Some(7));
    }
}
