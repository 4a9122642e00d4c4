//! What the provider wants done, as data.

use catalog::{Digest, NodeId};

use crate::device;
use crate::negotiate::{Message, RequestId};
use crate::task::{AttemptId, TaskSpec};

use super::Record;

/// Why a question is refused; the caller signs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum No {
    /// Everything is reserved; ask again after this many milliseconds.
    Full {
        /// Milliseconds.
        retry_after_ms: u64,
    },
    /// This node is too small for the task, whenever asked, or the task's description is too long.
    TooBig,
    /// This node has not the runtime, the architecture, the network or the devices that the task needs, or the task asks for what no node
    /// gives, or for no processor at all.
    Unsupported,
}

/// How a lane ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneEnd {
    /// The task did what it should.
    Completed,
    /// The task failed; the work is billed.
    Failed,
    /// The provider failed; nothing more is billed.
    ProviderFault,
    /// The consumer stopped it; the work so far is billed.
    Cancelled,
}

/// What the provider wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Price the task, sign the quote, send it.
    Quote {
        /// To whom.
        to: NodeId,
        /// The question.
        request: RequestId,
        /// The attempt.
        attempt: AttemptId,
        /// The task.
        spec: Box<TaskSpec>,
        /// Until when the offer holds (Unix ms).
        valid_until_ms: u64,
    },
    /// Sign a refusal and send it.
    Refuse {
        /// To whom.
        to: NodeId,
        /// The question.
        request: RequestId,
        /// Why.
        no: No,
    },
    /// Write the agreement into the channel's log and send it.
    Propose {
        /// The consumer.
        consumer: NodeId,
        /// The question whose quote it is under.
        request: RequestId,
        /// The attempt.
        attempt: AttemptId,
        /// The task.
        spec: Box<TaskSpec>,
    },
    /// Make the attempt's state durable.
    Persist {
        /// What.
        record: Box<Record>,
    },
    /// Remove the attempt's durable state.
    Erase {
        /// The attempt.
        attempt: AttemptId,
    },
    /// Get the inputs from the consumer; answer with [`Provider::handle_fetched`](super::Provider::handle_fetched).
    Fetch {
        /// The attempt.
        attempt: AttemptId,
        /// Who has them.
        from: NodeId,
        /// The task.
        spec: Box<TaskSpec>,
    },
    /// Run it; answer with [`Provider::handle_ended`](super::Provider::handle_ended).
    Start {
        /// The attempt.
        attempt: AttemptId,
        /// The task.
        spec: Box<TaskSpec>,
        /// The devices that are its own until [`Provider::handle_ended`](super::Provider::handle_ended).
        devices: device::Held,
    },
    /// Stop fetching or running it; [`Provider::handle_ended`](super::Provider::handle_ended) follows.
    Stop {
        /// The attempt.
        attempt: AttemptId,
    },
    /// Bill it finally and close its lane.
    Settle {
        /// The consumer.
        consumer: NodeId,
        /// The attempt.
        attempt: AttemptId,
        /// How it ended.
        end: LaneEnd,
    },
    /// Let the consumer fetch the outputs.
    Grant {
        /// The consumer.
        peer: NodeId,
        /// The attempt.
        attempt: AttemptId,
        /// Blobs, directories by their manifest.
        blobs: Vec<Digest>,
    },
    /// The attempt is over: withdraw grants, remove its working files.
    Discard {
        /// The consumer.
        peer: NodeId,
        /// The attempt.
        attempt: AttemptId,
    },
    /// Tell a node.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
}
