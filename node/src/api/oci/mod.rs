//! The image registry: the OCI distribution API, version 2, for clients such as `docker`, `podman` and `skopeo`.
//!
//! ```text
//! docker login -u any -p "$(cat ~/.opencloud/api.token)" localhost:PORT
//! docker push localhost:PORT/docker.io/library/debian:stable-slim
//! ```
//!
//! Layers, configurations and manifests become content of the node's store; what they are called and which tags there are
//! the engine keeps ([`crate::engine::images`]). A pushed image is a directory in the OCI image layout, by whose digest
//! workflows name it.
//!
//! Guarded like the rest of the API, with two differences: clients of registries know Basic authentication, so the token
//! may come as the password of any user, and so may the access token of one, who may do what the policies say ([`rights`]); and a request with an `Origin` is refused, because browsers send passwords along
//! by themselves. Errors have the form of the specification.
//!
//! A manifest that is not here is looked for in the catalogue, by name and tag or by digest; what another node publishes is
//! fetched from all nodes that do, and then served as this node's own ([`crate::engine::images::offer`] says which image a
//! name means). A name that is here means what it means here, whatever others publish.
//!
//! Specification: OCI distribution 1.1, whole. Signatures and lists of contents come as referrers; those of other nodes'
//! images stay with them.

mod address;
mod blobs;
mod error;
mod lists;
mod manifests;
mod rights;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures::StreamExt;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use self::address::Address;
use self::error::Code;
pub(super) use self::error::RegistryError;
use self::uploads::Uploads;
use super::{Api, audit, guard, limits};
use crate::engine::images::name::OciDigest;
use crate::identity::Caller;

/// Where the registry's addresses begin.
const BASE: &str = "/v2";
/// By this header older clients know a registry.
const VERSION: (HeaderName, HeaderValue) = (
    HeaderName::from_static("docker-distribution-api-version"),
    HeaderValue::from_static("registry/2.0"),
);
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// How long a client may send nothing in the middle of a body; then what came is kept and the request ends.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How long the rest of a refused body is taken in and dropped before the answer; whoever sends for longer may find the
/// connection closed instead of the answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// What the registry has at hand.
#[derive(Clone)]
struct Registry {
    api: Api,
    uploads: Arc<Uploads>,
}

/// The registry's part of the server.
pub(super) fn router(api: Api) -> Router {
    let uploads = Arc::new(Uploads::default());
    tokio::spawn(Arc::clone(&uploads).expire_until(api.stopping.clone()));
    let registry = Registry { api: api.clone(), uploads };
    Router::new()
        .route(BASE, any(serve))
        .route("/v2/", any(serve))
        .route("/v2/{*rest}", any(serve))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&api.audit), audit::audit))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&api.limits), limits::admitted))
        .layer(axum::middleware::from_fn_with_state(api, guard::guard_registry))
        .with_state(registry)
}

async fn serve(State(registry): State<Registry>, request: Request) -> Response {
    let mut response = match registry.answer(request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    let (name, value) = VERSION;
    response.headers_mut().insert(name, value);
    response
}

/// What a request says beside its body.
struct Asked {
    headers: HeaderMap,
    query: Vec<(String, String)>,
}

impl Asked {
    /// The first value of a parameter.
    fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A header as text.
    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body's length, when it is said.
    fn length(&self) -> Option<u64> {
        self.header(&header::CONTENT_LENGTH).and_then(|text| text.parse().ok())
    }
}

impl Registry {
    async fn answer(&self, request: Request) -> Result<Response, RegistryError> {
        let (parts, body) = request.into_parts();
        let address = Address::parse(parts.uri.path())?;
        let query = Query::try_from_uri(&parts.uri)
            .map_err(|rejection| RegistryError::new(Code::Unsupported, rejection.body_text()))?;
        let mut asked = Asked { headers: parts.headers, query: query.0 };
        let method = &parts.method;
        // The guard lets nobody in whom it does not know.
        let Some(caller) = parts.extensions.get::<Caller>() else {
            return Err(RegistryError::denied("it is not known who asks".to_owned()));
        };
        if *caller != Caller::Owner && asked.param("from").is_none() {
            // Content is taken over from where its name says that whoever asks may read, or not at all.
            asked.query.retain(|(name, _)| name != "mount");
        }
        rights::check(&self.api, caller, method, (&address, &asked)).await?;
        match address {
            Address::Root if is_read(method) => {
                Ok(axum::Json(serde_json::json!({})).into_response())
            }
            Address::Catalog if is_read(method) => self.repositories(&asked).await,
            Address::Tags(repository) if is_read(method) => self.tags(repository, &asked).await,
            Address::Referrers(repository, subject) if is_read(method) => {
                self.referrers(repository, subject, &asked).await
            }
            Address::Blob(repository, digest) => match *method {
                Method::GET => self.read_blob(&repository, digest, &asked).await,
                Method::HEAD => self.look_blob(&repository, digest).await,
                Method::DELETE => self.remove_blob(repository, digest).await,
                _ => Err(not_here(method)),
            },
            Address::Manifest(name) => match *method {
                Method::GET => self.read_manifest(name, true).await,
                Method::HEAD => self.read_manifest(name, false).await,
                Method::PUT => self.push_manifest(name, &asked, body).await,
                Method::DELETE => self.remove_manifest(name).await,
                _ => Err(not_here(method)),
            },
            Address::Uploads(repository) if *method == Method::POST => {
                self.begin_upload(repository, &asked, body).await
            }
            Address::Upload(repository, id) => match *method {
                Method::GET => self.look_upload(&repository, id).await,
                Method::PATCH => self.add_to_upload(&repository, id, &asked, body).await,
                Method::PUT => self.end_upload(repository, id, &asked, body).await,
                Method::DELETE => self.cancel_upload(&repository, id),
                _ => Err(not_here(method)),
            },
            _ => Err(not_here(method)),
        }
    }
}

fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

fn not_here(method: &Method) -> RegistryError {
    let message = format!("{method} is not possible at this address");
    RegistryError::new(Code::Unsupported, message).with_status(StatusCode::METHOD_NOT_ALLOWED)
}

/// The bytes of a body. A client that falls silent ends it with an error.
fn reader(body: Body) -> impl AsyncRead + Unpin + Send {
    let frames = futures::stream::unfold(Some(body.into_data_stream()), |frames| async move {
        let mut frames = frames?;
        match tokio::time::timeout(SILENCE_MAX, frames.next()).await {
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(frames))),
            Ok(Some(Err(error))) => Some((Err(std::io::Error::other(error)), None)),
            Ok(None) => None,
            Err(_) => Some((Err(std::io::ErrorKind::TimedOut.into()), None)),
        }
    });
    StreamReader::new(Box::pin(frames))
}

/// Takes in the rest of a refused body: whoever is still sending would find the connection closed and never read why.
async fn drain(stream: &mut (impl AsyncRead + Unpin)) {
    let mut nowhere = tokio::io::sink();
    let rest = tokio::io::copy(stream, &mut nowhere);
    let _ended = tokio::time::timeout(DRAIN_TIMEOUT, rest).await;
}

/// A header that a digest makes.
fn digest_header(digest: &OciDigest) -> (HeaderName, HeaderValue) {
    (CONTENT_DIGEST, text_header(&digest.to_string()))
}

/// Text of ours as a header's value: names, digests and numbers have no other characters than such may have.
fn text_header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
