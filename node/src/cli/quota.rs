//! `opencloud quota`: how much of this node people may take, and have taken.

use catalog::{Amount, Currency};
use clap::{Args, Subcommand};

use super::error::{CliError, OK};
use super::units::parse_duration;
use super::{Context, EXIT_CODES};
use crate::api::SetQuota;
use crate::engine::quota::{Limits, QuotaView};

/// Seconds in a core hour.
const HOUR_S: u64 = 3_600;
const DAY_MS: u64 = 24 * 3_600_000;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the quotas, and what of each is taken
    #[command(after_help = format!("Example:\n  opencloud quota list\n\n{EXIT_CODES}"))]
    List,
    /// Say what somebody may take, in place of what was said before; what is not said has no limit
    #[command(after_help = format!("\
WHO is user:NAME, user:ISSUER|SUBJECT, `user:*` for each person by itself, group:NAME for
all people of a group together, or org:did:key:… for all people of this organisation. All
quotas of a person hold at once. Programs count for the person whose token they have; what
the owner of the node does counts for nobody. A run is let in as long as there is room, and
may go beyond the quota then.

`opencloud peers limit` is for what other organisations may do here.

Examples:
  opencloud quota set group:interns --runs 2 --cpu-hours 10 --per 7d
  opencloud quota set 'user:*' --spend 20.00 --records 50

{EXIT_CODES}"))]
    Set(Set),
    /// Take a quota away
    #[command(after_help = format!("Example:\n  opencloud quota remove group:interns\n\n{EXIT_CODES}"))]
    Remove {
        /// Whose
        who: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Set {
    /// Whose
    who: String,
    /// Runs at once
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    /// Core hours of tasks in a period
    #[arg(long, value_name = "N")]
    cpu_hours: Option<u64>,
    /// What other nodes may claim for runs in a period
    #[arg(long, value_name = "AMOUNT")]
    spend: Option<Amount>,
    /// The currency of that [default: EUR]
    #[arg(long, value_name = "CODE", requires = "spend")]
    currency: Option<Currency>,
    /// Records that are published
    #[arg(long, value_name = "N")]
    records: Option<u64>,
    /// The period, between 1m and 366d [default: 30d]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    per: Option<u64>,
}

impl Verb {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        match self {
            Self::List => {
                let views: Vec<QuotaView> = client.get("/quotas", &[]).await?;
                match context.out.is_json() {
                    true => context.out.json(&views),
                    false => show(context, &views),
                }
            }
            Self::Set(set) => {
                let limits = Limits {
                    runs: set.runs,
                    cpu_s: set.cpu_hours.map(|hours| hours.saturating_mul(HOUR_S)),
                    spend: set.spend,
                    currency: set.currency,
                    records: set.records,
                    period_ms: set.per,
                };
                client.put_told("/quotas", &SetQuota { subject: set.who, limits }).await?;
            }
            Self::Remove { who } => client.delete("/quotas", &[("subject", &who)]).await?,
        }
        Ok(OK)
    }
}

/// A table of quotas.
pub(super) fn show(context: &Context, views: &[QuotaView]) {
    let rows = views.iter().map(|view| {
        let QuotaView { subject, name, limits, used } = view;
        let of = |used: String, max: Option<String>| match max {
            Some(max) => format!("{used} of {max}"),
            None => "-".to_owned(),
        };
        let spend = limits.spend.map(|max| format!("{max} {}", limits.money()));
        vec![
            name.as_ref().map_or_else(|| subject.clone(), |name| format!("user:{name}")),
            of(used.runs.to_string(), limits.runs.map(|max| max.to_string())),
            of(hours(used.cpu_s), limits.cpu_s.map(hours)),
            of(used.spend.to_string(), spend),
            of(used.records.to_string(), limits.records.map(|max| max.to_string())),
            period(limits.period()),
        ]
    });
    let header = ["who", "runs", "core hours", "spending", "records", "per"];
    let none = "there are no quotas; `opencloud quota set` makes one";
    context.out.table(&header, rows.collect(), none);
}

/// Seconds as hours, with a digit of what is left.
fn hours(seconds: u64) -> String {
    match seconds % HOUR_S {
        0 => (seconds / HOUR_S).to_string(),
        rest => format!("{}.{}", seconds / HOUR_S, rest * 10 / HOUR_S),
    }
}

/// A period as it is given.
fn period(ms: u64) -> String {
    let units = [(DAY_MS, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let found = units.into_iter().find(|(unit, _)| ms.is_multiple_of(*unit));
    found.map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_and_periods_are_short() {
        assert_eq!([0, 3_600, 5_400, 36_059].map(hours), ["0", "1", "1.5", "10.0"]);
        let periods = [30 * DAY_MS, 36 * 3_600_000, 60_000, 90_000, 60_001].map(period);
        assert_eq!(periods, ["30d", "36h", "1m", "90s", "60001ms"]);
    }
}
