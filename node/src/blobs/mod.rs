//! Bytes named by their BLAKE3 hash, as files.
//!
//! ```text
//! <root>/ab/ab12…        the content, read-only; there only when it is whole and on disk
//! <root>/ab/ab12….obao   its bao outboard (16 KiB groups), for content above 16 KiB
//! <root>/tmp/add-…       being written; removed at the next open
//! <root>/tmp/fetch-ab12… being fetched; kept, so that a fetch can go on after a restart
//! <root>/tmp/fetch-….parts what of it is there, when it came in parts
//! <root>/trees/cd34…     a directory unpacked once for read-only use; its files are links to the content
//! <root>/quarantine/…    content that no longer had its hash
//! ```
//!
//! Every write goes temp file, fsync, rename, fsync of the directory: a kill at any point leaves the old state or the new
//! one, and leftovers under `tmp`. Content is hashed when it comes in and again before its first use after a start; what
//! does not match any more is moved to quarantine and reported, never handed out. The caller holds the home's lock.
//!
//! All heavy work runs on blocking threads, a few at a time. Dropping a future does not undo work that has begun.

mod add;
mod collect;
mod dir;
mod error;
mod files;
mod hash;
mod intake;
mod out;
mod quota;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use catalog::Digest;
use scheduler::value::{DirRef, Manifest};
use tokio::io::AsyncRead;
use tokio::sync::Semaphore;

pub use self::collect::{Collected, Rules};
pub use self::error::BlobError;
use self::files::Stamp;
pub use self::intake::Intake;
use self::quota::Room;
pub use self::quota::Usage;

/// Largest content in bytes; larger is refused. Its outboard (1/256 of it) is held in memory while it is served.
pub const BLOB_LEN_MAX: u64 = 64 << 30;
/// Largest encoded directory manifest in bytes; a directory that needs more is refused.
pub const MANIFEST_LEN_MAX: u64 = 32 << 20;
/// Blocking jobs at once; further ones wait their turn. More would only make a small board's disk seek.
const WORKERS_MAX: usize = 4;
/// Contents remembered as verified since the start; when more, all are forgotten and verified again as they are used.
const VERIFIED_MAX: usize = 16_384;

/// Content that is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// Room held for content that is on its way; free again when dropped.
#[derive(Debug)]
pub struct Reserved(Room);

/// The store. Clones share it.
#[derive(Clone, Debug)]
pub struct BlobStore {
    inner: Arc<Inner>,
    workers: Arc<Semaphore>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    usage: quota::Account,
    /// Held while a name appears, is renewed or disappears, so that collection never takes what was just added again.
    names: Mutex<()>,
    /// Held while a shared tree is checked or built.
    trees: Mutex<()>,
    verified: Mutex<BTreeMap<Digest, Stamp>>,
    /// What may not be removed for room.
    wanted: Mutex<Option<collect::Wanted>>,
    n_temps: AtomicU64,
}

impl BlobStore {
    /// Opens the store in `root`, making it when there is none, and removes what an earlier process left half-written.
    /// Looks at every file, so it takes about a second per hundred thousand. Blocks.
    ///
    /// # Errors
    /// [`BlobError::Io`] or [`BlobError::DiskFull`] when the directories cannot be made or read.
    pub fn open(root: &Path, quota_bytes: Option<u64>) -> Result<Self, BlobError> {
        let usage = files::prepare(root)?;
        Ok(Self {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                usage: quota::Account::new(usage, quota_bytes),
                names: Mutex::default(),
                trees: Mutex::default(),
                verified: Mutex::default(),
                wanted: Mutex::default(),
                n_temps: AtomicU64::new(0),
            }),
            workers: Arc::new(Semaphore::new(WORKERS_MAX)),
        })
    }

    /// Copies a regular file in. A symbolic link is followed: the path is the owner's own. For paths that a task chose, use
    /// [`BlobStore::add_within`].
    ///
    /// # Errors
    /// See [`BlobError`].
    pub async fn add_file(&self, path: &Path) -> Result<Added, BlobError> {
        let path = path.to_owned();
        self.run(move |inner| inner.add_file(&path)).await
    }

    /// Copies in the regular file at the plain relative `path` below `dir`, refusing links that lead out of `dir`.
    ///
    /// # Errors
    /// See [`BlobError`].
    pub async fn add_within(&self, dir: &Path, path: &str) -> Result<Added, BlobError> {
        let (dir, path) = (dir.to_owned(), path.to_owned());
        self.run(move |inner| inner.add_file(&dir::resolve_within(&dir, &path)?)).await
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// See [`BlobError`].
    pub async fn add_bytes(&self, bytes: impl Into<Bytes>) -> Result<Added, BlobError> {
        let bytes = bytes.into();
        self.run(move |inner| inner.add_bytes(&bytes)).await
    }

    /// Copies a stream in until its end. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// See [`BlobError`]; [`BlobError::Stream`] when the stream fails.
    pub async fn add_stream(&self, stream: impl AsyncRead + Unpin) -> Result<Added, BlobError> {
        intake::add_stream(self, stream).await
    }

    /// Copies in every file of the directory at `path` and the manifest that names them. Empty directories are not kept.
    /// Symbolic links become what they point to; one that leads out of the directory, into a loop or nowhere is refused,
    /// as are special files and names that are not plain UTF-8.
    ///
    /// # Errors
    /// See [`BlobError`]. Files copied before the error stay until they are collected.
    pub async fn add_dir(&self, path: &Path) -> Result<DirRef, BlobError> {
        let path = path.to_owned();
        self.run(move |inner| inner.add_dir(&path)).await
    }

    /// Like [`BlobStore::add_dir`] for the directory at the plain relative `path` below `dir`, refusing links that lead out
    /// of `dir`.
    ///
    /// # Errors
    /// See [`BlobError`].
    pub async fn add_dir_within(&self, dir: &Path, path: &str) -> Result<DirRef, BlobError> {
        let (dir, path) = (dir.to_owned(), path.to_owned());
        self.run(move |inner| inner.add_dir(&dir::resolve_within(&dir, &path)?)).await
    }

    /// Takes over a fetched file that lies at [`BlobStore::temp_path`]. It is not hashed again: a [`fabric::Fetched`] is
    /// given only for bytes that were verified as they were written or, after a resume, read back. `room` is what was
    /// reserved for it; without, room is looked for here.
    ///
    /// # Errors
    /// See [`BlobError`]. After [`BlobError::Mismatch`] the file is gone, so that the next fetch begins anew; after any other
    /// error it is still there.
    pub async fn adopt(
        &self,
        digest: Digest,
        fetched: fabric::Fetched,
        room: Option<Reserved>,
    ) -> Result<Added, BlobError> {
        self.run(move |inner| inner.adopt(digest, fetched, room)).await
    }

    /// Where a fetch of this content writes. The same at every call, so that a fetch can resume. Names that begin with this
    /// one are the fetch's to use, too, and are removed with it.
    #[must_use]
    pub fn temp_path(&self, digest: &Digest) -> PathBuf {
        self.inner.fetch_path(digest)
    }

    /// Holds room for content of `size` bytes that is on its way, outboard included. Contents that nobody needs are removed
    /// where they stand in the way.
    ///
    /// # Errors
    /// [`BlobError::Quota`] or [`BlobError::TooLarge`], and those of the disk.
    pub async fn reserve(&self, size: u64) -> Result<Reserved, BlobError> {
        self.run(move |inner| {
            let mut room = Room::new(Arc::clone(inner));
            room.grow(size.saturating_add(hash::outboard_len(size.min(BLOB_LEN_MAX))))?;
            Ok(Reserved(room))
        })
        .await
    }

    /// Sees to it that `size` more bytes would fit, removing contents that nobody needs where they stand in the way. For a
    /// look before many fetches; nothing is held.
    ///
    /// # Errors
    /// [`BlobError::Quota`] and those of the disk.
    pub async fn make_room(&self, size: u64) -> Result<(), BlobError> {
        self.run(move |inner| inner.see_to_room(size)).await
    }

    /// Sets the limit in bytes. What is over it stays, but nothing is added.
    pub fn limit(&self, quota_bytes: u64) {
        self.inner.usage.limit(quota_bytes);
    }

    /// Whether the content is here. One look at the file system, no hashing; counts as a use.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.size(digest).is_some()
    }

    /// The length in bytes of content that is here; counts as a use.
    #[must_use]
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.inner.look(digest)
    }

    /// The file with the content, when it is here. For reading only.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> Option<PathBuf> {
        self.has(digest).then(|| self.inner.blob_path(digest))
    }

    /// The file with the content, after its hash was checked (once per start and change of the file).
    ///
    /// # Errors
    /// [`BlobError::NotFound`], [`BlobError::Corrupt`] and those of the disk.
    pub async fn verified_path(&self, digest: Digest) -> Result<PathBuf, BlobError> {
        self.run(move |inner| Ok(inner.ensure_verified(&digest)?.path)).await
    }

    /// Reads the content again and checks its hash, whatever is known of it. Damaged content is quarantined.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], [`BlobError::Corrupt`] and those of the disk.
    pub async fn verify(&self, digest: Digest) -> Result<PathBuf, BlobError> {
        self.run(move |inner| {
            inner.forget_verified(&digest);
            Ok(inner.ensure_verified(&digest)?.path)
        })
        .await
    }

    /// The bao outboard of the content (16 KiB groups, pre-order, no length in front); empty for content up to 16 KiB.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], [`BlobError::Corrupt`] and those of the disk.
    pub async fn outboard(&self, digest: Digest) -> Result<Bytes, BlobError> {
        self.run(move |inner| inner.outboard(&digest)).await
    }

    /// The content in memory, verified.
    ///
    /// # Errors
    /// [`BlobError::TooLong`] when it is longer than `max` bytes; [`BlobError::NotFound`], [`BlobError::Corrupt`] and those
    /// of the disk.
    pub async fn read(&self, digest: Digest, max: u64) -> Result<Vec<u8>, BlobError> {
        self.run(move |inner| inner.read(&digest, max)).await
    }

    /// The manifest of a directory, with every path checked.
    ///
    /// # Errors
    /// [`BlobError::Manifest`], [`BlobError::NotFound`], [`BlobError::Corrupt`] and those of the disk.
    pub async fn manifest(&self, digest: Digest) -> Result<Manifest, BlobError> {
        self.run(move |inner| inner.manifest(&digest)).await
    }

    /// Writes the content to `out`, replacing what is there at once and only when all of it is verified and on disk.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], [`BlobError::Corrupt`] and those of the disk.
    pub async fn export(&self, digest: Digest, out: &Path) -> Result<(), BlobError> {
        let out = out.to_owned();
        self.run(move |inner| inner.export(&digest, &out)).await
    }

    /// Makes a private, writable copy of the content at `dest`, where nothing may be yet; missing parents are made. Shares
    /// blocks with the store where the file system can.
    ///
    /// # Errors
    /// [`BlobError::Exists`], [`BlobError::NotFound`], [`BlobError::Corrupt`] and those of the disk.
    pub async fn stage_file(&self, digest: Digest, dest: &Path) -> Result<(), BlobError> {
        let dest = dest.to_owned();
        self.run(move |inner| inner.stage_file(&digest, &dest)).await
    }

    /// Makes a private, writable copy of a directory at `dest`, which must be absent or empty; missing parents are made.
    ///
    /// # Errors
    /// See [`BlobError`]. What was written before the error stays.
    pub async fn stage_dir(&self, dir: &DirRef, dest: &Path) -> Result<(), BlobError> {
        let (dir, dest) = (dir.clone(), dest.to_owned());
        self.run(move |inner| inner.stage_dir(&dir, &dest)).await
    }

    /// A directory unpacked for read-only use, shared by all that use it: it is made once and then only checked. Whoever
    /// gets the path must not let anything write below it. It stays until [`BlobStore::collect`] is told not to keep its
    /// digest.
    ///
    /// # Errors
    /// See [`BlobError`].
    pub async fn shared_dir(&self, dir: &DirRef) -> Result<PathBuf, BlobError> {
        let dir = dir.clone();
        self.run(move |inner| inner.shared_dir(&dir)).await
    }

    /// Every content and its length in bytes, by digest.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn list(&self) -> Result<Vec<Added>, BlobError> {
        self.run(|inner| inner.list()).await
    }

    /// Removes content; absent content is fine. Says whether it was here.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn remove(&self, digest: Digest) -> Result<bool, BlobError> {
        self.run(move |inner| inner.remove(&digest)).await
    }

    /// What is used of the quota.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.inner.usage.now()
    }

    /// Removes contents and shared directories that are not `wanted`, by the [`Rules`]; of those that are neither young nor
    /// long unused only so many as the quota needs. Until the next call, and half an hour at most, whoever needs room takes
    /// it from the same. A manifest does not keep its files: the caller lists them by [`BlobStore::manifest`].
    ///
    /// # Errors
    /// Those of the disk; what was removed before stays removed.
    pub async fn collect(
        &self,
        wanted: BTreeSet<Digest>,
        rules: Rules,
    ) -> Result<Collected, BlobError> {
        self.run(move |inner| inner.collect(wanted, rules)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let workers = Arc::clone(&self.workers);
        let permit = workers.acquire_owned().await.map_err(|_| BlobError::Stopped)?;
        let inner = Arc::clone(&self.inner);
        let job = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&inner)
        });
        job.await.map_err(|_| BlobError::Stopped)?
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change under these locks is a single step, so a panic elsewhere leaves them usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
