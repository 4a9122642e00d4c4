//! Ranges of content for the owner: from the own disk, or read from a peer without fetching the rest; verified either way.

use std::io::SeekFrom;
use std::ops::Range;

use catalog::{Digest, NodeId};
use fabric::blob::READ_MAX;
use fabric::{FetchError, PeerKey};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::fetch::FetchFailed;
use super::handle::{CallError, Handle};
use super::transfers::{Transfer, TransferState};
use crate::blobs::BlobError;
use crate::engine::command::{Command, Response};

/// Why a range is not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotRead {
    /// The node gave no answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Nobody gives it.
    #[error(transparent)]
    Fetch(#[from] FetchFailed),
    /// It cannot be read here.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// It cannot be read from disk.
    #[error("{digest} cannot be read from disk")]
    Disk {
        /// The content.
        digest: Digest,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Where ranges of one content come from.
#[derive(Debug)]
pub struct Ranges {
    handle: Handle,
    digest: Digest,
    /// Bytes of the whole, as they were verified.
    size: u64,
    /// Who has it, when it is not here.
    from: Option<NodeId>,
    /// The file, when it is here.
    file: Option<tokio::fs::File>,
}

impl Handle {
    /// Finds content for reading ranges of it: here, or at the first peer that proves to have its end.
    ///
    /// # Errors
    /// See [`NotRead`].
    pub async fn ranges(&self, digest: Digest) -> Result<Ranges, NotRead> {
        let handle = self.clone();
        if let Some(size) = self.blobs.size(&digest) {
            let path = self.blobs.verified_path(digest).await?;
            let opened = tokio::fs::File::open(&path).await;
            let file = opened.map_err(|source| NotRead::Disk { digest, source })?;
            return Ok(Ranges { handle, digest, size, from: None, file: Some(file) });
        }
        let Response::Located(nodes) = self.command(Command::Locate { digest }).await? else {
            return Err(FetchFailed::Nowhere { digest }.into());
        };
        let mut last = FetchFailed::Nowhere { digest };
        for node in nodes {
            match self.ways.fabric.size(key(node), *digest.as_bytes()).await {
                Ok(size) => {
                    return Ok(Ranges { handle, digest, size, from: Some(node), file: None });
                }
                Err(source) => last = FetchFailed::Peers { digest, from: vec![node], source },
            }
        }
        Err(last.into())
    }

    /// What this node fetches, has just fetched and serves.
    #[must_use]
    pub fn transfers(&self) -> Vec<Transfer> {
        let serving = self.ways.fabric.serving().into_iter().map(|one| Transfer {
            digest: Digest::from_bytes(one.hash),
            state: TransferState::Serving,
            peers: vec![NodeId::from_bytes(*one.peer.as_bytes())],
            found: Vec::new(),
            bytes: one.sent,
            total: Some(one.to - one.from),
            fetched: 0,
            began_ms: None,
            ended_ms: None,
        });
        serving.chain(self.fetcher.transfers()).collect()
    }
}

fn key(node: NodeId) -> PeerKey {
    PeerKey::from_bytes(*node.as_bytes())
}

impl Ranges {
    /// Bytes of the whole.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes of a range, at most [`READ_MAX`]; they are gone from the range. Nothing when it is empty.
    ///
    /// # Errors
    /// See [`NotRead`].
    pub async fn next(&mut self, range: &mut Range<u64>) -> Result<Vec<u8>, NotRead> {
        let end = range.end.min(self.size).min(range.start.saturating_add(READ_MAX));
        let wanted = range.start..end.max(range.start);
        range.start = wanted.end;
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let digest = self.digest;
        if let Some(node) = self.from {
            let read = self.handle.ways.fabric.read(key(node), *digest.as_bytes(), wanted.clone());
            let read = read.await.and_then(|bytes| {
                let is_whole = bytes.len() as u64 == wanted.end - wanted.start;
                let size = self.size;
                let outside = FetchError::Outside { peer: key(node), size, from: wanted.start };
                if is_whole { Ok(bytes) } else { Err(outside) }
            });
            let from = vec![node];
            return read.map_err(|source| FetchFailed::Peers { digest, from, source }.into());
        }
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        let reading = async {
            file.seek(SeekFrom::Start(wanted.start)).await?;
            let mut bytes = vec![0; usize::try_from(wanted.end - wanted.start).unwrap_or(0)];
            file.read_exact(&mut bytes).await.map(|_| bytes)
        };
        reading.await.map_err(|source| NotRead::Disk { digest, source })
    }
}
