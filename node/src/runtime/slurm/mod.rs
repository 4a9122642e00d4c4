//! Slurm tasks: programs that a site's cluster runs, with the node in front of it.
//!
//! A site joins the mesh with the cluster it has. The node asks Slurm by its command-line tools, as a user of the site; the
//! cluster decides when and on which of its machines a job runs. A task's files go over a directory that all machines share
//! ([`Options::dir`]), in which the task's work directory lies too.
//!
//! ```text
//!  stage ─► sbatch ─► pending ─► running ──► program ends ─► reading of meters ─► release ─► completing ─► outcome
//!                        │          ├─ cancelled, out of time, disk or memory ─► scancel ────────┘
//!                        └──────────┴─ preempted, cancelled by others, machine lost ─► fault
//! ```
//!
//! # What a task finds
//!
//! It starts in its work directory with exactly the arguments and environment that it names, and besides those `HOME` (the
//! work directory), `TMPDIR` (its private directory for what it does not keep), and `PATH`. A read-only directory is found
//! by a variable: `/data/in-1` is the path in `OPENCLOUD_MOUNT_DATA_IN_1` ([`mount_variable`]). Links in the work directory
//! would do as well for the program, but would be collected with its outputs, and are what outputs must not have: links that
//! leave the work directory.
//!
//! # Isolation
//!
//! Slurm gives little, so a node offers its cluster only when its owner says so. All tasks run as one user on machines that
//! others use as well. A task sees the machine's files, processes and network as that user does, `/tmp` is everybody's, and
//! where the cluster's tools are installed it may ask Slurm for things as that user, such as to cancel another task. It can
//! read other tasks' directories only if it guesses their names while they run. Memory is held by cgroups where the site has
//! them, else by watching; processors only if the site says so; the disk by measuring, with output counted; the number of
//! processes by a limit that all tasks on a machine share. The time limit is the node's, exact to a tick; Slurm is given one
//! that is a little longer, for the case that the node dies.
//!
//! # Meters
//!
//! Slurm keeps what a job has used only while it runs, unless the site runs `slurmdbd`. So a job whose program has ended
//! waits a moment (`script`) until the node has asked its `slurmstepd` (`sstat`). That prints whole seconds; within the last
//! second the time that the job's own shell has counted is believed, and nothing beyond. `sacct` is not asked: it shows the
//! same counters, later and not everywhere. A cluster that gathers nothing leaves the job's own word ([`Metering`]). Memory
//! over time is the most that was seen so far, times the time since, as Slurm does not say what is held now.
//!
//! Nothing outlives its task: a job is cancelled on every way out, and what a node that was killed left behind is cancelled
//! when its next life connects ([`SlurmRuntime::connect`]).

mod answer;
mod drive;
mod meter;
mod program;
mod script;
mod site;
mod stage;
mod tools;
mod watch;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use catalog::Digest;
use tokio::sync::{Semaphore, watch as channel};

pub use self::answer::Lost;
pub use self::program::InvalidProgram;
pub use self::script::mount_variable;
pub use self::site::{Cluster, ConnectError, Metering, Options};
pub use self::tools::ToolError;
use self::tools::Tools;
use self::watch::Watch;
use super::control::TaskControl;
use super::{
    Control as _, HostFault, Origin, PrepareError, Prepared, Running, Runtime, Shut, TaskBase,
};

/// Longest name of a task, an owner and what else Slurm is told, in bytes.
pub const NAME_LEN_MAX: usize = 128;
/// Least memory that a job is given, in bytes, for the shell around its program; smaller limits are raised to it.
pub const MEMORY_MIN_BYTES: u64 = 16 << 20;
/// Most jobs of a node at one time; a larger setting counts as this. All are asked for in one call.
pub const JOBS_MAX: usize = 4_096;

/// A program for the cluster. Its name has up to [`NAME_LEN_MAX`] letters, digits, `.`, `_` and `-`. Its directories lie where all
/// machines of the cluster and the user of jobs find them, `tmp` in `TMPDIR`; its mounts are readable to that user. The cluster
/// gives whole cores. Its output counts as disk, too, and no single file may be larger than what it may take. The network is the
/// machines'.
#[derive(Clone, Debug)]
pub struct SlurmTask {
    /// What it is to do.
    pub base: TaskBase,
    /// The program: an executable for the cluster's machines, or a script that begins with `#!`.
    pub program: PathBuf,
    /// The digest of that file.
    pub digest: Digest,
}

/// As whom jobs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
    /// Whether this is not the node's own user, so that files have to be handed over.
    is_other: bool,
}

/// Runs tasks on a cluster.
#[derive(Clone)]
pub struct SlurmRuntime {
    options: Arc<Options>,
    cluster: Arc<Cluster>,
    user: User,
    tools: Arc<Tools>,
    watch: Arc<Watch>,
    /// One permit per job that may be in the cluster's queue or run.
    jobs: Arc<Semaphore>,
}

impl fmt::Debug for SlurmRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlurmRuntime").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl SlurmRuntime {
    /// Connects to a cluster and ends jobs that an earlier life of the same owner left there.
    ///
    /// # Errors
    /// When an option is wrong, or no cluster answers, or not as one that can be used.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn connect(options: Options) -> Result<Self, ConnectError> {
        let (tools, user, cluster) = site::connect(&options).await?;
        site::remove_leftovers(&tools, &options, user).await?;
        let tools = Arc::new(tools);
        Ok(Self {
            watch: Watch::start(Arc::clone(&tools), cluster.metering != Metering::Claimed),
            jobs: Arc::new(Semaphore::new(options.jobs_max.clamp(1, JOBS_MAX))),
            options: Arc::new(options),
            cluster: Arc::new(cluster),
            user,
            tools,
        })
    }

    /// The cluster that runs the jobs.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Starts a task and returns at once.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(&self, task: SlurmTask) -> Running {
        let control = Arc::new(TaskControl::shut(Shut::Job));
        let (done, end) = channel::channel(None);
        let (runtime, shared) = (self.clone(), Arc::clone(&control));
        tokio::spawn(async move {
            let exit = runtime.drive(&task, &shared).await;
            done.send_replace(Some((exit, shared.meters())));
        });
        Running { control, done: end }
    }

    /// Checks that a file is a program that can run here, and the right one. There is nothing to prepare.
    ///
    /// # Errors
    /// When it can never run here, or cannot be read.
    pub async fn prepare(&self, program: &Path, digest: Digest) -> Result<Prepared, PrepareError> {
        let begun = Instant::now();
        let program = program.to_owned();
        let checked = tokio::task::spawn_blocking(move || program::check(&program, digest));
        checked.await.map_err(|_| HostFault::Died)??;
        Ok(Prepared { origin: Origin::Warm, elapsed: begun.elapsed() })
    }
}

impl Runtime for SlurmRuntime {
    type Task = SlurmTask;

    async fn prepare(&self, artefact: &Path, digest: Digest) -> Result<Prepared, PrepareError> {
        Self::prepare(self, artefact, digest).await
    }

    fn start(&self, task: SlurmTask) -> Running {
        Self::start(self, task)
    }
}

/// Whether a text can be part of a job's name, a file's name and an option, without meaning anything to Slurm.
fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !text.is_empty()
        && text.len() <= NAME_LEN_MAX
        && !text.starts_with(['.', '-'])
        && text.chars().all(is_plain)
}
