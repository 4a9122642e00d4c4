//! `qemu-img`, confined: the one way in which this program looks into images and converts them.
//!
//! An image is a program for `qemu-img`, written by a stranger. So it runs
//!
//! - as a user of its own where the node is root, without any capability and without the right to gain one;
//! - in namespaces of its own where the host allows them: no network, and a file system that has the programs of the host, the
//!   directory with the image, and nothing else, so that a name in an image leads nowhere;
//! - with limits on address space, processor time, files, processes, and the size of what it writes, and for a limited time;
//! - on images whose headers were read before (see [`super::image`]), opened as the format that was found there, with every
//!   file by name and no backing file.
//!
//! It can only write to files that were made for it before.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::fault;
use super::host::{OpenError, User, Users, find_qemu_img};
use super::image::{self, Format, InvalidMachine};
use super::process::{Limit, Process, Spec};
use crate::runtime::{HostFault, PrepareError, bounded};

/// How long a look into an image and a conversion may take.
const INFO_TIMEOUT: Duration = Duration::from_secs(30);
const CONVERT_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Processor time of a conversion in seconds, of all its threads: packing uses several.
const CONVERT_CPU_S: u64 = 4 * 30 * 60;
/// How long it may take to walk through an image's tables.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// The exit code of `qemu-img check` for an image that is whole, and has clusters which nobody uses.
const CHECK_LEAKS: i32 = 3;
/// How long the look may take which finds out what the host allows.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// Address space in bytes: an image cannot make it take all memory.
const ADDRESS_BYTES: u64 = 4 << 30;
/// Most files that it has open.
const FILES_MAX: u64 = 64;
/// Most threads and processes of its user.
const PROCESSES_MAX: u64 = 256;
/// Largest file that it may write while it only looks: what the way into its namespaces copies there.
const LOOK_FILE_BYTES: u64 = 4 << 20;
/// The mount point in the directory of a job, below which the tool's file system is made.
const ROOT: &str = ".root";
/// What is said of a file that meets its limit, as the C library says it.
pub(super) const TOO_LARGE: &str = "File too large";
/// What runs [`ENTER`].
const SHELL: &str = "/bin/sh";

/// Makes the tool's file system in namespaces of its own, and goes there. It begins in the directory of the job, gets the
/// options of `setpriv` as one word, and then the program with its arguments.
const ENTER: &str = r#"set -e
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
work=$PWD
mount -t tmpfs -o mode=755,size=4m,nosuid none .root
cd .root
mkdir usr etc dev work
mount --rbind /usr usr
mount -o remount,bind,ro usr 2>/dev/null || :
for dir in bin lib lib32 lib64; do
    if [ -L "/$dir" ]; then
        cp -P "/$dir" "$dir"
    elif [ -d "/$dir" ]; then
        mkdir "$dir"
        mount --rbind "/$dir" "$dir"
    fi
done
cp /etc/ld.so.cache etc/ 2>/dev/null || :
: >dev/null
mount --bind /dev/null dev/null
mount --bind "$work" work
mount -o remount,bind,ro . 2>/dev/null || :
rights=$1
shift
exec chroot . setpriv $rights -- env -i -C /work "$@"
"#;
/// Without capabilities, now and later.
const NO_RIGHTS: &str = "--no-new-privs --inh-caps=-all --bounding-set=-all";

/// What holds the tool on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cage {
    /// Namespaces, as a user of its own.
    Root,
    /// Namespaces, as the user of the node with no rights.
    User,
    /// Limits, and a user of its own where the node is root.
    Limits,
}

/// `qemu-img` of this host.
#[derive(Debug)]
pub(crate) struct Tool {
    program: PathBuf,
    users: Arc<Users>,
    cage: OnceCell<Cage>,
}

/// One run of it.
#[derive(Clone, Copy, Debug)]
struct Job<'a> {
    /// Where the image is.
    dir: &'a Path,
    args: &'a [&'a str],
    limits: &'a [Limit],
    /// How long it may take.
    most: Duration,
    /// Exit codes that are none of a failure.
    fine: &'a [i32],
}

/// The limits of a run that only looks.
const fn look(most: Duration) -> [Limit; 2] {
    [Limit::File(LOOK_FILE_BYTES), Limit::Processor(most.as_secs())]
}

/// What is to be made of an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output<'a> {
    /// The name of the file in the directory.
    pub(crate) name: &'a str,
    /// Its format.
    pub(crate) format: Format,
    /// Whether its clusters are packed; of a qcow2 only.
    pub(crate) compress: bool,
    /// Most bytes that it may get; with more the conversion fails.
    pub(crate) bytes_max: u64,
}

/// What `qemu-img` says of an image.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Info {
    /// Bytes of its disk.
    #[serde(rename = "virtual-size")]
    pub(crate) virtual_bytes: u64,
    #[serde(rename = "backing-filename")]
    backing: Option<String>,
    #[serde(default)]
    encrypted: bool,
    /// Bytes of a cluster, where the format has them.
    #[serde(rename = "cluster-size")]
    pub(crate) cluster_bytes: Option<u64>,
    /// Whether it was not closed in good order.
    #[serde(rename = "dirty-flag", default)]
    pub(crate) is_dirty: bool,
    /// Internal snapshots.
    #[serde(default)]
    pub(crate) snapshots: Vec<serde::de::IgnoredAny>,
}

impl Tool {
    /// The tool at this path, for the node of this name on this host.
    pub(super) fn new(program: PathBuf, owner: &str) -> Self {
        // Other users than those of machines: two of one user could get at each other.
        let users = Users::new(&format!("{owner}-images"), None);
        Self { program, users, cage: OnceCell::new() }
    }

    /// Looks for it on this host.
    ///
    /// # Errors
    /// [`OpenError::NoProgram`].
    pub(crate) fn find(owner: &str) -> Result<Self, OpenError> {
        find_qemu_img().map(|program| Self::new(program, owner))
    }

    /// What an image is, whose headers were read and found to be of this format.
    pub(crate) async fn info(
        &self,
        dir: &Path,
        name: &str,
        format: Format,
    ) -> Result<Info, PrepareError> {
        let source = source(name, format);
        let args = ["info", "--output=json", &source];
        let limits = look(INFO_TIMEOUT);
        let out = self
            .run(&Job { dir, args: &args, limits: &limits, most: INFO_TIMEOUT, fine: &[0] })
            .await?;
        let info: Info = serde_json::from_slice(&out)
            .map_err(|error| fault("understand what qemu-img says of an image", error))?;
        image::check_size(info.virtual_bytes)?;
        if info.backing.is_some() {
            return Err(InvalidMachine::Refers { refers: "needs a backing file" }.into());
        }
        if info.encrypted {
            let problem = "is encrypted".to_owned();
            return Err(InvalidMachine::Format { problem }.into());
        }
        Ok(info)
    }

    /// Whether all that an image's tables lead to is there, of formats of which the tool knows that.
    pub(crate) async fn check(
        &self,
        dir: &Path,
        name: &str,
        format: Format,
    ) -> Result<(), PrepareError> {
        if matches!(format, Format::Raw | Format::Vhd) {
            return Ok(());
        }
        let source = source(name, format);
        let (args, limits) = (["check", "-q", &source], look(CHECK_TIMEOUT));
        // Room that is taken and not used does no harm.
        let fine = &[0, CHECK_LEAKS];
        let job = Job { dir, args: &args, limits: &limits, most: CHECK_TIMEOUT, fine };
        self.run(&job).await.map(drop).map_err(|error| match error {
            PrepareError::InvalidMachine(InvalidMachine::Refused { detail }) => {
                // It says so of every cluster.
                let first = detail.lines().next().unwrap_or_default();
                let detail = format!("it is damaged or cut off: {first}");
                InvalidMachine::Refused { detail }.into()
            }
            error => error,
        })
    }

    /// Makes another image of the same disk, in the same directory.
    pub(crate) async fn convert(
        &self,
        dir: &Path,
        (name, format): (&str, Format),
        to: &Output<'_>,
    ) -> Result<(), PrepareError> {
        let made = dir.join(to.name);
        File::create(&made).map_err(|error| HostFault::file("make", &made, &error))?;
        let source = source(name, format);
        let mut args = vec!["convert", "-O", image::driver(to.format)];
        match to.format {
            Format::Vhd => args.extend(["-o", "subformat=dynamic,force_size=on"]),
            Format::Qcow2 if to.compress => args.push("-c"),
            _ => {}
        }
        args.extend([source.as_str(), to.name]);
        let limits =
            [Limit::File(to.bytes_max.max(LOOK_FILE_BYTES)), Limit::Processor(CONVERT_CPU_S)];
        let lease = self.users.lease();
        if let Some(user) = lease.user {
            chown(&made, Some(user.uid), Some(user.uid))
                .map_err(|error| HostFault::file("hand over", &made, &error))?;
        }
        let job = Job { dir, args: &args, limits: &limits, most: CONVERT_TIMEOUT, fine: &[0] };
        let ran = self.run_as(lease.user, &job).await;
        // What was its own is the node's again, so that nobody after it can change it.
        readable(&made)?;
        ran.map(drop)
    }

    async fn run(&self, job: &Job<'_>) -> Result<Vec<u8>, PrepareError> {
        let lease = self.users.lease();
        self.run_as(lease.user, job).await
    }

    /// Runs it in a directory that is its own, and gives what it printed.
    async fn run_as(&self, user: Option<User>, job: &Job<'_>) -> Result<Vec<u8>, PrepareError> {
        let cage = *self.cage.get_or_init(|| self.choose(user, job.dir)).await;
        let mut limits = vec![Limit::Address(ADDRESS_BYTES), Limit::Files(FILES_MAX)];
        limits.extend(job.limits);
        if user.is_some() {
            limits.push(Limit::Processes(PROCESSES_MAX));
        }
        self.run_in(cage, user, &Job { limits: &limits, ..*job }).await
    }

    /// Finds out what the host allows, by trying it.
    async fn choose(&self, user: Option<User>, dir: &Path) -> Cage {
        let strong = if user.is_some() { Cage::Root } else { Cage::User };
        let (args, limits) = (["--version"], [Limit::File(LOOK_FILE_BYTES)]);
        let job = Job { dir, args: &args, limits: &limits, most: PROBE_TIMEOUT, fine: &[0] };
        match self.run_in(strong, user, &job).await {
            Ok(_) => strong,
            Err(error) => {
                tracing::warn!(%error, "images are looked into without namespaces, since none can be made here");
                Cage::Limits
            }
        }
    }

    async fn run_in(
        &self,
        cage: Cage,
        user: Option<User>,
        job: &Job<'_>,
    ) -> Result<Vec<u8>, PrepareError> {
        let Job { dir, args, limits, most, fine } = *job;
        let mut words = self.words(cage, user);
        words.extend(args.iter().map(OsString::from));
        let program = PathBuf::from(words.remove(0));
        let _root = Root::new(dir)?;
        let spec = Spec {
            program: &program,
            args: &words,
            dir,
            user: None,
            limits,
            cgroup: None,
            network: None,
            input: None,
        };
        let failed = |error: io::Error| fault("run qemu-img", error);
        let mut process = Process::start(&spec).await.map_err(failed)?;
        match tokio::time::timeout(most, process.wait()).await {
            Ok(Ok(status)) if status.code().is_some_and(|code| fine.contains(&code)) => {
                Ok(process.out())
            }
            Ok(Ok(status)) => {
                let detail = match (ended_by(status), process.said().await) {
                    (Some(why), _) => why.to_owned(),
                    (None, said) if said.is_empty() => status.to_string(),
                    (None, said) => bounded(said),
                };
                Err(InvalidMachine::Refused { detail }.into())
            }
            Ok(Err(error)) => Err(failed(error).into()),
            Err(_) => {
                process.kill().await;
                let detail = format!("it takes longer than {} s to read", most.as_secs());
                Err(InvalidMachine::Refused { detail }.into())
            }
        }
    }

    /// The program and what leads to it.
    fn words(&self, cage: Cage, user: Option<User>) -> Vec<OsString> {
        let as_user = |user: User| {
            format!("--reuid={} --regid={} --clear-groups {NO_RIGHTS}", user.uid, user.uid)
        };
        let rights = user.map_or(NO_RIGHTS.to_owned(), as_user);
        let mut words: Vec<OsString> = Vec::new();
        match cage {
            Cage::Root | Cage::User => {
                words.push("unshare".into());
                if cage == Cage::User {
                    words.extend(["--user", "--map-root-user"].map(OsString::from));
                }
                let namespaces = ["--net", "--ipc", "--uts", "--mount", "--", SHELL, "-c", ENTER];
                words.extend(namespaces.map(OsString::from));
                words.extend(["sh".into(), rights.into()]);
            }
            Cage::Limits if user.is_some() => {
                words.push("setpriv".into());
                words.extend(rights.split(' ').map(OsString::from));
                words.push("--".into());
            }
            Cage::Limits => {}
        }
        words.push(self.program.clone().into());
        words
    }
}

/// Which limit the kernel ended it for.
fn ended_by(status: ExitStatus) -> Option<&'static str> {
    let signal = status.signal()?;
    if signal == Signal::XFSZ.as_raw() {
        Some(TOO_LARGE)
    } else if signal == Signal::XCPU.as_raw() {
        Some("it takes more processor time than is allowed")
    } else {
        None
    }
}

/// An image by its name in the job's directory, as `qemu-img` is to open it.
fn source(name: &str, format: Format) -> String {
    let file = serde_json::json!({"driver": "file", "filename": name, "locking": "off"});
    let mut source = serde_json::json!({"driver": image::driver(format), "file": file});
    if format == Format::Qcow2 || format == Format::Vmdk {
        source["backing"] = serde_json::Value::Null;
    }
    format!("json:{source}")
}

/// The mount point in the directory of a job; removed afterwards. What was mounted there was in another namespace.
struct Root(PathBuf);

impl Root {
    fn new(dir: &Path) -> Result<Self, HostFault> {
        let path = dir.join(ROOT);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(HostFault::file("make", &path, &error))
            }
            _ => Ok(Self(path)),
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // The directory of the job goes as a whole where this fails.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Makes a file the node's own again, that others may only read. They reach it by a link in their own directory.
pub(super) fn readable(path: &Path) -> Result<(), HostFault> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    chown(path, Some(uid), Some(gid))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o444)))
        .map_err(|error| HostFault::file("take back", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tool that is some other program.
    fn tool(program: &str) -> Tool {
        Tool::new(program.into(), "tests")
    }

    async fn printed(tool: &Tool, dir: &Path, args: &[&str]) -> String {
        let most = Duration::from_secs(30);
        match tool.run(&Job { dir, args, limits: &[], most, fine: &[0] }).await {
            Ok(out) => String::from_utf8(out).unwrap(),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn the_tool_has_no_rights_no_network_and_no_files_but_its_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        fs::write(dir.path().join("disk"), "own").unwrap();
        let tool = tool("/usr/bin/env");
        // `--version` is what the way in is tried with.
        let found = printed(&tool, dir.path(), &["cat", "disk"]).await;
        assert_eq!(found, "own");
        if *tool.cage.get().unwrap() == Cage::Limits {
            return println!("skipped: no namespaces can be made here");
        }
        for secret in ["/etc/passwd", "/etc/shadow", "/proc/self/environ"] {
            let refused = printed(&tool, dir.path(), &["cat", secret]).await;
            assert!(refused.contains("No such file"), "{secret}: {refused}");
        }
        let listed = printed(&tool, dir.path(), &["ls", "-A", "/"]).await;
        assert!(!listed.contains("tmp") && !listed.contains("home"), "{listed}");
        let wrote = printed(&tool, dir.path(), &["sh", "-c", "echo x > /usr/x"]).await;
        assert!(wrote.contains("x: "), "{wrote}");
        let gained = printed(&tool, dir.path(), &["mount", "-t", "tmpfs", "none", "/usr"]).await;
        assert!(gained.contains("mount"), "{gained}");
        if rustix::process::geteuid().is_root() {
            let uid = printed(&tool, dir.path(), &["id", "-u"]).await;
            assert!(uid.trim().parse::<u32>().unwrap() > 0x7000_0000, "{uid}");
            let wrote = printed(&tool, dir.path(), &["sh", "-c", "echo x > new"]).await;
            assert!(wrote.contains("new"), "{wrote}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn without_namespaces_the_tool_still_has_no_rights_and_reaches_its_files() {
        // Closed to everyone else, as a node's home is.
        let closed = tempfile::tempdir().unwrap();
        let dir = closed.path().join("job");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).unwrap();
        fs::write(dir.join("disk"), "own").unwrap();
        let tool = tool("/usr/bin/env");
        tool.cage.set(Cage::Limits).unwrap();
        assert_eq!(printed(&tool, &dir, &["cat", "disk"]).await, "own");
        if rustix::process::geteuid().is_root() {
            let status = printed(&tool, &dir, &["cat", "/proc/self/status"]).await;
            for line in ["CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
                assert!(status.contains(line), "{status}");
            }
            let refused = printed(&tool, &dir, &["cat", "/etc/shadow"]).await;
            assert!(refused.contains("Permission denied"), "{refused}");
        }
    }

    #[tokio::test]
    async fn the_tool_is_ended_in_time() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let tool = tool("/usr/bin/env");
        let (args, most) = (["sleep", "600"], Duration::from_secs(1));
        let job = Job { dir: dir.path(), args: &args, limits: &[], most, fine: &[0] };
        let slow = tool.run(&job).await;
        let told = slow.unwrap_err().to_string();
        assert!(told.contains("longer than 1 s"), "{told}");
    }
}
