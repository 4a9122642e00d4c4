//! Papers that are carried as files.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;

use super::body::{bytes, json};
use super::openapi::{answers, operation, reads};
use super::problem::Problem;
use super::{Api, Route, unexpected};
use crate::engine::command::{Command, Response};
use crate::engine::rotation::RotationView;
use crate::engine::trust::{Answer, Command as TrustCommand, InstalledView};

pub(super) fn routes() -> Vec<Route> {
    let rotate_doc = reads::<Rotate>(operation(
        "rotate",
        "Start the node again with the key that its home holds ready; with the same key where none is",
        &[],
        &[answers::<RotationView>(200)],
    ));
    let rotate =
        Route { method: "post", path: "/org/rotate", handler: post(rotate), doc: rotate_doc };
    let install = Route {
        method: "post",
        path: "/org/install",
        handler: post(install),
        doc: reads::<Install>(operation(
            "install",
            "Use newer papers of this node, or an organisation's revocation list",
            &[],
            &[answers::<InstalledView>(200)],
        )),
    };
    vec![install, rotate]
}

/// When the next key is taken into use.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotate {
    /// How long to wait for running tasks, in milliseconds.
    pub drain_ms: u64,
}

async fn rotate(State(api): State<Api>, body: Body) -> Result<Json<RotationView>, Problem> {
    let Rotate { drain_ms } = json(&bytes(body).await?)?;
    match api.ask(Command::Trust(TrustCommand::Rotate { drain_ms })).await? {
        Response::Trust(Answer::Rotating(view)) => Ok(Json(view)),
        _ => Err(unexpected()),
    }
}

/// What a file holds.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Install {
    /// Its text.
    pub text: String,
}

async fn install(State(api): State<Api>, body: Body) -> Result<Json<InstalledView>, Problem> {
    let Install { text } = json(&bytes(body).await?)?;
    match api.ask(Command::Trust(TrustCommand::Install { text })).await? {
        Response::Trust(Answer::Installed(installed)) => Ok(Json(installed)),
        _ => Err(unexpected()),
    }
}
