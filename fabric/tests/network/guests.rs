//! Guests: let in to messages, and to nothing else, whatever they try.

use std::time::Duration;

use fabric::{FetchError, PublishError};
use tokio::time::timeout;

use crate::support::{Node, Seen, Transport, config, suite};

suite![
    a_guest_gets_messages_and_nothing_else,
    guests_take_no_places_of_those_who_wait,
    a_guest_on_both_sides_is_refused_before_anything_is_sent,
];

/// How long something may take that must not happen. On an idle machine what is allowed takes a few milliseconds.
const NEVER: Duration = Duration::from_millis(700);

/// A guest that lets the host into everything, and the host.
async fn guest_and_host(t: Transport) -> (Node, Node) {
    let (mut guest, mut host) = (Node::start(t).await, Node::start(t).await);
    let hello = Some(b"guest".to_vec());
    let met = guest.fabric.connect(host.me, host.addresses.clone(), hello).await.unwrap();
    assert_eq!(met, b"welcome");
    guest.connected(host.me).await;
    host.connected(guest.me).await;
    (guest, host)
}

async fn a_guest_gets_messages_and_nothing_else(t: Transport) {
    let (mut guest, mut host) = guest_and_host(t).await;
    let hash = host.keep(&[7; 3_000]);
    for node in [&guest, &host] {
        node.fabric.subscribe("news".to_owned()).await;
    }
    // The guest's own gate is open: what it opens goes out, and waits unread.
    let fetched = timeout(NEVER, guest.fabric.size(host.me, hash));
    let tunnelled = timeout(NEVER, guest.fabric.tunnel(host.me, b"yes".to_vec()));
    let (fetched, tunnelled) = tokio::join!(fetched, tunnelled);
    assert!(fetched.is_err() && tunnelled.is_err());
    assert!(!host.has_far_end());
    for node in [&guest, &host] {
        let heard = node.fabric.publish("news".to_owned(), b"word".to_vec()).await;
        assert!(matches!(heard, Err(PublishError::NobodyListens { .. })), "{heard:?}");
    }
    // The other way the host refuses itself.
    let refused = host.fabric.size(guest.me, hash).await;
    assert!(matches!(refused, Err(FetchError::NotConnected { .. })), "{refused:?}");
    guest.fabric.send(host.me, b"question".to_vec()).await.unwrap();
    host.until(|s| matches!(s, Seen::Message(_, bytes) if bytes == b"question")).await;
    host.fabric.send(guest.me, b"answer".to_vec()).await.unwrap();
    guest.until(|s| matches!(s, Seen::Message(_, bytes) if bytes == b"answer")).await;
    let heard = |node: &mut Node| node.drain().iter().any(|s| matches!(s, Seen::Gossip(..)));
    assert!(!heard(&mut guest) && !heard(&mut host));
}

async fn guests_take_no_places_of_those_who_wait(t: Transport) {
    let mut narrow = config(t);
    narrow.limits.probation = 1;
    let mut host = Node::with(narrow).await;
    let mut guests = Vec::new();
    for _ in 0..3 {
        let guest = Node::start(t).await;
        let hello = Some(b"guest".to_vec());
        guest.fabric.connect(host.me, host.addresses.clone(), hello).await.unwrap();
        host.connected(guest.me).await;
        guests.push(guest);
    }
    let member = Node::start(t).await;
    assert_eq!(member.connect(&host).await, b"welcome");
    host.connected(member.me).await;
}

async fn a_guest_on_both_sides_is_refused_before_anything_is_sent(t: Transport) {
    let (mut guest, mut host) = (Node::start(t).await, Node::start(t).await);
    let hello = Some(b"guest".to_vec());
    let met = guest.fabric.introduce(host.me, host.addresses.clone(), hello).await.unwrap();
    assert_eq!(met.admit_guest().await.unwrap(), b"welcome");
    guest.connected(host.me).await;
    host.connected(guest.me).await;
    let refused = guest.fabric.size(host.me, [1; 32]).await;
    assert!(matches!(refused, Err(FetchError::NotConnected { .. })), "{refused:?}");
    guest.fabric.send(host.me, b"question".to_vec()).await.unwrap();
    host.until(|s| matches!(s, Seen::Message(..))).await;
}
