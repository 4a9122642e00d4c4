//! What comes in, with bounds: JSON bodies, names in addresses, queries.

use std::str::FromStr;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::problem::{Code, Problem};

/// Longest JSON body in bytes; longer ones get the problem `body_too_large`. A submission holds a document of at most 1 MiB
/// (more when escaped) and one reference for each file; larger things are blobs.
pub(super) const JSON_LEN_MAX: usize = 8 << 20;

/// Reads a body of bounded length.
pub(super) async fn bytes(body: Body) -> Result<Bytes, Problem> {
    to_bytes(body, JSON_LEN_MAX).await.map_err(|error| {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(found) = cause {
            if found.to_string().contains("length limit") {
                let detail = format!("the body is longer than {JSON_LEN_MAX} bytes: large data are blobs, see POST /blobs");
                return Problem::new(Code::BodyTooLarge, detail);
            }
            cause = found.source();
        }
        Problem::of(Code::Body, &error)
    })
}

/// Reads bytes as JSON.
pub(super) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        Problem::new(Code::Body, format!("the body is not the JSON it should be: {error}"))
    })
}

/// A name in the address.
pub(super) fn named<T: FromStr>(text: &str) -> Result<T, Problem>
where
    T::Err: std::error::Error,
{
    text.parse().map_err(|error| Problem::of(Code::Path, &error))
}

/// The query, with errors as problems.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(Problem::new(Code::Query, rejection.body_text())),
        }
    }
}
