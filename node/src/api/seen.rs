//! What of a list somebody may see: the rest is left out of the answer.
//!
//! Whoever may ask for a list may see of it what no policy forbids. One that permits a list permits all in it, so there is
//! something to leave out only where a policy forbids something. This stands behind the decision about the request
//! itself ([`super::rights`]), and works on the answer as it goes out, so that no list can be told without it.

use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value as Json;

use super::named::sought;
use super::problem::{Code, Problem};
use super::{Api, BASE};
use crate::engine::names::Sought;
use crate::identity::Caller;
use crate::policy::{Action, Kind, Principal, Request as Asked, Resource};

/// Longest answer that is looked through; nobody gets a longer one of which a part is forbidden.
const ANSWER_LEN_MAX: usize = 64 << 20;

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
    ("/orgs", "", Action::See, |item| named(Kind::Org, item, "/org")),
    ("/workspaces/{name}", "/resources", Action::See, |item| {
        let kind = item.get("kind")?.as_str()?.parse().ok()?;
        named(kind, item, "/id")
    }),
];

fn named(kind: Kind, item: &Json, at: &str) -> Option<Sought> {
    Some(Sought::Named(kind, item.pointer(at)?.as_str()?.to_owned()))
}

/// A record of the catalogue, which says itself of what kind it is.
fn record(item: &Json, name: Option<&Json>) -> Option<Sought> {
    let kind = item.pointer("/resource/detail/kind")?.as_str()?.parse().ok()?;
    Some(Sought::Named(kind, name?.as_str()?.to_owned()))
}

/// Leaves out of the answer what whoever asks may not see.
pub(super) async fn filtered(State(api): State<Api>, request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    let caller = extensions.get::<Caller>().filter(|caller| **caller != Caller::Owner).cloned();
    let path = extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let is_read = request.method() == axum::http::Method::GET;
    let response = next.run(request).await;
    let list = LISTS
        .iter()
        .find(|list| path.as_deref().and_then(|path| path.strip_prefix(BASE)) == Some(list.0));
    match (caller, list) {
        (Some(Caller::Person(person)), Some(list))
            if is_read && response.status().is_success() && api.handle.policies().has_forbids() =>
        {
            let caller = Caller::Person(person);
            filter(&api, &caller, list, response).await.unwrap_or_else(IntoResponse::into_response)
        }
        _ => response,
    }
}

async fn filter(
    api: &Api,
    caller: &Caller,
    (_, at, action, name): &List,
    response: Response,
) -> Result<Response, Problem> {
    let principal = api.handle.principal(caller).await?;
    let (mut parts, body) = response.into_parts();
    let strange = |_| {
        let detail = "the answer is longer than is looked through for what may be seen of it: ask for less at once";
        Problem::new(Code::Forbidden, detail)
    };
    let bytes = to_bytes(body, ANSWER_LEN_MAX).await.map_err(strange)?;
    let mut answer: Json = serde_json::from_slice(&bytes).map_err(|_| super::unexpected())?;
    if let Some(items) = answer.pointer_mut(at).and_then(Json::as_array_mut) {
        let names: Vec<Option<Sought>> = items.iter().map(name).collect();
        let may = seen(api, &principal, *action, names).await?;
        let mut may = may.into_iter();
        items.retain(|_| may.next().unwrap_or(false));
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Body::from(answer.to_string())))
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
    fn a_record_is_called_by_its_kind_and_id() {
        let item = serde_json::json!({"id": "A/data/dem", "resource": {"key": "data/dem", "detail": {"kind": "data"}}});
        let expected = Sought::Named(Kind::Data, "A/data/dem".to_owned());
        assert_eq!((LISTS[1].3)(&item), Some(expected));
    }
}
