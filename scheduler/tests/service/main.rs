//! Services: the document, the replicas that should exist, and which of them a connection goes to.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod balance;
mod document;
mod machine;
mod model;
mod sim;
mod world;
