//! What is counted of a node, for those who watch many.

use std::collections::BTreeMap;

use accounting::entry::Side;
use catalog::{Currency, NodeId};
use scheduler::capacity::Amounts;

use super::Engine;
use super::services::is_replica;

/// Most currencies that are told apart; channels in further ones, in the order of their codes, are left out of the figures. Which
/// currencies there are, partners have a say in.
pub const CURRENCIES_MAX: usize = 32;

/// Counts and sums, without a name that a peer chose.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Peers by id: what they are to this node, in one word, and whether they are connected.
    pub peers: Vec<(NodeId, &'static str, bool)>,
    /// Records of the catalogue by kind.
    pub records: BTreeMap<&'static str, u64>,
    /// Runs that are coordinated here, by state; replicas of services are none.
    pub runs: BTreeMap<&'static str, u64>,
    /// Attempts that this node works on.
    pub tasks: u64,
    /// What tasks may still take.
    pub free: Amounts,
    /// All that is offered.
    pub total: Amounts,
    /// Sums of the channels' balances in nano-units, by currency and this node's side: claimed, and of that acknowledged.
    pub ledger: BTreeMap<(Currency, &'static str), (i64, i64)>,
}

impl Engine {
    /// What is counted of this node.
    pub(super) fn figures(&self, now_ms: u64) -> Figures {
        let mut figures = Figures {
            tasks: self.provider.active().count() as u64,
            free: self.provider.capacity().free(),
            total: self.provider.capacity().total(),
            ..Figures::default()
        };
        figures.peers = self.peer_words();
        for entry in self.catalog.resources(now_ms) {
            *figures.records.entry(entry.resource.kind().as_str()).or_default() += 1;
        }
        for run in self.coordinator.runs().filter(|run| !is_replica(run)) {
            *figures.runs.entry(run.state()).or_default() += 1;
        }
        for channel in self.ledger.channels() {
            let side = if channel.side() == Side::Provider { "provider" } else { "consumer" };
            let sum = figures.ledger.entry((channel.currency(), side)).or_default();
            sum.0 = sum.0.saturating_add(channel.claimed().nano());
            sum.1 = sum.1.saturating_add(channel.earned().nano());
        }
        let mut codes: Vec<Currency> = figures.ledger.keys().map(|(code, _)| *code).collect();
        codes.dedup();
        if let Some(first_left_out) = codes.get(CURRENCIES_MAX).copied() {
            figures.ledger.retain(|(code, _), _| *code < first_left_out);
        }
        figures
    }

    /// The peers that were met, each with what it is to this node.
    fn peer_words(&self) -> Vec<(NodeId, &'static str, bool)> {
        let met = self.admission.peers();
        met.map(|(id, peer)| (*id, self.trust(peer.cert.org).as_str(), self.connected.contains(id)))
            .collect()
    }
}
