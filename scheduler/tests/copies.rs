//! Copies of data: an owner and keepers, in a world that loses messages, nodes and bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use catalog::{Digest, NodeId, OrgId};
use proptest::prelude::{any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy;
use scheduler::copies::{
    ANSWER_MS, Action, Among, CHECK_MS, Content, Copies, CopyState, IDLE_MS, Keeper, KeeperAction,
    KeptState, LOST_MS, Message, NoKeep, PATIENCE_MS, Peer, Policy, Proof, Wish, WishError,
};

const MIB: u64 = 1 << 20;
const OWNER: u8 = 100;

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

/// Two nodes of each organisation.
fn org(n: u8) -> OrgId {
    OrgId::from_bytes([n / 2; 32])
}

fn content(n: u8) -> Content {
    let digest = Digest::from_bytes([n; 32]);
    Content { digest, size: MIB, directory: false, name: format!("data {n}"), public: true }
}

fn wish(n: u8, copies: u32) -> Wish {
    let (content, among) = (content(n), Among::default());
    Wish { content, copies, among, patience_ms: PATIENCE_MS }
}

/// A keeper and its disk.
struct Site {
    keeper: Keeper,
    is_here: bool,
    /// Whether it keeps for this owner.
    is_willing: bool,
    /// Says that it keeps everything, and keeps nothing.
    is_liar: bool,
    disk: BTreeSet<Digest>,
    /// What was stored of it.
    stored: BTreeMap<Digest, scheduler::copies::Keep>,
}

/// An owner, keepers, and what is on its way between them.
struct World {
    now_ms: u64,
    owner: Copies,
    sites: BTreeMap<u8, Site>,
    chance: u64,
    /// Messages of a hundred that are lost.
    lost: u64,
    /// Drops of copies that counted, when fewer than wished counted without them.
    mistakes: Vec<String>,
}

impl World {
    fn new(n: u8, seed: u64) -> Self {
        let site = |n| {
            let site = Site {
                keeper: Keeper::new(Policy { bytes: 4 * MIB }),
                is_here: true,
                is_willing: true,
                is_liar: false,
                disk: BTreeSet::new(),
                stored: BTreeMap::new(),
            };
            (n, site)
        };
        Self {
            now_ms: 1_000_000,
            owner: Copies::new(),
            sites: (1..=n).map(site).collect(),
            chance: seed | 1,
            lost: 0,
            mistakes: Vec::new(),
        }
    }

    fn random(chance: &mut u64) -> u64 {
        *chance ^= *chance << 13;
        *chance ^= *chance >> 7;
        *chance ^= *chance << 17;
        *chance
    }

    /// Lets time pass, a step at a time.
    fn pass(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        self.settle();
        while self.now_ms < until_ms {
            let keepers = self.sites.values().filter_map(|site| site.keeper.poll_timeout());
            let next = keepers.chain(self.owner.poll_timeout()).min().unwrap_or(until_ms);
            self.now_ms = next.clamp(self.now_ms + 1, until_ms);
            self.settle();
        }
    }

    /// Everything that happens at one time.
    fn settle(&mut self) {
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(rounds < 1_000, "it never comes to rest");
            let mut is_quiet = true;
            if self.owner.poll_timeout().is_some_and(|at| at <= self.now_ms) {
                self.poll_owner();
            }
            for action in self.owner.drain_actions() {
                is_quiet = false;
                self.obey_owner(action);
                // As an engine does: what follows from one thing is done before the next one comes.
                self.settle_keepers();
            }
            is_quiet &= self.settle_keepers();
            if is_quiet {
                return;
            }
        }
    }

    /// False when there was something to do.
    fn settle_keepers(&mut self) -> bool {
        let (now_ms, mut is_quiet) = (self.now_ms, true);
        for n in self.sites.keys().copied().collect::<Vec<_>>() {
            let site = self.sites.get_mut(&n).unwrap();
            if site.keeper.poll_timeout().is_some_and(|at| at <= now_ms) {
                site.keeper.poll(now_ms);
            }
            for action in site.keeper.drain_actions() {
                is_quiet = false;
                self.obey_keeper(n, action);
            }
        }
        is_quiet
    }

    fn poll_owner(&mut self) {
        let here = self.sites.iter().filter(|(_, site)| site.is_here);
        let peers: Vec<Peer> = here.map(|(n, _)| Peer { node: node(*n), org: org(*n) }).collect();
        let before = self.owner.clone();
        let (now_ms, chance) = (self.now_ms, &mut self.chance);
        self.owner.poll(now_ms, &peers, &mut || Self::random(chance));
        for (digest, wished) in before.iter() {
            let patience_ms = wished.wish.patience_ms;
            let counts = |copies: &Copies, of: &NodeId| {
                let found = copies.get(digest).and_then(|wished| wished.copies.get(of));
                found.is_some_and(|copy| copy.counts(patience_ms, now_ms))
            };
            let gone = wished.copies.keys().filter(|of| counts(&before, of));
            let gone = gone.filter(|of| !counts(&self.owner, of)).count();
            let left = self.owner.get(digest).map_or(0, |wished| wished.counting(now_ms));
            if gone > 0 && left < wished.wish.copies {
                self.mistakes.push(format!("{gone} let go, {left} left of {}", wished.wish.copies));
            }
        }
    }

    fn is_lost(&mut self, n: u8) -> bool {
        !self.sites[&n].is_here || Self::random(&mut self.chance) % 100 < self.lost
    }

    fn obey_owner(&mut self, action: Action) {
        let now_ms = self.now_ms;
        match action {
            Action::Persist { .. } => {}
            Action::Send { to, message } => {
                let n = to.as_bytes()[0];
                if self.is_lost(n) {
                    return;
                }
                let site = self.sites.get_mut(&n).unwrap();
                if site.is_liar {
                    if let Message::Keep { content } = message {
                        let kept = Message::Kept { digest: content.digest };
                        self.owner.handle_message(to, &kept, now_ms);
                    }
                    return;
                }
                let is_willing = site.is_willing;
                site.keeper.handle_message(node(OWNER), message, is_willing, now_ms);
            }
            Action::Prove { at, content, .. } => {
                let n = at.as_bytes()[0];
                let proof = match self.is_lost(n) {
                    true => Proof::None,
                    false if self.sites[&n].disk.contains(&content.digest) => Proof::Good,
                    false => Proof::Bad,
                };
                let chance = &mut self.chance;
                let random = &mut || Self::random(chance);
                self.owner.handle_proof(at, content.digest, proof, now_ms, random);
            }
        }
    }

    fn obey_keeper(&mut self, n: u8, action: KeeperAction) {
        let is_lost = self.is_lost(n);
        let (now_ms, site) = (self.now_ms, self.sites.get_mut(&n).unwrap());
        match action {
            KeeperAction::Persist { key } => {
                match site.keeper.get(&key) {
                    Some(keep) => site.stored.insert(key.1, keep.clone()),
                    None => site.stored.remove(&key.1),
                };
                assert!(site.keeper.bytes() <= 4 * MIB, "more is promised than is allowed");
            }
            KeeperAction::Send { message, .. } => {
                if let Message::Coming { digest } | Message::Kept { digest } = &message {
                    assert!(site.stored.contains_key(digest), "promised before it was stored");
                }
                if !is_lost {
                    self.owner.handle_message(node(n), &message, now_ms);
                }
            }
            KeeperAction::Fetch { key, content } => {
                if !is_lost {
                    site.disk.insert(content.digest);
                }
                site.keeper.handle_fetched(key, !is_lost, now_ms);
            }
            KeeperAction::Changed { digest } => {
                if site.keeper.iter().all(|(key, _)| key.1 != digest) {
                    site.disk.remove(&digest);
                }
            }
        }
    }

    fn here(&mut self, n: u8, is_here: bool) {
        let site = self.sites.get_mut(&n).unwrap();
        if std::mem::replace(&mut site.is_here, is_here) != is_here {
            match is_here {
                true => self.owner.handle_connected(node(n), self.now_ms),
                false => self.owner.handle_disconnected(node(n), self.now_ms),
            }
        }
    }

    /// The keeper starts again from what was stored.
    fn restart(&mut self, n: u8) {
        let (now_ms, site) = (self.now_ms, self.sites.get_mut(&n).unwrap());
        site.keeper = Keeper::new(Policy { bytes: 4 * MIB });
        for keep in site.stored.values() {
            site.keeper.restore(node(OWNER), keep.clone(), now_ms);
        }
        self.here(n, false);
        self.here(n, true);
    }

    fn keepers(&self, n: u8) -> Vec<u8> {
        let digest = content(n).digest;
        let has = |site: &&Site| site.disk.contains(&digest);
        self.sites.iter().filter(|(_, site)| has(site)).map(|(n, _)| *n).collect()
    }

    fn counting(&self, n: u8) -> u32 {
        self.owner.get(&content(n).digest).map_or(0, |wished| wished.counting(self.now_ms))
    }
}

#[test]
fn copies_are_made_at_as_many_organisations_as_there_are() {
    let mut world = World::new(6, 7);
    world.owner.wish(wish(1, 3)).unwrap();
    world.pass(60_000);
    assert_eq!(world.counting(1), 3);
    let orgs: BTreeSet<OrgId> = world.keepers(1).into_iter().map(org).collect();
    assert_eq!(orgs.len(), 3, "{:?}", world.keepers(1));
    // More, and then fewer, and then none.
    world.owner.wish(wish(1, 5)).unwrap();
    world.pass(60_000);
    assert_eq!((world.counting(1), world.keepers(1).len()), (5, 5));
    world.owner.wish(wish(1, 2)).unwrap();
    world.pass(60_000);
    assert_eq!((world.counting(1), world.keepers(1).len()), (2, 2));
    world.owner.wish(wish(1, 0)).unwrap();
    world.pass(60_000);
    assert!(world.keepers(1).is_empty() && world.owner.iter().count() == 0);
    assert_eq!(world.mistakes, Vec::<String>::new());
}

#[test]
fn who_restarts_is_waited_for_and_who_stays_away_is_replaced() {
    let mut world = World::new(3, 9);
    world.owner.wish(wish(1, 2)).unwrap();
    world.pass(60_000);
    let before = world.keepers(1);
    world.here(before[0], false);
    world.pass(PATIENCE_MS - 1_000);
    assert_eq!((world.counting(1), world.keepers(1)), (2, before.clone()));
    world.restart(before[0]);
    world.pass(60_000);
    assert_eq!((world.counting(1), world.keepers(1)), (2, before.clone()));
    // Now for good.
    world.here(before[0], false);
    world.pass(PATIENCE_MS + 60_000);
    assert_eq!((world.counting(1), world.keepers(1).len()), (2, 3));
    // It comes back all the same, and is told to let go.
    world.here(before[0], true);
    world.pass(60_000);
    assert_eq!((world.counting(1), world.keepers(1).len()), (2, 2));
    assert_eq!(world.mistakes, Vec::<String>::new());
}

#[test]
fn a_copy_that_is_lost_or_was_never_there_is_found_out_and_replaced() {
    let mut world = World::new(4, 11);
    world.sites.get_mut(&1).unwrap().is_liar = true;
    world.owner.wish(wish(1, 3)).unwrap();
    world.pass(60_000);
    assert_eq!((world.counting(1), world.keepers(1)), (3, vec![2, 3, 4]));
    // A disk dies without a word; nobody else is left but the liar, who is not asked again today.
    world.sites.get_mut(&3).unwrap().disk.clear();
    world.pass(2 * CHECK_MS);
    assert_eq!(world.counting(1), 2);
    let wished = world.owner.get(&content(1).digest).unwrap();
    assert_eq!(wished.refused.get(&node(3)).map(|(why, _)| *why), Some(NoKeep::Lost));
    world.sites.get_mut(&3).unwrap().keeper = Keeper::new(Policy { bytes: 4 * MIB });
    world.sites.get_mut(&3).unwrap().stored.clear();
    world.pass(LOST_MS);
    assert_eq!((world.counting(1), world.keepers(1)), (3, vec![2, 3, 4]));
}

#[test]
fn nobody_keeps_more_than_its_owner_allows_or_for_whom_it_does_not() {
    let mut world = World::new(2, 3);
    world.sites.get_mut(&2).unwrap().is_willing = false;
    for n in 1..=6 {
        world.owner.wish(wish(n, 2)).unwrap();
    }
    world.pass(60_000);
    let kept = world.sites[&1].keeper.iter().count();
    assert_eq!((kept, world.sites[&1].keeper.bytes()), (4, 4 * MIB));
    assert_eq!(world.sites[&2].keeper.iter().count(), 0);
    let wished = world.owner.get(&content(6).digest).unwrap();
    let why: Vec<NoKeep> = wished.refused.values().map(|(why, _)| *why).collect();
    assert_eq!(why, [NoKeep::Full, NoKeep::Policy]);
    // Room that becomes free is taken.
    world.owner.wish(wish(1, 0)).unwrap();
    world.pass(2 * 3_600_000);
    assert_eq!(world.sites[&1].keeper.iter().count(), 4);
    // An owner that is never heard of again is forgotten in the end.
    let mut keeper = std::mem::take(&mut world.sites.get_mut(&1).unwrap().keeper);
    keeper.poll(world.now_ms + 2 * IDLE_MS);
    assert_eq!(keeper.iter().count(), 0);
    let among = Among(BTreeSet::from([org(1)]));
    let one = Wish { among, ..wish(9, 2) };
    let mut world = World::new(6, 3);
    world.owner.wish(one).unwrap();
    world.pass(60_000);
    assert_eq!(world.keepers(9), [1], "of its organisation there is no other");
    let refused = world.owner.wish(wish(9, 17));
    assert_eq!(refused, Err(WishError::TooManyCopies { asked: 17 }));
}

#[test]
fn nobody_is_made_to_drop_by_another_and_strange_words_do_nothing() {
    let mut keeper = Keeper::new(Policy { bytes: MIB });
    let (one, other) = (node(1), node(2));
    keeper.handle_message(one, Message::Keep { content: content(1) }, true, 5);
    keeper.poll(5);
    keeper.handle_fetched((one, content(1).digest), true, 6);
    keeper.handle_message(other, Message::Drop { digest: content(1).digest }, true, 7);
    assert_eq!(keeper.get(&(one, content(1).digest)).unwrap().state, KeptState::Kept);
    // The same content for another owner takes no more room, unless it is said to be another.
    keeper.handle_message(other, Message::Keep { content: content(1) }, true, 8);
    assert_eq!((keeper.bytes(), keeper.iter().count()), (MIB, 2));
    let strange = Content { size: 1, ..content(1) };
    keeper.handle_message(node(3), Message::Keep { content: strange }, true, 9);
    assert_eq!(keeper.iter().count(), 2);
    let long = Content { name: "x".repeat(200), size: 0, ..content(2) };
    keeper.handle_message(one, Message::Keep { content: long }, true, 9);
    assert_eq!(keeper.iter().count(), 2);

    let mut owner = Copies::new();
    owner.wish(wish(1, 1)).unwrap();
    owner.handle_message(one, &Message::Kept { digest: content(1).digest }, 5);
    owner.handle_proof(one, content(1).digest, Proof::Good, 6, &mut || 0);
    assert_eq!(owner.get(&content(1).digest).unwrap().counting(7), 0, "nobody asked it");
    let drop = Message::Drop { digest: content(1).digest };
    assert!(owner.drain_actions().contains(&Action::Send { to: one, message: drop }));
    // A question that is never answered is put to somebody else.
    let peers = [Peer { node: one, org: org(1) }];
    owner.poll(10, &peers, &mut || 0);
    assert_eq!(owner.get(&content(1).digest).unwrap().copies[&one].state, CopyState::Asked);
    owner.poll(10 + ANSWER_MS, &peers, &mut || 0);
    assert!(owner.get(&content(1).digest).unwrap().refused.contains_key(&one));
}

#[derive(Clone, Debug)]
enum Event {
    Wish(u8, u32),
    Here(u8, bool),
    Restart(u8),
    Disk(u8),
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (1..4_u8, 0..4_u32).prop_map(|(n, copies)| Event::Wish(n, copies)),
        (1..=6_u8, any::<bool>()).prop_map(|(n, is_here)| Event::Here(n, is_here)),
        (1..=6_u8).prop_map(Event::Restart),
        (1..=6_u8).prop_map(Event::Disk),
        (1..3_600_000_u64).prop_map(Event::Pass),
        (1..90_000_u64).prop_map(Event::Pass),
    ];
    proptest::collection::vec(event, 1..40)
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens_the_copies_come_back_and_none_too_many_stay(
        events in events(),
        seed in any::<u64>(),
        liar in 0..=6_u8,
    ) {
        let mut world = World::new(6, seed);
        if let Some(site) = world.sites.get_mut(&liar) {
            site.is_liar = true;
        }
        world.lost = 20;
        for event in events {
            match event {
                Event::Wish(n, copies) => world.owner.wish(wish(n, copies)).unwrap(),
                Event::Here(n, is_here) => world.here(n, is_here),
                Event::Restart(n) => world.restart(n),
                Event::Disk(n) => {
                    // It starts anew, with nothing.
                    let site = world.sites.get_mut(&n).unwrap();
                    site.disk.clear();
                    site.stored.clear();
                    world.restart(n);
                }
                Event::Pass(ms) => world.pass(ms),
            }
        }
        // A quiet time, long enough for every pause.
        world.lost = 0;
        for n in 1..=6 {
            world.here(n, true);
        }
        world.pass(LOST_MS + 2 * CHECK_MS);
        prop_assert_eq!(&world.mistakes, &Vec::<String>::new());
        for n in 1..4 {
            let wished = world.owner.get(&content(n).digest).map_or(0, |wished| wished.wish.copies);
            prop_assert_eq!(world.counting(n), wished, "of {}: {:?}", n, world.keepers(n));
            prop_assert_eq!(world.keepers(n).len() as u32, wished, "of {}", n);
        }
        for site in world.sites.values() {
            prop_assert!(site.keeper.bytes() <= 4 * MIB);
        }
    }
}
