//! A user whom the policies forbid something is refused at each level, and told what, and by which policy.

use serde_json::{Value, json};

use crate::model::Caller;
use crate::node_of::{Asked, FLOOD, Node, Op, digest};

const ADA: Caller = Caller { name: "ada", groups: &["interns"], roles: &["admin"] };
const EVE: Caller = Caller { name: "eve", groups: &[], roles: &["admin"] };

const POLICIES: &str = r#"
@id("resource") forbid (principal in Group::"interns", action, resource == Data::"data/dem");
@id("workspace") forbid (principal in Group::"interns", action, resource == Workspace::"floods");
@id("workflow") forbid (principal in Group::"interns", action, resource == Workflow::"flood");
@id("area") forbid (principal in Group::"interns", action, resource == Area::"rivers");
@id("peer") forbid (principal in Group::"interns", action, resource == Org::"did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK");
@id("group") forbid (principal in Group::"interns", action, resource == Group::"surveyors");
"#;

fn op(method: &str, path: &str, body: Value) -> Op {
    Op { method: method.to_owned(), path: path.to_owned(), body, ..Op::default() }
}

/// Fails unless the answer is a page of refusal that names all of it.
fn expect_refusal(asked: &Asked, action: &str, kind: &str, policy: &str) {
    let Asked { status, body } = asked;
    assert_eq!((*status, &body["code"]), (403, &"forbidden".into()), "{policy}: {body}");
    let refusal = &body["refusal"];
    let who = refusal["principal"].as_str().unwrap();
    assert!(who.starts_with("user:local|"), "{body}");
    assert_eq!(refusal["action"], action, "{body}");
    assert!(refusal["resource"].as_str().unwrap().starts_with(kind), "{body}");
    assert_eq!(refusal["policies"], json!([format!("levels/{policy}")]), "{body}");
    let detail = body["detail"].as_str().unwrap();
    for part in [who, action, kind, policy, "ask its owner"] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
}

fn ids(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

/// Fails unless the pages of the catalogue are as long as they were wanted, and what may be seen of it together.
async fn expect_pages(node: &Node, token: &str) {
    let whole = ids(&node.get(token, "/catalog").await.body);
    let mut told: Vec<String> = Vec::new();
    loop {
        let after = told.last().map(|id| format!("&after={id}")).unwrap_or_default();
        let page = ids(&node.get(token, &format!("/catalog?limit=1{after}")).await.body);
        assert!(page.len() == 1 || told.len() == whole.len(), "{told:?} of {whole:?}");
        if page.is_empty() {
            break;
        }
        told.extend(page);
    }
    assert_eq!(told, whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forbidden_user_is_refused_at_each_level_and_told_by_which_policy() {
    let node = Node::start().await;
    let world = node.furnish(&[ADA, EVE]).await;
    let (ada, eve) = (world.token(&ADA), world.token(&EVE));
    node.set("levels", POLICIES).await;
    let org = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK";
    let submission = |source: &str| json!({"source": source, "params": {}, "assets": {}, "binding": null, "strategy": null});
    let mine = FLOOD.replace("name: flood", "name: mine");
    let tried = [
        (
            "resource",
            "fetch",
            "data:",
            op("GET", &format!("/blobs/{}", digest("heights")), Value::Null),
        ),
        ("resource", "see", "data:", op("GET", "/catalog/resource?id=data/dem", Value::Null)),
        ("workspace", "see", "workspace:", op("GET", "/workspaces/floods", Value::Null)),
        (
            "workspace",
            "edit",
            "workspace:",
            op("PUT", "/workspaces/floods", json!({"version": 99, "workspace": {}})),
        ),
        // Whoever may not see it does not show it to others.
        (
            "workspace",
            "see",
            "workspace:",
            op("PUT", "/areas/lakes/shared/workspace/floods", json!({})),
        ),
        ("area", "see", "area:", op("GET", "/areas/rivers", Value::Null)),
        // The draft in the workspace, and another text of that name.
        (
            "workflow",
            "submit",
            "workflow:",
            op("POST", "/runs", submission(&format!("{FLOOD}# mine\n"))),
        ),
        ("peer", "manage_peers", "org:", op("PATCH", "/orgs", json!({"org": org, "change": {}}))),
        (
            "group",
            "manage_users",
            "group:",
            op("POST", "/users", json!({"name": "!", "groups": ["surveyors"]})),
        ),
    ];
    for (policy, action, kind, op) in &tried {
        expect_refusal(&node.ask(Some(ada), op).await, action, kind, policy);
        assert_ne!(node.ask(Some(eve), op).await.status, 403, "{op:?}");
    }
    // The draft itself is forbidden by its name and by its workspace, and a workflow of neither is not.
    let draft = node.ask(Some(ada), &op("POST", "/runs", submission(FLOOD))).await;
    assert_eq!(draft.status, 403);
    assert_ne!(node.ask(Some(ada), &op("POST", "/runs", submission(&mine))).await.status, 403);
    // What is forbidden is not in lists, either.
    for (path, at, gone) in
        [("/workspaces", "name", "floods"), ("/resources", "resource", "data/dem")]
    {
        let listed = node.get(ada, path).await.body.to_string();
        assert!(
            !listed.contains(gone) && node.get(eve, path).await.body.to_string().contains(gone),
            "{at}: {listed}"
        );
    }
    expect_pages(&node, ada).await;
    let question = json!({"principal": "user:ada", "groups": ["interns"], "roles": ["admin"], "action": "see", "resource": "area:rivers"});
    let verdict = node.send("POST", "/policy/can", question).await;
    assert_eq!(
        (&verdict["allowed"], &verdict["policies"]),
        (&false.into(), &json!(["levels/area"]))
    );
    node.stop().await;
}

/// The registry lets users in by their access tokens, and asks the policies about them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registry_lets_users_do_what_the_policies_say() {
    const KIT: Caller = Caller { name: "kit", groups: &[], roles: &["member"] };
    const ZOE: Caller = Caller { name: "zoe", groups: &[], roles: &[] };
    let node = Node::start().await;
    let world = node.furnish(&[KIT, ZOE]).await;
    let (kit, zoe) = (world.token(&KIT), world.token(&ZOE));
    let tags = "/v2/team/tools/tags/list";
    for secret in [kit, zoe] {
        assert_eq!(node.registry("GET", "/v2/", secret).await, 200);
        assert_eq!(node.registry("GET", tags, secret).await, 404);
    }
    assert_eq!(node.registry("POST", "/v2/team/tools/blobs/uploads/", kit).await, 202);
    assert_eq!(node.registry("POST", "/v2/team/tools/blobs/uploads/", zoe).await, 403);
    assert_eq!(node.registry("GET", "/v2/", "oct_nobody").await, 401);
    let forbid =
        r#"forbid (principal, action == Action::"store", resource == Algorithm::"team/tools");"#;
    node.set("images", forbid).await;
    assert_eq!(node.registry("POST", "/v2/team/tools/blobs/uploads/", kit).await, 403);
    assert_eq!(node.registry("PUT", "/v2/team/tools/manifests/v1", kit).await, 403);
    assert_eq!(node.registry("POST", "/v2/team/others/blobs/uploads/", kit).await, 202);
    assert_eq!(node.registry("POST", "/v2/team/tools/blobs/uploads/", &node.owner()).await, 202);
    node.stop().await;
}
