//! Peers that lie about tunnels, over TCP: what they say is the same everywhere.

use std::io::ErrorKind;
use std::time::Duration;

use fabric::{Tunnel, TunnelError};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{Stream, StreamProtocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::liars::Liar;
use crate::support::{FAR_BYTES, Node, Transport, config, eventually};
use crate::tunnels::{is_cut, is_dropped, soon, still};

const TUNNEL: StreamProtocol = StreamProtocol::new("/opencloud/tunnel/1");

/// A node, a liar that it has admitted, and a stream of the liar with these bytes on it.
async fn lie(bytes: &[u8]) -> (Node, fabric::PeerKey, Stream, tokio::task::JoinSet<()>) {
    let node = Node::start(Transport::Tcp).await;
    let mut liar = Liar::connect(&node).await;
    liar.be_admitted().await;
    let (key, victim, mut streams) = (liar.key(), liar.victim, liar.streams());
    let driving = liar.drive();
    let mut stream = soon(streams.open_stream(victim, TUNNEL)).await.unwrap();
    soon(stream.write_all(bytes)).await.unwrap();
    soon(stream.flush()).await.unwrap();
    (node, key, stream, driving)
}

async fn rest_of(stream: &mut Stream) -> Vec<u8> {
    let mut rest = Vec::new();
    // How the other side ends it does not matter, only what it said.
    let _reset_or_end = soon(stream.read_to_end(&mut rest)).await;
    rest
}

#[tokio::test]
async fn a_request_that_announces_too_much_is_not_read_and_is_an_offence() {
    let (mut node, liar, mut stream, _driving) = lie(&[0x04, 0x01, b'y', b'y']).await;
    assert_eq!(rest_of(&mut stream).await, [3]);
    eventually("it is an offence", async || {
        node.info(liar).await.is_some_and(|info| info.score < 0)
    })
    .await;
    assert!(!node.has_far_end());
}

#[tokio::test]
async fn a_request_that_is_cut_is_not_judged() {
    let (mut node, _, mut stream, _driving) = lie(&[0, 5, b'y', b'e']).await;
    soon(stream.close()).await.unwrap();
    assert!(rest_of(&mut stream).await.is_empty());
    assert!(!node.has_far_end());
}

#[tokio::test]
async fn a_stream_that_closes_without_an_end_is_a_cut() {
    let (mut node, _, mut stream, _driving) = lie(&[0, 1, b'y', 1, 0, 5, b'h', b'e']).await;
    let mut far = node.far_end().await;
    soon(stream.close()).await.unwrap();
    let mut got = [0; 2];
    soon(far.io.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"he");
    is_dropped(&mut far).await;
    // The answer that had begun is not made to look whole.
    assert_eq!(rest_of(&mut stream).await, [0]);
}

#[tokio::test]
async fn who_is_not_admitted_gets_no_tunnel_and_no_answer() {
    let mut hurried = config(Transport::Tcp);
    hurried.limits.hello_timeout = Duration::from_millis(700);
    let mut node = Node::with(hurried).await;
    let mut liar = Liar::connect(&node).await;
    let (victim, mut streams) = (liar.victim, liar.streams());
    let asking = tokio::spawn(async move {
        let mut stream = streams.open_stream(victim, TUNNEL).await.unwrap();
        stream.write_all(&[0, 1, b'y']).await.unwrap();
        stream.flush().await.unwrap();
        rest_of(&mut stream).await
    });
    liar.closed().await;
    assert!(soon(asking).await.unwrap().is_empty());
    assert!(!node.has_far_end());
}

#[tokio::test]
async fn an_opener_that_breaks_the_protocol_is_cut_and_it_is_an_offence() {
    // Something that is no frame, an empty chunk, no credit at all, an end with a number, a chunk and an end after the end.
    let nonsense: [&[u8]; 6] = [
        &[3, 0, 1],
        &[1, 0, 0],
        &[2, 0, 0],
        &[0, 1, 0],
        &[0, 0, 0, 1, 0, 1, b'x'],
        &[0, 0, 0, 0, 0, 0],
    ];
    for frames in nonsense {
        let (mut node, liar, _stream, _driving) = lie(&[b"\0\x01y", frames].concat()).await;
        let mut far = node.far_end().await;
        // After an end of the peer only a writer without credit looks for what comes.
        let writing = async { while far.io.write_all(&[7; 1000]).await.is_ok() {} };
        soon(writing).await;
        eventually("it is an offence", async || {
            node.info(liar).await.is_some_and(|info| info.score < 0)
        })
        .await;
    }
}

#[tokio::test]
async fn who_takes_no_notice_of_credit_fills_nothing_but_its_own_stream() {
    let (mut node, liar, mut stream, _driving) = lie(b"\0\x01y").await;
    let mut far = node.far_end().await;
    let chunk = [&[1, 0xf0, 0][..], &[7; 0xf000]].concat();
    let mut flood = Box::pin(async { while stream.write_all(&chunk).await.is_ok() {} });
    let watched = [far.bytes.clone()];
    tokio::select! {
        () = &mut flood => panic!("what is not looked at is not judged"),
        () = still(&watched, FAR_BYTES as u64) => {}
    }
    // The far end, a chunk on its way there, and nothing that was not read.
    let received = far.bytes.received();
    assert!(received <= FAR_BYTES as u64 + 0xf000, "{received}");
    // A writer without credit has to look past all of it, and finds more than there is room for.
    let writing = async { while far.io.write_all(&[7; 1000]).await.is_ok() {} };
    soon(async { tokio::join!(flood, writing) }).await;
    eventually("it is an offence", async || {
        node.info(liar).await.is_some_and(|info| info.score < 0)
    })
    .await;
}

struct Told {
    tunnel: Result<Tunnel, TunnelError>,
    n_asked: usize,
    node: Node,
    /// The liar, and its streams.
    _alive: (tokio::task::JoinSet<()>, Vec<Stream>),
}

/// What a node hears that asks a liar for a tunnel, which answers each stream with the next of these.
async fn lied_to(answers: &'static [&'static [u8]]) -> Told {
    let node = Node::start(Transport::Tcp).await;
    let mut liar = Liar::connect(&node).await;
    let mut incoming = liar.streams().accept(TUNNEL).unwrap();
    liar.be_admitted().await;
    let key = liar.key();
    let driving = liar.drive();
    let answering = tokio::spawn(async move {
        let mut n_asked = 0;
        let mut held = Vec::new();
        for answer in answers {
            let (_, mut stream) = incoming.next().await.unwrap();
            let mut request = [0; 5];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(&request, b"\0\x03yes");
            n_asked += 1;
            if !answer.is_empty() {
                stream.write_all(answer).await.unwrap();
                stream.close().await.unwrap();
                held.push(stream);
            }
        }
        (n_asked, held)
    });
    eventually("the liar is admitted", async || {
        node.info(key).await.is_some_and(|info| info.admitted)
    })
    .await;
    let tunnel = soon(node.fabric.tunnel(key, b"yes".to_vec())).await;
    let (n_asked, held) = soon(answering).await.unwrap();
    Told { tunnel, n_asked, node, _alive: (driving, held) }
}

#[tokio::test]
async fn an_acceptor_that_talks_nonsense_is_not_believed() {
    let told = lied_to(&[&[9]]).await.tunnel;
    assert!(matches!(told, Err(TunnelError::Malformed { status: 9, .. })), "{told:?}");
    // A reason that is cut.
    let told = lied_to(&[&[1, 200, b'n'], &[1], &[1, 3, b'n', b'o'], &[1], &[1]]).await.tunnel;
    assert!(matches!(told, Err(TunnelError::Lost { .. })), "{told:?}");
    // A yes, and what is no frame: an offence too.
    let mut told = lied_to(&[&[0, 7, 7, 7]]).await;
    let error = soon(told.tunnel.as_mut().unwrap().read(&mut [0; 9])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    eventually("it is an offence", async || {
        told.node.fabric.peers().await.iter().any(|peer| peer.score < 0)
    })
    .await;
    // A yes, and a chunk that is cut.
    let mut told = lied_to(&[&[0, 1, 0, 5, b'h', b'i']]).await;
    is_cut(told.tunnel.as_mut().unwrap()).await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_unread_is_asked_for_again_but_not_for_ever() {
    const NOTHING: [&[u8]; 5] = [&[]; 5];
    let mut told = lied_to(&[&[], &[0, 1, 0, 2, b'h', b'i', 0, 0, 0]]).await;
    let mut got = Vec::new();
    soon(told.tunnel.as_mut().unwrap().read_to_end(&mut got)).await.unwrap();
    assert_eq!((&got[..], told.n_asked), (&b"hi"[..], 2));
    let told = lied_to(&NOTHING).await;
    assert!(matches!(told.tunnel, Err(TunnelError::Lost { .. })), "{:?}", told.tunnel);
    assert_eq!(told.n_asked, 5);
}
