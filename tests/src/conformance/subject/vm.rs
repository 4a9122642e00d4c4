//! The virtual-machine runtime under test, by the kernel machine of `tests/machines` with the probe put in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use catalog::Digest;
use node::runtime::vm::{Accel, Machine, VmOptions};
use node::runtime::{Running, TaskBase, VmRuntime, VmTask};

use super::{Figures, Need, Place, Subject, cgroups, machine};
use crate::conformance::bench::{Job, MIB};
use crate::conformance::probe::{Platform, probe};
use crate::harness::{is_root, pause};

/// The subject whose machines run by translation, as everywhere without KVM. KVM is not looked for: where it is there and
/// does not work, finding that out takes each test ten seconds.
pub const NAME: &str = "vm";
/// The same, but by KVM where that works.
pub const FASTEST: &str = "vm-fastest";
/// How long a machine may take to boot, on a busy machine.
pub const BOOT_TIMEOUT: Duration = Duration::from_secs(240);

/// Memory that a machine gets beyond its task's limit: for its kernel, its own files and its task's.
const MACHINE_BYTES: u64 = 64 * MIB;
/// What QEMU may take beside the machine's memory, as the runtime's cgroups have it.
const QEMU_BYTES: u64 = 320 * MIB;
/// How much longer than others a task may take to start and to end: a kernel boots in 3 to 20 s.
const DELAY_MAX: Duration = Duration::from_secs(45);
/// Most processors of a machine. A second one makes each boot dearer by a fifth, and no case looks for it.
const CPU_MILLI_MAX: u64 = 1_000;
/// Tells a machine's task on the command line of QEMU. A kernel passes over words with a dot that it does not know.
const TASK_WORD: &str = "opencloud.task=";
/// Looks at what tells no task, and the pause between two: machines come and go.
const LOOKS: u32 = 30;
const LOOK_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Vm {
    name: String,
    runtime: VmRuntime,
    machine: PathBuf,
    digest: Digest,
    place: Place,
}

impl Vm {
    pub(super) fn open(name: &str, place: Place) -> Result<Self, String> {
        let made = machine("kernel")?;
        let program = fs::read(probe(Platform::Native)?).expect("the probe was compiled");
        // Machines run as users of their own.
        let passable = fs::Permissions::from_mode(0o711);
        fs::set_permissions(&place.dir, passable).expect("the directory is ours");
        let machine = place.dir.join("machine");
        if !machine.exists() {
            write_machine(&made, &program, &machine);
        }
        let parts = ["kernel", "initramfs"].map(|name| fs::read(machine.join(name)));
        let parts = parts.map(|bytes| bytes.expect("it was written"));
        let digest = Digest::of(&parts.concat());
        let mut options = VmOptions::new(runtime_dir(&place.dir, &place.owner), &place.owner);
        options.workers = place.workers;
        options.boot_timeout = BOOT_TIMEOUT;
        options.accel = (name == NAME).then_some(Accel::Tcg);
        options.network = may_grant();
        let runtime = place.tokio.block_on(async {
            let runtime = VmRuntime::open(options).await;
            let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
            let prepared = runtime.prepare(&machine, digest).await;
            prepared.unwrap_or_else(|error| panic!("the probe's machine cannot run: {error}"));
            runtime
        });
        Ok(Self { name: name.to_owned(), runtime, machine, digest, place })
    }
}

/// Whether machines can be granted a network here.
#[must_use]
pub fn may_grant() -> bool {
    let has_slirp = || Command::new("slirp4netns").arg("--version").output().is_ok();
    is_root() && has_slirp()
}

/// The runtime's own directory below a place.
fn runtime_dir(place: &Path, owner: &str) -> PathBuf {
    place.join(format!("vm-{owner}"))
}

/// Writes the machine with the program `/program` in it.
fn write_machine(made: &Path, program: &[u8], machine: &Path) {
    let dir = machine.with_file_name("");
    // Lives of one place may begin beside each other; whoever is last finds the same already there.
    let own = tempfile::tempdir_in(dir).expect("there is room for the machine");
    fs::copy(made.join("kernel"), own.path().join("kernel")).expect("there is room for it");
    // Kernels unpack one archive after the other.
    let mut initramfs = archive("program", program);
    initramfs.extend(fs::read(made.join("initramfs")).expect("tests/machines made it"));
    fs::write(own.path().join("initramfs"), initramfs).expect("there is room for it");
    if fs::rename(own.path(), machine).is_ok() {
        // It is not there any more.
        let _ = own.keep();
    }
}

/// An archive of one program in the format `newc` of cpio, as the kernel's `buffer-format` page has it.
fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, content) in [(name, 0o100_755, content), ("TRAILER!!!", 0, &[][..])] {
        let (name_len, len) = (name.len() + 1, content.len());
        // Inode, mode, user, group, links, time, length, two numbers of two devices, length of the name, checksum.
        let fields = [1, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name_len, 0];
        archive.extend(b"070701");
        for field in fields {
            archive.extend(format!("{field:08x}").bytes());
        }
        archive.extend(name.bytes().chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

impl Subject for Vm {
    fn name(&self) -> &str {
        &self.name
    }

    fn lacks(&self, need: Need) -> Option<&'static str> {
        match need {
            Need::GrantedNetwork if !may_grant() => Some(
                "is granted a network by slirp4netns and as root only, and one of these is lacking",
            ),
            Need::NoUserNamespaces | Need::Confined => {
                Some("makes each task root of a machine that is all its own")
            }
            Need::SharedFiles => Some("has files of its own, which it gives back in the end"),
            Need::FilesOnDisk => Some("keeps the files of a kernel machine in its memory"),
            Need::BoundedProcesses => Some("bounds a machine as a whole, not its processes"),
            Need::Devices => Some("gives a machine no devices but its own"),
            Need::EvenStarts => {
                Some("boots a kernel for each task, never in the same time, and has its own clock")
            }
            Need::CpuShare if !self.runtime.host().has_cgroups => Some(
                "cannot make cgroups here, without which only the number of processors is kept",
            ),
            Need::TwoLives => Some("lets a node's next life begin when the last one has ended"),
            _ => None,
        }
    }

    fn figures(&self) -> Figures {
        Figures {
            memory_overhead_bytes: MACHINE_BYTES + QEMU_BYTES,
            delay_max: DELAY_MAX,
            one_try_in: 4,
        }
    }

    fn start(&self, job: &Job) -> Running {
        let _inside = self.place.tokio.enter();
        let program = std::iter::once("/program".to_owned());
        let append = format!("{TASK_WORD}{}", job.name);
        self.runtime.start(VmTask {
            base: TaskBase {
                args: program.chain(job.args.iter().cloned()).collect(),
                cpu_milli: job.cpu_milli.min(CPU_MILLI_MAX),
                memory_bytes: job.memory_bytes + MACHINE_BYTES,
                ..job.base()
            },
            machine: Machine::Kernel { dir: self.machine.clone(), append },
            digest: self.digest,
            grace: Duration::ZERO,
            ports: Vec::new(),
        })
    }

    fn left_by(&self, owner: &str) -> BTreeSet<String> {
        left_in(&runtime_dir(&self.place.dir, owner), owner)
    }

    fn kill_from_outside(&self, job: &Job) -> bool {
        let dir = runtime_dir(&self.place.dir, &self.place.owner);
        processes(&dir).iter().any(|found| {
            // Not its watcher, which would have the command line of the machine it waits for.
            let is_it = found.is_qemu && found.task.as_deref() == Some(&job.name);
            is_it && kill(found.pid)
        })
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        forget(&self.place.owner);
    }
}

fn kill(pid: u32) -> bool {
    let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).output();
    killed.is_ok_and(|output| output.status.success())
}

/// Removes what the next life of an owner would use again: a test has none.
pub fn forget(owner: &str) {
    cgroups::remove_parents(&cgroup_owner(owner));
}

/// By what name an owner's cgroups are known.
fn cgroup_owner(owner: &str) -> String {
    format!("vm-{}", &Digest::of(owner.as_bytes()).to_hex()[..16])
}

/// A process that runs in the directory of a machine.
#[derive(Clone, Debug)]
pub struct MachineProcess {
    /// Its number.
    pub pid: u32,
    /// The machine's directory.
    pub dir: PathBuf,
    /// Whether it is QEMU itself.
    pub is_qemu: bool,
    /// Its task's name, if that stands on its command line.
    pub task: Option<String>,
}

/// The processes of machines whose runtime has this directory.
///
/// # Panics
/// Without a `/proc`.
#[must_use]
pub fn processes(dir: &Path) -> Vec<MachineProcess> {
    let machines = dir.join("machines");
    let all = fs::read_dir("/proc").expect("every Linux has it").flatten();
    let found = all.filter_map(|entry| {
        let (process, name) = (entry.path(), entry.file_name());
        let pid = name.to_str()?.parse().ok()?;
        let dir =
            fs::read_link(process.join("cwd")).ok().filter(|cwd| cwd.starts_with(&machines))?;
        let line = fs::read(process.join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let task = line
            .split_once(TASK_WORD)
            .map(|(_, rest)| rest.split(['\0', ' ']).next().unwrap_or_default().to_owned());
        let is_qemu = fs::read(process.join("comm")).is_ok_and(|name| name.starts_with(b"qemu"));
        Some(MachineProcess { pid, dir, is_qemu, task })
    });
    found.collect()
}

/// What the machines of a runtime with this directory and owner have left: directories, processes, cgroups. Those of a task
/// that runs tell its name; what tells none is only named when it stays.
#[must_use]
pub fn left_in(dir: &Path, owner: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    let mut nameless: Option<BTreeSet<PathBuf>> = None;
    for n in 0..LOOKS {
        if n > 0 {
            pause(LOOK_PAUSE);
        }
        let mut found = look(dir, owner);
        if let Some(before) = &nameless {
            found.retain(|path, _| before.contains(path));
        }
        let mut unknown = BTreeSet::new();
        for (path, task) in found {
            if let Some(task) = task {
                named.insert(format!("{} of {task}", path.display()));
            } else {
                unknown.insert(path);
            }
        }
        let is_over = unknown.is_empty();
        nameless = Some(unknown);
        if is_over {
            break;
        }
    }
    let nameless = nameless.unwrap_or_default();
    named.extend(nameless.iter().map(|path| path.display().to_string()));
    named
}

/// What is there now, each with its task's name as far as a process tells it.
fn look(dir: &Path, owner: &str) -> BTreeMap<PathBuf, Option<String>> {
    let running = processes(dir);
    let task_of = |is_it: &dyn Fn(&MachineProcess) -> bool| {
        running.iter().find(|process| is_it(process)).and_then(|process| process.task.clone())
    };
    let machines = fs::read_dir(dir.join("machines")).into_iter().flatten().flatten();
    let machines = machines.map(|entry| entry.path()).map(|path| {
        let task = task_of(&|process| process.dir == path);
        (path, task)
    });
    let groups = cgroups::cgroups(&cgroup_owner(owner)).into_iter().map(|path| {
        let members = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        let members: Vec<u32> = members.lines().filter_map(|line| line.parse().ok()).collect();
        let task = task_of(&|process| members.contains(&process.pid));
        (path, task)
    });
    let alone = running
        .iter()
        .map(|process| (PathBuf::from(format!("/proc/{}", process.pid)), process.task.clone()));
    machines.chain(groups).chain(alone.collect::<Vec<_>>()).collect()
}
