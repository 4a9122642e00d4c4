//! `opencloud service exec`.

use clap::Args;
use scheduler::task::RunId;

use super::path;
use super::show::short;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::inside::{Wanted, enter};
use crate::cli::run::pick;
use crate::engine::services::ServiceView;

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The service, and a unique beginning of the replica's id where it has several, like `web/3f2a`
    #[arg(value_name = "NAME[/REPLICA]")]
    name: String,
    /// Give the command a terminal: this one
    #[arg(long, short)]
    tty: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    pub(crate) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let wanted = Wanted::Command { argv: self.command, tty: self.tty };
        wanted.check(context)?;
        let client = context.client()?;
        let (name, given) = match self.name.split_once('/') {
            Some((name, replica)) => (name, Some(replica)),
            None => (self.name.as_str(), None),
        };
        let view: ServiceView = client.get(&path(name), &[]).await?;
        let run = choose(&view, given)?.to_string();
        let query = [("replica", run.as_str())];
        enter(&client, &format!("{}/exec", path(name)), &query, wanted).await
    }
}

/// The replica that is meant; without a word the only one that runs.
fn choose(view: &ServiceView, given: Option<&str>) -> Result<RunId, CliError> {
    let there = view.replicas_now.iter().filter(|replica| replica.attempt.is_some());
    let there: Vec<RunId> = there.map(|replica| replica.run).collect();
    let Some(given) = given else {
        return match there[..] {
            [only] => Ok(only),
            [] => Err(CliError::usage("no replica of the service runs now")),
            _ => {
                let known: Vec<String> = there.iter().map(|run| short(*run)).collect();
                let known = known.join(", ");
                Err(CliError::usage(format!("several replicas run, name one of them: {known}")))
            }
        };
    };
    let digits = given.strip_prefix("run-").unwrap_or(given).to_ascii_lowercase();
    let fits = |run: &RunId| run.to_string()["run-".len()..].starts_with(&digits);
    pick("replica", given, there.into_iter().map(|run| (run, short(run))), fits)
}
