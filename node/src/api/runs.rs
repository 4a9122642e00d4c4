//! Runs: submit, plan, list, show, explain, cancel.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::{get, post};
use catalog::Digest;
use scheduler::run::Submission;
use scheduler::task::RunId;
use scheduler::value::Value;

use super::body::{bytes, json, named};
use super::openapi::{answer, header as header_param, operation, run_id, takes};
use super::problem::{Code, Problem};
use super::{Api, BASE, Route, unexpected};
use crate::engine::command::{
    Command, Response, RunSummary, RunView, StepPlan, StepView, TaskExplanation, TaskView,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

pub(super) fn routes() -> Vec<Route> {
    let one = |id, summary, schema| operation(id, summary, &[run_id()], &[answer(200, schema)]);
    let submit_doc = operation(
        "submitRun",
        "Start a run",
        &[header_param(
            "Idempotency-Key",
            "A text of the caller's choice; repeating it does not start a second run",
        )],
        &[answer(201, "Submitted")],
    );
    let plan_doc =
        operation("plan", "Where each step could run, and why", &[], &[answer(200, "Plan")]);
    vec![
        Route {
            method: "post",
            path: "/runs",
            handler: post(submit),
            doc: takes("Submission", submit_doc),
        },
        Route {
            method: "get",
            path: "/runs",
            handler: get(list),
            doc: operation("listRuns", "Every run, newest first", &[], &[answer(200, "Runs")]),
        },
        Route {
            method: "get",
            path: "/runs/{id}",
            handler: get(show),
            doc: one("showRun", "One run with its tasks", "Run"),
        },
        Route {
            method: "post",
            path: "/runs/{id}/cancel",
            handler: post(cancel),
            doc: operation("cancelRun", "Stop a run", &[run_id()], &[answer(202, "Submitted")]),
        },
        Route {
            method: "get",
            path: "/runs/{id}/explain",
            handler: get(explain),
            doc: one("explainRun", "Why tasks run where they run, or wait", "Explanation"),
        },
        Route {
            method: "post",
            path: "/plan",
            handler: post(plan),
            doc: takes("Submission", plan_doc),
        },
    ]
}

/// The run that was started.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Submitted {
    /// Its id.
    pub id: RunId,
}

async fn submit(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let bytes = bytes(body).await?;
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(created(start(&api, &bytes).await?));
    };
    let key = key.to_str().map_err(|_| {
        Problem::new(Code::IdempotencyKey, "an idempotency key is visible ASCII text")
    })?;
    let digest = Digest::of(&bytes);
    // Held while the run is started, so that two requests with one key cannot start two.
    let mut answers = api.answers.lock().await;
    let id = match answers.known(key, &digest)? {
        Some(id) => id,
        None => {
            let id = start(&api, &bytes).await?;
            answers.remember(key.to_owned(), digest, id);
            id
        }
    };
    Ok(created(id))
}

async fn start(api: &Api, bytes: &[u8]) -> Result<RunId, Problem> {
    let submission: Submission = json(bytes)?;
    match api.ask(Command::Submit { submission: Box::new(submission) }).await? {
        Response::Submitted(id) => Ok(id),
        _ => Err(unexpected()),
    }
}

fn created(id: RunId) -> HttpResponse {
    let location = [(header::LOCATION, format!("{BASE}/runs/{id}"))];
    (StatusCode::CREATED, location, Json(Submitted { id })).into_response()
}

async fn list(State(api): State<Api>) -> Result<Json<Vec<RunSummary>>, Problem> {
    match api.ask(Command::Runs).await? {
        Response::Runs(runs) => Ok(Json(runs)),
        _ => Err(unexpected()),
    }
}

/// A run with its tasks as it goes over the wire.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct RunBody {
    /// The run.
    pub(crate) id: RunId,
    /// The workflow's name.
    pub(crate) workflow: String,
    /// As in [`RunSummary`].
    pub(crate) state: String,
    /// Tasks committed.
    pub(crate) committed: u64,
    /// Tasks known so far.
    pub(crate) total: u64,
    /// When it was submitted (Unix ms).
    pub(crate) submitted_ms: u64,
    /// When it ended (Unix ms).
    pub(crate) ended_ms: Option<u64>,
    /// Why it failed, if it did.
    pub(crate) detail: Option<String>,
    /// Steps in document order.
    pub(crate) steps: Vec<StepView>,
    /// Attempts and waiting tasks.
    pub(crate) tasks: Vec<TaskView>,
    /// Outputs of a run that succeeded.
    pub(crate) outputs: BTreeMap<String, Value>,
}

impl From<RunView> for RunBody {
    fn from(view: RunView) -> Self {
        let RunView { summary, detail, steps, tasks, outputs } = view;
        Self {
            id: summary.id,
            workflow: summary.workflow,
            state: summary.state,
            committed: summary.committed,
            total: summary.tasks,
            submitted_ms: summary.submitted_ms,
            ended_ms: summary.ended_ms,
            detail,
            steps,
            tasks,
            outputs,
        }
    }
}

async fn show(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<RunBody>, Problem> {
    Ok(Json(view(&api, named(&id)?).await?.into()))
}

/// A run with its tasks.
pub(super) async fn view(api: &Api, run: RunId) -> Result<RunView, Problem> {
    match api.ask(Command::Run { run }).await? {
        Response::Run(view) => Ok(*view),
        _ => Err(unexpected()),
    }
}

async fn cancel(State(api): State<Api>, Path(id): Path<String>) -> Result<HttpResponse, Problem> {
    let run: RunId = named(&id)?;
    match api.ask(Command::Cancel { run }).await? {
        Response::Done => Ok((StatusCode::ACCEPTED, Json(Submitted { id: run })).into_response()),
        _ => Err(unexpected()),
    }
}

async fn explain(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<Vec<TaskExplanation>>, Problem> {
    match api.ask(Command::Explain { run: named(&id)? }).await? {
        Response::Explanation(tasks) => Ok(Json(tasks)),
        _ => Err(unexpected()),
    }
}

async fn plan(State(api): State<Api>, body: Body) -> Result<Json<Vec<StepPlan>>, Problem> {
    let submission: Submission = json(&bytes(body).await?)?;
    match api.ask(Command::Plan { submission: Box::new(submission) }).await? {
        Response::Plan(steps) => Ok(Json(steps)),
        _ => Err(unexpected()),
    }
}
