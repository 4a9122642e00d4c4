//! `opencloud service deploy`, `update`.

use std::path::{Path, PathBuf};

use clap::Args;
use scheduler::place::Strategy;
use scheduler::service::Content;

use super::path;
use super::wait::{Wanted, wait_for};
use crate::api::Deployed;
use crate::cli::Context;
use crate::cli::client::Client;
use crate::cli::document::Document;
use crate::cli::error::{CANCELLED, CliError, OK};
use crate::cli::run::assets;
use crate::cli::upload::Sink;
use crate::engine::services::ServiceView;

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
    /// Wait until all replicas are healthy, or cannot get so
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
    if wait && !wait_for(client, &Wanted::update(done)).await? {
        return Ok(CANCELLED);
    }
    if context.out.is_json() {
        context.out.json(done);
    } else {
        let what = if done.is_new { "is deployed" } else { "was deployed before and is wanted" };
        context.out.line(&format!("revision {} of {} {what}", done.revision, done.name));
    }
    Ok(OK)
}
