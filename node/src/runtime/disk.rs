//! The directories of a task: how much is in them, and to whom they belong.

use std::collections::BTreeSet;
use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use super::HostFault;

/// Most files and directories that are measured; a task with more is over its quota. Twice a manifest's limit.
const WALK_ENTRIES_MAX: usize = 200_000;
/// Bytes of a block in which the kernel counts a file's size.
const BLOCK_BYTES: u64 = 512;

/// Bytes of all files below the directories; `None` when there are too many to count.
pub(super) fn measure(roots: &[PathBuf]) -> Option<u64> {
    let mut bytes: u64 = 0;
    let mut n_entries = 0;
    let mut dirs = roots.to_vec();
    while let Some(dir) = dirs.pop() {
        // What vanishes during the walk is gone, and what cannot be read was not made by the task.
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            n_entries += 1;
            if n_entries > WALK_ENTRIES_MAX {
                return None;
            }
            let Ok(meta) = entry.metadata() else { continue };
            bytes = bytes.saturating_add(file_bytes(&meta));
            if meta.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    Some(bytes.saturating_add(deleted_bytes(roots).unwrap_or(0)))
}

/// What a file counts: its length or its blocks, whichever is more, because a hole costs when the file is collected.
/// Several names of one file share it.
fn file_bytes(meta: &Metadata) -> u64 {
    if meta.is_dir() { 0 } else { size(meta) / meta.nlink().max(1) }
}

fn size(meta: &Metadata) -> u64 {
    meta.len().max(meta.blocks().saturating_mul(BLOCK_BYTES))
}

/// Bytes of files that have been deleted from the directories but are still open in this process, and so still take space.
fn deleted_bytes(roots: &[PathBuf]) -> io::Result<u64> {
    let mut seen = BTreeSet::new();
    let mut bytes: u64 = 0;
    for entry in fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        // The descriptor may be closed by now, by any thread.
        let Ok(target) = fs::read_link(&path) else {
            continue;
        };
        let is_deleted = target.as_os_str().as_encoded_bytes().ends_with(b" (deleted)");
        if !is_deleted || !roots.iter().any(|root| target.starts_with(root)) {
            continue;
        }
        let Ok(meta) = fs::metadata(&path) else {
            continue;
        };
        if seen.insert((meta.dev(), meta.ino())) {
            bytes = bytes.saturating_add(size(&meta));
        }
    }
    Ok(bytes)
}

/// Bytes of files without a name, on the file systems of the directories, that the processes hold open or mapped. What
/// cannot be looked into counts nothing: the kernel shows it to root and, mostly, to the processes' own user.
pub(super) fn held_bytes(roots: &[PathBuf], processes: &[u32]) -> u64 {
    let devices: BTreeSet<u64> =
        roots.iter().filter_map(|root| Some(fs::metadata(root).ok()?.dev())).collect();
    let mut seen = BTreeSet::new();
    let mut bytes: u64 = 0;
    for process in processes {
        for held in ["fd", "map_files"] {
            // It may have ended by now, or closed its file.
            let entries = fs::read_dir(format!("/proc/{process}/{held}"));
            for entry in entries.into_iter().flatten().flatten() {
                let Ok(meta) = fs::metadata(entry.path()) else { continue };
                let is_held = meta.is_file() && meta.nlink() == 0 && devices.contains(&meta.dev());
                if is_held && seen.insert((meta.dev(), meta.ino())) {
                    bytes = bytes.saturating_add(size(&meta));
                }
            }
        }
    }
    bytes
}

/// Makes a directory and all in it another user's, what is inside first: so nothing that is still to be changed can be moved,
/// or replaced by a link, by a process that the user has already. Links are not followed.
pub(super) fn give(dir: &Path, user: (u32, u32)) -> Result<(), HostFault> {
    let mut all = vec![dir.to_owned()];
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in entries(&dir)? {
            let (path, is_dir) = entry?;
            dirs.extend(is_dir.then(|| path.clone()));
            all.push(path);
        }
    }
    all.iter().rev().try_for_each(|path| change_owner(path, user))
}

/// Makes a directory and all in it the node's own again. Each directory is closed to all others before anything in it is
/// looked at, so that what a process of its last owner still does cannot lead out of it. Links are not followed.
pub(super) fn take(dir: &Path) -> Result<(), HostFault> {
    let own = Path::new("/proc/self");
    let own = fs::metadata(own).map_err(|e| HostFault::file("read", own, &e))?;
    let own = (own.uid(), own.gid());
    change_owner(dir, own)?;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        fs::set_permissions(&dir, Permissions::from_mode(0o700))
            .map_err(|e| HostFault::file("close", &dir, &e))?;
        for entry in entries(&dir)? {
            let (path, is_dir) = entry?;
            change_owner(&path, own)?;
            dirs.extend(is_dir.then_some(path));
        }
    }
    Ok(())
}

/// What is in a directory, and whether it is a directory itself; a link to one is none.
fn entries(
    dir: &Path,
) -> Result<impl Iterator<Item = Result<(PathBuf, bool), HostFault>>, HostFault> {
    let fault = |error: &io::Error| HostFault::file("read", dir, error);
    let entries = fs::read_dir(dir).map_err(|error| fault(&error))?;
    Ok(entries.map(move |entry| {
        let entry = entry.map_err(|error| fault(&error))?;
        let kind = entry.file_type().map_err(|error| fault(&error))?;
        Ok((entry.path(), kind.is_dir()))
    }))
}

fn change_owner(path: &Path, (uid, gid): (u32, u32)) -> Result<(), HostFault> {
    lchown(path, Some(uid), Some(gid)).map_err(|e| HostFault::file("hand over", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_file_without_a_name_counts_for_whoever_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let roots = [dir.path().to_owned()];
        let own = [std::process::id()];
        let before = held_bytes(&roots, &own);
        let path = dir.path().join("held");
        let file = File::create(&path).unwrap();
        file.set_len(1 << 30).unwrap();
        let with_name = held_bytes(&roots, &own);
        fs::remove_file(&path).unwrap();
        assert!(held_bytes(&roots, &own) >= 1 << 30);
        assert_eq!(held_bytes(&roots, &[]), 0);
        drop(file);
        // Other tests of this process have such files for moments.
        assert!(before.max(with_name).max(held_bytes(&roots, &own)) < 1 << 30);
    }

    #[test]
    fn directories_change_hands_without_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let (given, outside) = (dir.path().join("given"), dir.path().join("outside"));
        fs::create_dir_all(given.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        let file = outside.join("file");
        File::create(&file).unwrap();
        std::os::unix::fs::symlink(&outside, given.join("a/link")).unwrap();
        File::create(given.join("a/b/c")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        let owner = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
        for path in [&given, &given.join("a"), &outside] {
            fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
        }
        let own = fs::metadata("/proc/self").unwrap().uid();
        // Only root may give files away.
        let other = if own == 0 { 65_534 } else { own };
        let inside = ["", "a", "a/link", "a/b", "a/b/c"].map(|name| given.join(name));
        give(&given, (other, other)).unwrap();
        assert!(inside.iter().all(|path| owner(path) == other));
        take(&given).unwrap();
        assert!(inside.iter().all(|path| owner(path) == own));
        assert_eq!([mode(&given), mode(&given.join("a"))], [0o700; 2]);
        assert_eq!((mode(&outside), owner(&outside), owner(&file)), (0o777, own, own));
    }
}
