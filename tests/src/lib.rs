//! What OpenCloud's tests share: real nodes for the end-to-end tests, and the simulator.

pub mod harness;
pub mod sim;
