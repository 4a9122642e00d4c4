//! Brings blobs here from peers: each once, verified, directories with their files, some at a time.
//!
//! Who has content says the catalogue. Where nobody of those gives it, members are asked who else has it by its exact hash;
//! whatever they say, what comes is verified.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::{Digest, NodeId};
use fabric::{Fabric, FetchError, PeerKey};
use futures::{StreamExt, TryStreamExt};
use scheduler::task::{Failure, FailureClass};
use scheduler::value::Manifest;
use tokio::sync::{OnceCell, Semaphore, mpsc};

use super::share::Sharing;
use super::transfers::{Transfer, Transfers};
use crate::blobs::{BLOB_LEN_MAX, BlobError, BlobStore, MANIFEST_LEN_MAX};
use crate::engine::{Blob, Input};

/// Blobs fetched at once by this node.
const FETCHES_MAX: usize = 8;
/// Files of one directory fetched at once; further ones wait.
const FILES_MAX: usize = 4;
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
    /// No peer gave it.
    #[error("cannot fetch {digest} from {}", list(from))]
    Peers {
        /// The blob.
        digest: Digest,
        /// The peers.
        from: Vec<NodeId>,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// It is larger than was said.
    #[error("{digest} has {size} bytes, and {said} were said")]
    Larger {
        /// The directory.
        digest: Digest,
        /// Bytes of its files.
        size: u64,
        /// As its owner said.
        said: u64,
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

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
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

/// Members that are taken from a search for who has content.
const FOUND_MAX: usize = 8;
/// How long a fetch waits until one of them is connected.
const FOUND_WAIT: Duration = Duration::from_secs(3);
/// How often it looks whether one is.
const FOUND_LOOK: Duration = Duration::from_millis(100);

/// Who is asked for content and all that is in it.
#[derive(Debug)]
pub(super) struct Sources {
    nodes: Vec<NodeId>,
    /// What is searched for when none of them gives it.
    content: Digest,
    /// Whether all of them publish it to all.
    is_public: bool,
    /// Who else says to have it, once that was asked.
    found: OnceCell<Vec<NodeId>>,
}

impl Sources {
    fn new(nodes: Vec<NodeId>, content: Digest) -> Self {
        Self { nodes, content, is_public: false, found: OnceCell::new() }
    }

    /// Who was known to have it.
    pub(super) fn known(&self) -> &[NodeId] {
        &self.nodes
    }

    fn all(&self) -> Vec<NodeId> {
        self.nodes.iter().chain(self.found.get().into_iter().flatten()).copied().collect()
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
    transfers: Transfers,
    inputs: mpsc::Sender<Input>,
    sharing: Sharing,
    /// One fetch per blob at a time; a second one finds it there.
    under_way: Arc<Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>>,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").finish_non_exhaustive()
    }
}

impl Fetcher {
    /// `inputs` leads to the engine.
    pub(super) fn new(
        (fabric, inputs): (Fabric, mpsc::Sender<Input>),
        blobs: BlobStore,
        transfers: Transfers,
        sharing: Sharing,
    ) -> Self {
        Self {
            fabric,
            inputs,
            sharing,
            blobs,
            transfers,
            places: Arc::new(Semaphore::new(FETCHES_MAX)),
            under_way: Arc::default(),
        }
    }

    /// Who is asked for a content that these nodes are said to have.
    pub(super) async fn sources(&self, nodes: Vec<NodeId>, content: Digest) -> Sources {
        let is_public = self.sharing.is_published_by(content, &nodes).await;
        Sources { is_public, ..Sources::new(nodes, content) }
    }

    /// Whether nobody has it: neither those that are known nor anybody whom members know.
    pub(super) async fn is_nowhere(&self, sources: &Sources) -> bool {
        sources.nodes.is_empty() && self.more(sources).await.is_empty()
    }

    /// Who else has it, as members say. Asked once, and only when it is needed.
    pub(super) async fn more<'a>(&self, sources: &'a Sources) -> &'a [NodeId] {
        sources.found.get_or_init(|| self.search(sources)).await
    }

    async fn search(&self, sources: &Sources) -> Vec<NodeId> {
        let key = *sources.content.as_bytes();
        let found = self.fabric.providers(key, FOUND_MAX + sources.nodes.len()).await;
        let found = found.unwrap_or_else(|error| {
            tracing::debug!(%error, "nobody else is asked who has a content");
            Vec::new()
        });
        let found = found.into_iter().map(|peer| NodeId::from_bytes(*peer.as_bytes()));
        let mut found: Vec<NodeId> = found.filter(|node| !sources.nodes.contains(node)).collect();
        found.truncate(FOUND_MAX);
        tracing::debug!(content = %sources.content, n = found.len(), "members say who else has a content");
        for peer in found.iter().copied() {
            // Only a member whose address is known is dialled. The engine gone means the node is stopping.
            drop(self.inputs.send(Input::Wanted { peer }).await);
        }
        if !found.is_empty() {
            drop(tokio::time::timeout(FOUND_WAIT, self.any_connected(&found)).await);
        }
        found
    }

    /// Returns when one of them is connected.
    async fn any_connected(&self, nodes: &[NodeId]) {
        let is_one = |peer: &PeerKey| nodes.iter().any(|n| n.as_bytes() == peer.as_bytes());
        while !self.fabric.peers().await.iter().any(|info| info.admitted && is_one(&info.peer)) {
            tokio::time::sleep(FOUND_LOOK).await;
        }
    }

    /// What is being fetched, and was lately.
    pub(super) fn transfers(&self) -> Vec<Transfer> {
        self.transfers.now()
    }

    /// Makes sure every blob is here, from `from` and whoever else has it.
    pub(super) async fn fetch_all(
        &self,
        from: NodeId,
        others: &BTreeMap<Digest, Vec<NodeId>>,
        blobs: &[Blob],
    ) -> Result<(), FetchFailed> {
        for blob in blobs {
            let others = others.get(&blob.digest).into_iter().flatten();
            let nodes = std::iter::once(&from).chain(others).copied().collect();
            let sources = Sources::new(nodes, blob.digest);
            if blob.is_dir {
                self.fetch_dir(&sources, blob.digest).await?;
            } else {
                self.fetch(&sources, blob.digest, Length::Said(blob.size)).await?;
            }
        }
        Ok(())
    }

    /// Makes sure what is kept for another node is here, and refuses what is larger than that one said.
    pub(super) async fn fetch_copy(
        &self,
        from: NodeId,
        others: &BTreeMap<Digest, Vec<NodeId>>,
        blobs: &[Blob],
    ) -> Result<(), FetchFailed> {
        for blob in blobs.iter().filter(|blob| blob.is_dir) {
            let others = others.get(&blob.digest).into_iter().flatten();
            let nodes = std::iter::once(&from).chain(others).copied().collect();
            let sources = Sources::new(nodes, blob.digest);
            let manifest = self.fetch_manifest(&sources, blob.digest).await?;
            let files = manifest.files.values();
            let size = files.fold(0, |sum: u64, file| sum.saturating_add(file.size));
            if size > blob.size {
                let (digest, said) = (blob.digest, blob.size);
                return Err(FetchFailed::Larger { digest, size, said });
            }
        }
        self.fetch_all(from, others, blobs).await
    }

    /// Makes sure one blob of unknown length is here.
    pub(super) async fn fetch_any(
        &self,
        sources: &Sources,
        digest: Digest,
    ) -> Result<(), FetchFailed> {
        let fetched = self.fetch(sources, digest, Length::AtMost(BLOB_LEN_MAX)).await;
        self.sharing.look_soon();
        fetched
    }

    /// Makes sure a directory's manifest is here, and gives it.
    pub(super) async fn fetch_manifest(
        &self,
        sources: &Sources,
        digest: Digest,
    ) -> Result<Manifest, FetchFailed> {
        self.fetch(sources, digest, Length::AtMost(MANIFEST_LEN_MAX)).await?;
        let store = |source| FetchFailed::Store { digest, source };
        self.blobs.manifest(digest).await.map_err(store)
    }

    /// Makes sure a directory's manifest and its files are here. Whoever has the one is asked for the others.
    pub(super) async fn fetch_dir(
        &self,
        sources: &Sources,
        digest: Digest,
    ) -> Result<(), FetchFailed> {
        let manifest = self.fetch_manifest(sources, digest).await?;
        let store = |source| FetchFailed::Store { digest, source };
        let missing: BTreeMap<Digest, u64> = manifest
            .files
            .values()
            .filter(|file| !self.blobs.has(&file.digest))
            .map(|file| (file.digest, file.size))
            .collect();
        // What cannot fit as a whole is refused before its first file comes.
        let total = missing.values().fold(0, |sum: u64, size| sum.saturating_add(*size));
        self.blobs.make_room(total).await.map_err(store)?;
        futures::stream::iter(missing)
            .map(|(file, size)| self.fetch(sources, file, Length::Said(size)))
            .buffer_unordered(FILES_MAX)
            .try_collect::<()>()
            .await?;
        self.sharing.look_soon();
        Ok(())
    }

    /// Makes sure one blob is here.
    async fn fetch(
        &self,
        sources: &Sources,
        digest: Digest,
        length: Length,
    ) -> Result<(), FetchFailed> {
        if self.blobs.has(&digest) {
            return Ok(());
        }
        let turn = Turn::new(self, digest);
        let _turn = turn.lock.lock().await;
        self.fetch_in_turn(sources, digest, length).await
    }

    /// The length of a blob, as the first peer proves that has it. Asking for it is better than beginning a fetch and breaking it
    /// off: what is on its way then would hold one of the peer's places until it is given up.
    async fn size_at(&self, peers: &[PeerKey], digest: Digest) -> Option<u64> {
        for peer in peers {
            if let Ok(size) = self.fabric.size(*peer, *digest.as_bytes()).await {
                return Some(size);
            }
        }
        None
    }

    async fn fetch_in_turn(
        &self,
        sources: &Sources,
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
        let mut peers = keys(&sources.all());
        let underway = self.transfers.begin(digest, &sources.nodes);
        underway.found(sources.found.get().map_or(&[][..], Vec::as_slice));
        if let Length::AtMost(most) = length
            && let Some(size) = self.size_at(&peers, digest).await.filter(|size| *size <= most)
        {
            room = Some(self.blobs.reserve(size).await.map_err(store)?);
        }
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            let limit = match length {
                Length::AtMost(most) if room.is_none() => most.min(SMALL),
                Length::Said(most) | Length::AtMost(most) => most,
            };
            let place = self.places.acquire().await;
            let on_progress = |bytes, total| underway.progress(bytes, total);
            let fetched =
                self.fabric.fetch(&peers, *digest.as_bytes(), &temp, limit, on_progress).await;
            drop(place);
            let source = match fetched {
                Ok(fetched) => {
                    self.blobs.adopt(digest, fetched, room).await.map_err(store)?;
                    // What others said they had may have come in confidence.
                    if sources.is_public && sources.found.get().is_none() {
                        self.sharing.came(digest);
                    }
                    underway.done();
                    return Ok(());
                }
                Err(source) => source,
            };
            match source.too_large().filter(|size| room.is_none() && *size <= length.most()) {
                // Now the length is known, and nothing has come yet.
                Some(size) => room = Some(self.blobs.reserve(size).await.map_err(store)?),
                None if sources.found.get().is_none() => {
                    tracing::debug!(%digest, error = %source, "asking who else has it");
                    let more = self.more(sources).await;
                    underway.found(more);
                    peers.extend(keys(more));
                }
                None if attempt < TRIES && source.is_retryable() => {
                    tracing::debug!(%digest, error = %source, "fetching again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    attempt += 1;
                }
                None => {
                    return Err(FetchFailed::Peers { digest, from: sources.all(), source });
                }
            }
        }
    }
}

fn keys(nodes: &[NodeId]) -> Vec<PeerKey> {
    nodes.iter().map(|node| PeerKey::from_bytes(*node.as_bytes())).collect()
}

/// The turn of one caller to fetch a blob; forgotten with the last of them, also when that is dropped.
struct Turn<'a> {
    fetcher: &'a Fetcher,
    digest: Digest,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl<'a> Turn<'a> {
    fn new(fetcher: &'a Fetcher, digest: Digest) -> Self {
        let mut under_way = fetcher.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = Arc::clone(under_way.entry(digest).or_default());
        Self { fetcher, digest, lock }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut under_way = self.fetcher.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        // The map and this caller hold it: nobody else waits.
        if Arc::strong_count(&self.lock) <= 2 {
            under_way.remove(&self.digest);
        }
    }
}
