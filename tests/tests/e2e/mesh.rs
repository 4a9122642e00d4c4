//! Who may run and who may join.

use std::time::Duration;

use tests::harness::{Ended, Net, Node, Place, wait_until};

#[test]
fn a_second_node_in_one_home_says_so_and_ends() {
    let place = Place::new();
    let mut node = place.node("org");
    node.start();
    let second = Ended::of(&mut node.up()).expect(1);
    assert!(second.stderr.contains("another") || second.stderr.contains("already"), "{second}");
    assert!(second.stderr.contains(&node.home.display().to_string()), "{second}");
    assert!(node.is_running());
    let _ = node.json(&["status"]);
    node.stop();
    node.start();
}

#[test]
fn a_wrong_a_used_and_an_expired_ticket_are_refused_with_the_reason() {
    let place = Place::new();
    let mut nodes = ["host", "guest", "late"].map(|org| place.node(org));
    nodes.iter_mut().for_each(|node| node.start());
    let [host, guest, late] = &nodes;
    let ticket = host.invite();
    let refused = |told: Ended, facts: &[&str]| {
        let told = told.expect(1);
        for fact in facts {
            assert!(told.stderr.contains(fact), "`{fact}` is missing: {told}");
        }
    };
    // Its own ticket, and texts that are none.
    refused(host.cli(&["join", &ticket]), &["made by this node"]);
    for wrong in ["x", "opencloud-ticket1:", &ticket[..ticket.len() - 3], &(ticket.clone() + "2")] {
        let told = late.cli(&["join", wrong]);
        assert!([1, 64].contains(&told.code), "{told}");
        assert!(told.stderr.contains("ticket"), "{told}");
    }
    let _ = guest.cli(&["join", &ticket]).expect(0);
    refused(late.cli(&["join", &ticket]), &["ticket", "used"]);
    assert_eq!(late.n_connected(), 0);

    let invited = host.json(&["invite", "--valid", "1s"]);
    let expires_ms = invited["expires_ms"].as_u64().unwrap();
    wait_until(Duration::from_secs(10), "the ticket has expired", || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().as_millis() > u128::from(expires_ms)
    });
    let expired = invited["ticket"].as_str().unwrap();
    refused(late.cli(&["join", expired]), &["expired", "opencloud invite"]);
    assert_eq!(late.n_connected(), 0);
    // The right one still works.
    let _ = late.cli(&["join", &host.invite()]).expect(0);
}

#[test]
fn a_node_that_starts_with_nobody_there_still_knows_the_catalogue() {
    let mut net = Net::new(2);
    let file = net.place.file("shared.txt", "shared");
    let _ = net.nodes[0].cli(&["data", "add", &file, "--name", "Shared"]).expect(0);
    let knows = |node: &Node| {
        let found = node.json(&["catalog", "search", "kind = data and name ~ Shared"]);
        found.as_array().is_some_and(|list| !list.is_empty())
    };
    wait_until(Duration::from_secs(30), "the other node has the record", || knows(&net.nodes[1]));
    net.nodes.iter_mut().for_each(Node::stop);
    net.nodes[1].start();
    assert!(knows(&net.nodes[1]), "{}", net.nodes[1].log());
}
