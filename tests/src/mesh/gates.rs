//! The measured scenarios: each prints its figures beside their targets.

use catalog::log::Version;
use catalog::memo::Memo;
use catalog::{Change, NodeId};

use super::setup::{self, Pair};
use super::tally::{self, KEEP_ALIVE, KEEP_ALIVE_US};
use super::{MS, Plan, SECOND, World};

/// One figure: what it is, what was measured, what it should be, and whether that was met.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What was measured.
    pub name: &'static str,
    /// The result.
    pub measured: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The most that it may be; not a number when it is for information.
    pub target: f64,
}

impl Figure {
    const fn new(name: &'static str, measured: f64, unit: &'static str, target: f64) -> Self {
        Self { name, measured, unit, target }
    }

    /// Whether the target was met.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.target.is_nan() || self.measured <= self.target
    }
}

/// No target.
const INFO: f64 = f64::NAN;

/// What plays a gate's scenario and gives its figures.
pub type Gate = fn(Plan) -> Vec<Figure>;

/// Every gate by its name.
pub const GATES: [(&str, Gate); 6] = [
    ("change", change),
    ("idle", idle),
    ("light", light),
    ("partition", partition),
    ("lone", lone),
    ("author", |plan| author(plan.nodes, plan.seed)),
];

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
const fn float(value: u64) -> f64 {
    value as f64
}

/// The value below which this share of the values lies.
fn percentile(values: &[u64], of_thousand: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * of_thousand / 1_000).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |us| float(*us) / float(SECOND))
}

/// A change reaches everybody, although gossip frames are lost and a tenth of the nodes just went down without a word.
#[must_use]
pub fn change(plan: Plan) -> Vec<Figure> {
    const CHANGES: usize = 20;
    let mut world = World::new(plan);
    world.run_for(5);
    world.kill(plan.nodes / 10);
    world.run_for(1);
    let (mut took_us, mut worst_us): (Vec<u64>, u64) = (Vec::new(), 0);
    let (mut copies, mut reached) = (0, 0);
    for _ in 0..CHANGES {
        let at = world.live_node();
        let text = world.texts.len();
        let (start_us, mark) = (world.now_us, world.publish(at, true));
        let all_us = world.until_all_have(&[mark], 120).last().copied().unwrap_or(u64::MAX);
        worst_us = worst_us.max(all_us);
        let text = &world.texts[text];
        took_us.extend(text.reached_us.iter().map(|us| us - start_us));
        copies += text.copies;
        reached += text.reached_us.len() as u64;
    }
    vec![
        Figure::new("change reaches half of the live nodes", percentile(&took_us, 500), "s", 0.5),
        Figure::new("change reaches 99 %", percentile(&took_us, 990), "s", 1.5),
        Figure::new("change reaches all, worst of 20", float(worst_us) / float(SECOND), "s", 5.0),
        Figure::new(
            "copies of a message at a node",
            float(copies) / float(reached.max(1)),
            "",
            4.5,
        ),
    ]
}

/// Nothing changes: only leases, announcements, comparisons and signs of life.
#[must_use]
pub fn idle(plan: Plan) -> Vec<Figure> {
    let mut world = World::new(Plan { records: 100, ..plan });
    world.run_for(20);
    let (into, out) = world.rates(|_| true);
    vec![
        Figure::new("idle, received by a node", mean(&into), "KiB/s", 4.0),
        Figure::new("idle, sent by a node", mean(&out), "KiB/s", 4.0),
        Figure::new("idle, most received by one node", most(&into), "KiB/s", INFO),
        Figure::new("idle, most sent by one node", most(&out), "KiB/s", INFO),
    ]
}

/// Every tenth node is a light one: what it costs them when nothing changes, when they hear of changes, and when others hear
/// of theirs.
#[must_use]
pub fn light(plan: Plan) -> Vec<Figure> {
    const CHANGES: u32 = 10;
    let mut world = World::new(Plan { records: plan.nodes / 10, light: 10, ..plan });
    world.run_for(100);
    let (into, out) = world.rates(|at| at % 10 == 1);
    let (full_into, full_out) = world.rates(|at| at % 10 != 1);
    let (mut heard_us, mut told_us): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
    for n in 0..CHANGES {
        // One of a full node, then one of a light node.
        let at = (n * 10 + n % 2) % plan.nodes;
        let (text, start_us) = (world.texts.len(), world.now_us);
        let mark = world.publish(at, true);
        heard_us.extend(world.until_have(&[mark], 300, |at| at % 10 == 1));
        let all = world.until_have(&[mark], 300, |at| at % 10 != 1).into_iter().max();
        let pushed = world.texts[text].reached_us.iter().map(|us| us - start_us);
        told_us.extend((n % 2 == 1).then_some(pushed).into_iter().flatten());
        assert_ne!(all, Some(u64::MAX), "every full node has it by now");
    }
    let last = heard_us.iter().max().copied().unwrap_or(u64::MAX);
    vec![
        Figure::new("idle, received by a light node", mean(&into), "KiB/s", 2.0),
        Figure::new("idle, sent by a light node", mean(&out), "KiB/s", 2.0),
        Figure::new("idle, most received by one light node", most(&into), "KiB/s", 2.0),
        Figure::new("idle, most sent by one light node", most(&out), "KiB/s", 2.0),
        Figure::new("idle beside them, received by a full node", mean(&full_into), "KiB/s", 4.0),
        Figure::new("idle beside them, sent by a full node", mean(&full_out), "KiB/s", 4.0),
        Figure::new(
            "change reaches half of the light nodes",
            percentile(&heard_us, 500),
            "s",
            INFO,
        ),
        Figure::new(
            "change reaches all light nodes, worst of 10",
            float(last) / float(SECOND),
            "s",
            120.0,
        ),
        Figure::new(
            "change of a light node reaches 99 % of the full",
            percentile(&told_us, 990),
            "s",
            1.5,
        ),
    ]
}

fn mean(all: &[f64]) -> f64 {
    all.iter().sum::<f64>() / float(all.len() as u64)
}

fn most(all: &[f64]) -> f64 {
    all.iter().copied().fold(0.0, f64::max)
}

/// Two halves that changed apart for ten minutes become one again.
#[must_use]
pub fn partition(plan: Plan) -> Vec<Figure> {
    const CHANGES: u32 = 40;
    let mut world = World::new(plan);
    world.run_for(5);
    world.cut();
    let mut marks = Vec::new();
    for _ in 0..CHANGES {
        let at = world.live_node();
        marks.push(world.publish(at, true));
        world.run_for(600 / u64::from(CHANGES));
    }
    marks.reverse();
    let mut newest: Vec<(NodeId, Version)> = Vec::new();
    for mark in marks {
        if newest.iter().all(|(author, _)| *author != mark.0) {
            newest.push(mark);
        }
    }
    world.heal();
    let times = world.until_all_have(&newest, 300);
    let all = times.last().copied().unwrap_or(u64::MAX);
    vec![
        Figure::new("partition healed, 99 % of the nodes", percentile(&times, 990), "s", 60.0),
        Figure::new("partition healed, all", float(all) / float(SECOND), "s", 90.0),
    ]
}

/// All gossip of one change is lost: only pulls spread it.
#[must_use]
pub fn lone(plan: Plan) -> Vec<Figure> {
    let mut world = World::new(plan);
    world.run_for(20);
    let mut worst_us = 0;
    for _ in 0..5 {
        let at = world.live_node();
        let mark = world.publish(at, false);
        worst_us = world.until_all_have(&[mark], 300).last().copied().unwrap_or(0).max(worst_us);
        world.run_for(30);
    }
    vec![Figure::new(
        "record that one node alone had, all, worst of 5",
        float(worst_us) / float(SECOND),
        "s",
        120.0,
    )]
}

/// Two replicas of a thousand authors that differ in one: what the messages between them cost.
#[must_use]
pub fn author(authors: u32, seed: u64) -> Vec<Figure> {
    const TRIES: u32 = 20;
    let mut pair = Pair::new(authors, seed, &Memo::default());
    let (mut bytes, mut most_bytes, mut most_trips, mut bare) = (0, 0, 0, 0);
    for n in 0..TRIES {
        let cost = pair.change_one(n * (authors / TRIES), n % 2 == 0);
        bytes += cost.bytes;
        bare += cost.bytes - cost.signed;
        most_bytes = most_bytes.max(cost.bytes);
        most_trips = most_trips.max(cost.messages.div_ceil(2));
    }
    let tries = u64::from(TRIES);
    vec![
        Figure::new("1 changed author, bytes, mean of 20", float(bytes / tries), "B", 1_024.0),
        Figure::new("1 changed author, bytes, worst of 20", float(most_bytes), "B", INFO),
        Figure::new("of them not head and record, mean", float(bare / tries), "B", INFO),
        Figure::new("1 changed author, round trips, worst", float(most_trips), "", 4.0),
    ]
}

/// A busy half hour: what simulating it takes, which the caller measures.
#[must_use]
pub fn half_hour(plan: Plan, minutes: u64) -> World {
    let mut world = World::new(plan);
    for _ in 0..minutes * 6 {
        let at = world.live_node();
        world.publish(at, true);
        world.run_for(10);
    }
    world
}

impl World {
    /// KiB a second that each of some nodes receives and sends over five minutes, signs of life of its connections included.
    fn rates(&mut self, is_meant: impl Fn(u32) -> bool) -> (Vec<f64>, Vec<f64>) {
        const SECONDS: u64 = 300;
        let before: Vec<_> = self.nodes.iter().map(|node| node.tally).collect();
        self.run_for(SECONDS);
        let rate = |now: [u64; 3], before: [u64; 3], links: usize| {
            let bytes: u64 = now.iter().zip(before).map(|(now, before)| now - before).sum();
            let alive = links as u64 * KEEP_ALIVE * SECOND / KEEP_ALIVE_US;
            (float(bytes) / float(SECONDS) + float(alive)) / 1_024.0
        };
        let each = self.nodes.iter().zip(&before).zip(0..).filter(|(_, at)| is_meant(*at));
        each.map(|((node, before), _)| {
            let links = node.links.len();
            (rate(node.tally.into, before.into, links), rate(node.tally.out, before.out, links))
        })
        .unzip()
    }

    /// A node that is up, at random.
    fn live_node(&mut self) -> u32 {
        loop {
            let at = u32::try_from(self.below(u64::from(self.plan.nodes))).unwrap_or_default();
            if self.node(at).is_up {
                return at;
            }
        }
    }

    /// Runs until every live node has all of these, and returns when each had, in order, microseconds from now. Looks ten
    /// times a second; who has not by the end counts as never.
    fn until_all_have(&mut self, marks: &[(NodeId, Version)], seconds_max: u64) -> Vec<u64> {
        self.until_have(marks, seconds_max, |_| true)
    }

    /// The same of some nodes.
    fn until_have(
        &mut self,
        marks: &[(NodeId, Version)],
        seconds_max: u64,
        is_meant: impl Fn(u32) -> bool,
    ) -> Vec<u64> {
        let start_us = self.now_us;
        let mut times = Vec::new();
        let mut left: Vec<u32> =
            (0..self.plan.nodes).filter(|at| self.node(*at).is_up && is_meant(*at)).collect();
        while !left.is_empty() && self.now_us < start_us + seconds_max * SECOND {
            self.run_until(self.now_us + 100 * MS);
            let passed_us = self.now_us - start_us;
            left.retain(|at| {
                let catalog = &self.node(*at).catalog;
                let has_all = marks.iter().all(|(author, version)| catalog.has(*author, *version));
                if has_all {
                    times.push(passed_us);
                }
                !has_all
            });
        }
        times.extend(left.iter().map(|_| u64::MAX));
        times
    }
}

/// What one comparison cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Bytes of heads and records among them.
    pub(super) signed: u64,
}

impl Pair {
    /// Lets one author change something of which one side hears, and then compares the two.
    fn change_one(&mut self, author: u32, first_asks: bool) -> Cost {
        let node = &mut self.authors[author as usize];
        let resource = setup::data("data/0", &format!("changed {author}"));
        let put = Change::Put(resource, catalog::record::Visibility::Public);
        let published = node
            .catalog
            .publish(&node.key, &node.identity, super::START_MS, vec![put])
            .expect("a simulated node may publish");
        let mut cost = Cost::default();
        for push in &published.push {
            let pushed = self.two[0].1.handle_push(super::START_MS, push);
            let pushed = pushed.expect("an honest message is taken in");
            cost.signed += pushed.store.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
        }
        let opener = usize::from(!first_asks);
        let mut queue = std::collections::VecDeque::new();
        queue.push_back((1 - opener, self.two[opener].1.start_sync()));
        while let Some((to, message)) = queue.pop_front() {
            cost.messages += 1;
            cost.bytes += tally::bare_len(&message);
            let sender = self.two[1 - to].0;
            let synced = self.two[to].1.handle_sync(super::START_MS, sender, message);
            let synced = synced.expect("an honest message is taken in");
            queue.extend(synced.replies.into_iter().map(|reply| (1 - to, reply)));
        }
        assert_eq!(self.two[0].1.fingerprint(), self.two[1].1.fingerprint(), "they agree again");
        cost
    }
}
