//! `opencloud run exec` and `opencloud run console`.

use clap::Args;

use super::resolve;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::inside::{TaskName, Wanted, enter};

#[derive(Debug, Args)]
struct Task {
    /// The run: its id or a unique beginning of it, with or without `run-`
    run: String,
    /// The step, and the index of its task where it has several, like `fit[3]`
    #[arg(value_name = "STEP[INDEX]", value_parser = TaskName::parse)]
    task: TaskName,
    /// The attempt, which has to be the one that runs [default: that one]
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    task: Task,
    /// Give the command a terminal: this one
    #[arg(long, short)]
    tty: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Console {
    #[command(flatten)]
    task: Task,
}

impl Exec {
    pub(crate) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let wanted = Wanted::Command { argv: self.command, tty: self.tty };
        self.task.enter(context, "exec", wanted).await
    }
}

impl Console {
    pub(crate) async fn run(self, context: &Context) -> Result<u8, CliError> {
        self.task.enter(context, "console", Wanted::Console).await
    }
}

impl Task {
    async fn enter(self, context: &Context, what: &str, wanted: Wanted) -> Result<u8, CliError> {
        wanted.check(context)?;
        let client = context.client()?;
        let id = resolve(&client, &self.run).await?;
        let (index, attempt) = (self.task.index.to_string(), self.attempt.map(|n| n.to_string()));
        let mut query = vec![("step", self.task.step.as_str()), ("index", &index)];
        query.extend(attempt.as_ref().map(|attempt| ("attempt", attempt.as_str())));
        enter(&client, &format!("/runs/{id}/{what}"), &query, wanted).await
    }
}
