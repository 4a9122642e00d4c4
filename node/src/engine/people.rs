//! For whom a node asks another one.
//!
//! A run that a person submitted, and each replica of a service that a person deployed, has work priced elsewhere in that person's
//! name: with each question for a quote its own node says to the other who it is, in a word that is signed with the node's key
//! ([`catalog::cert::Assertion`]). The other node checks it and asks its own policies about that person ([`super::policy`]). Who
//! somebody is comes from its organisation; what it may do is for the node that is asked.
//!
//! ```text
//! home node                                                other organisation's node
//!   QuoteRequest { …, person } ──────────────────────────►  one organisation's? for me? of this question and run? in time? once?
//!                                                           then: do my policies permit this person?
//!   ◄──────────────────────────────────── Quote | Refusal
//! ```
//!
//! **Invariant**: a word is about one question. Its number used once is that of the question, its run that of the attempt, its
//! audience this node, its home the sender that the connection proves, and its organisation that of the sender's certificate.
//! Nodes of the own organisation are told nothing: nobody asks policies about them. A question without a word is the node's own,
//! and is decided about the node, as with nodes that know nothing of people.
//!
//! What a liar can do: a node may say of people of its own organisation what it likes, and leave out for whom it asks. So who wants
//! to know people has its policies permit people and not nodes; what forbids a node or its organisation forbids whomever it names.
//! A word of somebody else's, for somebody else or of a broken kind is counted as the fault that it is, and the question is refused.
//! One said twice is answered as the first time while that answer stands, and else not at all. What was heard is forgotten at a
//! restart: only the sender itself could use it again then, who could as well sign another.

use catalog::cert::{Assertion, CertError, ReplayError};
use catalog::{NodeId, OrgId};
use scheduler::negotiate::{Message, RequestId};
use scheduler::run::Submitter;
use scheduler::task::AttemptId;

use super::command::CommandError;
use super::{Effect, Engine};
use crate::identity::Person;

/// How long a word is good, in milliseconds: a question that takes longer is not waited for any more.
const WORD_MS: u64 = 60_000;
/// When a node may ask again whose word came too early or too late, or was one too many to remember, in milliseconds.
const LATER_MS: u64 = 30_000;

/// A question for a quote.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub from: NodeId,
    pub request: RequestId,
    pub attempt: AttemptId,
    /// The word about a person, as it came.
    pub person: Option<Vec<u8>>,
}

/// Who wants to know.
#[derive(Debug)]
pub(super) enum Asker {
    /// This person, or the node for itself.
    Is(Option<Box<Person>>),
    /// Whoever asked this before.
    Again,
    /// Nobody who is believed.
    Refused { retry_after_ms: Option<u64> },
}

impl Engine {
    /// The message with the word about the person for whom the run is, where it goes to another organisation's node.
    pub(super) fn with_person(&self, to: NodeId, mut message: Message, now_ms: u64) -> Message {
        if let Message::QuoteRequest { request, attempt, person, .. } = &mut message {
            *person = self.word_about(to, *request, *attempt, now_ms);
        }
        message
    }

    fn word_about(
        &self,
        to: NodeId,
        request: RequestId,
        attempt: AttemptId,
        now_ms: u64,
    ) -> Option<Vec<u8>> {
        let org = self.admission.org();
        let is_other = self.admission.peer(to).is_some_and(|peer| peer.cert.org != org);
        let by = self.coordinator.run(attempt.run).and_then(|run| run.by()).filter(|_| is_other)?;
        let mut word = word_of(by);
        (word.home, word.org, word.audience) = (self.me, org, to);
        (word.nonce, word.run) = (request, Some(attempt.run.to_string()));
        (word.made_ms, word.expires_ms) = (now_ms, now_ms.saturating_add(WORD_MS));
        Some(word.sign(&self.settings.node_key))
    }

    /// For whom a peer asks, when it may be believed.
    pub(super) fn who_asks(&mut self, question: &Question, now_ms: u64) -> Asker {
        let from = question.from;
        let Some(word) = &question.person else { return Asker::Is(None) };
        let Some(org) = self.admission.peer(from).map(|peer| peer.cert.org) else {
            return Asker::Is(None);
        };
        let read = Assertion::verify(word, (from, org), self.me, now_ms).and_then(|read| {
            let is_of_this = read.nonce == question.request
                && read.run.as_ref().is_none_or(|run| *run == question.attempt.run.to_string());
            if is_of_this {
                Ok(read)
            } else {
                Err(CertError::OtherKey { what: "a word about a person" })
            }
        });
        let said = match read {
            Ok(said) => said,
            Err(error @ (CertError::Early { .. } | CertError::Expired { .. })) => {
                // Clocks differ: nobody lies.
                let detail = format!("{from} asked for a person: {error}");
                self.out.list.push(Effect::Notice { detail });
                return Asker::Refused { retry_after_ms: Some(LATER_MS) };
            }
            Err(error) => {
                let detail = format!("what it says about a person: {error}");
                self.blame(from, error.fault(), detail);
                return Asker::Refused { retry_after_ms: None };
            }
        };
        match self.heard.take(&said, now_ms) {
            Ok(()) => Asker::Is(Some(Box::new(person_of(said)))),
            Err(ReplayError::Again) => Asker::Again,
            Err(_) => Asker::Refused { retry_after_ms: Some(LATER_MS) },
        }
    }
}

/// Whether what is known of a person can be said to others.
pub(super) fn check_submitter(by: &Submitter) -> Result<(), CommandError> {
    let detail = |e: CertError| format!("no other node could be told for whom this run is: {e}");
    word_of(by).check().map_err(|e| CommandError::Submission { detail: detail(e) })
}

/// What is said of a person, of no question yet.
fn word_of(by: &Submitter) -> Assertion {
    let nobody = NodeId::from_bytes([0; 32]);
    Assertion {
        home: nobody,
        org: OrgId::from_bytes([0; 32]),
        issuer: by.issuer.clone(),
        subject: by.subject.clone(),
        groups: by.groups.iter().cloned().collect(),
        run: None,
        audience: nobody,
        nonce: [0; 16],
        made_ms: 0,
        expires_ms: WORD_MS,
    }
}

/// The person as policies see it: names and roles are its own organisation's matter.
fn person_of(said: Assertion) -> Person {
    Person {
        org: said.org,
        name: said.subject.clone(),
        issuer: said.issuer,
        subject: said.subject,
        groups: said.groups.into_iter().collect(),
        roles: std::collections::BTreeSet::new(),
    }
}
