//! Finds or makes the machine code of a module: memory, then disk, then the compiler.
//!
//! One module is compiled once at a time, however many tasks wait for it. A large module is first compiled by Winch, so
//! that its first task starts soon, and by Cranelift in the background for all later ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use catalog::Digest;
use tokio::sync::oneshot;

use super::artefacts::Artefacts;
use super::engine::{Engines, Flavor, background};
use super::module::{Loaded, Source};
use crate::runtime::{HostFault, Origin, PrepareError, Prepared};

/// Modules up to this length go straight to Cranelift, which takes some 0.2 s for it.
const DIRECT_BYTES_MAX: usize = 256 << 10;
/// Most modules kept in memory; beyond it the longest unused go.
const LOADED_COUNT_MAX: usize = 16;
/// Most bytes of machine code kept in memory; beyond it the longest unused go. One module may be larger alone.
const LOADED_BYTES_MAX: usize = 512 << 20;
/// Most modules waiting to be compiled again in the background; beyond it a module stays as Winch made it until it
/// is loaded anew.
const BACKGROUND_QUEUE_MAX: usize = 32;

pub(super) type Outcome = Result<(Arc<Loaded>, Prepared), PrepareError>;

/// What one has to do with a module that others have made, or make for themselves: nothing.
const WARM: Prepared = Prepared { origin: Origin::Warm, elapsed: Duration::ZERO };

/// Machine code by module.
pub(super) struct Loader {
    pub(super) engines: Arc<Engines>,
    artefacts: Artefacts,
    state: Mutex<State>,
    /// Compilations that may start now.
    free: Mutex<usize>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    loaded: BTreeMap<(Digest, Flavor), Kept>,
    n_uses: u64,
    /// Those who wait for a module that is being made.
    flights: BTreeMap<(Digest, Flavor), Vec<oneshot::Sender<Outcome>>>,
    queue: VecDeque<Source>,
    queued: BTreeSet<Digest>,
    is_background_alive: bool,
}

struct Kept {
    loaded: Arc<Loaded>,
    /// [`State::n_uses`] when it was last used.
    used: u64,
}

impl Loader {
    pub(super) fn new(artefacts: Artefacts, workers: usize) -> Self {
        Self {
            engines: Arc::default(),
            artefacts,
            state: Mutex::default(),
            free: Mutex::new(workers.max(1)),
            freed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine code of a module, with fuel if it `is_metered`. Cancel-safe: a compilation that has begun goes on.
    pub(super) async fn load(self: &Arc<Self>, source: Source, is_metered: bool) -> Outcome {
        match self.begin(source, is_metered)? {
            Begun::Ready(loaded) => Ok((loaded, WARM)),
            Begun::Making(made) => made.await.unwrap_or(Err(HostFault::Died.into())),
        }
    }

    fn begin(self: &Arc<Self>, source: Source, is_metered: bool) -> Result<Begun, HostFault> {
        let flavor = if is_metered { Flavor::Metered } else { Flavor::Optimised };
        let mut state = self.state();
        if let Some(loaded) = state.find(source.digest, flavor) {
            return Ok(Begun::Ready(loaded));
        }
        let (made, waiting) = oneshot::channel();
        let key = (source.digest, flavor);
        if let Some(flight) = state.flights.get_mut(&key) {
            flight.push(made);
            return Ok(Begun::Making(waiting));
        }
        let loader = Arc::clone(self);
        thread::Builder::new()
            .name("wasi-compile".to_owned())
            .spawn(move || loader.make(&source, flavor))
            .map_err(|error| HostFault::Thread { kind: error.kind() })?;
        // The thread takes this lock before it looks for those who wait, so it finds the first of them.
        state.flights.insert(key, vec![made]);
        Ok(Begun::Making(waiting))
    }

    /// Makes a module's machine code and gives it to all who wait. Who asked first is told what it took.
    fn make(self: &Arc<Self>, source: &Source, flavor: Flavor) {
        self.acquire();
        let begun = Instant::now();
        let made = catch_unwind(AssertUnwindSafe(|| self.find_or_compile(source, flavor)));
        self.release();
        let made = made.unwrap_or(Err(HostFault::Died.into()));
        let mut outcome =
            made.map(|(loaded, origin)| (loaded, Prepared { origin, elapsed: begun.elapsed() }));
        let mut state = self.state();
        if let Ok((loaded, _)) = &outcome {
            state.keep(source.digest, Arc::clone(loaded));
        }
        for waiting in state.flights.remove(&(source.digest, flavor)).into_iter().flatten() {
            // Whoever no longer waits was cancelled.
            waiting.send(outcome.clone()).ok();
            if let Ok((_, prepared)) = &mut outcome {
                *prepared = WARM;
            }
        }
    }

    fn find_or_compile(
        self: &Arc<Self>,
        source: &Source,
        flavor: Flavor,
    ) -> Result<(Arc<Loaded>, Origin), PrepareError> {
        let toolchain = self.engines.get(flavor)?;
        if let Some(code) = self.artefacts.load(&toolchain, &source.digest) {
            return Ok((Arc::new(code.link(&toolchain)?), Origin::Cached));
        }
        let bytes = source.read()?;
        if flavor == Flavor::Optimised && bytes.len() > DIRECT_BYTES_MAX {
            let quick = self.engines.get(Flavor::Quick)?;
            // Winch knows fewer proposals: a refusal, or a defect of it, leaves the word to Cranelift.
            let compiled = catch_unwind(AssertUnwindSafe(|| bytes.compile(&quick)));
            match compiled {
                Ok(Ok(code)) => {
                    let loaded = Arc::new(code.link(&quick)?);
                    self.improve_later(source);
                    return Ok((loaded, Origin::Quick));
                }
                Ok(Err(error)) => {
                    tracing::debug!(module = %source.digest, %error, "winch refuses a module: cranelift compiles it");
                }
                Err(_) => {
                    tracing::debug!(module = %source.digest, "winch panicked on a module: cranelift compiles it");
                }
            }
        }
        let code = bytes.compile(&toolchain)?;
        match code.serialize() {
            Ok(artefact) => self.artefacts.store(&toolchain, &source.digest, &artefact),
            Err(error) => {
                tracing::warn!(module = %source.digest, %error, "cannot serialise a compiled module")
            }
        }
        Ok((Arc::new(code.link(&toolchain)?), Origin::Cold))
    }

    /// Queues a module for Cranelift, and starts the thread that works the queue off if it is not there.
    fn improve_later(self: &Arc<Self>, source: &Source) {
        let mut state = self.state();
        if state.queue.len() >= BACKGROUND_QUEUE_MAX || !state.queued.insert(source.digest) {
            return;
        }
        state.queue.push_back(source.clone());
        if state.is_background_alive {
            return;
        }
        let loader = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("wasi-improve".to_owned())
            .spawn(move || loader.improve_queued());
        match spawned {
            Ok(_) => state.is_background_alive = true,
            Err(error) => tracing::warn!(%error, "cannot start the background compiler"),
        }
    }

    fn improve_queued(&self) {
        loop {
            let source = {
                let mut state = self.state();
                let Some(source) = state.queue.pop_front() else {
                    state.is_background_alive = false;
                    return;
                };
                source
            };
            let improved = catch_unwind(AssertUnwindSafe(|| self.improve(&source)));
            let mut state = self.state();
            state.queued.remove(&source.digest);
            match improved {
                Ok(Ok(loaded)) => state.keep(source.digest, Arc::new(loaded)),
                Ok(Err(error)) => {
                    tracing::warn!(module = %source.digest, %error, "cannot optimise a module")
                }
                Err(_) => {
                    tracing::error!(module = %source.digest, "the compiler panicked on a module")
                }
            }
        }
    }

    fn improve(&self, source: &Source) -> Result<Loaded, PrepareError> {
        let toolchain = self.engines.get(Flavor::Optimised)?;
        let engine =
            background().map_err(|error| HostFault::Engine { detail: format!("{error:#}") })?;
        let artefact = source.read()?.precompile(&engine)?;
        self.artefacts.store(&toolchain, &source.digest, &artefact);
        drop(artefact);
        let code =
            self.artefacts.load(&toolchain, &source.digest).ok_or_else(|| HostFault::Engine {
                detail: "the optimised module could not be kept on disk".to_owned(),
            })?;
        Ok(code.link(&toolchain)?)
    }

    fn acquire(&self) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
    }

    fn release(&self) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.freed.notify_one();
    }
}

enum Begun {
    Ready(Arc<Loaded>),
    Making(oneshot::Receiver<Outcome>),
}

impl State {
    /// A module in memory, the best there is for the flavor.
    fn find(&mut self, digest: Digest, flavor: Flavor) -> Option<Arc<Loaded>> {
        self.n_uses += 1;
        let quick = (flavor == Flavor::Optimised).then_some(Flavor::Quick);
        [Some(flavor), quick].into_iter().flatten().find_map(|flavor| {
            let kept = self.loaded.get_mut(&(digest, flavor))?;
            kept.used = self.n_uses;
            Some(Arc::clone(&kept.loaded))
        })
    }

    /// Keeps a module in memory; the longest unused make room. Running tasks hold on to theirs.
    fn keep(&mut self, digest: Digest, loaded: Arc<Loaded>) {
        self.n_uses += 1;
        let flavor = loaded.flavor;
        if flavor == Flavor::Optimised {
            self.loaded.remove(&(digest, Flavor::Quick));
        }
        self.loaded.insert((digest, flavor), Kept { loaded, used: self.n_uses });
        loop {
            let bytes: usize = self.loaded.values().map(|kept| kept.loaded.image_bytes).sum();
            let is_within = self.loaded.len() <= LOADED_COUNT_MAX && bytes <= LOADED_BYTES_MAX;
            if is_within || self.loaded.len() == 1 {
                return;
            }
            let oldest = self.loaded.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key);
            oldest.and_then(|key| self.loaded.remove(&key));
        }
    }
}
