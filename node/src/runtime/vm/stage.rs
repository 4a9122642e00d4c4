//! A machine's own directory, with all that QEMU needs in it.
//!
//! QEMU, which runs as another user, can neither list the directory nor write to it: it finds what it is told of, and can
//! change the two files that are for its output. What it has in memory when it is suspended is there, too, but not for it. The node reads those by descriptors that it has held from the beginning, so
//! it does not matter what a guest that has broken out does to them.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{CWD, Mode, mkfifoat};

use super::args::{self, Boot, Plan};
use super::host::{Host, Lease, User, cgroup_owner};
use super::network::Nic;
use super::process::{Process, Spec};
use super::store::Image;
use super::{MEMORY_MIN_BYTES, Machine, VmTask, archive, cpio, fault, seed};
use crate::runtime::cgroup::{self, Own};
use crate::runtime::{HostFault, disk};

/// What an archive needs besides its files' content: a kilobyte for each of 250,000. It is a bound, not space that is taken.
const ARCHIVE_OVERHEAD_BYTES: u64 = 256 << 20;
/// What a disk machine may write for itself while its task runs: logs, caches, its own set-up.
const SYSTEM_BYTES: u64 = 1 << 30;
/// Disks have whole MiB.
const MIB: u64 = 1 << 20;
/// What QEMU needs besides the machine's memory: 64 MiB for translated code, 60 for itself, the rest for its devices.
const MEMORY_OVERHEAD_BYTES: u64 = 320 << 20;
/// Most threads of QEMU besides one per processor: those of its disks and ports. What brings in a network has one.
const THREADS: u64 = 96;
/// How long it may take to make an overlay.
const CREATE_TIMEOUT: Duration = Duration::from_secs(30);
const BLOCK_BYTES: u64 = 512;

/// A machine that can be started.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) dir: Dir,
    pub(super) args: Vec<OsString>,
    /// By the names of [`args::SOCKETS`].
    pub(super) listeners: Vec<UnixListener>,
    /// At [`args::SAVING`].
    pub(super) saving: UnixListener,
    /// Ends the machine's streams.
    pub(super) token: String,
    pub(super) output: File,
    pub(super) overlay: Option<File>,
    /// Size of the output's disk in bytes.
    pub(super) output_bytes: u64,
    /// Longest file that QEMU may write.
    pub(super) file_bytes: u64,
    pub(super) cgroup: Option<Own>,
    /// Bytes in the work directory at the start.
    pub(super) before_bytes: u64,
    pub(super) lease: Lease,
    pub(super) nic: Option<Nic>,
}

impl Staged {
    /// Removes all of it from the host. Blocks.
    pub(super) fn remove(self) {
        if let Some(cgroup) = self.cgroup {
            cgroup.remove_patiently();
        }
    }

    /// A new file for what the machine has in memory. QEMU's user can do nothing with it.
    pub(super) fn make_state(&self) -> Result<(PathBuf, File), HostFault> {
        let path = self.dir.path().join(args::STATE);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(|error| HostFault::file("make", &path, &error))?;
        Ok((path, file))
    }

    /// A new pipe from which QEMU can read it.
    pub(super) fn make_pipe(&self) -> Result<PathBuf, HostFault> {
        let path = self.dir.path().join(args::LOADING);
        let failed = |error: std::io::Error| HostFault::file("make", &path, &error);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        mkfifoat(CWD, &path, Mode::RUSR).map_err(|error| failed(error.into()))?;
        // The node writes to it, and is not root everywhere.
        Files { dir: self.dir.path(), user: self.lease.user }.give(&path, 0o600)?;
        Ok(path)
    }

    /// Bytes that the machine's disks take on the host.
    pub(super) fn storage_bytes(&self) -> u64 {
        let blocks = |file: &File| file.metadata().map_or(0, |meta| meta.blocks());
        let overlay = self.overlay.as_ref().map_or(0, blocks);
        blocks(&self.output).saturating_add(overlay).saturating_mul(BLOCK_BYTES)
    }
}

/// A machine's directory; removed when dropped.
#[derive(Debug)]
pub(super) struct Dir(PathBuf);

impl Dir {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            let path = self.0.display();
            tracing::error!(%path, %error, "a machine's files are left behind; the next start of the node removes them");
        }
    }
}

/// 32 random hexadecimal digits.
pub(super) fn random_hex() -> Result<String, HostFault> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| fault("get random bytes", error))?;
    Ok(catalog::id::to_hex(&bytes))
}

/// Memory of a machine in bytes.
fn memory_bytes(task: &VmTask) -> u64 {
    task.base.memory_bytes.max(MEMORY_MIN_BYTES) / MIB * MIB
}

/// Thousandths of a core that a machine gets.
fn cpu_milli(task: &VmTask, host: &Host) -> u64 {
    task.base.cpu_milli.clamp(10, host.cpu_milli)
}

/// Makes all that a machine needs. Blocks while it writes.
pub(super) fn stage(host: &Host, task: &VmTask, image: &Image) -> Result<Staged, HostFault> {
    let lease = host.lease();
    let dir = make_dir(host)?;
    let token = format!("opencloud-end-{}", random_hex()?);
    let before_bytes = disk::measure(std::slice::from_ref(&task.base.work))
        .ok_or_else(|| fault("give the machine its files", "there are too many of them"))?;
    let output_bytes = whole_mib(before_bytes, &[task.base.disk_bytes, ARCHIVE_OVERHEAD_BYTES]);
    let files = Files { dir: dir.path(), user: lease.user };
    let input = files.make(args::INPUT, 0o400)?;
    let input_bytes = archive::write(task, &token, &input, &dir.path().join(args::INPUT))?;
    let output = files.make(args::OUTPUT, 0o600)?;
    output
        .set_len(output_bytes)
        .map_err(|error| HostFault::file("make", &dir.path().join(args::OUTPUT), &error))?;
    let work_bytes = whole_mib(before_bytes, &[task.base.disk_bytes]);
    let nic = Nic::of(task);
    match (image, &task.machine) {
        (Image::Kernel { kernel, initramfs }, _) => {
            files.link(kernel, args::KERNEL)?;
            write_initramfs(&files, initramfs, &archive::init(work_bytes, nic.as_ref()))?;
        }
        (Image::Disk { path, .. }, machine) => {
            files.link(path, args::BASE)?;
            let (user_data, keys) = match machine {
                Machine::Disk { user_data, ssh_keys, .. } => (user_data.as_deref(), &ssh_keys[..]),
                Machine::Kernel { .. } => (None, &[][..]),
            };
            let id = &token[token.len() - 16..];
            let seed = seed::image(id, &token, &archive::start(), user_data, keys);
            files.write(args::SEED, &seed)?;
        }
    }
    let overlay = match image {
        Image::Disk { .. } => Some(files.make(args::OVERLAY, 0o600)?),
        Image::Kernel { .. } => None,
    };
    let system_bytes = overlay.as_ref().map_or(0, |_| SYSTEM_BYTES);
    let overlay_bytes = whole_mib(input_bytes, &[task.base.disk_bytes, system_bytes]);
    let listeners =
        args::SOCKETS.iter().map(|name| files.listen(name)).collect::<Result<Vec<_>, _>>()?;
    Ok(Staged {
        args: command_line(host, task, image, nic.as_ref()),
        listeners,
        saving: files.listen(args::SAVING)?,
        token,
        output,
        overlay,
        output_bytes,
        file_bytes: overlay_bytes.max(output_bytes),
        cgroup: make_cgroup(host, task),
        before_bytes,
        dir,
        lease,
        nic,
    })
}

/// Makes the overlay of a disk machine: as large as the image and what the task may add.
pub(super) async fn make_overlay(
    host: &Host,
    task: &VmTask,
    staged: &Staged,
    image: &Image,
) -> Result<(), HostFault> {
    let Image::Disk { virtual_bytes, .. } = image else { return Ok(()) };
    let size = whole_mib(*virtual_bytes, &[staged.before_bytes, task.base.disk_bytes]);
    let args: Vec<OsString> =
        ["create", "-q", "-f", "qcow2", args::OVERLAY, &size.to_string()].map(Into::into).to_vec();
    let spec = Spec {
        program: &host.qemu_img,
        args: &args,
        dir: staged.dir.path(),
        user: staged.lease.user,
        limits: &[],
        cgroup: None,
        network: None,
        input: None,
    };
    let failed = |error: std::io::Error| fault("make the machine's disk", error);
    let mut process = Process::start(&spec).await.map_err(failed)?;
    match tokio::time::timeout(CREATE_TIMEOUT, process.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(_)) => Err(fault("make the machine's disk", process.said().await)),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => {
            process.kill().await;
            Err(fault("make the machine's disk", "qemu-img hangs"))
        }
    }
}

fn command_line(host: &Host, task: &VmTask, image: &Image, nic: Option<&Nic>) -> Vec<OsString> {
    let boot = match (image, &task.machine) {
        (Image::Disk { format, .. }, _) => Boot::Disk {
            base_format: super::image::driver(*format),
            firmware: host.firmware.as_deref(),
        },
        (Image::Kernel { .. }, Machine::Kernel { append, .. }) => Boot::Kernel { append },
        (Image::Kernel { .. }, Machine::Disk { .. }) => Boot::Kernel { append: "" },
    };
    args::machine(&Plan {
        arch: host.arch,
        accel: host.accel,
        n_cpus: cpu_milli(task, host).div_ceil(1_000),
        memory_mib: memory_bytes(task) / MIB,
        boot,
        nic,
    })
}

fn make_dir(host: &Host) -> Result<Dir, HostFault> {
    // Nobody can list the directory above, so nobody finds this one who is not told.
    let path = host.machines.join(random_hex()?);
    fs::create_dir(&path).map_err(|error| HostFault::file("make", &path, &error))?;
    let dir = Dir(path);
    let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode))
        .map_err(|error| HostFault::file("set the mode of", dir.path(), &error))?;
    Ok(dir)
}

fn make_cgroup(host: &Host, task: &VmTask) -> Option<Own> {
    if !host.has_cgroups {
        return None;
    }
    let own = Own::new(&cgroup_owner(&host.options.owner), &random_hex().ok()?, cgroup::is_v2());
    let cpu_milli = cpu_milli(task, host);
    let limits = cgroup::Limits {
        cpu_milli,
        memory_bytes: memory_bytes(task).saturating_add(MEMORY_OVERHEAD_BYTES),
        n_processes: THREADS + cpu_milli.div_ceil(1_000),
    };
    match own.make(limits) {
        Ok(()) => Some(own),
        Err(error) => {
            tracing::warn!(%error, "a machine is not held by a cgroup, since none can be made");
            None
        }
    }
}

/// The node's own archive before the author's: kernels unpack one after the other, and only the last may be compressed in
/// any way that there is.
fn write_initramfs(files: &Files<'_>, initramfs: &Path, init: &str) -> Result<(), HostFault> {
    let mut own = cpio::Cpio::default();
    own.directory("dev");
    own.device("dev/console", 5, 1);
    own.directory("opencloud");
    own.executable("opencloud/init", init.as_bytes());
    let mut file = files.make(args::INITRAMFS, 0o400)?;
    let path = files.dir.join(args::INITRAMFS);
    let written = file.write_all(&own.finish()).and_then(|()| {
        let mut source = File::open(initramfs)?;
        std::io::copy(&mut source, &mut file).map(drop)
    });
    written.map_err(|error| HostFault::file("write", &path, &error))
}

/// Files of a machine's directory, given to whom QEMU runs as.
struct Files<'a> {
    dir: &'a Path,
    user: Option<User>,
}

impl Files<'_> {
    fn make(&self, name: &str, mode: u32) -> Result<File, HostFault> {
        let path = self.dir.join(name);
        let made = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = made.map_err(|error| HostFault::file("make", &path, &error))?;
        self.give(&path, mode)?;
        Ok(file)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), HostFault> {
        let mut file = self.make(name, 0o400)?;
        let path = self.dir.join(name);
        file.write_all(bytes).map_err(|error| HostFault::file("write", &path, &error))
    }

    fn give(&self, path: &Path, mode: u32) -> Result<(), HostFault> {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .and_then(|()| match self.user {
                Some(user) => chown(path, Some(user.uid), Some(user.gid)),
                None => Ok(()),
            })
            .map_err(|error| HostFault::file("hand over", path, &error))
    }

    fn link(&self, from: &Path, name: &str) -> Result<(), HostFault> {
        fs::hard_link(from, self.dir.join(name))
            .map_err(|error| HostFault::file("make a link to", from, &error))
    }

    /// Listens at a socket. Paths of sockets are short, so it is named by way of the directory's descriptor.
    fn listen(&self, name: &str) -> Result<UnixListener, HostFault> {
        let path = self.dir.join(name);
        let listening = File::open(self.dir).and_then(|dir| {
            let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let listener = listening.map_err(|error| HostFault::file("listen at", &path, &error))?;
        self.give(&path, 0o600)?;
        Ok(listener)
    }
}

fn whole_mib(bytes: u64, more: &[u64]) -> u64 {
    let total = more.iter().fold(bytes, |total, more| total.saturating_add(*more));
    // Sizes of files are signed.
    (total / MIB).saturating_add(1).saturating_mul(MIB).min(i64::MAX as u64 / MIB * MIB)
}

/// Makes a host's part of staging wait for nobody: it runs on a thread of its own.
pub(super) async fn stage_apart(
    host: &Arc<Host>,
    task: &VmTask,
    image: &Image,
) -> Result<Staged, HostFault> {
    let (host, task, image) = (Arc::clone(host), task.clone(), image.clone());
    let staging = tokio::task::spawn_blocking(move || stage(&host, &task, &image));
    staging.await.unwrap_or(Err(HostFault::Died))
}
