//! The cluster: reaching it, what it can hold tasks to, and what an earlier life of the node left there.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::answer::{self, MACHINE_FORMAT, OWNED_FORMAT, Owned};
use super::tools::{ToolError, Tools};
use super::{NAME_LEN_MAX, User, is_name, stage};

/// How long the cluster may take to end jobs of an earlier life.
const LEFTOVER_TIMEOUT: Duration = Duration::from_secs(120);
/// Time between two looks for them.
const LEFTOVER_POLL: Duration = Duration::from_millis(500);
/// Jobs that are cancelled by one call.
const CANCEL_BATCH: usize = 500;
/// In front of the names and comments of this program's jobs.
pub(super) const MARK: &str = "opencloud";

/// How a site lets a node use its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A directory that every machine of the cluster has under the same path. Only its owner needs to read it, but jobs pass
    /// through it. Letters, digits and `/._-+@` only, because Slurm gives other characters a meaning.
    pub dir: PathBuf,
    /// Names this node among all that use the cluster.
    pub owner: String,
    /// The user of the site as whom all tasks run, on the cluster's machines and here. Never root. A node that is not root
    /// can only name its own user: then tasks can do all that the node can, and read its keys.
    pub user: String,
    /// `slurm.conf`, where the tools would not find it themselves.
    pub config: Option<PathBuf>,
    /// The partition, if not the site's default.
    pub partition: Option<String>,
    /// The account that the site charges, if not the user's default.
    pub account: Option<String>,
    /// The quality of service, if not the user's default.
    pub qos: Option<String>,
    /// Longest time that a job may wait for its machine.
    pub queue_timeout: Duration,
    /// Most jobs that are in the queue or run at one time, at least one; further tasks wait in the node.
    pub jobs_max: usize,
    /// Most processes and threads that all tasks on one machine may have together, as they share a user; one more and `fork`
    /// fails. It has to be small enough that a task meets it before its memory, where the site's `slurmstepd` can be killed
    /// for want of memory: then Slurm takes the job for ended while its processes live on.
    pub processes_max: u32,
}

/// Where processor time comes from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Metering {
    /// From the `slurmstepd` that watches the job, with a cgroup: also of processes that have ended. Whole seconds; below
    /// them, the job's own word.
    Cgroup,
    /// From the `slurmstepd` that watches the job, which adds up its living processes. What ended ones had used is the job's own
    /// word, which a hostile job may make too small.
    Sampled,
    /// The cluster gathers nothing: the job's own word, which a hostile job may make too small.
    Claimed,
}

/// The cluster as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its own name.
    pub name: String,
    /// Slurm's release.
    pub version: String,
    /// Processors of all its machines together, in thousandths.
    pub cpu_milli: u64,
    /// Memory of all its machines together, in bytes.
    pub memory_bytes: u64,
    /// Memory of its largest machine, in bytes; no task can have more.
    pub machine_memory_bytes: u64,
    /// Where meters come from.
    pub metering: Metering,
    /// Whether the kernel holds jobs to their memory. Elsewhere they are watched and ended when they have more, which a fast
    /// one can outrun.
    pub has_memory_limits: bool,
    /// Whether the kernel holds jobs to their processors. Elsewhere a job may use all of its machine, and is billed for it.
    pub has_cpu_limits: bool,
}

/// Why a cluster cannot be offered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// An option cannot be used.
    #[error("the option `{option}` of the cluster is `{value}`: {problem}")]
    Option {
        /// Its name.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// The shared directory cannot be used.
    #[error("cannot {action} `{}` for jobs", path.display())]
    Directory {
        /// What was tried, as a verb.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The cluster does not answer.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// It answers, but not as one that can be used.
    #[error("the cluster {name} cannot {lacking}; set {remedy} in its slurm.conf")]
    Unfit {
        /// The cluster.
        name: String,
        /// What it cannot do.
        lacking: &'static str,
        /// What would help.
        remedy: &'static str,
    },
    /// It does not end what an earlier life of this node left.
    #[error(
        "{n_jobs} jobs of an earlier run of this node do not end; look at them with `squeue --name` and ask the operator"
    )]
    Leftovers {
        /// How many.
        n_jobs: usize,
    },
}

fn option(option: &'static str, value: &str, problem: &str) -> ConnectError {
    ConnectError::Option {
        option,
        value: value.chars().take(200).collect(),
        problem: problem.to_owned(),
    }
}

/// Checks what can be checked without the cluster.
fn check(options: &Options) -> Result<(), ConnectError> {
    let words = format!("use up to {NAME_LEN_MAX} letters, digits, `.`, `_` and `-`");
    if !is_name(&options.owner) {
        return Err(option("owner", &options.owner, &words));
    }
    let named =
        [("partition", &options.partition), ("account", &options.account), ("qos", &options.qos)];
    for (name, value) in named {
        if let Some(value) = value
            && !is_name(value)
        {
            return Err(option(name, value, &words));
        }
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    let dir = options.dir.to_string_lossy();
    if !options.dir.is_absolute() || !dir.chars().all(is_plain) {
        let problem = "it must begin with `/` and have only letters, digits and `/._-+@`, because Slurm gives others a meaning";
        return Err(option("dir", &dir, problem));
    }
    Ok(())
}

/// As whom tools and jobs run.
async fn user(options: &Options) -> Result<User, ConnectError> {
    let refused = |problem: &str| option("user", &options.user, problem);
    if !is_name(&options.user) {
        return Err(refused("this is no name of a user"));
    }
    let asked = Tools::new(None, None).run("getent", &["passwd", &options.user], "").await;
    let entry = match asked {
        Ok(entry) => entry,
        Err(ToolError::Failed { .. }) => {
            return Err(refused("this machine does not know such a user"));
        }
        Err(error) => return Err(error.into()),
    };
    let found =
        answer::user(&entry).ok_or_else(|| refused("this machine does not know such a user"))?;
    let own = fs::metadata("/proc/self").map_err(|source| ConnectError::Directory {
        action: "read",
        path: "/proc/self".into(),
        source,
    })?;
    choose(own.uid(), found).map_err(refused)
}

fn choose(own: u32, (uid, gid): (u32, u32)) -> Result<User, &'static str> {
    match (own, uid) {
        (_, 0) => Err("tasks must not run as root; name another user"),
        (0, _) => Ok(User { uid, gid, is_other: true }),
        (own, uid) if own == uid => Ok(User { uid, gid, is_other: false }),
        _ => {
            Err("only a node that runs as root can run tasks as another user; name the node's own")
        }
    }
}

pub(super) async fn connect(options: &Options) -> Result<(Tools, User, Cluster), ConnectError> {
    check(options)?;
    let user = user(options).await?;
    let tools = Tools::new(options.config.clone(), user.is_other.then_some((user.uid, user.gid)));
    let settings = answer::settings(&tools.run("scontrol", &["show", "config"], "").await?);
    let format = format!("--Format={MACHINE_FORMAT}");
    let mut args = vec!["--noheader", "--Node", format.as_str()];
    let partition = options.partition.as_ref().map(|name| format!("--partition={name}"));
    args.extend(partition.as_deref());
    let machines = answer::machines(&tools.run("sinfo", &args, "").await?);
    let cluster = cluster(&settings, machines.values().copied())?;
    let root = root(options);
    let directory = |action, source| ConnectError::Directory { action, path: root.clone(), source };
    // Others may pass through but see nothing.
    let made = DirBuilder::new().recursive(true).mode(0o711).create(&root);
    made.map_err(|source| directory("create", source))?;
    if let Err(ToolError::Failed { .. }) =
        tools.run("test", &["-x", &root.to_string_lossy()], "").await
    {
        let problem = format!(
            "the user `{}` cannot enter it; let others pass (`chmod o+x`) on the way to it",
            options.user
        );
        return Err(option("dir", &options.dir.to_string_lossy(), &problem));
    }
    Ok((tools, user, cluster))
}

/// The directory of an owner's tasks.
pub(super) fn root(options: &Options) -> PathBuf {
    options.dir.join(&options.owner)
}

fn cluster(
    settings: &std::collections::BTreeMap<String, String>,
    machines: impl Iterator<Item = (u64, u64)>,
) -> Result<Cluster, ConnectError> {
    let setting = |name: &str| settings.get(name).map_or("", String::as_str);
    let name = setting("ClusterName").to_owned();
    let unfit = |lacking, remedy| ConnectError::Unfit { name: name.clone(), lacking, remedy };
    // Elsewhere a process that leaves its group or its parent outlives its job.
    if setting("ProctrackType") != "proctrack/cgroup" {
        return Err(unfit("end all processes of a job", "ProctrackType=proctrack/cgroup"));
    }
    let has_cgroups = setting("TaskPlugin").contains("task/cgroup");
    let is_yes = |name: &str| setting(name).eq_ignore_ascii_case("yes");
    let metering = match setting("JobAcctGatherType") {
        "jobacct_gather/cgroup" => Metering::Cgroup,
        "jobacct_gather/linux" => Metering::Sampled,
        _ => Metering::Claimed,
    };
    let has_memory_limits = has_cgroups && is_yes("ConstrainRAMSpace");
    if !has_memory_limits && metering == Metering::Claimed {
        return Err(unfit(
            "limit memory",
            "TaskPlugin=task/cgroup or JobAcctGatherType=jobacct_gather/linux",
        ));
    }
    let (mut n_cpus, mut memory_bytes, mut largest) = (0_u64, 0_u64, 0);
    for (cpus, bytes) in machines {
        n_cpus = n_cpus.saturating_add(cpus);
        memory_bytes = memory_bytes.saturating_add(bytes);
        largest = bytes.max(largest);
    }
    Ok(Cluster {
        version: setting("SLURM_VERSION").to_owned(),
        cpu_milli: n_cpus.saturating_mul(1_000),
        memory_bytes,
        machine_memory_bytes: largest,
        metering,
        has_memory_limits,
        has_cpu_limits: has_cgroups && is_yes("ConstrainCores"),
        name,
    })
}

/// The comment of an owner's jobs.
pub(super) fn comment(owner: &str) -> String {
    format!("{MARK}:{owner}")
}

/// The name of a task's job.
pub(super) fn job_name(owner: &str, task: &str) -> String {
    format!("{MARK}.{owner}.{task}")
}

/// Ends what an earlier life of this node left behind, and removes its directories.
pub(super) async fn remove_leftovers(
    tools: &Tools,
    options: &Options,
    user: User,
) -> Result<(), ConnectError> {
    let root = root(options);
    let dirs = directories(&root);
    let begun = Instant::now();
    loop {
        let left = leftovers(tools, options, user, &dirs).await?;
        if left.is_empty() {
            break;
        }
        if begun.elapsed() > LEFTOVER_TIMEOUT {
            return Err(ConnectError::Leftovers { n_jobs: left.len() });
        }
        tracing::info!(
            n_jobs = left.len(),
            "ending jobs that an earlier run of this node left behind"
        );
        let ids: Vec<String> = left.iter().map(|job| job.id.to_string()).collect();
        for ids in ids.chunks(CANCEL_BATCH) {
            cancel(tools, ids).await;
        }
        tokio::time::sleep(LEFTOVER_POLL).await;
    }
    for dir in dirs {
        stage::remove(&dir);
    }
    Ok(())
}

/// Ends jobs in whatever phase they are: at once where they run, and out of the queue where they wait.
pub(super) async fn cancel(tools: &Tools, ids: &[String]) {
    // Without the first call, a job would have the site's grace (`KillWait`) to go on.
    let kill = ["--quiet", "--signal=KILL", "--full"];
    for options in [&kill[..], &kill[..1]] {
        let args: Vec<&str> =
            options.iter().copied().chain(ids.iter().map(String::as_str)).collect();
        if let Err(error) = tools.run("scancel", &args, "").await {
            // It also fails for jobs that have ended; whoever waits for the end tries again.
            tracing::debug!(%error, "jobs cannot be cancelled");
        }
    }
}

/// Ends a job whose number is not known.
pub(super) async fn cancel_named(tools: &Tools, name: &str, user: User) {
    let (name, user) = (format!("--name={name}"), format!("--user={}", user.uid));
    if let Err(error) = tools.run("scancel", &["--quiet", &name, &user], "").await {
        tracing::warn!(%error, "a job may be left behind; the node's next start ends it");
    }
}

async fn leftovers(
    tools: &Tools,
    options: &Options,
    user: User,
    dirs: &[PathBuf],
) -> Result<Vec<Owned>, ConnectError> {
    let (format, user) = (format!("--Format={OWNED_FORMAT}"), format!("--user={}", user.uid));
    // Without a state it lists those that have not ended.
    let answer = tools.run("squeue", &["--noheader", format.as_str(), user.as_str()], "").await?;
    let comment = comment(&options.owner);
    let is_of = |job: &Owned, dir: &PathBuf| {
        let task = dir.file_name().and_then(|name| name.to_str());
        task.is_some_and(|task| job.name == job_name(&options.owner, task))
    };
    let mut found = answer::owned(&answer);
    // Some sites write comments of their own; then the directories tell the names.
    found.retain(|job| job.comment == comment || dirs.iter().any(|dir| is_of(job, dir)));
    Ok(found)
}

fn directories(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            dir: "/shared/jobs".into(),
            owner: "node-1".to_owned(),
            user: "nobody".to_owned(),
            config: None,
            partition: Some("main".to_owned()),
            account: None,
            qos: None,
            queue_timeout: Duration::from_secs(1),
            jobs_max: 1,
            processes_max: 4_096,
        }
    }

    #[test]
    fn options_that_slurm_would_take_otherwise_are_refused() {
        assert!(check(&options()).is_ok());
        for dir in ["relative", "/a b", "/a%j", "/a\\b", "/a\nb", "/a=b", "/ü"] {
            assert!(check(&Options { dir: dir.into(), ..options() }).is_err(), "{dir}");
        }
        for word in ["", "a b", "-a", "a/b", "..", "a\n", "a,b"] {
            assert!(check(&Options { owner: word.to_owned(), ..options() }).is_err(), "{word:?}");
            let error = check(&Options { qos: Some(word.to_owned()), ..options() }).unwrap_err();
            assert!(error.to_string().contains("`qos`"), "{error}");
        }
    }

    #[test]
    fn tasks_never_run_as_root() {
        assert!(choose(0, (0, 0)).is_err());
        assert!(choose(1_000, (0, 0)).is_err());
        assert!(choose(1_000, (1_001, 1)).is_err());
        assert_eq!(choose(0, (7, 8)), Ok(User { uid: 7, gid: 8, is_other: true }));
        assert_eq!(choose(7, (7, 8)), Ok(User { uid: 7, gid: 8, is_other: false }));
    }

    #[test]
    fn a_cluster_is_taken_for_what_its_settings_say() {
        let of = |text: &str| {
            cluster(&answer::settings(text), [(64, 1 << 30), (2, 1 << 31)].into_iter())
        };
        let held = "ClusterName = c\nSLURM_VERSION = 22.05.8\nProctrackType = proctrack/cgroup\n\
                    TaskPlugin = task/cgroup,task/affinity\nJobAcctGatherType = jobacct_gather/cgroup\n\
                    ConstrainRAMSpace = yes\nConstrainCores = no\n";
        let found = of(held).unwrap();
        assert_eq!((found.cpu_milli, found.machine_memory_bytes), (66_000, 1 << 31));
        assert!(found.has_memory_limits && !found.has_cpu_limits);
        assert_eq!(found.metering, Metering::Cgroup);

        let sampled = held
            .replace("task/cgroup", "task/none")
            .replace("jobacct_gather/cgroup", "jobacct_gather/linux");
        let found = of(&sampled).unwrap();
        assert_eq!((found.metering, found.has_memory_limits), (Metering::Sampled, false));

        let blind = sampled.replace("jobacct_gather/linux", "jobacct_gather/none");
        assert!(of(&blind).unwrap_err().to_string().contains("limit memory"));
        for other in ["proctrack/pgid", "proctrack/linuxproc", ""] {
            let loose = held.replace("proctrack/cgroup", other);
            assert!(of(&loose).unwrap_err().to_string().contains("processes"), "{other}");
        }
    }
}
