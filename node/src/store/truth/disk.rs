//! The one door between redb and the disk: a file, and a memory of how it failed.
//!
//! redb refuses all work after a failed write until it is opened again, and does not say which kind of operation failed. A
//! full disk can be got over by opening again. A failed fsync cannot: the kernel may have dropped the dirty pages and
//! marked them clean, so what a second open reads need not be what is on the disk.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// How the disk behaved since the store was opened.
#[derive(Debug, Default)]
pub(super) struct Health {
    sync_failed: AtomicBool,
    /// Test only: once set, so many writes succeed before the disk is full; taken down by each.
    #[cfg(test)]
    pub(super) writes_left: std::sync::Mutex<Option<u64>>,
    /// Test only: every sync fails.
    #[cfg(test)]
    pub(super) no_sync: AtomicBool,
}

impl Health {
    /// Whether an fsync failed, after which nothing read from this file may be relied on until the process restarts.
    pub(super) fn has_sync_failed(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }

    #[cfg(test)]
    fn injected_write(&self) -> io::Result<()> {
        match self.writes_left.lock().unwrap().as_mut() {
            Some(0) => Err(io::ErrorKind::StorageFull.into()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    #[cfg(test)]
    fn injected_sync(&self) -> io::Result<()> {
        if self.no_sync.load(Ordering::Acquire) {
            return Err(io::Error::other("injected"));
        }
        Ok(())
    }

    #[cfg(not(test))]
    const fn injected_write(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(not(test))]
    const fn injected_sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that notes failed syncs.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) file: FileBackend,
    pub(super) health: Arc<Health>,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.health.injected_write()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.health.injected_sync().and_then(|()| self.file.sync_data()).inspect_err(|_| {
            self.health.sync_failed.store(true, Ordering::Release);
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.health.injected_write()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
