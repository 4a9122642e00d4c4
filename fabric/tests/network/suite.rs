//! One suite over real connections on loopback, TCP and QUIC.

use std::time::Duration;

use crate::support::{Node, Seen, Transport, config, eventually, pair, suite};
use fabric::{
    BlobFile, ConnectError, FetchError, GOSSIP_MAX, MESSAGE_MAX, Offence, PublishError, SendError,
};

suite![
    an_accepted_hello_connects_both_sides_once,
    a_refused_hello_gives_the_reason_and_no_connection,
    a_hello_nobody_answers_times_out,
    a_ticket_is_presented_instead_of_the_usual_hello,
    nothing_flows_before_the_dialler_has_judged_the_reply,
    a_dialler_that_declines_is_never_connected,
    messages_go_both_ways_in_order,
    the_largest_message_arrives_and_a_larger_one_is_refused,
    a_message_needs_an_admitted_peer,
    who_sends_too_often_hears_busy,
    gossip_reaches_admitted_peers_only,
    rejected_gossip_lowers_the_score_and_is_not_passed_on,
    gossip_has_its_bounds,
    a_peer_comes_back_after_a_disconnect,
    two_that_dial_each_other_end_up_connected_once,
    several_connections_are_one_period,
    a_peer_that_starts_afresh_is_disconnected_and_connected,
    a_banned_peer_gets_nothing,
    shutdown_tells_the_peers,
    blobs_of_all_sizes_arrive_whole,
    a_cut_fetch_resumes,
    a_damaged_partial_file_is_fetched_again,
    a_corrupted_source_is_found_within_its_group,
    a_blob_may_be_denied_missing_or_too_large,
    a_fetch_needs_an_admitted_peer,
    bytes_are_counted,
];

fn is_connected(seen: &Seen) -> bool {
    matches!(seen, Seen::Connected(_))
}

async fn an_accepted_hello_connects_both_sides_once(t: Transport) {
    let (mut a, mut b) = pair(t).await;
    let at_a = a.info(b.me).await.unwrap();
    let at_b = b.info(a.me).await.unwrap();
    assert!(at_a.admitted && at_b.admitted);
    assert!(!at_a.inbound && at_b.inbound);
    assert!(!at_a.addresses.is_empty());
    // Again, on the connection that is there: judged again, but not announced again.
    assert_eq!(a.connect(&b).await, b"welcome");
    a.fabric.send(b.me, b"mark".to_vec()).await.unwrap();
    b.until(|s| matches!(s, Seen::Message(..))).await;
    assert_eq!(a.drain().iter().filter(|s| is_connected(s)).count(), 1);
    assert_eq!(b.log.iter().filter(|s| is_connected(s)).count(), 1);
    assert_eq!(b.log.iter().filter(|s| matches!(s, Seen::Hello(..))).count(), 2);
    eventually("a round trip is measured", async || {
        a.info(b.me).await.is_some_and(|i| i.rtt_us.is_some())
    })
    .await;
    let far = a.fabric.round_trips(vec![a.me, b.me]).await;
    assert!(matches!(far[..], [None, Some(_)]), "{far:?}");
}

async fn a_refused_hello_gives_the_reason_and_no_connection(t: Transport) {
    let (mut a, mut b) = (Node::start(t).await, Node::start(t).await);
    let refused = a.fabric.connect(b.me, b.addresses.clone(), Some(b"no".to_vec())).await;
    assert!(matches!(refused, Err(ConnectError::Refused(why)) if why == b"go away"));
    eventually("both forget each other", async || {
        a.info(b.me).await.is_none() && b.info(a.me).await.is_none()
    })
    .await;
    assert!(!a.drain().iter().any(is_connected) && !b.drain().iter().any(is_connected));
}

async fn a_hello_nobody_answers_times_out(t: Transport) {
    let mut hurried = config(t);
    hurried.limits.hello_timeout = Duration::from_millis(500);
    let (mut a, mut b) = (Node::start(t).await, Node::with(hurried).await);
    let tried = a.fabric.connect(b.me, b.addresses.clone(), Some(b"hold me".to_vec())).await;
    let is_lost = matches!(tried, Err(ConnectError::Closed { .. } | ConnectError::Timeout { .. }));
    assert!(is_lost, "{tried:?}");
    eventually("both forget each other", async || {
        a.info(b.me).await.is_none() && b.info(a.me).await.is_none()
    })
    .await;
    assert!(!a.drain().iter().any(is_connected) && !b.drain().iter().any(is_connected));
}

async fn a_ticket_is_presented_instead_of_the_usual_hello(t: Transport) {
    let (a, mut b) = (Node::start(t).await, Node::start(t).await);
    a.fabric.connect(b.me, b.addresses.clone(), Some(b"y ticket".to_vec())).await.unwrap();
    let hello = b.until(|s| matches!(s, Seen::Hello(..))).await;
    assert_eq!(hello, Seen::Hello(a.me, b"y ticket".to_vec()));
    let big = a.fabric.connect(b.me, vec![], Some(vec![b'y'; fabric::HELLO_MAX + 1])).await;
    assert!(matches!(big, Err(ConnectError::HelloTooLarge { .. })));
    let largest = a.fabric.connect(b.me, vec![], Some(vec![b'y'; fabric::HELLO_MAX])).await;
    assert_eq!(largest.unwrap(), b"welcome");
}

async fn nothing_flows_before_the_dialler_has_judged_the_reply(t: Transport) {
    let (mut a, mut b) = (Node::start(t).await, Node::start(t).await);
    let met = a.fabric.introduce(b.me, b.addresses.clone(), None).await.unwrap();
    assert_eq!(met.reply, b"welcome");
    let early = b.fabric.send(a.me, b"early".to_vec()).await;
    assert_eq!(early, Err(SendError::NotConnected { peer: a.me }));
    assert_eq!(
        a.fabric.send(b.me, b"early".to_vec()).await,
        Err(SendError::NotConnected { peer: b.me })
    );
    assert!(!a.drain().iter().any(is_connected) && !b.drain().iter().any(is_connected));
    met.admit().await.unwrap();
    a.connected(b.me).await;
    b.connected(a.me).await;
    b.fabric.send(a.me, b"now".to_vec()).await.unwrap();
}

async fn a_dialler_that_declines_is_never_connected(t: Transport) {
    let (a, mut b) = (Node::start(t).await, Node::start(t).await);
    drop(a.fabric.introduce(b.me, b.addresses.clone(), None).await.unwrap());
    eventually("both forget each other", async || {
        a.info(b.me).await.is_none() && b.info(a.me).await.is_none()
    })
    .await;
    assert!(!b.drain().iter().any(is_connected));
}

async fn messages_go_both_ways_in_order(t: Transport) {
    let (mut a, mut b) = pair(t).await;
    for i in 0..50_u8 {
        a.fabric.send(b.me, vec![i]).await.unwrap();
        b.fabric.send(a.me, vec![i, i]).await.unwrap();
    }
    a.fabric.send(b.me, vec![]).await.unwrap();
    for i in 0..50_u8 {
        let at_b = b.until(|s| matches!(s, Seen::Message(..))).await;
        assert_eq!(at_b, Seen::Message(a.me, vec![i]));
        let at_a = a.until(|s| matches!(s, Seen::Message(..))).await;
        assert_eq!(at_a, Seen::Message(b.me, vec![i, i]));
    }
    let empty = b.until(|s| matches!(s, Seen::Message(..))).await;
    assert_eq!(empty, Seen::Message(a.me, vec![]));
}

async fn the_largest_message_arrives_and_a_larger_one_is_refused(t: Transport) {
    let (a, mut b) = pair(t).await;
    let largest = vec![7; MESSAGE_MAX];
    a.fabric.send(b.me, largest.clone()).await.unwrap();
    assert_eq!(b.until(|s| matches!(s, Seen::Message(..))).await, Seen::Message(a.me, largest));
    let larger = a.fabric.send(b.me, vec![7; MESSAGE_MAX + 1]).await;
    assert_eq!(larger, Err(SendError::TooLarge { bytes: MESSAGE_MAX + 1 }));
}

async fn a_message_needs_an_admitted_peer(t: Transport) {
    let (a, b) = (Node::start(t).await, Node::start(t).await);
    let sent = a.fabric.send(b.me, b"x".to_vec()).await;
    assert_eq!(sent, Err(SendError::NotConnected { peer: b.me }));
}

async fn who_sends_too_often_hears_busy(t: Transport) {
    let mut strict = config(t);
    (strict.limits.messages_per_s, strict.limits.messages_burst) = (1, 5);
    let (a, mut b) = (Node::start(t).await, Node::with(strict).await);
    a.connect(&b).await;
    let mut n_taken = 0;
    let busy = loop {
        match a.fabric.send(b.me, vec![n_taken]).await {
            Ok(()) => n_taken += 1,
            Err(error) => break error,
        }
        assert!(n_taken < 60, "no rate holds");
    };
    assert_eq!(busy, SendError::Busy { peer: b.me });
    assert!(busy.is_retryable() && n_taken >= 5);
    for i in 0..n_taken {
        let next = b.until(|s| matches!(s, Seen::Message(..))).await;
        assert_eq!(next, Seen::Message(a.me, vec![i]));
    }
}

pub(crate) async fn publish(node: &Node, topic: &str, payload: &[u8]) {
    // The neighbours' subscriptions come a moment after the connection.
    eventually("somebody listens", async || {
        match node.fabric.publish(topic.into(), payload.to_vec()).await {
            Ok(()) => true,
            Err(PublishError::NobodyListens { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    })
    .await;
}

fn gossip(seen: &Seen) -> bool {
    matches!(seen, Seen::Gossip(..))
}

async fn gossip_reaches_admitted_peers_only(t: Transport) {
    let (a, mut b) = pair(t).await;
    let mut c = Node::start(t).await;
    for node in [&a, &b, &c] {
        node.fabric.subscribe("news".into()).await;
    }
    // C is connected to A and was accepted by it, but has not accepted A.
    let met = c.fabric.introduce(a.me, a.addresses.clone(), None).await.unwrap();
    publish(&a, "news", b"one").await;
    let one = Seen::Gossip(a.me, "news".into(), b"one".to_vec());
    assert_eq!(b.until(gossip).await, one);
    assert!(c.drain().is_empty(), "{:?}", c.log);
    met.admit().await.unwrap();
    c.connected(a.me).await;
    let two = Seen::Gossip(a.me, "news".into(), b"two".to_vec());
    let mut n = 0;
    eventually("the admitted peer gets gossip", async || {
        // Repeating the same bytes would be no new message.
        n += 1;
        publish(&a, "news", b"two").await;
        publish(&a, "news", format!("more {n}").as_bytes()).await;
        c.drain().iter().any(gossip)
    })
    .await;
    b.until(|s| *s == two).await;
    // And passed on: B and C do not know each other.
    publish(&b, "news", b"three").await;
    let three = Seen::Gossip(a.me, "news".into(), b"three".to_vec());
    if !c.log.contains(&three) {
        c.until(|s| *s == three).await;
    }
}

async fn rejected_gossip_lowers_the_score_and_is_not_passed_on(t: Transport) {
    let (mut a, b) = pair(t).await;
    let mut c = Node::start(t).await;
    c.connect(&a).await;
    for node in [&a, &b, &c] {
        node.fabric.subscribe("news".into()).await;
    }
    // One that is not yet known to listen would miss the truth as well.
    let mut n = 0_u32;
    eventually("everybody is heard by c", async || {
        n += 1;
        publish(&a, "news", &n.to_le_bytes()).await;
        c.drain().iter().any(gossip)
    })
    .await;
    let before = a.info(b.me).await.unwrap().score;
    publish(&b, "news", b"!lie").await;
    a.until(gossip).await;
    eventually("the score falls", async || a.info(b.me).await.unwrap().score < before - 10).await;
    // What comes after the lie arrives; the lie did not. The liar itself may be out of everyone's mesh by now.
    publish(&a, "news", b"truth").await;
    let is = |seen: &Seen, what: &[u8]| matches!(seen, Seen::Gossip(_, _, said) if said == what);
    let truth = c.until(|seen| is(seen, b"truth")).await;
    assert_eq!(truth, Seen::Gossip(a.me, "news".into(), b"truth".to_vec()));
    assert!(!c.drain().iter().any(|seen| is(seen, b"!lie")));
}

async fn gossip_has_its_bounds(t: Transport) {
    let (a, mut b) = pair(t).await;
    b.fabric.subscribe("news".into()).await;
    publish(&a, "news", &vec![1; GOSSIP_MAX]).await;
    b.until(gossip).await;
    let larger = a.fabric.publish("news".into(), vec![1; GOSSIP_MAX + 1]).await;
    assert_eq!(larger, Err(PublishError::TooLarge { bytes: GOSSIP_MAX + 1 }));
    let unheard = a.fabric.publish("void".into(), vec![1]).await;
    assert_eq!(unheard, Err(PublishError::NobodyListens { topic: "void".into() }));
}

async fn a_peer_comes_back_after_a_disconnect(t: Transport) {
    let (mut a, mut b) = pair(t).await;
    for _ in 0..3 {
        a.fabric.disconnect(b.me).await;
        a.disconnected(b.me).await;
        b.disconnected(a.me).await;
        b.connect(&a).await;
        a.connected(b.me).await;
        b.connected(a.me).await;
        a.fabric.send(b.me, b"again".to_vec()).await.unwrap();
    }
}

async fn two_that_dial_each_other_end_up_connected_once(t: Transport) {
    for _ in 0..5 {
        let (mut a, mut b) = (Node::start(t).await, Node::start(t).await);
        let (to_b, to_a) = tokio::join!(a.connect(&b), b.connect(&a));
        assert_eq!((to_b, to_a), (b"welcome".to_vec(), b"welcome".to_vec()));
        a.fabric.send(b.me, b"mark".to_vec()).await.unwrap();
        b.fabric.send(a.me, b"mark".to_vec()).await.unwrap();
        a.until(|s| matches!(s, Seen::Message(..))).await;
        b.until(|s| matches!(s, Seen::Message(..))).await;
        for node in [&a, &b] {
            let periods: Vec<_> =
                node.log.iter().filter(|s| !matches!(s, Seen::Hello(..))).collect();
            assert_eq!(periods.len(), 2, "connected, then the mark: {periods:?}");
        }
    }
}

async fn several_connections_are_one_period(t: Transport) {
    let (mut a, mut b) = (Node::start(t).await, Node::start(t).await);
    let to_b = || a.fabric.connect(b.me, b.addresses.clone(), None);
    let (one, two, three) = tokio::join!(to_b(), to_b(), to_b());
    assert!(one.is_ok() && two.is_ok() && three.is_ok(), "{one:?} {two:?} {three:?}");
    a.connected(b.me).await;
    b.connected(a.me).await;
    a.fabric.disconnect(b.me).await;
    a.disconnected(b.me).await;
    b.disconnected(a.me).await;
    a.connect(&b).await;
    b.connected(a.me).await;
    let n_connected = b.log.iter().filter(|s| is_connected(s)).count();
    assert_eq!(n_connected, 2, "{:?}", b.log);
}

/// A node killed and started again with the same key dials before the other side has seen that
/// its old connection is dead.
async fn a_peer_that_starts_afresh_is_disconnected_and_connected(t: Transport) {
    let mut b = Node::start(t).await;
    let again = config(t);
    let a = Node::with(again.clone()).await;
    a.connect(&b).await;
    b.connected(a.me).await;
    // The twin has the key and a period of its own; to B it looks as the restarted node does.
    let mut twin = Node::with(again).await;
    twin.connect(&b).await;
    twin.connected(b.me).await;
    b.disconnected(a.me).await;
    b.connected(a.me).await;
}

async fn a_banned_peer_gets_nothing(t: Transport) {
    let (mut a, mut b) = pair(t).await;
    let mut c = Node::start(t).await;
    c.connect(&a).await;
    for node in [&a, &b, &c] {
        node.fabric.subscribe("news".into()).await;
    }
    publish(&a, "news", b"before").await;
    let hash = a.keep(b"secret");
    b.fabric.fetch(&[a.me], hash, &b.path("before"), 100, |_, _| {}).await.unwrap();
    a.fabric.penalize(b.me, Offence::Forged).await;
    assert!(a.info(b.me).await.unwrap().score < -30);
    a.fabric.penalize(b.me, Offence::Forged).await;
    a.disconnected(b.me).await;
    b.disconnected(a.me).await;
    let info = a.info(b.me).await.unwrap();
    assert!(info.banned.is_some() && !info.admitted, "{info:?}");
    let dial = b.fabric.connect(a.me, a.addresses.clone(), None).await;
    assert!(
        matches!(dial, Err(ConnectError::Closed { .. } | ConnectError::Dial { .. })),
        "{dial:?}"
    );
    let banned = a.fabric.connect(b.me, b.addresses.clone(), None).await;
    assert!(matches!(banned, Err(ConnectError::Banned { .. })));
    let seen = b.drain().len();
    publish(&a, "news", b"after").await;
    c.until(|s| matches!(s, Seen::Gossip(_, _, p) if p == b"after")).await;
    assert!(!b.drain()[seen..].iter().any(gossip));
    let fetched = b.fabric.fetch(&[a.me], hash, &b.path("after"), 100, |_, _| {}).await;
    assert!(matches!(fetched, Err(FetchError::NotConnected { .. })));
    assert!(!a.drain().iter().any(|s| matches!(s, Seen::Hello(p, _) if *p == b.me)));
}

async fn shutdown_tells_the_peers(t: Transport) {
    let (a, mut b) = pair(t).await;
    let (me, other) = (a.me, a.fabric.clone());
    a.fabric.shutdown().await;
    b.disconnected(me).await;
    assert_eq!(other.send(b.me, vec![]).await, Err(SendError::Stopped));
    assert!(other.addresses().await.is_empty() && other.peers().await.is_empty());
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i as u64).wrapping_mul(0x9e37_79b9).to_le_bytes()[2]).collect()
}

async fn blobs_of_all_sizes_arrive_whole(t: Transport) {
    let (a, b) = pair(t).await;
    for n in [0, 1, 1024, 16384, 16385, 5 << 20] {
        let data = bytes(n);
        let hash = b.keep(&data);
        let into = a.path(&format!("{n}"));
        let last = std::sync::Mutex::new((0, 0));
        let on_progress = |done, total| *last.lock().unwrap() = (done, total);
        let limit = n as u64;
        let fetched = a.fabric.fetch(&[b.me], hash, &into, limit, on_progress).await.unwrap();
        assert!(std::fs::read(&into).unwrap() == data, "{n}");
        assert_eq!(*last.lock().unwrap(), (limit, limit));
        let (_, size, outboard) = fabric::blob::hash_file(&into).unwrap();
        assert_eq!((fetched.size, fetched.outboard), (size, outboard), "{n}");
        // A file that is there costs one group to see that it is.
        let again = a.fabric.fetch(&[b.me], hash, &into, limit, |_, _| {}).await.unwrap();
        assert_eq!(again.size, limit);
        assert!(std::fs::read(&into).unwrap() == data, "{n}");
    }
}

async fn a_cut_fetch_resumes(t: Transport) {
    let (a, b) = pair(t).await;
    let data = bytes((5 << 20) + 77);
    let hash = b.keep(&data);
    let into = a.path("partial");
    // Cut: the future is dropped when a part is there.
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = std::sync::Mutex::new(Some(tell));
    let from = [b.me];
    let fetching = a.fabric.fetch(&from, hash, &into, 9 << 20, |done, _| {
        if done >= 1 << 20
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
    let there = std::fs::read(&into).unwrap();
    assert!(there[..] == data[..there.len()], "only true bytes are written");
    eventually("what came before the cut is counted", async || {
        a.info(b.me).await.unwrap().bytes_in >= there.len() as u64
    })
    .await;
    std::fs::write(&into, &data[..3 << 20]).unwrap();
    let before = a.info(b.me).await.unwrap().bytes_in;
    let fetched = a.fabric.fetch(&[b.me], hash, &into, 9 << 20, |_, _| {}).await.unwrap();
    assert!(std::fs::read(&into).unwrap() == data);
    assert_eq!(fetched.outboard, fabric::blob::hash_file(&into).unwrap().2);
    eventually("the bytes are counted", async || a.info(b.me).await.unwrap().bytes_in > before)
        .await;
    let moved = a.info(b.me).await.unwrap().bytes_in - before;
    assert!(moved < 5 << 19, "{moved} bytes came for the missing 2 MiB");
}

async fn a_damaged_partial_file_is_fetched_again(t: Transport) {
    let (a, b) = pair(t).await;
    let data = bytes(1 << 20);
    let hash = b.keep(&data);
    let mut damaged = data[..1 << 19].to_vec();
    damaged[1000] ^= 1;
    let too_long = [&data[..], &[0; 99_999]].concat();
    for (name, wrong) in [("damaged", damaged), ("too long", too_long)] {
        let into = a.path(name);
        std::fs::write(&into, &wrong).unwrap();
        let fetched = a.fabric.fetch(&[b.me], hash, &into, 1 << 20, |_, _| {}).await.unwrap();
        assert_eq!(fetched.size, 1 << 20);
        assert!(std::fs::read(&into).unwrap() == data, "{name}");
    }
}

async fn a_corrupted_source_is_found_within_its_group(t: Transport) {
    let (a, b) = pair(t).await;
    let data = bytes(5 << 20);
    let hash = b.keep(&data);
    let at = (3 << 20) + 20_000;
    let group = at / 16384 * 16384;
    let path = b.blobs.files.lock().unwrap()[&hash].data.clone();
    let mut wrong = data.clone();
    wrong[at] ^= 0x10;
    std::fs::write(&path, &wrong).unwrap();
    let into = a.path("corrupt");
    let fetched = a.fabric.fetch(&[b.me], hash, &into, 9 << 20, |_, _| {}).await;
    let error = fetched.unwrap_err();
    assert!(error.is_peer_fault());
    assert!(
        matches!(error, FetchError::Corrupt { peer, at } if peer == b.me && at == group as u64)
    );
    assert!(std::fs::read(&into).unwrap() == data[..group], "the true bytes, and no more");
    // A wrong tree is found at its first node, before any byte.
    std::fs::write(&path, &data).unwrap();
    let mut files = b.blobs.files.lock().unwrap().clone();
    let mut outboard = files[&hash].outboard.to_vec();
    outboard[5] ^= 1;
    let file = BlobFile { outboard: outboard.into(), ..files.remove(&hash).unwrap() };
    b.blobs.files.lock().unwrap().insert(hash, file);
    let into = a.path("wrong tree");
    let fetched = a.fabric.fetch(&[b.me], hash, &into, 9 << 20, |_, _| {}).await;
    assert!(matches!(fetched, Err(FetchError::Corrupt { at: 0, .. })), "{fetched:?}");
    assert!(std::fs::read(&into).unwrap().is_empty());
}

async fn a_blob_may_be_denied_missing_or_too_large(t: Transport) {
    let (a, b) = pair(t).await;
    let into = a.path("x");
    let missing = a.fabric.fetch(&[b.me], [9; 32], &into, 100, |_, _| {}).await;
    assert!(matches!(missing, Err(FetchError::NotFound { .. })));
    let hash = b.keep(b"private");
    let large = a.fabric.fetch(&[b.me], hash, &into, 6, |_, _| {}).await;
    assert!(matches!(large, Err(FetchError::TooLarge { size: 7, limit: 6 })));
    b.blobs.denied.lock().unwrap().push(hash);
    let denied = a.fabric.fetch(&[b.me], hash, &into, 100, |_, _| {}).await;
    assert!(matches!(denied, Err(FetchError::Denied { .. })));
    assert!(!into.exists(), "nothing came, so nothing is written");
}

async fn a_fetch_needs_an_admitted_peer(t: Transport) {
    let (a, b) = (Node::start(t).await, Node::start(t).await);
    let fetched = a.fabric.fetch(&[b.me], [9; 32], &a.path("x"), 100, |_, _| {}).await;
    assert!(matches!(fetched, Err(FetchError::NotConnected { .. })));
}

async fn bytes_are_counted(t: Transport) {
    let (a, b) = pair(t).await;
    a.fabric.send(b.me, vec![0; 1000]).await.unwrap();
    let hash = a.keep(&bytes(50_000));
    b.fabric.fetch(&[a.me], hash, &b.path("x"), 50_000, |_, _| {}).await.unwrap();
    eventually("both count the message and the blob", async || {
        a.info(b.me).await.unwrap().bytes_out >= 51_000
            && b.info(a.me).await.unwrap().bytes_in >= 51_000
    })
    .await;
}
