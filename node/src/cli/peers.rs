//! `opencloud peers`: the nodes this one knows, and what their organisations may do here.

use clap::{Args, Subcommand};

use super::client::Client;
use super::error::{CliError, OK};
use super::units::time;
use super::{Context, EXIT_CODES};
use crate::api::{Decide, PeerAnswer, Relate};
use crate::engine::command::PeerView;
use crate::engine::relations::{OrgView, RelationChange, Stance};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = format!("\
An organisation is given by name, by the beginning of its name, or by did:key.

Examples:
  opencloud peers
  opencloud peers orgs
  opencloud peers partner 'Survey Office'
  opencloud peers limit 'Survey Office' --tasks 4 --fetch no
  opencloud peers block did:key:z6Mk…

{EXIT_CODES}")
)]
pub(super) struct Peers {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the organisations, what each is to this node and what it may do here
    Orgs,
    /// Take an organisation for a partner: devices, consoles and records open to partners are open to it
    Partner(Whom),
    /// Take an organisation for an ordinary peer again, neither partner nor blocked
    Trust(Whom),
    /// Refuse an organisation's nodes from now on, and end their connections
    Block(Whom),
    /// Let an organisation in that waits for it after `opencloud invite --ask`
    Admit(Whom),
    /// Do not let it in
    Refuse(Whom),
    /// Change what an organisation may do here; what is not given stays
    Limit(Limit),
}

#[derive(Debug, Args)]
struct Whom {
    /// The organisation
    #[arg(value_name = "ORG")]
    org: String,
}

#[derive(Debug, Args)]
struct Limit {
    /// The organisation
    #[arg(value_name = "ORG")]
    org: String,
    /// Whether it may ask for quotes and have work done here
    #[arg(long, value_name = "yes|no", value_parser = parse_answer)]
    ask: Option<bool>,
    /// Whether it may fetch what is published here
    #[arg(long, value_name = "yes|no", value_parser = parse_answer)]
    fetch: Option<bool>,
    /// Whether it may see the restricted records that name it
    #[arg(long, value_name = "yes|no", value_parser = parse_answer)]
    see: Option<bool>,
    /// Whether this node, as a relay (`up --relay`), carries from and to its nodes
    #[arg(long, value_name = "yes|no", value_parser = parse_answer)]
    relay: Option<bool>,
    /// Tasks that it may have here at once; 0 for no limit
    #[arg(long, value_name = "N")]
    tasks: Option<u32>,
    /// Nodes of it that may be connected at once; 0 for the usual limit
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,
}

fn parse_answer(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("say yes or no".to_owned()),
    }
}

impl Peers {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let stance = |stance| RelationChange { stance: Some(stance), ..RelationChange::default() };
        match &self.verb {
            None => list(context).await,
            Some(Verb::Orgs) => orgs(context).await,
            Some(Verb::Partner(whom)) => relate(context, &whom.org, stance(Stance::Partner)).await,
            Some(Verb::Trust(whom)) => relate(context, &whom.org, stance(Stance::Peer)).await,
            Some(Verb::Block(whom)) => relate(context, &whom.org, stance(Stance::Blocked)).await,
            Some(Verb::Admit(whom)) => decide(context, &whom.org, true).await,
            Some(Verb::Refuse(whom)) => decide(context, &whom.org, false).await,
            Some(Verb::Limit(limit)) => {
                let change = RelationChange {
                    stance: None,
                    ask: limit.ask,
                    fetch: limit.fetch,
                    see: limit.see,
                    relay: limit.relay,
                    tasks_max: limit.tasks,
                    nodes_max: limit.nodes,
                };
                if change == RelationChange::default() {
                    return Err(CliError::usage(
                        "say what to limit: --ask, --fetch, --see, --relay, --tasks or --nodes",
                    ));
                }
                relate(context, &limit.org, change).await
            }
        }
    }
}

async fn list(context: &Context) -> Result<u8, CliError> {
    let mut answers: Vec<PeerAnswer> = context.client()?.get("/peers", &[]).await?;
    if context.out.is_json() {
        context.out.json(&answers);
        return Ok(OK);
    }
    answers.sort_by_key(|a| (a.peer.org_name.clone(), a.peer.name.clone(), a.peer.id));
    let notes: Vec<String> = answers
        .iter()
        .flat_map(|answer| [former_key(answer), unreached(answer)])
        .flatten()
        .collect();
    let rows = answers.into_iter().map(|answer| {
        let state = match (answer.peer.connected, answer.path.as_str()) {
            (true, "relayed") => "relayed",
            (true, _) if answer.peer.is_neighbour => "neighbour",
            (true, _) => "connected",
            (false, _) => "away",
        };
        let address = address(&answer.peer);
        let PeerView { org_name, name, trust, id, generation, .. } = answer.peer;
        let name = if generation > 1 { format!("{name} (key {generation})") } else { name };
        vec![org_name, name, trust, state.to_owned(), id.to_string(), address]
    });
    let header = ["organisation", "node", "trust", "state", "id", "address"];
    context.out.table(
        &header,
        rows.collect(),
        "no peers yet: `opencloud invite` makes a ticket for one",
    );
    notes.iter().for_each(|note| super::output::note(note));
    Ok(OK)
}

/// Until when a key that another one has come after is let in.
fn former_key(answer: &PeerAnswer) -> Option<String> {
    let (name, until_ms) = (&answer.peer.name, answer.peer.former_until_ms?);
    Some(format!("{name}: it has a new key, and the one before is let in until {}", time(until_ms)))
}

/// Why a peer is not reached, and the way out.
fn unreached(answer: &PeerAnswer) -> Option<String> {
    let (name, why) = (&answer.peer.name, answer.why.as_ref()?);
    let hint = answer.hint.as_ref().map_or(String::new(), |hint| format!("\n  hint: {hint}"));
    Some(format!("{name}: {why}{hint}"))
}

/// The peer's first address without its id, which has a column of its own, and how many more there are.
fn address(peer: &PeerView) -> String {
    let Some(first) = peer.addresses.first() else {
        return String::new();
    };
    let first = first.strip_suffix(&format!("/p2p/{}", peer.id)).unwrap_or(first);
    match peer.addresses.len() - 1 {
        0 => first.to_owned(),
        more => format!("{first} (+{more})"),
    }
}

async fn orgs(context: &Context) -> Result<u8, CliError> {
    let orgs: Vec<OrgView> = context.client()?.get("/orgs", &[]).await?;
    if context.out.is_json() {
        context.out.json(&orgs);
        return Ok(OK);
    }
    let yes = |is_so: bool| if is_so { "yes" } else { "no" }.to_owned();
    let rows = orgs.into_iter().map(|org| {
        let tasks = match org.tasks_max {
            Some(max) => format!("{} of {max}", org.tasks),
            None => org.tasks.to_string(),
        };
        vec![
            org.org_name.unwrap_or_default(),
            org.stance,
            org.connected.to_string(),
            tasks,
            yes(org.ask),
            yes(org.fetch),
            yes(org.see),
            yes(org.relay),
            org.fingerprint,
            org.org.to_string(),
        ]
    });
    let header = [
        "organisation",
        "trust",
        "nodes",
        "tasks",
        "ask",
        "fetch",
        "see",
        "relay",
        "fingerprint",
        "id",
    ];
    context.out.table(&header, rows.collect(), "");
    Ok(OK)
}

async fn relate(context: &Context, whom: &str, change: RelationChange) -> Result<u8, CliError> {
    let client = context.client()?;
    let org = find(&client, whom).await?;
    let org: OrgView = client.patch("/orgs", &[], &Relate { org, change }).await?;
    show(context, org)
}

async fn decide(context: &Context, whom: &str, is_admitted: bool) -> Result<u8, CliError> {
    let client = context.client()?;
    let org = find(&client, whom).await?;
    let org: OrgView = client.post("/orgs/decide", &Decide { org, is_admitted }).await?;
    show(context, org)
}

/// The organisation that a text means.
pub(super) async fn find(client: &Client, whom: &str) -> Result<catalog::OrgId, CliError> {
    match whom.parse() {
        Ok(org) => Ok(org),
        Err(_) => named(&client.get::<Vec<OrgView>>("/orgs", &[]).await?, whom),
    }
}

fn show(context: &Context, org: OrgView) -> Result<u8, CliError> {
    if context.out.is_json() {
        context.out.json(&org);
        return Ok(OK);
    }
    let yes = |is_so: bool| if is_so { "yes" } else { "no" }.to_owned();
    context.out.facts(&[
        ("organisation", format!("{} ({})", org.org_name.unwrap_or_default(), org.org)),
        ("fingerprint", org.fingerprint),
        ("trust", org.stance),
        ("may ask", yes(org.ask)),
        ("may fetch", yes(org.fetch)),
        ("may see", yes(org.see)),
        ("relayed", yes(org.relay)),
        ("tasks", org.tasks_max.map_or("no limit".to_owned(), |max| format!("{max} at once"))),
        ("nodes", format!("{} at once", org.nodes_max)),
    ]);
    Ok(OK)
}

/// The organisation with this name, or the only one whose name begins so.
fn named(orgs: &[OrgView], whom: &str) -> Result<catalog::OrgId, CliError> {
    let fitting = |is_whole: bool| -> Vec<&OrgView> {
        let fits = |name: &str| if is_whole { name == whom } else { name.starts_with(whom) };
        orgs.iter().filter(|org| org.org_name.as_deref().is_some_and(fits)).collect()
    };
    let mut found = fitting(true);
    if found.is_empty() {
        found = fitting(false);
    }
    match found.as_slice() {
        [one] => Ok(one.org),
        [] => Err(CliError::NoMatch { what: "organisation", prefix: whom.to_owned() }),
        many => Err(CliError::Ambiguous {
            what: "organisation",
            prefix: whom.to_owned(),
            count: many.len(),
            candidates: many.iter().map(|org| org.org.to_string()).collect(),
        }),
    }
}
