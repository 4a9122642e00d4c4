//! WebAssembly tasks: WASI preview 1 commands and preview 2 components in wasmtime.
//!
//! A guest sees its arguments, its environment, two private directories (`.` and `/tmp`), read-only mounts, clocks and
//! random numbers: no network unless that is granted, nothing of the host's environment, and no path or symlink out of its
//! directories. It is held to a time, a memory and a disk limit, and can be stopped within some ticks of 10 ms wherever it is.

mod artefacts;
mod disk;
mod engine;
mod exit;
mod gauge;
mod guest;
mod loader;
mod module;
mod network;
mod poll;
pub(super) mod serve;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use catalog::Digest;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::artefacts::Artefacts;
use self::disk::DiskWatch;
use self::gauge::Gauge;
use self::loader::Loader;
use self::module::{Loaded, Source};
use self::serve::Server;
use super::{
    Control, Door, Exit, HostFault, Meters, PrepareError, Prepared, Running, Runtime, RuntimeError,
    TaskBase,
};

pub use self::module::{InvalidModule, MODULE_BYTES_MAX, ModuleKind};

/// A WebAssembly task. Its arguments begin with the program's name; its directories are `.` and `/tmp`; it has one thread, and its
/// time begins with the first instruction.
#[derive(Clone, Debug)]
pub struct WasiTask {
    /// What it is to do.
    pub base: TaskBase,
    /// The module's file.
    pub module: PathBuf,
    /// BLAKE3 of the module; a file with other content is not run.
    pub digest: Digest,
    /// Whether to count fuel: the same number on every node, for twice the processor time or less.
    pub fuel: bool,
    /// Whether it is the replica of a service: a component that answers requests until it is stopped.
    pub serves: bool,
}

/// Runs WebAssembly tasks. Engines and threads are made when first needed; an idle runtime holds a few kilobytes.
#[derive(Clone)]
pub struct WasiRuntime {
    loader: Arc<Loader>,
    /// One permit per guest that may run now.
    workers: Arc<Semaphore>,
}

impl fmt::Debug for WasiRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WasiRuntime")
            .field("free_workers", &self.workers.available_permits())
            .finish_non_exhaustive()
    }
}

impl WasiRuntime {
    /// Opens the runtime with a directory for compiled modules. At most `workers` guests (at least one) run at a time;
    /// further ones wait for their turn.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn new(cache_dir: PathBuf, workers: usize) -> Result<Self, RuntimeError> {
        let artefacts = Artefacts::open(cache_dir)?;
        let workers = workers.clamp(1, Semaphore::MAX_PERMITS);
        Ok(Self {
            loader: Arc::new(Loader::new(artefacts, workers)),
            workers: Arc::new(Semaphore::new(workers)),
        })
    }

    /// Starts a task on a thread of its own and returns at once. Needs no async runtime around it.
    #[must_use]
    pub fn start(&self, task: WasiTask) -> Running {
        let control = Arc::new(TaskControl::default());
        let (done, end) = watch::channel(None);
        let done = Arc::new(done);
        let spawned = thread::Builder::new().name("wasi-guest".to_owned()).spawn({
            let (runtime, control, done) = (self.clone(), Arc::clone(&control), Arc::clone(&done));
            move || {
                let exit = catch_unwind(AssertUnwindSafe(|| runtime.drive(&task, &control)));
                let exit = exit.unwrap_or(Exit::Host(HostFault::Died));
                done.send_replace(Some((exit, control.gauge.read())));
            }
        });
        if let Err(error) = spawned {
            let fault = HostFault::Thread { kind: error.kind() };
            done.send_replace(Some((Exit::Host(fault), Meters::default())));
        }
        Running { control, done: end }
    }

    /// Makes a module ready to start: in memory and, compiled, on disk. Cancel-safe: a compilation that has begun goes
    /// on.
    ///
    /// # Errors
    /// When the module can never run here, or the host fails.
    pub async fn prepare(&self, module: &Path, digest: Digest) -> Result<Prepared, PrepareError> {
        let source = Source { path: module.to_owned(), digest };
        Ok(self.loader.load(source, false).await?.1)
    }

    /// Checks that a file is a command which this runtime can start, and says of which kind. It is compiled for that, and
    /// kept, so the first task starts sooner; this takes seconds with a large module. Cancel-safe.
    ///
    /// # Errors
    /// When the module can never run here, or the host fails.
    pub async fn validate(&self, module: &Path) -> Result<ModuleKind, PrepareError> {
        let (send, hashed) = oneshot::channel();
        let path = module.to_owned();
        thread::Builder::new()
            .name("wasi-hash".to_owned())
            // Whoever no longer waits was cancelled.
            .spawn(move || {
                send.send(module::read_bounded(&path).map(|bytes| Digest::of(&bytes))).ok()
            })
            .map_err(|error| HostFault::Thread { kind: error.kind() })?;
        let digest = hashed.await.unwrap_or(Err(HostFault::Died.into()))?;
        let source = Source { path: module.to_owned(), digest };
        let (loaded, _) = self.loader.load(source, false).await?;
        Ok(loaded.kind())
    }

    /// Runs a task to its end on the calling thread.
    fn drive(&self, task: &WasiTask, control: &TaskControl) -> Exit {
        // A clock only: guests have no sockets, and their file calls block this thread.
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(error) => return Exit::Host(HostFault::Thread { kind: error.kind() }),
        };
        let exit = runtime.block_on(async {
            let Some(_permit) = control.unless_cancelled(self.workers.acquire()).await else {
                return Exit::Cancelled;
            };
            control.is_begun.store(true, Ordering::Relaxed);
            let source = Source { path: task.module.clone(), digest: task.digest };
            let loading = self.loader.load(source, task.fuel);
            let loaded = match control.unless_cancelled(loading).await {
                Some(Ok((loaded, prepared))) => {
                    control.prepared.set(prepared).ok();
                    loaded
                }
                Some(Err(error)) => return error.into(),
                None => return Exit::Cancelled,
            };
            let ran = if task.serves {
                self.serve(task, control, loaded).await
            } else {
                self.supervise(task, control, &loaded).await
            };
            ran.unwrap_or_else(Exit::Host)
        });
        runtime.shutdown_background();
        exit
    }

    /// Runs a guest and watches its limits. Both happen on one thread: the guest gives way at every tick.
    async fn supervise(
        &self,
        task: &WasiTask,
        control: &TaskControl,
        loaded: &Loaded,
    ) -> Result<Exit, HostFault> {
        let gauge = &control.gauge;
        gauge.begin();
        let mut disk =
            DiskWatch::new(&[&task.base.work, &task.base.tmp], task.base.disk_bytes, gauge)?;
        let mut store = guest::store(task, loaded, gauge)?;
        let _ticking = self.loader.engines.tick()?;
        let exit = {
            let running = guest::run(loaded, &mut store, gauge);
            let stopping = stop_reason(control, task.base.timeout, &mut disk);
            tokio::select! {
                biased;
                stop = Box::pin(stopping) => stop,
                exit = Box::pin(running) => exit,
            }
        };
        guest::note_fuel(&mut store, gauge);
        // Closes the guest's files, so that deleted ones are gone.
        drop(store);
        let is_over = disk.is_over_now(gauge);
        gauge.end();
        Ok(if is_over && matches!(exit, Exit::Code(_) | Exit::Trap(_)) {
            Exit::DiskQuota
        } else {
            exit
        })
    }
}

impl WasiRuntime {
    /// Has a component answer requests until it is stopped, all on this thread.
    async fn serve(
        &self,
        task: &WasiTask,
        control: &TaskControl,
        loaded: Arc<Loaded>,
    ) -> Result<Exit, HostFault> {
        let gauge = &control.gauge;
        let Some(pre) = loaded.proxy() else {
            return Ok(Exit::Invalid(InvalidModule::NotServer));
        };
        gauge.begin();
        let mut disk =
            DiskWatch::new(&[&task.base.work, &task.base.tmp], task.base.disk_bytes, gauge)?;
        let _ticking = self.loader.engines.tick()?;
        let server = Server::new(pre, loaded, task.clone(), Arc::clone(gauge));
        let exit = match server.try_once().await {
            Ok(()) => {
                let (entrance, connections) = serve::entrance();
                control.door.set(Door::of_guest(entrance)).ok();
                let stopping = stop_reason(control, task.base.timeout, &mut disk);
                tokio::select! {
                    biased;
                    stop = Box::pin(stopping) => stop,
                    () = Box::pin(server.accept(connections)) => Exit::Host(HostFault::Died),
                }
            }
            Err(exit) => exit,
        };
        gauge.end();
        Ok(exit)
    }
}

impl Runtime for WasiRuntime {
    type Task = WasiTask;

    async fn prepare(&self, artefact: &Path, digest: Digest) -> Result<Prepared, PrepareError> {
        Self::prepare(self, artefact, digest).await
    }

    fn start(&self, task: WasiTask) -> Running {
        Self::start(self, task)
    }
}

/// Waits for a reason to stop a guest.
async fn stop_reason(control: &TaskControl, timeout: Duration, disk: &mut DiskWatch) -> Exit {
    let deadline = tokio::time::sleep(timeout);
    tokio::pin!(deadline);
    let mut ticks = tokio::time::interval(engine::TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = control.cancel.cancelled() => return Exit::Cancelled,
            () = &mut deadline => return Exit::Timeout,
            _ = ticks.tick() => {
                if disk.is_over(&control.gauge) {
                    return Exit::DiskQuota;
                }
            }
        }
    }
}

/// What a task's handle and its thread share.
#[derive(Default)]
struct TaskControl {
    gauge: Arc<Gauge>,
    cancel: CancellationToken,
    prepared: OnceLock<Prepared>,
    /// Set when it answers requests.
    door: OnceLock<Door>,
    /// Whether it has had its turn and its module is looked for.
    is_begun: AtomicBool,
}

impl TaskControl {
    /// Waits, or gives up when the task is cancelled.
    async fn unless_cancelled<T>(&self, waiting: impl Future<Output = T>) -> Option<T> {
        self.cancel.run_until_cancelled(waiting).await
    }
}

impl Control for TaskControl {
    fn meters(&self) -> Meters {
        self.gauge.read()
    }

    fn prepared(&self) -> Option<Prepared> {
        self.prepared.get().copied()
    }

    fn started_in(&self) -> Option<Duration> {
        self.gauge.started_in()
    }

    fn is_preparing(&self) -> bool {
        self.is_begun.load(Ordering::Relaxed) && self.prepared.get().is_none()
    }

    fn cancel(&self) {
        self.cancel.cancel();
    }

    fn door(&self) -> Option<Door> {
        self.door.get().cloned()
    }
}
