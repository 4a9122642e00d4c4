//! The runtimes of this node: opened at its start, chosen by a task's program.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use catalog::NodeId;
use scheduler::task::{Program, RuntimeKind, TaskSpec};

use super::{NodeConfig, StartError};
use crate::blobs::{BlobError, BlobStore};
use crate::runtime::{
    ContainerRuntime, ContainerTask, LogSink, Mount, Running, WasiRuntime, WasiTask,
};

/// What executes tasks here.
#[derive(Debug)]
pub(super) struct Runtimes {
    /// Names this node among those that share an engine with it.
    owner: String,
    wasi: WasiRuntime,
    /// There when the owner offers containers.
    containers: Option<ContainerRuntime>,
}

/// A task's own files on this host, and how it is called.
pub(super) struct Staged {
    /// Unique among this node's attempts.
    pub name: String,
    pub stdin: Option<PathBuf>,
    pub work: PathBuf,
    pub tmp: PathBuf,
    pub mounts: Vec<Mount>,
    pub logs: Arc<dyn LogSink>,
}

/// Why a task cannot be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotStarted {
    /// Its program is not as it should be on disk.
    #[error("the program cannot be laid out")]
    Program(#[from] BlobError),
    /// The runtime was offered by an earlier life of this node only.
    #[error("this node has no `{}` runtime any more", .0.as_str())]
    NoRuntime(RuntimeKind),
}

impl Runtimes {
    /// Those that the owner offers. At most `tasks_max` tasks of each run at a time.
    pub(super) async fn open(config: &NodeConfig, tasks_max: usize) -> Result<Self, StartError> {
        let id = NodeId::from(config.home.node_key().verifying_key());
        let owner = format!("opencloud-{id}");
        let wasi = WasiRuntime::new(config.home.dir().join("aot"), tasks_max)?;
        let containers = match &config.containers {
            Some(socket) => Some(ContainerRuntime::connect(socket, &owner, tasks_max).await?),
            None => None,
        };
        Ok(Self { owner, wasi, containers })
    }

    /// The words for them in the node's record.
    pub(super) fn words(&self) -> Vec<String> {
        let kinds =
            [Some(RuntimeKind::Wasi), self.containers.as_ref().map(|_| RuntimeKind::Container)];
        kinds.into_iter().flatten().map(|kind| kind.as_str().to_owned()).collect()
    }

    /// Starts a task whose inputs are laid out.
    pub(super) async fn start(
        &self,
        blobs: &BlobStore,
        spec: &TaskSpec,
        staged: Staged,
    ) -> Result<Running, NotStarted> {
        let Staged { name, stdin, work, tmp, mounts, logs } = staged;
        let timeout = Duration::from_millis(spec.timeout_ms);
        Ok(match &spec.program {
            Program::Wasi { module, fuel } => self.wasi.start(WasiTask {
                module: blobs.verified_path(module.digest).await?,
                digest: module.digest,
                argv: spec.argv.clone(),
                env: spec.env.clone(),
                stdin,
                work,
                tmp,
                mounts,
                memory_bytes: spec.needs.memory_bytes,
                disk_bytes: spec.needs.disk_bytes,
                network: spec.needs.network,
                timeout,
                fuel: *fuel,
                logs,
            }),
            Program::Container { image, entrypoint } => {
                let containers = self.containers.as_ref();
                let containers = containers.ok_or(NotStarted::NoRuntime(spec.program.runtime()))?;
                containers.start(ContainerTask {
                    name: format!("{}-{name}", self.owner),
                    image: blobs.shared_dir(image).await?,
                    digest: image.digest,
                    entrypoint: entrypoint.clone(),
                    args: spec.argv.clone(),
                    env: spec.env.clone(),
                    stdin,
                    work,
                    tmp,
                    mounts,
                    cpu_milli: spec.needs.cpu_milli,
                    memory_bytes: spec.needs.memory_bytes,
                    disk_bytes: spec.needs.disk_bytes,
                    network: spec.needs.network,
                    timeout,
                    logs,
                })
            }
            Program::Vm { .. } | Program::Slurm { .. } => {
                return Err(NotStarted::NoRuntime(spec.program.runtime()));
            }
        })
    }
}
