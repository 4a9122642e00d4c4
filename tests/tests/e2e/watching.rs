//! A real Prometheus, which scrapes a real node.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::harness::{Ended, Going, Place, wait_for};

/// How long Prometheus may take from its start to the first scrape that it shows.
const TIMEOUT: Duration = Duration::from_secs(60);

fn has(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// A port that is free now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The value of a query, as soon as there is one.
fn value(port: u16, query: &str) -> Value {
    let url = format!("http://127.0.0.1:{port}/api/v1/query");
    wait_for(TIMEOUT, &format!("Prometheus knows {query}"), || {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--noproxy", "*", "--get", "--data-urlencode"]);
        let asked = Ended::of(curl.arg(format!("query={query}")).arg(&url));
        let answer: Value = serde_json::from_str(&asked.stdout).ok()?;
        answer["data"]["result"].as_array()?.first().map(|row| row["value"][1].clone())
    })
}

#[test]
fn prometheus_scrapes_a_node() {
    if !has("prometheus") || !has("curl") {
        eprintln!("skipped: there is no prometheus or no curl on the path");
        return;
    }
    let place = Place::new();
    let mut node = place.node("watched");
    let watched = free_port();
    node.options.extend(["--metrics".to_owned(), format!("127.0.0.1:{watched}")]);
    node.start();
    let port = free_port();
    let config = place.file(
        "prometheus.yml",
        format!(
            "scrape_configs:\n- job_name: opencloud\n  scrape_interval: 1s\n  static_configs:\n  - targets: ['127.0.0.1:{watched}']\n"
        ),
    );
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={config}"))
        .arg(format!("--storage.tsdb.path={}", place.path("tsdb").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _prometheus = Going::of(&mut command);
    assert_eq!(value(port, "up"), "1");
    assert_eq!(value(port, "opencloud_engine_answers"), "1");
    assert_eq!(value(port, "opencloud_store_commits_total{result=\"failed\"}"), "0");
    assert_eq!(value(port, "opencloud_catalogue_records{kind=\"compute\"}"), "1");
    // The engine works: what it counts is not nothing.
    assert_ne!(value(port, "opencloud_engine_work_total{what=\"turns\"}"), "0");
}
