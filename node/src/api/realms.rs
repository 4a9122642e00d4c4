//! Other realms: links, digests, and searches in all of them.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use catalog::cert::LinkTicket;
use catalog::{OrgId, RealmId};

use super::body::{Asked, bytes, json};
use super::mesh::{Invite, Invited};
use super::openapi::{answers, may_read, operation, query, reads};
use super::problem::{Code, Problem};
use super::{Api, Route, unexpected};
use crate::engine::command::{Command, Response};
use crate::engine::realms::{Answer, Command as RealmsCommand, LinkView, RealmView, ToldView};
use crate::schema;

/// Resources of each realm in one answer when nothing is said.
const LIMIT_DEFAULT: usize = 500;

pub(super) fn routes() -> Vec<Route> {
    let show = operation(
        "realm",
        "This realm, its links with others, and what their digests say",
        &[],
        &[answers::<RealmView>(200)],
    );
    let invite = operation(
        "inviteRealm",
        "Make a ticket that links one gateway of another realm",
        &[],
        &[answers::<Invited>(201)],
    );
    let link =
        operation("linkRealm", "Link with the realm of a ticket", &[], &[answers::<LinkView>(200)]);
    let unlink =
        operation("unlinkRealm", "End the link with a realm", &[], &[answers::<RealmView>(200)]);
    let speak = operation(
        "letSpeak",
        "Let a member organisation speak for this realm to others",
        &[],
        &[answers::<RealmView>(200)],
    );
    let search = operation(
        "searchEverywhere",
        "Public resources of other realms that a filter selects, by way of a gateway of this one",
        &[query("filter", "string", false), query("limit", "integer", false)],
        &[answers::<ToldView>(200)],
    );
    let route = |method, path, handler, doc| Route { method, path, handler, doc };
    vec![
        route("get", "/realm", get(show_realm), show),
        route("post", "/realm/invites", post(make_ticket), may_read::<Invite>(invite)),
        route("post", "/realm/links", post(use_ticket), reads::<Link>(link)),
        route("post", "/realm/unlink", post(end_link), reads::<Unlink>(unlink)),
        route("post", "/realm/speakers", post(let_speak), reads::<LetSpeak>(speak)),
        route("get", "/catalog/everywhere", get(everywhere), search),
    ]
}

async fn ask(api: &Api, command: RealmsCommand) -> Result<Answer, Problem> {
    match api.ask(Command::Realms(command)).await? {
        Response::Realms(answer) => Ok(answer),
        _ => Err(unexpected()),
    }
}

async fn ask_realm(api: &Api, command: RealmsCommand) -> Result<Json<RealmView>, Problem> {
    match ask(api, command).await? {
        Answer::Realm(view) => Ok(Json(*view)),
        _ => Err(unexpected()),
    }
}

async fn show_realm(State(api): State<Api>) -> Result<Json<RealmView>, Problem> {
    ask_realm(&api, RealmsCommand::Show).await
}

async fn make_ticket(
    State(api): State<Api>,
    body: Body,
) -> Result<(StatusCode, Json<Invited>), Problem> {
    let (valid_ms, is_asking) = Invite::read(body).await?;
    match ask(&api, RealmsCommand::Invite { valid_ms, is_asking }).await? {
        Answer::Ticket(ticket) => {
            let invited = Invited { expires_ms: ticket.0.expires_ms, ticket: ticket.to_string() };
            Ok((StatusCode::CREATED, Json(invited)))
        }
        _ => Err(unexpected()),
    }
}

#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LinkTicket)]
struct Link {
    /// As `POST /realm/invites` of another realm's gateway gave it.
    ticket: String,
}

async fn use_ticket(State(api): State<Api>, body: Body) -> Result<Json<LinkView>, Problem> {
    let asked: Link = json(&bytes(body).await?)?;
    let ticket: LinkTicket =
        asked.ticket.parse().map_err(|error| Problem::of(Code::TicketInvalid, &error))?;
    match ask(&api, RealmsCommand::Link { ticket }).await? {
        Answer::Linked(link) => Ok(Json(link)),
        _ => Err(unexpected()),
    }
}

#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Unlink {
    #[schema(value_type = schema::RealmId)]
    realm: RealmId,
}

async fn end_link(State(api): State<Api>, body: Body) -> Result<Json<RealmView>, Problem> {
    let Unlink { realm } = json(&bytes(body).await?)?;
    ask_realm(&api, RealmsCommand::Unlink { realm }).await
}

#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct LetSpeak {
    #[schema(value_type = schema::OrgId)]
    org: OrgId,
}

async fn let_speak(State(api): State<Api>, body: Body) -> Result<Json<RealmView>, Problem> {
    let LetSpeak { org } = json(&bytes(body).await?)?;
    ask_realm(&api, RealmsCommand::LetSpeak { org }).await
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    #[serde(default)]
    filter: String,
    limit: Option<usize>,
}

async fn everywhere(
    State(api): State<Api>,
    Asked(asked): Asked<Search>,
) -> Result<Json<ToldView>, Problem> {
    let limit = asked.limit.unwrap_or(LIMIT_DEFAULT);
    match ask(&api, RealmsCommand::Search { filter: asked.filter, limit }).await? {
        Answer::Found(told) => Ok(Json(*told)),
        _ => Err(unexpected()),
    }
}
