//! What a node's process costs: memory when it has nothing to do, and time from start to ready. Needs the built program.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[path = "support/figure.rs"]
mod figure;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const STARTS: usize = 10;
/// How long a ready node is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(2);

fn main() {
    if !figure::is_asked_to_measure() {
        return;
    }
    let program =
        figure::scratch().parent().map(|target| target.join("release/opencloud")).unwrap();
    assert!(program.is_file(), "build it first: cargo build --release");
    let dir = tempfile::tempdir_in(figure::scratch()).unwrap();
    let home = dir.path().join("home");
    let init = Command::new(&program)
        .args(["init", "--org", "Bench", "--home"])
        .arg(&home)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(init.success());
    let (mut ready, mut rss, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let mut node = Node::start(&program, &home);
        ready.push(node.ready_s);
        rss.push(node.rss_mib());
        node.leave_alone();
        idle.push(node.rss_mib());
        node.stop();
    }
    let most = ready.iter().copied().fold(0.0, f64::max);
    let text = format!("{}, at most {}", figure::time(figure::median(ready)), figure::time(most));
    figure::figure("process: start to ready, 10 starts", &text, "");
    let mib = |values| format!("{:.1} MiB", figure::median(values));
    figure::figure("process: VmRSS when ready", &mib(rss), "");
    figure::figure("process: VmRSS 2 s after, idle", &mib(idle), "");
    let size = fs::metadata(&program).map(|found| found.len() >> 20).unwrap();
    figure::figure("process: size of the program", &format!("{size} MiB"), "");
}

struct Node {
    child: Child,
    lines: mpsc::Receiver<String>,
    ready_s: f64,
}

impl Node {
    fn start(program: &PathBuf, home: &Path) -> Self {
        let begun = Instant::now();
        let mut child = Command::new(program)
            .args(["up", "--no-mdns", "--stop-with-stdin", "--output", "json", "--home"])
            .arg(home)
            .args(["--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (to, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        let line = lines.recv().unwrap();
        let ready_s = begun.elapsed().as_secs_f64();
        assert!(line.contains("\"ready\":true"), "{line}");
        Self { child, lines, ready_s }
    }

    fn rss_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
        kib / 1024.0
    }

    /// Nothing is printed after the line that says ready, unless the node fails.
    fn leave_alone(&self) {
        let next = self.lines.recv_timeout(IDLE);
        assert_eq!(next, Err(mpsc::RecvTimeoutError::Timeout), "an idle node is silent");
    }

    fn stop(&mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Already gone unless the bench fails.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
