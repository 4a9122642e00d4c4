use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

/// A peer of a made-up world.
#[derive(Clone, Copy, Debug)]
struct Behaviour {
    /// Milliseconds for each group.
    ms_per_group: u64,
    /// How long it takes until the first group of a stretch comes.
    delay_ms: u64,
    /// After how many groups in all it fails.
    fails_after: Option<u64>,
    /// After how many groups it gives nothing more, and is given up 30 s later.
    stalls_after: Option<u64>,
    /// The size it claims instead of the true one. It fails at the last group of that.
    lies: Option<u64>,
}

const HONEST: Behaviour =
    Behaviour { ms_per_group: 2, delay_ms: 5, fails_after: None, stalls_after: None, lies: None };

/// What a peer does now.
#[derive(Clone, Copy, Debug)]
struct Work {
    at: u64,
    next_ms: u64,
    said: bool,
    since_ms: u64,
    is_stopped: bool,
}

/// A fetch in a made-up world.
struct World {
    plan: Plan,
    size: u64,
    peers: Vec<Behaviour>,
    work: Vec<Option<Work>>,
    n_given: Vec<u64>,
    now_ms: u64,
    n_orders: usize,
    n_restarts: usize,
}

impl World {
    fn new(size: u64, there: Groups, peers: &[Behaviour]) -> Self {
        Self {
            plan: Plan::new(peers.len(), there),
            size,
            peers: peers.to_vec(),
            work: vec![None; peers.len()],
            n_given: vec![0; peers.len()],
            now_ms: 0,
            n_orders: 0,
            n_restarts: 0,
        }
    }

    /// Until the blob is whole (true), or nobody is left (false).
    fn run(&mut self) -> bool {
        loop {
            self.obey();
            self.check();
            if self.plan.is_whole() {
                return true;
            }
            if self.work.iter().all(Option::is_none) {
                if !self.plan.reopen() {
                    return false;
                }
                continue;
            }
            self.now_ms += 1;
            assert!(self.now_ms < 10_000_000, "it goes on for ever: {:?}", self.plan);
            for peer in 0..self.peers.len() {
                self.step(peer);
            }
        }
    }

    fn obey(&mut self) {
        while let Some(order) = self.plan.next(self.now_ms) {
            self.n_orders += 1;
            assert!(self.n_orders < 10_000, "orders without end: {:?}", self.plan);
            match order {
                Order::Ask { peer, from, to } => {
                    assert!(from < to && self.work[peer].is_none(), "{order:?}");
                    let next_ms = self.now_ms + self.peers[peer].delay_ms;
                    self.work[peer] = Some(Work {
                        at: from,
                        next_ms,
                        said: false,
                        since_ms: self.now_ms,
                        is_stopped: false,
                    });
                }
                Order::Stop { peer } => self.work[peer].as_mut().unwrap().is_stopped = true,
            }
        }
    }

    fn step(&mut self, peer: usize) {
        let behaviour = self.peers[peer];
        let Some(mut work) = self.work[peer] else { return };
        if work.is_stopped {
            self.work[peer] = None;
            return self.plan.handle_end(peer, self.now_ms);
        }
        let is_stalled = behaviour.stalls_after.is_some_and(|n| self.n_given[peer] >= n);
        if is_stalled && self.now_ms - work.since_ms > 30_000 {
            self.work[peer] = None;
            return self.plan.handle_failed(peer);
        }
        if is_stalled || self.now_ms < work.next_ms {
            return;
        }
        if !work.said {
            work.said = true;
            let said = self.plan.handle_size(peer, behaviour.lies.unwrap_or(self.size));
            if said != Said::Good {
                self.work[peer] = None;
                match said {
                    Said::Other => self.plan.handle_end(peer, self.now_ms),
                    Said::TooShort if self.plan.is_resumed() => {
                        self.n_restarts += 1;
                        self.work.fill(None);
                        self.plan.restart();
                    }
                    _ => self.plan.handle_failed(peer),
                }
                return;
            }
        }
        let end = self.plan.end_of(peer);
        if work.at >= end {
            self.work[peer] = None;
            return self.plan.handle_end(peer, self.now_ms);
        }
        let is_lie = behaviour.lies.is_some_and(|size| work.at + 1 == groups_of(size));
        if is_lie || behaviour.fails_after.is_some_and(|n| self.n_given[peer] >= n) {
            self.work[peer] = None;
            return self.plan.handle_failed(peer);
        }
        self.plan.handle_written(peer, work.at, work.at + 1, self.now_ms);
        self.n_given[peer] += 1;
        work = Work {
            at: work.at + 1,
            next_ms: self.now_ms + behaviour.ms_per_group,
            since_ms: self.now_ms,
            ..work
        };
        self.work[peer] = Some(work);
    }

    /// The invariants.
    fn check(&self) {
        let mut stretches: Vec<_> = self.plan.working().map(|(_, at, end)| (at, end)).collect();
        stretches.sort_unstable();
        for pair in stretches.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "two peers have the same groups: {:?}", self.plan);
        }
        let ranges: Vec<_> = self.plan.there().ranges().collect();
        assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{ranges:?}");
        if !self.plan.is_sparse() {
            assert!(
                self.plan.there().prefix().is_some(),
                "gaps that nobody is told of: {ranges:?}"
            );
        }
    }
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    let often_none = || prop_oneof![3 => Just(None), 1 => (0_u64..400).prop_map(Some)];
    (1_u64..40, 0_u64..300, often_none(), often_none(), often_none()).prop_map(
        |(ms_per_group, delay_ms, fails_after, stalls_after, lies)| Behaviour {
            ms_per_group,
            delay_ms,
            fails_after,
            stalls_after,
            lies: lies.map(|n| n * GROUP_BYTES / 3),
        },
    )
}

fn there() -> impl Strategy<Value = Groups> {
    prop::collection::vec((0_u64..700, 1_u64..100), 0..5).prop_map(|ranges| {
        let mut groups = Groups::default();
        ranges.iter().for_each(|(from, n)| groups.insert(*from, from + n));
        match groups.prefix() {
            Some(n) => Groups::first(n.saturating_sub(1)),
            None => groups,
        }
    })
}

proptest! {
    #[test]
    fn one_good_peer_is_enough_and_no_group_is_lost_or_fetched_by_two(
        size in 0_u64..12 * MIB,
        mut peers in prop::collection::vec(behaviour(), 1..=4),
        place in 0_usize..4,
        there in there(),
    ) {
        let place = place.min(peers.len() - 1);
        peers[place] = Behaviour { ms_per_group: peers[place].ms_per_group, ..HONEST };
        let mut world = World::new(size, there, &peers);
        prop_assert!(world.run(), "{:?}", world.plan);
        let n = groups_of(world.plan.size().unwrap());
        prop_assert!(world.plan.there().unbroken() >= n);
        // A resumed file may fit to a size that was made up; then the whole file's hash tells.
        prop_assert!(world.plan.is_resumed() || world.plan.size() == Some(size));
        prop_assert!(world.n_restarts <= peers.len());
    }

    #[test]
    fn a_set_of_groups_is_what_was_added(ranges in prop::collection::vec((0_u64..60, 0_u64..9), 0..20)) {
        let mut groups = Groups::default();
        let mut model = [false; 80];
        for (from, n) in ranges {
            groups.insert(from, from + n);
            (from..from + n).for_each(|at| model[at as usize] = true);
        }
        for at in 0..80 {
            let is_in = groups.ranges().any(|(from, to)| (from..to).contains(&at));
            prop_assert_eq!(is_in, model[at as usize], "{}", at);
        }
        let first = (0..70).find(|at| !model[*at as usize]);
        prop_assert_eq!(groups.gap(70).map(|(from, _)| from), first);
    }
}

fn time(size: u64, peers: &[Behaviour]) -> (u64, World) {
    let mut world = World::new(size, Groups::default(), peers);
    assert!(world.run(), "{:?}", world.plan);
    (world.now_ms, world)
}

#[test]
fn two_equal_peers_take_half_the_time_and_four_a_quarter() {
    let (one, _) = time(64 * MIB, &[HONEST]);
    let (two, _) = time(64 * MIB, &[HONEST; 2]);
    let (four, world) = time(64 * MIB, &[HONEST; 4]);
    assert!(two < one * 53 / 100 && four < one * 28 / 100, "{one} {two} {four}");
    assert!(world.n_orders < 20, "{}", world.n_orders);
}

#[test]
fn a_slow_peer_helps_as_far_as_it_can_and_never_holds_the_fast_one_up() {
    let slow = Behaviour { ms_per_group: 40, ..HONEST };
    let (alone, _) = time(64 * MIB, &[HONEST]);
    for peers in [[HONEST, slow], [slow, HONEST]] {
        let (both, _) = time(64 * MIB, &peers);
        assert!(both < alone * 101 / 100, "{alone} {both}");
    }
}

#[test]
fn a_small_blob_comes_from_one_peer() {
    let (_, world) = time(4 * MIB - GROUP_BYTES, &[HONEST; 4]);
    assert_eq!(world.n_orders, 1);
}

#[test]
fn whoever_is_stuck_loses_its_stretch_after_two_seconds() {
    let stalls = Behaviour { stalls_after: Some(0), ..HONEST };
    let (alone, _) = time(8 * MIB, &[HONEST]);
    let (late, _) = time(8 * MIB, &[stalls, HONEST]);
    assert!(late < alone + 2_100, "{alone} {late}");
    let stalls = Behaviour { stalls_after: Some(100), ..HONEST };
    let (late, _) = time(8 * MIB, &[HONEST, stalls]);
    assert!(late < alone + 2_100, "{alone} {late}");
}

#[test]
fn a_peer_that_says_another_size_waits_and_has_its_turn_when_the_first_was_wrong() {
    let liar = Behaviour { lies: Some(9 * MIB), ..HONEST };
    let mut world = World::new(8 * MIB, Groups::default(), &[liar, HONEST]);
    assert!(world.run());
    assert_eq!(world.plan.size(), Some(8 * MIB));
    let mut world = World::new(8 * MIB, Groups::default(), &[HONEST, liar]);
    assert!(world.run());
    assert_eq!((world.plan.size(), world.n_given[1]), (Some(8 * MIB), 0));
}

#[test]
fn without_a_good_peer_it_ends() {
    let fails = Behaviour { fails_after: Some(70), ..HONEST };
    let mut world = World::new(8 * MIB, Groups::default(), &[fails; 3]);
    assert!(!world.run());
    assert_eq!(world.plan.bytes(), 210 * GROUP_BYTES, "what came is kept");
}
