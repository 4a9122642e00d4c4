//! Where something is: a run is in the area in which it is done, and a record is listed to the people of those who may see it.

use serde_json::{Value, json};

use crate::model::Caller;
use crate::node_of::{FLOOD, Node, Op, digest};

const ADA: Caller = Caller { name: "ada", groups: &[], roles: &["member"] };
const ORG: &str = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK";

fn op(method: &str, path: &str, body: &Value) -> Op {
    let (method, path, body) = (method.to_owned(), path.to_owned(), body.clone());
    Op { method, path, body, ..Op::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_about_an_area_is_about_what_is_submitted_to_it_and_runs_in_it() {
    let node = Node::start().await;
    let world = node.furnish(&[ADA]).await;
    let ada = world.token(&ADA);
    let area = node.send("POST", "/areas", json!({"name": "rivers"})).await;
    let id = area["id"].as_str().unwrap();
    let module = node.blob("module").await;
    let submission = |area: Option<&str>| {
        op(
            "POST",
            "/runs",
            &json!({
                "source": FLOOD, "params": {}, "binding": null, "strategy": null, "area": area,
                "assets": {"one.wasm": {"file": {"digest": module, "size": 6, "name": "one.wasm"}}},
            }),
        )
    };
    let started = |answer: crate::node_of::Asked| {
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body["id"].as_str().unwrap().to_owned()
    };
    let inside = started(node.ask(Some(ada), &submission(Some("rivers"))).await);
    let outside = started(node.ask(Some(ada), &submission(None)).await);
    let forbid = format!(
        "@id(\"start\") forbid (principal is User, action == Action::\"submit\", resource == Area::\"{id}\");\n\
         @id(\"look\") forbid (principal is User, action == Action::\"watch\", resource in Area::\"{id}\");\n"
    );
    node.set("rivers", &forbid).await;
    // By its name or its id, in whatever form.
    for name in ["rivers", id, &format!("blake3:{id}")] {
        let refused = node.ask(Some(ada), &submission(Some(name))).await;
        assert_eq!(refused.status, 403, "{name}: {}", refused.body);
        assert_eq!(refused.body["refusal"]["policies"], json!(["rivers/start"]));
        assert_eq!(refused.body["refusal"]["resource"], format!("area:{id}"));
    }
    started(node.ask(Some(ada), &submission(None)).await);
    let look = node.get(ada, &format!("/runs/{inside}")).await;
    assert_eq!((look.status, &look.body["refusal"]["policies"]), (403, &json!(["rivers/look"])));
    assert_eq!(node.get(ada, &format!("/runs/{outside}")).await.status, 200);
    let list = node.get(ada, "/runs").await.body.to_string();
    assert!(!list.contains(&inside) && list.contains(&outside), "{list}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_listed_to_the_people_of_the_organisations_that_it_is_for() {
    let node = Node::start().await;
    node.furnish(&[]).await;
    node.send("PATCH", "/orgs", json!({"org": ORG, "change": {"stance": "partner"}})).await;
    let record = |key: &str| crate::node_of::record(key, &digest("heights"));
    node.send("POST", "/resources?private=true", record("data/ours")).await;
    node.send("POST", "/resources?private=true", record("data/theirs")).await;
    node.send("POST", &format!("/resources?for={ORG}"), record("data/theirs")).await;
    let can = async |who: &str, key: &str| {
        let question =
            json!({"principal": who, "action": "see", "resource": format!("data:{key}")});
        let verdict = node.send("POST", "/policy/can", question).await;
        (verdict["allowed"] == true, verdict["policies"].to_string())
    };
    let person = format!("user:{ORG}|https://id.example|7");
    assert_eq!(can(&person, "data/ours").await, (false, "[]".to_owned()));
    let listed = (true, "[\"default/partners-listed\"]".to_owned());
    assert_eq!(can(&person, "data/theirs").await, listed);
    assert_eq!(can(&person, "data/dem").await, listed, "it is public");
    // One that sees nothing restricted sees what is public.
    node.send("PATCH", "/orgs", json!({"org": ORG, "change": {"see": false}})).await;
    assert!(!can(&person, "data/theirs").await.0);
    assert_eq!(can(&person, "data/dem").await, listed);
    node.stop().await;
}
