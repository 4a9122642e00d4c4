//! What holds whatever happens.

use proptest::prelude::*;
use scheduler::service::Rollout;
use scheduler::task::FailureClass;

use crate::sim::{Doc, Kind, NAME, STEP_MS, Sim};

#[derive(Clone, Debug)]
enum Action {
    Wait(u64),
    Deploy(Kind, u32),
    Scale(u32),
    Rollback,
    Kill(usize, FailureClass),
    Flap(usize, u64),
    FailConnections(usize),
    NodeDown(u8),
    NodeUp(u8),
    Restart,
}

const NODES: u8 = 4;

fn arb_action() -> impl Strategy<Value = Action> {
    let class = prop::sample::select(vec![
        FailureClass::Exit,
        FailureClass::Oom,
        FailureClass::Infra,
        FailureClass::LostLease,
        FailureClass::Timeout,
        FailureClass::Cancelled,
        FailureClass::Spent,
    ]);
    let kind = prop::sample::select(vec![Kind::Good, Kind::Good, Kind::Crashing, Kind::Sick]);
    prop_oneof![
        6 => (0..120_u64).prop_map(|s| Action::Wait(s * STEP_MS)),
        1 => (600..3_000_u64).prop_map(|s| Action::Wait(s * STEP_MS)),
        3 => (kind, 0..6_u32).prop_map(|(kind, replicas)| Action::Deploy(kind, replicas)),
        1 => (0..8_u32).prop_map(Action::Scale),
        1 => Just(Action::Rollback),
        4 => (0..8_usize, class).prop_map(|(nth, class)| Action::Kill(nth, class)),
        3 => (0..8_usize, 0..90_u64).prop_map(|(nth, s)| Action::Flap(nth, s * STEP_MS)),
        2 => (0..8_usize).prop_map(Action::FailConnections),
        2 => (1..=NODES).prop_map(Action::NodeDown),
        2 => (1..=NODES).prop_map(Action::NodeUp),
        2 => Just(Action::Restart),
    ]
}

/// How updates go: missing replicas allowed, and replicas beyond.
fn arb_update() -> impl Strategy<Value = (u32, u32)> {
    (0..3_u32, 0..3_u32).prop_filter("one has to be above 0", |both| *both != (0, 0))
}

fn doc(kind: Kind, version: u32, replicas: u32, update: (u32, u32)) -> Doc {
    let (unavailable, surge) = update;
    Doc { unavailable, surge, term: "20m", ..Doc::new(kind, version, replicas) }
}

/// Plays a story; the simulation checks the invariants after each step. Without `may_restart` the owner's node never stops.
fn play(actions: &[Action], update: (u32, u32), may_restart: bool) -> Sim {
    let mut sim = Sim::new(NODES);
    let mut version = 1;
    sim.deploy(&doc(Kind::Good, version, 2, update));
    for action in actions {
        match action.clone() {
            Action::Wait(ms) => sim.advance(ms),
            Action::Deploy(kind, replicas) => {
                version += 1;
                sim.deploy(&doc(kind, version, replicas, update));
            }
            Action::Scale(replicas) => sim.services.scale(NAME, replicas, sim.now_ms).unwrap(),
            Action::Rollback => _ = sim.services.rollback(NAME, None, sim.now_ms),
            Action::Kill(nth, class) => {
                if let Some(run) = sim.nth(nth) {
                    sim.kill(run, class);
                }
            }
            Action::Flap(nth, ms) => {
                if let Some(run) = sim.nth(nth) {
                    sim.flap(run, ms);
                }
            }
            Action::FailConnections(nth) => {
                if let Some(run) = sim.nth(nth) {
                    (0..5).for_each(|_| sim.services.handle_connection(run, false));
                }
            }
            Action::NodeDown(n) => _ = sim.up.remove(&n),
            Action::NodeUp(n) => _ = sim.up.insert(n),
            Action::Restart if may_restart => sim.restart(),
            Action::Restart => {}
        }
        sim.act();
        sim.advance(STEP_MS);
    }
    sim
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn when_faults_stop_the_wanted_replicas_are_there(
        actions in prop::collection::vec(arb_action(), 0..40),
        update in arb_update(),
        replicas in 1..6_u32,
        is_bad_last in any::<bool>(),
    ) {
        let mut sim = play(&actions, update, true);
        sim.up = (1..=NODES).collect();
        let good = sim.deploy(&doc(Kind::Good, 1_000, replicas, update));
        sim.advance(40 * 60 * STEP_MS);
        prop_assert_eq!(&sim.service().head().rollout, &Rollout::Done);
        if is_bad_last {
            sim.deploy(&doc(Kind::Crashing, 1_001, replicas, update));
            sim.advance(30 * 60 * STEP_MS);
            prop_assert_eq!(sim.service().state(), "stopped");
        }
        let missing = if update.1 == 0 { update.0 } else { 0 };
        let mut was_whole = false;
        sim.advance_with(25 * 60 * STEP_MS, |sim| {
            assert!(sim.available() >= replicas.saturating_sub(missing));
            assert!(sim.service().members().all(|m| m.record.revision == good));
            was_whole |= sim.available() == replicas && sim.pods() == replicas as usize;
        });
        prop_assert!(was_whole);
        let published = sim.published.as_ref().unwrap();
        prop_assert!(published.replicas.len() as u32 >= replicas.saturating_sub(missing));
    }

    #[test]
    fn without_faults_updates_and_renewals_keep_enough_replicas_available(
        waits in prop::collection::vec(0..1_500_u64, 1..8),
        update in arb_update(),
        replicas in 1..6_u32,
    ) {
        let mut sim = Sim::new(NODES);
        sim.deploy(&doc(Kind::Good, 0, replicas, update));
        sim.advance(60 * STEP_MS);
        prop_assert_eq!(sim.available(), replicas);
        let least = replicas.saturating_sub(update.0);
        for (version, wait) in (1..).zip(waits) {
            sim.deploy(&doc(Kind::Good, version, replicas, update));
            sim.advance_with(wait * STEP_MS, |sim| assert!(sim.available() >= least));
        }
        sim.advance_with(10 * 60 * STEP_MS, |sim| assert!(sim.available() >= least));
        // Everybody who ended was told to: no agreement ran out.
        prop_assert!(sim.ends.iter().all(|(_, was_told)| *was_told));
    }

    #[test]
    fn a_removed_service_ends_whatever_state_it_is_in(
        actions in prop::collection::vec(arb_action(), 0..25),
        update in arb_update(),
    ) {
        let mut sim = play(&actions, update, true);
        sim.services.remove(NAME, sim.now_ms).unwrap();
        sim.act();
        sim.advance(10 * STEP_MS);
        prop_assert_eq!(sim.pods(), 0);
        prop_assert!(sim.store.is_empty());
        prop_assert_eq!(&sim.published, &None);
        prop_assert_eq!(sim.services.poll_timeout(), None);
    }

    #[test]
    fn the_same_story_has_the_same_effects(
        actions in prop::collection::vec(arb_action(), 0..25),
        update in arb_update(),
    ) {
        let (once, twice) = (play(&actions, update, true), play(&actions, update, true));
        prop_assert!(once.trace == twice.trace);
    }

    #[test]
    fn a_restart_in_a_quiet_moment_changes_nothing(
        replicas in 1..6_u32,
        update in arb_update(),
        waits in prop::collection::vec(1..2_000_u64, 1..4),
    ) {
        // Nothing disappointed, so nothing that only memory knows decides.
        let story = |is_restarted: bool| {
            let mut sim = Sim::new(NODES);
            for (version, wait) in (1..).zip(&waits) {
                sim.deploy(&doc(Kind::Good, version, replicas, update));
                sim.advance(wait * STEP_MS);
                if is_restarted {
                    sim.restart();
                }
            }
            sim.advance(60 * 60 * STEP_MS);
            sim
        };
        let (steady, restarted) = (story(false), story(true));
        let target = |sim: &Sim| (sim.service().head().target, sim.service().head().stable);
        prop_assert_eq!(target(&steady), target(&restarted));
        prop_assert_eq!(steady.service().state(), restarted.service().state());
    }
}
