//! The fold of collaborative areas among organisations whose words reach each other late, in any order, or not at all.
#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on should stop the test")]

use std::collections::{BTreeMap, BTreeSet};

use catalog::area::{Area, AreaError, Said, Standing};
use catalog::record::{AreaPart, AreaStatement, Charter, Share, ShareKind};
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
            return vec![AreaPart::Statement(lie.clone())];
        }
        let Some(words) = self.areas[from].as_ref().and_then(Area::words) else {
            return Vec::new();
        };
        let (member, invited) =
            (words.members.contains(&org(to)), words.invited.contains(&org(to)));
        let farewell = words.farewells.iter().find(|(to_org, _)| *to_org == org(to));
        if let Some((_, statement)) = farewell {
            return vec![AreaPart::Statement(statement.clone())];
        }
        let mut parts = Vec::new();
        if member || invited {
            parts.push(AreaPart::Statement(words.statement));
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
                    AreaPart::Statement(found) => statement = Some(found.clone()),
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

    /// Of those who hear each other all have the same area, and everybody who is in knows it.
    fn assert_one(&self) {
        let members = self.members();
        let views: Vec<_> = members
            .iter()
            .map(|who| {
                let area = self.area(*who);
                let shared: BTreeSet<_> = area
                    .shared(node(*who))
                    .map(|(org, node, share)| (org, node, share.clone()))
                    .collect();
                (area.members().clone(), area.book().cloned(), shared)
            })
            .collect();
        for (view, who) in views.iter().zip(&members) {
            assert_eq!(view, &views[0], "{who} sees what {} sees", members[0]);
            for org in &view.0 {
                let who = usize::from(org.as_bytes()[0]);
                assert!(self.dead.contains(&who) || members.contains(&who), "{who} is in");
            }
        }
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

/// Whether nothing is open but about this one. Several questions about members at one moment, and votes that are taken back, are
/// another matter.
fn is_alone(world: &mut World, who: usize) -> bool {
    world.quiesce();
    let areas = world.members().into_iter().map(|member| world.area(member));
    areas.flat_map(Area::open_questions).all(|view| view.question.org() == org(who))
}

fn run(world: &mut World, steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::Admit(a, b) if a != b && is_alone(world, b) => {
                world.order(a, |area| area.admit(org(b)));
            }
            Step::Join(a) if is_alone(world, a) => world.join(a),
            Step::Leave(a) if is_alone(world, a) => world.order(a, Area::leave),
            Step::Expel(a, b) if is_alone(world, b) && world.members().contains(&b) => {
                world.order(a, |area| area.expel(org(b)));
            }
            Step::Admit(..) | Step::Join(_) | Step::Leave(_) | Step::Expel(..) => {}
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
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn members_come_to_one_view_in_any_order_and_through_any_loss(
        steps in prop::collection::vec(step(), 0..120),
        n in 1usize..5,
    ) {
        let mut world = World::new(ORGS);
        world.bring_in(1..n);
        run(&mut world, steps);
        world.quiesce();
        // Rule books without a majority wait for their owners: they agree on one.
        if let Some(first) = world.members().first().copied() {
            world.order(first, |area| area.propose(b"agreed".to_vec()));
            world.quiesce();
            for who in world.members() {
                world.order(who, |area| area.accept(org(first)));
            }
            world.quiesce();
        }
        world.assert_one();
    }
}

/// A statement as a liar likes it.
fn lie() -> impl Strategy<Value = AreaStatement> {
    let some = || prop::collection::btree_set(0..ORGS + 4, 0..6);
    (1u64..1_000, any::<bool>(), some(), some(), some()).prop_map(
        |(version, left, members, admits, expels)| {
            let list = |set: BTreeSet<usize>| set.into_iter().map(org).collect();
            let (members, admits, expels) = (list(members), list(admits), list(expels));
            AreaStatement { version, charter: charter(), left, members, admits, expels }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_minority_of_liars_changes_nothing(
        lies in prop::collection::vec((3usize..5, 0usize..3, lie()), 1..30),
    ) {
        // Three honest members, two that lie to each in another way, and two outside who join whatever they are shown.
        let mut world = World::new(ORGS);
        world.bring_in(1..5);
        let before = world.area(0).members().clone();
        let book = world.area(0).book().cloned();
        for (liar, to, statement) in lies {
            world.lies.insert((liar, to), statement);
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
    assert!(world.area(0).members().is_empty() && world.area(0).words().is_none());
}
