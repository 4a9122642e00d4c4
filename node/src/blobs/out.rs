//! Content going out: in memory, to files, to private and to shared directories.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;
use catalog::Digest;
use scheduler::value::{DirRef, Manifest, ManifestFile};

use super::error::{BlobError, io_at};
use super::files::{Temp, Verified, make_dir, sync_dir};
use super::hash::{hash_file, outboard_len};
use super::{Inner, MANIFEST_LEN_MAX, lock};

/// Bytes copied and hashed at once.
const COPY_LEN: usize = 256 << 10;

impl Inner {
    pub(super) fn outboard(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        let Verified { path, size, .. } = self.ensure_verified(digest)?;
        let len = outboard_len(size);
        if len == 0 {
            return Ok(Bytes::new());
        }
        match std::fs::read(self.outboard_path(digest)) {
            Ok(bytes) if bytes.len() as u64 == len => Ok(bytes.into()),
            _ => {
                let hashed = hash_file(&path).map_err(io_at(&path))?;
                self.write_outboard(digest, &hashed.outboard)?;
                Ok(hashed.outboard.into())
            }
        }
    }

    pub(super) fn read(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, BlobError> {
        let (file, path) = self.open_blob(digest)?;
        let size = file.metadata().map_err(io_at(&path))?.len();
        if size > max {
            return Err(BlobError::TooLong { digest: *digest, size, max });
        }
        let mut bytes = Vec::new();
        file.take(size).read_to_end(&mut bytes).map_err(io_at(&path))?;
        if Digest::of(&bytes) != *digest {
            return Err(self.quarantine(digest));
        }
        Ok(bytes)
    }

    fn open_blob(&self, digest: &Digest) -> Result<(File, PathBuf), BlobError> {
        let path = self.blob_path(digest);
        // Reading is a use.
        self.look(digest);
        match File::open(&path) {
            Ok(file) => Ok((file, path)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(BlobError::NotFound { digest: *digest })
            }
            Err(e) => Err(io_at(&path)(e)),
        }
    }

    pub(super) fn manifest(&self, digest: &Digest) -> Result<Manifest, BlobError> {
        let bytes = self.read(digest, MANIFEST_LEN_MAX)?;
        Manifest::decode(&bytes).map_err(|source| BlobError::Manifest { digest: *digest, source })
    }

    /// The manifest a reference names, when the reference tells its size rightly.
    fn manifest_of(&self, dir: &DirRef) -> Result<Manifest, BlobError> {
        let manifest = self.manifest(&dir.digest)?;
        let size = manifest.size();
        if size != dir.size {
            return Err(BlobError::WrongSize { digest: dir.digest, said: dir.size, size });
        }
        Ok(manifest)
    }

    /// A manifest's file, verified and of the size the manifest gives.
    fn verified_file(&self, file: &ManifestFile) -> Result<Verified, BlobError> {
        let found = self.ensure_verified(&file.digest)?;
        if found.size != file.size {
            let ManifestFile { digest, size: said } = *file;
            return Err(BlobError::WrongSize { digest, said, size: found.size });
        }
        Ok(found)
    }

    pub(super) fn export(&self, digest: &Digest, out: &Path) -> Result<(), BlobError> {
        let (mut source, path) = self.open_blob(digest)?;
        let dir = match out.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let temp = self.temp_beside(dir, out)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temp.path)
            .map_err(io_at(&temp.path))?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; COPY_LEN];
        loop {
            let n = source.read(&mut buffer).map_err(io_at(&path))?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            file.write_all(&buffer[..n]).map_err(io_at(&temp.path))?;
        }
        if hasher.finalize().as_bytes() != digest.as_bytes() {
            return Err(self.quarantine(digest));
        }
        file.sync_all().map_err(io_at(&temp.path))?;
        std::fs::rename(&temp.path, out).map_err(io_at(out))?;
        sync_dir(dir)
    }

    /// A hidden name in `dir`, so that the rename to `out` stays within one file system.
    fn temp_beside(&self, dir: &Path, out: &Path) -> Result<Temp, BlobError> {
        let Some(name) = out.file_name() else {
            return Err(BlobError::NotRegular { path: out.to_owned(), or_dir: false });
        };
        let n = self.n_temps.fetch_add(1, Ordering::Relaxed);
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".part-{}-{n}", std::process::id()));
        Ok(Temp { path: dir.join(hidden) })
    }

    pub(super) fn stage_file(&self, digest: &Digest, dest: &Path) -> Result<(), BlobError> {
        let source = self.ensure_verified(digest)?;
        if let Some(parent) = dest.parent() {
            make_dir(parent)?;
        }
        copy_private(&source.path, dest)
    }

    pub(super) fn stage_dir(&self, dir: &DirRef, dest: &Path) -> Result<(), BlobError> {
        let manifest = self.manifest_of(dir)?;
        make_dir(dest)?;
        // Only names made below lie in an empty directory, so no link in it can lead a path out.
        if std::fs::read_dir(dest).map_err(io_at(dest))?.next().is_some() {
            return Err(BlobError::Exists { path: dest.to_owned() });
        }
        for (name, file) in &manifest.files {
            let source = self.verified_file(file)?;
            let dest = dest.join(name);
            if let Some(parent) = dest.parent() {
                make_dir(parent)?;
            }
            copy_private(&source.path, &dest)?;
        }
        Ok(())
    }

    pub(super) fn shared_dir(&self, dir: &DirRef) -> Result<PathBuf, BlobError> {
        let manifest = self.manifest_of(dir)?;
        let path = self.trees_dir().join(dir.digest.to_hex());
        let _trees = lock(&self.trees);
        if let Ok(tree) = File::open(&path) {
            if self.is_intact(&manifest, &path)? {
                // As young as if it had been made just now, so that collection does not take it.
                tree.set_modified(SystemTime::now()).map_err(io_at(&path))?;
                return Ok(path);
            }
            let old = self.temp_name("tree");
            std::fs::rename(&path, &old).map_err(io_at(&path))?;
            std::fs::remove_dir_all(&old).map_err(io_at(&old))?;
        }
        let new = self.temp_name("tree");
        let built = self.build_tree(&manifest, &new);
        let named = built.and_then(|()| std::fs::rename(&new, &path).map_err(io_at(&path)));
        if let Err(e) = named {
            // The error that is reported is the first one; the next open removes what stays.
            let _ = std::fs::remove_dir_all(&new);
            return Err(e);
        }
        Ok(path)
    }

    /// Whether every file of a tree still is the verified content (the very file, or a copy of its size where links had run
    /// out).
    fn is_intact(&self, manifest: &Manifest, tree: &Path) -> Result<bool, BlobError> {
        for (name, file) in &manifest.files {
            let source = self.verified_file(file)?;
            match std::fs::symlink_metadata(tree.join(name)) {
                Ok(found) if found.ino() == source.inode => {}
                Ok(found) if found.is_file() && found.nlink() == 1 && found.len() == file.size => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn build_tree(&self, manifest: &Manifest, tree: &Path) -> Result<(), BlobError> {
        make_dir(tree)?;
        for (name, file) in &manifest.files {
            let source = self.verified_file(file)?;
            let dest = tree.join(name);
            if let Some(parent) = dest.parent() {
                make_dir(parent)?;
            }
            match std::fs::hard_link(&source.path, &dest) {
                Ok(()) => {}
                // A file has a limited number of names, and some file systems allow one only.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::TooManyLinks
                            | io::ErrorKind::Unsupported
                            | io::ErrorKind::PermissionDenied
                    ) =>
                {
                    copy_private(&source.path, &dest)?;
                }
                Err(e) => return Err(io_at(&dest)(e)),
            }
        }
        Ok(())
    }
}

/// Copies a file to a name where nothing is; never a second name of the same file.
fn copy_private(source: &Path, dest: &Path) -> Result<(), BlobError> {
    let mut from = File::open(source).map_err(io_at(source))?;
    let mut to = match OpenOptions::new().write(true).create_new(true).open(dest) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(BlobError::Exists { path: dest.to_owned() });
        }
        Err(e) => return Err(io_at(dest)(e)),
    };
    // The kernel copies, sharing blocks where the file system can.
    io::copy(&mut from, &mut to).map_err(io_at(dest))?;
    Ok(())
}
