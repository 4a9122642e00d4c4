//! Which replica a connection goes to.

use std::collections::BTreeMap;

use proptest::prelude::*;
use scheduler::service::{Backend, Balancer, EJECT_AFTER, EJECT_MAX_MS, EJECT_MIN_MS, Unavailable};
use scheduler::task::{AttemptId, RunId, TaskId};

fn replica(n: u8) -> AttemptId {
    let task = TaskId { step: 0, index: 0 };
    AttemptId { run: RunId::from_bytes([n; 16]), task, number: 1 }
}

fn balancer(rtts_us: &[u64]) -> Balancer {
    let mut balancer = Balancer::new();
    balancer.set((0..).zip(rtts_us).map(|(n, rtt)| (replica(n), *rtt)));
    balancer
}

/// How many of so many connections, none of which ends, go to each.
fn spread(balancer: &mut Balancer, connections: usize) -> BTreeMap<AttemptId, usize> {
    let mut count = BTreeMap::new();
    for _ in 0..connections {
        let chosen = balancer.choose(0).unwrap();
        balancer.made(chosen);
        *count.entry(chosen).or_default() += 1;
    }
    count
}

fn fail(balancer: &mut Balancer, times: u32, now_ms: u64) {
    for _ in 0..times {
        let chosen = balancer.choose(now_ms).unwrap();
        balancer.failed(chosen, now_ms);
    }
}

#[test]
fn replicas_of_one_site_get_equally_many() {
    let count = spread(&mut balancer(&[100, 900, 4_000]), 30);
    assert!(count.values().all(|n| *n == 10), "{count:?}");
}

#[test]
fn near_replicas_get_more_and_far_ones_what_is_too_much() {
    let count = spread(&mut balancer(&[5_000, 50_000]), 110);
    assert_eq!((count[&replica(0)], count[&replica(1)]), (100, 10));
}

#[test]
fn connections_one_after_the_other_take_turns() {
    let mut balancer = balancer(&[0, 0, 0]);
    let mut one = || {
        let chosen = balancer.choose(0).unwrap();
        balancer.made(chosen);
        balancer.closed(chosen);
        chosen
    };
    let round: Vec<AttemptId> = (0..3).map(|_| one()).collect();
    assert_eq!(round, [replica(0), replica(1), replica(2)]);
    assert_eq!((0..3).map(|_| one()).collect::<Vec<_>>(), round);
}

#[test]
fn without_replicas_there_is_a_clear_answer() {
    assert_eq!(Balancer::new().choose(0), Err(Unavailable::NoReplica));
}

#[test]
fn a_replica_that_fails_is_left_alone_and_then_tried_once() {
    let mut balancer = balancer(&[0]);
    fail(&mut balancer, EJECT_AFTER, 1_000);
    let wait = Unavailable::Ejected { retry_after_ms: EJECT_MIN_MS };
    assert_eq!(balancer.choose(1_000), Err(wait));
    let trial = balancer.choose(1_000 + EJECT_MIN_MS).unwrap();
    assert!(balancer.choose(1_000 + EJECT_MIN_MS).is_err(), "one trial at a time");
    balancer.failed(trial, 2_000);
    let wait = Unavailable::Ejected { retry_after_ms: 2 * EJECT_MIN_MS };
    assert_eq!(balancer.choose(2_000), Err(wait), "the second time is longer");
    let trial = balancer.choose(4_000).unwrap();
    balancer.made(trial);
    assert!(balancer.choose(4_000).is_ok());
    assert!(balancer.choose(4_000).is_ok());
}

#[test]
fn ejections_do_not_grow_without_bound() {
    let mut balancer = balancer(&[0]);
    let mut now_ms = 1_000;
    fail(&mut balancer, EJECT_AFTER, now_ms);
    for _ in 0..40 {
        let Err(Unavailable::Ejected { retry_after_ms }) = balancer.choose(now_ms) else {
            panic!("it is ejected");
        };
        assert!(retry_after_ms <= EJECT_MAX_MS);
        now_ms += retry_after_ms;
        fail(&mut balancer, 1, now_ms);
    }
}

#[test]
fn what_is_known_of_a_replica_outlives_a_new_list() {
    let mut balancer = balancer(&[0, 0]);
    let first = balancer.choose(0).unwrap();
    balancer.made(first);
    balancer.set([(replica(0), 7), (replica(2), 0)]);
    let known: BTreeMap<_, _> = balancer.backends().map(|(a, b)| (a, *b)).collect();
    assert_eq!((known[&replica(0)].connections, known[&replica(0)].rtt_us), (1, 7));
    assert_eq!(known.len(), 2);
    // Of one that is gone nothing is counted.
    balancer.closed(replica(1));
    balancer.failed(replica(1), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Choose,
    Made(usize),
    Failed(usize),
    Close(usize),
    Wait(u64),
    Set(Vec<u8>),
}

fn arb_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => Just(Step::Choose),
        3 => (0..8_usize).prop_map(Step::Made),
        3 => (0..8_usize).prop_map(Step::Failed),
        2 => (0..8_usize).prop_map(Step::Close),
        2 => (0..5_000_u64).prop_map(Step::Wait),
        1 => prop::collection::vec(0..5_u8, 0..5).prop_map(Step::Set),
    ]
}

proptest! {
    #[test]
    fn connections_go_to_known_replicas_that_are_not_ejected_and_are_counted(
        steps in prop::collection::vec(arb_step(), 0..120),
    ) {
        let mut balancer = balancer(&[0, 10_000, 20_000]);
        let mut now_ms = 1_000;
        let mut pending: Vec<AttemptId> = Vec::new();
        let mut open: Vec<AttemptId> = Vec::new();
        let take = |list: &mut Vec<AttemptId>, n: usize| {
            (!list.is_empty()).then(|| { let n = n % list.len(); list.remove(n) })
        };
        for step in steps {
            let before: BTreeMap<_, _> = balancer.backends().map(|(a, b)| (a, *b)).collect();
            match step {
                Step::Choose => match balancer.choose(now_ms) {
                    Ok(chosen) => {
                        let known = before[&chosen];
                        prop_assert!(known.ejected_until_ms <= now_ms);
                        prop_assert!(known.ejected_until_ms == 0 || !known.is_on_trial);
                        pending.push(chosen);
                    }
                    Err(Unavailable::NoReplica) => prop_assert!(before.is_empty()),
                    Err(_) => {
                        let is_out = |b: &Backend| b.is_on_trial || b.ejected_until_ms > now_ms;
                        prop_assert!(before.values().all(is_out));
                    }
                },
                Step::Made(n) => {
                    if let Some(attempt) = take(&mut pending, n) {
                        balancer.made(attempt);
                        open.push(attempt);
                    }
                }
                Step::Failed(n) => {
                    if let Some(attempt) = take(&mut pending, n) {
                        balancer.failed(attempt, now_ms);
                    }
                }
                Step::Close(n) => {
                    if let Some(attempt) = take(&mut open, n) {
                        balancer.closed(attempt);
                    }
                }
                Step::Wait(ms) => now_ms += ms,
                Step::Set(ids) => {
                    let ids: std::collections::BTreeSet<u8> = ids.into_iter().collect();
                    // Connections to replicas that leave the list are nobody's any more.
                    let stays = |a: &AttemptId| ids.iter().any(|n| replica(*n) == *a);
                    pending.retain(stays);
                    open.retain(stays);
                    balancer.set(ids.iter().map(|n| (replica(*n), u64::from(*n) * 10_000)));
                }
            }
            for (attempt, known) in balancer.backends() {
                let count = pending.iter().chain(&open).filter(|a| **a == attempt).count();
                prop_assert_eq!(known.connections as usize, count);
            }
        }
        // Whatever happened, time heals: a replica that answers gets connections again.
        now_ms += EJECT_MAX_MS;
        for attempt in std::mem::take(&mut pending) {
            balancer.made(attempt);
        }
        if balancer.backends().next().is_some() {
            prop_assert!(balancer.choose(now_ms).is_ok());
        }
    }
}
