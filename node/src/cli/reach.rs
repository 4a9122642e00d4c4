//! The options of `up` that say how others reach the node, and what it does for them.

use std::time::Duration;

use clap::Args;

use catalog::NodeId;
use fabric::{AddressKind, RelayLimits};

use super::error::CliError;
use super::units::{parse_duration, parse_size};
use crate::shell::ReachConfig;

#[derive(Debug, Args)]
pub(super) struct Reach {
    /// An address at which others reach this node, as a multiaddr, like `/dns4/node.example.org/tcp/4610`; may be repeated
    #[arg(long, value_name = "MULTIADDR", value_parser = parse_address)]
    announce: Vec<String>,
    /// A peer to look for, as a multiaddr with its id, `/ip4/…/p2p/ID`; may be repeated
    #[arg(long, value_name = "MULTIADDR", value_parser = parse_peer)]
    bootstrap: Vec<(NodeId, String)>,
    /// Relay for members that cannot be reached otherwise
    #[arg(long)]
    relay: bool,
    /// What all relayed connections may move together in a second
    #[arg(long, value_name = "SIZE", requires = "relay", default_value = "8MiB", value_parser = parse_size)]
    relay_rate: u64,
    /// What may be relayed from and to one peer in a day
    #[arg(long, value_name = "SIZE", requires = "relay", default_value = "8GiB", value_parser = parse_size)]
    relay_daily: u64,
    /// The largest file that is fetched from a peer that only a relay leads to; `0` for none
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = parse_relayed)]
    relayed_data: u64,
    /// How long nobody may be connected, like `3m`, before this node opens its listeners anew, and after as long again builds its
    /// whole network anew: sockets can go deaf in an outage
    #[arg(long, value_name = "TIME", default_value = "3m", value_parser = parse_alone)]
    alone: u64,
    /// Ask the router for an open port (UPnP)
    #[arg(long)]
    upnp: bool,
}

impl Reach {
    pub(super) fn config(&self) -> Result<ReachConfig, CliError> {
        if self.relay && (self.relay_rate == 0 || self.relay_daily == 0) {
            let text = "--relay-rate and --relay-daily have to be above 0; without --relay nothing is relayed";
            return Err(CliError::usage(text.to_owned()));
        }
        let relay = self.relay.then(|| RelayLimits {
            bytes_per_s: self.relay_rate,
            daily_bytes: self.relay_daily,
            ..RelayLimits::default()
        });
        Ok(ReachConfig {
            announce: self.announce.clone(),
            bootstrap: self.bootstrap.clone(),
            relay,
            upnp: self.upnp,
            relayed_blob_bytes: Some(self.relayed_data),
            alone: Some(Duration::from_millis(self.alone)),
        })
    }
}

/// Shorter than this, a peer that restarts would be taken for an outage.
const ALONE_MIN_MS: u64 = 1_000;

/// A size, or `0` for none.
fn parse_relayed(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { parse_size(text) }
}

fn parse_alone(text: &str) -> Result<u64, String> {
    let time = parse_duration(text)?;
    if time < ALONE_MIN_MS {
        return Err("it is at least `1s`: a peer that restarts is no outage".to_owned());
    }
    Ok(time)
}

fn parse_address(text: &str) -> Result<String, &'static str> {
    let what = "it is a multiaddr, like /ip4/198.51.100.7/tcp/4610 or /dns4/node.example.org/udp/4610/quic-v1";
    AddressKind::of(text).map(|_| text.to_owned()).ok_or(what)
}

fn parse_peer(text: &str) -> Result<(NodeId, String), String> {
    let address = parse_address(text)?;
    let id = address.rsplit_once("/p2p/").and_then(|(_, id)| id.parse().ok());
    id.map(|id| (id, address)).ok_or_else(|| {
        "it ends with the peer's id, as `opencloud status` shows it: /ip4/…/p2p/ID".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_at_all_may_be_relayed() {
        assert_eq!((parse_relayed("0"), parse_relayed("16MiB")), (Ok(0), Ok(16 << 20)));
        assert!(parse_relayed("0 x").is_err());
    }

    #[test]
    fn a_peer_is_an_address_with_an_id() {
        let id = NodeId::from_bytes(
            *ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key().as_bytes(),
        );
        let text = format!("/ip4/198.51.100.7/tcp/4610/p2p/{id}");
        assert_eq!(parse_peer(&text).unwrap(), (id, text));
        for bad in ["", "198.51.100.7:1", "/ip4/198.51.100.7/tcp/4610", "/ip4/1.2.3/tcp/1"] {
            assert!(parse_peer(bad).is_err(), "{bad}");
        }
        assert!(parse_address("/dns4/node.example.org/tcp/4610").is_ok());
    }
}
