//! Asking: what peers told in answer to one question, checked.

use super::{Answer, Place, Question};
use crate::author::Class;
use crate::id::{NodeId, RealmId};
use crate::log::Head;
use crate::replica::{Catalog, Entry, Limits, Parts, PushError, Pushed};
use crate::sync::Bytes;

/// Bytes of answers to one question, of all peers together; what comes beyond is not taken.
pub const LENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What one author may take of it.
const LIMITS: Limits =
    Limits { authors: 2000, records_per_author: 10_000, bytes_per_author: LENT_BYTES_MAX };

/// Why an answer is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AskFault {
    /// A signed part of it.
    #[error("a signed part of the answer is refused")]
    Push(#[from] PushError),
    /// A restricted record from somebody else than its author.
    #[error("the answer has a restricted record of {author}, which only that node gives")]
    Indiscreet {
        /// The author.
        author: NodeId,
    },
    /// The next page would begin where this one did, or before.
    #[error("the answer gets no further")]
    Circle,
}

impl AskFault {
    /// Whether an honest peer would not have answered so.
    #[must_use]
    pub const fn is_peer_fault(&self) -> bool {
        match self {
            Self::Push(error) => error.is_peer_fault(),
            Self::Indiscreet { .. } | Self::Circle => true,
        }
    }
}

/// How far one peer has got with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is another page, behind this place.
    More(Place),
    /// It has said all that it has.
    Done,
    /// It has more than is taken.
    Full,
}

/// What peers told in answer to one question.
#[derive(Clone, Debug)]
pub struct Lent {
    catalog: Catalog,
    question: Question,
    bytes: usize,
}

impl Lent {
    /// For a question in another realm than that of the asker `me`: nothing is known of it but its id, and that is enough to
    /// tell its members.
    #[must_use]
    pub fn of_realm(me: NodeId, realm: RealmId, question: Question) -> Self {
        Self { catalog: Catalog::new(me, realm, LIMITS), question, bytes: 0 }
    }

    /// For a question in the realm of a catalogue: who is refused there is refused here.
    #[must_use]
    pub fn beside(catalog: &Catalog, question: Question) -> Self {
        Self { catalog: catalog.aside(LIMITS), question, bytes: 0 }
    }

    /// The question.
    #[must_use]
    pub const fn question(&self) -> &Question {
        &self.question
    }

    /// The realm that it is about.
    #[must_use]
    pub const fn realm(&self) -> RealmId {
        self.catalog.realm()
    }

    /// Takes in a page that the node `from` gave for the question behind `after`.
    ///
    /// # Errors
    /// See [`AskFault`]; what was good before the fault stays.
    pub fn take(
        &mut self,
        now_ms: u64,
        from: NodeId,
        after: Option<&Place>,
        answer: &Answer,
    ) -> Result<Progress, AskFault> {
        for found in &answer.found {
            let sizes = found.records.iter().chain(&found.restricted).map(|bytes| bytes.0.len());
            let size = found.head.0.len() + found.papers.0.len() + sizes.sum::<usize>();
            if self.bytes + size > LENT_BYTES_MAX {
                return Ok(Progress::Full);
            }
            self.bytes += size;
            let papers = Some(found.papers.0.as_slice());
            let public = (found.head.0.as_slice(), papers, Class::Public);
            match self.apply(now_ms, public, &found.records) {
                Err(fault) if fault.is_peer_fault() => return Err(fault.into()),
                // Revoked here, say, and not yet there.
                Err(_) => continue,
                Ok(()) => {}
            }
            if !found.restricted.is_empty() {
                let head = Head::peek(&found.head.0).map_err(PushError::Log)?;
                let author = head.content.author;
                if author != from {
                    return Err(AskFault::Indiscreet { author });
                }
                let parts = (found.head.0.as_slice(), papers, Class::Restricted);
                self.apply(now_ms, parts, &found.restricted)?;
            }
        }
        match &answer.next {
            None => Ok(Progress::Done),
            Some(next) if after.is_some_and(|after| next <= after) => Err(AskFault::Circle),
            Some(next) => Ok(Progress::More(next.clone())),
        }
    }

    fn apply(
        &mut self,
        now_ms: u64,
        (head, papers, class): (&[u8], Option<&[u8]>, Class),
        records: &[Bytes],
    ) -> Result<(), PushError> {
        let parts = Parts { head, papers, class };
        let records = records.iter().map(|bytes| bytes.0.as_slice());
        self.catalog.apply(now_ms, parts, records, &mut Pushed::default()).map(|_| ())
    }

    /// What was told and still counts at `now_ms`, by author and key.
    pub fn entries(&self, now_ms: u64) -> impl Iterator<Item = Entry<'_>> {
        let Question { filter, kinds } = &self.question;
        self.catalog
            .resources(now_ms)
            .filter(|entry| kinds.contains(entry.resource.kind()) && filter.matches(entry))
    }

    /// Whether anything was told that counts.
    #[must_use]
    pub fn is_empty(&self, now_ms: u64) -> bool {
        self.entries(now_ms).next().is_none()
    }
}
