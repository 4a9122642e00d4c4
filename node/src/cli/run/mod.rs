//! `opencloud run`.

mod logs;
mod outputs;
mod progress;
mod request;
mod show;
mod submit;
mod watch;

use clap::Subcommand;
use scheduler::task::RunId;

pub(super) use self::outputs::{Saved, save};
pub(super) use self::progress::View;
pub(super) use self::request::{Pair, Request};
pub(super) use self::submit::start;
pub(super) use self::watch::{Watched, follow};

use super::client::Client;
use super::error::CliError;
use super::{Context, EXIT_CODES};
use crate::engine::command::RunSummary;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Start a workflow
    #[command(after_help = format!("\
Files that the workflow names and files given with --input are stored on the node
first, unless it has them. Without --wait the run's id is printed and the run goes
on by itself.

Examples:
  opencloud run submit workflow.yaml
  opencloud run submit workflow.yaml --input dem=valley.pgm --wait --out result
  opencloud run submit workflow.yaml --param tiles=12 --param interval=20
  opencloud run submit workflow.yaml --binding eu-only.yaml --strategy cost
  opencloud run submit workflow.yaml --strategy sovereignty=2,cost=1

With --wait the exit code is that of the run: 0 succeeded, 1 failed, 130 cancelled.

{EXIT_CODES}"))]
    Submit(submit::Submit),
    /// List all runs, newest first
    #[command(after_help = format!("Example:\n  opencloud run list\n\n{EXIT_CODES}"))]
    List,
    /// Show a run: its steps, attempts and outputs
    #[command(after_help = format!("Example:\n  opencloud run show 3f2a\n\n{EXIT_CODES}"))]
    Show(show::Show),
    /// Follow a run until it ends
    #[command(after_help = format!("\
The exit code is that of the run: 0 succeeded, 1 failed, 130 cancelled. With
--output json every event is one line.

Example:
  opencloud run watch 3f2a

{EXIT_CODES}"))]
    Watch(watch::Watch),
    /// Print what tasks wrote
    #[command(after_help = format!("\
Examples:
  opencloud run logs 3f2a                              everything of every attempt
  opencloud run logs 3f2a slope --index 2              one task's newest attempt
  opencloud run logs 3f2a slope --stream stderr --follow

{EXIT_CODES}"))]
    Logs(logs::Logs),
    /// Say why tasks run where they run, or why they wait
    #[command(after_help = format!("Example:\n  opencloud run explain 3f2a\n\n{EXIT_CODES}"))]
    Explain(show::Explain),
    /// Stop a run
    #[command(after_help = format!("Example:\n  opencloud run cancel 3f2a\n\n{EXIT_CODES}"))]
    Cancel(show::Cancel),
}

impl Verb {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        match self {
            Self::Submit(verb) => Box::pin(verb.run(context)).await,
            Self::List => show::list(context).await,
            Self::Show(verb) => verb.run(context).await,
            Self::Watch(verb) => Box::pin(verb.run(context)).await,
            Self::Logs(verb) => Box::pin(verb.run(context)).await,
            Self::Explain(verb) => verb.run(context).await,
            Self::Cancel(verb) => verb.run(context).await,
        }
    }
}

/// The run that a unique beginning of its id names, with or without `run-`.
async fn resolve(client: &Client, prefix: &str) -> Result<RunId, CliError> {
    if let Ok(id) = prefix.parse() {
        return Ok(id);
    }
    let runs: Vec<RunSummary> = client.get("/runs", &[]).await?;
    pick(prefix, runs.into_iter().map(|run| run.id))
}

fn pick(prefix: &str, ids: impl Iterator<Item = RunId>) -> Result<RunId, CliError> {
    let digits = prefix.strip_prefix("run-").unwrap_or(prefix);
    let starts =
        |id: &RunId| id.to_string().strip_prefix("run-").is_some_and(|hex| hex.starts_with(digits));
    let found: Vec<RunId> = ids.filter(starts).collect();
    match found[..] {
        [id] if !digits.is_empty() => Ok(id),
        _ => Err(CliError::RunPrefix { prefix: prefix.to_owned(), found: found.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unique_beginning_names_a_run_and_others_are_counted() {
        let mut bytes = [0xab; 16];
        let first = RunId::from_bytes(bytes);
        bytes[1] = 0xcd;
        let second = RunId::from_bytes(bytes);
        let pick = |prefix| pick(prefix, [first, second].into_iter());
        assert_eq!(pick("abab").unwrap(), first);
        assert_eq!(pick("run-abcd").unwrap(), second);
        for (prefix, count) in [("ab", 2), ("", 2), ("run-", 2), ("x", 0)] {
            assert!(
                matches!(pick(prefix), Err(CliError::RunPrefix { found, .. }) if found == count),
                "{prefix}"
            );
        }
    }
}
