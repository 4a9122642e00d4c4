//! An area as one organisation holds it, and the orders of its owner.

use std::collections::{BTreeMap, BTreeSet};

use super::view::Question;
use crate::id::{Digest, NodeId, OrgId};
use crate::record::{
    AREA_SHARES_MAX, AREA_WISHES_MAX, AreaBooks, AreaRecordError, AreaShares, AreaStatement,
    Charter, NumberedBook, Share, ShareKind,
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
    pub(super) fn wants(&self, org: OrgId) -> bool {
        let AreaStatement { left, members, admits, expels, .. } = &self.statement;
        let has = |list: &[OrgId]| list.binary_search(&org).is_ok();
        !left && !has(expels) && (has(members) || has(admits))
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
    /// This organisation among them once it is in.
    pub(super) members: BTreeSet<OrgId>,
    pub(super) admits: BTreeSet<OrgId>,
    pub(super) expels: BTreeSet<OrgId>,
    /// Who decides about what.
    pub(super) open: BTreeMap<Question, BTreeSet<OrgId>>,
    pub(super) book: Option<NumberedBook>,
    pub(super) proposal: Option<NumberedBook>,
    pub(super) shares: BTreeMap<(ShareKind, String), Share>,
    pub(super) gone: Gone,
    #[serde(skip)]
    pub(super) said: BTreeMap<OrgId, Said>,
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
        area.members.insert(me);
        area.book = rules.map(|content| NumberedBook { number: 1, content });
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
            members: BTreeSet::new(),
            admits: BTreeSet::new(),
            expels: BTreeSet::new(),
            open: BTreeMap::new(),
            book: None,
            proposal: None,
            shares: BTreeMap::new(),
            gone: Gone::new(),
            said: BTreeMap::new(),
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
            said.wants(me) && is_new && said.statement.version > heard
        };
        area.said = said.into_iter().filter(|(org, said)| counts(org, said)).collect();
        if area.said.is_empty() {
            return None;
        }
        if let Some(before) = before {
            (area.version, area.told) = (before.version, before.told);
            area.gone = before.gone.clone();
        }
        area.anchor();
        let mut books: BTreeMap<&NumberedBook, usize> = BTreeMap::new();
        for book in area.said.values().filter_map(|said| said.books.as_ref()?.1.rules.as_ref()) {
            *books.entry(book).or_default() += 1;
        }
        let most = books.into_iter().max_by_key(|(book, votes)| (*votes, book.number));
        area.book = most.map(|(book, _)| book.clone());
        Some(area)
    }

    /// The area as another node of this organisation says that it is.
    #[must_use]
    pub fn follow(charter: Charter, me: OrgId, sibling: Said) -> Self {
        let mut area = Self::empty(charter, me);
        area.members = sibling.statement.members.iter().copied().collect();
        area.book = sibling.books.as_ref().and_then(|(_, books)| books.rules.clone());
        let is_in = area.members.contains(&me);
        area.standing = if is_in { Standing::Member } else { Standing::Asking };
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
        self.standing = standing;
        self.gone.extend(self.said.iter().map(|(org, said)| (*org, said.statement.version)));
        self.said.clear();
        self.open.clear();
        self.shares.clear();
        // Who was put out may not have heard of it, and would take this one for a member for ever.
        let is_past = |org: &OrgId| standing == Standing::Left && !self.members.contains(org);
        self.expels.retain(is_past);
        // Who was wanted in may take itself for a member already.
        self.members.append(&mut self.admits);
        self.proposal = None;
        self.members.remove(&self.me);
        if standing == Standing::Expelled {
            self.members.clear();
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
        let is_member = self.members.contains(&org);
        let took_back = self.expels.contains(&org);
        if (is_member && !took_back) || self.admits.contains(&org) {
            return Err(AreaError::Wanted { org });
        }
        if !is_member {
            at_most("organisations wanted in", self.admits.len() + 1, AREA_WISHES_MAX)?;
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
        if !self.admits.remove(&org) {
            if !self.members.contains(&org) {
                return Err(AreaError::NotThere { org });
            }
            self.put_out(org);
        }
        self.settle();
        Ok(())
    }

    /// Notes that this one is out or is to be. Of too many the first in order that is no member is forgotten.
    pub(super) fn put_out(&mut self, org: OrgId) {
        self.expels.insert(org);
        while self.expels.len() > AREA_WISHES_MAX {
            let is_past = |found: &&OrgId| **found != org && !self.members.contains(*found);
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
        let number = self.book.as_ref().map_or(0, |book| book.number).saturating_add(1);
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
        let in_force = self.book.as_ref().map_or(0, |book| book.number);
        let books = self.said.get(&org).filter(|_| self.members.contains(&org));
        let books = books.and_then(|said| said.books.as_ref());
        let offered = books.into_iter().flat_map(|(_, b)| b.proposal.iter().chain(&b.rules));
        // A book under the number in force is one for which another majority may be found.
        let newer = offered.filter(|book| {
            book.number > in_force || book.number == in_force && self.book.as_ref() != Some(*book)
        });
        let book = newer.max().cloned().ok_or(AreaError::NoProposal { org })?;
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
