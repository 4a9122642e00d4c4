//! `opencloud run submit`.

use std::path::{Path, PathBuf};

use catalog::id::to_hex;
use clap::Args;
use scheduler::run::{Ending, Submission};
use scheduler::task::RunId;
use serde_json::json;

use super::outputs::{Saved, save, shown};
use super::progress::View;
use super::request::Request;
use super::watch::{Watched, ended, follow};
use crate::api::Submitted;
use crate::cli::Context;
use crate::cli::client::Client;
use crate::cli::error::{CANCELLED, CliError, OK};
use crate::cli::output::note;
use crate::cli::upload::Sink;

#[derive(Debug, Args)]
pub(crate) struct Submit {
    #[command(flatten)]
    request: Request,
    /// Wait for the end and show what happens
    #[arg(long)]
    wait: bool,
    /// Write the outputs below this directory; implies --wait
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Submit {
    pub(crate) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        let (_, submission) = self.request.prepare(Sink::Node(&client), Some(&client)).await?;
        let id = start(&client, &submission).await?;
        if !self.wait && self.out.is_none() {
            if context.out.is_json() {
                context.out.json(&Submitted { id });
            } else {
                context.out.line(&id.to_string());
            }
            return Ok(OK);
        }
        if !context.out.is_json() {
            context.out.line(&id.to_string());
        }
        let watched = tokio::select! {
            watched = Box::pin(follow(&client, id, View::for_people())) => watched?,
            _ = tokio::signal::ctrl_c() => {
                note(&format!("{id} goes on; `opencloud run cancel {id}` stops it"));
                return Ok(CANCELLED);
            }
        };
        finish(context, &client, &watched, self.out.as_deref()).await
    }
}

/// Submits under a key of its own, so that a lost answer does not start a second run.
pub(crate) async fn start(client: &Client, submission: &Submission) -> Result<RunId, CliError> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(|_| CliError::Home(crate::shell::HomeError::Random))?;
    let submitted: Submitted = client.post_once("/runs", &to_hex(&key), submission).await?;
    Ok(submitted.id)
}

async fn finish(
    context: &Context,
    client: &Client,
    watched: &Watched,
    out: Option<&Path>,
) -> Result<u8, CliError> {
    let saved: Option<Vec<Saved>> = match out {
        Some(dir) if watched.ending == Ending::Succeeded => {
            Some(save(client, &watched.outputs, dir).await?)
        }
        _ => None,
    };
    if context.out.is_json() {
        context.out.json(&json!({
            "id": watched.id,
            "state": watched.state(),
            "detail": watched.detail,
            "outputs": shown(&watched.outputs, saved.as_deref()),
        }));
    } else {
        for output in saved.iter().flatten() {
            context.out.line(&format!("{}: {}", output.name, output.path.display()));
        }
    }
    ended(watched)
}
