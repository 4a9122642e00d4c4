//! Directories coming in, and paths that must not lead out of one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use scheduler::value::{DirRef, MANIFEST_FILES_MAX, Manifest, ManifestFile, is_plain_path};

use super::error::{BlobError, io_at};
use super::files::Unsynced;
use super::{Inner, MANIFEST_LEN_MAX};

/// Most names looked at in one directory tree, directories included; more are refused.
const NAMES_MAX: usize = 2 * MANIFEST_FILES_MAX;

impl Inner {
    pub(super) fn add_dir(self: &Arc<Self>, path: &Path) -> Result<DirRef, BlobError> {
        let files = find_files(path)?;
        let mut unsynced = Unsynced::default();
        let mut manifest = Manifest::default();
        for (name, file) in files {
            let added = self.add_file_unsynced(&file, &mut unsynced)?;
            manifest.files.insert(name, ManifestFile { digest: added.digest, size: added.size });
        }
        let bytes = manifest.encode();
        if bytes.len() as u64 > MANIFEST_LEN_MAX {
            return Err(BlobError::TooMany { path: path.to_owned() });
        }
        let added = self.add_bytes_unsynced(&bytes, &mut unsynced)?;
        unsynced.sync()?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(DirRef { digest: added.digest, size: manifest.size(), name: name.unwrap_or_default() })
    }
}

/// The path of `path` below `dir` with links followed, when it stays below `dir`.
pub(super) fn resolve_within(dir: &Path, path: &str) -> Result<PathBuf, BlobError> {
    if !is_plain_path(path) {
        return Err(BlobError::Name { path: path.into() });
    }
    let root = dir.canonicalize().map_err(io_at(dir))?;
    let path = root.join(path);
    // What is not there at all is told apart from a link that leads nowhere.
    std::fs::symlink_metadata(&path).map_err(io_at(&path))?;
    follow(&root, &path)
}

/// Where a path ends up with all links followed, when that is below `root` (itself without links).
fn follow(root: &Path, path: &Path) -> Result<PathBuf, BlobError> {
    let link = || BlobError::Link { path: path.to_owned() };
    match path.canonicalize() {
        Ok(real) if real.starts_with(root) => Ok(real),
        Ok(_) => Err(link()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(io_at(path)(e)),
        // The name is there, so it points nowhere or to itself.
        Err(_) => Err(link()),
    }
}

/// The regular files of a tree by manifest path.
fn find_files(path: &Path) -> Result<BTreeMap<String, PathBuf>, BlobError> {
    let root = path.canonicalize().map_err(io_at(path))?;
    if !root.is_dir() {
        return Err(BlobError::NotRegular { path: path.to_owned(), or_dir: true });
    }
    let mut walk = Walk { chain: vec![root.clone()], root, n_names: 0, files: BTreeMap::new() };
    walk.enter("")?;
    Ok(walk.files)
}

struct Walk {
    root: PathBuf,
    /// The directories from the root to where the walk is, links followed: a link to one of them would never end.
    chain: Vec<PathBuf>,
    n_names: usize,
    files: BTreeMap<String, PathBuf>,
}

impl Walk {
    /// Takes in the directory at the end of the chain, whose manifest path is `name`. Recursion ends because a manifest
    /// path is at most 1024 bytes.
    fn enter(&mut self, name: &str) -> Result<(), BlobError> {
        let dir = self.chain.last().unwrap_or(&self.root).clone();
        for entry in std::fs::read_dir(&dir).map_err(io_at(&dir))? {
            let entry = entry.map_err(io_at(&dir))?;
            let path = entry.path();
            self.n_names += 1;
            if self.n_names > NAMES_MAX {
                return Err(BlobError::TooMany { path: self.root.clone() });
            }
            let file_name = entry.file_name();
            let inner = file_name.to_str().map(|file_name| match name {
                "" => file_name.to_owned(),
                _ => format!("{name}/{file_name}"),
            });
            let Some(inner) = inner.filter(|inner| is_plain_path(inner)) else {
                return Err(BlobError::Name { path });
            };
            self.take(inner, path, entry.file_type().map_err(io_at(&dir))?)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        name: String,
        path: PathBuf,
        kind: std::fs::FileType,
    ) -> Result<(), BlobError> {
        let (real, kind) = if kind.is_symlink() {
            let real = follow(&self.root, &path)?;
            let kind = std::fs::symlink_metadata(&real).map_err(io_at(&real))?.file_type();
            if self.chain.contains(&real) {
                return Err(BlobError::Link { path });
            }
            (real, kind)
        } else {
            (path, kind)
        };
        if kind.is_dir() {
            self.chain.push(real);
            self.enter(&name)?;
            self.chain.pop();
        } else if kind.is_file() {
            if self.files.len() >= MANIFEST_FILES_MAX {
                return Err(BlobError::TooMany { path: self.root.clone() });
            }
            self.files.insert(name, real);
        } else {
            return Err(BlobError::NotRegular { path: real, or_dir: true });
        }
        Ok(())
    }
}
