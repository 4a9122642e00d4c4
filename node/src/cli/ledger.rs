//! `opencloud ledger`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use accounting::{Report, Verdict};
use clap::Subcommand;
use serde_json::json;

use super::error::{CliError, OK};
use super::output::note;
use super::units::{bytes, money, span};
use super::{Context, EXIT_CODES, download};
use crate::engine::command::{ChannelView, LaneView};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Show the balance of every channel
    #[command(after_help = format!("\
Claimed is what the provider's signed receipts say, acknowledged what the consumer
has signed of it.

Examples:
  opencloud ledger show
  opencloud ledger show --attempts          what each attempt used and costs

{EXIT_CODES}"))]
    Show {
        /// List every attempt with what it used
        #[arg(long)]
        attempts: bool,
    },
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
            Self::Show { attempts } => show(context, attempts).await,
            Self::Export { out } => export(context, &out).await,
            Self::Verify { file } => verify(context, &file),
        }
    }
}

async fn show(context: &Context, with_attempts: bool) -> Result<u8, CliError> {
    let channels: Vec<ChannelView> = context.client()?.get("/ledger", &[]).await?;
    if context.out.is_json() {
        context.out.json(&channels);
        return Ok(OK);
    }
    if with_attempts {
        let rows = channels.iter().flat_map(attempts).collect();
        let header =
            ["provider", "consumer", "attempt", "state", "claimed", "acknowledged", "used"];
        context.out.table(&header, rows, "nothing was used yet");
        return Ok(OK);
    }
    let rows = channels.iter().map(|channel| {
        let (provider, consumer) = parties(channel);
        let used = channel.lanes.iter().fold(BTreeMap::new(), |mut sum, lane| {
            for (dimension, n) in &lane.used {
                let total: &mut u64 = sum.entry(dimension.clone()).or_default();
                *total = total.saturating_add(*n);
            }
            sum
        });
        vec![
            provider,
            consumer,
            channel.side.clone(),
            channel.state.clone(),
            channel.lanes.len().to_string(),
            used_text(&used),
            money(channel.claimed, channel.currency),
            money(channel.earned, channel.currency),
        ]
    });
    let header = [
        "provider",
        "consumer",
        "our side",
        "state",
        "attempts",
        "used",
        "claimed",
        "acknowledged",
    ];
    context.out.table(&header, rows.collect(), "nothing was used yet");
    for channel in &channels {
        if let Some(reason) = &channel.reason {
            context
                .out
                .line(&format!("channel {} is {}: {reason}", channel.channel, channel.state));
        }
    }
    Ok(OK)
}

/// Both sides by the names that people know.
fn parties(channel: &ChannelView) -> (String, String) {
    let party = |org: &Option<String>, node: catalog::NodeId| match org {
        Some(org) => format!("{org} ({})", node.short()),
        None => node.to_string(),
    };
    (party(&channel.provider_org, channel.provider), party(&channel.consumer_org, channel.consumer))
}

fn attempts(channel: &ChannelView) -> Vec<Vec<String>> {
    let (provider, consumer) = parties(channel);
    let row = |lane: &LaneView| {
        vec![
            provider.clone(),
            consumer.clone(),
            lane.attempt.clone(),
            lane.state.clone(),
            money(lane.claimed, channel.currency),
            money(lane.earned, channel.currency),
            used_text(&lane.used),
        ]
    };
    channel.lanes.iter().map(row).collect()
}

/// `cpu 2.7 s, mem 12.9 MiB·s, io 93.0 KiB`, of base units by dimension.
fn used_text(used: &BTreeMap<String, u64>) -> String {
    let one = |(dimension, n): (&String, &u64)| {
        let kib_s = || format!("{}·s", bytes(n.saturating_mul(1_024)));
        let amount = match dimension.as_str() {
            "cpu" | "vcpu_alloc" | "gpu" | "set_up" => span(n / 1_000),
            "mem" | "storage" => kib_s(),
            "net_in" | "net_out" | "io" => bytes(*n),
            _ => n.to_string(),
        };
        format!("{dimension} {amount}")
    };
    used.iter().map(one).collect::<Vec<_>>().join(", ")
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
fn verify(context: &Context, file: &Path) -> Result<u8, CliError> {
    let bundle =
        std::fs::read(file).map_err(|source| CliError::Bundle { path: file.to_owned(), source })?;
    let result = accounting::verify(&bundle);
    if context.out.is_json() {
        context.out.json(&result);
    } else {
        print(context, file, &result);
    }
    Ok(result.exit_code())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_told_in_units_for_people() {
        let used = [("cpu", 2_734_000), ("io", 95_244), ("mem", 13_238), ("fuel", 5)];
        let used = used.map(|(dimension, n)| (dimension.to_owned(), n)).into();
        assert_eq!(used_text(&used), "cpu 2.7 s, fuel 5, io 93.0 KiB, mem 12.9 MiB·s");
    }
}
