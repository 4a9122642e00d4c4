//! What OpenCloud's tests share: real nodes for the end-to-end tests, the conformance suite of the runtimes, and
//! the simulator.

pub mod conformance;
pub mod fuzz;
pub mod harness;
pub mod mesh;
pub mod sim;
