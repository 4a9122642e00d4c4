//! The fetching side of `/opencloud/blob/1`: does what the plan says, with a stream for each peer that works.

use std::fs::File;
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bao_tree::BaoTree;
use libp2p_stream::Control;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::OUTSIDE;
use super::error::FetchError;
use super::lanes::Lanes;
use super::parts::{self, Parts};
use super::piece::Node;
use super::plan::{Order, Plan};
use super::transfer::{Counted, End, Transfer};
use super::tree::{PAIR_BYTES, hash_file, place};
use crate::event::Offence;
use crate::key::PeerKey;
use crate::net::Moved;

/// Peers that one blob is fetched from at once; further ones are not asked.
pub const FETCH_PEERS_MAX: usize = 4;
/// How often it is looked whether a peer without work should take some from a slow one.
const LOOK: Duration = Duration::from_millis(500);

/// A blob that is whole in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its size in bytes.
    pub size: u64,
    /// Its outboard, as [`super::hash_file`] would give it.
    pub outboard: Vec<u8>,
}

/// What to fetch, and where to.
pub(crate) struct Wanted {
    pub(crate) hash: [u8; 32],
    pub(crate) limit: u64,
    pub(crate) into: PathBuf,
}

/// The way to peers.
#[derive(Clone)]
pub(crate) struct Ways {
    pub(crate) control: Control,
    pub(crate) lanes: Arc<Lanes>,
    /// The places for streams to all peers.
    pub(crate) all: Arc<Semaphore>,
    pub(crate) moved: Moved,
}

/// What the streams of one fetch have in common.
pub(super) struct Shared {
    pub(super) hash: [u8; 32],
    pub(super) limit: u64,
    into: PathBuf,
    plan: Mutex<Plan>,
    /// The outboard, as far as it was verified.
    pairs: Mutex<Vec<u8>>,
    /// Locked before the plan.
    parts: Mutex<Parts>,
    /// Whether the file was opened by this fetch.
    is_open: AtomicBool,
    begun: Instant,
    /// Told when the plan may have something new to say.
    pub(super) wake: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change under these locks is a single step, so a panic elsewhere leaves them usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn plan(&self) -> MutexGuard<'_, Plan> {
        lock(&self.plan)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The file failed.
    pub(super) fn failed(&self, source: io::Error) -> FetchError {
        FetchError::Io { path: self.into.clone(), source }
    }

    /// Keeps verified pairs for the outboard.
    pub(super) fn keep_pairs(&self, shape: &BaoTree, verified: &[(Node, &[u8])]) {
        let mut outboard = lock(&self.pairs);
        if outboard.is_empty() {
            // Not touched before it is written, so that a size that somebody made up costs no memory.
            *outboard = vec![0; usize::try_from(shape.outboard_size()).unwrap_or(0)];
        }
        for (node, bytes) in verified {
            if let Node::Pair { node, .. } = node
                && let Some(at) = place(shape, *node)
                && let Some(pair) = outboard.get_mut(at..at + PAIR_BYTES)
            {
                pair.copy_from_slice(bytes);
            }
        }
    }

    /// Opens the file to write from byte `at` on; blocks. The first to do so cuts off what lies beyond, unless it is known to
    /// be of this blob; whoever would leave a gap sees to it first that the next fetch will know.
    pub(super) fn open_file(&self, at: u64) -> io::Result<File> {
        let file = File::options().create(true).truncate(false).write(true).open(&self.into)?;
        let mut parts = lock(&self.parts);
        let (is_sparse, there) = {
            let plan = self.plan();
            (plan.is_sparse(), plan.there().clone())
        };
        let is_first = !self.is_open.swap(true, Ordering::Relaxed);
        if is_sparse {
            parts.save(&self.into, &there)?;
        } else if is_first {
            file.set_len(at)?;
            // A list from before would not grow with the file.
            parts.remove(&self.into)?;
        }
        Ok(file)
    }

    /// Groups were verified and are in the file; blocks.
    pub(super) fn written(&self, index: usize, from: u64, to: u64) -> io::Result<()> {
        let mut parts = lock(&self.parts);
        let sparse = {
            let mut plan = self.plan();
            plan.handle_written(index, from, to, self.now_ms());
            plan.is_sparse().then(|| plan.there().clone())
        };
        self.wake.notify_one();
        sparse.map_or(Ok(()), |there| parts.save(&self.into, &there))
    }

    /// Forgets what is there; blocks.
    fn restart(&self) -> io::Result<()> {
        lock(&self.parts).remove(&self.into)?;
        self.plan().restart();
        lock(&self.pairs).clear();
        self.is_open.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// Fetches into the file, and goes on with what is in it. Safe to drop: the file then holds verified bytes, and what is
/// there is known. `failed` says why other peers cannot be asked.
pub(crate) async fn fetch(
    ways: Ways,
    wanted: Wanted,
    peers: Vec<PeerKey>,
    failed: Vec<FetchError>,
    on_progress: &(impl Fn(u64, u64) + Send + Sync),
) -> Result<Fetched, FetchError> {
    let Wanted { hash, limit, into } = wanted;
    let path = into.clone();
    let there = blocking(move || parts::load(&path)).await;
    let failed_io = |source| FetchError::Io { path: into.clone(), source };
    let plan = Plan::new(peers.len(), there.map_err(failed_io)?);
    on_progress(plan.bytes(), 0);
    let shared = Arc::new(Shared {
        hash,
        limit,
        into,
        plan: Mutex::new(plan),
        pairs: Mutex::default(),
        parts: Mutex::default(),
        is_open: AtomicBool::new(false),
        begun: Instant::now(),
        wake: Notify::new(),
    });
    let stops = vec![CancellationToken::new(); peers.len()];
    let mut fetch =
        Fetch { shared, ways, peers, failed, stops, running: JoinSet::new(), reported: 0 };
    loop {
        fetch.run(on_progress).await?;
        if let Some(fetched) = fetch.finish().await? {
            on_progress(fetched.size, fetched.size);
            return Ok(fetched);
        }
        // The prefix was not this blob's: a crash, another program. Once more, from nothing.
        fetch.restart().await?;
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// A fetch that is under way.
struct Fetch {
    shared: Arc<Shared>,
    ways: Ways,
    peers: Vec<PeerKey>,
    failed: Vec<FetchError>,
    /// By peer, of its present stream.
    stops: Vec<CancellationToken>,
    running: JoinSet<(usize, Result<End, FetchError>)>,
    reported: u64,
}

impl Fetch {
    /// Until everything is in the file.
    async fn run(
        &mut self,
        on_progress: &(impl Fn(u64, u64) + Send + Sync),
    ) -> Result<(), FetchError> {
        loop {
            self.obey();
            let (bytes, size, is_whole, has_idle) = {
                let plan = self.shared.plan();
                (plan.bytes(), plan.size(), plan.is_whole(), plan.has_idle())
            };
            if let Some(size) = size.filter(|_| bytes > self.reported && !is_whole) {
                self.reported = bytes;
                on_progress(bytes, size);
            }
            if is_whole {
                return Ok(());
            }
            if self.running.is_empty() {
                if !self.shared.plan().reopen() {
                    return Err(FetchError::of_all(std::mem::take(&mut self.failed)));
                }
                lock(&self.shared.pairs).clear();
                continue;
            }
            let look =
                async { if has_idle { tokio::time::sleep(LOOK).await } else { pending().await } };
            let ended = tokio::select! {
                Some(ended) = self.running.join_next() => ended,
                () = self.shared.wake.notified() => continue,
                () = look => continue,
            };
            let (index, result) = ended.map_err(|e| self.shared.failed(io::Error::other(e)))?;
            self.handle_end(index, result).await?;
        }
    }

    /// Does what the plan says.
    fn obey(&mut self) {
        loop {
            let order = self.shared.plan().next(self.shared.now_ms());
            match order {
                Some(Order::Ask { peer, from, to }) => self.ask(peer, from, to),
                Some(Order::Stop { peer }) => self.stops[peer].cancel(),
                None => return,
            }
        }
    }

    fn ask(&mut self, index: usize, from: u64, to: u64) {
        let (peer, stop) = (self.peers[index], CancellationToken::new());
        self.stops[index] = stop.clone();
        let ways = self.ways.clone();
        let transfer = Transfer {
            shared: Arc::clone(&self.shared),
            index,
            peer,
            from,
            to,
            control: ways.control,
            lanes: [ways.lanes.of(peer), ways.all],
            stop,
            counted: Counted { moved: ways.moved, peer, bytes: 0 },
        };
        self.running.spawn(async move { (index, transfer.run().await) });
    }

    /// A stream has ended. Only what concerns the whole fetch is an error here.
    async fn handle_end(
        &mut self,
        index: usize,
        result: Result<End, FetchError>,
    ) -> Result<(), FetchError> {
        let peer = self.peers[index];
        let error = match result {
            Ok(End::Done) => {
                let now_ms = self.shared.now_ms();
                self.shared.plan().handle_end(index, now_ms);
                return Ok(());
            }
            Ok(End::FileTooLong) if self.shared.plan().is_resumed() => return self.restart().await,
            Ok(End::FileTooLong) => FetchError::Malformed { peer, status: OUTSIDE },
            Err(error @ FetchError::Io { .. }) => return Err(error),
            Err(error) => error,
        };
        if error.is_peer_fault() {
            tracing::warn!(%peer, %error, "a peer gave a wrong blob");
            self.ways.moved.offence(peer, Offence::Malformed);
        } else {
            tracing::debug!(%peer, %error, "a peer gives nothing more of a blob");
        }
        self.shared.plan().handle_failed(index);
        self.failed.push(error);
        Ok(())
    }

    /// What was fetched, when the file holds it.
    async fn finish(&mut self) -> Result<Option<Fetched>, FetchError> {
        self.stop_all().await;
        let shared = &self.shared;
        let (size, is_resumed) = {
            let plan = shared.plan();
            (plan.size().unwrap_or_default(), plan.is_resumed())
        };
        let outboard = if is_resumed {
            let path = shared.into.clone();
            let hashed = blocking(move || hash_file(&path)).await;
            let (hash, real_size, outboard) = hashed.map_err(|e| shared.failed(e))?;
            if hash != shared.hash || real_size != size {
                return Ok(None);
            }
            outboard
        } else {
            std::mem::take(&mut *lock(&shared.pairs))
        };
        let own = Arc::clone(shared);
        let removed = blocking(move || lock(&own.parts).remove(&own.into)).await;
        removed.map_err(|e| shared.failed(e))?;
        Ok(Some(Fetched { size, outboard }))
    }

    /// From nothing once more.
    async fn restart(&mut self) -> Result<(), FetchError> {
        tracing::warn!(file = %self.shared.into.display(), "a partial blob was damaged: starting again");
        self.stop_all().await;
        self.reported = 0;
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.restart()).await.map_err(|e| self.shared.failed(e))
    }

    /// Stops every stream, and waits until none writes any more. What they came to does not matter.
    async fn stop_all(&mut self) {
        self.stops.iter().for_each(CancellationToken::cancel);
        while self.running.join_next().await.is_some() {}
    }
}
