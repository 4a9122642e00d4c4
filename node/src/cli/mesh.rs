//! `opencloud status`, `invite`, `join`.

use std::time::Duration;

use catalog::cert::Ticket;
use clap::Args;
use serde_json::json;

use super::client::Client;
use super::confirm::confirm;
use super::error::{CliError, OK};
use super::price;
use super::units::{bytes, cores, parse_duration, span, time};
use super::{Context, EXIT_CODES};
use crate::api::{
    AddressView, Invited, Joined, PeerAnswer, ReachView, RenewalView, StatusAnswer, VALID_MS_MAX,
};
use crate::engine::rotation::FormerView;
use crate::engine::trust::PapersView;

#[derive(Debug, Args)]
#[command(after_help = format!("Example:\n  opencloud status --output json\n\n{EXIT_CODES}"))]
pub(super) struct Status {}

impl Status {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let answer: StatusAnswer = context.client()?.get("/status", &[]).await?;
        if context.out.is_json() {
            context.out.json(&answer);
            return Ok(OK);
        }
        let StatusAnswer { status, reach } = answer;
        let share = |free: String, total: String| format!("{free} of {total} free");
        let price = status
            .price
            .as_ref()
            .map_or("not published yet".to_owned(), |price| price::lines(price).join("\n"));
        let held = format!("{} resources", status.resources);
        let catalogue = match &status.light {
            Some(kinds) => {
                format!("{held} held; a light node: of others {kinds}, peers are asked for more")
            }
            None => held,
        };
        context.out.facts(&[
            ("node", format!("{} ({})", status.name, status.id)),
            ("organisation", format!("{} ({})", status.org_name, status.org)),
            ("fingerprint", status.org.fingerprint()),
            ("papers", papers(&status.papers)),
            ("realm", status.realm.to_string()),
            ("addresses", reach.as_ref().map_or(status.addresses.join("\n"), addresses)),
            ("reachable", reach.as_ref().map_or("unknown".to_owned(), reachable)),
            ("peers", format!("{} connected", status.peers)),
            ("catalogue", catalogue),
            ("runs", format!("{} active", status.active_runs)),
            ("tasks", format!("{} running here", status.active_attempts)),
            ("cores", share(cores(status.cpu_free_milli), cores(status.cpu_total_milli))),
            ("memory", share(bytes(status.memory_free_bytes), bytes(status.memory_total_bytes))),
            ("disk", share(bytes(status.disk_free_bytes), bytes(status.disk_total_bytes))),
            ("price", price),
            ("version", status.version),
        ]);
        Ok(OK)
    }
}

/// Each address with who has tested it.
fn addresses(reach: &ReachView) -> String {
    let line = |own: &AddressView| {
        let who = |verb: &str, count: usize| (count > 0).then(|| format!("{verb} by {count}"));
        let tests = [who("reached", own.reached_by.len()), who("missed", own.missed_by.len())];
        let words = std::iter::once(own.source.clone()).chain(tests.into_iter().flatten());
        format!("{}  ({})", own.address, words.collect::<Vec<_>>().join(", "))
    };
    reach.addresses.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// How others reach this node, and what it carries for them.
fn reachable(reach: &ReachView) -> String {
    let mut lines = vec![format!("{}: {}", reach.standing, reach.why)];
    lines.extend(reach.relays.iter().map(|relay| match (&relay.why, relay.reserved) {
        (_, true) => format!("relay {} leads here", relay.id),
        (Some(why), false) => format!("relay {}: {why}", relay.id),
        (None, false) => format!("relay {}: asked", relay.id),
    }));
    lines.extend(reach.relaying.as_ref().map(|relaying| {
        let (peers, circuits) = (relaying.reservations, relaying.circuits);
        format!(
            "relays for {peers} peers, {circuits} circuits open, {} carried",
            bytes(relaying.bytes)
        )
    }));
    lines.extend(reach.renewal.as_ref().map(renewed));
    lines.join("\n")
}

/// What was done because nobody was connected.
fn renewed(renewal: &RenewalView) -> String {
    let what = match renewal.what.as_str() {
        "listeners" => "opened its listeners anew",
        _ => "built its network anew",
    };
    format!(
        "{what} {} ago, because nobody had been connected for {}; built anew {} times since the start",
        span(renewal.s_ago.saturating_mul(1_000)),
        span(renewal.alone_s.saturating_mul(1_000)),
        renewal.rebuilds
    )
}

/// How long the node's papers hold, who renews them, and what is wrong with them.
fn papers(papers: &PapersView) -> String {
    let renewed = match papers.signs_with.as_str() {
        "root" => "renewed here with the root key",
        "issuer" => "renewed here with an issuer's key",
        _ => "renewed by other nodes of the organisation",
    };
    let issuer = papers.issuer_until_ms.map(|at| format!("the issuer ends {}", time(at)));
    let warning = papers.warning.as_ref().map(|warning| format!("WARNING: {warning}"));
    let until = format!("valid until {}, {renewed}", time(papers.until_ms));
    let key = (papers.generation > 1).then(|| format!("key number {}", papers.generation));
    let former = papers.former.iter().filter(|former| former.is_kept).map(former_key);
    let lines = std::iter::once(until).chain(issuer).chain(key).chain(former).chain(warning);
    lines.collect::<Vec<_>>().join("\n")
}

/// What becomes of a key that the node had.
fn former_key(former: &FormerView) -> String {
    let rest = match former.unsettled {
        0 => "its ledgers are settled".to_owned(),
        n => format!("{n} lanes and entries of its ledgers wait for partners"),
    };
    format!("former key {}: let in until {}, {rest}", former.node, time(former.accepted_until_ms))
}

#[derive(Debug, Args)]
#[command(after_help = format!("\
A ticket admits one organisation, once. Hand it over as carefully as a password.

Examples:
  opencloud invite
  opencloud invite --valid 10m
  opencloud invite --ask

{EXIT_CODES}"))]
pub(super) struct Invite {
    /// How long it can be used, like `10m`, `1h` or `7d`; at most `30d`
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_validity)]
    valid: u64,
    /// Decide about whoever comes with it: `opencloud peers orgs` shows who waits, `opencloud peers admit` lets them in
    #[arg(long)]
    ask: bool,
}

pub(super) fn parse_validity(text: &str) -> Result<u64, String> {
    match parse_duration(text)? {
        0 => Err("a ticket has to hold for some time".to_owned()),
        ms if ms > VALID_MS_MAX => {
            Err("a ticket is a secret to hand over: it may hold for 30d at most".to_owned())
        }
        ms => Ok(ms),
    }
}

impl Invite {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let invited: Invited = context
            .client()?
            .post("/invites", &json!({"valid_ms": self.valid, "ask": self.ask}))
            .await?;
        if context.out.is_json() {
            context.out.json(&invited);
        } else {
            context.out.line(&invited.ticket);
            super::output::note(&format!(
                "valid until {}; on the other node: opencloud join TICKET",
                time(invited.expires_ms)
            ));
        }
        Ok(OK)
    }
}

#[derive(Debug, Args)]
#[command(after_help = format!("\
Example:
  opencloud join opencloud-ticket1:3mJr…

{EXIT_CODES}"))]
pub(super) struct Join {
    /// What `opencloud invite` printed on the other node
    #[arg(value_name = "TICKET")]
    ticket: String,
    /// Do not ask whether the inviting organisation is the right one
    #[arg(long)]
    yes: bool,
}

/// How long `join` waits before it asks again whether the inviting owner has decided.
const PENDING_PAUSE: Duration = Duration::from_secs(3);

impl Join {
    /// Has the owner look at who invites. Where nobody can be asked, giving the ticket is the answer.
    fn confirm(&self) -> Result<(), CliError> {
        use std::io::IsTerminal as _;
        let Ok(ticket) = self.ticket.parse::<Ticket>() else { return Ok(()) };
        let facts = [
            ("organisation", ticket.org_name.clone()),
            ("did:key", ticket.org.to_string()),
            ("fingerprint", ticket.org.fingerprint()),
            ("realm", ticket.realm.to_string()),
        ];
        let is_yes = self.yes || !std::io::stdin().is_terminal();
        confirm(&facts, "Is this the organisation that invited you?", is_yes)
    }

    /// Joins, and waits while the inviting owner has not decided: until that, the ticket's end or Ctrl-C.
    async fn join(&self, client: &Client) -> Result<Joined, CliError> {
        let mut is_told = false;
        loop {
            match client.post("/join", &json!({"ticket": self.ticket})).await {
                Err(CliError::Problem(problem)) if problem.code == "join_pending" => {
                    if !std::mem::replace(&mut is_told, true) {
                        super::output::note(&problem.detail);
                    }
                    tokio::time::sleep(PENDING_PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        self.confirm()?;
        let joined = self.join(&client).await?;
        if context.out.is_json() {
            context.out.json(&joined);
            return Ok(OK);
        }
        // The name is a courtesy: this node is a member now, whether it can be asked or not.
        let peers: Vec<PeerAnswer> = client.get("/peers", &[]).await.unwrap_or_default();
        let mut peers = peers.into_iter().map(|answer| answer.peer);
        let name = peers.find(|peer| peer.org == joined.org).map(|peer| peer.org_name);
        let org = match name {
            Some(name) => format!("{name} ({})", joined.org),
            None => joined.org.to_string(),
        };
        context.out.facts(&[
            ("joined", joined.realm.to_string()),
            ("invited by", org),
            ("next", "opencloud peers".to_owned()),
        ]);
        Ok(OK)
    }
}
