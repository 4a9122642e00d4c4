//! Organisations whose root key is on no node: papers by files, and taken back.

use std::time::Duration;

use tests::harness::{Ended, Node, Place, program, text, wait_until};

/// A command in the directory of an organisation's root.
fn root(place: &Place, args: &[&str]) -> Ended {
    Ended::of(program().arg("--home").arg(place.path("root")).args(args)).expect(0)
}

/// A node that the root enrols by files.
fn enrolled(place: &Place, name: &str, more: &[&str]) -> Node {
    let node = Node::bare(&place.path(&format!("home-{name}")), name);
    let [request, papers] =
        ["request", "papers"].map(|kind| text(&place.path(&format!("{name}.{kind}"))));
    let asked: Vec<&str> =
        ["org", "request", "--node", name, "--out", &request].iter().chain(more).copied().collect();
    let _ = node.cli(&asked).expect(0);
    let _ = root(place, &["org", "enroll", &request, "--out", &papers, "--yes"]);
    let _ = node.cli(&["org", "install", &papers, "--yes"]).expect(0);
    node
}

#[test]
fn a_node_is_enrolled_by_files_and_refused_everywhere_once_it_is_revoked() {
    let place = Place::new();
    let _ = root(&place, &["org", "create", "--org", "Survey Office"]);
    let mut front = enrolled(&place, "front", &["--issuer"]);
    let mut rack = enrolled(&place, "rack", &[]);
    let mut guest = place.node("guest");
    for node in [&mut front, &mut rack, &mut guest] {
        node.start();
    }
    assert_eq!(front.json(&["status"])["papers"]["signs_with"], "issuer");
    assert_eq!(rack.json(&["status"])["papers"]["signs_with"], "nothing");
    assert!(!front.home.join("org.key").exists(), "the root is elsewhere");
    for node in [&rack, &guest] {
        let _ = node.cli(&["join", &front.invite()]).expect(0);
    }
    let knows = |node: &Node, wanted: usize| {
        let machines = node.json(&["catalog", "search", "kind = compute"]);
        machines.as_array().is_some_and(|list| list.len() == wanted)
    };
    for node in [&front, &rack, &guest] {
        wait_until(Duration::from_secs(30), "all know all", || {
            node.n_connected() == 2 && knows(node, 3)
        });
    }

    // The root takes the papers back on its own machine; one file on one node is enough for all.
    let list = text(&place.path("november.list"));
    let _ = root(&place, &["org", "revoke", "rack", "--out", &list, "--yes"]);
    let installed = front.json(&["org", "install", &list]);
    assert_eq!((&installed["is_new"], &installed["in_use"]), (&true.into(), &true.into()));
    for node in [&front, &guest] {
        wait_until(Duration::from_secs(30), "the revoked node is gone", || {
            node.n_connected() == 1 && knows(node, 2)
        });
    }
    // Neither its restart nor theirs brings it back, and it learns why.
    for node in [&mut front, &mut guest, &mut rack] {
        node.stop();
        node.start();
    }
    wait_until(Duration::from_secs(30), "the others meet again", || {
        guest.n_connected() == 1 && front.n_connected() == 1
    });
    assert_eq!(rack.n_connected(), 0);
    assert!(!knows(&guest, 3) && !knows(&front, 3));
}

#[test]
fn an_owner_decides_who_comes_in_and_what_they_may_do() {
    let place = Place::new();
    let mut nodes = ["host", "guest"].map(|org| place.node(org));
    nodes.iter_mut().for_each(Node::start);
    let [host, guest] = &nodes;
    let ticket = host.json(&["invite", "--ask"])["ticket"].as_str().unwrap_or_default().to_owned();
    let stance = || {
        let orgs = host.json(&["peers", "orgs"]);
        let list = orgs.as_array().map_or(&[][..], Vec::as_slice);
        let found = list.iter().find(|org| org["org_name"] == "guest");
        found.map(|org| org["stance"].as_str().unwrap_or_default().to_owned())
    };
    std::thread::scope(|scope| {
        let joining = scope.spawn(|| guest.cli(&["join", &ticket]));
        wait_until(Duration::from_secs(30), "the guest waits for the owner's word", || {
            stance().as_deref() == Some("asking")
        });
        let _ = host.cli(&["peers", "admit", "guest"]).expect(0);
        let _ = joining.join().unwrap().expect(0);
    });
    assert_eq!(stance().as_deref(), Some("peer"));

    // What is published is fetched while that is allowed, and again once it is.
    let stored = host.json(&["data", "add", &place.file("a.txt", "a"), "--name", "A"]);
    let digest = stored["digest"].as_str().unwrap_or_default().to_owned();
    let search = ["catalog", "search", "kind = data"];
    wait_until(Duration::from_secs(30), "the guest knows the record", || {
        guest.json(&search).as_array().is_some_and(|list| !list.is_empty())
    });
    let get = |out: &str| guest.cli(&["data", "get", &digest, "--out", &text(&place.path(out))]);
    let _ = host.cli(&["peers", "limit", "guest", "--fetch", "no"]).expect(0);
    let _ = get("first").expect(1);
    let _ = host.cli(&["peers", "limit", "guest", "--fetch", "yes"]).expect(0);
    let _ = get("second").expect(0);

    let _ = host.cli(&["peers", "block", "guest"]).expect(0);
    wait_until(Duration::from_secs(30), "the guest is out", || host.n_connected() == 0);
    assert_eq!(stance().as_deref(), Some("blocked"));
}
