//! Why a blob was not fetched.

use std::io;
use std::path::PathBuf;

use crate::key::PeerKey;

/// Why a blob was not fetched. What was verified stays in the file for the next try.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The peer is not admitted at the moment.
    #[error("the peer {peer} is not connected")]
    NotConnected {
        /// Who.
        peer: PeerKey,
    },
    /// The peer does not serve blobs to us.
    #[error("the peer {peer} serves no blobs")]
    Unsupported {
        /// Who.
        peer: PeerKey,
    },
    /// The peer says that this node may not have it.
    #[error("the peer {peer} denies the blob")]
    Denied {
        /// Who.
        peer: PeerKey,
    },
    /// The peer does not have it.
    #[error("the peer {peer} does not have the blob")]
    NotFound {
        /// Who.
        peer: PeerKey,
    },
    /// The peer, or this node, moves too many blobs at the moment.
    #[error("too many blobs are on their way: try again later")]
    Busy,
    /// The peer sent bytes that are not the blob's. It is a liar or its disk is.
    #[error("the peer {peer} sent wrong bytes at offset {at}")]
    Corrupt {
        /// Who.
        peer: PeerKey,
        /// The first byte of the group or subtree that did not verify.
        at: u64,
    },
    /// The peer broke the protocol.
    #[error("the peer {peer} answered with status {status}, which has no meaning here")]
    Malformed {
        /// Who.
        peer: PeerKey,
        /// What it said.
        status: u8,
    },
    /// What is wanted begins beyond the end.
    #[error("the blob has {size} bytes, as {peer} says: there is nothing from byte {from} on")]
    Outside {
        /// Who.
        peer: PeerKey,
        /// As the peer says.
        size: u64,
        /// The first byte that was asked for.
        from: u64,
    },
    /// More is wanted at once than is read into memory.
    #[error("{bytes} bytes are too many to read at once: {max} are the most")]
    RangeTooLong {
        /// As asked.
        bytes: u64,
        /// The most.
        max: u64,
    },
    /// Nothing came for a while.
    #[error("the peer {peer} sent nothing for {after_s} s, at offset {at}")]
    Stalled {
        /// Who.
        peer: PeerKey,
        /// How long this node waited, in seconds.
        after_s: u64,
        /// Up to where the blob is verified and in the file.
        at: u64,
    },
    /// The stream ended early.
    #[error("the transfer from {peer} was cut at offset {at}")]
    Cut {
        /// Who.
        peer: PeerKey,
        /// Up to where the blob is verified and in the file.
        at: u64,
        /// What the stream said.
        source: io::Error,
    },
    /// The peer says that the blob is larger than the caller allows.
    #[error("the blob has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// As the peer says.
        size: u64,
        /// As the caller says.
        limit: u64,
    },
    /// Nobody was asked: the list of peers is empty.
    #[error("there is no peer to fetch the blob from")]
    Nobody,
    /// Several peers were asked, and each failed in its own way.
    #[error("all {} peers failed: {}", failed.len(), each(failed))]
    Several {
        /// Why, of each.
        failed: Vec<FetchError>,
    },
    /// The local file failed.
    #[error("cannot write {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl FetchError {
    /// Whether the peer lied or broke the protocol. The fabric counts it against the peer by itself.
    #[must_use]
    pub fn is_peer_fault(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Malformed { .. })
    }

    /// Whether the same peer, or one of several, may well succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotConnected { .. } | Self::Busy | Self::Stalled { .. } | Self::Cut { .. } => {
                true
            }
            Self::Several { failed } => failed.iter().any(Self::is_retryable),
            _ => false,
        }
    }

    /// The blob's size, when it was not fetched because it is larger than the caller allows; of several peers' words the
    /// smallest.
    #[must_use]
    pub fn too_large(&self) -> Option<u64> {
        match self {
            Self::TooLarge { size, .. } => Some(*size),
            Self::Several { failed } => failed.iter().filter_map(Self::too_large).min(),
            _ => None,
        }
    }

    /// What several failures are as one.
    pub(super) fn of_all(mut failed: Vec<Self>) -> Self {
        match failed.len() {
            0 => Self::Nobody,
            1 => failed.remove(0),
            _ => Self::Several { failed },
        }
    }
}

fn each(failed: &[FetchError]) -> String {
    failed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
