//! One look at the cluster for all jobs: one `squeue` and, more rarely, one `sstat`, however many jobs there are.
//!
//! The controller serves all users of the site, so it is asked seldom: every [`POLL`], and every [`POLL_SOON`] only while
//! some job is about to end. What happens in a job's own files is seen there, without asking.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::answer::{self, End, Lost, QUEUE_FORMAT, State, USAGE_FORMAT, Usage};
use super::tools::{ToolError, Tools};

/// Time between two looks while some job is about to end, and the least time between any two.
const POLL_SOON: Duration = Duration::from_millis(500);
/// Time between two looks else.
const POLL: Duration = Duration::from_secs(5);
/// Time between two readings of what running jobs have used. Each asks the machine of every job.
const METER: Duration = Duration::from_secs(5);
/// Looks without a job after which the cluster has forgotten it.
const ABSENCES_MAX: u32 = 3;

/// What a job has used in all, by the last reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// How many readings there were that the job had asked for.
    pub(super) n_asked: u64,
    /// Whether the last time brought an answer.
    pub(super) is_fresh: bool,
    pub(super) used: Usage,
}

/// The steps of one job. Those that have ended are no longer reported, so what they had used is kept.
#[derive(Debug, Default)]
struct Steps {
    live: BTreeMap<String, Usage>,
    gone: Usage,
}

impl Steps {
    /// Takes a report of the job's steps that live.
    fn take(&mut self, report: BTreeMap<String, Usage>) -> Usage {
        let before = std::mem::replace(&mut self.live, report);
        for (name, used) in before {
            match self.live.get_mut(&name) {
                Some(now) => now.cpu_us = now.cpu_us.max(used.cpu_us),
                // It holds no memory any more.
                None => {
                    let used = Usage { memory_bytes: 0, memory_peak_bytes: 0, ..used };
                    self.gone = sum(self.gone, used);
                }
            }
        }
        self.live.values().copied().fold(self.gone, sum)
    }
}

fn sum(a: Usage, b: Usage) -> Usage {
    Usage {
        cpu_us: a.cpu_us.saturating_add(b.cpu_us),
        cpu_place_us: a.cpu_place_us.saturating_add(b.cpu_place_us),
        memory_bytes: a.memory_bytes.saturating_add(b.memory_bytes),
        memory_peak_bytes: a.memory_peak_bytes.saturating_add(b.memory_peak_bytes),
        io_bytes: a.io_bytes.saturating_add(b.io_bytes),
    }
}

#[derive(Debug)]
struct Job {
    state: watch::Sender<Option<State>>,
    counted: watch::Sender<Counted>,
    steps: Steps,
    n_absences: u32,
    /// Something is about to happen to it.
    is_urgent: bool,
    wants_reading: bool,
    /// It wanted the reading that is being made.
    is_asked: bool,
}

/// The jobs that are looked at.
#[derive(Debug)]
pub(super) struct Watch {
    tools: Arc<Tools>,
    is_metered: bool,
    jobs: Mutex<BTreeMap<u64, Job>>,
    nudge: Notify,
}

/// One job that is looked at, until this is dropped.
#[derive(Debug)]
pub(super) struct Watched {
    id: u64,
    watch: Arc<Watch>,
    pub(super) state: watch::Receiver<Option<State>>,
    pub(super) counted: watch::Receiver<Counted>,
}

impl Watched {
    /// Asks to look soon, and again soon until the job has ended.
    pub(super) fn hurry(&self) {
        self.watch.change(self.id, |job| job.is_urgent = true);
        self.watch.nudge.notify_one();
    }

    /// Asks for a reading; the next one that [`Self::counted`] shows is not older.
    pub(super) fn ask_reading(&self) {
        self.watch.change(self.id, |job| job.wants_reading = true);
        self.hurry();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.jobs().remove(&self.id);
    }
}

impl Watch {
    /// Begins to look, in a task of its own that ends when nobody holds the watch.
    pub(super) fn start(tools: Arc<Tools>, is_metered: bool) -> Arc<Self> {
        let (jobs, nudge) = (Mutex::default(), Notify::new());
        let watch = Arc::new(Self { tools, is_metered, jobs, nudge });
        tokio::spawn(look(Arc::downgrade(&watch)));
        watch
    }

    pub(super) fn add(self: &Arc<Self>, id: u64) -> Watched {
        let (state, counted) = (watch::Sender::new(None), watch::Sender::new(Counted::default()));
        let watched = Watched {
            id,
            watch: Arc::clone(self),
            state: state.subscribe(),
            counted: counted.subscribe(),
        };
        let job = Job {
            state,
            counted,
            steps: Steps::default(),
            n_absences: 0,
            is_urgent: false,
            wants_reading: false,
            is_asked: false,
        };
        self.jobs().insert(id, job);
        watched
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeMap<u64, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.jobs().get_mut(&id) {
            change(job);
        }
    }

    /// The jobs to read now: those that ask for it, or all that run when `is_due`.
    fn to_read(&self, is_due: bool) -> Vec<u64> {
        let mut jobs = self.jobs();
        let wanted = jobs.iter_mut().filter_map(|(id, job)| {
            let is_running = *job.state.borrow() == Some(State::Running);
            job.is_asked |= std::mem::take(&mut job.wants_reading);
            (job.is_asked || (is_due && is_running)).then_some(*id)
        });
        wanted.collect()
    }

    /// Reads what jobs have used.
    pub(super) async fn read(&self, ids: &[u64]) {
        if ids.is_empty() || !self.is_metered {
            return self.counted(ids, &mut BTreeMap::new());
        }
        let args =
            ["--allsteps", "--noheader", "--parsable2", "--noconvert", "--format", USAGE_FORMAT];
        let jobs = format!("--jobs={}", list(ids));
        let answer = self.tools.run("sstat", &[&args[..], &[jobs.as_str()]].concat(), "").await;
        let mut found = match &answer {
            Ok(text) => answer::usage(text),
            Err(error) => {
                // It also fails when the only job asked for has just ended.
                tracing::debug!(%error, "no reading of jobs");
                BTreeMap::new()
            }
        };
        self.counted(ids, &mut found);
    }

    fn counted(&self, ids: &[u64], found: &mut BTreeMap<u64, BTreeMap<String, Usage>>) {
        let mut jobs = self.jobs();
        for id in ids {
            let Some(job) = jobs.get_mut(id) else { continue };
            let used = found.remove(id).map(|report| job.steps.take(report));
            let n_asked = u64::from(std::mem::take(&mut job.is_asked));
            job.counted.send_modify(|counted| {
                counted.n_asked += n_asked;
                counted.is_fresh = used.is_some();
                counted.used = used.unwrap_or(counted.used);
            });
        }
    }

    async fn look(&self) {
        let ids: Vec<u64> = self.jobs().keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let format = format!("--Format={QUEUE_FORMAT}");
        let jobs = format!("--jobs={}", list(&ids));
        let answer = self
            .tools
            .run("squeue", &["--noheader", "--states=all", format.as_str(), jobs.as_str()], "")
            .await;
        let rows = match answer {
            Ok(text) => answer::queue(&text),
            // So it says of a single one that it does not know; of several it leaves those out.
            Err(ToolError::Failed { complaint, .. }) if complaint.contains("Invalid job id") => {
                Vec::new()
            }
            Err(error) => {
                tracing::warn!(%error, "the cluster's queue cannot be read; jobs are left as they are");
                return;
            }
        };
        self.seen(&ids, rows);
    }

    /// Takes one answer of the queue about the jobs that were asked for.
    fn seen(&self, ids: &[u64], rows: Vec<answer::Row>) {
        let mut states: BTreeMap<u64, State> =
            rows.into_iter().map(|row| (row.id, row.state)).collect();
        let mut jobs = self.jobs();
        for id in ids {
            let Some(job) = jobs.get_mut(id) else { continue };
            let state = states.remove(id);
            job.n_absences = if state.is_some() { 0 } else { job.n_absences + 1 };
            let forgotten = (job.n_absences >= ABSENCES_MAX)
                .then_some(State::Ended(End::Lost(Lost::Forgotten)));
            let Some(state) = state.or(forgotten) else { continue };
            // A job that is being cleared away ends within moments.
            job.is_urgent |= state == State::Completing;
            job.state.send_if_modified(|old| {
                let is_new = old.as_ref() != Some(&state);
                *old = Some(state);
                is_new
            });
        }
    }

    fn is_urgent(&self) -> bool {
        self.jobs().values().any(|job| job.is_urgent)
    }

    /// Waits until it is time to look again.
    async fn pause(&self) {
        tokio::time::sleep(POLL_SOON).await;
        if !self.is_urgent() {
            let _nudged = tokio::time::timeout(POLL - POLL_SOON, self.nudge.notified()).await;
        }
    }
}

async fn look(watch: Weak<Watch>) {
    let mut metered = Instant::now();
    while let Some(watch) = watch.upgrade() {
        watch.pause().await;
        let is_due = metered.elapsed() >= METER;
        if is_due {
            metered = Instant::now();
        }
        // Before the queue: what has ended is no longer counted.
        watch.read(&watch.to_read(is_due)).await;
        watch.look().await;
    }
}

fn list(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(cpu_us: u64) -> Usage {
        Usage { cpu_us, ..Usage::default() }
    }

    fn report(steps: &[(&str, u64)]) -> BTreeMap<String, Usage> {
        steps.iter().map(|(name, cpu_us)| ((*name).to_owned(), used(*cpu_us))).collect()
    }

    #[test]
    fn what_ended_steps_had_used_is_kept() {
        let mut steps = Steps::default();
        assert_eq!(steps.take(report(&[("batch", 5)])).cpu_us, 5);
        assert_eq!(steps.take(report(&[("batch", 6), ("0", 10)])).cpu_us, 16);
        assert_eq!(steps.take(report(&[("batch", 7)])).cpu_us, 17);
        assert_eq!(steps.take(report(&[("batch", 6), ("1", 1)])).cpu_us, 18, "counters only grow");
    }

    fn idle() -> Arc<Watch> {
        let tools = Arc::new(Tools::new(None, None));
        Arc::new(Watch { tools, is_metered: true, jobs: Mutex::default(), nudge: Notify::new() })
    }

    #[test]
    fn one_answer_serves_all_jobs_and_a_missing_one_is_forgotten_after_some_looks() {
        let watch = idle();
        let (a, b) = (watch.add(1), watch.add(2));
        for n in 1..=ABSENCES_MAX {
            watch.seen(&[1, 2], answer::queue("1|RUNNING|0|None|\n77|FAILED|0|None|\n"));
            assert_eq!(*a.state.borrow(), Some(State::Running));
            let forgotten = (n == ABSENCES_MAX).then_some(State::Ended(End::Lost(Lost::Forgotten)));
            assert_eq!(*b.state.borrow(), forgotten, "look {n}");
        }
        drop(b);
        assert_eq!(watch.jobs().keys().copied().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn only_running_jobs_are_read_unless_one_asks() {
        let watch = idle();
        let (a, b, c) = (watch.add(1), watch.add(2), watch.add(3));
        watch.seen(&[1, 2], answer::queue("1|RUNNING|0|None|\n2|PENDING|0|Priority|\n"));
        assert_eq!(watch.to_read(true), [1]);
        assert!(watch.to_read(false).is_empty());
        b.ask_reading();
        assert!(watch.is_urgent());
        assert_eq!(watch.to_read(false), [2]);
        watch.counted(&[1, 2], &mut BTreeMap::from([(1, report(&[("batch", 9)]))]));
        assert_eq!(*a.counted.borrow(), Counted { n_asked: 0, is_fresh: true, used: used(9) });
        assert_eq!(*b.counted.borrow(), Counted { n_asked: 1, is_fresh: false, used: used(0) });
        assert_eq!(c.counted.borrow().n_asked, 0);
    }
}
