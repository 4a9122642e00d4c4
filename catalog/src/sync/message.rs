//! The messages of the sync protocol. They are not signed: everything in them that changes anything is.

use std::fmt;

use crate::id::{NodeId, RealmId};
use crate::log::Version;

/// Bytes that stand as a byte string in CBOR, where a plain list would take twice the room.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl serde::Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> serde::de::Visitor<'de> for V {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, v: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(v.to_vec()))
            }
            fn visit_byte_buf<E: serde::de::Error>(self, v: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(v))
            }
            // Formats without byte strings, such as JSON, write lists.
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> Result<Bytes, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                Ok(Bytes(bytes))
            }
        }
        d.deserialize_byte_buf(V)
    }
}

/// A node of the sender's trie: the fingerprints of its children.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TrieNode {
    /// The way to it: one nibble a byte.
    #[serde(rename = "p")]
    pub prefix: Bytes,
    /// Which of the 16 children are not empty, bit 0 for the first.
    #[serde(rename = "m")]
    pub mask: u16,
    /// The fingerprints of these, 16 bytes each.
    #[serde(rename = "c")]
    pub children: Bytes,
}

/// What the sender holds of an author.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Leaf {
    /// The author.
    #[serde(rename = "a")]
    pub author: NodeId,
    /// The head's version.
    #[serde(rename = "v")]
    pub version: Version,
    /// The head's lease.
    #[serde(rename = "l")]
    pub lease_until_ms: u64,
    /// The leaf in the sender's trie.
    #[serde(rename = "f")]
    pub fingerprint: Bytes,
    /// Whether the sender has every record of the head.
    #[serde(rename = "c")]
    pub is_complete: bool,
}

/// Everything that the sender holds below a node of the trie.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Group {
    /// The node: one nibble a byte.
    #[serde(rename = "p")]
    pub prefix: Bytes,
    /// The authors below it.
    #[serde(rename = "l")]
    pub leaves: Vec<Leaf>,
}

/// What the sender would like of an author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Want {
    /// The author.
    #[serde(rename = "a")]
    pub author: NodeId,
    /// Only what is newer.
    #[serde(rename = "s")]
    pub since: Version,
}

/// A page of an author's records.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Delta {
    /// The author's signed head.
    #[serde(rename = "h")]
    pub head: Bytes,
    /// What was asked for.
    #[serde(rename = "s")]
    pub since: Version,
    /// Signed public records by version, oldest first.
    #[serde(rename = "r")]
    pub records: Vec<Bytes>,
    /// Whether more follow.
    #[serde(rename = "m")]
    pub has_more: bool,
}

/// Two signed things that cannot both be honest.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Proof {
    /// One.
    pub first: Bytes,
    /// The other.
    pub second: Bytes,
}

/// A message of the sync protocol, see [`crate::sync`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum SyncMessage {
    /// Opens a round: the fingerprint of the sender's trie.
    Root {
        /// The realm.
        realm: RealmId,
        /// The fingerprint, 16 bytes.
        root: Bytes,
    },
    /// Answers [`Self::Root`].
    Compared {
        /// The answering node.
        author: NodeId,
        /// The sum of its restricted records that the asking organisation may see, 32 bytes.
        restricted: Bytes,
        /// The top of its trie; nothing when the roots are equal.
        nodes: Vec<TrieNode>,
    },
    /// Nodes in which the two tries differ.
    Nodes(Vec<TrieNode>),
    /// Authors below nodes in which the two tries differ.
    Leaves {
        /// By node.
        groups: Vec<Group>,
        /// Whether it answers such a message, so that nobody answers it again.
        is_answer: bool,
    },
    /// Asks for deltas.
    Want(Vec<Want>),
    /// Answers [`Self::Want`].
    Deltas {
        /// As many as fit.
        parts: Vec<Delta>,
        /// Authors asked for that did not fit: ask again.
        rest: Vec<NodeId>,
    },
    /// Asks for the listing of an author whose delta did not lead to its root.
    List(NodeId),
    /// Answers [`Self::List`].
    Listing {
        /// The author's signed head.
        head: Bytes,
        /// The hashes of its live public records, 32 bytes each, ascending.
        hashes: Bytes,
    },
    /// Asks for records by hash.
    Fetch {
        /// The author.
        author: NodeId,
        /// The hashes, 32 bytes each.
        hashes: Bytes,
    },
    /// Answers [`Self::Fetch`], with as many as fit.
    Records {
        /// The author's signed head.
        head: Bytes,
        /// Signed public records.
        records: Vec<Bytes>,
    },
    /// Asks the receiver for its own restricted records.
    WantRestricted,
    /// Answers [`Self::WantRestricted`]; also sent unasked when one changes.
    Restricted {
        /// The sender's signed head.
        head: Bytes,
        /// Its signed restricted records that the receiver may see, deletes among them.
        records: Vec<Bytes>,
    },
    /// Proofs against authors that the other side still believes.
    Proofs(Vec<Proof>),
}
