//! Names of things: nodes, organisations, realms and content.
//!
//! An id is a newtype over its bytes. It prints in the form people meet elsewhere (libp2p PeerId, `did:key`) and parses
//! back from exactly that form. In CBOR it is a byte string, in JSON its printed form.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::VerifyingKey;

/// Why a text is not the id it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The text does not start as this kind of id does.
    #[error("`{text}` is not {kind}: it should look like `{example}`")]
    Form {
        /// The text as given, cut to 80 characters.
        text: String,
        /// What was expected, with its article.
        kind: &'static str,
        /// The beginning of a right one.
        example: &'static str,
    },
    /// The bytes are no usable Ed25519 public key.
    #[error("`{text}` does not hold a usable Ed25519 public key")]
    Key {
        /// The text as given, cut to 80 characters.
        text: String,
    },
}

fn form(text: &str, kind: &'static str, example: &'static str) -> IdError {
    IdError::Form { text: text.chars().take(80).collect(), kind, example }
}

macro_rules! byte_id {
    ($(#[$meta:meta])* $name:ident, $len:expr) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Wraps the raw bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() { s.collect_str(self) } else { s.serialize_bytes(&self.0) }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct V;
                impl serde::de::Visitor<'_> for V {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "{} bytes or the printed form of {}", $len, stringify!($name))
                    }
                    fn visit_bytes<E: serde::de::Error>(self, v: &[u8]) -> Result<$name, E> {
                        v.try_into().map($name).map_err(|_| E::invalid_length(v.len(), &self))
                    }
                    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<$name, E> {
                        v.parse().map_err(E::custom)
                    }
                }
                if d.is_human_readable() { d.deserialize_str(V) } else { d.deserialize_bytes(V) }
            }
        }
    };
}

byte_id!(
    /// A node: the Ed25519 public key of one running daemon. Prints as a libp2p PeerId (`12D3KooW…`,
    /// <https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md>).
    NodeId, 32
);
byte_id!(
    /// An organisation: its Ed25519 root public key. Prints as a `did:key` (W3C CCG did:key v0.7, multicodec 0xed).
    OrgId, 32
);
byte_id!(
    /// The group of nodes that replicate one catalogue: the first 16 bytes of BLAKE3 over the founder's organisation key
    /// and a nonce (see [`crate::cert::realm_id`]). Prints as `realm:` and 32 hex digits.
    RealmId, 16
);
byte_id!(
    /// Content: the BLAKE3 hash of some bytes. Prints as `blake3:` and 64 hex digits.
    Digest, 32
);

/// Multihash identity prefix and libp2p protobuf header of an Ed25519 public key.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
/// Unsigned varint of multicodec `ed25519-pub` (0xed).
const DID_KEY_PREFIX: [u8; 2] = [0xed, 0x01];

impl NodeId {
    /// The key as a point, for verification.
    ///
    /// # Errors
    /// When the bytes are no point of the curve or a weak (small-order) one.
    pub fn verifying_key(&self) -> Result<VerifyingKey, IdError> {
        key_of(&self.0).ok_or_else(|| IdError::Key { text: self.to_string() })
    }

    /// The last 6 characters of the printed form: enough to tell nodes apart in a log line.
    #[must_use]
    pub fn short(&self) -> String {
        let text = self.to_string();
        text[text.len() - 6..].to_owned()
    }
}

impl OrgId {
    /// A short form to read out to each other: 16 hex digits of BLAKE3 over the key, in groups of four. Enough that nobody
    /// finds a key with the same one in passing; what is signed and compared by programs is the whole key.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let digits =
            to_hex(&blake3::derive_key("opencloud 2026-11 organisation fingerprint", &self.0)[..8]);
        format!("{} {} {} {}", &digits[..4], &digits[4..8], &digits[8..12], &digits[12..])
    }

    /// The key as a point, for verification.
    ///
    /// # Errors
    /// When the bytes are no point of the curve or a weak (small-order) one.
    pub fn verifying_key(&self) -> Result<VerifyingKey, IdError> {
        key_of(&self.0).ok_or_else(|| IdError::Key { text: self.to_string() })
    }
}

fn key_of(bytes: &[u8; 32]) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(bytes).ok().filter(|k| !k.is_weak())
}

impl From<VerifyingKey> for NodeId {
    fn from(key: VerifyingKey) -> Self {
        Self(key.to_bytes())
    }
}

impl From<VerifyingKey> for OrgId {
    fn from(key: VerifyingKey) -> Self {
        Self(key.to_bytes())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = PEER_ID_PREFIX.to_vec();
        bytes.extend_from_slice(&self.0);
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

impl FromStr for NodeId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || form(text, "a node id", "12D3KooW…");
        let bytes = decode_base58(text).ok_or_else(bad)?;
        let key = bytes.strip_prefix(&PEER_ID_PREFIX).ok_or_else(bad)?;
        key.try_into().map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for OrgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = DID_KEY_PREFIX.to_vec();
        bytes.extend_from_slice(&self.0);
        write!(f, "did:key:z{}", bs58::encode(bytes).into_string())
    }
}

impl FromStr for OrgId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || form(text, "an organisation id", "did:key:z6Mk…");
        let body = text.strip_prefix("did:key:z").ok_or_else(bad)?;
        let bytes = decode_base58(body).ok_or_else(bad)?;
        let key = bytes.strip_prefix(&DID_KEY_PREFIX).ok_or_else(bad)?;
        key.try_into().map(Self).map_err(|_| bad())
    }
}

/// Base58 of at most 80 characters, so that a long text costs nothing (base58 is quadratic).
fn decode_base58(text: &str) -> Option<Vec<u8>> {
    (text.len() <= 80).then(|| bs58::decode(text).into_vec().ok()).flatten()
}

impl RealmId {
    const PREFIX: &'static str = "realm:";
}

impl fmt::Display for RealmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, to_hex(&self.0))
    }
}

impl FromStr for RealmId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        text.strip_prefix(Self::PREFIX)
            .and_then(from_hex)
            .map(Self)
            .ok_or_else(|| form(text, "a realm id", "realm:0f3a…"))
    }
}

impl Digest {
    const PREFIX: &'static str = "blake3:";

    /// Hashes bytes held in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The 64 hex digits without the prefix, as file names use them.
    #[must_use]
    pub fn to_hex(&self) -> String {
        to_hex(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, to_hex(&self.0))
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        text.strip_prefix(Self::PREFIX)
            .and_then(from_hex)
            .map(Self)
            .ok_or_else(|| form(text, "a digest", "blake3:0f3a… (64 hex digits)"))
    }
}

/// Lower-case hex.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [b >> 4, b & 15])
        .map(|n| char::from(DIGITS[usize::from(n)]))
        .collect()
}

/// Lower-case hex of exactly `N` bytes; `None` for anything else.
#[must_use]
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let nibble = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn printed_ids_parse_back(bytes in any::<[u8; 32]>(), realm in any::<[u8; 16]>()) {
            prop_assert_eq!(NodeId(bytes).to_string().parse(), Ok(NodeId(bytes)));
            prop_assert_eq!(OrgId(bytes).to_string().parse(), Ok(OrgId(bytes)));
            prop_assert_eq!(Digest(bytes).to_string().parse(), Ok(Digest(bytes)));
            prop_assert_eq!(RealmId(realm).to_string().parse(), Ok(RealmId(realm)));
        }

        #[test]
        fn no_text_panics_a_parser(text in ".{0,100}") {
            let _ = (text.parse::<NodeId>(), text.parse::<OrgId>(), text.parse::<Digest>(), text.parse::<RealmId>());
        }
    }

    #[test]
    fn printed_forms_are_those_of_libp2p_and_did_key() {
        assert!(NodeId([7; 32]).to_string().starts_with("12D3KooW"));
        assert!(OrgId([7; 32]).to_string().starts_with("did:key:z6Mk"));
    }

    #[test]
    fn json_is_text_and_cbor_is_bytes() {
        let digest = Digest::of(b"x");
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{digest}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        let mut cbor = Vec::new();
        ciborium::into_writer(&digest, &mut cbor).unwrap();
        assert_eq!(cbor.len(), 34);
        assert_eq!(ciborium::from_reader::<Digest, _>(&cbor[..]).unwrap(), digest);
    }
}
