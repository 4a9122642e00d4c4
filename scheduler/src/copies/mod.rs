//! Copies of data at willing peers: as many as its owner wishes, checked, and repaired when one is lost.
//!
//! A node that wishes copies of a content is its **owner** here, whoever made it; a node that keeps one is a **keeper**. Both are
//! machines without a clock or a network: [`Copies`] is the owner's side, [`Keeper`] the other.
//!
//! # Messages
//!
//! | from | message | meaning |
//! |---|---|---|
//! | owner | `Keep` | will you keep this, or do you? The same question begins a copy and asks how it is |
//! | keeper | `No` | not this: why, and when it may be asked again |
//! | keeper | `Coming` | it promised, and fetches |
//! | keeper | `Kept` | it has all of it |
//! | owner | `Drop` | it is wished no more |
//! | keeper | `Dropped` | it keeps nothing of it for this owner |
//!
//! Any of them may be lost, doubled or late: each says how things are, not what has changed, and questions are asked again. Bytes
//! go by the blob protocol: the keeper fetches from the owner (or from whoever else publishes them), and the owner reads a random
//! range at the keeper, which proves that it still has it.
//!
//! # States
//!
//! Of a copy, at the owner: `Asked → Coming → Kept → Leaving`. A copy **counts** when a proof of it succeeded and its keeper was
//! not away for longer than the patience since. Is one lost (its keeper says so, or three proofs in a row fail because
//! the bytes are not there), it is gone at once; is its keeper merely away, it is replaced only when the patience is over. Comes it back then,
//! there are too many, and one of them is let go. At the keeper: `Coming → Kept`, until the owner drops it or has not been heard of
//! for [`IDLE_MS`].
//!
//! # Invariants
//!
//! - The owner lets no copy go while fewer than wished count without it.
//! - What a keeper promises is stored before it says so, and it never promises more bytes than its owner allows.
//! - No keeper is asked for more than one copy of a content, and no more are under way than are missing.
//!
//! # What a liar can do
//!
//! - A keeper may say `Kept` and have nothing: then the first proofs fail, and it is not asked again for a day. It may have let
//!   nine tenths go: each proof finds that out with nine chances in ten, and there is one an hour. It may fetch what is asked of it
//!   from another keeper at that moment: that is not found out, and such copies are lost together.
//! - A keeper may refuse to give the bytes back when they are needed. Several keepers of several organisations are what helps.
//! - An owner may ask a keeper to keep what nobody needs, up to what the keeper's own owner allows, who says for whom. A size
//!   that was said too small ends the fetch; whoever is not admitted or not allowed gets a `No`.
//! - Strangers can neither drop nor learn of copies: a keeper answers each peer about that peer's copies alone.

mod keeper;
mod owner;

use std::collections::BTreeSet;

use catalog::{Digest, NodeId, OrgId};

pub use keeper::{Keep, Keeper, KeeperAction, KeptState, Policy};
pub use owner::{Action, Copies, Copy, CopyState, Peer, Proof, Wish, WishError, Wished};

/// Most contents that copies are wished of; more are refused.
pub const WISHES_MAX: usize = 1_000;
/// Most copies of one content.
pub const COPIES_MAX: u32 = 16;
/// Most contents kept for others, of all owners; more are refused.
pub const KEPT_MAX: usize = 10_000;
/// Longest name that is carried along, in bytes; a longer one is cut by the owner and refused by a keeper.
pub const NAME_LEN_MAX: usize = 120;
/// How long a question waits for its answer, in milliseconds.
pub const ANSWER_MS: u64 = 30_000;
/// How often a keeper that fetches is asked how it is, in milliseconds.
pub const ASK_AGAIN_MS: u64 = 20_000;
/// How long a keeper may fetch without an end before another one is asked, in milliseconds: a day.
pub const COMING_MAX_MS: u64 = 24 * 3_600_000;
/// Between two proofs of one copy, in milliseconds; up to a quarter of it more, so that they do not all come at once.
pub const CHECK_MS: u64 = 3_600_000;
/// Before a proof that could not be made is tried again, in milliseconds.
pub const CHECK_AGAIN_MS: u64 = 5_000;
/// Proofs that fail in a row before a copy is taken for lost.
pub const FAILURES_MAX: u32 = 3;
/// How long a proof may take before it is taken for one that could not be made, in milliseconds.
pub const PROOF_MS: u64 = 120_000;
/// How long a keeper may be away before another one is asked, when the wish does not say, in milliseconds.
pub const PATIENCE_MS: u64 = 15 * 60_000;
/// How long a peer that did not answer is not asked again, in milliseconds.
pub const SILENT_MS: u64 = 60_000;
/// How long a peer that lost a copy is not asked again for that content, in milliseconds: a day.
pub const LOST_MS: u64 = 24 * 3_600_000;
/// Longest pause that a refusal may ask for, in milliseconds: a day.
pub const REFUSED_MAX_MS: u64 = 24 * 3_600_000;
/// How long a keeper keeps for an owner that it hears nothing of, in milliseconds: 30 days. And how long an owner remembers that
/// it has to tell a keeper that is away to drop one.
pub const IDLE_MS: u64 = 30 * 24 * 3_600_000;
/// When a keeper without room may be asked again, in milliseconds.
const FULL_MS: u64 = 10 * 60_000;
/// When a keeper that keeps nothing for this owner may be asked again, in milliseconds.
const POLICY_MS: u64 = 3_600_000;

/// What copies are wished of.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Content {
    /// Its name; of a directory, its manifest's.
    pub digest: Digest,
    /// Bytes of the file, or of all files of the directory.
    pub size: u64,
    /// Whether it is a directory.
    pub directory: bool,
    /// For people.
    pub name: String,
    /// Whether everybody in the realm may have it, so that keepers tell of it in the catalogue.
    pub public: bool,
}

/// Why a peer does not keep something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoKeep {
    /// Its owner lets it keep nothing for this one.
    Policy,
    /// There is no room.
    Full,
    /// It was promised, and could not be fetched or is not there any more.
    Lost,
    /// It did not answer in time. An owner's own word.
    Silent,
}

impl NoKeep {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "it keeps nothing for this organisation",
            Self::Full => "it has no room",
            Self::Silent => "it did not answer",
            Self::Lost => "it could not fetch it, or has lost it",
        }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// Keep this for me. Or: how is it?
    Keep {
        /// What.
        content: Content,
    },
    /// No.
    No {
        /// What.
        digest: Digest,
        /// Why.
        why: NoKeep,
        /// When to ask again at the earliest, in milliseconds from now.
        again_ms: u64,
    },
    /// I keep it and fetch it.
    Coming {
        /// What.
        digest: Digest,
    },
    /// I have it.
    Kept {
        /// What.
        digest: Digest,
    },
    /// Keep it no longer.
    Drop {
        /// What.
        digest: Digest,
    },
    /// I keep nothing of it for you.
    Dropped {
        /// What.
        digest: Digest,
    },
}

/// Among whom copies are to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Among(pub BTreeSet<OrgId>);

impl Among {
    /// Whether an organisation is meant: one of those that are named, or any when none is.
    #[must_use]
    pub fn has(&self, org: OrgId) -> bool {
        self.0.is_empty() || self.0.contains(&org)
    }
}

/// A copy at a peer by name: whose, and of what.
pub type KeptKey = (NodeId, Digest);
