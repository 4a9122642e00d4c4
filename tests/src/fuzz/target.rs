//! What a fuzz target is.

/// A decoder, and what has to hold of it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Reads bytes; whether they are accepted. Panics when something does not hold that must.
    pub check: fn(&[u8]) -> bool,
    /// Valid examples.
    pub seeds: fn() -> Vec<Vec<u8>>,
}
