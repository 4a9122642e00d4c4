//! Runs one task: lays out its directory, starts it, meters it, passes on what it writes, collects what it leaves.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use accounting::{Counters, Dimension};
use scheduler::device::{self, Held};
use scheduler::negotiate::Outcome;
use scheduler::task::{AttemptId, Collect, Failure, FailureClass, Needs, Stage, TaskSpec};
use scheduler::value::{FileRef, Value, is_plain_path};
use tokio::sync::{mpsc, watch};

use super::doors::{Doors, Entry};
use super::output::{Output, Tail};
use super::probe;
use super::runtimes::{Runtimes, Staged};
use crate::blobs::{Added, BlobError, BlobStore};
use crate::engine::Input;
use crate::runtime::{Exit, Meters, Mount, Running};

/// How often meters and logs of a running task are read.
const READ_EVERY: Duration = Duration::from_millis(250);
/// Largest JSON taken as a value output.
const VALUE_MAX: u64 = 64 * 1024;
/// Most files one `files:` output may match.
const FILES_MAX: usize = 10_000;
/// Longest detail of a failure in bytes.
const DETAIL_MAX: usize = 500;

/// What running tasks share.
#[derive(Clone, Debug)]
pub(super) struct Runner {
    pub blobs: BlobStore,
    pub runtimes: Arc<Runtimes>,
    pub work: PathBuf,
    pub doors: Doors,
    pub inputs: mpsc::Sender<Input>,
}

/// An attempt's private directories.
#[derive(Clone, Debug)]
struct Layout {
    root: PathBuf,
    work: PathBuf,
    tmp: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Layout {
    fn of(runner: &Runner, attempt: AttemptId, spec: &TaskSpec) -> Self {
        let dir = runner.runtimes.work_dir(&spec.program).unwrap_or(&runner.work);
        let root = dir.join(Runner::name(attempt));
        Self {
            work: root.join("work"),
            tmp: root.join("tmp"),
            stdout: root.join("stdout"),
            stderr: root.join("stderr"),
            root,
        }
    }
}

fn failure(class: FailureClass, detail: impl Into<String>) -> Failure {
    let mut detail: String = detail.into();
    if detail.len() > DETAIL_MAX {
        let end = (0..=DETAIL_MAX).rev().find(|i| detail.is_char_boundary(*i)).unwrap_or(0);
        detail.truncate(end);
    }
    Failure { class, exit_code: None, detail }
}

fn host(what: &str, path: &Path, error: &io::Error) -> Failure {
    failure(
        FailureClass::Infra,
        format!(
            "cannot {what} {}: {error}",
            path.file_name().unwrap_or_default().to_string_lossy()
        ),
    )
}

/// Lets every user read a directory with all that is in it.
fn readable(dir: &Path) -> io::Result<()> {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        std::fs::set_permissions(&dir, Permissions::from_mode(0o755))?;
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            } else {
                std::fs::set_permissions(entry.path(), Permissions::from_mode(0o444))?;
            }
        }
    }
    Ok(())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn staging(error: &BlobError) -> Failure {
    failure(FailureClass::Infra, format!("the inputs cannot be laid out: {}", chain(error)))
}

impl Runner {
    /// Where an attempt may have files while it is known.
    pub(super) fn directories(&self, attempt: AttemptId) -> Vec<PathBuf> {
        let others = self.runtimes.other_work_dirs();
        let dirs = std::iter::once(self.work.as_path()).chain(others);
        dirs.map(|dir| dir.join(Self::name(attempt))).collect()
    }

    /// Names an attempt among all of this node.
    fn name(attempt: AttemptId) -> String {
        let task = attempt.task;
        format!("{}-{}.{}.{}", attempt.run, task.step, task.index, attempt.number)
    }

    /// Runs the task to its end; the end is reported as an input of the engine.
    #[tracing::instrument(name = "task", skip_all, fields(run = %attempt.run, step = %attempt.task.step, index = attempt.task.index, number = attempt.number))]
    pub(super) async fn run(
        self,
        attempt: AttemptId,
        (spec, devices): (TaskSpec, Held),
        cancel: watch::Receiver<bool>,
    ) {
        let layout = Layout::of(&self, attempt, &spec);
        let (outcome, counters) = match self.start(attempt, &layout, &spec, devices).await {
            Ok(started) => self.execute(attempt, &spec, &layout, started, cancel).await,
            Err(failure) => (Outcome::Failed(failure), Counters::default()),
        };
        // The engine gone means the node is stopping; the attempt ends as lost at the next start.
        drop(self.inputs.send(Input::Ended { attempt, outcome, counters }).await);
    }

    /// Lays out the task's files and starts it on its runtime.
    async fn start(
        &self,
        attempt: AttemptId,
        layout: &Layout,
        spec: &TaskSpec,
        devices: Held,
    ) -> Result<(Running, Output), Failure> {
        self.lay_out(layout, spec).await?;
        let mut mounts = Vec::new();
        for (n, (guest, dir)) in spec.mounts.iter().enumerate() {
            let host = if self.runtimes.work_dir(&spec.program).is_some() {
                // Other machines do not reach the node's own directory.
                let copy = layout.root.join(format!("mount-{n}"));
                self.blobs.stage_dir(dir, &copy).await.map_err(|e| staging(&e))?;
                readable(&copy).map_err(|e| host("open", &copy, &e))?;
                copy
            } else {
                self.blobs.shared_dir(dir).await.map_err(|e| staging(&e))?
            };
            mounts.push(Mount { host, guest: guest.clone() });
        }
        let stdin = match &spec.stdin {
            Some(file) => {
                Some(self.blobs.verified_path(file.digest).await.map_err(|e| staging(&e))?)
            }
            None => None,
        };
        let output = match &spec.service {
            Some(_) => Output::rings(),
            None => Output::files(&layout.stdout, &layout.stderr, spec.needs.disk_bytes)
                .map_err(|e| host("make", &layout.stdout, &e))?,
        };
        let staged = Staged {
            name: Self::name(attempt),
            stdin,
            work: layout.work.clone(),
            tmp: layout.tmp.clone(),
            mounts,
            devices,
            logs: output.sink(),
        };
        let started = self.runtimes.start(&self.blobs, spec, staged).await;
        let running = started.map_err(|error| failure(FailureClass::Infra, chain(&error)))?;
        Ok((running, output))
    }

    async fn lay_out(&self, layout: &Layout, spec: &TaskSpec) -> Result<(), Failure> {
        let made = |path: &Path| std::fs::create_dir_all(path).map_err(|e| host("make", path, &e));
        if layout.root.exists() {
            std::fs::remove_dir_all(&layout.root).map_err(|e| host("clear", &layout.root, &e))?;
        }
        made(&layout.root)?;
        // Where the directory is shared, others may pass through but see nothing.
        std::fs::set_permissions(&layout.root, Permissions::from_mode(0o711))
            .map_err(|e| host("close", &layout.root, &e))?;
        made(&layout.work)?;
        made(&layout.tmp)?;
        for (path, stage) in &spec.inputs {
            if !is_plain_path(path) {
                return Err(failure(
                    FailureClass::Invalid,
                    format!("`{path}` is not a path inside the work directory"),
                ));
            }
            let dest = layout.work.join(path);
            if let Some(parent) = dest.parent() {
                made(parent)?;
            }
            match stage {
                Stage::File(file) => self.blobs.stage_file(file.digest, &dest).await,
                Stage::Dir(dir) => self.blobs.stage_dir(dir, &dest).await,
            }
            .map_err(|e| staging(&e))?;
        }
        Ok(())
    }

    async fn execute(
        &self,
        attempt: AttemptId,
        spec: &TaskSpec,
        layout: &Layout,
        (mut running, output): (Running, Output),
        mut cancel: watch::Receiver<bool>,
    ) -> (Outcome, Counters) {
        let mut tails = output.tails();
        let mut every = tokio::time::interval(READ_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut was_preparing = false;
        let doorway = running.doorway();
        // Those whom the engine lets in come from here on.
        let entry = self.doors.open(attempt, doorway.clone());
        let mut probing = pin!(async {
            match &spec.service {
                Some(of) => probe::watch(attempt, of, doorway, self.inputs.clone()).await,
                None => std::future::pending().await,
            }
        });
        let (exit, meters) = loop {
            tokio::select! {
                end = running.wait() => break end,
                () = super::until_set(&mut cancel) => {
                    running.cancel();
                    break running.wait().await;
                }
                () = &mut probing => {}
                _ = every.tick() => {
                    let meters = with_tunnels(running.meters(), &entry);
                    let counters = counters(&meters, running.set_up(), &spec.needs);
                    drop(self.inputs.send(Input::Metered { attempt, counters }).await);
                    self.pass_on(attempt, &mut tails, false).await;
                    let is_preparing = running.is_preparing();
                    if is_preparing != was_preparing {
                        was_preparing = is_preparing;
                        drop(self.inputs.send(Input::Preparing { attempt, is_preparing }).await);
                    }
                }
            }
        };
        let meters = with_tunnels(meters, &entry);
        drop(entry);
        self.pass_on(attempt, &mut tails, true).await;
        let outcome = match self.judge(&exit, spec, layout, &output).await {
            Ok(outputs) => Outcome::Done { outputs },
            Err(failure) => Outcome::Failed(failure),
        };
        (outcome, counters(&meters, running.set_up(), &spec.needs))
    }

    async fn pass_on(&self, attempt: AttemptId, tails: &mut [Tail; 2], is_last: bool) {
        for tail in tails {
            tail.begin(is_last);
            while let Some((offset, bytes)) = tail.next(is_last).await {
                let stream = tail.stream;
                drop(self.inputs.send(Input::Wrote { attempt, stream, offset, bytes }).await);
            }
        }
    }

    async fn judge(
        &self,
        exit: &Exit,
        spec: &TaskSpec,
        layout: &Layout,
        output: &Output,
    ) -> Result<BTreeMap<String, Value>, Failure> {
        let class = match exit {
            Exit::Code(0) => return self.collect(spec, layout).await,
            Exit::Code(_) | Exit::Trap(_) => FailureClass::Exit,
            Exit::Timeout => FailureClass::Timeout,
            Exit::OutOfMemory => FailureClass::Oom,
            Exit::DiskQuota => FailureClass::Output,
            Exit::Cancelled => FailureClass::Cancelled,
            Exit::Invalid(_)
            | Exit::InvalidImage(_)
            | Exit::InvalidMachine(_)
            | Exit::InvalidProgram(_) => FailureClass::Invalid,
            Exit::Host(_) => FailureClass::Infra,
        };
        let mut detail = match exit {
            Exit::Timeout => format!("{exit} of {} ms", spec.timeout_ms),
            Exit::OutOfMemory => format!("{exit} of {} bytes", spec.needs.memory_bytes),
            Exit::DiskQuota => format!("{exit} of {} bytes", spec.needs.disk_bytes),
            _ => exit.to_string(),
        };
        if class == FailureClass::Exit
            && let Some(line) = output.last_line().await
        {
            detail = format!("{detail}: {line}");
        }
        let mut failure = failure(class, detail);
        if let Exit::Code(code) = exit {
            failure.exit_code = Some(*code);
        }
        Err(failure)
    }

    async fn collect(
        &self,
        spec: &TaskSpec,
        layout: &Layout,
    ) -> Result<BTreeMap<String, Value>, Failure> {
        let mut outputs = BTreeMap::new();
        for (name, collect) in &spec.outputs {
            let value = match collect {
                Collect::File(path) => self.collect_file(name, layout, path).await?,
                Collect::Dir(path) => {
                    let dir = self.blobs.add_dir_within(&layout.work, path).await;
                    Value::Dir(dir.map_err(|e| not_collected(name, path, &e))?)
                }
                Collect::Files(pattern) => self.collect_files(name, layout, pattern).await?,
                Collect::Value(path) => self.collect_value(name, layout, path).await?,
                Collect::Stdout => {
                    let added = self.blobs.add_file(&layout.stdout).await;
                    file_value("stdout", added.map_err(|e| not_collected(name, "stdout", &e))?)
                }
            };
            outputs.insert(name.clone(), value);
        }
        Ok(outputs)
    }

    async fn collect_file(
        &self,
        name: &str,
        layout: &Layout,
        path: &str,
    ) -> Result<Value, Failure> {
        let added = self
            .blobs
            .add_within(&layout.work, path)
            .await
            .map_err(|e| not_collected(name, path, &e))?;
        Ok(file_value(path, added))
    }

    async fn collect_files(
        &self,
        name: &str,
        layout: &Layout,
        pattern: &str,
    ) -> Result<Value, Failure> {
        let (dir, last) = pattern.rsplit_once('/').unwrap_or(("", pattern));
        let mut names = Vec::new();
        // A directory that was never made holds no files.
        if let Ok(entries) = std::fs::read_dir(layout.work.join(dir)) {
            names.extend(
                entries
                    .filter_map(Result::ok)
                    .filter_map(|entry| entry.file_name().into_string().ok())
                    .filter(|file| matches_pattern(last, file))
                    .take(FILES_MAX + 1),
            );
        }
        if names.len() > FILES_MAX {
            let detail = format!("output `{name}`: more than {FILES_MAX} files match `{pattern}`");
            return Err(failure(FailureClass::Output, detail));
        }
        names.sort_unstable();
        let mut files = Vec::with_capacity(names.len());
        for file in names {
            let path = if dir.is_empty() { file } else { format!("{dir}/{file}") };
            files.push(self.collect_file(name, layout, &path).await?);
        }
        Ok(Value::List(files))
    }

    async fn collect_value(
        &self,
        name: &str,
        layout: &Layout,
        path: &str,
    ) -> Result<Value, Failure> {
        let added = self
            .blobs
            .add_within(&layout.work, path)
            .await
            .map_err(|e| not_collected(name, path, &e))?;
        let bytes = self
            .blobs
            .read(added.digest, VALUE_MAX)
            .await
            .map_err(|e| not_collected(name, path, &e))?;
        let json = serde_json::from_slice(&bytes).map_err(|e| {
            failure(FailureClass::Output, format!("output `{name}`: `{path}` is not JSON: {e}"))
        })?;
        Ok(Value::from_json(&json))
    }
}

fn not_collected(name: &str, path: &str, error: &BlobError) -> Failure {
    let class = if error.is_no_room() { FailureClass::Infra } else { FailureClass::Output };
    failure(class, format!("output `{name}`: `{path}` cannot be taken: {}", chain(error)))
}

fn file_value(path: &str, added: Added) -> Value {
    let name = path.rsplit('/').next().unwrap_or(path).to_owned();
    Value::File(FileRef { digest: added.digest, size: added.size, name })
}

/// `*` stands for any characters; nothing else is special.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut middle: Vec<&str> = parts.collect();
    let Some(last) = middle.pop() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What the runtime measured, with what came and went by tunnels: to the runtime that is the task's loopback.
fn with_tunnels(meters: Meters, entry: &Entry) -> Meters {
    let (into, out) = entry.moved();
    Meters {
        net_in_bytes: meters.net_in_bytes.saturating_add(into),
        net_out_bytes: meters.net_out_bytes.saturating_add(out),
        ..meters
    }
}

/// Billable counters out of what the runtime measured.
fn counters(meters: &Meters, set_up: Duration, needs: &Needs) -> Counters {
    let held_us = u128::from(meters.elapsed_us) * u128::from(needs.cpu_milli) / 1_000;
    let devices_us = meters.elapsed_us.saturating_mul(device::total(&needs.devices));
    // What is suspended has its files as before.
    let stored_us = meters.elapsed_us.saturating_add(meters.suspended_us);
    let storage_kib_s =
        u128::from(meters.storage_bytes / 1_024) * u128::from(stored_us) / 1_000_000;
    Counters::default()
        .with(Dimension::Cpu, meters.cpu_us)
        // By this the ledger knows for how long the task has run, not only waited.
        .with(Dimension::VcpuAlloc, u64::try_from(held_us).unwrap_or(u64::MAX))
        .with(Dimension::Mem, meters.memory_kib_s)
        .with(Dimension::Storage, u64::try_from(storage_kib_s).unwrap_or(u64::MAX))
        .with(Dimension::Io, meters.io_bytes)
        .with(Dimension::NetIn, meters.net_in_bytes)
        .with(Dimension::NetOut, meters.net_out_bytes)
        .with(Dimension::Gpu, devices_us)
        .with(Dimension::Fuel, meters.fuel)
        .with(Dimension::SetUp, u64::try_from(set_up.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_held_for_as_long_as_the_task_runs() {
        let needs = Needs { cpu_milli: 1_500, ..Needs::default() };
        let set_up = Duration::from_secs(9);
        let held = |elapsed_us, suspended_us| {
            let meters = Meters { elapsed_us, suspended_us, ..Meters::default() };
            counters(&meters, set_up, &needs).get(Dimension::VcpuAlloc)
        };
        assert_eq!(held(0, 0), 0, "it waits or is set up");
        assert_eq!(held(2_000_000, 0), 3_000_000);
        assert_eq!(held(2_000_000, 5_000_000), 3_000_000, "suspended, it holds none");
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, expected) in [
            ("*.tile", "0001.tile", true),
            ("*.tile", "0001.tile.tmp", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*", "anything", true),
            ("plain", "plain", true),
            ("plain", "plainer", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches_pattern(pattern, name), expected, "{pattern} {name}");
        }
    }
}
