//! How a container's end is awaited, brought about and cleared away.
//!
//! Engines differ in the errors of containers that are just ending, so after an error the container itself is looked at.

use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::models::ContainerState;
use bollard::query_parameters::KillContainerOptions;
use futures::StreamExt as _;

use super::drive::TICK;
use super::{ContainerRuntime, fault, host};
use crate::runtime::HostFault;
use crate::runtime::cgroup::Own;

/// How long the engine may take to end and remove a container before it is left to the next start.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(60);
/// Tries to kill, inspect or remove a container: an engine under load is sometimes still busy with its start or end.
const TRIES: u32 = 10;

impl ContainerRuntime {
    /// Returns when the container has ended.
    pub(super) async fn ended(&self, id: &str) -> Result<(), HostFault> {
        loop {
            let mut waiting = Box::pin(self.docker.wait_container(id, None));
            match waiting.next().await {
                // The code is asked for afterwards: engines differ in what they say here.
                Some(Ok(_) | Err(EngineError::DockerContainerWaitError { .. })) => return Ok(()),
                // It runs longer than a call may take.
                Some(Err(EngineError::RequestTimeoutError)) => {}
                Some(Err(error)) => return Err(fault("wait for a container", &error)),
                None => {
                    let detail = "the engine ended the answer early".to_owned();
                    return Err(HostFault::Container { action: "wait for a container", detail });
                }
            }
        }
    }

    /// What the engine knows of a container.
    pub(super) async fn state(&self, id: &str) -> Result<ContainerState, HostFault> {
        let mut n = 0;
        loop {
            n += 1;
            match self.docker.inspect_container(id, None).await {
                Ok(found) => return Ok(found.state.unwrap_or_default()),
                // Podman has a state more, between running and exited.
                Err(EngineError::JsonDataError { .. }) if n < TRIES => {
                    tokio::time::sleep(TICK).await
                }
                Err(error) => return Err(fault("inspect a container", &error)),
            }
        }
    }

    /// Ends a container, unless it has ended by itself, and returns when it has.
    pub(super) async fn kill(&self, id: &str) -> Result<(), HostFault> {
        let mut n = 0;
        loop {
            n += 1;
            let options = KillContainerOptions { signal: "SIGKILL".to_owned() };
            let Err(error) = self.docker.kill_container(id, Some(options)).await else { break };
            if self.state(id).await.is_ok_and(|state| state.running == Some(false)) {
                break;
            }
            if n == TRIES {
                return Err(fault("stop a container", &error));
            }
            tokio::time::sleep(TICK).await;
        }
        self.ended(id).await
    }

    /// Removes a container with all that it started, and says whether it is gone. What an engine cannot remove now is removed
    /// at the node's next start.
    pub(super) async fn remove(&self, id: &str, own: Option<&Own>) -> bool {
        let removing = async {
            for n in 1..=TRIES {
                let removed = self.docker.remove_container(id, Some(host::removal())).await;
                match removed.or_else(host::ignore_absent) {
                    Ok(()) => return true,
                    Err(error) => {
                        tracing::warn!(%id, %error, "a container cannot be removed yet");
                        tokio::time::sleep(TICK * n).await;
                    }
                }
            }
            false
        };
        if !tokio::time::timeout(REMOVE_TIMEOUT, removing).await.unwrap_or(false) {
            tracing::error!(%id, "a container is left behind; the next start of the node removes it");
            return false;
        }
        // The last of its processes, or Podman's monitor, may still be leaving.
        for n in 1..=TRIES {
            if own.is_none_or(Own::remove) {
                return true;
            }
            if let Some(own) = own.filter(|_| n > TRIES / 2) {
                // Monitors of commands that were started inside do not leave for minutes.
                own.end();
            }
            tokio::time::sleep(TICK).await;
        }
        tracing::warn!(%id, "a cgroup is left behind; the next start of the node removes it");
        true
    }
}
