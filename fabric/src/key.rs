//! Who is at the other end: an Ed25519 public key.

use std::fmt;
use std::str::FromStr;

use libp2p::PeerId;

/// Multihash `identity` of 36 bytes, then the libp2p protobuf header of an Ed25519 public key.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// A peer: the Ed25519 public key that its connections are authenticated with. Prints as a libp2p
/// PeerId (`12D3KooW…`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey([u8; 32]);

/// The text is no PeerId of an Ed25519 key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no peer: it should look like `12D3KooW…`")]
pub struct PeerKeyError {
    /// The text as given, cut to 80 characters.
    pub text: String,
}

impl PeerKey {
    /// Wraps the raw public key. That it is a point of the curve is proven by the first handshake.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw public key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn to_wire(self) -> [u8; 38] {
        let mut out = [0; 38];
        out[..6].copy_from_slice(&PEER_ID_PREFIX);
        out[6..].copy_from_slice(&self.0);
        out
    }

    fn from_wire(bytes: &[u8]) -> Option<Self> {
        let key = bytes.strip_prefix(&PEER_ID_PREFIX)?;
        Some(Self(key.try_into().ok()?))
    }

    pub(crate) fn to_peer_id(self) -> PeerId {
        PeerId::from_bytes(&self.to_wire()).expect("an identity multihash of 36 bytes is a PeerId")
    }

    /// `None` when the peer's key is not Ed25519.
    pub(crate) fn from_peer_id(id: &PeerId) -> Option<Self> {
        Self::from_wire(&id.to_bytes())
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_wire()).into_string())
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for PeerKey {
    type Err = PeerKeyError;

    fn from_str(text: &str) -> Result<Self, PeerKeyError> {
        let err = || PeerKeyError { text: text.chars().take(80).collect() };
        // 38 bytes are 52 characters; longer text is never decoded.
        if text.len() > 60 {
            return Err(err());
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| err())?;
        Self::from_wire(&bytes).ok_or_else(err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_prints_as_the_peer_id_that_libp2p_prints() {
        let pair = libp2p::identity::Keypair::generate_ed25519();
        let id = pair.public().to_peer_id();
        let key = PeerKey::from_peer_id(&id).unwrap();
        assert_eq!(key.to_string(), id.to_string());
        assert_eq!(key.to_peer_id(), id);
        assert_eq!(key.to_string().parse::<PeerKey>().unwrap(), key);
    }

    #[test]
    fn text_that_is_no_ed25519_peer_is_refused() {
        for text in ["", "12D3KooW", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "é"] {
            assert!(text.parse::<PeerKey>().is_err(), "{text}");
        }
        assert!("1".repeat(10_000).parse::<PeerKey>().is_err());
    }
}
