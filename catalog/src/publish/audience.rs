//! Who is told what of a key that not all see alike.
//!
//! Each organisation that is shown anything by a restricted record gets a record of its own: signed for it alone, with a
//! number of its own. So one that compares what it was told with another's finds two records, whether they say the same or
//! not, and nothing that happens for others leaves a trace in what it holds: not a record more, not a gap in the numbers.
//!
//! Two contents under one key and number would be a proof of lying ([`crate::replica::Equivocation`]), to whoever compares.
//! So the numbers of a key's records are all different. They are no counts, which would tell how often others were told
//! something, but times: when the record was signed, in 1024ths of a millisecond, and up to [`JITTER`] of them later by chance
//! as only the author can tell it. An organisation's own numbers still only grow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Pen;
use crate::author::{Class, Held};
use crate::id::OrgId;
use crate::log::{NO_END_MS, Version, record_hash};
use crate::record::Resource;

/// Numbers in a millisecond.
const PER_MS: u64 = 1 << 10;
/// By how much a number may be later than its time: some four seconds.
const JITTER: u64 = 1 << 22;
/// Most organisations that a key's withdrawal is kept for. Beyond that the withdrawal reaches the others by the lease.
const FORMER_MAX: usize = 1024;

/// A description for some organisations only, in place of what others see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variant {
    pub(super) orgs: BTreeSet<OrgId>,
    pub(super) resource: Resource,
}

/// What an organisation was told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) held: Arc<Held>,
    /// The hash of the body; `None` for a delete.
    pub(super) of: Option<[u8; 32]>,
}

/// Who sees what of one key, and was told so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Audience {
    /// What those in `current` see, and the own organisation.
    pub(super) general: Option<Resource>,
    pub(super) current: BTreeSet<OrgId>,
    /// No organisation is in two of them, none is empty.
    pub(super) variants: Vec<Variant>,
    pub(super) told: BTreeMap<OrgId, Told>,
    /// The numbers taken in this epoch that time has not passed yet.
    pub(super) used: BTreeSet<u64>,
}

impl Audience {
    /// What an organisation is to see by a restricted record: what was made for it, before what some others see, too.
    pub(super) fn wanted(&self, org: OrgId, home: Option<OrgId>) -> Option<&Resource> {
        let own = self.variants.iter().find(|variant| variant.orgs.contains(&org));
        own.map(|variant| &variant.resource).or_else(|| {
            let sees = home == Some(org) || self.current.contains(&org);
            self.general.as_ref().filter(|_| sees)
        })
    }

    /// Whether anybody is to see anything.
    pub(super) fn is_live(&self) -> bool {
        self.general.is_some() || !self.variants.is_empty()
    }

    /// Shows organisations a description of their own.
    pub(super) fn set_variant(&mut self, orgs: &BTreeSet<OrgId>, resource: Resource) {
        let has =
            |variant: &Variant| variant.resource == resource && variant.orgs.is_superset(orgs);
        if self.variants.iter().any(has) {
            return;
        }
        self.remove_variants(orgs);
        match self.variants.iter_mut().find(|variant| variant.resource == resource) {
            Some(variant) => variant.orgs.extend(orgs),
            None => self.variants.push(Variant { orgs: orgs.clone(), resource }),
        }
    }

    /// Shows organisations nothing of their own any more; whether one of them had anything.
    pub(super) fn remove_variants(&mut self, orgs: &BTreeSet<OrgId>) -> bool {
        let before = self.special().count();
        for variant in &mut self.variants {
            variant.orgs.retain(|org| !orgs.contains(org));
        }
        self.variants.retain(|variant| !variant.orgs.is_empty());
        self.special().count() != before
    }

    /// The organisations that are shown something of their own.
    pub(super) fn special(&self) -> impl Iterator<Item = &OrgId> {
        self.variants.iter().flat_map(|variant| &variant.orgs)
    }

    /// Signs what has changed for anybody, and returns for whom.
    pub(super) fn settle(&mut self, pen: &Pen<'_>, key: &str) -> Vec<OrgId> {
        let mut orgs: BTreeSet<OrgId> = self.told.keys().copied().collect();
        orgs.extend(self.current.iter().chain(self.special()));
        orgs.insert(pen.home);
        let mut changed = Vec::new();
        for org in orgs {
            let resource = self.wanted(org, Some(pen.home)).cloned();
            let body = resource.as_ref().map(|r| r.encode().expect("the changes were checked"));
            let of = body.as_ref().map(|body| *blake3::hash(body).as_bytes());
            if self.told.get(&org).and_then(|told| told.of) == of {
                continue;
            }
            let version = self.number(pen, key, org);
            let bytes = pen.sign(key, version, body, Class::Restricted);
            let (hash, not_after_ms) = (record_hash(&bytes), NO_END_MS);
            let held = Arc::new(Held { bytes, hash, version, not_after_ms, resource });
            self.told.insert(org, Told { held, of });
            changed.push(org);
        }
        self.forget_deletes();
        changed
    }

    /// The number of the next record for an organisation: above all that it was told, and nobody else's.
    fn number(&mut self, pen: &Pen<'_>, key: &str, org: OrgId) -> Version {
        let epoch = pen.epoch;
        let now = pen.now_ms.saturating_mul(PER_MS);
        self.used.retain(|used| *used >= now);
        let told = self.told.get(&org).map(|told| told.held.version);
        let floor = told.filter(|version| version.epoch == epoch).map_or(0, |version| version.seq);
        let mut tries = 0;
        loop {
            let chance = pen.chance(key, org, tries);
            let at = now.saturating_add(chance % JITTER);
            let later = floor.saturating_add(1 + chance % PER_MS);
            let seq = if at > floor { at } else { later };
            if self.used.insert(seq) {
                return Version { epoch, seq };
            }
            tries += 1;
        }
    }

    /// Forgets withdrawals beyond [`FORMER_MAX`], oldest first.
    fn forget_deletes(&mut self) {
        let deletes = self.told.iter().filter(|(_, told)| told.of.is_none());
        let mut deletes: Vec<(Version, OrgId)> =
            deletes.map(|(org, told)| (told.held.version, *org)).collect();
        let surplus = deletes.len().saturating_sub(FORMER_MAX);
        if surplus > 0 {
            deletes.sort_unstable();
            deletes.iter().take(surplus).for_each(|(_, org)| drop(self.told.remove(org)));
        }
    }
}
