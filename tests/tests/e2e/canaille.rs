//! Logins at a provider that people run for their organisations: PyPI's Canaille, with its pages, its forms and its habits. It names
//! itself in its answers, signs with RS512, gives no new word with a refreshed token, and takes a refresh token for as long only as the
//! access token that came with it. `tests/run` brings it; without it the test is left out.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tests::harness::{Answer, Browser, Node, Place, repository, text, wait_for};

/// How long anything here may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The provider as a process. Its standard input ends with the test, and it with that.
struct Canaille {
    issuer: String,
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Drop for Canaille {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Canaille {
    fn start(place: &Place, node_at: &str) -> Option<Self> {
        let Some(python) = std::env::var_os("OPENCLOUD_TEST_CANAILLE") else {
            println!("Canaille is not there (OPENCLOUD_TEST_CANAILLE): left out");
            return None;
        };
        let mut command = Command::new(python);
        command.arg(repository("tests/providers/canaille_idp.py"));
        command.arg(format!("{node_at}/login/callback")).arg(place.path("canaille.sqlite"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut canaille = Self { issuer: String::new(), child, lines };
        canaille.issuer = canaille.line();
        assert!(canaille.issuer.starts_with("http://"), "it does not start: {}", canaille.issuer);
        Some(canaille)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Has it be otherwise from now on.
    fn say(&mut self, what: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{what}").unwrap();
        assert_eq!(self.line(), "done", "{what}");
    }

    /// Somebody who has entered a name and a password in its pages.
    fn visitor(&self) -> Browser {
        let mut browser = Browser::default();
        for (page, field) in [("/login", "login=ada"), ("/auth/password", "password=correct+horse")]
        {
            let url = format!("{}{page}", self.issuer);
            let shown = browser.get(&url);
            let after = shown.body.split("name=\"csrf_token\" value=\"").nth(1);
            let token = after.and_then(|rest| rest.split('"').next()).unwrap_or_default();
            let sent = browser.form(&url, &format!("csrf_token={token}&{field}"));
            assert_eq!(sent.status, 302, "{page}: {sent:?}");
        }
        browser
    }
}

fn api(node: &Node) -> String {
    let address = std::fs::read_to_string(node.home.join("api.address")).unwrap();
    format!("http://{}/api/v1", address.trim())
}

fn connect(place: &Place, node: &Node, canaille: &Canaille) {
    let (secret, rules) = (place.path("secret"), place.path("rules.json"));
    std::fs::write(&secret, "s3cret\n").unwrap();
    std::fs::write(&rules, r#"[{"claim":"groups","begins":"oc-","group":"{}"}]"#).unwrap();
    let (secret, rules) = (text(&secret), text(&rules));
    let add = ["provider", "add", &canaille.issuer, "--client-id", "node", "--name", "work"];
    let more =
        ["--secret-file", &secret, "--rules", &rules, "--scope", "profile", "--scope", "groups"];
    let _ = node.json(&[&add[..], &more[..]].concat());
    assert_eq!(node.json(&["provider", "test", "work"])["keys"], 1);
}

/// Where the provider sends somebody back to who begins a login.
fn sent_back(at: &str, browser: &mut Browser) -> String {
    let begun = browser.get(&format!("{at}/login/start"));
    assert_eq!(begun.status, 303, "{begun:?}");
    let answer = browser.get(begun.location());
    let back = answer.location().to_owned();
    assert!(back.starts_with(&format!("{at}/login/callback?code=")), "{back}");
    back
}

/// A whole login of somebody whom the provider knows already.
fn log_in(at: &str, browser: &mut Browser) -> Answer {
    let back = sent_back(at, browser);
    browser.get(&back)
}

#[test]
fn people_log_in_at_the_provider_of_an_organisation_and_nobody_else_does() {
    let place = Place::new();
    let mut node = place.node("org");
    node.start();
    let at = api(&node);
    let Some(mut canaille) = Canaille::start(&place, &at) else { return };
    connect(&place, &node, &canaille);
    let mut browser = canaille.visitor();
    let answer = log_in(&at, &mut browser);
    assert_eq!(answer.status, 200, "{answer:?}");
    let who = |browser: &mut Browser| browser.get(&format!("{at}/session"));
    let session = who(&mut browser).json();
    let person = &session["person"];
    assert_eq!((&person["subject"], &person["name"]), (&"ada".into(), &"Ada Byron".into()));
    assert_eq!(
        (&person["groups"], &person["issuer"]),
        (&json!(["field"]), &json!(canaille.issuer))
    );

    // What came back once is good once, and only for the login that it belongs to.
    let used = sent_back(&at, &mut browser);
    let answer = browser.get(&used);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(browser.get(&used).status, 403, "the same again");
    let (_, code) = used.split_once("code=").unwrap();
    let code = code.split('&').next().unwrap();
    let other = sent_back(&at, &mut browser);
    let (before, fresh) = other.split_once("code=").unwrap();
    let replayed = format!("{before}code={code}{}", &fresh[fresh.find('&').unwrap()..]);
    assert_eq!(browser.get(&replayed).status, 403, "a code that was used");
    let own = canaille.issuer.replace(':', "%3A").replace('/', "%2F");
    let mixed = sent_back(&at, &mut browser).replace(&own, "http%3A%2F%2F127.0.0.1%3A1");
    let mixed = browser.get(&mixed);
    assert!(mixed.status == 403 && mixed.body.contains("another provider"), "{mixed:?}");

    // Its clock may differ by less than a minute; what was for another client, or has ended, lets nobody in.
    canaille.say("clock 40");
    assert_eq!(log_in(&at, &mut browser).status, 200);
    for (what, because) in [
        ("clock 600", "good only in"),
        ("clock -7200", "has expired"),
        ("clock 0\nclient other", "for somebody else"),
    ] {
        what.lines().for_each(|line| canaille.say(line));
        let answer = log_in(&at, &mut browser);
        assert!(answer.status == 403 && answer.body.contains(because), "{what}: {answer:?}");
    }
    canaille.say("client node");
    canaille.say("rotate");
    assert_eq!(log_in(&at, &mut browser).status, 200, "the key is new");
    later(&node, &mut canaille, browser);
}

/// What becomes of a login whose provider is asked again.
fn later(node: &Node, canaille: &mut Canaille, mut browser: Browser) {
    let at = api(node);
    let who = |browser: &mut Browser| browser.get(&format!("{at}/session"));
    let groups = |answer: &Answer| answer.json()["person"]["groups"].clone();
    assert_eq!(groups(&who(&mut browser)), json!(["field"]));
    canaille.say("group oc-lake");
    wait_for(TIMEOUT, "the groups are those of today", || {
        let session = who(&mut browser);
        assert_eq!(session.status, 200, "{session:?}");
        (groups(&session) == json!(["lake"])).then_some(())
    });
    canaille.say("lock");
    wait_for(TIMEOUT, "who is locked out there is out here", || {
        (who(&mut browser).status == 401).then_some(())
    });
}

#[test]
fn a_provider_that_is_down_lets_nobody_in_and_ends_nothing() {
    let place = Place::new();
    let mut node = place.node("org");
    node.start();
    let at = api(&node);
    let Some(canaille) = Canaille::start(&place, &at) else { return };
    connect(&place, &node, &canaille);
    let mut browser = canaille.visitor();
    let answer = log_in(&at, &mut browser);
    assert_eq!(answer.status, 200, "{answer:?}");
    drop(canaille);
    wait_for(TIMEOUT, "the node has asked in vain", || {
        assert_eq!(browser.get(&format!("{at}/session")).status, 200);
        node.log().contains("goes on without its provider").then_some(())
    });
    assert_eq!(browser.get(&format!("{at}/session")).status, 200);
}
