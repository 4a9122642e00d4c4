//! One guest: its view of the world, and running it to its end.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime::{AsContextMut, InstancePre, Store, ThrownException, UpdateDeadline};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{
    FsPerms, I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView, async_trait,
};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::WasiTask;
use super::engine::Flavor;
use super::gauge::{Gauge, Limits};
use super::module::{Command, InvalidModule, Loaded};
use super::network;
use super::poll::MonotonicClock;
use super::serve::NoRequests;
use crate::runtime::{Exit, HostFault, LogSink, Stream, Trap, TrapKind, bounded};

/// Most files, directories, streams and other handles that a guest may hold; one more and it traps. Each may hold one of
/// the node's file descriptors.
const HANDLES_MAX: usize = 1024;
/// Most bytes that one read or write of a standard stream moves.
const STREAM_CHUNK_BYTES: usize = 64 << 10;
/// Fuel given to a guest: no limit, only a count.
const FUEL: u64 = u64::MAX;

/// What a store holds for its guest. Preview 1 and 2 share one view of the world.
pub(super) struct Guest {
    pub(super) wasi: WasiP1Ctx,
    pub(super) clock: MonotonicClock,
    limits: Limits,
    /// Fuel of [`Self::limits`]' store that the gauge knows of.
    fuel_seen: u64,
    http: WasiHttpCtx,
    requests: NoRequests,
}

impl Guest {
    /// Whether this guest was ever refused memory.
    pub(super) const fn is_memory_denied(&self) -> bool {
        self.limits.is_denied()
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let table = self.wasi.ctx().table;
        WasiHttpCtxView { hooks: &mut self.requests, table, ctx: &mut self.http }
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

/// Makes the store of a guest, with nothing in reach but what the task names.
pub(super) fn store(
    task: &WasiTask,
    loaded: &Loaded,
    gauge: &Arc<Gauge>,
) -> Result<Store<Guest>, HostFault> {
    let clock = MonotonicClock::start();
    let mut wasi = context(task, gauge, clock)?.build_p1();
    wasi.ctx().table.set_max_capacity(HANDLES_MAX);
    let limits = Limits::new(Arc::clone(gauge), task.base.memory_bytes);
    let (http, requests) = (WasiHttpCtx::new(), NoRequests);
    let guest = Guest { wasi, clock, limits, fuel_seen: 0, http, requests };
    let mut store = Store::new(&loaded.engine, guest);
    store.limiter(|guest| &mut guest.limits);
    store.set_epoch_deadline(1);
    let is_metered = loaded.flavor == Flavor::Metered;
    if is_metered {
        store
            .set_fuel(FUEL)
            .map_err(|error| HostFault::Engine { detail: bounded(format!("{error:#}")) })?;
    }
    let gauge = Arc::clone(gauge);
    store.epoch_deadline_callback(move |mut guest| {
        if is_metered {
            note_fuel(&mut guest, &gauge);
        }
        Ok(UpdateDeadline::Yield(1))
    });
    Ok(store)
}

fn context(
    task: &WasiTask,
    gauge: &Arc<Gauge>,
    clock: MonotonicClock,
) -> Result<WasiCtxBuilder, HostFault> {
    let mut wasi = WasiCtx::builder();
    // The guest has its thread to itself, so file calls need no other. See `poll` for sleeping.
    wasi.allow_blocking_current_thread(true)
        .monotonic_clock(clock)
        .allow_tcp(task.base.network)
        .allow_udp(task.base.network)
        .allow_ip_name_lookup(task.base.network)
        .socket_addr_check(|address, used| {
            let is_allowed = network::allows(address, used);
            Box::pin(async move { is_allowed })
        })
        .args(&task.base.args);
    for (name, value) in &task.base.env {
        wasi.env(name, value);
    }
    let log = |stream| Log { sink: Arc::clone(&task.base.logs), stream, gauge: Arc::clone(gauge) };
    wasi.stdout(log(Stream::Stdout)).stderr(log(Stream::Stderr));
    if let Some(path) = &task.base.stdin {
        let file = File::open(path).map_err(|error| HostFault::file("open", path, &error))?;
        wasi.stdin(Input { file: Arc::new(file) });
    }
    let mut open = |host: &Path, guest: &str, perms| match wasi.preopened_dir(host, guest, perms) {
        Ok(_) => Ok(()),
        Err(error) => {
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            let kind = kind.unwrap_or(std::io::ErrorKind::Other);
            Err(HostFault::File { action: "open the directory", path: host.to_owned(), kind })
        }
    };
    open(&task.base.work, ".", FsPerms::ReadWrite)?;
    open(&task.base.tmp, "/tmp", FsPerms::ReadWrite)?;
    for mount in &task.base.mounts {
        open(&mount.host, &mount.guest, FsPerms::ReadOnly)?;
    }
    Ok(wasi)
}

/// Instantiates a guest and runs it to its end. Dropping the future stops it at its next tick or host call.
pub(super) async fn run(loaded: &Loaded, store: &mut Store<Guest>, gauge: &Gauge) -> Exit {
    let result = match &loaded.command {
        Command::Core(pre) => run_core(pre, store, gauge).await,
        Command::Component { command: Some(pre), .. } => run_component(pre, store, gauge).await,
        Command::Component { command: None, .. } => Err(Exit::Invalid(InvalidModule::NotCommand)),
    };
    match result {
        Ok(exit) if exit.is_success() || !gauge.is_memory_denied() => exit,
        // A guest that fails after it was refused memory fails for that reason, however it says so.
        Ok(Exit::Host(fault)) => Exit::Host(fault),
        Ok(_) => Exit::OutOfMemory,
        Err(_) if gauge.is_memory_denied() => Exit::OutOfMemory,
        Err(error) => error,
    }
}

async fn run_core(
    pre: &InstancePre<Guest>,
    store: &mut Store<Guest>,
    gauge: &Gauge,
) -> Result<Exit, Exit> {
    let begun = Instant::now();
    let instance = pre.instantiate_async(&mut *store).await.map_err(|error| not_started(&error))?;
    gauge.note_started(begun.elapsed());
    let start = instance
        .get_typed_func::<(), ()>(&mut *store, "_start")
        .map_err(|_| Exit::Invalid(InvalidModule::NotCommand))?;
    Ok(start
        .call_async(&mut *store, ())
        .await
        .map_or_else(|error| ended(&error), |()| Exit::Code(0)))
}

async fn run_component(
    pre: &CommandPre<Guest>,
    store: &mut Store<Guest>,
    gauge: &Gauge,
) -> Result<Exit, Exit> {
    let begun = Instant::now();
    let command = pre.instantiate_async(&mut *store).await.map_err(|error| not_started(&error))?;
    gauge.note_started(begun.elapsed());
    Ok(match command.wasi_cli_run().call_run(&mut *store).await {
        Ok(Ok(())) => Exit::Code(0),
        Ok(Err(())) => Exit::Code(1),
        Err(error) => ended(&error),
    })
}

/// Notes the fuel that a guest has used since the last time.
pub(super) fn note_fuel(store: &mut impl AsContextMut<Data = Guest>, gauge: &Gauge) {
    let mut store = store.as_context_mut();
    // There is no fuel to read where none was asked for.
    if let Ok(left) = store.get_fuel() {
        let used = FUEL - left;
        let before = std::mem::replace(&mut store.data_mut().fuel_seen, used);
        gauge.add_fuel(used.saturating_sub(before));
    }
}

/// Why instantiating failed: the module's start function, or limits that it declares to exceed.
pub(super) fn not_started(error: &wasmtime::Error) -> Exit {
    if error.is::<wasmtime::Trap>() || error.is::<I32Exit>() || error.is::<ThrownException>() {
        return ended(error);
    }
    Exit::Invalid(InvalidModule::Refused { detail: bounded(format!("{error:#}")) })
}

/// What an error out of the guest means.
fn ended(error: &wasmtime::Error) -> Exit {
    use wasmtime::Trap as T;
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Exit::Code(exit.0);
    }
    let kind = match error.downcast_ref::<T>() {
        Some(T::UnreachableCodeReached) => TrapKind::Unreachable,
        Some(T::StackOverflow) => TrapKind::StackOverflow,
        Some(T::MemoryOutOfBounds | T::HeapMisaligned) => TrapKind::MemoryOutOfBounds,
        Some(T::TableOutOfBounds | T::IndirectCallToNull | T::BadSignature | T::NullReference) => {
            TrapKind::BadCall
        }
        Some(T::IntegerOverflow | T::IntegerDivisionByZero | T::BadConversionToInteger) => {
            TrapKind::Arithmetic
        }
        Some(_) => TrapKind::Other,
        None if error.is::<ThrownException>() => TrapKind::Exception,
        None => TrapKind::HostCall,
    };
    Exit::Trap(Trap { kind, detail: bounded(format!("{error:#}")) })
}

/// Standard output or error, handed on at once.
#[derive(Clone)]
struct Log {
    sink: Arc<dyn LogSink>,
    stream: Stream,
    gauge: Arc<Gauge>,
}

impl Log {
    fn take(&self, bytes: &[u8]) {
        self.gauge.add_stdio(bytes.len());
        self.sink.write(self.stream, bytes);
    }
}

impl IsTerminal for Log {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Log {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Log {
    async fn ready(&mut self) {}
}

impl OutputStream for Log {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(STREAM_CHUNK_BYTES)
    }
}

impl AsyncWrite for Log {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Standard input from a file. All handles on it share one position.
#[derive(Clone)]
struct Input {
    file: Arc<File>,
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Input {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {}
}

impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let mut bytes = vec![0; size.min(STREAM_CHUNK_BYTES)];
        match (&*self.file).read(&mut bytes) {
            Ok(0) if size > 0 => Err(StreamError::Closed),
            Ok(len) => {
                bytes.truncate(len);
                Ok(bytes.into())
            }
            Err(error) => Err(StreamError::LastOperationFailed(error.into())),
        }
    }
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let len = (&*self.file).read(to.initialize_unfilled())?;
        to.advance(len);
        Poll::Ready(Ok(()))
    }
}
