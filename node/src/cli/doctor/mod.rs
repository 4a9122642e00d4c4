//! `opencloud doctor`: what is wrong with a node, and what to do about it. Works with the node stopped, too.
//!
//! Every check is a function from what it looks at to findings. It changes nothing but what the next start would do as well.

mod host;
mod identity;
mod live;
mod rest;

use clap::Args;

use super::error::{CliError, FAILED, OK};
use super::{Context, EXIT_CODES};
use crate::shell::Home;

#[derive(Debug, Args)]
#[command(after_help = format!("\
Looks at the home, keys and papers, clock, disk, store, the providers at which people log in and
their clocks, runtimes of this machine, and where the node runs at its API, addresses, reachability and peers. Each finding is ok, a warning, or wrong;
what is not ok comes with a way out. The store is read whole only while the node is stopped.

Examples:
  opencloud doctor
  opencloud doctor --output json | jq '.findings[] | select(.level != \"ok\")'

Exit codes: 0 nothing is wrong (there may be warnings), 1 something is wrong.
{EXIT_CODES}"))]
pub(super) struct Doctor {}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// As it should be.
    Ok,
    /// Works, and may not for long or not for all.
    Warning,
    /// Does not work.
    Wrong,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Wrong => "WRONG",
        }
    }
}

/// What one look found.
#[derive(Clone, Debug, serde::Serialize)]
struct Finding {
    /// What was looked at, in one word.
    check: &'static str,
    level: Level,
    /// What was found.
    found: String,
    /// What to do about it, when it is not as it should be.
    way_out: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), way_out: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, way_out: impl Into<String>) -> Self {
        let way_out = Some(way_out.into());
        Self { check, level: Level::Warning, found: found.into(), way_out }
    }

    fn wrong(check: &'static str, found: impl Into<String>, way_out: impl Into<String>) -> Self {
        let way_out = Some(way_out.into());
        Self { check, level: Level::Wrong, found: found.into(), way_out }
    }
}

impl Doctor {
    pub(super) async fn run(&self, context: &Context) -> Result<u8, CliError> {
        let dir = context.dir()?;
        let mut findings = rest::permissions(&dir);
        match Home::open(&dir) {
            Ok(home) => {
                findings.extend(rest::papers(&home, crate::shell::org::now_ms()));
                findings.extend(rest::clock(&home, crate::shell::org::now_ms()));
                findings.extend(rest::served(&dir, crate::shell::org::now_ms()));
                findings.push(rest::disk(&dir));
                findings.extend(identity::look(&home).await);
                let live = live::look(context, &home).await;
                if !live.is_running {
                    findings.push(rest::store(&dir));
                }
                findings.extend(live.findings);
            }
            Err(error) => {
                let found = crate::api::chain(&error);
                let way_out = "give the node's directory with --home, put it back from a backup, or make a node with `opencloud init`";
                findings.push(Finding::wrong("home", found, way_out));
            }
        }
        findings.extend(host::look());
        Ok(print(context, &findings))
    }
}

fn print(context: &Context, findings: &[Finding]) -> u8 {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (warnings, wrong) = (count(Level::Warning), count(Level::Wrong));
    if context.out.is_json() {
        context.out.json(&serde_json::json!({
            "findings": findings,
            "warnings": warnings,
            "wrong": wrong,
        }));
    } else {
        let rows = findings.iter().flat_map(|finding| {
            let Finding { check, level, found, way_out } = finding;
            let first = vec![(*check).to_owned(), level.as_str().to_owned(), found.clone()];
            let hint =
                way_out.iter().map(|text| vec![String::new(), String::new(), format!("→ {text}")]);
            std::iter::once(first).chain(hint)
        });
        context.out.table(&["check", "state", "found"], rows.collect(), "nothing was looked at");
        context.out.line(&format!("{wrong} wrong, {warnings} warnings"));
    }
    if wrong > 0 { FAILED } else { OK }
}
