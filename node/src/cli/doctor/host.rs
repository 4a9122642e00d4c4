//! What this machine could run tasks with, and why not.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::Finding;
use crate::cli::up::engine_sockets;

/// Every runtime. That one is not there is no fault: it need not be offered.
pub(super) fn look() -> Vec<Finding> {
    let always = Finding::ok("wasi", "always there");
    vec![always, containers(), machines(), slurm()]
}

fn containers() -> Finding {
    let sockets = engine_sockets();
    for socket in &sockets {
        match UnixStream::connect(socket) {
            Ok(_) => {
                let found = format!("an engine listens on {}: `up --containers`", socket.display());
                return Finding::ok("containers", found);
            }
            Err(error) if socket.exists() => {
                let found = format!("{}: {error}", socket.display());
                let way_out = "give this user the group of the socket, or start the engine";
                return Finding::warning("containers", found, way_out);
            }
            Err(_) => {}
        }
    }
    let names: Vec<String> = sockets.iter().map(|path| path.display().to_string()).collect();
    Finding::ok("containers", format!("none: no engine listens on {}", names.join(", ")))
}

fn machines() -> Finding {
    let qemu = format!("qemu-system-{}", std::env::consts::ARCH);
    if program(&qemu).is_none() {
        return Finding::ok("vms", format!("none: there is no {qemu} on the path"));
    }
    if program("qemu-img").is_none() {
        return Finding::ok("vms", "none: there is no qemu-img on the path");
    }
    let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    let how = match kvm {
        Ok(_) => "with /dev/kvm, which `up --vms` probes".to_owned(),
        Err(error) => format!("without KVM, some ten times slower (/dev/kvm: {error})"),
    };
    Finding::ok("vms", format!("{qemu} is there, {how}"))
}

fn slurm() -> Finding {
    match program("sbatch") {
        Some(path) => Finding::ok("slurm", format!("{} is there: `up --slurm`", path.display())),
        None => Finding::ok("slurm", "none: there is no sbatch on the path"),
    }
}

/// A program on the path.
fn program(name: &str) -> Option<PathBuf> {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let is_program = |path: &Path| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&dirs).map(|dir| dir.join(name)).find(|path| is_program(path))
}
