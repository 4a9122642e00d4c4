//! Services: deploy, update, list, show, scale, roll back, remove, and what their replicas wrote.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::{delete, get, post, put};
use axum::{Extension, Json};
use futures::StreamExt as _;
use futures::stream::{once, unfold};
use scheduler::negotiate::Stream;
use scheduler::service::Content;
use scheduler::task::{AttemptId, RunId, TaskId};

use tokio::sync::OwnedSemaphorePermit;

use super::body::{Asked, bytes, json, named};
use super::events::HEARTBEAT;
use super::logs::{Named, follow, plain};
use super::openapi::{
    Described, answers, events, lists, no_body, operation, query, reads, service_name,
    text_or_events,
};
use super::page::{self, Page};
use super::problem::{Code, Problem, chain};
use super::{Api, Route, unexpected};
use crate::engine::command::{Command as EngineCommand, Response};
use crate::engine::services::{Answer, Command, ServiceSummary, ServiceView};
use crate::identity::Caller;
use crate::schema;
use crate::shell::{Forward, ForwardStatus};

/// How often it is looked how a forwarded port fares; only changes are told.
const TRAFFIC_EVERY: Duration = Duration::from_millis(500);

pub(super) fn routes() -> Vec<Route> {
    let of_one = |id, summary, answers: &[_]| operation(id, summary, &[service_name()], answers);
    let route = |method, path, handler, doc| Route { method, path, handler, doc };
    let deployed = [answers::<Deployed>(200)];
    let deploy_doc =
        operation("deployService", "Deploy a service, or another revision of one", &[], &deployed);
    let update_doc =
        of_one("updateService", "Deploy another revision of a service that is there", &deployed);
    let scaled = [no_body(202, "It is being scaled")];
    let scale_doc = of_one("scaleService", "Want another number of replicas", &scaled);
    let rollback_doc = of_one("rollBackService", "Want an earlier revision again", &deployed);
    let removed = [no_body(202, "It is being removed")];
    vec![
        route("post", "/services", post(deploy), reads::<schema::ServiceContent>(deploy_doc)),
        route(
            "get",
            "/services",
            get(list),
            operation(
                "listServices",
                "Every service by name",
                &page::parameters(),
                &[lists::<ServiceSummary>("Services")],
            ),
        ),
        route(
            "get",
            "/services/{name}",
            get(show),
            of_one("showService", "One service with its replicas", &[answers::<ServiceView>(200)]),
        ),
        route("put", "/services/{name}", put(update), reads::<schema::ServiceContent>(update_doc)),
        route(
            "delete",
            "/services/{name}",
            delete(remove),
            of_one("removeService", "End every replica and forget the service", &removed),
        ),
        route("post", "/services/{name}/scale", post(scale), reads::<Replicas>(scale_doc)),
        route(
            "post",
            "/services/{name}/rollback",
            post(roll_back),
            reads::<Revision>(rollback_doc),
        ),
        route("get", "/services/{name}/logs", get(logs), logs_doc()),
        route("get", "/connect", get(connect), connect_doc()),
    ]
}

fn logs_doc() -> Described {
    operation(
        "readServiceLog",
        "What a replica wrote lately, named by its run, which may have ended; `since` is in Unix ms",
        &[
            service_name(),
            query("replica", "string", true),
            query("stream", "string", false),
            query("follow", "boolean", false),
            query("tail", "integer", false),
            query("since", "integer", false),
        ],
        &[text_or_events()],
    )
}

fn connect_doc() -> Described {
    operation(
        "connectService",
        "Listen on a port of this machine whose connections go to a service, until the answer is closed",
        &[
            query("service", "string", true),
            query("port", "string", false),
            query("local", "integer", false),
        ],
        &[events(
            "the first `data` is {local, port}, later ones are {open, taken, failed, sent, received, trouble}",
        )],
    )
}

/// What was deployed.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct Deployed {
    /// The service.
    pub name: String,
    /// The revision that is wanted now.
    pub revision: u32,
    /// Whether it is a new one.
    pub is_new: bool,
}

async fn ask(api: &Api, command: Command) -> Result<Answer, Problem> {
    match api.ask(EngineCommand::Service(command)).await? {
        Response::Service(answer) => Ok(answer),
        _ => Err(unexpected()),
    }
}

/// The same, where it counts for whoever asks.
async fn ask_by(api: &Api, caller: &Caller, command: Command) -> Result<Answer, Problem> {
    match api.ask_by(caller, EngineCommand::Service(command)).await? {
        Response::Service(answer) => Ok(answer),
        _ => Err(unexpected()),
    }
}

async fn deployed(api: &Api, caller: &Caller, command: Command) -> Result<Json<Deployed>, Problem> {
    match ask_by(api, caller, command).await? {
        Answer::Deployed(done) => {
            let (name, revision, is_new) = (done.service, done.revision, done.is_new);
            Ok(Json(Deployed { name, revision, is_new }))
        }
        _ => Err(unexpected()),
    }
}

async fn deploy(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<Deployed>, Problem> {
    let content: Content = json(&bytes(body).await?)?;
    deployed(&api, &caller, Command::Deploy { content: Box::new(content) }).await
}

async fn update(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<Deployed>, Problem> {
    let content: Content = json(&bytes(body).await?)?;
    deployed(&api, &caller, Command::Update { name, content: Box::new(content) }).await
}

async fn list(
    State(api): State<Api>,
    Asked(page): Asked<Page>,
    uri: Uri,
) -> Result<(HeaderMap, Json<Vec<ServiceSummary>>), Problem> {
    match ask(&api, Command::List).await? {
        Answer::List(services) => page.of(&uri, services, |one| one.name.clone()),
        _ => Err(unexpected()),
    }
}

async fn show(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<ServiceView>, Problem> {
    Ok(Json(view(&api, name).await?))
}

async fn view(api: &Api, name: String) -> Result<ServiceView, Problem> {
    match ask(api, Command::Show { name }).await? {
        Answer::Service(view) => Ok(*view),
        _ => Err(unexpected()),
    }
}

#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Replicas {
    /// How many there should be.
    replicas: u32,
}

async fn scale(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let Replicas { replicas } = json(&bytes(body).await?)?;
    let command = Command::Scale { name, replicas };
    ask_by(&api, &caller, command).await.map(|_| StatusCode::ACCEPTED)
}

#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Revision {
    /// The one before when absent.
    revision: Option<u32>,
}

async fn roll_back(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<Deployed>, Problem> {
    let Revision { revision } = json(&bytes(body).await?)?;
    match ask(&api, Command::Rollback { name: name.clone(), revision }).await? {
        Answer::Targeted(revision) => Ok(Json(Deployed { name, revision, is_new: false })),
        _ => Err(unexpected()),
    }
}

async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    ask(&api, Command::Remove { name }).await.map(|_| StatusCode::ACCEPTED)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    replica: String,
    stream: Option<Named>,
    #[serde(default)]
    follow: bool,
    /// So many last lines alone.
    tail: Option<u64>,
    /// What came at this time (Unix ms) or later.
    since: Option<u64>,
}

async fn logs(
    State(api): State<Api>,
    Path(name): Path<String>,
    Asked(asked): Asked<Log>,
) -> Result<HttpResponse, Problem> {
    let run: RunId = named(&asked.replica)?;
    let stream = asked.stream.map_or(Stream::Stdout, Stream::from);
    let live = api.handle.watch();
    let (attempt, has_ended) = find(&api, &view(&api, name).await?, run).await?;
    let mut stored = api.handle.run_log(attempt, stream).await?;
    if let Some(since_ms) = asked.since {
        stored = stored.since(since_ms);
    }
    if let Some(lines) = asked.tail {
        stored = stored.tail(lines);
    }
    if asked.follow {
        return follow(&api, (attempt, stream), (stored, has_ended), live);
    }
    Ok(plain(&stored))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Connect {
    service: String,
    port: Option<String>,
    local: Option<u16>,
}

/// A port of this machine whose connections go to a service.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Connected {
    /// Where it is.
    pub local: SocketAddr,
    /// The service's port by name.
    pub port: String,
}

/// How such a port fares.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Traffic {
    /// Connections that are open.
    pub open: u64,
    /// Connections that were taken.
    pub taken: u64,
    /// Of those, how many could not be made or were cut.
    pub failed: u64,
    /// Bytes that went there.
    pub sent: u64,
    /// Bytes that came from there.
    pub received: u64,
    /// Why the last one failed.
    pub trouble: Option<String>,
}

async fn connect(
    State(api): State<Api>,
    Asked(asked): Asked<Connect>,
) -> Result<HttpResponse, Problem> {
    let place = api.watcher()?;
    let Connect { service, port, local } = asked;
    let (forward, port) =
        api.handle.connect_service(&service, port.as_deref(), local.unwrap_or(0)).await?;
    let connected = Connected { local: forward.local_addr(), port };
    Ok(told(&api, place, forward, &connected))
}

/// Tells of a forwarded port as long as somebody listens: first where it is, then how it fares whenever that changes.
pub(super) fn told(
    api: &Api,
    place: OwnedSemaphorePermit,
    forward: Forward,
    connected: &Connected,
) -> HttpResponse {
    let first = serde_json::to_string(connected).expect("an address is plain data");
    let stopping = api.stopping.clone();
    let traffic = unfold((forward, None), move |(forward, told)| {
        let mut stopping = stopping.clone();
        async move {
            loop {
                let now = traffic(&forward);
                if told.as_ref() != Some(&now) {
                    let data = serde_json::to_string(&now).expect("counts are plain data");
                    return Some((data, (forward, Some(now))));
                }
                tokio::select! {
                    _ = stopping.wait_for(|stop| *stop) => return None,
                    () = tokio::time::sleep(TRAFFIC_EVERY) => {}
                }
            }
        }
    });
    // The port lives as long as whoever asked for it listens.
    let all = once(async move { first }).chain(traffic).map(move |data| {
        let _kept = &place;
        Ok::<_, Infallible>(SseEvent::default().data(data))
    });
    Sse::new(all).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response()
}

fn traffic(forward: &Forward) -> Traffic {
    let ForwardStatus { open, taken, failed, sent, received, last_failure } = forward.status();
    let trouble = last_failure.map(|error| chain(&*error));
    Traffic { open, taken, failed, sent, received, trouble }
}

/// The replica's attempt, and whether it has ended. Of those that have, the service's events still tell.
async fn find(api: &Api, view: &ServiceView, run: RunId) -> Result<(AttemptId, bool), Problem> {
    let name = &view.summary.name;
    let none = |detail: String| Problem::new(Code::NoTask, detail);
    if let Some(replica) = view.replicas_now.iter().find(|replica| replica.run == run) {
        let task = TaskId { step: 0, index: 0 };
        return match replica.attempt {
            Some(number) => Ok((AttemptId { run, task, number }, false)),
            None => Err(none(format!("{run} of service `{name}` has not started anywhere yet"))),
        };
    }
    let is_told =
        view.events.iter().any(|event| crate::engine::services::run_of(&event.body) == Some(run));
    let unknown = || none(format!("service `{name}` has no replica {run}, and had none lately"));
    if !is_told {
        return Err(unknown());
    }
    let newest = api.handle.newest_replica(run).await?;
    newest.map(|attempt| (attempt, true)).ok_or_else(unknown)
}
