//! `opencloud realm`: gateways and links with other realms.

use std::time::Duration;

use catalog::cert::LinkTicket;
use catalog::{OrgId, RealmId};
use clap::Subcommand;
use serde_json::json;

use super::client::Client;
use super::confirm::confirm;
use super::error::{CliError, OK};
use super::mesh::parse_validity;
use super::output::note;
use super::units::{bytes, time};
use super::{Context, EXIT_CODES};
use crate::api::Invited;
use crate::engine::realms::{HeldView, LinkView, RealmView, ToldView};

/// How long `link` waits before it asks again whether the inviting owner has decided.
const PENDING_PAUSE: Duration = Duration::from_secs(3);

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Show this realm, its links, and what the digests of other realms say
    #[command(after_help = format!("Example:\n  opencloud realm show\n\n{EXIT_CODES}"))]
    Show,
    /// Print a ticket that links one gateway of another realm
    #[command(after_help = format!("\
Whoever uses it becomes no member: the two gateways tell each other what is public in
their realms, and nothing else passes. Hand it over as carefully as a password.

Examples:
  opencloud realm invite
  opencloud realm invite --valid 10m --ask

{EXIT_CODES}"))]
    Invite {
        /// How long it can be used, like `10m`, `1h` or `7d`; at most `30d`
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_validity)]
        valid: u64,
        /// Decide about whoever comes with it: `opencloud peers orgs` shows who waits, `opencloud peers admit` lets them in
        #[arg(long)]
        ask: bool,
    },
    /// Link this realm with the one of a ticket
    #[command(after_help = format!("\
Example:
  opencloud realm link opencloud-link1:3mJr…

{EXIT_CODES}"))]
    Link {
        /// What `opencloud realm invite` printed on the other gateway
        #[arg(value_name = "TICKET")]
        ticket: String,
        /// Do not ask whether the inviting organisation is the right one
        #[arg(long)]
        yes: bool,
    },
    /// End the link with a realm
    #[command(after_help = format!("\
Example:
  opencloud realm unlink realm:5c0ffee0…

{EXIT_CODES}"))]
    Unlink {
        /// As `opencloud realm show` prints it
        #[arg(value_name = "REALM")]
        realm: RealmId,
    },
    /// Let a member organisation run gateways of this realm
    #[command(after_help = format!("\
The founder's own nodes need no word. One that is let speak may let others.

Example:
  opencloud realm let-speak did:key:z6Mk…

{EXIT_CODES}"))]
    LetSpeak {
        /// As `opencloud peers orgs` prints it
        #[arg(value_name = "ORGANISATION")]
        org: OrgId,
    },
}

impl Verb {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        match self {
            Self::Show => {
                let view: RealmView = client.get("/realm", &[]).await?;
                show(context, &view);
            }
            Self::Invite { valid, ask } => {
                let invited: Invited =
                    client.post("/realm/invites", &json!({"valid_ms": valid, "ask": ask})).await?;
                if context.out.is_json() {
                    context.out.json(&invited);
                } else {
                    context.out.line(&invited.ticket);
                    note(&format!(
                        "valid until {}; on the other gateway: opencloud realm link TICKET",
                        time(invited.expires_ms)
                    ));
                }
            }
            Self::Link { ticket, yes } => {
                confirm_link(ticket, *yes)?;
                let link = link(&client, ticket).await?;
                if context.out.is_json() {
                    context.out.json(&link);
                } else {
                    context.out.facts(&[
                        ("linked", link.realm.to_string()),
                        ("with", with(&link)),
                        ("next", "opencloud catalog list --everywhere".to_owned()),
                    ]);
                }
            }
            Self::Unlink { realm } => {
                let view: RealmView =
                    client.post("/realm/unlink", &json!({"realm": realm})).await?;
                show(context, &view);
            }
            Self::LetSpeak { org } => {
                let view: RealmView = client.post("/realm/speakers", &json!({"org": org})).await?;
                show(context, &view);
            }
        }
        Ok(OK)
    }
}

/// Has the owner look at who invites. Where nobody can be asked, giving the ticket is the answer.
fn confirm_link(ticket: &str, is_yes: bool) -> Result<(), CliError> {
    use std::io::IsTerminal as _;
    let Ok(LinkTicket(ticket)) = ticket.parse::<LinkTicket>() else { return Ok(()) };
    let facts = [
        ("organisation", ticket.org_name.clone()),
        ("did:key", ticket.org.to_string()),
        ("fingerprint", ticket.org.fingerprint()),
        ("realm", ticket.realm.to_string()),
    ];
    let is_yes = is_yes || !std::io::stdin().is_terminal();
    confirm(&facts, "Is this the organisation whose realm you want to link?", is_yes)
}

/// Links, and waits while the inviting owner has not decided: until that, the ticket's end or Ctrl-C.
async fn link(client: &Client, ticket: &str) -> Result<LinkView, CliError> {
    let mut is_told = false;
    loop {
        match client.post("/realm/links", &json!({"ticket": ticket})).await {
            Err(CliError::Problem(problem)) if problem.code == "join_pending" => {
                if !std::mem::replace(&mut is_told, true) {
                    note(&problem.detail);
                }
                tokio::time::sleep(PENDING_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

fn with(link: &LinkView) -> String {
    match (&link.org_name, link.org) {
        (Some(name), Some(org)) => format!("{name} ({org})"),
        _ => "nobody".to_owned(),
    }
}

fn show(context: &Context, view: &RealmView) {
    if context.out.is_json() {
        return context.out.json(view);
    }
    let published = view.published.as_ref().map_or("nothing yet".to_owned(), |digest| {
        let (resources, authors) = (digest.resources, digest.authors);
        format!("{resources} public resources of {authors} nodes, {}", time(digest.made_ms))
    });
    let gateway = view.no_gateway.as_ref().map_or("yes".to_owned(), |why| format!("no: {why}"));
    let mut facts = vec![
        ("realm", view.realm.to_string()),
        ("founder", view.founder.map_or("unknown".to_owned(), |org| org.to_string())),
        ("gateway", gateway),
        ("gateways", lines(&view.gateways)),
        ("published", published),
        ("links", view.links.iter().map(link_line).collect::<Vec<_>>().join("\n")),
    ];
    if !view.speakers.is_empty() {
        facts.push(("let speak", lines(&view.speakers)));
    }
    context.out.facts(&facts);
    let rows = view.digests.iter().map(digest_row).collect();
    let header = ["realm", "gateway of", "resources", "regions", "links away", "size", "made"];
    context.out.table(&header, rows, "no digest of another realm is held");
}

fn lines(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn link_line(link: &LinkView) -> String {
    let connected = link.gateways.iter().filter(|gateway| gateway.connected).count();
    let why = link.gateways.iter().find_map(|gateway| gateway.last_error.clone());
    let why = why.filter(|_| connected == 0).map(|why| format!(": {why}")).unwrap_or_default();
    let all = link.gateways.len();
    format!("{}  with {}, {connected} of {all} gateways connected{why}", link.realm, with(link))
}

fn digest_row(held: &HeldView) -> Vec<String> {
    let digest = &held.digest;
    let kinds = digest.counts.iter().filter_map(|count| {
        Some(format!("{} {}", count.count, count.class.strip_prefix("kind:")?))
    });
    vec![
        digest.realm.to_string(),
        digest.org_name.clone(),
        kinds.collect::<Vec<_>>().join(", "),
        digest.regions.join(", "),
        (u32::from(held.hops) + 1).to_string(),
        bytes(held.bytes),
        time(digest.made_ms),
    ]
}

/// Whom to ask for an invitation, and who did not answer.
pub(super) fn notes(told: &ToldView) {
    for digest in &told.realms {
        let is_of = |found: &&crate::engine::realms::FoundElsewhere| found.realm == digest.realm;
        if told.resources.iter().any(|found| is_of(&found)) {
            note(&format!(
                "to use what is in {}, ask {} ({}) for an invitation; gateway {}",
                digest.realm, digest.org_name, digest.org, digest.gateway
            ));
        }
    }
    for realm in &told.silent {
        note(&format!("{realm} did not answer"));
    }
    for gateway in &told.silent_gateways {
        note(&format!("gateway {gateway} of this realm did not answer in time"));
    }
    if !told.is_all {
        note("there is more than is shown: search with a filter");
    }
}
