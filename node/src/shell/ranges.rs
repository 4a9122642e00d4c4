//! Ranges of content for the owner: from the own disk, or read from a peer without fetching the rest; verified either way.
//!
//! The peers are those of a fetch: who publishes it, and when none of them gives it, whoever members name by its hash. One that
//! fails within a range is not asked again for this content; the next goes on where it stopped.

use std::collections::BTreeSet;
use std::io::SeekFrom;
use std::ops::Range;

use catalog::{Digest, NodeId};
use fabric::blob::READ_MAX;
use fabric::{FetchError, PeerKey};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::fetch::{FetchFailed, Sources};
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
    place: Place,
}

/// Where content is.
#[derive(Debug)]
enum Place {
    Here(tokio::fs::File),
    Peers {
        sources: Sources,
        from: NodeId,
        /// Who did not give it.
        failed: BTreeSet<NodeId>,
    },
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
            return Ok(Ranges { handle, digest, size, place: Place::Here(file) });
        }
        let Response::Located(nodes) = self.command(Command::Locate { digest }).await? else {
            return Err(FetchFailed::Nowhere { digest }.into());
        };
        let sources = self.fetcher.sources(nodes, digest).await;
        let mut failed = BTreeSet::new();
        let (from, size) = self.holder(&sources, &mut failed, digest).await?;
        Ok(Ranges { handle, digest, size, place: Place::Peers { sources, from, failed } })
    }

    /// The first that proves to have content, of those that have not failed yet, and the content's size. Members are asked who
    /// else has it only when nobody who publishes it does.
    async fn holder(
        &self,
        sources: &Sources,
        failed: &mut BTreeSet<NodeId>,
        digest: Digest,
    ) -> Result<(NodeId, u64), FetchFailed> {
        let mut last = FetchFailed::Nowhere { digest };
        for is_known in [true, false] {
            let nodes = if is_known { sources.known() } else { self.fetcher.more(sources).await };
            for node in nodes {
                if failed.contains(node) {
                    continue;
                }
                match self.ways.fabric.size(key(*node), *digest.as_bytes()).await {
                    Ok(size) => return Ok((*node, size)),
                    Err(source) => {
                        failed.insert(*node);
                        last = FetchFailed::Peers { digest, from: vec![*node], source };
                    }
                }
            }
        }
        Err(last)
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
        let (digest, size) = (self.digest, self.size);
        match &mut self.place {
            Place::Here(file) => {
                let read = read_file(file, &wanted).await;
                read.map_err(|source| NotRead::Disk { digest, source })
            }
            Place::Peers { sources, from, failed } => loop {
                let source = match self.handle.read_peer(*from, digest, size, &wanted).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(source) => source,
                };
                tracing::debug!(%digest, peer = %from, error = %source, "another peer is asked for a range");
                failed.insert(*from);
                match self.handle.holder(sources, failed, digest).await {
                    // Whoever proved it has the same content, so the size is the same.
                    Ok((next, _)) => *from = next,
                    Err(_) => {
                        let from = vec![*from];
                        return Err(FetchFailed::Peers { digest, from, source }.into());
                    }
                }
            },
        }
    }
}

impl Handle {
    /// All of a range, from one peer.
    async fn read_peer(
        &self,
        node: NodeId,
        digest: Digest,
        size: u64,
        wanted: &Range<u64>,
    ) -> Result<Vec<u8>, FetchError> {
        let bytes = self.ways.fabric.read(key(node), *digest.as_bytes(), wanted.clone()).await?;
        if bytes.len() as u64 == wanted.end - wanted.start {
            Ok(bytes)
        } else {
            Err(FetchError::Outside { peer: key(node), size, from: wanted.start })
        }
    }
}

async fn read_file(file: &mut tokio::fs::File, wanted: &Range<u64>) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(wanted.start)).await?;
    let mut bytes = vec![0; usize::try_from(wanted.end - wanted.start).unwrap_or(0)];
    file.read_exact(&mut bytes).await?;
    Ok(bytes)
}
