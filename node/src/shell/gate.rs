//! Decides which peer may fetch which blob: what an attempt's agreement names, what this node has published, and what it
//! gives on of what others have published to all.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use catalog::{Digest, NodeId};
use fabric::{BlobDenied, BlobFile, BlobSource, PeerKey};
use scheduler::task::AttemptId;

use super::share::Sharing;
use crate::blobs::{BlobError, BlobStore};

/// Files remembered of directories, each of which counts as one more; at the bound all are forgotten and read again as they
/// are asked for.
const FILES_MAX: usize = 200_000;

#[derive(Debug, Default)]
struct Grants {
    by_attempt: BTreeMap<(NodeId, AttemptId), Vec<Digest>>,
    open: BTreeSet<Digest>,
    open_to: BTreeMap<Digest, BTreeSet<NodeId>>,
    /// Peers that get by agreement what they get. No more than there are peers.
    barred: BTreeSet<NodeId>,
    /// Files by manifest. A digest never names another manifest, so this cannot become wrong.
    dirs: BTreeMap<Digest, Arc<BTreeSet<Digest>>>,
}

/// The gate in front of the blob store. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    blobs: BlobStore,
    grants: Arc<Mutex<Grants>>,
    sharing: Sharing,
}

impl Gate {
    pub(super) fn new(blobs: BlobStore, sharing: Sharing) -> Self {
        Self { blobs, grants: Arc::default(), sharing }
    }

    pub(super) fn grant(&self, peer: NodeId, attempt: AttemptId, blobs: Vec<Digest>) {
        self.with(|g| g.by_attempt.insert((peer, attempt), blobs));
    }

    pub(super) fn revoke(&self, peer: NodeId, attempt: AttemptId) {
        self.with(|g| g.by_attempt.remove(&(peer, attempt)));
    }

    pub(super) fn open_to_all(&self, digest: Digest) {
        self.with(|g| {
            g.open_to.remove(&digest);
            g.open.insert(digest)
        });
    }

    pub(super) fn open_to(&self, digest: Digest, peers: BTreeSet<NodeId>) {
        self.with(|g| {
            g.open.remove(&digest);
            g.open_to.insert(digest, peers)
        });
    }

    pub(super) fn close_to_all(&self, digest: &Digest) {
        self.with(|g| {
            g.open_to.remove(digest);
            g.open.remove(digest)
        });
    }

    pub(super) fn bar(&self, peer: NodeId, is_barred: bool) {
        self.with(|g| if is_barred { g.barred.insert(peer) } else { g.barred.remove(&peer) });
    }

    fn with<T>(&self, change: impl FnOnce(&mut Grants) -> T) -> T {
        change(&mut self.grants.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Blobs the peer may have by name; directories among them also give their files.
    fn granted(&self, peer: NodeId) -> Vec<Digest> {
        self.with(|g| {
            let first = AttemptId {
                run: scheduler::task::RunId::from_bytes([0; 16]),
                task: scheduler::task::TaskId { step: 0, index: 0 },
                number: 0,
            };
            let is_free = !g.barred.contains(&peer);
            let some = g.open_to.iter().filter(|(_, to)| to.contains(&peer)).map(|(d, _)| *d);
            let published = g.open.iter().copied().chain(some).filter(|_| is_free);
            g.by_attempt
                .range((peer, first)..)
                .take_while(|((node, _), _)| *node == peer)
                .flat_map(|(_, blobs)| blobs.iter().copied())
                .chain(published)
                .collect()
        })
    }

    async fn allows(&self, peer: NodeId, digest: Digest) -> bool {
        let granted = self.granted(peer);
        if granted.contains(&digest) {
            return true;
        }
        for candidate in granted {
            if self.files_of(candidate).await.contains(&digest) {
                return true;
            }
        }
        let is_barred = self.with(|g| g.barred.contains(&peer));
        !is_barred && self.sharing.may_give(digest, |dir| self.files_of(dir)).await
    }

    /// The files of a directory, if it is one: all of them are asked for one after another.
    async fn files_of(&self, dir: Digest) -> Arc<BTreeSet<Digest>> {
        if let Some(files) = self.with(|g| g.dirs.get(&dir).cloned()) {
            return files;
        }
        let files = match self.blobs.manifest(dir).await {
            Ok(manifest) => manifest.files.values().map(|file| file.digest).collect(),
            // Most grants name files; that is worth remembering as well.
            Err(BlobError::Manifest { .. } | BlobError::TooLong { .. }) => BTreeSet::new(),
            Err(_) => return Arc::default(),
        };
        let files = Arc::new(files);
        self.with(|g| {
            let n_files: usize = g.dirs.values().map(|files| 1 + files.len()).sum();
            if n_files + files.len() >= FILES_MAX {
                g.dirs.clear();
            }
            g.dirs.insert(dir, Arc::clone(&files));
        });
        files
    }
}

impl BlobSource for Gate {
    fn open(
        &self,
        peer: PeerKey,
        hash: [u8; 32],
    ) -> Pin<Box<dyn Future<Output = Result<BlobFile, BlobDenied>> + Send>> {
        let gate = self.clone();
        Box::pin(async move {
            let digest = Digest::from_bytes(hash);
            // A stranger learns nothing about what is here.
            if !gate.allows(NodeId::from_bytes(*peer.as_bytes()), digest).await {
                return Err(BlobDenied::Denied);
            }
            let size = gate.blobs.size(&digest).ok_or(BlobDenied::NotFound)?;
            let data = gate.blobs.verified_path(digest).await.map_err(|_| BlobDenied::NotFound)?;
            let outboard = gate.blobs.outboard(digest).await.map_err(|_| BlobDenied::NotFound)?;
            Ok(BlobFile { data, outboard, size })
        })
    }
}
