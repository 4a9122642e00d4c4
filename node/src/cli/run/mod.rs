//! `opencloud run`.

mod inside;
mod logs;
mod outputs;
mod progress;
mod request;
mod show;
mod steer;
mod submit;
mod watch;

use clap::Subcommand;
use scheduler::task::RunId;

pub(super) use self::outputs::{Saved, save};
pub(super) use self::progress::View;
pub(super) use self::request::{Pair, Request, assets, disk_image};
pub(super) use self::show::cost;
pub(super) use self::submit::start;
pub(super) use self::watch::{Watched, follow};

use super::client::Client;
use super::error::CliError;
use super::{Context, EXIT_CODES};
use crate::engine::command::{CANDIDATES_MAX, RunSummary};

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
    #[command(after_help = format!("\
A task is pending (not placed yet), negotiating, compiling (its program is made ready,
once per node), running, suspended, committed, or failed in the way that stands there.

Example:
  opencloud run show 3f2a

{EXIT_CODES}"))]
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
Of each stream of a task the first MiB is kept; it is said how much more was written. All of
standard output is kept by a step that declares it as an output.

Examples:
  opencloud run logs 3f2a                              everything of every attempt
  opencloud run logs 3f2a slope --index 2              one task's newest attempt
  opencloud run logs 3f2a slope --stream stderr --follow
  opencloud run logs 3f2a slope --tail 20

{EXIT_CODES}"))]
    Logs(logs::Logs),
    /// Run a command inside a container task that runs
    #[command(after_help = "\
The task may run here or at another node. The command runs beside the task's own program:
as the same user, with the same files, environment and limits, and what it uses is metered
as the task's. When it ends, or this command does, so does everything that it has started.

The owner of the node where the task runs has to allow it: `opencloud up --exec`, see there.
`opencloud catalog search 'exec = realm'` shows who does. Only the node that submitted the
run may, and each time is noted in the run's events and in the logs of both nodes. Sessions
in which nothing moves for 30 minutes are ended. Nobody gets inside pods and jobs of clusters.

Examples:
  opencloud run exec 3f2a fit -- ps
  opencloud run exec 3f2a fit[2] --tty -- sh
  tar c data | opencloud run exec 3f2a fit -- tar x

The exit code is the command's: 127 and 126 when there is no such program, or it cannot be
executed; 125 when there is no session, or it was cut; 64 wrong command line, 130 cancelled.")]
    Exec(inside::Exec),
    /// Be at the serial console of a machine task that runs
    #[command(after_help = "\
Shows the end of what the console has said, then what it says, and passes on what is typed.
Ctrl-] leaves; the machine goes on. Without a terminal, standard input is passed on. Who may
is the same as with `run exec`.

Example:
  opencloud run console 3f2a boot

Exit codes: 0 left, or the machine has ended; 125 when there is no session, or it was cut;
64 wrong command line, 130 cancelled.")]
    Console(inside::Console),
    /// Have a machine task stand still, and give back what it holds but its files
    #[command(after_help = format!("\
What the machine has in memory is written to its task's disk, which has to have room for
it: give the step as much more `disk` as it has `memory`. Then its node has its processor
and its memory for others, and the task is billed for its disk alone. Time that it is
suspended is no time of its timeout. Connections that it has are gone when it goes on, and
its clock is set then.

Only the node that submitted the run may do so. A task is suspended for at most 7 days. It
is lost, and tried again from its beginning, when its node stops meanwhile.

Example:
  opencloud run suspend 3f2a boot

{EXIT_CODES}"))]
    Suspend(steer::Task),
    /// Let a suspended task go on where it was, at the same node
    #[command(after_help = format!("\
When that node has no room for it now, the task stays suspended: try again later.

Example:
  opencloud run resume 3f2a boot

{EXIT_CODES}"))]
    Resume(steer::Task),
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
            Self::Exec(verb) => Box::pin(verb.run(context)).await,
            Self::Console(verb) => Box::pin(verb.run(context)).await,
            Self::Suspend(task) => Box::pin(task.suspend(context)).await,
            Self::Resume(task) => Box::pin(task.resume(context)).await,
            Self::Explain(verb) => verb.run(context).await,
            Self::Cancel(verb) => verb.run(context).await,
        }
    }
}

/// The run that an id or a unique beginning of it names, with or without `run-`.
async fn resolve(client: &Client, prefix: &str) -> Result<RunId, CliError> {
    if let Ok(id) = prefix.parse() {
        return Ok(id);
    }
    let digits = prefix.strip_prefix("run-").unwrap_or(prefix).to_ascii_lowercase();
    let runs: Vec<RunSummary> = client.get("/runs", &[]).await?;
    let ids = runs.into_iter().map(|run| {
        let label = format!("{} ({}, {})", run.id, run.workflow, run.state);
        (run.id, label)
    });
    pick("run", prefix, ids, |id| {
        id.to_string().strip_prefix("run-").is_some_and(|hex| hex.starts_with(&digits))
    })
}

/// The only thing that fits what was given. Several are named; a text that says nothing fits all and chooses none, however few
/// there are.
pub(super) fn pick<T>(
    what: &'static str,
    given: &str,
    things: impl Iterator<Item = (T, String)>,
    fits: impl Fn(&T) -> bool,
) -> Result<T, CliError> {
    let mut found: Vec<(T, String)> = things.filter(|(thing, _)| fits(thing)).collect();
    let is_empty = matches!(given, "" | "run-" | "blake3:");
    if found.len() == 1
        && !is_empty
        && let Some((thing, _)) = found.pop()
    {
        return Ok(thing);
    }
    let prefix = given.to_owned();
    if found.is_empty() {
        return Err(CliError::NoMatch { what, prefix });
    }
    let count = found.len();
    let candidates = found.into_iter().take(CANDIDATES_MAX).map(|(_, label)| label).collect();
    Err(CliError::Ambiguous { what, prefix, count, candidates })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unique_beginning_names_a_thing_and_others_are_named() {
        let given = |given: &str, things: &[&str]| {
            let digits = given.strip_prefix("run-").unwrap_or(given).to_owned();
            let things = things.iter().map(|thing| ((*thing).to_owned(), format!("run-{thing}")));
            pick("run", given, things, |thing: &String| thing.starts_with(&digits))
        };
        let things = ["abab", "abcd"];
        assert_eq!(given("aba", &things).unwrap(), "abab");
        assert_eq!(given("run-abc", &things).unwrap(), "abcd");
        for (prefix, things, message) in [
            ("ab", &things[..], "`ab` may mean 2 runs: run-abab, run-abcd"),
            ("", &things, "`` may mean 2 runs: run-abab, run-abcd"),
            ("run-", &things[..1], "`run-` may mean 1 run: run-abab"),
            ("x", &things, "no run has an id that begins with `x`"),
            ("", &[], "no run has an id that begins with ``"),
        ] {
            assert_eq!(given(prefix, things).unwrap_err().message(), message);
        }
        let many = ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9"];
        let error = given("a", &many).unwrap_err();
        assert!(error.message().ends_with("run-a7 and 2 more"), "{}", error.message());
    }
}
