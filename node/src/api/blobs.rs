//! Bytes in and out.

use std::io;
use std::ops::Range;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, head, post};
use catalog::Digest;
use futures::{StreamExt, TryStreamExt};
use tokio_util::io::{ReaderStream, StreamReader};

use super::body::{Asked, named};
use super::openapi::{
    answers, bytes, digest, header as parameter, no_body, operation, query, takes_bytes,
};
use super::problem::{Code, Problem, chain};
use super::{Api, Route};
use crate::schema;

/// Bytes read from disk at once.
const READ_LEN: usize = 256 << 10;

/// How long the rest of a refused upload is taken in and dropped before the answer; whoever sends for longer may find the
/// connection closed instead of the answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            method: "post",
            path: "/blobs",
            handler: post(add),
            doc: takes_bytes(operation("addBlob", "Store bytes", &[], &[answers::<Stored>(201)])),
        },
        Route {
            method: "get",
            path: "/blobs/{digest}",
            handler: get(read),
            doc: operation(
                "readBlob",
                "The bytes, fetched from a peer first when they are not here; with `dir`, a directory's manifest, \
                 with all its files fetched; with `Range`, a part alone, of which no more than that is fetched",
                &[
                    digest(),
                    query("dir", "boolean", false),
                    parameter("Range", "One range of bytes, `bytes=FROM-TO`"),
                ],
                &[bytes("application/octet-stream"), no_body(206, "The bytes of the range")],
            ),
        },
        Route {
            method: "head",
            path: "/blobs/{digest}",
            handler: head(look),
            doc: operation(
                "hasBlob",
                "Whether the bytes are on this node, and their length",
                &[digest()],
                &[no_body(200, "They are here"), no_body(404, "They are not")],
            ),
        },
    ]
}

/// What was stored.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Added)]
pub(crate) struct Stored {
    /// Its name.
    #[schema(value_type = schema::Digest)]
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

async fn add(State(api): State<Api>, body: Body) -> Result<(StatusCode, Json<Stored>), Problem> {
    // The store refuses what is larger than a blob may be, or than its quota.
    let stream = body.into_data_stream().map_err(io::Error::other);
    let mut stream = StreamReader::new(stream);
    match api.handle.blobs().add_stream(&mut stream).await {
        Ok(added) => {
            Ok((StatusCode::CREATED, Json(Stored { digest: added.digest, size: added.size })))
        }
        Err(error) => {
            // Whoever is still sending would find the connection closed and never read why.
            let mut nowhere = tokio::io::sink();
            let rest = tokio::io::copy(&mut stream, &mut nowhere);
            let _ended = tokio::time::timeout(DRAIN_TIMEOUT, rest).await;
            Err(error.into())
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(default)]
    dir: bool,
}

async fn read(
    State(api): State<Api>,
    Path(name): Path<String>,
    Asked(asked): Asked<Read>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let digest: Digest = named(&name)?;
    if let Some(wanted) = headers.get(header::RANGE).filter(|_| !asked.dir) {
        return read_range(&api, digest, wanted).await;
    }
    if asked.dir || !api.handle.blobs().has(&digest) {
        api.handle.fetch(digest, asked.dir).await.map_err(|error| {
            let detail =
                format!("{digest} is not on this node and cannot be fetched: {}", chain(&error));
            Problem::new(Code::NoBlob, detail)
        })?;
    }
    let path = api.handle.blobs().verified_path(digest).await?;
    let unreadable = |error: io::Error| {
        Problem::new(Code::Storage, format!("{digest} cannot be read from disk: {error}"))
    };
    let file = tokio::fs::File::open(&path).await.map_err(unreadable)?;
    let size = file.metadata().await.map_err(unreadable)?.len();
    let body = Body::from_stream(ReaderStream::with_capacity(file, READ_LEN));
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(([kind, (header::CONTENT_LENGTH, size.into())], body).into_response())
}

/// A part of content, and no more of it is fetched.
async fn read_range(api: &Api, digest: Digest, wanted: &HeaderValue) -> Result<Response, Problem> {
    let mut source = api.handle.ranges(digest).await?;
    let size = source.size();
    let range = wanted.to_str().ok().and_then(|text| parse_range(text, size)).ok_or_else(|| {
        let detail = format!(
            "{digest} has {size} bytes; a range of them is written `bytes=FROM-TO`, and there may be one"
        );
        Problem::new(Code::RangeOutside, detail)
    })?;
    let said = format!("bytes {}-{}/{size}", range.start, range.end - 1);
    let length = range.end - range.start;
    // What begins well is an answer; a failure later cuts it short of its length.
    let mut rest = range;
    let first = source.next(&mut rest).await?;
    let more = futures::stream::try_unfold((source, rest), |(mut source, mut rest)| async move {
        let bytes = source.next(&mut rest).await.map_err(io::Error::other)?;
        Ok::<_, io::Error>((!bytes.is_empty()).then_some((bytes, (source, rest))))
    });
    let body = Body::from_stream(futures::stream::once(async { Ok(first) }).chain(more));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, length.into()),
        (header::CONTENT_RANGE, HeaderValue::from_str(&said).map_err(|_| super::unexpected())?),
    ];
    Ok((StatusCode::PARTIAL_CONTENT, headers, body).into_response())
}

/// The bytes that `bytes=FROM-TO`, `bytes=FROM-` or `bytes=-LAST` means, when there are any.
fn parse_range(text: &str, size: u64) -> Option<Range<u64>> {
    let (from, to) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let range = match (from.trim().is_empty(), to.trim().is_empty()) {
        (true, true) => return None,
        (true, false) => size.saturating_sub(number(to)?)..size,
        (false, true) => number(from)?..size,
        (false, false) => number(from)?..number(to)?.checked_add(1)?.min(size),
    };
    (range.start < range.end).then_some(range)
}

async fn look(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, Problem> {
    let digest: Digest = named(&name)?;
    match api.handle.blobs().size(&digest) {
        Some(size) => Ok([(header::CONTENT_LENGTH, HeaderValue::from(size))].into_response()),
        None => Err(Problem::new(Code::NoBlob, format!("{digest} is not on this node"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_means_them() {
        for (text, range) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=2-5", Some(2..6)),
            ("bytes=8-99", Some(8..10)),
            ("bytes=8-", Some(8..10)),
            ("bytes=-3", Some(7..10)),
            ("bytes=-30", Some(0..10)),
            ("bytes=0-18446744073709551614", Some(0..10)),
        ] {
            assert_eq!(parse_range(text, 10), range, "{text}");
        }
        for text in
            ["bytes=", "bytes=-", "bytes=5-4", "bytes=10-", "bytes=-0", "bytes=1-2,4-5", "2-5", ""]
        {
            assert_eq!(parse_range(text, 10), None, "{text}");
        }
        assert_eq!(parse_range("bytes=0-18446744073709551615", 10), None);
        assert_eq!(parse_range("bytes=0-", 0), None);
    }
}
