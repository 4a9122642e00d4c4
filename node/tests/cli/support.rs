//! Runs the `opencloud` program as a user does.

use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long a node may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A run of the program that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("the program was not killed"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Fails unless the exit code is this one.
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The error that a program reads: the last line of standard error.
    pub(crate) fn problem(&self) -> Value {
        let line = self.stderr.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {}", self.stderr))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }
}

/// The program with a clean environment.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opencloud"));
    command.env_remove("OPENCLOUD_HOME").env_remove("RUST_LOG").env("HOME", "/nonexistent");
    command
}

/// Runs the program without a home.
pub(crate) fn opencloud(args: &[&str]) -> Ended {
    Ended::of(program().args(args).output().unwrap())
}

/// A directory with room for homes and files.
#[derive(Debug)]
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The path of a file with this content.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// Runs the program with the home of this place.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        Ended::of(program().arg("--home").arg(self.home()).args(args).output().unwrap())
    }

    /// Runs the program as somebody without a home, who keeps logins in `config` of this place.
    pub(crate) fn run_elsewhere(&self, args: &[&str]) -> Ended {
        let mut program = program();
        Ended::of(program.env("XDG_CONFIG_HOME", self.path("config")).args(args).output().unwrap())
    }

    /// Like [`Self::run`], with words that hold no spaces in one text.
    pub(crate) fn say(&self, words: &str) -> Ended {
        self.run(&words.split_whitespace().collect::<Vec<_>>())
    }

    pub(crate) fn init(&self) {
        self.run(&["init", "--org", "Survey Office", "--node", "rack-1"]).expect(0);
    }

    /// Starts a node in an initialised home and waits until it is ready.
    pub(crate) fn up(&self) -> Node {
        self.up_with(&[])
    }

    /// Like [`Self::up`], with more options.
    pub(crate) fn up_with(&self, options: &[&str]) -> Node {
        self.up_logging("warn", options)
    }

    /// Like [`Self::up_with`], with another part of the log than usual; what nobody reads has to fit into a pipe.
    pub(crate) fn up_logging(&self, filter: &str, options: &[&str]) -> Node {
        let mut child = program()
            .env("RUST_LOG", filter)
            .arg("--home")
            .arg(self.home())
            .args(["--output", "json", "up", "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns"])
            .args(["--cpu", "2", "--memory", "1GiB"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        Node { child, ready }
    }
}

/// A running node. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    pub(crate) ready: Value,
}

impl Node {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops the node, and returns what it has logged.
    pub(crate) fn stop_and_read_log(mut self) -> String {
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        assert_eq!(self.terminate(), 0);
        stderr.read_to_string(&mut log).unwrap();
        log
    }

    /// Stops the node as a service manager does, and returns its exit code.
    pub(crate) fn terminate(mut self) -> i32 {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().expect("the node ended by itself");
            }
            assert!(Instant::now() < deadline, "the node did not stop");
            std::thread::yield_now();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Ended already, or it ends here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path).to_str().unwrap().to_owned()
}
