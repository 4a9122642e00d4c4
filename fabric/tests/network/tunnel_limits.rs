//! The bounds of tunnels, over TCP and QUIC.

use std::time::Duration;

use fabric::{Limits, Tunnel, TunnelBytes, TunnelError};
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use crate::support::{
    FAR_BYTES, Node, Opened, Seen, Transport, config, eventually, pair, pair_with, suite,
};
use crate::tunnels::{is_cut, is_dropped, soon, still, tunnel};

suite![
    no_peer_has_more_tunnels_than_its_share,
    all_peers_together_have_no_more_tunnels_than_the_bound,
    a_node_opens_no_more_tunnels_than_it_may,
    a_tunnel_that_nobody_decides_about_is_not_waited_for,
    an_idle_tunnel_is_cut_and_a_busy_one_is_not,
    a_tunnel_that_nobody_reads_takes_no_more_than_its_window,
    tunnels_that_nobody_reads_hold_up_nobody_else,
];

async fn no_peer_has_more_tunnels_than_its_share(t: Transport) {
    let mut small = config(t);
    small.limits.tunnels_in_per_peer = 2;
    let (a, mut b) = pair_with(config(t), small).await;
    let c = Node::start(t).await;
    c.connect(&b).await;
    let first = tunnel(&a, &mut b).await;
    let second = tunnel(&a, &mut b).await;
    let error = a.fabric.tunnel(b.me, b"yes".to_vec()).await.unwrap_err();
    assert!(matches!(error, TunnelError::Busy { .. }), "{error}");
    // Others are not touched, and an ended tunnel makes room.
    tunnel(&c, &mut b).await;
    drop(first);
    eventually("there is room again", async || {
        a.fabric.tunnel(b.me, b"yes".to_vec()).await.is_ok()
    })
    .await;
    drop(second);
}

async fn all_peers_together_have_no_more_tunnels_than_the_bound(t: Transport) {
    let mut small = config(t);
    small.limits.tunnels_in = 3;
    let (a, mut b) = pair_with(config(t), small).await;
    let c = Node::start(t).await;
    c.connect(&b).await;
    let one = tunnel(&a, &mut b).await;
    let others = (tunnel(&a, &mut b).await, tunnel(&c, &mut b).await);
    for from in [&a, &c] {
        let error = from.fabric.tunnel(b.me, b"yes".to_vec()).await.unwrap_err();
        assert!(matches!(error, TunnelError::Busy { .. }), "{error}");
    }
    drop(one);
    eventually("there is room again", async || {
        c.fabric.tunnel(b.me, b"yes".to_vec()).await.is_ok()
    })
    .await;
    drop(others);
}

async fn a_node_opens_no_more_tunnels_than_it_may(t: Transport) {
    let mut small = config(t);
    small.limits.tunnels_out = 1;
    let (a, mut b) = pair_with(small, config(t)).await;
    let one = tunnel(&a, &mut b).await;
    let error = a.fabric.tunnel(b.me, b"yes".to_vec()).await.unwrap_err();
    assert!(matches!(error, TunnelError::TooMany { limit: 1 }), "{error}");
    drop(one);
    tunnel(&a, &mut b).await;
    // To one peer, where there is still room for others.
    let mut small = config(t);
    (small.limits.tunnels_out, small.limits.tunnels_out_per_peer) = (9, 2);
    let (a, mut b) = pair_with(small, config(t)).await;
    let mut c = Node::start(t).await;
    a.connect(&c).await;
    let both = (tunnel(&a, &mut b).await, tunnel(&a, &mut b).await);
    let error = a.fabric.tunnel(b.me, b"yes".to_vec()).await.unwrap_err();
    assert!(matches!(error, TunnelError::TooMany { limit: 2 }), "{error}");
    tunnel(&a, &mut c).await;
    drop(both);
    tunnel(&a, &mut b).await;
}

async fn a_tunnel_that_nobody_decides_about_is_not_waited_for(t: Transport) {
    let mut hurried = config(t);
    hurried.limits.tunnel_decision = Duration::from_millis(200);
    let (a, b) = pair_with(config(t), hurried).await;
    let error = soon(a.fabric.tunnel(b.me, b"hold".to_vec())).await.unwrap_err();
    assert!(matches!(error, TunnelError::Busy { .. }), "{error}");
    // Who does not even say that it is too late is not waited for either.
    let mut impatient = config(t);
    impatient.limits.tunnel_decision = Duration::from_millis(200);
    let (a, b) = pair_with(impatient, config(t)).await;
    let error = soon(a.fabric.tunnel(b.me, b"hold".to_vec())).await.unwrap_err();
    assert!(matches!(error, TunnelError::Timeout { .. }), "{error}");
}

async fn an_idle_tunnel_is_cut_and_a_busy_one_is_not(t: Transport) {
    let idle = Duration::from_millis(1500);
    let mut strict = config(t);
    strict.limits.tunnel_idle = idle;
    let (a, mut b) = pair_with(config(t), strict).await;
    let (mut near, mut far) = tunnel(&a, &mut b).await;
    let (mut silent, mut silent_far) = tunnel(&a, &mut b).await;
    let begun = std::time::Instant::now();
    let (mut n, mut one) = (0_u32, [0]);
    // One direction is enough, the other stays silent.
    while begun.elapsed() < 2 * idle {
        near.write_all(b".").await.unwrap();
        near.flush().await.unwrap();
        soon(far.io.read_exact(&mut one)).await.unwrap();
        n += 1;
        tokio::time::sleep(idle / 20).await;
    }
    assert!(n > 1);
    is_cut(&mut silent).await;
    is_dropped(&mut silent_far).await;
    is_cut(&mut near).await;
}

/// What certainly goes into a first window, its heads aside.
const FIRST: u64 = 60 << 10;
/// Bytes in the hands of an acceptor whose far end takes no more: there, and on the way there.
const HELD: u64 = 2 * FAR_BYTES as u64;

async fn a_tunnel_that_nobody_reads_takes_no_more_than_its_window(t: Transport) {
    let (a, mut b) = pair(t).await;
    let (mut near, far) = tunnel(&a, &mut b).await;
    // A quarter of what tunnels with a peer share, and the first window.
    let window = u64::from(Limits::default().tunnel_window_bytes / 4) + (64 << 10);
    let count = near.bytes();
    let flood = async { while near.write_all(&[1; 10_000]).await.is_ok() {} };
    let watched = [count.clone()];
    tokio::select! {
        () = flood => panic!("the tunnel was cut"),
        () = still(&watched, FIRST) => {}
    }
    let sent = count.sent();
    assert!(sent <= window + HELD, "{sent}");
    // The other way nobody holds anything but the opener's window, which never grew.
    let Opened { mut io, bytes, .. } = far;
    let flood = async { while io.write_all(&[1; 10_000]).await.is_ok() {} };
    let watched = [bytes.clone()];
    tokio::select! {
        () = flood => panic!("the tunnel was cut"),
        () = still(&watched, bytes.received() + FIRST) => {}
    }
    assert!(bytes.sent() <= 64 << 10, "{}", bytes.sent());
}

async fn tunnels_that_nobody_reads_hold_up_nobody_else(t: Transport) {
    let (mut a, mut b) = pair(t).await;
    let n = Limits::default().tunnels_in_per_peer as usize - 1;
    // As many as there may be, whoever opened them, all full in the same direction.
    let mut floods = tokio::task::JoinSet::new();
    let mut unread: (Vec<Opened>, Vec<Tunnel>) = Default::default();
    let mut counts: Vec<TunnelBytes> = Vec::new();
    for _ in 0..n {
        let (mut near, far) = tunnel(&a, &mut b).await;
        counts.push(near.bytes());
        unread.0.push(far);
        floods.spawn(async move { while near.write_all(&[1; 10_000]).await.is_ok() {} });
        let (near, far) = tunnel(&b, &mut a).await;
        counts.push(far.bytes);
        unread.1.push(near);
        let mut io = far.io;
        floods.spawn(async move { while io.write_all(&[1; 10_000]).await.is_ok() {} });
    }
    still(&counts, FIRST).await;
    // Messages, tunnels and all they need go on.
    soon(a.fabric.send(b.me, vec![7; 1 << 20])).await.unwrap();
    b.until(|seen| matches!(seen, Seen::Message(..))).await;
    let (mut near, mut far) = soon(tunnel(&a, &mut b)).await;
    let sent = vec![9; 8 << 20];
    let mut got = Vec::new();
    let sending = async {
        near.write_all(&sent).await?;
        near.shutdown().await
    };
    soon(async { tokio::try_join!(sending, far.io.read_to_end(&mut got)) }).await.unwrap();
    assert!(got == sent);
}
