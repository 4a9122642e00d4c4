//! Replays the corpus of every fuzz target, what discovery found among it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tests::fuzz::{CORPUS, targets};

/// More would be a burden to every clone; `tests/fuzz/run minimise` makes it smaller.
const CORPUS_BYTES_MAX: u64 = 512 * 1024;

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).expect("a directory of the corpus");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("a readable entry").file_name().into_string().expect("names are UTF-8")
    };
    entries.map(name).collect()
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let found = names(Path::new(CORPUS));
    let known: BTreeSet<String> = targets().iter().map(|t| t.name.to_owned()).collect();
    assert_eq!(known.len(), targets().len(), "no name twice");
    assert_eq!(found, known, "make what is missing with `cargo run -p tests --bin seeds`");
    let mut bytes = 0;
    for target in found {
        let dir = Path::new(CORPUS).join(target);
        for file in names(&dir) {
            bytes += fs::metadata(dir.join(file)).expect("a file of the corpus").len();
        }
    }
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} bytes in the corpus");
}

#[test]
fn the_corpus_holds() {
    for target in targets() {
        let dir = Path::new(CORPUS).join(target.name);
        let mut accepted = 0;
        for file in names(&dir) {
            let bytes = fs::read(dir.join(&file)).expect("a file of the corpus");
            let checked = std::panic::catch_unwind(|| (target.check)(&bytes));
            let Ok(is_accepted) = checked else {
                panic!("{}/{file} breaks its target, see above", target.name);
            };
            accepted += u32::from(is_accepted);
        }
        // A corpus of an earlier format would be refused as a whole, and test nothing.
        assert!(
            accepted > 0,
            "{}: refused as a whole; `cargo run -p tests --bin seeds`",
            target.name
        );
    }
}

#[test]
fn seeds_are_what_the_generator_makes() {
    for target in targets() {
        let dir = Path::new(CORPUS).join(target.name);
        let kept: Vec<Vec<u8>> = names(&dir)
            .into_iter()
            .filter(|name| name.starts_with("seed-"))
            .map(|name| fs::read(dir.join(name)).expect("a file of the corpus"))
            .collect();
        let made = (target.seeds)();
        assert!(kept == made, "{}: renew with `cargo run -p tests --bin seeds`", target.name);
    }
}
