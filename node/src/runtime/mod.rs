//! Runtimes: what executes a task, behind one trait.
//!
//! A runtime prepares an artefact (a module, an image), starts a task in isolation, streams its logs, meters it and stops
//! it. It owns threads, processes and files of running tasks; it decides nothing about who may run, where, or at what
//! price. [`wasi`] is always there; [`container`], [`vm`] and [`slurm`] are there when the owner offers them;
//! [`kubernetes`] is another way to run the tasks of [`container`]. Each implements the same [`Runtime`].

mod cgroup;
pub mod container;
mod control;
mod disk;
mod kin;
pub mod kubernetes;
pub mod netns;
pub mod slurm;
mod steer;
pub mod vm;
pub mod wasi;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use catalog::Digest;
use fabric::TunnelEnd;
use tokio::sync::watch;

use self::steer::{Reins, Wish};

pub use container::{
    ConnectError, ContainerRuntime, ContainerTask, DeviceError, Devices, InvalidImage,
};
pub use kubernetes::KubernetesRuntime;
pub use netns::NetnsError;
pub use slurm::{InvalidProgram, SlurmRuntime, SlurmTask};
pub use steer::SteerError;
pub use vm::{InvalidMachine, VmRuntime, VmTask};
pub use wasi::{InvalidModule, ModuleKind, WasiRuntime, WasiTask};

/// What every runtime does. Starting hands out a [`Running`], through which a task is metered, stopped and awaited.
pub trait Runtime: Send + Sync {
    /// All that one task of this runtime needs, with its inputs already staged on disk.
    type Task: Send;

    /// Makes an artefact ready to start, so that the first task does not pay for it: compiles, unpacks or pulls.
    /// Cancel-safe: work that has begun goes on and is kept.
    ///
    /// # Errors
    /// When the artefact can never run here, or the host fails.
    fn prepare(
        &self,
        artefact: &Path,
        digest: Digest,
    ) -> impl Future<Output = Result<Prepared, PrepareError>> + Send;

    /// Starts a task and returns at once. Whatever goes wrong from here on is the task's [`Exit`].
    fn start(&self, task: Self::Task) -> Running;
}

/// A directory of the host that a task may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it lies on the host.
    pub host: PathBuf,
    /// Where the task finds it, such as `/share`.
    pub guest: String,
}

/// What a task is to do and within which limits, with its inputs staged: what all runtimes are told alike.
#[derive(Clone)]
pub struct TaskBase {
    /// Names the task on the host; unique among this node's tasks.
    pub name: String,
    /// The program and its arguments, as the runtime of the task counts them.
    pub args: Vec<String>,
    /// Environment. Nothing of the host's is passed on.
    pub env: BTreeMap<String, String>,
    /// File given as standard input; empty input without it.
    pub stdin: Option<PathBuf>,
    /// Private directory, where the task starts, and where its outputs are looked for.
    pub work: PathBuf,
    /// Private directory for what is temporary.
    pub tmp: PathBuf,
    /// Directories that may only be read.
    pub mounts: Vec<Mount>,
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Most memory in bytes.
    pub memory_bytes: u64,
    /// Most bytes by which `work` and `tmp` together may grow.
    pub disk_bytes: u64,
    /// Whether it reaches other machines; otherwise it has no network.
    pub network: bool,
    /// Longest wall-clock time from the start of the program.
    pub timeout: Duration,
    /// Takes standard output and error.
    pub logs: Arc<dyn LogSink>,
}

impl fmt::Debug for TaskBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskBase")
            .field("name", &self.name)
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

/// Which of a task's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes a task's output while it runs.
///
/// Called on the task's own thread, so it must be quick, leave files to other threads (the task is billed for what its
/// thread writes), and bound what it keeps: a task may write without end.
pub trait LogSink: Send + Sync {
    /// Takes the next bytes of a stream, in order; chunks end anywhere, also inside a character.
    fn write(&self, stream: Stream, bytes: &[u8]);
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// It ended by itself; 0 is success.
    Code(i32),
    /// It did what the sandbox forbids or cannot do.
    Trap(Trap),
    /// It ran longer than its wall-clock limit.
    Timeout,
    /// It failed after it had met its memory limit.
    OutOfMemory,
    /// It wrote more than its disk quota.
    DiskQuota,
    /// It was stopped on request.
    Cancelled,
    /// The artefact can never run on this runtime; another try ends the same way.
    Invalid(InvalidModule),
    /// The image can never run on this runtime; another try ends the same way.
    InvalidImage(InvalidImage),
    /// The machine can never run on this runtime; another try ends the same way.
    InvalidMachine(InvalidMachine),
    /// The program can never run on this runtime; another try ends the same way.
    InvalidProgram(InvalidProgram),
    /// The host failed, not the task; another try may succeed.
    Host(HostFault),
}

impl Exit {
    /// Whether the task ended by itself with code 0.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self, Self::Code(0))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Trap(trap) => write!(f, "trap: {trap}"),
            Self::Timeout => f.write_str("ran longer than its time limit"),
            Self::OutOfMemory => f.write_str("needed more than its memory limit"),
            Self::DiskQuota => f.write_str("wrote more than its disk quota"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Invalid(why) => write!(f, "{why}"),
            Self::InvalidImage(why) => write!(f, "{why}"),
            Self::InvalidMachine(why) => write!(f, "{why}"),
            Self::InvalidProgram(why) => write!(f, "{why}"),
            Self::Host(fault) => write!(f, "{fault}"),
        }
    }
}

/// A guest stopped by the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap {
    /// What it did.
    pub kind: TrapKind,
    /// The message and the guest's call stack, at most [`DETAIL_LEN_MAX`] bytes.
    pub detail: String,
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail.lines().last().unwrap_or("unknown"))
    }
}

/// What a trapped guest did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TrapKind {
    /// Ran into an `unreachable` instruction: an abort, a failed assertion, a panic.
    Unreachable,
    /// Used up its call stack.
    StackOverflow,
    /// Touched memory outside its own.
    MemoryOutOfBounds,
    /// Called a function through a wrong pointer or a pointer of another type.
    BadCall,
    /// Divided by zero, overflowed or converted a number out of range.
    Arithmetic,
    /// Threw an exception that nobody caught.
    Exception,
    /// Called the host in a way that the host refuses, such as with too many open files.
    HostCall,
    /// Anything else; the detail says what.
    Other,
}

/// The host could not do its part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostFault {
    /// A file or directory that the task needs could not be used.
    #[error("cannot {action} `{}`: {kind}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        kind: io::ErrorKind,
    },
    /// The operating system gave no thread or timer.
    #[error("cannot start a thread for the task: {kind}")]
    Thread {
        /// Why not.
        kind: io::ErrorKind,
    },
    /// The compiler or sandbox could not be set up.
    #[error("cannot set up the webassembly engine: {detail}")]
    Engine {
        /// The engine's message, at most [`DETAIL_LEN_MAX`] bytes.
        detail: String,
    },
    /// The container engine did not do what it was asked.
    #[error("the container engine cannot {action}: {detail}")]
    Container {
        /// What was tried, as a verb.
        action: &'static str,
        /// The engine's message, at most [`DETAIL_LEN_MAX`] bytes.
        detail: String,
    },
    /// QEMU did not do what it was asked.
    #[error("cannot {action}: {detail}")]
    Machine {
        /// What was tried, as a verb.
        action: &'static str,
        /// What QEMU or the operating system said, at most [`DETAIL_LEN_MAX`] bytes.
        detail: String,
    },
    /// The cluster did not do what it was asked.
    #[error("the cluster cannot {action}: {detail}")]
    Slurm {
        /// What was tried, as a verb.
        action: &'static str,
        /// Slurm's message, at most [`DETAIL_LEN_MAX`] bytes.
        detail: String,
    },
    /// The cluster ended the job before the task did.
    #[error("the cluster lost job {job}: {why}")]
    Job {
        /// Slurm's number of the job.
        job: u64,
        /// What happened to it.
        why: slurm::Lost,
    },
    /// The cluster of pods, or its registry, did not do what it was asked.
    #[error("the cluster cannot {action}: {detail}")]
    Kubernetes {
        /// What was tried, as a verb.
        action: &'static str,
        /// What was said, at most [`DETAIL_LEN_MAX`] bytes.
        detail: String,
    },
    /// The cluster ended the pod before the task did.
    #[error("the cluster lost pod {pod}: {why}{detail}")]
    Pod {
        /// Its name.
        pod: String,
        /// What happened to it.
        why: kubernetes::Lost,
        /// In the cluster's words, in parentheses; empty when it said nothing.
        detail: String,
    },
    /// A thread of the runtime died; the task's end is not known.
    #[error("the runtime's thread for the task died; this is a defect of the node")]
    Died,
}

impl HostFault {
    fn file(action: &'static str, path: &Path, error: &io::Error) -> Self {
        Self::File { action, path: path.to_owned(), kind: error.kind() }
    }
}

/// Why an artefact is not ready to start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// It can never run here.
    #[error(transparent)]
    Invalid(#[from] InvalidModule),
    /// The image can never run here.
    #[error(transparent)]
    InvalidImage(#[from] InvalidImage),
    /// The machine can never run here.
    #[error(transparent)]
    InvalidMachine(#[from] InvalidMachine),
    /// The program can never run here.
    #[error(transparent)]
    InvalidProgram(#[from] InvalidProgram),
    /// The host failed; another try may succeed.
    #[error(transparent)]
    Host(#[from] HostFault),
}

impl From<PrepareError> for Exit {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::Invalid(why) => Self::Invalid(why),
            PrepareError::InvalidImage(why) => Self::InvalidImage(why),
            PrepareError::InvalidMachine(why) => Self::InvalidMachine(why),
            PrepareError::InvalidProgram(why) => Self::InvalidProgram(why),
            PrepareError::Host(fault) => Self::Host(fault),
        }
    }
}

/// Why a runtime is not available.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// Its directory cannot be used.
    #[error("cannot {action} `{}` for compiled modules; check its owner, mode and free space", path.display())]
    Directory {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes")]
    Random,
}

/// Longest text taken over from a compiler or sandbox, in bytes; the rest is cut off.
pub const DETAIL_LEN_MAX: usize = 2048;

/// Cuts a text to [`DETAIL_LEN_MAX`] bytes at a character's edge.
fn bounded(mut text: String) -> String {
    if text.len() > DETAIL_LEN_MAX {
        let end = (0..=DETAIL_LEN_MAX).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// How an artefact came to be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// It was in memory.
    Warm,
    /// It was read from the cache on disk.
    Cached,
    /// It was compiled quickly; a better version is made in the background.
    Quick,
    /// It was compiled in full.
    Cold,
}

/// What making an artefact ready took. It is not part of a task's [`Meters`]: set-up is billed apart, to whom it was done
/// for; others who waited for the same artefact found it [`Origin::Warm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Where it came from.
    pub origin: Origin,
    /// Wall-clock time of making it ready, without waiting for a turn.
    pub elapsed: Duration,
}

/// What a task has used since its first instruction. Counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meters {
    /// Processor time in microseconds.
    pub cpu_us: u64,
    /// Wall-clock time in microseconds, without that of [`Self::suspended_us`].
    pub elapsed_us: u64,
    /// Wall-clock time in microseconds that it was suspended: then it has its files and nothing else.
    pub suspended_us: u64,
    /// Most memory held at one time, in bytes.
    pub memory_peak_bytes: u64,
    /// Memory held over time, in KiB seconds.
    pub memory_kib_s: u64,
    /// Most bytes by which the task's own directories had grown.
    pub storage_bytes: u64,
    /// Bytes read from and written to files and standard streams.
    pub io_bytes: u64,
    /// Bytes that came in from the network.
    pub net_in_bytes: u64,
    /// Bytes that went out to the network.
    pub net_out_bytes: u64,
    /// Deterministic instruction count; 0 unless it was asked for.
    pub fuel: u64,
}

/// A runtime's side of a running task.
trait Control: Send + Sync {
    /// What the task has used so far.
    fn meters(&self) -> Meters;
    /// How its artefact was made ready; `None` until it is.
    fn prepared(&self) -> Option<Prepared>;
    /// How long its sandbox took to be set up and started; `None` until it is.
    fn started_in(&self) -> Option<Duration>;
    /// Whether its artefact is being made ready now: it waits for its turn no longer, and does not run yet.
    fn is_preparing(&self) -> bool;
    /// Asks it to stop; a task that has ended stays as it ended.
    fn cancel(&self);
    /// The way to its ports; `None` until it runs, and of a task whose ports nobody may connect to.
    fn door(&self) -> Option<Door> {
        None
    }
    /// The way inside, or why there is none.
    fn inside(&self) -> Result<Inside, Shut> {
        Err(Shut::Nothing)
    }
    /// Where it takes orders; `None` until it runs, and of a task that cannot be suspended.
    fn reins(&self) -> Option<Reins> {
        None
    }
}

/// The way inside a task that runs.
#[derive(Clone, Debug)]
pub(crate) enum Inside {
    /// A container, in which commands can be started.
    Container(container::Inside),
    /// A machine, which has a console.
    Machine(vm::Console),
}

/// Why nobody gets inside a task, whoever it is: for the one who asks, so each text fits into the refusal of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Shut {
    /// It does not run yet.
    #[error("the task is still starting: try again in a moment")]
    Starting,
    /// Its container is a pod.
    #[error(
        "the task is a pod of a Kubernetes cluster, in which its node starts no commands for others: `opencloud run logs` shows what it writes, and a binding sends the step to a node with an engine of its own"
    )]
    Pod,
    /// It is a job.
    #[error(
        "the task is a job of a Slurm cluster, whose machines its node does not get into: `opencloud run logs` shows what it writes"
    )]
    Job,
    /// The engine names no process that this node sees.
    #[error(
        "the task's node sees no process of its container, so it could not end what is started there: the container has just ended, or its engine runs apart from the node, on another machine"
    )]
    Unseen,
    /// The runtime has no inside.
    #[error(
        "the task is one program alone with nothing inside: `opencloud run logs` shows what it writes"
    )]
    Nothing,
}

/// The way to the ports of a task that runs.
#[derive(Clone, Debug)]
pub struct Door(Way);

#[derive(Clone, Debug)]
enum Way {
    /// By the loopback of a network of its own.
    Network(netns::Process),
    /// As before, of a machine: where in that network the machine's own ports are.
    Forwards(netns::Process, Arc<BTreeMap<u16, u16>>),
    /// Inside this node.
    Guest(wasi::serve::Entrance),
}

impl Door {
    fn of_process(process: netns::Process) -> Self {
        Self(Way::Network(process))
    }

    fn of_machine(process: netns::Process, forwards: BTreeMap<u16, u16>) -> Self {
        Self(Way::Forwards(process, Arc::new(forwards)))
    }

    fn of_guest(entrance: wasi::serve::Entrance) -> Self {
        Self(Way::Guest(entrance))
    }

    /// Connects to a TCP port on which the task listens, on its loopback or everywhere; of a machine, everywhere. Of a component
    /// that answers requests, every port is one.
    ///
    /// # Errors
    /// See [`DoorError`].
    pub async fn connect(&self, port: u16) -> Result<Box<dyn TunnelEnd>, DoorError> {
        Ok(match &self.0 {
            Way::Network(process) => Box::new(process.connect(port).await?),
            Way::Forwards(process, forwards) => {
                let refused = NetnsError::Refused { pid: process.pid(), port };
                let at = forwards.get(&port).copied().ok_or(refused)?;
                Box::new(process.connect(at).await?)
            }
            Way::Guest(entrance) => Box::new(entrance.connect()?),
        })
    }

    /// Whether connections are taken before the task has taken them. One that it does not take ends without a word.
    #[must_use]
    pub const fn is_forwarded(&self) -> bool {
        matches!(self.0, Way::Forwards(..))
    }
}

/// Why there is no connection to a task.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoorError {
    /// Its network cannot be reached, or nobody listens there.
    #[error(transparent)]
    Network(#[from] NetnsError),
    /// It has as many connections as it takes.
    #[error("the task has as many connections as it takes")]
    Busy,
    /// It is not there any more.
    #[error("the task has ended")]
    Ended,
}

/// Where a task's [`Door`] will be, and where it takes orders.
#[derive(Clone)]
pub struct Doorway(Arc<dyn Control>);

impl Doorway {
    /// The door, if the task runs by now.
    #[must_use]
    pub fn door(&self) -> Option<Door> {
        self.0.door()
    }

    /// The way inside, if the task runs by now and has one; else why not.
    pub(crate) fn inside(&self) -> Result<Inside, Shut> {
        self.0.inside()
    }

    /// Suspends the task: it stands still, and gives its processor, its memory and its place among those that run back, until
    /// [`Self::resume`]. Its files, its ports' numbers and its time limit stay as they are. Cancel-safe: what has begun goes on.
    ///
    /// # Errors
    /// See [`SteerError`]; the task goes on then, unless it has ended.
    pub async fn suspend(&self) -> Result<(), SteerError> {
        self.steer(Wish::Suspend).await
    }

    /// Lets a suspended task go on where it was. Connections that it had are gone. Cancel-safe: what has begun goes on.
    ///
    /// # Errors
    /// See [`SteerError`]; with [`SteerError::NoRoom`] the task stays suspended, and with [`SteerError::Failed`] it ends.
    pub async fn resume(&self) -> Result<(), SteerError> {
        self.steer(Wish::Resume).await
    }

    async fn steer(&self, wish: Wish) -> Result<(), SteerError> {
        self.0.reins().ok_or(SteerError::NotYet)?.order(wish).await
    }

    /// The door, once the task runs. A task that never does, or whose ports nobody may connect to, has none.
    pub async fn opened(&self) -> Door {
        loop {
            if let Some(door) = self.door() {
                return door;
            }
            tokio::time::sleep(DOOR_PAUSE).await;
        }
    }
}

impl fmt::Debug for Doorway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Doorway").field(&self.door()).finish()
    }
}

/// Pause between two looks whether a task runs by now.
const DOOR_PAUSE: Duration = Duration::from_millis(20);

/// A handle on one started task. Dropping it cancels the task.
pub struct Running {
    control: Arc<dyn Control>,
    done: watch::Receiver<Option<(Exit, Meters)>>,
}

impl Running {
    /// Asks the task to stop; returns at once. [`Self::wait`] then ends with [`Exit::Cancelled`], unless the task was
    /// faster.
    pub fn cancel(&self) {
        self.control.cancel();
    }

    /// Waits until the task has ended, and says how and what it used in all. Cancel-safe; may be called again.
    pub async fn wait(&mut self) -> (Exit, Meters) {
        let end = self.done.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        end.unwrap_or_else(|| (Exit::Host(HostFault::Died), self.control.meters()))
    }

    /// What the task has used so far.
    #[must_use]
    pub fn meters(&self) -> Meters {
        self.control.meters()
    }

    /// How the task's artefact was made ready; `None` until it is.
    #[must_use]
    pub fn prepared(&self) -> Option<Prepared> {
        self.control.prepared()
    }

    /// How long the task's sandbox took to be made out of the ready artefact, such as an instance out of a module; `None`
    /// until it is there.
    #[must_use]
    pub fn started_in(&self) -> Option<Duration> {
        self.control.started_in()
    }

    /// How long the task took to be set up so far: its artefact made ready and its sandbox made out of it. Only grows; 0 while
    /// the artefact is made ready, and while the task waits.
    #[must_use]
    pub fn set_up(&self) -> Duration {
        let prepared = self.prepared().map_or(Duration::ZERO, |prepared| prepared.elapsed);
        prepared + self.started_in().unwrap_or_default()
    }

    /// Where the way to the task's ports will be.
    #[must_use]
    pub fn doorway(&self) -> Doorway {
        Doorway(Arc::clone(&self.control))
    }

    /// Whether the task's artefact is being made ready now, which takes minutes when a large module is compiled.
    #[must_use]
    pub fn is_preparing(&self) -> bool {
        self.control.is_preparing()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control.cancel();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("meters", &self.meters()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_detail_is_cut_at_a_character() {
        let cut = bounded("ü".repeat(DETAIL_LEN_MAX));
        assert_eq!(cut.len(), DETAIL_LEN_MAX);
        assert_eq!(bounded("short".to_owned()), "short");
    }
}
