//! Workflows, runs, placement and negotiation, without I/O.
//!
//! This crate is pure: no socket, file, clock or randomness. Time comes in as Unix milliseconds, random bytes as arguments,
//! effects go out as data.

pub mod binding;
pub mod capacity;
pub mod coordinator;
pub mod copies;
pub mod device;
pub mod expr;
pub mod graph;
pub mod negotiate;
pub mod place;
pub mod provider;
pub mod rules;
pub mod run;
pub mod service;
pub mod ssh;
pub mod task;
pub mod value;
pub mod workflow;
