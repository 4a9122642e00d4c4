//! The images of a node: which repositories there are, what they hold, and which content of the store that is.
//!
//! The state machine behind the image registry. Commands come in, answers go out together with the durable changes; there is
//! no file and no clock in here. Content is named twice: in registries by the SHA-256 (or SHA-512) of its bytes, in the store
//! by their BLAKE3 hash. One table maps the first to the second, so content is stored once however many images share it.
//!
//! ```text
//! repository ─► tags ─► manifests ─► parts: configuration and layers (linked blobs), or manifests of an index
//!                          ▲ subject: a signature or list of contents refers to another manifest
//! ```
//!
//! What a tag leads to is pinned in the store ([`Images::pin`]): its manifests, their parts, what refers to them, and the
//! directory in the OCI image layout that makes an image an input of a task. What no tag leads to stays for
//! [`PUSH_MS`], so that a push in several steps can end, may then be removed for room, and is forgotten after
//! [`UNTAGGED_KEPT_MS`]. Whether content is really on disk only the shell knows; it says so with [`Command::Lost`].

mod directory;
pub mod document;
pub mod name;
pub mod offer;
mod rows;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use catalog::Digest;

pub(crate) use self::directory::Layout;
pub use self::directory::{ImageDir, LayoutError, MANIFESTS_MAX};
use self::document::{Document, Role};
use self::name::{ImageName, OciDigest, Reference, Repository, Tag};
pub use self::view::{ImageView, ManifestView, Page, Referrer};
use super::command::named;
use super::pins::Pins;
use crate::store::batch::Batch;

/// What is pinned although no tag leads to it: what came within this time (in milliseconds). Six hours: longer than a push.
pub const PUSH_MS: u64 = 6 * 3_600_000;
/// How long what no tag leads to is remembered after it came or lost its tag, in milliseconds: seven days, as long as the
/// store keeps unused content.
pub const UNTAGGED_KEPT_MS: u64 = 7 * 24 * 3_600_000;
/// Most entries of all repositories (a repository, tag, link to content, manifest or part of one is an entry). At the bound
/// pushes are refused until something is removed. About 100 bytes of memory each.
pub const ENTRIES_MAX: usize = 500_000;
/// Most tags that one manifest may have; a further one is refused. Removing the manifest removes them in one step.
pub const TAGS_PER_MANIFEST_MAX: usize = 200;
/// Most contents that one command may report lost; the others are found lost at the next look.
pub const LOST_MAX: usize = 64;
/// Pause between two looks for what is no longer remembered, in milliseconds.
const SWEEP_MS: u64 = 3_600_000;
/// Most that one such look forgets; then the next comes after [`SWEEP_SOON_MS`].
const SWEEP_MAX: usize = 1_024;
/// Pause before a look goes on, in milliseconds.
const SWEEP_SOON_MS: u64 = 1_000;

/// Content of the node's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Content {
    /// Its BLAKE3 hash.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// A question or an order about images.
#[derive(Clone, Debug)]
pub enum Command {
    /// Content that is in the store belongs to a repository; the answer is [`Answer::Done`].
    Add {
        /// Where.
        repository: Repository,
        /// Its name there, checked against its bytes.
        digest: OciDigest,
        /// The content.
        content: Content,
    },
    /// Content of one repository belongs to another, too; the answer is [`Answer::Contents`] with one.
    Mount {
        /// Where to.
        repository: Repository,
        /// Which.
        digest: OciDigest,
        /// Where from; any when absent.
        from: Option<Repository>,
    },
    /// These are not in the store any more: forget the first [`LOST_MAX`]. The answer is [`Answer::Done`].
    Lost {
        /// Where.
        repository: Repository,
        /// Which.
        digests: Vec<OciDigest>,
    },
    /// A configuration or layer does not belong to the repository any more; the answer is [`Answer::Done`].
    Unlink {
        /// Where.
        repository: Repository,
        /// Which.
        digest: OciDigest,
    },
    /// A manifest that is in the store belongs to a repository; the answer is [`Answer::Pushed`].
    Push {
        /// Where.
        repository: Repository,
        /// Its name there, checked against its bytes.
        digest: OciDigest,
        /// Its bytes.
        content: Content,
        /// The tags it gets.
        tags: Vec<Tag>,
        /// What it says.
        document: Box<Document>,
    },
    /// Take a tag away, or a manifest with all its tags; the answer is [`Answer::Done`].
    Remove {
        /// Which.
        name: ImageName,
    },
    /// Give a manifest another tag in its repository; the answer is [`Answer::Done`].
    Tag {
        /// Which.
        name: ImageName,
        /// The tag.
        tag: Tag,
    },
    /// A question.
    Ask(Query),
}

/// What changes nothing.
#[derive(Clone, Debug)]
pub enum Query {
    /// What content these are; the answer is [`Answer::Contents`] in the order of the question.
    Find {
        /// Where.
        repository: Repository,
        /// Which: configurations and layers, or manifests.
        digests: Vec<OciDigest>,
    },
    /// A manifest; the answer is [`Answer::Manifest`].
    Manifest {
        /// Which.
        name: ImageName,
    },
    /// The tags of a repository in order; the answer is [`Answer::Names`].
    Tags {
        /// Which.
        repository: Repository,
        /// Those after this one.
        page: Page,
    },
    /// The repositories in order; the answer is [`Answer::Names`].
    Repositories {
        /// Those after this one.
        page: Page,
    },
    /// What refers to a manifest, by digest; the answer is [`Answer::Referrers`].
    Referrers {
        /// Where.
        repository: Repository,
        /// The manifest, which need not be there.
        subject: OciDigest,
        /// Only of this kind.
        artifact_type: Option<String>,
        /// Those after this digest.
        page: Page,
    },
    /// Every tagged image; the answer is [`Answer::Images`].
    List {
        /// Those after this `REPOSITORY:TAG`.
        page: Page,
    },
    /// One image; the answer is [`Answer::Images`] with one.
    Show {
        /// Which.
        name: ImageName,
    },
    /// An image as a directory in the OCI image layout; the answer is [`Answer::Directory`].
    Resolve {
        /// Which.
        name: ImageName,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Done, nothing to say.
    Done,
    /// Contents, where they are known.
    Contents(Vec<Option<Content>>),
    /// The directory of what was pushed; none when a layer is somewhere else.
    Pushed(Option<Box<ImageDir>>),
    /// A manifest.
    Manifest(Box<ManifestView>),
    /// Names, and whether there are more.
    Names(Vec<String>, bool),
    /// What refers to a manifest, and whether there is more.
    Referrers(Vec<Referrer>, bool),
    /// Images.
    Images(Vec<ImageView>),
    /// A directory.
    Directory(Box<ImageDir>),
}

/// Why something cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// No such repository.
    #[error("there is no repository `{repository}` on this node")]
    NoRepository {
        /// As asked.
        repository: Repository,
    },
    /// No such manifest.
    #[error("there is no image `{name}` on this node")]
    NoImage {
        /// As asked.
        name: String,
    },
    /// Nobody else has it, either.
    #[error(
        "no other node of the realm publishes an image `{name}`; `opencloud catalog search 'kind = algorithm'` shows those there are"
    )]
    Unpublished {
        /// As asked.
        name: String,
    },
    /// Several nodes publish different images under one name.
    #[error(
        "`{name}` may mean {count} images that other nodes publish: {}; write the organisation in front, or the digest behind",
        named(candidates, *count)
    )]
    Ambiguous {
        /// As asked.
        name: String,
        /// How many.
        count: usize,
        /// What to write instead, for the first of them.
        candidates: Vec<String>,
    },
    /// No such content.
    #[error("there is no {digest} in `{repository}`: push it first")]
    NoContent {
        /// Where it was looked for.
        repository: Repository,
        /// Which.
        digest: OciDigest,
    },
    /// Parts of an image are not there.
    #[error("{} of its parts are not in the repository, the first is {first}: push them first", .count)]
    Missing {
        /// How many.
        count: usize,
        /// The first of them.
        first: OciDigest,
    },
    /// A manifest says another length than a part has.
    #[error("the manifest says that {digest} has {said} bytes, and it has {size}")]
    Size {
        /// The part.
        digest: OciDigest,
        /// As the manifest says.
        said: u64,
        /// As it is.
        size: u64,
    },
    /// Something in the repository needs it.
    #[error("{digest} is part of {by} in the same repository: remove that first")]
    InUse {
        /// What was to be removed.
        digest: OciDigest,
        /// What needs it.
        by: Box<OciDigest>,
    },
    /// Too many tags.
    #[error("{digest} has {TAGS_PER_MANIFEST_MAX} tags, no more are taken: remove some")]
    Tags {
        /// The manifest.
        digest: OciDigest,
    },
    /// Too many entries.
    #[error("the node's repositories hold {ENTRIES_MAX} entries, no more are taken: remove images")]
    Full,
}

/// A manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Manifest {
    document: Document,
    /// When it came or lost a tag (Unix ms).
    since_ms: u64,
}

/// What one repository holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shelf {
    /// Configurations and layers, and when they came (Unix ms).
    blobs: BTreeMap<OciDigest, u64>,
    manifests: BTreeMap<OciDigest, Manifest>,
    tags: BTreeMap<Tag, OciDigest>,
}

/// Content and how many repositories hold it, as blob and as manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    content: Content,
    n_links: usize,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    contents: BTreeMap<OciDigest, Held>,
    shelves: BTreeMap<Repository, Shelf>,
    n_entries: usize,
    next_sweep_ms: Option<u64>,
}

impl Images {
    /// Does what was asked. What has to be durable before the answer goes out is added to `batch`.
    ///
    /// # Errors
    /// See [`ImageError`]; then nothing has changed.
    pub fn handle(
        &mut self,
        command: Command,
        now_ms: u64,
        batch: &mut Batch,
    ) -> Result<Answer, ImageError> {
        let answer = match command {
            Command::Add { repository, digest, content } => {
                self.check_room(2)?;
                self.link(&repository, digest, content, now_ms, batch);
                Answer::Done
            }
            Command::Mount { repository, digest, from } => {
                self.mount(&repository, digest, from.as_ref(), now_ms, batch)?
            }
            Command::Lost { repository, digests } => {
                for digest in digests.iter().take(LOST_MAX) {
                    self.unlink(&repository, digest, batch);
                }
                Answer::Done
            }
            Command::Unlink { repository, digest } => {
                self.unlink_unused(&repository, digest, batch)?
            }
            Command::Push { repository, digest, content, tags, document } => {
                self.push(&repository, (digest, content), &tags, *document, now_ms, batch)?
            }
            Command::Remove { name } => self.remove(&name, now_ms, batch)?,
            Command::Tag { name, tag } => {
                let (digest, _) = self.manifest(&name)?;
                self.check_room(1)?;
                self.check_tags(&name.repository, digest, 1)?;
                self.set_tag(&name.repository, tag, digest, now_ms, batch);
                Answer::Done
            }
            Command::Ask(query) => return self.answer(query),
        };
        let next_ms = self.next_sweep_ms.unwrap_or_else(|| now_ms.saturating_add(SWEEP_MS));
        self.next_sweep_ms = (!self.shelves.is_empty()).then_some(next_ms);
        Ok(answer)
    }

    /// When [`Images::poll`] is due (Unix ms).
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<u64> {
        self.next_sweep_ms
    }

    /// Forgets what no tag has led to for [`UNTAGGED_KEPT_MS`], when it is time to look.
    pub fn poll(&mut self, now_ms: u64, batch: &mut Batch) {
        if self.next_sweep_ms.is_none_or(|at| at > now_ms) {
            return;
        }
        let since_ms = now_ms.saturating_sub(UNTAGGED_KEPT_MS);
        let (mut manifests, mut blobs) = (Vec::new(), Vec::new());
        for (repository, shelf) in &self.shelves {
            let kept = shelf.kept(since_ms);
            let gone = shelf.manifests.keys().filter(|digest| !kept.contains(digest));
            manifests.extend(gone.map(|digest| (repository.clone(), *digest)));
            let needed = shelf.parts_of(&kept);
            let gone = shelf
                .blobs
                .iter()
                .filter(|(digest, at)| **at < since_ms && !needed.contains(digest));
            blobs.extend(gone.map(|(digest, _)| (repository.clone(), *digest)));
        }
        let is_more = manifests.len() + blobs.len() > SWEEP_MAX;
        let n_manifests = manifests.len().min(SWEEP_MAX);
        for (repository, digest) in &manifests[..n_manifests] {
            self.drop_manifest(repository, digest, batch);
        }
        for (repository, digest) in blobs.iter().take(SWEEP_MAX - n_manifests) {
            self.unlink(repository, digest, batch);
        }
        let pause = if is_more { SWEEP_SOON_MS } else { SWEEP_MS };
        self.next_sweep_ms = (!self.shelves.is_empty()).then(|| now_ms.saturating_add(pause));
    }

    /// Adds the content that must stay in the store.
    pub fn pin(&self, now_ms: u64, pins: &mut Pins) {
        let since_ms = now_ms.saturating_sub(PUSH_MS);
        for (repository, shelf) in &self.shelves {
            let kept = shelf.kept(since_ms);
            let young =
                shelf.blobs.iter().filter(|(_, at)| **at >= since_ms).map(|(digest, _)| digest);
            for digest in kept.iter().chain(&shelf.parts_of(&kept)).chain(young) {
                pins.files
                    .extend(self.content_in(repository, digest).map(|content| content.digest));
            }
            for digest in &kept {
                if let Ok(made) = self.directory(repository, *digest) {
                    pins.dirs.insert(made.dir.digest);
                }
            }
        }
    }

    fn mount(
        &mut self,
        repository: &Repository,
        digest: OciDigest,
        from: Option<&Repository>,
        now_ms: u64,
        batch: &mut Batch,
    ) -> Result<Answer, ImageError> {
        let content = match from {
            Some(from) => self.content_in(from, &digest),
            None => self.contents.get(&digest).map(|held| held.content),
        };
        if let Some(content) = content {
            self.check_room(2)?;
            self.link(repository, digest, content, now_ms, batch);
        }
        Ok(Answer::Contents(vec![content]))
    }

    fn unlink_unused(
        &mut self,
        repository: &Repository,
        digest: OciDigest,
        batch: &mut Batch,
    ) -> Result<Answer, ImageError> {
        let shelf = self.shelf(repository)?;
        if !shelf.blobs.contains_key(&digest) {
            return Err(ImageError::NoContent { repository: repository.clone(), digest });
        }
        if let Some(by) = shelf.user_of(&digest) {
            return Err(ImageError::InUse { digest, by: Box::new(by) });
        }
        self.unlink(repository, &digest, batch);
        Ok(Answer::Done)
    }

    fn push(
        &mut self,
        repository: &Repository,
        (digest, content): (OciDigest, Content),
        tags: &[Tag],
        document: Document,
        now_ms: u64,
        batch: &mut Batch,
    ) -> Result<Answer, ImageError> {
        self.check_parts(repository, &document)?;
        self.check_room(2 + document.parts.len() + tags.len())?;
        self.check_tags(repository, digest, tags.len())?;
        self.put_manifest(
            repository,
            (digest, content),
            Manifest { document, since_ms: now_ms },
            batch,
        );
        for tag in tags {
            self.set_tag(repository, tag.clone(), digest, now_ms, batch);
        }
        Ok(Answer::Pushed(self.directory(repository, digest).ok().map(Box::new)))
    }

    /// Every part that has to be there is, with the length the manifest says.
    fn check_parts(&self, repository: &Repository, document: &Document) -> Result<(), ImageError> {
        let mut missing = Vec::new();
        for part in &document.parts {
            let found = match (self.shelves.get(repository), part.role) {
                (Some(shelf), Role::Manifest) => shelf.manifests.contains_key(&part.digest),
                (Some(shelf), _) => shelf.blobs.contains_key(&part.digest),
                (None, _) => false,
            };
            let held = self.contents.get(&part.digest).filter(|_| found);
            match held {
                Some(held) if held.content.size != part.size => {
                    let size = held.content.size;
                    return Err(ImageError::Size { digest: part.digest, said: part.size, size });
                }
                None if part.role != Role::Foreign => missing.push(part.digest),
                _ => {}
            }
        }
        match missing.first() {
            Some(first) => Err(ImageError::Missing { count: missing.len(), first: *first }),
            None => Ok(()),
        }
    }

    fn check_room(&self, more: usize) -> Result<(), ImageError> {
        if self.n_entries + more > ENTRIES_MAX { Err(ImageError::Full) } else { Ok(()) }
    }

    fn check_tags(
        &self,
        repository: &Repository,
        digest: OciDigest,
        more: usize,
    ) -> Result<(), ImageError> {
        let has = self
            .shelves
            .get(repository)
            .map_or(0, |shelf| shelf.tags.values().filter(|tagged| **tagged == digest).count());
        if has + more > TAGS_PER_MANIFEST_MAX { Err(ImageError::Tags { digest }) } else { Ok(()) }
    }

    fn remove(
        &mut self,
        name: &ImageName,
        now_ms: u64,
        batch: &mut Batch,
    ) -> Result<Answer, ImageError> {
        let (digest, _) = self.manifest(name)?;
        match &name.reference {
            Reference::Tag(tag) => self.drop_tag(&name.repository, tag, now_ms, batch),
            Reference::Digest(_) => {
                if let Some(by) = self.shelf(&name.repository)?.user_of(&digest) {
                    return Err(ImageError::InUse { digest, by: Box::new(by) });
                }
                self.drop_manifest(&name.repository, &digest, batch);
            }
        }
        Ok(Answer::Done)
    }

    fn shelf(&self, repository: &Repository) -> Result<&Shelf, ImageError> {
        self.shelves
            .get(repository)
            .ok_or_else(|| ImageError::NoRepository { repository: repository.clone() })
    }

    fn manifest(&self, name: &ImageName) -> Result<(OciDigest, &Manifest), ImageError> {
        let none = || ImageError::NoImage { name: name.to_string() };
        let shelf = self.shelves.get(&name.repository).ok_or_else(none)?;
        let digest = match &name.reference {
            Reference::Tag(tag) => *shelf.tags.get(tag).ok_or_else(none)?,
            Reference::Digest(digest) => *digest,
        };
        shelf.manifests.get(&digest).map(|manifest| (digest, manifest)).ok_or_else(none)
    }

    /// Content that a repository holds, as blob or as manifest.
    fn content_in(&self, repository: &Repository, digest: &OciDigest) -> Option<Content> {
        let shelf = self.shelves.get(repository)?;
        let is_there = shelf.blobs.contains_key(digest) || shelf.manifests.contains_key(digest);
        self.contents.get(digest).filter(|_| is_there).map(|held| held.content)
    }
}

impl Shelf {
    fn is_empty(&self) -> bool {
        self.blobs.is_empty() && self.manifests.is_empty() && self.tags.is_empty()
    }

    /// The manifests to which a tag leads, or one that came at `since_ms` or later; and what refers to any of them.
    fn kept(&self, since_ms: u64) -> BTreeSet<OciDigest> {
        let mut referrers: BTreeMap<OciDigest, Vec<OciDigest>> = BTreeMap::new();
        for (digest, manifest) in &self.manifests {
            if let Some(subject) = manifest.document.subject {
                referrers.entry(subject).or_default().push(*digest);
            }
        }
        let young = self.manifests.iter().filter(|(_, manifest)| manifest.since_ms >= since_ms);
        let mut waiting: Vec<OciDigest> =
            self.tags.values().copied().chain(young.map(|(digest, _)| *digest)).collect();
        let mut kept = BTreeSet::new();
        while let Some(digest) = waiting.pop() {
            let Some(manifest) = self.manifests.get(&digest) else { continue };
            if kept.insert(digest) {
                let parts = manifest.document.parts.iter();
                waiting.extend(
                    parts.filter(|part| part.role == Role::Manifest).map(|part| part.digest),
                );
                waiting.extend(referrers.get(&digest).into_iter().flatten());
            }
        }
        kept
    }

    /// The configurations and layers of these manifests.
    fn parts_of(&self, manifests: &BTreeSet<OciDigest>) -> BTreeSet<OciDigest> {
        let manifests = manifests.iter().filter_map(|digest| self.manifests.get(digest));
        let parts = manifests.flat_map(|manifest| &manifest.document.parts);
        parts.filter(|part| part.role != Role::Manifest).map(|part| part.digest).collect()
    }

    /// A manifest that has this part.
    fn user_of(&self, part: &OciDigest) -> Option<OciDigest> {
        let uses = |manifest: &Manifest| manifest.document.parts.iter().any(|p| p.digest == *part);
        self.manifests.iter().find(|(_, manifest)| uses(manifest)).map(|(digest, _)| *digest)
    }
}
