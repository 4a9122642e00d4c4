//! `opencloud status`, `invite`, `join`, `peers`.

use clap::Args;
use serde_json::json;

use super::error::{CliError, OK};
use super::units::{bytes, cores, parse_duration, time};
use super::{Context, EXIT_CODES};
use crate::api::{Invited, Joined};
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
        context.out.facts(&[
            ("node", format!("{} ({})", status.name, status.id)),
            ("organisation", format!("{} ({})", status.org_name, status.org)),
            ("realm", status.realm.to_string()),
            ("addresses", status.addresses.join(" ")),
            ("peers", format!("{} connected", status.peers)),
            ("catalogue", format!("{} resources", status.resources)),
            ("runs", format!("{} active", status.active_runs)),
            ("tasks", format!("{} running here", status.active_attempts)),
            ("cores", share(cores(status.cpu_free_milli), cores(status.cpu_total_milli))),
            ("memory", share(bytes(status.memory_free_bytes), bytes(status.memory_total_bytes))),
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
    /// How long it can be used, like `10m`, `1h` or `7d`
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    valid: u64,
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
        let joined: Joined =
            context.client()?.post("/join", &json!({"ticket": self.ticket})).await?;
        if context.out.is_json() {
            context.out.json(&joined);
        } else {
            context.out.line(&format!("joined {} of {}", joined.realm, joined.org));
        }
        Ok(OK)
    }
}

#[derive(Debug, Args)]
#[command(after_help = format!("Example:\n  opencloud peers\n\n{EXIT_CODES}"))]
pub(super) struct Peers {}

impl Peers {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let peers: Vec<PeerView> = context.client()?.get("/peers", &[]).await?;
        if context.out.is_json() {
            context.out.json(&peers);
            return Ok(OK);
        }
        let rows = peers.into_iter().map(|peer| {
            let state = if peer.connected { "connected" } else { "away" };
            vec![
                peer.org_name,
                peer.name,
                peer.trust,
                state.to_owned(),
                peer.id.to_string(),
                peer.addresses.first().cloned().unwrap_or_default(),
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
