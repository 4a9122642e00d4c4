//! What the owner has decided about other organisations, and who waits to be let in.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, patch, post};
use catalog::OrgId;

use super::body::{bytes, json};
use super::openapi::{answers, lists, operation, reads};
use super::problem::{Code, Problem};
use super::{Api, Route, unexpected};
use crate::engine::command::{Command, Response};
use crate::engine::relations::{OrgView, RelationChange};
use crate::engine::rotation::RotationView;
use crate::engine::trust::{Answer, Command as TrustCommand};
use crate::schema;
use crate::shell::HomeError;

pub(super) fn routes() -> Vec<Route> {
    let name_doc = reads::<NameOrg>(operation(
        "nameOrg",
        "Give this node's organisation another name for people; the node starts again with papers that say it",
        &[],
        &[answers::<RotationView>(200)],
    ));
    vec![
        Route { method: "patch", path: "/org", handler: patch(rename), doc: name_doc },
        Route {
            method: "get",
            path: "/orgs",
            handler: get(orgs),
            doc: operation(
                "orgs",
                "Organisations: what each is to this node, and what it may do here",
                &[],
                &[lists::<OrgView>("Orgs")],
            ),
        },
        Route {
            method: "patch",
            path: "/orgs",
            handler: patch(relate),
            doc: reads::<Relate>(operation(
                "relate",
                "Decide what an organisation is to this node, and what it may do here",
                &[],
                &[answers::<OrgView>(200)],
            )),
        },
        Route {
            method: "post",
            path: "/orgs/decide",
            handler: post(decide),
            doc: reads::<Decide>(operation(
                "decide",
                "Let an organisation in that waits for it, or do not",
                &[],
                &[answers::<OrgView>(200)],
            )),
        },
    ]
}

/// A word about who waits.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Decide {
    /// About whom.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
    /// Whether it may come in.
    pub is_admitted: bool,
}

/// A decision.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Relate {
    /// About whom.
    #[schema(value_type = schema::OrgId)]
    pub org: OrgId,
    /// What.
    pub change: RelationChange,
}

async fn decide(State(api): State<Api>, body: Body) -> Result<Json<OrgView>, Problem> {
    let Decide { org, is_admitted } = json(&bytes(body).await?)?;
    match api.ask(Command::Trust(TrustCommand::Decide { org, is_admitted })).await? {
        Response::Trust(Answer::Org(org)) => Ok(Json(*org)),
        _ => Err(unexpected()),
    }
}

/// What the organisation is to be called.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameOrg {
    /// For people.
    pub name: String,
    /// How long to wait for running tasks, in milliseconds.
    #[serde(default)]
    pub drain_ms: u64,
}

async fn rename(State(api): State<Api>, body: Body) -> Result<Json<RotationView>, Problem> {
    let NameOrg { name, drain_ms } = json(&bytes(body).await?)?;
    api.handle.rename(name).await.map_err(|error| {
        let code = match &error {
            HomeError::Name { .. } => Code::Body,
            HomeError::NoOrgKey { .. } => Code::PapersRefused,
            _ => Code::Storage,
        };
        Problem::of(code, &error)
    })?;
    match api.ask(Command::Trust(TrustCommand::Rotate { drain_ms })).await? {
        Response::Trust(Answer::Rotating(view)) => Ok(Json(view)),
        _ => Err(unexpected()),
    }
}

async fn orgs(State(api): State<Api>) -> Result<Json<Vec<OrgView>>, Problem> {
    match api.ask(Command::Trust(TrustCommand::Orgs)).await? {
        Response::Trust(Answer::Orgs(orgs)) => Ok(Json(orgs)),
        _ => Err(unexpected()),
    }
}

async fn relate(State(api): State<Api>, body: Body) -> Result<Json<OrgView>, Problem> {
    let Relate { org, change } = json(&bytes(body).await?)?;
    match api.ask(Command::Trust(TrustCommand::Relate { org, change })).await? {
        Response::Trust(Answer::Org(org)) => Ok(Json(*org)),
        _ => Err(unexpected()),
    }
}
