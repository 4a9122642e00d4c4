//! Speaks to the node of a home over its API.

use std::net::SocketAddr;
use std::time::Duration;

use catalog::Digest;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Upgraded};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::CliError;
use crate::api::{BASE, Problem};
use crate::engine::images::name::{OciDigest, Reference, Repository};
use crate::session::PROTOCOL;
use crate::shell::Home;

/// How long a connection to this machine may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer of plain data may take: longer than the node's own limit for a command, so that its word comes first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// The API of one node.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// Of the API.
    base: String,
    /// Of the image registry.
    registry: String,
    token: String,
}

impl Client {
    /// The node of a home.
    pub(crate) fn of(home: &Home) -> Result<Self, CliError> {
        Self::at(home.api_address()?, home.api_token()?)
    }

    /// A node by address and token.
    pub(crate) fn at(address: SocketAddr, token: String) -> Result<Self, CliError> {
        // The address is this machine's, so no proxy of the environment has a part in it.
        let http =
            reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT).build()?;
        let (base, registry) = (format!("http://{address}{BASE}"), format!("http://{address}/v2"));
        Ok(Self { http, base, registry, token })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    /// Asks for data.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, CliError> {
        let request = self.request(Method::GET, path).query(query).timeout(ANSWER_TIMEOUT);
        read(accepted(request.send().await?).await?).await
    }

    /// Sends data and gets data back.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let request = self.request(Method::POST, path).json(body).timeout(ANSWER_TIMEOUT);
        read(accepted(request.send().await?).await?).await
    }

    /// Like [`Client::post`] for work that takes as long as it takes.
    pub(crate) async fn post_long<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        read(accepted(self.request(Method::POST, path).json(body).send().await?).await?).await
    }

    /// Puts data in the place of other data and gets data back.
    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let request = self.request(Method::PUT, path).json(body).timeout(ANSWER_TIMEOUT);
        read(accepted(request.send().await?).await?).await
    }

    /// Like [`Client::put`] for work that takes as long as it takes.
    pub(crate) async fn put_slowly<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        read(accepted(self.request(Method::PUT, path).json(body).send().await?).await?).await
    }

    /// Puts data where there is no answer but that it was taken.
    pub(crate) async fn put_told(&self, path: &str, body: &impl Serialize) -> Result<(), CliError> {
        let request = self.request(Method::PUT, path).json(body).timeout(ANSWER_TIMEOUT);
        accepted(request.send().await?).await.map(drop)
    }

    /// A part of a blob, to be read piece by piece.
    pub(crate) async fn open_range(
        &self,
        digest: &Digest,
        range: &std::ops::RangeInclusive<u64>,
    ) -> Result<Response, CliError> {
        let request = self.request(Method::GET, &format!("/blobs/{digest}"));
        let range = format!("bytes={}-{}", range.start(), range.end());
        accepted(request.header("range", range).send().await?).await
    }

    /// Asks for data whose answer may take as long as a large file takes.
    pub(crate) async fn get_slowly<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, CliError> {
        read(accepted(self.request(Method::GET, path).query(query).send().await?).await?).await
    }

    /// Sends data and gets data back, however long that takes.
    pub(crate) async fn post_slowly<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        read(accepted(self.request(Method::POST, path).json(body).send().await?).await?).await
    }

    /// Changes something and gets it back.
    pub(crate) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let request = self.request(Method::PATCH, path).query(query).json(body);
        read(accepted(request.timeout(ANSWER_TIMEOUT).send().await?).await?).await
    }

    /// Sends data to which there is no answer but that it was taken.
    pub(crate) async fn tell(&self, path: &str, body: &impl Serialize) -> Result<(), CliError> {
        let request = self.request(Method::POST, path).json(body).timeout(ANSWER_TIMEOUT);
        accepted(request.send().await?).await.map(drop)
    }

    /// Has something removed.
    pub(crate) async fn delete(&self, path: &str, query: &[(&str, &str)]) -> Result<(), CliError> {
        let request = self.request(Method::DELETE, path).query(query).timeout(ANSWER_TIMEOUT);
        accepted(request.send().await?).await.map(drop)
    }

    /// Sends data under a key, so that the node acts on it once however often it is sent.
    pub(crate) async fn post_once<T: DeserializeOwned>(
        &self,
        path: &str,
        key: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let request = || {
            let request = self.request(Method::POST, path).header("idempotency-key", key);
            request.json(body).timeout(ANSWER_TIMEOUT).send()
        };
        let response = match request().await {
            // The answer may have been lost on its way; the node knows the key.
            Err(error) if !error.is_connect() && !error.is_timeout() => request().await?,
            sent => sent?,
        };
        read(accepted(response).await?).await
    }

    /// An answer in bytes, to be read piece by piece.
    pub(crate) async fn open(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Response, CliError> {
        accepted(self.request(Method::GET, path).query(query).send().await?).await
    }

    /// A connection that is no HTTP any more but a session inside a task.
    pub(crate) async fn upgrade(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Upgraded, CliError> {
        let request = self.request(Method::GET, path).query(query);
        let request = request.header("connection", "upgrade").header("upgrade", PROTOCOL);
        let response = request.send().await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response.upgrade().await?);
        }
        let strange = not_a_node(&response);
        accepted(response).await.and(Err(strange))
    }

    /// The length of a blob that is on the node.
    pub(crate) async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, CliError> {
        let path = format!("/blobs/{digest}");
        let response = self.request(Method::HEAD, &path).timeout(ANSWER_TIMEOUT).send().await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !response.status().is_success() {
            return Err(not_a_node(&response));
        }
        let length = response.headers().get("content-length").and_then(|v| v.to_str().ok());
        match length.and_then(|text| text.parse().ok()) {
            Some(size) => Ok(Some(size)),
            None => Err(not_a_node(&response)),
        }
    }

    /// Whether a repository of images has this content.
    pub(crate) async fn has_content(
        &self,
        repository: &Repository,
        digest: &OciDigest,
    ) -> Result<bool, CliError> {
        let request = self.image(Method::HEAD, &format!("/{repository}/blobs/{digest}"));
        let response = request.timeout(ANSWER_TIMEOUT).send().await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            _ => registered(response).await.map(|()| true),
        }
    }

    /// Sends content to a repository of images.
    pub(crate) async fn push_content(
        &self,
        repository: &Repository,
        digest: &OciDigest,
        body: reqwest::Body,
    ) -> Result<(), CliError> {
        let path = format!("/{repository}/blobs/uploads/");
        let request = self.image(Method::POST, &path).query(&[("digest", digest.to_string())]);
        registered(request.body(body).send().await?).await
    }

    /// Sends a manifest to a repository of images.
    pub(crate) async fn push_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        kind: &str,
        bytes: Vec<u8>,
    ) -> Result<(), CliError> {
        let request = self.image(Method::PUT, &format!("/{repository}/manifests/{reference}"));
        let request = request.header("content-type", kind).body(bytes);
        registered(request.timeout(ANSWER_TIMEOUT).send().await?).await
    }

    fn image(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.registry)).bearer_auth(&self.token)
    }

    /// Stores bytes on the node.
    pub(crate) async fn add_blob<T: DeserializeOwned>(
        &self,
        body: impl Into<reqwest::Body>,
    ) -> Result<T, CliError> {
        read(accepted(self.request(Method::POST, "/blobs").body(body).send().await?).await?).await
    }
}

fn not_a_node(response: &Response) -> CliError {
    CliError::NotANode { url: response.url().to_string(), status: response.status().as_u16() }
}

/// The response when it is not an error.
async fn accepted(response: Response) -> Result<Response, CliError> {
    if response.status().is_success() {
        return Ok(response);
    }
    let strange = not_a_node(&response);
    match response.json::<Problem>().await {
        Ok(problem) => Err(CliError::Problem(Box::new(problem))),
        Err(_) => Err(strange),
    }
}

/// Fails when the image registry's answer is an error.
async fn registered(response: Response) -> Result<(), CliError> {
    #[derive(serde::Deserialize)]
    struct Answer {
        errors: Vec<Told>,
    }
    #[derive(serde::Deserialize)]
    struct Told {
        message: String,
    }
    if response.status().is_success() {
        return Ok(());
    }
    let strange = not_a_node(&response);
    let told =
        response.json::<Answer>().await.ok().and_then(|answer| answer.errors.into_iter().next());
    Err(told.map_or(strange, |told| CliError::Registry { message: told.message }))
}

async fn read<T: DeserializeOwned>(response: Response) -> Result<T, CliError> {
    let strange = not_a_node(&response);
    response.json().await.map_err(|error| if error.is_decode() { strange } else { error.into() })
}
