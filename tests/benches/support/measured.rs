//! Criterion as every bench here uses it, and its results as numbers.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use criterion::Criterion;
use serde_json::Value;

use crate::figure::scratch;

/// Criterion, and when it began: results from before are not this run's.
#[derive(Debug)]
pub(crate) struct Measured {
    begun: SystemTime,
}

impl Measured {
    fn directory() -> PathBuf {
        scratch().join("criterion")
    }

    /// Criterion as every bench here uses it, set up from the command line.
    #[must_use]
    pub(crate) fn begin() -> (Self, Criterion) {
        let criterion = Criterion::default()
            .output_directory(&Self::directory())
            .warm_up_time(Duration::from_secs(1))
            .sample_size(20)
            .configure_from_args();
        let begun = SystemTime::now();
        (Self { begun }, criterion)
    }

    /// The median time of one iteration in seconds; `None` when this run did not measure it.
    #[must_use]
    pub(crate) fn seconds(&self, name: &str) -> Option<f64> {
        let path = Self::directory().join(name).join("new/estimates.json");
        let modified = std::fs::metadata(&path).and_then(|found| found.modified()).ok()?;
        if modified < self.begun {
            return None;
        }
        let json: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        json["median"]["point_estimate"].as_f64().map(|ns| ns / 1e9)
    }
}
