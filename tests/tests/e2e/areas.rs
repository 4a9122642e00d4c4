//! A collaborative area of four organisations that outlives its founder.

use std::time::Duration;

use serde_json::Value;
use tests::harness::{Net, Node, Place, text, wait_for, wait_until};

/// How long anything here may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(90);

/// The area as a node sees it, once `is_so`.
fn area(node: &Node, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    wait_for(TIMEOUT, what, || {
        let shown = node.cli(&["--output", "json", "area", "show", "valley"]);
        (shown.code == 0).then(|| shown.json()).filter(|view| is_so(view))
    })
}

fn count(view: &Value, what: &str) -> usize {
    view[what].as_array().unwrap().len()
}

#[test]
fn an_area_outlives_its_founder_and_shows_nothing_to_whom_it_puts_out() {
    let place = Place::new();
    let nodes: Vec<Node> = ["ant", "bee", "cat", "dog"].iter().map(|org| place.node(org)).collect();
    let mut net = Net::of(place, nodes);
    let workspace = |node: &Node, name: &str, notes: &str| {
        drop(node.json(&["workspace", "create", name]));
        drop(node.json(&["workspace", "note", name, notes]));
        drop(node.json(&["area", "share", "valley", "workspace", name]));
    };
    drop(net.nodes[0].json(&["area", "create", "valley", "--about", "floods"]));
    for org in ["bee", "cat", "dog"] {
        wait_until(TIMEOUT, "the organisation is known", || {
            net.nodes[0].cli(&["area", "invite", "valley", org]).code == 0
        });
    }
    for at in 1..4 {
        area(&net.nodes[at], "it is invited", |view| view["standing"] == "invited");
        drop(net.nodes[at].json(&["area", "join", "valley", "--yes"]));
    }
    for node in &net.nodes {
        area(node, "all four are in", |view| count(view, "members") == 4);
    }
    workspace(&net.nodes[0], "floods", "of the founder");
    for at in 1..4 {
        area(&net.nodes[at], "the workspace is here", |view| view["shared"][0]["here"] == true);
    }

    // The founder is gone for good. What it shared is with the others, who go on.
    net.nodes[0].kill9();
    let taken = net.nodes[2].json(&["area", "take", "valley", "workspace", "floods"]);
    assert_eq!(taken["notes"], "of the founder");
    workspace(&net.nodes[1], "maps", "of the second");
    area(&net.nodes[2], "the second workspace is here", |view| {
        count(view, "shared") == 2
            && view["shared"].as_array().unwrap().iter().all(|one| one["here"] == true)
    });
    let rules = net.place.file("rules.yaml", "opencloud: rules/v1\nrules:\n  - runtimes: [wasi]\n");
    let wrong = net.place.file("wrong.yaml", "opencloud: rules/v1\nrules:\n  - runtime: [wasi]\n");
    let told = net.nodes[1].cli(&["area", "rules", "propose", "valley", &wrong]);
    assert!(told.stderr.contains("wrong.yaml:3:5: "), "{told:?}");
    drop(net.nodes[1].json(&["area", "rules", "propose", "valley", &rules]));
    for at in [2, 3] {
        area(&net.nodes[at], "the rules are proposed", |view| count(view, "proposals") == 1);
        drop(net.nodes[at].json(&["area", "rules", "accept", "valley", "bee"]));
    }
    area(&net.nodes[1], "the rules are in force", |view| view["rules"]["number"] == 1);

    // Two of three put the last one out, which sees nothing more.
    drop(net.nodes[1].json(&["area", "expel", "valley", "dog"]));
    drop(net.nodes[2].json(&["area", "expel", "valley", "dog"]));
    let out = area(&net.nodes[3], "it is out", |view| view["standing"] == "expelled");
    assert_eq!((count(&out, "members"), count(&out, "shared")), (0, 0), "{out}");
    area(&net.nodes[1], "one member less", |view| count(view, "members") == 3);
    workspace(&net.nodes[1], "secret", "for members");
    let seen = area(&net.nodes[2], "members see it", |view| {
        let shared = view["shared"].as_array().unwrap();
        shared.iter().any(|one| one["name"] == "secret" && one["here"] == true)
    });
    let shared = seen["shared"].as_array().unwrap();
    let secret = shared.iter().find(|one| one["name"] == "secret").unwrap();
    let digest = secret["digest"].as_str().unwrap();
    assert_eq!(count(&area(&net.nodes[3], "it is shown", |_| true), "shared"), 0);
    let get = net.nodes[3].cli(&["data", "get", digest, "--out", &text(&net.place.path("got"))]);
    assert_ne!(get.code, 0, "nobody gives it what members share");
}
