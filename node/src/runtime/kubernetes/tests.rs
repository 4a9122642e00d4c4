//! The runtime against a server that answers as the API of a cluster and as a registry are documented to: what it asks of
//! them, and what it makes of a pod that does not get as far as its task. No container runs here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use catalog::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::pod::{NODE_LABEL, owner_label};
use super::stray::STRAY_AFTER;
use super::{ConnectError, ContainerTask, KubernetesRuntime, Lost, Options};
use crate::runtime::{Exit, HostFault, LogSink, Origin, Stream, TaskBase};

const OWNER: &str = "node-1";
/// How long the runtime may take for what should take it a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the server has, and was asked.
#[derive(Default)]
struct Site {
    has_policy: bool,
    pods: BTreeMap<String, Value>,
    /// What becomes of a new pod.
    status: Value,
    /// What the registry has, by path.
    stored: BTreeSet<String>,
    asked: Vec<String>,
    /// A new pod is made, and its maker told that it is not.
    is_lying: bool,
}

#[derive(Clone)]
struct Server {
    site: Arc<Mutex<Site>>,
    address: String,
}

impl Server {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let site = Arc::new(Mutex::new(Site { has_policy: true, ..Site::default() }));
        let server = Self { site, address };
        let router = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    fn site(&self) -> MutexGuard<'_, Site> {
        self.site.lock().unwrap()
    }

    fn asked(&self, what: &str) -> usize {
        self.site().asked.iter().filter(|asked| asked.starts_with(what)).count()
    }

    fn options(&self, dir: &Path) -> Options {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": format!("http://{}", self.address)}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "users": [{"name": "u", "user": {"token": "secret"}}],
        });
        let path = dir.join("kubeconfig");
        std::fs::write(&path, config.to_string()).unwrap();
        let registry = format!("http://{}/oc", self.address);
        Options { config: Some(path), ..Options::new(OWNER, "tasks", &registry) }
    }
}

fn status(code: StatusCode, reason: &str) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("it is {reason}"), "reason": reason, "code": code.as_u16(),
    });
    (code, Json(body)).into_response()
}

async fn answer(
    Shared(server): Shared<Server>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut site = server.site();
    site.asked.push(format!("{method} {}", uri.path()));
    if uri.path().starts_with("/v2/") {
        return registry(&mut site, &server.address, &method, &uri, &headers);
    }
    if uri.path() == "/token" {
        return Json(json!({"token": "t"})).into_response();
    }
    if headers.get(header::AUTHORIZATION).is_none_or(|given| given != "Bearer secret") {
        return status(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    api(&mut site, &method, &uri, &body)
}

fn api(site: &mut Site, method: &Method, uri: &Uri, body: &[u8]) -> Response {
    let pods = "/api/v1/namespaces/tasks/pods";
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    let one = path.strip_prefix(&format!("{pods}/")).map(str::to_owned);
    match (method, path, one) {
        (&Method::GET, "/version", _) => Json(json!({
            "major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
        }))
        .into_response(),
        (&Method::GET, path, _) if path.ends_with("/networkpolicies/opencloud-no-network") => {
            if !site.has_policy {
                return status(StatusCode::NOT_FOUND, "NotFound");
            }
            let policy = json!({"metadata": {"name": "opencloud-no-network"}});
            Json(policy).into_response()
        }
        (&Method::GET, path, _) if path == pods => {
            let own = |pod: &&Value| {
                let label = pod["metadata"]["labels"][NODE_LABEL].as_str().unwrap_or("none");
                query.contains(label)
            };
            let items: Vec<&Value> = site.pods.values().filter(own).collect();
            let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
            Json(list).into_response()
        }
        (&Method::POST, path, _) if path == pods => {
            let mut pod: Value = serde_json::from_slice(body).unwrap();
            pod["status"] = site.status.clone();
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            site.pods.insert(name, pod.clone());
            if site.is_lying {
                // Of the kinds of errors that the client does not ask again after.
                return status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
            }
            (StatusCode::CREATED, Json(pod)).into_response()
        }
        (&Method::GET, _, Some(name)) => match site.pods.get(&name) {
            Some(pod) => Json(pod).into_response(),
            None => status(StatusCode::NOT_FOUND, "NotFound"),
        },
        (&Method::DELETE, _, Some(name)) => match site.pods.remove(&name) {
            Some(pod) => Json(pod).into_response(),
            None => status(StatusCode::NOT_FOUND, "NotFound"),
        },
        _ => status(StatusCode::FORBIDDEN, "Forbidden"),
    }
}

/// A registry that gives everybody a token.
fn registry(
    site: &mut Site,
    address: &str,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Response {
    if headers.get(header::AUTHORIZATION).is_none_or(|given| given != "Bearer t") {
        let realm = format!("Bearer realm=\"http://{address}/token\",service=\"s\"");
        let wanted = [(header::WWW_AUTHENTICATE, realm)];
        return (StatusCode::UNAUTHORIZED, wanted).into_response();
    }
    let path = uri.path().to_owned();
    match *method {
        Method::HEAD if site.stored.contains(&path) => StatusCode::OK.into_response(),
        Method::HEAD => StatusCode::NOT_FOUND.into_response(),
        Method::POST => {
            let place = [(header::LOCATION, "/v2/oc/blobs/uploads/1?state=x")];
            (StatusCode::ACCEPTED, place).into_response()
        }
        Method::PUT => {
            let query = uri.query().unwrap_or_default().replace("%3A", ":");
            let named =
                query.rsplit_once("digest=").map(|(_, digest)| format!("/v2/oc/blobs/{digest}"));
            // A manifest is found by its digest, whatever tag it came with.
            let name = named.unwrap_or_else(|| path.replace("sha256-", "sha256:"));
            site.stored.insert(name);
            StatusCode::CREATED.into_response()
        }
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

struct Nowhere;

impl LogSink for Nowhere {
    fn write(&self, _: Stream, _: &[u8]) {}
}

/// Writes an image of one layer in the OCI layout.
fn write_image(dir: &Path) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let add = |kind: &str, bytes: &[u8]| {
        let hex = catalog::id::to_hex(&Sha256::digest(bytes));
        std::fs::write(blobs.join(&hex), bytes).unwrap();
        let kind = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": kind, "digest": format!("sha256:{hex}"), "size": bytes.len()})
    };
    let layer = add("layer.v1.tar", &[0; 1_024]);
    let arch = Options::new("", "", "").arch;
    let config = json!({"os": "linux", "architecture": arch, "config": {"Entrypoint": ["/p"]}});
    let config = add("config.v1+json", config.to_string().as_bytes());
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let manifest = add("manifest.v1+json", manifest.to_string().as_bytes());
    std::fs::write(dir.join("index.json"), json!({"manifests": [manifest]}).to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
}

fn task(dir: &Path) -> ContainerTask {
    let image = dir.join("image");
    if !image.exists() {
        write_image(&image);
    }
    let private = |name: &str| -> PathBuf {
        let path = dir.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    ContainerTask {
        base: TaskBase {
            name: "task-1".to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            stdin: None,
            work: private("work"),
            tmp: private("tmp"),
            mounts: Vec::new(),
            cpu_milli: 1_000,
            memory_bytes: 64 << 20,
            disk_bytes: 1 << 20,
            network: false,
            timeout: PATIENCE,
            logs: Arc::new(Nowhere),
        },
        digest: Digest::of(b"image"),
        image,
        entrypoint: None,
        devices: Vec::new(),
        has_ports: false,
    }
}

/// Runs a check against a new server.
fn with_server(check: impl AsyncFnOnce(Server, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async { check(Server::start().await, dir.path()).await });
}

async fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn an_image_is_put_into_the_registry_once() {
    with_server(async |server, dir| {
        let runtime = KubernetesRuntime::connect(server.options(dir)).await.unwrap();
        let task = task(dir);
        let prepared = runtime.prepare(&task.image, task.digest).await.unwrap();
        assert_eq!(prepared.origin, Origin::Cold);
        // Two blobs and the manifest, and one token for all.
        assert_eq!(server.asked("PUT /v2/oc/"), 3);
        assert_eq!(server.asked("GET /token"), 1);
        assert_eq!(server.site().stored.len(), 3);
        let prepared = runtime.prepare(&task.image, task.digest).await.unwrap();
        assert_eq!(prepared.origin, Origin::Warm);

        let again = KubernetesRuntime::connect(server.options(dir)).await.unwrap();
        let prepared = again.prepare(&task.image, task.digest).await.unwrap();
        assert_eq!(prepared.origin, Origin::Cached);
        assert_eq!(server.asked("PUT /v2/oc/"), 3);
    });
}

#[test]
fn a_cluster_without_a_policy_is_taken_only_when_the_owner_says_so() {
    with_server(async |server, dir| {
        server.site().has_policy = false;
        let options = server.options(dir);
        let refused = KubernetesRuntime::connect(options.clone()).await.unwrap_err();
        assert!(matches!(refused, ConnectError::NoPolicy { .. }), "{refused}");
        let open = Options { allow_open_network: true, ..options };
        let runtime = KubernetesRuntime::connect(open).await.unwrap();
        assert!(!runtime.cluster().has_policy);
        assert_eq!(runtime.cluster().version, "v1.33.0");
    });
}

#[test]
fn pods_of_an_earlier_life_are_deleted_and_those_of_others_are_not() {
    with_server(async |server, dir| {
        for (name, owner) in [("own", OWNER), ("other", "node-2")] {
            let labels = json!({NODE_LABEL: owner_label(owner)});
            let pod = json!({"metadata": {"name": name, "labels": labels}});
            server.site().pods.insert(name.to_owned(), pod);
        }
        KubernetesRuntime::connect(server.options(dir)).await.unwrap();
        assert_eq!(server.site().pods.keys().collect::<Vec<_>>(), ["other"]);
    });
}

#[test]
fn pods_that_no_task_follows_are_deleted_in_time_and_others_are_not() {
    with_server(async |server, dir| {
        server.site().status = json!({"phase": "Pending"});
        let runtime = KubernetesRuntime::connect(server.options(dir)).await.unwrap();
        let lists = || server.asked("GET /api/v1/namespaces/tasks/pods");
        let before = lists();
        let mut running = runtime.start(task(dir));
        until("the task follows its pod", || lists() > before).await;
        for (name, owner) in [("late", OWNER), ("other", "node-2")] {
            let labels = json!({NODE_LABEL: owner_label(owner)});
            let pod = json!({"metadata": {"name": name, "labels": labels, "uid": name}});
            server.site().pods.insert(name.to_owned(), pod);
        }
        let now = Instant::now();
        runtime.watch.look(now).await;
        runtime.watch.look(now + STRAY_AFTER / 2).await;
        assert_eq!(server.site().pods.len(), 3, "it may just be about to be followed");
        runtime.watch.look(now + STRAY_AFTER + PATIENCE).await;
        assert!(!server.site().pods.contains_key("late"));
        assert_eq!(server.site().pods.len(), 2);
        assert_eq!(server.asked("DELETE "), 1);
        running.cancel();
        assert_eq!(running.wait().await.0, Exit::Cancelled);
        assert_eq!(server.site().pods.keys().collect::<Vec<_>>(), ["other"]);
    });
}

#[test]
fn a_pod_that_was_made_although_the_cluster_said_no_is_deleted() {
    with_server(async |server, dir| {
        server.site().is_lying = true;
        let runtime = KubernetesRuntime::connect(server.options(dir)).await.unwrap();
        let (exit, _) = runtime.start(task(dir)).wait().await;
        assert!(matches!(exit, Exit::Host(HostFault::Kubernetes { .. })), "{exit}");
        assert_eq!(server.asked("POST /api/v1/namespaces/tasks/pods"), 1);
        assert!(server.site().pods.is_empty());
    });
}

#[test]
fn a_pod_that_waits_for_its_machine_is_cancelled_and_deleted() {
    with_server(async |server, dir| {
        server.site().status = json!({"phase": "Pending"});
        let runtime = KubernetesRuntime::connect(server.options(dir)).await.unwrap();
        let mut running = runtime.start(task(dir));
        until("the pod is there", || !server.site().pods.is_empty()).await;
        running.cancel();
        let (exit, meters) = running.wait().await;
        assert_eq!((exit, meters.cpu_us), (Exit::Cancelled, 0));
        assert!(server.site().pods.is_empty());
    });
}

#[test]
fn a_pod_that_never_starts_is_a_fault_with_the_clusters_reason() {
    with_server(async |server, dir| {
        let waiting = json!({"waiting": {"reason": "InvalidImageName", "message": "no such name"}});
        server.site().status = json!({"phase": "Pending", "initContainerStatuses": [{
            "name": "files", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": waiting,
        }]});
        let runtime = KubernetesRuntime::connect(server.options(dir)).await.unwrap();
        let (exit, _) = runtime.start(task(dir)).wait().await;
        assert!(exit.to_string().contains("InvalidImageName: no such name"), "{exit}");
        assert!(matches!(exit, Exit::Host(HostFault::Kubernetes { .. })));
        assert!(server.site().pods.is_empty());
    });
}

#[test]
fn an_evicted_pod_is_lost_and_one_that_is_deleted_by_others_too() {
    with_server(async |server, dir| {
        server.site().status = json!({
            "phase": "Failed", "reason": "Evicted", "message": "The node was low on memory.",
        });
        let runtime = KubernetesRuntime::connect(server.options(dir)).await.unwrap();
        let (exit, _) = runtime.start(task(dir)).wait().await;
        assert!(matches!(&exit, Exit::Host(HostFault::Pod { why: Lost::Evicted, .. })), "{exit}");
        assert!(exit.to_string().contains("low on memory"), "{exit}");

        server.site().status = json!({"phase": "Pending"});
        let mut running = runtime.start(task(dir));
        let seen = server.asked("GET /api/v1/namespaces/tasks/pods");
        let lists = || server.asked("GET /api/v1/namespaces/tasks/pods");
        until("the pod is seen", || lists() > seen + 2 && !server.site().pods.is_empty()).await;
        server.site().pods.clear();
        let (exit, _) = running.wait().await;
        assert!(matches!(&exit, Exit::Host(HostFault::Pod { why: Lost::Deleted, .. })), "{exit}");
    });
}

#[test]
fn tasks_beyond_the_most_wait_in_the_node() {
    with_server(async |server, dir| {
        server.site().status = json!({"phase": "Pending"});
        let options = Options { pods_max: 1, ..server.options(dir) };
        let runtime = KubernetesRuntime::connect(options).await.unwrap();
        let mut first = runtime.start(task(dir));
        until("the first pod is there", || !server.site().pods.is_empty()).await;
        let mut next = task(dir);
        next.base.name = "task-2".to_owned();
        let mut second = runtime.start(next);
        second.cancel();
        assert_eq!(second.wait().await.0, Exit::Cancelled);
        first.cancel();
        assert_eq!(first.wait().await.0, Exit::Cancelled);
        assert_eq!(server.asked("POST /api/v1/namespaces/tasks/pods"), 1);
    });
}
