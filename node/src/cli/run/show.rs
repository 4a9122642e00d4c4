//! `opencloud run list`, `show`, `explain`, `cancel`.

use clap::Args;

use super::outputs::text_of;
use super::resolve;
use crate::api::Submitted;
use crate::cli::Context;
use crate::cli::error::{CliError, OK};
use crate::cli::output::note;
use crate::cli::units::{money, span, time};
use crate::engine::command::{CostView, RunSummary, RunView, TaskExplanation, TaskView};

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
            format!("{}/{}", run.committed, run.total),
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
    /// The run: its id or a unique beginning of it, with or without `run-`
    run: String,
}

impl Show {
    pub(crate) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        let id = resolve(&client, &self.run).await?;
        let view: RunView = client.get(&format!("/runs/{id}"), &[]).await?;
        if context.out.is_json() {
            context.out.json(&view);
        } else {
            print(context, &view);
        }
        Ok(OK)
    }
}

fn print(context: &Context, view: &RunView) {
    let (run, out) = (&view.summary, context.out);
    let mut facts = vec![
        ("run", run.id.to_string()),
        ("workflow", run.workflow.clone()),
        ("state", run.state.clone()),
        ("tasks", format!("{} of {} done", run.committed, run.total)),
        ("submitted", time(run.submitted_ms)),
    ];
    if let Some(by) = &run.by {
        facts.push(("by", by.clone()));
    }
    if let Some(area) = &run.area {
        facts.push(("area", area.clone()));
    }
    if let Some(end) = run.ended_ms {
        facts.push(("took", span(end.saturating_sub(run.submitted_ms))));
    }
    if !view.costs.is_empty() {
        facts.push(("cost", view.costs.iter().map(cost).collect::<Vec<_>>().join("\n")));
    }
    if let Some(detail) = &view.detail {
        facts.push(("trouble", detail.clone()));
    }
    out.facts(&facts);
    out.line("");
    let steps = view.steps.iter().map(|step| {
        vec![step.step.clone(), step.state.clone(), format!("{}/{}", step.committed, step.tasks)]
    });
    out.table(&["step", "state", "tasks"], steps.collect(), "the workflow has no steps");
    out.line("");
    out.table(&TASK_HEADER, tasks(&view.tasks), "no task has started");
    if !view.outputs.is_empty() {
        out.line("");
        let rows = view.outputs.iter().map(|(name, value)| vec![name.clone(), text_of(value)]);
        out.table(&["output", "value"], rows.collect(), "");
    }
}

/// `0.0012 EUR, all of it acknowledged`.
pub(crate) fn cost(cost: &CostView) -> String {
    let claimed = money(cost.claimed, cost.currency);
    if cost.earned == cost.claimed {
        format!("{claimed}, all of it acknowledged")
    } else {
        format!("{claimed}, of which {} are acknowledged", money(cost.earned, cost.currency))
    }
}

/// The columns of [`tasks`].
const TASK_HEADER: [&str; 7] =
    ["task", "index", "attempt", "organisation", "state", "took", "remark"];

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
    /// The run: its id or a unique beginning of it, with or without `run-`
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
        let is_over = |task: &TaskExplanation| {
            matches!(task.state.as_str(), "committed" | "failed" | "skipped")
        };
        for task in &explained {
            context.out.line(&format!("{}[{}]: {}", task.step, task.index, task.state));
            task.reasons.iter().for_each(|reason| context.out.line(&format!("  {reason}")));
        }
        if explained.iter().all(is_over) {
            note("what else was weighed is kept only while a run goes on");
        }
        Ok(OK)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The run: its id or a unique beginning of it, with or without `run-`
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
