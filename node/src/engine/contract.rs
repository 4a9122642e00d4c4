//! What goes into the engine and what comes out: settings, stored rows, inputs, effects.

use std::collections::{BTreeMap, BTreeSet};

use accounting::{Counters, PricePlan};
use catalog::record::{ComputeDetail, Kinds};
use catalog::{Digest, Fault, NodeId, OrgId};
use ed25519_dalek::SigningKey;
use scheduler::copies::Proof;
use scheduler::device::Held;
use scheduler::negotiate::{Outcome, Stream};
use scheduler::run::Event;
use scheduler::service::Health;
use scheduler::task::{AttemptId, Failure, RunId, TaskSpec};

use super::admission::Papers;
use super::command::{Command, CommandError, Response};
use super::good::GoodPeer;
use super::ports::Offers;
use super::rotation::Former;
use crate::store::batch::{Batch, Table};

/// Names a command until its answer.
pub type CommandId = u64;
/// Names an inbound greeting or gossip message until its verdict.
pub type Token = u64;

/// Who this node is and what it offers.
#[derive(Clone)]
pub struct Settings {
    /// In whose name it speaks.
    pub papers: Papers,
    /// The node's key.
    pub node_key: SigningKey,
    /// The keys that it had before.
    pub former: Vec<Former>,
    /// The organisation's name for people.
    pub org_name: String,
    /// The node's stable name within its organisation.
    pub node_name: String,
    /// Prices.
    pub price_plan: PricePlan,
    /// What it offers to run tasks with.
    pub compute: ComputeDetail,
    /// Most tasks at once.
    pub tasks_max: u32,
    /// Organisations that are refused.
    pub blocked: BTreeSet<OrgId>,
    /// The organisation's revocation list, as the home holds it.
    pub revocations: Option<Vec<u8>>,
    /// What peers may have of it besides work.
    pub offers: Offers,
    /// Of a light node the kinds of which it keeps the records of others; absent when it keeps them all.
    pub light: Option<Kinds>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("node_name", &self.node_name).finish_non_exhaustive()
    }
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// What the durable store holds, by table.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Rows in key order.
    pub tables: BTreeMap<Table, Vec<Row>>,
    /// Whether the store was put back from a backup or copied, and this is the first start since.
    pub is_set_back: bool,
}

impl Stored {
    pub(super) fn rows(&self, table: Table) -> &[Row] {
        self.tables.get(&table).map_or(&[], Vec::as_slice)
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed.
    Tick,
    /// The owner wants something.
    Command {
        /// Comes back with the answer.
        id: CommandId,
        /// What.
        command: Command,
    },
    /// The fabric listens here.
    Listening {
        /// Multiaddrs with the node's id.
        addresses: Vec<String>,
    },
    /// A peer greets us.
    Hello {
        /// Comes back with the answer.
        token: Token,
        /// Who, proved by the connection.
        peer: NodeId,
        /// Its greeting.
        payload: Vec<u8>,
    },
    /// A search for content comes to this node, or it may have it: a name that peers gave, who may say anything.
    Wanted {
        /// Which.
        peer: NodeId,
    },
    /// A node was seen on the local network.
    Discovered {
        /// Who.
        peer: NodeId,
        /// Where.
        addresses: Vec<String>,
    },
    /// An attempt to connect ended.
    ConnectEnded {
        /// To whom.
        peer: NodeId,
        /// Its reply to our greeting, or why there is none.
        result: Result<Vec<u8>, String>,
    },
    /// Both sides let each other in.
    Connected {
        /// Who.
        peer: NodeId,
    },
    /// The last connection to a peer ended.
    Disconnected {
        /// Who.
        peer: NodeId,
    },
    /// A message of an admitted peer.
    Message {
        /// From whom.
        from: NodeId,
        /// The bytes.
        payload: Vec<u8>,
    },
    /// A catalogue push.
    Gossip {
        /// Comes back with the verdict.
        token: Token,
        /// Who passed it on.
        from: NodeId,
        /// The bytes.
        payload: Vec<u8>,
    },
    /// A fetch ended.
    Fetched {
        /// Which.
        job: FetchJob,
        /// How.
        result: Result<(), Failure>,
    },
    /// What came of a look at a copy.
    Proven {
        /// The keeper.
        at: NodeId,
        /// Of which content.
        digest: Digest,
        /// What.
        proof: Proof,
    },
    /// A task's program is being made ready, or is ready.
    Preparing {
        /// Which attempt.
        attempt: AttemptId,
        /// Whether it has begun, or is over.
        is_preparing: bool,
    },
    /// The replica of a service was probed, and what is known of it changed.
    Health {
        /// Which.
        attempt: AttemptId,
        /// To this.
        health: Health,
    },
    /// This node connected to a replica of a service, or could not.
    Connection {
        /// The replica's run.
        run: RunId,
        /// Whether it could.
        is_made: bool,
    },
    /// A task used so much so far.
    Metered {
        /// Which.
        attempt: AttemptId,
        /// Cumulative.
        counters: Counters,
    },
    /// A task wrote something.
    Wrote {
        /// Which.
        attempt: AttemptId,
        /// Where.
        stream: Stream,
        /// Position of the first byte.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A task ended and its outputs are in the blob store.
    Ended {
        /// Which.
        attempt: AttemptId,
        /// How.
        outcome: Outcome,
        /// What it used in all.
        counters: Counters,
    },
}

/// Why blobs are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FetchJob {
    /// The inputs of an attempt this node provides.
    Inputs(AttemptId),
    /// The outputs of an attempt this node asked for.
    Outputs(AttemptId),
    /// What a member of an area shares.
    Shared(Digest),
    /// What this node keeps for another one.
    Copy {
        /// For whom.
        owner: NodeId,
        /// What.
        digest: Digest,
    },
}

/// A blob to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blob {
    /// Its name; of a directory, its manifest's.
    pub digest: Digest,
    /// Whether the files of the manifest are wanted too.
    pub is_dir: bool,
    /// Announced length: of a file, or of all files of a directory.
    pub size: u64,
}

/// The verdict on a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New and true: pass it on.
    Accept,
    /// Known or stale.
    Ignore,
    /// A lie: count it against the sender.
    Reject,
}

/// Something to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Answer a command.
    Reply {
        /// Which.
        id: CommandId,
        /// The answer.
        result: Result<Response, CommandError>,
    },
    /// Answer a greeting.
    Greet {
        /// Which.
        token: Token,
        /// Whether the peer is let in.
        is_welcome: bool,
        /// Whether it is let in to messages alone.
        is_guest: bool,
        /// The reply's bytes.
        reply: Vec<u8>,
    },
    /// Present this on new connections.
    SetHello {
        /// The greeting.
        hello: Vec<u8>,
    },
    /// Take part in a gossip topic, and leave the one before.
    Subscribe {
        /// Its name.
        topic: String,
        /// Whether to hear it, too, and pass on what is heard; else only to speak there.
        is_listening: bool,
    },
    /// Connect; [`Input::ConnectEnded`] answers.
    Connect {
        /// To whom.
        peer: NodeId,
        /// Where it may be.
        addresses: Vec<String>,
        /// The greeting, when it is a special one.
        hello: Option<Vec<u8>>,
    },
    /// The peer's reply to our greeting is good: let it in. Without this the connection is closed.
    Admit {
        /// Whom.
        peer: NodeId,
        /// Whether to messages alone.
        is_guest: bool,
    },
    /// End every connection to a peer.
    Disconnect {
        /// Whose.
        peer: NodeId,
    },
    /// Count an offence.
    Penalize {
        /// Whose.
        peer: NodeId,
        /// Of what kind.
        fault: Fault,
        /// What, for the log.
        detail: String,
    },
    /// Keep signed heads and records of others for the next start, where the newest of a key replaces the others
    /// ([`catalog::replica::cache_key`]). Losing them costs a synchronisation.
    CacheReplicas {
        /// Each as its author signed it.
        items: Vec<Vec<u8>>,
    },
    /// Keep nothing more of an author.
    ForgetReplica {
        /// Who.
        author: NodeId,
    },
    /// Tell the owner, in the log.
    Notice {
        /// What.
        detail: String,
    },
    /// Write down what the owner's policies decided about a peer.
    Decided {
        /// What was asked.
        request: Box<crate::policy::Request>,
        /// What was decided.
        decision: crate::policy::Decision,
    },
    /// Start again with the key that the home holds ready. Nothing comes after it.
    Rotate,
    /// Remove the secret of a key that this node had: nothing has to be signed with it any more.
    ForgetKey {
        /// Which.
        node: NodeId,
    },
    /// Remember a good peer, for the next start.
    Remember {
        /// Who.
        peer: NodeId,
        /// What of it.
        good: GoodPeer,
    },
    /// Remember nothing more of a peer.
    Forget {
        /// Who.
        peer: NodeId,
    },
    /// Keep a place for the connections with these, and for nobody else any more.
    Hold {
        /// Who.
        peers: BTreeSet<NodeId>,
    },
    /// Send a message.
    Send {
        /// To whom.
        to: NodeId,
        /// The bytes.
        payload: Vec<u8>,
    },
    /// Push to the gossip topic.
    Gossip {
        /// The bytes.
        payload: Vec<u8>,
    },
    /// Say what to do with a gossip message.
    Verdict {
        /// Which.
        token: Token,
        /// What.
        verdict: Verdict,
    },
    /// Fetch blobs that are not here; [`Input::Fetched`] answers.
    Fetch {
        /// Why.
        job: FetchJob,
        /// From whom: it is party to the agreement.
        from: NodeId,
        /// What.
        blobs: Vec<Blob>,
        /// Who else publishes which of them.
        others: BTreeMap<Digest, Vec<NodeId>>,
    },
    /// Read a range of a copy that another node keeps; [`Input::Proven`] answers.
    Prove {
        /// The keeper.
        at: NodeId,
        /// Of what.
        blob: Blob,
        /// Chooses the file and the range.
        seed: u64,
    },
    /// Store these bytes as blobs, before the effects that follow.
    Keep {
        /// The bytes of each.
        blobs: Vec<Vec<u8>>,
    },
    /// Let a peer fetch blobs.
    Grant {
        /// Whom.
        peer: NodeId,
        /// Ends with this attempt.
        attempt: AttemptId,
        /// Directories by manifest, with their files.
        blobs: Vec<Digest>,
    },
    /// Withdraw a grant.
    Revoke {
        /// Whose.
        peer: NodeId,
        /// Which.
        attempt: AttemptId,
    },
    /// Let every admitted peer fetch a blob.
    Open {
        /// Which; a directory by its manifest.
        digest: Digest,
    },
    /// Let these peers fetch a blob, and nobody else whom no agreement allows.
    OpenTo {
        /// Which; a directory by its manifest.
        digest: Digest,
        /// Who.
        peers: BTreeSet<NodeId>,
    },
    /// Let only those fetch a blob whom an agreement allows.
    Close {
        /// Which; a directory by its manifest.
        digest: Digest,
    },
    /// Keep a peer from what is published, or no longer; what agreements name it may fetch all the same.
    Bar {
        /// Whom.
        peer: NodeId,
        /// Whether it is kept.
        is_barred: bool,
    },
    /// Say whose a peer is and whether it is relayed, before it is let in.
    Terms {
        /// Which.
        peer: NodeId,
        /// The organisation whose bounds it shares; none of this node's own.
        group: Option<OrgId>,
        /// Whether this node, as a relay, carries for it.
        may_relay: bool,
    },
    /// Run a task; [`Input::Metered`], [`Input::Wrote`] and [`Input::Ended`] answer.
    Start {
        /// Which.
        attempt: AttemptId,
        /// What.
        spec: Box<TaskSpec>,
        /// The devices of this node that it holds, by name and position.
        devices: Held,
    },
    /// Stop a task, or the fetch before it.
    Stop {
        /// Which.
        attempt: AttemptId,
    },
    /// Remove a task's working files.
    Discard {
        /// Which.
        attempt: AttemptId,
    },
    /// A run made progress: tell whoever watches.
    RunEvent {
        /// Which.
        run: RunId,
        /// Position in its log.
        seq: u64,
        /// What.
        event: Box<Event>,
    },
    /// A task of a run wrote something: keep it and tell whoever watches.
    RunLog {
        /// Which.
        attempt: AttemptId,
        /// Where.
        stream: Stream,
        /// Position of the first byte.
        offset: u64,
        /// What; nothing when the stream ends there, and what is missing before does not come.
        bytes: Vec<u8>,
        /// Whether it is a replica of a service, of which the newest is kept, not the first.
        is_replica: bool,
    },
}

/// What one step wants.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Durable before the first of `list`.
    pub batch: Batch,
    /// In order.
    pub list: Vec<Effect>,
}
