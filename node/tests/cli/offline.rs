//! Verbs that need no node, and what is said when one is missing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use catalog::{NodeId, OrgId};

use crate::support::{Place, opencloud, program, repository};

const VERBS: [&str; 81] = [
    "area create",
    "area list",
    "area show",
    "area invite",
    "area admit",
    "area expel",
    "area join",
    "area leave",
    "area forget",
    "area share",
    "area unshare",
    "area take",
    "area rules show",
    "area rules propose",
    "area rules accept",
    "init",
    "up",
    "status",
    "invite",
    "join",
    "peers",
    "catalog list",
    "catalog search",
    "catalog show",
    "data add",
    "data get",
    "image disk add",
    "image disk list",
    "image disk show",
    "image disk inspect",
    "image disk convert",
    "image disk set",
    "image disk copy",
    "image disk export",
    "image disk remove",
    "image disk verify",
    "image disk quota",
    "workspace list",
    "workspace show",
    "workspace create",
    "workspace add",
    "workspace drop",
    "workspace note",
    "workspace search",
    "workspace workflow",
    "workspace remove",
    "workflow validate",
    "workflow plan",
    "workflow graph",
    "run submit",
    "run list",
    "run show",
    "run watch",
    "run logs",
    "run explain",
    "run cancel",
    "service deploy",
    "service list",
    "service show",
    "service scale",
    "service update",
    "service rollback",
    "service logs",
    "service connect",
    "service remove",
    "policy list",
    "policy show",
    "policy set",
    "policy remove",
    "policy check",
    "policy schema",
    "policy reload",
    "policy can",
    "policy who",
    "policy log",
    "quota list",
    "quota set",
    "quota remove",
    "ledger show",
    "ledger export",
    "ledger verify",
];

#[test]
fn the_help_of_every_verb_has_an_example_and_the_exit_codes() {
    for verb in VERBS.iter().chain(&["demo"]) {
        let mut args: Vec<&str> = verb.split(' ').collect();
        args.push("--help");
        let help = opencloud(&args).expect(0).stdout;
        assert!(help.contains("Example"), "{verb} has no example:\n{help}");
        assert!(
            help.contains(&format!("opencloud {verb}")),
            "{verb} has no example of itself:\n{help}"
        );
        assert!(help.to_lowercase().contains("exit codes"), "{verb}");
    }
    for group in ["catalog", "data", "workflow", "run", "service", "ledger"] {
        let help = opencloud(&[group, "--help"]).expect(0).stdout;
        assert!(help.contains(&format!("  opencloud {group} ")), "{group} has no example:\n{help}");
        assert!(help.contains("Exit codes"), "{group}");
    }
    assert!(opencloud(&["--help"]).expect(0).stdout.contains("opencloud demo"));
    assert!(opencloud(&["--version"]).expect(0).stdout.starts_with("opencloud "));
}

#[test]
fn a_wrong_command_line_ends_with_64() {
    for args in
        [&["frobnicate"][..], &[], &["init"], &["run", "submit"], &["status", "--output", "xml"]]
    {
        let ended = opencloud(args).expect(64);
        assert!(ended.stdout.is_empty(), "{args:?}");
    }
    for (flag, value) in [("--cpu", "many"), ("--memory", "1Gi"), ("--api", "here")] {
        let ended = opencloud(&["up", flag, value]).expect(64);
        assert!(ended.stderr.contains(value), "{}", ended.stderr);
    }
}

#[test]
fn init_makes_a_private_home_once() {
    let place = Place::new();
    let made = place.run(&["init", "--org", "Survey Office", "--output", "json"]).expect(0).json();
    assert!(made["org"].as_str().unwrap().parse::<OrgId>().is_ok());
    assert!(made["node"].as_str().unwrap().parse::<NodeId>().is_ok());
    assert_eq!(made["org_name"], "Survey Office");
    assert_eq!(fs::metadata(place.home()).unwrap().permissions().mode() & 0o777, 0o700);
    let key = fs::read(place.home().join("org.key")).unwrap();
    let again = place.run(&["init", "--org", "Other"]).expect(1);
    assert!(again.stderr.contains("holds a node already"), "{}", again.stderr);
    assert!(again.stderr.contains("hint: "), "{}", again.stderr);
    assert_eq!(fs::read(place.home().join("org.key")).unwrap(), key);
}

#[test]
fn what_is_missing_is_named_with_the_way_out() {
    let place = Place::new();
    let none = place.run(&["status"]).expect(1);
    assert!(none.stderr.contains("there is no node in"), "{}", none.stderr);
    assert!(
        none.stderr.contains("hint: make one with `opencloud init --org NAME`"),
        "{}",
        none.stderr
    );
    place.init();
    let stopped = place.run(&["status"]).expect(1);
    assert!(stopped.stderr.contains("error: the node is not running"), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("hint: start it with `opencloud up`"), "{}", stopped.stderr);
    // As after a crash: an address is there, and nobody listens.
    fs::write(place.home().join("api.address"), "127.0.0.1:1\n").unwrap();
    let crashed = place.run(&["peers"]).expect(1);
    assert!(crashed.stderr.contains("opencloud up"), "{}", crashed.stderr);
}

#[test]
fn offline_verbs_need_no_home() {
    let file = repository("examples/terrain/workflow.yaml");
    let run = |args: &[&str]| {
        let output = program().env("HOME", "").args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["workflow", "validate", &file]).starts_with("terrain: valid, 5 steps"));
    assert!(run(&["workflow", "graph", &file]).starts_with("flowchart TD"));
    assert!(run(&["workflow", "graph", &file, "--format", "dot"]).starts_with("digraph"));
    let json: serde_json::Value =
        serde_json::from_str(&run(&["workflow", "validate", &file, "--output", "json"])).unwrap();
    assert_eq!((&json["valid"], &json["name"]), (&true.into(), &"terrain".into()));
}

#[test]
fn problems_of_a_document_come_with_file_line_column_and_hint() {
    let place = Place::new();
    place.file("a.wasm", "");
    let file = place.file(
        "bad.yaml",
        "opencloud: workflow/v1\nname: bad\nsteps:\n  one: {run: {wasi: {modul: a.wasm}}}\n  two:\n    run: {wasi: {module: a.wasm}}\n    in: {x: {from: oen.y}}\n",
    );
    let ended = opencloud(&["workflow", "validate", &file]).expect(1);
    assert!(ended.stdout.is_empty());
    assert!(ended.stderr.contains(&format!("{file}:4:21: ")), "{}", ended.stderr);
    assert!(ended.stderr.contains("did you mean `module`?"), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("{file}:7:")), "{}", ended.stderr);
    assert!(ended.stderr.contains("problems"), "{}", ended.stderr);
    let json = opencloud(&["workflow", "validate", &file, "--output", "json"]).expect(1).json();
    assert_eq!(json["valid"], false);
    assert_eq!(json["problems"][0]["line"], 4);
    opencloud(&["workflow", "graph", &file]).expect(1);
}

#[test]
fn a_file_that_the_document_names_and_is_not_there_has_a_place() {
    let place = Place::new();
    let text =
        "opencloud: workflow/v1\nname: w\nsteps:\n  one:\n    run: {wasi: {module: gone.wasm}}\n";
    let file = place.file("w.yaml", text);
    let ended = opencloud(&["workflow", "validate", &file]).expect(1);
    assert!(ended.stderr.contains(&format!("{file}:5:")), "{}", ended.stderr);
    assert!(ended.stderr.contains("gone.wasm"), "{}", ended.stderr);
    let binding = place.file("b.yaml", "opencloud: binding/v1\nsteps:\n  won: {orgs: [a]}\n");
    place.file("gone.wasm", "");
    let ended = opencloud(&["workflow", "validate", &file, "--binding", &binding]).expect(1);
    assert!(ended.stderr.contains(&format!("{binding}:3:3: ")), "{}", ended.stderr);
    let none = opencloud(&["workflow", "validate", "/nonexistent/w.yaml"]).expect(1);
    assert!(none.stderr.contains("/nonexistent/w.yaml"), "{}", none.stderr);
}

#[test]
fn ledger_verify_tells_the_verdict_by_its_exit_code() {
    let place = Place::new();
    let read =
        |name: &str| fs::read(repository(&format!("accounting/tests/data/{name}.bundle"))).unwrap();
    let (valid, tail) = (read("valid"), read("tail"));
    let mut broken = valid.clone();
    broken[valid.len() / 2] ^= 1;
    let verify = |name: &str, bytes: &[u8]| {
        let file = place.file(name, bytes);
        opencloud(&["ledger", "verify", &file, "--output", "json"])
    };
    assert_eq!(verify("valid", &valid).expect(0).json()["verdict"], "valid");
    assert_eq!(verify("tail", &tail).expect(3).json()["verdict"], "valid_with_tail");
    let invalid = verify("broken", &broken).expect(1).json();
    assert_eq!(invalid["verdict"], "invalid");
    assert!(!invalid["findings"].as_array().unwrap().is_empty());
    verify("nothing", b"").expect(1);
    let people = opencloud(&["ledger", "verify", &place.file("broken", &broken)]).expect(1);
    assert!(people.stdout.contains("INVALID") && people.stderr.contains("item "), "{people:?}");
    opencloud(&["ledger", "verify", "/nonexistent"]).expect(64);
    opencloud(&["ledger", "verify"]).expect(64);
}

#[test]
fn programs_get_every_error_as_one_json_object_on_standard_error() {
    let place = Place::new();
    let bad = place.file("bad.yaml", "opencloud: workflow/v1\nname: bad\nstep: {}\n");
    let get = ["data", "get", "nonsense", "--out", "x"];
    for (args, exit_code, code) in [
        (&["frobnicate"][..], 64, "usage"),
        (&["run", "show"], 64, "usage"),
        (&["up", "--cpu", "many"], 64, "usage"),
        (&["invite", "--valid", "100d"], 64, "usage"),
        (&["status"], 1, "no_node"),
        (&get, 1, "no_node"),
        (&["run", "list"], 1, "no_node"),
        (&["workflow", "validate", "/nonexistent/w.yaml"], 1, "file"),
        (&["workflow", "validate", &bad], 1, "document"),
        (&["workflow", "graph", &bad], 1, "document"),
        (&["ledger", "verify", "/nonexistent"], 64, "file"),
        (&["up", "--price-plan", "/nonexistent"], 1, "no_node"),
    ] {
        for form in [&["--output", "json"][..], &["--output=json"]] {
            let ended = place.run(&[form, args].concat()).expect(exit_code);
            let problem = ended.problem();
            assert_eq!(problem["code"], code, "{args:?}");
            assert_eq!(problem["type"], format!("urn:opencloud:problem:{code}"), "{args:?}");
            assert_eq!(problem["exit_code"], exit_code, "{args:?}");
            assert!(!problem["detail"].as_str().unwrap().is_empty(), "{args:?}");
            assert!(problem["hint"].is_string(), "{args:?}: {problem}");
            assert!(ended.stdout.is_empty() || ended.json().is_object(), "{args:?}");
        }
    }
    let problem = place.run(&["workflow", "graph", &bad, "--output", "json"]).problem();
    assert_eq!(problem["hint"], "did you mean `steps`?", "{problem}");
    assert_eq!(problem["problems"].as_array().unwrap().len(), 2, "{problem}");
    // For people the same, with a hint in a line of its own.
    let people = place.run(&["workflow", "validate", "/nonexistent/w.yaml"]).expect(1);
    assert!(people.stderr.ends_with("hint: check the path\n"), "{}", people.stderr);
}

#[test]
fn a_condition_that_is_no_text_is_told_how_to_write_it() {
    let place = Place::new();
    place.file("a.wasm", "");
    let file = place.file(
        "w.yaml",
        "opencloud: workflow/v1\nname: w\nparams: {n: {type: int}}\nsteps:\n  one:\n    run: {wasi: {module: a.wasm}}\n    when: {expr: params.n > 3}\n",
    );
    let ended = place.run(&["workflow", "validate", &file]).expect(1);
    assert!(ended.stderr.contains(&format!("{file}:7:11: steps.one.when: ")), "{}", ended.stderr);
    assert!(ended.stderr.contains("as in `when: params.n > 3`"), "{}", ended.stderr);
}

#[test]
fn a_price_plan_with_a_mistake_is_refused_with_its_place_and_a_hint() {
    let place = Place::new();
    place.init();
    for (name, text, at, hint) in [
        (
            "key.yaml",
            "currency: EUR\nrows:\n  - {dimension: cpu, amount: 0.02, per: core-hour}\nmaxunacked: 1\n",
            "4:1: maxunacked: ",
            "did you mean `max_unacked`?",
        ),
        (
            "unit.yaml",
            "currency: EUR\nrows:\n  - dimension: cpu\n    amount: 0.02\n    per: hour\n",
            "5:10: rows[0].per: ",
            "core-hour",
        ),
        ("twice.yaml", "currency: EUR\nrows: []\nrows: []\n", "3:1: ", "keep one of the two"),
        (
            "missing.json",
            "{\n  \"rows\": []\n}\n",
            "1:1: currency: ",
            "`opencloud up --help` shows a whole plan",
        ),
        ("broken.json", "{\"currency\": \n", "2:1: ", "not YAML"),
    ] {
        let file = place.file(name, text);
        let ended = place.run(&["up", "--no-mdns", "--price-plan", &file]).expect(1);
        assert!(ended.stderr.contains(&format!("{file}:{at}")), "{name}: {}", ended.stderr);
        assert!(ended.stderr.contains(hint), "{name}: {}", ended.stderr);
    }
    let help = opencloud(&["up", "--help"]).expect(0).stdout;
    assert!(help.contains("{dimension: cpu, amount: 0.02, per: core-hour}"), "{help}");
}
