//! What is counted of a node, as Prometheus and whoever reads OpenMetrics scrape it.
//!
//! Labels come from this program: routes as they are described, states, kinds, what a peer is to this node. Of what others choose
//! only currencies stand there, and of those a bounded number ([`crate::engine::figures::CURRENCIES_MAX`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use catalog::NodeId;
use fabric::{Path, PeerInfo};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::audit::Audit;
use crate::engine::command::{Command, Response};
use crate::engine::figures::Figures;
use crate::shell::Handle;

/// The media type of the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long the engine and the network may take each; after it the text says that they gave no answer, and has the rest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Upper bounds of the buckets of latency, in seconds.
const BUCKETS: [f64; 11] = [0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Names and values.
type Labels = Vec<(&'static str, String)>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Asked {
    method: &'static str,
    route: String,
    status: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    route: String,
}

/// The counters of one node's API, and the way to everything else that is counted.
#[derive(Debug)]
pub struct Metrics {
    handle: Handle,
    audit: Arc<Audit>,
    requests: Family<Asked, Counter>,
    seconds: Family<Route, Histogram, fn() -> Histogram>,
    started: Instant,
}

impl Metrics {
    /// Begins to count.
    #[must_use]
    pub fn new(handle: Handle, audit: Arc<Audit>) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let seconds = Family::new_with_constructor(histogram);
        Self { handle, audit, requests: Family::default(), seconds, started: Instant::now() }
    }

    /// The node that is counted.
    pub(super) const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Counts a request. `route` is one of the described ones, or a word for all others.
    pub(super) fn count(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let asked = Asked { method, route: route.to_owned(), status: status.into() };
        self.requests.get_or_create(&asked).inc();
        self.seconds.get_or_create(&Route { route: route.to_owned() }).observe(took.as_secs_f64());
    }

    /// The text, with what there is: whoever gives no answer in time is left out, and a figure says so.
    pub(super) async fn text(&self) -> String {
        let mut registry = Registry::with_prefix("opencloud");
        self.add_api(&mut registry);
        self.add_shell(&mut registry);
        let figures =
            tokio::time::timeout(ANSWER_TIMEOUT, self.handle.command(Command::Figures)).await;
        let figures = match figures {
            Ok(Ok(Response::Figures(figures))) => Some(figures),
            _ => None,
        };
        let answers = i64::from(figures.is_some());
        one(&mut registry, "engine_answers", "Whether the engine answered this scrape", answers);
        let network = async { (self.handle.links().await, self.handle.payload().await) };
        let network = tokio::time::timeout(ANSWER_TIMEOUT, network).await;
        let (links, moved) = network.unwrap_or_default();
        if let Some(figures) = figures {
            add_figures(&mut registry, &figures, &links);
        }
        if let Some(moved) = moved {
            let help = "Payload of messages, gossip, blobs and tunnels that peers sent and got";
            let rows = [("received", moved.received), ("sent", moved.sent)];
            counters(&mut registry, "fabric_payload_bytes", help, "direction", &rows);
        }
        let mut text = String::new();
        // Writing into a text does not fail.
        let _ = encode(&mut text, &registry);
        text
    }

    fn add_api(&self, registry: &mut Registry) {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let arch = std::env::consts::ARCH.to_owned();
        let build: Labels = vec![("version", version), ("arch", arch)];
        registry.register("build", "The program", Info::new(build));
        let help = "Requests to the API";
        registry.register("api_requests", help, self.requests.clone());
        let help = "Time until the answer began";
        registry.register("api_request_seconds", help, self.seconds.clone());
        let rows = [("failed", self.audit.failures())];
        let help = "Changes whose line in the audit log could not be written";
        counters(registry, "audit_lines", help, "result", &rows);
        let up = i64::try_from(self.started.elapsed().as_secs()).unwrap_or(i64::MAX);
        one(registry, "uptime_seconds", "Time since the API was opened", up);
        if let Some(bytes) = resident_bytes() {
            one(registry, "resident_memory_bytes", "Memory that the process holds", bytes);
        }
    }

    fn add_shell(&self, registry: &mut Registry) {
        let counts = self.handle.counts();
        let rows = [("done", counts.commits()), ("failed", counts.commit_failures())];
        let help = "Transactions of the durable store; one that failed is tried again";
        counters(registry, "store_commits", help, "result", &rows);
        let writable = i64::from(self.handle.trouble().is_none());
        one(registry, "store_writable", "Whether the durable store takes writes", writable);
        let rows = [("inputs", counts.inputs()), ("turns", counts.turns())];
        let help = "Inputs that the engine handled, and turns in which it did";
        counters(registry, "engine_work", help, "what", &rows);
        let usage = self.handle.blobs().usage();
        one(registry, "blobs", "Contents in the blob store", whole(usage.blobs));
        one(registry, "blob_bytes", "Bytes of the blob store", whole(usage.bytes));
        if let Some(quota) = usage.quota {
            one(registry, "blob_quota_bytes", "Most of them", whole(quota));
        }
    }
}

/// What the engine counts.
fn add_figures(registry: &mut Registry, figures: &Figures, links: &[PeerInfo]) {
    let mut peers: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for (id, trust, is_connected) in &figures.peers {
        *peers.entry((trust, path(*id, *is_connected, links))).or_default() += 1;
    }
    let help = "Peers by what they are to this node and how they are connected";
    let rows =
        peers.iter().map(|((trust, path), n)| (vec![("trust", *trust), ("path", *path)], *n));
    many(registry, "peers", help, rows);
    let kinds = figures.records.iter().map(|(kind, n)| (vec![("kind", *kind)], whole(*n)));
    many(registry, "catalogue_records", "Records of the catalogue", kinds);
    let runs = figures.runs.iter().map(|(state, n)| (vec![("state", *state)], whole(*n)));
    many(registry, "runs", "Runs that are coordinated here", runs);
    one(registry, "tasks_running", "Attempts that this node works on", whole(figures.tasks));
    let (free, total) = (figures.free, figures.total);
    let capacity = [
        ("cpu_milli", free.cpu_milli, total.cpu_milli),
        ("memory_bytes", free.memory_bytes, total.memory_bytes),
        ("disk_bytes", free.disk_bytes, total.disk_bytes),
    ];
    let rows = capacity.iter().flat_map(|(what, free, total)| {
        let row = |part, value: u64| (vec![("resource", *what), ("part", part)], whole(value));
        [row("free", *free), row("total", *total)]
    });
    many(registry, "capacity", "What is offered to tasks, and what of it is free", rows);
    let codes: Vec<(String, &str, i64, i64)> = figures
        .ledger
        .iter()
        .map(|((code, side), (claimed, earned))| (code.to_string(), *side, *claimed, *earned))
        .collect();
    let rows = codes.iter().flat_map(|(code, side, claimed, earned)| {
        let row = |state, nano: i64| {
            (vec![("currency", code.as_str()), ("side", *side), ("state", state)], nano)
        };
        [row("claimed", *claimed), row("acknowledged", *earned)]
    });
    let help = "Balances of the ledger's channels in nano-units (1e-9) of the currency, by this node's side";
    many(registry, "ledger_nano_units", help, rows);
}

fn path(id: NodeId, is_connected: bool, links: &[PeerInfo]) -> &'static str {
    let link = links.iter().find(|link| link.peer.as_bytes() == id.as_bytes());
    match link.map_or(Path::None, |link| link.path) {
        Path::Relayed { .. } => "relayed",
        Path::Direct => "direct",
        // The network has not told yet.
        _ if is_connected => "direct",
        _ => "none",
    }
}

/// A figure that does not fit stands at the largest that does.
fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn one(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn many<'a>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    rows: impl Iterator<Item = (Vec<(&'static str, &'a str)>, i64)>,
) {
    let family: Family<Labels, Gauge> = Family::default();
    for (labels, value) in rows {
        let labels = labels.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
        family.get_or_create(&labels).set(value);
    }
    registry.register(name, help, family);
}

fn counters(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    rows: &[(&str, u64)],
) {
    let family: Family<Labels, Counter<u64, AtomicU64>> = Family::default();
    for (value, count) in rows {
        family.get_or_create(&vec![(label, (*value).to_owned())]).inc_by(*count);
    }
    registry.register(name, help, family);
}

/// Memory of this process, where the system tells.
fn resident_bytes() -> Option<i64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(whole(pages.saturating_mul(rustix::param::page_size() as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_in_the_text_under_their_labels() {
        let mut figures = Figures::default();
        figures.peers.push((NodeId::from_bytes([1; 32]), "partner", true));
        figures.peers.push((NodeId::from_bytes([2; 32]), "peer", false));
        figures.records.insert("data", 3);
        figures.runs.insert("running", 2);
        figures.total.cpu_milli = 2_000;
        figures.ledger.insert(("EUR".parse().unwrap(), "provider"), (7, 5));
        let mut registry = Registry::with_prefix("opencloud");
        add_figures(&mut registry, &figures, &[]);
        counters(&mut registry, "store_commits", "x", "result", &[("done", 4)]);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "# TYPE opencloud_peers gauge",
            "opencloud_peers{trust=\"partner\",path=\"direct\"} 1",
            "opencloud_peers{trust=\"peer\",path=\"none\"} 1",
            "opencloud_catalogue_records{kind=\"data\"} 3",
            "opencloud_runs{state=\"running\"} 2",
            "opencloud_capacity{resource=\"cpu_milli\",part=\"total\"} 2000",
            "opencloud_ledger_nano_units{currency=\"EUR\",side=\"provider\",state=\"acknowledged\"} 5",
            "opencloud_store_commits_total{result=\"done\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
