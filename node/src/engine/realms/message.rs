//! What gateways say to each other, and members to their gateways; the page is [`super`].

use catalog::{OrgId, RealmId};

use crate::engine::message::Bytes;

/// See [`super`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RealmsMessage {
    /// What a gateway says of its realm.
    Digest {
        /// The signed [`catalog::index::RealmDigest`].
        signed: Bytes,
        /// The gateway's [`catalog::papers::Papers`].
        papers: Bytes,
        /// Links that it has crossed.
        hops: u8,
    },
    /// What is there in a realm?
    Ask {
        /// Comes back with the answer.
        id: u64,
        /// Which realm.
        realm: RealmId,
        /// A filter's text.
        filter: String,
        /// Resources wanted at the most.
        limit: u64,
        /// Links that it has crossed.
        hops: u8,
    },
    /// This is there.
    Told(Told),
    /// What is there in all realms that you know?
    Everywhere {
        /// Comes back with the answers.
        id: u64,
        /// A filter's text.
        filter: String,
        /// Resources wanted of each realm at the most.
        limit: u64,
    },
    /// Every realm has been told of, but these.
    Asked {
        /// As it was asked.
        id: u64,
        /// Realms that did not answer.
        silent: Vec<RealmId>,
        /// Realms whose digest says that there is nothing.
        ruled_out: u64,
    },
    /// Which revocation lists of these organisations are newer than mine?
    AskLists {
        /// Organisations in the papers of gateways, with the number of the list that is held, 0 for none.
        held: Vec<(OrgId, u64)>,
    },
    /// These are.
    Lists {
        /// Signed lists.
        lists: Vec<Bytes>,
    },
    /// The realm lets your organisation speak for it.
    LetSpeak {
        /// The organisation's new membership.
        grants: Vec<Bytes>,
    },
}

/// What is there in a realm.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Told {
    /// As it was asked.
    pub id: u64,
    /// The realm.
    pub realm: RealmId,
    /// Gossip messages of that realm, as [`catalog::Catalog::told`] makes them.
    pub pushes: Vec<Bytes>,
    /// Whether that is all there is.
    pub is_all: bool,
    /// The digest of the gateway that tells, so that one knows whom to ask for an invitation.
    pub digest: Bytes,
    /// That gateway's papers.
    pub papers: Bytes,
}
