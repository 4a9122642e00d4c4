//! Images of other nodes: fetched from whoever publishes them, checked, and kept as this node's own.
//!
//! What comes is a directory of the store, so its bytes are those that its record names. Everything else is only said by its
//! author: that content has the SHA-256 it is filed under, that a manifest's parts are there, that the directory is put
//! together as nodes do it. All that is checked before the image gets its name here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use catalog::Digest;
use futures::{StreamExt, TryStreamExt};

use super::handle::Handle;
use super::images::ImageFailed;
use crate::blobs::BlobError;
use crate::engine::command::{Command, Response};
use crate::engine::images::document::{Document, MANIFEST_LEN_MAX, Role};
use crate::engine::images::name::{Hasher, ImageName, OciDigest, Reference};
use crate::engine::images::{
    Answer, Command as ImageCommand, Content, ImageDir, Layout, LayoutError, MANIFESTS_MAX, Query,
};

/// Images pulled from peers at once; further ones wait.
pub(super) const PULLS_MAX: usize = 4;
/// Contents of one image whose digests are checked at once.
const CHECKS_MAX: usize = 2;
/// Bytes read from disk at once.
const READ_LEN: usize = 256 << 10;

/// An image that was read and found good.
struct Checked {
    /// Its manifest and those it consists of, each after what it lies in.
    manifests: Vec<(OciDigest, Document)>,
    contents: BTreeMap<OciDigest, Content>,
}

impl Handle {
    /// Fetches the image that others publish under a name, and keeps it under that name, which may have meant another image
    /// here before. Goes on when the caller is gone.
    ///
    /// # Errors
    /// See [`ImageFailed`]; [`crate::engine::images::ImageError::Unpublished`] and `Ambiguous` come as its `Call`.
    pub async fn pull_image(&self, name: &ImageName) -> Result<(), ImageFailed> {
        let (handle, name) = (self.clone(), name.clone());
        let pulling = tokio::spawn(async move { handle.pull(&name, true).await });
        pulling.await.map_err(|_| ImageFailed::Strange)?
    }

    /// Like [`Handle::pull_image`] for a name that means nothing here yet; one that does is left as it is.
    ///
    /// # Errors
    /// See [`Handle::pull_image`].
    pub async fn pull_missing_image(&self, name: &ImageName) -> Result<(), ImageFailed> {
        let (handle, name) = (self.clone(), name.clone());
        let pulling = tokio::spawn(async move { handle.pull(&name, false).await });
        pulling.await.map_err(|_| ImageFailed::Strange)?
    }

    async fn pull(&self, name: &ImageName, is_renewed: bool) -> Result<(), ImageFailed> {
        let _place = self.pulls.acquire().await.map_err(|_| ImageFailed::Strange)?;
        let query = Query::Manifest { name: name.clone() };
        let known = self.image(ImageCommand::Ask(query)).await;
        if let (Ok(Answer::Manifest(found)), false) = (&known, is_renewed)
            && self.blobs.has(&found.content.digest)
        {
            return Ok(());
        }
        let found = self.command(Command::FindImage { name: name.clone() }).await?;
        let Response::FoundImage { digest, nodes, .. } = found else {
            return Err(ImageFailed::Strange);
        };
        tracing::info!(%name, %digest, peers = nodes.len(), "fetching an image from peers");
        // What is no image is left before its files come.
        let sources = self.fetcher.sources(nodes, digest).await;
        let tree = self.fetcher.fetch_manifest(&sources, digest).await?;
        let refused = |source| ImageFailed::Refused { name: name.to_string(), source };
        Layout::read(&tree).map_err(refused)?;
        self.fetcher.fetch_dir(&sources, digest).await?;
        let checked = self.check_image(name, digest).await?;
        self.keep_pulled(name, checked).await
    }

    /// Reads the image that is in a directory of the store.
    async fn check_image(&self, name: &ImageName, dir: Digest) -> Result<Checked, ImageFailed> {
        let refused = |source| ImageFailed::Refused { name: name.to_string(), source };
        let layout = Layout::read(&self.blobs.manifest(dir).await?).map_err(refused)?;
        let index = self.blobs.read(layout.index.digest, MANIFEST_LEN_MAX as u64).await?;
        let (top, kind) = Layout::top(&index).map_err(refused)?;
        if let Reference::Digest(asked) = name.reference
            && asked != top
        {
            return Err(refused(LayoutError::Other { asked, found: Box::new(top) }));
        }
        let made = ImageDir::new(&name.repository, top, &kind, layout.contents.clone());
        if made.dir.digest != dir {
            return Err(refused(LayoutError::Form { made: made.dir.digest, is: dir }));
        }
        let manifests = self.read_manifests(&layout, (top, kind)).await?;
        let manifests = manifests.map_err(refused)?;
        let checks = futures::stream::iter(layout.contents.clone())
            .map(|(said, content)| self.check_content(said, content))
            .buffer_unordered(CHECKS_MAX);
        let wrong = checks.try_filter_map(async |wrong| Ok(wrong)).boxed().try_next().await?;
        match wrong {
            Some(source) => Err(refused(source)),
            None => Ok(Checked { manifests, contents: layout.contents }),
        }
    }

    /// The manifests of an image, all of whose parts and nothing else the directory has.
    async fn read_manifests(
        &self,
        layout: &Layout,
        top: (OciDigest, String),
    ) -> Result<Result<Vec<(OciDigest, Document)>, LayoutError>, BlobError> {
        let mut reached = BTreeSet::from([top.0]);
        let (mut waiting, mut manifests) = (vec![top], Vec::new());
        while let Some((digest, kind)) = waiting.pop() {
            let Some(content) = layout.contents.get(&digest) else {
                return Ok(Err(missing(&digest)));
            };
            if manifests.len() >= MANIFESTS_MAX {
                return Ok(Err(LayoutError::Manifests));
            }
            let bytes = self.blobs.read(content.digest, MANIFEST_LEN_MAX as u64).await?;
            let document = match Document::parse(&bytes, &kind) {
                Ok(document) => document,
                Err(source) => return Ok(Err(LayoutError::Document { digest, source })),
            };
            for part in &document.parts {
                if reached.insert(part.digest) && part.role == Role::Manifest {
                    waiting.push((part.digest, String::new()));
                }
            }
            manifests.push((digest, document));
        }
        let known: BTreeSet<OciDigest> = layout.contents.keys().copied().collect();
        if let Some(strange) = known.difference(&reached).next() {
            let path = format!("blobs/{}/{}", strange.algorithm().as_str(), strange.to_hex());
            return Ok(Err(LayoutError::File { path, is_there: true }));
        }
        Ok(match reached.difference(&known).next() {
            Some(absent) => Err(missing(absent)),
            None => Ok(manifests),
        })
    }

    /// What is wrong with content that is filed under a digest.
    async fn check_content(
        &self,
        said: OciDigest,
        content: Content,
    ) -> Result<Option<LayoutError>, BlobError> {
        let path = self.blobs.verified_path(content.digest).await?;
        let hashed = tokio::task::spawn_blocking(move || {
            hash(&path, said).map_err(|source| BlobError::Io { path, source })
        });
        let found = hashed.await.map_err(|_| BlobError::Stopped)??;
        let damaged = || LayoutError::Damaged { said, found: Box::new(found) };
        Ok((found != said).then(damaged))
    }

    async fn keep_pulled(&self, name: &ImageName, checked: Checked) -> Result<(), ImageFailed> {
        let Checked { mut manifests, contents } = checked;
        let repository = &name.repository;
        let is_manifest: BTreeSet<OciDigest> =
            manifests.iter().map(|(digest, _)| *digest).collect();
        for (digest, content) in &contents {
            if !is_manifest.contains(digest) {
                let (repository, digest, content) = (repository.clone(), *digest, *content);
                self.image(ImageCommand::Add { repository, digest, content }).await?;
            }
        }
        let top = manifests.first().map(|(digest, _)| *digest);
        let mut is_kept = BTreeSet::new();
        // An index is kept after the manifests it names, which may stand before it when several name one.
        while !manifests.is_empty() {
            let is_ready = |(_, document): &(OciDigest, Document)| {
                let mut parts = document.parts.iter().filter(|part| part.role == Role::Manifest);
                parts.all(|part| is_kept.contains(&part.digest))
            };
            let at = manifests.iter().rposition(is_ready).ok_or(ImageFailed::Strange)?;
            let (digest, document) = manifests.swap_remove(at);
            let content = *contents.get(&digest).ok_or(ImageFailed::Strange)?;
            let tags = match &name.reference {
                Reference::Tag(tag) if Some(digest) == top => vec![tag.clone()],
                _ => Vec::new(),
            };
            let (repository, document) = (repository.clone(), Box::new(document));
            let push = ImageCommand::Push { repository, digest, content, tags, document };
            if let Answer::Pushed(Some(made)) = self.image(push).await? {
                self.keep_image(&name.repository, *made).await?;
            }
            is_kept.insert(digest);
        }
        Ok(())
    }
}

fn missing(digest: &OciDigest) -> LayoutError {
    let path = format!("blobs/{}/{}", digest.algorithm().as_str(), digest.to_hex());
    LayoutError::File { path, is_there: false }
}

fn hash(path: &Path, said: OciDigest) -> std::io::Result<OciDigest> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new(said.algorithm());
    let mut buffer = vec![0; READ_LEN];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}
