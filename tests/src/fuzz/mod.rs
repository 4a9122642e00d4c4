//! Fuzz targets: one for every decoder of bytes that a peer, or a file from elsewhere, can bring.
//!
//! A [`Target`] is a function of bytes that panics when something does not hold. None is content with the absence of a panic
//! in what it calls: what is accepted encodes to the same bytes, prints as what it was read from, stays within its bounds,
//! or is judged alike by a second decoder. Where a signature stands before a decoder, the bytes are a payload, which the
//! target signs: what random bytes cannot reach is what a member who lies reaches.
//!
//! Three things use them. `tests/tests/corpus.rs` replays `tests/fuzz/corpus` with every test run. `cargo run -p tests --bin
//! seeds` makes the part of that corpus that comes from valid objects anew, which a changed format makes necessary. And
//! `tests/fuzz/run TARGET SECONDS` discovers: a package of its own, outside of the workspace, builds these files with
//! coverage for libFuzzer. What would drag network and runtimes into that package is searched by `cargo run -p tests --bin
//! mutate`, without coverage.

pub mod deep;
mod frames;
mod machine;
pub mod pure;
mod target;

use std::path::Path;
use std::{fs, io};

pub use target::Target;

/// Where the corpus is: a directory for each target, in it `seed-*` from [`Target::seeds`] and what discovery found.
pub const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");
/// What the names of files begin with that [`write_seeds`] writes.
const SEED: &str = "seed-";

/// Every target.
#[must_use]
pub fn targets() -> Vec<Target> {
    [pure::targets(), frames::targets(), deep::targets(), machine::targets()].concat()
}

/// Replaces the seeds in the corpus of one target.
///
/// # Errors
/// When the directory cannot be read or written.
pub fn write_seeds(dir: &Path, seeds: &[Vec<u8>]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(SEED) {
            fs::remove_file(entry.path())?;
        }
    }
    for (at, seed) in seeds.iter().enumerate() {
        fs::write(dir.join(format!("{SEED}{at:02}.bin")), seed)?;
    }
    Ok(())
}
