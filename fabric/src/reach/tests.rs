use proptest::prelude::*;

use super::punch::{DIRECT_AGAIN_MS, DIRECT_GRACE_MS, DIRECT_MS, PUNCHED_MS};
use super::*;

fn peer(n: u8) -> PeerKey {
    PeerKey::from_bytes([n; 32])
}

fn at(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

const PUBLIC: &str = "/ip4/198.51.100.9/tcp/4610";

fn listening(addresses: &[&str]) -> Reach {
    let mut reach = Reach::new(Wishes { announced: vec![], is_relayed: true });
    reach.handle_listening(0, addresses.iter().map(|a| at(a)).collect());
    reach
}

/// An admitted peer that sees the node there, and relays.
fn meet(reach: &mut Reach, now_ms: u64, n: u8, sees: &str) {
    let relay = at(&format!("/ip4/203.0.113.{n}/tcp/4610"));
    reach.handle_seen(now_ms, peer(n), Some(&at(sees)), Some(relay));
    reach.handle_admitted(now_ms, peer(n));
}

fn answer(reach: &mut Reach, now_ms: u64, effects: &[Effect], is_reached: bool) {
    for effect in effects {
        if let Effect::Probe { by, addresses } = effect {
            let results = addresses.iter().map(|a| (a.clone(), Some(is_reached))).collect();
            reach.handle_probed(now_ms, *by, results);
        }
    }
}

fn reserved(effects: &[Effect]) -> Vec<PeerKey> {
    let reserve = |effect: &Effect| match effect {
        Effect::Reserve { relay, .. } => Some(*relay),
        _ => None,
    };
    effects.iter().filter_map(reserve).collect()
}

#[test]
fn a_public_node_is_tested_confirmed_and_asks_no_relay() {
    let mut reach = listening(&[PUBLIC, "/ip4/127.0.0.1/tcp/4610"]);
    assert_eq!(reach.standing(0), Standing::Unknown);
    meet(&mut reach, 0, 1, PUBLIC);
    let effects = reach.poll(0);
    assert_eq!(effects, [Effect::Probe { by: peer(1), addresses: vec![at(PUBLIC)] }]);
    answer(&mut reach, 5, &effects, true);
    assert_eq!(reach.poll(5), [Effect::Confirm(at(PUBLIC))]);
    assert_eq!(reach.standing(5), Standing::Public);
    let first = reach.addresses(5).remove(0);
    assert_eq!((first.address.as_str(), first.reached_by), (PUBLIC, vec![peer(1)]));
    // It is tested again, and what nobody reaches any more is withdrawn.
    assert_eq!(reach.next_ms(), Some(5 + RETEST_MS));
    let effects = reach.poll(5 + RETEST_MS);
    assert!(matches!(effects[..], [Effect::Probe { .. }]), "{effects:?}");
    answer(&mut reach, 9 + 2 * RETEST_MS, &effects, false);
    let effects = reach.poll(9 + 2 * RETEST_MS);
    assert_eq!(effects[0], Effect::Expire(at(PUBLIC)));
    assert_eq!(reach.standing(9 + 2 * RETEST_MS), Standing::Firewalled);
    assert_eq!(reserved(&effects), [peer(1)]);
}

#[test]
fn behind_a_nat_relays_are_kept_and_replaced() {
    let mut reach = listening(&["/ip4/192.168.7.2/tcp/4610"]);
    (1..=3).for_each(|n| meet(&mut reach, 0, n, PUBLIC));
    assert_eq!(reach.standing(0), Standing::BehindNat);
    assert_eq!(reserved(&reach.poll(0)), [peer(1), peer(2)]);
    let circuit = at("/ip4/203.0.113.1/tcp/4610/p2p-circuit");
    reach.handle_reserved(peer(1), circuit.clone());
    assert_eq!(reach.addresses(0)[0].source, AddressSource::Relay);
    assert_eq!(reach.relay_at(&at("/ip4/203.0.113.1/tcp/9/p2p-circuit")), Some(peer(1)));
    // The second refuses: the third takes its place, and the second is asked again when one is lost.
    reach.handle_relay_lost(10, peer(2), "full".into());
    assert_eq!(reserved(&reach.poll(10)), [peer(3)]);
    reach.handle_reserved(peer(3), circuit);
    reach.handle_relay_lost(20, peer(1), "gone".into());
    assert_eq!(reserved(&reach.poll(20)), []);
    assert_eq!(reserved(&reach.poll(10 + RETRY_MS)), [peer(2)]);
    // With a reached address the relays are let go.
    let effects = reach.poll(MISSED_MS * 20);
    answer(&mut reach, MISSED_MS * 20, &effects, true);
    let effects = reach.poll(MISSED_MS * 20);
    assert!(effects.contains(&Effect::Release { relay: peer(3) }), "{effects:?}");
    assert!(reach.relays().is_empty());
}

#[test]
fn ports_that_differ_by_peer_are_a_symmetric_nat() {
    let mut reach = listening(&["/ip4/10.0.0.2/tcp/4610"]);
    meet(&mut reach, 0, 1, "/ip4/198.51.100.9/tcp/40001");
    assert_eq!(reach.standing(0), Standing::BehindNat);
    meet(&mut reach, 0, 2, "/ip4/198.51.100.9/tcp/40002");
    assert_eq!(reach.standing(0), Standing::BehindSymmetricNat);
}

#[test]
fn a_private_network_needs_no_relay_and_loopback_no_test() {
    let inner = "/ip4/10.1.1.1/udp/4610/quic-v1";
    let mut reach = listening(&[inner]);
    meet(&mut reach, 0, 1, inner);
    let effects = reach.poll(0);
    answer(&mut reach, 1, &effects, true);
    assert_eq!(reach.poll(1), [Effect::Confirm(at(inner))]);
    assert_eq!(reach.standing(1), Standing::Private);
    let mut reach = listening(&["/ip4/127.0.0.1/tcp/1"]);
    meet(&mut reach, 0, 1, "/ip4/127.0.0.1/tcp/1");
    assert_eq!((reach.poll(0), reach.standing(0)), (vec![], Standing::Unknown));
    let mut reach = listening(&[]);
    meet(&mut reach, 0, 1, "/ip4/127.0.0.1/tcp/50000");
    assert_eq!(reserved(&reach.poll(0)), [peer(1)]);
}

#[test]
fn what_the_owner_announces_is_believed_and_who_is_not_admitted_is_not() {
    let wishes = Wishes { announced: vec![at(PUBLIC)], is_relayed: true };
    let mut reach = Reach::new(wishes);
    assert_eq!(reach.poll(0), [Effect::Confirm(at(PUBLIC))]);
    assert_eq!(reach.standing(0), Standing::Public);
    let mut reach = listening(&["/ip4/10.0.0.2/tcp/4610"]);
    let relay = at("/ip4/203.0.113.1/tcp/4610");
    reach.handle_seen(0, peer(1), Some(&at(PUBLIC)), Some(relay));
    assert_eq!((reach.poll(0), reach.standing(0)), (vec![], Standing::Unknown));
}

#[test]
fn a_relayed_connection_gives_way_after_a_while() {
    let mut reach = listening(&[]);
    reach.handle_punched(100, peer(1));
    reach.handle_punched(2_000, peer(1));
    assert_eq!(reach.poll(101), []);
    assert_eq!(reach.next_ms(), Some(100 + PUNCHED_MS));
    assert_eq!(reach.poll(100 + PUNCHED_MS), [Effect::CloseRelayed { peer: peer(1) }]);
    assert_eq!(reach.poll(100 + PUNCHED_MS), []);
}

#[test]
fn who_is_reached_through_a_relay_is_dialled_by_one_of_the_two_first() {
    for (me, other, due) in [(1, 2, DIRECT_MS), (2, 1, DIRECT_MS + DIRECT_GRACE_MS)] {
        let mut reach = listening(&[]);
        reach.handle_relayed(0, (peer(me), peer(other)), vec![at(PUBLIC)]);
        assert_eq!((reach.poll(due - 1), reach.next_ms()), (vec![], Some(due)));
        let dial = Effect::Dial { peer: peer(other), addresses: vec![at(PUBLIC)] };
        assert_eq!(reach.poll(due), std::slice::from_ref(&dial));
        let punch = Effect::Punch { peer: peer(other) };
        assert_eq!(reach.poll(due + DIRECT_AGAIN_MS), [dial, punch]);
        reach.handle_not_relayed(peer(other));
        assert_eq!(reach.next_ms(), None);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Meet(u8, u8, u16),
    Gone(u8),
    Probed(bool),
    Reserved(u8),
    Lost(u8),
    Moved(u8),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0_u8..5, 0_u8..3, 0_u16..4).prop_map(|(n, at, port)| Step::Meet(n, at, port)),
        (0_u8..5).prop_map(Step::Gone),
        any::<bool>().prop_map(Step::Probed),
        (0_u8..5).prop_map(Step::Reserved),
        (0_u8..5).prop_map(Step::Lost),
        (0_u8..3).prop_map(Step::Moved),
        (0_u64..700_000).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn it_never_asks_too_much_and_never_sleeps_through(steps in steps()) {
        let mut reach = listening(&["/ip4/192.168.7.2/tcp/4610"]);
        let (mut now, mut asked, mut held) = (0_u64, Vec::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Meet(n, ip, port) => {
                    let port = 40_000 + 10 * u16::from(n) + port;
                    meet(&mut reach, now, n, &format!("/ip4/198.51.100.{ip}/tcp/{port}"));
                }
                Step::Gone(n) => reach.handle_gone(now, peer(n)),
                Step::Probed(is_reached) => {
                    answer(&mut reach, now, &std::mem::take(&mut asked), is_reached);
                }
                Step::Reserved(n) => reach.handle_reserved(peer(n), at(PUBLIC)),
                Step::Lost(n) => {
                    held.remove(&peer(n));
                    reach.handle_relay_lost(now, peer(n), "lost".into());
                }
                Step::Moved(n) => {
                    let own = at(&format!("/ip4/192.168.7.{n}/tcp/4610"));
                    reach.handle_listening(now, BTreeSet::from([own]));
                }
                Step::Wait(ms) => now += ms,
            }
            let effects = reach.poll(now);
            for effect in &effects {
                match effect {
                    Effect::Probe { addresses, .. } => {
                        prop_assert!(!addresses.is_empty() && addresses.len() <= PROBE_ADDRESSES_MAX);
                        // Nothing private is given to be dialled from outside, and nothing but what a peer saw.
                        prop_assert!(addresses.iter().all(|a| a.to_string().starts_with("/ip4/198.51.100.")));
                    }
                    Effect::Reserve { relay, .. } => prop_assert!(held.insert(*relay), "asked twice"),
                    Effect::Release { relay } => { held.remove(relay); }
                    _ => {}
                }
            }
            asked.extend(effects);
            prop_assert!(reach.tests.len() <= TESTS_MAX);
            prop_assert!(reach.n_held() <= RELAYS_MAX);
            // What is due is done: the next time is in the future.
            prop_assert!(reach.next_ms().is_none_or(|next| next > now), "{:?} at {now}", reach.next_ms());
            // Nothing happens twice.
            prop_assert_eq!(reach.poll(now), vec![]);
        }
    }
}

#[test]
fn it_is_punched_with_all_ports_wherever_the_node_is_seen() {
    let quic = "udp/4611/quic-v1";
    let mut reach = listening(&["/ip4/192.168.7.2/tcp/4610", &format!("/ip4/192.168.7.2/{quic}")]);
    let told = |reach: &mut Reach| {
        let told = reach.take_candidates();
        told.iter().map(Multiaddr::to_string).collect::<Vec<_>>()
    };
    meet(&mut reach, 0, 1, PUBLIC);
    let first = [PUBLIC.to_owned(), format!("/ip4/198.51.100.9/{quic}")];
    assert_eq!(told(&mut reach), first);
    // The same from another peer is not told again; another address of the router is.
    meet(&mut reach, 5, 2, PUBLIC);
    assert!(told(&mut reach).is_empty());
    meet(&mut reach, 10, 1, "/ip4/198.51.100.77/tcp/4610");
    let moved = ["/ip4/198.51.100.77/tcp/4610".to_owned(), format!("/ip4/198.51.100.77/{quic}")];
    assert_eq!(told(&mut reach), moved);
    // A network that was built anew knows nothing of them.
    reach.handle_renewed(20);
    meet(&mut reach, 30, 1, PUBLIC);
    assert_eq!(told(&mut reach), first);
}
