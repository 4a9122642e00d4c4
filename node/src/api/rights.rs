//! What each request wants to do, and with what: the one table by which the policies are asked about everybody but the owner.
//!
//! The guard asks before any handler sees the request. Of a request that the table does not name nobody but the owner has the
//! right; a test holds the table against the API's description, so that there is none.

use std::collections::BTreeMap;

use axum::extract::{FromRequestParts, MatchedPath, Query, RawPathParams, Request};

use super::problem::{Code, Problem, Refusal};
use super::{Api, BASE};
use crate::engine::command::{Command, Response};
use crate::identity::Caller;
use crate::policy::{Action, Kind, Principal, Request as Asked, Resource};

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
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
}

const RUN: On = On::Path(Kind::Run, "id");
const WORKSPACE: On = On::Path(Kind::Workspace, "name");
const SERVICE: On = On::Path(Kind::Service, "name");
const DATA: On = On::Path(Kind::Data, "digest");
const IMAGE: On = On::Query(Kind::Algorithm, "name");
const DISK: On = On::Query(Kind::Disk, "name");

/// Method, path, what is done, with what.
type Right = (&'static str, &'static str, Action, On);

/// Every route of the API.
const RIGHTS: &[Right] = &[
    // This node and what it says of itself.
    ("get", "/openapi.json", Action::See, On::Node),
    ("get", "/status", Action::See, On::Node),
    ("get", "/transfers", Action::See, On::Node),
    ("get", "/ports", Action::See, On::Node),
    ("patch", "/org", Action::ManageNode, On::Node),
    ("post", "/org/install", Action::ManageNode, On::Node),
    ("post", "/org/rotate", Action::ManageNode, On::Node),
    ("get", "/login/link", Action::See, On::Oneself),
    ("post", "/login/link", Action::See, On::Oneself),
    ("get", "/session", Action::See, On::Oneself),
    ("delete", "/session", Action::See, On::Oneself),
    ("get", "/session/tokens", Action::See, On::Oneself),
    ("post", "/session/tokens", Action::See, On::Oneself),
    ("delete", "/session/tokens/{id}", Action::See, On::Oneself),
    // Users and groups.
    ("get", "/users", Action::ManageUsers, On::Node),
    ("post", "/users", Action::ManageUsers, On::Node),
    ("patch", "/users/{name}", Action::ManageUsers, On::Node),
    ("delete", "/users/{name}", Action::ManageUsers, On::Node),
    ("post", "/users/{name}/link", Action::ManageUsers, On::Node),
    ("delete", "/users/{name}/sessions", Action::ManageUsers, On::Node),
    ("get", "/users/{name}/tokens", Action::ManageUsers, On::Node),
    ("post", "/users/{name}/tokens", Action::ManageUsers, On::Node),
    ("delete", "/users/{name}/tokens/{id}", Action::ManageUsers, On::Node),
    // Providers of identities, and logins at them.
    ("get", "/providers", Action::ManageUsers, On::Node),
    ("post", "/providers", Action::ManageUsers, On::Node),
    ("delete", "/providers/{name}", Action::ManageUsers, On::Node),
    ("post", "/providers/test", Action::ManageUsers, On::Node),
    ("post", "/providers/{name}/test", Action::ManageUsers, On::Node),
    ("get", "/login/providers", Action::See, On::Oneself),
    ("get", "/login/start", Action::See, On::Oneself),
    ("get", "/login/callback", Action::See, On::Oneself),
    ("post", "/login/device", Action::See, On::Oneself),
    ("post", "/login/device/state", Action::See, On::Oneself),
    ("post", "/login/out/{name}", Action::See, On::Oneself),
    // Workspaces.
    ("get", "/workspaces", Action::See, On::Node),
    ("get", "/workspaces/{name}", Action::See, WORKSPACE),
    ("put", "/workspaces/{name}", Action::Edit, WORKSPACE),
    ("delete", "/workspaces/{name}", Action::Edit, WORKSPACE),
    // Peers.
    ("get", "/peers", Action::See, On::Node),
    ("get", "/orgs", Action::See, On::Node),
    ("patch", "/orgs", Action::ManagePeers, On::Node),
    ("post", "/orgs/decide", Action::ManagePeers, On::Node),
    ("post", "/invites", Action::ManagePeers, On::Node),
    ("post", "/join", Action::ManagePeers, On::Node),
    ("get", "/realm", Action::See, On::Node),
    ("post", "/realm/invites", Action::ManagePeers, On::Node),
    ("post", "/realm/links", Action::ManagePeers, On::Node),
    ("post", "/realm/unlink", Action::ManagePeers, On::Node),
    ("post", "/realm/speakers", Action::ManagePeers, On::Node),
    ("get", "/tunnel", Action::Use, On::Node),
    ("get", "/mesh/events", Action::See, On::Node),
    // The catalogue.
    ("get", "/catalog", Action::See, On::Node),
    ("get", "/catalog/everywhere", Action::See, On::Node),
    ("get", "/catalog/resource", Action::See, On::Resource("id")),
    ("get", "/resources", Action::See, On::Node),
    ("post", "/resources", Action::Publish, On::Node),
    ("delete", "/resources", Action::Withdraw, On::Own("key")),
    // Data.
    ("post", "/blobs", Action::Store, On::Node),
    ("get", "/blobs/{digest}", Action::Fetch, DATA),
    ("head", "/blobs/{digest}", Action::See, DATA),
    ("post", "/blobs/{digest}/verify", Action::Store, DATA),
    ("get", "/data", Action::See, On::Node),
    ("put", "/data/{digest}/pin", Action::Store, DATA),
    ("delete", "/data/{digest}/pin", Action::Store, DATA),
    ("get", "/copies", Action::See, On::Node),
    ("put", "/data/{digest}/copies", Action::Store, DATA),
    ("get", "/kept", Action::See, On::Node),
    // Images of containers and of disks.
    ("get", "/images", Action::See, On::Node),
    ("get", "/images/image", Action::See, IMAGE),
    ("delete", "/images", Action::Store, IMAGE),
    ("post", "/images/tags", Action::Store, On::Node),
    ("post", "/images/pull", Action::Store, On::Node),
    ("post", "/images/publish", Action::Publish, On::Node),
    ("get", "/images/disks", Action::See, On::Node),
    ("get", "/images/disks/disk", Action::See, DISK),
    ("post", "/images/disks", Action::Store, On::Node),
    ("patch", "/images/disks", Action::Store, DISK),
    ("delete", "/images/disks", Action::Store, DISK),
    ("post", "/images/disks/inspection", Action::Store, On::Node),
    ("post", "/images/disks/conversion", Action::Store, On::Node),
    ("post", "/images/disks/copy", Action::Store, On::Node),
    ("post", "/images/disks/verification", Action::Store, On::Node),
    ("get", "/images/disks/quota", Action::See, On::Node),
    ("put", "/images/disks/quota", Action::ManageNode, On::Node),
    // Runs.
    ("post", "/plan", Action::Plan, On::Node),
    ("post", "/workflow/check", Action::See, On::Node),
    ("post", "/runs", Action::Submit, On::Node),
    ("get", "/runs", Action::Watch, On::Node),
    ("get", "/runs/{id}", Action::Watch, RUN),
    ("get", "/runs/{id}/events", Action::Watch, RUN),
    ("get", "/runs/{id}/logs", Action::Watch, RUN),
    ("get", "/runs/{id}/explain", Action::Watch, RUN),
    ("post", "/runs/{id}/cancel", Action::Cancel, RUN),
    ("post", "/runs/{id}/suspend", Action::Steer, RUN),
    ("post", "/runs/{id}/resume", Action::Steer, RUN),
    ("get", "/runs/{id}/exec", Action::Enter, RUN),
    ("get", "/runs/{id}/console", Action::Enter, RUN),
    // Services.
    ("get", "/services", Action::Watch, On::Node),
    ("post", "/services", Action::Serve, On::Node),
    ("get", "/services/{name}", Action::Watch, SERVICE),
    ("put", "/services/{name}", Action::Serve, SERVICE),
    ("delete", "/services/{name}", Action::Serve, SERVICE),
    ("post", "/services/{name}/scale", Action::Serve, SERVICE),
    ("post", "/services/{name}/rollback", Action::Serve, SERVICE),
    ("get", "/services/{name}/logs", Action::Watch, SERVICE),
    ("get", "/services/{name}/exec", Action::Enter, SERVICE),
    ("get", "/connect", Action::Use, On::Query(Kind::Service, "service")),
    // The ledger.
    ("get", "/ledger", Action::ReadLedger, On::Node),
    ("get", "/ledger/export", Action::ReadLedger, On::Node),
    ("get", "/ledger/verification", Action::ReadLedger, On::Node),
    // Policies.
    ("get", "/policies", Action::ReadPolicies, On::Node),
    ("get", "/policies/{name}", Action::ReadPolicies, On::Node),
    ("put", "/policies/{name}", Action::ManagePolicies, On::Node),
    ("delete", "/policies/{name}", Action::ManagePolicies, On::Node),
    ("get", "/policy/schema", Action::ReadPolicies, On::Node),
    ("post", "/policy/check", Action::ReadPolicies, On::Node),
    ("post", "/policy/reload", Action::ManagePolicies, On::Node),
    ("post", "/policy/can", Action::ReadPolicies, On::Node),
    ("get", "/policy/who", Action::ReadPolicies, On::Node),
    ("get", "/policy/log", Action::ReadPolicies, On::Node),
];

/// What a request by this method at this address wants. `HEAD` asks for what `GET` does where it has no row of its own.
fn right(method: &str, path: &str) -> Option<(Action, On)> {
    let path = path.strip_prefix(BASE).unwrap_or(path);
    let find = |method: &str| RIGHTS.iter().find(|right| right.0 == method && right.1 == path);
    let found = find(method).or_else(|| (method == "head").then(|| find("get")).flatten());
    found.map(|(_, _, action, on)| (*action, *on))
}

/// Asks the policies about a request, and gives it back when they allow it. An address that no route has is not asked about:
/// nothing is there.
///
/// Whoever asks stands among its extensions; where nobody does, the guard has let it in as one that is for everybody.
pub(super) async fn check(api: &Api, request: Request) -> Result<Request, Problem> {
    let extensions = request.extensions();
    let Some(caller @ Caller::Person(_)) = extensions.get::<Caller>().cloned() else {
        return Ok(request);
    };
    let Some(path) = extensions.get::<MatchedPath>().cloned() else { return Ok(request) };
    let method = request.method().as_str().to_ascii_lowercase();
    let (mut parts, body) = request.into_parts();
    let (action, on) = right(&method, path.as_str()).unwrap_or((Action::ManageNode, On::Node));
    let node = || Resource::node(api.handle.me());
    let queried = |name: &str| {
        let query = Query::<BTreeMap<String, String>>::try_from_uri(&parts.uri).ok();
        query.and_then(|Query(mut query)| query.remove(name)).filter(|name| !name.is_empty())
    };
    let resource = match on {
        On::Oneself => return Ok(Request::from_parts(parts, body)),
        On::Node => node(),
        On::Query(kind, name) => queried(name).map_or_else(node, |name| Resource::of(kind, name)),
        On::Resource(name) => match queried(name) {
            Some(id) => find(api, id).await.unwrap_or_else(node),
            None => node(),
        },
        On::Own(name) => match queried(name) {
            Some(key) => find(api, format!("{}/{key}", api.handle.me())).await.unwrap_or_else(node),
            None => node(),
        },
        On::Path(kind, name) => {
            let params = RawPathParams::from_request_parts(&mut parts, &()).await;
            let params = params.map_err(|e| Problem::new(Code::Path, e.body_text()))?;
            let found = params.iter().find(|(key, _)| *key == name).map(|(_, value)| value);
            found.map_or_else(node, |name| Resource::of(kind, name))
        }
    };
    decide(api, &caller, action, resource).await?;
    Ok(Request::from_parts(parts, body))
}

async fn decide(
    api: &Api,
    caller: &Caller,
    action: Action,
    resource: Resource,
) -> Result<(), Problem> {
    let principal = api.handle.principal(caller).await?;
    let asked = Asked { principal, action, resource, work: None };
    let decision = api.handle.decide(&asked);
    if decision.allowed {
        return Ok(());
    }
    let Asked { principal, resource, .. } = asked;
    Err(refused(&principal, action, &resource, decision.policies))
}

/// Says what was refused, which policies forbid it and whom to ask, and nothing of what stands in the policies.
fn refused(
    principal: &Principal,
    action: Action,
    resource: &Resource,
    policies: Vec<String>,
) -> Problem {
    let (who, what) = (principal.told(), resource.told());
    let detail = format!(
        "the policies of this node do not let {who} `{action}` {what}: ask its owner, to whom `opencloud policy can '{who}' \
         {action} '{what}'` says why"
    );
    let mut problem = Problem::new(Code::Forbidden, detail);
    let action = action.to_string();
    problem.refusal = Some(Box::new(Refusal { principal: who, action, resource: what, policies }));
    problem
}

/// The resource of the catalogue that an id means.
async fn find(api: &Api, id: String) -> Option<Resource> {
    use catalog::record::Kind as Record;
    let Ok(Response::Resource(found)) = api.handle.command(Command::Resource { id }).await else {
        return None;
    };
    let kind = match found.resource.kind() {
        Record::Data => Kind::Data,
        Record::Algorithm => Kind::Algorithm,
        Record::Compute => Kind::Compute,
        Record::Storage => Kind::Storage,
        Record::Workflow => Kind::Workflow,
        Record::Service => Kind::Service,
        Record::Disk => Kind::Disk,
        Record::Revocations => return None,
    };
    Some(Resource::of(kind, found.resource.key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::openapi::document;
    use std::collections::BTreeSet;

    #[test]
    fn every_route_that_the_description_names_has_an_action_and_no_other() {
        let document = document();
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys();
                methods.map(move |method| (method.clone(), path.clone()))
            })
            .collect();
        let known: BTreeSet<(String, String)> =
            RIGHTS.iter().map(|right| (right.0.to_owned(), right.1.to_owned())).collect();
        let without: Vec<_> = described.difference(&known).collect();
        assert!(without.is_empty(), "say in RIGHTS what these do: {without:?}");
        let gone: Vec<_> = known.difference(&described).collect();
        assert!(gone.is_empty(), "there are no such routes: {gone:?}");
        assert_eq!(known.len(), RIGHTS.len(), "a route stands twice");
    }

    #[test]
    fn what_changes_something_is_no_look_and_the_address_has_the_names() {
        for (method, path, action, on) in RIGHTS.iter().filter(|right| right.3 != On::Oneself) {
            let is_look =
                matches!(action, Action::See | Action::Plan | Action::Watch | Action::ReadPolicies);
            let is_asking =
                matches!(*path, "/plan" | "/workflow/check" | "/policy/check" | "/policy/can");
            assert!(!is_look || is_asking || matches!(*method, "get" | "head"), "{method} {path}");
            if let On::Path(_, name) = on {
                assert!(path.contains(&format!("{{{name}}}")), "{path}");
            }
        }
        assert_eq!(right("head", "/api/v1/runs"), right("get", "/api/v1/runs"));
        assert_eq!(right("head", "/api/v1/blobs/{digest}"), Some((Action::See, DATA)));
        assert_eq!(right("get", "/api/v1/nowhere"), None);
    }

    #[test]
    fn a_refusal_names_who_what_and_the_way_out() {
        let me = catalog::NodeId::from_bytes([1; 32]);
        let org = catalog::OrgId::from_bytes([2; 32]);
        let principal = Principal::Org { org, stance: crate::policy::Stance::Peer };
        let problem =
            refused(&principal, Action::Submit, &Resource::node(me), vec!["mine/no".into()]);
        assert_eq!((problem.status, &*problem.code), (403, "forbidden"));
        for part in [&format!("org:{org}"), "`submit`", &format!("node:{me}"), "ask its owner"] {
            assert!(problem.detail.contains(part), "{}", problem.detail);
        }
        let refusal = serde_json::to_value(&problem).unwrap()["refusal"].take();
        let resource = format!("node:{me}");
        assert_eq!(
            refusal,
            serde_json::json!({"principal": format!("org:{org}"), "action": "submit", "resource": resource, "policies": ["mine/no"]})
        );
    }
}
