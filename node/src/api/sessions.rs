//! Sessions inside tasks: commands and consoles, over connections that are upgraded to [`crate::session`].

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::get;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use scheduler::task::RunId;
use utoipa::openapi::path::Parameter;

use super::body::{Asked, named};
use super::openapi::{Described, fixed_header, no_body, operation, query, run_id, service_name};
use super::problem::{Code, Problem};
use super::{Api, Route};
use crate::engine::sessions::Which;
use crate::session::{Kind, PROTOCOL};

pub(super) fn routes() -> Vec<Route> {
    let of_step = || {
        [
            run_id(),
            query("step", "string", true),
            query("index", "integer", false),
            query("attempt", "integer", false),
        ]
    };
    let of_replica = [service_name(), query("replica", "string", true)];
    let route = |path, handler, doc| Route { method: "get", path, handler, doc };
    let exec = "Run a command inside a container task of a run";
    let console = "Be at the console of a machine task of a run";
    let replica = "Run a command inside a replica of a service, named by its run";
    vec![
        route("/runs/{id}/exec", get(exec_run), upgraded("execInTask", exec, &of_step())),
        route("/runs/{id}/console", get(console_run), upgraded("openConsole", console, &of_step())),
        route(
            "/services/{name}/exec",
            get(exec_service),
            upgraded("execInReplica", replica, &of_replica),
        ),
    ]
}

fn upgraded(id: &str, summary: &str, parameters: &[Parameter]) -> Described {
    let description = format!(
        "The connection speaks `{PROTOCOL}` from here on: frames of kind (1 byte), length (2 bytes, big endian, at most 32768) and \
         payload. First the client sends 0, {{argv, tty: {{columns, rows}}}} in JSON, then 1 input, 2 end of input, 3 columns and \
         rows (2 bytes each); the node sends 16 begun, 17 output, 18 error output, 21 alive, and last 19 exit code (4 bytes) or \
         20 why it failed"
    );
    let headers = [fixed_header("Connection", "Upgrade"), fixed_header("Upgrade", PROTOCOL)];
    operation(id, summary, &[parameters, &headers].concat(), &[no_body(101, &description)])
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    step: String,
    #[serde(default)]
    index: u32,
    attempt: Option<u32>,
}

impl From<Step> for Which {
    fn from(Step { step, index, attempt }: Step) -> Self {
        Self::Step { step, index, attempt }
    }
}

async fn exec_run(
    State(api): State<Api>,
    Path(id): Path<String>,
    Asked(step): Asked<Step>,
    request: Request,
) -> Result<HttpResponse, Problem> {
    open(&api, named(&id)?, step.into(), Kind::Exec, request).await
}

async fn console_run(
    State(api): State<Api>,
    Path(id): Path<String>,
    Asked(step): Asked<Step>,
    request: Request,
) -> Result<HttpResponse, Problem> {
    open(&api, named(&id)?, step.into(), Kind::Console, request).await
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Replica {
    replica: String,
}

async fn exec_service(
    State(api): State<Api>,
    Path(service): Path<String>,
    Asked(Replica { replica }): Asked<Replica>,
    request: Request,
) -> Result<HttpResponse, Problem> {
    open(&api, named(&replica)?, Which::Replica { service }, Kind::Exec, request).await
}

/// Opens the session, and only then lets the connection be upgraded: until here what goes wrong is a problem like any other.
async fn open(
    api: &Api,
    run: RunId,
    which: Which,
    kind: Kind,
    mut request: Request,
) -> Result<HttpResponse, Problem> {
    let upgrade = upgrade_of(&mut request)?;
    let place = api.watcher()?;
    let visit = api.handle.visit(run, which, kind).await?;
    let stopping = api.stopping.clone();
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => visit.serve(TokioIo::new(upgraded), stopping).await,
            Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
        }
        drop(place);
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static(PROTOCOL)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}

/// What the connection turns into, if the client asks for that.
fn upgrade_of(request: &mut Request) -> Result<OnUpgrade, Problem> {
    let asked = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    let is_asked = asked.is_some_and(|asked| asked.eq_ignore_ascii_case(PROTOCOL));
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    upgrade.filter(|_| is_asked).ok_or_else(|| {
        let detail = format!("send `Connection: Upgrade` and `Upgrade: {PROTOCOL}` over HTTP/1.1");
        Problem::new(Code::Upgrade, detail)
    })
}
