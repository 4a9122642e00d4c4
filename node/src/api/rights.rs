//! What each request wants to do, and with what: the one table by which the policies are asked about everybody but the owner.
//!
//! The guard asks before any handler sees the request. Of a request that the table does not name nobody but the owner has the
//! right; a test holds the table against the API's description, so that there is none.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::named::{Form, On, things};
use super::problem::{Code, Problem, Refusal};
use super::{Api, BASE};
use crate::identity::Caller;
use crate::policy::{Action, Decision, Kind, Principal, Request as Asked, Resource};

const RUN: On = On::Path(Kind::Run, "id");
const WORKSPACE: On = On::Path(Kind::Workspace, "name");
const AREA: On = On::Path(Kind::Area, "id");
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
    ("post", "/users", Action::ManageUsers, On::Body(Form::Groups)),
    ("patch", "/users/{name}", Action::ManageUsers, On::Member),
    ("delete", "/users/{name}", Action::ManageUsers, On::Member),
    ("post", "/users/{name}/link", Action::ManageUsers, On::Member),
    ("delete", "/users/{name}/sessions", Action::ManageUsers, On::Member),
    ("get", "/users/{name}/tokens", Action::ManageUsers, On::Member),
    ("post", "/users/{name}/tokens", Action::ManageUsers, On::Member),
    ("delete", "/users/{name}/tokens/{id}", Action::ManageUsers, On::Member),
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
    // Areas.
    ("get", "/areas", Action::See, On::Node),
    ("post", "/areas", Action::ManageAreas, On::Node),
    ("get", "/areas/events", Action::See, On::Node),
    ("get", "/areas/{id}", Action::See, AREA),
    ("delete", "/areas/{id}", Action::ManageAreas, AREA),
    ("post", "/areas/{id}/join", Action::ManageAreas, AREA),
    ("post", "/areas/{id}/leave", Action::ManageAreas, AREA),
    ("post", "/areas/{id}/invite", Action::ManageAreas, AREA),
    ("post", "/areas/{id}/expel", Action::ManageAreas, AREA),
    ("put", "/areas/{id}/shared/{kind}/{name}", Action::Publish, On::Shared),
    ("delete", "/areas/{id}/shared/{kind}/{name}", Action::Withdraw, AREA),
    ("get", "/areas/{id}/shared/{kind}/{name}", Action::See, On::Shared),
    ("put", "/areas/{id}/rules", Action::ManageAreas, AREA),
    ("post", "/areas/{id}/rules/accept", Action::ManageAreas, AREA),
    // Peers.
    ("get", "/peers", Action::See, On::Node),
    ("get", "/orgs", Action::See, On::Node),
    ("patch", "/orgs", Action::ManagePeers, On::Body(Form::Org)),
    ("post", "/orgs/decide", Action::ManagePeers, On::Body(Form::Org)),
    ("post", "/invites", Action::ManagePeers, On::Node),
    ("post", "/join", Action::ManagePeers, On::Node),
    ("get", "/realm", Action::See, On::Node),
    ("post", "/realm/invites", Action::ManagePeers, On::Node),
    ("post", "/realm/links", Action::ManagePeers, On::Node),
    ("post", "/realm/unlink", Action::ManagePeers, On::Node),
    ("post", "/realm/speakers", Action::ManagePeers, On::Node),
    ("get", "/tunnel", Action::Use, On::OrgOf("node")),
    ("get", "/mesh/events", Action::See, On::Node),
    // The catalogue.
    ("get", "/catalog", Action::See, On::Node),
    ("get", "/catalog/everywhere", Action::See, On::Node),
    ("get", "/catalog/resource", Action::See, On::Resource("id")),
    ("get", "/resources", Action::See, On::Node),
    ("post", "/resources", Action::Publish, On::Body(Form::Record)),
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
    ("post", "/images/tags", Action::Store, On::Body(Form::Image)),
    ("post", "/images/pull", Action::Store, On::Body(Form::Image)),
    ("post", "/images/publish", Action::Publish, On::Body(Form::Image)),
    ("get", "/images/disks", Action::See, On::Node),
    ("get", "/images/disks/disk", Action::See, DISK),
    ("post", "/images/disks", Action::Store, On::Body(Form::NewDisk)),
    ("patch", "/images/disks", Action::Store, DISK),
    ("delete", "/images/disks", Action::Store, DISK),
    ("post", "/images/disks/inspection", Action::Store, On::Body(Form::Content)),
    ("post", "/images/disks/conversion", Action::Store, On::Body(Form::Disk)),
    ("post", "/images/disks/copy", Action::Store, On::Body(Form::Disk)),
    ("post", "/images/disks/verification", Action::Store, On::Body(Form::Disk)),
    ("get", "/images/disks/quota", Action::See, On::Node),
    ("put", "/images/disks/quota", Action::ManageNode, On::Node),
    // Runs.
    ("post", "/plan", Action::Plan, On::Body(Form::Workflow)),
    ("post", "/workflow/check", Action::See, On::Node),
    ("post", "/runs", Action::Submit, On::Body(Form::Workflow)),
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
    ("post", "/services", Action::Serve, On::Body(Form::Service)),
    ("get", "/services/{name}", Action::Watch, SERVICE),
    ("put", "/services/{name}", Action::Serve, On::Revision),
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
    // Quotas.
    ("get", "/quotas", Action::ReadPolicies, On::Node),
    ("put", "/quotas", Action::ManageNode, On::Node),
    ("delete", "/quotas", Action::ManageNode, On::Node),
    ("get", "/session/quotas", Action::See, On::Oneself),
];

/// What a request by this method at this address wants. `HEAD` asks for what `GET` does where it has no row of its own.
fn right(method: &str, path: &str) -> Option<(Action, On)> {
    let path = path.strip_prefix(BASE).unwrap_or(path);
    let find = |method: &str| RIGHTS.iter().find(|right| right.0 == method && right.1 == path);
    let found = find(method).or_else(|| (method == "head").then(|| find("get")).flatten());
    found.map(|(_, _, action, on)| (*action, *on))
}

/// Asks the policies about a request before anything is done for it. It stands behind the guard and the limits, so that whoever is
/// refused spends what it may ask.
pub(super) async fn decided(State(api): State<Api>, request: Request, next: Next) -> Response {
    match check(&api, request).await {
        Ok(request) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Asks the policies about a request, and gives it back when they allow it. An address that no route has is not asked about:
/// nothing is there.
///
/// Whoever asks stands among its extensions; where nobody does, the guard has let it in as one that is for everybody.
async fn check(api: &Api, request: Request) -> Result<Request, Problem> {
    let extensions = request.extensions();
    let Some(Caller::Person(person)) = extensions.get::<Caller>().cloned() else {
        return Ok(request);
    };
    let Some(path) = extensions.get::<MatchedPath>().cloned() else { return Ok(request) };
    let method = request.method().as_str().to_ascii_lowercase();
    let (action, on) = right(&method, path.as_str()).unwrap_or((Action::ManageNode, On::Node));
    if on == On::Oneself {
        return Ok(request);
    }
    let (mut parts, body) = request.into_parts();
    let (wanted, body) = things(api, person.org, (action, on), (&mut parts, body)).await?;
    let principal = api.handle.principal(&Caller::Person(person)).await?;
    for (action, resource) in wanted {
        decide(api, &principal, action, resource)?;
    }
    Ok(Request::from_parts(parts, body))
}

/// Decides about one thing.
pub(super) fn decide(
    api: &Api,
    principal: &Principal,
    action: Action,
    resource: Resource,
) -> Result<(), Problem> {
    let asked = Asked { principal: principal.clone(), action, resource, work: None };
    let decision = api.handle.decide(&asked);
    if decision.allowed {
        return Ok(());
    }
    Err(refused(&asked, decision))
}

/// Says what was refused, which policies refuse it, and whom to ask; and nothing of what stands in them.
fn refused(asked: &Asked, decision: Decision) -> Problem {
    let (who, what, action) = (asked.principal.told(), asked.resource.told(), asked.action);
    let by = match decision.policies.is_empty() {
        true => "none of them permits it".to_owned(),
        false => format!("{} forbids it", decision.policies.join(", ")),
    };
    let detail = format!(
        "the policies of this node do not let {who} `{action}` {what}: {by}; ask its owner, to whom `opencloud policy can '{who}' \
         {action} '{what}'` says why"
    );
    let refusal = Refusal {
        principal: who,
        action: action.to_string(),
        resource: what,
        policies: decision.policies,
    };
    Problem { refusal: Some(Box::new(refusal)), ..Problem::new(Code::Forbidden, detail) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::openapi::described_routes;
    use std::collections::BTreeSet;

    #[test]
    fn every_route_that_the_description_names_has_an_action_and_no_other() {
        let described = described_routes();
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
        let (action, resource) = (Action::Submit, Resource::node(me));
        let asked = Asked { principal, action, resource, work: None };
        let policies = vec!["team/no-runs".to_owned()];
        let decision = Decision { allowed: false, policies, errors: Vec::new() };
        let problem = refused(&asked, decision);
        assert_eq!((problem.status, &*problem.code), (403, "forbidden"));
        let node = format!("node:{me}");
        for part in [&*format!("org:{org}"), "`submit`", &node, "ask its owner", "team/no-runs"] {
            assert!(problem.detail.contains(part), "{}", problem.detail);
        }
        let refusal = serde_json::to_value(&problem).unwrap()["refusal"].take();
        assert_eq!(
            refusal,
            serde_json::json!({"principal": format!("org:{org}"), "action": "submit", "resource": node, "policies": ["team/no-runs"]})
        );
    }
}
