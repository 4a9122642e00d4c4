//! The workflow document: read, checked, and turned into tasks.
//!
//! [`Workflow::parse`] reads YAML or JSON and reports every problem with its place. What it returns is sound: references
//! name things that exist, types fit as far as they are known before a run, and no steps wait for each other.
//! The rest is a pure function of the document and a [`Scope`]: which steps run, over which items, as which tasks.

mod check;
mod diagnostic;
mod materialise;
mod params;
mod plain;
mod policy;
mod read;
mod run;
mod single;
mod source;
mod stage;
mod steps;
mod tree;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use catalog::Digest;

pub use self::diagnostic::{DIAGNOSTICS_MAX, Diagnostic, Diagnostics, Problem, nearest};
pub use self::materialise::{
    EvalError, INLINE_FILES_MAX, JSON_LEN_MAX, MAP_ITEMS_MAX, Materialised, Scope,
};
pub use self::params::{PARAMS_MAX, ParamDecl, ParamError, ParamType};
pub use self::plain::Plain;
pub use self::read::NAME_LEN_MAX;
pub use self::steps::{ARGS_MAX, STEPS_MAX};
pub use self::tree::{ALIAS_NODES_MAX, DEPTH_MAX, DOCUMENT_LEN_MAX};

pub(crate) use self::check::{DOCUMENT_NAME, check_version, document_name, is_document_name};
pub(crate) use self::read::{Fields, Reader, join};
pub(crate) use self::single::{DURATION_MAX_MS, read_backoff, read_needs, read_run};
pub(crate) use self::tree::{Mark, Node, parse as parse_tree};

use crate::expr::Expr;
use crate::service::ServiceSpec;
use crate::task::{Collect, FailureClass, Needs, RuntimeKind};
use crate::value::Value;

/// What the first key of a workflow document says.
pub const VERSION: &str = "workflow/v1";
/// Run time limit of a step that names none: one hour, in milliseconds.
pub const DEFAULT_TIMEOUT_MS: u64 = 3_600_000;

/// A checked workflow.
#[derive(Clone, Debug, PartialEq)]
pub struct Workflow {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// BLAKE3 of the document's text; part of every task's identity.
    pub digest: Digest,
    /// Parameters by name.
    pub params: BTreeMap<String, ParamDecl>,
    /// Steps in the order of the document; ids are unique.
    pub steps: Vec<Step>,
    /// What the run gives back, by name.
    pub outputs: BTreeMap<String, OutputDecl>,
    assets: Vec<Asset>,
    index: BTreeMap<String, u32>,
}

/// An output of the whole workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputDecl {
    /// The step that makes it.
    pub step: u32,
    /// The step's output.
    pub output: String,
    /// What it is.
    pub kind: Type,
    /// Whether it may be null because its step was skipped.
    pub optional: bool,
}

/// A vertex of the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its name, unique in the workflow.
    pub id: String,
    /// What it is for.
    pub description: Option<String>,
    /// What is run.
    pub run: StepRun,
    /// What it reads, by name.
    pub inputs: BTreeMap<String, Input>,
    /// What it leaves behind, by name.
    pub outputs: BTreeMap<String, Collect>,
    /// Positions of all steps that have to end before it begins.
    pub deps: BTreeSet<u32>,
    /// Positions of the steps named in `after` from which no data comes.
    pub after: BTreeSet<u32>,
    /// How it fans out.
    pub map: Option<MapDecl>,
    /// Condition under which it runs; see [`Step::is_skipped_by_item`].
    pub when: Option<Expr>,
    /// What happens after a failed attempt.
    pub retry: Retry,
    /// Longest run time of an attempt, in milliseconds.
    pub timeout_ms: u64,
    /// What it needs of a node.
    pub needs: Needs,
    /// What makes it the replica of a service. A workflow document makes none: they come from service documents.
    pub service: Option<ServiceSpec>,
}

impl Step {
    /// What runs it.
    #[must_use]
    pub const fn runtime(&self) -> RuntimeKind {
        self.run.runtime()
    }

    /// Whether the step waits for that one without getting data from it.
    #[must_use]
    pub fn is_order_only(&self, dep: u32) -> bool {
        self.after.contains(&dep)
    }

    /// Whether `when` reads the map's item, so that it is decided for each item rather than for the step.
    #[must_use]
    pub fn is_skipped_by_item(&self) -> bool {
        self.when.as_ref().is_some_and(Expr::uses_item)
    }

    /// Most items of its map in work at a time, when it is mapped and says so.
    #[must_use]
    pub fn max_parallel(&self) -> Option<u32> {
        self.map.as_ref()?.max_parallel
    }
}

/// A program and how it is called.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRun {
    /// The program.
    pub program: ProgramDecl,
    /// Arguments.
    pub args: Vec<Source>,
    /// Environment.
    pub env: BTreeMap<String, Source>,
    /// Standard input.
    pub stdin: Option<Source>,
    /// Read-only directories by absolute guest path.
    pub mounts: BTreeMap<String, Source>,
}

impl StepRun {
    /// What runs it.
    #[must_use]
    pub const fn runtime(&self) -> RuntimeKind {
        match self.program {
            ProgramDecl::Wasi { .. } => RuntimeKind::Wasi,
            ProgramDecl::Container { .. } => RuntimeKind::Container,
            ProgramDecl::Vm { .. } => RuntimeKind::Vm,
            ProgramDecl::Slurm { .. } => RuntimeKind::Slurm,
        }
    }
}

/// What a step runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramDecl {
    /// A WebAssembly module or component.
    Wasi {
        /// Its file.
        module: Artefact,
        /// The program's own name; the module's file stem when absent.
        argv0: Option<String>,
        /// Whether fuel is metered.
        fuel: bool,
    },
    /// An OCI image.
    Container {
        /// A directory in the OCI image layout.
        image: Artefact,
        /// Replaces the image's own entry point.
        entrypoint: Option<Vec<String>>,
    },
    /// A virtual machine.
    Vm {
        /// What it boots.
        boot: BootDecl,
        /// The author's own cloud-init user data.
        user_data: Option<Artefact>,
        /// Public keys that may log in to it by SSH.
        ssh_keys: Vec<String>,
    },
    /// An executable of the machine's own kind, or a script, for a Slurm cluster.
    Slurm {
        /// Its file.
        program: Artefact,
    },
}

/// What a virtual machine boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootDecl {
    /// A kernel with its initramfs.
    Kernel {
        /// A directory with both.
        dir: Artefact,
        /// What is added to the kernel's command line.
        append: String,
    },
    /// A bootable disk image.
    Disk(Artefact),
}

impl ProgramDecl {
    /// Where all parts of it come from, and whether they are files or directories.
    #[must_use]
    pub fn artefacts(&self) -> Vec<(&Artefact, AssetKind)> {
        let file = AssetKind::File;
        match self {
            Self::Wasi { module, .. } => vec![(module, file)],
            Self::Container { image, .. } => vec![(image, AssetKind::Dir)],
            Self::Vm { boot, user_data, .. } => {
                let mut parts = vec![match boot {
                    BootDecl::Kernel { dir, .. } => (dir, AssetKind::Dir),
                    BootDecl::Disk(disk) => (disk, file),
                }];
                parts.extend(user_data.iter().map(|data| (data, file)));
                parts
            }
            Self::Slurm { program } => vec![(program, file)],
        }
    }
}

/// Where a program comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Artefact {
    /// A file or directory next to the document.
    Path(String),
    /// A parameter of type file or dir.
    Param(String),
    /// A blob. [`Scope::assets`] holds it under the digest's text.
    Blob(Digest),
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A parameter.
    Param(String),
    /// An output of a step.
    Output {
        /// Position of the step.
        step: u32,
        /// Name of the output.
        output: String,
    },
    /// The map's item, or the field of it that the names lead to.
    Var(Vec<String>),
    /// The map's index.
    Index,
    /// A file next to the document.
    File(String),
    /// A directory next to the document.
    Dir(String),
    /// A value in the document.
    Literal(Value),
    /// A computed value.
    Expr(Expr),
    /// Where an input of the step is staged.
    Input(String),
    /// Whole numbers from the first to the second, both included.
    Range(Box<Self>, Box<Self>),
}

/// An input of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Where it comes from.
    pub source: Source,
    /// Where it is staged, relative to the work directory.
    pub path: String,
    /// Whether it may be null; it is then not staged.
    pub optional: bool,
    /// What it is, as far as known before the run.
    pub kind: Type,
}

/// How a step fans out.
#[derive(Clone, Debug, PartialEq)]
pub struct MapDecl {
    /// The list of items.
    pub over: Source,
    /// The name of the item.
    pub item: String,
    /// Most items in work at a time.
    pub max_parallel: Option<u32>,
}

/// What is known of a value before the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// Anything.
    Any,
    /// True or false.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// Text.
    Text,
    /// A file.
    File,
    /// A directory.
    Dir,
    /// Values of one type in order.
    List(Box<Self>),
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any value",
            Self::Bool => "a truth value",
            Self::Int => "a whole number",
            Self::Float => "a number",
            Self::Text => "text",
            Self::File => "a file",
            Self::Dir => "a directory",
            Self::List(inner) => match inner.as_ref() {
                Self::Any => "a list",
                Self::Bool => "a list of truth values",
                Self::Int => "a list of whole numbers",
                Self::Float => "a list of numbers",
                Self::Text => "a list of texts",
                Self::File => "a list of files",
                Self::Dir => "a list of directories",
                Self::List(_) => "a list of lists",
            },
        })
    }
}

/// What a value is called in messages.
pub(crate) const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Int(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Text(_) => "text",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
        Value::File(_) => "a file",
        Value::Dir(_) => "a directory",
    }
}

/// What happens after a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, the first included.
    pub attempts: u32,
    /// Failures after which another attempt is made.
    pub on: BTreeSet<FailureClass>,
    /// How long to wait before it.
    pub backoff: Backoff,
}

impl Default for Retry {
    /// Three attempts, after the provider's faults only: a program that fails once will fail again.
    fn default() -> Self {
        let on = BTreeSet::from([FailureClass::Infra, FailureClass::LostLease]);
        Self { attempts: 3, on, backoff: Backoff::default() }
    }
}

impl Retry {
    /// Whether another attempt follows the `made`-th one, which failed with `class`.
    #[must_use]
    pub fn allows(&self, made: u32, class: FailureClass) -> bool {
        made < self.attempts && self.on.contains(&class)
    }
}

/// Growing pauses between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Before the second attempt, in milliseconds.
    pub initial_ms: u64,
    /// Growth with each further attempt, in thousandths.
    pub factor_milli: u32,
    /// Longest pause in milliseconds.
    pub max_ms: u64,
    /// Share of the pause that is left to chance, in thousandths: 200 means 80 % to 120 %.
    pub jitter_milli: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial_ms: 1000, factor_milli: 2000, max_ms: 60_000, jitter_milli: 200 }
    }
}

impl Backoff {
    /// The pause after `made` attempts, in milliseconds. `random` is any number, which picks the point in the jitter.
    #[must_use]
    pub fn delay_ms(&self, made: u32, random: u32) -> u64 {
        let mut delay = u128::from(self.initial_ms);
        let max = u128::from(self.max_ms);
        // The limit is reached in at most 64 doublings; a factor of one never reaches it and changes nothing.
        for _ in 1..made.min(64) {
            delay = (delay * u128::from(self.factor_milli) / 1000).min(max);
        }
        delay = delay.min(max);
        let spread = delay * u128::from(self.jitter_milli) / 1000;
        let point = spread * 2 * u128::from(random) / u128::from(u32::MAX);
        u64::try_from(delay - spread.min(delay) + point).unwrap_or(u64::MAX)
    }
}

/// A local file or directory that the document names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asset {
    /// Path relative to the document.
    pub path: String,
    /// What has to be there.
    pub kind: AssetKind,
    /// Line of the first place that names it, from 1.
    pub line: u32,
    /// Character in the line, from 1.
    pub column: u32,
}

/// What an [`Asset`] has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AssetKind {
    /// A file.
    File,
    /// A directory.
    Dir,
}

impl Workflow {
    /// Reads and checks a document, YAML or JSON.
    ///
    /// # Errors
    /// Every problem found, in the order of the text.
    pub fn parse(source: &str) -> Result<Self, Diagnostics> {
        let (tree, found) = parse_tree(source)?;
        let mut reader = Reader::with(found);
        let workflow = check::document(&mut reader, &tree, Digest::of(source.as_bytes()));
        reader.finish(workflow)
    }

    /// Position of the step with this id.
    #[must_use]
    pub fn step_index(&self, id: &str) -> Option<u32> {
        self.index.get(id).copied()
    }

    /// The step at a position.
    #[must_use]
    pub fn step(&self, index: u32) -> Option<&Step> {
        self.steps.get(usize::try_from(index).ok()?)
    }

    /// Local files and directories that the document names, each once, in the order of paths.
    #[must_use]
    pub fn asset_paths(&self) -> Vec<Asset> {
        self.assets.clone()
    }

    /// Parts of programs that the document names by digest. They have to be in [`Scope::assets`] under the digest's text.
    #[must_use]
    pub fn blobs(&self) -> BTreeMap<Digest, AssetKind> {
        let all = self.steps.iter().flat_map(|step| step.run.program.artefacts());
        let named = all.filter_map(|(artefact, kind)| match artefact {
            Artefact::Blob(digest) => Some((*digest, kind)),
            Artefact::Path(_) | Artefact::Param(_) => None,
        });
        named.collect()
    }

    /// What a step's output is, the list of all items' outputs for a mapped step.
    #[must_use]
    pub fn output_type(&self, step: u32, output: &str) -> Option<Type> {
        let step = self.step(step)?;
        Some(collected(step.outputs.get(output)?, step.map.is_some()))
    }
}

/// What an output is.
fn collected(collect: &Collect, mapped: bool) -> Type {
    let one = match collect {
        Collect::File(_) | Collect::Stdout => Type::File,
        Collect::Dir(_) => Type::Dir,
        Collect::Files(_) => Type::List(Box::new(Type::File)),
        Collect::Value(_) => Type::Any,
    };
    if mapped { Type::List(Box::new(one)) } else { one }
}
