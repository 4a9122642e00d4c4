//! Why a node cannot join a realm.

use catalog::RealmId;

/// Why a node cannot join a realm.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The ticket's time is over.
    #[error("the ticket has expired: ask for a new one with `opencloud invite`")]
    Expired,
    /// The ticket is this node's own.
    #[error("the ticket was made by this node: use it on another one")]
    Own,
    /// Already there.
    #[error("this node is already a member of {realm}")]
    Member {
        /// The realm.
        realm: RealmId,
    },
    /// Others are in this node's realm, and a node keeps one catalogue.
    #[error(
        "this node is already in {realm} with other organisations; join with a node of a fresh home instead"
    )]
    OtherRealm {
        /// The realm it is in.
        realm: RealmId,
    },
    /// The other side's owner has not decided yet.
    #[error("the inviting node's owner decides: {detail}")]
    Pending {
        /// What it said.
        detail: String,
    },
    /// The other side said no.
    #[error("the inviting node refused: {detail} ({code})")]
    Refused {
        /// Why, for programs.
        code: String,
        /// Why, for people.
        detail: String,
    },
    /// What came back does not make this node a member.
    #[error("the inviting node's answer is not valid: {detail}")]
    BadReply {
        /// What is wrong.
        detail: String,
    },
    /// The inviting node's papers were taken back.
    #[error("the inviting node is not to be trusted: {detail}")]
    Revoked {
        /// By whom.
        detail: String,
    },
    /// Nobody answered.
    #[error("cannot reach the inviting node: {detail}")]
    Unreachable {
        /// What happened.
        detail: String,
    },
}
