//! Placement: which nodes to ask for a task, in which order, and why not the others.
//!
//! [`plan`] is a pure function of a snapshot. Hard constraints (trust, rule, region, runtime, architecture, size, devices,
//! price cap) come first: a candidate that breaks one is rejected with the reason, whatever the strategy. The rest are scored
//! in integers (microseconds of expected finish, nano-units of price) and ranked. Every candidate is in [`Plan::ranked`] or
//! in [`Plan::rejected`], the order of the candidates does not matter, and equal scores are ordered by node id.
//!
//! A plan is advice about whom to ask. The quote that comes back is checked again by [`Rule::check_quote`].
//!
//! ```
//! use scheduler::place::{Rule, Strategy};
//!
//! let strategy: Strategy = "sovereignty=1,performance=2,cost=0".parse()?;
//! assert_eq!(strategy.to_string(), "sovereignty=1,performance=2,cost=0");
//! assert_eq!(Rule::default().regions.len(), 0);
//! # Ok::<(), scheduler::place::StrategyError>(())
//! ```

use std::collections::BTreeSet;

use catalog::{Amount, Currency, Digest, NodeId, OrgId};

use crate::device::Counts;
use crate::task::{Needs, RuntimeKind};

mod explain;
mod rule;
mod ruling;
mod score;
mod strategy;

pub use rule::{Rule, RuleBreak};
pub use ruling::{Budget, Cost, Ruling};
pub use score::{
    ASSUMED_BYTES_PER_S, ESTIMATE_UNKNOWN_MS, FAILURES_COUNTED_MAX, FAULT_DETECTION_US,
    INPUTS_COUNTED_MAX, PRICE_TERM_MAX, ROUND_TRIPS, SPREAD_DIVISOR, TIME_TERM_MAX_US,
    TRUST_STEP_US,
};
pub use strategy::{Strategy, StrategyError, WEIGHT_MAX};

/// What this node's owner thinks of an organisation.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// The organisation of this node.
    Own,
    /// Trusted explicitly.
    Partner,
    /// Admitted, no more.
    Peer,
    /// Refused by the owner: gets no work.
    Blocked,
}

impl Trust {
    /// The word in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Partner => "partner",
            Self::Peer => "peer",
            Self::Blocked => "blocked",
        }
    }
}

/// What a node asks for its work. Negative figures count as zero: nobody climbs a ranking by promising money.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// The currency of all figures.
    pub currency: Currency,
    /// Nano-units for one core for one second.
    pub cpu_nano_per_s: i64,
    /// Nano-units for one GiB of memory for one second.
    pub memory_nano_per_gib_s: i64,
    /// Nano-units for one GiB brought to the node.
    pub net_nano_per_gib: i64,
    /// Nano-units for one device held for one second.
    #[serde(default)]
    pub device_nano_per_s: i64,
    /// Once for each task.
    pub fixed: Amount,
}

/// A node that might run the task, as this coordinator knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node. A snapshot holds each node once.
    pub node: NodeId,
    /// Its owner.
    pub org: OrgId,
    /// What the owner calls itself.
    pub org_name: String,
    /// What the owner calls the node.
    pub node_name: String,
    /// What this coordinator's owner thinks of the organisation.
    pub trust: Trust,
    /// Machine architecture, such as `x86_64`.
    pub arch: String,
    /// What it can run.
    pub runtimes: Vec<RuntimeKind>,
    /// Those of them that it also runs services with.
    pub services: Vec<RuntimeKind>,
    /// Whether tasks that ask for it reach the network there.
    pub network: bool,
    /// Whole capacity in thousandths of a core.
    pub cpu_milli: u64,
    /// Whole memory for tasks in bytes.
    pub memory_bytes: u64,
    /// Whole disk for tasks in bytes.
    pub disk_bytes: u64,
    /// Devices that it gives to tasks of this coordinator, by name.
    pub devices: Counts,
    /// Where it stands, from wide to narrow: `eu`, `eu-fr`, `eu-fr-paris`.
    pub region: String,
    /// Whether there is a connection to it, or it is this node itself.
    pub connected: bool,
    /// Thousandths of a core that this coordinator has tasks for there.
    pub inflight_cpu_milli: u64,
    /// Round-trip time in microseconds, 0 for this node itself.
    pub rtt_us: u64,
    /// Speed learnt from finished tasks; 1000 is nominal, 2000 twice as fast. 0 counts as 1.
    pub speed_milli: u32,
    /// Its published price; `None` asks no money.
    pub price: Option<Price>,
    /// Faults of the provider in recent tasks.
    pub failures: u32,
    /// It said it is full: not to be asked before this time (Unix milliseconds).
    pub refused_until_ms: u64,
    /// Those of the task's inputs that it has.
    pub holds: BTreeSet<Digest>,
}

/// A task to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What runs it.
    pub runtime: RuntimeKind,
    /// Whether it is the replica of a service.
    pub is_service: bool,
    /// What it needs.
    pub needs: Needs,
    /// Blobs it needs, with sizes in bytes. Repetitions count once.
    pub inputs: Vec<(Digest, u64)>,
    /// Expected run time at nominal speed in milliseconds; 0 = unknown, counted as [`ESTIMATE_UNKNOWN_MS`].
    pub estimate_ms: u64,
    /// What to optimise.
    pub strategy: Strategy,
    /// Where it may go.
    pub rule: Rule,
    /// Nodes not to ask, such as those that failed this task.
    pub exclude: BTreeSet<NodeId>,
}

/// One summand of a score: `value * weight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// `queue`, `spread`, `transfer`, `round_trips`, `run`, `faults`, `trust`, `price` or `currency`.
    pub name: &'static str,
    /// Microseconds; for `price` nano-units.
    pub value: i64,
    /// 0 when the strategy looks at it only to break ties, or not at all.
    pub weight: i64,
}

/// A candidate that may get the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scored {
    /// The node.
    pub node: NodeId,
    /// The sum of the terms; lower is better.
    pub score: i64,
    /// Expected microseconds until the task is done there. Breaks ties of the score.
    pub finish_us: i64,
    /// Expected price; `None` when the node asks no money.
    pub price: Option<(Amount, Currency)>,
    /// What the owner of this coordinator thinks of the provider.
    pub trust: Trust,
    /// What the score is made of.
    pub terms: Vec<Term>,
}

/// Why a candidate cannot get the task. Lasting reasons are found before passing ones (see [`Rejection::is_passing`]).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The owner of this node blocks the organisation.
    #[error("its organisation is blocked here")]
    Blocked,
    /// The binding does not allow it.
    #[error("{0}")]
    Rule(RuleBreak),
    /// The rules of an area do not allow it.
    #[error("{0}")]
    Area(catalog::rules::RuleBreak),
    /// It is not of the area in which the task is to be done.
    #[error("its organisation is no member of area `{area}`")]
    NotMember {
        /// What the area is called.
        area: String,
    },
    /// The rules of the area are not known here, so nothing can be said to keep to them.
    #[error("the rules of area {area} cannot be read here: {detail}")]
    NoRules {
        /// What the area is called.
        area: String,
        /// Why not.
        detail: String,
    },
    /// The provider said that the area does not allow it.
    #[error("{}", refused_by(rule.as_deref()))]
    RefusedByArea {
        /// The rule, as the provider named it; absent when it knows no such area, or this organisation as no member.
        rule: Option<String>,
    },
    /// The provider said that its policies do not allow it to whoever it is for.
    #[error("its owner's policies do not allow it to whoever asks")]
    RefusedByPolicy,
    /// The provider said that it cannot do it.
    #[error("it says that it lacks what the task needs")]
    RefusedAsUnfit,
    /// It stands elsewhere.
    #[error("it is in region `{region}`, which the rule does not list")]
    Region {
        /// Where it stands.
        region: String,
    },
    /// It lacks the runtime.
    #[error("it has no `{}` runtime", runtime.as_str())]
    Runtime {
        /// What the task needs.
        runtime: RuntimeKind,
    },
    /// It runs no services, or not with this runtime.
    #[error("it runs no services with `{}`", runtime.as_str())]
    Service {
        /// What the service needs.
        runtime: RuntimeKind,
    },
    /// Another machine architecture.
    #[error("it is `{have}`, the task needs `{need}`")]
    Arch {
        /// Of the node.
        have: String,
        /// Of the task.
        need: String,
    },
    /// Its owner gives tasks no network.
    #[error("it gives tasks no network")]
    Network,
    /// Too few cores, even when idle.
    #[error("it has {have} thousandths of a core, the task needs {need}")]
    Cpu {
        /// Thousandths of a core of the node.
        have: u64,
        /// Thousandths of a core of the task.
        need: u64,
    },
    /// Too little memory, even when idle.
    #[error("it has {have} bytes of memory, the task needs {need}")]
    Memory {
        /// Bytes of the node.
        have: u64,
        /// Bytes of the task.
        need: u64,
    },
    /// Too little disk, even when idle.
    #[error("it has {have} bytes of disk, the task needs {need}")]
    Disk {
        /// Bytes of the node.
        have: u64,
        /// Bytes of the task.
        need: u64,
    },
    /// Too few devices of a name, even when idle, or none for tasks of this coordinator.
    #[error("{}", few_devices(name, *have, *need))]
    Device {
        /// Which.
        name: String,
        /// How many the node gives.
        have: u32,
        /// How many the task needs.
        need: u32,
    },
    /// It asks for another currency than the price cap names.
    #[error("it asks for {have}, the price cap is in {want}")]
    Currency {
        /// Of the node.
        have: Currency,
        /// Of the cap.
        want: Currency,
    },
    /// It would cost more than the cap.
    #[error("it would cost about {estimate} {currency}, at most {max} {currency} is allowed")]
    Price {
        /// The expected or quoted price.
        estimate: Amount,
        /// The cap.
        max: Amount,
        /// Of both.
        currency: Currency,
    },
    /// The request names it as not to be asked.
    #[error("it was tried for this task already")]
    Excluded,
    /// No connection.
    #[error("it is not connected")]
    NotConnected,
    /// It said it is full.
    #[error("it said it is full; to be asked again in {} ms", until_ms.saturating_sub(*now_ms))]
    RefusedUntil {
        /// When to ask again (Unix milliseconds).
        until_ms: u64,
        /// When the plan was made (Unix milliseconds).
        now_ms: u64,
    },
}

fn refused_by(rule: Option<&str>) -> String {
    match rule {
        Some(rule) => format!("it refused by rule `{rule}` of the area"),
        None => "it is not in the area, or does not know this organisation as a member".to_owned(),
    }
}

impl Rejection {
    /// Whether waiting may cure it: a connection may come back, a full node may empty. A task with no ranked candidate and
    /// no passing rejection cannot be placed.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::NotConnected | Self::RefusedUntil { .. })
    }
}

/// Whom to ask, best first, and why not the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Candidates that may get the task, best first.
    pub ranked: Vec<Scored>,
    /// The others, by node id.
    pub rejected: Vec<(NodeId, Rejection)>,
}

impl Plan {
    /// Whether asking later may help although nobody can be asked at the moment.
    #[must_use]
    pub fn is_worth_waiting(&self) -> bool {
        self.rejected.iter().any(|(_, reason)| reason.is_passing())
    }

    /// When the first node that said it is full may be asked again (Unix milliseconds).
    #[must_use]
    pub fn retry_at_ms(&self) -> Option<u64> {
        let until = |reason: &Rejection| match reason {
            Rejection::RefusedUntil { until_ms, .. } => Some(*until_ms),
            _ => None,
        };
        self.rejected.iter().filter_map(|(_, reason)| until(reason)).min()
    }
}

/// Ranks the candidates for a task. `now_ms` is Unix milliseconds.
///
/// Costs `O(c log c)` for `c` candidates, with at most [`INPUTS_COUNTED_MAX`] inputs looked up for each.
#[must_use]
pub fn plan(candidates: &[Candidate], request: &Request, now_ms: u64) -> Plan {
    plan_under(candidates, request, &Ruling::default(), now_ms)
}

/// As [`plan`], with what the rules of areas say of the task.
#[must_use]
pub fn plan_under(
    candidates: &[Candidate],
    request: &Request,
    ruling: &Ruling,
    now_ms: u64,
) -> Plan {
    let rule = rule::Compiled::new(&request.rule);
    let work = score::Work::new(request);
    let mut plan = Plan::default();
    let mut eligible = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let outlook = work.outlook(candidate);
        match reject(candidate, request, (&rule, ruling), &outlook, now_ms) {
            Some(reason) => plan.rejected.push((candidate.node, reason)),
            None => eligible.push((candidate, outlook)),
        }
    }
    let yardstick = score::Yardstick::new(request, eligible.iter().map(|(_, outlook)| outlook));
    plan.ranked =
        eligible.iter().map(|(candidate, outlook)| yardstick.score(candidate, outlook)).collect();
    plan.ranked.sort_unstable_by_key(|scored| (scored.score, scored.finish_us, scored.node));
    plan.rejected.sort_by_key(|(node, _)| *node);
    plan
}

/// The first hard constraint that the candidate breaks: lasting reasons first, then passing ones.
fn reject(
    candidate: &Candidate,
    request: &Request,
    (rule, ruling): (&rule::Compiled<'_>, &Ruling),
    outlook: &score::Outlook,
    now_ms: u64,
) -> Option<Rejection> {
    if candidate.trust == Trust::Blocked {
        return Some(Rejection::Blocked);
    }
    if let Some(broken) = rule.broken_by(candidate) {
        return Some(broken);
    }
    if let Some(barred) = ruling.bars(candidate.node, outlook.price) {
        return Some(barred);
    }
    if let Some(unfit) = unfit(candidate, request) {
        return Some(unfit);
    }
    if let Some((price, currency)) = outlook.price
        && let Err(dear) = request.rule.check_quote(price, currency)
    {
        return Some(dear);
    }
    if request.exclude.contains(&candidate.node) {
        return Some(Rejection::Excluded);
    }
    if !candidate.connected {
        return Some(Rejection::NotConnected);
    }
    let until_ms = candidate.refused_until_ms;
    (until_ms > now_ms).then_some(Rejection::RefusedUntil { until_ms, now_ms })
}

/// What the machine lacks, even when idle.
fn unfit(candidate: &Candidate, request: &Request) -> Option<Rejection> {
    let Request { runtime, needs, .. } = request;
    if !candidate.runtimes.contains(runtime) {
        return Some(Rejection::Runtime { runtime: *runtime });
    }
    if request.is_service && !candidate.services.contains(runtime) {
        return Some(Rejection::Service { runtime: *runtime });
    }
    if let Some(need) = needs.arch.as_ref().filter(|need| **need != candidate.arch) {
        return Some(Rejection::Arch { have: candidate.arch.clone(), need: need.clone() });
    }
    if needs.network && !candidate.network {
        return Some(Rejection::Network);
    }
    if needs.cpu_milli > candidate.cpu_milli {
        return Some(Rejection::Cpu { have: candidate.cpu_milli, need: needs.cpu_milli });
    }
    if needs.memory_bytes > candidate.memory_bytes {
        return Some(Rejection::Memory { have: candidate.memory_bytes, need: needs.memory_bytes });
    }
    if needs.disk_bytes > candidate.disk_bytes {
        return Some(Rejection::Disk { have: candidate.disk_bytes, need: needs.disk_bytes });
    }
    let have = |name: &String| candidate.devices.get(name).copied().unwrap_or(0);
    let few = needs.devices.iter().find(|(name, need)| have(name) < **need);
    few.map(|(name, need)| Rejection::Device { name: name.clone(), have: have(name), need: *need })
}

fn few_devices(name: &str, have: u32, need: u32) -> String {
    match have {
        0 => format!("it opens no device `{name}` to this organisation"),
        _ => format!("it opens {have} of device `{name}`, the task needs {need}"),
    }
}
