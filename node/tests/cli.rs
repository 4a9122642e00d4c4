//! The command line and the API as their users meet them: real processes, real homes, real answers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "cli/api.rs"]
mod api;
#[path = "cli/demo.rs"]
mod demo;
#[path = "cli/nodes.rs"]
mod nodes;
#[path = "cli/offline.rs"]
mod offline;
#[path = "cli/policy.rs"]
mod policy;
#[path = "cli/registry.rs"]
mod registry;
#[path = "cli/runs.rs"]
mod runs;
#[path = "cli/services.rs"]
mod services;
#[path = "cli/support.rs"]
mod support;
#[path = "cli/watching.rs"]
mod watching;
#[path = "cli/workspaces.rs"]
mod workspaces;
