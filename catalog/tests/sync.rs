//! Two replicas that differ, and what it takes until they do not.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should stop the test")]

mod support;

use catalog::log::Version;
use catalog::sync::{Bytes, Delta, Group, Leaf, Proof, Short, SyncMessage, TrieNode, Want};
use catalog::{Limits, NodeId, OrgId};
use proptest::prelude::*;
use support::*;

/// Who sends what no node made.
fn from(seed: u16) -> (NodeId, OrgId) {
    (Node::new(seed).id, org(seed))
}

/// A reader that knows the catalogues of many authors.
fn crowd(authors: &[Vec<Vec<u8>>], reader: u16) -> Node {
    let mut node = Node::new(reader);
    for pushes in authors {
        deliver(&mut node, NOW, pushes);
    }
    node
}

fn authors(count: u16) -> Vec<Vec<Vec<u8>>> {
    (100..100 + count).map(|seed| Node::new(seed).publish(vec![put("k", "X")]).push).collect()
}

#[test]
fn equal_replicas_exchange_two_small_messages() {
    let known = authors(20);
    let (mut a, mut b) = (crowd(&known, 1), crowd(&known, 2));
    let cost = sync(&mut a, &mut b, NOW);
    assert_eq!(cost.messages, 2);
    assert!(cost.bytes < 250, "{cost:?}");
}

#[test]
fn one_changed_author_of_a_thousand_costs_little() {
    let mut known = authors(999);
    let mut changed = Node::new(50);
    known.push(changed.publish(vec![put("k", "old"), put("l", "L")]).push);
    let (mut a, mut b) = (crowd(&known, 1), crowd(&known, 2));
    let update = changed.publish(vec![put("k", "new")]).push;
    deliver(&mut b, NOW, &update);
    for (from_a, name) in [(true, "asked"), (false, "offered")] {
        let (mut a, mut b) = (crowd_clone(&a), crowd_clone(&b));
        let cost = if from_a { sync(&mut a, &mut b, NOW) } else { sync(&mut b, &mut a, NOW) };
        assert_eq!(a.catalog.fingerprint(), b.catalog.fingerprint(), "{name}");
        let payload: usize = update.iter().map(Vec::len).sum();
        println!("{name}: {cost:?}, {payload} of them head and record");
        assert!(cost.bytes <= 1024 && cost.messages <= 6, "{name}: {cost:?} {payload}");
    }
    let cost = sync(&mut a, &mut b, NOW);
    assert!(cost.messages <= 6);
}

fn crowd_clone(node: &Node) -> Node {
    let mut clone = Node::new(0);
    clone.id = node.id;
    clone.org = node.org;
    clone.catalog = node.catalog.clone();
    clone
}

#[test]
fn a_new_node_gets_everything_from_one_peer() {
    let (mut a, mut b) = (crowd(&authors(150), 1), Node::new(2));
    b.publish(vec![put("mine", "M")]);
    sync(&mut b, &mut a, NOW);
    assert_eq!(b.shown(NOW).len(), 151);
    assert_eq!(a.shown(NOW), b.shown(NOW), "and gives what it has");
}

#[test]
fn a_large_log_comes_in_pages() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    for batch in 0..10 {
        a.publish((0..200).map(|n| put(&format!("k/{batch}/{n}"), &"x".repeat(60))).collect());
    }
    let cost = sync(&mut b, &mut a, NOW);
    assert_eq!(b.shown(NOW).len(), 2000);
    assert!(cost.bytes > 512 * 1024 && cost.messages > 6, "{cost:?}");
    assert_eq!(a.catalog.fingerprint(), b.catalog.fingerprint());
}

#[test]
fn lost_pushes_are_made_up_for_even_when_the_head_arrived() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    let lost = a.publish(vec![put("k", "X"), put("gone", "G")]).push;
    drop(lost);
    a.publish(vec![delete("gone")]);
    deliver(&mut b, NOW, &a.publish(vec![put("l", "L")]).push);
    assert_ne!(a.catalog.fingerprint(), b.catalog.fingerprint());
    sync(&mut b, &mut a, NOW);
    assert_eq!(a.catalog.fingerprint(), b.catalog.fingerprint());
    assert_eq!(a.shown(NOW), b.shown(NOW));
}

#[test]
fn forgotten_deletes_are_found_by_listing() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    let keys: Vec<String> = (0..600).map(|n| format!("k/{n}")).collect();
    deliver(&mut b, NOW, &a.publish(keys.iter().map(|key| put(key, "X")).collect()).push);
    assert_eq!(b.shown(NOW).len(), 600);
    let published = a.publish(keys[..500].iter().map(|key| delete(key)).collect());
    assert_eq!(published.forget.len(), 500 - 256);
    sync(&mut b, &mut a, NOW);
    assert_eq!(b.shown(NOW).len(), 100);
    assert_eq!(a.catalog.fingerprint(), b.catalog.fingerprint());
}

#[test]
fn an_author_restored_from_an_old_backup_takes_its_peers_along() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    let backup = a.publish(vec![put("k", "old"), put("l", "L")]);
    deliver(&mut b, NOW, &backup.push);
    let lost = a.publish(vec![put("k", "new"), put("m", "M")]);
    deliver(&mut b, NOW, &lost.push);
    let mut restored = Node::new(0);
    restored.catalog.restore_own(2, backup.records).unwrap();
    let head = restored.renew(NOW + MINUTE).unwrap();
    deliver(&mut b, NOW + MINUTE, &[head]);
    let mut c = Node::new(2);
    sync(&mut b, &mut restored, NOW + MINUTE);
    sync(&mut c, &mut b, NOW + MINUTE);
    for node in [&b, &c] {
        assert_eq!(node.shown(NOW), restored.shown(NOW));
        assert_eq!(node.catalog.fingerprint(), restored.catalog.fingerprint());
    }
    deliver(&mut b, NOW + MINUTE, &lost.push);
    assert_eq!(b.shown(NOW), restored.shown(NOW), "a replay brings nothing back");
}

#[test]
fn restricted_resources_reach_entitled_organisations_only() {
    let mut a = Node::new(0);
    let (mut entitled, mut other, mut sibling) = (Node::new(1), Node::new(2), Node::of(0, 9));
    let published = a.publish(vec![put("open", "O"), put_for("secret", "S", &[1])]);
    assert!(published.push.iter().all(|push| !contains(push, b"secret")));
    let orgs: Vec<_> = published.direct.iter().map(|(org, _)| *org).collect();
    assert_eq!(orgs.len(), 2, "the entitled one and the own");
    assert!(orgs.contains(&org(1)) && orgs.contains(&org(0)));
    for node in [&mut entitled, &mut other, &mut sibling] {
        deliver(node, NOW, &published.push);
        sync(node, &mut a, NOW);
    }
    let keys = |node: &Node| node.shown(NOW).into_iter().map(|(_, k, _)| k).collect::<Vec<_>>();
    assert_eq!(keys(&entitled), ["open", "secret"]);
    assert_eq!(keys(&sibling), ["open", "secret"]);
    assert_eq!(keys(&other), ["open"]);
    assert!(entitled.catalog.resources(NOW).any(|e| e.is_restricted && e.key == "secret"));

    sync(&mut other, &mut entitled, NOW);
    assert_eq!(keys(&other), ["open"], "nobody passes it on");
    let quiet = sync(&mut entitled, &mut a, NOW);
    assert_eq!(quiet.messages, 2, "it is not sent twice");

    let moved = a.publish(vec![put_for("secret", "S", &[2])]);
    for (to, message) in moved.direct {
        for node in [&mut entitled, &mut other] {
            if node.org == to {
                node.catalog.handle_sync(NOW, (a.id, a.org), message.clone()).unwrap();
            }
        }
    }
    assert_eq!(keys(&entitled), ["open"], "withdrawn");
    assert_eq!(keys(&other), ["open", "secret"], "granted");
    a.publish(vec![put("secret", "S")]);
    for node in [&mut entitled, &mut other] {
        sync(node, &mut a, NOW);
        assert_eq!(keys(node), ["open", "secret"]);
        assert!(!node.catalog.resources(NOW).any(|e| e.is_restricted));
    }
    a.publish(vec![delete("secret")]);
    sync(&mut other, &mut a, NOW);
    assert_eq!(keys(&other), ["open"]);
}

#[test]
fn what_is_restricted_leaves_no_trace_for_others() {
    let (mut a, mut first, mut second, mut stranger) =
        (Node::new(0), Node::new(1), Node::new(2), Node::new(3));
    a.publish(vec![put("open", "O")]);
    sync(&mut stranger, &mut a, NOW);
    let quiet = sync(&mut stranger, &mut a, NOW);
    let (version, print) = (a.catalog.own_version(), a.catalog.fingerprint());
    for round in 0..3 {
        let name = format!("S{round}");
        for changes in [vec![put_for("one", &name, &[1])], vec![put_for("two", &name, &[2])]] {
            let published = a.publish(changes);
            assert_eq!(published.push, Vec::<Vec<u8>>::new());
            assert_eq!(published.direct.len(), 2, "its organisation, and the own");
        }
    }
    assert_eq!((a.catalog.own_version(), a.catalog.fingerprint()), (version, print));
    assert_eq!(sync(&mut stranger, &mut a, NOW), quiet, "not a byte more");
    for (node, key) in [(&mut first, "one"), (&mut second, "two")] {
        sync(node, &mut a, NOW);
        let seen: Vec<_> = node
            .catalog
            .resources(NOW)
            .filter(|e| e.is_restricted)
            .map(|e| (e.key, e.resource.name.as_str(), e.seq / (1 << 10)))
            .collect();
        let [(found, name, ms)] = seen[..] else { panic!("{seen:?}") };
        assert_eq!((found, name), (key, "S2"));
        // Numbers say when, up to some seconds, and not how often: neither for this organisation nor for others.
        assert!((NOW..NOW + 3 * 4_096).contains(&ms), "{ms}");
    }
    a.publish(vec![delete("two")]);
    sync(&mut second, &mut a, NOW);
    assert_eq!(second.shown(NOW).len(), 1);
    assert_eq!(sync(&mut stranger, &mut a, NOW), quiet);
}

#[test]
fn withdrawal_also_reaches_who_was_away() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    a.publish(vec![put_for("x", "X", &[1]), put_for("y", "Y", &[1, 2])]);
    sync(&mut b, &mut a, NOW);
    assert_eq!(b.shown(NOW).len(), 2);
    a.publish(vec![delete("x"), put_for("y", "Y", &[2])]);
    sync(&mut b, &mut a, NOW);
    assert_eq!(b.shown(NOW), []);
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[test]
fn a_liars_listing_deletes_nothing() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    a.publish(vec![put("k", "X")]);
    deliver(&mut b, NOW, &a.publish(vec![put("l", "L")]).push);
    let SyncMessage::Listing { head, .. } = a
        .catalog
        .handle_sync(NOW, (b.id, b.org), SyncMessage::List(a.id))
        .unwrap()
        .replies
        .remove(0)
    else {
        panic!("a listing was asked for");
    };
    let empty = SyncMessage::Listing { head, hashes: Bytes::default() };
    let synced = b.catalog.handle_sync(NOW, (a.id, a.org), empty).unwrap();
    assert_eq!(synced.news, []);
    assert_eq!(b.shown(NOW).len(), 1);
}

#[test]
fn impossible_messages_are_the_peers_fault() {
    let mut a = crowd(&authors(3), 1);
    let node = |prefix: Vec<u8>, mask, children: usize| TrieNode {
        prefix: Bytes(prefix),
        mask,
        children: Bytes(vec![7; children]),
    };
    let leaf = Leaf {
        author: Short([1; 8]),
        version: Version::ZERO,
        lease_until_s: 0,
        fingerprint: Short::default(),
        is_complete: true,
    };
    let root = |realm, top| SyncMessage::Root { realm, root: Short::default(), top: Bytes(top) };
    let all: Vec<SyncMessage> = vec![
        root(catalog::RealmId::from_bytes([0; 16]), vec![0; 32]),
        root(realm(), vec![0; 31]),
        SyncMessage::Nodes(vec![node(vec![16], 0, 0)]),
        SyncMessage::Nodes(vec![node(vec![0; 64], 0, 0)]),
        SyncMessage::Nodes(vec![node(vec![], 3, 8)]),
        SyncMessage::Nodes(vec![node(vec![], 0, 8)]),
        SyncMessage::Nodes(vec![node(vec![], 1, 7)]),
        SyncMessage::Nodes(vec![node(vec![1], 0, 0), node(vec![1], 0, 0)]),
        SyncMessage::Nodes(vec![node(vec![], 0, 0), node(vec![1], 0, 0)]),
        SyncMessage::Leaves {
            groups: (0..2)
                .map(|n| Group { prefix: Bytes(vec![1 - n]), leaves: vec![leaf] })
                .collect(),
            is_answer: false,
        },
        SyncMessage::Fetch { author: a.id, hashes: Bytes(vec![0; 33]) },
    ];
    for message in all {
        let error = a.catalog.handle_sync(NOW, from(2), message).unwrap_err();
        assert!(error.is_peer_fault(), "{error}");
    }
    let proof = Proof { first: Bytes(vec![1]), second: Bytes(vec![2]) };
    let synced = a.catalog.handle_sync(NOW, from(2), SyncMessage::Proofs(vec![proof])).unwrap();
    assert_eq!(synced.faults.len(), 1);
}

#[test]
fn one_bad_part_does_not_spoil_the_others() {
    let (mut a, mut b, mut c) = (Node::new(0), Node::new(1), Node::new(2));
    a.publish(vec![put("k", "X")]);
    b.publish(vec![put("k", "Y")]);
    let part = |node: &mut Node| {
        let want = SyncMessage::Want(vec![Want {
            author: Short::of(node.id),
            since: Version::ZERO,
            papers: Short::default(),
        }]);
        match node.catalog.handle_sync(NOW, from(2), want).unwrap().replies.remove(0) {
            SyncMessage::Deltas { mut parts, .. } => parts.remove(0),
            other => panic!("a delta was asked for: {other:?}"),
        }
    };
    let (good, bad) = (part(&mut a), part(&mut b));
    let spoilt: Delta = Delta { records: vec![Bytes(vec![0])], ..bad };
    let parts = vec![spoilt, good];
    let synced =
        c.catalog.handle_sync(NOW, from(0), SyncMessage::Deltas { parts, rest: vec![] }).unwrap();
    assert_eq!((synced.faults.len(), synced.news.len()), (1, 1));
}

fn arbitrary_message() -> impl Strategy<Value = SyncMessage> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..70).prop_map(Bytes);
    let prefix = || proptest::collection::vec(0u8..17, 0..4).prop_map(Bytes);
    let author = || (0u16..6).prop_map(|seed| Node::new(seed).id);
    let version = || (0u32..3, 0u64..4).prop_map(|(epoch, seq)| Version { epoch, seq });
    let node = (prefix(), any::<u16>(), bytes()).prop_map(|(prefix, mask, children)| TrieNode {
        prefix,
        mask,
        children,
    });
    let short = || any::<[u8; 8]>().prop_map(Short);
    let tag = move || prop_oneof![author().prop_map(Short::of), short()];
    let leaf = (tag(), version(), any::<u64>(), short(), any::<bool>()).prop_map(
        |(author, version, lease_until_s, fingerprint, is_complete)| Leaf {
            author,
            version,
            lease_until_s,
            fingerprint,
            is_complete,
        },
    );
    let group = (prefix(), proptest::collection::vec(leaf, 0..3))
        .prop_map(|(prefix, leaves)| Group { prefix, leaves });
    let want = (tag(), version(), short()).prop_map(|(author, since, papers)| Want {
        author,
        since,
        papers,
    });
    prop_oneof![
        (short(), proptest::collection::vec(any::<u8>(), 31..33)).prop_map(|(root, top)| {
            SyncMessage::Root { realm: realm(), root, top: Bytes(top) }
        }),
        (bytes(), proptest::collection::vec(node, 0..4))
            .prop_map(|(restricted, nodes)| SyncMessage::Compared { restricted, nodes }),
        (proptest::collection::vec(group, 0..4), any::<bool>())
            .prop_map(|(groups, is_answer)| SyncMessage::Leaves { groups, is_answer }),
        proptest::collection::vec(want, 0..4).prop_map(SyncMessage::Want),
        author().prop_map(SyncMessage::List),
        (author(), bytes()).prop_map(|(author, hashes)| SyncMessage::Fetch { author, hashes }),
        (bytes(), bytes()).prop_map(|(head, hashes)| SyncMessage::Listing { head, hashes }),
        (bytes(), bytes(), proptest::option::of(bytes())).prop_map(|(head, record, papers)| {
            let (since, records) = (Version::ZERO, vec![record]);
            let delta = Delta { head, papers, since, records, has_more: true, passed: Vec::new() };
            SyncMessage::Deltas { parts: vec![delta], rest: vec![] }
        }),
        Just(SyncMessage::WantRestricted),
    ]
}

#[derive(Clone, Debug)]
struct Event {
    author: usize,
    key: u8,
    name: Option<u8>,
    restricted: bool,
    /// Which of the readers gets each push.
    reaches: [bool; 3],
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = (
        0usize..3,
        0u8..4,
        proptest::option::weighted(0.8, 0u8..3),
        any::<bool>(),
        any::<[bool; 3]>(),
    )
        .prop_map(|(author, key, name, restricted, reaches)| Event {
            author,
            key,
            name,
            restricted: restricted && key == 0,
            reaches,
        });
    proptest::collection::vec(event, 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn random_replicas_converge_and_stay_silent_afterwards(events in events()) {
        let mut nodes: Vec<Node> = (0..3).map(Node::new).collect();
        for event in events {
            let key = format!("k{}", event.key);
            let change = match event.name {
                Some(name) if event.restricted => put_for(&key, &format!("n{name}"), &[1]),
                Some(name) => put(&key, &format!("n{name}")),
                None => delete(&key),
            };
            let author = &mut nodes[event.author];
            let published = author.catalog.publish(&author.key, &author.identity, NOW, vec![change]);
            let Ok(published) = published else { continue };
            for (reader, reached) in event.reaches.into_iter().enumerate() {
                if reached && reader != event.author {
                    let papers = nodes[event.author].papers();
                    let pushes: Vec<Vec<u8>> =
                        published.push.iter().map(|push| with_papers(push, &papers)).collect();
                    deliver(&mut nodes[reader], NOW, &pushes);
                }
            }
        }
        for _ in 0..2 {
            for (a, b) in [(0, 1), (1, 2), (0, 2), (1, 0), (2, 1), (2, 0)] {
                let (low, high) = (a.min(b), a.max(b));
                let (head, tail) = nodes.split_at_mut(high);
                let (low, high) = (&mut head[low], &mut tail[0]);
                let cost =
                    if a < b { sync(low, high, NOW) } else { sync(high, low, NOW) };
                prop_assert!(cost.messages < 60, "{:?}", cost);
            }
        }
        let print = nodes[0].catalog.fingerprint();
        prop_assert!(nodes.iter().all(|node| node.catalog.fingerprint() == print));
        let public = |node: &Node| node.catalog.resources(NOW)
            .filter(|e| !e.is_restricted)
            .map(|e| (e.author, e.key.to_owned(), e.resource.clone()))
            .collect::<Vec<_>>();
        prop_assert_eq!(public(&nodes[0]), public(&nodes[1]));
        prop_assert_eq!(public(&nodes[0]), public(&nodes[2]));
        let of_0 = |node: &Node| {
            let mine = nodes[0].id;
            node.shown(NOW).into_iter().filter(|(author, ..)| *author == mine).collect::<Vec<_>>()
        };
        prop_assert_eq!(of_0(&nodes[1]), of_0(&nodes[0]), "organisation 1 is entitled to all of it");
        let (head, tail) = nodes.split_at_mut(1);
        prop_assert_eq!(sync(&mut head[0], &mut tail[0], NOW).messages, 2);
    }

    #[test]
    fn no_message_panics_or_changes_what_is_signed(
        messages in proptest::collection::vec(arbitrary_message(), 1..8),
    ) {
        let mut a = crowd(&(0u16..3).map(|s| Node::new(s).publish(vec![put("k", "X")]).push).collect::<Vec<_>>(), 4);
        let before = a.shown(NOW);
        for message in messages {
            if let Ok(synced) = a.catalog.handle_sync(NOW, from(2), message) {
                prop_assert!(synced.news.is_empty());
                prop_assert!(synced.replies.len() <= 4);
            }
        }
        prop_assert_eq!(a.shown(NOW), before);
    }
}

#[test]
fn default_limits_are_those_of_the_design() {
    let Limits { authors, records_per_author, bytes_per_author } = Limits::default();
    assert_eq!((authors, records_per_author, bytes_per_author), (2000, 10_000, 8 << 20));
}
