//! Configurations and layers: look, read, remove.

use std::io::SeekFrom;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::error::{Code, RegistryError};
use super::{Asked, Registry, digest_header, text_header};
use crate::blobs::BlobError;
use crate::engine::images::name::{OciDigest, Repository};
use crate::engine::images::{Command, Content};

/// Bytes read from disk at once.
const READ_LEN: usize = 256 << 10;

impl Registry {
    pub(super) async fn look_blob(
        &self,
        repository: &Repository,
        digest: OciDigest,
    ) -> Result<Response, RegistryError> {
        let content = self.content(repository, digest).await?;
        Ok((StatusCode::OK, headers(&digest, content.size)).into_response())
    }

    pub(super) async fn read_blob(
        &self,
        repository: &Repository,
        digest: OciDigest,
        asked: &Asked,
    ) -> Result<Response, RegistryError> {
        let content = self.content(repository, digest).await?;
        let range = asked
            .header(&header::RANGE)
            .map_or(Range::Whole, |text| Range::parse(text, content.size));
        let path = match self.api.handle.blobs().verified_path(content.digest).await {
            Ok(path) => path,
            Err(error) => {
                if matches!(error, BlobError::NotFound { .. } | BlobError::Corrupt { .. }) {
                    self.api.handle.forget_lost(repository, vec![digest]).await?;
                }
                return Err(error.into());
            }
        };
        let unreadable = |error: std::io::Error| {
            RegistryError::new(Code::Unknown, format!("{digest} cannot be read from disk: {error}"))
        };
        let mut file = tokio::fs::File::open(&path).await.map_err(unreadable)?;
        let (status, from, len) = match range {
            Range::Whole => (StatusCode::OK, 0, content.size),
            Range::Part { from, len } => (StatusCode::PARTIAL_CONTENT, from, len),
            Range::Outside => {
                let range = text_header(&format!("bytes */{}", content.size));
                let message = format!("{digest} has {} bytes", content.size);
                return Err(RegistryError::new(Code::SizeInvalid, message)
                    .with_status(StatusCode::RANGE_NOT_SATISFIABLE)
                    .with_header(header::CONTENT_RANGE, range));
            }
        };
        file.seek(SeekFrom::Start(from)).await.map_err(unreadable)?;
        let body = Body::from_stream(ReaderStream::with_capacity(file.take(len), READ_LEN));
        let mut response = (status, headers(&digest, len), body).into_response();
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {from}-{}/{}", from + len - 1, content.size);
            response.headers_mut().insert(header::CONTENT_RANGE, text_header(&range));
        }
        Ok(response)
    }

    pub(super) async fn remove_blob(
        &self,
        repository: Repository,
        digest: OciDigest,
    ) -> Result<Response, RegistryError> {
        self.api.handle.image(Command::Unlink { repository, digest }).await?;
        Ok(StatusCode::ACCEPTED.into_response())
    }

    /// Content of a repository that is on disk.
    pub(super) async fn content(
        &self,
        repository: &Repository,
        digest: OciDigest,
    ) -> Result<Content, RegistryError> {
        let found = self.api.handle.image_contents(repository, vec![digest]).await?;
        found.into_iter().next().flatten().ok_or_else(|| {
            RegistryError::new(Code::BlobUnknown, format!("there is no {digest} in `{repository}`"))
        })
    }
}

fn headers(digest: &OciDigest, len: u64) -> [(header::HeaderName, HeaderValue); 5] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, len.into()),
        (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        (header::ETAG, text_header(&format!("\"{digest}\""))),
        digest_header(digest),
    ]
}

/// Which bytes are wanted (RFC 9110, section 14). Several ranges at once, and what cannot be read, mean all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Whole,
    Part { from: u64, len: u64 },
    Outside,
}

impl Range {
    fn parse(text: &str, size: u64) -> Self {
        let Some((first, last)) =
            text.strip_prefix("bytes=").and_then(|range| range.split_once('-'))
        else {
            return Self::Whole;
        };
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
        };
        let (from, end) = match (number(first), number(last)) {
            (Some(from), Some(last)) if last >= from => (from, last.saturating_add(1).min(size)),
            (Some(from), None) if last.is_empty() => (from, size),
            (None, Some(0)) if first.is_empty() => return Self::Outside,
            (None, Some(n)) if first.is_empty() => (size.saturating_sub(n), size),
            _ => return Self::Whole,
        };
        if from < end { Self::Part { from, len: end - from } } else { Self::Outside }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_as_http_says() {
        let check = |text: &str, range: Range| assert_eq!(Range::parse(text, 10), range, "{text}");
        let part = |from, len| Range::Part { from, len };
        check("bytes=0-3", part(0, 4));
        check("bytes=3-", part(3, 7));
        check("bytes=-4", part(6, 4));
        check("bytes=-40", part(0, 10));
        check("bytes=9-99999999999999999999999", part(9, 1));
        check("bytes=10-", Range::Outside);
        check("bytes=-0", Range::Outside);
        for whole in [
            "bytes=5-4",
            "bytes=0-1,3-4",
            "items=0-1",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=+1-2",
        ] {
            check(whole, Range::Whole);
        }
        assert_eq!(Range::parse("bytes=0-", 0), Range::Outside);
        assert_eq!(Range::parse("bytes=-5", 0), Range::Outside);
    }
}
