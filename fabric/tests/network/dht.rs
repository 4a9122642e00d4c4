//! Who has content of an exact hash, and who lies about it.

use std::time::Duration;

use fabric::{DhtError, Offence, PROVIDED_MAX, PeerKey, RelayLimits};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{PeerId, StreamProtocol};
use tokio::time::timeout;

use crate::liars::Liar;
use crate::relays::{hidden, relay_with, reserve};
use crate::support::{DEADLINE, Node, Seen, Transport, config, eventually, suite};

const KAD: StreamProtocol = StreamProtocol::new("/opencloud/1/kad/1");
const ADD_PROVIDER: u8 = 2;
const GET_PROVIDERS: u8 = 3;

async fn kept(node: &Node) -> usize {
    node.fabric.dht().await.unwrap().kept
}

/// Connects the first to the second, and waits until it may ask it.
async fn ask_at(node: &mut Node, at: &mut Node) {
    let before = node.fabric.dht().await.unwrap().peers;
    node.connect(at).await;
    node.connected(at.me).await;
    at.connected(node.me).await;
    eventually("the other answers", async || {
        node.fabric.dht().await.unwrap().peers > before
            && at.fabric.dht().await.unwrap().is_answering
    })
    .await;
}

async fn what_one_provides_another_finds(transport: Transport) {
    let mut middle = Node::start(transport).await;
    let (mut holder, mut asker) = (Node::start(transport).await, Node::with(hidden()).await);
    ask_at(&mut holder, &mut middle).await;
    let (key, other) = ([7; 32], [8; 32]);
    holder.fabric.provide(key).await.unwrap();
    eventually("the key is told", async || kept(&middle).await == 1).await;

    ask_at(&mut asker, &mut middle).await;
    assert_eq!(asker.fabric.providers(key, 1).await.unwrap(), [holder.me]);
    // Nobody can dial it, so nobody asks it.
    assert!(!asker.fabric.dht().await.unwrap().is_answering);
    assert_eq!(middle.fabric.dht().await.unwrap().peers, 1);
    assert_eq!(middle.fabric.providers(other, 1).await.unwrap(), []);

    holder.fabric.stop_providing(key).await;
    assert_eq!(holder.fabric.dht().await.unwrap().provided, 0);

    // Who is banned is in no answer, and what it said is gone.
    middle.fabric.penalize(holder.me, Offence::Forged).await;
    middle.fabric.penalize(holder.me, Offence::Forged).await;
    middle.disconnected(holder.me).await;
    assert_eq!((kept(&middle).await, middle.fabric.dht().await.unwrap().peers), (0, 0));
    assert_eq!(asker.fabric.providers(key, 1).await.unwrap(), []);
}

suite!(what_one_provides_another_finds);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_asks_for_members_that_are_not_connected() {
    let [mut holder, mut far, mut near, mut asker] = [
        Node::start(Transport::Tcp).await,
        Node::start(Transport::Tcp).await,
        Node::start(Transport::Tcp).await,
        Node::start(Transport::Tcp).await,
    ];
    ask_at(&mut holder, &mut far).await;
    holder.fabric.provide([9; 32]).await.unwrap();
    eventually("the key is told", async || kept(&far).await == 1).await;
    ask_at(&mut near, &mut far).await;
    ask_at(&mut asker, &mut near).await;
    eventually("both ends of the way answer", async || near.fabric.dht().await.unwrap().peers == 2)
        .await;
    let fabric = asker.fabric.clone();
    let search = tokio::spawn(async move { fabric.providers([9; 32], 1).await });
    asker.until(|seen| *seen == Seen::Wanted(far.me)).await;
    // The application knows where that is; the answer of the one in between did not say it.
    asker.connect(&far).await;
    assert_eq!(search.await.unwrap().unwrap(), [holder.me]);
    assert!(asker.info(holder.me).await.is_none(), "nobody dials by hearsay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_leads_here_makes_nobody_answer() {
    let mut relay = relay_with(Transport::Tcp, RelayLimits::default()).await;
    let mut node = Node::with(hidden()).await;
    reserve(&mut node, &mut relay).await;
    eventually("the relay answers", async || node.fabric.dht().await.unwrap().peers == 1).await;
    assert!(!node.fabric.dht().await.unwrap().is_answering);
    assert_eq!(relay.fabric.dht().await.unwrap().peers, 0);
}

#[tokio::test]
async fn a_node_provides_so_much_and_no_more() {
    let node = Node::start(Transport::Tcp).await;
    let key = |n: usize| std::array::from_fn(|at| (n >> (8 * at.min(7))) as u8);
    for n in 0..PROVIDED_MAX {
        node.fabric.provide(key(n)).await.unwrap();
    }
    let more = node.fabric.provide(key(PROVIDED_MAX)).await;
    assert_eq!(more, Err(DhtError::Full { limit: PROVIDED_MAX }));
    node.fabric.provide(key(3)).await.unwrap();
    node.fabric.stop_providing(key(3)).await;
    node.fabric.provide(key(PROVIDED_MAX)).await.unwrap();
    // Nobody is there to ask.
    assert_eq!(node.fabric.providers(key(1), 4).await, Ok(Vec::new()));
}

/// A message of Kademlia: length, type, key, and where one is given, whom it names as the provider.
fn message(kind: u8, key: &[u8], provider: Option<PeerId>) -> Vec<u8> {
    let field = |tag: u8, bytes: &[u8]| [&[tag << 3 | 2, bytes.len() as u8], bytes].concat();
    let mut body = vec![1 << 3, kind];
    body.extend(field(2, key));
    if let Some(id) = provider {
        body.extend(field(9, &field(1, &id.to_bytes())));
    }
    assert!(body.len() < 128);
    [&[body.len() as u8], &body[..]].concat()
}

#[tokio::test]
async fn a_stranger_neither_tells_nor_learns() {
    let mut hurried = config(Transport::Tcp);
    hurried.limits.hello_timeout = Duration::from_millis(500);
    let mut node = Node::with(hurried).await;
    let mut friend = Node::start(Transport::Tcp).await;
    ask_at(&mut friend, &mut node).await;
    node.fabric.provide([1; 32]).await.unwrap();
    let liar = Liar::connect(&node).await;
    let (me, victim, mut streams) = (liar.key(), liar.victim, liar.streams());
    let _driving = liar.drive();
    let me: PeerId = me.to_string().parse().unwrap();
    let mut telling = streams.open_stream(victim, KAD).await.unwrap();
    telling.write_all(&message(ADD_PROVIDER, &[2; 32], Some(me))).await.unwrap();
    let mut asking = streams.open_stream(victim, KAD).await.unwrap();
    asking.write_all(&message(GET_PROVIDERS, &[1; 32], None)).await.unwrap();
    let mut got = Vec::new();
    let read = timeout(DEADLINE, asking.read_to_end(&mut got)).await.expect("it is closed");
    assert!(read.is_err() || got.is_empty(), "{got:?}");
    node.until(|seen| matches!(seen, Seen::Refused(..))).await;
    let view = node.fabric.dht().await.unwrap();
    assert_eq!((view.kept, view.peers), (0, 1));
}

#[tokio::test]
async fn a_liar_speaks_for_itself_alone() {
    let (mut node, mut friend) =
        (Node::start(Transport::Tcp).await, Node::start(Transport::Tcp).await);
    ask_at(&mut friend, &mut node).await;
    let mut liar = Liar::connect(&node).await;
    liar.be_admitted().await;
    let key = liar.key();
    let me: PeerId = key.to_string().parse().unwrap();
    let other: PeerId = PeerKey::from_bytes([0x33; 32]).to_string().parse().unwrap();
    let (victim, mut streams) = (liar.victim, liar.streams());
    let _driving = liar.drive();
    // Each of its streams is read on its own, so what must not count is sent long before what does.
    let lies = [
        message(ADD_PROVIDER, &[2; 32], Some(other)),
        message(ADD_PROVIDER, &[2; 32], Some(node.me.to_string().parse().unwrap())),
        message(ADD_PROVIDER, &[2; 31], Some(me)),
        b"\xff\xff\xff\xff\x0f".to_vec(),
        message(ADD_PROVIDER, &[3; 32], Some(me)),
    ];
    for lie in &lies {
        let mut stream = streams.open_stream(victim, KAD).await.unwrap();
        stream.write_all(lie).await.unwrap();
        stream.close().await.unwrap();
    }
    eventually("the one record that it may give is there", async || kept(&node).await == 1).await;
    assert_eq!(node.fabric.providers([2; 32], 4).await.unwrap(), []);
    assert_eq!(node.fabric.providers([3; 32], 4).await.unwrap(), [key]);
    assert!(node.info(key).await.unwrap().admitted);
}
