//! Answers that the caller has already are not sent again.
//!
//! JSON of a read carries an `ETag`, the hash of its bytes; a read with the same in `If-None-Match` gets 304 and no body.

use axum::body::{Body, HttpBody as _, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Longest answer that gets a tag, in bytes; longer ones are sent as they are.
const TAGGED_LEN_MAX: u64 = 4 << 20;

/// Tags JSON answers of reads.
pub(super) async fn tag(request: Request, next: Next) -> Response {
    if *request.method() != Method::GET {
        return next.run(request).await;
    }
    let known = request.headers().get(header::IF_NONE_MATCH).cloned();
    let response = next.run(request).await;
    let is_json = |value: &HeaderValue| value.as_bytes().starts_with(b"application/json");
    let length = response.body().size_hint().exact();
    if response.status() != StatusCode::OK
        || response.headers().contains_key(header::ETAG)
        || !response.headers().get(header::CONTENT_TYPE).is_some_and(is_json)
        || length.is_none_or(|length| length > TAGGED_LEN_MAX)
    {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // It is in memory whole: its length is known exactly.
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let tag = format!("\"{}\"", &blake3::hash(&bytes).to_hex()[..32]);
    // Private: what one caller may see another may not.
    parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if known.is_some_and(|known| is_among(&known, &tag)) {
        return (StatusCode::NOT_MODIFIED, tagged(parts.headers, &tag)).into_response();
    }
    parts.headers = tagged(parts.headers, &tag);
    Response::from_parts(parts, Body::from(bytes))
}

fn tagged(mut headers: HeaderMap, tag: &str) -> HeaderMap {
    if let Ok(value) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, value);
    }
    headers
}

/// Whether the tag stands in a header of tags that somebody has; weak ones are compared like others (RFC 9110, 13.1.2).
fn is_among(known: &HeaderValue, tag: &str) -> bool {
    let Ok(known) = known.to_str() else { return false };
    known.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_in_a_list_and_weak_as_well() {
        let among = |text: &'static str| is_among(&HeaderValue::from_static(text), "\"a\"");
        for good in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "*"] {
            assert!(among(good), "{good}");
        }
        for bad in ["\"b\"", "a", ""] {
            assert!(!among(bad), "{bad}");
        }
    }
}
