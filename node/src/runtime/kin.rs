//! A command inside a container with everything that it has started: found and ended together.
//!
//! Engines start such a command as the leader of a session of its own, and offer no way to end it. So the node does it from
//! outside. To a command belongs, of the processes in the container's cgroup, what carries its mark in the environment, what
//! is in its leader's session, and what descends from those. The mark finds what has left the session and lost its parents,
//! and what a command has left behind that ended before anybody saw its number; the session finds what was given another
//! environment. A number is only believed to be a process's own while the moment that it started fits.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Rounds of looking and killing: each ends what the ones before it had started meanwhile.
const ROUNDS_MAX: u32 = 100;
/// Pause between two rounds: a killed process takes a moment to leave.
const ROUND_PAUSE: Duration = Duration::from_millis(10);

/// What belongs to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kin {
    /// The container's, as the kernel tells it; compared, never read.
    cgroup: Vec<u8>,
    /// `NAME=VALUE`.
    mark: String,
    /// Its number, and when it started.
    leader: Option<(u32, u64)>,
}

/// What the kernel tells about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    is_over: bool,
    parent: u32,
    session: u32,
    /// In ticks of the kernel since the machine started.
    started: u64,
}

/// A process in the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    stat: Stat,
    is_marked: bool,
}

impl Kin {
    /// Of a command with this mark, in the container with this cgroup; its leader is not known yet.
    pub(super) fn new(cgroup: Vec<u8>, mark: String) -> Self {
        Self { cgroup, mark, leader: None }
    }

    /// The process of this number is the command's own. False when it has ended.
    pub(super) fn lead(&mut self, pid: u32) -> bool {
        let found = stat(pid).filter(|stat| !stat.is_over);
        self.leader = found.map(|stat| (pid, stat.started)).or(self.leader);
        found.is_some()
    }

    /// Ends all of them, and says whether none is left. Blocks, as a rule for some milliseconds, at most for a second.
    pub(super) fn kill(&self) -> bool {
        for _ in 0..ROUNDS_MAX {
            let all = self.container();
            let found = self.members(&all);
            if found.is_empty() {
                return true;
            }
            for pid in found {
                kill(pid, all[&pid].stat.started);
            }
            std::thread::sleep(ROUND_PAUSE);
        }
        false
    }

    /// Every process in the container's cgroup.
    fn container(&self) -> BTreeMap<u32, Seen> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let inside = pids.filter(|pid| cgroup(*pid).as_ref() == Some(&self.cgroup));
        inside
            .filter_map(|pid| {
                Some((pid, Seen { stat: stat(pid)?, is_marked: self.is_marked(pid) }))
            })
            .collect()
    }

    fn is_marked(&self, pid: u32) -> bool {
        // Not everybody may read it; then the session has to do.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == self.mark.as_bytes())
    }

    /// Those of the container's processes that belong to it.
    fn members(&self, all: &BTreeMap<u32, Seen>) -> Vec<u32> {
        // The number of a session is not given to another process while anybody is in it. So a process that has it and is
        // another one says that the session is over.
        let is_other = |(pid, started)| all.get(&pid).is_some_and(|s| s.stat.started != started);
        let leader = self.leader.filter(|leader| !is_other(*leader));
        let is_in = |pid: u32, stat: &Stat| {
            leader.is_some_and(|(leader, started)| {
                pid == leader || (stat.session == leader && stat.started >= started)
            })
        };
        let first = all.iter().filter(|(pid, seen)| seen.is_marked || is_in(**pid, &seen.stat));
        let mut members: Vec<u32> = first.map(|(pid, _)| *pid).collect();
        let mut n = 0;
        while let Some(&parent) = members.get(n) {
            n += 1;
            let children = all.iter().filter(|(_, seen)| seen.stat.parent == parent);
            let new: Vec<u32> =
                children.map(|(pid, _)| *pid).filter(|pid| !members.contains(pid)).collect();
            members.extend(new);
        }
        members.retain(|pid| !all[pid].stat.is_over);
        members
    }
}

/// Ends what an engine has left behind that watched over a command: Podman's monitors stay for five minutes after it, two
/// for each, and count as the task's. They are known by the command's id, which the engine has made up.
pub(super) fn dismiss_monitors(id: &str) {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let Some(before) = stat(pid) else { continue };
        if is_monitor(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default(), id) {
            kill(pid, before.started);
        }
    }
}

/// Whether a command line is that of the monitor of the command with this id.
fn is_monitor(line: &[u8], id: &str) -> bool {
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let is_conmon = words.first().is_some_and(|program| program.ends_with(b"conmon"));
    is_conmon && words.windows(2).any(|pair| pair == [&b"-u"[..], id.as_bytes()])
}

/// Kills the process of this number if it is still the one that started then.
fn kill(pid: u32, started: u64) {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    // The descriptor stands for one process, whatever becomes of its number.
    let Ok(process) = pidfd_open(number, PidfdFlags::empty()) else { return };
    if stat(pid).is_some_and(|stat| stat.started == started)
        && let Err(error) = pidfd_send_signal(&process, Signal::KILL)
        && error != rustix::io::Errno::SRCH
    {
        tracing::warn!(pid, %error, "a process inside a container cannot be ended before the container is");
    }
}

/// The cgroup of a process, to be compared with others.
pub(super) fn cgroup(pid: u32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/cgroup")).ok()
}

fn stat(pid: u32) -> Option<Stat> {
    read(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields are counted from 1; the second one is the program's name, which may hold anything and ends with the last `)`.
fn read(stat: &[u8]) -> Option<Stat> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        is_over: matches!(field(3)?, "Z" | "X" | "x"),
        parent: field(4)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        started: field(22)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    fn of(parent: u32, session: u32, started: u64) -> Stat {
        Stat { is_over: false, parent, session, started }
    }

    #[test]
    fn kin_are_the_marked_the_session_and_their_descendants_and_nobody_else() {
        let mut kin = Kin { cgroup: Vec::new(), mark: String::new(), leader: Some((10, 5)) };
        let plain = |stat| Seen { stat, is_marked: false };
        let mut all = BTreeMap::from([
            (1, plain(of(0, 1, 1))),
            (10, plain(of(9, 10, 5))),
            (11, plain(of(10, 10, 6))),
            // In the background, its parent gone.
            (12, plain(of(1, 10, 6))),
            // In a session of its own, but a child of a child.
            (13, plain(of(11, 13, 7))),
            (14, plain(of(1, 14, 7))),
            (15, plain(Stat { is_over: true, ..of(10, 10, 7) })),
            (16, Seen { stat: of(1, 16, 7), is_marked: true }),
            (17, plain(of(16, 17, 7))),
        ]);
        assert_eq!(kin.members(&all), [10, 11, 12, 16, 13, 17]);
        all.remove(&10);
        assert_eq!(kin.members(&all), [11, 12, 16, 13, 17]);
        // The number belongs to somebody else by now.
        all.insert(10, plain(of(1, 10, 99)));
        assert_eq!(kin.members(&all), [16, 17]);
        kin.leader = None;
        assert_eq!(kin.members(&all), [16, 17]);
    }

    #[test]
    fn a_monitor_is_known_by_the_id_of_its_command() {
        let line = b"/usr/bin/conmon\0--api-version\x001\0-c\0c1\0-u\0e1\0-r\0/usr/bin/runc\0";
        assert!(is_monitor(line, "e1"));
        assert!(!is_monitor(line, "c1") && !is_monitor(line, "e"));
        assert!(!is_monitor(b"/bin/sh\0-u\0e1\0", "e1") && !is_monitor(b"", "e1"));
    }

    #[test]
    fn the_kernels_words_are_read_whatever_a_program_is_called() {
        let line = b"7 (a) R 1) S 3 5 6 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 9000 1 2";
        assert_eq!(read(line), Some(of(3, 6, 9_000)));
        assert!(read(b"7 (a) Z 3 5 6 0 -1 1 1 0 0 0 1 5 0 0 20 0 1 0 9 1 2").unwrap().is_over);
        for bad in
            [&b""[..], b"7 (a", b"7 (a) S 3", b"7 (a) S x 5 6 0 -1 1 1 0 0 0 1 5 0 0 20 0 1 0 9"]
        {
            assert_eq!(read(bad), None);
        }
    }

    /// Starts a command with a mark, and waits until what belongs to it is as wanted.
    fn start(
        command: &[&str],
        mark: &str,
        is_so: impl Fn(&Kin, &BTreeMap<u32, Seen>) -> bool,
    ) -> (Child, Kin) {
        let child = Command::new(command[0])
            .args(&command[1..])
            .env("MARK", mark)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let kin = Kin::new(cgroup(std::process::id()).unwrap(), format!("MARK={mark}"));
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_so(&kin, &kin.container()) {
            assert!(Instant::now() < deadline, "{:?}", kin.container());
            std::thread::yield_now();
        }
        (child, kin)
    }

    #[test]
    fn all_that_a_command_has_started_ends_with_it() {
        let mark = format!("all-{}", std::process::id());
        let are =
            |n: usize| move |kin: &Kin, all: &BTreeMap<u32, Seen>| kin.members(all).len() == n;
        // In the background, without a parent, and in a session of its own.
        let script = "sleep 600 & (sleep 600 &) ; setsid sleep 600 & wait";
        let (mut child, kin) = start(&["sh", "-c", script], &mark, are(4));
        let (mut stranger, others) = start(&["sleep", "600"], &format!("{mark}-other"), are(1));
        assert!(kin.kill());
        child.wait().unwrap();
        assert!(kin.members(&kin.container()).is_empty());
        assert_eq!(others.members(&others.container()).len(), 1);
        assert!(others.kill());
        stranger.wait().unwrap();
    }

    #[test]
    fn a_process_without_the_mark_is_found_by_its_session() {
        let mark = format!("session-{}", std::process::id());
        // Not one that is just becoming another program: it has no environment for a moment, whatever session it is in.
        let is_sleep = |pid: u32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
        };
        let unmarked = |kin: &Kin, all: &BTreeMap<u32, Seen>| {
            kin.members(all).into_iter().find(|pid| !all[pid].is_marked && is_sleep(*pid))
        };
        let script = ["setsid", "-f", "-w", "sh", "-c", "env -i sleep 600 & wait"];
        let (mut child, mut kin) = start(&script, &mark, |kin, all| unmarked(kin, all).is_some());
        let all = kin.container();
        let found = unmarked(&kin, &all).unwrap();
        assert!(kin.lead(all[&found].stat.session), "{all:?}");
        kin.mark = "MARK=none".to_owned();
        assert!(kin.members(&kin.container()).contains(&found));
        assert!(kin.kill());
        child.wait().unwrap();
    }
}
