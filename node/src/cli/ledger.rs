//! `opencloud ledger`.

use std::path::{Path, PathBuf};

use accounting::{Report, Verdict};
use clap::Subcommand;
use serde_json::json;

use super::error::{CliError, OK, USAGE};
use super::output::{note, report};
use super::units::{bytes, money};
use super::{Context, EXIT_CODES, download};
use crate::engine::command::ChannelView;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Show the balance of every channel
    #[command(after_help = format!("Example:\n  opencloud ledger show\n\n{EXIT_CODES}"))]
    Show,
    /// Write every channel with its proofs to a file
    #[command(after_help = format!("Example:\n  opencloud ledger export --out november.bundle\n\n{EXIT_CODES}"))]
    Export {
        /// The file
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Check an exported file; needs no node and no network
    #[command(after_help = "\
Checks every signature, every link and every amount in the file. Two signatures
prove that both sides agreed, not that the counters are true.

Exit codes:
   0  valid
   1  invalid: something in it is wrong or was changed
   2  equivocation: a party signed two things for one place, here is the proof
   3  valid, but the newest entries are not acknowledged yet
  64  the file cannot be read, or the command line is wrong

Example:
  opencloud ledger verify november.bundle")]
    Verify {
        /// The file
        file: PathBuf,
    },
}

impl Verb {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        match self {
            Self::Show => show(context).await,
            Self::Export { out } => export(context, &out).await,
            Self::Verify { file } => Ok(verify(context, &file)),
        }
    }
}

async fn show(context: &Context) -> Result<u8, CliError> {
    let channels: Vec<ChannelView> = context.client()?.get("/ledger", &[]).await?;
    if context.out.is_json() {
        context.out.json(&channels);
        return Ok(OK);
    }
    let rows = channels.into_iter().map(|channel| {
        let party = |org: Option<String>, node: catalog::NodeId| {
            org.map_or_else(|| node.to_string(), |org| format!("{org} ({})", node.short()))
        };
        vec![
            party(channel.provider_org, channel.provider),
            party(channel.consumer_org, channel.consumer),
            channel.side,
            channel.lanes.len().to_string(),
            money(channel.claimed, channel.currency),
            money(channel.earned, channel.currency),
        ]
    });
    let header = ["provider", "consumer", "our side", "attempts", "claimed", "acknowledged"];
    context.out.table(&header, rows.collect(), "nothing was used yet");
    Ok(OK)
}

async fn export(context: &Context, out: &Path) -> Result<u8, CliError> {
    let bundle = fetch(&context.client()?).await?;
    download::bytes(&bundle, out)?;
    if context.out.is_json() {
        context.out.json(&json!({"path": out, "size": bundle.len()}));
    } else {
        context.out.line(&format!("{} ({})", out.display(), bytes(bundle.len() as u64)));
    }
    Ok(OK)
}

/// The node's bundle.
pub(super) async fn fetch(client: &super::Client) -> Result<Vec<u8>, CliError> {
    let mut response = client.open("/ledger/export", &[]).await?;
    let mut bundle = Vec::new();
    while let Some(bytes) = response.chunk().await? {
        bundle.extend_from_slice(&bytes);
    }
    Ok(bundle)
}

/// The exit code says the verdict, so a file that cannot be read must not look like an invalid one.
fn verify(context: &Context, file: &Path) -> u8 {
    let bundle = match std::fs::read(file).map_err(CliError::io(file)) {
        Ok(bundle) => bundle,
        Err(error) => {
            report(&error);
            return USAGE;
        }
    };
    let result = accounting::verify(&bundle);
    if context.out.is_json() {
        context.out.json(&result);
    } else {
        print(context, file, &result);
    }
    result.exit_code()
}

/// The verdict in words.
pub(super) const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "valid",
        Verdict::Invalid => "INVALID",
        Verdict::Equivocation => "EQUIVOCATION",
        Verdict::ValidWithTail => "valid, newest entries not acknowledged",
    }
}

fn print(context: &Context, file: &Path, result: &Report) {
    context.out.line(&format!("{}: {}", file.display(), verdict(result.verdict)));
    let rows: Vec<Vec<String>> = result
        .channels
        .iter()
        .map(|channel| {
            vec![
                channel.provider.org_name.clone(),
                channel.consumer.org_name.clone(),
                channel.lanes.len().to_string(),
                channel.receipts.to_string(),
                money(channel.claimed, channel.currency),
                money(channel.earned, channel.currency),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let header = ["provider", "consumer", "attempts", "receipts", "claimed", "acknowledged"];
        context.out.table(&header, rows, "");
    }
    for finding in &result.findings {
        let mut place = format!("item {}", finding.item);
        if let (Some(writer), Some(seq)) = (finding.writer, finding.seq) {
            let side = format!("{writer:?}").to_lowercase();
            place.push_str(&format!(", entry {seq} of the {side}"));
        }
        if let Some(channel) = &finding.channel {
            place.push_str(&format!(", channel {}…", channel.chars().take(12).collect::<String>()));
        }
        note(&format!("{place}: {}", finding.problem.message()));
    }
    if result.findings_omitted > 0 {
        note(&format!("… and {} more", result.findings_omitted));
    }
}
