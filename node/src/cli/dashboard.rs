//! `opencloud dashboard`.

use clap::Args;
use serde_json::json;

use super::error::{CliError, OK};
use super::{Context, EXIT_CODES};

#[derive(Debug, Args)]
#[command(after_help = format!("\
The page asks once for the token of the home and keeps it until its tab is closed.
Whoever has the token may do all that the owner may: do not hand it on.

Example:
  opencloud dashboard

{EXIT_CODES}"))]
pub(super) struct Dashboard {}

impl Dashboard {
    pub(super) fn run(&self, context: &Context) -> Result<u8, CliError> {
        let home = context.open_home()?;
        let address = format!("http://{}/", home.api_address()?);
        let token = home.dir().join("api.token");
        if context.out.is_json() {
            context.out.json(&json!({"address": address, "token_file": token}));
        } else {
            context.out.facts(&[
                ("address", address),
                ("sign in with", format!("the text in {}", token.display())),
            ]);
        }
        Ok(OK)
    }
}
