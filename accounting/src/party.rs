//! The parties of a channel: node certificates bind each side to its organisation.

use catalog::cert::{CertError, NodeCert};
use catalog::{NodeId, OrgId};

use crate::body::Open;
use crate::entry::Side;

/// Why a certificate inside an Open does not bind its side to an organisation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartyError {
    /// The certificate itself.
    #[error("the {side}'s certificate is not right")]
    Cert {
        /// Whose.
        side: Side,
        /// What is wrong with it.
        #[source]
        source: CertError,
    },
    /// It is for another node.
    #[error("the {side}'s certificate is for node {found}, not {expected}")]
    Node {
        /// Whose.
        side: Side,
        /// The node of that side.
        expected: NodeId,
        /// The node it names.
        found: NodeId,
    },
}

/// Checks both certificates; with `now_ms` also that they are valid then. Gives them provider first.
pub(crate) fn certs(open: &Open, now_ms: Option<u64>) -> Result<[NodeCert; 2], PartyError> {
    Ok([cert(open, Side::Provider, now_ms)?, cert(open, Side::Consumer, now_ms)?])
}

/// The organisations of both sides, provider first.
pub(crate) fn orgs(open: &Open, now_ms: Option<u64>) -> Result<[OrgId; 2], PartyError> {
    certs(open, now_ms).map(|certs| certs.map(|cert| cert.org))
}

fn cert(open: &Open, side: Side, now_ms: Option<u64>) -> Result<NodeCert, PartyError> {
    let bytes = open.cert(side);
    let cert = match now_ms {
        Some(now_ms) => NodeCert::verify(bytes, now_ms),
        None => NodeCert::verify_at_any_time(bytes),
    }
    .map_err(|source| PartyError::Cert { side, source })?;
    let expected = *open.node(side);
    if cert.node == expected {
        Ok(cert)
    } else {
        Err(PartyError::Node { side, expected, found: cert.node })
    }
}
