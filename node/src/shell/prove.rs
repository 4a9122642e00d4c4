//! Looks whether a peer still has a copy: reads a random range of it there, which the network verifies against the digest.

use std::ops::Range;
use std::sync::Arc;

use catalog::{Digest, NodeId};
use fabric::{Fabric, FetchError, PeerKey};
use scheduler::copies::Proof;
use tokio::sync::{Semaphore, mpsc};

use crate::blobs::BlobStore;
use crate::engine::{Blob, Input};

/// Proofs at once; further ones wait.
const PROOFS_MAX: usize = 8;

/// Proves copies. Clones share the limit.
#[derive(Clone, Debug)]
pub(super) struct Prover {
    fabric: Fabric,
    blobs: BlobStore,
    inputs: mpsc::Sender<Input>,
    places: Arc<Semaphore>,
}

impl Prover {
    pub(super) fn new(fabric: Fabric, blobs: BlobStore, inputs: mpsc::Sender<Input>) -> Self {
        Self { fabric, blobs, inputs, places: Arc::new(Semaphore::new(PROOFS_MAX)) }
    }

    /// Begins a look; the engine is told what came of it.
    pub(super) fn begin(&self, at: NodeId, blob: Blob, seed: u64) {
        let prover = self.clone();
        tokio::spawn(async move {
            let _place = prover.places.acquire().await;
            let proof = prover.prove(at, blob, seed).await;
            let digest = blob.digest;
            // The engine gone means the node is stopping.
            drop(prover.inputs.send(Input::Proven { at, digest, proof }).await);
        });
    }

    async fn prove(&self, at: NodeId, blob: Blob, seed: u64) -> Proof {
        let (file, size) = self.choose(blob, seed).await;
        let peer = PeerKey::from_bytes(*at.as_bytes());
        let range = range_of(size, seed);
        let is_empty = range.start >= size;
        match self.fabric.read(peer, *file.as_bytes(), range).await {
            Ok(bytes) if !bytes.is_empty() || is_empty => Proof::Good,
            Ok(_) => Proof::Bad,
            Err(error) => {
                tracing::debug!(keeper = %at, %file, %error, "a copy was not proven");
                proof_of(&error)
            }
        }
    }

    /// A file of the content: of a directory that is known here one by chance, or its manifest.
    async fn choose(&self, blob: Blob, seed: u64) -> (Digest, u64) {
        if !blob.is_dir {
            return (blob.digest, blob.size);
        }
        let Ok(manifest) = self.blobs.manifest(blob.digest).await else {
            return (blob.digest, 1);
        };
        let n = manifest.files.len() as u64 + 1;
        let at = usize::try_from((seed >> 32) % n).unwrap_or(0);
        let file = manifest.files.values().nth(at);
        file.map_or((blob.digest, 1), |file| (file.digest, file.size))
    }
}

/// One byte of the content by chance, with which its group of 16 KiB comes.
fn range_of(size: u64, seed: u64) -> Range<u64> {
    let at = seed % size.max(1);
    at..at + 1
}

fn proof_of(error: &FetchError) -> Proof {
    match error {
        FetchError::NotFound { .. } | FetchError::Denied { .. } | FetchError::Outside { .. } => {
            Proof::Bad
        }
        error if error.is_peer_fault() => Proof::Bad,
        _ => Proof::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_of_the_content_and_a_keeper_that_is_away_proves_nothing() {
        for (size, seed) in [(0, 0), (0, 9), (1, 7), (100, u64::MAX), (u64::MAX, u64::MAX - 1)] {
            let range = range_of(size, seed);
            assert!(range.start < size.max(1) && range.end == range.start + 1, "{size} {seed}");
        }
        let peer = PeerKey::from_bytes([1; 32]);
        assert_eq!(proof_of(&FetchError::NotConnected { peer }), Proof::None);
        assert_eq!(proof_of(&FetchError::Busy), Proof::None);
        assert_eq!(proof_of(&FetchError::Denied { peer }), Proof::Bad);
        assert_eq!(proof_of(&FetchError::Corrupt { peer, at: 0 }), Proof::Bad);
    }
}
