//! Data that is kept here, what is pinned, and what is on its way.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::{delete, get, post, put};
use catalog::Digest;

use super::body::{Asked, bytes, json, named};
use super::openapi::{answers, digest, lists, no_body, operation, reads};
use super::page::{self, Page};
use super::problem::{Code, Problem, chain};
use super::{Api, Route, Stored, unexpected};
use crate::engine::command::{Command as EngineCommand, Response};
use crate::engine::data::{Answer, Command, DataView, Pin};
use crate::shell::Transfer;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            method: "get",
            path: "/data",
            handler: get(list),
            doc: operation(
                "listData",
                "The data that this node describes or has pinned",
                &page::parameters(),
                &[lists::<Listed>("DataList")],
            ),
        },
        Route {
            method: "put",
            path: "/data/{digest}/pin",
            handler: put(pin),
            doc: reads::<ToPin>(operation(
                "pinData",
                "Keep content on this node until it is unpinned; it is fetched first when it is not here",
                &[digest()],
                &[answers::<Pinned>(200)],
            )),
        },
        Route {
            method: "delete",
            path: "/data/{digest}/pin",
            handler: delete(unpin),
            doc: operation(
                "unpinData",
                "Keep content no longer for a pin",
                &[digest()],
                &[no_body(204, "It is not pinned any more")],
            ),
        },
        Route {
            method: "post",
            path: "/blobs/{digest}/verify",
            handler: post(verify),
            doc: operation(
                "verifyBlob",
                "Read the bytes on this node again and check them; damaged ones are moved away and the answer is `damaged`",
                &[digest()],
                &[answers::<Stored>(200)],
            ),
        },
        Route {
            method: "get",
            path: "/transfers",
            handler: get(transfers),
            doc: operation(
                "listTransfers",
                "What this node serves and fetches now, and the last fetches that have ended",
                &[],
                &[lists::<Transfer>("Transfers")],
            ),
        },
    ]
}

/// Data that is kept here.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Data)]
pub(crate) struct Listed {
    /// What, and why.
    #[serde(flatten)]
    pub data: DataView,
    /// Whether it is on this node's disk; of a directory, its manifest.
    pub here: bool,
}

/// What is to be pinned.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DataPin)]
pub(crate) struct ToPin {
    /// For people.
    #[serde(default)]
    pub name: String,
    /// Whether it is a directory.
    #[serde(default)]
    pub directory: bool,
}

/// What was pinned.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = DataPinned)]
pub(crate) struct Pinned {
    /// Bytes of the file, or of all files of the directory.
    pub size: u64,
}

async fn list(
    State(api): State<Api>,
    Asked(page): Asked<Page>,
    uri: Uri,
) -> Result<(HeaderMap, Json<Vec<Listed>>), Problem> {
    let Answer::List(all) = ask(&api, Command::List).await? else {
        return Err(unexpected());
    };
    let here = |data: DataView| Listed { here: api.handle.blobs().has(&data.digest), data };
    page.of(&uri, all.into_iter().map(here).collect(), |one| one.data.digest.to_string())
}

async fn pin(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<Pinned>, Problem> {
    let digest: Digest = named(&name)?;
    let ToPin { name, directory } = json(&bytes(body).await?)?;
    // It may take as long as a fetch does.
    let _place = api.watcher()?;
    api.handle.fetch(digest, directory).await.map_err(|error| {
        let detail =
            format!("{digest} is not on this node and cannot be fetched: {}", chain(&error));
        Problem::new(Code::NoBlob, detail)
    })?;
    let size = if directory {
        let manifest = api.handle.blobs().manifest(digest).await?;
        manifest.files.values().fold(0_u64, |sum, file| sum.saturating_add(file.size))
    } else {
        let gone = || Problem::new(Code::NoBlob, format!("{digest} is not on this node any more"));
        api.handle.blobs().size(&digest).ok_or_else(gone)?
    };
    ask(&api, Command::Pin { digest, pin: Pin { name, size, directory } }).await?;
    Ok(Json(Pinned { size }))
}

async fn unpin(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    ask(&api, Command::Unpin { digest: named(&name)? }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn verify(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Stored>, Problem> {
    let digest: Digest = named(&name)?;
    let _place = api.watcher()?;
    api.handle.blobs().verify(digest).await?;
    let gone = || Problem::new(Code::NoBlob, format!("{digest} is not on this node any more"));
    let size = api.handle.blobs().size(&digest).ok_or_else(gone)?;
    Ok(Json(Stored { digest, size }))
}

async fn transfers(State(api): State<Api>) -> Json<Vec<Transfer>> {
    Json(api.handle.transfers())
}

async fn ask(api: &Api, command: Command) -> Result<Answer, Problem> {
    match api.ask(EngineCommand::Data(command)).await? {
        Response::Data(answer) => Ok(answer),
        _ => Err(unexpected()),
    }
}
