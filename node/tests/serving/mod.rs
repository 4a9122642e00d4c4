//! Components that answer requests, and requests that they fail at.

use std::sync::Arc;
use std::time::Duration;

use node::runtime::{Door, Exit, InvalidModule, Running};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Bench, FAR, Kept, STOP_MAX, guests};

#[path = "../../../tests/src/harness/web.rs"]
#[expect(unreachable_pub, reason = "it is public where it is at home")]
mod web;

/// A replica that runs, and the way to it.
struct Replica {
    _bench: Bench,
    running: Running,
    door: Door,
    logs: Arc<Kept>,
}

async fn replica(memory_bytes: u64, timeout: Duration) -> Replica {
    let bench = Bench::new();
    let (mut task, logs) = bench.task(&web::web_component("hello"));
    (task.serves, task.base.memory_bytes, task.base.timeout) = (true, memory_bytes, timeout);
    let running = bench.runtime.start(task);
    let door = tokio::time::timeout(FAR, running.doorway().opened()).await.unwrap();
    Replica { _bench: bench, running, door, logs }
}

/// Asks for a path on a connection of its own: the status, and the body.
async fn ask(door: &Door, path: &str) -> (u16, String) {
    let mut end = door.connect(80).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: web\r\n\r\n");
    end.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(FAR, end.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

fn hello() -> (u16, String) {
    (200, "hello".to_owned())
}

#[tokio::test]
async fn a_component_answers_requests_one_after_another_and_at_once() {
    let replica = replica(64 << 20, FAR).await;
    let mut end = replica.door.connect(1).await.unwrap();
    for _ in 0..3 {
        end.write_all(b"GET /again HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"0\r\n\r\n") {
            let mut bytes = [0; 1024];
            let n = tokio::time::timeout(FAR, end.read(&mut bytes)).await.unwrap().unwrap();
            assert_ne!(n, 0, "{}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&bytes[..n]);
        }
        let heard = String::from_utf8(heard).unwrap();
        assert!(heard.starts_with("HTTP/1.1 200 ") && heard.contains("hello"), "{heard}");
    }
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let door = replica.door.clone();
            tokio::spawn(async move { ask(&door, "/").await })
        })
        .collect();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), hello());
    }
    assert_eq!(replica.logs.text(), "");
    let meters = replica.running.meters();
    assert!(meters.cpu_us > 0 && meters.memory_peak_bytes >= 64 << 10, "{meters:?}");
    assert!(replica.running.set_up() > Duration::ZERO);
}

#[tokio::test]
async fn an_instance_that_fails_answers_500_says_why_and_ends_alone() {
    let replica = replica(4 << 20, FAR).await;
    for (path, why) in [
        ("/trap", "unreachable"),
        ("/quit", "without an answer"),
        ("/eat", "more memory than the replica has"),
    ] {
        let (status, body) = ask(&replica.door, path).await;
        assert_eq!((status, body.contains("failed")), (500, true), "{path}: {body}");
        assert!(replica.logs.errors().contains(why), "{path}: {}", replica.logs.errors());
        assert_eq!(ask(&replica.door, "/").await, hello(), "after {path}");
    }
    // An instance's memory is free again after it: four at a time have room, a hundred after another as well.
    for n in 0..100 {
        assert_eq!(ask(&replica.door, "/memory").await, hello(), "{n}");
    }
    let mut end = replica.door.connect(80).await.unwrap();
    end.write_all(b"this is no request\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(FAR, end.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(ask(&replica.door, "/").await, hello());
}

#[tokio::test]
async fn a_loop_keeps_nobody_from_an_answer_and_ends_with_its_client() {
    let replica = replica(64 << 20, FAR).await;
    // More of them than requests are answered at a time, had those before not ended.
    for _ in 0..3 {
        let mut loops = Vec::new();
        for _ in 0..40 {
            let mut end = replica.door.connect(80).await.unwrap();
            end.write_all(b"GET /loop HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
            loops.push(end);
        }
        assert_eq!(ask(&replica.door, "/").await, hello());
        drop(loops);
    }
    assert_eq!(ask(&replica.door, "/").await, hello());
}

#[tokio::test]
async fn a_replica_is_stopped_in_the_middle_of_a_request_and_at_the_end_of_its_time() {
    for is_cancelled in [true, false] {
        let limit = if is_cancelled { FAR } else { Duration::from_secs(1) };
        let Replica { _bench, mut running, door, .. } = replica(64 << 20, limit).await;
        let mut end = door.connect(80).await.unwrap();
        end.write_all(b"GET /loop HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
        if is_cancelled {
            running.cancel();
        }
        let expected = if is_cancelled { Exit::Cancelled } else { Exit::Timeout };
        assert_eq!(
            tokio::time::timeout(limit + STOP_MAX * 10, running.wait()).await.unwrap().0,
            expected
        );
        assert_eq!(end.read_to_end(&mut Vec::new()).await.unwrap_or(0), 0);
        assert!(door.connect(80).await.is_err());
    }
}

#[tokio::test]
async fn a_command_is_no_service_and_a_service_no_command() {
    let bench = Bench::new();
    for module in [guests::core(""), guests::component("")] {
        let (mut task, _) = bench.task(&module);
        task.serves = true;
        let (exit, _, _) = bench.run(task).await;
        assert_eq!(exit, Exit::Invalid(InvalidModule::NotServer));
    }
    let (task, _) = bench.task(&web::web_component("hello"));
    let (exit, _, _) = bench.run(task).await;
    assert_eq!(exit, Exit::Invalid(InvalidModule::NotCommand));
}
