//! Delegated queries: a node asks others for records that it does not hold.
//!
//! A light node keeps some kinds of records only, and asks for the rest; a gateway asks those of other realms. What comes back
//! is signed by its authors and shows their papers, so any node can answer, and nobody has to believe the one who does.
//!
//! # Messages
//!
//! ```text
//!  A                                        B
//!  Ask {id, realm, filter, kinds, after} ─►     the filter in the language of [`crate::filter`], at most 1024 characters
//!       ◄──── Answer {id, found, next} ┈┈┈┈     at most 256 KiB: by author its head, its papers, and the records that pass
//!  Ask {…, after: next} ──────────────────►     until there is no `next`: then B has nothing more
//!       ◄──────────── Refuse {id, why} ┈┈┈┈     too many questions, no such realm, no full copy, an unreadable filter
//! ```
//!
//! The order is that of authors and keys, so a page begins behind the place that the question names, and says where the next
//! one begins. A page can be empty and still have a next one: B looks at a bounded number of records for each.
//!
//! # States
//!
//! At B none: each question says all that is needed to answer it. At A a [`Lent`] for each question: what came back, checked,
//! and how far each peer has got ([`Progress`]). It is kept apart from the replica and forgotten soon, for nobody tells A of
//! later changes.
//!
//! # Invariant
//!
//! A record is shown only when the replica of its realm would take it in: its author's papers lead to the realm's founder, its
//! head's lease runs, nothing that is known here revokes it, every signature holds. Then the question itself is put to it. Papers come with
//! every head, so A needs to be no member of the realm: its id alone, which is the hash of its founder, says whether they
//! are good ([`Lent::of_realm`]).
//!
//! # Restricted records
//!
//! B gives public records of all authors, and of restricted ones its own alone, to organisations that may see them. A refuses
//! a restricted record from anybody but its author.
//!
//! # What a liar can do
//!
//! - *Who answers* can withhold: an answer that matters is asked of two, of different organisations where there are, and what
//!   either has counts. It can give an older state of an author, within its lease: of two the newer counts. It cannot forge,
//!   alter or invent: that is a fault, counted against it. It can give what was not asked for: that is not shown, and counts
//!   against the bytes of one question ([`LENT_BYTES_MAX`]). It can go in circles: a page that gets no further is a fault.
//! - *Who asks* can flood: each peer has a number of pages a minute, each costs a bounded look, and what does not fit is
//!   refused (the caller counts: the engine of `node` does). It learns nothing that a comparison of catalogues would not give.

mod answer;
mod lent;

pub use lent::{AskFault, LENT_BYTES_MAX, Lent, Progress};

use crate::filter::Filter;
use crate::id::{NodeId, RealmId};
use crate::record::Kinds;
use crate::sync::Bytes;

/// Bytes of heads, papers and records in one answer; what does not fit comes on the next page.
pub const ANSWER_LEN_MAX: usize = 256 * 1024;
/// Records looked at for one answer; behind them the page ends, whatever it holds.
pub const LOOK_MAX: usize = 10_000;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which resources.
    pub filter: Filter,
    /// Of these kinds alone.
    pub kinds: Kinds,
}

impl Question {
    /// The message that asks for the page behind a place, or for the first.
    #[must_use]
    pub fn ask(&self, id: u64, realm: RealmId, after: Option<Place>) -> Ask {
        Ask { id, realm, filter: self.filter.to_string(), kinds: self.kinds, after }
    }
}

/// A place in the order of authors and keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// The author.
    #[serde(rename = "a")]
    pub author: NodeId,
    /// The key.
    #[serde(rename = "k")]
    pub key: String,
}

/// A question as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ask {
    /// Comes back with the answer.
    #[serde(rename = "i")]
    pub id: u64,
    /// In which realm.
    #[serde(rename = "r")]
    pub realm: RealmId,
    /// The filter's text.
    #[serde(rename = "f")]
    pub filter: String,
    /// Of these kinds alone.
    #[serde(rename = "k")]
    pub kinds: Kinds,
    /// Only what comes behind.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Place>,
}

/// What one author has of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Found {
    /// The author's signed head.
    #[serde(rename = "h")]
    pub head: Bytes,
    /// The papers that it names.
    #[serde(rename = "p")]
    pub papers: Bytes,
    /// Its signed public records.
    #[serde(rename = "r", default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<Bytes>,
    /// Restricted ones, when the answer is its own.
    #[serde(rename = "x", default, skip_serializing_if = "Vec::is_empty")]
    pub restricted: Vec<Bytes>,
}

/// A page.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Answer {
    /// Of which question.
    #[serde(rename = "i")]
    pub id: u64,
    /// By author.
    #[serde(rename = "f")]
    pub found: Vec<Found>,
    /// Where the next page begins; absent on the last.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Place>,
}

/// Why a question is not answered.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum RefuseAsk {
    /// Too many questions of this peer, or of all.
    #[error("it has too many questions to answer")]
    Busy,
    /// It has no copy of that realm.
    #[error("it has no copy of the realm")]
    Realm,
    /// It holds some kinds of records only.
    #[error("it is a light node, too")]
    Light,
    /// It cannot read the filter, which may be newer than its program.
    #[error("it cannot read the filter")]
    Filter,
}

/// The messages; see the module's page.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AskMessage {
    /// A question.
    Ask(Ask),
    /// A page of its answer.
    Answer(Answer),
    /// None.
    Refuse {
        /// Of which question.
        id: u64,
        /// Why.
        why: RefuseAsk,
    },
}
