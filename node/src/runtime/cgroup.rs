//! What the kernel counts for a container or machine and holds it to: its cgroup, of either version.
//!
//! A cgroup ends with its container, and with it the counters. So where the node may (it is root, and the engine uses
//! cgroupfs), each container gets a parent cgroup of its own, whose counters stay until the node has read them. Elsewhere the
//! last reading before the end counts. For a machine the node makes the cgroup itself and puts QEMU into it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Where cgroups are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// Controllers of version 1 that are read; each stands alone or with another one.
const CPU: [&str; 2] = ["cpuacct", "cpu,cpuacct"];
const MEMORY: [&str; 1] = ["memory"];
const BLKIO: [&str; 1] = ["blkio"];
/// Controllers of version 1 that hold a process, with their usual companions; they may be mounted at one place.
const HOLDING: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "blkio"];
/// Controllers of version 2, as they are handed down.
const HANDED_DOWN: &str = "+cpu +memory +pids +io";
/// The period in which processor time is shared out, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// Tries to remove a cgroup whose last process is just ending, and the time between two.
const REMOVE_TRIES: u32 = 50;
const REMOVE_WAIT: Duration = Duration::from_millis(10);
/// The parent of the cgroups that this program asks for.
const PARENT: &str = "opencloud";

/// What the processes of a cgroup may have together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) cpu_milli: u64,
    pub(super) memory_bytes: u64,
    pub(super) n_processes: u64,
}

/// Whether cgroups here are of the second version.
pub(super) fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// A reading. What the kernel does not count is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) cpu_us: u64,
    pub(super) memory_bytes: u64,
    pub(super) memory_peak_bytes: u64,
    pub(super) io_bytes: u64,
    /// Times that a process was killed for want of memory.
    pub(super) oom_kills: u64,
}

/// The files of one cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cgroup {
    V1 { cpu: PathBuf, memory: PathBuf, blkio: PathBuf },
    V2(PathBuf),
}

impl Cgroup {
    /// The cgroup at a path below the root of the hierarchy.
    fn at(path: &Path, is_v2: bool) -> Self {
        let path = path.strip_prefix("/").unwrap_or(path);
        let of = |names: &[&str]| {
            let mounted = names.iter().map(|name| Path::new(ROOT).join(name));
            let found = mounted.clone().find(|dir| dir.is_dir());
            found.or_else(|| mounted.clone().next()).unwrap_or_default().join(path)
        };
        if is_v2 {
            Self::V2(Path::new(ROOT).join(path))
        } else {
            Self::V1 { cpu: of(&CPU), memory: of(&MEMORY), blkio: of(&BLKIO) }
        }
    }

    /// The cgroup of a process; `None` when it has ended.
    pub(super) fn of_process(pid: i64, is_v2: bool) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = text.lines().find_map(|line| path_in(line, is_v2))?;
        Some(Self::at(Path::new(path), is_v2))
    }

    /// The processes in it and in those below it.
    pub(super) fn processes(&self) -> Vec<u32> {
        let (Self::V1 { cpu: dir, .. } | Self::V2(dir)) = self;
        let mut processes = Vec::new();
        let mut dirs = vec![dir.clone()];
        while let Some(dir) = dirs.pop() {
            let listed = text(&dir.join("cgroup.procs")).unwrap_or_default();
            processes.extend(listed.lines().filter_map(|line| line.parse::<u32>().ok()));
            let below = fs::read_dir(&dir).into_iter().flatten().flatten();
            dirs.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
        }
        processes
    }

    fn end(&self) {
        for pid in self.processes() {
            let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
            if let Some(Err(error)) = number.map(|pid| kill_process(pid, Signal::KILL)) {
                // As a rule it has ended by itself.
                tracing::debug!(pid, %error, "a process in a cgroup is not ended");
            }
        }
    }

    pub(super) fn read(&self) -> Option<Reading> {
        match self {
            Self::V1 { cpu, memory, blkio } => Some(Reading {
                cpu_us: number(&cpu.join("cpuacct.usage"))? / 1_000,
                memory_bytes: number(&memory.join("memory.usage_in_bytes")).unwrap_or(0),
                memory_peak_bytes: number(&memory.join("memory.max_usage_in_bytes")).unwrap_or(0),
                io_bytes: text(&blkio.join("blkio.throttle.io_service_bytes_recursive"))
                    .or_else(|| text(&blkio.join("blkio.throttle.io_service_bytes")))
                    .map_or(0, |text| total_v1(&text)),
                oom_kills: field(&memory.join("memory.oom_control"), "oom_kill").unwrap_or(0),
            }),
            Self::V2(dir) => Some(Reading {
                cpu_us: field(&dir.join("cpu.stat"), "usage_usec")?,
                memory_bytes: number(&dir.join("memory.current")).unwrap_or(0),
                memory_peak_bytes: number(&dir.join("memory.peak")).unwrap_or(0),
                io_bytes: text(&dir.join("io.stat")).map_or(0, |text| total_v2(&text)),
                oom_kills: field(&dir.join("memory.events"), "oom_kill").unwrap_or(0),
            }),
        }
    }
}

/// A cgroup that the node asked for as a container's parent. Removed when dropped.
#[derive(Debug)]
pub(super) struct Own {
    cgroup: Cgroup,
    path: PathBuf,
}

impl Own {
    /// The parent for the container `name` of `owner`; the engine makes it.
    pub(super) fn new(owner: &str, name: &str, is_v2: bool) -> Self {
        let path = Path::new("/").join(PARENT).join(owner).join(name);
        Self { cgroup: Cgroup::at(&path, is_v2), path }
    }

    /// Makes the cgroup and sets its limits.
    pub(super) fn make(&self, limits: Limits) -> io::Result<()> {
        let quota_us = (limits.cpu_milli.saturating_mul(CPU_PERIOD_US) / 1_000).max(1_000);
        let memory = limits.memory_bytes.to_string();
        let processes = limits.n_processes.to_string();
        if let Cgroup::V2(dir) = &self.cgroup {
            fs::create_dir_all(dir)?;
            hand_down(dir)?;
            fs::write(dir.join("cpu.max"), format!("{quota_us} {CPU_PERIOD_US}"))?;
            fs::write(dir.join("memory.max"), memory)?;
            // Not every kernel counts swap.
            let _ = fs::write(dir.join("memory.swap.max"), "0");
            return fs::write(dir.join("pids.max"), processes);
        }
        for dir in self.dirs_v1() {
            fs::create_dir_all(&dir)?;
        }
        let dir = |name: &str| self.dir_v1(name);
        fs::write(dir("cpu").join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string())?;
        fs::write(dir("cpu").join("cpu.cfs_quota_us"), quota_us.to_string())?;
        fs::write(dir("memory").join("memory.limit_in_bytes"), &memory)?;
        // Not every kernel counts swap.
        let _ = fs::write(dir("memory").join("memory.memsw.limit_in_bytes"), &memory);
        fs::write(dir("pids").join("pids.max"), processes)
    }

    /// Puts a process into the cgroup that was made.
    pub(super) fn add(&self, pid: u32) -> io::Result<()> {
        let dirs = match &self.cgroup {
            Cgroup::V2(dir) => vec![dir.clone()],
            Cgroup::V1 { .. } => self.dirs_v1(),
        };
        dirs.iter().try_for_each(|dir| fs::write(dir.join("cgroup.procs"), pid.to_string()))
    }

    fn dirs_v1(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = HOLDING.iter().map(|name| self.dir_v1(name)).collect();
        dirs.sort();
        dirs.dedup();
        dirs
    }

    /// Where a controller is: alone, or together with others, to which its name is a link then.
    fn dir_v1(&self, name: &str) -> PathBuf {
        let root = Path::new(ROOT).join(name);
        let root = root.canonicalize().unwrap_or(root);
        root.join(self.path.strip_prefix("/").unwrap_or(&self.path))
    }

    /// As the engine is told.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Ends every process in it. For when whatever it was made for is gone: what is left are helpers of an engine.
    pub(super) fn end(&self) {
        self.cgroup.end();
    }

    /// Removes it. False when it still holds a process.
    pub(super) fn remove(&self) -> bool {
        // All of them, also when one stays.
        hierarchies().into_iter().filter(|root| !remove_tree(&below(root, &self.path))).count() == 0
    }

    /// Removes it when its last process is just ending. Blocks for at most half a second.
    pub(super) fn remove_patiently(self) {
        for _ in 0..REMOVE_TRIES {
            if self.remove() {
                return;
            }
            std::thread::sleep(REMOVE_WAIT);
        }
        tracing::warn!(cgroup = %self.path.display(), "a cgroup is left behind; the next start of the node removes it");
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Lets a cgroup of version 2 have its controllers, from the root down.
fn hand_down(dir: &Path) -> io::Result<()> {
    let above: Vec<&Path> =
        dir.ancestors().skip(1).take_while(|dir| dir.starts_with(ROOT)).collect();
    above
        .iter()
        .rev()
        .try_for_each(|dir| fs::write(dir.join("cgroup.subtree_control"), HANDED_DOWN))
}

/// Removes what an earlier life left below its own parent, and ends what is in there. False when something still holds a
/// process, as for a moment after its end.
pub(super) fn remove_leftovers(owner: &str) -> bool {
    let parent = Path::new("/").join(PARENT).join(owner);
    let mut is_gone = true;
    for root in hierarchies() {
        let Ok(entries) = fs::read_dir(below(&root, &parent)) else { continue };
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            let path = entry.path();
            if remove_tree(&path) {
                continue;
            }
            is_gone = false;
            if let Some(name) = path.file_name() {
                Cgroup::at(&parent.join(name), is_v2()).end();
            }
        }
    }
    is_gone
}

/// A path of a cgroup in one hierarchy.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Removes a cgroup and those below it, and says whether it is gone. One that still holds a process stays.
fn remove_tree(dir: &Path) -> bool {
    if let Ok(entries) = fs::read_dir(dir) {
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // The kernel's own files in it go with it.
    fs::remove_dir(dir).is_ok() || !dir.exists()
}

/// The roots of all mounted hierarchies: one of version 2, or several of version 1.
fn hierarchies() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from(ROOT)];
    if let Ok(entries) = fs::read_dir(ROOT) {
        let is_controller = |dir: &PathBuf| dir.join("cgroup.procs").exists() && !dir.is_symlink();
        let below = entries.flatten().map(|entry| entry.path()).filter(is_controller);
        // In version 2 these are cgroups like any other, and hold nothing of ours.
        found.extend(below);
    }
    found
}

/// The path of a process in one line of `/proc/<pid>/cgroup`: `<id>:<controllers>:<path>`.
fn path_in(line: &str, is_v2: bool) -> Option<&str> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let is_it = if is_v2 {
        controllers.is_empty()
    } else {
        controllers.split(',').any(|name| name == "cpuacct")
    };
    is_it.then_some(path)
}

/// Bytes that came in and went out over all interfaces but the loopback of a process's network; `None` when it has ended.
pub(super) fn network_of_process(pid: i64) -> Option<(u64, u64)> {
    Some(traffic(&text(Path::new(&format!("/proc/{pid}/net/dev")))?))
}

/// The same out of the text of `net/dev`: two lines of headings, then `name: bytes packets errs drop fifo frame compressed multicast bytes …`.
pub(super) fn traffic(text: &str) -> (u64, u64) {
    let lines = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    let outside = lines.filter(|(name, _)| name.trim() != "lo");
    outside.fold((0_u64, 0_u64), |(into, out), (_, counts)| {
        let mut counts = counts.split_whitespace().map(|n| n.parse::<u64>().unwrap_or(0));
        let received = counts.next().unwrap_or(0);
        let sent = counts.nth(7).unwrap_or(0);
        (into.saturating_add(received), out.saturating_add(sent))
    })
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.trim().parse().ok()
}

/// The value of `name` in lines of `name value`.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = text(path)?;
    let line = text.lines().find(|line| line.split(' ').next() == Some(name))?;
    line.split(' ').nth(1)?.parse().ok()
}

/// `8:0 Read 4096` and so on; the last line is the total of all.
fn total_v1(text: &str) -> u64 {
    let count = |line: &str| {
        let mut parts = line.split(' ');
        let is_counted = matches!(parts.nth(1), Some("Read" | "Write"));
        is_counted.then(|| parts.next()?.parse::<u64>().ok()).flatten()
    };
    text.lines().filter_map(count).fold(0, u64::saturating_add)
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 …`
fn total_v2(text: &str) -> u64 {
    let count = |word: &str| {
        word.strip_prefix("rbytes=").or_else(|| word.strip_prefix("wbytes="))?.parse::<u64>().ok()
    };
    text.split_whitespace().filter_map(count).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_process_is_found_in_both_versions() {
        assert_eq!(
            path_in("0::/system.slice/docker-ab.scope", true),
            Some("/system.slice/docker-ab.scope")
        );
        assert_eq!(path_in("4:cpu,cpuacct:/docker/ab", false), Some("/docker/ab"));
        assert_eq!(path_in("5:memory:/docker/ab", false), None);
        assert_eq!(path_in("0::/x:y", true), Some("/x:y"));
    }

    #[test]
    fn bytes_of_all_devices_are_added_up_and_totals_are_not_counted_twice() {
        assert_eq!(
            total_v1("8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 12288\n8:0 Total 12288\nTotal 12288"),
            12_288
        );
        assert_eq!(
            total_v2("8:0 rbytes=10 wbytes=5 rios=1 wios=1 dbytes=7\n8:16 rbytes=1 wbytes=0"),
            16
        );
    }

    #[test]
    fn traffic_is_counted_without_the_loopback() {
        let text = "Inter-| Receive | Transmit\n face |bytes packets errs\n    lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  eth0: 100 2 0 0 0 0 0 0 30 1 0 0 0 0 0 0\neth1:5 0 0 0 0 0 0 0 6\n";
        assert_eq!(traffic(text), (105, 36));
        assert_eq!(traffic(""), (0, 0));
    }

    #[test]
    fn a_cgroup_of_version_2_is_read_and_what_is_not_there_is_0() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let cgroup = Cgroup::V2(dir.path().to_owned());
        assert_eq!(cgroup.read(), None);
        write("cpu.stat", "usage_usec 1500\nuser_usec 1000\n");
        write("memory.current", "4096\n");
        write("memory.events", "low 0\noom 2\noom_kill 1\n");
        fs::create_dir(dir.path().join("below")).unwrap();
        write("cgroup.procs", "1\n");
        write("below/cgroup.procs", "2\n3\n");
        assert_eq!(cgroup.processes(), [1, 2, 3]);
        let expected =
            Reading { cpu_us: 1_500, memory_bytes: 4_096, oom_kills: 1, ..Reading::default() };
        assert_eq!(cgroup.read(), Some(expected));
    }
}
