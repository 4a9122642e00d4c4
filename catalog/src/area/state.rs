//! An area as one organisation holds it, and the orders of its owner.

use std::collections::{BTreeMap, BTreeSet};

use super::roll::Roll;
use crate::id::{Digest, NodeId, OrgId};
use crate::record::{
    AREA_SHARES_MAX, AREA_WISHES_MAX, AreaBooks, AreaRecordError, AreaShares, AreaStatement,
    Ballot, BookRef, Charter, NumberedBook, Passed, Share, ShareKind,
};
use crate::rules::BOOK_LEN_MAX;

/// What an organisation is to an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// A member wants it in; it has not answered.
    Invited,
    /// It has said that it joins; more than half of the members are still to want it in.
    Asking,
    /// It is in.
    Member,
    /// It has left.
    Left,
    /// The others have put it out.
    Expelled,
}

impl Standing {
    /// The word in tables and documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invited => "invited",
            Self::Asking => "asking",
            Self::Member => "member",
            Self::Left => "left",
            Self::Expelled => "expelled",
        }
    }
}

/// The newest that one organisation has said.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Said {
    /// The node that made the statement.
    pub node: NodeId,
    /// Of members.
    pub statement: AreaStatement,
    /// Of rule books, and by which node.
    pub books: Option<(NodeId, AreaBooks)>,
    /// What each of its nodes shares.
    pub shares: BTreeMap<NodeId, AreaShares>,
}

impl Said {
    /// Whether it takes one for a member, or for one that may come in, or wants it in.
    pub(super) fn takes(&self, org: OrgId) -> bool {
        let AreaStatement { left, members, admits, .. } = &self.statement;
        let has = |list: &[OrgId]| list.binary_search(&org).is_ok();
        !left && (has(members) || has(admits))
    }

    /// Whether it wants one in itself.
    pub(super) fn wishes(&self, org: OrgId) -> bool {
        let AreaStatement { left, admits, wishes, .. } = &self.statement;
        let bit = admits.binary_search(&org).ok().and_then(|at| u32::try_from(at).ok());
        !left
            && !self.expels(org)
            && bit.is_some_and(|bit| wishes.checked_shr(bit).unwrap_or(0) & 1 == 1)
    }

    pub(super) fn expels(&self, org: OrgId) -> bool {
        !self.statement.left && self.statement.expels.binary_search(&org).is_ok()
    }
}

/// The statement number of each other organisation when this one went: what they said up to then is no new invitation.
pub type Gone = BTreeMap<OrgId, u64>;

/// An area, as one organisation takes it to be. What the others said is stored apart: see [`Self::said`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Area {
    pub(super) id: Digest,
    pub(super) charter: Charter,
    pub(super) me: OrgId,
    pub(super) standing: Standing,
    /// Of this organisation's newest statement.
    pub(super) version: u64,
    /// The hash of what was said last under that version.
    pub(super) told: Option<Digest>,
    /// What the members have agreed on; of one that is not in, what those say who want it in.
    pub(super) roll: Roll,
    /// Its number and hash.
    pub(super) here: Passed,
    /// The rolls that were held last.
    pub(super) trail: BTreeSet<Passed>,
    /// The ballot on the roll that follows the one of this hash. It outlasts that this organisation leaves and comes back: nothing
    /// is chosen twice in one round.
    pub(super) ballot: Ballot,
    pub(super) ballot_of: Option<Digest>,
    /// Of one that has gone: who is to hear of it.
    pub(super) audience: BTreeSet<OrgId>,
    pub(super) admits: BTreeSet<OrgId>,
    pub(super) expels: BTreeSet<OrgId>,
    /// The rule book in force; the one before it as long as its content is not known.
    pub(super) book: Option<NumberedBook>,
    pub(super) proposal: Option<NumberedBook>,
    pub(super) shares: BTreeMap<(ShareKind, String), Share>,
    pub(super) gone: Gone,
    #[serde(skip)]
    pub(super) said: BTreeMap<OrgId, Said>,
    /// The rolls that those hold.
    #[serde(skip)]
    pub(super) held: BTreeMap<OrgId, (Passed, Roll)>,
}

/// What a node has to say of an area, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// Its statement, and rule books: for members and those that are wanted in.
    pub statement: AreaStatement,
    /// Absent when it has left.
    pub books: Option<AreaBooks>,
    /// For members alone; absent when there is nothing.
    pub shares: Option<AreaShares>,
    /// The other members.
    pub members: BTreeSet<OrgId>,
    /// Those that are wanted in.
    pub invited: BTreeSet<OrgId>,
    /// For each of those that were put out: nothing but that it was.
    pub farewells: Vec<(OrgId, AreaStatement)>,
}

/// Why an order about an area is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AreaError {
    /// Only members may.
    #[error("this organisation is no member of area `{name}` (it stands as `{standing}`)", standing = standing.as_str())]
    NotMember {
        /// The area's name.
        name: String,
        /// What it is.
        standing: Standing,
    },
    /// Nobody has invited it.
    #[error(
        "nobody has invited this organisation to the area; a member does by `opencloud area invite`"
    )]
    NotInvited,
    /// It is a member already, or wanted in.
    #[error("this organisation wants {org} in already")]
    Wanted {
        /// Who.
        org: OrgId,
    },
    /// It is neither a member nor wanted in by this one.
    #[error("{org} is no member, and this organisation has not invited it")]
    NotThere {
        /// Who.
        org: OrgId,
    },
    /// Nobody is put out by itself.
    #[error(
        "this organisation is put out by nobody but the others: `opencloud area leave` goes by itself"
    )]
    Oneself,
    /// At a bound.
    #[error("{count} {what}, at most {max} are allowed")]
    Bound {
        /// Of what.
        what: &'static str,
        /// There would be.
        count: usize,
        /// Allowed.
        max: usize,
    },
    /// Something shared is refused.
    #[error(transparent)]
    Share(#[from] AreaRecordError),
    /// It is not shared by this node.
    #[error("this node shares no {kind} `{name}` in the area")]
    NotShared {
        /// Of which kind.
        kind: ShareKind,
        /// Its name.
        name: String,
    },
    /// There is no such proposal.
    #[error("{org} proposes no rule book that is newer than the one in force")]
    NoProposal {
        /// Who.
        org: OrgId,
    },
    /// It is in force.
    #[error("this is the rule book that is in force")]
    InForce,
}

impl Area {
    /// A new area, of which this organisation is the only member.
    #[must_use]
    pub fn found(charter: Charter, rules: Option<Vec<u8>>) -> Self {
        let me = charter.founder;
        let mut area = Self::empty(charter, me);
        area.standing = Standing::Member;
        area.roll.members.insert(me);
        area.book = rules.map(|content| NumberedBook { number: 1, content });
        area.roll.book =
            area.book.as_ref().map(|book| BookRef { number: 1, digest: book.digest() });
        area.here = area.roll.passed();
        area.trail.insert(area.here);
        area.speak();
        area
    }

    fn empty(charter: Charter, me: OrgId) -> Self {
        Self {
            id: charter.id(),
            charter,
            me,
            standing: Standing::Invited,
            version: 0,
            told: None,
            here: Roll::default().passed(),
            roll: Roll::default(),
            trail: BTreeSet::new(),
            ballot: Ballot::default(),
            ballot_of: None,
            audience: BTreeSet::new(),
            admits: BTreeSet::new(),
            expels: BTreeSet::new(),
            book: None,
            proposal: None,
            shares: BTreeMap::new(),
            gone: Gone::new(),
            said: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    /// The area as those describe it who want this organisation in; `None` when nobody does. `before` is what it was to this
    /// organisation when it went, if it was in once.
    #[must_use]
    pub fn invitation(
        charter: Charter,
        me: OrgId,
        said: BTreeMap<OrgId, Said>,
        before: Option<&Self>,
    ) -> Option<Self> {
        let mut area = Self::empty(charter, me);
        let gone = before.map(|before| &before.gone);
        let counts = |org: &OrgId, said: &Said| {
            let heard = gone.and_then(|gone| gone.get(org)).copied().unwrap_or(0);
            let is_new = gone.is_none() || said.statement.admits.binary_search(&me).is_ok();
            said.takes(me) && is_new && said.statement.version > heard
        };
        for (org, said) in said.into_iter().filter(|(org, said)| counts(org, said)) {
            area.recall(org, said);
        }
        if area.said.is_empty() {
            return None;
        }
        if let Some(before) = before {
            (area.version, area.told) = (before.version, before.told);
            area.gone = before.gone.clone();
            (area.ballot, area.ballot_of) = (before.ballot.clone(), before.ballot_of);
        }
        area.anchor();
        Some(area)
    }

    /// The area as another node of this organisation says that it is.
    #[must_use]
    pub fn follow(charter: Charter, me: OrgId, sibling: Said) -> Self {
        let mut area = Self::empty(charter, me);
        area.book = sibling.books.as_ref().and_then(|(_, books)| books.rules.clone());
        area.hear_sibling(sibling);
        area
    }

    /// This organisation joins; the others' votes decide when it is in.
    ///
    /// # Errors
    /// [`AreaError::NotInvited`].
    pub fn join(&mut self) -> Result<(), AreaError> {
        if self.standing != Standing::Invited {
            return Err(AreaError::NotInvited);
        }
        self.standing = Standing::Asking;
        self.settle();
        Ok(())
    }

    /// This organisation leaves.
    ///
    /// # Errors
    /// [`AreaError::NotMember`].
    pub fn leave(&mut self) -> Result<(), AreaError> {
        if !matches!(self.standing, Standing::Asking | Standing::Member) {
            return Err(self.not_member());
        }
        self.go(Standing::Left);
        self.speak();
        Ok(())
    }

    /// An invitation is not wanted: nothing of it is shown until somebody invites anew.
    pub fn decline(&mut self) {
        self.go(Standing::Left);
    }

    /// Forgets what the others said and what was shared here, and remembers what was heard. Members stay: they are to hear of it.
    pub(super) fn go(&mut self, standing: Standing) {
        // Who was wanted in may take itself for a member already.
        self.audience = self.roll.members.clone();
        self.audience.extend(self.admits.iter().chain(&self.roll.granted));
        self.audience.remove(&self.me);
        self.standing = standing;
        // Who lets this one in again says so with the same words that it is out.
        let invites = |said: &Said| {
            standing == Standing::Expelled && said.statement.admits.contains(&self.me)
        };
        let heard = self.said.iter().map(|(org, said)| {
            let version = said.statement.version;
            (*org, version.saturating_sub(u64::from(invites(said))))
        });
        self.gone.extend(heard);
        self.said.clear();
        self.held.clear();
        self.shares.clear();
        // Who was put out may not have heard of it, and would take this one for a member for ever.
        let audience = &self.audience;
        self.expels.retain(|org| standing == Standing::Left && !audience.contains(org));
        self.admits.clear();
        self.proposal = None;
        if standing == Standing::Expelled {
            self.book = None;
        }
    }

    fn not_member(&self) -> AreaError {
        AreaError::NotMember { name: self.charter.name.clone(), standing: self.standing }
    }

    fn check_member(&self) -> Result<(), AreaError> {
        if self.standing == Standing::Member { Ok(()) } else { Err(self.not_member()) }
    }

    /// This organisation wants another one in, or no longer out.
    ///
    /// # Errors
    /// See [`AreaError`].
    pub fn admit(&mut self, org: OrgId) -> Result<(), AreaError> {
        self.check_member()?;
        let is_member = self.roll.members.contains(&org);
        let took_back = self.expels.contains(&org);
        if (is_member && !took_back) || self.admits.contains(&org) {
            return Err(AreaError::Wanted { org });
        }
        if !is_member {
            let mut all: BTreeSet<OrgId> = self.admits.union(&self.roll.granted).copied().collect();
            all.insert(org);
            at_most("organisations wanted in", all.len(), AREA_WISHES_MAX)?;
            self.admits.insert(org);
        }
        self.expels.remove(&org);
        self.settle();
        Ok(())
    }

    /// This organisation wants a member out, or one that it invited no longer in.
    ///
    /// # Errors
    /// See [`AreaError`].
    pub fn expel(&mut self, org: OrgId) -> Result<(), AreaError> {
        self.check_member()?;
        if org == self.me {
            return Err(AreaError::Oneself);
        }
        let is_named = self.roll.members.contains(&org) || self.roll.granted.contains(&org);
        if !self.admits.remove(&org) && !is_named {
            return Err(AreaError::NotThere { org });
        }
        if is_named {
            self.put_out(org);
        }
        self.settle();
        Ok(())
    }

    /// Notes that this one is out or is to be. Of too many the first in order that is no member is forgotten.
    pub(super) fn put_out(&mut self, org: OrgId) {
        self.expels.insert(org);
        while self.expels.len() > AREA_WISHES_MAX {
            let members = &self.roll.members;
            let is_past = |found: &&OrgId| **found != org && !members.contains(*found);
            let Some(past) = self.expels.iter().find(is_past).copied() else {
                self.expels.pop_last();
                continue;
            };
            self.expels.remove(&past);
        }
    }

    /// This node shares something, or something newer under the same name.
    ///
    /// # Errors
    /// See [`AreaError`].
    pub fn share(&mut self, share: Share) -> Result<(), AreaError> {
        self.check_member()?;
        share.check()?;
        let key = (share.kind, share.name.clone());
        if !self.shares.contains_key(&key) {
            at_most("shared things of one node", self.shares.len() + 1, AREA_SHARES_MAX)?;
        }
        self.shares.insert(key, share);
        self.speak();
        Ok(())
    }

    /// This node shares something no longer.
    ///
    /// # Errors
    /// See [`AreaError`].
    pub fn unshare(&mut self, kind: ShareKind, name: &str) -> Result<Share, AreaError> {
        self.check_member()?;
        let removed = self.shares.remove(&(kind, name.to_owned()));
        let share = removed.ok_or_else(|| AreaError::NotShared { kind, name: name.to_owned() })?;
        self.speak();
        Ok(share)
    }

    pub(super) fn own_shares(&self) -> impl Iterator<Item = &Share> {
        self.shares.values()
    }

    /// This organisation wants a new rule book.
    ///
    /// # Errors
    /// See [`AreaError`].
    pub fn propose(&mut self, content: Vec<u8>) -> Result<(), AreaError> {
        self.check_member()?;
        at_most("bytes in a rule book", content.len(), BOOK_LEN_MAX)?;
        if self.book.as_ref().is_some_and(|book| book.content == content) {
            return Err(AreaError::InForce);
        }
        let number = self.book_number().saturating_add(1);
        self.proposal = Some(NumberedBook { number, content });
        self.settle();
        Ok(())
    }

    /// This organisation wants the rule book that another one wants, or holds.
    ///
    /// # Errors
    /// See [`AreaError`].
    pub fn accept(&mut self, org: OrgId) -> Result<(), AreaError> {
        self.check_member()?;
        let next = self.book_number().saturating_add(1);
        let books = self.said.get(&org).filter(|_| self.roll.members.contains(&org));
        let offered = books.and_then(|said| said.books.as_ref()?.1.proposal.clone());
        let book = offered.filter(|book| book.number == next);
        let book = book.ok_or(AreaError::NoProposal { org })?;
        self.proposal = Some(book);
        self.settle();
        Ok(())
    }
}

const fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), AreaError> {
    if count > max {
        return Err(AreaError::Bound { what, count, max });
    }
    Ok(())
}
