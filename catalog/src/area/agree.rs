//! How the members agree on the next roll: what is asked for, the ballots of each round, and when a roll is passed.

use std::collections::{BTreeMap, BTreeSet};

use super::roll::{Roll, mask};
use super::state::Area;
use crate::id::{Digest, OrgId};
use crate::record::{
    AREA_MEMBERS_MAX, AREA_WISHES_MAX, Accepted, AreaStatement, Ballot, LETS_MAX, Passed,
    RollChange,
};

/// How far the round of another may be ahead. A ballot that is further is not looked at: no honest one is.
const AHEAD_MAX: u64 = 1 << 10;

impl Area {
    /// Whether a member has said that it left.
    pub(super) fn has_left(&self, org: OrgId) -> bool {
        org != self.me && self.said.get(&org).is_some_and(|said| said.statement.left)
    }

    /// The members that have not said that they left: those who decide.
    pub(super) fn voters(&self) -> BTreeSet<OrgId> {
        self.roll.members.iter().copied().filter(|org| !self.has_left(*org)).collect()
    }

    /// The voters who want something of those outside.
    pub(super) fn wishing(&self, org: OrgId) -> BTreeSet<OrgId> {
        let wants = |voter: &OrgId| {
            if *voter == self.me {
                return self.admits.contains(&org);
            }
            self.said.get(voter).is_some_and(|said| said.wishes(org))
        };
        self.voters().into_iter().filter(wants).collect()
    }

    /// The voters who want one out.
    pub(super) fn expelling(&self, org: OrgId) -> BTreeSet<OrgId> {
        let wants = |voter: &OrgId| {
            if *voter == self.me {
                return self.expels.contains(&org);
            }
            self.said.get(voter).is_some_and(|said| said.expels(org))
        };
        self.voters().into_iter().filter(|voter| *voter != org).filter(wants).collect()
    }

    /// Everything that more than half of the voters want now, or that follows from somebody's own word.
    fn justified(&self) -> RollChange {
        let roll = &self.roll;
        let voters = self.voters();
        let is_most = |by: &BTreeSet<OrgId>| by.len() * 2 > voters.len();
        let is_outside = |org: &OrgId| !roll.members.contains(org) && !roll.granted.contains(org);
        let lets = self.wanted().into_iter().filter(is_outside);
        let lets = lets.filter(|org| is_most(&self.wishing(*org))).collect();
        // Who stands on the roll that it holds, as one that has not heard that it is out, has not asked to come in.
        let has_word = |org: &OrgId| {
            let is_outside = |(_, r): &(Passed, Roll)| !r.members.contains(org);
            let is_here = self.said.get(org).is_some_and(|said| !said.statement.left);
            is_here && self.held.get(org).is_some_and(is_outside)
        };
        RollChange {
            lets,
            ins: mask(&roll.granted, has_word),
            drops: mask(&roll.granted, |org| is_most(&self.expelling(*org))),
            outs: mask(&roll.members, |org| self.goes(*org, &voters)),
            book: self.wanted_book(&voters),
        }
    }

    /// Whether a member has left, or is wanted out by more than half of the others. Of one that was never heard, as one that came
    /// later than it left does not, those decide who may have heard it.
    fn goes(&self, org: OrgId, voters: &BTreeSet<OrgId>) -> bool {
        if self.has_left(org) {
            return true;
        }
        let mut by = self.expelling(org);
        let mut others = voters.len().saturating_sub(1);
        if org != self.me && !self.said.contains_key(&org) {
            let here = self.here;
            by.extend(voters.iter().filter(|voter| {
                let ballot = self.ballot_at(**voter, here);
                let choice = ballot.and_then(|ballot| ballot.choice.as_ref());
                choice.is_some_and(|change| self.roll.puts_out(change, org))
            }));
            others = others.saturating_sub(usize::from(!by.contains(&self.me)));
        }
        by.len() * 2 > others
    }

    /// The next rule book that more than half of the voters want.
    fn wanted_book(&self, voters: &BTreeSet<OrgId>) -> Option<Digest> {
        let mut votes: BTreeMap<Digest, usize> = BTreeMap::new();
        for (book, by) in self.held_books() {
            if book.number == self.book_number().saturating_add(1) {
                *votes.entry(book.digest()).or_default() += by.len();
            }
        }
        votes.into_iter().find(|(_, n)| n * 2 > voters.len()).map(|(digest, _)| digest)
    }

    /// What is justified, as far as one roll has room for it.
    fn wanted_change(&self) -> Option<RollChange> {
        let mut change = self.justified();
        let roll = &self.roll;
        change.lets.truncate(LETS_MAX.min(AREA_WISHES_MAX.saturating_sub(roll.granted.len())));
        // Nobody is left when all put each other out: the last in order stays.
        if change.outs.count_ones() as usize >= roll.members.len() && change.ins == 0 {
            change.outs &= !(1 << (roll.members.len().saturating_sub(1)));
        }
        let staying = roll.members.len().saturating_sub(change.outs.count_ones() as usize);
        let mut room = AREA_MEMBERS_MAX.saturating_sub(staying);
        change.ins &= !change.drops;
        change.ins = (0..64).map(|bit| change.ins & (1 << bit)).filter(|bit| *bit != 0).fold(
            0,
            |ins, bit| {
                let fits = room > 0;
                room = room.saturating_sub(1);
                if fits { ins | bit } else { ins }
            },
        );
        roll.next(&change).map(|_| change)
    }

    /// Whether this member may choose what another one has accepted: it would want every part of it by itself.
    fn would_choose(&self, change: &RollChange) -> bool {
        let now = self.justified();
        let RollChange { lets, ins, drops, outs, book } = change;
        lets.iter().all(|org| now.lets.contains(org))
            && *ins & !now.ins == 0
            && *drops & !now.drops == 0
            && *outs & !now.outs == 0
            && (book.is_none() || *book == now.book)
    }

    /// The ballot about the roll that follows this one.
    pub(super) fn ballot(&self) -> Ballot {
        let is_now = self.ballot_of == Some(self.here.digest);
        if is_now { self.ballot.clone() } else { Ballot::default() }
    }

    /// The ballots of the other members that hold the same roll, those who have left among them.
    fn ballots(&self, round: u64) -> BTreeMap<OrgId, Ballot> {
        let here = self.here;
        let others = self.roll.members.iter().filter(|org| **org != self.me);
        let found = others.filter_map(|org| {
            let said = self.said.get(org)?;
            let is_here = self.held.get(org).is_some_and(|(key, _)| *key == here);
            is_here.then(|| (*org, said.statement.ballot.clone().unwrap_or_default()))
        });
        found.filter(|(_, ballot)| ballot.round <= round.saturating_add(AHEAD_MAX)).collect()
    }

    /// One step of this member's own ballot. Whether it changed.
    pub(super) fn vote(&mut self) -> bool {
        let before = self.ballot();
        let mut own = before.clone();
        let seen = self.ballots(own.round);
        let top = seen.values().map(|ballot| ballot.round).max().unwrap_or(0);
        if top > own.round {
            (own.round, own.choice) = (top, None);
        }
        if own.choice.is_none() {
            own.choice = self.choose(&own, &seen);
        }
        if let Some(change) = own.choice.clone() {
            self.count(&mut own, &seen, change);
        }
        if own == before {
            return false;
        }
        (self.ballot, self.ballot_of) = (own, Some(self.here.digest));
        true
    }

    /// Accepts the own choice once more than half have made it, or goes on to the next round when they chose differently.
    fn count(&self, own: &mut Ballot, seen: &BTreeMap<OrgId, Ballot>, change: RollChange) {
        let round = own.round;
        if own.accepted.as_ref().is_some_and(|accepted| accepted.round == round) {
            return;
        }
        let here = seen.iter().filter(|(_, ballot)| ballot.round == round);
        let choices: BTreeMap<OrgId, &RollChange> =
            here.filter_map(|(org, ballot)| Some((*org, ballot.choice.as_ref()?))).collect();
        // Who left without a choice in this round will never make one.
        let counts = |org: &OrgId| {
            let is_past = seen.get(org).is_some_and(|ballot| ballot.round > round);
            !self.has_left(*org) || choices.contains_key(org) || is_past
        };
        let deciding = self.deciding(own, &change);
        let all = deciding.iter().filter(|org| counts(org)).count();
        let same = choices.values().filter(|choice| ***choice == change).count() + 1;
        if same * 2 > all {
            own.accepted = Some(Accepted { round, change });
        } else if (choices.len() + 1) * 2 > all && same <= choices.len() {
            (own.round, own.choice) = (round.saturating_add(1), None);
        }
    }

    /// Who decides on a change: the members. Of two, one alone puts the other out, unless it has accepted something else.
    fn deciding(&self, own: &Ballot, change: &RollChange) -> BTreeSet<OrgId> {
        let members = &self.roll.members;
        let is_free = own.accepted.as_ref().is_none_or(|accepted| accepted.change == *change);
        let staying: BTreeSet<OrgId> =
            members.iter().copied().filter(|org| !self.roll.puts_out(change, *org)).collect();
        if members.len() == 2 && staying.len() == 1 && is_free { staying } else { members.clone() }
    }

    /// What this member chooses in a round: what may have been passed in an earlier one, or else everything that is justified.
    fn choose(&self, own: &Ballot, seen: &BTreeMap<OrgId, Ballot>) -> Option<RollChange> {
        let voters = self.voters();
        let is_read =
            |org: &OrgId, ballot: &Ballot| self.has_left(*org) || ballot.round >= own.round;
        let read = || seen.iter().filter(|(org, ballot)| is_read(org, ballot));
        let here: BTreeSet<OrgId> = read().map(|(org, _)| *org).chain([self.me]).collect();
        let unread = voters.difference(&here).count();
        if own.round > 0 && unread * 2 >= voters.len() {
            return None;
        }
        let accepted = read().map(|(_, ballot)| ballot).chain([own]);
        let accepted: Vec<&Accepted> = accepted.filter_map(|b| b.accepted.as_ref()).collect();
        if let Some(last) = accepted.iter().max().filter(|_| own.round > 0) {
            let by = accepted.iter().filter(|found| *found == last).count();
            let counts = |org: &&OrgId| {
                let is_there = |ballot: &Ballot| {
                    ballot.round > last.round
                        || ballot.accepted.as_ref().is_some_and(|a| a.round == last.round)
                };
                !self.has_left(**org) || seen.get(*org).is_some_and(is_there)
            };
            let all = self.roll.members.iter().filter(counts).count();
            if (by + unread) * 2 > all {
                let is_own = own.accepted.as_ref().is_some_and(|a| a.change == last.change);
                let may = is_own || by * 2 > all || self.would_choose(&last.change);
                return may.then(|| last.change.clone());
            }
        }
        self.wanted_change()
    }

    /// The highest roll that more than half of the members of this one have passed to, if any has.
    pub(super) fn passed(&self) -> Option<Roll> {
        let here = self.here;
        let own = self.ballot();
        let mut changes: BTreeMap<RollChange, BTreeMap<u64, BTreeSet<OrgId>>> = BTreeMap::new();
        let ballots = self.ballots(own.round);
        let all = ballots.iter().map(|(org, ballot)| (*org, ballot)).chain([(self.me, &own)]);
        for (org, ballot) in all {
            if let Some(Accepted { round, change }) = &ballot.accepted {
                let rounds = changes.entry(change.clone()).or_default();
                rounds.entry(*round).or_default().insert(org);
            }
        }
        let told = self.held.iter().filter(|(org, _)| self.roll.members.contains(*org));
        let told = told.filter(|(_, (key, _))| key.number >= here.number && *key != here);
        let mut rolls: BTreeMap<Passed, Roll> =
            told.map(|(_, (key, roll))| (*key, roll.clone())).collect();
        let mut passed: BTreeSet<Passed> = BTreeSet::new();
        for (change, rounds) in changes {
            let Some(next) = self.roll.next(&change) else { continue };
            let deciding = self.deciding(&own, &change);
            let is_out = !next.members.contains(&self.me);
            let says = |org: &&OrgId| is_out && self.says_out(**org);
            let saying: BTreeSet<OrgId> = self.roll.members.iter().filter(says).copied().collect();
            let key = next.passed();
            let is_passed = |(round, by): (&u64, &BTreeSet<OrgId>)| {
                self.is_passed(key, *round, &by.union(&saying).copied().collect(), &deciding)
            };
            if rounds.iter().any(is_passed) {
                passed.insert(key);
            }
            rolls.insert(key, next);
        }
        let none = BTreeSet::new();
        passed.extend(
            rolls.keys().filter(|roll| self.is_passed(**roll, u64::MAX, &none, &self.roll.members)),
        );
        rolls.into_iter().rev().find(|(key, _)| passed.contains(key)).map(|(_, roll)| roll)
    }

    /// Whether more than half of those who decide have accepted the change to a roll in this round, or held it.
    fn is_passed(
        &self,
        roll: Passed,
        round: u64,
        by: &BTreeSet<OrgId>,
        deciding: &BTreeSet<OrgId>,
    ) -> bool {
        let here = self.here;
        let holds = |org: &OrgId| by.contains(org) || self.has_held(*org, roll);
        let counts = |org: &OrgId| {
            let ballot = self.ballot_at(*org, here);
            !self.has_left(*org) || holds(org) || ballot.is_some_and(|ballot| ballot.round > round)
        };
        let all = deciding.iter().filter(|org| counts(org)).count();
        deciding.iter().filter(|org| holds(org)).count() * 2 > all
    }

    /// Whether more than half of the other members say that this one is out.
    pub(super) fn is_put_out(&self) -> bool {
        let others: Vec<OrgId> = self.voters().into_iter().filter(|org| *org != self.me).collect();
        others.iter().filter(|org| self.says_out(**org)).count() * 2 > others.len()
    }

    /// Whether a member holds a later roll on which this one does not stand.
    fn says_out(&self, org: OrgId) -> bool {
        self.said.get(&org).is_some_and(|said| {
            let AreaStatement { left, number, members, .. } = &said.statement;
            !left && *number > self.roll.number && !members.contains(&self.me)
        })
    }

    /// Whether a member holds a roll, or has held it. Of one with the number of the own roll the past does not count.
    fn has_held(&self, org: OrgId, roll: Passed) -> bool {
        let trail = self.said.get(&org).and_then(|said| said.books.as_ref()).map(|(_, b)| &b.trail);
        self.held.get(&org).is_some_and(|(key, _)| *key == roll)
            || roll.number > self.here.number
                && trail.is_some_and(|trail| trail.binary_search(&roll).is_ok())
    }

    /// The ballot of a member about the roll that follows this one.
    fn ballot_at(&self, org: OrgId, here: Passed) -> Option<&Ballot> {
        let is_here = self.held.get(&org).is_some_and(|(key, _)| *key == here);
        self.said.get(&org).filter(|_| is_here)?.statement.ballot.as_ref()
    }
}
