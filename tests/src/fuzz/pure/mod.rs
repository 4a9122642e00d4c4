//! Targets for the decoders of the pure crates, which need neither a runtime nor a socket to be built.

mod accounting;
mod areas;
mod catalog;
mod scheduler;
mod support;

use super::Target;

/// Every target of the pure crates, in the order of the crates.
pub fn targets() -> Vec<Target> {
    [catalog::targets(), accounting::targets(), scheduler::targets()].concat()
}
