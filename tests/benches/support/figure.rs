//! Figures: what every bench prints in the end, in one form, so that `tests/bench` can put them in one table.

use std::path::PathBuf;

/// Begins a line that is a figure; the fields after it are set apart by tabs.
const MARK: &str = "figure";

/// A directory on the disk of the build, not in memory as one for temporary files may be.
#[must_use]
pub(crate) fn scratch() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// Whether this program was started to measure. `cargo test --benches` starts it, too, and then it does nothing.
#[must_use]
pub(crate) fn is_asked_to_measure() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Prints a figure; an empty `target` means that there is none.
pub(crate) fn figure(name: &str, value: &str, target: &str) {
    println!("{MARK}\t{name}\t{value}\t{target}");
}

/// The middle one, or the upper of two.
#[must_use]
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A time in the unit that fits.
#[must_use]
pub(crate) fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s if s >= 1e-6 => format!("{:.1} µs", s * 1e6),
        s => format!("{:.0} ns", s * 1e9),
    }
}
