//! A node of OpenCloud: the engine that decides, the shell that acts for it, stores, blobs, runtimes, the local API and the
//! command line.

pub mod engine;
pub mod shell;
pub mod store;
pub mod blobs;
pub mod runtime;
pub mod api;
pub mod cli;
