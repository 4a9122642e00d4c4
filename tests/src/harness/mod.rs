//! Real nodes for the end-to-end tests: processes with homes and keys of their own on free loopback ports.
//!
//! A [`Place`] is a directory with room for homes and files, a [`Node`] a home and the process in it, a [`Net`] some nodes that know
//! each other. Everything ends when it is dropped, and the processes end even when the test is killed. Everything here panics with
//! the facts when something does not go as it must.

mod browser;
mod device;
mod disk;
mod elsewhere;
mod guest;
mod image;
mod liar;
mod node;
mod provider;
mod web;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub use browser::{Answer, Browser};
pub use device::{Device, Harmless};
pub use disk::Disk;
pub use elsewhere::Elsewhere;
pub use guest::{
    ENDLESS_LOOP, Guest, create_must_fail, exit_with, grow_without_end, open_must_fail, say,
    sleep_ms, symlink, write_file,
};
pub use image::{
    architecture, engines, has_busybox, write_image, write_image_of, write_program_image,
};
pub use liar::{Liar, now_ms};
pub use node::{Going, Node, Run};
pub use provider::{Provider, Script};
pub use web::web_component;

/// How long one command of the program may take: most take milliseconds, on a busy machine a few seconds.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// How long nodes may take to know each other.
pub const MESH_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until the condition holds.
///
/// # Panics
/// When it does not within `limit`; `what` says what was waited for.
pub fn wait_until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(limit, what, || holds().then_some(()));
}

/// Waits until there is an answer.
///
/// # Panics
/// When there is none within `limit`; `what` says what was waited for.
pub fn wait_for<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain until {what}");
        pause(PAUSE);
    }
}

/// Lets other processes work for a moment. Whoever calls it looks at a condition again afterwards.
pub fn pause(duration: Duration) {
    std::thread::park_timeout(duration);
}

/// The program under test, with a clean environment.
///
/// # Panics
/// When it is not built.
#[must_use]
pub fn program() -> Command {
    let test = std::env::current_exe().expect("a running test is a file");
    let found = test.ancestors().map(|dir| dir.join("opencloud")).find(|path| path.is_file());
    let Some(path) = found else {
        panic!(
            "there is no `opencloud` above {}: build it with `cargo build --release --locked -p node`",
            test.display()
        );
    };
    let mut command = Command::new(path);
    command.env_remove("OPENCLOUD_HOME").env_remove("RUST_LOG").env("HOME", "/nonexistent");
    command
}

/// Whether this is root, who alone may make networks and machines of other users.
#[must_use]
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// The path of a file of the repository.
#[must_use]
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A run of the program that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The command line, for messages.
    pub command: String,
    /// The exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Ended {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it takes longer than [`COMMAND_TIMEOUT`] or is killed.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        let (mut out, mut err) = (capture(), capture());
        let name = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(out.1.take().expect("is there"))
            .stderr(err.1.take().expect("is there"))
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let status = end_of(&mut child, COMMAND_TIMEOUT);
        let (stdout, stderr) = (read_text(out.0.path()), read_text(err.0.path()));
        let Some(code) = status.and_then(|status| status.code()) else {
            // It is killed already, or it ends here.
            let _ = child.kill();
            let _ = child.wait();
            panic!("{name} did not end by itself\nstdout: {stdout}\nstderr: {stderr}");
        };
        Self { command: name, code, stdout, stderr }
    }

    /// Hands itself on.
    ///
    /// # Panics
    /// When the exit code is another one.
    #[must_use]
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// What it printed, as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, code, stdout, stderr } = self;
        write!(f, "{command} ended with {code}\nstdout: {stdout}\nstderr: {stderr}")
    }
}

/// A file for what a process prints. A pipe would have to be read while the process runs.
fn capture() -> (tempfile::NamedTempFile, Option<Stdio>) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let writer = file.reopen().expect("the file is there");
    (file, Some(Stdio::from(writer)))
}

/// Waits for the end of a process; `None` when it goes on for longer than `limit`.
fn end_of(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        pause(Duration::from_millis(2));
    }
}

fn read_text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// A temporary directory with room for homes and files.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// A new one.
    ///
    /// # Panics
    /// When there is no room for it.
    #[must_use]
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file and returns its path as text.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        let written = std::fs::create_dir_all(path.parent().expect("files lie in the place"))
            .and_then(|()| std::fs::write(&path, content));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text(&path)
    }

    /// A new node of an organisation, not started yet.
    #[must_use]
    pub fn node(&self, org: &str) -> Node {
        self.node_at(&format!("home-{org}"), org)
    }

    /// A new node with its home at this path in the place.
    #[must_use]
    pub fn node_at(&self, home: &str, org: &str) -> Node {
        Node::init(&self.path(home), org)
    }
}

/// A path as text.
///
/// # Panics
/// When it is not Unicode.
#[must_use]
pub fn text(path: &Path) -> String {
    path.to_str().expect("paths of tests are Unicode").to_owned()
}

/// Running nodes of different organisations in one realm: `org-0`, which invited the others, `org-1` and so on.
#[derive(Debug)]
pub struct Net {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Where their homes are; there is room for more.
    pub place: Place,
}

impl Net {
    /// Starts `n` nodes, joins them by tickets and waits until every one knows every other one and its machine.
    ///
    /// # Panics
    /// When that takes too long.
    #[must_use]
    pub fn new(n: usize) -> Self {
        let place = Place::new();
        let nodes = (0..n).map(|i| place.node(&format!("org-{i}"))).collect();
        Self::of(place, nodes)
    }

    /// The same of nodes that were made before.
    ///
    /// # Panics
    /// When that takes too long.
    #[must_use]
    pub fn of(place: Place, mut nodes: Vec<Node>) -> Self {
        for node in &mut nodes {
            node.start();
        }
        for guest in &nodes[1..] {
            let _ = guest.cli(&["join", &nodes[0].invite()]).expect(0);
        }
        let net = Self { nodes, place };
        for node in &net.nodes {
            net.wait_until_known(node);
        }
        net
    }

    /// Has the first node run a workflow to its good end, and returns the run and the directory with its outputs.
    ///
    /// # Panics
    /// When the run fails.
    #[must_use]
    pub fn outputs(&self, args: &[&str]) -> (Run, PathBuf) {
        let out = self.place.path("out");
        let out_text = text(&out);
        let submit = ["--output", "json", "run", "submit"].iter().chain(args);
        let submit: Vec<&str> = submit.copied().chain(["--wait", "--out", &out_text]).collect();
        let ended = self.nodes[0].cli(&submit).expect(0).json();
        let id = ended["id"].as_str().unwrap_or_default();
        (self.nodes[0].run(id), out)
    }

    /// Waits until `node` is connected to all others and knows all machines.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_until_known(&self, node: &Node) {
        let n = self.nodes.len();
        let what = format!("{} knows {n} nodes", node.org);
        wait_until(MESH_TIMEOUT, &what, || {
            let machines = node.json(&["catalog", "search", "kind = compute"]);
            node.n_connected() + 1 >= n && machines.as_array().is_some_and(|list| list.len() >= n)
        });
    }
}

/// A workflow of one small task: `guest.wasm` leaves `result.txt`, which is the run's output.
pub const ONE_TASK: &str = "\
opencloud: workflow/v1
name: small
steps:
  work:
    run: {wasi: {module: guest.wasm}}
    out: {result: {file: result.txt}}
    needs: {cpu: 1, memory: 64MiB, disk: 1MiB}
outputs:
  result: {from: work.result}
";

/// A workflow whose step `work` is three tasks of `guest.wasm`, each of which leaves `result.txt`.
pub const THREE_TASKS: &str = "\
opencloud: workflow/v1
name: served
steps:
  work:
    run: {wasi: {module: guest.wasm}}
    map: {over: {range: [1, 3]}, as: n}
    out: {result: {file: result.txt}}
    needs: {cpu: 1, memory: 64MiB, disk: 16MiB}
";

/// Writes a workflow document with the named guests beside it and returns its path.
///
/// # Panics
/// When there is no room for them.
pub fn workflow(place: &Place, yaml: &str, guests: &[(&str, &Guest)]) -> String {
    for (name, guest) in guests {
        place.file(name, guest.bytes());
    }
    place.file("workflow.yaml", yaml)
}
