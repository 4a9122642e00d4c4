//! The node's front door for its owner: the API and nothing else comes in here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use catalog::Digest;
use scheduler::negotiate::Stream;
use scheduler::run::Event;
use scheduler::task::{AttemptId, RunId};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};

use super::connect::Ways;
use super::counts::Counts;
use super::fetch::{FetchFailed, Fetcher};
use super::logs::{self, Kept, newest_replica};
use super::policies::Desk;
use crate::blobs::BlobStore;
use crate::engine::command::{Command, CommandError, Response};
use crate::engine::run_event_key;
use crate::runtime::vm::Converter;
use crate::store::batch::Table;
use crate::store::truth::Truth;

/// How long a command may take. Joining waits for the other side; everything else answers at once.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The node answered no.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The node cannot write its store, so it promises nothing.
    #[error("the node cannot write its store: {detail}; it goes on by itself once that is mended")]
    Storage {
        /// Why.
        detail: String,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
    /// No answer in time.
    #[error("the node did not answer within {} s", COMMAND_TIMEOUT.as_secs())]
    Timeout,
}

/// News of this node's runs.
#[derive(Clone, Debug)]
pub enum Progress {
    /// A run's log grew; the event is durable.
    Event {
        /// The run.
        run: RunId,
        /// Position in its log.
        seq: u64,
        /// What happened.
        event: Arc<Event>,
    },
    /// A task wrote something.
    Log {
        /// The attempt.
        attempt: AttemptId,
        /// Which stream.
        stream: Stream,
        /// Position of the first byte.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
}

/// A command on its way, with the place for its answer.
#[derive(Debug)]
pub(super) struct Call {
    pub id: u64,
    pub command: Command,
    pub reply: oneshot::Sender<Result<Response, CommandError>>,
}

/// A cheap handle on the running node. Clones share it.
#[derive(Clone)]
pub struct Handle {
    pub(super) calls: mpsc::Sender<Call>,
    pub(super) next_id: Arc<AtomicU64>,
    pub(super) blobs: BlobStore,
    pub(super) fetcher: Fetcher,
    pub(super) progress: broadcast::Sender<Progress>,
    pub(super) truth: Arc<Truth>,
    pub(super) logs: Arc<std::path::Path>,
    pub(super) trouble: watch::Receiver<Option<String>>,
    pub(super) ways: Ways,
    pub(super) converter: Arc<Converter>,
    /// Places for images that are fetched from peers.
    pub(super) pulls: Arc<Semaphore>,
    pub(super) desk: Desk,
    pub(super) counts: Arc<Counts>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// Asks the node something or tells it to do something. What was answered is durable.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn command(&self, command: Command) -> Result<Response, CallError> {
        let (reply, answer) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let asked = async {
            self.calls.send(Call { id, command, reply }).await.map_err(|_| CallError::Stopped)?;
            answer.await.map_err(|_| CallError::Stopped)?.map_err(CallError::Command)
        };
        let mut trouble = self.trouble.clone();
        tokio::select! {
            result = tokio::time::timeout(COMMAND_TIMEOUT, asked) => result.unwrap_or(Err(CallError::Timeout)),
            Ok(detail) = trouble.wait_for(Option::is_some) => {
                Err(CallError::Storage { detail: detail.clone().unwrap_or_default() })
            }
        }
    }

    /// Why the store cannot be written now, when it cannot.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// What the shell has counted since the start.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Payload that all peers together have moved since the start; nothing when the node is stopping.
    pub async fn payload(&self) -> Option<fabric::Payload> {
        self.ways.fabric.payload().await
    }

    /// The node's blobs.
    #[must_use]
    pub const fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// Makes sure a blob is here, and the files of a directory, from whoever publishes it.
    ///
    /// # Errors
    /// See [`FetchFailed`].
    pub async fn fetch(&self, digest: Digest, is_dir: bool) -> Result<(), FetchFailed> {
        if self.blobs.has(&digest) && !is_dir {
            return Ok(());
        }
        let located = self.command(Command::Locate { digest }).await;
        let Ok(Response::Located(nodes)) = located else {
            return Err(FetchFailed::Nowhere { digest });
        };
        if nodes.is_empty() && self.blobs.has(&digest) {
            return Ok(());
        }
        let sources = self.fetcher.sources(nodes, digest).await;
        if self.fetcher.is_nowhere(&sources).await {
            return Err(FetchFailed::Nowhere { digest });
        }
        match is_dir {
            true => self.fetcher.fetch_dir(&sources, digest).await,
            false => self.fetcher.fetch_any(&sources, digest).await,
        }
    }

    /// News from now on. A receiver that is too slow misses some and is told so.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// A run's stored events from a position on.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn run_events(
        &self,
        run: RunId,
        from_seq: u64,
    ) -> Result<Vec<(u64, Event)>, CallError> {
        let truth = Arc::clone(&self.truth);
        let storage = |detail: String| CallError::Storage { detail };
        let rows = tokio::task::spawn_blocking(move || {
            truth.scan_prefix(Table::RunEvents, run.as_bytes())
        })
        .await
        .map_err(|_| CallError::Stopped)?
        .map_err(|e| storage(e.to_string()))?;
        let first = run_event_key(run, from_seq);
        rows.into_iter()
            .filter(|(key, _)| *key >= first)
            .map(|(key, value)| {
                let seq = key.get(16..).and_then(|k| k.try_into().ok()).map(u64::from_be_bytes);
                let event = ciborium::from_reader(&value[..]).ok();
                seq.zip(event)
                    .ok_or_else(|| storage("a row of the run's log cannot be read".to_owned()))
            })
            .collect()
    }

    /// The newest attempt of a replica whose log is kept, by the files there are. Of a replica that has ended nothing else
    /// tells.
    ///
    /// # Errors
    /// When the logs cannot be read.
    pub async fn newest_replica(&self, run: RunId) -> Result<Option<AttemptId>, CallError> {
        let logs = Arc::clone(&self.logs);
        let found = tokio::task::spawn_blocking(move || newest_replica(&logs, run)).await;
        let failed = |e: std::io::Error| CallError::Storage { detail: format!("the logs: {e}") };
        found.map_err(|_| CallError::Stopped)?.map_err(failed)
    }

    /// What is kept of what an attempt wrote so far.
    ///
    /// # Errors
    /// When the logs cannot be read, or the node is stopping.
    pub async fn run_log(&self, attempt: AttemptId, stream: Stream) -> Result<Kept, CallError> {
        let logs = Arc::clone(&self.logs);
        let read = tokio::task::spawn_blocking(move || logs::read(&logs, attempt, stream)).await;
        let failed = |e: std::io::Error| CallError::Storage { detail: format!("the logs: {e}") };
        read.map_err(|_| CallError::Stopped)?.map_err(failed)
    }
}
