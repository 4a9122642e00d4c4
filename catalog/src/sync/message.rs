//! The messages of the sync protocol. They are not signed: everything in them that changes anything is.

use std::fmt;

use crate::id::{NodeId, RealmId};
use crate::log::Version;
use crate::record::Kinds;
use crate::trie::Fingerprint;

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

/// The first eight bytes of an author's id, a fingerprint or a hash, which name it well enough to ask for it. Two that
/// begin alike cost a repetition, and no more: all that changes anything is signed and named in full.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Short(pub [u8; 8]);

impl Short {
    /// Of an author.
    #[must_use]
    pub fn of(author: NodeId) -> Self {
        Self::first(author.as_bytes())
    }

    /// Of something that has at least eight bytes.
    pub(crate) fn first(bytes: &[u8]) -> Self {
        let mut short = [0; 8];
        short.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Self(short)
    }

    /// The first id that begins so.
    pub(crate) fn start(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.0);
        bytes
    }

    pub(crate) fn of_print(fingerprint: &Fingerprint) -> Self {
        Self::first(fingerprint)
    }
}

impl TryFrom<Bytes> for Short {
    type Error = &'static str;
    fn try_from(bytes: Bytes) -> Result<Self, Self::Error> {
        bytes.0.try_into().map(Self).map_err(|_| "eight bytes were expected")
    }
}

impl From<Short> for Bytes {
    fn from(short: Short) -> Self {
        Self(short.0.to_vec())
    }
}

/// A node of the sender's trie: the fingerprints of its children.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "(Bytes, u16, Bytes)", into = "(Bytes, u16, Bytes)")]
pub struct TrieNode {
    /// The way to it: one nibble a byte.
    pub prefix: Bytes,
    /// Which of the 16 children are not empty, bit 0 for the first.
    pub mask: u16,
    /// The beginnings of the fingerprints of these, 8 bytes each.
    pub children: Bytes,
}

impl From<(Bytes, u16, Bytes)> for TrieNode {
    fn from((prefix, mask, children): (Bytes, u16, Bytes)) -> Self {
        Self { prefix, mask, children }
    }
}

impl From<TrieNode> for (Bytes, u16, Bytes) {
    fn from(node: TrieNode) -> Self {
        (node.prefix, node.mask, node.children)
    }
}

/// What the sender holds of an author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "LeafWire", into = "LeafWire")]
pub struct Leaf {
    /// The author.
    pub author: Short,
    /// The head's version.
    pub version: Version,
    /// The head's lease in seconds: renewals are minutes apart.
    pub lease_until_s: u64,
    /// The leaf in the sender's trie.
    pub fingerprint: Short,
    /// Whether the sender has every record of the head.
    pub is_complete: bool,
}

type LeafWire = (Short, u32, u64, u64, Short, bool);

impl From<LeafWire> for Leaf {
    fn from((author, epoch, seq, lease_until_s, fingerprint, is_complete): LeafWire) -> Self {
        let version = Version { epoch, seq };
        Self { author, version, lease_until_s, fingerprint, is_complete }
    }
}

impl From<Leaf> for LeafWire {
    fn from(leaf: Leaf) -> Self {
        let Version { epoch, seq } = leaf.version;
        (leaf.author, epoch, seq, leaf.lease_until_s, leaf.fingerprint, leaf.is_complete)
    }
}

/// Everything that the sender holds below a node of the trie.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "(Bytes, Vec<Leaf>)", into = "(Bytes, Vec<Leaf>)")]
pub struct Group {
    /// The node: one nibble a byte.
    pub prefix: Bytes,
    /// The authors below it.
    pub leaves: Vec<Leaf>,
}

impl From<(Bytes, Vec<Leaf>)> for Group {
    fn from((prefix, leaves): (Bytes, Vec<Leaf>)) -> Self {
        Self { prefix, leaves }
    }
}

impl From<Group> for (Bytes, Vec<Leaf>) {
    fn from(group: Group) -> Self {
        (group.prefix, group.leaves)
    }
}

/// What the sender would like of an author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "WantWire", into = "WantWire")]
pub struct Want {
    /// The author.
    pub author: Short,
    /// Only what is newer.
    pub since: Version,
    /// The hash of the papers that the sender holds of the author; zeros for none.
    pub papers: Short,
}

impl Want {
    /// All that there is of an author, and its papers.
    pub(crate) const EVERYTHING: Self =
        Self { author: Short([0; 8]), since: Version::ZERO, papers: Short([0; 8]) };
}

type WantWire = (Short, u32, u64, Short);

impl From<WantWire> for Want {
    fn from((author, epoch, seq, papers): WantWire) -> Self {
        Self { author, since: Version { epoch, seq }, papers }
    }
}

impl From<Want> for WantWire {
    fn from(want: Want) -> Self {
        (want.author, want.since.epoch, want.since.seq, want.papers)
    }
}

/// A page of an author's records.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Delta {
    /// The author's signed head.
    #[serde(rename = "h")]
    pub head: Bytes,
    /// The papers that the head names, when the other side does not hold them.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub papers: Option<Bytes>,
    /// After which version the records begin.
    #[serde(rename = "s")]
    pub since: Version,
    /// Signed public records by version, oldest first.
    #[serde(rename = "r", default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<Bytes>,
    /// Whether more follow.
    #[serde(rename = "m", default, skip_serializing_if = "is_false")]
    pub has_more: bool,
    /// Keys whose newest record is of a kind that was not asked for; never beside a delta for a full node.
    #[serde(rename = "k", default, skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Two signed things that cannot both be honest.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Proof {
    /// One.
    pub first: Bytes,
    /// The other.
    pub second: Bytes,
}

/// A message of the sync protocol, see [`crate::sync`]. Their names are short, for they stand in each.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum SyncMessage {
    /// Opens a round: the fingerprint of the sender's trie.
    #[serde(rename = "R")]
    Root {
        /// The realm.
        #[serde(rename = "r")]
        realm: RealmId,
        /// The fingerprint.
        #[serde(rename = "f")]
        root: Short,
        /// The first two bytes of the fingerprints of its sixteen children: where they differ, the answer goes on below.
        #[serde(rename = "t")]
        top: Bytes,
    },
    /// Opens a round of a light node, see [`crate::sync::light`].
    #[serde(rename = "Q")]
    LightRoot {
        /// The realm.
        #[serde(rename = "r")]
        realm: RealmId,
        /// The fingerprint of its trie.
        #[serde(rename = "f")]
        root: Short,
        /// As in [`Self::Root`].
        #[serde(rename = "t")]
        top: Bytes,
    },
    /// Nodes of the trie of which a light node would know what is below: one nibble a byte.
    #[serde(rename = "O")]
    Open(Vec<Bytes>),
    /// Asks for deltas with records of these kinds alone.
    #[serde(rename = "K")]
    WantKinds {
        /// Of whom.
        #[serde(rename = "w")]
        wants: Vec<Want>,
        /// The kinds.
        #[serde(rename = "k")]
        kinds: Kinds,
    },
    /// Answers [`Self::Root`].
    #[serde(rename = "C")]
    Compared {
        /// The sum of the sender's restricted records that the asking organisation may see, 32 bytes; nothing when there
        /// are none.
        #[serde(rename = "x")]
        restricted: Bytes,
        /// Nodes of its trie where the two differ; nothing when the roots are equal.
        #[serde(rename = "n")]
        nodes: Vec<TrieNode>,
    },
    /// Nodes in which the two tries differ.
    #[serde(rename = "N")]
    Nodes(Vec<TrieNode>),
    /// Authors below nodes in which the two tries differ.
    #[serde(rename = "L")]
    Leaves {
        /// By node.
        #[serde(rename = "g")]
        groups: Vec<Group>,
        /// Whether it answers such a message, so that nobody answers it again.
        #[serde(rename = "a")]
        is_answer: bool,
    },
    /// Asks for deltas.
    #[serde(rename = "W")]
    Want(Vec<Want>),
    /// Answers [`Self::Want`], and [`Self::Leaves`] that are older.
    #[serde(rename = "D")]
    Deltas {
        /// As many as fit.
        #[serde(rename = "p")]
        parts: Vec<Delta>,
        /// Authors asked for that did not fit: ask again.
        #[serde(rename = "m", default, skip_serializing_if = "Vec::is_empty")]
        rest: Vec<Short>,
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
        /// The papers that it names.
        papers: Bytes,
        /// Its signed restricted records that the receiver may see, deletes among them.
        records: Vec<Bytes>,
    },
    /// Proofs against authors that the other side still believes.
    Proofs(Vec<Proof>),
}
