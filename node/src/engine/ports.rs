//! Ports of this machine that its owner opens to peers by name (`up --open`): who may connect to which.
//!
//! The owner's word is all the policy there is: a name, a port of loopback, and for whom. A peer is who the connection proves it
//! to be, and what it sends counts for nothing. To whom a port is not open, it is as if it were not there.

use std::collections::{BTreeMap, BTreeSet};

use catalog::record::Insiders;
use catalog::{NodeId, OrgId};
use scheduler::place::Trust;

use super::Engine;
use super::command::{CommandError, Response};
use super::sessions::is_open_to;
use crate::schema;

/// Most ports that are opened; more are refused at the start.
pub const PORTS_MAX: usize = 64;
/// Longest name of a port in bytes.
pub const PORT_NAME_LEN_MAX: usize = 32;

/// For whom something of this node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audience {
    /// Organisations by how far they are trusted.
    pub trusted: Option<Insiders>,
    /// Organisations by name of their own.
    pub orgs: BTreeSet<OrgId>,
}

impl Audience {
    /// Whether an organisation that is trusted so is among them. Who is blocked never is.
    pub(super) fn has(&self, org: OrgId, trust: Trust) -> bool {
        trust != Trust::Blocked && (self.orgs.contains(&org) || is_open_to(self.trusted, trust))
    }
}

/// A port of loopback that is open to peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenPort {
    /// Its number.
    pub port: u16,
    /// For whom.
    pub audience: Audience,
}

/// What the owner lets peers have of this machine besides work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// Ports by name.
    pub ports: BTreeMap<String, OpenPort>,
    /// Copies of their data.
    pub keep: KeepOffer,
    /// Whether this node speaks for its realm to others, when the realm lets it.
    pub is_gateway: bool,
}

/// How much of others' data this node keeps for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeepOffer {
    /// Bytes in all; nothing when 0.
    pub bytes: u64,
    /// For whom.
    pub audience: Audience,
}

/// A question about ports.
#[derive(Clone, Debug)]
pub enum Command {
    /// Those that are open; the answer is [`Answer::List`].
    List,
    /// Whether a peer may connect; the answer is [`Answer::Port`].
    Admit {
        /// Who, proved by the connection.
        peer: NodeId,
        /// The port's name.
        name: String,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To `List`, by name.
    List(Vec<PortView>),
    /// It may, to this port of loopback.
    Port(u16),
}

/// A port that is open to peers.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = OpenPort)]
pub struct PortView {
    /// What peers call it.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// To whom by trust: `own`, `partners` or `realm`.
    #[schema(required)]
    pub trusted: Option<String>,
    /// To whom by name.
    #[schema(value_type = Vec<schema::OrgId>)]
    pub orgs: Vec<OrgId>,
}

/// Why a peer may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// There is none of the name, or not for it; which of them it does not learn.
    #[error("the node opens no port `{name}` to you: its owner does, with `opencloud up --open`")]
    Closed {
        /// As asked, its beginning.
        name: String,
    },
}

/// Whether a text may be the name of a port: small letters, digits and `-`, with a letter first.
#[must_use]
pub fn is_port_name(text: &str) -> bool {
    text.len() <= PORT_NAME_LEN_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl Engine {
    pub(super) fn handle_port_command(&self, command: Command) -> Result<Response, CommandError> {
        let (peer, name) = match command {
            Command::List => return Ok(Response::Port(Answer::List(self.port_list()))),
            Command::Admit { peer, name } => (peer, name),
        };
        let org = self.admission.peer(peer).map(|peer| peer.cert.org);
        let open = self.settings.offers.ports.get(&name);
        match org.zip(open) {
            Some((org, open)) if open.audience.has(org, self.trust(org)) => {
                Ok(Response::Port(Answer::Port(open.port)))
            }
            _ => {
                let name = name.chars().take(PORT_NAME_LEN_MAX).collect();
                Err(PortError::Closed { name }.into())
            }
        }
    }

    fn port_list(&self) -> Vec<PortView> {
        let view = |(name, open): (&String, &OpenPort)| PortView {
            name: name.clone(),
            port: open.port,
            trusted: open.audience.trusted.map(|trusted| trusted.as_str().to_owned()),
            orgs: open.audience.orgs.iter().copied().collect(),
        };
        self.settings.offers.ports.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audience_is_whom_it_names_and_never_who_is_blocked() {
        let (own, other) = (OrgId::from_bytes([1; 32]), OrgId::from_bytes([2; 32]));
        let named = Audience { trusted: None, orgs: BTreeSet::from([other]) };
        assert!(named.has(other, Trust::Peer) && named.has(other, Trust::Partner));
        assert!(!named.has(own, Trust::Own) && !named.has(other, Trust::Blocked));
        let partners = Audience { trusted: Some(Insiders::Partners), orgs: BTreeSet::new() };
        for (trust, may) in [
            (Trust::Own, true),
            (Trust::Partner, true),
            (Trust::Peer, false),
            (Trust::Blocked, false),
        ] {
            assert_eq!(partners.has(other, trust), may, "{trust:?}");
            assert!(!Audience::default().has(other, trust));
        }
    }

    #[test]
    fn names_of_ports_are_short_and_plain() {
        for good in ["db", "web-2", "a"] {
            assert!(is_port_name(good), "{good}");
        }
        let long = "a".repeat(PORT_NAME_LEN_MAX + 1);
        for bad in ["", "2b", "Db", "a b", "a=1", "-a", long.as_str()] {
            assert!(!is_port_name(bad), "{bad}");
        }
    }
}
