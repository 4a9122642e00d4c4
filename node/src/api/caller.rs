//! Who asks, and whether it may: by the token of the home, an access token, or the session of a browser.
//!
//! A browser sends its cookie with whatever request any page makes. So a cookie counts only for requests that the node's own pages
//! made: `SameSite=Strict` keeps it back from other sites, `Sec-Fetch-Site` and `Origin` must say that the page is the node's, and
//! what changes something must carry a header that no form and no foreign page can set.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::problem::{Code, Problem};
use super::{Api, BASE};
use crate::identity::{Caller, Entrance, LoginError, RemoteError, SecretKind};

/// The header that a page's own program sends with each change.
pub(super) const PAGE_HEADER: HeaderName = HeaderName::from_static("x-opencloud");
/// Longest text of cookies that is looked at; a longer one has none.
const COOKIES_LEN_MAX: usize = 8_192;
/// Where logins begin and end, open to everybody; below [`BASE`].
const LOGIN: &str = "/login/";

/// Finds out who asks; whether it may is for [`super::rights`]. Handlers find the [`Caller`] and its [`Entrance`] among the request's
/// extensions; on the way to a login there is neither.
pub(super) async fn admit(api: &Api, request: &mut Request) -> Result<(), Problem> {
    let path = request.uri().path();
    let path = path.strip_prefix(BASE).unwrap_or(path);
    if path.starts_with(LOGIN) {
        return check_page(request.headers());
    }
    // Copies, because nobody else may look at a body while the request waits for a provider's keys.
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let (caller, entrance) = enter(api, &method, &headers).await?;
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(entrance);
    Ok(())
}

async fn enter(
    api: &Api,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(Caller, Entrance), Problem> {
    if let Some(token) = access_token(headers) {
        api.identity.renew(token).await;
        let known = api.identity.by_token(token);
        let detail =
            "the access token is not good: it was revoked, it is too old, or its user was removed";
        return known.ok_or_else(|| Problem::new(Code::Token, detail));
    }
    if !headers.contains_key(header::AUTHORIZATION)
        && let Some(secret) = session(api, headers)
    {
        check_page(headers)?;
        check_change(method, headers)?;
        api.identity.renew(secret).await;
        let detail = "the session has ended: log in again";
        let known = api.identity.by_session(secret);
        let (entered, is_late) = known.ok_or_else(|| Problem::new(Code::Token, detail))?;
        if is_late {
            api.identity.note_use(secret);
        }
        return Ok(entered);
    }
    if let Some(token) = bearer(headers).filter(|token| is_signed(token)) {
        return api.identity.by_bearer(token).await.map_err(|error| match error {
            LoginError::Remote(RemoteError::Down { .. } | RemoteError::Strange { .. }) => {
                error.into()
            }
            error => Problem::of(Code::Token, &error),
        });
    }
    api.token.check(headers)?;
    Ok((Caller::Owner, Entrance::HomeToken))
}

/// What stands behind `Authorization: Bearer`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether a token may be a signed one of a provider: three parts, the first of which is JSON.
fn is_signed(token: &str) -> bool {
    token.starts_with("eyJ") && token.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// The access token of this node that a request carries.
pub(super) fn access_token(headers: &HeaderMap) -> Option<&str> {
    bearer(headers).filter(|token| token.starts_with(SecretKind::Token.prefix()))
}

/// The secret in this node's cookie.
pub(super) fn session<'a>(api: &Api, headers: &'a HeaderMap) -> Option<&'a str> {
    cookie(headers, api.identity.cookie())
}

/// The value of a cookie.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let texts = headers.get_all(header::COOKIE).into_iter().filter_map(|v| v.to_str().ok());
    let texts = texts.filter(|text| text.len() <= COOKIES_LEN_MAX);
    let mut pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| name.trim() == wanted).map(|(_, value)| value.trim())
}

/// Text that makes a browser keep a cookie for this node's pages alone, out of reach of their programs; with an age of zero, forget it.
pub(super) fn set_cookie(
    (name, value): (&str, &str),
    age_s: u64,
    (is_strict, is_tls): (bool, bool),
) -> Option<HeaderValue> {
    let site = if is_strict { "Strict" } else { "Lax" };
    let secure = if is_tls { "; Secure" } else { "" };
    let text =
        format!("{name}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite={site}{secure}");
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Refuses what a page of another site made the browser ask. Programs send neither header; every browser sends one with what it
/// does not only read.
fn check_page(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("?"));
    let is_own_site = matches!(
        text(HeaderName::from_static("sec-fetch-site")),
        None | Some("none" | "same-origin")
    );
    // To go to another page is no request of a page: it gets nothing to read, and a session's cookie is kept back.
    let is_going = text(HeaderName::from_static("sec-fetch-mode")) == Some("navigate")
        && text(HeaderName::from_static("sec-fetch-dest")) == Some("document")
        && !headers.contains_key(header::ORIGIN);
    let host = text(header::HOST).unwrap_or_default();
    // Browsers send the form of a page that tells its address to nobody with the origin `null`. Then what no page can set says whose
    // page it was.
    let is_own_page = text(HeaderName::from_static("sec-fetch-site")) == Some("same-origin");
    let is_own_origin = text(header::ORIGIN).is_none_or(|origin| {
        if origin == "null" {
            return is_own_page;
        }
        let address = origin.split_once("://").map(|(_, address)| address);
        address.is_some_and(|address| !address.is_empty() && address.eq_ignore_ascii_case(host))
    });
    if (is_own_site || is_going) && is_own_origin {
        return Ok(());
    }
    Err(Problem::new(Code::Page, "a page of another site asks for this"))
}

/// Of what a session changes, wants the sign that the node's own page asks.
fn check_change(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let is_read =
        matches!(*method, Method::GET | Method::HEAD) && !headers.contains_key(header::UPGRADE);
    let is_told = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
    if is_read || is_told && headers.contains_key(PAGE_HEADER) {
        return Ok(());
    }
    let detail = "with a session, send the header `X-Opencloud: 1` from this node's own page; programs use an access token";
    Err(Problem::new(Code::Page, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_the_nodes_own_pages_are_heard() {
        let host = ("host", "127.0.0.1:4000");
        for good in [
            vec![],
            vec![("sec-fetch-site", "same-origin")],
            vec![("sec-fetch-site", "same-origin"), ("origin", "null")],
            vec![("sec-fetch-site", "none")],
            vec![("origin", "http://127.0.0.1:4000")],
            vec![
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ],
        ] {
            assert!(check_page(&headers(&[&[host], good.as_slice()].concat())).is_ok(), "{good:?}");
        }
        for bad in [
            vec![("sec-fetch-site", "cross-site")],
            vec![("sec-fetch-site", "same-site")],
            vec![("origin", "null")],
            vec![("sec-fetch-site", "cross-site"), ("origin", "null")],
            vec![("origin", "http://127.0.0.1:4001")],
            vec![("origin", "http://evil.example")],
            vec![("sec-fetch-site", "same-origin"), ("origin", "http://evil.example")],
            vec![
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "iframe"),
            ],
            vec![
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
                ("origin", "http://evil.example"),
            ],
        ] {
            assert!(check_page(&headers(&[&[host], bad.as_slice()].concat())).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_session_changes_something_only_with_the_pages_header() {
        let check = |method: Method, pairs: &[(&'static str, &'static str)]| {
            check_change(&method, &headers(pairs)).is_ok()
        };
        let (own, page) = (("sec-fetch-site", "same-origin"), ("x-opencloud", "1"));
        assert!(check(Method::GET, &[]) && check(Method::HEAD, &[]));
        assert!(check(Method::POST, &[own, page]));
        assert!(!check(Method::POST, &[own]) && !check(Method::POST, &[page]));
        assert!(!check(Method::GET, &[("upgrade", "websocket"), own]));
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let found = headers(&[("cookie", "a=1; xopencloud-1=2;opencloud-1=3; opencloud-1=4")]);
        assert_eq!(cookie(&found, "opencloud-1"), Some("3"));
        assert_eq!(cookie(&found, "opencloud"), None);
        let set = set_cookie(("n", "v"), 9, (true, true)).unwrap();
        assert_eq!(set, "n=v; Path=/; Max-Age=9; HttpOnly; SameSite=Strict; Secure");
        assert!(set.is_sensitive());
    }
}
