//! `opencloud service logs`.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use scheduler::service::EventBody;
use scheduler::task::RunId;
use serde_json::json;

use super::path;
use super::show::short;
use crate::api::Piece;
use crate::cli::Context;
use crate::cli::client::Client;
use crate::cli::error::{CliError, OK};
use crate::cli::output::note;
use crate::cli::run::pick;
use crate::cli::sse::Events;
use crate::cli::units::parse_duration;
use crate::cli::written::{dropped, tell_dropped};
use crate::engine::services::{ServiceView, run_of};

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The service
    name: String,
    /// The replica: a unique beginning of its id [default: those that are there, else the last one]
    #[arg(long, value_name = "ID")]
    replica: Option<String>,
    /// One stream alone [default: both]
    #[arg(long, value_enum, value_name = "STREAM")]
    stream: Option<Stream>,
    /// Go on until the replica has ended; follows standard output unless --stream says otherwise
    #[arg(long)]
    follow: bool,
    /// Of each stream the last N lines alone
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// What came within this time alone, such as 10m; to the second or so, and whole pieces as they came
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    since: Option<u64>,
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

/// Now, in Unix milliseconds.
fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl Logs {
    pub(crate) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        let view: ServiceView = client.get(&path(&self.name), &[]).await?;
        let chosen = self.choose(&view)?;
        if self.follow {
            let stream = self.stream.unwrap_or(Stream::Stdout);
            let [run] = chosen[..] else {
                let what = format!(
                    "{} replicas are there: name the one to follow with --replica",
                    chosen.len()
                );
                return Err(CliError::usage(what));
            };
            return self.follow(context, &client, run, stream).await;
        }
        let streams = self.stream.map_or(vec![Stream::Stdout, Stream::Stderr], |one| vec![one]);
        let mut is_silent = true;
        for run in chosen {
            for stream in &streams {
                is_silent &= !self.print(context, &client, run, *stream).await?;
            }
        }
        if is_silent && !context.out.is_json() {
            note("nothing is written there");
        }
        Ok(OK)
    }

    /// The replicas whose logs are wanted.
    fn choose(&self, view: &ServiceView) -> Result<Vec<RunId>, CliError> {
        let there = view.replicas_now.iter().filter(|replica| replica.attempt.is_some());
        let there: Vec<RunId> = there.map(|replica| replica.run).collect();
        let mut lately: Vec<RunId> = view
            .events
            .iter()
            .rev()
            .filter(|event| matches!(event.body, EventBody::Placed { .. }))
            .filter_map(|event| run_of(&event.body))
            .collect();
        let Some(given) = &self.replica else {
            lately.truncate(1);
            return Ok(if there.is_empty() { lately } else { there });
        };
        lately.extend(there);
        lately.sort_unstable();
        lately.dedup();
        let digits = given.strip_prefix("run-").unwrap_or(given).to_ascii_lowercase();
        let things = lately.into_iter().map(|run| (run, short(run)));
        let fits = |run: &RunId| run.to_string()["run-".len()..].starts_with(&digits);
        pick("replica", given, things, fits).map(|run| vec![run])
    }

    async fn open(
        &self,
        client: &Client,
        run: RunId,
        stream: Stream,
        follow: bool,
    ) -> Result<reqwest::Response, CliError> {
        let run = run.to_string();
        let follow = if follow { "true" } else { "false" };
        let tail = self.tail.map(|lines| lines.to_string());
        let since = self.since.map(|ago_ms| unix_ms().saturating_sub(ago_ms).to_string());
        let mut query =
            vec![("replica", run.as_str()), ("stream", stream.as_str()), ("follow", follow)];
        query.extend(tail.as_deref().map(|tail| ("tail", tail)));
        query.extend(since.as_deref().map(|since| ("since", since)));
        client.open(&format!("{}/logs", path(&self.name)), &query).await
    }

    /// Prints what is there, and says whether anything is.
    async fn print(
        &self,
        context: &Context,
        client: &Client,
        run: RunId,
        stream: Stream,
    ) -> Result<bool, CliError> {
        let mut response = self.open(client, run, stream, false).await?;
        let (replica, dropped) = (short(run), dropped(&response));
        if context.out.is_json() {
            let mut bytes = Vec::new();
            while let Some(more) = response.chunk().await? {
                bytes.extend_from_slice(&more);
            }
            let text = String::from_utf8_lossy(&bytes);
            let stream = stream.as_str();
            let log = json!({"replica": run, "stream": stream, "text": text, "dropped": dropped});
            context.out.json_line(&log);
            return Ok(true);
        }
        let mut is_first = true;
        while let Some(bytes) = response.chunk().await? {
            if is_first {
                note(&format!("==> {replica} {}", stream.as_str()));
                tell_dropped(dropped, "before or between what follows");
            }
            is_first = false;
            context.out.bytes(&bytes);
        }
        Ok(!is_first)
    }

    async fn follow(
        &self,
        context: &Context,
        client: &Client,
        run: RunId,
        stream: Stream,
    ) -> Result<u8, CliError> {
        let mut events = Events::new(self.open(client, run, stream, true).await?);
        while let Some(data) = events.next().await? {
            let piece: Piece = serde_json::from_str(&data)
                .map_err(|_| CliError::Stream { what: "a piece of a log cannot be read" })?;
            if context.out.is_json() {
                context.out.json_line(&piece);
            } else {
                tell_dropped(piece.dropped, "that were written here");
                context.out.bytes(piece.text.as_bytes());
            }
        }
        Ok(OK)
    }
}
