//! Whether those can log in whom providers of identities know: each provider that the home names is asked, whether the node runs or
//! not.

use super::Finding;
use crate::cli::units::span;
use crate::identity::{Provider, Providers, Remote};
use crate::shell::Home;
use crate::shell::org::now_ms;

/// Clocks of this node and of a provider may differ by so much before it is told, in milliseconds; beyond [`OFF_MS`] nobody gets in.
const SLACK_MS: u64 = 15_000;
/// From here on what a provider says of somebody is too old, or not good yet.
const OFF_MS: u64 = 60_000;

/// One finding for each provider, and one for its clock.
pub(super) async fn look(home: &Home) -> Vec<Finding> {
    let all = match Providers::open(home.dir()) {
        Ok(all) => all.all(),
        Err(error) => {
            let way_out =
                "put the file back from a backup, or remove it and add the providers again";
            return vec![Finding::wrong("login", crate::api::chain(&error), way_out)];
        }
    };
    let remote = match Remote::new() {
        Ok(remote) => remote,
        Err(error) => {
            let way_out = "look at the certificates that this machine trusts";
            return vec![Finding::wrong("login", error.to_string(), way_out)];
        }
    };
    let mut findings = Vec::new();
    for provider in all {
        findings.extend(ask(&remote, &provider).await);
    }
    findings
}

async fn ask(remote: &Remote, provider: &Provider) -> Vec<Finding> {
    let name = &provider.name;
    match remote.test(provider, now_ms()).await {
        Err(error) => {
            let way_out = format!(
                "nobody logs in there until it answers; `opencloud provider test {name}` tries it again"
            );
            vec![Finding::warning("login", error.to_string(), way_out)]
        }
        Ok((_, keys)) => {
            let found = format!("the provider {name} answers, and shows {keys} keys");
            let first = match keys {
                0 => Finding::warning("login", found, "nobody logs in before it has a key"),
                _ => Finding::ok("login", found),
            };
            let theirs = remote.clock(provider).await.ok().flatten();
            vec![first].into_iter().chain(theirs.map(|at| clock(name, at, now_ms()))).collect()
        }
    }
}

fn clock(name: &str, theirs_ms: u64, now_ms: u64) -> Finding {
    let apart_ms = theirs_ms.abs_diff(now_ms);
    let side = if theirs_ms > now_ms { "behind" } else { "ahead of" };
    let found =
        format!("this machine's clock is {} {side} that of the provider {name}", span(apart_ms));
    let way_out =
        "have both set their clocks by the network: what a provider signs is good for a short time";
    match apart_ms {
        OFF_MS.. => Finding::wrong("clock", found, way_out),
        SLACK_MS.. => Finding::warning("clock", found, way_out),
        _ => Finding::ok("clock", format!("as that of the provider {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_clock_is_told_before_it_keeps_people_out() {
        let level = |theirs| clock("work", theirs, 100_000_000).level;
        assert_eq!((level(100_000_000), level(100_014_999)), (Level::Ok, Level::Ok));
        assert_eq!((level(100_015_000), level(99_985_000)), (Level::Warning, Level::Warning));
        assert_eq!((level(100_060_000), level(99_940_000)), (Level::Wrong, Level::Wrong));
        let late = clock("work", 100_090_000, 100_000_000);
        assert!(late.found.contains("behind that of the provider work"), "{}", late.found);
    }
}
