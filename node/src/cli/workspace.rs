//! `opencloud workspace`.

use std::path::PathBuf;

use clap::Subcommand;

use super::client::Client;
use super::error::{CliError, OK};
use super::units::time;
use super::{Context, EXIT_CODES, document};
use crate::api::PutWorkspace;
use crate::engine::command::ResourceView;
use crate::engine::workspaces::{Workspace, WorkspaceSummary, WorkspaceView, parse_name};

/// Resources that an error names of those that fit.
const CANDIDATES_MAX: usize = 5;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List all workspaces of this node
    #[command(after_help = format!("Example:\n  opencloud workspace list\n\n{EXIT_CODES}"))]
    List,
    /// Show what is in a workspace
    #[command(after_help = format!("\
Examples:
  opencloud workspace show floods
  opencloud workspace show floods --output json

{EXIT_CODES}"))]
    Show {
        /// Its name
        #[arg(value_parser = parse_name)]
        name: String,
    },
    /// Make an empty workspace
    #[command(after_help = format!("\
Example:
  opencloud workspace create floods --about 'the lower valley'

{EXIT_CODES}"))]
    Create {
        /// Letters, digits, `-`, `_` and `.`
        #[arg(value_parser = parse_name)]
        name: String,
        /// What it is for, in a line
        #[arg(long, value_name = "TEXT", default_value = "")]
        about: String,
    },
    /// Put resources into a workspace
    #[command(after_help = format!("\
Example:
  opencloud workspace add floods data/dem 4BjnT4/compute/main

{EXIT_CODES}"))]
    Add {
        /// The workspace
        #[arg(value_parser = parse_name)]
        name: String,
        /// As for `opencloud catalog show`
        #[arg(required = true, value_name = "RESOURCE")]
        resources: Vec<String>,
    },
    /// Take resources out of a workspace
    #[command(after_help = format!("\
Example:
  opencloud workspace drop floods data/dem

{EXIT_CODES}"))]
    Drop {
        /// The workspace
        #[arg(value_parser = parse_name)]
        name: String,
        /// `AUTHOR/KEY` as `workspace show` prints it, or an end of it that is unique
        #[arg(required = true, value_name = "RESOURCE")]
        resources: Vec<String>,
    },
    /// Write the notes of a workspace anew
    #[command(after_help = format!("\
Example:
  opencloud workspace note floods 'ask the office for the newer ones'

{EXIT_CODES}"))]
    Note {
        /// The workspace
        #[arg(value_parser = parse_name)]
        name: String,
        /// The notes; nothing to have none
        text: String,
    },
    /// Run a search that a workspace keeps, or keep one in it
    #[command(after_help = format!("\
Examples:
  opencloud workspace search floods big --filter 'kind = compute and cpu >= 4'
  opencloud workspace search floods big
  opencloud workspace search floods big --forget

{EXIT_CODES}"))]
    Search {
        /// The workspace
        #[arg(value_parser = parse_name)]
        name: String,
        /// The search
        search: String,
        /// Keep this filter under the name, as `opencloud catalog search --help` describes it
        #[arg(long, conflicts_with = "forget")]
        filter: Option<String>,
        /// Keep it no longer
        #[arg(long)]
        forget: bool,
    },
    /// Print a draft of a workflow that a workspace keeps, or keep one in it
    #[command(after_help = format!("\
Examples:
  opencloud workspace workflow floods model --file model.yaml
  opencloud workspace workflow floods model > model.yaml
  opencloud workspace workflow floods model --forget

{EXIT_CODES}"))]
    Workflow {
        /// The workspace
        #[arg(value_parser = parse_name)]
        name: String,
        /// The draft
        workflow: String,
        /// Keep this document under the name, whether it is right already or not
        #[arg(long, conflicts_with = "forget")]
        file: Option<PathBuf>,
        /// Keep it no longer
        #[arg(long)]
        forget: bool,
    },
    /// Remove a workspace; what is in it stays where it is
    #[command(after_help = format!("Example:\n  opencloud workspace remove floods\n\n{EXIT_CODES}"))]
    Remove {
        /// Its name
        #[arg(value_parser = parse_name)]
        name: String,
    },
}

impl Verb {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        match self {
            Self::List => list(context, &client).await?,
            Self::Show { name } => show(context, &read(&client, name).await?),
            Self::Create { name, about } => {
                let workspace = Workspace { about: about.clone(), ..Workspace::default() };
                written(context, &write(&client, name, 0, workspace).await?);
            }
            Self::Add { name, resources } => {
                let mut ids = Vec::new();
                for id in resources {
                    let found: ResourceView =
                        client.get("/catalog/resource", &[("id", id)]).await?;
                    ids.push(found.id);
                }
                change(context, &client, name, |workspace| {
                    workspace.resources.extend(ids);
                    Ok(())
                })
                .await?;
            }
            Self::Drop { name, resources } => {
                change(context, &client, name, |workspace| {
                    resources.iter().try_for_each(|id| drop_one(workspace, name, id))
                })
                .await?;
            }
            Self::Note { name, text } => {
                change(context, &client, name, |workspace| {
                    workspace.notes.clone_from(text);
                    Ok(())
                })
                .await?;
            }
            Self::Search { name, search, filter, forget } => {
                self::search(context, &client, (name, search), (filter.as_ref(), *forget)).await?;
            }
            Self::Workflow { name, workflow, file, forget } => {
                let text = file.as_deref().map(document::read_text).transpose()?;
                draft(context, &client, (name, workflow), (text, *forget)).await?;
            }
            Self::Remove { name } => {
                client.delete(&at(name), &[]).await?;
                context.out.line(&format!("workspace {name} is gone"));
            }
        }
        Ok(OK)
    }
}

fn at(name: &str) -> String {
    format!("/workspaces/{}", name)
}

async fn read(client: &Client, name: &str) -> Result<WorkspaceView, CliError> {
    client.get(&at(name), &[]).await
}

async fn write(
    client: &Client,
    name: &str,
    version: u64,
    workspace: Workspace,
) -> Result<WorkspaceView, CliError> {
    client.put(&at(name), &PutWorkspace { version, workspace }).await
}

/// Changes what was read; the node refuses it when somebody else has changed it meanwhile.
async fn change(
    context: &Context,
    client: &Client,
    name: &str,
    change: impl FnOnce(&mut Workspace) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let view = read(client, name).await?;
    let mut workspace = Workspace {
        about: view.about,
        notes: view.notes,
        resources: view.resources.into_iter().map(|chosen| chosen.id).collect(),
        searches: view.searches,
        workflows: view.workflows,
    };
    change(&mut workspace)?;
    written(context, &write(client, name, view.version, workspace).await?);
    Ok(())
}

fn written(context: &Context, view: &WorkspaceView) {
    if context.out.is_json() {
        context.out.json(view);
    } else {
        context.out.line(&format!("workspace {} is at version {}", view.name, view.version));
    }
}

/// What a workspace has under a name.
fn found<T>(
    workspace: &str,
    what: &'static str,
    name: &str,
    held: Option<T>,
) -> Result<T, CliError> {
    held.ok_or_else(|| CliError::NotInWorkspace {
        workspace: workspace.to_owned(),
        what,
        name: name.to_owned(),
    })
}

fn drop_one(workspace: &mut Workspace, name: &str, id: &str) -> Result<(), CliError> {
    let fits = |held: &&String| **held == *id || held.ends_with(id);
    let fitting: Vec<String> = workspace.resources.iter().filter(fits).cloned().collect();
    match fitting.as_slice() {
        [one] => {
            workspace.resources.remove(one);
            Ok(())
        }
        [] => found(name, "resource", id, None),
        several => Err(CliError::Ambiguous {
            what: "resource",
            prefix: id.to_owned(),
            count: several.len(),
            candidates: several.iter().take(CANDIDATES_MAX).cloned().collect(),
        }),
    }
}

async fn search(
    context: &Context,
    client: &Client,
    (name, search): (&str, &str),
    (filter, is_forgotten): (Option<&String>, bool),
) -> Result<(), CliError> {
    if filter.is_some() || is_forgotten {
        return change(context, client, name, |workspace| {
            match filter {
                Some(filter) => workspace.searches.insert(search.to_owned(), filter.clone()),
                None => Some(found(name, "search", search, workspace.searches.remove(search))?),
            };
            Ok(())
        })
        .await;
    }
    let view = read(client, name).await?;
    let filter = found(name, "search", search, view.searches.get(search))?;
    super::catalog::list(context, filter, false).await.map(drop)
}

async fn draft(
    context: &Context,
    client: &Client,
    (name, workflow): (&str, &str),
    (text, is_forgotten): (Option<String>, bool),
) -> Result<(), CliError> {
    if text.is_some() || is_forgotten {
        return change(context, client, name, |workspace| {
            match text {
                Some(text) => workspace.workflows.insert(workflow.to_owned(), text),
                None => {
                    Some(found(name, "workflow", workflow, workspace.workflows.remove(workflow))?)
                }
            };
            Ok(())
        })
        .await;
    }
    let view = read(client, name).await?;
    let text = found(name, "workflow", workflow, view.workflows.get(workflow))?;
    if context.out.is_json() {
        context.out.json(&serde_json::json!({"name": workflow, "document": text}));
    } else {
        context.out.bytes(text.as_bytes());
    }
    Ok(())
}

async fn list(context: &Context, client: &Client) -> Result<(), CliError> {
    let all: Vec<WorkspaceSummary> = client.get("/workspaces", &[]).await?;
    if context.out.is_json() {
        context.out.json(&all);
        return Ok(());
    }
    let row = |one: WorkspaceSummary| {
        let counts = [one.resources, one.searches, one.workflows].map(|n| n.to_string());
        let changed = time(one.changed_ms);
        [one.name].into_iter().chain(counts).chain([changed, one.about]).collect()
    };
    let header = ["name", "resources", "searches", "workflows", "changed", "about"];
    let empty = "no workspace: `opencloud workspace create NAME` makes one";
    context.out.table(&header, all.into_iter().map(row).collect(), empty);
    Ok(())
}

fn show(context: &Context, view: &WorkspaceView) {
    if context.out.is_json() {
        context.out.json(view);
        return;
    }
    let mut facts = vec![
        ("workspace", format!("{}, version {}", view.name, view.version)),
        ("changed", time(view.changed_ms)),
    ];
    for (what, text) in [("about", &view.about), ("notes", &view.notes)] {
        if !text.is_empty() {
            facts.push((what, text.clone()));
        }
    }
    facts.extend(view.searches.iter().map(|(name, text)| ("search", format!("{name}: {text}"))));
    facts.extend(view.workflows.keys().map(|name| ("workflow", name.clone())));
    context.out.facts(&facts);
    let rows = view.resources.iter().map(|one| {
        let gone = || "not in the catalogue now".to_owned();
        let kind = one.kind.clone().unwrap_or_default();
        let name = one.name.clone().unwrap_or_else(gone);
        vec![kind, name, one.org_name.clone().unwrap_or_default(), one.id.clone()]
    });
    let empty = format!("no resource: `opencloud workspace add {} RESOURCE` adds one", view.name);
    context.out.table(&["kind", "name", "organisation", "id"], rows.collect(), &empty);
}
