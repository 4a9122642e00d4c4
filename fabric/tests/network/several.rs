//! One blob from several peers at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use fabric::{FetchError, PeerKey};

use crate::support::{Node, Transport, eventually, suite};

suite!(
    every_peer_gives_a_part_of_a_large_blob,
    peers_that_deny_lack_or_falsify_it_are_left_and_the_others_go_on,
    a_peer_that_goes_in_the_middle_is_replaced,
    a_blob_in_parts_goes_on_where_it_was_dropped,
    when_everyone_fails_everyone_is_named,
);

const MIB: usize = 1 << 20;

fn bytes(n: usize) -> Vec<u8> {
    (0..n)
        .map(|i| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40).to_le_bytes()[0])
        .collect()
}

/// A node that is connected to others, each of which has the blob.
async fn star(t: Transport, n: usize, data: &[u8]) -> (Node, Vec<Node>, [u8; 32]) {
    let mut hub = Node::start(t).await;
    let mut others = Vec::new();
    let mut hash = [0; 32];
    for _ in 0..n {
        let other = Node::start(t).await;
        hub.connect(&other).await;
        hub.connected(other.me).await;
        hash = other.keep(data);
        others.push(other);
    }
    (hub, others, hash)
}

fn keys(nodes: &[Node]) -> Vec<PeerKey> {
    nodes.iter().map(|node| node.me).collect()
}

fn spoil(node: &Node, hash: [u8; 32], at: usize) {
    let path = node.blobs.files.lock().unwrap()[&hash].data.clone();
    let mut wrong = std::fs::read(&path).unwrap();
    wrong[at] ^= 1;
    std::fs::write(&path, wrong).unwrap();
}

async fn every_peer_gives_a_part_of_a_large_blob(t: Transport) {
    let data = bytes(32 * MIB + 5);
    let (hub, others, hash) = star(t, 3, &data).await;
    let into = hub.path("whole");
    let limit = data.len() as u64;
    let last = AtomicU64::new(0);
    let on_progress = |done, total| {
        assert!(total == limit || (done, total) == (0, 0), "{done} of {total}");
        assert!(last.swap(done, Ordering::Relaxed) <= done, "it goes forward");
    };
    let fetched = hub.fabric.fetch(&keys(&others), hash, &into, limit, on_progress).await.unwrap();
    assert!(std::fs::read(&into).unwrap() == data);
    let (_, size, outboard) = fabric::blob::hash_file(&into).unwrap();
    assert_eq!((fetched.size, last.into_inner()), (size, limit));
    assert!(fetched.outboard == outboard, "the outboard is put together of all streams");
    assert!(!hub.path("whole.parts").exists());
    for other in &others {
        eventually("each gave at least a mebibyte", async || {
            hub.info(other.me).await.unwrap().bytes_in >= MIB as u64
        })
        .await;
    }
}

async fn peers_that_deny_lack_or_falsify_it_are_left_and_the_others_go_on(t: Transport) {
    let data = bytes(24 * MIB);
    let (hub, others, hash) = star(t, 4, &data).await;
    others[0].blobs.denied.lock().unwrap().push(hash);
    others[1].blobs.files.lock().unwrap().clear();
    // Wherever it begins, it comes to a wrong group.
    (0..24).for_each(|n| spoil(&others[2], hash, n * MIB + 77));
    let into = hub.path("whole");
    let fetched = hub.fabric.fetch(&keys(&others), hash, &into, 1 << 30, |_, _| {}).await.unwrap();
    assert!(std::fs::read(&into).unwrap() == data);
    assert_eq!(fetched.outboard, fabric::blob::hash_file(&into).unwrap().2);
    eventually("the liar is counted, and nobody else", async || {
        let mut scores = Vec::new();
        for other in &others {
            scores.push(hub.info(other.me).await.unwrap().score);
        }
        scores[2] < 0 && scores[0] >= 0 && scores[1] >= 0 && scores[3] >= 0
    })
    .await;
}

async fn a_peer_that_goes_in_the_middle_is_replaced(t: Transport) {
    let data = bytes(48 * MIB);
    let (hub, mut others, hash) = star(t, 2, &data).await;
    let goes = others.remove(0);
    let from = [goes.me, others[0].me];
    let into = hub.path("whole");
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = Mutex::new(Some(tell));
    let going = tokio::spawn(async move {
        told.await.unwrap();
        goes.fabric.shutdown().await;
    });
    let on_progress = |done, _| {
        if done >= 4 << 20
            && let Some(tell) = tell.lock().unwrap().take()
        {
            tell.send(()).unwrap();
        }
    };
    hub.fabric.fetch(&from, hash, &into, 1 << 30, on_progress).await.unwrap();
    going.await.unwrap();
    assert!(std::fs::read(&into).unwrap() == data);
}

async fn a_blob_in_parts_goes_on_where_it_was_dropped(t: Transport) {
    let data = bytes(48 * MIB + 1);
    let (hub, others, hash) = star(t, 2, &data).await;
    let (from, into) = (keys(&others), hub.path("partial"));
    let there = AtomicU64::new(0);
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = Mutex::new(Some(tell));
    let fetching = hub.fabric.fetch(&from, hash, &into, 1 << 30, |done, _| {
        there.store(done, Ordering::Relaxed);
        if done >= 12 << 20
            && let Some(tell) = tell.lock().unwrap().take()
        {
            tell.send(()).unwrap();
        }
    });
    tokio::select! {
        biased;
        _ = told => {}
        _ = fetching => {}
    }
    let moved = async || {
        let mut moved = 0;
        for other in &others {
            moved += hub.info(other.me).await.unwrap().bytes_in;
        }
        moved
    };
    let there = there.into_inner();
    eventually("what came is counted", async || moved().await >= there).await;
    assert!(hub.path("partial.parts").exists());
    let before = moved().await;
    let fetched = hub.fabric.fetch(&from, hash, &into, 1 << 30, |_, _| {}).await.unwrap();
    assert!(std::fs::read(&into).unwrap() == data);
    assert_eq!(fetched.outboard, fabric::blob::hash_file(&into).unwrap().2);
    assert!(!hub.path("partial.parts").exists());
    let rest = data.len() as u64 - there;
    eventually("the rest is counted", async || moved().await - before >= rest / 2).await;
    let came = moved().await - before;
    assert!(came < rest + (4 << 20), "{came} bytes came for {rest} that were missing");
}

async fn when_everyone_fails_everyone_is_named(t: Transport) {
    let data = bytes(100_000);
    let (hub, others, hash) = star(t, 2, &data).await;
    let stranger = Node::start(t).await;
    others[0].blobs.denied.lock().unwrap().push(hash);
    spoil(&others[1], hash, 50_000);
    let from = [stranger.me, others[0].me, others[1].me];
    let error =
        hub.fabric.fetch(&from, hash, &hub.path("x"), 1 << 30, |_, _| {}).await.unwrap_err();
    let text = error.to_string();
    assert!(from.iter().all(|peer| text.contains(&peer.to_string())), "{text}");
    assert!(error.is_retryable(), "the stranger may come back");
    let large =
        hub.fabric.fetch(&from[1..], hash, &hub.path("y"), 10, |_, _| {}).await.unwrap_err();
    assert_eq!(large.too_large(), Some(100_000));
    let nobody = hub.fabric.fetch(&[], hash, &hub.path("z"), 10, |_, _| {}).await;
    assert!(matches!(nobody, Err(FetchError::Nobody)));
}
