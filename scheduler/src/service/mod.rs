//! Services: programs that run until they are told to stop, in as many replicas as their owner wants, on whichever nodes.
//!
//! # Words
//!
//! A **service** has a name, unique on the node that owns it. Its **revisions** are what was deployed under that name, each
//! unchanged for good; one of them is wanted (**target**), one is the last that was seen to work (**stable**). A **replica**
//! is one running copy of a revision: a run of one step, tried once, whose task says that it is a service
//! ([`crate::task::TaskSpec::service`]). So placement, quotes, the agreement, its lane, leases, receipts and fences are those
//! of every task, and [`Services`] decides one thing only: *which replicas should exist*. An **endpoint** is a replica that
//! can be connected to.
//!
//! # A replica's states
//!
//! ```text
//!  Start ─► waiting ─► placed ─► starting ─► healthy ◄─► unhealthy        (the provider's word)
//!              │          │         │           │            │
//!              │          │         │        draining        │            (no new connections; old ones may end)
//!              └──────────┴─────────┴───────────┴────────────┴─► cancelled ─► ended
//! ```
//!
//! From any of them a replica may end by itself or with its provider. While it has not ended it counts against the bound on
//! replicas; while it is healthy, stays, and connections to it do not fail, it is *available*.
//!
//! # One mechanism
//!
//! An agreement covers a term of at most 24 hours ([`TERM_MS`]), for no provider is bound to a price for ever. In its last
//! quarter a replica is *due*; a due replica is treated like one of an older revision: a successor is started, and when it
//! is healthy the old one drains and ends. So a **renewal is a rolling update** to the same revision, with new quotes, and
//! a provider that got dearer loses the replica. In each round ([`Services::poll`]):
//!
//! 1. replicas that are unhealthy for too long, never get healthy, or cannot be connected to, are given up;
//! 2. an update that succeeded is done; one that fails stops, and what was stable is wanted again;
//! 3. replicas that are outdated, due or too many leave, as far as enough stay available;
//! 4. missing ones are started, as far as there are not too many and no pause after crashes holds them back;
//! 5. what changed of the endpoints is published.
//!
//! # In a node
//!
//! The engine submits and cancels runs as [`Effect`]s say. With every event that the coordinator records of a replica's run it
//! tells [`Services::handle_replica`] what [`Observed::of`] makes of that run; what
//! [`Coordinator::check_health`](crate::coordinator::Coordinator::check_health) lets through of a status goes to
//! [`Services::handle_health`]; its own tunnels, which ask a [`Balancer`], tell [`Services::handle_connection`] how they fared.
//! As long as the service is kept, so are the blobs that its revisions name.
//!
//! # Invariants
//!
//! - No replica is started when `replicas + max_surge` have not ended.
//! - A healthy replica leaves only when `replicas - max_unavailable` stay available without it. (One that connections to
//!   fail, and everything when the service is removed, leaves at once.)
//! - An update whose replicas do not get healthy stops by itself and the stable revision is restored; it stays reported as
//!   stopped until something else is deployed. Only a first deployment has nothing to go back to: it keeps trying.
//! - Between two rounds of crashing replicas lies a pause that doubles up to a bound. It holds back as many starts as there
//!   were crashes: what a node took with it is replaced meanwhile.
//! - Everything durable is in the records that [`Effect::Persist`] and [`Effect::Erase`] keep; each is written before the
//!   effects after it. After a restart [`Services::restore`] takes them back, and [`Services::handle_replica`] the state of
//!   each run.
//! - The same inputs and random numbers give the same effects.
//!
//! # What a liar can do
//!
//! - *A provider that says healthy and serves nothing*: its word counts for balancing only. When
//!   [`CONNECT_FAILURES_MAX`] connections of the owner's own tunnels fail in a row the replica gets no further ones, is
//!   cancelled and replaced elsewhere, and its node is avoided for a while. Billed is what was acknowledged until then. One
//!   replica in [`DOUBT_PAUSE_MS`] is given up like this, for when all connections fail the fault is more likely here.
//! - *A provider that says unhealthy, or crashed, and it is not so*: it loses the replica. One node's word does not stop an
//!   update: crashes count when two nodes tell of them, or when there are twice as many. Only where the restart policy wants no
//!   second try the first end counts: what ran before goes on then.
//! - *A provider whose reports flap*: a report changes memory only; endpoints are published at most once in [`PUBLISH_MS`]
//!   and events are kept at most once in [`HEALTH_EVENT_MS`] for each replica. After [`FLAPS_MAX`] times it is replaced.
//! - *A consumer that asks for a probe of something else*: the provider checks the task ([`ServiceSpec::check`]); a probe is
//!   one request to a port of the replica itself.
//! - *A peer that connects without right*: the provider asks [`Access::allows`] with the organisations of the certificates.

mod balance;
mod command;
mod document;
mod machine;
mod observe;
mod record;
mod round;
mod spec;
mod state;

use std::collections::BTreeMap;

use catalog::NodeId;
use catalog::record::{ServiceEndpoint, ServicePort, ServiceReach};

pub use self::balance::{
    Backend, Balancer, EJECT_AFTER, EJECT_MAX_MS, EJECT_MIN_MS, RTT_FLOOR_US, Unavailable,
};
pub use self::command::{DeployError, Deployed, RollbackError, ScaleError, UnknownService};
pub use self::document::{
    DEADLINE_MS, DRAIN_MS, Document, Restart, RestartPolicy, STEP, TERM_MS, Update, VERSION,
};
pub use self::machine::{Effect, RestoreError, Services};
pub use self::observe::Observed;
pub use self::record::{
    Content, End, Event, EventBody, Head, Key, LastWord, Leaving, Place, Record, Replica,
    ReplicaOf, Revision, Rollout, StopReason, Trouble, Why,
};
pub use self::spec::{
    ACCESS_ORGS_MAX, Access, EVERY_MS, FAILURES_MAX, GRACE_MAX_MS, Health, HealthCheck,
    PATH_LEN_MAX, PORTS_MAX, Probe, ServiceSpec, SpecError, Spread, TIMEOUT_MS,
};
pub use self::state::{Member, Service};

use crate::task::AttemptId;

/// Most services of a node; further ones are refused.
pub const SERVICES_MAX: usize = 256;
/// Most replicas of a service; a document or a wish for more is refused.
pub const REPLICAS_MAX: u32 = 64;
/// Revisions kept of a service; the oldest that nothing needs leave first, and cannot be gone back to.
pub const REVISIONS_MAX: usize = 10;
/// Events kept of a service; the oldest leave first.
pub const EVENTS_MAX: usize = 100;
/// Endpoints published of a service, so that they fit into one catalogue record; further replicas serve the owner only.
pub const ENDPOINTS_MAX: usize = 16;
/// Nodes avoided at once for one service; at the bound the one whose time is over first is forgotten.
pub const AVOID_MAX: usize = 64;
/// For how long a node that disappointed is avoided, in milliseconds.
pub const AVOID_MS: u64 = 600_000;
/// Connections that fail in a row after which a replica's provider is no longer believed.
pub const CONNECT_FAILURES_MAX: u32 = 5;
/// Pause between two replicas that are given up because connections fail, in milliseconds.
pub const DOUBT_PAUSE_MS: u64 = 60_000;
/// Shortest pause between two publications of one service's endpoints, in milliseconds.
pub const PUBLISH_MS: u64 = 1_000;
/// Shortest pause between two events about one replica's health, in milliseconds.
pub const HEALTH_EVENT_MS: u64 = 60_000;
/// How often a replica may go from healthy to unhealthy before the next time is the last; a long time in health
/// ([`STEADY_MS`]) is forgiving.
pub const FLAPS_MAX: u32 = 5;
/// How long an unhealthy replica is left to recover at least, in milliseconds.
pub const PATIENCE_MIN_MS: u64 = 10_000;
/// How long a provider may take from the agreement until it says anything of a replica's health, in milliseconds: images
/// are fetched and modules compiled meanwhile.
pub const READY_MAX_MS: u64 = 1_800_000;
/// After this time in health, in milliseconds, a replica's end does not count as one more crash in a row.
pub const STEADY_MS: u64 = 300_000;
/// Crashes before health, on different nodes, after which an update stops; twice as many when one node tells of all.
pub const ROLLOUT_CRASHES_MAX: u32 = 3;
/// First and longest pause after replicas ended through a provider's fault, in milliseconds.
pub const FAULT_PAUSE_MS: (u64, u64) = (1_000, 30_000);

/// A replica that can be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Where it runs.
    pub node: NodeId,
    /// What its provider knows it by.
    pub attempt: AttemptId,
}

/// Where a service can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Ports by name.
    pub ports: BTreeMap<String, u16>,
    /// Replicas that are available, at most [`ENDPOINTS_MAX`].
    pub replicas: Vec<Endpoint>,
}

impl Endpoints {
    /// As it stands in the catalogue.
    #[must_use]
    pub fn reach(&self) -> ServiceReach {
        let port = |(name, port): (&String, &u16)| ServicePort {
            name: name.clone(),
            port: u32::from(*port),
        };
        let endpoint =
            |e: &Endpoint| ServiceEndpoint { node: e.node, attempt: e.attempt.to_string() };
        ServiceReach {
            ports: self.ports.iter().map(port).collect(),
            endpoints: self.replicas.iter().map(endpoint).collect(),
        }
    }
}
