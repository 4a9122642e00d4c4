//! What of a list somebody may see: the rest is left out of the answer.
//!
//! Whoever may ask for a list may see of it what no policy forbids. One that permits a list permits all in it, so there is
//! something to leave out only where a policy forbids something. This stands behind the decision about the request
//! itself ([`super::rights`]), and works on the answer as it goes out, so that no list can be told without it.
//!
//! A page has as many items as were asked for of those that may be seen, and its `Link` names one of them: so as much of the list
//! is read as that takes.

use std::collections::BTreeMap;

use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value as Json;

use super::named::sought;
use super::page::{self, Page};
use super::problem::{Code, Problem};
use super::{Api, BASE, catalog};
use crate::engine::images;
use crate::engine::names::Sought;
use crate::identity::Caller;
use crate::policy::{Action, Kind, Principal, Request as Asked, Resource};

/// Longest answer that is looked through; nobody gets a longer one of which a part is forbidden.
const ANSWER_LEN_MAX: usize = 64 << 20;

/// Items of a list that are looked through at least for a page, however short it is.
const WINDOW_MIN: usize = 1_000;

/// Which list, where in its answer, what is done with each, and how an item is called.
type List = (&'static str, &'static str, Action, fn(&Json) -> Option<Sought>);

/// Every list of things that policies speak of by name.
const LISTS: &[List] = &[
    ("/workspaces", "", Action::See, |item| named(Kind::Workspace, item, "/name")),
    ("/catalog", "", Action::See, |item| record(item, item.get("id"))),
    ("/resources", "", Action::See, |item| record(item, item.pointer("/resource/key"))),
    ("/catalog/everywhere", "/resources", Action::See, |item| record(item, item.get("id"))),
    ("/data", "", Action::See, |item| named(Kind::Data, item, "/digest")),
    ("/kept", "/contents", Action::See, |item| named(Kind::Data, item, "/digest")),
    ("/images", "", Action::See, |item| named(Kind::Algorithm, item, "/name")),
    ("/images/disks", "", Action::See, |item| named(Kind::Disk, item, "/name")),
    ("/services", "", Action::Watch, |item| named(Kind::Service, item, "/name")),
    ("/runs", "", Action::Watch, |item| named(Kind::Run, item, "/id")),
    ("/areas", "", Action::See, |item| named(Kind::Area, item, "/id")),
    ("/orgs", "", Action::See, |item| named(Kind::Org, item, "/org")),
    ("/workspaces/{name}", "/resources", Action::See, |item| {
        let kind = item.get("kind")?.as_str()?.parse().ok()?;
        named(kind, item, "/id")
    }),
];

/// A list that comes in pages: which, by what `after` names an item, and how many a page has when nothing is said, and at most.
type Paged = (&'static str, &'static str, usize, usize);

const PAGED: &[Paged] = &[
    ("/catalog", "/id", catalog::LIMIT_DEFAULT, page::LIMIT_MAX),
    ("/data", "/digest", page::LIMIT_MAX, page::LIMIT_MAX),
    (IMAGES, "/name", images::Page::LIMIT_MAX, images::Page::LIMIT_MAX),
    ("/images/disks", "/name", page::LIMIT_MAX, page::LIMIT_MAX),
    ("/services", "/name", page::LIMIT_MAX, page::LIMIT_MAX),
    ("/runs", "/id", page::LIMIT_MAX, page::LIMIT_MAX),
];

/// Its pages have no `Link`: a full one may be followed by another.
const IMAGES: &str = "/images";

fn named(kind: Kind, item: &Json, at: &str) -> Option<Sought> {
    Some(Sought::Named(kind, item.pointer(at)?.as_str()?.to_owned()))
}

/// A record of the catalogue, which says itself of what kind it is.
fn record(item: &Json, name: Option<&Json>) -> Option<Sought> {
    let kind = item.pointer("/resource/detail/kind")?.as_str()?.parse().ok()?;
    Some(Sought::Named(kind, name?.as_str()?.to_owned()))
}

/// Leaves out of the answer what whoever asks may not see.
pub(super) async fn filtered(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    let caller = extensions.get::<Caller>().filter(|caller| **caller != Caller::Owner).cloned();
    let path = extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let path = path.as_deref().and_then(|path| path.strip_prefix(BASE));
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let list = LISTS.iter().find(|list| path == Some(list.0));
    let (Some(caller), Some(list)) = (caller, list) else { return next.run(request).await };
    if !is_read || !api.handle.policies().has_forbids() {
        return next.run(request).await;
    }
    // The head of an answer is told of what may be seen, too.
    *request.method_mut() = Method::GET;
    let answer = match PAGED.iter().find(|paged| paged.0 == list.0) {
        Some(paged) => one_page(&api, &caller, (list, paged), request, next).await,
        None => filter(&api, &caller, list, next.run(request).await).await,
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}

async fn read(body: Body) -> Result<Json, Problem> {
    let too_long = |_| {
        let detail = "the answer is longer than is looked through for what may be seen of it: ask for less at once";
        Problem::new(Code::Forbidden, detail)
    };
    let bytes = to_bytes(body, ANSWER_LEN_MAX).await.map_err(too_long)?;
    serde_json::from_slice(&bytes).map_err(|_| super::unexpected())
}

async fn filter(
    api: &Api,
    caller: &Caller,
    list: &List,
    response: Response,
) -> Result<Response, Problem> {
    if !response.status().is_success() {
        return Ok(response);
    }
    let principal = api.handle.principal(caller).await?;
    let (mut parts, body) = response.into_parts();
    let mut answer = read(body).await?;
    if let Some(items) = answer.pointer_mut(list.1).and_then(Json::as_array_mut) {
        *items = visible(api, &principal, list, std::mem::take(items)).await?;
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::LINK);
    Ok(Response::from_parts(parts, Body::from(answer.to_string())))
}

/// One page of what may be seen, out of as many pieces of the whole list as it takes. Each is read behind the one before, so a list
/// ends this.
async fn one_page(
    api: &Api,
    caller: &Caller,
    (list, (_, at, limit, most)): (&List, &Paged),
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let query = Query::<BTreeMap<String, String>>::try_from_uri(&parts.uri);
    let query = query.map(|Query(query)| query).unwrap_or_default();
    let limit = match query.get("limit").map(|text| text.parse::<usize>()) {
        None => *limit,
        Some(Ok(limit)) if limit > 0 => limit.min(*most),
        // For whoever handles it to refuse.
        Some(_) => {
            let response = next.run(Request::from_parts(parts, Body::empty())).await;
            return filter(api, caller, list, response).await;
        }
    };
    let principal = api.handle.principal(caller).await?;
    let window = limit.max(WINDOW_MIN).min(*most);
    let key = |item: &Json| item.pointer(at).and_then(Json::as_str).unwrap_or_default().to_owned();
    let mut after = query.get("after").cloned();
    let mut found = Vec::new();
    for n in 0_usize.. {
        let mut asked = parts.clone();
        let address = page::address(&parts.uri, window, after.as_deref());
        asked.uri = address.parse().map_err(|_| super::unexpected())?;
        let response = next.clone().run(Request::from_parts(asked, Body::empty())).await;
        if !response.status().is_success() {
            // What the list goes on behind is not for everybody to know.
            let gone = "the list has changed meanwhile: begin without `after`";
            return if n == 0 { Ok(response) } else { Err(Problem::new(Code::CursorGone, gone)) };
        }
        let is_linked = response.headers().contains_key(header::LINK);
        let Json::Array(items) = read(response.into_body()).await? else {
            return Err(super::unexpected());
        };
        let is_more = is_linked || list.0 == IMAGES && items.len() == window;
        let last = items.last().map(key);
        found.extend(visible(api, &principal, list, items).await?);
        if found.len() > limit || !is_more || last.is_none() {
            break;
        }
        after = last;
    }
    let page = Page { limit: Some(limit), after: None };
    Ok(page.of(&parts.uri, found, key)?.into_response())
}

/// Those of them that may be seen.
async fn visible(
    api: &Api,
    principal: &Principal,
    (_, _, action, name): &List,
    mut items: Vec<Json>,
) -> Result<Vec<Json>, Problem> {
    let names: Vec<Option<Sought>> = items.iter().map(name).collect();
    let mut may = seen(api, principal, *action, names).await?.into_iter();
    items.retain(|_| may.next().unwrap_or(false));
    Ok(items)
}

/// Whether each of them may be seen. What has no name that policies could speak of is seen with the list.
async fn seen(
    api: &Api,
    principal: &Principal,
    action: Action,
    names: Vec<Option<Sought>>,
) -> Result<Vec<bool>, Problem> {
    let org = match principal {
        Principal::Person { person, .. } => person.org,
        _ => api.handle.org(),
    };
    let mut things = sought(api, org, names.iter().flatten().cloned().collect()).await?.into_iter();
    let policies = api.handle.policies();
    let node = || Resource::node(api.handle.me());
    Ok(names
        .into_iter()
        .map(|name| {
            let Some(thing) = name.and_then(|_| things.next()) else { return true };
            let resource = thing.or(node());
            let asked = Asked { principal: principal.clone(), action, resource, work: None };
            policies.decide(&asked).allowed
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_in_pages_are_lists() {
        for (path, at, limit, most) in PAGED {
            let list = LISTS.iter().find(|list| list.0 == *path);
            // The whole answer is the list, and its items have text by which they are named.
            assert!(list.is_some_and(|list| list.1.is_empty()) && at.starts_with('/'), "{path}");
            assert!(limit <= most && *most >= WINDOW_MIN, "{path}");
        }
    }

    #[test]
    fn a_record_is_called_by_its_kind_and_id() {
        let item = serde_json::json!({"id": "A/data/dem", "resource": {"key": "data/dem", "detail": {"kind": "data"}}});
        let expected = Sought::Named(Kind::Data, "A/data/dem".to_owned());
        assert_eq!((LISTS[1].3)(&item), Some(expected));
    }
}
