//! The host of machines: its programs, its directory, the users that machines run as, and what an earlier life left.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::Digest;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::accel::{self, Accel};
use super::args::Arch;
use super::network::{self, Tools};
use super::process::{LIMITER, limiter, vitals};
use super::tool::Tool;
use crate::runtime::cgroup;

/// Most machines at a time, whatever is asked for.
pub const WORKERS_MAX: usize = 128;
/// Users that one node's machines run as. More than machines, because programs that prepare images have their own.
const USERS: u32 = 256;
/// The first of all such users. Beyond those of people, of systemd and of container engines, and not yet negative.
const USERS_BASE: u32 = 0x7000_0000;
/// Groups of [`USERS`] among which nodes of one host are spread by their names.
const USER_GROUPS: u32 = 0x8_0000;
/// How long a machine may take until its task begins, if not said otherwise. Debian takes 100 s without KVM on a busy host.
const BOOT_TIMEOUT: Duration = Duration::from_secs(600);
/// Bytes of prepared images that are kept, if not said otherwise.
const CACHE_BYTES: u64 = 32 << 30;
/// How often cgroups of an earlier life are tried to be removed, and the pause between two tries: killed machines give their
/// memory back, which takes seconds on a busy host. What is there even then stays until the next start.
const SWEEPS_MAX: u32 = 200;
const SWEEP_PAUSE: Duration = Duration::from_millis(50);
/// Where a machine's directory says which process is its own.
pub(super) const MARKER: &str = "process";
/// Where it says which process brings in the network.
pub(super) const NET_MARKER: &str = "network";
/// Names inside the node's directory for machines.
const MACHINES: &str = "machines";
const IMAGES: &str = "images";
const LOCK: &str = "lock";
/// Firmware that boots disks where there is none in the machine.
const FIRMWARE_ARM: [&str; 3] = [
    "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
    "/usr/share/AAVMF/AAVMF_CODE.fd",
    "/usr/share/edk2/aarch64/QEMU_EFI.fd",
];
/// Where programs are looked for after `PATH`.
const PROGRAM_DIRS: [&str; 5] =
    ["/usr/bin", "/usr/local/bin", "/usr/libexec", "/usr/sbin", "/sbin"];

/// How machines are run.
#[derive(Clone, Debug)]
pub struct VmOptions {
    /// The runtime's own directory, made if need be. Where the node is root, others have to be able to pass through the
    /// directories above it.
    pub dir: PathBuf,
    /// The node's name on this host.
    pub owner: String,
    /// Most machines at a time, at least one and at most [`WORKERS_MAX`]; further ones wait for their turn.
    pub workers: usize,
    /// Longest time from a machine's start to its task's.
    pub boot_timeout: Duration,
    /// Bytes of prepared images that are kept.
    pub cache_bytes: u64,
    /// How instructions are executed; found out by a probe without it.
    pub accel: Option<Accel>,
    /// Whether tasks may have ports that can be connected to.
    pub ports: bool,
    /// Whether tasks may be granted the network.
    pub network: bool,
}

impl VmOptions {
    /// One machine at a time, without ports or a network, and all else as usual.
    #[must_use]
    pub fn new(dir: PathBuf, owner: &str) -> Self {
        Self {
            dir,
            owner: owner.to_owned(),
            workers: 1,
            boot_timeout: BOOT_TIMEOUT,
            cache_bytes: CACHE_BYTES,
            accel: None,
            ports: false,
            network: false,
        }
    }
}

/// Why machines cannot be offered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A program is missing.
    #[error("there is no `{program}`; install it (on Debian: `apt-get install {package}`)")]
    NoProgram {
        /// Its name.
        program: &'static str,
        /// The package of Debian that has it.
        package: &'static str,
    },
    /// Machines are not known for this architecture.
    #[error("machines are offered on x86_64 and aarch64 only, and this host is {arch}")]
    Architecture {
        /// What it is.
        arch: &'static str,
    },
    /// A file or directory cannot be used.
    #[error("cannot {action} `{}` for machines; check its owner, mode and free space", path.display())]
    Directory {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Machines could not reach their files.
    #[error(
        "machines run as users of their own, who cannot pass through `{}`: `chmod o+x` it, or choose a directory such as \
         /var/lib/opencloud",
        path.display()
    )]
    Unreachable {
        /// The directory that is closed.
        path: PathBuf,
    },
    /// Ports and networks were asked for, and the node may not make any.
    #[error(
        "machines get ports or a network only of a node that is root: start it as root, or offer machines without \
         services and network"
    )]
    NotRoot,
    /// The network of a machine does not come to be.
    #[error("machines cannot be given ports or a network here: {detail}")]
    NoNetwork {
        /// What was tried, and what the operating system or a program said.
        detail: String,
    },
    /// Another node uses the directory.
    #[error("`{}` is in use by another node; give each its own", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// QEMU is there and does not run a machine.
    #[error("qemu cannot run a machine here: {detail}")]
    Unfit {
        /// What it said.
        detail: String,
    },
}

/// A user and group of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What runs the machines.
#[derive(Debug)]
pub struct Host {
    /// How instructions are executed.
    pub accel: Accel,
    /// Processors of the host, in thousandths.
    pub cpu_milli: u64,
    /// Whether cgroups hold machines to their memory and processor time. Without them a machine is held to its memory by its
    /// construction, and to its processors only in number.
    pub has_cgroups: bool,
    pub(super) arch: Arch,
    pub(super) qemu: PathBuf,
    pub(super) qemu_img: PathBuf,
    pub(super) tool: Tool,
    pub(super) firmware: Option<PathBuf>,
    /// What makes networks; none where tasks have neither ports nor a network.
    pub(super) net_tools: Option<Tools>,
    pub(super) options: VmOptions,
    pub(super) machines: PathBuf,
    pub(super) images: PathBuf,
    users: Arc<Users>,
    /// Held as long as the node lives.
    _lock: File,
}

impl Host {
    /// A user for a process, nobody else's as long as the lease lasts.
    pub(super) fn lease(&self) -> Lease {
        self.users.lease()
    }
}

/// The users that machines run as.
#[derive(Debug)]
pub(super) struct Users {
    /// The first one; none when the node is not root, and machines run as the node itself.
    base: Option<u32>,
    /// Whom the kernel lets use KVM.
    kvm_group: Option<u32>,
    taken: Mutex<BTreeSet<u32>>,
}

impl Users {
    /// Those of a node by its name on this host; none when the node is not root.
    pub(super) fn new(owner: &str, kvm_group: Option<u32>) -> Arc<Self> {
        let is_root = rustix::process::geteuid().is_root();
        let base = is_root.then(|| users_base(owner));
        Arc::new(Self { base, kvm_group, taken: Mutex::default() })
    }

    pub(super) fn lease(self: &Arc<Self>) -> Lease {
        let Some(base) = self.base else { return Lease { user: None, users: Arc::clone(self) } };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // Never all: there are more users than machines and programs at a time.
        let uid = (base..base + USERS).find(|uid| !taken.contains(uid)).unwrap_or(base);
        taken.insert(uid);
        let user = User { uid, gid: self.kvm_group.unwrap_or(uid) };
        Lease { user: Some(user), users: Arc::clone(self) }
    }
}

/// A user that is taken; given back when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) user: Option<User>,
    users: Arc<Users>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(user) = self.user {
            self.users.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&user.uid);
        }
    }
}

pub(super) async fn open(options: VmOptions) -> Result<Host, OpenError> {
    let arch = Arch::here().ok_or(OpenError::Architecture { arch: std::env::consts::ARCH })?;
    let package = match arch {
        Arch::X86 => "qemu-system-x86",
        Arch::Arm => "qemu-system-arm",
    };
    let find =
        |program, package| program_at(program).ok_or(OpenError::NoProgram { program, package });
    let (qemu, qemu_img) = (find(arch.program(), package)?, find_qemu_img()?);
    let is_root = rustix::process::geteuid().is_root();
    let net_tools = network::tools(&options, is_root)?;
    let (dir, lock) = directories(&options.dir, is_root)?;
    let kvm_group = fs::metadata("/dev/kvm").ok().map(|meta| meta.gid()).filter(|gid| *gid != 0);
    let n_cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let mut host = Host {
        accel: Accel::Tcg,
        cpu_milli: n_cpus * 1_000,
        has_cgroups: is_root && can_make_cgroups(&options.owner),
        arch,
        qemu,
        tool: Tool::new(qemu_img.clone(), &options.owner),
        qemu_img,
        firmware: FIRMWARE_ARM
            .iter()
            .map(PathBuf::from)
            .find(|path| arch == Arch::Arm && path.exists()),
        net_tools,
        machines: dir.join(MACHINES),
        images: dir.join(IMAGES),
        users: Users::new(&options.owner, kvm_group),
        options,
        _lock: lock,
    };
    remove_leftovers(&host).await;
    host.accel = accel::choose(&host).await?;
    if let Some(tools) = &host.net_tools {
        network::probe(tools, &host.machines).await?;
    }
    tracing::info!(accel = ?host.accel, cgroups = host.has_cgroups, "virtual machines can run");
    Ok(host)
}

/// Where `qemu-img` is, and that there is what limits it.
pub(super) fn find_qemu_img() -> Result<PathBuf, OpenError> {
    let no_program = |program, package| OpenError::NoProgram { program, package };
    limiter().ok_or_else(|| no_program(LIMITER, "util-linux"))?;
    program_at("qemu-img").ok_or_else(|| no_program("qemu-img", "qemu-utils"))
}

/// Where a program is, by `PATH` and by custom.
pub(super) fn program_at(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(PROGRAM_DIRS.iter().map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|path| fs::metadata(path).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0))
}

/// Makes and locks the node's directory.
fn directories(dir: &Path, is_root: bool) -> Result<(PathBuf, File), OpenError> {
    let at = |action, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Directory { action, path, source }
    };
    let make = |dir: &Path, mode: u32| {
        fs::DirBuilder::new().recursive(true).mode(mode).create(dir).map_err(at("make", dir))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(mode))
            .map_err(at("set the mode of", dir))
    };
    make(dir, 0o711)?;
    let dir = dir.canonicalize().map_err(at("open", dir))?;
    make(&dir.join(MACHINES), 0o711)?;
    make(&dir.join(IMAGES), 0o700)?;
    if is_root && let Some(path) = closed_above(&dir) {
        return Err(OpenError::Unreachable { path });
    }
    let path = dir.join(LOCK);
    let lock = File::create(&path).map_err(at("make", &path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok((dir, lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse { path: dir }),
        Err(error) => Err(at("lock", &path)(error.into())),
    }
}

/// The first directory on the way that others cannot pass through.
fn closed_above(dir: &Path) -> Option<PathBuf> {
    let is_closed = |dir: &&Path| fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o001 == 0);
    dir.ancestors().find(is_closed).map(Path::to_owned)
}

/// The first user of a node's machines. Nodes of one host have different names and so, nearly always, different users.
fn users_base(owner: &str) -> u32 {
    let digest = Digest::of(owner.as_bytes());
    let hash = digest.as_bytes().iter().take(4).fold(0, |hash, byte| hash << 8 | u32::from(*byte));
    USERS_BASE + hash % USER_GROUPS * USERS
}

fn can_make_cgroups(owner: &str) -> bool {
    let own = cgroup::Own::new(&cgroup_owner(owner), "probe", cgroup::is_v2());
    let limits = cgroup::Limits { cpu_milli: 100, memory_bytes: 64 << 20, n_processes: 8 };
    match own.make(limits) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "machines are not held by cgroups, since none can be made");
            false
        }
    }
}

/// The name of a node's own part of the cgroups.
pub(super) fn cgroup_owner(owner: &str) -> String {
    format!("vm-{}", &Digest::of(owner.as_bytes()).to_hex()[..16])
}

/// Ends and removes what an earlier life of this node left behind. The lock says that it is over.
async fn remove_leftovers(host: &Host) {
    if let Ok(entries) = fs::read_dir(&host.machines) {
        for dir in entries.flatten().map(|entry| entry.path()) {
            for name in [MARKER, NET_MARKER] {
                if let Ok(marker) = fs::read_to_string(dir.join(name)) {
                    end_marked(&marker);
                }
            }
            if let Err(error) = fs::remove_dir_all(&dir) {
                tracing::warn!(path = %dir.display(), %error, "what a machine left cannot be removed");
            }
        }
    }
    let owner = cgroup_owner(&host.options.owner);
    for _ in 0..SWEEPS_MAX {
        if cgroup::remove_leftovers(&owner) {
            return;
        }
        // Machines whose watchers, or we, have just killed them are still going.
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
    tracing::warn!(%owner, "cgroups of an earlier run are left behind; the next start tries again");
}

/// What a marker says: this start of the system, the process, and when that began.
pub(super) fn marker(pid: u32) -> Option<String> {
    Some(format!("{} {pid} {}\n", boot_id()?, vitals(pid)?.started))
}

/// Ends the process of a marker, if it is still that one.
fn end_marked(marker: &str) {
    let Some(pid) = marker.split_whitespace().nth(1).and_then(|pid| pid.parse::<u32>().ok()) else {
        return;
    };
    let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    // From here on the descriptor means one process, so that the look at it cannot be outdated.
    let Ok(process) = pidfd_open(id, PidfdFlags::empty()) else { return };
    if marked(marker) == Some(pid) {
        tracing::info!(pid, "ending a machine that an earlier run of this node left behind");
        // It may have ended since.
        let _ = pidfd_send_signal(&process, Signal::KILL);
    }
}

/// The process of a marker, if it is still that one.
fn marked(marker: &str) -> Option<u32> {
    let mut parts = marker.split_whitespace();
    let (boot, pid, started) = (parts.next()?, parts.next()?, parts.next()?);
    let pid: u32 = pid.parse().ok()?;
    let is_it = boot_id()? == boot && vitals(pid)?.started.to_string() == started;
    is_it.then_some(pid)
}

fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_nobodys_and_no_two_machines_share_one() {
        let users = Arc::new(Users { base: Some(7_000), kvm_group: None, taken: Mutex::default() });
        let (first, second) = (users.lease(), users.lease());
        assert_ne!(first.user, second.user);
        let freed = first.user;
        drop(first);
        assert_eq!(users.lease().user, freed);
        for owner in ["a", "b", "12D3KooW"] {
            let base = users_base(owner);
            assert!((USERS_BASE..=i32::MAX as u32 - USERS).contains(&base), "{base:x}");
        }
    }

    #[test]
    fn a_process_is_known_by_more_than_its_number() {
        let own = std::process::id();
        let marker = marker(own).unwrap();
        assert_eq!(marked(&marker), Some(own));
        let started = vitals(own).unwrap().started;
        let boot = boot_id().unwrap();
        assert_eq!(marked(&format!("{boot} {own} {}", started + 1)), None);
        assert_eq!(marked(&format!("other {own} {started}")), None);
        assert_eq!(marked(""), None);
    }

    #[test]
    fn a_closed_directory_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        fs::create_dir_all(closed.join("below")).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(closed_above(&closed.join("below")).unwrap(), closed);
        assert_eq!(closed_above(Path::new("/usr/bin")), None);
    }

    #[test]
    fn a_directory_has_one_node() {
        let dir = tempfile::tempdir().unwrap();
        let _held = directories(dir.path(), false).unwrap();
        assert!(matches!(directories(dir.path(), false), Err(OpenError::InUse { .. })));
    }
}
