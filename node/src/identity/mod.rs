//! Who asks: the owner of a node, or a person whom an organisation's identity provider knows.
//!
//! A person is the same everywhere by organisation, issuer and subject; names, groups and roles are what the issuer said of it when it
//! logged in, read by the rules of the organisation. Nothing here grants anything: what a caller may do is for the policy.

use std::collections::BTreeSet;

use catalog::OrgId;

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
