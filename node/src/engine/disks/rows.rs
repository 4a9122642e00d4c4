//! Every change of the state together with the rows that make it durable, and the way back from the rows.
//!
//! ```text
//! d NAME   an image
//! q        the quota, when its owner has said one
//! ```

use catalog::record::DiskName;

use super::{Disk, Disks, Quota};
use crate::engine::stored;
use crate::store::batch::{Batch, Table};

const TABLE: Table = Table::Disks;
const DISK: u8 = b'd';
const QUOTA_KEY: &[u8] = b"q";

fn key(name: &DiskName) -> Vec<u8> {
    [&[DISK], name.as_str().as_bytes()].concat()
}

/// A row that this program did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of the disk images cannot be read")]
pub struct BadRow;

impl Disks {
    /// The images as the rows say.
    ///
    /// # Errors
    /// `BadRow` for a row that this program did not write.
    pub fn recover(rows: &[(Vec<u8>, Vec<u8>)]) -> Result<Self, BadRow> {
        let mut disks = Self::default();
        // A throw-away batch: the rows are there.
        let mut batch = Batch::default();
        for (key, value) in rows {
            if key == QUOTA_KEY {
                disks.set_quota(read(value)?, &mut batch);
                continue;
            }
            let Some((&DISK, name)) = key.split_first() else { return Err(BadRow) };
            let name = std::str::from_utf8(name).map_err(|_| BadRow)?;
            disks.put(name.parse().map_err(|_| BadRow)?, read(value)?, &mut batch);
        }
        Ok(disks)
    }

    pub(super) fn put(&mut self, name: DiskName, disk: Disk, batch: &mut Batch) {
        batch.put(TABLE, key(&name), stored(&disk));
        let (digest, size) = (disk.detail.digest, disk.detail.size);
        let n = self.contents.entry(digest).or_default();
        *n += 1;
        if *n == 1 {
            self.bytes = self.bytes.saturating_add(size);
        }
        if let Some(old) = self.images.insert(name, disk) {
            self.release(&old);
        }
    }

    pub(super) fn drop(&mut self, name: &DiskName, batch: &mut Batch) {
        if let Some(old) = self.images.remove(name) {
            batch.delete(TABLE, key(name));
            self.release(&old);
        }
    }

    pub(super) fn set_quota(&mut self, quota: Quota, batch: &mut Batch) {
        self.quota = quota;
        batch.put(TABLE, QUOTA_KEY, stored(&quota));
    }

    /// An image that had a content has it no more.
    fn release(&mut self, old: &Disk) {
        let digest = &old.detail.digest;
        let Some(n) = self.contents.get_mut(digest) else { return };
        *n -= 1;
        if *n == 0 {
            self.contents.remove(digest);
            self.bytes = self.bytes.saturating_sub(old.detail.size);
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, BadRow> {
    ciborium::from_reader(bytes).map_err(|_| BadRow)
}
