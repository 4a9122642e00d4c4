//! Other realms: links, digests, and searches in all of them.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use catalog::cert::LinkTicket;
use catalog::{OrgId, RealmId};

use super::body::{Asked, bytes, json};
use super::mesh::{Invited, VALID_MS_DEFAULT, VALID_MS_MAX};
use super::openapi::{answer, operation, query, takes};
use super::problem::{Code, Problem};
use super::{Api, Route, unexpected};
use crate::engine::command::{Command, Response};
use crate::engine::realms::{Answer, Command as RealmsCommand, LinkView, RealmView, ToldView};

/// Resources of each realm in one answer when nothing is said.
const LIMIT_DEFAULT: usize = 500;

pub(super) fn routes() -> Vec<Route> {
    let show = operation(
        "realm",
        "This realm, its links with others, and what their digests say",
        &[],
        &[answer(200, "Realm")],
    );
    let invite = operation(
        "inviteRealm",
        "Make a ticket that links one gateway of another realm",
        &[],
        &[answer(201, "Invited")],
    );
    let link =
        operation("linkRealm", "Link with the realm of a ticket", &[], &[answer(200, "RealmLink")]);
    let unlink =
        operation("unlinkRealm", "End the link with a realm", &[], &[answer(200, "Realm")]);
    let speak = operation(
        "letSpeak",
        "Let a member organisation speak for this realm to others",
        &[],
        &[answer(200, "Realm")],
    );
    let search = operation(
        "searchEverywhere",
        "Public resources of other realms that a filter selects, by way of a gateway of this one",
        &[query("filter", "string", false), query("limit", "integer", false)],
        &[answer(200, "FoundElsewhere")],
    );
    let route = |method, path, handler, doc| Route { method, path, handler, doc };
    vec![
        route("get", "/realm", get(show_realm), show),
        route("post", "/realm/invites", post(make_ticket), takes("Invite", invite)),
        route("post", "/realm/links", post(use_ticket), takes("LinkTicket", link)),
        route("post", "/realm/unlink", post(end_link), takes("Unlink", unlink)),
        route("post", "/realm/speakers", post(let_speak), takes("LetSpeak", speak)),
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

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Invite {
    valid_ms: Option<u64>,
    #[serde(default)]
    ask: bool,
}

async fn make_ticket(
    State(api): State<Api>,
    body: Body,
) -> Result<(StatusCode, Json<Invited>), Problem> {
    let body = bytes(body).await?;
    let asked: Invite = if body.is_empty() { Invite::default() } else { json(&body)? };
    let valid_ms = asked.valid_ms.unwrap_or(VALID_MS_DEFAULT);
    if !(1..=VALID_MS_MAX).contains(&valid_ms) {
        let detail = format!("`valid_ms` is {valid_ms}, it has to be between 1 and {VALID_MS_MAX}");
        return Err(Problem::new(Code::Body, detail));
    }
    match ask(&api, RealmsCommand::Invite { valid_ms, is_asking: asked.ask }).await? {
        Answer::Ticket(ticket) => {
            let invited = Invited { expires_ms: ticket.0.expires_ms, ticket: ticket.to_string() };
            Ok((StatusCode::CREATED, Json(invited)))
        }
        _ => Err(unexpected()),
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
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

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Unlink {
    realm: RealmId,
}

async fn end_link(State(api): State<Api>, body: Body) -> Result<Json<RealmView>, Problem> {
    let Unlink { realm } = json(&bytes(body).await?)?;
    ask_realm(&api, RealmsCommand::Unlink { realm }).await
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct LetSpeak {
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
