//! `opencloud run watch`, and following a run wherever its end is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use catalog::NodeId;
use clap::Args;
use scheduler::run::{Ending, Run, StepStatus};
use scheduler::task::RunId;
use scheduler::value::Value;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::progress::View;
use super::resolve;
use crate::api::Numbered;
use crate::cli::Context;
use crate::cli::client::Client;
use crate::cli::error::{CANCELLED, CliError, OK};
use crate::cli::sse::Events;
use crate::engine::command::{PeerView, RunView, StatusView};

/// How long a lost connection is tried again: a restart of the node takes seconds.
const RECONNECT: Duration = Duration::from_secs(30);
/// Pause between two tries.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// How often a watched run is looked at for programs that are compiled: as often as providers report.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Most tasks of a run that is looked at so; of a larger one only its events are told.
const LOOK_TASKS_MAX: usize = 2_000;

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The run: its id or a unique beginning of it, with or without `run-`
    run: String,
}

impl Watch {
    pub(crate) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        let id = resolve(&client, &self.run).await?;
        let view = if context.out.is_json() { View::Json(context.out) } else { View::for_people() };
        tokio::select! {
            watched = Box::pin(follow(&client, id, view)) => ended(&watched?),
            _ = tokio::signal::ctrl_c() => Ok(CANCELLED),
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) id: RunId,
    pub(crate) ending: Ending,
    pub(crate) outputs: BTreeMap<String, Value>,
    /// Why it failed.
    pub(crate) detail: Option<String>,
}

impl Watched {
    pub(crate) const fn state(&self) -> &'static str {
        match self.ending {
            Ending::Succeeded => "succeeded",
            Ending::Failed => "failed",
            Ending::Cancelled => "cancelled",
        }
    }
}

/// The exit code of a run that succeeded, or why it did not.
pub(crate) fn ended(watched: &Watched) -> Result<u8, CliError> {
    let id = watched.id;
    match watched.ending {
        Ending::Succeeded => Ok(OK),
        Ending::Failed => {
            let detail = watched.detail.clone().unwrap_or_else(|| "no reason given".to_owned());
            Err(CliError::RunFailed { id, detail })
        }
        Ending::Cancelled => Err(CliError::RunCancelled { id }),
    }
}

/// Nodes by the names people know.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: BTreeMap<NodeId, String>,
}

impl Names {
    /// `Harbour Lab`, or the end of the id when nobody knows better.
    pub(crate) fn of(&self, node: NodeId) -> String {
        self.known.get(&node).cloned().unwrap_or_else(|| node.short())
    }

    /// Learns the name of a node. What cannot be learnt is shown by its id.
    async fn learn(&mut self, client: &Client, node: NodeId) {
        if self.known.contains_key(&node) {
            return;
        }
        if let Ok(status) = client.get::<StatusView>("/status", &[]).await {
            self.known.insert(status.id, status.org_name);
        }
        let peers: Vec<PeerView> = client.get("/peers", &[]).await.unwrap_or_default();
        self.known.extend(peers.into_iter().map(|peer| (peer.id, peer.org_name)));
        self.known.entry(node).or_insert_with(|| node.short());
    }
}

/// Follows a run to its end, also over a restart of the node.
pub(crate) async fn follow(
    client: &Client,
    id: RunId,
    mut view: View,
) -> Result<Watched, CliError> {
    let mut run: Option<Run> = None;
    let mut names = Names::default();
    let mut preparing = Preparing::new();
    let mut next = 0;
    // When the connection was lost; a stream may be silent for hours, so that does not count.
    let mut lost: Option<Instant> = None;
    loop {
        let broken = match events(client, id, next).await {
            Err(error) if next == 0 || !is_passing(&error) => return Err(error),
            Err(error) => error,
            Ok(mut events) => loop {
                let next_event = tokio::select! {
                    next_event = events.next() => next_event,
                    () = preparing.due() => {
                        preparing.look(client, run.as_ref(), &mut view).await;
                        continue;
                    }
                };
                let data = match next_event {
                    Ok(Some(data)) => data,
                    Ok(None) => {
                        break CliError::Stream { what: "it ended before the run" };
                    }
                    Err(error) => break error,
                };
                let numbered: Numbered = serde_json::from_str(&data)
                    .map_err(|_| CliError::Stream { what: "an event cannot be read" })?;
                next = numbered.seq.saturating_add(1);
                lost = None;
                if let scheduler::run::EventBody::AttemptStarted { node, .. } = numbered.event.body
                {
                    names.learn(client, node).await;
                }
                let run = fold(&mut run, id, &numbered)?;
                view.show(run, &numbered, &names);
                if let Some((_, ending, outputs)) = run.ending() {
                    let detail = run.trouble().map(|(_, detail)| detail.clone());
                    return Ok(Watched { id, ending: *ending, outputs: outputs.clone(), detail });
                }
            },
        };
        if lost.get_or_insert_with(Instant::now).elapsed() >= RECONNECT {
            return Err(broken);
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// Tells of programs that are compiled: a run's log says no more of such a task than that it was given to a node.
struct Preparing {
    every: Interval,
    told: BTreeSet<(String, u32, u32)>,
}

impl Preparing {
    fn new() -> Self {
        let mut every = tokio::time::interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { every, told: BTreeSet::new() }
    }

    async fn due(&mut self) {
        self.every.tick().await;
    }

    async fn look(&mut self, client: &Client, run: Option<&Run>, view: &mut View) {
        let Some(run) = run.filter(|run| tasks_of(run) <= LOOK_TASKS_MAX) else {
            return;
        };
        // A courtesy: what cannot be asked now is asked again.
        let Ok(shown) = client.get::<RunView>(&format!("/runs/{}", run.id()), &[]).await else {
            return;
        };
        for task in shown.tasks.iter().filter(|task| task.state == "compiling") {
            if !self.told.insert((task.step.clone(), task.index, task.attempt)) {
                continue;
            }
            let org = task.org_name.as_deref().unwrap_or("another node");
            let what = task.detail.as_deref().unwrap_or("compiling");
            view.say(&format!("{}[{}] at {org}: {what}", task.step, task.index));
        }
    }
}

fn tasks_of(run: &Run) -> usize {
    let tasks = |status: &StepStatus| match status {
        StepStatus::Open { tasks, .. } => tasks.len(),
        StepStatus::Waiting | StepStatus::Skipped => 0,
    };
    run.steps().iter().map(tasks).sum()
}

async fn events(client: &Client, id: RunId, from: u64) -> Result<Events, CliError> {
    let path = format!("/runs/{id}/events");
    Ok(Events::new(client.open(&path, &[("from", &from.to_string())]).await?))
}

/// Whether it may be over when the node has restarted.
fn is_passing(error: &CliError) -> bool {
    match error {
        CliError::NotRunning | CliError::Http(_) => true,
        CliError::Problem(problem) => problem.status >= 500,
        _ => false,
    }
}

fn fold<'a>(run: &'a mut Option<Run>, id: RunId, numbered: &Numbered) -> Result<&'a Run, CliError> {
    match run {
        Some(run) => run.apply(&numbered.event),
        None => {
            let replayed = Run::replay(id, [numbered.event.clone()])
                .map_err(|_| CliError::Stream { what: "it does not begin with the submission" })?;
            *run = Some(replayed);
        }
    }
    run.as_ref().ok_or(CliError::Stream { what: "it has no events" })
}
