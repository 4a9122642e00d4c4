//! A person's own node says at another organisation's node for whom it acts.
//!
//! The node signs with its own key; its certificate, which the other side has from the greeting, leads to its organisation. The
//! statement names the one node that it is for, a number used once, and an end two minutes away at most. What it says is who somebody
//! is, and nothing about what it may do: that the other node decides by its own policy.
//!
//! What a liar can do: an organisation may say of its people what it likes, and of nobody else's: the organisation in the statement is
//! that of the certificate. Who copies a statement can neither use it elsewhere (the audience), nor again ([`Replays`]), nor later.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;

use super::{CLOCK_SKEW_MS, CertError, Opened, check_count, check_now};
use crate::envelope::{self, Typ};
use crate::id::{NodeId, OrgId};
use crate::text::check_name;
use crate::wire::wire_map;

/// Largest signed statement.
pub const ASSERTION_LEN_MAX: usize = 8 << 10;
/// Longest life of one.
pub const ASSERTION_MS_MAX: u64 = 120_000;
/// Most groups in one.
pub const ASSERTION_GROUPS_MAX: usize = 64;
/// Statements of one node that are remembered until they have ended; further ones are refused until then.
pub const REPLAYS_OF_ONE_MAX: usize = 4_096;
/// Statements of all nodes that are remembered; further ones are refused.
pub const REPLAYS_MAX: usize = 65_536;
/// Longest issuer or subject, in bytes.
const ID_LEN_MAX: usize = 255;
/// Longest group, in bytes.
const GROUP_LEN_MAX: usize = 64;
/// Longest name of a run, in bytes.
const RUN_LEN_MAX: usize = 64;
const WHAT: &str = "the word about a person";

/// For whom a node acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// The node that says it, and signs.
    pub home: NodeId,
    /// Its organisation, whose person it is.
    pub org: OrgId,
    /// Who knows the person: a provider's address, or `local`.
    pub issuer: String,
    /// The issuer's own name of the person.
    pub subject: String,
    /// Groups that the person is in, ascending.
    pub groups: Vec<String>,
    /// The run that it is about, where there is one.
    pub run: Option<String>,
    /// The node that it is for.
    pub audience: NodeId,
    /// Used once.
    pub nonce: [u8; 16],
    /// When it begins to be good, Unix milliseconds.
    pub made_ms: u64,
    /// When it ends.
    pub expires_ms: u64,
}

wire_map!(Assertion, "a word about a person", {
    1 must home,
    2 must org,
    3 must issuer,
    4 must subject,
    5 must groups,
    6 may run,
    7 must audience,
    8 must nonce,
    9 must made_ms,
    10 must expires_ms,
});

impl Assertion {
    /// Signs with the home node's key.
    #[must_use]
    pub fn sign(&self, home_key: &SigningKey) -> Vec<u8> {
        envelope::sign(home_key, Typ::Assertion, self.to_map().encode())
    }

    /// Reads what a node of an organisation, whose certificate is known, says to this one. Whether it was said before is for
    /// [`Replays`].
    ///
    /// # Errors
    /// See [`CertError`].
    pub fn verify(
        bytes: &[u8],
        (home, org): (NodeId, OrgId),
        audience: NodeId,
        now_ms: u64,
    ) -> Result<Self, CertError> {
        let opened = Opened::new(bytes, Typ::Assertion, WHAT, ASSERTION_LEN_MAX)?;
        let read = opened.read(Self::from_map)?;
        opened.verify(OrgId::from_bytes(*home.as_bytes()))?;
        if read.home != home || read.org != org || read.audience != audience {
            return Err(CertError::OtherKey { what: WHAT });
        }
        read.check()?;
        check_now(WHAT, read.made_ms, read.expires_ms, now_ms)?;
        Ok(read)
    }

    /// Checks bounds and order.
    ///
    /// # Errors
    /// See [`CertError`].
    pub fn check(&self) -> Result<(), CertError> {
        check_name("issuer", &self.issuer, ID_LEN_MAX)?;
        check_name("subject", &self.subject, ID_LEN_MAX)?;
        check_count("groups", self.groups.len(), ASSERTION_GROUPS_MAX)?;
        self.groups.iter().try_for_each(|group| check_name("group", group, GROUP_LEN_MAX))?;
        if !self.groups.is_sorted_by(|a, b| a < b) {
            return Err(CertError::Order { field: "groups" });
        }
        self.run.iter().try_for_each(|run| check_name("run", run, RUN_LEN_MAX))?;
        let life_ms = self.expires_ms.saturating_sub(self.made_ms);
        if life_ms == 0 || life_ms > ASSERTION_MS_MAX {
            return Err(CertError::Window { what: WHAT, life_ms, max_ms: ASSERTION_MS_MAX });
        }
        Ok(())
    }
}

/// Why a good statement counts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// It was said before.
    #[error("the word about a person was said before")]
    Again,
    /// Too many have to be remembered.
    #[error("too many words about persons in a short time: try it again in some minutes")]
    TooMany,
}

/// The statements that were said, until they have ended.
#[derive(Clone, Debug, Default)]
pub struct Replays {
    /// By home and number, when each may be forgotten.
    seen: BTreeMap<(NodeId, [u8; 16]), u64>,
    /// How many of each home.
    count: BTreeMap<NodeId, usize>,
}

impl Replays {
    /// Takes a statement that was verified, once.
    ///
    /// # Errors
    /// See [`ReplayError`].
    pub fn take(&mut self, said: &Assertion, now_ms: u64) -> Result<(), ReplayError> {
        let name = (said.home, said.nonce);
        if self.seen.get(&name).is_some_and(|until| now_ms <= *until) {
            return Err(ReplayError::Again);
        }
        let is_full = |replays: &Self| {
            let own = replays.count.get(&said.home).copied().unwrap_or(0);
            own >= REPLAYS_OF_ONE_MAX || replays.seen.len() >= REPLAYS_MAX
        };
        // Forgotten only when there is need: to look through all at each statement would be a peer's lever.
        if is_full(self) {
            self.forget(now_ms);
        }
        if is_full(self) {
            return Err(ReplayError::TooMany);
        }
        let until_ms = said.expires_ms.saturating_add(CLOCK_SKEW_MS);
        if self.seen.insert(name, until_ms).is_none() {
            *self.count.entry(said.home).or_default() += 1;
        }
        Ok(())
    }

    fn forget(&mut self, now_ms: u64) {
        self.seen.retain(|_, until| now_ms <= *until);
        self.count.clear();
        for (home, _) in self.seen.keys() {
            *self.count.entry(*home).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000_000;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn id(seed: u8) -> NodeId {
        key(seed).verifying_key().into()
    }

    fn org(seed: u8) -> OrgId {
        key(seed).verifying_key().into()
    }

    fn said(nonce: u8) -> Assertion {
        Assertion {
            home: id(2),
            org: org(1),
            issuer: "https://id.example".to_owned(),
            subject: "s-1".to_owned(),
            groups: vec!["field".to_owned(), "staff".to_owned()],
            run: None,
            audience: id(3),
            nonce: [nonce; 16],
            made_ms: NOW,
            expires_ms: NOW + ASSERTION_MS_MAX,
        }
    }

    fn read(bytes: &[u8], now_ms: u64) -> Result<Assertion, CertError> {
        Assertion::verify(bytes, (id(2), org(1)), id(3), now_ms)
    }

    #[test]
    fn it_is_good_for_one_node_of_one_home_within_its_time() {
        let word = said(1);
        let bytes = word.sign(&key(2));
        assert_eq!(read(&bytes, NOW), Ok(word.clone()));
        let late = NOW + ASSERTION_MS_MAX + CLOCK_SKEW_MS;
        assert!(read(&bytes, late).is_ok());
        assert!(matches!(read(&bytes, late + 1), Err(CertError::Expired { .. })));
        assert!(matches!(read(&bytes, NOW - CLOCK_SKEW_MS - 1), Err(CertError::Early { .. })));
        let verify = |home, org, audience| Assertion::verify(&bytes, (home, org), audience, NOW);
        assert!(matches!(verify(id(2), org(1), id(4)), Err(CertError::OtherKey { .. })));
        assert!(matches!(verify(id(2), org(4), id(3)), Err(CertError::OtherKey { .. })));
        assert!(matches!(verify(id(4), org(1), id(3)), Err(CertError::Envelope { .. })));
        assert!(matches!(read(&word.sign(&key(4)), NOW), Err(CertError::Envelope { .. })));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let refused = |change: fn(&mut Assertion)| {
            let mut word = said(1);
            change(&mut word);
            read(&word.sign(&key(2)), NOW).unwrap_err()
        };
        assert!(matches!(refused(|w| w.expires_ms += 1), CertError::Window { .. }));
        assert!(matches!(refused(|w| w.expires_ms = w.made_ms), CertError::Window { .. }));
        assert!(matches!(refused(|w| w.groups.reverse()), CertError::Order { .. }));
        assert!(matches!(refused(|w| w.subject.clear()), CertError::Text(_)));
        assert!(matches!(
            refused(|w| w.groups = vec!["x".to_owned(); 65]),
            CertError::Count { .. }
        ));
        let bytes = said(1).sign(&key(2));
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut], NOW).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn it_is_taken_once_and_the_memory_is_bounded() {
        let mut replays = Replays::default();
        assert_eq!(replays.take(&said(1), NOW), Ok(()));
        assert_eq!(replays.take(&said(1), NOW + 1), Err(ReplayError::Again));
        let until = NOW + ASSERTION_MS_MAX + CLOCK_SKEW_MS;
        assert_eq!(
            replays.take(&said(1), until),
            Err(ReplayError::Again),
            "as long as it verifies"
        );
        let numbered = |n: usize| {
            let mut word = said(0);
            word.nonce[..8].copy_from_slice(&(n as u64 + 1).to_le_bytes());
            word
        };
        for n in 0..REPLAYS_OF_ONE_MAX - 1 {
            assert_eq!(replays.take(&numbered(n), NOW), Ok(()));
        }
        assert_eq!(replays.take(&said(9), NOW), Err(ReplayError::TooMany));
        assert_eq!(replays.take(&said(9), until + 1), Ok(()), "what has ended makes room");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(read(&bytes, NOW).is_err());
        }
    }
}
