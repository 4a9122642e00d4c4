//! Who asks: the owner of a node, or a person whom an organisation's identity provider knows.
//!
//! A person is the same everywhere by organisation, issuer and subject; names, groups and roles are what the issuer said of it when it
//! logged in, read by the rules of the organisation. Nothing here grants anything: what a caller may do is for the policy.
//!
//! People log in at a provider of the organisation (`federation`) or, where there is none, by links that the owner hands out
//! (`book`); what lets them in afterwards is kept by [`Identity`], as hashes.

mod book;
mod federation;
mod grant;
mod jwt;
mod keeper;
mod pending;
mod provider;
mod remote;
mod renewal;
mod rules;
mod secret;

use std::collections::BTreeSet;

use catalog::OrgId;

pub(crate) use self::book::{Account, Book, BookError, SESSION_MS, Token};
pub(crate) use self::federation::{Back, DeviceState, LoginError};
pub use self::keeper::Identity;
pub(crate) use self::keeper::{Entrance, IdentityError};
pub(crate) use self::pending::LOGIN_MS;
pub(crate) use self::provider::{Provider, ProviderError, Providers, is_address};
pub(crate) use self::remote::{Remote, RemoteError};
pub(crate) use self::rules::Rule;
pub(crate) use self::secret::{Kind as SecretKind, Secret};

/// The issuer of those whom the node itself knows.
pub const LOCAL: &str = "local";

/// A person, as its organisation's provider knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The organisation whose provider knows it.
    pub org: OrgId,
    /// The provider, by its issuer URL; of those whom the node itself knows, `local`.
    pub issuer: String,
    /// The provider's own name of it, which never changes and is never given to another.
    pub subject: String,
    /// For people; it may change.
    pub name: String,
    /// Groups that it is in.
    pub groups: BTreeSet<String>,
    /// Roles that it has.
    pub roles: BTreeSet<String>,
}

/// Who a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whoever knows the token of the node's home.
    Owner,
    /// Somebody who has logged in, or a program in the name of somebody who has.
    Person(Box<Person>),
}

/// Random bytes for what is sealed once.
fn nonce() -> Result<[u8; 12], crate::shell::HomeError> {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).map_err(|_| crate::shell::HomeError::Random)?;
    Ok(bytes)
}

/// The id of an account. Those whom the node itself knows have it for a subject, too.
pub(crate) fn account_id(issuer: &str, subject: &str) -> String {
    if issuer == LOCAL {
        return subject.to_owned();
    }
    let mut hasher = blake3::Hasher::new_derive_key("opencloud 2026-11 identity account");
    hasher.update(&(issuer.len() as u64).to_le_bytes());
    hasher.update(issuer.as_bytes()).update(subject.as_bytes());
    let hash = hasher.finalize().to_hex();
    format!("u-{}", hash.get(..16).unwrap_or_default())
}
