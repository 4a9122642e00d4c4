//! Runtimes under test.

mod container;
mod wasi;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use node::runtime::Running;
use tokio::runtime::Handle;

use super::bench::Job;

/// The sockets of container engines, apart by colons, each named after its engine: `…/docker.sock:…/podman.sock`.
pub const ENGINES: &str = "OPENCLOUD_TEST_ENGINES";

/// What some runtimes cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Tasks can make processes and send signals.
    Processes,
    /// Tasks can ask for sockets, whether they get them or not.
    Sockets,
    /// Tasks can be given a network.
    GrantedNetwork,
    /// Tasks see a kernel: modes, users, `/proc`.
    Kernel,
    /// Tasks cannot make user namespaces, behind which more of the kernel can be reached.
    NoUserNamespaces,
    /// Tasks are held to a share of a processor.
    CpuShare,
    /// Somebody beside the node can kill a task.
    Outside,
    /// Something of a task goes on when the node is killed.
    OutlivesNode,
}

/// A runtime under test. It is one life of a node: dropping it is a shutdown, and a new one in the same place is its next life.
pub trait Subject: Send + Sync {
    /// Its name in the list of tests.
    fn name(&self) -> &str;
    /// Why it cannot have this; `None` when it has.
    fn lacks(&self, need: Need) -> Option<&'static str>;
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
