//! Fifty nodes, random workflows, faults: fixed seeds. A failing seed prints how to replay it; `soak` runs thousands.

use tests::sim::{Plan, World};

/// Seeds of one test; four tests share them out so that they run side by side.
fn check(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mut world = World::new(Plan::ci(seed));
        if let Err(problem) = world.run() {
            panic!(
                "seed {seed}: {problem}\nreplay: cargo run --release -p tests --bin soak -- --seed {seed}"
            );
        }
    }
}

#[test]
fn seeds_0_to_4_keep_every_invariant() {
    check(0..5);
}

#[test]
fn seeds_5_to_9_keep_every_invariant() {
    check(5..10);
}

#[test]
fn seeds_10_to_14_keep_every_invariant() {
    check(10..15);
}

#[test]
fn seeds_15_to_19_keep_every_invariant() {
    check(15..20);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| {
        let mut world = World::new(Plan { nodes: 12, runs: 6, ..Plan::ci(seed) });
        world.run().unwrap();
        world.trace()
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
