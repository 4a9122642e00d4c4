//! What each pair owes, checked in the exported ledgers of both sides.

use std::time::Duration;

use accounting::verify::ChannelReport;
use accounting::{Report, Verdict};
use catalog::{Amount, Currency};
use tokio::time::Instant;

use super::nodes::Node;
use super::{PAUSE, failed};
use crate::cli::error::CliError;
use crate::cli::ledger;

/// How long both sides may take to sign the last receipts. One is due every 10 seconds, and the end of a task brings one.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// One channel: what a consumer owes a provider.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Bill {
    /// The organisation that served.
    pub(super) provider: String,
    /// The organisation that was served.
    pub(super) consumer: String,
    pub(super) currency: Currency,
    pub(super) receipts: u64,
    /// In nano-units of the currency.
    pub(super) amount: Amount,
    /// Whether the bundles of both sides are valid and say the same.
    pub(super) verified: bool,
}

/// What the nodes owe each other, and the proof.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) bills: Vec<Bill>,
    /// The exported ledger of each node.
    pub(super) bundles: [Vec<u8>; 3],
}

/// Waits until everything is acknowledged, then compares the bundles of all nodes.
pub(super) async fn settle(nodes: &[&Node; 3]) -> Result<Settled, CliError> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let mut bundles = [const { Vec::new() }; 3];
        for (bundle, node) in bundles.iter_mut().zip(nodes) {
            *bundle = ledger::fetch(&node.client).await?;
        }
        let reports: Vec<(&&Node, Report)> =
            nodes.iter().zip(&bundles).map(|(n, bundle)| (n, accounting::verify(bundle))).collect();
        if let Some((node, report)) = reports.iter().find(|(_, report)| is_wrong(report)) {
            let finding = report.findings.first().map_or(String::new(), |f| f.problem.message());
            let verdict = ledger::verdict(report.verdict);
            return Err(failed(
                "verify the ledgers",
                format!("the bundle of {} is {verdict}: {finding}", node.org),
            ));
        }
        let bills = bills(reports.iter().map(|(_, report)| report));
        let is_settled = bills.iter().all(|bill| bill.verified) && !bills.is_empty();
        if is_settled && reports.iter().all(|(_, report)| report.verdict == Verdict::Valid) {
            return Ok(Settled { bills, bundles });
        }
        if Instant::now() >= deadline {
            let open = bills.iter().filter(|bill| !bill.verified).count();
            let detail =
                format!("{open} of {} channels are not acknowledged on both sides", bills.len());
            return Err(failed("verify the ledgers", detail));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_wrong(report: &Report) -> bool {
    matches!(report.verdict, Verdict::Invalid | Verdict::Equivocation)
}

/// One bill for each channel, which two bundles hold: the provider's and the consumer's.
fn bills<'a>(reports: impl Iterator<Item = &'a Report>) -> Vec<Bill> {
    let mut channels: Vec<(&ChannelReport, u32, bool)> = Vec::new();
    for channel in reports.flat_map(|report| &report.channels) {
        match channels.iter_mut().find(|(known, ..)| known.channel == channel.channel) {
            None => channels.push((channel, 1, true)),
            Some((known, bundles, agree)) => {
                *bundles += 1;
                *agree &= known.claimed == channel.claimed
                    && known.earned == channel.earned
                    && known.receipts == channel.receipts;
            }
        }
    }
    let bill = |(channel, bundles, agree): (&ChannelReport, u32, bool)| Bill {
        provider: channel.provider.org_name.clone(),
        consumer: channel.consumer.org_name.clone(),
        currency: channel.currency,
        receipts: channel.receipts,
        amount: channel.earned,
        verified: bundles == 2 && agree && !channel.has_tail && channel.claimed == channel.earned,
    };
    channels.into_iter().map(bill).collect()
}
