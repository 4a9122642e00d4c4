//! Realms and their members: a chain of grants from the founder to a member.

use ed25519_dalek::SigningKey;

use super::issuer::key_of;
use super::{CertError, ISSUER_LEN_MAX, NAME_LEN_MAX, Opened, Revocations, check_now};
use crate::envelope::{self, Typ};
use crate::id::{OrgId, RealmId};
use crate::text::check_name;
use crate::wire::{wire_map, word_enum};

/// Largest signed grant: a name at its bound, keys and numbers, with issuer and envelope.
pub const GRANT_LEN_MAX: usize = 640 + ISSUER_LEN_MAX;
/// Longest chain from a realm's founder to a member.
pub const MEMBERSHIP_GRANTS_MAX: usize = 8;
const WHAT: &str = "the grant";

/// The id of the realm that `founder` founds with `nonce`: nobody else can found it, so nobody else can be the root of its
/// membership.
#[must_use]
pub fn realm_id(founder: OrgId, nonce: &[u8; 16]) -> RealmId {
    let mut hasher = blake3::Hasher::new_derive_key("opencloud 2026-11 realm id");
    hasher.update(founder.as_bytes()).update(nonce);
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    RealmId::from_bytes(id)
}

word_enum!(
    /// As what an organisation is admitted.
    Role, "a role",
    {
        /// Any admitted organisation.
        Peer = 0 "peer",
        /// One that its issuer trusts explicitly.
        Partner = 1 "partner",
        /// One whose nodes may speak for the realm to other realms, when whoever admitted it may, too.
        Gateway = 2 "gateway",
    }
);

/// The organisation `issuer` admits the organisation `member` into a realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The realm.
    pub realm: RealmId,
    /// What the realm's id was made with; only in the founder's grant to itself.
    pub founder_nonce: Option<[u8; 16]>,
    /// Who admits, and signs.
    pub issuer: OrgId,
    /// Who is admitted.
    pub member: OrgId,
    /// The member's name for people.
    pub member_name: String,
    /// As what.
    pub role: Role,
    /// Begin of validity, Unix milliseconds.
    pub not_before_ms: u64,
    /// End of validity, Unix milliseconds.
    pub not_after_ms: u64,
    /// Number that revocation lists name it by, unique in the issuing organisation.
    pub serial: u64,
    /// The certificate of the issuer that signed for the organisation; absent when its root did.
    pub issuer_cert: Option<Vec<u8>>,
}

wire_map!(Grant, "a grant", {
    1 must realm,
    2 may founder_nonce,
    3 must issuer,
    4 must member,
    5 must member_name,
    6 must role,
    7 must not_before_ms,
    8 must not_after_ms,
    9 must serial,
    10 may issuer_cert,
});

impl Grant {
    /// Signs with the issuing organisation's root key, or with that of the issuer in it.
    #[must_use]
    pub fn sign(&self, issuer_key: &SigningKey) -> Vec<u8> {
        envelope::sign(issuer_key, Typ::Grant, self.to_map().encode())
    }

    /// The key of the issuer that signed; `None` when the organisation's root did.
    #[must_use]
    pub fn issuer_key(&self) -> Option<[u8; 32]> {
        key_of(self.issuer_cert.as_ref())
    }

    /// Reads a grant that must be in force at `now_ms`, give or take [`super::CLOCK_SKEW_MS`].
    ///
    /// # Errors
    /// See [`CertError`].
    pub fn verify(bytes: &[u8], now_ms: u64) -> Result<Self, CertError> {
        let grant = Self::verify_at_any_time(bytes)?;
        check_now(WHAT, grant.not_before_ms, grant.not_after_ms, now_ms)?;
        Ok(grant)
    }

    /// Reads a grant by signature and form only.
    ///
    /// # Errors
    /// See [`CertError`]; never one about time.
    pub fn verify_at_any_time(bytes: &[u8]) -> Result<Self, CertError> {
        let opened = Opened::new(bytes, Typ::Grant, WHAT, GRANT_LEN_MAX)?;
        let grant = opened.read(Self::from_map)?;
        check_name("the member's name", &grant.member_name, NAME_LEN_MAX)?;
        if grant.not_after_ms <= grant.not_before_ms {
            return Err(CertError::Window { what: WHAT, life_ms: 0, max_ms: u64::MAX });
        }
        opened.verify_chain(grant.issuer, grant.issuer_cert.as_ref(), &[grant.not_before_ms])?;
        Ok(grant)
    }
}

/// Why a chain of grants does not make an organisation a member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// No grant, or more than a chain may have.
    #[error("{grants} grants in a membership, it must be between 1 and {MEMBERSHIP_GRANTS_MAX}")]
    Length {
        /// Grants given.
        grants: usize,
    },
    /// One grant is refused.
    #[error("grant {index} of the membership is refused")]
    Grant {
        /// Its position, from 0.
        index: usize,
        /// Why.
        source: CertError,
    },
    /// A grant is for another realm.
    #[error("grant {index} is for {found}, not for {expected}")]
    Realm {
        /// Its position, from 0.
        index: usize,
        /// The realm asked about.
        expected: RealmId,
        /// The realm granted.
        found: RealmId,
    },
    /// The first grant is not the founder's to itself.
    #[error("the first grant is not the one of the founder of {realm}")]
    Founder {
        /// The realm asked about.
        realm: RealmId,
    },
    /// A grant was not issued by the member before, or names a member again.
    #[error("grant {index}, issued by {issuer}, does not continue the chain")]
    Chain {
        /// Its position, from 0.
        index: usize,
        /// Its issuer.
        issuer: OrgId,
    },
    /// The chain is good, but ends at another organisation.
    #[error("the membership is that of {found}, not of {expected}")]
    Member {
        /// The organisation asked about.
        expected: OrgId,
        /// The organisation admitted.
        found: OrgId,
    },
}

impl MembershipError {
    /// Whether only the time is wrong.
    #[must_use]
    pub const fn is_about_time(&self) -> bool {
        matches!(self, Self::Grant { source, .. } if source.is_about_time())
    }
}

/// What a good chain says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedMembership {
    /// The member.
    pub org: OrgId,
    /// As what the last grant admits it.
    pub role: Role,
    /// When the first of the chain's grants ends, Unix milliseconds.
    pub not_after_ms: u64,
    /// Whether the member may speak for the realm to other realms: the founder may, and who holds a grant as
    /// [`Role::Gateway`] of one that may.
    pub is_gateway: bool,
}

/// The signed grants from a realm's founder to a member, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The exact bytes of each grant.
    pub grants: Vec<Vec<u8>>,
}

impl Membership {
    /// Checks that the chain makes `org` a member of `realm` at `now_ms`.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub fn verify(
        &self,
        realm: RealmId,
        org: OrgId,
        now_ms: u64,
    ) -> Result<VerifiedMembership, MembershipError> {
        if self.grants.is_empty() || self.grants.len() > MEMBERSHIP_GRANTS_MAX {
            return Err(MembershipError::Length { grants: self.grants.len() });
        }
        let mut members: Vec<OrgId> = Vec::with_capacity(self.grants.len());
        let mut verified: Option<VerifiedMembership> = None;
        for (index, bytes) in self.grants.iter().enumerate() {
            let grant = Grant::verify(bytes, now_ms)
                .map_err(|source| MembershipError::Grant { index, source })?;
            check_link(&grant, index, realm, &members)?;
            members.push(grant.member);
            let before = verified.map_or(u64::MAX, |v| v.not_after_ms);
            let not_after_ms = before.min(grant.not_after_ms);
            let is_gateway = verified.is_none_or(|v| v.is_gateway && grant.role == Role::Gateway);
            let (org, role) = (grant.member, grant.role);
            verified = Some(VerifiedMembership { org, role, not_after_ms, is_gateway });
        }
        match verified {
            Some(v) if v.org == org => Ok(v),
            Some(v) => Err(MembershipError::Member { expected: org, found: v.org }),
            None => Err(MembershipError::Length { grants: 0 }),
        }
    }

    /// The organisation along the chain that has taken its grant back, by the revocation lists that `list_of` knows. Grants
    /// that cannot be read are left out: [`Self::verify`] refuses them.
    pub fn revoked_by<'a>(
        &self,
        list_of: impl Fn(OrgId) -> Option<&'a Revocations>,
    ) -> Option<OrgId> {
        let grants = self.grants.iter().filter_map(|bytes| Grant::verify_at_any_time(bytes).ok());
        grants
            .filter(|grant| list_of(grant.issuer).is_some_and(|list| list.revokes_grant(grant)))
            .map(|grant| grant.issuer)
            .next()
    }

    /// The chain with one more grant at its end. Nothing is checked.
    #[must_use]
    pub fn extend(&self, grant: Vec<u8>) -> Self {
        let mut grants = self.grants.clone();
        grants.push(grant);
        Self { grants }
    }

    /// The members along the chain, founder first. Grants that cannot be read are left out.
    #[must_use]
    pub fn members(&self) -> Vec<OrgId> {
        self.grants
            .iter()
            .filter_map(|bytes| Grant::verify_at_any_time(bytes).ok())
            .map(|grant| grant.member)
            .collect()
    }
}

/// Checks one grant against the members before it.
fn check_link(
    grant: &Grant,
    index: usize,
    realm: RealmId,
    members: &[OrgId],
) -> Result<(), MembershipError> {
    if grant.realm != realm {
        return Err(MembershipError::Realm { index, expected: realm, found: grant.realm });
    }
    let Some(last) = members.last() else {
        let nonce = grant.founder_nonce.as_ref();
        let founded = nonce.is_some_and(|nonce| realm_id(grant.issuer, nonce) == realm);
        let to_itself = grant.issuer == grant.member;
        return if founded && to_itself { Ok(()) } else { Err(MembershipError::Founder { realm }) };
    };
    let continues =
        grant.issuer == *last && grant.founder_nonce.is_none() && !members.contains(&grant.member);
    if continues { Ok(()) } else { Err(MembershipError::Chain { index, issuer: grant.issuer }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONCE: [u8; 16] = [5; 16];

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn org(seed: u8) -> OrgId {
        key(seed).verifying_key().into()
    }

    fn realm() -> RealmId {
        realm_id(org(1), &NONCE)
    }

    fn grant(issuer: u8, member: u8) -> Grant {
        Grant {
            realm: realm(),
            founder_nonce: (issuer == member).then_some(NONCE),
            issuer: org(issuer),
            member: org(member),
            member_name: format!("org {member}"),
            role: Role::Peer,
            not_before_ms: 1_000_000,
            not_after_ms: 9_000_000,
            serial: 1,
            issuer_cert: None,
        }
    }

    fn chain(links: &[(u8, u8)]) -> Membership {
        Membership { grants: links.iter().map(|(i, m)| grant(*i, *m).sign(&key(*i))).collect() }
    }

    #[test]
    fn a_chain_from_the_founder_makes_a_member() {
        let membership = chain(&[(1, 1), (1, 2), (2, 3)]);
        let verified = membership.verify(realm(), org(3), 2_000_000).unwrap();
        assert_eq!((verified.org, verified.not_after_ms), (org(3), 9_000_000));
        assert_eq!(membership.members(), [org(1), org(2), org(3)]);
        let longer = membership.extend(grant(3, 4).sign(&key(3)));
        assert!(longer.verify(realm(), org(4), 2_000_000).is_ok());
    }

    #[test]
    fn nobody_speaks_for_a_realm_whom_its_founder_did_not_let() {
        let at = |links: &[(u8, u8, Role)]| {
            let grants = links
                .iter()
                .map(|(i, m, role)| Grant { role: *role, ..grant(*i, *m) }.sign(&key(*i)));
            let last = links[links.len() - 1].1;
            let chain = Membership { grants: grants.collect() };
            chain.verify(realm(), org(last), 2_000_000).unwrap().is_gateway
        };
        use Role::{Gateway, Partner, Peer};
        assert!(at(&[(1, 1, Peer)]));
        assert!(at(&[(1, 1, Partner), (1, 2, Gateway)]));
        assert!(at(&[(1, 1, Peer), (1, 2, Gateway), (2, 3, Gateway)]));
        assert!(!at(&[(1, 1, Peer), (1, 2, Partner)]));
        assert!(
            !at(&[(1, 1, Peer), (1, 2, Peer), (2, 3, Gateway)]),
            "it cannot give what it lacks"
        );
    }

    #[test]
    fn broken_chains_are_refused() {
        let at = 2_000_000;
        for (links, why) in [
            (&[][..], "empty"),
            (&[(1, 2)], "no founder"),
            (&[(2, 2)], "another founder"),
            (&[(1, 1), (3, 2)], "a gap"),
            (&[(1, 1), (1, 2), (2, 1), (1, 2)], "a circle"),
            (&[(1, 1), (1, 3)], "another member"),
        ] {
            assert!(chain(links).verify(realm(), org(2), at).is_err(), "{why}");
        }
        let long: Vec<(u8, u8)> =
            std::iter::once((1, 1)).chain((1..9).map(|n| (n, n + 1))).collect();
        assert_eq!(
            chain(&long).verify(realm(), org(9), at),
            Err(MembershipError::Length { grants: 9 })
        );
        assert!(chain(&[(1, 1)]).verify(RealmId::from_bytes([0; 16]), org(1), at).is_err());
    }

    #[test]
    fn a_grant_signed_by_another_organisation_is_refused() {
        let mut membership = chain(&[(1, 1)]);
        membership.grants.push(grant(1, 2).sign(&key(2)));
        assert!(matches!(
            membership.verify(realm(), org(2), 2_000_000),
            Err(MembershipError::Grant { index: 1, .. })
        ));
    }

    #[test]
    fn one_expired_grant_ends_the_membership() {
        let error = chain(&[(1, 1), (1, 2)]).verify(realm(), org(2), 99_000_000).unwrap_err();
        assert!(error.is_about_time());
    }

    proptest! {
        #[test]
        fn only_consecutive_links_from_the_founder_verify(
            links in proptest::collection::vec((1u8..4, 1u8..4), 1..5),
        ) {
            let first_is_founder = links[0] == (1, 1);
            let consecutive = links.windows(2).all(|w| w[1].0 == w[0].1);
            let mut seen = std::collections::BTreeSet::new();
            let distinct = links.iter().all(|(_, member)| seen.insert(*member));
            let last = links[links.len() - 1].1;
            let verdict = chain(&links).verify(realm(), org(last), 2_000_000);
            prop_assert_eq!(verdict.is_ok(), first_is_founder && consecutive && distinct);
        }
    }
}
