//! What a request names, in its address, its query or its body: what the policies are asked about.
//!
//! Each thing that a request names is asked about, and all of them have to be allowed. Bodies are read by the types of those who
//! handle them; one that cannot be read names nothing, and whoever handles it refuses it for that.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::extract::{FromRequestParts, Query, RawPathParams};
use axum::http::request::Parts;
use bytes::Bytes;
use catalog::record::Resource as Record;
use catalog::{NodeId, OrgId};
use scheduler::run::Submission;
use scheduler::service::{Content, Document};
use scheduler::task::Stage;
use scheduler::value::Value;

use super::body;
use super::orgs::{Decide, Relate};
use super::problem::{Code, Problem};
use super::users::{NewUser, SetUser};
use super::{AddDisk, Api, unexpected};
use crate::engine::command::{Command, Response};
use crate::engine::names::{Sought, kind_of};
use crate::engine::policy::{Answer, Command as PolicyCommand};
use crate::policy::{Action, Kind, Resource};

/// Contents that one submission may name when somebody else than the owner submits it; with more it is refused.
const CONTENTS_MAX: usize = 2_048;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    /// The node as a whole.
    Node,
    /// What is whoever asks' own, or on the way to a login: no policy is asked.
    Oneself,
    /// What the address names.
    Path(Kind, &'static str),
    /// What the query names; the node as a whole where it names nothing.
    Query(Kind, &'static str),
    /// The resource of the catalogue that the query names, of whatever kind it is.
    Resource(&'static str),
    /// The same, of those that this node describes.
    Own(&'static str),
    /// The organisation of the node that the query names.
    OrgOf(&'static str),
    /// The groups of the user whom the address names, those that the body gives it, and those that it takes away.
    Member,
    /// The service that the address names, and the content that its next revision takes.
    Revision,
    /// The area that the address names, and what is shown to its members there, under its name here.
    Shared,
    /// What the body describes or names, in one of these forms.
    Body(Form),
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A submission: its workflow, and the content that it takes.
    Workflow,
    /// The description of a resource.
    Record,
    /// A service, and the content that it takes.
    Service,
    /// The organisation that it is about.
    Org,
    /// The groups of a new user.
    Groups,
    /// An image of a container by `name`.
    Image,
    /// A new image of a disk, and its content.
    NewDisk,
    /// An image of a disk by `name`, and that which is made of it.
    Disk,
    /// Content by `digest`.
    Content,
}

/// What is asked, each of it.
pub(super) type Things = Vec<(Action, Resource)>;

/// What a request wants to do with what, and its body, which has been read where that names something.
pub(super) async fn things(
    api: &Api,
    org: OrgId,
    (action, on): (Action, On),
    (parts, body): (&mut Parts, Body),
) -> Result<(Things, Body), Problem> {
    let node = || Resource::node(api.handle.me());
    let one = |thing: Resource| vec![(action, thing)];
    let found = match on {
        On::Node | On::Oneself => one(node()),
        On::Path(kind, name) => match in_path(parts, name).await? {
            Some(name) => one(seek(api, org, kind, name).await?),
            None => one(node()),
        },
        On::Query(kind, name) => match in_query(parts, name) {
            Some(name) => one(seek(api, org, kind, name).await?),
            None => one(node()),
        },
        On::Resource(name) => one(record(api, org, in_query(parts, name)).await?),
        On::Own(name) => {
            let id = in_query(parts, name).map(|key| format!("{}/{key}", api.handle.me()));
            one(record(api, org, id).await?)
        }
        On::OrgOf(name) => one(match in_query(parts, name).and_then(|node| node.parse().ok()) {
            Some(of) => org_of(api, of).await?.or(node()),
            None => node(),
        }),
        On::Member => {
            let name = in_path(parts, "name").await?.unwrap_or_default();
            let bytes = body::bytes(body).await?;
            let given = serde_json::from_slice::<SetUser>(&bytes).ok().and_then(|set| set.groups);
            let groups = groups(api, &name, given);
            return Ok((of_groups(api, action, groups), Body::from(bytes)));
        }
        On::Revision => {
            let bytes = body::bytes(body).await?;
            let mut things = in_body(api, org, (action, Form::Service), &bytes).await?;
            if let Some(name) = in_path(parts, "name").await? {
                things.insert(0, (action, seek(api, org, Kind::Service, name).await?));
            }
            return Ok((things, Body::from(bytes)));
        }
        On::Shared => {
            let id = in_path(parts, "id").await?.unwrap_or_default();
            let mut things = one(seek(api, org, Kind::Area, id).await?);
            let kind = in_path(parts, "kind").await?.and_then(|kind| kind.parse::<Kind>().ok());
            if let (Some(kind), Some(name)) = (kind, in_path(parts, "name").await?) {
                things.push((Action::See, seek(api, org, kind, name).await?));
            }
            things
        }
        On::Body(form) => {
            let bytes = body::bytes(body).await?;
            let things = in_body(api, org, (action, form), &bytes).await?;
            return Ok((things, Body::from(bytes)));
        }
    };
    Ok((found, body))
}

async fn in_path(parts: &mut Parts, name: &str) -> Result<Option<String>, Problem> {
    let params = RawPathParams::from_request_parts(parts, &()).await;
    let params = params.map_err(|e| Problem::new(Code::Path, e.body_text()))?;
    Ok(params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()))
}

fn in_query(parts: &Parts, name: &str) -> Option<String> {
    let query = Query::<BTreeMap<String, String>>::try_from_uri(&parts.uri).ok();
    query.and_then(|Query(mut query)| query.remove(name)).filter(|name| !name.is_empty())
}

/// Things with all their names, in the same order.
pub(super) async fn sought(
    api: &Api,
    org: OrgId,
    things: Vec<Sought>,
) -> Result<Vec<Resource>, Problem> {
    let n_things = things.len();
    match api.ask(Command::Policy(PolicyCommand::Names(org, things))).await? {
        Response::Policy(Answer::Names(found)) if found.len() == n_things => Ok(found),
        _ => Err(unexpected()),
    }
}

async fn seek(api: &Api, org: OrgId, kind: Kind, name: String) -> Result<Resource, Problem> {
    let mut found = sought(api, org, vec![Sought::Named(kind, name)]).await?;
    let node = Resource::node(api.handle.me());
    // What may be done with the node as a whole may be done with each thing in it that is not forbidden.
    found.pop().map(|thing| thing.or(node)).ok_or_else(unexpected)
}

/// The resource of the catalogue that an id means; the node where it means none.
async fn record(api: &Api, org: OrgId, id: Option<String>) -> Result<Resource, Problem> {
    let node = Resource::node(api.handle.me());
    let Some(id) = id else { return Ok(node) };
    let Ok(Response::Resource(found)) = api.handle.command(Command::Resource { id }).await else {
        return Ok(node);
    };
    match kind_of(found.resource.kind()) {
        None => Ok(node),
        // This node's own are called by their key.
        Some(kind) if found.author == api.handle.me() => {
            seek(api, org, kind, found.resource.key).await
        }
        Some(kind) => seek(api, org, kind, found.id).await,
    }
}

async fn org_of(api: &Api, node: NodeId) -> Result<Resource, Problem> {
    match api.ask(Command::Policy(PolicyCommand::Node(node))).await? {
        Response::Policy(Answer::Known(Some((org, _)))) => {
            Ok(Resource::of(Kind::Org, org.to_string()))
        }
        _ => Ok(Resource::node(api.handle.me())),
    }
}

/// The groups that a change of a user touches. Whoever changes, removes or lets in a user stands in for it, so that all its groups
/// count, and not those alone that change.
fn groups(api: &Api, user: &str, given: Option<BTreeSet<String>>) -> BTreeSet<String> {
    let known = api.identity.read(|book, _| book.find(user).ok().map(|(_, of)| of.groups.clone()));
    known.into_iter().chain(given).flatten().collect()
}

fn of_groups(api: &Api, action: Action, groups: BTreeSet<String>) -> Things {
    let node = || Resource::node(api.handle.me());
    if groups.is_empty() {
        return vec![(action, node())];
    }
    let group = |name: String| (action, Resource::group(api.handle.org(), &name).or(node()));
    groups.into_iter().map(group).collect()
}

async fn in_body(
    api: &Api,
    org: OrgId,
    (action, form): (Action, Form),
    bytes: &Bytes,
) -> Result<Things, Problem> {
    let node = || Resource::node(api.handle.me());
    let asked = match form {
        Form::Org => {
            let decide = serde_json::from_slice(bytes).ok().map(|Decide { org, .. }| org);
            let relate = || serde_json::from_slice(bytes).ok().map(|Relate { org, .. }| org);
            let of = |org: OrgId| (action, Resource::of(Kind::Org, org.to_string()).or(node()));
            return Ok(vec![decide.or_else(relate).map_or_else(|| (action, node()), of)]);
        }
        Form::Groups => {
            let given = serde_json::from_slice::<NewUser>(bytes).map(|new| new.groups);
            return Ok(of_groups(api, action, given.unwrap_or_default()));
        }
        Form::Workflow => of_workflow(action, bytes)?,
        Form::Service => of_service(action, bytes)?,
        form => of_name(action, form, bytes),
    };
    let (actions, things): (Vec<Action>, Vec<Sought>) = asked.into_iter().unzip();
    let found = sought(api, org, things).await?.into_iter().map(|thing| thing.or(node()));
    // A body that names nothing to do it with is about the node as a whole.
    let whole = (!actions.contains(&action)).then(|| (action, node()));
    Ok(whole.into_iter().chain(actions.iter().copied().zip(found)).collect())
}

/// What is to be done with what is sought.
type Asked = Vec<(Action, Sought)>;

fn of_workflow(action: Action, bytes: &Bytes) -> Result<Asked, Problem> {
    let Ok(submission) = serde_json::from_slice::<Submission>(bytes) else {
        return Ok(Vec::new());
    };
    let contents = contents_of(&submission)?;
    let name = submission.workflow().map(|workflow| workflow.name).unwrap_or_default();
    let mut asked = vec![(action, Sought::Text { source: submission.source, name })];
    // Work is done in an area by whoever may do it there, too; that the area permits it gives the workflow nothing.
    asked.extend(submission.area.map(|area| (action, Sought::Named(Kind::Area, area))));
    asked.extend(taken(action, contents));
    Ok(asked)
}

fn of_service(action: Action, bytes: &Bytes) -> Result<Asked, Problem> {
    let Ok(content) = serde_json::from_slice::<Content>(bytes) else { return Ok(Vec::new()) };
    let own = Document::parse(&content.source).ok().map(|document| document.name);
    let name = content.name.clone().or(own);
    let named = name.map(|name| (action, Sought::Named(Kind::Service, name)));
    let contents = bounded(content.assets.values().map(digest_of).collect())?;
    Ok(named.into_iter().chain(taken(action, contents)).collect())
}

fn of_name(action: Action, form: Form, bytes: &Bytes) -> Asked {
    let text = |name: &str| {
        let found: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
        found.and_then(|body| body.get(name)?.as_str().map(str::to_owned))
    };
    let of = |kind: Kind| move |name: String| (action, Sought::Named(kind, name));
    match form {
        Form::Record => {
            let record = serde_json::from_slice::<Record>(bytes).ok();
            let named = record.and_then(|record| Some((kind_of(record.kind())?, record.key)));
            named.into_iter().map(|(kind, key)| (action, Sought::Named(kind, key))).collect()
        }
        Form::Image => text("name").into_iter().map(of(Kind::Algorithm)).collect(),
        Form::NewDisk => match serde_json::from_slice(bytes) {
            Ok(AddDisk { name, digest, .. }) => {
                let own = of(Kind::Disk)(name.to_string());
                let content = taken(action, BTreeSet::from([digest.to_string()]));
                std::iter::once(own).chain(content).collect()
            }
            Err(_) => Vec::new(),
        },
        Form::Disk => {
            let named = text("name").into_iter().chain(text("new_name"));
            named.map(of(Kind::Disk)).collect()
        }
        Form::Content => text("digest").into_iter().map(of(Kind::Data)).collect(),
        Form::Org | Form::Groups | Form::Workflow | Form::Service => Vec::new(),
    }
}

/// The content that is taken for something.
fn taken(action: Action, contents: BTreeSet<String>) -> impl Iterator<Item = (Action, Sought)> {
    let action = content_action(action);
    contents.into_iter().map(move |name| (action, Sought::Named(Kind::Data, name)))
}

/// What is done with content that a workflow or service takes.
const fn content_action(action: Action) -> Action {
    match action {
        Action::Plan => Action::See,
        _ => Action::Use,
    }
}

fn digest_of(stage: &Stage) -> String {
    stage.digest().to_string()
}

/// The content that a submission takes: files and programs that it names, and parameters that are content.
fn contents_of(submission: &Submission) -> Result<BTreeSet<String>, Problem> {
    let mut contents: BTreeSet<String> = submission.assets.values().map(digest_of).collect();
    let bound = submission.workflow().ok();
    let bound = bound.and_then(|workflow| workflow.bind_params(submission.params.clone()).ok());
    let mut named = Vec::new();
    let values = bound.as_ref().unwrap_or(&submission.params).values();
    values.for_each(|value: &Value| value.blobs(&mut named));
    contents.extend(named.into_iter().map(|(digest, _)| digest.to_string()));
    bounded(contents)
}

fn bounded(contents: BTreeSet<String>) -> Result<BTreeSet<String>, Problem> {
    if contents.len() <= CONTENTS_MAX {
        return Ok(contents);
    }
    let detail = format!(
        "{} contents are named, and the policies are asked about {CONTENTS_MAX} at most: put files into directories",
        contents.len()
    );
    Err(Problem::new(Code::SubmissionInvalid, detail))
}
