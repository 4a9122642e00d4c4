//! Nodes that change their keys: killed around the change, billed across it, refused under the old key.

use std::path::Path;
use std::time::Duration;

use tests::harness::{
    Guest, MESH_TIMEOUT, Net, Node, THREE_TASKS, pause, sleep_ms, wait_until, workflow, write_file,
};

/// How long the last receipts may take to be signed by both sides.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

fn id(node: &Node) -> String {
    node.json(&["status"])["id"].as_str().unwrap_or_default().to_owned()
}

fn settled(net: &Net) {
    wait_until(SETTLE_TIMEOUT, "both sides have signed everything", || {
        net.nodes.iter().all(|node| {
            let verified = node.verify_ledger();
            assert!([0, 3].contains(&verified.code), "{verified}");
            verified.code == 0
        })
    });
}

/// Each knows the machines of both, and none under a key that is over.
fn know_each_other(net: &Net) {
    let now: Vec<String> = net.nodes.iter().map(id).collect();
    for node in &net.nodes {
        wait_until(MESH_TIMEOUT, "each is known once", || {
            let found = node.json(&["catalog", "search", "kind = compute"]);
            let found = found.as_array().map_or(&[][..], Vec::as_slice);
            let is_now =
                |view: &&serde_json::Value| now.iter().any(|id| view["author"] == id.as_str());
            node.n_connected() == 1 && found.len() == 2 && found.iter().filter(is_now).count() == 2
        });
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_node_that_changes_its_key_keeps_its_name_its_books_and_its_partners() {
    let mut net = Net::new(2);
    let guest = Guest::new(&[&sleep_ms(50), &write_file("result.txt", "done")]);
    let file = workflow(&net.place, THREE_TASKS, &[("guest.wasm", &guest)]);
    let binding =
        net.place.file("binding.yaml", "opencloud: binding/v1\nsteps:\n  work: {orgs: [org-1]}\n");
    let submit = ["run", "submit", &file, "--binding", &binding, "--wait"];
    // What somebody copies who comes at the provider's machine: stopped in peace, so that it knows where its peer is.
    let old_home = net.place.path("old-home");
    net.nodes[1].stop();
    copy_dir(&net.nodes[1].home, &old_home);
    net.nodes[1].start();
    know_each_other(&net);
    let _ = net.nodes[0].cli(&submit).expect(0);

    // The provider loses its power with receipts under way, gets a new key, and loses it again and again while it begins.
    let (first, name) = (id(&net.nodes[1]), net.nodes[1].json(&["status"])["name"].clone());
    net.nodes[1].kill9();
    let rotated = net.nodes[1].json(&["org", "rotate", "--yes"]);
    assert_eq!((&rotated["generation"], &rotated["in_use"]), (&2.into(), &false.into()));
    for ms in [0, 2, 5, 10, 30, 100] {
        let mut begun = net.nodes[1].up().stdin(std::process::Stdio::piped()).spawn().unwrap();
        pause(Duration::from_millis(ms));
        begun.kill().unwrap();
        begun.wait().unwrap();
    }
    net.nodes[1].start();
    let status = net.nodes[1].json(&["status"]);
    assert_eq!((&status["id"], &status["name"]), (&rotated["next"], &name));
    assert_eq!(status["papers"]["former"][0]["node"], first.as_str());
    know_each_other(&net);
    settled(&net);
    let _ = net.nodes[0].cli(&submit).expect(0);
    settled(&net);

    // Whoever has the old key is nobody once it is taken back, and the new one stays.
    let _ = net.nodes[1].cli(&["org", "revoke", &first, "--yes"]).expect(0);
    let mut thief = Node::bare(&old_home, "org-1");
    thief.start();
    wait_until(MESH_TIMEOUT, "the old key is told that it is revoked", || {
        let peers = thief.json(&["peers"]);
        let peers = peers.as_array().map_or(&[][..], Vec::as_slice);
        peers.iter().any(|peer| peer["last_error"].as_str().is_some_and(|e| e.contains("revoked")))
    });
    assert_eq!(thief.n_connected(), 0);
    know_each_other(&net);
    drop(thief);

    // The consumer changes its own while it runs, by itself and at the same address.
    let before = id(&net.nodes[0]);
    let _ = net.nodes[0].json(&["org", "rotate", "--yes"]);
    wait_until(MESH_TIMEOUT, "the node has begun again", || {
        let status = net.nodes[0].cli(&["--output", "json", "status"]);
        status.code == 0 && status.json()["id"] != before.as_str()
    });
    assert!(net.nodes[0].is_running(), "in the same process");
    know_each_other(&net);
    let _ = net.nodes[0].cli(&submit).expect(0);
    settled(&net);
    let channels = net.nodes[0].json(&["ledger", "show"]);
    assert_eq!(channels.as_array().map(Vec::len), Some(3), "{channels:#}");
}
