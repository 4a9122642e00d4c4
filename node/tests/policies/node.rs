//! A node in this process with its real server, what is in it, and what can be asked of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use catalog::Digest;
use node::api::{self, Audit, Metrics, Setup};
use node::identity::Identity;
use node::runtime::Devices;
use node::shell::{self, ComputeOverrides, Home, NodeConfig, ReachConfig, Running, ServeRate};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::model::{Caller, Name, Thing, name};

/// A workflow whose file is missing.
pub(crate) const FLOOD: &str = "opencloud: workflow/v1
name: flood
steps:
  one:
    run: {wasi: {module: one.wasm}}
";

/// A request, and what it does with what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Op {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Value,
    pub(crate) things: Vec<(&'static str, Thing)>,
    /// Whose secret goes with it; the caller's or the owner's when absent.
    pub(crate) secret: Option<String>,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// A list: its path, what is done with its items, where their names are, and those that the model knows.
type List = (&'static str, &'static str, &'static str, Vec<(String, Thing)>);

/// What there is in the node.
pub(crate) struct World {
    tokens: BTreeMap<&'static str, String>,
    pub(crate) ops: Vec<Op>,
    pub(crate) lists: Vec<List>,
}

impl World {
    pub(crate) fn token(&self, caller: &Caller) -> &str {
        &self.tokens[caller.name]
    }

    /// Every name that something has.
    pub(crate) fn names(&self) -> Vec<Name> {
        self.ops
            .iter()
            .flat_map(|op| op.things.iter().flat_map(|(_, thing)| thing.clone()))
            .collect()
    }
}

pub(crate) struct Node {
    running: Running,
    http: reqwest::Client,
    base: String,
    token: String,
    id: String,
    people: Mutex<BTreeMap<String, String>>,
    stop: oneshot::Sender<()>,
    dir: TempDir,
}

fn config(home: &Home) -> NodeConfig {
    NodeConfig {
        home: home.clone(),
        api: ([127, 0, 0, 1], 0).into(),
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        mdns: false,
        reach: ReachConfig::default(),
        serve_rate: ServeRate::default(),
        share_public: false,
        offers: node::engine::ports::Offers::default(),
        light: None,
        price_plan: None,
        compute: ComputeOverrides { cpu_milli: Some(1_000), ..ComputeOverrides::default() },
        containers: None,
        devices: Devices::default(),
        services: false,
        vms: None,
        slurm: None,
        kubernetes: None,
    }
}

impl Node {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Home::init(&dir.path().join("home"), "Survey Office", Some("rack-1")).unwrap();
        Self::open(dir).await
    }

    /// The node ends and begins again.
    pub(crate) async fn restart(self) -> Self {
        drop(self.stop);
        self.running.shutdown().await;
        Self::open(self.dir).await
    }

    async fn open(dir: TempDir) -> Self {
        let home = Home::open(&dir.path().join("home")).unwrap();
        let running = Box::pin(shell::start(config(&home))).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/api/v1", listener.local_addr().unwrap());
        let audit = Arc::new(Audit::open(home.dir()).unwrap());
        let setup = Setup {
            token: home.api_token().unwrap(),
            identity: Arc::new(Identity::open(&home).unwrap()),
            metrics: Arc::new(Metrics::new(running.handle(), Arc::clone(&audit))),
            audit,
            tls: None,
        };
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            // Stops, too, when the sender is gone.
            let _ = stopped.await;
        };
        tokio::spawn(api::serve(running.handle(), listener, setup, shutdown));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let (token, id) = (home.api_token().unwrap(), home.node_id().to_string());
        let people = Mutex::default();
        Self { running, http, base, token, id, people, stop, dir }
    }

    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.running.shutdown().await;
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn owner(&self) -> String {
        self.token.clone()
    }

    /// Asks in somebody's name; in the owner's when it is nobody's.
    pub(crate) async fn ask(&self, token: Option<&str>, op: &Op) -> Asked {
        let method = op.method.parse().unwrap();
        let token = op.secret.as_deref().or(token).unwrap_or(&self.token);
        let mut request =
            self.http.request(method, format!("{}{}", self.base, op.path)).bearer_auth(token);
        if !matches!(&*op.method, "GET" | "HEAD") {
            request = request.body(op.body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        // Streams of events have no end.
        let is_json = answer
            .headers()
            .get("content-type")
            .is_some_and(|kind| kind.to_str().is_ok_and(|kind| kind.contains("json")));
        let body = match is_json && op.method != "HEAD" {
            true => answer.json().await.unwrap(),
            false => Value::Null,
        };
        assert_ne!(body["code"], "too_fast", "{} {}", op.method, op.path);
        Asked { status, body }
    }

    pub(crate) async fn get(&self, token: &str, path: &str) -> Asked {
        let op = Op { method: "GET".to_owned(), path: path.to_owned(), ..Op::default() };
        self.ask(Some(token), &op).await
    }

    /// Asks the registry, with a secret as the password.
    pub(crate) async fn registry(&self, method: &str, path: &str, secret: &str) -> u16 {
        let address = format!("{}{path}", self.base.trim_end_matches("/api/v1"));
        let request = self.http.request(method.parse().unwrap(), address);
        request.basic_auth("any", Some(secret)).send().await.unwrap().status().as_u16()
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: Value) -> Value {
        let op = Op { method: method.to_owned(), path: path.to_owned(), body, ..Op::default() };
        let answer = self.ask(None, &op).await;
        assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.body);
        answer.body
    }

    /// Users by what they are called here, which is not what they are to the node.
    fn with_people(&self, text: &str) -> String {
        let people = self.people.lock().unwrap();
        people.iter().fold(text.to_owned(), |text, (name, told)| text.replace(name, told))
    }

    pub(crate) async fn set(&self, file: &str, text: &str) {
        let text = self.with_people(text);
        self.send("PUT", &format!("/policies/{file}"), json!({"text": text})).await;
    }

    /// Whether the node would take these policies.
    pub(crate) async fn check(&self, text: &str) -> bool {
        let text = self.with_people(text);
        self.send("POST", "/policy/check", json!({"text": text})).await["valid"] == true
    }

    /// Other policies in place of the built-in ones, or those again.
    pub(crate) async fn default_policies(&self, text: Option<&str>) {
        match text {
            Some(text) => self.set("default", text).await,
            None => {
                let op = Op {
                    method: "DELETE".to_owned(),
                    path: "/policies/default".to_owned(),
                    ..Op::default()
                };
                self.ask(None, &op).await;
            }
        }
    }

    pub(crate) async fn user(&self, caller: &Caller) -> String {
        let user = json!({"name": caller.name, "groups": caller.groups, "roles": caller.roles});
        let user = self.send("POST", "/users", user).await;
        let path = format!("/users/{}/tokens", caller.name);
        let told = format!("User::\"local|{}\"", user["subject"].as_str().unwrap());
        self.people.lock().unwrap().insert(format!("User::\"local|{}\"", caller.name), told);
        let made = self.send("POST", &path, json!({"name": "t"})).await;
        made["secret"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn blob(&self, content: &'static str) -> String {
        let request = self.http.post(format!("{}/blobs", self.base)).bearer_auth(&self.token);
        let answer = request.body(content).send().await.unwrap();
        let made: Value = answer.json().await.unwrap();
        assert_eq!(made["digest"], Digest::of(content.as_bytes()).to_string());
        made["digest"].as_str().unwrap().to_owned()
    }

    /// Users, data, workspaces, and what can be asked about them. Nothing that is asked changes any of it.
    pub(crate) async fn furnish(&self, callers: &[Caller]) -> World {
        let mut tokens = BTreeMap::new();
        for caller in callers {
            tokens.insert(caller.name, self.user(caller).await);
        }
        for (key, content) in [("data/dem", "heights"), ("data/rain", "drops")] {
            let digest = self.blob(content).await;
            self.send("POST", "/resources", record(key, &digest)).await;
        }
        let chosen =
            json!({"resources": [format!("{}/data/dem", self.id)], "workflows": {"draft": FLOOD}});
        self.send("PUT", "/workspaces/floods", json!({"workspace": chosen})).await;
        self.send("PUT", "/workspaces/drought", json!({"workspace": {}})).await;
        World { tokens, ops: self.ops(), lists: self.lists() }
    }

    fn node(&self) -> Name {
        name("Node", &*self.id)
    }

    /// The data `data/dem`, which is in a workspace, or `data/rain`, which is in none, by all its names.
    fn data(&self, key: &str, content: &str) -> Thing {
        let within = if key == "data/dem" { vec!["floods"] } else { vec![] };
        let names = [key.to_owned(), format!("{}/{key}", self.id), digest(content)];
        let names = names.map(|text| Name { within: within.clone(), ..name("Data", text) });
        names.into_iter().chain([self.node()]).collect()
    }

    fn alone(&self, kind: &'static str, text: &str) -> Thing {
        vec![name(kind, text), self.node()]
    }

    #[expect(clippy::too_many_lines, reason = "a table, one row for each request")]
    fn ops(&self) -> Vec<Op> {
        let dem = || self.data("data/dem", "heights");
        let op = |method: &str, path: String, body: Value, things: Vec<(&'static str, Thing)>| Op {
            method: method.to_owned(),
            path,
            body,
            things,
            secret: None,
        };
        let none = || Value::Null;
        let run = "run-00000000000000000000000000000000";
        let org = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK";
        let mut ops = vec![
            op("GET", format!("/blobs/{}", digest("heights")), none(), vec![("fetch", dem())]),
            op(
                "GET",
                format!("/blobs/{}", digest("drops")),
                none(),
                vec![("fetch", self.data("data/rain", "drops"))],
            ),
            op(
                "GET",
                format!("/blobs/{}", digest("nowhere")),
                none(),
                vec![("fetch", self.alone("Data", &digest("nowhere")))],
            ),
            op("GET", "/catalog/resource?id=data/dem".to_owned(), none(), vec![("see", dem())]),
            op("GET", "/catalog/resource?id=data/de".to_owned(), none(), vec![("see", dem())]),
            op(
                "GET",
                format!("/catalog/resource?id={}", digest("heights")),
                none(),
                vec![("see", dem())],
            ),
            op(
                "POST",
                "/resources?for=x".to_owned(),
                record("data/dem", &digest("heights")),
                vec![("publish", dem())],
            ),
            op(
                "POST",
                "/resources?for=x".to_owned(),
                record("data/new", &digest("heights")),
                vec![("publish", self.alone("Data", "data/new"))],
            ),
            op(
                "DELETE",
                "/resources?key=data/dem&for=x".to_owned(),
                none(),
                vec![("withdraw", dem())],
            ),
            op(
                "GET",
                "/workspaces/floods".to_owned(),
                none(),
                vec![("see", self.alone("Workspace", "floods"))],
            ),
            op(
                "PUT",
                "/workspaces/floods".to_owned(),
                json!({"version": 99, "workspace": {}}),
                vec![("edit", self.alone("Workspace", "floods"))],
            ),
            op(
                "DELETE",
                "/workspaces/nowhere".to_owned(),
                none(),
                vec![("edit", self.alone("Workspace", "nowhere"))],
            ),
            op("GET", format!("/runs/{run}"), none(), vec![("watch", self.alone("Run", run))]),
            op(
                "POST",
                format!("/runs/{run}/cancel"),
                none(),
                vec![("cancel", self.alone("Run", run))],
            ),
            op(
                "GET",
                "/services/web".to_owned(),
                none(),
                vec![("watch", self.alone("Service", "web"))],
            ),
            op(
                "DELETE",
                "/services/web".to_owned(),
                none(),
                vec![("serve", self.alone("Service", "web"))],
            ),
            op(
                "PATCH",
                "/orgs".to_owned(),
                json!({"org": org, "change": {}}),
                vec![("manage_peers", self.alone("Org", org))],
            ),
            op(
                "POST",
                "/users".to_owned(),
                json!({"name": "!", "groups": ["night"]}),
                vec![("manage_users", self.alone("Group", "night"))],
            ),
            op(
                "PATCH",
                "/users/ben".to_owned(),
                json!({}),
                vec![
                    ("manage_users", self.alone("Group", "lab")),
                    ("manage_users", self.alone("Group", "night")),
                ],
            ),
            op(
                "GET",
                "/users/zoe/tokens".to_owned(),
                none(),
                vec![("manage_users", vec![self.node()])],
            ),
            op("GET", "/ledger".to_owned(), none(), vec![("read_ledger", vec![self.node()])]),
            op("GET", "/policies".to_owned(), none(), vec![("read_policies", vec![self.node()])]),
            op(
                "POST",
                "/policy/reload?x".to_owned(),
                none(),
                vec![("manage_policies", vec![self.node()])],
            ),
            op("GET", "/status".to_owned(), none(), vec![("see", vec![self.node()])]),
            op("GET", "/mesh/events".to_owned(), none(), vec![("see", vec![self.node()])]),
            op("GET", "/tunnel?node=x&name=y".to_owned(), none(), vec![("use", vec![self.node()])]),
        ];
        for (method, path, action, of) in
            [("POST", "/runs", "submit", "use"), ("POST", "/plan", "plan", "see")]
        {
            // The draft of a workspace, with its file missing; and another text that calls itself the same.
            for (source, within) in
                [(FLOOD.to_owned(), vec!["floods"]), (format!("{FLOOD}# mine\n"), vec![])]
            {
                let submission = json!({
                    "source": source, "params": {}, "binding": null, "strategy": null,
                    "assets": {"two.wasm": {"file": {"digest": digest("heights"), "size": 7, "name": "two.wasm"}}},
                });
                let named =
                    |text: String| Name { within: within.clone(), ..name("Workflow", text) };
                let mut workflow = vec![
                    Name { firm: false, ..named("flood".to_owned()) },
                    named(digest(&source)),
                    self.node(),
                ];
                workflow.extend(within.iter().map(|of| name("Workspace", *of)));
                ops.push(op(
                    method,
                    path.to_owned(),
                    submission,
                    vec![(action, workflow), (of, dem())],
                ));
            }
        }
        ops
    }

    fn lists(&self) -> Vec<List> {
        let (dem, rain) = (self.data("data/dem", "heights"), self.data("data/rain", "drops"));
        let id = |key: &str| format!("{}/{key}", self.id);
        let workspaces =
            ["floods", "drought"].map(|of| (of.to_owned(), self.alone("Workspace", of)));
        vec![
            ("/workspaces", "see", "/name", workspaces.to_vec()),
            (
                "/catalog",
                "see",
                "/id",
                vec![(id("data/dem"), dem.clone()), (id("data/rain"), rain.clone())],
            ),
            (
                "/resources",
                "see",
                "/resource/key",
                vec![("data/dem".to_owned(), dem), ("data/rain".to_owned(), rain)],
            ),
        ]
    }
}

pub(crate) fn digest(content: &str) -> String {
    Digest::of(content.as_bytes()).to_string()
}

pub(crate) fn record(key: &str, digest: &str) -> Value {
    json!({
        "key": key, "name": key, "short": "", "long": "", "logo": null, "licence": null, "terms": null, "price": null,
        "detail": {
            "kind": "data", "media_type": "text/plain", "digest": digest, "size": 7, "directory": false, "quality": "",
            "personal": false, "anonymised": false, "open": true, "update_s": null, "residency": [],
        },
    })
}
