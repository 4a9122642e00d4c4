//! What a running node says of itself.

use std::time::Duration;

use super::Finding;
use crate::api::{PeerAnswer, ReachView, StatusAnswer, chain};
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::shell::{Home, HomeError};

/// How long the node may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Peers named that are not reached; the others are counted.
const PEERS_NAMED: usize = 8;

/// What was found, and whether there is a node to ask.
pub(super) struct Live {
    pub(super) is_running: bool,
    pub(super) findings: Vec<Finding>,
}

pub(super) async fn look(context: &Context, home: &Home) -> Live {
    match home.api_address() {
        Ok(_) => {}
        Err(HomeError::NotRunning { .. }) => {
            let finding = Finding::warning("node", "it is not running", "start it: `opencloud up`");
            return Live { is_running: false, findings: vec![finding] };
        }
        Err(error) => {
            let finding =
                Finding::wrong("node", chain(&error), "remove the file and start it again");
            return Live { is_running: false, findings: vec![finding] };
        }
    }
    let asked = async {
        let client = context.client()?;
        let status: StatusAnswer = client.get("/status", &[]).await?;
        let peers: Vec<PeerAnswer> = client.get("/peers", &[]).await?;
        Ok::<_, CliError>((status, peers))
    };
    let findings = match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(Ok((status, peers))) => told(&status, &peers),
        Ok(Err(CliError::Http(_))) => {
            let found = "it was killed, or its API is not reached where it said";
            let finding = Finding::wrong("node", found, "start it: `opencloud up`");
            return Live { is_running: false, findings: vec![finding] };
        }
        Ok(Err(error)) => {
            let way_out = error.hint().unwrap_or_else(|| "look at its log".to_owned());
            vec![Finding::wrong("node", error.message(), way_out)]
        }
        Err(_) => {
            let found = format!("it gives no answer within {} s", TIMEOUT.as_secs());
            vec![Finding::wrong("node", found, "look at its log and at the disk")]
        }
    };
    Live { is_running: true, findings }
}

fn told(answer: &StatusAnswer, peers: &[PeerAnswer]) -> Vec<Finding> {
    let status = &answer.status;
    let found = format!("{} runs, version {}", status.name, status.version);
    let mut findings = vec![Finding::ok("node", found)];
    if let Some(warning) = &status.papers.warning {
        let way_out = "`opencloud org` has what can be done about papers";
        findings.push(Finding::warning("papers", warning, way_out));
    }
    findings.push(if status.addresses.is_empty() {
        let way_out = "name an address that is free: `opencloud up --listen MULTIADDR`";
        Finding::wrong("listen", "peers can reach it nowhere", way_out)
    } else {
        Finding::ok("listen", status.addresses.join(" "))
    });
    findings.extend(answer.reach.as_ref().map(reach));
    if status.price.is_none() {
        let found = "what it asks of others is not published";
        findings.push(Finding::warning("price", found, "`opencloud up --price-plan FILE`"));
    }
    findings.extend(neighbours(peers));
    findings
}

fn reach(reach: &ReachView) -> Finding {
    let found = format!("{}: {}", reach.standing, reach.why);
    let is_relayed = reach.relays.iter().any(|relay| relay.reserved);
    // The sentence has the way out where a relay is needed and none is there.
    if reach.why.contains("--relay") && !is_relayed {
        let way_out = "connect to a member that runs `opencloud up --relay`, or open a port and name it with `up --announce`";
        return Finding::warning("reach", found, way_out);
    }
    Finding::ok("reach", found)
}

fn neighbours(peers: &[PeerAnswer]) -> Vec<Finding> {
    let connected = peers.iter().filter(|answer| answer.peer.connected).count();
    let known = peers.len();
    let found = format!("{connected} of {known} connected");
    if known == 0 {
        return vec![Finding::ok("peers", "nobody is known yet: `opencloud invite`, or `join`")];
    }
    let mut findings = vec![if connected == 0 {
        Finding::wrong("peers", found, "see the next lines, and `opencloud peers`")
    } else {
        Finding::ok("peers", found)
    }];
    let away =
        peers.iter().filter(|answer| !answer.peer.connected && answer.peer.trust != "blocked");
    findings.extend(away.take(PEERS_NAMED).map(|answer| {
        let why = answer.why.as_deref().unwrap_or("it is away");
        let found = format!("{} of {}: {why}", answer.peer.name, answer.peer.org_name);
        let way_out = answer.hint.as_deref().unwrap_or("it will be dialled again");
        Finding::warning("peer", found, way_out)
    }));
    findings
}
