//! The image registry as a client that misbehaves meets it: who is let in, what is refused, and what of a broken upload stays.

use crate::support::{Node, Place};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

struct Registry {
    _node: Node,
    _place: Place,
    http: Client,
    address: String,
    token: String,
}

impl Registry {
    fn new() -> Self {
        let place = Place::new();
        place.init();
        let node = place.up();
        let address = format!("http://{}", node.ready["api"].as_str().unwrap());
        let token =
            std::fs::read_to_string(place.home().join("api.token")).unwrap().trim().to_owned();
        let http = Client::builder().no_proxy().build().unwrap();
        Self { _node: node, _place: place, http, address, token }
    }

    fn ask(&self, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        self.http
            .request(method, format!("{}{path}", self.address))
            .basic_auth("any", Some(&self.token))
    }

    async fn send(&self, method: &str, path: &str, body: &[u8]) -> Response {
        self.ask(method, path).body(body.to_vec()).send().await.unwrap()
    }

    async fn begin(&self, repository: &str) -> String {
        let begun = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), b"").await;
        assert_eq!(begun.status(), StatusCode::ACCEPTED);
        header(&begun, "location")
    }

    /// Stores content and gives its descriptor.
    async fn push(&self, repository: &str, bytes: &[u8]) -> Value {
        let path = format!("/v2/{repository}/blobs/uploads/?digest={}", digest(bytes));
        assert_eq!(self.send("POST", &path, bytes).await.status(), StatusCode::CREATED);
        json!({"mediaType": "application/octet-stream", "digest": digest(bytes), "size": bytes.len()})
    }

    async fn image(&self, repository: &str, tag: &str, layer: &[u8]) -> Vec<u8> {
        let config = self.push(repository, b"{}").await;
        let layer = self.push(repository, layer).await;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI, "config": config, "layers": [layer],
        });
        let bytes = manifest.to_string().into_bytes();
        let path = format!("/v2/{repository}/manifests/{tag}");
        let pushed = self.ask("PUT", &path).header("content-type", OCI).body(bytes.clone());
        assert_eq!(pushed.send().await.unwrap().status(), StatusCode::CREATED);
        bytes
    }
}

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

fn digest(bytes: &[u8]) -> String {
    let digits: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{digits}")
}

fn header(response: &Response, name: &str) -> String {
    response.headers()[name].to_str().unwrap().to_owned()
}

/// The status and the code of an error in the form of the specification.
async fn refused(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    let error = &body["errors"][0];
    assert!(!error["message"].as_str().unwrap().is_empty());
    (status, error["code"].as_str().unwrap().to_owned())
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn the_registry_lets_in_whoever_has_the_token_and_no_web_page() {
    let registry = Registry::new();
    let url = format!("{}/v2/", registry.address);
    let stranger = registry.http.get(&url).send().await.unwrap();
    assert_eq!(header(&stranger, "www-authenticate"), "Basic realm=\"opencloud\"");
    assert_eq!(header(&stranger, "docker-distribution-api-version"), "registry/2.0");
    assert_eq!(refused(stranger).await, is(401, "UNAUTHORIZED"));
    let wrong = registry.http.get(&url).basic_auth("any", Some("wrong")).send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    let bearer = registry.http.get(&url).bearer_auth(&registry.token).send().await.unwrap();
    assert_eq!(bearer.status(), StatusCode::OK);
    assert_eq!(registry.send("GET", "/v2/", b"").await.status(), StatusCode::OK);
    for (name, value) in [("host", "evil.example:80"), ("origin", "http://evil.example")] {
        let page = registry.ask("GET", "/v2/").header(name, value).send().await.unwrap();
        assert_eq!(refused(page).await, is(403, "DENIED"), "{name}");
    }
    // The token as a password opens the registry only.
    let status = registry.send("GET", "/api/v1/status", b"").await;
    assert_eq!(status.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_upload_takes_bytes_in_order_and_only_what_it_should_be() {
    let registry = Registry::new();
    let at = registry.begin("a/b").await;
    let chunk = |range: &'static str, bytes: &'static [u8]| {
        registry.ask("PATCH", &at).header("content-range", range).body(bytes).send()
    };
    let first = chunk("0-4", b"hello").await.unwrap();
    assert_eq!((first.status().as_u16(), header(&first, "range")), (202, "0-4".to_owned()));
    let hole = chunk("6-10", b"world").await.unwrap();
    assert_eq!(header(&hole, "range"), "0-4");
    assert_eq!(refused(hole).await, is(416, "BLOB_UPLOAD_INVALID"));
    assert_eq!(refused(chunk("5-99", b"short").await.unwrap()).await, is(400, "SIZE_INVALID"));
    let state = registry.send("GET", &at, b"").await;
    assert_eq!((state.status().as_u16(), header(&state, "range")), (204, "0-4".to_owned()));
    let other = at.replace("a/b", "a/c");
    assert_eq!(
        refused(registry.send("GET", &other, b"").await).await,
        is(404, "BLOB_UPLOAD_UNKNOWN")
    );
    let end = format!("{at}?digest={}", digest(b"hello world"));
    assert_eq!(registry.send("PUT", &end, b" world").await.status(), StatusCode::CREATED);
    assert_eq!(
        refused(registry.send("PUT", &end, b"").await).await,
        is(404, "BLOB_UPLOAD_UNKNOWN")
    );

    let blob = format!("/v2/a/b/blobs/{}", digest(b"hello world"));
    let whole = registry.send("GET", &blob, b"").await;
    assert_eq!(whole.bytes().await.unwrap(), "hello world");
    let part = registry.ask("GET", &blob).header("range", "bytes=6-").send().await.unwrap();
    assert_eq!(header(&part, "content-range"), "bytes 6-10/11");
    assert_eq!((part.status().as_u16(), part.text().await.unwrap()), (206, "world".to_owned()));
    let beyond = registry.ask("GET", &blob).header("range", "bytes=11-").send().await.unwrap();
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);

    let at = registry.begin("a/b").await;
    let end = format!("{at}?digest={}", digest(b"something else"));
    assert_eq!(
        refused(registry.send("PUT", &end, b"hello").await).await,
        is(400, "DIGEST_INVALID")
    );
    let cancelled = registry.begin("a/b").await;
    assert_eq!(registry.send("DELETE", &cancelled, b"").await.status(), StatusCode::NO_CONTENT);
    assert_eq!(registry.send("PATCH", &cancelled, b"x").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn content_is_mounted_from_another_repository_or_uploaded() {
    let registry = Registry::new();
    registry.push("a", b"layer").await;
    let mount = |name: &str, from: &str| {
        format!("/v2/{name}/blobs/uploads/?mount={}&from={from}", digest(b"layer"))
    };
    let mounted = registry.send("POST", &mount("b", "a"), b"").await;
    assert_eq!(mounted.status(), StatusCode::CREATED);
    let there = registry.send("HEAD", &header(&mounted, "location"), b"").await;
    assert_eq!((there.status().as_u16(), header(&there, "content-length")), (200, "5".to_owned()));
    assert_eq!(
        registry.send("POST", &mount("c", "nowhere"), b"").await.status(),
        StatusCode::ACCEPTED
    );
    let path = format!("/v2/c/blobs/{}", digest(b"layer"));
    assert_eq!(registry.send("HEAD", &path, b"").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_manifest_is_refused_when_it_is_too_long_wrong_or_misses_a_part() {
    let registry = Registry::new();
    let put = async |reference: &str, kind: &str, bytes: Vec<u8>| {
        let path = format!("/v2/a/manifests/{reference}");
        let request = registry.ask("PUT", &path).header("content-type", kind).body(bytes);
        refused(request.send().await.unwrap()).await
    };
    assert_eq!(put("1", OCI, vec![b' '; (4 << 20) + 1]).await, is(413, "MANIFEST_INVALID"));
    assert_eq!(put("1", OCI, b"{}".to_vec()).await, is(400, "MANIFEST_INVALID"));
    assert_eq!(
        put("1", "text/html", b"{\"schemaVersion\":2}".to_vec()).await,
        is(400, "MANIFEST_INVALID")
    );
    assert_eq!(put("-1", OCI, Vec::new()).await, is(400, "MANIFEST_INVALID"));
    assert_eq!(put("sha256:00", OCI, Vec::new()).await, is(400, "DIGEST_INVALID"));
    let part = json!({"mediaType": "x/y", "digest": digest(b"absent"), "size": 6});
    let manifest = json!({"schemaVersion": 2, "config": part, "layers": []}).to_string();
    assert_eq!(put("1", OCI, manifest.into_bytes()).await, is(404, "MANIFEST_BLOB_UNKNOWN"));
    let bytes = registry.image("a", "1", b"layer").await;
    assert_eq!(put(&digest(b"other"), OCI, bytes).await, is(400, "DIGEST_INVALID"));
    for path in ["/v2/A/tags/list", "/v2/a/../b/tags/list%2f", "/v2/a%2f..%2fb/manifests/1"] {
        let status = registry.send("GET", path, b"").await.status();
        assert!(status == StatusCode::BAD_REQUEST || status == StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn an_image_is_listed_shown_and_removed_over_both_apis() {
    let registry = Registry::new();
    let bytes = registry.image("team/app", "1", b"layer").await;
    registry.image("team/app", "2", b"layer").await;
    let read = registry.send("GET", "/v2/team/app/manifests/1", b"").await;
    assert_eq!(header(&read, "content-type"), OCI);
    assert_eq!(header(&read, "docker-content-digest"), digest(&bytes));
    assert_eq!(read.bytes().await.unwrap(), bytes);
    let tags = registry.send("GET", "/v2/team/app/tags/list?n=1", b"").await;
    let link = header(&tags, "link");
    assert_eq!(tags.json::<Value>().await.unwrap(), json!({"name": "team/app", "tags": ["1"]}));
    let next = link.strip_prefix('<').and_then(|link| link.split_once('>')).unwrap().0;
    let tags: Value = registry.send("GET", next, b"").await.json().await.unwrap();
    assert_eq!(tags["tags"], json!(["2"]));
    let needed = format!("/v2/team/app/blobs/{}", digest(b"layer"));
    assert_eq!(refused(registry.send("DELETE", &needed, b"").await).await, is(405, "DENIED"));

    let api = |method: &str, path: &str| {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let url = format!("{}/api/v1{path}", registry.address);
        registry.http.request(method, url).bearer_auth(&registry.token).send()
    };
    let images: Value = api("GET", "/images").await.unwrap().json().await.unwrap();
    assert_eq!(images.as_array().unwrap().len(), 2);
    let name = "/images/image?name=team/app:1";
    let shown: Value = api("GET", name).await.unwrap().json().await.unwrap();
    assert_eq!(shown["tags"], json!(["1", "2"]));
    let directory = shown["directory"]["digest"].as_str().unwrap();
    let tree: Value =
        api("GET", &format!("/blobs/{directory}")).await.unwrap().json().await.unwrap();
    assert!(tree["files"]["oci-layout"]["size"].is_u64());
    let removed = api("DELETE", "/images?name=team/app:1").await.unwrap();
    assert_eq!(removed.status(), StatusCode::NO_CONTENT);
    let problem: Value = api("GET", name).await.unwrap().json().await.unwrap();
    assert_eq!(problem["code"], "no_image");
    let path = format!("/v2/team/app/manifests/{}", digest(&bytes));
    assert_eq!(registry.send("DELETE", &path, b"").await.status(), StatusCode::ACCEPTED);
    let gone = registry.send("GET", "/v2/team/app/manifests/2", b"").await;
    assert_eq!(refused(gone).await, is(404, "MANIFEST_UNKNOWN"));
}
