//! Who may speak to the API: whoever knows the token of the home or is a user of it ([`super::caller`]), at an address no name server had a say in.
//!
//! Clients of image registries know passwords rather than tokens: there the token is the password of any user. A browser
//! sends a password that it was once given along with whatever request any page makes, so the registry refuses requests
//! that a page made.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Api;
use super::caller::{admit, bearer};
use super::oci::RegistryError;
use super::problem::{Code, Problem};
use super::tls::Encrypted;
use crate::identity::{Caller, Entrance, SecretKind};

/// Longest password in bytes that is looked at, as it comes encoded; a longer one is no token.
const BASIC_LEN_MAX: usize = 4_096;

/// Lets a request pass when its Host is local and it is known who asks; whether it may is for [`super::rights`].
///
/// The Host is checked because a web page can make its reader's browser ask 127.0.0.1 under a name of the page's choice (DNS
/// rebinding); such a request carries that name.
pub(super) async fn guard(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    match allow(&api, &mut request).await {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn allow(api: &Api, request: &mut Request) -> Result<(), Problem> {
    check_host(request)?;
    admit(api, request).await
}

/// Lets a request to the image registry pass when its Host is local, no web page made it, and its token or password is right.
pub(super) async fn guard_registry(
    State(api): State<Api>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Err(problem) = check_host(&request).and_then(|()| check_origin(request.headers())) {
        return RegistryError::denied(problem.detail).into_response();
    }
    let secret =
        bearer(request.headers()).map(str::to_owned).or_else(|| password(request.headers()));
    let token = secret.filter(|secret| secret.starts_with(SecretKind::Token.prefix()));
    let known = match token {
        Some(token) => {
            api.identity.renew(&token).await;
            api.identity.by_token(&token).ok_or_else(|| {
                let detail = "the access token is not good: it was revoked, it is too old, or its user was removed";
                Problem::new(Code::Token, detail)
            })
        }
        None => {
            let checked = api.token.check_password(request.headers());
            checked.map(|()| (Caller::Owner, Entrance::HomeToken))
        }
    };
    match known {
        Ok((caller, entrance)) => {
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(entrance);
            next.run(request).await
        }
        Err(problem) => RegistryError::unauthorized(problem.detail).into_response(),
    }
}

/// The password that a client of registries sends.
fn password(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, pair) = value.split_once(' ')?;
    let pair = Some(pair.trim()).filter(|pair| pair.len() <= BASIC_LEN_MAX)?;
    let pair = scheme.eq_ignore_ascii_case("basic").then(|| BASE64.decode(pair).ok())??;
    let pair = String::from_utf8(pair).ok()?;
    pair.split_once(':').map(|(_, password)| password.to_owned())
}

/// The token, kept as its hash so that comparing takes the same time for any wrong one.
#[derive(Clone)]
pub(super) struct Token(blake3::Hash);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    pub(super) fn new(token: &str) -> Self {
        Self(blake3::hash(token.as_bytes()))
    }

    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        let detail = match given {
            // `blake3::Hash` compares in constant time.
            Some(token) if blake3::hash(token.as_bytes()) == self.0 => return Ok(()),
            Some(_) => {
                "the token is not this node's: it stands in the file `api.token` of its home"
            }
            None => {
                "send `Authorization: Bearer TOKEN` with the token in `api.token` of the node's home"
            }
        };
        Err(Problem::new(Code::Token, detail))
    }

    /// Like [`Token::check`]; the token may also be the password of any user.
    fn check_password(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let basic = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
            .map(|(_, pair)| pair.trim());
        let Some(pair) = basic else {
            return self.check(headers).map_err(|_| {
                let detail = "log in with any user and the text in `api.token` of the node's home as the password";
                Problem::new(Code::Token, detail)
            });
        };
        let pair = Some(pair).filter(|pair| pair.len() <= BASIC_LEN_MAX);
        let pair = pair.and_then(|pair| BASE64.decode(pair).ok()).unwrap_or_default();
        let password = pair.iter().position(|b| *b == b':').map(|at| &pair[at + 1..]);
        if password.is_some_and(|password| blake3::hash(password) == self.0) {
            return Ok(());
        }
        let detail =
            "the password is not this node's token: it stands in the file `api.token` of its home";
        Err(Problem::new(Code::Token, detail))
    }
}

/// Refuses what a web page asks for: no page has anything to do with the registry.
fn check_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    if headers.contains_key(header::ORIGIN) || !matches!(site, None | Some("none" | "same-origin"))
    {
        return Err(Problem::new(Code::Host, "web pages may not speak to the image registry"));
    }
    Ok(())
}

/// Whether no name server had a say in the address.
pub(super) fn check_host(request: &Request) -> Result<(), Problem> {
    if request.extensions().get::<Encrypted>().is_some() {
        return Ok(());
    }
    let header = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let host = request.uri().authority().map(|authority| authority.as_str()).or(header);
    match host {
        Some(host) if is_local(host) => Ok(()),
        _ => {
            let detail = "the Host header has to be `localhost` or an IP address";
            Err(Problem::new(Code::Host, detail))
        }
    }
}

/// Whether a `host[:port]` is the word `localhost` or an IP address.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((v6, rest)) if rest.is_empty() || is_port(rest) => v6,
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            Some(_) => return false,
            None => host,
        },
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_localhost_and_addresses_are_local() {
        for good in [
            "localhost",
            "LocalHost:80",
            "127.0.0.1",
            "127.0.0.1:4000",
            "[::1]:80",
            "[::1]",
            "10.1.2.3",
        ] {
            assert!(is_local(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:80",
            "localhost.evil.example",
            "127.0.0.1.evil",
            "[::1",
            "[x]:1",
            "a:b:c",
        ] {
            assert!(!is_local(bad), "{bad}");
        }
    }

    #[test]
    fn only_the_whole_token_passes() {
        let token = Token::new("s3cret");
        let check = |value: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            token.check(&headers).is_ok()
        };
        assert!(check(Some("Bearer s3cret")) && check(Some("bearer s3cret")));
        for bad in [
            None,
            Some("Bearer s3cre"),
            Some("Bearer s3crett"),
            Some("Basic s3cret"),
            Some("s3cret"),
            Some("Bearer "),
        ] {
            assert!(!check(bad), "{bad:?}");
        }
    }

    #[test]
    fn the_registry_takes_the_token_as_a_password_of_any_user() {
        let token = Token::new("s3cret");
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            token.check_password(&headers).is_ok()
        };
        let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair));
        assert!(check("Bearer s3cret"));
        assert!(check(&basic("any:s3cret")) && check(&basic(":s3cret")));
        assert!(check(&basic("any:s3cret").replace("Basic", "basic")));
        for bad in [
            basic("any:s3cre"),
            basic("any:s3cret:"),
            basic("s3cret"),
            basic("s3cret:"),
            basic(""),
            basic(&"x".repeat(10_000)),
            "Basic s3cret".to_owned(),
            "Basic %".to_owned(),
            "Bearer s3cre".to_owned(),
        ] {
            assert!(!check(&bad), "{bad}");
        }
        assert!(token.check_password(&HeaderMap::new()).is_err());
    }

    #[test]
    fn what_a_web_page_asks_of_the_registry_is_refused() {
        let check = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            check_origin(&headers).is_ok()
        };
        assert!(check("accept", "*/*") && check("sec-fetch-site", "none"));
        assert!(!check("origin", "https://evil.example") && !check("origin", "null"));
        assert!(!check("sec-fetch-site", "cross-site") && !check("sec-fetch-site", "same-site"));
    }
}
