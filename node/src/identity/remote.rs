//! What this node asks providers of identities: what they offer, their keys, tokens. Every answer is bounded in time and length.
//!
//! What a provider offers and its keys are kept for an hour, and for a day when it cannot be reached. A token signed with a key that
//! is not known makes the keys be fetched again, but not more often than once in [`AGAIN_MS`], so that nobody makes the node flood a
//! provider with tokens of invented keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use openidconnect::core::CoreJsonWebKeySet;
use openidconnect::url::Url;
use openidconnect::url::form_urlencoded::{Serializer, byte_serialize};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;

use super::jwt::{Expected, TokenError, check};
use super::provider::{Provider, is_address};
use super::rules::Claims;

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer in bytes that is read; a longer one is an error.
const ANSWER_LEN_MAX: usize = 1 << 20;
/// How long what a provider offers counts as new.
const FRESH_MS: u64 = 3_600_000;
/// How long it is used when the provider cannot be reached.
const STALE_MS: u64 = 24 * 3_600_000;
/// Pause between two attempts to fetch the same, however many ask.
const AGAIN_MS: u64 = 10_000;
/// Providers whose offers are kept: those that are connected. Those of others are forgotten.
const KNOWN_MAX: usize = super::provider::PROVIDERS_MAX;

/// What a provider says that it offers (OpenID Connect Discovery 1.0 §3, RFC 8414).
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Offer {
    issuer: String,
    pub(crate) authorization_endpoint: String,
    pub(crate) token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    pub(crate) device_authorization_endpoint: Option<String>,
    #[serde(default)]
    pub(crate) end_session_endpoint: Option<String>,
    #[serde(default)]
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// Whether it names itself in what the browser brings back (RFC 9207).
    #[serde(default)]
    pub(crate) authorization_response_iss_parameter_supported: bool,
}

/// A provider's answer to a request for tokens. Its secrets are in no debug output.
#[derive(Deserialize)]
pub(crate) struct Tokens {
    #[serde(default)]
    pub(crate) id_token: Option<String>,
    #[serde(default)]
    pub(crate) access_token: Option<String>,
    #[serde(default)]
    pub(crate) refresh_token: Option<String>,
    /// For how many seconds what it gave is good.
    #[serde(default)]
    pub(crate) expires_in: Option<u64>,
}

/// A provider's answer to a device that wants to log in (RFC 8628 §3.2).
#[derive(Deserialize)]
pub(crate) struct DeviceStart {
    pub(crate) device_code: String,
    pub(crate) user_code: String,
    pub(crate) verification_uri: String,
    #[serde(default)]
    pub(crate) verification_uri_complete: Option<String>,
    pub(crate) expires_in: u64,
    #[serde(default)]
    pub(crate) interval: Option<u64>,
}

/// Why a provider gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RemoteError {
    #[error("the provider {provider} cannot be reached ({why}): try it again later")]
    Down { provider: String, why: String },
    #[error("the provider {provider} answers what it should not: {what}")]
    Strange { provider: String, what: &'static str },
    #[error("the provider {provider} refuses: {code}")]
    Refused { provider: String, code: String },
    #[error(transparent)]
    Token(#[from] TokenError),
}

struct Known {
    offer: Arc<Offer>,
    keys: Arc<CoreJsonWebKeySet>,
    fetched_ms: u64,
}

#[derive(Default)]
struct Book {
    known: BTreeMap<String, Known>,
    /// When it last failed, and why.
    tried: BTreeMap<String, (u64, RemoteError)>,
    /// When it was last asked again for keys that it had only now.
    again: BTreeMap<String, u64>,
}

/// The providers, as far as this node has asked them.
pub(crate) struct Remote {
    http: reqwest::Client,
    book: Mutex<Book>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Remote")
    }
}

impl Remote {
    pub(crate) fn new() -> Result<Self, reqwest::Error> {
        // An answer that leads elsewhere is none: secrets go to whom the owner named.
        let redirect = reqwest::redirect::Policy::none();
        let http = reqwest::Client::builder().redirect(redirect).timeout(TIMEOUT).build()?;
        Ok(Self { http, book: Mutex::default() })
    }

    /// What a provider offers.
    pub(crate) async fn offer(
        &self,
        provider: &Provider,
        now_ms: u64,
    ) -> Result<Arc<Offer>, RemoteError> {
        self.know(provider, now_ms, false).await.map(|(offer, _)| offer)
    }

    /// How many keys a provider signs with, asked now.
    pub(crate) async fn test(
        &self,
        provider: &Provider,
        now_ms: u64,
    ) -> Result<(Arc<Offer>, usize), RemoteError> {
        let (offer, keys) = self.fetch(provider, now_ms).await?;
        Ok((offer, keys.keys().len()))
    }

    /// What a provider's clock says (Unix ms, to a second), as far as it tells with its answers (RFC 9110 §6.6.1).
    pub(crate) async fn clock(&self, provider: &Provider) -> Result<Option<u64>, RemoteError> {
        let request = self.http.get(description_of(provider)).send().await;
        let response = request.map_err(|error| down(provider, &error))?;
        let date = response.headers().get("date").and_then(|date| date.to_str().ok());
        Ok(date.and_then(parse_date).map(|s| s.saturating_mul(1_000)))
    }

    /// What a token says, if it is good; keys that the provider has only now are found.
    pub(crate) async fn verify(
        &self,
        provider: &Provider,
        token: &str,
        expected: Expected<'_>,
        now_ms: u64,
    ) -> Result<Claims, RemoteError> {
        let (_, keys) = self.know(provider, now_ms, false).await?;
        match check(token, &keys, expected, now_ms) {
            Err(TokenError::UnknownKey) => {
                let (_, keys) = self.know(provider, now_ms, true).await?;
                Ok(check(token, &keys, expected, now_ms)?)
            }
            checked => Ok(checked?),
        }
    }

    /// What is kept of a provider, fetched when it is old, or `again`.
    async fn know(
        &self,
        provider: &Provider,
        now_ms: u64,
        again: bool,
    ) -> Result<(Arc<Offer>, Arc<CoreJsonWebKeySet>), RemoteError> {
        let kept = {
            let mut book = self.book.lock().await;
            let kept = book.known.get(&provider.issuer);
            let age = kept.map(|known| now_ms.saturating_sub(known.fetched_ms));
            let kept = kept.map(|known| (Arc::clone(&known.offer), Arc::clone(&known.keys)));
            let kept = kept.filter(|_| age.is_some_and(|age| age < STALE_MS));
            let is_recent = |at: u64| now_ms.saturating_sub(at) < AGAIN_MS;
            let failed = book.tried.get(&provider.issuer).filter(|(at, _)| is_recent(*at));
            let is_asked = book.again.get(&provider.issuer).is_some_and(|at| is_recent(*at));
            let is_fresh = age.is_some_and(|age| age < FRESH_MS);
            match (&kept, failed) {
                (Some(kept), Some(_)) => return Ok(kept.clone()),
                (Some(kept), None) if is_fresh && (!again || is_asked) => return Ok(kept.clone()),
                (None, Some((_, error))) => return Err(error.clone()),
                _ => {}
            }
            if again {
                note(&mut book.again, &provider.issuer, now_ms);
            }
            kept
        };
        match (self.fetch(provider, now_ms).await, kept) {
            (Ok(found), _) => Ok(found),
            (Err(error), Some(kept)) => {
                tracing::warn!(provider = provider.name, %error, "what was known of the provider is used");
                Ok(kept)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn fetch(
        &self,
        provider: &Provider,
        now_ms: u64,
    ) -> Result<(Arc<Offer>, Arc<CoreJsonWebKeySet>), RemoteError> {
        let fetched = self.fetch_now(provider).await;
        let mut book = self.book.lock().await;
        match fetched {
            Ok((offer, keys)) => {
                let (offer, keys) = (Arc::new(offer), Arc::new(keys));
                let known = Known {
                    offer: Arc::clone(&offer),
                    keys: Arc::clone(&keys),
                    fetched_ms: now_ms,
                };
                note(&mut book.known, &provider.issuer, known);
                book.tried.remove(&provider.issuer);
                Ok((offer, keys))
            }
            Err(error) => {
                note(&mut book.tried, &provider.issuer, (now_ms, error.clone()));
                Err(error)
            }
        }
    }

    async fn fetch_now(
        &self,
        provider: &Provider,
    ) -> Result<(Offer, CoreJsonWebKeySet), RemoteError> {
        let strange = |what| RemoteError::Strange { provider: provider.name.clone(), what };
        let (status, answer) = self.send(provider, self.http.get(description_of(provider))).await?;
        if status != 200 {
            return Err(strange("there is no description of a provider at its address"));
        }
        let offer: Offer = read(&answer).ok_or_else(|| strange("its description is not one"))?;
        if offer.issuer != provider.issuer {
            return Err(strange("it calls itself otherwise than it is called here"));
        }
        let more = [
            &offer.device_authorization_endpoint,
            &offer.end_session_endpoint,
            &offer.userinfo_endpoint,
        ];
        let addresses = [&offer.authorization_endpoint, &offer.token_endpoint, &offer.jwks_uri];
        if !addresses
            .into_iter()
            .chain(more.into_iter().flatten())
            .all(|address| is_address(address))
        {
            return Err(strange("one of its addresses has no TLS"));
        }
        let (status, answer) = self.send(provider, self.http.get(&offer.jwks_uri)).await?;
        let keys = read(&answer).filter(|_| status == 200);
        Ok((offer, keys.ok_or_else(|| strange("its keys are none"))?))
    }

    /// Asks a provider for something in this node's name. A refusal is the code that the provider gives (RFC 6749 §5.2).
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        (provider, offer): (&Provider, &Offer),
        address: &str,
        fields: &[(&str, &str)],
    ) -> Result<T, RemoteError> {
        let mut fields = fields.to_vec();
        let mut request = self.http.post(address);
        let takes = |method: &str| {
            let methods = offer.token_endpoint_auth_methods_supported.as_ref();
            methods.is_none_or(|methods| methods.iter().any(|known| known == method))
        };
        match &provider.client_secret {
            Some(secret) if takes("client_secret_basic") || !takes("client_secret_post") => {
                let part = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                let pair = format!("{}:{}", part(&provider.client_id), part(&secret.0));
                request = request.header("authorization", format!("Basic {}", BASE64.encode(pair)));
            }
            Some(secret) => {
                fields.push(("client_id", &provider.client_id));
                fields.push(("client_secret", &secret.0));
            }
            None => fields.push(("client_id", &provider.client_id)),
        }
        let body = Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = request
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json")
            .body(body);
        let (status, answer) = self.send(provider, request).await?;
        if status == 200 {
            let what = "its answer is not as it should be";
            return read(&answer)
                .ok_or_else(|| RemoteError::Strange { provider: provider.name.clone(), what });
        }
        let code =
            read::<Value>(&answer).and_then(|answer| answer.get("error")?.as_str().map(word));
        let code = code.unwrap_or_else(|| format!("status {status}"));
        Err(RemoteError::Refused { provider: provider.name.clone(), code })
    }

    /// What a provider says of a person to whoever has its access token (OpenID Connect Core 1.0 §5.3); nothing where it does not say.
    pub(crate) async fn about(
        &self,
        (provider, offer): (&Provider, &Offer),
        access_token: &str,
    ) -> Result<Option<Claims>, RemoteError> {
        let Some(address) = &offer.userinfo_endpoint else { return Ok(None) };
        let request = self.http.get(address).header("accept", "application/json");
        let (status, answer) = self.send(provider, request.bearer_auth(access_token)).await?;
        if status != 200 {
            let code = format!("status {status}");
            return Err(RemoteError::Refused { provider: provider.name.clone(), code });
        }
        // A signed answer (§5.3.2) is not asked for.
        let what = "what it says of a person is not JSON";
        let strange = || RemoteError::Strange { provider: provider.name.clone(), what };
        read(&answer).map(Some).ok_or_else(strange)
    }

    async fn send(
        &self,
        provider: &Provider,
        request: reqwest::RequestBuilder,
    ) -> Result<(u16, Vec<u8>), RemoteError> {
        let down = |error: reqwest::Error| down(provider, &error);
        let mut response = request.send().await.map_err(down)?;
        let status = response.status().as_u16();
        let mut answer = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(down)? {
            if answer.len() + piece.len() > ANSWER_LEN_MAX {
                let what = "an answer of more than 1 MiB";
                return Err(RemoteError::Strange { provider: provider.name.clone(), what });
            }
            answer.extend_from_slice(&piece);
        }
        Ok((status, answer))
    }
}

/// Where a provider says what it offers (OpenID Connect Discovery 1.0 §4).
fn description_of(provider: &Provider) -> String {
    format!("{}/.well-known/openid-configuration", provider.issuer.trim_end_matches('/'))
}

fn down(provider: &Provider, error: &reqwest::Error) -> RemoteError {
    // The error's own text would hold the address, and an address may hold what nobody else is to see.
    let why = if error.is_timeout() {
        "it takes too long"
    } else if error.is_connect() {
        "nobody listens there, or its certificate is not trusted"
    } else {
        "the connection failed"
    };
    RemoteError::Down { provider: provider.name.clone(), why: why.to_owned() }
}

/// Unix seconds of a date as servers write it: `Mon, 23 Nov 2026 14:22:55 GMT`.
fn parse_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split([' ', ':']).collect();
    let [_, day, month, year, hour, minute, second, "GMT"] = words[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let number = |word: &str, most: u64| word.parse::<u64>().ok().filter(|n| *n <= most);
    let (day, year) = (number(day, 31)?, number(year, 9_999).filter(|year| *year >= 1_970)?);
    // Days since the epoch, with years that begin in March, so that a leap day is the last of one.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    let (hour, minute) = (number(hour, 23)?, number(minute, 59)?);
    Some(((days * 24 + hour) * 60 + minute) * 60 + number(second, 60)?)
}

/// Notes something of a provider. When there are more than can be connected, what is known of all is forgotten.
fn note<T>(book: &mut BTreeMap<String, T>, issuer: &str, what: T) {
    if book.len() >= KNOWN_MAX && !book.contains_key(issuer) {
        book.clear();
    }
    book.insert(issuer.to_owned(), what);
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

/// A code of an error that somebody else gives, as it may be shown.
pub(crate) fn word(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).take(64).collect()
}

/// An address with more in its query.
pub(crate) fn with_query(address: &str, fields: &[(&str, &str)]) -> Option<String> {
    let mut url = Url::parse(address).ok()?;
    url.query_pairs_mut().extend_pairs(fields);
    Some(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_servers() {
        assert_eq!(parse_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parse_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse_date("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(parse_date("Mon, 23 Nov 2026 14:22:55 GMT"), Some(1_795_443_775));
        for bad in ["", "now", "Mon, 23 Nov 2026 14:22:55 CET", "Mon, 23 Nov 2026 24:00:00 GMT"] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn words_of_others_bring_nothing_along() {
        assert_eq!(word("invalid_grant\r\nSet-Cookie: x<b>"), "invalid_grantSet-Cookiexb");
        let url = with_query("https://a.example/x?y=1", &[("state", "a&b")]);
        assert_eq!(url.as_deref(), Some("https://a.example/x?y=1&state=a%26b"));
    }
}
