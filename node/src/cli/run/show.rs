//! `opencloud run list`, `show`, `explain`, `cancel`.

use clap::Args;

use super::outputs::plain;
use super::resolve;
use crate::api::{RunBody, Submitted};
use crate::cli::Context;
use crate::cli::error::{CliError, OK};
use crate::cli::units::{span, time};
use crate::engine::command::{RunSummary, TaskExplanation, TaskView};

pub(crate) async fn list(context: &Context) -> Result<u8, CliError> {
    let runs: Vec<RunSummary> = context.client()?.get("/runs", &[]).await?;
    if context.out.is_json() {
        context.out.json(&runs);
        return Ok(OK);
    }
    let rows = runs.into_iter().map(|run| {
        vec![
            run.id.to_string(),
            run.workflow,
            run.state,
            format!("{}/{}", run.committed, run.tasks),
            time(run.submitted_ms),
            run.ended_ms.map_or("…".to_owned(), |end| span(end.saturating_sub(run.submitted_ms))),
        ]
    });
    let header = ["run", "workflow", "state", "tasks", "submitted", "took"];
    context.out.table(
        &header,
        rows.collect(),
        "no runs yet: `opencloud run submit FILE` starts one",
    );
    Ok(OK)
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The run: its id or a unique beginning of it
    run: String,
}

impl Show {
    pub(crate) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        let id = resolve(&client, &self.run).await?;
        let view: RunBody = client.get(&format!("/runs/{id}"), &[]).await?;
        if context.out.is_json() {
            context.out.json(&view);
            return Ok(OK);
        }
        let mut facts = vec![
            ("run", view.id.to_string()),
            ("workflow", view.workflow.clone()),
            ("state", view.state.clone()),
            ("tasks", format!("{} of {} done", view.committed, view.total)),
            ("submitted", time(view.submitted_ms)),
        ];
        if let Some(end) = view.ended_ms {
            facts.push(("took", span(end.saturating_sub(view.submitted_ms))));
        }
        if let Some(detail) = &view.detail {
            facts.push(("trouble", detail.clone()));
        }
        context.out.facts(&facts);
        context.out.line("");
        let steps = view.steps.iter().map(|step| {
            vec![
                step.step.clone(),
                step.state.clone(),
                format!("{}/{}", step.committed, step.tasks),
            ]
        });
        context.out.table(
            &["step", "state", "tasks"],
            steps.collect(),
            "the workflow has no steps",
        );
        context.out.line("");
        let rows = tasks(&view.tasks);
        context.out.table(&TASK_HEADER, rows, "no task has started");
        if !view.outputs.is_empty() {
            context.out.line("");
            let rows = view
                .outputs
                .iter()
                .map(|(name, value)| vec![name.clone(), plain(value).to_string()]);
            context.out.table(&["output", "value"], rows.collect(), "");
        }
        Ok(OK)
    }
}

/// The columns of [`tasks`].
const TASK_HEADER: [&str; 7] =
    ["task", "index", "attempt", "organisation", "state", "took", "trouble"];

fn tasks(tasks: &[TaskView]) -> Vec<Vec<String>> {
    let row = |task: &TaskView| {
        let took =
            task.started_ms.zip(task.ended_ms).map(|(start, end)| span(end.saturating_sub(start)));
        let org = task.org_name.clone().or_else(|| task.node.map(|node| node.short()));
        vec![
            task.step.clone(),
            task.index.to_string(),
            if task.attempt == 0 { "-".to_owned() } else { task.attempt.to_string() },
            org.unwrap_or_default(),
            task.state.clone(),
            took.unwrap_or_default(),
            task.detail.clone().unwrap_or_default(),
        ]
    };
    tasks.iter().map(row).collect()
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The run: its id or a unique beginning of it
    run: String,
}

impl Explain {
    pub(crate) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        let id = resolve(&client, &self.run).await?;
        let explained: Vec<TaskExplanation> =
            client.get(&format!("/runs/{id}/explain"), &[]).await?;
        if context.out.is_json() {
            context.out.json(&explained);
            return Ok(OK);
        }
        for task in explained {
            context.out.line(&format!("{}[{}]: {}", task.step, task.index, task.state));
            task.reasons.iter().for_each(|reason| context.out.line(&format!("  {reason}")));
        }
        Ok(OK)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The run: its id or a unique beginning of it
    run: String,
}

impl Cancel {
    pub(crate) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        let id = resolve(&client, &self.run).await?;
        let cancelled: Submitted =
            client.post(&format!("/runs/{id}/cancel"), &serde_json::json!({})).await?;
        if context.out.is_json() {
            context.out.json(&cancelled);
        } else {
            context.out.line(&format!("{id} is being cancelled"));
        }
        Ok(OK)
    }
}
