//! How long reads of the API take while 500 of them come each second. Needs the built program.
//!
//! The requests come when they are due, whether those before have been answered or not, and each is timed from that moment: an answer
//! that holds up others counts for all of them.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[path = "support/figure.rs"]
mod figure;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Requests a second, and in all.
const RATE: usize = 500;
const REQUESTS: usize = 10_000;
/// Connections, each with one request at a time.
const CONNECTIONS: usize = 16;
/// What is read, in turn.
const PATHS: [&str; 6] = ["/status", "/peers", "/runs", "/catalog", "/ledger", "/services"];

fn main() {
    if !figure::is_asked_to_measure() {
        return;
    }
    let found = figure::scratch().parent().map(|target| target.join("release/opencloud"));
    let program = std::env::var_os("OPENCLOUD_BENCH_PROGRAM").map(Into::into).or(found).unwrap();
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
    let mut node = Command::new(&program)
        .args(["up", "--no-mdns", "--stop-with-stdin", "--output", "json", "--home"])
        .arg(&home)
        .args(["--listen", "/ip4/127.0.0.1/tcp/0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(node.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = ready["api"].as_str().unwrap().to_owned();
    let token = std::fs::read_to_string(home.join("api.token")).unwrap().trim().to_owned();
    let mut times = ask(&address, &token);
    times.sort_unstable();
    let share = |percent: usize| figure::time(times[times.len() * percent / 100].as_secs_f64());
    let median = figure::median(times.iter().map(Duration::as_secs_f64).collect());
    figure::figure("api: reads at 500 /s, 16 connections, median", &figure::time(median), "");
    figure::figure("api: reads at 500 /s, 16 connections, p95", &share(95), "<= 5 ms");
    figure::figure("api: reads at 500 /s, 16 connections, p99", &share(99), "");
    wrk(&address, &token, dir.path());
    drop(node.stdin.take());
    node.wait().unwrap();
}

/// From the moment that each was due until its answer was read.
fn ask(address: &str, token: &str) -> Vec<Duration> {
    let next = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now() + Duration::from_millis(100);
    let asking = (0..CONNECTIONS).map(|_| {
        let (next, address, token) = (Arc::clone(&next), address.to_owned(), token.to_owned());
        std::thread::spawn(move || {
            let mut connection = Connection::open(&address, &token);
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= REQUESTS {
                    return times;
                }
                let due =
                    begun + Duration::from_secs(1) * u32::try_from(number).unwrap() / RATE as u32;
                std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
                connection.get(PATHS[number % PATHS.len()]);
                times.push(due.elapsed());
            }
        })
    });
    let asking: Vec<_> = asking.collect();
    asking.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

struct Connection {
    stream: BufReader<TcpStream>,
    headers: String,
}

impl Connection {
    fn open(address: &str, token: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let headers = format!("Host: {address}\r\nAuthorization: Bearer {token}\r\n\r\n");
        Self { stream: BufReader::new(stream), headers }
    }

    fn get(&mut self, path: &str) {
        let request = format!("GET /api/v1{path} HTTP/1.1\r\n{}", self.headers);
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut length, mut line) = (0, String::new());
        self.stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{path}: {line}");
        while line != "\r\n" {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
    }
}

/// As fast as it goes, by a tool of others, where it is there.
fn wrk(address: &str, token: &str, dir: &Path) {
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c4", "-d5s", "--latency", "-H"]);
    command.arg(format!("Authorization: Bearer {token}"));
    command.arg(format!("http://{address}/api/v1/status")).current_dir(dir);
    let Ok(output) = command.output() else { return };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map_or("?", str::trim).to_owned()
    };
    figure::figure(
        "api: wrk, 4 connections, /status",
        &format!("{} /s", value("Requests/sec:")),
        "",
    );
    figure::figure("api: wrk, 4 connections, p99", &value("99%"), "");
}
