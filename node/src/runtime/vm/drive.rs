//! One machine from its start to its end: through one QEMU, or through several when it is suspended in between, see `suspend`.

use std::ffi::OsString;
use std::process::ExitStatus;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OwnedSemaphorePermit, mpsc};
use tokio::time::MissedTickBehavior;

use super::args::{INCOMING, LOADING};
use super::gauge::{Gauge, count_traffic};
use super::host::{MARKER, marker};
use super::life::{Life, Limits, Phase};
use super::lines::{DRAIN_TIMEOUT, Ears, Lines};
use super::network::{Net, SOCKETS_MAX};
use super::process::{Limit, Process, Spec};
use super::qmp::Qmp;
use super::stage::{self, Staged};
use super::suspend::{Rest, Resume, Saved};
use super::unpack::{UnpackError, unpack};
use super::verdict::{End, Stop, trap, verdict};
use super::{TaskControl, VmRuntime, VmTask, archive, fault};
use crate::runtime::steer::{Order, Reins, SteerError, Wish};
use crate::runtime::{Door, Exit, HostFault, Inside, TrapKind, disk};

/// How often meters are read.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// How long QEMU may take to end when it is asked to; then it is killed.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Files that QEMU may have open: its devices, sockets and threads' need some dozens.
const FILES_MAX: u64 = 256;
/// Processes of a machine's user. The cgroup holds each machine to fewer.
const PROCESSES_MAX: u64 = 4_096;

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
        let turn = Arc::clone(&self.workers).acquire_owned();
        let Some(Ok(turn)) = control.cancel.run_until_cancelled(turn).await else {
            return Exit::Cancelled;
        };
        let mut turn = Some(turn);
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
            Ok(()) => {
                let ended = self.connected(task, control, &staged, &mut turn).await;
                ended.unwrap_or_else(Exit::Host)
            }
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
        turn: &mut Option<OwnedSemaphorePermit>,
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
        let exit = if control.cancel.is_cancelled() {
            Ok(Exit::Cancelled)
        } else {
            let (course, reins) = Course::new((self, task, control), staged, net.as_mut(), turn);
            control.reins.set(reins).ok();
            Box::pin(course.run()).await
        };
        if let Some(net) = net {
            // The last of it, which no process of the machine can tell any more.
            count_traffic(control, net.traffic().await);
            net.close().await;
        }
        exit
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
        let bytes_max = staged.before_bytes.saturating_add(task.base.disk_bytes);
        let work = task.base.work.clone();
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

/// One machine from its start to its end.
pub(super) struct Course<'a> {
    pub(super) runtime: &'a VmRuntime,
    pub(super) task: &'a VmTask,
    pub(super) control: &'a TaskControl,
    pub(super) staged: &'a Staged,
    pub(super) net: Option<&'a mut Net>,
    pub(super) life: Life,
    pub(super) ears: Ears,
    pub(super) gauge: Gauge<'a>,
    pub(super) orders: mpsc::Receiver<Order>,
    /// Its turn among the machines that run; not while it is suspended.
    pub(super) turn: &'a mut Option<OwnedSemaphorePermit>,
}

/// How the time of one QEMU came to its end.
enum Leg {
    /// With the machine.
    Over(End),
    /// The machine is suspended.
    Saved(Saved),
}

/// What comes up while a machine runs.
enum Seen {
    /// It has to end, or has.
    End(Option<Stop>, Option<ExitStatus>),
    /// Something is wanted of it.
    Order(Order),
}

impl<'a> Course<'a> {
    fn new(
        (runtime, task, control): (&'a VmRuntime, &'a VmTask, &'a TaskControl),
        staged: &'a Staged,
        net: Option<&'a mut Net>,
        turn: &'a mut Option<OwnedSemaphorePermit>,
    ) -> (Self, Reins) {
        let begun = Instant::now();
        let limits = Limits {
            boot: runtime.host.options.boot_timeout,
            task: task.base.timeout,
            output_bytes: staged.output_bytes,
        };
        let (life, ears) = (Life::new(limits, begun), Ears::new(task, staged));
        let gauge = Gauge::new(begun, staged, &ears.moved);
        let (reins, orders) = Reins::new();
        (Self { runtime, task, control, staged, net, life, ears, gauge, orders, turn }, reins)
    }

    /// Runs the machine to its end.
    async fn run(mut self) -> Result<Exit, HostFault> {
        let mut resume = None;
        let end = loop {
            match self.leg(resume.take()).await? {
                Leg::Over(end) => break end,
                Leg::Saved(saved) => match self.rest(saved).await {
                    Rest::Resume(wanted) => resume = Some(wanted),
                    Rest::Over(stop) => break End::of(stop),
                },
            }
        };
        // What QEMU had taken is in its sockets, which end now.
        self.ears.drain().await;
        // The last words of a machine that died explain its end.
        self.ears.last_words().await;
        let (runtime, phase) = (self.runtime, self.life.phase());
        let exit = verdict(phase, &end, &self.ears.console, runtime.host.options.boot_timeout);
        runtime.collect(self.task, self.control, self.staged, phase, exit).await
    }

    /// Runs the machine in a new QEMU until that ends.
    async fn leg(&mut self, resume: Option<Resume>) -> Result<Leg, HostFault> {
        let staged = self.staged;
        let mut args = staged.args.clone();
        if resume.is_some() {
            staged.make_pipe()?;
            args.extend(INCOMING.map(OsString::from));
        }
        let sockets = if self.net.is_some() { SOCKETS_MAX } else { 0 };
        let limits = [
            Limit::Files(FILES_MAX + sockets),
            Limit::Processes(PROCESSES_MAX),
            Limit::File(staged.file_bytes),
        ];
        let spec = Spec {
            program: &self.runtime.host.qemu,
            args: &args,
            dir: staged.dir.path(),
            user: staged.lease.user,
            limits: &limits,
            cgroup: staged.cgroup.as_ref(),
            network: self.net.as_deref().map(Net::network),
            input: resume.as_ref().map(|_| LOADING),
        };
        let started = Process::start(&spec).await;
        let mut process = started.map_err(|error| fault("start qemu", error))?;
        let led = self.lead(&mut process, resume).await;
        if process.kill().await.is_none() {
            tracing::error!(
                pid = process.pid(),
                "qemu does not end; the next start of the node tries again"
            );
        }
        led
    }

    /// Lets QEMU come to its sockets, and watches the machine until it has said all, has to be ended or is suspended.
    async fn lead(
        &mut self,
        process: &mut Process,
        resume: Option<Resume>,
    ) -> Result<Leg, HostFault> {
        let (runtime, task) = (self.runtime, self.task);
        let (control, staged) = (self.control, self.staged);
        let path = staged.dir.path().join(MARKER);
        if let Some(marker) = marker(process.pid()) {
            std::fs::write(&path, marker).map_err(|e| HostFault::file("write", &path, &e))?;
        }
        let is_resumed = resume.is_some();
        let lines = match resume {
            None => self.ears.listen(staged, process).await?,
            Some(resume) => match self.wake(process, resume).await? {
                Some(lines) => lines,
                None => return Ok(Leg::Over(End::of(Stop::Cancelled))),
            },
        };
        self.gauge.attach(process.pid(), &lines.qmp);
        control.inside.set(Ok(Inside::Machine(self.ears.console.clone()))).ok();
        let _listed = Listed::new(runtime, &task.base.name, &lines.qmp);
        let door = staged.nic.as_ref().and_then(|nic| nic.door(process.pid()));
        if is_resumed {
            control.set_door(door.clone());
        }
        loop {
            match self.watch(process, door.as_ref()).await {
                Seen::Order(order) if order.wish == Wish::Resume => {
                    order.answer(Err(SteerError::NotSuspended));
                }
                Seen::Order(order) => match self.save(process, &lines).await {
                    Ok(saved) => {
                        control.set_door(None);
                        *self.turn = None;
                        order.answer(Ok(()));
                        return Ok(Leg::Saved(saved));
                    }
                    Err(error) => order.answer(Err(error)),
                },
                Seen::End(stop, status) => {
                    return Ok(Leg::Over(self.end(process, &lines, stop, status).await));
                }
            }
        }
    }

    /// Waits for the machine's end, for a reason to end it or for an order, and reads its meters meanwhile. The door opens when
    /// the task begins.
    async fn watch(&mut self, process: &mut Process, door: Option<&Door>) -> Seen {
        let control = self.control;
        let Self { net, life, ears, gauge, orders, .. } = self;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_speaking = true;
        loop {
            let deadline = life.deadline();
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                word = ears.words.recv(), if is_speaking => match word {
                    Some(word) => {
                        if life.handle_word(word, Instant::now()) {
                            match life.phase() {
                                Phase::Running => {
                                    control.started_in.set(gauge.ran()).ok();
                                    control.set_door(door.cloned());
                                }
                                Phase::Done { .. } => return Seen::End(None, None),
                                Phase::Booting | Phase::Ended { .. } => {}
                            }
                        }
                    }
                    None => is_speaking = false,
                },
                status = process.wait() => {
                    ears.close();
                    // Its last words are still in the socket.
                    while let Ok(Some(word)) = tokio::time::timeout(DRAIN_TIMEOUT, ears.words.recv()).await {
                        life.handle_word(word, Instant::now());
                    }
                    return Seen::End(None, Some(status.unwrap_or_default()));
                }
                () = control.cancel.cancelled() => return Seen::End(Some(Stop::Cancelled), None),
                () = late => return Seen::End(Some(Stop::Late), None),
                () = offline(net) => return Seen::End(Some(Stop::Offline), None),
                Some(order) = orders.recv() => return Seen::Order(order),
                _ = ticks.tick() => gauge.read(control),
            }
        }
    }

    /// Ends QEMU, and the machine with it, unless that has happened.
    async fn end(
        &mut self,
        process: &mut Process,
        lines: &Lines,
        stop: Option<Stop>,
        status: Option<ExitStatus>,
    ) -> End {
        if matches!(self.life.phase(), Phase::Done { .. }) {
            self.ears.drain().await;
            self.gauge.ask_last(&lines.qmp).await;
        }
        self.gauge.hush();
        self.gauge.read(self.control);
        match (status, stop) {
            (Some(_), _) => {}
            (None, None) => quit(process, &lines.qmp).await,
            (None, Some(stop)) => {
                if stop == Stop::Cancelled && !self.task.grace.is_zero() {
                    power_down(process, &lines.qmp, self.task.grace).await;
                }
            }
        }
        self.gauge.read(self.control);
        let is_starved = self.gauge.oom_kills() > 0;
        let said = if status.is_some() { process.said().await } else { String::new() };
        End { stop, status, is_starved, said }
    }
}

/// Waits until the network that a machine was granted is gone.
pub(super) async fn offline(net: &mut Option<&mut Net>) {
    match net {
        Some(net) => net.lost().await,
        None => std::future::pending().await,
    }
}

/// Ends QEMU as it likes best; the caller kills it if that does not help.
pub(super) async fn quit(process: &mut Process, qmp: &Mutex<Qmp>) {
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
