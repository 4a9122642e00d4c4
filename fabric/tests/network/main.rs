//! Real swarms on loopback.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod dht;
mod groups;
mod guests;
mod hostile;
mod islands;
mod liars;
mod ranges;
mod relays;
mod several;
mod start;
mod suite;
mod support;
mod tunnel_liars;
mod tunnel_limits;
mod tunnels;
