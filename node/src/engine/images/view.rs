//! Answers to questions about images; nothing changes here.

use std::collections::BTreeMap;
use std::ops::Bound;

use scheduler::value::DirRef;

use super::document::{Document, Role};
use super::name::{ImageName, OciDigest, Reference, Repository, Tag};
use super::{Answer, Content, ImageError, Images, Manifest, Query};
use crate::schema;

/// A part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// What comes after this one in order; from the first when absent.
    pub after: Option<String>,
    /// At most so many, and never more than [`Page::LIMIT_MAX`].
    pub limit: usize,
}

impl Page {
    /// Most in one answer.
    pub const LIMIT_MAX: usize = 1_000;

    /// The first so many of an ordered list, and whether there are more.
    fn cut<T>(&self, all: impl Iterator<Item = T>) -> (Vec<T>, bool) {
        let limit = self.limit.min(Self::LIMIT_MAX);
        let mut found: Vec<T> = all.take(limit + 1).collect();
        let is_more = found.len() > limit;
        found.truncate(limit);
        (found, is_more)
    }
}

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestView {
    /// Its name.
    pub digest: OciDigest,
    /// Its bytes.
    pub content: Content,
    /// Its kind.
    pub media_type: String,
}

/// What refers to a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// Its name.
    pub digest: OciDigest,
    /// Its length in bytes.
    pub size: u64,
    /// What it says.
    pub document: Document,
}

/// An image as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Image)]
pub struct ImageView {
    /// `REPOSITORY:TAG`, or `REPOSITORY@DIGEST`.
    pub name: String,
    /// The manifest's digest, as clients of registries show it.
    #[schema(value_type = String)]
    pub digest: OciDigest,
    /// The manifest's kind.
    pub media_type: String,
    /// Bytes of everything it consists of.
    pub size: u64,
    /// The directory in the OCI image layout, by which workflows name it; none when a part is not on this node.
    #[schema(value_type = Option<schema::DirRef>, required)]
    pub directory: Option<DirRef>,
    /// Its tags.
    pub tags: Vec<String>,
    /// When it was pushed or lost a tag (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub since_ms: u64,
}

impl Images {
    /// What a name means here.
    pub(in crate::engine) fn digest_of(&self, name: &ImageName) -> Option<OciDigest> {
        self.manifest(name).ok().map(|(digest, _)| digest)
    }

    /// The tags that a manifest has.
    pub(in crate::engine) fn tags_of<'a>(
        &'a self,
        repository: &Repository,
        digest: &'a OciDigest,
    ) -> impl Iterator<Item = Tag> + 'a {
        let tags = self.shelves.get(repository).map(|shelf| &shelf.tags).into_iter().flatten();
        tags.filter(move |(_, tagged)| *tagged == digest).map(|(tag, _)| tag.clone())
    }

    /// Answers what changes nothing.
    pub(super) fn answer(&self, query: Query) -> Result<Answer, ImageError> {
        match query {
            Query::Find { repository, digests } => Ok(Answer::Contents(
                digests.iter().map(|digest| self.content_in(&repository, digest)).collect(),
            )),
            Query::Manifest { name } => {
                let (digest, manifest) = self.manifest(&name)?;
                let content = self.content_of(&name, &digest)?;
                let media_type = manifest.document.media_type.clone();
                Ok(Answer::Manifest(Box::new(ManifestView { digest, content, media_type })))
            }
            Query::Tags { repository, page } => {
                let tags = self.shelf(&repository)?.tags.keys().map(|tag| tag.as_str());
                // Beginning at any text, which need not be a tag.
                let after = page.after.as_deref().unwrap_or_default();
                let (names, is_more) = page.cut(tags.filter(|tag| *tag > after));
                Ok(Answer::Names(names.into_iter().map(str::to_owned).collect(), is_more))
            }
            Query::Repositories { page } => {
                let after = page.after.as_deref().unwrap_or_default();
                let all = self.shelves.keys().map(Repository::as_str);
                let (names, is_more) = page.cut(all.filter(|name| *name > after));
                Ok(Answer::Names(names.into_iter().map(str::to_owned).collect(), is_more))
            }
            Query::Referrers { repository, subject, artifact_type, page } => {
                Ok(self.referrers(&repository, subject, artifact_type.as_deref(), &page))
            }
            Query::List { page } => Ok(Answer::Images(self.list(&page))),
            Query::Show { name } => {
                let (digest, manifest) = self.manifest(&name)?;
                Ok(Answer::Images(vec![self.view(&name, digest, manifest)]))
            }
            Query::Resolve { name } => {
                let (digest, _) = self.manifest(&name)?;
                let found = self.directory(&name.repository, digest);
                found.map(|dir| Answer::Directory(Box::new(dir))).map_err(|missing| {
                    let first = missing.first().copied().unwrap_or(digest);
                    ImageError::Missing { count: missing.len(), first }
                })
            }
        }
    }

    fn content_of(&self, name: &ImageName, digest: &OciDigest) -> Result<Content, ImageError> {
        let found = self.content_in(&name.repository, digest);
        found.ok_or_else(|| ImageError::NoImage { name: name.to_string() })
    }

    fn referrers(
        &self,
        repository: &Repository,
        subject: OciDigest,
        artifact_type: Option<&str>,
        page: &Page,
    ) -> Answer {
        let Some(shelf) = self.shelves.get(repository) else {
            return Answer::Referrers(Vec::new(), false);
        };
        // What is no digest begins the list: whoever asks made it up.
        let after = page.after.as_deref().and_then(|text| text.parse::<OciDigest>().ok());
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = shelf.manifests.range((from, Bound::Unbounded)).filter(|(_, manifest)| {
            let document = &manifest.document;
            let is_kind =
                artifact_type.is_none_or(|kind| document.artifact_type.as_deref() == Some(kind));
            document.subject == Some(subject) && is_kind
        });
        let referrer = |(digest, manifest): (&OciDigest, &Manifest)| Referrer {
            digest: *digest,
            size: self.contents.get(digest).map_or(0, |held| held.content.size),
            document: manifest.document.clone(),
        };
        let (found, is_more) = page.cut(found.map(referrer));
        Answer::Referrers(found, is_more)
    }

    fn list(&self, page: &Page) -> Vec<ImageView> {
        let after: Option<ImageName> = page.after.as_deref().and_then(|text| text.parse().ok());
        let from =
            after.as_ref().map_or(Bound::Unbounded, |name| Bound::Included(&name.repository));
        let shelves = self.shelves.range::<Repository, _>((from, Bound::Unbounded));
        let all = shelves.flat_map(|(repository, shelf)| {
            shelf.tags.iter().map(move |(tag, digest)| (repository, shelf, tag, digest))
        });
        let is_after = |repository: &Repository, tag: &Tag| match &after {
            Some(ImageName { repository: last, reference: Reference::Tag(last_tag) }) => {
                repository > last || tag > last_tag
            }
            _ => true,
        };
        let found = all.filter(|(repository, _, tag, _)| is_after(repository, tag)).filter_map(
            |(repository, shelf, tag, digest)| {
                let reference = Reference::Tag(tag.clone());
                let name = ImageName { repository: repository.clone(), reference };
                Some(self.view(&name, *digest, shelf.manifests.get(digest)?))
            },
        );
        page.cut(found).0
    }

    fn view(&self, name: &ImageName, digest: OciDigest, manifest: &Manifest) -> ImageView {
        let made = self.directory(&name.repository, digest).ok();
        let size = match &made {
            Some(made) => {
                made.parts.values().fold(0, |sum: u64, part| sum.saturating_add(part.size))
            }
            None => {
                let blobs =
                    manifest.document.parts.iter().filter(|part| part.role != Role::Foreign);
                blobs.fold(0, |sum: u64, part| sum.saturating_add(part.size))
            }
        };
        let shelf = self.shelves.get(&name.repository);
        let tags = shelf.into_iter().flat_map(|shelf| &shelf.tags);
        let tags = tags.filter(|(_, tagged)| **tagged == digest).map(|(tag, _)| tag.to_string());
        ImageView {
            name: name.to_string(),
            digest,
            media_type: manifest.document.media_type.clone(),
            size,
            directory: made.map(|made| made.dir),
            tags: tags.collect(),
            since_ms: manifest.since_ms,
        }
    }
}

impl Referrer {
    /// Its annotations.
    #[must_use]
    pub const fn annotations(&self) -> &BTreeMap<String, String> {
        &self.document.annotations
    }
}
