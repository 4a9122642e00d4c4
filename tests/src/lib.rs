//! What OpenCloud's tests share: the simulator.

pub mod sim;
