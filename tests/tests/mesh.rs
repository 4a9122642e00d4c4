//! Small meshes by fixed seeds, held to the gates that the large ones are measured against; `--bin mesh` runs those.

use tests::mesh::gates::{Figure, author, change, half_hour, light, lone, partition};
use tests::mesh::{Plan, World};

fn small(seed: u64) -> Plan {
    Plan { nodes: 100, dials: 6, ..Plan::thousand(seed) }
}

fn check(figures: &[Figure]) {
    for figure in figures {
        assert!(figure.is_met(), "{figure:?}: replay with `--bin mesh -- --nodes 100`");
    }
}

#[test]
fn a_change_reaches_every_node_through_losses_and_failures() {
    check(&change(small(1)));
}

#[test]
fn light_nodes_cost_little_and_hear_of_everything() {
    check(&light(Plan { nodes: 60, dials: 4, ..small(5) }));
}

#[test]
fn what_one_node_alone_has_spreads_by_pulls() {
    check(&lone(small(2)));
}

#[test]
fn two_halves_become_one_again() {
    check(&partition(small(3)));
}

#[test]
fn one_changed_author_costs_less_than_a_kilobyte() {
    check(&author(1_000, 1));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| half_hour(Plan { nodes: 40, dials: 4, ..Plan::thousand(seed) }, 2).trace();
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}

#[test]
fn a_world_at_rest_agrees() {
    let mut world = World::new(small(4));
    world.run_for(60);
    assert!(world.n_events() > 6_000, "the nodes are alive");
}
