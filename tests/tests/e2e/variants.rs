//! What an owner shows one organisation otherwise than the rest, as both see it.

use std::time::Duration;

use serde_json::Value;
use tests::harness::{Net, Node, wait_for, wait_until};

/// The description and the author's organisation of a key, as a node's catalogue has it.
fn shown(node: &Node, key: &str) -> Option<(Value, String)> {
    let found = node.json(&["catalog", "search", &format!("key = \"{key}\"")]);
    let view = found.as_array()?.first()?.clone();
    Some((view["resource"].clone(), view["org"].as_str()?.to_owned()))
}

fn name(node: &Node, key: &str) -> Option<String> {
    shown(node, key).and_then(|(resource, _)| Some(resource["name"].as_str()?.to_owned()))
}

#[test]
fn an_owner_shows_one_organisation_something_else_and_takes_it_back() {
    let net = Net::new(3);
    let (owner, friend, other) = (&net.nodes[0], &net.nodes[1], &net.nodes[2]);
    let soon = Duration::from_secs(30);
    let friend_org = wait_for(soon, "the friend's computing is known", || {
        let found = owner.json(&["catalog", "search", "kind = compute"]);
        let nodes = friend.json(&["status"])["id"].as_str()?.to_owned();
        let of_friend = found.as_array()?.iter().find(|view| view["author"] == nodes.as_str())?;
        Some(of_friend["org"].as_str()?.to_owned())
    });
    let description = |name: &str| {
        format!(
            "key: service/maps\nname: {name}\nshort: ''\nlong: ''\ndetail: {{kind: service, protocol: http, version: '', region: '', maturity: stable}}\n"
        )
    };
    let common = net.place.file("common.yaml", description("maps"));
    let special = net.place.file("special.yaml", description("maps-for-friends"));
    let _ = owner.cli(&["catalog", "publish", &common]).expect(0);
    let _ = owner.cli(&["catalog", "publish", &special, "--for", &friend_org]).expect(0);
    let sees = |node: &Node, expected: &str| {
        wait_until(soon, "the record is there", || {
            name(node, "service/maps").as_deref() == Some(expected)
        });
    };
    sees(friend, "maps-for-friends");
    sees(other, "maps");
    let mine = owner.json(&["catalog", "list", "--mine"]);
    let names: Vec<&str> = mine
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|view| view["resource"]["name"].as_str())
        .collect();
    assert_eq!(names, ["maps", "maps-for-friends"]);
    let _ = owner.cli(&["catalog", "withdraw", "service/maps", "--for", &friend_org]).expect(0);
    sees(friend, "maps");
    let refused = owner.cli(&["catalog", "withdraw", "service/maps", "--for", &friend_org]);
    assert_ne!(refused.code, 0, "there is no other any more");
    let _ = owner.cli(&["catalog", "withdraw", "service/maps"]).expect(0);
    for node in [friend, other] {
        wait_until(soon, "it is withdrawn", || name(node, "service/maps").is_none());
    }
}
