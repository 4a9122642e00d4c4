//! Delegated queries: what a peer answers is what it holds and the asker may see, and no lie of it is shown.

#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should stop the test")]

#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use catalog::ask::{
    ANSWER_LEN_MAX, Answer, Ask, AskFault, Found, Lent, Place, Progress, Question, RefuseAsk,
};
use catalog::cert::Revocations;
use catalog::record::{Kind, Kinds, Resource, Visibility};
use catalog::{Change, Filter, NodeId, OrgId, RealmId};
use proptest::prelude::*;
use support::*;

fn question(filter: &str) -> Question {
    Question { filter: Filter::parse(filter).unwrap(), kinds: Kinds::ALL }
}

/// Asks one node for everything, page by page, through the encoding of each.
fn ask(lent: &mut Lent, from: &Node, org: OrgId) -> Result<usize, AskFault> {
    let (mut after, mut pages) = (None, 0);
    loop {
        let asked = lent.question().ask(7, lent.realm(), after.clone());
        let answer = from.catalog.answer(NOW, org, &asked).unwrap();
        let mut bytes = Vec::new();
        ciborium::into_writer(&answer, &mut bytes).unwrap();
        assert!(bytes.len() < ANSWER_LEN_MAX + ANSWER_LEN_MAX / 4, "{} bytes", bytes.len());
        let answer: Answer = ciborium::from_reader(&bytes[..]).unwrap();
        pages += 1;
        match lent.take(NOW, from.id, after.as_ref(), &answer)? {
            Progress::More(next) => after = Some(next),
            Progress::Done | Progress::Full => return Ok(pages),
        }
    }
}

fn told(lent: &Lent) -> Vec<(NodeId, String, String)> {
    let entries = lent.entries(NOW);
    entries.map(|e| (e.author, e.key.to_owned(), e.resource.name.clone())).collect()
}

/// A node that asks and is nobody else in these tests.
fn asker() -> Node {
    Node::new(90)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn who_asks_sees_what_the_answerer_shows_it(
        keys in prop::collection::vec((0u16..4, 0u8..20, "[ab]{1,3}"), 1..30),
        hidden in prop::collection::vec((0u16..4, 0u8..8, any::<bool>()), 0..8),
    ) {
        let mut authors: Vec<Node> = (0..4).map(Node::new).collect();
        for (at, author) in (0..).zip(&mut authors) {
            let of_this = keys.iter().filter(|(of, ..)| *of == at);
            author.publish(of_this.map(|(_, key, name)| put(&format!("k/{key}"), name)).collect());
            let of_this = hidden.iter().filter(|(of, ..)| *of == at);
            let orgs = |is_ours: bool| if is_ours { &[90] } else { &[91] };
            let hide = |(_, key, is_ours): &(u16, u8, bool)| {
                put_for(&format!("k/{key}"), "aa", orgs(*is_ours))
            };
            author.publish(of_this.map(hide).collect());
        }
        let (mut server, asker) = (authors.remove(0), asker());
        for author in &mut authors {
            sync(&mut server, author, NOW);
        }
        let mut lent = Lent::beside(&asker.catalog, question("name ~ a"));
        ask(&mut lent, &server, asker.org).unwrap();
        let own_for_us = |key: &str| {
            let of_key = hidden.iter().rev().find(|(at, k, _)| *at == 0 && format!("k/{k}") == key);
            of_key.map(|(_, _, is_ours)| *is_ours)
        };
        let public = server.catalog.resources(NOW).filter(|e| !e.is_restricted);
        let mut expected: Vec<_> = public
            .map(|e| (e.author, e.key.to_owned(), e.resource.name.clone()))
            .filter(|(author, key, _)| *author != server.id || own_for_us(key).is_none())
            .filter(|(_, _, name)| name.contains('a'))
            .collect();
        expected.extend(
            (0..8).map(|k| format!("k/{k}"))
                .filter(|key| own_for_us(key) == Some(true))
                .map(|key| (server.id, key, "aa".to_owned())),
        );
        expected.sort();
        let mut found = told(&lent);
        found.sort();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn what_does_not_fit_comes_on_further_pages_and_other_kinds_do_not_come() {
    let (mut server, asker) = (Node::new(0), asker());
    let long = "x".repeat(2_000);
    let lots = (0..250).map(|n| Resource { long: long.clone(), ..service(&format!("k/{n}"), "x") });
    server.publish(lots.map(|lot| Change::Put(lot, Visibility::Public)).collect());
    let mut lent = Lent::beside(&asker.catalog, question("name ~ x"));
    let pages = ask(&mut lent, &server, asker.org).unwrap();
    assert_eq!(told(&lent).len(), 250);
    assert!(pages >= 3, "{pages} pages");
    let nothing = Question { kinds: Kinds::of(Kind::Data), ..question("") };
    let mut lent = Lent::beside(&asker.catalog, nothing);
    assert_eq!(ask(&mut lent, &server, asker.org), Ok(1));
    assert!(lent.is_empty(NOW), "other kinds were asked for");
}

#[test]
fn a_question_for_another_realm_or_in_another_language_is_refused() {
    let (server, asker) = (Node::new(0), asker());
    let refused = |asked| server.catalog.answer(NOW, asker.org, asked).unwrap_err();
    let elsewhere = question("").ask(1, RealmId::from_bytes([3; 16]), None);
    assert_eq!(refused(&elsewhere), RefuseAsk::Realm);
    let newer = Ask { filter: "colour = red".to_owned(), ..question("").ask(1, realm(), None) };
    assert_eq!(refused(&newer), RefuseAsk::Filter);
}

/// One public record of node 1, as an answer of it.
fn honest() -> (Node, Answer) {
    let mut author = Node::new(1);
    author.publish(vec![put("k", "X"), put_for("secret", "S", &[90])]);
    let asked = question("").ask(1, realm(), None);
    let answer = author.catalog.answer(NOW, asker().org, &asked).unwrap();
    assert_eq!((answer.found[0].records.len(), answer.found[0].restricted.len()), (1, 1));
    (author, answer)
}

#[test]
fn what_is_forged_indiscreet_or_circular_is_a_fault_and_not_shown() {
    let (author, answer) = honest();
    let liar = Node::new(2).id;
    let lent = || Lent::beside(&asker().catalog, question(""));
    assert_eq!(lent().take(NOW, author.id, None, &answer), Ok(Progress::Done));
    let refused = |from, after: Option<&Place>, answer: &Answer| {
        let mut lent = lent();
        let fault = lent.take(NOW, from, after, answer).unwrap_err();
        assert!(fault.is_peer_fault(), "{fault}");
        (fault, told(&lent).len())
    };
    let mut forged = answer.clone();
    *forged.found[0].records[0].0.last_mut().unwrap() ^= 1;
    assert!(matches!(refused(author.id, None, &forged), (AskFault::Push(_), 0)));
    let mut moved = answer.clone();
    moved.found[0].restricted = std::mem::take(&mut moved.found[0].records);
    assert!(matches!(refused(author.id, None, &moved), (AskFault::Push(_), 0)));
    assert_eq!(refused(liar, None, &answer), (AskFault::Indiscreet { author: author.id }, 1));
    let at = Place { author: author.id, key: "k".to_owned() };
    let circle = Answer { next: Some(at.clone()), ..answer };
    assert_eq!(refused(author.id, Some(&at), &circle).0, AskFault::Circle);
}

#[test]
fn an_author_of_no_member_or_with_an_ended_lease_is_not_shown() {
    let (author, answer) = honest();
    let mut lent = Lent::beside(&asker().catalog, question(""));
    let late = NOW + 41 * MINUTE;
    assert_eq!(lent.take(late, author.id, None, &answer), Ok(Progress::Done));
    assert!(lent.is_empty(late));
    // Papers of another realm lead to another founder, whatever they are told to be good for.
    let other = RealmId::from_bytes([3; 16]);
    let mut lent = Lent::of_realm(asker().id, other, question(""));
    assert!(lent.take(NOW, author.id, None, &answer).unwrap_err().is_peer_fault());
    // In its own realm an author is known by its papers, by whoever is no member.
    let mut lent = Lent::of_realm(asker().id, realm(), question(""));
    assert_eq!(lent.take(NOW, author.id, None, &answer), Ok(Progress::Done));
    assert_eq!(told(&lent).len(), 2);
}

#[test]
fn whom_the_asker_knows_to_be_revoked_it_is_not_shown_by_others() {
    let (author, answer) = honest();
    let mut asker = asker();
    let list = Revocations { serial: 1, revoked: vec![1], ..Revocations::empty(org(1)) };
    asker.catalog.revoke(list);
    let mut lent = Lent::beside(&asker.catalog, question(""));
    assert_eq!(lent.take(NOW, author.id, None, &answer), Ok(Progress::Done), "it may not know");
    assert!(lent.is_empty(NOW));
}

#[test]
fn what_was_not_asked_for_is_not_shown() {
    let (author, answer) = honest();
    let mut lent = Lent::beside(&asker().catalog, question("name = Y"));
    assert_eq!(lent.take(NOW, author.id, None, &answer), Ok(Progress::Done));
    assert!(lent.is_empty(NOW));
    let lot: Vec<Found> = std::iter::repeat_n(answer.found[0].clone(), 8_000).collect();
    let flood = Answer { found: lot, ..answer };
    assert_eq!(lent.take(NOW, author.id, None, &flood), Ok(Progress::Full), "and it ends");
}
