//! `opencloud init`.

use clap::Args;
use serde_json::json;

use super::error::{CliError, OK};
use super::{Context, EXIT_CODES};
use crate::shell::Home;

#[derive(Debug, Args)]
#[command(after_help = format!("\
Makes two keys: one for the organisation, one for its node. Whoever has the
organisation's key can speak for it: keep a copy of `org.key` in a safe place.
To keep that key off the node from the beginning, see `opencloud org --help`.

Examples:
  opencloud init --org 'Survey Office'
  opencloud --home /srv/node2 init --org 'Survey Office' --node rack-2

{EXIT_CODES}"))]
pub(super) struct Init {
    /// The organisation's name for people
    #[arg(long, value_name = "NAME")]
    org: String,
    /// The node's name within the organisation
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

impl Init {
    pub(super) fn run(&self, context: &Context) -> Result<u8, CliError> {
        let home = Home::init(&context.dir()?, &self.org, self.node.as_deref())?;
        if context.out.is_json() {
            context.out.json(&json!({
                "home": home.dir(),
                "org": home.org_id(),
                "org_name": home.org_name(),
                "node": home.node_id(),
                "node_name": home.node_name(),
            }));
        } else {
            context.out.facts(&[
                ("home", home.dir().display().to_string()),
                ("organisation", format!("{} ({})", home.org_name(), home.org_id())),
                ("node", format!("{} ({})", home.node_name(), home.node_id())),
                ("next", "opencloud up".to_owned()),
            ]);
        }
        Ok(OK)
    }
}
