//! Listing and removing.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use catalog::Digest;

use super::error::{BlobError, io_at};
use super::files::{blob_name, entries};
use super::{Added, Inner, lock};

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

impl Inner {
    pub(super) fn list(self: &Arc<Self>) -> Result<Vec<Added>, BlobError> {
        let mut found = Vec::new();
        for byte in 0..=u8::MAX {
            let shard = self.root.join(catalog::id::to_hex(&[byte]));
            found.extend(entries(&shard)?.into_iter().filter_map(|(path, metadata)| {
                Some(Added { digest: blob_name(&path)?, size: metadata.len() })
            }));
        }
        found.sort_unstable_by_key(|added| added.digest);
        Ok(found)
    }

    pub(super) fn remove(&self, digest: &Digest) -> Result<bool, BlobError> {
        let _names = lock(&self.names);
        Ok(self.remove_named(digest)?.is_some())
    }

    pub(super) fn collect(
        self: &Arc<Self>,
        keep: &impl Fn(&Digest) -> bool,
        older_than: Duration,
    ) -> Result<Collected, BlobError> {
        let mut collected = Collected::default();
        for (path, _) in entries(&self.trees_dir())? {
            let _trees = lock(&self.trees);
            if blob_name(&path).is_some_and(|digest| !keep(&digest)) && is_older(&path, older_than)
            {
                std::fs::remove_dir_all(&path).map_err(io_at(&path))?;
                collected.dirs += 1;
            }
        }
        for Added { digest, .. } in self.list()? {
            if keep(&digest) {
                continue;
            }
            // The age is looked at under the lock: an add that finds the content here renews it under the same lock.
            let _names = lock(&self.names);
            if is_older(&self.blob_path(&digest), older_than)
                && let Some(bytes) = self.remove_named(&digest)?
            {
                collected.blobs += 1;
                collected.bytes += bytes;
            }
        }
        Ok(collected)
    }
}

/// Whether a file was last added, made or renewed longer ago than `limit`. One from the future is young.
fn is_older(path: &Path, limit: Duration) -> bool {
    let modified = std::fs::symlink_metadata(path).and_then(|found| found.modified());
    let age = modified.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    age.is_some_and(|age| age >= limit)
}
