//! One look at the cluster for all pods of the node: one list in a while, however many pods there are.
//!
//! A watch of the API would tell a little sooner, and would need one right more and a way back after each gap. The list is
//! served from the API server's memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use tokio::sync::{Notify, watch};

use super::site::{self, ANSWER_TIMEOUT};
use super::verdict::{self, Lost, State};

/// Least time between two looks.
const POLL_SOON: Duration = Duration::from_millis(250);
/// Time between two looks.
const POLL: Duration = Duration::from_secs(1);
/// Looks without a pod after which it is gone. One may have been answered before the pod was made.
const ABSENCES_MAX: u32 = 3;

#[derive(Debug)]
struct Seen {
    state: watch::Sender<Option<State>>,
    n_absences: u32,
    /// Whether any look has shown it.
    is_known: bool,
}

/// The pods that are looked at.
pub(super) struct Watch {
    pods: Api<Pod>,
    own: ListParams,
    seen: Mutex<BTreeMap<String, Seen>>,
    nudge: Notify,
}

/// One pod that is looked at, until this is dropped.
pub(super) struct Watched {
    name: String,
    watch: Arc<Watch>,
    pub(super) state: watch::Receiver<Option<State>>,
}

impl Watched {
    /// Asks to look soon.
    pub(super) fn hurry(&self) {
        self.watch.nudge.notify_one();
    }

    /// The pod's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the pod is gone; says whether it is.
    pub(super) async fn until_absent(&self, timeout: Duration) -> bool {
        let absent = async {
            loop {
                // Asked for alone: a list may be older than the deletion.
                match self.watch.pods.get_opt(&self.name).await {
                    Ok(None) => return,
                    Ok(Some(_)) => {}
                    Err(error) => {
                        tracing::debug!(pod = %self.name, %error, "a pod cannot be looked at");
                    }
                }
                tokio::time::sleep(POLL_SOON).await;
            }
        };
        tokio::time::timeout(timeout, absent).await.is_ok()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.seen().remove(&self.name);
    }
}

impl Watch {
    /// Begins to look, in a task of its own that ends when nobody holds the watch.
    pub(super) fn start(pods: Api<Pod>, owner: &str) -> Arc<Self> {
        let watch = Arc::new(Self::new(pods, owner));
        tokio::spawn(look(Arc::downgrade(&watch)));
        watch
    }

    fn new(pods: Api<Pod>, owner: &str) -> Self {
        // Whatever the API server has in memory will do.
        let own = site::own(owner).match_any();
        Self { pods, own, seen: Mutex::default(), nudge: Notify::new() }
    }

    pub(super) fn add(self: &Arc<Self>, name: &str) -> Watched {
        let state = watch::Sender::new(None);
        let watched =
            Watched { name: name.to_owned(), watch: Arc::clone(self), state: state.subscribe() };
        self.seen().insert(name.to_owned(), Seen { state, n_absences: 0, is_known: false });
        watched
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self) {
        let names: Vec<String> = self.seen().keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, self.pods.list(&self.own)).await {
            Ok(Ok(found)) => take(&mut self.seen(), &names, &found.items),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the cluster's pods cannot be listed; tasks are left as they are");
            }
            Err(_) => tracing::warn!("the cluster does not answer; tasks are left as they are"),
        }
    }
}

/// Takes one answer about the pods that were asked for.
fn take(seen: &mut BTreeMap<String, Seen>, names: &[String], found: &[Pod]) {
    let named = |pod: &Pod| Some((pod.metadata.name.clone()?, verdict::state(pod)));
    let mut states: BTreeMap<String, State> = found.iter().filter_map(named).collect();
    for name in names {
        let Some(one) = seen.get_mut(name) else { continue };
        let state = states.remove(name);
        one.n_absences = if state.is_some() { 0 } else { one.n_absences.saturating_add(1) };
        one.is_known |= state.is_some();
        // One that was there does not come back.
        let is_gone = state.is_none() && (one.is_known || one.n_absences >= ABSENCES_MAX);
        let gone = is_gone.then(|| State::Gone(Lost::Deleted, String::new()));
        let Some(state) = state.or(gone) else { continue };
        one.state.send_if_modified(|old| {
            let is_new = old.as_ref() != Some(&state);
            *old = Some(state);
            is_new
        });
    }
}

async fn look(watch: Weak<Watch>) {
    while let Some(watch) = watch.upgrade() {
        tokio::time::sleep(POLL_SOON).await;
        let _nudged = tokio::time::timeout(POLL - POLL_SOON, watch.nudge.notified()).await;
        watch.look().await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str) -> Pod {
        let pod = json!({"metadata": {"name": name}, "status": {"phase": "Pending"}});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_pod_that_was_there_and_is_not_is_gone() {
        let mut seen = BTreeMap::new();
        let mut add = |name: &str| {
            let state = watch::Sender::new(None);
            let told = state.subscribe();
            seen.insert(name.to_owned(), Seen { state, n_absences: 0, is_known: false });
            told
        };
        let (a, b) = (add("a"), add("b"));
        let names = ["a", "b", "no-longer-watched"].map(str::to_owned);
        for n in 1..ABSENCES_MAX {
            take(&mut seen, &names, &[pod("a"), pod("other")]);
            assert!(matches!(*a.borrow(), Some(State::Waiting(_))));
            assert_eq!(*b.borrow(), None, "look {n}");
        }
        take(&mut seen, &names, &[]);
        for state in [a, b] {
            assert_eq!(*state.borrow(), Some(State::Gone(Lost::Deleted, String::new())));
        }
    }
}
