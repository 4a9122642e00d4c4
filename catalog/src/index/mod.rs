//! What realms tell each other: digests of what is public in them, so that a question goes to where an answer may be.
//!
//! A realm replicates its catalogue among its members and shows it to nobody else. Above it there is an index: some members,
//! its **gateways**, sign every ten minutes a [`RealmDigest`] of a few KiB and give it to gateways of other realms, which pass
//! it on (`node::engine::realms` has the messages). It says how many resources of each kind and class there are, in which
//! regions, in what magnitudes of price, where the gateway is reached, and, as a set that is looked into but not read, which
//! names are public.
//!
//! # Who is believed
//!
//! A digest travels with its gateway's papers. It counts when three agree: the node's own organisation, whose certificate
//! gives it the role [`crate::cert::GATEWAY_ROLE`]; the realm, whose founder the realm's id commits to, by a chain of grants
//! of which each after the first is one as [`crate::cert::Role::Gateway`]; and the node's key, which signs. So a stranger who
//! knows nothing of the realm but its id can check it.
//!
//! # What a liar can do
//!
//! - *Invent what its own realm has.* A gateway that the realm has let speak can claim counts and names. Whoever asks finds
//!   nothing: answers are records signed by their authors. The realm takes the gateway's grant or certificate back.
//! - *Speak for another realm.* Its papers do not lead from that realm's founder to it: refused, and its sender with it.
//! - *Replay an old digest.* A gateway's number only grows; an old one ends after [`DIGEST_LIFE_MS`].
//! - *Invent realms.* Founding one costs nothing, so a reader bounds how many it holds from each neighbour.
//! - *Learn what is restricted.* It is not looked at: [`RealmDigest::build`] reads what every member sees.
//! - *Guess names.* Whoever holds a digest can test whether a name is probably public. It is public.

mod build;
mod names;

pub use build::Source;
pub use names::{NAME_BITS_MAX, NAME_BITS_MIN, Names};

use ed25519_dalek::SigningKey;

use crate::amount::Currency;
use crate::cbor::{self, CborError, ListItem};
use crate::cert::{CLOCK_SKEW_MS, MembershipError, NodeCert};
use crate::envelope::{self, EnvelopeError, Typ};
use crate::filter::Filter;
use crate::id::{IdError, NodeId, RealmId};
use crate::log::{AuthorError, check_author};
use crate::papers::Papers;
use crate::text::{TextError, check_line, check_name};
use crate::wire::wire_map;

/// Largest signed digest. One that would be larger is built with less: first the names go, see [`Names`].
pub const DIGEST_LEN_MAX: usize = 4096;
/// How long a digest counts: three are published in that time.
pub const DIGEST_LIFE_MS: u64 = 30 * 60 * 1000;
/// Kinds and classes counted; at the bound the rarest are left out.
pub const COUNTS_MAX: usize = 40;
/// Regions named; at the bound the last in the alphabet are left out, and the list says nothing about them.
pub const REGIONS_MAX: usize = 16;
/// Bands of prices; at the bound those of the last dimensions in the alphabet are left out.
pub const BANDS_MAX: usize = 16;
/// Addresses of the gateway; further ones are left out.
pub const DIGEST_ADDRESSES_MAX: usize = 4;
/// Longest class, region and dimension, in characters; what is longer is left out.
pub const WORD_LEN_MAX: usize = 32;
/// Longest address, in characters; what is longer is left out.
const ADDRESS_LEN_MAX: usize = 128;

/// How many resources there are of one kind or class.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Count {
    /// Which, as `kind:data`, `arch:aarch64`, `runtime:wasi`, `accelerator:fpga`.
    pub class: String,
    /// How many; at least one.
    pub count: u64,
}

wire_map!(Count, "a count", {
    1 must class,
    2 must count,
});
impl ListItem for Count {}

/// Within which magnitudes the prices of one dimension are: decimal digits of the nano-units that a thousand million units
/// cost, 0 for what is free. Coarse, so that nobody's prices can be read off.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Band {
    /// What is metered, such as `cpu_ms`.
    pub dimension: String,
    /// The currency.
    pub currency: Currency,
    /// Digits of the lowest price.
    pub low: u32,
    /// Digits of the highest.
    pub high: u32,
}

wire_map!(Band, "a band of prices", {
    1 must dimension,
    2 must currency,
    3 must low,
    4 must high,
});
impl ListItem for Band {}

/// What a gateway says of its realm; see the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealmDigest {
    /// The realm.
    pub realm: RealmId,
    /// The gateway, which signs.
    pub gateway: NodeId,
    /// Grows with every digest of this gateway.
    pub number: u64,
    /// When it was made, Unix milliseconds.
    pub made_ms: u64,
    /// Until when it counts, Unix milliseconds; at most [`DIGEST_LIFE_MS`] later.
    pub until_ms: u64,
    /// Nodes that publish something.
    pub authors: u64,
    /// Public resources.
    pub resources: u64,
    /// Of which kind and class, in ascending order.
    pub counts: Vec<Count>,
    /// Where, in ascending order.
    pub regions: Vec<String>,
    /// For how much, by dimension and currency in ascending order.
    pub bands: Vec<Band>,
    /// Where the gateway is reached.
    pub addresses: Vec<String>,
    /// Which names there are; absent when they do not fit, and then any may be there.
    pub names: Option<Names>,
}

wire_map!(RealmDigest, "a realm's digest", {
    1 must realm,
    2 must gateway,
    3 must number,
    4 must made_ms,
    5 must until_ms,
    6 must authors,
    7 must resources,
    8 must counts,
    9 must regions,
    10 must bands,
    11 must addresses,
    12 may names,
});

/// Why a digest is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// The envelope is not one, or not signed by the gateway it names.
    #[error("the digest is refused")]
    Envelope(#[from] EnvelopeError),
    /// The payload is no digest.
    #[error("the digest cannot be read")]
    Payload(#[from] CborError),
    /// The gateway's id is no usable key.
    #[error("the gateway of the digest has no usable key")]
    Key(#[from] IdError),
    /// A text in it is refused.
    #[error("a text in the digest is refused")]
    Text(#[from] TextError),
    /// A list is too long.
    #[error("{count} {field} in a digest, at most {max} are allowed")]
    Count {
        /// The list.
        field: &'static str,
        /// Items given.
        count: usize,
        /// Items allowed.
        max: usize,
    },
    /// A list is not in ascending order, or holds what says nothing.
    #[error("the {field} of the digest are not ascending")]
    Order {
        /// The list.
        field: &'static str,
    },
    /// It counts for no time or for too long.
    #[error("the digest counts for {life_ms} ms, it must be between 1 and {DIGEST_LIFE_MS}")]
    Window {
        /// For how long; 0 when it ends before it begins.
        life_ms: u64,
    },
    /// It is from the future, or over.
    #[error("the digest counts from {made_ms} to {until_ms} ms, and the clock says {now_ms}")]
    Time {
        /// When it was made.
        made_ms: u64,
        /// When it ends.
        until_ms: u64,
        /// The reader's clock.
        now_ms: u64,
    },
    /// Who signed it may not speak for the realm.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
}

impl DigestError {
    /// Whether a clock explains it, so that who passed it on is not to blame.
    #[must_use]
    pub const fn is_about_time(&self) -> bool {
        match self {
            Self::Time { .. } => true,
            Self::Gateway(error) => error.is_about_time(),
            _ => false,
        }
    }
}

/// Why a node does not speak for a realm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// It is no member.
    #[error(transparent)]
    Author(#[from] AuthorError),
    /// Its organisation does not let it.
    #[error("the certificate of {node} does not give it the role of a gateway")]
    Role {
        /// The node.
        node: NodeId,
    },
    /// The realm does not let its organisation.
    #[error("{realm} has not let the organisation of {node} speak for it")]
    Realm {
        /// The realm.
        realm: RealmId,
        /// The node.
        node: NodeId,
    },
    /// Its membership does not verify.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

impl GatewayError {
    /// Whether only the time is wrong.
    #[must_use]
    pub const fn is_about_time(&self) -> bool {
        match self {
            Self::Author(error) => error.is_about_time(),
            Self::Membership(error) => error.is_about_time(),
            Self::Role { .. } | Self::Realm { .. } => false,
        }
    }
}

/// Checks that the node of these papers may speak for `realm` to other realms at `now_ms`.
///
/// # Errors
/// See [`GatewayError`].
pub fn check_gateway(
    realm: RealmId,
    papers: &Papers,
    now_ms: u64,
) -> Result<NodeCert, GatewayError> {
    let Papers { author: node, cert, membership } = papers;
    let (cert, _) = check_author(*node, realm, cert, membership, now_ms)?;
    if !cert.is_gateway() {
        return Err(GatewayError::Role { node: *node });
    }
    if !membership.verify(realm, cert.org, now_ms)?.is_gateway {
        return Err(GatewayError::Realm { realm, node: *node });
    }
    Ok(cert)
}

impl RealmDigest {
    /// Signs with the gateway's node key.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        envelope::sign(key, Typ::RealmDigest, self.to_map().encode())
    }

    /// Reads a digest of a gateway with these papers, which must count at `now_ms`, give or take
    /// [`crate::cert::CLOCK_SKEW_MS`].
    ///
    /// # Errors
    /// See [`DigestError`].
    pub fn verify(
        bytes: &[u8],
        papers: &Papers,
        now_ms: u64,
    ) -> Result<(Self, NodeCert), DigestError> {
        let digest = Self::verify_at_any_time(bytes)?;
        let Self { made_ms, until_ms, gateway, .. } = digest;
        if made_ms > now_ms.saturating_add(CLOCK_SKEW_MS)
            || now_ms > until_ms.saturating_add(CLOCK_SKEW_MS)
        {
            return Err(DigestError::Time { made_ms, until_ms, now_ms });
        }
        if papers.author != gateway {
            let other = AuthorError::OtherNode { author: gateway, found: papers.author };
            return Err(GatewayError::Author(other).into());
        }
        let cert = check_gateway(digest.realm, papers, now_ms)?;
        Ok((digest, cert))
    }

    /// Reads a digest by signature and form only.
    ///
    /// # Errors
    /// See [`DigestError`]; never one about time or papers.
    pub fn verify_at_any_time(bytes: &[u8]) -> Result<Self, DigestError> {
        let unverified = envelope::open(bytes, Typ::RealmDigest, DIGEST_LEN_MAX)?;
        let digest = Self::from_map(&cbor::decode(unverified.payload(), DIGEST_LEN_MAX)?)?;
        digest.check()?;
        unverified.verify(&digest.gateway.verifying_key()?)?;
        Ok(digest)
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// See [`DigestError`]; never one about signature, time or papers.
    pub fn check(&self) -> Result<(), DigestError> {
        bound("counts", self.counts.len(), COUNTS_MAX)?;
        bound("regions", self.regions.len(), REGIONS_MAX)?;
        bound("bands", self.bands.len(), BANDS_MAX)?;
        bound("addresses", self.addresses.len(), DIGEST_ADDRESSES_MAX)?;
        self.counts.iter().try_for_each(|count| word("a class", &count.class))?;
        self.regions.iter().try_for_each(|region| word("a region", region))?;
        self.bands.iter().try_for_each(|band| word("a dimension", &band.dimension))?;
        self.addresses.iter().try_for_each(|a| check_line("an address", a, ADDRESS_LEN_MAX))?;
        let ordered = [
            ("counts", ascends(self.counts.iter().map(|count| &count.class))),
            ("counts", self.counts.iter().all(|count| count.count > 0)),
            ("regions", ascends(self.regions.iter())),
            ("bands", ascends(self.bands.iter().map(|b| (&b.dimension, b.currency.to_string())))),
            ("bands", self.bands.iter().all(|band| band.low <= band.high)),
        ];
        if let Some((field, _)) = ordered.into_iter().find(|(_, is_ordered)| !is_ordered) {
            return Err(DigestError::Order { field });
        }
        match self.until_ms.saturating_sub(self.made_ms) {
            1..=DIGEST_LIFE_MS => Ok(()),
            life_ms => Err(DigestError::Window { life_ms }),
        }
    }

    /// Whether a resource that the filter lets through may be in the realm. False when the digest rules it out; true says
    /// little.
    #[must_use]
    pub fn may_hold(&self, filter: &Filter) -> bool {
        let demands = filter.demands();
        let has_kind = |kind: &str| {
            let class = format!("kind:{kind}");
            self.counts.iter().any(|count| count.class == class)
        };
        let has_name = |name: &str| {
            self.names.as_ref().is_none_or(|names| names.may_contain(self.realm, name))
        };
        self.resources > 0
            && demands.kinds.iter().all(|kind| has_kind(kind))
            && demands.names.iter().all(|name| has_name(name))
    }
}

fn bound(field: &'static str, count: usize, max: usize) -> Result<(), DigestError> {
    if count > max { Err(DigestError::Count { field, count, max }) } else { Ok(()) }
}

fn word(field: &'static str, text: &str) -> Result<(), DigestError> {
    Ok(check_name(field, text, WORD_LEN_MAX)?)
}

fn ascends<T: PartialOrd>(items: impl Iterator<Item = T>) -> bool {
    items.is_sorted_by(|a, b| a < b)
}

#[cfg(test)]
mod tests;
