//! What nodes say to each other, as one enum in CBOR. Unsigned: the connection proves the sender, and whatever has to be
//! proved to others is a signed object inside.

use catalog::Fault;
use catalog::ask::AskMessage;
use catalog::sync::SyncMessage;
use scheduler::negotiate;

/// Longest encoded message.
pub const MESSAGE_LEN_MAX: usize = 1 << 20;
/// Deepest nesting accepted: workflow values nest, nothing else does.
const DEPTH_MAX: usize = 64;

/// A message between two admitted nodes.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeMessage {
    /// Catalogue synchronisation.
    Catalog(SyncMessage),
    /// Negotiation and work.
    Task(negotiate::Message),
    /// Entries of a channel.
    Ledger(LedgerMessage),
    /// One of the two was set back.
    Fence(FenceMessage),
    /// Papers of nodes of one organisation.
    Trust(TrustMessage),
    /// Copies of data.
    Copies(scheduler::copies::Message),
    /// Questions about the catalogue.
    Ask(AskMessage),
    /// Other realms.
    Realms(super::realms::RealmsMessage),
}

/// What nodes of one organisation say to each other; the page is [`super::trust`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustMessage {
    /// My certificate ends soon: make me a new one.
    Renew,
    /// Here it is.
    Renewed {
        /// The certificate.
        cert: Bytes,
    },
}

/// What nodes say to each other when the store of one was put back from a backup; the page is
/// [`accounting::channel::fence`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FenceMessage {
    /// My store was set back: which channels do we share?
    SetBack {
        /// Names the restore.
        token: [u8; 16],
    },
    /// I hold entries of yours in these.
    Shared {
        /// As it was asked.
        token: [u8; 16],
        /// The channels.
        channels: Vec<catalog::Digest>,
    },
    /// Fence my log, and send what I lack.
    Request {
        /// The channel.
        channel: catalog::Digest,
        /// Names the restore in this channel.
        token: [u8; 16],
        /// Entries I hold of my log.
        own: u64,
        /// Entries I hold of yours.
        peer: u64,
    },
    /// The fence, and the next of what you lack.
    Answer {
        /// The channel.
        channel: catalog::Digest,
        /// My entry that fences your log.
        fence: Bytes,
        /// Quotes that agreements among the entries name.
        quotes: Vec<Bytes>,
        /// Entries of your log.
        own: Vec<Bytes>,
        /// Entries of mine.
        peer: Vec<Bytes>,
    },
    /// My store was set back too: neither of us knows where the logs end.
    Unable {
        /// The channel.
        channel: catalog::Digest,
    },
}

/// New entries of the sender's log of one channel, and how much of the receiver's log the sender holds.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LedgerMessage {
    /// The channel.
    pub channel: catalog::Digest,
    /// The newest sequence number of the receiver's log that the sender durably holds; 0 for none.
    pub have: u64,
    /// Quotes that agreements among the entries name, exact bytes.
    pub quotes: Vec<Bytes>,
    /// Entries in order, exact bytes.
    pub entries: Vec<Bytes>,
}

/// Bytes that serialise as a CBOR byte string.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
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
        impl serde::de::Visitor<'_> for V {
            type Value = Bytes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: serde::de::Error>(self, v: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(v.to_vec()))
            }
            fn visit_byte_buf<E: serde::de::Error>(self, v: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(v))
            }
        }
        d.deserialize_byte_buf(V)
    }
}

/// The bytes are no message of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Longer than any.
    #[error("a message of {len} bytes, at most {MESSAGE_LEN_MAX} are allowed")]
    TooLong {
        /// How many bytes came.
        len: usize,
    },
    /// No CBOR, cut, or nested too deep.
    #[error("not a message, nor anything like one ({len} bytes)")]
    Broken {
        /// How many bytes came.
        len: usize,
    },
    /// Well formed, and of no kind that is known here.
    #[error("not a message of this version ({len} bytes): the peer may run a newer one")]
    Unknown {
        /// How many bytes came.
        len: usize,
    },
}

impl MessageError {
    /// What kind of fault it is to send this.
    #[must_use]
    pub const fn fault(self) -> Fault {
        match self {
            Self::TooLong { .. } => Fault::TooMuch,
            Self::Broken { .. } => Fault::Broken,
            Self::Unknown { .. } => Fault::Unknown,
        }
    }
}

impl NodeMessage {
    /// The bytes for the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// From the wire.
    ///
    /// # Errors
    /// When the bytes are too many, nested too deep or no message.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let len = bytes.len();
        if len > MESSAGE_LEN_MAX {
            return Err(MessageError::TooLong { len });
        }
        let read = ciborium::de::from_reader_with_recursion_limit(bytes, DEPTH_MAX);
        read.map_err(|error| match error {
            ciborium::de::Error::Semantic(..) if is_well_formed(bytes) => {
                MessageError::Unknown { len }
            }
            _ => MessageError::Broken { len },
        })
    }
}

/// Whether it is CBOR at all, as far as it goes. Nothing of it is kept.
fn is_well_formed(bytes: &[u8]) -> bool {
    let read = ciborium::de::from_reader_with_recursion_limit(bytes, DEPTH_MAX);
    read.is_ok_and(|serde::de::IgnoredAny| true)
}

/// CBOR of plain data, for messages and for what this node stores for itself.
pub(crate) fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    ciborium::into_writer(value, &mut bytes).expect("writing CBOR to memory cannot fail");
    bytes
}
