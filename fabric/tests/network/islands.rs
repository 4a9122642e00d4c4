//! A node that has lost everybody opens its listeners anew, then builds its whole network anew, and is whole afterwards.

use std::net::TcpListener;
use std::time::Duration;

use fabric::{Alone, Config, ConnectError, PeerKey, RelayLimits, Renewal, Renewed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::relays::{hidden, reserve, says};
use crate::suite::publish;
use crate::support::{Node, Seen, Transport, config, eventually, pair_with, suite};
use crate::tunnels::{soon, tunnel};

suite![
    alone_it_begins_anew_and_everything_works_as_before,
    who_was_left_on_purpose_is_not_missed,
    a_relay_that_comes_back_leads_to_the_rebuilt_node_again,
];

fn impatient(mut config: Config) -> Config {
    let (reopen, rebuild) = (Duration::from_millis(200), Duration::from_millis(800));
    config.alone = Alone { reopen, rebuild, pause_max: Duration::from_secs(3600) };
    config
}

async fn renewal(node: &Node) -> Option<Renewal> {
    node.fabric.reachability().await.unwrap().renewal
}

async fn is_rebuilt(node: &Node) -> bool {
    renewal(node).await.is_some_and(|renewal| renewal.what == Renewed::Everything)
}

/// Everything that one can do for the other.
async fn all_works(from: &Node, to: &mut Node) {
    from.fabric.send(to.me, b"a message".to_vec()).await.unwrap();
    to.until(|seen| *seen == Seen::Message(from.me, b"a message".to_vec())).await;
    let payload = format!("news of {}", from.me).into_bytes();
    publish(from, "news", &payload).await;
    to.until(|seen| matches!(seen, Seen::Gossip(_, _, bytes) if *bytes == payload)).await;
    let bytes = vec![from.me.as_bytes()[0]; 100_000];
    let (hash, into) = (from.keep(&bytes), to.path("fetched"));
    to.fabric.fetch(&[from.me], hash, &into, 1 << 20, |_, _| {}).await.unwrap();
    assert!(std::fs::read(into).unwrap() == bytes);
    let (mut near, mut far) = tunnel(from, to).await;
    soon(near.write_all(b"ping")).await.unwrap();
    let mut heard = [0; 4];
    soon(far.io.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"ping");
}

async fn alone_it_begins_anew_and_everything_works_as_before(t: Transport) {
    let mut again = config(t);
    let (mut a, mut b) = pair_with(impatient(config(t)), again.clone()).await;
    a.fabric.subscribe("news".into()).await;
    assert_eq!(renewal(&a).await, None);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("/ip4/127.0.0.1/tcp/{}", silent.local_addr().unwrap().port());
    let connecting = {
        let fabric = a.fabric.clone();
        let nobody = PeerKey::from_bytes([9; 32]);
        tokio::spawn(async move { fabric.connect(nobody, vec![at], None).await })
    };
    b.fabric.clone().shutdown().await;
    a.disconnected(b.me).await;
    eventually("the listeners are opened anew", async || renewal(&a).await.is_some()).await;
    eventually("everything is built anew", async || is_rebuilt(&a).await).await;
    let renewal = renewal(&a).await.unwrap();
    assert!(renewal.alone >= Duration::from_secs(1), "{renewal:?}");
    // Who waited for something is told.
    let cut = soon(connecting).await.unwrap().unwrap_err();
    assert!(matches!(cut, ConnectError::Closed { .. }), "{cut}");
    assert_eq!(soon(a.fabric.addresses()).await, a.addresses, "its peers know these");

    // The peer comes back, and finds it where it was.
    let (at, _) = b.addresses[0].split_once("/p2p/").unwrap();
    again.listen = vec![at.to_owned()];
    b = Node::with(again).await;
    b.fabric.subscribe("news".into()).await;
    let welcome = async || b.fabric.connect(a.me, a.addresses.clone(), None).await.is_ok();
    eventually("the peer is let in", welcome).await;
    a.connected(b.me).await;
    b.connected(a.me).await;
    all_works(&a, &mut b).await;
    all_works(&b, &mut a).await;
    // It dials others, too.
    let mut c = Node::start(t).await;
    c.fabric.subscribe("news".into()).await;
    a.connect(&c).await;
    c.connected(a.me).await;
    all_works(&c, &mut a).await;
}

/// It dials nobody whom it misses, so there is nothing to begin anew for.
async fn who_was_left_on_purpose_is_not_missed(t: Transport) {
    let (mut a, b) = pair_with(impatient(config(t)), config(t)).await;
    a.fabric.disconnect(b.me).await;
    a.disconnected(b.me).await;
    // A dial that fails is what ends its content: the first step comes 200 ms after that, not after the parting.
    let parted = std::time::Instant::now();
    eventually("a while passes", async || parted.elapsed() > Duration::from_millis(300)).await;
    assert_eq!(renewal(&a).await, None);
    let nobody = PeerKey::from_bytes([9; 32]);
    a.fabric.connect(nobody, vec!["/ip4/127.0.0.1/tcp/1".into()], None).await.unwrap_err();
    eventually("somebody is missed", async || renewal(&a).await.is_some()).await;
    assert_eq!(soon(a.fabric.addresses()).await, a.addresses);
}

async fn a_relay_that_comes_back_leads_to_the_rebuilt_node_again(t: Transport) {
    let mut again = config(t);
    again.relay = Some(RelayLimits::default());
    let mut relay = Node::with(again.clone()).await;
    let mut far = Node::with(impatient(hidden())).await;
    reserve(&mut far, &mut relay).await;
    relay.fabric.clone().shutdown().await;
    eventually("everything is built anew", async || is_rebuilt(&far).await).await;
    assert!(far.fabric.addresses().await.is_empty());
    let (at, _) = relay.addresses[0].split_once("/p2p/").unwrap();
    again.listen = vec![at.to_owned()];
    let mut relay = Node::with(again).await;
    reserve(&mut far, &mut relay).await;
    let mut near = Node::with(hidden()).await;
    near.connect(&relay).await;
    near.connected(relay.me).await;
    relay.connected(near.me).await;
    near.connect(&far).await;
    far.connected(near.me).await;
    says(&near, &mut far, b"there").await;
    says(&far, &mut near, b"and back").await;
}
