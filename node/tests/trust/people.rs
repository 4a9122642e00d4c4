//! For whom a node asks another one: what the other believes, and what it decides.

use catalog::Fault;
use catalog::cert::{ASSERTION_MS_MAX, Assertion};
use node::engine::policy::Command as PolicyCommand;
use node::policy::Policies;
use scheduler::run::{Submission, Submitter};
use scheduler::task::Stage;

use super::*;

const ISSUER: &str = "https://id.example/oidc";

fn ada() -> Submitter {
    Submitter {
        issuer: ISSUER.to_owned(),
        subject: "s-7".to_owned(),
        name: "Ada".to_owned(),
        groups: BTreeSet::from(["field".to_owned(), "staff".to_owned()]),
    }
}

/// What a node of organisation 2 says of its person to organisation 1, with the question of this number.
fn said(home: &Peer, to: NodeId, number: u8) -> Assertion {
    let ada = ada();
    Assertion {
        home: home.id(),
        org: org(2),
        issuer: ada.issuer,
        subject: ada.subject,
        groups: ada.groups.into_iter().collect(),
        run: Some(RunId::from_bytes([number; 16]).to_string()),
        audience: to,
        nonce: [number; 16],
        made_ms: START_MS,
        expires_ms: START_MS + 60_000,
    }
}

fn ada_there() -> String {
    format!("User::\"{}|{ISSUER}|s-7\"", org(2))
}

fn set(host: &mut Peer, text: &str) {
    let policies = Policies::read([("team".to_owned(), text.to_owned())].into()).unwrap();
    let command = Command::Policy(PolicyCommand::Set(std::sync::Arc::new(policies)));
    host.handle(START_MS, Input::Command { id: 77, command });
    host.log.clear();
}

/// What comes of a question with this word: `quote`, the code of a refusal, or nothing at all.
fn answered(host: &mut Peer, from: NodeId, number: u8, word: Vec<u8>) -> Option<String> {
    host.log.clear();
    let payload = question(number, Some(word));
    host.handle(START_MS, Input::Message { from, payload });
    let id = host.id();
    host.log.iter().find_map(|effect| match effect {
        Effect::Send { payload, .. } => match NodeMessage::decode(payload) {
            Ok(NodeMessage::Task(negotiate::Message::Quote { .. })) => Some("quote".to_owned()),
            Ok(NodeMessage::Task(negotiate::Message::Refusal { refusal, .. })) => {
                Some(format!("{:?}", Refusal::open(&refusal, &id).unwrap().code))
            }
            _ => None,
        },
        _ => None,
    })
}

fn decided(host: &Peer) -> Option<(String, bool, Vec<String>)> {
    host.log.iter().rev().find_map(|effect| match effect {
        Effect::Decided { request, decision } => {
            Some((request.principal.told(), decision.allowed, decision.policies.clone()))
        }
        _ => None,
    })
}

fn faults(host: &Peer) -> Vec<Fault> {
    let faults = host.log.iter().filter_map(|effect| match effect {
        Effect::Penalize { fault, .. } => Some(*fault),
        _ => None,
    });
    faults.collect()
}

fn quote() -> Option<String> {
    Some("quote".to_owned())
}

fn refused() -> Option<String> {
    Some("Policy".to_owned())
}

#[test]
fn policies_decide_about_people_of_others_by_who_they_are() {
    let (mut front, _, other) = world();
    let (from, to) = (other.id(), front.id());
    let word = |number| said(&other, to, number).sign(&node_key(2));
    let name = format!("user:{}|{ISSUER}|s-7", org(2));

    // As it is by default, people ask as the nodes of their organisation do.
    assert_eq!(answered(&mut front, from, 1, word(1)), quote());
    let by_default = vec!["default/people-quote".to_owned()];
    assert_eq!(decided(&front), Some((name.clone(), true, by_default)));

    // One person is refused, and nobody else there; and the node that asks for itself is not meant.
    set(
        &mut front,
        &format!("@id(\"not-ada\") forbid (principal == {}, action, resource);", ada_there()),
    );
    assert_eq!(answered(&mut front, from, 2, word(2)), refused());
    assert_eq!(decided(&front), Some((name, false, vec!["team/not-ada".to_owned()])));
    assert_eq!(answer(&mut front, from, 3), None);
    let bob = Assertion { subject: "s-8".to_owned(), ..said(&other, to, 4) };
    assert_eq!(answered(&mut front, from, 4, bob.sign(&node_key(2))), quote());

    // A group of theirs, and not one of the same name here.
    set(&mut front, "forbid (principal in Group::\"field\", action, resource);");
    assert_eq!(answered(&mut front, from, 5, word(5)), quote());
    let theirs = format!("forbid (principal in Group::\"{}/field\", action, resource);", org(2));
    set(&mut front, &theirs);
    assert_eq!(answered(&mut front, from, 6, word(6)), refused());

    // What forbids the node forbids whomever it names.
    set(&mut front, &format!("forbid (principal == Node::\"{from}\", action, resource);"));
    assert_eq!(answered(&mut front, from, 7, word(7)), refused());
}

#[test]
fn a_person_may_what_its_node_may_not() {
    let (mut front, _, other) = world();
    let (from, to) = (other.id(), front.id());
    let text =
        format!("permit (principal == {}, action == Action::\"quote\", resource);", ada_there());
    let policies = Policies::read([("default".to_owned(), text)].into()).unwrap();
    let command = Command::Policy(PolicyCommand::Set(std::sync::Arc::new(policies)));
    front.handle(START_MS, Input::Command { id: 77, command });
    assert_eq!(answer(&mut front, from, 1), Some(RefusalCode::Policy), "the node for itself");
    let word = said(&other, to, 2).sign(&node_key(2));
    assert_eq!(answered(&mut front, from, 2, word), quote());
    let bob = Assertion { subject: "s-8".to_owned(), ..said(&other, to, 3) };
    assert_eq!(answered(&mut front, from, 3, bob.sign(&node_key(2))), refused());
    // The owner's word about the organisation stands above.
    front.relate(org(2), RelationChange { ask: Some(false), ..RelationChange::default() });
    let word = said(&other, to, 4).sign(&node_key(2));
    assert_eq!(answered(&mut front, from, 4, word), refused());
}

/// What is wrong with a word, how, whose key signs it, and what it is taken for.
type Lie<'a> = (&'a str, fn(&mut Assertion), u8, &'a [Fault]);

#[test]
fn who_lies_about_people_is_refused_and_counted() {
    let lies: [Lie; 9] = [
        ("for another node", |word| word.audience = word.home, 2, &[Fault::Forged]),
        ("of another organisation", |word| word.org = org(1), 2, &[Fault::Forged]),
        ("of another node", |word| word.home = word.audience, 2, &[Fault::Forged]),
        ("with another key", |_| {}, 9, &[Fault::Forged]),
        ("of another question", |word| word.nonce = [200; 16], 2, &[Fault::Forged]),
        ("of another run", |word| word.run = Some("run-x".to_owned()), 2, &[Fault::Forged]),
        (
            "for too long",
            |word| word.expires_ms = word.made_ms + ASSERTION_MS_MAX + 1,
            2,
            &[Fault::Forged],
        ),
        (
            "from a clock that is late",
            |word| {
                (word.made_ms, word.expires_ms) = (START_MS - 500_000, START_MS - 440_000);
            },
            2,
            &[],
        ),
        (
            "from a clock that is early",
            |word| {
                (word.made_ms, word.expires_ms) = (START_MS + 400_000, START_MS + 460_000);
            },
            2,
            &[],
        ),
    ];
    for (number, (what, lie, key, counted)) in (1..).zip(lies) {
        let (mut front, _, other) = world();
        let (from, to) = (other.id(), front.id());
        let mut word = said(&other, to, number);
        lie(&mut word);
        assert_eq!(
            answered(&mut front, from, number, word.sign(&node_key(key))),
            refused(),
            "{what}"
        );
        assert_eq!(faults(&front), counted, "{what}");
        assert_eq!(decided(&front), None, "{what}: nobody is asked about");
        // Within the skew that clocks may have it is believed.
        let mut late = said(&other, to, 100);
        (late.made_ms, late.expires_ms) = (START_MS - 300_000, START_MS - 240_000);
        assert_eq!(answered(&mut front, from, 100, late.sign(&node_key(2))), quote(), "{what}");
    }
    let (mut front, _, other) = world();
    assert_eq!(answered(&mut front, other.id(), 1, vec![0xd2; 9_000]), refused());
    assert_eq!(faults(&front), [Fault::TooMuch]);
}

#[test]
fn a_word_counts_once_and_a_doubled_question_has_one_answer() {
    let (mut front, _, other) = world();
    let (from, to) = (other.id(), front.id());
    let word = said(&other, to, 1).sign(&node_key(2));
    assert_eq!(answered(&mut front, from, 1, word.clone()), quote());
    assert_eq!(answered(&mut front, from, 1, word.clone()), quote(), "the network said it twice");
    assert_eq!(decided(&front), None, "and it is decided once");
    let declined = negotiate::Message::Decline { request: [1; 16] };
    let payload = NodeMessage::Task(declined).encode();
    front.handle(START_MS, Input::Message { from, payload });
    assert_eq!(answered(&mut front, from, 1, word), None, "it was said before");
    assert!(faults(&front).is_empty());
}

#[test]
fn a_node_says_for_whom_it_asks_to_others_and_only_to_them() {
    let (mut front, mut second, mut other) = world();
    let module = catalog::Digest::of(b"module");
    let source = format!(
        "opencloud: workflow/v1\nname: one\nsteps:\n  only:\n    run: {{wasi: {{module: \"{module}\"}}}}\n    needs: {{memory: 64MiB}}\n"
    );
    let file = FileRef { digest: module, size: 6, name: "module.wasm".to_owned() };
    let submission = |org: &str| Submission {
        source: source.clone(),
        params: BTreeMap::new(),
        assets: [(module.to_string(), Stage::File(file.clone()))].into(),
        binding: Some(format!("opencloud: binding/v1\ndefaults: {{orgs: [{org}]}}\n")),
        strategy: None,
        replica: None,
        area: None,
    };
    let submit = |front: &mut Peer, org: &str, by: Option<Submitter>| {
        front.log.clear();
        front.seen = 0;
        let submission = Box::new(submission(org));
        let result = front.ask(START_MS, Command::Submit { submission, by: by.map(Box::new) });
        let asked = front.log.iter().find_map(|effect| match effect {
            Effect::Send { to, payload } => match NodeMessage::decode(payload) {
                Ok(NodeMessage::Task(negotiate::Message::QuoteRequest { person, .. })) => {
                    Some((*to, person))
                }
                _ => None,
            },
            _ => None,
        });
        (result, asked)
    };
    let (result, asked) = submit(&mut front, "Org 2", Some(ada()));
    let Ok(Response::Submitted(run)) = result else { panic!("{result:?}") };
    let (to, word) = asked.unwrap();
    assert_eq!(to, other.id());
    let word =
        Assertion::verify(&word.unwrap(), (front.id(), org(1)), other.id(), START_MS).unwrap();
    assert_eq!((word.issuer.as_str(), word.subject.as_str()), (ISSUER, "s-7"));
    assert_eq!(
        (word.groups, word.run),
        (vec!["field".to_owned(), "staff".to_owned()], Some(run.to_string()))
    );
    other.log.clear();
    other.seen = 0;
    pump(&mut [&mut front, &mut second, &mut other], START_MS);
    let (name, allowed, _) = decided(&other).unwrap();
    assert_eq!((name, allowed), (format!("user:{}|{ISSUER}|s-7", org(1)), true));
    let Ok(Response::Run(view)) = front.ask(START_MS, Command::Run { run }) else { panic!() };
    assert_eq!(view.summary.by.as_deref(), Some("Ada"));

    // It is known after a restart, too.
    front.restart(START_MS);
    let Ok(Response::Run(view)) = front.ask(START_MS, Command::Run { run }) else { panic!() };
    assert_eq!(view.summary.by.as_deref(), Some("Ada"));
    assert!(
        connect(&mut other, &mut front, START_MS) && connect(&mut second, &mut front, START_MS)
    );
    pump(&mut [&mut front, &mut second, &mut other], START_MS);

    // Of the owner's runs nothing is said, and nobody's to the own organisation.
    assert!(matches!(submit(&mut front, "Org 2", None).1, Some((_, None))));
    let (_, asked) = submit(&mut front, "Org 1", Some(ada()));
    assert!(asked.is_none_or(|(to, person)| to == second.id() && person.is_none()));
    let nameless = Submitter { subject: "\u{202e}".to_owned(), ..ada() };
    let (refused, asked) = submit(&mut front, "Org 2", Some(nameless));
    assert!(matches!(refused, Err(CommandError::Submission { .. })) && asked.is_none());
}
