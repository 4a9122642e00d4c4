//! Random policies and random requests, and what a naive model of the policies says of them: no path goes round the policy.
//!
//! By the API: a whole node in this process, asked over its real server by its owner, by users of several groups and roles with
//! access tokens, and by nobody. By the peer protocol: engines whose messages the test carries. By the command line: see `cli`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "policies/levels.rs"]
mod levels;
#[path = "policies/model.rs"]
mod model;
#[path = "policies/node.rs"]
mod node_of;
#[path = "policies/peers.rs"]
mod peers;
#[path = "policies/places.rs"]
mod places;
#[path = "policies/quotas.rs"]
mod quotas;
#[expect(dead_code, reason = "other tests need more of it")]
mod realm;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use model::{Caller, Name, Rule, Thing, may, name, pick};
use node_of::{Asked, Node, Op};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;
use serde_json::{Value, json};

const CALLERS: [Caller; 5] = [
    Caller { name: "ada", groups: &["night"], roles: &["member"] },
    Caller { name: "ben", groups: &["night", "lab"], roles: &[] },
    Caller { name: "eve", groups: &[], roles: &["admin"] },
    Caller { name: "kit", groups: &["lab"], roles: &["member"] },
    Caller { name: "zoe", groups: &[], roles: &[] },
];
/// How long requests are tried; what a slow machine does not try, a fast one does.
const TIME: Duration = Duration::from_secs(5);
/// Sets of policies that are tried at most. With more requests a person would ask faster than is taken.
const ROUNDS: usize = 50;
const REQUESTS: usize = 30;

/// Policies that the node takes, and what they say.
async fn policies(node: &Node, rng: &mut ChaCha8Rng, names: &[Name]) -> Vec<Rule> {
    let nothing = "permit (principal == User::\"local|nobody\", action, resource);";
    let has_default = pick(rng, &[true, true, false]);
    node.default_policies((!has_default).then_some(nothing)).await;
    let mut rules = if has_default { model::built_in() } else { Vec::new() };
    let mut own = Vec::new();
    while own.len() < 3 {
        let rule = model::random(rng, &CALLERS, names);
        // One about what nobody can do is refused, as it should be.
        if node.check(&rule.text()).await {
            own.push(rule);
        }
    }
    node.set("random", &own.iter().map(Rule::text).collect::<String>()).await;
    rules.extend(own);
    rules
}

/// The names of things that a list may show, as the model has it.
fn shown(
    rules: &[Rule],
    caller: &Caller,
    action: &str,
    things: &[(String, Thing)],
) -> BTreeSet<String> {
    let seen = things.iter().filter(|(_, thing)| may(rules, caller, action, thing));
    seen.map(|(name, _)| name.clone()).collect()
}

fn listed(body: &Value, at: &str, among: &[(String, Thing)]) -> BTreeSet<String> {
    let items = body.as_array().unwrap().iter();
    let names = items.map(|item| item.pointer(at).unwrap().as_str().unwrap().to_owned());
    names.filter(|name| among.iter().any(|(known, _)| known == name)).collect()
}

fn compare(rules: &[Rule], caller: &Caller, op: &Op, asked: &Asked) {
    let refused = op.things.iter().find(|(action, thing)| !may(rules, caller, action, thing));
    let context = format!(
        "{} {} by {caller:?} gave {} {}\n{}",
        op.method,
        op.path,
        asked.status,
        asked.body,
        rules.iter().map(Rule::text).collect::<String>()
    );
    let is_refused = asked.status == 403 && asked.body["code"] == "forbidden";
    assert_eq!(is_refused, refused.is_some(), "{context}");
    let Some((action, thing)) = refused else { return };
    assert_eq!(asked.body["refusal"]["action"], **action, "{context}");
    let by = asked.body["refusal"]["policies"].as_array().unwrap();
    let forbids =
        |rule: &&Rule| !rule.permits && thing.iter().any(|name| rule.meets(caller, action, name));
    assert_eq!(by.is_empty(), rules.iter().find(forbids).is_none(), "{context}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_goes_round_the_policies() {
    let node = Node::start().await;
    let world = node.furnish(&CALLERS).await;
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let names: Vec<Name> = world.names();
    let until = Instant::now() + TIME;
    let (mut asked, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        if round > 0 && Instant::now() > until {
            break;
        }
        let rules = policies(&node, &mut rng, &names).await;
        for _ in 0..REQUESTS {
            let (caller, op) = (&pick(&mut rng, &CALLERS), &pick(&mut rng, &world.ops));
            let answer = node.ask(Some(world.token(caller)), op).await;
            compare(&rules, caller, op, &answer);
            asked += 1;
            refused += usize::from(answer.status == 403);
        }
        let caller = &pick(&mut rng, &CALLERS);
        for (path, action, at, things) in &world.lists {
            let answer = node.get(world.token(caller), path).await;
            let may_list = may(&rules, caller, action, &vec![name("Node", node.id())]);
            assert_eq!(answer.status == 200, may_list, "{path} {caller:?} {}", answer.body);
            if may_list {
                let context = rules.iter().map(Rule::text).collect::<String>();
                let expected = shown(&rules, caller, action, things);
                assert_eq!(
                    listed(&answer.body, at, things),
                    expected,
                    "{path} {caller:?}\n{context}"
                );
            }
        }
        // Policies are not asked about the owner, and nobody is let in at all.
        let op = pick(&mut rng, &world.ops);
        assert_ne!(node.ask(None, &op).await.status, 403);
        let op = Op { secret: Some("oct_nobody".to_owned()), ..pick(&mut rng, &world.ops) };
        assert_eq!(node.ask(None, &op).await.status, 401);
    }
    assert!(asked >= REQUESTS && refused > 0 && refused < asked, "{refused} of {asked}");
    node.stop().await;
}

/// Whoever may do nothing gets nothing by any route that the description names, however it is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_do_nothing_is_refused_by_every_route() {
    let node = Node::start().await;
    let world = node.furnish(&CALLERS[4..]).await;
    node.default_policies(Some("permit (principal == User::\"local|nobody\", action, resource);"))
        .await;
    let document = node.get(&node.owner(), "/openapi.json").await.body;
    let own = ["/session", "/login"];
    let mut tried = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        if own.iter().any(|own| path.starts_with(own)) {
            continue;
        }
        for method in methods.as_object().unwrap().keys() {
            let path = path.split('/').map(|part| if part.starts_with('{') { "x1" } else { part });
            let path = path.collect::<Vec<_>>().join("/");
            let op = Op { method: method.to_uppercase(), path, body: json!({}), ..Op::default() };
            let op = Op { secret: Some(world.token(&CALLERS[4]).to_owned()), ..op };
            let answer = node.ask(None, &op).await;
            assert_eq!(answer.status, 403, "{} {}: {}", op.method, op.path, answer.body);
            // HEAD has no body to say it in.
            if op.method != "HEAD" {
                assert_eq!(answer.body["code"], "forbidden", "{} {}", op.method, op.path);
            }
            tried += 1;
        }
    }
    assert!(tried > 90, "{tried}");
    node.stop().await;
}
