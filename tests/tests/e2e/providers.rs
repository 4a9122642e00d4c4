//! Logins at providers of identities, and what a provider, or somebody between, may try.

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tests::harness::{Answer, Browser, Ended, Node, Place, Provider, program, wait_for};

/// How long anything here may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

fn api(node: &Node) -> String {
    let address = std::fs::read_to_string(node.home.join("api.address")).unwrap();
    format!("http://{}/api/v1", address.trim())
}

/// A node to which a provider is connected.
fn connected(place: &Place, provider: &Provider) -> Node {
    let mut node = place.node("org");
    node.start();
    let secret = place.path("secret");
    std::fs::write(&secret, "s3cret\n").unwrap();
    let rules = place.path("rules.json");
    std::fs::write(&rules, r#"[{"claim":"groups","begins":"oc-","group":"{}"},{"claim":"groups","is":"oc-boss","role":"admin"}]"#)
        .unwrap();
    let (secret, rules) = (secret.to_str().unwrap(), rules.to_str().unwrap());
    let added = node.json(&[
        "provider",
        "add",
        &provider.issuer,
        "--client-id",
        "node",
        "--name",
        "work",
        "--secret-file",
        secret,
        "--rules",
        rules,
        "--audience",
        "urn:node",
    ]);
    assert_eq!(added[0]["has_secret"], true);
    assert!(!added.to_string().contains("s3cret"));
    node
}

fn query(url: &str, name: &str) -> String {
    let found = url.split(['?', '&']).find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {url}")).to_owned()
}

/// A login that has begun: the browser, and what it took to the provider.
struct Begun {
    browser: Browser,
    state: String,
    nonce: String,
}

fn begin(node: &Node, provider: &Provider) -> Begun {
    let mut browser = Browser::default();
    let answer = browser.get(&format!("{}/login/start?provider=work", api(node)));
    assert_eq!(answer.status, 303, "{answer:?}");
    assert!(answer.headers["set-cookie"].contains("HttpOnly; SameSite=Lax"), "{answer:?}");
    let url = answer.location().to_owned();
    assert!(url.starts_with(&format!("{}/auth?", provider.issuer)), "{url}");
    assert_eq!(query(&url, "code_challenge_method"), "S256");
    provider.say(|script| script.challenge = query(&url, "code_challenge"));
    Begun { browser, state: query(&url, "state"), nonce: query(&url, "nonce") }
}

fn finish(node: &Node, begun: &mut Begun, code: &str, issuer: &str) -> Answer {
    let issuer = issuer.replace(':', "%3A").replace('/', "%2F");
    let state = &begun.state;
    begun
        .browser
        .get(&format!("{}/login/callback?code={code}&state={state}&iss={issuer}", api(node)))
}

/// A whole login about which the provider says this.
fn log_in(node: &Node, provider: &Provider, code: &str, claims: &Value) -> (Begun, Answer) {
    let mut begun = begin(node, provider);
    let mut claims = claims.clone();
    if claims.get("nonce").is_none() {
        claims["nonce"] = json!(begun.nonce);
    }
    provider.say(|script| script.claims = claims);
    let answer = finish(node, &mut begun, code, &provider.issuer);
    (begun, answer)
}

fn who(node: &Node, browser: &mut Browser) -> Answer {
    browser.get(&format!("{}/session", api(node)))
}

#[test]
fn a_person_logs_in_with_groups_by_the_rules_and_is_logged_out_by_the_provider() {
    let (place, provider) = (Place::new(), Provider::start());
    let node = connected(&place, &provider);
    let claims = json!({"sub": "s-1", "name": "Ada", "groups": ["oc-boss", "other"], "sid": "x"});
    let (mut begun, answer) = log_in(&node, &provider, "c1", &claims);
    assert_eq!(answer.status, 200, "{answer:?}");
    let session = who(&node, &mut begun.browser).json();
    let person = &session["person"];
    assert_eq!((&person["name"], &person["issuer"]), (&"Ada".into(), &json!(provider.issuer)));
    assert_eq!((&person["groups"], &person["roles"]), (&json!(["boss"]), &json!(["admin"])));
    assert_eq!(node.json(&["user", "list"])[0]["subject"], "s-1");

    let event = json!({"http://schemas.openid.net/event/backchannel-logout": {}});
    let word = provider.token(&json!({"sub": "s-1", "sid": "x", "events": event, "jti": "j"}));
    let out = |token: &str| {
        Browser::default()
            .form(&format!("{}/login/out/work", api(&node)), &format!("logout_token={token}"))
            .status
    };
    assert_eq!(out(&provider.token(&json!({"sub": "s-1"}))), 403, "no word of a logout");
    assert_eq!(who(&node, &mut begun.browser).status, 200);
    assert_eq!(out(&word), 200);
    assert_eq!(who(&node, &mut begun.browser).status, 401);
    assert!(!node.log().contains("s3cret") && !node.log().contains(&word));
}

#[test]
fn whatever_is_not_this_login_lets_nobody_in() {
    let (place, provider) = (Place::new(), Provider::start());
    let node = connected(&place, &provider);
    let good = json!({"sub": "s-1"});
    let (mut first, answer) = log_in(&node, &provider, "c1", &good);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(finish(&node, &mut first, "c1", &provider.issuer).status, 403, "the same again");
    let (_, answer) = log_in(&node, &provider, "c1", &good);
    assert_eq!(answer.status, 403, "a code that was used: {answer:?}");
    let past = tests::harness::now_ms() / 1_000 - 400;
    for (n, (claims, what)) in [
        (json!({"sub": "s", "aud": "another"}), "for somebody else"),
        (json!({"sub": "s", "exp": past, "iat": past - 1}), "has expired"),
        (json!({"sub": "s", "iat": past + 900}), "good only in"),
        (json!({"sub": "s", "nonce": "another"}), "another login"),
        (json!({"sub": "s", "iss": "http://127.0.0.1:1"}), "another issuer"),
        (json!({}), "of nobody"),
    ]
    .into_iter()
    .enumerate()
    {
        let (mut begun, answer) = log_in(&node, &provider, &format!("bad{n}"), &claims);
        assert!(answer.status == 403 && answer.body.contains(what), "{what}: {answer:?}");
        assert_eq!(who(&node, &mut begun.browser).status, 401, "{what}");
    }
    let mut begun = begin(&node, &provider);
    let mixed = finish(&node, &mut begun, "c2", "http://127.0.0.1:1");
    assert!(mixed.status == 403 && mixed.body.contains("another provider"), "{mixed:?}");
    let mut begun = begin(&node, &provider);
    begun.browser = Browser::default();
    assert_eq!(finish(&node, &mut begun, "c3", &provider.issuer).status, 403, "another browser");
    let mut begun = begin(&node, &provider);
    provider.say(|script| script.challenge = "stolen".to_owned());
    assert_eq!(
        finish(&node, &mut begun, "c4", &provider.issuer).status,
        403,
        "without the verifier"
    );
}

#[test]
fn new_keys_are_found_and_a_provider_that_is_down_ends_no_session() {
    let (place, provider) = (Place::new(), Provider::start());
    let node = connected(&place, &provider);
    let token = |provider: &Provider| provider.token(&json!({"sub": "svc", "aud": "urn:node"}));
    let act = |token: &str| {
        let mut program = Browser::default().with("Authorization", &format!("Bearer {token}"));
        who(&node, &mut program)
    };
    let answer = act(&token(&provider));
    assert_eq!(answer.json()["person"]["subject"], "svc", "{answer:?}");
    assert_eq!(
        act(&provider.token(&json!({"sub": "svc"}))).status,
        401,
        "for the node as a client"
    );
    provider.say(|script| (script.signs_with, script.shows) = (2, vec![2]));
    assert_eq!(act(&token(&provider)).status, 200, "the key is new");
    let fetched = provider.say(|script| script.fetched);
    provider.say(|script| script.signs_with = 9);
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(act(&token(&provider)).status, 401, "a key that nobody shows");
    }
    // Once every ten seconds at most, however slow this machine is.
    let most = fetched + 1 + u32::try_from(begun.elapsed().as_secs() / 10).unwrap();
    assert!(provider.say(|script| script.fetched) <= most, "no flood");
    provider.say(|script| script.signs_with = 2);

    let (mut begun, answer) = log_in(&node, &provider, "c1", &json!({"sub": "s-1"}));
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut half = begin(&node, &provider);
    let issuer = provider.issuer.clone();
    drop(provider);
    let answer = finish(&node, &mut half, "c2", &issuer);
    assert!(answer.status == 502 && answer.body.contains("cannot be reached"), "{answer:?}");
    assert_eq!(who(&node, &mut begun.browser).status, 200, "sessions go on");
}

#[test]
fn a_command_line_logs_in_by_a_code_and_out_again() {
    let (place, provider) = (Place::new(), Provider::start());
    let node = connected(&place, &provider);
    let config = place.path("config");
    let run = |args: &[&str]| {
        let mut command = program();
        let home = place.path("nobody");
        command
            .env("XDG_CONFIG_HOME", &config)
            .arg("--home")
            .arg(&home)
            .args(["--output", "json"])
            .args(args);
        command
    };
    provider.say(|script| script.claims = json!({"sub": "s-1", "name": "Ada"}));
    let at = api(&node);
    let address = at.trim_start_matches("http://").trim_end_matches("/api/v1");
    let begun =
        Browser::default().ask("POST", &format!("{at}/login/device"), "application/json", "{}");
    assert_eq!(begun.json()["user_code"], "WDJB-MJHT", "{begun:?}");
    let id = begun.json()["id"].as_str().unwrap().to_owned();
    let ask = json!({"id": id}).to_string();
    let poll = || {
        let url = format!("{at}/login/device/state");
        Browser::default().ask("POST", &url, "application/json", &ask).json()
    };
    assert_eq!(poll()["state"], "pending", "asked too soon");
    provider.say(|script| script.is_device_done = true);
    let done = wait_for(TIMEOUT, "the device is logged in", || {
        Some(poll()).filter(|d| d["state"] == "done")
    });
    assert!(done["secret"].as_str().unwrap().starts_with("oct_"));

    let ended = Ended::of(&mut run(&["login", "--node", address])).expect(0);
    assert!(ended.stdout.contains("WDJB-MJHT") && !ended.stdout.contains("oct_"), "{ended:?}");
    let kept = config.join("opencloud").join("login.json");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&kept).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let ended = Ended::of(&mut run(&["whoami"])).expect(0);
    assert!(ended.stdout.contains("\"Ada\""), "{ended:?}");
    let token = std::fs::read_to_string(&kept).unwrap();
    let token =
        serde_json::from_str::<Value>(&token).unwrap()["token"].as_str().unwrap().to_owned();
    let _ = Ended::of(&mut run(&["logout"])).expect(0);
    assert!(!kept.exists());
    let mut thief = Browser::default().with("Authorization", &format!("Bearer {token}"));
    assert_eq!(who(&node, &mut thief).status, 401, "the token ended with the login");
}

#[test]
fn a_login_lasts_as_long_as_its_provider_says_and_knows_the_groups_of_today() {
    let (place, provider) = (Place::new(), Provider::start());
    let node = connected(&place, &provider);
    provider.say(|script| script.lasts_s = Some(1));
    let (mut begun, answer) =
        log_in(&node, &provider, "c1", &json!({"sub": "s-1", "groups": ["oc-boss"]}));
    assert_eq!(answer.status, 200, "{answer:?}");
    let session = who(&node, &mut begun.browser).json();
    assert_eq!(session["person"]["groups"], json!(["boss"]));

    // The provider moves the person to another group: the next word says so, and the one before it is not used again.
    provider.say(|script| script.claims = json!({"sub": "s-1", "groups": ["oc-field"]}));
    wait_for(TIMEOUT, "the groups are those of today", || {
        let session = who(&node, &mut begun.browser).json();
        let person = &session["person"];
        (person["groups"] == json!(["field"]) && person["roles"] == json!([])).then_some(())
    });
    let asked = provider.say(|script| script.asked_again);
    wait_for(TIMEOUT, "it is asked again with the new token", || {
        assert_eq!(who(&node, &mut begun.browser).status, 200);
        (provider.say(|script| script.asked_again) > asked).then_some(())
    });
    let kept = std::fs::read_to_string(node.home.join("identity.json")).unwrap();
    assert!(kept.contains("sealed") && !kept.contains("r3fresh"), "{kept}");

    // What fails at the provider ends nothing, and it is not asked at each request.
    provider.say(|script| script.is_failing = true);
    let asked = provider.say(|script| script.asked_again);
    wait_for(TIMEOUT, "it is asked in vain", || {
        assert_eq!(who(&node, &mut begun.browser).status, 200);
        (provider.say(|script| script.asked_again) > asked).then_some(())
    });
    let in_vain = Instant::now();
    for _ in 0..50 {
        assert_eq!(who(&node, &mut begun.browser).status, 200);
    }
    // Once in half a minute at most, however slow this machine is.
    let most = asked + 2 + u32::try_from(in_vain.elapsed().as_secs() / 30).unwrap();
    assert!(provider.say(|script| script.asked_again) <= most);

    // Who is gone there is out here; a login of its own is asked about on its own.
    provider.say(|script| script.is_failing = false);
    let (mut other, answer) = log_in(&node, &provider, "c2", &json!({"sub": "s-2"}));
    assert_eq!(answer.status, 200, "{answer:?}");
    provider.say(|script| script.is_gone = true);
    wait_for(TIMEOUT, "the session has ended", || {
        (who(&node, &mut other.browser).status == 401).then_some(())
    });
    assert!(!node.log().contains("r3fresh"));
}

#[test]
fn a_word_about_somebody_else_ends_a_login() {
    let (place, provider) = (Place::new(), Provider::start());
    let node = connected(&place, &provider);
    provider.say(|script| script.lasts_s = Some(1));
    let (mut begun, answer) = log_in(&node, &provider, "c1", &json!({"sub": "s-1"}));
    assert_eq!(answer.status, 200, "{answer:?}");
    provider.say(|script| script.claims = json!({"sub": "s-2"}));
    wait_for(TIMEOUT, "the session has ended", || {
        (who(&node, &mut begun.browser).status == 401).then_some(())
    });
    let users = node.json(&["user", "list"]);
    assert_eq!(users.as_array().map(Vec::len), Some(1), "nobody else came in: {users}");
}
