//! Papers that are carried as files.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;

use super::body::{bytes, json};
use super::openapi::{answer, operation, takes};
use super::problem::Problem;
use super::{Api, Route, unexpected};
use crate::engine::command::{Command, Response};
use crate::engine::trust::{Answer, Command as TrustCommand, InstalledView};

pub(super) fn routes() -> Vec<Route> {
    vec![Route {
        method: "post",
        path: "/org/install",
        handler: post(install),
        doc: takes(
            "Install",
            operation(
                "install",
                "Use newer papers of this node, or an organisation's revocation list",
                &[],
                &[answer(200, "Installed")],
            ),
        ),
    }]
}

/// What a file holds.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
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
