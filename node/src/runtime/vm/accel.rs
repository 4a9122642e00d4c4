//! How instructions of a machine are executed: by the processor (KVM), or by translation (TCG).
//!
//! A host may have a `/dev/kvm` that cannot be opened, that can be opened and fails, or that takes a machine and never runs
//! it. Some of the latter even get through a firmware, and stop where an operating system begins. So a machine is booted under
//! it that does what a kernel does: it changes to 64 bits with paging, works, waits for interrupts of its timer, and ends with
//! an agreed code. Where KVM is not used, the same machine is booted without it, which shows that QEMU works here at all.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::args::{self, Arch};
use super::host::{Host, OpenError};
use super::process::{Limit, Process, Spec};

/// How long the probe may take. It takes a second under TCG, less under KVM; the rest is for a busy host.
const KVM_TIMEOUT: Duration = Duration::from_secs(10);
const TCG_TIMEOUT: Duration = Duration::from_secs(60);
/// The file of the probe.
const PROBE: &str = "probe";
/// The boot sector of `guest/probe.s`, which says how it was made.
const PROBE_X86: &[u8] = include_bytes!("guest/probe.bin");
/// QEMU's exit code when the probe has written 0x20 to the port of the debug-exit device.
const SIGN_CODE: i32 = 0x20 << 1 | 1;
/// Size of the probe's disk.
const DISK_BYTES: usize = 1 << 20;
/// Address space of the probe's QEMU in bytes.
const ADDRESS_BYTES: u64 = 8 << 30;

/// Whether KVM works; the same for all of a process.
static HAS_KVM: OnceCell<bool> = OnceCell::const_new();

/// How instructions of a machine are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// By the host's processor.
    Kvm,
    /// By translation, ten times slower.
    Tcg,
}

/// Chooses the faster way that works.
pub(super) async fn choose(host: &Host) -> Result<Accel, OpenError> {
    let has_kvm = match host.options.accel {
        Some(Accel::Tcg) => false,
        Some(Accel::Kvm) => return probe(host, Accel::Kvm).await.map(|()| Accel::Kvm),
        None => *HAS_KVM.get_or_init(async || kvm_works(host).await).await,
    };
    if has_kvm {
        return Ok(Accel::Kvm);
    }
    probe(host, Accel::Tcg).await.map(|()| Accel::Tcg)
}

async fn kvm_works(host: &Host) -> bool {
    if !fs::exists("/dev/kvm").unwrap_or(false) {
        return false;
    }
    match probe(host, Accel::Kvm).await {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(%error, "KVM does not work here; machines run by translation, ten times slower");
            false
        }
    }
}

/// Boots the probe.
async fn probe(host: &Host, accel: Accel) -> Result<(), OpenError> {
    let dir = host.machines.join(format!("probe-{accel:?}").to_lowercase());
    let at = |action| {
        let path = dir.clone();
        move |source| OpenError::Directory { action, path, source }
    };
    fs::create_dir_all(&dir).map_err(at("make"))?;
    fs::write(dir.join(PROBE), program(host.arch)).map_err(at("write to"))?;
    let lease = host.lease();
    let args = machine(host.arch, accel);
    let limits = [Limit::File(0), Limit::Address(ADDRESS_BYTES)];
    let spec = Spec {
        program: &host.qemu,
        args: &args,
        dir: &dir,
        user: lease.user,
        limits: &limits,
        cgroup: None,
        network: None,
        input: None,
    };
    let started = Process::start(&spec).await;
    let mut process = started.map_err(|error| OpenError::Unfit { detail: error.to_string() })?;
    let most = match accel {
        Accel::Kvm => KVM_TIMEOUT,
        Accel::Tcg => TCG_TIMEOUT,
    };
    let ended = tokio::time::timeout(most, process.wait()).await;
    let result = match ended {
        Ok(Ok(status)) if is_sign(host.arch, status) => Ok(()),
        Ok(Ok(status)) => Err(format!("{status}: {}", process.said().await)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            process.kill().await;
            Err(format!("the probe did not end within {} s", most.as_secs()))
        }
    };
    fs::remove_dir_all(&dir).map_err(at("remove"))?;
    result.map_err(|detail| OpenError::Unfit { detail: crate::runtime::bounded(detail) })
}

fn is_sign(arch: Arch, status: ExitStatus) -> bool {
    match arch {
        Arch::X86 => status.code() == Some(SIGN_CODE),
        Arch::Arm => status.code() == Some(0) && status.signal().is_none(),
    }
}

/// The probe's instructions.
fn program(arch: Arch) -> Vec<u8> {
    match arch {
        // The firmware does not boot from a disk that is too small for its geometry.
        Arch::X86 => {
            let mut disk = PROBE_X86.to_vec();
            disk.resize(DISK_BYTES, 0);
            disk
        }
        // PSCI's SYSTEM_OFF: `movz w0, #8; movk w0, #0x8400, lsl #16; hvc #0; b .`
        Arch::Arm => [0x5280_0100_u32, 0x72b0_8000, 0xd400_0002, 0x1400_0000]
            .iter()
            .flat_map(|instruction| instruction.to_le_bytes())
            .collect(),
    }
}

fn machine(arch: Arch, accel: Accel) -> Vec<OsString> {
    let mut args = args::confinement(arch, accel);
    let more: &[&str] = match arch {
        Arch::X86 => &[
            "-m",
            "size=32M",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=0x04",
            "-blockdev",
            r#"{"driver":"raw","node-name":"probe","read-only":true,"file":{"driver":"file","filename":"probe"}}"#,
            "-device",
            "virtio-blk-pci,drive=probe,bootindex=0",
        ],
        Arch::Arm => &["-m", "size=64M", "-kernel", PROBE],
    };
    args.extend(more.iter().map(OsString::from));
    args
}
