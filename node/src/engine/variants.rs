//! What this node shows some organisations otherwise than the rest: other prices, other words, or something at all.
//!
//! Each is a whole description under a key. An organisation sees the one that was made for it, before what its resource is
//! for everybody or for some; what it sees is what it is quoted by. Nobody learns that others see something else; how, stands
//! in `catalog/src/publish/audience.rs`. Who may not see restricted records at all ([`super::relations`]) sees none of these.
//!
//! Of this node's own computing (`compute/main`) only price and words are taken from a variant: what it can do is the same for
//! all, and changes.

use std::collections::BTreeMap;

use accounting::price::{Basis, PriceRow};
use accounting::{Dimension, PricePlan};
use catalog::record::{PriceList, Resource, Visibility};
use catalog::{Change, Digest, NodeId, OrgId};

use super::command::{CommandError, Response};
use super::directory::{COMPUTE_KEY, content_of};
use super::{Effect, Engine, stored};
use crate::schema;
use crate::store::batch::Table;

/// Before the key of a resource, the name of what is stored of its variants.
const PREFIX: &[u8] = b"variants/";

/// What the owner wants with variants.
#[derive(Clone, Debug)]
pub enum Command {
    /// Show these organisations this.
    Put {
        /// It.
        resource: Box<Resource>,
        /// To whom; at least one.
        orgs: Vec<OrgId>,
    },
    /// Show these organisations again what the rest is shown.
    Delete {
        /// The key.
        key: String,
        /// To whom.
        orgs: Vec<OrgId>,
    },
    /// All that this node publishes, and to whom.
    List,
}

/// Something that this node publishes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = OwnResource)]
pub struct OwnView {
    /// What it says.
    #[schema(value_type = schema::Description)]
    pub resource: Resource,
    /// Whether everybody sees it who is not shown something else.
    pub public: bool,
    /// Who sees it where not everybody does. Without `public` and without any: the own organisation alone.
    #[schema(value_type = Vec<schema::OrgId>)]
    pub orgs: Vec<OrgId>,
    /// Whether it is made for these organisations, in place of what others see under its key.
    pub variant: bool,
}

/// By key and organisation.
#[derive(Clone, Debug, Default)]
pub(super) struct Variants(BTreeMap<String, BTreeMap<OrgId, Resource>>);

impl Variants {
    /// What was stored among single facts.
    pub(super) fn recover(rows: &[(Vec<u8>, Vec<u8>)]) -> Option<Self> {
        let mut all = BTreeMap::new();
        for (name, value) in rows {
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            let key = String::from_utf8(key.to_vec()).ok()?;
            let list: Vec<(OrgId, Resource)> = ciborium::from_reader(&value[..]).ok()?;
            all.insert(key, list.into_iter().collect());
        }
        Some(Self(all))
    }

    /// Whom a key shows something of their own.
    pub(super) fn orgs(&self, key: &str) -> Vec<OrgId> {
        self.0.get(key).map(|of| of.keys().copied().collect()).unwrap_or_default()
    }

    /// The content that variants describe, and to whom each is open.
    pub(super) fn content(&self) -> impl Iterator<Item = (Digest, OrgId)> {
        let all = self.0.values().flatten();
        all.filter_map(|(org, resource)| Some((content_of(&resource.detail)?.0, *org)))
    }
}

impl Engine {
    pub(super) fn handle_variant_command(
        &mut self,
        command: Command,
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        match command {
            Command::Put { resource, orgs } => self.put_variant(*resource, &orgs, now_ms),
            Command::Delete { key, orgs } => self.delete_variant(&key, &orgs, now_ms),
            Command::List => Ok(Response::Own(self.own_views())),
        }
    }

    fn put_variant(
        &mut self,
        resource: Resource,
        orgs: &[OrgId],
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        let refuse = |detail: String| Err(CommandError::Publish { detail });
        if orgs.is_empty() {
            return refuse("it is for no organisation: name one at least".to_owned());
        }
        self.check_own(&resource)?;
        if resource.key == COMPUTE_KEY
            && let Some(list) = &resource.price
            && let Err(detail) = plan_of(self.ledger.plan(), list)
        {
            return refuse(detail);
        }
        let key = resource.key.clone();
        let shown = self.as_shown(&resource, now_ms).unwrap_or_else(|| resource.clone());
        if let Some(detail) = self.change(Change::PutFor(shown, orgs.to_vec()), now_ms) {
            return refuse(detail);
        }
        let of = self.variants.0.entry(key.clone()).or_default();
        let before: Vec<Resource> =
            orgs.iter().filter_map(|org| of.insert(*org, resource.clone())).collect();
        self.keep_variants(&key);
        self.expose_content(before.iter().chain([&resource]));
        Ok(Response::Done)
    }

    fn delete_variant(
        &mut self,
        key: &str,
        orgs: &[OrgId],
        now_ms: u64,
    ) -> Result<Response, CommandError> {
        let known = self.variants.orgs(key);
        if !orgs.iter().any(|org| known.contains(org)) {
            return Err(CommandError::NotOwn { key: key.to_owned() });
        }
        let change = Change::DeleteFor(key.to_owned(), orgs.to_vec());
        if let Some(detail) = self.change(change, now_ms) {
            return Err(CommandError::Publish { detail });
        }
        self.forget_variants(key, orgs);
        Ok(Response::Done)
    }

    /// Forgets what these organisations were shown, which was withdrawn.
    pub(super) fn forget_variants(&mut self, key: &str, orgs: &[OrgId]) {
        let Some(of) = self.variants.0.get_mut(key) else { return };
        let before: Vec<Resource> = orgs.iter().filter_map(|org| of.remove(org)).collect();
        self.keep_variants(key);
        self.release_record(key);
        self.expose_content(before.iter());
    }

    /// Withdraws what there is under a key for some alone; whether there was anything.
    pub(super) fn withdraw_variants(&mut self, key: &str, now_ms: u64) -> Result<bool, String> {
        let orgs = self.variants.orgs(key);
        if orgs.is_empty() {
            return Ok(false);
        }
        match self.change(Change::DeleteFor(key.to_owned(), orgs.clone()), now_ms) {
            Some(detail) => Err(detail),
            None => {
                self.forget_variants(key, &orgs);
                Ok(true)
            }
        }
    }

    fn keep_variants(&mut self, key: &str) {
        let name = [PREFIX, key.as_bytes()].concat();
        match self.variants.0.get(key).filter(|of| !of.is_empty()) {
            Some(of) => {
                let list: Vec<(&OrgId, &Resource)> = of.iter().collect();
                self.out.batch.put(Table::Meta, name, stored(&list));
            }
            None => {
                self.variants.0.remove(key);
                self.out.batch.delete(Table::Meta, name);
            }
        }
    }

    fn expose_content<'a>(&mut self, resources: impl Iterator<Item = &'a Resource>) {
        let digests: Vec<Digest> =
            resources.filter_map(|resource| Some(content_of(&resource.detail)?.0)).collect();
        digests.into_iter().for_each(|digest| self.expose(digest));
    }

    /// A variant as it is published: of this node's computing, what it can do is what it can do now. `None` while that is not
    /// known.
    fn as_shown(&self, given: &Resource, now_ms: u64) -> Option<Resource> {
        if given.key != COMPUTE_KEY {
            return Some(given.clone());
        }
        let mut all = self.catalog.resources(now_ms);
        let own = all.find(|entry| entry.author == self.me && entry.key == COMPUTE_KEY)?;
        Some(Resource { detail: own.resource.detail.clone(), ..given.clone() })
    }

    /// Publishes the variants of a key, or of every key, into a catalogue that has none or older ones.
    pub(super) fn announce_variants(&mut self, only: Option<&str>, now_ms: u64) {
        let all = self.variants.0.iter().filter(|(key, _)| only.is_none_or(|only| only == *key));
        let all: Vec<(OrgId, Resource)> = all.flat_map(|(_, of)| of.clone()).collect();
        for (org, resource) in all {
            let key = resource.key.clone();
            let Some(shown) = self.as_shown(&resource, now_ms) else { continue };
            if let Some(error) = self.change(Change::PutFor(shown, vec![org]), now_ms) {
                let detail = format!("`{key}` for {org} is not published: {error}");
                self.out.list.push(Effect::Notice { detail });
            }
        }
    }

    fn own_views(&self) -> Vec<OwnView> {
        let mut views: Vec<OwnView> = Vec::new();
        for own in self.own_resources.values() {
            let orgs = match &own.visibility {
                Visibility::Public => Vec::new(),
                Visibility::Restricted(orgs) => orgs.clone(),
            };
            let public = own.visibility == Visibility::Public;
            views.push(OwnView { resource: own.resource.clone(), public, orgs, variant: false });
        }
        for (org, resource) in self.variants.0.values().flatten() {
            let same = views.iter_mut().find(|view| view.variant && view.resource == *resource);
            match same {
                Some(view) => view.orgs.push(*org),
                None => views.push(OwnView {
                    resource: resource.clone(),
                    public: false,
                    orgs: vec![*org],
                    variant: true,
                }),
            }
        }
        views.sort_by(|a, b| (&a.resource.key, a.variant).cmp(&(&b.resource.key, b.variant)));
        views
    }

    /// The prices at which a peer is quoted: those that its organisation is shown.
    pub(super) fn plan_for(&self, peer: NodeId) -> PricePlan {
        let base = self.ledger.plan();
        let org = self.admission.peer(peer).map(|peer| self.audience(peer.cert.org));
        let of = org.and_then(|org| self.variants.0.get(COMPUTE_KEY)?.get(&org));
        let list = of.and_then(|resource| resource.price.as_ref());
        list.and_then(|list| plan_of(base, list).ok()).unwrap_or_else(|| base.clone())
    }
}

/// A price list as a plan, its terms those of the node's own. Why it cannot be one, if so.
fn plan_of(base: &PricePlan, list: &PriceList) -> Result<PricePlan, String> {
    if list.currency != base.currency {
        return Err(format!(
            "its prices are in {}, this node counts in {}",
            list.currency, base.currency
        ));
    }
    let named = |name: &str| Dimension::ALL.into_iter().find(|known| known.as_str() == name);
    let mut rows = BTreeMap::new();
    for row in &list.rows {
        let Some(dimension) = named(&row.dimension) else {
            return Err(format!("`{}` is nothing that this node meters", row.dimension));
        };
        let basis = base.rows.iter().find(|known| known.dimension == dimension);
        let basis = basis.map_or(Basis::Used, |known| known.basis);
        let row = PriceRow { dimension, basis, amount_nano: row.amount_nano, per: row.per };
        rows.insert(dimension, row);
    }
    let rows = rows.into_values().collect();
    let plan = PricePlan { rows, fixed: list.fixed, ..base.clone() };
    plan.check().map_err(|error| error.to_string())?;
    Ok(plan)
}
