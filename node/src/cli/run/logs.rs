//! `opencloud run logs`.

use clap::{Args, ValueEnum};
use scheduler::task::RunId;
use serde_json::json;

use super::resolve;
use crate::api::Piece;
use crate::cli::Context;
use crate::cli::client::Client;
use crate::cli::error::{CliError, OK};
use crate::cli::output::note;
use crate::cli::sse::Events;
use crate::cli::written::{dropped, tell_dropped};
use crate::engine::command::{RunView, TaskView};

/// Attempts whose logs are printed when no step is named; name one to see the others.
const ATTEMPTS_MAX: usize = 1_000;

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The run: its id or a unique beginning of it, with or without `run-`
    run: String,
    /// The step [default: all]
    step: Option<String>,
    /// The map index
    #[arg(long, value_name = "N", requires = "step")]
    index: Option<u32>,
    /// The attempt [default: the newest]
    #[arg(long, value_name = "N", requires = "step")]
    attempt: Option<u32>,
    /// One stream alone [default: both]
    #[arg(long, value_enum, value_name = "STREAM")]
    stream: Option<Stream>,
    /// Go on until the attempt has ended; follows standard output unless --stream says otherwise
    #[arg(long, requires = "step")]
    follow: bool,
    /// Of each stream the last N lines alone
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One attempt, or the newest one, and how much of it.
struct Target {
    step: String,
    index: u32,
    attempt: Option<u32>,
    /// So many last lines alone.
    tail: Option<u64>,
}

impl Logs {
    pub(crate) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        let id = resolve(&client, &self.run).await?;
        let streams = match self.stream {
            Some(stream) => vec![stream],
            None if self.follow => vec![Stream::Stdout],
            None => vec![Stream::Stdout, Stream::Stderr],
        };
        let Some(step) = &self.step else {
            return all(context, &client, id, &streams, self.tail).await;
        };
        let index = self.index.unwrap_or(0);
        let (step, attempt, tail) = (step.clone(), self.attempt, self.tail);
        let target = Target { step, index, attempt, tail };
        let mut is_silent = true;
        for stream in streams {
            if self.follow {
                tell_compiling(context, &client, id, &target).await;
                is_silent &= !follow(context, &client, id, &target, stream).await?;
            } else {
                let has_heading = self.stream.is_none();
                is_silent &= !print(context, &client, id, &target, stream, has_heading).await?;
            }
        }
        if is_silent && !context.out.is_json() {
            if !self.follow {
                tell_compiling(context, &client, id, &target).await;
            }
            note("nothing is written there");
        }
        Ok(OK)
    }
}

/// Says so when the attempt has not begun to write because its program is compiled.
async fn tell_compiling(context: &Context, client: &Client, id: RunId, target: &Target) {
    if context.out.is_json() {
        return;
    }
    // A courtesy: the log is what was asked for.
    let Ok(view) = client.get::<RunView>(&format!("/runs/{id}"), &[]).await else {
        return;
    };
    let is_asked = |task: &&TaskView| {
        task.step == target.step
            && task.index == target.index
            && task.state == "compiling"
            && target.attempt.is_none_or(|number| number == task.attempt)
    };
    if let Some(task) = view.tasks.iter().find(is_asked) {
        let what = task.detail.as_deref().unwrap_or("compiling");
        note(&format!("{}[{}]: {what}", task.step, task.index));
    }
}

async fn all(
    context: &Context,
    client: &Client,
    id: RunId,
    streams: &[Stream],
    tail: Option<u64>,
) -> Result<u8, CliError> {
    let view: RunView = client.get(&format!("/runs/{id}"), &[]).await?;
    let tries = view.tasks.iter().filter(|task| task.attempt > 0);
    for task in tries.clone().take(ATTEMPTS_MAX) {
        let (step, attempt) = (task.step.clone(), Some(task.attempt));
        let target = Target { step, index: task.index, attempt, tail };
        for stream in streams {
            print(context, client, id, &target, *stream, true).await?;
        }
    }
    let more = tries.count().saturating_sub(ATTEMPTS_MAX);
    if more > 0 {
        note(&format!("{more} more attempts are not shown: name a step to see its own"));
    }
    Ok(OK)
}

async fn open(
    client: &Client,
    id: RunId,
    target: &Target,
    stream: Stream,
    is_following: bool,
) -> Result<reqwest::Response, CliError> {
    let (index, follow) = (target.index.to_string(), is_following.to_string());
    let attempt = target.attempt.map(|number| number.to_string());
    let mut query = vec![
        ("step", target.step.as_str()),
        ("index", &index),
        ("stream", stream.as_str()),
        ("follow", &follow),
    ];
    if let Some(attempt) = &attempt {
        query.push(("attempt", attempt));
    }
    let tail = target.tail.map(|lines| lines.to_string());
    if let Some(tail) = &tail {
        query.push(("tail", tail));
    }
    client.open(&format!("/runs/{id}/logs"), &query).await
}

/// Prints what is there, and says whether anything was. With a heading, streams in which nothing stands are passed over.
async fn print(
    context: &Context,
    client: &Client,
    id: RunId,
    target: &Target,
    stream: Stream,
    has_heading: bool,
) -> Result<bool, CliError> {
    let mut response = open(client, id, target, stream, false).await?;
    let dropped = dropped(&response);
    let Target { step, index, attempt, tail: _ } = target;
    if context.out.is_json() {
        let mut text = Vec::new();
        while let Some(bytes) = response.chunk().await? {
            text.extend_from_slice(&bytes);
        }
        let text = String::from_utf8_lossy(&text);
        let stream = stream.as_str();
        let piece = json!({
            "step": step,
            "index": index,
            "attempt": attempt,
            "stream": stream,
            "text": text,
            "dropped": dropped,
        });
        context.out.json_line(&piece);
        return Ok(true);
    }
    let mut is_first = true;
    while let Some(bytes) = response.chunk().await? {
        if is_first && has_heading {
            let number = attempt.map_or(String::new(), |number| format!(" attempt {number}"));
            note(&format!("==> {step}[{index}]{number} {}", stream.as_str()));
        }
        is_first = false;
        context.out.bytes(&bytes);
    }
    tell_dropped(dropped, "that were written after that");
    Ok(!is_first)
}

/// Prints what is there and what comes, and says whether anything did.
async fn follow(
    context: &Context,
    client: &Client,
    id: RunId,
    target: &Target,
    stream: Stream,
) -> Result<bool, CliError> {
    let mut has_written = false;
    let mut events = Events::new(open(client, id, target, stream, true).await?);
    while let Some(data) = events.next().await? {
        has_written = true;
        let piece: Piece = serde_json::from_str(&data)
            .map_err(|_| CliError::Stream { what: "a piece of a log cannot be read" })?;
        if context.out.is_json() {
            context.out.json_line(&piece);
        } else {
            tell_dropped(piece.dropped, "that were written here");
            context.out.bytes(piece.text.as_bytes());
        }
    }
    Ok(has_written)
}
