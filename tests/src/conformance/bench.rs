//! A place for the tasks of one case, and what is asked of and told by each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use node::runtime::container::Unit;
use node::runtime::{Exit, LogSink, Meters, Mount, Running, Stream, TaskBase};
use tempfile::TempDir;

use super::subject::{self, Figures, Need, Subject};
use crate::harness::wait_until;

/// How long a task may take for what should take it a second.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Most bytes of one stream that are kept; further ones are counted.
const KEPT_MAX: usize = 4 << 20;
pub(super) const MIB: u64 = 1 << 20;
/// Tasks that run beside each other, unless a case wants another number.
const WORKERS: usize = 4;

/// What a task is to do, and within which limits.
#[derive(Clone)]
pub struct Job {
    /// Unique on the host.
    pub name: String,
    /// Verbs of the probe.
    pub args: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Standard input; empty without it.
    pub stdin: Option<PathBuf>,
    /// Its work directory, where it starts.
    pub work: PathBuf,
    /// Its `/tmp`.
    pub tmp: PathBuf,
    /// What it may read.
    pub mounts: Vec<Mount>,
    /// Thousandths of a processor.
    pub cpu_milli: u64,
    /// Most memory in bytes.
    pub memory_bytes: u64,
    /// Most growth of its directories in bytes.
    pub disk_bytes: u64,
    /// Longest time from its start.
    pub timeout: Duration,
    /// Whether it may use the network.
    pub has_network: bool,
    /// Devices of the host that it holds.
    pub devices: Vec<Unit>,
    /// Takes its output.
    pub logs: Arc<Kept>,
}

impl Job {
    /// As the runtimes are told it.
    pub(super) fn base(&self) -> TaskBase {
        TaskBase {
            name: self.name.clone(),
            args: self.args.clone(),
            env: self.env.clone(),
            stdin: self.stdin.clone(),
            work: self.work.clone(),
            tmp: self.tmp.clone(),
            mounts: self.mounts.clone(),
            cpu_milli: self.cpu_milli,
            memory_bytes: self.memory_bytes,
            disk_bytes: self.disk_bytes,
            network: self.has_network,
            timeout: self.timeout,
            logs: Arc::clone(&self.logs) as Arc<dyn LogSink>,
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("name", &self.name)
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

/// What a task wrote.
#[derive(Default)]
pub struct Kept(Mutex<[Written; 2]>);

#[derive(Clone, Default)]
struct Written {
    bytes: Vec<u8>,
    len: u64,
    hasher: blake3::Hasher,
    first: Option<Instant>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl LogSink for Kept {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        let written = &mut self.lock()[usize::from(stream == Stream::Stderr)];
        written.first.get_or_insert_with(Instant::now);
        let room = KEPT_MAX - written.bytes.len();
        written.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        written.len += bytes.len() as u64;
        written.hasher.update(bytes);
    }
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, [Written; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was kept of a stream so far, as text.
    #[must_use]
    pub fn text(&self, stream: Stream) -> String {
        let written = self.lock();
        String::from_utf8_lossy(&written[usize::from(stream == Stream::Stderr)].bytes).into_owned()
    }

    /// Bytes of standard output so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.lock()[0].len
    }

    /// When the first byte of standard output came.
    #[must_use]
    pub fn first_byte(&self) -> Option<Instant> {
        self.lock()[0].first
    }

    /// Whether there is no output yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a task ended.
pub struct Ended {
    /// Its end.
    pub exit: Exit,
    /// What it used.
    pub meters: Meters,
    /// Its output, cut off at some MiB.
    pub stdout: Vec<u8>,
    /// All bytes of its output.
    pub stdout_len: u64,
    /// BLAKE3 of all its output.
    pub stdout_hash: blake3::Hash,
    /// Its complaints.
    pub stderr: String,
    /// Its work directory.
    pub work: PathBuf,
    /// From its start to the news of its end.
    pub elapsed: Duration,
}

impl Ended {
    /// Its output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Hands itself on.
    ///
    /// # Panics
    /// When the task did not end with this code.
    #[must_use]
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.exit, Exit::Code(code), "{self:?}");
        self
    }

    /// The bytes of a file in its work directory.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    #[track_caller]
    pub fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.work.join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}: {self:?}"))
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stdout: String = self.text().chars().take(300).collect();
        write!(f, "{:?} after {:?}, {:?}, ", self.exit, self.elapsed, self.meters)?;
        write!(f, "{} bytes of output: {stdout:?}, complaints: {:?}", self.stdout_len, self.stderr)
    }
}

/// A task that was started. Dropping it cancels the task.
pub struct Handle<'a> {
    /// The runtime's own handle.
    pub running: Running,
    /// What the task has written so far.
    pub logs: Arc<Kept>,
    work: PathBuf,
    begun: Instant,
    bench: &'a Bench,
}

impl fmt::Debug for Handle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("running", &self.running).finish_non_exhaustive()
    }
}

impl Handle<'_> {
    /// Waits until the task has written something.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn until_heard(&self) {
        wait_until(PATIENCE, "the task has spoken", || !self.logs.is_empty());
    }

    /// Waits for the task's end.
    ///
    /// # Panics
    /// When it does not end within the patience of the suite.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        let waiting = async { tokio::time::timeout(2 * PATIENCE, self.running.wait()).await };
        let ended = self.bench.tokio.block_on(waiting);
        let elapsed = self.begun.elapsed();
        let (exit, meters) = ended.unwrap_or_else(|_| panic!("no end after {elapsed:?}"));
        let [out, err] = self.logs.lock().clone();
        Ended {
            exit,
            meters,
            stdout: out.bytes,
            stdout_len: out.len,
            stdout_hash: out.hasher.finalize(),
            stderr: String::from_utf8_lossy(&err.bytes).into_owned(),
            work: self.work,
            elapsed,
        }
    }
}

/// A runtime, and room for its tasks.
pub struct Bench {
    dir: TempDir,
    tokio: tokio::runtime::Runtime,
    subject: Box<dyn Subject>,
    owner: String,
    n_jobs: AtomicU32,
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("subject", &self.subject.name()).finish_non_exhaustive()
    }
}

impl Bench {
    /// A runtime by its name.
    ///
    /// # Errors
    /// Why it is not to be had on this machine.
    ///
    /// # Panics
    /// When it should be there and does not work.
    pub fn new(subject: &str) -> Result<Self, String> {
        Self::with_workers(subject, WORKERS)
    }

    /// As [`Self::new`], with another number of tasks that may run at a time.
    ///
    /// # Errors
    /// Why it is not to be had on this machine.
    ///
    /// # Panics
    /// When it should be there and does not work.
    pub fn with_workers(subject: &str, workers: usize) -> Result<Self, String> {
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        let tokio =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let tokio = tokio.expect("the operating system gives threads");
        // Tests run beside each other, and a runtime removes what it finds of its own name.
        let owner = format!("test{}", dir.path().file_name().unwrap_or_default().display());
        let place = subject::Place {
            dir: dir.path().to_owned(),
            owner: owner.clone(),
            tokio: tokio.handle().clone(),
            workers,
        };
        let subject = subject::open(subject, place)?;
        Ok(Self { dir, tokio, subject, owner, n_jobs: AtomicU32::new(0) })
    }

    /// The same runtime anew, with another number of tasks that may run at a time.
    ///
    /// # Panics
    /// When it is not there any more.
    #[must_use]
    pub fn again(&self, workers: usize) -> Self {
        Self::with_workers(self.subject.name(), workers).expect("it was there")
    }

    /// Why the runtime cannot have this, if so.
    #[must_use]
    pub fn lacks(&self, need: Need) -> Option<String> {
        let why = self.subject.lacks(need)?;
        Some(format!("{} {why}", self.subject.name()))
    }

    /// Whether the runtime has this.
    #[must_use]
    pub fn has(&self, need: Need) -> bool {
        self.subject.lacks(need).is_none()
    }

    /// The runtime's own figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.subject.figures()
    }

    /// How many of `n` tries of the same kind are made: all, unless each is dear.
    #[must_use]
    pub fn tries(&self, n: usize) -> usize {
        n.div_ceil(self.figures().one_try_in)
    }

    /// Those of a list that are tried, the first and the last among them if there are two: all, unless each is dear.
    pub fn some<'a, T>(&self, all: &'a [T]) -> impl Iterator<Item = &'a T> {
        let tries = self.tries(all.len());
        let last = all.len().saturating_sub(1);
        (0..tries).map(move |n| &all[n * last / tries.saturating_sub(1).max(1)])
    }

    /// The runtime under test.
    #[must_use]
    pub fn subject(&self) -> &dyn Subject {
        &*self.subject
    }

    /// A further life of the same node, which begins while this one goes on.
    ///
    /// # Panics
    /// When it does not begin.
    #[must_use]
    pub fn next_life(&self) -> Box<dyn Subject> {
        let place = subject::Place {
            dir: self.dir.path().to_owned(),
            owner: self.owner.clone(),
            tokio: self.tokio.handle().clone(),
            workers: WORKERS,
        };
        subject::open(self.subject.name(), place).expect("it was there")
    }

    /// A path in the bench's own directory, which no task may reach.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a file in the bench's own directory.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap_or_else(|error| panic!("{name}: {error}"));
        path
    }

    /// A task for the probe, with directories of its own.
    ///
    /// # Panics
    /// When these cannot be made.
    #[must_use]
    pub fn job(&self, args: &[&str]) -> Job {
        let n = self.n_jobs.fetch_add(1, Ordering::Relaxed);
        job(&self.path(&format!("job-{n}")), &format!("{}-{n}", self.owner), args)
    }

    /// Starts a task.
    #[must_use]
    pub fn start(&self, job: &Job) -> Handle<'_> {
        let (logs, work) = (Arc::clone(&job.logs), job.work.clone());
        let begun = Instant::now();
        Handle { running: self.subject.start(job), logs, work, begun, bench: self }
    }

    /// Runs a task to its end.
    #[track_caller]
    #[must_use]
    pub fn run(&self, job: &Job) -> Ended {
        let ended = self.start(job).end();
        let args: String = format!("{:?}", job.args).chars().take(200).collect();
        println!("{args}\n    {ended:?}");
        ended
    }

    /// Runs a task of these verbs to its end.
    #[track_caller]
    #[must_use]
    pub fn probe(&self, args: &[&str]) -> Ended {
        self.run(&self.job(args))
    }

    /// Waits for a task's end and keeps its handle.
    pub fn wait(&self, handle: &mut Handle<'_>) -> (Exit, Meters) {
        self.tokio.block_on(handle.running.wait())
    }

    /// What tasks have left on the host by now.
    #[must_use]
    pub fn left(&self) -> BTreeSet<String> {
        self.subject.left_by(&self.owner)
    }

    /// Looks for what tasks have left behind.
    ///
    /// # Panics
    /// When there is something.
    #[track_caller]
    pub fn must_be_clean(&self) {
        let begun = Instant::now();
        while !self.left().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "left behind: {:?}", self.left());
            crate::harness::pause(Duration::from_millis(100));
        }
    }
}

/// The words of a text, as arguments of the probe.
#[must_use]
pub(super) fn verbs(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// A task with directories of its own below `dir`.
///
/// # Panics
/// When these cannot be made.
#[must_use]
pub(super) fn job(dir: &Path, name: &str, args: &[&str]) -> Job {
    let private = |name: &str| {
        let path = dir.join(name);
        std::fs::create_dir_all(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    };
    Job {
        name: name.to_owned(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: BTreeMap::new(),
        stdin: None,
        work: private("work"),
        tmp: private("tmp"),
        mounts: Vec::new(),
        cpu_milli: 2_000,
        memory_bytes: 64 * MIB,
        disk_bytes: 32 * MIB,
        timeout: PATIENCE,
        has_network: false,
        devices: Vec::new(),
        logs: Arc::default(),
    }
}
