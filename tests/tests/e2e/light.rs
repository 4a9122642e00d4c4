//! A light node among full ones, as its owner and the others meet it.

use std::fs;
use std::time::Duration;

use tests::harness::{Net, Place, text, wait_until};

/// How long what a light node publishes may take to be found by others; it is gossiped like everybody's.
const FOUND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node may take to see that others are gone.
const GONE_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn a_light_node_finds_and_gets_what_it_does_not_hold_and_is_found() {
    let place = Place::new();
    let mut nodes: Vec<_> = (0..3).map(|n| place.node(&format!("org-{n}"))).collect();
    nodes[2].options.push("--light".to_owned());
    let mut net = Net::of(place, nodes);
    let (giver, board) = (&net.nodes[1], &net.nodes[2]);
    let status = board.json(&["status"]);
    assert_eq!(status["light"], "compute,storage,service,revocations,area");

    let file = net.place.file("tile.bin", vec![7u8; 200_000]);
    let added = giver.json(&["data", "add", &file, "--name", "Tile"]);
    let digest = added["digest"].as_str().unwrap();
    // It is told by those who are asked, at once.
    let found = board.json(&["catalog", "search", "kind = data and name = Tile"]);
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    let shown = board.json(&["catalog", "show", digest]);
    assert_eq!(shown["resource"]["name"], "Tile");
    let out = net.place.path("got.bin");
    let _ = board.cli(&["data", "get", digest, "--out", &text(&out)]).expect(0);
    assert_eq!(fs::read(&out).unwrap(), vec![7u8; 200_000]);

    let own = net.place.file("own.txt", "measured");
    let _ = board.cli(&["data", "add", &own, "--name", "Own"]).expect(0);
    for other in &net.nodes[..2] {
        wait_until(FOUND_TIMEOUT, "others find what a light node publishes", || {
            let found = other.json(&["catalog", "search", "name = Own"]);
            found.as_array().is_some_and(|list| list.len() == 1)
        });
    }

    net.nodes[0].stop();
    net.nodes[1].stop();
    let board = &net.nodes[2];
    wait_until(GONE_TIMEOUT, "the light node says that nobody can be asked", || {
        let ended = board.cli(&["catalog", "list"]);
        ended.code != 0 && ended.stderr.contains("no peer with a full copy")
    });
    let machines = board.json(&["catalog", "search", "kind = compute"]);
    assert_eq!(machines.as_array().map(Vec::len), Some(3), "what it keeps it knows all the same");
}
