//! `opencloud tunnel` and `opencloud ports`: ports of this machine that lead to ports of peers, and those opened to them.

use clap::Args;

use super::error::{CliError, OK};
use super::run::pick;
use super::service::follow_port;
use super::{Context, EXIT_CODES, units};
use crate::api::PortSeen;
use crate::engine::command::PeerView;
use crate::engine::ports::is_port_name;

#[derive(Debug, Args)]
#[command(after_help = format!("\
The owner of the other node opens the port to you by a name: `opencloud up --open`.
Programs of this machine connect to the local port, which is on 127.0.0.1 alone, as
long as this command runs.

Examples:
  opencloud tunnel harbour-lab db
  opencloud tunnel 12D3KooWQ7 db:5433

{EXIT_CODES}"))]
pub(super) struct Tunnel {
    /// The node: its name, or its id or the beginning of that
    node: String,
    /// The port's name, and the port of this machine [default: any that is free]
    #[arg(value_name = "NAME[:LOCAL]", value_parser = parse_port)]
    port: (String, u16),
}

/// `NAME[:LOCAL]`.
fn parse_port(text: &str) -> Result<(String, u16), &'static str> {
    let (name, local) = text.split_once(':').unwrap_or((text, "0"));
    if !is_port_name(name) {
        return Err(
            "write NAME or NAME:LOCAL, like `db:5432`; a name is of small letters, digits and `-`",
        );
    }
    let local = local.parse().map_err(|_| "the local port is a number up to 65535")?;
    Ok((name.to_owned(), local))
}

impl Tunnel {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        let peers: Vec<PeerView> = client.get("/peers", &[]).await?;
        let (by_name, given) = (|peer: &PeerView| peer.name == self.node, &self.node);
        let has_name = peers.iter().any(by_name);
        let labelled = peers.into_iter().map(|peer| {
            let label = format!("{} ({}, {})", peer.id, peer.name, peer.org_name);
            (peer, label)
        });
        let peer = pick("node", given, labelled, |peer| match has_name {
            true => by_name(peer),
            false => peer.id.to_string().starts_with(given.as_str()),
        })?;
        let (name, local) = self.port;
        let (node, local) = (peer.id.to_string(), local.to_string());
        let query = [("node", &*node), ("name", &*name), ("local", &*local)];
        let opened = client.open("/tunnel", &query).await?;
        let what = format!("port `{name}` of {} ({})", peer.name, peer.org_name);
        follow_port(context, opened, |_| what).await
    }
}

#[derive(Debug, Args)]
#[command(after_help = format!("Example:\n  opencloud ports\n\n{EXIT_CODES}"))]
pub(super) struct Ports {}

impl Ports {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let ports: Vec<PortSeen> = context.client()?.get("/ports", &[]).await?;
        if context.out.is_json() {
            context.out.json(&ports);
            return Ok(OK);
        }
        let rows = ports.into_iter().map(|PortSeen { port, opened, received, sent }| {
            let named = port.orgs.iter().map(ToString::to_string);
            let whom: Vec<String> = port.trusted.into_iter().chain(named).collect();
            vec![
                port.name,
                format!("127.0.0.1:{}", port.port),
                whom.join(", "),
                opened.to_string(),
                units::bytes(received),
                units::bytes(sent),
            ]
        });
        let header = ["name", "port", "open to", "tunnels", "received", "sent"];
        let empty = "no ports are open to peers: `opencloud up --open NAME=PORT` opens one";
        context.out.table(&header, rows.collect(), empty);
        Ok(OK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_named_and_may_say_where_it_is_to_be() {
        assert_eq!(parse_port("db"), Ok(("db".to_owned(), 0)));
        assert_eq!(parse_port("db:5433"), Ok(("db".to_owned(), 5433)));
        for bad in ["", ":1", "db:", "db:x", "5432", "db:65536"] {
            assert!(parse_port(bad).is_err(), "{bad}");
        }
    }
}
