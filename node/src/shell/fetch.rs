//! Brings blobs here from a peer: each once, verified, directories with their files.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::{Digest, NodeId};
use fabric::{Fabric, FetchError, PeerKey};
use scheduler::task::{Failure, FailureClass};
use tokio::sync::Semaphore;

use crate::blobs::{BLOB_LEN_MAX, BlobError, BlobStore, MANIFEST_LEN_MAX};
use crate::engine::Blob;

/// Blobs fetched at once by this node.
const FETCHES_MAX: usize = 8;
/// Tries per blob; between two the connection may come back.
const TRIES: u32 = 4;
/// Pause before the second try; it doubles.
const PAUSE: Duration = Duration::from_millis(500);
/// A blob of unknown length is fetched without asking for room first when it is no larger than this; a larger one is found
/// to be so before its first byte, gets its room, and is asked for again.
const SMALL: u64 = 64 << 10;

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

/// What is known of a blob's length before it is fetched.
#[derive(Clone, Copy, Debug)]
enum Length {
    /// The reference to it says so many bytes.
    Said(u64),
    /// At most so many bytes are taken.
    AtMost(u64),
}

impl Length {
    const fn most(self) -> u64 {
        match self {
            Self::Said(most) | Self::AtMost(most) => most,
        }
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
            if blob.is_dir {
                self.fetch_dir(from, blob.digest).await?;
            } else {
                self.fetch(from, blob.digest, Length::Said(blob.size)).await?;
            }
        }
        Ok(())
    }

    /// Makes sure one blob of unknown length is here.
    pub(super) async fn fetch_any(&self, from: NodeId, digest: Digest) -> Result<(), FetchFailed> {
        self.fetch(from, digest, Length::AtMost(BLOB_LEN_MAX)).await
    }

    /// Makes sure a directory's manifest and its files are here.
    pub(super) async fn fetch_dir(&self, from: NodeId, digest: Digest) -> Result<(), FetchFailed> {
        self.fetch(from, digest, Length::AtMost(MANIFEST_LEN_MAX)).await?;
        let store = |source| FetchFailed::Store { digest, source };
        let manifest = self.blobs.manifest(digest).await.map_err(store)?;
        let missing: BTreeMap<Digest, u64> = manifest
            .files
            .values()
            .filter(|file| !self.blobs.has(&file.digest))
            .map(|file| (file.digest, file.size))
            .collect();
        // What cannot fit as a whole is refused before its first file comes.
        let total = missing.values().fold(0, |sum: u64, size| sum.saturating_add(*size));
        self.blobs.make_room(total).await.map_err(store)?;
        for (file, size) in missing {
            self.fetch(from, file, Length::Said(size)).await?;
        }
        Ok(())
    }

    /// Makes sure one blob is here.
    async fn fetch(&self, from: NodeId, digest: Digest, length: Length) -> Result<(), FetchFailed> {
        if self.blobs.has(&digest) {
            return Ok(());
        }
        let turn = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(under_way.entry(digest).or_default())
        };
        let result = {
            let _turn = turn.lock().await;
            self.fetch_in_turn(from, digest, length).await
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
        length: Length,
    ) -> Result<(), FetchFailed> {
        let store = |source| FetchFailed::Store { digest, source };
        if self.blobs.has(&digest) {
            return Ok(());
        }
        // Nothing is fetched that has no room.
        let mut room = match length {
            Length::Said(size) => Some(self.blobs.reserve(size).await.map_err(store)?),
            Length::AtMost(_) => None,
        };
        let temp = self.blobs.temp_path(&digest);
        let peer = PeerKey::from_bytes(*from.as_bytes());
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            let limit = match length {
                Length::AtMost(most) if room.is_none() => most.min(SMALL),
                Length::Said(most) | Length::AtMost(most) => most,
            };
            let place = self.places.acquire().await;
            let fetched =
                self.fabric.fetch(&[peer], *digest.as_bytes(), &temp, limit, |_, _| {}).await;
            drop(place);
            match fetched {
                Ok(fetched) => {
                    self.blobs.adopt(digest, fetched, room).await.map_err(store)?;
                    return Ok(());
                }
                // Now the length is known, and nothing has come yet.
                Err(FetchError::TooLarge { size, .. })
                    if room.is_none() && size <= length.most() =>
                {
                    room = Some(self.blobs.reserve(size).await.map_err(store)?);
                }
                Err(source) if attempt < TRIES && source.is_retryable() => {
                    tracing::debug!(%digest, %from, error = %source, "fetching again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    attempt += 1;
                }
                Err(source) => {
                    return Err(FetchFailed::Peer { digest, from, source });
                }
            }
        }
    }
}
