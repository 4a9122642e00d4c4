//! What Slurm answers, read into facts. Every function here is pure; the tests hold answers of a real cluster.
//!
//! Tables are asked for field by field with `|` between (`squeue --Format=State:|`, `--parsable`), which reads the same in
//! every release since 2017. JSON does not: its layout follows the release.

use std::collections::BTreeMap;
use std::fmt;

use crate::runtime::Exit;

/// The fields of one job in `squeue --Format`. None of them is a text that a user chooses.
pub(super) const QUEUE_FORMAT: &str = "JobID:|,State:|,exit_code:|,Reason:|";
/// The fields by which leftovers are found. Names and comments are texts of users, so they come last.
pub(super) const OWNED_FORMAT: &str = "JobID:|,Name:|,Comment:|";
/// The fields of one step in `sstat`: sums over all its tasks.
pub(super) const USAGE_FORMAT: &str = "JobID,TRESUsageInTot,TRESUsageOutTot,TRESUsageInMax";
/// The fields of one machine in `sinfo`.
pub(super) const MACHINE_FORMAT: &str = "NodeList:|,CPUs:|,Memory:|";

const MIB: u64 = 1 << 20;
/// The exit code of a process that SIGKILL ended.
const KILLED: i32 = 128 + 9;
/// The exit code of a process that SIGXFSZ ended: it wrote a file beyond the limit.
const FILE_TOO_LARGE: i32 = 128 + 25;

/// Where a job is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It waits; why, in Slurm's word.
    Pending(String),
    /// It has processors. Also while it is suspended.
    Running,
    /// It has ended, and its processes are being cleared away.
    Completing,
    /// It has ended with all that it started.
    Ended(End),
}

/// How a job ended, in Slurm's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its script ended, with this code.
    Code(i32),
    Timeout,
    OutOfMemory,
    Lost(Lost),
}

/// Why a cluster ended a job that had not ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Lost {
    /// Somebody else cancelled it: an operator of the cluster, or its user.
    Cancelled,
    /// A job of higher rank took its place.
    Preempted,
    /// Its machine failed or did not come up.
    NodeFailed,
    /// It was put back into the queue or handed to another cluster, which these jobs do not allow.
    Requeued,
    /// The cluster no longer knows it.
    Forgotten,
    /// It is in a state that this version does not know.
    Unknown,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "it was cancelled by somebody else",
            Self::Preempted => "it was preempted by a job of higher rank",
            Self::NodeFailed => "its machine failed",
            Self::Requeued => "it was put back into the queue",
            Self::Forgotten => "it is no longer known",
            Self::Unknown => "it is in a state that this version does not know",
        })
    }
}

/// One job of `squeue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: u64,
    pub(super) state: State,
}

/// The number of a new job, as `sbatch --parsable` says it: alone, or with the cluster's name.
pub(super) fn submitted(text: &str) -> Option<u64> {
    text.lines().last()?.split(';').next()?.trim().parse().ok()
}

/// The jobs of `squeue` in [`QUEUE_FORMAT`]. Lines that are none are passed over.
pub(super) fn queue(text: &str) -> Vec<Row> {
    let row = |line: &str| {
        let mut fields = line.split('|').map(str::trim);
        let id = fields.next()?.parse().ok()?;
        let (state, code) = (fields.next()?, fields.next()?);
        let reason = fields.next().unwrap_or_default();
        Some(Row { id, state: state_of(state, code, reason) })
    };
    text.lines().filter_map(row).collect()
}

fn state_of(state: &str, code: &str, reason: &str) -> State {
    // Some releases add more to the word, such as `CANCELLED by 0` or `FAILED,REQUEUED`.
    let word = state.split([' ', '+', ',']).next().unwrap_or_default();
    match word {
        "PENDING" | "CONFIGURING" => State::Pending(reason.to_owned()),
        "RUNNING" | "SUSPENDED" | "STOPPED" | "SIGNALING" | "RESIZING" | "STAGE_OUT" => {
            State::Running
        }
        "COMPLETING" => State::Completing,
        "COMPLETED" | "FAILED" => {
            State::Ended(code_of(code).map_or(End::Lost(Lost::Unknown), End::Code))
        }
        "TIMEOUT" | "DEADLINE" => State::Ended(End::Timeout),
        "OUT_OF_MEMORY" => State::Ended(End::OutOfMemory),
        "CANCELLED" => State::Ended(End::Lost(Lost::Cancelled)),
        "PREEMPTED" => State::Ended(End::Lost(Lost::Preempted)),
        "NODE_FAIL" | "BOOT_FAIL" | "LAUNCH_FAILED" | "RECONFIG_FAIL" => {
            State::Ended(End::Lost(Lost::NodeFailed))
        }
        "REVOKED" | "SPECIAL_EXIT" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED"
        | "RESV_DEL_HOLD" => State::Ended(End::Lost(Lost::Requeued)),
        _ => State::Ended(End::Lost(Lost::Unknown)),
    }
}

/// A job's exit code; 128 and the signal's number when a signal ended it. Slurm writes the status that `wait` gives, or
/// `code:signal`.
fn code_of(text: &str) -> Option<i32> {
    let (code, signal): (i32, i32) = match text.split_once(':') {
        Some((code, signal)) => (code.parse().ok()?, signal.parse().ok()?),
        None => {
            let status: i32 = text.parse().ok()?;
            ((status >> 8) & 0xff, status & 0x7f)
        }
    };
    Some(if signal == 0 { code } else { signal.saturating_add(128) })
}

/// Why a job will wait for ever, if this is why it waits.
pub(super) fn is_hopeless(reason: &str) -> bool {
    const HOPELESS: [&str; 8] = [
        "BadConstraints",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "InvalidAccount",
        "InvalidQOS",
        "AccountNotAllowed",
        "QOSNotAllowed",
        "DependencyNeverSatisfied",
    ];
    HOPELESS.contains(&reason)
}

/// A job found by its name or comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) comment: String,
}

/// The jobs of `squeue` in [`OWNED_FORMAT`].
pub(super) fn owned(text: &str) -> Vec<Owned> {
    let row = |line: &str| {
        let mut fields = line.split('|');
        let id = fields.next()?.trim().parse().ok()?;
        let (name, comment) = (fields.next()?.to_owned(), fields.next()?.to_owned());
        Some(Owned { id, name, comment })
    };
    text.lines().filter_map(row).collect()
}

/// What one step of a job has used, as its `slurmstepd` counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Processor time, cut to what is printed, in microseconds.
    pub(super) cpu_us: u64,
    /// By how much it may be more: the last printed place, in microseconds.
    pub(super) cpu_place_us: u64,
    /// Memory when it was last looked at, in bytes.
    pub(super) memory_bytes: u64,
    /// Most memory of one of its tasks that was seen, in bytes.
    pub(super) memory_peak_bytes: u64,
    /// Bytes read and written by processes that lived when they were looked at.
    pub(super) io_bytes: u64,
}

/// The steps of `sstat --noconvert` in [`USAGE_FORMAT`], by job and by name.
pub(super) fn usage(text: &str) -> BTreeMap<u64, BTreeMap<String, Usage>> {
    let mut all: BTreeMap<u64, BTreeMap<String, Usage>> = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split('|');
        let Some((id, step)) = fields.next().and_then(|step| step.split_once('.')) else {
            continue;
        };
        let Ok(id) = id.trim().parse() else { continue };
        let (into, out) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let (cpu_us, cpu_place_us) = tres(into, "cpu").and_then(time_us).unwrap_or_default();
        let peak = tres(fields.next().unwrap_or_default(), "mem").and_then(bytes).unwrap_or(0);
        let io = [tres(into, "fs/disk"), tres(out, "fs/disk")];
        let used = Usage {
            cpu_us,
            cpu_place_us,
            memory_bytes: tres(into, "mem").and_then(bytes).unwrap_or(0),
            memory_peak_bytes: peak,
            io_bytes: io.into_iter().flatten().filter_map(bytes).fold(0, u64::saturating_add),
        };
        all.entry(id).or_default().insert(step.to_owned(), used);
    }
    all
}

/// One of `cpu=00:00:02,mem=112K`.
fn tres<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(',').find_map(|one| one.strip_prefix(name)?.strip_prefix('='))
}

/// `[days-]hours:minutes:seconds[.fraction]` in microseconds, and the last printed place.
fn time_us(text: &str) -> Option<(u64, u64)> {
    let (days, rest) = text.split_once('-').unwrap_or(("0", text));
    let (whole, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let mut seconds: u64 = 0;
    for part in whole.split(':') {
        seconds = seconds.checked_mul(60)?.checked_add(part.parse().ok()?)?;
    }
    seconds = seconds.checked_add(days.parse::<u64>().ok()?.checked_mul(86_400)?)?;
    let n_digits = u32::try_from(fraction.len()).ok().filter(|n| *n <= 6)?;
    let place = 10_u64.pow(6 - n_digits);
    let below = if n_digits == 0 { 0 } else { fraction.parse::<u64>().ok()?.checked_mul(place)? };
    Some((seconds.checked_mul(1_000_000)?.checked_add(below)?, place))
}

/// A number of bytes, with or without one of Slurm's units.
fn bytes(text: &str) -> Option<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let shift = match unit {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    let n_digits = u32::try_from(fraction.len()).ok().filter(|n| *n <= 6)?;
    let below = u128::from(fraction.parse::<u64>().ok()?) << shift;
    whole.checked_add(u64::try_from(below / 10_u128.pow(n_digits)).ok()?)
}

/// The times of a shell's `times`: its own, and those of the children that it waited for. The children's, in microseconds.
pub(super) fn children_us(text: &str) -> Option<u64> {
    let line = text.lines().nth(1)?;
    let mut sum: u64 = 0;
    for one in line.split_whitespace() {
        let (minutes, seconds) = one.strip_suffix('s')?.split_once('m')?;
        let (us, _) = time_us(&format!("{minutes}:{seconds}"))?;
        sum = sum.checked_add(us)?;
    }
    Some(sum)
}

/// The settings of `scontrol show config`: `Name = value` in each line.
pub(super) fn settings(text: &str) -> BTreeMap<String, String> {
    let setting = |line: &str| {
        let (name, value) = line.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    };
    text.lines().filter_map(setting).collect()
}

/// What the machines of `sinfo --Node` in [`MACHINE_FORMAT`] have; one stands there once for each of its partitions.
pub(super) fn machines(text: &str) -> BTreeMap<String, (u64, u64)> {
    let machine = |line: &str| {
        let mut fields = line.split('|').map(str::trim);
        let name = fields.next()?.to_owned();
        let (cpus, mib) =
            (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
        Some((name, (cpus, mib.saturating_mul(MIB))))
    };
    text.lines().filter_map(machine).collect()
}

/// User and group of `getent passwd NAME`.
pub(super) fn user(text: &str) -> Option<(u32, u32)> {
    let mut fields = text.lines().next()?.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Whether Slurm's remarks on a job say that it was killed for its memory. A cluster without cgroups says so nowhere else; a
/// job that writes this itself is only believed when it was killed.
pub(super) fn is_over_memory(log: &str) -> bool {
    log.contains("exceeded memory limit") || log.contains("Exceeded job memory limit")
}

/// Why the node ended a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    Timeout,
    DiskQuota,
    Memory,
    /// Its program had said that it ended, but the job stayed.
    Stayed,
}

/// All that tells how a task ended that had been started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) job: u64,
    pub(super) stop: Option<Stop>,
    pub(super) end: End,
    /// What the script said of its program before it ended: the program's word, as both are one user.
    pub(super) told: Option<i32>,
    pub(super) is_over_disk: bool,
    pub(super) is_over_memory: bool,
}

/// How a task ended.
pub(super) fn exit(facts: &Facts) -> Exit {
    match facts.stop {
        Some(Stop::Cancelled) => return Exit::Cancelled,
        Some(Stop::Timeout) => return Exit::Timeout,
        Some(Stop::DiskQuota) => return Exit::DiskQuota,
        Some(Stop::Memory) => return Exit::OutOfMemory,
        Some(Stop::Stayed) | None => {}
    }
    let code = match facts.end {
        End::Code(code) if facts.stop.is_none() => Some(code),
        _ => facts.told,
    };
    if facts.is_over_disk || code == Some(FILE_TOO_LARGE) {
        return Exit::DiskQuota;
    }
    match (&facts.end, facts.told) {
        (_, Some(code)) if facts.stop == Some(Stop::Stayed) => Exit::Code(code),
        (End::Timeout, _) => Exit::Timeout,
        // A task that fails after it was refused memory fails for that reason; one that does not fail has borne it.
        (End::OutOfMemory, Some(0)) => Exit::Code(0),
        (End::OutOfMemory, _) => Exit::OutOfMemory,
        (End::Code(KILLED), _) if facts.is_over_memory => Exit::OutOfMemory,
        (End::Code(code), _) => Exit::Code(*code),
        // The record is gone, but the program had ended by itself.
        (End::Lost(Lost::Forgotten), Some(code)) => Exit::Code(code),
        (End::Lost(why), _) => {
            Exit::Host(crate::runtime::HostFault::Job { job: facts.job, why: *why })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::HostFault;

    /// Of Slurm 22.05.8.
    const QUEUE: &str = "\
5|COMPLETED|0|None|
1|FAILED|1792|NonZeroExitCode|
2|FAILED|9|JobLaunchFailure|
3|FAILED|35072|NonZeroExitCode|
4|OUT_OF_MEMORY|253|OutOfMemory|
9|PENDING|0|BeginTime|
6|RUNNING|0|None|
8|COMPLETING|0|None|
13|CANCELLED|15|None|
";

    #[test]
    fn the_states_of_a_real_queue_are_understood() {
        let ended = |code| State::Ended(End::Code(code));
        let expected = [
            (5, ended(0)),
            (1, ended(7)),
            (2, ended(137)),
            (3, ended(137)),
            (4, State::Ended(End::OutOfMemory)),
            (9, State::Pending("BeginTime".to_owned())),
            (6, State::Running),
            (8, State::Completing),
            (13, State::Ended(End::Lost(Lost::Cancelled))),
        ];
        assert_eq!(queue(QUEUE), expected.map(|(id, state)| Row { id, state }));
    }

    #[test]
    fn every_state_of_the_manual_is_mapped() {
        let lost = |why| State::Ended(End::Lost(why));
        for (word, state) in [
            ("BOOT_FAIL", lost(Lost::NodeFailed)),
            ("NODE_FAIL", lost(Lost::NodeFailed)),
            ("PREEMPTED", lost(Lost::Preempted)),
            ("REVOKED", lost(Lost::Requeued)),
            ("REQUEUE_HOLD", lost(Lost::Requeued)),
            ("CANCELLED by 0", lost(Lost::Cancelled)),
            ("DEADLINE", State::Ended(End::Timeout)),
            ("TIMEOUT", State::Ended(End::Timeout)),
            ("SUSPENDED", State::Running),
            ("STOPPED", State::Running),
            ("FAILED", State::Ended(End::Code(3))),
            ("", lost(Lost::Unknown)),
            ("NEW_WORD", lost(Lost::Unknown)),
        ] {
            assert_eq!(state_of(word, "3:0", ""), state, "{word}");
        }
    }

    #[test]
    fn codes_are_read_in_both_forms() {
        for (text, code) in [
            ("0", Some(0)),
            ("1792", Some(7)),
            ("9", Some(137)),
            ("139", Some(139)),
            ("7:0", Some(7)),
        ] {
            assert_eq!(code_of(text), code, "{text}");
        }
        assert_eq!(code_of("0:11"), Some(139));
        for text in ["", "x", "1:", ":", "99999999999"] {
            assert_eq!(code_of(text), None, "{text}");
        }
    }

    #[test]
    fn the_number_of_a_new_job_is_found() {
        assert_eq!(submitted("17\n"), Some(17));
        assert_eq!(submitted("17;cluster\n"), Some(17));
        assert_eq!(submitted("sbatch: a remark\n18\n"), Some(18));
        assert_eq!(submitted(""), None);
        assert_eq!(submitted("Submitted batch job x"), None);
    }

    #[test]
    fn names_and_comments_of_jobs_are_read() {
        let text = "15|opencloud.x.a-very-long-name-that-is-more-than-twenty-characters|opencloud:x|\n16|n|(null)|\nbad\n";
        let found = owned(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].id, found[0].comment.as_str()), (15, "opencloud:x"));
        assert_eq!(found[1].name, "n");
    }

    #[test]
    fn the_usage_of_real_steps_is_read() {
        let text = "\
8.batch|cpu=00:00:02,energy=0,fs/disk=8361,mem=110592,pages=0,vmem=114688|energy=0,fs/disk=983|cpu=00:00:02,energy=0,fs/disk=8361,mem=33140736,pages=2,vmem=33591296
8.0|cpu=1-01:01:01,fs/disk=1,mem=1.5K|fs/disk=1|
rubbish
9.batch||
";
        let found = usage(text);
        let batch = Usage {
            cpu_us: 2_000_000,
            cpu_place_us: 1_000_000,
            memory_bytes: 110_592,
            memory_peak_bytes: 33_140_736,
            io_bytes: 9_344,
        };
        assert_eq!(found[&8]["batch"], batch);
        assert_eq!(found[&8]["0"].cpu_us, (86_400 + 3_661) * 1_000_000);
        assert_eq!(found[&8]["0"].memory_bytes, 1_536);
        assert_eq!(found[&9]["batch"], Usage::default());
    }

    #[test]
    fn a_kill_for_memory_is_found_in_slurms_remarks() {
        let log = "slurmstepd-n: error: StepId=1.batch exceeded memory limit (209940480 > 67108864), being killed\n\
                   slurmstepd-n: error: Exceeded job memory limit\n";
        assert!(is_over_memory(log));
        assert!(!is_over_memory(
            "slurmstepd-n: error: *** JOB 8 ON n CANCELLED AT 2026-11-22T06:28:32 ***\n"
        ));
    }

    #[test]
    fn times_and_sizes_are_read_or_refused() {
        assert_eq!(time_us("00:00:01.250"), Some((1_250_000, 1_000)));
        assert_eq!(time_us("01:00"), Some((60_000_000, 1_000_000)));
        for text in
            ["", "x", "1:x", "99999999999999999999", "0:0.1234567", "300000000000000-00:00:00"]
        {
            assert_eq!(time_us(text), None, "{text}");
        }
        assert_eq!(bytes("1.00M"), Some(1 << 20));
        for text in ["", "M", "1X", "99999999999999999P", "1.x"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn the_times_of_both_shells_are_read() {
        let dash = "0m0.000000s 0m0.000000s\n0m1.230000s 0m0.020000s\n";
        let bash = "0m0.001s 0m0.002s\n1m1.230s 0m0.020s\n";
        assert_eq!(children_us(dash), Some(1_250_000));
        assert_eq!(children_us(bash), Some(61_250_000));
        for text in ["", "0m0s 0m0s", "a\nb", "a\n0m-1s 0m0s", "a\n0m99999999999999999999s"] {
            assert_eq!(children_us(text), None, "{text}");
        }
    }

    #[test]
    fn machines_in_two_partitions_count_once() {
        let text = "n1|64|16384|\nn1|64|16384|\nn2|2|1024|\n";
        let found = machines(text);
        assert_eq!(found.values().map(|(cpus, _)| cpus).sum::<u64>(), 66);
        assert_eq!(found["n2"], (2, 1 << 30));
    }

    #[test]
    fn settings_and_users_are_read() {
        let text =
            "Configuration data as of 2026\nProctrackType           = proctrack/cgroup\nX = a=b\n";
        let found = settings(text);
        assert_eq!(found["ProctrackType"], "proctrack/cgroup");
        assert_eq!(found["X"], "a=b");
        assert_eq!(
            user("nobody:x:65534:65533:nobody:/nonexistent:/usr/sbin/nologin\n"),
            Some((65_534, 65_533))
        );
        assert_eq!(user(""), None);
    }

    #[test]
    fn a_task_ends_for_the_first_reason_there_is() {
        let plain = Facts {
            job: 3,
            stop: None,
            end: End::Code(0),
            told: Some(0),
            is_over_disk: false,
            is_over_memory: false,
        };
        let lost = |why| Exit::Host(HostFault::Job { job: 3, why });
        let of = |change: &dyn Fn(&mut Facts)| {
            let mut facts = plain.clone();
            change(&mut facts);
            exit(&facts)
        };
        assert_eq!(of(&|_| ()), Exit::Code(0));
        assert_eq!(of(&|f| f.end = End::Code(7)), Exit::Code(7));
        assert_eq!(of(&|f| f.stop = Some(Stop::Timeout)), Exit::Timeout);
        assert_eq!(
            of(&|f| (f.stop, f.is_over_disk) = (Some(Stop::Cancelled), true)),
            Exit::Cancelled
        );
        assert_eq!(
            of(&|f| (f.stop, f.end) = (Some(Stop::Stayed), End::Lost(Lost::Cancelled))),
            Exit::Code(0)
        );
        assert_eq!(of(&|f| f.is_over_disk = true), Exit::DiskQuota);
        assert_eq!(of(&|f| f.end = End::Code(153)), Exit::DiskQuota);
        assert_eq!(of(&|f| f.end = End::Timeout), Exit::Timeout);
        assert_eq!(of(&|f| (f.end, f.told) = (End::OutOfMemory, Some(137))), Exit::OutOfMemory);
        assert_eq!(of(&|f| f.end = End::OutOfMemory), Exit::Code(0));
        assert_eq!(of(&|f| (f.end, f.is_over_memory) = (End::Code(137), true)), Exit::OutOfMemory);
        assert_eq!(of(&|f| (f.end, f.is_over_memory) = (End::Code(1), true)), Exit::Code(1));
        assert_eq!(of(&|f| f.end = End::Lost(Lost::Forgotten)), Exit::Code(0));
        assert_eq!(
            of(&|f| (f.end, f.told) = (End::Lost(Lost::Forgotten), None)),
            lost(Lost::Forgotten)
        );
        for why in [Lost::Cancelled, Lost::Preempted, Lost::NodeFailed] {
            assert_eq!(of(&|f| f.end = End::Lost(why)), lost(why));
        }
    }
}
