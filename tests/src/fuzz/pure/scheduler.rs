//! What runs where: messages, tasks, documents, expressions, and a provider in the hands of a consumer who lies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use catalog::Digest;
use scheduler::binding::Binding;
use scheduler::expr::{COST_MAX, Expr, Inputs, Names};
use scheduler::negotiate::{Message, Outcome, Phase, Stream};
use scheduler::service::{Document, Health};
use scheduler::ssh;
use scheduler::task::{
    AttemptId, Collect, Failure, FailureClass, Needs, Program, RunId, Stage, TaskId, TaskSpec,
};
use scheduler::value::{FileRef, Manifest, ManifestFile, Value};
use scheduler::workflow::{DIAGNOSTICS_MAX, Diagnostic, Diagnostics, Plain, Problem, Workflow};

use super::support::{from_cbor, to_cbor};
use crate::fuzz::Target;

pub(super) fn targets() -> Vec<Target> {
    let target = |name, check, seeds| Target { name, check, seeds };
    vec![
        target("negotiation", check_message, message_seeds),
        target("task", check_task, task_seeds),
        target("workflow", check_workflow, workflow_seeds),
        target("plain", check_plain, plain_seeds),
        target("binding", check_binding, binding_seeds),
        target("service", check_service, service_seeds),
        target("expression", check_expression, expression_seeds),
        target("manifest", check_manifest, manifest_seeds),
        target("value", check_value, value_seeds),
        target("ssh_key", check_ssh_key, ssh_key_seeds),
        target("attempt_id", check_attempt_id, attempt_id_seeds),
    ]
}

/// What is read is written in one way, which reads the same.
fn check_message(bytes: &[u8]) -> bool {
    let Some(message) = from_cbor::<Message>(bytes) else {
        return false;
    };
    let encoded = to_cbor(&message);
    // Compared as bytes: a number that is none differs from itself.
    let again: Message = from_cbor(&encoded).expect("what was written reads back");
    assert_eq!(to_cbor(&again), encoded);
    true
}

fn attempt() -> AttemptId {
    let task = TaskId { step: 1, index: 2 };
    AttemptId { run: RunId::from_bytes([3; 16]), task, number: 4 }
}

fn file(name: &str) -> FileRef {
    FileRef { digest: Digest::of(name.as_bytes()), size: 7, name: name.to_owned() }
}

fn spec() -> TaskSpec {
    TaskSpec {
        program: Program::Wasi { module: file("m.wasm"), fuel: true },
        argv: vec!["m".to_owned(), "--fast".to_owned()],
        env: BTreeMap::from([("LEVEL".to_owned(), "3".to_owned())]),
        stdin: Some(file("in")),
        inputs: BTreeMap::from([("a/b".to_owned(), Stage::File(file("b")))]),
        mounts: BTreeMap::new(),
        outputs: BTreeMap::from([("log".to_owned(), Collect::Stdout)]),
        needs: Needs::default(),
        timeout_ms: 1_000,
        service: None,
        area: None,
    }
}

fn message_seeds() -> Vec<Vec<u8>> {
    let (request, attempt) = ([1; 16], attempt());
    let outputs = BTreeMap::from([("out".to_owned(), Value::List(vec![Value::File(file("o"))]))]);
    let failure =
        Failure { class: FailureClass::Exit, exit_code: Some(1), detail: "bad".to_owned() };
    let messages = [
        Message::QuoteRequest {
            request,
            attempt,
            spec: Box::new(spec()),
            max_price: None,
            person: None,
        },
        Message::Quote { request, quote: vec![1, 2] },
        Message::Refusal { request, refusal: vec![3] },
        Message::Accept { request },
        Message::Decline { request },
        Message::Status {
            attempts: vec![(attempt, Phase::Running)],
            health: vec![(attempt, Health::Healthy)],
        },
        Message::Renew { attempts: vec![attempt] },
        Message::Log { attempt, stream: Stream::Stderr, offset: 9, bytes: vec![104, 105] },
        Message::Finished { attempt, outcome: Outcome::Done { outputs } },
        Message::Finished { attempt, outcome: Outcome::Failed(failure) },
        Message::Collected { attempt },
        Message::Cancel { attempt },
    ];
    messages.iter().map(to_cbor).collect()
}

/// A task has one name, whichever way it came, and names each blob once.
fn check_task(bytes: &[u8]) -> bool {
    let Some(spec) = from_cbor::<TaskSpec>(bytes) else {
        return false;
    };
    let json = serde_json::to_vec(&spec).expect("a task is plain data");
    let again: TaskSpec = serde_json::from_slice(&json).expect("what was written reads back");
    assert_eq!((again.digest(), &again), (spec.digest(), &spec));
    assert!(spec.blobs().is_sorted_by(|a, b| a < b));
    true
}

fn task_seeds() -> Vec<Vec<u8>> {
    vec![to_cbor(&spec())]
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Problems are bounded, and each has its place within the text.
fn check_problems(source: &str, problems: &Diagnostics) {
    // Beyond the most the last word is how many more there are.
    let is_more = |last: &Diagnostic| matches!(last.problem, Problem::More { .. });
    let most = DIAGNOSTICS_MAX + usize::from(problems.0.last().is_some_and(is_more));
    assert!((1..=most).contains(&problems.0.len()), "{} problems", problems.0.len());
    // To YAML a lone carriage return ends a line too, and the end of the text is on a line of its own.
    let lines = source.matches(['\n', '\r']).count() + 2;
    for problem in &problems.0 {
        let line = usize::try_from(problem.line).expect("lines are counted in 32 bits");
        assert!((1..=lines).contains(&line), "line {line} of {lines}: {problem}");
    }
}

fn check_workflow(bytes: &[u8]) -> bool {
    let Some(source) = text(bytes) else { return false };
    match Workflow::parse(source) {
        Err(problems) => {
            check_problems(source, &problems);
            false
        }
        Ok(workflow) => {
            for (at, step) in (0..).zip(&workflow.steps) {
                assert_eq!(workflow.step_index(&step.id), Some(at));
                assert!(step.deps.iter().all(|dep| workflow.step(*dep).is_some()));
            }
            true
        }
    }
}

const WORKFLOW: &str = r#"opencloud: workflow/v1
name: terrain
params:
  dem: {type: file, description: The map.}
  tiles: {type: int, default: 6, min: 1, max: 64}
  mode: {type: text, default: fast, enum: [fast, exact]}
x-r: &r {attempts: 5, on: [infra, exit], backoff: {initial: 2s, factor: 1.5, max: {minutes: 1}, jitter: 0.1}}
steps:
  split:
    run: {wasi: {module: bin/split.wasm, args: [--tiles, {param: tiles}, 007, {in: dem}], env: {MODE: {param: mode}}}}
    in: {dem: {param: dem, path: dem.pgm}}
    out: {tiles: {files: tiles/*.dem}, meta: {value: meta.json}}
  slope:
    run: {wasi: {module: bin/s.wasm, args: [{in: tile}, {index: true}, {expr: "params.tiles * 2 + index"}]}}
    in: {tile: {var: tile}, s: {value: {sun: [1, 2.5]}, path: s.json}}
    out: {slope: {file: slope.dem}, log: {stdout: true}}
    map: {over: {from: split.tiles}, as: tile, max_parallel: 4}
    retry: *r
    timeout: 5m
    needs: {cpu: 0.5, memory: 256MiB, disk: 1GB, arch: x86_64, runtime: wasi}
  last:
    run: {container: {image: oci, args: [{in: t}]}}
    in: {t: {from: slope.slope, path: parts}}
    when: params.tiles > 1 && steps.split.meta.count > 1
    after: [split]
outputs: {slope: {from: slope.slope}}
"#;

const SHORT: &str = r#"{"opencloud":"workflow/v1","name":"w","steps":{"a":{"run":{"wasi":{"module":"a.wasm"}}},"b":{"run":{"wasi":{"module":"a.wasm"}}}}}"#;

fn workflow_seeds() -> Vec<Vec<u8>> {
    [WORKFLOW, SHORT].map(|text| text.as_bytes().to_vec()).into()
}

/// What is read as plain data is JSON, and reads as the same from there, for JSON is YAML.
fn check_plain(bytes: &[u8]) -> bool {
    let Some(source) = text(bytes) else { return false };
    match Plain::parse(source) {
        Err(problems) => {
            check_problems(source, &problems);
            false
        }
        Ok(plain) => {
            let json = serde_json::to_string(&plain.json).expect("it is JSON");
            let again: serde_json::Value = serde_json::from_str(&json).expect("written by it");
            assert_eq!(again, plain.json);
            let (line, column) = plain.value_at("a.b[0]");
            assert!(line >= 1 && column >= 1);
            true
        }
    }
}

fn plain_seeds() -> Vec<Vec<u8>> {
    let texts = ["a: {b: [1, 2.5, x, true, null]}\nc: |\n  text\n", "- &x {k: v}\n- *x\n", "{}"];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

fn check_binding(bytes: &[u8]) -> bool {
    static WORKFLOW: OnceLock<Workflow> = OnceLock::new();
    let workflow = WORKFLOW.get_or_init(|| Workflow::parse(SHORT).expect("a valid document"));
    let Some(source) = text(bytes) else { return false };
    match Binding::parse(source, workflow) {
        Err(problems) => {
            check_problems(source, &problems);
            false
        }
        Ok(binding) => {
            let (own, default) = (binding.rule("a"), binding.rule("no such step"));
            assert!(default.forbid_orgs.iter().all(|org| own.forbid_orgs.contains(org)));
            true
        }
    }
}

fn binding_seeds() -> Vec<Vec<u8>> {
    let full = "opencloud: binding/v1\nstrategy: {sovereignty: 1, performance: 2}\nmax_price: 0.05 EUR\n\
                defaults: {orgs: [home, uni], forbid: [evil], regions: [eu]}\n\
                steps:\n  a: {orgs: [home], forbid: [slow], max_price: 1 EUR}\n";
    vec![full.as_bytes().to_vec(), b"opencloud: binding/v1\nstrategy: cost\n".to_vec()]
}

fn check_service(bytes: &[u8]) -> bool {
    let Some(source) = text(bytes) else { return false };
    match Document::parse(source) {
        Err(problems) => {
            check_problems(source, &problems);
            false
        }
        Ok(document) => {
            assert_eq!(document.spec.check(), Ok(()));
            assert_eq!(document.workflow().steps.len(), 1, "a replica is one task");
            true
        }
    }
}

fn service_seeds() -> Vec<Vec<u8>> {
    let full = "opencloud: service/v1\nname: tiles\ndescription: Map tiles.\n\
                run: {container: {image: tiles.oci, args: [--cache, 64], env: {LEVEL: info}}}\n\
                ports: {http: 8080, metrics: 9090}\nreplicas: 3\n\
                health: {http: {port: http, path: /healthz}, every: 5s, timeout: 1s, failures: 2, grace: 1m}\n\
                restart: {policy: on_failure, backoff: {initial: 2s, max: 1m}}\n\
                update: {max_unavailable: 1, max_surge: 2, deadline: 5m, drain: 30s}\n\
                needs: {cpu: 0.5, memory: 256MiB}\naccess: realm\nspread: orgs\nterm: 12h\n";
    vec![full.as_bytes().to_vec()]
}

/// An expression ends, twice with the same result.
fn check_expression(bytes: &[u8]) -> bool {
    let Some(source) = text(bytes) else { return false };
    let params = BTreeMap::from([
        ("n".to_owned(), Value::Int(6)),
        ("x".to_owned(), Value::Float(1.5)),
        ("s".to_owned(), Value::Text("hello".to_owned())),
        ("list".to_owned(), Value::List([3, 1, 2].map(Value::Int).into())),
    ]);
    let names: BTreeSet<String> = params.keys().cloned().collect();
    let steps = BTreeMap::from([("split".to_owned(), (2, BTreeSet::from(["count".to_owned()])))]);
    let compiled = Expr::compile(source, Names { params: &names, steps: &steps, item: Some("t") });
    let Ok(expr) = compiled else { return false };
    assert_eq!(expr.source(), source);
    let outputs = |step: u32, output: &str| {
        assert!(expr.outputs().contains(&(step, output.to_owned())), "only what is declared");
        Some(Value::Int(4))
    };
    let item = Value::Text("tile".to_owned());
    let inputs = Inputs { params: &params, outputs: &outputs, item: Some((5, &item)) };
    let (first, second) = (expr.evaluate(&inputs), expr.evaluate(&inputs));
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
    if let Ok(value) = first {
        let len = to_cbor(&value).len() as u64;
        assert!(len <= 32 * COST_MAX, "{len} bytes");
    }
    true
}

fn expression_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "params.n > 1 && steps.split.count in params.list",
        "params.list.map(x, x * 2 + index).filter(y, y > int(params.x))",
        "params.list.exists(x, x == 3) ? params.s.startsWith(\"he\") : size(t) > -1",
        "{\"a\": [1, 2.5, null, true]}[\"a\"][0] + 0x1F",
        "!(params.s + \"\\u00e9\" < \"z\") || has(params.s)",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// A directory's listing is named by its bytes: what is read is written in one way, and no path leaves the directory.
fn check_manifest(bytes: &[u8]) -> bool {
    let Ok(manifest) = Manifest::decode(bytes) else {
        return false;
    };
    let encoded = manifest.encode();
    assert_eq!(Manifest::decode(&encoded).map(|again| again.encode()), Ok(encoded));
    for path in manifest.files.keys() {
        let root = std::path::Path::new("root");
        let inside = root.join(path);
        let plain = inside.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        assert!(plain && inside.starts_with(root) && inside != root, "{path}");
    }
    true
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    let entry = || ManifestFile { digest: Digest::of(b"f"), size: 9 };
    let files = [("a".to_owned(), entry()), ("b/c.txt".to_owned(), entry())].into();
    vec![Manifest { files }.encode()]
}

fn check_value(bytes: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(bytes) else {
        return false;
    };
    let value = Value::from_json(&json);
    let again: Option<Value> = from_cbor(&to_cbor(&value));
    // Values that nest deeper than messages may are refused there.
    assert!(again.is_none_or(|again| again == value));
    let mut blobs = Vec::new();
    value.blobs(&mut blobs);
    assert!(blobs.len() <= bytes.len());
    true
}

fn value_seeds() -> Vec<Vec<u8>> {
    let texts = [r#"{"a":[1,-2.5,null,true,"x",{}],"big":18446744073709551615}"#, "[[[[1e308]]]]"];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// A key goes into files of a machine: it is one line, and nothing in it ends a word of a shell.
fn check_ssh_key(bytes: &[u8]) -> bool {
    let Some(line) = text(bytes) else { return false };
    if ssh::check(line).is_err() {
        return false;
    }
    assert!(!line.chars().any(char::is_control), "one line");
    true
}

fn ssh_key_seeds() -> Vec<Vec<u8>> {
    let line =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea me@host";
    vec![line.as_bytes().to_vec()]
}

/// What stands for an attempt stands for it alone.
fn check_attempt_id(bytes: &[u8]) -> bool {
    let Some(Ok(id)) = text(bytes).map(str::parse::<AttemptId>) else {
        return false;
    };
    assert_eq!(id.to_string().as_bytes(), bytes);
    true
}

fn attempt_id_seeds() -> Vec<Vec<u8>> {
    vec![attempt().to_string().into_bytes()]
}
