//! Public content of others that this node gives on, when its owner says so (`up --share-public`).
//!
//! Such content is announced by its exact hash ([`Fabric::provide`]), and every admitted peer may fetch it here, under the
//! same bounds as what this node publishes itself. Nothing becomes public by it:
//!
//! - Content is given on only while a live record of another node names it to all, and none that this node sees restricts it.
//!   When the record is withdrawn it is given to nobody any more; the announcement runs out in time.
//! - And only when all of it came here as public content: from nodes of which every one publishes it to all. A digest alone
//!   proves nothing: somebody could publish one whose content this node has in confidence, and would get it here.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use catalog::{Digest, NodeId};
use fabric::{Fabric, PROVIDED_MAX};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::handle::Call;
use crate::blobs::BlobStore;
use crate::engine::command::{Command, Response};
use crate::store::cache::{Cache, Tree};

/// How often the node looks what it can give on, when nothing was fetched.
const ROUND: Duration = Duration::from_secs(60);
/// The least time between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// How long what the catalogue said is taken for true when a peer asks.
const FRESH: Duration = Duration::from_secs(2);
/// How long the engine may take to say it. Then the peer is refused.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Blobs remembered to have come as public content. At the bound no further ones are given on.
const CAME_MAX: usize = 100_000;

/// What is given on. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Sharing(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    calls: mpsc::Sender<Call>,
    next_id: Arc<AtomicU64>,
    cache: Cache,
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Blobs that came from whoever publishes them to all.
    came: BTreeSet<Digest>,
    /// Contents that are given on, and whether each is a directory.
    given: BTreeMap<Digest, bool>,
    /// When the engine last said that they are public.
    checked: Option<Instant>,
}

impl Sharing {
    /// Gives nothing on unless `is_on`. `calls` leads to the engine.
    pub(super) fn new(
        is_on: bool,
        cache: &Cache,
        calls: &mpsc::Sender<Call>,
        next_id: &Arc<AtomicU64>,
    ) -> Self {
        if !is_on {
            return Self(None);
        }
        let rows = cache.scan(Tree::Public, &[]).unwrap_or_else(|error| {
            tracing::warn!(%error, "what came as public content cannot be read: it is given on when it comes again");
            Vec::new()
        });
        let keys = rows.into_iter().filter_map(|(key, _)| <[u8; 32]>::try_from(key).ok());
        let came = keys.map(Digest::from_bytes).take(CAME_MAX).collect();
        let state = Mutex::new(State { came, ..State::default() });
        let (calls, next_id, cache) = (calls.clone(), Arc::clone(next_id), cache.clone());
        Self(Some(Arc::new(Inner { calls, next_id, cache, state, news: Notify::new() })))
    }

    /// Whether all of these nodes publish the content to all.
    pub(super) async fn is_published_by(&self, digest: Digest, nodes: &[NodeId]) -> bool {
        let Some(inner) = &self.0 else { return false };
        let answer = inner.ask(Command::Publishers { digest }).await;
        let Some(Response::Located(publishers)) = answer else { return false };
        !nodes.is_empty() && nodes.iter().all(|node| publishers.contains(node))
    }

    /// A blob came here from nodes that all publish it, or the directory it is in, to all.
    pub(super) fn came(&self, blob: Digest) {
        let Some(inner) = &self.0 else { return };
        let mut state = inner.state();
        if state.came.len() >= CAME_MAX || !state.came.insert(blob) {
            return;
        }
        drop(state);
        if let Err(error) = inner.cache.put(Tree::Public, blob.as_bytes(), &[]) {
            tracing::debug!(%error, "after a restart a blob is not given on");
        }
    }

    /// Something was fetched: there may be more to give on.
    pub(super) fn look_soon(&self) {
        if let Some(inner) = &self.0 {
            inner.news.notify_one();
        }
    }

    /// Whether everybody may have the blob; `files_of` gives the files of a directory that is here.
    pub(super) async fn may_give<F>(&self, blob: Digest, files_of: impl Fn(Digest) -> F) -> bool
    where
        F: Future<Output = Arc<BTreeSet<Digest>>>,
    {
        let Some(inner) = &self.0 else { return false };
        let given = {
            let state = inner.state();
            if !state.came.contains(&blob) {
                return false;
            }
            state.given.clone()
        };
        let mut within: Vec<Digest> = given.keys().filter(|d| **d == blob).copied().collect();
        for (dir, _) in given.iter().filter(|(_, is_dir)| **is_dir) {
            if files_of(*dir).await.contains(&blob) {
                within.push(*dir);
            }
        }
        if within.is_empty() {
            return false;
        }
        inner.check().await;
        let state = inner.state();
        within.iter().any(|content| state.given.contains_key(content))
    }

    /// Looks from time to time what there is to give on, and announces it.
    pub(super) async fn run(
        self,
        fabric: Fabric,
        blobs: BlobStore,
        mut stopping: watch::Receiver<bool>,
    ) {
        let Some(inner) = self.0 else { return };
        let mut told: BTreeSet<Digest> = BTreeSet::new();
        loop {
            if let Some(found) = inner.look(&blobs).await {
                for digest in told.iter().filter(|digest| !found.contains(*digest)) {
                    fabric.stop_providing(*digest.as_bytes()).await;
                }
                for digest in found.iter().filter(|digest| !told.contains(*digest)) {
                    if let Err(error) = fabric.provide(*digest.as_bytes()).await {
                        tracing::debug!(%digest, %error, "public content is not announced");
                    }
                }
                told = found;
            }
            let wait = async {
                tokio::time::sleep(PAUSE).await;
                drop(tokio::time::timeout(ROUND, inner.news.notified()).await);
            };
            tokio::select! {
                () = wait => {}
                _ = stopping.wait_for(|is| *is) => return,
            }
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change under this lock is a single step, so a panic elsewhere leaves it usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, command: Command) -> Option<Response> {
        let (reply, answer) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let asked = async {
            self.calls.send(Call { id, command, reply }).await.ok()?;
            answer.await.ok()?.ok()
        };
        tokio::time::timeout(ANSWER_TIMEOUT, asked).await.ok()?
    }

    /// Takes out of what is given on what is not public any more, unless that was asked just now.
    async fn check(&self) {
        let among: BTreeSet<Digest> = {
            let state = self.state();
            if state.checked.is_some_and(|at| at.elapsed() < FRESH) {
                return;
            }
            state.given.keys().copied().collect()
        };
        let answer = self.ask(Command::PublicContents { among: Some(among.clone()) }).await;
        let public = match answer {
            Some(Response::Contents(public)) => public,
            // Who cannot be sure gives nothing.
            _ => BTreeMap::new(),
        };
        let mut state = self.state();
        state.given.retain(|digest, _| !among.contains(digest) || public.contains_key(digest));
        state.checked = Some(Instant::now());
    }

    /// What can be given on now; nothing when the engine does not say.
    async fn look(&self, blobs: &BlobStore) -> Option<BTreeSet<Digest>> {
        let gone: Vec<Digest> =
            self.state().came.iter().filter(|blob| !blobs.has(blob)).copied().collect();
        for blob in gone {
            self.state().came.remove(&blob);
            if let Err(error) = self.cache.remove(Tree::Public, blob.as_bytes()) {
                tracing::debug!(%error, "a blob that is gone is still noted");
            }
        }
        let asked = Instant::now();
        let answer = self.ask(Command::PublicContents { among: None }).await;
        let Some(Response::Contents(public)) = answer else { return None };
        let mut given = BTreeMap::new();
        for (digest, is_dir) in public {
            if given.len() >= PROVIDED_MAX {
                tracing::debug!("there is more public content here than can be announced");
                break;
            }
            if self.is_whole(blobs, digest, is_dir).await {
                given.insert(digest, is_dir);
            }
        }
        let found = given.keys().copied().collect();
        let mut state = self.state();
        state.given = given;
        state.checked = Some(asked);
        Some(found)
    }

    /// Whether all of a content is here and came as public content.
    async fn is_whole(&self, blobs: &BlobStore, digest: Digest, is_dir: bool) -> bool {
        let is_good = |blob: &Digest| self.state().came.contains(blob) && blobs.has(blob);
        if !is_good(&digest) {
            return false;
        }
        if !is_dir {
            return true;
        }
        match blobs.manifest(digest).await {
            Ok(manifest) => manifest.files.values().all(|file| is_good(&file.digest)),
            Err(_) => false,
        }
    }
}
