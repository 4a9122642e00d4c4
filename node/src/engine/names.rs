//! What a thing is called here: its names and the workspaces that it is in, as the policies are asked about it.
//!
//! A thing has many names: data has a key, an id with its author in front, and its digest; a draft of a workflow is in the
//! workspaces that hold it, word by word, and in the areas in which it is shared. A policy may speak of any of them, and nobody gets
//! round it by asking for another. What this node and its owner say is **firm**: it permits and forbids. What another node says of its
//! own resources, and what a document calls itself, only forbids: else somebody could publish another's digest under a name that is
//! permitted.
//!
//! Names that no policy speaks of are left out, so that a flood of records costs a decision nothing.

use std::collections::{BTreeMap, BTreeSet};

use catalog::record::{DiskName, Kind as RecordKind, Share, ShareKind, Visibility};
use catalog::{Digest, Entry, OrgId};

use super::Engine;
use super::directory::content_of;
use super::images::name::{ImageName, Reference};
use super::services::record_key;
use crate::policy::{Kind, Resource};

/// Something that a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sought {
    /// By kind, and key, `AUTHOR/KEY`, digest, name or id.
    Named(Kind, String),
    /// The text of a workflow, and what it calls itself.
    Text {
        /// It.
        source: String,
        /// Its name; none where it cannot be read.
        name: String,
    },
}

/// Those that the catalogue may describe, by what its entries are found with, so that one look through it serves them all.
#[derive(Default)]
struct Wanted {
    by_key: BTreeMap<String, BTreeSet<usize>>,
    by_digest: BTreeMap<Digest, BTreeSet<usize>>,
}

impl Wanted {
    fn add(&mut self, n: usize, kind: Kind, name: &str) {
        if let Ok(digest) = name.parse() {
            self.by_digest.entry(digest).or_default().insert(n);
        }
        let of_kind = match kind {
            Kind::Service => Some(record_key(name)),
            Kind::Disk => Some(DiskName::KEY_PREFIX.to_owned() + name),
            _ => None,
        };
        let behind_author = name.split_once('/').map(|(_, key)| key.to_owned());
        for key in of_kind.into_iter().chain(behind_author).chain([name.to_owned()]) {
            self.by_key.entry(key).or_default().insert(n);
        }
    }

    fn fitting(&self, entry: &Entry<'_>) -> BTreeSet<usize> {
        let content = content_of(&entry.resource.detail).map(|(digest, _)| digest);
        let by_digest = content.and_then(|digest| self.by_digest.get(&digest));
        let by_key = self.by_key.get(entry.key);
        by_key.into_iter().chain(by_digest).flatten().copied().collect()
    }
}

impl Engine {
    /// What is sought with its names, in the same order; what is not known here has the name by which it is sought.
    pub(super) fn names(&self, asking: OrgId, sought: Vec<Sought>, now_ms: u64) -> Vec<Resource> {
        let mut wanted = Wanted::default();
        let mut things: Vec<Resource> = sought
            .into_iter()
            .enumerate()
            .map(|(n, sought)| {
                let (kind, name) = match sought {
                    Sought::Text { source, name } => return self.text_names(&source, name, now_ms),
                    Sought::Named(Kind::Run, name) => return self.run_names(name),
                    Sought::Named(kind, name) => (kind, self.whole_name(kind, name, now_ms)),
                };
                let mut thing = Resource::of(kind, &*name);
                if kind == Kind::Algorithm
                    && let Ok(image) = name.parse::<ImageName>()
                {
                    let others = self.image_names(&image).into_iter();
                    thing.also.extend(others.map(|name| Resource::of(kind, name)));
                }
                if kind == Kind::Workspace {
                    let is_it =
                        |share: &Share| share.kind == ShareKind::Workspace && share.name == name;
                    let [own, _] = self.areas_with(is_it);
                    thing.within.extend(own);
                }
                if kind.is_catalogued() {
                    wanted.add(n, kind, &name);
                }
                thing
            })
            .collect();
        if wanted.by_key.is_empty() {
            return things;
        }
        for entry in self.known(now_ms) {
            for n in wanted.fitting(&entry) {
                if let Some(thing) = things.get_mut(n) {
                    self.add_names(asking, thing, &entry);
                }
            }
        }
        things
    }

    /// The name that a beginning of one means, where beginnings are taken; of an area its id.
    fn whole_name(&self, kind: Kind, name: String, now_ms: u64) -> String {
        if kind == Kind::Area {
            let found = self.area_called(&name).ok();
            return found.map_or(name, |area| area.to_hex());
        }
        if kind != Kind::Disk {
            return name;
        }
        let found = self.find_disk(&name, now_ms);
        found.map_or(name, |view| if view.node == self.me { view.name } else { view.id() })
    }

    /// Adds what a record says of a thing that it may describe.
    fn add_names(&self, asking: OrgId, thing: &mut Resource, entry: &Entry<'_>) {
        let content = content_of(&entry.resource.detail).map(|(digest, _)| digest);
        let name = thing.name.clone();
        let by_id = is_id(entry, &name);
        let by_digest = content.is_some_and(|digest| name.parse() == Ok(digest));
        let of_kind = match thing.kind {
            Kind::Service => record_key(&name),
            Kind::Disk => DiskName::KEY_PREFIX.to_owned() + &name,
            _ => name.clone(),
        };
        if !(by_id || by_digest || entry.key == name || entry.key == of_kind) {
            return;
        }
        let Some(kind) = kind_of(entry.resource.kind()) else { return };
        let is_own = entry.author == self.me;
        let id = format!("{}/{}", entry.author, entry.key);
        let within = self.workspaces.with(&id);
        let is_listed = is_own && self.is_listed(entry, asking);
        if is_own {
            thing.within.extend(within.iter().cloned());
            thing.is_listed |= is_listed;
        }
        let digest = content.map(|digest| digest.to_string());
        for text in [Some(entry.key.to_owned()), Some(id), digest].into_iter().flatten() {
            let is_firm = is_own || (by_id && text == name);
            let alias =
                Resource { is_firm, is_listed, within: within.clone(), ..Resource::of(kind, text) };
            let is_more = self.judge.policies.is_named(kind, &alias.name)
                || !alias.within.is_subset(&thing.within);
            if is_more && !thing.also.contains(&alias) {
                thing.also.push(alias);
            }
        }
    }

    fn run_names(&self, name: String) -> Resource {
        let run = name.parse().ok().and_then(|run| self.coordinator.run(run));
        let mut within =
            run.map(|run| self.workspaces.holding(&run.submission().source)).unwrap_or_default();
        let area = run.and_then(|run| run.submission().area_id());
        within.extend(area.map(|area| (Kind::Area, area.to_hex())));
        Resource { within, ..Resource::of(Kind::Run, name) }
    }

    /// Whether the own record says that an organisation may see it, or there is one for that organisation alone. Who sees nothing
    /// that is restricted sees none of these.
    fn is_listed(&self, entry: &Entry<'_>, asking: OrgId) -> bool {
        let own = self.own_resources.get(entry.key).map(|own| &own.visibility);
        let audience = self.audience(asking);
        !entry.is_restricted
            || matches!(own, Some(Visibility::Restricted(orgs)) if orgs.contains(&audience))
            || self.variants.orgs(entry.key).contains(&audience)
    }

    /// The text of a workflow: firm are its digest, the records of this node that have it, the workspaces that hold it, and the areas
    /// in which this node shares it. Of an area in which only others share it what forbids counts.
    fn text_names(&self, source: &str, name: String, now_ms: u64) -> Resource {
        let digest = Digest::of(source.as_bytes());
        let is_it = |share: &Share| share.kind == ShareKind::Workflow && share.digest == digest;
        let [own, others] = self.areas_with(is_it);
        let mut within = self.workspaces.holding(source);
        within.extend(own);
        let of = |name: String| Resource {
            within: within.clone(),
            ..Resource::of(Kind::Workflow, name)
        };
        let mut thing = of(digest.to_string());
        let own = self.known(now_ms).filter(|entry| {
            entry.author == self.me
                && content_of(&entry.resource.detail).is_some_and(|(content, _)| content == digest)
        });
        let keys: Vec<String> = own.map(|entry| entry.key.to_owned()).collect();
        thing.also.extend(keys.into_iter().map(&of));
        thing.also.extend(within.iter().map(|(kind, name)| Resource::of(*kind, &**name)));
        if !others.is_empty() {
            let text = Resource::of(Kind::Workflow, digest.to_string()).loose();
            thing.also.push(Resource { within: others, ..text });
        }
        match name.is_empty() {
            true => thing,
            false => {
                let first = of(name).loose();
                let also = std::mem::take(&mut thing.also);
                Resource { also: std::iter::once(thing).chain(also).collect(), ..first }
            }
        }
    }

    /// A name of an image as this node writes it, and the others that it has here.
    fn image_names(&self, image: &ImageName) -> BTreeSet<String> {
        let mut names = BTreeSet::from([image.to_string(), image.repository.to_string()]);
        let digest = match &image.reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => self.images.digest_of(image),
        };
        if let Some(digest) = digest {
            let of = |reference| {
                ImageName { repository: image.repository.clone(), reference }.to_string()
            };
            names.insert(of(Reference::Digest(digest)));
            names.extend(
                self.images.tags_of(&image.repository, &digest).map(|t| of(Reference::Tag(t))),
            );
        }
        names
    }
}

/// Whether a text is `AUTHOR/KEY` of this entry. Writing an author out costs more than all the rest.
fn is_id(entry: &Entry<'_>, text: &str) -> bool {
    let author = text.strip_suffix(entry.key).and_then(|rest| rest.strip_suffix('/'));
    author.is_some_and(|author| author == entry.author.to_string())
}

/// The kind as policies name it.
pub(crate) const fn kind_of(kind: RecordKind) -> Option<Kind> {
    Some(match kind {
        RecordKind::Data => Kind::Data,
        RecordKind::Algorithm => Kind::Algorithm,
        RecordKind::Compute => Kind::Compute,
        RecordKind::Storage => Kind::Storage,
        RecordKind::Workflow => Kind::Workflow,
        RecordKind::Service => Kind::Service,
        RecordKind::Disk => Kind::Disk,
        RecordKind::Revocations | RecordKind::Area => return None,
    })
}
