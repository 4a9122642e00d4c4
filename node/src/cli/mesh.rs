//! `opencloud status`, `invite`, `join`, `peers`.

use clap::Args;
use serde_json::json;

use super::error::{CliError, OK};
use super::price;
use super::units::{bytes, cores, parse_duration, time};
use super::{Context, EXIT_CODES};
use crate::api::{Invited, Joined, VALID_MS_MAX};
use crate::engine::command::{PeerView, StatusView};

#[derive(Debug, Args)]
#[command(after_help = format!("Example:\n  opencloud status --output json\n\n{EXIT_CODES}"))]
pub(super) struct Status {}

impl Status {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let status: StatusView = context.client()?.get("/status", &[]).await?;
        if context.out.is_json() {
            context.out.json(&status);
            return Ok(OK);
        }
        let share = |free: String, total: String| format!("{free} of {total} free");
        let price = status
            .price
            .as_ref()
            .map_or("not published yet".to_owned(), |price| price::lines(price).join("\n"));
        context.out.facts(&[
            ("node", format!("{} ({})", status.name, status.id)),
            ("organisation", format!("{} ({})", status.org_name, status.org)),
            ("realm", status.realm.to_string()),
            ("addresses", status.addresses.join("\n")),
            ("peers", format!("{} connected", status.peers)),
            ("catalogue", format!("{} resources", status.resources)),
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

#[derive(Debug, Args)]
#[command(after_help = format!("\
A ticket admits one organisation, once. Hand it over as carefully as a password.

Examples:
  opencloud invite
  opencloud invite --valid 10m

{EXIT_CODES}"))]
pub(super) struct Invite {
    /// How long it can be used, like `10m`, `1h` or `7d`; at most `30d`
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_validity)]
    valid: u64,
}

fn parse_validity(text: &str) -> Result<u64, String> {
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
        let invited: Invited =
            context.client()?.post("/invites", &json!({"valid_ms": self.valid})).await?;
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
}

impl Join {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        let joined: Joined = client.post("/join", &json!({"ticket": self.ticket})).await?;
        if context.out.is_json() {
            context.out.json(&joined);
            return Ok(OK);
        }
        // The name is a courtesy: this node is a member now, whether it can be asked or not.
        let peers: Vec<PeerView> = client.get("/peers", &[]).await.unwrap_or_default();
        let name = peers.into_iter().find(|peer| peer.org == joined.org).map(|peer| peer.org_name);
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

#[derive(Debug, Args)]
#[command(after_help = format!("Example:\n  opencloud peers\n\n{EXIT_CODES}"))]
pub(super) struct Peers {}

impl Peers {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let mut peers: Vec<PeerView> = context.client()?.get("/peers", &[]).await?;
        if context.out.is_json() {
            context.out.json(&peers);
            return Ok(OK);
        }
        peers.sort_by(|a, b| (&a.org_name, &a.name, a.id).cmp(&(&b.org_name, &b.name, b.id)));
        let rows = peers.into_iter().map(|peer| {
            let state = if peer.connected { "connected" } else { "away" };
            let address = address(&peer);
            vec![
                peer.org_name,
                peer.name,
                peer.trust,
                state.to_owned(),
                peer.id.to_string(),
                address,
            ]
        });
        let header = ["organisation", "node", "trust", "state", "id", "address"];
        context.out.table(
            &header,
            rows.collect(),
            "no peers yet: `opencloud invite` makes a ticket for one",
        );
        Ok(OK)
    }
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
