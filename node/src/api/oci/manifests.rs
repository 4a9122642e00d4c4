//! Manifests: read, push, remove.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::error::{Code, RegistryError};
use super::{Asked, BASE, Registry, digest_header, drain, reader, text_header};
use crate::engine::command::CommandError;
use crate::engine::images::document::{Document, DocumentError, MANIFEST_LEN_MAX, Role};
use crate::engine::images::name::{
    Algorithm, ImageName, NameError, OciDigest, Reference, Repository, Tag,
};
use crate::engine::images::{Answer, Command, Content, ImageError, ManifestView, Query};
use crate::shell::{CallError, ImageFailed};

/// Most tags in one request; with more it is refused.
const TAGS_MAX: usize = 32;

impl Registry {
    /// A manifest, or with `with_body` false only what it is.
    pub(super) async fn read_manifest(
        &self,
        name: ImageName,
        with_body: bool,
    ) -> Result<Response, RegistryError> {
        let found = self.manifest(&name).await?;
        let headers = [
            (header::CONTENT_TYPE, text_header(&found.media_type)),
            (header::CONTENT_LENGTH, found.content.size.into()),
            (header::ETAG, text_header(&format!("\"{}\"", found.digest))),
            digest_header(&found.digest),
        ];
        if !with_body {
            return Ok((StatusCode::OK, headers).into_response());
        }
        let bytes = self.api.handle.blobs().read(found.content.digest, MANIFEST_LEN_MAX as u64);
        match bytes.await {
            Ok(bytes) => Ok((StatusCode::OK, headers, bytes).into_response()),
            Err(error) => {
                self.api.handle.forget_lost(&name.repository, vec![found.digest]).await?;
                Err(error.into())
            }
        }
    }

    /// A manifest that is known and on disk. What is not is looked for among what other nodes publish: then the whole image
    /// is fetched from them before the answer, and is an image of this node.
    async fn manifest(&self, name: &ImageName) -> Result<ManifestView, RegistryError> {
        let error = match self.known_manifest(name).await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {
                let what =
                    format!("the manifest of `{name}` is not on disk any more: push it again");
                RegistryError::new(Code::ManifestUnknown, what)
            }
            Err(error) if is_unknown(&error) => error.into(),
            Err(error) => return Err(error.into()),
        };
        match self.api.handle.pull_missing_image(name).await {
            Ok(()) => self.known_manifest(name).await?.ok_or(error),
            Err(ImageFailed::Call(CallError::Command(CommandError::Image(
                ImageError::Unpublished { .. },
            )))) => Err(error),
            Err(failed) => Err(failed.into()),
        }
    }

    /// A manifest that is known; none when it is not on disk any more.
    async fn known_manifest(&self, name: &ImageName) -> Result<Option<ManifestView>, ImageFailed> {
        let query = Query::Manifest { name: name.clone() };
        match self.api.handle.image(Command::Ask(query)).await? {
            Answer::Manifest(found) => {
                Ok(Some(*found).filter(|f| self.api.handle.blobs().has(&f.content.digest)))
            }
            _ => Err(ImageFailed::Strange),
        }
    }

    pub(super) async fn push_manifest(
        &self,
        name: ImageName,
        asked: &Asked,
        body: Body,
    ) -> Result<Response, RegistryError> {
        let kind = asked.header(&header::CONTENT_TYPE).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_owned();
        let mut tags = tags_of(asked)?;
        let bytes = read(asked, body).await?;
        let document = Document::parse(&bytes, &kind)?;
        let digest = match &name.reference {
            Reference::Digest(said) => {
                let digest = OciDigest::of(said.algorithm(), &bytes);
                if digest != *said {
                    let message = format!("the manifest that was sent as {said} is {digest}");
                    return Err(RegistryError::new(Code::DigestInvalid, message));
                }
                digest
            }
            Reference::Tag(tag) => {
                tags = vec![tag.clone()];
                OciDigest::of(Algorithm::Sha256, &bytes)
            }
        };
        let repository = name.repository.clone();
        self.check_parts(&repository, &document).await?;
        let added = self.api.handle.blobs().add_bytes(bytes).await?;
        let content = Content { digest: added.digest, size: added.size };
        let subject = document.subject;
        let push = Command::Push {
            repository: repository.clone(),
            digest,
            content,
            tags: tags.clone(),
            document: Box::new(document),
        };
        let Answer::Pushed(made) = self.api.handle.image(push).await? else {
            return Err(unexpected());
        };
        if let Some(made) = made {
            self.api.handle.keep_image(&repository, *made).await?;
        }
        let location = format!("{BASE}/{repository}/manifests/{digest}");
        let headers = [(header::LOCATION, text_header(&location)), digest_header(&digest)];
        let mut response = (StatusCode::CREATED, headers).into_response();
        if let Some(subject) = subject {
            let name = HeaderName::from_static("oci-subject");
            response.headers_mut().insert(name, text_header(&subject.to_string()));
        }
        if matches!(name.reference, Reference::Digest(_)) {
            for tag in tags {
                let name = HeaderName::from_static("oci-tag");
                response.headers_mut().append(name, text_header(tag.as_str()));
            }
        }
        Ok(response)
    }

    /// Every part is known and on disk. The engine knows only whether it should be, so it is looked for before.
    async fn check_parts(
        &self,
        repository: &Repository,
        document: &Document,
    ) -> Result<(), RegistryError> {
        let parts = document.parts.iter().map(|part| part.digest).collect();
        let found = self.api.handle.image_contents(repository, parts).await?;
        let missing = document
            .parts
            .iter()
            .zip(found)
            .filter(|(part, found)| found.is_none() && part.role != Role::Foreign);
        let missing: Vec<OciDigest> = missing.map(|(part, _)| part.digest).collect();
        match missing.first() {
            Some(first) => Err(ImageError::Missing { count: missing.len(), first: *first }.into()),
            None => Ok(()),
        }
    }

    pub(super) async fn remove_manifest(&self, name: ImageName) -> Result<Response, RegistryError> {
        self.api.handle.image(Command::Remove { name }).await?;
        Ok(StatusCode::ACCEPTED.into_response())
    }
}

/// Whether a name means nothing on this node.
fn is_unknown(error: &ImageFailed) -> bool {
    matches!(
        error,
        ImageFailed::Call(CallError::Command(CommandError::Image(
            ImageError::NoImage { .. } | ImageError::NoRepository { .. }
        )))
    )
}

/// The tags that a push by digest asks for beside.
fn tags_of(asked: &Asked) -> Result<Vec<Tag>, RegistryError> {
    let tags = asked.query.iter().filter(|(name, _)| name == "tag").map(|(_, tag)| tag.parse());
    let mut tags = tags.collect::<Result<Vec<Tag>, NameError>>()?;
    tags.sort();
    tags.dedup();
    if tags.len() > TAGS_MAX {
        let message = format!("{} tags in one request, at most {TAGS_MAX} are taken", tags.len());
        let error = RegistryError::new(Code::Unsupported, message);
        return Err(error.with_status(StatusCode::URI_TOO_LONG));
    }
    Ok(tags)
}

async fn read(asked: &Asked, body: Body) -> Result<Bytes, RegistryError> {
    let mut stream = reader(body);
    let mut bytes = Vec::new();
    let said = asked.length().filter(|len| *len > MANIFEST_LEN_MAX as u64);
    let size = match said {
        Some(size) => size,
        None => {
            let mut start = (&mut stream).take(MANIFEST_LEN_MAX as u64 + 1);
            start.read_to_end(&mut bytes).await.map_err(|error| {
                let message = format!("the manifest broke off: {error}");
                RegistryError::new(Code::ManifestInvalid, message)
            })?;
            bytes.len() as u64
        }
    };
    if size > MANIFEST_LEN_MAX as u64 {
        drain(&mut stream).await;
        return Err(DocumentError::TooLong { size }.into());
    }
    Ok(bytes.into())
}

/// An answer of another kind than the question asked for: a fault of this program, which must not look like data.
pub(super) fn unexpected() -> RegistryError {
    RegistryError::new(
        Code::Unknown,
        "the node gave an answer to another question: report this as a bug",
    )
    .with_header(header::RETRY_AFTER, HeaderValue::from_static("60"))
}
