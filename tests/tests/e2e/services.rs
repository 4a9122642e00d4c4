//! Services, in containers on each container engine that is there, in virtual machines and as WebAssembly: placed with two
//! organisations, reached by tunnels, replaced, updated, billed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::conformance::subject::vm::processes;
use tests::harness::{
    Ended, Going, Net, Node, architecture, engines, text, wait_until, web_component, workflow,
    write_image,
};

use crate::containers::containers_of;
use crate::machines::{machine, machines, passable_dir};

/// How long anything may take: an engine under load takes seconds for each container, and a node counts as lost after 15.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Says its version, and who it is.
const WEB: &str = "\
opencloud: service/v1
name: web
run:
  container:
    image: image
    args:
      - /bin/sh
      - -c
      - 'echo $V $(cat /proc/sys/kernel/random/uuid) > index.html; echo up; exec /bin/busybox httpd -f -p 80 -h /work'
    env: {V: v1}
ports: {http: 80}
replicas: 2
health: {http: {port: http, path: /index.html}, every: 1s, timeout: 500ms, failures: 2, grace: 10s}
update: {drain: 1s}
needs: {cpu: 0.5, memory: 64MiB, disk: 16MiB}
";

/// The same in a machine, which has its own command line to say who it is.
const MACHINE: &str = "\
opencloud: service/v1
name: web
run:
  vm:
    kernel: kernel
    args:
      - sh
      - -c
      - 'echo $V $(cat /proc/sys/kernel/random/uuid) > index.html; echo up; exec httpd -f -p 80 -h /work'
    env: {V: v1}
ports: {http: 80}
replicas: 2
health: {http: {port: http, path: /index.html}, every: 2s, timeout: 10s, failures: 3, grace: 60s}
update: {drain: 1s}
needs: {cpu: 1, memory: 160MiB, disk: 16MiB}
";

/// Three organisations; all but the first offer services in containers.
fn net(engine: &Path) -> Net {
    let containers = format!("--containers={}", engine.display());
    let net = net_with(&[&containers, "--services", "--exec=realm"], "container");
    write_image(&net.place.path("image"), architecture());
    net
}

/// Three organisations; all but the first have these options, by which they run services of a runtime.
fn net_with(options: &[&str], runtime: &str) -> Net {
    let mut net = Net::new(3);
    for host in &mut net.nodes[1..] {
        host.stop();
        host.options.extend(options.iter().map(|option| (*option).to_owned()));
        host.start();
    }
    wait_until(TIMEOUT, "the services are known", || {
        let filter = format!("kind = compute and runtime = {runtime}-service");
        let found = net.nodes[0].json(&["catalog", "search", &filter]);
        found.as_array().is_some_and(|list| list.len() == 2) && net.nodes[0].n_connected() == 2
    });
    net
}

fn show(node: &Node) -> Value {
    node.json(&["service", "show", "web"])
}

fn wait_for_state(node: &Node, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    wait_until(TIMEOUT, what, || {
        last = show(node);
        is_so(&last)
    });
    last
}

fn is_running(service: &Value, available: u64) -> bool {
    service["state"] == "running" && service["available"] == available
}

/// The organisations that its replicas run at.
fn places(service: &Value) -> BTreeSet<String> {
    let replicas = service["replicas_now"].as_array().unwrap().iter();
    replicas.map(|replica| replica["org_name"].as_str().unwrap_or("nowhere").to_owned()).collect()
}

/// What a port of this machine answers, in words; nothing when it does not.
fn ask(local: &str) -> Option<(String, String)> {
    let url = format!("http://{local}/index.html");
    let ended = Ended::of(Command::new("curl").args(["-s", "-f", "-m", "20", &url]));
    let (version, who) = ended.stdout.trim().split_once(' ')?;
    (ended.code == 0).then(|| (version.to_owned(), who.to_owned()))
}

fn connect(node: &Node) -> (Going, String) {
    let (going, said) = node.begin(&["service", "connect", "web", "--port", "http"]);
    let local = said["local"].as_str().unwrap().to_owned();
    (going, local)
}

/// Waits until so many replicas answer, all of one version.
fn wait_for_answers(local: &str, version: &str, n: usize) {
    let what = format!("{n} replicas of {version} answer");
    let mut heard = Vec::new();
    wait_until(TIMEOUT, &what, || {
        heard.extend(ask(local));
        let lately: Vec<_> = heard.iter().rev().take(8).collect();
        let who: BTreeSet<_> = lately.iter().map(|(_, who)| who).collect();
        lately.len() == 8 && who.len() == n && lately.iter().all(|(said, _)| said == version)
    });
}

/// What a provider has earned of the first node's organisation, as both have signed it.
fn earned(net: &Net, provider: &str) -> String {
    let bill = net.nodes[0].json(&["ledger", "show"]);
    let mut channels = bill.as_array().unwrap().iter();
    let channel = channels.find(|channel| channel["provider_org"] == provider);
    let channel = channel.unwrap_or_else(|| panic!("{provider}: {bill:#}"));
    channel["earned"].to_string().trim_matches('"').to_owned()
}

/// Waits until these providers have earned something, and verifies every ledger.
fn check_bills(net: &Net, providers: &[&str]) {
    for provider in providers {
        wait_until(TIMEOUT, "the provider is billed", || earned(net, provider) != "0");
    }
    for node in &net.nodes {
        let verified = node.verify_ledger();
        assert_eq!(verified.code, 0, "{verified}");
    }
}

/// Removes the service and waits until it is gone.
fn remove_service(net: &Net) {
    let _ = net.nodes[0].cli(&["service", "remove", "web"]).expect(0);
    wait_until(TIMEOUT, "the service is gone", || {
        net.nodes[0].json(&["service", "list"]) == Value::Array(Vec::new())
    });
}

/// Removes the service and waits until nothing of it is left.
fn remove(net: &Net, engine: &Path) {
    remove_service(net);
    wait_until(TIMEOUT, "no container is left", || {
        net.nodes[1..].iter().all(|node| containers_of(engine, node) == 0)
    });
}

#[test]
fn a_service_of_two_organisations_is_reached_replaced_updated_scaled_removed_and_billed() {
    for engine in engines() {
        let mut net = net(&engine);
        let file = workflow(&net.place, WEB, &[]);
        let _ = net.nodes[0].cli(&["service", "deploy", &file, "--wait"]).expect(0);
        let service = show(&net.nodes[0]);
        assert!(is_running(&service, 2), "{service:#}");
        assert_eq!(places(&service), ["org-1", "org-2"].map(str::to_owned).into());
        wait_until(TIMEOUT, "both have said that they are up", || {
            let logs = net.nodes[0].cli(&["service", "logs", "web", "--stream", "stdout"]);
            logs.expect(0).stdout == "up\nup\n"
        });
        let exec = |name: &str| net.nodes[0].cli(&["service", "exec", name, "cat", "index.html"]);
        assert!(exec("web").expect(64).stderr.contains("several replicas run, name one"));
        for replica in service["replicas_now"].as_array().unwrap() {
            let told = exec(&format!("web/{}", &replica["run"].as_str().unwrap()[4..16])).expect(0);
            assert!(told.stdout.starts_with("v1 "), "{told}");
        }
        let (connection, local) = connect(&net.nodes[0]);
        wait_for_answers(&local, "v1", 2);

        // It is for its owner: to others the catalogue does not even tell of it.
        let told = net.nodes[2].cli(&["service", "connect", "web"]).expect(1);
        assert!(told.stderr.contains("no service `web` runs from this node"), "{told}");

        // A node dies; the other one takes its place, and nobody who asks meanwhile is left alone for ever.
        net.nodes[1].kill9();
        let is_elsewhere = |service: &Value| {
            is_running(service, 2) && places(service) == ["org-2".to_owned()].into()
        };
        let _ = wait_for_state(&net.nodes[0], "the other node took over", is_elsewhere);
        wait_for_answers(&local, "v1", 2);
        net.nodes[1].start();
        wait_until(TIMEOUT, "the node is back", || net.nodes[0].n_connected() == 2);

        // Another revision, while it is asked.
        let second = net.place.file("second.yaml", WEB.replace("V: v1", "V: v2"));
        let _ = net.nodes[0].cli(&["service", "update", "web", &second]).expect(0);
        let is_new = |service: &Value| is_running(service, 2) && service["revision"] == 2;
        let _ = wait_for_state(&net.nodes[0], "the update is done", is_new);
        wait_for_answers(&local, "v2", 2);

        let _ = net.nodes[0].cli(&["service", "scale", "web", "3"]).expect(0);
        let _ = wait_for_state(&net.nodes[0], "three run", |service| is_running(service, 3));
        wait_for_answers(&local, "v2", 3);

        remove(&net, &engine);
        assert_eq!(ask(&local), None);
        drop(connection);
        // What org-1 lost by its own fault costs nothing, and later replicas avoid it for a while.
        check_bills(&net, &["org-2"]);
    }
}

#[test]
fn an_update_that_never_gets_healthy_stops_and_what_ran_goes_on() {
    for engine in engines() {
        let net = net(&engine);
        let file = workflow(&net.place, WEB, &[]);
        let node = &net.nodes[0];
        let _ = node.cli(&["service", "deploy", &file, "--wait"]).expect(0);
        let (_connection, local) = connect(node);
        let broken = WEB.replace("exec /bin/busybox", "echo broken >&2; exit 3; exec");
        let broken = broken.replace(
            "update: {drain: 1s}",
            "update: {drain: 1s, deadline: 20s}\nrestart: {backoff: {initial: 100ms, max: 1s}}",
        );
        let broken = net.place.file("broken.yaml", broken);
        let told = node.cli(&["service", "update", "web", &broken, "--wait"]).expect(1);
        assert!(told.stderr.contains("service `web` did not get healthy"), "{told}");
        let service = wait_for_state(node, "the old one is whole", |s| s["available"] == 2);
        assert_eq!((&service["state"], &service["revision"]), (&"stopped".into(), &1.into()));
        wait_for_answers(&local, "v1", 2);
        let shown = node.cli(&["service", "show", "web"]).expect(0).stdout;
        assert!(shown.contains("revision 1 is wanted again"), "{shown}");
        remove(&net, &engine);
        check_bills(&net, &["org-1", "org-2"]);
    }
}

#[test]
fn a_service_for_the_realm_is_found_by_its_name_from_elsewhere() {
    for engine in engines() {
        let net = net(&engine);
        let everybody = format!("{WEB}access: realm\n").replace("replicas: 2", "replicas: 1");
        let file = workflow(&net.place, &everybody, &[]);
        let _ = net.nodes[0].cli(&["service", "deploy", &file, "--wait"]).expect(0);
        for node in &net.nodes {
            wait_until(TIMEOUT, "the service is known", || {
                let found = node.json(&["catalog", "search", "kind = service"]);
                found[0]["resource"]["detail"]["reach"]["endpoints"][0].is_object()
            });
            let (_connection, local) = connect(node);
            wait_for_answers(&local, "v1", 1);
        }
    }
}

/// The same as a component, which says its version and nothing of itself.
const COMPONENT: &str = "\
opencloud: service/v1
name: web
run: {wasi: {module: web.wasm}}
ports: {http: 80}
replicas: 2
health: {http: {port: http, path: /index.html}, every: 1s, timeout: 500ms, failures: 2, grace: 10s}
update: {drain: 1s}
needs: {cpu: 0.5, memory: 64MiB, disk: 16MiB}
";

#[test]
fn a_component_is_a_service_wherever_a_node_runs() {
    let mut net = net_with(&["--services"], "wasi");
    net.place.file("web.wasm", web_component("v1 component"));
    let file = net.place.file("web.yaml", COMPONENT);
    let _ = net.nodes[0].cli(&["service", "deploy", &file, "--wait"]).expect(0);
    let service = show(&net.nodes[0]);
    assert!(is_running(&service, 2), "{service:#}");
    assert_eq!(places(&service), ["org-1", "org-2"].map(str::to_owned).into());
    let (connection, local) = connect(&net.nodes[0]);
    wait_for_answers(&local, "v1", 1);

    net.nodes[1].kill9();
    let is_elsewhere =
        |service: &Value| is_running(service, 2) && places(service) == ["org-2".to_owned()].into();
    let _ = wait_for_state(&net.nodes[0], "the other node took over", is_elsewhere);
    wait_for_answers(&local, "v1", 1);
    net.nodes[1].start();
    wait_until(TIMEOUT, "the node is back", || net.nodes[0].n_connected() == 2);

    net.place.file("second.wasm", web_component("v2 component"));
    let second = net.place.file("second.yaml", COMPONENT.replace("web.wasm", "second.wasm"));
    let _ = net.nodes[0].cli(&["service", "update", "web", &second]).expect(0);
    let is_new = |service: &Value| is_running(service, 2) && service["revision"] == 2;
    let _ = wait_for_state(&net.nodes[0], "the update is done", is_new);
    wait_for_answers(&local, "v2", 1);

    remove_service(&net);
    assert_eq!(ask(&local), None);
    drop(connection);
    check_bills(&net, &["org-2"]);
}

/// Writes more than is kept before it is up, and then a line each second.
const CHATTY: &str = "\
opencloud: service/v1
name: web
run:
  container:
    image: image
    args:
      - /bin/sh
      - -c
      - '/bin/busybox seq 1 300000; echo up; (while :; do /bin/busybox sleep 1; echo tick; done) & exec /bin/busybox httpd -f -p 80'
ports: {http: 80}
health: {tcp: {port: http}, every: 1s, timeout: 500ms, failures: 2, grace: 30s}
needs: {cpu: 0.5, memory: 64MiB, disk: 16MiB}
";

/// Bytes of the numbers that it writes.
const NUMBERS_BYTES: u64 = 1_988_895;

#[test]
fn of_what_a_replica_writes_the_newest_is_kept_and_followed_beyond_the_bound() {
    for engine in engines() {
        let net = net(&engine);
        let node = &net.nodes[0];
        let file = workflow(&net.place, CHATTY, &[]);
        let _ = node.cli(&["service", "deploy", &file, "--wait"]).expect(0);
        let logs = |more: &[&str]| {
            let args = ["service", "logs", "web", "--stream", "stdout"];
            node.cli(&[&args[..], more].concat()).expect(0)
        };
        wait_until(TIMEOUT, "it ticks", || logs(&["--tail", "1"]).stdout == "tick\n");
        let whole = logs(&["--output", "json"]).json();
        let (text, dropped) = (whole["text"].as_str().unwrap(), whole["dropped"].as_u64().unwrap());
        let ticks = text.matches("tick\n").count() as u64;
        assert_eq!(text.len() as u64 + dropped, NUMBERS_BYTES + 3 + 5 * ticks);
        assert!(dropped > 0 && text.contains("299999\n300000\nup\ntick\n"), "{dropped}");
        let told = logs(&[]);
        assert!(
            told.stderr.contains("bytes before or between what follows are not kept"),
            "{told}"
        );
        assert!(logs(&["--since", "1h", "--tail", "2"]).stdout.ends_with("tick\n"));
        assert_eq!(logs(&["--tail", "0"]).stdout, "");

        let follow = ["service", "logs", "web", "--follow", "--tail", "0"];
        let (_going, piece) = node.begin(&follow);
        assert!(piece["offset"].as_u64().unwrap() > NUMBERS_BYTES, "{piece}");
        assert!(piece["text"].as_str().unwrap().ends_with("tick\n"), "{piece}");
        remove(&net, &engine);
    }
}

#[test]
fn a_command_deployed_as_a_service_says_what_it_lacks() {
    let net = net_with(&["--services"], "wasi");
    net.place.file("web.wasm", tests::harness::Guest::new(&[]).bytes());
    let quick = "restart: {backoff: {initial: 100ms, max: 1s}}\nupdate: {deadline: 20s}\n";
    let file =
        COMPONENT.replace("update: {drain: 1s}\n", quick).replace("replicas: 2", "replicas: 1");
    let file = net.place.file("web.yaml", file);
    let told = net.nodes[0].cli(&["service", "deploy", &file, "--wait"]).expect(1);
    let shown = net.nodes[0].cli(&["service", "show", "web"]).expect(0);
    assert!(shown.stdout.contains("wasi:http/incoming-handler"), "{told} {shown}");
}

#[test]
fn waiting_for_a_service_ends_as_soon_as_a_replica_ended_for_good() {
    let net = net_with(&["--services"], "wasi");
    let node = &net.nodes[0];
    net.place.file("web.wasm", tests::harness::Guest::new(&[]).bytes());
    let never = COMPONENT
        .replace("update: {drain: 1s}\n", "restart: {policy: never}\n")
        .replace("replicas: 2", "replicas: 1");
    let file = net.place.file("web.yaml", &never);
    let told = node.cli(&["service", "deploy", &file, "--wait"]).expect(1);
    let service = show(node);
    assert_eq!(
        (&service["finished"], &service["available"]),
        (&1.into(), &0.into()),
        "{service:#}"
    );
    let run = service["last_word"]["run"].as_str().unwrap();
    let replica = &run["run-".len()..][..8];
    for part in [
        format!("replica {replica} ended for good"),
        "wasi:http/incoming-handler".to_owned(),
        format!("service logs web --replica {replica}"),
    ] {
        assert!(told.stderr.contains(&part), "{part}: {told}");
    }
    // What mends it is waited for as ever, and so is another number.
    net.place.file("good.wasm", web_component("v1 component"));
    let good = net.place.file("good.yaml", never.replace("web.wasm", "good.wasm"));
    let _ = node.cli(&["service", "update", "web", &good, "--wait"]).expect(0);
    let _ = node.cli(&["service", "scale", "web", "2", "--wait"]).expect(0);
    assert!(is_running(&show(node), 2), "{:#}", show(node));
    remove_service(&net);
}

#[test]
fn a_service_of_machines_is_reached_replaced_updated_removed_and_billed() {
    let Some(kernel) = machine("kernel") else { return };
    let dir = passable_dir();
    let net = net_with(&[&format!("--vms={}", text(dir.path())), "--services"], "vm");
    fs::create_dir(net.place.path("kernel")).unwrap();
    for name in ["kernel", "initramfs"] {
        fs::copy(kernel.join(name), net.place.path("kernel").join(name)).unwrap();
    }
    let node = &net.nodes[0];
    let file = workflow(&net.place, MACHINE, &[]);
    let _ = node.cli(&["service", "deploy", &file]).expect(0);
    let service = wait_for_state(node, "two machines are healthy", |s| is_running(s, 2));
    assert_eq!(places(&service), ["org-1", "org-2"].map(str::to_owned).into());
    wait_until(TIMEOUT, "both have said that they are up", || {
        let logs = node.cli(&["service", "logs", "web", "--stream", "stdout"]);
        logs.expect(0).stdout == "up\nup\n"
    });
    let (connection, local) = connect(node);
    wait_for_answers(&local, "v1", 2);

    // A machine breaks down; another one takes its place.
    let qemus = || {
        let nodes = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        nodes.flat_map(|node| processes(&node)).filter(|p| p.is_qemu).collect::<Vec<_>>()
    };
    let broken = qemus()[0].pid;
    let killed = Command::new("kill").args(["-KILL", &broken.to_string()]).status().unwrap();
    assert!(killed.success());
    let _ = wait_for_state(node, "it is missed", |service| !is_running(service, 2));
    let _ = wait_for_state(node, "it is replaced", |service| is_running(service, 2));
    wait_for_answers(&local, "v1", 2);

    // Another revision, whose probe looks for a connection only. The host takes that before the machine does.
    let second = MACHINE.replace("V: v1", "V: v2").replace(", path: /index.html", "");
    let second = net.place.file("second.yaml", second.replace("{http: {port", "{tcp: {port"));
    let _ = node.cli(&["service", "update", "web", &second]).expect(0);
    let is_new = |service: &Value| is_running(service, 2) && service["revision"] == 2;
    let _ = wait_for_state(node, "the update is done", is_new);
    wait_for_answers(&local, "v2", 2);

    let _ = node.cli(&["service", "remove", "web"]).expect(0);
    wait_until(TIMEOUT, "no machine is left", || machines(dir.path()).is_empty());
    assert_eq!(ask(&local), None);
    drop(connection);
    check_bills(&net, &["org-1", "org-2"]);
}
