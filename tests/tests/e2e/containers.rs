//! Steps in containers, on each container engine that is there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::harness::{
    Ended, Guest, Net, Node, Place, Run, architecture, engines, text, wait_until, workflow,
    write_file, write_image,
};

/// How long a run may take: an engine under load takes seconds for each container.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A WebAssembly step, a container step that works on its result, and a WebAssembly step's worth of proof in the end.
const MIXED: &str = "\
opencloud: workflow/v1
name: mixed
params: {image: {type: dir}}
steps:
  make:
    run: {wasi: {module: make.wasm}}
    out: {text: {file: text.txt}}
    needs: {cpu: 1, memory: 64MiB, disk: 16MiB}
  count:
    run:
      container:
        image: {param: image}
        args: [/bin/sh, -c, 'wc -c < in/text.txt > count.txt; echo counted by $WHO in $PWD', {in: text}]
        env: {WHO: a container}
    in: {text: {from: make.text, path: in/text.txt}}
    out: {count: {file: count.txt}, said: {stdout: true}}
    needs: {cpu: 1, memory: 64MiB, disk: 16MiB}
outputs:
  count: {from: count.count}
  said: {from: count.said}
";

/// A container that tells that it is up and stays.
const ENDLESS: &str = "\
opencloud: workflow/v1
name: endless
params: {image: {type: dir}}
steps:
  wait:
    run: {container: {image: {param: image}, args: [/bin/sh, -c, 'echo up; sleep 1000']}}
    needs: {cpu: 1, memory: 64MiB, disk: 16MiB}
";

/// `n` organisations, the last of which offers containers.
fn net(n: usize, engine: &Path) -> (Net, String) {
    let mut net = Net::new(n);
    let image = net.place.path("image");
    write_image(&image, architecture());
    let host = &mut net.nodes[n - 1];
    host.stop();
    host.options.push(format!("--containers={}", engine.display()));
    host.start();
    let asks = &net.nodes[0];
    wait_until(TIMEOUT, "the containers are known", || {
        let found = asks.json(&["catalog", "search", "kind = compute and runtime = container"]);
        found.as_array().is_some_and(|list| list.len() == 1) && asks.n_connected() + 1 == n
    });
    (net, format!("image={}", text(&image)))
}

/// How many containers of a node its engine knows.
pub(crate) fn containers_of(engine: &Path, node: &Node) -> usize {
    let id = node.json(&["status"])["id"].as_str().unwrap().to_owned();
    let url =
        format!("http://localhost/v1.40/containers/json?all=true&filters={{\"name\":[\"{id}\"]}}");
    let mut curl = Command::new("curl");
    let curl = curl.args(["-s", "-g", "--unix-socket"]).arg(engine).arg(url);
    Ended::of(curl).expect(0).json().as_array().unwrap().len()
}

#[test]
fn webassembly_and_containers_work_in_one_run_over_three_organisations_with_bills() {
    for engine in engines() {
        let (net, image) = net(3, &engine);
        let make = Guest::new(&[&write_file("text.txt", "twelve bytes")]);
        let file = workflow(&net.place, MIXED, &[("make.wasm", &make)]);
        let binding = net
            .place
            .file("binding.yaml", "opencloud: binding/v1\nsteps:\n  make: {orgs: [org-1]}\n");
        let node = &net.nodes[0];
        let (run, out) = net.outputs(&[&file, "--input", &image, "--binding", &binding]);
        let by: Vec<_> = run.in_state("committed").iter().map(|t| t["org_name"].clone()).collect();
        assert_eq!(by, ["org-1", "org-2"], "{:#}", run.0);
        let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
        assert_eq!(read("count.txt").trim(), "12");
        assert_eq!(read("said"), "counted by a container in /work\n");
        let bill = node.json(&["ledger", "show"]);
        for provider in ["org-1", "org-2"] {
            let channels = bill.as_array().unwrap().iter();
            let mut channels = channels.filter(|channel| channel["provider_org"] == provider);
            let lane =
                &channels.next().unwrap_or_else(|| panic!("{provider}: {bill:#}"))["lanes"][0];
            assert_ne!(lane["earned"].to_string().trim_matches('"'), "0", "{provider}: {lane:#}");
        }
        for node in &net.nodes {
            let verified = node.verify_ledger();
            assert_eq!(verified.code, 0, "{verified}");
        }
        assert_eq!(containers_of(&engine, &net.nodes[2]), 0);
    }
}

#[test]
fn an_image_that_another_organisation_published_is_run_by_its_digest() {
    for engine in engines() {
        let (net, _) = net(2, &engine);
        let image = text(&net.place.path("image"));
        let added = net.nodes[1].json(&["data", "add", &image, "--name", "Busybox"]);
        let digest = added["digest"].as_str().unwrap();
        let yaml = format!(
            "opencloud: workflow/v1\nname: named\nsteps:\n  say:\n    run: {{container: {{image: \"{digest}\"}}}}\n    \
             out: {{said: {{stdout: true}}}}\n    needs: {{cpu: 1, memory: 64MiB, disk: 16MiB}}\n\
             outputs:\n  said: {{from: say.said}}\n"
        );
        let file = workflow(&net.place, &yaml, &[]);
        let node = &net.nodes[0];
        wait_until(TIMEOUT, "the image is known", || {
            let found = node.json(&["catalog", "search", "kind = data and name ~ Busybox"]);
            found.as_array().is_some_and(|list| list.len() == 1)
        });
        let (_, out) = net.outputs(&[&file]);
        assert_eq!(std::fs::read_to_string(out.join("said")).unwrap(), "default\n");
    }
}

#[test]
fn containers_of_a_killed_node_are_gone_after_its_restart_and_cancelled_ones_at_once() {
    for engine in engines() {
        let (mut net, image) = net(2, &engine);
        let file = workflow(&net.place, ENDLESS, &[]);
        let id = net.nodes[0].submit(&file, &["--input", &image]);
        let is_up = |net: &Net| net.nodes[0].cli(&["run", "logs", &id]).stdout.contains("up");
        wait_until(TIMEOUT, "the container is up", || is_up(&net));
        assert_eq!(containers_of(&engine, &net.nodes[1]), 1);
        net.nodes[1].kill9();
        net.nodes[1].start();
        // What the killed one left behind is gone; the next attempt may have begun.
        let again = |run: &Run| {
            run.in_state("running").iter().any(|task| task["attempt"].as_u64() > Some(1))
        };
        let _ = net.nodes[0].wait_for_run(&id, TIMEOUT, "the step is done again", again);
        wait_until(TIMEOUT, "one container runs", || containers_of(&engine, &net.nodes[1]) == 1);
        let _ = net.nodes[0].cli(&["run", "cancel", &id]).expect(0);
        let run = net.nodes[0].wait_for_end(&id, TIMEOUT);
        assert_eq!(run.state(), "cancelled", "{:#}", run.0);
        wait_until(TIMEOUT, "no container is left", || containers_of(&engine, &net.nodes[1]) == 0);
    }
}

/// Tells by which way it would leave.
const ONLINE: &str = "\
opencloud: workflow/v1
name: online
params: {image: {type: dir}}
steps:
  ask:
    run:
      container:
        image: {param: image}
        args: [/bin/ip, route]
    out: {said: {stdout: true}}
    needs: {cpu: 1, memory: 64MiB, disk: 16MiB, network: true}
outputs:
  said: {from: ask.said}
";

#[test]
fn a_step_gets_the_network_where_the_owner_gives_it_and_nowhere_else() {
    for engine in engines() {
        let (mut net, image) = net(2, &engine);
        let file = workflow(&net.place, ONLINE, &[]);
        let args = ["workflow", "plan", &file, "--input", &image];
        let told = net.nodes[0].cli(&args).expect(1);
        assert!(told.stdout.contains("it gives tasks no network"), "{told}");
        let giver = &mut net.nodes[1];
        giver.stop();
        giver.options.push("--network".to_owned());
        giver.start();
        wait_until(TIMEOUT, "the network is known", || {
            let filter = "kind = compute and network = true";
            let found = net.nodes[0].json(&["catalog", "search", filter]);
            found.as_array().is_some_and(|list| list.len() == 1) && net.nodes[0].n_connected() == 1
        });
        let (_, out) = net.outputs(&[&file, "--input", &image]);
        let said = std::fs::read_to_string(out.join("said")).unwrap();
        assert!(said.starts_with("default via "), "{said}");
    }
}

#[test]
fn where_no_node_offers_containers_the_plan_says_so() {
    let net = Net::new(1);
    let image = net.place.path("image");
    std::fs::create_dir(&image).unwrap();
    let file = workflow(&net.place, ENDLESS, &[]);
    let image = format!("image={}", text(&image));
    let told = net.nodes[0].cli(&["workflow", "plan", &file, "--input", &image]).expect(1);
    assert!(told.stdout.contains("it has no `container` runtime"), "{told}");
    assert!(told.stderr.contains("no node can run wait"), "{told}");
}

#[test]
fn an_engine_that_is_not_there_is_named() {
    let place = Place::new();
    let mut node = place.node("org");
    node.start();
    node.stop();
    let nowhere: PathBuf = place.path("no.sock");
    node.options.push(format!("--containers={}", nowhere.display()));
    let told = Ended::of(&mut node.up()).expect(1);
    for fact in ["no container engine", &text(&nowhere), "podman system service"] {
        assert!(told.stderr.contains(fact), "`{fact}` is missing: {told}");
    }
}
