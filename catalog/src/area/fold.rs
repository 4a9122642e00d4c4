//! The fold over the members' statements.

use std::collections::{BTreeMap, BTreeSet};

use super::QUESTIONS_MAX;
use super::state::{Area, Said, Standing, Words};
use super::view::Question;
use crate::id::{Digest, NodeId, OrgId};
use crate::record::{
    AREA_MEMBERS_MAX, AREA_WISHES_MAX, AreaBooks, AreaPart, AreaShares, AreaStatement, NumberedBook,
};

/// Organisations whose statements are kept of one area: members, and those who ask to be. Further ones are not heard.
const SAID_MAX: usize = AREA_MEMBERS_MAX + 2 * AREA_WISHES_MAX;
/// Nodes of one organisation whose shares are kept. Further ones are not heard.
const NODES_MAX: usize = 16;
/// Rounds of taking over; each lets somebody in or puts somebody out, so more are never needed.
const ROUNDS_MAX: usize = 2 * (AREA_MEMBERS_MAX + SAID_MAX);

impl Area {
    /// Takes in what a node of an organisation says. Whether anything changed.
    pub fn hear(&mut self, (node, org): (NodeId, OrgId), part: &AreaPart) -> bool {
        let is_heard = matches!(self.standing, Standing::Asking | Standing::Member);
        if org == self.me || !is_heard {
            return false;
        }
        if let AreaPart::Statement(statement) = part {
            return self.hear_statement((node, org), statement);
        }
        let Some(said) = self.said.get_mut(&org) else { return false };
        match part {
            AreaPart::Statement(_) => false,
            AreaPart::Books(books) => {
                let known = said.books.as_ref().map(|(node, books)| (books.version, *node));
                let is_new = known.is_none_or(|known| known < (books.version, node));
                if is_new {
                    said.books = Some((node, books.clone()));
                }
                is_new
            }
            AreaPart::Shares(shares) => {
                let known = said.shares.get(&node);
                let is_new = known.is_none_or(|known| known.version < shares.version);
                if is_new && (known.is_some() || said.shares.len() < NODES_MAX) {
                    said.shares.insert(node, shares.clone());
                }
                is_new
            }
        }
    }

    /// Of one that is not in yet: the members are those whom more than half of the ones that want it in take for members.
    pub(super) fn anchor(&mut self) {
        let me = self.me;
        let mut votes: BTreeMap<OrgId, usize> = BTreeMap::new();
        let wanting = self.said.values().filter(|said| said.wants(me));
        let mut count = 0;
        for said in wanting {
            count += 1;
            for org in &said.statement.members {
                *votes.entry(*org).or_default() += 1;
            }
        }
        if count > 0 {
            let members = votes.into_iter().filter(|(org, n)| *org != me && n * 2 > count);
            self.members = members.map(|(org, _)| org).take(AREA_MEMBERS_MAX).collect();
        }
    }

    fn hear_statement(&mut self, (node, org): (NodeId, OrgId), new: &AreaStatement) -> bool {
        match self.said.get_mut(&org) {
            Some(said) => {
                if (said.statement.version, said.node) >= (new.version, node) {
                    return false;
                }
                (said.statement, said.node) = (new.clone(), node);
            }
            None => {
                let names_me = new.members.iter().chain(&new.admits).any(|org| *org == self.me);
                let is_meant = self.members.contains(&org)
                    || self.wanted().contains(&org)
                    || self.standing == Standing::Asking && names_me;
                if self.said.len() >= SAID_MAX || !is_meant {
                    return false;
                }
                let (books, shares) = (None, BTreeMap::new());
                self.said.insert(org, Said { node, statement: new.clone(), books, shares });
            }
        }
        true
    }

    /// Takes in what another node of this organisation says, if it is newer. Whether anything changed.
    pub fn hear_sibling(&mut self, sibling: Said) -> bool {
        let Said { statement, books, .. } = sibling;
        if statement.version <= self.version {
            return false;
        }
        self.version = statement.version;
        if statement.left {
            self.go(Standing::Left);
        } else {
            if !matches!(self.standing, Standing::Asking | Standing::Member) {
                self.standing = Standing::Asking;
                self.members = statement.members.iter().copied().collect();
                if self.members.contains(&self.me) {
                    self.standing = Standing::Member;
                }
            }
            let is_out = |org: &OrgId| !self.members.contains(org);
            self.admits = statement.admits.iter().copied().filter(is_out).collect();
            self.expels = statement.expels.iter().copied().collect();
            if let Some((_, books)) = books {
                self.proposal = books.proposal;
            }
        }
        self.told = Some(self.content());
        true
    }

    /// Draws the conclusions from what was heard, and says anew what has changed. Whether anything has.
    pub fn settle(&mut self) -> bool {
        let before = (self.standing, self.members.clone(), self.book.clone());
        for _ in 0..ROUNDS_MAX {
            if !matches!(self.standing, Standing::Asking | Standing::Member) || !self.round() {
                break;
            }
        }
        self.decide_book();
        let is_same = before == (self.standing, self.members.clone(), self.book.clone());
        self.forget_strangers();
        self.speak() || !is_same
    }

    /// One round: everything that is decided now, at once. False when nothing is.
    fn round(&mut self) -> bool {
        let has_left = |org: &&OrgId| self.said.get(*org).is_some_and(|said| said.statement.left);
        let left: Vec<OrgId> = self.members.iter().filter(has_left).copied().collect();
        let quiet = self.gone_unheard();
        for org in left.iter().chain(&quiet) {
            self.members.remove(org);
            self.expels.remove(org);
        }
        if self.standing == Standing::Asking {
            self.anchor();
        }
        self.note_questions();
        let questions: Vec<Question> = self.questions().into_iter().collect();
        let decided: Vec<Question> =
            questions.into_iter().filter(|question| self.is_decided(*question)).collect();
        let is_done = left.is_empty() && quiet.is_empty() && decided.is_empty();
        for question in decided {
            self.open.remove(&question);
            match question {
                Question::In(org) => {
                    if self.members.len() < AREA_MEMBERS_MAX {
                        self.members.insert(org);
                    }
                    if org == self.me {
                        self.standing = Standing::Member;
                    }
                    self.admits.remove(&org);
                    self.expels.remove(&org);
                }
                Question::Out(org) if org == self.me => {
                    self.go(Standing::Expelled);
                    return false;
                }
                Question::Out(org) => {
                    self.members.remove(&org);
                    self.put_out(org);
                }
            }
        }
        !is_done
    }

    /// Members that this one has never heard, as one that came later than they went does not, and that more than half of
    /// those it hears take for members no longer.
    fn gone_unheard(&self) -> Vec<OrgId> {
        let heard: Vec<&Said> = self
            .said
            .iter()
            .filter(|(org, said)| self.members.contains(*org) && !said.statement.left)
            .map(|(_, said)| said)
            .collect();
        let is_gone = |org: &&OrgId| {
            let names = |said: &&&Said| said.statement.members.binary_search(*org).is_ok();
            let naming = heard.iter().filter(names).count();
            **org != self.me && !self.said.contains_key(*org) && naming * 2 < heard.len()
        };
        self.members.iter().filter(is_gone).copied().collect()
    }

    /// Those who are no members, and whom a member wants in.
    fn wanted(&self) -> BTreeSet<OrgId> {
        let of_members = self.said.iter().filter(|(org, _)| self.members.contains(*org));
        let named = of_members.flat_map(|(_, said)| {
            let AreaStatement { left, members, admits, .. } = &said.statement;
            members.iter().chain(admits).filter(|_| !*left)
        });
        let all = named.chain(&self.admits).filter(|org| !self.members.contains(*org));
        all.copied().collect()
    }

    /// Who is no member and hears what this one says: whom it wants in, and whom more than half of the members do. Two who join at
    /// one moment would never hear of each other otherwise.
    fn invited(&self) -> BTreeSet<OrgId> {
        let is_let_in = |org: &OrgId| {
            let (yes, all) = self.votes(Question::In(*org));
            *org != self.me && yes.len() * 2 > all
        };
        let mut all = self.admits.clone();
        for org in self.wanted().into_iter().filter(is_let_in) {
            if all.len() < AREA_WISHES_MAX {
                all.insert(org);
            }
        }
        all
    }

    /// What is asked now.
    pub(super) fn questions(&self) -> BTreeSet<Question> {
        let mut all: BTreeSet<Question> = self.wanted().into_iter().map(Question::In).collect();
        if self.standing == Standing::Asking {
            all.insert(Question::In(self.me));
        }
        let by_others = self.said.iter().filter(|(org, _)| self.members.contains(*org));
        let named = by_others.flat_map(|(_, said)| &said.statement.expels).chain(&self.expels);
        let out = named.filter(|org| self.members.contains(*org) || **org == self.me);
        all.extend(out.map(|org| Question::Out(*org)));
        all
    }

    /// Fixes who decides about a question that is new, or one of whose deciders has gone: those who are members now.
    fn note_questions(&mut self) {
        let asked = self.questions();
        self.open.retain(|question, _| asked.contains(question));
        for question in asked {
            let now: BTreeSet<OrgId> =
                self.members.iter().filter(|org| **org != question.org()).copied().collect();
            match self.open.get(&question) {
                Some(set) if set.is_subset(&now) => {}
                None if self.open.len() >= QUESTIONS_MAX => {}
                _ => drop(self.open.insert(question, now)),
            }
        }
    }

    /// Those of the deciders who are still members and have voted for it; and all the deciders.
    pub(super) fn votes(&self, question: Question) -> (BTreeSet<OrgId>, usize) {
        let org = question.org();
        let present = || self.members.iter().filter(|member| **member != org).copied();
        let deciders = self.open.get(&question).cloned().unwrap_or_else(|| present().collect());
        let votes = |member: &OrgId| match (question, self.said.get(member)) {
            (Question::In(_), _) if *member == self.me => self.admits.contains(&org),
            (Question::Out(_), _) if *member == self.me => self.expels.contains(&org),
            (Question::In(_), Some(said)) => said.wants(org),
            (Question::Out(_), Some(said)) => said.expels(org),
            (_, None) => false,
        };
        let is_present = |member: &&OrgId| self.members.contains(*member) && **member != org;
        let yes = deciders.iter().filter(is_present).filter(|m| votes(m)).copied().collect();
        (yes, deciders.len())
    }

    fn is_decided(&self, question: Question) -> bool {
        let (yes, all) = self.votes(question);
        let has_word = |org: OrgId| {
            org == self.me || self.said.get(&org).is_some_and(|said| !said.statement.left)
        };
        let may = match question {
            Question::In(org) => has_word(org) && self.members.len() < AREA_MEMBERS_MAX,
            Question::Out(_) => true,
        };
        may && yes.len() * 2 > all
    }

    /// Takes over the rule book that more than half of the members hold or want.
    fn decide_book(&mut self) {
        if self.standing != Standing::Member {
            return;
        }
        let in_force = self.book.as_ref().map_or(0, |book| book.number);
        let found = self
            .held_books()
            .into_iter()
            .filter(|(book, by)| book.number >= in_force && by.len() * 2 > self.members.len());
        if let Some((book, _)) = found.max_by_key(|(book, _)| book.number) {
            self.book = Some(book);
        }
        let in_force = self.book.as_ref().map_or(0, |book| book.number);
        let is_past = self
            .proposal
            .as_ref()
            .is_some_and(|book| book.number < in_force || self.book.as_ref() == Some(book));
        if is_past {
            self.proposal = None;
        }
    }

    /// The rule books that members hold or want, one of each number of each member.
    pub(super) fn held_books(&self) -> BTreeMap<NumberedBook, BTreeSet<OrgId>> {
        let mut all: BTreeMap<NumberedBook, BTreeSet<OrgId>> = BTreeMap::new();
        for member in &self.members {
            let (rules, proposal) = if *member == self.me {
                (self.book.as_ref(), self.proposal.as_ref())
            } else {
                let books = self.said.get(member).and_then(|said| said.books.as_ref());
                books.map_or((None, None), |(_, b)| (b.rules.as_ref(), b.proposal.as_ref()))
            };
            let is_other = |book: &&NumberedBook| proposal.is_none_or(|p| p.number != book.number);
            for book in proposal.into_iter().chain(rules.filter(is_other)) {
                all.entry(book.clone()).or_default().insert(*member);
            }
        }
        all
    }

    /// What those say who are neither members nor wanted in is not kept.
    fn forget_strangers(&mut self) {
        if matches!(self.standing, Standing::Asking | Standing::Member) {
            let wanted = self.wanted();
            let members = &self.members;
            let (me, is_asking) = (self.me, self.standing == Standing::Asking);
            self.said.retain(|org, said| {
                members.contains(org) || wanted.contains(org) || is_asking && said.wants(me)
            });
        }
    }

    /// The hash of what this organisation says.
    fn content(&self) -> Digest {
        let words = self.said_now(0);
        let mut bytes = Vec::new();
        for book in words.1.rules.iter().chain(&words.1.proposal) {
            bytes.extend_from_slice(book.digest().as_bytes());
            bytes.extend_from_slice(&book.number.to_be_bytes());
        }
        bytes.extend_from_slice(&words.0.to_map().encode());
        bytes.extend_from_slice(&words.2.to_map().encode());
        // Who hears it is part of it: else it would not be said again to more.
        for org in self.invited() {
            bytes.extend_from_slice(org.as_bytes());
        }
        Digest::of(&bytes)
    }

    /// Numbers what is said, when it is not what was said last. Whether it is not.
    pub(super) fn speak(&mut self) -> bool {
        let is_silent = matches!(self.standing, Standing::Invited | Standing::Expelled);
        if is_silent || self.is_declined() && self.standing == Standing::Left {
            return false;
        }
        let content = self.content();
        if self.told == Some(content) {
            return false;
        }
        self.told = Some(content);
        self.version = self.version.saturating_add(1);
        true
    }

    fn said_now(&self, version: u64) -> (AreaStatement, AreaBooks, AreaShares) {
        let list = |set: &BTreeSet<OrgId>| set.iter().copied().collect();
        let statement = AreaStatement {
            version,
            charter: self.charter.clone(),
            left: self.standing == Standing::Left,
            members: list(&self.members),
            admits: list(&self.admits),
            expels: list(&self.expels),
        };
        let (rules, proposal) = (self.book.clone(), self.proposal.clone());
        let items = self.shares.values().cloned().collect();
        (statement, AreaBooks { version, rules, proposal }, AreaShares { version, items })
    }

    /// What this node has to say; nothing of an area that it was only invited to, or was put out of.
    #[must_use]
    pub fn words(&self) -> Option<Words> {
        let is_silent = matches!(self.standing, Standing::Invited | Standing::Expelled);
        if is_silent || self.version == 0 {
            return None;
        }
        let (mut statement, books, shares) = self.said_now(self.version);
        let mut members = self.members.clone();
        members.remove(&self.me);
        if self.standing == Standing::Left {
            statement.members.clear();
            statement.admits.clear();
            statement.expels.clear();
            let invited = BTreeSet::new();
            let farewells = self.expels.iter().map(|org| (*org, statement.clone())).collect();
            return Some(Words {
                statement,
                books: None,
                shares: None,
                members,
                invited,
                farewells,
            });
        }
        let past = self.expels.difference(&self.members);
        let farewell = |org: &OrgId| {
            let (members, admits, expels) = (Vec::new(), Vec::new(), vec![*org]);
            (*org, AreaStatement { members, admits, expels, ..statement.clone() })
        };
        let farewells = past.map(farewell).collect();
        Some(Words {
            statement,
            books: Some(books),
            shares: Some(shares).filter(|shares| !shares.items.is_empty()),
            members,
            invited: self.invited(),
            farewells,
        })
    }
}
