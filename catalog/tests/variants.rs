//! Descriptions of one key that differ from organisation to organisation.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should stop the test")]

#[expect(dead_code, reason = "other test programs use the rest of it")]
mod support;

use catalog::log::Record;
use catalog::replica::Equivocation;
use catalog::sync::SyncMessage;
use catalog::{Catalog, Change, Limits, OrgId, Published};
use proptest::prelude::*;
use support::*;

fn orgs(seeds: &[u16]) -> Vec<OrgId> {
    seeds.iter().map(|seed| org(*seed)).collect()
}

/// What these organisations see otherwise than others.
fn put_variant(key: &str, name: &str, seeds: &[u16]) -> Change {
    Change::PutFor(service(key, name), orgs(seeds))
}

fn delete_variant(key: &str, seeds: &[u16]) -> Change {
    Change::DeleteFor(key.to_owned(), orgs(seeds))
}

/// Carries what is sent directly to the nodes that it is for.
fn tell(from: &Node, to: &mut [&mut Node], now_ms: u64, published: &Published) {
    for (org, message) in &published.direct {
        for node in to.iter_mut().filter(|node| node.org == *org) {
            node.catalog.handle_sync(now_ms, (from.id, from.org), message.clone()).unwrap();
        }
    }
    to.iter_mut().for_each(|node| deliver(node, now_ms, &published.push));
}

fn names(node: &Node) -> Vec<String> {
    node.shown(NOW).into_iter().map(|(_, _, name)| name).collect()
}

/// Every signed record that is on its way to somebody.
fn records(published: &Published) -> Vec<Vec<u8>> {
    let of = |(_, message): &(OrgId, SyncMessage)| match message {
        SyncMessage::Restricted { records, .. } => {
            records.iter().map(|bytes| bytes.0.clone()).collect()
        }
        _ => Vec::new(),
    };
    published.direct.iter().flat_map(of).collect()
}

#[test]
fn each_organisation_sees_its_own_then_the_general_then_the_public_one() {
    let mut a = Node::new(0);
    let (mut one, mut two, mut three) = (Node::new(1), Node::new(2), Node::new(3));
    let mut all = Vec::new();
    let steps: [(Vec<Change>, [&[&str]; 3]); 7] = [
        (vec![put("k", "public")], [&["public"], &["public"], &["public"]]),
        (vec![put_variant("k", "ours", &[1])], [&["ours"], &["public"], &["public"]]),
        (vec![put_variant("k", "theirs", &[2, 1])], [&["theirs"], &["theirs"], &["public"]]),
        (vec![put("k", "newer")], [&["theirs"], &["theirs"], &["newer"]]),
        (vec![delete_variant("k", &[1])], [&["newer"], &["theirs"], &["newer"]]),
        (vec![put_for("k", "some", &[1, 2])], [&["some"], &["theirs"], &[]]),
        (vec![delete("k")], [&[], &[], &[]]),
    ];
    for (now, (changes, expected)) in (NOW..).zip(steps) {
        let published = a.publish_at(now, changes);
        all.extend(records(&published));
        tell(&a, &mut [&mut one, &mut two, &mut three], now, &published);
        assert_eq!([names(&one), names(&two), names(&three)], expected.map(<[&str]>::to_vec));
        // Who was away and compares gets the same.
        for (seed, expected) in (1..).zip(expected) {
            let mut late = Node::new(seed);
            sync(&mut late, &mut a, now);
            assert_eq!(names(&late), expected);
        }
    }
    assert!(all.len() >= 8, "{}", all.len());
    for first in &all {
        for second in &all {
            assert_eq!(Equivocation::prove(realm(), first, second), None, "nobody lied");
        }
    }
}

#[test]
fn a_variant_beside_nothing_is_withdrawn_with_its_key() {
    let (mut a, mut one, mut two) = (Node::new(0), Node::new(1), Node::new(2));
    let published = a.publish(vec![put_variant("k", "ours", &[1])]);
    assert!(published.direct.iter().all(|(to, _)| *to == org(1)), "nobody else hears of it");
    tell(&a, &mut [&mut one, &mut two], NOW, &published);
    assert_eq!((names(&one), names(&two)), (vec!["ours".to_owned()], vec![]));
    assert_eq!(a.catalog.offered_to("k", org(1)).unwrap().name, "ours");
    assert_eq!(a.catalog.offered_to("k", org(2)), None);
    let refused = a.catalog.publish(&a.key, &a.identity, NOW, vec![delete_variant("k", &[2])]);
    assert!(refused.is_err(), "there is none for it");
    let published = a.publish_at(NOW + 1, vec![delete("k")]);
    tell(&a, &mut [&mut one, &mut two], NOW + 1, &published);
    assert_eq!(names(&one), Vec::<String>::new());
}

#[test]
fn variants_come_back_from_the_store() {
    let mut a = Node::new(0);
    let slots = a.publish(vec![put_for("k", "some", &[3]), put_variant("k", "ours", &[1, 2])]);
    let mut again = Catalog::new(a.id, realm(), Limits::default());
    again.restore_own(2, slots.records).unwrap();
    for (seed, name) in [(1, Some("ours")), (2, Some("ours")), (3, Some("some")), (4, None)] {
        let shown = again.offered_to("k", org(seed)).map(|resource| resource.name.as_str());
        assert_eq!(shown, name, "{seed}");
    }
    a.catalog = again;
    assert_eq!(a.publish(vec![put_variant("k", "ours", &[1, 2])]).direct, [], "nothing is new");
    let mut one = Node::new(1);
    a.publish_at(NOW + 9, vec![put_variant("k", "newer", &[1])]);
    sync(&mut one, &mut a, NOW + 9);
    assert_eq!(names(&one), ["newer"]);
}

/// Something that an author does.
#[derive(Clone, Debug)]
enum Deed {
    Public(u8),
    For(u8, Vec<u16>),
    Variant(u8, Vec<u16>),
    NoVariant(Vec<u16>),
    Delete,
}

impl Deed {
    fn change(&self, key: &str) -> Change {
        match self {
            Self::Public(name) => put(key, &format!("n{name}")),
            Self::For(name, seeds) => put_for(key, &format!("n{name}"), seeds),
            Self::Variant(name, seeds) => put_variant(key, &format!("n{name}"), seeds),
            Self::NoVariant(seeds) => delete_variant(key, seeds),
            Self::Delete => delete(key),
        }
    }

    /// What of it concerns this one alone; `None` when nothing does.
    fn alone(&self, seed: u16) -> Option<Self> {
        let own = |seeds: &[u16]| if seeds.contains(&seed) { vec![seed] } else { Vec::new() };
        match self {
            Self::For(name, seeds) => Some(Self::For(*name, own(seeds))),
            Self::Variant(name, seeds) => {
                seeds.contains(&seed).then(|| Self::Variant(*name, vec![seed]))
            }
            Self::NoVariant(seeds) => seeds.contains(&seed).then(|| Self::NoVariant(vec![seed])),
            other => Some(other.clone()),
        }
    }
}

fn deed() -> impl Strategy<Value = Deed> {
    let some = || proptest::collection::vec(1_u16..4, 1..4);
    prop_oneof![
        2 => (0_u8..3).prop_map(Deed::Public),
        2 => (0_u8..3, some()).prop_map(|(name, seeds)| Deed::For(name, seeds)),
        4 => (0_u8..3, some()).prop_map(|(name, seeds)| Deed::Variant(name, seeds)),
        2 => some().prop_map(Deed::NoVariant),
        1 => Just(Deed::Delete),
    ]
}

/// Does something, if it can be done; what goes to everybody, and to organisation 1.
fn done(node: &mut Node, now_ms: u64, key: &str, deed: &Deed) -> (Vec<Vec<u8>>, Vec<SyncMessage>) {
    let changes = vec![deed.change(key)];
    let done = node.catalog.publish(&node.key, &node.identity, now_ms, changes);
    let published = done.unwrap_or_default();
    let direct = published.direct.into_iter().filter(|(to, _)| *to == org(1));
    (published.push, direct.map(|(_, message)| message).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Two worlds that differ only in what others are shown are one world to an organisation: not a byte tells them apart.
    #[test]
    fn nobody_learns_what_others_are_shown(
        deeds in proptest::collection::vec((deed(), 0_u8..2, 0_u64..3), 1..14),
    ) {
        let (mut crowded, mut alone) = (Node::new(0), Node::new(0));
        // So that both have a head, whatever comes first.
        for node in [&mut crowded, &mut alone] {
            node.publish(vec![put("first", "F")]);
        }
        let mut now = NOW;
        let mut signed: Vec<Vec<u8>> = Vec::new();
        for (deed, key, later) in deeds {
            now += later;
            let key = format!("k{key}");
            let (push, direct) = done(&mut crowded, now, &key, &deed);
            let (push_alone, direct_alone) = match deed.alone(1) {
                Some(deed) => done(&mut alone, now, &key, &deed),
                None => (Vec::new(), Vec::new()),
            };
            prop_assert_eq!(push, push_alone);
            prop_assert_eq!(&direct, &direct_alone);
            for message in direct {
                if let SyncMessage::Restricted { records, .. } = message {
                    signed.extend(records.into_iter().map(|bytes| bytes.0));
                }
            }
        }
        let asked = |node: &mut Node| {
            let from = (Node::new(1).id, org(1));
            node.catalog.handle_sync(now, from, SyncMessage::WantRestricted).unwrap().replies
        };
        prop_assert_eq!(asked(&mut crowded), asked(&mut alone));
        // And what it was told of a key is in the order of its numbers.
        let mut last = std::collections::BTreeMap::new();
        for bytes in signed {
            let record = Record::verify(&bytes).unwrap();
            let before = last.insert(record.key.clone(), record.version);
            prop_assert!(before.is_none_or(|before| before < record.version));
        }
    }
}
