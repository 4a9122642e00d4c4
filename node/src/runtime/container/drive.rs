//! One container from its creation to its removal.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::container::{AttachContainerResults, LogOutput};
use bollard::errors::Error as EngineError;
use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount as EngineMount, MountTmpfsOptions,
    MountType, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{AttachContainerOptions, CreateContainerOptions};
use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::device::{DeviceError, grant};
use super::host::{OWNER_LABEL, User};
use super::image::{Image, InvalidImage, refused_or_fault};
use super::inside::Inside;
use super::{ContainerRuntime, ContainerTask, MEMORY_MIN_BYTES, PIDS_MAX, TaskControl, WORK_DIR};
use crate::runtime::cgroup::{self, Cgroup, Own, Reading};
use crate::runtime::netns::Process;
use crate::runtime::{
    Control as _, Door, Exit, HostFault, LogSink, PrepareError, Shut, Stream, bounded, disk,
};

/// How often meters are read and the disk is measured.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Measuring the disk may take one part in so many of the time.
const MEASURE_SHARE: u32 = 10;
/// How long the last output may take to arrive after the container's end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of shared memory (`/dev/shm`), which count as the task's memory.
const SHM_BYTES: i64 = 64 << 20;
/// Files that a task may have open.
const FILES_MAX: i64 = 1_024;
/// Processes of all tasks together, as they share a user. The cgroup holds each to fewer. Named because Podman would
/// otherwise ask for more than the host may allow.
const PROCESSES_MAX: i64 = 4_096;
/// Bytes by which one file may exceed the disk quota before the kernel refuses more.
const FILE_SLACK_BYTES: u64 = 4_096;
/// The setting that says from which port on everybody may listen.
const LEAST_PORT: &str = "net.ipv4.ip_unprivileged_port_start";
/// The exit code of a process that SIGKILL ended.
const KILLED: i64 = 128 + 9;
/// The exit code of a process that SIGXFSZ ended: it wrote a file beyond the limit.
const FILE_TOO_LARGE: i64 = 128 + 25;

/// Why a container's end was not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Cancelled,
    Timeout,
    DiskQuota,
}

impl ContainerRuntime {
    /// Runs a task to its end.
    pub(super) async fn drive(&self, task: &ContainerTask, control: &TaskControl) -> Exit {
        let waiting = control.cancel.run_until_cancelled(self.workers.acquire());
        let Some(Ok(_permit)) = waiting.await else { return Exit::Cancelled };
        control.begun.set(()).ok();
        if task.devices.iter().any(|unit| self.withdrawn().contains(unit)) {
            let detail = "a container that held it does not go".to_owned();
            return Exit::Host(HostFault::Container { action: "give a device", detail });
        }
        let loading = control.cancel.run_until_cancelled(self.load(&task.image, task.digest));
        let image = match loading.await {
            Some(Ok((image, prepared))) => {
                control.prepared.set(prepared).ok();
                image
            }
            Some(Err(error)) => return error.into(),
            None => return Exit::Cancelled,
        };
        if let Some(user) = self.engine.user.outside {
            let (work, tmp) = (task.base.work.clone(), task.base.tmp.clone());
            let given = tokio::task::spawn_blocking(move || {
                disk::give(&work, user).and_then(|()| disk::give(&tmp, user))
            });
            match given.await {
                Ok(Ok(())) => {}
                Ok(Err(fault)) => return Exit::Host(fault),
                Err(_) => return Exit::Host(HostFault::Died),
            }
        }
        let own = self
            .engine
            .has_own_cgroups
            .then(|| Own::new(&self.engine.owner, &task.base.name, self.engine.is_cgroup_v2));
        let exit = match self.create(task, &image, own.as_ref()).await {
            Ok(id) => {
                let exit = self.run(task, control, &id, own.as_ref()).await;
                if !self.remove(&id, own.as_ref()).await {
                    // Something of it may still be at work in its directories, and with its devices.
                    self.withdrawn().extend(task.devices.iter().cloned());
                    let detail = "it does not go; its outputs are left alone".to_owned();
                    let action = "remove a container";
                    return Exit::Host(HostFault::Container { action, detail });
                }
                exit.unwrap_or_else(Exit::from)
            }
            Err(error) => error.into(),
        };
        if self.engine.user.outside.is_some() {
            // Outputs are the node's from here on.
            let (work, tmp) = (task.base.work.clone(), task.base.tmp.clone());
            let taken = tokio::task::spawn_blocking(move || {
                disk::take(&work).and_then(|()| disk::take(&tmp))
            });
            if let Ok(Err(fault)) = taken.await {
                return Exit::Host(fault);
            }
        }
        exit
    }

    async fn create(
        &self,
        task: &ContainerTask,
        image: &Image,
        own: Option<&Own>,
    ) -> Result<String, PrepareError> {
        let options =
            CreateContainerOptions { name: Some(task.base.name.clone()), ..Default::default() };
        let body = self.body(task, image, own)?;
        let created = self.docker.create_container(Some(options), body).await;
        created
            .map(|created| created.id)
            .map_err(|error| refused_or_fault("create a container", &error))
    }

    fn body(
        &self,
        task: &ContainerTask,
        image: &Image,
        own: Option<&Own>,
    ) -> Result<ContainerCreateBody, HostFault> {
        let base = &task.base;
        let granted = grant(&task.devices, &self.engine).map_err(|error| not_granted(&error))?;
        let mut mounts = vec![bind(&base.work, WORK_DIR, false)?, bind(&base.tmp, "/tmp", false)?];
        for mount in &base.mounts {
            mounts.push(bind(&mount.host, &mount.guest, true)?);
        }
        let memory = i64::try_from(limit(task)).unwrap_or(i64::MAX);
        // The engine would make a directory of its own for each, which nobody measures.
        let is_mounted =
            |path: &String| mounts.iter().any(|mount| mount.target.as_ref() == Some(path));
        let own_volumes: Vec<String> =
            image.volumes.iter().filter(|path| !is_mounted(path)).cloned().collect();
        mounts.extend(own_volumes.into_iter().map(|path| in_memory(path, memory)));
        let cpu_milli = base.cpu_milli.clamp(10, self.engine.cpu_milli);
        let User { inside: (uid, gid), .. } = self.engine.user;
        let has_stdin = base.stdin.is_some();
        Ok(ContainerCreateBody {
            image: Some(image.reference.clone()),
            entrypoint: task.entrypoint.clone(),
            cmd: (!base.args.is_empty()).then(|| base.args.clone()),
            env: Some(base.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            user: Some(format!("{uid}:{gid}")),
            working_dir: Some(WORK_DIR.to_owned()),
            attach_stdin: Some(has_stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            open_stdin: Some(has_stdin),
            stdin_once: Some(has_stdin),
            network_disabled: Some(!base.network),
            labels: Some(HashMap::from([(OWNER_LABEL.to_owned(), self.engine.owner.clone())])),
            host_config: Some(HostConfig {
                network_mode: (!base.network).then(|| "none".to_owned()),
                readonly_rootfs: Some(true),
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                privileged: Some(false),
                mounts: Some(mounts),
                memory: Some(memory),
                // As much as memory alone: no swap.
                memory_swap: Some(memory),
                nano_cpus: Some(
                    i64::try_from(cpu_milli).unwrap_or(i64::MAX).saturating_mul(1_000_000),
                ),
                pids_limit: Some(PIDS_MAX),
                shm_size: Some(SHM_BYTES.min(memory)),
                ulimits: Some(vec![
                    ulimit("nofile", FILES_MAX),
                    ulimit("nproc", PROCESSES_MAX),
                    ulimit("fsize", file_limit(task)),
                ]),
                devices: Some(granted.files),
                device_requests: (!granted.requests.is_empty()).then_some(granted.requests),
                group_add: (!granted.groups.is_empty()).then_some(granted.groups),
                ipc_mode: Some("private".to_owned()),
                restart_policy: Some(RestartPolicy {
                    name: Some(RestartPolicyNameEnum::NO),
                    maximum_retry_count: None,
                }),
                auto_remove: Some(false),
                // Output goes to the node alone; the engine's own copy would be a disk without a limit.
                log_config: Some(HostConfigLogConfig {
                    typ: Some("none".to_owned()),
                    config: None,
                }),
                // Any user of its own network may listen on any port of it.
                sysctls: task
                    .has_ports
                    .then(|| HashMap::from([(LEAST_PORT.to_owned(), "0".to_owned())])),
                cgroup_parent: own.map(|own| own.path().display().to_string()),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    async fn run(
        &self,
        task: &ContainerTask,
        control: &TaskControl,
        id: &str,
        own: Option<&Own>,
    ) -> Result<Exit, PrepareError> {
        let output = self.attach(id, false).await?;
        let input = match &task.base.stdin {
            Some(file) => Some((file.clone(), self.attach(id, true).await?)),
            None => None,
        };
        let before =
            disk::measure(&[task.base.work.clone(), task.base.tmp.clone()]).unwrap_or(u64::MAX);
        let begun = Instant::now();
        self.docker
            .start_container(id, None)
            .await
            .map_err(|error| not_started("start a container", &error))?;
        control.started_in.set(begun.elapsed()).ok();
        let piping = pipe(output, input, Arc::clone(&task.base.logs));
        let limit = limit(task);
        let mut gauge =
            Gauge { begun, last: begun, kib_us: 0, io_bytes: 0, oom_kills: 0, before, limit, own };
        let stop = self.watch(task, control, id, &mut gauge).await?;
        if stop.is_some() {
            self.kill(id).await?;
        }
        let streamed = tokio::time::timeout(DRAIN_TIMEOUT, piping).await;
        if let Ok(Ok(bytes)) = streamed {
            gauge.io_bytes = bytes;
        }
        let is_over = gauge.storage(task, control, None).await > task.base.disk_bytes;
        gauge.read(control, None);
        let state = self.state(id).await?;
        let code = state.exit_code.unwrap_or(KILLED);
        // Not every engine says so itself.
        let peak = control.meters().memory_peak_bytes;
        let is_starved = gauge.oom_kills > 0 || (code == KILLED && peak >= limit);
        Ok(match stop {
            Some(Stop::Cancelled) => Exit::Cancelled,
            Some(Stop::Timeout) => Exit::Timeout,
            Some(Stop::DiskQuota) => Exit::DiskQuota,
            None if is_over || code == FILE_TOO_LARGE => Exit::DiskQuota,
            // A task that fails after it was refused memory fails for that reason.
            None if code != 0 && (state.oom_killed == Some(true) || is_starved) => {
                Exit::OutOfMemory
            }
            None => Exit::Code(i32::try_from(code).unwrap_or(i32::MAX)),
        })
    }

    /// Connects to a container's standard input, or to its two outputs. Not to all by one connection: Podman drops what is left
    /// of the output when a container ends that has not read all of its input.
    async fn attach(
        &self,
        id: &str,
        is_input: bool,
    ) -> Result<AttachContainerResults, PrepareError> {
        let options = AttachContainerOptions {
            stdin: is_input,
            stdout: !is_input,
            stderr: !is_input,
            stream: true,
            ..Default::default()
        };
        let attached = self.docker.attach_container(id, Some(options)).await;
        // Podman already makes the process here.
        attached.map_err(|error| not_started("attach to a container", &error))
    }

    /// Waits for the container's end, or for a reason to end it, and reads its meters meanwhile.
    async fn watch(
        &self,
        task: &ContainerTask,
        control: &TaskControl,
        id: &str,
        gauge: &mut Gauge<'_>,
    ) -> Result<Option<Stop>, HostFault> {
        let pid = self.state(id).await.ok().and_then(|state| state.pid).filter(|pid| *pid > 0);
        let of_process = pid.and_then(|pid| Cgroup::of_process(pid, self.engine.is_cgroup_v2));
        // A number that another process has by now is not this container's.
        let is_own = |pid: &i64| {
            of_process.is_some() && Cgroup::of_process(*pid, self.engine.is_cgroup_v2) == of_process
        };
        let inside = pid.and_then(|pid| Inside::find(self, id, pid).filter(|_| is_own(&pid)));
        let inside = inside.map(crate::runtime::Inside::Container).ok_or(Shut::Unseen);
        control.inside.set(inside).ok();
        let online = pid.filter(|_| task.base.network);
        if let Some(pid) = pid.filter(|_| task.has_ports) {
            open_door(control, pid, || is_own(&pid));
        }
        let mut ended = pin!(self.ended(id));
        let mut deadline = pin!(tokio::time::sleep(task.base.timeout));
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut measured = (Instant::now(), Duration::ZERO);
        loop {
            tokio::select! {
                biased;
                end = &mut ended => return end.map(|()| None),
                () = control.cancel.cancelled() => return Ok(Some(Stop::Cancelled)),
                () = &mut deadline => return Ok(Some(Stop::Timeout)),
                _ = ticks.tick() => {
                    gauge.read(control, of_process.as_ref());
                    if let Some((into, out)) = online.filter(is_own).and_then(cgroup::network_of_process)
                    {
                        control.change_meters(|meters| {
                            meters.net_in_bytes = meters.net_in_bytes.max(into);
                            meters.net_out_bytes = meters.net_out_bytes.max(out);
                        });
                    }
                    if measured.0.elapsed() >= measured.1 * MEASURE_SHARE {
                        let begun = Instant::now();
                        let bytes = gauge.storage(task, control, of_process.as_ref()).await;
                        measured = (Instant::now(), begun.elapsed());
                        if bytes > task.base.disk_bytes {
                            return Ok(Some(Stop::DiskQuota));
                        }
                    }
                }
            }
        }
    }
}

/// What is counted while a container runs.
struct Gauge<'a> {
    begun: Instant,
    last: Instant,
    /// Memory over time, in KiB microseconds.
    kib_us: u128,
    /// Bytes of the standard streams.
    io_bytes: u64,
    /// Processes killed for want of memory.
    oom_kills: u64,
    /// Bytes in the task's directories at its start.
    before: u64,
    /// Most memory that the task can hold. Podman's monitor is in the same cgroup, and is not the task's.
    limit: u64,
    own: Option<&'a Own>,
}

impl Gauge<'_> {
    /// Takes a reading of the container's cgroup, if that is still there.
    fn read(&mut self, control: &TaskControl, of_process: Option<&Cgroup>) {
        let own = self.own.and_then(|own| own.cgroup().read());
        let inner = of_process.and_then(Cgroup::read);
        // A parent does not count kills in version 1.
        self.oom_kills = self.oom_kills.max(inner.map_or(0, |reading| reading.oom_kills));
        let reading: Option<Reading> = own.or(inner);
        let now = Instant::now();
        if let Some(reading) = reading {
            let held = reading.memory_bytes.min(self.limit);
            self.kib_us += u128::from(held / 1_024) * (now - self.last).as_micros();
        }
        self.last = now;
        control.change_meters(|meters| {
            meters.elapsed_us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            meters.memory_kib_s = u64::try_from(self.kib_us / 1_000_000).unwrap_or(u64::MAX);
            if let Some(reading) = reading {
                meters.cpu_us = meters.cpu_us.max(reading.cpu_us);
                let peak = reading.memory_peak_bytes.max(reading.memory_bytes).min(self.limit);
                meters.memory_peak_bytes = meters.memory_peak_bytes.max(peak);
                meters.io_bytes =
                    meters.io_bytes.max(reading.io_bytes.saturating_add(self.io_bytes));
            }
        });
    }

    /// Bytes by which the task's directories have grown, with what its processes hold and no directory shows.
    async fn storage(
        &self,
        task: &ContainerTask,
        control: &TaskControl,
        of_process: Option<&Cgroup>,
    ) -> u64 {
        let dirs = [task.base.work.clone(), task.base.tmp.clone()];
        let cgroup = self.own.map(Own::cgroup).or(of_process).cloned();
        let measuring = tokio::task::spawn_blocking(move || {
            let processes = cgroup.map(|cgroup| cgroup.processes()).unwrap_or_default();
            let held = disk::held_bytes(&dirs, &processes);
            Some(disk::measure(&dirs)?.saturating_add(held))
        });
        let bytes = measuring.await.ok().flatten().unwrap_or(u64::MAX);
        let grown = bytes.saturating_sub(self.before);
        control.change_meters(|meters| meters.storage_bytes = meters.storage_bytes.max(grown));
        grown
    }
}

/// Opens the way to the container's ports: to the network of its first process, if the number is still that one's.
fn open_door(control: &TaskControl, pid: i64, is_own: impl FnOnce() -> bool) {
    let found = u32::try_from(pid).ok().and_then(|pid| Process::find(pid).ok());
    if let Some(process) = found.filter(|_| is_own()) {
        control.set_door(Some(Door::of_process(process)));
    }
}

/// The task's memory limit as the engine takes it.
fn limit(task: &ContainerTask) -> u64 {
    task.base.memory_bytes.max(MEMORY_MIN_BYTES)
}

/// The longest file that a task can write: one fast write cannot go far beyond the quota before it is measured, and a file
/// that has met this limit shows that the quota was exceeded, whatever the task makes of it.
fn file_limit(task: &ContainerTask) -> i64 {
    i64::try_from(task.base.disk_bytes.saturating_add(FILE_SLACK_BYTES)).unwrap_or(i64::MAX)
}

/// Why the first process did not come to be: the image or the command, or a fault of the host.
fn not_started(action: &'static str, error: &EngineError) -> PrepareError {
    match error {
        // runc and crun say so of a program that is not there or cannot be executed, and engines pass it on with
        // different codes.
        EngineError::DockerResponseServerError { message, .. }
            if message.contains("exec: ") || message.contains("executable file") =>
        {
            InvalidImage::Refused { detail: bounded(message.clone()) }.into()
        }
        error => refused_or_fault(action, error),
    }
}

/// A device that was there when the node started, and is not now.
fn not_granted(error: &DeviceError) -> HostFault {
    let detail = bounded(error.to_string());
    HostFault::Container { action: "give a task its devices", detail }
}

fn ulimit(name: &str, most: i64) -> ResourcesUlimits {
    ResourcesUlimits { name: Some(name.to_owned()), soft: Some(most), hard: Some(most) }
}

fn bind(host: &Path, guest: &str, is_read_only: bool) -> Result<EngineMount, HostFault> {
    let real = host.canonicalize().map_err(|error| HostFault::file("open", host, &error))?;
    let unusable = || HostFault::Container {
        action: "mount a directory",
        detail: bounded(format!("`{}` is not Unicode", real.display())),
    };
    Ok(EngineMount {
        target: Some(guest.to_owned()),
        source: Some(real.to_str().ok_or_else(unusable)?.to_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(is_read_only),
        ..Default::default()
    })
}

/// A directory that counts as the task's memory.
fn in_memory(path: String, bytes: i64) -> EngineMount {
    EngineMount {
        target: Some(path),
        typ: Some(MountType::TMPFS),
        tmpfs_options: Some(MountTmpfsOptions {
            size_bytes: Some(bytes),
            // Podman would make it root's.
            mode: Some(0o1777),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Takes standard output and error until the container closes them, and feeds a file to standard input meanwhile. Gives the
/// bytes moved.
fn pipe(
    output: AttachContainerResults,
    mut input: Option<(PathBuf, AttachContainerResults)>,
    sink: Arc<dyn LogSink>,
) -> JoinHandle<u64> {
    tokio::spawn(async move {
        // The half of a connection that is not used is kept as long as the other.
        let AttachContainerResults { mut output, input: _kept } = output;
        let feed = async {
            let Some((path, attached)) = &mut input else { return 0 };
            let Ok(mut file) = tokio::fs::File::open(path).await else { return 0 };
            // A task need not read its input to the end.
            let fed = tokio::io::copy(&mut file, &mut attached.input).await.unwrap_or(0);
            let _ = attached.input.shutdown().await;
            fed
        };
        let take = async {
            let mut taken = 0;
            while let Some(Ok(piece)) = output.next().await {
                taken += write(&*sink, piece);
            }
            taken
        };
        // A container that closes its output has ended, whatever is left of its input.
        let (mut feed, mut take) = (pin!(feed), pin!(take));
        let mut fed = 0;
        tokio::select! {
            taken = &mut take => return taken,
            done = &mut feed => fed += done,
        }
        fed + take.await
    })
}

fn write(sink: &dyn LogSink, piece: LogOutput) -> u64 {
    let (stream, bytes) = match piece {
        LogOutput::StdErr { message } => (Stream::Stderr, message),
        LogOutput::StdOut { message } | LogOutput::Console { message } => (Stream::Stdout, message),
        LogOutput::StdIn { .. } => return 0,
    };
    sink.write(stream, &bytes);
    bytes.len() as u64
}
