//! The scenarios.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::harness::{
    Ended, Guest, Net, Node, ONE_TASK, Place, is_root, repository, wait_until, workflow, write_file,
};

/// How long a way may take to come about: what is lost is noticed within a minute, and then dialled again.
const WAY: Duration = Duration::from_secs(100);
/// How long a small workflow may take on a bad line.
const RUN: Duration = Duration::from_secs(100);

/// The namespaces; gone when dropped.
struct Mesh(&'static str);

impl Mesh {
    /// Makes them, or says why this machine cannot.
    fn start(name: &'static str) -> Option<Self> {
        if !is_root() {
            println!("skipped: network namespaces need root");
            return None;
        }
        let mesh = Self(name);
        let ended = mesh.ask(&["start"], &[]);
        match ended.code {
            0 => Some(mesh),
            77 => {
                println!("skipped: {}", ended.stderr.trim());
                None
            }
            _ => panic!("{ended}"),
        }
    }

    fn ask(&self, verb: &[&str], more: &[&str]) -> Ended {
        Ended::of(Command::new(repository("tests/mesh")).args(verb).arg(self.0).args(more))
    }

    /// Does something to it. False when the machine cannot.
    fn tell(&self, verb: &str, more: &[&str]) -> bool {
        let ended = self.ask(&[verb], more);
        if ended.code == 77 {
            println!("skipped: {}", ended.stderr.trim());
            return false;
        }
        let _ = ended.expect(0);
        true
    }

    fn node(&self, place: &Place, host: &str, ip: &str, options: &[&str]) -> Node {
        let mut node = place.node(host);
        node.move_to(&format!("oc-{}-{host}", self.0), ip);
        node.options = ["--memory", "1GiB"].map(str::to_owned).into();
        node.options.extend(options.iter().map(|option| (*option).to_owned()));
        node.options.extend(["--listen".to_owned(), format!("/ip4/{ip}/udp/4610/quic-v1")]);
        node
    }

    /// Whether a program at this host hears what is multicast for DNS.
    fn hears_multicast(&self, host: &str) -> bool {
        let namespace = format!("oc-{}-{host}", self.0);
        let mut sockets = Command::new("ip");
        sockets.args(["netns", "exec", &namespace, "cat", "/proc/net/udp"]);
        // Port 5353, as the kernel writes it.
        Ended::of(&mut sockets).expect(0).stdout.contains(":14E9 ")
    }

    /// A public relay, whose realm `a` and `b` join. Only `b` has room for the task of the workflow.
    fn net(&self) -> Net {
        let place = Place::new();
        let nodes = vec![
            self.node(&place, "relay", "203.0.113.10", &["--cpu", "0.1", "--relay"]),
            self.node(&place, "a", "192.168.1.2", &["--cpu", "0.1"]),
            self.node(&place, "b", "192.168.2.2", &["--cpu", "2"]),
        ];
        Net::of(place, nodes)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = Command::new(repository("tests/mesh")).args(["stop", self.0]).status();
    }
}

/// How `from` is connected with the node of the organisation.
fn way(from: &Node, org: &str) -> Value {
    let peers = from.json(&["peers"]);
    let found = peers.as_array().and_then(|all| all.iter().find(|peer| peer["org_name"] == org));
    found.map_or(Value::Null, |peer| peer["path"].clone())
}

fn submit(net: &Net) -> String {
    let guest = Guest::new(&[&write_file("result.txt", "done")]);
    let document = workflow(&net.place, ONE_TASK, &[("guest.wasm", &guest)]);
    net.nodes[1].submit(&document, &[])
}

/// The workflow ends well, and its task ran at `b`.
fn finish(net: &Net, id: &str) {
    let run = net.nodes[1].wait_for_end(id, RUN);
    assert_eq!(run.state(), "succeeded", "{:#}", run.0);
    assert!(
        run.tasks()
            .iter()
            .any(|task| task["node_name"] == "b" || task.to_string().contains("\"b\"")),
        "{:#}",
        run.0
    );
}

fn run(net: &Net) {
    finish(net, &submit(net));
}

#[test]
fn behind_two_routers_a_relay_leads_to_a_direct_connection() {
    let Some(mesh) = Mesh::start("punch") else { return };
    let net = mesh.net();
    run(&net);
    let [_, a, b] = &net.nodes[..] else { unreachable!() };
    wait_until(WAY, "the way is direct", || way(a, "b") == "direct" && way(b, "a") == "direct");
    run(&net);
    // The provider gives the router another address: what broke is dialled again, by the relay at first.
    assert!(mesh.tell("move", &["a", "203.0.113.31"]));
    run(&net);
    wait_until(WAY, "the way is direct again", || {
        way(a, "b") == "direct" && way(b, "a") == "direct"
    });
    assert!(net.nodes.iter().all(|node| node.n_connected() == 2));
}

#[test]
fn behind_symmetric_routers_the_relay_stays_and_its_restart_is_survived() {
    let Some(mesh) = Mesh::start("sym") else { return };
    ["a", "b"].iter().for_each(|host| assert!(mesh.tell("nat", &[host, "symmetric"])));
    let mut net = mesh.net();
    run(&net);
    let status = net.nodes[1].json(&["status"]);
    assert!(
        ["nat", "symmetric-nat"].iter().any(|s| status["reach"]["standing"] == *s),
        "{status:#}"
    );
    assert_eq!(
        (way(&net.nodes[1], "b"), way(&net.nodes[2], "a")),
        ("relayed".into(), "relayed".into())
    );
    let peers = net.nodes[0].json(&["peers"]);
    let carried: Vec<u64> =
        peers.as_array().unwrap().iter().filter_map(|p| p["relayed_bytes"].as_u64()).collect();
    assert!(carried.len() == 2 && carried.iter().all(|bytes| *bytes > 0), "{peers:#}");
    net.nodes[0].restart();
    wait_until(WAY, "the relay leads there again", || way(&net.nodes[1], "b") == "relayed");
    run(&net);
}

#[test]
fn a_line_that_is_gone_for_30_s_comes_back_by_itself() {
    let Some(mesh) = Mesh::start("cut") else { return };
    let net = mesh.net();
    run(&net);
    assert!(mesh.tell("cut", &["b"]));
    let (cut, id) = (Instant::now(), submit(&net));
    let outage = Duration::from_secs(30);
    wait_until(2 * outage, "the outage is over", || cut.elapsed() >= outage);
    assert!(!net.nodes[1].run(&id).has_ended(), "nobody else can run it");
    assert!(mesh.tell("heal", &["b"]));
    finish(&net, &id);
    wait_until(WAY, "all are connected", || net.nodes.iter().all(|node| node.n_connected() == 2));
}

#[test]
fn a_bad_line_with_100_ms_and_a_tenth_lost_is_enough() {
    let Some(mesh) = Mesh::start("bad") else { return };
    if !mesh.tell("shape", &["a", "50", "10"]) {
        return;
    }
    let net = mesh.net();
    run(&net);
}

#[test]
fn neighbours_find_each_other_by_multicast_and_only_who_wants_to() {
    let Some(mesh) = Mesh::start("lan") else { return };
    assert!(mesh.tell("neighbours", &[]));
    let namespace = |host: &str| format!("oc-lan-{host}");
    let place = Place::new();
    let nodes = ["x", "y", "z"].iter().zip(41..).map(|(host, n)| {
        let mut node = place.node(host);
        node.move_to(&namespace(host), &format!("203.0.113.{n}"));
        node
    });
    let nodes = nodes.collect();
    let mut net = Net::of(place, nodes);
    // Everybody moves while all are away: no address that anybody remembers leads anywhere.
    net.nodes.iter_mut().for_each(Node::stop);
    for (node, n) in net.nodes.iter_mut().zip(51..) {
        node.move_to(&namespace(&node.org), &format!("203.0.113.{n}"));
        node.is_multicasting = node.org != "z";
    }
    net.nodes.iter_mut().rev().for_each(Node::start);
    let [x, y, z] = &mut net.nodes[..] else { unreachable!() };
    wait_until(WAY, "two find each other", || way(x, "y") == "direct" && way(y, "x") == "direct");
    assert_eq!([x.n_connected(), y.n_connected(), z.n_connected()], [1, 1, 0]);
    assert_eq!(["x", "y", "z"].map(|host| mesh.hears_multicast(host)), [true, true, false]);
    z.stop();
    z.is_multicasting = true;
    z.start();
    wait_until(WAY, "the third is found", || z.n_connected() == 2);
}
