//! The fold of collaborative areas among organisations whose words reach each other late, in any order, or not at all.
#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should stop the test")]

use std::collections::{BTreeMap, BTreeSet};

use catalog::area::{Area, AreaError, Said, Standing};
use catalog::record::{
    Accepted, AreaPart, AreaStatement, Ballot, Charter, RollChange, Share, ShareKind,
};
use catalog::{Digest, NodeId, OrgId};
use proptest::prelude::*;

fn org(n: usize) -> OrgId {
    OrgId::from_bytes([u8::try_from(n).unwrap(); 32])
}

fn node(n: usize) -> NodeId {
    NodeId::from_bytes([u8::try_from(n).unwrap(); 32])
}

fn charter() -> Charter {
    Charter {
        name: "valley".to_owned(),
        about: "floods".to_owned(),
        founder: org(0),
        nonce: [7; 16],
    }
}

/// As many histories, or as PROPTEST_CASES says.
fn cases(n: u32) -> ProptestConfig {
    let all = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { all.cases } else { n };
    ProptestConfig { cases, ..all }
}

/// Organisations with a node each, what each says, and who hears nothing any more.
struct World {
    areas: Vec<Option<Area>>,
    /// What was shown to whom last, where no area holds it: to those that are not in.
    shown: BTreeMap<(usize, usize), Vec<AreaPart>>,
    dead: BTreeSet<usize>,
    /// What liars say, to each in their own way.
    lies: BTreeMap<(usize, usize), AreaStatement>,
}

impl World {
    fn new(n: usize) -> Self {
        let mut areas = vec![None; n];
        areas[0] = Some(Area::found(charter(), Some(b"first".to_vec())));
        Self { areas, shown: BTreeMap::new(), dead: BTreeSet::new(), lies: BTreeMap::new() }
    }

    /// What one shows another.
    fn words(&self, from: usize, to: usize) -> Vec<AreaPart> {
        if let Some(lie) = self.lies.get(&(from, to)) {
            return vec![AreaPart::Statement(Box::new(lie.clone()))];
        }
        let Some(words) = self.areas[from].as_ref().and_then(Area::words) else {
            return Vec::new();
        };
        let (member, invited) =
            (words.members.contains(&org(to)), words.invited.contains(&org(to)));
        let farewell = words.farewells.iter().find(|(to_org, _)| *to_org == org(to));
        if let Some((_, statement)) = farewell {
            return vec![AreaPart::Statement(Box::new(statement.clone()))];
        }
        let mut parts = Vec::new();
        if member || invited {
            parts.push(AreaPart::Statement(Box::new(words.statement)));
            parts.extend(words.books.map(AreaPart::Books));
        }
        if member {
            parts.extend(words.shares.map(AreaPart::Shares));
        }
        parts
    }

    fn deliver(&mut self, from: usize, to: usize) -> bool {
        if from == to || self.dead.contains(&from) || self.dead.contains(&to) {
            return false;
        }
        let parts = self.words(from, to);
        let mut changed = false;
        if let Some(area) = &mut self.areas[to] {
            for part in &parts {
                changed |= area.hear((node(from), org(from)), part);
            }
            changed |= area.settle();
        }
        let before = self.shown.insert((from, to), parts.clone());
        changed || before.as_ref() != Some(&parts)
    }

    /// Everybody alive hears everybody alive, until nobody has anything new to say.
    fn quiesce(&mut self) {
        let n = self.areas.len();
        for _ in 0..200 {
            let mut changed = false;
            for from in 0..n {
                for to in 0..n {
                    changed |= self.deliver(from, to);
                }
            }
            if !changed {
                return;
            }
        }
        panic!("they never come to rest");
    }

    fn join(&mut self, who: usize) {
        let before = self.areas[who].as_ref();
        if before.is_some_and(Area::is_live) {
            return;
        }
        let mut said: BTreeMap<OrgId, Said> = BTreeMap::new();
        for ((from, _), parts) in self.shown.iter().filter(|((_, to), _)| *to == who) {
            let mut books = None;
            let mut statement = None;
            for part in parts {
                match part {
                    AreaPart::Statement(found) => statement = Some((**found).clone()),
                    AreaPart::Books(found) => books = Some((node(*from), found.clone())),
                    AreaPart::Shares(_) => {}
                }
            }
            if let Some(statement) = statement {
                let shares = BTreeMap::new();
                said.insert(org(*from), Said { node: node(*from), statement, books, shares });
            }
        }
        if let Some(mut area) = Area::invitation(charter(), org(who), said, before) {
            area.join().unwrap();
            self.areas[who] = Some(area);
        }
    }

    /// The program ends and starts again with what it has stored.
    fn restart(&mut self, who: usize) {
        let Some(area) = &self.areas[who] else { return };
        let again = |bytes: &[u8]| ciborium::from_reader(bytes).unwrap();
        let mut bytes = Vec::new();
        ciborium::into_writer(area, &mut bytes).unwrap();
        let mut back: Area = again(&bytes);
        for (org, said) in area.said() {
            let mut bytes = Vec::new();
            ciborium::into_writer(said, &mut bytes).unwrap();
            back.recall(*org, ciborium::from_reader(&bytes[..]).unwrap());
        }
        assert_eq!(&back, area, "what is stored is all there is");
        self.areas[who] = Some(back);
    }

    fn area(&self, who: usize) -> &Area {
        self.areas[who].as_ref().unwrap()
    }

    fn order(&mut self, who: usize, order: impl FnOnce(&mut Area) -> Result<(), AreaError>) {
        if let Some(area) = &mut self.areas[who] {
            // An owner whose order is refused has changed nothing.
            let before = area.clone();
            if order(area).is_err() {
                assert_eq!(area, &before);
            }
        }
    }

    /// Brings organisations in, one after the other, by everybody's votes.
    fn bring_in(&mut self, who: impl IntoIterator<Item = usize>) {
        for new in who {
            for member in 0..self.areas.len() {
                self.order(member, |area| area.admit(org(new)));
            }
            self.quiesce();
            self.join(new);
            self.quiesce();
            assert_eq!(self.area(new).standing(), Standing::Member, "{new} is in");
        }
    }

    fn members(&self) -> Vec<usize> {
        let is_member = |area: &Option<Area>| {
            area.as_ref().is_some_and(|area| area.standing() == Standing::Member)
        };
        let alive = (0..self.areas.len()).filter(|who| !self.dead.contains(who));
        alive.filter(|who| is_member(&self.areas[*who])).collect()
    }

    /// Members that take each other for members have the same area and the same open questions, and everybody on the roll is in.
    fn assert_one(&self) {
        let members = self.members();
        let view = |who: usize| {
            let area = self.area(who);
            let shared: BTreeSet<_> = area
                .shared(node(who))
                .map(|(org, node, share)| (org, node, share.clone()))
                .collect();
            let (open, books) = (area.open_questions(), area.proposals());
            (area.members().clone(), area.book().cloned(), open, books, shared)
        };
        for who in &members {
            let seen = view(*who);
            for org in &seen.0 {
                let other = usize::from(org.as_bytes()[0]);
                if self.dead.contains(&other) {
                    continue;
                }
                assert!(members.contains(&other), "{who} takes {other} for a member");
                assert_eq!(view(other), seen, "{other} sees what {who} sees");
            }
        }
    }

    fn admit(&mut self, by: impl IntoIterator<Item = usize>, who: usize) {
        by.into_iter().for_each(|by| self.order(by, |area| area.admit(org(who))));
    }

    fn expel(&mut self, by: impl IntoIterator<Item = usize>, who: usize) {
        by.into_iter().for_each(|by| self.order(by, |area| area.expel(org(who))));
    }

    /// Each of some hears the next, and so on.
    fn pass(&mut self, along: &[(usize, usize)]) {
        for (from, to) in along {
            self.deliver(*from, *to);
        }
    }

    /// Everybody hears everybody; who is in then, at all of them.
    fn outcome(&mut self) -> Vec<usize> {
        self.quiesce();
        self.assert_one();
        self.members()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Admit(usize, usize),
    Join(usize),
    Leave(usize),
    Expel(usize, usize),
    Propose(usize, u8),
    Accept(usize, usize),
    Share(usize, u8),
    Deliver(usize, usize),
    Restart(usize),
}

const ORGS: usize = 7;

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..ORGS;
    prop_oneof![
        6 => (who(), who()).prop_map(|(a, b)| Step::Admit(a, b)),
        5 => who().prop_map(Step::Join),
        1 => who().prop_map(Step::Leave),
        3 => (who(), who()).prop_map(|(a, b)| Step::Expel(a, b)),
        1 => (who(), any::<u8>()).prop_map(|(a, n)| Step::Propose(a, n)),
        1 => (who(), who()).prop_map(|(a, b)| Step::Accept(a, b)),
        1 => (who(), any::<u8>()).prop_map(|(a, n)| Step::Share(a, n)),
        14 => (who(), who()).prop_map(|(a, b)| Step::Deliver(a, b)),
        2 => who().prop_map(Step::Restart),
    ]
}

fn run(world: &mut World, steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::Admit(a, b) => world.order(a, |area| area.admit(org(b))),
            Step::Join(a) => world.join(a),
            Step::Leave(a) => world.order(a, Area::leave),
            Step::Expel(a, b) => world.order(a, |area| area.expel(org(b))),
            Step::Propose(a, n) => world.order(a, |area| area.propose(vec![n])),
            Step::Accept(a, b) => world.order(a, |area| area.accept(org(b))),
            Step::Share(a, n) => world.order(a, |area| {
                let (kind, digest) = (ShareKind::Workspace, Digest::of(&[n]));
                area.share(Share { kind, name: format!("w{}", n % 4), digest, size: 1 })
            }),
            Step::Deliver(a, b) => {
                world.deliver(a, b);
            }
            Step::Restart(a) => world.restart(a),
        }
    }
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn members_come_to_one_view_in_any_order_and_through_any_loss(
        steps in prop::collection::vec(step(), 0..120),
        n in 1usize..5,
    ) {
        let mut world = World::new(ORGS);
        world.bring_in(1..n);
        run(&mut world, steps);
        world.quiesce();
        world.assert_one();
    }
}

/// What a liar says: of a roll of its own, or of the one that is, with a ballot as it likes.
#[derive(Clone, Debug)]
struct Lie {
    version: u64,
    left: bool,
    members: Option<BTreeSet<usize>>,
    number: u64,
    admits: BTreeSet<usize>,
    expels: BTreeSet<usize>,
    wishes: u64,
    ballot: (u64, RollChange, bool),
}

fn lie() -> impl Strategy<Value = Lie> {
    let some = || prop::collection::btree_set(0..ORGS + 4, 0..6);
    let change = (prop::collection::btree_set(5..ORGS + 4, 0..3), 0u64..32, any::<bool>());
    let change = change.prop_map(|(lets, outs, is_book)| RollChange {
        lets: lets.into_iter().map(org).collect(),
        outs,
        book: is_book.then(|| Digest::of(b"bad")),
        ..RollChange::default()
    });
    let ballot = (0u64..4, change, any::<bool>());
    let members = prop::option::of(some());
    (1u64..1_000, any::<bool>(), members, 0u64..20, some(), some(), 0u64..64, ballot).prop_map(
        |(version, left, members, number, admits, expels, wishes, ballot)| {
            let left = left && version % 4 == 0;
            let version = version + 1_000;
            Lie { version, left, members, number, admits, expels, wishes, ballot }
        },
    )
}

impl Lie {
    fn tell(self, truth: &AreaStatement) -> AreaStatement {
        let list = |set: BTreeSet<usize>| -> Vec<OrgId> { set.into_iter().map(org).collect() };
        let admits = list(self.admits);
        let wishes = self.wishes & ((1 << admits.len()) - 1);
        let (round, change, has_accepted) = self.ballot;
        let accepted = has_accepted.then(|| Accepted { round, change: change.clone() });
        let is_true = self.members.is_none();
        AreaStatement {
            version: self.version,
            charter: charter(),
            left: self.left,
            members: self.members.map_or_else(|| truth.members.clone(), list),
            granted: if is_true { 0 } else { wishes },
            admits,
            expels: list(self.expels),
            number: if is_true { truth.number } else { self.number },
            book: truth.book.clone(),
            wishes,
            ballot: Some(Ballot { round, choice: Some(change), accepted }),
        }
    }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn a_minority_of_liars_changes_nothing(
        lies in prop::collection::vec((3usize..5, 0usize..3, lie()), 1..30),
    ) {
        // Three honest members, two that lie to each in another way, and two outside who join whatever they are shown.
        let mut world = World::new(ORGS);
        world.bring_in(1..5);
        let before = world.area(0).members().clone();
        let book = world.area(0).book().cloned();
        for (liar, to, lie) in lies {
            let truth = world.area(liar).words().unwrap().statement;
            world.lies.insert((liar, to), lie.tell(&truth));
            for who in 0..3 {
                world.deliver(liar, who);
            }
            for outside in 5..ORGS {
                world.join(outside);
            }
            for from in 0..3 {
                for to in 0..3 {
                    world.deliver(from, to);
                }
            }
        }
        let liars = BTreeSet::from([org(3), org(4)]);
        for who in 0..3 {
            let members = world.area(who).members();
            let honest: BTreeSet<OrgId> = before.difference(&liars).copied().collect();
            prop_assert!(members.is_superset(&honest), "{who} has lost an honest member");
            prop_assert!(members.is_subset(&before), "{who} has let a stranger in");
            prop_assert_eq!(world.area(who).book().cloned(), book.clone());
        }
    }
}

#[test]
fn the_founder_may_be_away_for_ever_leave_or_be_put_out() {
    let mut world = World::new(ORGS);
    world.bring_in(1..4);
    world.dead.insert(0);
    let share = Share {
        kind: ShareKind::Workflow,
        name: "model".to_owned(),
        digest: Digest::of(b"model"),
        size: 5,
    };
    world.order(1, |area| area.share(share));
    world.order(1, |area| area.propose(b"second".to_vec()));
    world.quiesce();
    for who in 2..4 {
        world.order(who, |area| area.accept(org(1)));
    }
    for who in 1..4 {
        world.order(who, |area| area.expel(org(0)));
    }
    world.quiesce();
    world.assert_one();
    let area = world.area(3);
    assert_eq!(area.book().map(|book| (book.number, &*book.content)), Some((2, &b"second"[..])));
    assert_eq!(area.members(), &BTreeSet::from([org(1), org(2), org(3)]));
    assert_eq!(area.shared(node(3)).count(), 1);
    // Back again, it hears that it is out.
    world.dead.clear();
    world.quiesce();
    assert_eq!(world.area(0).standing(), Standing::Expelled);
    assert!(world.area(0).members().is_empty());
    assert!(world.area(0).words().unwrap().statement.left);
}

/// Liars that say the same to all.
fn same_lies() -> impl Strategy<Value = Vec<(usize, Lie)>> {
    prop::collection::vec((3usize..5, lie()), 0..12)
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn liars_that_say_the_same_to_all_do_not_part_the_others(
        lies in same_lies(),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut world = World::new(ORGS);
        world.bring_in(1..5);
        let mut steps = steps.into_iter();
        for (version, (liar, lie)) in lies.into_iter().enumerate() {
            let Some(truth) = world.area(0).words().map(|words| words.statement) else { break };
            let version = 2_000 + version as u64;
            let told = AreaStatement { version, ..lie.tell(&truth) };
            (0..ORGS).for_each(|to| drop(world.lies.insert((liar, to), told.clone())));
            run(&mut world, steps.by_ref().take(5).collect());
        }
        run(&mut world, steps.collect());
        world.quiesce();
        let honest: Vec<usize> = world.members().into_iter().filter(|w| !(3..5).contains(w)).collect();
        let first: Vec<usize> = honest.iter().copied().filter(|who| *who < 3).collect();
        for pair in first.windows(2) {
            let (one, other) = (world.area(pair[0]), world.area(pair[1]));
            if one.members().contains(&org(pair[1])) || other.members().contains(&org(pair[0])) {
                prop_assert_eq!(one.members(), other.members());
                prop_assert_eq!(one.book(), other.book());
            }
        }
    }
}

#[test]
fn invitations_that_are_decided_at_one_moment_at_different_members_all_count() {
    let mut world = World::new(ORGS);
    world.bring_in(1..3);
    world.admit([0, 1], 3);
    world.admit([1, 2], 4);
    world.pass(&[(0, 1), (1, 0), (2, 1), (1, 2)]);
    world.pass(&[(0, 3), (1, 3), (1, 4), (2, 4)]);
    world.join(3);
    world.join(4);
    world.pass(&[(3, 0), (4, 2), (1, 0), (1, 2)]);
    assert_eq!(world.outcome(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_vote_taken_back_while_others_count_it_leaves_the_same_at_all() {
    let mut world = World::new(ORGS);
    world.bring_in(1..4);
    world.admit([0, 1, 2], 4);
    // One has seen three votes of four, and then there are two.
    world.pass(&[(1, 0), (2, 0)]);
    world.expel([2], 4);
    world.quiesce();
    world.join(4);
    let members = world.outcome();
    assert_eq!(members, [0, 1, 2, 3]);
    assert_eq!(world.area(3).open_questions()[0].by.len(), 2);
    // What somebody has chosen by votes that are gone does not stand in the way.
    world.admit([3], 5);
    world.admit([0, 1], 5);
    world.quiesce();
    world.join(5);
    assert_eq!(world.outcome(), [0, 1, 2, 3, 5]);
}

#[test]
fn members_that_leave_while_their_votes_are_counted_leave_one_view() {
    let mut world = World::new(ORGS);
    world.bring_in(1..4);
    // One hears of one who leaves, another of the other, and each has voted with the one whom it does not know to leave.
    world.admit([0, 2], 4);
    world.admit([1, 3], 5);
    world.pass(&[(2, 0), (3, 1)]);
    world.order(2, Area::leave);
    world.order(3, Area::leave);
    world.pass(&[(3, 0), (2, 1)]);
    let members = world.outcome();
    assert_eq!(members, [0, 1]);
    assert_eq!(world.area(0).open_questions().len(), 2);
}

#[test]
fn halves_that_put_each_other_out_at_one_moment_end_in_one_view() {
    let mut world = World::new(ORGS);
    world.bring_in(1..4);
    world.expel([0, 1], 3);
    world.expel([2, 3], 0);
    // Whichever is passed first, the votes of who is out count no more for the other.
    let members = world.outcome();
    assert!([vec![1, 2], vec![0, 1, 2], vec![1, 2, 3]].contains(&members), "{members:?}");
}

#[test]
fn rule_books_proposed_at_one_moment_are_decided_once() {
    let mut world = World::new(ORGS);
    world.bring_in(1..4);
    world.order(0, |area| area.propose(b"one".to_vec()));
    world.order(3, |area| area.propose(b"two".to_vec()));
    world.quiesce();
    world.assert_one();
    assert_eq!(world.area(1).proposals().len(), 2);
    world.order(1, |area| area.accept(org(0)));
    world.pass(&[(1, 0)]);
    world.order(2, |area| area.accept(org(3)));
    world.quiesce();
    world.assert_one();
    assert_eq!(world.area(2).book().map(|book| book.number), Some(1), "two against two");
    world.order(2, |area| area.accept(org(1)));
    world.outcome();
    assert_eq!(world.area(3).book().map(|book| &*book.content), Some(&b"one"[..]));
    assert!(world.area(3).proposals().is_empty());
}

#[test]
fn who_was_away_finds_its_way_to_the_roll_of_the_others() {
    let mut world = World::new(ORGS);
    world.bring_in(1..5);
    world.dead.insert(4);
    world.expel([0, 1, 2], 3);
    world.quiesce();
    world.bring_in([5]);
    world.order(0, |area| area.propose(b"second".to_vec()));
    world.quiesce();
    for who in [1, 2, 5] {
        world.order(who, |area| area.accept(org(0)));
    }
    world.quiesce();
    // One of those who could tell is gone for ever.
    world.dead.remove(&4);
    world.deliver(2, 4);
    world.dead.insert(2);
    assert_eq!(world.outcome(), [0, 1, 4, 5]);
    assert_eq!(world.area(4).book().map(|book| book.number), Some(2));
}

#[test]
fn of_two_one_goes_on_when_the_other_is_gone_for_ever() {
    let mut world = World::new(ORGS);
    world.bring_in(1..2);
    world.dead.insert(1);
    world.expel([0], 1);
    assert_eq!(world.outcome(), [0]);
    world.bring_in(2..4);
    assert_eq!(world.outcome(), [0, 2, 3]);
}

#[test]
fn who_is_put_out_and_let_in_again_before_it_hears_of_it_joins_again() {
    for n in 2..4 {
        let mut world = World::new(ORGS);
        world.bring_in(1..n);
        world.dead.insert(1);
        world.expel([0, 2], 1);
        world.quiesce();
        world.order(0, |area| area.propose(b"second".to_vec()));
        world.quiesce();
        world.order(2, |area| area.accept(org(0)));
        world.admit([0, 2], 1);
        world.quiesce();
        world.dead.clear();
        world.quiesce();
        world.assert_one();
        assert_eq!(world.area(1).standing(), Standing::Expelled, "it has not said that it joins");
        world.join(1);
        world.outcome();
        assert_eq!(world.area(1).members().len(), n);
        assert_eq!(world.area(1).book().map(|book| book.number), Some(2));
    }
}

#[test]
fn two_that_put_each_other_out_at_one_moment_are_each_alone() {
    let mut world = World::new(ORGS);
    world.bring_in(1..2);
    world.expel([0], 1);
    world.expel([1], 0);
    // An invitation does not bring back who has not asked for it.
    world.admit([0], 1);
    world.outcome();
    for who in 0..2 {
        assert_eq!(world.area(who).members(), &BTreeSet::from([org(who)]));
    }
}

#[test]
fn several_that_ask_at_one_moment_all_come_in() {
    let mut world = World::new(ORGS);
    for who in 3..6 {
        world.admit([0], who);
        world.deliver(0, who);
    }
    (3..6).for_each(|who| world.join(who));
    assert_eq!(world.outcome(), [0, 3, 4, 5]);
}
