//! The cgroups of an owner's tasks.

use std::fs;
use std::path::{Path, PathBuf};

/// The parent of all nodes' cgroups.
const CGROUP_PARENT: &str = "opencloud";

/// The owner's cgroup in each hierarchy that has it.
pub(super) fn parents(owner: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let all = std::iter::once(root.to_owned()).chain(below.filter(|path| !path.is_symlink()));
    all.map(|dir| dir.join(CGROUP_PARENT).join(owner)).filter(|dir| dir.is_dir()).collect()
}

/// The cgroups of the owner's tasks.
pub(super) fn cgroups(owner: &str) -> Vec<PathBuf> {
    let inside = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = parents(owner).into_iter().flat_map(inside).map(|entry| entry.path());
    dirs.filter(|path| path.is_dir()).collect()
}

/// Removes the parent of an owner's cgroups, which stays for its next life: a test has none.
pub(super) fn remove_parents(owner: &str) {
    for dir in parents(owner) {
        let _ = fs::remove_dir(dir);
    }
}
