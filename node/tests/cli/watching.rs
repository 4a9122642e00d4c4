//! How a node is watched: its figures, its health, the names of requests, its log.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use crate::support::Place;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use reqwest::{Client, Response, StatusCode};

/// How long a node that works may take to answer.
const TIMEOUT: Duration = Duration::from_secs(60);

fn client() -> Client {
    Client::builder().no_proxy().timeout(TIMEOUT).build().unwrap()
}

async fn get(http: &Client, url: &str) -> Response {
    http.get(url).send().await.unwrap()
}

#[tokio::test]
async fn figures_and_health_are_there_for_whoever_may_see_them() {
    let place = Place::new();
    place.init();
    let node = place.up_with(&["--metrics", "127.0.0.1:0"]);
    let api = format!("http://{}", node.ready["api"].as_str().unwrap());
    let open = format!("http://{}", node.ready["metrics"].as_str().unwrap());
    let token = std::fs::read_to_string(place.home().join("api.token")).unwrap();
    let http = client();

    for base in [&api, &open] {
        for path in ["/healthz", "/readyz"] {
            assert_eq!(get(&http, &format!("{base}{path}")).await.status(), StatusCode::OK);
        }
    }
    // With a name of its own, which a web page could have brought in.
    let foreign = http.get(format!("{api}/healthz")).header("host", "evil.example");
    assert_eq!(foreign.send().await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(get(&http, &format!("{api}/metrics")).await.status(), StatusCode::UNAUTHORIZED);
    let _ = http.get(format!("{api}/api/v1/status")).bearer_auth(token.trim()).send().await;
    let guarded = http.get(format!("{api}/metrics")).bearer_auth(token.trim()).send().await;
    assert_eq!(guarded.unwrap().status(), StatusCode::OK);
    // Nothing else is at the open address.
    assert_eq!(get(&http, &format!("{open}/api/v1/status")).await.status(), StatusCode::NOT_FOUND);

    let answer = get(&http, &format!("{open}/metrics")).await;
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = answer.text().await.unwrap();
    for line in [
        "opencloud_engine_answers 1",
        "opencloud_store_writable 1",
        "opencloud_tasks_running 0",
        "opencloud_catalogue_records{kind=\"compute\"} 1",
        "opencloud_capacity{resource=\"cpu_milli\",part=\"total\"} 2000",
        "opencloud_api_requests_total{method=\"GET\",route=\"/api/v1/status\",status=\"200\"} 1",
        "opencloud_api_requests_total{method=\"GET\",route=\"/metrics\",status=\"401\"} 1",
        "opencloud_api_request_seconds_count{route=\"/api/v1/status\"} 1",
        "opencloud_fabric_payload_bytes_total{direction=\"sent\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let version = env!("CARGO_PKG_VERSION");
    assert!(text.contains(&format!("opencloud_build_info{{version=\"{version}\"")), "{text}");
}

#[tokio::test]
async fn a_request_keeps_its_name_and_the_log_tells_it() {
    let place = Place::new();
    place.init();
    let node = place.up_logging("node::api=debug", &["--log-format", "json"]);
    let url = format!("http://{}/api/v1/status", node.ready["api"].as_str().unwrap());
    let token = std::fs::read_to_string(place.home().join("api.token")).unwrap();
    let ask = |id: &str| {
        client().get(&url).bearer_auth(token.trim()).header("x-request-id", id.to_owned())
    };
    let answer = ask("mine-7").send().await.unwrap();
    assert_eq!(answer.headers()["x-request-id"], "mine-7");
    let other = ask("not plain").send().await.unwrap();
    assert_eq!(other.headers()["x-request-id"].len(), 32);
    let log = node.stop_and_read_log();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = lines.iter().find(|line| line["span"]["id"] == "mine-7");
    let told = told.unwrap_or_else(|| panic!("no line tells the request: {log}"));
    assert_eq!((&told["message"], &told["status"]), (&"answered".into(), &200.into()));
    assert_eq!(told["span"]["route"], "/api/v1/status");
}

#[tokio::test]
async fn changes_are_written_down_and_reads_are_not() {
    let place = Place::new();
    place.init();
    let node = place.up();
    let base = format!("http://{}/api/v1", node.ready["api"].as_str().unwrap());
    let token = std::fs::read_to_string(place.home().join("api.token")).unwrap();
    let http = client();
    let _ = http.get(format!("{base}/status")).bearer_auth(token.trim()).send().await.unwrap();
    // Refused: it changes nothing.
    let _ = http.post(format!("{base}/invites")).bearer_auth("0").send().await.unwrap();
    let invite = http.post(format!("{base}/invites")).bearer_auth(token.trim());
    let answer = invite.header("x-request-id", "mine").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    let told = place.run(&["--output", "json", "audit"]).expect(0).json();
    let told = told.as_array().unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["route"], "/api/v1/invites");
    assert_eq!((&told[0]["caller"], &told[0]["status"]), (&"owner".into(), &201.into()));
    assert_eq!((&told[0]["request"], &told[0]["from"]), (&"mine".into(), &"127.0.0.1".into()));
    let table = place.run(&["audit"]).expect(0).stdout;
    assert!(table.contains("/api/v1/invites"), "{table}");

    // Who takes a line out is seen.
    let path = place.home().join("audit.log");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(token.trim()), "{text}");
    std::fs::write(&path, format!("{text}{text}")).unwrap();
    assert!(place.run(&["audit"]).expect(1).stderr.contains("changed after it was written"));
}

#[tokio::test]
async fn what_is_known_is_not_sent_again_and_no_other_page_may_ask() {
    let place = Place::new();
    place.init();
    let node = place.up();
    let origin = format!("http://{}", node.ready["api"].as_str().unwrap());
    let base = format!("{origin}/api/v1");
    let token = std::fs::read_to_string(place.home().join("api.token")).unwrap();
    let http = client();
    let ask = || http.get(format!("{base}/openapi.json")).bearer_auth(token.trim());
    let first = ask().send().await.unwrap();
    let tag = first.headers()["etag"].clone();
    let again = ask().header("if-none-match", tag.clone()).send().await.unwrap();
    assert_eq!((again.status(), &again.headers()["etag"]), (StatusCode::NOT_MODIFIED, &tag));
    assert!(again.bytes().await.unwrap().is_empty());
    let other = ask().header("if-none-match", "\"0\"").send().await.unwrap();
    assert_eq!(other.status(), StatusCode::OK);

    // A page to read, for a browser, which has no token and brings in nothing from elsewhere.
    let page = get(&http, &format!("{origin}/api/docs")).await;
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("'none'"));
    assert!(page.text().await.unwrap().contains("/runs/{id}"));

    // No other web page may read or send anything, whatever it says it is.
    let preflight = http.request(reqwest::Method::OPTIONS, format!("{base}/runs"));
    let preflight = preflight
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "POST");
    let denied = preflight.send().await.unwrap();
    assert_eq!(denied.status(), StatusCode::UNAUTHORIZED);
    let with_token = ask().header("origin", "https://evil.example").send().await.unwrap();
    for answer in [&denied, &with_token] {
        let named = answer.headers().keys().map(|name| name.as_str());
        assert_eq!(named.filter(|name| name.starts_with("access-control")).count(), 0);
    }
}

#[test]
fn the_doctor_finds_what_is_wrong_and_says_what_to_do() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let level = |told: &serde_json::Value, check: &str| {
        let findings = told["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["check"] == check);
        let found = found.unwrap_or_else(|| panic!("{check} is not in {told:#}"));
        assert_eq!(found["level"] == "ok", found["way_out"].is_null(), "{found}");
        found["level"].as_str().unwrap().to_owned()
    };
    let doctor = |code| place.run(&["--output", "json", "doctor"]).expect(code).json();
    assert_eq!(level(&doctor(1), "home"), "wrong");

    place.init();
    let told = doctor(0);
    for check in ["home", "papers", "clock", "disk", "store", "wasi"] {
        assert_eq!(level(&told, check), "ok", "{check}: {told:#}");
    }
    assert_eq!(level(&told, "node"), "warning");

    let node = place.up();
    let told = doctor(0);
    for check in ["node", "listen", "peers"] {
        assert_eq!(level(&told, check), "ok", "{check}: {told:#}");
    }
    let table = place.run(&["doctor"]).expect(0).stdout;
    assert!(table.contains("0 wrong"), "{table}");
    assert_eq!(node.terminate(), 0);
    assert_eq!(level(&doctor(0), "store"), "ok");

    let key = place.home().join("node.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let truth = place.home().join("truth/truth.redb");
    let length = std::fs::metadata(&truth).unwrap().len();
    std::fs::write(&truth, vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
    let told = doctor(1);
    assert_eq!((level(&told, "home"), level(&told, "store")), ("wrong".into(), "wrong".into()));
    assert_eq!(told["wrong"], 2);
}

#[tokio::test]
async fn other_machines_get_the_api_encrypted_or_not_at_all() {
    let place = Place::new();
    place.init();
    let refused = place.run(&["up", "--no-mdns", "--api", "0.0.0.0:0"]).expect(64);
    assert!(refused.stderr.contains("--tls"), "{}", refused.stderr);

    let node = place.up_with(&["--api", "127.0.0.1:0", "--tls"]);
    let url = format!("https://{}", node.ready["tls"].as_str().unwrap());
    let token = std::fs::read_to_string(place.home().join("api.token")).unwrap();
    let cert = std::fs::read(place.home().join("tls.crt")).unwrap();
    let root = reqwest::Certificate::from_pem(&cert).unwrap();
    let http =
        Client::builder().no_proxy().timeout(TIMEOUT).tls_certs_only([root]).build().unwrap();
    let status = format!("{url}/api/v1/status");
    assert_eq!(get(&http, &status).await.status(), StatusCode::UNAUTHORIZED);
    let asked = http.get(&status).bearer_auth(token.trim());
    assert_eq!(asked.send().await.unwrap().status(), StatusCode::OK);
    // A name that no certificate of another server vouches for harms nobody here.
    let named = http.get(&status).bearer_auth(token.trim()).header("host", "node.example");
    assert_eq!(named.send().await.unwrap().status(), StatusCode::OK);
    // Who does not know the certificate does not believe it, and who speaks plainly is not heard.
    assert!(client().get(&status).send().await.is_err());
    assert!(client().get(status.replace("https", "http")).send().await.is_err());
    assert_eq!(node.ready["tls_sha256"].as_str().unwrap().len(), 95);
    // A session that begins here is never told to anybody in the clear.
    let out = http.delete(format!("{url}/api/v1/session")).bearer_auth(token.trim());
    let out = out.send().await.unwrap();
    assert!(out.headers()["set-cookie"].to_str().unwrap().ends_with("; Secure"), "{out:?}");
    let told = place.run(&["--output", "json", "doctor"]).expect(0).json();
    let found = told["findings"].as_array().unwrap().iter().find(|one| one["check"] == "tls");
    assert_eq!(found.unwrap()["level"], "ok", "{told:#}");
    // The owner's commands go on as ever.
    let _ = place.run(&["status"]).expect(0);
    assert_eq!(node.terminate(), 0);
}

/// Takes traces as a collector does, one connection after the other, until the test is over.
fn collector() -> (String, std::sync::mpsc::Receiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut length, mut first) = (0, String::new());
            stream.read_line(&mut first).unwrap();
            assert!(first.starts_with("POST /v1/traces "), "{first}");
            let mut line = String::from("more");
            while !line.trim().is_empty() {
                line.clear();
                stream.read_line(&mut line).unwrap();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            // Known before it is answered: who waits for the answer finds it here.
            if send.send(ExportTraceServiceRequest::decode(&body[..]).unwrap()).is_err() {
                return;
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.get_mut().write_all(answer).unwrap();
        }
    });
    (url, receive)
}

#[tokio::test]
async fn a_collector_gets_a_span_for_each_request() {
    let place = Place::new();
    place.init();
    let (url, traces) = collector();
    let node = place.up_with(&["--otlp", &url]);
    let status = format!("http://{}/api/v1/status", node.ready["api"].as_str().unwrap());
    let token = std::fs::read_to_string(place.home().join("api.token")).unwrap();
    let asked = client().get(&status).bearer_auth(token.trim()).header("x-request-id", "traced");
    assert_eq!(asked.send().await.unwrap().status(), StatusCode::OK);
    // The last ones are sent at the end.
    assert_eq!(node.terminate(), 0);
    let got: Vec<ExportTraceServiceRequest> = traces.try_iter().collect();
    let spans = got.iter().flat_map(|one| &one.resource_spans).flat_map(|one| {
        let resource = format!("{:?}", one.resource);
        assert!(resource.contains("opencloud"), "{resource}");
        one.scope_spans.iter().flat_map(|scope| &scope.spans)
    });
    let mut spans = spans.filter(|span| span.name == "request");
    let span = spans.find(|span| {
        let attributes = format!("{:?}", span.attributes);
        attributes.contains("traced") && attributes.contains("/api/v1/status")
    });
    let span = span.unwrap_or_else(|| panic!("no span is of the request: {got:?}"));
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano);

    let wrong = place.run(&["up", "--otlp", "ftp://127.0.0.1"]).expect(64);
    assert!(wrong.stderr.contains("http://"), "{}", wrong.stderr);
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let place = Place::new();
    place.init();
    let node = place.up();
    for n in 0..5 {
        let path = place.file(&format!("{n}.txt"), format!("content {n}"));
        let _ = place.run(&["data", "add", &path]).expect(0);
    }
    let origin = format!("http://{}", node.ready["api"].as_str().unwrap());
    let token = std::fs::read_to_string(place.home().join("api.token")).unwrap();
    let http = client();
    for (list, filter, count) in [("data", "", 5), ("catalog", "filter=kind%20%3D%20data&", 6)] {
        let mut to = format!("/api/v1/{list}?{filter}limit=2");
        let mut told = Vec::new();
        let ask = http.get(format!("{origin}/api/v1/{list}?{filter}")).bearer_auth(token.trim());
        let before: Vec<serde_json::Value> = ask.send().await.unwrap().json().await.unwrap();
        assert_eq!(before.len(), count, "{list}");
        loop {
            let asked = http.get(format!("{origin}{to}")).bearer_auth(token.trim());
            let answer = asked.send().await.unwrap();
            let link = answer.headers().get("link").map(|v| v.to_str().unwrap().to_owned());
            let page: Vec<serde_json::Value> = answer.json().await.unwrap();
            assert!(page.len() <= 2, "{page:?}");
            if told.is_empty() {
                // Something new comes in meanwhile: it is told or it is not, and takes nothing away.
                let path = place.file(&format!("{list}.txt"), format!("new to {list}"));
                let _ = place.run(&["data", "add", &path]).expect(0);
            }
            told.extend(page.into_iter().map(|item| item.to_string()));
            let Some(link) = link else { break };
            assert!(link.ends_with("; rel=\"next\""), "{link}");
            to = link.strip_prefix('<').unwrap().split('>').next().unwrap().to_owned();
        }
        let all = told.len();
        told.sort();
        told.dedup();
        assert!(all == told.len() && all <= count + 1, "{list}: {told:?}");
        assert!(before.iter().all(|item| told.contains(&item.to_string())), "{list}: {told:?}");
    }
    let gone = http.get(format!("{origin}/api/v1/runs?after=none")).bearer_auth(token.trim());
    assert_eq!(gone.send().await.unwrap().status(), StatusCode::GONE);
    let gone = http.get(format!("{origin}/api/v1/catalog?after=none")).bearer_auth(token.trim());
    assert_eq!(gone.send().await.unwrap().status(), StatusCode::GONE);
}
