//! `opencloud workflow`.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use scheduler::graph;
use serde_json::json;

use super::document::{Document, refuse};
use super::error::{CliError, OK, Place};
use super::run::Request;
use super::units::{parse_duration, span};
use super::upload::Sink;
use super::{Context, EXIT_CODES};
use crate::engine::command::StepPlan;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Check a workflow and the files it names; needs no node
    #[command(after_help = format!("\
Prints every problem as FILE:LINE:COLUMN, with what to do about it.

Examples:
  opencloud workflow validate workflow.yaml
  opencloud workflow validate workflow.yaml --binding here.yaml --output json

{EXIT_CODES}"))]
    Validate {
        /// The workflow document, YAML or JSON
        file: PathBuf,
        /// A binding document to check with it
        #[arg(long, value_name = "FILE")]
        binding: Option<PathBuf>,
    },
    /// Show where each step could run, and why; runs nothing
    #[command(after_help = format!("\
Nobody knows before a run how long a task takes. Times and prices of the plan are those
of a task that runs for --estimate on a machine of nominal speed; what a node asks for
an hour of such a task holds whatever the estimate. Inputs that earlier steps make are
not counted.

Examples:
  opencloud workflow plan workflow.yaml --input dem=valley.pgm --strategy cost
  opencloud workflow plan workflow.yaml --input dem=valley.pgm --estimate 20m

{EXIT_CODES}"))]
    Plan {
        #[command(flatten)]
        request: Request,
        /// How long each task is taken to run, like `30s` or `20m`
        #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_estimate)]
        estimate: u64,
    },
    /// Draw the steps and what flows between them; needs no node
    #[command(after_help = format!("\
Examples:
  opencloud workflow graph workflow.yaml
  opencloud workflow graph workflow.yaml --format dot | dot -Tsvg > graph.svg

{EXIT_CODES}"))]
    Graph {
        /// The workflow document, YAML or JSON
        file: PathBuf,
        /// The language to draw in
        #[arg(long, value_enum, default_value_t, value_name = "LANGUAGE")]
        format: GraphFormat,
    },
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum GraphFormat {
    /// For mermaid.js and Markdown
    #[default]
    Mermaid,
    /// For Graphviz
    Dot,
}

impl Verb {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        match self {
            Self::Validate { file, binding } => validate(context, &file, binding.as_deref()),
            Self::Plan { request, estimate } => plan(context, &request, estimate).await,
            Self::Graph { file, format } => draw(context, &file, format),
        }
    }
}

fn validate(context: &Context, file: &Path, binding: Option<&Path>) -> Result<u8, CliError> {
    let document = match Document::check(file)? {
        Ok(document) => document,
        Err(places) => return Err(invalid(context, file, places)),
    };
    if let Some(binding) = binding
        && let Err(places) = document.check_binding(binding)?
    {
        return Err(invalid(context, binding, places));
    }
    let workflow = &document.workflow;
    if context.out.is_json() {
        context.out.json(&json!({
            "valid": true,
            "name": workflow.name,
            "digest": workflow.digest,
            "steps": workflow.steps.iter().map(|step| &step.id).collect::<Vec<_>>(),
            "params": workflow.params.values().map(|p| json!({"name": p.name, "type": p.kind.as_str()})).collect::<Vec<_>>(),
            "outputs": workflow.outputs.keys().collect::<Vec<_>>(),
            "problems": [],
        }));
    } else {
        let (steps, params) = (workflow.steps.len(), workflow.params.len());
        context.out.line(&format!("{}: valid, {steps} steps, {params} parameters", workflow.name));
    }
    Ok(OK)
}

/// The answer for programs stands on standard output whether the document is valid or not.
fn invalid(context: &Context, file: &Path, places: Vec<Place>) -> CliError {
    if context.out.is_json() {
        context.out.json(&json!({"valid": false, "file": file, "problems": places}));
    }
    refuse(file, places)
}

fn draw(context: &Context, file: &Path, format: GraphFormat) -> Result<u8, CliError> {
    let document = Document::read(file)?;
    let (name, text) = match format {
        GraphFormat::Mermaid => ("mermaid", graph::mermaid(&document.workflow, None)),
        GraphFormat::Dot => ("dot", graph::dot(&document.workflow, None)),
    };
    if context.out.is_json() {
        context.out.json(&json!({"format": name, "graph": text}));
    } else {
        context.out.line(text.trim_end());
    }
    Ok(OK)
}

fn parse_estimate(text: &str) -> Result<u64, String> {
    parse_duration(text)
        .and_then(|ms| if ms == 0 { Err("a task runs for some time".to_owned()) } else { Ok(ms) })
}

async fn plan(context: &Context, request: &Request, estimate_ms: u64) -> Result<u8, CliError> {
    let client = context.client()?;
    let (_, submission) = request.prepare(Sink::Nowhere, Some(&client)).await?;
    let path = format!("/plan?estimate_ms={estimate_ms}");
    let steps: Vec<StepPlan> = client.post(&path, &submission).await?;
    if context.out.is_json() {
        context.out.json(&steps);
    } else {
        context.out.line(&format!(
            "Times and costs are those of tasks that run for {} (see --estimate): how long they will run is not known.",
            span(estimate_ms)
        ));
        for step in &steps {
            print_step(context, step);
        }
    }
    let stuck = steps.into_iter().filter(|step| !step.is_placeable).map(|step| step.step);
    let steps: Vec<String> = stuck.collect();
    if steps.is_empty() { Ok(OK) } else { Err(CliError::Unplaceable { steps }) }
}

fn print_step(context: &Context, step: &StepPlan) {
    let tasks = match step.tasks {
        None => "as many tasks as the steps before it give".to_owned(),
        Some(1) => "1 task".to_owned(),
        Some(n) => format!("{n} tasks"),
    };
    let after = if step.after.is_empty() {
        String::new()
    } else {
        format!(", after {}", step.after.join(", "))
    };
    let inputs = if step.counts_inputs { "" } else { ", its inputs not counted" };
    context.out.line(&format!("\n{}: {tasks}{after}{inputs}", step.step));
    step.candidates.iter().for_each(|candidate| context.out.line(&format!("  {candidate}")));
}
