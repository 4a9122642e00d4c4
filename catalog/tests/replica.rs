//! Publishing, pushes, leases and lies, as two or three nodes see them.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should stop the test")]

#[path = "replica/heirs.rs"]
mod heirs;
#[path = "replica/revoked.rs"]
mod revoked;
mod support;

use catalog::cert::Revocations;
use catalog::log::{Head, LEASE_MS, NO_END_MS, Record, Version};
use catalog::papers::{Papers, papers_hash};
use catalog::publish::{PublishError, RestoreError, stored_key};
use catalog::record::{ComputeDetail, DataDetail, Detail, Resource};
use catalog::replica::{PUSH_LEN_MAX, PushError};
use catalog::{Catalog, Digest, Filter, Identity, Limits};
use proptest::prelude::*;
use support::*;

fn compute(key: &str, arch: &str, cores: u64) -> Resource {
    let detail = Detail::Compute(ComputeDetail {
        arch: arch.to_owned(),
        runtimes: vec!["wasi".to_owned(), "vm".to_owned()],
        cpu_milli: cores * 1000,
        memory_bytes: 8 << 30,
        disk_bytes: 100 << 30,
        accelerators: vec![],
        region: "de".to_owned(),
        energy: None,
        addresses: Vec::new(),
        network: false,
        exec: None,
        device_for: None,
    });
    Resource { detail, ..service(key, "Compute") }
}

fn data(key: &str, name: &str, is_personal: bool) -> Resource {
    let detail = Detail::Data(DataDetail {
        media_type: "image/tiff".to_owned(),
        digest: Digest::of(name.as_bytes()),
        size: 5_000_000,
        directory: false,
        quality: String::new(),
        personal: is_personal,
        anonymised: false,
        open: !is_personal,
        update_s: None,
        residency: vec!["eu".to_owned(), "ch".to_owned()],
    });
    Resource { detail, ..service(key, name) }
}

fn push_of(head: &Vec<u8>, records: &[Vec<u8>]) -> Vec<u8> {
    let records = records.to_vec();
    catalog::cbor::MapWriter::new().put(1, head).put(2, &records).encode()
}

fn push_with(head: &Vec<u8>, records: &[Vec<u8>], papers: &Vec<u8>) -> Vec<u8> {
    let records = records.to_vec();
    catalog::cbor::MapWriter::new().put(1, head).put(2, &records).put(3, papers).encode()
}

/// The head and records inside a gossip message.
fn unpack(push: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let value = catalog::cbor::decode(push, PUSH_LEN_MAX).unwrap();
    let mut map = catalog::cbor::MapReader::new(&value).unwrap();
    (map.take(1).unwrap(), map.take(2).unwrap())
}

#[test]
fn what_is_published_appears_at_a_peer_and_goes_when_deleted() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    let first = a.publish(vec![put("service/x", "X"), put("service/y", "Y")]);
    deliver(&mut b, NOW, &first.push);
    assert_eq!(b.shown(NOW), a.shown(NOW));
    let entry = b.catalog.resources(NOW).next().unwrap();
    assert_eq!((entry.org_name, entry.node_name, entry.is_restricted), ("Org 0", "node-0", false));
    let second = a.publish(vec![delete("service/x")]);
    let news = b.catalog.handle_push(NOW, &second.push[0]).unwrap().news;
    assert_eq!(news, [(a.id, "service/x".to_owned())]);
    assert_eq!(b.shown(NOW), [(a.id, "service/y".to_owned(), "Y".to_owned())]);
    assert_eq!(a.catalog.fingerprint(), b.catalog.fingerprint());
}

#[test]
fn a_put_that_changes_nothing_costs_nothing() {
    let mut a = Node::new(0);
    a.publish(vec![put("k", "X"), put_for("r", "R", &[1])]);
    let version = a.catalog.own_version();
    let again = a.publish(vec![put("k", "X"), put_for("r", "R", &[1])]);
    assert_eq!(again, catalog::Published::default());
    assert_eq!(a.catalog.own_version(), version);
}

#[test]
fn large_publications_are_split_into_small_messages() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    let changes = (0..300).map(|n| put(&format!("k/{n}"), "X")).collect();
    let published = a.publish(changes);
    assert!(published.push.len() > 1);
    assert!(published.push.iter().all(|push| push.len() <= PUSH_LEN_MAX));
    assert!(published.records.iter().all(|stored| stored_key(stored).is_some()));
    deliver(&mut b, NOW, &published.push);
    assert_eq!(b.shown(NOW).len(), 300);
    assert_eq!(a.catalog.fingerprint(), b.catalog.fingerprint());
}

#[test]
fn replayed_messages_bring_nothing_back() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    let first = a.publish(vec![put("k", "old"), put("gone", "G")]).push;
    let second = a.publish(vec![put("k", "new"), delete("gone")]).push;
    deliver(&mut b, NOW, &first);
    deliver(&mut b, NOW, &second);
    for push in first.iter().chain(&second) {
        let pushed = b.catalog.handle_push(NOW, push).unwrap();
        assert_eq!((pushed.news.len(), pushed.store.len()), (0, 0));
    }
    assert_eq!(b.shown(NOW), [(a.id, "k".to_owned(), "new".to_owned())]);
}

#[test]
fn an_author_counts_until_its_lease_ends() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    deliver(&mut b, NOW, &a.publish(vec![put("k", "X")]).push);
    assert!(a.catalog.next_renewal_ms() <= NOW + 15 * MINUTE);
    assert_eq!(a.renew(NOW), None, "not due yet");
    let due = a.catalog.next_renewal_ms();
    let renewal = a.renew(due).unwrap();
    deliver(&mut b, due, &[renewal]);
    assert_eq!(b.shown(due + LEASE_MS - 1).len(), 1);
    assert_eq!(b.shown(due + LEASE_MS).len(), 0);
    assert_eq!(b.catalog.expire(due + LEASE_MS - 1), []);
    assert_eq!(b.catalog.expire(due + LEASE_MS), [a.id]);
    assert_eq!(b.catalog.node_cert(a.id), None);
    assert_eq!(a.shown(due + 2 * LEASE_MS).len(), 1, "an own resource needs no lease");
}

#[test]
fn an_expired_head_does_not_bring_an_author_back() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    let push = a.publish(vec![put("k", "X")]).push;
    deliver(&mut b, NOW + LEASE_MS, &push);
    assert_eq!(b.catalog.authors().count(), 0);
}

#[test]
fn a_lease_from_the_future_is_refused_without_blame() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    let push = a.publish_at(NOW + 6 * MINUTE, vec![put("k", "X")]).push;
    let error = b.catalog.handle_push(NOW, &push[0]).unwrap_err();
    assert!(matches!(error, PushError::Lease { .. }) && !error.is_peer_fault());
}

#[test]
fn strangers_and_forgers_are_refused() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    deliver(&mut b, NOW, &a.publish(vec![put("k", "X")]).push);
    let before = b.shown(NOW);
    let (head, records) = unpack(&a.publish(vec![put("k", "Y")]).push[0]);
    let mut mallory = Node::new(2);
    let (mallory_head, mallory_records) = unpack(&mallory.publish(vec![put("k", "M")]).push[0]);
    let mallory_papers = mallory.papers();

    let forged = Record { author: a.id, ..Record::verify(&mallory_records[0]).unwrap() };
    let forged = forged.sign(&mallory.key);
    let mut forged_head = Head::verify(&head).unwrap();
    forged_head.root = [0; 32];
    let outsider_identity = Identity { membership: membership(1), ..mallory.identity.clone() };
    let outsider = mallory.catalog.clone().publish(&mallory.key, &outsider_identity, NOW, vec![]);
    assert!(matches!(outsider, Err(PublishError::Author(_))));
    let Identity { cert, membership } = outsider_identity;
    let outsider_papers = Papers { author: mallory.id, cert, membership }.encode();
    let outsider_head =
        Head { papers: papers_hash(&outsider_papers), ..Head::verify(&mallory_head).unwrap() };
    for (push, why) in [
        (push_of(&head, std::slice::from_ref(&forged)), "a record signed by another"),
        (push_with(&mallory_head, &records[..1], &mallory_papers), "beside another's head"),
        (push_of(&forged_head.sign(&mallory.key), &[]), "a head signed by another"),
        (
            push_with(&outsider_head.sign(&mallory.key), &[], &outsider_papers),
            "another's membership",
        ),
        (vec![0xa0], "an empty message"),
        (vec![0; PUSH_LEN_MAX + 1], "a long message"),
    ] {
        let mut c = b.catalog.clone();
        let error = c.handle_push(NOW, &push).unwrap_err();
        assert!(error.is_peer_fault(), "{why}: {error}");
        let names: Vec<_> = c.resources(NOW).map(|e| e.resource.name.clone()).collect();
        assert!(!names.contains(&"M".to_owned()), "{why}");
    }
    assert_eq!(b.shown(NOW), before);
}

#[test]
fn papers_travel_once_and_are_asked_for_when_they_were_missed() {
    let (mut a, mut b, mut c) = (Node::new(0), Node::new(1), Node::new(2));
    let plain = |node: &mut Node, key: &str| {
        node.catalog.publish(&node.key, &node.identity, NOW, vec![put(key, "X")]).unwrap().push
    };
    let (first, second) = (plain(&mut a, "k"), plain(&mut a, "l"));
    assert!(second[0].len() + 300 < first[0].len(), "the second carries none");
    deliver(&mut b, NOW, &first);
    deliver(&mut b, NOW, &second);
    assert_eq!(b.shown(NOW).len(), 2);
    let error = c.catalog.handle_push(NOW, &second[0]).unwrap_err();
    assert!(matches!(error, PushError::Papers { .. }) && !error.is_peer_fault());

    a.identity.cert = cert(0, a.id, 77).sign(&org_key(0));
    let (renewed, third) = (plain(&mut a, "m"), plain(&mut a, "n"));
    assert!(renewed[0].len() > third[0].len() + 300, "new papers are told");
    assert!(b.catalog.handle_push(NOW, &third[0]).is_err(), "that message was lost");
    for node in [&mut c, &mut b] {
        sync(node, &mut a, NOW);
        assert_eq!(node.catalog.fingerprint(), a.catalog.fingerprint());
    }
    assert_eq!(b.catalog.node_cert(a.id).unwrap().serial, 77);
}

#[test]
fn other_papers_than_those_named_are_refused() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    let (head, records) = unpack(&a.publish(vec![put("k", "X")]).push[0]);
    a.identity.cert = cert(0, a.id, 77).sign(&org_key(0));
    let error = b.catalog.handle_push(NOW, &push_with(&head, &records, &a.papers())).unwrap_err();
    assert!(matches!(error, PushError::OtherPapers { .. }) && error.is_peer_fault());
    assert_eq!(b.catalog.authors().count(), 0);
}

#[test]
fn records_newer_than_their_head_are_refused() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    let (old_head, _) = unpack(&a.publish(vec![put("k", "X")]).push[0]);
    let (_, new) = unpack(&a.publish(vec![put("k", "Y")]).push[0]);
    let error = b.catalog.handle_push(NOW, &push_with(&old_head, &new, &a.papers())).unwrap_err();
    assert!(matches!(error, PushError::Uncovered { .. }));
}

#[test]
fn two_contents_for_one_version_prove_a_lie_and_the_proof_travels() {
    let (mut a, mut twin) = (Node::new(0), Node::new(0));
    let (mut b, mut c) = (Node::new(1), Node::new(2));
    let one = a.publish(vec![put("k", "one")]).push;
    let two = twin.publish(vec![put("k", "two")]).push;
    deliver(&mut c, NOW, &one);
    deliver(&mut b, NOW, &one);
    deliver(&mut b, NOW, &two);
    let proof = b.catalog.equivocations().next().unwrap().clone();
    assert_eq!((proof.author, proof.version), (a.id, Version { epoch: 1, seq: 1 }));
    assert_eq!(b.shown(NOW), []);
    deliver(&mut b, NOW, &a.publish(vec![put("k", "three")]).push);
    assert_eq!(b.shown(NOW), [], "nothing more is taken from it");
    sync(&mut c, &mut b, NOW);
    assert_eq!(c.shown(NOW), []);
    assert_eq!(c.catalog.equivocations().next(), Some(&proof));
    assert_eq!(c.catalog.fingerprint(), b.catalog.fingerprint());
}

#[test]
fn contradicting_records_under_one_head_prove_a_lie_too() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    let (head, records) = unpack(&a.publish(vec![put("k", "one"), put("l", "L")]).push[0]);
    deliver(&mut b, NOW, &[push_with(&head, &records, &a.papers())]);
    let body = Some(service("k", "two").encode().unwrap());
    let lie = Record { body, ..Record::verify(&records[0]).unwrap() }.sign(&a.key);
    deliver(&mut b, NOW, &[push_of(&head, &[lie])]);
    assert_eq!(b.catalog.equivocations().count(), 1);
}

#[test]
fn quotas_hold_against_an_author_and_a_crowd() {
    let limits = Limits { authors: 2, records_per_author: 3, bytes_per_author: 4000 };
    let (mut a, mut c) = (Node::new(0), Node::new(2));
    let mut small = Catalog::new(Node::new(1).id, realm(), limits);
    let many = a.publish((0..40).map(|n| put(&format!("k/{n}"), "X")).collect()).push;
    let error = small.handle_push(NOW, &many[0]).unwrap_err();
    assert!(matches!(error, PushError::Quota { .. }) && error.is_peer_fault());
    small.handle_push(NOW, &c.publish(vec![put("k", "X")]).push[0]).unwrap();
    let crowd = Node::new(3).publish(vec![put("k", "X")]).push;
    let error = small.handle_push(NOW, &crowd[0]).unwrap_err();
    assert!(matches!(error, PushError::TooManyAuthors { max: 2 }) && !error.is_peer_fault());

    let mut own = Catalog::new(a.id, realm(), limits);
    let changes: Vec<_> = (0..4).map(|n| put(&format!("k/{n}"), "X")).collect();
    let refused = own.publish(&a.key, &a.identity, NOW, changes);
    assert!(matches!(refused, Err(PublishError::Records { records: 4, max: 3 })));
    assert_eq!(own.resources(NOW).count(), 0, "all or nothing");
    let unknown = own.publish(&a.key, &a.identity, NOW, vec![put("k", "X"), delete("nope")]);
    assert_eq!(unknown, Err(PublishError::Unknown { key: "nope".to_owned() }));
    assert_eq!(own.resources(NOW).count(), 0, "all or nothing");
}

#[test]
fn revoked_authors_are_dropped_and_stay_out() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    deliver(&mut b, NOW, &a.publish(vec![put("k", "X")]).push);
    let list = |serial, revoked: &[u64]| Revocations {
        org: org(0),
        serial,
        revoked: revoked.to_vec(),
        keys: vec![],
    };
    assert_eq!(b.catalog.revoke(list(1, &[77])), []);
    assert_eq!(b.catalog.revoke(list(2, &[0])), [a.id]);
    assert_eq!(b.catalog.revoke(list(1, &[])), [], "an older list changes nothing");
    let again = a.publish(vec![put("k", "Y")]).push;
    let error = b.catalog.handle_push(NOW, &again[0]).unwrap_err();
    assert!(!error.is_peer_fault(), "the peer may not know the list yet");
}

#[test]
fn an_own_log_is_restored_in_a_higher_epoch_only() {
    let mut a = Node::new(0);
    let mut stored = std::collections::BTreeMap::new();
    for changes in [
        vec![put("k", "X"), put("gone", "G"), put_for("r", "R", &[1, 2])],
        vec![delete("gone"), put_for("r", "R", &[2])],
    ] {
        for record in a.publish(changes).records {
            stored.insert(stored_key(&record).unwrap(), record);
        }
    }
    let records: Vec<Vec<u8>> = stored.into_values().collect();
    let mut again = Node::new(0);
    assert_eq!(
        again.catalog.restore_own(1, records.clone()),
        Err(RestoreError::Epoch { epoch: 1, least: 2 })
    );
    again.catalog.restore_own(2, records.clone()).unwrap();
    again.renew(NOW + MINUTE).unwrap();
    assert_eq!(again.shown(NOW), a.shown(NOW));
    assert_eq!(again.catalog.own_version(), Version { epoch: 2, seq: 0 });

    let mut entitled = Node::new(2);
    sync(&mut entitled, &mut a, NOW);
    sync(&mut entitled, &mut again, NOW + MINUTE);
    assert_eq!(entitled.shown(NOW).len(), 2, "the audience is restored as well");
    let foreign = Node::new(5).catalog.restore_own(2, records);
    assert!(matches!(foreign, Err(RestoreError::Foreign { .. })));
    assert!(Node::new(0).catalog.restore_own(2, vec![vec![1]]).is_err());
}

#[test]
fn a_node_notices_that_peers_know_a_later_log_of_its_own() {
    let (mut a, mut restored) = (Node::new(0), Node::new(0));
    let push = a.publish(vec![put("k", "X")]).push;
    assert_eq!(restored.catalog.seen_ahead(), None);
    deliver(&mut restored, NOW, &push);
    assert_eq!(restored.catalog.seen_ahead(), Some(Version { epoch: 1, seq: 1 }));
    deliver(&mut a, NOW, &push);
    assert_eq!(a.catalog.seen_ahead(), None);
}

#[test]
fn a_cache_of_signed_bytes_restores_a_replica() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    let mut cache = Vec::new();
    for changes in [vec![put("k", "X"), put("l", "L")], vec![put("k", "Y")]] {
        for push in a.publish(changes).push {
            cache.extend(b.catalog.handle_push(NOW, &push).unwrap().store);
        }
    }
    // The store keeps the last head and the last record of each key; here, what order they come in is open.
    let head = cache.iter().rfind(|bytes| Head::verify(bytes).is_ok()).unwrap();
    let mut kept: Vec<Vec<u8>> =
        cache.iter().filter(|bytes| Record::verify(bytes).is_ok()).cloned().collect();
    kept.push(head.clone());
    kept.extend(cache.iter().find(|bytes| Papers::decode(bytes).is_ok()).cloned());
    kept.push(vec![0xff; 10]);
    let mut again = Node::new(1);
    assert_eq!(again.catalog.restore(NOW, &kept).len(), 4, "papers, a head, two records");
    assert_eq!(again.shown(NOW), b.shown(NOW));
    assert_eq!(again.catalog.fingerprint(), b.catalog.fingerprint());
}

#[test]
fn a_certificate_not_in_force_stops_publishing_and_renewing() {
    let mut a = Node::new(0);
    let late = NOW + 25 * 24 * 60 * MINUTE;
    let refused = a.catalog.publish(&a.key, &a.identity, late, vec![put("k", "X")]);
    assert!(matches!(refused, Err(PublishError::Author(_))));
    assert_eq!(a.renew(late), None);
    assert!(a.catalog.next_renewal_ms() > late, "the next try is later");
}

#[test]
fn a_search_filters_and_stops_at_its_limit() {
    let (mut a, mut b) = (Node::new(0), Node::new(1));
    let public = catalog::record::Visibility::Public;
    let changes = vec![
        catalog::Change::Put(compute("compute/main", "aarch64", 4), public.clone()),
        catalog::Change::Put(data("data/dem", "Elevation", false), public),
        put("service/x", "X"),
    ];
    deliver(&mut b, NOW, &a.publish(changes).push);
    let find = |text: &str, limit| {
        b.catalog
            .search(&Filter::parse(text).unwrap(), NOW, limit)
            .iter()
            .map(|entry| entry.key.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(find("kind = compute and cpu >= 4", 9), ["compute/main"]);
    assert_eq!(find("name ~ elev", 9), ["data/dem"]);
    assert_eq!(find("", 2).len(), 2);
    assert_eq!(b.catalog.get(a.id, "service/x").unwrap().name, "X");
    assert_eq!(b.catalog.get(a.id, "service/y"), None);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Renew,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0u8..5, 0u8..4).prop_map(|(key, name)| Step::Put(key, name)),
        1 => (0u8..5).prop_map(Step::Delete),
        1 => Just(Step::Renew),
    ];
    proptest::collection::vec(step, 1..12)
}

/// Lets a node live through steps and returns its gossip; a naive map is the model of what it then shows.
fn live(node: &mut Node, steps: &[Step]) -> Vec<Vec<u8>> {
    let mut model = std::collections::BTreeMap::new();
    let mut pushes = Vec::new();
    for (at, step) in (1u64..).zip(steps) {
        let now_ms = NOW + at;
        match step {
            Step::Put(key, name) => {
                let (key, name) = (format!("k{key}"), format!("n{name}"));
                pushes.extend(node.publish_at(now_ms, vec![put(&key, &name)]).push);
                model.insert(key, name);
            }
            Step::Delete(key) => {
                let key = format!("k{key}");
                if model.remove(&key).is_some() {
                    pushes.extend(node.publish_at(now_ms, vec![delete(&key)]).push);
                }
            }
            Step::Renew => {
                // A new certificate makes a renewal due at once.
                let renewed = cert(0, node.id, at).sign(&org_key(0));
                node.identity.cert = renewed;
                pushes.extend(node.renew(now_ms));
            }
        }
    }
    let shown = node.shown(NOW).into_iter().filter(|(author, ..)| *author == node.id);
    let shown: std::collections::BTreeMap<_, _> = shown.map(|(_, k, n)| (k, n)).collect();
    assert_eq!(shown, model);
    pushes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn pushes_in_any_order_and_number_lead_to_the_authors_log(
        steps in steps(),
        order in proptest::collection::vec(any::<u16>(), 40),
        repeats in proptest::collection::vec(any::<proptest::sample::Index>(), 0..10),
    ) {
        let (mut a, mut b) = (Node::new(0), Node::new(1));
        let pushes = live(&mut a, &steps);
        prop_assume!(!pushes.is_empty());
        let later = NOW + MINUTE;
        let mut delivered: Vec<(u16, Vec<u8>)> = order.into_iter().cycle().zip(pushes.clone()).collect();
        delivered.sort();
        for (_, push) in &delivered {
            deliver(&mut b, later, std::slice::from_ref(push));
        }
        for index in repeats {
            let pushed = b.catalog.handle_push(later, &pushes[index.index(pushes.len())]).unwrap();
            prop_assert!(pushed.news.is_empty());
        }
        prop_assert_eq!(b.catalog.fingerprint(), a.catalog.fingerprint());
        prop_assert_eq!(b.shown(later), a.shown(later));
    }

    #[test]
    fn no_changed_byte_of_a_push_gets_through_or_panics(at in any::<proptest::sample::Index>(), bit in 0u8..8) {
        let (mut a, mut b) = (Node::new(0), Node::new(1));
        let mut push = a.publish(vec![put("k", "X")]).push.remove(0);
        let at = at.index(push.len());
        push[at] ^= 1 << bit;
        let before = b.catalog.fingerprint();
        // Refused; or passed over unverified with nothing kept, because the head says that its lease has ended.
        if let Ok(pushed) = b.catalog.handle_push(NOW, &push) {
            prop_assert!(pushed.news.is_empty() && pushed.store.is_empty());
            prop_assert_eq!(b.catalog.fingerprint(), before);
        }
        prop_assert_eq!(b.shown(NOW).len(), 0);
    }

    #[test]
    fn no_bytes_panic_the_push_reader(bytes in any::<Vec<u8>>()) {
        prop_assert!(Node::new(0).catalog.handle_push(NOW, &bytes).is_err());
    }
}

#[test]
fn records_without_their_own_end_follow_the_lease() {
    let mut a = Node::new(0);
    let (_, records) = unpack(&a.publish(vec![put("k", "X")]).push[0]);
    assert_eq!(Record::verify(&records[0]).unwrap().not_after_ms, NO_END_MS);
}
