//! Steps in containers, on each container engine that is there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::harness::{
    Device, Ended, Guest, Harmless, Net, Node, Place, Run, architecture, engines, text, wait_until,
    workflow, write_file, write_image,
};

/// How long a run may take: an engine under load takes seconds for each container.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

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
pub(crate) const ENDLESS: &str = "\
opencloud: workflow/v1
name: endless
params: {image: {type: dir}}
steps:
  wait:
    run: {container: {image: {param: image}, args: [/bin/sh, -c, 'echo up; sleep 1000']}}
    needs: {cpu: 1, memory: 64MiB, disk: 16MiB}
";

/// `n` organisations, the last of which offers containers by an engine.
fn net(n: usize, engine: &Path) -> (Net, String) {
    net_with(n, [format!("--containers={}", engine.display())])
}

/// `n` organisations, the last of which offers containers by these options; and the image as a parameter.
pub(crate) fn net_with(n: usize, options: impl IntoIterator<Item = String>) -> (Net, String) {
    let mut net = Net::new(n);
    let image = net.place.path("image");
    write_image(&image, architecture());
    let host = &mut net.nodes[n - 1];
    host.stop();
    host.options.extend(options);
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
        work_together(&net, &image);
        assert_eq!(containers_of(&engine, &net.nodes[2]), 0);
    }
}

/// A run over three organisations, the last of which runs its container, with bills.
pub(crate) fn work_together(net: &Net, image: &str) {
    let make = Guest::new(&[&write_file("text.txt", "twelve bytes")]);
    let file = workflow(&net.place, MIXED, &[("make.wasm", &make)]);
    let binding = "opencloud: binding/v1\nsteps:\n  make: {orgs: [org-1]}\n";
    let binding = net.place.file("binding.yaml", binding);
    let node = &net.nodes[0];
    let (run, out) = net.outputs(&[&file, "--input", image, "--binding", &binding]);
    let by: Vec<_> = run.in_state("committed").iter().map(|t| t["org_name"].clone()).collect();
    assert_eq!(by, ["org-1", "org-2"], "{:#}", run.0);
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(read("count.txt").trim(), "12");
    assert_eq!(read("said"), "counted by a container in /work\n");
    let bill = node.json(&["ledger", "show"]);
    for provider in ["org-1", "org-2"] {
        let channels = bill.as_array().unwrap().iter();
        let mut channels = channels.filter(|channel| channel["provider_org"] == provider);
        let lane = &channels.next().unwrap_or_else(|| panic!("{provider}: {bill:#}"))["lanes"][0];
        assert_ne!(lane["earned"].to_string().trim_matches('"'), "0", "{provider}: {lane:#}");
    }
    for node in &net.nodes {
        let verified = node.verify_ledger();
        assert_eq!(verified.code, 0, "{verified}");
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
        let (net, image) = net(2, &engine);
        kill_and_cancel(net, &image, |node| containers_of(&engine, node));
    }
}

/// Kills the second node while it runs a container, and cancels the next attempt; `n_running` tells how many it has.
pub(crate) fn kill_and_cancel(mut net: Net, image: &str, n_running: impl Fn(&Node) -> usize) {
    let file = workflow(&net.place, ENDLESS, &[]);
    let id = net.nodes[0].submit(&file, &["--input", image]);
    let is_up = |net: &Net| net.nodes[0].cli(&["run", "logs", &id]).stdout.contains("up");
    wait_until(TIMEOUT, "the container is up", || is_up(&net));
    assert_eq!(n_running(&net.nodes[1]), 1);
    net.nodes[1].kill9();
    net.nodes[1].start();
    // What the killed one left behind is gone; the next attempt may have begun.
    let again =
        |run: &Run| run.in_state("running").iter().any(|task| task["attempt"].as_u64() > Some(1));
    let _ = net.nodes[0].wait_for_run(&id, TIMEOUT, "the step is done again", again);
    wait_until(TIMEOUT, "one container runs", || n_running(&net.nodes[1]) == 1);
    let _ = net.nodes[0].cli(&["run", "cancel", &id]).expect(0);
    let run = net.nodes[0].wait_for_end(&id, TIMEOUT);
    assert_eq!(run.state(), "cancelled", "{:#}", run.0);
    wait_until(TIMEOUT, "no container is left", || n_running(&net.nodes[1]) == 0);
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

/// Three tasks that open a device for reading and writing, and stay a while.
const DEVICES: &str = "\
opencloud: workflow/v1
name: devices
params: {image: {type: dir}}
steps:
  use:
    run:
      container:
        image: {param: image}
        args: [/bin/sh, -c, 'exec 3<>DEVICE && echo opened; sleep 2']
    map: {over: [1, 2, 3]}
    out: {said: {stdout: true}}
    needs: {cpu: 0.1, memory: 64MiB, disk: 16MiB, devices: {gpu: 1}}
";

/// The second node starts again with a device, for whom it says.
fn open_device(net: &mut Net, device: &str, whom: Option<&str>) {
    let owner = &mut net.nodes[1];
    owner.stop();
    owner.options.retain(|option| !option.starts_with("--device"));
    owner.options.push(format!("--device=gpu={device}"));
    owner.options.extend(whom.map(|whom| format!("--device-for={whom}")));
    owner.start();
    let told = format!("\"device_for\":\"{}\"", whom.unwrap_or("own"));
    wait_until(TIMEOUT, "the device is known", || {
        let found = net.nodes[0].json(&["catalog", "search", "accelerator = gpu"]);
        found.to_string().contains(&told) && net.nodes[0].n_connected() == 1
    });
}

#[test]
fn a_device_is_held_by_one_task_after_another_where_its_owner_opens_it_and_billed() {
    let device = match Device::new(Harmless::Fuse, 0o666, 0) {
        Ok(device) => device,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let device = device.text();
    for engine in engines() {
        let (mut net, image) = net(2, &engine);
        let file = workflow(&net.place, &DEVICES.replace("DEVICE", device), &[]);
        let args = ["workflow", "plan", &file, "--input", &image];
        let closed = "it opens no device `gpu` to this organisation";
        let told = net.nodes[0].cli(&args).expect(1);
        assert!(told.stdout.contains(closed), "{told}");
        // Its owner's alone unless it says more.
        open_device(&mut net, device, None);
        let told = net.nodes[0].cli(&args).expect(1);
        assert!(told.stdout.contains(closed), "{told}");
        open_device(&mut net, device, Some("realm"));
        let told = net.nodes[0].cli(&args).expect(0);
        assert!(told.stdout.contains("EUR an hour"), "{told}");
        let id = net.nodes[0].submit(&file, &["--input", &image]);
        let run = net.nodes[0].wait_for_end(&id, TIMEOUT);
        assert_eq!(run.in_state("committed").len(), 3, "{:#}", run.0);
        let bill = net.nodes[0].json(&["ledger", "show"]);
        let lanes = bill[0]["lanes"].as_array().unwrap();
        let held: Vec<u64> = lanes.iter().filter_map(|lane| lane["used"]["gpu"].as_u64()).collect();
        assert_eq!(held.len(), 3, "{bill:#}");
        assert!(held.iter().all(|us| (2_000_000..60_000_000).contains(us)), "{held:?}");
        for node in &net.nodes {
            let verified = node.verify_ledger();
            assert_eq!(verified.code, 0, "{verified}");
        }
        assert_eq!(containers_of(&engine, &net.nodes[1]), 0);
    }
}

#[test]
fn devices_that_cannot_be_opened_keep_a_node_from_starting() {
    for engine in engines() {
        let place = Place::new();
        let node = place.node("org");
        let containers = format!("--containers={}", engine.display());
        let file = place.file("plain", "");
        for (options, expected) in [
            (vec!["--device=gpu=/dev/null"], "--containers"),
            (vec!["--device-for=realm"], "--device"),
            (vec![&*containers, "--device=gpu"], "names no devices"),
            (
                vec![&*containers, "--device=gpu=/dev/null", "--device=gpu=/dev/zero"],
                "opened twice",
            ),
            (vec![&*containers, "--device=gpu=/dev/no-such"], "cannot be used"),
            (vec![&*containers, "--device=gpu=opencloud.test/no=such"], "opencloud.test/no=such"),
        ] {
            let args: Vec<&str> = ["up"].into_iter().chain(options.iter().copied()).collect();
            let ended = node.cli(&args);
            assert_ne!(ended.code, 0, "{ended}");
            assert!(ended.stderr.contains(expected), "{ended}");
        }
        let plain = format!("--device=gpu={file}");
        let ended = node.cli(&["up", &containers, &plain]);
        assert!(ended.code != 0 && ended.stderr.contains("is not a device"), "{ended}");
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
