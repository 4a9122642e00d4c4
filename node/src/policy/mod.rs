//! Who may do what on this node: policies in Cedar, and the decision.
//!
//! A **principal** (the owner, a person, a group, an organisation, a node) asks for an **action** of one closed list on a
//! **resource**; [`Policies::decide`] says yes or no, and which policies decided. Types, actions and their meaning stand in
//! `schema.cedarschema`, against which every policy is checked; what holds when the owner has written nothing stands in
//! `default.cedar`. What nothing permits is refused.
//!
//! - **The owner is above policies.** Whoever holds the token of the home may change every file in it, so a policy that refused
//!   it something would keep nobody from anything, and lock the owner out.
//! - **Files** in `policies/` of the home add to the default, or stand in its place ([`Keeper`]). A file that is refused never takes
//!   the place of a good one. When a file is refused at the start there is no good one, and not to heed it might open what it
//!   forbids: then nobody but the owner may do anything until it is mended.
//! - **A policy that fails** while it is evaluated does not permit; one that forbids and fails, forbids.
//! - **Rights are never believed from the sender**: of others, who they are comes from their papers, and what they are to this
//!   node (`stance`) from the owner's word.
//!
//! Deciding is a function of policies and request: no clock, file or chance. The engine holds policies and asks them about
//! organisations and nodes, the API about people.

mod decide;
mod files;
mod log;
mod request;
mod set;

pub use self::decide::Decision;
pub use self::files::{KeepError, Keeper, mark};
pub use self::log::{Entry, Log, PAGE_MAX, Page};
pub use self::request::{
    Action, Kind, NameError, Principal, Request, Resource, Stance, Whom, Work,
};
pub use self::set::{
    BUILT_IN, Effect, FILE_LEN_MAX, FILES_MAX, POLICIES_MAX, Policies, PolicyError, Rule, SCHEMA,
    Spot, is_file_name,
};

#[cfg(test)]
mod tests;
