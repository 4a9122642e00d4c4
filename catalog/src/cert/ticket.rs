//! Invitations: what `opencloud invite` prints and `opencloud join` reads.

use std::fmt;
use std::str::FromStr;

use super::NAME_LEN_MAX;
use crate::cbor::{self, CborError};
use crate::id::{NodeId, OrgId, RealmId};
use crate::text::{TextError, check_line, check_name};
use crate::wire::wire_map;

/// Most addresses in a ticket.
pub const TICKET_ADDRESSES_MAX: usize = 8;
/// Largest encoded ticket in bytes, before base58.
pub const TICKET_LEN_MAX: usize = 2048;
/// Longest address, in characters.
const ADDRESS_LEN_MAX: usize = 128;
const PREFIX: &str = "opencloud-ticket1:";
const LINK_PREFIX: &str = "opencloud-link1:";
/// Bytes of BLAKE3 after the payload, so that a lost character is noticed here and not as a wrong secret over there.
const CHECKSUM_LEN: usize = 4;

/// An invitation into a realm. It is a bearer secret: who holds it may join once, so it is not signed, and must be handed
/// over as carefully as a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The node that invites.
    pub node: NodeId,
    /// Its organisation.
    pub org: OrgId,
    /// The organisation's name for people.
    pub org_name: String,
    /// The realm to join.
    pub realm: RealmId,
    /// Where the node listens, as multiaddrs.
    pub addresses: Vec<String>,
    /// The one-time secret.
    pub secret: [u8; 16],
    /// End of validity, Unix milliseconds.
    pub expires_ms: u64,
}

wire_map!(Ticket, "a ticket", {
    1 must node,
    2 must org,
    3 must org_name,
    4 must realm,
    5 must addresses,
    6 must secret,
    7 must expires_ms,
});

/// Why a text is not a usable ticket. Whether it has expired is for the caller to ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// It does not start as tickets do.
    #[error("this is not a ticket: one starts with `{PREFIX}`")]
    NotATicket,
    /// It does not start as tickets that link realms do.
    #[error("this is not a ticket that links realms: one starts with `{LINK_PREFIX}`")]
    NotALink,
    /// It starts well, but characters are missing, added or changed.
    #[error("the ticket is damaged: copy it again, whole and on one line")]
    Damaged,
    /// It is whole, but holds something that this version does not understand.
    #[error("the ticket cannot be read: it may come from another version")]
    Payload(#[source] CborError),
    /// A text in it is refused.
    #[error("the ticket holds a text that is refused")]
    Text(#[from] TextError),
    /// No address, or more than a ticket may have.
    #[error("{count} addresses in the ticket, it must be between 1 and {TICKET_ADDRESSES_MAX}")]
    Addresses {
        /// Addresses given.
        count: usize,
    },
}

impl Ticket {
    /// Whether it has expired at `now_ms`.
    #[must_use]
    pub const fn is_expired(&self, now_ms: u64) -> bool {
        now_ms > self.expires_ms
    }

    /// Checks the bounds of its texts and list, as every reader will.
    ///
    /// # Errors
    /// [`TicketError::Text`] or [`TicketError::Addresses`].
    pub fn check(&self) -> Result<(), TicketError> {
        check_name("the organisation's name", &self.org_name, NAME_LEN_MAX)?;
        let count = self.addresses.len();
        if count == 0 || count > TICKET_ADDRESSES_MAX {
            return Err(TicketError::Addresses { count });
        }
        self.addresses.iter().try_for_each(|a| check_line("an address", a, ADDRESS_LEN_MAX))?;
        Ok(())
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("node", &self.node)
            .field("org", &self.org)
            .field("realm", &self.realm)
            .field("addresses", &self.addresses)
            .field("expires_ms", &self.expires_ms)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.body())
    }
}

impl FromStr for Ticket {
    type Err = TicketError;
    fn from_str(text: &str) -> Result<Self, TicketError> {
        Self::from_body(text.trim().strip_prefix(PREFIX).ok_or(TicketError::NotATicket)?)
    }
}

impl Ticket {
    fn body(&self) -> String {
        let mut bytes = self.to_map().encode();
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        bs58::encode(bytes).into_string()
    }

    fn from_body(body: &str) -> Result<Self, TicketError> {
        // Base58 spends under 1.4 characters a byte; the bound keeps its quadratic decoding cheap.
        if body.len() > TICKET_LEN_MAX * 7 / 5 {
            return Err(TicketError::Damaged);
        }
        let bytes = bs58::decode(body).into_vec().map_err(|_| TicketError::Damaged)?;
        let (payload, sum) =
            bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or(TicketError::Damaged)?;
        if checksum(payload) != *sum {
            return Err(TicketError::Damaged);
        }
        let value = cbor::decode(payload, TICKET_LEN_MAX).map_err(TicketError::Payload)?;
        let ticket = Self::from_map(&value).map_err(TicketError::Payload)?;
        ticket.check()?;
        Ok(ticket)
    }
}

/// An invitation to a gateway of another realm. It reads unlike one into a realm, so that neither is taken for the other: who
/// uses it becomes no member, and sees nothing but what realms tell each other ([`crate::index`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkTicket(pub Ticket);

impl fmt::Display for LinkTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{LINK_PREFIX}{}", self.0.body())
    }
}

impl FromStr for LinkTicket {
    type Err = TicketError;
    fn from_str(text: &str) -> Result<Self, TicketError> {
        let body = text.trim().strip_prefix(LINK_PREFIX).ok_or(TicketError::NotALink)?;
        Ticket::from_body(body).map(Self)
    }
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&blake3::hash(payload).as_bytes()[..CHECKSUM_LEN]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ticket() -> Ticket {
        Ticket {
            node: NodeId::from_bytes([1; 32]),
            org: OrgId::from_bytes([2; 32]),
            org_name: "Acme".to_owned(),
            realm: RealmId::from_bytes([3; 16]),
            addresses: vec!["/ip4/127.0.0.1/udp/4001/quic-v1".to_owned()],
            secret: [0xab; 16],
            expires_ms: 1000,
        }
    }

    #[test]
    fn a_ticket_reads_back_and_expires() {
        let text = ticket().to_string();
        assert!(text.starts_with("opencloud-ticket1:"));
        let read: Ticket = format!(" {text}\n").parse().unwrap();
        assert_eq!(read, ticket());
        assert!(!read.is_expired(1000) && read.is_expired(1001));
    }

    #[test]
    fn a_link_is_never_taken_for_an_invitation() {
        let (link, text) = (LinkTicket(ticket()), ticket().to_string());
        assert_eq!(link.to_string().parse(), Ok(link.clone()));
        assert_eq!(link.to_string().parse::<Ticket>(), Err(TicketError::NotATicket));
        assert_eq!(text.parse::<LinkTicket>(), Err(TicketError::NotALink));
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let text = format!("{:?}", ticket());
        assert!(!text.contains("secret") && !text.contains("171") && !text.contains("ab, "));
    }

    #[test]
    fn other_texts_and_damaged_tickets_are_told_apart() {
        let text = ticket().to_string();
        assert_eq!("hello".parse::<Ticket>(), Err(TicketError::NotATicket));
        for cut in 18..text.len() {
            assert_eq!(text[..cut].parse::<Ticket>(), Err(TicketError::Damaged), "{cut}");
        }
        assert_eq!(format!("{text}1").parse::<Ticket>(), Err(TicketError::Damaged));
        let huge = format!("{PREFIX}{}", "z".repeat(100_000));
        assert_eq!(huge.parse::<Ticket>(), Err(TicketError::Damaged));
        let bare = Ticket { addresses: vec![], ..ticket() };
        assert_eq!(bare.to_string().parse::<Ticket>(), Err(TicketError::Addresses { count: 0 }));
    }

    #[test]
    fn the_largest_ticket_fits() {
        let wide = Ticket {
            org_name: "\u{1f600}".repeat(NAME_LEN_MAX),
            addresses: vec!["a".repeat(ADDRESS_LEN_MAX); TICKET_ADDRESSES_MAX],
            expires_ms: u64::MAX,
            ..ticket()
        };
        assert_eq!(wide.to_string().parse(), Ok(wide));
    }

    proptest! {
        #[test]
        fn no_text_panics_the_parser(text in "(opencloud-ticket1:)?.{0,60}") {
            let _ = text.parse::<Ticket>();
        }
    }
}
