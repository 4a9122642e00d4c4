//! What the cluster says of a pod, read into facts, and how its task has ended. Every function here is pure.
//!
//! Sources: the reference of the API (`core/v1` PodStatus, ContainerStatus), and for words that it leaves open the page "Pod
//! Lifecycle" of the Kubernetes documentation.

use std::fmt;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};

use super::pod::{FILES, KEEP, TASK};
use crate::runtime::{Exit, HostFault, bounded};

/// The exit code of a process that SIGXFSZ ended: it wrote a file beyond the limit.
const FILE_TOO_LARGE: i32 = 128 + 25;

/// Where a pod is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has no machine yet, or its images are on their way; why, in the cluster's words.
    Waiting(String),
    /// It will never start as it is; why, in the cluster's words.
    Stuck(String),
    /// It waits for its files.
    Files,
    /// The task runs.
    Running,
    /// The task has ended, and what it leaves can be taken.
    Ended(End),
    /// It has ended with all that is in it.
    Gone(Lost, String),
}

/// How the container of a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) code: i32,
    /// The cluster says that it had more memory than it may.
    pub(super) is_out_of_memory: bool,
    /// Whole seconds between its start and its end, by the clock of its machine.
    pub(super) seconds: Option<u64>,
}

/// Why a cluster ended a pod before its task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Lost {
    /// Somebody else deleted it: an operator of the cluster, or its machine was drained.
    Deleted,
    /// Its machine had too little of something for all its pods.
    Evicted,
    /// Its files took more than they may.
    OverDisk,
    /// A pod of higher rank took its place.
    Preempted,
    /// Its machine failed, was removed or shut down.
    NodeFailed,
    /// Its machine refused it when it came.
    Rejected,
    /// It was there longer than the node had asked for.
    Deadline,
    /// One of the node's own containers in it ended.
    Files,
    /// It is in a state that this version does not know.
    Unknown,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deleted => "it was deleted by somebody else",
            Self::Evicted => "it was evicted because its machine had too little for all",
            Self::OverDisk => "its files took more than they may",
            Self::Preempted => "it was preempted by a pod of higher rank",
            Self::NodeFailed => "its machine failed or was shut down",
            Self::Rejected => "its machine refused it",
            Self::Deadline => "it was there longer than it may",
            Self::Files => "the container with its files ended",
            Self::Unknown => "it is in a state that this version does not know",
        })
    }
}

/// Where a pod is in its life.
pub(super) fn state(pod: &Pod) -> State {
    let Some(status) = &pod.status else { return State::Waiting("it is new".to_owned()) };
    let message = || bounded(status.message.clone().unwrap_or_default());
    match status.phase.as_deref() {
        Some("Failed") => {
            let task = container(status, TASK).and_then(ended);
            return match (lost(status), task) {
                // Its task had ended before the rest of it.
                (Lost::Files | Lost::Unknown, Some(end)) => State::Ended(end),
                (why, _) => State::Gone(why, message()),
            };
        }
        // The container that keeps the files does not end by itself in time.
        Some("Succeeded") => return State::Gone(Lost::Files, message()),
        _ => {}
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return State::Gone(disruption(status).unwrap_or(Lost::Deleted), message());
    }
    if let Some(end) = container(status, TASK).and_then(ended) {
        return State::Ended(end);
    }
    if container(status, TASK).is_some_and(is_running) {
        return State::Running;
    }
    if let Some(end) = init(status).and_then(ended)
        && end.code != 0
    {
        return State::Gone(Lost::Files, format!("it ended with code {}", end.code));
    }
    if init(status).is_some_and(is_running) {
        return State::Files;
    }
    let waiting = [init(status), container(status, TASK), container(status, KEEP)];
    let reasons = waiting.into_iter().flatten().filter_map(reason);
    let mut reasons = reasons.filter(|(word, _)| !is_usual(word));
    match reasons.next() {
        Some((word, text)) if is_hopeless(&word) => State::Stuck(said(&word, &text)),
        Some((word, text)) => State::Waiting(said(&word, &text)),
        None => State::Waiting(unscheduled(status)),
    }
}

fn said(word: &str, text: &str) -> String {
    bounded(if text.is_empty() { word.to_owned() } else { format!("{word}: {text}") })
}

fn container<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    status.container_statuses.iter().flatten().find(|found| found.name == name)
}

fn init(status: &PodStatus) -> Option<&ContainerStatus> {
    status.init_container_statuses.iter().flatten().find(|found| found.name == FILES)
}

fn is_running(found: &ContainerStatus) -> bool {
    matches!(&found.state, Some(ContainerState { running: Some(_), .. }))
}

fn ended(found: &ContainerStatus) -> Option<End> {
    let terminated = found.state.as_ref()?.terminated.as_ref()?;
    let second = |time: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time| time.0.as_second();
    let begun = terminated.started_at.as_ref().map(second);
    let finished = terminated.finished_at.as_ref().map(second);
    let seconds = begun.zip(finished).and_then(|(begun, finished)| {
        // A container that was never started has the beginning of time there.
        u64::try_from(finished.checked_sub(begun)?).ok().filter(|_| begun > 0)
    });
    Some(End {
        code: terminated.exit_code,
        is_out_of_memory: terminated.reason.as_deref() == Some("OOMKilled"),
        seconds,
    })
}

/// Why a container waits: a word, and a text for people.
fn reason(found: &ContainerStatus) -> Option<(String, String)> {
    let waiting = found.state.as_ref()?.waiting.as_ref()?;
    let word = waiting.reason.clone().filter(|word| !word.is_empty())?;
    Some((word, waiting.message.clone().unwrap_or_default()))
}

/// What every container says on its way.
fn is_usual(word: &str) -> bool {
    matches!(word, "ContainerCreating" | "PodInitializing")
}

/// Whether a container that waits for this waits for ever. An image that cannot be pulled is tried again, so that is left
/// to the time that a pod may wait.
fn is_hopeless(word: &str) -> bool {
    matches!(
        word,
        "InvalidImageName" | "ErrImageNeverPull" | "CreateContainerConfigError" | "ErrInspectImage"
    )
}

/// Whether a pod waits for this because an image does not come.
pub(super) fn is_pull(why: &str) -> bool {
    ["ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"]
        .iter()
        .any(|word| why.starts_with(word))
}

/// Why no machine has it, as the scheduler says.
fn unscheduled(status: &PodStatus) -> String {
    let conditions = status.conditions.iter().flatten();
    let mut found =
        conditions.filter(|found| found.type_ == "PodScheduled" && found.status == "False");
    let text = found.next().and_then(|found| found.message.clone());
    bounded(text.unwrap_or_else(|| "no reason is given".to_owned()))
}

/// What disturbed it from outside, if that is said.
fn disruption(status: &PodStatus) -> Option<Lost> {
    let conditions = status.conditions.iter().flatten();
    let mut found =
        conditions.filter(|found| found.type_ == "DisruptionTarget" && found.status == "True");
    Some(match found.next()?.reason.as_deref() {
        Some("PreemptionByScheduler") => Lost::Preempted,
        Some("DeletionByTaintManager" | "DeletionByPodGC") => Lost::NodeFailed,
        Some("TerminationByKubelet") => Lost::Evicted,
        Some("EvictionByEvictionAPI") => Lost::Deleted,
        _ => Lost::Unknown,
    })
}

/// Why a pod has failed.
fn lost(status: &PodStatus) -> Lost {
    let message = status.message.as_deref().unwrap_or_default();
    match status.reason.as_deref() {
        Some("Evicted") if is_own_disk(message) => Lost::OverDisk,
        Some("Evicted") => Lost::Evicted,
        Some("DeadlineExceeded") => Lost::Deadline,
        Some("Preempting" | "Preempted") => Lost::Preempted,
        Some("NodeLost" | "Shutdown" | "Terminated" | "NodeShutdown") => Lost::NodeFailed,
        Some(
            "NodeAffinity"
            | "OutOfcpu"
            | "OutOfmemory"
            | "OutOfpods"
            | "OutOfephemeral-storage"
            | "UnexpectedAdmissionError"
            | "AppArmor"
            | "SysctlForbidden"
            | "PodOSNotSupported",
        ) => Lost::Rejected,
        _ => {
            let files = [init(status), container(status, KEEP)].into_iter().flatten();
            let has_ended = files.filter_map(ended).any(|end| end.code != 0);
            disruption(status).unwrap_or(if has_ended { Lost::Files } else { Lost::Unknown })
        }
    }
}

/// Whether a pod was evicted for its own files, and not for want of room on its machine.
fn is_own_disk(message: &str) -> bool {
    message.contains("exceeds the limit")
        || message.contains("exceeds the total limit")
        || message.contains("exceeded its local ephemeral storage limit")
}

/// Why the node ended a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    Timeout,
    DiskQuota,
}

/// How a task ended whose container has ended.
pub(super) fn exit(end: End, oom_kills: u64, is_over_disk: bool) -> Exit {
    let is_starved = end.is_out_of_memory || oom_kills > 0;
    match end.code {
        _ if is_over_disk => Exit::DiskQuota,
        FILE_TOO_LARGE => Exit::DiskQuota,
        // One that does not fail has borne that it was refused memory.
        0 => Exit::Code(0),
        _ if is_starved => Exit::OutOfMemory,
        code => Exit::Code(code),
    }
}

/// How a task ended that the node ended. What came before it counts.
pub(super) fn stopped(stop: Stop) -> Exit {
    match stop {
        Stop::Cancelled => Exit::Cancelled,
        Stop::Timeout => Exit::Timeout,
        Stop::DiskQuota => Exit::DiskQuota,
    }
}

/// How a task ended whose pod has ended under it.
pub(super) fn gone(pod: &str, why: Lost, detail: &str) -> Exit {
    match why {
        Lost::OverDisk => Exit::DiskQuota,
        why => Exit::Host(lost_pod(pod, why, detail)),
    }
}

/// The loss of a pod as a fault of the host.
pub(super) fn lost_pod(pod: &str, why: Lost, detail: &str) -> HostFault {
    let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
    HostFault::Pod { pod: pod.to_owned(), why, detail: bounded(detail) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(status: Value) -> State {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": []}, "status": status});
        state(&serde_json::from_value(pod).unwrap())
    }

    fn container(name: &str, state: Value) -> Value {
        json!({
            "name": name, "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
            "state": state,
        })
    }

    fn running() -> Value {
        json!({"running": {"startedAt": "2026-01-02T03:04:05Z"}})
    }

    fn terminated(code: i32, reason: &str) -> Value {
        json!({"terminated": {
            "exitCode": code, "reason": reason,
            "startedAt": "2026-01-02T03:04:05Z", "finishedAt": "2026-01-02T03:04:12Z",
        }})
    }

    fn waiting(reason: &str) -> Value {
        json!({"waiting": {"reason": reason, "message": "m"}})
    }

    fn end(code: i32) -> End {
        End { code, is_out_of_memory: false, seconds: Some(7) }
    }

    #[test]
    fn a_pod_goes_its_way() {
        let full = "0/3 nodes are available: 3 Insufficient cpu.";
        let pending = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": full},
        ]});
        assert_eq!(of(pending), State::Waiting(full.to_owned()));
        let starting = waiting("PodInitializing");
        let pod = |init: Value, task: Value, keep: Value| {
            of(json!({
                "phase": "Running",
                "initContainerStatuses": [container(FILES, init)],
                "containerStatuses": [container(TASK, task), container(KEEP, keep)],
            }))
        };
        assert_eq!(pod(running(), starting.clone(), starting.clone()), State::Files);
        let done = terminated(0, "Completed");
        let State::Waiting(_) = pod(done.clone(), starting.clone(), starting) else {
            panic!("it is about to start");
        };
        assert_eq!(pod(done.clone(), running(), running()), State::Running);
        assert_eq!(pod(done.clone(), terminated(3, "Error"), running()), State::Ended(end(3)));
        let starved = End { is_out_of_memory: true, ..end(137) };
        assert_eq!(pod(done, terminated(137, "OOMKilled"), running()), State::Ended(starved));
    }

    #[test]
    fn images_that_do_not_come_are_told() {
        let with = |word: &str| {
            of(json!({
                "phase": "Pending",
                "initContainerStatuses": [container(FILES, terminated(0, "Completed"))],
                "containerStatuses": [container(TASK, waiting(word)), container(KEEP, running())],
            }))
        };
        assert_eq!(with("ImagePullBackOff"), State::Waiting("ImagePullBackOff: m".to_owned()));
        assert_eq!(with("InvalidImageName"), State::Stuck("InvalidImageName: m".to_owned()));
    }

    #[test]
    fn what_ends_a_pod_is_told_apart() {
        for (reason, message, why) in [
            ("Evicted", "The node was low on resource: memory.", Lost::Evicted),
            (
                "Evicted",
                "Usage of EmptyDir volume \"own\" exceeds the limit \"32Mi\". ",
                Lost::OverDisk,
            ),
            (
                "Evicted",
                "Pod ephemeral local storage usage exceeds the total limit of containers 64Mi. ",
                Lost::OverDisk,
            ),
            ("DeadlineExceeded", "Pod was active on the node longer than it may", Lost::Deadline),
            ("NodeLost", "", Lost::NodeFailed),
            ("OutOfcpu", "", Lost::Rejected),
            ("SomethingNew", "", Lost::Unknown),
        ] {
            let found = of(json!({"phase": "Failed", "reason": reason, "message": message}));
            assert_eq!(found, State::Gone(why, message.to_owned()), "{reason}");
        }
        let disturbed = |reason: &str| {
            of(json!({"phase": "Failed", "conditions": [
                {"type": "DisruptionTarget", "status": "True", "reason": reason},
            ]}))
        };
        let gone = |why| State::Gone(why, String::new());
        assert_eq!(disturbed("PreemptionByScheduler"), gone(Lost::Preempted));
        assert_eq!(disturbed("DeletionByTaintManager"), gone(Lost::NodeFailed));
        let pod = json!({
            "metadata": {"name": "p", "deletionTimestamp": "2026-01-02T03:04:05Z"},
            "status": {"phase": "Running"},
        });
        assert_eq!(state(&serde_json::from_value(pod).unwrap()), gone(Lost::Deleted));
    }

    #[test]
    fn a_task_that_had_ended_before_its_pod_counts() {
        let found = of(json!({
            "phase": "Failed",
            "containerStatuses": [
                container(TASK, terminated(0, "Completed")), container(KEEP, terminated(1, "Error")),
            ],
        }));
        assert_eq!(found, State::Ended(end(0)));
    }

    #[test]
    fn a_failure_has_its_reason() {
        let starved = End { is_out_of_memory: true, ..end(137) };
        for (end, oom_kills, is_over_disk, expected) in [
            (end(0), 0, false, Exit::Code(0)),
            (end(7), 0, false, Exit::Code(7)),
            (end(137), 0, false, Exit::Code(137)),
            (starved, 0, false, Exit::OutOfMemory),
            (end(1), 1, false, Exit::OutOfMemory),
            (end(0), 1, false, Exit::Code(0)),
            (end(153), 0, false, Exit::DiskQuota),
            (end(0), 0, true, Exit::DiskQuota),
        ] {
            assert_eq!(exit(end, oom_kills, is_over_disk), expected);
        }
        assert_eq!(gone("p", Lost::OverDisk, ""), Exit::DiskQuota);
        assert!(matches!(gone("p", Lost::Evicted, "m"), Exit::Host(HostFault::Pod { .. })));
    }
}
