//! Why the blob store did not do what was asked.

use std::io;
use std::path::{Path, PathBuf};

use catalog::Digest;
use scheduler::value::{MANIFEST_FILES_MAX, ManifestError};

use super::BLOB_LEN_MAX;

/// Why the blob store did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// A file or directory could not be used.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk, or this user's share of it, is full.
    #[error("no room left on the disk of {}: free some space", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// The store may not grow that far.
    #[error(
        "no room for {needed} more bytes: of the blob store's quota of {quota} bytes {free} are free and the rest is in \
         use; free disk space, raise the quota or remove published data"
    )]
    Quota {
        /// Bytes needed.
        needed: u64,
        /// Bytes left.
        free: u64,
        /// The store's limit in bytes.
        quota: u64,
    },
    /// Larger than any content may be.
    #[error("{size} bytes in one file, at most {BLOB_LEN_MAX} are taken: split it")]
    TooLarge {
        /// Its length in bytes, or how far it was read.
        size: u64,
    },
    /// No such content here.
    #[error("{digest} is not on this node")]
    NotFound {
        /// The content.
        digest: Digest,
    },
    /// Longer than the caller takes.
    #[error("{digest} has {size} bytes, at most {max} are taken here")]
    TooLong {
        /// The content.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
        /// What the caller takes, in bytes.
        max: u64,
    },
    /// A file that was brought in as one content is not what was fetched.
    #[error(
        "what was fetched as {expected} has {found_size} bytes instead of {expected_size}: fetch it again"
    )]
    Mismatch {
        /// The content it should be.
        expected: Digest,
        /// The length it should have, in bytes.
        expected_size: u64,
        /// The length it has, in bytes.
        found_size: u64,
    },
    /// The content on disk no longer has its hash.
    #[error("{digest} was damaged on this node's disk and is now in {}: fetch it again, and check the disk", quarantine.display())]
    Corrupt {
        /// The content.
        digest: Digest,
        /// Where the damaged file is kept for a look.
        quarantine: PathBuf,
    },
    /// Neither a regular file nor, where one may be, a directory.
    #[error("{} is not a regular file{}", path.display(), if *or_dir { " or directory" } else { "" })]
    NotRegular {
        /// The path.
        path: PathBuf,
        /// Whether a directory would have done.
        or_dir: bool,
    },
    /// A symbolic link that leads out of the directory, into a loop or nowhere.
    #[error("the link {} leads out of its directory, into a loop or nowhere", path.display())]
    Link {
        /// The link, or a path that goes through it.
        path: PathBuf,
    },
    /// A path that cannot stand in a manifest.
    #[error("{} is not a plain relative path of at most 1024 bytes UTF-8 without backslash", path.display())]
    Name {
        /// The path.
        path: PathBuf,
    },
    /// A directory with too many files, or names so long that its manifest gets too large.
    #[error("{} holds too many files for one directory (at most {MANIFEST_FILES_MAX}): pack or split it", path.display())]
    TooMany {
        /// The directory.
        path: PathBuf,
    },
    /// Content that should be a directory's manifest is none.
    #[error("{digest} cannot be used as a directory")]
    Manifest {
        /// The content.
        digest: Digest,
        /// Why.
        source: ManifestError,
    },
    /// A manifest or a reference to one gives another length than the content has.
    #[error("{digest} is said to have {said} bytes and has {size}: the reference to it is wrong")]
    WrongSize {
        /// The content.
        digest: Digest,
        /// The length given, in bytes.
        said: u64,
        /// The length found, in bytes.
        size: u64,
    },
    /// Something stands where a copy should go.
    #[error("{} already exists", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// The stream that was being stored failed.
    #[error("the data broke off after {received} bytes")]
    Stream {
        /// Bytes that had come.
        received: u64,
        /// What the stream said.
        source: io::Error,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

impl BlobError {
    /// Whether there is no room: the disk is full or the quota used up.
    #[must_use]
    pub const fn is_no_room(&self) -> bool {
        matches!(self, Self::DiskFull { .. } | Self::Quota { .. })
    }
}

/// Names the path an operating system error is about, and tells a full disk from the rest.
pub(super) fn io_at(path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlobError::DiskFull { path },
        _ => BlobError::Io { path, source },
    }
}
