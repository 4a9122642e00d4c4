//! The fold over the members' statements.

use std::collections::{BTreeMap, BTreeSet};

use super::roll::{Roll, mask};
use super::state::{Area, Said, Standing, Words};
use super::view::Question;
use crate::id::{Digest, NodeId, OrgId};
use crate::record::{
    AREA_MEMBERS_MAX, AREA_WISHES_MAX, AreaBooks, AreaPart, AreaShares, AreaStatement, Ballot,
    BookRef, NumberedBook, Passed, TRAIL_MAX,
};

/// Organisations whose statements are kept of one area: members, and those who ask to be. Further ones are not heard.
const SAID_MAX: usize = AREA_MEMBERS_MAX + 2 * AREA_WISHES_MAX;
/// Nodes of one organisation whose shares are kept. Further ones are not heard.
const NODES_MAX: usize = 16;
/// Steps that follow from each other at once: rolls that are passed, and ballots on them. What is left follows from what is heard
/// next.
const STEPS_MAX: usize = 4 * (AREA_MEMBERS_MAX + SAID_MAX);

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

    /// Of one that is not in yet: the roll is the one that most of those hold who want it in. Whether it is in by that.
    pub(super) fn anchor(&mut self) -> bool {
        let me = self.me;
        let mut votes: BTreeMap<Passed, (usize, Roll)> = BTreeMap::new();
        for (org, _) in self.said.iter().filter(|(_, said)| said.takes(me)) {
            // Those who ask themselves know of no roll but by others.
            if let Some((key, roll)) = self.held.get(org).filter(|(_, r)| r.members.contains(org)) {
                votes.entry(*key).or_insert_with(|| (0, roll.clone())).0 += 1;
            }
        }
        let most = votes.into_iter().max_by_key(|(key, (votes, _))| (*votes, *key));
        if let Some((key, (_, roll))) = most {
            (self.roll, self.here) = (roll, key);
            self.find_book();
        }
        let is_in = self.standing == Standing::Asking && self.roll.members.contains(&me);
        if is_in {
            self.standing = Standing::Member;
            self.trail = BTreeSet::from([self.here]);
            self.tidy(&Roll::default());
        }
        is_in
    }

    /// Keeps at hand which roll one holds.
    pub(super) fn note_roll(&mut self, org: OrgId) {
        match self.said.get(&org).and_then(|said| Roll::of(&said.statement)) {
            Some(roll) => drop(self.held.insert(org, (roll.passed(), roll))),
            None => drop(self.held.remove(&org)),
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
                // Of one that has left this would be forgotten at once, and be new each time that it is heard.
                let names_me =
                    !new.left && new.members.iter().chain(&new.admits).any(|org| *org == self.me);
                let is_meant = self.roll.members.contains(&org)
                    || self.wanted().contains(&org)
                    || self.standing == Standing::Asking && names_me;
                if self.said.len() >= SAID_MAX || !is_meant {
                    return false;
                }
                let (books, shares) = (None, BTreeMap::new());
                self.said.insert(org, Said { node, statement: new.clone(), books, shares });
            }
        }
        self.note_roll(org);
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
            self.follow_roll(&statement);
            let is_out = |org: &&OrgId| !self.roll.members.contains(*org);
            self.admits = wished(&statement).iter().filter(is_out).copied().collect();
            self.expels = statement.expels.iter().copied().collect();
            if let Some((_, books)) = books {
                self.proposal = books.proposal;
            }
        }
        self.told = Some(self.content());
        true
    }

    /// Takes over the roll and the ballot of another node of this organisation.
    fn follow_roll(&mut self, statement: &AreaStatement) {
        let Some(roll) = Roll::of(statement) else { return };
        if !self.is_live() {
            self.standing = Standing::Asking;
            self.roll = Roll::default();
            self.here = self.roll.passed();
        }
        let there = roll.passed();
        if there.number > self.here.number || self.standing == Standing::Asking {
            self.take_roll(roll);
        }
        if self.standing == Standing::Asking && self.roll.members.contains(&self.me) {
            self.standing = Standing::Member;
        }
        let own = self.ballot();
        let new = statement.ballot.clone().unwrap_or_default();
        if there == self.here && (own.round, own.choice.is_some()) < (new.round, true) {
            (self.ballot, self.ballot_of) = (new, Some(there.digest));
        }
    }

    /// Draws the conclusions from what was heard, and says anew what has changed. Whether anything has.
    pub fn settle(&mut self) -> bool {
        let before = (self.standing, self.roll.clone(), self.book.clone());
        for _ in 0..STEPS_MAX {
            let goes_on = match self.standing {
                Standing::Asking => self.anchor(),
                Standing::Member => self.step(),
                Standing::Invited | Standing::Left | Standing::Expelled => false,
            };
            if !goes_on {
                break;
            }
        }
        if self.is_live() {
            self.find_book();
        }
        let is_same = before == (self.standing, self.roll.clone(), self.book.clone());
        self.forget_strangers();
        self.speak() || !is_same
    }

    /// One step of a member. False when there is nothing to do.
    fn step(&mut self) -> bool {
        if let Some(roll) = self.passed() {
            if roll.members.contains(&self.me) {
                self.take_roll(roll);
            } else {
                self.go(Standing::Expelled);
            }
            return true;
        }
        if self.is_put_out() {
            self.go(Standing::Expelled);
            return true;
        }
        self.vote()
    }

    /// Holds another roll.
    fn take_roll(&mut self, roll: Roll) {
        self.here = roll.passed();
        let old = std::mem::replace(&mut self.roll, roll);
        self.trail.insert(self.here);
        while self.trail.len() > TRAIL_MAX {
            self.trail.pop_first();
        }
        self.find_book();
        self.tidy(&old);
    }

    /// Forgets the votes that the roll has made past, and notes who was put out.
    fn tidy(&mut self, old: &Roll) {
        let Roll { members, granted, .. } = self.roll.clone();
        let is_dropped = |org: &OrgId| old.granted.contains(org) && !granted.contains(org);
        self.admits.retain(|org| !members.contains(org) && !is_dropped(org));
        while self.admits.union(&granted).count() > AREA_WISHES_MAX {
            let last = self.admits.difference(&granted).last().copied();
            last.map(|org| self.admits.remove(&org));
        }
        for org in members.difference(&old.members).chain(granted.difference(&old.granted)) {
            // Of those let in a vote against stays a vote.
            if !old.granted.contains(org) {
                self.expels.remove(org);
            }
        }
        for org in old.members.difference(&members) {
            if self.has_left(*org) {
                self.expels.remove(org);
            } else {
                self.put_out(*org);
            }
        }
        let number = self.book_number();
        if self.proposal.as_ref().is_some_and(|book| book.number <= number) {
            self.proposal = None;
        }
    }

    /// The number of the rule book in force.
    pub(super) fn book_number(&self) -> u64 {
        self.roll.book.as_ref().map_or(0, |book| book.number)
    }

    /// Finds the rule book in force among what is known. The one before holds until it is.
    fn find_book(&mut self) {
        let Some(BookRef { number, digest }) = self.roll.book.clone() else {
            self.book = None;
            return;
        };
        let told = self.said.values().filter_map(|said| said.books.as_ref());
        let told = told.flat_map(|(_, books)| books.rules.iter().chain(&books.proposal));
        let mut known = self.book.iter().chain(&self.proposal).chain(told);
        if let Some(content) = known.find(|book| book.digest() == digest).map(|b| b.content.clone())
        {
            self.book = Some(NumberedBook { number, content });
        }
    }

    /// Those who are no members, and whom a member wants in.
    pub(super) fn wanted(&self) -> BTreeSet<OrgId> {
        let voters = self.voters();
        let of_voters = self.said.iter().filter(|(org, _)| voters.contains(*org));
        let named = of_voters.flat_map(|(_, said)| wished(&said.statement));
        let mut all: BTreeSet<OrgId> = named.collect();
        all.extend(self.admits.iter().chain(&self.roll.granted));
        all.retain(|org| !self.roll.members.contains(org));
        all
    }

    /// Who is no member and hears what this one says: whom it wants in, and who is let in.
    fn invited(&self) -> BTreeSet<OrgId> {
        let all = self.admits.union(&self.roll.granted).copied();
        all.filter(|org| *org != self.me).take(AREA_WISHES_MAX).collect()
    }

    /// What is asked now.
    pub(super) fn questions(&self) -> BTreeSet<Question> {
        let mut all: BTreeSet<Question> = self.wanted().into_iter().map(Question::In).collect();
        if self.standing == Standing::Asking {
            all.insert(Question::In(self.me));
        }
        let out = self.roll.members.iter().filter(|org| !self.expelling(**org).is_empty());
        all.extend(out.map(|org| Question::Out(*org)));
        all
    }

    /// Those who have voted for it, and how many votes decide it.
    pub(super) fn votes(&self, question: Question) -> (BTreeSet<OrgId>, usize) {
        let voters = self.voters();
        match question {
            Question::In(org) if self.roll.granted.contains(&org) => {
                let by = self.wishing(org);
                let needed = by.len();
                (by, needed)
            }
            Question::In(org) => (self.wishing(org), voters.len() / 2 + 1),
            Question::Out(org) => {
                let others = voters.iter().filter(|voter| **voter != org).count();
                (self.expelling(org), others / 2 + 1)
            }
        }
    }

    /// The rule books that members hold or want, one of each number of each member.
    pub(super) fn held_books(&self) -> BTreeMap<NumberedBook, BTreeSet<OrgId>> {
        let mut all: BTreeMap<NumberedBook, BTreeSet<OrgId>> = BTreeMap::new();
        for member in self.voters() {
            let proposal = if member == self.me {
                self.proposal.as_ref()
            } else {
                let books = self.said.get(&member).and_then(|said| said.books.as_ref());
                books.and_then(|(_, books)| books.proposal.as_ref())
            };
            if let Some(book) = proposal {
                all.entry(book.clone()).or_default().insert(member);
            }
        }
        all
    }

    /// What those say who are neither members nor wanted in is not kept.
    fn forget_strangers(&mut self) {
        if matches!(self.standing, Standing::Asking | Standing::Member) {
            let wanted = self.wanted();
            let members = &self.roll.members;
            let (me, is_asking) = (self.me, self.standing == Standing::Asking);
            self.said.retain(|org, said| {
                members.contains(org) || wanted.contains(org) || is_asking && said.takes(me)
            });
            let said = &self.said;
            self.held.retain(|org, _| said.contains_key(org));
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
        for passed in &words.1.trail {
            bytes.extend_from_slice(passed.digest.as_bytes());
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
        let is_declined = self.is_declined() && !self.is_live();
        if self.standing == Standing::Invited || is_declined {
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
        let admits: BTreeSet<OrgId> = self.admits.union(&self.roll.granted).copied().collect();
        let ballot = self.ballot();
        let statement = AreaStatement {
            version,
            charter: self.charter.clone(),
            left: !self.is_live(),
            members: list(&self.roll.members),
            granted: mask(&admits, |org| self.roll.granted.contains(org)),
            wishes: mask(&admits, |org| self.admits.contains(org)),
            admits: list(&admits),
            expels: list(&self.expels),
            number: self.roll.number,
            book: self.roll.book.clone(),
            ballot: Some(ballot).filter(|ballot| *ballot != Ballot::default()),
        };
        let (rules, proposal) = (self.book.clone(), self.proposal.clone());
        let trail = self.trail.iter().copied().collect();
        let items = self.shares.values().cloned().collect();
        let books = AreaBooks { version, rules, proposal, trail };
        (statement, books, AreaShares { version, items })
    }

    /// What this node has to say; nothing of an area that it was only invited to.
    #[must_use]
    pub fn words(&self) -> Option<Words> {
        if self.standing == Standing::Invited || self.version == 0 {
            return None;
        }
        let (mut statement, mut books, shares) = self.said_now(self.version);
        let farewell = |(org, expels): (&OrgId, Vec<OrgId>)| {
            let words = AreaStatement {
                members: Vec::new(),
                admits: Vec::new(),
                granted: 0,
                wishes: 0,
                book: None,
                ballot: None,
                expels,
                ..statement.clone()
            };
            (*org, words)
        };
        let past = self.expels.iter().filter(|org| !self.hears(org));
        if self.is_live() {
            let farewells = past.map(|org| farewell((org, vec![*org]))).collect();
            let mut members = self.roll.members.clone();
            members.remove(&self.me);
            let (books, invited) = (Some(books), self.invited());
            let shares = Some(shares).filter(|shares| !shares.items.is_empty());
            return Some(Words { statement, books, shares, members, invited, farewells });
        }
        // The last words are what it held, so that those who were away find their way, and nothing that it wants.
        let farewells = past.map(|org| farewell((org, Vec::new()))).collect();
        statement.expels.clear();
        (books.rules, books.proposal) = (None, None);
        let (members, invited) = (self.audience.clone(), BTreeSet::new());
        Some(Words { statement, books: Some(books), shares: None, members, invited, farewells })
    }

    /// Whether one hears more than that it was put out.
    fn hears(&self, org: &OrgId) -> bool {
        if self.is_live() {
            return self.roll.members.contains(org) || self.invited().contains(org);
        }
        self.audience.contains(org)
    }
}

/// Whom the author of a statement wants in.
fn wished(statement: &AreaStatement) -> Vec<OrgId> {
    let AreaStatement { admits, wishes, .. } = statement;
    let bits = admits.iter().zip(0u32..64).filter(|(_, bit)| wishes >> bit & 1 == 1);
    bits.map(|(org, _)| *org).collect()
}
