//! This node, its peers, invitations.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::routing::{get, post};
use catalog::cert::Ticket;

use super::body::Asked;
use super::openapi::{answers, lists, may_read, operation, reads};
use super::page::{self, Page};
use super::problem::{Code, Problem};
use super::reach::{PeerAnswer, StatusAnswer, peer_answer, reach_view};
use super::{Api, Route, body, unexpected};
use crate::engine::command::{Command, Response};
use crate::schema;

/// How long a ticket holds when nothing is said: one hour.
pub(super) const VALID_MS_DEFAULT: u64 = 3_600_000;
/// How long a ticket may hold at most: 30 days. It is a bearer secret.
pub(crate) const VALID_MS_MAX: u64 = 30 * 24 * 3_600_000;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            method: "get",
            path: "/status",
            handler: get(status),
            doc: operation(
                "status",
                "This node and what it is doing",
                &[],
                &[answers::<StatusAnswer>(200)],
            ),
        },
        Route {
            method: "get",
            path: "/peers",
            handler: get(peers),
            doc: operation(
                "peers",
                "Peers that are or were connected",
                &page::parameters(),
                &[lists::<PeerAnswer>("Peers")],
            ),
        },
        Route {
            method: "post",
            path: "/invites",
            handler: post(invite),
            doc: may_read::<Invite>(operation(
                "invite",
                "Make a ticket that admits one organisation",
                &[],
                &[answers::<Invited>(201)],
            )),
        },
        Route {
            method: "post",
            path: "/join",
            handler: post(join),
            doc: reads::<Join>(operation(
                "join",
                "Join the realm of a ticket",
                &[],
                &[answers::<Joined>(200)],
            )),
        },
    ]
}

async fn status(State(api): State<Api>) -> Result<Json<StatusAnswer>, Problem> {
    Ok(Json(seen(&api).await?))
}

/// This node, and how others reach it.
pub(super) async fn seen(api: &Api) -> Result<StatusAnswer, Problem> {
    match api.ask(Command::Status).await? {
        Response::Status(status) => {
            let reach = api.handle.reachability().await.map(reach_view);
            Ok(StatusAnswer { status: *status, reach })
        }
        _ => Err(unexpected()),
    }
}

async fn peers(
    State(api): State<Api>,
    Asked(page): Asked<Page>,
    uri: Uri,
) -> Result<(HeaderMap, Json<Vec<PeerAnswer>>), Problem> {
    page.of(&uri, peers_seen(&api).await?, |answer| answer.peer.id.to_string())
}

/// The peers, and by which way each is connected.
pub(super) async fn peers_seen(api: &Api) -> Result<Vec<PeerAnswer>, Problem> {
    match api.ask(Command::Peers).await? {
        Response::Peers(peers) => {
            let links = api.handle.links().await;
            Ok(peers.into_iter().map(|peer| peer_answer(peer, &links)).collect())
        }
        _ => Err(unexpected()),
    }
}

/// What the ticket is to be like.
#[derive(Default, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Invite {
    /// How long the ticket can be used; one hour when absent.
    valid_ms: Option<u64>,
    /// Whether the owner decides about whoever comes with it.
    #[serde(default)]
    ask: bool,
}

impl Invite {
    /// For how many milliseconds, and whether the owner decides. No body is one in which nothing is said.
    pub(super) async fn read(body: Body) -> Result<(u64, bool), Problem> {
        let bytes = body::bytes(body).await?;
        let asked = if bytes.is_empty() { Self::default() } else { body::json(&bytes)? };
        let valid_ms = asked.valid_ms.unwrap_or(VALID_MS_DEFAULT);
        if (1..=VALID_MS_MAX).contains(&valid_ms) {
            return Ok((valid_ms, asked.ask));
        }
        let detail = format!("`valid_ms` is {valid_ms}, it has to be between 1 and {VALID_MS_MAX}");
        Err(Problem::new(Code::Body, detail))
    }
}

/// A ticket and when it ends.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct Invited {
    /// The text to hand over.
    pub ticket: String,
    /// End of validity (Unix ms).
    #[schema(value_type = schema::UnixMs)]
    pub expires_ms: u64,
}

async fn invite(
    State(api): State<Api>,
    body: Body,
) -> Result<(axum::http::StatusCode, Json<Invited>), Problem> {
    let (valid_ms, is_asking) = Invite::read(body).await?;
    match api.ask(Command::Invite { valid_ms, is_asking }).await? {
        Response::Ticket(ticket) => {
            let invited = Invited { expires_ms: ticket.expires_ms, ticket: ticket.to_string() };
            Ok((axum::http::StatusCode::CREATED, Json(invited)))
        }
        _ => Err(unexpected()),
    }
}

#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Join {
    /// As another node's owner got it.
    ticket: String,
}

/// The realm this node has become a member of.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct Joined {
    /// The realm.
    #[schema(value_type = schema::RealmId)]
    pub realm: catalog::RealmId,
    /// The organisation that invited.
    #[schema(value_type = schema::OrgId)]
    pub org: catalog::OrgId,
}

async fn join(State(api): State<Api>, body: Body) -> Result<Json<Joined>, Problem> {
    let asked: Join = body::json(&body::bytes(body).await?)?;
    let ticket: Ticket =
        asked.ticket.parse().map_err(|error| Problem::of(Code::TicketInvalid, &error))?;
    match api.ask(Command::Join { ticket }).await? {
        Response::Joined { realm, org } => Ok(Json(Joined { realm, org })),
        _ => Err(unexpected()),
    }
}
