//! Who may take how many bytes: one account, and rooms taken from it.

use std::sync::{Arc, Mutex};

use super::error::BlobError;
use super::{BLOB_LEN_MAX, Inner, lock};

/// What the store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of contents and outboards, including what is being written.
    pub bytes: u64,
    /// Contents.
    pub blobs: u64,
    /// The limit in bytes, when there is one.
    pub quota: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Account {
    usage: Mutex<Usage>,
}

impl Account {
    pub(super) const fn new(found: Usage, quota: Option<u64>) -> Self {
        Self { usage: Mutex::new(Usage { quota, ..found }) }
    }

    pub(super) fn now(&self) -> Usage {
        *lock(&self.usage)
    }

    pub(super) fn limit(&self, quota: u64) {
        lock(&self.usage).quota = Some(quota);
    }

    fn take(&self, needed: u64) -> Result<(), BlobError> {
        let mut usage = lock(&self.usage);
        if let Some(quota) = usage.quota {
            let free = quota.saturating_sub(usage.bytes);
            if needed > free {
                return Err(BlobError::Quota { needed, free, quota });
            }
        }
        usage.bytes = usage.bytes.saturating_add(needed);
        Ok(())
    }

    /// A content of `bytes` (its outboard included) that held a room is there for good.
    pub(super) fn count_blob(&self) {
        lock(&self.usage).blobs += 1;
    }

    pub(super) fn give_back(&self, bytes: u64) {
        let mut usage = lock(&self.usage);
        usage.bytes = usage.bytes.saturating_sub(bytes);
    }

    /// A content of `bytes` (its outboard included) is gone.
    pub(super) fn forget_blob(&self, bytes: u64) {
        let mut usage = lock(&self.usage);
        usage.bytes = usage.bytes.saturating_sub(bytes);
        usage.blobs = usage.blobs.saturating_sub(1);
    }
}

/// Bytes taken from the account for a write under way, given back unless kept.
#[derive(Debug)]
pub(super) struct Room {
    inner: Arc<Inner>,
    bytes: u64,
}

impl Room {
    pub(super) const fn new(inner: Arc<Inner>) -> Self {
        Self { inner, bytes: 0 }
    }

    /// Takes `more` bytes, removing contents that nobody needs where they stand in the way; blocks.
    pub(super) fn grow(&mut self, more: u64) -> Result<(), BlobError> {
        match self.try_grow(more) {
            Err(refused @ BlobError::Quota { needed, free, quota }) => {
                if needed > quota || !self.inner.make_room(needed - free)? {
                    return Err(refused);
                }
                self.try_grow(more)
            }
            done => done,
        }
    }

    /// Takes `more` bytes when they are free.
    pub(super) fn try_grow(&mut self, more: u64) -> Result<(), BlobError> {
        let size = self.bytes.saturating_add(more);
        if size > BLOB_LEN_MAX {
            return Err(BlobError::TooLarge { size });
        }
        self.inner.usage.take(more)?;
        self.bytes = size;
        Ok(())
    }

    /// Bytes taken.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back what is more than `size` bytes.
    pub(super) fn shrink(&mut self, size: u64) {
        let excess = self.bytes.saturating_sub(size);
        self.bytes -= excess;
        self.inner.usage.give_back(excess);
    }

    /// The bytes belong to a content now.
    pub(super) fn keep(mut self) {
        self.bytes = 0;
        self.inner.usage.count_blob();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.inner.usage.give_back(self.bytes);
    }
}
