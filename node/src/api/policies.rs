//! The owner's policies: files, schema, what they would decide, and what they have decided.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::{MethodRouter, get, post};
use catalog::OrgId;

use super::body::{Asked, bytes, json, named};
use super::named::sought;
use super::openapi::{
    Described, answers, bytes as in_bytes, header as header_param, lists, no_body, operation,
    query, reads, workspace_name,
};
use super::problem::{Code, Problem};
use super::{Api, Route, unexpected};
use crate::engine::command::{Command, Response};
use crate::engine::names::Sought;
use crate::engine::policy::{Answer, Command as PolicyCommand};
use crate::identity::Person;
use crate::policy::{
    Action, Decision, KeepError, Kind, PAGE_MAX, Page, Policies, PolicyError, Principal, Request,
    Resource, Rule, SCHEMA, Spot, Stance, Whom, mark,
};
use crate::shell::{Change, NotChanged};

/// Groups and roles that a question may name; more are refused.
const WORDS_MAX: usize = 64;
/// Organisations about which `who` asks; the others are left out, and the answer says so.
const ORGS_MAX: usize = 256;
/// Lines of the log in a page when nothing is said.
const PAGE_DEFAULT: usize = 50;

pub(super) fn routes() -> Vec<Route> {
    file_routes().into_iter().chain(text_routes()).chain(question_routes()).collect()
}

fn route(
    (method, path): (&'static str, &'static str),
    handler: MethodRouter<Api>,
    doc: Described,
) -> Route {
    Route { method, path, handler, doc }
}

fn file_routes() -> Vec<Route> {
    let of_name = |id, summary, can_change: bool, answer| {
        let name = workspace_name();
        let about =
            "The ETag of the text that is replaced; it is replaced whatever it is when absent";
        let change = can_change.then(|| header_param("If-Match", about));
        let parameters: Vec<_> = std::iter::once(name).chain(change).collect();
        operation(id, summary, &parameters, &[answer])
    };
    let list_doc = operation(
        "listPolicies",
        "The files of policies that hold, and what is in them",
        &[],
        &[answers::<PolicyList>(200)],
    );
    let text = || answers::<PolicyText>(200);
    let show_doc = of_name("showPolicy", "The text of a file of policies", false, text());
    let about = "Write a file of policies and have it hold; one that is refused changes nothing";
    let put_doc = reads::<PolicySource>(of_name("putPolicy", about, true, text()));
    let removed = no_body(204, "Removed");
    let remove_doc = of_name("deletePolicy", "Remove a file of policies", true, removed);
    vec![
        route(("get", "/policies"), get(list), list_doc),
        route(("get", "/policies/{name}"), get(show), show_doc),
        route(("put", "/policies/{name}"), axum::routing::put(put), put_doc),
        route(("delete", "/policies/{name}"), axum::routing::delete(remove), remove_doc),
    ]
}

fn text_routes() -> Vec<Route> {
    let schema_doc = operation(
        "policySchema",
        "What policies speak of, as a Cedar schema",
        &[],
        &[in_bytes("text/plain")],
    );
    let check_doc = operation(
        "checkPolicy",
        "Say whether a text of policies would be taken",
        &[],
        &[answers::<PolicyChecked>(200)],
    );
    let reload_doc = operation(
        "reloadPolicies",
        "Read the files of policies again; when one is refused, nothing changes",
        &[],
        &[answers::<PolicyList>(200)],
    );
    vec![
        route(("get", "/policy/schema"), get(schema), schema_doc),
        route(("post", "/policy/check"), post(check), reads::<PolicySource>(check_doc)),
        route(("post", "/policy/reload"), post(reload), reload_doc),
    ]
}

fn question_routes() -> Vec<Route> {
    let can_doc = operation(
        "canDo",
        "Whether somebody could do something, and what would decide it",
        &[],
        &[answers::<PolicyVerdict>(200)],
    );
    let who_doc = operation(
        "whoCan",
        "Who of those that the node and its policies know could do something",
        &[query("action", "string", true), query("resource", "string", true)],
        &[lists::<PolicyVerdict>("PolicyVerdicts")],
    );
    let log_doc = operation(
        "policyLog",
        "What was decided, newest first",
        &[query("before", "integer", false), query("limit", "integer", false)],
        &[answers::<Page>(200)],
    );
    vec![
        route(("post", "/policy/can"), post(can), reads::<PolicyQuestion>(can_doc)),
        route(("get", "/policy/who"), get(who), who_doc),
        route(("get", "/policy/log"), get(log), log_doc),
    ]
}

/// A file of policies.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct PolicyFile {
    /// Its name.
    pub name: String,
    /// Whether it is of this home.
    pub is_own: bool,
    /// The mark of its text.
    pub mark: String,
    /// Its policies.
    pub rules: Vec<Rule>,
}

/// The same with its text.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct PolicyText {
    /// The file.
    #[serde(flatten)]
    pub file: PolicyFile,
    /// Its text.
    pub text: String,
}

/// What holds.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Policies)]
pub(crate) struct PolicyList {
    /// Why nobody but the owner may do anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub closed: Option<String>,
    /// The files, by name.
    pub files: Vec<PolicyFile>,
}

/// A text that is to hold.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicySource {
    /// It.
    pub text: String,
}

/// Whether a text would be taken.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct PolicyChecked {
    /// Whether.
    pub valid: bool,
    /// Its policies.
    pub rules: Vec<Rule>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub problem: Option<String>,
    /// Where not.
    pub spots: Vec<Spot>,
}

/// Whether somebody could do something.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyQuestion {
    /// Who, by name.
    pub principal: String,
    /// Of a person: groups that it is in.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub groups: BTreeSet<String>,
    /// Of a person: roles that it has.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub roles: BTreeSet<String>,
    /// What it would do.
    pub action: String,
    /// With what, by name.
    pub resource: String,
    /// Whether that is published to the organisation that asks.
    #[serde(default)]
    pub listed: bool,
}

/// What would be decided.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct PolicyVerdict {
    /// Who.
    pub principal: String,
    /// What it would do.
    pub action: String,
    /// With what.
    pub resource: String,
    /// The decision.
    #[serde(flatten)]
    pub decision: Decision,
}

fn files(policies: &Policies) -> Vec<PolicyText> {
    let view = |(name, text, is_own, rules): (&str, &str, bool, &[Rule])| PolicyText {
        file: PolicyFile { name: name.to_owned(), is_own, mark: mark(text), rules: rules.to_vec() },
        text: text.to_owned(),
    };
    policies.all().map(view).collect()
}

fn listed(policies: &Policies) -> PolicyList {
    PolicyList {
        closed: policies.is_closed().map(ToString::to_string),
        files: files(policies).into_iter().map(|text| text.file).collect(),
    }
}

async fn list(State(api): State<Api>) -> Json<PolicyList> {
    Json(listed(&api.handle.policies()))
}

/// The file with its mark in front.
fn text_of(policies: &Policies, name: &str) -> Result<HttpResponse, Problem> {
    let found = files(policies).into_iter().find(|text| text.file.name == name);
    let Some(found) = found else {
        return Err(KeepError::Unknown { file: name.chars().take(80).collect() }.into());
    };
    let tag =
        HeaderValue::try_from(format!("\"{}\"", found.file.mark)).map_err(|_| unexpected())?;
    Ok(([(header::ETAG, tag)], Json(found)).into_response())
}

async fn show(State(api): State<Api>, Path(name): Path<String>) -> Result<HttpResponse, Problem> {
    text_of(&api.handle.policies(), &name)
}

/// The mark that a request names; `*` is any text.
fn replaced(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let detail = "If-Match has to be the ETag of the text that you read, in its quotes";
    inner.map(|text| Some(text.to_owned())).ok_or_else(|| Problem::new(Code::Query, detail))
}

async fn put(
    State(api): State<Api>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let PolicySource { text } = json(&bytes(body).await?)?;
    let replaces = replaced(&headers)?;
    let change = Change::Put { file: name.clone(), text, replaces };
    text_of(&*api.handle.change_policies(change).await?, &name)
}

async fn remove(
    State(api): State<Api>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let change = Change::Remove { file: name, replaces: replaced(&headers)? };
    api.handle.change_policies(change).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn reload(State(api): State<Api>) -> Result<Json<PolicyList>, Problem> {
    Ok(Json(listed(&*api.handle.change_policies(Change::Reload).await?)))
}

async fn schema() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], SCHEMA)
}

async fn check(body: Body) -> Result<Json<PolicyChecked>, Problem> {
    let PolicySource { text } = json(&bytes(body).await?)?;
    let file = "text".to_owned();
    Ok(Json(match Policies::read([(file.clone(), text)].into()) {
        Ok(policies) => {
            let rules = policies.all().find(|(name, ..)| *name == file);
            let rules = rules.map(|(.., rules)| rules.to_vec()).unwrap_or_default();
            PolicyChecked { valid: true, rules, problem: None, spots: Vec::new() }
        }
        Err(error) => PolicyChecked {
            valid: false,
            rules: Vec::new(),
            problem: Some(error.to_string()),
            spots: match error {
                PolicyError::Text { spots, .. } => spots,
                _ => Vec::new(),
            },
        },
    }))
}

/// Looks up what somebody is to this node.
async fn known(
    api: &Api,
    whom: Whom,
    (groups, roles): (BTreeSet<String>, BTreeSet<String>),
) -> Result<Principal, Problem> {
    let own = api.handle.org();
    Ok(match whom {
        Whom::Owner => Principal::Owner,
        Whom::Org(org) => Principal::Org { org, stance: api.handle.stance(org).await? },
        Whom::Group { org, name } => {
            let org = org.unwrap_or(own);
            Principal::Group { org, stance: api.handle.stance(org).await?, name }
        }
        Whom::Person { org, issuer, subject } => {
            let org = org.unwrap_or(own);
            let name = subject.clone();
            let person = Person { org, issuer, subject, name, groups, roles };
            Principal::Person { person: Box::new(person), stance: api.handle.stance(org).await? }
        }
        Whom::Node(node) => match api.ask(Command::Policy(PolicyCommand::Node(node))).await? {
            Response::Policy(Answer::Known(Some((org, stance)))) => {
                Principal::Node { node, org, stance }
            }
            Response::Policy(Answer::Known(None)) => {
                let detail = format!(
                    "{node} is not known here, so whose it is cannot be said: `opencloud peers` lists those that are"
                );
                return Err(Problem::new(Code::Query, detail));
            }
            _ => return Err(unexpected()),
        },
    })
}

fn verdict(policies: &Policies, request: &Request) -> PolicyVerdict {
    PolicyVerdict {
        principal: request.principal.told(),
        action: request.action.to_string(),
        resource: request.resource.told(),
        decision: policies.decide(request),
    }
}

fn resource_of(api: &Api, text: &str) -> Result<Resource, Problem> {
    Resource::parse(text, api.handle.me()).map_err(|error| Problem::of(Code::Query, &error))
}

/// What is asked about with every name that it has here, as a request for it by somebody of an organisation is asked about.
async fn names_of(api: &Api, org: OrgId, resource: Resource) -> Result<Resource, Problem> {
    if resource.kind == Kind::Node {
        return Ok(resource);
    }
    let asked = vec![Sought::Named(resource.kind, resource.name.clone())];
    let found = sought(api, org, asked).await?.into_iter().next();
    Ok(found.unwrap_or(resource).or(Resource::node(api.handle.me())))
}

async fn can(State(api): State<Api>, body: Body) -> Result<Json<PolicyVerdict>, Problem> {
    let asked: PolicyQuestion = json(&bytes(body).await?)?;
    if asked.groups.len() + asked.roles.len() > WORDS_MAX {
        let detail = format!("more than {WORDS_MAX} groups and roles: ask about fewer");
        return Err(Problem::new(Code::Body, detail));
    }
    let whom: Whom = named(&asked.principal)?;
    let action: Action = named(&asked.action)?;
    let principal = known(&api, whom, (asked.groups, asked.roles)).await?;
    let org = principal.org().unwrap_or_else(|| api.handle.org());
    let mut resource = names_of(&api, org, resource_of(&api, &asked.resource)?).await?;
    resource.is_listed |= asked.listed;
    let request = Request { principal, action, resource, work: None };
    Ok(Json(verdict(&api.handle.policies(), &request)))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Who {
    action: String,
    resource: String,
}

/// Whoever the node and its policies know of: the owner, people of this organisation without a role and with each that the default
/// knows, groups and people that policies name, and organisations.
async fn candidates(api: &Api, policies: &Policies) -> Result<Vec<Principal>, Problem> {
    let none = || (BTreeSet::new(), BTreeSet::new());
    let mut all = vec![Principal::Owner];
    for kind in ["User", "Group"] {
        for name in policies.named(kind) {
            let whom = format!("{}:{name}", kind.to_ascii_lowercase());
            if let Ok(whom) = whom.parse() {
                all.push(known(api, whom, none()).await?);
            }
        }
    }
    let Response::Policy(Answer::Orgs(orgs)) =
        api.ask(Command::Policy(PolicyCommand::Orgs)).await?
    else {
        return Err(unexpected());
    };
    for (org, stance) in orgs.into_iter().take(ORGS_MAX) {
        let person = |role: Option<&str>| {
            let subject =
                role.map_or_else(|| "*".to_owned(), |role| format!("*, with role {role}"));
            let roles = role.map(str::to_owned).into_iter().collect();
            let (issuer, name) = ("*".to_owned(), subject.clone());
            let person = Person { org, issuer, subject, name, groups: BTreeSet::new(), roles };
            Principal::Person { person: Box::new(person), stance }
        };
        all.push(Principal::Org { org, stance });
        all.push(person(None));
        if stance == Stance::Own {
            all.extend(["member", "admin"].map(|role| person(Some(role))));
        }
    }
    Ok(all)
}

async fn who(
    State(api): State<Api>,
    Asked(asked): Asked<Who>,
) -> Result<Json<Vec<PolicyVerdict>>, Problem> {
    let action: Action = named(&asked.action)?;
    let asked = resource_of(&api, &asked.resource)?;
    let policies: Arc<Policies> = api.handle.policies();
    // To whom it is published differs from organisation to organisation; there are no more than `ORGS_MAX` here.
    let mut seen: BTreeMap<OrgId, Resource> = BTreeMap::new();
    let mut verdicts = Vec::new();
    for principal in candidates(&api, &policies).await? {
        let org = principal.org().unwrap_or_else(|| api.handle.org());
        let resource = match seen.get(&org) {
            Some(resource) => resource.clone(),
            None => {
                let resource = names_of(&api, org, asked.clone()).await?;
                seen.entry(org).or_insert(resource).clone()
            }
        };
        let request = Request { principal, action, resource, work: None };
        verdicts.push(verdict(&policies, &request));
    }
    Ok(Json(verdicts))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct LogPage {
    before: Option<u64>,
    limit: Option<usize>,
}

async fn log(State(api): State<Api>, Asked(page): Asked<LogPage>) -> Result<Json<Page>, Problem> {
    let limit = page.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        let detail = format!("`limit` is {limit}, it has to be between 1 and {PAGE_MAX}");
        return Err(Problem::new(Code::Query, detail));
    }
    Ok(Json(api.handle.decisions(page.before, limit).await?))
}

impl From<KeepError> for Problem {
    fn from(error: KeepError) -> Self {
        let code = match &error {
            KeepError::Policy(PolicyError::Name { .. }) => Code::Path,
            KeepError::Policy(_) => Code::PolicyInvalid,
            KeepError::Unknown { .. } => Code::NoPolicy,
            KeepError::Changed { .. } => Code::PolicyChanged,
            KeepError::Io { .. } => Code::Storage,
        };
        Self::of(code, &error)
    }
}

impl From<NotChanged> for Problem {
    fn from(error: NotChanged) -> Self {
        match error {
            NotChanged::Keep(error) => error.into(),
            NotChanged::Call(_) => Self::of(Code::Storage, &error),
            NotChanged::Stopped => Self::of(Code::Stopping, &error),
        }
    }
}
