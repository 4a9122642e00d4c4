//! Answers by idempotency key, so that a submission repeated after a lost answer does not start a second run.
//!
//! In memory only: the key covers a client's retry within minutes, not a restart of the node.

use std::collections::{BTreeMap, VecDeque};

use catalog::Digest;
use scheduler::task::RunId;

use super::problem::{Code, Problem};

/// Keys remembered; beyond it the oldest is forgotten.
const KEYS_MAX: usize = 1024;
/// Longest key in bytes; a longer one is refused.
const KEY_LEN_MAX: usize = 256;

/// The runs that submissions with a key started.
#[derive(Debug, Default)]
pub(super) struct Answers {
    known: BTreeMap<String, (Digest, RunId)>,
    order: VecDeque<String>,
}

impl Answers {
    /// The run that this submission started before.
    ///
    /// # Errors
    /// When the key is too long or came with another submission.
    pub(super) fn known(&self, key: &str, body: &Digest) -> Result<Option<RunId>, Problem> {
        if key.is_empty() || key.len() > KEY_LEN_MAX {
            let detail = format!("an idempotency key has 1 to {KEY_LEN_MAX} bytes");
            return Err(Problem::new(Code::IdempotencyKey, detail));
        }
        match self.known.get(key) {
            None => Ok(None),
            Some((known, run)) if known == body => Ok(Some(*run)),
            Some(_) => {
                let detail =
                    "the idempotency key was used for another submission: make a new one for each";
                Err(Problem::new(Code::IdempotencyKey, detail))
            }
        }
    }

    /// Remembers what a submission started.
    pub(super) fn remember(&mut self, key: String, body: Digest, run: RunId) {
        if self.known.insert(key.clone(), (body, run)).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > KEYS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_key_gives_the_same_run_and_another_body_is_refused() {
        let mut answers = Answers::default();
        let (body, run) = (Digest::of(b"a"), RunId::from_bytes([1; 16]));
        assert_eq!(answers.known("k", &body), Ok(None));
        answers.remember("k".to_owned(), body, run);
        assert_eq!(answers.known("k", &body), Ok(Some(run)));
        assert_eq!(answers.known("k", &Digest::of(b"b")).unwrap_err().code, "idempotency_key");
        assert!(answers.known("", &body).is_err());
        assert!(answers.known(&"k".repeat(KEY_LEN_MAX + 1), &body).is_err());
    }

    #[test]
    fn the_oldest_key_is_forgotten_first() {
        let mut answers = Answers::default();
        let body = Digest::of(b"a");
        for n in 0..=KEYS_MAX {
            answers.remember(format!("k{n}"), body, RunId::from_bytes([2; 16]));
        }
        assert_eq!(answers.known("k0", &body), Ok(None));
        assert!(answers.known("k1", &body).unwrap().is_some());
        assert_eq!((answers.known.len(), answers.order.len()), (KEYS_MAX, KEYS_MAX));
    }
}
