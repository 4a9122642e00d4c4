//! `opencloud run suspend` and `opencloud run resume`.

use clap::Args;

use super::resolve;
use crate::api::{Steered, TaskName as Wanted};
use crate::cli::Context;
use crate::cli::error::{CliError, OK};
use crate::cli::inside::TaskName;

#[derive(Debug, Args)]
pub(crate) struct Task {
    /// The run: its id or a unique beginning of it, with or without `run-`
    run: String,
    /// The step, and the index of its task where it has several, like `fit[3]`
    #[arg(value_name = "STEP[INDEX]", value_parser = TaskName::parse)]
    task: TaskName,
    /// The attempt, which has to be the one that runs [default: that one]
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

impl Task {
    pub(crate) async fn suspend(self, context: &Context) -> Result<u8, CliError> {
        self.steer(context, "suspend", "is suspended").await
    }

    pub(crate) async fn resume(self, context: &Context) -> Result<u8, CliError> {
        self.steer(context, "resume", "goes on").await
    }

    async fn steer(self, context: &Context, verb: &str, done: &str) -> Result<u8, CliError> {
        let client = context.client()?;
        let id = resolve(&client, &self.run).await?;
        let TaskName { step, index } = self.task;
        let wanted = Wanted { step, index, attempt: self.attempt };
        let steered: Steered = client.post_slowly(&format!("/runs/{id}/{verb}"), &wanted).await?;
        if context.out.is_json() {
            context.out.json(&steered);
        } else {
            context.out.line(&format!("{}[{index}] {done}", wanted.step));
        }
        Ok(OK)
    }
}
