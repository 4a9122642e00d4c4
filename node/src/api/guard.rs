//! Who may speak to the API: whoever knows the token of the home, at an address no name server had a say in.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::problem::{Code, Problem};

/// Lets a request pass when its Host is local and its token is right.
///
/// The Host is checked because a web page can make its reader's browser ask 127.0.0.1 under a name of the page's choice (DNS
/// rebinding); such a request carries that name.
pub(super) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    if let Err(problem) = check_host(&request).and_then(|()| api.token.check(request.headers())) {
        return problem.into_response();
    }
    next.run(request).await
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

    fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
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
}

fn check_host(request: &Request) -> Result<(), Problem> {
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
}
