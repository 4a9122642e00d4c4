//! What coordinator and provider say to each other about one attempt.
//!
//! ```text
//! consumer (coordinator)                          provider
//!   QuoteRequest ──────────────────────────────►  reserves for a short lease
//!   ◄─────────────────────────── Quote | Refusal  both signed
//!   Accept (or Decline) ───────────────────────►  proposes the Agreement in the channel's log
//!   ◄════════════ Agreement entry, then Ack entry ════════════►   (accounting: now both have signed)
//!                                                 fetches inputs, runs
//!   Renew every 5 s ───────────────────────────►  else it stops serving
//!   ◄───────────────────── Status every 3 s, Log  else the attempt counts as lost; of a service with its health
//!   ◄═══════════════ Receipt entries, Ack entries ════════════►
//!   ◄──────────────────────────────────  Finished  repeated until Collected
//!   fetches outputs, commits
//!   Collected ─────────────────────────────────►  may forget
//! ```
//!
//! Every message may be lost, doubled or late: requests carry ids, answers are repeated from memory, and an attempt's number
//! fences everything said about older ones. A liar gains nothing: a consumer that never accepts holds a reservation only for
//! its lease; one that never acknowledges is stopped at the credit limit; a provider that invents results is bound by its
//! signature to them, and its attempt counts once at most.

use std::collections::BTreeMap;

use catalog::{Amount, Currency};

use crate::service::Health;
use crate::task::{AttemptId, Failure, TaskSpec};
use crate::value::Value;

/// Names one question for a quote.
pub type RequestId = [u8; 16];

/// Where a provider stands with an attempt.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Gets the inputs.
    Fetching,
    /// Makes its program ready, which for a large module means minutes in the compiler.
    Preparing,
    /// Runs.
    Running,
    /// Ended; `Finished` follows or was sent.
    Ended,
    /// Stands still at its consumer's wish, with its files and nothing else. Nodes that know nothing of it are never told,
    /// because they never wish it.
    Suspended,
}

/// What a consumer may want of an attempt that runs. It is asked through a tunnel, which says at once when it cannot be, and
/// answers when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// That it stands still and gives back all but its files.
    Suspend,
    /// That it goes on where it was.
    Resume,
}

impl Wish {
    /// The word in commands and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Resume => "resume",
        }
    }
}

/// Which of a task's output streams.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How an attempt ended, as the provider says.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Exit code 0 and every declared output there.
    Done {
        /// Outputs by name; files and directories by digest, to be fetched.
        outputs: BTreeMap<String, Value>,
    },
    /// Anything else.
    Failed(Failure),
}

/// Most attempts named in one `Status` or `Renew`.
pub const ATTEMPTS_PER_MESSAGE: usize = 256;
/// Most bytes of a stream in one `Log`; one with more is not taken.
pub const LOG_CHUNK_MAX: usize = 64 * 1024;
/// Most bytes of one stream that travel of a task that ends; of the rest an empty `Log` says at which position it ends. Of a
/// replica of a service the newest bytes travel without end.
pub const LOG_TOTAL_MAX: u64 = 1024 * 1024;

/// One message.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// What would this cost?
    QuoteRequest {
        /// Names the question.
        request: RequestId,
        /// The attempt it is for.
        attempt: AttemptId,
        /// The task.
        spec: Box<TaskSpec>,
        /// The most the consumer would pay.
        max_price: Option<(Amount, Currency)>,
        /// For whom, in the words of [`catalog::cert::Assertion`]: whoever carries the message adds it. Nodes that know nothing of
        /// people leave it out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        person: Option<Vec<u8>>,
    },
    /// The signed offer.
    Quote {
        /// The question.
        request: RequestId,
        /// `COSE_Sign1` of an `accounting` quote.
        quote: Vec<u8>,
    },
    /// The signed no.
    Refusal {
        /// The question.
        request: RequestId,
        /// `COSE_Sign1` of an `accounting` refusal.
        refusal: Vec<u8>,
    },
    /// The consumer takes the offer.
    Accept {
        /// The question.
        request: RequestId,
    },
    /// The consumer does not take it.
    Decline {
        /// The question.
        request: RequestId,
    },
    /// The provider works on these.
    Status {
        /// At most [`ATTEMPTS_PER_MESSAGE`].
        attempts: Vec<(AttemptId, Phase)>,
        /// How those of them are that are replicas of services and run. Nodes that know nothing of services leave it out.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        health: Vec<(AttemptId, Health)>,
    },
    /// The consumer still wants these.
    Renew {
        /// At most [`ATTEMPTS_PER_MESSAGE`].
        attempts: Vec<AttemptId>,
    },
    /// What the task wrote.
    Log {
        /// The attempt.
        attempt: AttemptId,
        /// Which stream.
        stream: Stream,
        /// Position of the first byte in the stream. What lies between the last `Log` and this one does not travel.
        offset: u64,
        /// At most [`LOG_CHUNK_MAX`].
        bytes: Vec<u8>,
    },
    /// It ended.
    Finished {
        /// The attempt.
        attempt: AttemptId,
        /// How.
        outcome: Outcome,
    },
    /// The consumer has what it wants of this attempt.
    Collected {
        /// The attempt.
        attempt: AttemptId,
    },
    /// Stop it.
    Cancel {
        /// The attempt.
        attempt: AttemptId,
    },
}
