//! Whether the replica of a service does its work: probes from this node to one of its ports, and what they mean.
//!
//! A probe is a connection to the replica itself, through the [`Doorway`] of its runtime, so a consumer cannot make this
//! node ask anybody else. Only changes are told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use scheduler::service::{Health, HealthCheck, Probe, ServiceSpec};
use scheduler::task::AttemptId;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::engine::Input;
use crate::runtime::{Door, Doorway};

/// `HTTP/1.1 200`: how an answer begins.
const STATUS_LEN: usize = 12;

/// What is known of a replica's health, from one probe to the next.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    health: Health,
    /// Failures in a row that count.
    failures: u32,
}

impl Verdict {
    const fn new() -> Self {
        Self { health: Health::Starting, failures: 0 }
    }

    /// Takes the result of a probe, so long after the program's start. True when the health changed.
    fn take(&mut self, check: &HealthCheck, is_good: bool, age: Duration) -> bool {
        let before = self.health;
        let is_young = age < Duration::from_millis(check.grace_ms);
        if is_good {
            (self.health, self.failures) = (Health::Healthy, 0);
        } else if before != Health::Starting || !is_young {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= check.failures {
                self.health = Health::Unhealthy;
            }
        }
        self.health != before
    }
}

/// Watches a replica until it is dropped.
pub(super) async fn watch(
    attempt: AttemptId,
    spec: &ServiceSpec,
    doorway: Doorway,
    inputs: mpsc::Sender<Input>,
) {
    let tell = async |health| {
        // The engine gone means the node is stopping.
        drop(inputs.send(Input::Health { attempt, health }).await);
    };
    let opened = doorway.opened().await;
    let Some(check) = &spec.health else {
        tell(Health::Healthy).await;
        return std::future::pending().await;
    };
    let mut verdict = Verdict::new();
    tell(verdict.health).await;
    let begun = Instant::now();
    let mut every = tokio::time::interval(Duration::from_millis(check.every_ms));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let patience = Duration::from_millis(check.timeout_ms);
        let probing = probe(check, &spec.ports, &opened);
        let is_good = tokio::time::timeout(patience, probing).await.unwrap_or(false);
        if verdict.take(check, is_good, begun.elapsed()) {
            tell(verdict.health).await;
        }
    }
}

async fn probe(check: &HealthCheck, ports: &BTreeMap<String, u16>, door: &Door) -> bool {
    let Some(port) = ports.get(check.probe.port()) else { return false };
    let patience = Duration::from_millis(check.timeout_ms);
    match (&check.probe, door.connect(*port).await) {
        (_, Err(_)) => false,
        (Probe::Tcp { .. }, Ok(socket)) => {
            !door.is_forwarded() || holds(socket, patience / 2).await
        }
        (Probe::Http { path, .. }, Ok(socket)) => is_well(socket, path).await,
    }
}

/// Whether a connection that was taken on the program's behalf is still there after a while, or brings something: one that the
/// program does not take is ended.
async fn holds(mut socket: impl AsyncRead + Unpin, patience: Duration) -> bool {
    match tokio::time::timeout(patience, socket.read(&mut [0; 1])).await {
        Ok(read) => read.is_ok_and(|n| n > 0),
        Err(_) => true,
    }
}

/// Whether a request is answered with a status from 200 to 399.
async fn is_well(mut socket: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> bool {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: opencloud\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    let mut head = [0; STATUS_LEN];
    socket.write_all(request.as_bytes()).await.is_ok()
        && socket.read_exact(&mut head).await.is_ok()
        && status(&head).is_some_and(|status| (200..400).contains(&status))
}

fn status(head: &[u8; STATUS_LEN]) -> Option<u16> {
    let text = std::str::from_utf8(head).ok()?;
    let (version, status) = text.split_once(' ')?;
    version.strip_prefix("HTTP/1.")?;
    (status.len() == 3).then(|| status.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    fn check(failures: u32, grace_ms: u64) -> HealthCheck {
        let probe = Probe::Tcp { port: "http".to_owned() };
        HealthCheck { probe, every_ms: 1_000, timeout_ms: 100, failures, grace_ms }
    }

    #[test]
    fn failures_count_in_a_row_and_one_success_is_enough() {
        let (check, mut verdict) = (check(2, 0), Verdict::new());
        let mut take = |is_good| {
            verdict.take(&check, is_good, Duration::from_secs(1));
            verdict.health
        };
        assert_eq!(take(false), Health::Starting);
        assert_eq!(take(true), Health::Healthy);
        assert_eq!(take(false), Health::Healthy);
        assert_eq!(take(true), Health::Healthy);
        assert_eq!(take(false), Health::Healthy);
        assert_eq!(take(false), Health::Unhealthy);
        assert_eq!(take(false), Health::Unhealthy);
        assert_eq!(take(true), Health::Healthy);
    }

    #[test]
    fn a_young_program_may_take_its_time_unless_it_was_healthy_before() {
        let (check, mut verdict) = (check(1, 10_000), Verdict::new());
        let (young, old) = (Duration::from_secs(9), Duration::from_secs(10));
        assert!(!verdict.take(&check, false, young));
        assert_eq!(verdict.health, Health::Starting);
        let mut slow = verdict;
        assert!(slow.take(&check, false, old));
        assert_eq!(slow.health, Health::Unhealthy);
        assert!(verdict.take(&check, true, young));
        assert!(verdict.take(&check, false, young));
        assert_eq!(verdict.health, Health::Unhealthy);
    }

    #[test]
    fn an_answer_begins_with_a_status() {
        for (head, expected) in [
            (b"HTTP/1.1 200", Some(200)),
            (b"HTTP/1.0 503", Some(503)),
            (b"HTTP/2.0 200", None),
            (b"HTTP/1.1 2 0", None),
            (b"SSH-2.0-Open", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(status(head), expected, "{head:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_at_once_was_never_taken() {
        for (says, stays, expected) in
            [("", false, false), ("", true, true), ("220 hello", false, true)]
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let connected = TcpStream::connect(address).await.unwrap();
            let (mut other_end, _) = listener.accept().await.unwrap();
            other_end.write_all(says.as_bytes()).await.unwrap();
            let kept = stays.then_some(other_end);
            let patience = Duration::from_millis(if stays { 50 } else { 30_000 });
            assert_eq!(holds(connected, patience).await, expected, "{says:?} {stays}");
            drop(kept);
        }
    }

    #[tokio::test]
    async fn only_what_answers_well_is_well() {
        for (answer, expected) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 302 Found\r\n\r\n", true),
            ("HTTP/1.1 404 Not Found\r\n\r\n", false),
            ("HTTP/1.1 2", false),
            ("", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let serving = tokio::spawn(async move {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 1024];
                let n = socket.read(&mut request).await.unwrap();
                socket.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8_lossy(&request[..n]).into_owned()
            });
            let socket = TcpStream::connect(address).await.unwrap();
            assert_eq!(is_well(socket, "/healthz?deep=1").await, expected, "{answer}");
            let request = serving.await.unwrap();
            assert!(request.starts_with("GET /healthz?deep=1 HTTP/1.1\r\n"), "{request}");
        }
    }
}
