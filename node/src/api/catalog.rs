//! The catalogue: search, look up, publish, withdraw.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::{delete, get, post};
use axum::{Extension, Json};
use catalog::OrgId;
use catalog::record::{Resource, Visibility};

use super::body::{self, Asked};
use super::openapi::{answers, lists, no_body, operation, query, reads};
use super::page::{self, Page};
use super::problem::Problem;
use super::{Api, Route, unexpected};
use crate::engine::command::{Command, CommandError, ResourceView, Response};
use crate::engine::variants::{self, OwnView};
use crate::identity::Caller;
use crate::schema;

/// Resources in one answer when nothing is said.
pub(super) const LIMIT_DEFAULT: usize = 1_000;

pub(super) fn routes() -> Vec<Route> {
    let [limit, after] = page::parameters();
    vec![
        Route {
            method: "get",
            path: "/catalog",
            handler: get(search),
            doc: operation(
                "searchCatalog",
                "Resources of the realm that a filter selects; with `ask`, out of the copies of two peers, too",
                &[query("filter", "string", false), limit, after, query("ask", "boolean", false)],
                &[lists::<ResourceView>("Resources")],
            ),
        },
        Route {
            method: "get",
            path: "/catalog/resource",
            handler: get(show),
            doc: operation(
                "showResource",
                "One resource, by `AUTHOR/KEY`, key or digest, or a beginning of one of them that fits no other",
                &[query("id", "string", true)],
                &[answers::<ResourceView>(200)],
            ),
        },
        Route {
            method: "get",
            path: "/resources",
            handler: get(own),
            doc: operation(
                "ownResources",
                "What the owner has published from this node, and who sees which of it",
                &[],
                &[lists::<OwnView>("OwnResources")],
            ),
        },
        Route {
            method: "post",
            path: "/resources",
            handler: post(publish),
            doc: reads::<schema::Description>(operation(
                "publishResource",
                "Publish or replace a resource of this node; with `private`, for its own organisation alone; with `for`, which names organisations with commas between them, for these in place of what others see under its key",
                &[query("private", "boolean", false), query("for", "string", false)],
                &[answers::<Published>(201)],
            )),
        },
        Route {
            method: "delete",
            path: "/resources",
            handler: delete(withdraw),
            doc: operation(
                "withdrawResource",
                "Withdraw a resource of this node; with `for`, only what these organisations see in place of what others do",
                &[query("key", "string", true), query("for", "string", false)],
                &[no_body(204, "It is withdrawn")],
            ),
        },
    ]
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    #[serde(default)]
    filter: String,
    limit: Option<usize>,
    after: Option<String>,
    #[serde(default)]
    ask: bool,
}

async fn search(
    State(api): State<Api>,
    Asked(asked): Asked<Search>,
    uri: Uri,
) -> Result<(HeaderMap, Json<Vec<ResourceView>>), Problem> {
    let Search { filter, limit, ask, after } = asked;
    let limit = limit.unwrap_or(LIMIT_DEFAULT).min(page::LIMIT_MAX);
    // One more tells that there is another page.
    let command = Command::Catalog { filter, limit: limit + 1, after, is_asking: ask };
    match api.ask(command).await? {
        Response::Catalog(found) => {
            let page = Page { limit: Some(limit), after: None };
            page.of(&uri, found, |one| one.id.clone())
        }
        _ => Err(unexpected()),
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Show {
    id: String,
}

async fn show(
    State(api): State<Api>,
    Asked(asked): Asked<Show>,
) -> Result<Json<ResourceView>, Problem> {
    match api.ask(Command::Resource { id: asked.id }).await? {
        Response::Resource(found) => Ok(Json(*found)),
        _ => Err(unexpected()),
    }
}

/// What was published.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct Published {
    /// Its key among the resources of this node.
    pub key: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    #[serde(default)]
    private: bool,
    #[serde(default, rename = "for")]
    orgs: String,
}

/// Organisations, with commas between them.
fn orgs(text: &str) -> Result<Vec<OrgId>, Problem> {
    let named = text.split(',').map(str::trim).filter(|org| !org.is_empty());
    named
        .map(|org| {
            let bad = |error| CommandError::Publish { detail: format!("`{org}`: {error}") };
            org.parse().map_err(|error| Problem::from(bad(error)))
        })
        .collect()
}

async fn own(State(api): State<Api>) -> Result<Json<Vec<OwnView>>, Problem> {
    match api.ask(Command::Variant(variants::Command::List)).await? {
        Response::Own(found) => Ok(Json(found)),
        _ => Err(unexpected()),
    }
}

async fn publish(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Asked(asked): Asked<Publish>,
    body: Body,
) -> Result<(StatusCode, Json<Published>), Problem> {
    let resource: Resource = body::json(&body::bytes(body).await?)?;
    let key = resource.key.clone();
    match orgs(&asked.orgs)? {
        orgs if orgs.is_empty() => put((&api, &caller), resource, asked.private).await?,
        orgs => {
            let resource = Box::new(resource);
            let command = Command::Variant(variants::Command::Put { resource, orgs });
            match api.ask_by(&caller, command).await? {
                Response::Done => {}
                _ => return Err(unexpected()),
            }
        }
    }
    Ok((StatusCode::CREATED, Json(Published { key })))
}

async fn done(api: &Api, command: variants::Command) -> Result<(), Problem> {
    match api.ask(Command::Variant(command)).await? {
        Response::Done => Ok(()),
        _ => Err(unexpected()),
    }
}

/// Publishes a resource, to everybody or to the own organisation alone.
pub(super) async fn put(
    (api, caller): (&Api, &Caller),
    resource: Resource,
    is_private: bool,
) -> Result<(), Problem> {
    let visibility =
        if is_private { Visibility::Restricted(Vec::new()) } else { Visibility::Public };
    let command = Command::Publish { resource: Box::new(resource), visibility };
    match api.ask_by(caller, command).await? {
        Response::Done => Ok(()),
        _ => Err(unexpected()),
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Withdraw {
    key: String,
    #[serde(default, rename = "for")]
    orgs: String,
}

async fn withdraw(
    State(api): State<Api>,
    Asked(asked): Asked<Withdraw>,
) -> Result<StatusCode, Problem> {
    let orgs = orgs(&asked.orgs)?;
    if !orgs.is_empty() {
        done(&api, variants::Command::Delete { key: asked.key, orgs }).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    match api.ask(Command::Withdraw { key: asked.key }).await? {
        Response::Done => Ok(StatusCode::NO_CONTENT),
        _ => Err(unexpected()),
    }
}
