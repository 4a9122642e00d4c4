//! What a service document says, and what is wrong with one.

use std::collections::BTreeMap;

use catalog::{Digest, OrgId};
use scheduler::service::{
    Access, Document, HealthCheck, Probe, RestartPolicy, Spread, TERM_MS, Update,
};
use scheduler::task::{RuntimeKind, Stage};
use scheduler::value::DirRef;
use scheduler::workflow::{AssetKind, Scope};

const FULL: &str = "\
opencloud: service/v1
name: tiles
description: Map tiles.
run:
  container: {image: tiles.oci, args: [--cache, 64], env: {LEVEL: info}}
ports: {http: 8080, metrics: 9090}
replicas: 3
health: {http: {port: http, path: /healthz}, every: 5s, timeout: 1s, failures: 2, grace: 1m}
restart: {policy: on_failure, backoff: {initial: 2s, max: 1m}}
update: {max_unavailable: 1, max_surge: 2, deadline: 5m, drain: 30s}
needs: {cpu: 0.5, memory: 256MiB}
access: realm
spread: orgs
term: 12h
";

/// The bytes of a key that is a point of the curve.
const KEY: [u8; 32] = [
    0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a,
    0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
];

fn problems(text: &str) -> String {
    Document::parse(text).unwrap_err().to_string()
}

#[test]
fn every_key_is_read() {
    let service = Document::parse(FULL).unwrap();
    assert_eq!((service.name.as_str(), service.replicas), ("tiles", Some(3)));
    assert_eq!(service.run.runtime(), RuntimeKind::Container);
    let ports = [("http".to_owned(), 8080), ("metrics".to_owned(), 9090)];
    assert_eq!(service.spec.ports, BTreeMap::from(ports));
    let probe = Probe::Http { port: "http".to_owned(), path: "/healthz".to_owned() };
    let health =
        HealthCheck { probe, every_ms: 5_000, timeout_ms: 1_000, failures: 2, grace_ms: 60_000 };
    assert_eq!(service.spec.health, Some(health));
    assert_eq!(service.spec.access, Access::Realm);
    assert_eq!(service.spec.check(), Ok(()));
    assert_eq!(service.restart.policy, RestartPolicy::OnFailure);
    assert_eq!(
        (service.restart.backoff.initial_ms, service.restart.backoff.max_ms),
        (2_000, 60_000)
    );
    let update =
        Update { max_unavailable: 1, max_surge: 2, deadline_ms: 300_000, drain_ms: 30_000 };
    assert_eq!(service.update, update);
    assert_eq!((service.needs.cpu_milli, service.needs.memory_bytes), (500, 256 << 20));
    assert_eq!((service.spread, service.term_ms), (Spread::Orgs, 12 * 3_600_000));
    let assets = service.asset_paths();
    assert_eq!(assets.len(), 1);
    assert_eq!((assets[0].path.as_str(), assets[0].kind), ("tiles.oci", AssetKind::Dir));
}

#[test]
fn a_short_document_has_safe_defaults() {
    let text = "opencloud: service/v1\nname: a\nrun: {wasi: {module: a.wasm}}\nports: {http: 80}\n";
    let service = Document::parse(text).unwrap();
    assert_eq!(service.replicas, None);
    assert_eq!((service.update.max_unavailable, service.update.max_surge), (0, 1));
    assert_eq!(service.restart.policy, RestartPolicy::Always);
    assert_eq!(service.restart.backoff.max_ms, 300_000);
    assert_eq!(service.spec.access, Access::Owner);
    assert_eq!(service.term_ms, TERM_MS.1);
    let json = r#"{"opencloud": "service/v1", "name": "a", "run": {"wasi": {"module": "a.wasm"}},
                   "ports": {"http": 80}}"#;
    let mut same = Document::parse(json).unwrap();
    same.digest = service.digest;
    assert_eq!((same.run, same.spec), (service.run, service.spec));
}

#[test]
fn a_replica_is_a_task_that_says_it_is_a_service() {
    let service = Document::parse(FULL).unwrap();
    let workflow = service.workflow();
    let image = DirRef { digest: Digest::of(b"i"), size: 1, name: "tiles.oci".to_owned() };
    let scope = Scope {
        params: &BTreeMap::new(),
        assets: &BTreeMap::from([("tiles.oci".to_owned(), Stage::Dir(image))]),
        outputs: &|_, _| None,
        item: None,
    };
    let spec = workflow.materialise(0, &scope).unwrap().spec;
    assert_eq!(spec.service, Some(service.spec));
    assert_eq!(spec.argv, ["--cache", "64"]);
    assert_eq!(spec.timeout_ms, 12 * 3_600_000);
    // A task that is no service is encoded as before there were services.
    let task = scheduler::task::TaskSpec { service: None, ..spec };
    assert!(!serde_json::to_string(&task).unwrap().contains("service"));
}

#[test]
fn who_may_connect_is_named_by_id() {
    let org = OrgId::from_bytes(KEY);
    let text = format!(
        "opencloud: service/v1\nname: a\nrun: {{wasi: {{module: a.wasm}}}}\nports: {{http: 80}}\n\
         access: [\"{org}\"]\n"
    );
    assert_eq!(Document::parse(&text).unwrap().spec.access, Access::Orgs([org].into()));
    let named = problems(&text.replace(&org.to_string(), "uni"));
    assert!(named.starts_with("5:10: access[0]: "), "{named}");
    assert_eq!(
        problems(&text.replace(&format!("[\"{org}\"]"), "all")),
        "5:9: access: unknown word `all` (one of owner, realm)"
    );
}

#[test]
fn every_problem_is_reported_with_its_place() {
    let text = "\
opencloud: service/v1
name: Tiles
run: {wasi: {module: a.wasm, args: [{param: x}]}}
ports: {http: 0, 9: 80, other: 80}
replica: 3
replicas: 65
health: {http: {port: htp, path: \"/a b\"}, tcp: {port: http}, every: 1ms}
restart: {policy: sometimes}
update: {max_unavailable: 0, max_surge: 0, drain: 2h}
replicas: 2
term: 25h
";
    assert_eq!(
        problems(text),
        "2:7: name: `Tiles` is not a service name: begin with a small letter, then small letters, digits and `-`, at most 64\n\
         3:45: run.wasi.args[0].param: unknown parameter `x`\n\
         4:15: ports.http: 0 is out of range, 1 to 65535 is allowed\n\
         4:18: ports.9: `9` is not a port name: begin with a letter, then letters, digits, `_` and `-`, at most 64\n\
         4:32: ports.other: expected a port of its own, found the number of another port\n\
         5:1: unknown key `replica` (did you mean `replicas`?)\n\
         6:11: replicas: 65 is out of range, 0 to 64 is allowed\n\
         7:9: health: expected exactly one of `http`, `tcp`\n\
         7:69: health.every: 1 ms is out of range, 1000 to 600000 is allowed\n\
         8:19: restart.policy: unknown word `sometimes` (one of always, on_failure, never)\n\
         9:9: update: expected `max_unavailable` or `max_surge` above 0, found both 0 (otherwise no replica could ever be replaced)\n\
         9:51: update.drain: 7200000 ms is out of range, 0 to 3600000 is allowed\n\
         10:1: key `replicas` is given twice (keep one of the two)\n\
         11:7: term: 90000000 ms is out of range, 600000 to 86400000 is allowed"
    );
    let of = |change: &str| {
        let head = "opencloud: service/v1\nname: a\n";
        problems(&format!("{head}{change}"))
    };
    assert_eq!(
        of("run: {slurm: {program: a}}\nports: {http: 80}\n"),
        "3:6: run: expected wasi, container or vm, found a batch job, which nobody can connect to"
    );
    assert_eq!(
        of("run: {wasi: {module: a.wasm}}\nports: {}\n"),
        "4:8: ports: expected at least one port, as in `{http: 8080}`, found none"
    );
    assert_eq!(
        of("run: {wasi: {module: a.wasm}}\nports: {a: 1, b: 2}\nhealth: {tcp: {port: c}}\n"),
        "5:22: health.tcp.port: unknown port `c` (one of a, b)"
    );
    assert_eq!(
        of("run: {wasi: {module: a.wasm}}\nports: {a: 1}\nhealth: {http: {path: healthz}}\n"),
        "5:23: health.http.path: expected a path such as `/healthz`, found something else"
    );
    assert_eq!(
        problems("opencloud: workflow/v1\nname: x\nsteps: {}\n").lines().next(),
        Some(
            "1:12: opencloud: `workflow/v1` is not a document of this kind: expected `service/v1`"
        )
    );
}

#[test]
fn the_one_port_need_not_be_named() {
    let text = "opencloud: service/v1\nname: a\nrun: {wasi: {module: a.wasm}}\nports: {web: 80}\n\
                health: {tcp: {}}\n";
    let health = Document::parse(text).unwrap().spec.health.unwrap();
    assert_eq!(health.probe, Probe::Tcp { port: "web".to_owned() });
}

#[test]
fn the_binding_names_the_one_step() {
    let workflow = Document::parse(FULL).unwrap().workflow();
    let binding = "opencloud: binding/v1\nstrategy: cost\nsteps: {replica: {regions: [eu]}}\n";
    let binding = scheduler::binding::Binding::parse(binding, &workflow).unwrap();
    assert_eq!(binding.rule("replica").regions, ["eu"]);
}

proptest::proptest! {
    #[test]
    fn no_text_panics_the_reader(text in "[ -~\\n]{0,300}") {
        let _either = Document::parse(&text);
        let _either = Document::parse(&format!("opencloud: service/v1\n{text}"));
    }
}
