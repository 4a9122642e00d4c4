//! A small disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Ended;

/// A file system in memory, of a given size. Dropping it unmounts it.
#[derive(Debug)]
pub struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    /// Mounts one at `at`, which is made, with room for `size`, such as `16m`. `None`, and a word about it, where this may not
    /// be done.
    ///
    /// # Panics
    /// When `at` cannot be made.
    #[must_use]
    pub fn mount(at: &'a Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).expect("the place of the disk can be made");
        let size = format!("size={size}");
        let mounted =
            Ended::of(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at));
        if mounted.code != 0 {
            println!("skipped: no tmpfs can be mounted here: {}", mounted.stderr);
            return None;
        }
        Some(Self(at))
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // Even when a process still holds it.
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}
