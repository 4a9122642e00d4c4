//! Public data of a publisher that is away, from a node that had fetched it and gives it on.

use std::fs;
use std::time::Duration;

use tests::harness::{Net, Node, Place, text, wait_until};

/// How long anything here may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(90);

fn knows(node: &Node, name: &str) -> bool {
    let filter = format!("kind = data and name ~ {name}");
    !node.json(&["catalog", "search", &filter]).as_array().unwrap().is_empty()
}

#[test]
fn public_data_comes_from_who_fetched_it_and_what_is_private_or_withdrawn_does_not() {
    let place = Place::new();
    let mut nodes: Vec<Node> = ["publisher", "holder", "asker"].map(|org| place.node(org)).into();
    nodes[1].options.push("--share-public".to_owned());
    let mut net = Net::of(place, nodes);
    net.place.file("tree/one.txt", "one of two");
    net.place.file("tree/deep/two.txt", "two of two");
    let tree = text(&net.place.path("tree"));
    let (later, secret) = (net.place.file("later", "later"), net.place.file("secret", "secret"));
    let add = |args: &[&str]| -> String {
        let args: Vec<&str> = ["data", "add"].iter().chain(args).copied().collect();
        net.nodes[0].json(&args)["digest"].as_str().unwrap().to_owned()
    };
    let open = add(&[&tree, "--name", "open"]);
    let later = add(&[&later, "--name", "later"]);
    // The holder has it of its own and shows it to nobody; another one publishes what is the same.
    let _ = net.nodes[1].cli(&["data", "add", &secret, "--private"]).expect(0);
    let secret = add(&[&secret, "--name", "secret"]);
    for name in ["open", "later", "secret"] {
        wait_until(TIMEOUT, "the holder knows it", || knows(&net.nodes[1], name));
    }
    wait_until(TIMEOUT, "the asker knows it", || knows(&net.nodes[2], "secret"));
    let out = text(&net.place.path("held"));
    for (digest, more) in [(&later, None), (&open, Some("--dir"))] {
        let get = ["data", "get", digest, "--out", &out].into_iter().chain(more);
        let _ = net.nodes[1].cli(&get.collect::<Vec<_>>()).expect(0);
        fs::remove_file(&out).or_else(|_| fs::remove_dir_all(&out)).unwrap();
    }

    net.nodes[0].stop();
    // Of a file a part, without the rest, from whom nobody but members name.
    let part = text(&net.place.path("part"));
    wait_until(TIMEOUT, "the asker reads a range at the holder", || {
        let get = ["data", "get", &later, "--range", "1-2", "--out", &part];
        net.nodes[2].cli(&get).code == 0
    });
    assert_eq!(fs::read_to_string(&part).unwrap(), "at");
    let out = net.place.path("out");
    wait_until(TIMEOUT, "the asker gets it from the holder", || {
        let get = ["data", "get", &open, "--dir", "--out", &text(&out)];
        net.nodes[2].cli(&get).code == 0
    });
    assert_eq!(fs::read_to_string(out.join("deep/two.txt")).unwrap(), "two of two");
    // Who gave it stands beside who publishes it.
    let holder = net.nodes[1].json(&["status"])["id"].clone();
    let transfers = net.nodes[2].json(&["data", "transfers"]);
    let done = transfers.as_array().unwrap().iter().find(|one| one["state"] == "done").unwrap();
    assert_eq!(done["found"], serde_json::json!([holder]), "{done}");

    // What the holder has not from a publisher it gives to nobody, whoever publishes the same.
    let out = text(&net.place.path("none"));
    let _ = net.nodes[2].cli(&["data", "get", &secret, "--out", &out]).expect(1);

    // What its publisher takes back is not given on either.
    net.nodes[0].start();
    net.wait_until_known(&net.nodes[1]);
    let _ = net.nodes[0].cli(&["data", "remove", &later]).expect(0);
    wait_until(TIMEOUT, "the holder forgets it", || !knows(&net.nodes[1], "later"));
    net.nodes[0].stop();
    let _ = net.nodes[2].cli(&["data", "get", &later, "--out", &out]).expect(1);
    assert!(!fs::exists(&out).unwrap());
}
