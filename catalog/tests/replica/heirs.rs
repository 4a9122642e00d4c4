//! A node's records under its next key, and what becomes of those under the one before.

use crate::support::*;
use catalog::cert::Succession;

/// The node with the key of another, which named it.
fn heir_of(old: &Node, seed: u16) -> Node {
    let mut new = Node::new(seed);
    let word = Succession { old: old.id, new: new.id, org: old.org, generation: 2, made_ms: NOW };
    let paper = catalog::cert::NodeCert {
        generation: 2,
        successions: Some(vec![word.sign(&old.key)]),
        ..cert(0, new.id, 99)
    };
    new.identity.cert = paper.sign(&org_key(0));
    new.identity.membership = membership(0);
    new.org = old.org;
    new
}

#[test]
fn papers_of_a_new_key_end_the_records_of_the_old_one_for_good() {
    let (mut old, mut reader) = (Node::new(0), Node::new(1));
    let before = old.publish(vec![put("k", "Before"), put("l", "Gone")]).push;
    deliver(&mut reader, NOW, &before);
    assert_eq!(reader.shown(NOW).len(), 2);
    let mut new = heir_of(&old, 7);
    let after = new.publish(vec![put("k", "After")]).push;
    deliver(&mut reader, NOW, &after);
    assert_eq!(reader.shown(NOW), [(new.id, "k".to_owned(), "After".to_owned())]);
    assert_eq!(reader.catalog.take_successions(), [(old.id, new.id)]);
    assert!(reader.catalog.take_successions().is_empty());
    // Whoever has the old key writes nothing more, whoever brings it, and nobody is blamed for having it still.
    deliver(&mut reader, NOW, &old.publish(vec![put("m", "Later")]).push);
    let mut slow = Node::new(2);
    deliver(&mut slow, NOW, &before);
    sync(&mut reader, &mut slow, NOW);
    assert_eq!(reader.shown(NOW).len(), 1);
    assert_eq!(slow.shown(NOW).len(), 1, "and the other learns of it");
    assert_eq!(slow.catalog.fingerprint(), reader.catalog.fingerprint());
}

#[test]
fn of_two_keys_that_name_one_before_them_the_first_counts() {
    let (mut old, mut reader) = (Node::new(0), Node::new(1));
    deliver(&mut reader, NOW, &old.publish(vec![put("k", "Before")]).push);
    let (mut first, mut second) = (heir_of(&old, 7), heir_of(&old, 8));
    deliver(&mut reader, NOW, &first.publish(vec![put("k", "First")]).push);
    let pushes = second.publish(vec![put("k", "Second")]).push;
    deliver(&mut reader, NOW, &pushes);
    assert_eq!(reader.shown(NOW), [(first.id, "k".to_owned(), "First".to_owned())]);
    // What the organisation takes back came after nothing.
    let list = catalog::cert::Revocations::empty(old.org);
    reader.catalog.revoke(list.with([*first.id.as_bytes()]).unwrap());
    deliver(&mut reader, NOW, &pushes);
    assert_eq!(reader.shown(NOW), [(second.id, "k".to_owned(), "Second".to_owned())]);
}
