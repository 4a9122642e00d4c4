//! Records of organisations whose membership was taken back.

use crate::support::*;
use catalog::cert::Revocations;

#[test]
fn records_of_an_organisation_that_is_no_member_any_more_go_at_once_and_stay_out() {
    let (mut guest, mut other, mut reader) = (Node::new(1), Node::new(2), Node::new(0));
    let pushes = [&mut guest, &mut other].map(|node| node.publish(vec![put("k", "X")]).push);
    pushes.iter().for_each(|push| deliver(&mut reader, NOW, push));
    assert_eq!(reader.shown(NOW).len(), 2);
    // Its own list says nothing; an organisation that did not admit it has no say.
    let list = Revocations::empty(org(2)).with([*org(1).as_bytes()]).unwrap();
    assert!(reader.catalog.revoke(list).is_empty());
    let list = Revocations::empty(org(0)).with([*org(1).as_bytes()]).unwrap();
    assert_eq!(reader.catalog.revoke(list), [guest.id]);
    assert_eq!(reader.shown(NOW), [(other.id, "k".to_owned(), "X".to_owned())]);
    // Neither the same nor a newer word of it brings it back, and who has not heard yet is not to blame.
    let later = guest.publish(vec![put("l", "Y")]).push;
    for push in [&pushes[0], &later] {
        let error = reader.catalog.handle_push(NOW, &push[0]).unwrap_err();
        assert!(!error.is_peer_fault(), "{error}");
    }
    let mut slow = Node::new(3);
    deliver(&mut slow, NOW, &later);
    let theirs = slow.catalog.start_sync();
    let answered = reader.catalog.handle_sync(NOW, (slow.id, slow.org), theirs).unwrap();
    assert!(answered.faults.is_empty());
    assert_eq!(reader.shown(NOW).len(), 1);
}
