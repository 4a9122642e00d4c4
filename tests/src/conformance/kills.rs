//! Nodes that are killed at random while their tasks are killed at random, and what is left of them.
//!
//! A life is a process ([`live`]) that runs tasks without end: some it lets end, some it cancels, of some it drops the handle,
//! and some are killed behind its back. [`random_kills`] kills one life after another, also while it begins, and looks
//! whether the next one has removed everything.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use node::runtime::Exit;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};
use tokio::runtime::Runtime;

use super::bench::{PATIENCE, job};
use super::subject::{self, Place, Subject};
use crate::harness::{pause, wait_until};

/// Tasks beside each other in one life.
const WORKERS: u32 = 4;
/// Longest life in milliseconds.
const LIFE_MS_MAX: u32 = 3_000;
/// Longest wait before a task is killed, in milliseconds: most of its phases lie within it.
const KILL_MS_MAX: u32 = 700;
/// One life in so many is killed while it begins.
const EARLY_ONE_IN: u32 = 6;
/// How long a request of a killed node may still be on its way when its next life begins.
const LATE: Duration = Duration::from_secs(3);

/// A life with one task that goes on writing, and the task.
const SCRIBBLE: &str = "scribble";

/// What to try.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The runtime's name.
    pub runtime: String,
    /// Tasks to start, at least.
    pub runs: u32,
    /// Plays the same choices again; the moments differ.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Tasks that were started.
    pub runs: u32,
    /// Nodes that were killed.
    pub lives: u32,
    /// What is left of earlier lives.
    pub left: BTreeSet<String>,
    /// Ends of tasks that were the host's fault.
    pub faults: Vec<String>,
}

impl Tally {
    /// Whether nothing is left and nothing went wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.left.is_empty() && self.faults.is_empty()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, lives, left, faults } = self;
        write!(f, "{runs} tasks in {lives} killed nodes; left behind: {left:?}; faults: {faults:?}")
    }
}

/// Starts and kills nodes until enough tasks have been started.
///
/// # Panics
/// When the runtime is not there, or a node does not begin.
#[must_use]
pub fn random_kills(plan: &Plan) -> Tally {
    let dir = tempfile::tempdir().expect("there is room for temporary files");
    let owner = format!("kills{}", dir.path().file_name().unwrap_or_default().display());
    let tokio = runtime();
    // Somebody else, who only looks.
    let observer = open(&plan.runtime, dir.path(), &format!("{owner}-observer"), &tokio);
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let mut tally = Tally::default();
    while tally.runs < plan.runs {
        tally.lives += 1;
        let life = tally.lives.to_string();
        let mut node = Life::begin(&[&plan.runtime, &path_text(dir.path()), &owner, &life]);
        if rng.next_u32().is_multiple_of(EARLY_ONE_IN) {
            pause(Duration::from_millis(u64::from(rng.next_u32() % 60)));
        } else {
            node.until_up();
            pause(Duration::from_millis(u64::from(rng.next_u32() % LIFE_MS_MAX)));
            // It has removed what was there before it.
            let ours = format!("-life{life}-");
            tally
                .left
                .extend(observer.left_by(&owner).into_iter().filter(|left| !left.contains(&ours)));
        }
        node.kill();
        for line in node.lines {
            match line.split_once(' ') {
                Some(("run", _)) => tally.runs += 1,
                Some(("fault", what)) => tally.faults.push(what.to_owned()),
                _ => {}
            }
        }
    }
    let last = open(&plan.runtime, dir.path(), &owner, &tokio);
    pause(LATE);
    tally.left.extend(observer.left_by(&owner));
    drop(last);
    tally
}

/// Kills a node with a task that goes on writing to a file, begins its next life, and gives that file. It can be seen growing
/// where the task's directories are the host's.
pub(super) fn kill_once(runtime: &str, dir: &Path, is_seen: bool) -> PathBuf {
    let owner = format!("once{}", std::process::id());
    let file = dir.join(format!("{owner}-{SCRIBBLE}/work/f"));
    let mut node = Life::scribble(runtime, dir, &owner);
    if is_seen {
        let is_long = || file.metadata().is_ok_and(|meta| meta.len() > 3);
        wait_until(PATIENCE, "its task writes", is_long);
    }
    node.kill();
    let tokio = self::runtime();
    let next = open(runtime, dir, &owner, &tokio);
    let left = next.left_by(&owner);
    assert!(left.is_empty(), "left behind: {left:?}");
    file
}

fn runtime() -> Runtime {
    let made = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    made.expect("the operating system gives threads")
}

fn open(name: &str, dir: &Path, owner: &str, tokio: &Runtime) -> Box<dyn Subject> {
    let place = Place {
        dir: dir.to_owned(),
        owner: owner.to_owned(),
        tokio: tokio.handle().clone(),
        workers: WORKERS as usize,
    };
    subject::open(name, place).unwrap_or_else(|reason| panic!("{reason}"))
}

fn path_text(path: &Path) -> String {
    path.to_str().expect("paths of tests are Unicode").to_owned()
}

/// A node in a process of its own.
#[derive(Debug)]
pub struct Life {
    child: Child,
    lines: Receiver<String>,
}

impl Life {
    /// Begins one; it ends when this process does, because it reads from it.
    fn begin(args: &[&str]) -> Self {
        let test = std::env::current_exe().expect("a running test is a file");
        let found = test.ancestors().map(|dir| dir.join("kills")).find(|path| path.is_file());
        let program = found.expect("`kills` is built with the tests");
        let child = Command::new(program)
            .arg("live")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.expect("the program can be started");
        let (send, lines) = mpsc::channel();
        let stdout = child.stdout.take().expect("it is piped");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Whoever is not interested any more has gone.
                let _ = send.send(line);
            }
        });
        Self { child, lines }
    }

    /// Begins one with a single task, which has begun to write to a file and goes on until it is ended. Its directories are
    /// below `dir`, which is made.
    ///
    /// # Panics
    /// When the task does not begin.
    #[must_use]
    pub fn scribble(runtime: &str, dir: &Path, owner: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let node = Self::begin(&[runtime, &path_text(dir), owner, SCRIBBLE]);
        node.until_up();
        let second = node.lines.recv_timeout(PATIENCE);
        assert_eq!(second.as_deref(), Ok("speaks"), "the task has not begun");
        node
    }

    fn until_up(&self) {
        let first = self.lines.recv_timeout(PATIENCE);
        assert_eq!(first.as_deref(), Ok("up"), "the node has not begun");
    }

    /// Kills it, so that it can do nothing about its task.
    ///
    /// # Panics
    /// When it is gone already.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }
}

/// Lives until it is killed, or its standard input ends: `RUNTIME DIR OWNER LIFE`, where the life is a number, or `scribble` for
/// one task that goes on writing.
///
/// # Panics
/// When the arguments are others, or the runtime does not work.
pub fn live(args: &[String]) {
    let [name, dir, owner, life] = args else { panic!("RUNTIME DIR OWNER LIFE, not {args:?}") };
    std::thread::spawn(|| {
        // An error is an end, too.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let tokio = runtime();
    let subject = open(name, Path::new(dir), owner, &tokio);
    println!("up");
    let begin = |tag: &str, args: &[&str]| {
        let name = format!("{owner}-{tag}");
        job(&Path::new(dir).join(&name), &name, args)
    };
    let Ok(life) = life.parse::<u32>() else {
        let job = begin(SCRIBBLE, &["say", "up", "then", "scribble", "f"]);
        let mut running = subject.start(&job);
        wait_until(2 * PATIENCE, "the task has spoken", || !job.logs.is_empty());
        println!("speaks");
        tokio.block_on(running.wait());
        return;
    };
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (subject, tokio, begin) = (&*subject, &tokio, &begin);
            scope.spawn(move || {
                let mut rng = ChaCha8Rng::seed_from_u64(u64::from(life) << 8 | u64::from(worker));
                for n in 0.. {
                    let verbs = choose(&mut rng);
                    let job = begin(&format!("life{life}-{worker}-{n}"), verbs);
                    println!("run {}", job.name);
                    one(subject, tokio, &job, &mut rng);
                }
            });
        }
    });
}

/// What a task does: all end by themselves, or are ended soon.
fn choose(rng: &mut ChaCha8Rng) -> &'static [&'static str] {
    match rng.next_u32() % 8 {
        0 => &["say", "x", "then", "sleep", "300"],
        1 => &["files", "300", "200"],
        2 => &["spin", "200"],
        3 => &["orphan", "then", "sleep", "200"],
        4 => &["flood", "3000000"],
        5 => &["filldisk"],
        6 => &["hog", "4000", "0"],
        _ => &["ignoreterm", "then", "sleep", "500"],
    }
}

/// Starts a task and ends it, or lets it end.
fn one(subject: &dyn Subject, tokio: &Runtime, job: &super::Job, rng: &mut ChaCha8Rng) {
    let mut running = subject.start(job);
    let kind = rng.next_u32() % 6;
    if kind < 3 {
        pause(Duration::from_millis(u64::from(rng.next_u32() % KILL_MS_MAX)));
    }
    let mut is_killed = false;
    match kind {
        0 => running.cancel(),
        1 => return,
        2 => is_killed = subject.kill_from_outside(job),
        _ => {}
    }
    let (exit, _) = tokio.block_on(running.wait());
    let is_fault = matches!(
        exit,
        Exit::Host(_) | Exit::Invalid(_) | Exit::InvalidImage(_) | Exit::InvalidMachine(_)
    );
    if !is_killed && is_fault {
        println!("fault {exit}");
    }
    // A dropped task may still use its own; those stay until the end.
    let _ = std::fs::remove_dir_all(job.work.with_file_name(""));
}
