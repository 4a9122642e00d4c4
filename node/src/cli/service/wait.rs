//! Waiting for a service to become as it was asked: `--wait` of `deploy`, `update`, `scale` and `rollback`.

use std::time::Duration;

use super::path;
use super::show::{ending, short};
use crate::api::Deployed;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::output::note;
use crate::engine::services::ServiceView;

/// Pause between two looks at a service that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is waited for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    name: String,
    revision: u32,
    /// How many replicas, when that is what was asked for.
    replicas: Option<u32>,
    /// Whether the revision was asked for, so that an update which stops is a failure.
    is_update: bool,
}

impl Wanted {
    /// That all replicas are of the revision.
    pub(super) fn update(done: &Deployed) -> Self {
        let (name, revision) = (done.name.clone(), done.revision);
        Self { name, revision, replicas: None, is_update: true }
    }

    /// That there are so many replicas, of whichever revision is wanted now.
    pub(super) fn number(view: &ServiceView, replicas: u32) -> Self {
        let summary = &view.summary;
        let (name, revision) = (summary.name.clone(), summary.revision);
        Self { name, revision, replicas: Some(replicas), is_update: false }
    }
}

/// How far a service is.
#[derive(Debug)]
enum Verdict {
    /// It is as it was asked.
    Ready,
    /// It may become so.
    Coming,
    /// It will not become so by itself.
    Never(CliError),
}

/// Returns when the service is as it was asked; with `false` when the user does not want to wait any more.
pub(super) async fn wait_for(client: &Client, wanted: &Wanted) -> Result<bool, CliError> {
    tokio::select! {
        waited = until_ready(client, wanted) => waited.map(|()| true),
        _ = tokio::signal::ctrl_c() => {
            note(&format!("{} goes on; `opencloud service show {0}` shows how", wanted.name));
            Ok(false)
        }
    }
}

async fn until_ready(client: &Client, wanted: &Wanted) -> Result<(), CliError> {
    let mut told = String::new();
    loop {
        let view: ServiceView = client.get(&path(&wanted.name), &[]).await?;
        match verdict(&view, wanted) {
            Verdict::Ready => return Ok(()),
            Verdict::Never(why) => return Err(why),
            Verdict::Coming => {}
        }
        let text = progress(&view, wanted.revision);
        if text != told {
            note(&text);
            told = text;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What a service's own word says of what is waited for.
fn verdict(view: &ServiceView, wanted: &Wanted) -> Verdict {
    let service = &view.summary;
    let stopped = |detail: String| {
        Verdict::Never(CliError::ServiceStopped { name: wanted.name.clone(), detail })
    };
    let trouble = |otherwise: &str| view.trouble.clone().unwrap_or_else(|| otherwise.to_owned());
    if service.state == "removing" {
        return stopped("it is being removed".to_owned());
    }
    let is_other_number = wanted.replicas.is_some_and(|replicas| replicas != service.replicas);
    if service.revision != wanted.revision || is_other_number {
        return stopped(trouble("something else is wanted by now"));
    }
    // A stopped update stays reported after what ran before is back, which may still become more or fewer.
    let is_stopped = service.state == "stopped";
    if is_stopped && (wanted.is_update || view.stable != Some(wanted.revision)) {
        return stopped(trouble("its update stopped"));
    }
    if view.finished > 0 && service.replicas > 0 {
        return Verdict::Never(ended_for_good(view, &wanted.name));
    }
    match service.state.as_str() {
        "running" | "idle" => Verdict::Ready,
        "stopped" if service.available >= service.replicas => Verdict::Ready,
        _ => Verdict::Coming,
    }
}

/// Says which replica is missing for good, and why.
fn ended_for_good(view: &ServiceView, name: &str) -> CliError {
    match &view.last_word {
        Some(word) => {
            let (replica, detail) = (short(word.run), ending(&word.end));
            CliError::ServiceEnded { name: name.to_owned(), replica, detail }
        }
        // As a node of an older version tells it.
        None => {
            let detail = format!("{} of its replicas ended and are not replaced", view.finished);
            CliError::ServiceStopped { name: name.to_owned(), detail }
        }
    }
}

/// How far it is, and why it comes no further.
fn progress(view: &ServiceView, revision: u32) -> String {
    let of_it = || view.replicas_now.iter().filter(|replica| replica.revision == revision);
    let healthy = of_it().filter(|replica| replica.state == "healthy").count();
    let wanted = view.summary.replicas;
    let text = format!("{healthy} of {wanted} replicas of revision {revision} are healthy");
    let waiting = of_it().find(|replica| replica.state == "waiting");
    match waiting.and_then(|replica| replica.reasons.first()) {
        Some(reason) => format!("{text}; one waits: {reason}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::services::ServiceSummary;
    use scheduler::service::{Access, End, LastWord};
    use scheduler::task::{Failure, FailureClass, RunId};
    use std::collections::BTreeMap;

    /// A service of two replicas of revision 3, before which revision 2 worked.
    fn view(state: &str, available: u32) -> ServiceView {
        ServiceView {
            summary: ServiceSummary {
                name: "web".to_owned(),
                description: None,
                state: state.to_owned(),
                revision: 3,
                replicas: 2,
                available,
                runtime: "wasi".to_owned(),
                ports: BTreeMap::new(),
                deployed_ms: 1,
            },
            access: Access::Owner,
            stable: Some(2),
            term_ms: 1,
            trouble: None,
            finished: 0,
            last_word: None,
            revisions: Vec::new(),
            replicas_now: Vec::new(),
            events: Vec::new(),
            costs: Vec::new(),
        }
    }

    fn update() -> Wanted {
        Wanted { name: "web".to_owned(), revision: 3, replicas: None, is_update: true }
    }

    fn why(verdict: Verdict) -> CliError {
        match verdict {
            Verdict::Never(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_service_is_ready_once_it_runs_and_is_waited_for_until_then() {
        assert!(matches!(verdict(&view("rolling", 1), &update()), Verdict::Coming));
        assert!(matches!(verdict(&view("degraded", 1), &update()), Verdict::Coming));
        assert!(matches!(verdict(&view("running", 2), &update()), Verdict::Ready));
        let none = ServiceView {
            summary: ServiceSummary { replicas: 0, ..view("idle", 0).summary },
            ..view("idle", 0)
        };
        assert!(matches!(verdict(&none, &update()), Verdict::Ready));
    }

    #[test]
    fn a_replica_that_ended_for_good_ends_the_waiting_whatever_the_others_do() {
        let detail = "exit code 3: no such file".to_owned();
        let end = End::Failed(Failure { class: FailureClass::Exit, exit_code: Some(3), detail });
        let run = RunId::from_bytes([0x3f; 16]);
        for (state, available) in [("idle", 0), ("running", 1), ("rolling", 1)] {
            let word = Some(LastWord { run, node: None, end: end.clone() });
            let view = ServiceView { finished: 1, last_word: word, ..view(state, available) };
            let told = why(verdict(&view, &update()));
            assert_eq!(
                told.message(),
                "service `web` cannot get healthy: replica 3f3f3f3f ended for good: \
                 exit code 3: no such file (exit); its restart policy starts no other"
            );
            assert_eq!((told.code(), told.exit_code()), ("service_ended", 1));
            let hint = told.hint().unwrap();
            assert!(hint.contains("service logs web --replica 3f3f3f3f"), "{hint}");
        }
        let older = ServiceView { finished: 2, ..view("idle", 0) };
        assert!(why(verdict(&older, &update())).message().contains("2 of its replicas ended"));
    }

    #[test]
    fn what_stopped_or_is_wanted_otherwise_is_not_waited_for() {
        let trouble = Some("the update stopped".to_owned());
        let stopped = ServiceView { trouble, ..view("stopped", 2) };
        assert!(why(verdict(&stopped, &update())).message().ends_with("the update stopped"));
        for state in ["removing", "running"] {
            let wanted = Wanted { revision: if state == "running" { 4 } else { 3 }, ..update() };
            assert_eq!(why(verdict(&view(state, 2), &wanted)).code(), "service_stopped");
        }
        let fewer = Wanted::number(&view("running", 2), 1);
        assert!(why(verdict(&view("running", 2), &fewer)).message().contains("something else"));
    }

    #[test]
    fn the_number_of_replicas_is_reached_beside_an_update_that_stopped() {
        let back = |available| ServiceView { stable: Some(3), ..view("stopped", available) };
        let wanted = Wanted::number(&back(1), 2);
        assert!(matches!(verdict(&back(1), &wanted), Verdict::Coming));
        assert!(matches!(verdict(&back(2), &wanted), Verdict::Ready));
        // Nothing of it ever worked.
        assert_eq!(why(verdict(&view("stopped", 0), &wanted)).code(), "service_stopped");
    }
}
