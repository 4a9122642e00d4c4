//! Two realms of two nodes each: linked by their gateways, and what passes between them.

use std::time::Duration;

use serde_json::Value;
use tests::harness::{Node, Place, text, wait_for, wait_until};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A gateway and a member of its realm.
fn realm(place: &Place, names: [&str; 2]) -> [Node; 2] {
    let mut nodes = names.map(|name| place.node(name));
    nodes[0].options.push("--gateway".to_owned());
    nodes.iter_mut().for_each(Node::start);
    let _ = nodes[1].cli(&["join", &nodes[0].invite()]).expect(0);
    wait_until(TIMEOUT, "the member is connected", || nodes[1].n_connected() == 1);
    nodes
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn everywhere(node: &Node, filter: &str) -> Value {
    node.json(&["catalog", "search", "--everywhere", filter])
}

fn is_linked(node: &Node) -> bool {
    let view = node.json(&["realm", "show"]);
    list(&view["links"])
        .iter()
        .any(|link| list(&link["gateways"]).iter().any(|gateway| gateway["connected"] == true))
}

#[test]
fn a_dataset_of_another_realm_is_found_by_way_of_the_gateways_and_nothing_else_passes() {
    let place = Place::new();
    let [survey, field] = realm(&place, ["survey", "field"]);
    let [harbour, pilot] = realm(&place, ["harbour", "pilot"]);
    let open = place.file("tides.csv", "1,2,3");
    let added = pilot.json(&["data", "add", &open, "--name", "Tides"]);
    let digest = added["digest"].as_str().unwrap();
    let secret = place.file("wrecks.csv", "4,5,6");
    let _ = harbour.json(&["data", "add", &secret, "--name", "Wrecks", "--private"]);
    wait_until(TIMEOUT, "the harbour's gateway knows the dataset", || {
        list(&harbour.json(&["catalog", "search", "name = Tides"])).len() == 1
    });

    // Members without the role link nothing.
    let refused = field.cli(&["realm", "invite"]).expect(1);
    assert!(refused.stderr.contains("no gateway"), "{refused}");
    let invited = harbour.json(&["realm", "invite"]);
    let ticket = invited["ticket"].as_str().unwrap();
    let _ = field.cli(&["join", ticket]).expect(1);
    let linked = survey.json(&["realm", "link", ticket, "--yes"]);
    assert_eq!(linked["org_name"], "harbour");
    let theirs = linked["realm"].as_str().unwrap().to_owned();
    wait_until(TIMEOUT, "both gateways have the link", || {
        is_linked(&survey) && is_linked(&harbour)
    });
    wait_until(TIMEOUT, "the survey's gateway holds the harbour's digest", || {
        list(&survey.json(&["realm", "show"])["digests"]).iter().any(|held| {
            held["realm"] == theirs && held["bytes"].as_u64().is_some_and(|n| n <= 4_096)
        })
    });

    // From a member that is no gateway.
    let found = wait_for(TIMEOUT, "the dataset is found", || {
        let told = everywhere(&field, "name = Tides");
        (list(&told["resources"]).len() == 1).then_some(told)
    });
    let resource = &found["resources"][0];
    assert_eq!((&resource["realm"], &resource["org_name"]), (&theirs.into(), &"pilot".into()));
    assert_eq!(found["realms"][0]["org_name"], "harbour");
    let said = field.cli(&["catalog", "list", "--everywhere"]).expect(0);
    assert!(said.stdout.contains("Tides") && said.stderr.contains("for an invitation"), "{said}");
    assert!(!said.stdout.contains("Wrecks"), "{said}");
    for filter in ["name = Wrecks", "kind = data"] {
        let told = everywhere(&field, filter);
        let names = list(&told["resources"]).iter().map(|found| &found["resource"]["name"]);
        assert!(names.clone().all(|name| name != "Wrecks"), "{told}");
    }

    nothing_else_passes(&place, [&survey, &harbour], digest);
    let view = harbour.json(&["realm", "show"]);
    let ours = view["links"][0]["realm"].as_str().unwrap();
    let _ = harbour.cli(&["realm", "unlink", ours]).expect(0);
    wait_until(TIMEOUT, "the link is down", || !is_linked(&survey) && !is_linked(&harbour));
    let told = everywhere(&pilot, "");
    assert!(list(&told["resources"]).is_empty(), "{told}");
}

/// A link is no membership: content does not come over, the catalogues stay apart, no gateway is a peer.
fn nothing_else_passes(place: &Place, [survey, harbour]: [&Node; 2], digest: &str) {
    let out = text(&place.path("tides"));
    let _ = survey.cli(&["data", "get", digest, "--out", &out]).expect(1);
    assert!(list(&survey.json(&["catalog", "search", "name = Tides"])).is_empty());
    assert_eq!((survey.n_connected(), harbour.n_connected()), (1, 1));
}
