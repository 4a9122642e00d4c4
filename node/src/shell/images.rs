//! Images as directories: what the engine says of them, and what has to be on disk for that.

use catalog::Digest;
use scheduler::value::DirRef;

use super::fetch::FetchFailed;
use super::handle::{CallError, Handle};
use crate::blobs::BlobError;
use crate::engine::command::{Command, Response};
use crate::engine::images::name::{ImageName, OciDigest, Repository};
use crate::engine::images::{
    Answer, Command as ImageCommand, Content, ImageDir, LayoutError, Query,
};

/// Why an image is not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageFailed {
    /// The node does not know it, or does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It cannot be kept.
    #[error("the image cannot be kept")]
    Store(#[from] BlobError),
    /// A part of it is not on disk any more.
    #[error(
        "{digest}, a part of the image, is not on this node's disk any more: push the image again"
    )]
    Gone {
        /// Which.
        digest: OciDigest,
    },
    /// It cannot be fetched.
    #[error("the image cannot be fetched")]
    Fetch(#[from] FetchFailed),
    /// What peers have under its name is not what it should be.
    #[error("the image that others publish as `{name}` is refused")]
    Refused {
        /// As asked.
        name: String,
        /// Why.
        #[source]
        source: LayoutError,
    },
    /// The node answered something else: a fault of this program.
    #[error("the node gave an answer to another question: report this as a bug")]
    Strange,
}

impl Handle {
    /// Asks or tells the node something about images. What was answered is durable.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn image(&self, command: ImageCommand) -> Result<Answer, ImageFailed> {
        match self.command(Command::Image(command)).await? {
            Response::Image(answer) => Ok(answer),
            _ => Err(ImageFailed::Strange),
        }
    }

    /// The directory in the OCI image layout that an image's name stands for; it is in the store, whole.
    ///
    /// # Errors
    /// See [`ImageFailed`].
    pub async fn resolve_image(&self, name: &ImageName) -> Result<DirRef, ImageFailed> {
        let query = Query::Resolve { name: name.clone() };
        match self.image(ImageCommand::Ask(query)).await? {
            Answer::Directory(made) => self.keep_image(&name.repository, *made).await,
            _ => Err(ImageFailed::Strange),
        }
    }

    /// Sees to it that an image's directory is in the store.
    ///
    /// # Errors
    /// See [`ImageFailed`].
    pub async fn keep_image(
        &self,
        repository: &Repository,
        made: ImageDir,
    ) -> Result<DirRef, ImageFailed> {
        let missing = made.parts.iter().find(|(_, content)| !self.blobs.has(&content.digest));
        if let Some((digest, _)) = missing {
            self.forget_lost(repository, vec![*digest]).await?;
            return Err(ImageFailed::Gone { digest: *digest });
        }
        for bytes in made.own {
            if !self.blobs.has(&Digest::of(&bytes)) {
                self.blobs.add_bytes(bytes).await?;
            }
        }
        Ok(made.dir)
    }

    /// Which of these contents of a repository are known and on disk, in the order of the question. What is known and not on
    /// disk any more is forgotten.
    ///
    /// # Errors
    /// See [`ImageFailed`].
    pub async fn image_contents(
        &self,
        repository: &Repository,
        digests: Vec<OciDigest>,
    ) -> Result<Vec<Option<Content>>, ImageFailed> {
        let query = Query::Find { repository: repository.clone(), digests: digests.clone() };
        let Answer::Contents(mut found) = self.image(ImageCommand::Ask(query)).await? else {
            return Err(ImageFailed::Strange);
        };
        let mut lost = Vec::new();
        for (found, digest) in found.iter_mut().zip(digests) {
            if found.take_if(|content| !self.blobs.has(&content.digest)).is_some() {
                lost.push(digest);
            }
        }
        if !lost.is_empty() {
            self.forget_lost(repository, lost).await?;
        }
        Ok(found)
    }

    /// Tells the node that contents are not on disk any more.
    ///
    /// # Errors
    /// See [`ImageFailed`].
    pub async fn forget_lost(
        &self,
        repository: &Repository,
        digests: Vec<OciDigest>,
    ) -> Result<(), ImageFailed> {
        tracing::info!(%repository, n = digests.len(), "parts of images are not on disk any more");
        let repository = repository.clone();
        self.image(ImageCommand::Lost { repository, digests }).await.map(drop)
    }
}
