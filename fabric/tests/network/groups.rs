//! Peers of one group share bounds: many keys get no more than one group may have.

use fabric::{RefusedWhy, SendError, Terms};

use crate::support::{Node, Seen, Transport, config};

const OURS: Terms = Terms { group: Some([7; 32]), may_relay: true };

/// A node that so many peers of one group want to connect to.
async fn crowd(n: usize, limit: impl FnOnce(&mut fabric::Limits)) -> (Node, Vec<Node>) {
    let mut config = config(Transport::Tcp);
    limit(&mut config.limits);
    let hub = Node::with(config).await;
    let mut peers = Vec::new();
    for _ in 0..n {
        let peer = Node::start(Transport::Tcp).await;
        // As an application does that learns from the hello whose a peer is.
        hub.fabric.set_terms(peer.me, OURS);
        peers.push(peer);
    }
    (hub, peers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_leaves_connections_for_others() {
    let (mut hub, mut peers) = crowd(4, |limits| {
        limits.established = 4;
        limits.per_peer = 1;
    })
    .await;
    let mut last = peers.pop().unwrap();
    for peer in &peers {
        peer.connect(&hub).await;
        hub.connected(peer.me).await;
    }
    drop(last.fabric.connect(hub.me, hub.addresses.clone(), None).await);
    hub.until(|seen| *seen == Seen::Refused(last.me, RefusedWhy::GroupFull)).await;
    assert!(!hub.info(last.me).await.is_some_and(|info| info.admitted));
    // Somebody else comes in.
    let other = Node::start(Transport::Tcp).await;
    other.connect(&hub).await;
    hub.connected(other.me).await;
    // When one goes there is room for another of the group; what was said of it ended with its connection.
    hub.fabric.disconnect(peers[0].me).await;
    hub.disconnected(peers[0].me).await;
    hub.fabric.set_terms(last.me, OURS);
    last.drain();
    last.connect(&hub).await;
    hub.connected(last.me).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_sends_no_more_than_four_of_its_peers() {
    let (mut hub, peers) = crowd(5, |limits| {
        limits.messages_per_s = 0;
        limits.messages_burst = 2;
    })
    .await;
    let (mut taken, mut busy) = (0, 0);
    for peer in &peers {
        peer.connect(&hub).await;
        hub.connected(peer.me).await;
        for _ in 0..2 {
            match peer.fabric.send(hub.me, b"one more".to_vec()).await {
                Ok(()) => taken += 1,
                Err(SendError::Busy { .. }) => busy += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert_eq!((taken, busy), (8, 2));
    let other = Node::start(Transport::Tcp).await;
    other.connect(&hub).await;
    hub.connected(other.me).await;
    other.fabric.send(hub.me, b"from elsewhere".to_vec()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_held_gets_in_when_all_places_are_taken() {
    let mut config = config(Transport::Tcp);
    config.limits.established = 2;
    let mut hub = Node::with(config).await;
    let mut peers = Vec::new();
    for _ in 0..4 {
        peers.push(Node::start(Transport::Tcp).await);
    }
    let [first, second, held, other] = &peers[..] else { panic!("four were started") };
    for peer in [first, second] {
        peer.connect(&hub).await;
        hub.connected(peer.me).await;
    }
    hub.fabric.hold(vec![held.me]).await;
    let refused = other.fabric.connect(hub.me, hub.addresses.clone(), None).await;
    assert!(refused.is_err(), "there is no place");
    held.connect(&hub).await;
    hub.connected(held.me).await;
}
