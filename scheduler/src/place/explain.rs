//! A plan in sentences, for `run explain` and tables.

use std::collections::BTreeMap;

use catalog::NodeId;

use super::{Plan, Scored};

impl Plan {
    /// One line for each candidate, in the order of the plan: first those ranked, then those rejected. A node without an
    /// entry in `names` is called by the end of its id.
    #[must_use]
    pub fn explain(&self, names: &BTreeMap<NodeId, String>) -> Vec<String> {
        let name = |node: &NodeId| names.get(node).cloned().unwrap_or_else(|| node.short());
        let ranked =
            self.ranked.iter().enumerate().map(|(idx, scored)| {
                format!("{}. {}: {}", idx + 1, name(&scored.node), why(scored))
            });
        let rejected =
            self.rejected.iter().map(|(node, reason)| format!("-  {}: no, {reason}", name(node)));
        ranked.chain(rejected).collect()
    }
}

/// `partner, done in 1.250 s (transfer 0.250 s, run 1.000 s), costs about 0.0012 EUR`
fn why(scored: &Scored) -> String {
    let times: Vec<String> = scored
        .terms
        .iter()
        .filter(|term| is_time(term.name) && term.value > 0)
        .map(|term| format!("{} {}", term.name.replace('_', " "), seconds(term.value)))
        .collect();
    let price = match scored.price {
        Some((price, currency)) => format!("costs about {price} {currency}"),
        None => "asks no money".to_owned(),
    };
    let (trust, finish) = (scored.trust.as_str(), seconds(scored.finish_us));
    format!("{trust}, done in {finish} ({}), {price}", times.join(", "))
}

fn is_time(name: &str) -> bool {
    !matches!(name, "trust" | "price" | "currency")
}

/// Microseconds as seconds with three decimals, cut.
fn seconds(us: i64) -> String {
    format!("{}.{:03} s", us / 1_000_000, us % 1_000_000 / 1000)
}
