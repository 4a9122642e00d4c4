//! The service document, read and checked.
//!
//! ```
//! let text = "
//! opencloud: service/v1
//! name: hello
//! run: {wasi: {module: hello.wasm}}
//! ports: {http: 8080}
//! replicas: 3
//! health: {http: {port: http, path: /healthz}, every: 5s, failures: 3}
//! restart: {policy: always, backoff: {initial: 1s, max: 5m}}
//! update: {max_unavailable: 0, max_surge: 1}
//! ";
//! let service = scheduler::service::Document::parse(text)?;
//! assert_eq!((service.name.as_str(), service.replicas), ("hello", Some(3)));
//! # Ok::<(), scheduler::workflow::Diagnostics>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};

use catalog::{Digest, OrgId};

use super::REPLICAS_MAX;
use super::spec::{
    ACCESS_ORGS_MAX, Access, EVERY_MS, FAILURES_MAX, GRACE_MAX_MS, HealthCheck, PORTS_MAX, Probe,
    ServiceSpec, Spread, TIMEOUT_MS, is_probe_path,
};
use crate::task::{Needs, RuntimeKind};
use crate::workflow::{
    Asset, Backoff, DURATION_MAX_MS, Diagnostics, Fields, Node, Problem, Reader, Retry, Step,
    StepRun, Workflow, check_version, document_name, join, parse_tree, read_backoff, read_needs,
    read_run,
};

/// What the first key of a service document says.
pub const VERSION: &str = "service/v1";
/// The id of the one step that a replica is.
pub const STEP: &str = "replica";
/// Shortest and longest agreement for a replica, in milliseconds. A provider is bound to a price for no longer, and an
/// agreement that ends sooner would be renewed more than it serves.
pub const TERM_MS: (u64, u64) = (600_000, 24 * 3_600_000);
/// How long an update may go without any new replica becoming healthy when the document does not say, in milliseconds.
pub const DEADLINE_MS: u64 = 600_000;
/// How long a replica that is to end keeps the connections it has when the document does not say, in milliseconds.
pub const DRAIN_MS: u64 = 10_000;
/// Longest such time, in milliseconds.
const DRAIN_MAX_MS: u64 = 3_600_000;

const KEYS: [&str; 13] = [
    "opencloud",
    "name",
    "description",
    "run",
    "ports",
    "replicas",
    "health",
    "restart",
    "update",
    "needs",
    "access",
    "spread",
    "term",
];

/// A checked service document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its name, which is that of the service.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// BLAKE3 of the document's text.
    pub digest: Digest,
    /// What every replica runs.
    pub run: StepRun,
    /// What its provider is told besides.
    pub spec: ServiceSpec,
    /// How many replicas there should be; when absent as many as there were, and one at first.
    pub replicas: Option<u32>,
    /// What happens when one ends by itself.
    pub restart: Restart,
    /// How replicas are replaced.
    pub update: Update,
    /// What each needs of a node.
    pub needs: Needs,
    /// What replicas keep away from each other by.
    pub spread: Spread,
    /// Length of an agreement in milliseconds, after which a successor has taken over.
    pub term_ms: u64,
    assets: Vec<Asset>,
}

/// What happens to a replica that ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Whether another takes its place.
    pub policy: RestartPolicy,
    /// How long to wait after replicas that ended through their own fault. The pauses grow up to a bound, so that a program
    /// that cannot work costs little.
    pub backoff: Backoff,
}

impl Default for Restart {
    /// Always, after one second at first and five minutes at most.
    fn default() -> Self {
        let backoff = Backoff { max_ms: 300_000, ..Backoff::default() };
        Self { policy: RestartPolicy::default(), backoff }
    }
}

/// When another replica takes the place of one whose program ended. What ended through a provider's fault is always
/// replaced, for its program did not end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever the program said.
    #[default]
    Always,
    /// Unless the program ended with code 0.
    OnFailure,
    /// Never.
    Never,
}

/// How replicas are replaced by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// How many of the replicas may be missing meanwhile.
    pub max_unavailable: u32,
    /// How many there may be beyond the wanted ones meanwhile.
    pub max_surge: u32,
    /// After how long without progress an update stops, in milliseconds.
    pub deadline_ms: u64,
    /// How long a replica is left alone between its last new connection and its end, in milliseconds.
    pub drain_ms: u64,
}

impl Default for Update {
    fn default() -> Self {
        Self { max_unavailable: 0, max_surge: 1, deadline_ms: DEADLINE_MS, drain_ms: DRAIN_MS }
    }
}

impl Document {
    /// Reads and checks a document, YAML or JSON.
    ///
    /// # Errors
    /// Every problem found, in the order of the text.
    pub fn parse(source: &str) -> Result<Self, Diagnostics> {
        let (tree, found) = parse_tree(source)?;
        let mut reader = Reader::with(found);
        let document = read(&mut reader, &tree, Digest::of(source.as_bytes()));
        reader.finish(document)
    }

    /// What one replica is: a workflow of one step that is tried once. Whether another takes its place is not decided
    /// there.
    #[must_use]
    pub fn workflow(&self) -> Workflow {
        let step = Step {
            id: STEP.to_owned(),
            description: None,
            run: self.run.clone(),
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
            deps: BTreeSet::new(),
            after: BTreeSet::new(),
            map: None,
            when: None,
            retry: Retry { attempts: 1, on: BTreeSet::new(), backoff: Backoff::default() },
            timeout_ms: self.term_ms,
            needs: self.needs.clone(),
            service: Some(self.spec.clone()),
        };
        let (name, description) = (self.name.clone(), self.description.clone());
        Workflow::of_one_step(name, description, self.digest, step, self.assets.clone())
    }

    /// Local files and directories that the document names, each once, in the order of paths.
    #[must_use]
    pub fn asset_paths(&self) -> Vec<Asset> {
        self.assets.clone()
    }
}

fn read(reader: &mut Reader, tree: &Node, digest: Digest) -> Option<Document> {
    let fields = reader.fields(tree, "", &KEYS)?;
    check_version(reader, &fields, VERSION)?;
    let name = document_name(reader, &fields, "service name");
    let description = fields.get("description");
    let description = description.and_then(|node| reader.text(node, "description"));
    let run = reader.require(&fields, "run");
    let (run, assets) = run.map(|node| run_of(reader, node)).unwrap_or_default();
    let ports = ports(reader, &fields);
    let replicas = fields.get("replicas");
    let replicas = replicas.and_then(|node| reader.number(node, "replicas", 0, REPLICAS_MAX));
    let health = fields.get("health");
    let health = health.map(|node| health_of(reader, node, &ports));
    let restart = fields.get("restart").map(|node| restart(reader, node));
    let update = fields.get("update").map(|node| update(reader, node));
    let runtime = run.as_ref().map(StepRun::runtime);
    let needs = fields.get("needs").map(|node| read_needs(reader, node, "needs", runtime));
    let access = fields.get("access").map(|node| access(reader, node));
    let spread = fields.get("spread").map(|node| {
        let words = [("nodes", Spread::Nodes), ("orgs", Spread::Orgs), ("none", Spread::None)];
        word(reader, node, "spread", &words).unwrap_or_default()
    });
    let term = fields.get("term");
    let term = term.and_then(|node| reader.duration(node, "term", TERM_MS.0, TERM_MS.1));
    let spec = ServiceSpec {
        ports,
        health: health.unwrap_or_default(),
        access: access.unwrap_or_default(),
    };
    Some(Document {
        name: name?,
        description: description.map(str::to_owned),
        digest,
        run: run?,
        spec,
        replicas,
        restart: restart.unwrap_or_default(),
        update: update.unwrap_or_default(),
        needs: needs.unwrap_or_default(),
        spread: spread.unwrap_or_default(),
        term_ms: term.unwrap_or(TERM_MS.1),
        assets,
    })
}

fn run_of(reader: &mut Reader, node: &Node) -> (Option<StepRun>, Vec<Asset>) {
    let (run, assets) = read_run(reader, node, "run");
    if run.as_ref().is_some_and(|run| run.runtime() == RuntimeKind::Slurm) {
        let (expected, found) =
            ("wasi, container or vm", "a batch job, which nobody can connect to");
        reader.report(node.at, "run", Problem::Expected { expected, found });
    }
    (run, assets)
}

fn ports(reader: &mut Reader, fields: &Fields<'_>) -> BTreeMap<String, u16> {
    let mut ports = BTreeMap::new();
    let Some(node) = reader.require(fields, "ports") else {
        return ports;
    };
    let entries = reader.entries(node, "ports");
    if entries.is_empty() && node.is_map() {
        let expected = "at least one port, as in `{http: 8080}`";
        reader.report(node.at, "ports", Problem::Expected { expected, found: "none" });
    }
    too_many(reader, node, "ports", entries.len(), PORTS_MAX);
    let mut names: BTreeMap<u16, &str> = BTreeMap::new();
    for (key, node) in entries.iter().take(PORTS_MAX) {
        let path = join("ports", &key.text);
        reader.name(key, &path, "port name");
        let number = reader.number(node, &path, 1, u32::from(u16::MAX));
        let Some(port) = number.and_then(|n| u16::try_from(n).ok()) else {
            // It counts as there, so that a probe of it is not refused too.
            ports.insert(key.text.clone(), 1);
            continue;
        };
        if names.insert(port, &key.text).is_some() {
            let (expected, found) = ("a port of its own", "the number of another port");
            reader.report(node.at, &path, Problem::Expected { expected, found });
        }
        ports.insert(key.text.clone(), port);
    }
    ports
}

fn too_many(reader: &mut Reader, node: &Node, what: &'static str, found: usize, max: usize) {
    if found > max {
        reader.report(node.at, what, Problem::TooMany { what, found, max });
    }
}

fn health_of(
    reader: &mut Reader,
    node: &Node,
    ports: &BTreeMap<String, u16>,
) -> Option<HealthCheck> {
    let known = ["http", "tcp", "every", "timeout", "failures", "grace"];
    let fields = reader.fields(node, "health", &known)?;
    let probe = match (fields.get("http"), fields.get("tcp")) {
        (Some(node), None) => http(reader, node, ports),
        (None, Some(node)) => {
            let path = fields.path("tcp");
            let fields = reader.fields(node, &path, &["port"])?;
            port_name(reader, &fields, ports).map(|port| Probe::Tcp { port })
        }
        _ => {
            let alternatives = "`http`, `tcp`".to_owned();
            reader.report(node.at, "health", Problem::OneOf { alternatives });
            None
        }
    };
    let mut duration = |key: &str, (min, max): (u64, u64), default| {
        let node = fields.get(key);
        node.and_then(|node| reader.duration(node, &fields.path(key), min, max)).unwrap_or(default)
    };
    let every_ms = duration("every", EVERY_MS, 10_000);
    let timeout_ms = duration("timeout", TIMEOUT_MS, 2_000);
    let grace_ms = duration("grace", (0, GRACE_MAX_MS), 30_000);
    let failures = fields.get("failures");
    let failures =
        failures.and_then(|node| reader.number(node, "health.failures", 1, FAILURES_MAX));
    Some(HealthCheck {
        probe: probe?,
        every_ms,
        timeout_ms,
        failures: failures.unwrap_or(3),
        grace_ms,
    })
}

fn http(reader: &mut Reader, node: &Node, ports: &BTreeMap<String, u16>) -> Option<Probe> {
    let fields = reader.fields(node, "health.http", &["port", "path"])?;
    let port = port_name(reader, &fields, ports);
    let mut path = "/";
    if let Some(node) = fields.get("path") {
        path = reader.text(node, "health.http.path")?;
        if !is_probe_path(path) {
            let (expected, found) = ("a path such as `/healthz`", "something else");
            reader.report(node.at, "health.http.path", Problem::Expected { expected, found });
        }
    }
    Some(Probe::Http { port: port?, path: path.to_owned() })
}

/// The name of one of the service's ports; it may be left out when there is only one.
fn port_name(
    reader: &mut Reader,
    fields: &Fields<'_>,
    ports: &BTreeMap<String, u16>,
) -> Option<String> {
    if let (None, [only]) = (fields.get("port"), ports.keys().collect::<Vec<_>>().as_slice()) {
        return Some((*only).clone());
    }
    let node = reader.require(fields, "port")?;
    let path = fields.path("port");
    let name = reader.text(node, &path)?;
    if ports.contains_key(name) {
        return Some(name.to_owned());
    }
    unknown(reader, node, &path, ("port", name), ports.keys().map(String::as_str));
    None
}

fn unknown<'a>(
    reader: &mut Reader,
    node: &Node,
    path: &str,
    (what, word): (&'static str, &str),
    known: impl Iterator<Item = &'a str>,
) {
    let known: Vec<&str> = known.collect();
    let hint = format!("one of {}", known.join(", "));
    let problem = Problem::UnknownWord { what, word: word.chars().take(80).collect() };
    reader.report_hint(node.at, path, problem, Some(hint));
}

fn word<T: Copy>(
    reader: &mut Reader,
    node: &Node,
    path: &'static str,
    words: &[(&str, T)],
) -> Option<T> {
    let text = reader.text(node, path)?;
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
    if found.is_none() {
        unknown(reader, node, path, ("word", text), words.iter().map(|(word, _)| *word));
    }
    found
}

fn restart(reader: &mut Reader, node: &Node) -> Restart {
    let mut restart = Restart::default();
    let Some(fields) = reader.fields(node, "restart", &["policy", "backoff"]) else {
        return restart;
    };
    if let Some(node) = fields.get("policy") {
        let words = [
            ("always", RestartPolicy::Always),
            ("on_failure", RestartPolicy::OnFailure),
            ("never", RestartPolicy::Never),
        ];
        restart.policy = word(reader, node, "restart.policy", &words).unwrap_or_default();
    }
    if let Some(node) = fields.get("backoff") {
        restart.backoff = read_backoff(reader, node, "restart.backoff", restart.backoff);
    }
    restart
}

fn update(reader: &mut Reader, node: &Node) -> Update {
    let mut update = Update::default();
    let known = ["max_unavailable", "max_surge", "deadline", "drain"];
    let Some(fields) = reader.fields(node, "update", &known) else {
        return update;
    };
    for (key, place) in
        [("max_unavailable", &mut update.max_unavailable), ("max_surge", &mut update.max_surge)]
    {
        let number = fields.get(key);
        let number = number.and_then(|n| reader.number(n, &fields.path(key), 0, REPLICAS_MAX));
        *place = number.unwrap_or(*place);
    }
    if (update.max_unavailable, update.max_surge) == (0, 0) {
        let expected = "`max_unavailable` or `max_surge` above 0";
        let hint = "otherwise no replica could ever be replaced".to_owned();
        let problem = Problem::Expected { expected, found: "both 0" };
        reader.report_hint(node.at, "update", problem, Some(hint));
    }
    let bounds = [
        ("deadline", (1_000, DURATION_MAX_MS), &mut update.deadline_ms),
        ("drain", (0, DRAIN_MAX_MS), &mut update.drain_ms),
    ];
    for (key, (min, max), place) in bounds {
        let ms = fields.get(key);
        let ms = ms.and_then(|node| reader.duration(node, &fields.path(key), min, max));
        *place = ms.unwrap_or(*place);
    }
    update
}

/// `owner`, `realm`, or a list of organisations by their ids: a name is nobody's own.
fn access(reader: &mut Reader, node: &Node) -> Access {
    let Some(items) = node.items() else {
        let words = [("owner", false), ("realm", true)];
        return match word(reader, node, "access", &words) {
            Some(true) => Access::Realm,
            _ => Access::Owner,
        };
    };
    too_many(reader, node, "access", items.len(), ACCESS_ORGS_MAX);
    let mut orgs = BTreeSet::new();
    for (n, node) in items.iter().take(ACCESS_ORGS_MAX).enumerate() {
        let path = format!("access[{n}]");
        let Some(text) = reader.text(node, &path) else {
            continue;
        };
        match text.parse::<OrgId>() {
            Ok(org) => _ = orgs.insert(org),
            Err(error) => reader.report(node.at, &path, Problem::Digest(error)),
        }
    }
    Access::Orgs(orgs)
}
