//! Workspaces of this node's users.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, put};

use super::body::{bytes, json};
use super::openapi::{answers, lists, no_body, operation, reads, workspace_name};
use super::problem::Problem;
use super::{Api, Route, unexpected};
use crate::engine::command::{Command as EngineCommand, Response};
use crate::engine::workspaces::{Answer, Command, Workspace, WorkspaceSummary, WorkspaceView};

pub(super) fn routes() -> Vec<Route> {
    let route = |method, path, handler, doc| Route { method, path, handler, doc };
    vec![
        route(
            "get",
            "/workspaces",
            get(list),
            operation(
                "listWorkspaces",
                "All workspaces",
                &[],
                &[lists::<WorkspaceSummary>("Workspaces")],
            ),
        ),
        route(
            "get",
            "/workspaces/{name}",
            get(show),
            operation(
                "showWorkspace",
                "A workspace, with what its resources are now",
                &[workspace_name()],
                &[answers::<WorkspaceView>(200)],
            ),
        ),
        route(
            "put",
            "/workspaces/{name}",
            put(write),
            reads::<PutWorkspace>(operation(
                "putWorkspace",
                "Make a workspace, or put it in the place of the version that was read",
                &[workspace_name()],
                &[answers::<WorkspaceView>(200)],
            )),
        ),
        route(
            "delete",
            "/workspaces/{name}",
            delete(remove),
            operation(
                "removeWorkspace",
                "Remove a workspace; what is in it stays where it is",
                &[workspace_name()],
                &[no_body(204, "It is gone")],
            ),
        ),
    ]
}

/// A workspace to be written.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutWorkspace {
    /// The version that was read; 0 or absent to make a new one.
    #[serde(default)]
    pub version: u64,
    /// It.
    pub workspace: Workspace,
}

async fn ask(api: &Api, command: Command) -> Result<Answer, Problem> {
    match api.ask(EngineCommand::Workspace(command)).await? {
        Response::Workspace(answer) => Ok(answer),
        _ => Err(unexpected()),
    }
}

async fn one(api: &Api, command: Command) -> Result<Json<WorkspaceView>, Problem> {
    match ask(api, command).await? {
        Answer::One(view) => Ok(Json(*view)),
        _ => Err(unexpected()),
    }
}

async fn list(State(api): State<Api>) -> Result<Json<Vec<WorkspaceSummary>>, Problem> {
    match ask(&api, Command::List).await? {
        Answer::List(all) => Ok(Json(all)),
        _ => Err(unexpected()),
    }
}

async fn show(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<WorkspaceView>, Problem> {
    one(&api, Command::Show { name }).await
}

async fn write(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<WorkspaceView>, Problem> {
    let PutWorkspace { version, workspace } = json(&bytes(body).await?)?;
    one(&api, Command::Put { name, version, workspace: Box::new(workspace) }).await
}

async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    match ask(&api, Command::Remove { name }).await? {
        Answer::Done => Ok(StatusCode::NO_CONTENT),
        _ => Err(unexpected()),
    }
}
