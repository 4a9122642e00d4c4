//! Copies of data at peers, and what is kept here for others.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use catalog::{Digest, OrgId};
use scheduler::copies::PATIENCE_MS;

use super::body::{bytes, json, named};
use super::openapi::{answers, digest, lists, no_body, operation, reads};
use super::problem::Problem;
use super::{Api, Route, unexpected};
use crate::engine::command::{Command as EngineCommand, Response};
use crate::engine::copies::{Answer, Command, KeptView, WishView};
use crate::schema;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            method: "get",
            path: "/copies",
            handler: get(list),
            doc: operation(
                "listCopies",
                "The contents of which copies are wished at peers, and where they are",
                &[],
                &[lists::<WishView>("Copies")],
            ),
        },
        Route {
            method: "put",
            path: "/data/{digest}/copies",
            handler: put(wish),
            doc: reads::<ToCopy>(operation(
                "wishCopies",
                "Have so many peers that are willing keep a copy of content, and others when one of them is lost; 0 ends it",
                &[digest()],
                &[no_body(204, "It is seen to")],
            )),
        },
        Route {
            method: "get",
            path: "/kept",
            handler: get(kept),
            doc: operation(
                "listKept",
                "What this node keeps for others",
                &[],
                &[answers::<KeptView>(200)],
            ),
        },
    ]
}

/// How many copies there are to be.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CopiesWish)]
pub(crate) struct ToCopy {
    /// Besides the one here.
    pub copies: u32,
    /// Among which organisations; any when none is named.
    #[serde(default)]
    #[schema(value_type = Vec<schema::OrgId>)]
    pub among: Vec<OrgId>,
    /// How long a keeper may be away before another one is asked, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience_ms: Option<u64>,
}

async fn list(State(api): State<Api>) -> Result<Json<Vec<WishView>>, Problem> {
    match ask(&api, Command::List).await? {
        Answer::List(all) => Ok(Json(all)),
        _ => Err(unexpected()),
    }
}

async fn kept(State(api): State<Api>) -> Result<Json<KeptView>, Problem> {
    match ask(&api, Command::Kept).await? {
        Answer::Kept(kept) => Ok(Json(kept)),
        _ => Err(unexpected()),
    }
}

async fn wish(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let digest: Digest = named(&name)?;
    let ToCopy { copies, among, patience_ms } = json(&bytes(body).await?)?;
    let patience_ms = patience_ms.unwrap_or(PATIENCE_MS);
    ask(&api, Command::Wish { digest, copies, among, patience_ms }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn ask(api: &Api, command: Command) -> Result<Answer, Problem> {
    match api.ask(EngineCommand::Copies(command)).await? {
        Response::Copies(answer) => Ok(answer),
        _ => Err(unexpected()),
    }
}
