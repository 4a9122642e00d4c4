//! How long an image takes from other nodes: from one, and from two at once. Three real nodes, each in a network of its own
//! with links of limited rate between them, in which the two ways take turns; and the same on loopback, where the machine's
//! cores are the limit and a second peer can only cost. Networks need root and `ip` with `tc`; without them that part is
//! left out. Needs the built program.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

#[path = "support/figure.rs"]
mod figure;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};
use tests::harness::{Net, Node, Place, text, wait_until, write_program_image};

const SIZE: usize = 256 << 20;
const NAME: &str = "bench/large:1";
const ROUNDS: usize = 3;
/// Of each peer's link. The third node's is not limited.
const RATE: &str = "200mbit";
/// How long records may take to be everywhere.
const SPREAD_TIMEOUT: Duration = Duration::from_secs(60);

fn main() {
    if !figure::is_asked_to_measure() {
        return;
    }
    match Links::make() {
        Some(links) => {
            let place = Place::new();
            let nodes = (0..3).map(|i| links.node(&place, i)).collect();
            measure(Net::of(place, nodes), &format!("links of {RATE}"), ">= 1.50");
        }
        None => println!("networks cannot be made here: left out"),
    }
    measure(Net::new(3), "loopback", "");
}

#[expect(clippy::cast_precision_loss, reason = "mebibytes of a bench are few")]
fn measure(mut net: Net, place: &str, target: &str) {
    let dir = tempfile::tempdir_in(figure::scratch()).unwrap();
    let mut program = vec![0; SIZE];
    ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut program);
    write_program_image(dir.path(), &program);
    for node in &net.nodes[..2] {
        let _ = node.cli(&["image", "import", &text(dir.path()), "--name", NAME]).expect(0);
    }
    let _ = net.nodes[0].cli(&["image", "publish", NAME]).expect(0);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        one.push(pull(&mut net, 1));
        let _ = net.nodes[1].cli(&["image", "publish", NAME]).expect(0);
        two.push(pull(&mut net, 2));
        let _ = net.nodes[1].cli(&["image", "withdraw", NAME]).expect(0);
    }
    let (one, two) = (figure::median(one), figure::median(two));
    let rate = |seconds: f64| {
        format!("{:.1} MiB/s ({})", (SIZE >> 20) as f64 / seconds, figure::time(seconds))
    };
    figure::figure(&format!("pull: 256 MiB image from one node, {place}"), &rate(one), "");
    figure::figure(&format!("pull: the same from two nodes, {place}"), &rate(two), "");
    let ratio = format!("{:.2}", one / two);
    figure::figure(&format!("pull: two nodes against one, {place}"), &ratio, target);
}

/// Pulls the image to the third node, which has nothing of it, when as many records as wanted are known there.
fn pull(net: &mut Net, n_records: usize) -> f64 {
    let node = &mut net.nodes[2];
    node.stop();
    for entry in std::fs::read_dir(node.home.join("blobs")).unwrap() {
        std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    node.start();
    let node = &net.nodes[2];
    net.wait_until_known(node);
    wait_until(SPREAD_TIMEOUT, "the records are known", || {
        let found = node.json(&["catalog", "search", "kind = algorithm"]);
        found.as_array().unwrap().len() == n_records
    });
    let begun = Instant::now();
    let _ = node.cli(&["image", "pull", NAME]).expect(0);
    begun.elapsed().as_secs_f64()
}

/// Three networks and a fourth that connects them, gone when it is dropped.
struct Links {
    prefix: String,
}

impl Links {
    /// None where they cannot be made.
    fn make() -> Option<Self> {
        let links = Self { prefix: format!("ocb{}", std::process::id()) };
        links.connect().then_some(links)
    }

    fn connect(&self) -> bool {
        let switch = self.netns("s");
        let is_made = ip(&["netns", "add", &switch])
            && ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"])
            && ip(&["-n", &switch, "link", "set", "br0", "up"]);
        is_made && (0..3).all(|i| self.link(&switch, i))
    }

    fn link(&self, switch: &str, i: usize) -> bool {
        let (netns, port) = (self.netns(&i.to_string()), format!("p{i}"));
        let address = format!("{}/24", address(i));
        let is_made = ip(&["netns", "add", &netns])
            && ip(&["-n", &netns, "link", "set", "lo", "up"])
            && ip(&[
                "-n", &netns, "link", "add", "up0", "type", "veth", "peer", "name", &port, "netns",
                switch,
            ])
            && ip(&["-n", &netns, "addr", "add", &address, "dev", "up0"])
            && ip(&["-n", &netns, "link", "set", "up0", "up"])
            && ip(&["-n", switch, "link", "set", &port, "master", "br0", "up"]);
        let limit = [
            "qdisc", "add", "dev", "up0", "root", "tbf", "rate", RATE, "burst", "256kb", "latency",
            "50ms",
        ];
        is_made && (i == 2 || run(Command::new("tc").args(["-n", &netns]).args(limit)))
    }

    fn netns(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn node(&self, place: &Place, i: usize) -> Node {
        let mut node = place.node(&format!("org-{i}"));
        node.move_to(&self.netns(&i.to_string()), &address(i));
        node
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for name in ["0", "1", "2", "s"] {
            let _ = ip(&["netns", "delete", &self.netns(name)]);
        }
    }
}

fn address(i: usize) -> String {
    format!("10.87.0.{}", i + 1)
}

fn ip(args: &[&str]) -> bool {
    run(Command::new("ip").args(args))
}

fn run(command: &mut Command) -> bool {
    let done = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}
