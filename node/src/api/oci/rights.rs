//! What a request to the registry wants to do, and with which repository: for users with an access token as their password.

use axum::http::Method;

use super::address::Address;
use super::{Asked, RegistryError};
use crate::api::named::sought;
use crate::api::{Api, rights};
use crate::engine::names::Sought;
use crate::identity::Caller;
use crate::policy::{Action, Kind, Resource};

/// What is done with what; nothing names the registry as a whole.
fn wanted(method: &Method, address: &Address, asked: &Asked) -> Vec<(Action, Option<String>)> {
    let is_read = super::is_read(method);
    let (read, write) = (Action::Fetch, Action::Store);
    let of = |name: &dyn std::fmt::Display| Some(name.to_string());
    match address {
        Address::Root | Address::Catalog => vec![(Action::See, None)],
        Address::Tags(name) | Address::Referrers(name, _) => vec![(Action::See, of(name))],
        Address::Manifest(name) => vec![(if is_read { read } else { write }, of(name))],
        Address::Blob(name, _) => vec![(if is_read { read } else { write }, of(name))],
        Address::Uploads(name) | Address::Upload(name, _) => {
            let mut all = vec![(write, of(name))];
            // Content of another repository that is to be in this one, too.
            all.extend(asked.param("from").map(|from| (read, Some(from.to_owned()))));
            all
        }
    }
}

/// Asks the policies about everybody but the owner.
pub(super) async fn check(
    api: &Api,
    caller: &Caller,
    method: &Method,
    (address, asked): (&Address, &Asked),
) -> Result<(), RegistryError> {
    let Caller::Person(person) = caller else { return Ok(()) };
    let denied = |problem: crate::api::Problem| RegistryError::denied(problem.detail);
    let principal = api.handle.principal(caller).await.map_err(|e| denied(e.into()))?;
    let node = || Resource::node(api.handle.me());
    for (action, name) in wanted(method, address, asked) {
        let thing = match name {
            None => node(),
            Some(name) => {
                let names = vec![Sought::Named(Kind::Algorithm, name)];
                let found = sought(api, person.org, names).await.map_err(denied)?;
                found.into_iter().next().map_or_else(node, |thing| thing.or(node()))
            }
        };
        rights::decide(api, &principal, action, thing).map_err(denied)?;
    }
    Ok(())
}
