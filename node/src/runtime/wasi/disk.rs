//! Holds a guest to its disk quota by measuring its directories.
//!
//! The kernel counts the bytes that the guest's thread writes, so the directories are walked only when those could exceed
//! the quota, and every 200 ms for what grows without writing. A guest can exceed its quota by what it writes in one tick.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::gauge::Gauge;
use crate::runtime::HostFault;
use crate::runtime::disk::measure;

/// Longest time between two walks.
const WALK_INTERVAL: Duration = Duration::from_millis(200);
/// A walk may take one part in so many of the guest's time.
const WALK_SHARE: u32 = 10;

/// Watches what a guest adds to its directories.
pub(super) struct DiskWatch {
    roots: Vec<PathBuf>,
    quota_bytes: u64,
    /// What the directories held before the guest ran.
    initial_bytes: u64,
    /// Growth found by the last walk.
    growth_bytes: u64,
    /// The kernel's count at the last walk.
    written_bytes: u64,
    walked: Instant,
    walk_took: Duration,
}

impl DiskWatch {
    /// Measures the directories as they are before the guest runs.
    pub(super) fn new(dirs: &[&Path], quota_bytes: u64, gauge: &Gauge) -> Result<Self, HostFault> {
        let roots = dirs
            .iter()
            .map(|dir| dir.canonicalize().map_err(|error| HostFault::file("open", dir, &error)))
            .collect::<Result<Vec<_>, _>>()?;
        let begun = Instant::now();
        let initial_bytes = measure(&roots).unwrap_or(u64::MAX);
        Ok(Self {
            roots,
            quota_bytes,
            initial_bytes,
            growth_bytes: 0,
            written_bytes: gauge.written_bytes(),
            walked: Instant::now(),
            walk_took: begun.elapsed(),
        })
    }

    /// Whether the guest is over its quota, looked at as rarely as is safe.
    pub(super) fn is_over(&mut self, gauge: &Gauge) -> bool {
        let age = self.walked.elapsed();
        if age < self.walk_took * WALK_SHARE {
            return false;
        }
        let written = gauge.written_bytes().saturating_sub(self.written_bytes);
        let worst = self.growth_bytes.saturating_add(written);
        (worst > self.quota_bytes || age >= WALK_INTERVAL) && self.is_over_now(gauge)
    }

    /// Whether the guest is over its quota, by walking its directories.
    pub(super) fn is_over_now(&mut self, gauge: &Gauge) -> bool {
        self.written_bytes = gauge.written_bytes();
        let begun = Instant::now();
        let Some(bytes) = measure(&self.roots) else {
            return true;
        };
        self.walked = Instant::now();
        self.walk_took = begun.elapsed();
        self.growth_bytes = bytes.saturating_sub(self.initial_bytes);
        gauge.see_storage(self.growth_bytes);
        self.growth_bytes > self.quota_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    fn watch(dir: &Path, quota_bytes: u64) -> (DiskWatch, Gauge) {
        let gauge = Gauge::default();
        gauge.begin();
        (DiskWatch::new(&[dir], quota_bytes, &gauge).unwrap(), gauge)
    }

    #[test]
    fn only_growth_counts_and_holes_count_in_full() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("input"), vec![1; 100_000]).unwrap();
        let (mut watch, gauge) = watch(dir.path(), 50_000);
        assert!(!watch.is_over_now(&gauge));
        fs::create_dir(dir.path().join("sub")).unwrap();
        File::create(dir.path().join("sub/hole")).unwrap().set_len(60_000).unwrap();
        assert!(watch.is_over_now(&gauge));
        assert!(gauge.read().storage_bytes >= 60_000);
    }

    #[test]
    fn a_deleted_file_counts_while_it_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watch, gauge) = watch(dir.path(), 50_000);
        let path = dir.path().join("hidden");
        let file = File::create(&path).unwrap();
        file.set_len(60_000).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(watch.is_over_now(&gauge));
        drop(file);
        assert!(!watch.is_over_now(&gauge));
    }

    #[test]
    fn two_names_of_one_file_count_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), vec![1; 40_960]).unwrap();
        let before = measure(&[dir.path().to_owned()]).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        let after = measure(&[dir.path().to_owned()]).unwrap();
        assert!(after - before < 4096, "{before} {after}");
    }

    #[test]
    fn a_write_that_could_exceed_the_quota_brings_the_walk_forward() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watch, gauge) = watch(dir.path(), 1 << 20);
        fs::write(dir.path().join("big"), vec![1; 4 << 20]).unwrap();
        let begun = Instant::now();
        while !watch.is_over(&gauge) {
            assert!(begun.elapsed() < Duration::from_secs(5));
        }
    }
}
