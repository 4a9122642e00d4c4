//! `opencloud service list`, `show`.

use scheduler::service::{Access, End, Event, EventBody};
use scheduler::task::RunId;

use super::path;
use crate::cli::Context;
use crate::cli::error::{CliError, OK};
use crate::cli::run::cost;
use crate::cli::units::{span, time};
use crate::engine::services::{ReplicaView, RevisionView, ServiceSummary, ServiceView};

/// Events that are shown to people; programs get all that are kept.
const EVENTS_SHOWN: usize = 15;
/// Digits of a replica's id that are shown.
const ID_DIGITS: usize = 8;

pub(crate) async fn list(context: &Context) -> Result<u8, CliError> {
    let services: Vec<ServiceSummary> = context.client()?.get("/services", &[]).await?;
    if context.out.is_json() {
        context.out.json(&services);
        return Ok(OK);
    }
    let rows = services.into_iter().map(|service| {
        let replicas = format!("{}/{}", service.available, service.replicas);
        let (ports, deployed) = (ports(&service), time(service.deployed_ms));
        let revision = service.revision.to_string();
        vec![service.name, service.state, replicas, revision, service.runtime, ports, deployed]
    });
    let header = ["service", "state", "replicas", "revision", "runtime", "ports", "deployed"];
    let none = "no services yet: `opencloud service deploy FILE` starts one";
    context.out.table(&header, rows.collect(), none);
    Ok(OK)
}

fn ports(service: &ServiceSummary) -> String {
    let port = |(name, port): (&String, &u16)| format!("{name} {port}");
    service.ports.iter().map(port).collect::<Vec<_>>().join(", ")
}

pub(crate) async fn show(context: &Context, name: &str) -> Result<u8, CliError> {
    let view: ServiceView = context.client()?.get(&path(name), &[]).await?;
    if context.out.is_json() {
        context.out.json(&view);
    } else {
        print(context, &view);
    }
    Ok(OK)
}

fn print(context: &Context, view: &ServiceView) {
    let (service, out) = (&view.summary, context.out);
    let mut facts = vec![("service", service.name.clone())];
    facts.extend(service.description.clone().map(|text| ("description", text)));
    let stable = match view.stable {
        Some(stable) if stable != service.revision => format!(" (last that worked: {stable})"),
        _ => String::new(),
    };
    facts.extend([
        ("state", service.state.clone()),
        ("replicas", format!("{} of {} available", service.available, service.replicas)),
        ("revision", format!("{}{stable}", service.revision)),
        ("runtime", service.runtime.clone()),
        ("ports", ports(service)),
        ("access", access(&view.access)),
        ("agreements", format!("{} each", span(view.term_ms))),
    ]);
    facts.extend(view.trouble.clone().map(|text| ("trouble", text)));
    if !view.costs.is_empty() {
        facts.push(("cost now", view.costs.iter().map(cost).collect::<Vec<_>>().join("\n")));
    }
    out.facts(&facts);
    out.line("");
    let header = ["replica", "revision", "state", "organisation", "node", "agreed", "remark"];
    let rows = view.replicas_now.iter().map(replica);
    out.table(&header, rows.collect(), "no replica is there");
    out.line("");
    let rows = view.revisions.iter().map(|revision| revision_row(revision, view));
    out.table(&["revision", "deployed", "document", "remark"], rows.collect(), "");
    out.line("");
    let skipped = view.events.len().saturating_sub(EVENTS_SHOWN);
    let rows = view.events.iter().skip(skipped).map(|e| vec![time(e.at_ms), sentence(e)]);
    out.table(&["time", "event"], rows.collect(), "nothing has happened");
}

fn access(access: &Access) -> String {
    match access {
        Access::Owner => "its owner".to_owned(),
        Access::Realm => "the whole realm".to_owned(),
        Access::Orgs(orgs) => {
            let orgs: Vec<String> = orgs.iter().map(ToString::to_string).collect();
            format!("its owner\n{}", orgs.join("\n"))
        }
    }
}

fn replica(replica: &ReplicaView) -> Vec<String> {
    vec![
        short(replica.run),
        replica.revision.to_string(),
        replica.state.clone(),
        replica.org_name.clone().unwrap_or_default(),
        replica.node.map(|node| node.short()).unwrap_or_default(),
        replica.agreed_ms.map(time).unwrap_or_default(),
        // The others stand in the answer for programs.
        replica.reasons.first().cloned().unwrap_or_default(),
    ]
}

fn revision_row(revision: &RevisionView, view: &ServiceView) -> Vec<String> {
    let remark = match revision.number {
        number if number == view.summary.revision => "wanted",
        number if Some(number) == view.stable => "worked last",
        _ => "",
    };
    let (number, deployed) = (revision.number.to_string(), time(revision.deployed_ms));
    vec![number, deployed, revision.digest.to_string(), remark.to_owned()]
}

/// Enough of a replica's id to name it.
pub(super) fn short(run: RunId) -> String {
    let text = run.to_string();
    let digits = text.strip_prefix("run-").unwrap_or(&text);
    digits.chars().take(ID_DIGITS).collect()
}

fn sentence(event: &Event) -> String {
    match &event.body {
        EventBody::Targeted { revision } => format!("revision {revision} is wanted"),
        EventBody::Scaled { replicas: 1 } => "1 replica is wanted".to_owned(),
        EventBody::Scaled { replicas } => format!("{replicas} replicas are wanted"),
        EventBody::Started { run, revision } => {
            format!("{} of revision {revision} is asked for", short(*run))
        }
        EventBody::Placed { run, node } => {
            format!("{} is agreed with {}", short(*run), node.short())
        }
        EventBody::Health { run, health } => format!("{} is {}", short(*run), health.as_str()),
        EventBody::Leaving { run, why } => format!("{} leaves: {}", short(*run), why.as_str()),
        EventBody::Ended { run, end } => format!("{} ended: {}", short(*run), ending(end)),
        EventBody::RolledOut { revision } => format!("all replicas are of revision {revision}"),
        EventBody::Stopped { revision, reason, back_to } => {
            let back = match back_to {
                Some(revision) => format!("; back to revision {revision}"),
                None => String::new(),
            };
            format!("the update to revision {revision} stopped: {}{back}", reason.as_str())
        }
        EventBody::Removing => "it is to be removed".to_owned(),
    }
}

pub(super) fn ending(end: &End) -> String {
    match end {
        End::Done => "the program ended with code 0".to_owned(),
        End::Failed(failure) => format!("{} ({})", failure.detail, failure.class.as_str()),
        End::Cancelled => "it was stopped".to_owned(),
        End::Refused { detail } => format!("it cannot be run: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scheduler::service::{Health, StopReason};
    use scheduler::task::{Failure, FailureClass};

    #[test]
    fn events_are_sentences() {
        let run = RunId::from_bytes([0x3f; 16]);
        let detail = "exit code 1: no such file".to_owned();
        let failure = Failure { class: FailureClass::Exit, exit_code: Some(1), detail };
        let reason = StopReason::Crashing;
        for (body, expected) in [
            (EventBody::Scaled { replicas: 1 }, "1 replica is wanted"),
            (EventBody::Health { run, health: Health::Healthy }, "3f3f3f3f is healthy"),
            (
                EventBody::Ended { run, end: End::Failed(failure) },
                "3f3f3f3f ended: exit code 1: no such file (exit)",
            ),
            (
                EventBody::Stopped { revision: 2, reason, back_to: Some(1) },
                "the update to revision 2 stopped: its replicas ended before they were healthy; back to revision 1",
            ),
        ] {
            assert_eq!(sentence(&Event { seq: 0, at_ms: 0, body }), expected);
        }
    }
}
