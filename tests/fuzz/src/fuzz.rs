//! The targets that this package was built with, under the path that they know themselves by.

#[path = "../../src/fuzz/pure/mod.rs"]
mod pure;
#[path = "../../src/fuzz/target.rs"]
mod target;

pub use target::Target;

pub fn targets() -> Vec<Target> {
    pure::targets()
}
