//! Entries of a channel's logs: the common header, the exact signed bytes, and the proof of having signed twice.
//!
//! An entry is a `COSE_Sign1` of `typ` `oc-entry` by its writer's node key over the map `{1: type, 2: channel, 3:
//! writer (0 provider, 1 consumer), 4: incarnation, 5: seq, 6: prev, 7: peer_seq, 8: peer_head, 9: wall_ms, 10: body}`. Its
//! hash is the SHA-256 of the envelope's bytes. `prev` is the hash of the writer's previous entry and `peer_head` that of entry
//! `peer_seq` of the other log, the newest one the writer durably holds; zeros where there is none.
//!
//! The channel's id is the SHA-256 of the payload of the provider's Open with key 2 left out (the map of the nine other keys
//! in its deterministic encoding). Both Opens have the same body; the consumer's carries the id without defining it.

use catalog::cbor::{self, CborError, MapReader, MapWriter};
use catalog::envelope::{self, EnvelopeError, Typ, Unverified};
use catalog::{Fault, NodeId};
use ed25519_dalek::{SigningKey, VerifyingKey};

use crate::body::Body;

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// Longest entry in bytes; anything longer is refused before it is decoded. Only an Open comes near it.
pub const ENTRY_LEN_MAX: usize = 16 * 1024;

/// One of the two parties of a channel, and the log it writes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Serves, and claims.
    Provider = 0,
    /// Is served, and acknowledges.
    Consumer = 1,
}

impl Side {
    /// Both sides.
    pub const BOTH: [Self; 2] = [Self::Provider, Self::Consumer];

    /// The other side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Provider => Self::Consumer,
            Self::Consumer => Self::Provider,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u64 {
        self as u64
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Provider => "provider",
            Self::Consumer => "consumer",
        })
    }
}

/// An entry, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The channel's id.
    pub channel: Hash,
    /// Whose log it belongs to.
    pub writer: Side,
    /// Raised when a log goes on from its peer's copy; 0 at first.
    pub incarnation: u32,
    /// Position in the log, from 1 without gaps.
    pub seq: u64,
    /// Hash of the writer's previous entry.
    pub prev: Hash,
    /// The newest entry of the other log that the writer durably holds; 0 for none.
    pub peer_seq: u64,
    /// Its hash.
    pub peer_head: Hash,
    /// The writer's clock, Unix milliseconds; advisory.
    pub wall_ms: u64,
    /// What it says.
    pub body: Body,
}

impl Entry {
    fn payload(&self, with_channel: bool) -> Vec<u8> {
        MapWriter::new()
            .put(1, &self.body.type_number())
            .put_opt(2, with_channel.then_some(&self.channel))
            .put(3, &self.writer.number())
            .put(4, &self.incarnation)
            .put(5, &self.seq)
            .put(6, &self.prev)
            .put(7, &self.peer_seq)
            .put(8, &self.peer_head)
            .put(9, &self.wall_ms)
            .put(10, &self.body.to_value())
            .encode()
    }

    /// The payload that is signed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.payload(true)
    }

    /// The id of the channel that this entry opens, when it is the provider's Open.
    #[must_use]
    pub fn channel_id(&self) -> Hash {
        envelope::hash(&self.payload(false))
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// [`CborError`].
    pub fn decode(payload: &[u8]) -> Result<Self, CborError> {
        let item = cbor::decode(payload, ENTRY_LEN_MAX)?;
        let mut map = MapReader::new(&item)?;
        let number = map.take(1)?;
        let channel = map.take(2)?;
        let writer = match map.take::<u64>(3)? {
            0 => Side::Provider,
            1 => Side::Consumer,
            _ => {
                return Err(CborError::Field { key: 3, expected: "0 or 1" });
            }
        };
        let entry = Self {
            channel,
            writer,
            incarnation: map.take(4)?,
            seq: map.take(5)?,
            prev: map.take(6)?,
            peer_seq: map.take(7)?,
            peer_head: map.take(8)?,
            wall_ms: map.take(9)?,
            body: Body::from_item(number, &map.item(10)?)?,
        };
        map.finish()?;
        if entry.seq == 0 {
            return Err(CborError::Field { key: 5, expected: "a sequence number from 1" });
        }
        Ok(entry)
    }

    /// Signs the entry. Only a channel does this, once per sequence number.
    pub(crate) fn sign(self, key: &SigningKey) -> SignedEntry {
        let bytes = envelope::sign(key, Typ::Entry, self.encode());
        SignedEntry { hash: envelope::hash(&bytes), bytes, entry: self }
    }
}

/// Why bytes are not an entry of a writer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormError {
    /// The envelope or its signature.
    #[error("entry: the envelope is not right")]
    Envelope(#[from] EnvelopeError),
    /// The payload.
    #[error("entry: the payload is not right")]
    Payload(#[from] CborError),
}

impl FormError {
    /// What kind of fault it is to send this.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Envelope(source) => source.fault(),
            Self::Payload(source) => source.fault(),
        }
    }
}

/// An entry with its exact bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedEntry {
    /// The envelope: store these before sending them, and send exactly these again.
    pub bytes: Vec<u8>,
    /// SHA-256 of `bytes`.
    pub hash: Hash,
    /// What it says.
    pub entry: Entry,
}

impl SignedEntry {
    /// Checks form and signature of an entry that `writer` made.
    ///
    /// # Errors
    /// See [`FormError`].
    pub fn open(bytes: &[u8], writer: &NodeId) -> Result<Self, FormError> {
        let opened = Opened::new(bytes)?;
        opened.verify(writer.verifying_key().ok().as_ref())?;
        Ok(opened.signed(bytes))
    }
}

/// An entry taken apart, not yet verified.
pub(crate) struct Opened<'a> {
    envelope: Unverified<'a>,
    pub(crate) entry: Entry,
    pub(crate) hash: Hash,
}

impl<'a> Opened<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, FormError> {
        let envelope = envelope::open(bytes, Typ::Entry, ENTRY_LEN_MAX)?;
        let entry = Entry::decode(envelope.payload())?;
        Ok(Self { envelope, entry, hash: envelope::hash(bytes) })
    }

    /// Checks the signature by `key`; `None` stands for an id that is no key, which signs nothing.
    pub(crate) fn verify(&self, key: Option<&VerifyingKey>) -> Result<(), FormError> {
        self.envelope.verify(key.ok_or(EnvelopeError::BadSignature)?)?;
        Ok(())
    }

    pub(crate) fn signed(self, bytes: &[u8]) -> SignedEntry {
        SignedEntry { bytes: bytes.to_vec(), hash: self.hash, entry: self.entry }
    }
}

/// Two different entries that one node signed for the same place of the same log: portable proof of lying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EquivocationProof {
    /// Who signed both.
    pub signer: NodeId,
    /// The envelope that was seen first.
    pub first: Vec<u8>,
    /// The other one.
    pub second: Vec<u8>,
}

/// Why a claimed proof of equivocation proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The proof's own encoding.
    #[error("equivocation proof: the encoding is not right")]
    Encoding(#[from] CborError),
    /// One of the entries is not the signer's.
    #[error("equivocation proof: an entry is not the signer's")]
    Entry(#[from] FormError),
    /// The entries stand at different places, or are the same.
    #[error(
        "equivocation proof: the entries do not claim the same place of the same log, or are the same"
    )]
    NoConflict,
    /// It is about another channel, or about someone who is no party of it.
    #[error("equivocation proof: it is not about this channel and its parties")]
    Foreign,
}

impl EquivocationProof {
    /// Checks the proof and returns the place (channel, writer, incarnation, sequence number) that was signed twice.
    ///
    /// # Errors
    /// See [`ProofError`].
    pub fn verify(&self) -> Result<(Hash, Side, u32, u64), ProofError> {
        let first = SignedEntry::open(&self.first, &self.signer)?;
        let second = SignedEntry::open(&self.second, &self.signer)?;
        let place = |e: &Entry| (e.channel, e.writer, e.incarnation, e.seq);
        if place(&first.entry) == place(&second.entry) && first.hash != second.hash {
            Ok(place(&first.entry))
        } else {
            Err(ProofError::NoConflict)
        }
    }

    /// The bytes to store: the map `{1: signer, 2: first, 3: second}`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        MapWriter::new().put(1, &self.signer).put(2, &self.first).put(3, &self.second).encode()
    }

    /// Reads stored bytes; does not verify them.
    ///
    /// # Errors
    /// [`ProofError::Encoding`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ProofError> {
        let value = cbor::decode(bytes, 3 * ENTRY_LEN_MAX)?;
        let mut map = MapReader::new(&value)?;
        let proof = Self { signer: map.take(1)?, first: map.take(2)?, second: map.take(3)? };
        map.finish()?;
        Ok(proof)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{Ack, Receipt};
    use crate::dimension::{Counters, DIMENSIONS};
    use catalog::Amount;

    fn entry(body: Body) -> Entry {
        Entry {
            channel: [1; 32],
            writer: Side::Provider,
            incarnation: 0,
            seq: 2,
            prev: [2; 32],
            peer_seq: 1,
            peer_head: [3; 32],
            wall_ms: 4,
            body,
        }
    }

    fn receipt(is_final: bool) -> Body {
        Body::Receipt(Receipt {
            lane: 1,
            lane_seq: 1,
            period_ms: 10,
            counters: Counters::from_array([7; DIMENSIONS]),
            amount: Amount::from_nano(5),
            is_final,
            reset: false,
            estimated: false,
        })
    }

    /// The payload with a body that holds another field at its end, or another one in place of `without` bytes there.
    fn with_field(body: Body, without: usize, field: &[u8]) -> Vec<u8> {
        let mut payload = entry(body).encode();
        let key_of_body =
            entry(Body::Ack(Ack { accepted_total: Amount::ZERO, exceptions: Vec::new() }))
                .encode()
                .len()
                - 3;
        payload.truncate(payload.len() - without);
        payload.extend_from_slice(field);
        payload[key_of_body] += u8::from(without == 0);
        payload
    }

    #[test]
    fn what_is_left_out_is_never_written() {
        let expected = |key| Err(CborError::Field { key, expected: "flags from 1 to 7" });
        assert_eq!(
            Entry::decode(&with_field(receipt(false), 0, &[7, 1])),
            Ok(entry(receipt(true)))
        );
        assert_eq!(Entry::decode(&with_field(receipt(false), 0, &[7, 0])), expected(7));
        assert_eq!(Entry::decode(&with_field(receipt(true), 2, &[7, 8])), expected(7));
        let empty = Body::Ack(Ack { accepted_total: Amount::ZERO, exceptions: Vec::new() });
        let no_exceptions = with_field(empty.clone(), 0, &[2, 0x80]);
        assert!(matches!(Entry::decode(&no_exceptions), Err(CborError::Field { key: 2, .. })));
        assert_eq!(
            Entry::decode(&with_field(empty, 0, &[3, 0])),
            Err(CborError::UnknownField { key: 3 })
        );
    }

    #[test]
    fn an_entry_takes_94_bytes_of_envelope_and_119_of_header_besides_what_it_says() {
        let key = SigningKey::from_bytes(&[9; 32]);
        let len = |body| entry(body).sign(&key).bytes.len();
        let ack = Ack { accepted_total: Amount::from_nano(5), exceptions: Vec::new() };
        assert_eq!(len(receipt(false)), 94 + 119 + 23);
        assert_eq!(len(Body::Ack(ack)), 94 + 119 + 3);
    }
}
