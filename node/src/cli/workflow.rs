//! `opencloud workflow`.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use scheduler::graph;
use serde_json::json;

use super::document::{Document, Place, refuse};
use super::error::{CliError, FAILED, OK};
use super::output::note;
use super::run::Request;
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
Example:
  opencloud workflow plan workflow.yaml --input dem=valley.pgm --strategy cost

{EXIT_CODES}"))]
    Plan {
        #[command(flatten)]
        request: Request,
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
            Self::Plan { request } => plan(context, &request).await,
            Self::Graph { file, format } => draw(context, &file, format),
        }
    }
}

fn validate(context: &Context, file: &Path, binding: Option<&Path>) -> Result<u8, CliError> {
    let document = match Document::check(file)? {
        Ok(document) => document,
        Err(places) => return invalid(context, file, &places),
    };
    if let Some(binding) = binding
        && let Err(places) = document.check_binding(binding)?
    {
        return invalid(context, binding, &places);
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

fn invalid(context: &Context, file: &Path, places: &[Place]) -> Result<u8, CliError> {
    if context.out.is_json() {
        context.out.json(&json!({"valid": false, "file": file, "problems": places}));
        return Ok(FAILED);
    }
    Err(refuse(file, places))
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

async fn plan(context: &Context, request: &Request) -> Result<u8, CliError> {
    let client = context.client()?;
    let (_, submission) = request.prepare(Sink::Nowhere, Some(&client)).await?;
    let steps: Vec<StepPlan> = client.post("/plan", &submission).await?;
    let is_placeable = steps.iter().all(|step| step.is_placeable);
    if context.out.is_json() {
        context.out.json(&steps);
    } else {
        for step in &steps {
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
            context.out.line(&format!("{}: {tasks}{after}", step.step));
            step.candidates
                .iter()
                .for_each(|candidate| context.out.line(&format!("  {candidate}")));
        }
    }
    if is_placeable {
        return Ok(OK);
    }
    note("error: some steps can run nowhere");
    note("hint: the reasons stand with each node; `opencloud peers` shows who is there");
    Ok(FAILED)
}
