//! Bytes in and out.

use std::io;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, head, post};
use catalog::Digest;
use futures::TryStreamExt;
use tokio_util::io::{ReaderStream, StreamReader};

use super::body::{Asked, named};
use super::openapi::{answer, bytes, digest, no_body, operation, query, takes_bytes};
use super::problem::{Code, Problem, chain};
use super::{Api, Route};

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
            doc: takes_bytes(operation("addBlob", "Store bytes", &[], &[answer(201, "Added")])),
        },
        Route {
            method: "get",
            path: "/blobs/{digest}",
            handler: get(read),
            doc: operation(
                "readBlob",
                "The bytes, fetched from a peer first when they are not here; with `dir`, a directory's manifest, \
                 with all its files fetched",
                &[digest(), query("dir", "boolean", false)],
                &[bytes("application/octet-stream")],
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
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Stored {
    /// Its name.
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
) -> Result<Response, Problem> {
    let digest: Digest = named(&name)?;
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

async fn look(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, Problem> {
    let digest: Digest = named(&name)?;
    match api.handle.blobs().size(&digest) {
        Some(size) => Ok([(header::CONTENT_LENGTH, HeaderValue::from(size))].into_response()),
        None => Err(Problem::new(Code::NoBlob, format!("{digest} is not on this node"))),
    }
}
