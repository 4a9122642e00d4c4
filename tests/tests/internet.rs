//! Nodes that are far apart: organisations behind routers of their own and one public node, in network namespaces of
//! `tests/mesh`. In each test a whole workflow runs on the other side.

#[path = "internet/internet.rs"]
mod internet;
