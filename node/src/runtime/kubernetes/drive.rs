//! One pod from its creation to its deletion.

use std::fs::File;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, sleep, sleep_until, timeout};

use super::exec::{Container, ExecError};
use super::meter::{self, Meter};
use super::pod::{self, FILES, KEEP, Plan, TASK};
use super::site::{ANSWER_TIMEOUT, ignore_absent, said};
use super::stage::{Returned, Stage};
use super::verdict::{self, End, State, Stop};
use super::watch::Watched;
use super::{ContainerTask, KubernetesRuntime, MEMORY_MIN_BYTES, Ready, TaskControl, script};
use crate::runtime::vm::unpack::{UnpackError, unpack};
use crate::runtime::{Exit, HostFault, PrepareError, Stream, Trap, TrapKind, bounded, disk};

/// How often meters are shown.
const TICK: Duration = Duration::from_millis(500);
/// How long images may fail to come to a machine before the task is a fault: the registry is there, the node has just used it.
const PULL_TIMEOUT: Duration = Duration::from_secs(300);
/// Pause before a way to a pod is opened again that broke or was refused.
const AGAIN: Duration = Duration::from_secs(2);
/// How often something is tried at a pod that the API or its machine refuses for the moment.
const TRIES: u32 = 5;
/// How long a pod may take to be given its files, or to give back.
const FILES_TIMEOUT: Duration = Duration::from_secs(script::FILES_TIMEOUT_S);
/// How long the last output of a task that the node ends may take.
const LAST_OUTPUT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a pod may take to go before it is deleted without the word of its machine.
const DELETE_TIMEOUT: Duration = Duration::from_secs(120);
/// And then.
const FORCE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer of a small command in bytes.
const NOTES_LEN_MAX: usize = 8 << 10;
/// The code that the cluster gives a container which could not be started.
const START_ERROR: i32 = 128;
/// Random bytes of the mark after an archive.
const MARK_LEN: usize = 16;
/// Longest line of a command that counts; what is more is no line of it.
const LINE_LEN_MAX: usize = 1_024;

fn fault(action: &'static str, detail: impl Into<String>) -> HostFault {
    HostFault::Kubernetes { action, detail: bounded(detail.into()) }
}

impl KubernetesRuntime {
    /// Runs a task to its end.
    pub(super) async fn drive(&self, task: &ContainerTask, control: &TaskControl) -> Exit {
        let waiting = control.cancel.run_until_cancelled(self.workers.acquire());
        let Some(Ok(_permit)) = waiting.await else { return Exit::Cancelled };
        control.begun.set(()).ok();
        let loading = control.cancel.run_until_cancelled(self.load(&task.image, task.digest));
        let ready = match loading.await {
            Some(Ok((ready, prepared))) => {
                control.prepared.set(prepared).ok();
                ready
            }
            Some(Err(error)) => return error.into(),
            None => return Exit::Cancelled,
        };
        let (given, image) = (task.clone(), Arc::clone(&ready));
        let staging = tokio::task::spawn_blocking(move || Stage::make(&given, &image.image));
        let stage = match staging.await {
            Ok(Ok(stage)) => stage,
            Ok(Err(error)) => return error.into(),
            Err(_) => return Exit::Host(HostFault::Died),
        };
        if control.cancel.is_cancelled() {
            return Exit::Cancelled;
        }
        self.run(task, control, &ready, stage).await
    }

    /// Runs a staged task.
    async fn run(
        &self,
        task: &ContainerTask,
        control: &TaskControl,
        ready: &Ready,
        stage: Stage,
    ) -> Exit {
        let name = pod::name(&self.options.owner, &task.base.name);
        let created = self.create(task, ready, &stage, &name).await;
        let watched = self.watch.add(&name);
        let followed = match created {
            Ok(()) => {
                let memory_bytes = task.base.memory_bytes.max(MEMORY_MIN_BYTES);
                let mut life = Life {
                    runtime: self,
                    task,
                    control,
                    name: &name,
                    watched,
                    own_bytes: stage.own_bytes,
                    meter: Mutex::new(Meter::new(task.base.cpu_milli, memory_bytes)),
                    taken: [const { AtomicU64::new(0) }; 2],
                    over: Notify::new(),
                };
                let followed = life.follow(stage).await;
                // On every way out: also of those that have gone wrong.
                let deleted = self.delete(&life.watched).await;
                followed.and_then(|exit| deleted.map(|()| exit))
            }
            // It may be there all the same.
            Err(error) => match self.delete(&watched).await {
                Ok(()) => return error.into(),
                Err(fault) => Err(fault),
            },
        };
        followed.unwrap_or_else(Exit::Host)
    }

    async fn create(
        &self,
        task: &ContainerTask,
        ready: &Ready,
        stage: &Stage,
        name: &str,
    ) -> Result<(), PrepareError> {
        let plan = Plan {
            task: &task.base.name,
            image: &ready.reference,
            volumes: &ready.image.volumes,
            mounts: task.base.mounts.iter().map(|mount| mount.guest.as_str()).collect(),
            cpu_milli: task.base.cpu_milli,
            memory_bytes: task.base.memory_bytes,
            disk_bytes: task.base.disk_bytes,
            own_bytes: stage.own_bytes,
            given_bytes: stage.given_bytes,
            timeout_s: task.base.timeout.as_secs().saturating_add(1),
            network: task.base.network,
        };
        let action = "take the pod";
        let made: Result<Pod, _> = serde_json::from_value(pod::pod(&plan, &self.options));
        let made = made.map_err(|error| fault(action, error.to_string()))?;
        let params = PostParams::default();
        match timeout(ANSWER_TIMEOUT, self.pods.create(&params, &made)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(fault(action, format!("{name}: {}", said(&error))).into()),
            Err(_) => Err(fault(action, format!("{name}: it does not answer")).into()),
        }
    }

    /// Deletes a pod, and returns when all that was in it is gone.
    async fn delete(&self, watched: &Watched) -> Result<(), HostFault> {
        let name = watched.name();
        for (params, patience) in [
            (DeleteParams::default(), DELETE_TIMEOUT),
            // Its machine says nothing any more.
            (DeleteParams::default().grace_period(0), FORCE_TIMEOUT),
        ] {
            for _ in 0..TRIES {
                match timeout(ANSWER_TIMEOUT, self.pods.delete(name, &params)).await {
                    Ok(deleted) => match ignore_absent(deleted) {
                        Ok(()) => break,
                        Err(error) => {
                            tracing::warn!(pod = name, %error, "a pod cannot be deleted yet");
                        }
                    },
                    Err(_) => tracing::warn!(pod = name, "the cluster does not answer"),
                }
                sleep(AGAIN).await;
            }
            if watched.until_absent(patience).await {
                return Ok(());
            }
        }
        tracing::error!(pod = name, "a pod does not go; it is tried again in a while");
        Err(fault("end the pod", format!("{name} does not go; its outputs are left alone")))
    }
}

/// A pod in the hands of the cluster.
struct Life<'a> {
    runtime: &'a KubernetesRuntime,
    task: &'a ContainerTask,
    control: &'a TaskControl,
    name: &'a str,
    watched: Watched,
    /// Bytes in the task's directories at its start.
    own_bytes: u64,
    meter: Mutex<Meter>,
    /// Bytes of standard output and error that have been handed on.
    taken: [AtomicU64; 2],
    /// Told when the task's files are more than they may be.
    over: Notify,
}

/// Why nothing can be taken of what an ended task leaves.
enum Untaken {
    /// The cluster's doing, or the node's.
    Host(HostFault),
    /// The task's own: a command of the node failed over what it left.
    Task(String),
}

impl From<HostFault> for Untaken {
    fn from(fault: HostFault) -> Self {
        Self::Host(fault)
    }
}

/// How the wait for something ended.
enum Waited {
    Come(State),
    Stopped(Stop),
}

impl Life<'_> {
    fn container(&self, name: &'static str) -> Container<'_> {
        Container { pods: &self.runtime.pods, pod: self.name, name }
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show_meters(&self) {
        let meter = self.meter();
        self.control.change_meters(|meters| meter.show(Instant::now(), meters));
    }

    /// Follows the pod to its task's end.
    async fn follow(&mut self, stage: Stage) -> Result<Exit, HostFault> {
        match self.wait(|state| matches!(state, State::Files)).await? {
            Waited::Come(State::Files) => {}
            Waited::Come(state) => return Ok(self.early(&state)),
            Waited::Stopped(stop) => return Ok(verdict::stopped(stop)),
        }
        let begun = Instant::now();
        let cancel = self.control.cancel.clone();
        match cancel.run_until_cancelled(self.give(stage)).await {
            Some(given) => given?,
            None => return Ok(Exit::Cancelled),
        }
        self.control.started_in.set(begun.elapsed()).ok();
        self.watched.hurry();
        let end = match self.wait(|state| matches!(state, State::Running)).await? {
            Waited::Come(State::Running) => match self.running().await {
                Waited::Come(State::Ended(end)) => end,
                Waited::Come(state) => return Ok(self.early(&state)),
                Waited::Stopped(stop) => return Ok(self.stop(stop).await),
            },
            Waited::Come(State::Ended(end)) => end,
            Waited::Come(state) => return Ok(self.early(&state)),
            Waited::Stopped(stop) => return Ok(verdict::stopped(stop)),
        };
        match self.outcome(end).await {
            Ok(exit) => Ok(exit),
            Err(Untaken::Host(fault)) => Err(fault),
            Err(Untaken::Task(detail)) => {
                self.meter().cut(Instant::now());
                self.show_meters();
                Ok(Exit::Trap(Trap { kind: TrapKind::HostCall, detail: bounded(detail) }))
            }
        }
    }

    /// Waits for a state, or one beyond which it does not come.
    async fn wait(&mut self, is_it: impl Fn(&State) -> bool) -> Result<Waited, HostFault> {
        let patience = self.runtime.options.queue_timeout;
        let mut deadline = pin!(sleep(patience));
        // When an image was first said not to come.
        let mut pulling: Option<Instant> = None;
        loop {
            let state = self.watched.state.borrow_and_update().clone();
            match state {
                Some(state) if is_it(&state) => return Ok(Waited::Come(state)),
                Some(state @ (State::Ended(_) | State::Gone(..))) => {
                    return Ok(Waited::Come(state));
                }
                Some(State::Stuck(why)) => return Err(fault("start the pod", why)),
                Some(State::Waiting(why)) if verdict::is_pull(&why) => {
                    let since = *pulling.get_or_insert_with(Instant::now);
                    if since.elapsed() > PULL_TIMEOUT {
                        // The registry may have lost it; the next task pushes it again.
                        self.runtime.forget(self.task.digest);
                        return Err(fault("get an image of the pod", why));
                    }
                }
                _ => {}
            }
            tokio::select! {
                biased;
                () = self.control.cancel.cancelled() => return Ok(Waited::Stopped(Stop::Cancelled)),
                () = &mut deadline => {
                    let why = match &*self.watched.state.borrow() {
                        Some(State::Waiting(why)) => why.clone(),
                        _ => "no reason is given".to_owned(),
                    };
                    let detail = format!("it waited longer than {} s: {why}", patience.as_secs());
                    return Err(fault("run the pod", detail));
                }
                // Also without news an image can have been waited for long enough.
                () = sleep(AGAIN) => {}
                Ok(()) = self.watched.state.changed() => {}
            }
        }
    }

    /// How a task ended whose pod did not come as far as that.
    fn early(&self, state: &State) -> Exit {
        self.meter().cut(Instant::now());
        self.show_meters();
        match state {
            State::Gone(why, detail) => verdict::gone(self.name, *why, detail),
            state => Exit::Host(fault("run the pod", format!("it is unexpectedly {state:?}"))),
        }
    }

    /// Gives the pod its files and lets it go on.
    async fn give(&self, stage: Stage) -> Result<(), HostFault> {
        let action = "be given the task's files";
        let script = script::take(stage.archive_bytes);
        let mut answer = Lines::default();
        let mut kib = None;
        let mut taker = |stream: Stream, bytes: &[u8]| -> io::Result<()> {
            if stream == Stream::Stdout {
                answer.take(bytes, |line| kib = kib.or(meter::storage_kib(line)));
            }
            Ok(())
        };
        let archive = tokio::fs::File::from_std(stage.archive);
        let container = self.container(FILES);
        let command = ["sh", "-c", script.as_str()];
        let giving = container.run(&command, Some(archive), &mut taker);
        self.within(giving).await.map_err(|error| self.fault_of(&error, action))?;
        // What it printed can be lost; then what was sent is taken for it.
        self.meter().before(kib.unwrap_or(self.own_bytes / 1_024));
        Ok(())
    }

    /// Follows a task that runs to its end, or to a reason to end it.
    async fn running(&self) -> Waited {
        let begun = Instant::now();
        self.meter().begin(begun);
        let mut state = self.watched.state.clone();
        let mut helpers =
            pin!(async { tokio::join!(self.follow_output(), self.gauge(), self.measure()) });
        let mut deadline = pin!(sleep_until((begun + self.task.base.timeout).into()));
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let seen = state.borrow_and_update().clone();
            if let Some(state @ (State::Ended(_) | State::Gone(..))) = seen {
                return Waited::Come(state);
            }
            tokio::select! {
                biased;
                Ok(()) = state.changed() => {}
                () = self.control.cancel.cancelled() => return Waited::Stopped(Stop::Cancelled),
                () = &mut deadline => return Waited::Stopped(Stop::Timeout),
                () = self.over.notified() => return Waited::Stopped(Stop::DiskQuota),
                _ = ticks.tick() => self.show_meters(),
                // These go on as long as the pod does.
                _ = &mut helpers => {}
            }
        }
    }

    fn taken(&self) -> [u64; 2] {
        self.taken.each_ref().map(|n| n.load(Ordering::Relaxed))
    }

    /// Hands on output, and counts it.
    fn output(&self, stream: Stream, bytes: &[u8]) {
        self.task.base.logs.write(stream, bytes);
        let n = bytes.len() as u64;
        self.taken[usize::from(stream == Stream::Stderr)].fetch_add(n, Ordering::Relaxed);
        self.meter().output(n);
    }

    /// Hands on output as it comes. When the way breaks, from where it broke.
    async fn follow_output(&self) {
        loop {
            let [out, err] = self.taken();
            let script = script::follow(out, err);
            let mut taker = |stream: Stream, bytes: &[u8]| -> io::Result<()> {
                self.output(stream, bytes);
                Ok(())
            };
            let ended =
                self.container(KEEP).run(&["sh", "-c", script.as_str()], None, &mut taker).await;
            self.broke("its output", ended).await;
        }
    }

    /// Reads what the kernel counts for the task.
    async fn gauge(&self) {
        let busybox = format!("{}/busybox", script::GIVEN);
        let script = script::gauge();
        loop {
            let mut lines = Lines::default();
            let mut taker = |stream: Stream, bytes: &[u8]| -> io::Result<()> {
                if stream == Stream::Stdout {
                    lines.take(bytes, |line| {
                        if let Some(reading) = meter::reading(line) {
                            self.meter().read(Instant::now(), reading);
                        }
                    });
                }
                Ok(())
            };
            let command = [busybox.as_str(), "sh", "-c", script.as_str()];
            let ended = self.container(TASK).run(&command, None, &mut taker).await;
            self.broke("its meters", ended).await;
        }
    }

    /// Measures the task's files.
    async fn measure(&self) {
        let script = script::measure();
        loop {
            let mut lines = Lines::default();
            let mut taker = |stream: Stream, bytes: &[u8]| -> io::Result<()> {
                if stream == Stream::Stdout {
                    lines.take(bytes, |line| {
                        let Some(kib) = meter::storage_kib(line) else { return };
                        if self.meter().storage(kib) > self.task.base.disk_bytes {
                            self.over.notify_one();
                        }
                    });
                }
                Ok(())
            };
            let ended =
                self.container(KEEP).run(&["sh", "-c", script.as_str()], None, &mut taker).await;
            self.broke("its files", ended).await;
        }
    }

    async fn broke(&self, what: &str, ended: Result<(), ExecError>) {
        if let Err(error) = ended {
            tracing::debug!(
                pod = self.name,
                what,
                ?error,
                "a way to a pod ended; it is opened again"
            );
        }
        sleep(AGAIN).await;
    }

    /// An answer of the pod, unless that takes too long or the pod goes.
    async fn within<T>(
        &self,
        asked: impl Future<Output = Result<T, ExecError>>,
    ) -> Result<T, ExecError> {
        let mut state = self.watched.state.clone();
        let gone = state.wait_for(|state| matches!(state, Some(State::Gone(..))));
        tokio::select! {
            answer = timeout(FILES_TIMEOUT, asked) => {
                answer.unwrap_or_else(|_| Err(ExecError::Broken("it takes too long".to_owned())))
            }
            Ok(_) = gone => Err(ExecError::Broken("it is gone".to_owned())),
        }
    }

    /// What has gone wrong with a command: the loss of the pod, if that is why.
    fn fault_of(&self, error: &ExecError, action: &'static str) -> HostFault {
        match &*self.watched.state.borrow() {
            Some(State::Gone(why, detail)) => verdict::lost_pod(self.name, *why, detail),
            _ => error.fault(action),
        }
    }

    /// Hands on what is left of the output.
    async fn rest(&self) -> Result<(), ExecError> {
        let [out, err] = self.taken();
        let script = script::rest(out, err);
        let mut taker = |stream: Stream, bytes: &[u8]| -> io::Result<()> {
            self.output(stream, bytes);
            Ok(())
        };
        self.container(KEEP).run(&["sh", "-c", script.as_str()], None, &mut taker).await
    }

    /// The end of a task that the node ends. What it has written until now is not lost, if that is quick.
    async fn stop(&self, stop: Stop) -> Exit {
        if stop != Stop::Cancelled {
            let rest = timeout(LAST_OUTPUT_TIMEOUT, self.rest()).await;
            tracing::debug!(pod = self.name, ?rest, "the last output of a task that is ended");
        }
        self.meter().cut(Instant::now());
        self.show_meters();
        verdict::stopped(stop)
    }

    /// Takes what an ended task leaves, and tells how it ended.
    async fn outcome(&self, end: End) -> Result<Exit, Untaken> {
        let mut tries = Tries::of(self, "give back what the task leaves");
        let script = script::notes();
        let notes = loop {
            let asked = self.within(self.container(KEEP).ask(&script, NOTES_LEN_MAX)).await;
            match asked.map(|text| meter::notes(&text)) {
                Ok(notes) if notes.is_whole => break notes,
                Ok(_) => tries.again(ExecError::early()).await?,
                Err(error) => tries.again(error).await?,
            }
        };
        self.rest_to(notes.output, &mut tries).await?;
        // The note is in the task's hands; what was seen of it is not.
        let is_start = matches!(end.code, script::NOT_STARTED | START_ERROR);
        let is_seen = self.meter().has_begun() || self.meter().is_read();
        if is_start && !notes.is_started && !is_seen {
            let detail = format!(
                "it ended with code {} before it began; can the user of pods write its volumes, and run what is in them?",
                end.code
            );
            return Err(fault("start the program", detail).into());
        }
        self.meter().end(Instant::now(), end.seconds, &notes);
        self.show_meters();
        let is_over =
            notes.kib.is_some_and(|kib| self.meter().storage(kib) > self.task.base.disk_bytes);
        let oom_kills = self.meter().oom_kills();
        let exit = verdict::exit(end, oom_kills, is_over);
        if is_over {
            return Ok(exit);
        }
        self.take_back(exit).await
    }

    /// Hands on what is left of the output, up to these lengths.
    async fn rest_to(&self, output: [u64; 2], tries: &mut Tries<'_>) -> Result<(), Untaken> {
        loop {
            let before = self.taken();
            if before.iter().zip(output).all(|(taken, len)| *taken >= len) {
                return Ok(());
            }
            match self.within(self.rest()).await {
                Ok(()) if self.taken() != before => {}
                Ok(()) => tries.again(ExecError::early()).await?,
                Err(error) => tries.again(error).await?,
            }
        }
    }

    /// Takes the work directory.
    async fn take_back(&self, exit: Exit) -> Result<Exit, Untaken> {
        let mut tries = Tries::of(self, "give back what the task leaves");
        let returned = loop {
            match self.within(self.try_take_back()).await {
                Ok(returned) => break returned,
                Err(error) => match tries.again(error).await {
                    Ok(()) => {}
                    // A task that failed has said why.
                    Err(_) if !exit.is_success() => return Ok(exit),
                    Err(fault) => return Err(fault),
                },
            }
        };
        match returned {
            Some(file) => Ok(self.unpack(file, exit).await?),
            None => Ok(Exit::DiskQuota),
        }
    }

    /// Most bytes of files that the task may leave.
    fn bytes_max(&self) -> u64 {
        self.own_bytes.saturating_add(self.task.base.disk_bytes)
    }

    /// The archive of the work directory; `None` when it is more than it may be.
    async fn try_take_back(&self) -> Result<Option<File>, ExecError> {
        let local = |fault: HostFault| ExecError::Local(io::Error::other(fault));
        let mut returned = Returned::new(&self.task.base.work, self.bytes_max()).map_err(local)?;
        // Nothing that the task could write ends like this.
        let mut mark = [0; MARK_LEN];
        getrandom::fill(&mut mark).map_err(|error| ExecError::Local(io::Error::other(error)))?;
        let mark = catalog::id::to_hex(&mark);
        let script = script::give_back(&mark);
        let command = ["sh", "-c", script.as_str()];
        match self.container(KEEP).run(&command, None, &mut returned).await {
            Err(_) if returned.is_too_much() => return Ok(None),
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        returned.whole(&mark).map_err(local)?.map(Some).ok_or_else(ExecError::early)
    }

    async fn unpack(&self, file: File, exit: Exit) -> Result<Exit, HostFault> {
        let (work, bytes_max) = (self.task.base.work.clone(), self.bytes_max());
        let unpacking = tokio::task::spawn_blocking(move || {
            let unpacked = unpack(file, &work, bytes_max);
            (unpacked, disk::measure(std::slice::from_ref(&work)))
        });
        let Ok((unpacked, bytes)) = unpacking.await else { return Err(HostFault::Died) };
        let grown = bytes.unwrap_or(u64::MAX).saturating_sub(self.own_bytes);
        self.control.change_meters(|meters| meters.storage_bytes = meters.storage_bytes.max(grown));
        Ok(match unpacked {
            Ok(()) => exit,
            Err(UnpackError::TooMuch) => Exit::DiskQuota,
            Err(UnpackError::Write { name, source }) => {
                return Err(fault("have its output written", format!("`{name}`: {source}")));
            }
            Err(_) if !exit.is_success() => exit,
            Err(error) => {
                let detail = bounded(error.to_string());
                Exit::Trap(Trap { kind: TrapKind::HostCall, detail })
            }
        })
    }
}

/// Counts how often something was tried at a pod.
struct Tries<'a> {
    life: &'a Life<'a>,
    action: &'static str,
    n: u32,
}

impl<'a> Tries<'a> {
    fn of(life: &'a Life<'a>, action: &'static str) -> Self {
        Self { life, action, n: 0 }
    }

    /// Waits until it may be tried again, or says why not.
    async fn again(&mut self, error: ExecError) -> Result<(), Untaken> {
        self.n += 1;
        let is_gone = matches!(&*self.life.watched.state.borrow(), Some(State::Gone(..)));
        let error = match error {
            ExecError::Failed(said) if self.n >= TRIES && !is_gone => {
                return Err(Untaken::Task(format!("what the task leaves cannot be taken: {said}")));
            }
            error if self.n >= TRIES || is_gone => {
                return Err(self.life.fault_of(&error, self.action).into());
            }
            error => error,
        };
        tracing::warn!(pod = self.life.name, ?error, "a command in a pod is tried again");
        sleep(AGAIN).await;
        Ok(())
    }
}

/// Lines out of pieces that end anywhere.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Takes the next piece, and hands on each line that is whole.
    fn take(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for byte in bytes {
            if *byte == b'\n' {
                line(&String::from_utf8_lossy(&self.begun));
                self.begun.clear();
            } else if self.begun.len() < LINE_LEN_MAX {
                self.begun.push(*byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_whatever_the_pieces() {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in ["a", "b\nc", "", "\n\nd", "e"] {
            lines.take(piece.as_bytes(), |line| found.push(line.to_owned()));
        }
        assert_eq!(found, ["ab", "c", ""]);
        let long = format!("{}\n", "x".repeat(LINE_LEN_MAX * 3));
        Lines::default().take(long.as_bytes(), |line| assert_eq!(line.len(), LINE_LEN_MAX));
    }
}
