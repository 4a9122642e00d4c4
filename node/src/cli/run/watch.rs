//! `opencloud run watch`, and following a run wherever its end is waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::NodeId;
use clap::Args;
use scheduler::run::{Ending, Run};
use scheduler::task::RunId;
use scheduler::value::Value;
use tokio::time::Instant;

use super::progress::View;
use super::resolve;
use crate::api::Numbered;
use crate::cli::Context;
use crate::cli::client::Client;
use crate::cli::error::{CANCELLED, CliError, FAILED, OK};
use crate::cli::output::note;
use crate::cli::sse::Events;
use crate::engine::command::{PeerView, StatusView};

/// How long a lost connection is tried again: a restart of the node takes seconds.
const RECONNECT: Duration = Duration::from_secs(30);
/// Pause between two tries.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The run: its id or a unique beginning of it
    run: String,
}

impl Watch {
    pub(crate) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        let id = resolve(&client, &self.run).await?;
        let view = if context.out.is_json() { View::Json(context.out) } else { View::for_people() };
        tokio::select! {
            watched = Box::pin(follow(&client, id, view)) => Ok(ended(&watched?)),
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

/// Says why a run did not succeed, and the exit code.
pub(crate) fn ended(watched: &Watched) -> u8 {
    let id = watched.id;
    match watched.ending {
        Ending::Succeeded => OK,
        Ending::Failed => {
            note(&format!(
                "error: {id} failed: {}",
                watched.detail.as_deref().unwrap_or("no reason given")
            ));
            note(&format!("hint: `opencloud run logs {id}` shows what the tasks wrote"));
            FAILED
        }
        Ending::Cancelled => {
            note(&format!("{id} was cancelled"));
            CANCELLED
        }
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
    let mut next = 0;
    // When the connection was lost; a stream may be silent for hours, so that does not count.
    let mut lost: Option<Instant> = None;
    loop {
        let broken = match events(client, id, next).await {
            Err(error) if next == 0 || !is_passing(&error) => return Err(error),
            Err(error) => error,
            Ok(mut events) => loop {
                let data = match events.next().await {
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
