//! Engines: one compiler configuration each, made when first needed, so that an idle node carries none.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use wasmtime::component::Linker as ComponentLinker;
use wasmtime::{Config, Engine, Linker, OptLevel, Strategy};

use super::guest::Guest;
use crate::runtime::{HostFault, bounded};

/// Native stack of a guest. Interpreters recurse deeply; beyond it a guest traps with a stack overflow.
const GUEST_STACK_BYTES: usize = 2 << 20;
/// Stack on which guest and host calls run; what exceeds [`GUEST_STACK_BYTES`] is for the host's part of a call.
const FIBER_STACK_BYTES: usize = GUEST_STACK_BYTES + (1 << 20);

/// How long a guest computes before it gives its thread a chance to notice a limit or a cancellation.
pub(super) const TICK: Duration = Duration::from_millis(10);
/// Ticks without a running guest after which the ticking thread ends: a second, so that bursts share one thread.
const IDLE_TICKS_MAX: u32 = 100;

/// A way to compile. Code of one flavor runs only on that flavor's engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flavor {
    /// Cranelift: slow to compile, fast to run.
    Optimised,
    /// Winch: compiles some ten times faster and runs about half as fast; refuses newer proposals.
    Quick,
    /// Cranelift with fuel. There is no quick form: the count must be the same on every node.
    Metered,
}

impl Flavor {
    /// The word in file names and logs.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Optimised => "cranelift",
            Self::Quick => "winch",
            Self::Metered => "fuel",
        }
    }
}

/// An engine with the host functions that it offers.
pub(super) struct Toolchain {
    pub(super) flavor: Flavor,
    pub(super) engine: Engine,
    pub(super) core: Linker<Guest>,
    pub(super) component: ComponentLinker<Guest>,
    /// Hex of a hash over all that decides whether compiled code fits: wasmtime's version, the target, the settings.
    pub(super) key: String,
}

impl Toolchain {
    fn new(flavor: Flavor) -> wasmtime::Result<Self> {
        let engine = Engine::new(&config(flavor))?;
        let mut core = Linker::new(&engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut core, |guest: &mut Guest| &mut guest.wasi)?;
        super::exit::add_to_linker(&mut core)?;
        super::poll::add_to_linker(&mut core)?;
        let mut component = ComponentLinker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut component)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut component)?;
        let mut hasher = KeyHasher(blake3::Hasher::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let key = catalog::id::to_hex(&hasher.0.finalize().as_bytes()[..8]);
        Ok(Self { flavor, engine, core, component, key })
    }
}

fn config(flavor: Flavor) -> Config {
    let mut config = Config::new();
    config
        .strategy(if flavor == Flavor::Quick { Strategy::Winch } else { Strategy::Cranelift })
        .consume_fuel(flavor == Flavor::Metered)
        .epoch_interruption(true)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        // Only debuggers and profilers read these; without them artefacts are about a third smaller.
        .native_unwind_info(false)
        .generate_address_map(false);
    if flavor != Flavor::Quick {
        config.cranelift_opt_level(OptLevel::Speed);
    }
    config
}

/// An engine that compiles code for [`Flavor::Optimised`] on the calling thread alone, to leave other cores to tasks.
pub(super) fn background() -> wasmtime::Result<Engine> {
    Engine::new(config(Flavor::Optimised).parallel_compilation(false))
}

/// Takes what is hashed into BLAKE3, because the standard hasher may differ between releases of Rust.
struct KeyHasher(blake3::Hasher);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.finalize();
        hash.as_bytes().iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
    }
}

/// The engines made so far, and the thread that ticks them while guests run.
#[derive(Default)]
pub(super) struct Engines {
    made: Mutex<BTreeMap<Flavor, Arc<Toolchain>>>,
    ticker: Mutex<Ticker>,
}

#[derive(Default)]
struct Ticker {
    n_running: usize,
    is_alive: bool,
}

/// Keeps the engines ticking as long as it lives.
pub(super) struct Ticking(Arc<Engines>);

impl Engines {
    /// The engine of a flavor, made if it is the first time.
    pub(super) fn get(&self, flavor: Flavor) -> Result<Arc<Toolchain>, HostFault> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(toolchain) = made.get(&flavor) {
            return Ok(Arc::clone(toolchain));
        }
        let toolchain = Toolchain::new(flavor)
            .map(Arc::new)
            .map_err(|error| HostFault::Engine { detail: bounded(format!("{error:#}")) })?;
        made.insert(flavor, Arc::clone(&toolchain));
        Ok(toolchain)
    }

    /// Ticks the engines until the answer is dropped.
    pub(super) fn tick(self: &Arc<Self>) -> Result<Ticking, HostFault> {
        let mut ticker = self.ticker.lock().unwrap_or_else(PoisonError::into_inner);
        if !ticker.is_alive {
            let engines = Arc::downgrade(self);
            thread::Builder::new()
                .name("wasi-ticker".to_owned())
                .spawn(move || tick_until_idle(&engines))
                .map_err(|error| HostFault::Thread { kind: error.kind() })?;
            ticker.is_alive = true;
        }
        ticker.n_running += 1;
        Ok(Ticking(Arc::clone(self)))
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.ticker.lock().unwrap_or_else(PoisonError::into_inner).n_running -= 1;
    }
}

fn tick_until_idle(engines: &Weak<Engines>) {
    let mut n_idle = 0;
    loop {
        thread::sleep(TICK);
        let Some(engines) = engines.upgrade() else {
            return;
        };
        for toolchain in engines.made.lock().unwrap_or_else(PoisonError::into_inner).values() {
            toolchain.engine.increment_epoch();
        }
        let mut ticker = engines.ticker.lock().unwrap_or_else(PoisonError::into_inner);
        n_idle = if ticker.n_running == 0 { n_idle + 1 } else { 0 };
        if n_idle > IDLE_TICKS_MAX {
            ticker.is_alive = false;
            return;
        }
    }
}
