//! `opencloud service deploy`, `update`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use scheduler::place::Strategy;
use scheduler::service::Content;

use super::path;
use crate::api::Deployed;
use crate::cli::Context;
use crate::cli::client::Client;
use crate::cli::document::Document;
use crate::cli::error::{CANCELLED, CliError, OK};
use crate::cli::output::note;
use crate::cli::run::assets;
use crate::cli::upload::Sink;
use crate::engine::services::ServiceView;

/// Pause between two looks at a service that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    #[command(flatten)]
    what: What,
    /// What the service is called, instead of its document's name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// The service
    name: String,
    #[command(flatten)]
    what: What,
}

/// What is deployed, and how.
#[derive(Debug, Args)]
struct What {
    /// The service document, YAML or JSON
    file: PathBuf,
    /// A document that says where replicas may go and what they may cost; the one step is called `replica`
    #[arg(long, value_name = "FILE")]
    binding: Option<PathBuf>,
    /// What placement optimises: sovereignty, performance, cost, or weights like `performance=2,cost=1`
    #[arg(long, value_name = "S", value_parser = str::parse::<Strategy>)]
    strategy: Option<Strategy>,
    /// Wait until all replicas are healthy, or the update stops
    #[arg(long)]
    wait: bool,
}

impl Deploy {
    pub(crate) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        let content = self.what.content(&client, self.name).await?;
        let done: Deployed = client.post("/services", &content).await?;
        finish(context, &client, &done, self.what.wait).await
    }
}

impl Update {
    pub(crate) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        // A misspelt name should not cost an upload.
        let _known: ServiceView = client.get(&path(&self.name), &[]).await?;
        let content = self.what.content(&client, None).await?;
        let done: Deployed = client.put(&path(&self.name), &content).await?;
        finish(context, &client, &done, self.what.wait).await
    }
}

impl What {
    /// Reads and checks the documents and brings the files they name to the node.
    async fn content(&self, client: &Client, name: Option<String>) -> Result<Content, CliError> {
        let document = Document::read_service(&self.file)?;
        let read = |file: &Path| document.read_binding(file);
        let binding = self.binding.as_deref().map(read).transpose()?;
        let assets = assets(&document, Sink::Node(client), Some(client)).await?;
        Ok(Content { source: document.source, assets, binding, strategy: self.strategy, name })
    }
}

async fn finish(
    context: &Context,
    client: &Client,
    done: &Deployed,
    wait: bool,
) -> Result<u8, CliError> {
    if wait {
        tokio::select! {
            waited = wait_for(client, done) => waited?,
            _ = tokio::signal::ctrl_c() => {
                note(&format!("{} goes on; `opencloud service show {0}` shows how", done.name));
                return Ok(CANCELLED);
            }
        }
    }
    if context.out.is_json() {
        context.out.json(done);
    } else {
        let what = if done.is_new { "is deployed" } else { "was deployed before and is wanted" };
        context.out.line(&format!("revision {} of {} {what}", done.revision, done.name));
    }
    Ok(OK)
}

/// Returns when every replica is of the revision and healthy.
async fn wait_for(client: &Client, done: &Deployed) -> Result<(), CliError> {
    let mut told = String::new();
    loop {
        let view: ServiceView = client.get(&path(&done.name), &[]).await?;
        let is_it = view.summary.revision == done.revision;
        match view.summary.state.as_str() {
            "running" | "idle" if is_it => return Ok(()),
            state if state == "stopped" || state == "removing" || !is_it => {
                let detail =
                    view.trouble.unwrap_or_else(|| "something else is wanted by now".to_owned());
                return Err(CliError::ServiceStopped { name: done.name.clone(), detail });
            }
            _ => {}
        }
        let text = progress(&view, done.revision);
        if text != told {
            note(&text);
            told = text;
        }
        tokio::time::sleep(LOOK_EVERY).await;
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
