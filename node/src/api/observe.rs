//! Every request gets a name, is counted and told in the log.
//!
//! The name is the caller's `x-request-id` where it is one of ours or looks like one, else a new one; it stands in the answer, in every
//! line that is logged meanwhile, and in the audit log.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

use super::metrics::Metrics;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest name that is taken from a caller, in bytes; a longer one is replaced.
const ID_LEN_MAX: usize = 64;
/// The route of what leads nowhere.
const NOWHERE: &str = "none";

/// The name of a request.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) Arc<str>);

/// Names the request and counts it.
pub(super) async fn observe(
    State(metrics): State<Arc<Metrics>>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = RequestId(given(&request).unwrap_or_else(new_id).into());
    let method = word(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or(NOWHERE, MatchedPath::as_str);
    request.extensions_mut().insert(id.clone());
    let span = tracing::info_span!("request", id = %id.0, method, route);
    let begun = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let (status, took) = (response.status().as_u16(), begun.elapsed());
    metrics.count(method, route, status, took);
    span.in_scope(|| tracing::debug!(status, micros = took.as_micros() as u64, "answered"));
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// The caller's own name of it, where it is short and plain.
fn given(request: &Request) -> Option<String> {
    let text = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let is_good = (1..=ID_LEN_MAX).contains(&text.len()) && text.bytes().all(is_plain);
    is_good.then(|| text.to_owned())
}

fn new_id() -> String {
    let mut bytes = [0_u8; 16];
    // Without random bytes requests share a name, which is no reason to refuse them.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The method as one of few words: callers may send any.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[test]
    fn a_plain_short_name_is_kept_and_any_other_replaced() {
        let named = |name: &str| {
            let request = Request::builder().header(REQUEST_ID, name).body(Body::empty()).unwrap();
            given(&request)
        };
        assert_eq!(named("run-7.a_B"), Some("run-7.a_B".to_owned()));
        for bad in ["", "a b", "a\"b", &"x".repeat(ID_LEN_MAX + 1)] {
            assert_eq!(named(bad), None, "{bad}");
        }
        assert_eq!(new_id().len(), 32);
    }
}
