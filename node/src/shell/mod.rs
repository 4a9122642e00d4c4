//! The shell: the only task that owns the engine. It feeds it, makes its batch durable, then performs its effects.
//!
//! Order of one turn: everything that waits (up to a bound) goes through the engine; all batches of the turn are committed
//! in one durable transaction; only then the effects happen, in order. While the store cannot be written (a full disk),
//! nothing is performed and nothing new is taken in; the commit is tried again until it works.

mod collect;
mod connect;
mod counts;
mod disks;
mod doors;
mod fetch;
mod forward;
mod gate;
mod handle;
mod home;
mod images;
mod journal;
mod keys;
mod logs;
pub mod org;
mod output;
mod perform;
mod places;
mod policies;
mod ports;
mod probe;
mod prove;
mod pull;
mod ranges;
mod reach;
mod runtimes;
mod sessions;
mod share;
mod steer;
mod tasks;
mod transfers;
mod visit;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use accounting::PricePlan;
use catalog::NodeId;
use catalog::record::{ComputeDetail, Insiders, Kinds};
use fabric::{Event as FabricEvent, Fabric};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use tokio::sync::{broadcast, mpsc, watch};

pub use connect::NotConnected;
pub use counts::Counts;
pub use disks::{Conversion, DiskFailed, NewDisk};
pub use fetch::FetchFailed;
pub use forward::{CONNECTIONS_MAX, Forward, ForwardError, ForwardStatus};
pub use handle::{CallError, Handle, Progress};
pub(crate) use home::disk_free;
pub(crate) use home::replace_private;
pub use home::{Home, HomeError};
pub use images::ImageFailed;
pub use keys::Staged;
pub use logs::{Kept, Piece};
use perform::Performer;
pub(crate) use policies::Change;
pub use policies::NotChanged;
pub use ranges::{NotRead, Ranges};
pub use reach::ReachConfig;
use runtimes::Runtimes;
pub(crate) use steer::NotSteered;
pub use transfers::{Transfer, TransferState};
pub(crate) use visit::NotInside;

use crate::blobs::{BlobError, BlobStore};
use crate::engine::ports::Offers;
use crate::engine::{Effect, Engine, Input, RecoverError, Settings, Stored};
use crate::runtime::vm::Converter;
use crate::runtime::{ConnectError, DeviceError, Devices, RuntimeError, kubernetes, slurm, vm};
use crate::store::batch::{Batch, Table};
use crate::store::cache::{self, Cache, Tree};
use crate::store::lock::{HomeLock, LockError};
use crate::store::truth::{self, Truth};

/// Inputs that wait for the engine. When it is full, whoever brings one waits: network, runtime and API alike.
const INPUTS: usize = 1_024;
/// Commands that wait; the API waits when it is full.
const CALLS: usize = 256;
/// Inputs handled in one turn, so that one commit serves many.
const TURN_MAX: usize = 512;
/// News kept for slow watchers; they are told what they missed.
const PROGRESS: usize = 4_096;
/// Pause before a failed commit is tried again.
const COMMIT_RETRY: Duration = Duration::from_secs(1);
/// Tasks at once per core that is offered: small ones share a core.
const TASKS_PER_CORE: usize = 4;
/// How long running work may take to end at shutdown.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its directory.
    pub home: Home,
    /// Where the API will listen; kept here for the caller.
    pub api: SocketAddr,
    /// Multiaddrs to listen on.
    pub listen: Vec<String>,
    /// Whether to look for nodes on the local network.
    pub mdns: bool,
    /// How others reach the node, and what it does for them.
    pub reach: ReachConfig,
    /// Bytes of blobs per second that peers may fetch, if there is a bound.
    pub serve_rate: ServeRate,
    /// Whether public content of others that was fetched is given on.
    pub share_public: bool,
    /// What else peers may have of this machine.
    pub offers: Offers,
    /// Of a light node the kinds of which it keeps the records of others; absent when it keeps them all.
    pub light: Option<Kinds>,
    /// Prices; the default plan when absent.
    pub price_plan: Option<PricePlan>,
    /// What is offered instead of the whole machine.
    pub compute: ComputeOverrides,
    /// The socket of the container engine, when containers are offered.
    pub containers: Option<PathBuf>,
    /// Devices of this host that containers may hold, each one of them alone; without containers, nobody does.
    pub devices: Devices,
    /// Whether tasks may be replicas of services, too.
    pub services: bool,
    /// Where virtual machines have their files, in a directory of each node, when they are offered.
    pub vms: Option<PathBuf>,
    /// The Slurm cluster behind this node, when it is offered.
    pub slurm: Option<SlurmSite>,
    /// The Kubernetes cluster behind this node that runs containers, when it is offered; then there is no engine.
    pub kubernetes: Option<KubernetesSite>,
}

/// How fast peers may fetch blobs, in bytes per second; as fast as they can where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServeRate {
    /// All together.
    pub all: Option<u64>,
    /// Each of them.
    pub each: Option<u64>,
}

/// A Kubernetes cluster, as its site lets this node use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSite {
    /// A kubeconfig; without it, where its own tools would look.
    pub config: Option<PathBuf>,
    /// The namespace of all pods.
    pub namespace: String,
    /// Where images go and come from, as `HOST[:PORT]/PREFIX`.
    pub registry: String,
    /// A `config.json` as Docker has it, with credentials for the registry.
    pub registry_config: Option<PathBuf>,
    /// The secret with which the cluster's machines get images from the registry.
    pub pull_secret: Option<String>,
    /// An image with a static busybox, if not the usual one.
    pub helper_image: Option<String>,
    /// Whether tasks may have the cluster's network for want of a policy that keeps them off it.
    pub open_network: bool,
}

/// A Slurm cluster, as its site lets this node use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlurmSite {
    /// A directory that all machines of the cluster have under the same path.
    pub dir: PathBuf,
    /// The user as whom tasks run.
    pub user: String,
    /// `slurm.conf`, where Slurm's tools would not find it themselves.
    pub config: Option<PathBuf>,
    /// The partition, if not the site's default.
    pub partition: Option<String>,
    /// The account that the site charges, if not the user's default.
    pub account: Option<String>,
}

/// What the owner offers for tasks, where it differs from what the machine has.
#[derive(Clone, Debug, Default)]
pub struct ComputeOverrides {
    /// Thousandths of a core.
    pub cpu_milli: Option<u64>,
    /// Bytes.
    pub memory_bytes: Option<u64>,
    /// Bytes of disk that blobs may take, and that tasks and blobs share; nine tenths of what is free or in use by blobs at
    /// the start when absent.
    pub disk_bytes: Option<u64>,
    /// Where the node is, as its owner calls it.
    pub region: Option<String>,
    /// Whether tasks that ask for it reach the network.
    pub network: bool,
    /// Whose people may go inside the tasks that run here for them.
    pub exec: Option<Insiders>,
    /// Whose tasks may hold devices, where any are opened.
    pub device_for: Option<Insiders>,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Another process runs it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Its truth cannot be opened.
    #[error(transparent)]
    Truth(#[from] truth::OpenError),
    /// Its truth cannot be read.
    #[error("the store cannot be read")]
    Read(#[from] truth::ReadError),
    /// Its truth cannot be written.
    #[error("the store cannot be written")]
    Commit(#[from] truth::CommitError),
    /// Its cache cannot be opened.
    #[error(transparent)]
    Cache(#[from] cache::OpenError),
    /// Its blobs cannot be opened.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// Its stored state does not fit together.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The runtime cannot be set up.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Containers are to be offered, but cannot be.
    #[error(transparent)]
    Containers(#[from] ConnectError),
    /// Devices are to be opened, but cannot be.
    #[error(transparent)]
    Devices(#[from] DeviceError),
    /// Services are to be offered, but cannot be.
    #[error(
        "services need to reach into the networks of containers and machines: start the node as root, or give it CAP_SYS_ADMIN and CAP_SYS_PTRACE"
    )]
    Services(#[source] std::io::Error),
    /// Virtual machines are to be offered, but cannot be.
    #[error(transparent)]
    Vms(#[from] vm::OpenError),
    /// A cluster is to be offered, but cannot be.
    #[error(transparent)]
    Slurm(#[from] slurm::ConnectError),
    /// A cluster that runs containers is to be offered, but cannot be.
    #[error(transparent)]
    Kubernetes(#[from] kubernetes::ConnectError),
    /// The network cannot be set up.
    #[error(transparent)]
    Fabric(#[from] fabric::StartError),
    /// A directory cannot be made.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes")]
    Random,
}

/// Why a node stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// Its main task died; this is a defect.
    #[error("the node's main task died; this is a defect, its log says where")]
    Died,
}

/// A running node.
#[derive(Debug)]
pub struct Running {
    handle: Handle,
    fabric: Fabric,
    stop: watch::Sender<bool>,
    main: Option<tokio::task::JoinHandle<Ended>>,
    node: NodeId,
    _lock: HomeLock,
}

impl Running {
    /// The owner's handle.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Where peers reach the node now.
    pub async fn addresses(&self) -> Vec<String> {
        self.fabric.addresses().await
    }

    /// The node's id, under the key that it was started with.
    #[must_use]
    pub const fn node_id(&self) -> NodeId {
        self.node
    }

    /// Waits until the node stops by itself: because it is to be started again, with its next key. Cancel-safe.
    ///
    /// # Errors
    /// For any other reason: a healthy node runs until it is told to stop.
    pub async fn stopped(&mut self) -> Result<(), StopReason> {
        let Some(main) = self.main.as_mut() else { return Err(StopReason::Died) };
        let ended = main.await;
        self.main = None;
        match ended {
            Ok(Ended::Rotating) => Ok(()),
            Ok(Ended::Told) | Err(_) => Err(StopReason::Died),
        }
    }

    /// Stops taking work, ends what runs, closes connections. What was promised is durable already.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        if let Some(main) = self.main
            && tokio::time::timeout(SHUTDOWN, main).await.is_err()
        {
            tracing::warn!("the node did not stop in time and is abandoned");
        }
        self.fabric.shutdown().await;
    }
}

/// Why the main task came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It was told to stop.
    Told,
    /// The node is to be started again, with its next key.
    Rotating,
}

/// Unix milliseconds that never go back while the process lives.
#[derive(Clone, Copy, Debug)]
struct Clock {
    base_ms: u64,
    started: Instant,
}

impl Clock {
    fn start() -> Self {
        let base = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { base_ms: u64::try_from(base.as_millis()).unwrap_or(0), started: Instant::now() }
    }

    fn now_ms(self) -> u64 {
        self.base_ms + u64::try_from(self.started.elapsed().as_millis()).unwrap_or(0)
    }

    fn until(self, at_ms: u64) -> Duration {
        Duration::from_millis(at_ms.saturating_sub(self.now_ms()).min(60_000))
    }
}

/// Starts a node: takes its home, opens its stores, recovers the engine and connects it. The HTTP API is the caller's.
///
/// # Errors
/// See [`StartError`]; nothing is left running.
pub async fn start(mut config: NodeConfig) -> Result<Running, StartError> {
    let dir = config.home.dir().to_owned();
    let lock = HomeLock::acquire(&dir)?;
    // Nobody else runs on the key in use now: the one that is ready comes into its place.
    config.home = config.home.take_over(org::now_ms())?;
    let (truth, cache) = (Arc::new(Truth::open(&dir.join("truth"))?), open_cache(&dir)?);
    let (blobs, disk_free) = open_blobs(&dir, config.compute.disk_bytes)?;
    let (logs, work) = (dir.join("logs"), dir.join("work"));
    make_dirs(&[&logs, &work])?;
    let compute = machine(&config.compute, disk_free);
    let workers = usize::try_from(compute.cpu_milli.div_ceil(1_000)).unwrap_or(1).max(1);
    let runtimes = Runtimes::open(&config, workers * TASKS_PER_CORE).await?;
    let compute = runtimes.announced(compute);
    let (mut rng, clock) = (random()?, Clock::start());
    let settings = settings(&config, compute, workers)?;
    let (mut engine, first) =
        recover(settings, (&truth, &cache), &config.reach.bootstrap, clock.now_ms(), &mut rng)?;
    let collector = collect::Collector::new(blobs.clone(), logs.clone());
    let (inputs_in, inputs) = mpsc::channel(INPUTS);
    let (calls_in, calls) = mpsc::channel(CALLS);
    let next_id = Arc::new(AtomicU64::new(1));
    let sharing = share::Sharing::new(config.share_public, &cache, &calls_in, &next_id);
    let gate = gate::Gate::new(blobs.clone(), sharing.clone());
    let doors = doors::Doors::new(calls_in.clone(), Arc::clone(&next_id));
    let (fabric, events) = open_network(&config, &gate, &doors)?;
    let (progress, _) = broadcast::channel(PROGRESS);
    let ((trouble_in, trouble), (stop, stopping)) = (watch::channel(None), watch::channel(false));
    let transfers = transfers::Transfers::new(clock);
    let net = (fabric.clone(), inputs_in.clone());
    let fetcher = fetch::Fetcher::new(net, blobs.clone(), transfers, sharing.clone());
    tokio::spawn(sharing.run(fabric.clone(), blobs.clone(), stop.subscribe()));
    let handle = Handle {
        calls: calls_in,
        converter: Arc::new(open_converter(&config)?),
        next_id,
        blobs: blobs.clone(),
        fetcher: fetcher.clone(),
        progress: progress.clone(),
        truth: Arc::clone(&truth),
        logs: Arc::from(logs.as_path()),
        trouble,
        ways: connect::Ways::new(&doors, &fabric, &inputs_in),
        pulls: Arc::new(tokio::sync::Semaphore::new(pull::PULLS_MAX)),
        desk: policies::Desk::open(&config.home, &mut engine),
        counts: Arc::default(),
    };
    let prover = prove::Prover::new(fabric.clone(), blobs.clone(), inputs_in.clone());
    let (runtimes, to_engine) = (Arc::new(runtimes), inputs_in.clone());
    let runner = tasks::Runner { blobs, runtimes, work, doors, inputs: to_engine };
    let (out, kept, fetcher) =
        (fabric.clone(), (logs, clock, handle.desk.log.clone()), (fetcher, prover));
    let performer = Performer::new(out, gate, fetcher, runner, cache, progress, inputs_in, kept);
    let shell = Shell {
        engine,
        rng,
        clock,
        truth,
        performer,
        collector,
        inputs,
        calls,
        events,
        trouble: trouble_in,
        counts: Arc::clone(&handle.counts),
        stopping,
        home: dir,
        is_rotating: false,
    };
    let (main, node) = (Some(tokio::spawn(shell.run(first))), config.home.node_id());
    Ok(Running { handle, fabric, stop, main, node, _lock: lock })
}

fn open_cache(dir: &std::path::Path) -> Result<Cache, StartError> {
    let (cache, recovered) = Cache::open(&dir.join("cache"))?;
    if let Some(recovered) = recovered {
        tracing::warn!(set_aside = %recovered.set_aside.display(), "the cache was damaged; a new one is being filled");
    }
    Ok(cache)
}

fn random() -> Result<ChaCha8Rng, StartError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|_| StartError::Random)?;
    Ok(ChaCha8Rng::from_seed(seed))
}

fn make_dirs(dirs: &[&std::path::Path]) -> Result<(), StartError> {
    dirs.iter().try_for_each(|dir| {
        let made = std::fs::create_dir_all(dir);
        made.map_err(|source| StartError::Io { path: dir.to_path_buf(), source })
    })
}

/// Where images of disks are looked into and converted.
fn open_converter(config: &NodeConfig) -> Result<Converter, StartError> {
    let dir = config.home.dir().join("convert");
    let owner = format!("opencloud-{}", config.home.mark());
    Converter::open(&dir, &owner).map_err(|source| StartError::Io { path: dir, source })
}

/// The network, with what peers may get over it.
fn open_network(
    config: &NodeConfig,
    gate: &gate::Gate,
    doors: &doors::Doors,
) -> Result<(Fabric, mpsc::Receiver<FabricEvent>), fabric::StartError> {
    let key = config.home.node_key().to_bytes();
    let mut fabric_config = fabric::Config::new(key, config.listen.clone());
    fabric_config.mdns = config.mdns;
    config.reach.apply(&mut fabric_config);
    fabric_config.limits.blob_rate = config.serve_rate.all;
    fabric_config.limits.blob_rate_per_peer = config.serve_rate.each;
    let sources =
        fabric::Sources { blobs: Arc::new(gate.clone()), tunnels: Arc::new(doors.clone()) };
    fabric::start(fabric_config, sources)
}

/// The engine as it was when its last batch became durable, with what it wants done first.
fn recover(
    settings: Settings,
    (truth, cache): (&Truth, &Cache),
    bootstrap: &[(NodeId, String)],
    now_ms: u64,
    rng: &mut ChaCha8Rng,
) -> Result<(Engine, Vec<Effect>), StartError> {
    let stored = load(truth)?;
    let (mut engine, effects) = Engine::recover(settings, &stored, now_ms, rng)?;
    for (peer, addresses) in remembered(cache) {
        engine.learn_peer(peer, addresses);
    }
    for (peer, address) in bootstrap {
        engine.give_address(*peer, address.clone());
    }
    recall_replicas(&mut engine, cache, now_ms);
    truth.commit(std::slice::from_ref(&effects.batch))?;
    if stored.is_set_back {
        tracing::warn!(
            "this home was put back from a backup or copied: its ledgers wait for their partners"
        );
        truth.restore_handled()?;
    }
    Ok((engine, effects.list))
}

fn settings(
    config: &NodeConfig,
    compute: ComputeDetail,
    workers: usize,
) -> Result<Settings, HomeError> {
    Ok(Settings {
        papers: config.home.papers().clone(),
        node_key: config.home.node_key().clone(),
        former: config.home.former().to_vec(),
        org_name: config.home.org_name().to_owned(),
        node_name: config.home.node_name().to_owned(),
        price_plan: config.price_plan.clone().unwrap_or_default(),
        compute,
        tasks_max: u32::try_from(workers * TASKS_PER_CORE).unwrap_or(u32::MAX),
        blocked: std::collections::BTreeSet::new(),
        revocations: config.home.revocations()?,
        offers: config.offers.clone(),
        light: config.light,
    })
}

fn load(truth: &Truth) -> Result<Stored, truth::ReadError> {
    let mut stored = Stored { is_set_back: truth.was_restored(), ..Stored::default() };
    for table in Table::ALL {
        stored.tables.insert(table, truth.load(table)?);
    }
    Ok(stored)
}

fn remembered(cache: &Cache) -> Vec<(NodeId, Vec<String>)> {
    let rows = cache.scan(Tree::Peers, &[]).unwrap_or_default();
    rows.into_iter()
        .filter_map(|(key, value)| {
            let id: [u8; 32] = key.try_into().ok()?;
            Some((NodeId::from_bytes(id), serde_json::from_slice(&value).ok()?))
        })
        .collect()
}

/// Gives the engine what it knew of others before, and keeps of it only what still holds.
fn recall_replicas(engine: &mut Engine, cache: &Cache, now_ms: u64) {
    let kept = cache.scan(Tree::Replicas, &[]).unwrap_or_default();
    let items: Vec<Vec<u8>> = kept.into_iter().map(|(_, item)| item).collect();
    let held = engine.restore_replicas(now_ms, &items);
    if held.len() < items.len() {
        let kept = cache.clear(Tree::Replicas).and_then(|()| perform::cache_replicas(cache, &held));
        if let Err(error) = kept {
            tracing::warn!(%error, "records of others cannot be cached");
        }
    }
}

/// Opens the blobs under their quota, and says how many bytes of it are not used: what tasks may be offered.
fn open_blobs(home: &std::path::Path, limit: Option<u64>) -> Result<(BlobStore, u64), StartError> {
    let blobs = BlobStore::open(&home.join("blobs"), None)?;
    let used = blobs.usage().bytes;
    let quota = match limit {
        Some(limit) => limit,
        None => {
            let free = disk_free(home)
                .map_err(|source| StartError::Io { path: home.to_owned(), source })?;
            free.saturating_add(used) / 10 * 9
        }
    };
    blobs.limit(quota);
    Ok((blobs, quota.saturating_sub(used)))
}

/// What this machine can offer: all cores, half of the memory, the part of the disk that is free for it.
fn machine(overrides: &ComputeOverrides, disk_bytes: u64) -> ComputeDetail {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let memory = memory_bytes().unwrap_or(1 << 30) / 2;
    ComputeDetail {
        arch: std::env::consts::ARCH.to_owned(),
        cpu_milli: overrides.cpu_milli.unwrap_or(cores * 1_000),
        memory_bytes: overrides.memory_bytes.unwrap_or(memory),
        disk_bytes,
        region: overrides.region.clone().unwrap_or_default(),
        network: overrides.network,
        exec: overrides.exec,
        device_for: overrides.device_for,
        ..ComputeDetail::default()
    }
}

fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1_024)
}

struct Shell {
    engine: Engine,
    rng: ChaCha8Rng,
    clock: Clock,
    truth: Arc<Truth>,
    performer: Performer,
    collector: collect::Collector,
    inputs: mpsc::Receiver<Input>,
    calls: mpsc::Receiver<handle::Call>,
    events: mpsc::Receiver<FabricEvent>,
    trouble: watch::Sender<Option<String>>,
    counts: Arc<Counts>,
    stopping: watch::Receiver<bool>,
    home: PathBuf,
    is_rotating: bool,
}

impl Shell {
    async fn run(mut self, first: Vec<Effect>) -> Ended {
        self.keep_home(&first).await;
        self.performer.perform(first).await;
        let mut addresses_due = tokio::time::interval(Duration::from_millis(50));
        let mut known: Vec<String> = Vec::new();
        let mut collect_due = tokio::time::interval(collect::COLLECT_EVERY);
        collect_due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut turn = Vec::new();
            let due = self.clock.until(self.engine.poll_timeout());
            tokio::select! {
                biased;
                () = until_set(&mut self.stopping) => break,
                Some(input) = self.inputs.recv() => turn.push(input),
                Some(call) = self.calls.recv() => turn.push(self.performer.admit(call)),
                Some(event) = self.events.recv() => turn.extend(self.performer.translate(event)),
                _ = addresses_due.tick() => {
                    let addresses = self.performer.addresses().await;
                    if addresses == known {
                        // Listeners are up; from now on look only now and then for a changed interface.
                        addresses_due = tokio::time::interval(Duration::from_secs(30));
                        addresses_due.reset();
                    } else {
                        known.clone_from(&addresses);
                        turn.push(Input::Listening { addresses });
                    }
                }
                _ = collect_due.tick() => {
                    self.collector.begin(self.engine.pins(self.clock.now_ms()));
                    continue;
                }
                () = tokio::time::sleep(due) => turn.push(Input::Tick),
            }
            self.fill(&mut turn);
            self.turn(turn).await;
            if self.is_rotating {
                break;
            }
        }
        self.collector.stop();
        self.performer.stop().await;
        if self.is_rotating { Ended::Rotating } else { Ended::Told }
    }

    /// What the engine wants of the node's own keys.
    async fn keep_home(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Rotate => self.is_rotating = true,
                Effect::ForgetKey { node } => {
                    let (dir, node) = (self.home.clone(), *node);
                    let done = tokio::task::spawn_blocking(move || Home::forget_key(&dir, node));
                    if let Ok(Err(error)) = done.await {
                        // The next start finds it at rest again, and tries again.
                        tracing::warn!(%error, "the secret of a former key cannot be removed");
                    }
                }
                _ => {}
            }
        }
    }

    /// Takes what else waits, so that one commit serves it all.
    fn fill(&mut self, turn: &mut Vec<Input>) {
        while turn.len() < TURN_MAX {
            if let Ok(input) = self.inputs.try_recv() {
                turn.push(input);
            } else if let Ok(call) = self.calls.try_recv() {
                turn.push(self.performer.admit(call));
            } else if let Ok(event) = self.events.try_recv() {
                turn.extend(self.performer.translate(event));
            } else {
                return;
            }
        }
    }

    async fn turn(&mut self, inputs: Vec<Input>) {
        let mut batches = Vec::new();
        let mut effects = Vec::new();
        self.counts.turn(inputs.len());
        for input in inputs {
            let mut wanted = self.engine.handle(self.clock.now_ms(), &mut self.rng, input);
            if !wanted.batch.is_empty() {
                batches.push(wanted.batch);
            }
            effects.append(&mut wanted.list);
        }
        if !batches.is_empty() && !self.commit(batches).await {
            return;
        }
        self.keep_home(&effects).await;
        self.performer.perform(effects).await;
    }

    /// Returns once the batches are durable; false when the node has to stop before that.
    async fn commit(&mut self, batches: Vec<Batch>) -> bool {
        let batches = Arc::new(batches);
        loop {
            let (truth, batch) = (Arc::clone(&self.truth), Arc::clone(&batches));
            let done = tokio::task::spawn_blocking(move || truth.commit(&batch)).await;
            let detail = match done {
                Ok(Ok(())) => {
                    self.counts.committed();
                    self.trouble.send_if_modified(|t| t.take().is_some());
                    return true;
                }
                Ok(Err(error)) if error.is_disk_full() => "the disk is full".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the store's thread died".to_owned(),
            };
            tracing::error!(%detail, "the store cannot be written; trying again");
            self.counts.commit_failed();
            self.trouble.send_replace(Some(detail));
            tokio::select! {
                () = until_set(&mut self.stopping) => return false,
                () = tokio::time::sleep(COMMIT_RETRY) => {}
            }
        }
    }
}

/// Waits until the flag is set, or whoever could set it is gone.
async fn until_set(flag: &mut watch::Receiver<bool>) {
    // A closed channel means stop as well; the borrowed value must not outlive this call.
    drop(flag.wait_for(|is_set| *is_set).await);
}
