//! `opencloud service connect`.

use clap::Args;

use crate::api::{Connected, Traffic};
use crate::cli::Context;
use crate::cli::error::{CliError, OK};
use crate::cli::output::note;
use crate::cli::sse::Events;

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The service: its name, or `AUTHOR/service/NAME` where several nodes have one of that name
    name: String,
    /// The service's port by name or number, and the port of this machine [default: the only one; any that is free]
    #[arg(long, value_name = "PORT[:LOCAL]", value_parser = Ports::parse)]
    port: Option<Ports>,
}

/// `PORT[:LOCAL]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ports {
    port: String,
    local: u16,
}

impl Ports {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (port, local) = text.split_once(':').unwrap_or((text, "0"));
        if port.is_empty() {
            return Err("write PORT or PORT:LOCAL, like `http:8080`");
        }
        let local = local.parse().map_err(|_| "the local port is a number up to 65535")?;
        Ok(Self { port: port.to_owned(), local })
    }
}

impl Connect {
    pub(crate) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let client = context.client()?;
        let mut query = vec![("service", self.name.clone())];
        if let Some(Ports { port, local }) = self.port {
            query.extend([("port", port), ("local", local.to_string())]);
        }
        let query: Vec<(&str, &str)> = query.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let opened = client.open("/connect", &query).await?;
        follow_port(context, opened, |port| format!("port {port} of {}", self.name)).await
    }
}

/// Says where a forwarded port is and where it leads, and then what goes wrong with it, until this program is told to end.
pub(crate) async fn follow_port(
    context: &Context,
    opened: reqwest::Response,
    leads_to: impl FnOnce(&str) -> String,
) -> Result<u8, CliError> {
    let mut events = Events::new(opened);
    let strange = |_| CliError::Stream { what: "what it says of a port cannot be read" };
    let first = events.next().await?;
    let first = first.ok_or(CliError::Stream { what: "it ended at once" })?;
    let connected: Connected = serde_json::from_str(&first).map_err(strange)?;
    if context.out.is_json() {
        context.out.json_line(&connected);
    } else {
        let Connected { local, port } = &connected;
        context.out.line(&format!("{local} leads to {}", leads_to(port)));
    }
    let mut failed = 0;
    loop {
        let next = tokio::select! {
            next = events.next() => next?,
            _ = tokio::signal::ctrl_c() => return Ok(OK),
        };
        let Some(data) = next else {
            return Err(CliError::Stream { what: "the node ended it" });
        };
        let traffic: Traffic = serde_json::from_str(&data).map_err(strange)?;
        if traffic.failed > failed
            && let Some(trouble) = &traffic.trouble
        {
            note(&format!("a connection failed: {trouble}"));
        }
        failed = traffic.failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_say_where_it_is_to_be() {
        let ports = |port: &str, local| Ok(Ports { port: port.to_owned(), local });
        assert_eq!(Ports::parse("http"), ports("http", 0));
        assert_eq!(Ports::parse("80:8080"), ports("80", 8080));
        for bad in ["", ":80", "http:", "http:x", "http:65536"] {
            assert!(Ports::parse(bad).is_err(), "{bad}");
        }
    }
}
