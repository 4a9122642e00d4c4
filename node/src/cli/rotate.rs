//! `opencloud org rotate`: a new key for the node, which stays the node it was.

use std::path::Path;

use clap::Args;
use serde_json::json;

use super::client::Client;
use super::confirm::confirm;
use super::error::{CliError, OK};
use super::org::tell;
use super::units::{parse_duration, time};
use super::{Context, EXIT_CODES};
use crate::engine::rotation::RotationView;
use crate::shell::org::now_ms;
use crate::shell::{Home, HomeError};

/// How long a change may wait for running tasks, at most: a week.
const DRAIN_MS_MAX: u64 = 7 * 24 * 3_600_000;

#[derive(Debug, Args)]
#[command(after_help = format!("\
Makes a new key in the node's home. A running node takes it into use by itself as soon
as no task runs here, nor elsewhere for this node, and at the latest after --drain; what
runs then ends as when the node is restarted. One that does not run begins with it when
it is started. Name, realm, catalogue, runs and ledgers stay; the node's id is new.

Other nodes learn of the change from the new papers, which carry the old key's word for
the new one. They let the old key in for another day. Its secret stays in the home until
its ledgers are settled, and leaves it by itself; `status` shows that. When the old key
may be in wrong hands, revoke it as soon as the change is made: `org revoke OLD-ID`.

Where no key of the organisation is, papers for the new key are fetched first:
  opencloud org request --rotate --out rack-7.request       then `org enroll` there
  opencloud org install rack-7.papers
  opencloud org rotate

Examples:
  opencloud org rotate
  opencloud org rotate --drain 0s          at once, whatever runs

{EXIT_CODES}"))]
pub(super) struct Rotate {
    /// How long to wait for running tasks, like `10m`; at most `7d`
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_drain)]
    drain: u64,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

fn parse_drain(text: &str) -> Result<u64, String> {
    match parse_duration(text)? {
        ms if ms > DRAIN_MS_MAX => Err("no change of key waits for more than 7d".to_owned()),
        ms => Ok(ms),
    }
}

impl Rotate {
    pub(super) async fn run(&self, context: &Context, dir: &Path) -> Result<u8, CliError> {
        let home = Home::open(dir)?;
        if !home.is_next_ready() && !home.can_certify() {
            return Err(HomeError::NoNextPapers { dir: dir.to_owned() }.into());
        }
        let facts = [
            ("node", format!("{} ({})", home.node_name(), home.node_id())),
            ("changes", "its key, and with it its id".to_owned()),
        ];
        confirm(&facts, "Give this node a new key?", self.yes)?;
        let staged = Home::stage(dir, now_ms())?;
        let told = tell_node(&home, self.drain).await?;
        let when = match &told {
            None => "when the node is started".to_owned(),
            Some(view) if view.running == 0 => "now: the node starts again by itself".to_owned(),
            Some(view) => format!(
                "when {} running tasks have ended, at the latest {}",
                view.running,
                time(view.at_latest_ms)
            ),
        };
        let facts = [
            ("node", format!("{} ({})", home.node_name(), home.node_id())),
            ("next", format!("{} (generation {})", staged.node, staged.generation)),
            ("takes effect", when),
        ];
        let json = json!({
            "node": home.node_id(), "next": staged.node, "generation": staged.generation,
            "in_use": told.is_some(), "running": told.as_ref().map(|view| view.running),
            "at_latest_ms": told.as_ref().map(|view| view.at_latest_ms),
        });
        tell(context, &facts, &json);
        Ok(OK)
    }
}

/// Has the node of a home take its next key into use, when it runs.
async fn tell_node(home: &Home, drain_ms: u64) -> Result<Option<RotationView>, CliError> {
    let told = match Client::of(home) {
        Ok(client) => client.post("/org/rotate", &json!({"drain_ms": drain_ms})).await,
        Err(error) => Err(error),
    };
    match told {
        Ok(view) => Ok(Some(view)),
        Err(CliError::NotRunning) => Ok(None),
        Err(error) => Err(error),
    }
}
