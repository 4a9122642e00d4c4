//! `opencloud audit`: what was changed by the API, by whom.

use clap::Args;

use super::error::{CliError, FAILED, OK};
use super::units::time;
use super::{Context, EXIT_CODES};
use crate::api::{AuditEntry, read_audit};

#[derive(Debug, Args)]
#[command(after_help = format!("\
Reads `audit.log` in the node's directory, whether the node runs or not. Each line names the one
before it: when one was changed or taken out, this says so and ends with code 1.

Examples:
  opencloud audit
  opencloud audit --tail 1000 --output json

{EXIT_CODES}"))]
pub(super) struct Audit {
    /// How many of the newest changes to show
    #[arg(long, value_name = "N", default_value_t = 100)]
    tail: usize,
}

impl Audit {
    pub(super) fn run(&self, context: &Context) -> Result<u8, CliError> {
        let dir = context.open_home()?.dir().to_owned();
        let found = read_audit(&dir).map_err(CliError::io(dir.join("audit.log")))?;
        let first = found.entries.len().saturating_sub(self.tail);
        let entries = &found.entries[first..];
        if context.out.is_json() {
            context.out.json(&entries);
        } else {
            let header = ["time", "caller", "method", "path", "status", "request"];
            let rows = entries.iter().map(row).collect();
            context.out.table(&header, rows, "nothing was changed yet");
        }
        if found.broken > 0 {
            let lines = found.broken;
            super::output::note(&format!(
                "error: the log was changed after it was written: {lines} lines do not follow the line before them"
            ));
            return Ok(FAILED);
        }
        Ok(OK)
    }
}

fn row(entry: &AuditEntry) -> Vec<String> {
    vec![
        time(entry.at_ms),
        entry.caller.clone(),
        entry.method.clone(),
        entry.path.clone(),
        entry.status.to_string(),
        entry.request.clone(),
    ]
}
