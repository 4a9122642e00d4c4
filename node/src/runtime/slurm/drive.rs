//! One job from its submission to its end.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use super::answer::{self, End, Facts, State, Stop};
use super::meter::{Between, Meter};
use super::program::InvalidProgram;
use super::script::{self, Program};
use super::site::{self, Metering, comment, job_name};
use super::stage::{Stage, Told};
use super::watch::{Counted, Watched};
use super::{MEMORY_MIN_BYTES, SlurmRuntime, SlurmTask, TaskControl, is_name};
use crate::runtime::{Exit, HostFault, Origin, PrepareError, Prepared, bounded};

/// How often a job's files are looked at, at first.
const TICK_MIN: Duration = Duration::from_millis(100);
/// How often they are looked at in the end: a shared file system serves others too.
const TICK_MAX: Duration = Duration::from_secs(1);
/// In between, once in so many parts of the time that the job has taken.
const TICK_SHARE: u32 = 20;
/// Measuring the disk may take one part in so many of the time.
const MEASURE_SHARE: u32 = 10;
/// How long the last reading of meters may take; then the one before counts.
const READING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a job may stay after its program has said that it ended; then it is ended. Longer than [`READING_TIMEOUT`].
const CLOSE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the cluster may take to end a job before it is left to the next start.
const END_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a job that is to be ended may be kept for a reading of its meters.
const LAST_READING_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two tries to end a job.
const CANCEL_AGAIN: Duration = Duration::from_secs(5);
/// By how much Slurm's own time limit is longer, in minutes: it counts from before the program's start.
const TIME_MARGIN_MIN: u64 = 2;

impl SlurmRuntime {
    /// Runs a task to its end.
    pub(super) async fn drive(&self, task: &SlurmTask, control: &TaskControl) -> Exit {
        let waiting = control.cancel.run_until_cancelled(self.jobs.acquire());
        let Some(Ok(_permit)) = waiting.await else { return Exit::Cancelled };
        let begun = Instant::now();
        control.begun.set(()).ok();
        let stage = match self.stage(task).await {
            Ok(stage) => stage,
            Err(error) => return error.into(),
        };
        control.prepared.set(Prepared { origin: Origin::Warm, elapsed: begun.elapsed() }).ok();
        let (stage, exit) = self.run(task, control, stage).await;
        let Some(stage) = stage else { return exit };
        match tokio::task::spawn_blocking(move || stage.end()).await {
            Ok(Ok(())) => exit,
            Ok(Err(fault)) => Exit::Host(fault),
            Err(_) => Exit::Host(HostFault::Died),
        }
    }

    async fn stage(&self, task: &SlurmTask) -> Result<Stage, PrepareError> {
        if !is_name(&task.base.name) {
            let name = task.base.name.chars().take(100).collect();
            return Err(InvalidProgram::Name { name }.into());
        }
        let (root, user, task) = (site::root(&self.options), self.user, task.clone());
        let staging = tokio::task::spawn_blocking(move || Stage::make(&root, &task, user));
        staging.await.map_err(|_| HostFault::Died)?
    }

    /// Runs a staged task. The stage is not given back while a job may still use it.
    async fn run(
        &self,
        task: &SlurmTask,
        control: &TaskControl,
        stage: Stage,
    ) -> (Option<Stage>, Exit) {
        if control.cancel.is_cancelled() {
            return (Some(stage), Exit::Cancelled);
        }
        let id = match self.submit(task, &stage).await {
            Ok(id) => id,
            Err(error) => return (Some(stage), error.into()),
        };
        let mut job = Job {
            runtime: self,
            task,
            control,
            id,
            watched: self.watch.add(id),
            stage: Some(stage),
            meter: Meter::new(self.cluster.metering == Metering::Cgroup),
            told: None,
            stop: None,
            storage_bytes: 0,
            looked: Instant::now(),
            measured: (Instant::now(), Duration::ZERO),
        };
        let exit = job.follow().await.unwrap_or_else(Exit::Host);
        (job.stage, exit)
    }

    /// Hands a job to the cluster and gives its number.
    async fn submit(&self, task: &SlurmTask, stage: &Stage) -> Result<u64, PrepareError> {
        let program = Program {
            args: &task.base.args,
            env: &task.base.env,
            has_stdin: task.base.stdin.is_some(),
            work: &task.base.work,
            tmp: &task.base.tmp,
            mounts: &task.base.mounts,
            disk_bytes: task.base.disk_bytes,
            processes_max: self.options.processes_max,
        };
        let script = script::batch(&program, stage.files())?;
        let name = job_name(&self.options.owner, &task.base.name);
        let args = self.arguments(task, stage, &name);
        let action = "take the job";
        let error = match self.tools.run("sbatch", &args, &script).await {
            Ok(answer) => match answer::submitted(&answer) {
                Some(id) => return Ok(id),
                None => HostFault::Slurm { action, detail: bounded(answer) },
            },
            Err(error) if error.is_answer() => return Err(error.fault(action).into()),
            Err(error) => error.fault(action),
        };
        // It may be in the queue all the same.
        site::cancel_named(&self.tools, &name, self.user).await;
        Err(error.into())
    }

    /// The options of `sbatch`. Those on the command line count before all others.
    fn arguments(&self, task: &SlurmTask, stage: &Stage, name: &str) -> Vec<String> {
        let log = stage.files().log();
        let cpus = task.base.cpu_milli.div_ceil(1_000).max(1);
        let minutes = task.base.timeout.as_secs().div_ceil(60).saturating_add(TIME_MARGIN_MIN);
        let mut args = vec![
            "--parsable".to_owned(),
            format!("--job-name={name}"),
            format!("--comment={}", comment(&self.options.owner)),
            "--nodes=1".to_owned(),
            "--ntasks=1".to_owned(),
            format!("--cpus-per-task={cpus}"),
            format!("--mem={}K", limit(task).div_ceil(1_024)),
            format!("--time={minutes}"),
            "--no-requeue".to_owned(),
            // The tool's own environment is empty. `NONE` would have the user's login environment loaded.
            "--export=ALL".to_owned(),
            "--propagate=NONE".to_owned(),
            "--input=/dev/null".to_owned(),
            format!("--output={}", log.display()),
            format!("--error={}", log.display()),
            "--open-mode=append".to_owned(),
            format!("--chdir={}", stage.files().dir().display()),
        ];
        let options = &self.options;
        let named = [
            ("partition", &options.partition),
            ("account", &options.account),
            ("qos", &options.qos),
        ];
        for (option, value) in named {
            args.extend(value.as_ref().map(|value| format!("--{option}={value}")));
        }
        args
    }
}

/// The task's memory limit as the cluster is told.
fn limit(task: &SlurmTask) -> u64 {
    task.base.memory_bytes.max(MEMORY_MIN_BYTES)
}

/// What one look at a job's files shows.
struct Look {
    is_started: bool,
    /// The script says that it could not start the program.
    is_refused: bool,
    told: Option<Told>,
    output_bytes: u64,
    storage: Option<(u64, Duration)>,
}

/// A job in the hands of the cluster.
struct Job<'a> {
    runtime: &'a SlurmRuntime,
    task: &'a SlurmTask,
    control: &'a TaskControl,
    id: u64,
    watched: Watched,
    /// Away while another thread looks at it.
    stage: Option<Stage>,
    meter: Meter,
    /// What the script has said of its program's end.
    told: Option<Told>,
    /// Why the node ended it.
    stop: Option<Stop>,
    storage_bytes: u64,
    /// When its files were last looked at.
    looked: Instant,
    /// When the disk was last measured, and how long that took.
    measured: (Instant, Duration),
}

/// What happens next to a job.
enum Next {
    Tick,
    State,
    Counted,
    Cancel,
    Deadline,
}

impl Job<'_> {
    /// Follows the job to its end.
    async fn follow(&mut self) -> Result<Exit, HostFault> {
        let submitted = Instant::now();
        let queue_timeout = self.runtime.options.queue_timeout;
        let mut deadline = pin!(sleep_until((submitted + queue_timeout).into()));
        let mut tick = pin!(sleep(TICK_MIN));
        let end = loop {
            let next = tokio::select! {
                biased;
                () = self.control.cancel.cancelled() => Next::Cancel,
                () = &mut deadline => Next::Deadline,
                Ok(()) = self.watched.state.changed() => Next::State,
                Ok(()) = self.watched.counted.changed() => Next::Counted,
                () = &mut tick => Next::Tick,
            };
            match next {
                Next::Cancel => break self.end(Some(Stop::Cancelled)).await,
                Next::Deadline if self.meter.begun().is_none() => {
                    return self.leave_queue(queue_timeout).await;
                }
                Next::Deadline => break self.end(self.late()).await,
                Next::State => {
                    if let Some(end) = self.state().await? {
                        break Ok(end);
                    }
                }
                Next::Counted => {
                    let counted = *self.watched.counted.borrow_and_update();
                    if self.count(counted) {
                        break self.end(Some(Stop::Memory)).await;
                    }
                    self.release_when_read();
                }
                Next::Tick => {
                    let (was_begun, was_told) = (self.meter.begun(), self.told);
                    if self.look(false).await? {
                        break self.end(Some(Stop::DiskQuota)).await;
                    }
                    if let (None, Some(begun)) = (was_begun, self.meter.begun()) {
                        // Waiting in the cluster's queue sets nothing up.
                        self.control.started_in.set(Duration::ZERO).ok();
                        deadline.as_mut().reset((begun + self.task.base.timeout).into());
                    }
                    if was_told.is_none() && self.told.is_some() {
                        // A program that has ended cannot be late, but a job that only says so can.
                        deadline.as_mut().reset((Instant::now() + CLOSE_TIMEOUT).into());
                        self.watched.ask_reading();
                    }
                    self.release_when_read();
                    let age = self.meter.begun().unwrap_or(submitted).elapsed();
                    let pause = (age / TICK_SHARE).clamp(TICK_MIN, TICK_MAX);
                    tick.as_mut().reset((Instant::now() + pause).into());
                }
            }
        };
        self.outcome(end?).await
    }

    /// Why a job is ended at its deadline. One that is being cleared away has ended by itself, however long that takes.
    fn late(&self) -> Option<Stop> {
        let is_completing = *self.watched.state.borrow() == Some(State::Completing);
        match self.told {
            None => Some(Stop::Timeout),
            Some(_) if is_completing => None,
            Some(_) => Some(Stop::Stayed),
        }
    }

    /// Takes a new state of the job; gives its end.
    async fn state(&mut self) -> Result<Option<End>, HostFault> {
        let state = self.watched.state.borrow_and_update().clone();
        match state {
            Some(State::Ended(end)) => Ok(Some(end)),
            Some(State::Pending(reason)) if answer::is_hopeless(&reason) => {
                self.end(Some(Stop::Cancelled)).await?;
                let detail = format!("it would wait for ever: {reason}");
                Err(HostFault::Slurm { action: "run the job", detail: bounded(detail) })
            }
            _ => Ok(None),
        }
    }

    async fn leave_queue(&mut self, after: Duration) -> Result<Exit, HostFault> {
        let state = self.watched.state.borrow().clone();
        self.end(Some(Stop::Cancelled)).await?;
        let reason = match state {
            Some(State::Pending(reason)) => reason,
            _ => "no reason is given".to_owned(),
        };
        let detail = format!("it waited longer than {} s: {reason}", after.as_secs());
        Err(HostFault::Slurm { action: "run the job", detail: bounded(detail) })
    }

    /// Takes a reading of the meters; says whether the job has more memory than it may.
    fn count(&mut self, counted: Counted) -> bool {
        self.meter.count(Instant::now(), counted);
        self.show_meters();
        counted.used.memory_bytes > limit(self.task)
    }

    /// Lets a job go whose program has ended, as soon as its meters have been read.
    fn release_when_read(&mut self) {
        if let Some(stage) = &self.stage
            && self.told.is_some()
            && self.meter.may_close(Instant::now(), READING_TIMEOUT)
        {
            stage.release();
            self.watched.hurry();
        }
    }

    /// Looks at the job's files; says whether they are more than the task may have. The last look takes all that is left.
    async fn look(&mut self, is_last: bool) -> Result<bool, HostFault> {
        let Some(mut stage) = self.stage.take() else { return Err(HostFault::Died) };
        let (begun, sink) = (Instant::now(), Arc::clone(&self.task.base.logs));
        let is_measured = is_last || self.measured.0.elapsed() >= self.measured.1 * MEASURE_SHARE;
        let looking = tokio::task::spawn_blocking(move || {
            // Before the output: what is said to have ended has written all.
            let (is_started, told) = (stage.is_started(), stage.told());
            let is_refused = !is_started && stage.is_refused();
            if is_last {
                stage.reopen();
            }
            let mut output_bytes = 0;
            loop {
                let (taken, has_more) = stage.tail(&*sink);
                output_bytes += taken;
                if !(is_last && has_more) {
                    break;
                }
            }
            let begun = Instant::now();
            let storage = is_measured.then(|| (stage.storage(), begun.elapsed()));
            (stage, Look { is_started, is_refused, told, output_bytes, storage })
        });
        let (stage, look) = looking.await.map_err(|_| HostFault::Died)?;
        self.stage = Some(stage);
        let when = Between(std::mem::replace(&mut self.looked, begun), Instant::now());
        if look.is_started {
            self.meter.begin(when);
        }
        if look.is_refused {
            self.watched.hurry();
        }
        if let (None, Some(told)) = (self.told, look.told) {
            self.told = Some(told);
            self.meter.close(when, told.claim);
        }
        self.meter.output(look.output_bytes);
        if let Some((bytes, took)) = look.storage {
            self.measured = (Instant::now(), took);
            self.storage_bytes = self.storage_bytes.max(bytes);
        }
        self.show_meters();
        Ok(look.storage.is_some_and(|(bytes, _)| bytes > self.task.base.disk_bytes))
    }

    fn show_meters(&self) {
        let storage = self.storage_bytes;
        self.control.change_meters(|meters| {
            self.meter.show(Instant::now(), meters);
            meters.storage_bytes = meters.storage_bytes.max(storage);
        });
    }

    /// Ends the job, whatever its phase, and waits until all of it is gone.
    async fn end(&mut self, stop: Option<Stop>) -> Result<End, HostFault> {
        self.stop = stop;
        if self.meter.begun().is_some() && self.told.is_none() {
            // What it has used since the last reading is lost with it.
            let ids = [self.id];
            let reading = self.runtime.watch.read(&ids);
            if tokio::time::timeout(LAST_READING_TIMEOUT, reading).await.is_ok() {
                let counted = *self.watched.counted.borrow_and_update();
                self.meter.count(Instant::now(), counted);
            }
        }
        self.meter.stop(Instant::now());
        let ids = [self.id.to_string()];
        let begun = Instant::now();
        while begun.elapsed() < END_TIMEOUT {
            site::cancel(&self.runtime.tools, &ids).await;
            self.watched.hurry();
            let ended = self.watched.state.wait_for(|state| matches!(state, Some(State::Ended(_))));
            let Ok(Ok(state)) = tokio::time::timeout(CANCEL_AGAIN, ended).await else { continue };
            if let Some(State::Ended(end)) = &*state {
                return Ok(end.clone());
            }
        }
        tracing::error!(job = self.id, "a job does not end; the next start of the node ends it");
        // Its files stay with it.
        self.stage = None;
        let detail = format!("job {} does not end", self.id);
        Err(HostFault::Slurm { action: "end the job", detail })
    }

    async fn outcome(&mut self, end: End) -> Result<Exit, HostFault> {
        self.meter.stop(Instant::now());
        let is_over_disk = self.look(true).await?;
        let started = self.meter.begun().is_some();
        let own_end = matches!(end, End::Code(_)) && self.stop.is_none();
        if let (true, false, Some(stage)) = (own_end, started, &self.stage) {
            return Err(HostFault::Slurm { action: "start the program", detail: stage.fault() });
        }
        if end == End::OutOfMemory {
            self.meter.met_limit(limit(self.task));
        }
        let is_said = self.stage.as_ref().is_some_and(Stage::is_over_memory);
        let is_over_memory = is_said || self.meter.memory_peak_bytes() >= limit(self.task);
        self.show_meters();
        Ok(answer::exit(&Facts {
            job: self.id,
            stop: self.stop,
            end,
            told: self.told.map(|told| told.code),
            is_over_disk,
            is_over_memory,
        }))
    }
}
