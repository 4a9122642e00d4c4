//! Steps in virtual machines, beside WebAssembly and containers.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tests::harness::{
    Guest, Net, Run, architecture, engines, text, wait_for, wait_until, workflow, write_file,
    write_image,
};

/// How long a node may take to be known with what it offers.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a run may take in which Debian boots by translation on a busy host.
const BOOT_TIMEOUT: Duration = Duration::from_secs(600);

/// One step for each runtime, each of which works on what the one before it has made. Debian itself has no `proof`: the
/// user data makes it.
const MIXED: &str = "\
opencloud: workflow/v1
name: mixed
params: {image: {type: dir}, disk: {type: file}, user_data: {type: file}}
steps:
  make:
    run: {wasi: {module: make.wasm}}
    out: {text: {file: text.txt}}
    needs: {cpu: 1, memory: 64MiB, disk: 16MiB}
  count:
    run:
      container:
        image: {param: image}
        args: [/bin/sh, -c, 'wc -c < in/text.txt > count.txt']
    in: {text: {from: make.text, path: in/text.txt}}
    out: {count: {file: count.txt}}
    needs: {cpu: 1, memory: 64MiB, disk: 16MiB}
  prove:
    run:
      vm:
        disk: {param: disk}
        user_data: {param: user_data}
        args: [sh, -c, '. /etc/os-release; echo $ID $WHO; /usr/local/bin/proof | tee proof.txt', {in: count}]
        env: {WHO: a machine}
    in: {count: {from: count.count, path: in/count.txt}}
    out: {proof: {file: proof.txt}, said: {stdout: true}}
    timeout: 1m
    needs: {cpu: 2, memory: 512MiB, disk: 64MiB}
outputs:
  proof: {from: prove.proof}
  said: {from: prove.said}
";

/// Read by Debian's own cloud-init before the task.
const USER_DATA: &str = "\
#cloud-config
locale: false
write_files:
  - path: /usr/local/bin/proof
    permissions: '0755'
    content: |
      #!/bin/sh
      echo $(cat in/count.txt) bytes, counted in $(hostname)
hostname: chosen
";

const ENDLESS: &str = "\
opencloud: workflow/v1
name: endless
params: {kernel: {type: dir}}
steps:
  wait:
    run: {vm: {kernel: {param: kernel}, args: [sh, -c, 'echo up; sleep 1000']}}
    needs: {cpu: 1, memory: 192MiB, disk: 16MiB}
";

/// A machine that waits for the end of its suspension, with as much disk as its memory needs.
const PATIENT: &str = "\
opencloud: workflow/v1
name: patient
params: {kernel: {type: dir}}
steps:
  wait:
    run: {vm: {kernel: {param: kernel}, args: [sh, -c, 'echo mine > kept; echo up; while [ ! -e /run/opencloud/resumed ]; do sleep 1; done']}}
    out: {kept: {file: kept}}
    needs: {cpu: 1, memory: 192MiB, disk: 512MiB}
outputs: {kept: {from: wait.kept}}
";

/// What `tests/machines` has made, if it has.
pub(crate) fn machine(name: &str) -> Option<PathBuf> {
    tests::conformance::subject::machine(name).map_err(|why| println!("skipped: {why}")).ok()
}

/// A directory through which the users of machines can pass, which the tests' own does not allow.
pub(crate) fn passable_dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("oc").tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
    dir
}

/// `n` organisations, the last of which offers virtual machines, with their files in the directory.
fn net(n: usize) -> (Net, TempDir) {
    let (net, dir) = (Net::new(n), passable_dir());
    (with(net, n - 1, &format!("--vms={}", text(dir.path())), "vm"), dir)
}

/// The same net, one of whose nodes offers a further runtime.
fn with(mut net: Net, n: usize, option: &str, runtime: &str) -> Net {
    let host = &mut net.nodes[n];
    host.stop();
    host.options.push(option.to_owned());
    host.start();
    let asks = &net.nodes[0];
    wait_until(TIMEOUT, "the runtime is known", || {
        let query = format!("kind = compute and runtime = {runtime}");
        let found = asks.json(&["catalog", "search", &query]);
        found.as_array().is_some_and(|list| list.len() == 1)
            && asks.n_connected() + 1 == net.nodes.len()
    });
    net
}

/// Directories of machines that are there.
pub(crate) fn machines(dir: &Path) -> Vec<PathBuf> {
    let inside = |dir: PathBuf| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    inside(dir.to_owned()).flat_map(|node| inside(node.join("machines"))).collect()
}

fn must_be_billed(net: &Net, run: &Run, providers: &[&str]) {
    let by: Vec<_> = run.in_state("committed").iter().map(|t| t["org_name"].clone()).collect();
    assert_eq!(by, providers, "{:#}", run.0);
    let bill = net.nodes[0].json(&["ledger", "show"]);
    for provider in providers {
        let mut channels = bill.as_array().unwrap().iter();
        let channel = channels.find(|channel| channel["provider_org"] == *provider);
        let lane = &channel.unwrap_or_else(|| panic!("{provider}: {bill:#}"))["lanes"][0];
        assert_ne!(lane["earned"].to_string().trim_matches('"'), "0", "{provider}: {lane:#}");
    }
    for node in &net.nodes {
        let verified = node.verify_ledger();
        assert_eq!(verified.code, 0, "{verified}");
    }
}

#[test]
fn webassembly_a_container_and_debian_work_in_one_run_over_three_organisations_with_bills() {
    let (Some(disk), Some(engine)) = (machine("disk.qcow2"), engines().into_iter().next()) else {
        return;
    };
    let (net, dir) = net(4);
    let net = with(net, 2, &format!("--containers={}", engine.display()), "container");
    let image = net.place.path("image");
    write_image(&image, architecture());
    let make = Guest::new(&[&write_file("text.txt", "twelve bytes")]);
    let file = workflow(&net.place, MIXED, &[("make.wasm", &make)]);
    let binding = "opencloud: binding/v1\nsteps:\n  make: {orgs: [org-1]}\n";
    let binding = net.place.file("binding.yaml", binding);
    let user_data = net.place.file("user-data", USER_DATA);
    // Debian is an image of the second organisation, which the first one names.
    let shared = ["--name", "debian", "--visibility", "public", "--sign"];
    let _ = net.nodes[1].json(&[&["image", "disk", "add", &text(&disk)], &shared[..]].concat());
    wait_until(TIMEOUT, "the disk's image is known", || {
        let found = net.nodes[0].json(&["catalog", "search", "kind = disk and signed = true"]);
        found.as_array().is_some_and(|list| list.len() == 1)
    });
    let named = "image:org-1/debian".to_owned();
    let params = [("image", text(&image)), ("disk", named), ("user_data", user_data)]
        .map(|(name, path)| format!("{name}={path}"));
    let mut more = vec!["--binding", &binding];
    more.extend(params.iter().flat_map(|param| ["--input", param.as_str()]));
    let node = &net.nodes[0];
    let id = node.submit(&file, &more);
    let run = node.wait_for_end(&id, BOOT_TIMEOUT);
    must_be_billed(&net, &run, &["org-1", "org-2", "org-3"]);
    let logs = node.cli(&["run", "logs", &id]).expect(0);
    assert!(logs.stdout.contains("debian a machine"), "{logs}");
    assert!(logs.stdout.contains("12 bytes, counted in chosen"), "{logs}");
    assert!(machines(dir.path()).is_empty());
}

#[test]
fn machines_of_a_killed_node_are_gone_and_cancelled_ones_at_once() {
    let Some(kernel) = machine("kernel") else { return };
    let (mut net, dir) = net(2);
    let kernel = format!("kernel={}", text(&kernel));
    let file = workflow(&net.place, ENDLESS, &[]);
    let id = net.nodes[0].submit(&file, &["--input", &kernel]);
    let is_up = |net: &Net| net.nodes[0].cli(&["run", "logs", &id]).stdout.contains("up");
    wait_until(BOOT_TIMEOUT, "the machine is up", || is_up(&net));
    let before = machines(dir.path());
    assert_eq!(before.len(), 1, "{before:?}");
    net.nodes[1].kill9();
    net.nodes[1].start();
    // What the killed one left behind is gone; the next attempt may have begun.
    assert!(!before[0].exists());
    let _ = net.nodes[0].cli(&["run", "cancel", &id]).expect(0);
    let run = net.nodes[0].wait_for_end(&id, TIMEOUT);
    assert_eq!(run.state(), "cancelled", "{:#}", run.0);
    wait_until(TIMEOUT, "nothing of it is left", || machines(dir.path()).is_empty());
}

#[test]
fn a_machine_elsewhere_is_suspended_and_resumed_by_whoever_submitted_its_run() {
    let Some(kernel) = machine("kernel") else { return };
    let (net, dir) = net(2);
    let (node, host) = (&net.nodes[0], &net.nodes[1]);
    let kernel = format!("kernel={}", text(&kernel));
    let file = workflow(&net.place, PATIENT, &[]);
    let id = node.submit(&file, &["--input", &kernel]);
    wait_until(BOOT_TIMEOUT, "the machine is up", || {
        node.cli(&["run", "logs", &id]).stdout.contains("up")
    });
    let free = |what: &str| host.json(&["status"])[what].as_u64().unwrap();
    let busy = (free("cpu_free_milli"), free("memory_free_bytes"), free("disk_free_bytes"));
    let state = |wanted: &str| node.run(&id).in_state(wanted).len() == 1;

    let late = node.cli(&["run", "resume", &id, "wait"]);
    assert!(late.code != 0 && late.stderr.contains("is not suspended"), "{late}");
    let none = node.cli(&["run", "suspend", &id, "other"]);
    assert!(none.code != 0 && none.stderr.contains("no step `other`"), "{none}");
    let done = node.cli(&["run", "suspend", &id, "wait"]).expect(0);
    assert_eq!(done.stdout, "wait[0] is suspended\n");
    wait_until(TIMEOUT, "the run shows it", || state("suspended"));
    let still = (free("cpu_free_milli"), free("memory_free_bytes"), free("disk_free_bytes"));
    assert!(still.0 > busy.0 && still.1 > busy.1 && still.2 == busy.2, "{busy:?} {still:?}");
    let used = || host.json(&["ledger", "show"])[0]["lanes"][0]["used"].clone();
    let again = node.cli(&["run", "suspend", &id, "wait"]);
    assert!(again.code != 0 && again.stderr.contains("suspended already"), "{again}");
    // Receipts go on, longer than a provider may be silent: for its disk, and for nothing else.
    let next = |than: &serde_json::Value| {
        wait_for(TIMEOUT, "its disk is billed", || {
            let now = used();
            (now["storage"].as_u64() > than["storage"].as_u64()).then_some(now)
        })
    };
    let first = next(&next(&used()));
    let second = next(&first);
    assert_eq!((&first["cpu"], &first["mem"]), (&second["cpu"], &second["mem"]));
    let _ = node.cli(&["run", "resume", &id, "wait[0]"]).expect(0);
    let run = node.wait_for_end(&id, TIMEOUT);
    assert_eq!(run.state(), "succeeded", "{:#}", run.0);
    assert_eq!(run.in_state("committed").len(), 1, "one attempt was enough: {:#}", run.0);
    must_be_billed(&net, &run, &["org-1"]);
    wait_until(TIMEOUT, "nothing of it is left", || machines(dir.path()).is_empty());
    let ended = node.cli(&["run", "suspend", &id, "wait"]);
    assert!(ended.code != 0 && ended.stderr.contains("does not run now"), "{ended}");
}

#[test]
fn a_suspended_machine_of_a_killed_node_is_begun_anew() {
    let Some(kernel) = machine("kernel") else { return };
    let (mut net, dir) = net(2);
    let kernel = format!("kernel={}", text(&kernel));
    let file = workflow(&net.place, PATIENT, &[]);
    let id = net.nodes[0].submit(&file, &["--input", &kernel]);
    let is_suspended = |net: &Net| net.nodes[0].cli(&["run", "suspend", &id, "wait"]).code == 0;
    wait_until(BOOT_TIMEOUT, "the machine is suspended", || is_suspended(&net));
    let before = machines(dir.path());
    assert_eq!(before.len(), 1, "{before:?}");
    net.nodes[1].kill9();
    net.nodes[1].start();
    assert!(!before[0].exists(), "its memory and its disk are gone");
    wait_until(BOOT_TIMEOUT, "the next one is suspended", || is_suspended(&net));
    let _ = net.nodes[0].cli(&["run", "resume", &id, "wait"]).expect(0);
    let run = net.nodes[0].wait_for_end(&id, TIMEOUT);
    assert_eq!(run.state(), "succeeded", "{:#}", run.0);
    let attempts: Vec<_> = run.in_state("committed").iter().map(|t| t["attempt"].clone()).collect();
    assert_eq!(attempts, [2], "{:#}", run.0);
    wait_until(TIMEOUT, "nothing of it is left", || machines(dir.path()).is_empty());
}
