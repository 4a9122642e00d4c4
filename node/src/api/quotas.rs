//! Quotas: how much of this node people may take, and have taken.

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, delete, get, put};
use axum::{Extension, Json};

use super::body::{Asked, bytes, json};
use super::openapi::{Described, lists, no_body, operation, query, reads};
use super::problem::{Code, Problem};
use super::{Api, Route, unexpected};
use crate::engine::command::{Command as EngineCommand, Response};
use crate::engine::quota::{Command, EACH, Limits, QuotaError, QuotaView};
use crate::identity::Caller;
use crate::policy::Whom;

pub(super) fn routes() -> Vec<Route> {
    let route = |(method, path), handler: MethodRouter<Api>, doc: Described| Route {
        method,
        path,
        handler,
        doc,
    };
    let list_doc = operation(
        "listQuotas",
        "Every quota, and what of it is taken",
        &[],
        &[lists::<QuotaView>("Quotas")],
    );
    let set_doc = operation(
        "setQuota",
        "Say what somebody may take of this node; what is absent has no limit",
        &[],
        &[no_body(204, "It holds")],
    );
    let remove_doc = operation(
        "removeQuota",
        "Take a quota away",
        &[query("subject", "string", true)],
        &[no_body(204, "It is gone")],
    );
    let own_doc = operation(
        "ownQuotas",
        "The quotas that apply to whoever asks, and what of them is taken",
        &[],
        &[lists::<QuotaView>("Quotas")],
    );
    vec![
        route(("get", "/quotas"), get(list), list_doc),
        route(("put", "/quotas"), put(set), reads::<SetQuota>(set_doc)),
        route(("delete", "/quotas"), delete(remove), remove_doc),
        route(("get", "/session/quotas"), get(own), own_doc),
    ]
}

/// A quota to be set.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetQuota {
    /// Whose.
    pub subject: String,
    /// What it may take.
    pub limits: Limits,
}

async fn ask(api: &Api, command: Command) -> Result<Json<Vec<QuotaView>>, Problem> {
    match api.ask(EngineCommand::Quota(command)).await? {
        Response::Quotas(views) => Ok(Json(views.into_iter().map(|v| with_name(api, v)).collect())),
        _ => Err(unexpected()),
    }
}

async fn change(api: &Api, command: Command) -> Result<StatusCode, Problem> {
    match api.ask(EngineCommand::Quota(command)).await? {
        Response::Done => Ok(StatusCode::NO_CONTENT),
        _ => Err(unexpected()),
    }
}

/// Adds what a person is called whom this node knows.
fn with_name(api: &Api, view: QuotaView) -> QuotaView {
    let name = match view.subject.parse::<Whom>() {
        Ok(Whom::Person { org: None, issuer, subject }) => api.identity.read(|book, _| {
            let mut accounts = book.accounts().values();
            let found = accounts.find(|of| of.issuer == issuer && of.subject == subject);
            found.map(|of| of.name.clone())
        }),
        _ => None,
    };
    QuotaView { name, ..view }
}

/// A person by the name that it has here is the one whom its provider calls otherwise.
fn whole(api: &Api, subject: String) -> String {
    let Some(name) = subject.strip_prefix("user:").filter(|_| subject != EACH) else {
        return subject;
    };
    let found = api.identity.read(|book, _| {
        let account = book.find(name).ok().map(|(_, account)| account);
        account.map(|of| (of.issuer.clone(), of.subject.clone()))
    });
    found.map_or(subject.clone(), |(issuer, id)| {
        format!("user:{}|{id}", issuer.replace('%', "%25").replace('|', "%7C"))
    })
}

async fn list(State(api): State<Api>) -> Result<Json<Vec<QuotaView>>, Problem> {
    ask(&api, Command::List).await
}

async fn own(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<QuotaView>>, Problem> {
    let who = api.handle.principal(&caller).await?.counts_for();
    ask(&api, Command::Of(who)).await
}

async fn set(State(api): State<Api>, body: Body) -> Result<StatusCode, Problem> {
    let SetQuota { subject, limits } = json(&bytes(body).await?)?;
    let subject = whole(&api, subject);
    change(&api, Command::Set { subject, limits }).await
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Whose {
    subject: String,
}

async fn remove(
    State(api): State<Api>,
    Asked(Whose { subject }): Asked<Whose>,
) -> Result<StatusCode, Problem> {
    let subject = whole(&api, subject);
    change(&api, Command::Remove { subject }).await
}

impl From<QuotaError> for Problem {
    fn from(error: QuotaError) -> Self {
        let code = match &error {
            QuotaError::Over(_) => Code::Quota,
            QuotaError::Unknown { .. } => Code::NoQuota,
            _ => Code::QuotaInvalid,
        };
        let problem = Self::of(code, &error);
        match error {
            QuotaError::Over(over) => Self { quota: Some(over), ..problem },
            _ => problem,
        }
    }
}
