//! `opencloud area`.

use std::path::PathBuf;

use catalog::OrgId;
use catalog::area::Standing;
use catalog::record::ShareKind;
use catalog::rules::RuleBook;
use clap::Subcommand;
use scheduler::rules;
use serde_json::json;

use super::client::Client;
use super::confirm::confirm;
use super::error::{CliError, OK};
use super::units::bytes;
use super::{Context, EXIT_CODES, document, peers};
use crate::api::{AreaVote, NewArea, ProposedRules, PutWorkspace, ShareInArea, SharedContent};
use crate::engine::areas::{AreaSummary, AreaView};
use crate::engine::workspaces::{Workspace, WorkspaceView};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Found an area; this organisation is its first member
    #[command(after_help = format!("\
Examples:
  opencloud area create valley --about 'floods of the lower valley'
  opencloud area create valley --rules rules.yaml

{EXIT_CODES}"))]
    Create {
        /// For people
        name: String,
        /// What it is for, in a line
        #[arg(long, value_name = "TEXT", default_value = "")]
        about: String,
        /// A rule book that what is shared has to keep
        #[arg(long, value_name = "FILE")]
        rules: Option<PathBuf>,
    },
    /// List areas, and invitations to areas
    #[command(after_help = format!("Example:\n  opencloud area list\n\n{EXIT_CODES}"))]
    List,
    /// Show members, open votes, rules and what is shared
    #[command(after_help = format!("\
Examples:
  opencloud area show valley
  opencloud area show valley --output json

{EXIT_CODES}"))]
    Show {
        /// Its name, or the beginning of its id
        area: String,
    },
    /// Vote to let an organisation in: it is in when it joins and more than half of the members want it
    #[command(after_help = format!("Example:\n  opencloud area invite valley Bolt\n\n{EXIT_CODES}"))]
    Invite {
        /// Its name, or the beginning of its id
        area: String,
        /// The organisation: its id, or its name
        org: String,
    },
    /// The same as `invite`, for one that another member has invited
    #[command(after_help = format!("Example:\n  opencloud area admit valley Bolt\n\n{EXIT_CODES}"))]
    Admit {
        /// Its name, or the beginning of its id
        area: String,
        /// The organisation: its id, or its name
        org: String,
    },
    /// Vote to put a member out: it is out when more than half of the others want that
    #[command(after_help = format!("Example:\n  opencloud area expel valley Bolt\n\n{EXIT_CODES}"))]
    Expel {
        /// Its name, or the beginning of its id
        area: String,
        /// The organisation: its id, or its name
        org: String,
    },
    /// Join an area to which a member has invited; shows it, and asks before
    #[command(after_help = format!("\
Examples:
  opencloud area join valley
  opencloud area join valley --yes

{EXIT_CODES}"))]
    Join {
        /// Its name, or the beginning of its id
        area: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Leave an area: what was shared is withdrawn
    #[command(after_help = format!("Example:\n  opencloud area leave valley\n\n{EXIT_CODES}"))]
    Leave {
        /// Its name, or the beginning of its id
        area: String,
    },
    /// Show an area no longer that was left, or decline an invitation
    #[command(after_help = format!("Example:\n  opencloud area forget valley\n\n{EXIT_CODES}"))]
    Forget {
        /// Its name, or the beginning of its id
        area: String,
    },
    /// Share a workspace, workflow or service with the members
    #[command(after_help = format!("\
Examples:
  opencloud area share valley workspace floods
  opencloud area share valley workflow model --file model.yaml

{EXIT_CODES}"))]
    Share {
        /// Its name, or the beginning of its id
        area: String,
        /// `workspace`, `workflow` or `service`
        #[arg(value_parser = kind)]
        kind: ShareKind,
        /// Its name; of a workspace that of this node's
        name: String,
        /// The document of a workflow or service
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Share something no longer
    #[command(after_help = format!("\
Example:
  opencloud area unshare valley workspace floods

{EXIT_CODES}"))]
    Unshare {
        /// Its name, or the beginning of its id
        area: String,
        /// `workspace`, `workflow` or `service`
        #[arg(value_parser = kind)]
        kind: ShareKind,
        /// Its name
        name: String,
    },
    /// Take what a member shares: a workspace becomes one of this node, a document is printed
    #[command(after_help = format!("\
Examples:
  opencloud area take valley workspace floods
  opencloud area take valley workspace floods --as theirs
  opencloud area take valley workflow model > model.yaml

{EXIT_CODES}"))]
    Take {
        /// Its name, or the beginning of its id
        area: String,
        /// `workspace`, `workflow` or `service`
        #[arg(value_parser = kind)]
        kind: ShareKind,
        /// Its name
        name: String,
        /// Who shares it, where several share something of this name
        #[arg(long, value_name = "ORG")]
        from: Option<String>,
        /// The name that the workspace gets here
        #[arg(long = "as", value_name = "NAME")]
        rename: Option<String>,
    },
    /// The rule book of an area
    #[command(subcommand, after_help = format!("Example:\n  opencloud area rules show valley\n\n{EXIT_CODES}"))]
    Rules(Rules),
}

#[derive(Debug, Subcommand)]
pub(super) enum Rules {
    /// Print the rule book in force, and what members want in its place
    #[command(after_help = format!("Example:\n  opencloud area rules show valley\n\n{EXIT_CODES}"))]
    Show {
        /// Its name, or the beginning of its id
        area: String,
    },
    /// Want a rule book; it is in force when more than half of the members want it
    #[command(after_help = format!("\
Example:
  opencloud area rules propose valley rules.yaml

{EXIT_CODES}"))]
    Propose {
        /// Its name, or the beginning of its id
        area: String,
        /// The rule book, in YAML or JSON
        file: PathBuf,
    },
    /// Want the rule book that another member wants
    #[command(after_help = format!("Example:\n  opencloud area rules accept valley Bolt\n\n{EXIT_CODES}"))]
    Accept {
        /// Its name, or the beginning of its id
        area: String,
        /// The organisation: its id, or its name
        org: String,
    },
}

fn kind(text: &str) -> Result<ShareKind, String> {
    let wanted = || "one of `workspace`, `workflow` and `service` is wanted".to_owned();
    ShareKind::from_word(text).ok_or_else(wanted)
}

impl Verb {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        match self {
            Self::Create { name, about, rules } => {
                let rules = rules.as_deref().map(read_rules).transpose()?;
                let new = NewArea { name: name.clone(), about: about.clone(), rules };
                show(context, &client.post("/areas", &new).await?);
            }
            Self::List => list(context, &client).await?,
            Self::Show { area } => {
                let id = find(&client, area).await?;
                show(context, &client.get(&at(&id), &[]).await?);
            }
            Self::Invite { area, org } | Self::Admit { area, org } => {
                vote(context, &client, (area, "invite"), org).await?;
            }
            Self::Expel { area, org } => vote(context, &client, (area, "expel"), org).await?,
            Self::Join { area, yes } => join(context, &client, area, *yes).await?,
            Self::Leave { area } => {
                let id = find(&client, area).await?;
                let nothing = json!({});
                show(context, &client.post(&format!("{}/leave", at(&id)), &nothing).await?);
            }
            Self::Forget { area } => {
                let id = find(&client, area).await?;
                client.delete(&at(&id), &[]).await?;
                context.out.line(&format!("area {area} is not shown any more"));
            }
            Self::Share { area, kind, name, file } => {
                let path = shared(&find(&client, area).await?, *kind, name);
                let document = file.as_deref().map(document::read_text).transpose()?;
                show(context, &client.put(&path, &ShareInArea { document }).await?);
            }
            Self::Unshare { area, kind, name } => {
                let id = find(&client, area).await?;
                client.delete(&shared(&id, *kind, name), &[]).await?;
                show(context, &client.get(&at(&id), &[]).await?);
            }
            Self::Take { area, kind, name, from, rename } => {
                let path = shared(&find(&client, area).await?, *kind, name);
                take(context, &client, &path, (from.as_deref(), rename.as_deref())).await?;
            }
            Self::Rules(rules) => rules.run(context, &client).await?,
        }
        Ok(OK)
    }
}

impl Rules {
    async fn run(&self, context: &Context, client: &Client) -> Result<(), CliError> {
        match self {
            Self::Show { area } => {
                let id = find(client, area).await?;
                let view: AreaView = client.get(&at(&id), &[]).await?;
                if context.out.is_json() {
                    let rules = json!({"rules": view.rules, "proposals": view.proposals});
                    context.out.json(&rules);
                } else {
                    context.out.line(books(&view).trim_end());
                }
            }
            Self::Propose { area, file } => {
                let path = format!("{}/rules", at(&find(client, area).await?));
                let rules = read_rules(file)?;
                show(context, &client.put(&path, &ProposedRules { rules }).await?);
            }
            Self::Accept { area, org } => {
                vote(context, client, (area, "rules/accept"), org).await?;
            }
        }
        Ok(())
    }
}

fn at(id: &str) -> String {
    format!("/areas/{id}")
}

fn shared(id: &str, kind: ShareKind, name: &str) -> String {
    format!("{}/shared/{kind}/{name}", at(id))
}

fn read_rules(path: &std::path::Path) -> Result<RuleBook, CliError> {
    let text = document::read_text(path)?;
    rules::parse(&text).map_err(|found| document::refuse(path, document::places(found)))
}

/// The rule books of an area as people read them: the one in force as a document, those wanted in its place before it as comments.
fn books(view: &AreaView) -> String {
    let mut text = String::new();
    for one in &view.proposals {
        text.push_str(&format!(
            "# number {}, wanted by {} of {} members:\n",
            one.number, one.votes, one.needed
        ));
        for line in written(one.book.as_ref()).lines() {
            text.push_str(&format!("#   {line}\n"));
        }
    }
    let number = view.rules.number;
    let state = if number > 0 { format!("number {number}, in force") } else { "none yet".into() };
    let none = RuleBook::default();
    let book = if number > 0 { view.rules.book.as_ref() } else { Some(&none) };
    text.push_str(&format!("# {state}:\n{}", written(book)));
    text
}

/// A book as it is proposed; absent when this program cannot read it.
fn written(book: Option<&RuleBook>) -> String {
    book.map_or_else(|| "# of a newer program: this one cannot read it\n".to_owned(), rules::print)
}

/// The id of the area that a text means.
async fn find(client: &Client, text: &str) -> Result<String, CliError> {
    let all: Vec<AreaSummary> = client.get("/areas", &[]).await?;
    let whole: Vec<&AreaSummary> = all.iter().filter(|a| a.name == text || a.id == text).collect();
    let begins = |area: &&AreaSummary| !text.is_empty() && area.id.starts_with(text);
    let found = if whole.is_empty() { all.iter().filter(begins).collect() } else { whole };
    match found.as_slice() {
        [one] => Ok(one.id.clone()),
        [] => Err(CliError::NoMatch { what: "area", prefix: text.to_owned() }),
        several => Err(CliError::Ambiguous {
            what: "area",
            prefix: text.to_owned(),
            count: several.len(),
            candidates: several.iter().map(|area| area.id.clone()).collect(),
        }),
    }
}

async fn vote(
    context: &Context,
    client: &Client,
    (area, what): (&str, &str),
    org: &str,
) -> Result<(), CliError> {
    let id = find(client, area).await?;
    let org = peers::find(client, org).await?;
    show(context, &client.post(&format!("{}/{what}", at(&id)), &AreaVote { org }).await?);
    Ok(())
}

async fn join(
    context: &Context,
    client: &Client,
    area: &str,
    is_yes: bool,
) -> Result<(), CliError> {
    let id = find(client, area).await?;
    let view: AreaView = client.get(&at(&id), &[]).await?;
    confirm(&facts(&view), &format!("Join area {}?", view.name), is_yes)?;
    let nothing = json!({});
    show(context, &client.post(&format!("{}/join", at(&id)), &nothing).await?);
    Ok(())
}

async fn take(
    context: &Context,
    client: &Client,
    path: &str,
    (from, rename): (Option<&str>, Option<&str>),
) -> Result<(), CliError> {
    let from = match from {
        Some(from) => Some(peers::find(client, from).await?.to_string()),
        None => None,
    };
    let query: Vec<(&str, &str)> = from.as_deref().map(|org| ("org", org)).into_iter().collect();
    let content: SharedContent = client.get(path, &query).await?;
    if content.kind != ShareKind::Workspace {
        if context.out.is_json() {
            context.out.json(&content);
        } else {
            context.out.bytes(content.document.as_bytes());
        }
        return Ok(());
    }
    let workspace: Workspace = serde_json::from_str(&content.document).map_err(|error| {
        let what =
            format!("what {} shares as `{}` is no workspace: {error}", content.org, content.name);
        CliError::Usage { what }
    })?;
    let name = rename.unwrap_or(&content.name);
    let put = PutWorkspace { version: 0, workspace };
    let view: WorkspaceView = client.put(&format!("/workspaces/{name}"), &put).await?;
    if context.out.is_json() {
        context.out.json(&view);
    } else {
        context.out.line(&format!("workspace {} is at version {}", view.name, view.version));
    }
    Ok(())
}

async fn list(context: &Context, client: &Client) -> Result<(), CliError> {
    let all: Vec<AreaSummary> = client.get("/areas", &[]).await?;
    if context.out.is_json() {
        context.out.json(&all);
        return Ok(());
    }
    let row = |one: AreaSummary| {
        let counts = [one.members, one.shared, one.votes_wanted].map(|n| n.to_string());
        let id = one.id.chars().take(12).collect();
        let standing = one.standing.as_str().to_owned();
        [one.name, standing].into_iter().chain(counts).chain([id, one.about]).collect()
    };
    let header = ["name", "standing", "members", "shared", "votes wanted", "id", "about"];
    let empty = "no area: `opencloud area create NAME` founds one";
    context.out.table(&header, all.into_iter().map(row).collect(), empty);
    Ok(())
}

fn called(org: OrgId, name: Option<&String>) -> String {
    name.map_or_else(|| org.to_string(), |name| format!("{name} ({org})"))
}

fn facts(view: &AreaView) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("area", format!("{} ({})", view.name, view.id)),
        ("this organisation is", view.standing.as_str().to_owned()),
    ];
    if !view.about.is_empty() {
        facts.push(("about", view.about.clone()));
    }
    for member in &view.members {
        let founder = if member.founder { ", the founder" } else { "" };
        facts.push(("member", called(member.org, member.org_name.as_ref()) + founder));
    }
    for one in &view.invited {
        let joined = if one.joined { "has joined" } else { "has not answered" };
        let who = called(one.org, one.org_name.as_ref());
        facts
            .push(("wanted in", format!("{who}: {} of {} votes, {joined}", one.votes, one.needed)));
    }
    for one in &view.expelling {
        let who = called(one.org, one.org_name.as_ref());
        facts.push(("wanted out", format!("{who}: {} of {} votes", one.votes, one.needed)));
    }
    if view.rules.number > 0 {
        let book = serde_json::to_string(&view.rules.book).expect("rules are plain data");
        facts.push(("rules in force", format!("number {}: {book}", view.rules.number)));
    }
    for one in &view.proposals {
        let book = serde_json::to_string(&one.book).expect("rules are plain data");
        let votes = format!("{} of {} votes", one.votes, one.needed);
        facts.push(("rules wanted", format!("number {}, {votes}: {book}", one.number)));
    }
    facts
}

fn show(context: &Context, view: &AreaView) {
    if context.out.is_json() {
        context.out.json(view);
        return;
    }
    context.out.facts(&facts(view));
    if view.standing != Standing::Member {
        return;
    }
    let rows = view.shared.iter().map(|one| {
        let here = if one.here { "here" } else { "on its way" };
        let who = one.org_name.clone().unwrap_or_else(|| one.org.to_string());
        vec![one.kind.to_string(), one.name.clone(), who, bytes(one.size), here.to_owned()]
    });
    let empty = format!("nothing is shared: `opencloud area share {} workspace NAME`", view.name);
    context.out.table(&["kind", "name", "organisation", "size", "content"], rows.collect(), &empty);
}
