//! What the owner and the owner's programs ask of the node, and the answers as they stand in the API.

use std::collections::{BTreeMap, BTreeSet};

use catalog::cert::Ticket;
use catalog::record::{PriceList, Resource, Visibility};
use catalog::{Amount, Currency, Digest, NodeId, OrgId, RealmId};
use scheduler::run::{Submission, Submitter};
use scheduler::task::RunId;
use scheduler::value::Value;

use super::admission::JoinError;
use super::areas::{self, AreasError};
use super::ask::AskError;
use super::copies::{self, CopiesError};
use super::data::{self, DataError};
use super::disks::{self, DiskError};
use super::figures::Figures;
use super::images::name::ImageName;
use super::images::{self, ImageError};
use super::policy;
use super::ports::{self, PortError};
use super::quota::{self, QuotaError, QuotaView};
use super::realms::{self, RealmsError};
use super::services::{self, ServiceError};
use super::sessions::{self, SessionError};
use super::steer::{self, SteerError};
use super::trust::{self, PapersView, TrustError};
use super::variants;
use super::workspaces::{self, WorkspaceError};
use crate::schema;

/// A question or an order.
#[derive(Clone, Debug)]
pub enum Command {
    /// Start a run.
    Submit {
        /// What.
        submission: Box<Submission>,
        /// For whom; nobody stands for the owner.
        by: Option<Box<Submitter>>,
    },
    /// Stop a run.
    Cancel {
        /// Which.
        run: RunId,
    },
    /// Every run, newest first.
    Runs,
    /// One run with its tasks.
    Run {
        /// Which.
        run: RunId,
    },
    /// Why tasks run where they run, or wait.
    Explain {
        /// Which run.
        run: RunId,
    },
    /// Where the steps of a workflow could run, without running them.
    Plan {
        /// What would be submitted.
        submission: Box<Submission>,
        /// How long each task would run at nominal speed, in milliseconds.
        estimate_ms: u64,
    },
    /// This node.
    Status,
    /// What is counted of this node.
    Figures,
    /// Peers that are or were connected.
    Peers,
    /// Resources of the realm.
    Catalog {
        /// Filter text; everything when empty.
        filter: String,
        /// At most this many.
        limit: usize,
        /// Those that follow the one of this id; from the beginning when nothing is said.
        after: Option<String>,
        /// Whether peers are asked, too.
        is_asking: bool,
    },
    /// One resource.
    Resource {
        /// `AUTHOR/KEY`, a key, a digest of data, or the beginning of one of them; of an author the end will do.
        id: String,
    },
    /// Publish or replace a resource of this node.
    Publish {
        /// It.
        resource: Box<Resource>,
        /// Who may see it.
        visibility: Visibility,
    },
    /// Withdraw a resource of this node.
    Withdraw {
        /// Its key.
        key: String,
    },
    /// About what some organisations see otherwise than the rest.
    Variant(variants::Command),
    /// Make a ticket.
    Invite {
        /// How long it can be used, in milliseconds.
        valid_ms: u64,
        /// Whether the owner decides about whoever comes with it.
        is_asking: bool,
    },
    /// Join the ticket's realm.
    Join {
        /// It.
        ticket: Ticket,
    },
    /// Who has a blob, by the catalogue.
    Locate {
        /// Which.
        digest: Digest,
    },
    /// Who publishes a content to all; nobody where a record restricts it.
    Publishers {
        /// Which.
        digest: Digest,
    },
    /// Which contents others publish to all.
    PublicContents {
        /// Of these alone, where some are given.
        among: Option<BTreeSet<Digest>>,
    },
    /// Which image of other nodes a name means, by the catalogue.
    FindImage {
        /// It.
        name: ImageName,
    },
    /// Balances of every channel.
    Ledger,
    /// Every channel with its proofs, as one bundle.
    LedgerExport,
    /// Something about images.
    Image(images::Command),
    /// Something about the images of disks.
    Disk(disks::Command),
    /// Something about data that is kept here.
    Data(data::Command),
    /// Something about workspaces.
    Workspace(workspaces::Command),
    /// Something about collaborative areas.
    Area(areas::Command),
    /// Something about ports that are open to peers.
    Port(ports::Command),
    /// Something about copies of data.
    Copies(copies::Command),
    /// Something about services.
    Service(services::Command),
    /// Something about sessions inside tasks.
    Session(sessions::Command),
    /// Something about tasks that stand still.
    Steer(steer::Command),
    /// Something about papers and whom they are believed of.
    Trust(trust::Command),
    /// Something about other realms.
    Realms(realms::Command),
    /// Something about the owner's policies.
    Policy(policy::Command),
    /// Something about quotas.
    Quota(quota::Command),
    /// What somebody else than the owner wants done, where that counts for it; the answer is that of what is done. Runs say
    /// it themselves.
    By {
        /// Who.
        by: Box<Submitter>,
        /// What.
        command: Box<Command>,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Response {
    /// Done, nothing to say.
    Done,
    /// To `Submit`.
    Submitted(RunId),
    /// To `Runs`.
    Runs(Vec<RunSummary>),
    /// To `Run`.
    Run(Box<RunView>),
    /// To `Explain`.
    Explanation(Vec<TaskExplanation>),
    /// To `Plan`.
    Plan(Vec<StepPlan>),
    /// To `Status`.
    Status(Box<StatusView>),
    /// To `Figures`.
    Figures(Box<Figures>),
    /// To `Peers`.
    Peers(Vec<PeerView>),
    /// To `Catalog`.
    Catalog(Vec<ResourceView>),
    /// To `Resource`.
    Resource(Box<ResourceView>),
    /// To `Variant`, where it asks for all.
    Own(Vec<variants::OwnView>),
    /// To `Invite`.
    Ticket(Ticket),
    /// To `Join`.
    Joined {
        /// The realm joined.
        realm: RealmId,
        /// Whose ticket it was.
        org: OrgId,
    },
    /// To `PublicContents`, and whether each is a directory.
    Contents(BTreeMap<Digest, bool>),
    /// To `Locate` and `Publishers`.
    Located(Vec<NodeId>),
    /// To `FindImage`.
    FoundImage {
        /// The image's directory.
        digest: Digest,
        /// Bytes of its files, as its record says.
        size: u64,
        /// Who has it.
        nodes: Vec<NodeId>,
    },
    /// To `Ledger`.
    Ledger(Vec<ChannelView>),
    /// To `LedgerExport`.
    Bundle(Vec<u8>),
    /// To `Image`.
    Image(images::Answer),
    /// To `Disk`.
    Disk(disks::Answer),
    /// To `Data`.
    Data(data::Answer),
    /// To `Workspace`.
    Workspace(workspaces::Answer),
    /// To `Area`.
    Area(areas::Answer),
    /// To `Port`.
    Port(ports::Answer),
    /// To `Copies`.
    Copies(copies::Answer),
    /// To `Service`.
    Service(services::Answer),
    /// To `Session`.
    Session(sessions::Answer),
    /// To `Steer`.
    Steer(steer::Answer),
    /// To `Trust`.
    Trust(trust::Answer),
    /// To `Realms`.
    Realms(realms::Answer),
    /// To `Policy`.
    Policy(policy::Answer),
    /// To `Quota`, where it asks.
    Quotas(Vec<QuotaView>),
}

/// Why a command failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The submission has errors; the text has one line each.
    #[error("{detail}")]
    Submission {
        /// All of them.
        detail: String,
    },
    /// No such run on this node.
    #[error("there is no {run} on this node; `opencloud run list` shows them")]
    NoRun {
        /// Which.
        run: RunId,
    },
    /// The run has ended.
    #[error("{run} has ended: {state}")]
    Ended {
        /// Which.
        run: RunId,
        /// How.
        state: &'static str,
    },
    /// The filter has an error.
    #[error("{detail}")]
    Filter {
        /// What and where.
        detail: String,
    },
    /// The resource that others are to follow is gone.
    #[error("{after} is not in the list any more: begin without `after`")]
    CursorGone {
        /// As asked.
        after: String,
    },
    /// No such resource.
    #[error(
        "no resource in the catalogue has an id, key or digest that begins with `{id}`; `opencloud catalog list` shows them"
    )]
    NoResource {
        /// As asked.
        id: String,
    },
    /// This node describes no such resource.
    #[error("this node has no resource `{key}` to withdraw; each node withdraws its own")]
    NotOwn {
        /// As asked.
        key: String,
    },
    /// Several resources fit.
    #[error("`{id}` may mean {count} resources: {}; write more of it", named(candidates, *count))]
    Ambiguous {
        /// As asked.
        id: String,
        /// How many.
        count: usize,
        /// The ids of the first [`CANDIDATES_MAX`] of them.
        candidates: Vec<String>,
    },
    /// The resource cannot be published.
    #[error("the resource cannot be published: {detail}")]
    Publish {
        /// Why.
        detail: String,
    },
    /// Joining failed.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Another join is under way.
    #[error("another join is under way; wait for its end")]
    JoinBusy,
    /// Peers had to be asked.
    #[error(transparent)]
    Ask(AskError),
    /// It is about images.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It is about the images of disks.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It is about data that is kept here.
    #[error(transparent)]
    Data(#[from] DataError),
    /// It is about workspaces.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// It is about areas.
    #[error(transparent)]
    Area(#[from] AreasError),
    /// It is about copies of data.
    #[error(transparent)]
    Copies(#[from] CopiesError),
    /// It is about ports that are open to peers.
    #[error(transparent)]
    Port(#[from] PortError),
    /// It is about services.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// It is about sessions.
    #[error(transparent)]
    Session(SessionError),
    /// It is about quotas.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// It is about suspending and resuming.
    #[error(transparent)]
    Steer(SteerError),
    /// It is about papers.
    #[error(transparent)]
    Trust(TrustError),
    /// Something about other realms is not done.
    #[error(transparent)]
    Realms(RealmsError),
    /// The run is the replica of a service.
    #[error(
        "{run} is a replica of service `{service}`, which decides about it: see `opencloud service show {service}`"
    )]
    Replica {
        /// Which.
        run: RunId,
        /// The service.
        service: String,
    },
}

/// Most candidates named when something may mean several; the rest is counted.
pub const CANDIDATES_MAX: usize = 8;

/// `a, b and 3 more`, of `count` candidates in all.
pub(crate) fn named(candidates: &[String], count: usize) -> String {
    let more = count.saturating_sub(candidates.len());
    let text = candidates.join(", ");
    if more == 0 { text } else { format!("{text} and {more} more") }
}

/// A line of `run list`.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct RunSummary {
    /// The run.
    #[schema(value_type = schema::RunId)]
    pub id: RunId,
    /// The workflow's name.
    pub workflow: String,
    /// The name of the person who submitted it; absent of the owner's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub by: Option<String>,
    /// The collaborative area under whose rules it is done, 64 hex digits; absent of a run of no area.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub area: Option<String>,
    /// `running`, `cancelling`, `failing`, `succeeded`, `failed`, `cancelled`.
    #[schema(value_type = schema::RunState)]
    pub state: String,
    /// Tasks committed.
    pub committed: u64,
    /// Tasks known so far.
    pub total: u64,
    /// When it was submitted (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub submitted_ms: u64,
    /// When it ended (Unix ms).
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub ended_ms: Option<u64>,
}

/// A run with its tasks.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Run)]
pub struct RunView {
    /// The summary.
    #[serde(flatten)]
    pub summary: RunSummary,
    /// Why it failed, if it did.
    #[schema(required)]
    pub detail: Option<String>,
    /// Steps in document order.
    pub steps: Vec<StepView>,
    /// Attempts and waiting tasks.
    pub tasks: Vec<TaskView>,
    /// Outputs of a run that succeeded.
    #[schema(value_type = BTreeMap<String, schema::TypedValue>)]
    pub outputs: BTreeMap<String, Value>,
    /// What its attempts at other organisations' nodes cost so far, by currency.
    pub costs: Vec<CostView>,
}

/// What a run costs in one currency.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Cost)]
pub struct CostView {
    /// The currency.
    #[schema(value_type = schema::Currency)]
    pub currency: Currency,
    /// Claimed by the providers' signed receipts.
    #[schema(value_type = schema::Amount)]
    pub claimed: Amount,
    /// Of that, acknowledged by this node.
    #[schema(value_type = schema::Amount)]
    pub earned: Amount,
}

/// A step of a run.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Step)]
pub struct StepView {
    /// Its name.
    pub step: String,
    /// `waiting`, `skipped`, `open`, `done`.
    #[schema(value_type = schema::StepState)]
    pub state: String,
    /// Tasks committed.
    pub committed: u64,
    /// Tasks known.
    pub tasks: u64,
}

/// One attempt of a task, or a task that has none.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Task)]
pub struct TaskView {
    /// The step's name.
    pub step: String,
    /// The map index.
    pub index: u32,
    /// Number of the attempt; 0 before the first.
    pub attempt: u32,
    /// Whose node ran it.
    #[schema(value_type = Option<schema::OrgId>, required)]
    pub org: Option<OrgId>,
    /// That organisation's name.
    #[schema(required)]
    pub org_name: Option<String>,
    /// The node.
    #[schema(value_type = Option<schema::NodeId>, required)]
    pub node: Option<NodeId>,
    /// `pending`, `negotiating`, `compiling`, `running`, `suspended`, `committed`, or how it failed.
    pub state: String,
    /// When the attempt started (Unix ms).
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub started_ms: Option<u64>,
    /// When it ended (Unix ms).
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub ended_ms: Option<u64>,
    /// What went wrong, or what is being compiled.
    #[schema(required)]
    pub detail: Option<String>,
}

/// Why a task runs where it runs.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct TaskExplanation {
    /// The step's name.
    pub step: String,
    /// The map index.
    pub index: u32,
    /// Where it stands.
    pub state: String,
    /// One sentence each.
    pub reasons: Vec<String>,
}

/// Where a step could run.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct StepPlan {
    /// The step's name.
    pub step: String,
    /// Steps before it.
    pub after: Vec<String>,
    /// How many tasks, when that is known before the run.
    #[schema(required)]
    pub tasks: Option<u64>,
    /// How long each task is taken to run at nominal speed, in milliseconds: the question's figure, not a forecast.
    pub estimate_ms: u64,
    /// Whether the transfer of its inputs is counted; inputs that earlier steps make are not known before the run.
    pub counts_inputs: bool,
    /// Nodes that could take it, best first, and why the others fell out.
    pub candidates: Vec<String>,
    /// Whether any node could.
    pub is_placeable: bool,
}

/// This node.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = NodeStatus)]
pub struct StatusView {
    /// Its id.
    #[schema(value_type = schema::NodeId)]
    pub id: NodeId,
    /// Its stable name.
    pub name: String,
    /// Its organisation.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
    /// The organisation's name.
    pub org_name: String,
    /// Its papers.
    pub papers: PapersView,
    /// The realm it is in.
    #[schema(value_type = schema::RealmId)]
    pub realm: RealmId,
    /// Where peers reach it.
    pub addresses: Vec<String>,
    /// Peers connected now.
    pub peers: u64,
    /// Resources in the catalogue.
    pub resources: u64,
    /// Of a light node the kinds of which it keeps the records of others, with commas between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub light: Option<String>,
    /// Runs that have not ended.
    pub active_runs: u64,
    /// Attempts it works on.
    pub active_attempts: u64,
    /// Free thousandths of a core.
    pub cpu_free_milli: u64,
    /// All of them.
    pub cpu_total_milli: u64,
    /// Free memory for tasks, in bytes.
    pub memory_free_bytes: u64,
    /// All of it.
    pub memory_total_bytes: u64,
    /// Free disk for tasks, in bytes.
    pub disk_free_bytes: u64,
    /// All of it.
    pub disk_total_bytes: u64,
    /// What it asks of other organisations, as its catalogue entry says.
    #[schema(value_type = Option<schema::PriceList>, required)]
    pub price: Option<PriceList>,
    /// The version of the program.
    pub version: String,
}

/// A peer.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = KnownPeer)]
pub struct PeerView {
    /// Its id.
    #[schema(value_type = schema::NodeId)]
    pub id: NodeId,
    /// Its stable name.
    pub name: String,
    /// Its organisation.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
    /// The organisation's name.
    pub org_name: String,
    /// Which of its keys the id is, from 1.
    pub generation: u32,
    /// Until when the key is let in, another one having come after it; or that of this one before it (Unix ms).
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub former_until_ms: Option<u64>,
    /// `own`, `partner`, `peer` or `blocked`.
    #[schema(value_type = schema::Trust)]
    pub trust: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Where it is reached, by its own record.
    pub addresses: Vec<String>,
    /// Why it was not reached the last time that this node tried, when it was not.
    #[schema(required)]
    pub last_error: Option<String>,
    /// Whether a place is kept for its connection: a node of another organisation that this one hears the world from.
    #[serde(default, rename = "neighbour")]
    #[schema(required)]
    pub is_neighbour: bool,
}

/// A resource with its author.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Resource)]
pub struct ResourceView {
    /// `AUTHOR/KEY`.
    pub id: String,
    /// Who publishes it.
    #[schema(value_type = schema::NodeId)]
    pub author: NodeId,
    /// Its organisation.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
    /// The organisation's name.
    pub org_name: String,
    /// The node's name.
    pub node_name: String,
    /// The resource.
    #[schema(value_type = schema::Description)]
    pub resource: Resource,
}

/// A channel's balance.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Channel)]
pub struct ChannelView {
    /// The channel.
    #[schema(value_type = schema::Digest)]
    pub channel: Digest,
    /// Who provides.
    #[schema(value_type = schema::NodeId)]
    pub provider: NodeId,
    /// Its organisation's name, when known.
    #[schema(required)]
    pub provider_org: Option<String>,
    /// Who consumes.
    #[schema(value_type = schema::NodeId)]
    pub consumer: NodeId,
    /// Its organisation's name, when known.
    #[schema(required)]
    pub consumer_org: Option<String>,
    /// `provider` or `consumer`: this node's side.
    #[schema(value_type = schema::ChannelSide)]
    pub side: String,
    /// `opening`, `open`, `fencing` (this store was set back) or `frozen` (a party signed one place twice).
    #[schema(value_type = schema::ChannelState)]
    pub state: String,
    /// Why nothing can be done with it, when it is fencing or frozen.
    #[schema(required)]
    pub reason: Option<String>,
    /// The currency.
    #[schema(value_type = schema::Currency)]
    pub currency: Currency,
    /// Claimed by signed receipts.
    #[schema(value_type = schema::Amount)]
    pub claimed: Amount,
    /// Acknowledged by the consumer's signature.
    #[schema(value_type = schema::Amount)]
    pub earned: Amount,
    /// Lanes.
    pub lanes: Vec<LaneView>,
}

/// One attempt's bill.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Lane)]
pub struct LaneView {
    /// The lane's number.
    pub lane: u64,
    /// The attempt, as `run/step.index#number`.
    pub attempt: String,
    /// `proposed`, `active`, `closed`, `refused`.
    #[schema(value_type = schema::LaneState)]
    pub state: String,
    /// Claimed.
    #[schema(value_type = schema::Amount)]
    pub claimed: Amount,
    /// Acknowledged.
    #[schema(value_type = schema::Amount)]
    pub earned: Amount,
    /// What was used, by dimension, in base units.
    pub used: BTreeMap<String, u64>,
    /// What each of them comes to at the agreed prices; what is fixed, rounded up or above the most that was agreed is not in it.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, schema::Amount>, required)]
    pub costs: BTreeMap<String, Amount>,
    /// When the consumer agreed, by its clock, in Unix milliseconds.
    #[serde(default)]
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub agreed_ms: Option<u64>,
}
