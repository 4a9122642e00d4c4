//! What others say of areas, what this node says of them, and contents on their way.

use std::collections::{BTreeMap, BTreeSet};

use catalog::area::{Area, Said, Standing, record};
use catalog::record::{AREA_KEY_PREFIX, AreaDetail, AreaForm, AreaPart, AreaStatement, Visibility};
use catalog::{Change, Digest, NodeId, OrgId};

use super::{FETCH_BYTES_MAX, FETCH_RETRY_MS, FETCHES_MAX, Told, rows};
use crate::engine::rules::HeldRules;
use crate::engine::{Blob, Effect, Engine, FetchJob};

/// Rounds of hearing after a change: each makes the words of somebody new be of interest. What is not heard then is with the
/// next record.
const ROUNDS_MAX: usize = 8;

/// What one node says.
type Heard = (NodeId, OrgId, AreaPart);

impl Engine {
    /// Takes in records that have just come, if any of them is about areas.
    pub(in crate::engine) fn learn_areas(&mut self, news: &[(NodeId, String)], now_ms: u64) {
        if news.iter().any(|(_, key)| key.starts_with(AREA_KEY_PREFIX)) {
            self.hear_areas(now_ms);
        }
    }

    /// Says again, after a start, what this node says of areas.
    pub(in crate::engine) fn announce_areas(&mut self, now_ms: u64) {
        self.areas.told.clear();
        let ids: Vec<Digest> = self.areas.all.keys().copied().collect();
        for id in ids {
            self.tell_rules(id);
            self.say_area(id, now_ms);
        }
        self.fetch_shared(now_ms);
    }

    /// What the catalogue says of areas, statements first.
    fn heard(&self) -> BTreeMap<Digest, Vec<Heard>> {
        let mut all: BTreeMap<Digest, Vec<Heard>> = BTreeMap::new();
        for (node, org, detail) in self.catalog.areas() {
            all.entry(detail.area).or_default().push((node, org, detail.part.clone()));
        }
        for heard in all.values_mut() {
            heard.sort_by_key(|(_, _, part)| match part {
                AreaPart::Statement(_) => 0,
                AreaPart::Books(_) => 1,
                AreaPart::Shares(_) => 2,
            });
        }
        all
    }

    /// Lets every area hear what the catalogue says, and does what follows.
    pub(super) fn hear_areas(&mut self, now_ms: u64) {
        let own = self.admission.org();
        for (id, heard) in self.heard() {
            let siblings = gather(heard.iter().filter(|(_, org, _)| *org == own));
            let sibling = siblings.into_values().max_by_key(|s| (s.statement.version, s.node));
            let known = self.areas.all.get(&id).cloned();
            let mut area = match (known, &sibling) {
                (Some(area), _) => area,
                (None, Some(said)) if !said.statement.left && self.areas.check_room().is_ok() => {
                    Area::follow(said.statement.charter.clone(), own, said.clone())
                }
                _ => {
                    self.note_change(id);
                    continue;
                }
            };
            let mut changed = !self.areas.all.contains_key(&id);
            changed |= sibling.is_some_and(|said| area.hear_sibling(said));
            for _ in 0..ROUNDS_MAX {
                let mut is_new = false;
                for (node, org, part) in &heard {
                    is_new |= area.hear((*node, *org), part);
                }
                is_new |= area.settle();
                changed |= is_new;
                if !is_new {
                    break;
                }
            }
            if changed {
                self.keep_area(area, now_ms);
            } else {
                self.note_change(id);
            }
        }
        self.fetch_shared(now_ms);
    }

    /// Watchers look again. Of what is not theirs to see they see nothing.
    fn note_change(&mut self, id: Digest) {
        let (changes, all) = (&mut self.areas.changes, &self.areas.all);
        if changes.len() >= 2 * super::KNOWN_MAX && !changes.contains_key(&id) {
            changes.retain(|id, _| all.contains_key(id));
        }
        *changes.entry(id).or_default() += 1;
    }

    /// Stores an area, and then says what is said of it.
    pub(super) fn keep_area(&mut self, area: Area, now_ms: u64) {
        let id = area.id();
        let before = self.areas.all.get(&id);
        rows::keep(before, &area, &mut self.out.batch);
        let contents = |area: &Area| -> BTreeSet<Digest> {
            area.shared(self.me).map(|(_, _, share)| share.digest).collect()
        };
        let mut touched = before.map(contents).unwrap_or_default();
        touched.extend(contents(&area));
        self.areas.all.insert(id, area);
        self.tell_rules(id);
        self.note_change(id);
        for digest in touched {
            self.expose(digest);
        }
        self.say_area(id, now_ms);
    }

    /// The rules of an area hold here as long as this organisation is a member.
    fn tell_rules(&mut self, id: Digest) {
        let is_member = |area: &&Area| area.standing() == Standing::Member;
        let held = self.areas.all.get(&id).filter(is_member).map(|area| HeldRules {
            name: area.charter().name.clone(),
            members: area.members().clone(),
            rules: area.book().map(|book| book.content.clone()).unwrap_or_default(),
        });
        match held {
            Some(held) => self.hold_rules(id, held),
            None => self.drop_rules(id),
        }
    }

    /// Forgets an area.
    pub(super) fn drop_area(&mut self, id: Digest) {
        if let Some(area) = self.areas.all.remove(&id) {
            rows::remove(&area, &mut self.out.batch);
        }
        self.tell_rules(id);
        self.note_change(id);
    }

    /// Has the catalogue say what this node says of an area, to each what is for it.
    fn say_area(&mut self, id: Digest, now_ms: u64) {
        let words = self.areas.all.get(&id).and_then(Area::words);
        let told = self.areas.told.remove(&id);
        let (mut new, mut changes) = (Told::default(), Vec::new());
        let detail = |part| record(AreaDetail { area: id, part });
        let key = AreaForm::Statement.key(id);
        let before = told.clone().unwrap_or_default();
        if let Some(words) = words {
            let all: Vec<OrgId> = words.members.union(&words.invited).copied().collect();
            let members = words.members.into_iter().collect();
            let statement = detail(AreaPart::Statement(Box::new(words.statement)));
            changes.push(Change::Put(statement, Visibility::Restricted(all.clone())));
            if let Some(books) = words.books {
                new.books = true;
                let books = detail(AreaPart::Books(books));
                changes.push(Change::Put(books, Visibility::Restricted(all)));
            }
            if let Some(shares) = words.shares {
                new.shares = true;
                let shares = detail(AreaPart::Shares(shares));
                changes.push(Change::Put(shares, Visibility::Restricted(members)));
            }
            for (org, statement) in words.farewells {
                new.farewells.insert(org);
                let last = detail(AreaPart::Statement(Box::new(statement)));
                changes.push(Change::PutFor(last, vec![org]));
            }
            let back: Vec<OrgId> = before.farewells.difference(&new.farewells).copied().collect();
            if !back.is_empty() {
                changes.push(Change::DeleteFor(key, back));
            }
            self.areas.told.insert(id, new.clone());
        } else if told.is_some() {
            changes.push(Change::Delete(key));
        }
        for (was, is, form) in [
            (before.books, new.books, AreaForm::Books),
            (before.shares, new.shares, AreaForm::Shares),
        ] {
            if was && !is {
                changes.push(Change::Delete(form.key(id)));
            }
        }
        for change in changes {
            if let Some(error) = self.change(change, now_ms) {
                let detail = format!("what is said of an area is not published: {error}");
                self.out.list.push(Effect::Notice { detail });
            }
        }
    }

    /// The area to which others invite this organisation, as they describe it.
    pub(super) fn invitation(&self, id: Digest) -> Option<Area> {
        self.invitations().into_iter().find(|area| area.id() == id)
    }

    /// All of those.
    pub(super) fn invitations(&self) -> Vec<Area> {
        let own = self.admission.org();
        let is_open = |id: &Digest| self.areas.all.get(id).is_none_or(|area| !area.is_live());
        let invited = self.heard().into_iter().filter(|(id, _)| is_open(id));
        let area = |(id, heard): (Digest, Vec<Heard>)| {
            let said = gather(heard.iter().filter(|(_, org, _)| *org != own));
            let mut by_org: BTreeMap<OrgId, Said> = BTreeMap::new();
            for ((org, _), said) in said {
                let version = |said: &Said| (said.statement.version, said.node);
                if by_org.get(&org).is_none_or(|known| version(known) < version(&said)) {
                    by_org.insert(org, said);
                }
            }
            let charter = by_org.values().next()?.statement.charter.clone();
            Area::invitation(charter, own, by_org, self.areas.all.get(&id))
        };
        invited.filter_map(area).collect()
    }

    /// Tries again what failed.
    pub(in crate::engine) fn poll_areas(&mut self, now_ms: u64) {
        if self.areas.poll_timeout().is_some_and(|at| at <= now_ms) {
            self.fetch_shared(now_ms);
        }
    }

    /// Fetches what members share and is not here, a few at once.
    pub(in crate::engine) fn fetch_shared(&mut self, now_ms: u64) {
        let mut wanted: BTreeMap<Digest, (NodeId, u64, BTreeSet<OrgId>)> = BTreeMap::new();
        for area in self.areas.live() {
            let mut bytes: BTreeMap<OrgId, u64> = BTreeMap::new();
            for (org, node, share) in area.shared(self.me).filter(|(_, node, _)| *node != self.me) {
                let sum = bytes.entry(org).or_default();
                *sum = sum.saturating_add(share.size);
                if *sum > FETCH_BYTES_MAX {
                    continue;
                }
                let source = wanted
                    .entry(share.digest)
                    .or_insert_with(|| (node, share.size, BTreeSet::new()));
                source.2.extend(area.members());
            }
        }
        // What waits for a place is looked at again when one is free, so a time that has passed is not waited for.
        self.areas.failed.retain(|digest, at_ms| wanted.contains_key(digest) && *at_ms > now_ms);
        self.areas.here.retain(|digest| wanted.contains_key(digest));
        for (digest, (node, size, members)) in wanted {
            let areas = &mut self.areas;
            let waits = areas.failed.contains_key(&digest);
            let is_known = areas.here.contains(&digest) || areas.fetching.contains(&digest);
            if is_known || waits {
                continue;
            }
            if areas.fetching.len() >= FETCHES_MAX {
                return;
            }
            areas.fetching.insert(digest);
            let is_other = |peer: &NodeId| {
                *peer != node
                    && self.admission.peer(*peer).is_some_and(|p| members.contains(&p.cert.org))
            };
            let others = self.connected.iter().filter(|peer| is_other(peer)).copied().collect();
            let blobs = vec![Blob { digest, is_dir: false, size }];
            let (job, others) = (FetchJob::Shared(digest), BTreeMap::from([(digest, others)]));
            self.out.list.push(Effect::Fetch { job, from: node, blobs, others });
        }
    }

    /// A content that a member shares is here, or could not be fetched.
    pub(in crate::engine) fn handle_shared(&mut self, digest: Digest, is_here: bool, now_ms: u64) {
        self.areas.fetching.remove(&digest);
        if is_here {
            self.areas.here.insert(digest);
        } else {
            self.areas.failed.insert(digest, now_ms.saturating_add(FETCH_RETRY_MS));
        }
        let has = |area: &Area| area.shared(self.me).any(|(_, _, share)| share.digest == digest);
        let ids: Vec<Digest> = self.areas.live().filter(|area| has(area)).map(Area::id).collect();
        ids.into_iter().for_each(|id| self.note_change(id));
        self.fetch_shared(now_ms);
    }
}

/// What each node says, of those that make a statement.
fn gather<'a>(heard: impl Iterator<Item = &'a Heard>) -> BTreeMap<(OrgId, NodeId), Said> {
    let mut all: BTreeMap<(OrgId, NodeId), Said> = BTreeMap::new();
    for (node, org, part) in heard {
        let place = (*org, *node);
        match part {
            AreaPart::Statement(statement) => {
                let statement: AreaStatement = (**statement).clone();
                let (books, shares) = (None, BTreeMap::new());
                all.insert(place, Said { node: *node, statement, books, shares });
            }
            AreaPart::Books(books) => {
                if let Some(said) = all.get_mut(&place) {
                    said.books = Some((*node, books.clone()));
                }
            }
            AreaPart::Shares(_) => {}
        }
    }
    all
}
