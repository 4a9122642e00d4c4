//! Answering: one page out of what this node holds and the asker may see.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ANSWER_LEN_MAX, Answer, Ask, Found, LOOK_MAX, Place, RefuseAsk};
use crate::author::{Author, Held, HeldHead};
use crate::filter::Filter;
use crate::id::{NodeId, OrgId};
use crate::replica::{Catalog, entry_of};
use crate::sync::Bytes;

/// A page while it is filled.
struct Page<'a> {
    ask: &'a Ask,
    filter: Filter,
    now_ms: u64,
    found: Vec<Found>,
    size: usize,
    looked: usize,
}

/// The page is full: the next one begins behind this place.
struct Full(Option<Place>);

impl Catalog {
    /// Answers a question of a node of `org` with one page.
    ///
    /// # Errors
    /// See [`RefuseAsk`].
    pub fn answer(&self, now_ms: u64, org: OrgId, ask: &Ask) -> Result<Answer, RefuseAsk> {
        if self.is_light() {
            return Err(RefuseAsk::Light);
        }
        if ask.realm != self.realm {
            return Err(RefuseAsk::Realm);
        }
        let filter = Filter::parse(&ask.filter).map_err(|_| RefuseAsk::Filter)?;
        let mut page = Page { ask, filter, now_ms, found: Vec::new(), size: 0, looked: 0 };
        let from = ask.after.as_ref().map_or(NodeId::from_bytes([0; 32]), |place| place.author);
        let mut last = ask.after.clone();
        for (id, author) in self.authors.range(from..) {
            let Some(head) = author.head.as_ref() else { continue };
            if *id != self.me && head.valid_until_ms() <= now_ms {
                continue;
            }
            let after = ask.after.as_ref().filter(|place| place.author == *id);
            let after = after.map(|place| place.key.as_str());
            let taken = if *id == self.me {
                page.take(*id, head, self.own_for(org, author, after), &mut last)
            } else {
                let public = author.live_after(after).map(|(key, held)| (key, (held, false)));
                page.take(*id, head, public, &mut last)
            };
            if let Err(Full(next)) = taken {
                return Ok(Answer { id: ask.id, found: page.found, next });
            }
        }
        Ok(Answer { id: ask.id, found: page.found, next: None })
    }

    /// The own resources as an organisation may see them: a restricted record in place of a public one with its key.
    fn own_for<'a>(
        &'a self,
        org: OrgId,
        own: &'a Author,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a String, (&'a Arc<Held>, bool))> {
        let mut shown: BTreeMap<&String, (&Arc<Held>, bool)> =
            own.live_after(after).map(|(key, held)| (key, (held, false))).collect();
        let restricted = self.restricted_for(org).map(|(key, held)| (key, (held, true)));
        shown.extend(restricted.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after)));
        shown.into_iter()
    }
}

impl Page<'_> {
    /// Takes what fits of one author; `last` is how far the page has got.
    fn take<'a>(
        &mut self,
        author: NodeId,
        head: &'a HeldHead,
        records: impl Iterator<Item = (&'a String, (&'a Arc<Held>, bool))>,
        last: &mut Option<Place>,
    ) -> Result<(), Full> {
        let mut found: Option<Found> = None;
        let mut result = Ok(());
        for (key, (held, is_restricted)) in records {
            if self.looked == LOOK_MAX {
                result = Err(Full(last.clone()));
                break;
            }
            self.looked += 1;
            if self.passes(author, head, key, held, is_restricted) {
                let frame = head.bytes.len() + head.papers.bytes.len();
                let more = held.bytes.len() + if found.is_some() { 0 } else { frame };
                // At least one record, so that every page gets further.
                if self.size + more > ANSWER_LEN_MAX && self.size > 0 {
                    result = Err(Full(last.clone()));
                    break;
                }
                self.size += more;
                let found = found.get_or_insert_with(|| Found {
                    head: Bytes(head.bytes.clone()),
                    papers: Bytes(head.papers.bytes.clone()),
                    records: Vec::new(),
                    restricted: Vec::new(),
                });
                let class = if is_restricted { &mut found.restricted } else { &mut found.records };
                class.push(Bytes(held.bytes.clone()));
            }
            *last = Some(Place { author, key: key.clone() });
        }
        self.found.extend(found);
        result
    }

    fn passes(
        &self,
        author: NodeId,
        head: &HeldHead,
        key: &str,
        held: &Held,
        is_restricted: bool,
    ) -> bool {
        held.not_after_ms > self.now_ms
            && entry_of(author, head, key, held, is_restricted).is_some_and(|entry| {
                self.ask.kinds.contains(entry.resource.kind()) && self.filter.matches(&entry)
            })
    }
}
