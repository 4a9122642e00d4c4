//! Brings blobs here from a peer: each once, verified, directories with their files.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::{Digest, NodeId};
use fabric::{Fabric, FetchError, PeerKey};
use scheduler::task::{Failure, FailureClass};
use tokio::sync::Semaphore;

use crate::blobs::{BlobError, BlobStore};
use crate::engine::Blob;

/// Blobs fetched at once by this node.
const FETCHES_MAX: usize = 8;
/// Tries per blob; between two the connection may come back.
const TRIES: u32 = 4;
/// Pause before the second try; it doubles.
const PAUSE: Duration = Duration::from_millis(500);
/// Largest manifest read.
const MANIFEST_MAX: u64 = 64 << 20;

/// Why a blob is not here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchFailed {
    /// Nobody in the realm publishes it.
    #[error("nobody in the realm publishes {digest}")]
    Nowhere {
        /// The blob.
        digest: Digest,
    },
    /// The peer did not give it.
    #[error("cannot fetch {digest} from {from}")]
    Peer {
        /// The blob.
        digest: Digest,
        /// The peer.
        from: NodeId,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// It cannot be kept here.
    #[error("cannot keep {digest}")]
    Store {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: BlobError,
    },
}

impl FetchFailed {
    /// As the failure of an attempt: the provider's fault, whichever side it was on.
    pub(super) fn as_failure(&self) -> Failure {
        let mut detail = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            detail = format!("{detail}: {error}");
            cause = error.source();
        }
        detail.truncate(
            detail
                .char_indices()
                .take_while(|(i, _)| *i < 500)
                .last()
                .map_or(0, |(i, c)| i + c.len_utf8()),
        );
        Failure { class: FailureClass::Infra, exit_code: None, detail }
    }
}

/// Fetches blobs. Clones share the limits.
#[derive(Clone)]
pub(super) struct Fetcher {
    fabric: Fabric,
    blobs: BlobStore,
    places: Arc<Semaphore>,
    /// One fetch per blob at a time; a second one finds it there.
    under_way: Arc<Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>>,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").finish_non_exhaustive()
    }
}

impl Fetcher {
    pub(super) fn new(fabric: Fabric, blobs: BlobStore) -> Self {
        Self {
            fabric,
            blobs,
            places: Arc::new(Semaphore::new(FETCHES_MAX)),
            under_way: Arc::default(),
        }
    }

    /// Makes sure every blob is here.
    pub(super) async fn fetch_all(&self, from: NodeId, blobs: &[Blob]) -> Result<(), FetchFailed> {
        for blob in blobs {
            let limit = if blob.is_dir { MANIFEST_MAX } else { blob.size };
            self.fetch(from, blob.digest, limit).await?;
            if blob.is_dir {
                let store = |source| FetchFailed::Store { digest: blob.digest, source };
                let manifest = self.blobs.manifest(blob.digest).await.map_err(store)?;
                for file in manifest.files.values() {
                    self.fetch(from, file.digest, file.size).await?;
                }
            }
        }
        Ok(())
    }

    /// Makes sure one blob of at most `limit` bytes is here.
    pub(super) async fn fetch(
        &self,
        from: NodeId,
        digest: Digest,
        limit: u64,
    ) -> Result<(), FetchFailed> {
        if self.blobs.has(&digest) {
            return Ok(());
        }
        let turn = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(under_way.entry(digest).or_default())
        };
        let result = {
            let _turn = turn.lock().await;
            self.fetch_in_turn(from, digest, limit).await
        };
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        // The map and this call hold it: nobody else waits.
        if Arc::strong_count(&turn) <= 2 {
            under_way.remove(&digest);
        }
        result
    }

    async fn fetch_in_turn(
        &self,
        from: NodeId,
        digest: Digest,
        limit: u64,
    ) -> Result<(), FetchFailed> {
        let store = |source| FetchFailed::Store { digest, source };
        let mut pause = PAUSE;
        for attempt in 1.. {
            if self.blobs.has(&digest) {
                return Ok(());
            }
            let _place = self.places.acquire().await;
            let temp = self.blobs.temp_path(&digest);
            let peer = PeerKey::from_bytes(*from.as_bytes());
            match self.fabric.fetch(peer, *digest.as_bytes(), &temp, limit, |_, _| {}).await {
                Ok(fetched) => {
                    self.blobs.adopt(digest, fetched.size).await.map_err(store)?;
                    return Ok(());
                }
                Err(source) if attempt < TRIES && source.is_retryable() => {
                    tracing::debug!(%digest, %from, error = %source, "fetching again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(source) => {
                    return Err(FetchFailed::Peer { digest, from, source });
                }
            }
        }
        Ok(())
    }
}
