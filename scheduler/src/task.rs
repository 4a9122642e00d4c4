//! What a provider is asked to run: a frozen task, free of references into the workflow, and how a try of it can end.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use catalog::Digest;

use crate::device::Counts;
use crate::service::ServiceSpec;
use crate::value::{DirRef, FileRef};

/// Names a run: 16 random bytes, printed as `run-` and 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId([u8; 16]);

impl RunId {
    /// Wraps the raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run-{}", catalog::id::to_hex(&self.0))
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The text is not a run id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a run id: it should look like `run-0f3a…` (32 hex digits)")]
pub struct RunIdError {
    text: String,
}

impl FromStr for RunId {
    type Err = RunIdError;
    fn from_str(text: &str) -> Result<Self, RunIdError> {
        text.strip_prefix("run-")
            .and_then(catalog::id::from_hex)
            .map(Self)
            .ok_or_else(|| RunIdError { text: text.chars().take(80).collect() })
    }
}

impl serde::Serialize for RunId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for RunId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One step instance of a run: the step's position in the document and the map index (0 without a map).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct TaskId {
    /// Position of the step in [`crate::workflow::Workflow::steps`].
    pub step: u32,
    /// Index into the mapped list.
    pub index: u32,
}

/// One try of a task on one node. The number fences: only the newest attempt of a task can commit.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct AttemptId {
    /// The run.
    pub run: RunId,
    /// The task.
    pub task: TaskId,
    /// 1 for the first try.
    pub number: u32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}#{}", self.run, self.task.step, self.task.index, self.number)
    }
}

/// The text is not an attempt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an attempt: it should look like `run-0f3a…/0.0#1`")]
pub struct AttemptIdError {
    text: String,
}

impl FromStr for AttemptId {
    type Err = AttemptIdError;
    fn from_str(text: &str) -> Result<Self, AttemptIdError> {
        let parse = || {
            let (run, rest) = text.split_once('/')?;
            let (task, number) = rest.split_once('#')?;
            let (step, index) = task.split_once('.')?;
            let task = TaskId { step: step.parse().ok()?, index: index.parse().ok()? };
            Some(Self { run: run.parse().ok()?, task, number: number.parse().ok()? })
        };
        // What stands for an attempt stands for it alone.
        let found = parse().filter(|attempt: &Self| attempt.to_string() == text);
        found.ok_or_else(|| AttemptIdError { text: text.chars().take(80).collect() })
    }
}

/// What runs a task.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeKind {
    /// WebAssembly with WASI preview 1 or 2.
    Wasi,
    /// An OCI image in a container.
    Container,
    /// A virtual machine.
    Vm,
    /// A program of the machine's own kind, as a job of the Slurm cluster behind a node.
    Slurm,
}

impl RuntimeKind {
    /// Every runtime.
    pub const ALL: [Self; 4] = [Self::Wasi, Self::Container, Self::Vm, Self::Slurm];

    /// The word in documents and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wasi => "wasi",
            Self::Container => "container",
            Self::Vm => "vm",
            Self::Slurm => "slurm",
        }
    }

    /// The word with which a node's record says that it runs services with this runtime: it reaches their ports, probes
    /// their health and keeps them up until they are stopped.
    #[must_use]
    pub const fn service_word(self) -> &'static str {
        match self {
            Self::Wasi => "wasi-service",
            Self::Container => "container-service",
            Self::Vm => "vm-service",
            Self::Slurm => "slurm-service",
        }
    }

    /// The runtime of that word, of which a record says that it runs services.
    #[must_use]
    pub fn from_service_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.service_word() == word)
    }

    /// The runtime of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// What a task needs of a node. Hard: a node that has less is no candidate.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Needs {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Memory limit in bytes.
    pub memory_bytes: u64,
    /// Limit of what the task writes, in bytes.
    pub disk_bytes: u64,
    /// Machine architecture (`x86_64`, `aarch64`, …) when the task cares. WASI tasks do not.
    pub arch: Option<String>,
    /// Whether it needs to reach the network. Otherwise it has none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub network: bool,
    /// Devices of the node that it holds alone, by name. Absent in the encoding when there are none, so that the digest of
    /// such a task is what it always was.
    #[serde(default, skip_serializing_if = "Counts::is_empty")]
    pub devices: Counts,
}

impl Default for Needs {
    fn default() -> Self {
        Self {
            cpu_milli: 1000,
            memory_bytes: 1 << 30,
            disk_bytes: 1 << 30,
            arch: None,
            network: false,
            devices: Counts::new(),
        }
    }
}

/// A file or directory that stands in the task's file system.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// One file.
    File(FileRef),
    /// A directory tree.
    Dir(DirRef),
}

impl Stage {
    /// The blob that names it (a directory's manifest).
    #[must_use]
    pub const fn digest(&self) -> Digest {
        match self {
            Self::File(file) => file.digest,
            Self::Dir(dir) => dir.digest,
        }
    }

    /// Its bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        match self {
            Self::File(file) => file.size,
            Self::Dir(dir) => dir.size,
        }
    }
}

/// What a task leaves behind.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Collect {
    /// The file at this path of the work directory.
    File(String),
    /// The directory at this path.
    Dir(String),
    /// Every file that matches `directory/pattern`; `*` in the last component only. Sorted by name.
    Files(String),
    /// The JSON in the file at this path (at most 64 KiB).
    Value(String),
    /// What was written to standard output, as a file.
    Stdout,
}

/// The program of a task.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// A WebAssembly module or component.
    Wasi {
        /// Its file.
        module: FileRef,
        /// Whether fuel is metered (exact, repeatable, and slower).
        fuel: bool,
    },
    /// An OCI image.
    Container {
        /// A directory in the OCI image layout.
        image: DirRef,
        /// Replaces the image's own entry point.
        entrypoint: Option<Vec<String>>,
    },
    /// A virtual machine.
    Vm {
        /// What it boots.
        boot: Boot,
        /// The author's own cloud-init user data, beside the node's; for disks only.
        user_data: Option<FileRef>,
        /// Public keys that may log in to it by SSH, see [`crate::ssh`]; for disks only. Absent in the encoding when there are
        /// none, so that the digest of such a task is what it always was.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ssh_keys: Vec<String>,
    },
    /// An executable of the machine's own kind, or a script.
    Slurm {
        /// Its file.
        program: FileRef,
    },
}

/// What a virtual machine boots.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boot {
    /// A Linux kernel with its initramfs, without a disk.
    Kernel {
        /// A directory with the files `kernel` and `initramfs`.
        dir: DirRef,
        /// What is added to the kernel's command line.
        append: String,
    },
    /// A bootable disk image whose system runs cloud-init: raw, qcow2, VHD, VHDX, VDI or VMDK. It is never written to.
    Disk {
        /// The image.
        disk: FileRef,
    },
}

impl Program {
    /// What runs it.
    #[must_use]
    pub const fn runtime(&self) -> RuntimeKind {
        match self {
            Self::Wasi { .. } => RuntimeKind::Wasi,
            Self::Container { .. } => RuntimeKind::Container,
            Self::Vm { .. } => RuntimeKind::Vm,
            Self::Slurm { .. } => RuntimeKind::Slurm,
        }
    }

    /// The name of its file or directory, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Wasi { module, .. } => &module.name,
            Self::Container { image, .. } => &image.name,
            Self::Vm { boot: Boot::Kernel { dir, .. }, .. } => &dir.name,
            Self::Vm { boot: Boot::Disk { disk }, .. } => &disk.name,
            Self::Slurm { program } => &program.name,
        }
    }

    /// All that it is made of.
    #[must_use]
    pub fn parts(&self) -> Vec<Stage> {
        let file = |file: &FileRef| Stage::File(file.clone());
        match self {
            Self::Wasi { module, .. } => vec![file(module)],
            Self::Container { image, .. } => vec![Stage::Dir(image.clone())],
            Self::Vm { boot, user_data, .. } => {
                let mut parts = vec![match boot {
                    Boot::Kernel { dir, .. } => Stage::Dir(dir.clone()),
                    Boot::Disk { disk } => file(disk),
                }];
                parts.extend(user_data.as_ref().map(file));
                parts
            }
            Self::Slurm { program } => vec![file(program)],
        }
    }
}

/// A task as a provider gets it. Two tasks with equal specs do the same work.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TaskSpec {
    /// What is run.
    pub program: Program,
    /// Arguments. Of a module the first is its own name; an image without any runs its own command.
    pub argv: Vec<String>,
    /// Environment, on top of the image's own. Nothing of the host's is passed on.
    pub env: BTreeMap<String, String>,
    /// Standard input; empty when absent.
    pub stdin: Option<FileRef>,
    /// Inputs by path relative to the work directory; private copies the task may change.
    pub inputs: BTreeMap<String, Stage>,
    /// Read-only directories by absolute guest path, such as `/share`.
    pub mounts: BTreeMap<String, DirRef>,
    /// Outputs by name.
    pub outputs: BTreeMap<String, Collect>,
    /// What it needs.
    pub needs: Needs,
    /// Longest run time in milliseconds, after which it is stopped. Of a service's replica, the length of its agreement.
    pub timeout_ms: u64,
    /// What makes it the replica of a service, which runs until it is stopped. Absent in the encoding of a task that is to
    /// end by itself, so that its digest is what it always was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceSpec>,
    /// The collaborative area under whose rules it is done. Both sign for it, because an agreement names the task's digest.
    /// Absent in the encoding of a task of no area, so that its digest is what it always was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<Digest>,
}

/// For how long a replica of a service is priced, in milliseconds: what its owner is told, and what a price cap is held
/// against, is the price of an hour.
pub const SERVICE_ESTIMATE_MS: u64 = 3_600_000;

/// Largest encoded [`TaskSpec`] accepted from a peer.
pub const SPEC_LEN_MAX: usize = 128 * 1024;

impl TaskSpec {
    /// The digest an agreement names: BLAKE3 of the JSON, whose maps are ordered.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("a task spec is plain data"))
    }

    /// Every blob the provider has to have before it can start, with sizes (directories by their manifest).
    #[must_use]
    pub fn blobs(&self) -> Vec<(Digest, u64)> {
        let parts = self.program.parts();
        let mut blobs: Vec<_> = parts.iter().map(|part| (part.digest(), part.size())).collect();
        blobs.extend(self.stdin.iter().map(|file| (file.digest, file.size)));
        blobs.extend(self.inputs.values().map(|stage| (stage.digest(), stage.size())));
        blobs.extend(self.mounts.values().map(|dir| (dir.digest, dir.size)));
        blobs.sort_unstable();
        blobs.dedup();
        blobs
    }
}

/// Why an attempt failed. Retry policies name these.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The program ended with a code other than 0, or trapped.
    Exit,
    /// It ran longer than its timeout.
    Timeout,
    /// It asked for more memory than it may have.
    Oom,
    /// It wrote more than it may, or a declared output is missing or not what was declared.
    Output,
    /// The module or an input cannot be used: bad digest, no WebAssembly, wrong imports.
    Invalid,
    /// The provider's fault: crash, restart, disk full, input not fetched in time.
    Infra,
    /// No word from the provider within the lease.
    LostLease,
    /// Stopped because its run was cancelled or failed elsewhere.
    Cancelled,
    /// Stopped by the provider: what it used costs as much as its agreement allows.
    Spent,
}

impl FailureClass {
    /// Whether the provider, not the task, is to blame. Such tries are not billed and retried elsewhere.
    #[must_use]
    pub const fn is_provider_fault(self) -> bool {
        matches!(self, Self::Infra | Self::LostLease)
    }

    /// The word in documents, events and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Timeout => "timeout",
            Self::Oom => "oom",
            Self::Output => "output",
            Self::Invalid => "invalid",
            Self::Infra => "infra",
            Self::LostLease => "lost_lease",
            Self::Cancelled => "cancelled",
            Self::Spent => "spent",
        }
    }
}

/// How an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// The class, which decides about retry and bill.
    pub class: FailureClass,
    /// The program's exit code, when it had one.
    pub exit_code: Option<i32>,
    /// One line for people, at most 500 bytes.
    pub detail: String,
}
