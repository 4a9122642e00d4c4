//! A node that was taken back and goes on as if it were not: it says everything that it could say before, and hears nothing.

use node::engine::{FetchJob, Verdict};

use super::*;

/// Everything that one node has said to others, and pushed, since it came into the realm.
fn said(peer: &Peer) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut sent, mut pushed) = (Vec::new(), Vec::new());
    let came = peer.log.iter().rposition(|effect| matches!(effect, Effect::Subscribe { .. }));
    for effect in &peer.log[came.unwrap()..] {
        match effect {
            Effect::Send { payload, .. } => sent.push(payload.clone()),
            Effect::Gossip { payload } => pushed.push(payload.clone()),
            _ => {}
        }
    }
    (sent, pushed)
}

/// One more node of the realm.
fn joining(seed: u8, host: &mut Peer) -> Peer {
    let mut third = Peer::new(seed);
    let Response::Ticket(ticket) = host.ask(Command::Invite { valid_ms: 60_000, is_asking: false })
    else {
        panic!("a ticket")
    };
    let joining = third.handle(Input::Command { id: 9, command: Command::Join { ticket } });
    let wanted = joining.list.into_iter().find_map(|effect| match effect {
        Effect::Connect { hello: Some(hello), .. } => Some(hello),
        _ => None,
    });
    connect(&mut third, host, wanted.unwrap());
    third
}

#[test]
fn a_node_that_was_taken_back_gets_nothing_whatever_it_repeats() {
    let mut both = joined();
    run_at_the_guest(&mut both);
    let [host, guest] = &mut both;
    let (liar, hello) = (guest.id(), guest.engine.hello());
    let before = (host.books(), host.disk.clone());
    // Its organisation takes it back; the host hears of it by file.
    let from = host.log.len();
    host.install(&list(&guest.org_key(), 1, &[liar]));
    assert!(
        host.log[from..].iter().any(|e| matches!(e, Effect::Disconnect { peer } if *peer == liar))
    );
    assert_eq!(host.machines(), [host.id()].into());

    host.handle(Input::Disconnected { peer: liar });
    // It greets anew, and speaks as if it had been let in: sync, heads, entries, quotes, acceptances, fences.
    let (is_welcome, reply) = host.greet(liar, hello.clone());
    assert!(!is_welcome);
    assert!(matches!(reply, HelloReply::Refused { code: RefuseCode::Revoked, .. }), "{reply:?}");
    let (sent, pushed) = said(guest);
    assert!(sent.len() > 8 && !pushed.is_empty());
    let from = host.log.len();
    for payload in sent {
        let effects = host.handle(Input::Message { from: liar, payload });
        assert!(effects.list.is_empty() && effects.batch.is_empty(), "it is not even heard");
    }
    for (token, payload) in (1..).zip(&pushed) {
        host.handle(Input::Gossip { token, from: liar, payload: payload.clone() });
    }
    let gives = |effect: &Effect| {
        matches!(
            effect,
            Effect::Send { .. }
                | Effect::Grant { .. }
                | Effect::Fetch { job: FetchJob::Inputs(_), .. }
                | Effect::Start { .. }
                | Effect::Gossip { .. }
                | Effect::Verdict { verdict: Verdict::Accept, .. }
        )
    };
    let given: Vec<_> = host.log[from..].iter().filter(|effect| gives(effect)).collect();
    assert!(given.is_empty(), "{given:?}");
    assert_eq!(host.machines(), [host.id()].into());

    // A third node of the realm, which has not heard of it, passes its records on: they do not come back, and the third is not
    // blamed.
    let mut third = joining(3, host);
    let from = host.log.len();
    for (token, payload) in (1..).zip(pushed) {
        host.handle(Input::Gossip { token, from: third.id(), payload });
    }
    pump(host, &mut third);
    let is_blame = |e: &Effect| matches!(e, Effect::Penalize { peer, .. } if *peer == third.id());
    assert!(!host.log[from..].iter().any(is_blame));
    assert_eq!(host.machines(), [host.id(), third.id()].into());

    // The node is well: what was signed is there, before and after it begins again.
    assert_eq!(host.books(), before.0);
    assert_eq!(host.disk.get(&Table::LedgerEntries), before.1.get(&Table::LedgerEntries));
    host.restart();
    assert!(!host.greet(liar, hello).0);
    assert_eq!(host.books(), before.0);
}
