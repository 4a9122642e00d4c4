//! Tasks that are suspended and resumed.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::routing::post;
use scheduler::negotiate::Wish;
use scheduler::task::AttemptId;

use super::body::{bytes, json, named};
use super::openapi::{answers, operation, reads, run_id};
use super::problem::Problem;
use super::{Api, Route};
use crate::engine::sessions::Which;

pub(super) fn routes() -> Vec<Route> {
    let doc = |id, summary| {
        reads::<TaskName>(operation(id, summary, &[run_id()], &[answers::<Steered>(200)]))
    };
    vec![
        Route {
            method: "post",
            path: "/runs/{id}/suspend",
            handler: post(suspend),
            doc: doc("suspendTask", "Suspend a machine task of a run; answers when it is"),
        },
        Route {
            method: "post",
            path: "/runs/{id}/resume",
            handler: post(resume),
            doc: doc("resumeTask", "Let a suspended task go on; answers when it does"),
        },
    ]
}

/// A task of a run.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TaskName {
    /// Its step.
    pub step: String,
    /// Its map index.
    #[serde(default)]
    pub index: u32,
    /// The attempt, which has to be the one that runs; that one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
}

/// The attempt that was suspended or resumed.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct Steered {
    /// Its number.
    pub attempt: u32,
}

async fn suspend(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Steered>, Problem> {
    steer(&api, &id, body, Wish::Suspend).await
}

async fn resume(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Steered>, Problem> {
    steer(&api, &id, body, Wish::Resume).await
}

async fn steer(api: &Api, id: &str, body: Body, wish: Wish) -> Result<Json<Steered>, Problem> {
    let run = named(id)?;
    let TaskName { step, index, attempt } = json(&bytes(body).await?)?;
    // It may take minutes, as a stream does.
    let _place = api.watcher()?;
    let which = Which::Step { step, index, attempt };
    let AttemptId { number, .. } = api.handle.steer(run, which, wish).await?;
    Ok(Json(Steered { attempt: number }))
}
