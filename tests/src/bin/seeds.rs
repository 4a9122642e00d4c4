//! Makes the seeds of the fuzz targets anew: `cargo run -p tests --bin seeds`. They are the files `seed-*.bin` of
//! `tests/fuzz/corpus`; what discovery added to them stays.

use std::path::Path;
use std::process::ExitCode;

use tests::fuzz::{CORPUS, targets, write_seeds};

fn main() -> ExitCode {
    for target in targets() {
        if let Err(error) = write_seeds(&Path::new(CORPUS).join(target.name), &(target.seeds)()) {
            eprintln!("{}: {error}", target.name);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
