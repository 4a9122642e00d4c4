//! The Slurm runtime under test, on the cluster that `tests/slurm` starts.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use catalog::Digest;
use node::runtime::slurm::Options;
use node::runtime::{Running, SlurmRuntime, SlurmTask};

use super::{Figures, Need, Place, Subject};
use crate::conformance::bench::Job;
use crate::conformance::probe::{Platform, probe};

/// Its name in the list of tests.
pub(super) const NAME: &str = "slurm";
/// The user of jobs.
const USER: &str = "nobody";
/// How long a job may wait in the queue, on a busy machine.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(120);
/// How much longer than others a task may take to start and to end: the cluster looks at its queue once a second.
const DELAY_MAX: Duration = Duration::from_secs(20);
/// Processes that the user of jobs may have. Containers of other tests run as the same one, so they are many.
const PROCESSES_MAX: u32 = 4_096;

pub(super) struct Slurm {
    runtime: SlurmRuntime,
    config: PathBuf,
    program: PathBuf,
    digest: Digest,
    place: Place,
}

impl Slurm {
    pub(super) fn open(config: &Path, place: Place) -> Result<Self, String> {
        let program = probe(Platform::Native)?;
        let digest = Digest::of(&fs::read(&program).expect("the probe was compiled"));
        // The user of jobs has to pass through.
        let passable = Permissions::from_mode(0o711);
        fs::set_permissions(&place.dir, passable).expect("the directory is ours");
        let options = Options {
            dir: jobs_dir(&place.dir),
            owner: place.owner.clone(),
            user: USER.to_owned(),
            config: Some(config.to_owned()),
            partition: None,
            account: None,
            qos: None,
            queue_timeout: QUEUE_TIMEOUT,
            jobs_max: place.workers,
            processes_max: PROCESSES_MAX,
        };
        let runtime = place.tokio.block_on(SlurmRuntime::connect(options));
        let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
        Ok(Self { runtime, config: config.to_owned(), program, digest, place })
    }

    /// What a tool of Slurm answers.
    fn ask(&self, tool: &str, args: &[&str]) -> String {
        let answer = Command::new(tool).args(args).env("SLURM_CONF", &self.config).output();
        let answer = answer.unwrap_or_else(|error| panic!("{tool}: {error}"));
        String::from_utf8_lossy(&answer.stdout).into_owned()
    }

    /// The jobs of an owner that have not ended: number and state.
    fn jobs(&self, owner: &str) -> Vec<[String; 2]> {
        let comment = format!("opencloud:{owner}");
        let all = self.ask("squeue", &["--noheader", "--Format=JobID:|,State:|,Comment:|"]);
        let rows = all.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
        let own = rows.filter(|row| row.get(2) == Some(&comment.as_str()));
        own.map(|row| [row[0], row[1]].map(str::to_owned)).collect()
    }
}

/// The directory that the machines of the cluster share.
fn jobs_dir(place: &Path) -> PathBuf {
    place.join("jobs")
}

impl Subject for Slurm {
    fn name(&self) -> &str {
        NAME
    }

    fn lacks(&self, need: Need) -> Option<&'static str> {
        match need {
            Need::Apart | Need::Confined | Need::NoUserNamespaces => {
                Some("runs tasks on the machines that its site has, as a user among others")
            }
            Need::Elsewhere => Some("leaves tasks the network of the machine that they run on"),
            Need::BoundedProcesses => Some("bounds the processes of all its tasks together"),
            Need::Devices => Some("leaves devices to the cluster"),
            Need::CpuShare => Some("gives whole processors"),
            Need::EvenStarts => Some("tells processor time in whole seconds"),
            Need::PromptMeters => Some("asks the cluster for its meters every few seconds"),
            Need::StreamedOutput => {
                Some("has output in files of the task until the node has read it")
            }
            Need::SettledStarts => Some(
                "takes jobs that a killed node was just handing in, which the life after next ends",
            ),
            Need::NamelessFiles => Some("runs on machines whose open files the node cannot see"),
            _ => None,
        }
    }

    fn figures(&self) -> Figures {
        Figures { memory_overhead_bytes: 0, delay_max: DELAY_MAX, one_try_in: 4 }
    }

    fn start(&self, job: &Job) -> Running {
        let _inside = self.place.tokio.enter();
        self.runtime.start(SlurmTask {
            base: job.base(),
            program: self.program.clone(),
            digest: self.digest,
        })
    }

    fn left_by(&self, owner: &str) -> BTreeSet<String> {
        let jobs = self.jobs(owner);
        let jobs = jobs.iter().map(|[number, state]| format!("job {number} {state}"));
        let dirs = fs::read_dir(jobs_dir(&self.place.dir).join(owner));
        let dirs = dirs.into_iter().flatten().flatten();
        jobs.chain(dirs.map(|entry| format!("directory {}", entry.path().display()))).collect()
    }

    fn kill_from_outside(&self, _job: &Job) -> bool {
        let jobs = self.jobs(&self.place.owner);
        // The only one of its case.
        let found = jobs.iter().find(|[_, state]| state == "RUNNING");
        let Some([number, _]) = found else { return false };
        self.ask("scancel", &[number]);
        true
    }
}
