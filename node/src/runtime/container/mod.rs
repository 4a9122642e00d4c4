//! Container tasks: OCI images, run by Docker or Podman through their local socket.
//!
//! A task gets the root file system of its image, read-only, and three things that are its own: the work directory
//! (`/work`, where it starts), `/tmp`, and its standard streams. It has no network unless that is granted, no capability, no
//! way to gain one, no device beyond the usual pseudo-devices and those it is given ([`Devices`]), and runs as nobody where
//! the node is root, else as the node's own user. Processor, memory and number of processes are held by cgroups, the disk by
//! measuring.
//!
//! ```text
//!  prepare: image here? ─no─► load ─┐
//!     └──────────yes────────────────┴─► create ─► attach ─► start ─► wait ─► inspect ─► remove
//! ```
//!
//! Nothing outlives its task: the container is removed on every way out, and what a node that was killed left behind is
//! removed when its next life connects ([`ContainerRuntime::connect`]). Removal by the engine itself (`--rm`) is not used,
//! because then Podman forgets the exit code.
//!
//! Two organisations that share a kernel trust it more than they trust a WebAssembly sandbox, so a node offers containers
//! only when its owner says so.

mod device;
mod drive;
mod ending;
mod host;
mod image;
mod inside;
mod streams;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bollard::Docker;
use catalog::Digest;
use tokio::sync::{Semaphore, watch};

pub use self::device::{DeviceError, Devices, Unit};
pub(crate) use self::host::may_enter_networks;
pub use self::host::{ConnectError, Engine};
pub use self::image::InvalidImage;
pub(in crate::runtime) use self::image::{Blob, OpenImage};
pub(crate) use self::inside::{Exec, Inside, Started};
pub(crate) use self::streams::{Input, Output};
use super::control::TaskControl;
use super::{Control as _, HostFault, PrepareError, Prepared, Running, Runtime, TaskBase};

/// Where a task finds its work directory.
pub const WORK_DIR: &str = "/work";
/// Most processes and threads of a container; one more and the task's `fork` fails.
pub const PIDS_MAX: i64 = 512;
/// Least memory that the engines take as a limit, in bytes; smaller limits are raised to it.
pub const MEMORY_MIN_BYTES: u64 = 6 << 20;

/// A container task. Without `args` it has the image's own command. Its environment comes on top of the image's, its directories
/// are [`WORK_DIR`] and `/tmp`, its memory counts the page cache, and there is no swap. The network is the engine's default.
#[derive(Clone, Debug)]
pub struct ContainerTask {
    /// What it is to do.
    pub base: TaskBase,
    /// The image: a directory in the OCI image layout.
    pub image: PathBuf,
    /// The digest of that directory's manifest.
    pub digest: Digest,
    /// Replaces the image's entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Devices of the host that it holds alone.
    pub devices: Vec<Unit>,
    /// Whether its ports may be connected to, by [`Running::doorway`]. It may listen on any port, and the network it has is
    /// no other for that.
    pub has_ports: bool,
}

/// Runs container tasks.
#[derive(Clone)]
pub struct ContainerRuntime {
    docker: Docker,
    engine: Arc<Engine>,
    /// Held while an image is loaded, so that it is loaded once.
    loading: Arc<tokio::sync::Mutex<()>>,
    /// One permit per container that may run now.
    workers: Arc<Semaphore>,
    /// Devices of containers that do not go: nobody else is given them in this life of the node. No unit is in it twice.
    withdrawn: Arc<Mutex<Vec<Unit>>>,
}

impl fmt::Debug for ContainerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerRuntime").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl ContainerRuntime {
    /// Connects to the engine behind a UNIX socket and removes containers that an earlier life of `owner` left there. At most
    /// `workers` containers (at least one) run at a time; further ones wait for their turn.
    ///
    /// # Errors
    /// When no engine answers there, or not as one that can be used.
    pub async fn connect(socket: &Path, owner: &str, workers: usize) -> Result<Self, ConnectError> {
        let (docker, engine) = host::connect(socket, owner).await?;
        host::remove_leftovers(&docker, &engine).await?;
        Ok(Self {
            docker,
            engine: Arc::new(engine),
            loading: Arc::default(),
            workers: Arc::new(Semaphore::new(workers.clamp(1, Semaphore::MAX_PERMITS))),
            withdrawn: Arc::default(),
        })
    }

    fn withdrawn(&self) -> MutexGuard<'_, Vec<Unit>> {
        self.withdrawn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks whether tasks can be given these devices, and follows links to them.
    ///
    /// # Errors
    /// The first device that is none, that tasks may not open, or that this engine cannot find.
    pub fn open_devices(&self, devices: Devices) -> Result<Devices, DeviceError> {
        devices.open(&self.engine)
    }

    /// What runs the containers.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Starts a task and returns at once.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(&self, task: ContainerTask) -> Running {
        let control = Arc::new(TaskControl::default());
        let (done, end) = watch::channel(None);
        let (runtime, shared) = (self.clone(), Arc::clone(&control));
        tokio::spawn(async move {
            let exit = runtime.drive(&task, &shared).await;
            done.send_replace(Some((exit, shared.meters())));
        });
        Running { control, done: end }
    }

    /// Makes an image ready to start: in the engine's own store.
    ///
    /// # Errors
    /// When the image can never run here, or the host fails.
    pub async fn prepare(&self, image: &Path, digest: Digest) -> Result<Prepared, PrepareError> {
        Ok(self.load(image, digest).await?.1)
    }
}

impl Runtime for ContainerRuntime {
    type Task = ContainerTask;

    async fn prepare(&self, artefact: &Path, digest: Digest) -> Result<Prepared, PrepareError> {
        Self::prepare(self, artefact, digest).await
    }

    fn start(&self, task: ContainerTask) -> Running {
        Self::start(self, task)
    }
}

/// What the engine said, as a fault of the host.
fn fault(action: &'static str, error: &bollard::errors::Error) -> HostFault {
    HostFault::Container { action, detail: super::bounded(error.to_string()) }
}
