//! Content coming in.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use catalog::Digest;
use fabric::Fetched;

use super::error::{BlobError, io_at};
use super::files::{Unsynced, entries, remove_if_there};
use super::hash::{Hashed, hash_file, outboard_len};
use super::quota::Room;
use super::{Added, Inner, Reserved};

/// Bytes copied between two looks at the quota. Large, since the kernel copies them by itself.
const COPY_LEN: u64 = 16 << 20;

impl Inner {
    pub(super) fn add_file(self: &Arc<Self>, path: &Path) -> Result<Added, BlobError> {
        let mut unsynced = Unsynced::default();
        let added = self.add_file_unsynced(path, &mut unsynced)?;
        unsynced.sync()?;
        Ok(added)
    }

    /// Copies, then hashes the copy: the source may change meanwhile.
    pub(super) fn add_file_unsynced(
        self: &Arc<Self>,
        path: &Path,
        unsynced: &mut Unsynced,
    ) -> Result<Added, BlobError> {
        // Looked at before it is opened, since opening a pipe waits for its other end.
        let not_regular = || BlobError::NotRegular { path: path.to_owned(), or_dir: false };
        if !std::fs::metadata(path).map_err(io_at(path))?.is_file() {
            return Err(not_regular());
        }
        let source = File::open(path).map_err(io_at(path))?;
        let found = source.metadata().map_err(io_at(path))?;
        if !found.is_file() {
            return Err(not_regular());
        }
        // What cannot fit is refused before it is copied.
        Room::new(Arc::clone(self)).grow(found.len())?;
        let mut room = Room::new(Arc::clone(self));
        let (temp, mut file) = self.temp_file()?;
        loop {
            let n =
                io::copy(&mut (&source).take(COPY_LEN), &mut file).map_err(io_at(&temp.path))?;
            room.grow(n)?;
            if n == 0 {
                break;
            }
        }
        drop(file);
        let hashed = hash_file(&temp.path).map_err(io_at(&temp.path))?;
        self.publish(&temp.path, &hashed, room, unsynced)
    }

    pub(super) fn add_bytes(self: &Arc<Self>, bytes: &[u8]) -> Result<Added, BlobError> {
        let mut unsynced = Unsynced::default();
        let added = self.add_bytes_unsynced(bytes, &mut unsynced)?;
        unsynced.sync()?;
        Ok(added)
    }

    pub(super) fn add_bytes_unsynced(
        self: &Arc<Self>,
        bytes: &[u8],
        unsynced: &mut Unsynced,
    ) -> Result<Added, BlobError> {
        let mut room = Room::new(Arc::clone(self));
        room.grow(bytes.len() as u64)?;
        let (temp, mut file) = self.temp_file()?;
        file.write_all(bytes).map_err(io_at(&temp.path))?;
        drop(file);
        let hashed = hash_file(&temp.path).map_err(io_at(&temp.path))?;
        self.publish(&temp.path, &hashed, room, unsynced)
    }

    pub(super) fn adopt(
        self: &Arc<Self>,
        digest: Digest,
        fetched: Fetched,
        room: Option<Reserved>,
    ) -> Result<Added, BlobError> {
        let temp = self.fetch_path(&digest);
        let Fetched { size, outboard } = fetched;
        let mut room = room.map_or_else(|| Room::new(Arc::clone(self)), |reserved| reserved.0);
        room.shrink(size.saturating_add(outboard.len() as u64));
        room.grow(size.saturating_sub(room.bytes()))?;
        let found_size = std::fs::metadata(&temp).map_err(io_at(&temp))?.len();
        if found_size != size || outboard.len() as u64 != outboard_len(size) {
            self.remove_fetch(&digest)?;
            return Err(BlobError::Mismatch { expected: digest, expected_size: size, found_size });
        }
        let hashed = Hashed { digest, size, outboard };
        let mut unsynced = Unsynced::default();
        let added = self.publish(&temp, &hashed, room, &mut unsynced)?;
        unsynced.sync()?;
        self.remove_fetch(&digest)?;
        Ok(added)
    }

    /// Removes what a fetch left under `tmp`: its file and others whose name begins with it.
    fn remove_fetch(&self, digest: &Digest) -> Result<(), BlobError> {
        let fetch = self.fetch_path(digest);
        let name = fetch.file_name().unwrap_or_default().as_encoded_bytes();
        let dir = fetch.parent().unwrap_or(&self.root);
        for (path, _) in entries(dir)? {
            let found = path.file_name().unwrap_or_default().as_encoded_bytes();
            if found.starts_with(name) {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }
}
