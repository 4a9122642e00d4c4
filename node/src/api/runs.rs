//! Runs: submit, plan, list, show, explain, cancel.

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::{get, post};
use catalog::Digest;
use scheduler::run::Submission;
use scheduler::task::RunId;

use super::body::{Asked, bytes, json, named};
use super::openapi::{answers, header as header_param, lists, operation, query, reads, run_id};
use super::page::{self, Page};
use super::problem::{Code, Problem};
use super::{Api, BASE, Route, submitter, unexpected};
use crate::engine::command::{Command, Response, RunSummary, RunView, StepPlan, TaskExplanation};
use crate::identity::Caller;
use crate::schema;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How long a plan takes each task to run when nothing is said. Placement counts with the same figure, so the ranking is the
/// one a run would begin with.
const ESTIMATE_MS_DEFAULT: u64 = 1_000;
/// Longest run of a task that a plan may assume: 30 days.
const ESTIMATE_MS_MAX: u64 = 30 * 24 * 3_600_000;

pub(super) fn routes() -> Vec<Route> {
    let one = |id, summary, answer| operation(id, summary, &[run_id()], &[answer]);
    let submit_doc = operation(
        "submitRun",
        "Start a run",
        &[header_param(
            "Idempotency-Key",
            "A text of the caller's choice; repeating it does not start a second run",
        )],
        &[answers::<Submitted>(201)],
    );
    let plan_doc = operation(
        "plan",
        "Where each step could run, and why",
        &[query("estimate_ms", "integer", false)],
        &[lists::<StepPlan>("Plan")],
    );
    vec![
        Route {
            method: "post",
            path: "/runs",
            handler: post(submit),
            doc: reads::<schema::Submission>(submit_doc),
        },
        Route {
            method: "get",
            path: "/runs",
            handler: get(list),
            doc: operation(
                "listRuns",
                "Every run, newest first",
                &page::parameters(),
                &[lists::<RunSummary>("Runs")],
            ),
        },
        Route {
            method: "get",
            path: "/runs/{id}",
            handler: get(show),
            doc: one("showRun", "One run with its tasks", answers::<RunView>(200)),
        },
        Route {
            method: "post",
            path: "/runs/{id}/cancel",
            handler: post(cancel),
            doc: operation("cancelRun", "Stop a run", &[run_id()], &[answers::<Submitted>(202)]),
        },
        Route {
            method: "get",
            path: "/runs/{id}/explain",
            handler: get(explain),
            doc: one(
                "explainRun",
                "Why tasks run where they run, or wait",
                lists::<TaskExplanation>("Explanation"),
            ),
        },
        Route {
            method: "post",
            path: "/plan",
            handler: post(plan),
            doc: reads::<schema::Submission>(plan_doc),
        },
    ]
}

/// The run that was started.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct Submitted {
    /// Its id.
    #[schema(value_type = schema::RunId)]
    pub id: RunId,
}

async fn submit(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let bytes = bytes(body).await?;
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(created(start(&api, &caller, &bytes).await?));
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
            let id = start(&api, &caller, &bytes).await?;
            answers.remember(key.to_owned(), digest, id);
            id
        }
    };
    Ok(created(id))
}

async fn start(api: &Api, caller: &Caller, bytes: &[u8]) -> Result<RunId, Problem> {
    let submission: Box<Submission> = Box::new(json(bytes)?);
    let by = submitter(caller);
    match api.ask(Command::Submit { submission, by }).await.map_err(unsure)? {
        Response::Submitted(id) => Ok(id),
        _ => Err(unexpected()),
    }
}

/// What nobody answered may have been taken in all the same: the run is in the engine, and stored as soon as it can be.
fn unsure(mut problem: Problem) -> Problem {
    if [Code::Storage, Code::Timeout, Code::Stopping].iter().any(|c| c.word() == problem.code) {
        problem.detail.push_str(
            "; the run may still be stored and start later: look at `opencloud run list` (GET /runs) before you submit it again",
        );
    }
    problem
}

fn created(id: RunId) -> HttpResponse {
    let location = [(header::LOCATION, format!("{BASE}/runs/{id}"))];
    (StatusCode::CREATED, location, Json(Submitted { id })).into_response()
}

async fn list(
    State(api): State<Api>,
    Asked(page): Asked<Page>,
    uri: Uri,
) -> Result<(HeaderMap, Json<Vec<RunSummary>>), Problem> {
    match api.ask(Command::Runs).await? {
        Response::Runs(runs) => page.of(&uri, runs, |run| run.id.to_string()),
        _ => Err(unexpected()),
    }
}

async fn show(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<RunView>, Problem> {
    Ok(Json(view(&api, named(&id)?).await?))
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

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Estimate {
    estimate_ms: Option<u64>,
}

async fn plan(
    State(api): State<Api>,
    Asked(asked): Asked<Estimate>,
    body: Body,
) -> Result<Json<Vec<StepPlan>>, Problem> {
    let submission: Submission = json(&bytes(body).await?)?;
    let estimate_ms = asked.estimate_ms.unwrap_or(ESTIMATE_MS_DEFAULT);
    if !(1..=ESTIMATE_MS_MAX).contains(&estimate_ms) {
        let detail =
            format!("`estimate_ms` is {estimate_ms}, it has to be between 1 and {ESTIMATE_MS_MAX}");
        return Err(Problem::new(Code::Query, detail));
    }
    match api.ask(Command::Plan { submission: Box::new(submission), estimate_ms }).await? {
        Response::Plan(steps) => Ok(Json(steps)),
        _ => Err(unexpected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::CallError;

    #[test]
    fn a_submission_without_an_answer_may_still_be_stored_and_says_how_to_see() {
        let detail = "no space left on device".to_owned();
        for error in [CallError::Storage { detail }, CallError::Timeout, CallError::Stopped] {
            let before = error.to_string();
            let problem = unsure(error.into());
            assert!(problem.detail.starts_with(&before), "{}", problem.detail);
            assert!(problem.detail.contains("opencloud run list"), "{}", problem.detail);
        }
        let error = crate::engine::command::CommandError::Submission { detail: "bad".to_owned() };
        assert_eq!(unsure(error.into()).detail, "bad");
    }
}
