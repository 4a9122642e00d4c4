//! What `opencloud up` lets peers have of this machine besides work: options of their own.

use std::collections::BTreeMap;

use catalog::record::Insiders;
use clap::Args;

use super::error::CliError;
use super::units::parse_size;
use crate::engine::ports::{Audience, KeepOffer, Offers, OpenPort, PORTS_MAX, is_port_name};
use crate::shell::ServeRate;

/// See the module's documentation.
#[derive(Debug, Args)]
pub(super) struct Give {
    /// Most bytes a second that peers may fetch of data here, like `10MiB`; each gets its share [default: as many as they can]
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    serve_rate: Option<u64>,
    /// The same for each peer
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    serve_rate_peer: Option<u64>,
    /// Give on public data, modules and images that were fetched here, so that peers get them also when their publisher is away; the bounds of --serve-rate hold for it [default: only what this node publishes]
    #[arg(long)]
    pub(super) share_public: bool,
    /// Open a port of 127.0.0.1 to peers by a name, for WHO: own, partners, realm, organisations as did:key:…, several apart by commas; may be repeated [without WHO: own]
    #[arg(long, value_name = "NAME=PORT[:WHO]", value_parser = parse_open)]
    open: Vec<(String, OpenPort)>,
    /// Keep copies of others' data, so many bytes in all, like `100GiB`; they count as stored data [default: none]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    keep: Option<u64>,
    /// Whose: own, partners, realm, organisations as did:key:…, several apart by commas
    #[arg(long, value_name = "WHO", requires = "keep", default_value = "own", value_parser = parse_audience)]
    keep_for: Audience,
    /// Speak for this node's realm to the gateways of other realms that are linked with it: `opencloud realm --help`
    #[arg(long)]
    gateway: bool,
}

impl Give {
    pub(super) fn serve_rate(&self) -> ServeRate {
        ServeRate { all: self.serve_rate, each: self.serve_rate_peer }
    }

    pub(super) fn offers(&self) -> Result<Offers, CliError> {
        let mut ports = BTreeMap::new();
        for (name, open) in &self.open {
            if ports.insert(name.clone(), open.clone()).is_some() {
                return Err(CliError::usage(format!("two ports are opened as `{name}`")));
            }
        }
        if ports.len() > PORTS_MAX {
            return Err(CliError::usage(format!("at most {PORTS_MAX} ports are opened")));
        }
        let (bytes, audience) = (self.keep.unwrap_or(0), self.keep_for.clone());
        Ok(Offers { ports, keep: KeepOffer { bytes, audience }, is_gateway: self.gateway })
    }
}

/// `NAME=PORT[:WHO,…]`.
fn parse_open(text: &str) -> Result<(String, OpenPort), String> {
    let form = || "it is written NAME=PORT or NAME=PORT:WHO, like db=5432:partners".to_owned();
    let (name, rest) = text.split_once('=').ok_or_else(form)?;
    if !is_port_name(name) {
        return Err(format!("`{name}` is no name of a port: small letters, digits and `-`"));
    }
    let (port, who) = rest.split_once(':').unwrap_or((rest, "own"));
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(form)?;
    Ok((name.to_owned(), OpenPort { port, audience: parse_audience(who)? }))
}

/// Words for how far organisations are trusted, and organisations.
fn parse_audience(text: &str) -> Result<Audience, String> {
    let mut audience = Audience::default();
    for word in text.split(',').map(str::trim) {
        if let Some(trusted) = Insiders::from_word(word) {
            audience.trusted = audience.trusted.max(Some(trusted));
        } else if let Ok(org) = word.parse() {
            audience.orgs.insert(org);
        } else {
            return Err(format!("`{word}` is none of own, partners, realm and did:key:…"));
        }
    }
    Ok(audience)
}

fn parse_rate(text: &str) -> Result<u64, String> {
    let rate = parse_size(text)?;
    if rate < fabric::blob::RATE_MIN {
        let least = super::units::bytes(fabric::blob::RATE_MIN);
        return Err(format!("at less than {least} a second fetches would be given up as stalled"));
    }
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_below_what_a_fetch_needs_are_refused() {
        assert_eq!(parse_rate("1MiB"), Ok(1 << 20));
        assert!(parse_rate("100KiB").unwrap_err().contains("512.0 KiB"));
    }

    #[test]
    fn a_port_is_opened_for_whom_its_owner_says() {
        let (name, open) = parse_open("db=5432").unwrap();
        assert_eq!((&*name, open.port), ("db", 5432));
        assert_eq!(open.audience.trusted, Some(Insiders::Own));
        let org = catalog::OrgId::from_bytes(
            ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes(),
        );
        let (_, open) = parse_open(&format!("db=1:own,{org},realm,partners")).unwrap();
        assert_eq!(open.audience.trusted, Some(Insiders::Realm));
        assert_eq!(open.audience.orgs.into_iter().collect::<Vec<_>>(), [org]);
        let (_, open) = parse_open(&format!("db=1:{org}")).unwrap();
        assert_eq!(open.audience.trusted, None);
        for bad in ["db", "db=", "db=0", "db=x", "DB=1", "=1", "db=1:", "db=1:all", "db=1:own,"] {
            assert!(parse_open(bad).is_err(), "{bad}");
        }
    }
}
