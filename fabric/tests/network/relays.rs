//! Members that relay, and who is reached through them.

use std::time::Duration;

use fabric::{Config, Path, RelayLimits, Standing, Terms};
use futures::StreamExt;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, SwarmBuilder, noise, relay, tcp, yamux};
use tokio::time::timeout;

use crate::support::{DEADLINE, Node, Seen, Transport, config, eventually};

/// A node that nobody can dial.
pub(crate) fn hidden() -> Config {
    let mut config = config(Transport::Tcp);
    config.listen.clear();
    config
}

pub(crate) async fn relay_with(transport: Transport, limits: RelayLimits) -> Node {
    let mut config = config(transport);
    config.relay = Some(limits);
    Node::with(config).await
}

/// Connects the node to the relay and waits until the relay leads to it.
pub(crate) async fn reserve(node: &mut Node, relay: &mut Node) {
    node.connect(relay).await;
    node.connected(relay.me).await;
    relay.connected(node.me).await;
    eventually("a relay leads to the node", async || {
        node.addresses = node.fabric.addresses().await;
        node.addresses.iter().any(|a| a.contains("p2p-circuit"))
    })
    .await;
}

pub(crate) async fn says(from: &Node, to: &mut Node, bytes: &[u8]) {
    from.fabric.send(to.me, bytes.to_vec()).await.unwrap();
    to.until(|seen| *seen == Seen::Message(from.me, bytes.to_vec())).await;
}

/// The second node dials the first through the relay.
async fn trio(transport: Transport, limits: RelayLimits, second: Config) -> (Node, Node, Node) {
    let mut relay = relay_with(transport, limits).await;
    let mut far = Node::with(hidden()).await;
    reserve(&mut far, &mut relay).await;
    let mut near = Node::with(second).await;
    near.connect(&relay).await;
    relay.connected(near.me).await;
    near.connected(relay.me).await;
    assert_eq!(near.connect(&far).await, b"welcome");
    far.connected(near.me).await;
    (relay, far, near)
}

async fn path(node: &Node, peer: &Node) -> Path {
    node.info(peer.me).await.map_or(Path::None, |info| info.path)
}

async fn through_a_relay(transport: Transport) {
    let (relay, mut far, mut near) = trio(transport, RelayLimits::default(), hidden()).await;
    says(&near, &mut far, b"there").await;
    says(&far, &mut near, b"and back").await;
    assert_eq!(path(&near, &far).await, Path::Relayed { by: Some(relay.me) });
    assert_eq!(path(&far, &near).await, Path::Relayed { by: Some(relay.me) });
    assert_eq!(path(&near, &relay).await, Path::Direct);
    let reach = far.fabric.reachability().await.unwrap();
    assert_eq!(reach.standing, Standing::OutboundOnly);
    assert_eq!(reach.relays.iter().map(|r| r.is_reserved).collect::<Vec<_>>(), [true]);
    let relaying = relay.fabric.reachability().await.unwrap().relaying.unwrap();
    assert!(relaying.reservations >= 1 && relaying.circuits == 1, "{relaying:?}");
    // Both ends are charged alike. What is on its way between the two questions is charged too, so they are asked until it rests.
    eventually("both ends have the same bytes", async || {
        let metered = relay.info(far.me).await.unwrap().relayed_bytes;
        metered > 0 && metered == relay.info(near.me).await.unwrap().relayed_bytes
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_carried_for_gets_neither_a_place_nor_a_circuit() {
    let barred = Terms { may_relay: false, ..Terms::default() };
    let (mut relay, mut far, mut near) =
        trio(Transport::Tcp, RelayLimits::default(), hidden()).await;
    says(&near, &mut far, b"there").await;
    // Either end: what is open is cut by its next bytes, and nothing opens anew.
    for end in [near.me, far.me] {
        relay.fabric.set_terms(end, barred);
        drop(near.fabric.send(far.me, b"more".to_vec()).await);
        near.disconnected(far.me).await;
        assert!(near.fabric.connect(far.me, far.addresses.clone(), None).await.is_err());
        relay.fabric.set_terms(end, Terms::default());
        assert_eq!(near.connect(&far).await, b"welcome");
        near.connected(far.me).await;
    }
    // Nobody is led to whom the relay does not carry for.
    let mut late = Node::with(hidden()).await;
    relay.fabric.set_terms(late.me, barred);
    late.connect(&relay).await;
    late.connected(relay.me).await;
    relay.connected(late.me).await;
    eventually("the relay says no", async || {
        let reach = late.fabric.reachability().await.unwrap();
        reach.relays.iter().any(|r| {
            !r.is_reserved && r.why.as_ref().is_some_and(|why| !why.contains("has not answered"))
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_relay_over_tcp() {
    through_a_relay(Transport::Tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_relay_over_quic() {
    through_a_relay(Transport::Quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_punched_and_the_relayed_one_closed() {
    let second = config(Transport::Tcp);
    let (relay, mut far, mut near) = trio(Transport::Tcp, RelayLimits::default(), second).await;
    eventually("the way is direct", async || path(&near, &far).await == Path::Direct).await;
    eventually("the relay carries nothing", async || {
        relay.fabric.reachability().await.unwrap().relaying.unwrap().circuits == 0
    })
    .await;
    says(&near, &mut far, b"there").await;
    says(&far, &mut near, b"and back").await;
    assert!(!near.drain().contains(&Seen::Disconnected(far.me)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_relay_is_found_again() {
    let mut first = relay_with(Transport::Tcp, RelayLimits::default()).await;
    let mut second = relay_with(Transport::Tcp, RelayLimits::default()).await;
    let mut far = Node::with(hidden()).await;
    reserve(&mut far, &mut first).await;
    first.fabric.clone().shutdown().await;
    eventually("the address is withdrawn", async || far.fabric.addresses().await.is_empty()).await;
    reserve(&mut far, &mut second).await;
    assert!(far.addresses[0].contains(&second.me.to_string()), "{:?}", far.addresses);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_is_cut_and_refused() {
    let limits = RelayLimits { daily_bytes: 60_000, ..RelayLimits::default() };
    let (relay, mut far, near) = trio(Transport::Tcp, limits, hidden()).await;
    near.fabric.send(far.me, vec![7; 200_000]).await.unwrap_err();
    far.disconnected(near.me).await;
    eventually("nothing is carried", async || {
        relay.fabric.reachability().await.unwrap().relaying.unwrap().circuits == 0
    })
    .await;
    let addresses = far.addresses.clone();
    near.fabric.connect(far.me, addresses, None).await.unwrap_err();
    let carried = relay.info(near.me).await.unwrap().relayed_bytes;
    assert!(carried < 60_000 + (64 << 10), "{carried}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_small_blobs_come_through_a_relay() {
    let mut second = hidden();
    second.relayed_blob_bytes = 1000;
    let (_relay, far, near) = trio(Transport::Tcp, RelayLimits::default(), second).await;
    let (small, large) = (far.keep(&[1; 1000]), far.keep(&[2; 1001]));
    let fetch = async |hash, name| {
        near.fabric.fetch(&[far.me], hash, &near.path(name), 1 << 20, |_, _| {}).await
    };
    assert_eq!(fetch(small, "small").await.unwrap().size, 1000);
    let refused = fetch(large, "large").await.unwrap_err();
    assert!(refused.to_string().contains("1000"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_gets_no_place_at_a_relay() {
    let mut config = config(Transport::Tcp);
    config.relay = Some(RelayLimits::default());
    config.limits.hello_timeout = Duration::from_millis(700);
    let relay = Node::with(config).await;
    let mut stranger = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_, relay: relay::client::Behaviour| relay)
        .unwrap()
        .build();
    let at: Multiaddr = relay.addresses[0].parse().unwrap();
    stranger.listen_on(at.with(Protocol::P2pCircuit)).unwrap();
    let ended = async {
        loop {
            match stranger.select_next_some().await {
                SwarmEvent::ListenerClosed { .. } => return,
                SwarmEvent::Behaviour(event) => panic!("a stranger is served: {event:?}"),
                SwarmEvent::NewListenAddr { address, .. } => panic!("it is reached at {address}"),
                _ => {}
            }
        }
    };
    timeout(DEADLINE, ended).await.expect("the relay closes the connection");
    let relaying = relay.fabric.reachability().await.unwrap().relaying.unwrap();
    assert_eq!((relaying.reservations, relaying.bytes), (0, 0));
}
