//! One machine from its start to its end.

use std::process::ExitStatus;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::args::SOCKETS;
use super::chan::{self, Console};
use super::gauge::{Gauge, count_traffic};
use super::host::{MARKER, marker};
use super::life::{Life, Limits, Phase, Word};
use super::network::{Net, SOCKETS_MAX};
use super::process::{Limit, Process, Spec};
use super::qmp::Qmp;
use super::stage::{self, Staged};
use super::unpack::{UnpackError, unpack};
use super::verdict::{End, Stop, trap, verdict};
use super::{TaskControl, VmRuntime, VmTask, archive, fault};
use crate::runtime::{Door, Exit, HostFault, Stream, TrapKind, disk};

/// How often meters are read.
const TICK: Duration = Duration::from_millis(100);
/// How long QEMU may take to come to its sockets.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the last output may take to arrive after the machine has said all.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long QEMU may take to end when it is asked to; then it is killed.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Files that QEMU may have open: its devices, sockets and threads' need some dozens.
const FILES_MAX: u64 = 256;
/// Processes of a machine's user. The cgroup holds each machine to fewer.
const PROCESSES_MAX: u64 = 4_096;

/// QEMU's connections.
pub(super) struct Lines {
    pub(super) qmp: Arc<Mutex<Qmp>>,
    console: Console,
    reading_console: JoinHandle<()>,
    words: mpsc::Receiver<Word>,
    /// Those that have not ended yet.
    streams: Vec<JoinHandle<()>>,
    /// Bytes of the output streams.
    pub(super) moved: Arc<AtomicU64>,
}

impl Lines {
    /// Waits for the end of both streams. A machine that does not end them has lost what is missing.
    async fn drain(&mut self) {
        for mut stream in self.streams.drain(..) {
            if tokio::time::timeout(DRAIN_TIMEOUT, &mut stream).await.is_err() {
                stream.abort();
            }
        }
    }
}

/// What a machine runs by.
struct World<'a> {
    process: &'a mut Process,
    net: Option<&'a mut Net>,
}

/// A machine's place among those that can be controlled; left when dropped.
struct Listed<'a> {
    runtime: &'a VmRuntime,
    name: &'a str,
}

impl<'a> Listed<'a> {
    fn new(runtime: &'a VmRuntime, name: &'a str, qmp: &Arc<Mutex<Qmp>>) -> Self {
        let mut running = runtime.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(name.to_owned(), Arc::clone(qmp));
        Self { runtime, name }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let mut running = self.runtime.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.remove(self.name);
    }
}

impl VmRuntime {
    /// Runs a task to its end.
    pub(super) async fn drive(&self, task: &VmTask, control: &TaskControl) -> Exit {
        let waiting = control.cancel.run_until_cancelled(self.workers.acquire());
        let Some(Ok(_permit)) = waiting.await else { return Exit::Cancelled };
        control.begun.set(()).ok();
        if let Err(why) = archive::check(task) {
            return Exit::InvalidMachine(why);
        }
        let artefact = match &task.machine {
            super::Machine::Kernel { dir, .. } => dir,
            super::Machine::Disk { image, .. } => image,
        };
        let loading = control.cancel.run_until_cancelled(self.store.load(artefact, task.digest));
        let image = match loading.await {
            Some(Ok((image, prepared))) => {
                control.prepared.set(prepared).ok();
                image
            }
            Some(Err(error)) => return error.into(),
            None => return Exit::Cancelled,
        };
        let staged = match stage::stage_apart(&self.host, task, &image).await {
            Ok(staged) => staged,
            Err(fault) => return Exit::Host(fault),
        };
        let exit = match stage::make_overlay(&self.host, task, &staged, &image).await {
            Ok(()) => self.connected(task, control, &staged).await.unwrap_or_else(Exit::Host),
            Err(fault) => Exit::Host(fault),
        };
        // Its files may be large, its cgroup may be busy.
        let removed = tokio::task::spawn_blocking(move || staged.remove()).await;
        if removed.is_err() { Exit::Host(HostFault::Died) } else { exit }
    }

    /// Runs a machine with the network that it has.
    async fn connected(
        &self,
        task: &VmTask,
        control: &TaskControl,
        staged: &Staged,
    ) -> Result<Exit, HostFault> {
        let mut net = match (&staged.nic, &self.host.net_tools) {
            (Some(nic), Some(tools)) => {
                let making = Net::make(tools, nic, staged.dir.path(), staged.cgroup.as_ref());
                match control.cancel.run_until_cancelled(making).await {
                    Some(net) => Some(net?),
                    None => return Ok(Exit::Cancelled),
                }
            }
            (Some(_), None) => {
                let detail = "this node gives machines neither ports nor a network";
                return Err(fault("make the machine's network", detail));
            }
            (None, _) => None,
        };
        let exit = self.run(task, control, staged, net.as_mut()).await;
        if let Some(net) = net {
            // The last of it, which no process of the machine can tell any more.
            count_traffic(control, net.traffic().await);
            net.close().await;
        }
        exit
    }

    async fn run(
        &self,
        task: &VmTask,
        control: &TaskControl,
        staged: &Staged,
        net: Option<&mut Net>,
    ) -> Result<Exit, HostFault> {
        if control.cancel.is_cancelled() {
            return Ok(Exit::Cancelled);
        }
        let sockets = if net.is_some() { SOCKETS_MAX } else { 0 };
        let limits = [
            Limit::Files(FILES_MAX + sockets),
            Limit::Processes(PROCESSES_MAX),
            Limit::File(staged.file_bytes),
        ];
        let spec = Spec {
            program: &self.host.qemu,
            args: &staged.args,
            dir: staged.dir.path(),
            user: staged.lease.user,
            limits: &limits,
            cgroup: staged.cgroup.as_ref(),
            network: net.as_deref().map(Net::network),
        };
        let begun = Instant::now();
        let started = Process::start(&spec).await;
        let mut process = started.map_err(|error| fault("start qemu", error))?;
        let world = World { process: &mut process, net };
        let ran = self.attend(task, control, staged, world, begun).await;
        if process.kill().await.is_none() {
            tracing::error!(
                pid = process.pid(),
                "qemu does not end; the next start of the node tries again"
            );
        }
        let (life, mut lines, end) = ran?;
        // What QEMU had taken is in its sockets, which end now.
        lines.drain().await;
        // The last words of a machine that died explain its end.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, &mut lines.reading_console).await;
        let exit = verdict(life.phase(), &end, &lines.console, self.host.options.boot_timeout);
        self.collect(task, control, staged, life.phase(), exit).await
    }

    /// Lets QEMU come to its sockets, and watches the machine until it has said all or has to be ended.
    async fn attend(
        &self,
        task: &VmTask,
        control: &TaskControl,
        staged: &Staged,
        mut world: World<'_>,
        begun: Instant,
    ) -> Result<(Life, Lines, End), HostFault> {
        let process = &mut *world.process;
        let path = staged.dir.path().join(MARKER);
        if let Some(marker) = marker(process.pid()) {
            std::fs::write(&path, marker).map_err(|e| HostFault::file("write", &path, &e))?;
        }
        let mut lines = match connect(task, staged, process).await {
            Ok(lines) => lines,
            Err(detail) => {
                process.kill().await;
                let said = process.said().await;
                let detail = if said.is_empty() { detail } else { said };
                return Err(fault("start qemu", detail));
            }
        };
        control.inside.set(crate::runtime::Inside::Machine(lines.console.clone())).ok();
        let limits = Limits {
            boot: self.host.options.boot_timeout,
            task: task.timeout,
            output_bytes: staged.output_bytes,
        };
        let mut life = Life::new(limits, begun);
        let mut gauge = Gauge::new(begun, process.pid(), staged, &lines);
        let listed = Listed::new(self, &task.name, &lines.qmp);
        let door = staged.nic.as_ref().and_then(|nic| nic.door(process.pid()));
        let (stop, status) =
            watch((control, door), &mut world, &mut lines, &mut life, &mut gauge).await;
        let process = &mut *world.process;
        drop(listed);
        if matches!(life.phase(), Phase::Done { .. }) {
            lines.drain().await;
            gauge.ask_last(&lines.qmp).await;
        }
        gauge.asking.abort();
        gauge.read(control);
        let status = match (status, stop) {
            (Some(status), _) => Some(status),
            (None, None) => {
                quit(process, &lines.qmp).await;
                None
            }
            (None, Some(stop)) => {
                if stop == Stop::Cancelled && !task.grace.is_zero() {
                    power_down(process, &lines.qmp, task.grace).await;
                }
                None
            }
        };
        gauge.read(control);
        let is_starved = gauge.oom_kills() > 0;
        let said = if status.is_some() { process.said().await } else { String::new() };
        Ok((life, lines, End { stop, status, is_starved, said }))
    }

    /// Takes the output of a machine that has written one.
    async fn collect(
        &self,
        task: &VmTask,
        control: &TaskControl,
        staged: &Staged,
        phase: &Phase,
        exit: Exit,
    ) -> Result<Exit, HostFault> {
        if !matches!(phase, Phase::Done { tar: 0, .. }) || matches!(exit, Exit::Host(_)) {
            return Ok(exit);
        }
        let path = staged.dir.path().join(super::args::OUTPUT);
        let output = staged.output.try_clone();
        let output = output.map_err(|error| HostFault::file("open", &path, &error))?;
        let bytes_max = staged.before_bytes.saturating_add(task.disk_bytes);
        let work = task.work.clone();
        let unpacking = tokio::task::spawn_blocking(move || {
            let unpacked = unpack(output, &work, bytes_max);
            (unpacked, disk::measure(std::slice::from_ref(&work)))
        });
        let Ok((unpacked, bytes)) = unpacking.await else { return Err(HostFault::Died) };
        let grown = bytes.unwrap_or(u64::MAX).saturating_sub(staged.before_bytes);
        control.change_meters(|meters| meters.storage_bytes = meters.storage_bytes.max(grown));
        Ok(match unpacked {
            Ok(()) => exit,
            Err(UnpackError::TooMuch) => Exit::DiskQuota,
            Err(UnpackError::Write { name, source }) => {
                return Err(fault("write the machine's output", format!("`{name}`: {source}")));
            }
            // A task that failed has said why.
            Err(_) if !exit.is_success() => exit,
            Err(error) => trap(TrapKind::HostCall, error.to_string()),
        })
    }
}

/// Takes QEMU's connections.
async fn connect(task: &VmTask, staged: &Staged, process: &mut Process) -> Result<Lines, String> {
    let taking = async {
        let mut taken = Vec::with_capacity(SOCKETS.len());
        for listener in &staged.listeners {
            let listener = listener.try_clone().and_then(UnixListener::from_std);
            let listener = listener.map_err(|error| error.to_string())?;
            let (stream, _) = listener.accept().await.map_err(|error| error.to_string())?;
            taken.push(stream);
        }
        let [qmp, console, control, stdout, stderr]: [UnixStream; 5] =
            taken.try_into().map_err(|_| "qemu has not come to all of its sockets".to_owned())?;
        let qmp = Qmp::begin(qmp).await.map_err(|error| error.to_string())?;
        Ok((qmp, console, control, stdout, stderr))
    };
    let taken = tokio::select! {
        biased;
        taken = tokio::time::timeout(START_TIMEOUT, taking) => {
            taken.unwrap_or_else(|_| Err(format!("no sign of it within {} s", START_TIMEOUT.as_secs())))
        }
        _ = process.wait() => Err("it ended at once".to_owned()),
    };
    let (qmp, console, control, stdout, stderr) = taken?;
    let moved = Arc::new(AtomicU64::new(0));
    let pass = |from, stream| {
        chan::pass(from, &staged.token, stream, Arc::clone(&task.logs), Arc::clone(&moved))
    };
    let streams = vec![pass(stdout, Stream::Stdout), pass(stderr, Stream::Stderr)];
    let kept = Console::default();
    Ok(Lines {
        qmp: Arc::new(Mutex::new(qmp)),
        reading_console: kept.begin(console).await,
        console: kept,
        words: chan::words(control),
        streams,
        moved,
    })
}

/// Waits for the machine's end, or for a reason to end it, and reads its meters meanwhile. The door opens when the task
/// begins.
async fn watch(
    (control, door): (&TaskControl, Option<Door>),
    world: &mut World<'_>,
    lines: &mut Lines,
    life: &mut Life,
    gauge: &mut Gauge<'_>,
) -> (Option<Stop>, Option<ExitStatus>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_speaking = true;
    let World { process, net } = world;
    loop {
        let deadline = life.deadline();
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let offline = async {
            match net {
                Some(net) => net.lost().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            word = lines.words.recv(), if is_speaking => match word {
                Some(word) => {
                    if life.handle_word(word, Instant::now()) {
                        match life.phase() {
                            Phase::Running => {
                                control.started_in.set(gauge.begun.elapsed()).ok();
                                if let Some(door) = &door {
                                    control.door.set(door.clone()).ok();
                                }
                            }
                            Phase::Done { .. } => return (None, None),
                            Phase::Booting | Phase::Ended { .. } => {}
                        }
                    }
                }
                None => is_speaking = false,
            },
            status = process.wait() => {
                // Its last words are still in the socket.
                while let Ok(Some(word)) = tokio::time::timeout(DRAIN_TIMEOUT, lines.words.recv()).await {
                    life.handle_word(word, Instant::now());
                }
                return (None, Some(status.unwrap_or_default()));
            }
            () = control.cancel.cancelled() => return (Some(Stop::Cancelled), None),
            () = late => return (Some(Stop::Late), None),
            () = offline => return (Some(Stop::Offline), None),
            _ = ticks.tick() => gauge.read(control),
        }
    }
}

/// Ends QEMU as it likes best; the caller kills it if that does not help.
async fn quit(process: &mut Process, qmp: &Mutex<Qmp>) {
    let quitting = async {
        // An answer may not come any more.
        let _ = qmp.lock().await.execute("quit").await;
        process.wait().await
    };
    let _ = tokio::time::timeout(QUIT_TIMEOUT, quitting).await;
}

/// Asks the machine to shut itself down, and gives it time.
async fn power_down(process: &mut Process, qmp: &Mutex<Qmp>, grace: Duration) {
    let asked = qmp.lock().await.execute("system_powerdown").await;
    if asked.is_ok() && tokio::time::timeout(grace, process.wait()).await.is_err() {
        quit(process, qmp).await;
    }
}
