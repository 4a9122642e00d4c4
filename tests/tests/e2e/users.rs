//! Users without any provider: login links, sessions of browsers, access tokens of programs.

use std::time::Duration;

use serde_json::Value;
use tests::harness::{
    Browser, Ended, Guest, Net, Node, Place, THREE_TASKS, program, sleep_ms, wait_until, workflow,
    write_file,
};

/// How long what several nodes do may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

fn api(node: &Node) -> String {
    let address = std::fs::read_to_string(node.home.join("api.address")).unwrap();
    format!("http://{}/api/v1", address.trim())
}

fn link(node: &Node, user: &str) -> String {
    node.json(&["user", "link", user])["url"].as_str().unwrap().to_owned()
}

/// A browser with a session of the user, whose requests the node's own page makes.
fn logged_in(node: &Node, user: &str) -> Browser {
    let mut browser = Browser::default().with("Sec-Fetch-Site", "same-origin");
    assert_eq!(browser.form(&link(node, user), "").status, 200);
    browser
}

#[test]
fn a_link_lets_a_user_in_once_and_the_session_outlives_the_node() {
    let place = Place::new();
    let mut node = place.node("org");
    node.start();
    let _ = node.json(&["user", "add", "ada", "--group", "staff"]);
    let url = link(&node, "ada");
    let mut browser = Browser::default().with("Sec-Fetch-Site", "same-origin");
    let page = browser.get(&url);
    assert!(page.status == 200 && page.body.contains("Log in as ada?"), "{page:?}");
    assert_eq!(page.headers["referrer-policy"], "no-referrer");
    let answer = browser.form(&url, "");
    let cookie = &answer.headers["set-cookie"];
    assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
    assert_eq!(Browser::default().form(&url, "").status, 403, "a link is good once");

    node.restart();
    let at = api(&node);
    // The port may be another one after the restart, the cookie is the host's.
    let secret = cookie.split(';').next().unwrap();
    let mut browser =
        Browser::default().with("Sec-Fetch-Site", "same-origin").with("Cookie", secret);
    let session = browser.get(&format!("{at}/session")).json();
    assert_eq!(
        (&session["person"]["name"], &session["entrance"]),
        (&"ada".into(), &"session".into())
    );
    assert_eq!(session["person"]["groups"], serde_json::json!(["staff"]));
    assert_eq!(browser.get(&format!("{at}/status")).status, 200);
    assert_eq!(browser.get(&format!("{at}/users")).json()["code"], "forbidden");
    let kept = std::fs::read_to_string(node.home.join("identity.json")).unwrap();
    assert!(!kept.contains(secret.split('=').nth(1).unwrap()) && !node.log().contains("ocs_"));

    let out =
        browser.clone().with("X-Opencloud", "1").ask("DELETE", &format!("{at}/session"), "", "");
    assert_eq!(out.status, 200);
    assert_eq!(browser.get(&format!("{at}/session")).status, 401);
}

#[test]
fn a_page_of_another_site_gets_nothing_by_a_session() {
    let place = Place::new();
    let mut node = place.node("org");
    node.start();
    let at = api(&node);
    let own = logged_in(&node, "owner");
    let invite = |browser: &Browser| {
        browser.clone().ask("POST", &format!("{at}/invites"), "application/json", "{}").status
    };
    assert_eq!(invite(&own), 403, "without the page's header");
    assert_eq!(invite(&own.clone().with("X-Opencloud", "1")), 201);
    let mut other = own.clone().with("X-Opencloud", "1");
    other.headers[0].1 = "cross-site".to_owned();
    assert_eq!((invite(&other), other.get(&format!("{at}/status")).status), (403, 403));
    let foreign = own.with("X-Opencloud", "1").with("Origin", "http://evil.example");
    assert_eq!(invite(&foreign), 403);
}

#[test]
fn a_token_acts_for_its_user_until_it_is_revoked() {
    let place = Place::new();
    let mut node = place.node("org");
    node.start();
    let at = api(&node);
    let _ = node.json(&["user", "add", "ada"]);
    let made = node.json(&["user", "token", "create", "ada", "--name", "nightly"]);
    let secret = made["secret"].as_str().unwrap();
    let mut program = Browser::default().with("Authorization", &format!("Bearer {secret}"));
    let session = program.get(&format!("{at}/session")).json();
    assert_eq!(
        (&session["person"]["name"], &session["entrance"]),
        (&"ada".into(), &"token".into())
    );
    let more =
        program.ask("POST", &format!("{at}/session/tokens"), "application/json", r#"{"name":"x"}"#);
    assert_eq!(more.json()["code"], "forbidden", "a token makes no tokens");
    let listed = node.json(&["user", "token", "list", "ada"]);
    assert_eq!(listed[0]["id"], made["id"]);
    assert_eq!(listed[0].get("secret"), None::<&Value>);
    let _ = node.cli(&["user", "token", "revoke", "ada", made["id"].as_str().unwrap()]).expect(0);
    assert_eq!(program.get(&format!("{at}/session")).status, 401);
    let session = node.json(&["whoami"]);
    assert_eq!((&session["caller"], &session["entrance"]), (&"owner".into(), &"home_token".into()));

    let mut ada = logged_in(&node, "ada").with("X-Opencloud", "1");
    let own =
        ada.ask("POST", &format!("{at}/session/tokens"), "application/json", r#"{"name":"x"}"#);
    assert_eq!(own.status, 201, "{own:?}");
    let _ = node.cli(&["user", "remove", "ada", "--yes"]).expect(0);
    assert_eq!(ada.get(&format!("{at}/session")).status, 401, "whoever is removed is out");
}

#[test]
fn a_person_is_known_by_name_at_another_organisation_which_decides_about_it() {
    let net = Net::new(2);
    let (home, other) = (&net.nodes[0], &net.nodes[1]);
    let _ = home.json(&["user", "add", "ada", "--role", "member", "--group", "field"]);
    let made = home.json(&["user", "token", "create", "ada", "--name", "nightly"]);
    let node = std::fs::read_to_string(home.home.join("api.address")).unwrap();
    let kept = serde_json::json!({
        "node": node.trim(), "token": made["secret"], "expires_ms": made["expires_ms"],
    });
    net.place.file("config/opencloud/login.json", kept.to_string());
    let ada = |args: &[&str]| {
        let mut command = program();
        command.env("XDG_CONFIG_HOME", net.place.path("config"));
        command.arg("--home").arg(net.place.path("nobody")).args(["--output", "json"]).args(args);
        Ended::of(&mut command)
    };
    let guest = Guest::new(&[&sleep_ms(1), &write_file("result.txt", "done")]);
    let file = workflow(&net.place, THREE_TASKS, &[("guest.wasm", &guest)]);
    let binding =
        net.place.file("binding.yaml", "opencloud: binding/v1\nsteps:\n  work: {orgs: [org-1]}\n");
    let submit = ["run", "submit", &file, "--binding", &binding];
    let id = ada(&submit).expect(0).json()["id"].as_str().unwrap().to_owned();
    assert_eq!(home.wait_for_end(&id, TIMEOUT).state(), "succeeded");
    assert_eq!(home.json(&["run", "show", &id])["by"], "ada");
    let session = ada(&["whoami"]).expect(0).json();
    let subject = session["person"]["subject"].as_str().unwrap();
    let name = format!("{}|local|{subject}", session["person"]["org"].as_str().unwrap());
    let has = |allowed: bool| {
        let log = other.json(&["policy", "log"])["entries"].as_array().unwrap().clone();
        let principal = format!("user:{name}");
        log.iter().any(|e| {
            (&e["principal"], &e["action"]) == (&principal.as_str().into(), &"quote".into())
                && e["allowed"] == allowed
        })
    };
    assert!(has(true) && !has(false));
    let rule = format!("forbid (principal == User::\"{name}\", action, resource);");
    let rule = net.place.file("ada.cedar", rule);
    let _ = other.cli(&["policy", "set", "ada", &rule]).expect(0);
    let _ = ada(&submit).expect(0);
    wait_until(TIMEOUT, "she is refused there", || has(false));
    // The owner of the same node is not meant.
    let id = home.submit(&file, &["--binding", &binding]);
    assert_eq!(home.wait_for_end(&id, TIMEOUT).state(), "succeeded");
}
