//! Copies of data at willing peers: made, proven, replaced, found when their owner is gone, and let go.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use tests::harness::{Net, Node, Place, text, wait_for, wait_until};

/// How long anything here may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(90);

/// The only wish of a node, once `is_so`.
fn wish(node: &Node, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    wait_for(TIMEOUT, what, || {
        let all = node.json(&["data", "copies"]);
        all.get(0).filter(|wish| is_so(wish)).cloned()
    })
}

/// Whether a node runs and has a copy.
fn keeps(node: &Node) -> bool {
    let kept = node.cli(&["--output", "json", "data", "kept"]);
    kept.code == 0
        && kept.json()["contents"].as_array().unwrap().iter().any(|keep| keep["state"] == "kept")
}

#[test]
fn copies_are_kept_replaced_and_found_when_their_owner_is_gone() {
    let place = Place::new();
    let orgs = ["owner", "one", "two", "three", "stranger"];
    let mut nodes: Vec<Node> = orgs.iter().map(|org| place.node(org)).collect();
    for node in &mut nodes[1..4] {
        node.options.extend(["--keep", "16MiB", "--keep-for", "realm"].map(str::to_owned));
    }
    let mut net = Net::of(place, nodes);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 5 * 31 % 253) as u8).collect();
    net.place.file("tree/large.bin", &bytes);
    net.place.file("tree/deep/small.txt", "small");
    let tree = net.nodes[0].json(&["data", "add", &text(&net.place.path("tree"))]);
    let digest = tree["digest"].as_str().unwrap().to_owned();
    let short = &digest[..15];
    let share = ["data", "share", short, "--copies", "2", "--patience", "3s"];
    let _ = net.nodes[0].json(&share);
    wish(&net.nodes[0], "two copies are proven", |wish| wish["counting"] == 2);
    let keeping =
        |net: &Net| -> Vec<usize> { (1..4).filter(|at| keeps(&net.nodes[*at])).collect() };
    let first = keeping(&net);
    assert_eq!(first.len(), 2);
    assert!(!keeps(&net.nodes[4]), "its owner lets it keep nothing");

    // One is gone for good: another one takes its place.
    net.nodes[first[0]].kill9();
    wait_until(TIMEOUT, "the third one keeps it", || keeping(&net).len() == 2);
    wish(&net.nodes[0], "two copies count", |wish| wish["counting"] == 2);

    // It comes back with its copy, which is one too many.
    net.nodes[first[0]].start();
    wish(&net.nodes[0], "one of three is let go", |wish| {
        wish["counting"] == 2 && wish["copies"].as_array().is_some_and(|all| all.len() == 2)
    });
    wait_until(TIMEOUT, "there are two again", || keeping(&net).len() == 2);

    // The owner is gone, and what is public is found at its keepers by everybody.
    net.nodes[0].kill9();
    let out = net.place.path("out");
    wait_until(TIMEOUT, "a stranger gets it from a keeper", || {
        let get = ["data", "get", &digest, "--dir", "--out", &text(&out)];
        net.nodes[4].cli(&get).code == 0
    });
    assert!(fs::read(out.join("large.bin")).unwrap() == bytes);

    // It is back, knows its wish, and ends it.
    net.nodes[0].start();
    wish(&net.nodes[0], "its copies count again", |wish| wish["counting"] == 2);
    let _ = net.nodes[0].json(&["data", "share", short, "--copies", "0"]);
    wait_until(TIMEOUT, "nobody keeps it any more", || keeping(&net).is_empty());
    assert_eq!(net.nodes[0].json(&["data", "copies"]), Value::Array(Vec::new()));
}
