//! What `start` refuses, and what a dial can meet.

use crate::support::{Node, Transport, config};
use fabric::{Config, ConnectError, PeerKey, Sources, StartError};

fn start_error(listen: &[&str]) -> StartError {
    let listen = listen.iter().map(ToString::to_string).collect();
    fabric::start(Config::new([3; 32], listen), Sources::default()).unwrap_err()
}

#[test]
fn without_a_runtime_it_says_so() {
    assert!(matches!(start_error(&[]), StartError::NoRuntime));
}

#[tokio::test]
async fn a_bad_address_is_named() {
    let error = start_error(&["/ip4/127.0.0.1/tcp/0", "localhost:80"]);
    assert!(matches!(&error, StartError::Address { text } if text == "localhost:80"), "{error}");
}

#[tokio::test]
async fn one_listener_is_enough_and_none_is_an_error() {
    // An address of documentation: no machine has it.
    for foreign in ["/ip4/192.0.2.1/tcp/0", "/ip4/192.0.2.1/udp/0/quic-v1"] {
        let error = start_error(&[foreign]);
        assert!(matches!(&error, StartError::Listen { address, .. } if address == foreign));
        let mut both = config(Transport::Tcp);
        both.listen.push(foreign.into());
        assert_eq!(Node::with(both).await.addresses.len(), 1);
    }
}

#[tokio::test]
async fn a_node_that_only_dials_has_no_address() {
    let (fabric, _events) =
        fabric::start(Config::new([4; 32], vec![]), Sources::default()).unwrap();
    assert!(fabric.addresses().await.is_empty());
}

#[tokio::test]
async fn dials_that_cannot_work_say_why() {
    let node = Node::start(Transport::Tcp).await;
    let stranger = PeerKey::from_bytes([8; 32]);
    let connect = async |peer, addresses: &[String]| {
        node.fabric.connect(peer, addresses.to_vec(), None).await.unwrap_err()
    };
    assert!(matches!(connect(node.me, &node.addresses).await, ConnectError::Myself));
    assert!(matches!(connect(stranger, &[]).await, ConnectError::NoAddress { .. }));
    let bad = connect(stranger, &["nowhere".into()]).await;
    assert!(matches!(bad, ConnectError::Address { text } if text == "nowhere"));
    // Nobody listens on port 1.
    let dead = connect(stranger, &["/ip4/127.0.0.1/tcp/1".into()]).await;
    assert!(matches!(dead, ConnectError::Dial { .. }), "{dead:?}");
    // Somebody listens, but another.
    let other = Node::start(Transport::Tcp).await;
    let (address, _) = other.addresses[0].split_once("/p2p/").unwrap();
    let wrong = connect(stranger, &[address.to_owned()]).await;
    assert!(matches!(wrong, ConnectError::Dial { .. }), "{wrong:?}");
}
