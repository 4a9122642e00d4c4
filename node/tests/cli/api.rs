//! The API as programs meet it: who is let in, what errors look like, and that its description is true.

use crate::support::{Node, Place};
use catalog::Digest;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

struct Api {
    _node: Node,
    _place: Place,
    http: Client,
    base: String,
    token: String,
}

impl Api {
    fn new() -> Self {
        let place = Place::new();
        place.init();
        let node = place.up();
        let base = format!("http://{}/api/v1", node.ready["api"].as_str().unwrap());
        let token =
            std::fs::read_to_string(place.home().join("api.token")).unwrap().trim().to_owned();
        let http = Client::builder().no_proxy().build().unwrap();
        Self { _node: node, _place: place, http, base, token }
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.ask(Method::GET, path)).await
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.ask(Method::POST, path).json(body)).await
    }
}

async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    if !status.is_success() {
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
    let body: Value = response.json().await.unwrap();
    if !status.is_success() {
        assert_eq!(body["status"], status.as_u16());
        assert!(!body["detail"].as_str().unwrap().is_empty());
    }
    (status, body)
}

#[tokio::test]
async fn nothing_is_answered_without_the_token_or_under_a_foreign_name() {
    let api = Api::new();
    for path in ["/status", "/openapi.json", "/nowhere"] {
        let url = format!("{}{path}", api.base);
        let (status, problem) = answer(api.http.get(&url)).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::UNAUTHORIZED, &"token".into()),
            "{path}"
        );
        let (status, _) = answer(api.http.get(&url).bearer_auth("0".repeat(64))).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let (status, problem) =
            answer(api.ask(Method::GET, path).header("host", "evil.example:80")).await;
        assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &"host".into()), "{path}");
    }
    assert_eq!(api.get("/status").await.0, StatusCode::OK);
}

#[tokio::test]
async fn every_described_route_is_there_and_errors_are_problems() {
    let api = Api::new();
    let (status, document) = api.get("/openapi.json").await;
    assert_eq!(status, StatusCode::OK);
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 18, "{}", paths.len());
    for (path, methods) in paths {
        let path = path.replace("{id}", "run-00").replace("{digest}", "blake3:00");
        for method in methods.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let response = api.ask(method.clone(), &path).body("{").send().await.unwrap();
            let status = response.status();
            assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            // What is followed live has no end.
            if !status.is_success() {
                let text = response.text().await.unwrap();
                assert!(!text.contains("no_route"), "{method} {path}: {text}");
            }
        }
    }
    let (status, problem) = api.get("/nowhere").await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &"no_route".into()));
    let (status, problem) = answer(api.ask(Method::DELETE, "/runs")).await;
    assert_eq!((status, &problem["code"]), (StatusCode::METHOD_NOT_ALLOWED, &"method".into()));
}

#[tokio::test]
async fn the_dashboard_is_served_beside_the_api_and_only_where_it_is() {
    let api = Api::new();
    let root = api.base.strip_suffix("/api/v1").unwrap();
    let page = |path: &str| api.http.get(format!("{root}{path}"));
    for path in ["/", "/runs", "/runs/run-00", "/ledger"] {
        let response = page(path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let policy = response.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(response.headers()["cache-control"], "no-cache");
        assert!(response.text().await.unwrap().contains("<div id=\"app\">"), "{path}");
    }
    let text = page("/").send().await.unwrap().text().await.unwrap();
    let script = text.split('"').find(|part| part.ends_with(".js")).unwrap();
    let response = page(script).header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/javascript; charset=utf-8");
    assert!(response.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    let tag = response.headers()["etag"].clone();
    let again = page(script).header("accept-encoding", "gzip").header("if-none-match", tag);
    assert_eq!(again.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    let foreign = page("/").header("host", "evil.example").send().await.unwrap();
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    for path in ["/api/v1/runs", "/api/v1/nowhere", "/v2/", "/nowhere"] {
        let status = page(path).send().await.unwrap().status();
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(page("/assets/none.js").send().await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn documents_and_ledgers_are_checked_and_the_mesh_is_followed() {
    let api = Api::new();
    let (status, told) = api.post("/workflow/check", &json!({"source": "name: x"})).await;
    assert_eq!((status, &told["valid"]), (StatusCode::OK, &false.into()));
    assert!(told["problems"][0]["line"].is_u64(), "{told}");
    let (status, told) = api.get("/ledger/verification").await;
    assert_eq!((status, &told["verdict"]), (StatusCode::OK, &"valid".into()));
    let mut response = api.ask(Method::GET, "/mesh/events").send().await.unwrap();
    let first = response.chunk().await.unwrap().unwrap();
    let data = first.strip_prefix(b"data: ").expect("an event");
    let seen: Value = serde_json::from_slice(data.trim_ascii_end()).unwrap();
    assert_eq!((&seen["status"]["peers"], &seen["peers"]), (&0.into(), &json!([])));
}

#[tokio::test]
async fn what_comes_in_is_checked() {
    let api = Api::new();
    let missing = "/runs/run-00000000000000000000000000000000";
    for (path, code) in [
        ("/runs/abc", "path"),
        (missing, "no_run"),
        (&format!("{missing}/events"), "no_run"),
        (&format!("{missing}/logs?step=a"), "no_run"),
        ("/runs/abc/logs", "query"),
        ("/catalog?limit=many", "query"),
        ("/catalog?frob=1", "query"),
        ("/catalog?filter=kind%20%3D%20", "filter_invalid"),
        ("/catalog/resource?id=none", "no_resource"),
        ("/blobs/blake3:00", "path"),
    ] {
        assert_eq!(api.get(path).await.1["code"], code, "{path}");
    }
    for (path, body, code) in [
        ("/runs", json!({"source": "x"}), "body"),
        ("/runs", json!({"source": "x", "params": {}, "assets": {}}), "submission_invalid"),
        ("/plan", json!([]), "body"),
        ("/plan?estimate_ms=0", json!({"source": "x", "params": {}, "assets": {}}), "query"),
        ("/plan?estimate=1", json!({"source": "x", "params": {}, "assets": {}}), "query"),
        ("/invites", json!({"valid_ms": 0}), "body"),
        ("/invites", json!({"valid": 1}), "body"),
        ("/join", json!({"ticket": "x"}), "ticket_invalid"),
        ("/resources", json!({"key": "x"}), "body"),
    ] {
        assert_eq!(api.post(path, &body).await.1["code"], code, "{path} {body}");
    }
    let huge = vec![b' '; (8 << 20) + 1];
    let (status, problem) = answer(api.ask(Method::POST, "/runs").body(huge)).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &"body_too_large".into())
    );
}

#[tokio::test]
async fn blobs_are_named_by_their_content() {
    let api = Api::new();
    let bytes = vec![42; 300_000];
    let digest = Digest::of(&bytes);
    let path = format!("/blobs/{digest}");
    let absent = api.ask(Method::HEAD, &path).send().await.unwrap();
    assert_eq!(absent.status(), StatusCode::NOT_FOUND);
    let (status, problem) = api.get(&path).await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &"no_blob".into()));
    assert!(problem["detail"].as_str().unwrap().contains(&digest.to_string()));
    let (status, stored) = answer(api.ask(Method::POST, "/blobs").body(bytes.clone())).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(stored, json!({"digest": digest, "size": 300_000}));
    let there = api.ask(Method::HEAD, &path).send().await.unwrap();
    assert_eq!(
        (there.status(), there.headers()["content-length"].to_str().unwrap()),
        (StatusCode::OK, "300000")
    );
    let read = api.ask(Method::GET, &path).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(read, bytes);
}

#[tokio::test]
async fn a_submission_with_a_key_starts_one_run_however_often_it_is_sent() {
    let api = Api::new();
    // Nothing can run it: it needs more memory than the node offers, so it stays where it is.
    let source = "opencloud: workflow/v1\nname: w\nsteps:\n  a:\n    run: {wasi: {module: a.wasm}}\n    needs: {memory: 900GiB}\n";
    let file = json!({"file": {"digest": Digest::of(b"x"), "size": 1, "name": "a.wasm"}});
    let body = json!({"source": source, "params": {}, "assets": {"a.wasm": file}});
    let submit = |key: &'static str, body: Value| {
        answer(api.ask(Method::POST, "/runs").header("idempotency-key", key).json(&body))
    };
    let (status, first) = submit("k1", body.clone()).await;
    assert_eq!(status, StatusCode::CREATED, "{first}");
    assert_eq!(submit("k1", body.clone()).await.1, first);
    assert_ne!(submit("k2", body.clone()).await.1, first);
    let mut other = body.clone();
    other["strategy"] = "cost".into();
    assert_eq!(submit("k1", other).await.1["code"], "idempotency_key");
    let runs = api.get("/runs").await.1;
    assert_eq!(runs.as_array().unwrap().len(), 2);
    // One run has all that the list says of it, under the same names.
    for listed in runs.as_array().unwrap() {
        let one = api.get(&format!("/runs/{}", listed["id"].as_str().unwrap())).await.1;
        for (name, value) in listed.as_object().unwrap() {
            assert_eq!(one[name], *value, "{name}");
        }
        assert!(listed["total"].is_u64() && one["tasks"].is_array(), "{listed}");
    }

    // Its events come live: the stream is open before the run is cancelled.
    let id = first["id"].as_str().unwrap();
    let events = api.ask(Method::GET, &format!("/runs/{id}/events")).send().await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    assert_eq!(api.post(&format!("/runs/{id}/cancel"), &json!({})).await.0, StatusCode::ACCEPTED);
    let text = events.text().await.unwrap();
    assert!(
        text.contains("\"event\":\"submitted\"") && text.contains("\"event\":\"finished\""),
        "{text}"
    );
    let later = api.ask(Method::GET, &format!("/runs/{id}/events?from=1000")).send().await.unwrap();
    assert_eq!(later.text().await.unwrap(), "");
    assert_eq!(api.post(&format!("/runs/{id}/cancel"), &json!({})).await.1["code"], "run_ended");
}

#[tokio::test]
async fn two_who_change_policies_at_once_do_not_undo_each_other() {
    let api = Api::new();
    let text = |n: u32| json!({"text": format!("// {n}\n")});
    let put = |body: Value, tag: Option<String>| {
        let request = api.ask(Method::PUT, "/policies/team").json(&body);
        match tag {
            Some(tag) => request.header("if-match", tag),
            None => request,
        }
    };
    let first = put(text(1), None).send().await.unwrap();
    assert_eq!(first.status(), StatusCode::OK);
    let tag = first.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(answer(put(text(2), Some(tag.clone()))).await.0, StatusCode::OK);
    let (status, problem) = answer(put(text(3), Some(tag))).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::PRECONDITION_FAILED, &"policy_changed".into())
    );
    assert_eq!(api.get("/policies/team").await.1["text"], "// 2\n");
    let (status, problem) = answer(put(json!({"text": "permit"}), None)).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &"policy_invalid".into())
    );
    assert!(problem["detail"].as_str().unwrap().contains("team.cedar:1:"), "{problem}");
    let checked = api.post("/policy/check", &json!({"text": "permit"})).await.1;
    assert!(checked["valid"] == false && checked["spots"][0]["line"] == 1, "{checked}");
    assert_eq!(api.get("/policies/none").await.1["code"], "no_policy");
    assert_eq!(api.get("/policy/log?limit=0").await.1["code"], "query");
}

#[tokio::test]
async fn of_two_who_change_a_workspace_the_second_is_told() {
    let api = Api::new();
    let put = async |version: u64, notes: &str| {
        let body = json!({"version": version, "workspace": {"notes": notes}});
        let (status, body) = answer(api.ask(Method::PUT, "/workspaces/shared").json(&body)).await;
        (status.as_u16(), body)
    };
    assert_eq!(put(0, "first").await.0, 200);
    assert_eq!(put(1, "mine").await.0, 200);
    let (status, problem) = put(1, "yours").await;
    assert_eq!((status, &problem["code"]), (409, &json!("workspace_state")));
    let (_, stands) = api.get("/workspaces/shared").await;
    assert_eq!((&stands["notes"], &stands["version"]), (&json!("mine"), &json!(2)));
    assert_eq!(api.get("/workspaces/none").await.1["code"], "no_workspace");
    assert_eq!(put(2, &"x".repeat(70_000)).await.1["code"], "workspace_refused");
}
