//! Why an order about areas is refused.

use catalog::Digest;
use catalog::area::AreaError;
use catalog::record::ShareKind;

use super::AREAS_MAX;
use crate::engine::workspaces::WorkspaceError;

/// Why an order about areas is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AreasError {
    /// This node knows no such area.
    #[error("this node knows no area {}; `opencloud area list` shows those it knows", id.to_hex())]
    Unknown {
        /// As asked.
        id: Digest,
    },
    /// It is not what a member may do now.
    #[error(transparent)]
    Area(#[from] AreaError),
    /// The workspace is not there.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// Name or purpose is refused.
    #[error("the area cannot be founded: {detail}")]
    Charter {
        /// Why.
        detail: String,
    },
    /// There are too many.
    #[error("this organisation is in {AREAS_MAX} areas, no more are possible: leave one first")]
    TooMany,
    /// It is in use.
    #[error("this organisation is in area {}: leave it first", id.to_hex())]
    Live {
        /// Which.
        id: Digest,
    },
    /// Of workspaces this node's own are shared.
    #[error("a workspace is shared as it is on this node: give its name alone, without a document")]
    OwnWorkspace,
    /// There is nothing to share.
    #[error("to share a {kind}, give its document")]
    NoDocument {
        /// What.
        kind: ShareKind,
    },
    /// The rule book of the area forbids it.
    #[error("the rule book of the area does not allow it: {detail}")]
    Rules {
        /// The rule, and what breaks it.
        detail: String,
    },
    /// It is not shared, or by several.
    #[error(
        "{count} members share a {kind} `{name}` in this area: one is wanted, name its organisation where there are several"
    )]
    NotShared {
        /// Of which kind.
        kind: ShareKind,
        /// As asked.
        name: String,
        /// How many.
        count: usize,
    },
}
