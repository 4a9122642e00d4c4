//! Policies as an owner meets them: written, refused with their place, kept over restarts, asked, and closed when a file is bad.

use crate::support::{Place, opencloud};
use serde_json::Value;

const NIGHT: &str = "@id(\"cancel\")
permit (principal in Group::\"night\", action == Action::\"cancel\", resource is Run);
";

fn ids(list: &Value) -> Vec<String> {
    let files = list["files"].as_array().unwrap().iter();
    let rules = files.flat_map(|file| file["rules"].as_array().unwrap());
    rules.map(|rule| rule["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn policies_are_checked_written_asked_and_kept() {
    let place = Place::new();
    let bad =
        place.file("bad.cedar", "permit (principal,\n  action == Action::\"sumbit\", resource);\n");
    let good = place.file("night.cedar", NIGHT);
    // Without a node.
    let schema = opencloud(&["policy", "schema"]).expect(0).stdout;
    assert!(schema.contains("action submit in [work]"), "{schema}");
    let refused = opencloud(&["policy", "check", &bad]).expect(1).stderr;
    assert!(
        refused.contains("bad.cedar:2:13: ") && refused.contains("hint: the actions are"),
        "{refused}"
    );
    opencloud(&["policy", "check", &good]).expect(0);

    place.init();
    let node = place.up();
    place.run(&["policy", "set", "night", &bad]).expect(1);
    place.run(&["policy", "set", "../night", &good]).expect(64);
    place.run(&["policy", "set", "night", &good]).expect(0);
    let list = place.say("--output json policy list").expect(0).json();
    assert!(ids(&list).contains(&"night/cancel".to_owned()), "{list}");
    assert_eq!(place.say("policy show night").expect(0).stdout, NIGHT);
    let run = "run:run-00000000000000000000000000000000";
    let can = |words: &str| {
        let verdict = place.say(&format!("--output json policy can {words}")).expect(0).json();
        (verdict["allowed"].as_bool().unwrap(), verdict["policies"].clone())
    };
    assert_eq!(
        can(&format!("user:ada cancel {run} --group night")),
        (true, serde_json::json!(["night/cancel"]))
    );
    assert!(!can(&format!("user:ada cancel {run}")).0);
    assert!(can("user:ada submit node --role member").0 && !can("user:ada submit node").0);
    assert!(can("owner manage_policies node").0);
    let wrong = place.say("--output json policy can user:ada sumbit node").expect(1).problem();
    assert!(wrong["detail"].as_str().unwrap().contains("submit"), "{wrong}");
    let who = place.say(&format!("policy who cancel {run}")).expect(0).stdout;
    let night = who.lines().find(|line| line.starts_with("group:night")).unwrap();
    assert!(night.contains("yes") && night.contains("night/cancel"), "{who}");
    assert_eq!(
        place.say("--output json policy log").expect(0).json()["entries"],
        serde_json::json!([])
    );

    // Over a restart; and one that was spoiled meanwhile opens nothing.
    node.terminate();
    let node = place.up();
    assert!(can(&format!("user:ada cancel {run} --group night")).0);
    node.terminate();
    place.file("home/policies/night.cedar", "forbid (principal");
    let _node = place.up();
    assert!(!can("user:ada see node --role admin").0 && can("owner see node").0);
    let list = place.say("--output json policy list").expect(0).json();
    assert!(list["closed"].as_str().unwrap().contains("night.cedar:1:"), "{list}");
    place.say("policy reload").expect(1);
    place.file("home/policies/night.cedar", NIGHT);
    place.say("policy reload").expect(0);
    assert!(can("user:ada see node --role admin").0);
    place.say("policy remove night").expect(0);
    let gone = place.say("--output json policy remove night").expect(1).problem();
    assert_eq!(gone["code"], "no_policy");
}

#[tokio::test]
async fn a_person_does_what_the_policies_let_it_and_each_decision_is_written_down() {
    let place = Place::new();
    place.init();
    let node = place.up();
    let base = format!("http://{}/api/v1", node.ready["api"].as_str().unwrap());
    place.say("user add ada").expect(0);
    let made = place.say("--output json user token create ada --name nightly").expect(0).json();
    let secret = made["secret"].as_str().unwrap().to_owned();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |method: &str, path: &str| {
        let request = http.request(method.parse().unwrap(), format!("{base}{path}"));
        let answer = request.bearer_auth(&secret).body("{}").send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap_or_default())
    };
    // Whoever has no role looks.
    for (method, path) in
        [("GET", "/status"), ("GET", "/runs"), ("GET", "/policies"), ("GET", "/session")]
    {
        assert_eq!(ask(method, path).await.0, 200, "{path}");
    }
    let run = "/runs/run-00000000000000000000000000000000";
    let refused = [
        ("POST", "/blobs", "store"),
        ("POST", "/runs", "submit"),
        ("POST", &format!("{run}/cancel"), "cancel"),
        ("GET", "/ledger", "read_ledger"),
        ("POST", "/invites", "manage_peers"),
        ("PATCH", "/orgs", "manage_peers"),
        ("GET", "/users", "manage_users"),
        ("PUT", "/policies/team", "manage_policies"),
        ("DELETE", "/policies/team", "manage_policies"),
        ("PUT", "/workspaces/shared", "edit"),
        ("POST", "/org/rotate", "manage_node"),
    ];
    for (method, path, action) in refused {
        let (status, problem) = ask(method, path).await;
        assert_eq!((status, &problem["code"]), (403, &"forbidden".into()), "{path}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains(&format!("`{action}`")) && detail.contains("ask its owner"),
            "{detail}"
        );
    }
    assert_eq!(ask("GET", "/nowhere").await.1["code"], "no_route");
    assert_eq!(ask("DELETE", "/runs").await.1["code"], "forbidden");
    // A role, and what the owner forbids beside it.
    place.say("user set ada --role member").expect(0);
    assert_eq!(ask("POST", "/blobs").await.0, 201);
    let forbid = place.file("f.cedar", format!("@id(\"mine\") forbid (principal, action == Action::\"watch\", resource == Run::\"{}\");", &run[6..]));
    assert_eq!(ask("GET", run).await.1["code"], "no_run");
    place.run(&["policy", "set", "team", &forbid]).expect(0);
    assert_eq!(ask("GET", run).await.1["code"], "forbidden");
    // The same address, written otherwise.
    assert_eq!(ask("GET", &run.replace("run-", "%72un-")).await.1["code"], "forbidden");

    let log = place.say("--output json policy log --limit 500").expect(0).json();
    let of = |action: &str, allowed: bool| {
        let entries = log["entries"].as_array().unwrap();
        entries.iter().find(|e| e["action"] == action && e["allowed"] == allowed).cloned()
    };
    assert_eq!(of("watch", false).unwrap()["policies"], serde_json::json!(["team/mine"]));
    assert_eq!(of("store", true).unwrap()["policies"], serde_json::json!(["default/members-work"]));
    assert_eq!(of("manage_peers", false).unwrap()["policies"], serde_json::json!([]));
    assert!(!log.to_string().contains(&secret));
}

/// The command line has no way of its own: to somebody who has logged in, each verb is refused what the API refuses.
#[test]
fn the_command_line_may_what_its_token_may() {
    let place = Place::new();
    place.init();
    let _node = place.up();
    let document = place.file("flood.yaml", FLOOD);
    let content = place.file("data.txt", "heights");
    place.file("one.wasm", "\0asm\x01\0\0\0");
    place.say("user add ada").expect(0);
    let made = place.say("--output json user token create ada --name t").expect(0).json();
    let node = std::fs::read_to_string(place.home().join("api.address")).unwrap();
    let login =
        serde_json::json!({"node": node.trim(), "token": made["secret"], "expires_ms": u64::MAX});
    place.file("config/opencloud/login.json", login.to_string());
    let run = |words: &[&str]| place.run_elsewhere(words);
    let verbs: [(&[&str], &str); 9] = [
        (&["run", "submit", &document], "store"),
        (&["run", "cancel", "run-00000000000000000000000000000000"], "cancel"),
        (&["data", "add", &content], "store"),
        (&["workspace", "create", "floods"], "edit"),
        (&["user", "add", "eve", "--role", "admin"], "manage_users"),
        (&["policy", "set", "mine", &place.file("p.cedar", NIGHT)], "manage_policies"),
        (&["policy", "remove", "mine"], "manage_policies"),
        (&["invite"], "manage_peers"),
        (&["ledger", "show"], "read_ledger"),
    ];
    for (verb, action) in verbs {
        let words = [&["--output", "json"], verb].concat();
        let problem = run(&words).expect(1).problem();
        assert_eq!(
            (&problem["code"], &problem["refusal"]["action"]),
            (&"forbidden".into(), &action.into()),
            "{verb:?} {problem}"
        );
    }
    assert!(!place.home().join("policies/mine.cedar").exists());
    for verb in ["status", "run list", "catalog list", "workspace list", "policy list"] {
        run(&verb.split(' ').collect::<Vec<_>>()).expect(0);
    }
    // What needs no node touches nothing of it: a home in use is not opened a second time.
    assert_ne!(place.say("up --listen /ip4/127.0.0.1/tcp/0 --no-mdns").code, 0);
}

const FLOOD: &str = "opencloud: workflow/v1
name: flood
steps:
  one:
    run: {wasi: {module: one.wasm}}
";
