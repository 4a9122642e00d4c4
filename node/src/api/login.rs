//! Logging in and out with a browser, and who is logged in.
//!
//! A login link opens a page with one button, and only the button uses the link up: programs that look at links in messages, and
//! browsers that load pages ahead, use nothing up.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use super::body::Asked;
use super::caller::{access_token, session, set_cookie};
use super::openapi::{Described, answers, operation, query, web_page};
use super::problem::Problem;
use super::{Api, Route};
use crate::identity::{BookError, Caller, Entrance, SESSION_MS, Secret};
use crate::schema;

/// What the pages here may do: nothing but send their form to this node.
const PAGE_POLICY: &str =
    "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

pub(super) fn routes() -> Vec<Route> {
    let route = |method, path, handler, doc| Route { method, path, handler, doc };
    let code = || [query("code", "string", true)];
    vec![
        route(
            "get",
            "/session",
            get(who),
            operation("session", "Who is logged in", &[], &[answers::<SessionView>(200)]),
        ),
        route(
            "delete",
            "/session",
            delete(log_out),
            operation(
                "logOut",
                "End the session, or the access token that asks",
                &[],
                &[answers::<LoggedOut>(200)],
            ),
        ),
        route(
            "get",
            "/login/link",
            get(ask),
            open(operation("openLoginLink", "The page of a login link", &code(), &[web_page()])),
        ),
        route(
            "post",
            "/login/link",
            post(redeem),
            open(operation("useLoginLink", "Log in with a login link", &code(), &[web_page()])),
        ),
    ]
}

/// Of an operation that needs no login.
pub(super) fn open(mut doc: Described) -> Described {
    doc.operation.security = Some(Vec::new());
    doc
}

/// Who is logged in, and how.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Session)]
pub(crate) struct SessionView {
    /// `owner` or `person`.
    #[schema(value_type = schema::Caller)]
    pub(crate) caller: String,
    #[schema(required)]
    pub(crate) person: Option<PersonView>,
    /// `home_token`, `session` or `token`.
    #[schema(value_type = schema::Entrance)]
    pub(crate) entrance: String,
    #[schema(value_type = Option<schema::UnixMs>, required)]
    pub(crate) expires_ms: Option<u64>,
}

/// A person, as it is known here.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Person)]
pub(crate) struct PersonView {
    #[schema(value_type = schema::OrgId)]
    pub(crate) org: catalog::OrgId,
    /// Who knows it: `local`, or a provider's URL.
    pub(crate) issuer: String,
    /// The issuer's own name of it, which never changes.
    pub(crate) subject: String,
    /// For people.
    pub(crate) name: String,
    /// Groups that it is in.
    pub(crate) groups: BTreeSet<String>,
    /// Roles that it has.
    pub(crate) roles: BTreeSet<String>,
}

async fn who(
    Extension(caller): Extension<Caller>,
    Extension(entrance): Extension<Entrance>,
) -> Json<SessionView> {
    let (entrance, expires_ms) = match entrance {
        Entrance::HomeToken => ("home_token", None),
        Entrance::Session { expires_ms } => ("session", Some(expires_ms)),
        Entrance::Token { expires_ms } => ("token", Some(expires_ms)),
    };
    let person = match caller {
        Caller::Owner => None,
        Caller::Person(person) => Some(PersonView {
            org: person.org,
            issuer: person.issuer,
            subject: person.subject,
            name: person.name,
            groups: person.groups,
            roles: person.roles,
        }),
    };
    Json(SessionView {
        caller: if person.is_some() { "person" } else { "owner" }.to_owned(),
        person,
        entrance: entrance.to_owned(),
        expires_ms,
    })
}

/// A session that has ended.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct LoggedOut {
    /// Where the browser goes to log out at the provider, too.
    #[schema(required)]
    pub(crate) provider: Option<String>,
}

async fn log_out(State(api): State<Api>, headers: HeaderMap) -> Result<Response, Problem> {
    let mut provider = None;
    if let Some(secret) = access_token(&headers).map(str::to_owned) {
        api.identify(move |identity| identity.change(|book, _| Ok(book.end_token(&secret))))
            .await?;
    } else if let Some(secret) = session(&api, &headers).map(str::to_owned) {
        let origin = api.identity.origin(&secret);
        api.identify(move |identity| identity.change(|book, _| Ok(book.end(&secret)))).await?;
        if let Some(origin) = origin {
            provider = api.identity.farewell(&origin).await;
        }
    }
    let mut response = Json(LoggedOut { provider }).into_response();
    if let Some(cookie) = set_cookie((api.identity.cookie(), ""), 0, (true, api.is_tls)) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// What stands in a login link.
#[derive(Deserialize)]
struct Code {
    code: String,
}

async fn ask(
    State(api): State<Api>,
    Asked(Code { code }): Asked<Code>,
) -> Result<Response, Problem> {
    let name = api.identity.read(|book, now| book.peek(&code, now).map(escape));
    let name = name.map_err(|error: BookError| Problem::from(error))?;
    // The link's code is in the page's own address already: the form goes back to it.
    Ok(page(&format!(
        "<h1>Log in as {name}?</h1><form method=\"post\"><button autofocus>Log in</button></form>"
    )))
}

async fn redeem(
    State(api): State<Api>,
    Asked(Code { code }): Asked<Code>,
) -> Result<Response, Problem> {
    let secret = api.identify(move |identity| identity.redeem(&code)).await?;
    Ok(logged_in(&api, &secret))
}

/// The page after a login. It leads on by itself rather than by a redirect: on one that another site began, browsers would keep the
/// new cookie back.
pub(super) fn logged_in(api: &Api, secret: &Secret) -> Response {
    let mut response = page(
        "<meta http-equiv=\"refresh\" content=\"0;url=/\"><h1>You are logged in</h1><p><a href=\"/\">Go on</a></p>",
    );
    let cookie = (api.identity.cookie(), secret.text());
    if let Some(cookie) = set_cookie(cookie, SESSION_MS / 1_000, (true, api.is_tls)) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// A page of a few words, which nobody keeps, frames or learns the address of.
pub(super) fn page(body: &str) -> Response {
    let text = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>OpenCloud</title><main>{body}</main></html>"
    );
    let mut response = text.into_response();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Text as it may stand in a page.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_bring_no_markup_into_pages() {
        assert_eq!(escape("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
        let page = page("x");
        assert_eq!(page.headers()[header::REFERRER_POLICY], "no-referrer");
        assert!(
            page.headers()[header::CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap()
                .contains("frame-ancestors 'none'")
        );
    }
}
