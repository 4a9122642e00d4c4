//! Engines that ask each other for records they do not hold.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod realm;

use catalog::ask::{AskMessage, Question, RefuseAsk};
use catalog::record::{Detail, Kind, Kinds};
use catalog::{Filter, RealmId};
use node::engine::Input;
use node::engine::ask::AskError;
use node::engine::command::{Command, CommandError, Response};
use node::engine::message::NodeMessage;
use realm::{Realm, Sent as _, data, penalties, service};

fn search(filter: &str) -> Command {
    Command::Catalog { filter: filter.to_owned(), limit: 100, after: None, is_asking: true }
}

fn held(filter: &str) -> Command {
    Command::Catalog { filter: filter.to_owned(), limit: 100, after: None, is_asking: false }
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
    assert_eq!(names(realm.run(0, held("name = fresh"))).unwrap(), Vec::<String>::new());
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

/// A light node that keeps services, beside three full ones that know what there is.
fn realm_with_board() -> (Realm, usize) {
    let mut realm = Realm::of(3);
    realm.publish(2, service("s", "served"));
    realm.publish(2, data("d", "elevation"));
    realm.compare(0, 2);
    let board = realm.add_light(Kinds::of(Kind::Service));
    (realm, board)
}

#[test]
fn a_light_node_holds_what_it_chose_and_asks_for_the_rest() {
    let (mut realm, board) = realm_with_board();
    let status = realm.run(board, Command::Status);
    let Ok(Response::Status(status)) = status else { panic!("{status:?}") };
    assert_eq!(status.light.as_deref(), Some("service,revocations,area"));
    assert_eq!(status.resources, 2, "its own, and the service");
    realm.start(board, held("kind = service"));
    assert_eq!(names(realm.reply(board).unwrap()).unwrap(), ["served"], "nobody was asked");
    assert_eq!(names(realm.run(board, held("name ~ elev"))).unwrap(), ["elevation"]);
    let shown = realm.run(board, Command::Resource { id: "d".to_owned() }).unwrap();
    let Response::Resource(view) = shown else { panic!("{shown:?}") };
    let Detail::Data(detail) = &view.resource.detail else { panic!("{view:?}") };
    let found = realm.run(board, Command::Locate { digest: detail.digest }).unwrap();
    let Response::Located(nodes) = found else { panic!("{found:?}") };
    assert_eq!(nodes, [realm.id(2)]);
    let none = realm.run(board, Command::Resource { id: "no such".to_owned() }).unwrap_err();
    assert!(matches!(none, CommandError::NoResource { .. }), "{none}");
}

#[test]
fn what_a_light_node_publishes_full_nodes_pull_and_they_never_ask_it() {
    let (mut realm, board) = realm_with_board();
    realm.publish(board, data("mine", "measured"));
    realm.compare(0, board);
    realm.start(0, held("name = measured"));
    assert_eq!(names(realm.reply(0).unwrap()).unwrap(), ["measured"]);
    realm.start(0, search("kind = data"));
    assert!(realm.ask_to(realm.id(board)).is_none());
    realm.pump();
    assert_eq!(names(realm.reply(0).unwrap()).unwrap().len(), 2);
    // Who asks all the same is told why not.
    let from = realm.id(0);
    let question = Question { filter: Filter::parse("").unwrap(), kinds: Kinds::ALL };
    let of = realm.realm();
    let payload = NodeMessage::Ask(AskMessage::Ask(question.ask(1, of, None))).encode();
    let said = realm.handle(board, Input::Message { from, payload }).sent_to(from);
    let [NodeMessage::Ask(AskMessage::Refuse { why: RefuseAsk::Light, .. })] = said.as_slice()
    else {
        panic!("{said:?}");
    };
}

#[test]
fn a_light_node_alone_says_that_nobody_can_be_asked_and_still_plans_its_work() {
    let mut realm = Realm::of(0);
    let board = realm.add_light(Kinds::of(Kind::Service));
    for command in [held(""), Command::Resource { id: "d".to_owned() }] {
        let error = realm.run(board, command).unwrap_err();
        assert!(matches!(error, CommandError::Ask(AskError::NoPeer)), "{error}");
    }
    let own = realm.run(board, Command::Resource { id: "compute/main".to_owned() });
    assert!(matches!(own, Ok(Response::Resource(_))), "its own it knows: {own:?}");
}
