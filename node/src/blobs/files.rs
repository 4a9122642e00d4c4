//! Names, temp files, and the step that makes content appear.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use catalog::Digest;
use catalog::id::from_hex;

use super::error::{BlobError, io_at};
use super::hash::{Hashed, hash_file};
use super::quota::{Room, Usage};
use super::{Added, Inner, VERIFIED_MAX, lock};

/// Being written.
const TEMP_DIR: &str = "tmp";
/// Unpacked directories.
const TREES_DIR: &str = "trees";
/// Damaged contents.
const QUARANTINE_DIR: &str = "quarantine";
/// Extension of outboards.
const OUTBOARD: &str = "obao";
/// Beginning of the name of a fetch's temp file.
const FETCH: &str = "fetch-";
/// Fetches that nobody went on with for so long are given up at the next open or collection.
const FETCH_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Damaged contents kept for a look; with more, the oldest is removed.
const QUARANTINE_MAX: usize = 16;
/// Contents are never written to again.
const READ_ONLY: u32 = 0o444;

/// What identifies a state of a file: when it is the same, the content was not written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    size: u64,
    modified: (i64, i64),
    pub(super) inode: u64,
}

impl Stamp {
    pub(super) fn of(found: &std::fs::Metadata) -> Self {
        Self {
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            inode: found.ino(),
        }
    }
}

/// A temp file or directory that is removed unless it got its name.
#[derive(Debug)]
pub(super) struct Temp {
    pub(super) path: PathBuf,
}

impl Drop for Temp {
    fn drop(&mut self) {
        // Gone already when it was renamed; otherwise the next open removes what stays.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Content whose hash was checked.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) inode: u64,
}

/// Directories whose new names are not on disk yet.
#[derive(Debug, Default)]
#[must_use = "names are durable after `sync` only"]
pub(super) struct Unsynced {
    dirs: BTreeSet<PathBuf>,
}

impl Unsynced {
    pub(super) fn sync(self) -> Result<(), BlobError> {
        self.dirs.iter().try_for_each(|dir| sync_dir(dir))
    }
}

/// Makes the directories, removes leftovers, and adds up what is there.
pub(super) fn prepare(root: &Path) -> Result<Usage, BlobError> {
    for name in [TEMP_DIR, TREES_DIR, QUARANTINE_DIR] {
        make_dir(&root.join(name))?;
    }
    remove_leftovers(&root.join(TEMP_DIR))?;
    let mut usage = Usage::default();
    for byte in 0..=u8::MAX {
        let shard = root.join(catalog::id::to_hex(&[byte]));
        if !shard.is_dir() {
            make_dir(&shard)?;
            continue;
        }
        for (path, found) in entries(&shard)? {
            if let Some(digest) = blob_name(&path) {
                usage.blobs += 1;
                usage.bytes = usage.bytes.saturating_add(found.len());
                debug_assert!(path.ends_with(digest.to_hex()));
            } else if path.extension().is_some_and(|extension| extension == OUTBOARD) {
                if path.with_extension("").exists() {
                    usage.bytes = usage.bytes.saturating_add(found.len());
                } else {
                    // A kill between the two renames.
                    std::fs::remove_file(&path).map_err(io_at(&path))?;
                }
            }
        }
    }
    sync_dir(root)?;
    Ok(usage)
}

fn remove_leftovers(dir: &Path) -> Result<(), BlobError> {
    let now = SystemTime::now();
    for (path, found) in entries(dir)? {
        let age = found.modified().ok().and_then(|modified| now.duration_since(modified).ok());
        if is_fetch(&path) && age.is_none_or(|age| age < FETCH_KEPT) {
            continue;
        }
        if found.is_dir() {
            std::fs::remove_dir_all(&path).map_err(io_at(&path))?;
        } else {
            std::fs::remove_file(&path).map_err(io_at(&path))?;
        }
    }
    Ok(())
}

/// Gives up fetches that nobody goes on with.
pub(super) fn remove_stale_fetches(dir: &Path) -> Result<(), BlobError> {
    let now = SystemTime::now();
    for (path, found) in entries(dir)? {
        let age = found.modified().ok().and_then(|modified| now.duration_since(modified).ok());
        if is_fetch(&path) && age.is_some_and(|age| age >= FETCH_KEPT) {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

fn is_fetch(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(FETCH.as_bytes())
}

/// What a directory holds; a name that vanishes meanwhile is left out.
pub(super) fn entries(dir: &Path) -> Result<Vec<(PathBuf, std::fs::Metadata)>, BlobError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io_at(dir))? {
        let entry = entry.map_err(io_at(dir))?;
        match entry.metadata() {
            Ok(metadata) => found.push((entry.path(), metadata)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io_at(&entry.path())(e)),
        }
    }
    Ok(found)
}

/// The digest in a content's or shared directory's file name.
pub(super) fn blob_name(path: &Path) -> Option<Digest> {
    from_hex(path.file_name()?.to_str()?).map(Digest::from_bytes)
}

pub(super) fn make_dir(path: &Path) -> Result<(), BlobError> {
    std::fs::create_dir_all(path).map_err(io_at(path))
}

/// Makes new names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), BlobError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_at(dir))
}

/// Removes a file that may be absent; says whether it was there.
pub(super) fn remove_if_there(path: &Path) -> Result<bool, BlobError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(io_at(path)(e)),
    }
}

impl Inner {
    fn shard(&self, digest: &Digest) -> PathBuf {
        self.root.join(&digest.to_hex()[..2])
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.shard(digest).join(digest.to_hex())
    }

    pub(super) fn outboard_path(&self, digest: &Digest) -> PathBuf {
        self.blob_path(digest).with_extension(OUTBOARD)
    }

    pub(super) fn trees_dir(&self) -> PathBuf {
        self.root.join(TREES_DIR)
    }

    pub(super) fn temp_dir(&self) -> PathBuf {
        self.root.join(TEMP_DIR)
    }

    pub(super) fn fetch_path(&self, digest: &Digest) -> PathBuf {
        self.root.join(TEMP_DIR).join(format!("{FETCH}{}", digest.to_hex()))
    }

    /// A path under `tmp` that nobody else uses.
    pub(super) fn temp_name(&self, kind: &str) -> PathBuf {
        let n = self.n_temps.fetch_add(1, Ordering::Relaxed);
        self.root.join(TEMP_DIR).join(format!("{kind}-{}-{n}", std::process::id()))
    }

    /// A new, empty temp file.
    pub(super) fn temp_file(&self) -> Result<(Temp, File), BlobError> {
        let path = self.temp_name("add");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(io_at(&path))?;
        Ok((Temp { path }, file))
    }

    /// Gives a whole temp file its name. It is durable once `unsynced` is synced.
    pub(super) fn publish(
        self: &Arc<Self>,
        temp: &Path,
        hashed: &Hashed,
        mut room: Room,
        unsynced: &mut Unsynced,
    ) -> Result<Added, BlobError> {
        let Hashed { digest, size, ref outboard } = *hashed;
        let added = Added { digest, size };
        unsynced.dirs.insert(self.shard(&digest));
        if self.renew(&digest)? {
            // The caller's temp file and room end with the caller.
            return Ok(added);
        }
        let whole = size.saturating_add(outboard.len() as u64);
        room.grow(whole.saturating_sub(room.bytes()))?;
        make_durable(temp)?;
        let outboard_temp =
            (!outboard.is_empty()).then(|| self.write_temp(outboard)).transpose()?;
        let path = self.blob_path(&digest);
        let _names = lock(&self.names);
        let replaced = std::fs::metadata(&path).ok().map(|old| old.len());
        if let Some(outboard_temp) = outboard_temp {
            let to = self.outboard_path(&digest);
            std::fs::rename(&outboard_temp.path, &to).map_err(io_at(&to))?;
        }
        std::fs::rename(temp, &path).map_err(io_at(&path))?;
        if let Some(old_size) = replaced {
            self.usage.forget_blob(old_size + super::hash::outboard_len(old_size));
        }
        room.keep();
        let found = std::fs::metadata(&path).map_err(io_at(&path))?;
        self.note_verified(digest, Stamp::of(&found));
        Ok(added)
    }

    /// Writes bytes to a new temp file, durably.
    fn write_temp(&self, bytes: &[u8]) -> Result<Temp, BlobError> {
        let (temp, mut file) = self.temp_file()?;
        file.write_all(bytes).map_err(io_at(&temp.path))?;
        drop(file);
        make_durable(&temp.path)?;
        Ok(temp)
    }

    /// When verified content is here already, makes it as young as if it had been added just now, so that collection does
    /// not take it. Content not verified since the start is replaced by the new copy instead, which heals it.
    pub(super) fn renew(&self, digest: &Digest) -> Result<bool, BlobError> {
        let path = self.blob_path(digest);
        let _names = lock(&self.names);
        let Ok(file) = File::open(&path) else {
            return Ok(false);
        };
        let found = file.metadata().map_err(io_at(&path))?;
        if lock(&self.verified).get(digest) != Some(&Stamp::of(&found)) {
            return Ok(false);
        }
        file.set_modified(SystemTime::now()).map_err(io_at(&path))?;
        let renewed = file.metadata().map_err(io_at(&path))?;
        self.note_verified(*digest, Stamp::of(&renewed));
        Ok(true)
    }

    /// Keeps a content verified over a change of its file's time.
    pub(super) fn restamp(&self, digest: &Digest, before: Stamp, after: Stamp) {
        if let Some(stamp) = lock(&self.verified).get_mut(digest).filter(|stamp| **stamp == before)
        {
            *stamp = after;
        }
    }

    fn note_verified(&self, digest: Digest, stamp: Stamp) {
        let mut verified = lock(&self.verified);
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(digest, stamp);
    }

    pub(super) fn forget_verified(&self, digest: &Digest) {
        lock(&self.verified).remove(digest);
    }

    /// Checks the hash of content, unless that was done since the start and the file has not changed.
    pub(super) fn ensure_verified(&self, digest: &Digest) -> Result<Verified, BlobError> {
        let path = self.blob_path(digest);
        // Reading is a use.
        self.look(digest);
        let found = match std::fs::metadata(&path) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(BlobError::NotFound { digest: *digest });
            }
            Err(e) => return Err(io_at(&path)(e)),
        };
        let stamp = Stamp::of(&found);
        let is_known = lock(&self.verified).get(digest) == Some(&stamp);
        if !is_known {
            if hash_file(&path).map_err(io_at(&path))?.digest != *digest {
                return Err(self.quarantine(digest));
            }
            self.note_verified(*digest, stamp);
        }
        Ok(Verified { path, size: found.len(), inode: found.ino() })
    }

    /// Moves damaged content out of the way and says so.
    pub(super) fn quarantine(&self, digest: &Digest) -> BlobError {
        let dir = self.root.join(QUARANTINE_DIR);
        let quarantine = dir.join(digest.to_hex());
        let path = self.blob_path(digest);
        let _names = lock(&self.names);
        self.forget_verified(digest);
        let size = std::fs::metadata(&path).map_or(0, |found| found.len());
        if let Err(e) = std::fs::rename(&path, &quarantine) {
            return io_at(&path)(e);
        }
        let outboard = remove_len(&self.outboard_path(digest));
        self.usage.forget_blob(size + outboard);
        tracing::warn!(%digest, quarantine = %quarantine.display(), "damaged content set aside");
        if let Err(e) = trim(&dir) {
            tracing::warn!(error = %e, "old damaged contents cannot be removed");
        }
        BlobError::Corrupt { digest: *digest, quarantine }
    }

    /// Removes content; says whether it was here and how many bytes that frees. The caller holds `names`.
    pub(super) fn remove_named(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        let path = self.blob_path(digest);
        let size = std::fs::metadata(&path).map_or(0, |found| found.len());
        self.forget_verified(digest);
        if !remove_if_there(&path)? {
            return Ok(None);
        }
        let bytes = size + remove_len(&self.outboard_path(digest));
        self.usage.forget_blob(bytes);
        Ok(Some(bytes))
    }

    /// Content that has lost its outboard gets it back, so serving does not depend on a second file.
    pub(super) fn write_outboard(&self, digest: &Digest, bytes: &[u8]) -> Result<(), BlobError> {
        let temp = self.write_temp(bytes)?;
        let to = self.outboard_path(digest);
        let _names = lock(&self.names);
        std::fs::rename(&temp.path, &to).map_err(io_at(&to))
    }
}

/// Removes a file if it is there and gives its length. It is rebuilt when needed, so failing is harmless.
fn remove_len(path: &Path) -> u64 {
    let len = std::fs::metadata(path).map_or(0, |found| found.len());
    match std::fs::remove_file(path) {
        Ok(()) => len,
        Err(_) => 0,
    }
}

/// Makes a finished temp file read-only and durable.
fn make_durable(path: &Path) -> Result<(), BlobError> {
    let file = File::open(path).map_err(io_at(path))?;
    file.set_permissions(Permissions::from_mode(READ_ONLY)).map_err(io_at(path))?;
    file.sync_all().map_err(io_at(path))
}

/// Removes the oldest files of the quarantine beyond its bound.
fn trim(dir: &Path) -> Result<(), BlobError> {
    let mut found = entries(dir)?;
    found.sort_by_key(|(_, metadata)| (metadata.ctime(), metadata.ctime_nsec()));
    let n_excess = found.len().saturating_sub(QUARANTINE_MAX);
    for (path, _) in &found[..n_excess] {
        remove_if_there(path)?;
    }
    Ok(())
}
