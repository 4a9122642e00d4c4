//! Nodes that are far apart: organisations behind routers of their own and one public node, in network namespaces of
//! `tests/mesh`. In each test a whole workflow runs on the other side.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "internet/internet.rs"]
mod internet;
