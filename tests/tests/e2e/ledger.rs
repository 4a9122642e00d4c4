//! Exported ledgers of real nodes: whole, changed, and judged by the second verifier.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::harness::{
    ENDLESS_LOOP, Ended, Guest, Net, Node, Place, THREE_TASKS, program, repository, sleep_ms, text,
    wait_for, workflow, write_file,
};

/// How long the last receipts may take to be signed by both sides.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// In how many places of the bundle one byte is changed for the program.
const FLIPS: usize = 50;
/// How many changed bundles the two verifiers compare.
const MUTANTS: usize = 200;

/// Two nodes, one of which served the other, and the settled bundle of the one that was served.
fn settled() -> (Net, PathBuf) {
    let net = Net::new(2);
    let guest = Guest::new(&[&sleep_ms(50), &write_file("result.txt", "done")]);
    let file = workflow(&net.place, THREE_TASKS, &[("guest.wasm", &guest)]);
    let binding =
        net.place.file("binding.yaml", "opencloud: binding/v1\nsteps:\n  work: {orgs: [org-1]}\n");
    let submit = ["run", "submit", &file, "--binding", &binding, "--wait"];
    let _ = net.nodes[0].cli(&submit).expect(0);
    let what = "both sides have signed everything";
    let bundle = wait_for(SETTLE_TIMEOUT, what, || {
        let ours = net.nodes[0].verify_ledger();
        let theirs = net.nodes[1].verify_ledger();
        assert!([0, 3].contains(&ours.code), "{ours}");
        assert!([0, 3].contains(&theirs.code), "{theirs}");
        (ours.code == 0 && theirs.code == 0).then(|| net.nodes[0].home.with_extension("bundle"))
    });
    (net, bundle)
}

#[test]
fn a_settled_bundle_is_valid_and_one_changed_byte_is_found_and_placed() {
    let (net, path) = settled();
    let bundle = std::fs::read(&path).unwrap();
    let verify = |bytes: &[u8]| -> Ended {
        let file = net.place.file("changed.bundle", bytes);
        net.nodes[0].cli(&["--output", "json", "ledger", "verify", &file])
    };
    let report = verify(&bundle).expect(0).json();
    assert_eq!(report["findings"], serde_json::json!([]), "{report:#}");
    let lanes = report["channels"][0]["lanes"].as_object().map_or_else(
        || report["channels"][0]["lanes"].as_array().unwrap().len(),
        serde_json::Map::len,
    );
    assert_eq!(lanes, 3, "{report:#}");
    let ends = item_ends(&bundle);
    for n in 0..FLIPS {
        let at = n * (bundle.len() - 1) / (FLIPS - 1);
        let mut changed = bundle.clone();
        changed[at] ^= 1 << (n % 8);
        let report = verify(&changed).expect(1).json();
        let found = report["findings"][0]["item"].as_u64().unwrap() as usize;
        let item = ends.iter().take_while(|end| **end <= at).count();
        // An item of another length than it had may make the next one unreadable.
        assert!([item, item + 1].contains(&found), "byte {at}: {report:#}");
    }
    let told = net.place.file("changed.bundle", &bundle[..bundle.len() / 2]);
    let told = net.nodes[0].cli(&["ledger", "verify", &told]).expect(1);
    assert!(told.stdout.contains("INVALID") && told.stderr.contains("item "), "{told}");
    let none = net.nodes[0].cli(&["ledger", "verify", "/nonexistent"]);
    assert_eq!(none.code, 64, "{none}");
}

#[test]
fn the_second_verifier_agrees_on_the_demos_ledgers_and_200_changed_ones() {
    let Some(python) = python() else { return };
    let place = Place::new();
    let out = text(&place.path("demo"));
    let mut demo = program();
    demo.args(["demo", "--out", &out, "--output", "json"]);
    let shown = Ended::of(&mut demo).expect(0).json();
    let mut bundles: Vec<Vec<u8>> = Vec::new();
    for node in shown["nodes"].as_array().unwrap() {
        let ledger = node["ledger"].as_str().unwrap();
        let mut verify = program();
        let _ = Ended::of(verify.args(["ledger", "verify", ledger])).expect(0);
        bundles.push(std::fs::read(ledger).unwrap());
    }
    let n_whole = bundles.len();
    assert_eq!(n_whole, 3);
    for n in 0..MUTANTS {
        let mut changed = bundles[n % n_whole].clone();
        let at = n * (changed.len() - 1) / (MUTANTS - 1);
        match n % 4 {
            0 => changed.truncate(at),
            1 => {
                changed.remove(at);
            }
            2 => changed.insert(at, 0x5A),
            _ => changed[at] ^= 1 << (n % 8),
        }
        bundles.push(changed);
    }
    let dir = place.path("mutants");
    for (n, bundle) in bundles.iter().enumerate() {
        place.file(&format!("mutants/{n:03}"), bundle);
    }
    let codes = second_opinions(&python, &dir);
    assert_eq!(codes.len(), bundles.len());
    for (n, (theirs, bundle)) in codes.iter().zip(&bundles).enumerate() {
        let ours = accounting::verify(bundle).exit_code();
        assert_eq!(*theirs, ours, "bundle {n}");
        assert_eq!(ours, if n < n_whole { 0 } else { 1 }, "bundle {n}");
    }
    for n in [n_whole, n_whole + 1] {
        let file = text(&dir.join(format!("{n:03}")));
        let _ = Ended::of(program().args(["ledger", "verify", &file])).expect(1);
    }
}

/// A plan that asks one euro for each second of processor time, and serves for half a euro at most.
const DEAR: &str = "\
currency: EUR
rows:
  - {dimension: cpu, amount: 3600, per: core-hour}
  - {dimension: set_up, amount: 0.36, per: hour}
interval_ms: 1000
max_unacked: 100
credit_limit: 0.5
";

const ONE_TASK: &str = "\
opencloud: workflow/v1
name: dear
steps:
  work:
    run: {wasi: {module: guest.wasm}}
    out: {result: {file: result.txt}}
    needs: {cpu: 1, memory: 16MiB, disk: 16MiB}
    timeout: 5m
    retry: {attempts: 1}
";

#[test]
fn work_is_stopped_when_its_money_is_spent_and_set_up_is_billed_apart() {
    let place = Place::new();
    let mut nodes = vec![place.node("org-0"), place.node("org-1")];
    let plan = place.file("dear.yaml", DEAR);
    nodes[1].options.extend(["--price-plan".to_owned(), plan]);
    nodes.iter_mut().for_each(Node::start);
    let _ = nodes[1].cli(&["join", &nodes[0].invite()]).expect(0);
    let net = Net { nodes, place };
    net.wait_until_known(&net.nodes[0]);
    let file = workflow(&net.place, ONE_TASK, &[("guest.wasm", &Guest::new(&[ENDLESS_LOOP]))]);
    let binding =
        net.place.file("binding.yaml", "opencloud: binding/v1\nsteps:\n  work: {orgs: [org-1]}\n");
    let submit = ["--output", "json", "run", "submit", &file, "--binding", &binding, "--wait"];
    let ended = net.nodes[0].cli(&submit).expect(1).json();
    let run = net.nodes[0].run(ended["id"].as_str().unwrap());
    for fact in ["spent", "as much as its agreement allows"] {
        assert!(run.0.to_string().contains(fact), "`{fact}` is missing in {:#}", run.0);
    }
    let lane = wait_for(SETTLE_TIMEOUT, "the lane is closed", || {
        let lane = net.nodes[0].json(&["ledger", "show"])[0]["lanes"][0].clone();
        (lane["state"] == "closed").then_some(lane)
    });
    assert_eq!(lane["earned"], 500_000_000, "half a euro in nano-units: {lane:#}");
    // Compiling even the smallest program takes a while, and is not part of what it computed.
    assert!(lane["used"]["set_up"].as_u64() > Some(0), "{lane:#}");
    let verified = net.nodes[1].verify_ledger();
    assert!([0, 3].contains(&verified.code), "{verified}");
}

/// Where each item of a bundle, which is a CBOR sequence, ends.
fn item_ends(bundle: &[u8]) -> Vec<usize> {
    let mut rest = bundle;
    let mut ends = Vec::new();
    while !rest.is_empty() {
        let _: ciborium::Value = ciborium::from_reader(&mut rest).unwrap();
        ends.push(bundle.len() - rest.len());
    }
    ends
}

/// What the verifier in Python says of every file of a directory, in one process: its start takes longer than a check.
fn second_opinions(python: &Path, dir: &Path) -> Vec<u8> {
    let code = "import contextlib, io, pathlib, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import verify
for path in sorted(pathlib.Path(sys.argv[2]).iterdir()):
    with contextlib.redirect_stdout(io.StringIO()):
        code = verify.main([str(path), '--json'])
    print(code)";
    let mut command = Command::new(python);
    command.args(["-c", code]);
    command.arg(repository("tests/verify")).arg(dir);
    let said = Ended::of(&mut command).expect(0);
    said.stdout.lines().map(|line| line.parse().unwrap()).collect()
}

/// A Python that can run the second verifier.
fn python() -> Option<PathBuf> {
    let candidates = [repository("target/venv/bin/python"), "python3".into()];
    let found = candidates.into_iter().find(|python| {
        let import = Command::new(python).args(["-c", "import cbor2, cryptography"]).output();
        import.is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        println!("skipped: there is no Python with cbor2 and cryptography (tests/run makes one)");
    }
    found
}
