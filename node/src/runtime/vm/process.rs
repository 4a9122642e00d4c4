//! A process that is held before it begins.
//!
//! A shell waits in the new process until the node has put it into its cgroup. Then it lowers its own limits and becomes the
//! program: no instruction of the program ever runs without them. (From outside the node could not: in a container it often
//! lacks the capability to limit other users' processes.) The shell leaves a watcher behind, which ends the program when the
//! node dies. The pipe on which both wait is the node's side of all this: a first line lets the program begin, a second one
//! sends the watcher home, and its closing without that line means that the node is gone.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use super::host::User;
use crate::runtime::cgroup::Own;
use crate::runtime::netns::Network;

pub(super) const SHELL: &str = "/bin/sh";
const HOLD: &str = "read -r go || exit 125; \
    exec 3<&0; \
    { read -r go <&3 || kill -9 $$; } 2>/dev/null & \
    exec \"$@\" <\"$0\" 3<&-";
/// What a program reads that is given nothing.
const NOTHING: &str = "/dev/null";
/// The program that lowers limits, of util-linux, and where it may be.
pub(super) const LIMITER: &str = "prlimit";
const LIMITER_DIRS: [&str; 3] = ["/usr/bin", "/bin", "/usr/local/bin"];
/// Bytes of a program's output that are kept; of what is beyond, the first are.
const SAID_BYTES_MAX: u64 = 64 << 10;
/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a process may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// Bytes of its address space.
    Address(u64),
    /// Bytes of a file that it writes.
    File(u64),
    /// Seconds of processor time.
    Processor(u64),
    /// Files that it has open.
    Files(u64),
    /// Processes of its user.
    Processes(u64),
}

impl Limit {
    fn option(self) -> String {
        match self {
            Self::Address(most) => format!("--as={most}"),
            Self::File(most) => format!("--fsize={most}"),
            Self::Processor(most) => format!("--cpu={most}"),
            Self::Files(most) => format!("--nofile={most}"),
            Self::Processes(most) => format!("--nproc={most}"),
        }
    }
}

/// Where [`LIMITER`] is.
pub(super) fn limiter() -> Option<PathBuf> {
    LIMITER_DIRS.iter().map(|dir| Path::new(dir).join(LIMITER)).find(|path| path.exists())
}

/// What to run and how to hold it.
#[derive(Debug)]
pub(super) struct Spec<'a> {
    pub(super) program: &'a Path,
    pub(super) args: &'a [OsString],
    /// Where it runs.
    pub(super) dir: &'a Path,
    /// As whom; as the node itself without one.
    pub(super) user: Option<User>,
    pub(super) limits: &'a [Limit],
    pub(super) cgroup: Option<&'a Own>,
    /// Whose network it has; the node's own without one.
    pub(super) network: Option<&'a Network>,
    /// The file or pipe in its directory that is its standard input; empty input without one.
    pub(super) input: Option<&'a str>,
}

/// A process that runs.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    hold: Option<ChildStdin>,
    pid: u32,
    /// Ends with the last that holds the standard output: the watcher.
    out: Option<JoinHandle<Vec<u8>>>,
    printed: Vec<u8>,
    said: Option<JoinHandle<Vec<u8>>>,
}

impl Process {
    /// Starts a process and lets it begin.
    pub(super) async fn start(spec: &Spec<'_>) -> io::Result<Self> {
        let mut command = Command::new(SHELL);
        let limiter = limiter().ok_or(io::ErrorKind::NotFound)?;
        command.arg("-c").arg(HOLD).arg(spec.input.unwrap_or(NOTHING)).arg(limiter).arg("--core=0");
        command.args(spec.limits.iter().map(|limit| limit.option()));
        command.arg("--").arg(spec.program).args(spec.args);
        command.current_dir(spec.dir).env_clear().kill_on_drop(true);
        // No terminal's signals: the node ends it.
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(user) = spec.user {
            command.uid(user.uid).gid(user.gid);
        }
        let mut child = match spec.network {
            Some(network) => network.spawn(command).await.map_err(io::Error::other)?,
            None => command.spawn()?,
        };
        let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
        let hold = child.stdin.take();
        let out = child.stdout.take().map(collect);
        let said = child.stderr.take().map(collect);
        let mut process = Self { child, hold, pid, out, printed: Vec::new(), said };
        match process.let_begin(spec).await {
            Ok(()) => Ok(process),
            Err(error) => {
                process.kill().await;
                Err(error)
            }
        }
    }

    async fn let_begin(&mut self, spec: &Spec<'_>) -> io::Result<()> {
        if let Some(cgroup) = spec.cgroup {
            cgroup.add(self.pid)?;
        }
        self.tell().await
    }

    async fn tell(&mut self) -> io::Result<()> {
        match &mut self.hold {
            Some(hold) => hold.write_all(b"go\n").await,
            None => Ok(()),
        }
    }

    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end, and for its watcher's. Cancel-safe.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        // The watcher may go. It may be gone already.
        let _ = self.tell().await;
        self.hold = None;
        if let Some(out) = &mut self.out {
            // A program that has left something behind that holds its output is not waited for.
            let printed = tokio::time::timeout(KILL_TIMEOUT, out).await;
            self.out = None;
            self.printed = printed.ok().and_then(Result::ok).unwrap_or_default();
        }
        Ok(status)
    }

    /// Ends it and waits until it is gone; `None` when even that did not end it in time.
    pub(super) async fn kill(&mut self) -> Option<ExitStatus> {
        // It may have ended by itself.
        let _ = self.child.start_kill();
        match tokio::time::timeout(KILL_TIMEOUT, self.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => None,
        }
    }

    /// What it wrote to its standard error, after its end.
    pub(super) async fn said(&mut self) -> String {
        let Some(said) = self.said.take() else { return String::new() };
        let said = tokio::time::timeout(KILL_TIMEOUT, said).await;
        let said = said.ok().and_then(Result::ok).unwrap_or_default();
        String::from_utf8_lossy(&said).trim().to_owned()
    }

    /// What it wrote to its standard output, after its end.
    pub(super) fn out(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.printed)
    }
}

fn collect(mut from: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<Vec<u8>> {
    tokio::spawn(async move {
        let mut kept = Vec::new();
        // What cannot be read was not said.
        let _ = (&mut from).take(SAID_BYTES_MAX).read_to_end(&mut kept).await;
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        kept
    })
}

/// When a process began, in clock ticks since the start of the system, its processor time in microseconds, and its memory
/// now and at most, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vitals {
    pub(super) started: u64,
    pub(super) cpu_us: u64,
    pub(super) memory_bytes: u64,
    pub(super) memory_peak_bytes: u64,
}

/// What the kernel counts for a process; `None` when it has ended.
pub(super) fn vitals(pid: u32) -> Option<Vitals> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    read_vitals(&stat, &status, rustix::param::clock_ticks_per_second())
}

fn read_vitals(stat: &str, status: &str, ticks_per_s: u64) -> Option<Vitals> {
    // The second field is the program's name, which may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)?.saturating_add(number(15)?);
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    Some(Vitals {
        started: number(22)?,
        cpu_us: ticks.saturating_mul(1_000_000) / ticks_per_s.max(1),
        memory_bytes: kib("VmRSS:").unwrap_or(0).saturating_mul(1_024),
        memory_peak_bytes: kib("VmHWM:").unwrap_or(0).saturating_mul(1_024),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn spec<'a>(args: &'a [OsString], limits: &'a [Limit]) -> Spec<'a> {
        Spec {
            program: Path::new("/bin/sh"),
            args,
            dir: Path::new("/"),
            user: None,
            limits,
            cgroup: None,
            network: None,
            input: None,
        }
    }

    async fn start(args: &[OsString], limits: &[Limit]) -> Process {
        Process::start(&spec(args, limits)).await.unwrap()
    }

    #[tokio::test]
    async fn a_process_reads_what_it_is_given_and_else_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("in put"), "given").unwrap();
        let args = words(&["-c", "cat; echo .; ls -l /proc/self/fd | grep -c pipe"]);
        let given = Spec { dir: dir.path(), input: Some("in put"), ..spec(&args, &[]) };
        let mut process = Process::start(&given).await.unwrap();
        process.wait().await.unwrap();
        // It has the pipes of any child with two outputs: not the one by which the node holds it.
        let mut any = std::process::Command::new(SHELL);
        let any = any.args(&args).stdin(Stdio::null()).output().unwrap();
        let pipes = String::from_utf8(any.stdout).unwrap();
        assert_eq!(String::from_utf8(process.out()).unwrap(), format!("given{pipes}"));
        let mut process = start(&args, &[]).await;
        process.wait().await.unwrap();
        assert!(process.out().starts_with(b".\n"));
    }

    #[tokio::test]
    async fn a_process_begins_with_its_limits_and_without_the_nodes_environment() {
        let args =
            words(&["-c", "ulimit -n; ulimit -c; env | grep -c -v -e ^PWD= -e ^_= -e ^SHLVL="]);
        let mut process = start(&args, &[Limit::Files(77)]).await;
        process.wait().await.unwrap();
        assert_eq!(String::from_utf8(process.out()).unwrap(), "77\n0\n0\n");
    }

    #[tokio::test]
    async fn a_process_ends_with_its_node() {
        let mut process = start(&words(&["-c", "exec sleep 600"]), &[]).await;
        // A node that dies closes the pipe without a word.
        process.hold = None;
        let status = tokio::time::timeout(Duration::from_secs(10), process.child.wait()).await;
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status.unwrap().unwrap()),
            Some(9)
        );
    }

    #[tokio::test]
    async fn what_a_process_says_is_bounded() {
        let mut process =
            start(&words(&["-c", "head -c 1000000 /dev/zero >&2; exit 3"]), &[]).await;
        assert_eq!(process.wait().await.unwrap().code(), Some(3));
        assert_eq!(process.said().await.len() as u64, SAID_BYTES_MAX);
    }

    #[test]
    fn vitals_are_read_whatever_a_program_is_called() {
        let stat = "7 (a) R 1) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 9000 1 2";
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let expected = Vitals {
            started: 9_000,
            cpu_us: 2_000_000,
            memory_bytes: 1 << 20,
            memory_peak_bytes: 2 << 20,
        };
        assert_eq!(read_vitals(stat, status, 100), Some(expected));
        assert_eq!(read_vitals("", "", 100), None);
    }
}
