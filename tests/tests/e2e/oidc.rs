//! Logins at a certified provider that others made: npm `oidc-provider`. `tests/run` brings it; without it the test is left out.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tests::harness::{Answer, Browser, Node, Place, repository, text, wait_for};

/// How long anything here may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The provider as a process. Its standard input ends with the test, and it with that.
struct Idp {
    issuer: String,
    child: Child,
}

impl Drop for Idp {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `tests/run` has put the packages of the Node.js index.
fn library() -> Option<PathBuf> {
    let dir = std::env::var_os("OPENCLOUD_TEST_NPM").map(PathBuf::from)?;
    let found = dir.join("node_modules/oidc-provider/lib/index.js");
    found.is_file().then_some(found)
}

impl Idp {
    fn start(callback: &str) -> Option<Self> {
        let Some(library) = library() else {
            println!("npm's oidc-provider is not there (OPENCLOUD_TEST_NPM): left out");
            return None;
        };
        let mut command = Command::new("node");
        command.arg(repository("tests/providers/idp.mjs")).arg(library).arg(callback);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("http://"), "the provider does not start: {line}");
        Some(Self { issuer: line.trim().to_owned(), child })
    }

    /// Replaces people.
    fn say(&mut self, people: &serde_json::Value) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{people}").unwrap();
    }

    /// Follows where a page leads, as somebody who logs in and agrees, until it leads to `end` or shows a page.
    fn follow(&self, browser: &mut Browser, mut answer: Answer, who: &str, end: &str) -> Answer {
        let mut prompts = 0;
        while matches!(answer.status, 302 | 303) {
            let url = answer.location().to_owned();
            let url = if url.starts_with('/') { format!("{}{url}", self.issuer) } else { url };
            answer = if url.starts_with(end) {
                return browser.get(&url);
            } else if url.contains("/interaction/") {
                prompts += 1;
                assert!(prompts < 5, "it asks again and again: {answer:?}");
                let login = format!("prompt=login&login={who}&password=x");
                browser.form(&url, if prompts == 1 { &login } else { "prompt=consent" })
            } else {
                browser.get(&url)
            };
        }
        answer
    }
}

fn api(node: &Node) -> String {
    let address = std::fs::read_to_string(node.home.join("api.address")).unwrap();
    format!("http://{}/api/v1", address.trim())
}

fn connect(place: &Place, node: &Node, idp: &Idp) {
    let secret = place.path("secret");
    std::fs::write(&secret, "a secret of the node: & = %\n").unwrap();
    let rules = place.path("rules.json");
    std::fs::write(&rules, r#"[{"claim":"groups","begins":"oc-","group":"{}"}]"#).unwrap();
    let _ = node.json(&[
        "provider",
        "add",
        &idp.issuer,
        "--client-id",
        "node",
        "--name",
        "work",
        "--secret-file",
        &text(&secret),
        "--rules",
        &text(&rules),
        "--scope",
        "profile",
        "--scope",
        "groups",
        "--audience",
        "urn:node",
    ]);
    assert_eq!(node.json(&["provider", "test", "work"])["devices"], true);
}

fn hidden(page: &Answer) -> String {
    let found = page.body.split("name=\"xsrf\" value=\"").nth(1);
    found.and_then(|rest| rest.split('"').next()).unwrap_or_else(|| panic!("{page:?}")).to_owned()
}

#[test]
fn people_devices_and_programs_log_in_at_a_provider_that_others_made() {
    let place = Place::new();
    let mut node = place.node("org");
    node.start();
    let at = api(&node);
    let callback = format!("{at}/login/callback");
    let Some(mut idp) = Idp::start(&callback) else { return };
    connect(&place, &node, &idp);

    let mut browser = Browser::default();
    let answer = browser.get(&format!("{at}/login/start"));
    let answer = idp.follow(&mut browser, answer, "ada", &callback);
    assert_eq!(answer.status, 200, "{answer:?}");
    let session = browser.get(&format!("{at}/session")).json();
    let person = &session["person"];
    assert_eq!((&person["subject"], &person["name"]), (&"ada".into(), &"Ada".into()));
    assert_eq!(person["groups"], serde_json::json!(["boss", "field"]));

    // She changes groups there, and the login knows it, without a page.
    idp.say(&serde_json::json!({"ada": {"name": "Ada", "groups": ["oc-lake"]}}));
    wait_for(TIMEOUT, "the groups are those of today", || {
        let session = browser.get(&format!("{at}/session")).json();
        (session["person"]["groups"] == serde_json::json!(["lake"])).then_some(())
    });
    let mut own = browser.clone().with("Sec-Fetch-Site", "same-origin").with("X-Opencloud", "1");
    let out = own.ask("DELETE", &format!("{at}/session"), "", "").json();
    assert!(out["provider"].as_str().unwrap().starts_with(&idp.issuer), "{out}");
    assert_eq!(browser.get(&format!("{at}/session")).status, 401);

    let mut program = Browser::default();
    let login = program.ask("POST", &format!("{at}/login/device"), "application/json", "{}").json();
    let poll = format!("{at}/login/device/state");
    let ask = serde_json::json!({"id": login["id"]}).to_string();
    assert_eq!(program.ask("POST", &poll, "application/json", &ask).json()["state"], "pending");
    let (mut browser, code) = (Browser::default(), login["user_code"].as_str().unwrap());
    let enter = format!("{}/device", idp.issuer);
    let page = browser.get(&format!("{enter}?user_code={code}"));
    let page = browser.form(&enter, &format!("xsrf={}&user_code={code}", hidden(&page)));
    let xsrf = hidden(&page);
    let answer = browser.form(&enter, &format!("xsrf={xsrf}&confirm=yes&user_code={code}"));
    let answer = idp.follow(&mut browser, answer, "bob", "(nowhere)");
    assert_eq!(answer.status, 200, "{answer:?}");
    let done = wait_for(TIMEOUT, "the device is logged in", || {
        Some(program.ask("POST", &poll, "application/json", &ask).json())
            .filter(|done| done["state"] == "done")
    });
    let secret = done["secret"].as_str().unwrap();
    let mut program = Browser::default().with("Authorization", &format!("Bearer {secret}"));
    let session = program.get(&format!("{at}/session")).json();
    assert_eq!(session["person"]["name"], "Bob", "{session}");
    assert_eq!(session["person"]["groups"], serde_json::json!([]));
    idp.say(&serde_json::json!({"bob": null}));
    wait_for(TIMEOUT, "who is gone at the provider is out here", || {
        (program.get(&format!("{at}/session")).status == 401).then_some(())
    });

    let pair = "bmlnaHRseTphJTIwc2VjcmV0JTIwb2YlMjB0aGUlMjBwcm9ncmFt";
    let mut client = Browser::default().with("Authorization", &format!("Basic {pair}"));
    let tokens =
        client.form(&format!("{}/token", idp.issuer), "grant_type=client_credentials").json();
    let token = tokens["access_token"].as_str().unwrap_or_else(|| panic!("{tokens}"));
    let mut program = Browser::default().with("Authorization", &format!("Bearer {token}"));
    let session = program.get(&format!("{at}/session")).json();
    assert_eq!(session["person"]["subject"], "nightly", "{session}");
}
