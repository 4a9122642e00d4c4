//! One node: a home, and the process in it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Ended, PAUSE, end_of, pause, program, read_text, text};

/// How long a node may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a node may take to stop when it is told to.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A home, and the process in it when it runs. Dropping it kills the process.
#[derive(Debug)]
pub struct Node {
    /// The organisation's name.
    pub org: String,
    /// The home.
    pub home: PathBuf,
    /// More options of `up`.
    pub options: Vec<String>,
    /// Whether it looks for neighbours by multicast: only where nobody but the test's own nodes hears it.
    pub is_multicasting: bool,
    /// Where it listens: any free port at first, then always the same, as a configured node does.
    listen: String,
    /// The network namespace it lives in, when it is not the test's own.
    netns: Option<String>,
    child: Option<Child>,
}

/// A run as `run show` tells it.
#[derive(Clone, Debug)]
pub struct Run(pub Value);

impl Run {
    /// Its state, like `succeeded`.
    #[must_use]
    pub fn state(&self) -> &str {
        self.0["state"].as_str().unwrap_or_default()
    }

    /// Why it failed, or nothing.
    #[must_use]
    pub fn detail(&self) -> &str {
        self.0["detail"].as_str().unwrap_or_default()
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.state(), "succeeded" | "failed" | "cancelled")
    }

    /// Its attempts and waiting tasks.
    #[must_use]
    pub fn tasks(&self) -> &[Value] {
        self.0["tasks"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The attempts in this state.
    #[must_use]
    pub fn in_state(&self, state: &str) -> Vec<&Value> {
        self.tasks().iter().filter(|task| task["state"] == state).collect()
    }
}

impl Node {
    /// A home that nothing has been made in yet.
    #[must_use]
    pub fn bare(home: &Path, org: &str) -> Self {
        Self {
            org: org.to_owned(),
            home: home.to_owned(),
            options: ["--cpu", "2", "--memory", "1GiB"].map(str::to_owned).into(),
            is_multicasting: false,
            listen: "/ip4/127.0.0.1/tcp/0".to_owned(),
            netns: None,
            child: None,
        }
    }

    /// Makes the home and the keys.
    pub(super) fn init(home: &Path, org: &str) -> Self {
        let node = Self::bare(home, org);
        let _ = node.cli(&["init", "--org", org, "--node", org]).expect(0);
        node
    }

    /// Has the node, and all commands of its owner, live in a network namespace and listen at its address there.
    pub fn move_to(&mut self, netns: &str, ip: &str) {
        self.netns = Some(netns.to_owned());
        self.listen = format!("/ip4/{ip}/tcp/0");
    }

    /// A command line with this node's home.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = match &self.netns {
            Some(netns) => within(netns, &program()),
            None => program(),
        };
        command.arg("--home").arg(&self.home).args(args);
        command
    }

    /// Runs a command on this node.
    #[must_use]
    pub fn cli(&self, args: &[&str]) -> Ended {
        Ended::of(&mut self.command(args))
    }

    /// Runs a command that must succeed and print JSON.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = ["--output", "json"].iter().chain(args).copied().collect();
        self.cli(&args).expect(0).json()
    }

    /// Starts a command that goes on until the answer is dropped, and returns the first thing it says in JSON.
    ///
    /// # Panics
    /// When it says nothing in time.
    #[must_use]
    #[track_caller]
    pub fn begin(&self, args: &[&str]) -> (Going, Value) {
        let mut command = self.command(&["--output", "json"]);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let line = first_line(child.stdout.take().expect("it is piped"));
        let going = Going(child);
        let said = serde_json::from_str(&line);
        (going, said.unwrap_or_else(|error| panic!("{error}: {command:?} said {line:?}")))
    }

    /// The command that runs this node.
    #[must_use]
    pub fn up(&self) -> Command {
        let mut command = self.command(&["--output", "json", "up", "--api", "127.0.0.1:0"]);
        command.args(["--listen", &self.listen, "--stop-with-stdin"]).args(&self.options);
        if !self.is_multicasting {
            command.arg("--no-mdns");
        }
        command
    }

    /// Starts the process and waits until it is ready.
    ///
    /// # Panics
    /// When it is not in time; with the end of its log.
    pub fn start(&mut self) {
        let ready = self.try_start();
        let address = ready["addresses"][0].as_str();
        let address = address.unwrap_or_else(|| panic!("{} listens nowhere: {ready}", self.org));
        let without_peer = address.split("/p2p/").next().unwrap_or(address);
        self.listen = without_peer.to_owned();
    }

    fn try_start(&mut self) -> Value {
        assert!(self.child.is_none(), "{} runs already", self.org);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("room for a log");
        let mut child = self
            .up()
            // The node ends with this pipe, even when the test is killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let stdout = child.stdout.take().expect("it is piped");
        self.child = Some(child);
        let line = first_line(stdout);
        serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("{} is not ready: {line}\n{}", self.org, self.log()))
    }

    fn log_path(&self) -> PathBuf {
        self.home.with_extension("log")
    }

    /// What the node logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        read_text(&self.log_path())
    }

    /// Kills the process at once, as a power cut does.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("the node runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// Stops the process as a service manager does; it must end with code 0.
    ///
    /// # Panics
    /// When it does not.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("the node runs");
        drop(child.stdin.take());
        let status = end_of(&mut child, STOP_TIMEOUT);
        // Ended already, or it ends here.
        let _ = child.kill();
        let _ = child.wait();
        let code = status.and_then(|status| status.code());
        assert_eq!(code, Some(0), "{} was stopped: {}", self.org, self.log());
    }

    /// Kills the process if it runs, and starts it again.
    pub fn restart(&mut self) {
        if self.child.is_some() {
            self.kill9();
        }
        self.start();
    }

    /// Whether the process runs.
    ///
    /// # Panics
    /// Never for a process of ours.
    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| child.try_wait().expect("a child can be asked").is_none())
    }

    /// Resident memory of the process; 0 where the system does not tell.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let pid = self.child.as_ref().expect("the node runs").id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or_default() * 1024
    }

    /// A ticket to this node's realm.
    #[must_use]
    pub fn invite(&self) -> String {
        let invited = self.json(&["invite"]);
        invited["ticket"].as_str().unwrap_or_default().to_owned()
    }

    /// How many peers it is connected to.
    #[must_use]
    pub fn n_connected(&self) -> usize {
        let peers = self.json(&["peers"]);
        let list = peers.as_array().map_or(&[][..], Vec::as_slice);
        list.iter().filter(|peer| peer["connected"] == true).count()
    }

    /// Submits a workflow and returns the run's id.
    #[must_use]
    pub fn submit(&self, workflow: &str, more: &[&str]) -> String {
        let args: Vec<&str> = ["run", "submit", workflow].iter().chain(more).copied().collect();
        let submitted = self.json(&args);
        submitted["id"].as_str().unwrap_or_default().to_owned()
    }

    /// The run as it is.
    #[must_use]
    pub fn run(&self, id: &str) -> Run {
        Run(self.json(&["run", "show", id]))
    }

    /// Waits until the run has ended.
    ///
    /// # Panics
    /// When it has not within `limit`.
    #[must_use]
    pub fn wait_for_end(&self, id: &str, limit: Duration) -> Run {
        self.wait_for_run(id, limit, "the run has ended", Run::has_ended)
    }

    /// Waits until the run is as wanted.
    ///
    /// # Panics
    /// When it is not within `limit`.
    #[must_use]
    pub fn wait_for_run(
        &self,
        id: &str,
        limit: Duration,
        what: &str,
        is_so: impl Fn(&Run) -> bool,
    ) -> Run {
        let deadline = Instant::now() + limit;
        loop {
            let run = self.run(id);
            if is_so(&run) {
                return run;
            }
            assert!(
                Instant::now() < deadline,
                "waited {limit:?} in vain until {what}: {:#}",
                run.0
            );
            pause(PAUSE);
        }
    }

    /// Exports the ledger to a file and returns its path.
    #[must_use]
    pub fn export_ledger(&self) -> PathBuf {
        let path = self.home.with_extension("bundle");
        // The program replaces no file of others.
        let _ = std::fs::remove_file(&path);
        let _ = self.cli(&["ledger", "export", "--out", &text(&path)]).expect(0);
        path
    }

    /// Exports the ledger and verifies it; returns the exit code.
    #[must_use]
    pub fn verify_ledger(&self) -> Ended {
        let bundle = self.export_ledger();
        self.cli(&["ledger", "verify", &text(&bundle)])
    }
}

/// The same command in a network namespace.
fn within(netns: &str, command: &Command) -> Command {
    let mut outer = Command::new("ip");
    outer.args(["netns", "exec", netns]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// The first line that a process says, or nothing when it does not in time. The others are read, too: a closed pipe would
/// kill the process.
fn first_line(stdout: ChildStdout) -> String {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines();
        // The test may have given up waiting.
        let _ = send.send(lines.next().and_then(Result::ok).unwrap_or_default());
        lines.for_each(drop);
    });
    receive.recv_timeout(READY_TIMEOUT).unwrap_or_default()
}

/// A command that goes on. Dropping it kills the process.
#[derive(Debug)]
pub struct Going(Child);

impl Going {
    /// Starts a program of others that goes on until the answer is dropped.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        let started = command.stdin(Stdio::null()).spawn();
        Self(started.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        // Ended already, or it ends here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // Ended already, or it ends here.
        let _ = child.kill();
        let _ = child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.org, self.log());
        }
    }
}
