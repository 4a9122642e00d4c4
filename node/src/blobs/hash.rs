//! Digest and bao outboard of a file.

use std::io;
use std::path::Path;

use catalog::Digest;

/// Length in bytes of the outboard of content of so many bytes; nothing up to one group of 16 KiB.
pub(super) use fabric::blob::outboard_bytes as outboard_len;

/// What a file is.
#[derive(Debug)]
pub(super) struct Hashed {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// As peers fetch along it; empty up to one group.
    pub(super) outboard: Vec<u8>,
}

/// Reads and hashes a whole file.
///
/// # Errors
/// When it cannot be read, or shrinks meanwhile.
pub(super) fn hash_file(path: &Path) -> io::Result<Hashed> {
    let (digest, size, outboard) = fabric::blob::hash_file(path)?;
    Ok(Hashed { digest: Digest::from_bytes(digest), size, outboard })
}
