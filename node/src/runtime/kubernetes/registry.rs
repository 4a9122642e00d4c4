//! The registry between the node and the cluster: the node puts images there, and the cluster's machines get them.
//!
//! An image is pushed by its parts, each of which is asked for first, so what is there is not sent again; and it is named by
//! its digest, so nobody can put another in its place. A tag made of the digest stands beside it, because some registries
//! remove what has none.
//!
//! ```text
//!  manifest there? ─yes─► done
//!        └─no─► for each blob: there? ─no─► POST uploads ─► PUT bytes ─┐
//!                                 └─yes──────────────────────────────┴─► PUT manifest
//! ```
//!
//! Format: OCI distribution specification 1.1 ("Pulling manifests", "Pushing a blob monolithically", "Pushing manifests");
//! tokens as in the distribution project's "Token Authentication Specification".

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::fs::File;
use tokio_util::io::ReaderStream;

use crate::runtime::bounded;
use crate::runtime::container::{Blob, OpenImage};

/// How long the registry may take to begin an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one blob may take.
const BLOB_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Longest `config.json` in bytes; a longer one is refused.
const CONFIG_LEN_MAX: u64 = 1 << 20;
/// Longest answer that is read, in bytes: a token, or a complaint.
const ANSWER_LEN_MAX: usize = 64 << 10;
/// Longest name of a repository in bytes, as registries have it.
const NAME_LEN_MAX: usize = 255;

/// Why a registry cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Its address is none.
    #[error(
        "`{given}` is no registry: name it as `HOST/PREFIX` or `HOST:PORT/PREFIX` in small letters, with `http://` in front where it has no TLS"
    )]
    Address {
        /// What was given.
        given: String,
    },
    /// The credentials cannot be read.
    #[error("the credentials in `{}` cannot be used: {problem}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// It does not answer.
    #[error("the registry {host} cannot {action}: {detail}")]
    Unreachable {
        /// Which.
        host: String,
        /// What was tried, as a verb.
        action: &'static str,
        /// Why not.
        detail: String,
    },
    /// It says no.
    #[error("the registry {host} does not {action}: {status} {detail}")]
    Refused {
        /// Which.
        host: String,
        /// What was tried, as a verb.
        action: &'static str,
        /// Its answer's code.
        status: u16,
        /// Its answer, at most [`crate::runtime::DETAIL_LEN_MAX`] bytes.
        detail: String,
    },
    /// An image's file cannot be read.
    #[error("`{}` cannot be read: {kind}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        kind: std::io::ErrorKind,
    },
}

/// Where images go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    scheme: &'static str,
    /// With its port.
    host: String,
    /// The repository of all images.
    name: String,
}

impl Address {
    /// Reads `[http://]HOST[:PORT]/PREFIX`.
    pub(super) fn parse(given: &str) -> Result<Self, RegistryError> {
        let wrong = || RegistryError::Address { given: given.chars().take(200).collect() };
        let (scheme, rest) = match given.strip_prefix("http://") {
            Some(rest) => ("http", rest),
            None => ("https", given.strip_prefix("https://").unwrap_or(given)),
        };
        let (host, name) = rest.split_once('/').ok_or_else(wrong)?;
        let is_host = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        let is_part = |part: &str| {
            let is_plain =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
            !part.is_empty() && part.chars().all(is_plain) && !part.starts_with(['.', '_', '-'])
        };
        let name = name.trim_end_matches('/');
        let is_fine = !host.is_empty()
            && host.chars().all(is_host)
            && name.len() <= NAME_LEN_MAX
            && name.split('/').all(is_part);
        if !is_fine {
            return Err(wrong());
        }
        Ok(Self { scheme, host: host.to_owned(), name: name.to_owned() })
    }

    /// What the cluster calls an image there.
    pub(super) fn reference(&self, digest: &str) -> String {
        format!("{}/{}@{digest}", self.host, self.name)
    }

    fn url(&self, rest: &str) -> String {
        format!("{}://{}/v2/{}/{rest}", self.scheme, self.host, self.name)
    }
}

/// A user and a password.
#[derive(Clone, PartialEq, Eq)]
struct Credentials {
    user: String,
    password: String,
}

/// How a registry wants to be convinced.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Reads `WWW-Authenticate`.
fn challenge(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut fields = parameters(rest);
    Some(Challenge::Bearer {
        realm: fields.remove("realm")?,
        service: fields.remove("service"),
        scope: fields.remove("scope"),
    })
}

/// Reads `a="b",c="d"`. What is none is passed over.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        fields.insert(name, value.to_owned());
        rest = after;
    }
    fields
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Default, Deserialize)]
struct DockerAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// The credentials for a registry in a `config.json` as Docker has it, if it has some.
fn credentials(text: &str, host: &str) -> Result<Option<Credentials>, &'static str> {
    let config: DockerConfig =
        serde_json::from_str(text).map_err(|_| "it is no `config.json` as Docker has it")?;
    let bare = |name: &str| {
        let name = name.split_once("://").map_or(name, |(_, rest)| rest);
        name.split('/').next().unwrap_or_default().to_owned()
    };
    let found = config.auths.into_iter().find(|(name, _)| bare(name) == host);
    let Some((_, found)) = found else { return Ok(None) };
    if let (Some(user), Some(password)) = (found.username, found.password) {
        return Ok(Some(Credentials { user, password }));
    }
    let packed = found.auth.filter(|text| !text.is_empty()).ok_or(
        "it leaves the password to a credential helper; write `auth` into it for this registry",
    )?;
    let bytes = STANDARD.decode(packed).map_err(|_| "its `auth` is not in base64")?;
    let text = String::from_utf8(bytes).map_err(|_| "its `auth` is not text")?;
    let (user, password) = text.split_once(':').ok_or("its `auth` is not `USER:PASSWORD`")?;
    Ok(Some(Credentials { user: user.to_owned(), password: password.to_owned() }))
}

/// A registry, and how the node is known there.
pub(super) struct Registry {
    address: Address,
    http: Client,
    credentials: Option<Credentials>,
}

impl Registry {
    /// Reads the address and the credentials; asks nothing yet.
    pub(super) fn open(given: &str, config: Option<&Path>) -> Result<Self, RegistryError> {
        let address = Address::parse(given)?;
        let credentials = match config {
            Some(path) => {
                let wrong = |problem: &str| RegistryError::Credentials {
                    path: path.to_owned(),
                    problem: problem.to_owned(),
                };
                let meta = std::fs::metadata(path).map_err(|error| wrong(&error.to_string()))?;
                if meta.len() > CONFIG_LEN_MAX {
                    return Err(wrong("it is too long"));
                }
                let text =
                    std::fs::read_to_string(path).map_err(|error| wrong(&error.to_string()))?;
                credentials(&text, &address.host).map_err(wrong)?
            }
            None => None,
        };
        let http = Client::builder().connect_timeout(CONNECT_TIMEOUT).build();
        let http = http.map_err(|error| RegistryError::Unreachable {
            host: address.host.clone(),
            action: "be asked",
            detail: error.to_string(),
        })?;
        Ok(Self { address, http, credentials })
    }

    /// Puts an image there, unless it is there, and gives its name for the cluster and whether it had to be put there.
    pub(super) async fn push(&self, image: &OpenImage) -> Result<(String, bool), RegistryError> {
        let reference = self.address.reference(&image.digest);
        let mut session = Session { registry: self, authorization: None };
        let manifest = format!("manifests/{}", image.digest);
        if session.is_there("look for the image", &manifest, Some(&image.media_type)).await? {
            return Ok((reference, false));
        }
        for blob in &image.blobs {
            let path = format!("blobs/{}", blob.digest);
            if !session.is_there("look for a part of the image", &path, None).await? {
                session.upload(blob).await?;
            }
        }
        let tag = format!("manifests/{}", image.digest.replace(':', "-"));
        let action = "take the image's manifest";
        let url = self.address.url(&tag);
        let put = session.send(action, Method::PUT, &url, |request| {
            request.header(CONTENT_TYPE, &image.media_type).body(image.manifest.clone())
        });
        accepted(self, action, put.await?, &[StatusCode::CREATED, StatusCode::OK]).await?;
        Ok((reference, true))
    }

    fn unreachable(&self, action: &'static str, error: &reqwest::Error) -> RegistryError {
        RegistryError::Unreachable { host: self.address.host.clone(), action, detail: told(error) }
    }
}

/// What an error says with its causes, but without the address, in which there may be a secret.
fn told(error: &reqwest::Error) -> String {
    let mut text = match () {
        () if error.is_timeout() => "no answer in time".to_owned(),
        () if error.is_connect() => "there is no connection".to_owned(),
        () => "the answer broke off".to_owned(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    bounded(text)
}

/// Takes an answer if it is one of these.
async fn accepted(
    registry: &Registry,
    action: &'static str,
    mut answer: Response,
    fine: &[StatusCode],
) -> Result<Response, RegistryError> {
    if fine.contains(&answer.status()) {
        return Ok(answer);
    }
    let status = answer.status().as_u16();
    let mut said = Vec::new();
    while said.len() < ANSWER_LEN_MAX
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        said.extend_from_slice(&chunk);
    }
    let detail = bounded(String::from_utf8_lossy(&said).trim().to_owned());
    Err(RegistryError::Refused { host: registry.address.host.clone(), action, status, detail })
}

/// The questions of one push.
struct Session<'a> {
    registry: &'a Registry,
    /// As it was asked for.
    authorization: Option<String>,
}

impl Session<'_> {
    /// Sends a request, and again with credentials when they are asked for. Its body can be sent twice.
    async fn send(
        &mut self,
        action: &'static str,
        method: Method,
        url: &str,
        fill: impl Fn(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let answer = self.try_send(action, method.clone(), url, &fill).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let header = answer.headers().get(WWW_AUTHENTICATE).and_then(|text| text.to_str().ok());
        let Some(challenge) = header.and_then(challenge) else { return Ok(answer) };
        let Some(authorization) = self.authorize(challenge).await? else { return Ok(answer) };
        self.authorization = Some(authorization);
        self.try_send(action, method, url, &fill).await
    }

    async fn try_send(
        &self,
        action: &'static str,
        method: Method,
        url: &str,
        fill: &impl Fn(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let mut request = fill(self.registry.http.request(method, url).timeout(ANSWER_TIMEOUT));
        if let Some(authorization) = &self.authorization {
            request = request.header(reqwest::header::AUTHORIZATION, authorization);
        }
        request.send().await.map_err(|error| self.registry.unreachable(action, &error))
    }

    /// What convinces the registry, if the node has it.
    async fn authorize(&self, challenge: Challenge) -> Result<Option<String>, RegistryError> {
        let registry = self.registry;
        let basic = registry.credentials.as_ref().map(|known| {
            let both = STANDARD.encode(format!("{}:{}", known.user, known.password));
            format!("Basic {both}")
        });
        let (realm, service, scope) = match challenge {
            Challenge::Basic => return Ok(basic),
            Challenge::Bearer { realm, service, scope } => (realm, service, scope),
        };
        let action = "give a token";
        let refused = |detail: &str| RegistryError::Refused {
            host: registry.address.host.clone(),
            action,
            status: 401,
            detail: detail.to_owned(),
        };
        let url = Url::parse(&realm).map_err(|_| refused("its token service has no address"))?;
        // A password goes nowhere in clear that the site has not named so.
        if url.scheme() != "https" && registry.address.scheme == "https" {
            return Err(refused("its token service has no TLS"));
        }
        let scope =
            scope.unwrap_or_else(|| format!("repository:{}:pull,push", registry.address.name));
        let mut query = vec![("scope", scope)];
        query.extend(service.map(|service| ("service", service)));
        let mut request = registry.http.get(url).query(&query).timeout(ANSWER_TIMEOUT);
        if let Some(basic) = basic {
            request = request.header(reqwest::header::AUTHORIZATION, basic);
        }
        let answer = request.send().await.map_err(|error| registry.unreachable(action, &error))?;
        let answer = accepted(registry, action, answer, &[StatusCode::OK]).await?;
        let token = token(answer).await.ok_or_else(|| refused("its token service gives none"))?;
        Ok(Some(format!("Bearer {token}")))
    }

    async fn is_there(
        &mut self,
        action: &'static str,
        path: &str,
        accept: Option<&str>,
    ) -> Result<bool, RegistryError> {
        let url = self.registry.address.url(path);
        let asked = self.send(action, Method::HEAD, &url, |request| match accept {
            Some(kind) => request.header(reqwest::header::ACCEPT, kind),
            None => request,
        });
        let answer = asked.await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        accepted(self.registry, action, answer, &[StatusCode::OK]).await?;
        Ok(true)
    }

    /// Sends one blob at once.
    async fn upload(&mut self, blob: &Blob) -> Result<(), RegistryError> {
        let registry = self.registry;
        let action = "take a part of the image";
        let begin = registry.address.url("blobs/uploads/");
        let begun =
            self.send(action, Method::POST, &begin, |request| request.header(CONTENT_LENGTH, 0));
        let begun = accepted(registry, action, begun.await?, &[StatusCode::ACCEPTED]).await?;
        let lost = |detail: &str| RegistryError::Refused {
            host: registry.address.host.clone(),
            action,
            status: 202,
            detail: detail.to_owned(),
        };
        let place = begun.headers().get(LOCATION).and_then(|text| text.to_str().ok());
        let mut place = place
            .and_then(|place| begun.url().join(place).ok())
            .ok_or_else(|| lost("it says nowhere to send it to"))?;
        if place.scheme() != registry.address.scheme {
            return Err(lost("it would have it sent in another way"));
        }
        let is_own = place.host_str() == begun.url().host_str();
        place.query_pairs_mut().append_pair("digest", &blob.digest);
        let file = File::open(&blob.path)
            .await
            .map_err(|error| RegistryError::File { path: blob.path.clone(), kind: error.kind() })?;
        let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, 256 << 10));
        let mut request = registry
            .http
            .put(place)
            .timeout(BLOB_TIMEOUT)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, blob.size)
            .body(body);
        // Elsewhere the address itself is the right to send.
        if let Some(authorization) = self.authorization.as_ref().filter(|_| is_own) {
            request = request.header(reqwest::header::AUTHORIZATION, authorization);
        }
        let sent = request.send().await.map_err(|error| registry.unreachable(action, &error))?;
        accepted(registry, action, sent, &[StatusCode::CREATED]).await.map(drop)
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

async fn token(mut answer: Response) -> Option<String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.ok()? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > ANSWER_LEN_MAX {
            return None;
        }
    }
    let found: Token = serde_json::from_slice(&bytes).ok()?;
    // What would end the header is no token.
    found.token.or(found.access_token).filter(|token| token.chars().all(|c| c.is_ascii_graphic()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_has_a_host_and_a_prefix() {
        let parsed = Address::parse("registry.example.org:5000/team/oc").unwrap();
        assert_eq!(parsed.reference("sha256:00"), "registry.example.org:5000/team/oc@sha256:00");
        assert_eq!(parsed.url("blobs/x"), "https://registry.example.org:5000/v2/team/oc/blobs/x");
        let plain = Address::parse("http://10.0.0.1:5000/oc/").unwrap();
        assert_eq!(plain.url(""), "http://10.0.0.1:5000/v2/oc/");
        for wrong in
            ["", "host", "host/", "/oc", "host/A", "host/a//b", "ho st/a", "host/../a", "a@b/c"]
        {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Address::parse(&format!("h/{}", "a".repeat(NAME_LEN_MAX + 1))).is_err());
    }

    #[test]
    fn challenges_are_understood() {
        assert_eq!(challenge("Basic realm=\"x\""), Some(Challenge::Basic));
        let header = "Bearer realm=\"https://auth.example.org/token\",service=\"reg\",scope=\"repository:a/b:pull,push\"";
        let expected = Challenge::Bearer {
            realm: "https://auth.example.org/token".to_owned(),
            service: Some("reg".to_owned()),
            scope: Some("repository:a/b:pull,push".to_owned()),
        };
        assert_eq!(challenge(header), Some(expected));
        for none in ["", "Negotiate", "Bearer", "Bearer service=\"x\"", "Bearer realm"] {
            assert_eq!(challenge(none), None, "{none}");
        }
    }

    #[test]
    fn credentials_are_found_by_their_host() {
        let auth = STANDARD.encode("me:se:cret");
        let text = format!(
            r#"{{"auths": {{"https://a.example.org/v2/": {{"auth": "{auth}"}}, "b:5000": {{"username": "u", "password": "p"}}, "c": {{}}}}}}"#
        );
        let found = |host: &str| {
            let found = credentials(&text, host).map_err(str::to_owned)?;
            Ok::<_, String>(found.map(|known| (known.user, known.password)))
        };
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(found("a.example.org"), Ok(pair("me", "se:cret")));
        assert_eq!(found("b:5000"), Ok(pair("u", "p")));
        assert_eq!(found("other"), Ok(None));
        assert!(found("c").unwrap_err().contains("credential helper"));
        assert!(credentials("\"c\"", "a").is_err());
    }
}
