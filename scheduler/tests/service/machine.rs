//! What happens to the replicas of a service, case by case.

use scheduler::service::{
    Content, DeployError, EVENTS_MAX, Effect, LastWord, RollbackError, Rollout, SERVICES_MAX,
    ScaleError, StopReason, Why,
};
use scheduler::task::FailureClass;

use crate::sim::{Doc, Kind, NAME, STEP_MS, Sim, node};

const MINUTE: u64 = 60_000;

/// A service with so many healthy replicas.
fn running(nodes: u8, replicas: u32) -> Sim {
    let mut sim = Sim::new(nodes);
    sim.deploy(&Doc::new(Kind::Good, 1, replicas));
    sim.advance(MINUTE);
    assert_eq!(sim.available(), replicas);
    assert_eq!(sim.service().state(), "running");
    sim
}

#[test]
fn a_service_is_published_with_its_healthy_replicas() {
    let sim = running(3, 3);
    let published = sim.published.as_ref().unwrap();
    assert_eq!(published.ports["http"], 8080);
    assert_eq!(published.replicas.len(), 3);
    let reach = published.reach();
    assert_eq!(reach.endpoints.len(), 3);
    let attempt = published.replicas[0].attempt;
    assert_eq!(attempt.to_string().parse(), Ok(attempt));
    for bad in
        ["", "run-1/0.0#1", &format!("{attempt}0 "), &attempt.to_string().replace("0.0", "0.00")]
    {
        assert!(bad.parse::<scheduler::task::AttemptId>().is_err(), "{bad}");
    }
    assert_eq!(reach.endpoints[0].attempt, attempt.to_string());
}

#[test]
fn an_update_replaces_every_replica_and_never_drops_below_the_wanted_number() {
    let mut sim = running(3, 3);
    let revision = sim.deploy(&Doc::new(Kind::Good, 2, 3));
    assert_eq!(sim.service().state(), "rolling");
    sim.advance_with(3 * MINUTE, |sim| assert!(sim.available() >= 3));
    assert_eq!(sim.serving(), [revision; 3]);
    assert_eq!(sim.service().head().rollout, Rollout::Done);
    assert_eq!(sim.service().head().stable, Some(revision));
}

#[test]
fn a_revision_that_crashes_is_stopped_and_the_old_one_goes_on_serving() {
    let mut sim = running(3, 3);
    let bad = sim.deploy(&Doc::new(Kind::Crashing, 2, 3));
    sim.advance_with(3 * MINUTE, |sim| assert!(sim.available() >= 3));
    let head = sim.service().head();
    assert!(
        matches!(head.rollout, Rollout::Stopped { revision, reason: StopReason::Crashing, .. } if revision == bad),
        "{head:?}"
    );
    assert_eq!((sim.service().state(), sim.serving()), ("stopped", vec![1; 3]));
    assert_eq!(sim.pods(), 3);
    assert_eq!(sim.services.rollback(NAME, None, sim.now_ms), Ok(1));
    sim.act();
    assert_eq!((sim.service().state(), sim.serving()), ("running", vec![1; 3]), "agreed to");
    // The same once more is tried once more; something good ends the report.
    assert_eq!(sim.deploy(&Doc::new(Kind::Crashing, 2, 3)), bad);
    assert_eq!(sim.service().state(), "rolling");
    sim.advance(3 * MINUTE);
    assert_eq!(sim.service().state(), "stopped");
    let good = sim.deploy(&Doc::new(Kind::Good, 3, 3));
    sim.advance(3 * MINUTE);
    assert_eq!((sim.service().state(), sim.serving()), ("running", vec![good; 3]));
}

#[test]
fn a_revision_that_never_gets_healthy_is_stopped_at_its_deadline() {
    let mut sim = running(3, 2);
    sim.deploy(&Doc::new(Kind::Sick, 2, 2));
    sim.advance_with(10 * MINUTE, |sim| assert!(sim.available() >= 2));
    assert_eq!((sim.service().state(), sim.serving()), ("stopped", vec![1; 2]));
}

#[test]
fn a_revision_that_no_node_takes_is_stopped_for_that_reason() {
    let mut sim = running(2, 2);
    let first = sim.nth(0).unwrap();
    sim.deploy(&Doc::new(Kind::Good, 2, 2));
    sim.up.clear();
    sim.advance(10 * MINUTE);
    let rollout = &sim.service().head().rollout;
    assert!(
        matches!(rollout, Rollout::Stopped { reason: StopReason::NotPlaced, .. }),
        "{rollout:?}"
    );
    assert_eq!(sim.node_of(first), None);
    sim.up.insert(7);
    sim.advance(10 * MINUTE);
    assert_eq!(sim.serving(), [1, 1]);
}

#[test]
fn a_first_revision_that_crashes_is_tried_again_with_growing_pauses() {
    let mut sim = Sim::new(3);
    sim.deploy(&Doc::new(Kind::Crashing, 1, 1));
    let mut starts = Vec::new();
    let mut known = 0;
    sim.advance_with(60 * MINUTE, |sim| {
        let started = sim.service().head().trouble.crashes;
        if started > known {
            known = started;
            starts.push(sim.now_ms);
        }
    });
    assert_eq!(sim.service().state(), "stopped");
    let pauses: Vec<u64> = starts.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(pauses[..7].windows(2).all(|w| w[1] > w[0]), "{pauses:?}");
    // Five minutes and a fifth by chance, and what a start takes.
    assert!(pauses.iter().all(|p| *p <= 366_000 + 10 * STEP_MS), "{pauses:?}");
    assert!(pauses.len() > 14, "{pauses:?}");
}

#[test]
fn one_node_that_only_says_so_does_not_stop_an_update() {
    let mut sim = running(3, 2);
    sim.liars.insert(3);
    let revision = sim.deploy(&Doc::new(Kind::Good, 2, 2));
    sim.advance(10 * MINUTE);
    assert_eq!((sim.service().state(), sim.serving()), ("running", vec![revision; 2]));
}

#[test]
fn a_replica_that_dies_is_replaced_and_its_node_avoided() {
    let mut sim = running(3, 2);
    let run = sim.nth(0).unwrap();
    let its = sim.node_of(run).unwrap();
    sim.kill(run, FailureClass::Exit);
    assert_eq!(sim.available(), 1);
    sim.advance(MINUTE);
    assert_eq!(sim.available(), 2);
    assert!((0..2).all(|n| sim.node_of(sim.nth(n).unwrap()) != Some(its)));
}

#[test]
fn a_node_that_vanishes_costs_only_its_replicas() {
    let mut sim = running(3, 3);
    sim.up.remove(&2);
    sim.advance_with(MINUTE, |sim| assert!(sim.available() >= 2));
    assert_eq!(sim.available(), 3);
    assert!(sim.service().members().all(|m| m.record.place.unwrap().node != node(2)));
}

#[test]
fn a_replica_that_recovers_in_time_is_kept_and_one_that_does_not_is_replaced() {
    let mut sim = running(3, 2);
    let run = sim.nth(0).unwrap();
    sim.flap(run, 5 * STEP_MS);
    sim.advance(2 * STEP_MS);
    assert_eq!(sim.available(), 1);
    sim.advance(MINUTE);
    assert!(sim.node_of(run).is_some());
    sim.flap(run, 10 * MINUTE);
    sim.advance(2 * MINUTE);
    assert_eq!((sim.available(), sim.node_of(run)), (2, None));
}

#[test]
fn a_replica_that_is_healthy_only_now_and_then_is_replaced() {
    let mut sim = running(3, 2);
    let run = sim.nth(0).unwrap();
    for _ in 0..4 {
        sim.flap(run, 4 * STEP_MS);
        sim.advance(8 * STEP_MS);
        assert!(sim.node_of(run).is_some());
    }
    sim.flap(run, 4 * STEP_MS);
    sim.advance(8 * STEP_MS);
    assert_eq!(sim.node_of(run), None);
    sim.advance(MINUTE);
    assert_eq!(sim.available(), 2);
}

#[test]
fn a_pause_after_a_crash_does_not_hold_back_what_a_node_took_with_it() {
    let mut sim = running(4, 4);
    // Three crashes in a row, so that the pause is longer than the start of a replica.
    for _ in 0..3 {
        let newest = sim.service().members().max_by_key(|m| m.record.started_ms).unwrap();
        let run = newest.record.run;
        sim.kill(run, FailureClass::Exit);
        while sim.available() < 4 && sim.service().head().trouble.crashes < 3 {
            sim.advance(STEP_MS);
        }
    }
    assert_eq!(sim.available(), 3);
    let left = sim.nth(0).unwrap();
    let its = sim.node_of(left).unwrap();
    sim.up.remove(&its.as_bytes()[0]);
    sim.advance(STEP_MS);
    assert_eq!((sim.available(), sim.pods()), (2, 3), "one starts, one has to wait");
    sim.advance(MINUTE);
    assert_eq!(sim.available(), 4);
}

#[test]
fn connections_that_fail_outweigh_what_the_provider_says() {
    let mut sim = running(3, 2);
    let run = sim.nth(0).unwrap();
    for _ in 0..4 {
        sim.services.handle_connection(run, false);
    }
    sim.services.handle_connection(run, true);
    for _ in 0..4 {
        sim.services.handle_connection(run, false);
    }
    sim.advance(MINUTE);
    assert!(sim.node_of(run).is_some(), "eight failures, but not in a row");
    let liar = sim.node_of(run);
    sim.services.handle_connection(run, false);
    sim.act();
    let published = sim.published.as_ref().unwrap();
    assert!(published.replicas.iter().all(|e| e.attempt.run != run));
    sim.advance(MINUTE);
    assert_eq!((sim.available(), sim.node_of(run)), (2, None));
    assert!((0..2).all(|n| sim.node_of(sim.nth(n).unwrap()) != liar));
}

#[test]
fn when_all_connections_fail_replicas_are_not_given_up_together() {
    let mut sim = running(4, 4);
    let all: Vec<_> = (0..4).map(|n| sim.nth(n).unwrap()).collect();
    for _ in 0..5 {
        all.iter().for_each(|run| sim.services.handle_connection(*run, false));
    }
    sim.advance(30 * STEP_MS);
    let kept = all.iter().filter(|run| sim.node_of(**run).is_some()).count();
    assert_eq!(kept, 3);
}

#[test]
fn agreements_are_renewed_by_successors_before_they_end() {
    let mut sim = running(3, 3);
    let first: Vec<_> = (0..3).map(|n| sim.nth(n).unwrap()).collect();
    sim.advance_with(3 * 60 * MINUTE, |sim| assert!(sim.available() >= 3));
    assert!(first.iter().all(|run| sim.node_of(*run).is_none()));
    assert!(sim.ends.len() >= 6, "{}", sim.ends.len());
    assert!(
        sim.ends.iter().all(|(class, was_told)| *class == FailureClass::Cancelled && *was_told)
    );
    let why = |event: &scheduler::service::Event| {
        matches!(event.body, scheduler::service::EventBody::Leaving { why: Why::Renewed, .. })
    };
    assert!(sim.service().events().any(why));
    assert!(sim.service().events().count() <= EVENTS_MAX);
}

#[test]
fn an_agreement_that_ends_without_successor_is_no_crash() {
    let mut sim = running(1, 1);
    sim.up.clear();
    sim.up.insert(1);
    let run = sim.nth(0).unwrap();
    sim.advance(55 * MINUTE);
    // The successor may have come already; what ends at its term is not held against the program either way.
    sim.kill(run, FailureClass::Timeout);
    assert_eq!(sim.service().head().trouble.crashes, 0);
    sim.advance(MINUTE);
    assert_eq!(sim.available(), 1);
}

#[test]
fn an_agreement_whose_money_is_spent_is_replaced_and_no_crash() {
    let mut sim = running(1, 1);
    for _ in 0..5 {
        let run = sim.nth(0).unwrap();
        sim.kill(run, FailureClass::Spent);
        assert_eq!(sim.service().head().trouble.crashes, 0);
        sim.advance(MINUTE);
        assert_eq!(sim.available(), 1);
    }
}

#[test]
fn a_service_is_scaled_up_and_down_and_to_nothing() {
    let mut sim = running(3, 2);
    sim.services.scale(NAME, 5, sim.now_ms).unwrap();
    sim.advance(2 * MINUTE);
    assert_eq!(sim.available(), 5);
    sim.services.scale(NAME, 1, sim.now_ms).unwrap();
    sim.advance_with(MINUTE, |sim| assert!(sim.available() >= 1));
    assert_eq!((sim.available(), sim.pods()), (1, 1));
    sim.services.scale(NAME, 0, sim.now_ms).unwrap();
    sim.advance(MINUTE);
    assert_eq!((sim.pods(), sim.service().state()), (0, "idle"));
    assert_eq!(sim.published.as_ref().unwrap().replicas, []);
    assert_eq!(sim.services.scale(NAME, 65, 0), Err(ScaleError::TooMany { replicas: 65 }));
    assert!(matches!(sim.services.scale("nope", 1, 0), Err(ScaleError::Unknown(_))));
}

#[test]
fn a_document_without_a_number_keeps_the_one_there_is() {
    let mut sim = running(3, 2);
    sim.services.scale(NAME, 4, sim.now_ms).unwrap();
    sim.advance(MINUTE);
    sim.deploy(&Doc { replicas: None, ..Doc::new(Kind::Good, 2, 1) });
    sim.advance(3 * MINUTE);
    assert_eq!(sim.serving(), [2; 4]);
}

#[test]
fn a_removed_service_leaves_nothing() {
    let mut sim = running(3, 3);
    sim.services.remove(NAME, sim.now_ms).unwrap();
    sim.act();
    assert_eq!(sim.published, None);
    let again = sim.services.deploy(Doc::new(Kind::Good, 9, 1).content(), None, sim.now_ms);
    assert_eq!(again, Err(DeployError::Removing { name: NAME.to_owned() }));
    sim.restart();
    sim.advance(MINUTE);
    assert_eq!(sim.pods(), 0);
    assert!(sim.store.is_empty(), "{:?}", sim.store);
    assert!(sim.services.service(NAME).is_none());
    assert!(sim.services.remove(NAME, sim.now_ms).is_err());
}

#[test]
fn programs_that_end_by_themselves_are_started_again_as_their_policy_says() {
    for (restart, kind, again) in [
        ("always", Kind::Short, true),
        ("on_failure", Kind::Short, false),
        ("on_failure", Kind::Crashing, true),
        ("never", Kind::Crashing, false),
        ("never", Kind::Short, false),
    ] {
        let mut sim = Sim::new(2);
        sim.deploy(&Doc { restart, ..Doc::new(kind, 1, 2) });
        sim.advance(20 * MINUTE);
        let head = sim.service().head();
        let what = format!("{restart} {kind:?}");
        assert_eq!(head.finished, if again { 0 } else { 2 }, "{what}");
        let is_failure = head.last_word.as_ref().map(LastWord::is_failure);
        let expected = (!again).then_some(kind == Kind::Crashing);
        assert_eq!(is_failure, expected, "{what}");
        assert_eq!(head.trouble.crashes > 2, again, "{what}");
        assert_eq!(sim.service().state() == "idle", !again, "{what}");
    }
    // What ended for good is wanted again with another number, or another revision.
    let mut sim = Sim::new(2);
    sim.deploy(&Doc { restart: "never", ..Doc::new(Kind::Crashing, 1, 2) });
    sim.advance(20 * MINUTE);
    sim.services.scale(NAME, 1, sim.now_ms).unwrap();
    assert_eq!(sim.service().head().last_word, None);
    sim.act();
    sim.advance(20 * MINUTE);
    assert_eq!(sim.service().head().finished, 1);
    sim.deploy(&Doc::new(Kind::Good, 2, 1));
    assert_eq!((sim.service().head().finished, &sim.service().head().last_word), (0, &None));
    sim.advance(MINUTE);
    assert_eq!(sim.available(), 1);
    // What its provider lost is started again even so.
    let mut sim = Sim::new(2);
    sim.deploy(&Doc { restart: "never", ..Doc::new(Kind::Good, 1, 1) });
    sim.advance(MINUTE);
    sim.kill(sim.nth(0).unwrap(), FailureClass::Infra);
    sim.advance(MINUTE);
    assert_eq!(sim.available(), 1);
}

#[test]
fn an_update_whose_replicas_end_for_good_goes_back_before_it_ends_what_ran() {
    for kind in [Kind::Crashing, Kind::Short] {
        let mut sim = running(3, 3);
        let bad = sim.deploy(&Doc { restart: "never", ..Doc::new(kind, 2, 3) });
        sim.advance_with(3 * MINUTE, |sim| assert!(sim.available() >= 3));
        let head = sim.service().head();
        assert!(
            matches!(head.rollout, Rollout::Stopped { revision, reason: StopReason::Crashing, .. } if revision == bad),
            "{head:?}"
        );
        assert_eq!((head.finished, &head.last_word, sim.serving()), (0, &None, vec![1; 3]));
    }
}

#[test]
fn a_rollback_goes_to_a_revision_that_is_kept() {
    let mut sim = running(3, 2);
    let none = sim.services.rollback(NAME, None, sim.now_ms);
    assert_eq!(none, Err(RollbackError::NothingBefore { name: NAME.to_owned() }));
    for version in 2..=14 {
        sim.deploy(&Doc::new(Kind::Good, version, 2));
        sim.advance(2 * MINUTE);
    }
    assert_eq!(sim.service().revisions().count(), 10);
    let gone = sim.services.rollback(NAME, Some(1), sim.now_ms).unwrap_err();
    assert_eq!(
        gone.to_string(),
        "service `web` has no revision 1 to go back to: kept are 5, 6, 7, 8, 9, 10, 11, 12, 13, 14"
    );
    assert_eq!(sim.services.rollback(NAME, None, sim.now_ms), Ok(13));
    sim.advance(2 * MINUTE);
    assert_eq!(sim.serving(), [13; 2]);
    assert_eq!(sim.services.rollback(NAME, Some(9), sim.now_ms), Ok(9));
    sim.advance(2 * MINUTE);
    assert_eq!(sim.serving(), [9; 2]);
}

#[test]
fn what_is_not_valid_is_not_deployed_and_too_many_services_are_refused() {
    let mut sim = Sim::new(1);
    let good = Doc::new(Kind::Good, 1, 1).content();
    let mut bad = good.clone();
    bad.source.push_str("nonsense: 1\n");
    assert!(matches!(sim.services.deploy(bad, None, 0), Err(DeployError::Document(_))));
    let mut bad = good.clone();
    bad.assets.clear();
    let missing = DeployError::Assets(vec!["a.wasm".to_owned()]);
    assert_eq!(sim.services.deploy(bad, None, 0), Err(missing));
    let mut bad = good.clone();
    bad.binding = Some("opencloud: binding/v1\nsteps: {other: {}}\n".to_owned());
    assert!(matches!(sim.services.deploy(bad, None, 0), Err(DeployError::Binding(_))));
    assert!(matches!(sim.services.update(good.clone(), None, 0), Err(DeployError::Unknown(_))));
    assert_eq!(sim.services.services().count(), 0);
    for n in 0..SERVICES_MAX {
        let mut content = good.clone();
        content.source = content.source.replace("name: web", &format!("name: web-{n}"));
        sim.services.deploy(content, None, 0).unwrap();
    }
    assert_eq!(sim.services.deploy(good, None, 0), Err(DeployError::Full));
}

#[test]
fn a_service_may_be_called_otherwise_than_its_document_says() {
    let mut sim = Sim::new(1);
    let named = |name: &str| {
        let content = Doc::new(Kind::Good, 1, 1).content();
        Content { name: Some(name.to_owned()), ..content }
    };
    assert_eq!(sim.services.deploy(named("shop"), None, 0).unwrap().service, "shop");
    let again = sim.services.deploy(named("shop"), None, 0).unwrap();
    assert!(!again.is_new, "{again:?}");
    sim.services.poll(0, &mut || 7);
    let started = sim.services.drain_effects().into_iter().find_map(|effect| match effect {
        Effect::Start { submission, .. } => Some(submission),
        _ => None,
    });
    assert_eq!(started.unwrap().workflow().unwrap().name, "shop");
    for bad in ["", "Shop", "a b", "../x", &"x".repeat(65)] {
        let error = sim.services.deploy(named(bad), None, 0).unwrap_err();
        assert!(matches!(error, DeployError::Name { .. }), "{bad}: {error}");
    }
}

#[test]
fn updates_without_surge_make_room_first() {
    let mut sim = Sim::new(3);
    let doc = |version| Doc { unavailable: 1, surge: 0, ..Doc::new(Kind::Good, version, 3) };
    sim.deploy(&doc(1));
    sim.advance(MINUTE);
    sim.deploy(&doc(2));
    sim.advance_with(5 * MINUTE, |sim| {
        assert!(sim.available() >= 2);
        assert!(sim.pods() <= 3);
    });
    assert_eq!(sim.serving(), [2; 3]);
}

#[test]
fn a_pause_of_the_owner_is_not_held_against_an_update() {
    let mut sim = running(3, 2);
    sim.deploy(&Doc::new(Kind::Good, 2, 2));
    sim.advance(2 * STEP_MS);
    sim.now_ms += 60 * MINUTE;
    sim.restart();
    assert_eq!(sim.service().state(), "rolling");
    sim.advance(5 * MINUTE);
    assert_eq!((sim.service().state(), sim.serving()), ("running", vec![2; 2]));
}
