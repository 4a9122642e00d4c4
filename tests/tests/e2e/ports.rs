//! Ports of loopback that owners open to peers, and tunnels to them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tests::harness::{Going, Net, Node, Place, wait_until};

/// How long anything here may take on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);
/// More than all buffers on the way hold.
const MORE: usize = 48 << 20;

/// A program of the machine that answers each connection, once its peer has said all, with what it said backwards. `taken` counts
/// connections.
struct Program {
    port: u16,
    taken: Arc<AtomicU64>,
}

impl Program {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = Arc::<AtomicU64>::default();
        let count = Arc::clone(&taken);
        thread::spawn(move || {
            for socket in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
                let mut socket = socket.unwrap();
                thread::spawn(move || {
                    let mut said = Vec::new();
                    if socket.read_to_end(&mut said).is_ok() {
                        said.reverse();
                        let _gone = socket.write_all(&said);
                    }
                });
            }
        });
        Self { port, taken }
    }
}

fn tunnel(node: &Node, to: &str, name: &str) -> (Going, String) {
    let (going, said) = node.begin(&["tunnel", to, name]);
    (going, said["local"].as_str().unwrap().to_owned())
}

fn connect(local: &str) -> TcpStream {
    let socket = TcpStream::connect(local).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket.set_write_timeout(Some(TIMEOUT)).unwrap();
    socket
}

/// Says something, ends its direction, and gives the answer.
fn ask(local: &str, what: &[u8]) -> Vec<u8> {
    let mut socket = connect(local);
    socket.write_all(what).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn a_port_is_reached_by_those_for_whom_it_is_open_and_by_nobody_else() {
    let program = Program::start();
    let place = Place::new();
    let mut nodes = vec![place.node("opener"), place.node("friend"), place.node("other")];
    let open =
        |name: &str, who: &str| ["--open".to_owned(), format!("{name}={}{who}", program.port)];
    nodes[0].options.extend(open("own", ""));
    nodes[0].options.extend(open("all", ":realm"));
    let net = Net::of(place, nodes);
    let (opener, friend, other) = (&net.nodes[0], &net.nodes[1], &net.nodes[2]);
    let id = opener.json(&["status"])["id"].as_str().unwrap().to_owned();

    let (_going, local) = tunnel(friend, &id, "all");
    assert!(local.starts_with("127.0.0.1:"), "{local}");
    // The end of one direction is not the end of the other, and nothing is lost between them.
    assert_eq!(ask(&local, b"stressed"), b"desserts");
    let mut large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let answer = ask(&local, &large);
    large.reverse();
    assert!(answer == large, "{} bytes came back", answer.len());
    // As many at once as there are programs.
    let asking: Vec<_> = (0..8_u8)
        .map(|n| {
            let local = local.clone();
            thread::spawn(move || ask(&local, &[n, 0]))
        })
        .collect();
    for (n, asked) in (0..).zip(asking) {
        assert_eq!(asked.join().unwrap(), [0, n]);
    }
    let taken = program.taken.load(Ordering::Relaxed);
    let ports = opener.json(&["ports"]);
    assert_eq!((&ports[0]["name"], &ports[0]["opened"]), (&"all".into(), &taken.into()), "{ports}");
    assert!(ports[0]["received"].as_u64() >= Some(3_000_000), "{ports}");
    assert_eq!(ports[1]["opened"], 0);

    for (node, name) in [(friend, "own"), (other, "own"), (other, "none")] {
        let refused = node.cli(&["tunnel", &id, name]).expect(1);
        assert!(refused.stderr.contains(&format!("opens no port `{name}` to you")), "{refused}");
    }
    let unknown = friend.cli(&["tunnel", "nobody", "all"]).expect(1);
    assert!(unknown.stderr.contains("nobody"), "{unknown}");
    assert_eq!(program.taken.load(Ordering::Relaxed), taken, "who is refused connects to nothing");
}

#[test]
fn a_tunnel_that_nobody_reads_takes_no_more_and_ends_with_either_side() {
    let program = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = program.local_addr().unwrap().port();
    let place = Place::new();
    let mut nodes = vec![place.node("opener"), place.node("friend")];
    nodes[0].options.extend(["--open".to_owned(), format!("db={port}:realm")]);
    let mut net = Net::of(place, nodes);
    let id = net.nodes[0].json(&["status"])["id"].as_str().unwrap().to_owned();
    let (going, local) = tunnel(&net.nodes[1], &id, "db");
    let mut near = connect(&local);
    let (mut far, _) = program.accept().unwrap();
    // The program does not read: at some time the writer has to wait, long before all is sent.
    near.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let (block, mut sent) = (vec![7; 1 << 20], 0);
    while sent < MORE {
        match near.write(&block) {
            Ok(n) => sent += n,
            Err(_) => break,
        }
    }
    assert!(sent < MORE, "{sent} bytes went into a tunnel that nobody reads");
    near.set_write_timeout(Some(TIMEOUT)).unwrap();
    // Once it reads, everything comes.
    let reading = thread::spawn(move || {
        let mut received = 0;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match far.read(&mut buffer) {
                Ok(0) => return (received, far),
                Ok(n) => received += n,
                Err(error) => panic!("{error}"),
            }
        }
    });
    near.shutdown(Shutdown::Write).unwrap();
    let (received, far) = reading.join().unwrap();
    assert_eq!(received, sent);
    drop(far);

    // A connection to a program that has gone is reset, and why is told.
    let mut near = connect(&local);
    let (_far, _) = program.accept().unwrap();
    net.nodes[0].kill9();
    let mut buffer = [0];
    wait_until(TIMEOUT, "a connection ends with its peer", || {
        !matches!(near.read(&mut buffer), Ok(1..))
    });
    drop(going);
    wait_until(TIMEOUT, "the port ends with the command", || TcpStream::connect(&local).is_err());
}
