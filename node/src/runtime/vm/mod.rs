//! Machine tasks: virtual machines, run by QEMU.
//!
//! There are two kinds of [`Machine`]. A **kernel** machine is a directory with a `kernel` and an `initramfs`, which boots in
//! seconds and keeps its files in memory. A **disk** machine is the image of a bootable disk with cloud-init inside, such as
//! the cloud images that distributions publish, as they are. Both are a task like any other: arguments, environment,
//! standard streams, a work directory, an exit code.
//!
//! # What the node gives a machine
//!
//! | device | for |
//! |---|---|
//! | virtio disk, serial `oc-in`, read-only | a tar archive: `run/opencloud/…`, `work/…`, `tmp/…` and the read-only directories at their places |
//! | virtio disk, serial `oc-out` | takes a tar archive of `/work` in the end |
//! | virtio ports `org.opencloud.stdout`, `….stderr` | the task's output while it runs |
//! | virtio port `org.opencloud.control` | what becomes of the task, see below |
//! | first serial port | the console; its end is told when the machine fails |
//! | virtio disk (disk machines) | the image, below an overlay that ends with the task |
//! | disk labelled `cidata` (disk machines) | the NoCloud data source of cloud-init |
//! | virtio network interface (with a network or ports) | see `network`; a kernel machine finds it set up, others ask by DHCP |
//!
//! A machine unpacks `oc-in` over `/` and runs `/run/opencloud/run`, a shell script that does the rest. In a kernel machine
//! the node's own `/opencloud/init` does so: the node puts a second archive before the initramfs (kernels unpack one after
//! the other). It runs `/etc/opencloud/boot` first if the initramfs has that, and loads the virtio drivers with `modprobe`.
//! What the initramfs must have: `sh`, `tar`, `mount`, `mkfifo`, `env`, `cat`, `sleep`, `sync`, `date`, and `ip` where the machine has
//! a network (busybox has them all), and the drivers in it or in the kernel. In a disk machine cloud-init does so, after all
//! that the author's own user data asks for. A task without arguments runs the machine's own `/etc/opencloud/run`. The task starts in `/work` as root of its
//! machine, with the environment that it is given and a `PATH`.
//!
//! # The control port
//!
//! Lines from the machine to the node, and one in the other direction.
//!
//! ```text
//!  begin                       the task starts now; its time limit counts from here
//!  exit CODE self|memory|disk  it has ended; what the kernel or a full disk had to do with it
//!  done CODE TEXT              the archive is on `oc-out`, or why tar failed
//!
//!  resumed SECONDS             from the node: the machine was suspended, and this is the time now, since 1970
//! ```
//!
//! The machine sets its clock by the last, and adds a line with the time to `/run/opencloud/resumed`, by which a task can tell.
//!
//! Each output stream ends with a token that only this machine was told, so the node knows that it has seen all of it. After
//! `done` and both tokens the node ends the machine.
//!
//! **What a liar can do.** A machine's root can say anything here. Its words decide only how its own task is said to have
//! ended, within time limits that the node counts: [`VmOptions::boot_timeout`] until `begin`, the task's own until `exit`,
//! and one by the size of the disk until `done`. Meters count from the machine's first instruction, whatever it says. The
//! archive is taken as hostile (see `unpack`): nothing of it is ever written outside of the work directory.
//!
//! # What holds a machine
//!
//! QEMU runs without the right to start programs or gain privileges (its seccomp sandbox), as a user of its own where the
//! node is root, in a directory that it cannot write to, with no environment. A machine has no network, unless that is granted
//! or it has ports: then its QEMU runs in a network of its own, where only the node comes to the ports, and which leads
//! elsewhere only when that is granted (see `network`). Memory, processor
//! and processes are held by cgroups where the node may make them, sizes of files by the kernel. Images are looked at before
//! QEMU sees them, and one that names other files is refused (see `image`); what lies beyond its headers is read in a cage (see `tool`).
//!
//! # Suspending
//!
//! A machine whose task runs can be suspended: it has no process then, and later goes on in another one (see `suspend`). What
//! it has in memory is a file meanwhile, which counts as its task's disk. Time that it is suspended is no time of its task.
//!
//! Nothing outlives its task: a machine that ends leaves no process, file or cgroup on any way out; a machine whose node dies
//! is ended by its own watcher; and what is left even so is removed by the next [`VmRuntime::open`].

mod accel;
pub(super) mod archive;
mod args;
mod chan;
mod convert;
mod cpio;
mod drive;
mod formats;
mod gauge;
mod host;
mod image;
mod iso;
mod life;
mod lines;
mod network;
mod process;
mod qmp;
pub mod said;
mod seed;
mod stage;
mod store;
mod suspend;
mod tool;
pub(super) mod unpack;
mod verdict;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::Digest;
use tokio::sync::{Semaphore, watch};

pub use self::accel::Accel;
pub(crate) use self::chan::Console;
pub use self::convert::{ConvertError, Converter, Facts, Made, Wish};
pub use self::host::{Host, OpenError, VmOptions, WORKERS_MAX};
pub use self::image::{InvalidMachine, inspect_bytes};
use super::control::TaskControl;
use super::{Control as _, HostFault, PrepareError, Prepared, Running, Runtime, TaskBase};

/// Where a task finds its work directory.
pub const WORK_DIR: &str = "/work";
/// What a machine runs when its task has no arguments.
pub const OWN_COMMAND: &str = "/etc/opencloud/run";
/// Least memory of a machine in bytes; smaller wishes are raised to it, since no Linux of today boots in less.
pub const MEMORY_MIN_BYTES: u64 = 96 << 20;

/// What boots.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Machine {
    /// A directory with the files `kernel` and `initramfs`.
    Kernel {
        /// The directory.
        dir: PathBuf,
        /// What is added to the kernel's command line.
        append: String,
    },
    /// The image of a bootable disk: raw, qcow2, VHD, VHDX, VDI or VMDK.
    Disk {
        /// The file.
        image: PathBuf,
        /// The author's own user data for cloud-init, in any of its forms that are text.
        user_data: Option<String>,
        /// Keys that may log in, as in `authorized_keys`.
        ssh_keys: Vec<String>,
    },
}

/// A machine task. Without `args` it runs [`OWN_COMMAND`], and its environment gets a `PATH` when it has none. What is in `work` and
/// `tmp` is in [`WORK_DIR`] and `/tmp` of the machine when the task starts; of the first comes back what is there when the task
/// has ended by itself. The machine has as many processors as make the thousandths of a core, rounded up, and its memory rounded
/// down to a MiB, at least [`MEMORY_MIN_BYTES`]; a kernel machine keeps its files there, too. What it has in memory while it is
/// suspended counts as disk. Its time begins after the boot. Without network and ports it has no interface at all.
#[derive(Clone, Debug)]
pub struct VmTask {
    /// What it is to do.
    pub base: TaskBase,
    /// What boots.
    pub machine: Machine,
    /// BLAKE3 of the image's file, or of the manifest of a kernel machine's directory.
    pub digest: Digest,
    /// How long a machine that is cancelled has to shut itself down; with zero it is ended at once.
    pub grace: Duration,
    /// TCP ports that can be connected to, by [`Running::doorway`].
    pub ports: Vec<u16>,
}

/// Runs machine tasks.
#[derive(Clone)]
pub struct VmRuntime {
    host: Arc<Host>,
    store: Arc<store::Store>,
    /// One permit per machine that may run now.
    workers: Arc<Semaphore>,
    /// One permit per machine that may be suspended now.
    parked: Arc<Semaphore>,
    /// Control connections of the machines that run, by their tasks' names.
    running: Arc<Mutex<BTreeMap<String, Line>>>,
}

/// A machine's control connection.
type Line = Arc<tokio::sync::Mutex<qmp::Qmp>>;

/// Why a machine that runs could not be controlled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No machine of this name runs now.
    #[error("no machine `{name}` runs here now")]
    Unknown {
        /// The name that was given.
        name: String,
    },
    /// QEMU did not do it.
    #[error("cannot {action} the machine `{name}`: {detail}")]
    Failed {
        /// What was tried, as a verb.
        action: &'static str,
        /// The machine.
        name: String,
        /// What QEMU said, at most [`crate::runtime::DETAIL_LEN_MAX`] bytes.
        detail: String,
    },
}

impl fmt::Debug for VmRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmRuntime").field("host", &self.host).finish_non_exhaustive()
    }
}

impl VmRuntime {
    /// Looks for QEMU, finds out by booting a probe how it can run machines here, and removes what an earlier life of this
    /// node left behind.
    ///
    /// # Errors
    /// When QEMU is not there or cannot run a machine, or the directory cannot be used.
    pub async fn open(options: VmOptions) -> Result<Self, OpenError> {
        let workers = options.workers.clamp(1, WORKERS_MAX);
        let host = Arc::new(host::open(options).await?);
        let store = Arc::new(store::Store::new(Arc::clone(&host)));
        let workers = Arc::new(Semaphore::new(workers));
        let parked = Arc::new(Semaphore::new(suspend::SUSPENDED_MAX));
        Ok(Self { host, store, workers, parked, running: Arc::default() })
    }

    /// What runs the machines.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Starts a task and returns at once.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(&self, task: VmTask) -> Running {
        let control = Arc::new(TaskControl::default());
        let (done, end) = watch::channel(None);
        let (runtime, shared) = (self.clone(), Arc::clone(&control));
        tokio::spawn(async move {
            let exit = runtime.drive(&task, &shared).await;
            done.send_replace(Some((exit, shared.meters())));
        });
        Running { control, done: end }
    }

    /// Stops a machine's processors until [`Self::resume`]. It keeps its process and its memory, and its time limits go on
    /// meanwhile; see [`Doorway::suspend`](crate::runtime::Doorway::suspend) for more.
    ///
    /// # Errors
    /// When no machine of this name runs, or QEMU refuses.
    pub async fn pause(&self, name: &str) -> Result<(), ControlError> {
        self.control("pause", "stop", name).await
    }

    /// Lets a paused machine go on.
    ///
    /// # Errors
    /// When no machine of this name runs, or QEMU refuses.
    pub async fn resume(&self, name: &str) -> Result<(), ControlError> {
        self.control("resume", "cont", name).await
    }

    async fn control(
        &self,
        action: &'static str,
        command: &str,
        name: &str,
    ) -> Result<(), ControlError> {
        let found = self.running.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let line = found.ok_or_else(|| ControlError::Unknown { name: name.to_owned() })?;
        let done = line.lock().await.execute(command).await;
        done.map(drop).map_err(|error| {
            let (name, detail) = (name.to_owned(), super::bounded(error.to_string()));
            ControlError::Failed { action, name, detail }
        })
    }

    /// Makes a machine ready to start: checks it, and puts it where QEMU can read it, converted when need be.
    ///
    /// # Errors
    /// When the machine can never run here, or the host fails.
    pub async fn prepare(&self, artefact: &Path, digest: Digest) -> Result<Prepared, PrepareError> {
        Ok(self.store.load(artefact, digest).await?.1)
    }
}

impl Runtime for VmRuntime {
    type Task = VmTask;

    async fn prepare(&self, artefact: &Path, digest: Digest) -> Result<Prepared, PrepareError> {
        Self::prepare(self, artefact, digest).await
    }

    fn start(&self, task: VmTask) -> Running {
        Self::start(self, task)
    }
}

/// What went wrong on the host, as a fault.
fn fault(action: &'static str, detail: impl fmt::Display) -> HostFault {
    HostFault::Machine { action, detail: super::bounded(detail.to_string()) }
}
