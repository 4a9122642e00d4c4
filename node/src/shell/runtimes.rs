//! The runtimes of this node: opened at its start, chosen by a task's program.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use catalog::record::ComputeDetail;
use scheduler::device::Held;
use scheduler::task::{Boot, Program, RuntimeKind, TaskSpec};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use super::{NodeConfig, StartError};
use crate::blobs::{BlobError, BlobStore};
use crate::runtime::container::may_enter_networks;
use crate::runtime::kubernetes::Options as KubernetesOptions;
use crate::runtime::slurm::Options as SlurmOptions;
use crate::runtime::vm::{Machine, VmOptions};
use crate::runtime::{
    ContainerRuntime, ContainerTask, DeviceError, Devices, KubernetesRuntime, LogSink, Mount,
    Running, SlurmRuntime, SlurmTask, TaskBase, VmRuntime, VmTask, WasiRuntime, WasiTask,
};

/// Longest time that a job may wait in the queue of a cluster.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);
/// Processes that all jobs of this node may have together on one machine of a cluster; one more and their `fork` fails. Few
/// enough that a task meets it before its memory, see [`SlurmOptions::processes_max`].
const PROCESSES_MAX: u32 = 512;
/// Largest user data for cloud-init in bytes; a task with more is refused.
const USER_DATA_MAX: u64 = 64 << 10;
/// How long a cancelled machine has to shut itself down.
const GRACE: Duration = Duration::from_secs(5);

/// What executes tasks here.
#[derive(Debug)]
pub(super) struct Runtimes {
    /// Names this node among those that share an engine with it.
    owner: String,
    wasi: WasiRuntime,
    /// There when the owner offers containers.
    containers: Option<Containers>,
    /// What of the host containers may be given.
    devices: Devices,
    /// There when the owner offers virtual machines.
    vms: Option<VmRuntime>,
    /// There when the owner offers a cluster.
    slurm: Option<SlurmRuntime>,
    /// Whether the owner lets tasks be replicas of services.
    services: bool,
    /// Where the machines of the cluster find the files of tasks.
    cluster_work: Option<PathBuf>,
}

/// What runs containers.
#[derive(Debug)]
enum Containers {
    /// The engine of this machine.
    Engine(ContainerRuntime),
    /// The cluster behind this node.
    Cluster(Box<KubernetesRuntime>),
}

impl Containers {
    /// Whether the ports of tasks can be reached.
    const fn has_services(&self) -> bool {
        matches!(self, Self::Engine(_))
    }

    fn start(&self, task: ContainerTask) -> Running {
        match self {
            Self::Engine(engine) => engine.start(task),
            Self::Cluster(cluster) => cluster.start(task),
        }
    }
}

/// A task's own files on this host, and how it is called.
pub(super) struct Staged {
    /// Unique among this node's attempts.
    pub name: String,
    pub stdin: Option<PathBuf>,
    pub work: PathBuf,
    pub tmp: PathBuf,
    pub mounts: Vec<Mount>,
    pub devices: Held,
    pub logs: Arc<dyn LogSink>,
}

/// Why a task cannot be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotStarted {
    /// Its program is not as it should be on disk.
    #[error("the program cannot be laid out")]
    Program(#[from] BlobError),
    /// The runtime was offered by an earlier life of this node only.
    #[error("this node has no `{}` runtime any more", .0.as_str())]
    NoRuntime(RuntimeKind),
    /// A device was opened by an earlier life of this node only.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// What cloud-init is to be given cannot be.
    #[error("the user data is not text of at most {USER_DATA_MAX} bytes")]
    UserData,
}

impl Runtimes {
    /// Those that the owner offers. At most `tasks_max` tasks of each run at a time.
    pub(super) async fn open(config: &NodeConfig, tasks_max: usize) -> Result<Self, StartError> {
        let id = config.home.mark();
        let owner = format!("opencloud-{id}");
        let wasi = WasiRuntime::new(config.home.dir().join("aot"), tasks_max)?;
        let containers = containers(config, &owner, tasks_max).await?;
        let devices = match &containers {
            Some(Containers::Engine(engine)) => engine.open_devices(config.devices.clone())?,
            Some(Containers::Cluster(_)) | None => Devices::default(),
        };
        let vms = match &config.vms {
            Some(dir) => {
                let mut options = VmOptions::new(dir.join(&owner), &owner);
                options.workers = tasks_max;
                options.ports = config.services;
                options.network = config.compute.network;
                Some(VmRuntime::open(options).await?)
            }
            None => None,
        };
        let slurm = match &config.slurm {
            Some(site) => Some(SlurmRuntime::connect(site_options(site, &owner, tasks_max)).await?),
            None => None,
        };
        let cluster_work = config.slurm.as_ref().map(|site| site.dir.join(format!("{owner}-work")));
        if let Some(dir) = &cluster_work {
            // Others may pass through but see nothing.
            let made = DirBuilder::new().recursive(true).mode(0o711).create(dir);
            made.map_err(|source| StartError::Io { path: dir.clone(), source })?;
        }
        let has_engine = containers.as_ref().is_some_and(Containers::has_services);
        if config.services && (has_engine || vms.is_some()) {
            may_enter_networks().map_err(StartError::Services)?;
        }
        let services = config.services;
        Ok(Self { owner, wasi, containers, devices, vms, slurm, services, cluster_work })
    }

    /// The machine as the node's record tells it, with what may be done on it.
    pub(super) fn announced(&self, machine: ComputeDetail) -> ComputeDetail {
        let accelerators = self.devices.names();
        let device_for = machine.device_for.filter(|_| !accelerators.is_empty());
        ComputeDetail { runtimes: self.words(), accelerators, device_for, ..machine }
    }

    /// The words for them in the node's record.
    fn words(&self) -> Vec<String> {
        let kinds = [
            Some(RuntimeKind::Wasi),
            self.containers.as_ref().map(|_| RuntimeKind::Container),
            self.vms.as_ref().map(|_| RuntimeKind::Vm),
            self.slurm.as_ref().map(|_| RuntimeKind::Slurm),
        ];
        let kinds = kinds.into_iter().flatten();
        let is_service = |kind: &RuntimeKind| match kind {
            RuntimeKind::Wasi | RuntimeKind::Vm => self.services,
            RuntimeKind::Container => {
                self.services && self.containers.as_ref().is_some_and(Containers::has_services)
            }
            RuntimeKind::Slurm => false,
        };
        let services = kinds.clone().filter(is_service);
        let words = kinds.map(RuntimeKind::as_str);
        words.chain(services.map(RuntimeKind::service_word)).map(str::to_owned).collect()
    }

    /// Where tasks of this program have their files, if not in the node's own directory: a cluster's machines share another.
    pub(super) fn work_dir(&self, program: &Program) -> Option<&Path> {
        matches!(program, Program::Slurm { .. }).then_some(self.cluster_work.as_deref()).flatten()
    }

    /// Every directory in which tasks may have files, besides the node's own.
    pub(super) fn other_work_dirs(&self) -> impl Iterator<Item = &Path> {
        self.cluster_work.as_deref().into_iter()
    }

    /// Starts a task whose inputs are laid out.
    pub(super) async fn start(
        &self,
        blobs: &BlobStore,
        spec: &TaskSpec,
        staged: Staged,
    ) -> Result<Running, NotStarted> {
        let none = || NotStarted::NoRuntime(spec.program.runtime());
        Ok(match &spec.program {
            Program::Wasi { module, fuel } => {
                let path = blobs.verified_path(module.digest).await?;
                self.wasi.start(WasiTask {
                    base: base(spec, staged),
                    module: path,
                    digest: module.digest,
                    fuel: *fuel,
                    serves: spec.service.is_some(),
                })
            }
            Program::Container { image, entrypoint } => {
                let containers = self.containers.as_ref().ok_or_else(none)?;
                let name = format!("{}-{}", self.owner, staged.name);
                containers.start(ContainerTask {
                    image: blobs.shared_dir(image).await?,
                    digest: image.digest,
                    entrypoint: entrypoint.clone(),
                    devices: self.devices.units(&staged.devices)?,
                    has_ports: spec.service.is_some(),
                    base: base(spec, Staged { name, ..staged }),
                })
            }
            Program::Vm { boot, user_data, ssh_keys } => {
                let vms = self.vms.as_ref().ok_or_else(none)?;
                let user_data = match user_data {
                    Some(file) => Some(text(&blobs.verified_path(file.digest).await?).await?),
                    None => None,
                };
                let (machine, digest) = match boot {
                    Boot::Kernel { dir, append } => {
                        let append = append.clone();
                        (Machine::Kernel { dir: blobs.shared_dir(dir).await?, append }, dir.digest)
                    }
                    Boot::Disk { disk } => {
                        let image = blobs.verified_path(disk.digest).await?;
                        let ssh_keys = ssh_keys.clone();
                        (Machine::Disk { image, user_data, ssh_keys }, disk.digest)
                    }
                };
                vms.start(VmTask {
                    base: base(spec, staged),
                    machine,
                    digest,
                    grace: GRACE,
                    ports: spec.service.iter().flat_map(|of| of.ports.values().copied()).collect(),
                })
            }
            Program::Slurm { program } => {
                let slurm = self.slurm.as_ref().ok_or_else(none)?;
                let path = blobs.verified_path(program.digest).await?;
                slurm.start(SlurmTask {
                    base: base(spec, staged),
                    program: path,
                    digest: program.digest,
                })
            }
        })
    }
}

/// What every runtime is told alike.
fn base(spec: &TaskSpec, staged: Staged) -> TaskBase {
    TaskBase {
        name: staged.name,
        args: spec.argv.clone(),
        env: spec.env.clone(),
        stdin: staged.stdin,
        work: staged.work,
        tmp: staged.tmp,
        mounts: staged.mounts,
        cpu_milli: spec.needs.cpu_milli,
        memory_bytes: spec.needs.memory_bytes,
        disk_bytes: spec.needs.disk_bytes,
        network: spec.needs.network,
        timeout: Duration::from_millis(spec.timeout_ms),
        logs: staged.logs,
    }
}

/// A small text file.
async fn text(path: &Path) -> Result<String, NotStarted> {
    let file = File::open(path).await.map_err(|_| NotStarted::UserData)?;
    let mut text = String::new();
    match file.take(USER_DATA_MAX + 1).read_to_string(&mut text).await {
        Ok(n) if n as u64 <= USER_DATA_MAX => Ok(text),
        _ => Err(NotStarted::UserData),
    }
}

/// What runs containers here: the cluster, if there is one, else the engine.
async fn containers(
    config: &NodeConfig,
    owner: &str,
    tasks_max: usize,
) -> Result<Option<Containers>, StartError> {
    if let Some(site) = &config.kubernetes {
        let options = cluster_options(site, owner, tasks_max);
        let cluster = Box::pin(KubernetesRuntime::connect(options)).await?;
        return Ok(Some(Containers::Cluster(Box::new(cluster))));
    }
    Ok(match &config.containers {
        Some(socket) => {
            Some(Containers::Engine(ContainerRuntime::connect(socket, owner, tasks_max).await?))
        }
        None => None,
    })
}

fn cluster_options(
    site: &super::KubernetesSite,
    owner: &str,
    pods_max: usize,
) -> KubernetesOptions {
    let usual = KubernetesOptions::new(owner, &site.namespace, &site.registry);
    KubernetesOptions {
        config: site.config.clone(),
        registry_config: site.registry_config.clone(),
        pull_secret: site.pull_secret.clone(),
        helper_image: site.helper_image.clone().unwrap_or(usual.helper_image),
        queue_timeout: QUEUE_TIMEOUT,
        pods_max,
        allow_open_network: site.open_network,
        ..usual
    }
}

fn site_options(site: &super::SlurmSite, owner: &str, jobs_max: usize) -> SlurmOptions {
    SlurmOptions {
        dir: site.dir.clone(),
        owner: owner.to_owned(),
        user: site.user.clone(),
        config: site.config.clone(),
        partition: site.partition.clone(),
        account: site.account.clone(),
        qos: None,
        queue_timeout: QUEUE_TIMEOUT,
        jobs_max,
        processes_max: PROCESSES_MAX,
    }
}
