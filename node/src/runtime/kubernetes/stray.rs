//! Pods of this node that no task follows: made after all by an API server that had answered with an error or not at all, or
//! not to be deleted when their task ended.
//!
//! A pod that is just being created is not followed yet either, so one counts as stray only when it has been seen so for
//! [`STRAY_AFTER`]. The next life of the node deletes what this one does not get to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Preconditions};

use super::site::{ANSWER_TIMEOUT, ignore_absent};

/// How long a pod has to be seen without a task before it is deleted, and then is tried again. A task follows its pod at most
/// [`ANSWER_TIMEOUT`] after it has asked for it; this is much longer.
pub(super) const STRAY_AFTER: Duration = Duration::from_secs(120);
/// Most strays that are deleted between two looks at the pods of tasks; the others wait for the next look.
const STRAYS_AT_ONCE: usize = 8;

/// A pod that is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stray {
    name: String,
    /// Which of all pods that ever had the name.
    uid: Option<String>,
    /// It was deleted before and did not go: its machine says nothing any more.
    is_forced: bool,
}

/// When a pod without a task is deleted next, and how often it was.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Instant,
    n_tries: u32,
}

/// The pods without a task, by name and UID. Pure.
#[derive(Debug, Default)]
pub(super) struct Strays(BTreeMap<(String, Option<String>), Due>);

impl Strays {
    /// Takes a list of all pods of this node; gives those that are to be deleted now.
    pub(super) fn take(
        &mut self,
        found: &[Pod],
        is_followed: impl Fn(&str) -> bool,
        now: Instant,
    ) -> Vec<Stray> {
        let named = |pod: &Pod| Some((pod.metadata.name.clone()?, pod.metadata.uid.clone()));
        let alone = found.iter().filter_map(named).filter(|(name, _)| !is_followed(name));
        let mut before = std::mem::take(&mut self.0);
        let mut strays = Vec::new();
        for key in alone {
            let new = Due { at: now + STRAY_AFTER, n_tries: 0 };
            let mut due = before.remove(&key).unwrap_or(new);
            if now >= due.at && strays.len() < STRAYS_AT_ONCE {
                let (name, uid) = key.clone();
                strays.push(Stray { name, uid, is_forced: due.n_tries > 0 });
                due = Due { at: now + STRAY_AFTER, n_tries: due.n_tries.saturating_add(1) };
            }
            self.0.insert(key, due);
        }
        strays
    }
}

/// Deletes strays. What fails is tried again when it is due again.
pub(super) async fn delete(pods: &Api<Pod>, strays: Vec<Stray>) {
    for Stray { name, uid, is_forced } in strays {
        tracing::warn!(pod = name, "a pod that no task follows is deleted");
        let mut how = DeleteParams::default();
        if is_forced {
            how = how.grace_period(0);
        }
        if uid.is_some() {
            how = how.preconditions(Preconditions { uid, resource_version: None });
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, pods.delete(&name, &how)).await {
            Ok(deleted) => {
                if let Err(error) = ignore_absent(deleted) {
                    tracing::warn!(pod = name, %error, "a pod cannot be deleted yet");
                }
            }
            Err(_) => {
                tracing::warn!(pod = name, "the cluster does not answer");
                // Neither would it for the others, and tasks wait for the next look.
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "uid": uid}})).unwrap()
    }

    fn stray(name: &str, uid: &str, is_forced: bool) -> Stray {
        Stray { name: name.to_owned(), uid: Some(uid.to_owned()), is_forced }
    }

    #[test]
    fn a_pod_is_deleted_that_no_task_has_followed_for_long() {
        let mut strays = Strays::default();
        let begun = Instant::now();
        let found = [pod("followed", "1"), pod("alone", "2")];
        let is_followed = |name: &str| name == "followed";
        let (soon, due) = (begun + STRAY_AFTER / 2, begun + STRAY_AFTER);
        assert!(strays.take(&found, is_followed, begun).is_empty());
        assert!(strays.take(&found, is_followed, soon).is_empty());
        assert_eq!(strays.take(&found, is_followed, due), [stray("alone", "2", false)]);
        // It is given time to go.
        assert!(strays.take(&found, is_followed, due + STRAY_AFTER / 2).is_empty());
        let again = strays.take(&found, is_followed, due + STRAY_AFTER);
        assert_eq!(again, [stray("alone", "2", true)]);
        assert!(strays.take(&[], is_followed, due + STRAY_AFTER).is_empty());
        assert!(strays.0.is_empty(), "what is gone is forgotten");
    }

    #[test]
    fn a_pod_that_was_just_created_is_left_alone() {
        let mut strays = Strays::default();
        let begun = Instant::now();
        let (soon, late) = (begun + STRAY_AFTER / 2, begun + STRAY_AFTER * 9);
        let found = [pod("new", "1")];
        // It is listed before its task follows it.
        assert!(strays.take(&found, |_| false, begun).is_empty());
        assert!(strays.take(&found, |_| true, soon).is_empty());
        assert!(strays.take(&found, |_| true, late).is_empty());
        // From here on its time begins anew, and so does that of another pod of the name.
        assert!(strays.take(&found, |_| false, late).is_empty());
        let other = [pod("new", "2")];
        assert!(strays.take(&other, |_| false, late + STRAY_AFTER).is_empty());
    }

    #[test]
    fn no_more_are_deleted_at_once_than_may_be() {
        let mut strays = Strays::default();
        let begun = Instant::now();
        let found: Vec<Pod> = (0..=STRAYS_AT_ONCE).map(|n| pod(&format!("p{n}"), "1")).collect();
        assert!(strays.take(&found, |_| false, begun).is_empty());
        let due = begun + STRAY_AFTER;
        assert_eq!(strays.take(&found, |_| false, due).len(), STRAYS_AT_ONCE);
        assert_eq!(strays.take(&found, |_| false, due).len(), 1);
        assert!(strays.take(&found, |_| false, due).is_empty());
    }
}
