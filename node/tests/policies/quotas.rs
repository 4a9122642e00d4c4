//! Quotas over the API: held before work is let in, told with their name and the way out, and kept over a restart.

use serde_json::{Value, json};

use crate::model::Caller;
use crate::node_of::{Asked, Node, Op, record};

const KIT: Caller = Caller { name: "kit", groups: &["lab"], roles: &["member"] };
const LEA: Caller = Caller { name: "lea", groups: &["lab"], roles: &["member"] };
const ZOE: Caller = Caller { name: "zoe", groups: &[], roles: &["member"] };
/// A run that waits for a node that nobody has.
const WAITS: &str = "opencloud: workflow/v1
name: waits
steps:
  one:
    run: {wasi: {module: one.wasm}}
    needs: {cpu: 1000}
";

fn op(method: &str, path: &str, body: &Value) -> Op {
    let (method, path, body) = (method.to_owned(), path.to_owned(), body.clone());
    Op { method, path, body, ..Op::default() }
}

fn submission(module: &str) -> Value {
    json!({
        "source": WAITS, "params": {}, "binding": null, "strategy": null,
        "assets": {"one.wasm": {"file": {"digest": module, "size": 6, "name": "one.wasm"}}},
    })
}

fn expect_over(answer: &Asked, subject: &str, measure: &str, way_out: &str) {
    let body = &answer.body;
    assert_eq!((answer.status, &body["code"]), (409, &"quota".into()), "{body}");
    assert_eq!(
        (&body["quota"]["subject"], &body["quota"]["measure"]),
        (&subject.into(), &measure.into())
    );
    let detail = body["detail"].as_str().unwrap();
    assert!(detail.contains(way_out) && detail.contains("ask the owner"), "{detail}");
}

fn quota<'a>(own: &'a Value, subject: &str) -> &'a Value {
    own.as_array().unwrap().iter().find(|view| view["subject"] == subject).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_are_held_before_work_is_let_in_and_kept() {
    let node = Node::start().await;
    let world = node.furnish(&[KIT, LEA, ZOE]).await;
    let (kit, lea, zoe) = (world.token(&KIT), world.token(&LEA), world.token(&ZOE));
    let module = node.blob("module").await;
    let run = op("POST", "/runs", &submission(&module));
    let lab = |runs: u64| json!({"subject": "group:lab", "limits": {"runs": runs}});
    node.send("PUT", "/quotas", lab(2)).await;
    let each = json!({"subject": "user:*", "limits": {"records": 1, "runs": 4}});
    node.send("PUT", "/quotas", each).await;
    // The people of a group share its quota, and others have none of it.
    let first = node.ask(Some(kit), &run).await;
    assert_eq!(first.status, 201, "{}", first.body);
    assert_eq!(node.ask(Some(lea), &run).await.status, 201);
    for token in [kit, lea] {
        let refused = node.ask(Some(token), &run).await;
        expect_over(
            &refused,
            "group:lab",
            "runs",
            "2 runs at once, of which 2 are taken; wait until",
        );
    }
    assert_eq!(node.ask(Some(zoe), &run).await.status, 201);
    assert_eq!(node.ask(None, &run).await.status, 201);
    // Each person by itself, for records.
    let publish = |key: &str| op("POST", "/resources", &record(key, &module));
    assert_eq!(node.ask(Some(kit), &publish("data/k")).await.status, 201);
    expect_over(
        &node.ask(Some(kit), &publish("data/k2")).await,
        "user:*",
        "records",
        "withdraw one",
    );
    assert_eq!(node.ask(Some(lea), &publish("data/l")).await.status, 201);
    // Somebody sees what applies to it; whoever may read the policies sees all, and who may not change the node sets none.
    let own = node.get(kit, "/session/quotas").await.body;
    assert_eq!(quota(&own, "group:lab")["used"]["runs"], 2, "{own}");
    assert_eq!(quota(&own, "user:*")["used"]["records"], 1, "{own}");
    assert_eq!(node.get(zoe, "/session/quotas").await.body.as_array().unwrap().len(), 1);
    assert_eq!(node.get(kit, "/quotas").await.status, 200);
    assert_eq!(node.ask(Some(kit), &op("PUT", "/quotas", &lab(9))).await.status, 403);
    // It holds over a restart.
    let before = node.get(&node.owner(), "/quotas").await.body;
    let node = node.restart().await;
    assert_eq!(node.get(&node.owner(), "/quotas").await.body, before);
    expect_over(&node.ask(Some(kit), &run).await, "group:lab", "runs", "wait");
    // There is room when a run has ended, a record is withdrawn, or the owner gives more.
    let cancel = format!("/runs/{}/cancel", first.body["id"].as_str().unwrap());
    assert_eq!(node.ask(Some(kit), &op("POST", &cancel, &Value::Null)).await.status, 202);
    assert_eq!(node.ask(Some(kit), &run).await.status, 201);
    expect_over(&node.ask(Some(kit), &run).await, "group:lab", "runs", "wait");
    node.send("PUT", "/quotas", lab(3)).await;
    assert_eq!(node.ask(Some(kit), &run).await.status, 201);
    let withdraw = op("DELETE", "/resources?key=data/k", &Value::Null);
    assert_eq!(node.ask(Some(kit), &withdraw).await.status, 204);
    assert_eq!(node.ask(Some(kit), &publish("data/k2")).await.status, 201);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_is_of_a_person_by_its_name_here_and_a_bad_one_is_refused() {
    let node = Node::start().await;
    let world = node.furnish(&[ZOE]).await;
    let zoe = world.token(&ZOE);
    let run = op("POST", "/runs", &submission(&node.blob("module").await));
    // A person is called by the name that it has here.
    node.send("PUT", "/quotas", json!({"subject": "user:zoe", "limits": {"cpu_s": 0}})).await;
    let listed = node.get(&node.owner(), "/quotas").await.body;
    let of_zoe = listed.as_array().unwrap().iter().find(|view| view["name"] == "zoe").unwrap();
    let subject = of_zoe["subject"].as_str().unwrap().to_owned();
    let refused = node.ask(Some(zoe), &run).await;
    expect_over(&refused, &subject, "cpu_s", "0 core seconds in 30 days");
    let remove = op("DELETE", "/quotas?subject=user:zoe", &Value::Null);
    assert_eq!(node.ask(None, &remove).await.status, 204);
    let gone = node.ask(None, &remove).await;
    assert_eq!((gone.status, &gone.body["code"]), (404, &"no_quota".into()));
    assert_eq!(node.ask(Some(zoe), &run).await.status, 201);
    for bad in [json!({"runs": -1}), json!({"what": 1}), json!({"runs": 1, "currency": "euro"})] {
        let bad = op("PUT", "/quotas", &json!({"subject": "group:lab", "limits": bad}));
        assert_eq!(node.ask(None, &bad).await.status, 400);
    }
    let bad = op("PUT", "/quotas", &json!({"subject": "ada", "limits": {"runs": 1}}));
    assert_eq!(node.ask(None, &bad).await.body["code"], "quota_invalid");
    node.stop().await;
}
