//! Listing and removing.
//!
//! A content is in use when the caller wants it, and for a while after somebody added it, read it or asked whether it is
//! here: whoever asks is about to rely on it. All others are a cache. They stay until they were unused for long, or until
//! the quota needs their room; then the least recently used go first.
//!
//! The time of the last use is the file's modification time. Every look at a content renews it under the lock under which
//! a removal checks it, so what somebody found here is not removed before [`Rules::young`] is over, whatever the set of
//! wanted contents says that was made before.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use catalog::Digest;

use super::error::{BlobError, io_at};
use super::files::{Stamp, blob_name, entries, remove_stale_fetches};
use super::{Added, Inner, lock};

/// A content used within this time is not marked as used again, to spare the disk.
const TOUCH_AFTER: Duration = Duration::from_secs(10 * 60);
/// A set of wanted contents older than this says too little: nothing is removed for room until there is a new one. Well
/// below [`Rules::young`], so that what is wanted since then is young.
const WANTED_FRESH: Duration = Duration::from_secs(30 * 60);
/// Above this share of the quota (in percent) a collection removes unused contents.
const HIGH_PERCENT: u64 = 90;
/// Down to this share of the quota (in percent).
const LOW_PERCENT: u64 = 80;
/// Room made at once is at least the quota divided by this, so that one look at all files serves many writes.
const ROOM_SHARE: u64 = 20;

/// For how long contents that nobody wants are left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Used within this time: not removed at all.
    pub young: Duration,
    /// Not used for this time: removed at the next collection. Between the two: when the quota needs the room.
    pub unused: Duration,
}

impl Default for Rules {
    /// An hour: longer than it takes from an upload to the submission or publication that names it. A week: as long as a
    /// broken fetch is kept, too.
    fn default() -> Self {
        Self { young: Duration::from_secs(3_600), unused: Duration::from_secs(7 * 24 * 3_600) }
    }
}

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Contents removed.
    pub blobs: u64,
    /// Bytes freed, outboards included.
    pub bytes: u64,
    /// Shared directories removed.
    pub dirs: u64,
}

/// What the last collection was told to keep.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    digests: Arc<BTreeSet<Digest>>,
    rules: Rules,
    told: Instant,
}

/// A content that may go.
struct Idle {
    used: SystemTime,
    digest: Digest,
    bytes: u64,
}

impl Inner {
    pub(super) fn list(&self) -> Result<Vec<Added>, BlobError> {
        let mut found = Vec::new();
        self.each_blob(|digest, metadata| found.push(Added { digest, size: metadata.len() }))?;
        found.sort_unstable_by_key(|added| added.digest);
        Ok(found)
    }

    fn each_blob(&self, mut see: impl FnMut(Digest, &std::fs::Metadata)) -> Result<(), BlobError> {
        for byte in 0..=u8::MAX {
            let shard = self.root.join(catalog::id::to_hex(&[byte]));
            for (path, metadata) in entries(&shard)? {
                if let Some(digest) = blob_name(&path) {
                    see(digest, &metadata);
                }
            }
        }
        Ok(())
    }

    pub(super) fn remove(&self, digest: &Digest) -> Result<bool, BlobError> {
        let _names = lock(&self.names);
        Ok(self.remove_named(digest)?.is_some())
    }

    /// The length of content that is here; counts as a use.
    pub(super) fn look(&self, digest: &Digest) -> Option<u64> {
        let path = self.blob_path(digest);
        let found = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
        if !is_older(&found, TOUCH_AFTER) {
            return Some(found.len());
        }
        let _names = lock(&self.names);
        let file = std::fs::File::open(&path).ok()?;
        let before = file.metadata().ok()?;
        // A file system that cannot be written to removes nothing either.
        if file.set_modified(SystemTime::now()).is_ok()
            && let Ok(after) = file.metadata()
        {
            self.restamp(digest, Stamp::of(&before), Stamp::of(&after));
        }
        Some(before.len())
    }

    pub(super) fn collect(
        &self,
        digests: BTreeSet<Digest>,
        rules: Rules,
    ) -> Result<Collected, BlobError> {
        let wanted = Wanted { digests: Arc::new(digests), rules, told: Instant::now() };
        *lock(&self.wanted) = Some(wanted.clone());
        remove_stale_fetches(&self.temp_dir())?;
        let dirs = self.remove_trees(&wanted, rules.unused)?;
        let mut collected = self.remove_idle(&wanted, rules.unused, u64::MAX)?;
        collected.dirs = dirs;
        let usage = self.usage.now();
        if let Some(quota) = usage.quota
            && usage.bytes > quota / 100 * HIGH_PERCENT
        {
            let goal = usage.bytes - quota / 100 * LOW_PERCENT;
            collected.dirs += self.remove_trees(&wanted, rules.young)?;
            let more = self.remove_idle(&wanted, rules.young, goal)?;
            collected.blobs += more.blobs;
            collected.bytes += more.bytes;
        }
        Ok(collected)
    }

    /// Makes `size` bytes free.
    pub(super) fn see_to_room(&self, size: u64) -> Result<(), BlobError> {
        let usage = self.usage.now();
        let Some(quota) = usage.quota else {
            return Ok(());
        };
        let free = quota.saturating_sub(usage.bytes);
        if size <= free || (size <= quota && self.make_room(size - free)?) {
            return Ok(());
        }
        Err(BlobError::Quota { needed: size, free, quota })
    }

    /// Frees at least `missing` bytes, when unused contents have so many; otherwise nothing is removed and the answer is
    /// no. It is no, too, while nobody has told lately what is wanted.
    pub(super) fn make_room(&self, missing: u64) -> Result<bool, BlobError> {
        let wanted = lock(&self.wanted).clone();
        let Some(wanted) = wanted.filter(|w| w.told.elapsed() < WANTED_FRESH) else {
            return Ok(false);
        };
        let young = wanted.rules.young;
        let idle: u64 = self.idle(&wanted, young)?.iter().map(|idle| idle.bytes).sum();
        if idle < missing {
            return Ok(false);
        }
        let goal = missing.max(self.usage.now().quota.unwrap_or(0) / ROOM_SHARE);
        self.remove_trees(&wanted, young)?;
        let removed = self.remove_idle(&wanted, young, goal)?;
        tracing::debug!(contents = removed.blobs, bytes = removed.bytes, "made room");
        Ok(removed.bytes >= missing)
    }

    /// Shared directories share blocks with contents, so they go first.
    fn remove_trees(&self, wanted: &Wanted, age: Duration) -> Result<u64, BlobError> {
        let mut n_removed = 0;
        for (path, _) in entries(&self.trees_dir())? {
            let _trees = lock(&self.trees);
            let is_wanted = blob_name(&path).is_none_or(|name| wanted.digests.contains(&name));
            if !is_wanted && is_older_now(&path, age) {
                std::fs::remove_dir_all(&path).map_err(io_at(&path))?;
                n_removed += 1;
            }
        }
        Ok(n_removed)
    }

    /// What nobody wants and nobody used for `age`, the least recently used first.
    fn idle(&self, wanted: &Wanted, age: Duration) -> Result<Vec<Idle>, BlobError> {
        let mut idle = Vec::new();
        self.each_blob(|digest, metadata| {
            if let Ok(used) = metadata.modified()
                && is_older(metadata, age)
                && !wanted.digests.contains(&digest)
            {
                let bytes = metadata.len() + super::hash::outboard_len(metadata.len());
                idle.push(Idle { used, digest, bytes });
            }
        })?;
        idle.sort_unstable_by_key(|idle| (idle.used, idle.digest));
        Ok(idle)
    }

    /// Removes such contents until `goal` bytes are freed.
    fn remove_idle(
        &self,
        wanted: &Wanted,
        age: Duration,
        goal: u64,
    ) -> Result<Collected, BlobError> {
        let mut collected = Collected::default();
        for Idle { digest, .. } in self.idle(wanted, age)? {
            if collected.bytes >= goal {
                break;
            }
            // The age is looked at again: a use meanwhile renewed it under the same lock.
            let _names = lock(&self.names);
            if is_older_now(&self.blob_path(&digest), age)
                && let Some(bytes) = self.remove_named(&digest)?
            {
                collected.blobs += 1;
                collected.bytes += bytes;
            }
        }
        Ok(collected)
    }
}

fn is_older_now(path: &Path, limit: Duration) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| is_older(&found, limit))
}

/// Whether a file was last added, made or used longer ago than `limit`. One from the future is young.
fn is_older(found: &std::fs::Metadata, limit: Duration) -> bool {
    let age = found.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    age.is_some_and(|age| age >= limit)
}
