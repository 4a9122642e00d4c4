//! Floods and slow peers: what they take from the others, which must be nothing that these notice.

use std::time::Duration;

use fabric::{Event, RefusedWhy, SendError, Sources};
use futures::AsyncWriteExt as _;
use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::Control;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::liars::{HELLO, Liar, MESSAGE, frame, framed};
use crate::support::{Node, Seen, Transport, config, eventually, pair, pair_with};
use crate::tunnels::soon;

const BLOB: &str = "/opencloud/blob/1";
const MIB: usize = 1 << 20;
/// How long a message between honest peers may take while others misbehave. On an idle machine it is below a millisecond.
const PROMPT: Duration = Duration::from_secs(5);

/// Resident memory of this process, which is one node and its peers. Zero where nobody tells.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok());
    resident.unwrap_or_default() * 4096
}

/// An honest peer's messages still arrive, and soon.
async fn serves(node: &mut Node, honest: &Node) {
    for n in 0..10 {
        let payload = format!("honest {n}").into_bytes();
        let sent = timeout(PROMPT, honest.fabric.send(node.me, payload.clone())).await;
        assert_eq!(sent, Ok(Ok(())));
        let arrived = Seen::Message(honest.me, payload);
        node.until(|s| *s == arrived).await;
    }
}

/// A stream of a liar with these bytes on it, when it gets one.
async fn open(liar: &mut Control, to: PeerId, on: &'static str, bytes: &[u8]) -> Option<Stream> {
    let opening = liar.open_stream(to, StreamProtocol::new(on));
    let mut stream = timeout(PROMPT, opening).await.ok()?.ok()?;
    stream.write_all(bytes).await.ok()?;
    stream.flush().await.ok()?;
    Some(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_dials_does_not_disturb_those_inside() {
    let mut hurried = config(Transport::Tcp);
    hurried.limits.hello_timeout = Duration::from_secs(2);
    let probation = hurried.limits.probation as usize;
    let (mut node, honest) = pair_with(hurried, config(Transport::Tcp)).await;
    let before = resident_bytes();
    // Some never speak, some prove a key and then say nothing: of each more than there is room for.
    let port: u16 = node.addresses[0].split('/').nth(4).unwrap().parse().unwrap();
    let mut sockets = Vec::new();
    for _ in 0..200 {
        sockets.extend(TcpStream::connect(("127.0.0.1", port)).await.ok());
    }
    serves(&mut node, &honest).await;
    drop(sockets);
    let mut liars = tokio::task::JoinSet::new();
    for _ in 0..probation + 8 {
        let dialling = Liar::dial(&node);
        liars.spawn(async move { dialling.drive().join_next().await });
    }
    node.until(|s| matches!(s, Seen::Refused(_, RefusedWhy::ProbationFull))).await;
    assert!(node.fabric.peers().await.len() <= probation + 1);
    serves(&mut node, &honest).await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 256 * MIB, "{grown} bytes more for a flood, that of its own side counted in");
    liars.shutdown().await;
    let newcomer = Node::start(Transport::Tcp).await;
    eventually("a newcomer gets in", async || {
        newcomer.fabric.connect(node.me, node.addresses.clone(), None).await.is_ok()
    })
    .await;
}

/// Announces a message of 1 MiB on every stream there is, and sends none of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_never_end_keep_no_room_from_others() {
    let mut small = config(Transport::Tcp);
    small.limits.message_memory_bytes = 8 << 20;
    let (mut node, honest) = pair_with(small, config(Transport::Tcp)).await;
    let mut liar = Liar::connect(&node).await;
    liar.be_admitted().await;
    let (key, victim, mut control) = (liar.key(), liar.victim, liar.streams());
    let driving = liar.drive();
    let mut streams = Vec::new();
    for _ in 0..40 {
        streams.extend(open(&mut control, victim, MESSAGE, &[0x00, 0x10, 0x00, 0x00, 1]).await);
    }
    assert_eq!(streams.len(), 40, "all of them are under way");
    serves(&mut node, &honest).await;
    let large = vec![b'l'; MIB];
    assert_eq!(soon(honest.fabric.send(node.me, large)).await, Ok(()));
    assert!(node.info(key).await.is_some_and(|info| info.banned.is_none()), "slow is no offence");
    drop((streams, driving));
    assert!(!node.drain().iter().any(|s| matches!(s, Seen::Message(from, _) if *from == key)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_messages_is_cut_to_its_senders_share() {
    let mut slow = config(Transport::Tcp);
    (slow.limits.messages_per_s, slow.limits.messages_burst) = (5, 20);
    let (mut node, honest) = pair_with(slow, config(Transport::Tcp)).await;
    let mut liar = Liar::connect(&node).await;
    liar.be_admitted().await;
    let key = liar.key();
    let since = std::time::Instant::now();
    liar.shout(100);
    let driving = liar.drive();
    // The honest peer has a share of its own, of the same size.
    serves(&mut node, &honest).await;
    drop(driving);
    let gone = Seen::Disconnected(key);
    node.until(|s| *s == gone).await;
    let heard = node.log.iter().filter(|s| matches!(s, Seen::Message(from, _) if *from == key));
    let share = 20 + 5 * (since.elapsed().as_secs() as usize + 1);
    assert!((1..=share).contains(&heard.count()), "at most {share} of 100");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_gossip_is_cut_to_its_senders_share() {
    let topic = || "flood".to_owned();
    let mut slow = config(Transport::Tcp);
    slow.limits.gossip_per_s = 20;
    let (mut node, liar) = pair_with(slow, config(Transport::Tcp)).await;
    let honest = Node::start(Transport::Tcp).await;
    honest.connect(&node).await;
    for one in [&node, &liar, &honest] {
        one.fabric.subscribe(topic()).await;
    }
    eventually("both reach the node", async || {
        let both = [&liar, &honest].map(|one| one.fabric.publish(topic(), b"first".to_vec()));
        futures::future::join_all(both).await.iter().all(Result::is_ok)
    })
    .await;
    let since = std::time::Instant::now();
    for n in 0..400 {
        let published = liar.fabric.publish(topic(), format!("noise {n}").into_bytes()).await;
        // A full queue of its own is the liar's matter.
        drop(published);
    }
    let word = b"one true word".to_vec();
    assert_eq!(honest.fabric.publish(topic(), word.clone()).await, Ok(()));
    node.until(|s| matches!(s, Seen::Gossip(_, _, said) if *said == word)).await;
    let from_liar = |s: &&Seen| matches!(s, Seen::Gossip(from, ..) if *from == liar.me);
    let share = 20 * (since.elapsed().as_secs() as usize + 2) + 1;
    let heard = node.log.iter().filter(from_liar).count();
    assert!(heard <= share, "{heard} of 400, at most {share}");
    serves(&mut node, &honest).await;
}

/// Opens more streams for blobs than there are places, and asks for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_fetchers_keep_no_place_from_others() {
    let (node, honest) = pair(Transport::Tcp).await;
    let hash = node.keep(&vec![7; 3 * MIB]);
    let mut liar = Liar::connect(&node).await;
    liar.be_admitted().await;
    let (victim, mut control) = (liar.victim, liar.streams());
    let _driving = liar.drive();
    let mut streams = Vec::new();
    for _ in 0..60 {
        streams.extend(open(&mut control, victim, BLOB, &hash[..8]).await);
    }
    let into = honest.path("blob");
    let fetched =
        soon(honest.fabric.fetch(&[node.me], hash, &into, 4 * MIB as u64, |_, _| {})).await;
    assert_eq!(fetched.unwrap().size, 3 * MIB as u64);
}

/// Sends its greeting a byte at a time, each one before it would be given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greeting_that_drips_is_closed_in_time() {
    let mut hurried = config(Transport::Tcp);
    hurried.limits.hello_timeout = Duration::from_secs(1);
    let (mut node, honest) = pair_with(hurried, config(Transport::Tcp)).await;
    let liar = Liar::connect(&node).await;
    let (key, victim, mut control) = (liar.key(), liar.victim, liar.streams());
    let _driving = liar.drive();
    let mut dripping = open(&mut control, victim, HELLO, &[0, 0, 4, 0]).await.unwrap();
    let mut every = tokio::time::interval(Duration::from_millis(50));
    let drip = async {
        while dripping.write_all(b"y").await.is_ok() && dripping.flush().await.is_ok() {
            every.tick().await;
        }
    };
    soon(drip).await;
    let refused = Seen::Refused(key, RefusedWhy::HelloTimeout);
    node.until(|s| *s == refused).await;
    // That took time, in which the honest peer said nothing at all: no fault of its.
    let info = node.info(honest.me).await.unwrap();
    assert!(info.admitted && info.score >= 0 && info.banned.is_none(), "{info:?}");
    serves(&mut node, &honest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_banned_gets_nothing() {
    let (mut node, honest) = pair(Transport::Tcp).await;
    let mut liar = Liar::connect(&node).await;
    liar.be_admitted().await;
    for _ in 0..5 {
        liar.message(vec![0xff; 8]).await;
    }
    let ended = Seen::Disconnected(liar.key());
    node.until(|s| *s == ended).await;
    assert!(node.info(liar.key()).await.unwrap().banned.is_some());
    for _ in 0..3 {
        assert!(!liar.is_heard_again(&node).await);
    }
    let refused = Seen::Refused(liar.key(), RefusedWhy::Banned);
    node.until(|s| *s == refused).await;
    let greetings =
        node.log.iter().filter(|s| matches!(s, Seen::Hello(from, _) if *from == liar.key()));
    assert_eq!(greetings.count(), 1, "the one before the ban");
    serves(&mut node, &honest).await;
}

/// What is not framed as the protocol says ends the stream, and costs the others nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_are_none_are_not_answered() {
    let (mut node, honest) = pair(Transport::Tcp).await;
    let mut liar = Liar::connect(&node).await;
    liar.be_admitted().await;
    let cut = framed(b"whole")[..6].to_vec();
    for bytes in [vec![], vec![0], cut, frame(9, b"no kind of message")[..3].to_vec()] {
        assert_eq!(liar.message(bytes).await, None);
    }
    assert_eq!(liar.message(framed(b"whole")).await, Some(framed(&[0])));
    let whole = Seen::Message(liar.key(), b"whole".to_vec());
    node.until(|s| *s == whole).await;
    serves(&mut node, &honest).await;
}

/// The application reads nothing any more, and one peer sends as much as it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_peer_does_not_fill_the_room_of_all() {
    let mut small = config(Transport::Tcp);
    small.limits.message_memory_bytes = 8 << 20;
    let (greedy, honest) = (Node::start(Transport::Tcp).await, Node::start(Transport::Tcp).await);
    let (busy, mut events) = fabric::start(small, Sources::default()).unwrap();
    for peer in [&greedy, &honest] {
        busy.connect(peer.me, peer.addresses.clone(), Some(b"yes".to_vec())).await.unwrap();
        soon(events.recv()).await.unwrap();
    }
    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.push(soon(greedy.fabric.send(busy.me(), vec![b'g'; MIB])).await);
    }
    let full = Err(SendError::Busy { peer: busy.me() });
    assert_eq!(taken, [Ok(()), Ok(()), full.clone(), full.clone()], "a quarter of the room");
    assert_eq!(soon(honest.fabric.send(busy.me(), vec![b'h'; MIB])).await, Ok(()));
    // What the application has read makes room again.
    while !matches!(soon(events.recv()).await.unwrap(), Event::Message { .. }) {}
    assert_eq!(soon(greedy.fabric.send(busy.me(), vec![b'g'; MIB])).await, Ok(()));
}
