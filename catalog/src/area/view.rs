//! What an area looks like to its member.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{Area, Said, Standing};
use crate::id::{Digest, NodeId, OrgId};
use crate::record::{Charter, NumberedBook, Share};

/// Something about which members decide.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Question {
    /// Whether an organisation comes in.
    In(OrgId),
    /// Whether a member goes.
    Out(OrgId),
}

impl Question {
    /// About whom.
    #[must_use]
    pub const fn org(self) -> OrgId {
        match self {
            Self::In(org) | Self::Out(org) => org,
        }
    }
}

/// A question, and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuestionView {
    /// It.
    pub question: Question,
    /// Who wants it.
    pub by: BTreeSet<OrgId>,
    /// Votes that decide it.
    pub needed: usize,
    /// Of one that is wanted in: whether it has said that it joins.
    pub joined: bool,
}

/// A rule book that members hold or want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// It.
    pub book: NumberedBook,
    /// Who.
    pub by: BTreeSet<OrgId>,
    /// Members that decide for it.
    pub needed: usize,
}

impl Area {
    /// Its id.
    #[must_use]
    pub const fn id(&self) -> Digest {
        self.id
    }

    /// What is fixed about it.
    #[must_use]
    pub const fn charter(&self) -> &Charter {
        &self.charter
    }

    /// What this organisation is to it.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether others see statements of this organisation, and it theirs.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.standing, Standing::Asking | Standing::Member)
    }

    /// Whether this organisation did not want to be in, and never said anything.
    #[must_use]
    pub const fn is_declined(&self) -> bool {
        self.version == 0
    }

    /// The members, this organisation among them if it is one; of an area that it left, who is to hear of that.
    #[must_use]
    pub fn members(&self) -> &BTreeSet<OrgId> {
        static NONE: BTreeSet<OrgId> = BTreeSet::new();
        match self.standing {
            Standing::Invited | Standing::Asking | Standing::Member => &self.roll.members,
            Standing::Left => &self.audience,
            Standing::Expelled => &NONE,
        }
    }

    /// What others said last, by organisation; to be stored beside this, and given back by [`Self::recall`].
    #[must_use]
    pub const fn said(&self) -> &BTreeMap<OrgId, Said> {
        &self.said
    }

    /// Gives back what an organisation said.
    pub fn recall(&mut self, org: OrgId, said: Said) {
        self.said.insert(org, said);
        self.note_roll(org);
    }

    /// The rule book in force.
    #[must_use]
    pub const fn book(&self) -> Option<&NumberedBook> {
        self.book.as_ref()
    }

    /// The rule books that members want in place of the one in force.
    #[must_use]
    pub fn proposals(&self) -> Vec<Holding> {
        let needed = self.voters().len() / 2 + 1;
        let all = self.held_books().into_iter().map(|(book, by)| Holding { book, by, needed });
        all.filter(|holding| holding.book.number > self.book_number()).collect()
    }

    /// The questions that are open.
    #[must_use]
    pub fn open_questions(&self) -> Vec<QuestionView> {
        let view = |question| {
            let (by, needed) = self.votes(question);
            let said = self.said.get(&question.org());
            let joined = said.is_some_and(|said| !said.statement.left) || question.org() == self.me;
            QuestionView { question, by, needed, joined }
        };
        let is_voted = |view: &QuestionView| {
            let org = view.question.org();
            !view.by.is_empty() || org == self.me || self.roll.granted.contains(&org)
        };
        self.questions().into_iter().map(view).filter(is_voted).collect()
    }

    /// What this node shares, and what the nodes of other members share. Nothing unless this organisation is a member.
    pub fn shared(&self, me: NodeId) -> impl Iterator<Item = (OrgId, NodeId, &Share)> {
        let is_member = self.standing == Standing::Member;
        let own = self.own_shares().map(move |share| (self.me, me, share));
        let members = self.said.iter().filter(|(org, _)| self.roll.members.contains(*org));
        let others = members.flat_map(|(org, said)| {
            said.shares
                .iter()
                .flat_map(|(node, shares)| shares.items.iter().map(|share| (*org, *node, share)))
        });
        own.chain(others).filter(move |_| is_member)
    }
}
