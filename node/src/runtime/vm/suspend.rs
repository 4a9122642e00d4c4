//! A machine that is suspended: what it has in memory, devices and all, is in a file, and it has no process. Later another QEMU
//! goes on from there.
//!
//! ```text
//!  running ─ stop ─ migrate ─► QEMU ─ `save` ─► the node ─► `state` ─ quit ─► suspended
//!  suspended ─ new QEMU, same disks ─ `state` ─► the node ─ `load` ─► QEMU ─ cont ─► running
//! ```
//!
//! It is QEMU's own live migration, from one QEMU of this node to the next, with the file in between. The disks are no part of
//! it: the next QEMU has the same files, which nobody has touched. Neither are sockets, so that connections of the machine
//! are gone then, as after a long time without power. The network around it stays as it is.
//!
//! The node carries the bytes itself, both ways. So QEMU, which may do nothing in its directory, needs no file for it, and the
//! node stops where the task's disk ends: then the machine goes on as if nothing had been. The file is removed when the machine
//! runs again, and with the machine's directory on every other way out.
//!
//! A machine's clock stands still meanwhile. Afterwards the node tells it the time at its control port.
//!
//! **What a liar can do.** A QEMU that its guest has taken over can bring any bytes, as many as fit, or none for as long as it
//! is waited for. They are read by nobody but the next QEMU of the same task, which is held as the one before.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_buf};
use tokio::net::unix::pipe::{self, Sender};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit};
use tokio::time::{MissedTickBehavior, timeout};

use super::args::{LOADING, SAVING};
use super::drive::{Course, TICK, offline, quit};
use super::life::Phase;
use super::lines::{Lines, died};
use super::process::Process;
use super::qmp::{self, ANSWER_TIMEOUT, Qmp};
use super::stage::Staged;
use super::verdict::Stop;
use crate::runtime::steer::{Order, SteerError, Wish};
use crate::runtime::{HostFault, bounded};

/// Most machines of a node that are suspended at a time; of more a task is told so, and goes on. Together with those that run
/// they are fewer than there are users for them.
pub(super) const SUSPENDED_MAX: usize = 64;
/// How long saving or loading may take in any case, and how many bytes each further second has to bring.
const CARRY_MIN: Duration = Duration::from_secs(60);
const CARRY_BYTES_PER_S: u64 = 8 << 20;
/// Bytes that are carried at once.
const CHUNK_BYTES: usize = 1 << 20;
/// What QEMU may send in a second: all it can. Without that it takes turns with a guest that does not run.
const BANDWIDTH: u64 = 1 << 40;
/// Pause between two looks how far QEMU is.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// How long a machine waits for its turn among those that run; whoever resumes it is told then that there is no room.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a suspended machine has in memory. The file is removed when dropped.
#[derive(Debug)]
pub(super) struct Saved {
    file: State,
    bytes: u64,
    /// Its place among those that are suspended.
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct State(PathBuf);

impl Drop for State {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            let path = self.0.display();
            tracing::error!(%path, %error, "a machine's memory is left behind until the machine ends");
        }
    }
}

/// What a machine goes on from, and who is to hear of it.
#[derive(Debug)]
pub(super) struct Resume {
    saved: Saved,
    order: Order,
}

/// How the time came to its end that a machine was suspended.
pub(super) enum Rest {
    /// It is to go on.
    Resume(Resume),
    /// It has to end.
    Over(Stop),
}

impl Course<'_> {
    /// Suspends the machine, whose QEMU has ended then. A machine that cannot be suspended goes on.
    pub(super) async fn save(
        &mut self,
        process: &mut Process,
        lines: &Lines,
    ) -> Result<Saved, SteerError> {
        match self.life.phase() {
            Phase::Running => {}
            Phase::Booting => return Err(SteerError::NotYet),
            Phase::Ended { .. } | Phase::Done { .. } => return Err(SteerError::Ended),
        }
        let place = Arc::clone(&self.runtime.parked).try_acquire_owned();
        let place = place.map_err(|_| SteerError::TooMany { most: SUSPENDED_MAX })?;
        let free_bytes = self.task.base.disk_bytes.saturating_sub(self.staged.storage_bytes());
        self.life.handle_still(Instant::now());
        let saving =
            timeout(carry_timeout(free_bytes), carry_out(self.staged, &lines.qmp, free_bytes));
        let saved = match self.control.cancel.run_until_cancelled(saving).await {
            Some(Ok(saved)) => saved,
            Some(Err(_)) => Err(failed("it does not end")),
            None => Err(SteerError::Ended),
        };
        match saved {
            Ok((file, bytes)) => {
                self.gauge.ask_last(&lines.qmp).await;
                self.gauge.read(self.control);
                self.gauge.hush();
                quit(process, &lines.qmp).await;
                self.gauge.read(self.control);
                self.gauge.detach();
                self.ears.console.rest().await;
                tracing::debug!(task = self.task.base.name, bytes, "a machine is suspended");
                Ok(Saved { file, bytes, _place: place })
            }
            Err(error) => {
                go_on(&lines.qmp).await;
                self.life.handle_going(Instant::now());
                Err(error)
            }
        }
    }

    /// Waits until the machine is to go on, or has to end.
    pub(super) async fn rest(&mut self, saved: Saved) -> Rest {
        let (control, runtime) = (self.control, self.runtime);
        let Self { net, gauge, orders, turn, .. } = self;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = control.cancel.cancelled() => return Rest::Over(Stop::Cancelled),
                () = offline(net) => return Rest::Over(Stop::Offline),
                Some(order) = orders.recv() => {
                    if order.wish == Wish::Suspend {
                        order.answer(Err(SteerError::Suspended));
                        continue;
                    }
                    let place = Arc::clone(&runtime.workers).acquire_owned();
                    match timeout(TURN_TIMEOUT, place).await {
                        Ok(Ok(place)) => {
                            **turn = Some(place);
                            return Rest::Resume(Resume { saved, order });
                        }
                        _ => order.answer(Err(SteerError::NoRoom)),
                    }
                }
                _ = ticks.tick() => gauge.read(control),
            }
        }
    }

    /// Lets a new QEMU go on with the machine. `None` when the task was cancelled meanwhile.
    pub(super) async fn wake(
        &mut self,
        process: &mut Process,
        resume: Resume,
    ) -> Result<Option<Lines>, HostFault> {
        let Resume { saved, order } = resume;
        let cancel = self.control.cancel.clone();
        match cancel.run_until_cancelled(self.load(process, &saved)).await {
            Some(Ok(lines)) => {
                self.life.handle_going(Instant::now());
                self.gauge.resume();
                order.answer(Ok(()));
                Ok(Some(lines))
            }
            Some(Err(fault)) => {
                let detail = bounded(fault.to_string());
                order.answer(Err(SteerError::Failed { action: "resume", detail }));
                Err(fault)
            }
            None => Ok(None),
        }
    }

    async fn load(&mut self, process: &mut Process, saved: &Saved) -> Result<Lines, HostFault> {
        let (from, pipe) = (saved.file.0.clone(), self.staged.dir.path().join(LOADING));
        let feeding = async {
            carry_in(from, pipe).await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            lines = self.receive(process, saved.bytes) => lines,
            never = feeding => match never {},
        }
    }

    /// Waits until QEMU has the machine, and lets it go on.
    async fn receive(&mut self, process: &mut Process, bytes: u64) -> Result<Lines, HostFault> {
        let mut lines = self.ears.listen(self.staged, process).await?;
        let most = carry_timeout(bytes);
        let loaded = tokio::select! {
            biased;
            loaded = timeout(most, loaded(&lines.qmp)) => {
                loaded.unwrap_or_else(|_| Err(format!("not done within {} s", most.as_secs())))
            }
            _ = process.wait() => Err("qemu has ended".to_owned()),
        };
        let goes_on = match loaded {
            Ok(()) => {
                let answer = lines.qmp.lock().await.execute("cont").await;
                answer.map(drop).map_err(|error| error.to_string())
            }
            Err(detail) => Err(detail),
        };
        if let Err(detail) = goes_on {
            return Err(died("resume the machine", process, detail).await);
        }
        // A clock before 1970 is not worth telling.
        if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
            lines.tell(&format!("resumed {}\n", now.as_secs())).await;
        }
        Ok(lines)
    }
}

/// How long so many bytes may take.
fn carry_timeout(bytes: u64) -> Duration {
    CARRY_MIN + Duration::from_secs(bytes / CARRY_BYTES_PER_S)
}

fn failed(detail: impl ToString) -> SteerError {
    SteerError::Failed { action: "suspend", detail: bounded(detail.to_string()) }
}

/// Stops the machine and writes what it has in memory into a file of at most so many bytes.
async fn carry_out(
    staged: &Staged,
    qmp: &Mutex<Qmp>,
    free_bytes: u64,
) -> Result<(State, u64), SteerError> {
    let (path, file) = staged.make_state().map_err(failed)?;
    let state = State(path);
    let listener = staged.saving.try_clone().and_then(UnixListener::from_std).map_err(failed)?;
    let ask = async |command: &str, arguments: Value| {
        qmp.lock().await.execute_with(command, &arguments).await.map(drop).map_err(failed)
    };
    ask("stop", json!({})).await?;
    ask("migrate-set-parameters", json!({"max-bandwidth": BANDWIDTH})).await?;
    ask("migrate", json!({"uri": format!("unix:{SAVING}")})).await?;
    let come = timeout(ANSWER_TIMEOUT, listener.accept()).await;
    let (from, _) = come.map_err(|_| failed("qemu brings nothing"))?.map_err(failed)?;
    let mut to = tokio::fs::File::from_std(file);
    let bytes = carry(from, &mut to, free_bytes).await.map_err(failed)?;
    let bytes = bytes.ok_or(SteerError::TooLarge { free_bytes })?;
    settled(qmp).await.map_err(failed)?;
    Ok((state, bytes))
}

/// Writes what comes into a file; `None` when it is more than there may be.
async fn carry(
    from: UnixStream,
    to: &mut tokio::fs::File,
    bytes_max: u64,
) -> io::Result<Option<u64>> {
    let from = from.take(bytes_max.saturating_add(1));
    let bytes = copy_buf(&mut BufReader::with_capacity(CHUNK_BYTES, from), to).await?;
    to.flush().await?;
    Ok(Some(bytes).filter(|bytes| *bytes <= bytes_max))
}

/// Waits until QEMU says that it has brought everything, or why not.
async fn settled(qmp: &Mutex<Qmp>) -> Result<(), String> {
    let looking = async {
        loop {
            let answer = qmp.lock().await.execute("query-migrate").await;
            if let Some(end) = qmp::saved(&answer.map_err(|error| error.to_string())?) {
                return end;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    };
    let late = || "qemu does not say that it has brought all".to_owned();
    timeout(ANSWER_TIMEOUT, looking).await.unwrap_or_else(|_| Err(late()))
}

/// Lets a machine go on that cannot be suspended. One that even then does not is ended by its time limit.
async fn go_on(qmp: &Mutex<Qmp>) {
    // There may be nothing to give up; QEMU answers all the same.
    let _ = qmp.lock().await.execute("migrate_cancel").await;
    // Until then a machine must not go on: QEMU would stop it again. How it ends was told before.
    let _ = settled(qmp).await;
    let going_on = async {
        while qmp.lock().await.execute("cont").await.is_err() {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    };
    if timeout(ANSWER_TIMEOUT, going_on).await.is_err() {
        tracing::warn!("a machine that could not be suspended does not go on");
    }
}

/// Waits until QEMU has the machine whole.
async fn loaded(qmp: &Mutex<Qmp>) -> Result<(), String> {
    loop {
        let answer = qmp.lock().await.execute("query-status").await;
        match qmp::run_state(&answer.map_err(|error| error.to_string())?) {
            "inmigrate" | "prelaunch" => tokio::time::sleep(LOOK_PAUSE).await,
            "paused" => return Ok(()),
            other => {
                return Err(format!("qemu says that the machine is `{}`", other.escape_debug()));
            }
        }
    }
}

/// Lets QEMU read a file through its pipe. What goes wrong with that QEMU finds out.
async fn carry_in(from: PathBuf, pipe: PathBuf) {
    let carried = async {
        let file = tokio::fs::File::from_std(File::open(from)?);
        let mut to = reader(&pipe).await?;
        copy_buf(&mut BufReader::with_capacity(CHUNK_BYTES, file), &mut to).await
    };
    if let Err(error) = carried.await {
        tracing::debug!(%error, "qemu did not take all of a machine's memory");
    }
}

/// The pipe, once somebody reads it.
async fn reader(pipe: &Path) -> io::Result<Sender> {
    loop {
        match pipe::OpenOptions::new().open_sender(pipe) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
            opened => return opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, mkfifoat};

    #[tokio::test]
    async fn memory_is_taken_up_to_what_is_left_of_the_disk_and_not_a_byte_more() {
        let dir = tempfile::tempdir().unwrap();
        for (n, most, expected) in
            [(10, 10, Some(10)), (0, 0, Some(0)), (11, 10, None), (1, 0, None)]
        {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let writing = tokio::spawn(async move {
                // Nobody may read all of it.
                drop(theirs.write_all(&vec![7; n]).await);
            });
            let path = dir.path().join(format!("state-{n}-{most}"));
            let mut file = tokio::fs::File::create(&path).await.unwrap();
            assert_eq!(carry(ours, &mut file, most).await.unwrap(), expected, "{n} of {most}");
            writing.await.unwrap();
            assert!(fs::metadata(&path).unwrap().len() <= most + 1);
        }
    }

    #[tokio::test]
    async fn a_reader_that_comes_late_gets_everything_and_one_that_leaves_holds_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let (state, pipe) = (dir.path().join("state"), dir.path().join("load"));
        let bytes: Vec<u8> = (0..3_u32 << 20).map(|n| n.to_le_bytes()[n as usize % 4]).collect();
        fs::write(&state, &bytes).unwrap();
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        let feeding = tokio::spawn(carry_in(state.clone(), pipe.clone()));
        let from = pipe.clone();
        let read = tokio::task::spawn_blocking(move || fs::read(from)).await.unwrap().unwrap();
        feeding.await.unwrap();
        assert_eq!(read, bytes);
        let feeding = tokio::spawn(carry_in(state, pipe.clone()));
        tokio::task::spawn_blocking(move || drop(File::open(pipe))).await.unwrap();
        feeding.await.unwrap();
    }

    #[test]
    fn a_file_with_memory_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::write(&path, "x").unwrap();
        drop(State(path.clone()));
        assert!(!path.exists());
    }
}
