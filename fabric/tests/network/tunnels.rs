//! Tunnels over real connections on loopback, TCP and QUIC.

use std::io::{self, ErrorKind};
use std::sync::atomic::Ordering;
use std::time::Duration;

use fabric::tunnel::{TUNNEL_REASON_MAX, TUNNEL_REQUEST_MAX};
use fabric::{Tunnel, TunnelBytes, TunnelEnd, TunnelError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::support::{
    DEADLINE, FAR_BYTES, Node, Opened, Transport, config, eventually, pair, suite,
};

suite![
    a_tunnel_carries_64_mib_each_way_at_once,
    each_direction_ends_by_itself,
    what_comes_first_from_the_far_end_arrives,
    a_refusal_gives_its_reason_and_no_more_of_it_than_fits,
    who_is_busy_says_so,
    a_request_is_as_long_as_it_may_be_and_no_longer,
    a_tunnel_needs_an_admitted_peer,
    many_tunnels_at_once_do_not_mix,
    a_tunnel_that_is_dropped_is_cut_and_not_ended,
    a_far_end_that_fails_cuts_the_tunnel_even_after_half_an_answer,
    an_application_can_give_a_tunnel_up,
    an_opener_that_goes_ends_its_tunnels_even_where_nothing_can_move,
    a_node_that_goes_in_the_middle_of_sending_is_missed_at_once,
    an_acceptor_that_goes_ends_its_tunnels,
    the_bytes_of_a_tunnel_are_counted_on_both_sides,
];

/// Bytes in which no two stretches look the same.
fn pattern(seed: u64, n: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(n + 8);
    while bytes.len() < n {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes()[..6]);
    }
    bytes.truncate(n);
    bytes
}

/// A tunnel from the first to the second, and its far end.
pub(crate) async fn tunnel(from: &Node, to: &mut Node) -> (Tunnel, Opened) {
    let tunnel = from.fabric.tunnel(to.me, b"yes".to_vec()).await.unwrap();
    (tunnel, to.far_end().await)
}

pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(DEADLINE, what).await.expect("it happens in time")
}

/// Resolves when at least so many bytes have moved in each of these, and then nothing for a while.
pub(crate) async fn still(all: &[TunnelBytes], at_least: u64) {
    let (mut before, mut n_same) = (0, 0);
    eventually("nothing moves any more", async || {
        let moved = all.iter().map(|bytes| bytes.sent() + bytes.received());
        let now = moved.clone().sum();
        n_same = if now == before { n_same + 1 } else { 0 };
        before = now;
        n_same > 10 && moved.min() >= Some(at_least)
    })
    .await;
}

/// Writes all and ends; reads all up to the end.
async fn exchange<T: tokio::io::AsyncRead + tokio::io::AsyncWrite>(
    io: T,
    send: &[u8],
) -> io::Result<Vec<u8>> {
    let (mut read, mut write) = tokio::io::split(io);
    let mut got = Vec::new();
    let sending = async {
        write.write_all(send).await?;
        write.shutdown().await
    };
    tokio::try_join!(sending, read.read_to_end(&mut got))?;
    Ok(got)
}

async fn a_tunnel_carries_64_mib_each_way_at_once(t: Transport) {
    let (a, mut b) = pair(t).await;
    let (near, far) = tunnel(&a, &mut b).await;
    assert_eq!((far.peer, &far.request[..]), (a.me, &b"yes"[..]));
    let (there, back) = (pattern(1, 64 << 20), pattern(2, (64 << 20) + 13));
    let far_bytes = far.bytes.clone();
    let near_bytes = near.bytes();
    let both = async { tokio::try_join!(exchange(near, &there), exchange(far.io, &back)) };
    let (got_back, got_there) = timeout(4 * DEADLINE, both).await.unwrap().unwrap();
    assert!(got_there == there && got_back == back);
    let (there, back) = (there.len() as u64, back.len() as u64);
    assert_eq!((near_bytes.sent(), near_bytes.received()), (there, back));
    assert_eq!((far_bytes.sent(), far_bytes.received()), (back, there));
}

async fn each_direction_ends_by_itself(t: Transport) {
    let (a, mut b) = pair(t).await;
    // A question that is complete before the answer begins.
    let (mut near, mut far) = tunnel(&a, &mut b).await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let mut question = Vec::new();
    soon(far.io.read_to_end(&mut question)).await.unwrap();
    assert!(far.is_ended.load(Ordering::Relaxed));
    far.io.write_all(b"answer").await.unwrap();
    far.io.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon(near.read_to_end(&mut answer)).await.unwrap();
    assert_eq!((&question[..], &answer[..]), (&b"question"[..], &b"answer"[..]));
    // A far end that has nothing to say, but listens.
    let (mut near, mut far) = tunnel(&a, &mut b).await;
    far.io.shutdown().await.unwrap();
    assert_eq!(soon(near.read(&mut [0; 9])).await.unwrap(), 0);
    near.write_all(b"still here").await.unwrap();
    near.shutdown().await.unwrap();
    let mut got = Vec::new();
    soon(far.io.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"still here");
}

async fn what_comes_first_from_the_far_end_arrives(t: Transport) {
    let (a, mut b) = pair(t).await;
    let (mut near, mut far) = tunnel(&a, &mut b).await;
    far.io.write_all(b"220 ready").await.unwrap();
    let mut banner = [0; 9];
    soon(near.read_exact(&mut banner)).await.unwrap();
    assert_eq!(&banner, b"220 ready");
    // One byte and a flush is enough to be on the way.
    near.write_all(b"?").await.unwrap();
    near.flush().await.unwrap();
    let mut one = [0; 1];
    soon(far.io.read_exact(&mut one)).await.unwrap();
    assert_eq!(&one, b"?");
}

async fn a_refusal_gives_its_reason_and_no_more_of_it_than_fits(t: Transport) {
    let (a, b) = pair(t).await;
    let refused = async |reason: &str| {
        let request = [b"n", reason.as_bytes()].concat();
        match a.fabric.tunnel(b.me, request).await.unwrap_err() {
            TunnelError::Refused { peer, reason } if peer == b.me => reason,
            other => panic!("{other}"),
        }
    };
    assert_eq!(refused("no such service").await, "no such service");
    assert_eq!(refused("").await, "");
    assert_eq!(refused("in\x1b[2J\nsult").await, "in[2Jsult");
    assert_eq!(refused(&"x".repeat(1000)).await, "x".repeat(TUNNEL_REASON_MAX));
}

async fn who_is_busy_says_so(t: Transport) {
    let (a, b) = pair(t).await;
    let error = a.fabric.tunnel(b.me, b"busy?".to_vec()).await.unwrap_err();
    assert!(matches!(error, TunnelError::Busy { peer } if peer == b.me), "{error}");
    assert!(error.is_retryable());
}

async fn a_request_is_as_long_as_it_may_be_and_no_longer(t: Transport) {
    let (a, mut b) = pair(t).await;
    let longest = pattern(3, TUNNEL_REQUEST_MAX);
    let longest = [b"y", &longest[1..]].concat();
    let _near = a.fabric.tunnel(b.me, longest.clone()).await.unwrap();
    assert!(b.far_end().await.request == longest);
    let error = a.fabric.tunnel(b.me, [&longest[..], b"!"].concat()).await.unwrap_err();
    assert!(matches!(error, TunnelError::RequestTooLong { bytes: 1025 }), "{error}");
    // An empty request is a request.
    let _near = a.fabric.tunnel(b.me, Vec::new()).await.unwrap();
    assert!(b.far_end().await.request.is_empty());
}

async fn a_tunnel_needs_an_admitted_peer(t: Transport) {
    let (a, mut b) = (Node::start(t).await, Node::start(t).await);
    let error = a.fabric.tunnel(b.me, b"yes".to_vec()).await.unwrap_err();
    assert!(matches!(error, TunnelError::NotConnected { .. }), "{error}");
    // Connected and accepted by the other side, but not by this one.
    let introduced = a.fabric.introduce(b.me, b.addresses.clone(), None).await.unwrap();
    for (from, to) in [(&a, b.me), (&b, a.me)] {
        let error = from.fabric.tunnel(to, b"yes".to_vec()).await.unwrap_err();
        assert!(matches!(error, TunnelError::NotConnected { .. }), "{error}");
    }
    introduced.admit().await.unwrap();
    tunnel(&a, &mut b).await;
    let other = a.fabric.clone();
    a.fabric.shutdown().await;
    let error = other.tunnel(b.me, b"yes".to_vec()).await.unwrap_err();
    assert!(matches!(error, TunnelError::Stopped), "{error}");
}

async fn many_tunnels_at_once_do_not_mix(t: Transport) {
    let (a, mut b) = pair(t).await;
    // As many as one peer may have, all asked for at the same moment.
    let n = config(t).limits.tunnels_in_per_peer as usize;
    let opening = (0..n).map(|i| {
        let (fabric, to) = (a.fabric.clone(), b.me);
        tokio::spawn(async move { fabric.tunnel(to, format!("y{i}").into_bytes()).await })
    });
    let opening: Vec<_> = opening.collect();
    let mut near = Vec::new();
    for tunnel in opening {
        near.push(soon(tunnel).await.unwrap().unwrap());
    }
    let mut work = Vec::new();
    for _ in 0..n {
        let far = b.far_end().await;
        let i: u64 = std::str::from_utf8(&far.request[1..]).unwrap().parse().unwrap();
        work.push(tokio::spawn(async move {
            let got = exchange(far.io, &pattern(i + 1000, 100_000)).await.unwrap();
            assert!(got == pattern(i, 100_000), "{i}");
        }));
    }
    for (i, tunnel) in near.into_iter().enumerate() {
        work.push(tokio::spawn(async move {
            let got = exchange(tunnel, &pattern(i as u64, 100_000)).await.unwrap();
            assert!(got == pattern(i as u64 + 1000, 100_000), "{i}");
        }));
    }
    for done in work {
        soon(done).await.unwrap();
    }
}

/// The far end is dropped: what the application sees of a cut.
pub(crate) async fn is_dropped(far: &mut Opened) {
    let mut got = Vec::new();
    soon(far.io.read_to_end(&mut got)).await.unwrap();
    // A duplex shows the drop of its other half as the end of reading and a broken pipe in writing.
    let error = soon(far.io.write_all(&[0; FAR_BYTES])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert!(!far.is_ended.load(Ordering::Relaxed), "a cut is not told as an end");
}

pub(crate) async fn is_cut(near: &mut Tunnel) {
    let mut got = Vec::new();
    let error = soon(near.read_to_end(&mut got)).await.unwrap_err();
    let kinds = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::NotConnected];
    assert!(kinds.contains(&error.kind()), "{error:?}");
}

async fn a_tunnel_that_is_dropped_is_cut_and_not_ended(t: Transport) {
    let (a, mut b) = pair(t).await;
    let (mut near, mut far) = tunnel(&a, &mut b).await;
    near.write_all(b"half a que").await.unwrap();
    near.flush().await.unwrap();
    let mut half = [0; 10];
    soon(far.io.read_exact(&mut half)).await.unwrap();
    drop(near);
    is_dropped(&mut far).await;
    // Also when the far end has ended its direction, where yamux closes a dropped stream as if it were complete.
    let (near, mut far) = tunnel(&a, &mut b).await;
    far.io.shutdown().await.unwrap();
    drop(near);
    is_dropped(&mut far).await;
}

async fn a_far_end_that_fails_cuts_the_tunnel_even_after_half_an_answer(t: Transport) {
    let (a, mut b) = pair(t).await;
    let (mut near, mut far) = tunnel(&a, &mut b).await;
    // The opener is done: a stream that is dropped now looks complete to yamux.
    near.shutdown().await.unwrap();
    far.io.write_all(b"half an ans").await.unwrap();
    let mut half = [0; 11];
    soon(near.read_exact(&mut half)).await.unwrap();
    far.cut.cancel();
    is_cut(&mut near).await;
    // A far end that takes nothing any more.
    let (mut near, far) = tunnel(&a, &mut b).await;
    drop(far.io);
    let writing = async {
        loop {
            near.write_all(&[0; 1000]).await?;
        }
    };
    let written: io::Result<()> = soon(writing).await;
    written.unwrap_err();
}

async fn an_application_can_give_a_tunnel_up(t: Transport) {
    let (a, mut b) = pair(t).await;
    let (mut near, mut far) = tunnel(&a, &mut b).await;
    far.cut.cancel();
    is_cut(&mut near).await;
    is_dropped(&mut far).await;
}

/// A peer that is not told that a node shuts down notices after 30 s.
const TOLD: Duration = Duration::from_secs(15);

async fn an_opener_that_goes_ends_its_tunnels_even_where_nothing_can_move(t: Transport) {
    let (a, mut b) = pair(t).await;
    let (mut near, mut far) = tunnel(&a, &mut b).await;
    let (_idle_near, mut idle_far) = tunnel(&a, &mut b).await;
    // The far end reads nothing, so that the acceptor is stuck with its hands full and looks at no stream.
    let stuck = async { while near.write_all(&[1; 10_000]).await.is_ok() {} };
    let watched = [far.bytes.clone()];
    tokio::select! {
        () = stuck => panic!("the tunnel is not cut yet"),
        () = still(&watched, FAR_BYTES as u64) => {}
    }
    a.fabric.shutdown().await;
    let gone = timeout(TOLD, idle_far.io.read(&mut [0])).await.unwrap();
    assert_eq!(gone.unwrap(), 0);
    is_dropped(&mut idle_far).await;
    // What waits to be read is not touched, and nothing is sent: only the drop of the other half can show here.
    eventually("the far end is let go", async || far.io.write(&[]).await.is_err()).await;
}

/// A close on QUIC is held back while the path is full.
async fn a_node_that_goes_in_the_middle_of_sending_is_missed_at_once(t: Transport) {
    for is_opener in [true, false] {
        let (a, mut b) = pair(t).await;
        let mut sending = tokio::task::JoinSet::new();
        let mut ends = Vec::new();
        for _ in 0..4 {
            let (near, far) = tunnel(&a, &mut b).await;
            let count = near.bytes();
            let (mut from, mut to) = if is_opener {
                (Box::new(near) as Box<dyn TunnelEnd>, Box::new(far.io) as Box<dyn TunnelEnd>)
            } else {
                (Box::new(far.io) as Box<dyn TunnelEnd>, Box::new(near) as Box<dyn TunnelEnd>)
            };
            sending.spawn(async move { while from.write_all(&[1; 100_000]).await.is_ok() {} });
            let reading = tokio::spawn(async move {
                let mut into = tokio::io::sink();
                // How it ends is told by others; here it matters when.
                let _end_or_cut = tokio::io::copy(&mut to, &mut into).await;
            });
            ends.push((count, reading));
        }
        for (count, _) in &ends {
            eventually("it is in the middle", async || count.sent() + count.received() > 4 << 20)
                .await;
        }
        let begun = std::time::Instant::now();
        if is_opener {
            a.fabric.shutdown().await
        } else {
            b.fabric.shutdown().await
        }
        for (_, reading) in ends {
            timeout(TOLD, reading).await.unwrap().unwrap();
        }
        assert!(begun.elapsed() < TOLD);
    }
}

async fn an_acceptor_that_goes_ends_its_tunnels(t: Transport) {
    let (a, mut b) = pair(t).await;
    let (mut reading, mut far) = tunnel(&a, &mut b).await;
    let (mut writing, _unread) = tunnel(&a, &mut b).await;
    b.fabric.clone().shutdown().await;
    is_cut(&mut reading).await;
    is_dropped(&mut far).await;
    let written: io::Result<()> = soon(async {
        loop {
            writing.write_all(&[0; 1000]).await?;
        }
    })
    .await;
    written.unwrap_err();
    let error = soon(a.fabric.tunnel(b.me, b"yes".to_vec())).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

async fn the_bytes_of_a_tunnel_are_counted_on_both_sides(t: Transport) {
    let (a, mut b) = pair(t).await;
    let (near, far) = tunnel(&a, &mut b).await;
    let (asked, answered) = (vec![1; 3_000_000], vec![2; 70_000]);
    tokio::try_join!(exchange(near, &asked), exchange(far.io, &answered)).unwrap();
    assert_eq!((far.bytes.received(), far.bytes.sent()), (3_000_000, 70_000));
    eventually("both count them in the peer's standing", async || {
        let (of_b, of_a) = (a.info(b.me).await.unwrap(), b.info(a.me).await.unwrap());
        let all = (of_b.bytes_out, of_b.bytes_in, of_a.bytes_in, of_a.bytes_out);
        all == (3_000_000, 70_000, 3_000_000, 70_000)
    })
    .await;
}

/// A process that is killed says nothing: its sockets close, or not even that.
#[test]
fn a_peer_that_dies_without_a_word_ends_its_tunnels() {
    let dying = tokio::runtime::Runtime::new().unwrap();
    let living = tokio::runtime::Runtime::new().unwrap();
    let a = dying.block_on(Node::start(Transport::Tcp));
    let mut b = living.block_on(Node::start(Transport::Tcp));
    let near = dying.block_on(async {
        a.connect(&b).await;
        a.fabric.tunnel(b.me, b"yes".to_vec()).await.unwrap()
    });
    dying.shutdown_background();
    living.block_on(async {
        let mut far = b.far_end().await;
        is_dropped(&mut far).await;
        b.disconnected(a.me).await;
    });
    // Only now: dropping it would have cut the tunnel.
    drop((near, a));
}
