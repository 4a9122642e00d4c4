//! How soon a change at one node is known at the last, and what a mesh costs when nothing happens, beside Debian's `serf` with
//! its own defaults: as many real processes of each, one after the other, on the loopback of a network that this made. A change
//! is a record published here and a tag set there; both begin when the command is started. Needs root, `ip`, `serf` and the
//! built program.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[expect(dead_code, reason = "it writes no files of its own")]
#[path = "support/figure.rs"]
mod figure;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tests::harness::{Net, Node, is_root, pause, wait_until};

/// Processes of each kind.
const NODES: usize = 24;
const CHANGES: usize = 10;
/// How long a change may take to be everywhere.
const SPREAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the processes have to come to rest before their traffic is counted, and for how long it is.
const REST: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);
/// Set where this runs within its own network.
const INSIDE: &str = "OPENCLOUD_BENCH_INSIDE";

fn main() {
    if !figure::is_asked_to_measure() {
        return;
    }
    if std::env::var_os(INSIDE).is_some() {
        let ours = opencloud();
        let theirs = serf();
        report("opencloud", &ours);
        report("serf", &theirs);
        let ratio = |ours: f64, theirs: f64| format!("{:.2}", ours / theirs);
        let name = format!("spread: {NODES} nodes, change to the last node, opencloud : serf");
        figure::figure(&name, &ratio(ours.median_s(), theirs.median_s()), "");
        let name = format!("spread: {NODES} nodes, bytes idle, opencloud : serf");
        figure::figure(&name, &ratio(ours.idle_per_s, theirs.idle_per_s), "");
        return;
    }
    let has_serf = Command::new("serf").arg("version").stdout(Stdio::null()).status();
    if !is_root() || !has_serf.is_ok_and(|status| status.success()) {
        println!("left out: it needs root and Debian's package serf");
        return;
    }
    within_a_network();
}

/// Runs this program again in a network namespace with nothing but loopback.
fn within_a_network() {
    let netns = format!("ocserf{}", std::process::id());
    let ip = |args: &[&str]| assert!(Command::new("ip").args(args).status().unwrap().success());
    ip(&["netns", "add", &netns]);
    ip(&["-n", &netns, "link", "set", "lo", "up"]);
    let status = Command::new("ip")
        .args(["netns", "exec", &netns])
        .arg(std::env::current_exe().unwrap())
        .arg("--bench")
        .env(INSIDE, "1")
        .status();
    ip(&["netns", "delete", &netns]);
    assert!(status.unwrap().success());
}

/// What was measured of one kind.
struct Measured {
    /// Seconds from each change to the last node.
    spread_s: Vec<f64>,
    /// Bytes per second that one node sends, as many as it receives, everything counted that is on the wire.
    idle_per_s: f64,
}

impl Measured {
    fn median_s(&self) -> f64 {
        figure::median(self.spread_s.clone())
    }
}

fn report(kind: &str, measured: &Measured) {
    let worst = measured.spread_s.iter().copied().fold(0.0, f64::max);
    let text = format!("{}, at most {}", figure::time(measured.median_s()), figure::time(worst));
    figure::figure(&format!("spread: {NODES} of {kind}, change to the last node"), &text, "");
    let text = format!("{:.0} B/s each way", measured.idle_per_s);
    figure::figure(&format!("spread: {NODES} of {kind}, a node with nothing to do"), &text, "");
}

/// Bytes sent on loopback so far: every one of them once.
fn sent() -> f64 {
    let text = std::fs::read_to_string("/sys/class/net/lo/statistics/tx_bytes").unwrap();
    text.trim().parse().unwrap()
}

#[expect(clippy::cast_precision_loss, reason = "nodes of a bench are few")]
fn idle_per_s() -> f64 {
    pause(REST);
    let (before, begun) = (sent(), Instant::now());
    pause(IDLE);
    (sent() - before) / begun.elapsed().as_secs_f64() / NODES as f64
}

// ---- opencloud ----

fn opencloud() -> Measured {
    let net = Net::new(NODES);
    let mut views: Vec<View> = net.nodes[1..].iter().map(View::of).collect();
    let mut spread_s = Vec::new();
    for change in 0..CHANGES {
        let name = format!("change-{change}");
        let file = net.place.file(&name, &name);
        let begun = Instant::now();
        let command =
            net.nodes[0].command(&["data", "add", &file]).stdout(Stdio::null()).spawn().unwrap();
        let mut command = Ends(command);
        for view in &mut views {
            wait_until(SPREAD_TIMEOUT, "a record is known", || view.data().contains(&name));
        }
        spread_s.push(begun.elapsed().as_secs_f64());
        assert!(command.0.wait().unwrap().success());
    }
    Measured { spread_s, idle_per_s: idle_per_s() }
}

/// A connection to a node's API.
struct View {
    stream: BufReader<TcpStream>,
    request: String,
}

impl View {
    fn of(node: &Node) -> Self {
        let read = |name: &str| std::fs::read_to_string(node.home.join(name)).unwrap();
        let (address, token) = (read("api.address"), read("api.token"));
        let address = address.trim().trim_start_matches("http://");
        let request = format!(
            "GET /api/v1/catalog?filter=kind%20%3D%20data HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\r\n",
            token.trim()
        );
        Self { stream: BufReader::new(TcpStream::connect(address).unwrap()), request }
    }

    /// What the node knows of data, as it answers.
    fn data(&mut self) -> String {
        self.stream.get_mut().write_all(self.request.as_bytes()).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "the API hung up");
            let line = line.trim().to_ascii_lowercase();
            if let Some(n) = line.strip_prefix("content-length:") {
                length = n.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }
}

// ---- serf ----

fn serf() -> Measured {
    let agents: Vec<Agent> = (0..NODES).map(Agent::start).collect();
    for agent in &agents {
        (1..NODES).for_each(|_| agent.wait_for("EventMemberJoin"));
    }
    let mut spread_s = Vec::new();
    for change in 0..CHANGES {
        let begun = Instant::now();
        let command = Command::new("serf")
            .args(["tags", &format!("-rpc-addr={}", rpc(0)), "-set", &format!("n={change}")])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut command = Ends(command);
        agents[1..].iter().for_each(|agent| agent.wait_for("EventMemberUpdate: n0"));
        spread_s.push(begun.elapsed().as_secs_f64());
        assert!(command.0.wait().unwrap().success());
    }
    Measured { spread_s, idle_per_s: idle_per_s() }
}

fn rpc(i: usize) -> String {
    format!("127.0.1.{}:7373", i + 1)
}

/// A process that ends with this.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // Ended already, or it ends here.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

struct Agent {
    lines: Receiver<String>,
    _process: Ends,
}

impl Agent {
    fn start(i: usize) -> Self {
        let mut child = Command::new("serf")
            .args(["agent", &format!("-node=n{i}"), &format!("-bind=127.0.1.{}:7946", i + 1)])
            .args([&format!("-rpc-addr={}", rpc(i)), "-retry-join=127.0.1.1:7946"])
            .args(["-retry-interval=1s"])
            .stdin(Stdio::null())
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
        Self { lines, _process: Ends(child) }
    }

    /// Waits until the agent says something with this in it. What it said before is over.
    fn wait_for(&self, what: &str) {
        let deadline = Instant::now() + SPREAD_TIMEOUT;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(what) => return,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("waited {SPREAD_TIMEOUT:?} for {what}"),
                Err(RecvTimeoutError::Disconnected) => panic!("an agent of serf ended"),
            }
        }
    }
}
