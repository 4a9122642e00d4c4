//! Ranges of blobs in memory, sizes, and what serving is bound to.

use std::time::{Duration, Instant};

use fabric::FetchError;
use fabric::blob::{RATE_MIN, READ_MAX};

use crate::support::{Node, Transport, config, eventually, pair, pair_with, suite};

suite!(
    ranges_of_all_kinds_are_the_blobs_bytes,
    a_corrupted_byte_spoils_its_own_group_alone,
    who_may_not_have_a_blob_reads_nothing_of_it,
);

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 31 + i / 251 + i / 70_000) as u8).collect()
}

async fn ranges_of_all_kinds_are_the_blobs_bytes(t: Transport) {
    let (a, b) = pair(t).await;
    for n in [0, 1, 16_383, 16_384, 16_385, 300_000, 5 << 20] {
        let data = bytes(n);
        let (hash, size) = (b.keep(&data), n as u64);
        assert_eq!(a.fabric.size(b.me, hash).await.unwrap(), size);
        let ends = [(0, 1), (0, size), (size / 2, size / 2 + 70_000), (size, size)];
        for (from, to) in ends.into_iter().chain([(size.saturating_sub(3), size + 9)]) {
            let to = to.min(from + READ_MAX);
            let Ok(got) = a.fabric.read(b.me, hash, from..to).await else {
                panic!("{from}..{to} of {n}");
            };
            let expected = &data[(from as usize).min(n)..(to as usize).min(n)];
            assert!(got == expected, "{from}..{to} of {n}");
        }
    }
    let hash = b.keep(&bytes(100));
    let beyond = a.fabric.read(b.me, hash, 20_000..20_001).await;
    assert!(
        matches!(beyond, Err(FetchError::Outside { size: 100, from: 20_000, .. })),
        "{beyond:?}"
    );
    let long = a.fabric.read(b.me, hash, 0..READ_MAX + 1).await;
    assert!(matches!(long, Err(FetchError::RangeTooLong { .. })), "{long:?}");
    let nobody = a.fabric.read(a.me, hash, 0..1).await;
    assert!(matches!(nobody, Err(FetchError::NotConnected { .. })), "{nobody:?}");
}

async fn a_corrupted_byte_spoils_its_own_group_alone(t: Transport) {
    let (a, b) = pair(t).await;
    let data = bytes(1 << 20);
    let hash = b.keep(&data);
    let path = b.blobs.files.lock().unwrap()[&hash].data.clone();
    let at = 700_000;
    let mut wrong = data.clone();
    wrong[at] ^= 1;
    std::fs::write(&path, &wrong).unwrap();
    let group = at as u64 / 16_384 * 16_384;
    let before = a.fabric.read(b.me, hash, 0..group).await.unwrap();
    assert!(before == data[..group as usize]);
    let after = a.fabric.read(b.me, hash, group + 16_384..1 << 20).await.unwrap();
    assert!(after == data[group as usize + 16_384..]);
    // One byte of the group that nobody asked for spoils it, too.
    let spoilt = a.fabric.read(b.me, hash, group..group + 1).await.unwrap_err();
    assert!(spoilt.is_peer_fault());
    assert!(matches!(spoilt, FetchError::Corrupt { at, .. } if at == group), "{spoilt}");
    assert_eq!(a.fabric.size(b.me, hash).await.unwrap(), 1 << 20);
    // Who says that a file is longer is found out by its end.
    let mut files = b.blobs.files.lock().unwrap().clone();
    let file = fabric::BlobFile { size: (1 << 20) + 1, ..files.remove(&hash).unwrap() };
    let outboard = vec![0; fabric::blob::outboard_bytes(file.size) as usize];
    let file = fabric::BlobFile { outboard: outboard.into(), ..file };
    b.blobs.files.lock().unwrap().insert(hash, file);
    assert!(a.fabric.size(b.me, hash).await.unwrap_err().is_peer_fault());
}

async fn who_may_not_have_a_blob_reads_nothing_of_it(t: Transport) {
    let (a, b) = pair(t).await;
    let hash = b.keep(b"secret");
    b.blobs.denied.lock().unwrap().push(hash);
    let denied = a.fabric.read(b.me, hash, 0..6).await;
    assert!(matches!(denied, Err(FetchError::Denied { .. })), "{denied:?}");
    assert!(matches!(a.fabric.size(b.me, [7; 32]).await, Err(FetchError::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_serves_no_faster_than_its_owner_lets_it_and_shows_to_whom() {
    let mut slow = config(Transport::Tcp);
    slow.limits.blob_rate = Some(RATE_MIN);
    let (a, b): (Node, Node) = pair_with(config(Transport::Tcp), slow).await;
    let data = bytes(RATE_MIN as usize);
    let hash = b.keep(&data);
    let (begun, into) = (Instant::now(), a.path("into"));
    let fetching = async { a.fabric.fetch(&[b.me], hash, &into, 1 << 30, |_, _| {}).await };
    let shown = eventually("it is shown", async || {
        let serving = b.fabric.serving();
        serving.iter().any(|one| one.peer == a.me && one.hash == hash && one.size == RATE_MIN)
    });
    let (fetched, ()) = tokio::join!(fetching, shown);
    fetched.unwrap();
    // The first quarter and the piece that follows may go at once.
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    eventually("nothing is served any more", async || b.fabric.serving().is_empty()).await;
    assert!(std::fs::read(&into).unwrap() == data);
}
