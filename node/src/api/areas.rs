//! Collaborative areas.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use catalog::record::{SHARE_LEN_MAX, ShareKind};
use catalog::rules::RuleBook;
use catalog::{Digest, OrgId};
use futures::stream::unfold;
use serde_json::json;
use utoipa::PartialSchema as _;
use utoipa::openapi::path::Parameter;

use super::body::{Asked, bytes, json};
use super::events::HEARTBEAT;
use super::openapi::{answers, events, formed_part, lists, no_body, operation, part, query, reads};
use super::problem::{Code, Problem};
use super::{Api, Route, unexpected};
use crate::blobs::BlobError;
use crate::engine::areas::{Answer, AreaSummary, AreaView, Command};
use crate::engine::command::{Command as EngineCommand, Response as EngineResponse};
use crate::schema;

/// How often it is looked whether an area has changed, for whoever follows them.
const LOOK_EVERY: Duration = Duration::from_secs(1);

fn area_id() -> Parameter {
    formed_part("id", "^[0-9a-f]{64}$")
}

fn shared() -> [Parameter; 3] {
    let name = formed_part("name", "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$");
    [area_id(), part("kind", schema::ShareKind::schema()), name]
}

pub(super) fn routes() -> Vec<Route> {
    let route = |method, path, handler, doc| Route { method, path, handler, doc };
    let one = |id, summary| operation(id, summary, &[area_id()], &[answers::<AreaView>(200)]);
    let mut all = vec![
        route(
            "get",
            "/areas",
            get(list),
            operation(
                "listAreas",
                "Areas, and invitations to areas",
                &[],
                &[lists::<AreaSummary>("Areas")],
            ),
        ),
        route(
            "post",
            "/areas",
            post(create),
            reads::<NewArea>(operation(
                "createArea",
                "Found an area",
                &[],
                &[answers::<AreaView>(201)],
            )),
        ),
        route(
            "get",
            "/areas/events",
            get(follow),
            operation(
                "followAreas",
                "An event whenever something about an area may have changed",
                &[],
                &[events("events `area`, whose `data` is a JSON object {id}")],
            ),
        ),
        route("get", "/areas/{id}", get(show), one("showArea", "An area, or an invitation to one")),
        route(
            "delete",
            "/areas/{id}",
            delete(forget),
            operation(
                "forgetArea",
                "Show an area no longer that was left, or decline an invitation",
                &[area_id()],
                &[no_body(204, "It is not shown any more")],
            ),
        ),
        route("post", "/areas/{id}/join", post(join), one("joinArea", "Join an area")),
        route("post", "/areas/{id}/leave", post(leave), one("leaveArea", "Leave an area")),
        route(
            "post",
            "/areas/{id}/invite",
            post(invite),
            reads::<AreaVote>(one("inviteToArea", "Vote to let an organisation in")),
        ),
        route(
            "post",
            "/areas/{id}/expel",
            post(expel),
            reads::<AreaVote>(one("expelFromArea", "Vote to put an organisation out")),
        ),
    ];
    all.extend(sharing_routes());
    all
}

/// Those about what is shared, and under which rules.
fn sharing_routes() -> Vec<Route> {
    let route = |method, path, handler, doc| Route { method, path, handler, doc };
    let one = |id, summary| operation(id, summary, &[area_id()], &[answers::<AreaView>(200)]);
    let sharing = |id, summary| operation(id, summary, &shared(), &[answers::<AreaView>(200)]);
    let of = [shared().as_slice(), &[query("org", "string", false)]].concat();
    vec![
        route(
            "put",
            "/areas/{id}/shared/{kind}/{name}",
            put(share),
            reads::<ShareInArea>(sharing("shareInArea", "Share something with the members")),
        ),
        route(
            "delete",
            "/areas/{id}/shared/{kind}/{name}",
            delete(unshare),
            sharing("unshareInArea", "Share something no longer"),
        ),
        route(
            "get",
            "/areas/{id}/shared/{kind}/{name}",
            get(content),
            operation("readShared", "What a member shares", &of, &[answers::<SharedContent>(200)]),
        ),
        route(
            "put",
            "/areas/{id}/rules",
            put(propose),
            reads::<ProposedRules>(one("proposeRules", "Want a rule book to be in force")),
        ),
        route(
            "post",
            "/areas/{id}/rules/accept",
            post(accept),
            reads::<AreaVote>(one("acceptRules", "Want the rule book that another member wants")),
        ),
    ]
}

/// An area to be founded.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewArea {
    /// Its name.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub about: String,
    /// Its first rule book.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::RuleBook>)]
    pub rules: Option<RuleBook>,
}

/// About which organisation something is said.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AreaVote {
    /// It.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
}

/// Something to share.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShareInArea {
    /// The text of the workflow or service; nothing for a workspace, which is taken as it is on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
}

/// A rule book that is wanted.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProposedRules {
    /// It.
    #[schema(value_type = schema::RuleBook)]
    pub rules: RuleBook,
}

/// What a member shares.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct SharedContent {
    /// What it is.
    #[schema(value_type = schema::ShareKind)]
    pub kind: ShareKind,
    /// Its name.
    pub name: String,
    /// Who shares it.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
    /// The text: of a workspace JSON, as `putWorkspace` takes it.
    pub document: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Sharer {
    #[serde(default)]
    org: Option<OrgId>,
}

fn id_of(text: &str) -> Result<Digest, Problem> {
    let is_hex = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let parsed = format!("blake3:{text}").parse().ok().filter(|_| is_hex);
    parsed.ok_or_else(|| {
        Problem::new(Code::Path, "the id of an area is 64 hex digits: see GET /areas".to_owned())
    })
}

fn kind_of(text: &str) -> Result<ShareKind, Problem> {
    ShareKind::from_word(text).ok_or_else(|| {
        let detail = "what is shared is a `workspace`, a `workflow` or a `service`";
        Problem::new(Code::Path, detail.to_owned())
    })
}

async fn ask(api: &Api, command: Command) -> Result<Answer, Problem> {
    match api.ask(EngineCommand::Area(command)).await? {
        EngineResponse::Area(answer) => Ok(answer),
        _ => Err(unexpected()),
    }
}

async fn one(api: &Api, command: Command) -> Result<Json<AreaView>, Problem> {
    match ask(api, command).await? {
        Answer::One(view) => Ok(Json(*view)),
        _ => Err(unexpected()),
    }
}

async fn list(State(api): State<Api>) -> Result<Json<Vec<AreaSummary>>, Problem> {
    match ask(&api, Command::List).await? {
        Answer::List(all) => Ok(Json(all)),
        _ => Err(unexpected()),
    }
}

async fn create(
    State(api): State<Api>,
    body: Body,
) -> Result<(StatusCode, Json<AreaView>), Problem> {
    let NewArea { name, about, rules } = json(&bytes(body).await?)?;
    Ok((StatusCode::CREATED, one(&api, Command::Create { name, about, rules }).await?))
}

async fn show(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<AreaView>, Problem> {
    one(&api, Command::Show { id: id_of(&id)? }).await
}

async fn forget(State(api): State<Api>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    match ask(&api, Command::Forget { id: id_of(&id)? }).await? {
        Answer::Done => Ok(StatusCode::NO_CONTENT),
        _ => Err(unexpected()),
    }
}

async fn join(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<AreaView>, Problem> {
    one(&api, Command::Join { id: id_of(&id)? }).await
}

async fn leave(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<AreaView>, Problem> {
    one(&api, Command::Leave { id: id_of(&id)? }).await
}

async fn invite(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<AreaView>, Problem> {
    let AreaVote { org } = json(&bytes(body).await?)?;
    one(&api, Command::Admit { id: id_of(&id)?, org }).await
}

async fn expel(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<AreaView>, Problem> {
    let AreaVote { org } = json(&bytes(body).await?)?;
    one(&api, Command::Expel { id: id_of(&id)?, org }).await
}

async fn share(
    State(api): State<Api>,
    Path((id, kind, name)): Path<(String, String, String)>,
    body: Body,
) -> Result<Json<AreaView>, Problem> {
    let ShareInArea { document } = json(&bytes(body).await?)?;
    let (id, kind) = (id_of(&id)?, kind_of(&kind)?);
    one(&api, Command::Share { id, kind, name, document }).await
}

async fn unshare(
    State(api): State<Api>,
    Path((id, kind, name)): Path<(String, String, String)>,
) -> Result<Json<AreaView>, Problem> {
    let (id, kind) = (id_of(&id)?, kind_of(&kind)?);
    one(&api, Command::Unshare { id, kind, name }).await
}

async fn content(
    State(api): State<Api>,
    Path((id, kind, name)): Path<(String, String, String)>,
    Asked(Sharer { org }): Asked<Sharer>,
) -> Result<Json<SharedContent>, Problem> {
    let (id, kind) = (id_of(&id)?, kind_of(&kind)?);
    let found = ask(&api, Command::Find { id, kind, name: name.clone(), org }).await?;
    let Answer::Found(org, share) = found else { return Err(unexpected()) };
    let read = api.handle.blobs().read(share.digest, SHARE_LEN_MAX).await;
    let bytes = read.map_err(|error| match error {
        BlobError::NotFound { .. } => {
            let detail = format!("the content of {kind} `{name}` is not here yet: it is fetched as soon as a member that has it is connected");
            Problem::new(Code::AreaContent, detail)
        }
        error => error.into(),
    })?;
    let document = String::from_utf8(bytes).map_err(|_| {
        Problem::new(Code::AreaContent, format!("the content of {kind} `{name}` is no text"))
    })?;
    Ok(Json(SharedContent { kind, name, org, document }))
}

async fn propose(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<AreaView>, Problem> {
    let ProposedRules { rules } = json(&bytes(body).await?)?;
    one(&api, Command::Propose { id: id_of(&id)?, rules }).await
}

async fn accept(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<AreaView>, Problem> {
    let AreaVote { org } = json(&bytes(body).await?)?;
    one(&api, Command::Accept { id: id_of(&id)?, org }).await
}

async fn changes(api: &Api) -> Result<BTreeMap<Digest, u64>, Problem> {
    match ask(api, Command::Changes).await? {
        Answer::Changes(changes) => Ok(changes),
        _ => Err(unexpected()),
    }
}

/// What a watcher has seen, and what it is still to be told.
type Watch = (BTreeMap<Digest, u64>, Vec<Digest>);

async fn follow(State(api): State<Api>) -> Result<Response, Problem> {
    let place = api.watcher()?;
    let first = changes(&api).await?;
    let stopping = api.stopping.clone();
    let stream = unfold((first, Vec::new()), move |(mut seen, mut waiting): Watch| {
        let (api, mut stopping) = (api.clone(), stopping.clone());
        let kept = &place;
        let _place = kept;
        async move {
            loop {
                if let Some(id) = waiting.pop() {
                    let data = json!({"id": id.to_hex()}).to_string();
                    let event = Event::default().event("area").data(data);
                    return Some((Ok::<_, Infallible>(event), (seen, waiting)));
                }
                tokio::select! {
                    _ = stopping.wait_for(|stop| *stop) => return None,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                let now = changes(&api).await.ok()?;
                let is_new = |(id, n): &(&Digest, &u64)| seen.get(*id) != Some(*n);
                waiting = now.iter().filter(is_new).map(|(id, _)| *id).collect();
                seen = now;
            }
        }
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response())
}
