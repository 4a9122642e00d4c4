//! A node of OpenCloud: the engine that decides, the shell that acts for it, stores, blobs, runtimes, the local API and the
//! command line.

pub mod api;
pub mod blobs;
pub mod cli;
pub mod engine;
mod held;
pub mod identity;
pub mod policy;
pub mod runtime;
mod schema;
pub mod session;
pub mod shell;
pub mod store;
