//! Light nodes beside full ones: they hold what they chose, as it is, and mislead nobody.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should stop the test")]

#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use catalog::record::{DataDetail, Detail, Kind, Kinds, Resource, Visibility};
use catalog::{Change, Digest, NodeId};
use proptest::prelude::*;
use support::*;

fn data(key: &str, name: &str) -> Change {
    let detail = DataDetail {
        media_type: "text/plain".to_owned(),
        digest: Digest::of(name.as_bytes()),
        size: 1,
        directory: false,
        quality: String::new(),
        personal: false,
        anonymised: false,
        open: true,
        update_s: None,
        residency: vec![],
    };
    let resource = Resource { detail: Detail::Data(detail), ..service(key, name) };
    Change::Put(resource, Visibility::Public)
}

/// A light node that keeps services.
fn light(seed: u16) -> Node {
    let mut node = Node::new(seed);
    node.catalog = node.catalog.light(Kinds::of(Kind::Service));
    node
}

fn services(of: &Node) -> Vec<(NodeId, String, String)> {
    let shown = of.catalog.resources(NOW).filter(|entry| entry.resource.kind() == Kind::Service);
    shown.map(|e| (e.author, e.key.to_owned(), e.resource.name.clone())).collect()
}

#[test]
fn a_light_node_keeps_what_it_chose_and_all_heads() {
    let (mut full, mut board) = (Node::new(0), light(1));
    let mut other = Node::new(2);
    other.publish(vec![data("d", "D")]);
    full.publish(vec![put("s", "S"), data("d", "D")]);
    sync(&mut full, &mut other, NOW);
    sync(&mut board, &mut full, NOW);
    assert_eq!(board.shown(NOW), services(&full));
    assert_eq!(board.catalog.authors().count(), 2);
    assert_eq!(board.catalog.fingerprint(), full.catalog.fingerprint(), "all heads are known");
    let again = sync(&mut board, &mut full, NOW);
    assert_eq!(again.messages, 2, "and there is nothing more to say");
}

#[test]
fn what_it_publishes_is_pulled_and_what_it_holds_of_others_is_not() {
    let (mut full, mut board, mut late) = (Node::new(0), light(1), Node::new(2));
    full.publish(vec![put("s", "S"), data("d", "D")]);
    sync(&mut board, &mut full, NOW);
    board.publish(vec![data("mine", "M")]);
    sync(&mut late, &mut board, NOW);
    assert_eq!(late.shown(NOW), [(board.id, "mine".to_owned(), "M".to_owned())]);
    sync(&mut late, &mut full, NOW);
    assert_eq!(late.shown(NOW).len(), 3);
    assert_eq!(late.catalog.fingerprint(), full.catalog.fingerprint());
}

#[test]
fn a_key_that_becomes_another_kind_or_nothing_vanishes() {
    let (mut full, mut board) = (Node::new(0), light(1));
    full.publish(vec![put("a", "A"), put("b", "B"), put("c", "C")]);
    sync(&mut board, &mut full, NOW);
    assert_eq!(board.shown(NOW).len(), 3);
    full.publish(vec![data("a", "data now"), delete("b")]);
    sync(&mut board, &mut full, NOW);
    assert_eq!(board.shown(NOW), services(&full));
    assert_eq!(board.shown(NOW).len(), 1);
}

#[test]
fn after_more_deletes_than_anybody_remembers_it_starts_over_with_the_author() {
    let (mut full, mut board) = (Node::new(0), light(1));
    let keys: Vec<String> = (0..200).map(|n| format!("k/{n}")).collect();
    full.publish(keys.iter().map(|key| put(key, "X")).collect());
    sync(&mut board, &mut full, NOW);
    assert_eq!(board.shown(NOW).len(), 200);
    full.publish(keys[..190].iter().map(|key| delete(key)).collect());
    full.publish(keys[..100].iter().map(|key| put(key, "Y")).collect());
    full.publish(keys[..100].iter().map(|key| delete(key)).collect());
    full.publish((0..100).map(|n| put(&format!("l/{n}"), "L")).collect());
    full.publish((0..100).map(|n| delete(&format!("l/{n}"))).collect());
    sync(&mut board, &mut full, NOW);
    assert_eq!(board.shown(NOW), services(&full));
}

#[test]
fn what_a_cache_gives_back_is_replaced_by_what_is_true() {
    let (mut full, mut board) = (Node::new(0), light(1));
    full.publish(vec![put("a", "A"), put("b", "B")]);
    let mut cache = Vec::new();
    let mut queue = vec![(false, board.catalog.start_sync())];
    while let Some((to_board, message)) = queue.pop() {
        let (to, from) = if to_board {
            (&mut board, (full.id, full.org))
        } else {
            (&mut full, (NodeId::from_bytes([3; 32]), org(1)))
        };
        let synced = to.catalog.handle_sync(NOW, from, message).unwrap();
        if to_board {
            cache.extend(synced.store);
        }
        queue.extend(synced.replies.into_iter().map(|reply| (!to_board, reply)));
    }
    full.publish(vec![data("a", "data now"), put("c", "C")]);
    let mut again = light(1);
    assert_eq!(again.catalog.restore(NOW, &cache).len(), cache.len());
    assert_eq!(again.shown(NOW).len(), 2, "as it was");
    sync(&mut again, &mut full, NOW);
    assert_eq!(again.shown(NOW), services(&full));
}

#[test]
fn beyond_its_room_it_says_that_more_has_to_be_asked() {
    let (mut full, mut board) = (Node::new(0), light(1));
    full.publish((0..300).map(|n| put(&format!("k/{n}"), "X")).collect());
    let kinds = board.catalog.kinds();
    assert!(kinds.contains(Kind::Service) && kinds.contains(Kind::Revocations));
    sync(&mut board, &mut full, NOW);
    assert_eq!(board.shown(NOW).len(), 256);
    assert_eq!(board.catalog.kinds(), Kinds::NONE);
    assert_eq!(board.catalog.fingerprint(), full.catalog.fingerprint(), "and it is at rest");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn whatever_changes_a_light_node_shows_what_is_chosen_of_it(
        steps in prop::collection::vec(
            (0usize..2, prop::collection::vec((0u8..6, 0u8..3), 1..4), any::<bool>()), 1..8),
    ) {
        let (mut authors, mut board) = ([Node::new(0), Node::new(2)], light(1));
        for (at, changes, is_syncing) in steps {
            let author = &mut authors[at];
            let held: Vec<String> = author.shown(NOW).into_iter().filter(|(id, ..)| *id == author.id).map(|(_, key, _)| key).collect();
            let changes = changes.into_iter().filter_map(|(key, what)| {
                let key = format!("k/{key}");
                match what {
                    0 => Some(put(&key, "service")),
                    1 => Some(data(&key, "data")),
                    _ => held.contains(&key).then(|| delete(&key)),
                }
            });
            let mut seen = std::collections::BTreeSet::new();
            let changes: Vec<Change> = changes.filter(|c| seen.insert(c.key().to_owned())).collect();
            author.publish(changes);
            let [a, b] = &mut authors;
            sync(a, b, NOW);
            if is_syncing {
                sync(&mut board, if at == 0 { a } else { b }, NOW);
                prop_assert_eq!(services(&board), services(a));
            }
        }
        sync(&mut board, &mut authors[0], NOW);
        prop_assert_eq!(services(&board), services(&authors[0]));
        prop_assert_eq!(board.catalog.fingerprint(), authors[0].catalog.fingerprint());
    }
}
