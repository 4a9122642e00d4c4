//! Engines that ask each other for records they do not hold.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod realm;

use catalog::ask::{AskMessage, Question, RefuseAsk};
use catalog::record::{Kind, Kinds};
use catalog::{Filter, RealmId};
use node::engine::Input;
use node::engine::ask::AskError;
use node::engine::command::{Command, CommandError, Response};
use node::engine::message::NodeMessage;
use realm::{Realm, Sent as _, penalties, service};

fn search(filter: &str) -> Command {
    Command::Catalog { filter: filter.to_owned(), limit: 100, is_asking: true }
}

/// The names that a search gave, or why it gave none.
fn names(result: Result<Response, CommandError>) -> Result<Vec<String>, CommandError> {
    match result? {
        Response::Catalog(found) => Ok(found.into_iter().map(|view| view.resource.name).collect()),
        other => panic!("{other:?}"),
    }
}

/// Three nodes of three organisations; the last one has just published what the others have not heard of.
fn realm_with_news() -> Realm {
    let mut realm = Realm::of(3);
    realm.publish(2, service("s", "fresh"));
    realm
}

#[test]
fn what_a_peer_alone_holds_is_found_by_asking() {
    let mut realm = realm_with_news();
    let held = Command::Catalog { filter: "name = fresh".to_owned(), limit: 9, is_asking: false };
    assert_eq!(names(realm.run(0, held)).unwrap(), Vec::<String>::new());
    assert_eq!(names(realm.run(0, search("name = fresh"))).unwrap(), ["fresh"]);
    assert_eq!(names(realm.run(0, search("kind = compute"))).unwrap().len(), 3, "each once");
    let error = names(realm.run(0, search("colour = red"))).unwrap_err();
    assert!(matches!(error, CommandError::Filter { .. }), "{error}");
}

#[test]
fn a_liar_is_found_out_and_hides_nothing() {
    let mut realm = realm_with_news();
    realm.start(0, search("kind = service"));
    let (asker, liar) = (realm.id(0), realm.id(1));
    // What the honest one would say, altered.
    let ask = realm.ask_to(liar).unwrap();
    let payload = NodeMessage::Ask(AskMessage::Ask(ask)).encode();
    let said = realm.handle(2, Input::Message { from: asker, payload }).sent_to(asker);
    let [NodeMessage::Ask(AskMessage::Answer(answer))] = said.as_slice() else {
        panic!("{said:?}");
    };
    let mut forged = answer.clone();
    *forged.found[0].records[0].0.last_mut().unwrap() ^= 1;
    let payload = NodeMessage::Ask(AskMessage::Answer(forged)).encode();
    let effects = realm.handle(0, Input::Message { from: liar, payload });
    assert_eq!(penalties(&effects), 1);
    realm.drop_mail_to(liar);
    realm.pump();
    assert_eq!(names(realm.reply(0).unwrap()).unwrap(), ["fresh"]);
}

#[test]
fn without_peers_or_answers_the_command_says_so() {
    let mut alone = Realm::of(1);
    let error = names(alone.run(0, search(""))).unwrap_err();
    assert!(matches!(error, CommandError::Ask(AskError::NoPeer)), "{error}");
    let mut realm = Realm::of(3);
    realm.start(0, search(""));
    assert!(realm.reply(0).is_none());
    realm.drop_mail();
    realm.later(9_000);
    assert!(realm.reply(0).is_none(), "it waits");
    realm.later(1_000);
    let error = names(realm.reply(0).unwrap()).unwrap_err();
    assert!(matches!(error, CommandError::Ask(AskError::NoAnswer { asked: 2, .. })), "{error}");
}

#[test]
fn who_is_gone_is_not_waited_for() {
    let mut realm = realm_with_news();
    realm.start(0, search("name = fresh"));
    let gone = realm.id(1);
    realm.handle(0, Input::Disconnected { peer: gone });
    assert!(realm.reply(0).is_none());
    realm.pump();
    assert_eq!(names(realm.reply(0).unwrap()).unwrap(), ["fresh"]);
}

#[test]
fn a_flood_of_questions_is_refused_and_strangers_get_nothing() {
    let mut realm = realm_with_news();
    let from = realm.id(0);
    let question = Question { filter: Filter::parse("").unwrap(), kinds: Kinds::of(Kind::Service) };
    let ask = |realm: &mut Realm, from, of| {
        let ask = AskMessage::Ask(question.ask(1, of, None));
        let payload = NodeMessage::Ask(ask).encode();
        realm.handle(2, Input::Message { from, payload }).sent_to(from)
    };
    let of = realm.realm();
    assert!(ask(&mut realm, catalog::NodeId::from_bytes([7; 32]), of).is_empty());
    let elsewhere = ask(&mut realm, from, RealmId::from_bytes([9; 16]));
    let is_refused = |sent: &[NodeMessage], why| matches!(sent, [NodeMessage::Ask(AskMessage::Refuse { why: w, .. })] if *w == why);
    assert!(is_refused(&elsewhere, RefuseAsk::Realm));
    let busy = (0..200).filter(|_| is_refused(&ask(&mut realm, from, of), RefuseAsk::Busy)).count();
    assert_eq!(busy, 200 - 127, "a budget of 128 pages");
    realm.later(1_000);
    assert!(!is_refused(&ask(&mut realm, from, of), RefuseAsk::Busy), "and it fills again");
}
