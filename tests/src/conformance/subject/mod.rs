//! Runtimes under test.

mod cgroups;
mod container;
mod kubernetes;
mod slurm;
pub mod vm;
mod wasi;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use node::runtime::Running;
use node::runtime::container::Unit;
use tokio::runtime::Handle;

use super::bench::Job;

/// The sockets of container engines, apart by colons, each named after its engine: `…/docker.sock:…/podman.sock`.
pub const ENGINES: &str = "OPENCLOUD_TEST_ENGINES";

/// Where `tests/machines` has put its machines.
pub const MACHINES: &str = "OPENCLOUD_TEST_MACHINES";

/// The `slurm.conf` of a cluster.
pub const CLUSTER: &str = "OPENCLOUD_TEST_SLURM";

/// What some runtimes cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Tasks can make processes and send signals.
    Processes,
    /// Tasks can ask for sockets, whether they get them or not.
    Sockets,
    /// Tasks without a network have no interface but the loopback.
    NoInterface,
    /// Tasks can be given a network.
    GrantedNetwork,
    /// That network leads to other machines, and is not the host's own.
    Elsewhere,
    /// Tasks see a kernel: modes, users, `/proc`.
    Kernel,
    /// Tasks cannot make user namespaces, behind which more of the kernel can be reached.
    NoUserNamespaces,
    /// Tasks can be given devices of the host.
    Devices,
    /// Tasks are held to a share of a processor.
    CpuShare,
    /// Tasks are held to a number of processes.
    BoundedProcesses,
    /// Tasks have files, users, a host name and a network apart from the host's and from each other's: what they are given is at the
    /// places that they ask for, and nothing else is there.
    Apart,
    /// Tasks are confined within a system that is not theirs: its root is read-only, its kernel's interfaces are shut, and
    /// its other processes are hidden.
    Confined,
    /// The directories of a task are the host's while it runs, so that the host sees at once what it writes there.
    SharedFiles,
    /// Files of a task take none of its memory.
    FilesOnDisk,
    /// Starting a task takes the same processor time whenever it is done, within some hundredths of a second, so that what
    /// the task itself has used can be told from the meter; and a task's own clock of that time stands still when it is not
    /// given a processor.
    EvenStarts,
    /// The meters of a task that runs are those of now, and a task that lasts a moment only is metered, too.
    PromptMeters,
    /// Output is handed on as it comes, and takes none of the task's disk.
    StreamedOutput,
    /// Files that have no name any more are found.
    NamelessFiles,
    /// Somebody beside the node can kill a task.
    Outside,
    /// Something of a task stays when the node is killed.
    OutlivesNode,
    /// What a killed node was just starting has started, or never will, when its next life begins.
    SettledStarts,
    /// A node's next life can begin while the last one goes on.
    TwoLives,
}

/// What a runtime needs beside what its tasks need, and what its starts cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Memory in bytes that the meter may show beyond a task's own, and beyond its limit.
    pub memory_overhead_bytes: u64,
    /// How much longer than others a task may take to start, and to be ended, on a busy machine.
    pub delay_max: Duration,
    /// Of so many tries of the same kind one is enough, because each is dear.
    pub one_try_in: usize,
}

impl Default for Figures {
    fn default() -> Self {
        Self { memory_overhead_bytes: 0, delay_max: Duration::ZERO, one_try_in: 1 }
    }
}

/// A runtime under test. It is one life of a node: dropping it is a shutdown, and a new one in the same place is its next life.
pub trait Subject: Send + Sync {
    /// Its name in the list of tests.
    fn name(&self) -> &str;
    /// Why it cannot have this; `None` when it has.
    fn lacks(&self, need: Need) -> Option<&'static str>;
    /// Its own figures.
    fn figures(&self) -> Figures {
        Figures::default()
    }
    /// The device of the host at this path, for a task of the probe, or why there is none. Only called with [`Need::Devices`].
    fn device(&self, path: &str) -> Result<Unit, String> {
        Err(format!("tasks of {} are given no device {path}", self.name()))
    }
    /// Starts a task of the probe.
    fn start(&self, job: &Job) -> Running;
    /// What the tasks of an owner have left on the host by now: containers, machines, networks, volumes, cgroups. Those of
    /// a task that runs are among them, and tell its name.
    fn left_by(&self, owner: &str) -> BTreeSet<String>;
    /// Kills a task without the runtime's knowledge, as an administrator might, and says whether it ran. Only called with
    /// [`Need::Outside`].
    fn kill_from_outside(&self, job: &Job) -> bool;
    /// What its own tools call the artefact of the probe, if they know it.
    fn artefact(&self) -> String {
        String::new()
    }
}

/// Where and as whom a runtime works.
#[derive(Clone, Debug)]
pub struct Place {
    /// Room for what it keeps.
    pub dir: PathBuf,
    /// Tells its tasks from those of other tests.
    pub owner: String,
    /// Where its own tasks run.
    pub tokio: Handle,
    /// Tasks that may run at a time.
    pub workers: usize,
}

/// Opens a runtime by its name.
///
/// # Errors
/// Why it is not to be had on this machine.
///
/// # Panics
/// When it should be there and does not work, or nobody knows the name.
pub fn open(name: &str, place: Place) -> Result<Box<dyn Subject>, String> {
    Ok(match name {
        "wasi" => Box::new(wasi::Wasi::open(place)?),
        vm::NAME | vm::FASTEST => Box::new(vm::Vm::open(name, place)?),
        slurm::NAME => Box::new(slurm::Slurm::open(&cluster()?, place)?),
        kubernetes::NAME => Box::new(kubernetes::Kubernetes::open(place)?),
        "docker" | "podman" => Box::new(container::Container::open(name, &socket(name)?, place)?),
        _ => panic!("no runtime is called `{name}`"),
    })
}

/// The socket of an engine.
///
/// # Errors
/// When there is none.
pub fn socket(engine: &str) -> Result<PathBuf, String> {
    let sockets = std::env::var(ENGINES).unwrap_or_default();
    if sockets.is_empty() {
        return Err("no container engine (tests/run starts Docker and Podman)".to_owned());
    }
    let mut sockets = sockets.split(':').map(Path::new);
    let found = sockets.find(|path| path.file_stem().is_some_and(|stem| stem == engine));
    found.map(Path::to_owned).ok_or_else(|| {
        format!("no {engine}.sock in {ENGINES} (tests/run starts what is installed)")
    })
}

/// The configuration of the test cluster.
///
/// # Errors
/// When there is none.
pub fn cluster() -> Result<PathBuf, String> {
    let config = std::env::var_os(CLUSTER).map(PathBuf::from);
    config.ok_or_else(|| "no cluster (tests/run starts one, as root)".to_owned())
}

/// What `tests/machines` has made.
///
/// # Errors
/// When it is not there.
pub fn machine(name: &str) -> Result<PathBuf, String> {
    let dir = std::env::var_os(MACHINES).unwrap_or_default();
    if dir.is_empty() {
        return Err("no machines (tests/run makes them, as root)".to_owned());
    }
    let path = Path::new(&dir).join(name);
    if path.exists() {
        return Ok(path);
    }
    Err(format!("no {name} in {MACHINES} (tests/machines makes it, or says why not)"))
}
