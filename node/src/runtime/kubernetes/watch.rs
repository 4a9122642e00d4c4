//! One look at the cluster for all pods of the node: one list in a while, however many pods there are. Those that no task
//! follows are deleted (room `stray`).
//!
//! A watch of the API would tell a little sooner, and would need one right more and a way back after each gap. The list is
//! served from the API server's memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use tokio::sync::{Notify, watch};

use super::site::{self, ANSWER_TIMEOUT};
use super::stray::{self, Strays};
use super::verdict::{self, Lost, State};

/// Least time between two looks.
const POLL_SOON: Duration = Duration::from_millis(250);
/// Time between two looks.
const POLL: Duration = Duration::from_secs(1);
/// Time between two looks while no task has a pod.
const POLL_IDLE: Duration = Duration::from_secs(60);

/// What is known of each pod that is looked at, by its name.
type Seen = BTreeMap<String, watch::Sender<Option<State>>>;

/// The pods that are looked at.
pub(super) struct Watch {
    pods: Api<Pod>,
    own: ListParams,
    seen: Mutex<Seen>,
    alone: Mutex<Alone>,
    nudge: Notify,
}

/// What is known of pods that no task follows.
struct Alone {
    strays: Strays,
    /// When all pods were listed last.
    listed: Instant,
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
        let alone = Mutex::new(Alone { strays: Strays::default(), listed: Instant::now() });
        Self { pods, own, seen: Mutex::default(), alone, nudge: Notify::new() }
    }

    pub(super) fn add(self: &Arc<Self>, name: &str) -> Watched {
        let state = watch::Sender::new(None);
        let watched =
            Watched { name: name.to_owned(), watch: Arc::clone(self), state: state.subscribe() };
        self.seen().insert(name.to_owned(), state);
        watched
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> MutexGuard<'_, Alone> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One look, at this time.
    pub(super) async fn look(&self, now: Instant) {
        let names: Vec<String> = self.seen().keys().cloned().collect();
        let listed = self.alone().listed;
        if names.is_empty() && now.saturating_duration_since(listed) < POLL_IDLE {
            return;
        }
        self.alone().listed = now;
        let (absent, strays) = match tokio::time::timeout(ANSWER_TIMEOUT, self.pods.list(&self.own))
            .await
        {
            Ok(Ok(found)) => {
                let seen = self.seen();
                let is_followed = |name: &str| seen.contains_key(name);
                let strays = self.alone().strays.take(&found.items, is_followed, now);
                (take(&seen, names, &found.items), strays)
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the cluster's pods cannot be listed; tasks are left as they are");
                return;
            }
            Err(_) => {
                tracing::warn!("the cluster does not answer; tasks are left as they are");
                return;
            }
        };
        for name in absent {
            // Asked for alone: a list may be older than the pod, or come from a server that is behind.
            let found = tokio::time::timeout(ANSWER_TIMEOUT, self.pods.get_opt(&name)).await;
            let state = match found {
                Ok(Ok(Some(pod))) => verdict::state(&pod),
                Ok(Ok(None)) => State::Gone(Lost::Deleted, String::new()),
                Ok(Err(_)) | Err(_) => continue,
            };
            if let Some(one) = self.seen().get(&name) {
                tell(one, state);
            }
        }
        stray::delete(&self.pods, strays).await;
    }
}

/// Takes one answer about the pods that were asked for; gives those that are not in it.
fn take(seen: &Seen, names: Vec<String>, found: &[Pod]) -> Vec<String> {
    let named = |pod: &Pod| Some((pod.metadata.name.clone()?, verdict::state(pod)));
    let mut states: BTreeMap<String, State> = found.iter().filter_map(named).collect();
    let mut absent = Vec::new();
    for name in names {
        match (seen.get(&name), states.remove(&name)) {
            (None, _) => {}
            (Some(_), None) => absent.push(name),
            (Some(one), Some(state)) => tell(one, state),
        }
    }
    absent
}

/// Tells a state to whoever follows the pod, if it is another than before.
fn tell(one: &watch::Sender<Option<State>>, state: State) {
    one.send_if_modified(|old| {
        // One that has gone does not come back.
        let is_new = old.as_ref() != Some(&state) && !matches!(old, Some(State::Gone(..)));
        if is_new {
            *old = Some(state);
        }
        is_new
    });
}

async fn look(watch: Weak<Watch>) {
    while let Some(watch) = watch.upgrade() {
        tokio::time::sleep(POLL_SOON).await;
        let _nudged = tokio::time::timeout(POLL - POLL_SOON, watch.nudge.notified()).await;
        watch.look(Instant::now()).await;
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
    fn pods_are_told_apart_and_those_that_are_missing_are_named() {
        let mut seen = Seen::new();
        let mut add = |name: &str| {
            let state = watch::Sender::new(None);
            let told = state.subscribe();
            seen.insert(name.to_owned(), state);
            told
        };
        let (a, b) = (add("a"), add("b"));
        let names = ["a", "b", "no-longer-watched"].map(str::to_owned).to_vec();
        let absent = take(&seen, names.clone(), &[pod("a"), pod("other")]);
        assert_eq!(absent, ["b"]);
        assert!(matches!(*a.borrow(), Some(State::Waiting(_))));
        assert_eq!(*b.borrow(), None, "it is asked for alone");
        let gone = State::Gone(Lost::Deleted, String::new());
        tell(&seen["b"], gone.clone());
        assert_eq!(take(&seen, names, &[pod("a"), pod("b")]), Vec::<String>::new());
        assert_eq!(*b.borrow(), Some(gone), "it does not come back");
    }
}
