//! `opencloud demo`: three organisations, each a process of its own with keys of its own, compute a map together and settle
//! what it costs. Everything goes over the same API as every other command.

mod bill;
mod files;
mod nodes;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use catalog::id::to_hex;
use clap::Args;
use scheduler::run::Ending;
use serde::Serialize;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use self::bill::Bill;
use self::nodes::Node;
use super::error::{CliError, OK};
use super::output::note;
use super::run::{Request, Saved, View, Watched, follow, save, start};
use super::units::money;
use super::upload::Sink;
use super::{Context, EXIT_CODES};
use crate::api::{Invited, Joined};
use crate::engine::command::{PeerView, ResourceView, RunView, TaskView};

/// The organisations: the first has the data and asks, the others have machines and serve.
const ORGS: [&str; 3] = ["Survey Office", "Harbour Lab", "Summit Computing"];
/// How long the mesh may take to form: seconds on an idle machine, more on a busy one.
const MESH_TIMEOUT: Duration = Duration::from_secs(90);
/// How long the run may take: seconds on a laptop; a small board under load takes minutes.
const RUN_TIMEOUT: Duration = Duration::from_secs(600);
/// Pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(after_help = format!("\
Needs nothing but this program. The organisations meet by tickets on 127.0.0.1; the
homes are removed at the end.

Examples:
  opencloud demo
  opencloud demo --out map --keep
  opencloud demo --output json

{EXIT_CODES}"))]
pub(super) struct Demo {
    /// Keep the homes of the three nodes and say where they are
    #[arg(long)]
    keep: bool,
    /// Where the pictures and the ledgers go
    #[arg(long, value_name = "DIR", default_value = "opencloud-demo")]
    out: PathBuf,
}

/// What the demo shows.
#[derive(Debug, Serialize)]
struct Shown {
    nodes: Vec<NodeShown>,
    run: RunShown,
    outputs: Vec<Saved>,
    channels: Vec<Bill>,
    #[serde(skip_serializing_if = "Option::is_none")]
    homes: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct NodeShown {
    id: catalog::NodeId,
    org: String,
    api: String,
    /// Its exported ledger.
    ledger: PathBuf,
}

#[derive(Debug, Serialize)]
struct RunShown {
    id: scheduler::task::RunId,
    state: &'static str,
    tasks: Vec<TaskShown>,
}

#[derive(Debug, Serialize)]
struct TaskShown {
    step: String,
    index: u32,
    attempt: u32,
    org: Option<String>,
    node: Option<catalog::NodeId>,
    state: String,
}

/// Names the step at which something failed.
fn at(step: &'static str) -> impl FnOnce(CliError) -> CliError {
    move |error| match error {
        error @ (CliError::Demo { .. } | CliError::Interrupted) => error,
        error => CliError::Demo { step, detail: error.message() },
    }
}

fn failed(step: &'static str, detail: impl Into<String>) -> CliError {
    CliError::Demo { step, detail: detail.into() }
}

impl Demo {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let temp = tempfile::Builder::new()
            .prefix("opencloud-demo-")
            .tempdir()
            .map_err(CliError::io(std::env::temp_dir()))?;
        let mut nodes: Vec<Node> = Vec::new();
        let result = tokio::select! {
            // Ctrl-C reaches the nodes, too: what then goes wrong with them is not the news.
            biased;
            () = nodes::told_to_stop() => Err(CliError::Interrupted),
            result = Box::pin(self.play(temp.path(), &mut nodes)) => result,
        };
        for node in nodes {
            node.stop().await;
        }
        let homes = self.keep_homes(temp);
        let mut shown = result?;
        shown.homes = homes;
        if context.out.is_json() {
            context.out.json(&shown);
        } else {
            print(context, &shown);
        }
        Ok(OK)
    }

    fn keep_homes(&self, temp: TempDir) -> Option<PathBuf> {
        if !self.keep {
            // What cannot be removed lies in the temporary directory, which the system cleans.
            let _ = temp.close();
            return None;
        }
        let path = temp.keep();
        note(&format!("the homes of the three nodes are in {}", path.display()));
        Some(path)
    }

    async fn play(&self, temp: &Path, nodes: &mut Vec<Node>) -> Result<Shown, CliError> {
        note("1/5 three organisations start, each a process with keys of its own");
        for org in ORGS {
            nodes.push(Node::start(temp, org).await.map_err(at("start the nodes"))?);
        }
        let [survey, harbour, summit] = &nodes[..] else {
            return Err(failed("start the nodes", "there are not three of them"));
        };
        let all = [survey, harbour, summit];
        note("2/5 they meet by tickets");
        for guest in [harbour, summit] {
            join(survey, guest).await.map_err(at("join by tickets"))?;
        }
        meet(&all).await.map_err(at("wait until all three know each other"))?;
        note("3/5 a map is computed, tile by tile, where the binding lets each step go");
        let (watched, view) =
            Box::pin(compute(survey, temp)).await.map_err(at("run the workflow"))?;
        if watched.ending != Ending::Succeeded {
            let detail = watched.detail.as_deref().unwrap_or("no reason given");
            return Err(failed(
                "run the workflow",
                format!("{} {}: {detail}", watched.id, watched.state()),
            ));
        }
        note("4/5 the pictures are fetched and checked");
        let outputs = save(&survey.client, &watched.outputs, &self.out)
            .await
            .map_err(at("fetch the outputs"))?;
        check_spread(&view)?;
        note("5/5 the ledgers of both sides are exported and verified");
        let settled = bill::settle(&all).await.map_err(at("verify the ledgers"))?;
        let mut shown = Vec::with_capacity(all.len());
        for (node, bundle) in all.iter().zip(&settled.bundles) {
            let ledger = self.out.join(format!("{}.ledger", file_name(node.org)));
            std::fs::write(&ledger, bundle).map_err(CliError::io(&ledger))?;
            let (org, api) = (node.org.to_owned(), node.api.to_string());
            shown.push(NodeShown { id: node.id, org, api, ledger });
        }
        Ok(Shown {
            nodes: shown,
            run: RunShown {
                id: watched.id,
                state: watched.state(),
                tasks: view.tasks.into_iter().map(TaskShown::from).collect(),
            },
            outputs,
            channels: settled.bills,
            homes: None,
        })
    }
}

impl From<TaskView> for TaskShown {
    fn from(task: TaskView) -> Self {
        let TaskView { step, index, attempt, org_name, node, state, .. } = task;
        Self { step, index, attempt, org: org_name, node, state }
    }
}

async fn join(host: &Node, guest: &Node) -> Result<(), CliError> {
    let invited: Invited = host.client.post("/invites", &json!({"valid_ms": 600_000})).await?;
    let _: Joined = guest.client.post("/join", &json!({"ticket": invited.ticket})).await?;
    Ok(())
}

/// Waits until every node is connected with the two others and knows three machines.
async fn meet(nodes: &[&Node; 3]) -> Result<(), CliError> {
    let deadline = Instant::now() + MESH_TIMEOUT;
    for node in nodes {
        loop {
            let peers: Vec<PeerView> = node.client.get("/peers", &[]).await?;
            let connected = peers.iter().filter(|peer| peer.connected).count();
            let query = [("filter", "kind = compute"), ("limit", "100")];
            let machines: Vec<ResourceView> = node.client.get("/catalog", &query).await?;
            if connected >= 2 && machines.len() >= 3 {
                break;
            }
            if Instant::now() >= deadline {
                let seen = format!(
                    "{} has {connected} of 2 peers and {} of 3 machines",
                    node.org,
                    machines.len()
                );
                return Err(failed(
                    "wait until all three know each other",
                    format!("{seen} after {} s", MESH_TIMEOUT.as_secs()),
                ));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

async fn compute(node: &Node, temp: &Path) -> Result<(Watched, RunView), CliError> {
    let example = files::write(&temp.join("terrain"))?;
    let request: Request = example.request();
    let (_, submission) = request.prepare(Sink::Node(&node.client), Some(&node.client)).await?;
    let id = start(&node.client, &submission).await?;
    let following = Box::pin(follow(&node.client, id, View::for_people()));
    let watched = tokio::time::timeout(RUN_TIMEOUT, following).await.map_err(|_| {
        failed("run the workflow", format!("{id} has not ended after {} s", RUN_TIMEOUT.as_secs()))
    })??;
    let view = node.client.get(&format!("/runs/{id}"), &[]).await?;
    Ok((watched, view))
}

/// The demo is about sharing, so every organisation has to have had a part in it.
fn check_spread(view: &RunView) -> Result<(), CliError> {
    let committed = view.tasks.iter().filter(|task| task.state == "committed");
    let orgs: BTreeSet<&str> = committed.filter_map(|task| task.org_name.as_deref()).collect();
    match ORGS.iter().find(|org| !orgs.contains(*org)) {
        None => Ok(()),
        Some(org) => Err(failed("spread the work over all three", format!("no task ran at {org}"))),
    }
}

fn print(context: &Context, shown: &Shown) {
    let out = context.out;
    out.line("");
    let tasks = shown.run.tasks.iter().map(|task| {
        let org = task.org.clone().unwrap_or_default();
        vec![task.step.clone(), task.index.to_string(), org, task.state.clone()]
    });
    out.table(&["task", "index", "organisation", "state"], tasks.collect(), "no tasks");
    out.line("");
    let bills = shown.channels.iter().map(|bill| {
        let verified = if bill.verified { "both sides agree" } else { "NOT verified" };
        vec![
            bill.provider.clone(),
            bill.consumer.clone(),
            bill.receipts.to_string(),
            money(bill.amount, bill.currency),
            verified.to_owned(),
        ]
    });
    out.table(
        &["provider", "consumer", "receipts", "amount", "ledger"],
        bills.collect(),
        "no bills",
    );
    out.line("");
    for output in &shown.outputs {
        out.line(&format!("{}: {}", output.name, output.path.display()));
    }
    out.line("");
    out.line("Anyone can check the bills, without a node and offline:");
    for node in &shown.nodes {
        out.line(&format!("  opencloud ledger verify {}", node.ledger.display()));
    }
}

/// An organisation's name as a file is called.
fn file_name(org: &str) -> String {
    org.to_lowercase().replace(' ', "-")
}

/// A short random word, so that two demos at one time do not meet in their logs.
fn nonce() -> String {
    let mut bytes = [0; 4];
    // Without random bytes the names are merely the same.
    let _ = getrandom::fill(&mut bytes);
    to_hex(&bytes)
}
